//! Nexmark: what each script of `sql/nexmark/` costs: `cargo bench --bench nexmark`.
//!
//! The events come from the generator that other engines use too, ten thousand a second of event time, in Parquet files
//! of half a million events each. A script runs as it is, but over these files, one of each table a batch, with its
//! output in a temporary directory and nothing on the console; each in a process of its own. A line of JSON a query,
//! then a table, then what cannot be asked. Rows are those of the tables that the query names. `-- --events N` for
//! another size (2 M), `--query q5` for one query.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use millstream::session::Session;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

const LANES: usize = 2;
/// Events of a file of each table.
const PIECE: usize = 500_000;
/// 2026-01-01 00:00 UTC.
const ORIGIN_MS: u64 = 1_767_225_600_000;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/nexmark");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/data/nexmark");
/// The line of the scripts' README below which it says what cannot be asked.
const NOT_ASKED: &str = "What cannot be asked:";

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, default_value_t = 2_000_000)]
    events: usize,
    /// This query only.
    #[arg(long)]
    query: Option<String>,
    /// Where the events are: runs the query in this process.
    #[arg(long, hide = true)]
    folder: Option<String>,
    /// What cargo hands to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    if let (Some(folder), Some(query)) = (&options.folder, &options.query) {
        println!("{}", measure(query, Path::new(folder)));
        return;
    }
    let folder = TempDir::new().unwrap();
    let rows = generate(options.events, folder.path());
    let wanted = |query: &String| options.query.as_ref().is_none_or(|name| name == query);
    let lines: Vec<Value> = queries()
        .iter()
        .filter(|query| wanted(query))
        .map(|query| run(query, &options, &rows, folder.path()))
        .collect();
    println!("\n| query | rows | rows per CPU-second | wall | peak memory |\n|---|---|---|---|---|");
    for line in lines {
        println!(
            "| {} | {} | {:.2} M | {:.1} s | {} MB |",
            line["query"].as_str().unwrap(),
            line["rows"],
            line["millstream_rows_per_cpu_s"].as_f64().unwrap() / 1e6,
            line["wall_s"].as_f64().unwrap(),
            line["peak_rss_mb"]
        );
    }
    let readme = fs::read_to_string(format!("{SCRIPTS}/README.md")).unwrap();
    println!("\n{NOT_ASKED}\n{}", readme.split_once(NOT_ASKED).unwrap().1.trim_end());
}

/// The names of the scripts, in the order of their numbers.
fn queries() -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap().strip_suffix(".sql").map(String::from);
    let mut names: Vec<String> = fs::read_dir(SCRIPTS).unwrap().filter_map(|entry| name(entry.unwrap())).collect();
    names.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    names
}

/// Runs a query in a process of its own and prints what it took.
fn run(query: &str, options: &Options, rows: &BTreeMap<&str, u64>, folder: &Path) -> Value {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--query", query, "--folder", folder.to_str().unwrap()]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{query} failed");
    let took: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = script(query);
    let read = rows.iter().filter(|(table, _)| text.contains(&format!("'sql/data/nexmark/{table}/'")));
    let read: u64 = read.map(|(_, rows)| rows).sum();
    let line = json!({
        "query": query,
        "events": options.events,
        "rows": read,
        "millstream_rows_per_cpu_s": (read as f64 / took["cpu_s"].as_f64().unwrap()).round(),
        "cpu_s": took["cpu_s"],
        "wall_s": took["wall_s"],
        "peak_rss_mb": took["peak_rss_mb"],
    });
    println!("{line}");
    line
}

fn script(query: &str) -> String {
    fs::read_to_string(format!("{SCRIPTS}/{query}.sql")).unwrap()
}

