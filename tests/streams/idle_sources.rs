//! A source that falls silent holds the watermark back until its idle timeout has passed, in processing time; then the
//! others decide, until it gives rows again.
//!
//! Two streams that the test feeds by hand, a clock that it moves by hand: half a minute takes no time.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream::clock::{Clock, ManualClock};
use millstream::prelude::*;

use crate::case::literal;
use crate::scenario::ORIGIN_MS;
use crate::watched::Watched;

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![Field::new("ts", time, true), Field::new("k", DataType::Utf8, true)]))
}

/// Rows at seconds after midnight.
fn rows(rows: &[(i64, &str)]) -> RecordBatch {
    let times = rows.iter().map(|(second, _)| (ORIGIN_MS + second * 1000) * 1000);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times));
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, k)| *k)));
    RecordBatch::try_new(schema(), vec![times, keys]).unwrap()
}

/// A query over two streams of which one may fall silent for half a minute.
struct Streams {
    busy: MemoryStream,
    quiet: MemoryStream,
}

/// One run of the query.
struct Run {
    session: Session,
    query: StreamingQuery,
}

impl Streams {
    /// Makes the streams: a and b have come of the first, c of the second, which stands at the twentieth second.
    fn new() -> Self {
        let streams = Self { busy: MemoryStream::new(schema()), quiet: MemoryStream::new(schema()) };
        streams.busy.push(rows(&[(5, "a"), (60, "b")])).unwrap();
        streams.quiet.push(rows(&[(20, "c")])).unwrap();
        streams
    }

    async fn start(&self, clock: Arc<dyn Clock>, trigger: Trigger, checkpoint: &Path) -> Run {
        let session = Session::builder().clock(clock).build();
        let read = |reader: DataStreamReader, stream: &MemoryStream| {
            reader.memory(stream).unwrap().with_watermark("ts", "0 seconds").unwrap()
        };
        let busy = read(session.read_stream().name("busy"), &self.busy);
        let quiet = read(session.read_stream().name("quiet").option("idleTimeout", "30 seconds"), &self.quiet);
        let windows = busy
            .union(quiet)
            .unwrap()
            .aggregate(vec![window(col("ts"), "10 seconds"), col("k")], vec![count(lit(1)).alias("n")])
            .unwrap();
        let query = windows
            .write_stream()
            .trigger(trigger)
            .format("memory")
            .query_name("closed")
            .late_rows_to("memory", "late")
            .option("checkpointLocation", checkpoint.display())
            .start("")
            .await
            .unwrap();
        Run { session, query }
    }
}

impl Run {
    /// Waits until there is nothing to do, and returns the keys of the windows that have closed.
    async fn closed(&self) -> Vec<String> {
        self.query.process_all_available().await.unwrap();
        self.texts("SELECT k FROM closed ORDER BY k").await
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let batches = self.session.sql(sql).await.unwrap().collect().await.unwrap();
        let texts = |batch: &RecordBatch| -> Vec<String> {
            batch.column(0).as_string::<i32>().iter().map(|text| text.unwrap().to_string()).collect()
        };
        batches.iter().flat_map(texts).collect()
    }

