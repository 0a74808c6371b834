//! State that outgrows its memory. It goes on from files, lane by lane, and gives what it would have given in memory; where
//! a lane alone is too much, the query ends with an error that names who holds it, and a run with more memory goes on
//! exactly once. Either way the process keeps within its bounds.
//!
//! Its bounds are a quarter more than the limit, and 200 MiB for the program; the most that was resident is what
//! Linux says of the process until it ends.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::scalar::ScalarValue;
use millstream::error::ErrorKind;
use millstream::prelude::*;
use millstream::storage::LocalStore;

use crate::case::literal;
use crate::collected::{Batches, Collected};
use crate::counted::{by_window, rows, schema};

/// Runs an endless query over numbers that never come again, in the command, with `limit_mb` of memory. Returns what it
/// said last.
fn exhausted(limit_mb: usize, mode: &str, sql: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE numbers STORED AS RATE_MICRO_BATCH OPTIONS ('rowsPerBatch' '200000');\n\
         CREATE EXTERNAL TABLE nowhere STORED AS NOOP;\n\
         CREATE FLOW f OUTPUT MODE {mode} TRIGGER PROCESSING TIME '1 millisecond' CHECKPOINT '{}' \
         AS INSERT INTO nowhere {sql};",
        literal(&folder.path().join("checkpoint"))
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["sql", script.as_str(), "--lanes", "2", "--memory-limit", &format!("{limit_mb}MB")]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watching = std::thread::spawn(move || {
        let mut most_kb = 0;
        while let Some(kb) = peak_resident_kb(&status) {
            most_kb = kb;
            std::thread::sleep(Duration::from_millis(5));
        }
        most_kb
    });
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "it was killed, or found an end:\n{said}");
    let (most_kb, bound_kb) = (watching.join().unwrap(), (limit_mb * 5 / 4 + 200) * 1024);
    assert!(most_kb > 0 && most_kb <= bound_kb, "{most_kb} KiB were resident, {bound_kb} are the bound:\n{said}");
    said
}

/// The most that a process had in memory so far, until it has ended.
fn peak_resident_kb(status: &str) -> Option<usize> {
    let text = std::fs::read_to_string(status).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

fn assert_told(said: &str, words: &[&str]) {
    let error = said.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("no error:\n{said}"));
    for word in ["resources exhausted", "consumed", "--memory-limit"].iter().chain(words) {
        assert!(error.contains(word), "'{word}' is not in:\n{error}");
    }
    let batches = said.lines().filter(|line| line.starts_with("f  batch ")).count();
    assert!(batches >= 2, "it ended in its first batches:\n{said}");
}

/// Rows of a push: every key once in so many pushes, and each push a second later.
fn spread(push: i64, rows: i64) -> RecordBatch {
    let ids = push * rows..(push + 1) * rows;
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_value(push * 1_000_000, rows as usize));
    let keys = ids.clone().map(|id| format!("key {}", id * 7919 % (KEYS_OF_ROUNDS * rows)));
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(keys));
    RecordBatch::try_new(schema(), vec![times, keys, Arc::new(Int64Array::from_iter_values(ids))]).unwrap()
}

/// So many pushes bring every key once.
const KEYS_OF_ROUNDS: i64 = 10;

