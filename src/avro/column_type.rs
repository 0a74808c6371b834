//! The types of columns and Avro's schemas, each derived from the other as Spark derives them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit, UnionFields};
use serde_json::{Value, json};

use super::schema::Result;
use super::union::member;

/// What a record derived from a column is called, as in Spark.
const TOP_LEVEL: &str = "topLevelRecord";

/// Returns the type of a column for values that arrow-avro decodes as `decoded`, as Spark derives it.
pub(super) fn plain(decoded: &DataType) -> Result<DataType> {
    let nullable =
        |name: &str, data_type: &DataType| -> Result<Field> { Ok(Field::new(name, plain(data_type)?, true)) };
    Ok(match decoded {
        DataType::Dictionary(_, _) => DataType::Utf8,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Time32(_) => DataType::Int32,
        DataType::Time64(_) => DataType::Int64,
        DataType::Decimal256(precision, _) => {
            return Err(format!("a decimal of {precision} digits is none of a column, which has 38 at most"));
        }
        DataType::List(element) => DataType::List(Arc::new(Field::new_list_field(plain(element.data_type())?, true))),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                let key = Field::new("key", DataType::Utf8, false);
                let entry: Fields = vec![key, nullable("value", pair[1].data_type())?].into();
                DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
            }
            other => return Err(format!("{other} are no entries of a map")),
        },
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| nullable(field.name(), field.data_type()));
            DataType::Struct(fields.collect::<Result<Vec<Field>>>()?.into())
        }
        DataType::Union(types, _) => plain_union(types)?,
        other => other.clone(),
    })
}

fn plain_union(types: &UnionFields) -> Result<DataType> {
    let valued = types.iter().map(|(_, field)| field.data_type()).filter(|data_type| !data_type.is_null());
    let valued: Vec<&DataType> = valued.collect();
    Ok(match valued.as_slice() {
        [] => DataType::Null,
        [one] => plain(one)?,
        [DataType::Int32, DataType::Int64] | [DataType::Int64, DataType::Int32] => DataType::Int64,
        [DataType::Float32, DataType::Float64] | [DataType::Float64, DataType::Float32] => DataType::Float64,
        several => {
            let members = several.iter().enumerate();
            let members = members.map(|(number, of)| Ok(Field::new(member(number), plain(of)?, true)));
            DataType::Struct(members.collect::<Result<Vec<Field>>>()?.into())
        }
    })
}

/// Derives the schema of a column's type, as Spark does. The value itself is not nullable: NULL is no datum.
pub(super) fn schema_of(data_type: &DataType) -> Result<Value> {
    derived(data_type, false, TOP_LEVEL, "")
}

/// Derives the schema of a part. Nested records are called after their field, in a namespace of their own.
fn derived(data_type: &DataType, nullable: bool, name: &str, namespace: &str) -> Result<Value> {
    let within = if namespace.is_empty() { name.to_string() } else { format!("{namespace}.{name}") };
    let schema = match data_type {
        DataType::Null => return Ok(json!("null")),
        DataType::Dictionary(_, values) => return derived(values, nullable, name, namespace),
        DataType::Boolean => json!("boolean"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => json!("int"),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => json!("long"),
        DataType::Float16 | DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => json!("string"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            json!("bytes")
        }
        DataType::Date32 | DataType::Date64 => json!({"type": "int", "logicalType": "date"}),
        DataType::Timestamp(_, _) => json!({"type": "long", "logicalType": "timestamp-micros"}),
        DataType::Decimal128(precision, scale) if *scale >= 0 => json!({
            "type": "fixed", "name": "fixed", "namespace": within, "size": bytes_of(*precision),
            "logicalType": "decimal", "precision": precision, "scale": scale,
        }),
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            json!({"type": "array", "items": derived(element.data_type(), element.is_nullable(), name, namespace)?})
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 && is_text(pair[0].data_type()) => {
                let value = derived(pair[1].data_type(), pair[1].is_nullable(), name, namespace)?;
                json!({"type": "map", "values": value})
            }
            _ => return Err(format!("the keys of '{name}' are no text, which they are in Avro")),
        },
        DataType::Struct(fields) => {
            let field = |field: &Field| -> Result<Value> {
                let own = field.name();
                if !is_name(own) {
                    return Err(format!("'{own}' is no name in Avro (letters, digits and _): rename it with AS"));
                }
                let schema = derived(field.data_type(), field.is_nullable(), own, &within)?;
                Ok(json!({"name": own, "type": schema}))
            };
            let fields = fields.iter().map(|of| field(of.as_ref())).collect::<Result<Vec<Value>>>()?;
            let mut record = json!({"type": "record", "name": name, "fields": fields});
            if !namespace.is_empty() {
                record["namespace"] = json!(namespace);
            }
            record
        }
        other => return Err(format!("'{name}' is {other}, which has no type in Avro; cast it")),
    };
    Ok(if nullable { json!([schema, "null"]) } else { schema })
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Returns how many bytes hold any number of `precision` digits.
fn bytes_of(precision: u8) -> usize {
    let holds = |bytes: &i32| 2_f64.powi(8 * bytes - 1) >= 10_f64.powi(i32::from(precision));
    (1..).find(holds).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(16)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::IntervalUnit;

    use super::*;

    #[test]
    fn columns_have_sparks_schemas() {
        let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
        let inner = DataType::Struct(vec![field("d", DataType::Decimal128(10, 2), false)].into());
        let list = DataType::List(Arc::new(Field::new_list_field(inner, true)));
        let columns = DataType::Struct(
            vec![
                field("a", DataType::Int16, true),
                field("t", DataType::Timestamp(TimeUnit::Microsecond, None), false),
                field("l", list, true),
            ]
            .into(),
        );
        let schema = schema_of(&columns).unwrap();
        let expected = r#"{"type":"record","name":"topLevelRecord","fields":[
            {"name":"a","type":["int","null"]},
            {"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}},
            {"name":"l","type":[{"type":"array","items":[
                {"type":"record","name":"l","namespace":"topLevelRecord","fields":[
                    {"name":"d","type":{"type":"fixed","name":"fixed","namespace":"topLevelRecord.l.d","size":5,
                        "logicalType":"decimal","precision":10,"scale":2}}]},"null"]},"null"]}]}"#;
        assert_eq!(schema, serde_json::from_str::<Value>(expected).unwrap());
        let refused = DataType::Struct(vec![field("a-b", DataType::Int16, true)].into());
        assert!(schema_of(&refused).unwrap_err().contains("'a-b' is no name in Avro"));
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        assert!(schema_of(&interval).unwrap_err().contains("cast it"));
        for (precision, bytes) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 4), (10, 5), (18, 8), (19, 9), (38, 16)]
        {
            assert_eq!(bytes_of(precision), bytes, "{precision}");
        }
    }
}
