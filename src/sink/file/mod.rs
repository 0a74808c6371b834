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
use crate::storage::manifest::{Manifest, ManifestFile};
use crate::storage::{DurableStore, LocalStore, Place, blocking, create_folder};

mod csv;
mod encoder;
mod format;
mod partition;
mod staging;
mod writer;

use format::Settings;
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

    /// From which batch on every one is in the table, or is missing.
    fn first_batch_id(&self) -> i64 {
        self.context.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |context| context.first_batch_id)
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
    async fn check_owner(&self, query_id: &str) -> Result<()> {
        if self.settings.shared {
            return Ok(());
        }
        match self.manifest.queries().await?.iter().find(|query| *query != query_id) {
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
    async fn check_progress(&self, context: &SinkContext) -> Result<()> {
        let SinkContext { query_id, next_batch_id, .. } = context;
        if let Some(last) = self.manifest.last_batch(query_id).await?.filter(|last| last >= next_batch_id) {
            return Err(Error::incompatible(format!(
                "{} holds batch {last} of query {query_id}, and the checkpoint would run from batch {next_batch_id}: \
                 the checkpoint was set back; use the newer checkpoint, or a new directory with a new checkpoint",
                self.root.display()
            )));
        }
        if *next_batch_id > 0 {
            return Ok(());
        }
        let without_manifest = self.manifest.queries().await?.is_empty();
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
        self.check_owner(&context.query_id).await?;
        self.check_progress(context).await?;
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
        let token = serde_json::to_value(Token { query_id: context.query_id, files })?;
        fail::fail_point!("sink.prepared");
        Ok(Prepared { token, rows })
    }

    async fn publish(&self, batch_id: i64, token: &serde_json::Value) -> Result<()> {
        let Token { query_id, files } = serde_json::from_value(token.clone()).map_err(|error| {
            Error::corrupt(format!(
                "batch {batch_id}: what the commit log holds for the file sink {} is not what it wrote ({error}); was \
                 the query's sink changed? choose a new checkpoint",
                self.root.display()
            ))
        })?;
        self.check_owner(&query_id).await?;
        let last = self.manifest.last_batch(&query_id).await?.unwrap_or(-1);
        if last >= batch_id {
            // What is published needs nothing staged, whoever staged it.
            return self.unstage(&self.context()?, last).await;
        }
        if last + 1 < batch_id && batch_id > self.first_batch_id() {
            return Err(Error::corrupt(format!(
                "{}: batch {batch_id} of query {query_id} is to be published, but the table's manifest lacks batch {}: \
                 was the directory cleared or the location changed? restore it, or start with a new checkpoint",
                self.root.display(),
                last + 1
            )));
        }
        let root = self.root.clone();
        let published: Vec<ManifestFile> = files.iter().map(staging::StagedFile::published).collect();
        blocking(move || staging::publish(&root, &files)).await?;
        fail::fail_point!("sink.published");
        self.manifest.add(&query_id, batch_id, published).await?;
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
mod tests {
    use std::fs;
    use std::path::Path;

    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;

    const QUERY: &str = "7a1b22cc-0000-4000-8000-000000000000";
    const OTHER: &str = "99999999-0000-4000-8000-000000000000";

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("origin", DataType::Utf8, true), Field::new("n", DataType::Int64, false)]))
    }

    async fn create(
        root: &Path,
        format: &str,
        partition_by: &[&str],
        options: &[(&str, &str)],
    ) -> Result<Arc<dyn Sink>> {
        let spec = SinkSpec {
            format: format.to_string(),
            path: Some(root.display().to_string()),
            options: options.iter().copied().collect(),
            partition_by: partition_by.iter().map(|column| (*column).to_string()).collect(),
            schema: schema(),
            name: "delays".to_string(),
            clock: Arc::new(ManualClock::new(0)),
        };
        FileSinkProvider.create(&spec).await
    }

    async fn open(sink: &Arc<dyn Sink>, query_id: &str, next_batch_id: i64) -> Result<()> {
        let (query_id, name) = (query_id.to_string(), "delays".to_string());
        sink.open(&SinkContext { query_id, name, run: 1, next_batch_id, first_batch_id: 0 }).await
    }

    async fn opened(root: &Path, format: &str, partition_by: &[&str], options: &[(&str, &str)]) -> Arc<dyn Sink> {
        let sink = create(root, format, partition_by, options).await.unwrap();
        open(&sink, QUERY, 0).await.unwrap();
        sink
    }

    /// A batch of two partitions: rows 0..count, and as many again.
    fn batch(batch_id: i64, origins: &[Option<&str>]) -> SinkBatch {
        let partition = || -> SendableRecordBatchStream {
            let batches: Vec<Result<RecordBatch, DataFusionError>> = origins
                .chunks(2)
                .map(|chunk| {
                    let numbers = Int64Array::from_iter_values(0..chunk.len() as i64);
                    let origins = StringArray::from(chunk.to_vec());
                    let columns: Vec<ArrayRef> = vec![Arc::new(origins), Arc::new(numbers)];
                    RecordBatch::try_new(schema(), columns).map_err(DataFusionError::from)
                })
                .collect();
            Box::pin(RecordBatchStreamAdapter::new(schema(), futures::stream::iter(batches)))
        };
        let partitions = vec![partition(), partition()];
        SinkBatch { batch_id, run: 1, mode: OutputMode::Append, schema: schema(), partitions }
    }

    /// All files below `folder`, without what begins with `_`: what a plain reader sees.
    fn visible(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "_millstream" {
                found.extend(visible(&path));
            } else if path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn staged(root: &Path) -> usize {
        fs::read_dir(root.join(STAGING_FOLDER)).unwrap().count()
    }

    fn parquet_rows(path: &Path) -> usize {
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap();
        reader.map(|rows| rows.unwrap().num_rows()).sum()
    }

    #[tokio::test]
    async fn a_batch_appears_when_it_is_published_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let sink = opened(root, "parquet", &["origin"], &[]).await;
        let prepared = sink.prepare(batch(0, &[Some("JFK"), None, Some("a/../b"), Some("JFK")])).await.unwrap();
        assert_eq!(prepared.rows, 8);
        assert_eq!(visible(root), Vec::<PathBuf>::new());
        assert_eq!(staged(root), 3);
        sink.publish(0, &prepared.token).await.unwrap();
        let first = visible(root);
        sink.publish(0, &prepared.token).await.unwrap();
        assert_eq!(visible(root), first);
        assert_eq!(staged(root), 0);
        let folders: Vec<String> = first
            .iter()
            .map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(folders, ["origin=JFK", "origin=__HIVE_DEFAULT_PARTITION__", "origin=a%2F%2E%2E%2Fb"]);
        assert!(first[0].file_name().unwrap().to_string_lossy().starts_with("part-7a1b22cc-00000-"));
        assert_eq!(first.iter().map(|path| parquet_rows(path)).sum::<usize>(), 8);
        let entries = Manifest::new(Arc::new(LocalStore::new(root))).entries().await.unwrap().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].files.iter().map(|file| file.rows).sum::<u64>(), 8);
    }

    #[tokio::test]
    async fn publishing_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let sink = opened(root, "parquet", &["origin"], &[]).await;
        let prepared = sink.prepare(batch(0, &[Some("JFK"), Some("LGA")])).await.unwrap();
        let token: Token = serde_json::from_value(prepared.token.clone()).unwrap();
        staging::publish(root, &token.files[..1]).unwrap();
        let again = create(root, "parquet", &["origin"], &[]).await.unwrap();
        again.publish(0, &prepared.token).await.unwrap();
        assert_eq!(visible(root).len(), 2);
        open(&again, QUERY, 1).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_committed_and_gone_or_cut_is_named() {
        for cut in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let sink = opened(dir.path(), "json", &[], &[]).await;
            let prepared = sink.prepare(batch(0, &[Some("JFK")])).await.unwrap();
            let token: Token = serde_json::from_value(prepared.token.clone()).unwrap();
            let staged = dir.path().join(&token.files[0].staged);
            if cut {
                fs::write(staged, "{").unwrap();
            } else {
                fs::remove_file(staged).unwrap();
            }
            let error = sink.publish(0, &prepared.token).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
            assert!(error.message().contains("7a1b22cc-00000-"), "{error}");
            assert_eq!(visible(dir.path()), Vec::<PathBuf>::new());
        }
    }

    #[tokio::test]
    async fn an_undecided_batch_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let sink = opened(dir.path(), "json", &[], &[]).await;
        sink.prepare(batch(0, &[Some("JFK")])).await.unwrap();
        let strangers = dir.path().join(STAGING_FOLDER).join("99999999-00000-1-0.staged");
        fs::write(&strangers, "").unwrap();
        let again = create(dir.path(), "json", &[], &[]).await.unwrap();
        let (query_id, name) = (QUERY.to_string(), "delays".to_string());
        again.open(&SinkContext { query_id, name, run: 2, next_batch_id: 0, first_batch_id: 0 }).await.unwrap();
        // The first run may still be deciding the batch: what it staged stays until the second has decided one.
        assert_eq!(staged(dir.path()), 2);
        let prepared = again.prepare(SinkBatch { run: 2, ..batch(0, &[Some("JFK")]) }).await.unwrap();
        again.publish(0, &prepared.token).await.unwrap();
        assert_eq!(visible(dir.path()).len(), 1);
        assert_eq!(staged(dir.path()), 1);
        assert!(strangers.exists());
    }

    #[tokio::test]
    async fn a_batch_without_rows_is_an_entry_without_files() {
        let dir = tempfile::tempdir().unwrap();
        let sink = opened(dir.path(), "parquet", &[], &[]).await;
        let prepared = sink.prepare(batch(0, &[])).await.unwrap();
        sink.publish(0, &prepared.token).await.unwrap();
        assert_eq!(visible(dir.path()), Vec::<PathBuf>::new());
        let manifest = Manifest::new(Arc::new(LocalStore::new(dir.path())));
        assert_eq!(manifest.last_batch(QUERY).await.unwrap(), Some(0));
        let error = sink.publish(2, &prepared.token).await.unwrap_err();
        assert!(error.message().contains("lacks batch 1"), "{error}");
    }

    #[tokio::test]
    async fn a_sink_may_join_a_query_that_has_run() {
        let dir = tempfile::tempdir().unwrap();
        let sink = create(dir.path(), "parquet", &[], &[]).await.unwrap();
        let (query_id, name) = (QUERY.to_string(), "delays".to_string());
        sink.open(&SinkContext { query_id, name, run: 1, next_batch_id: 7, first_batch_id: 7 }).await.unwrap();
        for batch_id in 7..9 {
            let prepared = sink.prepare(batch(batch_id, &[Some("JFK")])).await.unwrap();
            sink.publish(batch_id, &prepared.token).await.unwrap();
        }
        assert_eq!(visible(dir.path()).len(), 2);
        let prepared = sink.prepare(batch(10, &[])).await.unwrap();
        let error = sink.publish(10, &prepared.token).await.unwrap_err();
        assert!(error.message().contains("lacks batch 9"), "{error}");
    }

    #[tokio::test]
    async fn large_files_are_split_and_small_ones_are_not() {
        for (size, files) in [("1", 4), ("1MB", 1)] {
            let dir = tempfile::tempdir().unwrap();
            let sink = opened(dir.path(), "csv", &[], &[("targetFileSize", size), ("header", "true")]).await;
            let origins = [Some("JFK"), Some("LGA"), Some("EWR"), Some("JFK")];
            let prepared = sink.prepare(batch(0, &origins)).await.unwrap();
            sink.publish(0, &prepared.token).await.unwrap();
            let found = visible(dir.path());
            assert_eq!(found.len(), files);
            let text: String = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
            assert_eq!(text.matches("origin,n\n").count(), files);
            assert_eq!(text.matches("JFK,").count(), 4);
        }
    }

    #[tokio::test]
    async fn a_failed_partition_fails_the_batch_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let sink = opened(dir.path(), "json", &[], &[]).await;
        let mut rows = batch(0, &[Some("JFK")]);
        let failure: Result<RecordBatch, DataFusionError> = Err(Error::unavailable("the source went away").into());
        let failing = futures::stream::iter(vec![failure]);
        rows.partitions.push(Box::pin(RecordBatchStreamAdapter::new(schema(), failing)));
        let error = sink.prepare(rows).await.unwrap_err();
        assert_eq!(error.message(), "the source went away");
        assert_eq!(staged(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_directory_of_another_query_is_refused_unless_shared() {
        let dir = tempfile::tempdir().unwrap();
        let sink = opened(dir.path(), "parquet", &[], &[]).await;
        let prepared = sink.prepare(batch(0, &[Some("JFK")])).await.unwrap();
        sink.publish(0, &prepared.token).await.unwrap();
        let error = open(&sink, OTHER, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        assert!(error.message().contains(QUERY) && error.message().contains("shared = true"), "{error}");
        let shared = create(dir.path(), "parquet", &[], &[("shared", "true")]).await.unwrap();
        open(&shared, OTHER, 0).await.unwrap();
        let set_back = open(&sink, QUERY, 0).await.unwrap_err();
        assert!(set_back.message().contains("set back"), "{set_back}");
        open(&sink, QUERY, 1).await.unwrap();
        // Without the manifest the names of the files still tell.
        fs::remove_dir_all(dir.path().join("_millstream")).unwrap();
        for query in [QUERY, OTHER] {
            assert_eq!(open(&sink, query, 0).await.unwrap_err().kind(), ErrorKind::CheckpointIncompatible);
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_the_first_batch() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |result: Result<Arc<dyn Sink>>| result.unwrap_err().kind();
        let root = dir.path();
        assert_eq!(kind(create(root, "parquet", &["nothing"], &[]).await), ErrorKind::InvalidQuery);
        assert_eq!(kind(create(root, "parquet", &["origin", "n"], &[]).await), ErrorKind::InvalidQuery);
        assert_eq!(kind(create(root, "parquet", &[], &[("compresion", "zstd")]).await), ErrorKind::InvalidOption);
        assert_eq!(kind(create(root, "json", &[], &[("compression", "gzip")]).await), ErrorKind::InvalidOption);
        assert_eq!(kind(create(root, "csv", &[], &[("sep", "\"")]).await), ErrorKind::InvalidOption);
        assert_eq!(kind(create(root, "csv", &[], &[("nullValue", "a,b")]).await), ErrorKind::InvalidOption);
        assert_eq!(kind(create(Path::new("s3://b/t"), "json", &[], &[]).await), ErrorKind::Unsupported);
        fs::write(root.join("file"), "").unwrap();
        let sink = create(&root.join("file"), "json", &[], &[]).await.unwrap();
        assert_eq!(open(&sink, QUERY, 0).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(!sink.supports(OutputMode::Update) && !sink.supports(OutputMode::Complete));
    }
}
