//! The number of lanes is nobody's business: cases of every kind have the same answer, batch by batch, in one lane and in four.

use crate::case::{Case, all_agree};
use crate::{golden, spark_cases};

/// Compares all cases of all kinds with a fixed number of lanes.
async fn agree_in(lanes: usize) {
    let with_lanes = |mut case: Case| {
        case.settings.insert("lanes".to_string(), lanes.to_string());
        case
    };
    // A few of each kind: what lanes could change, it changes in one as in another.
    let of_kinds = spark_cases::KINDS.into_iter().flat_map(|kind| spark_cases::cases(kind).into_iter().take(8));
    let of_rules = golden::FILES.into_iter().flat_map(golden::cases);
    let all: Vec<Case> = of_kinds.chain(of_rules).map(with_lanes).collect();
    all_agree(&format!("{lanes}-lane"), &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_gives_the_same_answer() {
    agree_in(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lanes_give_the_same_answer() {
    agree_in(4).await;
}
