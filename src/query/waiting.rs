//! Why nothing comes out: what an operator's state waits for, and which source holds the watermark back.
//!
//! Told after each batch, in its progress; EXPLAIN FLOW, DESCRIBE FLOW and the shell show the sentence. Operators
//! report when the oldest thing in their state leaves; the rest follows from the watermarks.

use serde::Serialize;

use super::execution::Execution;
use super::progress::iso_ms;
use crate::checkpoint::OffsetEntry;
use crate::operator::batch_context::BatchReport;
use crate::plan::operator_plan::operator_watermarks;
use crate::sink::OutputMode;

/// Says what the oldest thing in an operator's state waits for.
///
/// Millstream's own, beside Spark's fields of a progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The event time that the watermark must reach, as ISO 8601 in UTC.
    pub until: String,
    /// The operator's watermark that the next batch runs with; `null` where there is none yet.
    pub watermark: Option<String>,
    /// The sources that the query's watermark waits for.
    pub held_back_by: Vec<SlowSource>,
    /// All of it in a sentence.
    pub reason: String,
}

/// A source that a watermark waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowSource {
    /// Its table's name, or that of IDENTIFIED BY.
    pub name: String,
    /// The greatest event time it has given, as ISO 8601 in UTC; `null` where it has given none.
    pub max_event_time: Option<String>,
    /// For how long it has given no rows, in milliseconds of processing time.
    pub idle_ms: i64,
}

impl Waiting {
    /// Makes it for state that `holds` something until `until_us`; the batch ran with the operator's watermark
    /// `ran_with_us`, the next one runs with `watermark_us`.
    fn new(
        holds: &str,
        until_us: i64,
        ran_with_us: Option<i64>,
        watermark_us: Option<i64>,
        slow: Vec<SlowSource>,
    ) -> Self {
        // Some operators tell no nearer than to the minute; what is left lies behind the watermark that has been used.
        let until_us = until_us.max(ran_with_us.unwrap_or(i64::MIN));
        let leaves = watermark_us > ran_with_us && watermark_us >= Some(until_us);
        let (until, watermark) = (iso_us(until_us), watermark_us.map(iso_us));
        let what = format!("{holds} {}", readable(&until));
        let held_back = || slow.iter().map(SlowSource::in_words).collect::<Vec<_>>().join(", ");
        let reason = match &watermark {
            Some(watermark) if leaves => {
                format!("{what} leaves with the next batch: watermark {}", readable(watermark))
            }
            Some(watermark) => {
                format!("{what} waits: watermark {}, held back by {}", readable(watermark), held_back())
            }
            None => format!("{what} waits: no watermark yet, held back by {}", held_back()),
        };
        Self { until, watermark, held_back_by: slow, reason }
    }
}

impl SlowSource {
    fn in_words(&self) -> String {
        let seen = match &self.max_event_time {
            Some(time) => format!("max event time {}", readable(time)),
            None => "no event time yet".to_string(),
        };
        match self.idle_ms {
            ..1_000 => format!("source {} ({seen})", self.name),
            idle_ms => format!("source {} ({seen}, idle for {})", self.name, span(idle_ms)),
        }
    }
}

impl Execution {
    /// Says by operator what its oldest state waits for, once the watermark has moved. In complete mode nothing waits.
    pub(super) fn waiting(&self, entry: &OffsetEntry, report: &BatchReport) -> Vec<Option<Waiting>> {
        let operators = &self.plan.operators;
        let ran_with = operator_watermarks(operators, entry.watermark_ms);
        let next = operator_watermarks(operators, self.tracker.global_ms());
        let slow = self.slow_sources(entry.batch_timestamp_ms);
        let waiting = |id: usize| {
            let until_us = report.operators[id].oldest_us.filter(|_| self.plan.mode != OutputMode::Complete)?;
            Some(Waiting::new(operators[id].holds, until_us, ran_with[id], next[id], slow.clone()))
        };
        (0..operators.len()).map(waiting).collect()
    }

