//! What the source reads: columns, where it begins, how much at once, and that a restart goes on where the last run ended.

use serde_json::{Value, json};

use super::cluster::{Mocks, Sent, ask, column, failure, rows, table};

const EVERYTHING: &str = "SELECT CAST(key AS STRING) AS k, CAST(value AS STRING) AS v, topic, \"partition\", \"offset\", \
    timestamp IS NOT NULL AS has_time, \"timestampType\" FROM STREAM t";

/// One message that is no text does not stop a stream.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_cast_all_the_same() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.send("t", &[Sent::to(0, &b"a\xffb"[..]), Sent::to(0, "c")]);
    let outcome = ask(&table("t", "", &mocks.servers, &earliest(&[])), VALUES, "").await;
    assert_eq!(column(&outcome, "v"), ["a\u{fffd}b", "c"]);
}

const VALUES: &str = "SELECT CAST(value AS STRING) AS v FROM STREAM t";

fn earliest<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("subscribe", "t"), ("startingOffsets", "earliest")], more].concat()
}

/// Sixty messages in three partitions: 30, 20 and 10.
fn sixty(mocks: &Mocks) {
    mocks.topic("t", 3);
    let partition = |number: i32| match number % 6 {
        0..3 => 0,
        3 | 4 => 1,
        _ => 2,
    };
    let messages: Vec<Sent> = (0..60).map(|number| Sent::to(partition(number), number.to_string())).collect();
    mocks.send("t", &messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_a_row_with_sparks_columns() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.send(
        "t",
        &[
            Sent { key: Some("a".into()), ..Sent::to(0, "one") },
            Sent {
                partition: Some(0),
                headers: vec![("h".into(), Some("x".into())), ("e".into(), None)],
                ..Sent::default()
            },
        ],
    );
    let outcome = ask(&table("t", "", &mocks.servers, &earliest(&[])), EVERYTHING, "").await;
    let row = |k: Value, v: Value, offset: i64| json!({"k": k, "v": v, "topic": "t", "partition": 0, "offset": offset, "has_time": true, "timestampType": 0});
    assert_eq!(rows(&outcome), [row("a".into(), "one".into(), 0), row(Value::Null, Value::Null, 1)]);

    let with_headers = table("t", "", &mocks.servers, &earliest(&[("includeHeaders", "true")]));
    let query = "SELECT headers[1]['key'] AS key, CAST(headers[1]['value'] AS STRING) AS value, cardinality(headers) AS n, \
                 headers IS NULL AS none FROM STREAM t";
    let outcome = ask(&with_headers, query, "").await;
    assert_eq!(rows(&outcome)[1], json!({"key": "h", "value": "x", "n": 2, "none": false}));
    assert_eq!(rows(&outcome)[0]["none"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_read_once_however_batches_are_cut() {
    let mocks = Mocks::start(2);
    sixty(&mocks);
    let mut all: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    all.sort_unstable();
    for options in [
        &[][..],
        &[("maxOffsetsPerTrigger", "7")],
        &[("minPartitions", "8")],
        &[("minPartitions", "8"), ("maxOffsetsPerTrigger", "25")],
    ] {
        let outcome = ask(&table("t", "", &mocks.servers, &earliest(options)), VALUES, "").await;
        let mut values = column(&outcome, "v");
        values.sort_unstable();
        assert_eq!(values, all, "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_shared_in_proportion() {
    let mocks = Mocks::start(1);
    sixty(&mocks);
    let query = "SELECT \"partition\" AS p, count(*) AS n FROM STREAM t GROUP BY \"partition\"";
    let options = earliest(&[("maxOffsetsPerTrigger", "12")]);
    let script = table("t", "", &mocks.servers, &options);
    let outcome = ask(&script, query, "OUTPUT MODE update").await;
    let mut first: Vec<Value> = outcome.lines[0]["rows"].as_array().unwrap().clone();
    first.sort_by_key(|row| row["p"].as_i64());
    assert_eq!(first, [json!({"p": 0, "n": 6}), json!({"p": 1, "n": 4}), json!({"p": 2, "n": 2})]);
    assert_eq!(outcome.lines.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_the_last_run_ended() {
    let (mocks, home) = (Mocks::start(1), tempfile::tempdir().unwrap());
    mocks.topic("t", 2);
    mocks.send("t", &[Sent::to(0, "a"), Sent::to(1, "b")]);
    let checkpoint = format!("CHECKPOINT '{}'", home.path().join("ck").display());
    let script = table("t", "", &mocks.servers, &earliest(&[]));
    assert_eq!(column(&ask(&script, VALUES, &checkpoint).await, "v"), ["a", "b"]);
    assert!(rows(&ask(&script, VALUES, &checkpoint).await).is_empty());
    mocks.send("t", &[Sent::to(1, "c")]);
    assert_eq!(column(&ask(&script, VALUES, &checkpoint).await, "v"), ["c"]);
}

/// "latest" is when the query first started, even if nothing came before it was started again.
#[tokio::test(flavor = "multi_thread")]
async fn latest_is_pinned_when_the_query_first_starts() {
    let (mocks, home) = (Mocks::start(1), tempfile::tempdir().unwrap());
    mocks.topic("t", 1);
    mocks.send("t", &[Sent::to(0, "before")]);
    let checkpoint = format!("CHECKPOINT '{}'", home.path().join("ck").display());
    let script = table("t", "", &mocks.servers, &[("subscribe", "t")]);
    assert!(rows(&ask(&script, VALUES, &checkpoint).await).is_empty());
    mocks.send("t", &[Sent::to(0, "after")]);
    assert_eq!(column(&ask(&script, VALUES, &checkpoint).await, "v"), ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_beginning_is_named() {
    let (mocks, home) = (Mocks::start(1), tempfile::tempdir().unwrap());
    mocks.topic("t", 1);
    let checkpoint = format!("CHECKPOINT '{}'", home.path().join("ck").display());
    let script = table("t", "", &mocks.servers, &[("subscribe", "t")]);
    assert!(rows(&ask(&script, VALUES, &checkpoint).await).is_empty());
    let initial = home.path().join("ck/sources/0/initial");
    let written = std::fs::read_to_string(&initial).unwrap();
    std::fs::write(&initial, written.replace("\"0\":0", "\"0\":7")).unwrap();
    let outcome = ask(&script, VALUES, &checkpoint).await;
    let error = outcome.end.unwrap_err();
    assert_eq!(error.kind(), millstream::error::ErrorKind::CheckpointCorrupt, "{error}");
    assert!(error.to_string().contains("sources/0/initial"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_says_how_far_behind_a_batch_is() {
    let mocks = Mocks::start(1);
    sixty(&mocks);
    let script = table("t", "", &mocks.servers, &earliest(&[("maxOffsetsPerTrigger", "30")]));
    let outcome = ask(&script, VALUES, "").await;
    let metrics = |batch: usize| outcome.reports[batch].sources[0].metrics.clone();
    assert_eq!(metrics(0)["maxOffsetsBehindLatest"], "15");
    assert_eq!(metrics(0)["minOffsetsBehindLatest"], "5");
    assert_eq!(
        (metrics(0)["avgOffsetsBehindLatest"].as_str(), metrics(1)["maxOffsetsBehindLatest"].as_str()),
        ("10", "0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_say_where_to_begin_and_to_end() {
    let mocks = Mocks::start(1);
    sixty(&mocks);
    let read = async |options: &[(&str, &str)]| {
        let options = [&[("subscribe", "t")], options].concat();
        ask(&table("t", "", &mocks.servers, &options), "SELECT \"partition\", \"offset\" FROM STREAM t", "").await
    };
    let starting = ("startingOffsets", r#"{"t":{"0":28,"1":-2,"2":-1}}"#);
    let outcome = read(&[starting, ("endingOffsets", r#"{"t":{"0":29,"1":2,"2":-1}}"#)]).await;
    let mut offsets: Vec<String> =
        rows(&outcome).iter().map(|row| format!("{}@{}", row["partition"], row["offset"])).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, ["0@28", "1@0", "1@1"]);
    assert_eq!(rows(&read(&[starting]).await).len(), 2 + 20);

    let missing = failure(&read(&[("startingOffsets", r#"{"t":{"0":0}}"#)]).await);
    assert!(missing.contains("topic 't', partition 1 is missing"), "{missing}");
    let unknown = failure(&read(&[("startingOffsets", r#"{"t":{"0":0,"1":0,"2":0,"9":0}}"#)]).await);
    assert!(unknown.contains("names topic 't', partition 9"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_named_matched_or_assigned() {
    let mocks = Mocks::start(1);
    for topic in ["orders-a", "orders-b", "payments"] {
        mocks.topic(topic, 2);
        mocks.send(topic, &[Sent::to(0, format!("{topic}/0")), Sent::to(1, format!("{topic}/1"))]);
    }
    let read = async |option: (&str, &str)| {
        let options = [option, ("startingOffsets", "earliest")];
        let mut values = column(&ask(&table("t", "", &mocks.servers, &options), VALUES, "").await, "v");
        values.sort_unstable();
        values
    };
    assert_eq!(
        read(("subscribe", "payments, orders-a")).await,
        ["orders-a/0", "orders-a/1", "payments/0", "payments/1"]
    );
    assert_eq!(read(("subscribePattern", "orders-.")).await, ["orders-a/0", "orders-a/1", "orders-b/0", "orders-b/1"]);
    assert_eq!(read(("assign", r#"{"orders-a":[1],"payments":[0]}"#)).await, ["orders-a/1", "payments/0"]);
    // A table that is written, too, says its topic once.
    assert_eq!(read(("topic", "payments")).await, ["payments/0", "payments/1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_enough_rows_or_long_enough() {
    let (mocks, home) = (Mocks::start(1), tempfile::tempdir().unwrap());
    mocks.topic("t", 1);
    let options = earliest(&[("minOffsetsPerTrigger", "3"), ("maxTriggerDelay", "1 hour")]);
    let script = table("t", "", &mocks.servers, &options)
        + "CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n";
    let watched = crate::watched::Watched::new();
    watched.session.run_script(&script).await.unwrap();
    let flow =
        format!("CREATE FLOW f CHECKPOINT '{}' AS INSERT INTO answer {VALUES};", home.path().join("ck").display());
    let session = watched.session.clone();
    tokio::spawn(async move { session.run_script(&flow).await });
    // The first batch waits for nothing.
    mocks.send("t", &[Sent::to(0, "a")]);
    watched.reports.at_least(1).await;
    mocks.send("t", &[Sent::to(0, "b"), Sent::to(0, "c")]);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(watched.reports.all().len(), 1, "two are not enough");
    mocks.send("t", &[Sent::to(0, "d")]);
    watched.reports.at_least(2).await;
    let rows: Vec<usize> = watched.batches().iter().map(|batch| batch["rows"].as_array().unwrap().len()).collect();
    assert_eq!(rows, [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_options_are_told_when_the_table_is_declared() {
    for (options, words) in [
        (&[][..], "needs one of the options 'subscribe'"),
        (&[("subscribe", "t"), ("subscribePattern", "t.*")], "exclude each other"),
        (&[("subscribe", "t"), ("maxOffsetPerTrigger", "1")], "did you mean 'maxOffsetsPerTrigger'?"),
        (&[("subscribe", "t"), ("kafka.sesion.timeout.ms", "1")], "did you mean 'kafka.session.timeout.ms'?"),
        (&[("subscribe", "t"), ("kafka.auto.offset.reset", "earliest")], "startingOffsets"),
        (&[("subscribe", "t"), ("format", "jsn")], "did you mean json?"),
        (&[("subscribe", "t"), ("mode", "FAILFAST")], "needs the option 'format'"),
        (&[("subscribe", "t"), ("format", "json")], "needs declared columns"),
    ] {
        let outcome = ask(&table("t", "", "localhost:1", options), VALUES, "").await;
        let error = failure(&outcome);
        assert!(error.contains(words) && error.contains("line 1, column 1"), "{options:?}: {error}");
    }
    let declared = failure(&ask(&table("t", "(a BIGINT)", "localhost:1", &earliest(&[])), VALUES, "").await);
    assert!(declared.contains("option 'format'"), "{declared}");
}
