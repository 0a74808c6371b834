//! How an event time puts a row into windows, and when what it belongs to expires.
//!
//! Times are microseconds since the epoch. A window is half-open, `[start, end)`, aligned to the epoch plus an offset;
//! it expires when its end is at or below the watermark. A bare event time expires when it is itself.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StructArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::Result as PlanResult;
use datafusion::common::cast::as_struct_array;

use super::watermark::micros;
use crate::error::{Error, Result};

/// Rows of a bare event time share tables by the minute in which they expire.
const BUCKET_US: i64 = 60_000_000;
/// The table of rows that never expire, having no event time.
pub const TIMELESS: i64 = i64::MIN;

/// The type of `window.start` and `window.end`.
pub const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Tumbling or sliding windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowSpec {
    /// The length.
    pub size_us: i64,
    /// From one start to the next; the size itself where windows tumble.
    pub slide_us: i64,
    /// Where windows start, after the epoch.
    pub start_us: i64,
}

impl WindowSpec {
    /// Makes windows, checking as Spark does.
    ///
    /// # Errors
    /// `InvalidQuery` where the size or slide is not above zero, the slide is longer than the size (rows would fall
    /// between windows), or the start offset is not shorter than the slide.
    pub fn new(size_us: i64, slide_us: i64, start_us: i64) -> Result<Self> {
        if size_us <= 0 || slide_us <= 0 {
            return Err(Error::invalid_query("window(): the window's length and slide must be above zero"));
        }
        if slide_us > size_us {
            return Err(Error::invalid_query(
                "window(): the slide must not be longer than the window, or rows would fall between windows",
            ));
        }
        if start_us.abs() >= slide_us {
            return Err(Error::invalid_query("window(): the start offset must be shorter than the slide"));
        }
        Ok(Self { size_us, slide_us, start_us })
    }

    /// Returns whether each row falls into one window only.
    pub fn tumbles(&self) -> bool {
        self.size_us == self.slide_us
    }

    /// The greatest length that divides every window: rows of one pane share all their windows.
    fn pane_us(&self) -> i64 {
        let (mut a, mut b) = (self.size_us, self.slide_us);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// Returns the start of the pane that `time_us` falls into.
    pub fn pane_of(&self, time_us: i64) -> i64 {
        let pane = self.pane_us();
        (time_us - self.start_us).div_euclid(pane) * pane + self.start_us
    }

    /// Returns the starts of the windows that hold the pane (or time) at `time_us`, latest first.
    pub fn starts(&self, time_us: i64) -> impl Iterator<Item = i64> + use<> {
        let (size, slide) = (self.size_us, self.slide_us);
        let last = (time_us - self.start_us).div_euclid(slide) * slide + self.start_us;
        (0..).map(move |i| last - i * slide).take_while(move |start| start + size > time_us)
    }
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "window({}", span(self.size_us))?;
        if !self.tumbles() {
            write!(f, " every {}", span(self.slide_us))?;
        }
        if self.start_us != 0 {
            write!(f, " from {}", span(self.start_us))?;
        }
        f.write_str(")")
    }
}

/// A span of time in the largest unit that has no remainder: `90 seconds`, `1 hour`.
pub(crate) fn span(us: i64) -> String {
    const UNITS: [(i64, &str); 6] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "millisecond"),
        (1, "microsecond"),
    ];
    let whole = UNITS.iter().find(|(length, _)| us != 0 && us % length == 0);
    let (length, unit) = whole.copied().unwrap_or((1_000_000, "second"));
    let count = us / length;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Which of a group's keys tells when the group expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKey {
    /// The group expression at this index is `window(ts, …)`: the operator makes the windows itself.
    Window(usize, WindowSpec),
    /// The group expression at this index is an event time; the group expires `after_us` later.
    Time {
        /// Which group expression.
        index: usize,
        /// How long after the time itself.
        after_us: i64,
    },
    /// The group expression at this index is a window made further down: a struct of start and end.
    WindowColumn(usize),
}

/// How a column stands for the event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventTime {
    /// It is a time; what belongs to it expires `after_us` later.
    Time {
        /// Zero for the event time itself and for a window's end, the window's length for its start.
        after_us: i64,
    },
    /// It is a window, of this length where all have one (sessions have not).
    Window {
        /// The length.
        size_us: Option<i64>,
    },
}

