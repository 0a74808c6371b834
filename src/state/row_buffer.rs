//! Many rows a key: what each side of a join remembers.
//!
//! Rows lie in immutable chunks in the order of their arrival and are numbered through. An index by the hash of the key
//! leads to the newest row with that hash, and from each row to the next older one. Rows expire by a time of their own;
//! whether a row ever found a partner is kept beside it. What is dead is swept when it is half of all, so memory
//! follows what is alive, and the cost of a batch what it adds, finds and drops.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, make_comparator,
    new_null_array,
};
use datafusion::arrow::compute::kernels::cmp::{eq, not_distinct};
use datafusion::arrow::compute::{SortOptions, and, concat, filter, filter_record_batch, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::hash_utils::{RandomState, create_hashes};

use super::keyed_tables::copy_of;
use super::tables::{FrozenRows, PIECE_ROWS, Tables, Wanted, index_bytes};
use crate::error::{Error, Result};

mod frozen;

use frozen::{Facts, Frozen, append_batch, gather};

const APPEND: u8 = 3;
const MATCHED: u8 = 4;
const EXPIRE: u8 = 5;
/// Columns of a change before the keys: what to do, the row's id (or until when rows expire), when the row expires, and
/// whether it has found a partner.
pub(super) const HEAD: usize = 4;
/// The end of a chain.
const END: u32 = u32::MAX;
/// Rows that expire are found by the second in which they do.
const SECOND_US: i64 = 1_000_000;
/// Fewer dead rows than this are not worth a sweep.
const FEW_DEAD: usize = 4096;

/// A row's number; it holds until the changes are taken.
pub type RowNumber = u32;

/// Rows of one lane, found by key.
pub struct RowBuffer {
    key_count: usize,
    change_schema: SchemaRef,
    chunks: Vec<Chunk>,
    /// Bytes of all chunks: kept, since looking at every chunk would cost the state.
    chunk_bytes: usize,
    /// key's hash → newest row
    newest: HashMap<u64, RowNumber, BuildHasherDefault<Hashed>>,
    /// row → the next older row with its hash
    older: Vec<RowNumber>,
    hashes: Vec<u64>,
    ids: Vec<i64>,
    expiry: Vec<Option<i64>>,
    matched: Vec<bool>,
    alive: Vec<bool>,
    alive_count: usize,
    /// No row before this one is alive.
    first_alive: RowNumber,
    /// second → rows that expire within it
    expiring: BTreeMap<i64, Vec<RowNumber>>,
    next_id: i64,
    changes: Vec<Change>,
    /// While loading: lane → its rows, by ascending id.
    loading: BTreeMap<usize, Vec<RowNumber>>,
}

/// Rows that lie together: key columns, then value columns.
#[derive(Clone)]
struct Chunk {
    start: usize,
    columns: Vec<ArrayRef>,
    rows: usize,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.columns.iter().map(|c| c.get_array_memory_size()).sum()
    }
}

enum Change {
    Append { first: RowNumber, rows: usize, columns: Vec<ArrayRef> },
    Matched(Vec<i64>),
    Expire(i64),
}

