//! Date and time patterns as Java writes them (`yyyy-MM-dd'T'HH:mm:ss.SSSXXX`), read once into items, then used to
//! write moments and to read them.
//!
//! Called by `datetime`. Everything is UTC: a moment is written as UTC shows it, and a zone that is read is applied.
//! Letters that Spark refuses (week-based ones, `u`) are refused here, too.

use std::fmt::Write;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Weekday};

use super::instant::{self, Cursor};
use crate::error::{Error, Result};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A pattern, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JavaPattern {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(String),
    Field {
        letter: char,
        count: usize,
        /// The next item is a number, too, with nothing in between: take no digit of it.
        adjacent: bool,
    },
    Optional(Vec<Item>),
}

impl JavaPattern {
    /// Understands `pattern`.
    ///
    /// # Errors
    /// `InvalidQuery` where a letter, a quote or a bracket makes no sense; the message names it.
    pub(super) fn new(pattern: &str) -> Result<Self> {
        let mut characters = pattern.chars().peekable();
        let mut open: Vec<Vec<Item>> = vec![Vec::new()];
        while let Some(letter) = characters.next() {
            let item = match letter {
                '[' => {
                    open.push(Vec::new());
                    continue;
                }
                ']' => match (open.pop(), open.is_empty()) {
                    (Some(items), false) => Item::Optional(items),
                    _ => return Err(bad(pattern, "a ']' closes nothing")),
                },
                '\'' if characters.next_if_eq(&'\'').is_some() => Item::Literal("'".to_string()),
                '\'' => Item::Literal(quoted(pattern, &mut characters)?),
                letter if letter.is_ascii_alphabetic() => {
                    let mut count = 1;
                    while characters.next_if_eq(&letter).is_some() {
                        count += 1;
                    }
                    field(pattern, letter, count)?
                }
                '#' | '{' | '}' => {
                    return Err(bad(pattern, &format!("'{letter}' is reserved; quote it")));
                }
                other => Item::Literal(other.to_string()),
            };
            if let Some(items) = open.last_mut() {
                items.push(item);
            }
        }
        match (open.pop(), open.is_empty()) {
            (Some(mut items), true) => {
                mark_adjacent(&mut items);
                Ok(Self { items })
            }
            _ => Err(bad(pattern, "a '[' is never closed")),
        }
    }

    /// Writes `moment`.
    pub(super) fn format(&self, moment: NaiveDateTime) -> String {
        let mut out = String::new();
        write_items(&self.items, moment, &mut out);
        out
    }

    /// Reads all of `text`, in microseconds since 1970-01-01 00:00 UTC; `None` where it does not fit the pattern or
    /// names no moment. What the pattern leaves out is taken from 1970-01-01 00:00:00.
    pub(super) fn parse(&self, text: &str) -> Option<i64> {
        let mut cursor = Cursor::new(text);
        let mut found = Found::default();
        read_items(&self.items, &mut cursor, &mut found)?;
        if !cursor.is_done() {
            return None;
        }
        found.moment()
    }
}

fn bad(pattern: &str, why: &str) -> Error {
    Error::invalid_query(format!("'{pattern}' is not a date and time pattern: {why}"))
}

