//! What one micro-batch of 1 000 rows costs: with a checkpoint on local disk, through a windowed count, to its end.
//!
//! `cargo bench --bench micro_batch`. Beside criterion's figures it prints the median and the 99th percentile of single
//! batches, since a stream is as slow as its slow batches. A second group shows how the cost of a batch grows with the
//! groups that the state holds: it should not.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How many rows a batch has.
const ROWS: i64 = 1_000;

/// How many rows a batch has that fills the state before anything is measured.
const FILL_ROWS: i64 = 50_000;

/// How many batches run before anything is measured.
const WARM_UP: usize = 20;

/// 2026-01-01 00:00 UTC, in microseconds.
const ORIGIN_US: i64 = 1_767_225_600_000_000;

const WINDOW: &str = "10 seconds";
const WINDOW_US: i64 = 10_000_000;

/// What was heard of the query.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// How many batches with rows there were.
    batches: u64,
    /// When the last of them was reported: it is decided and published by then.
    reported: Option<Instant>,
    /// When the query found nothing to do for the first time after it.
    idle: Option<Instant>,
}

/// Listens to the query.
struct Reports(watch::Sender<Heard>);

impl StreamingQueryListener for Reports {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        if progress.ran_batch() && progress.num_input_rows > 0 {
            let now = Instant::now();
            self.0.send_modify(|heard| *heard = Heard { batches: heard.batches + 1, reported: Some(now), idle: None });
        }
    }

    fn on_query_idle(&self, _event: &QueryIdle) {
        let now = Instant::now();
        self.0.send_modify(|heard| heard.idle = heard.idle.or(Some(now)));
    }
}

/// Where rows go, and in which mode.
#[derive(Clone, Copy)]
enum Output {
    /// Every group that a batch touched, to nowhere.
    UpdateNoop,
    /// Every window that closes, to Parquet files.
    AppendParquet,
}

/// A running query that counts by window and key.
struct Count {
    runtime: Runtime,
    stream: MemoryStream,
    query: StreamingQuery,
    reports: Arc<Reports>,
    pushed: i64,
    _folder: TempDir,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("k", DataType::Int64, false),
    ]))
}

fn rows(times_us: impl Iterator<Item = i64>, keys: impl Iterator<Item = i64>) -> RecordBatch {
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times_us));
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(keys));
    RecordBatch::try_new(schema(), vec![times, keys]).unwrap()
}

impl Count {
    fn start(output: Output) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let reports = Arc::new(Reports(watch::Sender::new(Heard::default())));
        let listener = Arc::clone(&reports) as Arc<dyn StreamingQueryListener>;
        let session = Session::builder().listener(listener).build();
        let stream = MemoryStream::new(schema());
        let checkpoint = folder.path().join("checkpoint").display().to_string();
        let table = folder.path().join("table").display().to_string();
        let query = runtime.block_on(async {
            let counted = session.read_stream().memory(&stream).unwrap().with_watermark("ts", "0 seconds").unwrap();
            let counted = counted
                .aggregate(vec![window(col("ts"), WINDOW), col("k")], vec![count(lit(1)).alias("n")])
                .unwrap()
                .write_stream()
                .query_name("count")
                .option("checkpointLocation", checkpoint);
            let (counted, path) = match output {
                Output::UpdateNoop => (counted.format("noop").output_mode(OutputMode::Update), ""),
                Output::AppendParquet => (counted.format("parquet").output_mode(OutputMode::Append), table.as_str()),
            };
            counted.start(path).await.unwrap()
        });
        Self { runtime, stream, query, reports, pushed: 0, _folder: folder }
    }

    /// Fills the state with `groups` groups of one window.
    fn fill(&mut self, groups: i64) {
        for begin in (0..groups).step_by(usize::try_from(FILL_ROWS).unwrap()) {
            let end = groups.min(begin + FILL_ROWS);
            self.stream.push(rows((begin..end).map(|_| ORIGIN_US), begin..end)).unwrap();
            self.runtime.block_on(self.query.process_all_available()).unwrap();
        }
    }

    /// Pushes a batch and returns how long it took until it was reported, and until nothing was left to do: a batch
    /// without rows follows where the watermark has moved, and with it leave the windows that closed.
    fn run_batch(&mut self, batch: RecordBatch) -> (Duration, Duration) {
        let mut reports = self.reports.0.subscribe();
        let before = reports.borrow_and_update().batches;
        let began = Instant::now();
        self.stream.push(batch).unwrap();
        let settled = reports.wait_for(|heard| heard.batches > before && heard.idle.is_some());
        let heard = *self.runtime.block_on(settled).unwrap();
        (heard.reported.unwrap() - began, heard.idle.unwrap() - began)
    }

    /// A batch of a window of its own, a group for each row.
    fn next_window(&mut self) -> RecordBatch {
        self.pushed += 1;
        let begin_us = ORIGIN_US + self.pushed * WINDOW_US;
        rows((0..ROWS).map(|row| begin_us + row * (WINDOW_US / ROWS)), 0..ROWS)
    }

    /// A batch that touches groups all over the state of [`Count::fill`].
    fn next_touch(&mut self, groups: i64) -> RecordBatch {
        self.pushed += 1;
        let first = self.pushed * 7_919;
        rows((0..ROWS).map(|_| ORIGIN_US), (0..ROWS).map(|row| (first + row * 104_729) % groups))
    }
}

/// Prints the median and the 99th percentile of single batches.
fn print_percentiles(name: &str, mut took: Vec<Duration>) {
    if took.is_empty() {
        return;
    }
    took.sort_unstable();
    let last = (took.len() - 1) as f64;
    let at = |part: f64| took[(last * part).round() as usize].as_secs_f64() * 1_000.0;
    println!(
        "{name}: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms of {} batches",
        at(0.5),
        at(0.99),
        at(1.0),
        took.len()
    );
}

/// One batch through a windowed count; every batch has a window of its own, and closes the one before.
fn windowed_count(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("windowed_count");
    group.throughput(Throughput::Elements(ROWS.unsigned_abs()));
    for (name, output) in [("update_noop", Output::UpdateNoop), ("append_parquet", Output::AppendParquet)] {
        let mut query = Count::start(output);
        for _ in 0..WARM_UP {
            let batch = query.next_window();
            query.run_batch(batch);
        }
        let mut batches = Vec::new();
        let mut settled = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let batch = query.next_window();
                    let (one, all) = query.run_batch(batch);
                    batches.push(one);
                    settled.push(all);
                    total += one;
                }
                total
            });
        });
        print_percentiles(&format!("windowed_count/{name}, a batch of {ROWS} rows"), batches);
        print_percentiles(&format!("windowed_count/{name}, with the batch that closes windows"), settled);
    }
    group.finish();
}

/// One batch that touches 1 000 of the groups that the state holds.
fn groups_in_state(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("groups_in_state");
    group.sample_size(20).throughput(Throughput::Elements(ROWS.unsigned_abs()));
    for groups in [10_000, 100_000, 1_000_000] {
        let mut query = Count::start(Output::UpdateNoop);
        query.fill(groups);
        for _ in 0..WARM_UP {
            let batch = query.next_touch(groups);
            query.run_batch(batch);
        }
        let mut batches = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let batch = query.next_touch(groups);
                    let (one, _) = query.run_batch(batch);
                    batches.push(one);
                    total += one;
                }
                total
            });
        });
        print_percentiles(&format!("groups_in_state/{groups}, a batch of {ROWS} rows"), batches);
    }
    group.finish();
}

criterion_group!(benches, windowed_count, groups_in_state);
criterion_main!(benches);
