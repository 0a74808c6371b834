//! One lane's part of one batch: the keys it is about, and the calls of the application's functions, in their order.
//!
//! Initial state first, in the first batch; then each key's rows; then the timers that are due. Then what the functions
//! changed goes into the stores. Nothing here waits: an instance is made, called and closed in one go.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::UserStateOperator;
use super::entries::{Entries, Variable};
use super::handle::{StateHandle, TIMERS};
use super::processor::{ProcessorContext, StatefulProcessor, TimeMode, Timers};
use super::scope::{GroupKey, Scope};
use super::transform::{InitialState, Transform};
use crate::error::{Error, Result, panic_words};
use crate::operator::batch_context::BatchContext;
use crate::operator::event_time::EventTime;
use crate::operator::exchange::{KeyedRows, concat_all, take_all};
use crate::operator::stateful::LaneCounts;
use crate::state::{KeyedEntries, LaneState, key_groups, lane_of};

/// One lane's part of a batch, not yet run.
pub(super) struct LaneBatch<'a> {
    pub(super) transform: &'a Transform,
    pub(super) operator: &'a UserStateOperator,
    pub(super) batch: &'a BatchContext,
    pub(super) lane: usize,
    /// The input's columns.
    pub(super) input: &'a SchemaRef,
}

impl LaneBatch<'_> {
    /// Runs it over the rows that `came`; the stores have changed, and are not yet durable, when it returns.
    pub(super) fn run(self, state: &mut LaneState, came: Vec<KeyedRows>) -> Result<(Vec<RecordBatch>, LaneCounts)> {
        let clock = &self.batch.clock;
        let started_ms = clock.now_ms();
        let mut stores = self.transform.take_stores(&self.operator.key_fields, state)?;
        let (work, scope) = self.gather(came, &mut stores)?;
        let mut calls = Calls::begin(&self, scope)?;
        let mut counts = LaneCounts::default();
        for (variable, store) in calls.variables.iter().zip(stores) {
            counts.removed += variable.attach(store)?;
        }
        calls.run(&work)?;
        let updated_ms = clock.now_ms();
        for (index, variable) in calls.variables.iter().enumerate() {
            let (mut store, written) = variable.detach()?;
            counts.updated += written.updated;
            counts.removed += written.removed;
            // By event time only timers expire.
            if self.transform.time_mode == TimeMode::EventTime {
                counts.oldest_us = counts.oldest_us.or(store.first_expiry());
            }
            *state.store::<KeyedEntries>(index)? = store;
        }
        counts.at_ms = [started_ms, updated_ms, clock.now_ms()];
        let given = match calls.given.as_slice() {
            [] => Vec::new(),
            given => vec![concat_batches(&self.operator.schema, given)?],
        };
        Ok((given, counts))
    }

    /// Numbers the keys that the batch is about: those of the initial state, of rows, of timers that are due.
    fn gather(&self, came: Vec<KeyedRows>, stores: &mut [KeyedEntries]) -> Result<(Work, Rc<Scope>)> {
        let mut keys = Keys::new(&self.operator.key_fields)?;
        let initial = match &self.transform.initial {
            Some(initial) if self.batch.batch_id == 0 => {
                let (rows, of_lane) = self.own(initial)?;
                RowsByKey::of(rows, keys.number(&of_lane)?)?
            }
            _ => RowsByKey::default(),
        };
        let input = match came.is_empty() {
            true => RowsByKey::default(),
            false => {
                let rows = concat_batches(self.input, came.iter().map(|c| &c.rows))?;
                RowsByKey::of(rows, keys.number(&concat_all(came.iter().map(|c| c.keys.as_slice()))?)?)?
            }
        };
        let mut due = self.due(stores, &mut keys)?;
        due.sort_unstable();
        let (keys, count) = keys.finish()?;
        let scope = Scope {
            fields: self.operator.key_fields.clone(),
            keys,
            count,
            batch_id: self.batch.batch_id,
            timestamp_ms: self.batch.timestamp_ms,
            watermark_us: self.batch.watermarks[self.operator.operator].eviction_us,
            ..Scope::default()
        };
        Ok((Work { initial, input, due }, Rc::new(scope)))
    }

    /// The rows of the initial state whose keys this lane owns.
    fn own(&self, initial: &InitialState) -> Result<(RecordBatch, Vec<ArrayRef>)> {
        let lanes = self.batch.state.lanes;
        let groups = key_groups(&initial.keys, initial.rows.num_rows())?;
        let own = groups.into_iter().enumerate().filter(|(_, group)| lane_of(*group, lanes) == self.lane);
        let own: UInt32Array = own.map(|(row, _)| Some(row as u32)).collect();
        Ok((take_record_batch(&initial.rows, &own)?, take_all(&initial.keys, &own)?))
    }

    /// The timers that are due: time in milliseconds, number of the key.
    fn due(&self, stores: &mut [KeyedEntries], keys: &mut Keys) -> Result<Vec<(i64, usize)>> {
        let until_us = match self.transform.time_mode {
            TimeMode::None => None,
            TimeMode::ProcessingTime => Some(self.batch.timestamp_ms.saturating_mul(1000)),
            TimeMode::EventTime => self.batch.watermarks[self.operator.operator].eviction_us,
        };
        let (Some(until_us), Some(timers)) = (until_us, stores.last_mut()) else {
            return Ok(Vec::new());
        };
        let due = timers.expired(until_us);
        let (mut owners, _) = timers.rows(&due)?;
        let Some(times) = owners.pop() else {
            return Ok(Vec::new());
        };
        let times: &Int64Array = times.as_primitive();
        Ok(times.values().iter().copied().zip(keys.number(&owners)?).collect())
    }
}

