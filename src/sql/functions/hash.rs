//! `hash`: Spark's 32-bit Murmur3, value for value.
//!
//! The hash of a row is chained through its columns, starting from 42; a NULL leaves it as it is. Columns hash by the
//! width Spark gives their type: bytes, shorts, dates and booleans as ints, timestamps as longs.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use datafusion::common::Result;

use super::function::{Arguments, Function, Returns, TIMESTAMP, Takes, is_text};
use crate::error::Error;

const SEED: u32 = 42;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    vec![Function::new("hash(value, ...)", &[Takes::Anything], 1, Returns::Type(DataType::Int32), hash).repeating()]
}

fn hash(args: &Arguments) -> Result<ArrayRef> {
    let mut hashes = vec![SEED; args.rows()];
    for argument in 0..args.len() {
        add_column(&args.array(argument)?, &mut hashes)?;
    }
    // the same bits, read as Spark reads them
    Ok(Arc::new(hashes.into_iter().map(|hash| Some(hash as i32)).collect::<Int32Array>()))
}

/// Hashes each row of `column` into the hash of that row.
fn add_column(column: &ArrayRef, hashes: &mut [u32]) -> Result<()> {
    match column.data_type() {
        DataType::Null => {}
        DataType::Boolean => {
            let values = column.as_boolean();
            each(column, hashes, |row, seed| hash_int(i32::from(values.value(row)), seed));
        }
        DataType::Int8 => {
            let values = column.as_primitive::<Int8Type>();
            each(column, hashes, |row, seed| hash_int(i32::from(values.value(row)), seed));
        }
        DataType::Int16 => {
            let values = column.as_primitive::<Int16Type>();
            each(column, hashes, |row, seed| hash_int(i32::from(values.value(row)), seed));
        }
        DataType::Int32 => {
            let values = column.as_primitive::<Int32Type>();
            each(column, hashes, |row, seed| hash_int(values.value(row), seed));
        }
        DataType::Date32 => {
            let values = column.as_primitive::<Date32Type>();
            each(column, hashes, |row, seed| hash_int(values.value(row), seed));
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>();
            each(column, hashes, |row, seed| hash_long(values.value(row), seed));
        }
        DataType::Timestamp(_, _) => {
            let column = cast(column, &TIMESTAMP)?;
            let values = column.as_primitive::<TimestampMicrosecondType>();
            each(&column, hashes, |row, seed| hash_long(values.value(row), seed));
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            // Spark hashes -0.0 as 0.0
            each(column, hashes, |row, seed| hash_int((values.value(row) + 0.0).to_bits() as i32, seed));
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            each(column, hashes, |row, seed| hash_long((values.value(row) + 0.0).to_bits() as i64, seed));
        }
        DataType::Decimal128(precision, _) if *precision <= 18 => {
            let values = column.as_primitive::<Decimal128Type>();
            each(column, hashes, |row, seed| hash_long(values.value(row) as i64, seed));
        }
        DataType::Decimal128(_, _) => {
            let values = column.as_primitive::<Decimal128Type>();
            each(column, hashes, |row, seed| hash_bytes(shortest_bytes(&values.value(row).to_be_bytes()), seed));
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            each(column, hashes, |row, seed| hash_bytes(values.value(row), seed));
        }
        data_type if is_text(data_type) => {
            let column = cast(column, &DataType::Utf8)?;
            let values = column.as_string::<i32>();
            each(&column, hashes, |row, seed| hash_bytes(values.value(row).as_bytes(), seed));
        }
        DataType::Struct(_) => {
            let fields = column.as_struct();
            let before = hashes.to_vec();
            for field in fields.columns() {
                add_column(field, hashes)?;
            }
            // what lies below a struct that is NULL does not count
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                hashes[row] = before[row];
            }
        }
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
                let elements = lists.value(row);
                for element in 0..elements.len() {
                    add_column(&elements.slice(element, 1), &mut hashes[row..=row])?;
                }
            }
        }
        other => {
            return Err(Error::unsupported(format!("hash cannot take {other}; cast it to text first")).into());
        }
    }
    Ok(())
}

fn each(column: &ArrayRef, hashes: &mut [u32], hash: impl Fn(usize, u32) -> u32) {
    for (row, seed) in hashes.iter_mut().enumerate() {
        if column.is_valid(row) {
            *seed = hash(row, *seed);
        }
    }
}

/// Cuts the bytes off that only repeat the sign, as Java's `BigInteger` does.
fn shortest_bytes(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [first, second, ..] = bytes {
        let repeats = matches!((first, second >> 7), (0x00, 0) | (0xff, 1));
        if !repeats {
            break;
        }
        bytes = &bytes[1..];
    }
    bytes
}

fn mix_word(word: u32) -> u32 {
    word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

fn mix_hash(hash: u32, word: u32) -> u32 {
    (hash ^ mix_word(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn finish(hash: u32, length: u32) -> u32 {
    let mut hash = hash ^ length;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

fn hash_int(value: i32, seed: u32) -> u32 {
    finish(mix_hash(seed, value as u32), 4)
}

fn hash_long(value: i64, seed: u32) -> u32 {
    let hash = mix_hash(seed, value as u32);
    finish(mix_hash(hash, (value >> 32) as u32), 8)
}

/// Words of four bytes, then, unlike other Murmur3s, each byte that is left as a word of its own, with its sign.
fn hash_bytes(bytes: &[u8], seed: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for word in words {
        hash = mix_hash(hash, u32::from_le_bytes(*word));
    }
    for byte in rest {
        hash = mix_hash(hash, i32::from(*byte as i8) as u32);
    }
    finish(hash, bytes.len() as u32)
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{check, null, s};
    use super::*;

    #[test]
    fn the_hash_is_spark_s() {
        let int = |value| ScalarValue::Int32(Some(value));
        // published values: hash('Spark', array(123), 2) and hash(1), hash('Spark')
        let list = ScalarValue::List(ScalarValue::new_list_nullable(&[int(123)], &DataType::Int32));
        check(&[
            ("hash", vec![s("Spark"), list, int(2)], "-1321691492"),
            ("hash", vec![int(1)], "-559580957"),
            ("hash", vec![null()], "42"),
            ("hash", vec![ScalarValue::Float64(Some(-0.0))], "-1670924195"),
        ]);
    }

    #[test]
    fn big_numbers_keep_one_bit_of_sign() {
        assert_eq!(shortest_bytes(&127_i128.to_be_bytes()), &[127]);
        assert_eq!(shortest_bytes(&128_i128.to_be_bytes()), &[0, 128]);
        assert_eq!(shortest_bytes(&(-1_i128).to_be_bytes()), &[255]);
    }
}
