//! One batch's rows on their way to the lanes; late rows are dropped and counted here, each row once, before anything is
//! aggregated.
//!
//! Where keys repeat, each partition aggregates its rows and their states travel ([`super::fresh`]); where they hardly do, that
//! would be work for nothing, and the rows travel as they are. What the batch before showed decides; in the first, what its
//! first rows show.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{max, min, take, take_record_batch};
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::TryStreamExt;

use super::AggregateSpec;
use super::fresh::FreshTables;
use crate::operator::batch_context::BatchContext;
use crate::operator::event_time::{EventKey, TIMELESS};
use crate::operator::exchange::{Owners, Picked, input_memory};
use crate::operator::stateful::{Weight, each_partition};
use crate::sink::OutputMode;

/// Rows of one table on their way to a lane.
pub(super) struct Piece {
    /// The state table they belong to.
    pub(super) table: i64,
    pub(super) keys: Vec<ArrayRef>,
    pub(super) values: Values,
    pub(super) rows: usize,
}

/// What stands beside the keys.
pub(super) enum Values {
    /// The rows as they came, one a row of input.
    Arguments(Arguments),
    /// States of the functions, one a group.
    States(Vec<ArrayRef>),
}

/// What the functions are given, by function. What is the same for all rows stays one value.
#[derive(Default)]
pub(in crate::operator) struct Arguments {
    columns: Vec<Vec<ColumnarValue>>,
    filters: Vec<Option<BooleanArray>>,
}

/// So many rows show whether keys repeat.
const SAMPLE_ROWS: usize = 1 << 13;
/// So many bytes of rows as they are a partition holds at most; those after them are aggregated, since a batch may be of
/// any size.
const MOST_BYTES: usize = 128 << 20;
/// Likewise, where memory is limited.
const MOST_BYTES_OF_LIMITED: usize = 8 << 20;
/// So many rows are aggregated before it is seen again what the groups take.
const ROWS_BETWEEN_LOOKS: usize = 1 << 16;

/// What all partitions gave, by lane, and the memory that it holds until a lane takes it.
pub(super) struct Dealt {
    lanes: Mutex<Vec<Vec<Piece>>>,
    held: Arc<MemoryReservation>,
}

impl Dealt {
    /// Takes a lane's part, in the order of the partitions it came from.
    pub(super) fn take(&self, lane: usize) -> Vec<Piece> {
        let pieces = std::mem::take(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner)[lane]);
        let bytes = pieces.iter().map(Piece::weight).sum::<Weight>().bytes;
        self.held.shrink(bytes.min(self.held.size()));
        pieces
    }
}

/// Reads every partition of `input` and deals what it gives to the lanes.
pub(super) async fn take_in(
    spec: Arc<AggregateSpec>,
    input: Arc<dyn ExecutionPlan>,
    batch: Arc<BatchContext>,
    context: Arc<TaskContext>,
) -> PlanResult<Dealt> {
    let held = input_memory(spec.operator, &context);
    let per_partition = each_partition(&input, &context, |rows| {
        take_in_partition(Arc::clone(&spec), Arc::clone(&batch), Arc::clone(&held), rows)
    })
    .await?;
    let mut lanes: Vec<Vec<Piece>> = (0..batch.state.lanes).map(|_| Vec::new()).collect();
    for partition in per_partition {
        for (lane, pieces) in partition.into_iter().enumerate() {
            lanes[lane].extend(pieces);
        }
    }
    let all = lanes.iter().flatten().map(Piece::weight).sum::<Weight>();
    held.try_resize(all.bytes)?;
    Ok(Dealt { lanes: Mutex::new(lanes), held })
}

