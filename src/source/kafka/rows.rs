//! From messages to rows: where each column of a Kafka table comes from, and the batch under construction.
//!
//! Without the option `format` the columns are Spark's: key, value, topic, partition, offset, timestamp, timestampType and
//! headers. With it they are the declared ones, read from the value; what else a message has is in columns that are called
//! so with an underscore before, where they are declared.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, StringDictionaryBuilder, StructBuilder,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::{cast, filter};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, SchemaRef, TimeUnit};
use rdkafka::message::{Headers, Message, Timestamp};

use super::offsets::TopicPartition;
use super::value::{Decoded, ValueDecoder, ValueFormat};
use crate::error::{Error, Result};
use crate::source::decode::column::is_text;
use crate::source::decode::nullable_schema;
use crate::source::{MalformedRows, ReadContext};

/// What a message has beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Value,
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    Headers,
}

const PARTS: &[(&str, Part)] = &[
    ("key", Part::Key),
    ("value", Part::Value),
    ("topic", Part::Topic),
    ("partition", Part::Partition),
    ("offset", Part::Offset),
    ("timestamp", Part::Timestamp),
    ("timestampType", Part::TimestampType),
    ("headers", Part::Headers),
];

impl Part {
    fn data_type(self) -> DataType {
        match self {
            Self::Key | Self::Value => DataType::Binary,
            Self::Topic => DataType::Utf8,
            Self::Partition | Self::TimestampType => DataType::Int32,
            Self::Offset => DataType::Int64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Headers => DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header_fields()), true))),
        }
    }

    /// Returns the part that the declared column `name` stands for.
    fn of_column(name: &str) -> Option<Self> {
        let name = name.strip_prefix('_')?;
        PARTS.iter().find(|(part, _)| part.eq_ignore_ascii_case(name)).map(|(_, part)| *part)
    }
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, true), Field::new("value", DataType::Binary, true)])
}

/// Where a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The message.
    Part(Part),
    /// The value: an index into the columns that are read from it.
    Value(usize),
    /// The value, where it is malformed.
    Corrupt,
    /// The operation of a change.
    Operation,
}

/// The columns of a Kafka table.
#[derive(Debug)]
pub(super) struct Columns {
    schema: SchemaRef,
    origins: Vec<Origin>,
    format: ValueFormat,
    /// The columns that are read from the value.
    value_fields: Vec<Field>,
}

impl Columns {
    /// Spark's columns.
    pub(super) fn plain(include_headers: bool) -> Self {
        let parts = PARTS.iter().filter(|(_, part)| include_headers || *part != Part::Headers);
        let fields: Vec<Field> = parts.clone().map(|(name, part)| Field::new(*name, part.data_type(), true)).collect();
        let origins = parts.map(|(_, part)| Origin::Part(*part)).collect();
        Self { schema: Arc::new(Schema::new(fields)), origins, format: ValueFormat::plain(), value_fields: Vec::new() }
    }

    /// The `declared` columns of values in `format`; `corrupt` is the column of malformed ones.
    ///
    /// # Errors
    /// `InvalidQuery` where a column that stands for a part of the message has another type.
    pub(super) fn declared(declared: &Schema, format: ValueFormat, corrupt: Option<usize>) -> Result<Self> {
        let schema = nullable_schema(declared);
        let (mut origins, mut value_fields) = (Vec::new(), Vec::new());
        for (index, field) in schema.fields().iter().enumerate() {
            let (name, data_type) = (field.name(), field.data_type());
            let origin = match Part::of_column(name) {
                _ if corrupt == Some(index) => Origin::Corrupt,
                Some(part) => {
                    let is_bytes = matches!(part, Part::Key | Part::Value) && is_text(data_type);
                    if !is_bytes && !part.data_type().equals_datatype(data_type) {
                        return Err(Error::invalid_query(format!(
                            "column '{name}' is a part of the message and has the type {}, not {data_type}; declare it so, \
                             or call it otherwise",
                            part.data_type()
                        )));
                    }
                    Origin::Part(part)
                }
                None if name.eq_ignore_ascii_case("_op") && format.has_operations() => {
                    if !is_text(data_type) {
                        return Err(Error::invalid_query(format!("column '{name}' must be STRING, not {data_type}")));
                    }
                    Origin::Operation
                }
                None => {
                    value_fields.push(field.as_ref().clone());
                    Origin::Value(value_fields.len() - 1)
                }
            };
            origins.push(origin);
        }
        format.check(&value_fields)?;
        Ok(Self { schema, origins, format, value_fields })
    }

