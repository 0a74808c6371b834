//! Two streams of Parquet files, joined on their key: a row meets those of the other that are up to a minute older.
//!
//! Of each 600 000 keys a minute has a row on either side, so a row finds about one partner. DataFusion joins all rows
//! at once: it meets each key as often as the input has minutes.

use std::path::Path;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::prelude::{ParquetReadOptions, SessionConfig};
use millstream::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer;
use crate::input::{FileFormat, Rows};
use crate::measure::{measured, runtime};
use crate::options::Options;
use crate::spark;
use crate::throughput::{self, Goals};
use crate::work::{Finding, LANES, Side, Work};

/// How many rows both streams have together where the command line does not say.
const ROWS: i64 = 4_000_000;
/// How many files of either stream a batch reads.
const FILES_PER_BATCH: i64 = 2;
const MINUTE_MS: i32 = 60_000;

const LEFT: Rows = Rows { prefix: "a_", keys: 600_000, strings: false, per_second: 10_000, seed: 0, piece: 125_000 };
const RIGHT: Rows = Rows { prefix: "b_", seed: 0x5bd1_e995_0000, ..LEFT };

const GOALS: Goals = Goals { datafusion: None, spark: Some(30.0), flink: None };

#[derive(Debug, Clone, Copy)]
pub struct StreamJoin;

impl Work for StreamJoin {
    fn name(&self) -> &'static str {
        "stream-join"
    }

    fn measure(&self, side: Side, rows: i64) -> Value {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        FileFormat::Parquet.write(LEFT.pieces(rows / 2), &folder.join("a"));
        FileFormat::Parquet.write(RIGHT.pieces(rows / 2), &folder.join("b"));
        let runtime = runtime();
        let (found, mut took) = match side {
            Side::Spark => {
                let files = FILES_PER_BATCH.to_string();
                return spark::run("stream-join", folder, &["--files-per-trigger", &files]);
            }
            Side::Millstream => {
                let (found, took) = measured(&runtime, millstream(folder));
                (found.unwrap(), took)
            }
            Side::Datafusion => {
                let (found, took) = measured(&runtime, datafusion(folder));
                (found.unwrap(), took)
            }
        };
        let sql = "SELECT count(*), CAST(sum(a_v) AS BIGINT), CAST(sum(b_v) AS BIGINT) FROM found";
        took["answer"] = json!(runtime.block_on(answer::of_rows(found, sql)).unwrap());
        took
    }

    fn compare(&self, options: &Options) -> Finding {
        throughput::compare(self, &GOALS, options.rows.unwrap_or(ROWS), options)
    }
}

async fn millstream(folder: &Path) -> millstream::error::Result<Vec<RecordBatch>> {
    let session = Session::builder().lanes(LANES).build();
    let minute = lit(ScalarValue::new_interval_dt(0, MINUTE_MS));
    let joined = stream(&session, &LEFT, &folder.join("a")).await?.join_on(
        stream(&session, &RIGHT, &folder.join("b")).await?,
        JoinType::Inner,
        [col("a_k").eq(col("b_k")), col("b_ts").gt_eq(col("a_ts") - minute), col("b_ts").lt_eq(col("a_ts"))],
    )?;
    let values = joined.select(vec![col("a_v"), col("b_v")])?;
    answer::run_to_end(values, OutputMode::Append, folder).await
}

async fn stream(session: &Session, rows: &Rows, folder: &Path) -> millstream::error::Result<DataFrame> {
    let reader = session.read_stream().format("parquet").schema(rows.schema());
    let reader = reader.option("orderBy", "path").option("maxFilesPerTrigger", FILES_PER_BATCH);
    let rows_of_it = reader.load(&folder.display().to_string()).await?;
    rows_of_it.with_watermark(&format!("{}ts", rows.prefix), "1 second")
}

async fn datafusion(folder: &Path) -> datafusion::error::Result<Vec<RecordBatch>> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(LANES));
    for side in ["a", "b"] {
        let path = folder.join(side).display().to_string();
        context.register_parquet(side, &path, ParquetReadOptions::default()).await?;
    }
    let sql = "SELECT a_v, b_v FROM a JOIN b ON a_k = b_k AND b_ts >= a_ts - INTERVAL '1 minute' AND b_ts <= a_ts";
    context.sql(sql).await?.collect().await
}
