//! One table: an index of keys over immutable chunks of rows.
//!
//! A group (a key's number) points to its newest row. Chunks are joined and made anew piece by piece, so that bookkeeping
//! takes little memory beside the rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat, interleave, take, take_record_batch};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};

use super::KeyIndex;
use crate::error::Result;
use crate::state::tables::PIECE_ROWS;

/// No row yet, or no more.
pub(super) const NONE: (u32, u32) = (u32::MAX, u32::MAX);
/// Rows that expire are found by the second in which they do.
pub(super) const SECOND_US: i64 = 1_000_000;
/// So many chunks are looked through as they are.
const FEW_CHUNKS: usize = 16;

#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) values: Vec<ArrayRef>,
}

impl Chunk {
    pub(super) fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|a| a.get_array_memory_size()).sum()
    }

    fn picked(&self, rows: &UInt32Array) -> Result<Self> {
        let pick = |columns: &[ArrayRef]| columns.iter().map(|c| Ok(take(c, rows, None)?)).collect::<Result<Vec<_>>>();
        Ok(Self { keys: pick(&self.keys)?, values: pick(&self.values)? })
    }
}

/// Copies rows, so that they do not keep alive what they are a part of.
pub(in crate::state) fn copy_of(rows: &RecordBatch) -> Result<RecordBatch> {
    let all: UInt32Array = (0..rows.num_rows() as u32).collect::<Vec<_>>().into();
    Ok(take_record_batch(rows, &all)?)
}

/// What a batch's keys are in a table.
pub struct Touched {
    /// By row: the number of its key among those that the batch has touched in the table.
    pub places: Vec<usize>,
    /// The numbers of keys that were touched for the first time and have a row.
    pub remembered: Range<usize>,
    /// The values of those.
    pub values: Vec<ArrayRef>,
    /// How many keys the batch has touched by now.
    pub total: usize,
}

/// The chunk that a batch is making: its groups point into it already.
#[derive(Default)]
struct OpenChunk {
    /// row → group
    owners: Vec<u32>,
    keys: Vec<Vec<ArrayRef>>,
}

pub(super) struct Table {
    pub(super) index: KeyIndex,
    /// group → (chunk, row)
    pub(super) rows: Vec<(u32, u32)>,
    /// How many groups have a row.
    pub(super) live: usize,
    pub(super) chunks: Vec<Chunk>,
    /// chunk → by row its group
    pub(super) owners: Vec<Vec<u32>>,
    pub(super) chunk_rows: usize,
    /// Bytes of all chunks: kept, since looking at every chunk would cost the state.
    pub(super) bytes: usize,
    /// second → groups whose row expired within it when it was put; a newer row may stand elsewhere
    pub(super) expiring: BTreeMap<i64, Vec<u32>>,
    /// How many groups stand in `expiring`.
    pub(super) noted: usize,
    open: OpenChunk,
    /// What the sums hold of this table.
    pub(super) counted: (usize, usize),
}

impl Table {
    pub(super) fn new(key_schema: &SchemaRef) -> Result<Self> {
        Ok(Self {
            index: KeyIndex::new(key_schema)?,
            rows: Vec::new(),
            live: 0,
            chunks: Vec::new(),
            owners: Vec::new(),
            chunk_rows: 0,
            bytes: 0,
            expiring: BTreeMap::new(),
            noted: 0,
            open: OpenChunk::default(),
            counted: (0, 0),
        })
    }

    /// Makes the rows of `chunk` the newest of `groups`; `expiry` is the value column that tells when they expire.
    pub(super) fn insert(&mut self, groups: &[usize], chunk: Chunk, expiry: Option<usize>) -> Result<()> {
        let number = self.chunks.len() as u32;
        for (row, group) in groups.iter().enumerate() {
            self.live += usize::from(self.rows[*group] == NONE);
            self.rows[*group] = (number, row as u32);
        }
        self.push(groups.iter().map(|group| *group as u32).collect(), chunk, expiry)
    }

