//! Queries that are edited between two runs on one checkpoint: what the old state, offsets or table cannot serve is
//! refused, saying in words what changed, with nothing written, and the old query still goes on; what is safe goes on
//! with the state from before the edit.

use std::collections::BTreeMap;
use std::fs;

use millstream::error::ErrorKind;
use serde_json::{Value, json};

use crate::answer::{answer, bag, difference, union};
use crate::bad_input::{COLUMNS, Place, console};
use crate::case::run_script;
use crate::disk::{Table, files_below};

const WATERMARK: &str = "WATERMARK ts DELAY OF INTERVAL 5 SECONDS";

/// What a checkpoint decides: everything but who runs on it.
fn decisions(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let mut files = files_below(&place.path("checkpoints/f"));
    files.retain(|file, _| !file.starts_with("runs/"));
    files
}

fn planned(decisions: &BTreeMap<String, Vec<u8>>) -> i64 {
    decisions.keys().filter_map(|file| file.strip_prefix("offsets/")?.parse::<i64>().ok()).max().unwrap()
}

/// A place with two files of `ev` and one of `ev2`.
fn place() -> Place {
    let place = Place::new();
    place.add_events("ev2", 0);
    place
}

/// The streams `ev`, a file a batch, and `ev2`.
fn streams(place: &Place) -> String {
    place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'") + &place.stream("ev2", COLUMNS, "")
}

/// A flow `f` over the streams to the console.
fn printing(place: &Place, mode: &str, sql: &str) -> String {
    streams(place) + &console("answer") + &place.flow("f", mode, "answer", sql)
}

/// A flow `f` over the streams to a table, declared by `table`.
fn storing(place: &Place, table: &str, sql: &str) -> String {
    let table = table.replace("$PLACE/", &place.quoted(""));
    streams(place) + &format!("CREATE EXTERNAL TABLE result {table};\n") + &place.flow("f", "append", "result", sql)
}

/// Runs `old`, then refuses `new` on its checkpoint with all of `words`; `old` goes on.
async fn refused(old: impl Fn(&Place) -> String, new: impl Fn(&Place) -> String, words: &[&str]) {
    let place = place();
    run_script(&old(&place)).await.end.unwrap_or_else(|error| panic!("{error}\n{}", old(&place)));
    let before = decisions(&place);
    place.add_events("ev", 2);
    place.add_events("ev2", 1);
    let error = place.refused(&new(&place), ErrorKind::CheckpointIncompatible, words).await;
    let text = error.to_string();
    assert!(text.contains("new checkpoint"), "no remedy in: {text}");
    for rust in ["Some(", "None", "Spec {", "_us:"] {
        assert!(!text.contains(rust), "Rust's own words in: {text}");
    }
    assert!(decisions(&place) == before, "the checkpoint was changed: {text}");
    run_script(&old(&place)).await.end.unwrap_or_else(|error| panic!("the old query: {error}"));
    assert!(planned(&decisions(&place)) > planned(&before), "the old query does not go on");
}

