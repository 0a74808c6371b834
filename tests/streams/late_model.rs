//! Rows that are truly late, judged by a model that looks at one row at a time.
//!
//! The model is the rule and nothing else: a batch judges its rows by the watermark the batch before it ran with and
//! closes windows by its own; a window whose end is not above the watermark is over. Streams are random, with delays
//! far too short for their disorder, and every batch must agree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::answer::{answer, first_difference};
use crate::cut_off::runtime;
use crate::model::{Modelled, Watermark, judge, times_ms};
use crate::oracle::{config, events, split};
use crate::scenario::{Event, Query, timestamp};

/// A stream with late rows, and the window and mode in which it is counted.
#[derive(Debug, Clone)]
struct Late {
    mode: &'static str,
    window_seconds: i64,
    delay_seconds: i64,
    files: Vec<Vec<Event>>,
}

impl Late {
    fn query(&self) -> Query {
        let sql = format!(
            "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(v) AS s FROM $ev \
             GROUP BY window(ts, '{} seconds'), k",
            self.window_seconds
        );
        Query::grouped(&sql, self.mode, &["ws", "we", "k"], Some("we"))
    }
}

/// A group of the model: the window's start and the key.
type Group = (i64, Option<&'static str>);

/// How many rows each group has, and the sum of what is not NULL.
type Groups = BTreeMap<Group, (i64, Option<i64>)>;

/// Counts the rows of each window as the rule says, file by file.
fn model(stream: &Late) -> Modelled {
    let window_ms = stream.window_seconds * 1000;
    let mut watermark = Watermark::new(&[stream.delay_seconds]);
    let mut groups = Groups::new();
    let mut modelled = Modelled::default();
    for file in &stream.files {
        let mut touched = BTreeSet::new();
        for event in file {
            let Some(at_ms) = event.at_ms else { continue };
            let start_ms = at_ms.div_euclid(window_ms) * window_ms;
            if start_ms + window_ms <= watermark.late_ms {
                modelled.late_rows += 1;
                continue;
            }
            let group = (start_ms, event.k);
            let (count, sum) = groups.entry(group).or_default();
            *count += 1;
            *sum = match (*sum, event.v) {
                (Some(sum), Some(v)) => Some(sum + v),
                (sum, v) => sum.or(v),
            };
            touched.insert(group);
        }
        modelled.print(given(stream, &mut groups, &touched, watermark.now_ms));
        watermark.move_on(&[times_ms(file)]);
    }
    if watermark.has_moved() {
        modelled.print(given(stream, &mut groups, &BTreeSet::new(), watermark.now_ms));
    }
    modelled
}

/// What a batch that ran with `watermark_ms` gives; the windows that are over are forgotten.
fn given(stream: &Late, groups: &mut Groups, touched: &BTreeSet<Group>, watermark_ms: i64) -> Vec<Value> {
    let window_ms = stream.window_seconds * 1000;
    let over = |start_ms: i64| start_ms + window_ms <= watermark_ms;
    let shown = |group: &Group| match stream.mode {
        "append" => over(group.0),
        _ => touched.contains(group),
    };
    let row = |((start_ms, k), (count, sum)): (&Group, &(i64, Option<i64>))| {
        let (ws, we) = (timestamp(*start_ms), timestamp(start_ms + window_ms));
        json!({"ws": ws, "we": we, "k": k, "n": count, "s": sum})
    };
    let rows: Vec<Value> = groups.iter().filter(|entry| shown(entry.0)).map(row).collect();
    groups.retain(|(start_ms, _), _| !over(*start_ms));
    rows
}

/// Streams of up to six files; some rows have no event time.
fn streams() -> impl Strategy<Value = Late> {
    let modes = prop::sample::select(vec!["append", "update"]);
    let windows = prop::sample::select(vec![5_i64, 10, 15]);
    let delays = prop::sample::select(vec![0_i64, 1, 3, 10, 20]);
    let timeless = prop::collection::vec(prop::bool::weighted(0.05), 40);
    (modes, windows, delays, events(1..40), timeless, prop::collection::vec(0_usize..40, 0..6)).prop_map(
        |(mode, window_seconds, delay_seconds, mut events, timeless, cuts)| {
            for (event, timeless) in events.iter_mut().zip(timeless) {
                if timeless {
                    event.at_ms = None;
                }
            }
            Late { mode, window_seconds, delay_seconds, files: split(events, cuts) }
        },
    )
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

/// The model against the rule's own example: a row behind the watermark of the batch before is dropped, one behind
/// the batch's own watermark is counted and closed at once, and a window that ends at the watermark is over.
#[test]
fn the_model_knows_the_example() {
    let event = |at_ms: i64, k: &'static str| Event { at_ms: Some(at_ms), k: Some(k), v: Some(1), d: 0.0 };
    let files = vec![
        vec![event(9_000, "a"), event(20_000, "a")],
        vec![event(9_000, "counted"), event(10_000, "ok")],
        vec![event(9_999, "dropped"), event(60_000, "z")],
    ];
    let stream = Late { mode: "append", window_seconds: 10, delay_seconds: 10, files };
    let modelled = model(&stream);
    assert_eq!(modelled.late_rows, 1);
    let row = |start_ms: i64, k: &str| {
        let (ws, we) = (timestamp(start_ms), timestamp(start_ms + 10_000));
        json!({"ws": ws, "we": we, "k": k, "n": 1, "s": 1})
    };
    let want = [
        json!({"batch_id": 0, "rows": []}),
        json!({"batch_id": 1, "rows": [row(0, "a"), row(0, "counted")]}),
        json!({"batch_id": 2, "rows": []}),
        json!({"batch_id": 3, "rows": [row(10_000, "ok"), row(20_000, "a")]}),
    ];
    assert_eq!(first_difference(&answer(&want), &answer(&modelled.lines)), None);
}
