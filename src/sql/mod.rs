//! SQL: text → statements.
//!
//! A script is split into pieces ([`script`]); each piece becomes one [`statement::Statement`]. On the way the tokens
//! are rewritten once, so that stream relations, Flink's window table functions and Spark's intervals become what the
//! SQL parser knows; positions survive, so that every error points at the line and column of the script. Planning
//! what was parsed is another step's work.

mod asof_join;
pub mod binder;
mod call;
mod clause;
mod create;
pub mod data_type;
pub(crate) mod deep_stack;
mod distinct_from;
mod each_select;
pub mod functions;
pub mod lateral_view;
mod nesting;
pub mod relation;
mod relation_tokens;
pub mod script;
pub mod session_table;
pub mod state_call;
pub mod statement;
pub mod stream_relation;
pub mod struct_call;
pub mod window_column;
mod words;
