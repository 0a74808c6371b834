//! What an operator's state means, as text to compare: a restart with another meaning is refused.
//!
//! Spark accepts sum → max, or a window of 20 s over the state of one of 10 s, and gives wrong rows. Here whatever
//! decides what the state holds is in the fingerprint; filters, projections, names of tables, limits on rates, the
//! trigger, the watermark's delay and the number of lanes are not.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as PlanResult};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use serde_json::{Value, json};

use super::nodes::{Forget, SideExpiry, StatefulKind, StatefulNode, as_stateful};
use crate::error::{Error, Result};
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
            "event time": event_key.map(|key| format!("{key:?}")),
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
