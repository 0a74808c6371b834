//! What one operator remembers in one lane: its stores, by name, made durable together.
//!
//! Most operators have one store; a join has one a side, user state one a variable.

use std::any::Any;
use std::sync::Arc;

use futures::future::try_join_all;

use super::keyed_tables::KeyedTables;
use super::lane_store::{LaneStore, StateFile};
use super::memory::StateMemory;
use super::row_buffer::RowBuffer;
use super::tables::Tables;
use crate::error::{Error, Result};
use crate::storage::DurableStore;

/// Empty tables of an operator's store, and the store's name.
pub struct NamedTables {
    /// The store's name: part of the names of its files.
    pub name: String,
    /// The tables.
    pub tables: Box<dyn Tables>,
}

impl NamedTables {
    /// Names empty tables.
    pub fn new(name: impl Into<String>, tables: impl Tables) -> Self {
        Self { name: name.into(), tables: Box::new(tables) }
    }
}

/// One operator's stores in one lane.
pub struct LaneState {
    stores: Vec<LaneStore>,
    memory: StateMemory,
    /// Whether what it remembers is in files, all of it: not between opening and commit.
    settled: bool,
    /// What is known of it while it is out of memory.
    out: Option<Out>,
    /// Where its files came from, while it has written none of its own.
    origin: Option<Origin>,
    last_use: u64,
}

/// What is known of a lane that is out of memory.
struct Out {
    rows: usize,
    due_us: Option<i64>,
}

/// The files of a version that another number of lanes wrote.
struct Origin {
    files: Vec<StateFile>,
    lanes: usize,
    old_lanes: usize,
}

impl LaneState {
    /// Makes empty stores that live in `memory`.
    pub fn new(operator: usize, lane: usize, tables: Vec<NamedTables>, memory: StateMemory) -> Self {
        let store = |t: NamedTables| LaneStore::new(operator, lane, t.name, t.tables);
        let stores = tables.into_iter().map(store).collect();
        Self { stores, memory, settled: true, out: None, origin: None, last_use: 0 }
    }

    /// Opens the state for changes, reading it back where it is out of memory, and reserves memory for `rows` rows of
    /// `bytes` bytes that are about to be put: for themselves, for what is made of them on the way (a copy, their delta),
    /// and for indexes that double. What is not needed is given back with the commit.
    ///
    /// # Errors
    /// `ResourcesExhausted` where there is no room, naming who holds how much; as [`LaneStore::load`].
    pub async fn open(&mut self, store: &dyn DurableStore, rows: usize, bytes: usize) -> Result<()> {
        self.last_use = self.memory.budget().next_use();
        if self.out.take().is_some() {
            match self.origin.take() {
                Some(Origin { files, lanes, old_lanes }) => self.load(store, &files, lanes, old_lanes).await?,
                None => self.load(store, &self.files(), 1, 1).await?,
            }
        }
        self.settled = false;
        let doubling: usize = self.stores.iter().map(|s| s.tables.doubling_bytes(rows)).sum();
        self.memory.hold(self.memory_bytes() + 3 * bytes + doubling)
    }

    /// Returns whether it is in memory and could be read back.
    pub(super) fn can_leave(&self) -> bool {
        self.settled && self.out.is_none() && self.memory_bytes() > 0
    }

    /// Returns when it was opened last, among the lanes of the query.
    pub(super) fn last_use(&self) -> u64 {
        self.last_use
    }

    /// Leaves memory, until it is opened.
    pub(super) fn leave(&mut self) {
        self.out = Some(Out { rows: self.row_count(), due_us: self.due_us() });
        for own in &mut self.stores {
            own.tables = own.tables.emptied();
        }
        self.memory.release();
    }

