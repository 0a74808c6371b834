//! Reads dates and timestamps as Spark's casts do, without a pattern: `2024-3-1`, `2024-03-01 12:30`,
//! `2024-03-01T12:30:00.5+01:00`, `2024`.
//!
//! Called by the frame of functions for text that stands for a date or a timestamp, by `datetime` and by `json`. Zones
//! are applied here, so that every number which leaves is UTC.

use std::str::FromStr;

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};
use datafusion::arrow::array::timezone::Tz;
use datafusion::common::Result;

use crate::error::Error;

/// Microseconds of a second.
pub(super) const MICROS: i64 = 1_000_000;

/// Microseconds of a day.
pub(super) const MICROS_PER_DAY: i64 = 86_400 * MICROS;

/// Days from 0001-01-01, which is day 1, to 1970-01-01.
const EPOCH_FROM_YEAR_ONE: i32 = 719_163;

/// Reads a date, in days since 1970-01-01.
///
/// # Errors
/// `DataInvalid` where `text` is not a date.
pub(super) fn date(text: &str) -> Result<i32> {
    try_date(text).ok_or_else(|| {
        Error::data_invalid(format!("'{text}' is not a date; give it as 2024-03-01, or read it with a pattern")).into()
    })
}

/// Reads a timestamp, in microseconds since 1970-01-01 00:00 UTC.
///
/// # Errors
/// `DataInvalid` where `text` is not a timestamp.
pub(super) fn timestamp(text: &str) -> Result<i64> {
    try_timestamp(text).ok_or_else(|| {
        let message = format!("'{text}' is not a timestamp; give it as 2024-03-01 12:30:00, or read it with a pattern");
        Error::data_invalid(message).into()
    })
}

/// Reads a date, or returns `None` where `text` is not one.
pub(super) fn try_date(text: &str) -> Option<i32> {
    let mut cursor = Cursor::new(text.trim());
    let date = cursor.date()?;
    (cursor.is_done() || matches!(cursor.peek(), Some(b' ' | b'T'))).then(|| days(date))
}

/// Reads a timestamp, or returns `None` where `text` is not one.
pub(super) fn try_timestamp(text: &str) -> Option<i64> {
    let mut cursor = Cursor::new(text.trim());
    let date = cursor.date()?;
    if cursor.is_done() {
        return Some(micros(date.and_time(NaiveTime::MIN)));
    }
    if !cursor.eat(b' ') && !cursor.eat(b'T') {
        return None;
    }
    let time = cursor.time()?;
    let local = date.and_time(time);
    match cursor.rest().trim() {
        "" => Some(micros(local)),
        zone => in_zone(local, zone),
    }
}

/// Returns days since 1970-01-01.
pub(super) fn days(date: NaiveDate) -> i32 {
    date.num_days_from_ce() - EPOCH_FROM_YEAR_ONE
}

/// Returns the date that is `days` after 1970-01-01, where the calendar has one.
pub(super) fn date_of(days: i32) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(days.checked_add(EPOCH_FROM_YEAR_ONE)?)
}

/// Returns microseconds since 1970-01-01 00:00.
pub(super) fn micros(moment: NaiveDateTime) -> i64 {
    moment.and_utc().timestamp_micros()
}

/// Returns the moment that is `micros` after 1970-01-01 00:00, where the calendar has one.
pub(super) fn moment_of(micros: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp_micros(micros).map(|moment| moment.naive_utc())
}

/// Returns the day of a timestamp.
pub(super) fn day_of(micros: i64) -> Option<i32> {
    i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok()
}

/// Returns the moment at which clocks in `zone` show `local`: an offset (`+01:00`, `Z`, `GMT-3`) or a region.
pub(super) fn in_zone(local: NaiveDateTime, zone: &str) -> Option<i64> {
    if let Some(offset) = offset_seconds(zone) {
        return micros(local).checked_sub(i64::from(offset) * MICROS);
    }
    let zone = Tz::from_str(zone).ok()?;
    // clocks that are put forward skip an hour: what was meant in it lies an hour later
    let moment = zone.from_local_datetime(&local).earliest();
    let moment = moment.or_else(|| {
        let later = local.checked_add_signed(Duration::hours(1))?;
        zone.from_local_datetime(&later).earliest()
    });
    moment.map(|moment| moment.timestamp_micros())
}

