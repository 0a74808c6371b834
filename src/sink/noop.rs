//! A sink that reads everything and keeps nothing: to measure a query, or to run it for its effects elsewhere.
//!
//! The registry makes it by the name "noop". It guards that every row is asked for, so that nothing upstream is saved
//! the work, and counted.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;
use serde_json::Value;

use crate::error::Result;
use crate::sink::memory::read_partitions;
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext, SinkProvider, SinkSpec};

/// Makes noop sinks. They have no options.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopSinkProvider;

#[async_trait]
impl SinkProvider for NoopSinkProvider {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        spec.options.check_known("noop sink", &[])?;
        Ok(Arc::new(NoopSink))
    }
}

/// Reads, counts and drops rows of every output mode.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopSink;

#[async_trait]
impl Sink for NoopSink {
    fn description(&self) -> String {
        "NoopSink".to_string()
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let rows = read_partitions(batch.partitions, count).await?.into_iter().sum();
        Ok(Prepared { token: Value::Null, rows })
    }

    async fn publish(&self, _batch_id: i64, _token: &Value) -> Result<()> {
        Ok(())
    }
}

async fn count(mut partition: SendableRecordBatchStream) -> Result<u64, DataFusionError> {
    let mut rows = 0;
    while let Some(batch) = partition.try_next().await? {
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;
    use crate::error::{Error, ErrorKind};

    fn partition(items: Vec<Result<i64>>) -> SendableRecordBatchStream {
        let rows =
            |n: i64| RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![n])) as ArrayRef)]).unwrap();
        let schema = rows(0).schema();
        let items: Vec<_> = items.into_iter().map(|item| item.map(rows).map_err(DataFusionError::from)).collect();
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(items)))
    }

    fn batch(partitions: Vec<SendableRecordBatchStream>) -> SinkBatch {
        SinkBatch { batch_id: 0, run: 0, mode: OutputMode::Complete, schema: partitions[0].schema(), partitions }
    }

    #[tokio::test]
    async fn every_row_of_every_partition_is_counted() {
        let two = batch(vec![partition(vec![Ok(1), Ok(2)]), partition(vec![Ok(3)])]);
        assert_eq!(NoopSink.prepare(two).await.unwrap().rows, 3);
        assert_eq!(NoopSink.prepare(batch(vec![partition(vec![Ok(1)])])).await.unwrap().rows, 1);
    }

    #[tokio::test]
    async fn an_error_of_any_partition_is_kept() {
        for at in 0..2 {
            let mut partitions = vec![partition(vec![Ok(1)])];
            partitions.insert(at, partition(vec![Ok(1), Err(Error::data_invalid("row 2"))]));
            assert_eq!(NoopSink.prepare(batch(partitions)).await.unwrap_err().kind(), ErrorKind::DataInvalid);
        }
    }
}
