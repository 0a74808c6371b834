//! Streams as DataFusion sees them: tables that can be planned over but not collected.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::datasource::{TableProvider, TableType, source_as_provider};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Error;
use crate::operator::source_read::{SourceReadExec, partition_type};
use crate::source::{SourceProvider, SourceSpec, WatermarkOptions};

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
    /// What the options say of its watermarks.
    pub watermarks: WatermarkOptions,
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

/// The column, which no query sees, of the name of the partition that a row came from.
pub const PARTITION_COLUMN: &str = "__partition";

/// Returns `schema` with [`PARTITION_COLUMN`] behind it.
pub fn with_partition_column(schema: &SchemaRef) -> SchemaRef {
    let name = Field::new(PARTITION_COLUMN, partition_type(), false);
    let fields: Vec<FieldRef> = schema.fields().iter().cloned().chain([Arc::new(name)]).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A stream at one place of one query.
#[derive(Debug)]
pub struct BoundStream {
    /// The source's id in the query: its place in the order of the text.
    pub source: usize,
    /// The table's name.
    pub name: String,
    /// The schema of its rows. The last column is that of [`PARTITION_COLUMN`], where partitions have watermarks.
    pub schema: SchemaRef,
    /// Whether partitions have watermarks of their own.
    pub per_partition: bool,
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
        let mut wanted = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let hidden = self.per_partition.then(|| self.schema.fields().len() - 1);
        let partition_column = wanted.iter().position(|column| Some(*column) == hidden);
        wanted.retain(|column| Some(*column) != hidden);
        let projection = (projection.is_some() || hidden.is_some()).then_some(wanted);
        let leaf = SourceReadExec::new(self.source, self.name.clone(), schema, projection, partitions);
        Ok(Arc::new(leaf.with_filter(filter).with_partition_column(partition_column)))
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

/// Returns whether `plan` scans a stream whose partitions have watermarks of their own.
pub fn has_partition_column(plan: &LogicalPlan) -> bool {
    let LogicalPlan::TableScan(scan) = plan else {
        return false;
    };
    let Ok(provider) = source_as_provider(&scan.source) else {
        return false;
    };
    let table: &dyn std::any::Any = provider.as_ref();
    table.downcast_ref::<BoundStream>().is_some_and(|bound| bound.per_partition)
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
