//! The file sink: Parquet, JSON or CSV files in a directory, each row exactly once for whoever reads the directory.
//!
//! A batch is staged under names that no `*.parquet` glob matches, durably; when the commit log has decided it, the
//! staged files are linked, never replacing, to `part-<query>-<batch>-<part>.parquet`, in `column=value` folders where
//! the table is partitioned, and an entry goes to the table's manifest. A query touches only its own files. A
//! directory that another query writes to is refused, unless the option `shared` says that this is meant.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::JoinSet;

use super::{OutputMode, Prepared, Sink, SinkBatch, SinkContext, SinkProvider, SinkSpec};
use crate::error::{Error, Result};
use crate::storage::manifest::{MANIFEST_FOLDER, Manifest, ManifestFile, Newest};
use crate::storage::{DurableStore, LocalStore, Place, blocking, create_folder};

mod csv;
mod encoder;
mod format;
mod partition;
mod shape;
mod staging;
mod writer;

use format::Settings;
use shape::Shape;
use staging::{Names, STAGING_FOLDER, Token};
use writer::BatchWriter;

/// How many batches of rows may wait for the writer.
const WAITING: usize = 4;

/// Makes file sinks: formats `parquet`, `json` and `csv`.
///
/// Options: `path`, `compression` (Parquet: snappy, zstd, gzip, lz4 or none), `targetFileSize` (128 MB: a larger file
/// is split), `shared` (two queries may write to the directory), `header`, `sep` and `nullValue` (CSV).
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSinkProvider;

#[async_trait]
impl SinkProvider for FileSinkProvider {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        let Some(path) = spec.path.as_deref().or_else(|| spec.options.get("path")) else {
            return Err(Error::invalid_option(format!(
                "the {} sink of '{}' needs a path: give LOCATION or the option 'path'",
                spec.format, spec.name
            )));
        };
        let Place::Local(root) = Place::parse(path)? else {
            return Err(Error::unsupported(format!("'{path}': the file sink writes to local paths and file:// only")));
        };
        let settings = Settings::new(spec)?;
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(&root));
        Ok(Arc::new(FileSink {
            manifest: Manifest::new(Arc::clone(&store)),
            root,
            store,
            shape: Shape::of(&settings, &spec.schema),
            settings: Arc::new(settings),
            context: Mutex::new(None),
            swept: AtomicBool::new(false),
        }))
    }
}

/// A directory that a query appends files to.
pub struct FileSink {
    root: PathBuf,
    store: Arc<dyn DurableStore>,
    manifest: Manifest,
    settings: Arc<Settings>,
    shape: Shape,
    context: Mutex<Option<SinkContext>>,
    /// Whether what undecided batches of earlier runs left was removed.
    swept: AtomicBool,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

impl FileSink {
    fn context(&self) -> Result<SinkContext> {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        context.ok_or_else(|| Error::internal("a file sink was given a batch before it was opened"))
    }

    /// From which batch on every one is in the table, or is missing; and which is the first of this run.
    fn own_batches(&self) -> (i64, i64) {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        context.as_ref().map_or((0, 0), |context| (context.first_batch_id, context.next_batch_id))
    }

    /// Checks that this sink goes on with files as they are in the table.
    fn check_shape(&self, before: Option<&Shape>) -> Result<()> {
        match before.and_then(|before| before.change_to(&self.shape)) {
            Some(change) => Err(Error::incompatible(format!(
                "{} holds files of this query, and {change}: a table holds files of one shape; write to a new table with \
                 a new checkpoint, or go on with the old query",
                self.root.display()
            ))),
            None => Ok(()),
        }
    }

    fn lacks(&self, query_id: &str, missing: i64, needed_by: i64) -> Error {
        Error::corrupt(format!(
            "{}: batch {needed_by} of query {query_id} is to be published, but the table's manifest {MANIFEST_FOLDER}/ \
             lacks batch {missing}: was the directory cleared, or the location changed? restore it, or start with a new \
             checkpoint and a new table",
            self.root.display()
        ))
    }

    /// Removes what undecided batches of earlier runs left, once this run has decided a batch: before, a run that was
    /// fenced may still be deciding the one that what lies there belongs to.
    async fn sweep(&self, batch_id: i64) -> Result<()> {
        let Some(context) = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(()) };
        if batch_id < context.next_batch_id || self.swept.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.unstage(&context, i64::MAX).await
    }

    /// Removes what earlier runs staged of batches up to `last`.
    async fn unstage(&self, context: &SinkContext, last: i64) -> Result<()> {
        for name in self.store.list(STAGING_FOLDER).await? {
            let batch_id = Names::batch_of_earlier_run(&name, &context.query_id, context.run);
            if batch_id.is_some_and(|batch_id| batch_id <= last) {
                self.store.delete(&format!("{STAGING_FOLDER}/{name}")).await?;
            }
        }
        Ok(())
    }

    /// Checks that no other query writes to the directory, or that this is meant.
    fn check_owner(&self, newest: &Newest, query_id: &str) -> Result<()> {
        if self.settings.shared {
            return Ok(());
        }
        match newest.queries().find(|query| *query != query_id) {
            Some(other) => Err(self.belongs_to(other, query_id)),
            None => Ok(()),
        }
    }

    fn belongs_to(&self, other: &str, query_id: &str) -> Error {
        Error::incompatible(format!(
            "{} holds files of query {other}, and this is query {query_id}: choose another directory, or go on with \
             the checkpoint of query {other}, or set the option shared = true if both are to write there",
            self.root.display()
        ))
    }

