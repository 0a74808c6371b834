//! What comes back from CSV: rows that a flow wrote, whatever stands in them, are the same rows when they are read.
//!
//! They are read by the engine with the options they were written with, and by Arrow's reader, which knows doubled
//! quotes and nothing else, as most readers do.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema};
use millstream::session::Session;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::answer::{bag, difference};
use crate::case::{literal, write_rows};
use crate::cut_off::runtime;
use crate::disk::{json_rows, visible_files};
use crate::oracle::config;

/// What texts are put together from: all that means something to some reader of CSV.
const PARTS: [&str; 16] =
    ["\"", ",", ";", "\\", "\n", "\r\n", "\r", " ", "\t", "a", "7", "none", "#", "é", "\u{feff}", "\u{2028}"];

/// One row.
#[derive(Debug, Clone)]
struct Row {
    a: Option<String>,
    n: Option<i64>,
    b: Option<String>,
}

impl Row {
    fn json(&self) -> Value {
        json!({"a": self.a, "n": self.n, "b": self.b})
    }
}

/// Rows, and how they are written.
#[derive(Debug, Clone)]
struct Sheet {
    header: bool,
    delimiter: char,
    /// What stands for NULL.
    null: &'static str,
    rows: Vec<Row>,
}

impl Sheet {
    /// Returns the options of the tables, as they stand in SQL.
    fn options(&self) -> String {
        let Self { header, delimiter, null, .. } = self;
        let delimiter = if *delimiter == '\t' { "\\t".to_string() } else { delimiter.to_string() };
        let mut options = format!("'format.has_header' '{header}', 'format.delimiter' '{delimiter}'");
        if !null.is_empty() {
            options += &format!(", 'nullValue' '{null}'");
        }
        options
    }

    /// Returns the script that writes the rows: all columns together, and one of them alone.
    fn script(&self, folder: &Path) -> String {
        let (folder, options) = (literal(folder), self.options());
        let given = format!(
            "CREATE UNBOUNDED EXTERNAL TABLE given (a STRING, n BIGINT, b STRING) STORED AS JSON \
             LOCATION '{folder}/in/';\n"
        );
        let flow = |table: &str, columns: &str| {
            format!(
                "CREATE EXTERNAL TABLE {table} STORED AS CSV LOCATION '{folder}/{table}/' OPTIONS ({options});\n\
                 CREATE FLOW to_{table} OUTPUT MODE append TRIGGER AVAILABLE NOW AS INSERT INTO {table} \
                 SELECT {columns} FROM STREAM given;\n"
            )
        };
        given + &flow("together", "a, n, b") + &flow("alone", "a")
    }

    /// Reads a table that the script wrote.
    async fn read(&self, folder: &Path, table: &str, columns: &str) -> Result<Vec<Value>, String> {
        let (folder, options) = (literal(folder), self.options());
        let session = Session::builder().build();
        let declaration = format!(
            "CREATE EXTERNAL TABLE {table} ({columns}) STORED AS CSV LOCATION '{folder}/{table}/' OPTIONS ({options})"
        );
        session.run_script(&declaration).await.map_err(|error| error.to_string())?;
        let frame = session.sql(&format!("SELECT * FROM {table}")).await.map_err(|error| error.to_string())?;
        let batches = frame.collect().await.map_err(|error| error.to_string())?;
        Ok(json_rows(&batches))
    }

