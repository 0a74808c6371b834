//! A versioned store of one operator in one lane: tables in memory, deltas and snapshots on disk.
//!
//! A batch's changes become a delta, durable before the commit log names it. When the deltas since the last snapshot
//! outweigh it, the next version is written as a snapshot instead, so that a restart reads at most about twice the
//! state and a batch pays a constant share.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::codec;
use super::key_group::{key_groups, lane_of};
use super::memory::StateMemory;
use super::tables::Tables;
use crate::error::{Error, Result};
use crate::storage::{DurableStore, checksum};

/// Fewer deltas than this never make a snapshot.
const MIN_DELTAS: usize = 10;
/// More deltas than this always do: a restart opens each.
const MAX_DELTAS: usize = 100;

/// The name of an operator's only store.
pub const DEFAULT_STORE: &str = "default";

fn default_store() -> String {
    DEFAULT_STORE.to_string()
}

/// What a state file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// All rows of its version.
    Snapshot,
    /// What changed from the version before.
    Delta,
}

/// A durable file of state, as the commit log lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Its name, relative to the checkpoint's `state` folder.
    pub name: String,
    /// Which of the operator's stores it belongs to.
    #[serde(default = "default_store")]
    pub store: String,
    /// The lane that wrote it, and how many there were.
    pub lane: usize,
    /// The version it leads to: the batch's id plus one.
    pub version: i64,
    /// Whether it is whole.
    pub kind: FileKind,
    /// Its length in bytes.
    pub length: u64,
    /// Its CRC-32.
    pub crc32: u32,
}

/// One of an operator's stores in one lane.
pub struct LaneStore {
    operator: usize,
    lane: usize,
    name: String,
    /// The rows.
    pub tables: Box<dyn Tables>,
    files: Vec<StateFile>,
    /// The rows came from another number of lanes: they need a snapshot of their own before anything else.
    regrouped: bool,
}

impl LaneStore {
    /// Makes an empty store.
    pub fn new(operator: usize, lane: usize, name: String, tables: Box<dyn Tables>) -> Self {
        Self { operator, lane, name, tables, files: Vec::new(), regrouped: false }
    }

    /// Returns the name by which its operator knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the files that make the current version, snapshot first.
    pub fn files(&self) -> &[StateFile] {
        &self.files
    }

    /// Makes the changes since the last commit durable as `version`, and returns the files that now make it up.
    ///
    /// The files are durable on return but current only once the commit log names them. A snapshot that `memory` has no
    /// room for waits: until then there are more deltas.
    ///
    /// # Errors
    /// `Unavailable` or `ResourcesExhausted` where the store cannot be written.
    pub async fn commit(
        &mut self,
        store: &dyn DurableStore,
        version: i64,
        run: u64,
        memory: &StateMemory,
    ) -> Result<&[StateFile]> {
        let delta = self.tables.take_changes()?;
        if delta.is_none() && !self.regrouped {
            return Ok(&self.files);
        }
        // Indexes are no part of the file, and what is is compressed.
        let snapshot_bytes = self.tables.memory_bytes() / 2;
        // A snapshot of no rows needs no file.
        let (kind, bytes) = match self.regrouped || (self.wants_snapshot() && memory.holds_beside(snapshot_bytes)) {
            true => (FileKind::Snapshot, self.snapshot()?),
            false => (FileKind::Delta, delta.map(|delta| codec::encode(&delta)).transpose()?),
        };
        self.regrouped = false;
        if kind == FileKind::Snapshot {
            self.files.clear();
        }
        if let Some(bytes) = bytes {
            let suffix = if kind == FileKind::Snapshot { "snapshot" } else { "delta" };
            let folder = format!("{}/{}", self.operator, self.lane);
            let name = match self.name.as_str() {
                DEFAULT_STORE => format!("{folder}/{version}-{run}.{suffix}"),
                store => format!("{folder}/{version}-{run}.{store}.{suffix}"),
            };
            let (length, crc32) = (bytes.len() as u64, checksum(&bytes));
            let file = StateFile { name, store: self.name.clone(), lane: self.lane, version, kind, length, crc32 };
            if !store.create(&file.name, bytes).await? {
                return Err(Error::new(
                    crate::error::ErrorKind::Fenced,
                    format!("{}/{} exists: another process runs on this checkpoint", store.location(), file.name),
                ));
            }
            fail::fail_point!("state.some_deltas_written");
            self.files.push(file);
        }
        Ok(&self.files)
    }

