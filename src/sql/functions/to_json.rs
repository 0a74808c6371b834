//! `to_json`: a struct, a map or an array to text.
//!
//! A member that is NULL is left out, as in Spark; an element of an array or of a map that is NULL is written.
//! Timestamps are written in UTC to the millisecond, bytes as base64.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, TimestampMicrosecondType};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::{DataFusionError, Result};

use super::function::{Arguments, Function, Returns, TIMESTAMP, Takes, texts};
use super::instant;
use super::json_value::write_quoted;
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    vec![Function::new("to_json(value)", &[Takes::Anything], 1, Returns::Type(DataType::Utf8), to_json)]
}

fn to_json(args: &Arguments) -> Result<ArrayRef> {
    let values = args.array(0)?;
    texts(args.rows(), |row| {
        if values.is_null(row) {
            return Ok(None);
        }
        let mut out = String::new();
        write_value(&values, row, &mut out)?;
        Ok(Some(out))
    })
}

fn write_value(array: &ArrayRef, row: usize, out: &mut String) -> Result<()> {
    if array.is_null(row) || array.data_type().is_null() {
        out.push_str("null");
        return Ok(());
    }
    match array.data_type() {
        DataType::Utf8 => quote(out, array.as_string::<i32>().value(row))?,
        DataType::LargeUtf8 => quote(out, array.as_string::<i64>().value(row))?,
        DataType::Utf8View => quote(out, array.as_string_view().value(row))?,
        DataType::Dictionary(_, values) => write_value(&cast(&array.slice(row, 1), values)?, 0, out)?,
        DataType::Float32 => write_double(out, f64::from(array.as_primitive::<Float32Type>().value(row)), |out| {
            write!(out, "{:?}", array.as_primitive::<Float32Type>().value(row))
        })?,
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            write_double(out, value, |out| write!(out, "{value:?}"))?;
        }
        DataType::Timestamp(_, _) => {
            let timestamp = cast(&array.slice(row, 1), &TIMESTAMP)?;
            let micros = timestamp.as_primitive::<TimestampMicrosecondType>().value(0);
            match instant::moment_of(micros) {
                Some(moment) => quote(out, &moment.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())?,
                None => out.push_str("null"),
            }
        }
        DataType::List(_) => {
            let elements = array.as_list::<i32>().value(row);
            out.push('[');
            for element in 0..elements.len() {
                out.push_str(if element > 0 { "," } else { "" });
                write_value(&elements, element, out)?;
            }
            out.push(']');
        }
        DataType::Struct(fields) => {
            out.push('{');
            let mut separator = "";
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                if column.is_valid(row) && !column.data_type().is_null() {
                    out.push_str(separator);
                    quote(out, field.name())?;
                    out.push(':');
                    write_value(column, row, out)?;
                    separator = ",";
                }
            }
            out.push('}');
        }
        DataType::Map(_, _) => write_map(array, row, out)?,
        data_type if data_type.is_numeric() || *data_type == DataType::Boolean => {
            out.push_str(&array_value_to_string(array, row)?);
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = cast(&array.slice(row, 1), &DataType::Binary)?;
            quote(out, &STANDARD.encode(bytes.as_binary::<i32>().value(0)))?;
        }
        _ => quote(out, &array_value_to_string(array, row)?)?,
    }
    Ok(())
}

fn write_map(array: &ArrayRef, row: usize, out: &mut String) -> Result<()> {
    let entries = array.as_map().value(row);
    out.push('{');
    for entry in 0..entries.len() {
        out.push_str(if entry > 0 { "," } else { "" });
        quote(out, &array_value_to_string(entries.column(0), entry)?)?;
        out.push(':');
        write_value(entries.column(1), entry, out)?;
    }
    out.push('}');
    Ok(())
}

/// JSON has no name for what is not finite, so such a number is written as text.
fn write_double(
    out: &mut String,
    value: f64,
    write_finite: impl FnOnce(&mut String) -> std::fmt::Result,
) -> Result<()> {
    match value {
        _ if value.is_nan() => out.push_str("\"NaN\""),
        f64::INFINITY => out.push_str("\"Infinity\""),
        f64::NEG_INFINITY => out.push_str("\"-Infinity\""),
        _ => write_finite(out).map_err(unwritten)?,
    }
    Ok(())
}

fn quote(out: &mut String, text: &str) -> Result<()> {
    write_quoted(out, text).map_err(unwritten)
}

fn unwritten(error: std::fmt::Error) -> DataFusionError {
    Error::internal("text could not be written to memory").with_source(error).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int32Array, StringArray, StructArray};
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::common::ScalarValue;

    use super::super::tests::{call, check, ts};

    #[test]
    fn values_become_documents() {
        let columns: Vec<(Arc<Field>, ArrayRef)> = vec![
            (Arc::new(Field::new("a", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1]))),
            (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x\"y"]))),
            (Arc::new(Field::new("c", DataType::Float64, true)), Arc::new(Float64Array::from(vec![2.0]))),
            (Arc::new(Field::new("d", DataType::Utf8, true)), Arc::new(StringArray::from(vec![None::<&str>]))),
        ];
        let row = ScalarValue::Struct(Arc::new(StructArray::from(columns)));
        check(&[("to_json", vec![row], r#"{"a":1,"b":"x\"y","c":2.0}"#)]);
        let times = [ts("2024-03-05 07:08:09.1234"), ScalarValue::TimestampMicrosecond(None, None)];
        let list = ScalarValue::List(ScalarValue::new_list_nullable(&times, &times[0].data_type()));
        check(&[("to_json", vec![list], r#"["2024-03-05T07:08:09.123Z",null]"#)]);
        let read = call(
            "from_json",
            &[ScalarValue::from(r#"{"k":{"x":null}}"#), ScalarValue::from("map<string,map<string,int>>")],
        );
        check(&[("to_json", vec![read.unwrap()], r#"{"k":{"x":null}}"#)]);
    }
}
