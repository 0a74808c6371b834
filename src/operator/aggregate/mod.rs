//! The stateful aggregate.
//!
//! Each input partition aggregates its rows of the batch into fresh tables, one a window ([`partial`]). Their states
//! are dealt to lanes by key group; a lane merges them with what it remembers, makes the change durable, and emits
//! what the output mode asks for ([`merge`]). DISTINCT is an aggregate without functions.
//!
//! ```text
//! input p0 ──► fresh tables ─┐ states, by key group  ┌─► lane 0: merge, evict, delta ──► rows
//! input p1 ──► fresh tables ─┴───────────────────────┴─► lane 1: merge, evict, delta ──► rows
//! ```

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::{DataFusionError, Result as PlanResult, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::GroupsAccumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr, PlanProperties,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use futures::{StreamExt, TryStreamExt};
use tokio::task::JoinSet;

use super::batch_context::{BatchContext, node_id};
use super::event_time::EventKey;
use super::leaf::{plain_node, properties};
use crate::state::KeyedTables;

mod merge;
mod partial;

/// What an aggregate computes: shared by all its tasks.
#[derive(Debug, Clone)]
pub struct AggregateSpec {
    /// The operator's id.
    pub operator: usize,
    /// The group expressions, in the order of the output's first columns.
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    /// For ROLLUP, CUBE and GROUPING SETS: by set, which group expressions are NULL; and the grouping id's type.
    pub grouping_sets: Option<(Vec<Vec<bool>>, FieldRef)>,
    /// The functions.
    pub functions: Vec<Arc<AggregateFunctionExpr>>,
    /// Their FILTER clauses.
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Which group expression tells when a group expires.
    pub event_key: Option<EventKey>,
    /// Whether a watermark is defined on it: without one nothing is late and nothing expires.
    pub watermarked: bool,
    /// The output's schema.
    pub schema: SchemaRef,
}

impl AggregateSpec {
    /// Indexes of the group expressions that are key columns: all but a window the operator makes itself.
    fn key_indexes(&self) -> impl Iterator<Item = usize> + '_ {
        let made = match self.event_key {
            Some(EventKey::Window(index, _)) => Some(index),
            _ => None,
        };
        (0..self.groups.len()).filter(move |i| Some(*i) != made)
    }

    /// Returns the key columns of state: the group expressions, and the grouping id where there are grouping sets.
    pub fn key_fields(&self) -> Vec<FieldRef> {
        let id = self.grouping_sets.iter().map(|(_, field)| Arc::clone(field));
        self.key_indexes().map(|i| Arc::clone(&self.schema.fields()[i])).chain(id).collect()
    }

    /// Returns the value columns of state: what every function's `state()` gives.
    ///
    /// # Errors
    /// As DataFusion's `state_fields`.
    pub fn value_fields(&self) -> PlanResult<Vec<FieldRef>> {
        let mut fields = Vec::new();
        for function in &self.functions {
            fields.extend(function.state_fields()?);
        }
        Ok(fields)
    }

    /// Makes the empty tables of this operator's state.
    ///
    /// # Errors
    /// As [`AggregateSpec::value_fields`].
    pub fn tables(&self) -> PlanResult<KeyedTables> {
        Ok(KeyedTables::new(&self.key_fields(), &self.value_fields()?))
    }

    /// Whether there is always exactly one group, rows or none.
    fn is_global(&self) -> bool {
        self.groups.is_empty() && self.grouping_sets.is_none()
    }

    fn accumulators(&self) -> PlanResult<Accumulators> {
        self.functions.iter().map(accumulator).collect::<PlanResult<_>>().map(Accumulators)
    }
}

fn accumulator(function: &Arc<AggregateFunctionExpr>) -> PlanResult<Box<dyn GroupsAccumulator>> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// One accumulator a function, all over the same groups.
struct Accumulators(Vec<Box<dyn GroupsAccumulator>>);

impl Accumulators {
    /// Merges rows of state columns; row i goes to `groups[i]` of `total`.
    fn merge(
        &mut self,
        states: &[datafusion::arrow::array::ArrayRef],
        groups: &[usize],
        total: usize,
        widths: &[usize],
    ) -> PlanResult<()> {
        let mut at = 0;
        for (accumulator, width) in self.0.iter_mut().zip(widths) {
            accumulator.merge_batch(&states[at..at + width], groups, total)?;
            at += width;
        }
        Ok(())
    }

