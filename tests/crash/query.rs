//! The queries that are killed, their input, and what they amount to.
//!
//! Rows carry unique ids. But for the query with late rows, the watermark's delay exceeds all disorder, and a row of the
//! far future closes what is open: then the answer is that of the same SQL as one batch over all rows but the last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use millstream::session::Session;
use serde_json::{Value, json};

use crate::Options;
use crate::answer::{Bag, bag, difference};
use crate::disk::{json_rows, literal, write_rows};
use crate::trial::Trial;
use crate::verdict::End;

/// How many rows a file has.
const ROWS: i64 = 25;

/// How far the files lie apart, and how far their rows are out of order.
const FILE_MS: i64 = 5_000;
const DISORDER_MS: i64 = 9_000;

/// When the last row happens.
const FAR_FUTURE_MS: i64 = 10_000_000;

/// A query that is killed.
pub struct Query {
    pub name: &'static str,
    pub sql: &'static str,
    /// The same over a table `ev` that is no stream; none where rows are late.
    batch: Option<&'static str>,
}

pub const QUERIES: &[Query] = &[
    Query {
        name: "projection",
        sql: "SELECT id, ts, k, v * 2 AS doubled FROM STREAM ev WHERE v >= 0",
        batch: Some("SELECT id, ts, k, v * 2 AS doubled FROM ev WHERE v >= 0"),
    },
    Query {
        name: "windows",
        sql: "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(id) AS ids, min(v) AS lo \
              FROM STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS GROUP BY window(ts, '10 seconds'), k",
        batch: Some(
            "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(id) AS ids, min(v) AS lo \
             FROM ev GROUP BY window(ts, '10 seconds'), k",
        ),
    },
    Query {
        name: "left_join",
        sql: "SELECT a.id AS id, b.id AS partner, a.ts AS ts, a.k AS k \
              FROM STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS a \
              LEFT JOIN STREAM ev WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS b \
              ON a.k = b.k AND b.v > a.v + 5 AND b.ts > a.ts AND b.ts <= a.ts + INTERVAL 5 SECONDS",
        batch: Some(
            "SELECT a.id AS id, b.id AS partner, a.ts AS ts, a.k AS k FROM ev AS a LEFT JOIN ev AS b \
             ON a.k = b.k AND b.v > a.v + 5 AND b.ts > a.ts AND b.ts <= a.ts + INTERVAL 5 SECONDS",
        ),
    },
    Query {
        name: "late_rows",
        sql: "SELECT window.start AS ws, window.end AS we, k, count(*) AS n, sum(id) AS ids FROM STREAM ev \
              WATERMARK CASE WHEN id % 5 = 0 THEN ts - INTERVAL '30 seconds' ELSE ts END AS at \
              DELAY OF INTERVAL 10 SECONDS GROUP BY window(at, '10 seconds'), k",
        batch: None,
    },
];

/// How much input there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Enough for snapshots and compactions.
    Short,
    /// More batches than the logs retain.
    Long,
}

impl Length {
    fn files(self) -> i64 {
        match self {
            Self::Short => 14,
            Self::Long => 64,
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

fn rows(file: i64) -> Vec<Value> {
    let row = |number: i64| {
        let id = file * ROWS + number;
        let at_ms = file * FILE_MS + id * 7_919 % DISORDER_MS;
        json!({"id": id, "ts": timestamp(at_ms), "k": format!("k{}", id % 3), "v": id % 11 - 1})
    };
    (0..ROWS).map(row).collect()
}

fn timestamp(at_ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(1_767_225_600_000 + at_ms).unwrap();
    time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string()
}

/// A query and a run of it that nobody killed.
pub struct Whole {
    pub query: &'static Query,
    pub length: Length,
    folder: PathBuf,
    /// How often a run passes each failpoint.
    pub passes: BTreeMap<String, u64>,
    pub end: End,
}

/// The directory of all trials.
pub struct Place {
    wholes: Vec<Whole>,
}

impl Place {
    /// Writes the input, runs each query once, and checks it against the same SQL as a batch.
    pub fn new(folder: &Path, options: &Options) -> Self {
        let wanted = |query: &&Query| options.query.as_deref().is_none_or(|name| name == query.name);
        let mut wholes = Vec::new();
        for length in [Length::Short, Length::Long] {
            let input = folder.join(length.folder());
            write_input(&input, length);
            for query in QUERIES.iter().filter(wanted) {
                wholes.push(Whole::run(query, length, &input));
            }
        }
        Self { wholes }
    }

    pub fn passes(&self, point: &str) -> bool {
        self.wholes.iter().any(|whole| whole.passes.contains_key(point))
    }

    pub fn query(&self, name: &str) -> &Whole {
        self.wholes.iter().find(|whole| whole.query.name == name && whole.length == Length::Short).unwrap()
    }

    /// The runs that pass `point`, one a query, the shortest that does.
    pub fn passing(&self, point: &str) -> Vec<&Whole> {
        let mut found: Vec<&Whole> = Vec::new();
        for whole in self.wholes.iter().filter(|whole| whole.passes.contains_key(point)) {
            if found.iter().all(|other| other.query.name != whole.query.name) {
                found.push(whole);
            }
        }
        found
    }
}

fn write_input(folder: &Path, length: Length) {
    for below in ["in", "batch"] {
        fs::create_dir_all(folder.join(below)).unwrap();
        for file in 0..length.files() {
            write_rows(&folder.join(format!("{below}/{file:03}.json")), &rows(file));
        }
    }
    let last = json!({"id": length.files() * ROWS, "ts": timestamp(FAR_FUTURE_MS), "k": "k0", "v": -1});
    write_rows(&folder.join("in/999.json"), &[last]);
}

impl Whole {
    fn run(query: &'static Query, length: Length, folder: &Path) -> Self {
        let mut whole =
            Self { query, length, folder: folder.to_path_buf(), passes: BTreeMap::new(), end: End::default() };
        let trial = whole.trial("whole");
        trial.run_to_end();
        for point in trial.passes() {
            *whole.passes.entry(point).or_default() += 1;
        }
        whole.end = End::of(&trial).unwrap_or_else(|why| panic!("{}: the run that nobody killed: {why}", query.name));
        match query.batch {
            Some(sql) => {
                let expected = batch(sql, &folder.join("batch"));
                if let Some(why) = difference(&expected, &whole.end.rows) {
                    panic!("{}: the run that nobody killed is not what a batch gives: {why}", query.name);
                }
            }
            None => assert!(whole.end.late.len() > 50, "too few rows are late: this shows nothing"),
        }
        whole
    }

    /// Makes a trial of the query, which has not begun.
    pub fn trial(&self, name: &str) -> Trial {
        Trial::new(&self.folder.join(self.query.name).join(name), self.query.sql, &self.folder.join("in"))
    }
}

/// What the SQL gives over all rows as one batch.
fn batch(sql: &str, folder: &Path) -> Bag {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let session = Session::builder().build();
        let table = format!(
            "CREATE EXTERNAL TABLE ev (id BIGINT, ts TIMESTAMP, k STRING, v BIGINT) STORED AS JSON LOCATION '{}/'",
            literal(folder)
        );
        session.run_script(&table).await.unwrap();
        bag(&json_rows(&session.sql(sql).await.unwrap().collect().await.unwrap()))
    })
}
