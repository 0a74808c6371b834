//! What a query says of itself: one [`StreamingQueryProgress`] a batch, and its [`StreamingQueryStatus`] between.
//!
//! The micro-batch protocol fills them in; listeners, `last_progress` and the shell read them. The JSON is Spark's,
//! field for field and in Spark's order, so that dashboards made for Spark read it; one field is ours, `waiting`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::waiting::Waiting;
use crate::clock::Clock;

/// Tells what one batch did.
///
/// A trigger that found nothing to do has a progress too: with the id of the batch that comes next, no rows, and only
/// the durations of `latestOffset` and `triggerExecution`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryProgress {
    /// The query's id: the same in every run on one checkpoint.
    pub id: String,
    /// The run's own id.
    pub run_id: String,
    /// The query's or flow's name, if it has one.
    pub name: Option<String>,
    /// When the trigger started, as ISO 8601 in UTC.
    pub timestamp: String,
    /// The batch's id.
    pub batch_id: i64,
    /// How long the trigger took, in milliseconds.
    #[serde(rename = "batchDuration")]
    pub batch_duration_ms: i64,
    /// The rows read from all sources.
    pub num_input_rows: u64,
    /// The rows that came, per second since the trigger before this one.
    #[serde(skip_serializing_if = "is_not_finite")]
    pub input_rows_per_second: f64,
    /// The rows that were read, per second of this trigger.
    #[serde(skip_serializing_if = "is_not_finite")]
    pub processed_rows_per_second: f64,
    /// How long each step took, in milliseconds, by the names that [`Durations`] lists.
    pub duration_ms: BTreeMap<String, i64>,
    /// `max`, `min` and `avg` of the event times seen, and the `watermark` the batch ran with, as ISO 8601 in UTC.
    pub event_time: BTreeMap<String, String>,
    /// The stateful operators, the last of the plan first.
    pub state_operators: Vec<StateOperatorProgress>,
    /// The sources.
    pub sources: Vec<SourceProgress>,
    /// The sink.
    pub sink: SinkProgress,
    /// Metrics that the query itself defines.
    pub observed_metrics: BTreeMap<String, serde_json::Value>,
}

impl StreamingQueryProgress {
    /// Returns whether a batch ran: a trigger that found nothing to do has a progress, but no batch.
    pub fn ran_batch(&self) -> bool {
        self.duration_ms.contains_key(Durations::ADD_BATCH)
    }

    /// Returns for each stateful operator whose state waits a sentence that says for what, the last of the plan first.
    pub fn waiting(&self) -> Vec<&str> {
        let waiting = self.state_operators.iter().filter_map(|operator| operator.waiting.as_ref());
        waiting.map(|waiting| waiting.reason.as_str()).collect()
    }

    /// Returns the JSON in one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }

    /// Returns the JSON, indented.
    pub fn pretty_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }
}

impl fmt::Display for StreamingQueryProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pretty_json())
    }
}

/// Tells what one stateful operator did in one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateOperatorProgress {
    /// Which operator, in Spark's words: `stateStoreSave`, `dedupe`, `symmetricHashJoin`, …
    pub operator_name: String,
    /// The rows of state after the batch.
    pub num_rows_total: u64,
    /// The rows of state that the batch set.
    pub num_rows_updated: u64,
    /// How long setting them took.
    pub all_updates_time_ms: i64,
    /// The rows of state that the watermark removed.
    pub num_rows_removed: u64,
    /// How long removing them took.
    pub all_removals_time_ms: i64,
    /// How long it took to make the changes durable.
    pub commit_time_ms: i64,
    /// The memory that state holds.
    pub memory_used_bytes: u64,
    /// The input rows that came too late for this operator, counted exactly.
    pub num_rows_dropped_by_watermark: u64,
    /// The lanes that work on the state.
    pub num_shuffle_partitions: u64,
    /// The state stores that are open.
    pub num_state_store_instances: u64,
    /// What else the operator counts.
    pub custom_metrics: BTreeMap<String, i64>,
    /// What the oldest state waits for; left out where nothing waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// Tells what one source gave in one batch.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProgress {
    /// Which source, such as `FileStreamSource[file:///data/flights]`.
    pub description: String,
    /// Where the batch started; `null` at the very beginning.
    pub start_offset: serde_json::Value,
    /// Where the batch ended.
    pub end_offset: serde_json::Value,
    /// The newest offset there was when the batch was planned, where the source can tell.
    pub latest_offset: serde_json::Value,
    /// The rows read.
    pub num_input_rows: u64,
    /// The rows that came, per second since the trigger before this one.
    #[serde(skip_serializing_if = "is_not_finite")]
    pub input_rows_per_second: f64,
    /// The rows that were read, per second of this trigger.
    #[serde(skip_serializing_if = "is_not_finite")]
    pub processed_rows_per_second: f64,
    /// What else the source counts: `malformedRows`, …
    pub metrics: BTreeMap<String, String>,
}

