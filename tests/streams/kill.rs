//! The command is killed at random moments and started again until it ends by itself: its tables then hold what they
//! hold after a run that nobody killed, for readers of the manifest and of the plain directory. So does the table of
//! their late rows.
//!
//! Moments come from a seed. A failure prints the command that tries its seed again; the moments are then the same, and
//! where in a batch they fall is up to the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer::{Bag, bag, difference};
use crate::case::{literal, write_rows};
use crate::disk::{Table, files_below, newest_entry, read_entry, visible_files};
use crate::scenario::{FAR_FUTURE_MS, timestamp};

/// How many files there are: each is a batch.
const FILES: i64 = 40;

/// How many rows a file has.
const ROWS: i64 = 25;

/// How far the files lie apart, and how far their rows are out of order.
const FILE_MS: i64 = 5_000;
const DISORDER_MS: i64 = 9_000;

/// After so many kills a run is left alone, so that every trial ends.
const MOST_KILLS: usize = 25;

/// Every row as it is.
const PROJECTION: &str = "SELECT id, ts, k, v * 2 AS doubled FROM STREAM ev WHERE v >= 0";

/// Windows that close as time goes by; the delay exceeds all disorder, so that no row is late.
const WINDOWS: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(id) AS ids, min(v) AS lo \
    FROM STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS GROUP BY window(ts, '10 seconds'), k";

/// Windows for which every fifth row comes too late.
const LATE: &str = "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(id) AS ids FROM STREAM ev \
    WATERMARK CASE WHEN id % 5 = 0 THEN ts - INTERVAL '30 seconds' ELSE ts END AS at DELAY OF INTERVAL 10 SECONDS \
    GROUP BY window(at, '10 seconds'), k";
/// Each row with those of its key that follow within five seconds and are much greater, or alone: the stream joined
/// with itself.
const LEFT_JOIN: &str = "SELECT a.id AS id, b.id AS partner, a.ts AS ts, a.k AS k \
    FROM STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS a \
    LEFT JOIN STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS b \
    ON a.k = b.k AND b.v > a.v + 5 AND b.ts > a.ts AND b.ts <= a.ts + INTERVAL 5 SECONDS";

/// When a row happens, in milliseconds since the origin of event times.
fn at_ms(file: i64, id: i64) -> i64 {
    file * FILE_MS + id * 7_919 % DISORDER_MS
}

/// The rows of a file; ids are unique, and the last file has a row that closes all windows.
fn rows(file: i64) -> Vec<Value> {
    let row = |number: i64| {
        let id = file * ROWS + number;
        json!({"id": id, "ts": timestamp(at_ms(file, id)), "k": format!("k{}", id % 3), "v": id % 11 - 1})
    };
    let mut rows: Vec<Value> = (0..ROWS).map(row).collect();
    if file == FILES - 1 {
        rows.push(json!({"id": FILES * ROWS, "ts": timestamp(FAR_FUTURE_MS), "k": "k0", "v": 1}));
    }
    rows
}

/// A directory with the input, and the outputs and checkpoints of its trials.
struct Place {
    folder: TempDir,
    sql: &'static str,
}

impl Place {
    fn new(sql: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        for file in 0..FILES {
            write_rows(&folder.path().join(format!("in/{file:03}.json")), &rows(file));
        }
        Self { folder, sql }
    }

    fn trial(&self, name: &str) -> Trial {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let script = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE ev (id BIGINT, ts TIMESTAMP, k STRING, v BIGINT) STORED AS JSON\n\
             LOCATION '{}/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');\n\
             CREATE EXTERNAL TABLE result STORED AS PARQUET LOCATION '{}/' PARTITIONED BY (k);\n\
             CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION '{}/';\n\
             CREATE FLOW f OUTPUT MODE append TRIGGER AVAILABLE NOW CHECKPOINT '{}' LATE ROWS INTO late\n\
             AS INSERT INTO result\n{};\n",
            literal(&self.folder.path().join("in")),
            literal(&folder.join("out")),
            literal(&folder.join("late")),
            literal(&folder.join("checkpoint")),
            self.sql
        );
        fs::write(folder.join("script.sql"), script).unwrap();
        Trial { folder }
    }
}

/// One query over the input, with an output and a checkpoint of its own.
struct Trial {
    folder: PathBuf,
}

