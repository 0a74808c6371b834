//! Keyed rows in tables: the memory of one stateful operator in one lane.
//!
//! A table (one window, one bucket of time, or the only one) maps a key to the row that holds its values. Rows live in
//! immutable chunks; an index says which row of which chunk is a key's newest. What a batch puts is a new chunk, and
//! the chunk is also the checkpoint's delta. Work is in columns and costs what the batch touches, never the whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt8Array, new_null_array,
};
use datafusion::arrow::compute::{concat, filter_record_batch, interleave};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::tables::{Tables, Wanted};
use crate::error::{Error, Result};

const PUT: u8 = 0;
const DROP_TABLE: u8 = 1;
const REMOVE_KEY: u8 = 2;
/// Columns of a change before the keys: what to do, and in which table.
pub(super) const HEAD: usize = 2;
/// No row yet, or no more.
const NONE: (u32, u32) = (u32::MAX, u32::MAX);
/// Rows that expire are found by the second in which they do.
const SECOND_US: i64 = 1_000_000;
/// So many chunks are looked through as they are.
const FEW_CHUNKS: usize = 16;
/// An index with fewer dead keys than this is not worth making anew.
const FEW_DEAD: usize = 4096;
/// In the metadata of a state file whose table ids are starts of windows: the windows' length in microseconds.
pub const WINDOW_KEY: &str = "millstream.state.window";

/// A table's id: a window's start, a bucket's number, or zero for the only table.
pub type TableId = i64;

/// The keyed rows of one operator in one lane.
pub struct KeyedTables {
    key_schema: SchemaRef,
    value_count: usize,
    change_schema: SchemaRef,
    /// The value column that tells when a row expires, in microseconds; NULL is never.
    expiry: Option<usize>,
    names_matter: bool,
    tables: BTreeMap<TableId, Table>,
    changes: Vec<Change>,
    renumbered: u64,
}

#[derive(Clone)]
struct Chunk {
    keys: Vec<ArrayRef>,
    values: Vec<ArrayRef>,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|a| a.get_array_memory_size()).sum()
    }
}

struct Table {
    index: KeyIndex,
    /// group → (chunk, row)
    rows: Vec<(u32, u32)>,
    /// How many groups have a row.
    live: usize,
    chunks: Vec<Chunk>,
    /// chunk → by row its group
    owners: Vec<Vec<u32>>,
    chunk_rows: usize,
    /// Bytes of all chunks: kept, since looking at every chunk would cost the state.
    bytes: usize,
    /// second → groups whose row expired within it when it was put; a newer row may stand elsewhere
    expiring: BTreeMap<i64, Vec<u32>>,
}

struct Change {
    what: u8,
    table: TableId,
    rows: usize,
    chunk: Option<Chunk>,
}

/// key → group. Without key columns there is one group.
pub(super) enum KeyIndex {
    One,
    Many(Box<dyn GroupValues>),
}

impl KeyIndex {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self> {
        if schema.fields().is_empty() {
            return Ok(Self::One);
        }
        Ok(Self::Many(new_group_values(Arc::clone(schema), &GroupOrdering::None)?))
    }

    pub(super) fn intern(&mut self, keys: &[ArrayRef], rows: usize, groups: &mut Vec<usize>) -> Result<usize> {
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

    pub(super) fn size(&self) -> usize {
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
            expiry: None,
            names_matter: false,
            tables: BTreeMap::new(),
            changes: Vec::new(),
            renumbered: 0,
        }
    }

    /// Says that value column `column` (Int64, microseconds) tells when a row expires; see [`KeyedTables::expired`].
    #[must_use]
    pub fn expiring_by(mut self, column: usize) -> Self {
        self.expiry = Some(column);
        self
    }

    /// Says that values are columns of rows: another column in its place, even of the same type, makes them another's.
    #[must_use]
    pub fn of_rows(mut self) -> Self {
        self.names_matter = true;
        self
    }

