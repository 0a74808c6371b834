//! Bad input ends with an error of the right kind that says what, where and what to do, and with nothing written.
//!
//! The text of a script, its options, the places and files it names, rows that are not of the declared shape, and
//! flows that fail others. Checkpoints that do not fit or are damaged have [`super::bad_checkpoint`] to themselves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use millstream::error::{Error, ErrorKind};
use millstream::query::progress::SourceProgress;
use millstream::session::Session;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer::{bag, difference, union};
use crate::case::{Outcome, literal, run_script};
use crate::disk::visible_files;
use crate::watched::Watched;

/// The columns of most streams here.
pub(crate) const COLUMNS: &str = "id BIGINT, ts TIMESTAMP, k STRING, v BIGINT";

/// A directory with input, output and checkpoint of its own.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// Makes one with a stream `ev` of two small files.
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        (0..2).for_each(|number| place.add_events("ev", number));
        place
    }

    /// Returns the path of something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the path as it stands between quotes in SQL.
    pub(crate) fn quoted(&self, name: &str) -> String {
        literal(&self.path(name))
    }

    /// Writes a file, and the folder it is in.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes file `number` of a stream: three rows, whose event times lie ten seconds after those of the file before.
    pub(crate) fn add_events(&self, table: &str, number: i64) {
        let row = |at: i64| {
            let id = number * 3 + at;
            let ts = format!("2026-01-01T00:{:02}:{:02}", number / 6, number % 6 * 10 + at * 3);
            json!({"id": id, "ts": ts, "k": if at == 0 { "a" } else { "b" }, "v": id * 7 % 5})
        };
        let text: String = (0..3).map(|at| format!("{}\n", row(at))).collect();
        self.write(&format!("{table}/{number:03}.json"), &text);
    }

    /// Returns the statement that declares a stream over a folder of JSON files.
    pub(crate) fn stream(&self, table: &str, columns: &str, options: &str) -> String {
        let location = self.quoted(table);
        format!(
            "CREATE UNBOUNDED EXTERNAL TABLE {table} ({columns}) STORED AS JSON LOCATION '{location}/' \
             OPTIONS ('orderBy' 'path'{options});\n"
        )
    }

    /// Returns the statement that declares a table of Parquet files, below `out/`.
    pub(crate) fn files(&self, table: &str, columns: &str) -> String {
        format!("CREATE EXTERNAL TABLE {table}{columns} STORED AS PARQUET LOCATION '{}/';\n", self.quoted(&out(table)))
    }

    /// Returns the statement that declares a flow with a checkpoint of its name.
    pub(crate) fn flow(&self, name: &str, mode: &str, target: &str, sql: &str) -> String {
        let checkpoint = self.quoted(&format!("checkpoints/{name}"));
        format!(
            "CREATE FLOW {name} OUTPUT MODE {mode} TRIGGER AVAILABLE NOW CHECKPOINT '{checkpoint}' \
             AS INSERT INTO {target} {sql};\n"
        )
    }

    /// Returns what readers of the tables see.
    pub(crate) fn seen(&self) -> BTreeMap<String, Vec<u8>> {
        visible_files(&self.path("out"))
    }

    /// Runs a script that must be refused with an error of `kind` that has all of `words` in it; nothing may be printed,
    /// and no table may change.
    pub(crate) async fn refused(&self, script: &str, kind: ErrorKind, words: &[&str]) -> Error {
        let before = self.seen();
        let Outcome { lines, end, .. } = run_script(script).await;
        let Err(error) = end else { panic!("should be refused with {words:?}:\n{script}") };
        assert_eq!(error.kind(), kind, "{error}\n{script}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "'{word}' is not in: {text}\n{script}");
        }
        assert!(lines.is_empty(), "printed {lines:?} before it was refused: {text}");
        assert_eq!(self.seen().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "files came or went");
        assert!(self.seen() == before, "a file changed its content");
        error
    }
}

