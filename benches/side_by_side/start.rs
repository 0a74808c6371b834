//! How long it takes from the start of a process to its end when there is one batch of a few rows to do.
//!
//! `millstream run` reads a JSON file, counts by hour, and writes Parquet; the hours that close leave in a second batch
//! without rows, which counts too.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer;
use crate::measure::{percentile_ms, runtime};
use crate::options::Options;
use crate::spark;
use crate::table::Line;
use crate::work::{Finding, Side, Work, assert_agree, figure};

/// How often Millstream starts.
const STARTS: usize = 20;

const ROWS: &str = r#"{"ts":"2026-01-01T00:00:01","page":"a"}
{"ts":"2026-01-01T00:10:01","page":"a"}
{"ts":"2026-01-01T00:20:01","page":"b"}
{"ts":"2026-01-01T02:00:00","page":"a"}
"#;

const SCRIPT: &str = "
CREATE UNBOUNDED EXTERNAL TABLE clicks (ts TIMESTAMP, page STRING) STORED AS JSON LOCATION 'in/';
CREATE EXTERNAL TABLE hits STORED AS PARQUET LOCATION 'out/';
CREATE FLOW count_hits TRIGGER AVAILABLE NOW CHECKPOINT 'checkpoint' AS INSERT INTO hits
SELECT window.start AS hour, page, count(*) AS n
FROM STREAM clicks WATERMARK ts DELAY OF INTERVAL 0 SECONDS
GROUP BY window(ts, '1 hour'), page;
";

#[derive(Debug, Clone, Copy)]
pub struct Start;

impl Work for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    /// Starts a process in a folder of its own; the rows are always the same few.
    fn measure(&self, side: Side, _: i64) -> Value {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("in")).unwrap();
        fs::write(folder.join("in/clicks.json"), ROWS).unwrap();
        fs::write(folder.join("small.sql"), SCRIPT).unwrap();
        let began = Instant::now();
        match side {
            Side::Millstream => millstream(folder),
            Side::Spark => drop(spark::run("start", folder, &[])),
            Side::Datafusion => panic!("DataFusion has no command here"),
        }
        let wall_s = began.elapsed().as_secs_f64();
        let sql = "SELECT count(*), sum(n) FROM found";
        let answer = runtime().block_on(answer::of_files(&folder.join("out"), sql)).unwrap();
        json!({"wall_s": wall_s, "answer": answer})
    }

    fn compare(&self, _: &Options) -> Finding {
        let runs: Vec<Value> = (0..STARTS).map(|_| self.measure(Side::Millstream, 0)).collect();
        let walls: Vec<Duration> = runs.iter().map(|run| Duration::from_secs_f64(figure(run, "wall_s"))).collect();
        let (least_ms, median_ms) = (percentile_ms(&walls, 0.0), percentile_ms(&walls, 0.5));
        for run in &runs {
            assert_eq!(run["answer"], json!([2, 3]), "start: pages of the closed hour, and their rows");
        }
        let mut json = json!({"work": "start", "rows": 4, "least_ms": least_ms, "median_ms": median_ms});
        let mut line = Line {
            work: "start to end of a process".to_string(),
            millstream: format!("median {median_ms:.0} ms, least {least_ms:.0} ms"),
            goal: "≤ 200 ms".to_string(),
            ..Line::default()
        };
        if spark::is_there() {
            let theirs = self.measure(Side::Spark, 0);
            assert_agree(self, &runs[0], &theirs);
            let spark_ms = figure(&theirs, "wall_s") * 1_000.0;
            json["spark"] = json!({"wall_ms": spark_ms});
            json["ratio"] = json!(spark_ms / median_ms);
            line.peer = format!("Spark {spark_ms:.0} ms");
            line.ratio = format!("{:.0}", spark_ms / median_ms);
        }
        Finding { json, lines: vec![line] }
    }
}

fn millstream(folder: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    let output = command.args(["run", "small.sql"]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
