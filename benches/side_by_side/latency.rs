//! What a trigger of 1 000 rows takes, all included: read, counted by window and key, logged, written, published.
//!
//! Once with batches that wait already, so that triggers follow one another and each also lets go of the window before;
//! so Spark is measured, by its own count of `triggerExecution`. And once pushed one by one, until nothing is left to
//! do: that is the trigger, and the one without rows in which the window leaves.

use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer;
use crate::count_query::{CountQuery, Output, ROWS};
use crate::measure::{percentile_ms, runtime};
use crate::options::Options;
use crate::spark;
use crate::table::Line;
use crate::work::{Finding, Side, Work, assert_agree, figure, in_process};

/// How many triggers run before any counts.
const WARM_UP: usize = 50;
/// How many triggers count.
const TRIGGERS: usize = 500;

#[derive(Debug, Clone, Copy)]
pub struct Latency {
    name: &'static str,
    output: Output,
}

impl Latency {
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self { name: "latency-update-noop", output: Output::UpdateNoop },
            Self { name: "latency-append-parquet", output: Output::AppendParquet },
        ]
        .into_iter()
    }

    fn millstream(&self) -> Value {
        let folder = TempDir::new().unwrap();
        let mut query = CountQuery::start(self.output, folder.path());
        let waiting: Vec<RecordBatch> = (0..WARM_UP + TRIGGERS).map(|_| query.next_window()).collect();
        let (triggers, _) = query.run(waiting);
        let pushed: Vec<Duration> = (0..TRIGGERS)
            .map(|_| {
                let batch = query.next_window();
                query.run(vec![batch]).1
            })
            .collect();
        query.stop();
        let triggers = &triggers[WARM_UP..];
        let mut found = json!({
            "p50_ms": percentile_ms(triggers, 0.5),
            "p99_ms": percentile_ms(triggers, 0.99),
            "pushed_p50_ms": percentile_ms(&pushed, 0.5),
            "pushed_p99_ms": percentile_ms(&pushed, 0.99),
            "triggers": triggers.len(),
        });
        if self.output == Output::AppendParquet {
            // The least and the greatest count of a window: every window that left has all its rows.
            let sql = "SELECT min(n), max(n) FROM (SELECT window['start'], sum(n) AS n FROM found GROUP BY 1)";
            let table = folder.path().join("table");
            let windows = answer::of_files(&table, sql);
            found["answer"] = json!(runtime().block_on(windows).unwrap());
            assert_eq!(found["answer"], json!([ROWS, ROWS]), "{}: windows lack rows", self.name);
        }
        found
    }

    fn spark(&self) -> Value {
        let folder = TempDir::new().unwrap();
        let output = match self.output {
            Output::UpdateNoop => "noop",
            Output::AppendParquet => "parquet",
        };
        spark::run("latency", folder.path(), &["--rows", &ROWS.to_string(), "--output", output])
    }
}

impl Work for Latency {
    fn name(&self) -> &'static str {
        self.name
    }

    fn measure(&self, side: Side, _: i64) -> Value {
        match side {
            Side::Millstream => self.millstream(),
            Side::Spark => self.spark(),
            Side::Datafusion => panic!("DataFusion has no triggers"),
        }
    }

    fn compare(&self, _: &Options) -> Finding {
        let mut ours = in_process(self, Side::Millstream, ROWS);
        let mut line = Line {
            work: self.name.to_string(),
            millstream: format!("{}; pushed and all done: {}", in_words(&ours, ""), in_words(&ours, "pushed_")),
            goal: "p50 ≤ 5 ms, p99 ≤ 15 ms".to_string(),
            ..Line::default()
        };
        ours["work"] = json!(self.name);
        ours["rows"] = json!(ROWS);
        if spark::is_there() {
            let theirs = in_process(self, Side::Spark, ROWS);
            if self.output == Output::AppendParquet {
                assert_agree(self, &ours, &theirs);
            }
            let ratio = figure(&theirs, "p50_ms") / figure(&ours, "p50_ms");
            line.peer = format!("Spark {}", in_words(&theirs, ""));
            line.ratio = format!("{ratio:.0}");
            ours["spark"] = theirs;
            ours["ratio"] = json!(ratio);
        }
        Finding { json: ours, lines: vec![line] }
    }
}

fn in_words(run: &Value, kind: &str) -> String {
    let ms = |name: &str| figure(run, &format!("{kind}{name}_ms"));
    format!("p50 {:.1} ms, p99 {:.1} ms", ms("p50"), ms("p99"))
}
