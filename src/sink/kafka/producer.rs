//! The client that writes: one a sink, and with transactions the one writer of its transactional id.
//!
//! Everything here may wait for the network. Guards that a batch is said to be written only when every message of it was
//! acknowledged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::messages::Messages;
use super::{PATIENCE, Settings, WHAT, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::kafka::{ClientEvents, ClientSettings, Stopwatch, code_of, failure, partitions_of, patiently, refused};
use crate::sink::SinkContext;

/// How long a transaction may be open: what brokers allow where they are not told otherwise.
const TRANSACTION_MS: u64 = 900_000;

/// What no limit amounts to.
const FOR_EVER: Duration = Duration::from_secs(24 * 3_600);

/// Pause between looks at whether everything is acknowledged.
const FLUSH_PAUSE: Duration = Duration::from_millis(1);

/// How long a broker may take to make a topic that it makes when it is asked for.
const TOPIC_PATIENCE: Duration = Duration::from_secs(3);

/// How long a broker may be silent before its connection is given up. librdkafka's own, but not with transactions.
const SOCKET_MS: u64 = 60_000;

/// How old a mark may be when a batch begins: brokers keep it for a week.
const MARK_AGE: Duration = Duration::from_secs(24 * 3_600);

/// Pause while the producer's queue is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Listens to the producer, and to what becomes of its messages.
#[derive(Debug, Default)]
struct Deliveries {
    events: ClientEvents,
    /// Why the first message failed that did, and its topic.
    failed: Mutex<Option<(String, KafkaError)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if let Err((error, message)) = result {
            locked(&self.failed).get_or_insert_with(|| (message.topic().to_string(), error.clone()));
        }
    }
}

/// Writes messages.
pub(super) struct Producer {
    client: ClientSettings,
    producer: ThreadedProducer<Deliveries>,
    patience: Duration,
    /// The batch that an earlier run began and did not decide: it may have been written, and runs again.
    in_doubt: Option<i64>,
    transactions: Option<Transactions>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({})", self.client.servers)
    }
}

/// What a producer of transactions knows beside.
struct Transactions {
    id: String,
    mark_topic: String,
    /// The query's id, which stands beside the mark.
    owner: String,
    /// Gives the group whose offset is the mark.
    group: BaseConsumer<ClientEvents>,
    /// The first batch that is not in Kafka; -1 where that was never noted.
    written: AtomicI64,
    /// When the mark was last noted.
    noted: Mutex<Stopwatch>,
    /// When the last transaction began, and how long one may take.
    begun: Mutex<Stopwatch>,
    timeout: Duration,
}

impl Producer {
    /// Connects. With transactions, this shuts out every other producer of the same id, and learns which batches are
    /// written.
    ///
    /// # Errors
    /// `Unavailable` where the brokers or the topic cannot be reached; `InvalidOption` where the client does not take the
    /// options.
    pub(super) fn open(settings: &Settings, context: &SinkContext) -> Result<Self> {
        let client = settings.client.clone();
        let id = match client.get("transactional.id") {
            Some(id) => id.to_string(),
            None => format!("millstream-{}-{}", context.query_id, context.name),
        };
        // A transaction is open while a batch runs: as long as brokers allow. None of its messages may take longer.
        let longest_ms = client.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(TRANSACTION_MS);
        let longest = Duration::from_millis(longest_ms);
        let patience = ["message.timeout.ms", "delivery.timeout.ms"]
            .iter()
            .find_map(|name| client.get(name)?.parse().ok())
            .map(|ms| if ms == 0 { FOR_EVER } else { Duration::from_millis(ms) })
            .unwrap_or(if settings.exactly_once { PATIENCE.min(longest) } else { PATIENCE });
        let timeout = patience.as_millis().to_string();
        let defaults = [
            ("client.id", "millstream"),
            ("enable.idempotence", "true"),
            // Where the Java client, and so Spark, puts a key.
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.kbytes", "131072"),
            ("reconnect.backoff.max.ms", "1000"),
            ("message.timeout.ms", timeout.as_str()),
        ];
        let (longest_ms, socket_ms) = (longest_ms.to_string(), longest_ms.min(SOCKET_MS).to_string());
        let transactional = [
            ("transactional.id", id.as_str()),
            ("transaction.timeout.ms", longest_ms.as_str()),
            ("socket.timeout.ms", socket_ms.as_str()),
        ];
        let (fixed, more) = if settings.exactly_once { transactional.split_at(1) } else { Default::default() };
        let config = client.with(&[&defaults[..], more].concat(), fixed);
        let producer = config
            .create_with_context::<_, ThreadedProducer<Deliveries>>(Deliveries::default())
            .map_err(|e| refused(&e))?;
        let opened = Self {
            client,
            producer,
            patience,
            in_doubt: context.in_doubt.then_some(context.next_batch_id),
            transactions: None,
        };
        if let Some(topic) = &settings.topic {
            opened.look_up(topic)?;
        }
        match &settings.mark_topic {
            Some(topic) if settings.exactly_once => {
                let opened = opened.with_transactions(id, topic, &context.query_id, longest)?;
                opened.check_mark(context)?;
                // There is a mark before there is a batch; what is in doubt stays so.
                opened.note(opened.in_doubt.and_then(|_| opened.written()).unwrap_or(context.next_batch_id))?;
                Ok(opened)
            }
            _ => Ok(opened),
        }
    }

