//! THE PROTOCOL: one micro-batch, from offsets to published rows, in one straight line.
//!
//! | step | durable after it | a crash here |
//! |---|---|---|
//! | 1 plan | nothing of batch n | plans batch n afresh |
//! | 2 offset log | `offsets/n` | runs n again: same rows, watermarks and time |
//! | 3 run | – | ″ |
//! | 4 state | deltas of this run, not current | ″ , they are discarded |
//! | 5 sinks prepare | staged output and late rows, unseen | ″ , they are discarded |
//! | 6 watermark | – | ″ |
//! | 7 commit log | `commits/n`: **decided** | publishes n, never runs it again |
//! | 8 sinks publish | the rows are seen, then the late ones | publishing again changes nothing |
//! | 9 sources are told | – | harmless |

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::TryStreamExt;

use super::execution::{Execution, PlannedBatch};
use super::progress::Durations;
use crate::checkpoint::{CommitEntry, LateRowsCommit, OffsetEntry, StateFiles, WatermarkState};
use crate::error::{Error, Result, caught};
use crate::operator::OperatorWatermarks;
use crate::operator::batch_context::{BatchContext, BatchInput, BatchReport};
use crate::operator::stateful::StatefulExec;
use crate::operator::watermark::WatermarkExec;
use crate::plan::operator_plan::operator_watermarks;
use crate::sink::{Prepared, SinkBatch};
use crate::source::{Offset, Split};

/// Batches that read less than this (bytes, or rows of a source that counts rows) run in one partition.
const SMALL_BATCH: u64 = 256 * 1024;

/// What steps 3 to 5 made of a batch.
struct Ran {
    prepared: Prepared,
    late_rows: Option<LateRowsCommit>,
    report: BatchReport,
}

impl Execution {
    /// Runs one planned micro-batch to its end.
    pub(super) async fn run_batch(&mut self, batch: PlannedBatch, mut durations: Durations) -> Result<()> {
        let PlannedBatch { entry, splits, logged } = batch;
        let batch_id = entry.batch_id;
        let step = |error: Error| error.context(format!("batch {batch_id}"));

        // 1, 2: the plan is made; now it is durable.
        if !logged {
            self.checkpoint.run().check().await?;
            durations.time(Durations::WAL_COMMIT, self.checkpoint.offset_log().add(&entry)).await.map_err(step)?;
        }
        // 3, 4, 5: rows flow; state and output become durable, neither current nor visible.
        let context = Arc::new(self.context(&entry, splits.clone()));
        let ran = durations.time(Durations::ADD_BATCH, self.run_plan(&context, &splits)).await.map_err(step)?;
        // 6: the watermark that the next batch runs with.
        self.move_watermark(&entry, &splits, &ran.report)?;
        // 7: the decision.
        self.checkpoint.run().check().await?;
        let commit = self.commit_entry(&entry, &ran);
        durations.time(Durations::COMMIT_OFFSETS, self.checkpoint.commit_log().add(&commit)).await.map_err(step)?;
        // 8: what is decided becomes visible.
        let publishing = self.sink.publish(batch_id, &ran.prepared.token);
        caught(|| self.sink.description(), publishing).await.map_err(step)?;
        if let Some(late) = &self.late {
            late.publish(&commit).await.map_err(step)?;
        }
        // 9: what led here may be cleaned.
        self.advance(&entry, &ran.report);
        self.tell_sources().await;
        self.sweep().await;
        self.purge(batch_id);
        self.report_batch(&entry, &context, &ran.report, &ran.prepared, durations).await;
        Ok(())
    }

    fn context(&self, entry: &OffsetEntry, splits: Vec<Vec<Split>>) -> BatchContext {
        let late = operator_watermarks(&self.plan.operators, entry.late_watermark_ms);
        let eviction = operator_watermarks(&self.plan.operators, entry.watermark_ms);
        let watermarks = late.into_iter().zip(eviction);
        let watermarks = watermarks.map(|(late_us, eviction_us)| OperatorWatermarks { late_us, eviction_us }).collect();
        let inputs = self.sources.iter().zip(splits).map(|(source, splits)| BatchInput {
            source: Arc::clone(source),
            splits,
            malformed_rows: Arc::default(),
        });
        self.plan.batch_time.set_ms(entry.batch_timestamp_ms);
        BatchContext::new(
            entry.batch_id,
            self.checkpoint.run().number(),
            self.plan.mode,
            inputs.collect(),
            watermarks,
            self.plan.watermarks.len(),
            Arc::clone(&self.state),
            Arc::clone(&self.settings.clock),
            entry.batch_timestamp_ms,
            self.late.is_some(),
        )
    }

