//! What Spark 4.3.0 answered, batch by batch: every case of `tests/fixtures/spark` whose operators exist here.
//!
//! Sessions, joins of two streams and windows over windows have fixtures there, too, and get a line in the list below
//! together with their operators.

use crate::case::{Case, all_agree, load};

/// The kinds of cases that are held against Spark.
pub(crate) const KINDS: [&str; 7] =
    ["by_time_key", "distinct", "sliding", "stateless", "static_join", "tumbling", "unwindowed"];

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
async fn tumbling() {
    agrees("tumbling").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unwindowed() {
    agrees("unwindowed").await;
}
