//! One version of a store as rows, of all lanes, and what changed from one version to another.
//!
//! Versions are compared as they stand, row by row: it does not matter which of them was written as a snapshot, nor in
//! how many lanes, and what a batch wrote without changing it is no change.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, UInt32Array, new_null_array};
use datafusion::arrow::compute::{concat, concat_batches, take};
use datafusion::arrow::row::{Row, RowConverter, Rows, SortField};

use super::shape::{StateShape, StoreKind};
use super::tables::Tables;
use crate::error::Result;

/// The rows of a store in one version.
#[derive(Debug, Clone)]
pub struct StoredRows {
    shape: StateShape,
    lanes: Vec<i32>,
    /// As a snapshot has them.
    rows: RecordBatch,
}

/// Rows of state as a reader sees them.
#[derive(Debug, Clone)]
pub struct StateRows {
    /// The lane of each.
    pub lanes: Int32Array,
    /// Their keys, structs.
    pub keys: ArrayRef,
    /// Their values, structs.
    pub values: ArrayRef,
}

/// What became of rows from one version to another.
#[derive(Debug, Clone)]
pub struct StateChanges {
    /// What became of each: `update` or `delete` where a key has one row; `append`, `matched` or `expire` where rows are
    /// buffered.
    pub kinds: Vec<&'static str>,
    /// The rows as they are now. A deleted key has no value; an expired row is as it was.
    pub rows: StateRows,
}

impl StoredRows {
    /// Makes the rows of a store that holds none.
    pub fn none(shape: StateShape) -> Self {
        let rows = RecordBatch::new_empty(Arc::clone(shape.tables().change_schema()));
        Self { shape, lanes: Vec::new(), rows }
    }

    /// Collects the rows of a store's tables, lane by lane.
    ///
    /// # Errors
    /// As [`Tables::snapshot`].
    pub fn of<'a>(shape: StateShape, lanes: impl Iterator<Item = &'a dyn Tables>) -> Result<Self> {
        let mut all = Self::none(shape);
        let mut batches = Vec::new();
        for (lane, tables) in lanes.enumerate() {
            if let Some(rows) = tables.snapshot()? {
                all.lanes.extend(std::iter::repeat_n(lane as i32, rows.num_rows()));
                batches.push(rows);
            }
        }
        all.rows = concat_batches(&all.rows.schema(), &batches)?;
        Ok(all)
    }

    /// Returns the rows as a reader sees them.
    ///
    /// # Errors
    /// As [`StateShape::split`].
    pub fn shown(&self) -> Result<StateRows> {
        let (keys, values) = self.shape.split(&self.rows)?;
        Ok(StateRows { lanes: Int32Array::from(self.lanes.clone()), keys, values })
    }

    /// Returns what changed since `before`, an earlier version of the same store: first what is new or other now, then
    /// what is gone, each in the order of its rows.
    ///
    /// # Errors
    /// `DataInvalid` where a column's type cannot be compared.
    pub fn changes_since(&self, before: &StoredRows) -> Result<StateChanges> {
        let Difference { new, gone } = self.difference(before)?;
        let (new_kind, other_kind, gone_kind) = match self.shape.kind() {
            StoreKind::Keyed { .. } => ("update", "update", "delete"),
            StoreKind::Buffered => ("append", "matched", "expire"),
        };
        let kinds = new.iter().map(|(_, other)| if *other { other_kind } else { new_kind });
        let kinds = kinds.chain(gone.iter().map(|_| gone_kind)).collect();

        let new: Vec<usize> = new.into_iter().map(|(row, _)| row).collect();
        let (now, then) = (self.shown()?, before.shown()?);
        let gone_values = match self.shape.kind() {
            StoreKind::Keyed { .. } => new_null_array(now.values.data_type(), gone.len()),
            StoreKind::Buffered => pick(&then.values, &gone)?,
        };
        let lanes = new.iter().map(|row| self.lanes[*row]).chain(gone.iter().map(|row| before.lanes[*row]));
        let rows = StateRows {
            lanes: lanes.collect::<Vec<_>>().into(),
            keys: concat(&[pick(&now.keys, &new)?.as_ref(), pick(&then.keys, &gone)?.as_ref()])?,
            values: concat(&[pick(&now.values, &new)?.as_ref(), gone_values.as_ref()])?,
        };
        Ok(StateChanges { kinds, rows })
    }

    fn difference(&self, before: &StoredRows) -> Result<Difference> {
        let (now, then) = (encoded(&self.shape.content(&self.rows))?, encoded(&before.shape.content(&before.rows))?);
        // Buffered rows may be equal to each other: each stands for one.
        let mut unchanged = by_content(&then, 0..then.num_rows());
        let fresh: Vec<usize> = (0..now.num_rows()).filter(|row| !taken(&mut unchanged, now.row(*row))).collect();
        let left: Vec<usize> = rest(unchanged);

        let (now, then) = (encoded(&self.shape.identity(&self.rows))?, encoded(&before.shape.identity(&before.rows))?);
        let mut known = by_content(&then, left.into_iter());
        let new = fresh.into_iter().map(|row| (row, taken(&mut known, now.row(row)))).collect();
        Ok(Difference { new, gone: rest(known) })
    }
}

