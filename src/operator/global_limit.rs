//! LIMIT over an unbounded table: a count of the rows ever let through, kept in state.
//!
//! Once n rows have gone out the query keeps reading and emits nothing, as Spark's globalLimit does.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::batch_context::{BatchContext, node_id};
use super::leaf::{plain_node, properties};
use crate::state::{KeyedTables, keyless_lane};

/// Lets the first `fetch` rows of all batches through.
#[derive(Debug)]
pub struct GlobalLimitExec {
    operator: usize,
    fetch: u64,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl GlobalLimitExec {
    /// Makes the operator; its input is asked for as one partition, in order of arrival.
    pub fn new(operator: usize, fetch: u64, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties(input.schema(), 1);
        Self { operator, fetch, input, properties }
    }

    /// Returns the operator's id.
    pub fn operator(&self) -> usize {
        self.operator
    }

    /// Makes the empty tables of this operator's state: one row, the count.
    pub fn tables() -> KeyedTables {
        let count: FieldRef = Arc::new(Field::new("rows", DataType::Int64, false));
        KeyedTables::new(&[], &[count])
    }

    fn over(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.operator, self.fetch, children.swap_remove(0))))
    }
}

impl DisplayAs for GlobalLimitExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalLimitExec: operator={}, fetch={}", self.operator, self.fetch)
    }
}

impl ExecutionPlan for GlobalLimitExec {
    plain_node!("GlobalLimitExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    #[allow(deprecated)]
    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let batch = BatchContext::of(&context)?;
        let (operator, fetch) = (self.operator, self.fetch);
        let id = node_id(self);
        let input = self.input.execute(0, context)?;
        let rows = async move {
            let kept = run(operator, fetch, input, &batch).await?;
            batch.finished(id, 0);
            Ok::<_, DataFusionError>(futures::stream::iter(kept.into_iter().map(Ok)))
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), futures::stream::once(rows).try_flatten().boxed())))
    }
}

async fn run(
    operator: usize,
    fetch: u64,
    mut input: SendableRecordBatchStream,
    batch: &BatchContext,
) -> PlanResult<Vec<RecordBatch>> {
    let lane = keyless_lane(batch.state.lanes);
    let store = Arc::clone(&batch.state.stores[operator][lane]);
    let mut store = store.lock().await;
    let groups = store.tables.intern(0, &[], 1)?;
    let (_, values) = store.tables.values(0, &groups)?;
    let before = values.first().map_or(0, |v| v.as_primitive::<Int64Type>().value(0) as u64);
    let mut left = fetch.saturating_sub(before) as usize;
    let mut kept = Vec::new();
    // The input is read to its end even when nothing more may pass: watermarks and offsets move on.
    while let Some(rows) = input.try_next().await? {
        let n = rows.num_rows().min(left);
        left -= n;
        if n > 0 {
            kept.push(rows.slice(0, n));
        }
    }
    let passed: usize = kept.iter().map(RecordBatch::num_rows).sum();
    if passed > 0 || values.is_empty() {
        let count: ArrayRef = Arc::new(Int64Array::from(vec![before as i64 + passed as i64]));
        store.tables.put(0, &groups, Vec::new(), vec![count])?;
    }
    store.commit(batch.state.store.as_ref(), batch.batch_id + 1, batch.run).await?;
    let mut report = batch.report();
    let report = &mut report.operators[operator];
    report.rows_total = 1;
    report.rows_updated = u64::from(passed > 0);
    report.memory_bytes = store.tables.memory_bytes() as u64;
    report.files.insert(lane, store.files().to_vec());
    Ok(kept)
}
