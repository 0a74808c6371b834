//! What a query remembers between micro-batches.
//!
//! State is columnar: keyed rows in tables (one a window), a version a batch. The rows a batch changed are at once the
//! state's new rows and the checkpoint's delta. A key belongs to one of 128 key groups by a hash that is ours, and a
//! lane owns a range of groups, so that a restart may use any number of lanes.

pub mod codec;
pub mod key_group;
pub mod lane_store;
pub mod tables;

pub use key_group::{KEY_GROUPS, key_groups, keyless_lane, lane_of};
pub use lane_store::{FileKind, LaneStore, StateFile};
pub use tables::KeyedTables;
