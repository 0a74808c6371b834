//! What one operator remembers in one lane: its stores, by name, made durable together.
//!
//! Most operators have one store; a join has one a side, user state one a variable.

use std::any::Any;

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
}

impl LaneState {
    /// Makes empty stores that live in `memory`.
    pub fn new(operator: usize, lane: usize, tables: Vec<NamedTables>, memory: StateMemory) -> Self {
        let store = |t: NamedTables| LaneStore::new(operator, lane, t.name, t.tables);
        Self { stores: tables.into_iter().map(store).collect(), memory }
    }

    /// Reserves memory for `rows` rows of `bytes` bytes that are about to be put: for themselves, for what is made of them
    /// on the way (a copy, their delta), and for indexes that double. What is not needed is given back with the commit.
    ///
    /// # Errors
    /// `ResourcesExhausted` where there is no room, naming who holds how much.
    pub fn make_room(&self, rows: usize, bytes: usize) -> Result<()> {
        let doubling: usize = self.stores.iter().map(|s| s.tables.doubling_bytes(rows)).sum();
        self.memory.hold(self.memory_bytes() + 3 * bytes + doubling)
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
        Ok(())
    }

    /// Makes the changes since the last commit durable as `version`; current only once the commit log names the files.
    ///
    /// # Errors
    /// As [`LaneStore::commit`].
    pub async fn commit(&mut self, store: &dyn DurableStore, version: i64, run: u64) -> Result<()> {
        let memory = &self.memory;
        try_join_all(self.stores.iter_mut().map(|own| own.commit(store, version, run, memory))).await?;
        self.memory.hold(self.memory_bytes())
    }

    /// Returns the files that make the current version of all stores.
    pub fn files(&self) -> Vec<StateFile> {
        self.stores.iter().flat_map(|s| s.files().to_vec()).collect()
    }

    /// Returns when the first row is due for which the query is to run even without data, in milliseconds of processing
    /// time.
    pub fn wake_ms(&mut self) -> Option<i64> {
        self.stores.iter_mut().filter_map(|s| s.tables.due_us()).min().map(|us| us.div_euclid(1000))
    }

    /// Returns the number of rows in all stores.
    pub fn row_count(&self) -> usize {
        self.stores.iter().map(|s| s.tables.row_count()).sum()
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
