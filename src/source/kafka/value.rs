//! What the option `format` makes of a message's value: nothing, text as it is, or rows of JSON, CSV, Avro or Debezium.
//!
//! A value that is not of the declared shape meets the option `mode`, as a line of a file does. Guards that such a value
//! never ends a stream unasked, and that what is decoded has one row a message that is kept.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{Array, ArrayRef, BinaryBuilder, StringBuilder, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::offsets::TopicPartition;
use crate::avro::{AvroDecoder, SchemaRegistry, WriterSchema};
use crate::error::{Error, Result};
use crate::options::{Options, nearest};
use crate::source::MalformedRows;
use crate::source::decode::column::{Column, is_text};
use crate::source::decode::csv::{CsvDecoder, CsvDialect};
use crate::source::decode::json::JsonDecoder;
use crate::source::decode::malformed::{Mode, Rows, Verdict};
use crate::source::decode::{CSV_OPTIONS, JSON_OPTIONS, LineDecoder};

/// The formats of values.
const FORMATS: &[&str] = &["json", "csv", "avro", "raw", "debezium"];

/// The options that say how values are decoded.
pub(super) const VALUE_OPTIONS: &[&str] =
    &["format", "avroSchema", "schemaRegistryUrl", "schemaRegistryAuth", "mode", "columnNameOfCorruptRecord"];

/// The options that go with a format.
pub(super) fn options_of(format: Option<&str>) -> Vec<&'static str> {
    let csv = format.is_some_and(|format| format.trim().eq_ignore_ascii_case("csv"));
    // A message is no file: none is a header.
    let has_no_header =
        |option: &&str| !JSON_OPTIONS.contains(option) && !["header", "format.has_header"].contains(option);
    let of_csv = CSV_OPTIONS.iter().copied().filter(has_no_header).filter(|_| csv);
    VALUE_OPTIONS.iter().copied().chain(of_csv).collect()
}

/// How values are decoded.
#[derive(Debug, Clone)]
pub(super) struct ValueFormat {
    kind: Kind,
    mode: Mode,
}

#[derive(Debug, Clone)]
enum Kind {
    Plain,
    Raw,
    Json,
    Debezium,
    Csv(CsvDialect),
    Avro(WriterSchema),
}

/// What was decoded since it was last asked.
#[derive(Default)]
pub(super) struct Decoded {
    /// The columns that were asked for.
    pub(super) columns: Vec<ArrayRef>,
    /// The values that are malformed, as text.
    pub(super) corrupt: Option<ArrayRef>,
    /// The operations of changes.
    pub(super) operations: Option<ArrayRef>,
    /// Which rows are kept, where some are not.
    pub(super) kept: Option<Vec<bool>>,
    /// How many values were found malformed only now.
    pub(super) malformed: u64,
}

/// Decodes values, one a message.
pub(super) trait ValueDecoder: Send {
    /// Takes the value of the message at `offset`; false where it becomes no row.
    ///
    /// # Errors
    /// `DataInvalid` for a malformed value in mode FAILFAST.
    fn push(&mut self, value: Option<&[u8]>, offset: i64) -> Result<bool>;

    /// Takes what was decoded.
    ///
    /// # Errors
    /// As [`ValueDecoder::push`], and `Unavailable` where a schema registry does not answer.
    fn finish(&mut self) -> Result<Decoded>;
}

impl ValueFormat {
    /// The value stays as it is, in a column of that name.
    pub(super) const fn plain() -> Self {
        Self { kind: Kind::Plain, mode: Mode::Permissive }
    }

    /// Reads the option `format` and what goes with it; `None` where it is not given.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown format, and options that do not go with it.
    pub(super) fn of(options: &Options, timeout: Duration) -> Result<Option<Self>> {
        let Some(name) = options.get("format").map(|name| name.trim().to_lowercase()) else {
            let without = VALUE_OPTIONS.iter().find(|option| options.get(option).is_some());
            return match without {
                Some(option) => Err(Error::invalid_option(format!(
                    "option '{option}' says how values are decoded, which needs the option 'format': {}",
                    FORMATS.join(", ")
                ))),
                None => Ok(None),
            };
        };
        let kind = match name.as_str() {
            "json" => Kind::Json,
            "csv" => Kind::Csv(CsvDialect::of(options)?),
            "raw" => Kind::Raw,
            "debezium" | "debezium-json" => Kind::Debezium,
            "avro" => Kind::Avro(writer_schema(options, timeout)?),
            other => {
                let hint = nearest(other, FORMATS).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(Error::invalid_option(format!(
                    "'{other}' is not a format of values: {}{hint}",
                    FORMATS.join(", ")
                )));
            }
        };
        Ok(Some(Self { kind, mode: Mode::of(options)? }))
    }

