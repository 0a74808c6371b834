//! Rows of JSON and CSV of which some are malformed, in the three modes, judged by a model that looks at one line at a
//! time: good rows are never lost or changed, bad ones follow the mode and are counted, and nothing ever panics.
//!
//! The model of JSON reads every line anew as a tree, so that lines may be cut and altered anywhere; that of CSV knows
//! what each line was put together from. As many cases as `PROPTEST_CASES` says, always from the same seed.

use std::fs;

use millstream::error::{Error, ErrorKind};
use millstream::query::progress::SourceProgress;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::answer::{bag, difference};
use crate::bad_input::Place;
use crate::case::run_script;
use crate::cut_off::runtime;
use crate::disk::{Table, visible_files};
use crate::oracle::config;

/// What the model expects of one row of a file.
#[derive(Debug, Clone)]
struct Expected {
    /// The row, its line with it where that is malformed.
    row: Value,
    is_bad: bool,
    /// The number of its first line, from one.
    line: usize,
}

/// A file, and what is in it.
#[derive(Debug)]
struct Written {
    bytes: Vec<u8>,
    expected: Vec<Expected>,
}

/// What a query over the files gave.
struct Given {
    rows: Vec<Value>,
    malformed: u64,
    end: Result<(), Error>,
}

/// Reads `files`, a batch each, into a table of Parquet files.
async fn given(place: &Place, format: &str, columns: &str, mode: &str) -> Given {
    let (target, flow) = (format!("to_{mode}"), format!("f_{mode}"));
    let options = format!(", 'maxFilesPerTrigger' '1', 'mode' '{mode}', 'columnNameOfCorruptRecord' '_line'");
    let script = place.stream("rows", columns, &options).replace("AS JSON", &format!("AS {format}"))
        + &place.files(&target, "")
        + &place.flow(&flow, "append", &target, "SELECT * FROM STREAM rows");
    let outcome = run_script(&script).await;
    let sources = outcome.reports.iter().flat_map(|report| &report.sources);
    let counts = sources.filter_map(|source| source.metrics.get(SourceProgress::MALFORMED_ROWS)?.parse::<u64>().ok());
    let malformed = counts.sum();
    let table = place.path(&format!("out/{target}"));
    let rows = if visible_files(&table).is_empty() { Vec::new() } else { read(&table).await };
    Given { rows, malformed, end: outcome.end }
}

/// The rows of a table, as a plain directory and by its manifest, which must be the same.
async fn read(table: &std::path::Path) -> Vec<Value> {
    let bag = Table::parquet(table.to_path_buf()).rows().await.unwrap();
    bag.into_iter().flat_map(|(row, count)| vec![serde_json::from_str(&row).unwrap(); count]).collect()
}

/// Says how the three modes differ from what the model expects of the files.
async fn judge(format: &str, columns: &str, files: &[Written]) -> Result<(), String> {
    let place = Place::new();
    fs::create_dir(place.path("rows")).unwrap();
    for (number, file) in files.iter().enumerate() {
        fs::write(place.path(&format!("rows/{number}.{format}")), &file.bytes).unwrap();
    }
    let all = || files.iter().flat_map(|file| &file.expected);
    let bad = all().filter(|expected| expected.is_bad).count() as u64;
    for mode in ["PERMISSIVE", "DROPMALFORMED"] {
        let given = given(&place, format, columns, mode).await;
        given.end.map_err(|error| format!("{mode} failed: {error}"))?;
        let kept = all().filter(|expected| mode == "PERMISSIVE" || !expected.is_bad);
        let wanted = bag(kept.map(|expected| &expected.row));
        if let Some(why) = difference(&wanted, &bag(&given.rows)) {
            return Err(format!("{mode}: {why}"));
        }
        if given.malformed != bad {
            return Err(format!("{mode}: {} rows were counted as malformed, {bad} are", given.malformed));
        }
    }
    let given = given(&place, format, columns, "FAILFAST").await;
    let first = files.iter().position(|file| file.expected.iter().any(|expected| expected.is_bad));
    let before = &files[..first.unwrap_or(files.len())];
    let wanted = bag(before.iter().flat_map(|file| &file.expected).map(|expected| &expected.row));
    if let Some(why) = difference(&wanted, &bag(&given.rows)) {
        return Err(format!("FAILFAST, of the files before the first bad one: {why}"));
    }
    match (first, given.end) {
        (None, Ok(())) => Ok(()),
        (Some(number), Err(error)) => {
            let line = files[number].expected.iter().find(|expected| expected.is_bad).unwrap().line;
            let place = format!("rows/{number}.{format}, line {line}: ");
            let says = error.kind() == ErrorKind::DataInvalid && error.message().contains(&place);
            if says { Ok(()) } else { Err(format!("FAILFAST: '{place}' is not in: {error}")) }
        }
        (None, Err(error)) => Err(format!("FAILFAST failed, and nothing is wrong: {error}")),
        (Some(number), Ok(())) => Err(format!("FAILFAST took the bad file {number}")),
    }
}

