//! Spark's behaviour by example: each file of `tests/fixtures/golden` shows one rule (expiry at the boundary, the
//! no-data batch, a late row after a restart, the policy of several watermarks) with its outputs batch by batch.
//!
//! The fixtures also say which watermark each batch ran with, how many rows it read and how many were late. Cases that
//! need sessions, deduplication, joins of two streams or chains are kept there until those operators exist.

use std::collections::BTreeSet;
use std::fs;

use crate::case::{Case, all_agree, fixture, load};

/// Compares the cases of one file that the engine can run.
async fn agrees(file: &str) {
    let cases: Vec<Case> = load(&format!("golden/{file}.json")).into_iter().filter(|c| c.needs == "engine").collect();
    all_agree(file, &cases).await;
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

#[test]
fn no_file_is_forgotten() {
    let compared = ["windows", "global", "stateless", "unions", "restart"];
    for entry in fs::read_dir(fixture("golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let file = name.strip_suffix(".json").unwrap();
        let needs: BTreeSet<String> = load(&format!("golden/{name}")).into_iter().map(|case| case.needs).collect();
        let engine = needs.contains("engine");
        assert_eq!(engine, compared.contains(&file), "{name}: compared exactly if the engine can run a case of it");
        assert!(needs.iter().all(|n| n == "engine" || n == "stateful"), "{name}: {needs:?}");
    }
}
