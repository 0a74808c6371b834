//! Joins of two streams with rows that are truly late, judged by a model that looks at one pair of rows at a time.
//!
//! Each side judges its rows by its own event time: one that is not above the watermark the batch before ran with is
//! late. What is on time meets everything that the other side remembers, and everything that came with it. Then rows
//! that no later row can be a partner of are forgotten, by the batch's own watermark: a row of an outer side that never
//! had a partner leaves then, in the batch it came in where it came that late.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::answer::{answer, first_difference};
use crate::case::{Case, Home, Outcome, run_script};
use crate::cut_off::runtime;
use crate::model::{Modelled, Watermark, drifting, judge, times_ms};
use crate::oracle::config;
use crate::scenario::{Event, SCHEMA, rows, timestamp};

/// Two streams with late rows, and how they are joined.
#[derive(Debug, Clone)]
struct Late {
    /// Whether rows of the left that have no partner leave too.
    outer: bool,
    /// How far after a row of the left its partners lie, in seconds.
    from: i64,
    to: i64,
    /// Whether the left's `v` must be less than its partner's.
    compares: bool,
    delays_seconds: [i64; 2],
    streams: [Vec<Vec<Event>>; 2],
}

impl Late {
    fn case(&self) -> Case {
        let kind = if self.outer { "LEFT JOIN" } else { "JOIN" };
        let compares = if self.compares { " AND a.v < b.v" } else { "" };
        let [left, right] =
            self.delays_seconds.map(|seconds| format!("WATERMARK ts DELAY OF INTERVAL {seconds} SECONDS"));
        let sql = format!(
            "SELECT a.ts AS ats, a.k AS ak, a.v AS av, b.ts AS bts, b.k AS bk, b.v AS bv \
             FROM STREAM ev {left} AS a {kind} STREAM ev2 {right} AS b ON a.k = b.k \
             AND b.ts >= a.ts + INTERVAL '{} seconds' AND b.ts <= a.ts + INTERVAL '{} seconds'{compares}",
            self.from, self.to
        );
        let [ev, ev2] = &self.streams;
        Case {
            sql,
            mode: "append".to_string(),
            schema: SCHEMA.to_string(),
            streams: BTreeMap::from([("ev".to_string(), rows(ev)), ("ev2".to_string(), rows(ev2))]),
            ..Case::default()
        }
    }

    /// The rows of a batch that the join sees. Of a side that leaves only with a partner, those that cannot have one
    /// for a NULL are dropped before the watermark.
    fn seen(&self, side: usize, batch: usize) -> Vec<&Event> {
        let needs_partner = !self.outer || side == 1;
        let can_meet = |event: &&Event| event.k.is_some() && (!self.compares || event.v.is_some());
        let file = self.streams[side].get(batch).into_iter().flatten();
        file.filter(|event| !needs_partner || can_meet(event)).collect()
    }

    fn are_partners(&self, left: &Event, right: &Event) -> bool {
        let after_ms = at_ms(right) - at_ms(left);
        let keys = left.k.is_some() && left.k == right.k;
        let compared = matches!((left.v, right.v), (Some(left), Some(right)) if left < right);
        keys && (self.from * 1000..=self.to * 1000).contains(&after_ms) && (!self.compares || compared)
    }
}

/// A row that waits for partners.
struct Waiting<'a> {
    event: &'a Event,
    has_met: bool,
}

fn at_ms(event: &Event) -> i64 {
    event.at_ms.expect("every row has a time here")
}

fn row(left: &Event, right: Option<&Event>) -> Value {
    let (bts, bk, bv) = (right.map(|r| timestamp(at_ms(r))), right.and_then(|r| r.k), right.and_then(|r| r.v));
    json!({"ats": timestamp(at_ms(left)), "ak": left.k, "av": left.v, "bts": bts, "bk": bk, "bv": bv})
}

/// What a join remembers.
#[derive(Default)]
struct Remembered<'a> {
    left: Vec<Waiting<'a>>,
    right: Vec<Waiting<'a>>,
}

