//! A column of a batch under construction, filled value by value from JSON or CSV.
//!
//! A value that does not fit the declared type becomes NULL and the caller is told so: it decides by mode what that
//! means for the row. Guards that a column can be cut back to a number of rows, so that a row found broken half-way
//! leaves nothing behind.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
    MapArray, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::cast_utils::parse_decimal;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, Fields, TimeUnit};

use super::timestamp::{parse_date_days, parse_timestamp_us};
use crate::error::{Error, Result};

/// The values so far, one for each entry of [`Column::valid`].
pub(in crate::source) enum Cells {
    /// BOOLEAN.
    Boolean(Vec<bool>),
    /// A signed or small unsigned integer, and the range of its type.
    Integer { values: Vec<i64>, low: i64, high: i64 },
    /// UINT64.
    Unsigned(Vec<u64>),
    /// FLOAT and DOUBLE.
    Float(Vec<f64>),
    /// Microseconds since the epoch.
    Timestamp(Vec<i64>),
    /// Days since the epoch.
    Date(Vec<i32>),
    /// Unscaled values.
    Decimal { values: Vec<i128>, precision: u8, scale: i8 },
    /// STRING: all bytes, and where each value ends.
    Text { bytes: String, offsets: Vec<i32> },
    /// BINARY, likewise.
    Binary { bytes: Vec<u8>, offsets: Vec<i32> },
    /// ARRAY.
    List { offsets: Vec<i32>, child: Box<Column> },
    /// STRUCT.
    Struct { fields: Fields, children: Vec<Column> },
    /// MAP with STRING keys.
    Map { offsets: Vec<i32>, keys: Box<Column>, values: Box<Column> },
}

/// A column under construction.
pub(in crate::source) struct Column {
    /// Its name, for messages.
    pub(in crate::source) name: String,
    data_type: DataType,
    /// The values.
    pub(in crate::source) cells: Cells,
    /// Which of them are not NULL.
    valid: Vec<bool>,
}

