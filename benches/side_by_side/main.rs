//! Millstream beside its peers on the same rows: `cargo bench --bench side_by_side`.
//!
//! Each work is done by Millstream and by batch DataFusion, in turn, three times each, every time in a process of its
//! own, and the best of three counts. Where MILLSTREAM_BENCH_SPARK names a Python that has pyspark, Spark does some of
//! the works too, over fewer rows if need be: twice in one session, and Millstream the same rows again. Millstream runs
//! with its checkpoint on the local disk. Answers are compared before a figure is printed: a line of JSON a work, then
//! a table.
//!
//! `-- --work latency` does the works whose names begin so, `--rows N` takes so many rows, `--spark-rows N` gives Spark
//! no more than so many, `--groups-max N` stops at so many groups in state.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::disallowed_methods)] // a bench measures real time

use clap::Parser;

use self::aggregate::Aggregate;
use self::groups::Groups;
use self::latency::Latency;
use self::options::Options;
use self::start::Start;
use self::stream_join::StreamJoin;
use self::table::Table;
use self::work::Work;

mod aggregate;
mod answer;
mod count_query;
mod groups;
mod input;
mod latency;
mod measure;
mod options;
mod spark;
mod start;
mod stream_join;
mod table;
mod throughput;
mod work;

/// All works, in the order of the table.
fn works() -> Vec<Box<dyn Work>> {
    let mut works: Vec<Box<dyn Work>> = Vec::new();
    works.extend(Aggregate::all().map(|work| Box::new(work) as Box<dyn Work>));
    works.push(Box::new(StreamJoin));
    works.extend(Latency::all().map(|work| Box::new(work) as Box<dyn Work>));
    works.push(Box::new(Start));
    works.push(Box::new(Groups));
    works
}

fn main() {
    let options = Options::parse();
    let mut works = works();
    works.retain(|work| options.work.as_deref().is_none_or(|name| work.name().starts_with(name)));
    assert!(!works.is_empty(), "there is no such work");
    if let Some(side) = options.side {
        println!("{}", works[0].measure(side, options.rows.unwrap()));
        return;
    }
    let mut table = Table::default();
    for work in works {
        let finding = work.compare(&options);
        println!("{}", finding.json);
        table.extend(finding.lines);
    }
    println!("\n{table}");
}
