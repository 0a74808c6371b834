//! A checkpoint of Spark, a second writer, and a table of another query: each is refused with what is wrong and what to
//! do, before a row is written. Damaged checkpoints are in [`super::corruption`], changed queries in
//! [`super::changed_queries`].

use std::fs;
use std::time::Duration;

use millstream::error::ErrorKind;
use serde_json::Value;

use crate::answer::{Bag, bag};
use crate::bad_input::{COLUMNS, Place};
use crate::case::run_script;
use crate::disk::{Table, files_below};
use crate::watched::Watched;

/// How long a query may take to notice that another has taken over.
const PATIENCE: Duration = Duration::from_secs(60);

const WATERMARK: &str = "WATERMARK ts DELAY OF INTERVAL 5 SECONDS";

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
