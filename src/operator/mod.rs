//! Physical operators of a streaming plan: leaves that read splits, the watermark, and the stateful ones.
//!
//! A node holds no data and no state: what a batch reads, which watermarks hold and where state lives ride in the
//! [`BatchContext`], an extension of DataFusion's `TaskContext`. So one plan, made once, runs every micro-batch.

pub mod aggregate;
pub mod asof_join;
pub mod batch_context;
pub mod deduplicate;
pub mod event_time;
pub mod exchange;
pub mod first_row;
pub mod global_limit;
pub mod leaf;
pub mod session;
pub mod source_read;
pub mod stateful;
pub mod static_read;
pub mod stream_join;
pub mod user_state;
pub mod watermark;

pub use batch_context::{BatchContext, BatchReport, OperatorReport, OperatorWatermarks, StateLanes};
