//! `ts - INTERVAL '1' MINUTE` as one subtraction of whole numbers.
//!
//! An interval may have months, so Arrow takes a time apart by the calendar to add one. Where it has none, and the time no
//! zone, it is as long as its microseconds, and adding those gives the same.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as PlanResult, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

const DAY_US: i64 = 86_400_000_000;

/// Rewrites every sum of a time and an interval for which that holds.
///
/// # Errors
/// As DataFusion's tree rewriting.
pub(super) fn intervals_as_durations(plan: LogicalPlan) -> PlanResult<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let schema = merge_schema(&node.inputs());
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|e| Ok(shifted(e, &schema)))?.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(rewritten.data)
}

fn shifted(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) = expr else {
        return Transformed::no(expr);
    };
    let is_time = |expr: &Expr| {
        let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
        expr.get_type(schema).is_ok_and(|data_type| data_type == plain)
    };
    match duration(&right).filter(|_| is_time(&left)) {
        Some(right) => Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right: Box::new(right) })),
        None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
    }
}

/// An interval of days, hours and less, if it is whole microseconds.
fn duration(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(interval, metadata) = expr else {
        return None;
    };
    let (days, us) = match interval {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 && i.nanoseconds % 1_000 == 0 => {
            (i.days, i.nanoseconds / 1_000)
        }
        ScalarValue::IntervalDayTime(Some(i)) => (i.days, i64::from(i.milliseconds) * 1_000),
        _ => return None,
    };
    let us = i64::from(days).checked_mul(DAY_US)?.checked_add(us)?;
    Some(Expr::Literal(ScalarValue::DurationMicrosecond(Some(us)), metadata.clone()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn rewritten(expr: Expr) -> String {
        let field = |name: &str, unit| Field::new(name, DataType::Timestamp(unit, None), true);
        let fields = vec![field("us", TimeUnit::Microsecond), field("ns", TimeUnit::Nanosecond)];
        shifted(expr, &DFSchema::try_from(Schema::new(fields)).unwrap()).data.to_string()
    }

    #[test]
    fn an_interval_without_months_is_as_long_as_its_microseconds() {
        let interval = |months, days, ns| lit(ScalarValue::new_interval_mdn(months, days, ns));
        assert_eq!(rewritten(col("us") - interval(0, 1, 5_000)), "us - DurationMicrosecond(\"86400000005\")");
        let ten_minutes = lit(ScalarValue::new_interval_dt(0, 600_000));
        assert_eq!(rewritten(col("us") + ten_minutes), "us + DurationMicrosecond(\"600000000\")");
        for unchanged in [
            col("us") + interval(1, 0, 0),
            col("us") + interval(0, 0, 1),
            col("us") * interval(0, 1, 0),
            col("ns") + interval(0, 1, 0),
            interval(0, 1, 0) + col("us"),
        ] {
            assert_eq!(rewritten(unchanged.clone()), unchanged.to_string());
        }
    }
}
