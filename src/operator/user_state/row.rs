//! Rust values as rows of Arrow columns: what state variables hold, so that a struct's fields are columns of the state
//! file, and the shortest way from a batch's rows to structs and back.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};

use crate::error::{Error, Result};
use crate::operator::event_time::TIME;

/// A value that is one column: `i32`, `i64`, `f64`, `bool`, `String`, [`Timestamp`], and an `Option` of these.
pub trait ColumnValue: Clone + 'static {
    /// Returns the column's type.
    fn data_type() -> DataType;

    /// Returns whether the column may hold NULL.
    fn is_nullable() -> bool {
        false
    }

    /// Makes a column; `None` is NULL.
    fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef;

    /// Reads one row; `None` where the column has another type, or NULL where the value has no place for it.
    fn value(column: &ArrayRef, row: usize) -> Option<Self>;
}

/// A value that is a row of columns: every [`ColumnValue`], tuples of up to four of them, and structs that
/// [`state_row!`](crate::state_row) declares.
pub trait StateRow: Clone + 'static {
    /// Returns the columns.
    fn fields() -> Vec<Field>;

    /// Makes the columns of some rows, in the order of [`StateRow::fields`].
    fn columns(rows: &[&Self]) -> Vec<ArrayRef>;

    /// Reads one row; `None` where a column has another type, or NULL where the value has no place for it.
    fn row(columns: &[ArrayRef], row: usize) -> Option<Self>;

    /// Returns the columns as a schema, for declaring an output.
    fn schema() -> SchemaRef {
        Arc::new(Schema::new(Self::fields()))
    }

    /// Makes a batch of rows.
    ///
    /// # Errors
    /// `Internal` where the columns are not those that the fields say.
    fn batch(rows: &[Self]) -> Result<RecordBatch> {
        let columns = Self::columns(&rows.iter().collect::<Vec<_>>());
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Self::schema(), columns, &options)
            .map_err(|e| Error::internal(format!("a row's columns are not those of its fields: {e}")))
    }

    /// Reads the rows of a batch, whose columns are found by name; others are passed over.
    ///
    /// # Errors
    /// `InvalidQuery` where a column is missing, has another type, or holds NULL where the value has no place for it.
    fn read(rows: &RecordBatch) -> Result<Vec<Self>> {
        let columns = Self::fields().iter().map(|field| named(rows, field)).collect::<Result<Vec<_>>>()?;
        let read = |row: usize| {
            Self::row(&columns, row).ok_or_else(|| {
                Error::invalid_query(format!(
                    "row {row} holds NULL where {} has no place for it: make the field an Option",
                    std::any::type_name::<Self>()
                ))
            })
        };
        (0..rows.num_rows()).map(read).collect()
    }
}

fn named(rows: &RecordBatch, field: &Field) -> Result<ArrayRef> {
    let (schema, name) = (rows.schema(), field.name());
    let Some((index, found)) = schema.column_with_name(name) else {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return Err(Error::invalid_query(format!("the rows have no column '{name}', they have {}", names.join(", "))));
    };
    if found.data_type() != field.data_type() {
        return Err(Error::invalid_query(format!(
            "column '{name}' is {}, it is to be read as {}: cast it before the rows are grouped",
            found.data_type(),
            field.data_type()
        )));
    }
    Ok(Arc::clone(rows.column(index)))
}

impl<T: ColumnValue> StateRow for T {
    fn fields() -> Vec<Field> {
        vec![Field::new("value", T::data_type(), T::is_nullable())]
    }

    fn columns(rows: &[&Self]) -> Vec<ArrayRef> {
        vec![T::column(rows.iter().map(|row| Some(*row)))]
    }

    fn row(columns: &[ArrayRef], row: usize) -> Option<Self> {
        T::value(columns.first()?, row)
    }
}

/// No columns: what a set's members or a single value's sub-key hold.
impl StateRow for () {
    fn fields() -> Vec<Field> {
        Vec::new()
    }

    fn columns(_rows: &[&Self]) -> Vec<ArrayRef> {
        Vec::new()
    }

    fn row(_columns: &[ArrayRef], _row: usize) -> Option<Self> {
        Some(())
    }
}

