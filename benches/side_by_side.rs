//! Millstream beside batch DataFusion on the same rows: `cargo bench --bench side_by_side`.
//!
//! Each work is done three times by either, in turn, each time in a process of its own, and the best of three counts.
//! Millstream runs with its checkpoint on the local disk, DataFusion aggregates once over everything. Their answers are
//! compared before a figure is printed. A line of JSON a work, then a table. `-- --rows N` for another size (20 M),
//! `--work W` for one work.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use clap::Parser;
use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::prelude::{ParquetReadOptions, SessionConfig};
use millstream::prelude::*;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How often each side does a work.
const TIMES: usize = 3;
const LANES: usize = 2;
/// Rows of one second of event time; they are out of order by as much.
const ROWS_PER_SECOND: i64 = 200_000;
const SECOND_US: i64 = 1_000_000;
/// 2026-01-01 00:00 UTC.
const ORIGIN_US: i64 = 1_767_225_600 * SECOND_US;
/// Rows of a file, or of a batch that is pushed.
const PIECE: i64 = 500_000;

/// Windows of ten seconds by key: a count and a sum.
#[derive(Debug, Clone, Copy)]
struct Work {
    name: &'static str,
    keys: i64,
    strings: bool,
    mode: OutputMode,
    parquet: bool,
    rows_per_batch: i64,
}

const TUMBLING: Work = Work {
    name: "append",
    keys: 100_000,
    strings: false,
    mode: OutputMode::Append,
    parquet: false,
    rows_per_batch: 2_000_000,
};

const WORKS: &[Work] = &[
    TUMBLING,
    Work { name: "update", mode: OutputMode::Update, ..TUMBLING },
    Work { name: "parquet", parquet: true, ..TUMBLING },
    Work { name: "few-keys", keys: 1_000, ..TUMBLING },
    Work { name: "string-keys", strings: true, ..TUMBLING },
    Work { name: "small-batches", rows_per_batch: 20_000, ..TUMBLING },
];

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, default_value_t = 20_000_000)]
    rows: i64,
    /// This work only.
    #[arg(long)]
    work: Option<String>,
    /// One side of one work, in this process.
    #[arg(long, hide = true)]
    side: Option<String>,
    /// What cargo hands to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let wanted = |work: &&Work| options.work.as_deref().is_none_or(|name| name == work.name);
    if let Some(side) = &options.side {
        let work = WORKS.iter().find(wanted).unwrap();
        println!("{}", measure(work, options.rows, side));
        return;
    }
    let lines: Vec<Value> = WORKS.iter().filter(wanted).map(|work| compare(work, options.rows)).collect();
    println!("\n| work | Millstream, rows per CPU-second | DataFusion | ratio | peak memory |\n|---|---|---|---|---|");
    for line in lines {
        let millions = |name: &str| line[name].as_f64().unwrap() / 1e6;
        println!(
            "| {} | {:.1} M | {:.1} M | {:.2} | {} MB |",
            line["work"].as_str().unwrap(),
            millions("millstream_rows_per_cpu_s"),
            millions("datafusion_rows_per_cpu_s"),
            line["ratio"].as_f64().unwrap(),
            line["peak_rss_mb"]
        );
    }
}

/// Lets both sides do the work in turn, checks that they agree, and prints the best of each.
fn compare(work: &Work, rows: i64) -> Value {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(in_process(work, rows, "millstream"));
        theirs.push(in_process(work, rows, "datafusion"));
    }
    for (mine, other) in ours.iter().zip(&theirs) {
        assert_eq!(mine["answer"], other["answer"], "{}: the answers differ", work.name);
    }
    let best = |runs: &[Value], name: &str| runs.iter().map(|run| run[name].as_f64().unwrap()).fold(f64::MAX, f64::min);
    let per_cpu = |runs: &[Value]| rows as f64 / best(runs, "cpu_s");
    let line = json!({
        "work": work.name,
        "rows": rows,
        "millstream_rows_per_cpu_s": per_cpu(&ours).round(),
        "datafusion_rows_per_cpu_s": per_cpu(&theirs).round(),
        "ratio": per_cpu(&ours) / per_cpu(&theirs),
        "millstream_wall_s": best(&ours, "wall_s"),
        "datafusion_wall_s": best(&theirs, "wall_s"),
        "peak_rss_mb": best(&ours, "peak_rss_mb").round(),
    });
    println!("{line}");
    line
}

fn in_process(work: &Work, rows: i64, side: &str) -> Value {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--work", work.name, "--rows", &rows.to_string(), "--side", side]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{side} failed at {}", work.name);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Does the work on one side and says what it took.
fn measure(work: &Work, rows: i64, side: &str) -> Value {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(LANES).enable_all().build().unwrap();
    let folder = TempDir::new().unwrap();
    let pieces = pieces(work, rows);
    if work.parquet {
        let last = last_row(work);
        write_files(pieces.iter().chain([&last]), folder.path());
    }
    let pieces = if work.parquet { Vec::new() } else { pieces };
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let found = match side {
        "millstream" => runtime.block_on(millstream(work, pieces, folder.path())).unwrap(),
        _ => runtime.block_on(datafusion(work, pieces, folder.path())).unwrap(),
    };
    let (cpu_s, wall_s) = (cpu_seconds() - cpu, started.elapsed().as_secs_f64());
    let peak_rss_mb = status_kib("VmHWM:") / 1024.0;
    let answer = runtime.block_on(answer(found)).unwrap();
    json!({"cpu_s": cpu_s, "wall_s": wall_s, "peak_rss_mb": peak_rss_mb, "answer": answer})
}

