//! Streams made up for a test, and queries over them that have a meaning as a batch as well.
//!
//! A [`Query`] is written once, with `$ev` for the stream: as a stream that becomes the table with its watermark, as
//! a batch the table alone. [`settled`] says what a stream of answers amounts to in the end, mode by mode, so that it
//! can be compared with an answer that was not given in pieces.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::answer::{Bag, bag, normal, spelling};
use crate::case::{Case, Rows};

/// 2026-01-01 00:00 UTC, the origin of all event times here, in milliseconds since 1970.
pub(crate) const ORIGIN_MS: i64 = 1_767_225_600_000;

/// The columns of every stream.
pub(crate) const SCHEMA: &str = "id BIGINT, ts TIMESTAMP, k STRING, v BIGINT, d DOUBLE";

/// One row of a stream.
#[derive(Clone, PartialEq)]
pub(crate) struct Event {
    /// Milliseconds since [`ORIGIN_MS`].
    pub(crate) at_ms: Option<i64>,
    pub(crate) k: Option<&'static str>,
    pub(crate) v: Option<i64>,
    pub(crate) d: f64,
}

impl Event {
    /// Returns the row as it stands in a file.
    pub(crate) fn row(&self) -> Value {
        json!({"ts": self.at_ms.map(timestamp), "k": self.k, "v": self.v, "d": self.d})
    }

    /// A row so far in the future that it closes every window of the others; no filter here removes it.
    pub(crate) fn far_future() -> Self {
        Self { at_ms: Some(FAR_FUTURE_MS), k: Some("b"), v: Some(7), d: 1.0 }
    }
}

/// When the row that closes all windows happens, in milliseconds since [`ORIGIN_MS`].
pub(crate) const FAR_FUTURE_MS: i64 = 1_000_000;

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.row())
    }
}

/// Spells a time, given in milliseconds since [`ORIGIN_MS`].
pub(crate) fn timestamp(at_ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(ORIGIN_MS + at_ms).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

/// The rows of files as they are written.
pub(crate) fn rows(files: &[Vec<Event>]) -> Vec<Rows> {
    files.iter().map(|file| file.iter().map(Event::row).collect()).collect()
}

/// A static table, one key of which occurs twice and one in no stream.
pub(crate) fn dim() -> Rows {
    [("a", "alpha", 2), ("b", "beta", 3), ("b", "bis", 5), ("d", "delta", 7)]
        .map(|(k, name, rate)| json!({"k": k, "name": name, "rate": rate}))
        .to_vec()
}

/// A query that can be asked of streams and of the same rows as a batch.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// SQL in which `$ev` and `$ev2` stand for the streams.
    pub(crate) sql: String,
    pub(crate) mode: &'static str,
    /// The columns that name a group, of which a later row replaces an earlier one in update mode; none where every
    /// row that is emitted stays.
    pub(crate) key: Option<Vec<&'static str>>,
    /// The column that must not be above the watermark for append mode to emit a group; none where it emits at once.
    pub(crate) expires: Option<&'static str>,
}

impl Query {
    /// A query whose rows all stay, in append mode.
    pub(crate) fn stateless(sql: &str) -> Self {
        Self { sql: sql.to_string(), mode: "append", key: None, expires: None }
    }

    /// A query that groups by `key`.
    pub(crate) fn grouped(sql: &str, mode: &'static str, key: &[&'static str], expires: Option<&'static str>) -> Self {
        Self { sql: sql.to_string(), mode, key: Some(key.to_vec()), expires }
    }

    /// Returns the SQL over streams whose watermarks follow `delay_seconds` behind.
    pub(crate) fn over_streams(&self, delay_seconds: i64) -> String {
        let stream = |name: &str| format!("STREAM {name} WATERMARK ts DELAY OF INTERVAL {delay_seconds} SECONDS");
        self.sql.replace("$ev2", &stream("ev2")).replace("$ev", &stream("ev"))
    }

    /// Returns the SQL over plain tables.
    pub(crate) fn over_tables(&self) -> String {
        self.sql.replace("$ev2", "ev2").replace("$ev", "ev")
    }

    /// Returns whether the query reads the second stream too.
    pub(crate) fn reads_two(&self) -> bool {
        self.sql.contains("$ev2")
    }

    /// Makes the case that runs the query over the streams' files.
    pub(crate) fn case(&self, delay_seconds: i64, ev: &[Vec<Event>], ev2: &[Vec<Event>]) -> Case {
        let mut streams = BTreeMap::from([("ev".to_string(), rows(ev))]);
        if self.reads_two() {
            streams.insert("ev2".to_string(), rows(ev2));
        }
        Case {
            sql: self.over_streams(delay_seconds),
            mode: self.mode.to_string(),
            schema: SCHEMA.to_string(),
            streams,
            statics: BTreeMap::from([("dim".to_string(), dim())]),
            ..Case::default()
        }
    }
}