/// The keys of the index are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl RowBuffer {
    /// Makes an empty buffer of rows with these key and value columns.
    pub fn new(keys: &[FieldRef], values: &[FieldRef]) -> Self {
        let mut fields = vec![
            Field::new("change", DataType::UInt8, false),
            Field::new("row", DataType::Int64, false),
            Field::new("expires", DataType::Int64, true),
            Field::new("matched", DataType::Boolean, true),
        ];
        for (prefix, columns) in [("key", keys), ("value", values)] {
            let named = |(i, f): (usize, &FieldRef)| {
                Field::new(format!("{prefix}{i}:{}", f.name()), f.data_type().clone(), true)
            };
            fields.extend(columns.iter().enumerate().map(named));
        }
        Self::empty(keys.len(), Arc::new(Schema::new(fields)))
    }

    fn empty(key_count: usize, change_schema: SchemaRef) -> Self {
        Self {
            key_count,
            change_schema,
            chunks: Vec::new(),
            chunk_bytes: 0,
            newest: HashMap::default(),
            older: Vec::new(),
            hashes: Vec::new(),
            ids: Vec::new(),
            expiry: Vec::new(),
            matched: Vec::new(),
            alive: Vec::new(),
            alive_count: 0,
            first_alive: 0,
            expiring: BTreeMap::new(),
            next_id: 0,
            changes: Vec::new(),
            loading: BTreeMap::new(),
        }
    }

    /// Adds rows: their keys, values, when they expire (microseconds; NULL is never), and whether each has a partner.
    ///
    /// # Errors
    /// `Internal` where a key cannot be hashed, or there are more than 2^32 rows.
    pub fn append(
        &mut self,
        keys: Vec<ArrayRef>,
        values: Vec<ArrayRef>,
        expiry: &Int64Array,
        matched: &BooleanArray,
    ) -> Result<()> {
        let rows = expiry.len();
        if rows == 0 {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = keys.into_iter().chain(values).collect();
        let ids: Vec<i64> = (self.next_id..).take(rows).collect();
        self.next_id += rows as i64;
        let first = self.insert(columns.clone(), ids, expiry, matched)?;
        self.changes.push(Change::Append { first, rows, columns });
        Ok(())
    }

    /// Finds the rows whose keys equal those of `rows` probing rows: pairs of probing row and row found, in the order of
    /// the probing rows, for each in the order of arrival. NULL equals nothing unless `null_equals_null`.
    ///
    /// # Errors
    /// `Internal` where keys cannot be compared.
    pub fn probe(
        &self,
        keys: &[ArrayRef],
        rows: usize,
        null_equals_null: bool,
    ) -> Result<(UInt32Array, Vec<RowNumber>)> {
        let (mut probing, mut found) = (Vec::new(), Vec::new());
        if self.alive_count > 0 {
            // All heads first: memory is far away, and what does not wait for each other is fetched together.
            let head = |hash: &u64| self.newest.get(hash).copied().unwrap_or(END);
            let heads: Vec<RowNumber> = hashes_of(keys, rows)?.iter().map(head).collect();
            for (row, mut at) in heads.into_iter().enumerate() {
                // All NULLs have one hash: they would meet each other for nothing.
                if !null_equals_null && keys.iter().any(|key| key.is_null(row)) {
                    continue;
                }
                let first = found.len();
                // The chain leads back in time.
                while at != END && at >= self.first_alive {
                    if self.alive[at as usize] {
                        probing.push(row as u32);
                        found.push(at);
                    }
                    at = self.older[at as usize];
                }
                found[first..].reverse();
            }
        }
        let probing = UInt32Array::from(probing);
        if found.is_empty() {
            return Ok((probing, found));
        }
        let mut same: Option<BooleanArray> = None;
        for (key, there) in keys.iter().zip(self.keys(&found)?) {
            let asked = take(key, &probing, None)?;
            let equal = equal_rows(&asked, &there, null_equals_null)?;
            same = Some(match same {
                Some(before) => and(&before, &equal)?,
                None => equal,
            });
        }
        let Some(same) = same else {
            return Ok((probing, found));
        };
        let keep = |row: usize| same.is_valid(row) && same.value(row);
        let found = (0..found.len()).filter(|row| keep(*row)).map(|row| found[row]).collect();
        Ok((filter(&probing, &same)?.as_primitive().clone(), found))
    }

    /// Returns the value columns of these rows.
    ///
    /// # Errors
    /// As Arrow's kernels.
    pub fn values(&self, rows: &[RowNumber]) -> Result<Vec<ArrayRef>> {
        gather(&self.change_schema, &self.chunks, self.key_count..self.column_count(), rows)
    }

    /// Returns the key columns of these rows.
    ///
    /// # Errors
    /// As Arrow's kernels.
    pub fn keys(&self, rows: &[RowNumber]) -> Result<Vec<ArrayRef>> {
        gather(&self.change_schema, &self.chunks, 0..self.key_count, rows)
    }

    /// Returns whether a row has found a partner.
    pub fn is_matched(&self, row: RowNumber) -> bool {
        self.matched[row as usize]
    }

    /// Notes that these rows have found a partner.
    pub fn set_matched(&mut self, rows: impl IntoIterator<Item = RowNumber>) {
        let mut ids = Vec::new();
        for row in rows {
            if !std::mem::replace(&mut self.matched[row as usize], true) {
                ids.push(self.ids[row as usize]);
            }
        }
        if !ids.is_empty() {
            self.changes.push(Change::Matched(ids));
        }
    }

    /// Drops the rows that expire at or before `watermark_us` and returns their numbers, in order of arrival. Their
    /// columns can be read until the changes are taken. Costs what expires.
    pub fn expire(&mut self, watermark_us: i64) -> Vec<RowNumber> {
        let gone = self.take_expired(watermark_us);
        if !gone.is_empty() {
            self.changes.push(Change::Expire(watermark_us));
        }
        gone
    }

    /// Returns when the first row expires that ever does.
    pub fn first_expiry(&self) -> Option<i64> {
        let soonest = |rows: &Vec<RowNumber>| rows.iter().filter_map(|row| self.expiry[*row as usize]).min();
        self.expiring.values().find_map(soonest)
    }

    fn take_expired(&mut self, watermark_us: i64) -> Vec<RowNumber> {
        let mut gone = Vec::new();
        while let Some((second, rows)) = self.expiring.pop_first() {
            if second.saturating_mul(SECOND_US) > watermark_us {
                self.expiring.insert(second, rows);
                break;
            }
            let expired = |row: &RowNumber| self.expiry[*row as usize].is_some_and(|us| us <= watermark_us);
            let (now, later): (Vec<_>, Vec<_>) = rows.into_iter().partition(expired);
            gone.extend(now);
            if !later.is_empty() {
                self.expiring.insert(second, later);
                break;
            }
        }
        for row in &gone {
            self.alive[*row as usize] = false;
        }
        self.alive_count -= gone.len();
        let dead = self.alive[self.first_alive as usize..].iter().take_while(|alive| !**alive).count();
        self.first_alive += dead as RowNumber;
        gone.sort_unstable();
        gone
    }

    fn insert(
        &mut self,
        columns: Vec<ArrayRef>,
        ids: Vec<i64>,
        expiry: &Int64Array,
        matched: &BooleanArray,
    ) -> Result<RowNumber> {
        let (start, rows) = (self.older.len(), ids.len());
        let first = RowNumber::try_from(start + rows).map_err(|_| Error::internal("a join buffers over 2^32 rows"))?
            - rows as u32;
        let hashes = hashes_of(&columns[..self.key_count], rows)?;
        for (row, hash) in (first..).zip(&hashes) {
            self.older.push(self.newest.insert(*hash, row).unwrap_or(END));
        }
        for (row, us) in (first..).zip(expiry) {
            if let Some(us) = us {
                self.expiring.entry(us.div_euclid(SECOND_US)).or_default().push(row);
            }
            self.expiry.push(us);
        }
        self.hashes.extend(hashes);
        self.ids.extend(ids);
        self.matched.extend(matched.iter().map(|m| m.unwrap_or(false)));
        self.alive.resize(start + rows, true);
        self.alive_count += rows;
        let chunk = Chunk { start, columns, rows };
        self.chunk_bytes += chunk.bytes();
        self.chunks.push(chunk);
        // Chunks double towards the front, so that there are few of them and each row is copied a few times. None becomes
        // greater than a piece, so that joining takes little memory.
        while let [.., before, last] = self.chunks.as_slice()
            && before.rows <= 2 * last.rows
            && before.rows + last.rows <= PIECE_ROWS
        {
            let pair = [before, last];
            let joined = (0..before.columns.len()).map(|c| Ok(concat(&pair.map(|chunk| chunk.columns[c].as_ref()))?));
            let columns = joined.collect::<Result<Vec<_>>>()?;
            let merged = Chunk { start: before.start, rows: before.rows + last.rows, columns };
            self.chunk_bytes = self.chunk_bytes + merged.bytes() - before.bytes() - last.bytes();
            self.chunks.truncate(self.chunks.len() - 2);
            self.chunks.push(merged);
        }
        Ok(first)
    }

    /// Makes the buffer anew from the rows that are alive, where half are not, chunk by chunk, so that never more than a
    /// chunk stands twice in memory. Rows get other numbers.
    fn sweep(&mut self) -> Result<()> {
        if self.alive.len() <= 2 * self.alive_count + FEW_DEAD {
            return Ok(());
        }
        let chunks = std::mem::take(&mut self.chunks);
        self.chunk_bytes = 0;
        self.newest.clear();
        self.expiring.clear();
        self.older = Vec::new();
        self.hashes = Vec::new();
        let ids = std::mem::take(&mut self.ids);
        let expiry = std::mem::take(&mut self.expiry);
        let matched = std::mem::take(&mut self.matched);
        let alive = std::mem::take(&mut self.alive);
        (self.alive_count, self.first_alive) = (0, 0);
        for Chunk { start, columns, rows } in chunks {
            let kept: Vec<u32> = (0..rows as u32).filter(|row| alive[start + *row as usize]).collect();
            if kept.is_empty() {
                continue;
            }
            let row = |kept: &u32| start + *kept as usize;
            let kept_ids = kept.iter().map(|k| ids[row(k)]).collect();
            let kept_expiry: Int64Array = kept.iter().map(|k| expiry[row(k)]).collect();
            let kept_matched: BooleanArray = kept.iter().map(|k| Some(matched[row(k)])).collect();
            let numbers = UInt32Array::from(kept);
            let columns = columns.iter().map(|c| Ok(take(c, &numbers, None)?)).collect::<Result<Vec<_>>>()?;
            self.insert(columns, kept_ids, &kept_expiry, &kept_matched)?;
        }
        self.newest.shrink_to_fit();
        Ok(())
    }

    fn alive_rows(&self) -> Vec<RowNumber> {
        (0..self.alive.len() as u32).filter(|row| self.alive[*row as usize]).collect()
    }

    fn column_count(&self) -> usize {
        self.change_schema.fields().len() - HEAD
    }

    /// Puts changes without rows into a batch: the other columns are NULL.
    fn change_batch(&self, what: u8, numbers: Vec<i64>) -> Result<RecordBatch> {
        let rows = numbers.len();
        let fields = self.change_schema.fields().iter().skip(2);
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(UInt8Array::from_value(what, rows)), Arc::new(Int64Array::from(numbers))];
        columns.extend(fields.map(|field| new_null_array(field.data_type(), rows)));
        Ok(RecordBatch::try_new(Arc::clone(&self.change_schema), columns)?)
    }

    fn facts_of(&self, rows: &[RowNumber]) -> Facts {
        let at = |row: &RowNumber| *row as usize;
        Facts {
            ids: rows.iter().map(|row| self.ids[at(row)]).collect(),
            expiry: rows.iter().map(|row| self.expiry[at(row)]).collect(),
            // as it is now: a partner found in the same batch needs no change of its own, but may have one
            matched: rows.iter().map(|row| self.matched[at(row)]).collect(),
        }
    }
}

