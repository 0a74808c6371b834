//! The oracle: a stream must amount to what the same SQL gives over the same rows as one batch.
//!
//! It stands apart from the engine's state, watermarks and output modes, because a batch has none of them. Streams
//! are random rows in random order, cut into random files; the delay exceeds all disorder, so that no row is late,
//! and each source ends with a row so far ahead that every other window closes.
//!
//! A stream is not left in peace: it is cut off after random batches ([`super::cut_off`]) and started again. What its
//! runs print together, a batch that was under way twice counted once, must amount to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use millstream::session::Session;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::answer::{bag, difference};
use crate::case::{Case, Home, literal, write_rows};
use crate::cut_off::{self, CutOff, Run, runtime};
use crate::scenario::{Event, FAR_FUTURE_MS, Query, SCHEMA, expected, settled, timestamp};

/// How far watermarks follow behind: longer than all rows but the last span.
pub(crate) const DELAY_SECONDS: i64 = 130;

/// The span of the rows but the last, in milliseconds.
pub(crate) const SPAN_MS: i64 = 120_000;

/// What a query may aggregate.
const AGGREGATES: [&str; 12] = [
    "count(*) AS n",
    "count(v) AS nv",
    "count(DISTINCT v) AS dv",
    "sum(v) AS s",
    "min(v) AS lo",
    "max(v) AS hi",
    "sum(d) AS sd",
    "avg(d) AS m",
    "min(d) AS ld",
    "max(k) AS kk",
    "stddev_samp(d) AS sdv",
    "sum(CASE WHEN v > 5 THEN 1 ELSE 0 END) AS big",
];

/// What a query may filter by; the row that closes all windows passes each.
const FILTERS: [&str; 4] = ["", " WHERE v > 0", " WHERE k <> 'a' AND d < 8", " WHERE ts IS NOT NULL"];

const WINDOWS: [&str; 8] = [
    "'5 seconds'",
    "'10 seconds'",
    "'15 seconds'",
    "'10 seconds', '10 seconds', '3 seconds'",
    "'10 seconds', '5 seconds'",
    "'15 seconds', '5 seconds'",
    "'20 seconds', '4 seconds'",
    "'10 seconds', '4 seconds'",
];

const STATELESS: [&str; 4] = [
    "SELECT upper(k) AS k, v * 2 AS v2, d + 0.5 AS d2, ts FROM $ev WHERE v IS NOT NULL AND v % 3 <> 0",
    "SELECT ts, k, CASE WHEN v > 10 THEN 'hi' WHEN v IS NULL THEN 'none' ELSE 'lo' END AS c FROM $ev",
    "SELECT concat(k, '-', CAST(v AS STRING)) AS kv, coalesce(v, -1) AS v FROM $ev WHERE ts IS NOT NULL",
    "SELECT a.k, a.v FROM $ev AS a WHERE a.k IN ('a', 'b') UNION ALL SELECT b.k, b.v FROM $ev2 AS b",
];

const STATIC_JOINS: [&str; 4] = [
    "SELECT e.ts, e.k, e.v, s.name, e.v * s.rate AS amount FROM $ev AS e JOIN dim AS s ON e.k = s.k",
    "SELECT e.ts, e.k, e.v, s.name, e.v * s.rate AS amount FROM $ev AS e LEFT JOIN dim AS s ON e.k = s.k",
    "SELECT e.ts, e.k, e.v FROM $ev AS e LEFT SEMI JOIN dim AS s ON e.k = s.k",
    "SELECT e.ts, e.k, e.v FROM $ev AS e LEFT ANTI JOIN dim AS s ON e.k = s.k",
];

const JOIN_THEN_WINDOW: &str = "SELECT window.start AS ws, window.end AS we, s.name AS name, \
    sum(e.v * s.rate) AS amount, count(*) AS n FROM $ev AS e JOIN dim AS s ON e.k = s.k \
    GROUP BY window(ts, '10 seconds'), s.name";

const UNION_THEN_WINDOW: &str = "SELECT window.start AS ws, window.end AS we, k AS g0, count(*) AS n, sum(v) AS s \
    FROM (SELECT ts, k, v FROM $ev UNION ALL SELECT ts, k, v FROM $ev2) GROUP BY window(ts, '10 seconds'), k";

/// A query over two streams of files, of which it may read only the first.
#[derive(Debug, Clone)]
struct Scenario {
    query: Query,
    ev: Vec<Vec<Event>>,
    ev2: Vec<Vec<Event>>,
    /// The batches after which the stream is cut off.
    cuts: BTreeSet<i64>,
}

