//! Rows on their way to the lanes that own their keys.
//!
//! Every input partition evaluates keys, judges which rows are late, and deals the others by key group. A lane gets its
//! rows in the order of the partitions they came from, so in order of arrival.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{
    concat_batches, filter, filter_record_batch, prep_null_mask_filter, take, take_record_batch,
};
use datafusion::common::Result as PlanResult;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::TryStreamExt;

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::stateful::{Weight, each_partition};
use crate::state::{KEY_GROUPS, key_groups, lane_of};

/// Rows of one input with what was evaluated of them.
#[derive(Debug, Clone)]
pub struct KeyedRows {
    /// The rows as the input gave them.
    pub rows: RecordBatch,
    /// Their keys.
    pub keys: Vec<ArrayRef>,
}

/// Rows by lane, and the memory that they hold until a lane takes them.
pub struct Dealt {
    lanes: Mutex<Vec<Vec<KeyedRows>>>,
    held: Arc<MemoryReservation>,
}

impl Dealt {
    /// Takes a lane's rows, in order of arrival.
    pub fn take(&self, lane: usize) -> Vec<KeyedRows> {
        let rows = std::mem::take(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner)[lane]);
        self.held.shrink(KeyedRows::weight(&rows).bytes.min(self.held.size()));
        rows
    }
}

/// Says what becomes of a batch of rows before it is dealt: which rows are late (`true`), `None` for none.
pub type JudgeLate = Arc<dyn Fn(&RecordBatch) -> PlanResult<Option<BooleanArray>> + Send + Sync>;

/// Judges rows late whose event time, in column `late`, expires at or before `late_us`; rows without one are not late.
pub fn late_by_column(late: Option<(usize, EventTime)>, late_us: Option<i64>) -> Option<JudgeLate> {
    let ((column, time), late_us) = (late?, late_us?);
    Some(Arc::new(move |rows| {
        let expiry = time.expiry(rows.column(column))?;
        Ok(Some(expiry.iter().map(|us| Some(us.is_some_and(|us| us <= late_us))).collect()))
    }))
}

/// Makes what an operator reserves for a batch's rows from reading them until they are in state.
pub(super) fn input_memory(operator: usize, context: &TaskContext) -> Arc<MemoryReservation> {
    Arc::new(MemoryConsumer::new(format!("input of operator {operator}")).register(context.memory_pool()))
}

/// Reads every partition of `input`, drops late rows, and deals the others to the lanes by `keys`.
///
/// # Errors
/// What reading and evaluating meet; `ResourcesExhausted` where the rows of the batch have no room in memory.
pub async fn deal_rows(
    operator: usize,
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    late: Option<JudgeLate>,
    batch: Arc<BatchContext>,
    context: Arc<TaskContext>,
) -> PlanResult<Dealt> {
    let lanes = batch.state.lanes;
    let held = input_memory(operator, &context);
    let per_partition = each_partition(&input, &context, |mut rows| {
        let (keys, late, batch, held) = (keys.clone(), late.clone(), Arc::clone(&batch), Arc::clone(&held));
        async move {
            let mut dealt: Vec<Vec<KeyedRows>> = vec![Vec::new(); lanes];
            while let Some(mut rows) = rows.try_next().await? {
                fail::fail_point!("operator.mid_batch");
                if let Some(late) = &late
                    && let Some(late) = late(&rows)?
                {
                    rows = batch.drop_late(operator, rows, &late)?;
                }
                if rows.num_rows() > 0 {
                    held.try_grow(deal(rows, &keys, &mut dealt)?)?;
                }
            }
            Ok(dealt)
        }
    })
    .await?;
    let mut dealt: Vec<Vec<KeyedRows>> = vec![Vec::new(); lanes];
    for partition in per_partition {
        for (lane, rows) in partition.into_iter().enumerate() {
            dealt[lane].extend(rows);
        }
    }
    Ok(Dealt { lanes: Mutex::new(dealt), held })
}

/// Some rows of a batch of rows.
pub(super) enum Picked {
    All,
    Some(UInt32Array),
}

impl Picked {
    /// Returns how many rows of `count` they are.
    pub(super) fn len(&self, count: usize) -> usize {
        match self {
            Self::All => count,
            Self::Some(rows) => rows.len(),
        }
    }

    /// Picks the rows of a column.
    pub(super) fn of(&self, column: &ArrayRef) -> PlanResult<ArrayRef> {
        match self {
            Self::All => Ok(Arc::clone(column)),
            Self::Some(rows) => Ok(take(column, rows, None)?),
        }
    }

    /// Picks the rows of all columns.
    pub(super) fn of_all(&self, columns: &[ArrayRef]) -> PlanResult<Vec<ArrayRef>> {
        columns.iter().map(|column| self.of(column)).collect()
    }
}

/// The lanes that own some rows.
pub(super) struct Owners {
    lanes: usize,
    /// row → key group; not looked at where there is one lane
    groups: Vec<u8>,
}

impl Owners {
    /// Finds who owns `rows` rows with these keys.
    pub(super) fn of(keys: &[ArrayRef], rows: usize, lanes: usize) -> PlanResult<Self> {
        Ok(Self { lanes, groups: if lanes == 1 { Vec::new() } else { key_groups(keys, rows)? } })
    }

