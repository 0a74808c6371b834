//! Where an event time goes: which columns of a plan stand for the event time that a watermark watches.
//!
//! Traced through the plan rather than kept in field metadata, so that no optimizer rule can lose it and nothing of
//! it reaches the files that users read.

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::cumulate::CUMULATE;
use super::nodes::{StatefulKind, StatefulNode, WatermarkNode, as_node, as_stateful};
use super::window_function::{SESSION_WINDOW, WINDOW, WINDOW_TIME, WINDOWS, window_spec};
use crate::operator::event_time::{EventKey, EventTime};

/// Returns how `column` of `plan`'s output stands for a watermarked event time, or `None` where it does not.
pub fn event_column(plan: &LogicalPlan, column: &Column) -> Option<EventTime> {
    if let Some(node) = as_node::<WatermarkNode>(plan) {
        return match same_column(node.input.schema(), &node.column, column) {
            true => Some(EventTime::Time { after_us: 0 }),
            false => event_column(&node.input, column),
        };
    }
    if let Some(node) = as_stateful(plan) {
        return of_operator(node, column);
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let index = projection.schema.maybe_index_of_column(column)?;
            event_expr(&projection.input, projection.expr.get(index)?)
        }
        LogicalPlan::SubqueryAlias(alias) => by_index(plan.schema(), column, &alias.input),
        LogicalPlan::Union(union) => {
            let traced: Option<Vec<EventTime>> =
                union.inputs.iter().map(|input| by_index(plan.schema(), column, input)).collect();
            traced?.first().copied()
        }
        LogicalPlan::Join(join) => {
            let side = if join.left.schema().has_column(column) { &join.left } else { &join.right };
            event_column(side, column)
        }
        LogicalPlan::Unnest(unnest) => {
            let index = unnest.schema.maybe_index_of_column(column)?;
            by_position(*unnest.dependency_indices.get(index)?, &unnest.input)
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Repartition(_) => {
            event_column(plan.inputs().first()?, column)
        }
        _ => None,
    }
}

/// Returns how a column that a stateful operator gives stands for the event time.
fn of_operator(node: &StatefulNode, column: &Column) -> Option<EventTime> {
    let index = node.schema.maybe_index_of_column(column)?;
    match &node.kind {
        StatefulKind::Aggregate { event_key, watermarked, .. } => {
            let key = event_key.filter(|key| *watermarked && key.index() == index)?;
            match key {
                EventKey::Window(_, window) => Some(EventTime::Window { size_us: Some(window.size_us) }),
                EventKey::Time { .. } | EventKey::WindowColumn(_) => event_expr(node.input(), node.exprs.get(index)?),
            }
        }
        StatefulKind::Session { session, watermarked, .. } => {
            (*watermarked && *session == index).then_some(EventTime::Window { size_us: None })
        }
        // Their columns are those of their inputs, one behind the other.
        StatefulKind::Deduplicate { .. }
        | StatefulKind::FirstRow { .. }
        | StatefulKind::Join { .. }
        | StatefulKind::Asof { .. }
        | StatefulKind::Limit { .. } => {
            let mut index = index;
            for input in &node.inputs {
                let width = input.schema().fields().len();
                if index < width {
                    return by_position(index, input);
                }
                index -= width;
            }
            None
        }
        StatefulKind::User(user) => (user.event_time == Some(index)).then_some(EventTime::Time { after_us: 0 }),
    }
}

/// Returns the first column of `plan` that stands for a watermarked event time.
pub fn first_event_column(plan: &LogicalPlan) -> Option<(Column, EventTime)> {
    plan.schema().columns().into_iter().find_map(|column| event_column(plan, &column).map(|time| (column, time)))
}

/// Returns how an expression over `input` stands for a watermarked event time.
pub fn event_expr(input: &LogicalPlan, expr: &Expr) -> Option<EventTime> {
    match expr {
        Expr::Alias(alias) => event_expr(input, &alias.expr),
        Expr::Column(column) => event_column(input, column),
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
            (WINDOW | WINDOWS, [time, durations @ ..]) => {
                event_expr(input, time)?;
                Some(EventTime::Window { size_us: Some(window_spec(durations).ok()?.size_us) })
            }
            // Windows of several lengths: only their end tells when one is over.
            (SESSION_WINDOW | CUMULATE, [time, ..]) => {
                event_expr(input, time)?;
                Some(EventTime::Window { size_us: None })
            }
            (WINDOW_TIME, [window]) => match event_expr(input, window)? {
                EventTime::Window { .. } => Some(EventTime::Time { after_us: 0 }),
                EventTime::Time { .. } => None,
            },
            ("get_field", [window, Expr::Literal(field, _)]) => match event_expr(input, window)? {
                EventTime::Window { size_us } => match field.try_as_str().flatten()? {
                    "end" => Some(EventTime::Time { after_us: 0 }),
                    "start" => Some(EventTime::Time { after_us: size_us? }),
                    _ => None,
                },
                EventTime::Time { .. } => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn same_column(schema: &DFSchema, a: &Column, b: &Column) -> bool {
    match (schema.maybe_index_of_column(a), schema.maybe_index_of_column(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn by_index(schema: &DFSchema, column: &Column, input: &LogicalPlan) -> Option<EventTime> {
    by_position(schema.maybe_index_of_column(column)?, input)
}

fn by_position(index: usize, input: &LogicalPlan) -> Option<EventTime> {
    if index >= input.schema().fields().len() {
        return None;
    }
    event_column(input, &Column::from(input.schema().qualified_field(index)))
}
