//! When each source last gave rows, in processing time: how long it has been silent, and whether that is too long.
//!
//! Kept for the run only. A run begins as if every source had just given rows, so that a restart makes nothing idle
//! sooner than it was; what was idle the commit log knows.

/// Remembers when each source of a query last gave rows.
#[derive(Debug, Clone)]
pub(super) struct SourceActivity {
    /// By source id: `idleTimeout`.
    timeouts_ms: Vec<Option<i64>>,
    /// By source id.
    last_rows_ms: Vec<i64>,
}

impl SourceActivity {
    /// Begins at `now_ms` with sources of these timeouts.
    pub(super) fn new(timeouts_ms: Vec<Option<i64>>, now_ms: i64) -> Self {
        Self { last_rows_ms: vec![now_ms; timeouts_ms.len()], timeouts_ms }
    }

    /// Notes that a batch planned at `at_ms` had rows of `source`.
    pub(super) fn saw_rows(&mut self, source: usize, at_ms: i64) {
        // A batch of an earlier run that runs again may have been planned before this run began.
        self.last_rows_ms[source] = self.last_rows_ms[source].max(at_ms);
    }

    /// Returns for how long `source` has given no rows; zero where the clock was set back.
    pub(super) fn silent_ms(&self, source: usize, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.last_rows_ms[source]).max(0)
    }

    /// Returns whether `source` has been silent for its timeout. Without one it may be silent for ever.
    ///
    /// Where the clock was set back silence begins anew: to wait until the clock is where it was would hold the watermark
    /// back by as much.
    pub(super) fn is_idle(&mut self, source: usize, now_ms: i64) -> bool {
        let last_ms = &mut self.last_rows_ms[source];
        *last_ms = (*last_ms).min(now_ms);
        self.timeouts_ms[source].is_some_and(|timeout_ms| self.silent_ms(source, now_ms) >= timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_from_the_last_rows_on() {
        let mut activity = SourceActivity::new(vec![None, Some(2_000)], 1_000);
        activity.saw_rows(1, 4_000);
        activity.saw_rows(1, 500);
        assert_eq!([activity.silent_ms(0, 6_000), activity.silent_ms(1, 6_000)], [5_000, 2_000]);
        let mut idle = |now_ms: i64| [activity.is_idle(0, now_ms), activity.is_idle(1, now_ms)];
        assert_eq!([idle(5_999), idle(6_000)], [[false, false], [false, true]]);
        // The clock is set back by an hour: the timeout begins anew, it does not take an hour more.
        assert_eq!([idle(900), idle(2_899), idle(2_900)], [[false, false], [false, false], [false, true]]);
    }
}
