//! What an operator's state means, as text to compare: a restart with another meaning is refused.
//!
//! Spark accepts sum → max, or a window of 20 s over the state of one of 10 s, and gives wrong rows. Here whatever
//! decides what the state holds is in the fingerprint; filters, projections, names of tables, limits on rates, the
//! trigger, the watermark's delay and the number of lanes are not.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as PlanResult};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::nodes::{Forget, SideExpiry, StatefulKind, StatefulNode, as_stateful};
use crate::error::{Error, Result};
use crate::operator::event_time::{EventKey, WindowSpec, span};
use crate::sink::OutputMode;

/// Returns an operator's fingerprint.
///
/// # Errors
/// As DataFusion's typing of expressions.
pub fn of(node: &StatefulNode, mode: OutputMode) -> PlanResult<Value> {
    let schema = merge_schema(&node.inputs.iter().collect::<Vec<_>>());
    let typed =
        |expr: &Expr| -> PlanResult<String> { Ok(format!("{}: {}", traced(expr, node)?, expr.get_type(&schema)?)) };
    let list = |exprs: &[Expr]| exprs.iter().map(typed).collect::<PlanResult<Vec<_>>>();
    // Rows that are kept whole must have the columns they had; which of them are kept is seen when state is read.
    Ok(match &node.kind {
        StatefulKind::Aggregate { groups, grouping_sets, event_key, watermarked } => json!({
            "operator": "aggregate",
            "keys": list(&node.exprs[..*groups])?,
            "grouping sets": grouping_sets,
            "functions": list(&node.exprs[*groups..])?,
            "event time": event_key.map(in_words),
            "watermark": watermarked,
            "keeps closed groups": mode == OutputMode::Complete,
            // A group leaves when it closes in append mode, and while it is open in update mode.
            "output mode": watermarked.then(|| mode.to_string()),
        }),
        StatefulKind::Session { groups, session, watermarked } => json!({
            "operator": "sessions",
            "keys": list(&node.exprs[..*groups])?,
            "session": session,
            "gap": list(&node.exprs[*groups..=*groups])?,
            "functions": list(&node.exprs[groups + 1..])?,
            "watermark": watermarked,
            "keeps closed groups": mode == OutputMode::Complete,
        }),
        StatefulKind::Deduplicate { within_watermark, forget, .. } => json!({
            "operator": if *within_watermark { "deduplication within watermark" } else { "deduplication" },
            "keys": list(&node.exprs)?,
            "forgets": match forget {
                Forget::Never => Value::Null,
                Forget::Key(index, _) => json!(index),
                Forget::After(column, ..) => json!(column.name),
            },
        }),
        // What has left already in update mode would leave again in append mode.
        StatefulKind::FirstRow { .. } => {
            json!({ "operator": "first row", "keys and time": list(&node.exprs)?, "output mode": mode.to_string() })
        }
        StatefulKind::Join { join_type, null_equals_null, sides } => json!({
            "operator": "join",
            "kind": join_type.to_string(),
            "condition": list(&node.exprs)?,
            "null equals null": null_equals_null,
            "rows expire": sides.each_ref().map(|side| match &side.expiry {
                SideExpiry::Never => Value::Null,
                SideExpiry::Key(index, _) => json!(format!("with key {index}")),
                SideExpiry::Column { column, after_us } => json!(format!("{after_us} us after {}", column.name)),
            }),
        }),
        StatefulKind::Asof { outer, strictly_earlier, .. } => json!({
            "operator": "asof join",
            "outer": outer,
            "strictly earlier": strictly_earlier,
            "condition": list(&node.exprs)?,
        }),
        StatefulKind::Limit { fetch } => json!({ "operator": "limit", "rows": fetch }),
        StatefulKind::User(user) => {
            let mut parts = user.processor.fingerprint();
            parts.insert("operator".to_string(), json!(user.name));
            parts.insert("keys".to_string(), json!(list(&node.exprs)?));
            Value::Object(parts)
        }
    })
}

/// The key by which groups expire, in words that a message can show.
fn in_words(key: EventKey) -> String {
    match key {
        EventKey::Window(index, window) => format!("{window}, key {index}"),
        EventKey::Time { index, after_us: 0 } => format!("key {index}"),
        EventKey::Time { index, after_us } => format!("{} after key {index}", span(after_us)),
        EventKey::WindowColumn(index) => format!("the window of key {index}"),
    }
}