fn hashes_of(keys: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![0; rows];
    create_hashes(keys, &RandomState::with_seed(0), &mut hashes)?;
    Ok(hashes)
}

fn equal_rows(left: &ArrayRef, right: &ArrayRef, null_equals_null: bool) -> Result<BooleanArray> {
    if !left.data_type().is_nested() {
        return Ok(if null_equals_null { not_distinct(left, right)? } else { eq(left, right)? });
    }
    let compare = make_comparator(left.as_ref(), right.as_ref(), SortOptions::default())?;
    let equal = |row: usize| (null_equals_null || left.is_valid(row)) && compare(row, row).is_eq();
    Ok((0..left.len()).map(|row| Some(equal(row))).collect())
}

impl Tables for RowBuffer {
    fn change_schema(&self) -> &SchemaRef {
        &self.change_schema
    }

    fn names_matter(&self) -> bool {
        true
    }

    fn take_changes(&mut self) -> Result<Option<RecordBatch>> {
        let changes = std::mem::take(&mut self.changes);
        let mut batches = Vec::with_capacity(changes.len());
        for change in changes {
            batches.push(match change {
                Change::Append { first, rows, columns } => {
                    let numbers: Vec<RowNumber> = (first..).take(rows).collect();
                    append_batch(&self.change_schema, self.facts_of(&numbers), columns)?
                }
                Change::Matched(ids) => self.change_batch(MATCHED, ids)?,
                Change::Expire(until_us) => self.change_batch(EXPIRE, vec![until_us])?,
            });
        }
        self.sweep()?;
        if batches.is_empty() {
            return Ok(None);
        }
        Ok(Some(datafusion::arrow::compute::concat_batches(&self.change_schema, &batches)?))
    }

