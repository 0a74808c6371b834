//! What Spark 4.3.0 answered, batch by batch: every case of `tests/fixtures/spark`, a file a kind of query.

use std::collections::BTreeSet;
use std::fs;

use crate::case::{Case, all_agree, fixture, load};

/// The kinds of cases, each a test below.
pub(crate) const KINDS: [&str; 16] = [
    "by_time_key",
    "chain",
    "deduplication",
    "distinct",
    "filter",
    "session",
    "session_by_row",
    "sliding",
    "stateless",
    "static_join",
    "stream_join",
    "stream_join_forms",
    "tumbling",
    "unwindowed",
    "window_join",
    "window_of_window",
];

/// Reads the cases of one kind.
pub(crate) fn cases(kind: &str) -> Vec<Case> {
    assert!(KINDS.contains(&kind), "{kind} is not among the kinds");
    load(&format!("spark/{kind}.json"))
}

/// Compares all cases of one kind.
async fn agrees(kind: &str) {
    all_agree(kind, &cases(kind)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_time_key() {
    agrees("by_time_key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn distinct() {
    agrees("distinct").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session() {
    agrees("session").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sliding() {
    agrees("sliding").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stateless() {
    agrees("stateless").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_join() {
    agrees("static_join").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_join() {
    agrees("stream_join").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tumbling() {
    agrees("tumbling").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unwindowed() {
    agrees("unwindowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn window_of_window() {
    agrees("window_of_window").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chain() {
    agrees("chain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplication() {
    agrees("deduplication").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filter() {
    agrees("filter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_by_row() {
    agrees("session_by_row").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_join_forms() {
    agrees("stream_join_forms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn window_join() {
    agrees("window_join").await;
}

#[test]
fn no_kind_is_forgotten() {
    let entries = fs::read_dir(fixture("spark")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there: BTreeSet<String> = names.map(|name| name.strip_suffix(".json").unwrap().to_string()).collect();
    assert_eq!(there, BTreeSet::from(KINDS.map(String::from)));
}