impl EventTime {
    /// Returns when each row expires, in microseconds; NULL where there is no event time.
    ///
    /// # Errors
    /// `Internal` where the column is no time and no window.
    pub fn expiry(&self, column: &ArrayRef) -> PlanResult<Int64Array> {
        let (time, after_us) = match self {
            Self::Time { after_us } => (micros(column)?, *after_us),
            Self::Window { .. } => {
                let window = as_struct_array(column)?;
                let end = window.column_by_name("end").ok_or_else(|| Error::internal("a window without end"))?;
                (micros(end)?, 0)
            }
        };
        let time = time.as_primitive::<TimestampMicrosecondType>();
        Ok(time.unary::<_, Int64Type>(|us| us.saturating_add(after_us)))
    }
}

impl EventKey {
    /// Returns the index of the group expression.
    pub fn index(&self) -> usize {
        match self {
            Self::Window(index, _) | Self::Time { index, .. } | Self::WindowColumn(index) => *index,
        }
    }

    /// Returns the table of a row's time (for windows: its pane) and which times share it. When its rows expire is told by
    /// [`EventKey::expired`].
    pub fn table_of(&self, time_us: i64) -> (i64, Range<i64>) {
        let (table, first, length) = match self {
            Self::Window(_, window) => {
                let pane = window.pane_of(time_us);
                (pane, pane, window.pane_us())
            }
            Self::Time { .. } | Self::WindowColumn(_) => {
                let bucket = time_us.div_euclid(BUCKET_US);
                (bucket, bucket.saturating_mul(BUCKET_US), BUCKET_US)
            }
        };
        (table, first..first.saturating_add(length))
    }

    /// Returns each row's time: the event time itself for windows, else when the row expires.
    pub fn expiry(&self, column: &ArrayRef) -> PlanResult<Int64Array> {
        let time = match self {
            Self::Window(..) => EventTime::Time { after_us: 0 },
            Self::Time { after_us, .. } => EventTime::Time { after_us: *after_us },
            Self::WindowColumn(_) => EventTime::Window { size_us: None },
        };
        time.expiry(column)
    }

    /// Returns whether all (`Some(true)`), none (`Some(false)`) or some (`None`) of table `table`'s rows have expired
    /// at `watermark_us`. For windows the table's id is the window's start.
    pub fn expired(&self, table: i64, watermark_us: i64) -> Option<bool> {
        if table == TIMELESS {
            return Some(false);
        }
        match self {
            Self::Window(_, window) => Some(table.saturating_add(window.size_us) <= watermark_us),
            Self::Time { .. } | Self::WindowColumn(_) => {
                let first = table.saturating_mul(BUCKET_US);
                if first > watermark_us {
                    Some(false)
                } else if first.saturating_add(BUCKET_US - 1) <= watermark_us {
                    Some(true)
                } else {
                    None
                }
            }
        }
    }

    /// Returns when table `table` expires, or (where its rows are judged one by one) when the first of them may.
    pub fn expires_us(&self, table: i64) -> i64 {
        match self {
            Self::Window(_, window) => table.saturating_add(window.size_us),
            Self::Time { .. } | Self::WindowColumn(_) => table.saturating_mul(BUCKET_US),
        }
    }
}

/// The fields of a window: `start` and `end`.
pub fn window_fields() -> Fields {
    vec![Field::new("start", TIME, true), Field::new("end", TIME, true)].into()
}

/// Makes `rows` copies of the window that starts at `start_us`.
pub fn window_array(start_us: i64, size_us: i64, rows: usize) -> ArrayRef {
    let start: ArrayRef = Arc::new(TimestampMicrosecondArray::from_value(start_us, rows));
    let end: ArrayRef = Arc::new(TimestampMicrosecondArray::from_value(start_us + size_us, rows));
    Arc::new(StructArray::new(window_fields(), vec![start, end], None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_time() {
        let starts =
            |size, slide, start, time| WindowSpec::new(size, slide, start).unwrap().starts(time).collect::<Vec<_>>();
        assert_eq!(starts(10, 10, 0, 9), [0]);
        assert_eq!(starts(10, 10, 0, 10), [10]);
        assert_eq!(starts(10, 10, 3, 1), [-7]);
        assert_eq!(starts(10, 5, 0, 1), [0, -5]);
        assert_eq!(starts(10, 4, 0, 9), [8, 4, 0]);
        assert_eq!(starts(10, 10, 0, -1), [-10]);
    }

    #[test]
    fn rows_of_a_pane_share_their_windows() {
        let window = WindowSpec::new(15, 6, 2).unwrap();
        for time in -100..100 {
            let pane = window.pane_of(time);
            assert!(pane <= time && time < pane + 3);
            assert_eq!(window.starts(time).collect::<Vec<_>>(), window.starts(pane).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bad_window_is_refused() {
        for (size, slide, start) in [(0, 1, 0), (5, 10, 0), (10, 5, 5), (10, 0, 0)] {
            assert!(WindowSpec::new(size, slide, start).is_err());
        }
    }
}
