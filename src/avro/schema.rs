//! Avro's schemas: from all the spellings that are in use to one.
//!
//! What arrow-avro is given is a record whose named types stand where they are used, without what decoding does not
//! need (docs, defaults, aliases, logical types that it reads as something else than Spark does). A schema that is not
//! a record's stands in a record of one field, whose bytes are the same. Guards that what cannot be read is told in the
//! words of the schema.

use std::collections::HashMap;

use datafusion::arrow::datatypes::DataType;
use serde_json::{Map, Value, json};

use super::column_type::schema_of;

/// The field that holds a value whose schema is not a record's.
pub(super) const VALUE: &str = "value";

/// The record around such a value.
const RECORD: &str = "MillstreamValue";

/// How large a schema may be with its named types where they are used.
const MAX_TYPES: usize = 20_000;

/// Parts of a schema that cannot be used say why.
pub(super) type Result<T> = std::result::Result<T, String>;

/// The schema of a record, as arrow-avro reads it.
#[derive(Debug, Clone)]
pub(super) struct RecordSchema {
    json: String,
}

impl RecordSchema {
    /// Reads the schema of a record.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let schema = read(text)?;
        match schema.get("type").and_then(Value::as_str) {
            Some("record") => Ok(Self { json: schema.to_string() }),
            _ => Err(format!("it is {}, and columns are the fields of a record", kind(&schema))),
        }
    }

    /// Reads any schema, and makes it that of the one field [`VALUE`].
    pub(super) fn around(text: &str) -> Result<Self> {
        Ok(Self::of_field(&read(text)?))
    }

    /// Derives the schema of the one field [`VALUE`] from a column's type.
    pub(super) fn of_type(data_type: &DataType) -> Result<Self> {
        Ok(Self::of_field(&schema_of(data_type)?))
    }

    fn of_field(schema: &Value) -> Self {
        let record = json!({"type": "record", "name": RECORD, "fields": [{"name": VALUE, "type": schema}]});
        Self { json: record.to_string() }
    }

    /// Returns the schema as text.
    pub(super) fn json(&self) -> &str {
        &self.json
    }
}

fn read(text: &str) -> Result<Value> {
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    Reader::default().read(&schema, "").map(|(schema, _)| schema)
}

/// Names the kind of a schema that has been read.
fn kind(schema: &Value) -> String {
    match schema {
        Value::String(name) => format!("of type '{name}'"),
        Value::Array(_) => "a union".to_string(),
        schema => format!("of type '{}'", schema.get("type").and_then(Value::as_str).unwrap_or_default()),
    }
}

/// Reads a schema from the outside in.
#[derive(Default)]
struct Reader {
    /// The named types so far, by full name, with how many types they are made of.
    named: HashMap<String, (Value, usize)>,
    /// The records that are being read.
    open: Vec<String>,
}

impl Reader {
    /// Reads one schema; also returns how many types it is made of.
    fn read(&mut self, schema: &Value, namespace: &str) -> Result<(Value, usize)> {
        let (read, types) = match schema {
            Value::String(name) => self.by_name(name, namespace)?,
            Value::Array(branches) => {
                let (branches, types) = self.read_all(branches.iter(), namespace)?;
                (Value::Array(branches), types + 1)
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.read_object(object, kind, namespace)?,
                Some(inner) => self.read(inner, namespace)?,
                None => return Err(format!("{schema} has no type")),
            },
            other => return Err(format!("{other} is no type")),
        };
        if types > MAX_TYPES {
            return Err(format!("it is made of more than {MAX_TYPES} types"));
        }
        Ok((read, types))
    }

