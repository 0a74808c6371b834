//! A watermark a partition: the node that watches event times learns which partition of the source each row is of.
//!
//! The scan gives that in a column more ([`PARTITION_COLUMN`]), which goes up to the watermark node and no further.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, TableScanBuilder};

use super::nodes::WatermarkNode;
use super::stream_table::{PARTITION_COLUMN, has_partition_column};
use crate::error::{Error, Result};

/// Lets `node` watch each partition of the stream below it by itself. What is above sees the columns it saw.
///
/// # Errors
/// `Unsupported` where something lies between that rows of several partitions come together in.
pub(super) fn watch_partitions(node: WatermarkNode) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = node.input.schema().columns().into_iter().map(Expr::Column).collect();
    let (input, partition) = with_partition(&node.input)?;
    let watching = WatermarkNode { input, partition: Some(partition), ..node }.into_plan();
    Ok(LogicalPlanBuilder::from(watching).project(columns)?.build()?)
}

/// Returns `plan` with the column of partitions among its own.
fn with_partition(plan: &LogicalPlan) -> Result<(LogicalPlan, Column)> {
    match plan {
        LogicalPlan::TableScan(scan) if has_partition_column(plan) => {
            let provider = source_as_provider(&scan.source)?;
            let last = provider.schema().fields().len() - 1;
            let wanted = scan.projection.clone().unwrap_or_else(|| (0..last).collect());
            let wanted = wanted.into_iter().filter(|column| *column != last).chain([last]).collect();
            let wider = TableScanBuilder::new(scan.table_name.clone(), Arc::clone(&scan.source))
                .with_projection(Some(wanted))
                .with_filters(scan.filters.clone())
                .build()?;
            let column = Column::new(Some(scan.table_name.clone()), PARTITION_COLUMN);
            Ok((LogicalPlan::TableScan(wider), column))
        }
        LogicalPlan::Projection(projection) => {
            let (input, column) = with_partition(&projection.input)?;
            let mut exprs = projection.expr.clone();
            exprs.push(Expr::Column(column.clone()));
            Ok((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), column))
        }
        LogicalPlan::Filter(filter) => {
            let (input, column) = with_partition(&filter.input)?;
            Ok((LogicalPlanBuilder::from(input).filter(filter.predicate.clone())?.build()?, column))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let (input, _) = with_partition(&alias.input)?;
            let column = Column::new(Some(alias.alias.clone()), PARTITION_COLUMN);
            let renamed = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
            Ok((LogicalPlan::SubqueryAlias(renamed), column))
        }
        other => Err(Error::unsupported(format!(
            "watermarkPer = 'partition' needs a watermark on the stream itself, below everything else; here {} stands \
             between: define the watermark on the table (WATERMARK FOR), or directly behind STREAM",
            other.display()
        ))),
    }
}