/// What there is to do.
struct Work {
    initial: RowsByKey,
    input: RowsByKey,
    due: Vec<(i64, usize)>,
}

/// Numbers keys in the order in which they are met.
struct Keys {
    index: Box<dyn GroupValues>,
}

impl Keys {
    fn new(fields: &[FieldRef]) -> Result<Self> {
        let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
        let schema = Arc::new(Schema::new(fields.iter().map(nullable).collect::<Vec<Field>>()));
        Ok(Self { index: new_group_values(schema, &GroupOrdering::None)? })
    }

    fn number(&mut self, keys: &[ArrayRef]) -> Result<Vec<usize>> {
        let mut numbers = Vec::new();
        self.index.intern(keys, &mut numbers)?;
        Ok(numbers)
    }

    fn finish(mut self) -> Result<(Vec<ArrayRef>, usize)> {
        match self.index.len() {
            // An index that never saw a key cannot say of which type they would be.
            0 => Ok((Vec::new(), 0)),
            count => Ok((self.index.emit(EmitTo::All)?, count)),
        }
    }
}

/// Rows in the order of their keys' numbers, those of a key in order of arrival.
#[derive(Default)]
struct RowsByKey {
    /// (key, its rows)
    of: Vec<(usize, RecordBatch)>,
}

impl RowsByKey {
    fn of(rows: RecordBatch, numbers: Vec<usize>) -> Result<Self> {
        let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
        // It keeps the order of equals.
        order.sort_by_key(|row| numbers[*row as usize]);
        let rows = match numbers.is_sorted() {
            true => rows,
            false => take_record_batch(&rows, &UInt32Array::from(order.clone()))?,
        };
        let (mut of, mut start) = (Vec::new(), 0);
        for same in order.chunk_by(|a, b| numbers[*a as usize] == numbers[*b as usize]) {
            of.push((numbers[same[0] as usize], rows.slice(start, same.len())));
            start += same.len();
        }
        Ok(Self { of })
    }
}

/// An instance of the processor while it is called.
struct Calls<'a> {
    lane: &'a LaneBatch<'a>,
    scope: Rc<Scope>,
    processor: Box<dyn StatefulProcessor>,
    context: ProcessorContext,
    timers: Option<Timers>,
    /// The variables in the order of their stores, timers last.
    variables: Vec<Rc<dyn Variable>>,
    /// The rows that functions gave.
    given: Vec<RecordBatch>,
}

impl<'a> Calls<'a> {
    fn begin(lane: &'a LaneBatch<'a>, scope: Rc<Scope>) -> Result<Self> {
        let transform = lane.transform;
        let mut handle = StateHandle::new(transform.time_mode, Rc::clone(&scope));
        let processor = guarded(|| {
            let mut processor = (transform.factory)();
            processor.init(&mut handle)?;
            Ok(processor)
        });
        let processor = processor.map_err(|e| e.context(transform.called(lane.operator.operator)))?;
        if handle.specs != transform.variables {
            return Err(Error::invalid_query(format!(
                "{}: init() declared other state variables than when the query was planned; it must declare the same always",
                transform.called(lane.operator.operator)
            )));
        }
        let mut variables = handle.variables;
        let timers = (transform.time_mode != TimeMode::None)
            .then(|| Rc::new(RefCell::new(Entries::<i64, ()>::new(TIMERS, true, None, Rc::clone(&scope)))));
        if let Some(timers) = &timers {
            variables.push(Rc::clone(timers) as Rc<dyn Variable>);
        }
        let context =
            ProcessorContext::new(Rc::clone(&scope), transform.time_mode, timers.clone(), Arc::clone(lane.input));
        Ok(Self { lane, scope, processor, context, timers, variables, given: Vec::new() })
    }

