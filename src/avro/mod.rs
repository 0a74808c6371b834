//! Avro: values as other systems write them, to columns and back.
//!
//! Reading and writing bytes is arrow-avro's work. Here is what it leaves open: bad values among good ones
//! ([`datums`]), columns of another type than the schema's (`conform`, `union`, `column_type`), schemas in all
//! the spellings that are in use ([`schema`]), and a registry that knows the schema of an id ([`registry`]). Sources
//! decode values with [`AvroDecoder`]; the SQL functions `from_avro` and `to_avro` with it and [`ValueEncoder`]. Guards
//! that each value has its row, in order, and that a bad value costs its own row alone.

mod column_type;
mod conform;
mod datums;
mod encoder;
mod registry;
#[cfg(test)]
mod samples;
mod schema;
mod union;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, new_empty_array, new_null_array};
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::{DataType, Field, Fields};

use self::conform::{conform, position};
use self::datums::{Datum, DatumDecoder};
pub(crate) use self::encoder::ValueEncoder;
pub use self::registry::SchemaRegistry;
use self::schema::{RecordSchema, VALUE};
use crate::error::{Error, ErrorKind, Result};

/// The id under which a schema is kept that came with no id.
const GIVEN: u32 = 0;

/// Where the schema that a value was written with comes from.
#[derive(Debug, Clone)]
pub enum WriterSchema {
    /// One schema, as JSON, for all values: they are plain datums, without a header.
    Given(String),
    /// Values begin with Confluent's header, which is a zero byte and the id of a schema in four bytes, the highest
    /// first: the id is looked up here.
    Registry(Arc<SchemaRegistry>),
}

/// What became of values.
#[derive(Debug)]
pub struct Decoded {
    /// One column for each field, of the field's type, with a row for each value.
    pub columns: Vec<ArrayRef>,
    /// The rows of bad values, ascending, each with its reason.
    pub bad: Vec<(usize, String)>,
}

/// Decodes values, a record each, into columns by name.
#[derive(Debug)]
pub struct AvroDecoder {
    registry: Option<Arc<SchemaRegistry>>,
    fields: Fields,
    segment_rows: usize,
    /// By id, the schemas that were met; or why values of that schema cannot be read.
    writers: HashMap<u32, Result<Writer, String>>,
}

impl AvroDecoder {
    /// Makes a decoder of values into `fields`, which are matched to the record's by name: exactly, else without case.
    /// `batch_hint` is how many values come at once.
    ///
    /// # Errors
    /// `InvalidOption` where the schema that is given is no schema, is not of a record, or has a field that cannot
    /// become the declared one.
    pub fn new(writer: WriterSchema, fields: Fields, batch_hint: usize) -> Result<Self> {
        match writer {
            WriterSchema::Given(json) => {
                let schema = RecordSchema::parse(&json).map_err(|reason| unusable(&reason))?;
                Self::given(&schema, fields, batch_hint).map_err(|reason| unusable(&reason))
            }
            WriterSchema::Registry(registry) => {
                Ok(Self { registry: Some(registry), fields, segment_rows: batch_hint.max(1), writers: HashMap::new() })
            }
        }
    }

    /// Makes a decoder of plain datums of any schema, record or not, into one column of `data_type`.
    ///
    /// # Errors
    /// `InvalidQuery` where the text is no schema, or its values cannot be of that type.
    pub(crate) fn of_value(json: &str, data_type: &DataType, batch_hint: usize) -> Result<Self> {
        let fields: Fields = vec![Field::new(VALUE, data_type.clone(), true)].into();
        let schema = RecordSchema::around(json);
        let decoder = schema.and_then(|schema| Self::given(&schema, fields, batch_hint));
        decoder.map_err(|reason| Error::invalid_query(unusable(&reason).message()))
    }