    /// Steps 3 to 5. A panic in an operator, function, source or sink ends the query like any error.
    async fn run_plan(&self, context: &Arc<BatchContext>, splits: &[Vec<Split>]) -> Result<Ran> {
        let weight: u64 = splits.iter().flatten().map(|s| s.weight).sum();
        let plan = reset_plan_states(Arc::clone(self.plan.physical(weight < SMALL_BATCH)))?;
        let config = self.plan.state.config().clone().with_extension(Arc::clone(context));
        let task = Arc::new(TaskContext::from(&self.plan.state).with_session_config(config));
        let work = async {
            let partitions = plan.output_partitioning().partition_count();
            let streams = (0..partitions).map(|p| plan.execute(p, Arc::clone(&task)));
            let batch = SinkBatch {
                batch_id: context.batch_id,
                run: context.run,
                mode: context.mode,
                schema: Arc::clone(&self.plan.schema),
                partitions: streams.collect::<datafusion::common::Result<_>>()?,
            };
            let prepared = self.sink.prepare(batch).await?;
            finish_unread(&plan, context, &task).await?;
            context.settle().await?;
            fail::fail_point!("state.all_deltas_written");
            // What nobody had read may have given late rows too.
            let late_rows = match &self.late {
                Some(late) => Some(late.prepare(self.shared.name(), &self.plan.operators, context).await?),
                None => None,
            };
            Ok::<_, Error>((prepared, late_rows))
        };
        let (prepared, late_rows) = caught(|| "an operator, function, source or sink".to_string(), work).await?;
        let report = context.report().clone();
        Ok(Ran { prepared, late_rows, report })
    }

    fn move_watermark(&mut self, entry: &OffsetEntry, splits: &[Vec<Split>], report: &BatchReport) -> Result<()> {
        for (source, _) in report.source_rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
            self.activity.saw_rows(source, entry.batch_timestamp_ms);
        }
        for (node, watermark) in self.plan.watermarks.iter().enumerate() {
            if watermark.sources.iter().any(|source| report.source_rows[*source] > 0) {
                self.tracker.set_idle(node, false);
            }
        }
        let mut seen: Vec<Option<i64>> = report.event_times.iter().map(|t| (t.count > 0).then_some(t.max_ms)).collect();
        for (node, watermark) in self.plan.watermarks.iter().enumerate().filter(|(_, w)| w.per_partition) {
            let (mut all, mut busy) = (Vec::new(), BTreeSet::new());
            for source in &watermark.sources {
                busy.extend(splits[*source].iter().filter_map(|split| self.sources[*source].partition(split)));
                if let Some(end) = &entry.sources[*source].end {
                    all.extend(self.sources[*source].partitions(end)?);
                }
            }
            let (now_ms, ends) = (entry.batch_timestamp_ms, self.trigger.is_bounded());
            self.partitions.saw(node, &report.partition_times[node], &busy, now_ms);
            seen[node] = self.partitions.reached(node, &all, &busy, now_ms, ends).map(|(ms, _)| ms);
        }
        let delays: Vec<i64> = self.plan.watermarks.iter().map(|w| w.delay_us / 1000).collect();
        self.tracker.update(&seen, &delays)
    }

    fn commit_entry(&self, entry: &OffsetEntry, ran: &Ran) -> CommitEntry {
        let state = ran.report.operators.iter().enumerate().map(|(operator, report)| StateFiles {
            operator,
            version: entry.batch_id + 1,
            files: report.files.values().flatten().cloned().collect(),
        });
        CommitEntry {
            batch_id: entry.batch_id,
            run: self.checkpoint.run().number(),
            lanes: self.state.lanes,
            watermark: WatermarkState { partitions: self.partitions.state(), ..self.tracker.state() },
            state: state.collect(),
            sink: ran.prepared.token.clone(),
            sink_description: Some(self.sink.description()),
            late_rows: ran.late_rows.clone(),
            fingerprint: self.plan.operators.iter().map(|o| o.fingerprint.clone()).collect(),
        }
    }

    fn advance(&mut self, entry: &OffsetEntry, report: &BatchReport) {
        self.wake_ms = report.operators.iter().filter_map(|o| o.wake_ms).min();
        self.offsets = entry.sources.iter().map(|s| s.end.clone()).collect();
        self.next_batch_id = entry.batch_id + 1;
        self.last_watermark_ms = Some(entry.watermark_ms);
    }

    /// Best effort: what a source fails to clean, a later batch tells it to clean again.
    pub(super) async fn tell_sources(&self) {
        let ends: Vec<Option<Offset>> = self.offsets.clone();
        for (source, end) in self.sources.iter().zip(ends) {
            if let Some(end) = end
                && let Err(error) = source.commit(&end).await
            {
                tracing::warn!(source = source.description(), %error, "a source could not clean what was read");
            }
        }
        fail::fail_point!("source.commit");
    }
}

/// Runs what nobody above asked for: a join with an empty table may never look at the stream, but the stream's
/// watermark and the state below the join must move on all the same.
async fn finish_unread(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<BatchContext>,
    task: &Arc<TaskContext>,
) -> Result<()> {
    let mut pending = vec![Arc::clone(plan)];
    while let Some(node) = pending.pop() {
        let counts = node.is::<WatermarkExec>() || node.is::<StatefulExec>();
        if counts {
            for partition in context.unread(&node) {
                let mut rows = node.execute(partition, Arc::clone(task))?;
                while rows.try_next().await?.is_some() {}
            }
        }
        pending.extend(node.children().into_iter().map(Arc::clone));
    }
    Ok(())
}
