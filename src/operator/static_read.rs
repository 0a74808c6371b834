//! The leaf that reads a table that is not a stream: its files are listed afresh in every batch, or once an interval
//! where the table has one, and read again only when the listing changed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result as PlanResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::batch_context::BatchContext;
use super::leaf::{plain_node, properties};
use crate::error::Result;
use crate::interval::duration_us;
use crate::options::{Options, bad_value};
use crate::source::file::{FileEntry, FileFormat, list_files_with};
use crate::source::{MalformedRows, ReadContext};

/// A table of files.
#[derive(Debug, Clone)]
pub struct StaticFiles {
    /// A directory, file or glob.
    pub path: String,
    /// Options of the listing (`pathGlobFilter`, `recursiveFileLookup`).
    pub options: Options,
    /// How to read one.
    pub format: Arc<FileFormat>,
    /// How long a listing serves the batches of a stream, in milliseconds; `None`: each batch lists.
    pub refresh_ms: Option<i64>,
}

/// The option that says how long a listing serves.
const REFRESH_INTERVAL: &str = "refreshInterval";

/// Takes the option `refreshInterval` out of `options`, in milliseconds.
///
/// # Errors
/// `InvalidOption` where it is no length of time.
pub fn take_refresh_interval(options: &mut Options) -> Result<Option<i64>> {
    let Some(value) = options.remove(REFRESH_INTERVAL) else {
        return Ok(None);
    };
    match duration_us(&value) {
        Ok(us) if us > 0 => Ok(Some((us / 1000).max(1))),
        _ => Err(bad_value(REFRESH_INTERVAL, &value, "a length of time such as '10 minutes'")),
    }
}

/// What the last batch read. It can always be read again, so this is no state.
#[derive(Debug, Clone)]
struct Cached {
    /// When the files were listed.
    listed_ms: i64,
    listing: Vec<FileEntry>,
    rows: Vec<RecordBatch>,
}

impl Cached {
    /// Whether the listing still serves; where the clock went back it does not.
    fn is_fresh(&self, refresh_ms: Option<i64>, now_ms: i64) -> bool {
        refresh_ms.is_some_and(|refresh_ms| (0..refresh_ms).contains(&(now_ms - self.listed_ms)))
    }
}

type Cache = Mutex<Option<Cached>>;

/// Reads all rows of a table of files, as it is when the batch runs.
#[derive(Debug)]
pub struct StaticReadExec {
    files: StaticFiles,
    projection: Option<Vec<usize>>,
    cache: Arc<Cache>,
    properties: Arc<PlanProperties>,
}

impl StaticReadExec {
    /// Makes the leaf; `schema` is projected already.
    pub fn new(files: StaticFiles, schema: SchemaRef, projection: Option<Vec<usize>>) -> Self {
        Self { files, projection, cache: Arc::default(), properties: properties(schema, 1) }
    }

    fn over(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }
}

impl DisplayAs for StaticReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticReadExec: {}", self.files.path)
    }
}

impl ExecutionPlan for StaticReadExec {
    plain_node!("StaticReadExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    /// Little, inexactly: beside a stream this is the side a join builds its table from.
    #[allow(deprecated)]
    fn partition_statistics(&self, _partition: Option<usize>) -> PlanResult<Arc<Statistics>> {
        Ok(Arc::new(Statistics {
            num_rows: Precision::Inexact(1000),
            total_byte_size: Precision::Inexact(100_000),
            column_statistics: vec![ColumnStatistics::new_unknown(); self.schema().fields().len()],
        }))
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let (files, projection, cache) = (self.files.clone(), self.projection.clone(), Arc::clone(&self.cache));
        let batch_size = context.session_config().batch_size();
        let batch = context.session_config().get_extension::<BatchContext>();
        let rows = async move {
            let Some(batch) = batch else {
                let listing = list_files_with(&files.path, &files.options).await?;
                return read(files, listing, projection, batch_size);
            };
            let now_ms = batch.clock.now_ms();
            let cached = cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let cached = match cached {
                Some(cached) if cached.is_fresh(files.refresh_ms, now_ms) => cached,
                cached => {
                    let listing = list_files_with(&files.path, &files.options).await?;
                    let rows: Vec<RecordBatch> = match cached {
                        Some(cached) if cached.listing == listing => cached.rows,
                        _ => read(files, listing.clone(), projection, batch_size)?.try_collect().await?,
                    };
                    Cached { listed_ms: now_ms, listing, rows }
                }
            };
            let rows = cached.rows.clone();
            *cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(cached);
            Ok(futures::stream::iter(rows.into_iter().map(Ok)).boxed())
        };
        let rows = futures::stream::once(rows).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.boxed())))
    }
}