impl SourceProgress {
    /// The metric that counts rows that were not of the declared shape.
    pub const MALFORMED_ROWS: &str = "malformedRows";
}

/// Tells what the sink took in one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkProgress {
    /// Which sink, such as `FileSink[file:///out/delays]`.
    pub description: String,
    /// The rows written; -1 where the sink does not count them.
    pub num_output_rows: i64,
    /// What else the sink counts.
    pub metrics: BTreeMap<String, String>,
}

impl Default for SinkProgress {
    fn default() -> Self {
        Self { description: String::new(), num_output_rows: -1, metrics: BTreeMap::new() }
    }
}

/// Tells what a query is doing right now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamingQueryStatus {
    /// What it does, in a few words: `Initializing sources`, `Waiting for data to arrive`, `Stopped`, …
    pub message: String,
    /// Whether there is data that no batch has read.
    pub is_data_available: bool,
    /// Whether a trigger is at work.
    pub is_trigger_active: bool,
}

impl fmt::Display for StreamingQueryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
    }
}

/// Returns rows per second. `None`, where there is no span to divide by (the first trigger of a run), gives zero; a
/// span of no length gives a number that is not finite, which the JSON leaves out.
pub fn rows_per_second(rows: u64, span_ms: Option<i64>) -> f64 {
    span_ms.map_or(0.0, |ms| rows as f64 * 1_000.0 / ms.max(0) as f64)
}

/// Writes a time as ISO 8601 in UTC with milliseconds: `2026-01-01T00:00:15.000Z`.
pub fn iso_ms(ms: i64) -> String {
    match DateTime::<Utc>::from_timestamp_millis(ms) {
        Some(time) => time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        None => format!("{ms} ms"), // beyond the calendar
    }
}

fn is_not_finite(number: &f64) -> bool {
    !number.is_finite()
}

/// Collects how long the steps of one trigger took, by the clock of the query.
#[derive(Debug)]
pub struct Durations {
    clock: Arc<dyn Clock>,
    started_ms: i64,
    by_step_ms: BTreeMap<String, i64>,
}

impl Durations {
    /// Asking the sources for what is new.
    pub const LATEST_OFFSET: &str = "latestOffset";
    /// Planning the splits to read.
    pub const GET_BATCH: &str = "getBatch";
    /// Planning the query, or making the cached plan ready again.
    pub const QUERY_PLANNING: &str = "queryPlanning";
    /// Writing the offset log.
    pub const WAL_COMMIT: &str = "walCommit";
    /// Running the plan and preparing the sink.
    pub const ADD_BATCH: &str = "addBatch";
    /// Writing the commit log.
    pub const COMMIT_OFFSETS: &str = "commitOffsets";
    /// All of it.
    pub const TRIGGER_EXECUTION: &str = "triggerExecution";

    /// Starts a trigger now.
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        let started_ms = clock.now_ms();
        Self { clock, started_ms, by_step_ms: BTreeMap::new() }
    }

    /// Returns when the trigger started.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// Runs a step to its end and adds its duration to what `step` took so far.
    pub async fn time<F: Future>(&mut self, step: &str, work: F) -> F::Output {
        let since_ms = self.clock.now_ms();
        let output = work.await;
        self.add(step, since_ms);
        output
    }

    /// Adds the time from `since_ms` to now to what `step` took so far.
    pub fn add(&mut self, step: &str, since_ms: i64) {
        // A clock that was set back must not give a negative duration.
        let took_ms = self.clock.now_ms().saturating_sub(since_ms).max(0);
        *self.by_step_ms.entry(step.to_string()).or_default() += took_ms;
    }

    /// Ends the trigger: returns the durations of the steps, and that of the whole as `triggerExecution`.
    pub fn finish(mut self) -> BTreeMap<String, i64> {
        self.add(Self::TRIGGER_EXECUTION, self.started_ms);
        self.by_step_ms
    }
}

/// Keeps the newest progresses of a query, and no more.
#[derive(Debug, Clone)]
pub struct RecentProgress {
    capacity: usize,
    newest_last: VecDeque<Arc<StreamingQueryProgress>>,
}

impl Default for RecentProgress {
    /// Keeps as many as Spark's `numRecentProgressUpdates` does by default: 100.
    fn default() -> Self {
        Self::new(100)
    }
}

