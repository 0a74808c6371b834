//! From a DataFusion plan over streams to a plan that runs every micro-batch.
//!
//! SQL and DataFrames build the same logical nodes. The analyzed plan is checked against the output mode, its
//! stateful nodes get their operator ids and fingerprints, and only then is it optimized and lowered.

pub mod batch_time;
pub mod event_column;
pub mod fingerprint;
pub mod lowering;
pub mod nodes;
pub mod output_mode;
pub mod stateful;
pub mod static_table;
pub mod stream_plan;
pub mod stream_table;
pub mod window_batch;
pub mod window_function;

pub use stream_plan::{OperatorPlan, SourcePlan, StreamPlan, WatermarkPlan};
