//! The commit log: which batches are decided, and what belongs to them.
//!
//! Once its entry is there, a batch is never run again; before, nothing of it counts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::batch_log::{BatchLog, LogEntry};
use super::layout;
use crate::state::StateFile;

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
    /// The sink as it describes itself; none where an early Millstream wrote the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_description: Option<String>,
    /// What the sink of late rows prepared; none where nobody wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_rows: Option<LateRowsCommit>,
    /// What was planned, to tell a changed query from this one.
    pub fingerprint: serde_json::Value,
}

/// The late rows of a decided batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LateRowsCommit {
    /// The batch from which on all late rows were kept: a query may begin to keep them when it has run for a while.
    pub first_batch_id: i64,
    /// What their sink prepared: what publishing needs.
    pub sink: serde_json::Value,
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
    /// By node: the greatest event time of each partition of its source, where they have watermarks of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<usize, BTreeMap<String, i64>>,
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
