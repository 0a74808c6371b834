//! One batch's rows of one partition, aggregated into fresh tables; late rows are dropped and counted here, each row
//! once, before anything is aggregated.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array, new_null_array,
};
use datafusion::arrow::compute::{cast, take, take_record_batch};
use datafusion::common::Result as PlanResult;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use futures::TryStreamExt;

use super::{Accumulators, AggregateSpec, grouping_id};
use crate::operator::batch_context::BatchContext;
use crate::operator::event_time::{EventKey, TIMELESS};
use crate::operator::exchange::{input_memory, take_all};
use crate::operator::stateful::{Weight, each_partition};
use crate::sink::OutputMode;
use crate::state::{key_groups, lane_of};

/// States of some groups of one table, on their way to a lane.
pub(super) struct PartialStates {
    /// The state table they belong to.
    pub(super) table: i64,
    pub(super) keys: Vec<ArrayRef>,
    pub(super) states: Vec<ArrayRef>,
    pub(super) rows: usize,
}

impl PartialStates {
    pub(super) fn weight(&self) -> Weight {
        Weight::of(self.rows, self.keys.iter().chain(&self.states))
    }
}

/// So many rows are aggregated before it is seen again what the groups take.
const ROWS_BETWEEN_LOOKS: usize = 1 << 16;

/// What all partitions made, by lane, and the memory that it holds until a lane takes it.
pub(super) struct Dealt {
    lanes: Mutex<Vec<Vec<PartialStates>>>,
    held: Arc<MemoryReservation>,
}

impl Dealt {
    /// Takes a lane's part, in the order of the partitions it came from.
    pub(super) fn take(&self, lane: usize) -> Vec<PartialStates> {
        let states = std::mem::take(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner)[lane]);
        let bytes = states.iter().map(PartialStates::weight).sum::<Weight>().bytes;
        self.held.shrink(bytes.min(self.held.size()));
        states
    }
}

/// Aggregates every partition of `input` and deals the states to the lanes.
pub(super) async fn aggregate_all(
    spec: Arc<AggregateSpec>,
    input: Arc<dyn ExecutionPlan>,
    batch: Arc<BatchContext>,
    context: Arc<TaskContext>,
) -> PlanResult<Dealt> {
    let lanes = batch.state.lanes;
    let held = input_memory(spec.operator, &context);
    let per_partition = each_partition(&input, &context, |rows| {
        aggregate_partition(Arc::clone(&spec), Arc::clone(&batch), Arc::clone(&held), rows)
    })
    .await?;
    let mut dealt: Vec<Vec<PartialStates>> = (0..lanes).map(|_| Vec::new()).collect();
    for states in per_partition.into_iter().flatten() {
        deal(states, &mut dealt)?;
    }
    let all = dealt.iter().flatten().map(PartialStates::weight).sum::<Weight>();
    held.try_resize(all.bytes)?;
    Ok(Dealt { lanes: Mutex::new(dealt), held })
}

fn deal(states: PartialStates, lanes: &mut [Vec<PartialStates>]) -> PlanResult<()> {
    if lanes.len() == 1 {
        lanes[0].push(states);
        return Ok(());
    }
    let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); lanes.len()];
    for (row, group) in key_groups(&states.keys, states.rows)?.into_iter().enumerate() {
        rows_of[lane_of(group, lanes.len())].push(row as u32);
    }
    for (lane, rows) in rows_of.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let rows = UInt32Array::from(rows);
        lanes[lane].push(PartialStates {
            table: states.table,
            keys: take_all(&states.keys, &rows)?,
            states: take_all(&states.states, &rows)?,
            rows: rows.len(),
        });
    }
    Ok(())
}

async fn aggregate_partition(
    spec: Arc<AggregateSpec>,
    batch: Arc<BatchContext>,
    held: Arc<MemoryReservation>,
    mut rows: SendableRecordBatchStream,
) -> PlanResult<Vec<PartialStates>> {
    // Complete mode keeps every group, so no row is too late for its own.
    let judged = spec.watermarked && batch.mode != OutputMode::Complete;
    let late_us = batch.watermarks[spec.operator].late_us.filter(|_| judged);
    let (spec, operator) = (Arc::clone(&spec), spec.operator);
    let mut tables = FreshTables { spec, late_us, tables: BTreeMap::new(), late: Vec::new(), timeless: 0 };
    let (mut unseen, mut grown) = (0, 0);
    while let Some(rows) = rows.try_next().await? {
        fail::fail_point!("operator.mid_batch");
        tables.add(&rows)?;
        unseen += rows.num_rows();
        if unseen >= ROWS_BETWEEN_LOOKS {
            unseen = 0;
            let bytes = tables.memory_bytes().max(grown);
            held.try_grow(bytes - grown)?;
            grown = bytes;
        }
        let late = std::mem::take(&mut tables.late);
        if !late.is_empty() {
            batch.report().operators[operator].rows_dropped_late += late.len() as u64;
            batch.keep_late(operator, || Ok(take_record_batch(&rows, &UInt32Array::from(late))?))?;
        }
    }
    batch.report().operators[operator].rows_without_event_time += tables.timeless;
    tables.finish()
}

