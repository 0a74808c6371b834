//! What every stateful operator has in common: inputs read to their end, rows dealt to lanes, state made durable while the
//! lane's rows are handed on.
//!
//! An operator says what it remembers ([`StatefulOperator::stores`]) and runs one lane of one batch
//! ([`StatefulOperator::run`]); [`StatefulExec`] is the plan node around it. Output partition p serves the lanes l with
//! l mod partitions = p, few at a time, and hands on their rows in order of the lanes.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as PlanResult, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

use super::batch_context::{BatchContext, node_id};
use super::leaf::{plain_node, properties};
use crate::error::{Result, caught};
use crate::state::{LaneState, NamedTables};

/// An operator that remembers between batches. It holds no state itself: that lies in the batch's context.
#[async_trait]
pub trait StatefulOperator: fmt::Debug + Send + Sync {
    /// Returns the operator's id in the query.
    fn id(&self) -> usize;

    /// Returns the name of its plan node.
    fn name(&self) -> &'static str;

    /// Returns what it gives.
    fn schema(&self) -> SchemaRef;

    /// Makes the empty tables of what it remembers in one lane.
    ///
    /// # Errors
    /// As DataFusion's typing of expressions.
    fn stores(&self) -> PlanResult<Vec<NamedTables>>;

    /// Returns what EXPLAIN shows beside name and id.
    fn details(&self) -> String;

    /// Returns whether it must see its input as one partition, in order of arrival.
    fn in_one_partition(&self) -> bool {
        false
    }

    /// Runs one lane of one batch. Its state is changed when the rows are returned, and on its way to the disk.
    ///
    /// # Errors
    /// Whatever reading the inputs, computing and committing meet.
    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>>;
}

/// One lane of one batch.
#[derive(Clone)]
pub struct LaneWork {
    /// The batch.
    pub batch: Arc<BatchContext>,
    /// The inputs, not yet read.
    pub inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// The task.
    pub context: Arc<TaskContext>,
    /// The lane to run.
    pub lane: usize,
}

/// Counts and times of one lane's work, for the report.
#[derive(Debug, Default)]
pub struct LaneCounts {
    /// Rows of state written.
    pub updated: usize,
    /// Rows of state removed.
    pub removed: usize,
    /// When the lane's first thing left that still waits, in microseconds of event time.
    pub oldest_us: Option<i64>,
    /// When work began, when rows were in state, when rows had left it: milliseconds of the batch's clock.
    pub at_ms: [i64; 3],
}

/// So many lanes of a partition are on their way where memory has no limit: while one waits for the disk, another computes.
const LANES_AT_ONCE: usize = 2;

/// How much is about to be put into state.
#[derive(Debug, Default, Clone, Copy)]
pub struct Weight {
    /// Rows.
    pub rows: usize,
    /// Bytes of their columns.
    pub bytes: usize,
}

impl Weight {
    /// Weighs columns of `rows` rows: what they are, not the buffers that they may be a part of.
    pub fn of<'a>(rows: usize, columns: impl Iterator<Item = &'a ArrayRef>) -> Self {
        let bytes = |column: &ArrayRef| {
            let whole = column.get_array_memory_size();
            column.to_data().get_slice_memory_size().map_or(whole, |part| part.min(whole))
        };
        Self { rows, bytes: columns.map(bytes).sum() }
    }
}

impl std::iter::Sum for Weight {
    fn sum<I: Iterator<Item = Self>>(weights: I) -> Self {
        weights.fold(Self::default(), |a, b| Self { rows: a.rows + b.rows, bytes: a.bytes + b.bytes })
    }
}

impl BatchContext {
    /// Opens a lane's state for changes, having reserved memory for what is about to be put; see [`LaneState::open`].
    ///
    /// # Errors
    /// As [`LaneState::open`].
    pub async fn open_lane(
        &self,
        operator: usize,
        lane: usize,
        coming: Weight,
    ) -> PlanResult<OwnedMutexGuard<LaneState>> {
        let mut state = Arc::clone(&self.state.stores[operator][lane]).lock_owned().await;
        state.open(self.state.store.as_ref(), coming.rows, coming.bytes).await?;
        Ok(state)
    }

    /// Begins to make a lane's state durable, to report what was done then. The lane's rows may be handed on meanwhile;
    /// [`BatchContext::settle`] waits. Where memory is limited the lane is to be free at once for leaving it, so there this
    /// waits itself.
    ///
    /// # Errors
    /// As [`LaneState::commit`], with operator and lane named.
    pub async fn commit_lane(
        self: &Arc<Self>,
        operator: usize,
        lane: usize,
        mut state: OwnedMutexGuard<LaneState>,
        counts: LaneCounts,
    ) -> PlanResult<()> {
        let limited = self.state.limited;
        let batch = Arc::clone(self);
        let name = move || format!("state of operator {operator} in lane {lane}");
        let work = async move {
            let committed = batch.write_lane(operator, lane, &mut state, counts).await;
            committed.map_err(|error| error.context(name()))
        };
        match limited {
            true => work.await?,
            false => self.pend(tokio::spawn(caught(name, work))),
        }
        Ok(())
    }

