//! `from_json`: text to columns, by a schema that is a literal in Spark's DDL.
//!
//! A document that is not JSON gives NULL; a member that does not have its declared type is NULL and the others stay.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, Date32Array, Decimal128Array, ListArray, MapArray, PrimitiveArray,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{
    DataType, Fields, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::ReturnFieldArgs;

use super::ddl;
use super::function::{Arguments, Function, Returns, Takes};
use super::instant::{self, MICROS};
use super::json_value::Json;
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Anything, Text};
    let takes = &[Text, Text, Anything];
    vec![Function::new("from_json(json, schema)", takes, 2, Returns::From(schema), from_json)]
}

fn schema(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    if args.arg_fields.len() > 2 {
        return Err(Error::unsupported("from_json takes no options; leave the third argument out").into());
    }
    let literal = args.scalar_arguments.get(1).copied().flatten();
    let text = match literal {
        Some(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text)) => text.as_deref(),
        _ => None,
    };
    let Some(text) = text else {
        let message = "the schema of from_json must be a literal, such as 'a INT, b STRING'";
        return Err(Error::invalid_query(message).into());
    };
    let data_type = ddl::parse_schema(text)?;
    build(&data_type, &[])?;
    Ok(data_type)
}

fn from_json(args: &Arguments) -> Result<ArrayRef> {
    let documents = args.text(0)?;
    let parsed: Vec<Option<Json>> =
        (0..args.rows()).map(|row| documents.get(row).and_then(|text| parse(text, args.return_type()))).collect();
    let values: Vec<Option<&Json>> = parsed.iter().map(Option::as_ref).collect();
    build(args.return_type(), &values)
}

/// Parses a document; of an array where one object is wanted, the first element is taken.
fn parse(text: &str, wanted: &DataType) -> Option<Json> {
    match (Json::parse(text)?, wanted) {
        (Json::Array(elements), DataType::Struct(_)) => elements.into_iter().next(),
        (document, _) => Some(document),
    }
}

/// Makes a column of `data_type`; a value of another type is NULL.
fn build(data_type: &DataType, values: &[Option<&Json>]) -> Result<ArrayRef> {
    Ok(match data_type {
        DataType::Boolean => {
            let booleans = values.iter().map(|value| match value {
                Some(Json::Boolean(value)) => Some(*value),
                _ => None,
            });
            Arc::new(booleans.collect::<BooleanArray>())
        }
        DataType::Int8 => integers::<Int8Type>(values),
        DataType::Int16 => integers::<Int16Type>(values),
        DataType::Int32 => integers::<Int32Type>(values),
        DataType::Int64 => integers::<Int64Type>(values),
        DataType::Float32 => doubles::<Float32Type>(values, |value| value as f32),
        DataType::Float64 => doubles::<Float64Type>(values, |value| value),
        DataType::Decimal128(precision, scale) => {
            let decimals = values.iter().map(|value| value.and_then(|value| decimal(value, *precision, *scale)));
            Arc::new(decimals.collect::<Decimal128Array>().with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Utf8 => {
            let texts = values.iter().map(|value| value.filter(|v| **v != Json::Null).map(Json::to_text));
            Arc::new(texts.collect::<StringArray>())
        }
        DataType::Date32 => {
            let dates = values.iter().map(|value| match value {
                Some(Json::Text(text)) => instant::try_date(text),
                _ => None,
            });
            Arc::new(dates.collect::<Date32Array>())
        }
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            let timestamps = values.iter().map(|value| match value {
                Some(Json::Text(text)) => instant::try_timestamp(text),
                Some(Json::Integer(seconds)) => seconds.checked_mul(MICROS),
                _ => None,
            });
            Arc::new(timestamps.collect::<TimestampMicrosecondArray>())
        }
        DataType::List(field) => {
            let lists: Vec<Option<&Vec<Json>>> = values.iter().map(|value| elements(*value)).collect();
            let flat: Vec<Option<&Json>> = lists.iter().flatten().flat_map(|list| list.iter().map(Some)).collect();
            let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.map_or(0, Vec::len)));
            let nulls: NullBuffer = lists.iter().map(Option::is_some).collect::<Vec<bool>>().into();
            Arc::new(ListArray::try_new(Arc::clone(field), offsets, build(field.data_type(), &flat)?, Some(nulls))?)
        }
        DataType::Struct(fields) => Arc::new(build_struct(fields, values)?),
        DataType::Map(entries, _) => {
            let maps: Vec<Option<&Vec<(String, Json)>>> = values.iter().map(|value| members(*value)).collect();
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(Error::internal("the entries of a map are no structs").into());
            };
            if fields[0].data_type() != &DataType::Utf8 {
                return Err(Error::unsupported("the keys of a map from JSON are STRING").into());
            }
            let flat = || maps.iter().flatten().flat_map(|map| map.iter());
            let keys: StringArray = flat().map(|(name, _)| Some(name)).collect();
            let flat: Vec<Option<&Json>> = flat().map(|(_, value)| Some(value)).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(keys), build(fields[1].data_type(), &flat)?];
            let flat = StructArray::try_new(fields.clone(), columns, None)?;
            let offsets = OffsetBuffer::from_lengths(maps.iter().map(|map| map.map_or(0, Vec::len)));
            let nulls: NullBuffer = maps.iter().map(Option::is_some).collect::<Vec<bool>>().into();
            Arc::new(MapArray::try_new(Arc::clone(entries), offsets, flat, Some(nulls), false)?)
        }
        other => {
            return Err(Error::unsupported(format!("from_json cannot give {other}; declare it as STRING")).into());
        }
    })
}

