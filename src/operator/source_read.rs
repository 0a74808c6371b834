//! The leaf that reads a source: whatever splits the batch names, dealt to a fixed number of partitions.
//!
//! Partition p gets a contiguous run of the splits, so that order of arrival is (partition, row).

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{DictionaryArray, Int32Array, RecordBatch, RecordBatchOptions, StringArray};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use datafusion::common::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::future::ready;
use futures::{StreamExt, TryStreamExt};

use super::batch_context::BatchContext;
use super::leaf::{plain_node, properties};
use crate::source::{ReadContext, Split};

/// Reads one source's splits of the batch.
#[derive(Debug)]
pub struct SourceReadExec {
    source: usize,
    name: String,
    projection: Option<Vec<usize>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Where among the columns the name of the source's partition is, if it is wanted.
    partition_column: Option<usize>,
    partitions: usize,
    properties: Arc<PlanProperties>,
}

impl SourceReadExec {
    /// Makes the leaf of source `source`, called `name` by the user; `schema` is projected already.
    pub fn new(
        source: usize,
        name: String,
        schema: SchemaRef,
        projection: Option<Vec<usize>>,
        partitions: usize,
    ) -> Self {
        let properties = properties(schema, partitions);
        Self { source, name, projection, filter: None, partition_column: None, partitions, properties }
    }

    /// Tells the source which rows nobody wants.
    pub fn with_filter(mut self, filter: Option<Arc<dyn PhysicalExpr>>) -> Self {
        self.filter = filter;
        self
    }

    /// Adds at `column` the name of the partition of the source that a row is of.
    pub fn with_partition_column(mut self, column: Option<usize>) -> Self {
        self.partition_column = column;
        self
    }

    fn over(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }
}

impl DisplayAs for SourceReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceReadExec: source={} {}, partitions={}", self.source, self.name, self.partitions)?;
        match &self.filter {
            Some(filter) => write!(f, ", filter={filter}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for SourceReadExec {
    plain_node!("SourceReadExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    /// Much, inexactly: a join then keeps the static side as the one it builds its table from.
    #[allow(deprecated)]
    fn partition_statistics(&self, _partition: Option<usize>) -> PlanResult<Arc<Statistics>> {
        let columns = self.schema().fields().len();
        Ok(Arc::new(Statistics {
            num_rows: Precision::Inexact(1 << 40),
            total_byte_size: Precision::Inexact(1 << 50),
            column_statistics: vec![ColumnStatistics::new_unknown(); columns],
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let batch = BatchContext::of(&context)?;
        let input = batch.inputs[self.source].clone();
        let splits = share_of(&input.splits, partition, self.partitions).to_vec();
        let (source_id, projection, filter) = (self.source, self.projection.clone(), self.filter.clone());
        let batch_size = context.session_config().batch_size();
        let (schema, partition_column) = (self.schema(), self.partition_column);
        let streams = futures::stream::iter(splits).map(move |split| {
            fail::fail_point!("source.mid_read");
            let read = ReadContext {
                projection: projection.clone(),
                filter: filter.clone(),
                batch_size,
                malformed_rows: Arc::clone(&input.malformed_rows),
            };
            let rows = input.source.read(&split, read).map_err(DataFusionError::from)?;
            let Some(column) = partition_column else { return Ok::<_, DataFusionError>(rows) };
            let name = input.source.partition(&split).unwrap_or_default();
            let (named, schema) = (Arc::clone(&schema), Arc::clone(&schema));
            let rows = rows.and_then(move |rows| ready(name_partition(&rows, column, &name, &named)));
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as SendableRecordBatchStream)
        });
        let rows = streams.try_flatten().inspect_ok(move |rows| {
            batch.report().source_rows[source_id] += rows.num_rows() as u64;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// The type of the column of partitions.
pub fn partition_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Adds a column that says `name` in every row.
fn name_partition(rows: &RecordBatch, column: usize, name: &str, schema: &SchemaRef) -> PlanResult<RecordBatch> {
    let keys = Int32Array::from(vec![0; rows.num_rows()]);
    let names = DictionaryArray::try_new(keys, Arc::new(StringArray::from(vec![name])))?;
    let mut columns = rows.columns().to_vec();
    columns.insert(column.min(columns.len()), Arc::new(names));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The contiguous share of partition `partition`: cut where the running weight passes its part of the whole.
fn share_of(splits: &[Split], partition: usize, partitions: usize) -> &[Split] {
    let total: u64 = splits.iter().map(|s| s.weight.max(1)).sum();
    let boundary = |p: usize| {
        let target = total as u128 * p as u128 / partitions as u128;
        let mut seen = 0u128;
        splits
            .iter()
            .take_while(|s| {
                let before = seen;
                seen += u128::from(s.weight.max(1));
                before < target
            })
            .count()
    };
    let end = if partition + 1 == partitions { splits.len() } else { boundary(partition + 1) };
    &splits[boundary(partition)..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_goes_to_one_partition_in_order() {
        for weights in [vec![], vec![5], vec![1, 1, 1, 1, 1], vec![100, 1, 1], vec![0, 0, 7, 0, 9, 3]] {
            let splits: Vec<Split> = weights
                .iter()
                .enumerate()
                .map(|(i, w)| Split { description: serde_json::json!(i), weight: *w })
                .collect();
            for partitions in 1..6 {
                let dealt: Vec<Split> =
                    (0..partitions).flat_map(|p| share_of(&splits, p, partitions).to_vec()).collect();
                assert_eq!(dealt, splits, "{weights:?} over {partitions}");
            }
        }
    }
}
