//! A table of files that is not a stream: read whole, as it is when a query or a batch runs.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::Result as PlanResult;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use super::stream_table::StreamTable;
use crate::operator::static_read::{StaticFiles, StaticReadExec};

/// A table of files.
#[derive(Debug)]
pub struct StaticTable {
    files: StaticFiles,
    stream: StreamTable,
}

impl StaticTable {
    /// Makes a table of `files`; `stream` is what the word STREAM before it makes of it.
    pub fn new(files: StaticFiles, stream: StreamTable) -> Self {
        Self { files, stream }
    }

    /// Returns the same files as a stream.
    pub fn as_stream(&self) -> &StreamTable {
        &self.stream
    }
}

#[async_trait]
impl TableProvider for StaticTable {
    fn schema(&self) -> SchemaRef {
        self.files.format.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema().project(columns)?),
            None => self.schema(),
        };
        Ok(Arc::new(StaticReadExec::new(self.files.clone(), schema, projection.cloned())))
    }
}