fn schema(work: &Work) -> SchemaRef {
    let key = if work.strings { DataType::Utf8 } else { DataType::Int64 };
    Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("k", key, true),
        Field::new("v", DataType::Float64, true),
    ]))
}

/// The rows, in pieces; values are whole numbers, so that sums are exact in any order.
fn pieces(work: &Work, rows: i64) -> Vec<RecordBatch> {
    let piece = PIECE.min(work.rows_per_batch / LANES as i64);
    (0..rows).step_by(piece as usize).map(|first| rows_of(work, first..rows.min(first + piece))).collect()
}

fn rows_of(work: &Work, ids: std::ops::Range<i64>) -> RecordBatch {
    let mixed =
        |id: i64| (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let below = |id: i64, end: i64| ((u128::from(mixed(id)) * end as u128) >> 64) as i64;
    let ts = ids.clone().map(|id| ORIGIN_US + id * SECOND_US / ROWS_PER_SECOND + below(!id, SECOND_US));
    let keys = ids.clone().map(|id| below(id, work.keys));
    let keys: ArrayRef = match work.strings {
        true => Arc::new(StringArray::from_iter_values(keys.map(|key| format!("device-{key:06}")))),
        false => Arc::new(Int64Array::from_iter_values(keys)),
    };
    let values = Float64Array::from_iter_values(ids.map(|id| (id % 100) as f64));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(TimestampMicrosecondArray::from_iter_values(ts)), keys, Arc::new(values)];
    RecordBatch::try_new(schema(work), columns).unwrap()
}

/// A row that closes all windows.
fn last_row(work: &Work) -> RecordBatch {
    let first = rows_of(work, 0..1);
    let ts = TimestampMicrosecondArray::from(vec![ORIGIN_US + 1_000_000 * SECOND_US]);
    RecordBatch::try_new(schema(work), vec![Arc::new(ts), Arc::clone(first.column(1)), Arc::clone(first.column(2))])
        .unwrap()
}

fn write_files<'a>(pieces: impl Iterator<Item = &'a RecordBatch>, folder: &Path) {
    fs::create_dir(folder.join("in")).unwrap();
    for (number, piece) in pieces.enumerate() {
        let file = fs::File::create(folder.join(format!("in/{number:05}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, piece.schema(), None).unwrap();
        writer.write(piece).unwrap();
        writer.close().unwrap();
    }
}

type Found = Vec<RecordBatch>;

async fn millstream(work: &Work, pieces: Vec<RecordBatch>, folder: &Path) -> millstream::error::Result<Found> {
    let session = Session::builder().lanes(LANES).build();
    let per_trigger = (work.rows_per_batch / PIECE.min(work.rows_per_batch / LANES as i64)).max(1);
    let rows = match work.parquet {
        true => {
            let path = folder.join("in").display().to_string();
            let reader = session.read_stream().format("parquet").schema(schema(work));
            reader.option("maxFilesPerTrigger", per_trigger).option("orderBy", "path").load(&path).await?
        }
        false => {
            let stream = MemoryStream::new(schema(work));
            for piece in pieces {
                stream.push(piece)?;
            }
            stream.push(last_row(work))?;
            session.read_stream().option("maxBatchesPerTrigger", per_trigger).memory(&stream)?
        }
    };
    let counted = rows.with_watermark("ts", "1 second")?.aggregate(
        vec![window(col("ts"), "10 seconds"), col("k")],
        vec![count(lit(1)).alias("n"), sum(col("v")).alias("s")],
    )?;
    let found = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&found);
    let query = counted
        .write_stream()
        .output_mode(work.mode)
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.join("checkpoint").display())
        .foreach_batch(move |rows: DataFrame, _| {
            let kept = Arc::clone(&kept);
            async move {
                let rows = rows.collect().await?;
                kept.lock().unwrap().extend(rows);
                Ok(())
            }
        })
        .start("")
        .await?;
    query.await_termination().await?;
    let found = std::mem::take(&mut *found.lock().unwrap());
    Ok(found)
}

async fn datafusion(work: &Work, pieces: Vec<RecordBatch>, folder: &Path) -> datafusion::error::Result<Found> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(LANES));
    if work.parquet {
        let path = folder.join("in").display().to_string();
        context.register_parquet("t", &path, ParquetReadOptions::default()).await?;
    } else {
        let mut partitions = vec![Vec::new(); LANES];
        for (number, piece) in pieces.into_iter().enumerate() {
            partitions[number % LANES].push(piece);
        }
        context.register_table("t", Arc::new(MemTable::try_new(schema(work), partitions)?))?;
    }
    let sql = "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, k, count(*) AS n, sum(v) AS s FROM t GROUP BY 1, 2";
    context.sql(sql).await?.collect().await
}

/// How many windows and keys there are, their counts and sums; of a window and key that came again its last row.
async fn answer(found: Found) -> datafusion::error::Result<Value> {
    let context = SessionContext::new();
    let schema = found.first().map(RecordBatch::schema).unwrap();
    let start = match schema.field(0).data_type() {
        DataType::Struct(_) => "window['start']",
        _ => "w",
    };
    context.register_table("found", Arc::new(MemTable::try_new(schema, vec![found])?))?;
    let sql = format!(
        "SELECT count(*) AS rows, sum(n) AS n, sum(s) AS s FROM (SELECT {start} AS w, k, max(n) AS n, max(s) AS s FROM found \
         WHERE {start} < TIMESTAMP '2026-01-05' GROUP BY 1, 2)"
    );
    let rows = context.sql(&sql).await?.collect().await?;
    Ok(Value::String(datafusion::arrow::util::pretty::pretty_format_batches(&rows)?.to_string()))
}

/// The processor time of this process in seconds, as the system counts it: in hundredths.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn status_kib(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
