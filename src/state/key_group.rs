//! Which key group, and so which lane, a key belongs to.
//!
//! The hash is part of the checkpoint's format: xxHash64 (seed 0) over a canonical byte form of each key column in
//! turn. It depends neither on DataFusion's version nor on how a column is encoded in memory.

use std::hash::Hasher;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use twox_hash::XxHash64;

use crate::error::Result;

/// The number of key groups: the most lanes a query can have.
pub const KEY_GROUPS: usize = 128;

/// Returns the lane that owns `key_group` among `lanes`.
pub fn lane_of(key_group: usize, lanes: usize) -> usize {
    key_group * lanes / KEY_GROUPS
}

/// Returns the lane that owns the one row of an operator without keys.
pub fn keyless_lane(lanes: usize) -> usize {
    lane_of((XxHash64::with_seed(0).finish() % KEY_GROUPS as u64) as usize, lanes)
}

/// Returns the key group of each of `rows` rows.
///
/// # Errors
/// `DataInvalid` where a nested key cannot be written as text.
pub fn key_groups(keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>> {
    let mut hashers: Vec<XxHash64> = (0..rows).map(|_| XxHash64::with_seed(0)).collect();
    for key in keys {
        hash_column(key, &mut hashers)?;
    }
    Ok(hashers.iter().map(|h| (h.finish() % KEY_GROUPS as u64) as usize).collect())
}

fn hash_column(key: &ArrayRef, hashers: &mut [XxHash64]) -> Result<()> {
    match key.data_type() {
        DataType::Boolean => {
            let values: &BooleanArray = key.as_boolean();
            each(key, hashers, |row, h| h.write_u8(u8::from(values.value(row))));
        }
        DataType::Int8 => whole::<Int8Type>(key, hashers, i64::from),
        DataType::Int16 => whole::<Int16Type>(key, hashers, i64::from),
        DataType::Int32 => whole::<Int32Type>(key, hashers, i64::from),
        DataType::Int64 => whole::<Int64Type>(key, hashers, |v| v),
        DataType::UInt8 => whole::<UInt8Type>(key, hashers, i64::from),
        DataType::UInt16 => whole::<UInt16Type>(key, hashers, i64::from),
        DataType::UInt32 => whole::<UInt32Type>(key, hashers, i64::from),
        DataType::UInt64 => whole::<UInt64Type>(key, hashers, |v| v as i64),
        DataType::Date32 => whole::<Date32Type>(key, hashers, i64::from),
        DataType::Date64 => whole::<Date64Type>(key, hashers, |v| v),
        DataType::Float32 => whole::<Float32Type>(key, hashers, |v| float_bits(f64::from(v))),
        DataType::Float64 => whole::<Float64Type>(key, hashers, float_bits),
        DataType::Decimal128(..) => {
            let values: &PrimitiveArray<Decimal128Type> = key.as_primitive();
            each(key, hashers, |row, h| h.write(&values.value(row).to_le_bytes()));
        }
        DataType::Utf8 => {
            let values = key.as_string::<i32>();
            each(key, hashers, |row, h| text(h, values.value(row).as_bytes()));
        }
        DataType::LargeUtf8 => {
            let values = key.as_string::<i64>();
            each(key, hashers, |row, h| text(h, values.value(row).as_bytes()));
        }
        DataType::Utf8View => {
            let values = key.as_string_view();
            each(key, hashers, |row, h| text(h, values.value(row).as_bytes()));
        }
        DataType::Binary => {
            let values = key.as_binary::<i32>();
            each(key, hashers, |row, h| text(h, values.value(row)));
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(key.as_ref(), &options)?;
            each(key, hashers, |row, h| text(h, formatter.value(row).to_string().as_bytes()));
        }
    }
    Ok(())
}

/// Zero has two signs and NaN many bit patterns; as keys they are one each.
fn float_bits(value: f64) -> i64 {
    let canonical = if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    };
    canonical.to_bits() as i64
}

/// The length goes first, so that ("ab", "c") and ("a", "bc") differ.
fn text(hasher: &mut XxHash64, bytes: &[u8]) {
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}

fn whole<T: ArrowPrimitiveType>(key: &ArrayRef, hashers: &mut [XxHash64], widen: impl Fn(T::Native) -> i64) {
    let values: &PrimitiveArray<T> = key.as_primitive();
    each(key, hashers, |row, h| h.write(&widen(values.value(row)).to_le_bytes()));
}

fn each(key: &ArrayRef, hashers: &mut [XxHash64], mut write: impl FnMut(usize, &mut XxHash64)) {
    for (row, hasher) in hashers.iter_mut().enumerate() {
        if key.is_null(row) {
            hasher.write(&[0]);
        } else {
            hasher.write(&[1]);
            write(row, hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn the_hash_is_part_of_the_format_and_must_not_change() {
        let keys: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
            Arc::new(Int64Array::from(vec![Some(1), None, Some(-7)])),
        ];
        assert_eq!(key_groups(&keys, 3).unwrap(), vec![67, 94, 92]);
    }

    #[test]
    fn an_encoding_in_memory_does_not_matter() {
        let plain: ArrayRef = Arc::new(StringArray::from(vec!["x", "yy", "zzz"]));
        let view: ArrayRef = Arc::new(StringViewArray::from(vec!["x", "yy", "zzz"]));
        assert_eq!(key_groups(&[plain], 3).unwrap(), key_groups(&[view], 3).unwrap());
    }

    #[test]
    fn lanes_divide_the_groups_into_ranges() {
        for lanes in [1, 2, 3, 7, 128] {
            let owners: Vec<usize> = (0..KEY_GROUPS).map(|g| lane_of(g, lanes)).collect();
            assert!(owners.is_sorted());
            assert_eq!((owners[0], owners[KEY_GROUPS - 1]), (0, lanes - 1));
        }
    }
}