/// What an early Millstream wrote for [`in_words`]: the key as Rust shows it, of which the numbers are enough.
fn early_event_time(text: &str) -> Option<String> {
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '-').filter_map(|word| word.parse::<i64>().ok());
    let numbers: Vec<i64> = digits.collect();
    let index = usize::try_from(*numbers.first()?).ok()?;
    let key = match (text.split(['(', ' ']).next()?, &numbers[1..]) {
        ("Window", [size_us, slide_us, start_us]) => {
            let (size_us, slide_us, start_us) = (*size_us, *slide_us, *start_us);
            EventKey::Window(index, WindowSpec { size_us, slide_us, start_us })
        }
        ("Time", [after_us]) => EventKey::Time { index, after_us: *after_us },
        ("WindowColumn", []) => EventKey::WindowColumn(index),
        _ => return None,
    };
    Some(in_words(key))
}

/// The expression in terms of what the sources and the operators below give: a name that a sub-query or a view gave to
/// something is not what it stands for. Over two inputs a column says which one it is of.
fn traced(expr: &Expr, node: &StatefulNode) -> PlanResult<String> {
    let whole = expr.clone().unalias_nested().data.transform_up(|e| match &e {
        Expr::Column(column) => Ok(Transformed::yes(match node.inputs.as_slice() {
            [left, right] => origin_of_two(left, right, column)?,
            inputs => inputs.first().map_or(Ok(e.clone()), |input| origin(input, column))?,
        })),
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(whole.data.to_string())
}

fn origin_of_two(left: &LogicalPlan, right: &LogicalPlan, column: &Column) -> PlanResult<Expr> {
    let (side, input) = if left.schema().has_column(column) { ("left", left) } else { ("right", right) };
    Ok(match origin(input, column)? {
        Expr::Column(column) => Expr::Column(Column::new(Some(side), column.name)),
        expr => expr,
    })
}

/// What a column of `plan` is made of.
fn origin(plan: &LogicalPlan, column: &Column) -> PlanResult<Expr> {
    let name = || Ok(Expr::Column(Column::new_unqualified(&column.name)));
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return name();
    };
    let at = |input: &LogicalPlan, index: usize| match index < input.schema().fields().len() {
        true => origin(input, &Column::from(input.schema().qualified_field(index))),
        false => name(),
    };
    if let Some(node) = as_stateful(plan) {
        let passes_on = !(node.aggregates() || matches!(node.kind, StatefulKind::User(_)));
        return match (passes_on, node.inputs.as_slice()) {
            (true, [input]) => at(input, index),
            (true, [left, right]) => origin_of_two(left, right, column),
            _ => name(),
        };
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let expr = projection.expr[index].clone().unalias_nested().data;
            let whole = expr.transform_up(|e| match &e {
                Expr::Column(column) => Ok(Transformed::yes(origin(&projection.input, column)?)),
                _ => Ok(Transformed::no(e)),
            })?;
            Ok(whole.data)
        }
        LogicalPlan::SubqueryAlias(alias) => at(&alias.input, index),
        LogicalPlan::Join(join) => origin_of_two(&join.left, &join.right, column),
        LogicalPlan::Unnest(unnest) => {
            at(&unnest.input, unnest.dependency_indices.get(index).copied().unwrap_or(index))
        }
        LogicalPlan::TableScan(_) | LogicalPlan::Union(_) => name(),
        _ => plan.inputs().first().map_or_else(name, |input| at(input, index)),
    }
}

/// Compares what a checkpoint's operators were with what the query's are.
///
/// # Errors
/// `CheckpointIncompatible` that says which operator's what changed from what to what.
pub fn check_unchanged(before: &[Value], now: &[Value]) -> Result<()> {
    let kinds = |all: &[Value]| {
        let names: Vec<&str> = all.iter().map(|v| v["operator"].as_str().unwrap_or("?")).collect();
        if names.is_empty() { "none".to_string() } else { names.join(", ") }
    };
    let remedy = "the old state cannot serve the new query: use a new checkpoint, or the old query";
    if before.len() != now.len() {
        return Err(Error::incompatible(format!(
            "the stateful operators changed from ({}) to ({}); {remedy}",
            kinds(before),
            kinds(now)
        )));
    }
    for (operator, (old, new)) in before.iter().zip(now).enumerate() {
        let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
            continue;
        };
        // Whether there is a watermark decides about other parts, so it is what changed.
        let keys = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))).map(String::as_str);
        for key in std::iter::once("watermark").chain(keys) {
            let early = old.get(key).and_then(Value::as_str).and_then(early_event_time).map(Value::String);
            let (was, is) = (early.as_ref().filter(|_| key == "event time").or(old.get(key)), new.get(key));
            if was != is {
                return Err(Error::incompatible(format!(
                    "operator {operator} ({}): {key} changed from {} to {}; {remedy}",
                    show(old.get("operator")),
                    show(was),
                    show(is)
                )));
            }
        }
    }
    Ok(())
}

