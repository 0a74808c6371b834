//! Spark's `dropDuplicates` and `dropDuplicatesWithinWatermark`: of the rows with equal keys the first stays.
//!
//! SQL and DataFrames both come here. Over a stream it is an operator that lets a row through the moment it comes,
//! unlike `SELECT DISTINCT`, which is an aggregate; what it knows of event times is filled in when the query is
//! planned.

use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::nodes::{Forget, StatefulKind, StatefulNode};
use super::stream_table::is_streaming;
use crate::error::Result;

/// Returns the rows of `input` without those that have the keys of an earlier one. Without keys all columns are keys.
///
/// # Errors
/// `InvalidQuery` where `input` has not such columns.
pub fn drop_duplicates(input: LogicalPlan, keys: Vec<Column>, within_watermark: bool) -> Result<LogicalPlan> {
    let all: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let keys = if keys.is_empty() { all.clone() } else { keys.into_iter().map(Expr::Column).collect() };
    if !is_streaming(&input) {
        return Ok(LogicalPlanBuilder::from(input).distinct_on(keys, all, None)?.build()?);
    }
    let schema = input.schema().clone();
    let kind = StatefulKind::Deduplicate { within_watermark, late: None, forget: Forget::Never };
    Ok(StatefulNode { operator: None, kind, inputs: vec![input], exprs: keys, schema }.into_plan())
}