/// Runs a test with cases that are the same in every run.
fn with_cases<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> TestCaseResult) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    if let Err(failure) = TestRunner::new_with_rng(config(), rng).run(strategy, test) {
        panic!("{failure}");
    }
}

fn judged(runtime: &Runtime, format: &str, columns: &str, files: &[Written]) -> TestCaseResult {
    runtime.block_on(judge(format, columns, files)).map_err(|why| {
        let texts: Vec<String> = files.iter().map(|file| file.bytes.escape_ascii().to_string()).collect();
        TestCaseError::fail(format!("{why}\nfiles:\n{}", texts.join("\n")))
    })
}

mod of_json {
    use super::*;

    const COLUMNS: &str = "id BIGINT, i INT, d DOUBLE, s STRING, t TIMESTAMP, b BOOLEAN, \
                           st STRUCT<x: INT, y: STRING>, l ARRAY<INT>, _line STRING";

    /// Something done to the bytes of a line.
    #[derive(Debug, Clone)]
    enum Mutation {
        Cut(Index),
        Put(Index, Vec<u8>),
        Replace(Index, u8),
        Append(&'static str),
    }

    impl Mutation {
        fn of(&self, line: &mut Vec<u8>) {
            match self {
                Self::Cut(at) => line.truncate(at.index(line.len() + 1)),
                Self::Put(at, bytes) => {
                    let at = at.index(line.len() + 1);
                    line.splice(at..at, bytes.iter().copied());
                }
                Self::Replace(at, byte) if !line.is_empty() => {
                    let at = at.index(line.len());
                    line[at] = *byte;
                }
                Self::Replace(..) => {}
                Self::Append(text) => line.extend_from_slice(text.as_bytes()),
            }
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let parts = ["a", "\"", "\\", "\n", "\u{0}", "é", "🦀", "{", "}", "[", ":", ",", "\u{feff}", " ", "\u{fffd}"];
        prop_oneof![
            8 => vec(select(parts.to_vec()), 0..6).prop_map(|parts| parts.concat()),
            1 => (1_000_usize..200_000).prop_map(|length| "long".repeat(length / 4)),
        ]
    }

    /// A value that suits the column, or one that may not.
    fn field(name: &'static str) -> BoxedStrategy<Value> {
        let number = || prop_oneof![any::<i8>().prop_map(i64::from), any::<i32>().prop_map(i64::from)];
        let right = match name {
            "i" => number().prop_map(Value::from).boxed(),
            "d" => prop_oneof![number().prop_map(|n| json!(n as f64 / 4.0)), number().prop_map(Value::from),].boxed(),
            "s" => text().prop_map(Value::from).boxed(),
            "t" => (0_i64..2_000_000_000).prop_map(Value::from).boxed(),
            "b" => any::<bool>().prop_map(Value::from).boxed(),
            "st" => (number(), text()).prop_map(|(x, y)| json!({"x": x, "y": y, "other": [x]})).boxed(),
            _ => vec(prop_oneof![4 => number().prop_map(Value::from), 1 => Just(Value::Null)], 0..4)
                .prop_map(Value::from)
                .boxed(),
        };
        let wrong = select(vec![
            json!(true),
            json!(1.5),
            json!("soon"),
            json!(i64::MAX),
            json!(u64::MAX),
            json!([1, "x", null]),
            json!({"x": "one", "y": [1.5, {"z": null}]}),
            json!([[1]]),
            Value::Null,
        ]);
        prop_oneof![12 => right, 1 => wrong].boxed()
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        let names = ["i", "d", "s", "t", "b", "st", "l", "unknown"];
        let fields: Vec<_> = names.map(|name| (proptest::bool::weighted(0.9), field(name))).to_vec();
        (0_i64..1_000_000, fields).prop_map(move |(id, fields)| {
            let mut object = Map::from_iter([("id".to_string(), json!(id))]);
            for (name, (is_there, value)) in names.iter().zip(fields) {
                if is_there {
                    object.insert((*name).to_string(), value);
                }
            }
            object
        })
    }

