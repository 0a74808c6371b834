//! A cluster to test against, and a plain client beside the one that is tested.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::case::{Outcome, run_script};

/// How long a plain client waits for anything.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// A message, as a test writes and reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sent {
    pub(super) partition: Option<i32>,
    pub(super) key: Option<String>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<String>)>,
}

impl Sent {
    /// A message of a value alone, for a partition.
    pub(super) fn to(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self { partition: Some(partition), value: Some(value.into()), ..Self::default() }
    }

    /// Returns the value as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.value.clone().unwrap_or_default()).unwrap()
    }
}

/// Brokers in this process.
pub(super) struct Mocks {
    pub(super) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(super) servers: String,
}

impl Mocks {
    /// Starts `brokers` brokers.
    pub(super) fn start(brokers: i32) -> Self {
        let cluster = MockCluster::new(brokers).unwrap();
        let servers = cluster.bootstrap_servers();
        Self { cluster, servers }
    }

    /// Makes a topic.
    pub(super) fn topic(&self, name: &str, partitions: i32) {
        self.cluster.create_topic(name, partitions, 1).unwrap();
    }

    /// Writes messages, in their order.
    pub(super) fn send(&self, topic: &str, messages: &[Sent]) {
        send(&self.servers, topic, messages);
    }
}

/// The real broker that `tests/services/kafka.sh up` started.
pub(super) struct Real {
    pub(super) servers: String,
}

impl Real {
    /// Finds it.
    pub(super) fn find() -> Self {
        let said = Self::script(&["up"]);
        let servers = said.lines().last().unwrap_or_default().to_string();
        assert!(servers.contains(':'), "tests/services/kafka.sh up said {said:?}");
        Self { servers }
    }

    /// Runs `tests/services/kafka.sh` and returns what it said.
    pub(super) fn script(arguments: &[&str]) -> String {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/services/kafka.sh");
        let output = Command::new(script).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tests/services/kafka.sh {arguments:?}: {said}{errors}");
        said
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().unwrap()
    }

    /// Makes a topic of a name of its own, so that tests do not meet.
    pub(super) async fn topic(&self, name: &str, partitions: i32) -> String {
        let name = format!("{name}-{}", uuid::Uuid::new_v4().simple());
        self.named_topic(&name, partitions).await;
        name
    }

    /// Makes the topic `name`.
    pub(super) async fn named_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        // A topic of this name that was just deleted may take a moment to be gone.
        for _ in 0..100 {
            let made = self.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
            if made.iter().all(Result::is_ok) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("topic {name} cannot be made");
    }

    /// Gives a topic more partitions.
    pub(super) async fn grow(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        self.admin().create_partitions([&more], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes a topic.
    pub(super) async fn delete(&self, topic: &str) {
        self.admin().delete_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    }

    /// Deletes the messages of partition 0 before `offset`, as retention does.
    pub(super) async fn age_out(&self, topic: &str, offset: i64) {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
        self.admin().delete_records(&before, &AdminOptions::new()).await.unwrap();
    }
}

/// Writes messages, in their order.
pub(super) fn send(servers: &str, topic: &str, messages: &[Sent]) {
    let producer: BaseProducer = producer(servers, &[]);
    write(&producer, topic, messages);
    producer.flush(SOON).unwrap();
}

/// Makes a plain producer.
pub(super) fn producer(servers: &str, settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("linger.ms", "0");
    settings.iter().for_each(|(name, value)| {
        config.set(*name, *value);
    });
    config.create().unwrap()
}

/// Hands messages to a producer.
pub(super) fn write(producer: &BaseProducer, topic: &str, messages: &[Sent]) {
    for message in messages {
        let mut record: BaseRecord<'_, str, [u8], ()> = BaseRecord::to(topic);
        if let Some(partition) = message.partition {
            record = record.partition(partition);
        }
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        if let Some(value) = &message.value {
            record = record.payload(value);
        }
        if !message.headers.is_empty() {
            let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            });
            record = record.headers(headers);
        }
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull));
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
}

/// Reads all that is in a topic and that a reader of committed messages may see, by partition and offset.
pub(super) fn received(servers: &str, topic: &str) -> BTreeMap<(i32, i64), Sent> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "test")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), SOON).unwrap();
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
    let mut all = TopicPartitionList::new();
    for partition in &partitions {
        all.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut read, mut ends) = (BTreeMap::new(), 0);
    while ends < partitions.len() {
        match consumer.poll(SOON).expect("the topic has no end") {
            Ok(message) => {
                let headers = message.headers().map(|headers| {
                    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8(value.to_vec()).unwrap());
                    headers.iter().map(|header| (header.key.to_string(), text(header.value))).collect()
                });
                let sent = Sent {
                    partition: Some(message.partition()),
                    key: message.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.unwrap_or_default(),
                };
                read.insert((message.partition(), message.offset()), sent);
            }
            Err(KafkaError::PartitionEOF(_)) => ends += 1,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    read
}

/// Declares `name` over a topic, with more options.
pub(super) fn table(name: &str, columns: &str, servers: &str, options: &[(&str, &str)]) -> String {
    let all = [("kafka.bootstrap.servers", servers)].into_iter().chain(options.iter().copied());
    let all: Vec<String> = all.map(|(name, value)| format!("'{name}' '{}'", value.replace('\'', "''"))).collect();
    format!("CREATE UNBOUNDED EXTERNAL TABLE {name} {columns} STORED AS KAFKA OPTIONS ({});\n", all.join(", "))
}

/// Runs a query over the table `t` to its end, in append mode on a console.
pub(super) async fn ask(table: &str, query: &str, clauses: &str) -> Outcome {
    run_script(&format!(
        "{table} CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');\n\
         CREATE FLOW f TRIGGER AVAILABLE NOW {clauses} AS INSERT INTO answer {query};"
    ))
    .await
}

/// Returns the rows of all batches; the query must have ended well.
pub(super) fn rows(outcome: &Outcome) -> Vec<Value> {
    if let Err(error) = &outcome.end {
        panic!("{error}");
    }
    let rows = |line: &Value| line["rows"].as_array().cloned().unwrap_or_default();
    outcome.lines.iter().flat_map(rows).collect()
}

/// Returns a column of all rows as texts.
pub(super) fn column(outcome: &Outcome, name: &str) -> Vec<String> {
    let text = |row: &Value| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_string);
    rows(outcome).iter().map(text).collect()
}

/// Returns how the query failed.
pub(super) fn failure(outcome: &Outcome) -> String {
    match &outcome.end {
        Ok(()) => panic!("it went well: {:?}", outcome.lines),
        Err(error) => format!("{error}"),
    }
}
