//! Intervals as Spark writes them: `10 seconds`, `1 hour 30 minutes`, `interval 2 weeks`, `1.5 s`.
//!
//! Watermark delays, triggers, window sizes and INTERVAL literals all read their text here, so that one text means the
//! same everywhere. Years and months stay months, weeks and days stay days; only [`duration_us`] makes one number.

use datafusion::arrow::datatypes::IntervalMonthDayNano;

use crate::error::{Error, Result};
use crate::options::nearest;

const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// The days a month counts for where one number is asked for: Spark's watermark delay does the same.
const DAYS_PER_MONTH: i128 = 31;

/// A unit of time; exactly one of its three amounts is not zero.
#[derive(Debug)]
struct Unit {
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    months: i128,
    days: i128,
    nanos: i128,
}

/// Makes a row of the table of units.
const fn unit(
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    (months, days, nanos): (i128, i128, i128),
) -> Unit {
    Unit { plural, singular, short, months, days, nanos }
}

static UNITS: [Unit; 10] = [
    unit("years", "year", &["y"], (12, 0, 0)),
    unit("months", "month", &["mon", "mons"], (1, 0, 0)),
    unit("weeks", "week", &["w"], (0, 7, 0)),
    unit("days", "day", &["d"], (0, 1, 0)),
    unit("hours", "hour", &["h", "hr", "hrs"], (0, 0, 3_600_000_000_000)),
    unit("minutes", "minute", &["m", "min", "mins"], (0, 0, 60_000_000_000)),
    unit("seconds", "second", &["s", "sec", "secs"], (0, 0, 1_000_000_000)),
    unit("milliseconds", "millisecond", &["ms"], (0, 0, 1_000_000)),
    unit("microseconds", "microsecond", &["us"], (0, 0, 1_000)),
    unit("nanoseconds", "nanosecond", &["ns"], (0, 0, 1)),
];

/// One number with its unit.
struct Component {
    negative: bool,
    whole: i128,
    /// The digits after the point, at most nine.
    fraction: String,
    unit: &'static Unit,
}

/// Parses an interval such as `1 hour 30 minutes`; the word INTERVAL may stand before it.
///
/// # Errors
/// `InvalidQuery` where the text is no interval: it names the unit that was meant.
pub fn parse_interval(text: &str) -> Result<IntervalMonthDayNano> {
    let (months, days, nanos) = totals(text)?;
    match (i32::try_from(months), i32::try_from(days), i64::try_from(nanos)) {
        (Ok(months), Ok(days), Ok(nanos)) => Ok(IntervalMonthDayNano::new(months, days, nanos)),
        _ => Err(too_long(text)),
    }
}

/// Parses an interval into microseconds; a month counts 31 days, a day 24 hours.
///
/// # Errors
/// `InvalidQuery` where the text is no interval.
pub fn duration_us(text: &str) -> Result<i64> {
    let (months, days, nanos) = totals(text)?;
    let all = (months * DAYS_PER_MONTH + days) * NANOS_PER_DAY + nanos;
    i64::try_from(all / 1_000).map_err(|_| too_long(text))
}

/// Writes an interval the way the SQL planner reads it: every number followed by the unit's whole name.
pub(super) fn canonical(text: &str) -> Result<String> {
    parse_interval(text)?;
    let written = components(text)?.into_iter().map(|c| {
        let sign = if c.negative { "-" } else { "" };
        let point = if c.fraction.is_empty() { "" } else { "." };
        format!("{sign}{}{point}{} {}", c.whole, c.fraction, c.unit.plural)
    });
    Ok(written.collect::<Vec<_>>().join(" "))
}

/// Returns whether `word` is a unit's whole name; abbreviations are units only within quotes.
pub(super) fn is_unit(word: &str) -> bool {
    UNITS.iter().any(|u| word.eq_ignore_ascii_case(u.plural) || word.eq_ignore_ascii_case(u.singular))
}