    async fn write_lane(&self, operator: usize, lane: usize, state: &mut LaneState, counts: LaneCounts) -> Result<()> {
        state.commit(&self.state.store, self.batch_id + 1, self.run).await?;
        let wake_ms = state.wake_ms();
        let mut report = self.report();
        let report = &mut report.operators[operator];
        let [started_ms, updated_ms, removed_ms] = counts.at_ms;
        report.rows_total += state.row_count() as u64;
        report.rows_updated += counts.updated as u64;
        report.rows_removed += counts.removed as u64;
        report.updates_ms += (updated_ms - started_ms).max(0) as u64;
        report.removals_ms += (removed_ms - updated_ms).max(0) as u64;
        report.commit_ms += (self.clock.now_ms() - removed_ms).max(0) as u64;
        report.oldest_us = report.oldest_us.into_iter().chain(counts.oldest_us).min();
        report.wake_ms = report.wake_ms.into_iter().chain(wake_ms).min();
        report.files.insert(lane, state.files());
        Ok(())
    }
}

/// The plan node of a stateful operator.
#[derive(Debug)]
pub struct StatefulExec {
    operator: Arc<dyn StatefulOperator>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl StatefulExec {
    /// Makes the node with `partitions` output partitions.
    pub fn new(operator: Arc<dyn StatefulOperator>, inputs: Vec<Arc<dyn ExecutionPlan>>, partitions: usize) -> Self {
        let partitions = if operator.in_one_partition() { 1 } else { partitions };
        let properties = properties(operator.schema(), partitions);
        Self { operator, inputs, properties }
    }

    /// Returns the operator.
    pub fn operator(&self) -> &dyn StatefulOperator {
        self.operator.as_ref()
    }

    fn over(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let partitions = self.properties.output_partitioning().partition_count();
        Ok(Arc::new(Self::new(Arc::clone(&self.operator), children, partitions)))
    }
}

impl DisplayAs for StatefulExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: operator={}, {}", self.operator.name(), self.operator.id(), self.operator.details())
    }
}

impl ExecutionPlan for StatefulExec {
    plain_node!("StatefulExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    #[allow(deprecated)]
    fn required_input_distribution(&self) -> Vec<Distribution> {
        let distribution = match self.operator.in_one_partition() {
            true => Distribution::SinglePartition,
            false => Distribution::UnspecifiedDistribution,
        };
        vec![distribution; self.inputs.len()]
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let batch = BatchContext::of(&context)?;
        let partitions = self.properties.output_partitioning().partition_count();
        let (id, limited) = (node_id(self), batch.state.limited);
        let inputs = self.inputs.clone();
        let lanes = (partition..batch.state.lanes).step_by(partitions).map({
            let batch = Arc::clone(&batch);
            move |lane| LaneWork {
                batch: Arc::clone(&batch),
                inputs: inputs.clone(),
                context: Arc::clone(&context),
                lane,
            }
        });
        let operator = Arc::clone(&self.operator);
        let rows = futures::stream::iter(lanes).map(move |work| {
            let operator = Arc::clone(&operator);
            async move {
                let rows = match work.batch.begin(operator.id(), work.lane) {
                    true => operator.run(work).await?,
                    false => Vec::new(),
                };
                Ok::<_, DataFusionError>(futures::stream::iter(rows.into_iter().filter(|r| r.num_rows() > 0).map(Ok)))
            }
        });
        let rows = rows.buffered(if limited { 1 } else { LANES_AT_ONCE });
        let end = futures::stream::poll_fn(move |_| {
            batch.finished(id, partition);
            Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.try_flatten().chain(end).boxed())))
    }
}

/// Runs every partition of `input` through `work`, in parallel where there are several, results in their order.
///
/// # Errors
/// What reading or `work` meet first.
pub(super) async fn each_partition<T, F>(
    input: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    work: impl Fn(SendableRecordBatchStream) -> F,
) -> PlanResult<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = PlanResult<T>> + Send + 'static,
{
    let partitions = input.output_partitioning().partition_count();
    if partitions == 1 {
        return Ok(vec![work(input.execute(0, Arc::clone(context))?).await?]);
    }
    let mut tasks = JoinSet::new();
    for partition in 0..partitions {
        let future = work(input.execute(partition, Arc::clone(context))?);
        tasks.spawn(async move { future.await.map(|result| (partition, result)) });
    }
    let mut results = Vec::with_capacity(partitions);
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.map_err(|e| internal_datafusion_err!("a task of an operator failed: {e}"))??);
    }
    results.sort_by_key(|(partition, _)| *partition);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