    /// Checks that the topic exists.
    fn look_up(&self, topic: &str) -> Result<()> {
        let events = &self.producer.context().events;
        let begun = Stopwatch::start();
        let found = patiently(self.client.timeout, events, |left| {
            partitions_of(self.producer.client(), topic, begun.elapsed(), TOPIC_PATIENCE, left)
        });
        found.map(drop).map_err(|e| self.failed(&format!("looking up topic '{topic}'"), &e))
    }

    fn with_transactions(self, id: String, mark_topic: &str, owner: &str, timeout: Duration) -> Result<Self> {
        let within = self.client.timeout;
        patiently(within, &self.producer.context().events, |left| self.producer.init_transactions(left))
            .map_err(|e| self.failed(&format!("taking over the transactional id '{id}'"), &e))?;
        // Transactions of earlier producers have ended by now: nothing can be added to what is read here.
        let settings =
            [("group.id", id.as_str()), ("isolation.level", "read_committed"), ("enable.auto.commit", "false")];
        let group: BaseConsumer<ClientEvents> = self
            .client
            .with(&[], &settings)
            .remove("transactional.id")
            .remove("transaction.timeout.ms")
            .create_with_context(ClientEvents::default())
            .map_err(|e| refused(&e))?;
        let noted = patiently(within, group.client().context(), |left| {
            group.client().context().listen(&group);
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition(mark_topic, 0);
            let committed = group.committed_offsets(wanted, left)?;
            let element = committed.elements().into_iter().next();
            match element {
                // What another checkpoint noted says nothing of this one's batches.
                Some(element) if element.metadata() == owner => element.error().map(|()| element.offset()),
                Some(element) => element.error().map(|()| Offset::Invalid),
                None => Ok(Offset::Invalid),
            }
        })
        .map_err(|e| {
            failure(&format!("reading the offset of group '{id}'"), &e, &self.client, group.client().context())
        })?;
        let written = match noted {
            Offset::Offset(written) => written,
            _ => -1,
        };
        let written = AtomicI64::new(written);
        let (mark_topic, owner) = (mark_topic.to_string(), owner.to_string());
        let (noted, begun) = (Mutex::new(Stopwatch::start()), Mutex::new(Stopwatch::start()));
        let transactions = Transactions { id, mark_topic, owner, group, written, noted, begun, timeout };
        Ok(Self { transactions: Some(transactions), ..self })
    }

    /// Returns the transactional id.
    fn id(&self) -> &str {
        self.transactions.as_ref().map_or("", |transactions| &transactions.id)
    }

    /// Checks that the checkpoint is not older than what is in Kafka, and that it can be told what is.
    fn check_mark(&self, context: &SinkContext) -> Result<()> {
        let (id, next_batch_id) = (self.id(), context.next_batch_id);
        // A sink that comes to a query that has run before: had it begun any batch, there would be a mark.
        let is_new = next_batch_id > 0 && context.first_batch_id == next_batch_id;
        match (self.written(), self.in_doubt) {
            (None, _) if is_new => Ok(()),
            (None, Some(batch_id)) => Err(Error::incompatible(format!(
                "kafka sink: whether batch {batch_id} was written cannot be told, because the consumer group '{id}' does not \
                 know of this query: it expired (offsets.retention.minutes), was deleted, or kafka.transactional.id was \
                 changed. Look, and start once with exactlyOnce = 'false' where it was not, or may come twice"
            ))),
            (Some(written), in_doubt) if written > in_doubt.map_or(next_batch_id, |batch_id| batch_id + 1) => {
                Err(Error::incompatible(format!(
                    "kafka sink: batches up to {} of this query are in Kafka, as the consumer group '{id}' says, and the \
                     checkpoint knows of those up to {}: it was rewound, or is a copy, or another run was just ending: then \
                     start again. Its rows would come a second time: to let them, give the sink another \
                     kafka.transactional.id",
                    written - 1,
                    next_batch_id - 1
                )))
            }
            _ => Ok(()),
        }
    }

