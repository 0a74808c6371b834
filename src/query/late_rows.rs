//! Late rows on their way to a table of their own.
//!
//! Operators hand over what they drop (`BatchContext::keep_late`); here it becomes rows of the late table, one for each
//! row dropped. They commit with their batch: [`LateOutput::prepare`] makes them durable after the batch's own output,
//! the same entry of the commit log decides both, and [`LateOutput::publish`] comes after the batch's own. So a batch
//! that runs again gives its late rows once.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::writer::LineDelimited;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use crate::checkpoint::{CommitEntry, LateRowsCommit};
use crate::error::{Error, Result};
use crate::operator::batch_context::{BatchContext, LateRows};
use crate::plan::OperatorPlan;
use crate::sink::json_rows::json_rows;
use crate::sink::{OutputMode, Sink, SinkBatch, SinkContext};

const FLOW: &str = "flow";
const OPERATOR: &str = "operator";
const WATERMARK: &str = "watermark";
const BATCH_ID: &str = "batch_id";
const ROW: &str = "row";

/// Returns the columns of a table of late rows: the flow, its operator that dropped the row (number and name), the
/// watermark by which the row was late, the batch, and the row itself as JSON, as it stood at the operator's input.
pub fn late_columns() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        (FLOW, DataType::Utf8),
        (OPERATOR, DataType::Utf8),
        (WATERMARK, time),
        (BATCH_ID, DataType::Int64),
        (ROW, DataType::Utf8),
    ];
    Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

/// Where a query's late rows go.
#[derive(Debug, Clone)]
pub struct LateTable {
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// The columns of [`late_columns`], in the table's order.
    pub columns: SchemaRef,
}

/// The late rows' way out in one run of a query.
pub(super) struct LateOutput {
    table: LateTable,
    first_batch_id: i64,
}

impl LateOutput {
    /// Opens the table, and publishes again what the last commit decided of it.
    ///
    /// # Errors
    /// What the sink says.
    pub(super) async fn recover(table: LateTable, context: SinkContext, commit: Option<&CommitEntry>) -> Result<Self> {
        let decided = commit.and_then(|commit| commit.late_rows.as_ref());
        let first_batch_id = decided.map_or(context.next_batch_id, |decided| decided.first_batch_id);
        // A name of its own: a sink may be known by it outside, beside the query's.
        let name = format!("{}-late", context.name);
        table.sink.open(&SinkContext { first_batch_id, name, ..context }).await?;
        let output = Self { table, first_batch_id };
        if let Some(commit) = commit {
            output.publish(commit).await?;
        }
        Ok(output)
    }

    /// Makes the batch's late rows durable, not yet visible. All operators have run to their end by then.
    ///
    /// # Errors
    /// What the sink says.
    pub(super) async fn prepare(
        &self,
        flow: &str,
        operators: &[OperatorPlan],
        context: &BatchContext,
    ) -> Result<LateRowsCommit> {
        let mut late = context.take_late();
        late.sort_by_key(|late| late.operator);
        let batch = LateBatch {
            flow: flow.to_string(),
            operators: operators.iter().enumerate().map(|(id, operator)| format!("{id} {}", operator.name)).collect(),
            late_us: context.watermarks.iter().map(|watermarks| watermarks.late_us).collect(),
            batch_id: context.batch_id,
            columns: Arc::clone(&self.table.columns),
        };
        let prepared = self
            .table
            .sink
            .prepare(SinkBatch {
                batch_id: context.batch_id,
                run: context.run,
                mode: OutputMode::Append,
                schema: Arc::clone(&self.table.columns),
                partitions: vec![batch.stream(late)],
            })
            .await
            .map_err(|e| e.context("late rows"))?;
        fail::fail_point!("late_rows.prepared");
        Ok(LateRowsCommit { first_batch_id: self.first_batch_id, sink: prepared.token })
    }

    /// Makes the late rows of a decided batch visible.
    ///
    /// # Errors
    /// What the sink says.
    pub(super) async fn publish(&self, commit: &CommitEntry) -> Result<()> {
        if let Some(decided) = &commit.late_rows {
            let published = self.table.sink.publish(commit.batch_id, &decided.sink).await;
            published.map_err(|e| e.context("late rows"))?;
            fail::fail_point!("late_rows.published");
        }
        Ok(())
    }

    /// Closes what is open.
    pub(super) async fn stop(&self) {
        self.table.sink.stop().await;
    }
}

/// What all late rows of a batch have in common.
struct LateBatch {
    flow: String,
    /// By operator id: what it is called.
    operators: Vec<String>,
    /// By operator id: the watermark its rows were judged by.
    late_us: Vec<Option<i64>>,
    batch_id: i64,
    columns: SchemaRef,
}

impl LateBatch {
    /// Rows become text one by one as the sink asks for them, so that not all are in memory twice.
    fn stream(self, late: Vec<LateRows>) -> SendableRecordBatchStream {
        let columns = Arc::clone(&self.columns);
        let rows = late.into_iter().map(move |late| self.rows(&late).map_err(DataFusionError::from));
        Box::pin(RecordBatchStreamAdapter::new(columns, futures::stream::iter(rows)))
    }