    /// Returns whether values say what was done to the row.
    pub(super) fn has_operations(&self) -> bool {
        matches!(self.kind, Kind::Debezium)
    }

    /// Returns whether columns that nobody asked for are read too, since a malformed one is to be noticed.
    pub(super) fn reads_all(&self) -> bool {
        self.mode != Mode::Permissive
    }

    /// Checks that values can be read as `fields`.
    ///
    /// # Errors
    /// `InvalidQuery` or `Unsupported` where not.
    pub(super) fn check(&self, fields: &[Field]) -> Result<()> {
        match &self.kind {
            Kind::Plain => Ok(()),
            Kind::Avro(writer) => AvroDecoder::new(writer.clone(), Fields::from(fields.to_vec()), 1).map(drop),
            Kind::Raw => match fields {
                [one] if is_text(one.data_type()) || *one.data_type() == DataType::Binary => Ok(()),
                _ => Err(Error::invalid_query(
                    "values of format 'raw' are one column, STRING or BINARY; columns such as _key, _offset and \
                     _timestamp may stand beside it",
                )),
            },
            Kind::Json | Kind::Csv(_) | Kind::Debezium => {
                fields.iter().try_for_each(|field| Column::new(field).map(drop))
            }
        }
    }

    /// Makes what decodes the values of a partition into `fields`; `slots` says of each declared column which of them it
    /// is, if any.
    ///
    /// # Errors
    /// As [`ValueFormat::check`].
    pub(super) fn decoder(
        &self,
        slots: &[Option<usize>],
        fields: &[Field],
        of: &TopicPartition,
        malformed: &Arc<MalformedRows>,
        batch_size: usize,
    ) -> Result<Option<Box<dyn ValueDecoder>>> {
        let explain = self.mode == Mode::FailFast;
        let names = || fields.iter().map(|field| field.name().clone()).collect();
        let text = |decoder: Box<dyn LineDecoder>, is_change| -> Result<Option<Box<dyn ValueDecoder>>> {
            let rows = Rows::new(fields, self.mode, Arc::clone(malformed), &of.to_string(), "offset")?;
            let operations = StringBuilder::new();
            Ok(Some(Box::new(TextValues { decoder, rows, is_change, operations })))
        };
        match &self.kind {
            Kind::Plain => Ok(None),
            Kind::Raw => Ok(Some(Box::new(RawValues(BinaryBuilder::new())))),
            Kind::Json => text(Box::new(JsonDecoder::new(names(), explain)), false),
            Kind::Debezium => text(Box::new(JsonDecoder::new(names(), explain)), true),
            Kind::Csv(dialect) => text(Box::new(CsvDecoder::new(dialect.clone(), slots.to_vec(), explain)), false),
            Kind::Avro(writer) => Ok(Some(Box::new(AvroValues {
                decoder: AvroDecoder::new(writer.clone(), Fields::from(fields.to_vec()), batch_size)?,
                mode: self.mode,
                place: of.to_string(),
                bytes: Vec::new(),
                ends: Vec::new(),
            }))),
        }
    }
}

fn writer_schema(options: &Options, timeout: Duration) -> Result<WriterSchema> {
    match (options.get("avroSchema"), options.get("schemaRegistryUrl")) {
        (Some(json), None) => Ok(WriterSchema::Given(json.to_string())),
        (None, Some(url)) => {
            let registry = SchemaRegistry::new(url, options.get("schemaRegistryAuth"), timeout)?;
            Ok(WriterSchema::Registry(Arc::new(registry)))
        }
        (Some(_), Some(_)) => {
            Err(Error::invalid_option("avroSchema and schemaRegistryUrl exclude each other: remove one of them"))
        }
        (None, None) => Err(Error::invalid_option(
            "values of format 'avro' need the schema they were written with: the option 'avroSchema' (JSON), or \
             'schemaRegistryUrl' where they begin with the id of a schema",
        )),
    }
}

/// Values as they are.
struct RawValues(BinaryBuilder);

impl ValueDecoder for RawValues {
    fn push(&mut self, value: Option<&[u8]>, _offset: i64) -> Result<bool> {
        self.0.append_option(value);
        Ok(true)
    }

    fn finish(&mut self) -> Result<Decoded> {
        let values = self.0.finish();
        // Whatever a value is, it is not malformed.
        let corrupt = Some(new_null_array(&DataType::Utf8, values.len()));
        Ok(Decoded { columns: vec![Arc::new(values)], corrupt, ..Decoded::default() })
    }
}

