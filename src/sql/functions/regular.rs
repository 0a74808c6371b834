//! Functions of regular expressions: `split`, `regexp_extract`, `regexp_replace`, …
//!
//! They behave as Spark's do: `regexp_replace` replaces every match and knows `$1`; `regexp_extract` gives '' where
//! nothing matches; `split` keeps empty pieces at the end. The expressions are those of the `regex` crate, which match
//! in linear time and so have no look-around and no back-references; using one is an error that says so.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListBuilder, StringBuilder};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use regex::{Captures, Regex};

use super::function::{Arguments, Function, Returns, Takes, booleans, list_of, texts};
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Int, Text};
    let list = || Returns::Type(list_of(DataType::Utf8));
    let text = || Returns::Type(DataType::Utf8);
    vec![
        Function::new("split(text, regex[, limit])", &[Text, Text, Int], 2, list(), split),
        Function::new("regexp_extract(text, regex[, group])", &[Text, Text, Int], 2, text(), regexp_extract),
        Function::new("regexp_extract_all(text, regex[, group])", &[Text, Text, Int], 2, list(), regexp_extract_all),
        Function::new("regexp_substr(text, regex)", &[Text, Text], 2, text(), regexp_substr),
        Function::new(
            "regexp_replace(text, regex, replacement[, position])",
            &[Text, Text, Text, Int],
            3,
            text(),
            regexp_replace,
        ),
        Function::new("rlike(text, regex)", &[Text, Text], 2, Returns::Type(DataType::Boolean), rlike)
            .also(&["regexp", "regexp_like"]),
    ]
}

/// Compiles each expression once for as long as it stays the same, as it nearly always does.
#[derive(Default)]
struct LastRegex(Option<Regex>);

impl LastRegex {
    fn get(&mut self, expression: &str) -> Result<&Regex> {
        let known = self.0.take().filter(|regex| regex.as_str() == expression);
        let regex = match known {
            Some(regex) => regex,
            None => Regex::new(expression).map_err(|error| unusable(expression, &error))?,
        };
        Ok(self.0.insert(regex))
    }
}

fn unusable(expression: &str, error: &regex::Error) -> Error {
    let message = error.to_string();
    let reason = message.lines().next_back().unwrap_or_default().trim_start_matches("error: ");
    Error::invalid_query(format!("the regular expression '{expression}' cannot be used: {reason}"))
}

fn split(args: &Arguments) -> Result<ArrayRef> {
    let (texts, regexes) = (args.text(0)?, args.text(1)?);
    let limits = if args.len() > 2 { Some(args.ints(2)?) } else { None };
    let mut last = LastRegex::default();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..args.rows() {
        let limit = limits.as_ref().map_or(Some(-1), |limits| limits.get(row));
        let (Some(text), Some(regex), Some(limit)) = (texts.get(row), regexes.get(row), limit) else {
            lists.append(false);
            continue;
        };
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let pieces = if regex.is_empty() && !text.is_empty() {
            characters(text, limit)
        } else {
            pieces(text, last.get(regex)?, limit)
        };
        pieces.into_iter().for_each(|piece| lists.values().append_value(piece));
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

/// Cuts `text` at each match, into at most `limit` pieces.
fn pieces<'a>(text: &'a str, regex: &Regex, limit: Option<usize>) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for found in regex.find_iter(text) {
        if limit.is_some_and(|limit| pieces.len() + 1 >= limit) {
            break;
        }
        // an empty match at the beginning cuts nothing off
        if found.end() == 0 {
            continue;
        }
        pieces.push(&text[start..found.start()]);
        start = found.end();
    }
    pieces.push(&text[start..]);
    pieces
}