impl Column {
    /// Makes an empty column for `field`.
    ///
    /// # Errors
    /// `Unsupported` for a type that text files do not give.
    pub(in crate::source) fn new(field: &Field) -> Result<Self> {
        let data_type = field.data_type().clone();
        let integer = |low, high| Cells::Integer { values: Vec::new(), low, high };
        let cells = match &data_type {
            DataType::Boolean => Cells::Boolean(Vec::new()),
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => integer(i64::MIN, i64::MAX),
            DataType::UInt8 => integer(0, u8::MAX.into()),
            DataType::UInt16 => integer(0, u16::MAX.into()),
            DataType::UInt32 => integer(0, u32::MAX.into()),
            DataType::UInt64 => Cells::Unsigned(Vec::new()),
            DataType::Float32 | DataType::Float64 => Cells::Float(Vec::new()),
            DataType::Timestamp(_, _) => Cells::Timestamp(Vec::new()),
            DataType::Date32 | DataType::Date64 => Cells::Date(Vec::new()),
            DataType::Decimal128(precision, scale) => {
                Cells::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Cells::Text { bytes: String::new(), offsets: vec![0] }
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Cells::Binary { bytes: Vec::new(), offsets: vec![0] }
            }
            DataType::List(item) => Cells::List { offsets: vec![0], child: Box::new(Self::new(item)?) },
            DataType::Struct(fields) => Cells::Struct {
                fields: fields.clone(),
                children: fields.iter().map(|child| Self::new(child)).collect::<Result<_>>()?,
            },
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) if pair.len() == 2 && is_text(pair[0].data_type()) => Cells::Map {
                    offsets: vec![0],
                    keys: Box::new(Self::new(&pair[0])?),
                    values: Box::new(Self::new(&pair[1])?),
                },
                _ => return Err(cannot_read(field)),
            },
            _ => return Err(cannot_read(field)),
        };
        Ok(Self { name: field.name().clone(), data_type, cells, valid: Vec::new() })
    }

    /// Returns the number of values.
    pub(in crate::source) fn len(&self) -> usize {
        self.valid.len()
    }

    /// Returns the declared type.
    pub(in crate::source) fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Adds NULL.
    pub(in crate::source) fn push_null(&mut self) {
        match &mut self.cells {
            Cells::Boolean(values) => values.push(false),
            Cells::Integer { values, .. } | Cells::Timestamp(values) => values.push(0),
            Cells::Unsigned(values) => values.push(0),
            Cells::Float(values) => values.push(0.0),
            Cells::Date(values) => values.push(0),
            Cells::Decimal { values, .. } => values.push(0),
            Cells::Text { bytes, offsets } => offsets.push(offset(bytes.len())),
            Cells::Binary { bytes, offsets } => offsets.push(offset(bytes.len())),
            Cells::List { offsets, child } => {
                child.truncate(last(offsets));
                offsets.push(offset(child.len()));
            }
            Cells::Struct { children, .. } => {
                for child in children {
                    child.truncate(self.valid.len());
                    child.push_null();
                }
            }
            Cells::Map { offsets, keys, values } => {
                keys.truncate(last(offsets));
                values.truncate(last(offsets));
                offsets.push(offset(keys.len()));
            }
        }
        self.valid.push(false);
    }

    /// Adds a value as CSV, a partition folder or a text file writes it. False where it does not fit: then it is NULL.
    pub(in crate::source) fn push_text(&mut self, text: &str) -> bool {
        let fits = match &mut self.cells {
            Cells::Boolean(values) => put(values, parse_bool(text)),
            Cells::Integer { values, low, high } => {
                put(values, text.parse().ok().filter(|value| (*low..=*high).contains(value)))
            }
            Cells::Unsigned(values) => put(values, text.parse().ok()),
            Cells::Float(values) => put(values, parse_float(text)),
            Cells::Binary { bytes, offsets } => {
                bytes.extend_from_slice(text.as_bytes());
                offsets.push(offset(bytes.len()));
                true
            }
            _ => return self.push_json_text(text),
        };
        self.valid.push(fits);
        fits
    }

    /// Adds a JSON string. False where it does not fit: then it is NULL. A number in quotes is not a number.
    pub(in crate::source) fn push_json_text(&mut self, text: &str) -> bool {
        let fits = match &mut self.cells {
            Cells::Text { bytes, offsets } => {
                bytes.push_str(text);
                offsets.push(offset(bytes.len()));
                true
            }
            Cells::Timestamp(values) => put(values, parse_timestamp_us(text)),
            Cells::Date(values) => put(values, parse_date_days(text)),
            Cells::Float(values) => put(values, parse_named_float(text)),
            Cells::Decimal { values, precision, scale } => put(values, parse_rounded(text, *precision, *scale)),
            Cells::Binary { bytes, offsets } => {
                let fits = decode_base64(text, bytes);
                offsets.push(offset(bytes.len()));
                fits
            }
            _ => return self.push_misfit(),
        };
        self.valid.push(fits);
        fits
    }

    /// Adds a JSON boolean. False where it does not fit: then it is NULL.
    pub(in crate::source) fn push_bool(&mut self, value: bool) -> bool {
        match &mut self.cells {
            Cells::Boolean(values) => {
                values.push(value);
                self.valid.push(true);
                true
            }
            Cells::Text { .. } => self.push_json_text(if value { "true" } else { "false" }),
            _ => self.push_misfit(),
        }
    }

    /// Adds a JSON integer. False where it does not fit: then it is NULL. For a timestamp it is seconds since the
    /// epoch.
    pub(in crate::source) fn push_integer(&mut self, value: i128) -> bool {
        let fits = match &mut self.cells {
            Cells::Integer { values, low, high } => {
                put(values, i64::try_from(value).ok().filter(|value| (*low..=*high).contains(value)))
            }
            Cells::Unsigned(values) => put(values, u64::try_from(value).ok()),
            Cells::Float(values) => put(values, Some(value as f64)),
            Cells::Timestamp(values) => {
                put(values, i64::try_from(value).ok().and_then(|seconds| seconds.checked_mul(1_000_000)))
            }
            Cells::Decimal { .. } | Cells::Text { .. } => {
                return self.push_json_text(&value.to_string());
            }
            _ => return self.push_misfit(),
        };
        self.valid.push(fits);
        fits
    }

    /// Adds a JSON number with a fraction or an exponent. False where it does not fit: then it is NULL.
    pub(in crate::source) fn push_float(&mut self, value: f64) -> bool {
        match &mut self.cells {
            Cells::Float(values) => {
                values.push(value);
                self.valid.push(true);
                true
            }
            Cells::Decimal { .. } => self.push_json_text(&value.to_string()),
            Cells::Text { .. } => self.push_json_text(&serde_json::Value::from(value).to_string()),
            _ => self.push_misfit(),
        }
    }

    /// Ends the value of a list, struct or map whose children have been filled.
    pub(in crate::source) fn end_nested(&mut self) {
        let row = self.valid.len();
        match &mut self.cells {
            Cells::List { offsets, child } => offsets.push(offset(child.len())),
            Cells::Struct { children, .. } => {
                for child in children.iter_mut().filter(|child| child.len() == row) {
                    child.push_null();
                }
            }
            Cells::Map { offsets, keys, .. } => offsets.push(offset(keys.len())),
            _ => return,
        }
        self.valid.push(true);
    }

    /// Cuts the column back to `rows` values, and drops what was begun beyond them.
    pub(in crate::source) fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        match &mut self.cells {
            Cells::Boolean(values) => values.truncate(rows),
            Cells::Integer { values, .. } | Cells::Timestamp(values) => values.truncate(rows),
            Cells::Unsigned(values) => values.truncate(rows),
            Cells::Float(values) => values.truncate(rows),
            Cells::Date(values) => values.truncate(rows),
            Cells::Decimal { values, .. } => values.truncate(rows),
            Cells::Text { bytes, offsets } => {
                offsets.truncate(rows + 1);
                bytes.truncate(last(offsets));
            }
            Cells::Binary { bytes, offsets } => {
                offsets.truncate(rows + 1);
                bytes.truncate(last(offsets));
            }
            Cells::List { offsets, child } => {
                offsets.truncate(rows + 1);
                child.truncate(last(offsets));
            }
            Cells::Struct { children, .. } => children.iter_mut().for_each(|child| child.truncate(rows)),
            Cells::Map { offsets, keys, values } => {
                offsets.truncate(rows + 1);
                keys.truncate(last(offsets));
                values.truncate(last(offsets));
            }
        }
    }

    /// Takes the values as an array of the declared type; the column is empty afterwards.
    ///
    /// # Errors
    /// `DataInvalid` where one batch would hold more than 2 GiB of text.
    pub(in crate::source) fn finish(&mut self) -> Result<ArrayRef> {
        let rows = self.valid.len();
        let nulls = Some(NullBuffer::from(std::mem::take(&mut self.valid))).filter(|nulls| nulls.null_count() > 0);
        let array: ArrayRef = match &mut self.cells {
            Cells::Boolean(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(std::mem::take(values)), nulls)),
            Cells::Integer { values, .. } => Arc::new(Int64Array::try_new(taken(values), nulls)?),
            Cells::Unsigned(values) => Arc::new(UInt64Array::try_new(taken(values), nulls)?),
            Cells::Float(values) => Arc::new(Float64Array::try_new(taken(values), nulls)?),
            Cells::Date(values) => Arc::new(Date32Array::try_new(taken(values), nulls)?),
            Cells::Timestamp(values) => {
                let zone = match &self.data_type {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                Arc::new(TimestampMicrosecondArray::try_new(taken(values), nulls)?.with_timezone_opt(zone))
            }
            Cells::Decimal { values, precision, scale } => {
                let array = Decimal128Array::try_new(taken(values), nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Cells::Text { bytes, offsets } => {
                let bytes = Buffer::from(std::mem::take(bytes).into_bytes());
                Arc::new(StringArray::try_new(taken_offsets(offsets), bytes, nulls)?)
            }
            Cells::Binary { bytes, offsets } => {
                Arc::new(BinaryArray::try_new(taken_offsets(offsets), Buffer::from(std::mem::take(bytes)), nulls)?)
            }
            Cells::List { offsets, child } => match &self.data_type {
                DataType::List(item) => {
                    let values = child.finish()?;
                    Arc::new(ListArray::try_new(Arc::clone(item), taken_offsets(offsets), values, nulls)?)
                }
                other => {
                    return Err(Error::internal(format!("a list is built for a column of {other}")));
                }
            },
            Cells::Struct { fields, children } => {
                let children = children.iter_mut().map(Self::finish).collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), children, nulls, rows)?)
            }
            Cells::Map { offsets, keys, values } => match &self.data_type {
                DataType::Map(entries, ordered) => {
                    let DataType::Struct(pair) = entries.data_type() else {
                        return Err(Error::internal("the entries of a map are not structs"));
                    };
                    let pairs = StructArray::try_new(pair.clone(), vec![keys.finish()?, values.finish()?], None)?;
                    let offsets = taken_offsets(offsets);
                    Arc::new(MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *ordered)?)
                }
                other => {
                    return Err(Error::internal(format!("a map is built for a column of {other}")));
                }
            },
        };
        if array.data_type() == &self.data_type { Ok(array) } else { Ok(cast(&array, &self.data_type)?) }
    }

    /// Adds NULL for a value that does not fit.
    pub(in crate::source) fn push_misfit(&mut self) -> bool {
        self.push_null();
        false
    }
}

