//! Replayable input, read by offsets.
//!
//! A source plans what the next micro-batch reads (an end offset and the [`Split`]s that lead to it), and reads a
//! split when an operator asks. The engine writes the end offset to the offset log before anything is read, so that
//! a batch that died runs again over exactly the same rows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{PhysicalExpr, SendableRecordBatchStream};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::interval::duration_us;
use crate::options::{Options, bad_value};
use crate::storage::DurableStore;

mod decode;
pub mod file;
pub mod journal;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod rate;
pub mod rate_micro_batch;
pub mod socket;

/// The option of every source that the engine reads, and not the source: after so long without rows, in processing
/// time, the source's watermark holds that of the query back no more.
pub const IDLE_TIMEOUT: &str = "idleTimeout";

/// The option, likewise the engine's, that says what has a watermark of its own: the `source` as a whole, as in Spark, or
/// each `partition` of it, the least of which is then the source's.
pub const WATERMARK_PER: &str = "watermarkPer";

/// What the engine is told of the watermarks of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatermarkOptions {
    /// [`IDLE_TIMEOUT`] in milliseconds.
    pub idle_timeout_ms: Option<i64>,
    /// [`WATERMARK_PER`]: whether each partition has a watermark of its own.
    pub per_partition: Option<bool>,
}

impl WatermarkOptions {
    /// Takes them out of a source's options.
    ///
    /// # Errors
    /// `InvalidOption` where the timeout is no interval above zero, or it is not known what a watermark is to be of.
    pub fn take(options: &mut Options) -> Result<Self> {
        let idle_timeout_ms = match options.remove(IDLE_TIMEOUT) {
            None => None,
            Some(text) => match duration_us(&text).map_or(0, |us| us / 1000) {
                ms @ 1.. => Some(ms),
                _ => return Err(bad_value(IDLE_TIMEOUT, &text, "an interval above zero such as '30 seconds'")),
            },
        };
        let per = options.remove(WATERMARK_PER).map(|per| per.trim().to_lowercase());
        let per_partition = match per.as_deref() {
            None => None,
            Some("source") => Some(false),
            Some("partition") => Some(true),
            Some(other) => return Err(bad_value(WATERMARK_PER, other, "source or partition")),
        };
        Ok(Self { idle_timeout_ms, per_partition })
    }

    /// Returns these, with those of `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            per_partition: self.per_partition.or(other.per_partition),
        }
    }
}

/// Checks that every option is one of a source's own; the hint for a misspelt one knows those of all sources, too.
///
/// # Errors
/// As [`Options::check_known`].
fn check_options(options: &Options, source: &str, own: &[&str]) -> Result<()> {
    let known: Vec<&str> = own.iter().copied().chain([IDLE_TIMEOUT, WATERMARK_PER]).collect();
    options.check_known(source, &known)
}

/// A position in a source: versioned JSON that only the source itself reads, but that a person can.
pub type Offset = serde_json::Value;

/// What one task reads: a file, a range of offsets. A description, never data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// What to read, in the source's own words.
    pub description: serde_json::Value,
    /// How much that is (bytes or rows), to deal splits evenly to lanes.
    pub weight: u64,
}

/// How much a micro-batch may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLimit {
    /// As the source's own options say (`maxFilesPerTrigger`, …).
    Options,
    /// Everything there is now (the trigger ONCE ignores rate limits).
    All,
}

/// What the next micro-batch reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The offset after the batch: what the offset log remembers.
    pub end: Offset,
    /// What leads there, in order of arrival.
    pub splits: Vec<Split>,
}

/// What a source promises after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Any range of offsets can be read again.
    Replayable,
    /// What is read is written to a journal in the checkpoint before it is offered.
    Journaled,
    /// What was in flight is lost with the process.
    Lossy,
}

/// What a source is given before its first batch.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// Where the source may keep a journal: a directory of its own in the checkpoint.
    pub journal: Arc<dyn DurableStore>,
    /// The retained offsets of earlier batches, oldest first (those of a batch to be run again included).
    pub history: Vec<Offset>,
}

/// How a split is to be read.
#[derive(Debug, Clone)]
pub struct ReadContext {
    /// The columns wanted, by index into the source's schema and in this order; all of them where `None`.
    pub projection: Option<Vec<usize>>,
    /// A condition on the source's columns without which no row is wanted. A source may leave out rows for which it does not
    /// hold, and need not: they are looked at again.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The most rows a batch may have.
    pub batch_size: usize,
    /// Rows that were not of the declared shape and were dropped or nulled (modes DROPMALFORMED and PERMISSIVE).
    pub malformed_rows: Arc<MalformedRows>,
}

/// A count of malformed rows, shared by the tasks that read one source in one batch.
#[derive(Debug, Default)]
pub struct MalformedRows(AtomicU64);

impl MalformedRows {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Returns the count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An unbounded table's input.
///
/// One source belongs to one place in one query: a self-join has two.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns the schema of the rows.
    fn schema(&self) -> SchemaRef;

