//! What a store of state holds, as far as the store must know: rows that change from version to version.
//!
//! Deltas and snapshots are record batches with the schema [`Tables::change_schema`]; how rows are found again is each
//! implementor's own. [`super::KeyedTables`] keeps one row a key, [`super::KeyedEntries`] many that are found one by one,
//! [`super::RowBuffer`] many that are found together.

use std::any::Any;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;

use crate::error::Result;

/// Tells which rows with these key columns (and so many rows) a lane wants.
pub type Wanted<'a> = dyn Fn(&[ArrayRef], usize) -> Result<Vec<bool>> + 'a;

/// Rows of state that are copied, joined or written in one go: what the bookkeeping of state takes beside it is bounded by
/// so many rows.
pub(super) const PIECE_ROWS: usize = 1 << 16;

/// Returns about how many bytes an index of so many keys takes: what it doubles by, not what it is.
pub(super) fn index_bytes(keys: usize) -> usize {
    (keys * 8 / 7).next_power_of_two() * 17
}

/// All rows of tables as they stood at one moment, whatever becomes of the tables.
pub trait FrozenRows: Send {
    /// Gives all rows as changes that make them, piece by piece: nothing where there are none.
    ///
    /// # Errors
    /// `Internal` where columns of one kind have different types, and what `give` meets.
    fn each_piece(&self, give: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()>;
}

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

    /// Returns all rows as they are now. Rows are shared and only where they are is copied; nobody waits for their writing.
    fn freeze(&self) -> Box<dyn FrozenRows>;

    /// Returns all rows as changes that make them, or `None` where there are none.
    ///
    /// # Errors
    /// As [`Tables::take_changes`].
    fn snapshot(&self) -> Result<Option<RecordBatch>> {
        let mut pieces = Vec::new();
        self.freeze().each_piece(&mut |piece| {
            pieces.push(piece);
            Ok(())
        })?;
        match pieces.is_empty() {
            true => Ok(None),
            false => Ok(Some(concat_batches(self.change_schema(), &pieces)?)),
        }
    }

    /// Applies a delta or snapshot that lane `lane` wrote; of rows with keys only those that are wanted.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where it says what no delta can say.
    fn apply(&mut self, batch: &RecordBatch, lane: usize, wanted: &Wanted<'_>) -> Result<()>;

    /// Makes tables of the same kind without rows.
    fn emptied(&self) -> Box<dyn Tables>;

    /// Ends loading; `regrouped` says that the rows came from another number of lanes, and a snapshot follows.
    fn loaded(&mut self, _regrouped: bool) {}

    /// Returns when the first row is due for which the query is to run even without data, in microseconds of processing
    /// time. Most rows wait for no clock.
    fn due_us(&mut self) -> Option<i64> {
        None
    }

    /// Returns the number of rows.
    fn row_count(&self) -> usize;

    /// Returns about how many bytes the rows take, without looking at them: asked for several times a batch.
    fn memory_bytes(&self) -> usize;

    /// Returns about how many bytes more are needed for a moment where `rows` new keys make an index grow.
    fn doubling_bytes(&self, rows: usize) -> usize;
}
