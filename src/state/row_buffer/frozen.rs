//! Rows on their way into state files: appended rows as batches, and all rows as they were at one moment.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{interleave, take};
use datafusion::arrow::datatypes::SchemaRef;

use super::{APPEND, Chunk, HEAD, RowNumber};
use crate::error::Result;
use crate::state::tables::{FrozenRows, PIECE_ROWS};

/// What stands beside the columns of some rows.
pub(super) struct Facts {
    pub(super) ids: Int64Array,
    pub(super) expiry: Int64Array,
    pub(super) matched: Vec<bool>,
}

/// The rows that were alive at one moment.
pub(super) struct Frozen {
    pub(super) change_schema: SchemaRef,
    pub(super) chunks: Vec<Chunk>,
    pub(super) rows: Vec<RowNumber>,
    pub(super) facts: Facts,
}

impl FrozenRows for Frozen {
    fn each_piece(&self, give: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let count = self.change_schema.fields().len() - HEAD;
        for (piece, rows) in self.rows.chunks(PIECE_ROWS).enumerate() {
            let (start, length) = (piece * PIECE_ROWS, rows.len());
            let columns = gather(&self.change_schema, &self.chunks, 0..count, rows)?;
            let Facts { ids, expiry, matched } = &self.facts;
            let facts = Facts {
                ids: ids.slice(start, length),
                expiry: expiry.slice(start, length),
                matched: matched[start..start + length].to_vec(),
            };
            give(append_batch(&self.change_schema, facts, columns)?)?;
        }
        Ok(())
    }
}

/// Puts appended rows into a batch.
pub(super) fn append_batch(schema: &SchemaRef, facts: Facts, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let Facts { ids, expiry, matched } = facts;
    let what = UInt8Array::from_value(APPEND, ids.len());
    let head: [ArrayRef; HEAD] =
        [Arc::new(what), Arc::new(ids), Arc::new(expiry), Arc::new(BooleanArray::from(matched))];
    Ok(RecordBatch::try_new(Arc::clone(schema), head.into_iter().chain(columns).collect())?)
}

/// Collects rows of some columns from the chunks.
pub(super) fn gather(
    schema: &SchemaRef,
    chunks: &[Chunk],
    columns: Range<usize>,
    rows: &[RowNumber],
) -> Result<Vec<ArrayRef>> {
    match chunks {
        [] => Ok(columns.map(|c| new_null_array(schema.field(HEAD + c).data_type(), rows.len())).collect()),
        [only] => {
            let rows = UInt32Array::from(rows.to_vec());
            columns.map(|c| Ok(take(&only.columns[c], &rows, None)?)).collect()
        }
        chunks => {
            let place = |row: &RowNumber| {
                let chunk = chunks.partition_point(|c| c.start <= *row as usize) - 1;
                (chunk, *row as usize - chunks[chunk].start)
            };
            let places: Vec<(usize, usize)> = rows.iter().map(place).collect();
            let column = |c: usize| {
                let pieces: Vec<&dyn Array> = chunks.iter().map(|chunk| chunk.columns[c].as_ref()).collect();
                Ok(interleave(&pieces, &places)?)
            };
            columns.map(column).collect()
        }
    }
}
