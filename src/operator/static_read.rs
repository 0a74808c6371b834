//! The leaf that reads a table that is not a stream: its files are listed afresh in every batch, and read again only
//! when the listing changed.

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
use crate::options::Options;
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
}

type Cache = Mutex<Option<(Vec<FileEntry>, Vec<RecordBatch>)>>;

/// Reads all rows of a table of files, as it is when the batch runs.
#[derive(Debug)]
pub struct StaticReadExec {
    files: StaticFiles,
    projection: Option<Vec<usize>>,
    /// What the last batch read. It can always be read again, so this is no state.
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
        let in_stream = context.session_config().get_extension::<BatchContext>().is_some();
        let rows = async move {
            let listing = list_files_with(&files.path, &files.options).await?;
            if !in_stream {
                return read(files, listing, projection, batch_size);
            }
            let cached = cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some((known, rows)) = cached
                && known == listing
            {
                return Ok(futures::stream::iter(rows.into_iter().map(Ok)).boxed());
            }
            let rows: Vec<RecordBatch> = read(files, listing.clone(), projection, batch_size)?.try_collect().await?;
            *cache.lock().unwrap_or_else(PoisonError::into_inner) = Some((listing, rows.clone()));
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
    let context = ReadContext { projection, batch_size, malformed_rows: Arc::new(MalformedRows::default()) };
    let streams = futures::stream::iter(listing)
        .map(move |file| files.format.read(&file, context.clone()).map_err(datafusion::common::DataFusionError::from));
    Ok(streams.try_flatten().boxed())
}