    /// The watermark that each batch ran with.
    fn watermarks(&self) -> Vec<String> {
        let batches = self.query.recent_progress().into_iter().filter(|progress| progress.ran_batch());
        batches.map(|progress| progress.event_time["watermark"].clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_lets_go_of_the_watermark_until_it_wakes() {
    let (home, clock, streams) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(0)), Streams::new());
    let own_clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let run = streams.start(own_clock, Trigger::Unspecified, &home.path().join("ck")).await;
    assert_eq!(run.closed().await, ["a"]);
    let progress = run.query.last_batch().unwrap();
    let reason = "window ending 2026-01-01 00:00:30 waits: watermark 2026-01-01 00:00:20, held back by source quiet";
    assert!(progress.waiting()[0].starts_with(reason), "{:?}", progress.waiting());

    clock.advance_ms(29_999);
    assert_eq!(run.closed().await, ["a"]);
    // Nobody gives anything, and still the window closes.
    clock.advance_ms(1);
    assert_eq!(run.closed().await, ["a", "c"]);

    // The other decides alone.
    streams.busy.push(rows(&[(100, "d")])).unwrap();
    assert_eq!(run.closed().await, ["a", "b", "c"]);

    // Awake, its rows are judged like any other's, and it is waited for again.
    streams.quiet.push(rows(&[(50, "too late"), (105, "e")])).unwrap();
    assert_eq!(run.closed().await, ["a", "b", "c"]);
    streams.busy.push(rows(&[(200, "f")])).unwrap();
    assert_eq!(run.closed().await, ["a", "b", "c"]);
    let dropped = run.query.recent_progress().into_iter().flat_map(|progress| progress.state_operators.clone());
    assert_eq!(dropped.map(|operator| operator.num_rows_dropped_by_watermark).sum::<u64>(), 1);
    assert_eq!(
        run.texts("SELECT row FROM late").await,
        [r#"{"ts":"2026-01-01T00:00:50","k":"too late"}"#],
        "and it is kept"
    );
    run.query.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_begins_the_timeout_anew() {
    let (home, clock, streams) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(0)), Streams::new());
    clock.set_ms(864_000_000);
    let own_clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let run = streams.start(own_clock, Trigger::Unspecified, &home.path().join("ck")).await;
    assert_eq!(run.closed().await, ["a"]);
    clock.advance_ms(29_999);
    assert_eq!(run.closed().await, ["a"]);
    // It takes half a minute from here, and not an hour more.
    clock.advance_ms(-3_600_000);
    assert_eq!(run.closed().await, ["a"]);
    clock.advance_ms(29_999);
    assert_eq!(run.closed().await, ["a"]);
    clock.advance_ms(1);
    assert_eq!(run.closed().await, ["a", "c"]);
    // A day forward changes nothing more, and the watermark has never fallen.
    clock.advance_ms(86_400_000);
    assert_eq!(run.closed().await, ["a", "c"]);
    assert!(run.watermarks().is_sorted(), "{:?}", run.watermarks());
    run.query.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_are_silent_nothing_moves() {
    let (home, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(0)));
    let quiet = MemoryStream::new(schema());
    quiet.push(rows(&[(5, "a"), (20, "c")])).unwrap();
    // One source alone: nobody is left to decide.
    let session = Session::builder().clock(Arc::clone(&clock) as Arc<dyn Clock>).build();
    let stream = session.read_stream().option("idleTimeout", "30 seconds").memory(&quiet).unwrap();
    let windows = stream
        .with_watermark("ts", "0 seconds")
        .unwrap()
        .aggregate(vec![window(col("ts"), "10 seconds"), col("k")], vec![count(lit(1)).alias("n")])
        .unwrap();
    let writer = windows.write_stream().format("memory").query_name("closed");
    let query = writer.option("checkpointLocation", home.path().display()).start("").await.unwrap();
    let run = Run { session, query };
    assert_eq!(run.closed().await, ["a"]);
    clock.advance_ms(3_600_000);
    assert_eq!(run.closed().await, ["a"]);
    run.query.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_source_is_idle_after_a_restart() {
    let (home, streams) = (tempfile::tempdir().unwrap(), Streams::new());
    let clock = let_go(&streams, home.path()).await;
    let run = streams.start(clock, Trigger::Unspecified, home.path()).await;
    streams.busy.push(rows(&[(300, "g")])).unwrap();
    assert_eq!(run.closed().await, ["b"], "the table began anew, the timeout did not");
    run.query.stop().await.unwrap();
}

/// The watermark that an idle source has let go of is in the offset log first: a batch that died with it runs again
/// with it, and it does not fall back though the source counts as awake again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_died_keeps_the_watermark_that_was_let_go_of() {
    let (home, streams) = (tempfile::tempdir().unwrap(), Streams::new());
    let clock = let_go(&streams, home.path()).await;
    fs::remove_file(home.path().join("commits/2")).unwrap();
    let run = streams.start(clock, Trigger::Unspecified, home.path()).await;
    assert_eq!(run.closed().await, ["c"]);
    streams.busy.push(rows(&[(70, "h")])).unwrap();
    assert_eq!(run.closed().await, ["c"]);
    assert_eq!(run.watermarks(), ["2026-01-01T00:01:00.000Z"; 2]);
    run.query.stop().await.unwrap();
}

/// Runs the query until the silent source has let go, in its third batch, and stops it; returns the clock.
async fn let_go(streams: &Streams, checkpoint: &Path) -> Arc<dyn Clock> {
    let clock = Arc::new(ManualClock::new(0));
    let run = streams.start(Arc::clone(&clock) as Arc<dyn Clock>, Trigger::Unspecified, checkpoint).await;
    assert_eq!(run.closed().await, ["a"]);
    clock.advance_ms(30_000);
    assert_eq!(run.closed().await, ["a", "c"]);
    assert_eq!(run.watermarks().len(), 3);
    run.query.stop().await.unwrap();
    clock
}

/// A clock that is an hour later whenever it is asked.
#[derive(Debug, Default)]
struct Racing(AtomicI64);

impl Clock for Racing {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(3_600_000, Ordering::SeqCst)
    }
}

/// A source that has been read to its end has not fallen silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_ends_by_itself_knows_no_silence() {
    let (home, streams) = (tempfile::tempdir().unwrap(), Streams::new());
    let run = streams.start(Arc::new(Racing::default()), Trigger::AvailableNow, home.path()).await;
    run.query.await_termination().await.unwrap();
    assert_eq!(run.texts("SELECT k FROM closed ORDER BY k").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_streams_have_the_option() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("ev")).unwrap();
    fs::write(home.path().join("ev/a.json"), "{\"id\":1}\n").unwrap();
    let script = |table: &str, stream: &str| {
        format!(
            "SET trigger = 'available now';\n\
             CREATE EXTERNAL TABLE ev (id BIGINT) STORED AS JSON LOCATION '{}/ev/' OPTIONS ('idleTimeout' '{table}');\n\
             CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n\
             INSERT INTO answer SELECT id FROM STREAM ev WITH ('idleTimeout' = '{stream}');\n\
             SELECT count(*) AS n FROM ev;",
            literal(home.path())
        )
    };
    let watched = Watched::new();
    watched.session.run_script(&script("30 seconds", "1 minute")).await.unwrap();
    assert_eq!(watched.batches().len(), 1);
    for (table, stream) in [("soon", "1 minute"), ("30 seconds", "0 seconds")] {
        let error = Watched::new().session.run_script(&script(table, stream)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains("idleTimeout"), "{error}");
    }
}
