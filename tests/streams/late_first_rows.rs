//! The first row of each key, in streams with rows that are truly late, judged by a model that looks at one row at a
//! time.
//!
//! In all four ways a row whose time is not above the watermark the batch before ran with is late and counts for
//! nothing. Deduplication lets the first row through that comes; it remembers the key for ever, or until the batch's
//! own watermark reaches the key's own time, or the delay after the time of the row that came first. It looks a key up
//! before it forgets any. `ROW_NUMBER() … = 1` lets the earliest through: in append mode once nothing earlier can
//! come, in update mode whenever there is a new one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::answer::{answer, first_difference};
use crate::cut_off::runtime;
use crate::model::{Modelled, Watermark, drifting, judge, times_ms};
use crate::oracle::config;
use crate::scenario::{Event, Query, timestamp};

/// Which rows are let through.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kept {
    /// The first to come of each `k`.
    ByKey,
    /// The first to come of each `k` and event time.
    ByKeyAndTime,
    /// The first to come of each `k`, which is forgotten again.
    WithinWatermark,
    /// The earliest of each `k`.
    Earliest,
}

/// A stream with late rows, and which of them are kept.
#[derive(Debug, Clone)]
struct Late {
    kept: Kept,
    mode: &'static str,
    delay_seconds: i64,
    files: Vec<Vec<Event>>,
}

impl Late {
    fn query(&self) -> Query {
        let sql = match self.kept {
            Kept::ByKey => "SELECT ts, k, v FROM DROP_DUPLICATES($ev, k)",
            Kept::ByKeyAndTime => "SELECT ts, k, v FROM DROP_DUPLICATES($ev, k, ts)",
            Kept::WithinWatermark => "SELECT ts, k, v FROM DROP_DUPLICATES_WITHIN_WATERMARK($ev, k)",
            Kept::Earliest => {
                "SELECT ts, k, v FROM (SELECT ts, k, v, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts) AS rn \
                 FROM $ev) AS numbered WHERE rn = 1"
            }
        };
        Query { mode: self.mode, ..Query::stateless(sql) }
    }
}

/// What a key is, for deduplication by time as well.
type Key = (Option<&'static str>, Option<i64>);

/// Keeps the first row of each key as the rule says, file by file.
fn model(stream: &Late) -> Modelled {
    let mut watermark = Watermark::new(&[stream.delay_seconds]);
    let mut modelled = Modelled::default();
    let mut remembered = Remembered::default();
    for file in &stream.files {
        let on_time: Vec<&Event> = file.iter().filter(|event| at_ms(event) > watermark.late_ms).collect();
        modelled.late_rows += (file.len() - on_time.len()) as u64;
        modelled.print(remembered.run(stream, &on_time, watermark.now_ms));
        watermark.move_on(&[times_ms(file)]);
    }
    if watermark.has_moved() {
        modelled.print(remembered.run(stream, &[], watermark.now_ms));
    }
    modelled
}

fn at_ms(event: &Event) -> i64 {
    event.at_ms.expect("every row has a time here")
}

fn row(event: &Event) -> Value {
    json!({"ts": timestamp(at_ms(event)), "k": event.k, "v": event.v})
}

/// What is remembered of the rows before.
#[derive(Default)]
struct Remembered<'a> {
    /// When each key is forgotten; none where it never is.
    keys: BTreeMap<Key, Option<i64>>,
    /// The earliest row of each key, and whether it has left.
    earliest: BTreeMap<Option<&'static str>, (&'a Event, bool)>,
}

