//! Tests of behaviour: whole scripts are run in this process and every micro-batch they print is compared.
//!
//! The answers come from three places: from fixtures (`tests/fixtures/`: what Spark gives for the same files cut into
//! the same micro-batches), from the same SQL over the same rows as one plain batch ([`oracle`]), and from a model of
//! the late rule, row by row ([`late_model`], [`late_table`]).
//!
//! Beside them: every script of `sql/` whole, in pieces and in other lanes ([`sql_scripts`]), the command killed at
//! random moments ([`kill`]), what a query says of itself ([`waiting`]), sources that fall silent ([`idle_sources`]),
//! state of an application's own ([`user_state`], [`user_time`]), what bad input is told ([`bad_input`],
//! [`bad_checkpoint`], [`corruption`], [`changed_queries`], [`malformed_rows`], [`evil_names`]), checkpoints of earlier
//! versions ([`compatibility`]), memory that has an end ([`memory`]), panics ([`faults`]), clocks that jump
//! ([`clock_jumps`]), stores that fail ([`failing_store`]) or are slow ([`slow_snapshots`]), what is told to nobody ([`secrets`]), what fuzzing found
//! ([`fuzz_findings`]), what comes back from CSV ([`csv_values`]), Nexmark beside its batch
//! ([`nexmark`]), Kafka with brokers that fail (`kafka`), state read with SQL ([`state_reader`]), what the papers
//! show ([`shown`]), and the direction of imports ([`direction`]).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answer;
mod bad_checkpoint;
mod bad_input;
mod case;
mod changed_queries;
mod clock_jumps;
mod collected;
mod compatibility;
mod corruption;
mod counted;
mod csv_values;
mod cut_off;
mod damage;
mod direction;
mod disk;
mod evil_names;
mod failing_store;
mod faults;
mod fuzz_findings;
mod golden;
mod idle_sources;
#[cfg(feature = "kafka")]
mod kafka;
mod kill;
mod lanes;
mod late_first_rows;
mod late_joins;
mod late_model;
mod late_sessions;
mod late_table;
mod malformed_rows;
mod memory;
mod model;
mod nexmark;
mod oracle;
mod payments;
mod refusals;
mod restart;
mod scenario;
mod secrets;
mod shown;
mod slow_snapshots;
mod spark_cases;
mod sql_scripts;
mod state_reader;
mod stateful_oracle;
mod statements;
mod user_state;
mod user_time;
mod values;
mod waiting;
mod watched;
