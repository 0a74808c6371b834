//! Statements that once went wrong, or easily could: each does what a user would take it to do.

use std::fs;
use std::path::Path;

use millstream::error::{Error, ErrorKind};
use tempfile::TempDir;

use crate::case::literal;
use crate::watched::Watched;

const COLUMNS: &str = "id BIGINT, ts TIMESTAMP, k STRING, d DOUBLE";

/// A directory with a stream of four rows in two files.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("ev");
    fs::create_dir(&folder).unwrap();
    let row = |id: i64, k: &str, d: f64| {
        format!("{{\"id\":{id},\"ts\":\"2026-01-01T00:00:0{id}\",\"k\":\"{k}\",\"d\":{d:?}}}\n")
    };
    fs::write(folder.join("a.json"), row(1, "a", 10.357019999999999) + &row(2, "b", 0.1)).unwrap();
    fs::write(folder.join("b.json"), row(3, "a", -8.5) + &row(4, "c", 1e-7)).unwrap();
    home
}

fn tables(home: &Path) -> String {
    let ev = literal(&home.join("ev"));
    format!(
        "SET trigger = 'available now';\n\
         CREATE UNBOUNDED EXTERNAL TABLE ev ({COLUMNS}) STORED AS JSON LOCATION '{ev}';\n\
         CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n"
    )
}

/// Runs statements over the stream; what was printed, and how it ended.
async fn run(home: &Path, statements: &str) -> (Watched, Result<(), Error>) {
    let watched = Watched::new();
    let end = watched.session.run_script(&(tables(home) + statements)).await;
    (watched, end)
}

/// The rows of the last batch, sorted.
fn last_rows(watched: &Watched) -> Vec<String> {
    let batches = watched.batches();
    let rows = batches.last().unwrap()["rows"].as_array().unwrap();
    let mut rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    rows.sort();
    rows
}