/// Returns what the lines of all batches amount to: in append mode every row, in complete mode the last batch, in
/// update mode the last row of each group.
///
/// Fails where batch ids do not count up from zero, or where one batch gives one group twice.
pub(crate) fn settled(query: &Query, lines: &[Value]) -> Result<Bag, String> {
    for (expected, line) in lines.iter().enumerate() {
        if line["batch_id"].as_u64() != Some(expected as u64) {
            return Err(format!("batch {} where batch {expected} was next", line["batch_id"]));
        }
    }
    let all =
        |lines: &[Value]| -> Vec<Value> { lines.iter().flat_map(|l| l["rows"].as_array().unwrap().clone()).collect() };
    match (query.mode, &query.key) {
        ("complete", _) => Ok(bag(&all(&lines[lines.len().saturating_sub(1)..]))),
        ("update", Some(key)) => {
            let mut last: BTreeMap<String, (usize, Value)> = BTreeMap::new();
            for (batch, line) in lines.iter().enumerate() {
                for row in line["rows"].as_array().unwrap() {
                    let group = key.iter().map(|column| spelling(&row[*column])).collect::<Vec<_>>().join(" ");
                    if let Some((before, _)) = last.insert(group.clone(), (batch, row.clone()))
                        && before == batch
                    {
                        return Err(format!("batch {batch} gives group {group} twice"));
                    }
                }
            }
            Ok(bag(last.values().map(|(_, row)| row)))
        }
        _ => Ok(bag(&all(lines))),
    }
}

/// Returns what the batch's rows must amount to once every watermark stands at `watermark`: in append mode the groups
/// that are closed by then, otherwise all.
pub(crate) fn expected(query: &Query, batch_rows: &[Value], watermark: &str) -> Bag {
    match (query.mode, query.expires) {
        ("append", Some(column)) => {
            let closed = |row: &&Value| normal(&row[column]).as_str().is_some_and(|end| end <= watermark);
            bag(batch_rows.iter().filter(closed))
        }
        _ => bag(batch_rows),
    }
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use super::*;

    fn query(mode: &'static str) -> Query {
        Query::grouped("SELECT k, n FROM $ev", mode, &["k"], Some("e"))
    }

    fn line(batch_id: i64, rows: &[(&str, i64)]) -> Value {
        let rows: Vec<Value> = rows.iter().map(|(k, n)| json!({"k": k, "n": n})).collect();
        json!({"batch_id": batch_id, "rows": rows})
    }

    #[test]
    fn update_keeps_the_last_row_of_a_group() {
        let lines = [line(0, &[("a", 1), ("b", 1)]), line(1, &[("a", 2)])];
        let want = bag(&[json!({"k": "a", "n": 2}), json!({"k": "b", "n": 1})]);
        assert_eq!(settled(&query("update"), &lines), Ok(want));
        assert!(settled(&query("update"), &[line(0, &[("a", 1), ("a", 2)])]).unwrap_err().contains("twice"));
    }

    #[test]
    fn complete_keeps_the_last_batch_and_append_keeps_all() {
        let lines = [line(0, &[("a", 1)]), line(1, &[("a", 2)])];
        assert_eq!(settled(&query("complete"), &lines), Ok(bag(&[json!({"k": "a", "n": 2})])));
        assert_eq!(settled(&query("append"), &lines).unwrap().len(), 2);
    }

    #[test]
    fn a_batch_that_is_left_out_or_repeated_is_seen() {
        assert!(settled(&query("append"), &[line(0, &[]), line(2, &[])]).is_err());
        assert!(settled(&query("append"), &[line(0, &[]), line(0, &[])]).is_err());
    }

    #[test]
    fn a_window_that_ends_at_the_watermark_is_closed() {
        let rows = [json!({"e": "2026-01-01T00:00:10"}), json!({"e": "2026-01-01T00:00:10.001"})];
        assert_eq!(expected(&query("append"), &rows, &timestamp(10_000)), bag(&rows[..1]));
        assert_eq!(expected(&query("update"), &rows, &timestamp(10_000)), bag(&rows));
    }
}
