//! What one micro-batch tells its operators, and what they report back.
//!
//! The engine makes one for each batch and puts it into the `TaskContext`. Reports are plain numbers and file names,
//! so that a task could run in another process.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result as PlanResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::sink::OutputMode;
use crate::source::{MalformedRows, Source, Split};
use crate::state::{SharedLane, StateFile};
use crate::storage::DurableStore;

/// The two watermarks of one stateful operator in one batch, in microseconds since the epoch; `None`: none yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperatorWatermarks {
    /// What the batch before ran with: a row that expires at or below it is late.
    pub late_us: Option<i64>,
    /// What this batch runs with: what expires at or below it leaves the state.
    pub eviction_us: Option<i64>,
}

/// What one source gives to the batch.
#[derive(Debug, Clone)]
pub struct BatchInput {
    /// The source.
    pub source: Arc<dyn Source>,
    /// What to read, in order of arrival.
    pub splits: Vec<Split>,
    /// Rows of a shape that was not declared.
    pub malformed_rows: Arc<MalformedRows>,
}

/// The state of every operator, in lanes.
pub struct StateLanes {
    /// The number of lanes.
    pub lanes: usize,
    /// Whether state may have to leave memory.
    pub limited: bool,
    /// Where state files are durable: the checkpoint's `state` folder.
    pub store: Arc<dyn DurableStore>,
    /// operator, then lane
    pub stores: Vec<Vec<SharedLane>>,
    /// operator → whether the keys of the last batch repeated; unset before the first. It may choose the way to a result, and
    /// never the result.
    pub keys_repeat: Vec<Mutex<Option<bool>>>,
}

impl StateLanes {
    /// Returns about how many bytes of each operator's state are in memory.
    pub async fn memory_bytes(&self) -> Vec<u64> {
        let mut all = Vec::with_capacity(self.stores.len());
        for lanes in &self.stores {
            let mut bytes = 0;
            for lane in lanes {
                bytes += lane.lock().await.memory_bytes() as u64;
            }
            all.push(bytes);
        }
        all
    }

    /// Ends what goes on beside the batches, when no other will follow.
    ///
    /// # Errors
    /// `Unavailable` where a file that no commit names cannot be removed.
    pub async fn close(&self) -> Result<()> {
        for lane in self.stores.iter().flatten() {
            lane.lock().await.close(self.store.as_ref()).await?;
        }
        Ok(())
    }

    /// Returns when the first thing in state is due for which the query is to run even without data, in milliseconds of
    /// processing time.
    pub async fn wake_ms(&self) -> Option<i64> {
        let mut first: Option<i64> = None;
        for lane in self.stores.iter().flatten() {
            first = first.into_iter().chain(lane.lock().await.wake_ms()).min();
        }
        first
    }
}

/// What one operator did in one batch. Rows are counted exactly as Spark's progress names them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OperatorReport {
    /// Rows in state after the batch.
    pub rows_total: u64,
    /// Rows of state written.
    pub rows_updated: u64,
    /// Rows of state removed.
    pub rows_removed: u64,
    /// Input rows that no window took, being behind the watermark; counted before aggregation.
    pub rows_dropped_late: u64,
    /// Input rows without an event time.
    pub rows_without_event_time: u64,
    /// Time for putting rows into state, in milliseconds.
    pub updates_ms: u64,
    /// Time for taking rows out of state.
    pub removals_ms: u64,
    /// Time for making the state durable.
    pub commit_ms: u64,
    /// When the first thing in state leaves that ever does, in microseconds of event time.
    pub oldest_us: Option<i64>,
    /// When the operator wants to be run even without data, in milliseconds of processing time.
    pub wake_ms: Option<i64>,
    /// lane → the files that now make up its state
    pub files: BTreeMap<usize, Vec<StateFile>>,
}

/// The event times that one watermark node saw, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EventTimes {
    /// How many rows had one.
    pub count: u64,
    /// The least.
    pub min_ms: i64,
    /// The greatest.
    pub max_ms: i64,
    /// Their sum, for the mean.
    pub sum_ms: f64,
}

