//! A table in memory that a query writes and this process reads: for trials, tests and materialized views.
//!
//! [`MemoryTable`] is a table of DataFusion; [`MemorySink`] fills it; [`MemorySinkProvider`], which the registry names
//! "memory", makes both and has the table registered under the query's name. It guards that readers see whole batches
//! only, each once: rows are kept aside in `prepare` and join the table in `publish`.
//!
//! Append and update add rows, complete replaces them. The table dies with the process, while the checkpoint does
//! not: after a restart, append and update go on with an empty table, complete fills it again with the next batch.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, common};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext, SinkProvider, SinkSpec};

/// A table in memory. Each scan reads what was published when it was planned.
pub struct MemoryTable {
    schema: SchemaRef,
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    batches: Vec<RecordBatch>,
    /// Query id → what it has under way: kept here and not in the sink, so that a batch that was decided is published
    /// even by the next run in this process.
    writers: HashMap<String, Writer>,
}

#[derive(Default)]
struct Writer {
    prepared: Option<Staged>,
    published: Option<i64>,
}

struct Staged {
    batch_id: i64,
    mode: OutputMode,
    batches: Vec<RecordBatch>,
}

impl fmt::Debug for MemoryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: usize = self.lock().batches.iter().map(RecordBatch::num_rows).sum();
        write!(f, "MemoryTable[{rows} rows]")
    }
}

impl MemoryTable {
    /// Makes an empty table of rows of `schema`.
    pub fn new(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self { schema, contents: Mutex::default() })
    }

    /// Returns the rows as they are now.
    pub fn snapshot(&self) -> Vec<RecordBatch> {
        self.lock().batches.clone()
    }

    /// Replaces all rows, as when a materialized view is restored.
    ///
    /// # Errors
    /// `DataInvalid` where a batch is not of the table's schema; the table stays as it was then.
    pub fn replace(&self, batches: Vec<RecordBatch>) -> Result<()> {
        let batches = conform(batches, &self.schema)?;
        self.lock().batches = batches;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TableProvider for MemoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let partitions = [self.snapshot()];
        Ok(MemorySourceConfig::try_new_exec(&partitions, Arc::clone(&self.schema), projection.cloned())?)
    }
}

/// Writes one query's rows to a [`MemoryTable`].
pub struct MemorySink {
    table: Arc<MemoryTable>,
    /// Set by `open`.
    query_id: Mutex<String>,
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemorySink")
    }
}

impl MemorySink {
    /// Makes a sink that writes to `table`.
    pub fn new(table: Arc<MemoryTable>) -> Self {
        Self { table, query_id: Mutex::default() }
    }

    fn query_id(&self) -> MutexGuard<'_, String> {
        self.query_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn description(&self) -> String {
        "MemorySink".to_string()
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, context: &SinkContext) -> Result<()> {
        self.query_id().clone_from(&context.query_id);
        if let Some(writer) = self.table.lock().writers.get_mut(&context.query_id)
            && writer.prepared.as_ref().is_some_and(|staged| staged.batch_id >= context.next_batch_id)
        {
            writer.prepared = None;
        }
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let SinkBatch { batch_id, mode, partitions, .. } = batch;
        let batches: Vec<RecordBatch> = collect(partitions).await?.into_iter().flatten().collect();
        let batches = conform(batches, &self.table.schema)?;
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let query_id = self.query_id().clone();
        let staged = Staged { batch_id, mode, batches };
        self.table.lock().writers.entry(query_id).or_default().prepared = Some(staged);
        Ok(Prepared { token: Value::Null, rows })
    }

