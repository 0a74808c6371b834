//! Spark, where there is one: MILLSTREAM_BENCH_SPARK names a Python that has pyspark. `benches/spark.py` does the work.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/spark.py");

fn python() -> Option<OsString> {
    env::var_os("MILLSTREAM_BENCH_SPARK").filter(|python| !python.is_empty())
}

/// Returns whether Spark can be asked.
pub fn is_there() -> bool {
    python().is_some()
}

/// Lets Spark do a work in `folder` and returns what it prints of it: one line of JSON, or nothing.
pub fn run(work: &str, folder: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(python().unwrap());
    let output = command.args([SCRIPT, work]).arg(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{work}: Spark failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap_or_default()
}
