//! x
#[path = "sql/interval.rs"]
pub mod interval;
pub mod checkpoint;
pub mod clock;
pub mod error;
pub mod operator;
pub mod options;
pub mod plan;
pub mod query;
pub mod sink;
pub mod source;
pub mod state;
pub mod storage;