    /// Notes that `next` is the first batch that is not in Kafka.
    fn note(&self, next: i64) -> Result<()> {
        let Some(transactions) = &self.transactions else { return Ok(()) };
        self.begin_transaction(transactions)?;
        let noted = self.commit(transactions, next);
        if noted.is_err() {
            self.give_up();
        }
        noted
    }

    /// Returns the first batch that is not in Kafka, where transactions have noted that.
    fn written(&self) -> Option<i64> {
        let written = self.transactions.as_ref()?.written.load(Ordering::SeqCst);
        (written >= 0).then_some(written)
    }

    /// Returns whether a batch is in Kafka for certain.
    pub(super) fn is_written(&self, batch_id: i64) -> bool {
        self.in_doubt == Some(batch_id) && self.written().is_some_and(|written| batch_id < written)
    }

    /// Begins a batch.
    ///
    /// # Errors
    /// `Fenced` where another producer has taken over.
    pub(super) fn begin(&self, batch_id: i64) -> Result<()> {
        *locked(&self.producer.context().failed) = None;
        let Some(transactions) = &self.transactions else { return Ok(()) };
        if locked(&transactions.noted).elapsed() >= MARK_AGE {
            self.note(batch_id)?;
        }
        self.begin_transaction(transactions)
    }

    fn begin_transaction(&self, transactions: &Transactions) -> Result<()> {
        *locked(&transactions.begun) = Stopwatch::start();
        self.producer.begin_transaction().map_err(|e| self.failed("beginning a transaction", &e))
    }