    /// Returns a line for progress reports, such as `FileStreamSource[file:///data/flights]`.
    fn description(&self) -> String;

    /// Returns what tells whose this source's offsets are, for the offset log. What may change from run to run, such as
    /// rates, is no part of it: that is the description up to its bracket, where a source says nothing else.
    fn identity(&self) -> String {
        let description = self.description();
        description.split_once('[').map_or(description.as_str(), |(kind, _)| kind).to_string()
    }

    /// Checks that offsets that a source of identity `before` gave are this one's.
    ///
    /// # Errors
    /// `CheckpointIncompatible`, saying what changed, and how to go on where that is meant.
    fn check_identity(&self, before: &str) -> Result<()> {
        match self.identity() {
            now if now == before => Ok(()),
            now => Err(Error::incompatible(format!(
                "the source changed from {before} to {now}, and offsets of one say nothing of the other: use the old \
                 query, or a new checkpoint"
            ))),
        }
    }

    /// Returns what is promised after a crash.
    fn guarantee(&self) -> Guarantee {
        Guarantee::Replayable
    }

    /// Prepares for the first batch of a run; `context.history` tells what earlier runs read.
    async fn open(&self, context: SourceContext) -> Result<()>;

    /// Fixes the end that [`Source::plan`] never passes from now on: the trigger AVAILABLE NOW reads what is there
    /// when it starts, and ends.
    async fn fix_end(&self) -> Result<()>;

    /// Plans what comes after `start` (`None`: from the beginning), or `None` where nothing is new.
    async fn plan(&self, start: Option<&Offset>, limit: ReadLimit) -> Result<Option<Planned>>;

    /// Plans the range after `start` up to `end` again, as it was: a batch that died runs again.
    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>>;

    /// Reads one split. Rows come in order of arrival; the schema is the source's, projected.
    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream>;

    /// Returns the name of the partition of the source that a split is of, where it has partitions: within one, rows come
    /// in an order of their own.
    fn partition(&self, _split: &Split) -> Option<String> {
        None
    }

    /// Returns the names of all partitions that are known at `end`, those that have given nothing included.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where `end` is no offset of this source.
    fn partitions(&self, _end: &Offset) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Tells that the batch that ended at `end` is decided: what led there may be cleaned. May be told again.
    async fn commit(&self, end: &Offset) -> Result<()>;

    /// Returns the newest offset there is, for progress reports.
    async fn latest(&self) -> Result<Option<Offset>> {
        Ok(None)
    }

    /// Returns what a batch that ended at `end` is to report of the source, by name, such as how far behind it is.
    fn metrics(&self, _end: &Offset) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Waits until something new may be there, where the source can tell; the engine polls the others.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    /// Stops reading ahead and closes connections.
    async fn stop(&self) {}
}

/// Everything that names a source: what `read_stream()` or a table's definition says.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// The format it was registered by, in lower case.
    pub format: String,
    /// The declared schema, if any.
    pub schema: Option<SchemaRef>,
    /// The path or LOCATION, if any.
    pub path: Option<String>,
    /// The options as given.
    pub options: Options,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Makes sources of one format. An application registers its own by name.
#[async_trait]
pub trait SourceProvider: fmt::Debug + Send + Sync {
    /// Returns whether its sources have partitions, which can have watermarks of their own ([`WATERMARK_PER`]).
    fn has_partitions(&self) -> bool {
        false
    }

    /// Returns the schema of the rows that a source made from `spec` gives, checking format and options.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown option or bad value; `InvalidQuery` where a schema is needed and not given;
    /// `Unavailable` where the place does not exist.
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef>;

    /// Makes a source.
    ///
    /// # Errors
    /// As [`SourceProvider::schema`].
    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_options_of_the_engine_are_taken_out() {
        let pairs = [("IDLETIMEOUT", "1 minute 30 seconds"), ("path", "in"), ("watermarkPer", "Partition")];
        let mut options: Options = pairs.into_iter().collect();
        let taken = WatermarkOptions::take(&mut options).unwrap();
        assert_eq!(taken, WatermarkOptions { idle_timeout_ms: Some(90_000), per_partition: Some(true) });
        assert_eq!(WatermarkOptions::take(&mut options).unwrap(), WatermarkOptions::default());
        assert_eq!(WatermarkOptions::default().or(taken), taken);
        options.set(WATERMARK_PER, "topic");
        let error = WatermarkOptions::take(&mut options).unwrap_err();
        assert!(error.to_string().contains("expected source or partition"), "{error}");
        check_options(&options, "json source", &["path"]).unwrap();
        for bad in ["soon", "0 seconds", "-1 second", "30"] {
            options.set(IDLE_TIMEOUT, bad);
            assert_eq!(WatermarkOptions::take(&mut options).unwrap_err().kind(), ErrorKind::InvalidOption, "{bad}");
        }
        options.set("idleTimout", "30 seconds");
        let error = check_options(&options, "json source", &["path"]).unwrap_err();
        assert!(error.to_string().contains("did you mean 'idleTimeout'?"), "{error}");
    }
}
