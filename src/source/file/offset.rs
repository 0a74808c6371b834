//! The offset of a file source: the files of exactly one batch, and now and then all files read so far.
//!
//! Guards that the offsets of the last ten batches that read anything are enough to know which files were read.

use serde::{Deserialize, Serialize};

use super::listing::FileEntry;
use crate::error::{Error, Result};
use crate::source::Offset;

/// The version of the offset that this Millstream writes, and the newest it reads.
const VERSION: u64 = 1;

/// What a batch read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileOffset {
    v: u64,
    /// Which of the batches that read from this source it is, from 0.
    pub(super) log_offset: u64,
    /// The files, in the order they are read.
    #[serde(default)]
    pub(super) files: Vec<FileEntry>,
    /// The files of a manifest were not taken in its order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) out_of_order: bool,
    /// All files read before this batch, with their times of modification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<Vec<(String, i64)>>,
    /// The last file read of a manifest before this batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<(u64, u64)>,
}

impl FileOffset {
    /// Makes the offset of a batch.
    pub(super) fn new(log_offset: u64, files: Vec<FileEntry>, out_of_order: bool) -> Self {
        Self { v: VERSION, log_offset, files, out_of_order, seen: None, mark: None }
    }

    /// Adds what was read before.
    pub(super) fn with_seen(mut self, (seen, mark): super::seen::Remembered) -> Self {
        self.seen = Some(seen);
        self.mark = mark;
        self
    }

    /// Reads an offset from the log.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where it is not one of a file source, or a newer Millstream wrote it.
    pub(super) fn parse(offset: &Offset) -> Result<Self> {
        match offset.get("v").and_then(Offset::as_u64) {
            Some(VERSION) => Self::number(offset)
                .and_then(|_| Self::deserialize(offset).map_err(|e| not_an_offset(&e.to_string()).with_source(e))),
            Some(newer) => Err(not_an_offset(&format!("its version is {newer}, this Millstream reads {VERSION}"))),
            None => Err(not_an_offset("it has no version")),
        }
    }

    /// Returns only the number of an offset, without reading its files.
    ///
    /// # Errors
    /// As [`FileOffset::parse`].
    pub(super) fn number(offset: &Offset) -> Result<u64> {
        let number = offset.get("log_offset").and_then(Offset::as_u64);
        number.filter(|number| *number < i64::MAX as u64).ok_or_else(|| not_an_offset("it has no log_offset"))
    }

    /// Returns the JSON for the log.
    ///
    /// # Errors
    /// `Internal` where it cannot be written as JSON.
    pub(super) fn to_json(&self) -> Result<Offset> {
        serde_json::to_value(self).map_err(|e| Error::internal(format!("an offset is not JSON: {e}")).with_source(e))
    }
}

fn not_an_offset(why: &str) -> Error {
    Error::incompatible(format!(
        "the offset log holds what is no offset of a file source: {why}; run the query that wrote this checkpoint, or \
         start with a new checkpoint"
    ))
}