fn quoted(pattern: &str, characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String> {
    let mut text = String::new();
    while let Some(character) = characters.next() {
        if character != '\'' {
            text.push(character);
        } else if characters.next_if_eq(&'\'').is_some() {
            text.push('\'');
        } else {
            return Ok(text);
        }
    }
    Err(bad(pattern, "a quote is never closed"))
}

fn field(pattern: &str, letter: char, count: usize) -> Result<Item> {
    let most = match letter {
        'G' | 'M' | 'L' | 'E' | 'Q' | 'q' | 'z' | 'O' => 4,
        'y' => 6,
        'D' => 3,
        'd' | 'H' | 'h' | 'K' | 'k' | 'm' | 's' => 2,
        'a' | 'F' => 1,
        'S' | 'n' => 9,
        'V' => 2,
        'X' | 'x' | 'Z' => 5,
        'Y' | 'w' | 'W' | 'u' | 'e' | 'c' => {
            return Err(bad(pattern, &format!("'{letter}' counts weeks; use 'y' for years, 'E' for the day of week")));
        }
        _ => {
            return Err(bad(pattern, &format!("'{letter}' stands for nothing; quote it to mean the letter itself")));
        }
    };
    if count > most || (letter == 'V' && count != 2) {
        return Err(bad(pattern, &format!("there are {count} '{letter}', where at most {most} mean something")));
    }
    Ok(Item::Field { letter, count, adjacent: false })
}

/// Tells each number that is followed by another at once, in `yyyyMMdd` the first two, to keep to its width.
fn mark_adjacent(items: &mut [Item]) {
    for i in 0..items.len() {
        let next_is_number = items.get(i + 1).is_some_and(is_number);
        match &mut items[i] {
            Item::Field { adjacent, .. } => *adjacent = next_is_number,
            Item::Optional(inner) => mark_adjacent(inner),
            Item::Literal(_) => {}
        }
    }
}

fn is_number(item: &Item) -> bool {
    match item {
        Item::Field { letter, count, .. } => match letter {
            'M' | 'L' | 'Q' | 'q' => *count <= 2,
            letter => "yDdHhKkmsSnF".contains(*letter),
        },
        _ => false,
    }
}

fn write_items(items: &[Item], moment: NaiveDateTime, out: &mut String) {
    for item in items {
        match item {
            Item::Literal(text) => out.push_str(text),
            Item::Optional(inner) => write_items(inner, moment, out),
            Item::Field { letter, count, .. } => write_field(*letter, *count, moment, out),
        }
    }
}

fn write_field(letter: char, count: usize, moment: NaiveDateTime, out: &mut String) {
    let (_, hour12) = moment.hour12();
    let quarter = moment.month0() / 3 + 1;
    let number = match letter {
        'y' => return write_year(count, moment, out),
        'G' => return out.push_str(era(count, moment.year())),
        'M' | 'L' if count > 2 => return out.push_str(name(&MONTHS, moment.month0(), count)),
        'E' => {
            return out.push_str(name(&WEEKDAYS, moment.weekday().num_days_from_monday(), count));
        }
        'a' => return out.push_str(if moment.hour() < 12 { "AM" } else { "PM" }),
        'Q' | 'q' if count > 2 => return out.push_str(&quarter_name(quarter, count)),
        'S' => {
            let nanos = format!("{:09}", moment.nanosecond());
            return out.push_str(nanos.get(..count).unwrap_or(&nanos));
        }
        'X' | 'x' | 'Z' | 'O' | 'V' | 'z' => return out.push_str(utc(letter, count)),
        'M' | 'L' => moment.month(),
        'Q' | 'q' => quarter,
        'd' => moment.day(),
        'D' => moment.ordinal(),
        'F' => moment.day0() % 7 + 1,
        'H' => moment.hour(),
        'h' => hour12,
        'K' => moment.hour() % 12,
        'k' => (moment.hour() + 23) % 24 + 1,
        'm' => moment.minute(),
        's' => moment.second(),
        'n' => moment.nanosecond(),
        _ => return,
    };
    push(out, format_args!("{number:0count$}"));
}

fn write_year(count: usize, moment: NaiveDateTime, out: &mut String) {
    let year = if moment.year() > 0 { moment.year() } else { 1 - moment.year() };
    match count {
        2 => push(out, format_args!("{:02}", year % 100)),
        _ if count >= 4 && year > 9999 => push(out, format_args!("+{year:0count$}")),
        _ => push(out, format_args!("{year:0count$}")),
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // a String takes whatever is written to it
    let _ = out.write_fmt(text);
}

fn era(count: usize, year: i32) -> &'static str {
    match (count > 3, year > 0) {
        (false, true) => "AD",
        (false, false) => "BC",
        (true, true) => "Anno Domini",
        (true, false) => "Before Christ",
    }
}

fn name(names: &[&'static str], index: u32, count: usize) -> &'static str {
    let name = usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default();
    if count > 3 { name } else { name.get(..3).unwrap_or(name) }
}

fn quarter_name(quarter: u32, count: usize) -> String {
    let ordinal = ["1st", "2nd", "3rd", "4th"];
    match (count, usize::try_from(quarter - 1).ok().and_then(|index| ordinal.get(index))) {
        (4, Some(ordinal)) => format!("{ordinal} quarter"),
        _ => format!("Q{quarter}"),
    }
}

/// How each letter of zones shows UTC.
fn utc(letter: char, count: usize) -> &'static str {
    match (letter, count) {
        ('X', _) | ('Z', 5) => "Z",
        ('x', 1) => "+00",
        ('x', 3 | 5) => "+00:00",
        ('O', _) | ('Z', 4) => "GMT",
        ('V', _) => "UTC",
        ('z', 4) => "Coordinated Universal Time",
        ('z', _) => "UTC",
        _ => "+0000",
    }
}

/// What was read so far.
#[derive(Debug, Default, Clone)]
struct Found {
    year: Option<i64>,
    before_christ: bool,
    month: Option<i64>,
    quarter: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    weekday: Option<u32>,
    hour: Option<i64>,
    half_day_hour: Option<i64>,
    afternoon: Option<bool>,
    minute: i64,
    second: i64,
    nanos: i64,
    zone: Option<String>,
}

impl Found {
    fn moment(&self) -> Option<i64> {
        let local = self.date()?.and_time(self.time()?);
        match &self.zone {
            None => Some(instant::micros(local)),
            Some(zone) => instant::in_zone(local, zone),
        }
    }

    fn date(&self) -> Option<NaiveDate> {
        let year = self.year.unwrap_or(1970);
        let year = i32::try_from(if self.before_christ { 1 - year } else { year }).ok()?;
        let date = match (self.day_of_year, self.month) {
            (Some(day), None) => NaiveDate::from_yo_opt(year, u32::try_from(day).ok()?)?,
            (_, month) => {
                let month = month.or(self.quarter.map(|quarter| quarter * 3 - 2)).unwrap_or(1);
                let day = self.day.unwrap_or(1);
                NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?)?
            }
        };
        match self.weekday {
            Some(weekday) if date.weekday().num_days_from_monday() != weekday => None,
            _ => Some(date),
        }
    }

    fn time(&self) -> Option<NaiveTime> {
        let hour = match (self.hour, self.half_day_hour) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => hour + if self.afternoon == Some(true) { 12 } else { 0 },
            (None, None) if self.afternoon == Some(true) => 12,
            (None, None) => 0,
        };
        let parts = [hour, self.minute, self.second, self.nanos];
        let [hour, minute, second, nanos] = parts.map(|part| u32::try_from(part).unwrap_or(u32::MAX));
        // a chrono second may leap, Spark's may not
        (nanos < 1_000_000_000).then_some(())?;
        NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)
    }
}

