//! Between text, numbers and moments: `date_format`, `to_timestamp`, `to_date`, `unix_timestamp`, `from_unixtime`, …
//!
//! Patterns are Java's (`java_pattern`); without one, text is read as Spark's casts read it (`instant`). Text that is
//! no moment is an error, as in Spark 4; the functions whose names begin with `try_` give NULL instead.

use datafusion::arrow::array::TimestampMicrosecondArray;
use datafusion::arrow::array::{ArrayRef, Date32Array, Float64Array, Int64Array, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;

use super::function::{Arguments, Column, Function, Returns, TIMESTAMP, Takes, dates, longs, texts, timestamps};
use super::instant::{self, MICROS, MICROS_PER_DAY};
use super::java_pattern::JavaPattern;
use crate::error::Error;

/// What Spark reads and writes where no pattern is given.
const DEFAULT_PATTERN: &str = "yyyy-MM-dd HH:mm:ss";

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Date, Int, Long, Moment, Text, Timestamp};
    let timestamp = || Returns::Type(TIMESTAMP);
    let date = || Returns::Type(DataType::Date32);
    let long = || Returns::Type(DataType::Int64);
    let text = || Returns::Type(DataType::Utf8);
    vec![
        Function::new("date_format(timestamp, pattern)", &[Timestamp, Text], 2, text(), date_format),
        Function::new("to_timestamp(value[, pattern])", &[Moment, Text], 1, timestamp(), to_timestamp)
            .also(&["to_timestamp_ntz", "to_timestamp_ltz"]),
        Function::new("try_to_timestamp(value[, pattern])", &[Moment, Text], 1, timestamp(), try_to_timestamp),
        Function::new("to_date(value[, pattern])", &[Moment, Text], 1, date(), to_date),
        Function::new("try_to_date(value[, pattern])", &[Moment, Text], 1, date(), try_to_date),
        Function::new("unix_timestamp(value[, pattern])", &[Moment, Text], 1, long(), unix_timestamp),
        Function::new("to_unix_timestamp(value[, pattern])", &[Moment, Text], 1, long(), unix_timestamp),
        Function::new("from_unixtime(seconds[, pattern])", &[Long, Text], 1, text(), from_unixtime),
        Function::new("timestamp_seconds(number)", &[Moment], 1, timestamp(), timestamp_seconds),
        Function::new("timestamp_millis(number)", &[Long], 1, timestamp(), timestamp_millis),
        Function::new("timestamp_micros(number)", &[Long], 1, timestamp(), timestamp_micros),
        Function::new("date_from_unix_date(days)", &[Int], 1, date(), date_from_unix_date),
        Function::new("date(value)", &[Date], 1, date(), |args| args.array(0)),
        Function::new("timestamp(value)", &[Timestamp], 1, timestamp(), |args| args.array(0)),
    ]
}

/// Understands each pattern once for as long as it stays the same, as it nearly always does.
#[derive(Default)]
struct LastPattern(Option<(String, JavaPattern)>);

impl LastPattern {
    fn get(&mut self, pattern: &str) -> Result<&JavaPattern> {
        let known = self.0.take().filter(|(text, _)| text == pattern);
        let known = match known {
            Some(known) => known,
            None => (pattern.to_string(), JavaPattern::new(pattern)?),
        };
        Ok(&self.0.insert(known).1)
    }
}

