//! The stateful aggregate.
//!
//! Each input partition deals its rows of the batch to lanes by key group ([`intake`]): as states of fresh tables, one a
//! window ([`fresh`]), where keys repeat, else as they are. A lane merges them with what it remembers, makes the change
//! durable, and emits what the output mode asks for ([`merge`]). DISTINCT is an aggregate without functions.
//!
//! ```text
//! input p0 ──► judge, aggregate ─┐ by key group  ┌─► lane 0: merge, evict, delta ──► rows
//! input p1 ──► judge, aggregate ─┴───────────────┴─► lane 1: merge, evict, delta ──► rows
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::Result as PlanResult;
use datafusion::logical_expr::GroupsAccumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;

use super::event_time::EventKey;
use super::stateful::{LaneWork, StatefulOperator};
use crate::state::{DEFAULT_STORE, KeyedTables, NamedTables};

mod fresh;
mod intake;
mod merge;

pub(super) use intake::Arguments;

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

    /// Whether there is always exactly one group, rows or none.
    fn is_global(&self) -> bool {
        self.groups.is_empty() && self.grouping_sets.is_none()
    }

    /// Whether each row belongs to one group only, so that it can travel as it is.
    fn is_row_in_one_group(&self) -> bool {
        let tumbles = match self.event_key {
            Some(EventKey::Window(_, window)) => window.tumbles(),
            _ => true,
        };
        tumbles && self.grouping_sets.is_none()
    }

    /// How many state columns each function has.
    pub(super) fn widths(&self) -> PlanResult<Vec<usize>> {
        self.functions.iter().map(|f| Ok(f.state_fields()?.len())).collect()
    }

    pub(super) fn accumulators(&self) -> PlanResult<Accumulators> {
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
pub(super) struct Accumulators(Vec<Box<dyn GroupsAccumulator>>);

impl Accumulators {
    /// Adds rows of the functions' arguments; row i goes to `groups[i]` of `total`.
    pub(super) fn update(&mut self, arguments: &Arguments, groups: &[usize], total: usize) -> PlanResult<()> {
        for (accumulator, arguments) in self.0.iter_mut().zip(arguments.each(groups.len())) {
            let (columns, filter) = arguments?;
            accumulator.update_batch(&columns, groups, filter, total)?;
        }
        Ok(())
    }

    /// Merges rows of state columns; row i goes to `groups[i]` of `total`.
    pub(super) fn merge(
        &mut self,
        states: &[ArrayRef],
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

    pub(super) fn size(&self) -> usize {
        self.0.iter().map(|accumulator| accumulator.size()).sum()
    }

    pub(super) fn state(&mut self) -> PlanResult<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in &mut self.0 {
            columns.extend(accumulator.state(datafusion::logical_expr::EmitTo::All)?);
        }
        Ok(columns)
    }

    pub(super) fn evaluate(&mut self) -> PlanResult<Vec<ArrayRef>> {
        self.0.iter_mut().map(|a| a.evaluate(datafusion::logical_expr::EmitTo::All)).collect()
    }
}

/// Aggregates a stream, remembering between batches.
#[derive(Debug)]
pub struct StatefulAggregate(pub Arc<AggregateSpec>);

#[async_trait]
impl StatefulOperator for StatefulAggregate {
    fn id(&self) -> usize {
        self.0.operator
    }

    fn name(&self) -> &'static str {
        "StatefulAggregateExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let tables = KeyedTables::new(&self.0.key_fields(), &self.0.value_fields()?);
        let tables = match self.0.event_key {
            Some(EventKey::Window(_, window)) => tables.of_windows(window.size_us),
            _ => tables,
        };
        Ok(vec![NamedTables::new(DEFAULT_STORE, tables)])
    }

    fn details(&self) -> String {
        let groups: Vec<String> = self.0.groups.iter().map(ToString::to_string).collect();
        let functions: Vec<&str> = self.0.functions.iter().map(|a| a.name()).collect();
        format!(
            "groups=[{}], functions=[{}], event_key={:?}",
            groups.join(", "),
            functions.join(", "),
            self.0.event_key
        )
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, mut inputs, context, lane } = work;
        let (spec, input) = (Arc::clone(&self.0), inputs.swap_remove(0));
        let dealt = batch
            .share(spec.operator, 0, || intake::take_in(Arc::clone(&spec), input, Arc::clone(&batch), context))
            .await?;
        merge::run_lane(&spec, &batch, lane, dealt.take(lane)).await
    }
}

/// The grouping id of a set, as DataFusion numbers them: a bit a group expression, set where it is NULL.
fn grouping_id(set: &[bool]) -> u64 {
    set.iter().fold(0, |id, null| (id << 1) | u64::from(*null))
}

/// The field of the grouping id.
pub fn grouping_id_field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, false))
}
