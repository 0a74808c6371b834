//! From rows to messages: which column is which part.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, ListArray, RecordBatch, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use datafusion::arrow::json::LineDelimitedWriter;
use rdkafka::message::{Header, OwnedHeaders};

use crate::error::{Error, Result};
use crate::sink::json_rows::json_rows;

/// Which column of the rows is which part of a message.
#[derive(Debug)]
pub(super) struct Shape {
    key: Option<usize>,
    value: ValueColumns,
    headers: Option<usize>,
    topic: Topic,
    partition: Option<usize>,
}

#[derive(Debug)]
enum ValueColumns {
    One(usize),
    Json(Vec<usize>),
}

#[derive(Debug)]
enum Topic {
    Named(String),
    Column(usize),
}

impl Shape {
    /// Finds the parts among the columns. `topic` wins over a column of that name, as in Spark.
    ///
    /// # Errors
    /// `InvalidQuery` where a part is missing or has a type that it cannot have.
    pub(super) fn of(schema: &Schema, topic: Option<&str>, as_json: bool) -> Result<Self> {
        let prefix = if as_json { "_" } else { "" };
        let find = |part: &str, fits: &dyn Fn(&DataType) -> bool, types: &str| -> Result<Option<usize>> {
            let name = format!("{prefix}{part}");
            let Some(index) = schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(&name)) else {
                return Ok(None);
            };
            let data_type = schema.field(index).data_type();
            if fits(data_type) {
                return Ok(Some(index));
            }
            Err(Error::invalid_query(format!("kafka sink: column '{name}' must be {types}, not {data_type}; cast it")))
        };
        let key = find("key", &is_bytes, "STRING or BINARY")?;
        let headers = find("headers", &is_headers, "ARRAY<STRUCT<key STRING, value BINARY>>")?;
        let topic_column = find("topic", &is_text, "STRING")?;
        let partition = find("partition", &DataType::is_integer, "INT")?;
        let value = if as_json {
            let parts = [key, headers, topic_column, partition];
            ValueColumns::Json((0..schema.fields().len()).filter(|index| !parts.contains(&Some(*index))).collect())
        } else {
            let value = find("value", &is_bytes, "STRING or BINARY")?.ok_or_else(|| {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                Error::invalid_query(format!(
                    "kafka sink: the rows have no column 'value', but {}; name one so, such as to_json(named_struct(…)) AS value, \
                     or set the option format = 'json'",
                    names.join(", ")
                ))
            })?;
            ValueColumns::One(value)
        };
        let topic = match (topic, topic_column) {
            (Some(topic), _) => Topic::Named(topic.to_string()),
            (None, Some(column)) => Topic::Column(column),
            (None, None) => {
                return Err(Error::invalid_query(format!(
                    "kafka sink: no topic: set the option 'topic', or give the rows a column '{prefix}topic'"
                )));
            }
        };
        Ok(Self { key, value, headers, topic, partition })
    }

    /// Prepares the rows of a batch to be sent.
    ///
    /// # Errors
    /// `DataInvalid` where a row names no topic; `Internal` where columns are not those of the schema.
    pub(super) fn messages(&self, batch: &RecordBatch) -> Result<Messages> {
        let column = |index: usize, to: &DataType| cast(batch.column(index), to);
        let key = self.key.map(|index| column(index, &DataType::Binary)).transpose()?;
        let value = match &self.value {
            ValueColumns::One(index) => column(*index, &DataType::Binary)?,
            ValueColumns::Json(indices) => json_lines(&batch.project(indices)?)?,
        };
        let headers = self.headers.map(|index| column(index, &headers_type())).transpose()?;
        let partition = self.partition.map(|index| column(index, &DataType::Int32)).transpose()?;
        let topic = match &self.topic {
            Topic::Named(topic) => Topics::One(topic.clone()),
            Topic::Column(index) => {
                let topics = column(*index, &DataType::Utf8)?;
                if topics.null_count() > 0 {
                    return Err(Error::data_invalid(
                        "kafka sink: a row's topic is NULL; set the option 'topic', or filter such rows",
                    ));
                }
                Topics::Each(topics.as_string::<i32>().clone())
            }
        };
        Ok(Messages {
            topic,
            key: key.map(|array| array.as_binary::<i32>().clone()),
            value: value.as_binary::<i32>().clone(),
            headers: headers.map(|array| array.as_list::<i32>().clone()),
            partition: partition.map(|array| array.as_primitive::<Int32Type>().clone()),
        })
    }
}