/// Cuts `text` after each character, into at most `limit` pieces.
fn characters(text: &str, limit: Option<usize>) -> Vec<&str> {
    let mut starts: Vec<usize> = text.char_indices().map(|(start, _)| start).collect();
    starts.truncate(limit.unwrap_or(usize::MAX));
    starts.push(text.len());
    starts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

/// Returns which group each row asks for, 1 where none is named; `None` where it is NULL.
fn groups(args: &Arguments) -> Result<impl Fn(usize) -> Option<i32>> {
    let groups = if args.len() > 2 { Some(args.ints(2)?) } else { None };
    Ok(move |row| groups.as_ref().map_or(Some(1), |groups| groups.get(row)))
}

fn checked_group(regex: &Regex, group: i32) -> Result<usize> {
    let last = regex.captures_len() - 1;
    usize::try_from(group).ok().filter(|group| *group <= last).ok_or_else(|| {
        let message = format!("'{regex}' has groups 0 to {last}, not {group}; group 0 is the whole match");
        Error::invalid_query(message).into()
    })
}

fn regexp_extract(args: &Arguments) -> Result<ArrayRef> {
    let (values, regexes, groups) = (args.text(0)?, args.text(1)?, groups(args)?);
    let mut last = LastRegex::default();
    texts(args.rows(), |row| {
        let (Some(text), Some(regex), Some(group)) = (values.get(row), regexes.get(row), groups(row)) else {
            return Ok(None);
        };
        let regex = last.get(regex)?;
        let group = checked_group(regex, group)?;
        let found = regex.captures(text).and_then(|captures| captures.get(group));
        Ok(Some(found.map_or(String::new(), |found| found.as_str().to_string())))
    })
}

fn regexp_extract_all(args: &Arguments) -> Result<ArrayRef> {
    let (values, regexes, groups) = (args.text(0)?, args.text(1)?, groups(args)?);
    let mut last = LastRegex::default();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..args.rows() {
        let (Some(text), Some(regex), Some(group)) = (values.get(row), regexes.get(row), groups(row)) else {
            lists.append(false);
            continue;
        };
        let regex = last.get(regex)?;
        let group = checked_group(regex, group)?;
        for captures in regex.captures_iter(text) {
            lists.values().append_value(captures.get(group).map_or("", |found| found.as_str()));
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

fn regexp_substr(args: &Arguments) -> Result<ArrayRef> {
    let (values, regexes) = (args.text(0)?, args.text(1)?);
    let mut last = LastRegex::default();
    texts(args.rows(), |row| match (values.get(row), regexes.get(row)) {
        (Some(text), Some(regex)) => Ok(last.get(regex)?.find(text).map(|found| found.as_str().to_string())),
        _ => Ok(None),
    })
}

fn rlike(args: &Arguments) -> Result<ArrayRef> {
    let (values, regexes) = (args.text(0)?, args.text(1)?);
    let mut last = LastRegex::default();
    booleans(args.rows(), |row| match (values.get(row), regexes.get(row)) {
        (Some(text), Some(regex)) => Ok(Some(last.get(regex)?.is_match(text))),
        _ => Ok(None),
    })
}

fn regexp_replace(args: &Arguments) -> Result<ArrayRef> {
    let (values, regexes, replacements) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let positions = if args.len() > 3 { Some(args.ints(3)?) } else { None };
    let mut last = LastRegex::default();
    texts(args.rows(), |row| {
        let position = positions.as_ref().map_or(Some(1), |positions| positions.get(row));
        let found = (values.get(row), regexes.get(row), replacements.get(row), position);
        let (Some(text), Some(regex), Some(replacement), Some(position)) = found else {
            return Ok(None);
        };
        let Some(skipped) = usize::try_from(position).ok().and_then(|position| position.checked_sub(1)) else {
            let message = format!("regexp_replace begins at position 1 or later, not at {position}");
            return Err(Error::invalid_query(message).into());
        };
        let Some((start, _)) = text.char_indices().nth(skipped).or((skipped == 0).then_some((0, ' '))) else {
            return Ok(Some(text.to_string()));
        };
        let regex = last.get(regex)?;
        let replacement = Replacement::new(replacement, regex)?;
        let (kept, rest) = text.split_at(start);
        let replaced = regex.replace_all(rest, |captures: &Captures<'_>| replacement.expand(captures));
        Ok(Some(format!("{kept}{replaced}")))
    })
}

/// A replacement as Java writes it: `$1` and `${name}` stand for groups, a backslash takes the meaning off.
struct Replacement(Vec<Part>);

enum Part {
    Text(String),
    Group(usize),
    Named(String),
}

impl Replacement {
    fn new(replacement: &str, regex: &Regex) -> Result<Self> {
        let bad = |why: &str| Error::invalid_query(format!("the replacement '{replacement}' makes no sense: {why}"));
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut characters = replacement.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' => text.push(characters.next().ok_or_else(|| bad("nothing follows the last backslash"))?),
                '$' => {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                    if characters.next_if_eq(&'{').is_some() {
                        let name: String = characters.by_ref().take_while(|c| *c != '}').collect();
                        if !regex.capture_names().flatten().any(|known| known == name) {
                            return Err(bad(&format!("there is no group named '{name}'")).into());
                        }
                        parts.push(Part::Named(name));
                        continue;
                    }
                    let mut group: Option<usize> = None;
                    while let Some(digit) = characters.peek().and_then(|c| c.to_digit(10)) {
                        let longer = group.unwrap_or(0) * 10 + digit as usize;
                        // $12 is group 1 and a 2 where there are fewer than twelve groups
                        if group.is_some() && longer >= regex.captures_len() {
                            break;
                        }
                        group = Some(longer);
                        characters.next();
                    }
                    let group =
                        group.ok_or_else(|| bad("a group's number must follow '$'; write '\\$' for a dollar"))?;
                    if group >= regex.captures_len() {
                        return Err(bad(&format!("there is no group {group}")).into());
                    }
                    parts.push(Part::Group(group));
                }
                other => text.push(other),
            }
        }
        parts.push(Part::Text(text));
        Ok(Self(parts))
    }

    fn expand(&self, captures: &Captures<'_>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            out.push_str(match part {
                Part::Text(text) => text.as_str(),
                Part::Group(group) => captures.get(*group).map_or("", |found| found.as_str()),
                Part::Named(name) => captures.name(name).map_or("", |found| found.as_str()),
            });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{call, check, null, s};

    fn long(value: i64) -> ScalarValue {
        ScalarValue::Int64(Some(value))
    }

    #[test]
    fn text_is_split() {
        check(&[
            ("split", vec![s("oneAtwoBthreeC"), s("[ABC]")], "[one, two, three, ]"),
            ("split", vec![s("oneAtwoBthreeC"), s("[ABC]"), long(2)], "[one, twoBthreeC]"),
            ("split", vec![s("a,b"), s(","), long(0)], "[a, b]"),
            ("split", vec![s("abc"), s("")], "[a, b, c]"),
            ("split", vec![s("abc"), s(""), long(2)], "[a, bc]"),
            ("split", vec![s(""), s(",")], "[]"),
            ("split", vec![s(",a"), s(",")], "[, a]"),
            ("split", vec![s("a"), null()], "NULL"),
        ]);
    }

    #[test]
    fn matches_are_extracted() {
        check(&[
            ("regexp_extract", vec![s("100-200"), s(r"(\d+)-(\d+)")], "100"),
            ("regexp_extract", vec![s("100-200"), s(r"(\d+)-(\d+)"), long(2)], "200"),
            ("regexp_extract", vec![s("100-200"), s(r"\d+"), long(0)], "100"),
            ("regexp_extract", vec![s("none"), s(r"(\d+)")], ""),
            ("regexp_extract", vec![s("b"), s("(a)?b")], ""),
            ("regexp_extract", vec![null(), s(r"(\d+)")], "NULL"),
            ("regexp_extract_all", vec![s("a1b22"), s(r"(\d+)")], "[1, 22]"),
            ("regexp_extract_all", vec![s("ab"), s(r"(\d+)")], "[]"),
            ("regexp_substr", vec![s("a1b22"), s(r"\d\d")], "22"),
            ("regexp_substr", vec![s("a1b22"), s("x")], "NULL"),
            ("rlike", vec![s("flight 12"), s(r"\d+$")], "true"),
        ]);
        let error = call("regexp_extract", &[s("a"), s("(a)"), long(2)]).unwrap_err().to_string();
        assert!(error.contains("groups 0 to 1, not 2"), "{error}");
        let error = call("rlike", &[s("a"), s("(?=a)")]).unwrap_err().to_string();
        assert!(error.contains("look-around"), "{error}");
    }

    #[test]
    fn every_match_is_replaced() {
        check(&[
            ("regexp_replace", vec![s("100-200"), s(r"(\d+)"), s("num")], "num-num"),
            ("regexp_replace", vec![s("ab12"), s(r"([a-z])([a-z])"), s("$2$1x")], "bax12"),
            ("regexp_replace", vec![s("a"), s("(a)"), s("$12")], "a2"),
            ("regexp_replace", vec![s("a"), s("a"), s(r"\$1")], "$1"),
            ("regexp_replace", vec![s("aaa"), s("a"), s("b"), long(3)], "aab"),
            ("regexp_replace", vec![s("äaa"), s("a"), s("b"), long(3)], "äab"),
            ("regexp_replace", vec![s(""), s("^$"), s("empty")], "empty"),
            ("regexp_replace", vec![s("a"), null(), s("b")], "NULL"),
        ]);
        assert!(call("regexp_replace", &[s("a"), s("a"), s("$1")]).is_err());
    }
}
