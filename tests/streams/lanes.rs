//! The number of lanes is nobody's business: every case has the same answer, batch by batch, in one lane and in four.

use crate::case::{Case, all_agree};
use crate::spark_cases::{KINDS, cases};

/// Compares all cases of all kinds with a fixed number of lanes.
async fn agree_in(lanes: usize) {
    let with_lanes = |mut case: Case| {
        case.settings.insert("lanes".to_string(), lanes.to_string());
        case
    };
    let all: Vec<Case> = KINDS.iter().flat_map(|kind| cases(kind)).map(with_lanes).collect();
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
