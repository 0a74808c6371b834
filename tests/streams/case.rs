//! A case: SQL over tables, the files that fill them, and what each micro-batch must print.
//!
//! [`judge`] writes a case's files to a directory of its own, runs the script a user would write over them, and
//! compares what the console printed, batch by batch. Files are taken one a trigger, in the order of their times of
//! modification, ten seconds apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use millstream::error::Error;
use millstream::query::progress::StreamingQueryProgress;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::answer::{Answer, answer, bag, first_difference};
pub(crate) use crate::disk::{literal, write_rows};
use crate::watched::Watched;

/// The time of modification of a table's first file, in seconds since 1970; each further file is ten seconds younger.
const FIRST_FILE_SECONDS: u64 = 1_767_225_600;

/// How long a script may take: longer is taken for a script that does not end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The rows of one file.
pub(crate) type Rows = Vec<Value>;

/// A query, its input and its answer, as the fixtures write it down.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) sql: String,
    pub(crate) mode: String,
    /// The columns of every stream.
    pub(crate) schema: String,
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) trigger: Option<String>,
    /// The files of each unbounded table.
    pub(crate) streams: BTreeMap<String, Vec<Rows>>,
    /// The rows of each static table.
    #[serde(default)]
    pub(crate) statics: BTreeMap<String, Rows>,
    #[serde(default)]
    pub(crate) expected: Vec<Batch>,
    /// Why the query is refused, where it is.
    #[serde(default)]
    pub(crate) refused: Option<String>,
    /// Where the query is stopped and started again: what each run finds and prints.
    #[serde(default)]
    pub(crate) runs: Vec<Run>,
}

/// What one micro-batch prints.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Batch {
    pub(crate) batch_id: i64,
    pub(crate) rows: Rows,
    /// The watermark it ran with.
    #[serde(default)]
    pub(crate) watermark: Option<String>,
    #[serde(default)]
    pub(crate) input_rows: Option<u64>,
    /// Rows that were too late, over all operators.
    #[serde(default)]
    pub(crate) dropped_late: Option<u64>,
}

/// One run of a query over a checkpoint: the files that came since the last one, and what it prints.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Run {
    pub(crate) files: BTreeMap<String, Vec<Rows>>,
    pub(crate) expected: Vec<Batch>,
}

impl Case {
    /// Returns the runs: one over all files, unless the case says otherwise.
    fn runs(&self) -> Vec<Run> {
        if self.runs.is_empty() {
            return vec![Run { files: self.streams.clone(), expected: self.expected.clone() }];
        }
        self.runs.clone()
    }
}

/// Reads the cases of one file below `tests/fixtures`.
pub(crate) fn load(name: &str) -> Vec<Case> {
    let path = fixture(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the path of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The directory in which a case lives: its tables, its checkpoint.
pub(crate) struct Home {
    folder: TempDir,
    /// How many files each unbounded table has.
    files: BTreeMap<String, u64>,
}

impl Home {
    /// Makes the tables of a case: the unbounded ones empty, the static ones full.
    pub(crate) fn new(case: &Case) -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap(), files: BTreeMap::new() };
        for table in case.streams.keys() {
            fs::create_dir(home.path(table)).unwrap();
        }
        for (table, rows) in &case.statics {
            write_rows(&home.path(&format!("{table}.json")), rows);
        }
        home
    }

    /// Returns the path of a table or file.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a table's next file, ten seconds younger than the one before it.
    pub(crate) fn add_file(&mut self, table: &str, rows: &[Value]) {
        let index = self.files.entry(table.to_string()).or_default();
        let path = self.folder.path().join(table).join(format!("f{index:04}.json"));
        let file = write_rows(&path, rows);
        file.set_modified(UNIX_EPOCH + Duration::from_secs(FIRST_FILE_SECONDS + *index * 10)).unwrap();
        *index += 1;
    }

    /// Adds all files of all tables.
    pub(crate) fn add_files(&mut self, files: &BTreeMap<String, Vec<Rows>>) {
        for (table, files) in files {
            for rows in files {
                self.add_file(table, rows);
            }
        }
    }

    /// Writes the script that runs the case over the files that are there, to the console, and ends.
    pub(crate) fn script(&self, case: &Case) -> String {
        let mut script: Vec<String> =
            case.settings.iter().map(|(name, value)| format!("SET {name} = {};", setting(value))).collect();
        for table in case.streams.keys() {
            let location = literal(&self.path(table));
            script.push(format!(
                "CREATE UNBOUNDED EXTERNAL TABLE {table} ({}) STORED AS JSON LOCATION '{location}/' \
                 OPTIONS ('maxFilesPerTrigger' '1');",
                case.schema
            ));
        }
        script.extend(self.static_tables(case));
        script.push("CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');".to_string());
        script.push(format!(
            "CREATE FLOW f OUTPUT MODE {} TRIGGER {} CHECKPOINT '{}' AS INSERT INTO answer {};",
            case.mode,
            case.trigger.as_deref().unwrap_or("AVAILABLE NOW"),
            literal(&self.path("checkpoint")),
            case.sql
        ));
        script.join("\n")
    }

    /// Returns the statements that declare the static tables.
    pub(crate) fn static_tables(&self, case: &Case) -> Vec<String> {
        let statement = |(table, rows): (&String, &Rows)| {
            let first = rows[0].as_object().unwrap();
            let kind = |value: &Value| {
                if value.is_string() { "STRING" } else { "BIGINT" }
            };
            let columns: Vec<String> = first.iter().map(|(name, value)| format!("{name} {}", kind(value))).collect();
            let location = literal(&self.path(&format!("{table}.json")));
            format!("CREATE EXTERNAL TABLE {table} ({}) STORED AS JSON LOCATION '{location}';", columns.join(", "))
        };
        case.statics.iter().map(statement).collect()
    }
}

