//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY event_time) = 1`: of each key the row with the least event time; of
//! several, the one that came first.
//!
//! In append mode a row leaves once the watermark has passed its time: nothing earlier can come. In update mode it leaves
//! at once, and again when an earlier one comes. That a key had its row is remembered: for ever, or until an event time
//! among the keys expires.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use datafusion::common::Result as PlanResult;
use datafusion::physical_plan::PhysicalExpr;

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::exchange::{JudgeLate, KeyedRows, deal_rows, filter_all, take_all};
use super::stateful::{LaneCounts, LaneWork, StatefulOperator};
use crate::sink::OutputMode;
use crate::state::{DEFAULT_STORE, KeyedTables, NamedTables};

const TABLE: i64 = 0;
/// Value columns before the row's own: when something is to be done, whether the row has left, and its time.
const EXPIRES: usize = 0;
const HAS_LEFT: usize = 1;
const TIME: usize = 2;
const HEAD: usize = 3;

/// Lets the earliest row of each key through.
#[derive(Debug)]
pub struct FirstRow {
    /// The operator's id.
    pub operator: usize,
    /// The keys.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The fields of the keys.
    pub key_fields: Vec<FieldRef>,
    /// The event time.
    pub time: Arc<dyn PhysicalExpr>,
    /// Which key is an event time itself.
    pub event_key: Option<(usize, EventTime)>,
    /// What it gives: the row, and its number.
    pub schema: SchemaRef,
}

#[async_trait]
impl StatefulOperator for FirstRow {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "FirstRowExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let head = [("expires", DataType::Int64), ("has_left", DataType::Boolean), ("time", DataType::Int64)];
        let head = head.map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
        let values: Vec<FieldRef> = head.into_iter().chain(self.row_fields().map(Arc::clone)).collect();
        let tables = KeyedTables::new(&self.key_fields, &values).expiring_by(EXPIRES).of_rows();
        Ok(vec![NamedTables::new(DEFAULT_STORE, tables)])
    }

    fn details(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        format!("keys=[{}], time={}", keys.join(", "), self.time)
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, mut inputs, context, lane } = work;
        let input = inputs.swap_remove(0);
        let late = self.late(batch.watermarks[self.operator].late_us);
        let dealt = batch
            .share(self.operator, 0, || {
                deal_rows(self.operator, input, self.keys.clone(), late, Arc::clone(&batch), context)
            })
            .await?;
        self.run_lane(&batch, lane, KeyedRows::concat(dealt.take(lane))?).await
    }
}

impl FirstRow {
    fn row_fields(&self) -> impl Iterator<Item = &FieldRef> {
        let fields = self.schema.fields();
        fields.iter().take(fields.len() - 1)
    }

    fn times(&self, rows: &RecordBatch) -> PlanResult<Int64Array> {
        let time = self.time.evaluate(rows)?.into_array(rows.num_rows())?;
        EventTime::Time { after_us: 0 }.expiry(&time)
    }

    fn late(&self, late_us: Option<i64>) -> Option<JudgeLate> {
        let (late_us, time) = (late_us?, Arc::clone(&self.time));
        Some(Arc::new(move |rows| {
            let time = time.evaluate(rows)?.into_array(rows.num_rows())?;
            let time = EventTime::Time { after_us: 0 }.expiry(&time)?;
            Ok(Some(time.iter().map(|us| Some(us.is_some_and(|us| us <= late_us))).collect()))
        }))
    }

    async fn run_lane(
        &self,
        batch: &Arc<BatchContext>,
        lane: usize,
        rows: Option<KeyedRows>,
    ) -> PlanResult<Vec<RecordBatch>> {
        let coming = KeyedRows::weight(rows.as_slice());
        let mut state = batch.open_lane(self.operator, lane, coming).await?;
        let started_ms = batch.clock.now_ms();
        let tables = state.keyed()?;
        let mut out = Vec::new();
        let mut updated = 0;
        if let Some(rows) = rows {
            let earlier = self.earlier(batch, tables, rows)?;
            updated = earlier.num_rows();
            if batch.mode == OutputMode::Update {
                out.push(self.numbered(earlier.columns().to_vec(), updated)?);
            }
        }
        let updated_ms = batch.clock.now_ms();
        let mut removed = 0;
        if let Some(watermark_us) = batch.watermarks[self.operator].eviction_us {
            let (leaving, gone) = self.expire(tables, watermark_us)?;
            removed = gone;
            if batch.mode == OutputMode::Append {
                out.extend(leaving);
            }
        }
        let at_ms = [started_ms, updated_ms, batch.clock.now_ms()];
        let counts = LaneCounts { updated, removed, oldest_us: tables.first_expiry(TABLE), at_ms };
        batch.commit_lane(self.operator, lane, state, counts).await?;
        Ok(out)
    }

