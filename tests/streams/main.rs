//! Tests of behaviour: whole scripts are run in this process and every micro-batch they print is compared.
//!
//! The answers come from three places: from fixtures (`tests/fixtures/`: what Spark gives for the same files cut into
//! the same micro-batches), from the same SQL over the same rows as one plain batch ([`oracle`]), and from a model of
//! the late rule, row by row ([`late_model`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answer;
mod case;
mod golden;
mod lanes;
mod late_model;
mod oracle;
mod refusals;
mod restart;
mod scenario;
mod spark_cases;
