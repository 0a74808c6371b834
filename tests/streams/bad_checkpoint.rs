//! A checkpoint that does not fit or is damaged, a second writer, and a table of another query: each is refused with
//! what is wrong and what to do, before a row is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::error::ErrorKind;
use serde_json::Value;

use crate::answer::{Bag, bag};
use crate::bad_input::{COLUMNS, Place, console};
use crate::case::run_script;
use crate::disk::{Table, files_below, newest_entry, read_entry};
use crate::watched::Watched;

/// How long a query may take to notice that another has taken over.
const PATIENCE: Duration = Duration::from_secs(60);

const WATERMARK: &str = "WATERMARK ts DELAY OF INTERVAL 5 SECONDS";

/// A flow `f` over the streams `ev` and `ev2`, a file a batch, to the console.
fn printing(place: &Place, sql: &str) -> String {
    place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &place.stream("ev2", COLUMNS, "")
        + &console("answer")
        + &place.flow("f", "update", "answer", sql)
}

/// A flow `f` that counts by window into Parquet files, a file of `ev` a batch.
fn counting(place: &Place) -> String {
    let sql = format!(
        "SELECT window.start AS ws, k, count(*) AS n, sum(v) AS s FROM STREAM ev {WATERMARK} \
         GROUP BY window(ts, '10 seconds'), k"
    );
    place.stream("ev", COLUMNS, ", 'maxFilesPerTrigger' '1'")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", &sql)
}

