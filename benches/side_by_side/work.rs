//! A work, the sides that do it, and what is found of them.

use std::fmt;
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde_json::Value;

use crate::options::Options;
use crate::table::Line;

/// How often each side does a work, but for Spark.
pub const TIMES: usize = 3;
/// How many processors a side may use.
pub const LANES: usize = 2;

/// What is done side by side.
pub trait Work {
    /// Returns its name on the command line and in what is printed.
    fn name(&self) -> &'static str;

    /// Does it on one side, in this process, and tells what it took and what came of it (`answer`).
    fn measure(&self, side: Side, rows: i64) -> Value;

    /// Lets the sides do it, checks that they agree, and tells how they compare.
    fn compare(&self, options: &Options) -> Finding;
}

/// Who does a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    Millstream,
    Datafusion,
    Spark,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Millstream => "millstream",
            Self::Datafusion => "datafusion",
            Self::Spark => "spark",
        })
    }
}

/// What was found of a work.
pub struct Finding {
    pub json: Value,
    /// What the table says of it.
    pub lines: Vec<Line>,
}

/// Does one side of a work in a process of its own, so that neither memory nor warmth is another's.
pub fn in_process(work: &dyn Work, side: Side, rows: i64) -> Value {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--work", work.name(), "--rows", &rows.to_string(), "--side", &side.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}: {side} failed", work.name());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks that both runs came to the same answer.
pub fn assert_agree(work: &dyn Work, ours: &Value, theirs: &Value) {
    assert!(ours["answer"].is_array(), "{}: there is no answer", work.name());
    assert_eq!(ours["answer"], theirs["answer"], "{}: the answers differ", work.name());
}

/// Returns a figure of a run.
pub fn figure(run: &Value, name: &str) -> f64 {
    run[name].as_f64().unwrap()
}

/// Returns the least of a figure of several runs.
pub fn least(runs: &[Value], name: &str) -> f64 {
    runs.iter().map(|run| figure(run, name)).fold(f64::MAX, f64::min)
}
