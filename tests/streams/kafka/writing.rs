//! What the sink writes: parts of messages from columns, in all modes, and exactly once where that is asked for.

use serde_json::{Value, json};

use super::cluster::{Mocks, Sent, received, table};
use crate::case::{Outcome, run_script};

/// Writes what `query` makes of `t` with a checkpoint of its own.
async fn write(mocks: &Mocks, options: &str, query: &str, clauses: &str) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    write_with(mocks, options, query, &format!("{clauses} {}", checkpoint(&home))).await
}

fn checkpoint(home: &tempfile::TempDir) -> String {
    format!("CHECKPOINT '{}'", home.path().join("ck").display())
}

/// Writes what `query` makes of `t`.
async fn write_with(mocks: &Mocks, options: &str, query: &str, clauses: &str) -> Outcome {
    let script = table("t", "", &mocks.servers, &[("subscribe", "t"), ("startingOffsets", "earliest")])
        + &format!(
            "CREATE EXTERNAL TABLE o STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' '{}'{options});\n\
             CREATE FLOW f TRIGGER AVAILABLE NOW {clauses} AS INSERT INTO o {query}",
            mocks.servers
        );
    run_script(&script).await
}

fn mocks(values: &[&str]) -> Mocks {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.topic("out", 2);
    mocks.send("t", &values.iter().map(|value| Sent::to(0, *value)).collect::<Vec<_>>());
    mocks
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_parts_of_messages() {
    let mocks = mocks(&["a", "b"]);
    let query = "SELECT concat('k', CAST(value AS STRING)) AS key, value, 1 AS \"partition\", \
                 array(named_struct('key', 'h', 'value', CAST('x' AS BINARY))) AS headers FROM STREAM t";
    write(&mocks, ", 'topic' 'out'", query, "").await.end.unwrap();
    let message = |value: &str| Sent {
        key: Some(format!("k{value}")),
        headers: vec![("h".into(), Some("x".into()))],
        ..Sent::to(1, value)
    };
    assert_eq!(received(&mocks.servers, "out").into_values().collect::<Vec<_>>(), [message("a"), message("b")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_name_their_topics() {
    let mocks = mocks(&["out", "other"]);
    mocks.topic("other", 1);
    write(&mocks, "", "SELECT CAST(value AS STRING) AS topic, value FROM STREAM t", "").await.end.unwrap();
    for topic in ["out", "other"] {
        let texts: Vec<String> = received(&mocks.servers, topic).values().map(Sent::text).collect();
        assert_eq!(texts, [topic]);
    }
    let error =
        write(&mocks, "", "SELECT CAST(NULL AS STRING) AS topic, value FROM STREAM t", "").await.end.unwrap_err();
    assert!(error.to_string().contains("topic is NULL"), "{error}");
    let error = write(&mocks, "", "SELECT value FROM STREAM t", "").await.end.unwrap_err();
    assert!(error.to_string().contains("no topic"), "{error}");
}

/// The JSON values of `out`, in order.
fn values(mocks: &Mocks) -> Vec<Value> {
    received(&mocks.servers, "out").values().map(|sent| serde_json::from_str(&sent.text()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_leaves_as_json() {
    for (mode, want) in [("update", 3), ("complete", 3)] {
        let mocks = mocks(&["a", "b", "a", "c"]);
        let query = "SELECT CAST(value AS STRING) AS word, CAST(value AS STRING) AS _key, count(*) AS n FROM STREAM t \
                     GROUP BY CAST(value AS STRING)";
        let clauses = format!("OUTPUT MODE {mode}");
        write(&mocks, ", 'topic' 'out', 'format' 'json'", query, &clauses).await.end.unwrap();
        let mut values = values(&mocks);
        values.sort_by_key(|value| value["word"].as_str().map(str::to_string));
        assert_eq!(values[0], json!({"word": "a", "n": 2}));
        assert_eq!(values.len(), want, "{mode}");
        let keys = received(&mocks.servers, "out").into_values().map(|sent| sent.key.unwrap());
        assert_eq!(keys.collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_written_and_read_under_one_name() {
    let mocks = mocks(&["a"]);
    let both = [("topic", "out"), ("startingOffsets", "earliest")];
    let home = tempfile::tempdir().unwrap();
    let flows = format!(
        "CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n\
         CREATE FLOW f TRIGGER AVAILABLE NOW {} AS INSERT INTO o SELECT value FROM STREAM t;\n\
         CREATE FLOW g TRIGGER AVAILABLE NOW AS INSERT INTO answer SELECT CAST(value AS STRING) AS v FROM STREAM o;",
        checkpoint(&home)
    );
    let script = table("t", "", &mocks.servers, &[("subscribe", "t"), ("startingOffsets", "earliest")])
        + &table("o", "", &mocks.servers, &both)
        + &flows;
    let outcome = run_script(&script).await;
    outcome.end.unwrap();
    assert_eq!(outcome.lines.last().unwrap()["rows"], json!([{"v": "a"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_committed() {
    let mocks = mocks(&["a", "b", "c"]);
    let (exactly_once, query) = (", 'topic' 'out', 'exactlyOnce' 'true'", "SELECT value FROM STREAM t");
    write(&mocks, exactly_once, query, "").await.end.unwrap();
    let mut texts: Vec<String> = received(&mocks.servers, "out").values().map(Sent::text).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_must_outlive_the_process() {
    let mocks = mocks(&["a"]);
    for options in [", 'topic' 'out'", ", 'topic' 'out', 'exactlyOnce' 'true'"] {
        let error = write_with(&mocks, options, "SELECT value FROM STREAM t", "").await.end.unwrap_err();
        assert!(error.to_string().contains("give 'f' a checkpoint"), "{error}");
    }
    assert!(received(&mocks.servers, "out").is_empty());
}

/// A query may begin to keep late rows while a batch is in doubt: of that the new sink has written nothing.
#[tokio::test(flavor = "multi_thread")]
async fn late_rows_can_be_kept_exactly_once_from_any_batch_on() {
    let mocks = mocks(&[]);
    let home = tempfile::tempdir().unwrap();
    let run = async |minute: u8, clauses: &str| {
        mocks.send("t", &[Sent::to(0, format!("{{\"ts\":\"2026-01-01T00:{minute:02}:00\"}}"))]);
        let options = [("subscribe", "t"), ("startingOffsets", "earliest"), ("format", "json")];
        let script = table("t", "(ts TIMESTAMP)", &mocks.servers, &options)
            + &format!(
                "CREATE EXTERNAL TABLE o STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' '{}', 'topic' 'out',\n\
                 'exactlyOnce' 'true', 'format' 'json');\n\
                 CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n\
                 CREATE FLOW f {clauses} TRIGGER AVAILABLE NOW {} AS INSERT INTO answer\n\
                 SELECT window.start AS ws, count(*) AS n FROM STREAM t WATERMARK ts DELAY OF INTERVAL 1 MINUTE\n\
                 GROUP BY window(ts, '1 minute');",
                mocks.servers,
                checkpoint(&home)
            );
        run_script(&script).await.end.unwrap();
    };
    run(10, "").await;
    run(20, "").await;
    let commits = std::fs::read_dir(home.path().join("ck/commits")).unwrap();
    let number = |path: &std::path::PathBuf| path.file_name()?.to_str()?.parse::<i64>().ok();
    let newest = commits.map(|entry| entry.unwrap().path()).max_by_key(number).unwrap();
    std::fs::remove_file(newest).unwrap();
    run(1, "LATE ROWS INTO o").await;
    assert_eq!(received(&mocks.servers, "out").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_message_is_told_before_anything_runs() {
    let mocks = mocks(&[]);
    for (options, query, words) in [
        (", 'topic' 'out'", "SELECT key FROM STREAM t", "no column 'value'"),
        (", 'topic' 'out'", "SELECT \"offset\" AS value FROM STREAM t", "STRING or BINARY"),
        (", 'topic' 'out', 'exactlyonce' 'maybe'", "SELECT value FROM STREAM t", "true or false"),
        (", 'topics' 'out'", "SELECT value FROM STREAM t", "did you mean 'topic'?"),
        (", 'topic' 'out', 'kafka.acks' '1'", "SELECT value FROM STREAM t", "kafka"),
    ] {
        let error = write(&mocks, options, query, "").await.end.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