/// JSON, CSV, and JSON in Debezium's envelopes.
struct TextValues {
    decoder: Box<dyn LineDecoder>,
    rows: Rows,
    is_change: bool,
    operations: StringBuilder,
}

/// What Debezium's envelope has around a row. With the converter's schemas on, all of it is under `payload`.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    op: Option<String>,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    payload: Option<Envelope<'a>>,
}

impl TextValues {
    /// Reads a change: the row after it, or before it where it is gone.
    fn change(&mut self, text: &str) -> (Verdict, Option<String>) {
        let envelope = match serde_json::from_str::<Envelope<'_>>(text) {
            Ok(envelope) if envelope.op.is_some() => Some(envelope),
            _ => serde_json::from_str::<Wrapped<'_>>(text).ok().and_then(|wrapped| wrapped.payload),
        };
        let Some(Envelope { before, after, op: Some(op) }) = envelope else {
            return (Verdict::Broken("not an envelope of Debezium: there is no field 'op'".into()), None);
        };
        let row = after.filter(|after| after.get() != "null").or(before);
        let verdict = match row {
            Some(row) => self.decoder.decode(row.get(), &mut self.rows),
            // Such as a truncation: there is no row to speak of.
            None => Verdict::Row,
        };
        (verdict, Some(op))
    }
}

impl ValueDecoder for TextValues {
    fn push(&mut self, value: Option<&[u8]>, offset: i64) -> Result<bool> {
        let before = self.rows.len();
        let number = u64::try_from(offset).unwrap_or_default();
        let operation = match value {
            // A message without a value is a row without values, and not a malformed one.
            None => {
                self.rows.settle(Verdict::Row, "", number)?;
                None
            }
            Some(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let is_replaced = matches!(text, std::borrow::Cow::Owned(_));
                let text = text.trim_end_matches(['\r', '\n']);
                let (verdict, operation) = match self.is_change {
                    true => self.change(text),
                    false => (self.decoder.decode(text, &mut self.rows), None),
                };
                self.rows.settle(verdict.of_text(is_replaced), text, number)?;
                operation
            }
        };
        let is_kept = self.rows.len() > before;
        if is_kept && self.is_change {
            self.operations.append_option(operation);
        }
        Ok(is_kept)
    }

    fn finish(&mut self) -> Result<Decoded> {
        let (columns, corrupt, _) = self.rows.finish()?;
        let operations: Option<ArrayRef> = self.is_change.then(|| Arc::new(self.operations.finish()) as ArrayRef);
        Ok(Decoded { columns, corrupt: Some(corrupt), operations, ..Decoded::default() })
    }
}

/// Avro, decoded many values at once.
struct AvroValues {
    decoder: AvroDecoder,
    mode: Mode,
    place: String,
    /// The values, one behind the other.
    bytes: Vec<u8>,
    /// Where each ends, whether it is there at all, and its offset.
    ends: Vec<(usize, bool, i64)>,
}

impl ValueDecoder for AvroValues {
    fn push(&mut self, value: Option<&[u8]>, offset: i64) -> Result<bool> {
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.ends.push((self.bytes.len(), value.is_some(), offset));
        Ok(true)
    }

    fn finish(&mut self) -> Result<Decoded> {
        let mut start = 0;
        let mut values = Vec::with_capacity(self.ends.len());
        for (end, is_there, _) in &self.ends {
            values.push(is_there.then(|| &self.bytes[start..*end]));
            start = *end;
        }
        let decoded = self.decoder.decode(&values)?;
        if let (Mode::FailFast, Some((row, reason))) = (self.mode, decoded.bad.first()) {
            let offset = self.ends.get(*row).map(|(_, _, offset)| *offset).unwrap_or_default();
            return Err(Error::data_invalid(format!(
                "{}, offset {offset}: {reason}; use the mode PERMISSIVE or DROPMALFORMED to go on without it",
                self.place
            )));
        }
        let mut kept = vec![true; values.len()];
        let mut corrupt = StringBuilder::new();
        let mut bad = decoded.bad.iter().map(|(row, _)| *row).peekable();
        for (row, value) in values.iter().enumerate() {
            let is_bad = bad.next_if_eq(&row).is_some();
            kept[row] = !is_bad || self.mode != Mode::DropMalformed;
            // Text cannot show it: two digits a byte can.
            corrupt.append_option(value.filter(|_| is_bad).map(hex));
        }
        let kept = Some(kept).filter(|kept| kept.contains(&false));
        let malformed = decoded.bad.len() as u64;
        self.bytes.clear();
        self.ends.clear();
        Ok(Decoded {
            columns: decoded.columns,
            corrupt: Some(Arc::new(corrupt.finish())),
            operations: None,
            kept,
            malformed,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
