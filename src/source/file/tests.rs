//! Whole files in, rows out; and which files a batch takes, before and after a restart.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{binary, col, lit};
use futures::TryStreamExt;

use super::lines::PIECE_BYTES;
use super::*;
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::source::MalformedRows;
use crate::storage::LocalStore;

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("in")).unwrap();
        Self { _dir: dir, root }
    }

    fn input(&self) -> String {
        self.root.join("in").to_str().unwrap().to_string()
    }

    fn journal(&self) -> Arc<LocalStore> {
        Arc::new(LocalStore::new(self.root.join("journal")))
    }

    fn put(&self, name: &str, text: &str, seconds: u64) -> PathBuf {
        let path = self.root.join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        path
    }

    async fn source(&self, options: &[(&str, &str)]) -> Result<FileSource> {
        let schema = schema(&[("id", DataType::Int32)]);
        FileSource::new(&self.spec("json", Some(schema), options)).await
    }

    fn spec(&self, format: &str, schema: Option<SchemaRef>, options: &[(&str, &str)]) -> SourceSpec {
        SourceSpec {
            format: format.to_string(),
            schema,
            path: Some(self.input()),
            options: options.iter().copied().collect(),
            clock: Arc::new(ManualClock::new(0)),
        }
    }

    /// Reads every file of the place, and returns the rows as JSON and the count of malformed ones.
    async fn rows(
        &self,
        format: &str,
        schema: Option<SchemaRef>,
        options: &[(&str, &str)],
        projection: Option<Vec<usize>>,
    ) -> Result<(Vec<String>, u64)> {
        let options: Options = options.iter().copied().collect();
        let files = list_files_with(&self.input(), &options).await?;
        let format = FileFormat::open(format, schema, &options, &files).await?;
        let malformed_rows = Arc::new(MalformedRows::default());
        let mut rows = Vec::new();
        for file in &files {
            let malformed_rows = Arc::clone(&malformed_rows);
            let context = ReadContext { projection: projection.clone(), batch_size: 2, filter: None, malformed_rows };
            let batches: Vec<RecordBatch> = format.read(file, context)?.try_collect().await?;
            assert!(batches.iter().all(|batch| batch.num_rows() <= 2));
            rows.extend(batches.iter().flat_map(json_rows));
        }
        Ok((rows, malformed_rows.get()))
    }
}

fn json_rows(batch: &RecordBatch) -> Vec<String> {
    let mut bytes = Vec::new();
    LineDelimitedWriter::new(&mut bytes).write(batch).unwrap();
    String::from_utf8(bytes).unwrap().lines().map(str::to_string).collect()
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), false);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn names(planned: &Planned) -> Vec<String> {
    let name = |split: &Split| {
        let path = split.description["path"].as_str().unwrap();
        Path::new(path).file_name().unwrap().to_str().unwrap().to_string()
    };
    planned.splits.iter().map(name).collect()
}

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

#[tokio::test]
async fn permissive_json_keeps_what_fits() {
    let place = Place::new();
    let lines = "{\"id\":1,\"at\":\"2013-01-01 06:00:00Z\",\"s\":1.5}\n\n{\"id\":\"x\",\"s\":{\"b\":1,\"a\":2}}\r\n\
                 {\"id\":2,\n{\"id\":2147483648,\"at\":\"never\"}\n{\"other\":[1,{}],\"id\":3}";
    place.put("a.json", lines, 1);
    let declared = schema(&[
        ("at", TIMESTAMP),
        ("id", DataType::Int32),
        ("s", DataType::Utf8),
        ("_corrupt_record", DataType::Utf8),
    ]);
    let (rows, malformed) = place.rows("json", Some(Arc::clone(&declared)), &[], None).await.unwrap();
    assert_eq!(
        rows,
        [
            r#"{"at":"2013-01-01T06:00:00","id":1,"s":"1.5"}"#,
            r#"{"s":"{\"b\":1,\"a\":2}","_corrupt_record":"{\"id\":\"x\",\"s\":{\"b\":1,\"a\":2}}"}"#,
            r#"{"_corrupt_record":"{\"id\":2,"}"#,
            r#"{"_corrupt_record":"{\"id\":2147483648,\"at\":\"never\"}"}"#,
            r#"{"id":3}"#,
        ]
    );
    assert_eq!(malformed, 3);

    let (rows, malformed) = place.rows("json", Some(declared), &[], Some(vec![2, 1])).await.unwrap();
    assert_eq!(rows[0], r#"{"s":"1.5","id":1}"#);
    assert_eq!((rows.len(), malformed), (5, 3));
}

#[tokio::test]
async fn other_modes_drop_or_fail() {
    let place = Place::new();
    place.put("a.json", "{\"id\":1}\n{\"id\":true}\n{\"id\":2}", 1);
    let declared = schema(&[("id", DataType::Int32)]);
    let (rows, malformed) =
        place.rows("json", Some(Arc::clone(&declared)), &[("mode", "dropMalformed")], None).await.unwrap();
    assert_eq!((rows.len(), malformed), (2, 1));
    let error = place.rows("json", Some(declared), &[("mode", "FAILFAST")], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.message().contains("a.json, line 2: field 'id' is declared Int32 but holds true"), "{error}");
}

#[tokio::test]
async fn nested_json_is_read() {
    let place = Place::new();
    place.put("a.json", "{\"a\":[{\"b\":1,\"c\":\"x\"},{\"c\":\"y\"}],\"m\":{\"k\":1.5}}\n{\"a\":[{\"b\":\"no\"}]}", 1);
    let item =
        DataType::Struct(vec![Field::new("b", DataType::Int64, false), Field::new("c", DataType::Utf8, false)].into());
    let pair = DataType::Struct(
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Float64, false)].into(),
    );
    let declared = schema(&[
        ("a", DataType::List(Arc::new(Field::new("item", item, false)))),
        ("m", DataType::Map(Arc::new(Field::new("entries", pair, false)), false)),
    ]);
    let (rows, malformed) = place.rows("json", Some(declared), &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"a":[{"b":1,"c":"x"},{"c":"y"}],"m":{"k":1.5}}"#, r#"{"a":[{}]}"#]);
    assert_eq!(malformed, 1);
}

