//! One run of one query: what is planned next, when, and until when.
//!
//! [`Execution::run`] is the loop over triggers; a trigger runs at most one micro-batch ([`super::micro_batch`]).
//! An `Execution` is made by recovery ([`super::recovery`]), which leaves it where the last run ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, select_all};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::late_rows::LateOutput;
use super::partition_watermarks::PartitionWatermarks;
use super::progress::Durations;
use super::purge::Leftovers;
use super::source_activity::SourceActivity;
use super::streaming_query::QueryShared;
use super::trigger::Trigger;
use super::watermark::{WatermarkPolicy, WatermarkTracker};
use crate::checkpoint::{Checkpoint, OffsetEntry, SourceOffsets};
use crate::clock::Clock;
use crate::error::{Result, caught};
use crate::operator::StateLanes;
use crate::plan::StreamPlan;
use crate::sink::Sink;
use crate::source::{Offset, ReadLimit, Source, Split};

/// How often sources that cannot tell of news are asked, at first and at most.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);

/// Settings of a query that are not of its plan.
#[derive(Debug, Clone)]
pub struct QuerySettings {
    /// Whether a batch without data runs when the watermark moved (`noDataMicroBatches`).
    pub no_data_batches: bool,
    /// How watermarks of several sources combine (`multipleWatermarkPolicy`). A checkpoint keeps its first.
    pub watermark_policy: WatermarkPolicy,
    /// How many decided batches the logs keep (`minBatchesToRetain`).
    pub min_batches_to_retain: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// One run of one query.
pub struct Execution {
    pub(super) shared: Arc<QueryShared>,
    pub(super) plan: StreamPlan,
    pub(super) settings: QuerySettings,
    pub(super) trigger: Trigger,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) sink: Arc<dyn Sink>,
    /// Where late rows go, where somebody wants them.
    pub(super) late: Option<LateOutput>,
    pub(super) state: Arc<StateLanes>,
    pub(super) tracker: WatermarkTracker,
    pub(super) partitions: PartitionWatermarks,
    pub(super) activity: SourceActivity,
    /// By source: where the last batch ended.
    pub(super) offsets: Vec<Option<Offset>>,
    pub(super) next_batch_id: i64,
    /// What the last batch ran with; `None` before the first.
    pub(super) last_watermark_ms: Option<i64>,
    /// A batch whose offsets are logged and which is not decided.
    pub(super) undecided: Option<OffsetEntry>,
    pub(super) last_trigger_ms: Option<i64>,
    /// When the first timer of processing time is due that state holds.
    pub(super) wake_ms: Option<i64>,
    /// Timers that are due later wake nobody: a query that ends by itself does not wait for what it has only just set.
    pub(super) wakes_until_ms: Option<i64>,
    /// What undecided batches of earlier runs left, until it is removed.
    pub(super) leftovers: Option<Leftovers>,
    /// The greatest number of lanes that a retained commit knows of: in no other lane is anything to be purged.
    pub(super) most_lanes: usize,
    /// A purge that goes on beside the batches.
    pub(super) purging: Option<JoinHandle<()>>,
}

/// What a batch reads: its log entry, and by source its splits.
pub(super) struct PlannedBatch {
    pub(super) entry: OffsetEntry,
    pub(super) splits: Vec<Vec<Split>>,
    /// Whether the entry is in the log already.
    pub(super) logged: bool,
}