    /// Reads the files below `folder` as any reader does that knows doubled quotes: every column a text.
    fn read_plainly(&self, folder: &Path) -> Result<Vec<Value>, String> {
        let fields = ["a", "n", "b"].map(|name| Field::new(name, DataType::Utf8, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let mut rows = Vec::new();
        for file in visible_files(folder).values() {
            let builder = ReaderBuilder::new(Arc::clone(&schema)).with_header(self.header);
            let delimiter = u8::try_from(self.delimiter).unwrap();
            let reader = builder.with_delimiter(delimiter).build(file.as_slice()).unwrap();
            for batch in reader {
                rows.extend(json_rows(&[batch.map_err(|error| error.to_string())?]));
            }
        }
        Ok(rows)
    }

    /// Returns a row as [`Sheet::read_plainly`] finds it, to which NULL is its word, and every empty text is NULL.
    fn plainly(&self, row: &Row) -> Value {
        let text = |value: &Option<String>| {
            let text = value.clone().unwrap_or_else(|| self.null.to_string());
            if text.is_empty() { Value::Null } else { Value::String(text) }
        };
        json!({"a": text(&row.a), "n": text(&row.n.map(|n| n.to_string())), "b": text(&row.b)})
    }
}

/// Writes the rows and says how those differ that come back.
fn judge(runtime: &Runtime, sheet: &Sheet) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("in")).unwrap();
    let rows: Vec<Value> = sheet.rows.iter().map(Row::json).collect();
    write_rows(&folder.join("in/rows.json"), &rows);
    let session = Session::builder().build();
    runtime.block_on(session.run_script(&sheet.script(folder))).map_err(|error| error.to_string())?;

    let check = |what: &str, want: &[Value], have: &[Value]| match difference(&bag(want), &bag(have)) {
        Some(why) => Err(format!("{what}: {why}")),
        None => Ok(()),
    };
    let have = runtime.block_on(sheet.read(folder, "together", "a STRING, n BIGINT, b STRING"))?;
    check("together", &rows, &have)?;
    let have = runtime.block_on(sheet.read(folder, "alone", "a STRING"))?;
    let want: Vec<Value> = sheet.rows.iter().map(|row| json!({"a": row.a})).collect();
    check("alone", &want, &have)?;
    let want: Vec<Value> = sheet.rows.iter().map(|row| sheet.plainly(row)).collect();
    check("read by others", &want, &sheet.read_plainly(&folder.join("together"))?)
}

/// Texts of up to five parts, and NULL.
fn texts() -> impl Strategy<Value = Option<String>> {
    let parts = prop::sample::select(PARTS.to_vec()).prop_map(String::from);
    let part = prop_oneof![8 => parts, 1 => any::<char>().prop_map(String::from)];
    prop::option::weighted(0.8, prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat()))
}

fn sheets() -> impl Strategy<Value = Sheet> {
    let numbers = prop::option::weighted(0.8, 0_i64..10);
    let row = (texts(), numbers, texts()).prop_map(|(a, n, b)| Row { a, n, b });
    let delimiters = prop::sample::select(vec![',', ';', '\t', ' ']);
    let nulls = prop::sample::select(vec!["", "none", "7"]);
    (any::<bool>(), delimiters, nulls, prop::collection::vec(row, 1..12))
        .prop_map(|(header, delimiter, null, rows)| Sheet { header, delimiter, null, rows })
}

#[test]
fn random_rows_come_back() {
    let runtime = runtime();
    let test = |sheet: Sheet| judge(&runtime, &sheet).map_err(TestCaseError::fail);
    if let Err(failure) = TestRunner::new(config()).run(&sheets(), test) {
        panic!("{failure}");
    }
}

/// The values that are known to be hard come back whatever the dice say: each beside each.
#[test]
fn hard_values_come_back() {
    let texts = ["", "none", "7", "a\\", "a,\\", "a\\\"b", "\\\\,", "\"", "\\\"", "\",", "\n", "a\r", " ", "\u{feff}a"];
    let values: Vec<Option<String>> = texts.iter().map(|text| Some((*text).to_string())).chain([None]).collect();
    let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (a, b)));
    let rows: Vec<Row> = pairs.map(|(a, b)| Row { a: a.clone(), n: None, b: b.clone() }).collect();
    let runtime = runtime();
    for (header, delimiter, null) in [(false, ',', ""), (true, '\t', "none")] {
        let sheet = Sheet { header, delimiter, null, rows: rows.clone() };
        if let Err(why) = judge(&runtime, &sheet) {
            panic!("{}: {why}", sheet.options());
        }
    }
}
