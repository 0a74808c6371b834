//! Late rows that are kept: each row of the input is counted, or is in the table of late rows, or has no event time;
//! never two of these, however often the query is stopped and started again.
//!
//! The model judges one row at a time, as that of [`late_model`](crate::late_model) does. Streams are random, with
//! delays far too short for their disorder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use millstream::error::{Error, ErrorKind};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::{Case, Home, Outcome, literal, run_script};
use crate::cut_off::runtime;
use crate::disk::{Table, visible_files};
use crate::oracle::{config, events, split};
use crate::scenario::{Event, ORIGIN_MS, SCHEMA, timestamp};
use crate::watched::Watched;

/// A stream with late rows, cut into runs of files. Its rows are numbered as they come.
#[derive(Debug, Clone)]
struct Stream {
    mode: &'static str,
    window_seconds: i64,
    delay_seconds: i64,
    runs: Vec<Vec<Vec<(i64, Event)>>>,
}

/// A row of the late table: which row was late, in which batch, and by which watermark.
type Late = (i64, i64, String);

/// What becomes of the rows.
#[derive(Debug, Default, PartialEq)]
struct Judged {
    /// How many are counted, and the sum of their numbers.
    on_time: (i64, i64),
    late: Vec<Late>,
    timeless: i64,
}

impl Stream {
    fn new(mode: &'static str, window_seconds: i64, delay_seconds: i64, runs: Vec<Vec<Vec<Event>>>) -> Self {
        let mut next = 0;
        let mut numbered = |event: Event| {
            next += 1;
            (next, event)
        };
        let mut runs_of_rows = Vec::new();
        for run in runs {
            let mut files = Vec::new();
            for file in run {
                files.push(file.into_iter().map(&mut numbered).collect());
            }
            runs_of_rows.push(files);
        }
        Self { mode, window_seconds, delay_seconds, runs: runs_of_rows }
    }

    fn case(&self) -> Case {
        let sql = format!(
            "SELECT window.start AS ws, k, count(*) AS n, sum(id) AS ids \
             FROM STREAM ev WATERMARK ts DELAY OF INTERVAL {} SECONDS GROUP BY window(ts, '{} seconds'), k",
            self.delay_seconds, self.window_seconds
        );
        Case {
            sql,
            mode: self.mode.to_string(),
            schema: SCHEMA.to_string(),
            streams: BTreeMap::from([("ev".to_string(), Vec::new())]),
            ..Case::default()
        }
    }

    /// Judges each row as the rule says. Each run ends with a batch without data where the watermark has moved.
    fn judged(&self) -> Judged {
        let (window_ms, delay_ms) = (self.window_seconds * 1000, self.delay_seconds * 1000);
        // Times are relative to ORIGIN_MS here; watermarks begin at 1970.
        let (mut late_ms, mut watermark_ms, mut batch_id) = (-ORIGIN_MS, -ORIGIN_MS, 0);
        let mut judged = Judged::default();
        for run in &self.runs {
            for file in run {
                for (id, event) in file {
                    match event.at_ms.map(|at_ms| (at_ms.div_euclid(window_ms) + 1) * window_ms) {
                        None => judged.timeless += 1,
                        Some(end_ms) if end_ms <= late_ms => judged.late.push((*id, batch_id, timestamp(late_ms))),
                        Some(_) => judged.on_time = (judged.on_time.0 + 1, judged.on_time.1 + id),
                    }
                }
                late_ms = watermark_ms;
                batch_id += 1;
                if let Some(latest_ms) = file.iter().filter_map(|(_, event)| event.at_ms).max() {
                    watermark_ms = watermark_ms.max(latest_ms - delay_ms);
                }
            }
            if watermark_ms > late_ms {
                late_ms = watermark_ms;
                batch_id += 1;
            }
        }
        judged.late.sort();
        judged
    }
}

/// Reads a table of late rows.
async fn late_rows(location: &Path) -> Result<Vec<Value>, String> {
    // A table without a file has no columns to read.
    if visible_files(location).is_empty() {
        return Ok(Vec::new());
    }
    let bag = Table::parquet(location.to_path_buf()).rows().await?;
    let rows = bag.into_iter().flat_map(|(row, count)| std::iter::repeat_n(row, count));
    Ok(rows.map(|row| serde_json::from_str(&row).unwrap()).collect())
}

/// What was written of a late row: the batch, the watermark and the row itself.
fn as_late(row: &Value) -> Late {
    assert_eq!((&row["flow"], &row["operator"]), (&json!("f"), &json!("0 stateStoreSave")), "{row}");
    let was: Value = serde_json::from_str(row["row"].as_str().unwrap()).unwrap();
    assert!(was["ts"].is_string() && was.as_object().unwrap().contains_key("k"), "{was}");
    let batch_id = row["batch_id"].as_f64().unwrap() as i64;
    (was["id"].as_i64().unwrap(), batch_id, row["watermark"].as_str().unwrap().to_string())
}

