//! A sink that prints: tables for people, or one line of JSON per micro-batch for programs.
//!
//! The registry makes it by the name "console", with the writers that the shell hands in; the library itself prints
//! nowhere. It guards that with `format` = json exactly one line leaves for each batch, empty ones too, and nothing
//! else.
//!
//! What it promises: at least once. A batch is printed in `prepare`, before it is decided, since what is printed cannot
//! be taken back; after a crash the same batch id may be printed again.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::json::writer::JsonArray;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::runtime::SpawnedTask;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::sink::json_rows::json_rows;
use crate::sink::memory::collect;
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext, SinkProvider, SinkSpec};

const OPTIONS: &[&str] = &["format", "numRows", "truncate"];
const DEFAULT_ROWS: usize = 20;
const RULE: &str = "-------------------------------------------";

/// How many characters of a cell are shown, the dots at its end included.
const CELL_WIDTH: usize = 20;

/// Where text goes, shared with whoever else prints there.
pub type SharedWriter = Arc<Mutex<dyn Write + Send>>;

/// Makes console sinks.
///
/// Options: `format`, table (default) or json; for tables `numRows` (20), the most rows that are shown, and `truncate`
/// (true), to cut cells at 20 characters.
pub struct ConsoleSinkProvider {
    output: SharedWriter,
    people: SharedWriter,
}

impl fmt::Debug for ConsoleSinkProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleSinkProvider")
    }
}

impl ConsoleSinkProvider {
    /// Makes a provider whose sinks print batches to `output`; hints that are no part of the output go to `people`.
    pub fn new(output: SharedWriter, people: SharedWriter) -> Self {
        Self { output, people }
    }
}

#[async_trait]
impl SinkProvider for ConsoleSinkProvider {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        let format = Format::of(&spec.options)?;
        if matches!(format, Format::Json) && ["numRows", "truncate"].iter().any(|name| spec.options.get(name).is_some())
        {
            let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
            // A hint that cannot be shown is no reason to refuse the query.
            let _ = writeln!(people, "{}: console: numRows and truncate have no effect with format json", spec.name);
        }
        Ok(Arc::new(ConsoleSink { name: spec.name.clone(), format, output: Arc::clone(&self.output) }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Table { rows: usize, truncate: bool },
}

impl Format {
    fn of(options: &Options) -> Result<Self> {
        options.check_known("console sink", OPTIONS)?;
        let rows = options.parsed("numRows", "a whole number")?.unwrap_or(DEFAULT_ROWS);
        let truncate = options.flag("truncate", true)?;
        let format = options.get("format").unwrap_or("table");
        match format.trim().to_lowercase().as_str() {
            "table" => Ok(Self::Table { rows, truncate }),
            "json" => Ok(Self::Json),
            _ => Err(bad_value("format", format, "table or json")),
        }
    }
}

/// Prints one query's batches.
struct ConsoleSink {
    name: String,
    format: Format,
    output: SharedWriter,
}

impl fmt::Debug for ConsoleSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

#[async_trait]
impl Sink for ConsoleSink {
    fn description(&self) -> String {
        match self.format {
            Format::Json => "ConsoleSink[format=json]".to_string(),
            Format::Table { rows, truncate } => {
                format!("ConsoleSink[numRows={rows}, truncate={truncate}]")
            }
        }
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let SinkBatch { batch_id, schema, partitions, .. } = batch;
        let batches: Vec<RecordBatch> = collect(partitions).await?.into_iter().flatten().collect();
        let text = match self.format {
            Format::Json => json_line(&self.name, batch_id, &batches)?,
            Format::Table { rows, truncate } => table(batch_id, &schema, &batches, rows, truncate)?.into_bytes(),
        };
        let output = Arc::clone(&self.output);
        // A reader that is slow to empty a pipe must not hold up the tasks of other queries.
        SpawnedTask::spawn_blocking(move || print(&output, &text))
            .join_unwind()
            .await
            .map_err(|error| Error::internal("console sink: the task that prints was cancelled").with_source(error))?
            .map_err(|error| unprinted(error, batch_id))?;
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        Ok(Prepared { token: Value::Null, rows })
    }

    async fn publish(&self, _batch_id: i64, _token: &Value) -> Result<()> {
        Ok(())
    }
}

fn print(output: &SharedWriter, text: &[u8]) -> io::Result<()> {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(text)?;
    output.flush()
}

fn unprinted(error: io::Error, batch_id: i64) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        let message = format!(
            "console sink: the reader of the output has gone; batch {batch_id} is printed again when \
                               the query is started again"
        );
        return Error::unavailable(message).with_source(error);
    }
    Error::from(error).context(format!("console sink, batch {batch_id}"))
}

/// The batch as one line. Numbers that JSON lacks (NaN, infinity) are null.
fn json_line(name: &str, batch_id: i64, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let name = serde_json::to_string(name)?;
    let mut line = format!("{{\"flow\":{name},\"batch_id\":{batch_id},\"rows\":").into_bytes();
    let mut writer = json_rows().with_explicit_nulls(true).build::<_, JsonArray>(&mut line);
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    line.extend_from_slice(b"}\n");
    Ok(line)
}