    fn mutation() -> impl Strategy<Value = Mutation> {
        let bytes = vec![
            b"\"".to_vec(),
            b"\\".to_vec(),
            b"\xff".to_vec(),
            b"\xc3".to_vec(),
            b"\x01".to_vec(),
            b"\0".to_vec(),
            b"}".to_vec(),
            b"[[[[".to_vec(),
            b" ".to_vec(),
            b"\xef\xbb\xbf".to_vec(),
            b"[".repeat(200),
        ];
        prop_oneof![
            any::<Index>().prop_map(Mutation::Cut),
            (any::<Index>(), select(bytes)).prop_map(|(at, bytes)| Mutation::Put(at, bytes)),
            (any::<Index>(), select(b"\"{}[],:x \xff\x00\t".to_vec()))
                .prop_map(|(at, byte)| Mutation::Replace(at, byte)),
            select(vec![" {}", ",", "{\"id\": 7}", "\u{2028}", "  \t"]).prop_map(Mutation::Append),
        ]
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let whole = || object().prop_map(|object| Value::Object(object).to_string().into_bytes());
        prop_oneof![
            10 => whole(),
            4 => (whole(), vec(mutation(), 1..3)).prop_map(|(mut line, mutations)| {
                mutations.iter().for_each(|mutation| mutation.of(&mut line));
                line
            }),
            2 => select(vec![&b""[..], b" \t ", b"[]", b"[{\"id\": 1}]", b"null", b"7", b"\"x\"", b"{}", b"\xff\xfe", b"x,y",
                b"{\"id\": 3, \"id\": 4, \"s\": \"twice\"}", b"{\"ID\": 1}"]).prop_map(<[u8]>::to_vec),
        ]
    }

    fn file() -> impl Strategy<Value = Written> {
        let ends = select(vec!["\n", "\n", "\r\n"]);
        (vec((line(), ends), 0..12), proptest::bool::weighted(0.2), any::<bool>()).prop_map(|(lines, bom, is_cut)| {
            let mut bytes = if bom { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
            for (line, end) in lines {
                bytes.extend(line);
                bytes.extend_from_slice(end.as_bytes());
            }
            if is_cut && bytes.ends_with(b"\n") {
                bytes.pop();
            }
            let expected = model(&bytes);
            Written { bytes, expected }
        })
    }

    /// Reads a file as the mode PERMISSIVE does.
    fn model(bytes: &[u8]) -> Vec<Expected> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut expected = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = String::from_utf8_lossy(line);
            if text.trim_ascii().is_empty() {
                continue;
            }
            let mut is_bad = std::str::from_utf8(line).is_err();
            let mut row = Map::new();
            let object = match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => object,
                _ => {
                    is_bad = true;
                    Map::new()
                }
            };
            for name in ["id", "i", "d", "s", "t", "b", "st", "l"] {
                row.insert(name.to_string(), value(name, object.get(name), &mut is_bad));
            }
            row.insert("_line".to_string(), if is_bad { json!(text) } else { Value::Null });
            expected.push(Expected { row: row.into(), is_bad, line: number + 1 });
        }
        expected
    }

    /// What a field gives: itself where it is of the column's type, else NULL, and then the row is bad.
    fn value(name: &str, field: Option<&Value>, is_bad: &mut bool) -> Value {
        let Some(field) = field.filter(|field| !field.is_null()) else { return Value::Null };
        let given = match name {
            "id" => field.as_i64().map(Value::from),
            "i" | "x" => field.as_i64().filter(|n| i32::try_from(*n).is_ok()).map(Value::from),
            "d" => field.as_f64().filter(|_| field.is_number()).map(Value::from),
            "s" | "y" => Some(field.as_str().map_or_else(|| json!(field.to_string()), Value::from)),
            "t" => field.as_i64().filter(|seconds| seconds.checked_mul(1_000_000).is_some()).map(|seconds| {
                json!(chrono::DateTime::from_timestamp(seconds, 0).unwrap().format("%Y-%m-%dT%H:%M:%S").to_string())
            }),
            "b" => field.as_bool().map(Value::from),
            "st" => field.as_object().map(
                |fields| json!({"x": value("x", fields.get("x"), is_bad), "y": value("y", fields.get("y"), is_bad)}),
            ),
            _ => field.as_array().map(|items| items.iter().map(|item| value("x", Some(item), is_bad)).collect()),
        };
        *is_bad |= given.is_none();
        given.unwrap_or(Value::Null)
    }

