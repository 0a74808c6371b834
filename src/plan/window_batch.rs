//! `GROUP BY window(…)` and `session_window(…)` in a batch query: rows without a time fall out, a sliding window
//! repeats each row, and sessions merge, as the stateful aggregates of a stream do. So the same SQL over a table
//! answers as over a stream that has ended.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result as PlanResult};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use super::session_batch::sessions;
use super::stream_table::is_streaming;
use super::window_function::{WINDOW, session_call, window_call, windows};
use super::window_projection::expand;
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
            // A stream's windows are made by its operators, batch by batch.
            LogicalPlan::Aggregate(aggregate) if !is_streaming(&aggregate.input) => match session_of(&aggregate)? {
                Some(session) => sessions(&aggregate, session).map(Transformed::yes),
                None => rewrite(aggregate),
            },
            LogicalPlan::Projection(projection) if !is_streaming(&projection.input) => expand(projection),
            other => Ok(Transformed::no(other)),
        })
        .map(|t| t.data)
    }
}

/// Which group expression is a session.
fn session_of(aggregate: &Aggregate) -> PlanResult<Option<usize>> {
    let groups = &aggregate.group_expr;
    let session = groups.iter().position(|group| session_call(group).is_some());
    let windows = groups.iter().filter(|group| session_call(group).is_some() || window_call(group).is_some()).count();
    if session.is_some() && windows > 1 {
        return Err(Error::unsupported("several window calls in one GROUP BY are not supported; use one").into());
    }
    let in_sets = |group: &Expr| match group {
        Expr::GroupingSet(set) => set.distinct_expr().into_iter().any(|key| session_call(key).is_some()),
        _ => false,
    };
    if groups.iter().any(in_sets) {
        let message = "session_window() in ROLLUP, CUBE or GROUPING SETS is not supported";
        return Err(Error::unsupported(message).into());
    }
    Ok(session)
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