/// The batch's groups, by pane or bucket.
struct FreshTables {
    spec: Arc<AggregateSpec>,
    late_us: Option<i64>,
    tables: BTreeMap<i64, FreshTable>,
    /// Late rows of the batch of rows that was added last.
    late: Vec<u32>,
    timeless: u64,
}

struct FreshTable {
    index: Option<Box<dyn GroupValues>>,
    accumulators: Accumulators,
    groups: Vec<usize>,
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

/// The columns that a batch of rows brings: evaluated once, then dealt to tables.
struct Columns {
    keys: Vec<ArrayRef>,
    arguments: Vec<Vec<ArrayRef>>,
    filters: Vec<Option<BooleanArray>>,
}

impl FreshTables {
    fn add(&mut self, rows: &RecordBatch) -> PlanResult<()> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let spec = Arc::clone(&self.spec);
        let groups: Vec<ArrayRef> =
            spec.groups.iter().map(|g| g.evaluate(rows)?.into_array(count)).collect::<PlanResult<_>>()?;
        let columns = Columns {
            keys: spec.key_indexes().map(|i| Arc::clone(&groups[i])).collect(),
            arguments: arguments(&spec, rows)?,
            filters: filters(&spec, rows)?,
        };
        match spec.event_key {
            None => self.update(0, &columns, None),
            Some(key) => {
                for (table, rows) in self.tables_of(&key, &groups[key.index()])? {
                    let all = rows.len() == count;
                    self.update(table, &columns, (!all).then(|| UInt32Array::from(rows)).as_ref())?;
                }
                Ok(())
            }
        }
    }

    /// Sorts row numbers by table, dropping and counting rows that are late or have no event time.
    fn tables_of(&mut self, key: &EventKey, column: &ArrayRef) -> PlanResult<Vec<(i64, Vec<u32>)>> {
        let tables = key.tables(column)?;
        let expiry = key.expiry(column)?;
        let mut by_table: Vec<(i64, Vec<u32>)> = Vec::new();
        // table → where its rows are, or nowhere where all of them are late
        let mut places: BTreeMap<i64, Option<usize>> = BTreeMap::new();
        let mut current = None;
        for (row, table) in tables.into_iter().enumerate() {
            let Some(table) = table else {
                self.timeless += 1;
                // A window without a time is no window; a NULL time is a key like any other, but never expires.
                if matches!(key, EventKey::Window(..)) {
                    continue;
                }
                let place = place_of(TIMELESS, false, &mut places, &mut by_table);
                by_table[place.unwrap_or_default()].1.push(row as u32);
                continue;
            };
            // Neighbours mostly share a table: it is looked up where it changes.
            let place = match current {
                Some((id, place)) if id == table => place,
                _ => place_of(table, self.is_late(key, table), &mut places, &mut by_table),
            };
            current = Some((table, place));
            let late = match key {
                EventKey::Window(..) => false,
                _ => self.late_us.is_some_and(|watermark| expiry.value(row) <= watermark),
            };
            match place.filter(|_| !late) {
                Some(place) => by_table[place].1.push(row as u32),
                None => self.late.push(row as u32),
            }
        }
        by_table.retain(|(_, rows)| !rows.is_empty());
        Ok(by_table)
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

    fn update(&mut self, table: i64, columns: &Columns, rows: Option<&UInt32Array>) -> PlanResult<()> {
        let spec = Arc::clone(&self.spec);
        let table = match self.tables.entry(table) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(FreshTable::new(&spec)?),
        };
        let pick = |column: &ArrayRef| match rows {
            Some(rows) => take(column, rows, None),
            None => Ok(Arc::clone(column)),
        };
        let keys: Vec<ArrayRef> = columns.keys.iter().map(pick).collect::<Result<_, _>>()?;
        let mut arguments: Vec<Vec<ArrayRef>> = Vec::with_capacity(columns.arguments.len());
        for columns in &columns.arguments {
            arguments.push(columns.iter().map(pick).collect::<Result<_, _>>()?);
        }
        let mut filters = Vec::with_capacity(columns.filters.len());
        for filter in &columns.filters {
            filters.push(match (filter, rows) {
                (Some(filter), Some(rows)) => Some(take(filter, rows, None)?.as_boolean().clone()),
                (filter, _) => filter.clone(),
            });
        }
        let count = rows.map_or_else(|| columns.rows(), UInt32Array::len);
        match &spec.grouping_sets {
            None => table.update(&keys, &arguments, &filters, count),
            Some((sets, id_field)) => {
                for set in sets {
                    let mut keys: Vec<ArrayRef> = spec
                        .key_indexes()
                        .zip(&keys)
                        .map(|(i, k)| if set[i] { new_null_array(k.data_type(), count) } else { Arc::clone(k) })
                        .collect();
                    let id: ArrayRef = Arc::new(UInt64Array::from_value(grouping_id(set), count));
                    keys.push(cast(&id, id_field.data_type())?);
                    table.update(&keys, &arguments, &filters, count)?;
                }
                Ok(())
            }
        }
    }