    #[test]
    fn every_mode_does_what_the_model_does() {
        let runtime = runtime();
        with_cases(&vec(file(), 1..4), |files| judged(&runtime, "JSON", COLUMNS, &files));
    }

    /// A model that takes everything for good would prove nothing.
    #[test]
    fn the_model_knows_good_from_bad() {
        let lines = "{\"id\": 1, \"l\": [1, null]}\n\n{\"id\": 1.0}\n{\"id\": 2\n{\"st\": {\"x\": \"a\", \"y\": 5}}\n";
        let expected = model(lines.as_bytes());
        let bad: Vec<(bool, usize)> = expected.iter().map(|expected| (expected.is_bad, expected.line)).collect();
        assert_eq!(bad, [(false, 1), (true, 3), (true, 4), (true, 5)]);
        assert_eq!(expected[3].row["st"], json!({"x": null, "y": "5"}));
        assert!(model(b"{\"s\": \"\xff\"}")[0].is_bad);
    }
}

mod of_csv {
    use super::*;

    const COLUMNS: &str = "id BIGINT, d DOUBLE, s STRING, b BOOLEAN, _line STRING";

    /// A field as it stands in the file.
    #[derive(Debug, Clone)]
    struct Cell {
        value: String,
        is_quoted: bool,
    }

    impl Cell {
        fn written(&self) -> String {
            if self.is_quoted { format!("\"{}\"", self.value.replace('"', "\"\"")) } else { self.value.clone() }
        }
    }

    /// A field whose text suits the column, or does not.
    fn cell(column: usize) -> BoxedStrategy<Cell> {
        let right = match column {
            0 => (0_i64..1_000_000).prop_map(|id| id.to_string()).boxed(),
            1 => any::<i16>().prop_map(|n| (f64::from(n) / 8.0).to_string()).boxed(),
            2 => vec(select(vec!["a", "\"", ",", "\n", "\r\n", "é", " ", "\\", "#"]), 0..5)
                .prop_map(|parts| format!("t{}t", parts.concat()))
                .boxed(),
            _ => select(vec!["true", "FALSE", "True"]).prop_map(str::to_string).boxed(),
        };
        let wrong = select(vec!["x", "1.5.5", " 7", "yes", "0x10", "99999999999999999999", "\u{0}", "\u{fffd}", ""]);
        let text = prop_oneof![8 => right, 1 => wrong.prop_map(str::to_string)];
        (text, any::<bool>())
            .prop_map(|(value, is_quoted)| {
                let needs = value.contains([',', '"', '\n', '\r', '\\']);
                Cell { value, is_quoted: is_quoted || needs }
            })
            .boxed()
    }

    /// The fields of a row, and whether a byte that is not UTF-8 stands before the letters of the text.
    #[derive(Debug, Clone)]
    struct Line {
        cells: Vec<Cell>,
        is_latin: bool,
        end: &'static str,
    }

    fn line() -> impl Strategy<Value = Line> {
        let cells: Vec<_> = (0..4).map(cell).collect();
        let extra = prop_oneof![12 => Just(0_i32), 1 => Just(1), 1 => -3_i32..0];
        let end = select(vec!["\n", "\n", "\r\n"]);
        (cells, extra, proptest::bool::weighted(0.05), end).prop_map(|(mut cells, extra, is_latin, end)| {
            match extra {
                1 => cells.push(Cell { value: "more".to_string(), is_quoted: false }),
                fewer => cells.truncate((4 + fewer) as usize),
            }
            Line { is_latin: is_latin && cells.len() > 2, cells, end }
        })
    }

