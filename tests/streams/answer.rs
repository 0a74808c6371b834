//! An answer: the rows of each micro-batch as a multiset, in one spelling whoever wrote them.
//!
//! Every test that compares batches goes through here. A number counts by its nine leading digits, a timestamp by its
//! milliseconds, a column by its name in lower case; the order of rows inside a batch does not count.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// Rows in their one spelling, each with how often it occurs.
pub(crate) type Bag = BTreeMap<String, usize>;

/// The rows of each micro-batch, by batch id.
pub(crate) type Answer = BTreeMap<i64, Bag>;

/// Puts rows into a bag.
pub(crate) fn bag<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Bag {
    let mut bag = Bag::new();
    for row in rows {
        *bag.entry(spelling(row)).or_default() += 1;
    }
    bag
}

/// Puts what the console printed, a line a batch, into an answer; a batch that was printed twice counts twice.
pub(crate) fn answer(lines: &[Value]) -> Answer {
    let mut answer = Answer::new();
    for line in lines {
        let id = line["batch_id"].as_i64().unwrap_or_else(|| panic!("a line without batch_id: {line}"));
        let rows = line["rows"].as_array().unwrap_or_else(|| panic!("a line without rows: {line}"));
        let batch = answer.entry(id).or_default();
        for (row, count) in bag(rows) {
            *batch.entry(row).or_default() += count;
        }
    }
    answer
}

/// Puts the rows of all batches into one bag.
pub(crate) fn union(answer: &Answer) -> Bag {
    let mut all = Bag::new();
    for (row, count) in answer.values().flatten() {
        *all.entry(row.clone()).or_default() += count;
    }
    all
}

/// Says how `have` differs from `want` in the first batch that differs, or nothing where all are equal.
pub(crate) fn first_difference(want: &Answer, have: &Answer) -> Option<String> {
    let mut ids: Vec<i64> = want.keys().chain(have.keys()).copied().collect();
    ids.sort_unstable();
    let id = ids.into_iter().find(|id| want.get(id) != have.get(id))?;
    let nothing = Bag::new();
    let (wanted, had) = (want.get(&id), have.get(&id));
    let rows = difference(wanted.unwrap_or(&nothing), had.unwrap_or(&nothing)).unwrap_or_default();
    let absent = match (wanted, had) {
        (None, _) => " (no such batch is expected)",
        (_, None) => " (the batch is absent)",
        _ => "",
    };
    Some(format!("batch {id} of {}: {rows}{absent}", want.len()))
}

/// Says which rows of `want` are missing in `have` and which are extra, or nothing where both are equal.
pub(crate) fn difference(want: &Bag, have: &Bag) -> Option<String> {
    let (missing, extra) = (minus(want, have), minus(have, want));
    (!missing.is_empty() || !extra.is_empty()).then(|| format!("missing {} extra {}", few(&missing), few(&extra)))
}

/// The rows that `left` holds more often than `right`, each as often as that.
fn minus(left: &Bag, right: &Bag) -> Vec<String> {
    let more = |row: &String, count: usize| count.saturating_sub(right.get(row).copied().unwrap_or(0));
    left.iter().flat_map(|(row, count)| std::iter::repeat_n(row.clone(), more(row, *count))).collect()
}

/// The first rows, and how many there are beside them.
fn few(rows: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = if rows.len() > SHOWN { format!(" and {} more", rows.len() - SHOWN) } else { String::new() };
    format!("[{}{more}]", rows[..rows.len().min(SHOWN)].join(", "))
}

/// Spells a row: names in lower case and in order, numbers and timestamps as the module says.
pub(crate) fn spelling(row: &Value) -> String {
    normal(row).to_string()
}

/// Brings a value into the one spelling.
pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<String, Value> = fields.iter().map(|(k, v)| (k.to_lowercase(), normal(v))).collect();
            Value::Object(sorted.into_iter().collect::<Map<String, Value>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(normal).collect()),
        Value::Number(number) => {
            let x = number.as_f64().unwrap_or(f64::NAN);
            let rounded = format!("{x:.8e}").parse().unwrap_or(f64::NAN);
            Number::from_f64(rounded).map_or_else(|| Value::String("nan".to_string()), Value::Number)
        }
        Value::String(text) if is_timestamp(text) => Value::String(to_milliseconds(text)),
        other => other.clone(),
    }
}

/// Returns whether the text begins like `2026-01-01T00:00:00` or `2026-01-01 00:00:00`.
fn is_timestamp(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00";
    text.len() >= shape.len()
        && text.bytes().zip(shape).all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            b'T' => byte == b'T' || byte == b' ',
            other => byte == *other,
        })
}

/// Cuts or fills a timestamp to three digits of a second, without its zone.
fn to_milliseconds(text: &str) -> String {
    let text = text.replacen(' ', "T", 1);
    let text = text.trim_end_matches('Z').split('+').next().unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    format!("{whole}.{digits}")
}

/// A comparison that cannot fail proves nothing.
mod checks {
    use serde_json::json;

    use super::*;

    fn lines() -> Vec<Value> {
        vec![
            json!({"batch_id": 0, "rows": []}),
            json!({"batch_id": 1, "rows": [{"k": "a", "n": 1}, {"k": "b", "n": 2}]}),
        ]
    }

    #[test]
    fn spelling_does_not_count() {
        let other = json!({"K": "a", "t": "2026-01-01 00:00:01", "x": 0.300_000_000_04, "w": {"END": 1}});
        let one = json!({"w": {"end": 1.0}, "x": 0.3, "t": "2026-01-01T00:00:01.000000Z", "k": "a"});
        assert_eq!(spelling(&one), spelling(&other));
        assert_ne!(spelling(&json!({"x": 0.300_000_01})), spelling(&json!({"x": 0.3})));
        assert_ne!(spelling(&json!({"t": "2026-01-01T00:00:01.001"})), spelling(&json!({"t": "2026-01-01T00:00:01"})));
        assert_ne!(spelling(&json!({"x": null})), spelling(&json!({"x": 0})));
    }

    #[test]
    fn equal_answers_do_not_differ() {
        let mut turned = lines();
        turned[1]["rows"].as_array_mut().unwrap().reverse();
        assert_eq!(first_difference(&answer(&lines()), &answer(&turned)), None);
    }

    #[test]
    fn a_lost_row_is_seen() {
        let mut lost = lines();
        lost[1]["rows"].as_array_mut().unwrap().pop();
        let difference = first_difference(&answer(&lines()), &answer(&lost)).unwrap();
        assert!(difference.starts_with("batch 1 of 2: missing [{") && difference.ends_with("extra []"), "{difference}");
    }

    #[test]
    fn a_row_given_twice_is_seen() {
        let mut twice = lines();
        twice.push(lines().remove(1));
        assert!(first_difference(&answer(&lines()), &answer(&twice)).is_some());
        assert!(difference(&union(&answer(&lines())), &union(&answer(&twice))).is_some());
    }

    #[test]
    fn a_wrong_value_is_seen() {
        let mut wrong = lines();
        wrong[1]["rows"][0]["n"] = json!(3);
        assert!(first_difference(&answer(&lines()), &answer(&wrong)).is_some());
    }

    #[test]
    fn an_absent_batch_is_seen_even_if_empty() {
        let difference = first_difference(&answer(&lines()), &answer(&lines()[1..])).unwrap();
        assert!(difference.contains("absent"), "{difference}");
        let difference = first_difference(&answer(&lines()[1..]), &answer(&lines())).unwrap();
        assert!(difference.contains("no such batch"), "{difference}");
    }
}
