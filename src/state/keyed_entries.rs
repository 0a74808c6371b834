//! Many entries a key, each found by a key of its own: what lists, maps and timers of an application are kept in.
//!
//! An entry's whole key is its owner's key and a sub-key (a position, a map's key, a time). [`KeyedTables`] keeps the
//! entries; beside it stands which of them each owner has, made from the entries when they were loaded or got other
//! numbers, and in no file. Without sub-key columns an owner has one entry at most, and nothing stands beside.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::HashSet;

use super::keyed_tables::{KeyIndex, KeyedTables, TableId};
use super::tables::{FrozenRows, Tables, Wanted};
use crate::error::Result;

/// All entries lie in one table.
const TABLE: TableId = 0;
/// An index of owners with fewer dead ones than this is not worth making anew.
const FEW_DEAD: usize = 4096;

/// The entries of one variable of one operator in one lane.
pub struct KeyedEntries {
    key_schema: SchemaRef,
    sub_keys: usize,
    entries: KeyedTables,
    /// Empty until somebody asks for an owner's entries.
    owners: Option<Owners>,
    wakes: bool,
}

/// Which entries each owner has.
struct Owners {
    index: KeyIndex,
    /// owner → its entries
    entries: Vec<Vec<u32>>,
    /// entry → its owner
    owner_of: Vec<u32>,
    /// How often entries had got other numbers by then.
    made_at: u64,
}

impl Owners {
    fn of(schema: &SchemaRef, entries: &KeyedTables) -> Result<Self> {
        let index = KeyIndex::new(schema)?;
        let mut owners = Self { index, entries: Vec::new(), owner_of: Vec::new(), made_at: entries.renumbered() };
        let all = entries.groups(TABLE);
        if !all.is_empty() {
            let (keys, _) = entries.rows_of(TABLE, &all)?;
            owners.add(&keys[..schema.fields().len()], &all)?;
        }
        Ok(owners)
    }

    /// Whether the numbers hold and most owners have entries.
    fn serves(&self, entries: &KeyedTables) -> bool {
        self.made_at == entries.renumbered() && self.entries.len() <= 2 * entries.row_count() + FEW_DEAD
    }

    fn find(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>> {
        let mut owners = Vec::with_capacity(rows);
        let count = self.index.intern(keys, rows, &mut owners)?;
        self.entries.resize(count, Vec::new());
        Ok(owners)
    }

    fn add(&mut self, keys: &[ArrayRef], entries: &[usize]) -> Result<()> {
        for (owner, entry) in self.find(keys, entries.len())?.into_iter().zip(entries) {
            if self.owner_of.len() <= *entry {
                self.owner_of.resize(*entry + 1, u32::MAX);
            }
            self.owner_of[*entry] = owner as u32;
            self.entries[owner].push(*entry as u32);
        }
        Ok(())
    }

    fn remove(&mut self, entries: &[usize]) {
        let gone: HashSet<u32> = entries.iter().map(|entry| *entry as u32).collect();
        let owners: HashSet<u32> = entries.iter().map(|entry| self.owner_of[*entry]).collect();
        for owner in owners {
            self.entries[owner as usize].retain(|entry| !gone.contains(entry));
        }
    }
}

impl KeyedEntries {
    /// Makes no entries of owners with the key columns `keys`, found by the columns `sub_keys`.
    pub fn new(keys: &[FieldRef], sub_keys: &[FieldRef], values: &[FieldRef]) -> Self {
        let whole: Vec<FieldRef> = keys.iter().chain(sub_keys).cloned().collect();
        let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
        let key_schema = Arc::new(Schema::new(keys.iter().map(nullable).collect::<Vec<Field>>()));
        let entries = KeyedTables::new(&whole, values);
        Self { key_schema, sub_keys: sub_keys.len(), entries, owners: None, wakes: false }
    }

    /// Says that value column `column` (Int64, microseconds) tells when an entry expires.
    #[must_use]
    pub fn expiring_by(mut self, column: usize) -> Self {
        self.entries = self.entries.expiring_by(column);
        self
    }

    /// Says that the query is to run when an entry expires, in processing time.
    #[must_use]
    pub fn waking(mut self) -> Self {
        self.wakes = true;
        self
    }

    /// Finds the entries of the owners with these keys: by entry the row of its owner's key, ascending, and its number.
    /// Numbers hold until entries are removed or the changes are taken.
    ///
    /// # Errors
    /// `Internal` where DataFusion cannot hash the key.
    pub fn of(&mut self, keys: &[ArrayRef], rows: usize) -> Result<(Vec<usize>, Vec<usize>)> {
        if self.entries.row_count() == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        if self.sub_keys == 0 {
            let found = self.entries.intern(TABLE, keys, rows)?;
            let there = found.into_iter().enumerate().filter(|(_, number)| self.entries.has_row(TABLE, *number));
            return Ok(there.unzip());
        }
        let mut owners = self.take_owners()?;
        let (mut of, mut numbers) = (Vec::new(), Vec::new());
        for (row, owner) in owners.find(keys, rows)?.into_iter().enumerate() {
            for entry in &owners.entries[owner] {
                of.push(row);
                numbers.push(*entry as usize);
            }
        }
        self.owners = Some(owners);
        Ok((of, numbers))
    }

