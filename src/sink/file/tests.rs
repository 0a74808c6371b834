//! Tests of the file sink as the engine uses it: prepare, publish, and what it refuses.

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

async fn create(root: &Path, format: &str, partition_by: &[&str], options: &[(&str, &str)]) -> Result<Arc<dyn Sink>> {
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
    sink.open(&SinkContext { query_id, name, run: 1, next_batch_id, first_batch_id: 0, in_doubt: false }).await
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
    let folders: Vec<String> =
        first.iter().map(|path| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()).collect();
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
    again
        .open(&SinkContext { query_id, name, run: 2, next_batch_id: 0, first_batch_id: 0, in_doubt: false })
        .await
        .unwrap();
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
    sink.open(&SinkContext { query_id, name, run: 1, next_batch_id: 7, first_batch_id: 7, in_doubt: false })
        .await
        .unwrap();
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
