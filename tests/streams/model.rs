//! What the models of late rows share: rows that come in disorder, the watermark as a model keeps it, and the run that
//! is held against what a model printed.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::answer::{answer, first_difference};
use crate::case::{Case, Home, Outcome, run_script};
use crate::oracle::{events, split};
use crate::scenario::{Event, ORIGIN_MS};

/// The most files a stream is cut into.
const FILES: usize = 6;

/// By how much times move on from row to row, and by how much more a row's may be ahead.
const STEP_MS: i64 = 3_000;
const DISORDER_MS: i64 = 20_000;

/// The rows of a stream in random files, their times moving on in disorder.
pub(crate) fn drifting() -> impl Strategy<Value = Vec<Vec<Event>>> {
    (events(1..40), prop::collection::vec(0_usize..40, 0..FILES)).prop_map(|(mut events, cuts)| {
        for (event, number) in events.iter_mut().zip(0_i64..) {
            event.at_ms = event.at_ms.map(|at_ms| number * STEP_MS + at_ms % DISORDER_MS);
        }
        split(events, cuts)
    })
}

/// The watermark of a query over some streams: the least of theirs, which never falls. In milliseconds since
/// [`ORIGIN_MS`], as all times here.
pub(crate) struct Watermark {
    /// What the batch before ran with: by it the batch judges late rows.
    pub(crate) late_ms: i64,
    /// What the batch runs with: by it the batch lets go.
    pub(crate) now_ms: i64,
    delays_ms: Vec<i64>,
    latest_ms: Vec<Option<i64>>,
}

impl Watermark {
    /// Begins in 1970, for streams with these delays.
    pub(crate) fn new(delays_seconds: &[i64]) -> Self {
        Self {
            late_ms: -ORIGIN_MS,
            now_ms: -ORIGIN_MS,
            delays_ms: delays_seconds.iter().map(|seconds| seconds * 1000).collect(),
            latest_ms: vec![None; delays_seconds.len()],
        }
    }

    /// Ends a batch in which each stream had rows of these times, late ones too.
    pub(crate) fn move_on(&mut self, times_ms: &[Vec<i64>]) {
        self.late_ms = self.now_ms;
        for (latest_ms, times_ms) in self.latest_ms.iter_mut().zip(times_ms) {
            *latest_ms = times_ms.iter().copied().chain(*latest_ms).max();
        }
        // A stream that has given no row holds the others back.
        let of_streams = self.latest_ms.iter().zip(&self.delays_ms);
        let of_streams = of_streams.map(|(latest_ms, delay_ms)| latest_ms.map_or(-ORIGIN_MS, |ms| ms - delay_ms));
        self.now_ms = of_streams.min().map_or(self.now_ms, |ms| ms.max(self.now_ms));
    }

    /// Returns whether a batch without data follows: the watermark has moved since the last one.
    pub(crate) fn has_moved(&self) -> bool {
        self.now_ms > self.late_ms
    }
}

/// Returns when the rows happened that have a time.
pub(crate) fn times_ms<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<i64> {
    events.into_iter().filter_map(|event| event.at_ms).collect()
}

/// What a model prints, and how many rows it found late.
#[derive(Default)]
pub(crate) struct Modelled {
    pub(crate) lines: Vec<Value>,
    pub(crate) late_rows: u64,
}

impl Modelled {
    /// Prints the next batch.
    pub(crate) fn print(&mut self, rows: Vec<Value>) {
        self.lines.push(json!({"batch_id": self.lines.len(), "rows": rows}));
    }
}

/// Runs the case and says how it differs from the model, in the rows of a batch or in how many rows were late.
pub(crate) async fn judge(case: &Case, modelled: &Modelled) -> Result<(), String> {
    let mut home = Home::new(case);
    home.add_files(&case.streams);
    let script = home.script(case);
    let Outcome { lines, reports, end } = run_script(&script).await;
    end.map_err(|error| format!("failed: {error}\n{script}"))?;
    if let Some(why) = first_difference(&answer(&modelled.lines), &answer(&lines)) {
        return Err(format!("{why}\n{script}"));
    }
    let late_rows: u64 =
        reports.iter().flat_map(|report| &report.state_operators).map(|o| o.num_rows_dropped_by_watermark).sum();
    match late_rows == modelled.late_rows {
        true => Ok(()),
        false => Err(format!("{late_rows} rows were late, {} in the model\n{script}", modelled.late_rows)),
    }
}

/// A model that is wrong about the watermark is wrong about everything.
mod checks {
    use super::*;

    #[test]
    fn the_slowest_stream_has_the_watermark() {
        let mut watermark = Watermark::new(&[10, 0]);
        watermark.move_on(&[vec![60_000, 5_000], vec![]]);
        assert_eq!((watermark.late_ms, watermark.now_ms), (-ORIGIN_MS, -ORIGIN_MS));
        assert!(!watermark.has_moved());
        watermark.move_on(&[vec![], vec![20_000]]);
        assert_eq!((watermark.late_ms, watermark.now_ms), (-ORIGIN_MS, 20_000));
        watermark.move_on(&[vec![1_000], vec![70_000, 0]]);
        assert_eq!((watermark.late_ms, watermark.now_ms), (20_000, 50_000));
        watermark.move_on(&[vec![], vec![]]);
        assert!(!watermark.has_moved());
    }
}
