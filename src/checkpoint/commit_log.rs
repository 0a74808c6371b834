//! The commit log: which batches are decided, and what belongs to them.
//!
//! Once its entry is there, a batch is never run again; before, nothing of it counts.

use serde::{Deserialize, Serialize};

use super::batch_log::{BatchLog, LogEntry};
use super::layout;
use crate::error::{Error, Result};
use crate::state::StateFile;
use crate::storage::{DurableStore, checksum, file_path};

/// The log of decided batches.
pub type CommitLog = BatchLog<CommitEntry>;

/// The decision on a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitEntry {
    /// The batch.
    pub batch_id: i64,
    /// The run that decided it.
    pub run: u64,
    /// In how many parallel lanes its state lies.
    pub lanes: usize,
    /// The watermark that the next batch runs with.
    pub watermark: WatermarkState,
    /// The state after the batch: everything that recovery reads, one entry an operator.
    pub state: Vec<StateFiles>,
    /// What the sink prepared: what publishing needs.
    pub sink: serde_json::Value,
    /// What was planned, to tell a changed query from this one.
    pub fingerprint: serde_json::Value,
}

/// The watermark with all that it is made of, so that recovery goes on as an unbroken run would have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatermarkState {
    /// The query's watermark.
    pub global_ms: i64,
    /// Each watermark node's own.
    pub nodes: Vec<i64>,
    /// Which sources are idle.
    pub idle: Vec<bool>,
}

/// The state of one operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFiles {
    /// The operator's number.
    pub operator: usize,
    /// The version: one above the id of the batch that made it.
    pub version: i64,
    /// The files that make it up, of all lanes.
    pub files: Vec<StateFile>,
}

/// Reads a file from the checkpoint's state directory and checks that it is what was written.
///
/// # Errors
/// `CheckpointCorrupt` where it is missing or altered.
pub(crate) async fn read_state_file(state: &dyn DurableStore, file: &StateFile) -> Result<bytes::Bytes> {
    let path = file_path(state, &file.name);
    let remedy = "restore it from a copy, or go back to an older batch with `millstream checkpoint rewind`";
    let Some(bytes) = state.read(&file.name).await? else {
        return Err(Error::corrupt(format!("{path} is missing; {remedy}")));
    };
    let found = checksum(&bytes);
    if bytes.len() as u64 != file.length || found != file.crc32 {
        return Err(Error::corrupt(format!(
            "{path}: checksum {:08x} over {} bytes expected, {found:08x} found (file is {} bytes); {remedy}",
            file.crc32,
            file.length,
            bytes.len()
        )));
    }
    Ok(bytes)
}

impl LogEntry for CommitEntry {
    const FOLDER: &'static str = layout::COMMITS;
    const WRITTEN: &'static str = "commit_log.written";

    fn batch_id(&self) -> i64 {
        self.batch_id
    }

    fn run(&self) -> u64 {
        self.run
    }
}
