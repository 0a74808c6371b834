//! Finds a schema where none is declared, as Spark does: JSON and CSV from the first thousand rows, Parquet from the
//! footer of the newest file.
//!
//! Called once, when a source or table is opened. Guards that the same files give the same schema: files are looked
//! at in the order of the listing.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde_json::Value;

use super::format::Kind;
use super::lines::{OpenFile, first_rows};
use super::listing::FileEntry;
use super::parquet::read_schema;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::source::decode::Lines;
use crate::source::decode::column::{Column, timestamp_type};
use crate::source::decode::csv::CsvDialect;

/// How many rows are looked at.
const SAMPLE_ROWS: usize = 1_000;

/// Returns the schema of `files`: the columns in them, then those that their folders name.
///
/// # Errors
/// `InvalidQuery` where there is no file, or nothing in them; `Unavailable` and `DataInvalid` where one cannot be
/// read.
pub(super) async fn infer_schema(kind: &Kind, options: &Options, files: &[FileEntry]) -> Result<SchemaRef> {
    let mut fields = match kind {
        Kind::Text { .. } => vec![Field::new("value", DataType::Utf8, true)],
        _ if files.is_empty() => {
            return Err(Error::invalid_query(
                "no columns are declared, and there is no file yet to infer them from; declare the columns, or put a \
                 file in place first",
            ));
        }
        Kind::Json => json_fields(files).await?,
        Kind::Csv(dialect) => csv_fields(dialect, options.flag("inferSchema", false)?, files).await?,
        Kind::Parquet => parquet_fields(files).await?,
    };
    if fields.is_empty() {
        return Err(Error::invalid_query(
            "no columns are declared, and none are found in the files; declare the columns",
        ));
    }
    if !options.flag("recursiveFileLookup", false)? {
        for field in folder_fields(files) {
            if !fields.iter().any(|other| other.name() == field.name()) {
                fields.push(field);
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns that folders name: BIGINT where all values are whole numbers, else STRING.
fn folder_fields(files: &[FileEntry]) -> Vec<Field> {
    let mut columns: Vec<(String, bool)> = Vec::new();
    for (name, value) in files.iter().flat_map(FileEntry::partitions) {
        let whole = value.is_none_or(|value| value.parse::<i64>().is_ok());
        match columns.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all_whole)) => *all_whole &= whole,
            None => columns.push((name, whole)),
        }
    }
    let data_type = |whole| {
        if whole { DataType::Int64 } else { DataType::Utf8 }
    };
    columns.into_iter().map(|(name, whole)| Field::new(name, data_type(whole), true)).collect()
}

async fn parquet_fields(files: &[FileEntry]) -> Result<Vec<Field>> {
    let Some(newest) = files.iter().max_by_key(|file| (file.modified_ms, file.published)) else {
        return Ok(Vec::new());
    };
    let schema = read_schema(OpenFile::new(newest)).await?;
    let plain = |field: &FieldRef| Field::new(field.name(), plain_type(field.data_type()), true);
    Ok(schema.fields().iter().map(plain).collect())
}

/// Returns the type that SQL knows for one that Parquet or Arrow spells otherwise.
fn plain_type(data_type: &DataType) -> DataType {
    let plain_field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(_, _) => timestamp_type(),
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::List(item) | DataType::LargeList(item) => DataType::List(plain_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, ordered) => DataType::Map(plain_field(entries), *ordered),
        other => other.clone(),
    }
}

async fn json_fields(files: &[FileEntry]) -> Result<Vec<Field>> {
    let (mut all, mut left) = (DataType::Null, SAMPLE_ROWS);
    for file in files {
        for line in first_rows(file, left, &Lines).await? {
            left -= 1;
            if let Ok(row @ Value::Object(_)) = serde_json::from_str(&line) {
                all = merged(all, value_type(&row));
            }
        }
        if left == 0 {
            break;
        }
    }
    match settled(all) {
        DataType::Struct(fields) => Ok(fields.iter().map(|field| field.as_ref().clone()).collect()),
        _ => Ok(Vec::new()),
    }
}

/// Returns the narrowest type of a JSON value; Null where it does not tell.
fn value_type(value: &Value) -> DataType {
    match value {
        Value::Null => DataType::Null,
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        Value::String(_) => DataType::Utf8,
        Value::Array(items) => {
            let item = items.iter().map(value_type).fold(DataType::Null, merged);
            DataType::List(Arc::new(Field::new_list_field(item, true)))
        }
        Value::Object(members) => {
            DataType::Struct(members.iter().map(|(name, value)| Field::new(name, value_type(value), true)).collect())
        }
    }
}

/// Returns the type that takes values of both: STRING where nothing narrower does.
fn merged(a: DataType, b: DataType) -> DataType {
    match (a, b) {
        (a, b) if a == b => a,
        (DataType::Null, other) | (other, DataType::Null) => other,
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        (DataType::List(a), DataType::List(b)) => {
            let item = merged(a.data_type().clone(), b.data_type().clone());
            DataType::List(Arc::new(Field::new_list_field(item, true)))
        }
        (DataType::Struct(a), DataType::Struct(b)) => DataType::Struct(merged_fields(&a, &b)),
        _ => DataType::Utf8,
    }
}

