//! How long brokers have been silent: real time, whatever clock a query runs by.

use std::time::{Duration, Instant};

/// Measures from when it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts one.
    #[allow(clippy::disallowed_methods)] // a broker does not answer sooner because a test moves its clock
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns how long ago that was.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
