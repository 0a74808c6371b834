//! Output, keyed by batch id.
//!
//! A sink *prepares* a batch (durable, not yet visible); the commit log decides; the sink *publishes* it. Publishing
//! is idempotent, since recovery publishes the last decided batch again. A sink that cannot stage has its effect in
//! `prepare` and says in its docs what that promises.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::SendableRecordBatchStream;

use crate::clock::Clock;
use crate::error::Result;
use crate::options::Options;

pub mod console;
pub mod file;
pub mod foreach_batch;
pub(crate) mod json_rows;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
pub mod noop;
pub mod view;

/// Which rows of the result leave in a batch. The words are Spark's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutputMode {
    /// Rows that will never change again.
    #[default]
    Append,
    /// Rows that changed in this batch.
    Update,
    /// The whole result.
    Complete,
}

impl fmt::Display for OutputMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Update => "update",
            Self::Complete => "complete",
        })
    }
}

impl std::str::FromStr for OutputMode {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_lowercase().as_str() {
            "append" => Ok(Self::Append),
            "update" => Ok(Self::Update),
            "complete" => Ok(Self::Complete),
            _ => Err(crate::error::Error::invalid_option(format!(
                "output mode '{text}' is unknown: expected append, update or complete"
            ))),
        }
    }
}

/// One batch on its way out.
pub struct SinkBatch {
    /// The batch's id.
    pub batch_id: i64,
    /// The run that writes it: part of every staged file's name.
    pub run: u64,
    /// Which rows these are.
    pub mode: OutputMode,
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// The rows, one stream a partition, to be read to the end. Order of arrival is (partition, row).
    pub partitions: Vec<SendableRecordBatchStream>,
}

/// What a sink has made durable but not visible.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// What [`Sink::publish`] needs; the commit log keeps it.
    pub token: serde_json::Value,
    /// The number of rows.
    pub rows: u64,
}

/// What a sink is told before its first batch.
#[derive(Debug, Clone)]
pub struct SinkContext {
    /// The query's id: the same in every run on one checkpoint.
    pub query_id: String,
    /// The flow's or query's name; that of the sink of its late rows has `-late` behind it.
    pub name: String,
    /// The run's number: names of what is staged carry it.
    pub run: u64,
    /// The first batch that is not yet decided. Zero on a fresh checkpoint.
    pub next_batch_id: i64,
    /// From which batch on the sink was given every one. Zero, unless the query had run without the sink before.
    pub first_batch_id: i64,
    /// Whether an earlier run began `next_batch_id` and did not decide it: the batch may have had its effect, and runs again.
    pub in_doubt: bool,
}

/// Where a query's rows go.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// Returns a line for progress reports, such as `FileSink[file:///out/delays]`. What stands before the bracket says
    /// which sink it is: a query that is started again with another is refused where batches may wait in the old one.
    fn description(&self) -> String;

    /// Returns whether rows of `mode` can leave here.
    fn supports(&self, mode: OutputMode) -> bool;

    /// Returns whether what it promises needs a checkpoint that outlives the process.
    fn needs_checkpoint(&self) -> bool {
        false
    }

    /// Prepares for the first batch of a run and removes what an undecided batch left.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where the place holds what this checkpoint does not know of.
    async fn open(&self, context: &SinkContext) -> Result<()>;

    /// Reads the batch to its end and makes it durable, not yet visible.
    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared>;

    /// Makes a decided batch visible. Done again it changes nothing.
    async fn publish(&self, batch_id: i64, token: &serde_json::Value) -> Result<()>;

    /// Closes what is open.
    async fn stop(&self) {}
}

/// Everything that names a sink: what `write_stream()` or a table's definition says.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    /// The format it was registered by, in lower case.
    pub format: String,
    /// The path or LOCATION, if any.
    pub path: Option<String>,
    /// The options as given.
    pub options: Options,
    /// The columns of PARTITIONED BY.
    pub partition_by: Vec<String>,
    /// The schema of the rows that will come.
    pub schema: SchemaRef,
    /// The flow's or query's name.
    pub name: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Makes sinks of one format. An application registers its own by name.
#[async_trait]
pub trait SinkProvider: fmt::Debug + Send + Sync {
    /// Makes a sink.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown option or bad value; `InvalidQuery` where the rows do not fit.
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>>;
}
