//! Functions that read JSON without a schema: `get_json_object`, `json_array_length`, `json_object_keys`.
//!
//! What is not JSON gives NULL, as in Spark.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListBuilder, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;

use super::function::{Arguments, Function, Returns, Takes, ints, list_of, texts};
use super::json_value::Json;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::Text;
    let text = || Returns::Type(DataType::Utf8);
    let list = || Returns::Type(list_of(DataType::Utf8));
    let int = || Returns::Type(DataType::Int32);
    vec![
        Function::new("get_json_object(json, path)", &[Text, Text], 2, text(), get_json_object),
        Function::new("json_array_length(json)", &[Text], 1, int(), json_array_length),
        Function::new("json_object_keys(json)", &[Text], 1, list(), json_object_keys),
    ]
}

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// `.name` or `['name']`
    Name(String),
    /// `[3]`
    Index(usize),
    /// `[*]`
    AllElements,
    /// `.*`
    AllMembers,
}

/// Understands a path such as `$.a['b'][0]`, or returns `None`.
fn parse_path(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            steps.push(match &name[..end] {
                "" => return None,
                "*" => Step::AllMembers,
                name => Step::Name(name.to_string()),
            });
            rest = &name[end..];
        } else if let Some(quoted) = rest.strip_prefix("['") {
            let (name, behind) = quoted.split_once("']")?;
            steps.push(Step::Name(name.to_string()));
            rest = behind;
        } else {
            let (index, behind) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(match index {
                "*" => Step::AllElements,
                index => Step::Index(index.parse().ok()?),
            });
            rest = behind;
        }
    }
    Some(steps)
}

/// Collects what `steps` lead to.
fn follow<'a>(json: &'a Json, steps: &[Step], found: &mut Vec<&'a Json>) {
    let Some((step, rest)) = steps.split_first() else {
        if *json != Json::Null {
            found.push(json);
        }
        return;
    };
    match (step, json) {
        (Step::Name(name), json) => {
            if let Some(member) = json.member(name) {
                follow(member, rest, found);
            }
        }
        (Step::Index(index), Json::Array(elements)) => {
            if let Some(element) = elements.get(*index) {
                follow(element, rest, found);
            }
        }
        (Step::AllElements, Json::Array(elements)) => elements.iter().for_each(|e| follow(e, rest, found)),
        (Step::AllMembers, Json::Object(members)) => members.iter().for_each(|(_, m)| follow(m, rest, found)),
        _ => {}
    }
}

/// Returns what a path leads to: one value as its text, the several that a `*` finds as an array.
fn extract(json: &Json, steps: &[Step]) -> Option<String> {
    let mut found = Vec::new();
    follow(json, steps, &mut found);
    let wild = steps.iter().any(|step| matches!(step, Step::AllElements | Step::AllMembers));
    match found.as_slice() {
        [] => None,
        [one] if wild => Some(one.to_string()),
        [one] => Some(one.to_text()),
        several => {
            let several: Vec<String> = several.iter().map(|value| value.to_string()).collect();
            Some(format!("[{}]", several.join(",")))
        }
    }
}

fn get_json_object(args: &Arguments) -> Result<ArrayRef> {
    let (documents, paths) = (args.text(0)?, args.text(1)?);
    let mut last: Option<(String, Option<Vec<Step>>)> = None;
    texts(args.rows(), |row| {
        let (Some(document), Some(path)) = (documents.get(row), paths.get(row)) else {
            return Ok(None);
        };
        let known = last.take().filter(|(text, _)| text == path);
        let (_, steps) = last.insert(known.unwrap_or_else(|| (path.to_string(), parse_path(path))));
        Ok(steps.as_ref().and_then(|steps| extract(&Json::parse(document)?, steps)))
    })
}

fn json_array_length(args: &Arguments) -> Result<ArrayRef> {
    let documents = args.text(0)?;
    ints(args.rows(), |row| {
        Ok(match documents.get(row).and_then(Json::parse) {
            Some(Json::Array(elements)) => i32::try_from(elements.len()).ok(),
            _ => None,
        })
    })
}

fn json_object_keys(args: &Arguments) -> Result<ArrayRef> {
    let documents = args.text(0)?;
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..args.rows() {
        let Some(Json::Object(members)) = documents.get(row).and_then(Json::parse) else {
            lists.append(false);
            continue;
        };
        members.iter().for_each(|(name, _)| lists.values().append_value(name));
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, null, s};

    #[test]
    fn paths_are_followed() {
        let document = || s(r#"{"z":{"y":1,"x":"t"},"a":[{"b":"one"},{"b":2.50}],"n":null,"k.l":true}"#);
        let table = [
            ("$.z.x", "t"),
            ("$.z", r#"{"y":1,"x":"t"}"#),
            ("$.a[0].b", "one"),
            ("$.a[1]", r#"{"b":2.5}"#),
            ("$['k.l']", "true"),
            ("$.a[*].b", r#"["one",2.5]"#),
            ("$.n", "NULL"),
            ("$.a.b", "NULL"),
            ("$.a[7]", "NULL"),
            ("z", "NULL"),
        ];
        for (path, expected) in table {
            check(&[("get_json_object", vec![document(), s(path)], expected)]);
        }
        check(&[
            ("get_json_object", vec![s("{broken"), s("$.a")], "NULL"),
            ("get_json_object", vec![document(), null()], "NULL"),
            ("json_array_length", vec![s("[1,[2],3]")], "3"),
            ("json_array_length", vec![s("{}")], "NULL"),
            ("json_object_keys", vec![document()], "[z, a, n, k.l]"),
        ]);
    }
}
