//! ASOF joins: each row of the left with the nearest earlier row of the right that has its keys.
//!
//! SQL comes here with both sides and the whole condition, of which the keys and the two times are read. Two streams
//! make an operator; two tables make plain joins and numbers of rows, so that the same SQL over tables answers as over
//! streams that have ended.

use std::sync::Arc;

use datafusion::common::{JoinType, Result as PlanResult};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, col, lit,
};

use super::nodes::{StatefulKind, StatefulNode};
use super::stream_join::is_of;
use super::stream_table::is_streaming;
use crate::error::{Error, Result};

/// What the condition of an ASOF join says.
#[derive(Debug)]
struct Condition {
    /// The keys of the left.
    left: Vec<Expr>,
    /// The keys of the right, of the same types.
    right: Vec<Expr>,
    /// The times of left and right.
    times: [Expr; 2],
    /// Whether a partner of the same time will not do.
    strictly_earlier: bool,
}

/// Joins `left` with the nearest earlier rows of `right`; `outer` keeps rows without one.
///
/// # Errors
/// `Unsupported` where the condition is anything but equalities and one `left.time >= right.time` (or `>`), or where
/// one side is a stream and the other is not.
pub fn asof_join(left: LogicalPlan, right: LogicalPlan, condition: &Expr, outer: bool) -> Result<LogicalPlan> {
    let read = Condition::of(condition, &left, &right)?;
    let join_type = if outer { JoinType::Left } else { JoinType::Inner };
    match (is_streaming(&left), is_streaming(&right)) {
        (true, true) => {
            let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &join_type)?);
            let strictly_earlier = read.strictly_earlier;
            let kind = StatefulKind::Asof { outer, strictly_earlier, late: [None, None] };
            let exprs = read.left.into_iter().chain(read.right).chain(read.times).collect();
            Ok(StatefulNode { operator: None, kind, inputs: vec![left, right], exprs, schema }.into_plan())
        }
        (false, false) => Ok(over_tables(left, right, condition, &read.times, join_type)?),
        _ => Err(Error::unsupported(
            "an ASOF join of a stream and a table is not supported: read both as streams (STREAM t WATERMARK …), or join \
             with the table as it is now by JOIN",
        )),
    }
}

impl Condition {
    fn of(condition: &Expr, left: &LogicalPlan, right: &LogicalPlan) -> Result<Self> {
        let (mut lefts, mut rights, mut times) = (Vec::new(), Vec::new(), None);
        for condition in split_conjunction(condition) {
            let (mine, operator, other) = compared(condition, left, right).ok_or_else(|| unknown(condition))?;
            match operator {
                Operator::Eq => {
                    let (mine, other) = of_one_type(mine, left, other, right)?;
                    lefts.push(mine);
                    rights.push(other);
                }
                Operator::Gt | Operator::GtEq if times.is_none() => {
                    times = Some(([mine.clone(), other.clone()], operator == Operator::Gt));
                }
                Operator::Lt | Operator::LtEq => {
                    return Err(Error::unsupported(format!(
                        "an ASOF join looks for the nearest earlier row, and {condition} asks for a later one: write a.ts >= \
                         b.ts, or change the sides"
                    )));
                }
                _ => return Err(unknown(condition)),
            }
        }
        let Some((times, strictly_earlier)) = times else {
            return Err(Error::unsupported(
                "an ASOF join compares the times of its sides: write AND a.ts >= b.ts, or MATCH_CONDITION (a.ts >= b.ts)",
            ));
        };
        if lefts.is_empty() {
            return Err(Error::unsupported(
                "an ASOF join without an equality in its condition is not supported: add one, such as a.k = b.k",
            ));
        }
        Ok(Self { left: lefts, right: rights, times, strictly_earlier })
    }
}

/// A comparison between the sides, the left's part first.
fn compared<'a>(
    condition: &'a Expr,
    left: &LogicalPlan,
    right: &LogicalPlan,
) -> Option<(&'a Expr, Operator, &'a Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: first, op, right: second }) = condition else {
        return None;
    };
    // a constant is of neither side
    let of = |expr: &Expr, side: &LogicalPlan| is_of(expr, side) && !expr.column_refs().is_empty();
    if of(first, left) && of(second, right) {
        Some((first, *op, second))
    } else if of(first, right) && of(second, left) {
        Some((second, op.swap()?, first))
    } else {
        None
    }
}

fn unknown(condition: &Expr) -> Error {
    Error::unsupported(format!(
        "the condition of an ASOF join is equalities of its sides and one comparison of their times, as in ON a.k = b.k AND \
         a.ts >= b.ts; {condition} belongs into WHERE or a sub-query"
    ))
}

/// Keys are compared as values of one type.
fn of_one_type(mine: &Expr, left: &LogicalPlan, other: &Expr, right: &LogicalPlan) -> Result<(Expr, Expr)> {
    let (mine_type, other_type) = (mine.get_type(left.schema())?, other.get_type(right.schema())?);
    let common = comparison_coercion(&mine_type, &other_type).ok_or_else(|| {
        Error::invalid_query(format!(
            "{mine} is {mine_type} and {other} is {other_type}: they cannot be equal, CAST one"
        ))
    })?;
    let cast = |expr: &Expr, plan: &LogicalPlan| expr.clone().cast_to(&common, plan.schema());
    Ok((cast(mine, left)?, cast(other, right)?))
}

