//! `write_stream()`: a DataFrame over a stream becomes a running query.

use std::future::Future;
use std::sync::Arc;

use datafusion::prelude::DataFrame;

use super::Inner;
use super::catalog::MEMORY;
use super::late_rows::{LateTarget, check_apart, not_apart};
use super::start::QueryRequest;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::query::late_rows::late_columns;
use crate::query::{StreamingQuery, Trigger};
use crate::sink::foreach_batch::ForeachBatchSink;
use crate::sink::memory::MemorySink;
use crate::sink::{OutputMode, Sink};
use crate::storage::DurableStore;

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
    own_checkpoint: Option<Arc<dyn DurableStore>>,
    late_rows: LateRowsWriter,
}

/// Where late rows go, as far as it has been said.
#[derive(Default)]
struct LateRowsWriter {
    /// Format and path.
    place: Option<(String, String)>,
    options: Options,
    own_sink: Option<Arc<dyn Sink>>,
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
            own_checkpoint: None,
            late_rows: LateRowsWriter::default(),
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

    /// Keeps the checkpoint in a store of the application's own, instead of a `checkpointLocation`.
    #[must_use]
    pub fn checkpoint_store(mut self, store: Arc<dyn DurableStore>) -> Self {
        self.own_checkpoint = Some(store);
        self
    }

    /// Writes the rows that come too late to a place of their own; without it they are only counted. There is one row
    /// for each, with the query's name, the operator, the watermark, the batch's id, and the row itself as JSON. They
    /// become visible with their batch.
    ///
    /// `format` and `path` are as for the query's own rows; for the memory sink `path` is the name of the table.
    ///
    /// ```no_run
    /// # use millstream::prelude::*;
    /// # async fn run(counts: DataFrame) -> Result<(), Error> {
    /// let query = counts.write_stream().late_rows_to("json", "out/late_clicks").start("out/clicks").await?;
    /// # query.await_termination().await }
    /// ```
    #[must_use]
    pub fn late_rows_to(mut self, format: &str, path: &str) -> Self {
        self.late_rows.place = Some((format.to_lowercase(), path.to_string()));
        self
    }

    /// Sets an option of the sink that [`DataStreamWriter::late_rows_to`] names.
    #[must_use]
    pub fn late_rows_option(mut self, name: &str, value: impl ToString) -> Self {
        self.late_rows.options.set(name, value);
        self
    }

    /// Writes late rows into a sink of the application's own, such as a
    /// [`ForeachBatchSink`].
    #[must_use]
    pub fn late_rows_sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.late_rows.own_sink = Some(sink);
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
        if self.format == MEMORY && name.is_some() && self.late_rows.memory_table() == name.as_deref() {
            return Err(not_apart("the query", name.as_deref().unwrap_or_default()));
        }
        let late_rows = self.late_rows.target(&session).await?;
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
            own_checkpoint: self.own_checkpoint,
            late_rows,
        };
        check_apart(&request, "")?;
        let query = session.start(request).await?;
        Ok(query)
    }
}

impl LateRowsWriter {
    /// Returns the name of the table in memory that late rows go to, where they do.
    fn memory_table(&self) -> Option<&str> {
        self.place.as_ref().filter(|(format, _)| format == MEMORY).map(|(_, table)| table.as_str())
    }

    /// Returns the table of late rows, where one was asked for.
    async fn target(self, session: &Inner) -> Result<Option<LateTarget>> {
        let columns = late_columns();
        let (format, path, own_sink) = match (self.place, self.own_sink) {
            (None, None) if self.options.is_empty() => return Ok(None),
            (None, None) => {
                return Err(Error::invalid_option("late_rows_option() is for late_rows_to(): say where late rows go"));
            }
            (_, Some(sink)) => ("a sink of the application's own".to_string(), String::new(), Some(sink)),
            (Some((format, path)), None) if format == MEMORY => {
                if path.is_empty() {
                    return Err(Error::invalid_option(
                        "late_rows_to(\"memory\", …) needs the name of the table it makes",
                    ));
                }
                let table = session.memory_table(&path.as_str().into(), &columns).await?;
                (format, path, Some(Arc::new(MemorySink::new(table)) as Arc<dyn Sink>))
            }
            (Some((format, path)), None) => (format, path, None),
        };
        let is_place = own_sink.is_none() && !path.is_empty();
        Ok(Some(LateTarget {
            table: if path.is_empty() { format.clone() } else { path.clone() },
            path: is_place.then_some(path),
            format,
            options: self.options,
            partition_by: Vec::new(),
            columns,
            own_sink,
        }))
    }
}
