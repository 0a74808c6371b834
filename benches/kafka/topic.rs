//! The topic that is read: made and filled once, and kept.

use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::Result;
use crate::load::Load;

/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to take in what it was sent last.
const FLUSH: Duration = Duration::from_secs(120);

/// Makes and fills the topic, unless it holds all messages already. One that was not filled to its end is made anew.
pub fn prepare(load: &Load) -> Result<()> {
    let topic = load.topic();
    let held = held(load)?;
    if held == Some(load.messages) {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> = client(load).create()?;
    if let Some(held) = held {
        eprintln!("topic {topic} holds {held} messages: it is made anew");
        for deleted in block_on(admin.delete_topics(&[topic.as_str()], &admin_options()))? {
            deleted.map_err(|(name, code)| format!("topic {name} cannot be deleted: {code}"))?;
        }
    }
    make(&admin, load)?;
    eprintln!("filling topic {topic} with {} messages", load.messages);
    fill(load)?;
    match self::held(load)? {
        Some(held) if held == load.messages => Ok(()),
        held => Err(format!("topic {topic} holds {} messages after it was filled", held.unwrap_or_default()).into()),
    }
}

/// Returns where each partition ends.
pub fn ends(consumer: &BaseConsumer, load: &Load) -> Result<Vec<i64>> {
    let topic = load.topic();
    let end = |partition| Ok(consumer.fetch_watermarks(&topic, partition, ANSWER)?.1);
    (0..load.partitions).map(end).collect()
}

fn client(load: &Load) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &load.servers);
    config
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER))
}

/// How many messages the topic holds; `None` where there is no topic.
fn held(load: &Load) -> Result<Option<i64>> {
    let consumer: BaseConsumer = client(load).create()?;
    let metadata = consumer.fetch_metadata(Some(&load.topic()), ANSWER).map_err(|error| {
        format!(
            "no Kafka answers at {}: {error}; start the one of the tests (tests/services/kafka.sh up), or name another \
             with --servers",
            load.servers
        )
    })?;
    match metadata.topics().first() {
        Some(topic) if topic.error().is_none() => Ok(Some(ends(&consumer, load)?.iter().sum())),
        _ => Ok(None),
    }
}

/// Makes the topic. One of its name may be about to go.
fn make(admin: &AdminClient<DefaultClientContext>, load: &Load) -> Result<()> {
    let topic = load.topic();
    let new = NewTopic::new(&topic, load.partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let begun = Instant::now();
    loop {
        match block_on(admin.create_topics([&new], &admin_options()))?.pop() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) if begun.elapsed() < ANSWER => {
                sleep(Duration::from_millis(100));
            }
            Some(Err((name, code))) => return Err(format!("topic {name} cannot be made: {code}").into()),
            _ => return Ok(()),
        }
    }
}

/// Writes all messages, each once.
fn fill(load: &Load) -> Result<()> {
    let topic = load.topic();
    let producer: BaseProducer = client(load).set("enable.idempotence", "true").set("linger.ms", "20").create()?;
    let mut text = String::new();
    for id in 0..load.messages {
        load.write(id, &mut text);
        loop {
            let record = BaseRecord::<(), str>::to(&topic).partition(load.partition(id)).payload(&text);
            match producer.send(record) {
                Ok(()) => break,
                Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    producer.poll(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if id % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(FLUSH)?;
    Ok(())
}
