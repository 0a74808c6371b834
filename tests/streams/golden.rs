//! Spark's behaviour by example: each file of `tests/fixtures/golden` shows one rule (expiry at the boundary, the
//! no-data batch, a late row after a restart, a session that grows backwards, an outer row that leaves in the batch it
//! came in) with its outputs batch by batch.
//!
//! The fixtures also say which watermark each batch ran with, how many rows it read and how many were late. What Spark
//! has no SQL for (deduplication) was asked of its DataFrames and is written with our table functions here.

use std::collections::BTreeSet;
use std::fs;

use crate::case::{Case, all_agree, fixture, load};

/// The files, each a test below.
pub(crate) const FILES: [&str; 9] =
    ["chains", "deduplication", "global", "restart", "sessions", "stateless", "stream_joins", "unions", "windows"];

/// Reads the cases of one file.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    assert!(FILES.contains(&file), "{file} is not among the files");
    load(&format!("golden/{file}.json"))
}

/// Compares the cases of one file.
async fn agrees(file: &str) {
    all_agree(file, &cases(file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows() {
    agrees("windows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn global_and_by_key() {
    agrees("global").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stateless_and_limit() {
    agrees("stateless").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unions_of_watermarks() {
    agrees("unions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart() {
    agrees("restart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions() {
    agrees("sessions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplication() {
    agrees("deduplication").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_of_two_streams() {
    agrees("stream_joins").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_of_operators() {
    agrees("chains").await;
}

#[test]
fn no_file_is_forgotten() {
    let entries = fs::read_dir(fixture("golden")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = names.map(|name| name.strip_suffix(".json").unwrap().to_string()).collect();
    assert_eq!(there, BTreeSet::from(FILES.map(String::from)));
}
