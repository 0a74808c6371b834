//! A watermark a partition: a fast partition makes no row of a slow one late, and a silent one holds nothing back for ever.

use std::sync::Arc;
use std::time::Duration;

use millstream::clock::{Clock, ManualClock};
use millstream::prelude::*;
use serde_json::json;

use super::cluster::{Mocks, Sent, ask, rows, table};

fn event(partition: i32, second: i64, k: &str) -> Sent {
    let at = format!("2026-01-01T00:{:02}:{:02}", second / 60, second % 60);
    Sent::to(partition, json!({"ts": at, "k": k}).to_string())
}

const COLUMNS: &str = "(ts TIMESTAMP, k STRING)";
const WINDOWS: &str = "SELECT window.start AS ws, count(*) AS n FROM STREAM t WATERMARK ts DELAY OF INTERVAL 0 SECONDS \
    GROUP BY window(ts, '10 seconds')";

fn options<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("subscribe", "t"), ("startingOffsets", "earliest"), ("format", "json")], more].concat()
}

/// One partition is a minute ahead of the other; batches take a little of each.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_slow_partition_are_not_late() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 2);
    let slow = (0..60).map(|second| event(0, second, "slow"));
    let fast = (60..120).map(|second| event(1, second, "fast"));
    mocks.send("t", &slow.chain(fast).collect::<Vec<_>>());
    let read = async |per: &str| {
        let options = options(&[("maxOffsetsPerTrigger", "20"), ("watermarkPer", per)]);
        let outcome = ask(&table("t", COLUMNS, &mocks.servers, &options), WINDOWS, "").await;
        let counted: i64 = rows(&outcome).iter().map(|row| row["n"].as_i64().unwrap()).sum();
        let late: u64 = outcome
            .reports
            .iter()
            .flat_map(|report| &report.state_operators)
            .map(|operator| operator.num_rows_dropped_by_watermark)
            .sum();
        (counted, late)
    };
    // As Spark: most of the slow partition is late, since the fast one has moved the watermark by the second batch.
    let (_, late) = read("source").await;
    assert!(late > 30, "{late}");
    // The slow one ends at the 59th second: six windows but the last have closed, and nothing was dropped.
    assert_eq!(read("partition").await, (50, 0));
}

struct Run {
    session: Session,
    query: StreamingQuery,
}

impl Run {
    async fn start(mocks: &Mocks, clock: &Arc<ManualClock>, checkpoint: &std::path::Path) -> Self {
        let session = Session::builder().clock(Arc::clone(clock) as Arc<dyn Clock>).build();
        let options = options(&[("watermarkPer", "partition"), ("idleTimeout", "30 seconds")]);
        session.run_script(&table("t", COLUMNS, &mocks.servers, &options)).await.unwrap();
        let windows = session.sql(WINDOWS).await.unwrap();
        let query = windows
            .write_stream()
            .format("memory")
            .query_name("closed")
            .option("checkpointLocation", checkpoint.display())
            .start("")
            .await
            .unwrap();
        Self { session, query }
    }

    async fn closed(&self) -> i64 {
        self.query.process_all_available().await.unwrap();
        let rows = self.session.sql("SELECT * FROM closed").await.unwrap();
        rows.count().await.unwrap() as i64
    }

    async fn closed_are(&self, count: i64) {
        for _ in 0..200 {
            if self.closed().await == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{} and not {count}", self.closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_partition_lets_go_after_its_timeout() {
    let (mocks, home, clock) = (Mocks::start(1), tempfile::tempdir().unwrap(), Arc::new(ManualClock::new(0)));
    mocks.topic("t", 3);
    let checkpoint = home.path().join("ck");
    mocks.send("t", &[event(0, 5, "a"), event(0, 45, "b"), event(1, 25, "c")]);
    let run = Run::start(&mocks, &clock, &checkpoint).await;
    // Partition 2 has given nothing: it is waited for, and named.
    assert_eq!(run.closed().await, 0);
    let progress = run.query.last_batch().unwrap();
    let waiting = progress.waiting()[0].to_string();
    assert!(waiting.contains("t, partition t-2"), "{waiting}");
    clock.advance_ms(29_999);
    assert_eq!(run.closed().await, 0);
    // After half a minute all are silent; where all are, nothing moves. One that gives rows goes on without the others.
    clock.advance_ms(1);
    mocks.send("t", &[event(0, 46, "d")]);
    run.closed_are(2).await;
    // The third wakes, far behind: what it gives is late now, but it is waited for again.
    mocks.send("t", &[event(2, 47, "e"), event(0, 70, "f")]);
    run.closed_are(2).await;
    run.query.stop().await.unwrap();

    // A restart knows how far each had come.
    let again = Run::start(&mocks, &clock, &checkpoint).await;
    assert_eq!(again.closed().await, 0, "a memory table begins anew");
    mocks.send("t", &[event(2, 75, "g"), event(0, 80, "h")]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(again.closed().await, 0, "partition 1 holds everything back once more");
    mocks.send("t", &[event(1, 77, "i")]);
    again.closed_are(1).await;
}
