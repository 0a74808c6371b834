//! What a query remembers between micro-batches.
//!
//! State is columnar: keyed rows in tables (one a window), or rows buffered by key; a version a batch. The rows a batch
//! changed are at once the state's new rows and the checkpoint's delta. A key belongs to one of 128 key groups by a
//! hash that is ours, and a lane owns a range of groups, so that a restart may use any number of lanes.

pub mod codec;
pub mod key_group;
pub mod keyed_entries;
pub mod keyed_tables;
pub mod lane_state;
pub mod lane_store;
pub mod memory;
pub mod row_buffer;
pub mod shape;
pub mod stored_rows;
pub mod tables;

pub use key_group::{KEY_GROUPS, key_groups, keyless_lane, lane_of};
pub use keyed_entries::KeyedEntries;
pub use keyed_tables::KeyedTables;
pub use lane_state::{LaneState, NamedTables};
pub(crate) use lane_store::read_verified;
pub use lane_store::{DEFAULT_STORE, FileKind, LaneStore, StateFile};
pub use memory::{SharedLane, StateBudget, StateMemory};
pub use row_buffer::RowBuffer;
pub use shape::{StateShape, StoreKind};
pub use stored_rows::{StateChanges, StateRows, StoredRows};
pub use tables::Tables;