/// What a checkpoint decides: everything but who runs on it.
fn decisions(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    files_below(checkpoint).into_iter().filter(|(file, _)| !file.starts_with("runs/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_spark_is_told_apart() {
    let place = Place::new();
    place.write("checkpoints/f/metadata", "{\"id\":\"8a3c5d0e-52a4-4a0e-9a6e-0d5b3f6c7e11\"}");
    place.write("checkpoints/f/offsets/0", "v1\n{\"batchWatermarkMs\":0}\n{\"logOffset\":0}");
    let before = files_below(&place.path("checkpoints/f"));
    place
        .refused(&counting(&place), ErrorKind::CheckpointIncompatible, &["Spark", "checkpoint directory of its own"])
        .await;
    assert_eq!(files_below(&place.path("checkpoints/f")), before);
}

/// Runs `old`, then refuses `new` on its checkpoint.
async fn changed(old: &str, new: &str, words: &[&str]) {
    let place = Place::new();
    place.add_events("ev2", 0);
    run_script(&printing(&place, old)).await.end.unwrap();
    let checkpoint = place.path("checkpoints/f");
    let before = decisions(&checkpoint);
    assert!(!before.is_empty());
    place.add_events("ev", 2);
    place.refused(&printing(&place, new), ErrorKind::CheckpointIncompatible, words).await;
    assert!(decisions(&checkpoint) == before, "the checkpoint was changed by a query that it refused: {new}");
    // The old query goes on where it was.
    let lines = run_script(&printing(&place, old)).await;
    lines.end.unwrap();
    assert_eq!(lines.lines[0]["batch_id"], newest_planned(&before) + 1);
}

fn newest_planned(decisions: &[(String, Vec<u8>)]) -> i64 {
    decisions.iter().filter_map(|(file, _)| file.strip_prefix("offsets/")?.parse::<i64>().ok()).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_aggregate_is_refused() {
    let query = |aggregate: &str| format!("SELECT k, {aggregate} AS x FROM STREAM ev GROUP BY k");
    let words = ["functions changed from", "sum(v)", "max(v)", "new checkpoint"];
    changed(&query("sum(v)"), &query("max(v)"), &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_is_refused() {
    let query = |key: &str| format!("SELECT {key}, count(*) AS n FROM STREAM ev GROUP BY {key}");
    changed(&query("k"), &query("v"), &["keys changed from", "new checkpoint"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_window_is_refused() {
    let query = |size: &str| {
        format!("SELECT window.start AS ws, count(*) AS n FROM STREAM ev {WATERMARK} GROUP BY window(ts, '{size}')")
    };
    changed(&query("10 seconds"), &query("20 seconds"), &["changed from", "new checkpoint"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_operators_is_refused() {
    let stateless = "SELECT k, v FROM STREAM ev";
    let grouped = "SELECT k, count(*) AS n FROM STREAM ev GROUP BY k";
    changed(stateless, grouped, &["operators changed from (none) to (aggregate)"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_sources_is_refused() {
    let one = "SELECT k, v FROM STREAM ev";
    let two = "SELECT k, v FROM STREAM ev UNION ALL SELECT k, v FROM STREAM ev2";
    changed(one, two, &["number and names of sources"]).await;
    changed(two, one, &["number and names of sources"]).await;
}

/// A way to damage a file.
type Damage = fn(&Path);

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut_short(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}

fn empty(path: &Path) {
    fs::write(path, "").unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// A file of state that the newest commit lists.
fn state_file(checkpoint: &Path) -> PathBuf {
    let commit = read_entry(&newest_entry(checkpoint, "commits"));
    let files = commit["state"].as_array().unwrap().iter().flat_map(|operator| operator["files"].as_array().unwrap());
    let names: Vec<&str> = files.map(|file| file["name"].as_str().unwrap()).collect();
    checkpoint.join("state").join(names.last().expect("the newest commit lists no state"))
}

/// Damages a good checkpoint, and says how it was refused to whoever comes with new data.
async fn damaged(file: impl Fn(&Path) -> PathBuf, damage: Damage) {
    let place = Place::new();
    place.add_events("ev", 2);
    run_script(&counting(&place)).await.end.unwrap();
    assert!(!place.seen().is_empty(), "nothing was written, so nothing is shown");
    place.add_events("ev", 3);
    let checkpoint = place.path("checkpoints/f");
    let path = file(&checkpoint);
    damage(&path);
    let before = decisions(&checkpoint);
    let name = path.strip_prefix(&checkpoint).unwrap().to_str().unwrap();
    let error = place.refused(&counting(&place), ErrorKind::CheckpointCorrupt, &[name]).await;
    let remedies = ["restore", "rewind", "new checkpoint", "delete this file"];
    assert!(remedies.iter().any(|remedy| error.message().contains(remedy)), "no remedy in: {error}");
    assert!(decisions(&checkpoint) == before, "{name}: the checkpoint was changed");
}

fn named(name: &'static str) -> impl Fn(&Path) -> PathBuf {
    move |checkpoint: &Path| checkpoint.join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused() {
    for damage in [flip_a_bit as Damage, cut_short, empty, remove] {
        damaged(named("metadata"), damage).await;
        damaged(named("offsets/1"), damage).await;
        damaged(|checkpoint: &Path| newest_entry(checkpoint, "offsets"), damage).await;
    }
    for damage in [flip_a_bit as Damage, cut_short, empty] {
        damaged(|checkpoint: &Path| newest_entry(checkpoint, "commits"), damage).await;
    }
    damaged(named("commits/1"), remove).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_is_refused() {
    for damage in [flip_a_bit as Damage, cut_short, empty, remove] {
        damaged(state_file, damage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_entry_is_refused() {
    let place = Place::new();
    place.add_events("ev", 2);
    run_script(&counting(&place)).await.end.unwrap();
    let checkpoint = place.path("checkpoints/f");
    let newest = newest_entry(&checkpoint, "commits");
    fs::copy(checkpoint.join("commits/0"), &newest).unwrap();
    let name = newest.strip_prefix(&checkpoint).unwrap().to_str().unwrap().to_string();
    place.refused(&counting(&place), ErrorKind::CheckpointCorrupt, &[name.as_str(), "swapped"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_query_is_refused() {
    let place = Place::new();
    place.add_events("ev", 2);
    run_script(&counting(&place)).await.end.unwrap();
    assert!(!place.seen().is_empty(), "nothing was written, so there is nothing to protect");
    let other = counting(&place).replace("/checkpoints/f'", "/checkpoints/other'");
    place.refused(&other, ErrorKind::CheckpointIncompatible, &["holds files of query", "shared = true"]).await;
    // Without its manifest the table's files still say whose they are.
    fs::remove_dir_all(place.path("out/result/_millstream")).unwrap();
    place.refused(&other, ErrorKind::CheckpointIncompatible, &["holds files of query", "shared = true"]).await;
}

/// The rows of the files of `ev`, as the flow of [`a_second_writer_takes_over`] copies them.
fn rows_of(place: &Place) -> Bag {
    let files = files_below(&place.path("ev"));
    let lines = files.values().flat_map(|file| std::str::from_utf8(file).unwrap().lines());
    let rows: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    bag(&rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_takes_over_and_the_first_is_fenced() {
    let place = Place::new();
    let script = place.stream("ev", COLUMNS, "")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", "SELECT id, ts, k, v FROM STREAM ev");
    let endless = script.replace("AVAILABLE NOW", "PROCESSING TIME '10 milliseconds'");

    let first = Watched::new();
    let taking_over = async {
        first.reports.at_least(1).await;
        run_script(&script).await.end.unwrap();
        // The first finds the new file, and that it may not take it any more.
        place.add_events("ev", 2);
    };
    let both = async { tokio::join!(first.session.run_script(&endless), taking_over) };
    let (end, ()) = tokio::time::timeout(PATIENCE, both).await.expect("the first writer goes on");
    let error = end.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(error.message().contains("taken over") && error.message().contains("checkpoints/f"), "{error}");

    run_script(&script).await.end.unwrap();
    let table = Table::parquet(place.path("out/result"));
    assert_eq!(table.rows().await.unwrap(), rows_of(&place));
}
