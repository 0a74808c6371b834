//! The oracle for what remembers rows: sessions, joins of two streams, deduplication, first rows, and chains of them.
//!
//! As in [`crate::oracle`] a stream must amount to what a batch gives over the same rows, in random order and random
//! files, no row late, each source ending with a row so far ahead that all the others are done with. Beyond that the
//! query is stopped after random batches and goes on from its checkpoint, each time with another number of lanes.
//!
//! A batch knows neither sessions nor an order of arrival. Sessions are written for it in plain SQL, and where the
//! first row of a key counts, it reads what a model let through, row by row.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::answer::{Bag, bag, difference, normal};
use crate::case::{Home, Outcome, run_script};
use crate::cut_off::runtime;
use crate::oracle::{DELAY_SECONDS, SPAN_MS, aggregates, append_or_update, batch_rows, config, source, split};
use crate::scenario::{Event, FAR_FUTURE_MS, Query, expected, rows, settled, timestamp};

/// The gap of a session, the durations in braces: a stream takes their text, a batch an interval. The last two leave
/// rows out: of a gap of nothing, or none at all, there is no session.
const GAPS: [&str; 8] = [
    "{3 seconds}",
    "{5 seconds}",
    "{10 seconds}",
    "{1 second 500 milliseconds}",
    "CASE WHEN k = 'a' THEN {3 seconds} ELSE {7 seconds} END",
    "CASE WHEN v > 5 THEN {2 seconds} WHEN v IS NULL THEN {12 seconds} ELSE {6 seconds} END",
    "CASE WHEN v % 3 = 0 THEN {0 seconds} ELSE {6 seconds} END",
    "CASE WHEN v > 3 THEN {6 seconds} END",
];

/// By which columns the first row of each key is kept.
const KEYS: [&[&str]; 5] = [&["k"], &["k", "v"], &["k", "ts"], &["v", "ts", "k"], &["ts", "k", "v", "d"]];

/// What a join may ask for beside keys and times; the rows that close everything pass what looks at one side alone.
const RESIDUALS: [&str; 8] = [
    "",
    " AND a.v < b.v",
    " AND a.v > 0",
    " AND b.v IS NOT NULL",
    " AND a.d <> b.d",
    " AND a.v + b.v > 5",
    " AND (a.v > 3 OR b.v > 3)",
    " AND coalesce(a.v, 0) <= coalesce(b.v, 0) AND b.d > -20",
];

/// What a join's rows are equal in. A key of `a` and `b` may be NULL, which equals nothing.
const EQUALITIES: [&str; 4] =
    ["a.k = b.k", "b.k = a.k", "a.k = b.k AND a.v % 3 = b.v % 3", "upper(a.k) = upper(b.k) AND a.v IS NOT NULL"];

/// The sides of a join; none removes the rows that close everything.
const LEFT_SIDES: [&str; 2] = ["$ev AS a", "(SELECT * FROM $ev WHERE v > 0) AS a"];
const RIGHT_SIDES: [&str; 2] = ["$ev2 AS b", "(SELECT ts, k, v, d FROM $ev2 WHERE d > -8) AS b"];

/// What a join of rows gives.
const BOTH: &str = "a.ts AS ats, a.k AS ak, a.v AS av, b.ts AS bts, b.k AS bk, b.v AS bv, b.d AS bd";

/// How windows of two streams are equal, where each side has the window as `w`, its start as `ws` and its end as `we`.
const SAME_WINDOW: [&str; 3] = ["a.w = b.w", "a.ws = b.ws AND a.we = b.we", "a.we = b.we"];

/// A query over streams, and what tells its answer without a stream.
#[derive(Debug, Clone)]
struct Twin {
    stream: Query,
    /// SQL over tables.
    batch: String,
    /// The tables hold the first row of each key of these columns only; none where they hold all rows.
    once: Option<Vec<&'static str>>,
    /// The event times of the two sides of an outer join: a row without a partner leaves when its time is over.
    alone: Option<[&'static str; 2]>,
}

impl Twin {
    /// A query that a batch is asked in the same words.
    fn same(stream: Query) -> Self {
        Self { batch: stream.over_tables(), stream, once: None, alone: None }
    }

