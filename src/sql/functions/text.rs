//! Functions of text: `locate`, `instr`, `replace`, `format_number`, …
//!
//! Positions count characters from 1; NULL in, NULL out.

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;

use super::function::{Arguments, Function, Returns, Takes, ints, texts};

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Double, Int, Text};
    let text = || Returns::Type(DataType::Utf8);
    let int = || Returns::Type(DataType::Int32);
    vec![
        Function::new("locate(part, text[, from])", &[Text, Text, Int], 2, int(), locate)
            .also(&["position", "charindex"]),
        Function::new("instr(text, part)", &[Text, Text], 2, int(), instr),
        Function::new("replace(text, search[, replacement])", &[Text, Text, Text], 2, text(), replace),
        Function::new("format_number(number, decimals)", &[Double, Int], 2, text(), format_number),
        Function::new("string(value)", &[Text], 1, text(), |args| args.array(0)),
    ]
}

/// Returns where `part` begins in `text` at or behind character `from`, 0 where it does not.
fn position(text: &str, part: &str, from: i32) -> i32 {
    let Some(skipped) = usize::try_from(from).ok().and_then(|from| from.checked_sub(1)) else {
        return 0;
    };
    let start = if skipped == 0 { Some(0) } else { text.char_indices().nth(skipped).map(|(start, _)| start) };
    let Some(start) = start else { return 0 };
    match text[start..].find(part) {
        Some(found) => i32::try_from(text[..start + found].chars().count() + 1).unwrap_or(i32::MAX),
        None => 0,
    }
}

fn locate(args: &Arguments) -> Result<ArrayRef> {
    let (parts, values) = (args.text(0)?, args.text(1)?);
    let from = if args.len() > 2 { Some(args.ints(2)?) } else { None };
    ints(args.rows(), |row| {
        let from = match &from {
            // Spark finds nothing, and not NULL, from a position that is NULL
            Some(from) => from.get(row).unwrap_or(0),
            None => 1,
        };
        Ok(match (values.get(row), parts.get(row)) {
            (Some(text), Some(part)) => Some(position(text, part, from)),
            _ => None,
        })
    })
}

fn instr(args: &Arguments) -> Result<ArrayRef> {
    let (values, parts) = (args.text(0)?, args.text(1)?);
    ints(args.rows(), |row| {
        Ok(match (values.get(row), parts.get(row)) {
            (Some(text), Some(part)) => Some(position(text, part, 1)),
            _ => None,
        })
    })
}

fn replace(args: &Arguments) -> Result<ArrayRef> {
    let (values, searches) = (args.text(0)?, args.text(1)?);
    let replacements = if args.len() > 2 { Some(args.text(2)?) } else { None };
    texts(args.rows(), |row| {
        let replacement = replacements.as_ref().map_or(Some(""), |replacements| replacements.get(row));
        Ok(match (values.get(row), searches.get(row), replacement) {
            (Some(text), Some(""), Some(_)) => Some(text.to_string()),
            (Some(text), Some(search), Some(replacement)) => Some(text.replace(search, replacement)),
            _ => None,
        })
    })
}

fn format_number(args: &Arguments) -> Result<ArrayRef> {
    let (values, decimals) = (args.doubles(0)?, args.ints(1)?);
    texts(args.rows(), |row| {
        Ok(match (values.get(row), decimals.get(row).map(usize::try_from)) {
            (Some(number), Some(Ok(decimals))) => Some(with_separators(number, decimals)),
            _ => None,
        })
    })
}

fn with_separators(number: f64, decimals: usize) -> String {
    if !number.is_finite() {
        let name = if number.is_nan() { "NaN" } else { "∞" };
        return if number < 0.0 { format!("-{name}") } else { name.to_string() };
    }
    let plain = format!("{:.decimals$}", number.abs());
    let (whole, fraction) = match plain.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (plain.as_str(), String::new()),
    };
    let is_zero = !plain.contains(|c: char| ('1'..='9').contains(&c));
    let mut out = String::from(if number < 0.0 && !is_zero { "-" } else { "" });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + &fraction
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{check, null, s};

    #[test]
    fn text_is_searched() {
        let long = |value| ScalarValue::Int64(Some(value));
        check(&[
            ("locate", vec![s("bar"), s("foobarbar")], "4"),
            ("locate", vec![s("bar"), s("foobarbar"), long(5)], "7"),
            ("locate", vec![s("bar"), s("foobarbar"), long(0)], "0"),
            ("position", vec![s("r"), s("ärr"), long(3)], "3"),
            ("instr", vec![s("SparkSQL"), s("SQL")], "6"),
            ("instr", vec![s("SparkSQL"), null()], "NULL"),
            ("startswith", vec![s("Spark"), s("Sp")], "true"),
            ("endswith", vec![s("Spark"), s("Sp")], "false"),
        ]);
    }

    #[test]
    fn text_is_made() {
        let double = |value| ScalarValue::Float64(Some(value));
        let long = |value| ScalarValue::Int64(Some(value));
        check(&[
            ("replace", vec![s("ABCabc"), s("abc"), s("DEF")], "ABCDEF"),
            ("replace", vec![s("ABCabc"), s("abc")], "ABC"),
            ("replace", vec![s("abc"), s(""), s("-")], "abc"),
            ("format_number", vec![double(12332.123456), long(4)], "12,332.1235"),
            ("format_number", vec![double(-1234567.0), long(0)], "-1,234,567"),
            ("format_number", vec![double(-0.001), long(2)], "0.00"),
            ("format_number", vec![double(1.0), long(-1)], "NULL"),
            ("ucase", vec![s("abc")], "ABC"),
            ("lcase", vec![s("ABC")], "abc"),
        ]);
    }
}