    fn state(&mut self) -> PlanResult<Vec<datafusion::arrow::array::ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in &mut self.0 {
            columns.extend(accumulator.state(datafusion::logical_expr::EmitTo::All)?);
        }
        Ok(columns)
    }

    fn evaluate(&mut self) -> PlanResult<Vec<datafusion::arrow::array::ArrayRef>> {
        self.0.iter_mut().map(|a| a.evaluate(datafusion::logical_expr::EmitTo::All)).collect()
    }
}

/// Aggregates a stream, remembering between batches.
#[derive(Debug)]
pub struct StatefulAggregateExec {
    spec: Arc<AggregateSpec>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl StatefulAggregateExec {
    /// Makes the operator with `partitions` output partitions; partition p serves the lanes l with l mod partitions = p.
    pub fn new(spec: Arc<AggregateSpec>, input: Arc<dyn ExecutionPlan>, partitions: usize) -> Self {
        let properties = properties(Arc::clone(&spec.schema), partitions);
        Self { spec, input, properties }
    }

    /// Returns what it computes.
    pub fn spec(&self) -> &AggregateSpec {
        &self.spec
    }

    fn over(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let partitions = self.properties.output_partitioning().partition_count();
        Ok(Arc::new(Self::new(Arc::clone(&self.spec), children.swap_remove(0), partitions)))
    }
}

impl DisplayAs for StatefulAggregateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.spec.groups.iter().map(ToString::to_string).collect();
        let functions: Vec<&str> = self.spec.functions.iter().map(|a| a.name()).collect();
        write!(
            f,
            "StatefulAggregateExec: operator={}, groups=[{}], functions=[{}], event_key={:?}",
            self.spec.operator,
            groups.join(", "),
            functions.join(", "),
            self.spec.event_key
        )
    }
}

impl ExecutionPlan for StatefulAggregateExec {
    plain_node!("StatefulAggregateExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let batch = BatchContext::of(&context)?;
        let (spec, input) = (Arc::clone(&self.spec), Arc::clone(&self.input));
        let partitions = self.properties.output_partitioning().partition_count();
        let id = node_id(self);
        let rows = async move {
            let operator = spec.operator;
            let dealt = batch
                .share(operator, || partial::aggregate_all(Arc::clone(&spec), input, Arc::clone(&batch), context))
                .await?;
            let mut rows: Vec<RecordBatch> = Vec::new();
            for lane in (partition..batch.state.lanes).step_by(partitions) {
                rows.extend(merge::run_lane(&spec, &batch, lane, dealt.take(lane)).await?);
            }
            batch.finished(id, partition);
            Ok::<_, DataFusionError>(futures::stream::iter(rows.into_iter().map(Ok)))
        };
        let rows = futures::stream::once(rows).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.boxed())))
    }
}

/// Runs every partition of `input` through `work`, in parallel where there are several, results in their order.
async fn each_partition<T, F>(
    input: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    work: impl Fn(SendableRecordBatchStream) -> F,
) -> PlanResult<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = PlanResult<T>> + Send + 'static,
{
    let partitions = input.output_partitioning().partition_count();
    if partitions == 1 {
        return Ok(vec![work(input.execute(0, context)?).await?]);
    }
    let mut tasks = JoinSet::new();
    for partition in 0..partitions {
        let future = work(input.execute(partition, Arc::clone(&context))?);
        tasks.spawn(async move { future.await.map(|result| (partition, result)) });
    }
    let mut results = Vec::with_capacity(partitions);
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.map_err(|e| internal_datafusion_err!("a task of the aggregate failed: {e}"))??);
    }
    results.sort_by_key(|(partition, _)| *partition);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The grouping id of a set, as DataFusion numbers them: a bit a group expression, set where it is NULL.
fn grouping_id(set: &[bool]) -> u64 {
    set.iter().fold(0, |id, null| (id << 1) | u64::from(*null))
}

/// The field of the grouping id.
pub fn grouping_id_field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, false))
}
