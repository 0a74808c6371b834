//! `write_stream()`: a DataFrame over a stream becomes a running query.

use std::future::Future;
use std::sync::Arc;

use datafusion::prelude::DataFrame;

use super::Inner;
use super::start::QueryRequest;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::query::{StreamingQuery, Trigger};
use crate::sink::foreach_batch::ForeachBatchSink;
use crate::sink::{OutputMode, Sink};

/// Makes the sink of `foreach_batch` once the session is known.
type MakeSink = Box<dyn FnOnce(&Inner) -> Arc<dyn Sink> + Send>;

/// Says where a stream goes, how and when. Spark's DataStreamWriter.
pub struct DataStreamWriter {
    dataframe: DataFrame,
    format: String,
    mode: OutputMode,
    trigger: Option<Trigger>,
    name: Option<String>,
    partition_by: Vec<String>,
    options: Options,
    own_sink: Option<MakeSink>,
}

impl DataStreamWriter {
    pub(super) fn new(dataframe: DataFrame) -> Self {
        Self {
            dataframe,
            format: "parquet".to_string(),
            mode: OutputMode::Append,
            trigger: None,
            name: None,
            partition_by: Vec::new(),
            options: Options::new(),
            own_sink: None,
        }
    }

    /// Sets the format: parquet, json, csv, console, memory, noop, or one the application registered.
    #[must_use]
    pub fn format(mut self, format: &str) -> Self {
        self.format = format.to_lowercase();
        self
    }

    /// Sets which rows leave in a batch.
    #[must_use]
    pub fn output_mode(mut self, mode: OutputMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets when batches run.
    #[must_use]
    pub fn trigger(mut self, trigger: Trigger) -> Self {
        self.trigger = Some(trigger);
        self
    }

    /// Names the query. With the memory sink this is the table's name.
    #[must_use]
    pub fn query_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_string());
        self
    }

    /// Writes files into folders by these columns.
    #[must_use]
    pub fn partition_by(mut self, columns: &[&str]) -> Self {
        self.partition_by = columns.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets an option of the sink, or `checkpointLocation`.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.options.set(name, value);
        self
    }

    /// Gives every batch to `function`, as a DataFrame and the batch's id.
    ///
    /// At least once: a batch that died is given again, under the same id and over the same input; a function whose
    /// effect is keyed by the id makes it exactly once.
    #[must_use]
    pub fn foreach_batch<F, Fut>(mut self, function: F) -> Self
    where
        F: Fn(DataFrame, i64) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.own_sink =
            Some(Box::new(move |session| Arc::new(ForeachBatchSink::of(session.context.clone(), function))));
        self
    }

    /// Writes into a sink of the application's own.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.own_sink = Some(Box::new(move |_| sink));
        self
    }

    /// Starts the query into `path`; for a sink without one it is empty. When this returns the query runs.
    ///
    /// # Errors
    /// `Unsupported` for a shape that streams, or the sink, cannot do in this output mode; `InvalidOption`;
    /// `CheckpointIncompatible` and `CheckpointCorrupt` where the checkpoint does not fit or is damaged.
    pub async fn start(mut self, path: &str) -> Result<StreamingQuery> {
        let (state, plan) = self.dataframe.clone().into_parts();
        let session = Inner::of(state.config())?;
        let checkpoint = self.options.remove("checkpointLocation");
        let name = self.name.clone().or_else(|| self.options.remove("queryName"));
        if self.format == "memory" && self.own_sink.is_none() && name.is_none() {
            return Err(Error::invalid_option("the memory sink needs query_name(): the name of the table it makes"));
        }
        let settings = session.settings();
        let request = QueryRequest {
            name: name.unwrap_or_else(|| format!("query_{}", &uuid::Uuid::new_v4().simple().to_string()[..8])),
            plan,
            mode: self.mode,
            trigger: self.trigger.unwrap_or(settings.trigger),
            format: self.format,
            path: (!path.is_empty()).then(|| path.to_string()),
            options: self.options,
            partition_by: self.partition_by,
            checkpoint,
            own_sink: self.own_sink.map(|make| make(&session)),
        };
        let query = session.start(request).await?;
        Ok(query)
    }
}
