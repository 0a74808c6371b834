//! What an operator's state means, as text to compare: a restart with another meaning is refused.
//!
//! Spark accepts sum → max, or a window of 20 s over the state of one of 10 s, and gives wrong rows. Here whatever
//! decides what the state holds is in the fingerprint; filters, projections, names of tables, limits on rates, the
//! trigger, the watermark's delay and the number of lanes are not.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as PlanResult};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable};
use serde_json::{Value, json};

use super::nodes::{Forget, SideExpiry, StatefulKind, StatefulNode};
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// Returns an operator's fingerprint.
///
/// # Errors
/// As DataFusion's typing of expressions.
pub fn of(node: &StatefulNode, mode: OutputMode) -> PlanResult<Value> {
    let schema = merge_schema(&node.inputs.iter().collect::<Vec<_>>());
    let typed = |expr: &Expr| -> PlanResult<String> { Ok(format!("{}: {}", bare(expr)?, expr.get_type(&schema)?)) };
    let list = |exprs: &[Expr]| exprs.iter().map(typed).collect::<PlanResult<Vec<_>>>();
    // Rows that are kept whole must have the columns they had; which of them are kept is seen when state is read.
    Ok(match &node.kind {
        StatefulKind::Aggregate { groups, grouping_sets, event_key, watermarked } => json!({
            "operator": "aggregate",
            "keys": list(&node.exprs[..*groups])?,
            "grouping sets": grouping_sets,
            "functions": list(&node.exprs[*groups..])?,
            "event time": event_key.map(|key| format!("{key:?}")),
            "watermark": watermarked,
            "keeps closed groups": mode == OutputMode::Complete,
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

/// The expression without names of tables and outermost aliases.
fn bare(expr: &Expr) -> PlanResult<String> {
    let unqualified = expr.clone().unalias_nested().data.transform(|e| match e {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(unqualified.data.to_string())
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
        let keys = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k)));
        for key in keys {
            let (was, is) = (old.get(key), new.get(key));
            if was != is {
                let show = |v: Option<&Value>| v.map_or("nothing".to_string(), ToString::to_string);
                return Err(Error::incompatible(format!(
                    "operator {operator}: {key} changed from {} to {}; {remedy}",
                    show(was),
                    show(is)
                )));
            }
        }
    }
    Ok(())
}
