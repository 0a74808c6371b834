//! State variables: a value, a list or a map for each key, declared in `init()` by a
//! [`StateHandle`](super::StateHandle).
//!
//! A variable is a handle on what belongs to the key at hand: it is kept in the processor, and names no key. What it is
//! told is durable with the batch. Until it is declared it can do nothing but say so.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use super::entries::Entries;
use super::row::StateRow;
use crate::error::{Error, Result};

type Shared<K, V> = Option<Rc<RefCell<Entries<K, V>>>>;

/// One value a key.
pub struct ValueState<T>(pub(super) Shared<(), T>);

/// Many values a key, in the order in which they were appended.
pub struct ListState<T>(pub(super) Shared<i64, T>);

/// Many values a key, each found by a key of its own. Their order is that of their keys.
pub struct MapState<K, V>(pub(super) Shared<K, V>);

fn declared<K, V>(shared: &Shared<K, V>) -> Result<RefMut<'_, Entries<K, V>>> {
    match shared {
        Some(entries) => Ok(entries.borrow_mut()),
        None => Err(Error::invalid_query(
            "a state variable was used that init() has not declared: assign it what the handle's value_state(), list_state() or \
             map_state() gives",
        )),
    }
}

impl<T: StateRow> ValueState<T> {
    /// Returns whether the key has a value.
    ///
    /// # Errors
    /// `InvalidQuery` where the variable was not declared, or no key is at hand.
    pub fn exists(&self) -> Result<bool> {
        Ok(!declared(&self.0)?.all()?.is_empty())
    }

    /// Returns the key's value, if it has one.
    ///
    /// # Errors
    /// As [`ValueState::exists`]; `CheckpointIncompatible` where what is stored does not fit the type.
    pub fn get(&self) -> Result<Option<T>> {
        Ok(declared(&self.0)?.all()?.get(&()).cloned())
    }

    /// Sets the key's value.
    ///
    /// # Errors
    /// As [`ValueState::exists`].
    pub fn update(&self, value: T) -> Result<()> {
        declared(&self.0)?.put((), value)
    }

    /// Removes the key's value.
    ///
    /// # Errors
    /// As [`ValueState::exists`].
    pub fn clear(&self) -> Result<()> {
        declared(&self.0)?.clear()
    }
}

impl<T: StateRow> ListState<T> {
    /// Returns whether the key has any element.
    ///
    /// # Errors
    /// `InvalidQuery` where the variable was not declared, or no key is at hand.
    pub fn exists(&self) -> Result<bool> {
        Ok(!declared(&self.0)?.all()?.is_empty())
    }

    /// Returns the key's elements.
    ///
    /// # Errors
    /// As [`ListState::exists`]; `CheckpointIncompatible` where what is stored does not fit the type.
    pub fn get(&self) -> Result<Vec<T>> {
        Ok(declared(&self.0)?.all()?.values().cloned().collect())
    }

    /// Replaces the key's elements.
    ///
    /// # Errors
    /// As [`ListState::exists`].
    pub fn put(&self, elements: impl IntoIterator<Item = T>) -> Result<()> {
        self.clear()?;
        self.append_list(elements)
    }

    /// Appends an element. What is there already is not read: it costs the same whatever the list's length.
    ///
    /// # Errors
    /// As [`ListState::exists`].
    pub fn append_value(&self, element: T) -> Result<()> {
        let mut entries = declared(&self.0)?;
        let position = entries.next_position();
        entries.put(position, element)
    }

    /// Appends elements.
    ///
    /// # Errors
    /// As [`ListState::exists`].
    pub fn append_list(&self, elements: impl IntoIterator<Item = T>) -> Result<()> {
        elements.into_iter().try_for_each(|element| self.append_value(element))
    }

    /// Removes all elements.
    ///
    /// # Errors
    /// As [`ListState::exists`].
    pub fn clear(&self) -> Result<()> {
        declared(&self.0)?.clear()
    }
}

impl<K: StateRow + Ord, V: StateRow> MapState<K, V> {
    /// Returns whether the key has any entry.
    ///
    /// # Errors
    /// `InvalidQuery` where the variable was not declared, or no key is at hand.
    pub fn exists(&self) -> Result<bool> {
        Ok(!declared(&self.0)?.all()?.is_empty())
    }

    /// Returns whether there is an entry with this key.
    ///
    /// # Errors
    /// As [`MapState::exists`].
    pub fn contains_key(&self, map_key: &K) -> Result<bool> {
        Ok(declared(&self.0)?.all()?.contains_key(map_key))
    }

    /// Returns the value of the entry with this key, if there is one.
    ///
    /// # Errors
    /// As [`MapState::exists`]; `CheckpointIncompatible` where what is stored does not fit the types.
    pub fn get_value(&self, map_key: &K) -> Result<Option<V>> {
        Ok(declared(&self.0)?.all()?.get(map_key).cloned())
    }

    /// Sets an entry. What is there already is not read.
    ///
    /// # Errors
    /// As [`MapState::exists`].
    pub fn update_value(&self, map_key: K, value: V) -> Result<()> {
        declared(&self.0)?.put(map_key, value)
    }

    /// Returns the entries.
    ///
    /// # Errors
    /// As [`MapState::get_value`].
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        Ok(declared(&self.0)?.all()?.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Returns the entries' keys.
    ///
    /// # Errors
    /// As [`MapState::get_value`].
    pub fn keys(&self) -> Result<Vec<K>> {
        Ok(declared(&self.0)?.all()?.keys().cloned().collect())
    }

    /// Returns the entries' values.
    ///
    /// # Errors
    /// As [`MapState::get_value`].
    pub fn values(&self) -> Result<Vec<V>> {
        Ok(declared(&self.0)?.all()?.values().cloned().collect())
    }

    /// Removes the entry with this key, if there is one.
    ///
    /// # Errors
    /// As [`MapState::exists`].
    pub fn remove_key(&self, map_key: &K) -> Result<()> {
        declared(&self.0)?.remove(map_key)
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// As [`MapState::exists`].
    pub fn clear(&self) -> Result<()> {
        declared(&self.0)?.clear()
    }
}

impl<T> Default for ValueState<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for ListState<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K, V> Default for MapState<K, V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> fmt::Debug for ValueState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ValueState")
    }
}

impl<T> fmt::Debug for ListState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListState")
    }
}

impl<K, V> fmt::Debug for MapState<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MapState")
    }
}