/// Writes an interval of several units behind one another, such as `'1 12:30:00' DAY TO SECOND`, with a unit behind
/// each number; nothing where the text has not the numbers of the units from `first` to `last`.
pub(super) fn spelled_out(text: &str, first: &str, last: &str) -> Option<String> {
    const RANGES: &[&[&str]] = &[&["year", "month"], &["day", "hour", "minute", "second"]];
    let place = |units: &[&str], unit: &str| units.iter().position(|u| u.eq_ignore_ascii_case(unit));
    let (units, from, to) = RANGES.iter().find_map(|units| Some((units, place(units, first)?, place(units, last)?)))?;
    let units = units.get(from..=to)?;
    let (sign, numbers) = match text.trim().strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.trim()),
    };
    let numbers: Vec<&str> = numbers.split([' ', ':', '-']).collect();
    let whole =
        |number: &&str| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit() || digit == b'.');
    if numbers.len() != units.len() || !numbers.iter().all(whole) {
        return None;
    }
    let parts: Vec<String> =
        numbers.iter().zip(units).map(|(number, unit)| format!("{sign}{number} {unit}s")).collect();
    Some(parts.join(" "))
}

/// Returns an interval without months as microseconds; a day is 24 hours.
///
/// # Errors
/// `InvalidQuery` where it has months, which have no fixed length.
pub fn interval_us(interval: &IntervalMonthDayNano) -> Result<i64> {
    if interval.months != 0 {
        return Err(Error::invalid_query("months have no fixed length; use days"));
    }
    Ok(i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1_000)
}

/// Sums an interval as (months, days, nanoseconds).
fn totals(text: &str) -> Result<(i128, i128, i128)> {
    let (mut months, mut days, mut nanos) = (0, 0, 0);
    for component in components(text)? {
        let Component { negative, whole, fraction, unit } = component;
        let sign = if negative { -1 } else { 1 };
        months += sign * whole * unit.months;
        days += sign * whole * unit.days;
        nanos += sign * (whole * unit.nanos);
        let part = fraction.trim_end_matches('0');
        if part.is_empty() {
            continue;
        }
        if unit.months > 0 {
            return Err(bad(text, &format!("{} have no fractions", unit.plural)));
        }
        let digits: i128 = part.parse().map_err(|_| bad(text, "a number was expected"))?;
        let scale = 10_i128.pow(u32::try_from(part.len()).unwrap_or(9));
        nanos += sign * digits * (unit.days * NANOS_PER_DAY + unit.nanos) / scale;
    }
    Ok((months, days, nanos))
}

/// Reads the numbers and units of an interval.
fn components(text: &str) -> Result<Vec<Component>> {
    let mut rest = text.trim();
    if let (Some(head), Some(tail)) = (rest.get(..8), rest.get(8..))
        && head.eq_ignore_ascii_case("interval")
        && tail.starts_with(char::is_whitespace)
    {
        rest = tail.trim_start();
    }
    if rest.is_empty() {
        return Err(bad(text, "it is empty: write '10 seconds'"));
    }
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (component, tail) = component(text, rest)?;
        all.push(component);
        rest = tail;
    }
    Ok(all)
}

/// Reads one number with its unit off the front of `rest`.
fn component<'a>(text: &str, rest: &'a str) -> Result<(Component, &'a str)> {
    let negative = rest.starts_with('-');
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start();
    let (number, tail) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
    let (name, tail) = split_where(tail.trim_start(), |c| !c.is_alphabetic());
    if number.is_empty() {
        return Err(bad(text, &format!("a number was expected at '{rest}'")));
    }
    if name.is_empty() {
        return Err(bad(text, &format!("{number} has no unit: write '{number} seconds'")));
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || fraction.len() > 9 || whole.len() > 18 || number == "." {
        return Err(bad(text, &format!("{number} is not a number of at most 18 digits, nine more after the point")));
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad(text, "a number was expected"))? };
    let unit = find_unit(name).ok_or_else(|| unknown_unit(text, name))?;
    Ok((Component { negative, whole, fraction: fraction.to_string(), unit }, tail.trim_start()))
}

/// Splits before the first character that `stops`.
fn split_where(text: &str, stops: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stops).unwrap_or(text.len()))
}