    /// Says, for readers of the state files, that tables are windows of this length and their ids the starts.
    #[must_use]
    pub fn of_windows(mut self, size_us: i64) -> Self {
        let metadata = HashMap::from([(WINDOW_KEY.to_string(), size_us.to_string())]);
        self.change_schema = Arc::new(Schema::new_with_metadata(self.change_schema.fields().clone(), metadata));
        self
    }

    /// Returns how often groups have got other numbers: who keeps numbers beside the tables looks whether they hold.
    pub fn renumbered(&self) -> u64 {
        self.renumbered
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
        Ok((chunk.keys, chunk.values, entry.live))
    }

    /// Returns the groups that have a row, in the order of [`KeyedTables::scan`].
    pub fn groups(&self, table: TableId) -> Vec<usize> {
        let Some(entry) = self.tables.get(&table) else {
            return Vec::new();
        };
        (0..entry.rows.len()).filter(|g| entry.rows[*g] != NONE).collect()
    }

    /// Returns whether a group has a row.
    pub fn has_row(&self, table: TableId, group: usize) -> bool {
        self.tables.get(&table).and_then(|entry| entry.rows.get(group)).is_some_and(|place| *place != NONE)
    }

    /// Returns keys and values of `groups`, each of which must have a row.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn rows_of(&self, table: TableId, groups: &[usize]) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let entry = self.tables.get(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        let places: Vec<(u32, u32)> = groups.iter().map(|g| entry.rows[*g]).collect();
        let chunk = entry.gathered(&places)?;
        Ok((chunk.keys, chunk.values))
    }

    /// Takes the groups whose row expires at or before `watermark_us` out of the index of expiring rows, ascending. Their
    /// rows stay: the caller removes each or puts a newer one, before it asks again. Costs what expires.
    pub fn expired(&mut self, table: TableId, watermark_us: i64) -> Vec<usize> {
        let (Some(column), Some(entry)) = (self.expiry, self.tables.get_mut(&table)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        while let Some((second, groups)) = entry.expiring.pop_first() {
            if second.saturating_mul(SECOND_US) > watermark_us {
                entry.expiring.insert(second, groups);
                break;
            }
            let mut later = Vec::new();
            for group in groups {
                match entry.expiry_of(group as usize, column) {
                    Some(us) if us <= watermark_us => found.push(group as usize),
                    Some(us) if us.div_euclid(SECOND_US) == second => later.push(group),
                    // gone, or replaced by a row that expires in another second
                    _ => {}
                }
            }
            if !later.is_empty() {
                entry.expiring.insert(second, later);
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns when the first row expires that ever does. What the index holds of rows that are gone is forgotten on the
    /// way, so that it is met once.
    pub fn first_expiry(&mut self, table: TableId) -> Option<i64> {
        let (column, entry) = (self.expiry?, self.tables.get_mut(&table)?);
        while let Some((second, groups)) = entry.expiring.pop_first() {
            let expiry =
                |group: &u32| entry.expiry_of(*group as usize, column).filter(|us| us.div_euclid(SECOND_US) == second);
            let alive: Vec<(u32, i64)> = groups.iter().filter_map(|group| Some((*group, expiry(group)?))).collect();
            if let Some(first) = alive.iter().map(|(_, us)| *us).min() {
                entry.expiring.insert(second, alive.into_iter().map(|(group, _)| group).collect());
                return Some(first);
            }
        }
        None
    }

    /// Forgets a whole table.
    pub fn drop_table(&mut self, table: TableId) {
        if self.tables.remove(&table).is_some() {
            self.renumbered += 1;
            self.changes.retain(|c| c.table != table);
            self.changes.push(Change { what: DROP_TABLE, table, rows: 1, chunk: None });
        }
    }

    /// Forgets the rows of these groups, each of which must have one.
    ///
    /// # Errors
    /// `Internal` where the table does not exist.
    pub fn remove(&mut self, table: TableId, groups: &[usize]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let (keys, _) = self.rows_of(table, groups)?;
        self.forget(table, groups);
        let chunk = Chunk { keys, values: Vec::new() };
        self.changes.push(Change { what: REMOVE_KEY, table, rows: groups.len(), chunk: Some(chunk) });
        Ok(())
    }

    fn forget(&mut self, table: TableId, groups: &[usize]) {
        let Some(entry) = self.tables.get_mut(&table) else { return };
        for group in groups {
            entry.live -= usize::from(entry.rows[*group] != NONE);
            entry.rows[*group] = NONE;
        }
        if entry.live == 0 {
            self.tables.remove(&table);
            self.renumbered += 1;
        }
    }

    /// Makes indexes anew whose keys are mostly dead. Groups get other numbers, so nobody may hold any.
    fn sweep(&mut self) -> Result<()> {
        let swept = |t: &Table| t.rows.len() > 2 * t.live + FEW_DEAD;
        let ids: Vec<TableId> = self.tables.iter().filter(|(_, t)| swept(t)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(old) = self.tables.remove(&id) else { continue };
            self.renumbered += 1;
            if old.live == 0 {
                continue;
            }
            let live = old.live()?;
            let groups = self.intern(id, &live.keys, old.live)?;
            self.insert(id, &groups, live)?;
        }
        Ok(())
    }

    fn table(&mut self, table: TableId) -> Result<&mut Table> {
        match self.tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(Table {
                index: KeyIndex::new(&self.key_schema)?,
                rows: Vec::new(),
                live: 0,
                chunks: Vec::new(),
                owners: Vec::new(),
                chunk_rows: 0,
                bytes: 0,
                expiring: BTreeMap::new(),
            })),
        }
    }

    fn insert(&mut self, table: TableId, groups: &[usize], chunk: Chunk) -> Result<()> {
        let entry = self.tables.get_mut(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        let number = entry.chunks.len() as u32;
        for (row, group) in groups.iter().enumerate() {
            entry.live += usize::from(entry.rows[*group] == NONE);
            entry.rows[*group] = (number, row as u32);
        }
        entry.bytes += chunk.bytes();
        entry.chunks.push(chunk);
        entry.owners.push(groups.iter().map(|group| *group as u32).collect());
        entry.chunk_rows += groups.len();
        if let Some(column) = self.expiry {
            entry.note_expiry(entry.chunks.len() - 1, column);
        }
        if entry.chunks.len() > FEW_CHUNKS {
            // Rows that newer ones replaced are swept when they are half of all: a constant cost a row put.
            match entry.chunk_rows > 2 * entry.live {
                true => entry.compact(self.expiry)?,
                false => entry.merge_chunks()?,
            }
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

impl Tables for KeyedTables {
    fn change_schema(&self) -> &SchemaRef {
        &self.change_schema
    }

    fn names_matter(&self) -> bool {
        self.names_matter
    }

    fn take_changes(&mut self) -> Result<Option<RecordBatch>> {
        let changes = std::mem::take(&mut self.changes);
        self.sweep()?;
        self.batch_of(&changes)
    }

    fn snapshot(&self) -> Result<Option<RecordBatch>> {
        let put =
            |(id, t): (&TableId, &Table)| Ok(Change { what: PUT, table: *id, rows: t.live, chunk: Some(t.live()?) });
        let all: Vec<Change> = self.tables.iter().filter(|(_, t)| t.live > 0).map(put).collect::<Result<_>>()?;
        self.batch_of(&all)
    }

    fn apply(&mut self, batch: &RecordBatch, _lane: usize, wanted: &Wanted<'_>) -> Result<()> {
        let key_count = self.key_schema.fields().len();
        let (what, table): (&UInt8Array, &Int64Array) =
            (batch.column(0).as_primitive(), batch.column(1).as_primitive());
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
                REMOVE_KEY => self.forget(this_table, &groups),
                other => {
                    return Err(Error::corrupt(format!("a state file says change {other}, which no version wrote")));
                }
            }
        }
        self.changes.clear();
        Ok(())
    }

    fn row_count(&self) -> usize {
        self.tables.values().map(|t| t.live).sum()
    }

    fn memory_bytes(&self) -> usize {
        self.tables.values().map(|t| t.index.size() + t.rows.len() * 8 + t.bytes).sum()
    }
}

impl Table {
    /// The newest row of every group, in the order of groups.
    fn live(&self) -> Result<Chunk> {
        if self.live == self.rows.len() {
            return self.gathered(&self.rows);
        }
        let places: Vec<(u32, u32)> = self.rows.iter().copied().filter(|place| *place != NONE).collect();
        self.gathered(&places)
    }

    fn gathered(&self, places: &[(u32, u32)]) -> Result<Chunk> {
        let Some(first) = self.chunks.first() else {
            return Ok(Chunk { keys: Vec::new(), values: Vec::new() });
        };
        let keys = (0..first.keys.len()).map(|k| gather(&self.chunks, places, |c| &c.keys[k]));
        let values = (0..first.values.len()).map(|v| gather(&self.chunks, places, |c| &c.values[v]));
        Ok(Chunk { keys: keys.collect::<Result<_>>()?, values: values.collect::<Result<_>>()? })
    }

    /// Makes one chunk of the rows that are alive; what the index of expiring rows holds of others goes too.
    fn compact(&mut self, expiry: Option<usize>) -> Result<()> {
        let live = self.live()?;
        let mut owners = Vec::with_capacity(self.live);
        for (group, place) in self.rows.iter_mut().enumerate().filter(|(_, place)| **place != NONE) {
            *place = (0, owners.len() as u32);
            owners.push(group as u32);
        }
        self.chunk_rows = self.live;
        self.bytes = live.bytes();
        self.chunks = vec![live];
        self.owners = vec![owners];
        if let Some(column) = expiry {
            self.expiring.clear();
            self.note_expiry(0, column);
        }
        Ok(())
    }

    /// Joins the last chunks, so that they double towards the front: there are few, and each row is copied a few times.
    fn merge_chunks(&mut self) -> Result<()> {
        let joined = |a: &[ArrayRef], b: &[ArrayRef]| -> Result<Vec<ArrayRef>> {
            a.iter().zip(b).map(|(a, b)| Ok(concat(&[a.as_ref(), b.as_ref()])?)).collect()
        };
        while let [.., before, last] = self.chunks.as_slice()
            && let [.., owners, moved] = self.owners.as_mut_slice()
            && owners.len() <= 2 * moved.len()
        {
            let chunk =
                Chunk { keys: joined(&before.keys, &last.keys)?, values: joined(&before.values, &last.values)? };
            self.bytes = self.bytes + chunk.bytes() - before.bytes() - last.bytes();
            let (target, offset) = (self.chunks.len() as u32 - 2, owners.len() as u32);
            for (row, group) in (0u32..).zip(moved.iter()) {
                let place = &mut self.rows[*group as usize];
                if *place == (target + 1, row) {
                    *place = (target, offset + row);
                }
            }
            owners.append(moved);
            self.owners.pop();
            self.chunks.truncate(target as usize);
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Puts the rows of a chunk into the index of expiring rows.
    fn note_expiry(&mut self, chunk: usize, column: usize) {
        let expiry: &Int64Array = self.chunks[chunk].values[column].as_primitive();
        for (us, group) in expiry.iter().zip(&self.owners[chunk]) {
            if let Some(us) = us {
                self.expiring.entry(us.div_euclid(SECOND_US)).or_default().push(*group);
            }
        }
    }

    /// When a group's row expires; `None` where it has none or never does.
    fn expiry_of(&self, group: usize, column: usize) -> Option<i64> {
        let (chunk, row) = *self.rows.get(group).filter(|place| **place != NONE)?;
        let expiry = self.chunks[chunk as usize].values[column].as_primitive::<Int64Type>();
        expiry.is_valid(row as usize).then(|| expiry.value(row as usize))
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
mod tests;
