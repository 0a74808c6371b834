//! Encodes a column as Avro, a plain datum a value: what `to_avro` gives.
//!
//! The column is first made what the schema asks for, by the names of fields; arrow-avro then writes the bytes. Guards
//! that nothing is written that the schema does not say: a value that does not fit, a field that the schema does not
//! have and NULL where it wants a value are errors, since a datum with something else in it would be read as if it were
//! right.

use std::sync::Arc;

use arrow_avro::schema::SCHEMA_METADATA_KEY;
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroBinaryFormat;
use datafusion::arrow::array::{Array, ArrayRef, BinaryArray, BinaryBuilder, RecordBatch, new_empty_array};
use datafusion::arrow::compute::{filter, is_not_null};
use datafusion::arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};

use super::conform::{conform, position};
use super::datums::DatumDecoder;
use super::schema::{RecordSchema, VALUE};
use crate::error::{Error, Result};

/// Encodes values of one type by one schema.
#[derive(Debug)]
pub(crate) struct ValueEncoder {
    /// One field, as arrow-avro reads the schema, with the schema itself in the metadata.
    schema: SchemaRef,
    field: FieldRef,
}

impl ValueEncoder {
    /// Makes an encoder of values of `data_type` by the schema that is given, else by the one that Spark derives from
    /// the type.
    ///
    /// # Errors
    /// `InvalidQuery` where the text is no schema, or the type does not fit it or has none.
    pub(crate) fn new(schema: Option<&str>, data_type: &DataType) -> Result<Self> {
        let made = match schema {
            Some(text) => RecordSchema::around(text).and_then(|schema| Self::fitting(&schema, data_type)),
            None => RecordSchema::of_type(data_type).and_then(|schema| Self::fitting(&schema, data_type)),
        };
        made.map_err(|reason| Error::invalid_query(format!("{data_type} cannot be written as Avro: {reason}")))
    }

    fn fitting(record: &RecordSchema, data_type: &DataType) -> Result<Self, String> {
        // what a reader makes of the schema is what the writer wants to be given
        let read = DatumDecoder::new(record, 1)?.schema();
        let field = Arc::clone(&read.fields()[0]);
        check_fields(VALUE, data_type, field.data_type())?;
        conform(&new_empty_array(data_type), &field).map_err(|error| error.message().to_string())?;
        let metadata = [(SCHEMA_METADATA_KEY.to_string(), record.json().to_string())].into();
        let schema = Arc::new(Schema::new_with_metadata(vec![Arc::clone(&field)], metadata));
        Ok(Self { schema, field })
    }

    /// Encodes values; NULL stays NULL.
    ///
    /// # Errors
    /// `DataInvalid` where a value does not fit the schema.
    pub(crate) fn encode(&self, values: &ArrayRef) -> Result<BinaryArray> {
        let present = is_not_null(values)?;
        let conformed = conform(&filter(values, &present)?, &self.field)?;
        if let Some((_, misfit)) = conformed.misfits.into_iter().next() {
            return Err(Error::data_invalid(format!("to_avro: {}", misfit.of_column(VALUE))));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), vec![conformed.array])?;
        let unwritten = |reason: String| Error::internal(format!("a column was not written as Avro: {reason}"));
        let mut encoder = WriterBuilder::new(self.schema.as_ref().clone())
            .build_encoder::<AvroBinaryFormat>()
            .map_err(|error| unwritten(error.to_string()))?;
        encoder.encode(&batch).map_err(|error| unwritten(error.to_string()))?;
        let rows = encoder.flush();
        let mut written = rows.iter();
        let mut datums = BinaryBuilder::with_capacity(values.len(), rows.bytes().len());
        for is_present in present.values() {
            if !is_present {
                datums.append_null();
                continue;
            }
            datums.append_value(written.next().ok_or_else(|| unwritten("a row is missing".to_string()))?);
        }
        Ok(datums.finish())
    }
}