    /// The sources below the watermark that the query's own is taken from.
    fn slow_sources(&self, now_ms: i64) -> Vec<SlowSource> {
        let Some(node) = self.tracker.chosen() else {
            return Vec::new();
        };
        let (watermark, value_ms) = (&self.plan.watermarks[node], self.tracker.nodes()[node]);
        let max_event_time = (value_ms != 0).then(|| iso_ms(value_ms.saturating_add(watermark.delay_us / 1000)));
        let slow = |source: &usize| {
            let table = &self.plan.sources[*source].table;
            let name = table.identified_by.clone().unwrap_or_else(|| table.name.clone());
            let partition = self.slowest_partition(node, *source, now_ms);
            SlowSource {
                name: partition.map_or(name.clone(), |partition| format!("{name}, partition {partition}")),
                max_event_time: max_event_time.clone(),
                idle_ms: self.activity.silent_ms(*source, now_ms),
            }
        };
        watermark.sources.iter().map(slow).collect()
    }

    /// The partition that holds its source back, where partitions have watermarks of their own.
    fn slowest_partition(&self, node: usize, source: usize, now_ms: i64) -> Option<String> {
        let all = self.sources[source].partitions(self.offsets[source].as_ref()?).ok()?;
        let ends = self.trigger.is_bounded();
        self.partitions.clone().slowest(node, &all, now_ms, ends)
    }
}

fn iso_us(us: i64) -> String {
    iso_ms(us.div_euclid(1000))
}

/// `2026-01-01T12:00:00.000Z` as people write it: `2026-01-01 12:00:00`.
fn readable(iso: &str) -> String {
    iso.trim_end_matches('Z').trim_end_matches(".000").replace('T', " ")
}

/// `45 s`, `4 min`, `3 h`.
fn span(ms: i64) -> String {
    match ms / 1_000 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01 00:00 UTC.
    const MIDNIGHT_US: i64 = 1_767_225_600_000_000;

    fn at(minute: i64) -> i64 {
        MIDNIGHT_US + minute * 60_000_000
    }

    fn slow(max_event_time: Option<i64>, idle_ms: i64) -> Vec<SlowSource> {
        vec![SlowSource { name: "flights_b".to_string(), max_event_time: max_event_time.map(iso_us), idle_ms }]
    }

    fn reason(until_us: i64, ran_with_us: Option<i64>, watermark_us: Option<i64>, slow: Vec<SlowSource>) -> String {
        Waiting::new("window ending", until_us, ran_with_us, watermark_us, slow).reason
    }

    #[test]
    fn the_source_that_holds_back_is_named() {
        assert_eq!(
            reason(at(720), Some(at(690)), Some(at(701)), slow(Some(at(712)), 240_000)),
            "window ending 2026-01-01 12:00:00 waits: watermark 2026-01-01 11:41:00, held back by source flights_b \
             (max event time 2026-01-01 11:52:00, idle for 4 min)"
        );
        assert_eq!(
            reason(at(720), None, None, slow(None, 999)),
            "window ending 2026-01-01 12:00:00 waits: no watermark yet, held back by source flights_b (no event time \
             yet)"
        );
    }

    #[test]
    fn what_the_next_batch_closes_does_not_wait() {
        assert_eq!(
            reason(at(720), Some(at(701)), Some(at(720)), slow(Some(at(720)), 0)),
            "window ending 2026-01-01 12:00:00 leaves with the next batch: watermark 2026-01-01 12:00:00"
        );
        // A bound below the watermark that was used is one that could not be told any nearer.
        let vague = reason(at(700), Some(at(701)), Some(at(701)), slow(Some(at(701)), 0));
        assert!(vague.starts_with("window ending 2026-01-01 11:41:00 waits: watermark 2026-01-01 11:41:00"), "{vague}");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([119_999, 240_000, 7_200_000].map(span), ["119 s", "4 min", "2 h"]);
    }

    #[test]
    fn the_json_has_sparks_spelling() {
        let waiting = Waiting::new("session ending", at(0), None, Some(at(0) - 1), slow(Some(at(0)), 5));
        let json = serde_json::to_value(&waiting).unwrap();
        assert_eq!(json["until"], "2026-01-01T00:00:00.000Z");
        assert_eq!(json["heldBackBy"][0]["maxEventTime"], "2026-01-01T00:00:00.000Z");
        assert_eq!((json["heldBackBy"][0]["idleMs"].clone(), json["watermark"].is_string()), (5.into(), true));
    }
}