/// A part of a fingerprint as a person would say it.
fn show(part: Option<&Value>) -> String {
    match part {
        None | Some(Value::Null) => "nothing".to_string(),
        Some(Value::String(text)) => plain(text),
        Some(Value::Bool(is)) => (if *is { "yes" } else { "no" }).to_string(),
        Some(Value::Array(parts)) if parts.is_empty() => "nothing".to_string(),
        Some(Value::Array(parts)) => {
            let parts: Vec<String> = parts.iter().map(|part| show(Some(part))).collect();
            format!("({})", parts.join(", "))
        }
        Some(other) => other.to_string(),
    }
}

/// An expression as it was fingerprinted, its literals as SQL would have them: `INTERVAL '5 seconds'`, `'x'`, `5`.
fn plain(text: &str) -> String {
    const INTERVAL: &str =
        r#"IntervalMonthDayNano\("IntervalMonthDayNano \{ months: (-?\d+), days: (-?\d+), nanoseconds: (-?\d+) \}"\)"#;
    const TEXT: &str = r#"(?:Large)?Utf8(?:View)?\("([^"]*)"\)"#;
    const NUMBER: &str = r"\b(?:U?Int\d+|Float\d+|Boolean)\(([^()]*)\)";
    let replace = |pattern: &str, text: &str, by: &dyn Fn(&Captures<'_>) -> String| match Regex::new(pattern) {
        Ok(pattern) => pattern.replace_all(text, |found: &Captures<'_>| by(found)).into_owned(),
        Err(_) => text.to_string(),
    };
    let text = replace(INTERVAL, text, &|found| {
        let number = |group: usize| found[group].parse::<i64>().unwrap_or_default();
        let months = (number(1) != 0).then(|| format!("{} months", number(1)));
        let days = (number(2) != 0).then(|| span(number(2) * 86_400_000_000));
        let rest = (number(3) != 0 || (months.is_none() && days.is_none())).then(|| span(number(3) / 1000));
        let parts: Vec<String> = [months, days, rest].into_iter().flatten().collect();
        format!("INTERVAL '{}'", parts.join(" "))
    });
    let text = replace(TEXT, &text, &|found| format!("'{}'", &found[1]));
    replace(NUMBER, &text, &|found| found[1].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_early_millstream_wrote_means_the_same() {
        let window = WindowSpec { size_us: 20_000_000, slide_us: 5_000_000, start_us: -2_000_000 };
        for key in [
            EventKey::Window(1, window),
            EventKey::Time { index: 0, after_us: 0 },
            EventKey::Time { index: 2, after_us: 90_000_000 },
            EventKey::WindowColumn(3),
        ] {
            assert_eq!(early_event_time(&format!("{key:?}")), Some(in_words(key)));
            assert_eq!(early_event_time(&in_words(key)), None, "{}", in_words(key));
        }
        assert_eq!(in_words(EventKey::Window(1, window)), "window(20 seconds every 5 seconds from -2 seconds), key 1");
    }

    #[test]
    fn a_change_is_told_in_words() {
        let sums = json!({ "operator": "aggregate", "functions": ["sum(v): Int64"], "watermark": true });
        let counts = json!({ "operator": "aggregate", "functions": [], "watermark": true });
        let error = check_unchanged(std::slice::from_ref(&sums), &[counts]).unwrap_err();
        assert!(error.message().contains("operator 0 (aggregate): functions changed from (sum(v): Int64) to nothing"));
        check_unchanged(std::slice::from_ref(&sums), std::slice::from_ref(&sums)).unwrap();
        let interval =
            r#"IntervalMonthDayNano("IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 5000000000 }")"#;
        assert_eq!(plain(&format!("ts + {interval} > x")), "ts + INTERVAL '5 seconds' > x");
        assert_eq!(plain(r#"k = Utf8("a") AND v > Int64(-5) AND f(v)"#), "k = 'a' AND v > -5 AND f(v)");
    }
}