/// Checks that the fields of records are those of the schema, but for those that may be left out.
fn check_fields(path: &str, given: &DataType, wanted: &DataType) -> Result<(), String> {
    match (given, wanted) {
        (DataType::Struct(given), DataType::Struct(wanted)) => check_record(path, given, wanted),
        (
            DataType::List(given) | DataType::LargeList(given) | DataType::FixedSizeList(given, _),
            DataType::List(wanted),
        ) => check_fields(&format!("{path}.element"), given.data_type(), wanted.data_type()),
        (DataType::Map(given, _), DataType::Map(wanted, _)) => match (given.data_type(), wanted.data_type()) {
            (DataType::Struct(given), DataType::Struct(wanted)) if given.len() == 2 && wanted.len() == 2 => {
                check_fields(&format!("{path}.value"), given[1].data_type(), wanted[1].data_type())
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn check_record(path: &str, given: &Fields, wanted: &Fields) -> Result<(), String> {
    if let Some(extra) = given.iter().find(|field| position(wanted, field.name()).is_none()) {
        return Err(format!("the schema has no field '{}' in '{path}'", extra.name()));
    }
    for field in wanted {
        match position(given, field.name()) {
            Some(at) => check_fields(&format!("{path}.{}", field.name()), given[at].data_type(), field.data_type())?,
            None if field.is_nullable() => {}
            None => return Err(format!("'{path}' has no field '{}', which the schema wants", field.name())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        Decimal128Array, Int32Array, Int64Array, ListBuilder, MapBuilder, StringArray, StringBuilder, StructArray,
        TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::Field;

    use super::super::AvroDecoder;
    use super::super::samples::{long, text};
    use super::*;
    use crate::error::ErrorKind;

    fn encoded(schema: Option<&str>, values: &ArrayRef) -> Result<Vec<Option<Vec<u8>>>> {
        let datums = ValueEncoder::new(schema, values.data_type())?.encode(values)?;
        Ok(datums.iter().map(|datum| datum.map(<[u8]>::to_vec)).collect())
    }

    fn structs(columns: Vec<(&str, ArrayRef, bool)>) -> ArrayRef {
        let fields: Fields =
            columns.iter().map(|(name, of, nullable)| Field::new(*name, of.data_type().clone(), *nullable)).collect();
        let columns = columns.into_iter().map(|(_, column, _)| column).collect();
        Arc::new(StructArray::try_new(fields, columns, None).unwrap())
    }

    #[test]
    fn bytes_are_those_of_the_specification() {
        let longs: ArrayRef = Arc::new(Int64Array::from(vec![Some(-300), None, Some(7)]));
        assert_eq!(encoded(None, &longs).unwrap(), [Some(long(-300)), None, Some(long(7))]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["ab", ""]));
        assert_eq!(encoded(None, &texts).unwrap(), [Some(text("ab")), Some(text(""))]);
        let record = structs(vec![
            ("a", Arc::new(Int32Array::from(vec![Some(1), None])), true),
            ("b", Arc::new(StringArray::from(vec!["x", "y"])), false),
        ]);
        // in a union the value comes first and null second, as in Spark
        let expected = [Some([long(0), long(1), text("x")].concat()), Some([long(1), text("y")].concat())];
        assert_eq!(encoded(None, &record).unwrap(), expected);
        let null_first = r#"{"type":"record","name":"r","fields":[
            {"name":"b","type":"string"},{"name":"A","type":["null","long"]},{"name":"c","type":["null","int"]}]}"#;
        let expected =
            [Some([text("x"), long(1), long(1), long(0)].concat()), Some([text("y"), long(0), long(0)].concat())];
        assert_eq!(encoded(Some(null_first), &record).unwrap(), expected);
    }

    #[test]
    fn enums_fixed_and_units_follow_the_schema() {
        let symbols = r#"{"type":"enum","name":"e","symbols":["A","B"]}"#;
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("B"), Some("A"), None]));
        assert_eq!(encoded(Some(symbols), &texts).unwrap(), [Some(long(1)), Some(long(0)), None]);
        let millis = r#"{"type":"long","logicalType":"timestamp-millis"}"#;
        let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, -1]));
        assert_eq!(encoded(Some(millis), &moments).unwrap(), [Some(long(1_500)), Some(long(-1))]);
        let decimals = Decimal128Array::from(vec![-1]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(encoded(None, &(Arc::new(decimals) as ArrayRef)).unwrap(), [Some(vec![0xff; 5])]);
        let fixed = r#"{"type":"fixed","name":"f","size":2}"#;
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"ab".as_slice()]));
        assert_eq!(encoded(Some(fixed), &bytes).unwrap(), [Some(b"ab".to_vec())]);
    }

    #[test]
    fn what_the_schema_does_not_say_is_not_written() {
        let record = structs(vec![("a", Arc::new(Int32Array::from(vec![Some(1), None])), true)]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["C"]));
        let of = |fields: &str| format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#);
        let table = [
            (&record, of(""), "the schema has no field 'a' in 'value'", ErrorKind::InvalidQuery),
            (
                &record,
                of(r#"{"name":"a","type":["null","int"]},{"name":"b","type":"int"}"#),
                "'value' has no field 'b', which the schema wants",
                ErrorKind::InvalidQuery,
            ),
            (
                &record,
                of(r#"{"name":"a","type":{"type":"map","values":"int"}}"#),
                "cannot become",
                ErrorKind::InvalidQuery,
            ),
            (&record, of(r#"{"name":"a","type":"int"}"#), "column 'value.a': it is NULL", ErrorKind::DataInvalid),
            (&record, "{".to_string(), "it is not JSON", ErrorKind::InvalidQuery),
            (
                &texts,
                r#"{"type":"enum","name":"e","symbols":["A"]}"#.to_string(),
                "column 'value': 'C' is no",
                ErrorKind::DataInvalid,
            ),
            (&texts, r#"["string","int"]"#.to_string(), "cannot become", ErrorKind::InvalidQuery),
        ];
        for (values, schema, expected, kind) in table {
            let error = encoded(Some(&schema), values).unwrap_err();
            assert!(error.message().contains(expected), "{schema}: {error}");
            assert_eq!(error.kind(), kind, "{schema}");
        }
    }

    #[test]
    fn nested_values_come_back_as_they_went() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("a"), None]);
        lists.append_null();
        lists.append_value([None::<&str>; 0]);
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for entries in [vec![("k", Some("v")), ("l", None)], vec![], vec![("m", Some(""))]] {
            for (key, value) in entries {
                maps.keys().append_value(key);
                maps.values().append_option(value);
            }
            maps.append(true).unwrap();
        }
        let inner = structs(vec![("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MIN)])), true)]);
        let all = structs(vec![
            ("list", Arc::new(lists.finish()), true),
            ("map", Arc::new(maps.finish()), true),
            ("inner", inner, true),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(-1)])), true),
        ]);
        let schema = RecordSchema::of_type(all.data_type()).unwrap();
        let schema: serde_json::Value = serde_json::from_str(schema.json()).unwrap();
        let schema = schema["fields"][0]["type"].to_string();
        let data_type = super::super::value_type(&schema).unwrap();
        let datums = ValueEncoder::new(None, all.data_type()).unwrap().encode(&all).unwrap();
        let values: Vec<Option<&[u8]>> = datums.iter().collect();
        let decoded = AvroDecoder::of_value(&schema, &data_type, 8).unwrap().decode(&values).unwrap();
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        let shown = |array: &ArrayRef| {
            let cell = datafusion::arrow::util::display::array_value_to_string;
            (0..array.len()).map(|row| cell(array, row).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&decoded.columns[0]), shown(&all));
    }
}
