//! Where a processor declares its state: called once for each instance, and once to learn what the query keeps.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};

use super::entries::{Entries, Variable};
use super::processor::TimeMode;
use super::row::StateRow;
use super::scope::Scope;
use super::variable::{ListState, MapState, ValueState};
use crate::error::{Error, Result};
use crate::state::KeyedEntries;

/// The name of the store of timers.
pub(super) const TIMERS: &str = "timers";
/// The column that tells when an entry expires.
const EXPIRES: &str = "expires";

/// How long what a variable is told stays there: counted in processing time from when it was told last, an element of a
/// list and an entry of a map each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlConfig(Option<Duration>);

impl TtlConfig {
    /// For ever.
    pub const NONE: Self = Self(None);

    /// For `ttl`, to the millisecond.
    pub fn new(ttl: Duration) -> Self {
        Self(Some(ttl))
    }
}

/// What a variable is for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VariableKind {
    Value,
    List,
    Map,
    Timers,
}

impl fmt::Display for VariableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "value",
            Self::List => "list",
            Self::Map => "map",
            Self::Timers => TIMERS,
        })
    }
}

/// A variable as it was declared: what its store keeps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VariableSpec {
    pub(super) name: String,
    kind: VariableKind,
    sub_keys: Vec<Field>,
    values: Vec<Field>,
    expires: bool,
}

impl VariableSpec {
    /// The variable that timers are kept in.
    pub(super) fn timers() -> Self {
        let sub_keys = vec![Field::new("timer_ms", DataType::Int64, false)];
        Self { name: TIMERS.to_string(), kind: VariableKind::Timers, sub_keys, values: Vec::new(), expires: true }
    }

    /// Makes its empty store, for keys with these fields.
    pub(super) fn empty(&self, keys: &[FieldRef], time_mode: TimeMode) -> KeyedEntries {
        let shared = |fields: &[Field]| -> Vec<FieldRef> { fields.iter().cloned().map(Arc::new).collect() };
        let mut values = shared(&self.values);
        if !self.expires {
            return KeyedEntries::new(keys, &shared(&self.sub_keys), &values);
        }
        values.push(Arc::new(Field::new(EXPIRES, DataType::Int64, true)));
        let store = KeyedEntries::new(keys, &shared(&self.sub_keys), &values).expiring_by(self.values.len());
        match (self.kind, time_mode) {
            (VariableKind::Timers, TimeMode::ProcessingTime) => store.waking(),
            _ => store,
        }
    }
}

impl fmt::Display for VariableSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |fields: &[Field]| {
            let one =
                |f: &Field| format!("{}: {}{}", f.name(), f.data_type(), if f.is_nullable() { " or NULL" } else { "" });
            fields.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        write!(f, "{} of ({})", self.kind, list(&self.values))?;
        if self.kind == VariableKind::Map {
            write!(f, " by ({})", list(&self.sub_keys))?;
        }
        f.write_str(if self.expires { ", with a TTL" } else { "" })
    }
}

/// Declares the state variables of a processor. `init()` gets one, for each instance anew.
pub struct StateHandle {
    time_mode: TimeMode,
    scope: Rc<Scope>,
    pub(super) specs: Vec<VariableSpec>,
    pub(super) variables: Vec<Rc<dyn Variable>>,
}

impl fmt::Debug for StateHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateHandle").field("variables", &self.specs).finish_non_exhaustive()
    }
}

impl StateHandle {
    pub(super) fn new(time_mode: TimeMode, scope: Rc<Scope>) -> Self {
        Self { time_mode, scope, specs: Vec::new(), variables: Vec::new() }
    }

    /// Returns the time mode that the processor was declared with.
    pub fn time_mode(&self) -> TimeMode {
        self.time_mode
    }

    /// Declares a value a key. The variable's name is part of the checkpoint, its type may not change.
    ///
    /// # Errors
    /// `InvalidQuery` where the name is taken or no name for a file, or a TTL is given without
    /// [`TimeMode::ProcessingTime`].
    pub fn value_state<T: StateRow>(&mut self, name: &str, ttl: TtlConfig) -> Result<ValueState<T>> {
        Ok(ValueState(Some(self.declare(name, VariableKind::Value, Vec::new(), ttl)?)))
    }

    /// Declares a list a key.
    ///
    /// # Errors
    /// As [`StateHandle::value_state`].
    pub fn list_state<T: StateRow>(&mut self, name: &str, ttl: TtlConfig) -> Result<ListState<T>> {
        let position = vec![Field::new("position", DataType::Int64, false)];
        Ok(ListState(Some(self.declare(name, VariableKind::List, position, ttl)?)))
    }

    /// Declares a map a key.
    ///
    /// # Errors
    /// As [`StateHandle::value_state`].
    pub fn map_state<K: StateRow + Ord, V: StateRow>(&mut self, name: &str, ttl: TtlConfig) -> Result<MapState<K, V>> {
        let map_key = K::fields().into_iter().map(|field| {
            let name = format!("map.{}", field.name());
            field.with_name(name)
        });
        let map_key: Vec<Field> = map_key.collect();
        if map_key.is_empty() {
            return Err(Error::invalid_query(format!("the keys of the map state '{name}' have no columns")));
        }
        Ok(MapState(Some(self.declare(name, VariableKind::Map, map_key, ttl)?)))
    }

    fn declare<K: StateRow + Ord, V: StateRow>(
        &mut self,
        name: &str,
        kind: VariableKind,
        sub_keys: Vec<Field>,
        ttl: TtlConfig,
    ) -> Result<Rc<RefCell<Entries<K, V>>>> {
        self.check_name(name)?;
        let ttl_ms = self.ttl_ms(name, ttl)?;
        let expires = ttl_ms.is_some();
        self.specs.push(VariableSpec { name: name.to_string(), kind, sub_keys, values: V::fields(), expires });
        let entries = Rc::new(RefCell::new(Entries::new(name, expires, ttl_ms, Rc::clone(&self.scope))));
        self.variables.push(Rc::clone(&entries) as Rc<dyn Variable>);
        Ok(entries)
    }

    /// Names are parts of files' names, and some file systems do not tell upper from lower case.
    fn check_name(&self, name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::invalid_query(format!(
                "'{name}' cannot be the name of a state variable: use letters, digits, _ and -"
            )));
        }
        if name.eq_ignore_ascii_case(TIMERS) {
            return Err(Error::invalid_query(format!(
                "a state variable cannot be called '{name}': the processor's timers are kept under that name"
            )));
        }
        match self.specs.iter().find(|spec| spec.name.eq_ignore_ascii_case(name)) {
            Some(spec) => Err(Error::invalid_query(format!(
                "two state variables are called '{}': give each a name of its own, in which case makes no difference",
                spec.name
            ))),
            None => Ok(()),
        }
    }

    fn ttl_ms(&self, name: &str, ttl: TtlConfig) -> Result<Option<i64>> {
        let Some(ttl) = ttl.0 else {
            return Ok(None);
        };
        if self.time_mode != TimeMode::ProcessingTime {
            return Err(Error::invalid_query(format!(
                "the state variable '{name}' has a TTL, which is counted in processing time, and the time mode is {}: declare \
                 TimeMode::ProcessingTime, or use TtlConfig::NONE and timers",
                self.time_mode
            )));
        }
        match i64::try_from(ttl.as_millis()) {
            Ok(ms) if ms > 0 => Ok(Some(ms)),
            _ => Err(Error::invalid_query(format!(
                "the state variable '{name}' has a TTL of {ttl:?}: it must be a millisecond or more"
            ))),
        }
    }
}
