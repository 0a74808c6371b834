//! LIMIT over an unbounded table: a count of the rows ever let through, kept in state.
//!
//! Once n rows have gone out the query keeps reading and emits nothing, as Spark's globalLimit does.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use datafusion::common::Result as PlanResult;
use futures::TryStreamExt;

use super::stateful::{LaneCounts, LaneWork, StatefulOperator, Weight};
use crate::state::{DEFAULT_STORE, KeyedTables, NamedTables, keyless_lane};

/// Lets the first `fetch` rows of all batches through.
#[derive(Debug)]
pub struct GlobalLimit {
    /// The operator's id.
    pub operator: usize,
    /// How many rows.
    pub fetch: u64,
    /// The rows' schema.
    pub schema: SchemaRef,
}

#[async_trait]
impl StatefulOperator for GlobalLimit {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "GlobalLimitExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// One row: the count.
    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let count: FieldRef = Arc::new(Field::new("rows", DataType::Int64, false));
        Ok(vec![NamedTables::new(DEFAULT_STORE, KeyedTables::new(&[], &[count]))])
    }

    fn details(&self) -> String {
        format!("fetch={}", self.fetch)
    }

    fn in_one_partition(&self) -> bool {
        true
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, inputs, context, lane } = work;
        if lane != keyless_lane(batch.state.lanes) {
            return Ok(Vec::new());
        }
        let mut state = batch.open_lane(self.operator, lane, Weight::default()).await?;
        let tables = state.keyed()?;
        let groups = tables.intern(0, &[], 1)?;
        let (_, values) = tables.values(0, &groups)?;
        let before = values.first().map_or(0, |v| v.as_primitive::<Int64Type>().value(0) as u64);
        let mut left = self.fetch.saturating_sub(before) as usize;
        let mut kept = Vec::new();
        let mut input = inputs[0].execute(0, context)?;
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
            tables.put(0, &groups, Vec::new(), vec![count])?;
        }
        let now_ms = batch.clock.now_ms();
        let counts = LaneCounts { updated: usize::from(passed > 0), at_ms: [now_ms; 3], ..LaneCounts::default() };
        batch.commit_lane(self.operator, lane, state, counts).await?;
        Ok(kept)
    }
}
