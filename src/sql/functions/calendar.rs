//! Parts of moments and arithmetic on them: `year`, `dayofweek`, `hour`, `months_between`, `make_timestamp`, …
//!
//! Weeks and days of week count as Spark counts them: `dayofweek` has Sunday = 1, `weekofyear` is ISO's. Every function
//! takes dates, timestamps and text alike. What `datafusion-spark` has, but only for exact types, is wrapped.

use std::sync::Arc;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::{DatePart, cast, date_part};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;
use datafusion_spark::function::datetime as spark;

use super::function::{Arguments, Function, Recast, Returns, TIMESTAMP, Takes, doubles, ints, texts, timestamps};
use super::instant::{self, MICROS};
use super::java_pattern::weekday_name;
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Boolean, Date, Double, Int, Text, Timestamp};
    let int = || Returns::Type(DataType::Int32);
    vec![
        Function::new("year(date)", &[Date], 1, int(), |args| part(args, DatePart::Year)),
        Function::new("quarter(date)", &[Date], 1, int(), |args| part(args, DatePart::Quarter)),
        Function::new("month(date)", &[Date], 1, int(), |args| part(args, DatePart::Month)),
        Function::new("weekofyear(date)", &[Date], 1, int(), |args| part(args, DatePart::WeekISO)),
        Function::new("day(date)", &[Date], 1, int(), |args| part(args, DatePart::Day)).also(&["dayofmonth"]),
        Function::new("dayofyear(date)", &[Date], 1, int(), |args| part(args, DatePart::DayOfYear)),
        Function::new("dayofweek(date)", &[Date], 1, int(), dayofweek),
        Function::new("hour(timestamp)", &[Timestamp], 1, int(), |args| part(args, DatePart::Hour)),
        Function::new("minute(timestamp)", &[Timestamp], 1, int(), |args| part(args, DatePart::Minute)),
        Function::new("second(timestamp)", &[Timestamp], 1, int(), |args| part(args, DatePart::Second)),
        Function::new("dayname(date)", &[Date], 1, Returns::Type(DataType::Utf8), dayname),
        Function::new(
            "months_between(later, earlier[, rounded])",
            &[Timestamp, Timestamp, Boolean],
            2,
            Returns::Type(DataType::Float64),
            months_between,
        ),
        Function::new(
            "make_timestamp(year, month, day, hour, minute, second[, zone])",
            &[Int, Int, Int, Int, Int, Double, Text],
            6,
            Returns::Type(TIMESTAMP),
            make_timestamp,
        )
        .also(&["make_timestamp_ntz", "make_timestamp_ltz"]),
    ]
}