/// Runs the stream, run by run, and says how it differs from the model.
async fn judge(stream: &Stream) -> Result<(), String> {
    let case = stream.case();
    let mut home = Home::new(&case);
    let late = home.path("late");
    let script = home.script(&case).replacen(" AS INSERT INTO", " LATE ROWS INTO late AS INSERT INTO", 1);
    let script = format!("CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION '{}/';\n{script}", literal(&late));
    let mut groups: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let (mut rows_in, mut dropped, mut timeless) = (0, 0, 0);
    for run in &stream.runs {
        for file in run {
            let row = |(id, event): &(i64, Event)| {
                let mut row = event.row();
                row["id"] = json!(id);
                row
            };
            home.add_file("ev", &file.iter().map(row).collect::<Vec<_>>());
        }
        let Outcome { lines, reports, end } = run_script(&script).await;
        end.map_err(|error| format!("failed: {error}\n{script}"))?;
        for row in lines.iter().flat_map(|line| line["rows"].as_array().unwrap()) {
            // In update mode a group's last row tells all; in append mode it has one.
            let group = format!("{} {}", row["ws"], row["k"]);
            groups.insert(group, (row["n"].as_i64().unwrap(), row["ids"].as_i64().unwrap()));
        }
        for report in &reports {
            rows_in += i64::try_from(report.num_input_rows).unwrap();
            for operator in &report.state_operators {
                dropped += operator.num_rows_dropped_by_watermark;
                timeless += operator.custom_metrics["rowsWithoutEventTime"];
            }
        }
    }
    let on_time = groups.values().fold((0, 0), |(n, ids), (more, more_ids)| (n + more, ids + more_ids));
    let mut kept: Vec<Late> = late_rows(&late).await?.iter().map(as_late).collect();
    kept.sort();
    let want = stream.judged();
    let counted = (rows_in, i64::try_from(dropped).unwrap(), timeless);
    let all = want.on_time.0 + want.late.len() as i64 + want.timeless;
    if counted != (all, want.late.len() as i64, want.timeless) {
        return Err(format!("rows in, late and timeless are {counted:?} in the reports, not as in {want:?}\n{script}"));
    }
    // In append mode not all that was counted has left.
    let have = Judged { on_time: if stream.mode == "update" { on_time } else { want.on_time }, late: kept, timeless };
    if have == want { Ok(()) } else { Err(format!("{have:?}\nis not what the model says:\n{want:?}\n{script}")) }
}

/// Streams of up to four runs of up to four files; some rows have no event time.
fn streams() -> impl Strategy<Value = Stream> {
    let modes = prop::sample::select(vec!["append", "update"]);
    let windows = prop::sample::select(vec![5_i64, 10, 15]);
    let delays = prop::sample::select(vec![0_i64, 1, 3, 10, 20]);
    let timeless = prop::collection::vec(prop::bool::weighted(0.05), 60);
    let cuts = || prop::collection::vec(0_usize..60, 0..6);
    (modes, windows, delays, events(1..60), timeless, cuts(), prop::collection::vec(1_usize..4, 4)).prop_map(
        |(mode, window_seconds, delay_seconds, mut events, timeless, cuts, files_of_runs)| {
            for (event, timeless) in events.iter_mut().zip(timeless) {
                if timeless {
                    event.at_ms = None;
                }
            }
            let mut files = split(events, cuts).into_iter();
            let mut runs: Vec<Vec<Vec<Event>>> =
                files_of_runs.into_iter().map(|count| files.by_ref().take(count).collect()).collect();
            runs.push(files.collect());
            Stream::new(mode, window_seconds, delay_seconds, runs)
        },
    )
}

#[test]
fn every_row_is_counted_or_kept_or_has_no_time() {
    let runtime = runtime();
    let test = |stream: Stream| runtime.block_on(judge(&stream)).map_err(TestCaseError::fail);
    if let Err(failure) = TestRunner::new(config()).run(&streams(), test) {
        panic!("{failure}");
    }
}