    /// Returns the schema of all columns.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Begins a batch of messages of one partition, with the columns that `context` asks for.
    ///
    /// # Errors
    /// As [`ValueFormat::decoder`].
    pub(super) fn rows(&self, of: &TopicPartition, context: &ReadContext) -> Result<Rows> {
        let all = || (0..self.origins.len()).collect();
        let indices: Vec<usize> = context.projection.clone().unwrap_or_else(all);
        let schema = match &context.projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema(),
        };
        let origins: Vec<Origin> = indices.iter().filter_map(|index| self.origins.get(*index).copied()).collect();
        let wants_corrupt = origins.contains(&Origin::Corrupt);
        let (mut slots, mut fields) = (Vec::new(), Vec::new());
        for (index, field) in self.value_fields.iter().enumerate() {
            let is_wanted = wants_corrupt || self.format.reads_all() || origins.contains(&Origin::Value(index));
            slots.push(is_wanted.then_some(fields.len()));
            if is_wanted {
                fields.push(field.clone());
            }
        }
        let needs_value = wants_corrupt || !fields.is_empty() || origins.contains(&Origin::Operation);
        let malformed = &context.malformed_rows;
        let decoder =
            if needs_value { self.format.decoder(&slots, &fields, of, malformed, context.batch_size)? } else { None };
        let columns = origins
            .iter()
            .map(|origin| match origin {
                Origin::Part(part) => Column::Part(Box::new(PartBuilder::new(*part))),
                Origin::Value(index) => Column::Value(slots.get(*index).copied().flatten().unwrap_or_default()),
                Origin::Corrupt => Column::Corrupt,
                Origin::Operation => Column::Operation,
            })
            .collect();
        Ok(Rows { schema, columns, decoder, length: 0, malformed: Arc::clone(malformed) })
    }
}

/// A wanted column of a batch under construction.
enum Column {
    Part(Box<PartBuilder>),
    Value(usize),
    Corrupt,
    Operation,
}

/// A batch under construction.
pub(super) struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    decoder: Option<Box<dyn ValueDecoder>>,
    length: usize,
    malformed: Arc<MalformedRows>,
}

impl Rows {
    /// Returns the schema of the wanted columns.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Returns the number of messages taken since the last batch.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Takes a message.
    ///
    /// # Errors
    /// `DataInvalid` for a malformed value in mode FAILFAST.
    pub(super) fn push<M: Message>(&mut self, message: &M) -> Result<()> {
        if let Some(decoder) = &mut self.decoder
            && !decoder.push(message.payload(), message.offset())?
        {
            return Ok(());
        }
        for column in &mut self.columns {
            if let Column::Part(builder) = column {
                builder.push(message);
            }
        }
        self.length += 1;
        Ok(())
    }

    /// Takes the rows; nothing is left.
    ///
    /// # Errors
    /// `Unavailable` where a schema registry does not answer.
    pub(super) fn finish(&mut self) -> Result<RecordBatch> {
        let length = std::mem::take(&mut self.length);
        let decoded = match &mut self.decoder {
            Some(decoder) => decoder.finish()?,
            None => Decoded::default(),
        };
        self.malformed.add(decoded.malformed);
        let kept = decoded.kept.as_ref().map(|kept| BooleanArray::from(kept.clone()));
        let rows = kept.as_ref().map_or(length, BooleanArray::true_count);
        let missing = || Error::internal("a column of a message's value was not decoded");
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            let array = match column {
                Column::Part(builder) => builder.finish(),
                Column::Value(slot) => decoded.columns.get(*slot).cloned().ok_or_else(missing)?,
                Column::Corrupt => decoded.corrupt.clone().ok_or_else(missing)?,
                Column::Operation => decoded.operations.clone().ok_or_else(missing)?,
            };
            let array = match &kept {
                Some(kept) => filter(&array, kept)?,
                None => array,
            };
            let array = if array.data_type() == field.data_type() { array } else { typed(&array, field.data_type())? };
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|e| Error::internal(format!("messages do not have the shape of their table: {e}")).with_source(e))
    }
}

