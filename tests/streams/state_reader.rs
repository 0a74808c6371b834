//! What a flow remembers, read with SQL: after each batch, as changes from batch to batch, and while the flow runs.
//!
//! The windowed count is the one whose state Spark's own readers were asked for; its rows and changes are Spark's.

use std::collections::BTreeMap;
use std::fs;

use millstream::error::{Error, ErrorKind};
use millstream::session::Session;
use serde_json::{Value, json};

use crate::bad_input::{COLUMNS, Place, console};
use crate::case::run_script;
use crate::disk::{files_below, json_rows, newest_entry, read_entry};
use crate::watched::Watched;

/// Seconds and keys of the windowed count, file by file.
const FILES: [&[(&str, &str)]; 4] = [
    &[("01", "a"), ("12", "a"), ("13", "b")],
    &[("09", "a"), ("25", "a")],
    &[("04", "b"), ("16", "a"), ("14", "b")],
    &[("45", "c")],
];

/// What is remembered after each batch. The third and the last have no data: the first run ends with the one.
const REMEMBERED: [&[&str]; 6] = [
    &["[00,10) a 1", "[10,20) a 1", "[10,20) b 1"],
    &["[00,10) a 2", "[10,20) a 1", "[10,20) b 1", "[20,30) a 1"],
    &["[10,20) a 1", "[10,20) b 1", "[20,30) a 1"],
    &["[10,20) a 2", "[10,20) b 2", "[20,30) a 1"],
    &["[10,20) a 2", "[10,20) b 2", "[20,30) a 1", "[40,50) c 1"],
    &["[40,50) c 1"],
];

/// What Spark's change feed gives for the same batches.
const CHANGES: [&str; 12] = [
    "0 update [00,10) a 1",
    "0 update [10,20) a 1",
    "0 update [10,20) b 1",
    "1 update [00,10) a 2",
    "1 update [20,30) a 1",
    "2 delete [00,10) a NULL",
    "3 update [10,20) a 2",
    "3 update [10,20) b 2",
    "4 update [40,50) c 1",
    "5 delete [10,20) a NULL",
    "5 delete [10,20) b NULL",
    "5 delete [20,30) a NULL",
];

/// Runs the windowed count over the first two files, then over the others.
async fn counted() -> Place {
    let place = Place::new();
    let script = "SET lanes = 2;\n".to_string()
        + &place.stream("clicks", "ts TIMESTAMP, k STRING", ", 'maxFilesPerTrigger' '1'")
        + &console("answer")
        + &place.flow(
            "f",
            "append",
            "answer",
            "SELECT window.start AS ws, k, count(*) AS n FROM STREAM clicks WATERMARK ts DELAY OF INTERVAL 10 SECONDS \
             GROUP BY window(ts, '10 seconds'), k",
        );
    for files in [0..2, 2..4] {
        for number in files {
            let row = |(second, k): &(&str, &str)| json!({"ts": format!("2026-01-01T00:00:{second}"), "k": k});
            let text: String = FILES[number].iter().map(|r| format!("{}\n", row(r))).collect();
            place.write(&format!("clicks/{number}.json"), &text);
        }
        run_script(&script).await.end.unwrap();
    }
    place
}

/// The checkpoint of a place's flow `f`, between quotes.
fn checkpoint(place: &Place) -> String {
    format!("'{}'", place.quoted("checkpoints/f"))
}

async fn try_read(sql: &str) -> Result<Vec<Value>, Error> {
    let batches = Session::builder().build().sql(sql).await?.collect().await?;
    Ok(json_rows(&batches))
}