/// Returns the functions of `datafusion-spark` that take here what Spark's take.
pub(super) fn recast() -> Vec<ScalarUDF> {
    use Takes::{Date, Int, Text, Timestamp};
    let functions: [(Arc<ScalarUDF>, &'static [Takes]); 14] = [
        (spark::date_add(), &[Date, Int]),
        (spark::date_sub(), &[Date, Int]),
        (spark::date_diff(), &[Date, Date]),
        (spark::add_months(), &[Date, Int]),
        (spark::last_day(), &[Date]),
        (spark::next_day(), &[Date, Text]),
        (spark::weekday(), &[Date]),
        (spark::monthname(), &[Date]),
        (spark::trunc(), &[Date, Text]),
        (spark::date_trunc(), &[Text, Timestamp]),
        (spark::unix_date(), &[Date]),
        (spark::unix_seconds(), &[Timestamp]),
        (spark::unix_millis(), &[Timestamp]),
        (spark::unix_micros(), &[Timestamp]),
    ];
    functions.into_iter().map(|(inner, takes)| ScalarUDF::from(Recast::new(inner, takes))).collect()
}

fn part(args: &Arguments, part: DatePart) -> Result<ArrayRef> {
    let parts = date_part(args.array(0)?.as_ref(), part)?;
    Ok(cast(&parts, &DataType::Int32)?)
}

fn dayofweek(args: &Arguments) -> Result<ArrayRef> {
    let values = args.dates(0)?;
    // 1970-01-01 was a Thursday, day 5 of a week that begins on Sunday
    ints(args.rows(), |row| Ok(values.get(row).map(|days| (i64::from(days) + 4).rem_euclid(7) as i32 + 1)))
}

fn dayname(args: &Arguments) -> Result<ArrayRef> {
    let values = args.dates(0)?;
    texts(args.rows(), |row| {
        let date = values.get(row).and_then(instant::date_of);
        Ok(date.map(|date| weekday_name(date.weekday()).to_string()))
    })
}

fn months_between(args: &Arguments) -> Result<ArrayRef> {
    let (later, earlier) = (args.timestamps(0)?, args.timestamps(1)?);
    let rounded = if args.len() > 2 { Some(args.booleans(2)?) } else { None };
    doubles(args.rows(), |row| {
        let rounded = rounded.as_ref().map_or(Some(true), |rounded| rounded.get(row));
        let later = later.get(row).and_then(instant::moment_of);
        let earlier = earlier.get(row).and_then(instant::moment_of);
        Ok(match (later, earlier, rounded) {
            (Some(later), Some(earlier), Some(rounded)) => {
                let months = months(later, earlier);
                Some(if rounded { (months * 1e8).round() / 1e8 } else { months })
            }
            _ => None,
        })
    })
}

/// Whole months where both fall on the same day of month, or both on the last; else the rest in months of 31 days.
fn months(later: NaiveDateTime, earlier: NaiveDateTime) -> f64 {
    let month_number = |moment: NaiveDateTime| i64::from(moment.year()) * 12 + i64::from(moment.month());
    let whole = (month_number(later) - month_number(earlier)) as f64;
    if later.day() == earlier.day() || (is_last_day(later.date()) && is_last_day(earlier.date())) {
        return whole;
    }
    let seconds = |moment: NaiveDateTime| {
        let micros = moment.time().signed_duration_since(NaiveTime::MIN).num_microseconds().unwrap_or_default();
        i64::from(moment.day()) * 86_400 + micros / MICROS
    };
    whole + (seconds(later) - seconds(earlier)) as f64 / (31.0 * 86_400.0)
}

fn is_last_day(date: NaiveDate) -> bool {
    date.succ_opt().is_none_or(|next| next.month() != date.month())
}

fn make_timestamp(args: &Arguments) -> Result<ArrayRef> {
    let fields = [args.ints(0)?, args.ints(1)?, args.ints(2)?, args.ints(3)?, args.ints(4)?];
    let seconds = args.doubles(5)?;
    let zones = if args.len() > 6 { Some(args.text(6)?) } else { None };
    timestamps(args.rows(), |row| {
        let zone = match &zones {
            Some(zones) => match zones.get(row) {
                Some(zone) => Some(zone),
                None => return Ok(None),
            },
            None => None,
        };
        let [Some(year), Some(month), Some(day), Some(hour), Some(minute)] =
            [0, 1, 2, 3, 4].map(|field: usize| fields[field].get(row))
        else {
            return Ok(None);
        };
        let Some(second) = seconds.get(row) else {
            return Ok(None);
        };
        let made = moment(year, [month, day, hour, minute], second).and_then(|local| match zone {
            Some(zone) => instant::in_zone(local, zone),
            None => Some(instant::micros(local)),
        });
        match made {
            Some(micros) => Ok(Some(micros)),
            None => {
                let given = format!("({year}, {month}, {day}, {hour}, {minute}, {second})");
                Err(Error::data_invalid(format!("make_timestamp{given}: there is no such moment")).into())
            }
        }
    })
}

fn moment(year: i32, fields: [i32; 4], second: f64) -> Option<NaiveDateTime> {
    let [month, day, hour, minute] = fields.map(|field| u32::try_from(field).unwrap_or(u32::MAX));
    let date = NaiveDate::from_ymd_opt(year, month, day)?;
    let start = NaiveTime::from_hms_opt(hour, minute, 0)?;
    // 60 is allowed and means the next minute
    (0.0..=60.0).contains(&second).then_some(())?;
    let micros = (second * MICROS as f64).round() as i64;
    date.and_time(start).checked_add_signed(chrono::Duration::microseconds(micros))
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{check, day, null, s, ts};

    fn int(value: i32) -> ScalarValue {
        ScalarValue::Int32(Some(value))
    }

    #[test]
    fn parts_are_taken() {
        check(&[
            ("year", vec![ts("2024-03-05 07:08:09")], "2024"),
            ("month", vec![s("2024-03-05")], "3"),
            ("quarter", vec![day("2024-03-05")], "1"),
            ("day", vec![day("2024-03-05")], "5"),
            ("dayofmonth", vec![day("2024-03-05")], "5"),
            ("dayofyear", vec![day("2024-03-05")], "65"),
            ("dayofweek", vec![day("2024-03-03")], "1"),
            ("dayofweek", vec![day("1969-12-31")], "4"),
            ("weekofyear", vec![day("2021-01-03")], "53"),
            ("dayname", vec![day("2024-03-05")], "Tue"),
            ("hour", vec![s("2024-03-05 07:08:09")], "7"),
            ("minute", vec![ts("2024-03-05 07:08:09")], "8"),
            ("second", vec![ts("2024-03-05 07:08:09.9")], "9"),
            ("year", vec![null()], "NULL"),
        ]);
    }

    #[test]
    fn moments_are_made_and_compared() {
        check(&[
            ("months_between", vec![s("1997-02-28 10:30:00"), s("1996-10-30")], "3.94959677"),
            ("months_between", vec![day("2024-02-29"), day("2024-01-31")], "1.0"),
            ("months_between", vec![day("2024-01-31"), null()], "NULL"),
            (
                "make_timestamp",
                vec![int(2024), int(3), int(5), int(7), int(8), ScalarValue::Float64(Some(9.5))],
                "2024-03-05T07:08:09.500",
            ),
            (
                "make_timestamp",
                vec![int(2024), int(3), int(5), int(7), int(8), int(60), s("+01:00")],
                "2024-03-05T06:09:00",
            ),
        ]);
    }
}