    /// Loads the part of `files` that belongs to this lane; see [`LaneStore::load`].
    ///
    /// # Errors
    /// As [`LaneStore::load`]; `ResourcesExhausted` where memory has no room; `CheckpointIncompatible` where a file belongs to a store that the operator has not.
    pub async fn load(
        &mut self,
        store: &dyn DurableStore,
        files: &[StateFile],
        lanes: usize,
        old_lanes: usize,
    ) -> Result<()> {
        if let Some(strange) = files.iter().find(|f| self.stores.iter().all(|s| s.name() != f.store)) {
            return Err(Error::incompatible(format!(
                "{}/{} holds '{}', which the query does not keep any more: use a new checkpoint, or the old query",
                store.location(),
                strange.name,
                strange.store
            )));
        }
        let (mut before, memory) = (0, &self.memory);
        for own in &mut self.stores {
            own.load(store, files, lanes, old_lanes, &mut |bytes| memory.hold(before + bytes)).await?;
            before += own.tables.memory_bytes();
        }
        self.origin = (lanes != old_lanes).then(|| Origin { files: files.to_vec(), lanes, old_lanes });
        Ok(())
    }

    /// Makes the changes since the last commit durable as `version`; current only once the commit log names the files.
    ///
    /// # Errors
    /// As [`LaneStore::commit`].
    pub async fn commit(&mut self, store: &Arc<dyn DurableStore>, version: i64, run: u64) -> Result<()> {
        let memory = &self.memory;
        try_join_all(self.stores.iter_mut().map(|own| own.commit(store, version, run, memory))).await?;
        (self.settled, self.origin) = (true, None);
        self.memory.hold(self.memory_bytes())
    }

    /// Ends what goes on beside the batches, when no other will follow.
    ///
    /// # Errors
    /// `Unavailable` where a file that no commit names cannot be removed.
    pub async fn close(&mut self, store: &dyn DurableStore) -> Result<()> {
        for own in &mut self.stores {
            own.drop_snapshot(store).await?;
        }
        Ok(())
    }

    /// Returns the files that make the current version of all stores.
    pub fn files(&self) -> Vec<StateFile> {
        self.stores.iter().flat_map(|s| s.files().to_vec()).collect()
    }

    /// Returns when the first row is due for which the query is to run even without data, in milliseconds of processing
    /// time.
    pub fn wake_ms(&mut self) -> Option<i64> {
        self.due_us().map(|us| us.div_euclid(1000))
    }

    fn due_us(&mut self) -> Option<i64> {
        match &self.out {
            Some(out) => out.due_us,
            None => self.stores.iter_mut().filter_map(|s| s.tables.due_us()).min(),
        }
    }

    /// Returns the number of rows in all stores.
    pub fn row_count(&self) -> usize {
        self.out.as_ref().map_or_else(|| self.stores.iter().map(|s| s.tables.row_count()).sum(), |out| out.rows)
    }

    /// Returns about how many bytes the rows take.
    pub fn memory_bytes(&self) -> usize {
        self.stores.iter().map(|s| s.tables.memory_bytes()).sum()
    }

    /// Returns the store at `index` (in the order in which the operator named them) as what it is.
    ///
    /// # Errors
    /// `Internal` where the operator named another kind of store.
    pub fn store<T: Tables>(&mut self, index: usize) -> Result<&mut T> {
        let tables = self.stores.get_mut(index).map(|s| s.tables.as_mut() as &mut dyn Any);
        tables.and_then(|t| t.downcast_mut::<T>()).ok_or_else(|| Error::internal("a state store of another kind"))
    }

    /// Returns the first store as keyed tables.
    ///
    /// # Errors
    /// As [`LaneState::store`].
    pub fn keyed(&mut self) -> Result<&mut KeyedTables> {
        self.store(0)
    }

    /// Returns the first two stores as buffers of rows: the sides of a join.
    ///
    /// # Errors
    /// As [`LaneState::store`].
    pub fn sides(&mut self) -> Result<[&mut RowBuffer; 2]> {
        let mut buffers = self.stores.iter_mut().map(|s| {
            let tables: &mut dyn Any = s.tables.as_mut();
            tables.downcast_mut::<RowBuffer>()
        });
        match (buffers.next().flatten(), buffers.next().flatten()) {
            (Some(left), Some(right)) => Ok([left, right]),
            _ => Err(Error::internal("a join without two buffers")),
        }
    }
}
