//! Reads timestamps and dates from the text of JSON and CSV files.
//!
//! Called by [`super::column`] for each value, so it makes no copy. Guards one rule: a text without a zone is UTC, and
//! a text that is not wholly a timestamp is none at all.

use chrono::{Datelike, NaiveDate, NaiveTime, TimeZone, Timelike};
use datafusion::arrow::array::timezone::Tz;

/// Days from 0001-01-01 (day 1 of the common era) to 1970-01-01.
const EPOCH_DAY: i32 = 719_163;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Reads a timestamp as microseconds since the epoch: a date, or a date, `T` or a blank, `hh:mm[:ss[.fraction]]` and
/// a zone if wanted (`Z`, `+01:00`, `UTC`, `America/New_York`).
pub(in crate::source) fn parse_timestamp_us(text: &str) -> Option<i64> {
    if let Some(us) = usual_timestamp_us(text.as_bytes()) {
        return Some(us);
    }
    let text = text.trim();
    let (date, rest) = leading_date(text)?;
    let day = i64::from(date.num_days_from_ce() - EPOCH_DAY);
    let Some(rest) = rest.strip_prefix(['T', 't', ' ']) else {
        return rest.is_empty().then_some(day * 86_400 * MICROS_PER_SECOND);
    };
    let (hour, rest) = leading_number(rest, 2)?;
    let (minute, rest) = leading_number(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = match rest.strip_prefix(':') {
        Some(rest) => leading_number(rest, 2)?,
        None => (0, rest),
    };
    let (fraction_us, rest) = match rest.strip_prefix('.') {
        Some(rest) => leading_fraction(rest)?,
        None => (0, rest),
    };
    let time = NaiveTime::from_hms_opt(hour, minute, second)?;
    let local_s = day * 86_400 + i64::from(time.num_seconds_from_midnight());
    let offset_s = match rest.trim_start() {
        "" | "Z" | "z" | "UTC" | "GMT" | "UT" => 0,
        zone => zone_offset_s(zone, date, time)?,
    };
    Some((local_s - offset_s) * MICROS_PER_SECOND + fraction_us)
}

/// Reads the spelling that nearly all timestamps have, `yyyy-mm-ddThh:mm:ss[.fraction][Z]`, without looking for others.
fn usual_timestamp_us(text: &[u8]) -> Option<i64> {
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    let (whole, fraction) = text.split_first_chunk::<19>()?;
    let number = |at: usize, digits: usize| {
        whole[at..at + digits]
            .iter()
            .try_fold(0_i64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
    };
    if [whole[4], whole[7], whole[13], whole[16]] != *b"--::" || !matches!(whole[10], b'T' | b' ') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    // The last days of months are left to the calendar.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction_us = match fraction.split_first() {
        None => 0,
        Some((b'.', digits)) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let shown = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
            shown.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'))
        }
        Some(_) => return None,
    };
    // Years that begin in March end with the leap day: https://howardhinnant.github.io/date_algorithms.html
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 * MICROS_PER_SECOND + second * MICROS_PER_SECOND + fraction_us)
}

/// Reads a date as days since the epoch; what follows a `T` or a blank is not looked at.
pub(in crate::source) fn parse_date_days(text: &str) -> Option<i32> {
    let (date, rest) = leading_date(text.trim())?;
    (rest.is_empty() || rest.starts_with(['T', ' '])).then(|| date.num_days_from_ce() - EPOCH_DAY)
}

/// Reads `yyyy[-[m]m[-[d]d]]` and returns what follows it.
fn leading_date(text: &str) -> Option<(NaiveDate, &str)> {
    let (year, rest) = leading_number(text, 4)?;
    if text.len() - rest.len() != 4 {
        return None;
    }
    let Some(rest) = rest.strip_prefix('-') else {
        return rest.is_empty().then_some((NaiveDate::from_ymd_opt(year as i32, 1, 1)?, rest));
    };
    let (month, rest) = leading_number(rest, 2)?;
    let Some(rest) = rest.strip_prefix('-') else {
        return rest.is_empty().then_some((NaiveDate::from_ymd_opt(year as i32, month, 1)?, rest));
    };
    let (day, rest) = leading_number(rest, 2)?;
    Some((NaiveDate::from_ymd_opt(year as i32, month, day)?, rest))
}