/// A setting's value as it stands in SQL: words in quotes.
fn setting(value: &str) -> String {
    match value {
        "true" | "false" => value.to_string(),
        number if number.parse::<u64>().is_ok() => number.to_string(),
        word => format!("'{word}'"),
    }
}

/// What a script did: the lines it printed, and how it ended.
pub(crate) struct Outcome {
    pub(crate) lines: Vec<Value>,
    pub(crate) reports: Vec<StreamingQueryProgress>,
    pub(crate) end: Result<(), Error>,
}

/// Runs a script in a session of its own until every flow has ended.
pub(crate) async fn run_script(script: &str) -> Outcome {
    let watched = Watched::new();
    let end = match tokio::time::timeout(PATIENCE, watched.session.run_script(script)).await {
        Ok(end) => end,
        Err(_) => Err(Error::internal(format!("no answer in {} s", PATIENCE.as_secs()))),
    };
    let text = watched.printed();
    let parse =
        |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}")) };
    let lines = text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect();
    Outcome { lines, reports: watched.reports.all(), end }
}

/// Runs a case and says how its answer differs from what is expected, or nothing where it does not.
pub(crate) async fn judge(case: &Case) -> Option<String> {
    let mut home = Home::new(case);
    let runs = case.runs();
    for (number, run) in runs.iter().enumerate() {
        home.add_files(&run.files);
        let Outcome { lines, reports, end } = run_script(&home.script(case)).await;
        let verdict = match (&case.refused, end) {
            (Some(_), Err(_)) if lines.is_empty() => None,
            (Some(reason), Err(_)) => Some(format!("printed rows before it was refused ({reason})")),
            (Some(reason), Ok(())) => Some(format!("should be refused ({reason})")),
            (None, Err(error)) => Some(format!("failed: {error}")),
            (None, Ok(())) => first_difference(&expected(&run.expected), &answer(&lines))
                .or_else(|| run.expected.iter().find_map(|batch| differs_in_report(batch, &reports))),
        };
        if let Some(why) = verdict {
            let which = if runs.len() > 1 { format!("run {number}, ") } else { String::new() };
            return Some(format!("{which}{why}"));
        }
    }
    None
}

/// How a batch's report differs from what is expected of it.
fn differs_in_report(batch: &Batch, reports: &[StreamingQueryProgress]) -> Option<String> {
    let id = batch.batch_id;
    let Some(report) = reports.iter().find(|r| r.batch_id == id && r.ran_batch()) else {
        return Some(format!("batch {id} was not reported"));
    };
    let late: u64 = report.state_operators.iter().map(|o| o.num_rows_dropped_by_watermark).sum();
    let watermark = report.event_time.get("watermark").map(|w| w.trim_end_matches('Z').to_string());
    let expected = (batch.watermark.clone(), batch.input_rows, batch.dropped_late);
    let given =
        (expected.0.as_ref().and(watermark), expected.1.map(|_| report.num_input_rows), expected.2.map(|_| late));
    (given != expected).then(|| format!("batch {id}: (watermark, rows in, late) {given:?}, expected {expected:?}"))
}

/// What is expected, as an answer.
fn expected(batches: &[Batch]) -> Answer {
    batches.iter().map(|batch| (batch.batch_id, bag(&batch.rows))).collect()
}

/// Runs all cases and fails with a list of those that disagree.
pub(crate) async fn all_agree(what: &str, cases: &[Case]) {
    assert!(!cases.is_empty(), "no {what} cases");
    let mut wrong = Vec::new();
    for case in cases {
        if let Some(why) = judge(case).await {
            wrong.push(format!("{} [{}] {why}\n    {}", case.id, case.mode, case.sql));
        }
    }
    assert!(wrong.is_empty(), "{} of {} {what} cases disagree:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
