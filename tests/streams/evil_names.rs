//! Evil texts as values of partitions, and as names of tables, columns, flows, files and checkpoints: they come back
//! exactly, or are refused by name, and nothing ever lies outside of where it should.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use millstream::error::ErrorKind;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::answer::{bag, difference};
use crate::bad_input::{Place, console};
use crate::case::run_script;
use crate::disk::{Table, files_below, visible_files};

/// What somebody might try, or just have.
const EVIL: &[&str] = &[
    "../",
    "../../escaped",
    "..",
    ".",
    "/etc/x",
    "a/b",
    "a//b",
    "nul\0inside",
    "line\nbreak",
    "cr\r\nlf",
    "tab\tbed",
    "'",
    "''; DROP TABLE result; --",
    "\"",
    "`",
    "\\",
    "C:\\x",
    "%2e%2e%2f",
    "%",
    "%zz",
    "100%41",
    "=",
    "a=b",
    "k=__HIVE_DEFAULT_PARTITION__",
    " ",
    " both ends ",
    "trailing.",
    "*?[a]{b,c}",
    "~",
    "a#1",
    "🦀 é",
    "e\u{301}",
    "_hidden",
    ".hidden",
    "_millstream",
    "__HIVE_DEFAULT_PARTITION__",
    "NULL",
    "null",
    "CON",
    "\u{202e}evil\u{200f}",
    "\u{feff}bom",
    "\u{85}",
    "$HOME",
    "{\"json\": 1}",
];

/// Text in quotes as SQL has it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name in quotes as SQL has it.
fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn evil_and_long() -> Vec<String> {
    let letters = "0123456789abcdef";
    EVIL.iter().map(ToString::to_string).chain([String::new(), letters.repeat(15), letters.repeat(256)]).collect()
}

/// The files of the place that lie in none of `folders`.
fn outside(place: &Place, folders: &[&str]) -> BTreeSet<String> {
    let mut files = files_below(&place.path(""));
    files.retain(|file, _| !folders.iter().any(|folder| file.starts_with(folder)));
    files.into_keys().collect()
}

