//! One running query: the micro-batch protocol, recovery, triggers, watermarks and what is told about them.

pub mod execution;
pub mod late_rows;
pub mod listener;
pub mod manager;
mod micro_batch;
mod partition_watermarks;
pub mod progress;
mod purge;
mod recovery;
mod report;
mod source_activity;
pub mod streaming_query;
pub mod trigger;
pub mod waiting;
pub mod watermark;

pub use execution::{Execution, QuerySettings};
pub use late_rows::LateTable;
pub use manager::StreamingQueryManager;
pub use streaming_query::StreamingQuery;
pub use trigger::Trigger;