/// Reads one to `most` digits and returns what follows them.
fn leading_number(text: &str, most: usize) -> Option<(u32, &str)> {
    let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let value = text.bytes().take(digits).fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some((value, &text[digits..]))
}

/// Reads the digits after a decimal point as microseconds; digits beyond the sixth are cut off.
fn leading_fraction(text: &str) -> Option<(i64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let shown = text.bytes().take(digits.min(6)).fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    let scale = 10_i64.pow(6 - digits.min(6) as u32);
    Some((shown * scale, &text[digits..]))
}

/// Returns how far `zone` is ahead of UTC at a local time.
fn zone_offset_s(zone: &str, date: NaiveDate, time: NaiveTime) -> Option<i64> {
    let signed = ["UTC", "GMT", "UT"].iter().find_map(|name| zone.strip_prefix(name)).unwrap_or(zone);
    let sign = match signed.bytes().next()? {
        b'+' => 1,
        b'-' => -1,
        _ => {
            let region: Tz = zone.parse().ok()?;
            let utc = region.from_local_datetime(&date.and_time(time)).earliest()?.naive_utc();
            return Some(date.and_time(time).signed_duration_since(utc).num_seconds());
        }
    };
    let (hours, rest) = leading_number(&signed[1..], 2)?;
    let (minutes, rest) = match rest.strip_prefix(':').unwrap_or(rest) {
        "" => (0, ""),
        rest => leading_number(rest, 2)?,
    };
    let (seconds, rest) = match rest.strip_prefix(':') {
        Some(rest) => leading_number(rest, 2)?,
        None => (0, rest),
    };
    let within = hours <= 18 && minutes < 60 && seconds < 60 && rest.is_empty();
    within.then(|| sign * i64::from(hours * 3600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_instant_is_read_from_every_spelling() {
        let expected = Some(1_357_020_000_000_000);
        for text in [
            "2013-01-01T06:00:00",
            "2013-01-01 06:00:00",
            "2013-01-01 06:00",
            "2013-1-1T6:00:00.000Z",
            "2013-01-01T07:00:00+01:00",
            "2013-01-01T07:00:00 +0100",
            "2013-01-01T01:00:00-05",
            "2013-01-01T01:00:00 UTC-5",
        ] {
            assert_eq!(parse_timestamp_us(text), expected, "{text}");
        }
        assert_eq!(parse_timestamp_us("2013-01-01T06:00:00.1234567"), expected.map(|us| us + 123_456));
        assert_eq!(parse_timestamp_us("1969-12-31T23:59:59.5"), Some(-500_000));
    }

    #[test]
    fn the_usual_spelling_is_read_as_the_calendar_has_it() {
        for year in [0, 1, 1600, 1899, 1969, 1970, 1999, 2000, 2024, 2026, 2100, 9999] {
            for (month, day) in [(1, 1), (2, 28), (3, 1), (6, 15), (12, 28)] {
                let text = format!("{year:04}-{month:02}-{day:02}T23:59:58.25");
                let date = NaiveDate::from_ymd_opt(year, month, day).unwrap();
                let time = date.and_hms_milli_opt(23, 59, 58, 250).unwrap();
                assert_eq!(usual_timestamp_us(text.as_bytes()), Some(time.and_utc().timestamp_micros()), "{text}");
            }
        }
        for text in [
            "2026-01-29T00:00:00",
            "2026-01-01T00:00",
            "2026-01-01T24:00:00",
            "2026-01-01T00:00:00.",
            "2026-01-01T00:00:00+01",
        ] {
            assert_eq!(usual_timestamp_us(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_wholly_a_timestamp_is_none() {
        for text in
            ["", "soon", "2013-02-30", "2013-01-01T25:00:00", "2013-01-01T06:00:00 later", "2013-01-01x", "13-1-1"]
        {
            assert_eq!(parse_timestamp_us(text), None, "{text}");
        }
        assert_eq!(parse_date_days("1970-01-02"), Some(1));
        assert_eq!(parse_date_days("1970-01-02 03:04"), Some(1));
        assert_eq!(parse_date_days("1970-01-02x"), None);
    }
}