impl Trial {
    fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(self.folder.join("script.sql"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Runs to the end without a kill; returns how long that took.
    #[allow(clippy::disallowed_methods)] // a process is killed in real time
    fn run(&self) -> Duration {
        let started = Instant::now();
        self.check(self.start().wait().unwrap());
        started.elapsed()
    }

    /// Kills the run at random moments, at most `longest` after each start, until it ends by itself. Returns how many
    /// kills hit.
    fn run_under_fire(&self, mut dice: Dice, longest: Duration) -> usize {
        let mut kills = 0;
        while kills < MOST_KILLS {
            let mut child = self.start();
            // Not to wait for something, but to strike wherever the process is by then.
            std::thread::sleep(longest.mul_f64(dice.fraction()));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if status.code().is_some() {
                self.check(status);
                return kills;
            }
            kills += 1;
        }
        self.run();
        kills
    }

    fn check(&self, status: ExitStatus) {
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(status.success(), "the run ended with {status}:\n{}", log());
    }

    /// Reads the table both ways, and its late rows.
    fn rows(&self) -> Result<Bag, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut rows = runtime.block_on(Table::parquet(self.folder.join("out")).rows())?;
        let late = self.folder.join("late");
        // A table without a file has no columns to read.
        if !visible_files(&late).is_empty() {
            rows.extend(runtime.block_on(Table::parquet(late).rows())?);
        }
        Ok(rows)
    }

    /// What the last commit says of batch and watermark, and whether anything is left lying about.
    fn end(&self) -> Result<(Value, Value), String> {
        let commit = read_entry(&newest_entry(&self.folder.join("checkpoint"), "commits"));
        for table in ["out", "late"] {
            let staged = files_below(&self.folder.join(table).join("_millstream/staging"));
            if !staged.is_empty() {
                return Err(format!("staged files are left: {:?}", staged.keys()));
            }
        }
        Ok((commit["batch_id"].clone(), commit["watermark"].clone()))
    }
}

/// Numbers from a seed (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Returns the next number from zero to one.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The seeds to try: that of `KILL_SEED`, else a few.
fn seeds() -> Vec<u64> {
    match std::env::var("KILL_SEED") {
        Ok(seed) => vec![seed.parse().expect("KILL_SEED is a number")],
        Err(_) => vec![1, 2, 3],
    }
}

/// Compares runs under fire with one that was left alone, whose rows must be `expected` where that is given.
fn survives(sql: &'static str, test: &str, expected: Option<Bag>) {
    let place = Place::new(sql);
    let whole = place.trial("whole");
    let took = whole.run();
    let want = whole.rows().unwrap_or_else(|why| panic!("the run that nobody killed: {why}"));
    if let Some(why) = expected.and_then(|expected| difference(&expected, &want)) {
        panic!("the run that nobody killed: {why}");
    }
    let end = whole.end().unwrap_or_else(|why| panic!("the run that nobody killed: {why}"));
    let (seeds, mut kills) = (seeds(), 0);
    for seed in &seeds {
        let trial = place.trial(&format!("seed-{seed}"));
        kills += trial.run_under_fire(Dice(*seed), took.mul_f64(0.5));
        let verdict = trial.rows().and_then(|have| match difference(&want, &have) {
            Some(why) => Err(why),
            None if trial.end()? != end => Err(format!("it ended with {:?}, not {end:?}", trial.end()?)),
            None => Ok(()),
        });
        if let Err(why) = verdict {
            panic!("seed {seed}: {why}\ntry it again: KILL_SEED={seed} cargo test --test streams kill::{test}");
        }
    }
    assert!(kills >= seeds.len(), "only {kills} kills hit: this shows nothing");
}

#[test]
fn a_projection_survives() {
    let all = (0..FILES).flat_map(rows);
    let kept = all.filter_map(|row| {
        let v = row["v"].as_i64().filter(|v| *v >= 0)?;
        Some(json!({"id": row["id"], "ts": row["ts"], "k": row["k"], "doubled": v * 2}))
    });
    survives(PROJECTION, "a_projection_survives", Some(bag(&kept.collect::<Vec<_>>())));
}

#[test]
fn windows_survive() {
    survives(WINDOWS, "windows_survive", Some(windows()));
}

#[test]
fn late_rows_survive() {
    let place = Place::new(LATE);
    let whole = place.trial("looked-at");
    whole.run();
    let late = whole.rows().unwrap().into_iter().filter(|(row, _)| row.contains("stateStoreSave"));
    assert!(late.count() > 100, "too few rows are late: this shows nothing");
    survives(LATE, "late_rows_survive", None);
}

/// What [`WINDOWS`] amounts to, counted row by row: every window but the last, which nothing closes.
fn windows() -> Bag {
    const WINDOW_MS: i64 = 10_000;
    let mut counted = BTreeMap::<(i64, String), (i64, i64, i64)>::new();
    for (file, row) in (0..FILES).flat_map(|file| rows(file).into_iter().map(move |row| (file, row))) {
        let (id, v) = (row["id"].as_i64().unwrap(), row["v"].as_i64().unwrap());
        if id == FILES * ROWS {
            continue;
        }
        let start_ms = at_ms(file, id).div_euclid(WINDOW_MS) * WINDOW_MS;
        let key = (start_ms, row["k"].as_str().unwrap().to_string());
        let (n, ids, lo) = counted.entry(key).or_insert((0, 0, i64::MAX));
        (*n, *ids, *lo) = (*n + 1, *ids + id, (*lo).min(v));
    }
    let row = |((start_ms, k), (n, ids, lo)): ((i64, String), (i64, i64, i64))| {
        let (start, end) = (timestamp(start_ms), timestamp(start_ms + WINDOW_MS));
        json!({"ws": start, "we": end, "k": k, "n": n, "ids": ids, "lo": lo})
    };
    bag(&counted.into_iter().map(row).collect::<Vec<_>>())
}

#[test]
fn a_join_of_two_streams_survives() {
    survives(LEFT_JOIN, "a_join_of_two_streams_survives", Some(joined()));
}

/// What [`LEFT_JOIN`] amounts to, pair by pair: of every row but the last, which waits for partners still.
fn joined() -> Bag {
    const RANGE_MS: i64 = 5_000;
    let in_files = (0..FILES).flat_map(|file| rows(file).into_iter().map(move |row| (file, row)));
    let timed = in_files.map(|(file, row)| (at_ms(file, row["id"].as_i64().unwrap()), row));
    let all: Vec<(i64, Value)> = timed.filter(|(_, row)| row["id"] != FILES * ROWS).collect();
    let mut pairs = Vec::new();
    for (left_ms, left) in &all {
        let pair = |partner: &Value| json!({"id": left["id"], "partner": partner, "ts": left["ts"], "k": left["k"]});
        let greater = |right: &Value| right["v"].as_i64().unwrap() > left["v"].as_i64().unwrap() + 5;
        let partners = all.iter().filter(|(right_ms, right)| {
            left["k"] == right["k"] && greater(right) && (1..=RANGE_MS).contains(&(right_ms - left_ms))
        });
        let before = pairs.len();
        pairs.extend(partners.map(|(_, right)| pair(&right["id"])));
        if pairs.len() == before {
            pairs.push(pair(&Value::Null));
        }
    }
    bag(&pairs)
}

/// A trial that cannot fail proves nothing.
mod checks {
    use super::*;