/// Random rows, in no order of time.
pub(crate) fn events(count: Range<usize>) -> impl Strategy<Value = Vec<Event>> {
    // Half of the rows lie on a full second, where windows begin and end.
    let times = prop_oneof![0..SPAN_MS, (0..SPAN_MS / 1000).prop_map(|second| second * 1000)];
    let keys = prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    let values = prop_oneof![1 => Just(None), 5 => (-3_i64..20).prop_map(Some)];
    let event = (times, keys, values, -40_i32..40).prop_map(|(at_ms, k, v, quarters)| Event {
        at_ms: Some(at_ms),
        k,
        v,
        d: f64::from(quarters) / 4.0,
    });
    prop::collection::vec(event, count)
}

/// Cuts rows into files at the places given; a place twice makes an empty file.
pub(crate) fn split(events: Vec<Event>, mut cuts: Vec<usize>) -> Vec<Vec<Event>> {
    for cut in &mut cuts {
        *cut = (*cut).min(events.len());
    }
    cuts.push(events.len());
    cuts.sort_unstable();
    let mut from = 0;
    let mut files = Vec::new();
    for cut in cuts {
        files.push(events[from..cut].to_vec());
        from = cut;
    }
    files
}

/// A source: rows in one to six files, the last of which ends with the row that closes all windows.
pub(crate) fn source() -> impl Strategy<Value = Vec<Vec<Event>>> {
    (events(0..40), prop::collection::vec(0_usize..40, 0..6)).prop_map(|(events, cuts)| {
        let mut files = split(events, cuts);
        files.last_mut().unwrap().push(Event::far_future());
        files
    })
}

/// One to four different aggregates.
pub(crate) fn aggregates() -> impl Strategy<Value = String> {
    prop::collection::vec(0..AGGREGATES.len(), 1..=4).prop_map(|mut chosen| {
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(|index| AGGREGATES[index]).collect::<Vec<_>>().join(", ")
    })
}

fn any_mode() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["append", "update", "complete"])
}

fn update_or_complete() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["update", "complete"])
}

pub(crate) fn append_or_update() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["append", "update"])
}

/// Groups by a window and up to two further keys.
fn windowed() -> impl Strategy<Value = Query> {
    let having = prop::sample::select(vec!["", " HAVING count(*) > 1"]);
    let window = prop::sample::select(WINDOWS.to_vec());
    let filter = prop::sample::select(FILTERS.to_vec());
    (window, 0_usize..=2, aggregates(), filter, having, any_mode()).prop_map(
        |(window, further, aggregates, filter, having, mode)| {
            let names = ["k AS g0, ", "v % 2 AS g1, "][..further].concat();
            let keys = [", k", ", v % 2"][..further].concat();
            let sql = format!(
                "SELECT window.start AS ws, window.end AS we, {names}{aggregates} FROM $ev{filter} \
                 GROUP BY window(ts, {window}){keys}{having}"
            );
            Query::grouped(&sql, mode, &["ws", "we", "g0", "g1"][..2 + further], Some("we"))
        },
    )
}

/// Groups by up to two keys without a time.
fn unwindowed() -> impl Strategy<Value = Query> {
    let filter = prop::sample::select(FILTERS.to_vec());
    (0_usize..=2, aggregates(), filter, update_or_complete()).prop_map(|(keys, aggregates, filter, mode)| {
        let names = ["k AS g0, ", "v > 3 AS g1, "][..keys].concat();
        let by = ["", " GROUP BY k", " GROUP BY k, v > 3"][keys];
        let sql = format!("SELECT {names}{aggregates} FROM $ev{filter}{by}");
        Query::grouped(&sql, mode, &["g0", "g1"][..keys], None)
    })
}

/// Groups by the event time itself.
fn by_time() -> impl Strategy<Value = Query> {
    (aggregates(), any_mode()).prop_map(|(aggregates, mode)| {
        Query::grouped(&format!("SELECT ts, {aggregates} FROM $ev GROUP BY ts"), mode, &["ts"], Some("ts"))
    })
}

/// SELECT DISTINCT, which groups without aggregating.
fn distinct() -> impl Strategy<Value = Query> {
    prop_oneof![
        any_mode().prop_map(|mode| Query::grouped("SELECT DISTINCT ts, k FROM $ev", mode, &["ts", "k"], Some("ts"))),
        update_or_complete().prop_map(|mode| Query::grouped("SELECT DISTINCT k, v FROM $ev", mode, &["k", "v"], None)),
    ]
}

/// Rows that leave as they come, joined to a static table or not.
fn stateless() -> impl Strategy<Value = Query> {
    let sql = prop::sample::select([STATELESS, STATIC_JOINS].concat());
    (sql, append_or_update()).prop_map(|(sql, mode)| Query { mode, ..Query::stateless(sql) })
}

