//! Keyed rows in tables: the memory of one stateful operator in one lane.
//!
//! A table (one window, one bucket of time, or the only one) maps a key to the row that holds its values. Rows live in
//! immutable chunks; an index says which row of which chunk is a key's newest. What a batch puts is a new chunk, and
//! the chunk is also the checkpoint's delta. Work is in columns and costs what the batch touches, never the whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{concat, filter_record_batch, interleave, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::error::{Error, Result};

const PUT: u8 = 0;
const DROP_TABLE: u8 = 1;
const REMOVE_KEY: u8 = 2;
/// Columns of a change before the keys: what to do, and in which table.
const HEAD: usize = 2;
/// No row yet.
const NONE: (u32, u32) = (u32::MAX, u32::MAX);

/// A table's id: a window's start, a bucket's number, or zero for the only table.
pub type TableId = i64;

/// The keyed rows of one operator in one lane.
pub struct KeyedTables {
    key_schema: SchemaRef,
    value_count: usize,
    change_schema: SchemaRef,
    tables: BTreeMap<TableId, Table>,
    changes: Vec<Change>,
}

#[derive(Clone)]
struct Chunk {
    keys: Vec<ArrayRef>,
    values: Vec<ArrayRef>,
}

struct Table {
    index: KeyIndex,
    /// group → (chunk, row)
    rows: Vec<(u32, u32)>,
    chunks: Vec<Chunk>,
    chunk_rows: usize,
}

struct Change {
    what: u8,
    table: TableId,
    rows: usize,
    chunk: Option<Chunk>,
}

/// key → group. Without key columns there is one group.
enum KeyIndex {
    One,
    Many(Box<dyn GroupValues>),
}

impl KeyIndex {
    fn new(schema: &SchemaRef) -> Result<Self> {
        if schema.fields().is_empty() {
            return Ok(Self::One);
        }
        Ok(Self::Many(new_group_values(Arc::clone(schema), &GroupOrdering::None)?))
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize, groups: &mut Vec<usize>) -> Result<usize> {
        match self {
            Self::One => {
                groups.clear();
                groups.resize(rows, 0);
                Ok(1)
            }
            Self::Many(values) => {
                values.intern(keys, groups)?;
                Ok(values.len())
            }
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::One => 0,
            Self::Many(values) => values.size(),
        }
    }
}