/// A column of moments, in whichever form they came.
enum Moments<'a> {
    Dates(Column<'a, Date32Array>),
    Timestamps(Column<'a, TimestampMicrosecondArray>),
    Seconds(Column<'a, Int64Array>),
    Fractions(Column<'a, Float64Array>),
    Text(Column<'a, StringArray>),
}

impl<'a> Moments<'a> {
    fn new(args: &'a Arguments) -> Result<Self> {
        Ok(match args.data_type(0) {
            Some(DataType::Date32) => Self::Dates(args.column(0)?),
            Some(DataType::Timestamp(_, _)) => Self::Timestamps(args.column(0)?),
            Some(DataType::Int64) => Self::Seconds(args.column(0)?),
            Some(DataType::Float64) => Self::Fractions(args.column(0)?),
            _ => Self::Text(args.column(0)?),
        })
    }

    /// Returns the moment of `row` in microseconds, reading text with `read`.
    fn get(&self, row: usize, read: impl FnOnce(&str) -> Result<Option<i64>>) -> Result<Option<i64>> {
        Ok(match self {
            Self::Dates(days) => days.get(row).map(|days| i64::from(days) * MICROS_PER_DAY),
            Self::Timestamps(micros) => micros.get(row),
            Self::Seconds(seconds) => seconds.get(row).map(|seconds| scaled(seconds, MICROS)).transpose()?,
            // Rust's `as` stays within the bounds of an i64
            Self::Fractions(seconds) => seconds.get(row).map(|seconds| (seconds * MICROS as f64) as i64),
            Self::Text(text) => match text.get(row) {
                Some(text) => read(text)?,
                None => None,
            },
        })
    }
}

fn scaled(number: i64, micros: i64) -> Result<i64> {
    number
        .checked_mul(micros)
        .ok_or_else(|| Error::data_invalid(format!("{number} lies beyond what a timestamp can hold")).into())
}

/// Computes the first argument as moments in microseconds.
///
/// Text is read with the pattern of the second argument where there is one, else with `default` where there is one,
/// else with `plain`.
fn moments(
    args: &Arguments,
    default: Option<&str>,
    strict: bool,
    plain: fn(&str) -> Option<i64>,
) -> Result<Vec<Option<i64>>> {
    let values = Moments::new(args)?;
    let patterns = if args.len() > 1 { Some(args.text(1)?) } else { None };
    let mut last = LastPattern::default();
    (0..args.rows())
        .map(|row| {
            let pattern = match &patterns {
                Some(patterns) => match patterns.get(row) {
                    Some(pattern) => Some(pattern),
                    None => return Ok(None),
                },
                None => default,
            };
            values.get(row, |text| {
                let read = match pattern {
                    Some(pattern) => last.get(pattern)?.parse(text),
                    None => plain(text),
                };
                if read.is_none() && strict {
                    return Err(unreadable(text, pattern).into());
                }
                Ok(read)
            })
        })
        .collect()
}

fn unreadable(text: &str, pattern: Option<&str>) -> Error {
    let why = match pattern {
        Some(pattern) => format!("'{text}' does not fit the pattern '{pattern}'"),
        None => format!("'{text}' is not a date or timestamp"),
    };
    Error::data_invalid(format!("{why}; try_to_timestamp and try_to_date give NULL instead"))
}

fn date_format(args: &Arguments) -> Result<ArrayRef> {
    let (values, patterns) = (args.timestamps(0)?, args.text(1)?);
    let mut last = LastPattern::default();
    texts(args.rows(), |row| match (values.get(row), patterns.get(row)) {
        (Some(micros), Some(pattern)) => {
            let pattern = last.get(pattern)?;
            Ok(instant::moment_of(micros).map(|moment| pattern.format(moment)))
        }
        _ => Ok(None),
    })
}

fn from_unixtime(args: &Arguments) -> Result<ArrayRef> {
    let values = args.longs(0)?;
    let patterns = if args.len() > 1 { Some(args.text(1)?) } else { None };
    let mut last = LastPattern::default();
    texts(args.rows(), |row| {
        let pattern = patterns.as_ref().map_or(Some(DEFAULT_PATTERN), |patterns| patterns.get(row));
        match (values.get(row), pattern) {
            (Some(seconds), Some(pattern)) => {
                let pattern = last.get(pattern)?;
                Ok(instant::moment_of(scaled(seconds, MICROS)?).map(|moment| pattern.format(moment)))
            }
            _ => Ok(None),
        }
    })
}

fn to_timestamp(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, None, true, instant::try_timestamp)?;
    timestamps(args.rows(), |row| Ok(moments[row]))
}

fn try_to_timestamp(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, None, false, instant::try_timestamp)?;
    timestamps(args.rows(), |row| Ok(moments[row]))
}

fn to_date(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, None, true, midnight)?;
    dates(args.rows(), |row| Ok(moments[row].and_then(instant::day_of)))
}

fn try_to_date(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, None, false, midnight)?;
    dates(args.rows(), |row| Ok(moments[row].and_then(instant::day_of)))
}

