//! Bytes as a file of state, decoded and applied to stores of each kind; rows of any value within a file that is whole,
//! too, since most bytes are no Arrow stream.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt8Array, new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use libfuzzer_sys::fuzz_target;
use millstream::state::{KeyedEntries, KeyedTables, RowBuffer, Tables, codec, key_groups};

fn field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

/// An empty store of one kind, all with the key `k` of text and the value `n`.
fn tables(which: u8) -> Box<dyn Tables> {
    let (key, number) = ([field("k", DataType::Utf8)], [field("n", DataType::Int64)]);
    match which % 4 {
        0 => Box::new(KeyedTables::new(&key, &number).expiring_by(0)),
        1 => Box::new(RowBuffer::new(&key, &number)),
        2 => Box::new(KeyedEntries::new(&key, &number, &number).expiring_by(0).waking()),
        _ => Box::new(KeyedTables::new(&[], &number).of_windows(10_000_000)),
    }
}

/// Applies what was decoded, and asks everything that a store is asked then.
fn apply(tables: &mut dyn Tables, batch: &RecordBatch, lane: usize) {
    let wanted = |keys: &[ArrayRef], rows: usize| Ok(key_groups(keys, rows)?.into_iter().map(|g| g % 3 > 0).collect());
    if tables.apply(batch, lane, &wanted).is_err() {
        return;
    }
    tables.loaded(lane > 0);
    tables.due_us();
    let rows = tables.row_count();
    tables.memory_bytes();
    let snapshot = tables.snapshot().expect("a snapshot of what was taken");
    assert!(rows == 0 || snapshot.is_some_and(|snapshot| snapshot.num_rows() >= rows), "rows are lost");
    tables.take_changes().expect("the changes of what was taken");
}

/// Rows with the store's columns, each value from the bytes: ten a row.
fn rows(schema: &datafusion::arrow::datatypes::SchemaRef, data: &[u8]) -> Option<RecordBatch> {
    let rows: Vec<&[u8]> = data.chunks_exact(10).collect();
    let number = |bytes: &[u8], at: usize| match bytes[at] {
        255 => i64::MAX,
        254 => i64::MIN,
        253 => -1,
        small => i64::from(small),
    };
    let columns = schema.fields().iter().enumerate().map(|(at, field)| -> ArrayRef {
        let at = at % 10;
        match field.data_type() {
            DataType::UInt8 => Arc::new(UInt8Array::from_iter_values(rows.iter().map(|row| row[at] % 8))),
            DataType::Int64 if field.is_nullable() => {
                Arc::new(Int64Array::from_iter(rows.iter().map(|row| (row[at] != 7).then(|| number(row, at)))))
            }
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| number(row, at)))),
            DataType::Utf8 => Arc::new(StringArray::from_iter(
                rows.iter().map(|row| (row[at] != 7).then(|| format!("k{}", row[at] % 4))),
            )),
            DataType::Boolean => {
                Arc::new(BooleanArray::from_iter(rows.iter().map(|row| (row[at] != 7).then_some(row[at] % 2 > 0))))
            }
            other => new_null_array(other, rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).ok()
}

/// Replaces bytes of a whole file: each edit is a place (two bytes) and what then stands there.
fn damaged(bytes: &Bytes, edits: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    for edit in edits.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        bytes[place] = edit[2];
    }
    bytes.into()
}

fuzz_target!(|data: &[u8]| {
    let [which, how, data @ ..] = data else { return };
    let mut tables = tables(*which);
    let schema = tables.change_schema().clone();
    let lane = usize::from(*how >> 6);
    match how % 4 {
        0 => {
            // Several batches, so that the second meets what the first left.
            for batch in data.split(|byte| *byte == 0xf9).filter_map(|piece| rows(&schema, piece)) {
                let bytes = codec::encode(&batch).expect("a batch is written");
                let again = codec::decode(bytes, &schema, true, "state").expect("what was written is read");
                again.iter().for_each(|batch| apply(tables.as_mut(), batch, lane));
            }
        }
        1 => {
            let (values, edits) = data.split_at(data.len().min(40));
            let Some(batch) = rows(&schema, values) else { return };
            let bytes = damaged(&codec::encode(&batch).expect("a batch is written"), edits);
            if let Ok(batches) = codec::decode(bytes, &schema, true, "state") {
                batches.iter().for_each(|batch| apply(tables.as_mut(), batch, lane));
            }
        }
        _ => {
            if let Ok(batches) = codec::decode(Bytes::copy_from_slice(data), &schema, false, "state") {
                batches.iter().for_each(|batch| apply(tables.as_mut(), batch, lane));
            }
        }
    }
});