    fn snapshot(&self) -> Result<Option<Bytes>> {
        if self.tables.row_count() == 0 {
            return Ok(None);
        }
        let mut encoder = codec::Encoder::new(self.tables.change_schema())?;
        self.tables.each_piece(&mut |rows| encoder.add(rows))?;
        encoder.finish().map(Some)
    }

    /// Loads the part of `files` (this store's, of all lanes of the version to restore) that belongs to this lane among
    /// `lanes`. Tells `room` how many bytes it holds, what it is about to read among them.
    ///
    /// # Errors
    /// What `room` says;
    /// `CheckpointCorrupt` where a file is missing or altered; `CheckpointIncompatible` where it is another query's.
    pub async fn load(
        &mut self,
        store: &dyn DurableStore,
        files: &[StateFile],
        lanes: usize,
        old_lanes: usize,
        room: &mut (dyn FnMut(usize) -> Result<()> + Send),
    ) -> Result<()> {
        let own = |f: &&StateFile| f.store == self.name && (lanes != old_lanes || f.lane == self.lane);
        let mut ordered: Vec<&StateFile> = files.iter().filter(own).collect();
        ordered.sort_by_key(|f| (f.version, f.lane));
        for file in &ordered {
            room(self.tables.memory_bytes() + file.length as usize)?;
            let bytes = read_verified(store, file).await?;
            let location = format!("{}/{}", store.location(), file.name);
            for batch in codec::decode(bytes, self.tables.change_schema(), self.tables.names_matter(), &location)? {
                let lane = self.lane;
                self.tables.apply(&batch, file.lane, &|keys, rows| {
                    if lanes == old_lanes {
                        return Ok(vec![true; rows]);
                    }
                    Ok(key_groups(keys, rows)?.into_iter().map(|g| lane_of(g, lanes) == lane).collect())
                })?;
            }
            room(self.tables.memory_bytes())?;
        }
        self.tables.loaded(lanes != old_lanes);
        self.regrouped = lanes != old_lanes;
        self.files = if self.regrouped { Vec::new() } else { ordered.into_iter().cloned().collect() };
        Ok(())
    }

    fn wants_snapshot(&self) -> bool {
        let Some(first) = self.files.first() else {
            // Without files the changes are everything there is.
            return true;
        };
        let deltas = self.files.iter().filter(|f| f.kind == FileKind::Delta);
        let (count, bytes) = deltas.fold((0, 0), |(n, b), f| (n + 1, b + f.length));
        let base = if first.kind == FileKind::Snapshot { first.length } else { 0 };
        count >= MAX_DELTAS || (count >= MIN_DELTAS && bytes > base)
    }
}

/// Reads a state file and checks that it is what was written.
///
/// # Errors
/// `CheckpointCorrupt` where it is missing or altered.
pub(crate) async fn read_verified(store: &dyn DurableStore, file: &StateFile) -> Result<Bytes> {
    let location = format!("{}/{}", store.location(), file.name);
    let remedy = format!(
        "restore it from a copy; or, where the query's table holds no batch after that, go back with `millstream checkpoint \
         rewind` to batch {} or before; or start with a new checkpoint and a new table",
        file.version - 2
    );
    let Some(bytes) = store.read(&file.name).await? else {
        return Err(Error::corrupt(format!("{location} is missing, but the commit log lists it; {remedy}")));
    };
    let found = checksum(&bytes);
    if bytes.len() as u64 != file.length || found != file.crc32 {
        return Err(Error::corrupt(format!(
            "{location}: checksum {:08x} and {} bytes expected, {found:08x} and {} bytes found; {remedy}",
            file.crc32,
            file.length,
            bytes.len()
        )));
    }
    Ok(bytes)
}
