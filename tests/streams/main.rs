//! Tests of behaviour: whole scripts are run in this process and every micro-batch they print is compared.
//!
//! The answers come from three places: from fixtures (`tests/fixtures/`: what Spark gives for the same files cut into
//! the same micro-batches), from the same SQL over the same rows as one plain batch ([`oracle`]), and from a model of
//! the late rule, row by row ([`late_model`]).
//!
//! Beside them: every script of `sql/` whole, in pieces and in other lanes ([`sql_scripts`]), the command killed at
//! random moments ([`kill`]), what bad input is told ([`bad_input`], [`bad_checkpoint`]), what the papers show
//! ([`shown`]), and the direction of imports ([`direction`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answer;
mod bad_checkpoint;
mod bad_input;
mod case;
mod direction;
mod disk;
mod golden;
mod kill;
mod lanes;
mod late_model;
mod oracle;
mod refusals;
mod restart;
mod scenario;
mod shown;
mod spark_cases;
mod sql_scripts;
mod statements;
mod values;
mod watched;
