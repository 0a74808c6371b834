//! Values that were made by hand, through the decoder: every type, evolution of schemas, and bad ones among good ones.

use std::time::Duration;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{Date32Type, Decimal128Type, TimeUnit, TimestampMicrosecondType};
use datafusion::arrow::util::display::array_value_to_string;

use super::samples::{FakeRegistry, framed, long, text};
use super::*;

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

fn fields(declared: &[(&str, DataType)]) -> Fields {
    declared.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
}

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"r","fields":[{fields}]}}"#)
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

fn structure(declared: &[(&str, DataType)]) -> DataType {
    DataType::Struct(fields(declared))
}

fn map(value: DataType) -> DataType {
    let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair.into()), false)), false)
}

fn given(schema: &str, declared: &[(&str, DataType)]) -> AvroDecoder {
    AvroDecoder::new(WriterSchema::Given(schema.to_string()), fields(declared), 100).unwrap()
}

fn asking(server: &FakeRegistry, declared: &[(&str, DataType)]) -> AvroDecoder {
    let registry = SchemaRegistry::new(&server.url, None, Duration::from_secs(20)).unwrap();
    AvroDecoder::new(WriterSchema::Registry(Arc::new(registry)), fields(declared), 100).unwrap()
}

fn decode(decoder: &mut AvroDecoder, values: &[Vec<u8>]) -> Decoded {
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_slice())).collect();
    decoder.decode(&values).unwrap()
}

/// The values of a column as text; NULL is `NULL`.
fn shown(column: &ArrayRef) -> Vec<String> {
    let value = |row| match column.is_null(row) {
        true => "NULL".to_string(),
        false => array_value_to_string(column, row).unwrap(),
    };
    (0..column.len()).map(value).collect()
}

fn rows_of(bad: &[(usize, String)]) -> Vec<usize> {
    bad.iter().map(|(row, _)| *row).collect()
}