/// The model against the rule's own example, with a restart before the last file: that is judged by the watermark of
/// the batch without data that ended the run before.
#[test]
fn the_model_knows_the_example() {
    let event = |at_ms: Option<i64>| Event { at_ms, k: Some("a"), v: Some(1), d: 0.0 };
    let runs = vec![
        vec![
            vec![event(Some(9_000)), event(Some(20_000))],
            vec![event(Some(9_000)), event(None)],
            vec![event(Some(9_999)), event(Some(60_000))],
        ],
        vec![vec![event(Some(49_000)), event(Some(50_000))]],
    ];
    let judged = Stream::new("append", 10, 10, runs).judged();
    let late = vec![(5, 2, timestamp(10_000)), (7, 4, timestamp(50_000))];
    assert_eq!(judged, Judged { on_time: (5, 1 + 2 + 3 + 6 + 8), late, timeless: 1 });
}

/// A directory with a stream of three files, the last of which brings a row of which the first two are long past.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("ev")).unwrap();
    add_file(home.path(), "a", &[(1, "00:00:01"), (2, "00:01:40")]);
    add_file(home.path(), "b", &[(3, "00:01:41")]);
    add_file(home.path(), "c", &[(4, "00:00:02")]);
    home
}

fn add_file(home: &Path, name: &str, rows: &[(i64, &str)]) {
    let row = |(id, at): &(i64, &str)| format!("{{\"id\":{id},\"ts\":\"2026-01-01T{at}\",\"k\":\"k{id}\"}}\n");
    fs::write(home.join("ev").join(format!("{name}.json")), rows.iter().map(row).collect::<String>()).unwrap();
}

/// Runs statements over the stream; HOME is the directory.
async fn run(home: &Path, statements: &str) -> (Watched, Result<(), Error>) {
    let tables = "SET trigger = 'available now';\n\
        CREATE UNBOUNDED EXTERNAL TABLE ev (id BIGINT, ts TIMESTAMP, k STRING) STORED AS JSON LOCATION 'HOME/ev/' \
        OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');\n\
        CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n";
    let watched = Watched::new();
    let end = watched.session.run_script(&(tables.to_string() + statements).replace("HOME", &literal(home))).await;
    (watched, end)
}

/// The query of most flows here.
const COUNTS: &str = "SELECT window.start AS ws, sum(id) AS ids \
    FROM STREAM ev WATERMARK ts DELAY OF INTERVAL 0 SECONDS GROUP BY window(ts, '10 seconds')";

