//! What an application implements to keep state of its own: Spark's StatefulProcessor.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::entries::Entries;
use super::handle::StateHandle;
use super::scope::{GroupKey, Scope};
use crate::error::{Error, Result};

/// By which time timers fire, and whether variables may have a TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeMode {
    /// There are no timers.
    #[default]
    None,
    /// Timers fire when the batch's time has reached them; a batch without data runs when one is due.
    ProcessingTime,
    /// Timers fire when the watermark has reached them. The input needs one.
    EventTime,
}

impl fmt::Display for TimeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::ProcessingTime => "processing time",
            Self::EventTime => "event time",
        })
    }
}

/// State of the application's own, by key.
///
/// In every batch each lane makes an instance and calls `init`, then `handle_input_rows` once for each key that has
/// rows, with all of them in order of arrival, then `handle_expired_timer` for each timer that is due, in the order of
/// their times, then `close`. An error, or a panic, ends the query; it names the operator and the key.
///
/// A batch that died runs again, on the state it had before: what a function does outside of state and its rows may
/// happen twice.
pub trait StatefulProcessor {
    /// Declares the state variables: always the same, whatever the instance.
    ///
    /// # Errors
    /// Whatever the handle says; it ends the query.
    fn init(&mut self, handle: &mut StateHandle) -> Result<()>;

    /// Handles the rows that a batch brings for a key; returns rows of the declared output.
    ///
    /// # Errors
    /// Any: it ends the query.
    fn handle_input_rows(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>>;

    /// Handles a timer that is due, and gone already; returns rows of the declared output.
    ///
    /// # Errors
    /// Any: it ends the query.
    fn handle_expired_timer(
        &mut self,
        _key: &GroupKey<'_>,
        _timer_ms: i64,
        _context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        Ok(None)
    }

    /// Handles the rows of the initial state that belong to a key: once, in the query's first batch, before any input.
    ///
    /// # Errors
    /// Any: it ends the query.
    fn handle_initial_state(
        &mut self,
        _key: &GroupKey<'_>,
        _rows: &RecordBatch,
        _context: &mut ProcessorContext,
    ) -> Result<()> {
        Ok(())
    }

    /// Lets go of what `init` took.
    ///
    /// # Errors
    /// Any: it ends the query.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The timers of one lane: by key and time, in milliseconds.
pub(super) type Timers = Rc<RefCell<Entries<i64, ()>>>;

/// The batch's times and the key's timers.
pub struct ProcessorContext {
    scope: Rc<Scope>,
    time_mode: TimeMode,
    timers: Option<Timers>,
    input: SchemaRef,
}

impl fmt::Debug for ProcessorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorContext").field("time_mode", &self.time_mode).finish_non_exhaustive()
    }
}

impl ProcessorContext {
    pub(super) fn new(scope: Rc<Scope>, time_mode: TimeMode, timers: Option<Timers>, input: SchemaRef) -> Self {
        Self { scope, time_mode, timers, input }
    }

    /// Returns the batch's id.
    pub fn batch_id(&self) -> i64 {
        self.scope.batch_id
    }

    /// Returns the batch's time, in milliseconds: the same in all calls of a batch, and when it runs again.
    pub fn current_processing_time_ms(&self) -> i64 {
        self.scope.timestamp_ms
    }

    /// Returns the watermark that the batch runs with, in milliseconds; zero before there is one.
    pub fn current_watermark_ms(&self) -> i64 {
        self.watermark_us().div_euclid(1000)
    }

    fn watermark_us(&self) -> i64 {
        self.scope.watermark_us.unwrap_or(0)
    }

    /// Registers a timer of the key at `timer_ms`, of event time or processing time as the time mode says. A key may have
    /// many; one at the same time is the same timer.
    ///
    /// # Errors
    /// `InvalidQuery` without a time mode, or where that time has come already: at or below the watermark, or the batch's
    /// time.
    pub fn register_timer(&mut self, timer_ms: i64) -> Result<()> {
        let (passed, what) = match self.time_mode {
            TimeMode::EventTime => (timer_ms.saturating_mul(1000) <= self.watermark_us(), "the watermark"),
            _ => (timer_ms <= self.scope.timestamp_ms, "the batch's time"),
        };
        let mut timers = self.timers()?;
        if passed {
            let now_ms = match self.time_mode {
                TimeMode::EventTime => self.current_watermark_ms(),
                _ => self.scope.timestamp_ms,
            };
            return Err(Error::invalid_query(format!(
                "a timer at {timer_ms} ms cannot be registered: that is in the past, {what} is {now_ms} ms; register one later than \
                 that, or do now what it is for"
            )));
        }
        timers.put_until(timer_ms, (), Some(timer_ms))
    }

    /// Deletes a timer of the key, if it has one at `timer_ms`.
    ///
    /// # Errors
    /// `InvalidQuery` without a time mode.
    pub fn delete_timer(&mut self, timer_ms: i64) -> Result<()> {
        self.timers()?.remove(&timer_ms)
    }

    /// Returns the times of the key's timers, ascending.
    ///
    /// # Errors
    /// `InvalidQuery` without a time mode.
    pub fn list_timers(&self) -> Result<Vec<i64>> {
        Ok(self.timers()?.all()?.keys().copied().collect())
    }

    /// Deletes all timers of the key, without looking which there are.
    pub(super) fn clear_timers(&mut self) -> Result<()> {
        match self.time_mode {
            TimeMode::None => Ok(()),
            _ => self.timers()?.clear(),
        }
    }

    /// Returns no rows, of the input's columns.
    pub(super) fn no_rows(&self) -> RecordBatch {
        RecordBatch::new_empty(Arc::clone(&self.input))
    }

    fn timers(&self) -> Result<RefMut<'_, Entries<i64, ()>>> {
        let timers = self.timers.as_ref().ok_or_else(|| {
            Error::invalid_query(
                "there are no timers without a time mode: declare TimeMode::ProcessingTime or TimeMode::EventTime",
            )
        })?;
        Ok(timers.borrow_mut())
    }
}