    async fn publish(&self, batch_id: i64, _token: &Value) -> Result<()> {
        let query_id = self.query_id().clone();
        let mut guard = self.table.lock();
        let Contents { batches, writers } = &mut *guard;
        let writer = writers.entry(query_id).or_default();
        if writer.published.is_some_and(|published| published >= batch_id) {
            return Ok(());
        }
        // Nothing staged: the batch was decided by an earlier process, and its rows went with that.
        if let Some(staged) = writer.prepared.take_if(|staged| staged.batch_id == batch_id) {
            if staged.mode == OutputMode::Complete {
                batches.clear();
            }
            batches.extend(staged.batches);
            writer.published = Some(batch_id);
        }
        Ok(())
    }
}

/// What has a new table registered under a name.
pub type RegisterTable = Arc<dyn Fn(&str, Arc<MemoryTable>) -> Result<()> + Send + Sync>;

/// Makes memory sinks, each with a table of its own under the query's name.
pub struct MemorySinkProvider {
    register: RegisterTable,
}

impl fmt::Debug for MemorySinkProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemorySinkProvider")
    }
}

impl MemorySinkProvider {
    /// Makes a provider that calls `register` with the query's name and its table.
    pub fn new(register: RegisterTable) -> Self {
        Self { register }
    }
}

#[async_trait]
impl SinkProvider for MemorySinkProvider {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        spec.options.check_known("memory sink", &[])?;
        if spec.name.is_empty() {
            return Err(Error::invalid_query(
                "a memory sink needs a name for its table; name the query (query_name) or the flow",
            ));
        }
        let table = MemoryTable::new(Arc::clone(&spec.schema));
        (self.register)(&spec.name, Arc::clone(&table))?;
        Ok(Arc::new(MemorySink::new(table)))
    }
}

