//! Aggregates over sessions: rows of one key that follow each other within a gap.
//!
//! Each row is first a session of its own, `[time, time + gap)`: that is what is late or not. Then it merges with those
//! it reaches, of this batch and of the state. A key's sessions are one row of state, with lists of starts, ends and
//! function states, so that whatever merges is found by key; the row expires with its earliest session.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, RecordBatch, StructArray, TimestampMicrosecondArray,
    UInt32Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, SchemaRef,
};
use datafusion::common::{HashMap, Result as PlanResult};
use datafusion::physical_plan::PhysicalExpr;

use super::aggregate::{AggregateSpec, Arguments};
use super::batch_context::BatchContext;
use super::event_time::{EventTime, window_fields};
use super::exchange::{JudgeLate, KeyedRows, deal_rows, take_all};
use super::stateful::{LaneCounts, LaneWork, StatefulOperator};
use crate::error::Error;
use crate::interval::{interval_us, parse_interval};
use crate::sink::OutputMode;
use crate::state::{DEFAULT_STORE, KeyedTables, NamedTables};

const TABLE: i64 = 0;
/// Value columns: when the earliest session expires, the sessions' starts and ends, then the functions' states.
const EXPIRES: usize = 0;
const STARTS: usize = 1;
const ENDS: usize = 2;
const HEAD: usize = 3;

/// Whether a session that begins at `start_us` belongs to one that so far ends at `end_us`: sessions that only touch are
/// one, as in Spark and Flink.
fn reaches(end_us: i64, start_us: i64) -> bool {
    start_us <= end_us
}

/// Whether values of a type can be the gap of a session.
pub fn is_gap(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Interval(_) | DataType::Duration(_)
    )
}

/// Returns gaps in microseconds.
///
/// # Errors
/// `InvalidQuery` where a text is no interval.
pub fn gap_us(gaps: &ArrayRef) -> PlanResult<Int64Array> {
    match gaps.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(gaps, &DataType::Utf8)?;
            let mut known: HashMap<&str, i64> = HashMap::new();
            let mut us = Vec::with_capacity(texts.len());
            for text in texts.as_string::<i32>() {
                us.push(match text {
                    None => None,
                    Some(text) => match known.get(text) {
                        Some(us) => Some(*us),
                        None => {
                            let gap = interval_us(&parse_interval(text)?)?;
                            known.insert(text, gap);
                            Some(gap)
                        }
                    },
                });
            }
            Ok(us.into())
        }
        DataType::Interval(_) => {
            let intervals = cast(gaps, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
            let us = intervals.iter().map(|gap| gap.map(|gap| interval_us(&gap)).transpose());
            Ok(us.collect::<Result<Vec<_>, Error>>()?.into())
        }
        _ => {
            let us = cast(gaps, &DataType::Duration(datafusion::arrow::datatypes::TimeUnit::Microsecond))?;
            Ok(cast(&us, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        }
    }
}

/// Aggregates sessions.
#[derive(Debug)]
pub struct SessionAggregate {
    /// Groups (the session's being its time) and functions.
    pub spec: Arc<AggregateSpec>,
    /// Which group is the session.
    pub session: usize,
    /// The gap.
    pub gap: Arc<dyn PhysicalExpr>,
    /// Whether sessions expire.
    pub watermarked: bool,
}

#[async_trait]
impl StatefulOperator for SessionAggregate {
    fn id(&self) -> usize {
        self.spec.operator
    }

    fn name(&self) -> &'static str {
        "SessionAggregateExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.spec.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        let fields = self.spec.schema.fields();
        let keys: Vec<FieldRef> = self.key_indexes().map(|i| Arc::clone(&fields[i])).collect();
        let list = |name: &str, item: DataType| -> FieldRef {
            Arc::new(Field::new_list(name, Field::new_list_field(item, true), true))
        };
        let mut values: Vec<FieldRef> = vec![Arc::new(Field::new("expires", DataType::Int64, true))];
        values.extend(["starts", "ends"].map(|name| list(name, DataType::Int64)));
        values.extend(self.spec.value_fields()?.iter().map(|f| list(f.name(), f.data_type().clone())));
        let tables = KeyedTables::new(&keys, &values).expiring_by(EXPIRES);
        Ok(vec![NamedTables::new(DEFAULT_STORE, tables)])
    }

    fn details(&self) -> String {
        let keys: Vec<String> = self.key_indexes().map(|i| self.spec.groups[i].to_string()).collect();
        let functions: Vec<&str> = self.spec.functions.iter().map(|a| a.name()).collect();
        format!(
            "keys=[{}], time={}, gap={}, functions=[{}]",
            keys.join(", "),
            self.spec.groups[self.session],
            self.gap,
            functions.join(", ")
        )
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, mut inputs, context, lane } = work;
        let input = inputs.swap_remove(0);
        let operator = self.spec.operator;
        // Complete mode drops late rows too: they could not be told from sessions that were over.
        let late = self.late(batch.watermarks[operator].late_us.filter(|_| self.watermarked));
        let keys = self.key_indexes().map(|i| Arc::clone(&self.spec.groups[i])).collect();
        let dealt =
            batch.share(operator, 0, || deal_rows(operator, input, keys, late, Arc::clone(&batch), context)).await?;
        self.run_lane(&batch, lane, KeyedRows::concat(dealt.take(lane))?).await
    }
}