/// Writes each row as a JSON object.
fn json_lines(rows: &RecordBatch) -> Result<ArrayRef> {
    let mut text = Vec::new();
    let mut writer: LineDelimitedWriter<_> = json_rows().build(&mut text);
    writer.write(rows)?;
    writer.finish()?;
    // A line break within a text is escaped.
    let lines: BinaryArray = text.split(|byte| *byte == b'\n').take(rows.num_rows()).map(Some).collect();
    if lines.len() != rows.num_rows() {
        return Err(Error::internal("kafka sink: rows were not written as JSON one by one"));
    }
    Ok(Arc::new(lines))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    is_text(data_type) || matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_headers(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(pair) => pair.len() == 2 && is_text(pair[0].data_type()) && is_bytes(pair[1].data_type()),
            _ => false,
        },
        _ => false,
    }
}

fn headers_type() -> DataType {
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)]);
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(pair), true)))
}

enum Topics {
    One(String),
    Each(StringArray),
}

/// The rows of a batch, as parts of messages.
pub(super) struct Messages {
    topic: Topics,
    key: Option<BinaryArray>,
    value: BinaryArray,
    headers: Option<ListArray>,
    partition: Option<Int32Array>,
}

impl Messages {
    /// Returns the topic of a row.
    pub(super) fn topic(&self, row: usize) -> &str {
        match &self.topic {
            Topics::One(topic) => topic,
            Topics::Each(topics) => topics.value(row),
        }
    }

    /// Returns the key of a row.
    pub(super) fn key(&self, row: usize) -> Option<&[u8]> {
        self.key.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row))
    }

    /// Returns the value of a row.
    pub(super) fn value(&self, row: usize) -> Option<&[u8]> {
        Some(&self.value).filter(|values| values.is_valid(row)).map(|values| values.value(row))
    }

    /// Returns the partition that a row asks for.
    pub(super) fn partition(&self, row: usize) -> Option<i32> {
        self.partition.as_ref().filter(|partitions| partitions.is_valid(row)).map(|partitions| partitions.value(row))
    }

    /// Returns the headers of a row.
    pub(super) fn headers(&self, row: usize) -> Option<OwnedHeaders> {
        let list = self.headers.as_ref().filter(|lists| lists.is_valid(row))?.value(row);
        let pairs = list.as_struct();
        let (keys, values) = (pairs.column(0).as_string::<i32>(), pairs.column(1).as_binary::<i32>());
        let header = |index: usize| Header {
            key: keys.value(index),
            value: values.is_valid(index).then(|| values.value(index)),
        };
        Some(
            (0..pairs.len())
                .fold(OwnedHeaders::new_with_capacity(pairs.len()), |headers, at| headers.insert(header(at))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>())
    }

    #[test]
    fn columns_become_parts() {
        let rows = RecordBatch::try_new(
            Arc::new(schema(&[("value", DataType::Utf8), ("key", DataType::Utf8), ("partition", DataType::Int64)])),
            vec![
                Arc::new(StringArray::from(vec![Some("a"), None])),
                Arc::new(StringArray::from(vec![None, Some("k")])),
                Arc::new(datafusion::arrow::array::Int64Array::from(vec![Some(3), None])),
            ],
        )
        .unwrap();
        let messages = Shape::of(&rows.schema(), Some("t"), false).unwrap().messages(&rows).unwrap();
        let parts = |row| (messages.topic(row), messages.key(row), messages.value(row), messages.partition(row));
        assert_eq!(parts(0), ("t", None, Some(&b"a"[..]), Some(3)));
        assert_eq!(parts(1), ("t", Some(&b"k"[..]), None, None));
        assert!(messages.headers(0).is_none());
    }

    #[test]
    fn rows_become_json() {
        let rows = RecordBatch::try_new(
            Arc::new(schema(&[("a", DataType::Utf8), ("_key", DataType::Utf8), ("b", DataType::Utf8)])),
            vec![
                Arc::new(StringArray::from(vec![Some("x\ny"), None])),
                Arc::new(StringArray::from(vec![Some("1"), Some("2")])),
                Arc::new(StringArray::from(vec![None, Some("z")])),
            ],
        )
        .unwrap();
        let messages = Shape::of(&rows.schema(), Some("t"), true).unwrap().messages(&rows).unwrap();
        assert_eq!(messages.value(0), Some(&br#"{"a":"x\ny"}"#[..]));
        assert_eq!((messages.key(1), messages.value(1)), (Some(&b"2"[..]), Some(&br#"{"b":"z"}"#[..])));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (columns, topic, word) in [
            (&[("v", DataType::Utf8)][..], Some("t"), "no column 'value'"),
            (&[("value", DataType::Utf8)], None, "no topic"),
            (&[("value", DataType::Int32)], Some("t"), "STRING or BINARY"),
            (&[("value", DataType::Utf8), ("headers", DataType::Utf8)], Some("t"), "ARRAY<STRUCT"),
        ] {
            let error = Shape::of(&schema(columns), topic, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidQuery);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
