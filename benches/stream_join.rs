//! What a join of two streams costs as the input goes on and on: `cargo bench --bench stream_join`.
//!
//! Payments meet orders of the same id within ten minutes of event time. After each so many batches it prints one line of
//! JSON: rows so far, rows in state, bytes of state, the process's memory, and the time a batch took. What is bounded
//! stays flat: each batch drops as many rows as it brings. `-- --batches N` for another length.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::time::{Duration, Instant};

use datafusion::common::ScalarValue;
use millstream::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How many rows a batch has on either side.
const ROWS: i64 = 10_000;
/// How much event time passes from batch to batch, in milliseconds.
const BATCH_MS: i64 = 10_000;
/// So many batches a payment comes behind its order: five minutes.
const BEHIND: i64 = 30;
/// 2026-01-01 00:00 UTC, in milliseconds.
const ORIGIN_MS: i64 = 1_767_225_600_000;
/// How many lines are printed.
const LINES: i64 = 10;

/// A side of the join: rows that nobody keeps, whose ids run from `first` on.
async fn side(session: &Session, prefix: &str, first: i64) -> millstream::error::Result<DataFrame> {
    let numbered = session
        .read_stream()
        .format("rate-micro-batch")
        .option("rowsPerBatch", ROWS)
        .option("advanceMillisPerBatch", BATCH_MS)
        .option("startTimestamp", ORIGIN_MS)
        .load("")
        .await?;
    let named = |expr: Expr, name: &str| expr.alias(format!("{prefix}_{name}"));
    let columns = [named(col("timestamp"), "ts"), named(col("value") + lit(first), "id"), named(col("value"), "v")];
    numbered.select(columns.to_vec())?.with_watermark(&format!("{prefix}_ts"), "1 minute")
}

/// The resident memory of this process in bytes; zero where the system does not tell.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn run(batches: i64) -> millstream::error::Result<()> {
    let folder = TempDir::new().unwrap();
    let session = Session::new();
    let joined = side(&session, "order", 0).await?.join_on(
        side(&session, "payment", -BEHIND * ROWS).await?,
        JoinType::Inner,
        [
            col("order_id").eq(col("payment_id")),
            col("payment_ts").gt_eq(col("order_ts")),
            col("payment_ts").lt_eq(col("order_ts") + lit(ScalarValue::new_interval_dt(0, 600_000))),
        ],
    )?;
    let query = joined
        .write_stream()
        .output_mode(OutputMode::Append)
        .format("noop")
        .option("checkpointLocation", folder.path().display())
        .start("")
        .await?;
    let every = (batches / LINES).max(1);
    let mut started = Instant::now();
    let mut told = 0;
    while told + every <= batches && query.is_active() {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let Some(progress) = query.last_progress().filter(|progress| progress.batch_id >= told + every) else {
            continue;
        };
        let ran = progress.batch_id - told;
        let Some(state) = progress.state_operators.first() else { continue };
        let line = json!({
            "rows": 2 * (progress.batch_id + 1) * ROWS,
            "state_rows": state.num_rows_total,
            "state_mb": state.memory_used_bytes as f64 / 1e6,
            "resident_mb": resident_bytes() as f64 / 1e6,
            "batch_ms": started.elapsed().as_secs_f64() * 1000.0 / ran as f64,
        });
        println!("{line}");
        (started, told) = (Instant::now(), progress.batch_id);
    }
    query.stop().await
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let batches = arguments.iter().position(|a| a == "--batches").and_then(|i| arguments.get(i + 1)?.parse().ok());
    Runtime::new().unwrap().block_on(run(batches.unwrap_or(1000))).unwrap();
}