async fn read(sql: &str) -> Vec<Value> {
    try_read(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn refused(sql: &str, kind: ErrorKind, words: &[&str]) {
    let error = try_read(sql).await.expect_err(sql);
    assert_eq!(error.kind(), kind, "{sql}: {error}");
    for word in words {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

/// A row of the windowed count in one line.
fn told(row: &Value) -> String {
    let (window, value) = (&row["key"]["window"], row["value"].as_object());
    let second = |time: &Value| time.as_str().unwrap()[17..19].to_string();
    let count = value.map_or("NULL".to_string(), |value| value.values().next().unwrap().to_string());
    let k = row["key"]["k"].as_str().unwrap();
    format!("[{},{}) {k} {count}", second(&window["start"]), second(&window["end"]))
}

fn in_order(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_after_each_batch_is_a_table() {
    let place = counted().await;
    let f = checkpoint(&place);
    for (batch_id, expected) in REMEMBERED.iter().enumerate() {
        for call in [format!("state({f}, 0, {batch_id})"), format!("state(batch_id => {batch_id}, path => {f})")] {
            let rows = read(&format!("SELECT * FROM {call}")).await;
            assert_eq!(in_order(rows.iter().map(told).collect()), *expected, "{call}");
            assert!(rows.iter().all(|row| row["operator"] == 0 && row["store"] == "default"), "{rows:?}");
            assert!(rows.iter().all(|row| row["lane"] == 0 || row["lane"] == 1), "{rows:?}");
        }
    }
    let last =
        read(&format!("SELECT key, value FROM TABLE(state({f})) AS s WHERE s.key.window.start IS NOT NULL")).await;
    assert_eq!(last.iter().map(told).collect::<Vec<_>>(), REMEMBERED[5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_those_that_spark_tells() {
    let place = counted().await;
    let changes = async |first: i64, last: i64| -> Vec<String> {
        let f = checkpoint(&place);
        let rows = read(&format!("SELECT * FROM state_changes({f}, {first}, {last})")).await;
        let line = |row: &Value| format!("{} {} {}", row["batch_id"], row["change_type"].as_str().unwrap(), told(row));
        in_order(rows.iter().map(line).collect())
    };
    assert_eq!(changes(0, 5).await, CHANGES);
    assert_eq!(changes(2, 3).await, CHANGES[5..8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_tells_operators_stores_and_batches() {
    let place = counted().await;
    let rows = read(&format!("SELECT * FROM state_metadata({})", checkpoint(&place))).await;
    let mut row = rows[0].as_object().unwrap().clone();
    let fingerprint: Value = serde_json::from_str(row.remove("fingerprint").unwrap().as_str().unwrap()).unwrap();
    assert_eq!(fingerprint["operator"], "aggregate");
    let expected = json!({
        "operator": 0, "name": "aggregate", "store": "default", "lanes": 2, "min_batch_id": 0, "max_batch_id": 5
    });
    assert_eq!((Value::Object(row), rows.len()), (expected, 1));
}

/// Rows by their keys, which are single columns here.
fn by_key(rows: &[Value]) -> BTreeMap<String, Value> {
    rows.iter().map(|row| (row["key"].to_string(), row["value"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_lead_from_batch_to_batch_over_snapshots_and_lanes() {
    let place = Place::new();
    let script = place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &console("answer")
        + &place.flow("f", "update", "answer", "SELECT k, count(*) AS n, sum(v) AS s FROM STREAM ev GROUP BY k");
    for (lanes, files) in [(1, 2..14), (3, 14..20)] {
        files.for_each(|number| place.add_events("ev", number));
        run_script(&format!("SET lanes = {lanes};\n{script}")).await.end.unwrap();
    }
    let files = files_below(&place.path("checkpoints/f/state"));
    let snapshots = files.keys().filter(|file| file.ends_with(".snapshot")).count();
    assert!(snapshots > 2, "the first, one after many deltas and one for the new lanes: {:?}", files.keys());

    let f = checkpoint(&place);
    let all = read(&format!("SELECT * FROM state_changes({f}, 0, 19)")).await;
    let mut folded = BTreeMap::new();
    for batch_id in 0..20 {
        let changes = read(&format!("SELECT * FROM state_changes({f}, {batch_id}, {batch_id})")).await;
        let among_all: Vec<&Value> = all.iter().filter(|row| row["batch_id"] == batch_id).collect();
        assert_eq!(changes.iter().collect::<Vec<_>>(), among_all, "batch {batch_id}");
        assert!(changes.iter().all(|row| row["change_type"] == "update"), "{changes:?}");
        folded.append(&mut by_key(&changes));
        let rows = read(&format!("SELECT * FROM state({f}, batch_id => {batch_id})")).await;
        assert_eq!((by_key(&rows), rows.len()), (folded.clone(), folded.len()), "after batch {batch_id}");
    }
    assert_eq!(folded.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_has_a_store_a_side() {
    let place = Place::new();
    place.add_events("ev2", 0);
    let script = place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &place.stream("ev2", COLUMNS, "")
        + &console("answer")
        + &place.flow(
            "f",
            "append",
            "answer",
            "SELECT l.k, l.v, r.v AS w FROM STREAM ev AS l JOIN STREAM ev2 AS r ON l.k = r.k",
        );
    run_script(&script).await.end.unwrap();
    let f = checkpoint(&place);
    refused(&format!("SELECT * FROM state({f})"), ErrorKind::InvalidOption, &["several stores", "left", "right"]).await;
    for (store, count) in [("left", 6), ("right", 3)] {
        let rows = read(&format!("SELECT * FROM state({f}, store => '{store}')")).await;
        assert_eq!(rows.len(), count, "{rows:?}");
        assert!(rows.iter().all(|row| row["store"] == *store && row["value"]["matched"].is_boolean()), "{rows:?}");
        let changes = read(&format!("SELECT * FROM state_changes({f}, 0, 1, store => '{store}')")).await;
        let of = |kind: &str| changes.iter().filter(|row| row["change_type"] == *kind).count();
        assert_eq!(of("append"), count, "{changes:?}");
        assert_eq!(of("append") + of("matched"), changes.len(), "{changes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_one_row_has_no_key() {
    let place = Place::new();
    let script = place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &console("answer")
        + &place.flow("f", "complete", "answer", "SELECT count(*) AS n FROM STREAM ev");
    run_script(&script).await.end.unwrap();
    let rows = read(&format!("SELECT value FROM state({}, batch_id => 0)", checkpoint(&place))).await;
    let values: Vec<&Value> = rows[0]["value"].as_object().unwrap().values().collect();
    assert_eq!((rows.len(), values), (1, vec![&json!(3)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told() {
    let place = counted().await;
    let f = checkpoint(&place);
    for (call, words) in [
        (format!("state({f}, batch_id => 6)"), "batch 6 is not retained"),
        (format!("state({f}, batch_id => 6)"), "batches 0 to 5 are"),
        (format!("state({f}, 1)"), "has no operator 1; operators: 0 (aggregate)"),
        (format!("state({f}, store => 'left')"), "no store 'left' with rows; stores: default"),
        (format!("state_changes({f}, 4, 2)"), "the first batch comes after the last"),
        (format!("state_changes({f}, 0, 9)"), "batch 9 is not retained"),
    ] {
        refused(&format!("SELECT * FROM {call}"), ErrorKind::InvalidOption, &[words, "line 1, column 1: "]).await;
    }
    let invalid = ErrorKind::InvalidQuery;
    refused("SELECT * FROM state()", invalid, &["state('checkpoint or flow'"]).await;
    refused(&format!("SELECT * FROM state({f}, stor => 'x')"), invalid, &["did you mean store?"]).await;

    let nowhere = format!("SELECT * FROM state('{}')", place.quoted("nowhere"));
    refused(&nowhere, ErrorKind::Unavailable, &["nowhere holds no checkpoint", "there is no flow"]).await;
    assert!(!place.path("nowhere").exists(), "reading made a directory");
    place.write("spark/metadata", "{\"id\":\"8a3c5d0e-52a4-4a0e-9a6e-0d5b3f6c7e11\"}");
    let spark = format!("SELECT * FROM state_metadata('{}')", place.quoted("spark"));
    refused(&spark, ErrorKind::CheckpointIncompatible, &["Spark"]).await;

    let commit = read_entry(&newest_entry(&place.path("checkpoints/f"), "commits"));
    let name = commit["state"][0]["files"][0]["name"].as_str().unwrap();
    fs::write(place.path("checkpoints/f/state").join(name), "nothing").unwrap();
    refused(&format!("SELECT * FROM state({f})"), ErrorKind::CheckpointCorrupt, &[name, "restore"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_without_state_has_none_to_read() {
    let place = Place::new();
    let script = place.stream("ev", COLUMNS, "")
        + &console("answer")
        + &place.flow("f", "append", "answer", "SELECT k FROM STREAM ev");
    run_script(&script).await.end.unwrap();
    let f = checkpoint(&place);
    refused(&format!("SELECT * FROM state({f})"), ErrorKind::InvalidQuery, &["remembers nothing"]).await;
    assert!(read(&format!("SELECT * FROM state_metadata({f})")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_in_memory_has_no_state_to_read() {
    let place = Place::new();
    let flow = "CREATE FLOW f OUTPUT MODE update TRIGGER AVAILABLE NOW AS INSERT INTO answer \
                SELECT k, count(*) AS n FROM STREAM ev GROUP BY k;";
    let watched = Watched::new();
    watched.session.run_script(&(place.stream("ev", COLUMNS, "") + &console("answer") + flow)).await.unwrap();
    let error = watched.session.sql("SELECT * FROM state('f')").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("give the flow a CHECKPOINT"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_runs_can_be_looked_at() {
    let place = Place::new();
    let script = place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &console("answer")
        + &place.flow("f", "update", "answer", "SELECT k, count(*) AS n FROM STREAM ev GROUP BY k");
    let script = script.replace(" TRIGGER AVAILABLE NOW", "");
    let watched = Watched::new();
    let session = watched.session.clone();
    let running = tokio::spawn(async move { session.run_script(&script).await });
    watched.reports.at_least(2).await;

    let by_name = async |sql: &str| json_rows(&watched.session.sql(sql).await.unwrap().collect().await.unwrap());
    let second = by_name("SELECT key, value FROM state('f', batch_id => 1)").await;
    assert_eq!(second.len(), 2);
    let elsewhere = read(&format!("SELECT key, value FROM state({}, batch_id => 1)", checkpoint(&place))).await;
    assert_eq!(elsewhere, second);
    by_name("CREATE VIEW remembered AS SELECT key, value FROM state('f')").await;

    // It is read under its feet and goes on.
    place.add_events("staging", 2);
    fs::rename(place.path("staging/002.json"), place.path("ev/002.json")).unwrap();
    watched.reports.at_least(3).await;
    let third = by_name("SELECT key, value FROM state('f', batch_id => 2)").await;
    assert_eq!(by_name("SELECT * FROM remembered").await, third);
    assert_ne!(by_key(&third), by_key(&second));
    assert_eq!(files_below(&place.path("checkpoints/f/runs")).len(), 1, "reading took a run");
    watched.session.stop_all().await.unwrap();
    running.await.unwrap().unwrap();
}