    fn freeze(&self) -> Box<dyn FrozenRows> {
        let rows = self.alive_rows();
        Box::new(Frozen {
            change_schema: Arc::clone(&self.change_schema),
            chunks: self.chunks.clone(),
            facts: self.facts_of(&rows),
            rows,
        })
    }

    fn apply(&mut self, batch: &RecordBatch, lane: usize, wanted: &Wanted<'_>) -> Result<()> {
        let what: &UInt8Array = batch.column(0).as_primitive();
        let mut row = 0;
        while row < batch.num_rows() {
            let this_what = what.value(row);
            let mut end = row + 1;
            while end < batch.num_rows() && what.value(end) == this_what {
                end += 1;
            }
            let mut run = batch.slice(row, end - row);
            row = end;
            match this_what {
                APPEND => {
                    let keep = wanted(&run.columns()[HEAD..HEAD + self.key_count], run.num_rows())?;
                    if keep.iter().any(|k| !k) {
                        run = filter_record_batch(&run, &BooleanArray::from(keep))?;
                    } else {
                        // Rows must not keep in memory what they are a part of: the file's other rows, or the file itself.
                        run = copy_of(&run)?;
                    }
                    if run.num_rows() == 0 {
                        continue;
                    }
                    let ids: Vec<i64> =
                        run.column(1).as_primitive::<datafusion::arrow::datatypes::Int64Type>().values().to_vec();
                    // The next row's id must be a number, too.
                    if let Some(strange) = ids.iter().find(|id| !(0..i64::MAX).contains(*id)) {
                        return Err(Error::corrupt(format!(
                            "a state file has a row with the id {strange}, which no version wrote"
                        )));
                    }
                    let (expiry, matched) = (run.column(2).as_primitive(), run.column(3).as_boolean());
                    self.next_id = ids.iter().fold(self.next_id, |next, id| next.max(id + 1));
                    let first = self.insert(run.columns()[HEAD..].to_vec(), ids, expiry, matched)?;
                    self.loading.entry(lane).or_default().extend((first..).take(run.num_rows()));
                }
                MATCHED => {
                    let ids: &Int64Array = run.column(1).as_primitive();
                    let rows = self.loading.get(&lane).map(Vec::as_slice).unwrap_or_default();
                    for id in ids.values() {
                        // of another lane now, or gone
                        if let Ok(place) = rows.binary_search_by_key(id, |row| self.ids[*row as usize]) {
                            self.matched[rows[place] as usize] = true;
                        }
                    }
                }
                EXPIRE => {
                    let until: &Int64Array = run.column(1).as_primitive();
                    for until_us in until.values() {
                        self.take_expired(*until_us);
                    }
                }
                other => {
                    return Err(Error::corrupt(format!("a state file says change {other}, which no version wrote")));
                }
            }
        }
        Ok(())
    }

    fn loaded(&mut self, regrouped: bool) {
        self.loading = BTreeMap::new();
        if regrouped {
            // Ids of several lanes meet here; the snapshot that follows gives new ones.
            self.ids = (0..self.ids.len() as i64).collect();
            self.next_id = self.ids.len() as i64;
        }
    }

    fn emptied(&self) -> Box<dyn Tables> {
        Box::new(Self::empty(self.key_count, Arc::clone(&self.change_schema)))
    }

    fn row_count(&self) -> usize {
        self.alive_count
    }

    fn memory_bytes(&self) -> usize {
        // hash, id, expiry, flags and chain of a row, and its place among those that expire; then the index
        let numbers = self.alive.capacity() * (8 + 8 + 16 + 2 + 4) + self.alive.len() * 8;
        self.chunk_bytes + numbers + self.newest.capacity() * 20 + self.expiring.len() * 64
    }

    fn doubling_bytes(&self, rows: usize) -> usize {
        let doubles = index_bytes(self.newest.len() + rows) > index_bytes(self.newest.len());
        if doubles { 2 * self.newest.capacity() * 20 } else { 0 }
    }
}

#[cfg(test)]
mod tests;
