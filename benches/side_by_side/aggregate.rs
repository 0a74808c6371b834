//! Windows of ten seconds by key, a count and a sum of each: from memory, from Parquet, from CSV.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::datasource::MemTable;
use datafusion::prelude::{CsvReadOptions, ParquetReadOptions, SessionConfig};
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

/// How many rows there are where the command line does not say.
const ROWS: i64 = 20_000_000;
/// How many rows a piece has at most.
const PIECE: i64 = 500_000;

#[derive(Debug, Clone, Copy)]
pub struct Aggregate {
    name: &'static str,
    keys: i64,
    strings: bool,
    mode: OutputMode,
    /// What the rows are read from; from memory where it does not say.
    files: Option<FileFormat>,
    rows_per_batch: i64,
    goals: Goals,
}

const TUMBLING: Aggregate = Aggregate {
    name: "append",
    keys: 100_000,
    strings: false,
    mode: OutputMode::Append,
    files: None,
    rows_per_batch: 2_000_000,
    goals: beside_datafusion(1.5),
};

const fn beside_datafusion(ratio: f64) -> Goals {
    Goals { datafusion: Some(ratio), spark: None, flink: None }
}

impl Aggregate {
    pub fn all() -> impl Iterator<Item = Self> {
        let as_fast = Self { goals: beside_datafusion(1.0), ..TUMBLING };
        let beside_spark = Goals { spark: Some(20.0), ..beside_datafusion(1.0) };
        let beside_flink = Goals { datafusion: None, spark: None, flink: Some(10.0) };
        [
            TUMBLING,
            Self { name: "update", mode: OutputMode::Update, goals: beside_datafusion(1.3), ..TUMBLING },
            Self { name: "parquet", files: Some(FileFormat::Parquet), goals: beside_spark, ..TUMBLING },
            Self { name: "csv", files: Some(FileFormat::Csv), goals: beside_flink, ..TUMBLING },
            Self { name: "few-keys", keys: 1_000, ..as_fast },
            Self { name: "string-keys", strings: true, ..as_fast },
            Self { name: "small-batches", rows_per_batch: 20_000, ..as_fast },
        ]
        .into_iter()
    }

    fn rows(&self) -> Rows {
        let piece = PIECE.min(self.rows_per_batch / LANES as i64);
        Rows { prefix: "", keys: self.keys, strings: self.strings, per_second: 200_000, seed: 0, piece }
    }

    fn pieces_per_batch(&self) -> i64 {
        self.rows_per_batch / self.rows().piece
    }

    async fn millstream(&self, pieces: Vec<RecordBatch>, folder: &Path) -> millstream::error::Result<Vec<RecordBatch>> {
        let session = Session::builder().lanes(LANES).build();
        let reader = session.read_stream();
        let rows = match self.files {
            Some(format) => {
                let reader = reader.format(format.name()).schema(self.rows().schema()).option("orderBy", "path");
                let reader = reader.option("maxFilesPerTrigger", self.pieces_per_batch());
                let reader = if format == FileFormat::Csv { reader.option("header", true) } else { reader };
                reader.load(&folder.join("in").display().to_string()).await?
            }
            None => {
                let stream = MemoryStream::new(self.rows().schema());
                for piece in pieces {
                    stream.push(piece)?;
                }
                stream.push(self.rows().last())?;
                reader.option("maxBatchesPerTrigger", self.pieces_per_batch()).memory(&stream)?
            }
        };
        let counted = rows.with_watermark("ts", "1 second")?.aggregate(
            vec![window(col("ts"), "10 seconds"), col("k")],
            vec![count(lit(1)).alias("n"), sum(col("v")).alias("s")],
        )?;
        answer::run_to_end(counted, self.mode, folder).await
    }

    async fn datafusion(&self, pieces: Vec<RecordBatch>, folder: &Path) -> datafusion::error::Result<Vec<RecordBatch>> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(LANES));
        let (path, schema) = (folder.join("in").display().to_string(), self.rows().schema());
        match self.files {
            Some(FileFormat::Parquet) => context.register_parquet("t", &path, ParquetReadOptions::default()).await?,
            Some(FileFormat::Csv) => {
                context.register_csv("t", &path, CsvReadOptions::new().schema(&schema).has_header(true)).await?;
            }
            None => {
                let mut partitions = vec![Vec::new(); LANES];
                for (number, piece) in pieces.into_iter().enumerate() {
                    partitions[number % LANES].push(piece);
                }
                context.register_table("t", Arc::new(MemTable::try_new(schema, partitions)?))?;
            }
        }
        let sql = "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, k, count(*) AS n, sum(v) AS s FROM t GROUP BY 1, 2";
        context.sql(sql).await?.collect().await
    }
}

impl Work for Aggregate {
    fn name(&self) -> &'static str {
        self.name
    }

    fn measure(&self, side: Side, rows: i64) -> Value {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        let pieces = self.rows().pieces(rows);
        let pieces = match self.files {
            Some(format) => {
                format.write(pieces.chain([self.rows().last()]), &folder.join("in"));
                Vec::new()
            }
            None => pieces.collect(),
        };
        let runtime = runtime();
        let (found, mut took) = match side {
            Side::Spark => {
                let files = self.pieces_per_batch().to_string();
                return spark::run("aggregate", folder, &["--files-per-trigger", &files]);
            }
            Side::Millstream => {
                let (found, took) = measured(&runtime, self.millstream(pieces, folder));
                (found.unwrap(), took)
            }
            Side::Datafusion => {
                let (found, took) = measured(&runtime, self.datafusion(pieces, folder));
                (found.unwrap(), took)
            }
        };
        let sql = totals(&found);
        took["answer"] = json!(runtime.block_on(answer::of_rows(found, &sql)).unwrap());
        took
    }

    fn compare(&self, options: &Options) -> Finding {
        throughput::compare(self, &self.goals, options.rows.unwrap_or(ROWS), options)
    }
}

/// How many windows and keys there are, their counts and sums; of a window and key that came again its last row. The
/// window of the row that closes all others does not count.
fn totals(found: &[RecordBatch]) -> String {
    let start = match found[0].schema().field(0).data_type() {
        DataType::Struct(_) => "window['start']",
        _ => "w",
    };
    format!(
        "SELECT count(*), sum(n), CAST(sum(s) AS BIGINT) FROM (SELECT {start} AS w, k, max(n) AS n, max(s) AS s \
         FROM found WHERE {start} < TIMESTAMP '2026-01-05' GROUP BY 1, 2)"
    )
}