impl Execution {
    /// Runs triggers until the query ends by itself, is stopped, or fails.
    ///
    /// # Errors
    /// Whatever ends the query; what was decided stays decided.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        if self.trigger == Trigger::AvailableNow {
            self.wakes_until_ms = Some(self.settings.clock.now_ms());
            for source in &self.sources {
                caught(|| source.description(), source.fix_end()).await?;
            }
        }
        let mut pause = POLL_MIN;
        while !*stop.borrow() {
            let triggered_ms = self.settings.clock.now_ms();
            let ran = self.trigger_once().await?;
            match self.trigger {
                Trigger::Once => return Ok(()),
                Trigger::AvailableNow if !ran => return Ok(()),
                Trigger::AvailableNow => {}
                Trigger::ProcessingTime(_) => {
                    let wait = self.trigger.wait(triggered_ms, self.settings.clock.now_ms());
                    let wait = if wait.is_zero() && !ran { POLL_MIN } else { wait };
                    idle(wait, &mut stop).await;
                }
                Trigger::Unspecified if ran => pause = POLL_MIN,
                Trigger::Unspecified => {
                    let news = self.news();
                    tokio::select! {
                        () = news => pause = POLL_MIN,
                        () = idle(pause, &mut stop) => pause = (pause * 2).min(POLL_MAX),
                    }
                }
            }
            // Let others of this runtime run, a batch with nothing to wait for included.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Closes sources and sinks, once nothing goes on beside the batches any more.
    pub async fn close(&mut self) {
        fail::fail_point!("stop.mid_graceful");
        self.end_purge().await;
        if let Err(error) = self.state.close().await {
            tracing::warn!(%error, "a state file that no commit names could not be removed");
        }
        for source in &self.sources {
            source.stop().await;
        }
        self.sink.stop().await;
        if let Some(late) = &self.late {
            late.stop().await;
        }
    }

    /// Resolves when a source tells of news.
    fn news(&self) -> impl Future<Output = ()> + use<> {
        let waits: Vec<_> = self
            .sources
            .iter()
            .map(|source| {
                let source = Arc::clone(source);
                async move { source.changed().await }.boxed()
            })
            .collect();
        async move {
            if waits.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(waits).await;
        }
    }

    /// Runs one trigger; returns whether there was a batch to run.
    async fn trigger_once(&mut self) -> Result<bool> {
        self.shared.trigger_begins();
        let mut durations = Durations::start(Arc::clone(&self.settings.clock));
        let planned = durations.time(Durations::LATEST_OFFSET, self.plan_next()).await?;
        let Some(batch) = planned else {
            self.shared.trigger_found_nothing();
            self.report_idle(durations);
            return Ok(false);
        };
        self.run_batch(batch, durations).await?;
        Ok(true)
    }

    /// Decides what the next batch reads, or that there is none.
    async fn plan_next(&mut self) -> Result<Option<PlannedBatch>> {
        fail::fail_point!("batch.before_plan");
        if let Some(entry) = self.undecided.take() {
            // A source that was idle when it was planned may have let go of a watermark that no commit knows of.
            self.tracker.reach(entry.watermark_ms);
            return Ok(Some(self.plan_again(entry).await?));
        }
        let limit = if self.trigger == Trigger::Once { ReadLimit::All } else { ReadLimit::Options };
        let mut splits = Vec::with_capacity(self.sources.len());
        let mut ranges = Vec::with_capacity(self.sources.len());
        for (id, source) in self.sources.iter().enumerate() {
            let start = self.offsets[id].clone();
            let planned = caught(|| source.description(), source.plan(start.as_ref(), limit)).await?;
            let name = self.plan.sources[id].name.clone();
            let end = planned.as_ref().map(|p| p.end.clone()).or_else(|| start.clone());
            ranges.push(SourceOffsets { name, start, end, identity: Some(source.identity()) });
            splits.push(planned.map(|p| p.splits));
        }
        let now_ms = self.settings.clock.now_ms();
        self.rest_silent_nodes(&splits, now_ms)?;
        let new_data = splits.iter().any(Option::is_some);
        if !new_data && !self.wants_no_data_batch() {
            return Ok(None);
        }
        let entry = OffsetEntry {
            batch_id: self.next_batch_id,
            run: self.checkpoint.run().number(),
            watermark_ms: self.tracker.global_ms(),
            late_watermark_ms: self.last_watermark_ms.unwrap_or(0),
            batch_timestamp_ms: now_ms,
            lanes: self.plan.lanes,
            conf: self.pinned(),
            sources: ranges,
        };
        let splits = splits.into_iter().map(Option::unwrap_or_default).collect();
        Ok(Some(PlannedBatch { entry, splits, logged: false }))
    }

    /// Lets go of watermark nodes whose sources have all been silent for their timeouts and give nothing to this batch
    /// either. So a silent source lets windows close, even if no source gives anything: the watermark has moved then,
    /// and a batch without data runs.
    ///
    /// Where the trigger ends by itself, no source is silent: what is there is read, however long that takes.
    fn rest_silent_nodes(&mut self, splits: &[Option<Vec<Split>>], now_ms: i64) -> Result<()> {
        if self.trigger.is_bounded() {
            return Ok(());
        }
        for (node, watermark) in self.plan.watermarks.iter().enumerate() {
            let idle = |source: &usize| splits[*source].is_none() && self.activity.is_idle(*source, now_ms);
            if !watermark.sources.is_empty() && watermark.sources.iter().all(idle) {
                self.tracker.set_idle(node, true);
            }
        }
        self.rest_silent_partitions(splits, now_ms)?;
        self.tracker.choose_again()
    }

    /// Lets go of partitions that have been silent for their source's timeout, where they have watermarks of their own.
    fn rest_silent_partitions(&mut self, splits: &[Option<Vec<Split>>], now_ms: i64) -> Result<()> {
        self.partitions.it_is(now_ms);
        for (node, watermark) in self.plan.watermarks.iter().enumerate().filter(|(_, w)| w.per_partition) {
            let (mut all, mut busy) = (Vec::new(), BTreeSet::new());
            for id in &watermark.sources {
                let (source, splits) = (&self.sources[*id], splits[*id].iter().flatten());
                busy.extend(splits.filter_map(|split| source.partition(split)));
                if let Some(end) = &self.offsets[*id] {
                    all.extend(source.partitions(end)?);
                }
            }
            if let Some((ms, _)) = self.partitions.reached(node, &all, &busy, now_ms, false) {
                self.tracker.raise(node, ms.saturating_sub(watermark.delay_us / 1000));
            }
        }
        Ok(())
    }

    /// A batch that died runs again over what its entry says.
    async fn plan_again(&self, entry: OffsetEntry) -> Result<PlannedBatch> {
        let mut splits = Vec::with_capacity(self.sources.len());
        for (source, range) in self.sources.iter().zip(&entry.sources) {
            splits.push(match &range.end {
                Some(end) if range.start != range.end => {
                    caught(|| source.description(), source.replay(range.start.as_ref(), end)).await?
                }
                _ => Vec::new(),
            });
        }
        Ok(PlannedBatch { entry, splits, logged: true })
    }

    /// A batch without data runs when the watermark has moved and an operator has use for it, judged by what the logs
    /// hold, so that a restart decides as an unbroken run would have (a watermark that an idle source has let go of is in
    /// no log before that batch is: a restart waits for the timeout anew); or when a timer of processing time is due.
    fn wants_no_data_batch(&self) -> bool {
        let now_ms = self.wakes_until_ms.unwrap_or_else(|| self.settings.clock.now_ms());
        let due = self.wake_ms.is_some_and(|wake_ms| wake_ms <= now_ms);
        let moved = self.last_watermark_ms.is_some_and(|last| self.tracker.global_ms() > last);
        let useful = moved && self.plan.operators.iter().any(|o| o.wants_no_data);
        self.settings.no_data_batches && (due || useful)
    }

    fn pinned(&self) -> std::collections::BTreeMap<String, String> {
        let policy = self.settings.watermark_policy.to_string();
        std::collections::BTreeMap::from([(super::recovery::POLICY.to_string(), policy)])
    }
}

/// Waits, but not past a stop.
async fn idle(wait: Duration, stop: &mut watch::Receiver<bool>) {
    let stopped = async {
        // Without any handle left nobody can stop the query.
        if stop.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = stopped => {}
    }
}
