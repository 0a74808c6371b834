//! What a function of the application works in: the keys that one lane's part of a batch is about, which of them it is
//! at, and the batch's two times. State variables and timers look here, so that no call names the key again.

use std::cell::Cell;
use std::fmt;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::FieldRef;
use datafusion::arrow::util::display::array_value_to_string;

use super::row::ColumnValue;
use crate::error::{Error, Result};

/// The part of one batch that one lane does.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// The keys' fields.
    pub(super) fields: Vec<FieldRef>,
    /// The keys, a row each.
    pub(super) keys: Vec<ArrayRef>,
    /// How many keys.
    pub(super) count: usize,
    /// The batch's id.
    pub(super) batch_id: i64,
    /// The batch's time.
    pub(super) timestamp_ms: i64,
    /// What the batch evicts by; `None`: nothing yet.
    pub(super) watermark_us: Option<i64>,
    /// The key that a function is called for.
    pub(super) current: Cell<Option<usize>>,
}

impl Scope {
    /// Returns the number of the key that a function is called for.
    ///
    /// # Errors
    /// `InvalidQuery` where there is none: state belongs to a key.
    pub(super) fn current(&self) -> Result<usize> {
        self.current.get().ok_or_else(|| {
            Error::invalid_query(
                "state and timers belong to a key: use them while rows, a timer or the initial state of a key are handled, \
                 not in init() or close()",
            )
        })
    }

    /// Says which key a function is called for.
    pub(super) fn enter(&self, key: Option<usize>) {
        self.current.set(key);
    }

    /// Returns a key by its number.
    pub(super) fn key(&self, number: usize) -> GroupKey<'_> {
        GroupKey { fields: &self.fields, columns: &self.keys, row: number }
    }
}

/// The key whose rows, timer or state a function is called for.
#[derive(Debug, Clone, Copy)]
pub struct GroupKey<'a> {
    fields: &'a [FieldRef],
    columns: &'a [ArrayRef],
    row: usize,
}

impl GroupKey<'_> {
    /// Returns the key's part at `index`, in the order in which the keys were given.
    ///
    /// # Errors
    /// `InvalidQuery` where there is none, it has another type, or is NULL where `T` is no `Option`.
    pub fn get<T: ColumnValue>(&self, index: usize) -> Result<T> {
        let (Some(field), Some(column)) = (self.fields.get(index), self.columns.get(index)) else {
            return Err(Error::invalid_query(format!("there is no key {index}: there are {}", self.columns.len())));
        };
        T::value(column, self.row).ok_or_else(|| {
            let null = if column.is_null(self.row) { ", and here NULL" } else { "" };
            Error::invalid_query(format!(
                "key {index} ({}) is {}{null}: it cannot be read as {}",
                field.name(),
                field.data_type(),
                std::any::type_name::<T>()
            ))
        })
    }

    /// Returns the columns in which the key's parts lie, and the row.
    pub fn columns(&self) -> (&[ArrayRef], usize) {
        (self.columns, self.row)
    }
}

impl fmt::Display for GroupKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (field, column)) in self.fields.iter().zip(self.columns).enumerate() {
            let value = match column.is_null(self.row) {
                true => "NULL".to_string(),
                false => array_value_to_string(column, self.row).unwrap_or_else(|e| e.to_string()),
            };
            write!(f, "{}{}={value}", if index > 0 { ", " } else { "" }, field.name())?;
        }
        Ok(())
    }
}