macro_rules! tuple_row {
    ($($value:ident $name:literal $index:tt),+) => {
        impl<$($value: ColumnValue),+> StateRow for ($($value,)+) {
            fn fields() -> Vec<Field> {
                vec![$(Field::new($name, $value::data_type(), $value::is_nullable())),+]
            }

            fn columns(rows: &[&Self]) -> Vec<ArrayRef> {
                vec![$($value::column(rows.iter().map(|row| Some(&row.$index)))),+]
            }

            fn row(columns: &[ArrayRef], row: usize) -> Option<Self> {
                Some(($($value::value(columns.get($index)?, row)?,)+))
            }
        }
    };
}

// The names are Spark's.
tuple_row!(A "_1" 0);
tuple_row!(A "_1" 0, B "_2" 1);
tuple_row!(A "_1" 0, B "_2" 1, C "_3" 2);
tuple_row!(A "_1" 0, B "_2" 1, C "_3" 2, D "_4" 3);

macro_rules! primitive_value {
    ($value:ty, $data_type:expr, $array:ty, $arrow:ty) => {
        impl ColumnValue for $value {
            fn data_type() -> DataType {
                $data_type
            }

            fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
                Arc::new(values.map(|value| value.copied()).collect::<$array>())
            }

            fn value(column: &ArrayRef, row: usize) -> Option<Self> {
                let column = column.as_primitive_opt::<$arrow>()?;
                column.is_valid(row).then(|| column.value(row))
            }
        }
    };
}

primitive_value!(i32, DataType::Int32, Int32Array, Int32Type);
primitive_value!(i64, DataType::Int64, Int64Array, Int64Type);
primitive_value!(f64, DataType::Float64, Float64Array, Float64Type);

impl ColumnValue for bool {
    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(|value| value.copied()).collect::<BooleanArray>())
    }

    fn value(column: &ArrayRef, row: usize) -> Option<Self> {
        let column = column.as_boolean_opt()?;
        column.is_valid(row).then(|| column.value(row))
    }
}

impl ColumnValue for String {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(|value| value.map(String::as_str)).collect::<StringArray>())
    }

    fn value(column: &ArrayRef, row: usize) -> Option<Self> {
        if column.is_null(row) {
            return None;
        }
        // A key may be text of any encoding.
        let plain = column.as_string_opt::<i32>().map(|c| c.value(row));
        let plain = plain.or_else(|| column.as_string_view_opt().map(|c| c.value(row)));
        plain.or_else(|| column.as_string_opt::<i64>().map(|c| c.value(row))).map(str::to_string)
    }
}

impl<T: ColumnValue> ColumnValue for Option<T> {
    fn data_type() -> DataType {
        T::data_type()
    }

    fn is_nullable() -> bool {
        true
    }

    fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        T::column(values.map(|value| value.and_then(Option::as_ref)))
    }

    fn value(column: &ArrayRef, row: usize) -> Option<Self> {
        match column.is_null(row) {
            true => Some(None),
            false => T::value(column, row).map(Some),
        }
    }
}

/// A time: a TIMESTAMP column, which is microseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes the time that lies so many milliseconds after 1970-01-01 00:00 UTC.
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// Makes the time that lies so many microseconds after 1970-01-01 00:00 UTC.
    pub fn from_us(us: i64) -> Self {
        Self(us)
    }

    /// Returns it in milliseconds, as timers take it; what is less is cut off.
    pub fn ms(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Returns it in microseconds.
    pub fn us(self) -> i64 {
        self.0
    }
}

impl ColumnValue for Timestamp {
    fn data_type() -> DataType {
        TIME
    }

    fn column<'a>(values: impl Iterator<Item = Option<&'a Self>>) -> ArrayRef {
        Arc::new(values.map(|value| value.map(|time| time.0)).collect::<TimestampMicrosecondArray>())
    }

    fn value(column: &ArrayRef, row: usize) -> Option<Self> {
        let column = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| Self(column.value(row)))
    }
}