async fn take_in_partition(
    spec: Arc<AggregateSpec>,
    batch: Arc<BatchContext>,
    held: Arc<MemoryReservation>,
    mut rows: SendableRecordBatchStream,
) -> PlanResult<Vec<Vec<Piece>>> {
    // Complete mode keeps every group, so no row is too late for its own.
    let judged = spec.watermarked && batch.mode != OutputMode::Complete;
    let late_us = batch.watermarks[spec.operator].late_us.filter(|_| judged);
    let operator = spec.operator;
    let repeated = batch.keys_repeated(operator);
    let mut intake = Intake::new(spec, late_us, batch.state.lanes, repeated);
    if batch.state.limited {
        intake.most_bytes = MOST_BYTES_OF_LIMITED;
    }
    let (mut unseen, mut grown) = (0, 0);
    while let Some(rows) = rows.try_next().await? {
        fail::fail_point!("operator.mid_batch");
        intake.add(&rows)?;
        unseen += rows.num_rows();
        if unseen >= ROWS_BETWEEN_LOOKS {
            unseen = 0;
            let bytes = intake.memory_bytes().max(grown);
            held.try_grow(bytes - grown)?;
            grown = bytes;
        }
        let late = std::mem::take(&mut intake.late);
        if !late.is_empty() {
            batch.report().operators[operator].rows_dropped_late += late.len() as u64;
            batch.keep_late(operator, || Ok(take_record_batch(&rows, &UInt32Array::from(late))?))?;
        }
    }
    batch.report().operators[operator].rows_without_event_time += intake.timeless;
    if !intake.as_they_are {
        batch.note_repeats(operator, intake.aggregated, intake.fresh.group_count());
    }
    intake.deal_groups()?;
    Ok(intake.dealt)
}

/// One partition's rows of one batch.
struct Intake {
    spec: Arc<AggregateSpec>,
    late_us: Option<i64>,
    fresh: FreshTables,
    /// How many rows went into `fresh`.
    aggregated: usize,
    /// Whether rows travel as they are from now on.
    as_they_are: bool,
    /// Whether what the rows show may still change that.
    sampling: bool,
    /// By lane.
    dealt: Vec<Vec<Piece>>,
    dealt_bytes: usize,
    most_bytes: usize,
    /// Late rows of the batch of rows that was added last.
    late: Vec<u32>,
    timeless: u64,
}

/// The columns that a batch of rows brings: evaluated once, then dealt to tables.
struct Columns {
    keys: Vec<ArrayRef>,
    arguments: Arguments,
}

/// Rows by table.
type RowsByTable = Vec<(i64, Picked)>;

impl Intake {
    /// Begins a batch; `repeated` says whether the keys of the one before did.
    fn new(spec: Arc<AggregateSpec>, late_us: Option<i64>, lanes: usize, repeated: Option<bool>) -> Self {
        let choosing = spec.is_row_in_one_group();
        Self {
            fresh: FreshTables::new(Arc::clone(&spec)),
            spec,
            late_us,
            aggregated: 0,
            as_they_are: choosing && repeated == Some(false),
            sampling: choosing && repeated.is_none(),
            dealt: (0..lanes).map(|_| Vec::new()).collect(),
            dealt_bytes: 0,
            most_bytes: MOST_BYTES,
            late: Vec::new(),
            timeless: 0,
        }
    }

