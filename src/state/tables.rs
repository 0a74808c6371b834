//! What a store of state holds, as far as the store must know: rows that change from version to version.
//!
//! Deltas and snapshots are record batches with the schema [`Tables::change_schema`]; how rows are found again is each
//! implementor's own. [`super::KeyedTables`] keeps one row a key, [`super::KeyedEntries`] many that are found one by one,
//! [`super::RowBuffer`] many that are found together.

use std::any::Any;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;

use crate::error::Result;

/// Tells which rows with these key columns (and so many rows) a lane wants.
pub type Wanted<'a> = dyn Fn(&[ArrayRef], usize) -> Result<Vec<bool>> + 'a;

/// Rows that a versioned store can make durable and read back.
pub trait Tables: Any + Send {
    /// Returns the schema of deltas and snapshots.
    fn change_schema(&self) -> &SchemaRef;

    /// Whether another query's columns are told by their names too, not by their types alone.
    fn names_matter(&self) -> bool {
        false
    }

    /// Takes what changed since the last call, as one batch, or `None` where nothing did. Called once a batch, when no
    /// operator holds numbers of rows or groups.
    ///
    /// # Errors
    /// `Internal` where columns of one kind have different types.
    fn take_changes(&mut self) -> Result<Option<RecordBatch>>;

    /// Returns all rows as changes that make them, or `None` where there are none.
    ///
    /// # Errors
    /// As [`Tables::take_changes`].
    fn snapshot(&self) -> Result<Option<RecordBatch>>;

    /// Applies a delta or snapshot that lane `lane` wrote; of rows with keys only those that are wanted.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where it says what no delta can say.
    fn apply(&mut self, batch: &RecordBatch, lane: usize, wanted: &Wanted<'_>) -> Result<()>;

    /// Ends loading; `regrouped` says that the rows came from another number of lanes, and a snapshot follows.
    fn loaded(&mut self, _regrouped: bool) {}

    /// Returns when the first row is due for which the query is to run even without data, in microseconds of processing
    /// time. Most rows wait for no clock.
    fn due_us(&mut self) -> Option<i64> {
        None
    }

    /// Returns the number of rows.
    fn row_count(&self) -> usize;

    /// Returns about how many bytes the rows take.
    fn memory_bytes(&self) -> usize;
}
