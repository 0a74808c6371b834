//! `window(ts, …)` in SELECT, not in GROUP BY: rows without a time fall out, and where windows slide a row comes once for
//! each of its windows. As Spark's TimeWindowing does it, for streams and tables alike.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result as PlanResult};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};

use super::window_function::{window_call, windows};
use crate::error::Error;

/// Rewrites every projection of `plan` that makes windows.
///
/// # Errors
/// `Unsupported` where several windows slide, and as DataFusion's building of plans.
pub fn expand_windows(plan: LogicalPlan) -> PlanResult<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Projection(projection) => expand(projection),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

/// Rewrites one projection.
///
/// # Errors
/// As [`expand_windows`].
pub fn expand(projection: Projection) -> PlanResult<Transformed<LogicalPlan>> {
    let mut calls: Vec<Expr> = Vec::new();
    for expr in &projection.expr {
        expr.apply(|e| {
            if matches!(e, Expr::ScalarFunction(_)) && window_call(e).is_some() && !calls.contains(e) {
                calls.push(e.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let mut not_null: Option<Expr> = None;
    let mut sliding = None;
    for call in &calls {
        let Some((time, spec)) = window_call(call) else { continue };
        let timed = time.clone().is_not_null();
        not_null = Some(match not_null {
            Some(before) => before.and(timed),
            None => timed,
        });
        if !spec?.tumbles() {
            sliding = Some(call);
        }
    }
    let Some(not_null) = not_null else {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    };
    let input = LogicalPlanBuilder::from(Arc::clone(&projection.input)).filter(not_null)?;
    let Some(call) = sliding else {
        let input = Arc::new(input.build()?);
        return Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(projection.expr, input)?)));
    };
    if calls.len() > 1 {
        return Err(Error::unsupported(
            "several window() calls of which one slides would pair each window of one with each of the other; use one",
        )
        .into());
    }
    let Expr::ScalarFunction(function) = call else {
        return Err(Error::internal("a window call that is none").into());
    };
    let name = "__millstream_sliding";
    let mut columns: Vec<Expr> = projection.input.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(windows(function.args.clone()).alias(name));
    let input = input.project(columns)?.unnest_column(Column::new_unqualified(name))?.build()?;
    let one = Expr::Column(Column::new_unqualified(name));
    let exprs = projection.expr.iter().zip(projection.schema.iter()).map(|(expr, (qualifier, field))| {
        let replaced = expr.clone().transform_up(|e| match &e == call {
            true => Ok(Transformed::yes(one.clone())),
            false => Ok(Transformed::no(e)),
        })?;
        Ok(match replaced.transformed {
            true => replaced.data.unalias().alias_qualified(qualifier.cloned(), field.name()),
            false => replaced.data,
        })
    });
    let exprs = exprs.collect::<PlanResult<Vec<Expr>>>()?;
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)))
}
