//! `GROUP BY session_window(…)` in a batch query: sessions are found by window functions, as the stateful aggregate of
//! a stream finds them row by row. So the same SQL over a table answers as over a stream that has ended.
//!
//! Of each key the rows are looked at by their time. A row begins a session where it starts after the greatest end of
//! the rows before it; the number of beginnings so far is the session's number, which is grouped by. This runs after
//! the types are settled, so everything made here has its types already.

use std::sync::Arc;

use datafusion::common::{Column, Result as PlanResult, ScalarValue};
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Expr, LogicalPlan, LogicalPlanBuilder, Projection, WindowFrame, WindowFrameBound,
    WindowFrameUnits, lit, when,
};

use crate::error::Error;

/// Where a row's own session starts.
const START: &str = "__session_start";
/// Where a row's own session ends.
const END: &str = "__session_end";

/// Returns what `aggregate`, whose group expression at `session` is a call of `session_window()`, means over rows that
/// are all there.
///
/// # Errors
/// `Internal` where the input has a column of a name that is used here; what DataFusion's builder meets.
pub(super) fn sessions(aggregate: &Aggregate, session: usize) -> PlanResult<LogicalPlan> {
    let mut groups = aggregate.group_expr.clone();
    let call = groups.remove(session).unalias();
    let keys: Vec<Expr> = groups.iter().map(|key| key.clone().unalias()).collect();

    let rows = rows_with_sessions(&aggregate.input, call)?;
    let reach = over(max_udaf(), hidden(END), &keys, rows_before());
    let rows = LogicalPlanBuilder::from(rows).window([reach])?.build()?;
    let first = when(begins(hidden(START), last_column(&rows)), lit(1_i64)).otherwise(lit(0_i64))?;
    let number = over(sum_udaf(), first, &keys, rows_up_to_this_time());
    let rows = LogicalPlanBuilder::from(rows).window([number])?.build()?;

    groups.push(last_column(&rows));
    let functions = [min(hidden(START)), max(hidden(END))].into_iter().chain(aggregate.aggr_expr.clone()).collect();
    let grouped = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(rows), groups, functions)?);
    as_written(aggregate, session, grouped)
}

/// Whether a row begins a session, by the greatest end of the rows before it. As in Spark, rows that merely touch (one
/// starts where another ends) are of one session.
fn begins(start: Expr, reach: Expr) -> Expr {
    reach.clone().is_null().or(start.gt(reach))
}

/// The rows of `input`, each with the session that it makes alone. Rows without a time or with a gap that is NULL or
/// not above zero fall out: they are of no session.
fn rows_with_sessions(input: &Arc<LogicalPlan>, call: Expr) -> PlanResult<LogicalPlan> {
    if let Some(name) = [START, END].into_iter().find(|name| input.schema().has_column_with_unqualified_name(name)) {
        return Err(Error::internal(format!("a column called {name}")).into());
    }
    let mut columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(get_field(call.clone(), "start").alias(START));
    columns.push(get_field(call, "end").alias(END));
    LogicalPlanBuilder::from(Arc::clone(input)).project(columns)?.filter(hidden(END).gt(hidden(START)))?.build()
}

/// The groups as the query has them: the keys in their places, the session among them, then the functions.
fn as_written(aggregate: &Aggregate, session: usize, grouped: LogicalPlan) -> PlanResult<LogicalPlan> {
    let schema = Arc::clone(grouped.schema());
    let column = |index: usize| Expr::Column(Column::from(schema.qualified_field(index)));
    let keys = aggregate.group_expr.len() - 1;
    // Behind the keys stand the session's number, its start and its end.
    let window = named_struct(vec![lit("start"), column(keys + 1), lit("end"), column(keys + 2)]);
    let (qualifier, field) = aggregate.schema.qualified_field(session);
    let window = window.alias_qualified(qualifier.cloned(), field.name());
    let mut columns: Vec<Expr> = (0..keys).map(column).collect();
    columns.insert(session, window);
    columns.extend((keys + 3..schema.fields().len()).map(column));
    Projection::try_new(columns, Arc::new(grouped)).map(LogicalPlan::Projection)
}

fn hidden(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn last_column(plan: &LogicalPlan) -> Expr {
    let schema = plan.schema();
    Expr::Column(Column::from(schema.qualified_field(schema.fields().len() - 1)))
}

/// `function(argument) OVER (PARTITION BY keys ORDER BY start …)`.
fn over(function: Arc<AggregateUDF>, argument: Expr, keys: &[Expr], window_frame: WindowFrame) -> Expr {
    Expr::from(WindowFunction {
        fun: function.into(),
        params: WindowFunctionParams {
            args: vec![argument],
            partition_by: keys.to_vec(),
            order_by: vec![hidden(START).sort(true, true)],
            window_frame,
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    })
}

fn rows_before() -> WindowFrame {
    let all = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
    let last = WindowFrameBound::Preceding(ScalarValue::UInt64(Some(1)));
    WindowFrame::new_bounds(WindowFrameUnits::Rows, all, last)
}

/// Rows of one time are numbered alike, in whatever order they are sorted.
fn rows_up_to_this_time() -> WindowFrame {
    // What bounds a range of times is an interval.
    let all = WindowFrameBound::Preceding(ScalarValue::IntervalMonthDayNano(None));
    WindowFrame::new_bounds(WindowFrameUnits::Range, all, WindowFrameBound::CurrentRow)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    use super::super::window_batch::WindowInBatch;
    use super::super::window_function::functions;
    use super::*;

    async fn rows(sql: &str) -> Vec<String> {
        let context = SessionContext::new();
        functions().into_iter().for_each(|function| context.register_udf(function));
        context.add_analyzer_rule(Arc::new(WindowInBatch));
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        let text = pretty_format_batches(&batches).unwrap().to_string();
        text.lines().filter(|line| line.starts_with('|')).skip(1).map(|line| line.replace(' ', "")).collect()
    }

    /// Sessions of rows (key, second, gap), as key, start, end and number of rows.
    async fn sessions_of(values: &str, keys: &str) -> Vec<String> {
        rows(&format!(
            "WITH t AS (SELECT column1 AS k, to_timestamp_seconds(column2) AS ts, column3 AS gap FROM (VALUES {values})), \
             s AS (SELECT session_window(ts, gap) AS w, {keys}, count(*) AS n FROM t \
             GROUP BY session_window(ts, gap), {keys}) \
             SELECT {keys}, CAST(get_field(w, 'start') AS BIGINT) / 1000000 AS a, \
             CAST(get_field(w, 'end') AS BIGINT) / 1000000 AS b, n FROM s ORDER BY {keys}, a"
        ))
        .await
    }

    #[tokio::test]
    async fn rows_within_a_gap_are_one_session() {
        let values = "('a', 0, '5 seconds'), ('a', 12, '5 seconds'), ('a', 3, '1 second'), ('a', 12, '5 seconds'), \
                      ('a', 5, '5 seconds'), ('b', 12, '1 second'), ('b', 0, '20 seconds'), ('b', 1, '1 second')";
        assert_eq!(sessions_of(values, "k").await, ["|a|0|10|3|", "|a|12|17|2|", "|b|0|20|3|"]);
    }

    #[tokio::test]
    async fn rows_without_a_time_or_a_gap_are_of_no_session() {
        let values = "('a', 0, '5 seconds'), ('a', NULL, '5 seconds'), ('a', 6, NULL), ('a', 7, '0 seconds'), \
                      ('a', 8, '-1 seconds')";
        assert_eq!(sessions_of(values, "k").await, ["|a|0|5|1|"]);
    }
}
