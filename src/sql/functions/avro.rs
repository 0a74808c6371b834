//! `from_avro` and `to_avro`: values in Avro's binary encoding, plain datums without a header, by a schema that is a
//! literal.
//!
//! A value that is no datum of the schema ends the query, or, with `MAP {'mode': 'PERMISSIVE'}`, is NULL. What has no
//! schema is written by the one that Spark derives: a struct is a record `topLevelRecord`, and what may be NULL in it a
//! union of its type and null.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, MapArray, new_empty_array};
use datafusion::arrow::compute::{cast, nullif};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::ReturnFieldArgs;

use super::function::{Arguments, Function, Returns, Takes};
use crate::avro::{AvroDecoder, ValueEncoder, value_type};
use crate::error::Error;
use crate::options::{Options, bad_value};

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Anything, Text};
    vec![
        Function::new(
            "from_avro(bytes, schema[, options])",
            &[Anything, Text, Anything],
            2,
            Returns::From(from_avro_type),
            from_avro,
        ),
        Function::new("to_avro(value[, schema])", &[Anything, Text], 1, Returns::From(to_avro_type), to_avro),
    ]
}

/// Returns the schema among the arguments of a plan.
fn literal<'a>(args: &ReturnFieldArgs<'a>, function: &str) -> Result<&'a str> {
    let text = match args.scalar_arguments.get(1).copied().flatten() {
        Some(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text)) => text.as_deref(),
        _ => None,
    };
    text.ok_or_else(|| {
        let message =
            format!("the schema of {function} must be a literal, such as '\"long\"' or that of a record in JSON");
        Error::invalid_query(message).into()
    })
}

/// Returns the schema among the arguments of a batch.
fn schema(args: &Arguments) -> Result<&str> {
    let schema = args.text(1)?.get(0);
    schema.ok_or_else(|| Error::internal("the schema is NULL, which planning did not promise").into())
}

fn from_avro_type(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    let given = args.arg_fields[0].data_type();
    if !is_bytes(given) {
        return Err(Error::invalid_query(format!("from_avro reads BINARY, not {given}")).into());
    }
    if let Some(options) = args.arg_fields.get(2)
        && !matches!(options.data_type(), DataType::Map(_, _))
    {
        let message = format!("the options of from_avro are a map, such as {PERMISSIVE}, not {}", options.data_type());
        return Err(Error::invalid_query(message).into());
    }
    Ok(value_type(literal(args, "from_avro")?)?)
}

/// How the lenient mode is asked for, for messages.
const PERMISSIVE: &str = "MAP {'mode': 'PERMISSIVE'}";

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) | DataType::Null
    )
}

fn from_avro(args: &Arguments) -> Result<ArrayRef> {
    if args.rows() == 0 {
        return Ok(new_empty_array(args.return_type()));
    }
    fails_fast(args, 0)?;
    let bytes = cast(&args.array(0)?, &DataType::Binary)?;
    let values: Vec<Option<&[u8]>> = bytes.as_binary::<i32>().iter().collect();
    let mut decoder = AvroDecoder::of_value(schema(args)?, args.return_type(), args.rows())?;
    let decoded = decoder.decode(&values)?;
    let mut is_bad = vec![false; args.rows()];
    for (row, reason) in &decoded.bad {
        if fails_fast(args, *row)? {
            let length = values.get(*row).copied().flatten().map_or(0, <[u8]>::len);
            let message = format!(
                "from_avro cannot read a value of {length} bytes: {reason}; mend the data or the schema, or let such \
                 values be NULL with {PERMISSIVE}"
            );
            return Err(Error::data_invalid(message).into());
        }
        is_bad[*row] = true;
    }
    let Some(column) = decoded.columns.first() else {
        return Err(Error::internal("from_avro decoded no column").into());
    };
    // a value that is bad in part is NULL as a whole
    if decoded.bad.is_empty() { Ok(Arc::clone(column)) } else { Ok(nullif(column, &BooleanArray::from(is_bad))?) }
}

/// Returns whether a bad value in `row` ends the query.
fn fails_fast(args: &Arguments, row: usize) -> Result<bool> {
    if args.len() < 3 {
        return Ok(true);
    }
    let Some(entries) = args.column::<MapArray>(2)?.get(row) else {
        return Ok(true);
    };
    let (names, values) = (cast(entries.column(0), &DataType::Utf8)?, cast(entries.column(1), &DataType::Utf8)?);
    let pairs = names.as_string::<i32>().iter().zip(values.as_string::<i32>().iter());
    let options: Options = pairs.map(|(name, value)| (name.unwrap_or_default(), value.unwrap_or_default())).collect();
    options.check_known("from_avro", &["mode"])?;
    match options.get("mode").map(|mode| mode.trim().to_uppercase()).as_deref() {
        None | Some("FAILFAST") => Ok(true),
        Some("PERMISSIVE") => Ok(false),
        Some(other) => Err(bad_value("mode", other, "FAILFAST or PERMISSIVE").into()),
    }
}

fn to_avro_type(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    let schema = if args.arg_fields.len() > 1 { Some(literal(args, "to_avro")?) } else { None };
    ValueEncoder::new(schema, args.arg_fields[0].data_type())?;
    Ok(DataType::Binary)
}