/// Which rows two versions do not share.
struct Difference {
    /// Rows of the later one, and whether the earlier one has the row in another form.
    new: Vec<(usize, bool)>,
    /// Rows of the earlier one that the later one has in no form.
    gone: Vec<usize>,
}

/// Brings columns into bytes that are equal where rows are. There is always one column at least.
fn encoded(columns: &[ArrayRef]) -> Result<Rows> {
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    Ok(RowConverter::new(fields)?.convert_columns(columns)?)
}

fn by_content(rows: &Rows, numbers: impl DoubleEndedIterator<Item = usize>) -> HashMap<Row<'_>, Vec<usize>> {
    let mut found: HashMap<Row<'_>, Vec<usize>> = HashMap::new();
    // the first of equal rows is taken first
    for number in numbers.rev() {
        found.entry(rows.row(number)).or_default().push(number);
    }
    found
}

/// Takes one of the rows that are equal to `row`, where there is one.
fn taken<'a>(rows: &mut HashMap<Row<'a>, Vec<usize>>, row: Row<'a>) -> bool {
    rows.get_mut(&row).and_then(Vec::pop).is_some()
}

fn rest(rows: HashMap<Row<'_>, Vec<usize>>) -> Vec<usize> {
    let mut numbers: Vec<usize> = rows.into_values().flatten().collect();
    numbers.sort_unstable();
    numbers
}

fn pick(column: &ArrayRef, rows: &[usize]) -> Result<ArrayRef> {
    Ok(take(column, &rows.iter().map(|row| *row as u32).collect::<UInt32Array>(), None)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, BooleanArray, Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};

    use super::*;
    use crate::state::{KeyedTables, RowBuffer};

    fn field(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    fn stored(tables: &[&dyn Tables]) -> StoredRows {
        let shape = StateShape::of(tables[0].change_schema(), "f").unwrap();
        StoredRows::of(shape, tables.iter().copied()).unwrap()
    }

    fn put(tables: &mut KeyedTables, table: i64, rows: &[(&str, i64)]) {
        let keys: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))];
        let values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)))];
        let groups = tables.intern(table, &keys, rows.len()).unwrap();
        tables.put(table, &groups, keys, values).unwrap();
    }

    /// Each change with lane, the key's last column and the value's first.
    fn told(changes: &StateChanges) -> Vec<(&'static str, i32, String, Option<i64>)> {
        let StateRows { lanes, keys, values } = &changes.rows;
        let keys = keys.as_struct();
        let names = keys.column(keys.num_columns() - 1).as_string::<i32>();
        let tell = |row: usize| {
            let number = values.as_struct().column(0).as_primitive::<Int64Type>().value(row);
            let value = values.is_valid(row).then_some(number);
            (changes.kinds[row], lanes.value(row), names.value(row).to_string(), value)
        };
        (0..lanes.len()).map(tell).collect()
    }

    #[test]
    fn keyed_rows_are_updated_and_deleted() {
        let make = || {
            let values = [field("n", DataType::Int64)];
            KeyedTables::new(&[field("k", DataType::Utf8)], &values).of_windows(10)
        };
        let (mut first, mut second) = (make(), make());
        put(&mut first, 0, &[("a", 1), ("b", 2)]);
        put(&mut second, 10, &[("a", 3)]);
        let before = stored(&[&first, &second]);
        assert_eq!(told(&before.changes_since(&StoredRows::none(before.shape.clone())).unwrap()).len(), 3);

        put(&mut first, 0, &[("a", 5), ("b", 2)]);
        second.drop_table(10);
        put(&mut second, 20, &[("a", 3)]);
        let after = stored(&[&first, &second]);
        let name = |k: &str| k.to_string();
        let expected =
            [("update", 0, name("a"), Some(5)), ("update", 1, name("a"), Some(3)), ("delete", 1, name("a"), None)];
        assert_eq!(told(&after.changes_since(&before).unwrap()), expected);
        assert!(told(&after.changes_since(&after).unwrap()).is_empty());

        // the same rows in one lane
        let mut joined = make();
        put(&mut joined, 20, &[("a", 3)]);
        put(&mut joined, 0, &[("b", 2), ("a", 5)]);
        assert!(told(&stored(&[&joined]).changes_since(&after).unwrap()).is_empty());
    }

    #[test]
    fn buffered_rows_come_match_and_go() {
        let mut buffer = RowBuffer::new(&[field("k", DataType::Utf8)], &[field("v", DataType::Int64)]);
        let append = |buffer: &mut RowBuffer, values: &[i64]| {
            let keys: ArrayRef = Arc::new(StringArray::from(vec!["a"; values.len()]));
            let expiry: Int64Array = values.iter().map(|v| Some(*v)).collect();
            let matched = BooleanArray::from(vec![false; values.len()]);
            buffer.append(vec![keys], vec![Arc::new(Int64Array::from(values.to_vec()))], &expiry, &matched).unwrap();
        };
        append(&mut buffer, &[1, 2, 4]);
        let before = stored(&[&buffer]);
        append(&mut buffer, &[3, 4]);
        buffer.set_matched([1]);
        buffer.expire(1);
        let changes = told(&stored(&[&buffer]).changes_since(&before).unwrap());
        let kinds: Vec<_> = changes.into_iter().map(|change| (change.0, change.3)).collect();
        assert_eq!(kinds, [("matched", Some(2)), ("append", Some(3)), ("append", Some(4)), ("expire", Some(1))]);
    }
}