impl KeyedTables {
    /// Makes empty tables of rows with these key and value columns.
    pub fn new(keys: &[FieldRef], values: &[FieldRef]) -> Self {
        let nullable = |prefix: &str, fields: &[FieldRef]| -> Vec<Field> {
            let named = |(i, f): (usize, &FieldRef)| {
                Field::new(format!("{prefix}{i}:{}", f.name()), f.data_type().clone(), true)
            };
            fields.iter().enumerate().map(named).collect()
        };
        let key_fields = nullable("key", keys);
        let mut change_fields =
            vec![Field::new("change", DataType::UInt8, false), Field::new("table", DataType::Int64, false)];
        change_fields.extend(key_fields.iter().cloned());
        change_fields.extend(nullable("value", values));
        Self {
            key_schema: Arc::new(Schema::new(key_fields)),
            value_count: values.len(),
            change_schema: Arc::new(Schema::new(change_fields)),
            tables: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Returns the schema of deltas and snapshots.
    pub fn change_schema(&self) -> &SchemaRef {
        &self.change_schema
    }

    /// Returns the ids of the tables that hold rows, ascending.
    pub fn table_ids(&self) -> Vec<TableId> {
        self.tables.keys().copied().collect()
    }

    /// Returns the least id above `table` that holds rows.
    pub fn first_table_after(&self, table: TableId) -> Option<TableId> {
        let after = (std::ops::Bound::Excluded(table), std::ops::Bound::Unbounded);
        self.tables.range(after).next().map(|(id, _)| *id)
    }

    /// Returns the number of rows in all tables.
    pub fn row_count(&self) -> usize {
        self.tables.values().map(|t| t.rows.len()).sum()
    }

    /// Returns about how many bytes the tables take.
    pub fn memory_bytes(&self) -> usize {
        let arrays = |c: &Chunk| c.keys.iter().chain(&c.values).map(|a| a.get_array_memory_size()).sum::<usize>();
        self.tables
            .values()
            .map(|t| t.index.size() + t.rows.len() * 8 + t.chunks.iter().map(arrays).sum::<usize>())
            .sum()
    }

    /// Finds the group of each key in `table`, making new groups (without a row yet) for new keys.
    ///
    /// # Errors
    /// `Internal` where DataFusion cannot hash the key.
    pub fn intern(&mut self, table: TableId, keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>> {
        let entry = self.table(table)?;
        let mut groups = Vec::with_capacity(rows);
        let count = entry.index.intern(keys, rows, &mut groups)?;
        entry.rows.resize(count, NONE);
        Ok(groups)
    }

    /// Returns which of `groups` have a row, and the values of those, in that order.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn values(&self, table: TableId, groups: &[usize]) -> Result<(Vec<usize>, Vec<ArrayRef>)> {
        let entry = self.tables.get(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        let present: Vec<usize> = (0..groups.len()).filter(|i| entry.rows[groups[*i]] != NONE).collect();
        let places: Vec<(u32, u32)> = present.iter().map(|i| entry.rows[groups[*i]]).collect();
        if places.is_empty() {
            return Ok((present, Vec::new()));
        }
        let values = (0..self.value_count).map(|v| gather(&entry.chunks, &places, |c| &c.values[v]));
        Ok((present, values.collect::<Result<_>>()?))
    }

    /// Makes the given rows the newest of their groups. One call a table and batch: the chunk is the delta.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn put(&mut self, table: TableId, groups: &[usize], keys: Vec<ArrayRef>, values: Vec<ArrayRef>) -> Result<()> {
        let chunk = Chunk { keys, values };
        self.insert(table, groups, chunk.clone())?;
        self.changes.push(Change { what: PUT, table, rows: groups.len(), chunk: Some(chunk) });
        Ok(())
    }

    /// Returns keys and values of every row of `table`, in order of each key's first arrival.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn scan(&self, table: TableId) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>, usize)> {
        let entry = self.tables.get(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        let chunk = entry.live()?;
        Ok((chunk.keys, chunk.values, entry.rows.len()))
    }

    /// Forgets a whole table.
    pub fn drop_table(&mut self, table: TableId) {
        if self.tables.remove(&table).is_some() {
            self.changes.retain(|c| c.table != table);
            self.changes.push(Change { what: DROP_TABLE, table, rows: 1, chunk: None });
        }
    }

    /// Forgets the rows of `table` for which `gone` (in the order of [`KeyedTables::scan`]) is true. Costs the table.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn remove(&mut self, table: TableId, gone: &BooleanArray) -> Result<()> {
        let (keys, values, rows) = self.scan(table)?;
        let pick = |want: bool| -> Vec<u32> { (0..rows as u32).filter(|r| gone.value(*r as usize) == want).collect() };
        let (removed, kept) = (UInt32Array::from(pick(true)), UInt32Array::from(pick(false)));
        let columns = |from: &[ArrayRef], rows: &UInt32Array| -> Result<Vec<ArrayRef>> {
            from.iter().map(|a| Ok(take(a, rows, None)?)).collect()
        };
        self.tables.remove(&table);
        if !kept.is_empty() {
            let keys = columns(&keys, &kept)?;
            let groups = self.intern(table, &keys, kept.len())?;
            self.insert(table, &groups, Chunk { keys, values: columns(&values, &kept)? })?;
        }
        let chunk = Chunk { keys: columns(&keys, &removed)?, values: Vec::new() };
        self.changes.push(Change { what: REMOVE_KEY, table, rows: removed.len(), chunk: Some(chunk) });
        Ok(())
    }

    /// Takes what changed since the last call, as one batch, or `None` where nothing did.
    ///
    /// # Errors
    /// `Internal` where columns of one kind have different types.
    pub fn take_changes(&mut self) -> Result<Option<RecordBatch>> {
        let changes = std::mem::take(&mut self.changes);
        self.batch_of(&changes)
    }

    /// Returns all rows as changes that make them, or `None` where there are none.
    ///
    /// # Errors
    /// As [`KeyedTables::take_changes`].
    pub fn snapshot(&self) -> Result<Option<RecordBatch>> {
        let put = |(id, t): (&TableId, &Table)| {
            Ok(Change { what: PUT, table: *id, rows: t.rows.len(), chunk: Some(t.live()?) })
        };
        let all: Vec<Change> = self.tables.iter().map(put).collect::<Result<_>>()?;
        self.batch_of(&all)
    }

    /// Applies a delta or snapshot; of rows with keys only those for which `wanted` holds.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where it says what no delta can say.
    pub fn apply(
        &mut self,
        batch: &RecordBatch,
        wanted: impl Fn(&[ArrayRef], usize) -> Result<Vec<bool>>,
    ) -> Result<()> {
        let key_count = self.key_schema.fields().len();
        let numbers = |b: &RecordBatch| -> Result<(UInt8Array, Int64Array)> {
            match (b.column(0).as_any().downcast_ref(), b.column(1).as_any().downcast_ref()) {
                (Some(what), Some(table)) => Ok((UInt8Array::clone(what), Int64Array::clone(table))),
                _ => Err(Error::corrupt("a state file's first columns are not change and table")),
            }
        };
        let (what, table) = numbers(batch)?;
        let mut row = 0;
        while row < batch.num_rows() {
            let (this_what, this_table) = (what.value(row), table.value(row));
            let mut end = row + 1;
            while end < batch.num_rows() && what.value(end) == this_what && table.value(end) == this_table {
                end += 1;
            }
            let mut run = batch.slice(row, end - row);
            row = end;
            if this_what == DROP_TABLE {
                self.tables.remove(&this_table);
                continue;
            }
            let keep = wanted(&run.columns()[HEAD..HEAD + key_count], run.num_rows())?;
            if keep.iter().any(|k| !k) {
                run = filter_record_batch(&run, &BooleanArray::from(keep))?;
            }
            if run.num_rows() == 0 {
                continue;
            }
            let keys = run.columns()[HEAD..HEAD + key_count].to_vec();
            let groups = self.intern(this_table, &keys, run.num_rows())?;
            match this_what {
                PUT => self.insert(
                    this_table,
                    &groups,
                    Chunk { keys, values: run.columns()[HEAD + key_count..].to_vec() },
                )?,
                REMOVE_KEY => {
                    let rows = self.tables.get(&this_table).map_or(0, |t| t.rows.len());
                    let mut gone = vec![false; rows];
                    groups.iter().for_each(|g| gone[*g] = true);
                    self.remove(this_table, &BooleanArray::from(gone))?;
                }
                other => {
                    return Err(Error::corrupt(format!("a state file says change {other}, which no version wrote")));
                }
            }
        }
        self.changes.clear();
        Ok(())
    }

    fn table(&mut self, table: TableId) -> Result<&mut Table> {
        match self.tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(Table {
                index: KeyIndex::new(&self.key_schema)?,
                rows: Vec::new(),
                chunks: Vec::new(),
                chunk_rows: 0,
            })),
        }
    }

    fn insert(&mut self, table: TableId, groups: &[usize], chunk: Chunk) -> Result<()> {
        let entry = self.tables.get_mut(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        let number = entry.chunks.len() as u32;
        for (row, group) in groups.iter().enumerate() {
            entry.rows[*group] = (number, row as u32);
        }
        entry.chunks.push(chunk);
        entry.chunk_rows += groups.len();
        // Rows that newer ones replaced are swept when they are half of all: a constant cost a row put.
        if entry.chunks.len() > 16 && entry.chunk_rows > 2 * entry.rows.len() {
            let live = entry.live()?;
            entry.rows.iter_mut().enumerate().for_each(|(group, place)| *place = (0, group as u32));
            entry.chunk_rows = entry.rows.len();
            entry.chunks = vec![live];
        }
        Ok(())
    }

    fn batch_of(&self, changes: &[Change]) -> Result<Option<RecordBatch>> {
        let rows: usize = changes.iter().map(|c| c.rows).sum();
        if rows == 0 {
            return Ok(None);
        }
        let repeat = |n: fn(&Change) -> i64| changes.iter().flat_map(move |c| std::iter::repeat_n(n(c), c.rows));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from_iter_values(repeat(|c| i64::from(c.what)).map(|w| w as u8))),
            Arc::new(Int64Array::from_iter_values(repeat(|c| c.table))),
        ];
        let key_count = self.key_schema.fields().len();
        for (column, field) in self.change_schema.fields().iter().enumerate().skip(HEAD) {
            let index = column - HEAD;
            let piece = |c: &Change| match &c.chunk {
                Some(chunk) if index < key_count => Arc::clone(&chunk.keys[index]),
                Some(chunk) if !chunk.values.is_empty() => Arc::clone(&chunk.values[index - key_count]),
                _ => new_null_array(field.data_type(), c.rows),
            };
            let pieces: Vec<ArrayRef> = changes.iter().map(piece).collect();
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            columns.push(concat(&pieces)?);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.change_schema), columns)?))
    }
}

