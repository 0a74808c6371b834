//! Values become rows, whatever their format; one that does not decode meets the mode, and never stops a stream unasked.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use millstream::query::progress::SourceProgress;
use serde_json::{Value, json};

use super::cluster::{Mocks, Sent, ask, failure, rows, table};
use crate::case::Outcome;

const ALL: &str = "SELECT * FROM STREAM t";

/// Reads values of a format as columns.
async fn read(values: &[&[u8]], columns: &str, options: &[(&str, &str)]) -> Outcome {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.send("t", &values.iter().map(|value| Sent::to(0, *value)).collect::<Vec<_>>());
    let options = [&[("subscribe", "t"), ("startingOffsets", "earliest")], options].concat();
    ask(&table("t", columns, &mocks.servers, &options), ALL, "").await
}

fn malformed(outcome: &Outcome) -> u64 {
    let sources = outcome.reports.iter().flat_map(|report| &report.sources);
    sources.filter_map(|source| source.metrics.get(SourceProgress::MALFORMED_ROWS)?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_follows_the_mode() {
    let values: [&[u8]; 4] = [br#"{"a":1,"b":"x"}"#, b"oops", br#"{"a":"no number","b":"y"}"#, b"\xff\xfe"];
    let columns = "(a BIGINT, b STRING, _offset BIGINT, _corrupt_record STRING)";
    let row = |a: Value, b: Value, offset: i64, corrupt: Value| json!({"a": a, "b": b, "_offset": offset, "_corrupt_record": corrupt});
    let null = Value::Null;
    let outcome = read(&values, columns, &[("format", "json")]).await;
    assert_eq!(
        rows(&outcome),
        [
            row(1.into(), "x".into(), 0, null.clone()),
            row(null.clone(), null.clone(), 1, "oops".into()),
            row(null.clone(), "y".into(), 2, r#"{"a":"no number","b":"y"}"#.into()),
            row(null.clone(), null.clone(), 3, "\u{fffd}\u{fffd}".into()),
        ]
    );
    assert_eq!(malformed(&outcome), 3);
    let dropped = read(&values, columns, &[("format", "json"), ("mode", "DROPMALFORMED")]).await;
    assert_eq!(rows(&dropped), [row(1.into(), "x".into(), 0, null)]);
    assert_eq!(malformed(&dropped), 3);
    let error = failure(&read(&values, columns, &[("format", "json"), ("mode", "FAILFAST")]).await);
    assert!(error.contains("topic 't', partition 0, offset 1: not a JSON object"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_and_raw_values_are_rows() {
    let outcome =
        read(&[b"1;x\n", b"2;y;z"], "(a INT, b STRING, _key STRING)", &[("format", "csv"), ("sep", ";")]).await;
    assert_eq!(rows(&outcome)[0], json!({"a": 1, "b": "x", "_key": null}));
    assert_eq!((rows(&outcome).len(), malformed(&outcome)), (2, 1));
    let header = read(&[b"1;x"], "(a INT, b STRING)", &[("format", "csv"), ("format.has_header", "true")]).await;
    assert!(failure(&header).contains("has no option 'format.has_header'"), "a message is no file");
    let columns = "(line STRING, _partition INT, _corrupt_record STRING)";
    let outcome = read(&[b"plain"], columns, &[("format", "raw")]).await;
    assert_eq!(rows(&outcome), [json!({"line": "plain", "_partition": 0, "_corrupt_record": null})]);
    let error = failure(&read(&[b"plain"], "(line STRING, more INT)", &[("format", "raw")]).await);
    assert!(error.contains("one column"), "{error}");
    let error = failure(&read(&[b"{}"], "(a INT, _offset STRING)", &[("format", "json")]).await);
    assert!(error.contains("'_offset' is a part of the message"), "{error}");
}

const PAYMENT: &str = r#"{"type":"record","name":"Payment","fields":[
    {"name":"card","type":"string"},{"name":"amount","type":["null","double"],"default":null},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;

const COLUMNS: &str = "(card STRING, amount DOUBLE, at TIMESTAMP, _corrupt_record STRING)";

/// A payment as Avro writes it: the card's length and letters, which branch, the amount, the time as a zigzag varint.
fn payment(card: &str, amount: Option<f64>, at_ms: i64) -> Vec<u8> {
    let mut bytes = vec![(card.len() * 2) as u8];
    bytes.extend(card.as_bytes());
    match amount {
        Some(amount) => {
            bytes.push(2);
            bytes.extend(amount.to_le_bytes());
        }
        None => bytes.push(0),
    }
    let mut zigzag = (at_ms << 1) as u64;
    while zigzag >= 0x80 {
        bytes.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_of_a_given_schema_is_read() {
    let (one, two) = (payment("c1", Some(2.5), 1_000), payment("c2", None, 2_000));
    let cut = &one[..4];
    let options = [("format", "avro"), ("avroSchema", PAYMENT)];
    let outcome = read(&[&one, cut, &two], COLUMNS, &options).await;
    let good = |card: &str, amount: Value, at: &str| json!({"card": card, "amount": amount, "at": at, "_corrupt_record": null});
    let have = rows(&outcome);
    assert_eq!(have[0], good("c1", 2.5.into(), "1970-01-01T00:00:01"));
    assert_eq!(have[1], json!({"card": null, "amount": null, "at": null, "_corrupt_record": "04633102"}));
    assert_eq!(have[2], good("c2", Value::Null, "1970-01-01T00:00:02"));
    assert_eq!(malformed(&outcome), 1);
    let dropped = read(&[&one, cut, &two], COLUMNS, &[&options[..], &[("mode", "DROPMALFORMED")]].concat()).await;
    assert_eq!((rows(&dropped).len(), malformed(&dropped)), (2, 1));
    let error = failure(&read(&[&one, cut], COLUMNS, &[&options[..], &[("mode", "FAILFAST")]].concat()).await);
    assert!(error.contains("topic 't', partition 0, offset 1"), "{error}");
    let error = failure(&read(&[], COLUMNS, &[("format", "avro"), ("avroSchema", "{")]).await);
    assert!(error.contains("avroSchema") || error.contains("JSON"), "{error}");
    let error = failure(&read(&[], COLUMNS, &[("format", "avro")]).await);
    assert!(error.contains("schemaRegistryUrl"), "{error}");
}

/// Answers HTTP requests for schemas, each on a connection of its own, until it is dropped with its thread.
fn registry(schemas: Vec<(u32, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &schemas);
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, schemas: &[(u32, String)]) {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => request.extend_from_slice(&piece[..bytes]),
        }
    }
    let request = String::from_utf8(request).unwrap();
    let found = schemas.iter().find(|(id, _)| request.starts_with(&format!("GET /schemas/ids/{id} ")));
    let (status, body) = match found {
        Some((_, schema)) => ("200 OK", json!({"schema": schema})),
        None => ("404 Not Found", json!({"error_code": 40403, "message": "Schema not found"})),
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_of_a_registry_is_read_with_the_schema_it_was_written_with() {
    // The second schema has the columns in another order, one more, and one less.
    let newer = r#"{"type":"record","name":"Payment","fields":[
        {"name":"place","type":"string"},{"name":"card","type":"string"}]}"#;
    let url = registry(vec![(1, PAYMENT.to_string()), (7, newer.to_string())]);
    let framed = |id: u8, datum: &[u8]| [&[0, 0, 0, 0, id][..], datum].concat();
    let values =
        [framed(1, &payment("c1", Some(1.0), 0)), framed(7, b"\x04UK\x04c2"), framed(9, b"\x00"), b"{}".to_vec()];
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let outcome = read(&values, COLUMNS, &[("format", "avro"), ("schemaRegistryUrl", &url)]).await;
    let cards: Vec<Value> = rows(&outcome).iter().map(|row| row["card"].clone()).collect();
    assert_eq!(cards, ["c1".into(), "c2".into(), Value::Null, Value::Null]);
    assert_eq!(rows(&outcome)[1], json!({"card": "c2", "amount": null, "at": null, "_corrupt_record": null}));
    assert_eq!(malformed(&outcome), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://user:hunter2@{closed}");
    let framed = [&[0, 0, 0, 0, 1][..], &payment("c1", None, 0)].concat();
    let options = [
        ("format", "avro"),
        ("schemaRegistryUrl", url.as_str()),
        ("schemaRegistryAuth", "user:hunter3"),
        ("kafka.default.api.timeout.ms", "1500"),
    ];
    let error = failure(&read(&[&framed], COLUMNS, &options).await);
    assert!(error.contains(&closed.to_string()) && !error.contains("hunter"), "{error}");
}