    fn given(schema: &RecordSchema, fields: Fields, batch_hint: usize) -> Result<Self, String> {
        let segment_rows = batch_hint.max(1);
        let writer = Writer::new(schema, &fields, segment_rows)?;
        Ok(Self { registry: None, fields, segment_rows, writers: [(GIVEN, Ok(writer))].into() })
    }

    /// Decodes values, a row each. NULL is NULL in every column, and so is a value that does not decode. A field that
    /// does not fit its column is NULL in that column. Bad values of both kinds are named.
    ///
    /// Blocks where a registry is to be asked.
    ///
    /// # Errors
    /// `Unavailable` where the registry does not answer, `Unsupported` where it answers with a schema of another kind,
    /// `ResourcesExhausted` where the values have more than 2 GiB.
    pub fn decode(&mut self, values: &[Option<&[u8]>]) -> Result<Decoded> {
        check_size(values)?;
        let fields = self.fields.clone();
        let mut bad = BTreeMap::new();
        let mut parts = Vec::new();
        for (id, datums) in by_schema(values, self.registry.is_some(), &mut bad) {
            self.learn(id)?;
            match self.writers.get_mut(&id) {
                Some(Ok(writer)) => writer.decode(&datums, &fields, &mut parts, &mut bad)?,
                Some(Err(reason)) => condemn(&datums, &format!("schema {id} cannot be used: {reason}"), &mut bad),
                None => condemn(&datums, &format!("the schema registry knows no schema {id}"), &mut bad),
            }
        }
        Ok(Decoded { columns: assemble(&fields, &parts, values.len())?, bad: bad.into_iter().collect() })
    }

    /// Sees to it that the schema of `id` is known, if there is one. That there is none is not kept: it may be
    /// registered by the time of the next batch.
    fn learn(&mut self, id: u32) -> Result<()> {
        if let Some(registry) = &self.registry
            && !self.writers.contains_key(&id)
            && let Some(json) = registry.schema(id)?
        {
            let schema = RecordSchema::parse(&json);
            let writer = schema.and_then(|schema| Writer::new(&schema, &self.fields, self.segment_rows));
            self.writers.insert(id, writer);
        }
        Ok(())
    }
}

/// Returns the type that a column has whose values are of the schema, as Spark derives it.
///
/// # Errors
/// `InvalidQuery` where the text is no schema, or there is no such type.
pub(crate) fn value_type(json: &str) -> Result<DataType> {
    let decoder = RecordSchema::around(json).and_then(|schema| DatumDecoder::new(&schema, 1));
    let plain = decoder.and_then(|decoder| column_type::plain(decoder.schema().field(0).data_type()));
    plain.map_err(|reason| Error::invalid_query(unusable(&reason).message()))
}

fn unusable(reason: &str) -> Error {
    Error::invalid_option(format!("the Avro schema cannot be used: {reason}"))
}

/// What decodes the values of one schema.
#[derive(Debug)]
struct Writer {
    datums: DatumDecoder,
    /// For each declared field, which field of the record it is.
    sources: Vec<Option<usize>>,
}

/// Decoded rows on their way to their place.
struct Part {
    rows: Vec<usize>,
    columns: Vec<ArrayRef>,
}

impl Writer {
    /// Makes what decodes values of `schema` into `fields`, or says why that cannot be.
    fn new(schema: &RecordSchema, fields: &Fields, segment_rows: usize) -> Result<Self, String> {
        let datums = DatumDecoder::new(schema, segment_rows)?;
        let written = datums.schema();
        let sources: Vec<_> = fields.iter().map(|field| position(written.fields(), field.name())).collect();
        for (field, source) in fields.iter().zip(&sources) {
            if let Some(source) = source {
                // no values, but the types are looked at
                let no_values = new_empty_array(written.field(*source).data_type());
                let tried = conform(&no_values, field);
                tried.map_err(|error| format!("column '{}': {}", field.name(), error.message()))?;
            }
        }
        Ok(Self { datums, sources })
    }

