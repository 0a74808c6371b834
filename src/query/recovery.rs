//! Where the last run ended, from what is durable: the logs decide, everything else follows them.
//!
//! A decided batch is published again and never run again. An undecided one is run again as its entry says, on the
//! state of the last commit; what it left behind is removed. Recovery may itself die and be done again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::execution::{Execution, QuerySettings};
use super::late_rows::{LateOutput, LateTable};
use super::partition_watermarks::PartitionWatermarks;
use super::purge::Leftovers;
use super::source_activity::SourceActivity;
use super::streaming_query::QueryShared;
use super::trigger::Trigger;
use super::watermark::WatermarkTracker;
use crate::checkpoint::{Checkpoint, CommitEntry, OffsetEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::operator::StateLanes;
use crate::plan::fingerprint::check_unchanged;
use crate::plan::{StreamPlan, WatermarkPlan};
use crate::sink::{Sink, SinkContext};
use crate::source::{Offset, Source, SourceContext, SourceSpec};
use crate::state::{LaneState, StateBudget};

/// The pinned name of the watermark policy.
pub(super) const POLICY: &str = "multipleWatermarkPolicy";

impl Execution {
    /// Opens `plan` on `checkpoint` and leaves it where the last run ended, or at the beginning.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where the checkpoint is another query's, saying what changed; `CheckpointCorrupt`
    /// where a file is missing or altered; and what sources and sink say when they are opened.
    pub(super) async fn recover(
        shared: Arc<QueryShared>,
        plan: StreamPlan,
        mut settings: QuerySettings,
        trigger: Trigger,
        checkpoint: Checkpoint,
        sink: Arc<dyn Sink>,
        late_table: Option<LateTable>,
    ) -> Result<Self> {
        let commits = checkpoint.commit_log().entries_up_to(i64::MAX).await?;
        let commit = commits.last().cloned();
        let entries = retained_offsets(&checkpoint).await?;
        let latest = entries.last().cloned();
        if let Some(commit) = &commit {
            let before: Vec<Value> = commit.fingerprint.as_array().cloned().unwrap_or_default();
            let now: Vec<Value> = plan.operators.iter().map(|o| o.fingerprint.clone()).collect();
            check_unchanged(&before, &now).map_err(|e| e.context(checkpoint.location()))?;
        }
        if let Some(commit) = &commit {
            check_sink(commit, sink.as_ref(), &checkpoint)?;
        }
        let by_name = source_order(&plan, latest.as_ref(), &checkpoint)?;
        let sources = make_sources(&plan, latest.as_ref(), &settings, &checkpoint).await?;
        if let Some(policy) = latest.as_ref().and_then(|e| e.conf.get(POLICY)) {
            settings.watermark_policy = policy.parse()?;
        }
        let mut tracker = WatermarkTracker::new(settings.watermark_policy);
        if let Some(commit) = &commit {
            let (before, now) = (commit.watermark.nodes.len(), plan.watermarks.len());
            if before != now {
                return Err(Error::incompatible(format!(
                    "{}: the checkpoint knows {before} watermarks, the query has {now}: use a new checkpoint, or the old query",
                    checkpoint.location()
                )));
            }
            tracker.restore(commit.watermark.clone())?;
        }
        let timeout = |(node, watermark): (usize, &WatermarkPlan)| {
            let timeout_ms = watermark.sources.iter().find_map(|id| plan.sources[*id].table.watermarks.idle_timeout_ms);
            watermark.per_partition.then_some((node, timeout_ms))
        };
        let partitions = PartitionWatermarks::new(
            plan.watermarks.iter().enumerate().filter_map(timeout),
            commit.as_ref().map(|commit| commit.watermark.partitions.clone()).unwrap_or_default(),
            settings.clock.now_ms(),
        );
        let state = Arc::new(load_state(&plan, &checkpoint, commit.as_ref()).await?);
        let wake_ms = state.wake_ms().await;
        fail::fail_point!("recovery.mid");

        let lanes = plan.lanes;
        let next_batch_id = commit.as_ref().map_or(0, |c| c.batch_id + 1);
        let sink_context = SinkContext {
            query_id: checkpoint.query_id().to_string(),
            name: shared.name().to_string(),
            run: checkpoint.run().number(),
            next_batch_id,
            first_batch_id: 0,
            in_doubt: latest.as_ref().is_some_and(|entry| entry.batch_id >= next_batch_id),
        };
        let moved = |error: Error| of_moved_sink(error, commit.as_ref(), sink.as_ref()).context(checkpoint.location());
        let opened = async {
            // Loading took a while, and opening shuts out the producer of whoever has taken over meanwhile.
            checkpoint.run().check().await?;
            sink.open(&sink_context).await.map_err(moved)?;
            // Sources check what they have kept, so they come before anything is published.
            open_sources(&plan, &checkpoint, &entries, &sources).await?;
            if let Some(commit) = &commit {
                sink.publish(commit.batch_id, &commit.sink).await.map_err(moved)?;
            }
            recover_late(late_table, sink_context.clone(), commit.as_ref()).await
        };
        let late = match opened.await {
            Ok(late) => late,
            Err(error) => {
                for source in &sources {
                    source.stop().await;
                }
                sink.stop().await;
                return Err(error);
            }
        };

        let decided = entries.iter().rfind(|e| e.batch_id < next_batch_id);
        let ends =
            decided.map(|e| e.sources.iter().map(|s| (s.name.clone(), s.end.clone())).collect::<BTreeMap<_, _>>());
        let offsets =
            plan.sources.iter().map(|s| ends.as_ref().and_then(|e| e.get(&s.name).cloned().flatten())).collect();
        let undecided = latest.filter(|e| e.batch_id >= next_batch_id).map(|e| in_plan_order(e, &by_name));
        Ok(Self {
            shared,
            offsets,
            last_watermark_ms: decided.map(|e| e.watermark_ms),
            activity: SourceActivity::new(
                plan.sources.iter().map(|source| source.table.watermarks.idle_timeout_ms).collect(),
                settings.clock.now_ms(),
            ),
            plan,
            settings,
            trigger,
            checkpoint: Arc::new(checkpoint),
            sources,
            sink,
            late,
            state,
            tracker,
            partitions,
            next_batch_id,
            undecided,
            last_trigger_ms: None,
            wake_ms,
            wakes_until_ms: None,
            leftovers: Some(Leftovers::of(&commits)),
            most_lanes: commits.iter().map(|commit| commit.lanes).max().unwrap_or_default().max(lanes),
            purging: None,
        })
    }
}

/// Opens the table of late rows as the sink was opened.
async fn recover_late(
    table: Option<LateTable>,
    context: SinkContext,
    commit: Option<&CommitEntry>,
) -> Result<Option<LateOutput>> {
    match table {
        Some(table) => Ok(Some(LateOutput::recover(table, context, commit).await?)),
        None => {
            if commit.is_some_and(|commit| commit.late_rows.is_some()) {
                tracing::warn!(
                    flow = context.name,
                    "the flow kept late rows and does so no more; those of its last batch may be missing in their table"
                );
            }
            Ok(None)
        }
    }
}

async fn retained_offsets(checkpoint: &Checkpoint) -> Result<Vec<OffsetEntry>> {
    checkpoint.offset_log().entries_up_to(i64::MAX).await
}

async fn load_state(plan: &StreamPlan, checkpoint: &Checkpoint, commit: Option<&CommitEntry>) -> Result<StateLanes> {
    let store = checkpoint.state();
    let budget = StateBudget::of(&plan.state.runtime_env().memory_pool);
    let mut stores: Vec<Vec<_>> = plan.operators.iter().map(|_| Vec::new()).collect();
    for lane in 0..plan.lanes {
        for (operator, tables) in plan.empty_state()?.into_iter().enumerate() {
            let kind = plan.operators[operator].fingerprint["operator"].as_str().unwrap_or("operator");
            let mut lane_state = LaneState::new(operator, lane, tables, budget.lane(kind, operator, lane));
            if let Some(commit) = commit {
                let listed = commit.state.iter().filter(|s| s.operator == operator).flat_map(|s| s.files.clone());
                let files: Vec<_> = listed.collect();
                lane_state.load(store.as_ref(), &files, plan.lanes, commit.lanes).await?;
            }
            let lane_state = Arc::new(tokio::sync::Mutex::new(lane_state));
            budget.admit(&lane_state);
            stores[operator].push(lane_state);
        }
    }
    let keys_repeat = plan.operators.iter().map(|_| Mutex::default()).collect();
    Ok(StateLanes { lanes: plan.lanes, limited: budget.is_limited(), store, stores, keys_repeat })
}

/// By source of the plan: its place in the log's entries.
fn source_order(plan: &StreamPlan, latest: Option<&OffsetEntry>, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
    let Some(latest) = latest else {
        return Ok((0..plan.sources.len()).collect());
    };
    let logged: Vec<&str> = latest.sources.iter().map(|s| s.name.as_str()).collect();
    let places: Option<Vec<usize>> =
        plan.sources.iter().map(|s| logged.iter().position(|name| *name == s.name)).collect();
    match places {
        Some(places) if places.len() == logged.len() => Ok(places),
        _ => {
            let now: Vec<&str> = plan.sources.iter().map(|s| s.name.as_str()).collect();
            Err(Error::incompatible(format!(
                "{}: the checkpoint knows the sources ({}), the query reads ({}): the number and names of sources must not \
                 change; use a new checkpoint, or the old query",
                checkpoint.location(),
                logged.join(", "),
                now.join(", ")
            )))
        }
    }
}

fn in_plan_order(mut entry: OffsetEntry, places: &[usize]) -> OffsetEntry {
    entry.sources = places.iter().map(|place| entry.sources[*place].clone()).collect();
    entry
}

/// Makes the sources, and checks that none would go on with the offsets of another.
async fn make_sources(
    plan: &StreamPlan,
    latest: Option<&OffsetEntry>,
    settings: &QuerySettings,
    checkpoint: &Checkpoint,
) -> Result<Vec<Arc<dyn Source>>> {
    let mut sources = Vec::with_capacity(plan.sources.len());
    for source_plan in &plan.sources {
        let table = &source_plan.table;
        let spec = SourceSpec { clock: Arc::clone(&settings.clock), ..table.spec.clone() };
        let source = table.provider.create(&spec).await?;
        if source.schema().fields() != table.schema.fields() {
            return Err(Error::incompatible(format!("{}: its schema changed while the query was planned", table.name)));
        }
        let logged = latest.and_then(|entry| entry.sources.iter().find(|s| s.name == source_plan.name));
        if let Some(before) = logged.and_then(|logged| logged.identity.as_deref()) {
            source.check_identity(before).map_err(|error| {
                error.context(format!("{}: source {} ({})", checkpoint.location(), source_plan.name, table.name))
            })?;
        }
        sources.push(source);
    }
    Ok(sources)
}

async fn open_sources(
    plan: &StreamPlan,
    checkpoint: &Checkpoint,
    entries: &[OffsetEntry],
    sources: &[Arc<dyn Source>],
) -> Result<()> {
    for (source_plan, source) in plan.sources.iter().zip(sources) {
        let named = |e: &OffsetEntry| e.sources.iter().find(|s| s.name == source_plan.name).and_then(|s| s.end.clone());
        let history: Vec<Offset> = entries.iter().filter_map(named).collect();
        source.open(SourceContext { journal: checkpoint.source_journal(&source_plan.name), history }).await?;
    }
    Ok(())
}

/// Checks that what the last batch left to be published is left to the sink that prepared it.
fn check_sink(commit: &CommitEntry, sink: &dyn Sink, checkpoint: &Checkpoint) -> Result<()> {
    let Some(before) = commit.sink_description.as_deref() else {
        return Ok(());
    };
    let (now, kind) = (sink.description(), |description: &str| description.split('[').next().map(str::to_string));
    // A sink without a token holds nothing back; whether another may follow it, that one knows.
    if commit.sink.is_null() || kind(before) == kind(&now) {
        return Ok(());
    }
    Err(Error::incompatible(format!(
        "{}: the sink changed from {before} to {now}, and the last batch may wait there to be published; use a new \
         checkpoint, or the old sink",
        checkpoint.location()
    )))
}

/// The error of a sink that lacks what came before: where it is not the sink that it was, that is why.
fn of_moved_sink(error: Error, commit: Option<&CommitEntry>, sink: &dyn Sink) -> Error {
    // An early Millstream did not write the description; a sink of files always has a token.
    let before = commit.and_then(|commit| {
        commit.sink_description.as_deref().or(commit.sink.is_null().then_some("one that keeps no files"))
    });
    let now = sink.description();
    match before.filter(|before| *before != now && error.kind() == ErrorKind::CheckpointCorrupt) {
        Some(before) => Error::incompatible(format!(
            "the sink changed from {before} to {now}, which does not hold what came before ({}); use the old sink, move \
             its files along, or start with a new checkpoint",
            error.message()
        )),
        None => error,
    }
}