/// Sessions of some keys, one behind the other.
struct Sessions {
    /// By session: the place of its key.
    places: Vec<usize>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    states: Vec<ArrayRef>,
}

impl Sessions {
    /// Reads lists of sessions; the place of a key is its row.
    fn of_lists(values: &[ArrayRef]) -> Self {
        let flat = |column: usize| {
            let lists: &ListArray = values[column].as_list();
            let offsets = lists.value_offsets();
            let first = offsets.first().map_or(0, |o| *o as usize);
            let last = offsets.last().map_or(0, |o| *o as usize);
            lists.values().slice(first, last - first)
        };
        let lists: &ListArray = values[STARTS].as_list();
        let lengths = lists.value_offsets().windows(2).map(|o| (o[1] - o[0]) as usize);
        let places = lengths.enumerate().flat_map(|(place, n)| std::iter::repeat_n(place, n)).collect();
        let times = |column: usize| flat(column).as_primitive::<Int64Type>().values().to_vec();
        let states = (HEAD..values.len()).map(flat).collect();
        Self { places, starts: times(STARTS), ends: times(ENDS), states }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// Picks sessions by their numbers.
    fn pick(&self, numbers: &[usize]) -> PlanResult<Sessions> {
        let rows: UInt32Array = numbers.iter().map(|n| *n as u32).collect::<Vec<_>>().into();
        let of = |all: &[i64]| numbers.iter().map(|n| all[*n]).collect();
        Ok(Sessions {
            places: numbers.iter().map(|n| self.places[*n]).collect(),
            starts: of(&self.starts),
            ends: of(&self.ends),
            states: take_all(&self.states, &rows)?,
        })
    }

    /// Makes the value columns of `keys` keys; sessions lie in the order of their keys' places.
    fn into_lists(self, keys: usize) -> PlanResult<Vec<ArrayRef>> {
        let mut lengths = vec![0; keys];
        let mut expires: Vec<Option<i64>> = vec![None; keys];
        for (place, end_us) in self.places.iter().zip(&self.ends) {
            lengths[*place] += 1;
            expires[*place] = expires[*place].into_iter().chain([*end_us]).min();
        }
        let list = |items: ArrayRef| -> PlanResult<ArrayRef> {
            let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths.clone()), items, None)?))
        };
        let mut values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(expires))];
        values.push(list(Arc::new(Int64Array::from(self.starts)))?);
        values.push(list(Arc::new(Int64Array::from(self.ends)))?);
        for states in self.states {
            values.push(list(states)?);
        }
        Ok(values)
    }
}

/// Rows of the batch that are sessions of their own, with what is aggregated of them.
struct NewRows {
    keys: Vec<ArrayRef>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    arguments: Arguments,
}

