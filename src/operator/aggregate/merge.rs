//! One lane's half of the aggregate: what came is merged with what is remembered, what expired leaves, the change is
//! written, and the output mode says which rows are handed on.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use datafusion::common::Result as PlanResult;

use super::AggregateSpec;
use super::intake::{Piece, Values};
use crate::operator::batch_context::BatchContext;
use crate::operator::event_time::{EventKey, TIMELESS, window_array};
use crate::operator::exchange::filter_all;
use crate::operator::stateful::LaneCounts;
use crate::sink::OutputMode;
use crate::state::{KeyedTables, keyless_lane};

/// Rows of one table on their way out: keys and states, not yet evaluated.
struct Leaving {
    table: i64,
    keys: Vec<ArrayRef>,
    states: Vec<ArrayRef>,
    rows: usize,
}

/// Runs one batch of one lane. State is on its way to the disk when the rows are returned.
pub(super) async fn run_lane(
    spec: &AggregateSpec,
    batch: &Arc<BatchContext>,
    lane: usize,
    came: Vec<Piece>,
) -> PlanResult<Vec<RecordBatch>> {
    let mut state = batch.open_lane(spec.operator, lane, came.iter().map(Piece::weight).sum()).await?;
    let started_ms = batch.clock.now_ms();
    let mut lane_work = Lane { spec, widths: spec.widths()?, updated: 0, removed: 0 };

    let raw = |piece: &Piece| if matches!(piece.values, Values::Arguments(_)) { piece.rows } else { 0 };
    let rows_as_they_are = came.iter().map(raw).sum();
    let tables = state.keyed()?;
    let touched = lane_work.merge_all(tables, came, lane == keyless_lane(batch.state.lanes))?;
    batch.note_repeats(spec.operator, rows_as_they_are, lane_work.updated);
    let merged_ms = batch.clock.now_ms();
    let expired = match batch.mode {
        OutputMode::Complete => Vec::new(),
        _ => lane_work.evict(tables, batch.watermarks[spec.operator].eviction_us)?,
    };
    let leaving = match batch.mode {
        OutputMode::Append => expired,
        OutputMode::Update => touched,
        OutputMode::Complete => lane_work.everything(tables)?,
    };
    let counts = LaneCounts {
        updated: lane_work.updated,
        removed: lane_work.removed,
        oldest_us: lane_work.oldest(tables),
        at_ms: [started_ms, merged_ms, batch.clock.now_ms()],
    };
    batch.commit_lane(spec.operator, lane, state, counts).await?;
    leaving.into_iter().map(|rows| lane_work.output(rows)).collect()
}

struct Lane<'a> {
    spec: &'a AggregateSpec,
    /// How many state columns each function has.
    widths: Vec<usize>,
    updated: usize,
    removed: usize,
}