    /// Puts a row into the queue.
    ///
    /// # Errors
    /// `Unavailable` where an earlier message was not acknowledged; `DataInvalid` for a message that is too large.
    pub(super) fn send(&self, messages: &Messages, row: usize) -> Result<()> {
        let record = || {
            let mut record: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(messages.topic(row));
            if let Some(key) = messages.key(row) {
                record = record.key(key);
            }
            if let Some(value) = messages.value(row) {
                record = record.payload(value);
            }
            if let Some(partition) = messages.partition(row) {
                record = record.partition(partition);
            }
            match messages.headers(row) {
                Some(headers) => record.headers(headers),
                None => record,
            }
        };
        let mut record = record();
        let mut is_empty = false;
        loop {
            self.check()?;
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) if code_of(&error) == Some(RDKafkaErrorCode::QueueFull) => {
                    let was_empty = std::mem::replace(&mut is_empty, self.producer.in_flight_count() == 0);
                    if was_empty && is_empty {
                        return Err(Error::data_invalid(format!(
                            "kafka sink: a message for topic '{}' is larger than the producer's whole queue; make rows \
                             smaller, or raise kafka.queue.buffering.max.kbytes",
                            messages.topic(row)
                        )));
                    }
                    record = back;
                    std::thread::sleep(QUEUE_PAUSE);
                }
                Err((error, _)) => return Err(self.not_sent(messages.topic(row), &error)),
            }
        }
    }

    /// Waits until everything is acknowledged and, with transactions, ends the one that is open: its rows and its number
    /// are visible together, or not at all.
    ///
    /// # Errors
    /// `Unavailable` where that did not work in time; `Fenced` where another producer has taken over. With transactions it
    /// may have worked all the same, of which the next run learns.
    pub(super) fn end(&self, batch_id: i64, rows: u64) -> Result<()> {
        let flushed = self.flush();
        let acknowledged =
            self.check().and_then(|()| flushed.map_err(|e| self.failed("waiting for messages to be acknowledged", &e)));
        let Some(transactions) = &self.transactions else { return acknowledged };
        if rows == 0 {
            self.give_up();
            return acknowledged;
        }
        let ended = acknowledged.and_then(|()| self.commit(transactions, batch_id + 1));
        if ended.is_err() {
            self.give_up();
        }
        ended
    }

    /// Waits until nothing is on its way any more.
    fn flush(&self) -> KafkaResult<()> {
        let begun = Stopwatch::start();
        loop {
            // Asked to wait, the client looks again ten times a second.
            match self.producer.flush(Duration::ZERO) {
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut))
                    if begun.elapsed() <= self.patience + Duration::from_secs(1) =>
                {
                    std::thread::sleep(FLUSH_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Ends the transaction, in which `next` becomes the first batch that is not in Kafka.
    fn commit(&self, transactions: &Transactions, next: i64) -> Result<()> {
        let id = &transactions.id;
        let Some(group) = transactions.group.group_metadata() else {
            return Err(Error::internal("kafka sink: the consumer of the mark has no group"));
        };
        let mut mark = TopicPartitionList::new();
        mark.add_partition_offset(&transactions.mark_topic, 0, Offset::Offset(next))
            .map_err(|e| self.failed("noting the batch", &e))?;
        if let Some(mut mark) = mark.find_partition(&transactions.mark_topic, 0) {
            mark.set_metadata(&transactions.owner);
        }
        self.retried(|| self.producer.send_offsets_to_transaction(&mark, &group, self.patience))
            .map_err(|e| self.failed(&format!("noting in the transaction of '{id}' that batch {next} is next"), &e))?;
        fail::fail_point!("kafka.before_commit_transaction");
        self.retried(|| self.producer.commit_transaction(self.patience))
            .map_err(|e| self.failed(&format!("committing the transaction of '{id}' before batch {next}"), &e))?;
        fail::fail_point!("kafka.after_commit_transaction");
        transactions.written.store(next, Ordering::SeqCst);
        *locked(&transactions.noted) = Stopwatch::start();
        Ok(())
    }

    /// Tries a step of a transaction again as long as that can help.
    fn retried(&self, step: impl Fn() -> KafkaResult<()>) -> KafkaResult<()> {
        let begun = Stopwatch::start();
        loop {
            match step() {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && begun.elapsed() < self.patience => {}
                result => return result,
            }
        }
    }

    /// Gives up the transaction that is open, if one is.
    pub(super) fn give_up(&self) {
        if self.transactions.is_some()
            && let Err(error) = self.producer.abort_transaction(Duration::from_secs(10))
        {
            tracing::debug!(target: "millstream::kafka", "{WHAT}: the transaction ends with its timeout: {error}");
        }
    }

    /// Fails where a message was not acknowledged.
    fn check(&self) -> Result<()> {
        match &*locked(&self.producer.context().failed) {
            Some((topic, error)) => Err(self.not_sent(topic, error)),
            None => Ok(()),
        }
    }

    fn not_sent(&self, topic: &str, error: &KafkaError) -> Error {
        match code_of(error) {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Error::data_invalid(format!(
                "kafka sink: a message for topic '{topic}' is larger than allowed; make rows smaller, or raise \
                 kafka.message.max.bytes and the topic's max.message.bytes"
            ))
            .with_source(error.clone()),
            _ => self.failed(&format!("writing to topic '{topic}'"), error),
        }
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let events = &self.producer.context().events;
        if let Some(open) = self.transactions.as_ref().filter(|open| locked(&open.begun).elapsed() > open.timeout) {
            return Error::unavailable(format!(
                "Kafka: {what}: the transaction was open for longer than the {:?} that it may be, and was given up ({error}); \
                 read less in a batch (maxOffsetsPerTrigger and its like), or raise kafka.transaction.timeout.ms and the \
                 brokers' transaction.max.timeout.ms",
                open.timeout
            ))
            .with_source(error.clone());
        }
        // What makes a producer unusable is told in the words of what follows from it.
        let fatal = self.producer.client().fatal_error();
        match fatal {
            Some((code, reason)) if !matches!(code, RDKafkaErrorCode::NoError) => {
                events.note(reason);
                failure(what, &KafkaError::MessageProduction(code), &self.client, events)
            }
            _ if error.to_string().to_lowercase().contains("fenced") => {
                Error::new(ErrorKind::Fenced, failure(what, error, &self.client, events).message())
            }
            _ => failure(what, error, &self.client, events),
        }
    }
}
