//! The join of two streams: each side remembers its rows, and every new row meets what the other side remembers.
//!
//! ```text
//! new left rows ──► probe the right's rows of earlier batches ──► pairs
//!       └──► remembered
//! new right rows ─► probe the left's rows, this batch's included ──► pairs
//!       └──► remembered
//! rows that can find no partner any more leave; of an outer side, those that found none with NULLs
//! ```
//!
//! Rows that expire in the batch in which they come are joined all the same, and leave in it. Left semi emits a row of
//! the left once, with its first partner, and does not remember those that found one at once.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_null_array,
};
use datafusion::arrow::compute::{filter_record_batch, not};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::{JoinType, Result as PlanResult};
use datafusion::physical_plan::PhysicalExpr;

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::exchange::{Dealt, KeyedRows, deal_rows, late_by_column, take_all, truths};
use super::stateful::{LaneCounts, LaneWork, StatefulOperator};
use crate::state::row_buffer::RowNumber;
use crate::state::{NamedTables, RowBuffer};

/// How many rows probe at once: what they find may be many times as much.
const PROBE_ROWS: usize = 4096;

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// How long a row of a join is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowLife {
    /// For ever.
    Forever,
    /// Until the key at this index, an event time, expires.
    OfKey(usize, EventTime),
    /// Until the watermark reaches the time in this column and so many microseconds more.
    After(usize, i64),
}

/// One side of a join.
#[derive(Debug)]
pub struct SideSpec {
    /// The keys.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The rows.
    pub schema: SchemaRef,
    /// What a row must fulfil to find any partner; looks at this side alone.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// The column by which rows are late.
    pub late: Option<(usize, EventTime)>,
    /// How long a row is remembered.
    pub life: RowLife,
}

/// Joins two streams.
#[derive(Debug)]
pub struct StreamJoin {
    /// The operator's id.
    pub operator: usize,
    /// Inner, left, right, full or left semi.
    pub join_type: JoinType,
    /// Whether NULL keys are equal.
    pub null_equals_null: bool,
    /// The fields of the keys.
    pub key_fields: Vec<FieldRef>,
    /// Left and right.
    pub sides: [SideSpec; 2],
    /// What a pair must fulfil beside equal keys.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of left and right together, over which the condition is evaluated.
    pub joined: SchemaRef,
    /// What it gives.
    pub schema: SchemaRef,
}

#[async_trait]
impl StatefulOperator for StreamJoin {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "StreamJoinExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let buffer = |side: &SideSpec| {
            let fields: Vec<FieldRef> = side.schema.fields().iter().map(Arc::clone).collect();
            RowBuffer::new(&self.key_fields, &fields)
        };
        let [left, right] = self.sides.each_ref().map(buffer);
        Ok(vec![NamedTables::new("left", left), NamedTables::new("right", right)])
    }

    fn details(&self) -> String {
        let on: Vec<String> =
            self.sides[LEFT].keys.iter().zip(&self.sides[RIGHT].keys).map(|(l, r)| format!("{l} = {r}")).collect();
        let condition = self.condition.as_ref().map_or(String::new(), |c| format!(", condition={c}"));
        format!("{}, on=[{}]{condition}", self.join_type, on.join(", "))
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, inputs, context, lane } = work;
        let deal = |side: usize| {
            let spec = &self.sides[side];
            let late = late_by_column(spec.late, batch.watermarks[self.operator].late_us);
            let (input, keys, context) = (Arc::clone(&inputs[side]), spec.keys.clone(), Arc::clone(&context));
            batch.share(self.operator, side, {
                let batch = Arc::clone(&batch);
                let operator = self.operator;
                move || deal_rows(operator, input, keys, late, batch, context)
            })
        };
        let (left, right) = futures::try_join!(deal(LEFT), deal(RIGHT))?;
        self.run_lane(&batch, lane, [&left, &right]).await
    }
}

/// One batch of one lane.
struct Joining<'a> {
    join: &'a StreamJoin,
    /// The rows that leave.
    out: Vec<RecordBatch>,
    updated: usize,
    /// Rows dropped for want of the time by which they would be forgotten.
    timeless: usize,
}

