//! `GROUP BY window(…)` in a batch query: rows without a time fall out, and a sliding window repeats each row, as the
//! stateful aggregate of a stream does. So the same SQL over a table answers as over a stream that has ended.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result as PlanResult};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use super::window_function::{WINDOW, window_call, windows};
use crate::error::Error;

/// The rule.
#[derive(Debug)]
pub struct WindowInBatch;

impl AnalyzerRule for WindowInBatch {
    fn name(&self) -> &str {
        "window_in_batch"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> PlanResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(aggregate) => rewrite(aggregate),
            other => Ok(Transformed::no(other)),
        })
        .map(|t| t.data)
    }
}

fn rewrite(aggregate: Aggregate) -> PlanResult<Transformed<LogicalPlan>> {
    let Some(index) = aggregate.group_expr.iter().position(|g| window_call(g).is_some()) else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let Some((time, spec)) = window_call(&aggregate.group_expr[index]) else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let spec = spec?;
    let name = "__window";
    if aggregate.input.schema().has_column_with_unqualified_name(name) {
        return Err(Error::internal("a column called __window").into());
    }
    let arguments = match &aggregate.group_expr[index] {
        Expr::ScalarFunction(call) => call.args.clone(),
        Expr::Alias(alias) => match alias.expr.as_ref() {
            Expr::ScalarFunction(call) => call.args.clone(),
            _ => return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        },
        _ => return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
    };
    let mut columns: Vec<Expr> = aggregate.input.schema().columns().into_iter().map(Expr::Column).collect();
    let windows = if spec.tumbles() { aggregate.group_expr[index].clone().unalias() } else { windows(arguments) };
    columns.push(windows.alias(name));
    let mut input =
        LogicalPlanBuilder::from(Arc::clone(&aggregate.input)).filter(time.clone().is_not_null())?.project(columns)?;
    if !spec.tumbles() {
        input = input.unnest_column(Column::new_unqualified(name))?;
    }
    let mut groups = aggregate.group_expr.clone();
    groups[index] = Expr::Column(Column::new_unqualified(name)).alias(WINDOW);
    let rewritten =
        Aggregate::try_new_with_schema(Arc::new(input.build()?), groups, aggregate.aggr_expr, aggregate.schema)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(rewritten)))
}