/// What a message must say; mode (or table) and query before; the same after.
type Edit<'a> = (&'a [&'a str], (&'a str, &'a str), (&'a str, &'a str));

/// Refuses each of `edits` to the console.
async fn all_refused(edits: &[Edit<'_>]) {
    for (words, old, new) in edits {
        refused(|place| printing(place, old.0, old.1), |place| printing(place, new.0, new.1), words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_aggregates_are_refused() {
    let by = |functions: &str, keys: &str| format!("SELECT {keys}, {functions} AS x FROM STREAM ev GROUP BY {keys}");
    let windows = |watermark: &str, window: &str| {
        format!("SELECT window.start AS ws, count(*) AS n FROM STREAM ev {watermark} GROUP BY {window}")
    };
    let sessions = |gap: &str| {
        format!(
            "SELECT session_window.start AS ws, k, count(*) AS n FROM STREAM ev {WATERMARK} \
             GROUP BY session_window(ts, '{gap}'), k"
        )
    };
    let of_ten = windows(WATERMARK, "window(ts, '10 seconds')");
    let unwatched = windows("", "window(ts, '10 seconds')");
    all_refused(&[
        (
            &["operator 0 (aggregate): functions changed from (sum(v): Int64) to (max(v): Int64)"],
            ("update", &by("sum(v)", "k")),
            ("update", &by("max(v)", "k")),
        ),
        (
            &["keys changed from (k: Utf8) to (k: Utf8, v: Int64)"],
            ("update", &by("sum(id)", "k")),
            ("update", &by("sum(id)", "k, v")),
        ),
        (
            &["keys changed from (k: Utf8, v: Int64) to (k: Utf8)"],
            ("update", &by("sum(id)", "k, v")),
            ("update", &by("sum(id)", "k")),
        ),
        (
            &["event time changed from window(10 seconds), key 0 to window(20 seconds), key 0"],
            ("update", &of_ten),
            ("update", &windows(WATERMARK, "window(ts, '20 seconds')")),
        ),
        (
            &["event time changed from window(10 seconds), key 0 to window(10 seconds every 5 seconds), key 0"],
            ("update", &of_ten),
            ("update", &windows(WATERMARK, "window(ts, '10 seconds', '5 seconds')")),
        ),
        (
            &["operator 0 (sessions): gap changed from"],
            ("append", &sessions("5 seconds")),
            ("append", &sessions("7 seconds")),
        ),
        (&["operator 0 (aggregate): watermark changed from yes to no"], ("update", &of_ten), ("update", &unwatched)),
        (&["operator 0 (aggregate): watermark changed from no to yes"], ("update", &unwatched), ("update", &of_ten)),
        (&["output mode changed from append to update"], ("append", &of_ten), ("update", &of_ten)),
        (
            &["operators changed from (none) to (aggregate)"],
            ("update", "SELECT k, v FROM STREAM ev"),
            ("update", &by("count(*)", "k")),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_joins_deduplications_and_limits_are_refused() {
    let join = |kind: &str, condition: &str| {
        format!(
            "SELECT a.id AS id, b.id AS other FROM STREAM ev {WATERMARK} AS a {kind} JOIN STREAM ev2 {WATERMARK} AS b \
             ON {condition}"
        )
    };
    let near = "a.k = b.k AND b.ts >= a.ts AND b.ts <= a.ts + INTERVAL 5 SECONDS";
    let first = |columns: &str| format!("SELECT id, k FROM DROP_DUPLICATES(STREAM ev, {columns})");
    all_refused(&[
        (
            &["operator 0 (join): kind changed from Inner to Left"],
            ("append", &join("", near)),
            ("append", &join("LEFT", near)),
        ),
        (
            &["operator 0 (join): condition changed from"],
            ("append", &join("", near)),
            ("append", &join("", &near.replace('5', "8"))),
        ),
        (
            &["operator 0 (join): condition changed from"],
            ("append", &join("", near)),
            ("append", &join("", &near.replace("a.k = b.k", "a.v = b.v"))),
        ),
        (
            &["operator 0 (deduplication): keys changed from (k: Utf8) to (v: Int64)"],
            ("append", &first("k")),
            ("append", &first("v")),
        ),
        (
            &["operator 0 (limit): rows changed from 5 to 7"],
            ("append", "SELECT id FROM STREAM ev LIMIT 5"),
            ("append", "SELECT id FROM STREAM ev LIMIT 7"),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_sources_are_refused() {
    let union = |left: &str, right: &str| format!("SELECT k FROM STREAM {left} UNION ALL SELECT k FROM STREAM {right}");
    let moved = ["the source changed from FileStreamSource[file://", "/ev]", "/ev2]", "fileNameOnly"];
    all_refused(&[
        (&moved, ("append", "SELECT k FROM STREAM ev"), ("append", "SELECT k FROM STREAM ev2")),
        (&moved, ("append", &union("ev", "ev2")), ("append", &union("ev2", "ev"))),
        (
            &["the number and names of sources must not change", "(0)", "(0, 1)"],
            ("append", "SELECT k FROM STREAM ev"),
            ("append", &union("ev", "ev2")),
        ),
        (
            &["the number and names of sources must not change", "(0, 1)", "(0)"],
            ("append", &union("ev", "ev2")),
            ("append", "SELECT k FROM STREAM ev"),
        ),
        (
            &["the checkpoint knows the sources (one), the query reads (two)"],
            ("append", "SELECT k FROM STREAM ev IDENTIFIED BY one"),
            ("append", "SELECT k FROM STREAM ev IDENTIFIED BY two"),
        ),
    ])
    .await;
    let sums = "SELECT k, sum(v) AS s FROM STREAM ev GROUP BY k";
    refused(
        |place| printing(place, "update", sums),
        |place| printing(place, "update", sums).replace("v BIGINT", "v DOUBLE"),
        &["functions changed from (sum(v): Int64) to (sum(v): Float64)"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_sinks_are_refused() {
    const PARQUET: &str = "STORED AS PARQUET LOCATION '$PLACE/out/result/'";
    const ROWS: &str = "SELECT id, k FROM STREAM ev";
    let edits: [Edit<'_>; 7] = [
        (
            &["the sink changed from FileSink[file://", "/out/result", "/out/other"],
            (PARQUET, ROWS),
            ("STORED AS PARQUET LOCATION '$PLACE/out/other/'", ROWS),
        ),
        (&["the sink changed from NoopSink to FileSink[file://"], ("STORED AS NOOP", ROWS), (PARQUET, ROWS)),
        (&["the sink changed from FileSink[file://", "to NoopSink"], (PARQUET, ROWS), ("STORED AS NOOP", ROWS)),
        (
            &["format changed from parquet to csv"],
            (PARQUET, ROWS),
            ("STORED AS CSV LOCATION '$PLACE/out/result/'", ROWS),
        ),
        (
            &["columns changed from (id Int64, k Utf8) to (id Int64, key Utf8)"],
            (PARQUET, ROWS),
            (PARQUET, "SELECT id, k AS key FROM STREAM ev"),
        ),
        (
            &["columns changed from (id Int64, k Utf8) to (id Float64, k Utf8)"],
            (PARQUET, ROWS),
            (PARQUET, "SELECT CAST(id AS DOUBLE) AS id, k FROM STREAM ev"),
        ),
        (
            &["partition columns changed from (nothing) to (k)"],
            (PARQUET, ROWS),
            ("STORED AS PARQUET LOCATION '$PLACE/out/result/' PARTITIONED BY (k)", ROWS),
        ),
    ];
    for (words, old, new) in edits {
        refused(|place| storing(place, old.0, old.1), |place| storing(place, new.0, new.1), words).await;
    }
}

/// Runs `old` over two files of `ev`, then `new` over `files` more, which must print `rows`.
async fn goes_on(old: impl Fn(&Place) -> String, new: impl Fn(&Place) -> String, files: &[i64], rows: &[Value]) {
    let place = place();
    run_script(&old(&place)).await.end.unwrap();
    let before = decisions(&place);
    files.iter().for_each(|number| place.add_events("ev", *number));
    let outcome = run_script(&new(&place)).await;
    outcome.end.unwrap_or_else(|error| panic!("{error}\n{}", new(&place)));
    if let Some(why) = difference(&bag(rows), &union(&answer(&outcome.lines))) {
        panic!("{why}\n{}", new(&place));
    }
    assert!(planned(&decisions(&place)) > planned(&before));
}

const SUMS: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM STREAM ev GROUP BY k";

/// What [`SUMS`] prints for the third file.
fn third() -> Vec<Value> {
    vec![json!({"k": "a", "n": 3, "s": 3}), json!({"k": "b", "n": 6, "s": 14})]
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_names_may_change() {
    let sums = |place: &Place| printing(place, "update", SUMS);
    // The rows of before the edit stay counted; those of after it are filtered.
    let filtered = "SELECT k, count(*) AS n, sum(v) AS s FROM STREAM ev WHERE v > 1 GROUP BY k";
    let kept = [json!({"k": "a", "n": 3, "s": 3}), json!({"k": "b", "n": 5, "s": 13})];
    goes_on(sums, |place| printing(place, "update", filtered), &[2], &kept).await;
    let renamed = "SELECT sum(v) + 100 AS more, k AS name FROM STREAM ev GROUP BY k HAVING count(*) > 3";
    let unlike = "SELECT k, sum(v) AS s FROM STREAM ev GROUP BY k";
    goes_on(
        |place| printing(place, "update", unlike),
        |place| printing(place, "update", "SELECT sum(v) + 100 AS more, k AS name FROM STREAM ev GROUP BY k"),
        &[2],
        &[json!({"more": 103, "name": "a"}), json!({"more": 114, "name": "b"})],
    )
    .await;
    // HAVING asks for a function that the state has not.
    refused(
        |place| printing(place, "update", unlike),
        |place| printing(place, "update", renamed),
        &["functions changed"],
    )
    .await;
    let stateless = "SELECT v * 2 AS twice FROM STREAM ev WHERE k = 'a'";
    goes_on(
        |place| printing(place, "append", "SELECT id FROM STREAM ev"),
        |place| printing(place, "append", stateless),
        &[2],
        &[json!({"twice": 4})],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_lanes_and_rates_may_change() {
    let sums = |place: &Place| printing(place, "update", SUMS);
    goes_on(sums, |place| sums(place).replace("AVAILABLE NOW", "ONCE"), &[2], &third()).await;
    goes_on(sums, |place| format!("SET lanes = 3;\n{}", sums(place)), &[2], &third()).await;
    goes_on(sums, |place| sums(place).replace("'maxFilesPerTrigger' '1'", "'maxFilesPerTrigger' '5'"), &[2], &third())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_may_change_and_late_rows_may_be_kept() {
    let windows = |place: &Place, delay: &str| {
        let sql = format!(
            "SELECT window.start AS ws, k, count(*) AS n FROM STREAM ev WATERMARK ts DELAY OF INTERVAL {delay} \
             GROUP BY window(ts, '10 seconds'), k"
        );
        printing(place, "append", &sql)
    };
    let rows = |seconds: [i64; 2]| {
        let row =
            |second: i64, k: &str, n: i64| json!({"ws": format!("2026-01-01T00:00:{second:02}.000"), "k": k, "n": n});
        seconds.iter().flat_map(|second| [row(*second, "a", 1), row(*second, "b", 2)]).collect::<Vec<_>>()
    };
    // The first window was closed by the old delay; the others are closed by the last file.
    goes_on(|place| windows(place, "5 SECONDS"), |place| windows(place, "15 SECONDS"), &[2, 6], &rows([10, 20])).await;
    let late = |place: &Place| {
        let table = format!("CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION '{}/';\n", place.quoted("out/late"));
        table
            + &windows(place, "5 SECONDS").replace("AS INSERT INTO answer", "LATE ROWS INTO late AS INSERT INTO answer")
    };
    goes_on(|place| windows(place, "5 SECONDS"), late, &[2, 6], &rows([10, 20])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_directory_is_known_by_the_names_of_its_files() {
    let place = place();
    let script = |folder: &str, option: &str| {
        let options = format!("OPTIONS ('orderBy' 'path'{option})");
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE ev ({COLUMNS}) STORED AS JSON LOCATION '{}/' {options};\n",
            place.quoted(folder)
        ) + &place.files("result", "")
            + &place.flow("f", "append", "result", "SELECT id FROM STREAM ev")
    };
    run_script(&script("ev", "")).await.end.unwrap();
    fs::rename(place.path("ev"), place.path("moved")).unwrap();
    place.add_events("moved", 2);
    let words = ["the source changed from", "/moved]", "set the option fileNameOnly = 'true'"];
    place.refused(&script("moved", ""), ErrorKind::CheckpointIncompatible, &words).await;
    run_script(&script("moved", ", 'fileNameOnly' 'true'")).await.end.unwrap();
    let ids: Vec<Value> = (0..9).map(|id| json!({"id": id})).collect();
    let rows = Table::parquet(place.path("out/result")).rows().await.unwrap();
    assert_eq!(difference(&bag(&ids), &rows), None);
}