impl StreamJoin {
    async fn run_lane(
        &self,
        batch: &Arc<BatchContext>,
        lane: usize,
        dealt: [&Arc<Dealt>; 2],
    ) -> PlanResult<Vec<RecordBatch>> {
        let [left_rows, right_rows] = dealt.map(|side| KeyedRows::concat(side.take(lane)));
        let (left_rows, right_rows) = (left_rows?, right_rows?);
        let coming = [&left_rows, &right_rows].map(|rows| KeyedRows::weight(rows.as_slice())).into_iter().sum();
        let mut state = batch.open_lane(self.operator, lane, coming).await?;
        let started_ms = batch.clock.now_ms();
        let mut joining = Joining { join: self, out: Vec::new(), updated: 0, timeless: 0 };
        let [left, right] = state.sides()?;
        if let Some(rows) = left_rows {
            joining.add(LEFT, rows, left, right)?;
        }
        if let Some(rows) = right_rows {
            joining.add(RIGHT, rows, right, left)?;
        }
        let updated_ms = batch.clock.now_ms();
        let mut removed = 0;
        if let Some(watermark_us) = batch.watermarks[self.operator].eviction_us {
            removed += joining.evict(LEFT, left, watermark_us)?;
            removed += joining.evict(RIGHT, right, watermark_us)?;
        }
        let oldest_us = left.first_expiry().into_iter().chain(right.first_expiry()).min();
        let at_ms = [started_ms, updated_ms, batch.clock.now_ms()];
        let Joining { out, updated, timeless, .. } = joining;
        batch.report().operators[self.operator].rows_without_event_time += timeless as u64;
        batch.commit_lane(self.operator, lane, state, LaneCounts { updated, removed, oldest_us, at_ms }).await?;
        Ok(out)
    }

    /// Whether rows of a side leave without a partner.
    fn is_outer(&self, side: usize) -> bool {
        match side {
            LEFT => matches!(self.join_type, JoinType::Left | JoinType::Full),
            _ => matches!(self.join_type, JoinType::Right | JoinType::Full),
        }
    }

    fn is_semi(&self) -> bool {
        self.join_type == JoinType::LeftSemi
    }

    fn expiry(&self, side: usize, rows: &KeyedRows) -> PlanResult<Int64Array> {
        match self.sides[side].life {
            RowLife::Forever => Ok(Int64Array::new_null(rows.rows.num_rows())),
            RowLife::OfKey(index, time) => time.expiry(&rows.keys[index]),
            RowLife::After(column, after_us) => EventTime::Time { after_us }.expiry(rows.rows.column(column)),
        }
    }

    /// Puts pairs of columns of one side and the other into the order left, right.
    fn pair(&self, side: usize, own: Vec<ArrayRef>, other: Vec<ArrayRef>) -> Vec<ArrayRef> {
        let (left, right) = if side == LEFT { (own, other) } else { (other, own) };
        left.into_iter().chain(right).collect()
    }
}