    fn read_all<'v>(
        &mut self,
        schemas: impl Iterator<Item = &'v Value>,
        namespace: &str,
    ) -> Result<(Vec<Value>, usize)> {
        let (mut all, mut types) = (Vec::new(), 0);
        for schema in schemas {
            let (read, more) = self.read(schema, namespace)?;
            all.push(read);
            types += more;
        }
        Ok((all, types))
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<(Value, usize)> {
        if is_primitive(name) {
            return Ok((json!(name), 1));
        }
        let inner = full_name(name, namespace);
        if let Some((schema, types)) = self.named.get(&inner).or_else(|| self.named.get(name)) {
            return Ok((schema.clone(), *types));
        }
        if self.open.iter().any(|open| *open == inner || open == name) {
            return Err(format!("the record '{name}' holds itself, which no type of a column can"));
        }
        Err(format!("there is no type '{name}'"))
    }

    fn read_object(&mut self, object: &Map<String, Value>, kind: &str, namespace: &str) -> Result<(Value, usize)> {
        match kind {
            "record" | "error" => self.read_record(object, namespace),
            "array" => {
                let (items, types) = self.read(part(object, "items")?, namespace)?;
                Ok((json!({"type": "array", "items": items}), types + 1))
            }
            "map" => {
                let (values, types) = self.read(part(object, "values")?, namespace)?;
                Ok((json!({"type": "map", "values": values}), types + 1))
            }
            "enum" => {
                let symbols = part(object, "symbols")?;
                if !symbols.as_array().is_some_and(|all| all.iter().all(Value::is_string)) {
                    return Err(format!("the symbols of an enum are names, not {symbols}"));
                }
                self.name(object, namespace, [("type", json!("enum")), ("symbols", symbols.clone())], 1)
            }
            "fixed" => {
                let size = part(object, "size")?;
                if size.as_u64().is_none_or(|size| i32::try_from(size).is_err()) {
                    return Err(format!("the size of a fixed is a number of bytes, not {size}"));
                }
                let mut fixed = vec![("type", json!("fixed")), ("size", size.clone())];
                fixed.extend(decimal(object));
                self.name(object, namespace, fixed, 1)
            }
            primitive if is_primitive(primitive) => Ok((with_logical_type(primitive, object), 1)),
            name => self.by_name(name, namespace),
        }
    }

    fn read_record(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<(Value, usize)> {
        let full = own_name(object, namespace)?;
        let inner = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let Value::Array(fields) = part(object, "fields")? else {
            return Err(format!("the fields of '{full}' are no list"));
        };
        self.open.push(full.clone());
        let (mut all, mut types) = (Vec::with_capacity(fields.len()), 1);
        for field in fields {
            let parts = field.get("name").and_then(Value::as_str).zip(field.get("type"));
            let Some((name, schema)) = parts else {
                return Err(format!("a field of '{full}' has no name or no type: {field}"));
            };
            let (schema, more) = self.read(schema, inner)?;
            all.push(json!({"name": name, "type": schema}));
            types += more;
        }
        self.open.pop();
        self.name(object, namespace, [("type", json!("record")), ("fields", Value::Array(all))], types)
    }

    /// Puts a named type together and remembers it.
    fn name(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        parts: impl IntoIterator<Item = (&'static str, Value)>,
        types: usize,
    ) -> Result<(Value, usize)> {
        let full = own_name(object, namespace)?;
        let mut schema: Map<String, Value> = parts.into_iter().map(|(name, part)| (name.to_string(), part)).collect();
        let (namespace, name) = full.rsplit_once('.').unwrap_or(("", full.as_str()));
        schema.insert("name".to_string(), json!(name));
        if !namespace.is_empty() {
            schema.insert("namespace".to_string(), json!(namespace));
        }
        let schema = Value::Object(schema);
        self.named.insert(full, (schema.clone(), types));
        Ok((schema, types))
    }
}

fn part<'v>(object: &'v Map<String, Value>, name: &str) -> Result<&'v Value> {
    let of = || object.get("type").and_then(Value::as_str).unwrap_or_default();
    object.get(name).ok_or_else(|| format!("a type '{}' has no '{name}'", of()))
}

fn is_primitive(name: &str) -> bool {
    matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string")
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_string() } else { format!("{namespace}.{name}") }
}

/// Returns the full name of the type that `object` defines.
fn own_name(object: &Map<String, Value>, namespace: &str) -> Result<String> {
    let Some(name) = part(object, "name")?.as_str() else {
        return Err("the name of a type is no text".to_string());
    };
    Ok(full_name(name, object.get("namespace").and_then(Value::as_str).unwrap_or(namespace)))
}

/// Keeps the logical types that are types of columns too. Others say nothing about the bytes: `uuid` is the text that
/// it is, as in Spark.
fn with_logical_type(primitive: &str, object: &Map<String, Value>) -> Value {
    let logical = object.get("logicalType").and_then(Value::as_str).unwrap_or_default();
    match (primitive, logical) {
        ("int", "date" | "time-millis")
        | (
            "long",
            "time-micros"
            | "timestamp-millis"
            | "timestamp-micros"
            | "timestamp-nanos"
            | "local-timestamp-millis"
            | "local-timestamp-micros"
            | "local-timestamp-nanos",
        ) => json!({"type": primitive, "logicalType": logical}),
        ("bytes", _) => match decimal(object) {
            parts if parts.is_empty() => json!(primitive),
            parts => {
                let mut schema: Map<String, Value> =
                    parts.into_iter().map(|(name, part)| (name.to_string(), part)).collect();
                schema.insert("type".to_string(), json!(primitive));
                Value::Object(schema)
            }
        },
        _ => json!(primitive),
    }
}

