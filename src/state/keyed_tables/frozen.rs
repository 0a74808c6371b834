//! Rows on their way into state files: changes as batches, and all rows as they were at one moment.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt8Array, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::SchemaRef;

use super::table::{Chunk, gathered};
use super::{Change, HEAD, PUT, TableId};
use crate::error::Result;
use crate::state::tables::{FrozenRows, PIECE_ROWS};

/// The rows of all tables at one moment.
pub(super) struct Frozen {
    pub(super) key_count: usize,
    pub(super) change_schema: SchemaRef,
    pub(super) tables: Vec<FrozenTable>,
}

pub(super) struct FrozenTable {
    pub(super) id: TableId,
    pub(super) chunks: Vec<Chunk>,
    pub(super) places: Vec<(u32, u32)>,
}

impl FrozenRows for Frozen {
    fn each_piece(&self, give: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let mut give = |piece: &[Change]| {
            let rows = batch_of(&self.change_schema, self.key_count, piece)?;
            rows.map_or(Ok(()), &mut *give)
        };
        let (mut piece, mut rows) = (Vec::new(), 0);
        for FrozenTable { id, chunks, places } in &self.tables {
            for places in places.chunks(PIECE_ROWS) {
                let chunk = Some(gathered(chunks, places)?);
                piece.push(Change { what: PUT, table: *id, rows: places.len(), chunk });
                rows += places.len();
                if rows >= PIECE_ROWS {
                    give(&std::mem::take(&mut piece))?;
                    rows = 0;
                }
            }
        }
        give(&piece)
    }
}

/// Puts changes into a batch; columns that a change does not have are NULL.
pub(super) fn batch_of(schema: &SchemaRef, key_count: usize, changes: &[Change]) -> Result<Option<RecordBatch>> {
    let rows: usize = changes.iter().map(|c| c.rows).sum();
    if rows == 0 {
        return Ok(None);
    }
    let mut whats: Vec<u8> = Vec::with_capacity(rows);
    let mut tables: Vec<i64> = Vec::with_capacity(rows);
    for change in changes {
        whats.resize(whats.len() + change.rows, change.what);
        tables.resize(tables.len() + change.rows, change.table);
    }
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt8Array::from(whats)), Arc::new(Int64Array::from(tables))];
    for (column, field) in schema.fields().iter().enumerate().skip(HEAD) {
        let index = column - HEAD;
        let piece = |c: &Change| match &c.chunk {
            Some(chunk) if index < key_count => Arc::clone(&chunk.keys[index]),
            Some(chunk) if !chunk.values.is_empty() => Arc::clone(&chunk.values[index - key_count]),
            _ => new_null_array(field.data_type(), c.rows),
        };
        let pieces: Vec<ArrayRef> = changes.iter().map(piece).collect();
        columns.push(match pieces.as_slice() {
            [only] => Arc::clone(only),
            pieces => concat(&pieces.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?,
        });
    }
    Ok(Some(RecordBatch::try_new(Arc::clone(schema), columns)?))
}
