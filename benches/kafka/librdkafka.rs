//! The client by itself: all messages are received and counted, and none is looked into.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::Result;
use crate::load::Load;
use crate::topic;

/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What the connector sets, too: `consumer` in src/source/kafka/cluster.rs.
const SETTINGS: [(&str, &str); 14] = [
    ("isolation.level", "read_committed"),
    ("client.id", "millstream"),
    ("queued.max.messages.kbytes", "8192"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.error.backoff.ms", "50"),
    ("fetch.wait.max.ms", "100"),
    ("reconnect.backoff.max.ms", "1000"),
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("allow.auto.create.topics", "false"),
    ("group.id", "millstream-bench"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
];

/// Reads every partition to its end; returns how many messages there were, and how many bytes.
pub fn read(load: &Load) -> Result<(i64, u64)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &load.servers);
    for (name, value) in SETTINGS {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create()?;
    let ends = topic::ends(&consumer, load)?;
    let mut assigned = TopicPartitionList::new();
    for partition in 0..load.partitions {
        assigned.add_partition_offset(&load.topic(), partition, Offset::Offset(0))?;
    }
    consumer.assign(&assigned)?;
    let (mut messages, mut bytes) = (0, 0);
    let mut unread = ends.iter().filter(|end| **end > 0).count();
    while unread > 0 {
        match consumer.poll(SILENCE) {
            Some(Ok(message)) => {
                messages += 1;
                bytes += message.payload().map_or(0, <[u8]>::len) as u64;
                unread -= usize::from(message.offset() + 1 == ends[message.partition() as usize]);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(format!("no message came for {SILENCE:?}; {messages} came before").into()),
        }
    }
    Ok((messages, bytes))
}
