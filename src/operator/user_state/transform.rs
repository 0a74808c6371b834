//! A processor, declared: what the engine must know of it before the first row, and how its lanes run.

use std::any::type_name;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::Result as PlanResult;
use serde_json::{Map, Value, json};

use super::handle::{StateHandle, VariableSpec};
use super::lane::{LaneBatch, guarded};
use super::processor::{StatefulProcessor, TimeMode};
use super::scope::Scope;
use super::{UserProcessor, UserStateOperator};
use crate::error::{Error, Result};
use crate::operator::exchange::{KeyedRows, deal_rows};
use crate::operator::stateful::LaneWork;
use crate::sink::OutputMode;
use crate::state::{KeyedEntries, LaneState, NamedTables};

/// Makes the instances of a processor.
pub(super) type Factory = Arc<dyn Fn() -> Box<dyn StatefulProcessor> + Send + Sync>;

/// Declares a [`StatefulProcessor`] for `transform_with_state`.
pub struct TransformWithState {
    name: String,
    method: Method,
    output: SchemaRef,
    time_mode: TimeMode,
    factory: Factory,
    event_time: Option<String>,
    initial_state: Vec<RecordBatch>,
}

/// By which of Spark's operators it was declared, which decides what is allowed and when it hears of late rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    TransformWithState,
    MapGroups,
    /// With the output mode it was declared for.
    FlatMapGroups(OutputMode),
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::TransformWithState => "transform_with_state",
            Self::MapGroups => "map_groups_with_state",
            Self::FlatMapGroups(_) => "flat_map_groups_with_state",
        }
    }
}

impl fmt::Debug for TransformWithState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransformWithState").field("name", &self.name).finish_non_exhaustive()
    }
}

impl TransformWithState {
    /// Declares a processor whose rows are of `output`. `factory` makes an instance for each lane and batch.
    pub fn new<P, F>(output: SchemaRef, time_mode: TimeMode, factory: F) -> Self
    where
        P: StatefulProcessor + 'static,
        F: Fn() -> P + Send + Sync + 'static,
    {
        let whole = type_name::<P>();
        let plain = whole.split('<').next().unwrap_or(whole);
        let name = plain.rsplit("::").next().unwrap_or(plain).to_string();
        let factory: Factory = Arc::new(move || -> Box<dyn StatefulProcessor> { Box::new(factory()) });
        Self::of_method(Method::TransformWithState, name, output, time_mode, factory)
    }

    pub(super) fn of_method(
        method: Method,
        name: String,
        output: SchemaRef,
        time_mode: TimeMode,
        factory: Factory,
    ) -> Self {
        Self { name, method, output, time_mode, factory, event_time: None, initial_state: Vec::new() }
    }

    /// Names the processor; else its type's name is its own. The checkpoint keeps the name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_string();
        self
    }

    /// Says that `column` of the output is an event time, so that stateful operators may come after: rows at or below the
    /// watermark may not be given then.
    #[must_use]
    pub fn output_event_time(mut self, column: &str) -> Self {
        self.event_time = Some(column.to_string());
        self
    }

    /// Gives the rows that `handle_initial_state` gets in the query's first batch: from a DataFrame that is not a stream,
    /// those of its `collect()`. They have the keys' columns, under the keys' names.
    #[must_use]
    pub fn initial_state(mut self, rows: Vec<RecordBatch>) -> Self {
        self.initial_state = rows;
        self
    }

    /// Returns by which method it was declared, for messages.
    pub fn method_name(&self) -> &'static str {
        self.method.name()
    }

    /// Learns what the processor keeps, and checks all that can be checked before the query is planned.
    ///
    /// # Errors
    /// `InvalidQuery` where `init` of an instance fails, the output's event time is no TIMESTAMP of it, or the initial
    /// state lacks a key.
    pub fn declare(self, keys: &[FieldRef]) -> Result<DeclaredTransform> {
        let event_time = self.event_time.as_ref().map(|column| event_time_index(&self.output, column)).transpose()?;
        let initial = InitialState::of(&self.initial_state, keys)?;
        let variables = variables_of(&self.factory, self.time_mode)
            .map_err(|e| e.context(format!("{} '{}'", self.method.name(), self.name)))?;
        let transform = Transform {
            name: self.name.clone(),
            method: self.method,
            time_mode: self.time_mode,
            factory: self.factory,
            variables,
            event_time,
            initial,
        };
        Ok(DeclaredTransform { name: self.name, processor: Arc::new(transform), output: self.output, event_time })
    }
}

/// A processor that a plan can hold.
#[derive(Debug)]
pub struct DeclaredTransform {
    /// Its name.
    pub name: String,
    /// What the engine asks.
    pub processor: Arc<dyn UserProcessor>,
    /// What it gives.
    pub output: SchemaRef,
    /// Which column of the output is an event time.
    pub event_time: Option<usize>,
}

fn event_time_index(output: &SchemaRef, column: &str) -> Result<usize> {
    let Some((index, field)) = output.column_with_name(column) else {
        return Err(Error::invalid_query(format!("the output has no column '{column}' that could be its event time")));
    };
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        return Err(Error::invalid_query(format!(
            "the output's event time '{column}' must be a TIMESTAMP, it is {}",
            field.data_type()
        )));
    }
    Ok(index)
}

/// Asks an instance what it declares.
fn variables_of(factory: &Factory, time_mode: TimeMode) -> Result<Vec<VariableSpec>> {
    let mut handle = StateHandle::new(time_mode, Rc::new(Scope::default()));
    guarded(|| {
        let mut processor = factory();
        processor.init(&mut handle)?;
        processor.close()
    })?;
    Ok(handle.specs)
}

/// The rows that state begins with.
pub(super) struct InitialState {
    pub(super) rows: RecordBatch,
    pub(super) keys: Vec<ArrayRef>,
}