    fn decode(
        &mut self,
        datums: &[Datum<'_>],
        fields: &Fields,
        parts: &mut Vec<Part>,
        bad: &mut BTreeMap<usize, String>,
    ) -> Result<()> {
        for segment in self.datums.decode(datums, bad)? {
            let mut columns = Vec::with_capacity(fields.len());
            for (field, source) in fields.iter().zip(&self.sources) {
                let Some(source) = source else {
                    columns.push(new_null_array(field.data_type(), segment.rows.len()));
                    continue;
                };
                let conformed = conform(segment.batch.column(*source), field)?;
                for (at, misfit) in conformed.misfits {
                    bad.entry(segment.rows[at]).or_insert_with(|| misfit.of_column(field.name()));
                }
                columns.push(conformed.array);
            }
            parts.push(Part { rows: segment.rows, columns });
        }
        Ok(())
    }
}

/// Arrow counts the bytes of a column in 31 bits.
fn check_size(values: &[Option<&[u8]>]) -> Result<()> {
    let bytes = values.iter().flatten().fold(0_usize, |sum, value| sum.saturating_add(value.len()));
    if i32::try_from(bytes).is_ok() {
        return Ok(());
    }
    let message = format!("{bytes} bytes of Avro at once do not fit one batch of columns; let batches have fewer rows");
    Err(Error::new(ErrorKind::ResourcesExhausted, message))
}

/// Deals the values out to their schemas, each in order.
fn by_schema<'a>(
    values: &[Option<&'a [u8]>],
    have_headers: bool,
    bad: &mut BTreeMap<usize, String>,
) -> Vec<(u32, Vec<Datum<'a>>)> {
    let mut dealt: Vec<(u32, Vec<Datum<'a>>)> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for (row, value) in values.iter().enumerate() {
        let Some(value) = *value else { continue };
        let split = if have_headers { split_header(value) } else { Ok((GIVEN, value)) };
        match split {
            Ok((id, bytes)) => {
                let place = *places.entry(id).or_insert_with(|| {
                    dealt.push((id, Vec::new()));
                    dealt.len() - 1
                });
                dealt[place].1.push(Datum { row, bytes });
            }
            Err(reason) => {
                bad.insert(row, reason);
            }
        }
    }
    dealt
}

/// Returns the id in Confluent's header, and the datum behind it.
fn split_header(value: &[u8]) -> Result<(u32, &[u8]), String> {
    match value {
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [] | [0, ..] => Err("it ends within the header, which is a zero byte and the id of a schema".to_string()),
        [first, ..] => Err(format!(
            "it does not begin with a zero byte and the id of a schema: its first byte is {first:#04x}; if the values \
             are plain Avro, give their schema instead of a registry"
        )),
    }
}

fn condemn(datums: &[Datum<'_>], reason: &str, bad: &mut BTreeMap<usize, String>) {
    bad.extend(datums.iter().map(|datum| (datum.row, reason.to_string())));
}

/// Puts decoded rows in their places; where there are none it is NULL.
fn assemble(fields: &Fields, parts: &[Part], rows: usize) -> Result<Vec<ArrayRef>> {
    if let [whole] = parts
        && whole.rows.len() == rows
    {
        return Ok(whole.columns.clone());
    }
    let mut places = vec![(0, 0); rows];
    for (number, part) in parts.iter().enumerate() {
        for (at, row) in part.rows.iter().enumerate() {
            places[*row] = (number + 1, at);
        }
    }
    let mut columns = Vec::with_capacity(fields.len());
    for (column, field) in fields.iter().enumerate() {
        let nothing = new_null_array(field.data_type(), 1);
        let mut arrays: Vec<&dyn Array> = vec![nothing.as_ref()];
        arrays.extend(parts.iter().map(|part| part.columns[column].as_ref()));
        columns.push(interleave(&arrays, &places)?);
    }
    Ok(columns)
}

#[cfg(test)]
mod tests;
