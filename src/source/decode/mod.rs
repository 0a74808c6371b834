//! From text to rows: what decodes JSON, CSV and plain text into columns, wherever the text comes from.
//!
//! Files hand over their lines ([`super::file`]), messages their values. Guards that every row is either whole, or dealt
//! with as the `mode` says ([`malformed`]).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use self::column::is_text;
use self::malformed::{Rows, Verdict};
use crate::error::{Error, Result};
use crate::options::Options;

pub(in crate::source) mod column;
pub(in crate::source) mod csv;
pub(in crate::source) mod json;
mod json_text;
pub(in crate::source) mod malformed;
pub(in crate::source) mod text;
mod timestamp;

/// The options of JSON.
pub(in crate::source) const JSON_OPTIONS: &[&str] = &["mode", "columnNameOfCorruptRecord"];

/// The options of CSV.
pub(in crate::source) const CSV_OPTIONS: &[&str] = &[
    "mode",
    "columnNameOfCorruptRecord",
    "header",
    "format.has_header",
    "sep",
    "delimiter",
    "format.delimiter",
    "quote",
    "escape",
    "comment",
    "nullValue",
    "multiLine",
];

/// Says where rows end.
pub(in crate::source) trait RowEnds: Send + Sync {
    /// Returns how many bytes of `text` its first row takes, whole lines with their ends, where the first line takes
    /// `line_bytes`. `None` where that cannot be told before more of the file is there, and never where `is_last` says
    /// that there is no more.
    fn row_bytes(&self, text: &str, line_bytes: usize, is_last: bool) -> Option<usize>;
}

/// Every line is a row.
pub(in crate::source) struct Lines;

impl RowEnds for Lines {
    fn row_bytes(&self, _text: &str, line_bytes: usize, _is_last: bool) -> Option<usize> {
        Some(line_bytes)
    }
}

/// Turns the text of one row into one row.
pub(in crate::source) trait LineDecoder: Send {
    /// Reads `line` (without its end) into the columns of `rows`, at most one value each.
    fn decode(&mut self, line: &str, rows: &mut Rows) -> Verdict;

    /// Returns what says where rows end.
    fn row_ends(&self) -> &dyn RowEnds {
        &Lines
    }

    /// Returns whether `line` is no row because nothing stands in it.
    fn skips(&self, line: &str) -> bool {
        line.trim_ascii().is_empty()
    }
}

/// Finds the column that takes malformed lines, if the schema has it.
pub(in crate::source) fn corrupt_column(schema: &Schema, options: &Options) -> Result<Option<usize>> {
    let name = options.get("columnNameOfCorruptRecord").unwrap_or("_corrupt_record");
    let Ok(index) = schema.index_of(name) else {
        return Ok(None);
    };
    if is_text(schema.field(index).data_type()) {
        return Ok(Some(index));
    }
    Err(Error::invalid_option(format!(
        "column '{name}' takes malformed lines and must be STRING, not {}; declare it so, or name another with the \
         option 'columnNameOfCorruptRecord'",
        schema.field(index).data_type()
    )))
}

/// Lets every column be NULL, nested ones too: a file may lack it.
pub(in crate::source) fn nullable_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(nullable_field).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn nullable_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(nullable_type(field.data_type())).with_nullable(true))
}

fn nullable_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::List(item) => DataType::List(nullable_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable_field).collect()),
        DataType::Map(entries, ordered) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let pair = [Arc::clone(&pair[0]), nullable_field(&pair[1])];
                let pair = DataType::Struct(pair.into_iter().collect());
                DataType::Map(Arc::new(Field::new(entries.name(), pair, false)), *ordered)
            }
            _ => data_type.clone(),
        },
        other => other.clone(),
    }
}