    fn add(&mut self, rows: &RecordBatch) -> PlanResult<()> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let spec = Arc::clone(&self.spec);
        let groups: Vec<ArrayRef> =
            spec.groups.iter().map(|g| g.evaluate(rows)?.into_array(count)).collect::<PlanResult<_>>()?;
        let by_table = match spec.event_key {
            None => vec![(0, Picked::All)],
            Some(key) => self.tables_of(&key, &groups[key.index()])?,
        };
        let columns = Columns {
            keys: spec.key_indexes().map(|i| Arc::clone(&groups[i])).collect(),
            arguments: Arguments::of(&spec, rows)?,
        };
        if self.as_they_are && self.dealt_bytes < self.most_bytes {
            return self.deal_rows(&columns, by_table, count);
        }
        self.as_they_are = false;
        for (table, rows) in by_table {
            let (columns, rows) = (columns.picked(&rows)?, rows.len(count));
            self.fresh.update(table, &columns.keys, &columns.arguments, rows)?;
            self.aggregated += rows;
        }
        if self.sampling && self.aggregated >= SAMPLE_ROWS {
            self.sampling = false;
            self.as_they_are = self.fresh.group_count() * 5 > self.aggregated * 4;
            if self.as_they_are {
                self.deal_groups()?;
            }
        }
        Ok(())
    }

    /// Sorts row numbers by table, dropping and counting rows that are late or have no event time.
    fn tables_of(&mut self, key: &EventKey, column: &ArrayRef) -> PlanResult<RowsByTable> {
        let times = key.expiry(column)?;
        let judged_by_window = matches!(key, EventKey::Window(..));
        let late_us = self.late_us.filter(|_| !judged_by_window);
        if let (0, Some(first), Some(last)) = (times.null_count(), min(&times), max(&times)) {
            let (table, shared) = key.table_of(first);
            let on_time = !self.is_late(key, table) && late_us.is_none_or(|watermark| first > watermark);
            if on_time && shared.contains(&last) {
                return Ok(vec![(table, Picked::All)]);
            }
        }
        let mut by_table: Vec<(i64, Vec<u32>)> = Vec::new();
        // table → where its rows are, or nowhere where all of them are late
        let mut places: BTreeMap<i64, Option<usize>> = BTreeMap::new();
        let (mut shared, mut place) = (0..0, None);
        for (row, time) in times.iter().enumerate() {
            let Some(time) = time else {
                self.timeless += 1;
                // A window without a time is no window; a NULL time is a key like any other, but never expires.
                if !judged_by_window {
                    let place = place_of(TIMELESS, false, &mut places, &mut by_table);
                    by_table[place.unwrap_or_default()].1.push(row as u32);
                }
                continue;
            };
            // Neighbours mostly share a table: it is looked up where it changes.
            if !shared.contains(&time) {
                let (table, times) = key.table_of(time);
                shared = times;
                place = place_of(table, self.is_late(key, table), &mut places, &mut by_table);
            }
            let late = late_us.is_some_and(|watermark| time <= watermark);
            match place.filter(|_| !late) {
                Some(place) => by_table[place].1.push(row as u32),
                None => self.late.push(row as u32),
            }
        }
        by_table.retain(|(_, rows)| !rows.is_empty());
        Ok(by_table.into_iter().map(|(table, rows)| (table, Picked::Some(rows.into()))).collect())
    }

    /// Whether no row of the pane has a window that is still open.
    fn is_late(&self, key: &EventKey, pane: i64) -> bool {
        match (key, self.late_us) {
            (EventKey::Window(_, window), Some(watermark)) => {
                window.starts(pane).next().is_some_and(|start| start + window.size_us <= watermark)
            }
            _ => false,
        }
    }

    fn deal_rows(&mut self, columns: &Columns, by_table: RowsByTable, count: usize) -> PlanResult<()> {
        let owners = Owners::of(&columns.keys, count, self.dealt.len())?;
        for (table, rows) in by_table {
            for (lane, rows) in owners.split(rows) {
                let Columns { keys, arguments } = columns.picked(&rows)?;
                self.deal(lane, Piece { table, keys, values: Values::Arguments(arguments), rows: rows.len(count) });
            }
        }
        Ok(())
    }

    /// Deals what was aggregated.
    fn deal_groups(&mut self) -> PlanResult<()> {
        for (table, fresh) in self.fresh.take()? {
            for (lane, rows) in Owners::of(&fresh.keys, fresh.rows, self.dealt.len())?.split(Picked::All) {
                let (keys, states) = (rows.of_all(&fresh.keys)?, rows.of_all(&fresh.states)?);
                for table in self.tables_over(table) {
                    let values = Values::States(states.clone());
                    self.deal(lane, Piece { table, keys: keys.clone(), values, rows: rows.len(fresh.rows) });
                }
            }
        }
        Ok(())
    }

    /// A pane's groups belong to every window over it that is not yet closed.
    fn tables_over(&self, table: i64) -> Vec<i64> {
        let Some(EventKey::Window(_, window)) = self.spec.event_key else {
            return vec![table];
        };
        let open = |start: &i64| self.late_us.is_none_or(|watermark| start + window.size_us > watermark);
        window.starts(table).filter(open).collect()
    }

    fn deal(&mut self, lane: usize, piece: Piece) {
        self.dealt_bytes += piece.weight().bytes;
        self.dealt[lane].push(piece);
    }

    fn memory_bytes(&self) -> usize {
        self.fresh.memory_bytes() + self.dealt_bytes
    }
}