/// Finds a unit by any of its names.
fn find_unit(name: &str) -> Option<&'static Unit> {
    let lower = name.to_lowercase();
    UNITS.iter().find(|u| lower == u.plural || lower == u.singular || u.short.contains(&lower.as_str()))
}

fn unknown_unit(text: &str, name: &str) -> Error {
    let known: Vec<&str> = UNITS.iter().flat_map(|u| [u.plural, u.singular]).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("units are {}", UNITS.iter().map(|u| u.plural).collect::<Vec<_>>().join(", ")),
    };
    bad(text, &format!("'{name}' is no unit of time; {hint}"))
}

fn too_long(text: &str) -> Error {
    bad(text, "it is longer than can be counted")
}

fn bad(text: &str, why: &str) -> Error {
    Error::invalid_query(format!("'{text}' is not an interval: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_has_its_length() {
        const SECOND: i64 = 1_000_000;
        for (text, us) in [
            ("10 seconds", 10 * SECOND),
            ("1 hour 30 minutes", 5_400 * SECOND),
            ("2 weeks", 14 * 86_400 * SECOND),
            ("1 day", 86_400 * SECOND),
            ("500 milliseconds", SECOND / 2),
            ("1.5 seconds", 3 * SECOND / 2),
            (".5 s", SECOND / 2),
            ("INTERVAL 10 minutes", 600 * SECOND),
            ("10s", 10 * SECOND),
            ("250ms", SECOND / 4),
            ("1h 5m", 3_900 * SECOND),
            ("3 min", 180 * SECOND),
            ("0.5 d", 43_200 * SECOND),
            ("-10 seconds", -10 * SECOND),
            ("1 hour -30 minutes", 1_800 * SECOND),
            ("1 month", 31 * 86_400 * SECOND),
            ("0 seconds", 0),
        ] {
            assert_eq!(duration_us(text).unwrap(), us, "{text}");
        }
    }

    #[test]
    fn months_and_days_stay_what_they_are() {
        assert_eq!(parse_interval("1 year 2 months 3 days").unwrap(), IntervalMonthDayNano::new(14, 3, 0));
        assert_eq!(parse_interval("-2 weeks 1 ns").unwrap(), IntervalMonthDayNano::new(0, -14, 1));
        assert_eq!(parse_interval("-1.25 seconds").unwrap(), IntervalMonthDayNano::new(0, 0, -1_250_000_000));
    }

    #[test]
    fn the_canonical_text_has_whole_units_only() {
        assert_eq!(canonical("interval 1 HOUR -1.50s").unwrap(), "1 hours -1.50 seconds");
        assert!(is_unit("Seconds") && !is_unit("s"));
    }

    #[test]
    fn a_range_of_units_is_spelled_out() {
        for (text, first, last, expected) in [
            ("1 12:30:00", "DAY", "SECOND", Some("1 days 12 hours 30 minutes 00 seconds")),
            ("-1 2:03", "day", "minute", Some("-1 days -2 hours -03 minutes")),
            ("10:00.5", "MINUTE", "SECOND", Some("10 minutes 00.5 seconds")),
            ("1-2", "YEAR", "MONTH", Some("1 years 2 months")),
            ("1 12", "DAY", "SECOND", None),
            ("1-x", "YEAR", "MONTH", None),
            ("1", "SECOND", "DAY", None),
            ("1", "MONTH", "DAY", None),
        ] {
            assert_eq!(spelled_out(text, first, last).as_deref(), expected, "{text}");
        }
        assert_eq!(duration_us("1 days 12 hours 30 minutes 00 seconds").unwrap(), 131_400_000_000);
    }

    #[test]
    fn errors_say_what_would_do() {
        for (text, part) in [
            ("10 secnds", "did you mean 'seconds'?"),
            ("10 parsecs", "units are years, months"),
            ("10", "10 has no unit: write '10 seconds'"),
            ("", "it is empty"),
            ("ten seconds", "a number was expected at 'ten seconds'"),
            ("1.5 months", "months have no fractions"),
            ("999999999999 years", "longer than can be counted"),
        ] {
            let error = parse_interval(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