    /// Checks that the directory holds of this query just what the checkpoint knows of.
    async fn check_progress(&self, newest: &Newest, context: &SinkContext) -> Result<()> {
        let SinkContext { query_id, next_batch_id, first_batch_id, .. } = context;
        let last = newest.last_batch(query_id);
        if let Some(last) = last.filter(|last| last >= next_batch_id) {
            return Err(Error::incompatible(format!(
                "{} holds batch {last} of query {query_id}, and the checkpoint would run from batch {next_batch_id}: \
                 the checkpoint was set back, or its commits/{next_batch_id} is missing; restore that file from a copy, \
                 use the newer checkpoint, or a new directory with a new checkpoint",
                self.root.display()
            )));
        }
        // The last decided batch may wait for being published; all before it are out.
        let missing = last.map_or(0, |last| last + 1).max(*first_batch_id);
        if missing + 1 < *next_batch_id {
            return Err(self.lacks(query_id, missing, next_batch_id - 1));
        }
        if *next_batch_id > 0 {
            return Ok(());
        }
        let without_manifest = newest.queries().next().is_none();
        let root = self.root.clone();
        let Some(found) = blocking(move || staging::published_queries(&root)).await?.into_iter().find(|short| {
            // Without a manifest the names alone tell whose files they are.
            *short == Names::short_id(query_id) || (without_manifest && !self.settings.shared)
        }) else {
            return Ok(());
        };
        Err(self.belongs_to(&format!("{found}…"), query_id).context("a fresh checkpoint"))
    }
}

#[async_trait]
impl Sink for FileSink {
    fn description(&self) -> String {
        let path = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        format!("FileSink[file://{}]", path.display())
    }

    fn supports(&self, mode: OutputMode) -> bool {
        mode == OutputMode::Append
    }

    async fn open(&self, context: &SinkContext) -> Result<()> {
        if self.root.exists() && !self.root.is_dir() {
            return Err(Error::unavailable(format!(
                "{} is a file; the file sink writes to a directory",
                self.root.display()
            )));
        }
        self.manifest.verify().await?;
        let newest = self.manifest.newest().await?;
        self.check_owner(&newest, &context.query_id)?;
        self.check_progress(&newest, context).await?;
        let root = self.root.clone();
        blocking(move || create_folder(&root.join(STAGING_FOLDER), &root)).await?;
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.clone());
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let context = self.context()?;
        if !self.supports(batch.mode) {
            return Err(Error::unsupported(format!("the file sink knows output mode append only, not {}", batch.mode)));
        }
        let names = Names::new(&context.query_id, batch.batch_id, batch.run, self.settings.format.extension());
        let writer = BatchWriter::new(&self.root, names, Arc::clone(&self.settings), &batch.schema)?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut readers = JoinSet::new();
        for partition in batch.partitions {
            readers.spawn(forward(partition, sender.clone()));
        }
        drop(sender);
        let files = blocking(move || writer.write_all(receiver)).await?;
        // The rows of a task that panicked are missing without an error in the channel.
        while let Some(reader) = readers.join_next().await {
            reader.map_err(|error| Error::internal(format!("a task of batch {} died: {error}", batch.batch_id)))?;
        }
        let rows = files.iter().map(|file| file.rows).sum();
        let token = serde_json::to_value(Token { query_id: context.query_id, files, shape: Some(self.shape.clone()) })?;
        fail::fail_point!("sink.prepared");
        Ok(Prepared { token, rows })
    }

    async fn publish(&self, batch_id: i64, token: &serde_json::Value) -> Result<()> {
        let Token { query_id, files, shape } = serde_json::from_value(token.clone()).map_err(|error| {
            Error::incompatible(format!(
                "batch {batch_id} was not written by the file sink of {} ({error}): the query's sink changed, and the \
                 table would lack what came before; use the old sink, or a new checkpoint",
                self.root.display()
            ))
        })?;
        let (first_batch_id, next_batch_id) = self.own_batches();
        let is_earlier = batch_id < next_batch_id;
        if is_earlier {
            self.check_shape(shape.as_ref())?;
        }
        let newest = self.manifest.newest().await?;
        self.check_owner(&newest, &query_id)?;
        let last = newest.last_batch(&query_id).unwrap_or(-1);
        if last >= batch_id {
            // What is published needs nothing staged, whoever staged it.
            return self.unstage(&self.context()?, last).await;
        }
        if last + 1 < batch_id && batch_id > first_batch_id {
            return Err(self.lacks(&query_id, last + 1, batch_id));
        }
        let root = self.root.clone();
        if is_earlier {
            let (root, files) = (root.clone(), files.clone());
            blocking(move || staging::verify(&root, batch_id, &files)).await?;
        }
        let published: Vec<ManifestFile> = files.iter().map(staging::StagedFile::published).collect();
        blocking(move || staging::publish(&root, &files)).await?;
        fail::fail_point!("sink.published");
        if !self.manifest.add_after(&newest, &query_id, batch_id, &published).await? {
            self.manifest.add(&query_id, batch_id, published).await?;
        }
        fail::fail_point!("manifest.written");
        self.sweep(batch_id).await
    }
}

/// Runs one partition and hands its rows to the writer; stops at the first error.
async fn forward(mut partition: SendableRecordBatchStream, sender: Sender<Result<RecordBatch, DataFusionError>>) {
    while let Some(rows) = partition.next().await {
        let failed = rows.is_err();
        if sender.send(rows).await.is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