impl Table {
    /// The newest row of every group, in the order of groups.
    fn live(&self) -> Result<Chunk> {
        let Some(first) = self.chunks.first() else {
            return Ok(Chunk { keys: Vec::new(), values: Vec::new() });
        };
        let keys = (0..first.keys.len()).map(|k| gather(&self.chunks, &self.rows, |c| &c.keys[k]));
        let values = (0..first.values.len()).map(|v| gather(&self.chunks, &self.rows, |c| &c.values[v]));
        Ok(Chunk { keys: keys.collect::<Result<_>>()?, values: values.collect::<Result<_>>()? })
    }
}

/// Collects one column's rows from many chunks.
fn gather<'a>(
    chunks: &'a [Chunk],
    places: &[(u32, u32)],
    column: impl Fn(&'a Chunk) -> &'a ArrayRef,
) -> Result<ArrayRef> {
    let in_place = chunks.len() == 1 && places.iter().enumerate().all(|(i, p)| p.1 as usize == i);
    if in_place && column(&chunks[0]).len() == places.len() {
        return Ok(Arc::clone(column(&chunks[0])));
    }
    let columns: Vec<&dyn Array> = chunks.iter().map(|c| column(c).as_ref()).collect();
    let places: Vec<(usize, usize)> = places.iter().map(|(c, r)| (*c as usize, *r as usize)).collect();
    Ok(interleave(&columns, &places)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, StringArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    fn tables() -> KeyedTables {
        let key = Arc::new(Field::new("k", DataType::Utf8, true));
        let value = Arc::new(Field::new("n", DataType::Int64, true));
        KeyedTables::new(&[key], &[value])
    }

    fn put(tables: &mut KeyedTables, table: i64, rows: &[(&str, i64)]) {
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))];
        let values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)))];
        let groups = tables.intern(table, &keys, rows.len()).unwrap();
        tables.put(table, &groups, keys, values).unwrap();
    }

    fn rows(tables: &KeyedTables) -> Vec<(i64, String, i64)> {
        let mut all = Vec::new();
        for id in tables.table_ids() {
            let (keys, values, n) = tables.scan(id).unwrap();
            let (k, v) = (keys[0].as_string::<i32>(), values[0].as_primitive::<Int64Type>());
            all.extend((0..n).map(|i| (id, k.value(i).to_string(), v.value(i))));
        }
        all.sort();
        all
    }

    #[test]
    fn deltas_rebuild_what_many_batches_made() {
        let (mut live, mut rebuilt) = (tables(), tables());
        for batch in 0..60i64 {
            put(&mut live, batch % 3, &[("a", batch), ("b", -batch), (["c", "d"][batch as usize % 2], 7)]);
            if batch % 10 == 9 {
                live.drop_table(1);
                let (_, _, n) = live.scan(0).unwrap();
                live.remove(0, &BooleanArray::from((0..n).map(|i| i == 0).collect::<Vec<_>>())).unwrap();
            }
            if let Some(delta) = live.take_changes().unwrap() {
                rebuilt.apply(&delta, |_, n| Ok(vec![true; n])).unwrap();
            }
            assert_eq!(rows(&live), rows(&rebuilt), "after batch {batch}");
        }
        let mut from_snapshot = tables();
        from_snapshot.apply(&live.snapshot().unwrap().unwrap(), |_, n| Ok(vec![true; n])).unwrap();
        assert_eq!(rows(&live), rows(&from_snapshot));
        assert!(live.tables[&0].chunks.len() < 60, "replaced rows are swept");
    }

    #[test]
    fn values_are_those_of_the_newest_row() {
        let mut tables = tables();
        put(&mut tables, 0, &[("a", 1), ("b", 2)]);
        put(&mut tables, 0, &[("b", 3)]);
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["new", "b", "a"]))];
        let groups = tables.intern(0, &keys, 3).unwrap();
        let (present, values) = tables.values(0, &groups).unwrap();
        assert_eq!(present, vec![1, 2]);
        assert_eq!(values[0].as_primitive::<Int64Type>().values(), &[3, 1]);
    }
}