fn read_items(items: &[Item], cursor: &mut Cursor<'_>, found: &mut Found) -> Option<()> {
    for item in items {
        match item {
            Item::Literal(text) => cursor.eat_word(text).then_some(())?,
            Item::Optional(inner) => {
                let (start, before) = (cursor.position(), found.clone());
                if read_items(inner, cursor, found).is_none() {
                    cursor.seek(start);
                    *found = before;
                }
            }
            Item::Field { letter, count, adjacent } => read_field(*letter, *count, *adjacent, cursor, found)?,
        }
    }
    Some(())
}

fn read_field(letter: char, count: usize, adjacent: bool, cursor: &mut Cursor<'_>, found: &mut Found) -> Option<()> {
    match letter {
        'G' => found.before_christ = read_name(cursor, &["AD", "BC", "Anno Domini", "Before Christ"])? % 2 == 1,
        'y' => found.year = Some(read_year(count, adjacent, cursor)?),
        'M' | 'L' if count > 2 => found.month = Some(i64::from(read_calendar_name(cursor, &MONTHS, count)?) + 1),
        'M' | 'L' => found.month = Some(in_range(number(count, 2, adjacent, cursor)?, 1, 12)?),
        'E' => found.weekday = Some(read_calendar_name(cursor, &WEEKDAYS, count)?),
        'a' => found.afternoon = Some(read_name(cursor, &["AM", "PM"])? == 1),
        'Q' | 'q' => {
            if count > 2 {
                cursor.eat_word("Q").then_some(())?;
            }
            found.quarter = Some(in_range(cursor.digits(1, 2)?, 1, 4)?);
        }
        'd' => found.day = Some(in_range(number(count, 2, adjacent, cursor)?, 1, 31)?),
        'D' => found.day_of_year = Some(in_range(number(count, 3, adjacent, cursor)?, 1, 366)?),
        'F' => {
            cursor.digits(1, 1)?;
        }
        'H' => found.hour = Some(in_range(number(count, 2, adjacent, cursor)?, 0, 23)?),
        'k' => found.hour = Some(in_range(number(count, 2, adjacent, cursor)?, 1, 24)? % 24),
        'h' => found.half_day_hour = Some(in_range(number(count, 2, adjacent, cursor)?, 1, 12)? % 12),
        'K' => found.half_day_hour = Some(in_range(number(count, 2, adjacent, cursor)?, 0, 11)?),
        'm' => found.minute = in_range(number(count, 2, adjacent, cursor)?, 0, 59)?,
        's' => found.second = in_range(number(count, 2, adjacent, cursor)?, 0, 59)?,
        'n' => found.nanos = cursor.digits(1, 9)?,
        'S' => {
            let start = cursor.position();
            let digits = cursor.digits(1, count)?;
            let width = u32::try_from(cursor.position() - start).ok()?;
            found.nanos = digits * 10_i64.pow(9 - width);
        }
        _ => found.zone = Some(read_zone(cursor)?),
    }
    Some(())
}

