//! What the Kafka source and the Kafka sink share: a client's configuration, and what its errors mean.
//!
//! Built on librdkafka. Guards that secrets among the options reach the client and nothing else.

mod client;
mod config;
mod stopwatch;

pub(crate) use client::{ClientEvents, code_of, failure, is_transient, is_unknown, partitions_of, patiently};
pub(crate) use config::{ClientSettings, TABLE_OPTIONS, refused};
pub(crate) use stopwatch::Stopwatch;