/// A window over what a static join or a union of two streams gives.
fn windowed_after() -> impl Strategy<Value = Query> {
    let shapes = vec![(JOIN_THEN_WINDOW, "name"), (UNION_THEN_WINDOW, "g0")];
    (prop::sample::select(shapes), any_mode())
        .prop_map(|((sql, key), mode)| Query::grouped(sql, mode, &["ws", "we", key], Some("we")))
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let query = prop_oneof![
        4 => windowed(),
        2 => unwindowed(),
        1 => by_time(),
        1 => distinct(),
        2 => stateless(),
        2 => windowed_after(),
    ];
    // A source has at most six files, each a batch; one without data may follow.
    let cuts = prop::collection::btree_set(0_i64..7, 0..=3);
    (query, source(), source(), cuts).prop_map(|(query, ev, ev2, cuts)| Scenario { query, ev, ev2, cuts })
}

/// Runs the scenario as a stream and as a batch and says how they differ, or else in how many runs the stream ended.
fn judge(runtime: &Runtime, scenario: &Scenario) -> Result<usize, String> {
    let query = &scenario.query;
    let case = query.case(DELAY_SECONDS, &scenario.ev, &scenario.ev2);
    let mut home = Home::new(&case);
    home.add_files(&case.streams);
    let script = home.script(&case);
    let (lines, runs) = run_in_pieces(&script, &scenario.cuts).map_err(|why| format!("{why}\n{script}"))?;
    let batch = runtime.block_on(batch_rows(&home, &case, &query.over_tables()))?;
    let watermark = timestamp(FAR_FUTURE_MS - DELAY_SECONDS * 1000);
    let have = settled(query, &lines).map_err(|why| format!("{why}\n{script}"))?;
    match difference(&expected(query, &batch, &watermark), &have) {
        Some(why) => Err(format!("{why}\n{script}")),
        None => Ok(runs),
    }
}

/// Runs a script until it ends by itself, cut off after the batches `cuts` on the way. Returns the last line that was
/// printed for each batch, in order, and the number of runs.
fn run_in_pieces(script: &str, cuts: &BTreeSet<i64>) -> Result<(Vec<Value>, usize), String> {
    let mut printed = BTreeMap::new();
    let mut runs = 0;
    loop {
        // A batch ends one run at most, so that one more run than there are cuts is left alone.
        let cut = (runs < cuts.len()).then(|| {
            let cuts = cuts.clone();
            CutOff::after(move |progress| cuts.contains(&progress.batch_id))
        });
        runs += 1;
        let Run { watched, ended } = cut_off::run(script, cut.as_ref()).map_err(|why| format!("run {runs}: {why}"))?;
        take_in(&mut printed, watched.batches()).map_err(|why| format!("run {runs}: {why}"))?;
        if ended {
            return Ok((printed.into_values().collect(), runs));
        }
    }
}

/// Takes in what one run printed. It goes on where those before it ended, or begins with their last batch again.
///
/// Fails where a batch is left out or comes again later, or where it is another when it comes again.
fn take_in(printed: &mut BTreeMap<i64, Value>, lines: Vec<Value>) -> Result<(), String> {
    for (index, line) in lines.into_iter().enumerate() {
        let id = line["batch_id"].as_i64().unwrap();
        let next = printed.last_key_value().map_or(0, |(last, _)| last + 1);
        let rows = |line: &Value| bag(line["rows"].as_array().unwrap());
        match printed.get(&id) {
            None if id == next => {}
            Some(before) if index == 0 && id + 1 == next => {
                if let Some(why) = difference(&rows(before), &rows(&line)) {
                    return Err(format!("batch {id} is another when it runs again: {why}"));
                }
            }
            _ => return Err(format!("batch {id} where batch {next} was next")),
        }
        printed.insert(id, line);
    }
    Ok(())
}

/// Returns the rows the SQL gives over tables that hold all rows of all files.
pub(crate) async fn batch_rows(home: &Home, case: &Case, sql: &str) -> Result<Vec<Value>, String> {
    let mut script = home.static_tables(case);
    for (table, files) in &case.streams {
        let path = home.path(&format!("all_{table}.json"));
        write_rows(&path, &files.concat());
        let location = literal(&path);
        script.push(format!("CREATE EXTERNAL TABLE {table} ({SCHEMA}) STORED AS JSON LOCATION '{location}';"));
    }
    let session = Session::builder().build();
    session.run_script(&script.join("\n")).await.map_err(|error| format!("the batch's tables failed: {error}"))?;
    let frame = session.sql(sql).await.map_err(|error| format!("the batch failed: {error}\n{sql}"))?;
    let batches = frame.collect().await.map_err(|error| format!("the batch failed: {error}\n{sql}"))?;
    Ok(json_rows(&batches))
}