/// Two flows of one script fill one table, and a third that stands before them reads it when they have ended.
#[tokio::test(flavor = "multi_thread")]
async fn flows_share_a_table_of_late_rows_and_a_flow_reads_it() {
    let home = home();
    let statements = format!(
        "CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION 'HOME/late/' PARTITIONED BY (flow);\n\
         CREATE EXTERNAL TABLE sums STORED AS PARQUET LOCATION 'HOME/sums/';\n\
         CREATE FLOW reads OUTPUT MODE complete AS INSERT INTO answer \
           SELECT flow, count(*) AS n, max(batch_id) AS batch_id FROM STREAM late GROUP BY flow ORDER BY flow;\n\
         CREATE FLOW one LATE ROWS INTO late AS INSERT INTO sums {COUNTS};\n\
         CREATE FLOW two LATE ROWS INTO late AS INSERT INTO sums {COUNTS};"
    );
    // The second time there is nothing new, and nothing comes twice.
    for _ in 0..2 {
        let (_, end) = run(home.path(), &statements).await;
        end.unwrap();
        let rows = late_rows(&home.path().join("late")).await.unwrap();
        let flows: Vec<&str> = rows.iter().map(|row| row["flow"].as_str().unwrap()).collect();
        assert_eq!(flows, ["one", "two"]);
    }
    let (watched, end) = run(home.path(), &statements).await;
    end.unwrap();
    let rows = watched.batches().last().unwrap()["rows"].clone();
    assert_eq!(rows, json!([{"flow": "one", "n": 1, "batch_id": 2}, {"flow": "two", "n": 1, "batch_id": 2}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_may_begin_to_keep_its_late_rows() {
    let home = home();
    let flow = |clause: &str| format!("CREATE FLOW f CHECKPOINT 'HOME/ck' {clause} AS INSERT INTO answer {COUNTS};");
    let late = home.path().join("late");
    run(home.path(), &flow("")).await.1.unwrap();
    let table = "CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION 'HOME/late/';\n";
    let with_late = table.to_string() + &flow("LATE ROWS INTO late");
    // Row 4 is gone, but what is late from now on is kept; and again after a run that did not.
    for (name, clause, kept) in [("d", &with_late, vec![5]), ("e", &flow(""), vec![5]), ("f", &with_late, vec![5, 7])] {
        let id = 5 + i64::from(name.as_bytes()[0] - b'd');
        add_file(home.path(), name, &[(id, "00:00:03")]);
        run(home.path(), clause).await.1.unwrap();
        let rows = late_rows(&late).await.unwrap();
        let mut ids: Vec<i64> = rows.iter().map(id_of).collect();
        ids.sort_unstable();
        assert_eq!(ids, kept, "after file {name}");
    }
}

fn id_of(row: &Value) -> i64 {
    serde_json::from_str::<Value>(row["row"].as_str().unwrap()).unwrap()["id"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_lies_beside_the_late_rows_where_nothing_else_is_durable() {
    let home = home();
    let statements = format!(
        "CREATE EXTERNAL TABLE late STORED AS JSON LOCATION 'HOME/late/';\n\
         CREATE FLOW f LATE ROWS INTO late AS INSERT INTO answer {COUNTS};"
    );
    for batches in [3, 0] {
        let (watched, end) = run(home.path(), &statements).await;
        end.unwrap();
        assert_eq!(watched.batches().len(), batches, "the second run goes on where the first ended");
    }
    assert!(home.path().join("late/_millstream/f/commits").is_dir());
}

/// A table may declare the columns, in any order; a console prints late rows under a name of their own; a query that
/// remembers nothing has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_late_rows_is_a_table_like_any_other() {
    let home = home();
    let (watched, end) = run(
        home.path(),
        &format!(
            "CREATE EXTERNAL TABLE late \
               (row STRING, batch_id BIGINT, watermark TIMESTAMP, operator STRING, flow STRING) STORED AS CSV LOCATION 'HOME/late/' OPTIONS ('header' 'true');\n\
             CREATE EXTERNAL TABLE printed STORED AS CONSOLE OPTIONS ('format' 'json');\n\
             CREATE EXTERNAL TABLE empty STORED AS PARQUET LOCATION 'HOME/empty/';\n\
             CREATE FLOW f LATE ROWS INTO late AS INSERT INTO answer {COUNTS};\n\
             CREATE FLOW g LATE ROWS INTO printed AS INSERT INTO answer {COUNTS};\n\
             CREATE FLOW h LATE ROWS INTO empty AS INSERT INTO answer SELECT id FROM STREAM ev;"
        ),
    )
    .await;
    end.unwrap();
    let files = visible_files(&home.path().join("late"));
    let text = String::from_utf8(files.values().next().unwrap().clone()).unwrap();
    assert!(text.starts_with("row,batch_id,watermark,operator,flow\n"), "{text}");
    assert!(text.contains(",2,") && text.contains(",0 stateStoreSave,f\n"), "{text}");
    let printed: Vec<Value> = watched.batches().into_iter().filter(|line| line["flow"] == "g.late_rows").collect();
    let counts: Vec<usize> = printed.iter().map(|line| line["rows"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [0, 0, 1]);
    assert_eq!(id_of(&printed[2]["rows"][0]), 4);
    assert!(
        home.path().join("empty/_millstream/manifest").is_dir() && visible_files(&home.path().join("empty")).is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_that_cannot_be_kept_are_refused_before_anything_runs() {
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "CREATE FLOW f LATE ROWS INTO nowhere AS INSERT INTO answer",
            COUNTS,
            &["LATE ROWS INTO nowhere", "no such table"],
        ),
        (
            "CREATE EXTERNAL TABLE late (id BIGINT, row STRING) STORED AS PARQUET LOCATION 'HOME/late/';\n\
             CREATE FLOW f LATE ROWS INTO late AS INSERT INTO answer",
            COUNTS,
            &[
                "id BIGINT, row STRING",
                "flow STRING, operator STRING, watermark TIMESTAMP, batch_id BIGINT, row STRING",
            ],
        ),
        (
            "CREATE EXTERNAL TABLE counts STORED AS PARQUET LOCATION 'HOME/out/';\n\
             CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION 'HOME/x/../out';\n\
             CREATE FLOW f LATE ROWS INTO late AS INSERT INTO counts",
            COUNTS,
            &["'f'", "table of their own"],
        ),
        (
            "CREATE EXTERNAL TABLE late STORED AS JSON LOCATION 'HOME/ev/late';\n\
             CREATE FLOW f LATE ROWS INTO late AS INSERT INTO answer",
            COUNTS,
            &["circle"],
        ),
        ("CREATE MATERIALIZED VIEW v LATE ROWS INTO answer AS", COUNTS, &["CHECKPOINT"]),
    ];
    for (head, query, parts) in cases {
        let home = home();
        let (watched, end) = run(home.path(), &format!("{head} {query};")).await;
        let error = end.expect_err(head);
        assert_eq!(error.kind(), ErrorKind::InvalidQuery, "{head}: {error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{head}: {error} does not say {part}");
        }
        assert!(watched.batches().is_empty(), "{head}: something ran");
    }
}