impl<'a> Remembered<'a> {
    /// Runs a batch and returns what it gives.
    fn run(&mut self, stream: &Late, on_time: &[&'a Event], now_ms: i64) -> Vec<Value> {
        match stream.kept {
            Kept::Earliest => self.earliest(stream.mode, on_time, now_ms),
            _ => self.first(stream, on_time, now_ms),
        }
    }

    fn first(&mut self, stream: &Late, on_time: &[&Event], now_ms: i64) -> Vec<Value> {
        let mut rows = Vec::new();
        for event in on_time {
            let (key, forgotten_ms) = match stream.kept {
                Kept::ByKeyAndTime => ((event.k, event.at_ms), event.at_ms),
                Kept::WithinWatermark => ((event.k, None), Some(at_ms(event) + stream.delay_seconds * 1000)),
                Kept::ByKey | Kept::Earliest => ((event.k, None), None),
            };
            self.keys.entry(key).or_insert_with(|| {
                rows.push(row(event));
                forgotten_ms
            });
        }
        self.keys.retain(|_, forgotten_ms| forgotten_ms.is_none_or(|ms| ms > now_ms));
        rows
    }

    fn earliest(&mut self, mode: &str, on_time: &[&'a Event], now_ms: i64) -> Vec<Value> {
        let mut changed = BTreeSet::new();
        for &event in on_time {
            let earlier = self.earliest.get(&event.k).is_none_or(|(first, _)| at_ms(event) < at_ms(first));
            if earlier {
                self.earliest.insert(event.k, (event, false));
                changed.insert(event.k);
            }
        }
        let mut rows = Vec::new();
        for (k, (event, has_left)) in &mut self.earliest {
            let leaves = match mode {
                "append" => !*has_left && at_ms(event) <= now_ms,
                _ => changed.contains(k),
            };
            if leaves {
                *has_left = true;
                rows.push(row(event));
            }
        }
        rows
    }
}

fn streams() -> impl Strategy<Value = Late> {
    let kept =
        select(vec![Kept::ByKey, Kept::ByKeyAndTime, Kept::WithinWatermark, Kept::WithinWatermark, Kept::Earliest]);
    (kept, select(vec!["append", "update"]), select(vec![0_i64, 1, 3, 10]), drifting())
        .prop_map(|(kept, mode, delay_seconds, files)| Late { kept, mode, delay_seconds, files })
}

#[test]
fn late_rows_are_dropped_as_the_model_drops_them() {
    let runtime = runtime();
    let test = |stream: Late| {
        let case = stream.query().case(stream.delay_seconds, &stream.files, &[]);
        runtime.block_on(judge(&case, &model(&stream))).map_err(TestCaseError::fail)
    };
    if let Err(failure) = TestRunner::new(config()).run(&streams(), test) {
        panic!("{failure}");
    }
}

/// The model against what Spark gave (`drop-duplicates-within-watermark` of the golden cases): a key holds rows back
/// that come long after it should have been forgotten, because nothing was forgotten before they came.
#[test]
fn the_model_knows_the_example() {
    let event = |second: i64, k: &'static str| Event { at_ms: Some(second * 1000), k: Some(k), v: Some(1), d: 0.0 };
    let files = vec![
        vec![event(1, "a"), event(2, "a"), event(20, "b")],
        vec![event(11, "a"), event(15, "a"), event(9, "new"), event(10, "eq")],
        vec![event(31, "c")],
        vec![event(22, "a"), event(21, "b"), event(60, "d")],
        vec![event(61, "b")],
    ];
    let stream = |kept, mode| Late { kept, mode, delay_seconds: 10, files: files.clone() };
    let batch = |id: i64, rows: &[(i64, &'static str)]| {
        let rows: Vec<Value> = rows.iter().map(|(second, k)| row(&event(*second, k))).collect();
        json!({"batch_id": id, "rows": rows})
    };
    let want = [
        batch(0, &[(1, "a"), (20, "b")]),
        batch(1, &[(9, "new"), (10, "eq")]),
        batch(2, &[(31, "c")]),
        batch(3, &[(60, "d")]),
        batch(4, &[]),
        batch(5, &[]),
    ];
    for kept in [Kept::WithinWatermark, Kept::ByKey] {
        let modelled = model(&stream(kept, "append"));
        assert_eq!(first_difference(&answer(&want), &answer(&modelled.lines)), None, "{kept:?}");
        assert_eq!(modelled.late_rows, 0);
    }
    let want = [
        batch(0, &[]),
        batch(1, &[(1, "a"), (9, "new"), (10, "eq")]),
        batch(2, &[]),
        batch(3, &[(20, "b")]),
        batch(4, &[(31, "c")]),
        batch(5, &[]),
    ];
    let modelled = model(&stream(Kept::Earliest, "append"));
    assert_eq!(first_difference(&answer(&want), &answer(&modelled.lines)), None);
}