fn in_range(number: i64, least: i64, most: i64) -> Option<i64> {
    (least..=most).contains(&number).then_some(number)
}

/// One letter takes as many digits as there are, up to `most`; several take exactly as many as there are letters.
fn number(count: usize, most: usize, adjacent: bool, cursor: &mut Cursor<'_>) -> Option<i64> {
    match (count, adjacent) {
        (1, false) => cursor.digits(1, most),
        (1, true) => cursor.digits(1, 1),
        _ => cursor.digits(count, count),
    }
}

fn read_year(count: usize, adjacent: bool, cursor: &mut Cursor<'_>) -> Option<i64> {
    match count {
        2 => Some(2000 + cursor.digits(2, 2)?),
        1 if !adjacent => cursor.digits(1, 9),
        1 => cursor.digits(4, 4),
        _ if cursor.eat(b'+') => cursor.digits(count, 9),
        _ => cursor.digits(count, count),
    }
}

/// Reads one of `names`, in whatever case, and returns which.
fn read_name(cursor: &mut Cursor<'_>, names: &[&str]) -> Option<usize> {
    names.iter().position(|name| cursor.eat_word(name))
}

fn read_calendar_name(cursor: &mut Cursor<'_>, names: &[&str], count: usize) -> Option<u32> {
    let position = names.iter().position(|name| match count {
        4.. => cursor.eat_word(name),
        _ => name.get(..3).is_some_and(|short| cursor.eat_word(short)),
    })?;
    u32::try_from(position).ok()
}

