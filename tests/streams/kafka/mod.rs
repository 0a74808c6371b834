//! Kafka: what is read and written, and what becomes of it when brokers, processes and messages fail.
//!
//! Most tests run against librdkafka's own cluster of mocks, in this process, with faults made to order. What it cannot do
//! (transactions that readers do not see, offsets of times, rights, topics that are made anew) is tested against a real
//! Kafka, in tests that are ignored unless asked for:
//!
//! ```text
//! tests/services/kafka.sh up && cargo test --features kafka,failpoints --test streams -- --ignored --test-threads 1 kafka::
//! ```

mod changes;
mod cluster;
mod exactly_once;
mod faults;
mod reading;
mod real;
mod values;
mod watermarks;
mod writing;