    #[test]
    fn the_moments_are_those_of_the_seed() {
        let moments = |seed: u64| {
            let mut dice = Dice(seed);
            (0..100).map(|_| dice.fraction()).collect::<Vec<_>>()
        };
        assert_eq!(moments(7), moments(7));
        assert_ne!(moments(7), moments(8));
        assert!(moments(7).iter().all(|moment| (0.0..1.0).contains(moment)));
        assert!(moments(7).iter().any(|moment| *moment < 0.2) && moments(7).iter().any(|moment| *moment > 0.8));
    }

    #[test]
    fn every_id_occurs_once() {
        let ids = (0..FILES).flat_map(rows).map(|row| row["id"].as_i64().unwrap());
        let unique: BTreeSet<i64> = ids.collect();
        assert_eq!(unique.len() as i64, FILES * ROWS + 1);
    }

    /// Every row lies within the disorder of its file, which the watermark's delay exceeds.
    #[test]
    fn no_row_is_late() {
        const { assert!(DISORDER_MS - FILE_MS < 10_000 && DISORDER_MS < 10_000) };
        const { assert!(FILES * FILE_MS + DISORDER_MS + 20_000 < FAR_FUTURE_MS) };
    }

    #[test]
    fn rows_that_are_lost_doubled_or_left_behind_are_seen() {
        let place = Place::new("SELECT id, k FROM STREAM ev WHERE id < 30");
        let trial = place.trial("whole");
        trial.run();
        let want = trial.rows().unwrap();
        assert_eq!(want.len(), 30);
        trial.end().unwrap();

        let out = trial.folder.join("out");
        let part = |folder: &Path| {
            let mut files = files_below(folder).into_keys().filter(|file| file.ends_with(".parquet"));
            folder.join(files.next().unwrap())
        };
        let part = part(&out);
        fs::copy(&part, part.with_file_name("part-again.parquet")).unwrap();
        assert!(trial.rows().unwrap_err().contains("extra [{"));
        fs::copy(&part, out.join("_millstream/staging/left")).unwrap();
        assert!(trial.end().unwrap_err().contains("left"));
    }
}
