//! Which key group, and so which lane, a key belongs to.
//!
//! The hash is part of the checkpoint's format: xxHash64 (seed 0) over a canonical byte form of each key column in
//! turn. It depends neither on DataFusion's version nor on how a column is encoded in memory.

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
pub fn lane_of(key_group: u8, lanes: usize) -> usize {
    usize::from(key_group) * lanes / KEY_GROUPS
}

/// Returns the lane that owns the one row of an operator without keys.
pub fn keyless_lane(lanes: usize) -> usize {
    lane_of(group_of(&[]), lanes)
}

/// Returns the key group of each of `rows` rows.
///
/// # Errors
/// `DataInvalid` where a nested key cannot be written as text.
pub fn key_groups(keys: &[ArrayRef], rows: usize) -> Result<Vec<u8>> {
    if let [key] = keys
        && let DataType::Int64 = key.data_type()
    {
        // The most frequent key, without a detour over bytes in memory.
        let values = key.as_primitive::<Int64Type>();
        let group = |value: Option<i64>| value.map_or_else(|| group_of(&[0]), |value| group_of(&valid_whole(value)));
        return Ok(values.iter().map(group).collect());
    }
    let writers: Vec<Writer<'_>> = keys.iter().map(writer).collect::<Result<_>>()?;
    let mut bytes = Vec::new();
    let group = |row: usize| {
        bytes.clear();
        writers.iter().for_each(|write| write(row, &mut bytes));
        group_of(&bytes)
    };
    Ok((0..rows).map(group).collect())
}

/// The canonical bytes of a whole number that is there.
fn valid_whole(value: i64) -> [u8; 9] {
    let mut bytes = [1; 9];
    bytes[1..].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[inline]
fn group_of(bytes: &[u8]) -> u8 {
    let hash = if bytes.len() < STRIPE { short_hash(bytes) } else { XxHash64::oneshot(0, bytes) };
    (hash % KEY_GROUPS as u64) as u8
}

/// xxHash64 takes longer texts in stripes of so many bytes.
const STRIPE: usize = 32;

/// xxHash64 (seed 0) of less than a stripe: every row of every batch is hashed, and mostly a number or a short text.
/// <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>
#[inline]
fn short_hash(bytes: &[u8]) -> u64 {
    const PRIMES: [u64; 5] = [
        0x9E37_79B1_85EB_CA87,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0x85EB_CA77_C2B2_AE63,
        0x27D4_EB2F_1656_67C5,
    ];
    let [first, second, third, fourth, fifth] = PRIMES;
    let mut hash = fifth.wrapping_add(bytes.len() as u64);
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let lane = u64::from_le_bytes(*eight).wrapping_mul(second).rotate_left(31).wrapping_mul(first);
        hash = (hash ^ lane).rotate_left(27).wrapping_mul(first).wrapping_add(fourth);
    }
    let (fours, rest) = rest.as_chunks::<4>();
    for four in fours {
        let lane = u64::from(u32::from_le_bytes(*four)).wrapping_mul(first);
        hash = (hash ^ lane).rotate_left(23).wrapping_mul(second).wrapping_add(third);
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(fifth)).rotate_left(11).wrapping_mul(first);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(second);
    hash = (hash ^ (hash >> 29)).wrapping_mul(third);
    hash ^ (hash >> 32)
}

/// Adds the canonical bytes of one row's value.
type Writer<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

fn writer(key: &ArrayRef) -> Result<Writer<'_>> {
    Ok(match key.data_type() {
        DataType::Boolean => {
            let values: &BooleanArray = key.as_boolean();
            nullable(key, move |row, bytes| bytes.push(u8::from(values.value(row))))
        }
        DataType::Int8 => whole::<Int8Type>(key, i64::from),
        DataType::Int16 => whole::<Int16Type>(key, i64::from),
        DataType::Int32 => whole::<Int32Type>(key, i64::from),
        DataType::Int64 => whole::<Int64Type>(key, |v| v),
        DataType::UInt8 => whole::<UInt8Type>(key, i64::from),
        DataType::UInt16 => whole::<UInt16Type>(key, i64::from),
        DataType::UInt32 => whole::<UInt32Type>(key, i64::from),
        DataType::UInt64 => whole::<UInt64Type>(key, |v| v as i64),
        DataType::Date32 => whole::<Date32Type>(key, i64::from),
        DataType::Date64 => whole::<Date64Type>(key, |v| v),
        DataType::Float32 => whole::<Float32Type>(key, |v| float_bits(f64::from(v))),
        DataType::Float64 => whole::<Float64Type>(key, float_bits),
        DataType::Decimal128(..) => {
            let values: &PrimitiveArray<Decimal128Type> = key.as_primitive();
            nullable(key, move |row, bytes| bytes.extend_from_slice(&values.value(row).to_le_bytes()))
        }
        DataType::Utf8 => {
            let values = key.as_string::<i32>();
            nullable(key, move |row, bytes| text(bytes, values.value(row).as_bytes()))
        }
        DataType::LargeUtf8 => {
            let values = key.as_string::<i64>();
            nullable(key, move |row, bytes| text(bytes, values.value(row).as_bytes()))
        }
        DataType::Utf8View => {
            let values = key.as_string_view();
            nullable(key, move |row, bytes| text(bytes, values.value(row).as_bytes()))
        }
        DataType::Binary => {
            let values = key.as_binary::<i32>();
            nullable(key, move |row, bytes| text(bytes, values.value(row)))
        }
        _ => {
            let formatter = ArrayFormatter::try_new(key.as_ref(), &FormatOptions::default())?;
            nullable(key, move |row, bytes| text(bytes, formatter.value(row).to_string().as_bytes()))
        }
    })
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
fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text);
}

fn whole<'a, T: ArrowPrimitiveType>(key: &'a ArrayRef, widen: impl Fn(T::Native) -> i64 + 'a) -> Writer<'a> {
    let values: &PrimitiveArray<T> = key.as_primitive();
    nullable(key, move |row, bytes| bytes.extend_from_slice(&widen(values.value(row)).to_le_bytes()))
}

fn nullable<'a>(key: &'a ArrayRef, write: impl Fn(usize, &mut Vec<u8>) + 'a) -> Writer<'a> {
    Box::new(move |row, bytes| {
        let valid = key.is_valid(row);
        bytes.push(u8::from(valid));
        if valid {
            write(row, bytes);
        }
    })
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
    fn short_texts_hash_as_long_ones_do() {
        let bytes: Vec<u8> = (0..STRIPE as u8).map(|byte| byte.wrapping_mul(41)).collect();
        for length in 0..STRIPE {
            assert_eq!(short_hash(&bytes[..length]), XxHash64::oneshot(0, &bytes[..length]), "{length}");
        }
        let numbers: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![Some(0), None, Some(i64::MIN), Some(77)]))];
        let small: Vec<ArrayRef> =
            vec![Arc::new(datafusion::arrow::array::Int32Array::from(vec![Some(0), None, Some(1), Some(77)]))];
        let (numbers, small) = (key_groups(&numbers, 4).unwrap(), key_groups(&small, 4).unwrap());
        assert_eq!([numbers[0], numbers[1], numbers[3]], [small[0], small[1], small[3]]);
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
            let owners: Vec<usize> = (0..KEY_GROUPS as u8).map(|g| lane_of(g, lanes)).collect();
            assert!(owners.is_sorted());
            assert_eq!((owners[0], owners[KEY_GROUPS - 1]), (0, lanes - 1));
        }
    }
}