    fn rows(&self, late: &LateRows) -> Result<RecordBatch> {
        let count = late.rows.num_rows();
        let same_text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
        let column = |field: &Field| -> Result<ArrayRef> {
            Ok(match field.name().as_str() {
                FLOW => same_text(&self.flow),
                OPERATOR => same_text(&self.operators[late.operator]),
                WATERMARK => Arc::new(TimestampMicrosecondArray::from(vec![self.late_us[late.operator]; count])),
                BATCH_ID => Arc::new(Int64Array::from_value(self.batch_id, count)),
                ROW => Arc::new(as_objects(&late.rows)?),
                other => return Err(Error::internal(format!("a table of late rows has no column '{other}'"))),
            })
        };
        let columns = self.columns.fields().iter().map(|field| column(field)).collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.columns), columns)?)
    }
}

/// Writes each row as an object, NULLs included. Of columns with one name all but the first get a number.
fn as_objects(rows: &RecordBatch) -> Result<StringArray> {
    let schema = rows.schema();
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (index, field) in schema.fields().iter().enumerate() {
        let earlier = schema.fields()[..index].iter().filter(|other| other.name() == field.name()).count();
        let name = if earlier == 0 { field.name().clone() } else { format!("{}:{earlier}", field.name()) };
        let column = for_json(rows.column(index))?;
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
    let mut writer = json_rows().with_explicit_nulls(true).build::<Vec<u8>, LineDelimited>(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner())
        .map_err(|error| Error::internal("late rows as JSON are not text").with_source(error))?;
    // A line break in a value is written as \n, so that each line is a row.
    Ok(StringArray::from(text.lines().collect::<Vec<_>>()))
}

/// A column that JSON has no form for becomes the text that a console shows: a row must not end the query because it is
/// late.
fn for_json(column: &ArrayRef) -> Result<ArrayRef> {
    if has_json(column.data_type()) {
        return Ok(Arc::clone(column));
    }
    let text = |row: usize| column.is_valid(row).then(|| array_value_to_string(column, row)).transpose();
    let texts = (0..column.len()).map(text).collect::<Result<Vec<Option<String>>, ArrowError>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}

/// Whether Arrow writes values of a type as JSON.
fn has_json(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) => false,
        DataType::Struct(fields) => fields.iter().all(|field| has_json(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_json(item.data_type())
        }
        DataType::ListView(item) | DataType::LargeListView(item) => has_json(item.data_type()),
        DataType::Dictionary(_, values) => has_json(values),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let key = fields[0].data_type();
                let text = matches!(key, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
                text && has_json(fields[1].data_type())
            }
            _ => false,
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int32Array, Int32Builder, MapBuilder};
    use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use futures::TryStreamExt;

    use super::*;

    fn late(columns: Vec<(&str, ArrayRef)>) -> LateRows {
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        LateRows { operator: 1, rows: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap() }
    }

    fn numbers(values: Vec<Option<i32>>) -> ArrayRef {
        Arc::new(Int32Array::from(values))
    }

    fn objects(late: &LateRows) -> Vec<String> {
        as_objects(&late.rows).unwrap().iter().map(|row| row.unwrap().to_string()).collect()
    }

    #[tokio::test]
    async fn a_row_says_whose_it_is_and_why_it_was_late() {
        let mut columns = late_columns().fields().to_vec();
        columns.reverse();
        let batch = LateBatch {
            flow: "hourly".to_string(),
            operators: vec!["0 symmetricHashJoin".to_string(), "1 stateStoreSave".to_string()],
            late_us: vec![None, Some(7_000_000)],
            batch_id: 3,
            columns: Arc::new(Schema::new(columns)),
        };
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(1_767_225_600_000_000)]));
        let k: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let rows: Vec<RecordBatch> = batch.stream(vec![late(vec![("at", at), ("k", k)])]).try_collect().await.unwrap();
        let text = |name: &str| rows[0].column_by_name(name).unwrap().as_string::<i32>().value(0).to_string();
        assert_eq!((text("flow"), text("operator")), ("hourly".to_string(), "1 stateStoreSave".to_string()));
        assert_eq!(text("row"), r#"{"at":"2026-01-01T00:00:00","k":null}"#);
        let watermark = rows[0].column_by_name("watermark").unwrap().as_primitive::<TimestampMicrosecondType>();
        assert_eq!(watermark.value(0), 7_000_000);
        assert_eq!(rows[0].column_by_name("batch_id").unwrap().as_primitive::<Int64Type>().value(0), 3);
        assert_eq!(rows[0].schema().field(0).name(), "row", "columns stand as the table has them");
    }

    #[test]
    fn a_line_break_breaks_no_row_and_no_column_is_lost() {
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a\r\nb"), Some("c")]));
        let late = late(vec![("k", text), ("n", numbers(vec![Some(1), None])), ("n", numbers(vec![None, Some(2)]))]);
        let rows = [r#"{"k":"a\r\nb","n":1,"n:1":null}"#, r#"{"k":"c","n":null,"n:1":2}"#];
        assert_eq!(objects(&late), rows);
    }

    #[test]
    fn what_json_has_no_form_for_is_text() {
        let mut map = MapBuilder::new(None, Int32Builder::new(), Int32Builder::new());
        map.keys().append_value(1);
        map.values().append_value(2);
        map.append(true).unwrap();
        map.append(false).unwrap();
        let late = late(vec![("m", Arc::new(map.finish()))]);
        assert_eq!(objects(&late), [r#"{"m":"{1: 2}"}"#, r#"{"m":null}"#]);
    }
}