/// Declares a struct whose fields are columns: of a state variable, of the rows that a function reads, or of those that
/// it gives. The struct must be `Clone`; every field is a [`ColumnValue`].
///
/// ```
/// use millstream::prelude::*;
///
/// state_row! {
///     #[derive(Debug, Clone, PartialEq)]
///     struct Visit {
///         count: i64,
///         last: Option<String>,
///     }
/// }
///
/// let visits = vec![Visit { count: 1, last: None }, Visit { count: 2, last: Some("home".to_string()) }];
/// let batch = Visit::batch(&visits)?;
/// assert_eq!(batch.schema(), Visit::schema());
/// assert_eq!(Visit::read(&batch)?, visits);
/// # Ok::<(), Error>(())
/// ```
#[macro_export]
macro_rules! state_row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $value:ty),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $value),+
        }

        impl $crate::operator::user_state::StateRow for $name {
            fn fields() -> ::std::vec::Vec<$crate::operator::user_state::macro_support::Field> {
                ::std::vec![$($crate::operator::user_state::macro_support::field::<$value>(stringify!($field))),+]
            }

            fn columns(rows: &[&Self]) -> ::std::vec::Vec<$crate::operator::user_state::macro_support::ArrayRef> {
                ::std::vec![$(
                    <$value as $crate::operator::user_state::ColumnValue>::column(
                        rows.iter().map(|row| ::std::option::Option::Some(&row.$field))
                    )
                ),+]
            }

            fn row(
                columns: &[$crate::operator::user_state::macro_support::ArrayRef],
                row: usize,
            ) -> ::std::option::Option<Self> {
                let mut columns = columns.iter();
                ::std::option::Option::Some(Self {
                    $($field: <$value as $crate::operator::user_state::ColumnValue>::value(columns.next()?, row)?),+
                })
            }
        }
    };
}

/// What [`state_row!`](crate::state_row) writes, by names that need no import.
#[doc(hidden)]
pub mod macro_support {
    pub use datafusion::arrow::array::ArrayRef;
    pub use datafusion::arrow::datatypes::Field;

    /// Returns the field of a value.
    pub fn field<T: super::ColumnValue>(name: &str) -> Field {
        Field::new(name, T::data_type(), T::is_nullable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    state_row! {
        /// What the tests keep.
        #[derive(Debug, Clone, PartialEq)]
        struct Visit {
            count: i64,
            /// Where it was.
            place: Option<String>,
            at: Timestamp,
            paid: bool,
        }
    }

    fn visits() -> Vec<Visit> {
        let at = Timestamp::from_ms(1_500);
        vec![
            Visit { count: 1, place: None, at, paid: true },
            Visit { count: -2, place: Some("hall".to_string()), at: Timestamp::from_us(7), paid: false },
        ]
    }

    #[test]
    fn structs_become_columns_and_come_back() {
        let batch = Visit::batch(&visits()).unwrap();
        let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["count", "place", "at", "paid"]);
        assert!(batch.schema().field(1).is_nullable() && !batch.schema().field(0).is_nullable());
        assert_eq!(batch.schema().field(2).data_type(), &TIME);
        assert_eq!(Visit::read(&batch).unwrap(), visits());
        assert_eq!(Visit::batch(&[]).unwrap().num_rows(), 0);
    }

    #[test]
    fn values_and_tuples_are_rows_too() {
        let pairs = [(1i64, "a".to_string()), (2, "b".to_string())];
        let columns = <(i64, String) as StateRow>::columns(&pairs.iter().collect::<Vec<_>>());
        assert_eq!(<(i64, String)>::fields()[1].name(), "_2");
        assert_eq!(<(i64, String) as StateRow>::row(&columns, 1), Some((2, "b".to_string())));
        let columns = <f64 as StateRow>::columns(&[&0.5]);
        assert_eq!(<f64 as StateRow>::row(&columns, 0), Some(0.5));
        assert_eq!(<i64 as StateRow>::row(&columns, 0), None, "another type");
        assert_eq!(<() as StateRow>::row(&[], 0), Some(()));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let batch = <(i64, Option<i64>)>::batch(&[(1, None)]).unwrap();
        state_row! {
            #[derive(Debug, Clone)]
            struct Narrow { _1: i64, _2: i64 }
        }
        let error = Narrow::read(&batch).unwrap_err().to_string();
        assert!(error.contains("row 0 holds NULL"), "{error}");
        let error = Visit::read(&batch).unwrap_err().to_string();
        assert!(error.contains("no column 'count', they have _1, _2"), "{error}");
    }
}