    /// Remembers the rows that are earlier than what was known of their keys, and returns them.
    fn earlier(&self, batch: &BatchContext, tables: &mut KeyedTables, rows: KeyedRows) -> PlanResult<RecordBatch> {
        let times = self.times(&rows.rows)?;
        let timed = BooleanArray::from((0..times.len()).map(|row| times.is_valid(row)).collect::<Vec<_>>());
        let timeless = times.null_count() as u64;
        batch.report().operators[self.operator].rows_without_event_time += timeless;
        let rows = rows.filter(&timed)?;
        let times = self.times(&rows.rows)?;
        let groups = tables.intern(TABLE, &rows.keys, times.len())?;
        // by group: the row that is its first so far
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for (row, group) in groups.iter().enumerate() {
            let best = first.entry(*group).or_insert(row);
            if times.value(row) < times.value(*best) {
                *best = row;
            }
        }
        let candidates: Vec<usize> = first.keys().copied().collect();
        let (present, values) = tables.values(TABLE, &candidates)?;
        for (place, candidate) in present.into_iter().enumerate() {
            let (has_left, known) = (values[HAS_LEFT].as_boolean(), values[TIME].as_primitive::<Int64Type>());
            let group = candidates[candidate];
            if has_left.value(place) || known.value(place) <= times.value(first[&group]) {
                first.remove(&group);
            }
        }
        let (groups, numbers): (Vec<usize>, Vec<u32>) = first.into_iter().map(|(g, row)| (g, row as u32)).unzip();
        let numbers = UInt32Array::from(numbers);
        let columns = take_all(rows.rows.columns(), &numbers)?;
        if !groups.is_empty() {
            let time = take_all(&[Arc::new(times)], &numbers)?.swap_remove(0);
            let has_left: ArrayRef = Arc::new(BooleanArray::from(vec![false; groups.len()]));
            let head = [Arc::clone(&time), has_left, time];
            let values = head.into_iter().chain(columns.iter().map(Arc::clone)).collect();
            tables.put(TABLE, &groups, take_all(&rows.keys, &numbers)?, values)?;
        }
        Ok(RecordBatch::try_new(rows.rows.schema(), columns)?)
    }

    /// What the watermark has passed: rows leave and are remembered as gone; keys whose own time is over are forgotten.
    fn expire(&self, tables: &mut KeyedTables, watermark_us: i64) -> PlanResult<(Option<RecordBatch>, usize)> {
        let groups = tables.expired(TABLE, watermark_us);
        if groups.is_empty() {
            return Ok((None, 0));
        }
        let (keys, values) = tables.rows_of(TABLE, &groups)?;
        let had_left = values[HAS_LEFT].as_boolean().clone();
        let leaving: BooleanArray = had_left.iter().map(|left| Some(left != Some(true))).collect();
        let columns = filter_all(&values[HEAD..], &leaving)?;
        let out = self.numbered(columns, leaving.true_count())?;

        let key_expiry = match self.event_key {
            Some((index, time)) => time.expiry(&keys[index])?,
            None => Int64Array::new_null(groups.len()),
        };
        let over = |row: usize| key_expiry.is_valid(row) && key_expiry.value(row) <= watermark_us;
        let forgotten: Vec<usize> = (0..groups.len()).filter(|row| over(*row)).map(|row| groups[row]).collect();
        let kept: BooleanArray = (0..groups.len()).map(|row| Some(!over(row))).collect();
        if kept.true_count() > 0 {
            let kept_groups: Vec<usize> = (0..groups.len()).filter(|row| !over(*row)).map(|row| groups[row]).collect();
            let count = kept_groups.len();
            let expires = filter_all(&[Arc::new(key_expiry.clone())], &kept)?.swap_remove(0);
            let has_left: ArrayRef = Arc::new(BooleanArray::from(vec![true; count]));
            let nothing = values[TIME..].iter().map(|v| new_null_array(v.data_type(), count));
            let values = [expires, has_left].into_iter().chain(nothing).collect();
            tables.put(TABLE, &kept_groups, filter_all(&keys, &kept)?, values)?;
        }
        let count = forgotten.len();
        tables.remove(TABLE, &forgotten)?;
        Ok((Some(out), count))
    }

    fn numbered(&self, mut columns: Vec<ArrayRef>, rows: usize) -> PlanResult<RecordBatch> {
        columns.push(Arc::new(UInt64Array::from_value(1, rows)));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