#[tokio::test]
async fn csv_is_read_by_position() {
    let place = Place::new();
    place.put("a.csv", "\u{feff}x,y\n1,\"one, two\"\n,\n# note\n3\n4,d,e\n", 1);
    let declared = schema(&[("id", DataType::Int64), ("name", DataType::Utf8)]);
    let options = [("format.has_header", "true"), ("comment", "#")];
    let (rows, malformed) = place.rows("csv", Some(declared), &options, None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1,"name":"one, two"}"#, "{}", r#"{"id":3}"#, r#"{"id":4,"name":"d"}"#]);
    assert_eq!(malformed, 2);
    let (rows, _) = place.rows("csv", None, &[("header", "true")], None).await.unwrap();
    assert_eq!(rows[0], r#"{"x":"1","y":"one, two"}"#);
}

fn csv_schema() -> SchemaRef {
    schema(&[("id", DataType::Int64), ("name", DataType::Utf8)])
}

#[tokio::test]
async fn a_quoted_field_may_hold_line_breaks() {
    let place = Place::new();
    place.put("a.csv", "1,\"a\nb, \"\"c\"\"\r\n\n\"\n2,d\r\n\"x\",\"e\nf\"\n3,g\n", 1);
    let corrupt = schema(&[("id", DataType::Int64), ("name", DataType::Utf8), ("_corrupt_record", DataType::Utf8)]);
    let (rows, malformed) = place.rows("csv", Some(corrupt), &[], None).await.unwrap();
    assert_eq!(
        rows,
        [
            r#"{"id":1,"name":"a\nb, \"c\"\r\n\n"}"#,
            r#"{"id":2,"name":"d"}"#,
            r#"{"name":"e\nf","_corrupt_record":"\"x\",\"e\nf\""}"#,
            r#"{"id":3,"name":"g"}"#,
        ]
    );
    assert_eq!(malformed, 1);
    let error = place.rows("csv", Some(csv_schema()), &[("mode", "FAILFAST")], None).await.unwrap_err();
    assert!(error.message().contains("a.csv, line 6: "), "{error}");

    // Types are inferred from whole rows: the second line of a value is no first column.
    place.put("a.csv", "id,name\n1,\"a\nb\"\n2,c\n", 1);
    let options = [("header", "true"), ("inferSchema", "true")];
    let (rows, _) = place.rows("csv", None, &options, None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1,"name":"a\nb"}"#, r#"{"id":2,"name":"c"}"#]);
}

#[tokio::test]
async fn without_multi_line_a_row_is_a_line() {
    let place = Place::new();
    place.put("a.csv", "1,\"a\n2,b\"\n3,c\n", 1);
    let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[("multiLine", "false")], None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1,"name":"a"}"#, r#"{"id":2,"name":"b\""}"#, r#"{"id":3,"name":"c"}"#]);
    assert_eq!(malformed, 0);
    let (rows, _) = place.rows("csv", Some(csv_schema()), &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1,"name":"a\n2,b"}"#, r#"{"id":3,"name":"c"}"#]);
    let error = place.rows("csv", Some(csv_schema()), &[("multiLine", "no")], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
}

#[tokio::test]
async fn a_quote_that_never_ends_swallows_no_rows() {
    let place = Place::new();
    for rest in ["3,c\n4,d", "3,\"c\"\n4,d\n"] {
        place.put("a.csv", &format!("1,a\n2,\"b\n{rest}"), 1);
        let (rows, _) = place.rows("csv", Some(csv_schema()), &[], None).await.unwrap();
        let expected =
            ["a", "b", "c", "d"].iter().zip(1..).map(|(name, id)| format!("{{\"id\":{id},\"name\":\"{name}\"}}"));
        assert_eq!(rows, expected.collect::<Vec<_>>(), "{rest}");
    }
}

#[tokio::test]
async fn a_row_may_lie_across_the_pieces_of_a_file() {
    let place = Place::new();
    let row = "2,\"one\ntwo, \"\"three\"\"\r\nfour\"\n";
    for before_border in [1, 7, 8, 15, 17, 24, 29] {
        let first_bytes = usize::try_from(PIECE_BYTES).unwrap() - before_border;
        let first = format!("1,{}\n", "x".repeat(first_bytes - 3));
        place.put("a.csv", &format!("{first}{row}3,five\n"), 1);
        let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[], None).await.unwrap();
        let expected = [r#"{"id":2,"name":"one\ntwo, \"three\"\r\nfour"}"#, r#"{"id":3,"name":"five"}"#];
        assert_eq!((&rows[1..], malformed), (&expected.map(str::to_string)[..], 0), "{before_border}");
    }
}

#[tokio::test]
async fn blank_lines_are_rows_where_nulls_look_so() {
    let place = Place::new();
    let name = || Some(schema(&[("name", DataType::Utf8)]));
    place.put("a.csv", "\nname\na\n\n\"\"\n  \n\nb\n", 1);
    let (rows, malformed) = place.rows("csv", name(), &[("header", "true")], None).await.unwrap();
    assert_eq!(rows, [r#"{"name":"a"}"#, "{}", r#"{"name":""}"#, "{}", r#"{"name":"b"}"#]);
    assert_eq!(malformed, 0);
    let options = [("header", "true"), ("nullValue", "none")];
    let (rows, _) = place.rows("csv", name(), &options, None).await.unwrap();
    assert_eq!(rows, [r#"{"name":"a"}"#, r#"{"name":""}"#, r#"{"name":"b"}"#]);
    place.put("a.csv", "1\ta\n\n\t\n \n2\tb\n", 1);
    let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[("sep", "\\t")], None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1,"name":"a"}"#, "{}", r#"{"id":2,"name":"b"}"#]);
    assert_eq!(malformed, 0);
}

#[tokio::test]
async fn in_quotes_the_word_for_null_is_a_text() {
    let place = Place::new();
    place.put("a.csv", "1,none\n2,\"none\"\n\"none\",a\nnone,\"\"\n,\n", 1);
    let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[("nullValue", "none")], None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1}"#, r#"{"id":2,"name":"none"}"#, r#"{"name":"a"}"#, r#"{"name":""}"#, "{}"]);
    assert_eq!(malformed, 0);
    place.put("a.csv", "1,\n\"1\",\"\"\n\"\",\"\"\n", 1);
    let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[("nullValue", "1")], None).await.unwrap();
    // A number in quotes is itself, as the sink writes one that looks like NULL.
    assert_eq!(rows[..2], ["{}", r#"{"id":1,"name":""}"#]);
    assert_eq!((rows.len(), malformed), (3, 1));
    let (rows, malformed) = place.rows("csv", Some(csv_schema()), &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"id":1}"#, r#"{"id":1,"name":""}"#, r#"{"name":""}"#]);
    assert_eq!(malformed, 0);
}

#[tokio::test]
async fn folders_give_columns() {
    let place = Place::new();
    place.put("origin=EWR/day=3/a.json", "{\"n\":1}", 1);
    place.put("origin=__HIVE_DEFAULT_PARTITION__/day=4/a.json", "{\"n\":2}", 2);
    let (rows, _) = place.rows("json", None, &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"n":1,"origin":"EWR","day":3}"#, r#"{"n":2,"day":4}"#]);
    let declared = schema(&[("day", DataType::Utf8), ("n", DataType::Int64)]);
    let (rows, _) = place.rows("json", Some(declared), &[], None).await.unwrap();
    assert_eq!(rows[0], r#"{"day":"3","n":1}"#);
    let wrong = schema(&[("origin", DataType::Int32)]);
    let error = place.rows("json", Some(wrong), &[], None).await.unwrap_err();
    assert!(error.message().contains("origin=EWR"), "{error}");
}

#[tokio::test]
async fn parquet_is_cast_and_lacking_columns_are_null() {
    let place = Place::new();
    let written = schema(&[("n", DataType::Int64), ("s", DataType::Utf8)]);
    let columns: Vec<datafusion::arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["a", "b", "c"]))];
    let batch = RecordBatch::try_new(Arc::clone(&written), columns).unwrap();
    let file = std::fs::File::create(place.root.join("in/a.parquet")).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, written, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let declared = schema(&[("s", DataType::Utf8), ("lacking", DataType::Float64), ("n", DataType::Int32)]);
    let (rows, _) = place.rows("parquet", Some(Arc::clone(&declared)), &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"s":"a","n":1}"#, r#"{"s":"b","n":2}"#, r#"{"s":"c","n":3}"#]);
    let (rows, _) = place.rows("parquet", Some(declared), &[], Some(vec![])).await.unwrap();
    assert_eq!(rows.len(), 3);
    let wrong = schema(&[("s", DataType::Int32)]);
    let error = place.rows("parquet", Some(wrong), &[], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.message().contains("a.parquet: column 's' is Utf8"), "{error}");
}

#[tokio::test]
async fn parquet_leaves_out_row_groups_that_nobody_wants() {
    let place = Place::new();
    let written = schema(&[("n", DataType::Int64), ("m", DataType::Int64)]);
    let file = std::fs::File::create(place.root.join("in/a.parquet")).unwrap();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(file, Arc::clone(&written), None).unwrap();
    for first in [1, 3] {
        let numbers: datafusion::arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![first, first + 1]));
        writer
            .write(&RecordBatch::try_new(Arc::clone(&written), vec![Arc::clone(&numbers), numbers]).unwrap())
            .unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();

    // The file's m is of another type than the declared one, so what it says of its values is not looked at.
    let declared = schema(&[("m", DataType::Int32), ("n", DataType::Int64)]);
    let files = list_files_with(&place.input(), &Options::default()).await.unwrap();
    let format = FileFormat::open("parquet", Some(Arc::clone(&declared)), &Options::default(), &files).await.unwrap();
    let (two, none, many) = (ScalarValue::from(2_i64), ScalarValue::from(0_i64), ScalarValue::from(9_i64));
    for (name, limit, rows) in [("n", two, 2), ("n", none, 4), ("n", many, 0), ("m", ScalarValue::from(2_i32), 4)] {
        let column = col(name, &declared).unwrap();
        let filter = Some(binary(column, Operator::Gt, lit(limit), &declared).unwrap());
        let context = ReadContext { projection: Some(vec![1]), filter, batch_size: 8, malformed_rows: Arc::default() };
        let batches: Vec<RecordBatch> = format.read(&files[0], context).unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{name}");
    }
}

#[tokio::test]
async fn text_keeps_every_line() {
    let place = Place::new();
    place.put("a.txt", "one\n\ntwo\n", 1);
    let (rows, _) = place.rows("text", None, &[], None).await.unwrap();
    assert_eq!(rows, [r#"{"value":"one"}"#, r#"{"value":""}"#, r#"{"value":"two"}"#]);
    let (rows, _) = place.rows("text", None, &[("wholetext", "true")], None).await.unwrap();
    assert_eq!(rows, [r#"{"value":"one\n\ntwo\n"}"#]);
}

#[tokio::test]
async fn a_file_is_read_once_whatever_restarts() {
    let place = Place::new();
    let mut history: Vec<Offset> = Vec::new();
    for batch in 0..25_u64 {
        place.put(&format!("{batch:02}.json"), "{\"id\":1}", 100 + batch);
        if batch % 4 == 0 {
            place.put(&format!("{batch:02}b.json"), "{\"id\":2}", 100 + batch);
        }
        // a new run for every batch, that sees only the last twelve offsets
        let source = place.source(&[]).await.unwrap();
        let retained = history[history.len().saturating_sub(12)..].to_vec();
        source.open(SourceContext { journal: place.journal(), history: retained }).await.unwrap();
        let planned = source.plan(history.last(), ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(names(&planned).len(), if batch % 4 == 0 { 2 } else { 1 }, "batch {batch}");
        assert_eq!(planned.end["log_offset"], batch);
        assert_eq!(planned.end.get("seen").is_some(), batch % 10 == 9);
        let again = source.plan(history.last(), ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(again, planned);
        history.push(planned.end);
        assert_eq!(source.plan(history.last(), ReadLimit::Options).await.unwrap(), None);
    }
    let source = place.source(&[]).await.unwrap();
    let gap = SourceContext { journal: place.journal(), history: history[11..14].to_vec() };
    assert_eq!(source.open(gap).await.unwrap_err().kind(), ErrorKind::CheckpointCorrupt);
}

#[tokio::test]
async fn a_source_that_stands_still_remembers() {
    let place = Place::new();
    let source = place.source(&[]).await.unwrap();
    source.open(SourceContext { journal: place.journal(), history: vec![] }).await.unwrap();
    let mut last = None;
    for batch in 0..3 {
        place.put(&format!("{batch}.json"), "{\"id\":1}", 100 + batch);
        last = source.plan(last.as_ref(), ReadLimit::Options).await.unwrap().map(|planned| planned.end);
    }
    for _ in 0..PLANS_A_LIST {
        assert_eq!(source.plan(last.as_ref(), ReadLimit::Options).await.unwrap(), None);
    }
    let restarted = place.source(&[]).await.unwrap();
    let history = vec![last.clone().unwrap(); 3];
    restarted.open(SourceContext { journal: place.journal(), history }).await.unwrap();
    assert_eq!(restarted.plan(last.as_ref(), ReadLimit::Options).await.unwrap(), None);
}

#[tokio::test]
async fn limits_and_orders_are_kept() {
    let place = Place::new();
    place.put("c.json", "{\"id\":1}", 10);
    place.put("a.json", "{\"id\":1}", 20);
    place.put("b.json", "{\"id\":1}", 30);
    for (options, expected) in [
        (&[("maxFilesPerTrigger", "2")][..], &["c.json", "a.json"][..]),
        (&[("maxBytesPerTrigger", "3")][..], &["c.json"][..]),
        (&[("maxBytesPerTrigger", "16")][..], &["c.json", "a.json"][..]),
        (&[("orderBy", "path")][..], &["a.json", "b.json", "c.json"][..]),
        (&[("latestFirst", "true"), ("maxFilesPerTrigger", "1")][..], &["b.json"][..]),
    ] {
        let source = place.source(options).await.unwrap();
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(names(&planned), expected, "{options:?}");
        let all = source.plan(None, ReadLimit::All).await.unwrap().unwrap();
        assert_eq!(all.splits.len(), 3);
    }
    let both = [("maxFilesPerTrigger", "1"), ("maxBytesPerTrigger", "1")];
    assert_eq!(place.source(&both).await.unwrap_err().kind(), ErrorKind::InvalidOption);
    let unknown = place.source(&[("maxFilePerTrigger", "1")]).await.unwrap_err();
    assert!(unknown.message().contains("did you mean 'maxFilesPerTrigger'"), "{unknown}");
}

#[tokio::test]
async fn a_fixed_end_is_never_passed() {
    let place = Place::new();
    place.put("a.json", "{\"id\":1}", 10);
    let source = place.source(&[]).await.unwrap();
    source.fix_end().await.unwrap();
    place.put("b.json", "{\"id\":1}", 20);
    let planned = source.plan(None, ReadLimit::All).await.unwrap().unwrap();
    assert_eq!(names(&planned), ["a.json"]);
    assert_eq!(source.plan(Some(&planned.end), ReadLimit::All).await.unwrap(), None);
}

#[tokio::test]
async fn a_batch_runs_again_only_as_it_was() {
    let place = Place::new();
    let path = place.put("a.json", "{\"id\":1}", 10);
    let source = place.source(&[]).await.unwrap();
    let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
    assert_eq!(source.replay(None, &planned.end).await.unwrap(), planned.splits);
    assert!(source.replay(Some(&planned.end), &planned.end).await.unwrap().is_empty());
    std::fs::write(&path, "{\"id\":100}").unwrap();
    assert_eq!(source.replay(None, &planned.end).await.unwrap_err().kind(), ErrorKind::DataInvalid);
    std::fs::remove_file(&path).unwrap();
    let error = source.replay(None, &planned.end).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("a.json"), "{error}");
}

#[tokio::test]
async fn decided_files_are_archived_under_their_path() {
    let place = Place::new();
    let path = place.put("a.json", "{\"id\":1}", 10);
    let archive = place.root.join("old");
    let options = [("cleanSource", "archive"), ("sourceArchiveDir", archive.to_str().unwrap())];
    let source = place.source(&options).await.unwrap();
    let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
    source.commit(&planned.end).await.unwrap();
    assert!(!path.exists());
    assert!(archive.join(path.strip_prefix("/").unwrap()).exists());
}
