//! One value a key and one timeout: Spark's GroupState, as a [`StatefulProcessor`] with a value and a timer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use super::handle::{StateHandle, TtlConfig};
use super::processor::{ProcessorContext, StatefulProcessor, TimeMode};
use super::row::StateRow;
use super::scope::GroupKey;
use super::transform::{Factory, Method, TransformWithState};
use super::variable::ValueState;
use crate::error::{Error, Result};
use crate::sink::OutputMode;

/// Whether and by which time groups time out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GroupStateTimeout {
    /// They do not.
    #[default]
    None,
    /// When the batch's time has passed the timeout; see [`GroupState::set_timeout_duration`].
    ProcessingTime,
    /// When the watermark has passed the timeout; see [`GroupState::set_timeout_timestamp`].
    EventTime,
}

impl From<GroupStateTimeout> for TimeMode {
    fn from(timeout: GroupStateTimeout) -> Self {
        match timeout {
            GroupStateTimeout::None => Self::None,
            GroupStateTimeout::ProcessingTime => Self::ProcessingTime,
            GroupStateTimeout::EventTime => Self::EventTime,
        }
    }
}

/// The state of the group that the function is called for.
///
/// A timeout holds until the function is called for the group again, with data or because it has timed out: who wants
/// another sets it anew.
pub struct GroupState<'a, S> {
    value: &'a ValueState<S>,
    context: &'a mut ProcessorContext,
    timeout: TimeMode,
    timed_out: bool,
}

impl<S> fmt::Debug for GroupState<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupState").field("timed_out", &self.timed_out).finish_non_exhaustive()
    }
}

impl<S: StateRow> GroupState<'_, S> {
    /// Returns whether the group has a state.
    ///
    /// # Errors
    /// As [`GroupState::get_option`].
    pub fn exists(&self) -> Result<bool> {
        self.value.exists()
    }

    /// Returns the group's state.
    ///
    /// # Errors
    /// `InvalidQuery` where there is none; as [`GroupState::get_option`].
    pub fn get(&self) -> Result<S> {
        self.get_option()?.ok_or_else(|| {
            Error::invalid_query("the group has no state, or it was removed: ask exists(), or use get_option()")
        })
    }

    /// Returns the group's state, if it has one.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where what is stored does not fit the type.
    pub fn get_option(&self) -> Result<Option<S>> {
        self.value.get()
    }

    /// Sets the group's state.
    ///
    /// # Errors
    /// None that a function could cause.
    pub fn update(&mut self, state: S) -> Result<()> {
        self.value.update(state)
    }

    /// Removes the group's state. A timeout that was set stays.
    ///
    /// # Errors
    /// None that a function could cause.
    pub fn remove(&mut self) -> Result<()> {
        self.value.clear()
    }

    /// Returns whether the function is called because the group has timed out; there are no rows then.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out
    }

    /// Has the group time out once `duration` has passed, counted from the batch's time.
    ///
    /// # Errors
    /// `InvalidQuery` where the timeout is not by processing time, or the duration is shorter than a millisecond.
    pub fn set_timeout_duration(&mut self, duration: Duration) -> Result<()> {
        if self.timeout != TimeMode::ProcessingTime {
            return Err(Error::invalid_query(
                "set_timeout_duration() needs GroupStateTimeout::ProcessingTime: declare it, or use set_timeout_timestamp() with \
                 GroupStateTimeout::EventTime",
            ));
        }
        let duration_ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        if duration_ms == 0 {
            return Err(Error::invalid_query("a group's timeout must be a millisecond or more"));
        }
        self.time_out_after(self.context.current_processing_time_ms().saturating_add(duration_ms))
    }

    /// Has the group time out once the watermark has passed `timestamp_ms`.
    ///
    /// # Errors
    /// `InvalidQuery` where the timeout is not by event time, or the watermark has passed that time already.
    pub fn set_timeout_timestamp(&mut self, timestamp_ms: i64) -> Result<()> {
        if self.timeout != TimeMode::EventTime {
            return Err(Error::invalid_query(
                "set_timeout_timestamp() needs GroupStateTimeout::EventTime: declare it, or use set_timeout_duration() with \
                 GroupStateTimeout::ProcessingTime",
            ));
        }
        let watermark_ms = self.context.current_watermark_ms();
        if timestamp_ms < watermark_ms || timestamp_ms <= 0 {
            return Err(Error::invalid_query(format!(
                "a group's timeout at {timestamp_ms} ms cannot be set: that is in the past, the watermark is {watermark_ms} ms; set \
                 one that is not earlier"
            )));
        }
        self.time_out_after(timestamp_ms)
    }

    /// Returns the watermark that the batch runs with, in milliseconds; zero before there is one.
    pub fn current_watermark_ms(&self) -> i64 {
        self.context.current_watermark_ms()
    }

    /// Returns the batch's time, in milliseconds.
    pub fn current_processing_time_ms(&self) -> i64 {
        self.context.current_processing_time_ms()
    }

    /// Timers fire when their time has come, timeouts, as in Spark, when it has passed.
    fn time_out_after(&mut self, timeout_ms: i64) -> Result<()> {
        self.context.clear_timers()?;
        self.context.register_timer(timeout_ms.saturating_add(1))
    }
}

