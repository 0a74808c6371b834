//! Makes Avro's unions of several types columns, for which a column has no type of its own.
//!
//! A union becomes what Spark makes of it, a STRUCT of `member0`, `member1`, … of which one is set; or, where another
//! type is wanted, each of its types becomes that one. A union of one type and null is no business of this file:
//! arrow-avro takes it for a column that may be NULL.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, StructArray, UnionArray, new_null_array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::interleave;
use datafusion::arrow::datatypes::{DataType, Field, Fields, UnionFields};

use super::conform::{Conformed, Misfits, conform};
use crate::error::{Error, Result};

/// Returns the name of the member for the `number`-th type that is not null.
pub(super) fn member(number: usize) -> String {
    format!("member{number}")
}

/// Makes `union` a column of `field`'s type.
///
/// # Errors
/// As [`conform`].
pub(super) fn conform_union(union: &UnionArray, field: &Field) -> Result<Conformed> {
    let DataType::Union(types, _) = union.data_type() else {
        return Err(Error::internal(format!("a union has the type {}", union.data_type())));
    };
    match field.data_type() {
        DataType::Struct(members) if are_members(types, members) => as_members(union, types, members),
        _ => as_one(union, types, field),
    }
}

fn valued(types: &UnionFields) -> impl Iterator<Item = (i8, &Field)> {
    types.iter().filter(|(_, field)| !field.data_type().is_null()).map(|(id, field)| (id, field.as_ref()))
}

fn are_members(types: &UnionFields, members: &Fields) -> bool {
    members.len() == valued(types).count()
        && members.iter().enumerate().all(|(number, field)| field.name().eq_ignore_ascii_case(&member(number)))
}

fn as_members(union: &UnionArray, types: &UnionFields, members: &Fields) -> Result<Conformed> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(members.len());
    let mut misfits = Misfits::new();
    let mut is_set = vec![false; union.len()];
    for ((id, _), field) in valued(types).zip(members) {
        let values = conform(union.child(id), field)?;
        let nothing = new_null_array(field.data_type(), 1);
        let mut places = vec![(1, 0); union.len()];
        for row in (0..union.len()).filter(|row| union.type_id(*row) == id) {
            let offset = union.value_offset(row);
            is_set[row] = true;
            places[row] = (0, offset);
            if let Some(misfit) = values.misfits.get(&offset) {
                misfits.insert(row, misfit.clone().within(field.name()));
            }
        }
        columns.push(interleave(&[values.array.as_ref(), nothing.as_ref()], &places)?);
    }
    let nulls = NullBuffer::from(is_set);
    let array = StructArray::try_new_with_length(members.clone(), columns, Some(nulls), union.len())?;
    Ok(Conformed { array: Arc::new(array), misfits })
}

fn as_one(union: &UnionArray, types: &UnionFields, field: &Field) -> Result<Conformed> {
    let ids: Vec<i8> = types.iter().map(|(id, _)| id).collect();
    let parts = ids.iter().map(|id| conform(union.child(*id), field)).collect::<Result<Vec<_>>>()?;
    let place = |row| {
        let id = union.type_id(row);
        (ids.iter().position(|known| *known == id).unwrap_or_default(), union.value_offset(row))
    };
    let places: Vec<(usize, usize)> = (0..union.len()).map(place).collect();
    let arrays: Vec<&dyn Array> = parts.iter().map(|part| part.array.as_ref()).collect();
    let array = interleave(&arrays, &places)?;
    let misfit = |(row, (part, offset)): (usize, &(usize, usize))| {
        parts[*part].misfits.get(offset).map(|misfit| (row, misfit.clone()))
    };
    let misfits = places.iter().enumerate().filter_map(misfit).collect();
    Ok(Conformed { array, misfits })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int32Array, NullArray, StringArray, new_empty_array};
    use datafusion::arrow::util::display::array_value_to_string;

    use super::*;

    /// 7, NULL, "12", "x", 8
    fn union() -> ArrayRef {
        let types = UnionFields::try_new(
            [0, 1, 2],
            [
                Field::new("null", DataType::Null, true),
                Field::new("int", DataType::Int32, false),
                Field::new("string", DataType::Utf8, false),
            ],
        );
        let children: Vec<ArrayRef> = vec![
            Arc::new(NullArray::new(1)),
            Arc::new(Int32Array::from(vec![7, 8])),
            Arc::new(StringArray::from(vec!["12", "x"])),
        ];
        let ids = vec![1_i8, 0, 2, 2, 1].into();
        let offsets = vec![0_i32, 0, 0, 1, 1].into();
        Arc::new(UnionArray::try_new(types.unwrap(), ids, Some(offsets), children).unwrap())
    }

    fn shown(array: &ArrayRef) -> Vec<String> {
        let value = |at| match array.is_null(at) {
            true => "NULL".to_string(),
            false => array_value_to_string(array, at).unwrap(),
        };
        (0..array.len()).map(value).collect()
    }

    #[test]
    fn each_type_becomes_the_one_that_is_wanted() {
        let text = conform(&union(), &Field::new("c", DataType::Utf8, true)).unwrap();
        assert_eq!(shown(&text.array), ["7", "NULL", "12", "x", "8"]);
        assert!(text.misfits.is_empty());
        let long = conform(&union(), &Field::new("c", DataType::Int64, true)).unwrap();
        assert_eq!(shown(&long.array), ["7", "NULL", "12", "NULL", "8"]);
        assert_eq!(long.misfits.keys().copied().collect::<Vec<_>>(), [3]);
        assert!(conform(&union(), &Field::new("c", DataType::Date32, true)).is_ok());
        assert!(conform(&union(), &Field::new("c", DataType::Struct(Fields::empty()), true)).is_err());
    }

    #[test]
    fn members_are_set_one_a_row() {
        let members: Fields =
            vec![Field::new("member0", DataType::Int64, true), Field::new("member1", DataType::Utf8, true)].into();
        let wanted = Field::new("c", DataType::Struct(members), true);
        let conformed = conform(&union(), &wanted).unwrap();
        let expected = [
            "{member0: 7, member1: }",
            "NULL",
            "{member0: , member1: 12}",
            "{member0: , member1: x}",
            "{member0: 8, member1: }",
        ];
        assert_eq!(shown(&conformed.array), expected);
        let none = conform(&new_empty_array(union().data_type()), &wanted).unwrap();
        assert_eq!(none.array.data_type(), wanted.data_type());
    }
}
