//! One state variable in one lane's part of a batch: its store, what was read of it, and what changed.
//!
//! A variable holds entries, each found by the group's key and a sub-key: none for a value, a position for lists, the map's
//! key for maps, a time for timers. The store is read once, for all keys of the batch, and only if somebody asks; what
//! changes is kept apart, typed, and becomes one chunk of columns at the end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, UInt32Array};
use datafusion::common::HashSet;

use super::row::StateRow;
use super::scope::Scope;
use crate::error::{Error, Result};
use crate::operator::exchange::take_all;
use crate::state::KeyedEntries;

/// What writing a variable did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    /// Entries set.
    pub(super) updated: usize,
    /// Entries removed.
    pub(super) removed: usize,
}

/// A variable of any type, as the lane's run handles it.
pub(super) trait Variable {
    /// Gives it its store for the batch, without what has outlived its TTL; returns how many entries had.
    fn attach(&self, store: KeyedEntries) -> Result<usize>;

    /// Writes what changed into the store and gives it back.
    fn detach(&self) -> Result<(KeyedEntries, Written)>;
}

/// The entries of a variable with sub-keys `K` and values `V`.
pub(super) struct Entries<K, V> {
    name: String,
    /// Whether the store's last value column tells when an entry expires.
    expires: bool,
    ttl_ms: Option<i64>,
    scope: Rc<Scope>,
    store: Option<KeyedEntries>,
    stored: Option<Stored>,
    /// The entries of the key at hand as they are now, once somebody has asked.
    view: Option<(usize, BTreeMap<K, V>)>,
    /// key → its changes
    changed: BTreeMap<usize, Changes<K, V>>,
    appended: i64,
}

/// The entries of all keys of the batch as the store has them: key i's are the rows `starts[i]..starts[i + 1]`.
struct Stored {
    starts: Vec<usize>,
    sub_keys: Vec<ArrayRef>,
    values: Vec<ArrayRef>,
}

struct Changes<K, V> {
    /// Whether what the store has is gone.
    cleared: bool,
    /// What was set, with its expiry in microseconds, or removed.
    entries: BTreeMap<K, Option<(V, Option<i64>)>>,
}

impl<K, V> Changes<K, V> {
    fn none() -> Self {
        Self { cleared: false, entries: BTreeMap::new() }
    }
}

impl<K: StateRow + Ord, V: StateRow> Entries<K, V> {
    /// Makes a variable without a store: it can be used once it is attached to one.
    pub(super) fn new(name: &str, expires: bool, ttl_ms: Option<i64>, scope: Rc<Scope>) -> Self {
        Self {
            name: name.to_string(),
            expires,
            ttl_ms,
            scope,
            store: None,
            stored: None,
            view: None,
            changed: BTreeMap::new(),
            appended: 0,
        }
    }

    /// Returns the entries of the key at hand.
    pub(super) fn all(&mut self) -> Result<&BTreeMap<K, V>> {
        let key = self.scope.current()?;
        let view = match self.view.take() {
            Some((of, view)) if of == key => view,
            _ => self.view_of(key)?,
        };
        let (_, view) = self.view.insert((key, view));
        Ok(view)
    }

    /// Sets an entry of the key at hand; it lives as long as the TTL says, if there is one.
    pub(super) fn put(&mut self, sub_key: K, value: V) -> Result<()> {
        let expiry_ms = self.ttl_ms.map(|ttl| self.scope.timestamp_ms.saturating_add(ttl));
        self.put_until(sub_key, value, expiry_ms)
    }

    /// Sets an entry of the key at hand that expires at a time of its own.
    pub(super) fn put_until(&mut self, sub_key: K, value: V, expiry_ms: Option<i64>) -> Result<()> {
        let key = self.scope.current()?;
        if let Some((of, view)) = &mut self.view
            && *of == key
        {
            view.insert(sub_key.clone(), value.clone());
        }
        let expiry_us = expiry_ms.map(|ms| ms.saturating_mul(1000));
        self.changes(key).entries.insert(sub_key, Some((value, expiry_us)));
        Ok(())
    }

    /// Removes an entry of the key at hand.
    pub(super) fn remove(&mut self, sub_key: &K) -> Result<()> {
        let key = self.scope.current()?;
        if let Some((of, view)) = &mut self.view
            && *of == key
        {
            view.remove(sub_key);
        }
        self.changes(key).entries.insert(sub_key.clone(), None);
        Ok(())
    }

    /// Removes all entries of the key at hand.
    pub(super) fn clear(&mut self) -> Result<()> {
        let key = self.scope.current()?;
        self.view = Some((key, BTreeMap::new()));
        let changes = self.changes(key);
        changes.cleared = true;
        changes.entries.clear();
        Ok(())
    }

    /// Returns a number above all it gave before, in this batch and earlier ones: where a list's next element goes.
    pub(super) fn next_position(&mut self) -> i64 {
        self.appended += 1;
        (self.scope.batch_id << 32) + self.appended
    }

    fn changes(&mut self, key: usize) -> &mut Changes<K, V> {
        self.changed.entry(key).or_insert_with(Changes::none)
    }