/// Writes rows as one file of the stream `ev`.
fn write_rows(place: &Place, rows: &[Value]) {
    let _ = fs::remove_dir_all(place.path("ev"));
    place.write("ev/rows.json", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
}

/// Reads a table as Hive would: the value of `k` is in the folder's name, the ids are in the files.
fn as_hive(root: &Path) -> BTreeMap<i64, Option<String>> {
    let mut found = BTreeMap::new();
    for file in visible_files(root).keys() {
        let (folder, _) = file.split_once('/').expect("a file in a folder");
        let value = folder.strip_prefix("k=").expect("the folder of a partition");
        let value = (value != "__HIVE_DEFAULT_PARTITION__").then(|| percent_decoded(value));
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(root.join(file)).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
            found.extend(ids.values().iter().map(|id| (*id, value.clone())));
        }
    }
    found
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = std::str::from_utf8(&others[..others.len().min(2)]).ok().filter(|code| code.len() == 2);
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &others[2..]).1,
            None => (bytes.push(*first), rest = others).1,
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_partitions_come_back_and_stay_inside() {
    for format in ["PARQUET", "JSON", "CSV"] {
        let place = Place::new();
        let values: Vec<Option<&str>> = EVIL.iter().copied().map(Some).chain([None]).collect();
        let rows: Vec<Value> = (0_i64..).zip(&values).map(|(id, k)| json!({"id": id, "k": k})).collect();
        write_rows(&place, &rows);
        let before = outside(&place, &["out/", "checkpoints/"]);
        let declared = if format == "PARQUET" { "" } else { " (id BIGINT, k STRING)" };
        let script = place.stream("ev", "id BIGINT, k STRING", "")
            + &place
                .files("result", declared)
                .replace("STORED AS PARQUET", &format!("STORED AS {format}"))
                .replace("/';", "/' PARTITIONED BY (k);")
            + &place.flow("f", "append", "result", "SELECT id, k FROM STREAM ev");
        run_script(&script).await.end.unwrap();
        assert_eq!(outside(&place, &["out/result/", "checkpoints/f/"]), before, "a file lies outside");

        let read = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE result (id BIGINT, k STRING) STORED AS {format} LOCATION '{}/';\n{}{}",
            place.quoted("out/result"),
            console("answer"),
            place.flow("reading", "append", "answer", "SELECT id, k FROM STREAM result"),
        );
        let outcome = run_script(&read).await;
        outcome.end.unwrap();
        let read: Vec<Value> = outcome.lines.iter().flat_map(|line| line["rows"].as_array().unwrap().clone()).collect();
        assert_eq!(difference(&bag(&rows), &bag(&read)), None, "{format} as a stream");
        if format == "PARQUET" {
            let table = Table::parquet(place.path("out/result"));
            assert_eq!(difference(&bag(&rows), &table.rows().await.unwrap()), None);
            let expected = (0_i64..).zip(&values).map(|(id, k)| (id, k.map(str::to_string))).collect();
            assert_eq!(as_hive(&place.path("out/result")), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_no_folder_can_stand_for_is_refused() {
    for (value, words) in [
        (String::new(), ["the empty text in column 'k'", "nullif(k, '')"]),
        ("long/".repeat(800), ["a text of 4000 bytes in column 'k'", "begins with 'long/long/"]),
    ] {
        let place = Place::new();
        write_rows(&place, &[json!({"id": 1, "k": "fine"}), json!({"id": 2, "k": value})]);
        let script = |sql: &str| {
            place.stream("ev", "id BIGINT, k STRING", "")
                + &place.files("result", "").replace("/';", "/' PARTITIONED BY (k);")
                + &place.flow("f", "append", "result", sql)
        };
        place.refused(&script("SELECT id, k FROM STREAM ev"), ErrorKind::DataInvalid, &words).await;
        // The remedy is in the message, and the batch that failed runs with it.
        run_script(&script("SELECT id, nullif(substr(k, 1, 20), '') AS k FROM STREAM ev")).await.end.unwrap();
        assert_eq!(Table::parquet(place.path("out/result")).rows().await.unwrap().len(), 2);
    }
}

/// Runs a script that reads `rows` under a name; it must succeed or be refused with an error, and says which.
async fn accepted(place: &Place, script: &str, folders: &[&str]) -> Result<Vec<Value>, String> {
    let before = outside(place, folders);
    let outcome = run_script(script).await;
    assert_eq!(outside(place, folders), before, "a file lies outside:\n{script}");
    match outcome.end {
        Ok(()) => Ok(outcome.lines.iter().flat_map(|line| line["rows"].as_array().unwrap().clone()).collect()),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}\n{script}");
            Err(error.to_string())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_may_be_called_anything() {
    let mut refused = Vec::new();
    for column in evil_and_long() {
        let place = Place::new();
        let rows = [json!({"id": 1, column.clone(): "x"}), json!({"id": 2, column.clone(): null})];
        write_rows(&place, &rows);
        let script = place.stream("ev", &format!("id BIGINT, {} STRING", name(&column)), "")
            + &place.files("result", "")
            + &place.files("parts", "").replace("/';", &format!("/' PARTITIONED BY ({});", name(&column)))
            + &place.flow("f", "append", "result", &format!("SELECT id, {} FROM STREAM ev", name(&column)))
            + &place.flow("g", "append", "parts", &format!("SELECT id, {} FROM STREAM ev", name(&column)));
        match accepted(&place, &script, &["out/result/", "out/parts/", "checkpoints/"]).await {
            Ok(_) => {
                for table in ["out/result", "out/parts"] {
                    let read = Table::parquet(place.path(table)).rows().await.unwrap();
                    assert_eq!(difference(&bag(&rows), &read), None, "column {column:?} of {table}");
                }
            }
            Err(error) => refused.push((column, error)),
        }
    }
    let names: Vec<usize> = refused.iter().map(|(column, _)| column.len()).collect();
    assert_eq!(names, [0, 240, 4096], "only what no folder can be called is refused: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_flows_may_be_called_anything() {
    let rows = [json!({"id": 1}), json!({"id": 2})];
    let mut refused = Vec::new();
    for evil in evil_and_long() {
        let place = Place::new();
        write_rows(&place, &rows);
        // Without CHECKPOINT the flow's name is that of a folder beside the table.
        let script = place.stream("ev", "id BIGINT", "").replace("TABLE ev", &format!("TABLE {}", name(&evil)))
            + &place.files("result", "")
            + &format!(
                "CREATE FLOW {0} TRIGGER AVAILABLE NOW AS INSERT INTO result SELECT * FROM STREAM {0};",
                name(&evil)
            );
        // Twice: the second run finds its checkpoint, and adds nothing.
        for _ in 0..2 {
            match accepted(&place, &script, &["out/result/"]).await {
                Ok(_) => {
                    let read = Table::parquet(place.path("out/result")).rows().await.unwrap();
                    assert_eq!(difference(&bag(&rows), &read), None, "flow {evil:?}");
                }
                Err(error) => refused.push((evil.clone(), error)),
            }
        }
    }
    let names: BTreeSet<&str> = refused.iter().map(|(evil, _)| evil.as_str()).collect();
    assert!(names.iter().all(|name| name.is_empty() || name.len() == 4096), "{refused:?}");
    assert_eq!(names.len(), 2, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_may_be_called_anything_that_is_one_name() {
    let rows = [json!({"id": 1}), json!({"id": 2})];
    for evil in EVIL.iter().filter(|evil| !evil.contains(['/', '\0']) && !["..", ".", " "].contains(evil)) {
        let place = Place::new();
        write_rows(&place, &rows);
        let checkpoint = quoted(&format!("{}/{evil}/x", place.path("checkpoints").display()));
        let script = place.stream("ev", "id BIGINT", "")
            + &place.files("result", "")
            + &format!(
                "CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT {checkpoint} AS INSERT INTO result SELECT * FROM STREAM ev;"
            );
        for _ in 0..2 {
            let folder = format!("checkpoints/{evil}/x/");
            accepted(&place, &script, &["out/result/", &folder]).await.unwrap();
            assert!(place.path(&folder).join("commits/0").exists(), "{evil:?}");
            let read = Table::parquet(place.path("out/result")).rows().await.unwrap();
            assert_eq!(difference(&bag(&rows), &read), None, "checkpoint {evil:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_files_may_be_called_anything() {
    let place = Place::new();
    fs::remove_dir_all(place.path("ev")).unwrap();
    let names: Vec<String> =
        EVIL.iter().filter(|evil| !evil.contains(['/', '\0'])).map(|evil| format!("{evil}.json")).collect();
    let long = format!("{}.json", "x".repeat(250));
    let mut rows = Vec::new();
    for (id, name) in names.iter().chain([&long, &"a#1".to_string()]).enumerate() {
        let row = json!({"id": id});
        place.write(&format!("ev/{name}"), &format!("{row}\n"));
        if !name.starts_with(['.', '_']) {
            rows.push(row);
        }
    }
    let script = place.stream("ev", "id BIGINT", ", 'maxFilesPerTrigger' '1'")
        + &place.files("result", "")
        + &place.flow("f", "append", "result", "SELECT id FROM STREAM ev");
    for _ in 0..2 {
        accepted(&place, &script, &["out/result/", "checkpoints/f/"]).await.unwrap();
        let read = Table::parquet(place.path("out/result")).rows().await.unwrap();
        assert_eq!(difference(&bag(&rows), &read), None);
    }
    // By its own name, too, and by a pattern.
    for name in ["line\nbreak.json", "line?break.json"] {
        let script = place
            .stream("ev", "id BIGINT", "")
            .replace("/' OPTIONS", &format!("/{}' OPTIONS", name.replace('\'', "''")))
            + &console("answer")
            + &place.flow(
                &format!("g{}", name.len() + usize::from(name.contains('?'))),
                "append",
                "answer",
                "SELECT id FROM STREAM ev",
            );
        assert_eq!(accepted(&place, &script, &["checkpoints/"]).await.unwrap().len(), 1, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_name_is_no_text_is_named() {
    let place = Place::new();
    let name = OsStr::from_bytes(b"not-\xff-text.json");
    fs::write(place.path("ev").join(name), "{\"id\": 1}\n").unwrap();
    let script = place.stream("ev", "id BIGINT", "")
        + &console("answer")
        + &place.flow("f", "append", "answer", "SELECT id FROM STREAM ev");
    place.refused(&script, ErrorKind::Unavailable, &["not-\\xFF-text.json", "not UTF-8", "rename it"]).await;
    // A hidden one is nobody's business.
    fs::rename(place.path("ev").join(name), place.path("ev").join(OsStr::from_bytes(b".hidden-\xff"))).unwrap();
    run_script(&script).await.end.unwrap();
}
