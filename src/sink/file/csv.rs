//! Writes rows as CSV so that every value comes back as it was, NULL and the empty string too.
//!
//! Quotes are doubled, as RFC 4180 has it: the one form that Millstream and other readers read alike, whatever else
//! stands in the value. Guards that what is written without quotes is either NULL or a text that no reader cuts,
//! trims or takes for NULL.

use std::io::Write;

use datafusion::arrow::array::Array;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// What begins and ends a text that needs it.
const QUOTE: char = '"';

/// What the beginning of a file may hold that is no text; readers drop it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 64 * 1024;

/// Writes record batches, one row a record.
pub(super) struct CsvWriter<W> {
    output: W,
    header_pending: bool,
    delimiter: char,
    /// What stands for NULL.
    null: String,
    buffer: String,
}

impl<W: Write> CsvWriter<W> {
    /// Makes a writer; with `header`, column names are written before the first rows.
    pub(super) fn new(output: W, header: bool, delimiter: char, null: String) -> Self {
        Self { output, header_pending: header, delimiter, null, buffer: String::new() }
    }

    /// Writes rows, all the way to the output.
    ///
    /// A row whose only column is NULL has no separator: where nothing stands for NULL it is an empty line, which the
    /// source reads as such a row.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        if std::mem::take(&mut self.header_pending) {
            for (column, field) in rows.schema().fields().iter().enumerate() {
                self.begin_value(column);
                self.push_text(field.name());
            }
            self.end_row()?;
        }
        let options = FormatOptions::new();
        let formatters = rows
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        let nulls: Vec<_> = rows.columns().iter().map(|column| column.logical_nulls()).collect();
        let mut text = String::new();
        for row in 0..rows.num_rows() {
            for (column, formatter) in formatters.iter().enumerate() {
                self.begin_value(column);
                if nulls[column].as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    self.buffer.push_str(&self.null);
                } else {
                    text.clear();
                    formatter.value(row).write(&mut text)?;
                    self.push_text(&text);
                }
            }
            self.end_row()?;
        }
        self.flush()
    }

    /// Returns the output, to which everything was written.
    pub(super) fn into_inner(self) -> W {
        self.output
    }

    fn begin_value(&mut self, column: usize) {
        if column > 0 {
            self.buffer.push(self.delimiter);
        }
    }

    fn push_text(&mut self, text: &str) {
        if !self.needs_quotes(text) {
            self.buffer.push_str(text);
            return;
        }
        self.buffer.push(QUOTE);
        for part in text.split_inclusive(QUOTE) {
            self.buffer.push_str(part);
            if part.ends_with(QUOTE) {
                self.buffer.push(QUOTE);
            }
        }
        self.buffer.push(QUOTE);
    }

    fn needs_quotes(&self, text: &str) -> bool {
        let is_trimmed = |letter: char| letter.is_whitespace() || letter == BYTE_ORDER_MARK;
        text.is_empty()
            || text == self.null
            || text.starts_with(is_trimmed)
            || text.ends_with(is_trimmed)
            || text.contains([self.delimiter, QUOTE, '\r', '\n'])
    }

    fn end_row(&mut self) -> Result<(), ArrowError> {
        self.buffer.push('\n');
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArrowError> {
        self.output.write_all(self.buffer.as_bytes())?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int64Array, StringArray,
        TimestampMicrosecondArray,
    };
    use datafusion::arrow::csv;
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    fn rows(columns: Vec<ArrayRef>) -> RecordBatch {
        let names = ["a", "b", "c", "d", "e", "f"];
        RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap()
    }

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn written(header: bool, null: &str, rows: &RecordBatch) -> String {
        let mut writer = CsvWriter::new(Vec::new(), header, ',', null.to_string());
        writer.write(rows).unwrap();
        String::from_utf8(writer.into_inner()).unwrap()
    }

    #[test]
    fn quotes_stand_where_they_are_needed() {
        for (text, expected) in [
            ("plain text", "plain text"),
            ("a\\b'c;d", "a\\b'c;d"),
            ("", "\"\""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("\"", "\"\"\"\""),
            ("a\\\"b", "\"a\\\"\"b\""),
            ("a,\\", "\"a,\\\""),
            ("one\ntwo", "\"one\ntwo\""),
            ("one\r", "\"one\r\""),
            (" a", "\" a\""),
            ("a\t", "\"a\t\""),
            ("\u{feff}a", "\"\u{feff}a\""),
        ] {
            let rows = rows(vec![texts(&[Some(text)]), texts(&[Some("x")])]);
            assert_eq!(written(false, "", &rows), format!("{expected},x\n"), "{text}");
        }
    }

    #[test]
    fn null_is_told_from_every_text() {
        let both = rows(vec![texts(&[None, Some(""), Some("none")]), texts(&[Some("none"), None, None])]);
        assert_eq!(written(false, "", &both), ",none\n\"\",\nnone,\n");
        assert_eq!(written(false, "none", &both), "none,\"none\"\n\"\",none\n\"none\",none\n");
        let alone = rows(vec![texts(&[Some("x"), None, Some("")])]);
        assert_eq!(written(false, "", &alone), "x\n\n\"\"\n");
        assert_eq!(written(false, "none", &alone), "x\nnone\n\"\"\n");
        let dictionary: DictionaryArray<Int32Type> = [Some("x"), None].into_iter().collect();
        assert_eq!(written(false, "none", &rows(vec![Arc::new(dictionary)])), "x\nnone\n");
    }

    #[test]
    fn the_header_is_written_once() {
        let names = RecordBatch::try_from_iter([("a,b", texts(&[Some("x")])), ("c", texts(&[Some("y")]))]).unwrap();
        let mut writer = CsvWriter::new(Vec::new(), true, ';', String::new());
        writer.write(&names).unwrap();
        writer.write(&names).unwrap();
        assert_eq!(writer.into_inner(), b"a,b;c\nx;y\nx;y\n");
        assert_eq!(written(true, "c", &names), "\"a,b\",\"c\"\nx,y\n");
    }

    /// What needs no quotes is spelled as Arrow's own writer spells it.
    #[test]
    fn values_are_spelled_as_arrow_does() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(-1), None, Some(i64::MAX)])),
            Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), Some(1e300)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(Date32Array::from(vec![Some(0), Some(15_706), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1_357_016_400_000_000), Some(1), None])),
            Arc::new(Decimal128Array::from(vec![Some(12_345), Some(-5), None]).with_precision_and_scale(9, 2).unwrap()),
        ];
        let rows = rows(columns);
        let mut arrows = csv::WriterBuilder::new().with_header(true).build(Vec::new());
        arrows.write(&rows).unwrap();
        assert_eq!(written(true, "", &rows), String::from_utf8(arrows.into_inner()).unwrap());
    }

    #[test]
    fn many_rows_all_arrive() {
        let line = "x".repeat(100);
        let rows = rows(vec![texts(&[Some(line.as_str()); 2_000])]);
        assert_eq!(written(false, "", &rows), format!("{line}\n").repeat(2_000));
    }
}