/// Reads a zone: the longest start of what is left that names one.
fn read_zone(cursor: &mut Cursor<'_>) -> Option<String> {
    let rest = cursor.rest();
    let of_zone = |c: &char| c.is_ascii_alphanumeric() || "+-:/_".contains(*c);
    let length = rest.chars().take_while(of_zone).count();
    let start = cursor.position();
    (1..=length).rev().find_map(|end| {
        let candidate = rest.get(..end)?;
        let noon = NaiveDate::from_yo_opt(1970, 1)?.and_time(NaiveTime::MIN);
        instant::in_zone(noon, candidate)?;
        cursor.seek(start + end);
        Some(candidate.to_string())
    })
}

/// Returns the short English name of a day of week.
pub(super) fn weekday_name(weekday: Weekday) -> &'static str {
    name(&WEEKDAYS, weekday.num_days_from_monday(), 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> NaiveDateTime {
        instant::moment_of(instant::try_timestamp(text).unwrap()).unwrap()
    }

    #[test]
    fn moments_are_written() {
        let table = [
            ("yyyy-MM-dd HH:mm:ss", "2024-03-05 07:08:09"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2024-03-05T07:08:09.123Z"),
            ("d/M/yy h:m a", "5/3/24 7:8 AM"),
            ("EEE, dd MMM yyyy", "Tue, 05 Mar 2024"),
            ("EEEE d MMMM y G", "Tuesday 5 March 2024 AD"),
            ("D DDD", "65 065"),
            ("'o''clock' kk K ''", "o'clock 07 7 '"),
            ("yyyy[-MM]", "2024-03"),
            ("QQQ q QQQQ", "Q1 1 1st quarter"),
            ("SSSSSS n", "123456 123456000"),
            ("VV z O x xx xxx Z ZZZZ", "UTC UTC GMT +00 +0000 +00:00 +0000 GMT"),
        ];
        for (pattern, expected) in table {
            let written = JavaPattern::new(pattern).unwrap().format(moment("2024-03-05 07:08:09.123456"));
            assert_eq!(written, expected, "{pattern}");
        }
        assert_eq!(JavaPattern::new("hh a kk").unwrap().format(moment("2024-01-01 00:00:00")), "12 AM 24");
    }

    #[test]
    fn moments_are_read() {
        let table = [
            ("yyyy-MM-dd HH:mm:ss", "2024-03-05 07:08:09", Some("2024-03-05 07:08:09")),
            ("yyyyMMddHHmmss", "20240305070809", Some("2024-03-05 07:08:09")),
            ("d/M/yyyy", "5/3/2024", Some("2024-03-05")),
            ("dd-MMM-yy", "05-mar-24", Some("2024-03-05")),
            ("EEEE d MMMM yyyy", "Tuesday 5 March 2024", Some("2024-03-05")),
            ("hh:mm a", "12:30 am", Some("1970-01-01 00:30")),
            ("hh:mm a", "12:30 PM", Some("1970-01-01 12:30")),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2024-03-05T07:08:09.5+02:00", Some("2024-03-05 05:08:09.5")),
            ("yyyy-MM-dd HH:mm z", "2024-03-05 07:08 Europe/Berlin", Some("2024-03-05 06:08")),
            ("yyyy-MM-dd[ HH:mm]", "2024-03-05", Some("2024-03-05")),
            ("yyyy-DDD", "2024-065", Some("2024-03-05")),
            ("EEE yyyy-MM-dd", "Mon 2024-03-05", None),
            ("yyyy-MM-dd", "2024-02-30", None),
            ("yyyy-MM-dd", "2024-3-5", None),
            ("yyyy-MM-dd", "2024-03-05 07:08", None),
            ("HH:mm", "24:00", None),
        ];
        for (pattern, text, expected) in table {
            let read = JavaPattern::new(pattern).unwrap().parse(text);
            assert_eq!(read, expected.map(|e| instant::try_timestamp(e).unwrap()), "{text} as {pattern}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for pattern in ["YYYY-MM-dd", "yyyy-MM-dd'T", "yyyy]", "[yyyy", "b", "HHH", "uuuu"] {
            assert!(JavaPattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