/// Returns whether `data_type` is one of the spellings of STRING.
pub(in crate::source) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Returns the type of TIMESTAMP columns.
pub(in crate::source) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn cannot_read(field: &Field) -> Error {
    Error::unsupported(format!(
        "column '{}' has type {}, which JSON, CSV and text files cannot be read as; declare it STRING and cast it in \
         the query",
        field.name(),
        field.data_type()
    ))
}

fn put<T: Default>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let fits = value.is_some();
    values.push(value.unwrap_or_default());
    fits
}

fn taken<T: datafusion::arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(std::mem::take(values))
}

fn taken_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

/// An offset past 2 GiB stays at the end of the range, which building the array refuses.
fn offset(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn last(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0))
}

fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn parse_float(text: &str) -> Option<f64> {
    parse_named_float(text).or_else(|| text.parse().ok())
}

/// Reads the numbers that have only a name.
fn parse_named_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" | "+Infinity" | "Inf" | "INF" | "+INF" => Some(f64::INFINITY),
        "-Infinity" | "-Inf" | "-INF" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Reads a decimal; digits beyond its scale round half up.
fn parse_rounded(text: &str, precision: u8, scale: i8) -> Option<i128> {
    match parse_decimal::<Decimal128Type>(text, 38, scale.saturating_add(1)) {
        Ok(longer) => {
            let value = (longer + longer.signum() * 5) / 10;
            (value.abs() < 10_i128.checked_pow(precision.into())?).then_some(value)
        }
        // too long for one more digit
        Err(_) => parse_decimal::<Decimal128Type>(text, precision, scale).ok(),
    }
}