impl EventTimes {
    /// Adds what another task saw.
    pub fn merge(&mut self, other: &EventTimes) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        self.count += other.count;
        self.min_ms = self.min_ms.min(other.min_ms);
        self.max_ms = self.max_ms.max(other.max_ms);
        self.sum_ms += other.sum_ms;
    }
}

/// Everything the operators tell the engine about one batch.
#[derive(Debug, Clone, Default)]
pub struct BatchReport {
    /// By source: rows read.
    pub source_rows: Vec<u64>,
    /// By watermark node: the event times seen.
    pub event_times: Vec<EventTimes>,
    /// By watermark node: the greatest event time of each partition of the source, in milliseconds, where they have
    /// watermarks of their own.
    pub partition_times: Vec<BTreeMap<String, i64>>,
    /// By operator.
    pub operators: Vec<OperatorReport>,
}

/// Rows that an operator dropped as late, as they stood at its input.
#[derive(Debug, Clone)]
pub struct LateRows {
    /// The operator.
    pub operator: usize,
    /// The rows.
    pub rows: RecordBatch,
}

/// Keys repeat where they have so many rows each.
const ROWS_A_KEY: usize = 5;
/// Fewer rows show nothing.
const ROWS_THAT_SHOW: usize = 1_000;

type SharedWork = Shared<BoxFuture<'static, Result<Arc<dyn Any + Send + Sync>, Arc<DataFusionError>>>>;

/// One micro-batch, as its operators see it.
pub struct BatchContext {
    /// The batch's id.
    pub batch_id: i64,
    /// The run's number: state files carry it.
    pub run: u64,
    /// Which rows leave.
    pub mode: OutputMode,
    /// By source id.
    pub inputs: Vec<BatchInput>,
    /// By operator id.
    pub watermarks: Vec<OperatorWatermarks>,
    /// The state.
    pub state: Arc<StateLanes>,
    /// The time, for durations in progress reports.
    pub clock: Arc<dyn Clock>,
    /// Milliseconds since the epoch: the batch's time, which a batch that runs again keeps.
    pub timestamp_ms: i64,
    report: Mutex<BatchReport>,
    /// Rows dropped as late, where somebody wants them.
    late: Option<Mutex<Vec<LateRows>>>,
    shared: Mutex<BTreeMap<(usize, usize), SharedWork>>,
    /// (node, partition) of what was read to its end
    finished: Mutex<BTreeSet<(usize, usize)>>,
    /// (operator, lane) of what has begun to run
    begun: Mutex<BTreeSet<(usize, usize)>>,
    /// State on its way to the disk.
    pending: Mutex<Vec<JoinHandle<Result<()>>>>,
}

impl BatchContext {
    /// Makes the context of one batch of a plan with `watermark_nodes` watermarks.
    #[allow(clippy::too_many_arguments)] // each is a fact of the batch, given once, in one place
    pub fn new(
        batch_id: i64,
        run: u64,
        mode: OutputMode,
        inputs: Vec<BatchInput>,
        watermarks: Vec<OperatorWatermarks>,
        watermark_nodes: usize,
        state: Arc<StateLanes>,
        clock: Arc<dyn Clock>,
        timestamp_ms: i64,
        keeps_late_rows: bool,
    ) -> Self {
        let report = BatchReport {
            source_rows: vec![0; inputs.len()],
            event_times: vec![EventTimes::default(); watermark_nodes],
            partition_times: vec![BTreeMap::new(); watermark_nodes],
            operators: vec![OperatorReport::default(); watermarks.len()],
        };
        Self {
            batch_id,
            run,
            mode,
            inputs,
            watermarks,
            state,
            clock,
            timestamp_ms,
            report: Mutex::new(report),
            late: keeps_late_rows.then(Mutex::default),
            shared: Mutex::default(),
            finished: Mutex::default(),
            begun: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// Notes that a lane begins to run; returns false where it has before: who stops reading a partition may have it read
    /// again, to its end.
    pub fn begin(&self, operator: usize, lane: usize) -> bool {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert((operator, lane))
    }

    /// Notes that state is on its way to the disk.
    pub fn pend(&self, writing: JoinHandle<Result<()>>) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(writing);
    }

    /// Waits until all state that operators have changed is durable (not yet current).
    ///
    /// # Errors
    /// What writing met first.
    pub async fn settle(&self) -> Result<()> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let mut settled = Ok(());
        for writing in pending {
            let written =
                writing.await.unwrap_or_else(|e| Err(Error::internal(format!("writing state did not end: {e}"))));
            settled = settled.and(written);
        }
        settled
    }