fn build_struct(fields: &Fields, values: &[Option<&Json>]) -> Result<StructArray> {
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let members: Vec<Option<&Json>> =
            values.iter().map(|value| value.and_then(|value| value.member(field.name()))).collect();
        columns.push(build(field.data_type(), &members)?);
    }
    let is_object = |value: &Option<&Json>| matches!(value, Some(Json::Object(_)));
    let nulls: NullBuffer = values.iter().map(is_object).collect::<Vec<bool>>().into();
    Ok(StructArray::try_new(fields.clone(), columns, Some(nulls))?)
}

fn elements(value: Option<&Json>) -> Option<&Vec<Json>> {
    match value {
        Some(Json::Array(elements)) => Some(elements),
        _ => None,
    }
}

fn members(value: Option<&Json>) -> Option<&Vec<(String, Json)>> {
    match value {
        Some(Json::Object(members)) => Some(members),
        _ => None,
    }
}

fn integers<T: ArrowPrimitiveType>(values: &[Option<&Json>]) -> ArrayRef
where
    T::Native: TryFrom<i64>,
{
    let integers = values.iter().map(|value| match value {
        Some(Json::Integer(value)) => <T::Native as TryFrom<i64>>::try_from(*value).ok(),
        _ => None,
    });
    Arc::new(integers.collect::<PrimitiveArray<T>>())
}

fn doubles<T: ArrowPrimitiveType>(values: &[Option<&Json>], convert: fn(f64) -> T::Native) -> ArrayRef {
    let doubles = values.iter().map(|value| double((*value)?).map(convert));
    Arc::new(doubles.collect::<PrimitiveArray<T>>())
}

fn double(value: &Json) -> Option<f64> {
    match value {
        Json::Integer(value) => Some(*value as f64),
        Json::Double(value) => Some(*value),
        Json::Text(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" | "+Infinity" | "INF" | "+INF" => Some(f64::INFINITY),
            "-Infinity" | "-INF" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn decimal(value: &Json, precision: u8, scale: i8) -> Option<i128> {
    let power = 10_i128.checked_pow(u32::try_from(scale).ok()?)?;
    let unscaled = match value {
        Json::Integer(value) => i128::from(*value).checked_mul(power)?,
        Json::Double(value) => (value * power as f64).round() as i128,
        _ => return None,
    };
    (unscaled.unsigned_abs() < 10_u128.checked_pow(u32::from(precision))?).then_some(unscaled)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, check, null, s};

    #[test]
    fn documents_become_columns() {
        let table = [
            (r#"{"a":1,"b":"x"}"#, "a INT, b STRING", "{a: 1, b: x}"),
            (r#"{"b":{"c":1}}"#, "a INT, b STRING", r#"{a: , b: {"c":1}}"#),
            (r#"{"a":"no","b":2.5}"#, "a INT, b DOUBLE", "{a: , b: 2.5}"),
            (r#"{"a":300}"#, "a TINYINT", "{a: }"),
            (r#"{"a":[1,null,3]}"#, "a ARRAY<BIGINT>", "{a: [1, , 3]}"),
            (r#"[1,2]"#, "array<int>", "[1, 2]"),
            (r#"[{"a":1}]"#, "a INT", "{a: 1}"),
            (r#"{"k":1,"l":2}"#, "map<string,int>", "{k: 1, l: 2}"),
            (
                r#"{"t":"2024-03-05T07:08:09Z","d":"2024-03-05"}"#,
                "t TIMESTAMP, d DATE",
                "{t: 2024-03-05T07:08:09, d: 2024-03-05}",
            ),
            (r#"{"p":12.345}"#, "p DECIMAL(5,2)", "{p: 12.35}"),
            (r#"{"p":12345}"#, "p DECIMAL(5,2)", "{p: }"),
            (r#"{"a":"#, "a INT", "NULL"),
        ];
        for (document, schema, expected) in table {
            check(&[("from_json", vec![s(document), s(schema)], expected)]);
        }
        check(&[("from_json", vec![null(), s("a INT")], "NULL")]);
        assert!(call("from_json", &[s("{}"), null()]).is_err());
        assert!(call("from_json", &[s("{}"), s("a BINARY")]).is_err());
    }
}