/// Returns the attributes of a decimal; none where it is none, or one that makes no sense, which is to be ignored.
fn decimal(object: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let number = |name: &str| object.get(name).map_or(Some(0), Value::as_u64);
    let is_decimal = object.get("logicalType").and_then(Value::as_str) == Some("decimal");
    match (number("precision"), number("scale")) {
        (Some(precision @ 1..=76), Some(scale)) if is_decimal && scale <= precision => {
            vec![("logicalType", json!("decimal")), ("precision", json!(precision)), ("scale", json!(scale))]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(RecordSchema::around(text).unwrap().json()).unwrap()
    }

    fn value_of(text: &str) -> Value {
        parsed(text)["fields"][0]["type"].clone()
    }

    #[test]
    fn spellings_become_one() {
        let table = [
            (r#""int""#, r#""int""#),
            (r#"{"type":"int"}"#, r#""int""#),
            (r#"{"type":{"type":"int","doc":"x"}}"#, r#""int""#),
            (r#"{"type":["null","string"]}"#, r#"["null","string"]"#),
            (r#"{"type":"string","logicalType":"uuid"}"#, r#""string""#),
            (
                r#"{"type":"long","logicalType":"timestamp-millis","x":1}"#,
                r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            ),
            (r#"{"type":"int","logicalType":"timestamp-millis"}"#, r#""int""#),
            (r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":9}"#, r#""bytes""#),
            (
                r#"{"type":"bytes","logicalType":"decimal","precision":4}"#,
                r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":0}"#,
            ),
            (
                r#"{"type":"fixed","name":"f","size":12,"logicalType":"duration"}"#,
                r#"{"type":"fixed","name":"f","size":12}"#,
            ),
            (
                r#"{"type":"record","name":"a.b.R","doc":"d","fields":[{"name":"e","default":"X","type":
                   {"type":"enum","name":"E","symbols":["X"],"aliases":["F"]}},{"name":"again","type":["null","E"]},
                   {"name":"full","type":"a.b.E"}]}"#,
                r#"{"type":"record","name":"R","namespace":"a.b","fields":[
                   {"name":"e","type":{"type":"enum","name":"E","namespace":"a.b","symbols":["X"]}},
                   {"name":"again","type":["null",{"type":"enum","name":"E","namespace":"a.b","symbols":["X"]}]},
                   {"name":"full","type":{"type":"enum","name":"E","namespace":"a.b","symbols":["X"]}}]}"#,
            ),
        ];
        for (text, expected) in table {
            assert_eq!(value_of(text), serde_json::from_str::<Value>(expected).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_schema_says_why() {
        let table = [
            ("{", "it is not JSON"),
            (r#""string""#, "it is of type 'string', and columns are the fields of a record"),
            (r#"["null","string"]"#, "it is a union"),
            (r#"{"type":"record","name":"r"}"#, "a type 'record' has no 'fields'"),
            (r#"{"type":"record","fields":[]}"#, "a type 'record' has no 'name'"),
            (r#"{"type":"record","name":"r","fields":[{"name":"a"}]}"#, "a field of 'r' has no name or no type"),
            (r#"{"type":"record","name":"r","fields":[{"name":"a","type":"strng"}]}"#, "there is no type 'strng'"),
            (r#"{"type":"record","name":"r","fields":[{"name":"a","type":["null","r"]}]}"#, "'r' holds itself"),
            (r#"{"type":"record","name":"r","fields":[{"name":"a","type":7}]}"#, "7 is no type"),
            (r#"{"type":"enum","name":"e","symbols":[1]}"#, "the symbols of an enum are names"),
            (r#"{"type":"fixed","name":"f","size":-1}"#, "a number of bytes, not -1"),
        ];
        for (text, expected) in table {
            let reason = RecordSchema::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
    }

    #[test]
    fn a_schema_that_grows_without_end_is_refused() {
        let mut fields = vec![json!({"name": "f0", "type": {"type": "record", "name": "r0", "fields": [
            {"name": "a", "type": "int"}]}})];
        for level in 1..40 {
            let below = format!("r{}", level - 1);
            fields.push(json!({"name": format!("f{level}"), "type": {"type": "record", "name": format!("r{level}"),
                "fields": [{"name": "a", "type": below}, {"name": "b", "type": below}]}}));
        }
        let schema = json!({"type": "record", "name": "top", "fields": fields}).to_string();
        assert!(RecordSchema::parse(&schema).unwrap_err().contains("more than"), "2^40 types were made");
    }
}
