//! What a trigger did, as Spark's progress tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::execution::Execution;
use super::listener::QueryIdle;
use super::progress::{
    Durations, SinkProgress, SourceProgress, StateOperatorProgress, StreamingQueryProgress, iso_ms, rows_per_second,
};
use crate::checkpoint::OffsetEntry;
use crate::operator::batch_context::{BatchContext, BatchReport, EventTimes, OperatorReport};
use crate::sink::Prepared;

impl Execution {
    /// Tells of a batch that ran.
    pub(super) async fn report_batch(
        &mut self,
        entry: &OffsetEntry,
        context: &BatchContext,
        report: &BatchReport,
        prepared: &Prepared,
        durations: Durations,
    ) {
        let mut progress = self.begun(entry.batch_id, &durations);
        let since_last_ms = self.last_trigger_ms.map(|last| durations.started_ms() - last);
        self.last_trigger_ms = Some(durations.started_ms());
        let took_ms = self.settings.clock.now_ms() - durations.started_ms();
        let rows: u64 = report.source_rows.iter().sum();
        progress.batch_duration_ms = took_ms;
        progress.num_input_rows = rows;
        progress.input_rows_per_second = rows_per_second(rows, since_last_ms);
        progress.processed_rows_per_second = rows_per_second(rows, Some(took_ms));
        progress.duration_ms = durations.finish();
        progress.event_time = event_time(&report.event_times, entry.watermark_ms);
        let operators = self.plan.operators.iter().zip(&report.operators).zip(self.waiting(entry, report)).rev();
        let memory_bytes = self.state.memory_bytes().await;
        progress.state_operators = operators
            .zip(memory_bytes.into_iter().rev())
            .map(|(((plan, report), waiting), memory_used_bytes)| StateOperatorProgress {
                waiting,
                memory_used_bytes,
                ..operator_progress(plan.name, report, self.state.lanes)
            })
            .collect();
        for (id, source) in self.sources.iter().enumerate() {
            let mut metrics = entry.sources[id].end.as_ref().map(|end| source.metrics(end)).unwrap_or_default();
            let malformed = context.inputs[id].malformed_rows.get();
            if malformed > 0 {
                metrics.insert(SourceProgress::MALFORMED_ROWS.to_string(), malformed.to_string());
            }
            let latest = source.latest().await.ok().flatten();
            progress.sources.push(SourceProgress {
                description: source.description(),
                start_offset: entry.sources[id].start.clone().unwrap_or(Value::Null),
                end_offset: entry.sources[id].end.clone().unwrap_or(Value::Null),
                latest_offset: latest.unwrap_or(Value::Null),
                num_input_rows: report.source_rows[id],
                input_rows_per_second: rows_per_second(report.source_rows[id], since_last_ms),
                processed_rows_per_second: rows_per_second(report.source_rows[id], Some(took_ms)),
                metrics,
            });
        }
        progress.sink.num_output_rows = i64::try_from(prepared.rows).unwrap_or(i64::MAX);
        self.shared.ran(Arc::new(progress), rows > 0);
    }

    /// Tells of a trigger that found nothing: the progress carries the id of the batch to come.
    pub(super) fn report_idle(&mut self, durations: Durations) {
        let mut progress = self.begun(self.next_batch_id, &durations);
        progress.duration_ms = durations.finish();
        progress.event_time =
            event_time(&vec![EventTimes::default(); self.plan.watermarks.len()], self.tracker.global_ms());
        let event = QueryIdle {
            id: progress.id.clone(),
            run_id: progress.run_id.clone(),
            timestamp: progress.timestamp.clone(),
        };
        self.shared.idle(Arc::new(progress), &event);
    }

    fn begun(&self, batch_id: i64, durations: &Durations) -> StreamingQueryProgress {
        StreamingQueryProgress {
            id: self.checkpoint.query_id().to_string(),
            run_id: self.shared.run_id().to_string(),
            name: Some(self.shared.name().to_string()),
            timestamp: iso_ms(durations.started_ms()),
            batch_id,
            sink: SinkProgress { description: self.sink.description(), ..SinkProgress::default() },
            ..StreamingQueryProgress::default()
        }
    }
}

/// Spark's map: nothing without watermarks; without rows only the watermark.
fn event_time(nodes: &[EventTimes], watermark_ms: i64) -> BTreeMap<String, String> {
    if nodes.is_empty() {
        return BTreeMap::new();
    }
    let mut all = EventTimes::default();
    nodes.iter().for_each(|node| all.merge(node));
    let mut map = BTreeMap::from([("watermark".to_string(), iso_ms(watermark_ms))]);
    if all.count > 0 {
        map.insert("min".to_string(), iso_ms(all.min_ms));
        map.insert("max".to_string(), iso_ms(all.max_ms));
        map.insert("avg".to_string(), iso_ms((all.sum_ms / all.count as f64) as i64));
    }
    map
}

fn operator_progress(name: &str, report: &OperatorReport, lanes: usize) -> StateOperatorProgress {
    let ms = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    StateOperatorProgress {
        operator_name: name.to_string(),
        num_rows_total: report.rows_total,
        num_rows_updated: report.rows_updated,
        all_updates_time_ms: ms(report.updates_ms),
        num_rows_removed: report.rows_removed,
        all_removals_time_ms: ms(report.removals_ms),
        commit_time_ms: ms(report.commit_ms),
        memory_used_bytes: 0,
        num_rows_dropped_by_watermark: report.rows_dropped_late,
        num_shuffle_partitions: lanes as u64,
        num_state_store_instances: lanes as u64,
        custom_metrics: BTreeMap::from([("rowsWithoutEventTime".to_string(), ms(report.rows_without_event_time))]),
        waiting: None,
    }
}
