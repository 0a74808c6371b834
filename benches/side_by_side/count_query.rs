//! A running query that counts by window and key, is fed by hand and heard by a listener: what a single batch takes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream::prelude::*;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::input::{ORIGIN_US, SECOND_US};
use crate::measure::runtime;
use crate::work::LANES;

/// How many rows a batch has that is measured.
pub const ROWS: i64 = 1_000;
/// How many rows a batch has that fills the state.
const FILL_ROWS: i64 = 500_000;

const WINDOW: &str = "10 seconds";
const WINDOW_US: i64 = 10 * SECOND_US;

/// Where rows go, and in which mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Every group that a batch touched, to nowhere.
    UpdateNoop,
    /// Every window that closes, to Parquet files.
    AppendParquet,
}

/// What was heard of the query.
#[derive(Default)]
struct Heard {
    /// When each batch with rows was reported: it is decided and published by then.
    reported: Vec<Instant>,
    /// When the query found nothing to do for the first time after the last of them.
    idle: Option<Instant>,
}

/// Listens to the query.
struct Reports(watch::Sender<Heard>);

impl StreamingQueryListener for Reports {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        if progress.ran_batch() && progress.num_input_rows > 0 {
            let now = Instant::now();
            self.0.send_modify(|heard| {
                heard.reported.push(now);
                heard.idle = None;
            });
        }
    }

    fn on_query_idle(&self, _event: &QueryIdle) {
        let now = Instant::now();
        self.0.send_modify(|heard| heard.idle = heard.idle.or(Some(now)));
    }
}

/// The running query.
pub struct CountQuery {
    runtime: Runtime,
    stream: MemoryStream,
    query: StreamingQuery,
    reports: Arc<Reports>,
    /// How many batches were made so far.
    made: i64,
}

impl CountQuery {
    /// Starts it, with its checkpoint and its table in `folder`.
    pub fn start(output: Output, folder: &Path) -> Self {
        let runtime = runtime();
        let reports = Arc::new(Reports(watch::Sender::new(Heard::default())));
        let listener = Arc::clone(&reports) as Arc<dyn StreamingQueryListener>;
        let session = Session::builder().lanes(LANES).listener(listener).build();
        let stream = MemoryStream::new(schema());
        let started = runtime.block_on(start(&session, &stream, output, folder));
        Self { runtime, stream, query: started.unwrap(), reports, made: 0 }
    }

    /// Fills the state with `groups` groups of one window.
    pub fn fill(&mut self, groups: i64) {
        for first in (0..groups).step_by(FILL_ROWS as usize) {
            let end = groups.min(first + FILL_ROWS);
            self.run(vec![batch((first..end).map(|_| ORIGIN_US), first..end)]);
        }
    }

    /// Returns how many groups the state holds.
    pub fn groups(&self) -> u64 {
        self.query.last_batch().unwrap().state_operators[0].num_rows_total
    }

    /// Makes a batch of a window of its own, a group for each row.
    pub fn next_window(&mut self) -> RecordBatch {
        self.made += 1;
        let begin_us = ORIGIN_US + self.made * WINDOW_US;
        batch((0..ROWS).map(|row| begin_us + row * (WINDOW_US / ROWS)), 0..ROWS)
    }

    /// Makes a batch that touches groups all over the state of [`CountQuery::fill`].
    pub fn next_touch(&mut self, groups: i64) -> RecordBatch {
        self.made += 1;
        let first = self.made * 7_919;
        batch((0..ROWS).map(|_| ORIGIN_US), (0..ROWS).map(|row| (first + row * 104_729) % groups))
    }

    /// Pushes batches, a trigger each, and waits until nothing is left to do. Returns how long each took to be reported
    /// after the one before it (the first: after it was pushed), and how long everything took.
    pub fn run(&mut self, batches: Vec<RecordBatch>) -> (Vec<Duration>, Duration) {
        let mut reports = self.reports.0.subscribe();
        let before = reports.borrow_and_update().reported.len();
        let wanted = before + batches.len();
        let began = Instant::now();
        for batch in batches {
            self.stream.push(batch).unwrap();
        }
        self.runtime.block_on(async {
            let settled = reports.wait_for(|heard| heard.reported.len() >= wanted && heard.idle.is_some());
            tokio::select! {
                settled = settled => drop(settled.unwrap()),
                ended = self.query.await_termination() => panic!("the query has ended: {ended:?}"),
            }
        });
        let heard = reports.borrow();
        let mut last = began;
        let took = heard.reported[before..].iter().map(|at| *at - std::mem::replace(&mut last, *at)).collect();
        (took, heard.idle.unwrap() - began)
    }

    /// Stops it.
    pub fn stop(self) {
        self.runtime.block_on(self.query.stop()).unwrap();
    }
}

async fn start(
    session: &Session,
    stream: &MemoryStream,
    output: Output,
    folder: &Path,
) -> millstream::error::Result<StreamingQuery> {
    let rows = session.read_stream().option("maxBatchesPerTrigger", 1).memory(stream)?;
    let counted = rows
        .with_watermark("ts", "0 seconds")?
        .aggregate(vec![window(col("ts"), WINDOW), col("k")], vec![count(lit(1)).alias("n")])?
        .write_stream()
        .query_name("count")
        .option("checkpointLocation", folder.join("checkpoint").display());
    let table = folder.join("table").display().to_string();
    match output {
        Output::UpdateNoop => counted.format("noop").output_mode(OutputMode::Update).start("").await,
        Output::AppendParquet => counted.format("parquet").output_mode(OutputMode::Append).start(&table).await,
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("k", DataType::Int64, false),
    ]))
}

fn batch(times_us: impl Iterator<Item = i64>, keys: impl Iterator<Item = i64>) -> RecordBatch {
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times_us));
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
    RecordBatch::try_new(schema(), vec![times, keys]).unwrap()
}
