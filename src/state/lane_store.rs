//! A versioned store of one operator in one lane: tables in memory, deltas and snapshots on disk.
//!
//! A batch's changes become a delta, durable before the commit log names it. When the deltas since the last snapshot
//! outweigh it, all rows as they are then are written as a snapshot, beside the batches that follow. So a restart reads
//! about twice the state at most, and no batch waits for the whole.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::codec;
use super::key_group::{key_groups, lane_of};
use super::memory::StateMemory;
use super::tables::Tables;
use crate::error::{Error, Result};
use crate::storage::{DurableStore, blocking, checksum};

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
    snapshot: Option<Writing>,
}

/// A snapshot that is being written.
struct Writing {
    version: i64,
    task: JoinHandle<Result<Option<StateFile>>>,
}

impl LaneStore {
    /// Makes an empty store.
    pub fn new(operator: usize, lane: usize, name: String, tables: Box<dyn Tables>) -> Self {
        Self { operator, lane, name, tables, files: Vec::new(), regrouped: false, snapshot: None }
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
    /// The files are durable on return but current only once the commit log names them. A snapshot is written beside the
    /// batches that follow, and takes the place of the deltas before it once it is durable; one that `memory` has no room
    /// for waits: until then there are more deltas.
    ///
    /// # Errors
    /// `Unavailable` or `ResourcesExhausted` where the store cannot be written, for a snapshot that was begun before too.
    pub async fn commit(
        &mut self,
        store: &Arc<dyn DurableStore>,
        version: i64,
        run: u64,
        memory: &StateMemory,
    ) -> Result<&[StateFile]> {
        if self.snapshot.as_ref().is_some_and(|writing| writing.task.is_finished()) {
            self.end_snapshot().await?;
        }
        let delta = self.tables.take_changes()?;
        let regrouped = std::mem::take(&mut self.regrouped);
        if regrouped || (self.files.is_empty() && self.snapshot.is_none()) {
            // Without files the changes are everything there is.
            if delta.is_some() || regrouped {
                self.begin_snapshot(store, version, run);
                self.end_snapshot().await?;
            }
            return Ok(&self.files);
        }
        let Some(delta) = delta else {
            return Ok(&self.files);
        };
        let (name, bytes) = (self.file_name(version, run, FileKind::Delta), codec::encode(&delta)?);
        drop(delta);
        let file = self.named(name, version, FileKind::Delta);
        self.files.push(write(store.as_ref(), file, bytes).await?);
        fail::fail_point!("state.some_deltas_written");
        // Indexes are no part of the file, and what is is compressed.
        if self.snapshot.is_none() && self.wants_snapshot() && memory.holds_beside(self.tables.memory_bytes() / 2) {
            self.begin_snapshot(store, version, run);
            if memory.is_limited() {
                self.end_snapshot().await?;
            }
        }
        Ok(&self.files)
    }

    /// Begins to write all rows as they are now, which is as `version` has them.
    fn begin_snapshot(&mut self, store: &Arc<dyn DurableStore>, version: i64, run: u64) {
        let file = self.named(self.file_name(version, run, FileKind::Snapshot), version, FileKind::Snapshot);
        let rows = self.tables.freeze();
        let (schema, store) = (Arc::clone(self.tables.change_schema()), Arc::clone(store));
        let encode = move || {
            let mut encoder: Option<codec::Encoder> = None;
            rows.each_piece(&mut |piece| {
                let encoder = match &mut encoder {
                    Some(encoder) => encoder,
                    none => none.insert(codec::Encoder::new(&schema)?),
                };
                encoder.add(piece)
            })?;
            encoder.map(codec::Encoder::finish).transpose()
        };
        let task = tokio::spawn(async move {
            // A snapshot of no rows needs no file.
            match blocking(encode).await? {
                Some(bytes) => write(store.as_ref(), file, bytes).await.map(Some),
                None => Ok(None),
            }
        });
        self.snapshot = Some(Writing { version, task });
    }

    /// Waits for a snapshot that was begun, and lets it take the place of the files before it.
    ///
    /// # Errors
    /// `Unavailable` or `ResourcesExhausted` where it could not be written.
    pub async fn end_snapshot(&mut self) -> Result<()> {
        let Some(Writing { version, task }) = self.snapshot.take() else {
            return Ok(());
        };
        let file = task.await.map_err(|e| Error::internal(format!("writing a snapshot did not end: {e}")))??;
        self.files.retain(|file| file.version > version);
        self.files.splice(0..0, file);
        Ok(())
    }

    /// Waits for a snapshot that was begun, and removes it: no commit will name it any more.
    pub async fn drop_snapshot(&mut self, store: &dyn DurableStore) -> Result<()> {
        let Some(Writing { task, .. }) = self.snapshot.take() else {
            return Ok(());
        };
        match task.await {
            Ok(Ok(Some(file))) => store.delete(&file.name).await,
            _ => Ok(()),
        }
    }

    fn file_name(&self, version: i64, run: u64, kind: FileKind) -> String {
        let folder = format!("{}/{}", self.operator, self.lane);
        let suffix = if kind == FileKind::Snapshot { "snapshot" } else { "delta" };
        match self.name.as_str() {
            DEFAULT_STORE => format!("{folder}/{version}-{run}.{suffix}"),
            store => format!("{folder}/{version}-{run}.{store}.{suffix}"),
        }
    }

    /// A file that is still to be written.
    fn named(&self, name: String, version: i64, kind: FileKind) -> StateFile {
        StateFile { name, store: self.name.clone(), lane: self.lane, version, kind, length: 0, crc32: 0 }
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
            let (schema, named) = (self.tables.change_schema(), self.tables.names_matter());
            let mut rows = codec::Decoder::of(bytes, schema, named, &location)?;
            while let Some(batch) = rows.next_batch()? {
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
            return false;
        };
        let deltas = self.files.iter().filter(|f| f.kind == FileKind::Delta);
        let (count, bytes) = deltas.fold((0, 0), |(n, b), f| (n + 1, b + f.length));
        let base = if first.kind == FileKind::Snapshot { first.length } else { 0 };
        // Rows of a snapshot are packed, to about half.
        count >= MAX_DELTAS || (count >= MIN_DELTAS && bytes > 2 * base)
    }
}

/// Writes a state file, and returns it with its length and checksum.
async fn write(store: &dyn DurableStore, file: StateFile, bytes: Bytes) -> Result<StateFile> {
    let (length, crc32) = (bytes.len() as u64, checksum(&bytes));
    if !store.create_unlisted(&file.name, bytes).await? {
        return Err(Error::new(
            crate::error::ErrorKind::Fenced,
            format!("{}/{} exists: another process runs on this checkpoint", store.location(), file.name),
        ));
    }
    Ok(StateFile { length, crc32, ..file })
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
