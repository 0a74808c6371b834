//! A query that is stopped and started again must amount to one that was not.
//!
//! Files come one at a time, and between them the whole session is dropped and built anew over the same checkpoint.
//! Each run ends with a no-data batch of its own, so batches differ; where no row is late, what they amount to must
//! not. Windows do close on the way: each file lies a minute after the one before it.

use crate::answer::difference;
use crate::case::{Home, Outcome, run_script};
use crate::scenario::{Event, Query, settled};

/// How many files each stream has.
const FILES: i64 = 5;

/// How far watermarks follow behind: a file spans less, and files lie this far apart.
const DELAY_SECONDS: i64 = 60;

/// The files of a stream: rows in disorder within their minute, and at the end one that closes all windows.
fn stream(seed: i64) -> Vec<Vec<Event>> {
    let event = |file: i64, number: i64| Event {
        at_ms: Some(file * DELAY_SECONDS * 1000 + (number * 7919 + seed * 131) % 50_000),
        k: [None, Some("a"), Some("b"), Some("c")][usize::try_from((number + seed) % 4).unwrap()],
        v: (number % 6 != 5).then_some((number * 13 + file) % 23 - 3),
        d: f64::from(i32::try_from((number * 31 + seed) % 80).unwrap() - 40) / 4.0,
    };
    let mut files: Vec<Vec<Event>> =
        (0..FILES).map(|file| (0..12).map(|number| event(file, number)).collect()).collect();
    files.last_mut().unwrap().push(Event::far_future());
    files
}

/// Stops and starts the query after each file, and says how that differs from running it once over all.
async fn judge(query: &Query) -> Result<(), String> {
    let (ev, ev2) = (stream(1), stream(2));
    let case = query.case(DELAY_SECONDS, &ev, &ev2);

    let mut unbroken = Home::new(&case);
    unbroken.add_files(&case.streams);
    let Outcome { lines, end, .. } = run_script(&unbroken.script(&case)).await;
    end.map_err(|error| format!("the unbroken run failed: {error}"))?;
    let want = settled(query, &lines).map_err(|why| format!("the unbroken run: {why}"))?;

    let mut home = Home::new(&case);
    let mut printed = Vec::new();
    for file in 0..usize::try_from(FILES).unwrap() {
        for (table, files) in &case.streams {
            home.add_file(table, &files[file]);
        }
        let Outcome { lines, end, .. } = run_script(&home.script(&case)).await;
        end.map_err(|error| format!("run {file} failed: {error}"))?;
        if lines.is_empty() {
            return Err(format!("run {file} printed nothing"));
        }
        printed.extend(lines);
    }
    let Outcome { lines, end, .. } = run_script(&home.script(&case)).await;
    end.map_err(|error| format!("the run without new files failed: {error}"))?;
    if !lines.is_empty() {
        return Err(format!("the run without new files printed {lines:?}"));
    }
    let have = settled(query, &printed)?;
    difference(&want, &have).map_or(Ok(()), Err)
}

/// Judges all queries and fails with a list of those that differ.
async fn all_amount_to_the_same(queries: &[Query]) {
    let mut wrong = Vec::new();
    for query in queries {
        if let Err(why) = judge(query).await {
            wrong.push(format!("[{}] {why}\n    {}", query.mode, query.sql));
        }
    }
    assert!(wrong.is_empty(), "{} of {} queries differ:\n{}", wrong.len(), queries.len(), wrong.join("\n"));
}

const TUMBLING: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(v) AS s, \
    count(DISTINCT v) AS dv, avg(d) AS m FROM $ev GROUP BY window(ts, '10 seconds'), k";
const SLIDING: &str = "SELECT window.start AS ws, window.end AS we, k, max(v) AS hi, stddev_samp(d) AS sdv FROM $ev \
    GROUP BY window(ts, '20 seconds', '4 seconds'), k";
const BY_TIME: &str = "SELECT ts, count(*) AS n FROM $ev GROUP BY ts";
const BY_KEY: &str = "SELECT k, count(*) AS n, sum(v) AS s, min(d) AS lo FROM $ev GROUP BY k";
const GLOBAL: &str = "SELECT count(*) AS n, sum(v) AS s, max(k) AS kk FROM $ev";
const UNION: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n FROM \
    (SELECT ts, k FROM $ev UNION ALL SELECT ts, k FROM $ev2) GROUP BY window(ts, '10 seconds'), k";

/// The queries that run in every mode.
fn closing(mode: &'static str) -> Vec<Query> {
    vec![
        Query::grouped(TUMBLING, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped(SLIDING, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped(BY_TIME, mode, &["ts"], Some("ts")),
        Query::grouped(UNION, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped("SELECT DISTINCT ts, k FROM $ev", mode, &["ts", "k"], Some("ts")),
    ]
}

/// The queries whose groups never close.
fn open(mode: &'static str) -> Vec<Query> {
    vec![
        Query::grouped(BY_KEY, mode, &["k"], None),
        Query::grouped(GLOBAL, mode, &[], None),
        Query::grouped("SELECT DISTINCT k, v FROM $ev", mode, &["k", "v"], None),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn append_mode_over_restarts() {
    let rows = [
        Query::stateless("SELECT ts, k, v * 2 AS v2 FROM $ev WHERE v > 0"),
        Query::stateless("SELECT e.ts, e.v, s.name FROM $ev AS e LEFT JOIN dim AS s ON e.k = s.k"),
        Query::stateless("SELECT ts, k FROM $ev UNION ALL SELECT ts, k FROM $ev2"),
        Query::stateless("SELECT ts, k, v FROM $ev LIMIT 20"),
    ];
    all_amount_to_the_same(&[&rows[..], &closing("append")].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn update_mode_over_restarts() {
    all_amount_to_the_same(&[closing("update"), open("update")].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_mode_over_restarts() {
    all_amount_to_the_same(&[closing("complete"), open("complete")].concat()).await;
}