impl Lane<'_> {
    /// Merges what came into the tables, and returns the groups that were touched with their new states.
    fn merge_all(
        &mut self,
        tables: &mut KeyedTables,
        came: Vec<Piece>,
        keyless_lane: bool,
    ) -> PlanResult<Vec<Leaving>> {
        let mut by_table: BTreeMap<i64, Vec<Piece>> = BTreeMap::new();
        for piece in came {
            by_table.entry(piece.table).or_default().push(piece);
        }
        // Without keys there is one row always, even before any input, and every batch writes it again.
        if self.spec.is_global() && keyless_lane {
            by_table.entry(0).or_default();
        }
        by_table.into_iter().map(|(table, came)| self.merge_table(tables, table, came)).collect()
    }

    fn merge_table(&mut self, tables: &mut KeyedTables, table: i64, mut came: Vec<Piece>) -> PlanResult<Leaving> {
        if came.is_empty() {
            came.push(Piece { table, keys: Vec::new(), values: Values::States(self.no_rows()?), rows: 1 });
        }
        let mut accumulators = self.spec.accumulators()?;
        let mut rows = 0;
        for piece in came {
            let touched = tables.touch(table, &piece.keys, piece.rows)?;
            // Accumulators take it that a batch names every group it is told of, so old groups come first and alone.
            if !touched.remembered.is_empty() {
                let (old, total) = (touched.remembered.clone().collect::<Vec<_>>(), touched.remembered.end);
                accumulators.merge(&touched.values, &old, total, &self.widths)?;
            }
            rows = touched.total;
            match &piece.values {
                Values::Arguments(arguments) => accumulators.update(arguments, &touched.places, rows)?,
                Values::States(states) => accumulators.merge(states, &touched.places, rows, &self.widths)?,
            }
        }
        let states = accumulators.state()?;
        let keys = tables.put_touched(table, states.clone())?;
        self.updated += rows;
        Ok(Leaving { table, keys, states, rows })
    }

    /// The state of the one group before any row.
    fn no_rows(&self) -> PlanResult<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for function in &self.spec.functions {
            for value in function.create_accumulator()?.state()? {
                columns.push(value.to_array_of_size(1)?);
            }
        }
        Ok(columns)
    }

    /// Takes out what has expired.
    fn evict(&mut self, tables: &mut KeyedTables, watermark_us: Option<i64>) -> PlanResult<Vec<Leaving>> {
        let (Some(key), Some(watermark_us), true) = (self.spec.event_key, watermark_us, self.spec.watermarked) else {
            return Ok(Vec::new());
        };
        let mut gone = Vec::new();
        // Tables are in the order in which they expire, those that never do first.
        let mut next = tables.first_table_after(TIMELESS);
        while let Some(table) = next {
            next = tables.first_table_after(table);
            match key.expired(table, watermark_us) {
                Some(false) => break,
                Some(true) => {
                    let (keys, states, rows) = tables.scan(table)?;
                    tables.drop_table(table);
                    gone.push(Leaving { table, keys, states, rows });
                }
                None => gone.extend(self.evict_some(tables, table, &key, watermark_us)?),
            }
        }
        self.removed += gone.iter().map(|g| g.rows).sum::<usize>();
        Ok(gone)
    }

    /// The watermark stands inside this bucket: its rows are judged one by one.
    fn evict_some(
        &self,
        tables: &mut KeyedTables,
        table: i64,
        key: &EventKey,
        watermark_us: i64,
    ) -> PlanResult<Option<Leaving>> {
        let (keys, states, _) = tables.scan(table)?;
        let expiry = key.expiry(&keys[key.index()])?;
        let expired: BooleanArray = expiry.iter().map(|t| Some(t.is_some_and(|t| t <= watermark_us))).collect();
        if expired.true_count() == 0 {
            return Ok(None);
        }
        let groups = tables.groups(table);
        let gone: Vec<usize> = (0..groups.len()).filter(|row| expired.value(*row)).map(|row| groups[row]).collect();
        tables.remove(table, &gone)?;
        let (keys, states) = (filter_all(&keys, &expired)?, filter_all(&states, &expired)?);
        Ok(Some(Leaving { table, keys, states, rows: expired.true_count() }))
    }

    /// When the first table expires (for bare event times: begins to) that ever does.
    fn oldest(&self, tables: &KeyedTables) -> Option<i64> {
        let key = self.spec.event_key.filter(|_| self.spec.watermarked)?;
        tables.first_table_after(TIMELESS).map(|table| key.expires_us(table))
    }

    fn everything(&self, tables: &KeyedTables) -> PlanResult<Vec<Leaving>> {
        let scan = |table: i64| {
            let (keys, states, rows) = tables.scan(table)?;
            Ok(Leaving { table, keys, states, rows })
        };
        tables.table_ids().into_iter().map(scan).collect()
    }

    /// Evaluates what leaves: group columns, the grouping id if any, then the functions' results.
    fn output(&self, leaving: Leaving) -> PlanResult<RecordBatch> {
        let mut accumulators = self.spec.accumulators()?;
        let groups: Vec<usize> = (0..leaving.rows).collect();
        accumulators.merge(&leaving.states, &groups, leaving.rows, &self.widths)?;
        let mut keys = leaving.keys.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.spec.schema.fields().len());
        for index in 0..self.spec.groups.len() {
            match self.spec.event_key {
                Some(EventKey::Window(window_index, window)) if window_index == index => {
                    columns.push(window_array(leaving.table, window.size_us, leaving.rows));
                }
                _ => columns.extend(keys.next()),
            }
        }
        columns.extend(keys);
        columns.extend(accumulators.evaluate()?);
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.spec.schema),
            columns,
            &datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(leaving.rows)),
        )?)
    }
}