    /// Gives groups that the batch touches for the first time a row in the chunk that it is making.
    pub(super) fn touch(&mut self, keys: &[ArrayRef], groups: &[usize]) -> Result<Touched> {
        let open = self.chunks.len() as u32;
        let first = self.open.owners.len();
        let mut before = Vec::new();
        let mut first_rows = Vec::new();
        for (row, group) in groups.iter().enumerate() {
            let place = &mut self.rows[*group];
            if place.0 != open {
                before.push(*place);
                first_rows.push(row as u32);
                *place = (open, self.open.owners.len() as u32);
                self.open.owners.push(*group as u32);
            }
        }
        let remembered: Vec<(u32, u32)> = before.iter().copied().filter(|place| *place != NONE).collect();
        self.live += before.len() - remembered.len();
        if !remembered.is_empty() && remembered.len() < before.len() {
            // Those that have a row go first.
            let order = (0..before.len()).filter(|i| before[*i] != NONE);
            let order: Vec<usize> = order.chain((0..before.len()).filter(|i| before[*i] == NONE)).collect();
            let owners: Vec<u32> = order.iter().map(|i| self.open.owners[first + *i]).collect();
            for (number, group) in (first as u32..).zip(&owners) {
                self.rows[*group as usize].1 = number;
            }
            self.open.owners.truncate(first);
            self.open.owners.extend(owners);
            first_rows = order.iter().map(|i| first_rows[*i]).collect();
        }
        if !first_rows.is_empty() {
            let first_rows = UInt32Array::from(first_rows);
            self.open.keys.push(keys.iter().map(|key| Ok(take(key, &first_rows, None)?)).collect::<Result<_>>()?);
        }
        let values = match self.chunks.first().filter(|_| !remembered.is_empty()) {
            Some(chunk) => {
                let gathered = (0..chunk.values.len()).map(|v| gather(&self.chunks, &remembered, |c| &c.values[v]));
                gathered.collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        Ok(Touched {
            places: groups.iter().map(|group| self.rows[*group].1 as usize).collect(),
            remembered: first..first + remembered.len(),
            values,
            total: self.open.owners.len(),
        })
    }

    /// Ends the chunk that a batch was making; returns it and how many rows it has.
    pub(super) fn put_touched(&mut self, values: Vec<ArrayRef>, expiry: Option<usize>) -> Result<(Chunk, usize)> {
        let OpenChunk { owners, keys } = std::mem::take(&mut self.open);
        let columns = keys.first().map_or(0, Vec::len);
        let column = |k: usize| {
            let pieces: Vec<&dyn Array> = keys.iter().map(|piece| piece[k].as_ref()).collect();
            Ok(concat(&pieces)?)
        };
        let chunk = Chunk { keys: (0..columns).map(column).collect::<Result<_>>()?, values };
        let rows = owners.len();
        self.push(owners, chunk.clone(), expiry)?;
        Ok((chunk, rows))
    }

    fn push(&mut self, owners: Vec<u32>, chunk: Chunk, expiry: Option<usize>) -> Result<()> {
        self.bytes += chunk.bytes();
        self.chunks.push(chunk);
        self.chunk_rows += owners.len();
        self.owners.push(owners);
        if let Some(column) = expiry {
            self.note_expiry(self.chunks.len() - 1, column);
        }
        if self.chunks.len() > FEW_CHUNKS {
            // Rows that newer ones replaced are swept when they are half of all: a constant cost a row put.
            match self.chunk_rows > 2 * self.live {
                true => self.compact(expiry)?,
                false => self.merge_chunks()?,
            }
        }
        Ok(())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // group → place, row → group, and a node a second that leads to groups
        let numbers = self.rows.capacity() * 8 + self.chunk_rows * 4 + self.noted * 8 + self.expiring.len() * 64;
        self.index.size() + self.bytes + numbers
    }

    /// The newest row of every group, in the order of groups.
    pub(super) fn live(&self) -> Result<Chunk> {
        if self.live == self.rows.len() {
            return gathered(&self.chunks, &self.rows);
        }
        let places: Vec<(u32, u32)> = self.rows.iter().copied().filter(|place| *place != NONE).collect();
        gathered(&self.chunks, &places)
    }

    /// Makes each chunk anew of its rows that are alive, one after the other, so that never more than a chunk stands twice
    /// in memory; what the index of expiring rows holds of others goes too.
    fn compact(&mut self, expiry: Option<usize>) -> Result<()> {
        let (chunks, owners) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.owners));
        (self.chunk_rows, self.bytes) = (0, 0);
        self.expiring.clear();
        self.noted = 0;
        for (number, (chunk, owners)) in (0u32..).zip(chunks.into_iter().zip(owners)) {
            let alive = |(row, group): (u32, &u32)| (self.rows[*group as usize] == (number, row)).then_some(row);
            let alive: Vec<u32> = (0u32..).zip(&owners).filter_map(alive).collect();
            if alive.is_empty() {
                continue;
            }
            let groups: Vec<u32> = alive.iter().map(|row| owners[*row as usize]).collect();
            // Numbers only become less, so a place of a chunk still to come is never taken for one of these.
            let target = self.chunks.len() as u32;
            for (row, group) in (0u32..).zip(&groups) {
                self.rows[*group as usize] = (target, row);
            }
            let chunk = if alive.len() == owners.len() { chunk } else { chunk.picked(&UInt32Array::from(alive))? };
            self.chunk_rows += groups.len();
            self.bytes += chunk.bytes();
            self.chunks.push(chunk);
            self.owners.push(groups);
            if let Some(column) = expiry {
                self.note_expiry(self.chunks.len() - 1, column);
            }
            self.merge_chunks()?;
        }
        Ok(())
    }

    /// Joins the last chunks, so that they double towards the front: there are few, and each row is copied a few times. None
    /// becomes greater than a piece, so that joining takes little memory.
    fn merge_chunks(&mut self) -> Result<()> {
        let joined = |a: &[ArrayRef], b: &[ArrayRef]| -> Result<Vec<ArrayRef>> {
            a.iter().zip(b).map(|(a, b)| Ok(concat(&[a.as_ref(), b.as_ref()])?)).collect()
        };
        while let [.., before, last] = self.chunks.as_slice()
            && let [.., owners, moved] = self.owners.as_mut_slice()
            && owners.len() <= 2 * moved.len()
            && owners.len() + moved.len() <= PIECE_ROWS
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
                self.noted += 1;
            }
        }
    }

    /// When a group's row expires; `None` where it has none or never does.
    pub(super) fn expiry_of(&self, group: usize, column: usize) -> Option<i64> {
        let (chunk, row) = *self.rows.get(group).filter(|place| **place != NONE)?;
        let expiry = self.chunks[chunk as usize].values[column].as_primitive::<Int64Type>();
        expiry.is_valid(row as usize).then(|| expiry.value(row as usize))
    }
}

/// Collects rows from many chunks.
pub(super) fn gathered(chunks: &[Chunk], places: &[(u32, u32)]) -> Result<Chunk> {
    let Some(first) = chunks.first() else {
        return Ok(Chunk { keys: Vec::new(), values: Vec::new() });
    };
    let keys = (0..first.keys.len()).map(|k| gather(chunks, places, |c| &c.keys[k]));
    let values = (0..first.values.len()).map(|v| gather(chunks, places, |c| &c.values[v]));
    Ok(Chunk { keys: keys.collect::<Result<_>>()?, values: values.collect::<Result<_>>()? })
}

/// Collects one column's rows from many chunks.
pub(super) fn gather<'a>(
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