    /// A query in which `$once` stands for the first rows of `$ev` by `columns`, as the table function `function`
    /// gives them.
    fn first_rows(mut stream: Query, function: &str, columns: &[&'static str]) -> Self {
        let batch = Query { sql: stream.sql.replace("$once", "$ev"), ..stream.clone() }.over_tables();
        stream.sql = stream.sql.replace("$once", &format!("{function}($ev, {})", columns.join(", ")));
        Self { batch, stream, once: Some(columns.to_vec()), alone: None }
    }

    /// Returns what the batch's rows must amount to once every watermark stands at `watermark`.
    fn expected(&self, batch_rows: &[Value], watermark: &str) -> Bag {
        let Some([left, right]) = self.alone else {
            return expected(&self.stream, batch_rows, watermark);
        };
        // Partners leave when they meet. A row without one waits until its bound is passed, and all the bounds here
        // lie far closer to a row's time than the watermark lies to any.
        let leaves = |row: &&Value| match (normal(&row[left]), normal(&row[right])) {
            (Value::String(time), Value::Null) | (Value::Null, Value::String(time)) => time.as_str() <= watermark,
            _ => true,
        };
        bag(batch_rows.iter().filter(leaves))
    }
}

/// One run of a query: over the files up to the `until`th of each source, in so many lanes.
#[derive(Debug, Clone)]
struct Run {
    until: usize,
    lanes: Option<usize>,
}

/// A query over two streams of files, of which it may read only the first, and the runs it takes to read them.
#[derive(Debug, Clone)]
struct Scenario {
    twin: Twin,
    ev: Vec<Vec<Event>>,
    ev2: Vec<Vec<Event>>,
    runs: Vec<Run>,
}

/// One run or several, each from where the one before ended.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let lanes = || select(vec![None, Some(1), Some(2), Some(3), Some(5)]);
    let stops = prop_oneof![2 => Just(0..1_usize), 1 => Just(1..3_usize)]
        .prop_flat_map(move |count| (prop::collection::vec((1_usize..4, lanes()), count), lanes()));
    stops.prop_map(|(stops, last)| {
        let mut runs: Vec<Run> = Vec::new();
        for (files, lanes) in stops {
            let until = runs.last().map_or(0, |run| run.until) + files;
            runs.push(Run { until, lanes });
        }
        runs.push(Run { until: usize::MAX, lanes: last });
        runs
    })
}

fn scenarios(twins: impl Strategy<Value = Twin>) -> impl Strategy<Value = Scenario> {
    (twins, source(), source(), runs()).prop_map(|(twin, ev, ev2, runs)| Scenario { twin, ev, ev2, runs })
}

/// Sessions of a gap, in SQL that knows no sessions: a row that comes after all before it have ended begins the next.
/// One that comes as they end still belongs to them.
fn sessions_as_batch(gap: &str, aggregates: &str, filter: &str) -> String {
    let gap = gap.replace('{', "INTERVAL '").replace('}', "'");
    format!(
        "SELECT min(ts) AS ws, max(gap_end) AS we, k, {aggregates} FROM (\
         SELECT *, sum(CASE WHEN reach IS NULL OR ts > reach THEN 1 ELSE 0 END) \
         OVER (PARTITION BY k ORDER BY ts) AS nth FROM (\
         SELECT *, max(gap_end) \
         OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach FROM (\
         SELECT ts, k, v, d, ts + {gap} AS gap_end FROM ev{filter}) AS timed WHERE gap_end > ts) AS reached) \
         AS numbered GROUP BY k, nth"
    )
}

fn session(gap: &str, aggregates: &str, filter: &str, having: &str, mode: &'static str) -> Twin {
    let text = gap.replace(['{', '}'], "'");
    let sql = format!(
        "SELECT session_window.start AS ws, session_window.end AS we, k, {aggregates} FROM $ev{filter} \
         GROUP BY session_window(ts, {text}), k{having}"
    );
    let batch = format!("{}{having}", sessions_as_batch(gap, aggregates, filter));
    let stream = Query::grouped(&sql, mode, &["ws", "we", "k"], Some("we"));
    Twin { stream, batch, once: None, alone: None }
}

/// Sessions of every gap, in the modes that have them.
fn sessions() -> impl Strategy<Value = Twin> {
    let gap = select(GAPS.to_vec());
    // The row that closes everything has a session of its own in each of these.
    let filter = select(vec!["", " WHERE v > 0", " WHERE k <> 'a'"]);
    let having = select(vec!["", "", " HAVING count(*) > 1"]);
    let mode = select(vec!["append", "append", "complete"]);
    (gap, aggregates(), filter, having, mode)
        .prop_map(|(gap, aggregates, filter, having, mode)| session(gap, &aggregates, filter, having, mode))
}

/// Writes `time` moved by some seconds, either way round.
fn moved(time: &str, seconds: i64) -> String {
    match seconds {
        0 => time.to_string(),
        1.. => format!("{time} + INTERVAL '{seconds}' SECOND"),
        _ => format!("{time} - INTERVAL {} SECONDS", -seconds),
    }
}

/// Writes that the right's time lies at least `seconds` after the left's, in one of six forms.
fn at_least(seconds: i64, form: usize, strictly: bool) -> String {
    let (more, less) = if strictly { (">", "<") } else { (">=", "<=") };
    match form {
        0 => format!("b.ts {more} {}", moved("a.ts", seconds)),
        1 => format!("{} {less} b.ts", moved("a.ts", seconds)),
        2 => format!("{} {more} a.ts", moved("b.ts", -seconds)),
        3 => format!("a.ts {less} {}", moved("b.ts", -seconds)),
        4 => format!("b.ts - a.ts {more} INTERVAL '{seconds} seconds'"),
        _ => format!("INTERVAL '{} seconds' {more} a.ts - b.ts", -seconds),
    }
}

/// Writes that the right's time lies at most `seconds` after the left's, in one of six forms.
fn at_most(seconds: i64, form: usize, strictly: bool) -> String {
    let (more, less) = if strictly { (">", "<") } else { (">=", "<=") };
    match form {
        0 => format!("b.ts {less} {}", moved("a.ts", seconds)),
        1 => format!("{} {more} b.ts", moved("a.ts", seconds)),
        2 => format!("{} {less} a.ts", moved("b.ts", -seconds)),
        3 => format!("a.ts {more} {}", moved("b.ts", -seconds)),
        4 => format!("b.ts - a.ts {less} INTERVAL '{seconds} seconds'"),
        _ => format!("INTERVAL '{} seconds' {less} a.ts - b.ts", -seconds),
    }
}

/// A range within which the times of partners lie, and which of its ends are given.
#[derive(Debug, Clone)]
struct TimeRange {
    lower: String,
    upper: String,
    both: String,
}

fn time_ranges() -> impl Strategy<Value = TimeRange> {
    let forms = (0_usize..6, 0_usize..6, prop::bool::ANY, prop::bool::ANY, 0_usize..5);
    (-15_i64..15, 0_i64..25, forms).prop_map(|(from, length, (form, other_form, strictly, other_strictly, written))| {
        let to = from + length;
        let (lower, upper) = (at_least(from, form, strictly), at_most(to, other_form, other_strictly));
        let both = match written {
            0 => format!("b.ts BETWEEN {} AND {}", moved("a.ts", from), moved("a.ts", to)),
            1 => format!("a.ts BETWEEN {} AND {}", moved("b.ts", -to), moved("b.ts", -from)),
            2 => format!("b.ts - a.ts BETWEEN INTERVAL '{from} seconds' AND INTERVAL '{to} seconds'"),
            3 => format!("{upper} AND {lower}"),
            _ => format!("{lower} AND {upper}"),
        };
        TimeRange { lower: format!(" AND {lower}"), upper: format!(" AND {upper}"), both: format!(" AND {both}") }
    })
}

/// A kind of join as SQL names it, with what it gives and which ends of a range it can do with.
fn join_kinds() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
    let kinds = vec![
        ("JOIN", vec!["both", "both", "lower", "upper", "none"]),
        ("LEFT JOIN", vec!["both", "both", "upper"]),
        ("RIGHT JOIN", vec!["both", "both", "lower"]),
        ("FULL JOIN", vec!["both"]),
        ("LEFT SEMI JOIN", vec!["both", "both", "upper"]),
    ];
    select(kinds)
}