/// Runs a query over the events in `folder` and says what it took.
fn measure(query: &str, folder: &Path) -> Value {
    let output = TempDir::new().unwrap();
    let text = script(query)
        .replace("STORED AS JSON LOCATION", "STORED AS PARQUET LOCATION")
        .replace("STORED AS CONSOLE OPTIONS ('format' 'json')", "STORED AS NOOP")
        .replace("'sql/data/nexmark/", &format!("'{}/", folder.display()))
        .replace("'out/", &format!("'{}/", output.path().display()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(LANES).enable_all().build().unwrap();
    let session = Session::builder().lanes(LANES).build();
    let (cpu, started) = (cpu_seconds(), Instant::now());
    runtime.block_on(session.run_script(&text)).unwrap_or_else(|error| panic!("{query}: {error}"));
    let (cpu_s, wall_s) = (cpu_seconds() - cpu, started.elapsed().as_secs_f64());
    json!({"cpu_s": cpu_s, "wall_s": wall_s, "peak_rss_mb": (status_kib("VmHWM:") / 1024.0).round()})
}

/// Writes the events, a folder a table, and says how many rows each table has.
fn generate(events: usize, folder: &Path) -> BTreeMap<&'static str, u64> {
    let mut rows = BTreeMap::from([("person", 0), ("auction", 0), ("bid", 0)]);
    for table in rows.keys() {
        fs::create_dir(folder.join(table)).unwrap();
    }
    fs::copy(format!("{DATA}/side_input.csv"), folder.join("side_input.csv")).unwrap();
    let config = NexmarkConfig { base_time: ORIGIN_MS, ..NexmarkConfig::default() };
    let mut generator = EventGenerator::new(config);
    for (number, first) in (0..events).step_by(PIECE).enumerate() {
        let (mut people, mut auctions, mut bids) = (Vec::new(), Vec::new(), Vec::new());
        for event in generator.by_ref().take(PIECE.min(events - first)) {
            match event {
                Event::Person(person) => people.push(person),
                Event::Auction(auction) => auctions.push(auction),
                Event::Bid(bid) => bids.push(bid),
            }
        }
        for (table, piece) in
            [("person", person_rows(&people)), ("auction", auction_rows(&auctions)), ("bid", bid_rows(&bids))]
        {
            *rows.entry(table).or_default() += piece.num_rows() as u64;
            write_file(&piece, &folder.join(table).join(format!("{number:05}.parquet")));
        }
    }
    rows
}

fn write_file(rows: &RecordBatch, path: &Path) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

fn person_rows(rows: &[Person]) -> RecordBatch {
    batch(vec![
        ("id", numbers(rows, |row| row.id)),
        ("name", texts(rows, |row| &row.name)),
        ("email_address", texts(rows, |row| &row.email_address)),
        ("credit_card", texts(rows, |row| &row.credit_card)),
        ("city", texts(rows, |row| &row.city)),
        ("state", texts(rows, |row| &row.state)),
        ("date_time", times(rows, |row| row.date_time)),
        ("extra", texts(rows, |row| &row.extra)),
    ])
}

fn auction_rows(rows: &[Auction]) -> RecordBatch {
    batch(vec![
        ("id", numbers(rows, |row| row.id)),
        ("item_name", texts(rows, |row| &row.item_name)),
        ("description", texts(rows, |row| &row.description)),
        ("initial_bid", numbers(rows, |row| row.initial_bid)),
        ("reserve", numbers(rows, |row| row.reserve)),
        ("date_time", times(rows, |row| row.date_time)),
        ("expires", times(rows, |row| row.expires)),
        ("seller", numbers(rows, |row| row.seller)),
        ("category", numbers(rows, |row| row.category)),
        ("extra", texts(rows, |row| &row.extra)),
    ])
}

fn bid_rows(rows: &[Bid]) -> RecordBatch {
    batch(vec![
        ("auction", numbers(rows, |row| row.auction)),
        ("bidder", numbers(rows, |row| row.bidder)),
        ("price", numbers(rows, |row| row.price)),
        ("channel", texts(rows, |row| &row.channel)),
        ("url", texts(rows, |row| &row.url)),
        ("date_time", times(rows, |row| row.date_time)),
        ("extra", texts(rows, |row| &row.extra)),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn numbers<T>(rows: &[T], value: impl Fn(&T) -> usize) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| value(row) as i64)))
}

fn texts<T>(rows: &[T], value: impl Fn(&T) -> &String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
}

/// Times, which the generator counts in milliseconds.
fn times<T>(rows: &[T], value: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| value(row) as i64 * 1000)))
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
