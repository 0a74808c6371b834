//! Streams as DataFusion sees them: tables that can be planned over but not collected.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::datasource::{TableProvider, TableType, source_as_provider};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Error;
use crate::operator::source_read::SourceReadExec;
use crate::source::{SourceProvider, SourceSpec};

/// An unbounded table: a source that each query over it makes for itself.
#[derive(Debug, Clone)]
pub struct StreamTable {
    /// The table's name, for messages.
    pub name: String,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// Makes the source.
    pub provider: Arc<dyn SourceProvider>,
    /// What to make.
    pub spec: SourceSpec,
    /// The event-time column and delay (microseconds) of WATERMARK FOR, unless the query names another.
    pub watermark: Option<(String, i64)>,
    /// The name of IDENTIFIED BY, under which its offsets are kept.
    pub identified_by: Option<String>,
    /// After how many milliseconds without rows its watermark holds that of the query back no more (`idleTimeout`).
    pub idle_timeout_ms: Option<i64>,
}

/// The error for running a stream as if it were a batch. Spark's words.
pub fn not_collectable(name: &str) -> Error {
    Error::unsupported(format!(
        "'{name}' is a stream: queries with streaming sources must be executed with write_stream().start(), CREATE FLOW \
         or INSERT INTO; a stream cannot be collected"
    ))
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Err(not_collectable(&self.name).into())
    }
}

/// A stream at one place of one query.
#[derive(Debug)]
pub struct BoundStream {
    /// The source's id in the query: its place in the order of the text.
    pub source: usize,
    /// The table's name.
    pub name: String,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// Whether the source knows of rows that it need not read ([`ReadContext::filter`](crate::source::ReadContext)).
    pub prunes: bool,
}

#[async_trait]
impl TableProvider for BoundStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        let pushed = |filter: &&Expr| match self.prunes && !filter.is_volatile() {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(pushed).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let columns = DFSchema::try_from(Arc::clone(&self.schema))?;
        let filter =
            conjunction(filters.to_vec()).map(|all| session.create_physical_expr(all, &columns)).transpose()?;
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let partitions = session.config().target_partitions();
        let leaf = SourceReadExec::new(self.source, self.name.clone(), schema, projection.cloned(), partitions);
        Ok(Arc::new(leaf.with_filter(filter)))
    }
}

/// Returns the stream that `plan` scans, where it is the scan of one.
pub fn scanned_stream(plan: &LogicalPlan) -> Option<StreamTable> {
    let LogicalPlan::TableScan(scan) = plan else {
        return None;
    };
    let provider = source_as_provider(&scan.source).ok()?;
    let table: &dyn std::any::Any = provider.as_ref();
    table.downcast_ref::<StreamTable>().cloned()
}

/// Returns the id of the source that `plan` scans, where it is the scan of a stream bound to a query.
pub fn bound_stream(plan: &LogicalPlan) -> Option<usize> {
    let LogicalPlan::TableScan(scan) = plan else {
        return None;
    };
    let provider = source_as_provider(&scan.source).ok()?;
    let table: &dyn std::any::Any = provider.as_ref();
    table.downcast_ref::<BoundStream>().map(|bound| bound.source)
}

/// Returns whether `plan` scans a stream, bound to a query already or not.
pub fn is_streaming(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let visit = |node: &LogicalPlan| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
        {
            let table: &dyn std::any::Any = provider.as_ref();
            found |= table.is::<StreamTable>() || table.is::<BoundStream>();
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    };
    // The visitor itself never fails.
    let _ = plan.apply(visit);
    found
}
