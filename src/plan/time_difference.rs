//! `b.ts - a.ts <= INTERVAL '1' DAY`: a difference of two times held against an interval.
//!
//! Arrow compares intervals field by field, months before days before nanoseconds, so that 25 hours (no day, many
//! nanoseconds) are less than one day. A difference of times has nanoseconds alone; here the interval gets them too.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

const DAY_NS: i64 = 86_400_000_000_000;

/// The rule, for queries that are no streams.
#[derive(Debug)]
pub struct TimeDifference;

impl AnalyzerRule for TimeDifference {
    fn name(&self) -> &str {
        "time_difference"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> PlanResult<LogicalPlan> {
        days_as_nanoseconds(plan)
    }
}

/// Rewrites every comparison of a difference of times with an interval.
///
/// # Errors
/// As DataFusion's tree rewriting.
pub fn days_as_nanoseconds(plan: LogicalPlan) -> PlanResult<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        // A column that is such a comparison keeps its name, which others go by.
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|e| Ok(compared(e)))?.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(rewritten.data)
}

fn compared(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let (left, right) = match (is_difference(&left), is_difference(&right)) {
                (true, false) => (left, plain(right)),
                (false, true) => (plain(left), right),
                _ => (left, right),
            };
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_difference(&expr) => {
            Transformed::yes(Expr::Between(Between { expr, negated, low: plain(low), high: plain(high) }))
        }
        other => Transformed::no(other),
    }
}

fn is_difference(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            let interval = |e: &Expr| matches!(e, Expr::Literal(ScalarValue::IntervalMonthDayNano(_), _));
            !interval(left) && !interval(right)
        }
        Expr::Cast(cast) => is_difference(&cast.expr),
        Expr::Alias(alias) => is_difference(&alias.expr),
        _ => false,
    }
}

/// An interval of days as one of nanoseconds; months, whose length nobody knows, stay.
fn plain(expr: Box<Expr>) -> Box<Expr> {
    if let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(v)), metadata) = expr.as_ref()
        && v.months == 0
        && let Some(nanoseconds) = i64::from(v.days).checked_mul(DAY_NS).and_then(|ns| ns.checked_add(v.nanoseconds))
    {
        let plain = IntervalMonthDayNano::new(0, 0, nanoseconds);
        return Box::new(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(plain)), metadata.clone()));
    }
    expr
}