/// Where the rows of a table are, made where it is new; nowhere where they are late.
fn place_of(
    table: i64,
    late: bool,
    places: &mut BTreeMap<i64, Option<usize>>,
    by_table: &mut Vec<(i64, Vec<u32>)>,
) -> Option<usize> {
    *places.entry(table).or_insert_with(|| {
        (!late).then(|| {
            by_table.push((table, Vec::new()));
            by_table.len() - 1
        })
    })
}

impl Piece {
    pub(super) fn weight(&self) -> Weight {
        match &self.values {
            Values::Arguments(arguments) => Weight::of(self.rows, self.keys.iter().chain(arguments.arrays())),
            Values::States(states) => Weight::of(self.rows, self.keys.iter().chain(states)),
        }
    }
}

impl Columns {
    fn picked(&self, rows: &Picked) -> PlanResult<Self> {
        let pick_value = |value: &ColumnarValue| match value {
            ColumnarValue::Array(column) => Ok(ColumnarValue::Array(rows.of(column)?)),
            one @ ColumnarValue::Scalar(_) => PlanResult::Ok(one.clone()),
        };
        let Arguments { columns, filters } = &self.arguments;
        let columns = columns.iter().map(|columns| columns.iter().map(pick_value).collect::<PlanResult<_>>());
        let pick_filter = |filter: &Option<BooleanArray>| match (filter, rows) {
            (Some(filter), Picked::Some(rows)) => PlanResult::Ok(Some(take(filter, rows, None)?.as_boolean().clone())),
            (filter, _) => Ok(filter.clone()),
        };
        let arguments = Arguments {
            columns: columns.collect::<PlanResult<_>>()?,
            filters: filters.iter().map(pick_filter).collect::<PlanResult<_>>()?,
        };
        Ok(Self { keys: rows.of_all(&self.keys)?, arguments })
    }
}

impl Arguments {
    /// Evaluates what the functions are given of `rows`, and their FILTER clauses.
    pub(in crate::operator) fn of(spec: &AggregateSpec, rows: &RecordBatch) -> PlanResult<Self> {
        let mut columns = Vec::with_capacity(spec.functions.len());
        for function in &spec.functions {
            let order_by = function.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
            let expressions = function.expressions().into_iter().chain(order_by);
            let mut values: Vec<ColumnarValue> = expressions.map(|e| e.evaluate(rows)).collect::<PlanResult<_>>()?;
            if values.is_empty() {
                // count(*) may come without an argument; it still must know the number of rows.
                values.push(ColumnarValue::Scalar(ScalarValue::UInt8(Some(1))));
            }
            columns.push(values);
        }
        let filter = |filter: &Option<Arc<dyn PhysicalExpr>>| {
            let Some(filter) = filter else {
                return Ok(None);
            };
            let mask = filter.evaluate(rows)?.into_array(rows.num_rows())?;
            Ok(Some(mask.as_boolean().clone()))
        };
        let filters = spec.filters.iter().map(filter).collect::<PlanResult<_>>()?;
        Ok(Self { columns, filters })
    }

    /// Returns, by function, the columns for `rows` rows and the filter.
    pub(super) fn each(&self, rows: usize) -> impl Iterator<Item = PlanResult<(Vec<ArrayRef>, Option<&BooleanArray>)>> {
        self.columns.iter().zip(&self.filters).map(move |(values, filter)| {
            let columns = values.iter().map(|value| value.to_array(rows)).collect::<PlanResult<_>>()?;
            Ok((columns, filter.as_ref()))
        })
    }

    fn arrays(&self) -> impl Iterator<Item = &ArrayRef> {
        self.columns.iter().flatten().filter_map(|value| match value {
            ColumnarValue::Array(column) => Some(column),
            ColumnarValue::Scalar(_) => None,
        })
    }
}