fn to_avro(args: &Arguments) -> Result<ArrayRef> {
    if args.rows() == 0 {
        return Ok(new_empty_array(args.return_type()));
    }
    let values = args.array(0)?;
    let schema = if args.len() > 1 { Some(schema(args)?) } else { None };
    Ok(Arc::new(ValueEncoder::new(schema, values.data_type())?.encode(&values)?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, MapBuilder, StringArray, StringBuilder, StructArray};
    use datafusion::arrow::datatypes::{Field, Fields};

    use super::super::tests::{call, check, null, s};
    use super::*;
    use crate::error::ErrorKind;

    const RECORD: &str = r#"{"type":"record","name":"r","fields":[
        {"name":"a","type":"int"},{"name":"b","type":["null","string"]}]}"#;

    fn bytes(bytes: &[u8]) -> ScalarValue {
        ScalarValue::Binary(Some(bytes.to_vec()))
    }

    fn options(pairs: &[(&str, &str)]) -> ScalarValue {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for (name, value) in pairs {
            map.keys().append_value(name);
            map.values().append_value(value);
        }
        map.append(true).unwrap();
        ScalarValue::Map(Arc::new(map.finish()))
    }

    fn pair(a: Option<i32>, b: Option<&str>) -> ScalarValue {
        let fields: Fields = vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)].into();
        let columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![a])), Arc::new(StringArray::from(vec![b]))];
        ScalarValue::Struct(Arc::new(StructArray::try_new(fields, columns, None).unwrap()))
    }

    fn refusal(name: &str, args: &[ScalarValue]) -> Error {
        Error::from(call(name, args).unwrap_err())
    }

    #[test]
    fn datums_become_values() {
        check(&[
            ("from_avro", vec![bytes(&[2, 2, 2, b'x']), s(RECORD)], "{a: 1, b: x}"),
            ("from_avro", vec![bytes(&[1, 0]), s(RECORD)], "{a: -1, b: }"),
            ("from_avro", vec![bytes(&[14]), s(r#""long""#)], "7"),
            ("from_avro", vec![bytes(&[2, 4, b'o', b'k']), s(r#"["null","string"]"#)], "ok"),
            ("from_avro", vec![bytes(&[0]), s(r#"["null","string"]"#)], "NULL"),
            ("from_avro", vec![bytes(&[4, 2, 4, 0]), s(r#"{"type":"array","items":"int"}"#)], "[1, 2]"),
            ("from_avro", vec![null(), s(RECORD)], "NULL"),
            ("from_avro", vec![bytes(&[2, 0]), s(RECORD), options(&[])], "{a: 1, b: }"),
        ]);
    }

    #[test]
    fn a_bad_datum_ends_the_query_or_is_null() {
        let lenient = || options(&[("MODE", "permissive")]);
        check(&[
            ("from_avro", vec![bytes(&[2]), s(RECORD), lenient()], "NULL"),
            ("from_avro", vec![bytes(&[2, 0, 9]), s(RECORD), lenient()], "NULL"),
            ("from_avro", vec![bytes(&[2, 0]), s(RECORD), lenient()], "{a: 1, b: }"),
        ]);
        for args in
            [vec![bytes(&[2, 0, 9]), s(RECORD)], vec![bytes(&[2, 0, 9]), s(RECORD), options(&[("mode", "FAILFAST")])]]
        {
            let error = refusal("from_avro", &args);
            assert_eq!(error.kind(), ErrorKind::DataInvalid);
            assert!(error.message().contains("a value of 3 bytes") && error.message().contains(PERMISSIVE), "{error}");
        }
        for (pairs, expected) in
            [(("mode", "DROPMALFORMED"), "FAILFAST or PERMISSIVE"), (("moed", "x"), "did you mean")]
        {
            let error = refusal("from_avro", &[bytes(&[2, 0]), s(RECORD), options(&[pairs])]);
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            assert!(error.message().contains(expected), "{error}");
        }
    }

    #[test]
    fn values_become_datums_and_come_back() {
        let avro = |args: &[ScalarValue]| match call("to_avro", args).unwrap() {
            ScalarValue::Binary(datum) => datum,
            other => panic!("{other:?}"),
        };
        // in a union that is derived the value comes first and null second, as in Spark
        assert_eq!(avro(&[pair(Some(1), None)]), Some(vec![0, 2, 2]));
        assert_eq!(avro(&[pair(Some(1), Some("x")), s(RECORD)]), Some(vec![2, 2, 2, b'x']));
        assert_eq!(avro(&[ScalarValue::from(7_i64)]), Some(vec![14]));
        assert_eq!(avro(&[s("ok"), s(r#"["null","string"]"#)]), Some(vec![2, 4, b'o', b'k']));
        assert_eq!(avro(&[ScalarValue::Int64(None)]), None);
        let there = call("to_avro", &[pair(Some(-5), Some("")), s(RECORD)]).unwrap();
        check(&[("from_avro", vec![there, s(RECORD)], "{a: -5, b: }")]);
    }

    #[test]
    fn calls_that_cannot_be_say_why() {
        let table = [
            ("from_avro", vec![bytes(&[2]), null()], "the schema of from_avro must be a literal"),
            ("from_avro", vec![bytes(&[2]), s("{")], "it is not JSON"),
            ("from_avro", vec![s("text"), s(RECORD)], "from_avro reads BINARY, not Utf8"),
            ("from_avro", vec![bytes(&[2]), s(RECORD), s("PERMISSIVE")], "are a map"),
            ("from_avro", vec![bytes(&[2])], "do not fit from_avro(bytes, schema[, options])"),
            ("to_avro", vec![pair(None, None), s(r#""int""#)], "cannot be written as Avro"),
            ("to_avro", vec![ScalarValue::IntervalMonthDayNano(None)], "has no type in Avro"),
        ];
        for (name, args, expected) in table {
            let error = refusal(name, &args);
            assert_eq!(error.kind(), ErrorKind::InvalidQuery, "{error}");
            assert!(error.message().contains(expected), "{error}");
        }
        let error = refusal("to_avro", &[pair(None, None), s(RECORD)]);
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        assert!(error.message().contains("'value.a': it is NULL"), "{error}");
    }
}