/// Returns record batches as rows of JSON, NULLs written out.
fn json_rows(batches: &[RecordBatch]) -> Vec<Value> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<Vec<u8>, LineDelimited>(Vec::new());
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As many cases as `PROPTEST_CASES` says, else 32; shrinking stops early, since each step runs a whole script.
pub(crate) fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32);
    ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn a_stream_amounts_to_its_batch() {
    let runtime = runtime();
    let test = |scenario: Scenario| judge(&runtime, &scenario).map(|_| ()).map_err(TestCaseError::fail);
    if let Err(failure) = TestRunner::new(config()).run(&scenarios(), test) {
        panic!("{failure}");
    }
}

/// A source that is no matter of dice: forty rows in four files, one of them empty.
fn fixed_source(from: i64) -> Vec<Vec<Event>> {
    let event = |number: i64| Event {
        at_ms: Some(number * 7919 % SPAN_MS),
        k: [None, Some("a"), Some("b"), Some("c")][usize::try_from(number % 4).unwrap()],
        v: (number % 6 != 5).then_some(number * 13 % 23 - 3),
        d: f64::from(i32::try_from(number * 31 % 80).unwrap() - 40) / 4.0,
    };
    let mut files = split((from..from + 40).map(event).collect(), vec![7, 7, 20]);
    files.last_mut().unwrap().push(Event::far_future());
    files
}

/// Every query of the lists is asked at least once, whatever the dice say.
#[test]
fn every_listed_query_amounts_to_its_batch() {
    let mut queries: Vec<Query> = [STATELESS, STATIC_JOINS].concat().into_iter().map(Query::stateless).collect();
    for mode in ["append", "update", "complete"] {
        let all = AGGREGATES.join(", ");
        for window in WINDOWS {
            let sql = format!(
                "SELECT window.start AS ws, window.end AS we, k AS g0, {all} FROM $ev GROUP BY window(ts, {window}), k"
            );
            queries.push(Query::grouped(&sql, mode, &["ws", "we", "g0"], Some("we")));
        }
        queries.push(Query::grouped(JOIN_THEN_WINDOW, mode, &["ws", "we", "name"], Some("we")));
        queries.push(Query::grouped(UNION_THEN_WINDOW, mode, &["ws", "we", "g0"], Some("we")));
    }
    let runtime = runtime();
    let mut wrong = Vec::new();
    for query in queries {
        let scenario = Scenario { query, ev: fixed_source(1), ev2: fixed_source(100), cuts: BTreeSet::new() };
        if let Err(why) = judge(&runtime, &scenario) {
            wrong.push(format!("[{}] {why}", scenario.query.mode));
        }
    }
    assert!(wrong.is_empty(), "{} queries differ from their batch:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A stream that is never cut off would amount to its batch as well.
#[test]
fn a_stream_is_cut_off_on_the_way() {
    let runtime = runtime();
    for mode in ["append", "update", "complete"] {
        let query = Query::grouped(UNION_THEN_WINDOW, mode, &["ws", "we", "g0"], Some("we"));
        let cuts = (0..7).collect();
        let runs = judge(&runtime, &Scenario { query, ev: fixed_source(1), ev2: fixed_source(100), cuts });
        assert!(runs.as_ref().is_ok_and(|runs| *runs > 1), "[{mode}] {runs:?}");
    }
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use serde_json::json;

    use super::*;

    fn lines(ids: &[i64]) -> Vec<Value> {
        ids.iter().map(|id| json!({"batch_id": id, "rows": [{"n": id}]})).collect()
    }

    #[test]
    fn runs_go_on_where_the_last_one_ended() {
        let mut printed = BTreeMap::new();
        for ids in [&[0, 1][..], &[1, 2], &[], &[3], &[3]] {
            assert_eq!(take_in(&mut printed, lines(ids)), Ok(()), "{ids:?}");
        }
        assert_eq!(printed.into_values().collect::<Vec<_>>(), lines(&[0, 1, 2, 3]));
    }

    #[test]
    fn a_batch_that_is_left_out_or_comes_too_late_again_is_seen() {
        for ids in [&[3][..], &[0], &[1, 1], &[2, 1], &[2, 4]] {
            let mut printed = BTreeMap::new();
            take_in(&mut printed, lines(&[0, 1])).unwrap();
            assert!(take_in(&mut printed, lines(ids)).is_err(), "{ids:?}");
        }
    }

    #[test]
    fn a_batch_that_is_another_when_it_runs_again_is_seen() {
        let mut printed = BTreeMap::new();
        take_in(&mut printed, lines(&[0, 1])).unwrap();
        let other = vec![json!({"batch_id": 1, "rows": [{"n": 2}]})];
        assert!(take_in(&mut printed, other).unwrap_err().contains("batch 1 is another"));
    }
}
