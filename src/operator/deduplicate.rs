//! `drop_duplicates` and `drop_duplicates_within_watermark`: the first row of each key, in order of arrival.
//!
//! A key is remembered for ever; or, where an event time is among the keys, until it expires; or (within watermark)
//! until the delay has passed since its first row. Looking a key up ignores that it may have expired: it is forgotten at
//! the end of the batch in which the watermark passes, as in Spark.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::{HashSet, Result as PlanResult};
use datafusion::physical_plan::PhysicalExpr;

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::exchange::{KeyedRows, deal_rows, late_by_column, take_all};
use super::stateful::{LaneCounts, LaneWork, StatefulOperator};
use crate::state::{DEFAULT_STORE, KeyedTables, NamedTables};

/// The one table of keys.
const TABLE: i64 = 0;

/// How long a key is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLife {
    /// For ever.
    Forever,
    /// Until the key at this index, an event time, expires.
    OfKey(usize, EventTime),
    /// So many microseconds after the event time in this column of its first row.
    After(usize, EventTime, i64),
}

/// Lets the first row of each key through.
#[derive(Debug)]
pub struct Deduplicate {
    /// The operator's id.
    pub operator: usize,
    /// The keys.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The fields of the keys.
    pub key_fields: Vec<FieldRef>,
    /// Whether keys are forgotten by the delay.
    pub within_watermark: bool,
    /// The input column by which rows are late.
    pub late: Option<(usize, EventTime)>,
    /// How long a key is remembered.
    pub life: KeyLife,
    /// The rows' schema.
    pub schema: SchemaRef,
}

#[async_trait]
impl StatefulOperator for Deduplicate {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "DeduplicateExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let expires: FieldRef = Arc::new(Field::new("expires", DataType::Int64, true));
        let tables = KeyedTables::new(&self.key_fields, &[expires]).expiring_by(0);
        Ok(vec![NamedTables::new(DEFAULT_STORE, tables)])
    }

    fn details(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        format!("keys=[{}], within_watermark={}", keys.join(", "), self.within_watermark)
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, mut inputs, context, lane } = work;
        let input = inputs.swap_remove(0);
        let late = late_by_column(self.late, batch.watermarks[self.operator].late_us);
        let dealt = batch
            .share(self.operator, 0, || {
                deal_rows(self.operator, input, self.keys.clone(), late, Arc::clone(&batch), context)
            })
            .await?;
        let first = self.run_lane(&batch, lane, KeyedRows::concat(dealt.take(lane))?).await?;
        Ok(first.into_iter().collect())
    }
}

impl Deduplicate {
    async fn run_lane(
        &self,
        batch: &Arc<BatchContext>,
        lane: usize,
        rows: Option<KeyedRows>,
    ) -> PlanResult<Option<RecordBatch>> {
        let coming = KeyedRows::weight(rows.as_slice());
        let mut state = batch.open_lane(self.operator, lane, coming).await?;
        let started_ms = batch.clock.now_ms();
        let tables = state.keyed()?;
        let first = rows.map(|rows| self.first_rows(tables, &rows)).transpose()?;
        let updated = first.as_ref().map_or(0, RecordBatch::num_rows);
        let updated_ms = batch.clock.now_ms();
        let gone = match batch.watermarks[self.operator].eviction_us {
            Some(watermark_us) => tables.expired(TABLE, watermark_us),
            None => Vec::new(),
        };
        tables.remove(TABLE, &gone)?;
        let at_ms = [started_ms, updated_ms, batch.clock.now_ms()];
        let counts = LaneCounts { updated, removed: gone.len(), oldest_us: tables.first_expiry(TABLE), at_ms };
        batch.commit_lane(self.operator, lane, state, counts).await?;
        Ok(first)
    }

    /// Remembers the keys that are new, and returns the first row of each.
    fn first_rows(&self, tables: &mut KeyedTables, rows: &KeyedRows) -> PlanResult<RecordBatch> {
        let count = rows.rows.num_rows();
        let groups = tables.intern(TABLE, &rows.keys, count)?;
        let mut seen = HashSet::new();
        let new: Vec<bool> = groups.iter().map(|group| !tables.has_row(TABLE, *group) && seen.insert(*group)).collect();
        let numbers: UInt32Array = (0..count as u32).filter(|row| new[*row as usize]).collect::<Vec<_>>().into();
        let kept: Vec<usize> = numbers.values().iter().map(|row| groups[*row as usize]).collect();
        if !kept.is_empty() {
            let expiry: ArrayRef = Arc::new(self.expiry(rows)?);
            let expiry = take_all(&[expiry], &numbers)?;
            tables.put(TABLE, &kept, take_all(&rows.keys, &numbers)?, expiry)?;
        }
        Ok(datafusion::arrow::compute::filter_record_batch(&rows.rows, &BooleanArray::from(new))?)
    }

    fn expiry(&self, rows: &KeyedRows) -> PlanResult<Int64Array> {
        match self.life {
            KeyLife::Forever => Ok(Int64Array::new_null(rows.rows.num_rows())),
            KeyLife::OfKey(index, time) => time.expiry(&rows.keys[index]),
            KeyLife::After(column, time, us) => {
                let time = time.expiry(rows.rows.column(column))?;
                // Without an event time a key is forgotten with the first watermark.
                Ok(time.iter().map(|t| Some(t.unwrap_or(0).saturating_add(us))).collect())
            }
        }
    }
}
