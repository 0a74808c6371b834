//! Physical operators of a streaming plan: leaves that read splits, the watermark, and the stateful ones.
//!
//! A node holds no data and no state: what a batch reads, which watermarks hold and where state lives ride in the
//! [`BatchContext`], an extension of DataFusion's `TaskContext`. So one plan, made once, runs every micro-batch.

pub mod aggregate;
pub mod batch_context;
pub mod event_time;
pub mod global_limit;
pub mod leaf;
pub mod source_read;
pub mod static_read;
pub mod watermark;

pub use batch_context::{BatchContext, BatchReport, OperatorReport, OperatorWatermarks, StateLanes};