impl Joining<'_> {
    /// Joins the new rows of one side with what the other remembers, and remembers them.
    fn add(&mut self, side: usize, rows: KeyedRows, own: &mut RowBuffer, other: &mut RowBuffer) -> PlanResult<()> {
        let rows = self.with_a_chance(side, rows)?;
        let rows = self.timed(side, rows)?;
        let count = rows.rows.num_rows();
        let mut matched = vec![false; count];
        for start in (0..count).step_by(PROBE_ROWS) {
            let length = PROBE_ROWS.min(count - start);
            let keys: Vec<ArrayRef> = rows.keys.iter().map(|k| k.slice(start, length)).collect();
            let piece = KeyedRows { rows: rows.rows.slice(start, length), keys };
            self.meet(side, &piece, &mut matched[start..start + length], other)?;
        }
        let remembered: BooleanArray = match self.join.is_semi() && side == LEFT {
            true => matched.iter().map(|matched| Some(!matched)).collect(),
            false => BooleanArray::from(vec![true; count]),
        };
        let matched: BooleanArray =
            datafusion::arrow::compute::filter(&BooleanArray::from(matched), &remembered)?.as_boolean().clone();
        let rows = rows.filter(&remembered)?;
        let expiry = self.join.expiry(side, &rows)?;
        self.updated += expiry.len();
        own.append(rows.keys, rows.rows.columns().to_vec(), &expiry, &matched)?;
        Ok(())
    }

    /// Drops rows that no row of the other side can match; of an outer side they leave at once.
    fn with_a_chance(&mut self, side: usize, rows: KeyedRows) -> PlanResult<KeyedRows> {
        let Some(condition) = &self.join.sides[side].condition else {
            return Ok(rows);
        };
        let mask = condition.evaluate(&rows.rows)?.into_array(rows.rows.num_rows())?;
        let chance = truths(&mask);
        if self.join.is_outer(side) {
            let without = filter_record_batch(&rows.rows, &not(&chance)?)?;
            self.alone(side, without.columns().to_vec(), without.num_rows())?;
        }
        rows.filter(&chance)
    }

    /// Drops and counts rows whose time is NULL: it is in no range and equal to nothing, so they find no partner and would
    /// never expire. Spark keeps them for ever, so they leave an outer join neither there nor here.
    fn timed(&mut self, side: usize, rows: KeyedRows) -> PlanResult<KeyedRows> {
        let may_match = match self.join.sides[side].life {
            RowLife::Forever => true,
            RowLife::OfKey(..) => self.join.null_equals_null,
            RowLife::After(..) => false,
        };
        let expiry = self.join.expiry(side, &rows)?;
        if may_match || expiry.null_count() == 0 {
            return Ok(rows);
        }
        let timed: BooleanArray = (0..expiry.len()).map(|row| Some(expiry.is_valid(row))).collect();
        self.timeless += expiry.null_count();
        rows.filter(&timed)
    }

    /// Finds the partners of new rows; pairs leave, and both are noted as matched.
    fn meet(&mut self, side: usize, rows: &KeyedRows, matched: &mut [bool], other: &mut RowBuffer) -> PlanResult<()> {
        let join = self.join;
        let (mut probing, mut found) = other.probe(&rows.keys, rows.rows.num_rows(), join.null_equals_null)?;
        if join.is_semi() && side == RIGHT {
            // A row of the left leaves once.
            let open: Vec<bool> = found.iter().map(|row| !other.is_matched(*row)).collect();
            (probing, found) = keep_pairs(&probing, &found, |pair| open[pair]);
        }
        if found.is_empty() {
            return Ok(());
        }
        let own_columns = take_all(rows.rows.columns(), &probing)?;
        let mut columns = join.pair(side, own_columns, other.values(&found)?);
        if let Some(condition) = &join.condition {
            let pairs = RecordBatch::try_new(Arc::clone(&join.joined), columns)?;
            let mask = condition.evaluate(&pairs)?.into_array(pairs.num_rows())?;
            let holds = truths(&mask);
            columns = filter_record_batch(&pairs, &holds)?.columns().to_vec();
            (probing, found) = keep_pairs(&probing, &found, |pair| holds.value(pair));
        }
        probing.values().iter().for_each(|row| matched[*row as usize] = true);
        if join.is_semi() {
            return self.semi(side, &rows.rows, &probing, &found, other);
        }
        if join.is_outer(1 - side) {
            other.set_matched(found.iter().copied());
        }
        self.leave(columns)
    }

    /// Lets each row of the left that has found its first partner leave, once.
    fn semi(
        &mut self,
        side: usize,
        rows: &RecordBatch,
        probing: &UInt32Array,
        found: &[RowNumber],
        other: &mut RowBuffer,
    ) -> PlanResult<()> {
        if side == LEFT {
            let mut once = probing.values().to_vec();
            once.dedup();
            return self.leave(take_all(rows.columns(), &UInt32Array::from(once))?);
        }
        let mut once = found.to_vec();
        once.sort_unstable();
        once.dedup();
        let columns = other.values(&once)?;
        other.set_matched(once);
        self.leave(columns)
    }

    /// Drops what can find no partner any more; returns how many rows.
    fn evict(&mut self, side: usize, buffer: &mut RowBuffer, watermark_us: i64) -> PlanResult<usize> {
        let gone = buffer.expire(watermark_us);
        if self.join.is_outer(side) {
            let alone: Vec<RowNumber> = gone.iter().copied().filter(|row| !buffer.is_matched(*row)).collect();
            self.alone(side, buffer.values(&alone)?, alone.len())?;
        }
        Ok(gone.len())
    }

    /// Rows of one side leave with NULLs in place of a partner.
    fn alone(&mut self, side: usize, columns: Vec<ArrayRef>, rows: usize) -> PlanResult<()> {
        if rows == 0 {
            return Ok(());
        }
        let fields = self.join.sides[1 - side].schema.fields();
        let nothing = fields.iter().map(|f| new_null_array(f.data_type(), rows)).collect();
        self.leave(self.join.pair(side, columns, nothing))
    }

    fn leave(&mut self, columns: Vec<ArrayRef>) -> PlanResult<()> {
        if columns.first().is_some_and(|c| !c.is_empty()) {
            self.out.push(RecordBatch::try_new(Arc::clone(&self.join.schema), columns)?);
        }
        Ok(())
    }
}

fn keep_pairs(
    probing: &UInt32Array,
    found: &[RowNumber],
    keep: impl Fn(usize) -> bool,
) -> (UInt32Array, Vec<RowNumber>) {
    let kept: Vec<usize> = (0..found.len()).filter(|pair| keep(*pair)).collect();
    let probing: Vec<u32> = kept.iter().map(|pair| probing.value(*pair)).collect();
    (probing.into(), kept.into_iter().map(|pair| found[pair]).collect())
}
