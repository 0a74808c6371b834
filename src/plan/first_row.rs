//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY event_time) = 1`: the one window function that streams accept, in the form
//! in which Flink's users write deduplication.
//!
//! It keeps, of each key, the row with the least event time. The pattern is a filter for the number 1 somewhere above
//! the window function; the function becomes an operator that gives that row alone, with its number.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as PlanResult, ScalarValue};
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, LogicalPlan, Operator, Window};

use super::nodes::{StatefulKind, StatefulNode};
use super::stream_table::is_streaming;

/// Makes operators of the window functions that a filter holds to 1.
///
/// # Errors
/// As DataFusion's tree rewriting.
pub fn find_first_rows(plan: LogicalPlan) -> PlanResult<LogicalPlan> {
    let rewritten = plan.transform_down(|node| match node {
        LogicalPlan::Filter(filter) if is_streaming(&filter.input) => {
            let columns: Vec<Column> = split_conjunction(&filter.predicate).into_iter().filter_map(is_one).collect();
            for column in columns {
                if let Some(input) = replaced(&filter.input, &column)? {
                    let filter = Filter::try_new(filter.predicate, Arc::new(input))?;
                    return Ok(Transformed::yes(LogicalPlan::Filter(filter)));
                }
            }
            Ok(Transformed::no(LogicalPlan::Filter(filter)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// The column that a condition holds to 1: `rn = 1`, `rn <= 1`, `rn < 2`, either way round.
fn is_one(condition: &Expr) -> Option<Column> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let (column, op, number) = match (column_of(left), column_of(right)) {
        (Some(column), None) => (column, *op, right),
        (None, Some(column)) => (column, op.swap()?, left),
        _ => return None,
    };
    let number = literal(number)?;
    match (op, number) {
        (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2) => Some(column.clone()),
        _ => None,
    }
}

fn column_of(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Cast(cast) => column_of(&cast.expr),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&datafusion::arrow::datatypes::DataType::Int64).ok()? {
            ScalarValue::Int64(number) => number,
            _ => None,
        },
        Expr::Cast(cast) => literal(&cast.expr),
        _ => None,
    }
}

/// Follows `column` down to a window function and returns `plan` with that replaced, or `None` where it leads elsewhere.
fn replaced(plan: &LogicalPlan, column: &Column) -> PlanResult<Option<LogicalPlan>> {
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return Ok(None);
    };
    let below = |input: &LogicalPlan, column: Column| -> PlanResult<Option<LogicalPlan>> {
        let Some(input) = replaced(input, &column)? else { return Ok(None) };
        plan.with_new_exprs(plan.expressions(), vec![input]).map(Some)
    };
    match plan {
        LogicalPlan::Window(window) => Ok(first_row(window, index)),
        LogicalPlan::Filter(filter) => below(&filter.input, column.clone()),
        LogicalPlan::SubqueryAlias(alias) => {
            below(&alias.input, Column::from(alias.input.schema().qualified_field(index)))
        }
        LogicalPlan::Projection(projection) => match projection.expr.get(index).map(bare) {
            Some(Expr::Column(column)) => below(&projection.input, column.clone()),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}

/// The operator for a window of one `row_number()` with one ascending order.
fn first_row(window: &Window, index: usize) -> Option<LogicalPlan> {
    let width = window.input.schema().fields().len();
    let ([expr], true) = (window.window_expr.as_slice(), index == width) else {
        return None;
    };
    let Expr::WindowFunction(function) = bare(expr) else {
        return None;
    };
    let WindowFunctionParams { partition_by, order_by, .. } = &function.params;
    let ([order], "row_number") = (order_by.as_slice(), function.fun.name()) else {
        return None;
    };
    if !order.asc || partition_by.is_empty() {
        return None;
    }
    let exprs = partition_by.iter().cloned().chain([order.expr.clone()]).collect();
    let node = StatefulNode {
        operator: None,
        kind: StatefulKind::FirstRow { event_key: None },
        inputs: vec![window.input.as_ref().clone()],
        exprs,
        schema: Arc::clone(&window.schema),
    };
    Some(node.into_plan())
}