/// Intervals of this batch and of the state, put together where they reach each other.
struct Merged {
    /// By old session: its number among the merged.
    of_old: Vec<usize>,
    /// By new row: its number among the merged.
    of_new: Vec<usize>,
    /// How many of the merged hold an old session; their numbers come first.
    with_old: usize,
    places: Vec<usize>,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl SessionAggregate {
    fn key_indexes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.spec.groups.len()).filter(|i| *i != self.session)
    }

    /// The rows' own sessions: start and end, NULL where a row is in none.
    fn own_sessions(
        time: &Arc<dyn PhysicalExpr>,
        gap: &Arc<dyn PhysicalExpr>,
        rows: &RecordBatch,
    ) -> PlanResult<(Int64Array, Int64Array)> {
        let count = rows.num_rows();
        let starts = EventTime::Time { after_us: 0 }.expiry(&time.evaluate(rows)?.into_array(count)?)?;
        let gaps = gap_us(&gap.evaluate(rows)?.into_array(count)?)?;
        let ends = starts.iter().zip(&gaps).map(|(start, gap)| Some(start?.saturating_add(gap.filter(|us| *us > 0)?)));
        let ends = ends.collect();
        Ok((starts, ends))
    }

    fn late(&self, late_us: Option<i64>) -> Option<JudgeLate> {
        let late_us = late_us?;
        let (time, gap) = (Arc::clone(&self.spec.groups[self.session]), Arc::clone(&self.gap));
        Some(Arc::new(move |rows| {
            let (_, ends) = Self::own_sessions(&time, &gap, rows)?;
            Ok(Some(ends.iter().map(|end| Some(end.is_some_and(|us| us <= late_us))).collect()))
        }))
    }

    async fn run_lane(
        &self,
        batch: &Arc<BatchContext>,
        lane: usize,
        rows: Option<KeyedRows>,
    ) -> PlanResult<Vec<RecordBatch>> {
        let operator = self.spec.operator;
        let mut state = batch.open_lane(operator, lane, KeyedRows::weight(rows.as_slice())).await?;
        let started_ms = batch.clock.now_ms();
        let tables = state.keyed()?;
        let mut updated = 0;
        if let Some(rows) = rows {
            let new = self.new_rows(batch, rows)?;
            if !new.starts.is_empty() {
                updated = self.merge_into(tables, new)?;
            }
        }
        let updated_ms = batch.clock.now_ms();
        let watermark_us = batch.watermarks[operator].eviction_us.filter(|_| self.watermarked);
        let mut removed = 0;
        let mut out = Vec::new();
        match (batch.mode, watermark_us) {
            (OutputMode::Complete, _) => out.extend(self.everything(tables)?),
            (_, Some(watermark_us)) => {
                let (rows, gone) = self.evict(tables, watermark_us)?;
                removed = gone;
                out.extend(rows);
            }
            _ => {}
        }
        let at_ms = [started_ms, updated_ms, batch.clock.now_ms()];
        let oldest_us = tables.first_expiry(TABLE).filter(|_| self.watermarked);
        batch.commit_lane(operator, lane, state, LaneCounts { updated, removed, oldest_us, at_ms }).await?;
        Ok(out)
    }

    /// Evaluates rows, leaving out those that are in no session.
    fn new_rows(&self, batch: &BatchContext, rows: KeyedRows) -> PlanResult<NewRows> {
        let (starts, ends) = Self::own_sessions(&self.spec.groups[self.session], &self.gap, &rows.rows)?;
        batch.report().operators[self.spec.operator].rows_without_event_time += starts.null_count() as u64;
        let in_one: BooleanArray = (0..ends.len()).map(|row| Some(ends.is_valid(row))).collect();
        let KeyedRows { rows, keys } = rows.filter(&in_one)?;
        let of = |times: &Int64Array| times.iter().zip(&ends).filter_map(|(t, end)| end.and(t)).collect();
        Ok(NewRows { arguments: Arguments::of(&self.spec, &rows)?, keys, starts: of(&starts), ends: of(&ends) })
    }

    /// Merges new rows with the sessions of their keys; returns how many sessions that makes.
    fn merge_into(&self, tables: &mut KeyedTables, new: NewRows) -> PlanResult<usize> {
        let groups = tables.intern(TABLE, &new.keys, new.starts.len())?;
        // by group: its place among those that this batch touches, and the first row that came for it
        let mut place_of: HashMap<usize, (usize, u32)> = HashMap::with_capacity(groups.len());
        let mut touched = Vec::new();
        let places: Vec<usize> = groups
            .iter()
            .enumerate()
            .map(|(row, group)| {
                let entry = place_of.entry(*group).or_insert_with(|| {
                    touched.push(*group);
                    (touched.len() - 1, row as u32)
                });
                entry.0
            })
            .collect();
        let (present, values) = tables.values(TABLE, &touched)?;
        let old = (!present.is_empty()).then(|| {
            let mut old = Sessions::of_lists(&values);
            old.places.iter_mut().for_each(|place| *place = present[*place]);
            old
        });
        let merged = merge(old.as_ref(), &places, &new);
        let states = self.states(old, &merged, &new)?;
        let all = Sessions { places: merged.places, starts: merged.starts, ends: merged.ends, states };
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_unstable_by_key(|n| (all.places[*n], all.starts[*n]));
        let sessions = all.pick(&order)?;
        let count = sessions.len();
        let firsts: UInt32Array = touched.iter().map(|group| place_of[group].1).collect::<Vec<_>>().into();
        let keys = take_all(&new.keys, &firsts)?;
        tables.put(TABLE, &touched, keys, sessions.into_lists(touched.len())?)?;
        Ok(count)
    }

    /// The functions' states of the merged sessions.
    fn states(&self, old: Option<Sessions>, merged: &Merged, new: &NewRows) -> PlanResult<Vec<ArrayRef>> {
        let mut accumulators = self.spec.accumulators()?;
        // Accumulators take it that a batch names every group it is told of, so what was remembered comes first.
        if let Some(old) = old {
            accumulators.merge(&old.states, &merged.of_old, merged.with_old, &self.spec.widths()?)?;
        }
        accumulators.update(&new.arguments, &merged.of_new, merged.places.len())?;
        accumulators.state()
    }

    /// Takes out the sessions that are over, and returns their rows and how many they are.
    fn evict(&self, tables: &mut KeyedTables, watermark_us: i64) -> PlanResult<(Option<RecordBatch>, usize)> {
        let groups = tables.expired(TABLE, watermark_us);
        if groups.is_empty() {
            return Ok((None, 0));
        }
        let (keys, values) = tables.rows_of(TABLE, &groups)?;
        let sessions = Sessions::of_lists(&values);
        let (over, open): (Vec<usize>, Vec<usize>) =
            (0..sessions.len()).partition(|n| sessions.ends[*n] <= watermark_us);
        let leaving = sessions.pick(&over)?;
        let mut staying = sessions.pick(&open)?;
        let mut kept: Vec<usize> = staying.places.clone();
        kept.dedup();
        let is_kept: Vec<bool> = (0..groups.len()).map(|place| kept.binary_search(&place).is_ok()).collect();
        if !kept.is_empty() {
            for place in &mut staying.places {
                *place = kept.partition_point(|k| k < place);
            }
            let rows: UInt32Array = kept.iter().map(|place| *place as u32).collect::<Vec<_>>().into();
            let kept_groups: Vec<usize> = kept.iter().map(|place| groups[*place]).collect();
            tables.put(TABLE, &kept_groups, take_all(&keys, &rows)?, staying.into_lists(kept.len())?)?;
        }
        let gone: Vec<usize> = (0..groups.len()).filter(|place| !is_kept[*place]).map(|place| groups[place]).collect();
        tables.remove(TABLE, &gone)?;
        let count = leaving.len();
        Ok((Some(self.output(&keys, leaving)?), count))
    }

    fn everything(&self, tables: &KeyedTables) -> PlanResult<Option<RecordBatch>> {
        if tables.first_table_after(i64::MIN).is_none() {
            return Ok(None);
        }
        let (keys, values, _) = tables.scan(TABLE)?;
        self.output(&keys, Sessions::of_lists(&values)).map(Some)
    }

    /// Evaluates sessions: the groups in their order, then the functions' results.
    fn output(&self, keys: &[ArrayRef], sessions: Sessions) -> PlanResult<RecordBatch> {
        let count = sessions.len();
        let rows: UInt32Array = sessions.places.iter().map(|place| *place as u32).collect::<Vec<_>>().into();
        let mut accumulators = self.spec.accumulators()?;
        accumulators.merge(&sessions.states, &(0..count).collect::<Vec<_>>(), count, &self.spec.widths()?)?;
        let time = |us: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(us)) };
        let bounds = vec![time(sessions.starts), time(sessions.ends)];
        let mut session: Option<ArrayRef> = Some(Arc::new(StructArray::try_new(window_fields(), bounds, None)?));
        let mut keys = keys.iter();
        let mut columns = Vec::with_capacity(self.spec.schema.fields().len());
        for index in 0..self.spec.groups.len() {
            match index == self.session {
                true => columns.extend(session.take()),
                false => columns.extend(keys.next().map(|key| take(key, &rows, None)).transpose()?),
            }
        }
        columns.extend(accumulators.evaluate()?);
        Ok(RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?)
    }
}

