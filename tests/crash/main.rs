//! Kills the command at every failpoint of the micro-batch protocol and looks for rows that are lost, doubled or wrong.
//!
//! ```text
//! cargo test --features kafka,failpoints --test crash -- --seeds 2
//! ```
//!
//! A trial is a query over files into Parquet files, in a directory of its own. The command runs it, dies, and is
//! started again until the query is done. Then the table, read through its manifest and as a plain directory, must hold
//! what the same SQL gives as one batch over all the input, and checkpoint, state and watermark must be those of a run
//! that nobody killed ([`verdict`]). What happens to a trial is its suite's ([`suites`]); that the harness can see
//! what it looks for is shown first ([`broken`]). Everything follows from seeds, and a trial that fails prints the command
//! that runs it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, unreachable_pub)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use millstream::failpoints::{FAULTS, KAFKA_POINTS, POINTS};

#[allow(dead_code)]
#[path = "../streams/answer.rs"]
mod answer;
mod broken;
mod dice;
#[allow(dead_code)]
#[path = "../streams/disk.rs"]
mod disk;
mod power;
mod query;
mod suites;
mod trial;
mod verdict;

use query::{Place, QUERIES};
use suites::{Job, SUITES};
use verdict::Verdict;

/// Trials that run at once.
const WORKERS: usize = 2;

#[derive(Debug, Clone, Parser)]
#[command(name = "crash", about = "Kills the command at every failpoint and compares what is left")]
struct Options {
    /// How many seeds every suite is run with.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// This seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// This suite only.
    #[arg(long)]
    suite: Option<String>,
    /// This query only.
    #[arg(long)]
    query: Option<String>,
    /// This failpoint only.
    #[arg(long)]
    point: Option<String>,
    /// Where trials are kept [default: a temporary directory that is removed].
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Options {
    fn seeds(&self) -> Vec<u64> {
        self.seed.map_or_else(|| (1..=self.seeds).collect(), |seed| vec![seed])
    }

    /// Whether everything is asked for.
    fn is_whole(&self) -> bool {
        self.suite.is_none() && self.query.is_none() && self.point.is_none()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    for (given, known) in [
        (&options.suite, SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>()),
        (&options.query, QUERIES.iter().map(|query| query.name).collect()),
        (&options.point, POINTS.to_vec()),
    ] {
        if let Some(given) = given.as_deref().filter(|given| !known.contains(given)) {
            println!("there is no '{given}'; there are {}", known.join(", "));
            return ExitCode::FAILURE;
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = options.folder.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    points_are_those_of_the_source();

    let place = Place::new(&folder, &options);
    let unseen: Vec<&str> = POINTS.iter().copied().filter(|point| !place.passes(point)).collect();
    assert!(!options.is_whole() || unseen.is_empty(), "no query passes {unseen:?}: nothing is shown of them");
    if options.is_whole() {
        broken::must_be_seen(&place);
    }

    let jobs: Vec<Job<'_>> = SUITES.iter().flat_map(|suite| suite.jobs(&place, &options)).collect();
    let verdicts = run(&jobs);
    println!("\n{:<12} {:>7} {:>7} {:>6} {:>11} {:>7}", "suite", "trials", "kills", "lost", "duplicated", "wrong");
    let mut all = Verdict::default();
    for suite in SUITES {
        let of_suite: Vec<&Verdict> =
            jobs.iter().zip(&verdicts).filter(|(job, _)| job.suite == suite.name).map(|(_, verdict)| verdict).collect();
        if of_suite.is_empty() {
            continue;
        }
        let mut sum = Verdict::default();
        of_suite.iter().for_each(|verdict| sum.add(verdict));
        let Verdict { kills, lost, duplicated, wrong, .. } = sum;
        println!("{:<12} {:>7} {kills:>7} {lost:>6} {duplicated:>11} {wrong:>7}", suite.name, of_suite.len());
        all.add(&sum);
    }
    println!("\n{} kills, {} lost, {} duplicated, {} wrong", all.kills, all.lost, all.duplicated, all.wrong);
    if all.is_clean() && (all.kills > 0 || !options.is_whole()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all jobs, a few at once, and says at once which fail.
fn run(jobs: &[Job<'_>]) -> Vec<Verdict> {
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(vec![Verdict::default(); jobs.len()]));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = job.run();
                    if !verdict.is_clean() {
                        println!("{}: {}\n  again: {}", job.name(), verdict.why.join("\n  "), job.command());
                    }
                    let at = jobs.iter().position(|other| std::ptr::eq(other, job)).unwrap();
                    verdicts.lock().unwrap()[at] = verdict;
                }
            });
        }
    });
    verdicts.into_inner().unwrap()
}

/// A failpoint that is not in a list would never be tried. Those of Kafka are tried beside a broker, by the tests of streams.
fn points_are_those_of_the_source() {
    let mut found = Vec::new();
    let source = disk::files_below(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src"));
    for text in
        source.iter().filter(|(file, _)| *file != "failpoints.rs").map(|(_, bytes)| String::from_utf8_lossy(bytes))
    {
        for before in ["fail_point!(\"", "const WRITTEN: &'static str = \""] {
            found.extend(text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_string()));
        }
    }
    found.sort_unstable();
    found.dedup();
    let mut known: Vec<&str> = POINTS.iter().chain(KAFKA_POINTS).chain(FAULTS).copied().collect();
    known.sort_unstable();
    assert_eq!(found, known, "the failpoints in src and those of the list differ");
}