impl InitialState {
    fn of(batches: &[RecordBatch], keys: &[FieldRef]) -> Result<Option<Self>> {
        let Some(first) = batches.first() else {
            return Ok(None);
        };
        let rows = concat_batches(&first.schema(), batches)?;
        let key = |field: &FieldRef| match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => Err(Error::invalid_query(format!(
                "the key {} of the initial state is {}, that of the stream {}: cast it",
                field.name(),
                column.data_type(),
                field.data_type()
            ))),
            None => Err(Error::invalid_query(format!("the initial state has no column for the key {}", field.name()))),
        };
        let keys = keys.iter().map(key).collect::<Result<_>>()?;
        Ok(Some(Self { rows, keys }))
    }
}

/// A processor, as the operator runs it.
pub(super) struct Transform {
    pub(super) name: String,
    method: Method,
    pub(super) time_mode: TimeMode,
    pub(super) factory: Factory,
    pub(super) variables: Vec<VariableSpec>,
    pub(super) event_time: Option<usize>,
    pub(super) initial: Option<InitialState>,
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Transform {
    /// Returns what it is called in messages.
    pub(super) fn called(&self, operator: usize) -> String {
        format!("{} '{}' (operator {operator})", self.method.name(), self.name)
    }

    /// Returns what its stores keep, in their order: the variables, then the timers.
    fn kept(&self) -> Vec<VariableSpec> {
        let timers = (self.time_mode != TimeMode::None).then(VariableSpec::timers);
        self.variables.iter().cloned().chain(timers).collect()
    }

    /// Takes the stores out of a lane, so that variables can own them for a batch.
    pub(super) fn take_stores(&self, keys: &[FieldRef], state: &mut LaneState) -> Result<Vec<KeyedEntries>> {
        let mut stores = Vec::new();
        for (index, kept) in self.kept().iter().enumerate() {
            stores.push(std::mem::replace(state.store::<KeyedEntries>(index)?, kept.empty(keys, self.time_mode)));
        }
        Ok(stores)
    }

    fn check_mode(&self, mode: OutputMode) -> Result<()> {
        let method = self.method.name();
        let refused = match self.method {
            Method::TransformWithState if mode == OutputMode::Complete => {
                format!("{method} is not supported in complete mode: use append or update mode")
            }
            Method::MapGroups if mode != OutputMode::Update => {
                format!("{method} is supported in update mode only, and the query runs in {mode} mode")
            }
            Method::FlatMapGroups(OutputMode::Complete) => {
                format!("{method} is not supported in complete mode: declare it for append or update mode")
            }
            Method::FlatMapGroups(own) if own != mode => {
                format!(
                    "{method} was declared for {own} mode, and the query runs in {mode} mode: both must be the same"
                )
            }
            _ => return Ok(()),
        };
        Err(Error::unsupported(refused))
    }
}

#[async_trait]
impl UserProcessor for Transform {
    fn fingerprint(&self) -> Map<String, Value> {
        let variable = |spec: &VariableSpec| (format!("state variable {}", spec.name), json!(spec.to_string()));
        let variables = self.variables.iter().map(variable);
        std::iter::once(("time mode".to_string(), json!(self.time_mode.to_string()))).chain(variables).collect()
    }

    fn progress_name(&self) -> &'static str {
        match self.method {
            Method::TransformWithState => "transformWithStateExec",
            Method::MapGroups | Method::FlatMapGroups(_) => "flatMapGroupsWithState",
        }
    }

    fn check(&self, mode: OutputMode, watermarked: bool) -> Result<()> {
        self.check_mode(mode)?;
        if watermarked {
            return Ok(());
        }
        if self.time_mode == TimeMode::EventTime {
            return Err(Error::unsupported(format!(
                "{} '{}' goes by event time, and its input has none: define one with with_watermark() on a column that reaches it, \
                 or go by processing time",
                self.method.name(),
                self.name
            )));
        }
        if self.event_time.is_some() {
            return Err(Error::unsupported(format!(
                "{} '{}' declares an event time of its output, and its input has none: define one with with_watermark() on a column \
                 that reaches it",
                self.method.name(),
                self.name
            )));
        }
        Ok(())
    }

    /// As in Spark: a function over groups that has no timeout by event time sees late rows too.
    fn drops_late_rows(&self) -> bool {
        self.method == Method::TransformWithState || self.time_mode == TimeMode::EventTime
    }

    fn wants_no_data(&self) -> bool {
        self.time_mode == TimeMode::EventTime
    }

    fn ends_chains(&self) -> bool {
        self.time_mode == TimeMode::EventTime
    }

    fn stores(&self, keys: &[FieldRef]) -> PlanResult<Vec<NamedTables>> {
        let store = |kept: VariableSpec| NamedTables::new(kept.name.clone(), kept.empty(keys, self.time_mode));
        Ok(self.kept().into_iter().map(store).collect())
    }

    async fn run(&self, operator: &UserStateOperator, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        let LaneWork { batch, mut inputs, context, lane } = work;
        let (id, input) = (operator.operator, inputs.swap_remove(0));
        let input_schema = input.schema();
        let (keys, late) = (operator.keys.clone(), operator.judge_late(&batch));
        let dealt = batch.share(id, 0, || deal_rows(id, input, keys, late, Arc::clone(&batch), context)).await?;
        let came = dealt.take(lane);
        let mut state = batch.open_lane(id, lane, KeyedRows::weight(&came)).await?;
        let work = LaneBatch { transform: self, operator, batch: &batch, lane, input: &input_schema };
        let (given, counts) = work.run(&mut state, came)?;
        batch.commit_lane(id, lane, state, counts).await?;
        Ok(given)
    }
}