/// A join of rows by keys and times.
fn joined(kind: &str, sides: [&str; 2], condition: &str, mode: &'static str) -> Twin {
    let [left, right] = sides;
    let columns = if kind == "LEFT SEMI JOIN" { "a.ts AS ats, a.k AS ak, a.v AS av, a.d AS ad" } else { BOTH };
    let sql = format!("SELECT {columns} FROM {left} {kind} {right} ON {condition}");
    let outer = ["LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].contains(&kind);
    Twin { alone: outer.then_some(["ats", "bts"]), ..Twin::same(Query { mode, ..Query::stateless(&sql) }) }
}

/// Joins of every kind, in the modes that have them.
fn joins() -> impl Strategy<Value = Twin> {
    let ends = join_kinds().prop_flat_map(|(kind, ends)| (Just(kind), select(ends)));
    let sides = (select(LEFT_SIDES.to_vec()), select(RIGHT_SIDES.to_vec()));
    let equality = select(EQUALITIES.to_vec());
    let residual = select(RESIDUALS.to_vec());
    (ends, sides, equality, time_ranges(), residual, append_or_update()).prop_map(
        |((kind, ends), (left, right), equality, range, residual, mode)| {
            let range = match ends {
                "both" => range.both,
                "lower" => range.lower,
                "upper" => range.upper,
                _ => String::new(),
            };
            let mode = if ["JOIN", "LEFT SEMI JOIN"].contains(&kind) { mode } else { "append" };
            joined(kind, [left, right], &format!("{equality}{range}{residual}"), mode)
        },
    )
}

/// Each row with the nearest earlier one: it leaves when the watermark has passed its time. Of several rows of one time
/// the last to come counts, which a batch cannot know: only their time is looked at.
fn nearest(kind: &str, time: &str) -> Twin {
    let sql = format!(
        "SELECT a.ts AS ats, a.k AS ak, a.v AS av, b.ts AS bts FROM $ev AS a {kind} $ev2 AS b ON a.k = b.k AND {time}"
    );
    Twin::same(Query { expires: Some("ats"), ..Query::stateless(&sql) })
}

fn asof_joins() -> impl Strategy<Value = Twin> {
    let time = select(vec!["a.ts >= b.ts", "b.ts <= a.ts", "a.ts > b.ts", "b.ts < a.ts"]);
    (select(vec!["ASOF JOIN", "ASOF LEFT JOIN"]), time).prop_map(|(kind, time)| nearest(kind, time))
}

/// The windows of one stream with what they hold.
fn counted(stream: &str, functions: &str) -> String {
    format!(
        "(SELECT window AS w, window.start AS ws, window.end AS we, k, {functions} FROM {stream} \
         GROUP BY window(ts, '10 seconds'), k)"
    )
}

/// A join of the windows of two streams: what a window holds is known only when it closes, and so are its partners.
fn windows_joined(kind: &str, same: &str) -> Twin {
    let (left, right) = (counted("$ev", "count(*) AS n, sum(v) AS s"), counted("$ev2", "count(*) AS m, max(d) AS hi"));
    let sql = format!(
        "SELECT coalesce(a.ws, b.ws) AS ws, coalesce(a.we, b.we) AS we, a.k AS ak, b.k AS bk, n, s, m, hi \
         FROM {left} AS a {kind} {right} AS b ON {same} AND a.k = b.k"
    );
    Twin::same(Query { expires: Some("we"), ..Query::stateless(&sql) })
}

/// A join of rows that lie in the same window.
fn rows_joined_by_window(kind: &str, same: &str, mode: &'static str) -> Twin {
    let rows = |stream: &str| {
        format!(
            "(SELECT w, w.start AS ws, w.end AS we, ts, k, v, d \
             FROM (SELECT window(ts, '10 seconds') AS w, ts, k, v, d FROM {stream}) AS windowed)"
        )
    };
    let (left, right) = (format!("{} AS a", rows("$ev")), format!("{} AS b", rows("$ev2")));
    joined(kind, [&left, &right], &format!("{same} AND a.k = b.k"), mode)
}

/// Deduplication by any columns, before any filter that stands above it. The watermark does not reach a key's time
/// before the last row is there, so that the key is not forgotten, whichever function is asked.
fn deduplicated() -> impl Strategy<Value = Twin> {
    let function = select(vec!["DROP_DUPLICATES", "DROP_DUPLICATES", "DROP_DUPLICATES_WITHIN_WATERMARK"]);
    let keys = select(KEYS.to_vec());
    let filter = select(vec!["", " WHERE v > 5", " WHERE k = 'a'"]);
    (function, keys, filter, append_or_update()).prop_map(|(function, keys, filter, mode)| {
        let sql = format!("SELECT ts, k, v, d FROM $once{filter}");
        Twin::first_rows(Query { mode, ..Query::stateless(&sql) }, function, keys)
    })
}

/// The time of each key's earliest row; which of several rows of that time it is, a batch cannot know.
fn earliest(key: &'static str, condition: &str, filter: &str, mode: &'static str) -> Twin {
    let sql = format!(
        "SELECT g, ts FROM (SELECT {key} AS g, ts, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY ts) AS rn \
         FROM $ev{filter}) AS numbered WHERE {condition}"
    );
    Twin::same(Query::grouped(&sql, mode, &["g"], Some("ts")))
}

fn first_rows() -> impl Strategy<Value = Twin> {
    let key = select(vec!["k", "v % 3", "upper(k)"]);
    let condition = select(vec!["rn = 1", "1 = rn", "rn <= 1", "rn < 2"]);
    let filter = select(vec!["", " WHERE v > 0"]);
    (key, condition, filter, append_or_update())
        .prop_map(|(key, condition, filter, mode)| earliest(key, condition, filter, mode))
}

/// A window over the rows that a join gives, by the time of its left or its right side.
fn window_after_join(kind: &str, time: &str, condition: &str, mode: &'static str) -> Twin {
    let sql = format!(
        "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(av) AS s, max(bv) AS hi \
         FROM (SELECT {time} AS ts, a.k AS k, a.v AS av, b.v AS bv FROM $ev AS a {kind} $ev2 AS b ON {condition}) \
         GROUP BY window(ts, '10 seconds'), k"
    );
    Twin::same(Query::grouped(&sql, mode, &["ws", "we", "k"], Some("we")))
}

/// A window over the first rows of `$ev`.
fn window_after_deduplication(columns: &[&'static str], window: &str, mode: &'static str) -> Twin {
    let sql = format!(
        "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(v) AS s, min(d) AS lo FROM $once \
         GROUP BY window(ts, {window}), k"
    );
    Twin::first_rows(Query::grouped(&sql, mode, &["ws", "we", "k"], Some("we")), "DROP_DUPLICATES", columns)
}

/// A window of windows: each closes in the batch in which the last of those in it does.
fn window_of_windows(inner: &str, outer: &str) -> Twin {
    let sql = format!(
        "SELECT window.start AS ws, window.end AS we, sum(n) AS n, count(*) AS groups, max(s) AS s FROM \
         (SELECT window AS w, k, count(*) AS n, sum(v) AS s FROM $ev GROUP BY window(ts, {inner}), k) \
         GROUP BY window(w, {outer})"
    );
    Twin::same(Query::grouped(&sql, "append", &["ws", "we"], Some("we")))
}

/// Closed windows and the rows of another stream that happened while they were open.
fn rows_of_windows(kind: &str) -> Twin {
    let sql = format!(
        "SELECT a.ws AS ws, a.we AS we, a.k AS ak, a.n AS n, b.ts AS bts, b.v AS bv FROM {} AS a {kind} $ev2 AS b \
         ON a.k = b.k AND b.ts >= a.we - INTERVAL '10' SECOND AND b.ts < a.we",
        counted("$ev", "count(*) AS n")
    );
    Twin::same(Query { expires: Some("we"), ..Query::stateless(&sql) })
}

/// Operators one after another.
fn chains() -> impl Strategy<Value = Twin> {
    let of_rows = select(vec![("JOIN", "a.ts"), ("LEFT JOIN", "a.ts"), ("RIGHT JOIN", "b.ts")]);
    let windowed_join = (of_rows, time_ranges(), append_or_update()).prop_map(|((kind, time), range, mode)| {
        let mode = if kind == "JOIN" { mode } else { "append" };
        window_after_join(kind, time, &format!("a.k = b.k{}", range.both), mode)
    });
    let window = select(vec!["'10 seconds'", "'20 seconds', '5 seconds'"]);
    let any_mode = select(vec!["append", "update", "complete"]);
    let windowed_first_rows = (select(KEYS.to_vec()), window, any_mode)
        .prop_map(|(columns, window, mode)| window_after_deduplication(columns, window, mode));
    let inner = select(vec!["'10 seconds'", "'5 seconds'", "'10 seconds', '5 seconds'"]);
    let outer = select(vec!["'30 seconds'", "'20 seconds'", "'30 seconds', '10 seconds'"]);
    let joined_windows = (select(vec!["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]), select(SAME_WINDOW.to_vec()))
        .prop_map(|(kind, same)| windows_joined(kind, same));
    let joined_by_window = (join_kinds(), select(SAME_WINDOW.to_vec()), append_or_update());
    prop_oneof![
        windowed_join,
        windowed_first_rows,
        (inner, outer).prop_map(|(inner, outer)| window_of_windows(inner, outer)),
        select(vec!["JOIN", "LEFT JOIN"]).prop_map(rows_of_windows),
        joined_windows,
        joined_by_window.prop_map(|((kind, _), same, mode)| {
            let mode = if ["JOIN", "LEFT SEMI JOIN"].contains(&kind) { mode } else { "append" };
            rows_joined_by_window(kind, same, mode)
        }),
    ]
}

/// Returns the files with the first row of each key only, in the order of arrival.
fn first_of_each(files: &[Vec<Event>], columns: &[&str]) -> Vec<Vec<Event>> {
    let mut seen = BTreeSet::new();
    let mut is_first = |event: &Event| {
        let row = event.row();
        let key: Vec<String> = columns.iter().map(|column| row[*column].to_string()).collect();
        seen.insert(key)
    };
    let kept = |file: &Vec<Event>| file.iter().filter(|event| is_first(event)).cloned().collect();
    files.iter().map(kept).collect()
}

/// Runs the scenario as a stream, in all its runs, and as a batch, and says how they differ.
async fn judge(scenario: &Scenario) -> Result<(), String> {
    let Scenario { twin, ev, ev2, runs } = scenario;
    let case = twin.stream.case(DELAY_SECONDS, ev, ev2);
    let mut home = Home::new(&case);
    let (mut lines, mut begun, mut script) = (Vec::new(), 0, String::new());
    for run in runs {
        for (table, files) in &case.streams {
            files.iter().take(run.until).skip(begun).for_each(|rows| home.add_file(table, rows));
        }
        begun = run.until;
        let mut case = case.clone();
        case.settings.extend(run.lanes.map(|lanes| ("lanes".to_string(), lanes.to_string())));
        script = home.script(&case);
        let Outcome { lines: printed, end, .. } = run_script(&script).await;
        end.map_err(|error| format!("failed in {run:?} of {runs:?}: {error}\n{script}"))?;
        lines.extend(printed);
    }
    let have = settled(&twin.stream, &lines).map_err(|why| format!("{why}\n{script}"))?;
    let mut tables = case;
    if let Some(columns) = &twin.once {
        tables.streams.insert("ev".to_string(), rows(&first_of_each(ev, columns)));
    }
    let batch = batch_rows(&home, &tables, &twin.batch).await?;
    let watermark = timestamp(FAR_FUTURE_MS - DELAY_SECONDS * 1000);
    match difference(&twin.expected(&batch, &watermark), &have) {
        Some(why) => Err(format!("{why}\nin the runs {runs:?}\n{script}\nas a batch: {}", twin.batch)),
        None => Ok(()),
    }
}

/// Asks random queries.
fn all_amount_to_their_batch(twins: impl Strategy<Value = Twin>) {
    let runtime = runtime();
    let test = |scenario: Scenario| runtime.block_on(judge(&scenario)).map_err(TestCaseError::fail);
    if let Err(failure) = TestRunner::new(config()).run(&scenarios(twins), test) {
        panic!("{failure}");
    }
}

#[test]
fn sessions_amount_to_their_batch() {
    all_amount_to_their_batch(sessions());
}

#[test]
fn joins_amount_to_their_batch() {
    all_amount_to_their_batch(prop_oneof![4 => joins(), 1 => asof_joins()]);
}

#[test]
fn first_rows_amount_to_their_batch() {
    all_amount_to_their_batch(prop_oneof![deduplicated(), first_rows()]);
}

#[test]
fn chains_amount_to_their_batch() {
    all_amount_to_their_batch(chains());
}

/// Forms of SQL that no dice write.
fn listed() -> Vec<Twin> {
    const RANGE: &str = "b.ts BETWEEN a.ts AND a.ts + INTERVAL '10' SECOND";
    let stateless = |sql: &str| Twin::same(Query::stateless(sql));
    let columns = "a.ts AS ats, a.k AS ak, b.ts AS bts, b.v AS bv";
    let mut twins = vec![
        stateless(&format!("SELECT {columns} FROM $ev AS a JOIN $ev2 AS b USING (k) WHERE {RANGE}")),
        stateless(&format!("SELECT {columns} FROM $ev AS a, $ev2 AS b WHERE a.k = b.k AND {RANGE}")),
        stateless(&format!("SELECT {columns} FROM $ev AS a JOIN $ev AS b ON a.k = b.k AND {RANGE} AND a.v <> b.v")),
        stateless(&format!(
            "SELECT {columns}, c.v AS cv FROM $ev AS a JOIN $ev2 AS b ON a.k = b.k AND {RANGE} \
             JOIN $ev AS c ON c.k = b.k AND c.ts BETWEEN b.ts - INTERVAL '5' SECOND AND b.ts"
        )),
        stateless(&format!(
            "SELECT {columns}, s.name FROM $ev AS a JOIN $ev2 AS b ON a.k = b.k AND {RANGE} JOIN dim AS s ON s.k = a.k"
        )),
        // Of rows that are equal in every column that is left one stays, whichever came first.
        Twin {
            batch: format!("SELECT DISTINCT a.k AS k, a.v AS v FROM ev AS a JOIN ev2 AS b ON a.k = b.k AND {RANGE}"),
            ..stateless(&format!(
                "SELECT k, v FROM DROP_DUPLICATES((SELECT a.k AS k, a.v AS v FROM $ev AS a JOIN $ev2 AS b \
                 ON a.k = b.k AND {RANGE}), k, v)"
            ))
        },
        Twin::first_rows(
            Query::stateless(&format!("SELECT {columns} FROM $once AS a JOIN $ev2 AS b ON a.k = b.k AND {RANGE}")),
            "DROP_DUPLICATES",
            &["k", "ts"],
        ),
        Twin::same(Query {
            expires: Some("we"),
            ..Query::stateless(
                "SELECT window_start AS ws, window_end AS we, k, count(*) AS n, sum(v) AS s \
                 FROM TABLE(CUMULATE($ev, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '20' SECOND)) \
                 GROUP BY window_start, window_end, k",
            )
        }),
        Twin {
            batch: sessions_as_batch("{5 seconds}", "count(*) AS n, sum(v) AS s", ""),
            ..Twin::same(Query {
                expires: Some("we"),
                ..Query::stateless(
                    "SELECT window_start AS ws, window_end AS we, k, count(*) AS n, sum(v) AS s \
                     FROM TABLE(SESSION($ev PARTITION BY k, DESCRIPTOR(ts), INTERVAL '5' SECOND)) \
                     GROUP BY window_start, window_end, k",
                )
            })
        },
        Twin {
            batch: format!(
                "SELECT w.start AS ws, w.end AS we, count(*) AS sessions, sum(n) AS n FROM \
                 (SELECT window(we - INTERVAL '1 microsecond', '30 seconds') AS w, n FROM ({}) AS s) AS windowed \
                 GROUP BY w",
                sessions_as_batch("{5 seconds}", "count(*) AS n", "")
            ),
            ..Twin::same(Query::grouped(
                "SELECT window.start AS ws, window.end AS we, count(*) AS sessions, sum(n) AS n FROM \
                 (SELECT session_window AS w, k, count(*) AS n FROM $ev GROUP BY session_window(ts, '5 seconds'), k) \
                 GROUP BY window(w, '30 seconds')",
                "append",
                &["ws", "we"],
                Some("we"),
            ))
        },
        Twin::same(Query::grouped(
            "SELECT window.start AS ws, window.end AS we, count(*) AS n FROM \
             (SELECT k, ts FROM (SELECT k, ts, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts) AS rn FROM $ev) \
             AS numbered WHERE rn = 1) GROUP BY window(ts, '10 seconds')",
            "append",
            &["ws", "we"],
            Some("we"),
        )),
    ];
    twins.extend(GAPS.iter().flat_map(|gap| {
        ["append", "complete"].map(|mode| session(gap, "count(*) AS n, sum(v) AS s, avg(d) AS m", "", "", mode))
    }));
    for form in 0..6 {
        let range = format!("{} AND {}", at_least(-3, form, false), at_most(12, form, false));
        let strict = format!("{} AND {}", at_least(0, form, true), at_most(10, form, true));
        for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN"] {
            for range in [&range, &strict] {
                twins.push(joined(kind, ["$ev AS a", "$ev2 AS b"], &format!("a.k = b.k AND {range}"), "append"));
            }
        }
    }
    for kind in ["ASOF JOIN", "ASOF LEFT JOIN"] {
        twins.extend(["a.ts >= b.ts", "b.ts < a.ts"].map(|time| nearest(kind, time)));
    }
    for kind in ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"] {
        twins.extend(SAME_WINDOW.map(|same| windows_joined(kind, same)));
        twins.extend(SAME_WINDOW.map(|same| rows_joined_by_window(kind, same, "append")));
    }
    for function in ["DROP_DUPLICATES", "DROP_DUPLICATES_WITHIN_WATERMARK"] {
        let sql = "SELECT ts, k, v, d FROM $once AS first_rows WHERE first_rows.v > 0";
        twins.extend(KEYS.map(|keys| Twin::first_rows(Query::stateless(sql), function, keys)));
    }
    twins
}

/// Every form of the lists is asked at least once, whatever the dice say, and stopped once on the way.
#[test]
fn every_listed_query_amounts_to_its_batch() {
    let event = |number: i64| Event {
        // Some rows of both streams happen at the same instant, or one after another to the second.
        at_ms: Some(number * 7_919 % SPAN_MS / 500 * 500),
        k: [None, Some("a"), Some("b"), Some("a")][usize::try_from(number % 4).unwrap()],
        v: (number % 6 != 5).then_some(number * 13 % 23 - 3),
        d: f64::from(i32::try_from(number * 31 % 80).unwrap() - 40) / 4.0,
    };
    let source = |from: i64| {
        let mut files = split((from..from + 60).map(event).collect(), vec![11, 11, 30, 45]);
        files.last_mut().unwrap().push(Event::far_future());
        files
    };
    let runs = vec![Run { until: 2, lanes: Some(3) }, Run { until: usize::MAX, lanes: None }];
    let runtime = runtime();
    let mut wrong = Vec::new();
    for twin in listed() {
        let scenario = Scenario { twin, ev: source(1), ev2: source(31), runs: runs.clone() };
        if let Err(why) = runtime.block_on(judge(&scenario)) {
            wrong.push(format!("[{}] {why}", scenario.twin.stream.mode));
        }
    }
    assert!(wrong.is_empty(), "{} queries differ from their batch:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_without_a_partner_waits_for_its_time() {
        let twin = joined("FULL JOIN", ["$ev AS a", "$ev2 AS b"], "a.k = b.k", "append");
        let row = |ats: Option<i64>, bts: Option<i64>| json!({"ats": ats.map(timestamp), "bts": bts.map(timestamp)});
        let far = Some(FAR_FUTURE_MS);
        let rows = [row(far, far), row(Some(1), None), row(None, Some(1)), row(far, None), row(None, far)];
        assert_eq!(twin.expected(&rows, &timestamp(870_000)), bag(&rows[..3]));
        let inner = joined("JOIN", ["$ev AS a", "$ev2 AS b"], "a.k = b.k", "append");
        assert_eq!(inner.expected(&rows, &timestamp(870_000)), bag(&rows));
    }

    #[test]
    fn the_first_row_is_the_one_that_came_first() {
        let event = |at_ms: i64, k: Option<&'static str>, v: i64| Event { at_ms: Some(at_ms), k, v: Some(v), d: 0.0 };
        let files = [vec![event(5, Some("a"), 1), event(3, None, 2)], vec![event(1, Some("a"), 3), event(4, None, 4)]];
        assert_eq!(first_of_each(&files, &["k"]), [files[0].clone(), vec![]]);
        assert_eq!(first_of_each(&files, &["k", "ts"]), files);
    }

    #[test]
    fn a_bound_is_written_in_six_ways() {
        let texts = |seconds: i64| (0..6).map(|form| at_least(seconds, form, false)).collect::<Vec<_>>();
        let five = [
            "b.ts >= a.ts + INTERVAL '5' SECOND",
            "a.ts + INTERVAL '5' SECOND <= b.ts",
            "b.ts - INTERVAL 5 SECONDS >= a.ts",
            "a.ts <= b.ts - INTERVAL 5 SECONDS",
            "b.ts - a.ts >= INTERVAL '5 seconds'",
            "INTERVAL '-5 seconds' >= a.ts - b.ts",
        ];
        assert_eq!(texts(5), five);
        assert_eq!(at_least(-5, 2, true), "b.ts + INTERVAL '5' SECOND > a.ts");
        assert_eq!(at_most(0, 3, false), "a.ts >= b.ts");
    }
}