/// Puts intervals together that reach each other, key by key.
fn merge(old: Option<&Sessions>, places: &[usize], new: &NewRows) -> Merged {
    let old_count = old.map_or(0, Sessions::len);
    // number below `old_count`: an old session; else a new row
    let interval = |n: usize| match old {
        Some(old) if n < old_count => (old.places[n], old.starts[n], old.ends[n]),
        _ => (places[n - old_count], new.starts[n - old_count], new.ends[n - old_count]),
    };
    let mut order: Vec<usize> = (0..old_count + places.len()).collect();
    order.sort_by_key(|n| {
        let (place, start, _) = interval(*n);
        (place, start)
    });
    // runs of intervals that reach each other: place, start, end, members
    let mut runs: Vec<(usize, i64, i64, Vec<usize>)> = Vec::new();
    for n in order {
        let (place, start, end) = interval(n);
        match runs.last_mut() {
            Some(run) if run.0 == place && reaches(run.2, start) => {
                run.2 = run.2.max(end);
                run.3.push(n);
            }
            _ => runs.push((place, start, end, vec![n])),
        }
    }
    let (with_old, without): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| run.3.iter().any(|n| *n < old_count));
    let mut merged = Merged {
        of_old: vec![0; old_count],
        of_new: vec![0; places.len()],
        with_old: with_old.len(),
        places: Vec::new(),
        starts: Vec::new(),
        ends: Vec::new(),
    };
    for (number, (place, start, end, members)) in with_old.into_iter().chain(without).enumerate() {
        merged.places.push(place);
        merged.starts.push(start);
        merged.ends.push(end);
        for n in members {
            match n.checked_sub(old_count) {
                Some(row) => merged.of_new[row] = number,
                None => merged.of_old[n] = number,
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringArray;

    use super::*;

    fn new(starts: &[i64], ends: &[i64]) -> NewRows {
        NewRows { keys: vec![], starts: starts.to_vec(), ends: ends.to_vec(), arguments: Arguments::default() }
    }

    #[test]
    fn a_row_joins_two_sessions_to_one() {
        let old = Sessions { places: vec![0, 0, 1], starts: vec![0, 20, 0], ends: vec![10, 30, 10], states: vec![] };
        let merged = merge(Some(&old), &[0, 2], &new(&[10, 5], &[20, 6]));
        assert_eq!((merged.of_old, merged.of_new, merged.with_old), (vec![0, 0, 1], vec![0, 2], 2));
        assert_eq!((merged.places, merged.starts, merged.ends), (vec![0, 1, 2], vec![0, 0, 5], vec![30, 10, 6]));
    }

    #[test]
    fn a_longer_session_is_not_cut_by_a_shorter_one() {
        let merged = merge(None, &[0, 0, 0], &new(&[0, 1, 50], &[100, 2, 60]));
        assert_eq!((merged.starts, merged.ends), (vec![0], vec![100]));
    }

    #[test]
    fn gaps_are_intervals_of_any_spelling() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("5 seconds"), None, Some("1 minute")]));
        assert_eq!(gap_us(&texts).unwrap(), Int64Array::from(vec![Some(5_000_000), None, Some(60_000_000)]));
        let bad: ArrayRef = Arc::new(StringArray::from(vec!["soon"]));
        assert!(gap_us(&bad).is_err());
    }
}