async fn refused(statements: &str, kind: ErrorKind, parts: &[&str]) {
    let home = home();
    let (watched, end) = run(home.path(), &statements.replace("HOME", &literal(home.path()))).await;
    let error = end.expect_err(statements);
    assert_eq!(error.kind(), kind, "{statements}: {error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{statements}: {error} does not say {part}");
    }
    assert!(watched.batches().is_empty(), "{statements}: something ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_before_anything_runs() {
    use ErrorKind::InvalidQuery;
    refused("INSERT INTO answr SELECT id FROM STREAM ev;", InvalidQuery, &["line 4", "no table 'answr'", "answer"])
        .await;
    refused(
        "CREATE EXTERNAL TABLE o (k BIGINT) STORED AS PARQUET LOCATION 'HOME/o';\nINSERT INTO o SELECT k FROM STREAM ev;",
        InvalidQuery,
        &["line 5", "column 'k'", "Int64", "CAST"],
    )
    .await;
    refused(
        "CREATE EXTERNAL TABLE o STORED AS JSON LOCATION 'HOME/ev/out';\nINSERT INTO o SELECT * FROM STREAM ev;",
        InvalidQuery,
        &["circle", "reads"],
    )
    .await;
    refused(
        "CREATE FLOW f CHECKPOINT 'HOME/ck' AS INSERT INTO answer SELECT id FROM STREAM ev;\n\
         CREATE FLOW g CHECKPOINT 'HOME/x/../ck' AS INSERT INTO answer SELECT k FROM STREAM ev;",
        InvalidQuery,
        &["'f' and 'g'", "CHECKPOINT"],
    )
    .await;
    refused(
        "CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION 'HOME/o';\n\
         CREATE FLOW f AS INSERT INTO o SELECT id FROM STREAM ev;\n\
         CREATE FLOW g AS INSERT INTO o SELECT k AS id FROM STREAM ev;",
        InvalidQuery,
        &["'f' and 'g'", "columns"],
    )
    .await;
    refused(
        "INSERT INTO answer SELECT id FROM STREAM ev GROUP BY id, window(ts, '1 month');",
        InvalidQuery,
        &["months"],
    )
    .await;
    refused("INSERT INTO answer SELECT id FROM STREAM nope;", InvalidQuery, &["line 4", "nope"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_rollup_is_rollup() {
    let home = home();
    let mut answers = Vec::new();
    for group in ["k WITH ROLLUP", "ROLLUP (k)", "k GROUPING SETS ((k), ())"] {
        let flow = format!(
            "CREATE FLOW f OUTPUT MODE complete AS INSERT INTO answer SELECT k, count(*) AS n FROM STREAM ev GROUP BY {group};"
        );
        let (watched, end) = run(home.path(), &flow).await;
        end.unwrap_or_else(|e| panic!("{group}: {e}"));
        answers.push(last_rows(&watched));
    }
    let expected = [r#"{"k":"a","n":2}"#, r#"{"k":"b","n":1}"#, r#"{"k":"c","n":1}"#, r#"{"k":null,"n":4}"#];
    assert!(answers.iter().all(|rows| *rows == expected), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_a_query_below_can_be_taken_apart() {
    let home = home();
    let (watched, end) = run(
        home.path(),
        "CREATE FLOW f OUTPUT MODE complete AS INSERT INTO answer SELECT window.start AS s, x.window.end AS e, n FROM \
         (SELECT window, count(*) AS n FROM STREAM ev GROUP BY window(ts, '1 day')) AS x;",
    )
    .await;
    end.unwrap();
    assert_eq!(last_rows(&watched), [r#"{"e":"2026-01-02T00:00:00","n":4,"s":"2026-01-01T00:00:00"}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn doubles_are_those_of_the_file() {
    let home = home();
    let (watched, end) = run(home.path(), "INSERT INTO answer SELECT d FROM STREAM ev;").await;
    end.unwrap();
    assert_eq!(last_rows(&watched), [r#"{"d":-8.5}"#, r#"{"d":0.1}"#, r#"{"d":10.357019999999999}"#, r#"{"d":1e-7}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_stand_before_its_writer() {
    let home = home();
    let mid = literal(&home.path().join("mid"));
    let (watched, end) = run(
        home.path(),
        &format!(
            "CREATE EXTERNAL TABLE mid STORED AS PARQUET LOCATION '{mid}';\n\
             CREATE FLOW reads OUTPUT MODE complete AS INSERT INTO answer SELECT count(*) AS n FROM STREAM mid;\n\
             CREATE FLOW writes AS INSERT INTO mid SELECT id FROM STREAM ev;"
        ),
    )
    .await;
    end.unwrap();
    assert_eq!(last_rows(&watched), [r#"{"n":4}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_was_stopped_before_it_started_does_not_run() {
    let home = home();
    let (watched, end) =
        run(home.path(), "CREATE FLOW f AS INSERT INTO answer SELECT id FROM STREAM ev; STOP FLOW f;").await;
    end.unwrap();
    assert!(watched.batches().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flows_name_leads_nowhere() {
    let home = home();
    let out = home.path().join("a/b/out");
    let (_, end) = run(
        home.path(),
        &format!(
            "CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '{}';\n\
             CREATE FLOW \"../../../evil\" AS INSERT INTO o SELECT id FROM STREAM ev;",
            literal(&out)
        ),
    )
    .await;
    end.unwrap();
    assert!(out.join("_millstream").read_dir().unwrap().count() >= 3);
    assert!(
        !home.path().join("a/evil").exists()
            && !home.path().join("a/b/evil").exists()
            && !home.path().join("evil").exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watermark_for_counts_wherever_the_table_is_a_stream() {
    let home = home();
    let ev = literal(&home.path().join("ev"));
    let (watched, end) = run(
        home.path(),
        &format!(
            "CREATE EXTERNAL TABLE plain ({COLUMNS}, WATERMARK FOR ts AS ts - INTERVAL '1' SECOND) STORED AS JSON LOCATION '{ev}';\n\
             INSERT INTO answer SELECT window.start AS s, count(*) AS n FROM STREAM plain GROUP BY window(ts, '2 seconds');"
        ),
    )
    .await;
    end.unwrap();
    assert_eq!(last_rows(&watched), [r#"{"n":1,"s":"2026-01-01T00:00:00"}"#]);
}

/// EXPLAIN ANALYZE FLOW tells of a batch: it runs what ends by itself, and says so where there is nothing to tell.
/// A plain INSERT INTO has no clauses: its table can say where its checkpoint is.
#[tokio::test(flavor = "multi_thread")]
async fn a_tables_own_checkpoint_serves_flows_into_it() {
    let home = home();
    let checkpoint = literal(&home.path().join("ck"));
    let kept = format!(
        "CREATE EXTERNAL TABLE kept STORED AS CONSOLE OPTIONS ('format' 'json', 'checkpointLocation' '{checkpoint}');\n\
         INSERT INTO kept SELECT k FROM STREAM ev;\n"
    );
    let (first, end) = run(home.path(), &kept).await;
    end.unwrap();
    assert!(!last_rows(&first).is_empty());
    let (again, end) = run(home.path(), &kept).await;
    end.unwrap();
    assert!(again.batches().is_empty(), "{:?}", again.batches());
    let twice = kept + "INSERT INTO kept SELECT k FROM STREAM ev;";
    refused(&twice, ErrorKind::InvalidQuery, &["have one CHECKPOINT"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_tells_what_the_last_batch_took() {
    let home = home();
    let flow = "CREATE FLOW f OUTPUT MODE update AS INSERT INTO answer SELECT k, count(*) AS n FROM ev GROUP BY k;\n";
    let (watched, end) = run(home.path(), &format!("{flow}EXPLAIN ANALYZE FLOW f;")).await;
    end.unwrap();
    let text = watched.text();
    assert!(text.contains("StatefulAggregateExec") && text.contains("\"numInputRows\":4"), "{text}");
    assert_eq!(last_rows(&watched).len(), 3, "the flow ran once");
    let endless = flow.replace("FLOW f", "FLOW f TRIGGER PROCESSING TIME '1 hour'");
    refused(
        &format!("{endless}EXPLAIN ANALYZE FLOW f;"),
        ErrorKind::Unsupported,
        &["'f' has run none", "EXPLAIN FLOW"],
    )
    .await;
}
