//! The ASOF join of two streams: each row of the left with the nearest earlier row of the right that has its keys.
//!
//! A row of the left waits until the watermark has passed its time, since until then a nearer partner may come. Rows of
//! the right wait likewise, and then only the latest of each key is remembered: what waits on the left is later still.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{filter_record_batch, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef};
use datafusion::common::{HashMap, Result as PlanResult};
use datafusion::physical_plan::PhysicalExpr;

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::exchange::{Dealt, KeyedRows, concat_all, deal_rows, late_by_column, take_all};
use super::stateful::{LaneCounts, LaneWork, StatefulOperator};
use crate::state::{KeyedTables, NamedTables, RowBuffer};

const TABLE: i64 = 0;
/// The store of the latest row of each key of the right; its values are the row's time and the row.
const LATEST: usize = 2;

/// Joins each row with the nearest earlier one.
#[derive(Debug)]
pub struct AsofJoin {
    /// The operator's id.
    pub operator: usize,
    /// The keys of left and right.
    pub keys: [Vec<Arc<dyn PhysicalExpr>>; 2],
    /// The fields of the keys.
    pub key_fields: Vec<FieldRef>,
    /// The event times of left and right.
    pub times: [Arc<dyn PhysicalExpr>; 2],
    /// The columns by which rows are late.
    pub late: [Option<(usize, EventTime)>; 2],
    /// The rows of left and right.
    pub inputs: [SchemaRef; 2],
    /// Whether rows of the left without a partner leave too.
    pub outer: bool,
    /// Whether a partner of the same time will not do.
    pub strictly_earlier: bool,
    /// What it gives.
    pub schema: SchemaRef,
}

#[async_trait]
impl StatefulOperator for AsofJoin {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "AsofJoinExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let fields = |side: usize| self.inputs[side].fields().iter().map(Arc::clone).collect::<Vec<FieldRef>>();
        let mut latest: Vec<FieldRef> = vec![Arc::new(Field::new("time", DataType::Int64, false))];
        latest.extend(fields(1));
        Ok(vec![
            NamedTables::new("left", RowBuffer::new(&self.key_fields, &fields(0))),
            NamedTables::new("right", RowBuffer::new(&self.key_fields, &fields(1))),
            NamedTables::new("latest", KeyedTables::new(&self.key_fields, &latest).of_rows()),
        ])
    }

    fn details(&self) -> String {
        let on: Vec<String> = self.keys[0].iter().zip(&self.keys[1]).map(|(l, r)| format!("{l} = {r}")).collect();
        let sign = if self.strictly_earlier { ">" } else { ">=" };
        format!("outer={}, on=[{}], {} {sign} {}", self.outer, on.join(", "), self.times[0], self.times[1])
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, inputs, context, lane } = work;
        let deal = |side: usize| {
            let late = late_by_column(self.late[side], batch.watermarks[self.operator].late_us);
            let (input, keys, context) = (Arc::clone(&inputs[side]), self.keys[side].clone(), Arc::clone(&context));
            batch.share(self.operator, side, {
                let (batch, operator) = (Arc::clone(&batch), self.operator);
                move || deal_rows(operator, input, keys, late, batch, context)
            })
        };
        let (left, right) = futures::try_join!(deal(0), deal(1))?;
        Ok(self.run_lane(&batch, lane, [&left, &right]).await?.into_iter().collect())
    }
}

/// Rows that the watermark has passed.
struct Passed {
    keys: Vec<ArrayRef>,
    columns: Vec<ArrayRef>,
    times: Int64Array,
}

impl AsofJoin {
    async fn run_lane(
        &self,
        batch: &Arc<BatchContext>,
        lane: usize,
        dealt: [&Arc<Dealt>; 2],
    ) -> PlanResult<Option<RecordBatch>> {
        let [left_rows, right_rows] = dealt.map(|side| KeyedRows::concat(side.take(lane)));
        let came = [left_rows?, right_rows?];
        let coming = came.each_ref().map(|rows| KeyedRows::weight(rows.as_slice())).into_iter().sum();
        let mut state = batch.open_lane(self.operator, lane, coming).await?;
        let started_ms = batch.clock.now_ms();
        let mut updated = 0;
        for ((side, buffer), rows) in state.sides()?.into_iter().enumerate().zip(came) {
            if let Some(rows) = rows {
                updated += self.remember(batch, side, rows, buffer)?;
            }
        }
        let updated_ms = batch.clock.now_ms();
        let (mut joined, mut removed) = (None, 0);
        if let Some(watermark_us) = batch.watermarks[self.operator].eviction_us {
            let [left, right] = state.sides()?;
            let left = self.passed(0, left, watermark_us)?;
            let right = self.passed(1, right, watermark_us)?;
            removed = left.times.len() + right.times.len();
            joined = self.join(state.store(LATEST)?, left, right)?;
        }
        let [left, right] = state.sides()?;
        let oldest_us = left.first_expiry().into_iter().chain(right.first_expiry()).min();
        let at_ms = [started_ms, updated_ms, batch.clock.now_ms()];
        batch.commit_lane(self.operator, lane, state, LaneCounts { updated, removed, oldest_us, at_ms }).await?;
        Ok(joined)
    }

    fn times(&self, side: usize, rows: &RecordBatch) -> PlanResult<Int64Array> {
        let time = self.times[side].evaluate(rows)?.into_array(rows.num_rows())?;
        EventTime::Time { after_us: 0 }.expiry(&time)
    }