/// Calls a function with the group's state.
struct GroupProcessor<S, F> {
    value: ValueState<S>,
    timeout: TimeMode,
    function: Arc<F>,
}

impl<S, F> GroupProcessor<S, F>
where
    S: StateRow,
    F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>,
{
    fn call(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        context: &mut ProcessorContext,
        timed_out: bool,
    ) -> Result<Option<RecordBatch>> {
        context.clear_timers()?;
        let mut state = GroupState { value: &self.value, context, timeout: self.timeout, timed_out };
        (self.function)(key, rows, &mut state)
    }
}

impl<S, F> StatefulProcessor for GroupProcessor<S, F>
where
    S: StateRow,
    F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>,
{
    fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
        self.value = handle.value_state("state", TtlConfig::NONE)?;
        Ok(())
    }

    fn handle_input_rows(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        self.call(key, rows, context, false)
    }

    fn handle_expired_timer(
        &mut self,
        key: &GroupKey<'_>,
        _timer_ms: i64,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        let no_rows = context.no_rows();
        self.call(key, &no_rows, context, true)
    }
}

impl TransformWithState {
    /// Declares a function that gives one row for a group.
    pub fn map_groups<S, F>(output: SchemaRef, timeout: GroupStateTimeout, function: F) -> Self
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        let one_row = move |key: &GroupKey<'_>,
                            rows: &RecordBatch,
                            state: &mut GroupState<'_, S>|
              -> Result<Option<RecordBatch>> {
            let row = function(key, rows, state)?;
            match row.num_rows() {
                1 => Ok(Some(row)),
                count => Err(Error::invalid_query(format!(
                    "the function of map_groups_with_state gave {count} rows, it must give one: use flat_map_groups_with_state"
                ))),
            }
        };
        Self::of_groups::<S, _>(Method::MapGroups, output, timeout, one_row)
    }

    /// Declares a function that gives any number of rows for a group, for queries in `mode`.
    pub fn flat_map_groups<S, F>(output: SchemaRef, mode: OutputMode, timeout: GroupStateTimeout, function: F) -> Self
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>
            + Send
            + Sync
            + 'static,
    {
        Self::of_groups::<S, _>(Method::FlatMapGroups(mode), output, timeout, function)
    }

    fn of_groups<S, F>(method: Method, output: SchemaRef, timeout: GroupStateTimeout, function: F) -> Self
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>
            + Send
            + Sync
            + 'static,
    {
        let function = Arc::new(function);
        let timeout = TimeMode::from(timeout);
        let factory: Factory = Arc::new(move || -> Box<dyn StatefulProcessor> {
            let value = ValueState::<S>::default();
            Box::new(GroupProcessor { value, timeout, function: Arc::clone(&function) })
        });
        // Both are one operator to Spark, and a query may change from one to the other.
        Self::of_method(method, "groups".to_string(), output, timeout, factory)
    }
}
