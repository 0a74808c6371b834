//! Keyed rows in tables: the memory of one stateful operator in one lane.
//!
//! A table (one window, one bucket of time, or the only one) maps a key to the row that holds its values. Rows live in
//! immutable chunks; an index says which row of which chunk is a key's newest. What a batch puts is a new chunk, and
//! the chunk is also the checkpoint's delta. Work is in columns and costs what the batch touches, never the whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt8Array};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::tables::{FrozenRows, Tables, Wanted, index_bytes};
use crate::error::{Error, Result};

mod frozen;
mod table;

use frozen::{Frozen, FrozenTable, batch_of};
pub use table::Touched;
pub(super) use table::copy_of;
use table::{Chunk, NONE, SECOND_US, Table, gather, gathered};

const PUT: u8 = 0;
const DROP_TABLE: u8 = 1;
const REMOVE_KEY: u8 = 2;
/// Columns of a change before the keys: what to do, and in which table.
pub(super) const HEAD: usize = 2;
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
    /// Tables of which a group was made or forgotten since the last sweep.
    touched: BTreeSet<TableId>,
    /// Sums over the tables, kept: looking at every table would cost the state.
    row_sum: usize,
    byte_sum: usize,
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
        let (key_schema, change_schema) = (Arc::new(Schema::new(key_fields)), Arc::new(Schema::new(change_fields)));
        Self::empty(key_schema, values.len(), change_schema)
    }

    fn empty(key_schema: SchemaRef, value_count: usize, change_schema: SchemaRef) -> Self {
        Self {
            key_schema,
            value_count,
            change_schema,
            expiry: None,
            names_matter: false,
            tables: BTreeMap::new(),
            changes: Vec::new(),
            renumbered: 0,
            touched: BTreeSet::new(),
            row_sum: 0,
            byte_sum: 0,
        }
    }

    /// Makes tables of the same kind without rows.
    pub(super) fn without_rows(&self) -> Self {
        let empty = Self::empty(Arc::clone(&self.key_schema), self.value_count, Arc::clone(&self.change_schema));
        // Numbers from before must not be taken for numbers of what is read back.
        let renumbered = self.renumbered + 1;
        Self { expiry: self.expiry, names_matter: self.names_matter, renumbered, ..empty }
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
        if count != entry.rows.len() {
            entry.rows.resize(count, NONE);
            self.touched.insert(table);
        }
        self.count(table);
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

    /// Finds the groups of keys that a batch brings, numbers those that it touches for the first time, and gives the values
    /// of those that have a row. When the batch's rows are through, [`KeyedTables::put_touched`] ends it; until then the
    /// table's rows may not be asked for otherwise.
    ///
    /// # Errors
    /// `Internal` where DataFusion cannot hash the key.
    pub fn touch(&mut self, table: TableId, keys: &[ArrayRef], rows: usize) -> Result<Touched> {
        let groups = self.intern(table, keys, rows)?;
        self.table(table)?.touch(keys, &groups)
    }

    /// Makes `values`, by the numbers of [`KeyedTables::touch`], the newest of the groups that were touched; returns their keys.
    /// The chunk is the delta.
    ///
    /// # Errors
    /// `Internal` where nothing was touched.
    pub fn put_touched(&mut self, table: TableId, values: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        let expiry = self.expiry;
        let (chunk, rows) = self.table(table)?.put_touched(values, expiry)?;
        self.count(table);
        let keys = chunk.keys.clone();
        self.changes.push(Change { what: PUT, table, rows, chunk: Some(chunk) });
        Ok(keys)
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
        let chunk = gathered(&entry.chunks, &places)?;
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
            entry.noted -= groups.len();
            for group in groups {
                match entry.expiry_of(group as usize, column) {
                    Some(us) if us <= watermark_us => found.push(group as usize),
                    Some(us) if us.div_euclid(SECOND_US) == second => later.push(group),
                    // gone, or replaced by a row that expires in another second
                    _ => {}
                }
            }
            if !later.is_empty() {
                entry.noted += later.len();
                entry.expiring.insert(second, later);
                break;
            }
        }
        self.count(table);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns when the first row expires that ever does. What the index holds of rows that are gone is forgotten on the
    /// way, so that it is met once.
    pub fn first_expiry(&mut self, table: TableId) -> Option<i64> {
        let (column, entry) = (self.expiry?, self.tables.get_mut(&table)?);
        let mut soonest = None;
        while let Some((second, groups)) = entry.expiring.pop_first() {
            entry.noted -= groups.len();
            let expiry =
                |group: &u32| entry.expiry_of(*group as usize, column).filter(|us| us.div_euclid(SECOND_US) == second);
            let alive: Vec<(u32, i64)> = groups.iter().filter_map(|group| Some((*group, expiry(group)?))).collect();
            soonest = alive.iter().map(|(_, us)| *us).min();
            if soonest.is_some() {
                entry.noted += alive.len();
                entry.expiring.insert(second, alive.into_iter().map(|(group, _)| group).collect());
                break;
            }
        }
        self.count(table);
        soonest
    }

    /// Forgets a whole table.
    pub fn drop_table(&mut self, table: TableId) {
        if self.take_table(table).is_some() {
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
            self.take_table(table);
            return;
        }
        self.touched.insert(table);
        self.count(table);
    }

    /// Takes a table out, with all that is counted of it.
    fn take_table(&mut self, table: TableId) -> Option<Table> {
        let taken = self.tables.remove(&table)?;
        let (rows, bytes) = taken.counted;
        (self.row_sum, self.byte_sum) = (self.row_sum - rows, self.byte_sum - bytes);
        self.touched.remove(&table);
        self.renumbered += 1;
        Some(taken)
    }

    /// Brings the sums up to date after `table` has changed.
    fn count(&mut self, table: TableId) {
        let Some(entry) = self.tables.get_mut(&table) else { return };
        let now = (entry.live, entry.memory_bytes());
        let (rows, bytes) = std::mem::replace(&mut entry.counted, now);
        self.row_sum = self.row_sum + now.0 - rows;
        self.byte_sum = self.byte_sum + now.1 - bytes;
    }

    /// Makes indexes anew whose keys are mostly dead. Groups get other numbers, so nobody may hold any.
    fn sweep(&mut self) -> Result<()> {
        let mostly_dead = |t: &Table| t.rows.len() > 2 * t.live + FEW_DEAD;
        for id in std::mem::take(&mut self.touched) {
            if !self.tables.get(&id).is_some_and(mostly_dead) {
                continue;
            }
            let Some(old) = self.take_table(id) else { continue };
            if old.live == 0 {
                continue;
            }
            let live = old.live()?;
            let groups = self.intern(id, &live.keys, old.live)?;
            self.insert(id, &groups, live)?;
            self.touched.remove(&id);
        }
        Ok(())
    }

    fn table(&mut self, table: TableId) -> Result<&mut Table> {
        match self.tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(Table::new(&self.key_schema)?)),
        }
    }

    fn insert(&mut self, table: TableId, groups: &[usize], chunk: Chunk) -> Result<()> {
        let entry = self.tables.get_mut(&table).ok_or_else(|| Error::internal(format!("no state table {table}")))?;
        entry.insert(groups, chunk, self.expiry)?;
        self.count(table);
        Ok(())
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
        batch_of(&self.change_schema, self.key_schema.fields().len(), &changes)
    }

    fn freeze(&self) -> Box<dyn FrozenRows> {
        let frozen = |(id, table): (&TableId, &Table)| {
            let places = table.rows.iter().copied().filter(|place| *place != NONE).collect();
            FrozenTable { id: *id, chunks: table.chunks.clone(), places }
        };
        Box::new(Frozen {
            key_count: self.key_schema.fields().len(),
            change_schema: Arc::clone(&self.change_schema),
            tables: self.tables.iter().map(frozen).collect(),
        })
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
                self.take_table(this_table);
                continue;
            }
            let keep = wanted(&run.columns()[HEAD..HEAD + key_count], run.num_rows())?;
            if keep.iter().any(|k| !k) {
                run = filter_record_batch(&run, &BooleanArray::from(keep))?;
            } else {
                // Rows must not keep in memory what they are a part of: the file's other rows, or the file itself.
                run = copy_of(&run)?;
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

    fn emptied(&self) -> Box<dyn Tables> {
        Box::new(self.without_rows())
    }

    fn row_count(&self) -> usize {
        self.row_sum
    }

    fn memory_bytes(&self) -> usize {
        self.byte_sum
    }

    /// New keys go to the first table (of bare keys) or to the last (the newest window); an index that is full is made
    /// anew at twice its size.
    fn doubling_bytes(&self, rows: usize) -> usize {
        let ends = [self.tables.first_key_value(), self.tables.last_key_value()];
        let doubling = |table: &Table| {
            let doubles = index_bytes(table.rows.len() + rows) > index_bytes(table.rows.len());
            if doubles { 2 * table.index.size() } else { 0 }
        };
        ends.into_iter().flatten().map(|(_, table)| doubling(table)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
