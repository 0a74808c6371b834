//! What the columns of a state file say of its rows, for readers that know nothing of the query that wrote it.
//!
//! Names tell it: `key0:carrier` is the first column of the key and was called carrier. So whoever holds the files can
//! show what a query remembers as rows of a key and a value.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StructArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit, TimestampMicrosecondType};

use super::keyed_tables::{self, KeyedTables, WINDOW_KEY};
use super::row_buffer::{self, RowBuffer};
use super::tables::Tables;
use crate::error::{Error, Result};

const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// How the rows of a store look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateShape {
    kind: StoreKind,
    keys: Vec<FieldRef>,
    values: Vec<FieldRef>,
}

/// How a store keeps rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// One row a key.
    Keyed {
        /// Where tables are windows, their length in microseconds.
        window_us: Option<i64>,
    },
    /// Many rows a key, as a join buffers them.
    Buffered,
}

impl StateShape {
    /// Reads the shape from the schema of a state file.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where it holds a kind of state that this version does not know.
    pub fn of(schema: &Schema, location: &str) -> Result<Self> {
        let unknown = || {
            Error::incompatible(format!(
                "{location} holds a kind of state that this version does not know: use the version that wrote it"
            ))
        };
        let window_us = schema.metadata().get(WINDOW_KEY).and_then(|us| us.parse().ok());
        let (kind, head) = match schema.fields().get(1).map(|field| field.name().as_str()) {
            Some("table") => (StoreKind::Keyed { window_us }, keyed_tables::HEAD),
            Some("row") => (StoreKind::Buffered, row_buffer::HEAD),
            _ => return Err(unknown()),
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for field in schema.fields().iter().skip(head) {
            let (place, name) = field.name().split_once(':').ok_or_else(unknown)?;
            let named: FieldRef = Arc::new(Field::new(name, field.data_type().clone(), true));
            if place.starts_with("key") { keys.push(named) } else { values.push(named) }
        }
        Ok(Self { kind, keys, values })
    }

    /// Returns how rows are kept.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// Returns the type of keys: a struct, which begins with `window` where tables are windows.
    pub fn key_type(&self) -> DataType {
        DataType::Struct(self.key_fields())
    }

    /// Returns the type of values: a struct, which ends with `matched` and `expires` where rows are buffered.
    pub fn value_type(&self) -> DataType {
        DataType::Struct(self.value_fields())
    }

    /// Makes the empty tables that files of this shape are read into.
    pub fn tables(&self) -> Box<dyn Tables> {
        match self.kind {
            StoreKind::Keyed { .. } => Box::new(KeyedTables::new(&self.keys, &self.values)),
            StoreKind::Buffered => Box::new(RowBuffer::new(&self.keys, &self.values)),
        }
    }

    /// Takes the rows of a snapshot apart into keys and values.
    ///
    /// # Errors
    /// `DataInvalid` where the rows are not of this shape.
    pub fn split(&self, rows: &RecordBatch) -> Result<(ArrayRef, ArrayRef)> {
        let columns = &rows.columns()[self.head()..];
        let (keys, values) = columns.split_at(self.keys.len());
        let (mut keys, mut values) = (keys.to_vec(), values.to_vec());
        match self.kind {
            StoreKind::Keyed { window_us: Some(us) } => keys.insert(0, windows(rows.column(1).as_primitive(), us)?),
            StoreKind::Keyed { window_us: None } => {}
            StoreKind::Buffered => {
                let expires: &Int64Array = rows.column(2).as_primitive();
                values.push(Arc::clone(rows.column(3)));
                values.push(Arc::new(expires.reinterpret_cast::<TimestampMicrosecondType>()));
            }
        }
        let together = |fields: Fields, columns: Vec<ArrayRef>| -> Result<ArrayRef> {
            Ok(Arc::new(StructArray::try_new_with_length(fields, columns, None, rows.num_rows())?))
        };
        Ok((together(self.key_fields(), keys)?, together(self.value_fields(), values)?))
    }

    /// Returns the columns by which a row of a snapshot is the same row in another version: of a keyed one where its key
    /// lies, of a buffered one all but whether it has found a partner, since its number is its lane's own affair.
    pub(super) fn identity(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        let columns = rows.columns();
        match self.kind {
            StoreKind::Keyed { .. } => columns[1..self.head() + self.keys.len()].to_vec(),
            StoreKind::Buffered => columns[2..3].iter().chain(&columns[self.head()..]).cloned().collect(),
        }
    }

    /// Returns the columns by which a row of a snapshot is unchanged in another version.
    pub(super) fn content(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        match self.kind {
            StoreKind::Keyed { .. } => rows.columns()[1..].to_vec(),
            StoreKind::Buffered => rows.columns()[2..].to_vec(),
        }
    }

    fn head(&self) -> usize {
        match self.kind {
            StoreKind::Keyed { .. } => keyed_tables::HEAD,
            StoreKind::Buffered => row_buffer::HEAD,
        }
    }

    fn key_fields(&self) -> Fields {
        let of_windows = matches!(self.kind, StoreKind::Keyed { window_us: Some(_) });
        let window = of_windows.then(|| own_field("window", DataType::Struct(window_fields()), &self.keys));
        window.into_iter().chain(self.keys.iter().cloned()).collect()
    }

    fn value_fields(&self) -> Fields {
        let own = match self.kind {
            StoreKind::Keyed { .. } => Vec::new(),
            StoreKind::Buffered => {
                vec![own_field("matched", DataType::Boolean, &self.values), own_field("expires", TIME, &self.values)]
            }
        };
        self.values.iter().cloned().chain(own).collect()
    }
}

/// A field of ours beside the query's, whose names go first.
fn own_field(name: &str, data_type: DataType, others: &[FieldRef]) -> FieldRef {
    let mut free = name.to_string();
    while others.iter().any(|field| *field.name() == free) {
        free.push('_');
    }
    Arc::new(Field::new(free, data_type, true))
}

fn window_fields() -> Fields {
    Fields::from(vec![Field::new("start", TIME, true), Field::new("end", TIME, true)])
}

fn windows(starts: &Int64Array, length_us: i64) -> Result<ArrayRef> {
    let ends: TimestampMicrosecondArray = starts.unary(|start: i64| start.saturating_add(length_us));
    let starts = starts.reinterpret_cast::<TimestampMicrosecondType>();
    Ok(Arc::new(StructArray::try_new(window_fields(), vec![Arc::new(starts), Arc::new(ends)], None)?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, BooleanArray, StringArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    fn field(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    fn names(data_type: &DataType) -> Vec<&str> {
        let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
        fields.iter().map(|field| field.name().as_str()).collect()
    }

    #[test]
    fn a_window_is_the_first_part_of_its_keys() {
        let key = field("k", DataType::Utf8);
        let mut tables = KeyedTables::new(&[key], &[field("count[a:b]", DataType::Int64)]).of_windows(10);
        let shape = StateShape::of(tables.change_schema(), "f").unwrap();
        assert_eq!(names(&shape.key_type()), ["window", "k"]);
        assert_eq!(names(&shape.value_type()), ["count[a:b]"]);

        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["x"]))];
        let groups = tables.intern(20, &keys, 1).unwrap();
        tables.put(20, &groups, keys, vec![Arc::new(Int64Array::from(vec![7]))]).unwrap();
        let (keys, values) = shape.split(&tables.snapshot().unwrap().unwrap()).unwrap();
        assert_eq!((keys.data_type(), values.data_type()), (&shape.key_type(), &shape.value_type()));
        let window = keys.as_struct().column(0).as_struct();
        let times: Vec<i64> =
            window.columns().iter().map(|c| c.as_primitive::<TimestampMicrosecondType>().value(0)).collect();
        assert_eq!(times, [20, 30]);
        assert_eq!(values.as_struct().column(0).as_primitive::<Int64Type>().values(), &[7]);
    }

    #[test]
    fn state_without_a_key_has_a_key_of_nothing() {
        let mut tables = KeyedTables::new(&[], &[field("rows", DataType::Int64)]);
        let shape = StateShape::of(tables.change_schema(), "f").unwrap();
        let groups = tables.intern(0, &[], 1).unwrap();
        tables.put(0, &groups, Vec::new(), vec![Arc::new(Int64Array::from(vec![7]))]).unwrap();
        let (keys, values) = shape.split(&tables.snapshot().unwrap().unwrap()).unwrap();
        assert_eq!((keys.len(), keys.as_struct().num_columns(), values.len()), (1, 0, 1));
    }

    #[test]
    fn a_buffered_row_tells_whether_it_matched_and_when_it_expires() {
        let values = [field("v", DataType::Int64), field("matched", DataType::Int64)];
        let mut buffer = RowBuffer::new(&[field("k", DataType::Utf8)], &values);
        let shape = StateShape::of(buffer.change_schema(), "f").unwrap();
        assert_eq!(names(&shape.value_type()), ["v", "matched", "matched_", "expires"]);
        let number = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["x"]))];
        let expiry = Int64Array::from(vec![Some(5)]);
        buffer.append(keys, vec![number(1), number(2)], &expiry, &BooleanArray::from(vec![true])).unwrap();
        let (_, values) = shape.split(&buffer.snapshot().unwrap().unwrap()).unwrap();
        let values = values.as_struct();
        assert_eq!(values.column(1).as_primitive::<Int64Type>().values(), &[2]);
        assert!(values.column(2).as_boolean().value(0));
        assert_eq!(values.column(3).as_primitive::<TimestampMicrosecondType>().value(0), 5);
    }

    #[test]
    fn other_kinds_of_state_are_refused() {
        let schema = Schema::new(vec![Field::new("change", DataType::UInt8, false)]);
        let error = StateShape::of(&schema, "c/state/0/0/1-1.delta").unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::CheckpointIncompatible);
        assert!(error.message().contains("1-1.delta"), "{error}");
    }
}