impl<'a> Remembered<'a> {
    /// Runs a batch and returns what it gives.
    fn run(&mut self, join: &Late, new: [Vec<&'a Event>; 2], now_ms: i64) -> Vec<Value> {
        let mut rows = Vec::new();
        let known = (self.left.len(), self.right.len());
        let [left, right] = new.map(|side| side.into_iter().map(|event| Waiting { event, has_met: false }));
        self.left.extend(left);
        self.right.extend(right);
        for (l, left) in self.left.iter_mut().enumerate() {
            for (r, right) in self.right.iter().enumerate() {
                let have_met = l < known.0 && r < known.1;
                if !have_met && join.are_partners(left.event, right.event) {
                    left.has_met = true;
                    rows.push(row(left.event, Some(right.event)));
                }
            }
        }
        self.left.retain(|left| {
            let over = at_ms(left.event) + join.to * 1000 < now_ms;
            if over && join.outer && !left.has_met {
                rows.push(row(left.event, None));
            }
            !over
        });
        self.right.retain(|right| at_ms(right.event) - join.from * 1000 >= now_ms);
        rows
    }
}

/// Joins as the rule says, batch by batch.
fn model(join: &Late) -> Modelled {
    let mut watermark = Watermark::new(&join.delays_seconds);
    let mut remembered = Remembered::default();
    let mut modelled = Modelled::default();
    let batches = join.streams.iter().map(Vec::len).max().unwrap_or(0);
    for batch in 0..batches {
        let seen = [join.seen(0, batch), join.seen(1, batch)];
        let times_ms = seen.each_ref().map(|side| times_ms(side.iter().copied()));
        let late_ms = watermark.late_ms;
        let on_time = seen.map(|mut side| {
            let all = side.len();
            side.retain(|event| at_ms(event) > late_ms);
            modelled.late_rows += (all - side.len()) as u64;
            side
        });
        modelled.print(remembered.run(join, on_time, watermark.now_ms));
        watermark.move_on(&times_ms);
    }
    if watermark.has_moved() {
        modelled.print(remembered.run(join, [Vec::new(), Vec::new()], watermark.now_ms));
    }
    modelled
}

fn joins() -> impl Strategy<Value = Late> {
    let ranges = select(vec![(0_i64, 10_i64), (-5, 5), (-10, 0), (3, 12), (0, 0), (-15, -4)]);
    let delays = || select(vec![0_i64, 1, 3, 10]);
    (prop::bool::ANY, ranges, prop::bool::ANY, delays(), delays(), drifting(), drifting()).prop_map(
        |(outer, (from, to), compares, left, right, ev, ev2)| Late {
            outer,
            from,
            to,
            compares,
            delays_seconds: [left, right],
            streams: [ev, ev2],
        },
    )
}

#[test]
fn late_rows_are_dropped_as_the_model_drops_them() {
    let runtime = runtime();
    let test = |join: Late| runtime.block_on(judge(&join.case(), &model(&join))).map_err(TestCaseError::fail);
    if let Err(failure) = TestRunner::new(config()).run(&joins(), test) {
        panic!("{failure}");
    }
}

/// The model against what Spark gave (`left-join` of the golden cases): a row that comes after its bound has passed but
/// is not late by the batch before leaves alone in its own batch.
#[test]
fn the_model_knows_the_example() {
    let event = |second: i64, k: &'static str| Event { at_ms: Some(second * 1000), k: Some(k), v: Some(1), d: 0.0 };
    let left = vec![
        vec![event(5, "a"), event(6, "x")],
        vec![event(30, "b")],
        vec![event(31, "c"), event(1, "late")],
        vec![event(90, "e")],
        vec![event(91, "g")],
    ];
    let right = [(7, "a"), (35, "zz"), (36, "b"), (90, "f"), (91, "h")].map(|(second, k)| vec![event(second, k)]);
    let streams = [left, right.to_vec()];
    let join = Late { outer: true, from: 0, to: 10, compares: false, delays_seconds: [10, 10], streams };
    let modelled = model(&join);
    let alone = |second: i64, k: &'static str| row(&event(second, k), None);
    let pair = |second: i64, partner: i64, k: &'static str| row(&event(second, k), Some(&event(partner, k)));
    let want = [
        json!({"batch_id": 0, "rows": [pair(5, 7, "a")]}),
        json!({"batch_id": 1, "rows": []}),
        json!({"batch_id": 2, "rows": [alone(1, "late"), alone(6, "x"), pair(30, 36, "b")]}),
        json!({"batch_id": 3, "rows": []}),
        json!({"batch_id": 4, "rows": [alone(31, "c")]}),
        json!({"batch_id": 5, "rows": []}),
    ];
    assert_eq!(first_difference(&answer(&want), &answer(&modelled.lines)), None);
    assert_eq!(modelled.late_rows, 0);
}

/// A row of the outer side without an event time: it can have no partner, and no watermark would ever pass it.
#[tokio::test]
async fn rows_without_a_time_are_counted_and_not_remembered() {
    let event = |second: Option<i64>, k| Event { at_ms: second.map(|s| s * 1000), k: Some(k), v: Some(1), d: 0.0 };
    let left = vec![vec![event(Some(5), "a"), event(None, "a"), event(None, "b")], vec![event(Some(90), "c")]];
    let right = vec![vec![event(Some(7), "a"), event(None, "a")], vec![event(Some(90), "c")]];
    let case =
        Late { outer: true, from: 0, to: 10, compares: false, delays_seconds: [0, 0], streams: [left, right] }.case();
    let mut home = Home::new(&case);
    home.add_files(&case.streams);
    let Outcome { lines, reports, end } = run_script(&home.script(&case)).await;
    end.unwrap();
    let rows = lines.iter().flat_map(|line| line["rows"].as_array().unwrap());
    assert_eq!(rows.map(|row| row["bk"].as_str()).collect::<Vec<_>>(), [Some("a"), Some("c")]);
    let operators = || reports.iter().flat_map(|report| &report.state_operators);
    let timeless: i64 = operators().map(|operator| operator.custom_metrics["rowsWithoutEventTime"]).sum();
    // That of the right was filtered out as one that meets nothing, before the join.
    assert_eq!(timeless, 2);
    assert_eq!(operators().next_back().unwrap().num_rows_total, 2);
}
