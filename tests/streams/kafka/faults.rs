//! Brokers that go away and come back, requests that fail, and what is told where nothing helps.

use std::time::Duration;

use millstream::prelude::*;
use rdkafka::mocking::MockCoordinator;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::cluster::{Mocks, Sent, ask, column, failure, received, table};
use crate::watched::Watched;

const VALUES: &str = "SELECT CAST(value AS STRING) AS v FROM STREAM t";

fn stream(servers: &str, more: &[(&str, &str)]) -> String {
    table("t", "", servers, &[&[("subscribe", "t"), ("startingOffsets", "earliest")], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods)] // a broker is waited for in real time
async fn a_broker_that_nobody_can_reach_is_named_within_the_timeout() {
    let begun = std::time::Instant::now();
    let error = failure(&ask(&stream("127.0.0.1:9", &[("kafka.default.api.timeout.ms", "1000")]), VALUES, "").await);
    assert!(error.contains("no answer from 127.0.0.1:9") && error.contains("kafka.bootstrap.servers"), "{error}");
    assert!(error.contains("refused") || error.contains("failed"), "why is told: {error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_named() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let error = failure(&ask(&stream(&mocks.servers, &[]), VALUES, "").await);
    assert!(error.contains("topic 't' does not exist"), "{error}");
    mocks.cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let error = failure(&ask(&stream(&mocks.servers, &[]), VALUES, "").await);
    assert!(error.contains("topic 't'") && error.contains("no right"), "{error}");
}

/// Runs a query over the table `t` for as long as the test lasts.
pub(super) async fn running(table: &str) -> Watched {
    let watched = Watched::new();
    let script = format!("{table} CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');");
    watched.session.run_script(&script).await.unwrap();
    let session = watched.session.clone();
    tokio::spawn(async move { session.run_script(&format!("CREATE FLOW f AS INSERT INTO answer {VALUES};")).await });
    watched
}

/// The values that came, in their order.
pub(super) fn came(watched: &Watched) -> Vec<String> {
    let rows = watched.batches().into_iter().flat_map(|batch| batch["rows"].as_array().cloned().unwrap_or_default());
    rows.map(|row| row["v"].as_str().unwrap().to_string()).collect()
}

pub(super) async fn until(watched: &Watched, rows: usize) {
    for _ in 0..600 {
        if came(watched).len() >= rows {
            return;
        }
        if let Some(error) = watched.session.queries().active().iter().find_map(StreamingQuery::exception) {
            panic!("{error}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("only {:?}", came(watched));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_outlives_its_brokers() {
    let mocks = Mocks::start(2);
    mocks.topic("t", 4);
    let watched = running(&stream(&mocks.servers, &[])).await;
    let mut sent = Vec::new();
    for round in 0..3 {
        let values: Vec<Sent> = (0..40).map(|n| Sent::to(n % 4, format!("{round}-{n}"))).collect();
        sent.extend(values.iter().map(Sent::text));
        mocks.send("t", &values);
        for broker in [1, 2] {
            mocks.cluster.broker_down(broker).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        for broker in [1, 2] {
            mocks.cluster.broker_up(broker).unwrap();
        }
        until(&watched, sent.len()).await;
    }
    let mut came = came(&watched);
    came.sort_unstable();
    sent.sort_unstable();
    assert_eq!(came, sent);
}

/// A broker that has just begun may not know of a topic yet. What the client was told meanwhile waits where it reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_unknown_for_a_moment_is_not_lost() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 2);
    let hears_at_once = [
        ("kafka.topic.metadata.refresh.interval.ms", "100"),
        ("kafka.topic.metadata.propagation.max.ms", "0"),
        ("failOnDataLoss", "false"),
    ];
    let watched = running(&stream(&mocks.servers, &hears_at_once)).await;
    mocks.send("t", &[Sent::to(0, "a"), Sent::to(1, "b")]);
    until(&watched, 2).await;
    for (round, value) in ["c", "d"].into_iter().enumerate() {
        mocks.cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        mocks.cluster.topic_error("t", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        mocks.send("t", &[Sent::to(0, value), Sent::to(1, value)]);
        until(&watched, 4 + 2 * round).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_brokers_stay_away_ends_and_says_so() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.send("t", &[Sent::to(0, "a")]);
    let watched = running(&stream(&mocks.servers, &[("kafkaConsumer.pollTimeoutMs", "3000")])).await;
    until(&watched, 1).await;
    mocks.cluster.broker_down(1).unwrap();
    let query = watched.session.queries().active().pop().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), query.await_termination()).await.unwrap();
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("no answer from") && error.contains("kafkaConsumer.pollTimeoutMs"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_for_a_while_are_made_again() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 2);
    let values: Vec<Sent> = (0..200).map(|n| Sent::to(n % 2, n.to_string())).collect();
    mocks.send("t", &values);
    let passing = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
    ];
    mocks.cluster.request_errors(RDKafkaApiKey::Fetch, &passing);
    mocks.cluster.request_errors(RDKafkaApiKey::ListOffsets, &passing);
    let mut came = column(&ask(&stream(&mocks.servers, &[]), VALUES, "").await, "v");
    let mut sent: Vec<String> = values.iter().map(Sent::text).collect();
    came.sort_unstable();
    sent.sort_unstable();
    assert_eq!(came, sent);
}

/// Copies what is in `t` to `out`.
async fn copy(mocks: &Mocks, more: &[(&str, &str)]) -> crate::case::Outcome {
    let home = tempfile::tempdir().unwrap();
    let options: Vec<(&str, &str)> =
        [&[("kafka.bootstrap.servers", mocks.servers.as_str()), ("topic", "out")], more].concat();
    let options: Vec<String> = options.iter().map(|(name, value)| format!("'{name}' '{value}'")).collect();
    let script = stream(&mocks.servers, &[])
        + &format!("CREATE EXTERNAL TABLE o STORED AS KAFKA OPTIONS ({});\n", options.join(", "))
        + &format!(
            "CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o SELECT key, value FROM STREAM t",
            home.path().join("ck").display()
        );
    crate::case::run_script(&script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_again_until_they_are_acknowledged() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.topic("out", 1);
    let values: Vec<Sent> = (0..50).map(|n| Sent::to(0, n.to_string())).collect();
    mocks.send("t", &values);
    mocks.cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT, RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT],
    );
    copy(&mocks, &[]).await.end.unwrap();
    assert_eq!(received(&mocks.servers, "out").into_values().collect::<Vec<_>>(), values);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_refused_ends_the_query() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.topic("out", 1);
    mocks.send("t", &[Sent::to(0, vec![b'x'; 20_000])]);
    let error = failure(&copy(&mocks, &[("kafka.message.max.bytes", "10000")]).await);
    assert!(error.contains("larger than allowed") && error.contains("kafka.message.max.bytes"), "{error}");
    mocks
        .cluster
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3]);
    let error = failure(&copy(&mocks, &[]).await);
    assert!(error.contains("writing to topic 'out'") && error.contains("no right"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_another_took_over_is_told() {
    let mocks = Mocks::start(1);
    mocks.topic("t", 1);
    mocks.topic("out", 1);
    mocks.cluster.coordinator(MockCoordinator::Transaction("mine".into()), 1).unwrap();
    mocks.send("t", &[Sent::to(0, "a")]);
    mocks.cluster.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH]);
    let options = [("exactlyOnce", "true"), ("kafka.transactional.id", "mine")];
    let outcome = copy(&mocks, &options).await;
    let error = outcome.end.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(error.to_string().contains("kafka.transactional.id"), "{error}");
}