    impl Line {
        fn bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            for (index, cell) in self.cells.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                let written = cell.written();
                let (quote, rest) = written.split_at(usize::from(cell.is_quoted));
                bytes.extend_from_slice(quote.as_bytes());
                if self.is_latin && index == 2 {
                    bytes.push(0xe9);
                }
                bytes.extend_from_slice(rest.as_bytes());
            }
            bytes
        }

        fn expected(&self, line: usize) -> Expected {
            let mut is_bad = self.is_latin || self.cells.len() != 4;
            let mut row = Map::new();
            for (index, name) in ["id", "d", "s", "b"].into_iter().enumerate() {
                let value = match self.cells.get(index) {
                    Some(cell) if cell.value.is_empty() && !self.is_latin => match (index, cell.is_quoted) {
                        (2, true) => json!(""),
                        _ => Value::Null,
                    },
                    Some(cell) => self.value(index, cell, &mut is_bad),
                    None => Value::Null,
                };
                row.insert(name.to_string(), value);
            }
            let text = String::from_utf8_lossy(&self.bytes()).into_owned();
            row.insert("_line".to_string(), if is_bad { json!(text) } else { Value::Null });
            Expected { row: row.into(), is_bad, line }
        }

        fn value(&self, index: usize, cell: &Cell, is_bad: &mut bool) -> Value {
            let text = cell.value.as_str();
            let given = match index {
                0 => text.parse::<i64>().ok().map(Value::from),
                1 => text.parse::<f64>().ok().map(Value::from),
                2 if self.is_latin => Some(json!(format!("\u{fffd}{text}"))),
                2 => Some(json!(text)),
                _ => ["true", "false"].iter().position(|word| text.eq_ignore_ascii_case(word)).map(|at| json!(at == 0)),
            };
            // Empty in a column that takes no text is NULL.
            *is_bad |= given.is_none() && !text.is_empty();
            given.unwrap_or(Value::Null)
        }
    }

    fn file() -> impl Strategy<Value = Written> {
        (vec(line(), 0..12), proptest::bool::weighted(0.2), any::<bool>()).prop_map(|(lines, bom, is_cut)| {
            let mut bytes = if bom { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
            let (mut expected, mut number) = (Vec::new(), 1);
            for line in &lines {
                let text = line.bytes();
                if !text.trim_ascii().is_empty() {
                    expected.push(line.expected(number));
                }
                number += 1 + text.iter().filter(|byte| **byte == b'\n').count();
                bytes.extend(text);
                bytes.extend_from_slice(line.end.as_bytes());
            }
            if is_cut && bytes.ends_with(b"\n") {
                bytes.pop();
            }
            Written { bytes, expected }
        })
    }

    #[test]
    fn every_mode_does_what_the_model_does() {
        let runtime = runtime();
        with_cases(&vec(file(), 1..4), |files| judged(&runtime, "CSV", COLUMNS, &files));
    }
}

/// Bytes of any kind: nobody says what is in them, but the modes must agree, and no answer is a bug of the reader.
#[test]
fn whatever_is_read_the_modes_agree() {
    const COLUMNS: &str = "id BIGINT, s STRING, _line STRING";
    let parts: Vec<&[u8]> = vec![
        b"\"",
        b"\\",
        b",",
        b"\n",
        b"\r",
        b"{",
        b"}",
        b"[",
        b"1",
        b"x",
        b"\0",
        b"\xff",
        b" ",
        b"{\"id\":1}\n",
        b"1,\"a\"\n",
        b"\xef\xbb\xbf",
    ];
    let runtime = runtime();
    let bytes = vec(select(parts), 0..60).prop_map(|parts| parts.concat());
    with_cases(&(bytes, any::<bool>()), |(bytes, is_json)| {
        let format = if is_json { "JSON" } else { "CSV" };
        let place = Place::new();
        place.write("rows/0.txt", "");
        fs::write(place.path("rows/0.txt"), &bytes).unwrap();
        let text = bytes.escape_ascii().to_string();
        let (kept, dropped, failed) = runtime.block_on(async {
            let kept = given(&place, format, COLUMNS, "PERMISSIVE").await;
            let dropped = given(&place, format, COLUMNS, "DROPMALFORMED").await;
            (kept, dropped, given(&place, format, COLUMNS, "FAILFAST").await)
        });
        prop_assert!(kept.end.is_ok() && dropped.end.is_ok(), "{text}: {:?} {:?}", kept.end, dropped.end);
        prop_assert_eq!(kept.malformed, dropped.malformed, "{}", text);
        prop_assert_eq!(kept.rows.len() as u64, dropped.rows.len() as u64 + dropped.malformed, "{}", text);
        let lines = kept.rows.iter().filter(|row| !row["_line"].is_null()).count() as u64;
        prop_assert_eq!(lines, kept.malformed, "each malformed row has its line: {}", text);
        match failed.end {
            Ok(()) => prop_assert_eq!(kept.malformed, 0, "{}", text),
            Err(error) => {
                prop_assert!(kept.malformed > 0 && error.kind() == ErrorKind::DataInvalid, "{text}: {error}");
                prop_assert!(failed.rows.is_empty(), "{text}: FAILFAST wrote rows");
            }
        }
        Ok(())
    });
}
