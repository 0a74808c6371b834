//! Sessions of streams with rows that are truly late, judged by a model that looks at one row at a time.
//!
//! A row is first a session of its own, from its time to the end of its gap. If that has ended by the watermark the
//! batch before ran with, the row is late. Otherwise it becomes one with every session of its key that it overlaps or
//! touches. In append mode a session leaves when its end is not above the batch's own watermark; complete mode gives
//! all of them every time, forgets none, and drops late rows all the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::answer::{answer, first_difference};
use crate::cut_off::runtime;
use crate::model::{Modelled, Watermark, drifting, judge, times_ms};
use crate::oracle::config;
use crate::scenario::{Event, Query, timestamp};

/// A gap as it stands in SQL, and how long it is for a row.
type Gap = (&'static str, fn(&Event) -> i64);

const GAPS: [Gap; 4] = [
    ("'5 seconds'", |_| 5_000),
    ("'12 seconds'", |_| 12_000),
    ("CASE WHEN k = 'a' THEN '3 seconds' ELSE '9 seconds' END", |event| match event.k {
        Some("a") => 3_000,
        _ => 9_000,
    }),
    // A row whose gap is nothing is in no session.
    ("CASE WHEN v > 12 THEN '0 seconds' WHEN v IS NULL THEN '14 seconds' ELSE '4 seconds' END", |event| {
        match event.v {
            None => 14_000,
            Some(13..) => 0,
            Some(_) => 4_000,
        }
    }),
];

/// A stream with late rows, and the gap and mode in which its sessions are counted.
#[derive(Debug, Clone)]
struct Late {
    mode: &'static str,
    gap: usize,
    delay_seconds: i64,
    files: Vec<Vec<Event>>,
}

impl Late {
    fn query(&self) -> Query {
        let sql = format!(
            "SELECT session_window.start AS ws, session_window.end AS we, k, count(*) AS n, sum(v) AS s FROM $ev \
             GROUP BY session_window(ts, {}), k",
            GAPS[self.gap].0
        );
        Query::grouped(&sql, self.mode, &["ws", "we", "k"], Some("we"))
    }
}

/// A session of the model.
struct Session {
    start_ms: i64,
    end_ms: i64,
    rows: i64,
    sum: Option<i64>,
}

impl Session {
    fn touches(&self, other: &Self) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }

    fn with(self, other: &Self) -> Self {
        Self {
            start_ms: self.start_ms.min(other.start_ms),
            end_ms: self.end_ms.max(other.end_ms),
            rows: self.rows + other.rows,
            sum: match (self.sum, other.sum) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
        }
    }
}

/// The sessions of each key.
type Sessions = BTreeMap<Option<&'static str>, Vec<Session>>;

/// Puts each row into its session as the rule says, file by file.
fn model(stream: &Late) -> Modelled {
    let (_, gap_ms) = GAPS[stream.gap];
    let mut watermark = Watermark::new(&[stream.delay_seconds]);
    let mut sessions = Sessions::new();
    let mut modelled = Modelled::default();
    for file in &stream.files {
        for event in file {
            let Some(start_ms) = event.at_ms else { continue };
            let own = Session { start_ms, end_ms: start_ms + gap_ms(event), rows: 1, sum: event.v };
            if own.end_ms == own.start_ms {
                continue;
            }
            if own.end_ms <= watermark.late_ms {
                modelled.late_rows += 1;
                continue;
            }
            let of_key = sessions.entry(event.k).or_default();
            let (touched, mut apart): (Vec<Session>, Vec<Session>) =
                of_key.drain(..).partition(|session| session.touches(&own));
            apart.push(touched.iter().fold(own, Session::with));
            *of_key = apart;
        }
        modelled.print(given(stream.mode, &mut sessions, watermark.now_ms));
        watermark.move_on(&[times_ms(file)]);
    }
    if watermark.has_moved() && stream.mode == "append" {
        modelled.print(given(stream.mode, &mut sessions, watermark.now_ms));
    }
    modelled
}

/// What a batch that ran with `now_ms` gives; in append mode it is forgotten.
fn given(mode: &str, sessions: &mut Sessions, now_ms: i64) -> Vec<Value> {
    let mut rows = Vec::new();
    for (k, of_key) in sessions {
        of_key.retain(|session| {
            let over = session.end_ms <= now_ms;
            if over || mode == "complete" {
                let (ws, we) = (timestamp(session.start_ms), timestamp(session.end_ms));
                rows.push(json!({"ws": ws, "we": we, "k": k, "n": session.rows, "s": session.sum}));
            }
            !over || mode == "complete"
        });
    }
    rows
}

/// Streams of up to six files; some rows have no event time.
fn streams() -> impl Strategy<Value = Late> {
    let timeless = prop::collection::vec(prop::bool::weighted(0.05), 40);
    (select(vec!["append", "append", "complete"]), 0..GAPS.len(), select(vec![0_i64, 1, 3, 10]), drifting(), timeless)
        .prop_map(|(mode, gap, delay_seconds, mut files, timeless)| {
            for (event, timeless) in files.iter_mut().flatten().zip(timeless) {
                if timeless {
                    event.at_ms = None;
                }
            }
            Late { mode, gap, delay_seconds, files }
        })
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

/// The model against what Spark gave (`session-append` of the golden cases): a row that fills the gap between a session
/// and another row makes one of all three, and a late row does not come back as a session of its own.
#[test]
fn the_model_knows_the_example() {
    let event = |second: i64, k: &'static str| Event { at_ms: Some(second * 1000), k: Some(k), v: Some(1), d: 0.0 };
    let files = vec![
        vec![event(1, "a"), event(4, "a"), event(2, "b"), event(20, "a")],
        vec![event(8, "a"), event(12, "a"), event(40, "b")],
        vec![event(4, "a"), event(33, "a")],
        vec![event(120, "z")],
    ];
    let modelled = model(&Late { mode: "append", gap: 0, delay_seconds: 10, files: files.clone() });
    let row = |from: i64, to: i64, k: &str, n: i64| {
        let (ws, we) = (timestamp(from * 1000), timestamp(to * 1000));
        json!({"ws": ws, "we": we, "k": k, "n": n, "s": n})
    };
    let want = [
        json!({"batch_id": 0, "rows": []}),
        json!({"batch_id": 1, "rows": [row(2, 7, "b", 1)]}),
        json!({"batch_id": 2, "rows": [row(1, 17, "a", 4), row(20, 25, "a", 1)]}),
        json!({"batch_id": 3, "rows": []}),
        json!({"batch_id": 4, "rows": [row(33, 38, "a", 1), row(40, 45, "b", 1)]}),
    ];
    assert_eq!(first_difference(&answer(&want), &answer(&modelled.lines)), None);
    assert_eq!(modelled.late_rows, 1);

    let complete = model(&Late { mode: "complete", gap: 0, delay_seconds: 10, files });
    assert_eq!((complete.lines.len(), complete.late_rows), (4, 1));
    assert_eq!(complete.lines[3]["rows"].as_array().unwrap().len(), 6);
}
