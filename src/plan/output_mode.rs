//! Which shapes of query may run in which output mode: Spark's table, with errors that say what would do.

use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Join, LogicalPlan, Union};

use super::stream_table::is_streaming;
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// Refuses an aggregate that `mode` cannot serve.
///
/// # Errors
/// `Unsupported` in append mode where no group key is a watermarked event time: no group would ever be final.
pub fn check_aggregate(mode: OutputMode, watermarked: bool, what: &str) -> Result<()> {
    if mode == OutputMode::Append && !watermarked {
        return Err(Error::unsupported(format!(
            "{what} cannot run in append mode, because without a watermarked event time among its keys no group is ever \
             final: define a watermark and group by window(event_time, …) or by the event time, or use update or \
             complete mode"
        )));
    }
    Ok(())
}

/// Refuses an operator on top of one that changes rows it gave, outside append mode: Spark's "possible correctness issue".
///
/// # Errors
/// `Unsupported`.
pub fn check_chain(mode: OutputMode, what: &str, below: &str) -> Result<()> {
    if mode == OutputMode::Append {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{what} over {below} of a stream cannot run in {mode} mode: the inner one would emit rows that it later \
         changes, and the outer one would count them twice; use append mode"
    )))
}

/// Refuses joins that cannot be done one batch at a time.
///
/// # Errors
/// `Unsupported`, naming the join and what would do.
pub fn check_join(join: &Join, mode: OutputMode) -> Result<()> {
    let (left, right) = (is_streaming(&join.left), is_streaming(&join.right));
    // DataFusion makes EXCEPT a join in which NULL equals NULL.
    let is_except = join.join_type == JoinType::LeftAnti && join.null_equality == NullEquality::NullEqualsNull;
    if is_except && left && mode == OutputMode::Complete {
        return Err(Error::unsupported("EXCEPT over a stream is not supported in complete mode; use update mode"));
    }
    let allowed = match (left, right) {
        (false, false) => true,
        (true, false) => {
            matches!(
                join.join_type,
                JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
            )
        }
        (false, true) => {
            matches!(
                join.join_type,
                JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
            )
        }
        // Those are stateful, and checked where they are made.
        (true, true) => true,
    };
    if allowed {
        return Ok(());
    }
    let (stream, would_do) = match left {
        true => ("left", "inner, left outer, left semi and left anti joins"),
        false => ("right", "inner and right outer joins"),
    };
    Err(Error::unsupported(format!(
        "a {} join with the stream on the {stream} is not supported: the rows of the table that never match are known \
         only when the stream ends, which it never does; {would_do} would do in append and update mode",
        join.join_type
    )))
}

/// Refuses a union of a stream and a table.
///
/// # Errors
/// `Unsupported`.
pub fn check_union(union: &Union) -> Result<()> {
    let streams = union.inputs.iter().filter(|input| is_streaming(input)).count();
    if streams == 0 || streams == union.inputs.len() {
        return Ok(());
    }
    Err(Error::unsupported(
        "UNION of a stream and a table that is not a stream is not supported in any output mode: the table's rows would \
         come again in every batch; read the table as a stream too (STREAM t)",
    ))
}

/// What the whole plan holds, once every node is checked.
#[derive(Debug, Default)]
pub struct Shape {
    /// Stateful aggregates (DISTINCT among them).
    pub aggregates: usize,
    /// A sort over a stream.
    pub sorted: bool,
    /// A limit over a stream.
    pub limited: bool,
}

/// Refuses what only the whole plan shows.
///
/// # Errors
/// `Unsupported`.
pub fn check_shape(mode: OutputMode, shape: &Shape) -> Result<()> {
    if mode == OutputMode::Complete && shape.aggregates == 0 {
        return Err(Error::unsupported(
            "complete mode needs an aggregation: without one the whole result is the whole input, and grows for ever; use \
             append or update mode",
        ));
    }
    if shape.sorted && mode != OutputMode::Complete {
        return Err(Error::unsupported(format!(
            "ORDER BY over a stream is not supported in {mode} mode, only over an aggregation in complete mode: rows that \
             come later may sort before rows that have left"
        )));
    }
    if shape.limited && mode == OutputMode::Update {
        return Err(Error::unsupported(
            "LIMIT over a stream is not supported in update mode: use append mode, or complete mode over an aggregation",
        ));
    }
    Ok(())
}

/// Refuses nodes that have no meaning over a stream in any mode.
///
/// # Errors
/// `Unsupported`.
pub fn check_node(plan: &LogicalPlan) -> Result<()> {
    let refuse = |what: &str, instead: &str| {
        Err(Error::unsupported(format!("{what} is not supported over a stream in any output mode; {instead}")))
    };
    match plan {
        LogicalPlan::Window(_) => refuse(
            "a window function (… OVER …) that is not over event time",
            "group by window(event_time, …), keep ROW_NUMBER() OVER (PARTITION BY … ORDER BY event_time) = 1, or compute it in \
             foreach_batch",
        ),
        LogicalPlan::Distinct(datafusion::logical_expr::Distinct::On(_)) => {
            refuse("SELECT DISTINCT ON", "use SELECT DISTINCT or GROUP BY")
        }
        LogicalPlan::RecursiveQuery(_) => refuse("a recursive query", "use a query without recursion"),
        _ => Ok(()),
    }
}
