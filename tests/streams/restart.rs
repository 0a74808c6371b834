//! A query that is stopped and started again must amount to one that was not.
//!
//! Files come one at a time, and between them the whole session is dropped and built anew over the same checkpoint.
//! Each run ends with a no-data batch of its own, so batches differ; where no row is late, what they amount to must
//! not. Windows do close on the way: each file lies a minute after the one before it. Deduplication within the
//! watermark is not among the queries, because there a no-data batch changes the answer: it forgets keys earlier.

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

const SESSIONS: &str = "SELECT session_window.start AS ws, session_window.end AS we, k, count(*) AS n, sum(v) AS s, \
    avg(d) AS m FROM $ev GROUP BY session_window(ts, '6 seconds'), k";
// These go on from one file into the next.
const SESSIONS_BY_ROW: &str = "SELECT session_window.start AS ws, session_window.end AS we, k, count(*) AS n FROM $ev \
    GROUP BY session_window(ts, CASE WHEN v > 8 THEN '20 seconds' ELSE '4 seconds' END), k";
const FIRST_BY_KEY: &str = "SELECT ts, k, v, d FROM DROP_DUPLICATES($ev, k, v)";
const FIRST_BY_TIME: &str = "SELECT ts, k, v, d FROM DROP_DUPLICATES($ev, k, ts)";
const EARLIEST: &str = "SELECT k, v, ts FROM \
    (SELECT k, v, ts, ROW_NUMBER() OVER (PARTITION BY k, v ORDER BY ts) AS rn FROM $ev) AS numbered WHERE rn = 1";
const FIRST_ROWS_COUNTED: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n \
    FROM DROP_DUPLICATES($ev, k, v) GROUP BY window(ts, '10 seconds'), k";
const WINDOW_OF_WINDOWS: &str = "SELECT window.start AS ws, window.end AS we, k, sum(n) AS n, count(*) AS windows FROM \
    (SELECT window AS w, k, count(*) AS n FROM $ev GROUP BY window(ts, '10 seconds'), k) \
    GROUP BY window(w, '1 minute'), k";

/// A join of rows that lie at most 20 s apart; some have their partner in another file.
fn joined(kind: &str) -> String {
    format!(
        "SELECT a.ts AS ats, a.k AS ak, a.v AS av, b.ts AS bts, b.v AS bv FROM $ev AS a {kind} $ev2 AS b \
         ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '20' SECOND AND a.ts + INTERVAL '20' SECOND AND a.v < b.v"
    )
}

const SEMI_JOIN: &str = "SELECT a.ts AS ats, a.k AS ak, a.v AS av FROM $ev AS a LEFT SEMI JOIN $ev2 AS b \
    ON a.k = b.k AND b.ts >= a.ts AND b.ts - a.ts < INTERVAL '20' SECOND";
const JOIN_COUNTED: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(v) AS s FROM \
    (SELECT a.ts AS ts, a.k AS k, b.v AS v FROM $ev AS a JOIN $ev2 AS b \
    ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '20' SECOND) GROUP BY window(ts, '10 seconds'), k";
const WINDOWS_JOINED: &str = "SELECT a.w AS aw, b.w AS bw, a.k AS ak, b.k AS bk, n, s FROM \
    (SELECT window AS w, k, count(*) AS n FROM $ev GROUP BY window(ts, '10 seconds'), k) AS a FULL JOIN \
    (SELECT window AS w, k, sum(v) AS s FROM $ev2 GROUP BY window(ts, '10 seconds'), k) AS b \
    ON a.w = b.w AND a.k = b.k";

/// The queries that run in every mode.
fn closing(mode: &'static str) -> Vec<Query> {
    vec![
        Query::grouped(TUMBLING, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped(SLIDING, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped(BY_TIME, mode, &["ts"], Some("ts")),
        Query::grouped(UNION, mode, &["ws", "we", "k"], Some("we")),
        Query::grouped("SELECT DISTINCT ts, k FROM $ev", mode, &["ts", "k"], Some("ts")),
        Query::grouped(FIRST_ROWS_COUNTED, mode, &["ws", "we", "k"], Some("we")),
    ]
}

/// The sessions, which run in append and complete mode.
fn sessions(mode: &'static str) -> Vec<Query> {
    [SESSIONS, SESSIONS_BY_ROW].map(|sql| Query::grouped(sql, mode, &["ws", "we", "k"], Some("we"))).to_vec()
}

/// The queries of which every row stays, in append and in update mode.
fn lasting(mode: &'static str) -> Vec<Query> {
    let all = [FIRST_BY_KEY.to_string(), FIRST_BY_TIME.to_string(), joined("JOIN"), SEMI_JOIN.to_string()];
    all.iter().map(|sql| Query { mode, ..Query::stateless(sql) }).collect()
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
    all_amount_to_the_same(&[&rows[..], &closing("append"), &sessions("append"), &lasting("append")].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_append_mode_has_over_restarts() {
    let mut queries = ["LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].map(|kind| Query::stateless(&joined(kind))).to_vec();
    queries.extend([EARLIEST, WINDOW_OF_WINDOWS, JOIN_COUNTED, WINDOWS_JOINED].map(Query::stateless));
    all_amount_to_the_same(&queries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn update_mode_over_restarts() {
    let of_groups = [
        Query::grouped(EARLIEST, "update", &["k", "v"], None),
        Query::grouped(JOIN_COUNTED, "update", &["ws", "we", "k"], Some("we")),
    ];
    all_amount_to_the_same(&[closing("update"), open("update"), lasting("update"), of_groups.to_vec()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_mode_over_restarts() {
    all_amount_to_the_same(&[closing("complete"), open("complete"), sessions("complete")].concat()).await;
}
