//! From a DataFusion plan over streams to a plan that runs every micro-batch.
//!
//! SQL and DataFrames build the same logical nodes. The analyzed plan is checked against the output mode, its
//! stateful nodes get their operator ids and fingerprints, and only then is it optimized and lowered.

pub mod asof_join;
pub mod batch_time;
pub mod completion;
pub mod cumulate;
pub mod duplicates;
mod durations;
pub mod event_column;
pub mod filter_below;
pub mod fingerprint;
pub mod first_row;
pub mod lowering;
pub mod nodes;
pub mod numbering;
pub mod operator_plan;
pub mod output_mode;
mod partition_watermark;
mod session_batch;
pub mod stateful;
pub mod static_table;
pub mod stream_join;
pub mod stream_plan;
pub mod stream_table;
pub mod text_of_bytes;
pub mod time_difference;
pub mod user_state;
pub mod window_batch;
pub mod window_function;
pub mod window_projection;

pub use operator_plan::OperatorPlan;
pub use stream_plan::{SourcePlan, StreamPlan, WatermarkPlan};