fn out(table: &str) -> String {
    format!("out/{table}")
}

/// The statement that declares a console.
pub(crate) fn console(table: &str) -> String {
    format!("CREATE EXTERNAL TABLE {table} STORED AS CONSOLE OPTIONS ('format' 'json');\n")
}

/// A script that copies the stream `ev` to the console.
fn copying(place: &Place, options: &str, sql: &str) -> String {
    place.stream("ev", COLUMNS, options) + &console("answer") + &place.flow("f", "append", "answer", sql)
}

/// Says where `needle` stands in a script, as errors say it.
fn place_of(script: &str, needle: &str) -> String {
    let before = &script[..script.find(needle).unwrap()];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    format!("line {line}, column {column}")
}

/// The caret stands below the place, in a line of its own.
fn assert_caret(error: &Error, script: &str, needle: &str) {
    let text = error.to_string();
    let shown: Vec<&str> = text.lines().collect();
    let caret = shown.iter().position(|line| line.trim() == "^").unwrap_or_else(|| panic!("no caret: {text}"));
    let column = shown[caret].chars().count() - 1;
    let pointed: String = shown[caret - 1].chars().skip(column).collect();
    assert!(pointed.starts_with(needle), "the caret points at '{pointed}':\n{text}\n{script}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_syntax_error_stops_the_script_before_it_begins() {
    let place = Place::new();
    let script = copying(&place, "", "SELECT k FROM STREAM ev") + "\n  SELEC k FROM ev";
    let words = [place_of(&script, "SELEC k"), "did you mean SELECT?".to_string()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let error = place.refused(&script, ErrorKind::InvalidQuery, &words).await;
    assert_caret(&error, &script, "SELEC k");
    assert!(!place.path("checkpoints").exists(), "a flow was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_clause_is_named() {
    let place = Place::new();
    let script = copying(&place, "", "SELECT k FROM STREAM ev").replace("TRIGGER", "TRIGER");
    let error =
        place.refused(&script, ErrorKind::InvalidQuery, &["did you mean TRIGGER?", &place_of(&script, "TRIGER")]).await;
    assert_caret(&error, &script, "TRIGER");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_column_is_pointed_at() {
    let place = Place::new();
    let script = copying(&place, "", "SELECT k,\n  nope + 1 AS n FROM STREAM ev");
    let error = place.refused(&script, ErrorKind::InvalidQuery, &["nope", &place_of(&script, "nope")]).await;
    assert_caret(&error, &script, "nope");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_function_is_named_with_the_near_miss() {
    let place = Place::new();
    let script = copying(&place, "", "SELECT uppper(k) AS k FROM STREAM ev");
    let line = place_of(&script, "CREATE FLOW");
    let line = line.split(',').next().unwrap();
    place.refused(&script, ErrorKind::InvalidQuery, &["uppper", "'upper'", line]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tables_and_formats_are_named() {
    let place = Place::new();
    let script = copying(&place, "", "SELECT k FROM STREAM events");
    place.refused(&script, ErrorKind::InvalidQuery, &["events"]).await;
    let script = copying(&place, "", "SELECT k FROM STREAM ev").replace("AS CONSOLE", "AS CONSOL");
    place.refused(&script, ErrorKind::InvalidOption, &["consol"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_option_is_named_with_the_near_miss() {
    let place = Place::new();
    let sql = "SELECT k FROM STREAM ev";
    let source = copying(&place, ", 'maxFilePerTriger' '1'", sql);
    let words = ["maxFilePerTriger", "did you mean 'maxFilesPerTrigger'?"];
    place.refused(&source, ErrorKind::InvalidOption, &words).await;
    let reader = copying(&place, "", "SELECT k FROM STREAM ev WITH ('maxFilePerTriger' = '1')");
    place.refused(&reader, ErrorKind::InvalidOption, &words).await;
    let sink = place.stream("ev", COLUMNS, "")
        + &place.files("result", "").replace(";", " OPTIONS ('compresion' 'zstd');")
        + &place.flow("f", "append", "result", sql);
    place.refused(&sink, ErrorKind::InvalidOption, &["compresion", "did you mean 'compression'?"]).await;
    let setting = "SET lane = 2;\n".to_string() + &copying(&place, "", sql);
    place.refused(&setting, ErrorKind::InvalidOption, &["did you mean 'lanes'?"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_of_an_option_says_what_would_do() {
    let place = Place::new();
    for (options, words) in [
        (", 'maxFilesPerTrigger' 'many'", ["maxFilesPerTrigger", "many", "a whole number above zero"]),
        (", 'mode' 'LAX'", ["mode", "LAX", "PERMISSIVE, DROPMALFORMED or FAILFAST"]),
        (", 'latestFirst' 'sometimes'", ["latestFirst", "sometimes", "true or false"]),
        (", 'cleanSource' 'burn'", ["cleanSource", "burn", "off, delete or archive"]),
    ] {
        let script = copying(&place, options, "SELECT k FROM STREAM ev");
        place.refused(&script, ErrorKind::InvalidOption, &words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_read_is_named() {
    let place = Place::new();
    let gone = copying(&place, "", "SELECT k FROM STREAM ev").replace("/ev/'", "/nowhere/'");
    place.refused(&gone, ErrorKind::Unavailable, &["/nowhere", "does not exist"]).await;
    let below_a_file = copying(&place, "", "SELECT k FROM STREAM ev").replace("/ev/'", "/ev/000.json/ev/'");
    place.refused(&below_a_file, ErrorKind::Unavailable, &["/ev/000.json/ev", "cannot be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanished_or_changed_is_named() {
    let place = Place::new();
    place.write("ev/002.json", "not json\n");
    let script = place.stream("ev", COLUMNS, ", 'mode' 'FAILFAST'")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", "SELECT id, k FROM STREAM ev");
    // The batch is planned, and dies of the line that is none. It is to run again over the files it was planned with.
    place.refused(&script, ErrorKind::DataInvalid, &["002.json"]).await;
    let whole = fs::read_to_string(place.path("ev/001.json")).unwrap();
    fs::remove_file(place.path("ev/001.json")).unwrap();
    place.refused(&script, ErrorKind::Unavailable, &["001.json", "vanished"]).await;
    place.write("ev/001.json", &whole[..whole.len() / 2]);
    place.refused(&script, ErrorKind::DataInvalid, &["001.json", "put the old file back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_what_they_are_said_to_be_are_named() {
    let script = |place: &Place| {
        place.stream("pq", "id BIGINT", "").replace("AS JSON", "AS PARQUET")
            + &place.files("result", "")
            + &place.flow("f", "append", "result", "SELECT id FROM STREAM pq")
    };
    let place = Place::new();
    place.write("pq/0.parquet", "PAR1 this is none PAR1");
    place.refused(&script(&place), ErrorKind::DataInvalid, &["0.parquet", "not a whole Parquet file"]).await;

    let place = Place::new();
    place.write("pq/0.parquet", "");
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["1", "two"]));
    let rows = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let file = File::create(place.path("pq/0.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let words = ["0.parquet", "column 'id' is Utf8 in the file", "Int64"];
    place.refused(&script(&place), ErrorKind::DataInvalid, &words).await;
}

/// Four lines, of which the second has a field that does not fit and the third is no row at all.
const MALFORMED: &str =
    "{\"id\": 1, \"k\": \"a\"}\n{\"id\": \"x\", \"k\": \"b\"}\nnot json\n{\"id\": 4, \"k\": \"d\"}\n";

/// Runs a script over malformed rows and returns the rows it prints, and how many it says were malformed.
async fn with_malformed(script: &str) -> (Vec<Value>, u64) {
    let watched = Watched::new();
    watched.session.run_script(script).await.unwrap();
    let rows = watched.batches().iter().flat_map(|line| line["rows"].as_array().unwrap().clone()).collect();
    let reports = watched.reports.all();
    let counts = reports.iter().flat_map(|progress| &progress.sources);
    let counts = counts.filter_map(|source| source.metrics.get(SourceProgress::MALFORMED_ROWS)?.parse::<u64>().ok());
    (rows, counts.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_rows_follow_the_mode_and_are_counted() {
    let place = Place::new();
    place.write("bad/bad.json", MALFORMED);
    let columns = "id BIGINT, k STRING, _line STRING";
    let script = |mode: &str, sql: &str| {
        let options = format!(", 'mode' '{mode}', 'columnNameOfCorruptRecord' '_line'");
        place.stream("bad", columns, &options)
            + &console("answer")
            + &place.flow(&format!("f_{mode}"), "append", "answer", sql)
    };
    let sql = "SELECT id, k, _line FROM STREAM bad";
    let lines: Vec<&str> = MALFORMED.lines().collect();
    let whole = [json!({"id": 1, "k": "a", "_line": null}), json!({"id": 4, "k": "d", "_line": null})];
    let kept = [json!({"id": null, "k": "b", "_line": lines[1]}), json!({"id": null, "k": null, "_line": lines[2]})];

    let (rows, malformed) = with_malformed(&script("PERMISSIVE", sql)).await;
    assert_eq!(difference(&bag(whole.iter().chain(&kept)), &bag(&rows)), None);
    assert_eq!(malformed, 2);
    let (rows, malformed) = with_malformed(&script("DROPMALFORMED", sql)).await;
    assert_eq!(difference(&bag(&whole), &bag(&rows)), None);
    assert_eq!(malformed, 2);
    let words = ["bad.json, line 2", "'id'", "PERMISSIVE or DROPMALFORMED"];
    place.refused(&script("FAILFAST", sql), ErrorKind::DataInvalid, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_lines_of_csv_are_counted_too() {
    let place = Place::new();
    place.write("bad/bad.csv", "1,a\nx,b\n3\n4,d\n");
    let script = |mode: &str| {
        place.stream("bad", "id BIGINT, k STRING", &format!(", 'mode' '{mode}'")).replace("AS JSON", "AS CSV")
            + &console("answer")
            + &place.flow(&format!("f_{mode}"), "append", "answer", "SELECT id, k FROM STREAM bad")
    };
    let (rows, malformed) = with_malformed(&script("DROPMALFORMED")).await;
    let whole = [json!({"id": 1, "k": "a"}), json!({"id": 4, "k": "d"})];
    assert_eq!((difference(&bag(&whole), &bag(&rows)), malformed), (None, 2));
    let (rows, malformed) = with_malformed(&script("PERMISSIVE")).await;
    let kept = [json!({"id": null, "k": "b"}), json!({"id": 3, "k": null})];
    assert_eq!((difference(&bag(whole.iter().chain(&kept)), &bag(&rows)), malformed), (None, 2));
    place.refused(&script("FAILFAST"), ErrorKind::DataInvalid, &["bad.csv, line 2", "'id'"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_with_another_number_of_columns_is_refused() {
    let place = Place::new();
    let tables = place.stream("ev", COLUMNS, "") + &place.files("result", " (id BIGINT, k STRING)");
    let three = tables.clone() + &place.flow("f", "append", "result", "SELECT id, k, v FROM STREAM ev");
    place.refused(&three, ErrorKind::InvalidQuery, &["3 columns (id, k, v)", "takes 2 (id, k)"]).await;
    let named = tables + &place.flow("f", "append", "result (id)", "SELECT id, k FROM STREAM ev");
    place.refused(&named, ErrorKind::InvalidQuery, &["2 columns (id, k)", "takes 1 (id)"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_collected_says_what_would_do() {
    let place = Place::new();
    let session = Session::builder().build();
    session.run_script(&place.stream("ev", COLUMNS, "")).await.unwrap();
    let error = match session.sql("SELECT k FROM STREAM ev").await {
        Ok(frame) => Error::from(frame.collect().await.unwrap_err()),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("'ev' is a stream") && error.message().contains("write_stream()"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_in_a_circle_are_refused() {
    let place = Place::new();
    for table in ["one", "two"] {
        fs::create_dir_all(place.path(&out(table))).unwrap();
    }
    let tables = place.files("one", " (id BIGINT)") + &place.files("two", " (id BIGINT)");
    let circle = tables.clone()
        + &place.flow("there", "append", "two", "SELECT id FROM STREAM one")
        + &place.flow("back", "append", "one", "SELECT id FROM STREAM two");
    place.refused(&circle, ErrorKind::InvalidQuery, &["there", "back", "circle"]).await;
    let itself = tables + &place.flow("round", "append", "one", "SELECT id FROM STREAM one");
    place.refused(&itself, ErrorKind::InvalidQuery, &["round", "circle"]).await;
}

/// A flow that fails, one that reads what it writes, and one that has nothing to do with either.
fn one_of_three_fails(place: &Place) -> String {
    place.write("bad/bad.json", MALFORMED);
    place.stream("bad", "id BIGINT, k STRING", ", 'mode' 'FAILFAST'")
        + &place.stream("ev", COLUMNS, "")
        + &place.files("middle", " (id BIGINT)")
        + &console("answer")
        + &place.flow("broken", "append", "middle", "SELECT id FROM STREAM bad")
        + &place.flow("dependent", "append", "answer", "SELECT id FROM STREAM middle")
        + &place.flow("sound", "append", "answer", "SELECT id FROM STREAM ev")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flow_fails_those_that_depend_on_it_and_no_others() {
    let place = Place::new();
    let script = one_of_three_fails(&place);
    let watched = Watched::new();
    let error = watched.session.run_script(&script).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
    assert!(error.to_string().contains("flow broken"), "{error}");
    let lines = watched.batches();
    assert!(lines.iter().all(|line| line["flow"] == "sound"), "{lines:?}");
    let want: Vec<Value> = (0..6).map(|id| json!({"id": id})).collect();
    assert_eq!(difference(&bag(&want), &union(&crate::answer::answer(&lines))), None);
    assert!(place.seen().is_empty() && !place.path("checkpoints/dependent").exists());
}

/// Runs the command and returns its exit code, what it printed, and what it told a person.
fn command(script: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    let output = command.args(["sql", script]).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_says_it_and_exits_with_1() {
    let place = Place::new();
    let sound = copying(&place, "", "SELECT k FROM STREAM ev");
    for (script, words) in [
        (sound.clone() + "SELEC 1", "did you mean SELECT?"),
        (sound.replace("/ev/'", "/nowhere/'"), "does not exist"),
        (sound.replace("orderBy", "orderedBy"), "did you mean 'orderBy'?"),
    ] {
        let (code, stdout, stderr) = command(&script);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{script}");
        assert!(stderr.contains("error: ") && stderr.contains(words), "{stderr}");
    }
    let (code, stdout, stderr) = command(&one_of_three_fails(&place));
    assert_eq!(code, Some(1), "a flow failed: {stderr}");
    assert!(stdout.lines().count() > 0 && stdout.lines().all(|line| line.contains("\"flow\":\"sound\"")), "{stdout}");
    assert!(stderr.contains("error: ") && stderr.contains("flow broken"), "{stderr}");
    let (code, stdout, stderr) = command(&sound);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("{\"flow\":\"f\""), "{stdout}");
}

/// As in `millstream … 2>&1 | head -1`.
#[test]
fn what_nobody_reads_ends_in_the_same_exit_code() {
    let place = Place::new();
    for script in ["SELEC 1".to_string(), copying(&place, "", "SELECT k FROM STREAM ev")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["sql", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(1), "{script}");
    }
}
