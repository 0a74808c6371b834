//! Where an event time goes: which columns of a plan stand for the event time that a watermark watches.
//!
//! Traced through the plan rather than kept in field metadata, so that no optimizer rule can lose it and nothing of
//! it reaches the files that users read.

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::nodes::{GlobalLimitNode, StatefulAggregateNode, WatermarkNode, as_node};
use super::window_function::{WINDOW, WINDOW_TIME, WINDOWS, window_spec};
use crate::operator::event_time::EventKey;

/// How a column stands for the event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventColumn {
    /// It is a time; what belongs to it expires `after_us` later.
    Time {
        /// Zero for the event time itself and for a window's end, the window's length for its start.
        after_us: i64,
    },
    /// It is a window of this length.
    Window {
        /// The length.
        size_us: i64,
    },
}

/// Returns how `column` of `plan`'s output stands for a watermarked event time, or `None` where it does not.
pub fn event_column(plan: &LogicalPlan, column: &Column) -> Option<EventColumn> {
    if let Some(node) = as_node::<WatermarkNode>(plan) {
        return match same_column(node.input.schema(), &node.column, column) {
            true => Some(EventColumn::Time { after_us: 0 }),
            false => event_column(&node.input, column),
        };
    }
    if let Some(node) = as_node::<StatefulAggregateNode>(plan) {
        let index = plan.schema().maybe_index_of_column(column)?;
        let key = node.event_key.filter(|key| node.watermarked && key.index() == index)?;
        return match key {
            EventKey::Window(_, window) => Some(EventColumn::Window { size_us: window.size_us }),
            EventKey::Time { .. } | EventKey::WindowColumn(_) => event_expr(&node.input, node.groups.get(index)?),
        };
    }
    if let Some(node) = as_node::<GlobalLimitNode>(plan) {
        return event_column(&node.input, column);
    }
    match plan {
        LogicalPlan::Projection(projection) => {
            let index = projection.schema.maybe_index_of_column(column)?;
            event_expr(&projection.input, projection.expr.get(index)?)
        }
        LogicalPlan::SubqueryAlias(alias) => by_index(plan.schema(), column, &alias.input),
        LogicalPlan::Union(union) => {
            let traced: Option<Vec<EventColumn>> =
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

/// Returns how an expression over `input` stands for a watermarked event time.
pub fn event_expr(input: &LogicalPlan, expr: &Expr) -> Option<EventColumn> {
    match expr {
        Expr::Alias(alias) => event_expr(input, &alias.expr),
        Expr::Column(column) => event_column(input, column),
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
            (WINDOW | WINDOWS, [time, durations @ ..]) => {
                event_expr(input, time)?;
                Some(EventColumn::Window { size_us: window_spec(durations).ok()?.size_us })
            }
            (WINDOW_TIME, [window]) => match event_expr(input, window)? {
                EventColumn::Window { .. } => Some(EventColumn::Time { after_us: 0 }),
                EventColumn::Time { .. } => None,
            },
            ("get_field", [window, Expr::Literal(field, _)]) => match event_expr(input, window)? {
                EventColumn::Window { size_us } => match field.try_as_str().flatten()? {
                    "end" => Some(EventColumn::Time { after_us: 0 }),
                    "start" => Some(EventColumn::Time { after_us: size_us }),
                    _ => None,
                },
                EventColumn::Time { .. } => None,
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

fn by_index(schema: &DFSchema, column: &Column, input: &LogicalPlan) -> Option<EventColumn> {
    by_position(schema.maybe_index_of_column(column)?, input)
}

fn by_position(index: usize, input: &LogicalPlan) -> Option<EventColumn> {
    if index >= input.schema().fields().len() {
        return None;
    }
    event_column(input, &Column::from(input.schema().qualified_field(index)))
}