    fn view_of(&mut self, key: usize) -> Result<BTreeMap<K, V>> {
        let mut view = BTreeMap::new();
        if !self.changed.get(&key).is_some_and(|changes| changes.cleared) {
            self.read()?;
            let Some(stored) = &self.stored else {
                return Err(Error::internal("state that was read is gone"));
            };
            for row in stored.starts[key]..stored.starts[key + 1] {
                let (sub_key, value) = (K::row(&stored.sub_keys, row), V::row(&stored.values, row));
                let (Some(sub_key), Some(value)) = (sub_key, value) else {
                    return Err(Error::incompatible(format!(
                        "the state variable '{}' holds NULL where its type has no place for it: make it an Option again",
                        self.name
                    )));
                };
                view.insert(sub_key, value);
            }
        }
        for (sub_key, change) in self.changed.get(&key).into_iter().flat_map(|changes| &changes.entries) {
            match change {
                Some((value, _)) => view.insert(sub_key.clone(), value.clone()),
                None => view.remove(sub_key),
            };
        }
        Ok(view)
    }

    /// Reads the entries of all keys of the batch, if that was not done.
    fn read(&mut self) -> Result<()> {
        if self.stored.is_some() {
            return Ok(());
        }
        let scope = Rc::clone(&self.scope);
        let store = self.store.as_mut().ok_or_else(|| no_store(&self.name))?;
        let (of, numbers) = store.of(&scope.keys, scope.count)?;
        let (mut keys, values) = store.rows(&numbers)?;
        let sub_keys = keys.split_off(scope.keys.len().min(keys.len()));
        let mut starts = vec![0; scope.count + 1];
        of.iter().for_each(|key| starts[key + 1] += 1);
        (0..scope.count).for_each(|key| starts[key + 1] += starts[key]);
        self.stored = Some(Stored { starts, sub_keys, values });
        Ok(())
    }

    /// Writes what changed; what was put and removed again is not there to be removed.
    fn write(&mut self) -> Result<(KeyedEntries, Written)> {
        let mut store = self.store.take().ok_or_else(|| no_store(&self.name))?;
        let changed = std::mem::take(&mut self.changed);
        (self.stored, self.view) = (None, None);
        let mut gone = self.gone(&mut store, &changed)?;
        let put: Vec<(u32, &K, &V, Option<i64>)> = changed
            .iter()
            .flat_map(|(key, changes)| {
                changes.entries.iter().map(move |(sub_key, change)| (*key as u32, sub_key, change))
            })
            .filter_map(|(key, sub_key, change)| change.as_ref().map(|(value, us)| (key, sub_key, value, *us)))
            .collect();
        if !put.is_empty() {
            let keys = self.whole_keys(&put.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>())?;
            let mut values = V::columns(&put.iter().map(|p| p.2).collect::<Vec<_>>());
            if self.expires {
                values.push(Arc::new(put.iter().map(|p| p.3).collect::<Int64Array>()));
            }
            let kept: HashSet<usize> = store.put(keys, values, put.len())?.into_iter().collect();
            gone.retain(|number| !kept.contains(number));
        }
        store.remove(&gone)?;
        Ok((store, Written { updated: put.len(), removed: gone.len() }))
    }

    /// The entries that were removed, alone or with all of their key.
    fn gone(&self, store: &mut KeyedEntries, changed: &BTreeMap<usize, Changes<K, V>>) -> Result<Vec<usize>> {
        let mut gone = Vec::new();
        let cleared: Vec<u32> = changed.iter().filter(|(_, c)| c.cleared).map(|(key, _)| *key as u32).collect();
        if !cleared.is_empty() {
            let count = cleared.len();
            gone = store.of(&take_all(&self.scope.keys, &UInt32Array::from(cleared))?, count)?.1;
        }
        let mut removed: Vec<(u32, &K)> = Vec::new();
        for (key, changes) in changed.iter().filter(|(_, c)| !c.cleared) {
            let sub_keys = changes.entries.iter().filter(|(_, change)| change.is_none());
            removed.extend(sub_keys.map(|(sub_key, _)| (*key as u32, sub_key)));
        }
        if !removed.is_empty() {
            gone.extend(store.find(&self.whole_keys(&removed)?, removed.len())?);
        }
        Ok(gone)
    }

    fn whole_keys(&self, entries: &[(u32, &K)]) -> Result<Vec<ArrayRef>> {
        let numbers: UInt32Array = entries.iter().map(|(key, _)| Some(*key)).collect();
        let mut keys = take_all(&self.scope.keys, &numbers)?;
        keys.extend(K::columns(&entries.iter().map(|(_, sub_key)| *sub_key).collect::<Vec<_>>()));
        Ok(keys)
    }
}

fn no_store(name: &str) -> Error {
    Error::internal(format!("the state variable '{name}' has no store"))
}

impl<K: StateRow + Ord, V: StateRow> Variable for RefCell<Entries<K, V>> {
    fn attach(&self, mut store: KeyedEntries) -> Result<usize> {
        let mut entries = self.borrow_mut();
        let mut outlived = Vec::new();
        if entries.ttl_ms.is_some() {
            outlived = store.expired(entries.scope.timestamp_ms.saturating_mul(1000));
            store.remove(&outlived)?;
        }
        entries.store = Some(store);
        Ok(outlived.len())
    }

    fn detach(&self) -> Result<(KeyedEntries, Written)> {
        self.borrow_mut().write()
    }
}