/// Gives bytes the type STRING, with a replacement character for what is not UTF-8; casts anything else.
fn typed(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let Some(bytes) = array.as_any().downcast_ref::<BinaryArray>().filter(|_| is_text(to)) else {
        return Ok(cast(array, to)?);
    };
    let texts: StringArray = bytes.iter().map(|value| value.map(String::from_utf8_lossy)).collect();
    Ok(cast(&texts, to)?)
}

/// A column of a part of messages.
enum PartBuilder {
    Bytes { is_key: bool, builder: BinaryBuilder },
    Topic(StringDictionaryBuilder<Int32Type>),
    Partition(Int32Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
    TimestampType(Int32Builder),
    Headers(Box<ListBuilder<StructBuilder>>),
}

impl PartBuilder {
    fn new(part: Part) -> Self {
        match part {
            Part::Key | Part::Value => Self::Bytes { is_key: part == Part::Key, builder: BinaryBuilder::new() },
            Part::Topic => Self::Topic(StringDictionaryBuilder::new()),
            Part::Partition => Self::Partition(Int32Builder::new()),
            Part::Offset => Self::Offset(Int64Builder::new()),
            Part::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            Part::TimestampType => Self::TimestampType(Int32Builder::new()),
            Part::Headers => {
                let builder = ListBuilder::new(StructBuilder::from_fields(header_fields(), 0));
                let item = Field::new_list_field(DataType::Struct(header_fields()), true);
                Self::Headers(Box::new(builder.with_field(item)))
            }
        }
    }

    fn push<M: Message>(&mut self, message: &M) {
        match self {
            Self::Bytes { is_key: true, builder } => builder.append_option(message.key()),
            Self::Bytes { is_key: false, builder } => builder.append_option(message.payload()),
            Self::Topic(builder) => builder.append_value(message.topic()),
            Self::Partition(builder) => builder.append_value(message.partition()),
            Self::Offset(builder) => builder.append_value(message.offset()),
            Self::Timestamp(builder) => {
                builder.append_option(message.timestamp().to_millis().and_then(|ms| ms.checked_mul(1000)));
            }
            Self::TimestampType(builder) => builder.append_value(match message.timestamp() {
                Timestamp::NotAvailable => -1,
                Timestamp::CreateTime(_) => 0,
                Timestamp::LogAppendTime(_) => 1,
            }),
            Self::Headers(builder) => push_headers(builder, message),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bytes { builder, .. } => Arc::new(builder.finish()),
            Self::Topic(builder) => Arc::new(builder.finish()),
            Self::Partition(builder) | Self::TimestampType(builder) => Arc::new(builder.finish()),
            Self::Offset(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::Headers(builder) => Arc::new(builder.finish()),
        }
    }
}

/// Adds a message's headers; NULL where it has none, as in Spark.
fn push_headers<M: Message>(list: &mut ListBuilder<StructBuilder>, message: &M) {
    let Some(headers) = message.headers().filter(|headers| headers.count() > 0) else {
        list.append_null();
        return;
    };
    for index in 0..headers.count() {
        // The client panics at a key that is not UTF-8; such a header is one without a name.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let header = headers.get(index);
            (header.key.to_string(), header.value.map(<[u8]>::to_vec))
        }));
        let (key, value) = read.map_or((None, None), |(key, value)| (Some(key), value));
        let pair = list.values();
        if let Some(keys) = pair.field_builder::<StringBuilder>(0) {
            keys.append_option(key);
        }
        if let Some(values) = pair.field_builder::<BinaryBuilder>(1) {
            values.append_option(value);
        }
        pair.append(true);
    }
    list.append(true);
}