    /// Returns the numbers of those entries that are there, by their whole keys.
    ///
    /// # Errors
    /// As [`KeyedEntries::of`].
    pub fn find(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>> {
        if self.entries.row_count() == 0 {
            return Ok(Vec::new());
        }
        let mut found = self.entries.intern(TABLE, keys, rows)?;
        found.retain(|number| self.entries.has_row(TABLE, *number));
        Ok(found)
    }

    /// Returns whole keys and values of these entries; no columns where there are no entries.
    ///
    /// # Errors
    /// `Internal` where a number is none.
    pub fn rows(&self, numbers: &[usize]) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        if numbers.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        self.entries.rows_of(TABLE, numbers)
    }

    /// Makes the given rows the newest of their entries, each of which is named once, and returns the numbers.
    ///
    /// # Errors
    /// As [`KeyedEntries::of`].
    pub fn put(&mut self, keys: Vec<ArrayRef>, values: Vec<ArrayRef>, rows: usize) -> Result<Vec<usize>> {
        let numbers = self.entries.intern(TABLE, &keys, rows)?;
        if self.sub_keys > 0 {
            let mut owners = self.take_owners()?;
            let new: Vec<u32> =
                (0..rows as u32).filter(|row| !self.entries.has_row(TABLE, numbers[*row as usize])).collect();
            let entries: Vec<usize> = new.iter().map(|row| numbers[*row as usize]).collect();
            let new = UInt32Array::from(new);
            let own = keys[..self.key_count()].iter().map(|key| Ok(take(key, &new, None)?));
            owners.add(&own.collect::<Result<Vec<_>>>()?, &entries)?;
            self.owners = Some(owners);
        }
        self.entries.put(TABLE, &numbers, keys, values)?;
        Ok(numbers)
    }

    /// Forgets these entries.
    ///
    /// # Errors
    /// `Internal` where a number is none.
    pub fn remove(&mut self, numbers: &[usize]) -> Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        if self.sub_keys > 0 {
            let mut owners = self.take_owners()?;
            owners.remove(numbers);
            self.owners = Some(owners);
        }
        self.entries.remove(TABLE, numbers)
    }

    /// Returns the entries that expire at or before `until_us`; see [`KeyedTables::expired`].
    pub fn expired(&mut self, until_us: i64) -> Vec<usize> {
        self.entries.expired(TABLE, until_us)
    }

    /// Returns when the first entry expires that ever does.
    pub fn first_expiry(&mut self) -> Option<i64> {
        self.entries.first_expiry(TABLE)
    }

    fn key_count(&self) -> usize {
        self.key_schema.fields().len()
    }

    fn take_owners(&mut self) -> Result<Owners> {
        match self.owners.take() {
            Some(owners) if owners.serves(&self.entries) => Ok(owners),
            _ => Owners::of(&self.key_schema, &self.entries),
        }
    }
}

impl Tables for KeyedEntries {
    fn change_schema(&self) -> &SchemaRef {
        self.entries.change_schema()
    }

    fn take_changes(&mut self) -> Result<Option<RecordBatch>> {
        self.entries.take_changes()
    }

    fn freeze(&self) -> Box<dyn FrozenRows> {
        self.entries.freeze()
    }

    /// An entry belongs to the lane of its owner.
    fn apply(&mut self, batch: &RecordBatch, lane: usize, wanted: &Wanted<'_>) -> Result<()> {
        self.owners = None;
        let own = self.key_count();
        self.entries.apply(batch, lane, &|keys, rows| wanted(&keys[..own], rows))
    }

    fn due_us(&mut self) -> Option<i64> {
        if self.wakes { self.first_expiry() } else { None }
    }

    fn emptied(&self) -> Box<dyn Tables> {
        Box::new(Self {
            key_schema: Arc::clone(&self.key_schema),
            sub_keys: self.sub_keys,
            entries: self.entries.without_rows(),
            owners: None,
            wakes: self.wakes,
        })
    }

    fn row_count(&self) -> usize {
        self.entries.row_count()
    }

    fn memory_bytes(&self) -> usize {
        // an owner's list, and an entry's place in it and back
        let beside = self.owners.as_ref().map_or(0, |o| o.index.size() + o.entries.len() * 24 + o.owner_of.len() * 8);
        self.entries.memory_bytes() + beside
    }

    fn doubling_bytes(&self, rows: usize) -> usize {
        self.entries.doubling_bytes(rows)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Int64Type};

    use super::*;