/// Fields by name, as Spark orders them.
fn merged_fields(a: &Fields, b: &Fields) -> Fields {
    let mut types: BTreeMap<&str, DataType> = BTreeMap::new();
    for field in a.iter().chain(b.iter()) {
        let known = types.remove(field.name().as_str()).unwrap_or(DataType::Null);
        types.insert(field.name(), merged(known, field.data_type().clone()));
    }
    types.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect()
}

/// Makes STRING of what no value told.
fn settled(data_type: DataType) -> DataType {
    match data_type {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => {
            DataType::List(Arc::new(Field::new_list_field(settled(item.data_type().clone()), true)))
        }
        DataType::Struct(fields) if fields.is_empty() => DataType::Utf8,
        DataType::Struct(fields) => {
            let settle = |field: &FieldRef| Field::new(field.name(), settled(field.data_type().clone()), true);
            DataType::Struct(fields.iter().map(settle).collect())
        }
        other => other,
    }
}

async fn csv_fields(dialect: &CsvDialect, typed: bool, files: &[FileEntry]) -> Result<Vec<Field>> {
    let mut names: Vec<String> = Vec::new();
    let mut guesses: Vec<Guess> = Vec::new();
    let mut left = SAMPLE_ROWS;
    for file in files {
        let rows = first_rows(file, left + 1, dialect).await?;
        for (number, row) in rows.iter().filter(|row| !dialect.is_comment(row)).enumerate() {
            let is_header = dialect.header && number == 0;
            if names.is_empty() {
                dialect.split(row, |position, name, _| names.push(column_name(position, name, is_header)));
                for _ in &names {
                    guesses.push(Guess::new()?);
                }
            }
            if is_header || !typed {
                continue;
            }
            left = left.saturating_sub(1);
            dialect.split(row, |position, text, quoted| {
                if let Some(guess) = guesses.get_mut(position).filter(|_| !dialect.is_null(text, quoted)) {
                    guess.narrow(text);
                }
            });
        }
        if left == 0 || (!typed && !names.is_empty()) {
            break;
        }
    }
    Ok(names.into_iter().zip(guesses).map(|(name, guess)| Field::new(name, guess.data_type(), true)).collect())
}

fn column_name(position: usize, header: &str, is_header: bool) -> String {
    if is_header && !header.trim().is_empty() { header.trim().to_string() } else { format!("_c{position}") }
}

/// The types that every value of a CSV column so far can be read as, narrowest first.
struct Guess {
    candidates: Vec<Column>,
    told: bool,
}

impl Guess {
    fn new() -> Result<Self> {
        let types = [
            DataType::Int32,
            DataType::Int64,
            DataType::Float64,
            DataType::Date32,
            timestamp_type(),
            DataType::Boolean,
        ];
        let candidates = types.map(|data_type| Column::new(&Field::new("guess", data_type, true)));
        Ok(Self { candidates: candidates.into_iter().collect::<Result<_>>()?, told: false })
    }

    fn narrow(&mut self, text: &str) {
        self.told = true;
        let is_date_only = text.len() <= 10;
        self.candidates.retain_mut(|candidate| {
            let fits = candidate.push_text(text);
            candidate.truncate(0);
            fits && (is_date_only || *candidate.data_type() != DataType::Date32)
        });
    }

    fn data_type(&self) -> DataType {
        let narrowest = self.candidates.first().filter(|_| self.told);
        narrowest.map_or(DataType::Utf8, |column| column.data_type().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_types_widen_and_sort_by_name() {
        let rows = [r#"{"b":1,"a":null,"c":[1]}"#, r#"{"b":1.5,"d":{"x":true},"c":[null,2]}"#, r#"{"d":"text"}"#];
        let all = rows.iter().map(|row| value_type(&serde_json::from_str(row).unwrap())).fold(DataType::Null, merged);
        let DataType::Struct(fields) = settled(all) else { unreachable!() };
        let found: Vec<_> = fields.iter().map(|field| (field.name().as_str(), field.data_type().clone())).collect();
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        let expected = [("a", DataType::Utf8), ("b", DataType::Float64), ("c", list), ("d", DataType::Utf8)];
        assert_eq!(found, expected);
    }

    #[test]
    fn csv_types_are_the_narrowest_that_fit() {
        for (values, expected) in [
            (&["1", "2"][..], DataType::Int32),
            (&["1", "3000000000"][..], DataType::Int64),
            (&["1", "2.5"][..], DataType::Float64),
            (&["2013-01-01", "2013-01-02 03:04:05"][..], timestamp_type()),
            (&["2013-01-01"][..], DataType::Date32),
            (&["true", "x"][..], DataType::Utf8),
            (&[][..], DataType::Utf8),
        ] {
            let mut guess = Guess::new().unwrap();
            values.iter().for_each(|value| guess.narrow(value));
            assert_eq!(guess.data_type(), expected, "{values:?}");
        }
    }
}
