//! Where each wanted column of a batch comes from: the file itself, a folder above it, the corrupt-record column, or
//! nowhere.
//!
//! Made by [`super::format::FileFormat`] for every file that is read. Guards that a batch has exactly the wanted
//! columns, in the wanted order and of the declared types, whatever the file holds.

use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::ScalarValue;

use super::listing::FileEntry;
use crate::error::{Error, Result};

/// The folder name that stands for NULL.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";

/// Where a column comes from.
#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// The file: an index into the columns that are decoded.
    File(usize),
    /// A folder above the file.
    Folder(ScalarValue),
    /// The malformed line itself.
    Corrupt,
}

/// The columns of one file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    schema: SchemaRef,
    origins: Vec<Origin>,
    file_fields: Vec<Field>,
    decoded: Vec<Option<usize>>,
}

impl Layout {
    /// Lays out `file` for the columns `projection` of `schema`, one of which may be the corrupt-record column.
    ///
    /// With `decode_all`, columns that are not wanted are decoded too, so that a malformed one is noticed.
    ///
    /// # Errors
    /// `DataInvalid` where a folder's value does not have the declared type.
    pub(super) fn new(
        schema: &SchemaRef,
        file: &FileEntry,
        projection: Option<&[usize]>,
        corrupt: Option<usize>,
        decode_all: bool,
    ) -> Result<Self> {
        let wanted: Vec<usize> = projection.map_or_else(|| (0..schema.fields().len()).collect(), <[usize]>::to_vec);
        let folders = file.partitions();
        let decode_all = decode_all || corrupt.is_some_and(|corrupt| wanted.contains(&corrupt));
        let (mut file_fields, mut decoded, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = 0;
        for (index, field) in schema.fields().iter().enumerate() {
            if Some(index) == corrupt || folders.iter().any(|(name, _)| name == field.name()) {
                positions.push(None);
                continue;
            }
            let slot = (decode_all || wanted.contains(&index)).then_some(next);
            next += usize::from(slot.is_some());
            file_fields.push(field.as_ref().clone());
            decoded.push(slot);
            positions.push(slot);
        }
        let origin = |index: &usize| -> Result<Origin> {
            if Some(*index) == corrupt {
                return Ok(Origin::Corrupt);
            }
            if let Some(slot) = positions.get(*index).copied().flatten() {
                return Ok(Origin::File(slot));
            }
            let field = schema.field(*index);
            let value = folders.iter().find(|(name, _)| name == field.name()).and_then(|(_, value)| value.clone());
            folder_value(value, field, file).map(Origin::Folder)
        };
        let origins = wanted.iter().map(origin).collect::<Result<Vec<_>>>()?;
        Ok(Self { schema: std::sync::Arc::new(schema.project(&wanted)?), origins, file_fields, decoded })
    }

    /// Returns the schema of the batches.
    pub(super) fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Returns for each column that the file has, in the order of the declared schema, which decoded column it is, if
    /// it is decoded at all.
    pub(super) fn slots(&self) -> &[Option<usize>] {
        &self.decoded
    }

    /// Returns the declared type of a column that the file is to have.
    pub(super) fn declared_type(&self, name: &str) -> Option<&DataType> {
        self.file_fields.iter().find(|field| field.name() == name).map(Field::data_type)
    }

    /// Returns the columns to decode.
    pub(super) fn decoded_fields(&self) -> Vec<Field> {
        let pairs = self.file_fields.iter().zip(&self.decoded);
        pairs.filter(|(_, slot)| slot.is_some()).map(|(field, _)| field.clone()).collect()
    }

    /// Makes a batch of `length` rows from the decoded columns and, where the format has one, the corrupt-record
    /// column.
    ///
    /// # Errors
    /// `Internal` where the columns are not those of the layout.
    pub(super) fn assemble(
        &self,
        columns: &[ArrayRef],
        corrupt: Option<&ArrayRef>,
        length: usize,
    ) -> Result<RecordBatch> {
        let column = |(origin, field): (&Origin, &std::sync::Arc<Field>)| -> Result<ArrayRef> {
            match origin {
                Origin::File(slot) => columns
                    .get(*slot)
                    .map(ArrayRef::clone)
                    .ok_or_else(|| Error::internal(format!("column '{}' was not decoded", field.name()))),
                Origin::Folder(value) => Ok(value.to_array_of_size(length)?),
                Origin::Corrupt => match corrupt {
                    Some(lines) if lines.data_type() == field.data_type() => Ok(ArrayRef::clone(lines)),
                    Some(lines) => Ok(datafusion::arrow::compute::cast(lines, field.data_type())?),
                    None => Ok(new_null_array(field.data_type(), length)),
                },
            }
        };
        let arrays = self.origins.iter().zip(self.schema.fields()).map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(length));
        RecordBatch::try_new_with_options(self.schema(), arrays, &options)
            .map_err(|e| Error::internal(format!("a batch does not have the shape of its file: {e}")).with_source(e))
    }
}

fn folder_value(value: Option<String>, field: &Field, file: &FileEntry) -> Result<ScalarValue> {
    let text = ScalarValue::Utf8(value);
    text.cast_to(field.data_type()).map_err(|e| {
        Error::data_invalid(format!(
            "{}: the folder {}={text} does not give column '{}' a {}; rename the folder or declare the column STRING",
            file.path,
            field.name(),
            field.name(),
            field.data_type()
        ))
        .with_source(e)
    })
}

/// Reads `name=value` from a folder's name, both percent-decoded; the value is `None` for NULL.
pub(super) fn folder_pair(folder: &str) -> Option<(String, Option<String>)> {
    let (name, value) = folder.split_once('=')?;
    let value = (value != NULL_FOLDER).then(|| percent_decoded(value));
    (!name.is_empty()).then(|| (percent_decoded(name), value))
}

/// Replaces `%41` and its like; a `%` that no two hex digits follow stays.
pub(super) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex
            .filter(|hex| bytes[at] == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_decoded() {
        assert_eq!(folder_pair("a%20b=6%3A00"), Some(("a b".to_string(), Some("6:00".to_string()))));
        assert_eq!(folder_pair("a=100%"), Some(("a".to_string(), Some("100%".to_string()))));
        assert_eq!(folder_pair("a=__HIVE_DEFAULT_PARTITION__"), Some(("a".to_string(), None)));
        assert_eq!(folder_pair("plain"), None);
    }
}
