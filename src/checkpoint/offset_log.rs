//! The offset log: what a batch reads and with which watermark, written before it runs.
//!
//! A batch that died runs again from its entry, over exactly the same rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batch_log::{BatchLog, LogEntry};
use super::layout;

/// The log of what batches read.
pub type OffsetLog = BatchLog<OffsetEntry>;

/// Everything that a batch needs to run again as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OffsetEntry {
    /// The batch.
    pub batch_id: i64,
    /// The run that planned it.
    pub run: u64,
    /// The watermark it runs with: what it evicts by.
    pub watermark_ms: i64,
    /// The watermark that the batch before ran with: what late rows are judged by.
    pub late_watermark_ms: i64,
    /// What `now()` is in it.
    pub batch_timestamp_ms: i64,
    /// In how many parallel lanes it runs.
    pub lanes: usize,
    /// Options that a restart must not change.
    pub conf: BTreeMap<String, String>,
    /// What it reads, one entry a source.
    pub sources: Vec<SourceOffsets>,
}

/// The range that a batch reads of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceOffsets {
    /// The source, as a person would name it.
    pub name: String,
    /// Where the range begins; `None` is the source's beginning.
    pub start: Option<serde_json::Value>,
    /// Where the range ends; `None` where the source gave nothing yet.
    pub end: Option<serde_json::Value>,
    /// What the source says it is; none where an early Millstream wrote the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl LogEntry for OffsetEntry {
    const FOLDER: &'static str = layout::OFFSETS;
    const WRITTEN: &'static str = "offset_log.written";

    fn batch_id(&self) -> i64 {
        self.batch_id
    }

    fn run(&self) -> u64 {
        self.run
    }
}
