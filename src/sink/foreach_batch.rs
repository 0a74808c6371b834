//! A sink that hands every batch to a function of the application, as a DataFrame with the batch's id.
//!
//! `write_stream().foreach_batch(…)` makes it. It guards that the function sees whole batches, one at a time and in
//! order of their ids.
//!
//! What it promises: at least once. The function runs before the batch is decided; if the process dies, or the function
//! fails, between its effect and the decision, the next run calls it again with the same id and the rows of the same
//! offsets. A function that remembers the last id it has stored makes that exactly once.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::datasource::MemTable;
use datafusion::prelude::{DataFrame, SessionContext};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::error::Result;
use crate::sink::memory::{collect, conform};
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext};

/// What is called with each batch and its id.
pub type ForeachBatchFunction = Arc<dyn Fn(DataFrame, i64) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Calls a function with each batch.
pub struct ForeachBatchSink {
    context: SessionContext,
    function: ForeachBatchFunction,
}

impl fmt::Debug for ForeachBatchSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForeachBatchSink")
    }
}

impl ForeachBatchSink {
    /// Makes a sink whose DataFrames belong to `context` and go to `function`.
    pub fn new(context: SessionContext, function: ForeachBatchFunction) -> Self {
        Self { context, function }
    }

    /// Makes a sink of a plain function or closure that returns a future.
    pub fn of<F, Fut>(context: SessionContext, function: F) -> Self
    where
        F: Fn(DataFrame, i64) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let boxed = move |rows: DataFrame, batch_id: i64| -> BoxFuture<'static, Result<()>> {
            Box::pin(function(rows, batch_id))
        };
        Self::new(context, Arc::new(boxed))
    }
}

#[async_trait]
impl Sink for ForeachBatchSink {
    fn description(&self) -> String {
        "ForeachBatchSink".to_string()
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let SinkBatch { batch_id, schema, partitions, .. } = batch;
        let mut tables = Vec::with_capacity(partitions.len().max(1));
        for batches in collect(partitions).await? {
            tables.push(conform(batches, &schema)?);
        }
        if tables.is_empty() {
            tables.push(Vec::new());
        }
        let rows = tables.iter().flatten().map(|batch| batch.num_rows() as u64).sum();
        let frame = self.context.read_table(Arc::new(MemTable::try_new(schema, tables)?))?;
        (self.function)(frame, batch_id)
            .await
            .map_err(|error| error.context(format!("function of foreach_batch, batch {batch_id}")))?;
        Ok(Prepared { token: Value::Null, rows })
    }

    async fn publish(&self, _batch_id: i64, _token: &Value) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::physical_plan::SendableRecordBatchStream;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;
    use crate::error::{Error, ErrorKind};

    fn batch(batch_id: i64, partitions: &[&[i64]]) -> SinkBatch {
        let rows = |values: &[i64]| {
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
        };
        let schema = rows(&[]).schema();
        let partitions = partitions
            .iter()
            .map(|values| {
                let stream = futures::stream::iter(vec![Ok(rows(values))]);
                Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), stream)) as SendableRecordBatchStream
            })
            .collect();
        SinkBatch { batch_id, run: 0, mode: OutputMode::Update, schema, partitions }
    }

    #[tokio::test]
    async fn the_function_sees_all_rows_and_the_id() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let calls = Arc::clone(&seen);
        let sink = ForeachBatchSink::of(SessionContext::new(), move |rows: DataFrame, batch_id| {
            let calls = Arc::clone(&calls);
            async move {
                let count = rows.count().await?;
                calls.lock().unwrap().push((batch_id, count));
                Ok::<(), Error>(())
            }
        });
        assert_eq!(sink.prepare(batch(4, &[&[1, 2], &[3]])).await.unwrap().rows, 3);
        sink.prepare(batch(5, &[])).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), vec![(4, 3), (5, 0)]);
    }

    #[tokio::test]
    async fn an_error_of_the_function_keeps_its_kind_and_names_the_batch() {
        let sink = ForeachBatchSink::of(SessionContext::new(), |_rows, _batch_id| async {
            Err::<(), Error>(Error::unavailable("the database is down"))
        });
        let error = sink.prepare(batch(4, &[&[1]])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("batch 4"), "{error}");
    }
}
