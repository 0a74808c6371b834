//! How fast messages are read from Kafka: `cargo bench --features kafka --bench kafka`.
//!
//! A topic is filled once and kept for later runs: `millstream-bench-<messages>-<partitions>`. A bare librdkafka
//! consumer reads all of it and only counts, which is the least that reading costs; then Millstream reads it: for a count
//! without columns, for a count of values as they are, and as JSON for a count by window and page, to nowhere and to
//! Parquet files. All in turn, several times, each time in a process of its own, so that processor time is of the reader
//! alone; the best counts. The broker shares the machine, which wall time shows. What was counted is checked before a
//! figure is printed: a line of JSON a reader, then a table.
//!
//! `-- --messages N --partitions N` for another topic, `--servers HOST:PORT` for another broker than the one of
//! `tests/services/kafka.sh`, `--repeat N` for more or fewer turns, `--reader json` for the readers whose names begin so.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use serde_json::{Value, json};

use self::load::Load;
use self::reader::{READERS, Reader};

mod librdkafka;
mod load;
mod measure;
mod query;
mod reader;
mod tally;
mod topic;

const HEAD: [&str; 6] = ["reader", "rows/s", "MB/s", "rows/CPU-s", "CPU beside librdkafka", "peak memory"];

/// What may go wrong is told in words, and ends the bench.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    load: Load,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// The readers whose names begin so, and no others.
    #[arg(long)]
    reader: Option<String>,
    /// One reader, in this process.
    #[arg(long, hide = true)]
    alone: Option<String>,
    /// What cargo hands to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match &options.alone {
        Some(name) => alone(name, &options.load),
        None => compare(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets one reader read in this process, and prints what it took.
fn alone(name: &str, load: &Load) -> Result<()> {
    let reader = READERS.iter().find(|reader| reader.name == name).ok_or("there is no such reader")?;
    println!("{}", reader.measure(load)?);
    Ok(())
}

/// Lets all readers read in turn, and prints how they compare.
fn compare(options: &Options) -> Result<()> {
    let is_wanted = |reader: &&Reader| options.reader.as_deref().is_none_or(|name| reader.name.starts_with(name));
    let readers: Vec<&Reader> = READERS.iter().filter(is_wanted).collect();
    if readers.is_empty() {
        return Err("there is no such reader".into());
    }
    topic::prepare(&options.load)?;
    let mut runs = vec![Vec::new(); readers.len()];
    for _ in 0..options.repeat {
        for (reader, runs) in readers.iter().zip(&mut runs) {
            runs.push(in_process(reader, &options.load)?);
        }
    }
    report(&options.load, &readers, &runs);
    Ok(())
}

/// Prints a line of JSON a reader, and a table of them.
fn report(load: &Load, readers: &[&Reader], runs: &[Vec<Value>]) {
    let (messages, megabytes) = (load.messages as f64, load.bytes() as f64 / 1e6);
    let bare = readers.iter().position(|reader| reader.is_bare());
    let bare_cpu_s = bare.map(|bare| least(&runs[bare], "cpu_s"));
    let mut table = format!("| {} |\n|{}\n", HEAD.join(" | "), "---|".repeat(HEAD.len()));
    for (reader, runs) in readers.iter().zip(runs) {
        let [cpu_s, wall_s, peak_rss_mb] = ["cpu_s", "wall_s", "peak_rss_mb"].map(|name| least(runs, name));
        let (per_s, per_cpu_s, memory) = (messages / wall_s, messages / cpu_s, peak_rss_mb.round());
        let ratio = bare_cpu_s.map(|bare_cpu_s| cpu_s / bare_cpu_s);
        let line = json!({
            "reader": reader.name,
            "rows": load.messages,
            "partitions": load.partitions,
            "rows_per_s": per_s.round(),
            "rows_per_cpu_s": per_cpu_s.round(),
            "cpu_beside_librdkafka": ratio,
            "peak_rss_mb": memory,
        });
        println!("{line}");
        let (per_s, per_cpu_s, mb_per_s) = (per_s / 1e6, per_cpu_s / 1e6, megabytes / wall_s);
        let ratio = ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default();
        let figures = format!("{per_s:.2} M | {mb_per_s:.0} | {per_cpu_s:.2} M | {ratio} | {memory} MB");
        table += &format!("| {} | {figures} |\n", reader.name);
    }
    println!("\n{table}");
}

/// Lets a reader read in a process of its own, so that neither processor time nor memory is another's.
fn in_process(reader: &Reader, load: &Load) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--alone", reader.name]).args(load.arguments());
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: it failed, see above", reader.name).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn least(runs: &[Value], name: &str) -> f64 {
    runs.iter().map(|run| run[name].as_f64().unwrap()).fold(f64::MAX, f64::min)
}