    /// Remembers rows until the watermark has passed them; those without a time are in no order, and dropped.
    fn remember(
        &self,
        batch: &BatchContext,
        side: usize,
        rows: KeyedRows,
        buffer: &mut RowBuffer,
    ) -> PlanResult<usize> {
        let times = self.times(side, &rows.rows)?;
        batch.report().operators[self.operator].rows_without_event_time += times.null_count() as u64;
        let timed: BooleanArray = (0..times.len()).map(|row| Some(times.is_valid(row))).collect();
        let rows = rows.filter(&timed)?;
        let times = self.times(side, &rows.rows)?;
        let unmatched = BooleanArray::from(vec![false; times.len()]);
        buffer.append(rows.keys, rows.rows.columns().to_vec(), &times, &unmatched)?;
        Ok(times.len())
    }

    fn passed(&self, side: usize, buffer: &mut RowBuffer, watermark_us: i64) -> PlanResult<Passed> {
        let gone = buffer.expire(watermark_us);
        let columns = buffer.values(&gone)?;
        let rows = RecordBatch::try_new(Arc::clone(&self.inputs[side]), columns.clone())?;
        Ok(Passed { keys: buffer.keys(&gone)?, columns, times: self.times(side, &rows)? })
    }

    /// Joins the rows that the watermark has passed, and remembers the latest of the right.
    fn join(&self, latest: &mut KeyedTables, left: Passed, right: Passed) -> PlanResult<Option<RecordBatch>> {
        if left.times.is_empty() && right.times.is_empty() {
            return Ok(None);
        }
        let (left_groups, right_groups) = (
            latest.intern(TABLE, &left.keys, left.times.len())?,
            latest.intern(TABLE, &right.keys, right.times.len())?,
        );
        // What was the latest before comes first, then what has passed now.
        let mut groups: Vec<usize> = left_groups.iter().chain(&right_groups).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        let (present, known) = latest.values(TABLE, &groups)?;
        let (mut times, columns) = match known.split_first() {
            Some((times, columns)) => {
                let all = concat_all([columns, right.columns.as_slice()].into_iter())?;
                (times.as_primitive::<Int64Type>().values().to_vec(), all)
            }
            None => (Vec::new(), right.columns.clone()),
        };
        times.extend(right.times.values());
        let owners = present.iter().map(|i| groups[*i]).chain(right_groups);
        // by group: its rows of the right, in order of time and then of arrival
        let mut partners: HashMap<usize, Vec<usize>> = HashMap::new();
        owners.enumerate().for_each(|(row, group)| partners.entry(group).or_default().push(row));
        partners.values_mut().for_each(|rows| rows.sort_by_key(|row| times[*row]));

        let nearest: UInt32Array = left_groups
            .iter()
            .zip(left.times.values())
            .zip(any_null(&left.keys, left.times.len()))
            .map(|((group, time), null_key)| {
                let rows = partners.get(group).filter(|_| !null_key)?;
                let earlier = |row: &usize| times[*row] < *time || (times[*row] == *time && !self.strictly_earlier);
                rows[..rows.partition_point(earlier)].last().map(|row| *row as u32)
            })
            .collect();
        self.keep_latest(latest, &partners, &times, &columns, present.len(), &right.keys)?;
        self.output(left.columns, &columns, &nearest)
    }

    /// Remembers each key's last row, where it came in this batch.
    fn keep_latest(
        &self,
        latest: &mut KeyedTables,
        partners: &HashMap<usize, Vec<usize>>,
        times: &[i64],
        columns: &[ArrayRef],
        known: usize,
        keys: &[ArrayRef],
    ) -> PlanResult<()> {
        let mut last: Vec<(usize, usize)> =
            partners.iter().filter_map(|(group, rows)| Some((*group, *rows.last()?))).collect();
        last.retain(|(_, row)| *row >= known);
        if last.is_empty() {
            return Ok(());
        }
        last.sort_unstable();
        let rows: UInt32Array = last.iter().map(|(_, row)| *row as u32).collect::<Vec<_>>().into();
        let key_rows: UInt32Array = last.iter().map(|(_, row)| (row - known) as u32).collect::<Vec<_>>().into();
        let time: ArrayRef = Arc::new(last.iter().map(|(_, row)| Some(times[*row])).collect::<Int64Array>());
        let groups: Vec<usize> = last.into_iter().map(|(group, _)| group).collect();
        let values = [time].into_iter().chain(take_all(columns, &rows)?).collect();
        latest.put(TABLE, &groups, take_all(keys, &key_rows)?, values)?;
        Ok(())
    }

    fn output(
        &self,
        left: Vec<ArrayRef>,
        right: &[ArrayRef],
        nearest: &UInt32Array,
    ) -> PlanResult<Option<RecordBatch>> {
        if nearest.is_empty() {
            return Ok(None);
        }
        let partners = right.iter().map(|c| take(c, nearest, None)).collect::<Result<Vec<_>, _>>()?;
        let fields = self.schema.fields();
        let columns: Vec<ArrayRef> = left.into_iter().chain(partners).collect();
        let found: BooleanArray = (0..nearest.len()).map(|row| Some(nearest.is_valid(row))).collect();
        if self.outer {
            return Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?));
        }
        // NULLs of rows without a partner would not fit the columns: they go before.
        let nullable: Vec<Field> = fields.iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let all = RecordBatch::try_new(Arc::new(datafusion::arrow::datatypes::Schema::new(nullable)), columns)?;
        let columns = filter_record_batch(&all, &found)?.columns().to_vec();
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

/// By row: whether one of its keys is NULL, which equals nothing.
fn any_null(keys: &[ArrayRef], rows: usize) -> Vec<bool> {
    (0..rows).map(|row| keys.iter().any(|key| key.is_null(row))).collect()
}
