//! Debezium's envelopes become rows, and what was done to them a column.

use serde_json::{Value, json};

use super::cluster::{Mocks, Sent, ask, rows, table};

#[tokio::test(flavor = "multi_thread")]
async fn envelopes_are_unwrapped() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    let row = |id: i64, name: &str| json!({"id": id, "name": name});
    let envelope = |op: &str, before: Value, after: Value| json!({"before": before, "after": after, "op": op, "ts_ms": 1, "source": {"table": "people"}});
    let messages = [
        envelope("c", Value::Null, row(1, "Ann")),
        // With the converter's schemas on.
        json!({"schema": {"type": "struct"}, "payload": envelope("u", row(1, "Ann"), row(1, "Anna"))}),
        envelope("d", row(1, "Anna"), Value::Null),
        json!({"id": 7}),
    ];
    let mut messages: Vec<Sent> = messages.iter().map(|message| Sent::to(0, message.to_string())).collect();
    // What follows a deletion, so that compaction forgets the key.
    messages.push(Sent { partition: Some(0), key: Some("1".into()), ..Sent::default() });
    mocks.send("t", &messages);
    let columns = "(id BIGINT, name STRING, _op STRING, _corrupt_record STRING)";
    let options = [("subscribe", "t"), ("startingOffsets", "earliest"), ("format", "debezium")];
    let outcome = ask(&table("t", columns, &mocks.servers, &options), "SELECT * FROM STREAM t", "").await;
    let nulls = json!({"id": null, "name": null, "_op": null, "_corrupt_record": null});
    let change = |op: &str, name: &str| json!({"id": 1, "name": name, "_op": op, "_corrupt_record": null});
    let mut corrupt = nulls.clone();
    corrupt["_corrupt_record"] = "{\"id\":7}".into();
    assert_eq!(rows(&outcome), [change("c", "Ann"), change("u", "Anna"), change("d", "Anna"), corrupt, nulls]);
}