    /// Calls the functions for all there is to do, and closes the instance.
    fn run(&mut self, work: &Work) -> Result<()> {
        for (key, rows) in &work.initial.of {
            self.call(*key, |processor, key, context| processor.handle_initial_state(key, rows, context))?;
        }
        for (key, rows) in &work.input.of {
            let given = self.call(*key, |processor, key, context| processor.handle_input_rows(key, rows, context))?;
            self.give(*key, given)?;
        }
        for (timer_ms, key) in &work.due {
            if !self.take_timer(*timer_ms, *key)? {
                continue;
            }
            let given =
                self.call(*key, |processor, key, context| processor.handle_expired_timer(key, *timer_ms, context))?;
            self.give(*key, given)?;
        }
        let processor = &mut self.processor;
        guarded(|| processor.close()).map_err(|e| e.context(self.lane.transform.called(self.lane.operator.operator)))
    }

    fn call<T>(
        &mut self,
        key: usize,
        function: impl FnOnce(&mut dyn StatefulProcessor, &GroupKey<'_>, &mut ProcessorContext) -> Result<T>,
    ) -> Result<T> {
        let scope = Rc::clone(&self.scope);
        let (processor, context) = (self.processor.as_mut(), &mut self.context);
        scope.enter(Some(key));
        let result = guarded(|| function(processor, &scope.key(key), context));
        scope.enter(None);
        result.map_err(|e| self.of_key(key, e))
    }

    fn of_key(&self, key: usize, error: Error) -> Error {
        let called = self.lane.transform.called(self.lane.operator.operator);
        error.context(format!("{called}, key ({})", self.scope.key(key)))
    }

    /// Takes a timer out that is due, unless a function has deleted it meanwhile.
    fn take_timer(&self, timer_ms: i64, key: usize) -> Result<bool> {
        let Some(timers) = &self.timers else {
            return Ok(false);
        };
        self.scope.enter(Some(key));
        let mut timers = timers.borrow_mut();
        let there = timers.all()?.contains_key(&timer_ms);
        if there {
            timers.remove(&timer_ms)?;
        }
        self.scope.enter(None);
        Ok(there)
    }

    /// Keeps rows that a function gave, if they are of the declared output.
    fn give(&mut self, key: usize, rows: Option<RecordBatch>) -> Result<()> {
        if let Some(rows) = rows.filter(|rows| rows.num_rows() > 0) {
            let rows = self.lane.conform(&rows).map_err(|e| self.of_key(key, e))?;
            self.given.push(rows);
        }
        Ok(())
    }
}

impl LaneBatch<'_> {
    fn conform(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let (declared, found) = (&self.operator.schema, rows.schema());
        let same = declared.fields().len() == found.fields().len()
            && declared
                .fields()
                .iter()
                .zip(found.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type().equals_datatype(b.data_type()));
        let refused = |why: &str| {
            Error::invalid_query(format!(
                "the function gave rows with the columns ({}), the declared output is ({}){why}",
                columns(&found),
                columns(declared)
            ))
        };
        if !same {
            return Err(refused(""));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(declared), rows.columns().to_vec(), &options)
            .map_err(|e| refused(&format!(": {e}")))?;
        self.check_event_time(&rows)?;
        Ok(rows)
    }

    /// An operator further on would drop such rows as late, and nobody would hear of it.
    fn check_event_time(&self, rows: &RecordBatch) -> Result<()> {
        let late_us = self.batch.watermarks[self.operator.operator].late_us;
        let (Some(column), Some(late_us)) = (self.transform.event_time, late_us) else {
            return Ok(());
        };
        let times = EventTime::Time { after_us: 0 }.expiry(rows.column(column))?;
        let Some(old) = times.iter().position(|us| us.is_some_and(|us| us <= late_us)) else {
            return Ok(());
        };
        let watermark =
            DateTime::from_timestamp_micros(late_us).map_or_else(String::new, |t| t.naive_utc().to_string());
        Err(Error::invalid_query(format!(
            "the function gave a row whose event time {} = {} is not above the watermark {watermark}: rows older than the \
             watermark must not be given, since operators further on would drop them as late; give them a later time, or declare no \
             event time of the output",
            rows.schema().field(column).name(),
            array_value_to_string(rows.column(column), old)?
        )))
    }
}

fn columns(schema: &SchemaRef) -> String {
    let columns = schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type()));
    columns.collect::<Vec<_>>().join(", ")
}

/// Calls a function of the application; a panic becomes an error.
pub(super) fn guarded<T>(function: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|panic| {
        Err(Error::invalid_query(format!("the function panicked: {}", panic_words(panic.as_ref()))))
    })
}
