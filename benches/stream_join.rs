//! What a join of two streams costs as the input goes on and on: `cargo bench --bench stream_join`.
//!
//! Payments meet orders of the same id within ten minutes of event time. After each so many batches it prints one line of
//! JSON: rows so far, rows in state, bytes of state, the process's memory, and the time a batch took. What is bounded
//! stays flat: each batch drops as many rows as it brings. `-- --batches N` for another length.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How many rows a batch has on either side.
const ROWS: i64 = 10_000;
/// How much event time a batch spans.
const BATCH_US: i64 = 10_000_000;
/// 2026-01-01 00:00 UTC, in microseconds.
const ORIGIN_US: i64 = 1_767_225_600_000_000;
/// How many lines are printed.
const LINES: i64 = 10;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("id", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

/// Batch `batch` of a side; of the ids that the other side has, `shift` says which come when.
fn rows(batch: i64, shift: i64) -> RecordBatch {
    let numbers = || 0..ROWS;
    let times = numbers().map(|n| ORIGIN_US + batch * BATCH_US + n * (BATCH_US / ROWS));
    let ids = numbers().map(|n| (batch - shift) * ROWS + (n * 7919) % ROWS);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
        Arc::new(Int64Array::from_iter_values(ids)),
        Arc::new(Int64Array::from_iter_values(numbers())),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The resident memory of this process in bytes; zero where the system does not tell.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn run(batches: i64) -> millstream::error::Result<()> {
    let folder = TempDir::new().unwrap();
    let session = Session::new();
    let (orders, payments) = (MemoryStream::new(schema()), MemoryStream::new(schema()));
    let watermarked = |stream: &MemoryStream, prefix: &str| -> millstream::error::Result<DataFrame> {
        let names = ["ts", "id", "v"].map(|name| col(name).alias(format!("{prefix}_{name}")));
        let frame = session.read_stream().memory(stream)?.select(names.to_vec())?;
        frame.with_watermark(&format!("{prefix}_ts"), "1 minute")
    };
    let joined = watermarked(&orders, "order")?.join_on(
        watermarked(&payments, "payment")?,
        JoinType::Inner,
        [
            col("order_id").eq(col("payment_id")),
            col("payment_ts").gt_eq(col("order_ts")),
            col("payment_ts")
                .lt_eq(col("order_ts") + lit(datafusion::common::ScalarValue::new_interval_dt(0, 600_000))),
        ],
    )?;
    let query = joined
        .write_stream()
        .output_mode(OutputMode::Append)
        .format("noop")
        .option("checkpointLocation", folder.path().display())
        .start("")
        .await?;
    let mut took_ms = 0.0;
    for batch in 1..=batches {
        orders.push(rows(batch, 0))?;
        // Payments come five minutes behind their orders.
        payments.push(rows(batch, 30))?;
        let started = Instant::now();
        query.process_all_available().await?;
        took_ms += started.elapsed().as_secs_f64() * 1000.0;
        let every = (batches / LINES).max(1);
        if batch % every == 0
            // The last report may be of a trigger that found nothing: it tells of no state.
            && let Some(state) = query.recent_progress().iter().rev().find_map(|p| p.state_operators.first())
        {
            let line = json!({
                "rows": 2 * batch * ROWS,
                "state_rows": state.num_rows_total,
                "state_mb": state.memory_used_bytes as f64 / 1e6,
                "resident_mb": resident_bytes() as f64 / 1e6,
                "batch_ms": took_ms / every as f64,
            });
            println!("{line}");
            took_ms = 0.0;
        }
    }
    query.stop().await
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let batches = arguments.iter().position(|a| a == "--batches").and_then(|i| arguments.get(i + 1)?.parse().ok());
    Runtime::new().unwrap().block_on(run(batches.unwrap_or(1000))).unwrap();
}