    /// Sorts some of the rows by lane; lanes without any are left out.
    pub(super) fn split(&self, rows: Picked) -> Vec<(usize, Picked)> {
        if self.lanes == 1 {
            return vec![(0, rows)];
        }
        let (lanes, groups) = (self.lanes, &self.groups);
        let lane_of_group: Vec<usize> = (0..KEY_GROUPS as u8).map(|group| lane_of(group, lanes)).collect();
        let mut rows_of: Vec<Vec<u32>> = vec![Vec::with_capacity(groups.len() / lanes + 16); lanes];
        let mut push = |row: u32, group: u8| rows_of[lane_of_group[usize::from(group)]].push(row);
        match rows {
            Picked::All => (0..).zip(groups).for_each(|(row, group)| push(row, *group)),
            Picked::Some(rows) => rows.values().iter().for_each(|row| push(*row, groups[*row as usize])),
        }
        let some = rows_of.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        some.map(|(lane, rows)| (lane, Picked::Some(rows.into()))).collect()
    }
}

/// Deals rows; returns how many bytes the lanes hold more.
fn deal(rows: RecordBatch, keys: &[Arc<dyn PhysicalExpr>], lanes: &mut [Vec<KeyedRows>]) -> PlanResult<usize> {
    let count = rows.num_rows();
    let keys: Vec<ArrayRef> = keys.iter().map(|k| k.evaluate(&rows)?.into_array(count)).collect::<PlanResult<_>>()?;
    let mut bytes = 0;
    for (lane, picked) in Owners::of(&keys, count, lanes.len())?.split(Picked::All) {
        let rows = match &picked {
            Picked::All => rows.clone(),
            Picked::Some(numbers) => take_record_batch(&rows, numbers)?,
        };
        let dealt = KeyedRows { rows, keys: picked.of_all(&keys)? };
        bytes += KeyedRows::weight(std::slice::from_ref(&dealt)).bytes;
        lanes[lane].push(dealt);
    }
    Ok(bytes)
}

impl KeyedRows {
    /// Weighs rows and keys.
    pub fn weight(pieces: &[KeyedRows]) -> Weight {
        let of = |piece: &KeyedRows| Weight::of(piece.rows.num_rows(), piece.rows.columns().iter().chain(&piece.keys));
        pieces.iter().map(of).sum()
    }

    /// Puts a lane's rows into one, or `None` where there are none.
    ///
    /// # Errors
    /// `Internal` where rows have different columns.
    pub fn concat(pieces: Vec<KeyedRows>) -> PlanResult<Option<KeyedRows>> {
        let Some(first) = pieces.first() else {
            return Ok(None);
        };
        if pieces.len() == 1 {
            return Ok(pieces.into_iter().next());
        }
        let rows = concat_batches(&first.rows.schema(), pieces.iter().map(|p| &p.rows))?;
        let keys = concat_all(pieces.iter().map(|p| p.keys.as_slice()))?;
        Ok(Some(KeyedRows { rows, keys }))
    }

    /// Keeps the rows for which `wanted` holds.
    ///
    /// # Errors
    /// As Arrow's filter.
    pub fn filter(self, wanted: &BooleanArray) -> PlanResult<KeyedRows> {
        if wanted.true_count() == self.rows.num_rows() {
            return Ok(self);
        }
        Ok(KeyedRows { rows: filter_record_batch(&self.rows, wanted)?, keys: filter_all(&self.keys, wanted)? })
    }
}

impl BatchContext {
    /// Counts the rows that are late for `operator`, keeps them where they are asked for, and returns the others.
    ///
    /// # Errors
    /// As Arrow's filter.
    pub fn drop_late(&self, operator: usize, rows: RecordBatch, late: &BooleanArray) -> PlanResult<RecordBatch> {
        let count = late.true_count();
        if count == 0 {
            return Ok(rows);
        }
        self.report().operators[operator].rows_dropped_late += count as u64;
        self.keep_late(operator, || Ok(filter_record_batch(&rows, late)?))?;
        let on_time: BooleanArray = late.iter().map(|late| Some(late != Some(true))).collect();
        Ok(filter_record_batch(&rows, &on_time)?)
    }
}

/// Returns where a predicate's value is true; NULL is not.
pub fn truths(mask: &ArrayRef) -> BooleanArray {
    let mask = mask.as_boolean();
    if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) }
}

/// Picks the columns' rows for which `wanted` holds.
///
/// # Errors
/// As Arrow's filter.
pub fn filter_all(columns: &[ArrayRef], wanted: &BooleanArray) -> PlanResult<Vec<ArrayRef>> {
    columns.iter().map(|c| Ok(filter(c, wanted)?)).collect()
}

/// Picks rows of all columns by their numbers.
///
/// # Errors
/// As Arrow's take.
pub fn take_all(columns: &[ArrayRef], rows: &UInt32Array) -> PlanResult<Vec<ArrayRef>> {
    columns.iter().map(|c| Ok(take(c, rows, None)?)).collect()
}

/// Puts pieces of columns one behind the other; without pieces there are no columns.
///
/// # Errors
/// `Internal` where columns of one kind have different types.
pub fn concat_all<'a>(pieces: impl Iterator<Item = &'a [ArrayRef]>) -> PlanResult<Vec<ArrayRef>> {
    let pieces: Vec<&[ArrayRef]> = pieces.collect();
    match pieces.as_slice() {
        [] => Ok(Vec::new()),
        [only] => Ok(only.to_vec()),
        [first, ..] => (0..first.len())
            .map(|column| {
                let parts: Vec<&dyn Array> = pieces.iter().map(|p| p[column].as_ref()).collect();
                Ok(datafusion::arrow::compute::concat(&parts)?)
            })
            .collect(),
    }
}
