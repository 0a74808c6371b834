//! Reads Parquet: only the wanted columns are fetched, found by name and cast to their declared types.

use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderOptions;
use ::parquet::arrow::async_reader::AsyncFileReader;
use ::parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, ParquetFileMetrics, RowGroupAccessPlanFilter};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{conjunction, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{PhysicalExpr, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::layout::Layout;
use super::lines::OpenFile;
use crate::error::{Error, Result};
use crate::source::ReadContext;

/// How much of a file's end is fetched at once, in the hope that the footer is all in there.
const FOOTER_BYTES: usize = 64 * 1024;

/// Lets the Parquet reader fetch ranges of a file.
struct Ranges(OpenFile);

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.0.read_range(range).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.0.read_ranges(&ranges).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.0.size;
            let reader =
                ParquetMetaDataReader::new().with_arrow_reader_options(options).with_prefetch_hint(Some(FOOTER_BYTES));
            let metadata = reader.load_and_finish(self, size).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

/// Returns the rows of a file as a stream of batches.
pub(super) fn read_parquet(file: OpenFile, layout: Layout, context: ReadContext) -> SendableRecordBatchStream {
    let schema = layout.schema();
    let batches = futures::stream::once(open(file, layout, context)).try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, batches))
}

/// Returns the schema of a file, from its footer.
///
/// # Errors
/// `Unavailable` where the file cannot be read; `DataInvalid` where it is not Parquet.
pub(super) async fn read_schema(file: OpenFile) -> Result<SchemaRef> {
    let name = file.name.clone();
    let builder = ParquetRecordBatchStreamBuilder::new(Ranges(file)).await.map_err(|e| not_parquet(&name, e))?;
    Ok(Arc::clone(builder.schema()))
}

type Batches = BoxStream<'static, std::result::Result<RecordBatch, DataFusionError>>;

async fn open(file: OpenFile, layout: Layout, context: ReadContext) -> std::result::Result<Batches, DataFusionError> {
    let name = file.name.clone();
    let mut builder = ParquetRecordBatchStreamBuilder::new(Ranges(file)).await.map_err(|e| not_parquet(&name, e))?;
    if let Some(filter) = &context.filter
        && let Some(groups) = row_groups(&builder, &name, filter, &layout)?
    {
        builder = builder.with_row_groups(groups);
    }
    let fields = layout.decoded_fields();
    let found: Vec<Option<usize>> = fields.iter().map(|field| position(builder.schema(), field)).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), found.iter().copied().flatten());
    let roots: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let builder = builder.with_projection(mask).with_batch_size(context.batch_size.max(1));
    let stream = builder.build().map_err(|e| not_parquet(&name, e))?;
    let batches = stream.map(move |batch| -> std::result::Result<RecordBatch, DataFusionError> {
        let batch = batch.map_err(|e| not_parquet(&name, e))?;
        let column = |(field, found): (&Field, &Option<usize>)| -> Result<ArrayRef> {
            let root = found.and_then(|index| roots.get(index));
            match root.and_then(|root| batch.column_by_name(root)) {
                Some(column) => cast_column(column, field, &name),
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            }
        };
        let columns = fields.iter().zip(&found).map(column).collect::<Result<Vec<_>>>()?;
        Ok(layout.assemble(&columns, None, batch.num_rows())?)
    });
    Ok(batches.boxed())
}

/// Returns the row groups that may hold rows for which `filter` holds, by what the file says of their values; `None` where
/// it says nothing. Only conditions count whose columns are in the file as they are declared.
fn row_groups(
    builder: &ParquetRecordBatchStreamBuilder<Ranges>,
    name: &str,
    filter: &Arc<dyn PhysicalExpr>,
    layout: &Layout,
) -> std::result::Result<Option<Vec<usize>>, DataFusionError> {
    let in_file = |column: &Column| {
        let found = builder.schema().field_with_name(column.name()).ok();
        found.is_some_and(|found| layout.declared_type(column.name()) == Some(found.data_type()))
    };
    let usable = |part: &&Arc<dyn PhysicalExpr>| collect_columns(part).iter().all(in_file);
    let parts = split_conjunction(filter).into_iter().filter(usable).map(Arc::clone);
    let predicate = reassign_expr_columns(conjunction(parts), builder.schema())?;
    let Some(predicate) =
        PruningPredicateBuilder::new().with_file_schema(Arc::clone(builder.schema())).build(predicate)
    else {
        return Ok(None);
    };
    let groups = builder.metadata().row_groups();
    let mut pruned = RowGroupAccessPlanFilter::new(ParquetAccessPlan::new_all(groups.len()));
    let metrics = ParquetFileMetrics::new(0, name, &ExecutionPlanMetricsSet::new());
    pruned.prune_by_statistics(builder.schema(), builder.parquet_schema(), groups, &predicate, &metrics);
    Ok(Some(pruned.build().row_group_indexes()))
}

/// Finds a column by name: letter by letter, or else without case.
fn position(schema: &Schema, field: &Field) -> Option<usize> {
    let name = field.name();
    let fields = schema.fields();
    fields
        .iter()
        .position(|other| other.name() == name)
        .or_else(|| fields.iter().position(|other| other.name().eq_ignore_ascii_case(name)))
}

fn cast_column(column: &ArrayRef, field: &Field, file: &str) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let (from, to) = (column.data_type(), field.data_type());
    // Arrow would make times and truths of numbers without a word.
    let other_meaning = |t: &DataType| matches!(t, DataType::Boolean) || t.is_temporal();
    if from.is_numeric() && other_meaning(to) || to.is_numeric() && other_meaning(from) {
        return Err(Error::data_invalid(format!(
            "{file}: column '{}' is {from} in the file and {to} as declared, which mean different things; declare it as it \
             is in the file",
            field.name()
        )));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &options).map_err(|e| {
        Error::data_invalid(format!(
            "{file}: column '{}' is {} in the file and does not become the declared {} ({e}); declare it as it is in \
             the file",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
        .with_source(e)
    })
}

/// Keeps an error of ours that travelled through the Parquet reader; any other says that the file is not Parquet.
fn not_parquet(file: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::unavailable(format!("file {file} cannot be read: {other}")).with_source(other),
        },
        other => Error::data_invalid(format!("file {file} is not a whole Parquet file: {other}")).with_source(other),
    }
}