/// The batch as a table under its id, of at most `limit` rows.
fn table(batch_id: i64, schema: &SchemaRef, batches: &[RecordBatch], limit: usize, truncate: bool) -> Result<String> {
    let mut cells: Vec<Vec<String>> = vec![Vec::new(); schema.fields().len()];
    let mut shown = 0;
    for batch in batches {
        let rows = batch.num_rows().min(limit - shown);
        for (column, cells) in batch.columns().iter().zip(&mut cells) {
            let options = FormatOptions::new().with_display_error(true).with_null("NULL");
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
            cells.extend((0..rows).map(|row| cell(formatter.value(row).to_string(), truncate)));
        }
        shown += rows;
    }
    let fields: Vec<Field> = schema.fields().iter().map(|f| Field::new(f.name(), DataType::Utf8, true)).collect();
    let columns = cells.into_iter().map(|cells| Arc::new(StringArray::from(cells)) as ArrayRef).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(shown));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;

    let mut text = format!("{RULE}\nBatch: {batch_id}\n{RULE}\n{}\n", pretty_format_batches(&[batch])?);
    if batches.iter().map(RecordBatch::num_rows).sum::<usize>() > shown {
        let rows = if shown == 1 { "row" } else { "rows" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "only showing top {shown} {rows}");
    }
    text.push('\n');
    Ok(text)
}

fn cell(text: String, truncate: bool) -> String {
    if !truncate || text.chars().count() <= CELL_WIDTH {
        return text;
    }
    let mut cut: String = text.chars().take(CELL_WIDTH - 3).collect();
    cut.push_str("...");
    cut
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, Int64Array, StructArray, TimestampMicrosecondArray};
    use datafusion::arrow::datatypes::TimeUnit;
    use datafusion::physical_plan::SendableRecordBatchStream;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;

    /// A pipe whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn sink(output: SharedWriter, options: &[(&str, &str)]) -> Result<Arc<dyn Sink>> {
        let spec = SinkSpec {
            format: "console".into(),
            path: None,
            options: options.iter().copied().collect(),
            partition_by: vec![],
            schema: Arc::new(Schema::empty()),
            name: "say \"hi\"".into(),
            clock: Arc::new(ManualClock::new(0)),
        };
        ConsoleSinkProvider::new(output, Arc::new(Mutex::new(Vec::<u8>::new()))).create(&spec).await
    }

    fn batch(batch_id: i64, rows: &RecordBatch) -> SinkBatch {
        let stream = futures::stream::iter(vec![Ok(rows.clone())]);
        let stream: SendableRecordBatchStream = Box::pin(RecordBatchStreamAdapter::new(rows.schema(), stream));
        SinkBatch { batch_id, run: 0, mode: OutputMode::Append, schema: rows.schema(), partitions: vec![stream] }
    }

    async fn printed(options: &[(&str, &str)], batches: &[&RecordBatch]) -> String {
        let output = Arc::new(Mutex::new(Vec::new()));
        let writer: SharedWriter = Arc::<Mutex<Vec<u8>>>::clone(&output);
        let sink = sink(writer, options).await.unwrap();
        for (batch_id, rows) in (0..).zip(batches) {
            sink.prepare(batch(batch_id, rows)).await.unwrap();
        }
        let bytes = output.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn numbers(values: Vec<Option<f64>>) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(values)) as ArrayRef)]).unwrap()
    }

    #[tokio::test]
    async fn json_is_one_line_a_batch_whatever_the_values() {
        let rows = numbers(vec![Some(1.5), None, Some(f64::NAN), Some(f64::INFINITY)]);
        let empty = numbers(vec![]);
        let expected = concat!(
            r#"{"flow":"say \"hi\"","batch_id":0,"rows":[{"x":1.5},{"x":null},{"x":null},{"x":null}]}"#,
            "\n",
            r#"{"flow":"say \"hi\"","batch_id":1,"rows":[]}"#,
            "\n"
        );
        assert_eq!(printed(&[("format", "json")], &[&rows, &empty]).await, expected);
    }

    #[tokio::test]
    async fn json_writes_times_as_iso_and_structs_as_objects() {
        let start = Arc::new(TimestampMicrosecondArray::from(vec![1_357_002_000_000_000])) as ArrayRef;
        let field = Arc::new(Field::new("start", DataType::Timestamp(TimeUnit::Microsecond, None), true));
        let window = Arc::new(StructArray::from(vec![(field, start)])) as ArrayRef;
        let text = Arc::new(StringArray::from(vec!["a\nb"])) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("window", window), ("t", text)]).unwrap();
        let line = printed(&[("format", "json")], &[&rows]).await;
        assert_eq!(line.lines().count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!([{"window": {"start": "2013-01-01T01:00:00"}, "t": "a\nb"}]);
        assert_eq!(value["rows"], expected);
    }

    #[tokio::test]
    async fn a_table_is_cut_in_rows_and_cells() {
        let n = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef;
        let long = "a sentence of more than twenty characters";
        let text = Arc::new(StringArray::from(vec![long, "b", "c"])) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("n", n), ("text", text)]).unwrap();
        let expected = [
            RULE,
            "Batch: 0",
            RULE,
            "+------+----------------------+",
            "| n    | text                 |",
            "+------+----------------------+",
            "| 1    | a sentence of mor... |",
            "| NULL | b                    |",
            "+------+----------------------+",
            "only showing top 2 rows",
            "",
            "",
        ];
        assert_eq!(printed(&[("numRows", "2")], &[&rows]).await, expected.join("\n"));
        let whole = printed(&[("truncate", "false")], &[&rows]).await;
        assert!(whole.contains(long) && !whole.contains("only showing"), "{whole}");
    }

    #[tokio::test]
    async fn a_closed_pipe_is_unavailable() {
        let sink = sink(Arc::new(Mutex::new(Closed)), &[]).await.unwrap();
        let error = sink.prepare(batch(0, &numbers(vec![Some(1.0)]))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn options_are_checked() {
        for option in [("format", "xml"), ("numRows", "many"), ("numRow", "3")] {
            let error = sink(Arc::new(Mutex::new(Closed)), &[option]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{option:?}");
        }
    }
}
