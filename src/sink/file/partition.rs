//! Which folder a row belongs to: `column=value`, as Hive has it and every reader of files understands it.
//!
//! A value may be any text. Here it becomes one folder name below the table's root and nothing else: separators, dots
//! in a row, control characters and what readers treat specially are percent-encoded; NULL is
//! `__HIVE_DEFAULT_PARTITION__`. Readers get back exactly what was written, so a value that no folder's name can stand
//! for is refused: the empty text, which every reader takes for NULL or for an error, and one that is too long.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, UInt32Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::{Error, Result};

/// The folder value that stands for NULL.
const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// The bytes that file systems allow for a name.
const LONGEST_NAME: usize = 255;

/// How much of a value that is refused is shown.
const SHOWN_CHARACTERS: usize = 60;

/// Splits rows by folder and takes the partition columns out of them.
pub(super) struct Partitioner {
    names: Vec<String>,
    /// Where the partition columns are among the rows' columns.
    columns: Vec<usize>,
    /// Where the others are.
    kept: Vec<usize>,
    file_schema: SchemaRef,
    converter: RowConverter,
}

impl Partitioner {
    pub(super) fn new(schema: &Schema, partition_by: &[String]) -> Result<Self> {
        let columns = partition_by
            .iter()
            .map(|name| schema.index_of(name))
            .collect::<Result<Vec<usize>, _>>()
            .map_err(|error| Error::internal(format!("a partition column is not among the rows: {error}")))?;
        let kept: Vec<usize> = (0..schema.fields().len()).filter(|index| !columns.contains(index)).collect();
        let sort_fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone()));
        // Every column may be NULL in another batch.
        let fields = kept.iter().map(|index| schema.field(*index));
        let fields: Vec<Field> =
            fields.map(|field| Field::new(field.name(), field.data_type().clone(), true)).collect();
        Ok(Self {
            names: partition_by.to_vec(),
            converter: RowConverter::new(sort_fields.collect())?,
            file_schema: Arc::new(Schema::new(fields)),
            columns,
            kept,
        })
    }

    /// The schema of the files.
    pub(super) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// Whether rows go to more than one folder.
    pub(super) fn is_partitioned(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Returns the rows of each folder; the folder is "" where the table is not partitioned, else ends with `/`.
    pub(super) fn split(&self, rows: &RecordBatch) -> Result<Vec<(String, RecordBatch)>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let kept = self.file_rows(rows)?;
        if !self.is_partitioned() {
            return Ok(vec![(String::new(), kept)]);
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        let keys = self.converter.convert_columns(&columns)?;
        let mut places = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for (row, key) in (0_u32..).zip(keys.iter()) {
            let place = *places.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[place].push(row);
        }
        let options = FormatOptions::new().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
        let formatters = columns
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        let nulls: Vec<_> = columns.iter().map(|column| column.logical_nulls()).collect();
        let mut split = Vec::with_capacity(groups.len());
        for group in groups {
            let row = group[0] as usize;
            let mut folder = String::new();
            for (column, formatter) in formatters.iter().enumerate() {
                let is_null = nulls[column].as_ref().is_some_and(|nulls| nulls.is_null(row));
                let value = if is_null { None } else { Some(formatter.value(row).try_to_string()?) };
                folder.push_str(&folder_name(&self.names[column], value.as_deref())?);
                folder.push('/');
            }
            split.push((folder, take_record_batch(&kept, &UInt32Array::from(group))?));
        }
        Ok(split)
    }

    /// The rows without the partition columns, in the types of the file's schema.
    fn file_rows(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.kept.len());
        for (index, field) in self.kept.iter().zip(self.file_schema.fields()) {
            let column = rows.column(*index);
            columns.push(if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                cast(column, field.data_type())?
            });
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.file_schema), columns)?)
    }
}

/// Whether folders can be called after `column`, NULL's among them.
pub(super) fn names_folders(column: &str) -> bool {
    !column.is_empty() && encode(column).len() + "=".len() + NULL_VALUE.len() <= LONGEST_NAME
}

/// The folder for one value of one column.
fn folder_name(column: &str, value: Option<&str>) -> Result<String> {
    let name = match value {
        None => format!("{}={NULL_VALUE}", encode(column)),
        Some("") => {
            return Err(Error::data_invalid(format!(
                "a row has the empty text in column '{column}', and no folder's name can stand for it: readers take it \
                 for NULL; write nullif({column}, '') AS {column} for NULL (as Spark does), or another word for it"
            )));
        }
        Some(NULL_VALUE) => format!("{}={}", encode(column), NULL_VALUE.replacen('_', "%5F", 1)),
        Some(value) => format!("{}={}", encode(column), encode(value)),
    };
    if name.len() <= LONGEST_NAME {
        return Ok(name);
    }
    let value = value.unwrap_or_default();
    let shown: String = value.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    Err(Error::data_invalid(format!(
        "a row has a text of {} bytes in column '{column}' (it begins with '{shown}'), which makes a folder's name of {} \
         bytes, and no file system takes more than {LONGEST_NAME}; partition by something shorter, such as \
         substr({column}, 1, 20)",
        value.len(),
        name.len()
    )))
}

/// Percent-encodes what has a meaning in paths or to readers; what a reader decodes is the value again.
fn encode(text: &str) -> String {
    let dots = text.contains("..") || text.starts_with('.');
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        let special = character.is_control()
            || matches!(
                character,
                '"' | '#'
                    | '%'
                    | '\''
                    | '*'
                    | '/'
                    | ':'
                    | '='
                    | '?'
                    | '\\'
                    | '{'
                    | '}'
                    | '['
                    | ']'
                    | '^'
                    | '<'
                    | '>'
                    | '|'
            )
            || (character == '.' && dots);
        if special {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        } else {
            encoded.push(character);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(column: &str, value: &str) -> String {
        folder_name(column, Some(value)).unwrap()
    }

    #[test]
    fn hostile_values_make_one_harmless_name() {
        let long = "x".repeat(253);
        for value in ["../../etc/passwd", "..", "a/b", "nul\0", "a=b", "'; DROP", "line\nbreak", "é\u{85}", &long] {
            let name = folder("k", value);
            assert!(name.starts_with("k=") && name.len() <= 255, "{name}");
            assert!(!name.contains(['/', '\\', '\0', '\n', '\'']) && !name.contains(".."), "{name}");
            assert_eq!(name.matches('=').count(), 1, "{name}");
        }
        assert_eq!(folder(".k", "v"), "%2Ek=v", "no hidden folder");
    }

    #[test]
    fn what_no_name_can_stand_for_is_refused() {
        let error = folder_name("k", Some("")).unwrap_err();
        assert!(error.message().contains("column 'k'") && error.message().contains("nullif(k, '')"), "{error}");
        for long in ["x".repeat(254), "/".repeat(100)] {
            let error = folder_name("k", Some(&long)).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::DataInvalid);
            assert!(error.message().contains(&format!("a text of {} bytes in column 'k'", long.len())), "{error}");
        }
    }

    #[test]
    fn null_is_told_from_its_name() {
        assert_eq!(folder_name("k", None).unwrap(), "k=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(folder("k", "__HIVE_DEFAULT_PARTITION__"), "k=%5F_HIVE_DEFAULT_PARTITION__");
        assert_eq!(folder("hour", "2013-01-01 05:00:00"), "hour=2013-01-01 05%3A00%3A00");
        assert_eq!(folder("origin", "New York"), "origin=New York");
    }
}