impl RecentProgress {
    /// Makes a record of at most `capacity` progresses.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, newest_last: VecDeque::new() }
    }

    /// Adds the newest, and forgets the oldest where there are too many.
    pub fn push(&mut self, progress: Arc<StreamingQueryProgress>) {
        self.newest_last.push_back(progress);
        while self.newest_last.len() > self.capacity {
            self.newest_last.pop_front();
        }
    }

    /// Returns the newest.
    pub fn last(&self) -> Option<Arc<StreamingQueryProgress>> {
        self.newest_last.back().map(Arc::clone)
    }

    /// Returns all that are kept, the oldest first.
    pub fn to_vec(&self) -> Vec<Arc<StreamingQueryProgress>> {
        self.newest_last.iter().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn the_json_is_sparks_field_for_field() {
        let progress = StreamingQueryProgress {
            id: "97cf7ef2".into(),
            run_id: "b819772f".into(),
            timestamp: iso_ms(1_767_225_615_000),
            batch_id: 1,
            batch_duration_ms: 12,
            num_input_rows: 1,
            processed_rows_per_second: rows_per_second(1, Some(5_000)),
            state_operators: vec![StateOperatorProgress {
                operator_name: "stateStoreSave".into(),
                ..Default::default()
            }],
            sources: vec![SourceProgress {
                description: "FileStreamSource[file:///in]".into(),
                end_offset: serde_json::json!({"logOffset": 1}),
                metrics: BTreeMap::from([(SourceProgress::MALFORMED_ROWS.to_string(), "2".to_string())]),
                ..Default::default()
            }],
            ..Default::default()
        };
        let expected = r#"{"id":"97cf7ef2","runId":"b819772f","name":null,"timestamp":"2026-01-01T00:00:15.000Z",
            "batchId":1,"batchDuration":12,"numInputRows":1,"inputRowsPerSecond":0.0,"processedRowsPerSecond":0.2,
            "durationMs":{},"eventTime":{},
            "stateOperators":[{"operatorName":"stateStoreSave","numRowsTotal":0,"numRowsUpdated":0,"allUpdatesTimeMs":0,
            "numRowsRemoved":0,"allRemovalsTimeMs":0,"commitTimeMs":0,"memoryUsedBytes":0,
            "numRowsDroppedByWatermark":0,"numShufflePartitions":0,"numStateStoreInstances":0,"customMetrics":{}}],
            "sources":[{"description":"FileStreamSource[file:///in]","startOffset":null,"endOffset":{"logOffset":1},
            "latestOffset":null,"numInputRows":0,"inputRowsPerSecond":0.0,"processedRowsPerSecond":0.0,
            "metrics":{"malformedRows":"2"}}],
            "sink":{"description":"","numOutputRows":-1,"metrics":{}},"observedMetrics":{}}"#;
        let expected: String = expected.lines().map(str::trim).collect();
        assert_eq!(progress.json(), expected);
        assert!(progress.to_string().starts_with("{\n  \"id\": \"97cf7ef2\",\n"), "{progress}");
    }

    #[test]
    fn a_rate_that_is_no_number_is_left_out() {
        assert_eq!(rows_per_second(3, None), 0.0);
        assert_eq!(rows_per_second(3, Some(1_500)), 2.0);
        let source = SourceProgress {
            input_rows_per_second: rows_per_second(3, Some(0)),
            processed_rows_per_second: rows_per_second(0, Some(0)),
            ..Default::default()
        };
        let json = serde_json::to_string(&source).unwrap();
        assert!(!json.contains("RowsPerSecond"), "{json}");
    }

    #[tokio::test]
    async fn durations_add_up_by_step() {
        let clock = Arc::new(ManualClock::new(1_000));
        let mut durations = Durations::start(Arc::clone(&clock) as Arc<dyn Clock>);
        for took_ms in [5, 7] {
            durations.time(Durations::WAL_COMMIT, async { clock.advance_ms(took_ms) }).await;
        }
        clock.advance_ms(100);
        durations.add(Durations::ADD_BATCH, 5_000); // the clock was set back meanwhile
        let by_step_ms = durations.finish();
        let expected = [("addBatch", 0), ("triggerExecution", 112), ("walCommit", 12)];
        assert_eq!(by_step_ms, BTreeMap::from(expected.map(|(step, ms)| (step.to_string(), ms))));
    }

    #[test]
    fn times_are_iso_with_milliseconds() {
        assert_eq!(iso_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso_ms(i64::MAX), format!("{} ms", i64::MAX));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut recent = RecentProgress::new(2);
        for batch_id in 0..3 {
            recent.push(Arc::new(StreamingQueryProgress { batch_id, ..Default::default() }));
        }
        assert_eq!(recent.to_vec().iter().map(|p| p.batch_id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(recent.last().map(|p| p.batch_id), Some(2));
    }
}