    fn field(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    fn entries() -> KeyedEntries {
        let (key, sub_key) = (field("k", DataType::Utf8), field("position", DataType::Int64));
        KeyedEntries::new(&[key], &[sub_key], &[field("v", DataType::Int64)])
    }

    fn strings(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values))
    }

    fn put(entries: &mut KeyedEntries, rows: &[(&str, i64, i64)]) {
        let keys = strings(&rows.iter().map(|r| r.0).collect::<Vec<_>>());
        let sub_keys = numbers(rows.iter().map(|r| r.1));
        entries.put(vec![keys, sub_keys], vec![numbers(rows.iter().map(|r| r.2))], rows.len()).unwrap();
    }

    /// The entries of some owners: owner's row, position, value.
    fn of(entries: &mut KeyedEntries, owners: &[&str]) -> Vec<(usize, i64, i64)> {
        let (of, found) = entries.of(&[strings(owners)], owners.len()).unwrap();
        let (keys, values) = entries.rows(&found).unwrap();
        let mut all: Vec<_> = (0..of.len())
            .map(|i| {
                let number = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(i);
                (of[i], number(&keys[1]), number(&values[0]))
            })
            .collect();
        all.sort_unstable();
        all
    }

    fn remove(entries: &mut KeyedEntries, rows: &[(&str, i64)]) {
        let keys = vec![strings(&rows.iter().map(|r| r.0).collect::<Vec<_>>()), numbers(rows.iter().map(|r| r.1))];
        let found = entries.find(&keys, rows.len()).unwrap();
        entries.remove(&found).unwrap();
    }

    #[test]
    fn an_owner_finds_its_entries() {
        let mut entries = entries();
        assert!(of(&mut entries, &["a"]).is_empty());
        put(&mut entries, &[("a", 1, 10), ("b", 1, 20), ("a", 2, 30)]);
        put(&mut entries, &[("a", 1, 11), ("c", 7, 70)]);
        assert_eq!(of(&mut entries, &["x", "a"]), [(1, 1, 11), (1, 2, 30)]);
        remove(&mut entries, &[("a", 1), ("a", 99), ("x", 1)]);
        assert_eq!(of(&mut entries, &["a", "b"]), [(0, 2, 30), (1, 1, 20)]);
        put(&mut entries, &[("a", 1, 12)]);
        assert_eq!(of(&mut entries, &["a"]), [(0, 1, 12), (0, 2, 30)], "an entry may come back");
        remove(&mut entries, &[("a", 1), ("a", 2), ("b", 1), ("c", 7)]);
        assert_eq!(entries.row_count(), 0);
        put(&mut entries, &[("a", 5, 50)]);
        assert_eq!(of(&mut entries, &["a"]), [(0, 5, 50)], "after all had gone");
    }

    #[test]
    fn owners_are_found_after_loading_and_sweeping() {
        let (mut live, mut rebuilt) = (entries(), entries());
        let all: &Wanted<'_> = &|_, n| Ok(vec![true; n]);
        for batch in 0..30i64 {
            let rows: Vec<(&str, i64, i64)> =
                (0..1000).map(|i| (["a", "b"][i as usize % 2], batch * 1000 + i, i)).collect();
            put(&mut live, &rows);
            let gone: Vec<(&str, i64)> = rows.iter().skip(4).map(|r| (r.0, r.1)).collect();
            remove(&mut live, &gone);
            let delta = live.take_changes().unwrap().unwrap();
            rebuilt.apply(&delta, 0, all).unwrap();
            assert_eq!(of(&mut live, &["a"]).len(), 2 * (batch as usize + 1));
            assert_eq!(of(&mut live, &["a", "b"]), of(&mut rebuilt, &["a", "b"]));
        }
        let owners = live.owners.as_ref().unwrap();
        assert!(owners.owner_of.len() < 8000, "dead entries do not pile up: {}", owners.owner_of.len());
    }

    #[test]
    fn a_lane_takes_the_entries_of_its_owners() {
        let (mut live, mut part) = (entries(), entries());
        put(&mut live, &[("a", 1, 10), ("b", 1, 20), ("a", 2, 30)]);
        let delta = live.take_changes().unwrap().unwrap();
        let of_a: &Wanted<'_> = &|keys, n| {
            assert_eq!(keys.len(), 1, "sub-keys decide nothing");
            Ok((0..n).map(|i| keys[0].as_string::<i32>().value(i) == "a").collect())
        };
        part.apply(&delta, 0, of_a).unwrap();
        assert_eq!(of(&mut part, &["a", "b"]), [(0, 1, 10), (0, 2, 30)]);
    }

    #[test]
    fn without_sub_keys_an_owner_has_one_entry() {
        let mut one = KeyedEntries::new(&[field("k", DataType::Utf8)], &[], &[field("until", DataType::Int64)]);
        one = one.expiring_by(0).waking();
        assert_eq!(one.due_us(), None);
        let put = |one: &mut KeyedEntries, key: &str, value: i64| {
            one.put(vec![strings(&[key])], vec![numbers([value])], 1).unwrap();
        };
        put(&mut one, "a", 9_000_000);
        put(&mut one, "b", 2_000_000);
        put(&mut one, "a", 3_000_000);
        assert_eq!(one.due_us(), Some(2_000_000));
        let expired = one.expired(2_500_000);
        one.remove(&expired).unwrap();
        assert_eq!(one.due_us(), Some(3_000_000));
        assert_eq!(one.of(&[strings(&["b", "a"])], 2).unwrap().0, [1]);
    }
}
