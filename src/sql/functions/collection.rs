//! Functions of arrays and maps: `element_at`, `get`, `array_size`, `sort_array`.
//!
//! `element_at` counts from 1 (from the end, where negative) and refuses an index that is not there, as in Spark 4;
//! `try_element_at` and `get`, which counts from 0, give NULL.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, UInt64Array, make_comparator};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{SortOptions, cast, sort_to_indices, take};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::ReturnFieldArgs;

use super::function::{Arguments, Function, Returns, Takes, ints};
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Anything, Boolean, Long};
    let int = || Returns::Type(DataType::Int32);
    vec![
        Function::new("element_at(array or map, key)", &[Anything, Anything], 2, Returns::From(element), element_at),
        Function::new("try_element_at(array or map, key)", &[Anything, Anything], 2, Returns::From(element), |args| {
            found(args, false)
        }),
        Function::new("get(array, index)", &[Anything, Long], 2, Returns::From(element), get),
        Function::new("array_size(array)", &[Anything], 1, int(), array_size),
        Function::new("sort_array(array[, ascending])", &[Anything, Boolean], 1, Returns::From(list), sort_array),
    ]
}

fn element(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    match args.arg_fields[0].data_type() {
        DataType::List(element) => Ok(element.data_type().clone()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => Ok(fields[1].data_type().clone()),
            other => Err(Error::invalid_query(format!("{other} are no entries of a map")).into()),
        },
        other => Err(Error::invalid_query(format!("{other} has no elements; give an array or a map")).into()),
    }
}

fn list(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    match args.arg_fields[0].data_type() {
        list @ DataType::List(_) => Ok(list.clone()),
        other => Err(Error::invalid_query(format!("{other} cannot be sorted; give an array")).into()),
    }
}

fn lists(array: &ArrayRef) -> Result<&ListArray> {
    array.as_list_opt::<i32>().ok_or_else(|| Error::invalid_query(format!("{} is no array", array.data_type())).into())
}

fn element_at(args: &Arguments) -> Result<ArrayRef> {
    found(args, true)
}

fn found(args: &Arguments, strict: bool) -> Result<ArrayRef> {
    let (values, keys) = (args.array(0)?, args.array(1)?);
    if let Some(maps) = values.as_map_opt() {
        return values_of_keys(maps, &keys);
    }
    let indices = cast(&keys, &DataType::Int64)?;
    let indices = indices.as_primitive::<Int64Type>();
    pick(lists(&values)?, |row, length| {
        if indices.is_null(row) {
            return Ok(None);
        }
        let index = indices.value(row);
        if index == 0 {
            return Err(Error::data_invalid("element_at counts from 1, there is no element 0").into());
        }
        let from_start = if index > 0 { index - 1 } else { length + index };
        if strict && !(0..length).contains(&from_start) {
            let message = format!("there is no element {index} in an array of {length}; try_element_at gives NULL");
            return Err(Error::data_invalid(message).into());
        }
        Ok(Some(from_start))
    })
}

fn get(args: &Arguments) -> Result<ArrayRef> {
    let (values, indices) = (args.array(0)?, args.longs(1)?);
    pick(lists(&values)?, |row, _| Ok(indices.get(row)))
}

/// Takes one element of each list: the one that `index` names, counted from 0; NULL where it is not there.
fn pick(lists: &ListArray, mut index: impl FnMut(usize, i64) -> Result<Option<i64>>) -> Result<ArrayRef> {
    let mut picked = Vec::with_capacity(lists.len());
    for row in 0..lists.len() {
        if lists.is_null(row) {
            picked.push(None);
            continue;
        }
        let length = i64::from(lists.value_length(row));
        let index = index(row, length)?.filter(|index| (0..length).contains(index));
        let start = i64::from(lists.value_offsets()[row]);
        picked.push(index.and_then(|index| u64::try_from(start + index).ok()));
    }
    Ok(take(lists.values(), &UInt64Array::from(picked), None)?)
}

fn values_of_keys(maps: &MapArray, keys: &ArrayRef) -> Result<ArrayRef> {
    let keys = cast(keys, maps.keys().data_type())?;
    let compare = make_comparator(maps.keys(), &keys, SortOptions::default())?;
    let mut picked = Vec::with_capacity(maps.len());
    for row in 0..maps.len() {
        if maps.is_null(row) || keys.is_null(row) {
            picked.push(None);
            continue;
        }
        let (start, end) = (maps.value_offsets()[row] as usize, maps.value_offsets()[row + 1] as usize);
        picked.push((start..end).find(|entry| compare(*entry, row).is_eq()).map(|entry| entry as u64));
    }
    Ok(take(maps.values(), &UInt64Array::from(picked), None)?)
}

fn array_size(args: &Arguments) -> Result<ArrayRef> {
    let values = args.array(0)?;
    let lists = lists(&values)?;
    ints(args.rows(), |row| Ok(lists.is_valid(row).then(|| lists.value_length(row))))
}

fn sort_array(args: &Arguments) -> Result<ArrayRef> {
    let values = args.array(0)?;
    let lists = lists(&values)?;
    let ascending = if args.len() > 1 { Some(args.booleans(1)?) } else { None };
    let mut order: Vec<u64> = Vec::with_capacity(lists.values().len());
    let mut lengths = Vec::with_capacity(lists.len());
    for row in 0..lists.len() {
        if lists.is_null(row) {
            lengths.push(0);
            continue;
        }
        let ascending = ascending.as_ref().and_then(|ascending| ascending.get(row)).unwrap_or(true);
        let options = SortOptions { descending: !ascending, nulls_first: ascending };
        let indices = sort_to_indices(&lists.value(row), Some(options), None)?;
        let start = lists.value_offsets()[row] as u64;
        order.extend(indices.values().iter().map(|index| start + u64::from(*index)));
        lengths.push(indices.len());
    }
    let sorted = take(lists.values(), &UInt64Array::from(order), None)?;
    let DataType::List(field) = lists.data_type() else {
        return Err(Error::internal("a list array that is no list").into());
    };
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(Arc::clone(field), offsets, sorted, lists.nulls().cloned())?))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::DataType;
    use datafusion::common::ScalarValue;

    use super::super::tests::{call, check};

    fn list(values: &[Option<i32>]) -> ScalarValue {
        let values: Vec<ScalarValue> = values.iter().map(|value| ScalarValue::Int32(*value)).collect();
        ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Int32))
    }

    #[test]
    fn elements_are_found() {
        let long = |value| ScalarValue::Int64(Some(value));
        let numbers = || list(&[Some(3), None, Some(1)]);
        check(&[
            ("element_at", vec![numbers(), long(1)], "3"),
            ("element_at", vec![numbers(), long(-1)], "1"),
            ("element_at", vec![numbers(), long(2)], "NULL"),
            ("try_element_at", vec![numbers(), long(4)], "NULL"),
            ("get", vec![numbers(), long(0)], "3"),
            ("get", vec![numbers(), long(-1)], "NULL"),
            ("array_size", vec![numbers()], "3"),
            ("sort_array", vec![numbers()], "[, 1, 3]"),
            ("sort_array", vec![numbers(), ScalarValue::Boolean(Some(false))], "[3, 1, ]"),
        ]);
        assert!(call("element_at", &[numbers(), long(4)]).is_err());
        assert!(call("element_at", &[long(4), long(4)]).is_err());
    }
}