/// Reads every partition to its end with `read`, side by side, and returns the results in the partitions' order.
pub(super) async fn read_partitions<T, F>(
    partitions: Vec<SendableRecordBatchStream>,
    read: impl Fn(SendableRecordBatchStream) -> F,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, DataFusionError>> + Send + 'static,
{
    let mut results = Vec::with_capacity(partitions.len());
    // One partition is read in place: waking a task costs more than a small batch.
    if partitions.len() == 1 {
        for partition in partitions {
            results.push(read(partition).await?);
        }
        return Ok(results);
    }
    let tasks: Vec<SpawnedTask<_>> =
        partitions.into_iter().map(|partition| SpawnedTask::spawn(read(partition))).collect();
    for task in tasks {
        let result = task.join_unwind().await.map_err(|error| {
            Error::internal("a task that read a partition of the result was cancelled").with_source(error)
        })?;
        results.push(result?);
    }
    Ok(results)
}

/// Collects every partition, in order; batches without rows are left out.
pub(super) async fn collect(partitions: Vec<SendableRecordBatchStream>) -> Result<Vec<Vec<RecordBatch>>> {
    let mut collected = read_partitions(partitions, common::collect).await?;
    for batches in &mut collected {
        batches.retain(|batch| batch.num_rows() > 0);
    }
    Ok(collected)
}

/// Puts rows under `schema`, whose nullability and metadata may be wider than theirs.
pub(super) fn conform(batches: Vec<RecordBatch>, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let conformed = batches.into_iter().map(|batch| {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options).map_err(|error| {
            Error::data_invalid(format!(
                "the rows do not fit the table's columns: {error}; cast them in the query or declare the columns anew"
            ))
            .with_source(error)
        })
    });
    conformed.collect()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::error::ErrorKind;

    fn rows(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
    }

    fn batch(batch_id: i64, mode: OutputMode, partitions: &[RecordBatch]) -> SinkBatch {
        let schema = partitions[0].schema();
        let partitions = partitions
            .iter()
            .map(|rows| {
                let stream = futures::stream::iter(vec![Ok(rows.clone())]);
                Box::pin(RecordBatchStreamAdapter::new(rows.schema(), stream)) as SendableRecordBatchStream
            })
            .collect();
        SinkBatch { batch_id, run: 0, mode, schema, partitions }
    }

    fn values(table: &MemoryTable) -> Vec<i64> {
        let batches = table.snapshot();
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    async fn sink(table: &Arc<MemoryTable>, next_batch_id: i64) -> MemorySink {
        let sink = MemorySink::new(Arc::clone(table));
        let context = SinkContext {
            query_id: "q".into(),
            name: "t".into(),
            run: 0,
            next_batch_id,
            first_batch_id: 0,
            in_doubt: false,
        };
        sink.open(&context).await.unwrap();
        sink
    }

    #[tokio::test]
    async fn rows_are_seen_when_published_and_once() {
        let table = MemoryTable::new(rows(&[]).schema());
        let sink = sink(&table, 0).await;
        let prepared = sink.prepare(batch(0, OutputMode::Append, &[rows(&[1, 2]), rows(&[3])])).await.unwrap();
        assert_eq!(prepared.rows, 3);
        assert!(values(&table).is_empty());
        for _ in 0..2 {
            sink.publish(0, &prepared.token).await.unwrap();
        }
        assert_eq!(values(&table), vec![1, 2, 3]);
        sink.prepare(batch(1, OutputMode::Update, &[rows(&[1])])).await.unwrap();
        sink.publish(1, &Value::Null).await.unwrap();
        assert_eq!(values(&table), vec![1, 2, 3, 1]);
        sink.prepare(batch(2, OutputMode::Complete, &[rows(&[9])])).await.unwrap();
        sink.publish(2, &Value::Null).await.unwrap();
        assert_eq!(values(&table), vec![9]);
    }

    #[tokio::test]
    async fn a_new_run_publishes_what_was_decided_and_forgets_what_was_not() {
        let table = MemoryTable::new(rows(&[]).schema());
        sink(&table, 0).await.prepare(batch(0, OutputMode::Append, &[rows(&[1])])).await.unwrap();
        let decided = sink(&table, 1).await;
        decided.publish(0, &Value::Null).await.unwrap();
        assert_eq!(values(&table), vec![1]);

        decided.prepare(batch(1, OutputMode::Append, &[rows(&[2])])).await.unwrap();
        let undecided = sink(&table, 1).await;
        undecided.publish(1, &Value::Null).await.unwrap();
        assert_eq!(values(&table), vec![1]);
    }

    #[tokio::test]
    async fn the_table_can_be_queried() {
        let table = MemoryTable::new(rows(&[]).schema());
        let context = SessionContext::new();
        context.register_table("t", Arc::clone(&table) as Arc<dyn TableProvider>).unwrap();
        let count = "SELECT count(*), sum(n) FROM t WHERE n > 1";
        table.replace(vec![rows(&[1, 2]), rows(&[3])]).unwrap();
        let found = context.sql(count).await.unwrap().collect().await.unwrap();
        let number = |column: usize| found[0].column(column).as_primitive::<Int64Type>().value(0);
        assert_eq!((number(0), number(1)), (2, 5));
    }

    #[tokio::test]
    async fn the_table_is_registered_under_the_query_name() {
        let registered = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&registered);
        let provider = MemorySinkProvider::new(Arc::new(move |name: &str, _table: Arc<MemoryTable>| {
            names.lock().unwrap().push(name.to_string());
            Ok(())
        }));
        let mut spec = SinkSpec {
            format: "memory".into(),
            path: None,
            options: Default::default(),
            partition_by: vec![],
            schema: rows(&[]).schema(),
            name: "delays".into(),
            clock: Arc::new(crate::clock::ManualClock::new(0)),
        };
        provider.create(&spec).await.unwrap();
        assert_eq!(*registered.lock().unwrap(), vec!["delays"]);
        spec.name.clear();
        assert_eq!(provider.create(&spec).await.unwrap_err().kind(), ErrorKind::InvalidQuery);
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        let table = MemoryTable::new(rows(&[]).schema());
        let text = RecordBatch::try_from_iter([("n", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]).unwrap();
        assert_eq!(table.replace(vec![text]).unwrap_err().kind(), ErrorKind::DataInvalid);
    }
}