/// Reads a date as its midnight.
fn midnight(text: &str) -> Option<i64> {
    instant::try_date(text).map(|days| i64::from(days) * MICROS_PER_DAY)
}

fn unix_timestamp(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, Some(DEFAULT_PATTERN), true, instant::try_timestamp)?;
    longs(args.rows(), |row| Ok(moments[row].map(|micros| micros.div_euclid(MICROS))))
}

fn timestamp_seconds(args: &Arguments) -> Result<ArrayRef> {
    let moments = moments(args, None, true, instant::try_timestamp)?;
    timestamps(args.rows(), |row| Ok(moments[row]))
}

fn timestamp_millis(args: &Arguments) -> Result<ArrayRef> {
    let values = args.longs(0)?;
    timestamps(args.rows(), |row| values.get(row).map(|millis| scaled(millis, MICROS / 1000)).transpose())
}

fn timestamp_micros(args: &Arguments) -> Result<ArrayRef> {
    let values = args.longs(0)?;
    timestamps(args.rows(), |row| Ok(values.get(row)))
}

fn date_from_unix_date(args: &Arguments) -> Result<ArrayRef> {
    let values = args.ints(0)?;
    dates(args.rows(), |row| Ok(values.get(row)))
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{call, check, day, null, s, ts};

    #[test]
    fn moments_become_text() {
        check(&[
            ("date_format", vec![ts("2024-03-05 07:08:09"), s("yyyy-MM-dd HH:mm")], "2024-03-05 07:08"),
            ("date_format", vec![day("2024-03-05"), s("E d.M.yy")], "Tue 5.3.24"),
            ("date_format", vec![s("2024-03-05 07:08:09"), s("HH")], "07"),
            ("date_format", vec![ts("2024-03-05"), null()], "NULL"),
            ("from_unixtime", vec![ScalarValue::Int64(Some(0))], "1970-01-01 00:00:00"),
            ("from_unixtime", vec![ScalarValue::Int32(Some(86_400)), s("yyyy-MM-dd")], "1970-01-02"),
        ]);
    }

    #[test]
    fn text_and_numbers_become_moments() {
        check(&[
            ("to_timestamp", vec![s("2024-03-05T07:08:09.5Z")], "2024-03-05T07:08:09.500"),
            ("to_timestamp", vec![s("05/03/2024 07"), s("dd/MM/yyyy HH")], "2024-03-05T07:00:00"),
            ("to_timestamp", vec![ScalarValue::Int64(Some(60))], "1970-01-01T00:01:00"),
            ("to_timestamp", vec![day("2024-03-05")], "2024-03-05T00:00:00"),
            ("try_to_timestamp", vec![s("soon")], "NULL"),
            ("to_date", vec![s("2024-03-05 23:59:59")], "2024-03-05"),
            ("to_date", vec![ts("1969-12-31 23:59:59")], "1969-12-31"),
            ("to_date", vec![s("5.3.2024"), s("d.M.yyyy")], "2024-03-05"),
            ("try_to_date", vec![s("2024-02-30")], "NULL"),
            ("unix_timestamp", vec![s("1970-01-01 00:01:00")], "60"),
            ("unix_timestamp", vec![ts("1969-12-31 23:59:59.5")], "-1"),
            ("to_unix_timestamp", vec![s("1970-01-02"), s("yyyy-MM-dd")], "86400"),
            ("timestamp_seconds", vec![ScalarValue::Float64(Some(1.5))], "1970-01-01T00:00:01.500"),
            ("timestamp_millis", vec![ScalarValue::Int64(Some(1500))], "1970-01-01T00:00:01.500"),
            ("timestamp_micros", vec![null()], "NULL"),
        ]);
    }

    #[test]
    fn text_that_is_no_moment_is_refused() {
        let error = call("to_timestamp", &[s("soon"), s("yyyy")]).unwrap_err().to_string();
        assert!(error.contains("'soon' does not fit the pattern 'yyyy'"), "{error}");
        assert!(call("to_date", &[s("2024-02-30")]).is_err());
        assert!(call("date_format", &[s("2024-02-30"), s("yyyy")]).is_err());
        assert!(call("to_timestamp", &[]).is_err());
    }
}