/// Reads an offset from UTC, in seconds.
pub(super) fn offset_seconds(zone: &str) -> Option<i32> {
    let prefixes = ["UTC", "GMT", "UT"];
    let rest = prefixes.iter().find_map(|prefix| zone.strip_prefix(prefix)).unwrap_or(zone);
    let bare_prefix = rest.is_empty() && !zone.is_empty();
    if bare_prefix || zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let mut cursor = Cursor::new(rest);
    let sign = if cursor.eat(b'-') { -1 } else { cursor.eat(b'+').then_some(1)? };
    let hours = cursor.digits(1, 2)?;
    let mut rest_of_offset = [0, 0];
    for part in &mut rest_of_offset {
        if cursor.is_done() {
            break;
        }
        cursor.eat(b':');
        *part = cursor.digits(1, 2)?;
    }
    let [minutes, seconds] = rest_of_offset;
    if !cursor.is_done() || hours > 18 || minutes > 59 || seconds > 59 {
        return None;
    }
    i32::try_from(sign * (hours * 3600 + minutes * 60 + seconds)).ok()
}

/// Reads text from left to right.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the beginning of `text`.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Returns whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Returns the next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Returns what is left.
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Returns where the cursor stands, in bytes.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes back, or on, to a position that it had.
    pub(super) fn seek(&mut self, position: usize) {
        self.at = position;
    }

    /// Passes over `byte` where it is next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    /// Passes over `word`, in whatever case, where it is next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let next = self.rest().get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        if next {
            self.at += word.len();
        }
        next
    }

    /// Reads a number of at least `least` and at most `most` digits.
    pub(super) fn digits(&mut self, least: usize, most: usize) -> Option<i64> {
        let count = self.rest().bytes().take(most).take_while(u8::is_ascii_digit).count();
        if count < least {
            return None;
        }
        let number = self.rest().get(..count)?.parse().ok()?;
        self.at += count;
        Some(number)
    }

    /// Reads `year[-month[-day]]`.
    fn date(&mut self) -> Option<NaiveDate> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let year = self.digits(4, 7)?;
        let mut month_and_day = [1, 1];
        for part in &mut month_and_day {
            if !self.eat(b'-') {
                break;
            }
            *part = self.digits(1, 2)?;
        }
        let year = i32::try_from(if negative { -year } else { year }).ok()?;
        let [month, day] = month_and_day;
        NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?)
    }

    /// Reads `hour[:minute[:second[.fraction]]]`.
    fn time(&mut self) -> Option<NaiveTime> {
        let mut parts = [self.digits(1, 2)?, 0, 0];
        let mut micro = 0;
        for part in &mut parts[1..] {
            if !self.eat(b':') {
                break;
            }
            *part = self.digits(1, 2)?;
        }
        if self.eat(b'.') {
            micro = self.fraction()?;
        }
        let [hour, minute, second] = parts.map(|part| u32::try_from(part).unwrap_or(u32::MAX));
        NaiveTime::from_hms_micro_opt(hour, minute, second, micro)
    }

    /// Reads digits behind a decimal point as microseconds; what is finer is cut off.
    fn fraction(&mut self) -> Option<u32> {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let digits = self.rest().get(..count)?;
        self.at += count;
        format!("{:0<6}", digits.get(..count.min(6))?).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_as_a_cast_reads_them() {
        let noon = 1_709_294_400 * MICROS; // 2024-03-01 12:00 UTC
        let table = [
            ("2024-03-01 12:00:00", Some(noon)),
            (" 2024-3-1T12:0 ", Some(noon)),
            ("2024-03-01 12:00:00.25", Some(noon + 250_000)),
            ("2024-03-01 12:00:00.1234567", Some(noon + 123_456)),
            ("2024-03-01T12:00:00Z", Some(noon)),
            ("2024-03-01T14:00:00+02:00", Some(noon)),
            ("2024-03-01 14:00:00+0200", Some(noon)),
            ("2024-03-01 09:00:00 GMT-3", Some(noon)),
            ("2024-03-01 13:00:00 Europe/Berlin", Some(noon)),
            ("2024-03-01", Some(noon - 43_200 * MICROS)),
            ("2024", Some(1_704_067_200 * MICROS)),
            ("1969-12-31 23:59:59", Some(-MICROS)),
            ("2024-02-30", None),
            ("2024-03-01 25:00:00", None),
            ("2024-03-01 12:00:00 nowhere", None),
            ("03/01/2024", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(try_timestamp(text), expected, "{text}");
        }
    }

    #[test]
    fn a_date_may_be_followed_by_a_time() {
        assert_eq!(try_date("1970-01-02"), Some(1));
        assert_eq!(try_date("1970-01-02T10:00:00Z"), Some(1));
        assert_eq!(try_date("1970-01-02x"), None);
        assert_eq!(date_of(days(NaiveDate::MIN)), Some(NaiveDate::MIN));
    }
}