/// Runs a query over two streams within `bytes` of memory, or without a limit. Returns its batches, and after the last of
/// them how many rows are in state and how many bytes of them in memory.
async fn larger(
    bytes: Option<usize>,
    pushes: i64,
    query: impl Fn(DataFrame, DataFrame) -> Result<DataFrame, Error>,
    mode: OutputMode,
) -> (Batches, u64, u64) {
    let builder = Session::builder();
    let session = bytes.map_or_else(|| Session::builder().lanes(2), |bytes| builder.memory_limit(bytes)).build();
    let streams = [MemoryStream::new(schema()), MemoryStream::new(schema())];
    for push in 0..pushes {
        streams.iter().for_each(|stream| stream.push(spread(push, 8_000)).unwrap());
    }
    let read = |stream: &MemoryStream| -> Result<DataFrame, Error> {
        let frame = session.read_stream().option("maxBatchesPerTrigger", 1).memory(stream)?;
        frame.with_watermark("ts", "0 seconds")
    };
    let frame = query(read(&streams[0]).unwrap(), read(&streams[1]).unwrap()).unwrap();
    let (folder, sink) = (tempfile::tempdir().unwrap(), Collected::default());
    let writer = frame.write_stream().output_mode(mode).trigger(Trigger::AvailableNow).sink(Arc::new(sink.clone()));
    let query = writer.checkpoint_store(Arc::new(LocalStore::new(folder.path()))).start("").await.unwrap();
    query.await_termination().await.unwrap();
    let progress = query.last_batch().unwrap();
    let [operator] = progress.state_operators.as_slice() else { panic!("one operator: {progress:?}") };
    (sink.batches(), operator.num_rows_total, operator.memory_used_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_larger_than_its_memory_gives_what_it_gives_in_memory() {
    let by_key = |frame: DataFrame, _| {
        Ok(frame.aggregate(vec![col("k")], vec![count(lit(1)).alias("n"), sum(col("v")).alias("s")])?)
    };
    const LIMIT: usize = 8 << 20;
    let (in_memory, rows, bytes) = larger(None, 15, by_key, OutputMode::Update).await;
    assert!(rows == 80_000 && bytes > LIMIT as u64, "{rows} rows, {bytes} bytes");
    let (from_files, same_rows, bytes) = larger(Some(LIMIT), 15, by_key, OutputMode::Update).await;
    assert!(rows == same_rows && bytes <= LIMIT as u64, "{same_rows} rows, {bytes} bytes");
    assert_eq!(in_memory, from_files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_larger_than_its_memory_gives_what_it_gives_in_memory() {
    let an_hour = lit(ScalarValue::new_interval_dt(0, 3_600_000));
    let join = |left: DataFrame, right: DataFrame| {
        let left = left.select(vec![col("ts").alias("lts"), col("k").alias("lk"), col("v").alias("lv")])?;
        let on = [col("lk").eq(col("k")), col("ts").lt_eq(col("lts") + an_hour.clone())];
        Ok(left.join_on(right, JoinType::Left, on)?.select(vec![col("lk"), col("lv"), col("v")])?)
    };
    const LIMIT: usize = 12 << 20;
    let (in_memory, rows, bytes) = larger(None, 12, join, OutputMode::Append).await;
    assert!(rows > 80_000 && bytes > LIMIT as u64, "{rows} rows, {bytes} bytes");
    let (from_files, same_rows, bytes) = larger(Some(LIMIT), 12, join, OutputMode::Append).await;
    assert!(rows == same_rows && bytes <= LIMIT as u64, "{same_rows} rows, {bytes} bytes");
    assert_eq!(in_memory, from_files);
}

#[test]
fn a_deduplication_of_ever_new_keys_ends_within_64_mib() {
    let said = exhausted(64, "append", "SELECT value FROM DROP_DUPLICATES(STREAM numbers, value)");
    assert_told(&said, &["state of deduplication 0, lane"]);
}

#[test]
fn an_aggregate_of_ever_new_keys_ends_within_64_mib() {
    let sql = "SELECT concat('key ', value) AS k, count(*) AS n, sum(value) AS s FROM STREAM numbers GROUP BY 1";
    assert_told(&exhausted(64, "update", sql), &["state of aggregate 0, lane"]);
}

#[test]
fn a_batch_that_is_itself_too_large_ends() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let session = Session::builder().lanes(2).memory_limit(4 << 20).build();
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE numbers STORED AS RATE_MICRO_BATCH OPTIONS ('rowsPerBatch' '400000');\n\
         CREATE EXTERNAL TABLE nowhere STORED AS NOOP;\n\
         CREATE FLOW f OUTPUT MODE update TRIGGER AVAILABLE NOW CHECKPOINT '{}' \
         AS INSERT INTO nowhere SELECT value, count(*) AS n FROM STREAM numbers GROUP BY value;",
        literal(&folder.path().join("checkpoint"))
    );
    let error = runtime.block_on(session.run_script(&script)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourcesExhausted, "{error}");
    assert!(error.to_string().contains("input of operator 0"), "{error}");
}

/// Counts rows that never come again by window: no number is forgotten, so that state only grows.
async fn run(stream: &MemoryStream, sink: &Collected, place: &std::path::Path, bytes: usize) -> Result<(), Error> {
    let session = Session::builder().lanes(2).memory_limit(bytes).build();
    let frame = session.read_stream().option("maxBatchesPerTrigger", 1).memory(stream)?;
    let distinct = frame.with_watermark("ts", "0 seconds")?.drop_duplicates(&["v"])?;
    let writer = by_window(distinct)?.write_stream().output_mode(OutputMode::Update).trigger(Trigger::AvailableNow);
    let store = Arc::new(LocalStore::new(place));
    writer.sink(Arc::new(sink.clone())).checkpoint_store(store).start("").await?.await_termination().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_more_memory_goes_on_exactly_once() {
    let stream = MemoryStream::new(schema());
    (0..12).for_each(|push| stream.push(rows(push, 3_000)).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (whole, pieces) = (Collected::default(), Collected::default());
    run(&stream, &whole, &folder.path().join("whole"), 1 << 30).await.unwrap();
    let all = whole.batches().len();

    let mut ends = Vec::new();
    for bytes in [1 << 20, 1 << 30] {
        let end = run(&stream, &pieces, &folder.path().join("pieces"), bytes).await;
        if let Err(error) = &end {
            assert_eq!(error.kind(), ErrorKind::ResourcesExhausted, "{error}");
            assert!(error.to_string().contains("state of"), "{error}");
        }
        ends.push((pieces.batches().len(), end.is_ok()));
    }
    assert_eq!(pieces.batches(), whole.batches());
    assert!(
        ends[0].0 > 0 && ends[0].0 < all && !ends[0].1,
        "the first run does not come to the end: {ends:?} of {all}"
    );
    assert!(ends[1].1);
}
