//! How sides compare in rows a second.

use serde_json::{Value, json};

use crate::options::Options;
use crate::spark;
use crate::table::{Line, millions};
use crate::work::{Finding, Side, TIMES, Work, assert_agree, figure, in_process, least};

/// What Flink 2.3 did of windows of ten seconds by key from CSV files, on two cores like these.
const FLINK_ROWS_PER_S: f64 = 750_000.0;

/// How many times as fast as its peers a work should be.
#[derive(Debug, Clone, Copy)]
pub struct Goals {
    /// In processor time, beside batch DataFusion.
    pub datafusion: Option<f64>,
    /// In wall time, beside Spark; without it Spark is not asked.
    pub spark: Option<f64>,
    /// In wall time, beside what was measured of Flink.
    pub flink: Option<f64>,
}

/// Lets the sides do a work in turn, and compares the best of each.
pub fn compare(work: &dyn Work, goals: &Goals, rows: i64, options: &Options) -> Finding {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(in_process(work, Side::Millstream, rows));
        theirs.push(in_process(work, Side::Datafusion, rows));
    }
    for (mine, other) in ours.iter().zip(&theirs) {
        assert_agree(work, mine, other);
    }
    let per = |runs: &[Value], seconds: &str| (rows as f64 / least(runs, seconds)).round();
    let (mine, other) = (per(&ours, "cpu_s"), per(&theirs, "cpu_s"));
    let (mine_wall, peak_rss_mb) = (per(&ours, "wall_s"), least(&ours, "peak_rss_mb").round());
    let mut json = json!({
        "work": work.name(),
        "rows": rows,
        "millstream_rows_per_cpu_s": mine,
        "datafusion_rows_per_cpu_s": other,
        "ratio": mine / other,
        "millstream_rows_per_s": mine_wall,
        "datafusion_rows_per_s": per(&theirs, "wall_s"),
        "peak_rss_mb": peak_rss_mb,
    });
    let mut lines = vec![Line {
        work: format!("{}, {} rows", work.name(), millions(rows as f64)),
        millstream: format!("{} rows/CPU-s", millions(mine)),
        peer: format!("DataFusion {} rows/CPU-s", millions(other)),
        ratio: format!("{:.2}", mine / other),
        goal: goal(goals.datafusion),
        memory: format!("{peak_rss_mb} MB"),
    }];
    if goals.flink.is_some() {
        json["flink"] = json!({"rows_per_s": FLINK_ROWS_PER_S, "ratio": mine_wall / FLINK_ROWS_PER_S});
        let peer = format!("Flink 2.3, measured elsewhere: {}", millions(FLINK_ROWS_PER_S));
        lines.push(wall_line(work, rows, mine_wall, peer, mine_wall / FLINK_ROWS_PER_S, goals.flink));
    }
    if goals.spark.is_some() && spark::is_there() {
        let rows = rows.min(options.spark_rows);
        let spark = beside_spark(work, rows);
        let [mine, other, ratio] =
            ["millstream_rows_per_s", "spark_rows_per_s", "ratio"].map(|name| figure(&spark, name));
        let peer = format!("Spark {}", millions(other));
        lines.push(wall_line(work, rows, mine, peer, ratio, goals.spark));
        json["spark"] = spark;
    }
    Finding { json, lines }
}

/// Lets Millstream and Spark do a work over the same rows.
fn beside_spark(work: &dyn Work, rows: i64) -> Value {
    let theirs = [in_process(work, Side::Spark, rows)];
    let ours: Vec<Value> = (0..TIMES).map(|_| in_process(work, Side::Millstream, rows)).collect();
    for mine in &ours {
        assert_agree(work, mine, &theirs[0]);
    }
    let per_s = |runs: &[Value]| (rows as f64 / least(runs, "wall_s")).round();
    json!({
        "rows": rows,
        "millstream_rows_per_s": per_s(&ours),
        "spark_rows_per_s": per_s(&theirs),
        "ratio": per_s(&ours) / per_s(&theirs),
    })
}

fn wall_line(work: &dyn Work, rows: i64, mine: f64, peer: String, ratio: f64, to_reach: Option<f64>) -> Line {
    Line {
        work: format!("{}, {} rows, wall", work.name(), millions(rows as f64)),
        millstream: format!("{} rows/s", millions(mine)),
        peer: format!("{peer} rows/s"),
        ratio: format!("{ratio:.1}"),
        goal: goal(to_reach),
        memory: String::new(),
    }
}

fn goal(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("≥ {ratio} ×")).unwrap_or_default()
}