    fn memory_bytes(&self) -> usize {
        let of = |t: &FreshTable| t.index.as_ref().map_or(0, |index| index.size()) + t.accumulators.size();
        self.tables.values().map(of).sum()
    }

    fn finish(self) -> PlanResult<Vec<PartialStates>> {
        let mut all = Vec::new();
        for (id, table) in self.tables {
            let states = table.finish(id)?;
            match self.spec.event_key {
                // A pane's groups belong to every window over it that is not yet closed.
                Some(EventKey::Window(_, window)) => {
                    let open = |start: &i64| self.late_us.is_none_or(|w| start + window.size_us > w);
                    all.extend(window.starts(id).filter(open).map(|start| PartialStates {
                        table: start,
                        keys: states.keys.clone(),
                        states: states.states.clone(),
                        rows: states.rows,
                    }));
                }
                _ => all.push(states),
            }
        }
        Ok(all)
    }
}

impl Columns {
    fn rows(&self) -> usize {
        self.keys.first().or_else(|| self.arguments.iter().flatten().next()).map_or(0, |c| c.len())
    }
}

impl FreshTable {
    fn new(spec: &AggregateSpec) -> PlanResult<Self> {
        let fields = spec.key_fields();
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
        let index =
            if schema.fields().is_empty() { None } else { Some(new_group_values(schema, &GroupOrdering::None)?) };
        Ok(Self { index, accumulators: spec.accumulators()?, groups: Vec::new() })
    }

    fn update(
        &mut self,
        keys: &[ArrayRef],
        arguments: &[Vec<ArrayRef>],
        filters: &[Option<BooleanArray>],
        rows: usize,
    ) -> PlanResult<()> {
        let total = match &mut self.index {
            Some(index) => {
                index.intern(keys, &mut self.groups)?;
                index.len()
            }
            None => {
                self.groups.clear();
                self.groups.resize(rows, 0);
                1
            }
        };
        self.accumulators.update(arguments, filters, &self.groups, total)
    }

    fn finish(mut self, table: i64) -> PlanResult<PartialStates> {
        let (keys, rows) = match &mut self.index {
            Some(index) => {
                let rows = index.len();
                (index.emit(EmitTo::All)?, rows)
            }
            None => (Vec::new(), 1),
        };
        Ok(PartialStates { table, keys, states: self.accumulators.state()?, rows })
    }
}

/// Evaluates the functions' arguments.
pub(in crate::operator) fn arguments(spec: &AggregateSpec, rows: &RecordBatch) -> PlanResult<Vec<Vec<ArrayRef>>> {
    let count = rows.num_rows();
    let mut all = Vec::with_capacity(spec.functions.len());
    for function in &spec.functions {
        let order_by = function.order_bys().iter().map(|sort| Arc::clone(&sort.expr));
        let expressions = function.expressions().into_iter().chain(order_by);
        let mut columns: Vec<ArrayRef> =
            expressions.map(|e| e.evaluate(rows)?.into_array(count)).collect::<PlanResult<_>>()?;
        if columns.is_empty() {
            // count(*) may come without an argument; it still must know the number of rows.
            columns.push(Arc::new(UInt8Array::from_value(1, count)));
        }
        all.push(columns);
    }
    Ok(all)
}

/// Evaluates the functions' FILTER clauses.
pub(in crate::operator) fn filters(spec: &AggregateSpec, rows: &RecordBatch) -> PlanResult<Vec<Option<BooleanArray>>> {
    let evaluate = |filter: &Option<Arc<dyn datafusion::physical_plan::PhysicalExpr>>| {
        let Some(filter) = filter else {
            return Ok(None);
        };
        let mask = filter.evaluate(rows)?.into_array(rows.num_rows())?;
        Ok(Some(mask.as_boolean().clone()))
    };
    spec.filters.iter().map(evaluate).collect()
}