#[test]
fn every_simple_type_is_read() {
    let schema = record(
        r#"{"name":"b","type":"boolean"},{"name":"i","type":"int"},{"name":"l","type":"long"},
           {"name":"f","type":"float"},{"name":"d","type":"double"},{"name":"s","type":"string"},
           {"name":"y","type":"bytes"},{"name":"x","type":{"type":"fixed","name":"two","size":2}},
           {"name":"e","type":{"type":"enum","name":"suit","symbols":["SPADES","HEARTS"]}},
           {"name":"u","type":{"type":"string","logicalType":"uuid"}},
           {"name":"day","type":{"type":"int","logicalType":"date"}},
           {"name":"millis","type":{"type":"long","logicalType":"timestamp-millis"}},
           {"name":"micros","type":{"type":"long","logicalType":"timestamp-micros"}},
           {"name":"nanos","type":{"type":"long","logicalType":"timestamp-nanos"}},
           {"name":"local","type":{"type":"long","logicalType":"local-timestamp-millis"}},
           {"name":"dec","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
           {"name":"fix","type":{"type":"fixed","name":"five","size":5,"logicalType":"decimal","precision":10,
             "scale":2}},
           {"name":"clock","type":{"type":"int","logicalType":"time-millis"}}"#,
    );
    let datum = [
        vec![1],
        long(-7),
        long(i64::MIN),
        1.5_f32.to_le_bytes().to_vec(),
        (-2.25_f64).to_le_bytes().to_vec(),
        text("naïve"),
        text([0_u8, 0xff]),
        b"ab".to_vec(),
        long(1),
        text("0b9c0fc5-3f43-4b43-8d4c-8f1a5f8f6f10"),
        long(-1),
        long(1_500),
        long(-1),
        long(1_999),
        long(-2),
        text([0xff_u8, 0x38]),
        vec![0, 0, 0, 0x30, 0x39],
        long(61_000),
    ]
    .concat();
    let decimal = DataType::Decimal128(10, 2);
    let declared = [
        ("b", DataType::Boolean),
        ("i", DataType::Int32),
        ("l", DataType::Int64),
        ("f", DataType::Float32),
        ("d", DataType::Float64),
        ("s", DataType::Utf8),
        ("y", DataType::Binary),
        ("x", DataType::Binary),
        ("e", DataType::Utf8),
        ("u", DataType::Utf8),
        ("day", DataType::Date32),
        ("millis", TIMESTAMP),
        ("micros", TIMESTAMP),
        ("nanos", TIMESTAMP),
        ("local", TIMESTAMP),
        ("dec", decimal.clone()),
        ("fix", decimal),
        ("clock", DataType::Int32),
    ];
    let decoded = decode(&mut given(&schema, &declared), &[datum.clone(), datum]);
    assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
    let columns = &decoded.columns;
    for (column, (name, data_type)) in columns.iter().zip(&declared) {
        assert_eq!((column.data_type(), column.len()), (data_type, 2), "{name}");
    }
    let first: Vec<String> = columns[..10].iter().map(|column| shown(column)[1].clone()).collect();
    let uuid = "0b9c0fc5-3f43-4b43-8d4c-8f1a5f8f6f10";
    let smallest = "-9223372036854775808";
    assert_eq!(first, ["true", "-7", smallest, "1.5", "-2.25", "naïve", "00ff", "6162", "HEARTS", uuid]);
    assert_eq!(columns[10].as_primitive::<Date32Type>().value(1), -1);
    let micros: Vec<i64> =
        columns[11..15].iter().map(|column| column.as_primitive::<TimestampMicrosecondType>().value(1)).collect();
    assert_eq!(micros, [1_500_000, -1, 1, -2_000]);
    let unscaled: Vec<i128> =
        columns[15..17].iter().map(|column| column.as_primitive::<Decimal128Type>().value(1)).collect();
    assert_eq!(unscaled, [-200, 12_345]);
    assert_eq!(shown(&columns[17]), ["61000", "61000"]);
}

#[test]
fn nested_values_and_nulls_are_read() {
    let schema = record(
        r#"{"name":"first","type":["null","string"]},{"name":"second","type":["int","null"]},
           {"name":"list","type":{"type":"array","items":["null","long"]}},
           {"name":"map","type":["null",{"type":"map","values":"int"}]},
           {"name":"inner","type":["null",{"type":"record","name":"in","fields":[{"name":"A","type":"int"},
             {"name":"when","type":{"type":"long","logicalType":"timestamp-millis"}},
             {"name":"kind","type":{"type":"enum","name":"k","symbols":["X"]}}]}]},
           {"name":"again","type":["null","in"]}"#,
    );
    let inner = || [long(1), long(5), long(1_000), long(0)].concat();
    let values = [
        [
            [long(1), text("x")].concat(),
            [long(0), long(9)].concat(),
            [long(2), long(1), long(10), long(0), long(0)].concat(),
            // a block with its size in bytes, as some writers write it
            [long(1), long(-1), long(3), text("k"), long(7), long(0)].concat(),
            inner(),
            long(0),
        ]
        .concat(),
        [long(0), long(1), long(0), long(0), long(0), inner()].concat(),
    ];
    let narrow = structure(&[("when", TIMESTAMP), ("a", DataType::Int64), ("none", DataType::Utf8)]);
    let declared = [
        ("first", DataType::Utf8),
        ("second", DataType::Int32),
        ("list", list(DataType::Int64)),
        ("map", map(DataType::Int64)),
        ("inner", narrow),
        ("again", structure(&[("kind", DataType::Utf8)])),
    ];
    let decoded = decode(&mut given(&schema, &declared), &values);
    assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
    let expected = [
        ["x", "NULL"],
        ["9", "NULL"],
        ["[10, ]", "[]"],
        ["{k: 7}", "NULL"],
        ["{when: 1970-01-01T00:00:01, a: 5, none: }", "NULL"],
        ["NULL", "{kind: X}"],
    ];
    for ((column, expected), (name, data_type)) in decoded.columns.iter().zip(expected).zip(&declared) {
        assert_eq!(shown(column), expected, "{name}");
        assert_eq!(column.data_type(), data_type, "{name}");
    }
}

#[test]
fn unions_of_several_types_are_read() {
    let schema = record(r#"{"name":"u","type":["null","int","string"]},{"name":"one","type":["long"]}"#);
    let values = [
        [long(1), long(7), long(0), long(1)].concat(),
        [long(0), long(0), long(2)].concat(),
        [long(2), text("x"), long(0), long(3)].concat(),
    ];
    let decoded = decode(&mut given(&schema, &[("u", DataType::Utf8), ("one", DataType::Int64)]), &values);
    assert_eq!(shown(&decoded.columns[0]), ["7", "NULL", "x"]);
    assert_eq!(shown(&decoded.columns[1]), ["1", "2", "3"]);
    let members = structure(&[("member0", DataType::Int32), ("member1", DataType::Utf8)]);
    let decoded = decode(&mut given(&schema, &[("u", members.clone())]), &values);
    assert_eq!(shown(&decoded.columns[0]), ["{member0: 7, member1: }", "NULL", "{member0: , member1: x}"]);
    assert_eq!(value_type(r#"["null","int","string"]"#).unwrap(), members);
    assert_eq!(value_type(r#"["int","long"]"#).unwrap(), DataType::Int64);
}

#[test]
fn columns_are_found_by_name_and_cast() {
    let schema = record(r#"{"name":"ID","type":"int"},{"name":"id","type":"string"},{"name":"Size","type":"string"}"#);
    let value = |size: &str| [long(1), text("one"), text(size)].concat();
    let declared = [("size", DataType::Int64), ("id", DataType::Utf8), ("Id", DataType::Int64), ("gone", TIMESTAMP)];
    let values = [value("10"), value("ten"), value("12")];
    let decoded = decode(&mut given(&schema, &declared), &values);
    assert_eq!(shown(&decoded.columns[0]), ["10", "NULL", "12"]);
    assert_eq!(shown(&decoded.columns[1]), ["one", "one", "one"]);
    assert_eq!(shown(&decoded.columns[2]), ["1", "1", "1"]);
    assert_eq!(shown(&decoded.columns[3]), ["NULL", "NULL", "NULL"]);
    assert_eq!(decoded.bad, [(1, "column 'size': 'ten' is no Int64".to_string())]);
    let none = decode(&mut given(&schema, &[]), &[value("1"), vec![9]]);
    assert_eq!((none.columns.len(), rows_of(&none.bad)), (0, vec![1]));
}

#[test]
fn null_values_are_null_rows_and_no_bad_ones() {
    let schema = record(r#"{"name":"a","type":"long"}"#);
    let mut decoder = given(&schema, &[("a", DataType::Int64)]);
    let (one, two) = (long(1), long(2));
    let decoded = decoder.decode(&[None, Some(one.as_slice()), None, Some(two.as_slice())]).unwrap();
    assert_eq!(shown(&decoded.columns[0]), ["NULL", "1", "NULL", "2"]);
    assert!(decoded.bad.is_empty());
    let decoded = decoder.decode(&[None, None]).unwrap();
    assert_eq!(shown(&decoded.columns[0]), ["NULL", "NULL"]);
    assert_eq!(decoder.decode(&[]).unwrap().columns[0].len(), 0);
}

const FIRST: &str = r#"{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"s","type":"string"}]}"#;
const SECOND: &str = r#"{"type":"record","name":"r","fields":[{"name":"s","type":["null","string"]},
    {"name":"extra","type":"double"},{"name":"a","type":"long"}]}"#;

fn first(a: i64, s: &str) -> Vec<u8> {
    framed(1, &[long(a), text(s)].concat())
}

fn second(a: i64, s: &str) -> Vec<u8> {
    framed(2, &[long(1), text(s), 0.5_f64.to_le_bytes().to_vec(), long(a)].concat())
}

#[test]
fn schemas_that_change_within_a_batch_keep_rows_in_order() {
    let server = FakeRegistry::of(vec![(1, FIRST), (2, SECOND)]);
    let declared = [("a", DataType::Int64), ("s", DataType::Utf8), ("extra", DataType::Float64)];
    let mut decoder = asking(&server, &declared);
    let values: Vec<Vec<u8>> = (0..300)
        .map(|number| match number % 3 {
            0 => first(number, &format!("s{number}")),
            _ => second(number, &format!("s{number}")),
        })
        .collect();
    let decoded = decode(&mut decoder, &values);
    assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
    assert_eq!(shown(&decoded.columns[0]), (0..300).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(shown(&decoded.columns[1]), (0..300).map(|number| format!("s{number}")).collect::<Vec<_>>());
    assert_eq!(shown(&decoded.columns[2])[..3], ["NULL", "0.5", "0.5"]);
    decode(&mut decoder, &values);
    assert_eq!(server.asked(), 2, "each schema is asked for once");
}

#[test]
fn bad_values_of_all_kinds_cost_their_own_rows_alone() {
    let text_only = r#""string""#;
    let other = r#"{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"array","items":"int"}}]}"#;
    let server = FakeRegistry::of(vec![(1, FIRST), (2, SECOND), (3, text_only), (4, other)]);
    let mut decoder = asking(&server, &[("a", DataType::Int64), ("s", DataType::Utf8)]);
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (first(7, "cut off")[..8].to_vec(), "it ends too early"),
        ([second(7, "x"), vec![0, 0, 0, 0, 2, 0]].concat(), "bytes behind its end"),
        (br#"{"a":7}"#.to_vec(), "its first byte is 0x7b"),
        (vec![0, 0, 0], "it ends within the header"),
        (Vec::new(), "it ends within the header"),
        (framed(9, &long(7)), "the schema registry knows no schema 9"),
        (framed(1, &[0xff; 12]), "bad varint"),
        (framed(1, &[]), "it is empty"),
        (framed(1, &[long(7), text([0xff_u8])].concat()), ""),
        (framed(3, &text("x")), "schema 3 cannot be used: it is of type 'string'"),
        (framed(4, &long(0)), "schema 4 cannot be used: column 'a': "),
    ];
    let mut values = Vec::new();
    for (number, (value, _)) in bad.iter().enumerate() {
        values.extend([first(number as i64, "f"), value.clone(), second(number as i64, "s")]);
    }
    for _ in 0..2 {
        let decoded = decode(&mut decoder, &values);
        assert_eq!(rows_of(&decoded.bad), (0..bad.len()).map(|number| 3 * number + 1).collect::<Vec<_>>());
        for ((row, reason), (_, expected)) in decoded.bad.iter().zip(&bad) {
            assert!(reason.contains(expected), "row {row}: {reason}");
        }
        let (a, s) = (shown(&decoded.columns[0]), shown(&decoded.columns[1]));
        for number in 0..bad.len() {
            let number_text = number.to_string();
            let rows = 3 * number..3 * number + 3;
            assert_eq!(a[rows.clone()], [number_text.as_str(), "NULL", number_text.as_str()]);
            assert_eq!(s[rows], ["f", "NULL", "s"]);
        }
    }
    assert_eq!(server.asked(), 4 + 2, "that there is no schema 9 is asked in each batch");
}

#[test]
fn symbols_that_an_enum_does_not_have_are_bad() {
    let schema = record(r#"{"name":"e","type":{"type":"enum","name":"k","symbols":["X","Y"]}}"#);
    let values = [long(1), long(2), long(-1), long(0)];
    let decoded = decode(&mut given(&schema, &[("e", DataType::Utf8)]), &values);
    assert_eq!(shown(&decoded.columns[0]), ["Y", "NULL", "NULL", "X"]);
    assert_eq!(rows_of(&decoded.bad), [1, 2]);
}

#[test]
fn a_registry_that_is_down_ends_the_batch() {
    let server = FakeRegistry::start(|_, _| (500, String::new()));
    let registry = SchemaRegistry::new(&server.url, None, Duration::from_millis(50)).unwrap();
    let writer = WriterSchema::Registry(Arc::new(registry));
    let mut decoder = AvroDecoder::new(writer, fields(&[("a", DataType::Int64)]), 10).unwrap();
    let value = first(1, "x");
    let error = decoder.decode(&[Some(value.as_slice())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(decoder.decode(&[None]).unwrap().bad.is_empty(), "nothing is asked for what is NULL");
}

#[test]
fn a_schema_that_does_not_do_is_refused_at_once() {
    let array = record(r#"{"name":"a","type":{"type":"array","items":"int"}}"#);
    let table = [
        ("{", "the Avro schema cannot be used: it is not JSON"),
        (r#""string""#, "it is of type 'string'"),
        (array.as_str(), "column 'a': List("),
    ];
    for (schema, expected) in table {
        let fields = fields(&[("a", DataType::Int64)]);
        let error = AvroDecoder::new(WriterSchema::Given(schema.to_string()), fields, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{schema}");
        assert!(error.message().contains(expected), "{schema}: {error}");
    }
}

#[test]
fn a_decoder_can_go_to_another_thread() {
    fn sent<T: Send>() {}
    sent::<AvroDecoder>();
    sent::<WriterSchema>();
}