/// Joins every earlier row, and keeps the nearest of each row of the left: the last one where several have its time. A
/// row of the left without a time is in no order, and dropped.
fn over_tables(
    left: LogicalPlan,
    right: LogicalPlan,
    condition: &Expr,
    times: &[Expr; 2],
    join_type: JoinType,
) -> PlanResult<LogicalPlan> {
    const LEFT: &str = "__asof_left";
    const RIGHT: &str = "__asof_right";
    const RANK: &str = "__asof_rank";
    let [left_time, right_time] = times;
    let columns: Vec<Expr> =
        [&left, &right].into_iter().flat_map(|side| side.schema().columns()).map(Expr::Column).collect();
    let right = LogicalPlanBuilder::from(right).window([row_number().alias(RIGHT)])?.build()?;
    let nearest_first = vec![right_time.clone().sort(false, false), col(RIGHT).sort(false, false)];
    let rank = row_number().partition_by(vec![col(LEFT)]).order_by(nearest_first).build()?;
    LogicalPlanBuilder::from(left)
        .filter(left_time.clone().is_not_null())?
        .window([row_number().alias(LEFT)])?
        .join_on(right, join_type, [condition.clone()])?
        .window([rank.alias(RANK)])?
        .filter(col(RANK).eq(lit(1_u64)))?
        .project(columns)?
        .build()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn table(context: &SessionContext, name: &str, values: &str) -> LogicalPlan {
        let sql = format!("SELECT * FROM (VALUES {values}) AS {name}(k, ts, v)");
        context.sql(&sql).await.unwrap().into_unoptimized_plan()
    }

    fn on(times: Expr) -> Expr {
        col("a.k").eq(col("b.k")).and(times)
    }

    async fn joined(times: Expr, outer: bool) -> Vec<String> {
        let context = SessionContext::new();
        let left = "('x', 5, 1), ('x', 2, 2), ('x', 9, 3), ('y', 9, 4), ('x', NULL, 5), (NULL, 9, 6)";
        let right = "('x', 2, 20), ('x', 5, 50), ('x', 4, 40), ('z', 1, 10), (NULL, 1, 11)";
        let (left, right) = (table(&context, "a", left).await, table(&context, "b", right).await);
        let plan = asof_join(left, right, &on(times), outer).unwrap();
        let plan = LogicalPlanBuilder::from(plan).sort([col("a.v").sort(true, true)]).unwrap().build().unwrap();
        let batches = context.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
        let text = pretty_format_batches(&batches).unwrap().to_string();
        text.lines().filter(|line| line.starts_with('|')).skip(1).map(|line| line.replace(' ', "")).collect()
    }

    #[tokio::test]
    async fn over_tables_each_row_has_the_nearest_earlier_one() {
        let at_or_before = col("a.ts").gt_eq(col("b.ts"));
        let inner = joined(at_or_before.clone(), false).await;
        assert_eq!(inner, ["|x|5|1|x|5|50|", "|x|2|2|x|2|20|", "|x|9|3|x|5|50|"]);
        let outer = joined(at_or_before, true).await;
        assert_eq!(outer, ["|x|5|1|x|5|50|", "|x|2|2|x|2|20|", "|x|9|3|x|5|50|", "|y|9|4||||", "||9|6||||"]);
        let before = joined(col("b.ts").lt(col("a.ts")), false).await;
        assert_eq!(before, ["|x|5|1|x|4|40|", "|x|9|3|x|5|50|"]);
    }

    #[tokio::test]
    async fn other_conditions_are_refused() {
        let context = SessionContext::new();
        let left = table(&context, "a", "('x', 5, 1)").await;
        let right = table(&context, "b", "('x', 2, 20)").await;
        let later = col("a.ts").gt_eq(col("b.ts"));
        for (condition, part) in [
            (col("a.k").eq(col("b.k")), "compares the times"),
            (later.clone(), "without an equality"),
            (on(col("a.ts").lt_eq(col("b.ts"))), "asks for a later one"),
            (on(later.clone()).and(col("a.v").gt(col("b.v"))), "belongs into WHERE"),
            (on(later.clone()).and(col("a.v").gt(lit(5))), "belongs into WHERE"),
            (on(later.or(col("a.k").eq(col("b.k")))), "belongs into WHERE"),
        ] {
            let error = asof_join(left.clone(), right.clone(), &condition, false).unwrap_err().to_string();
            assert!(error.contains(part), "{condition}: {error}");
        }
    }

    #[tokio::test]
    async fn keys_are_of_one_type_and_the_left_comes_first() {
        let context = SessionContext::new();
        let left = table(&context, "a", "(1, 5, 1)").await;
        let right = context.sql("SELECT * FROM (VALUES (CAST(1 AS INT), 2)) AS b(k, ts)").await.unwrap();
        let right = right.into_unoptimized_plan();
        let condition = col("b.ts").lt(col("a.ts")).and(col("b.k").eq(col("a.k")));
        let read = Condition::of(&condition, &left, &right).unwrap();
        assert_eq!(read.left, [col("a.k")]);
        assert_eq!(read.right[0].get_type(right.schema()).unwrap(), left.schema().field(0).data_type().clone());
        assert_eq!(read.times, [col("a.ts"), col("b.ts")]);
        assert!(read.strictly_earlier);
    }
}