/// Appends what `text` stands for to `bytes`; false, and nothing appended, where it is not base64.
fn decode_base64(text: &str, bytes: &mut Vec<u8>) -> bool {
    let before = bytes.len();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => {
                bytes.truncate(before);
                return false;
            }
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int32Type;

    #[test]
    fn a_column_cut_back_forgets_what_was_begun() {
        let item = Arc::new(Field::new_list_field(DataType::Int32, true));
        let mut column = Column::new(&Field::new("a", DataType::List(item), true)).unwrap();
        let push = |column: &mut Column, value| match &mut column.cells {
            Cells::List { child, .. } => child.push_integer(value),
            _ => unreachable!(),
        };
        push(&mut column, 1);
        column.end_nested();
        push(&mut column, 2);
        column.truncate(1);
        column.push_null();
        let array = column.finish().unwrap();
        assert_eq!(array.len(), 2);
        assert!(array.is_null(1));
        assert_eq!(array.as_list::<i32>().values().as_primitive::<Int32Type>().values(), &[1]);
        assert_eq!(column.len(), 0);
    }

    #[test]
    fn values_out_of_range_do_not_fit() {
        let mut column = Column::new(&Field::new("a", DataType::Int8, true)).unwrap();
        assert!(column.push_text("-128"));
        assert!(!column.push_text("128"));
        assert!(!column.push_integer(128));
        assert!(!column.push_float(1.0));
        let mut decimal = Column::new(&Field::new("d", DataType::Decimal128(4, 2), true)).unwrap();
        assert!(decimal.push_float(12.345));
        assert!(!decimal.push_text("99.999"));
        assert_eq!(decimal.finish().unwrap().as_primitive::<Decimal128Type>().value(0), 1235);
    }

    #[test]
    fn base64_is_read() {
        let mut bytes = Vec::new();
        assert!(decode_base64("TWlsbHM=", &mut bytes));
        assert_eq!(bytes, b"Mills");
        assert!(!decode_base64("%", &mut bytes));
    }
}