fn read(
    files: StaticFiles,
    listing: Vec<FileEntry>,
    projection: Option<Vec<usize>>,
    batch_size: usize,
) -> PlanResult<futures::stream::BoxStream<'static, PlanResult<RecordBatch>>> {
    let context =
        ReadContext { projection, batch_size, filter: None, malformed_rows: Arc::new(MalformedRows::default()) };
    let streams = futures::stream::iter(listing)
        .map(move |file| files.format.read(&file, context.clone()).map_err(datafusion::common::DataFusionError::from));
    Ok(streams.try_flatten().boxed())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::prelude::SessionConfig;
    use object_store::memory::InMemory;

    use super::super::batch_context::StateLanes;
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::sink::OutputMode;
    use crate::storage::ObjectBackedStore;

    /// The rows that a batch at the clock's time reads.
    async fn rows(leaf: &StaticReadExec, clock: &Arc<ManualClock>) -> usize {
        let store = ObjectBackedStore::new(Arc::new(InMemory::new()), object_store::path::Path::default());
        let state = Arc::new(StateLanes {
            lanes: 1,
            limited: false,
            store: Arc::new(store),
            stores: Vec::new(),
            keys_repeat: Vec::new(),
        });
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
        let batch = BatchContext::new(0, 0, OutputMode::Append, vec![], vec![], 0, state, clock, 0, false);
        let config = SessionConfig::new().with_extension(Arc::new(batch));
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let batches: Vec<RecordBatch> = leaf.execute(0, context).unwrap().try_collect().await.unwrap();
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[tokio::test]
    async fn files_are_listed_anew_when_the_interval_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(folder.path().join(name), "{\"id\":1}\n").unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let format = FileFormat::open("json", Some(Arc::clone(&schema)), &Options::new(), &[]).await.unwrap();
        let path = folder.path().display().to_string();
        let leaf = |refresh_ms| {
            let files =
                StaticFiles { path: path.clone(), options: Options::new(), format: Arc::clone(&format), refresh_ms };
            StaticReadExec::new(files, Arc::clone(&schema), None)
        };
        let (always, hourly) = (leaf(None), leaf(Some(3_600_000)));
        let clock = Arc::new(ManualClock::new(1_000));
        put("a.json");
        assert_eq!((rows(&always, &clock).await, rows(&hourly, &clock).await), (1, 1));
        put("b.json");
        clock.advance_ms(3_599_999);
        assert_eq!((rows(&always, &clock).await, rows(&hourly, &clock).await), (2, 1));
        clock.advance_ms(1);
        assert_eq!(rows(&hourly, &clock).await, 2);
        put("c.json");
        clock.set_ms(0);
        assert_eq!(rows(&hourly, &clock).await, 3);
    }

    #[test]
    fn the_interval_is_a_length_of_time() {
        let read = |value: &str| take_refresh_interval(&mut [("refreshinterval", value)].into_iter().collect());
        assert_eq!(read("10 minutes").unwrap(), Some(600_000));
        assert_eq!(take_refresh_interval(&mut Options::new()).unwrap(), None);
        for bad in ["0 seconds", "-1 hour", "often"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("'refreshInterval'") && error.contains(bad), "{error}");
        }
    }
}
