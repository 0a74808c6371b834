//! Why nothing comes out: the progress, EXPLAIN FLOW and DESCRIBE FLOW name the oldest open window and the source that
//! holds the watermark back.

use std::fs;
use std::path::Path;

use datafusion::arrow::util::pretty::pretty_format_batches;
use millstream::query::progress::StateOperatorProgress;
use millstream::query::waiting::Waiting;
use serde_json::{Value, json};

use crate::case::literal;
use crate::watched::Watched;

/// The windows of two streams, of which the second is slow.
const UNION: &str = "SELECT window.start AS ws, count(*) AS n FROM \
    (SELECT ts FROM STREAM fast WATERMARK ts DELAY OF INTERVAL 10 MINUTES UNION ALL \
     SELECT ts FROM STREAM slow IDENTIFIED BY the_slow_one WATERMARK ts DELAY OF INTERVAL 11 MINUTES) \
    GROUP BY window(ts, '1 hour')";

fn write(folder: &Path, times: &[Option<&str>]) {
    fs::create_dir(folder).unwrap();
    let row = |time: &Option<&str>| format!("{}\n", json!({"ts": time.map(|time| format!("2026-01-01T{time}"))}));
    fs::write(folder.join("a.json"), times.iter().map(row).collect::<String>()).unwrap();
}

/// Runs a flow in `mode` over the two streams to the end of what is there.
async fn run(home: &Path, slow: &[Option<&str>], mode: &str, query: &str) -> Watched {
    write(&home.join("fast"), &[Some("10:00:00"), Some("12:30:00")]);
    write(&home.join("slow"), slow);
    let watched = Watched::new();
    let script = format!(
        "SET trigger = 'available now';\n\
         CREATE UNBOUNDED EXTERNAL TABLE fast (ts TIMESTAMP) STORED AS JSON LOCATION '{0}/fast/';\n\
         CREATE UNBOUNDED EXTERNAL TABLE slow (ts TIMESTAMP) STORED AS JSON LOCATION '{0}/slow/';\n\
         CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n\
         CREATE FLOW f OUTPUT MODE {mode} AS INSERT INTO answer {query};",
        literal(home)
    );
    watched.session.run_script(&script).await.unwrap();
    watched
}

/// What each batch's first operator did.
fn operators(watched: &Watched) -> Vec<StateOperatorProgress> {
    watched.reports.all().into_iter().map(|mut report| report.state_operators.swap_remove(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_window_and_the_slow_source_are_named() {
    let home = tempfile::tempdir().unwrap();
    let watched = run(home.path(), &[Some("10:30:00"), Some("11:52:00")], "append", UNION).await;
    let waiting: Vec<Waiting> = operators(&watched).into_iter().map(|operator| operator.waiting.unwrap()).collect();
    assert_eq!(waiting.len(), 2);
    // The first batch moved the watermark; the second, without data, closed a window by it.
    assert_eq!(
        waiting[0].reason,
        "window ending 2026-01-01 11:00:00 leaves with the next batch: watermark 2026-01-01 11:41:00"
    );
    let reason = waiting[1].reason.as_str();
    assert!(
        reason.starts_with(
            "window ending 2026-01-01 12:00:00 waits: watermark 2026-01-01 11:41:00, held back by source the_slow_one \
             (max event time 2026-01-01 11:52:00"
        ),
        "{reason}"
    );
    assert_eq!(waiting[1].until, "2026-01-01T12:00:00.000Z");
    assert_eq!(waiting[1].held_back_by[0].max_event_time.as_deref(), Some("2026-01-01T11:52:00.000Z"));

    for statement in ["EXPLAIN FLOW f", "DESCRIBE FLOW f"] {
        let shown = watched.session.sql(statement).await.unwrap().collect().await.unwrap();
        let shown = pretty_format_batches(&shown).unwrap().to_string();
        assert!(shown.contains(reason), "{statement}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_an_event_time_so_far_is_named() {
    let home = tempfile::tempdir().unwrap();
    let watched = run(home.path(), &[None], "append", UNION).await;
    let operators = operators(&watched);
    let reason = &operators[0].waiting.as_ref().unwrap().reason;
    assert_eq!(
        reason,
        "window ending 2026-01-01 11:00:00 waits: no watermark yet, held back by source the_slow_one (no event time \
         yet)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_field_is_left_out_where_nothing_waits() {
    let home = tempfile::tempdir().unwrap();
    let watched = run(home.path(), &[Some("10:30:00")], "complete", UNION).await;
    let operator = serde_json::to_value(&operators(&watched)[0]).unwrap();
    assert!(operator["operatorName"].is_string() && operator.get("waiting").is_none(), "{operator}");
    // The other fields are Spark's, all of them.
    assert_eq!(operator.as_object().map(|fields: &serde_json::Map<String, Value>| fields.len()), Some(12));
}