    /// Keeps late rows of `operator` where somebody wants them.
    ///
    /// # Errors
    /// What making them meets.
    pub fn keep_late(&self, operator: usize, rows: impl FnOnce() -> PlanResult<RecordBatch>) -> PlanResult<()> {
        if let Some(late) = &self.late {
            let rows = rows()?;
            late.lock().unwrap_or_else(PoisonError::into_inner).push(LateRows { operator, rows });
        }
        Ok(())
    }

    /// Takes the late rows that were kept.
    pub fn take_late(&self) -> Vec<LateRows> {
        let late = self.late.iter();
        late.flat_map(|late| std::mem::take(&mut *late.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }

    /// Notes that partition `partition` of the node that [`node_id`] calls `id` was read to its end.
    pub fn finished(&self, id: usize, partition: usize) {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).insert((id, partition));
    }

    /// Returns the partitions of `node` that nobody read to their end.
    pub fn unread(&self, node: &Arc<dyn ExecutionPlan>) -> Vec<usize> {
        let id = Arc::as_ptr(node).cast::<()>() as usize;
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        let partitions = node.output_partitioning().partition_count();
        (0..partitions).filter(|p| !finished.contains(&(id, *p))).collect()
    }

    /// Returns the batch that `context` runs.
    ///
    /// # Errors
    /// `Unsupported` where there is none: somebody ran a streaming plan as if it were a batch.
    pub fn of(context: &TaskContext) -> PlanResult<Arc<BatchContext>> {
        context.session_config().get_extension::<BatchContext>().ok_or_else(|| {
            Error::unsupported(
                "a query over a stream never ends, so it cannot be collected: start it with write_stream().start(), \
                 CREATE FLOW or INSERT INTO",
            )
            .into()
        })
    }

    /// Returns whether the keys of the operator's last batch repeated.
    pub fn keys_repeated(&self, operator: usize) -> Option<bool> {
        *self.state.keys_repeat[operator].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes, for the next batch, how many keys some rows of this one had.
    pub fn note_repeats(&self, operator: usize, rows: usize, keys: usize) {
        if rows >= ROWS_THAT_SHOW {
            let mut repeat = self.state.keys_repeat[operator].lock().unwrap_or_else(PoisonError::into_inner);
            *repeat = Some(keys < rows / ROWS_A_KEY);
        }
    }

    /// Lets an operator add to the report.
    pub fn report(&self) -> MutexGuard<'_, BatchReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` once for input `input` of `operator`, whichever of its lanes asks first, and gives every lane its
    /// result.
    pub async fn share<T, F>(&self, operator: usize, input: usize, work: impl FnOnce() -> F) -> PlanResult<Arc<T>>
    where
        T: Any + Send + Sync,
        F: Future<Output = PlanResult<T>> + Send + 'static,
    {
        let running = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = shared.entry((operator, input)).or_insert_with(|| {
                let future = work();
                async move {
                    match future.await {
                        Ok(result) => Ok(Arc::new(result) as Arc<dyn Any + Send + Sync>),
                        Err(error) => Err(Arc::new(error)),
                    }
                }
                .boxed()
                .shared()
            });
            entry.clone()
        };
        let result = running.await.map_err(DataFusionError::Shared)?;
        result.downcast::<T>().map_err(|_| Error::internal("an operator shares work of two types").into())
    }
}

/// Returns what tells one node of one plan from another.
pub fn node_id<T>(node: &T) -> usize {
    std::ptr::from_ref(node).cast::<()>() as usize
}
