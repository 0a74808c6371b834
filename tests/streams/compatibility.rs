//! Checkpoints of an earlier version go on: `tests/fixtures/checkpoint-v1` holds four queries that an early Millstream
//! ran and stopped in the middle, with their input and tables. Each is continued with further input, and must come to
//! the rows of a run that was not stopped.
//!
//! Everything in the fixture is relative to the working directory of the command, and files are known by their names
//! alone, so that it does not matter where it lies. To write it anew, with the command of the version it is to be of:
//! `FIXTURE_WRITER=/path/to/millstream cargo test --test streams compatibility::`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::answer::{Bag, difference};
use crate::case::{fixture, write_rows};
use crate::disk::{Table, files_below, newest_entry, read_entry};
use crate::scenario::{FAR_FUTURE_MS, timestamp};

const FIXTURE: &str = "checkpoint-v1";

/// How large the fixture may be.
const MOST_BYTES: usize = 200 * 1024;

/// How many files of each stream were read before the stop, and how many there are in all.
const BEFORE: i64 = 4;
const FILES: i64 = 7;

const EV: &str = "STREAM ev WATERMARK ts DELAY OF INTERVAL 20 SECONDS";
const EV2: &str = "STREAM ev2 WATERMARK ts DELAY OF INTERVAL 20 SECONDS";

/// The queries, by the names of their folders.
fn queries() -> [(&'static str, String); 4] {
    [
        (
            "windows",
            format!(
                "SELECT window.start AS ws, k, count(*) AS n, sum(v) AS s, max(v) AS hi FROM {EV} \
                 GROUP BY window(ts, '15 seconds', '5 seconds'), k"
            ),
        ),
        (
            "sessions",
            format!(
                "SELECT session_window.start AS ws, session_window.end AS we, k, count(*) AS n FROM {EV} \
                 GROUP BY session_window(ts, '4 seconds'), k"
            ),
        ),
        ("duplicates", format!("SELECT ts, k, v FROM DROP_DUPLICATES({EV}, k, v)")),
        (
            "joins",
            format!(
                "SELECT a.id AS id, b.id AS other, a.ts AS ts FROM {EV} AS a LEFT JOIN {EV2} AS b \
                 ON a.k = b.k AND a.v = b.v AND b.ts >= a.ts AND b.ts <= a.ts + INTERVAL 12 SECONDS"
            ),
        ),
    ]
}

fn script(name: &str, sql: &str) -> String {
    let stream = |table: &str| {
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE {table} (id BIGINT, ts TIMESTAMP, k STRING, v BIGINT) STORED AS JSON\n\
             LOCATION 'in/{table}/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1', 'fileNameOnly' 'true');\n"
        )
    };
    format!(
        "SET lanes = 2;\n{}{}CREATE EXTERNAL TABLE result STORED AS PARQUET LOCATION '{name}/out/';\n\
         CREATE FLOW f OUTPUT MODE append TRIGGER AVAILABLE NOW CHECKPOINT '{name}/checkpoint'\n\
         AS INSERT INTO result {sql};\n",
        stream("ev"),
        stream("ev2")
    )
}

/// The rows of a file of a stream: ten seconds in disorder, and in the last one a row that closes everything.
fn rows(stream: i64, file: i64) -> Vec<Value> {
    let row = |number: i64| {
        let id = file * 6 + number;
        let at_ms = file * 10_000 + (number * 3_700 + stream * 1_300) % 10_000;
        json!({"id": id, "ts": timestamp(at_ms), "k": format!("k{}", (id + stream) % 3), "v": id * 7 % 4})
    };
    let mut rows: Vec<Value> = (0..6).map(row).collect();
    if file == FILES - 1 {
        rows.push(json!({"id": 1000, "ts": timestamp(FAR_FUTURE_MS), "k": "k0", "v": 9}));
    }
    rows
}

/// Adds files of both streams below `home`.
fn add_files(home: &Path, files: std::ops::Range<i64>) {
    for (number, stream) in ["ev", "ev2"].iter().enumerate() {
        fs::create_dir_all(home.join("in").join(stream)).unwrap();
        for file in files.clone() {
            let name = format!("in/{stream}/{stream}-{file:03}.json");
            write_rows(&home.join(name), &rows(i64::try_from(number).unwrap(), file));
        }
    }
}

/// Runs every query below `home` until all input is read.
fn run_all(command: &Path, home: &Path) {
    for (name, sql) in queries() {
        fs::create_dir_all(home.join(name)).unwrap();
        fs::write(home.join(name).join("script.sql"), script(name, &sql)).unwrap();
        let run =
            Command::new(command).arg("run").arg(format!("{name}/script.sql")).current_dir(home).output().unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

async fn table(home: &Path, name: &str) -> Bag {
    Table::parquet(home.join(name).join("out")).rows().await.unwrap()
}

fn write_fixture(command: &Path) {
    // Offsets hold whole paths: those of a place that is gone say nothing of whoever wrote the fixture.
    let home = tempfile::tempdir().unwrap();
    add_files(home.path(), 0..BEFORE);
    run_all(command, home.path());
    let _ = fs::remove_dir_all(fixture(FIXTURE));
    copy(home.path(), &fixture(FIXTURE));
}

fn copy(from: &Path, to: &Path) {
    for (name, content) in files_below(from) {
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::write(to.join(&name), content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_an_early_version_go_on() {
    if let Some(command) = std::env::var_os("FIXTURE_WRITER") {
        write_fixture(Path::new(&command));
    }
    let kept = fixture(FIXTURE);
    let bytes: usize = files_below(&kept).values().map(Vec::len).sum();
    assert!((1..MOST_BYTES).contains(&bytes), "the fixture has {bytes} bytes");

    let (continued, unbroken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy(&kept, continued.path());
    for (name, _) in queries() {
        let commit = read_entry(&newest_entry(&kept.join(name).join("checkpoint"), "commits"));
        let files = commit["state"][0]["files"].as_array().unwrap();
        assert!(!files.is_empty(), "{name}: the fixture holds no state");
        assert!(commit["batch_id"].as_i64().unwrap() >= BEFORE - 1, "{name}: too few batches");
    }
    let command = Path::new(env!("CARGO_BIN_EXE_millstream"));
    add_files(continued.path(), BEFORE..FILES);
    run_all(command, continued.path());
    add_files(unbroken.path(), 0..FILES);
    run_all(command, unbroken.path());
    for (name, _) in queries() {
        let (want, have) = (table(unbroken.path(), name).await, table(continued.path(), name).await);
        assert!(want.len() > 5, "{name}: too few rows to show anything");
        if let Some(why) = difference(&want, &have) {
            panic!("{name}: {why}");
        }
    }
}
