//! When the next micro-batch starts.
//!
//! The query's loop asks [`Trigger`] after every batch how long to wait. Ticks are multiples of the interval since
//! 1970-01-01 00:00 UTC, not since the start: two runs of one query, or two queries with one interval, cut time at
//! the same places.

use std::fmt;
use std::time::Duration;

/// Says when micro-batches run, and when the query ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Trigger {
    /// Runs the next batch as soon as the last one is done and something new is there. Never ends by itself.
    #[default]
    Unspecified,
    /// Runs a batch at each multiple of the interval; a tick that a long batch missed runs at once after it. An
    /// interval of zero is [`Trigger::Unspecified`]. Never ends by itself.
    ProcessingTime(Duration),
    /// Fixes the end of every source when the query starts, reads up to there in as many batches as the rate limits
    /// ask for, runs a last batch without data where the watermark moved, and ends.
    AvailableNow,
    /// Reads all there is in one batch, whatever the rate limits say, and ends. [`Trigger::AvailableNow`] does the
    /// same work in batches of bounded size, and is to be preferred.
    Once,
}

impl Trigger {
    /// Returns whether a query with this trigger ends by itself.
    pub fn is_bounded(&self) -> bool {
        matches!(self, Self::AvailableNow | Self::Once)
    }

    /// Returns the interval of ticks in milliseconds: zero where batches follow each other.
    pub fn interval_ms(&self) -> i64 {
        match self {
            Self::ProcessingTime(interval) => i64::try_from(interval.as_millis()).unwrap_or(i64::MAX),
            Self::Unspecified | Self::AvailableNow | Self::Once => 0,
        }
    }

    /// Returns how long to wait, at `now_ms`, after a tick that came at `triggered_ms`: until the next multiple of
    /// the interval after `triggered_ms`, or not at all where that has passed.
    pub fn wait(&self, triggered_ms: i64, now_ms: i64) -> Duration {
        // A clock that was set back meanwhile makes nobody wait for longer than the interval.
        let wait_ms = next_tick_ms(triggered_ms, self.interval_ms()).saturating_sub(now_ms).min(self.interval_ms());
        match self.interval_ms() {
            0 => Duration::ZERO,
            _ => Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)),
        }
    }
}

impl From<Duration> for Trigger {
    /// Makes a [`Trigger::ProcessingTime`].
    fn from(interval: Duration) -> Self {
        Self::ProcessingTime(interval)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => f.write_str("as fast as data comes"),
            Self::ProcessingTime(interval) => write!(f, "every {interval:?}"),
            Self::AvailableNow => f.write_str("available now"),
            Self::Once => f.write_str("once"),
        }
    }
}

/// Returns the first multiple of `interval_ms` after `now_ms`; `now_ms` itself where the interval is zero.
pub fn next_tick_ms(now_ms: i64, interval_ms: i64) -> i64 {
    if interval_ms <= 0 {
        return now_ms;
    }
    now_ms.div_euclid(interval_ms).saturating_mul(interval_ms).saturating_add(interval_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_multiples_of_the_interval() {
        assert_eq!(next_tick_ms(12_345, 5_000), 15_000);
        assert_eq!(next_tick_ms(15_000, 5_000), 20_000, "a tick's own time asks for the next one");
        assert_eq!(next_tick_ms(-1, 5_000), 0);
        assert_eq!(next_tick_ms(i64::MAX - 1, i64::MAX), i64::MAX);
    }

    #[test]
    fn an_interval_of_zero_never_waits() {
        assert_eq!(next_tick_ms(12_345, 0), 12_345);
        assert_eq!(Trigger::ProcessingTime(Duration::ZERO).wait(12_345, 12_345), Duration::ZERO);
        assert_eq!(Trigger::Unspecified.wait(20_000, 10_000), Duration::ZERO, "nor when the clock was set back");
    }

    #[test]
    fn a_missed_tick_runs_at_once_after_the_late_batch() {
        let trigger = Trigger::from(Duration::from_secs(5));
        assert_eq!(trigger.wait(10_000, 11_000), Duration::from_secs(4));
        assert_eq!(trigger.wait(10_000, 15_000), Duration::ZERO);
        assert_eq!(trigger.wait(10_000, 22_000), Duration::ZERO, "ticks 15 s and 20 s were missed");
        // The late batch starts at 22 s; the one after it is on the grid again.
        assert_eq!(trigger.wait(22_000, 22_500), Duration::from_millis(2_500));
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nobody_wait_for_it() {
        let trigger = Trigger::from(Duration::from_secs(5));
        assert_eq!(trigger.wait(3_610_000, 10_000), Duration::from_secs(5));
        assert_eq!(trigger.wait(10_000, 86_400_000), Duration::ZERO, "nor does one that jumped ahead");
        assert_eq!(trigger.wait(10_000, 10_000), Duration::from_secs(5), "one that stands still is waited for");
    }

    #[test]
    fn only_available_now_and_once_end_by_themselves() {
        assert!(Trigger::AvailableNow.is_bounded() && Trigger::Once.is_bounded());
        assert!(!Trigger::default().is_bounded() && !Trigger::ProcessingTime(Duration::ZERO).is_bounded());
    }
}
