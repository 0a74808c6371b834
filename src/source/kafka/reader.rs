//! Reads ranges of partitions, with clients that stay connected and fetch ahead from batch to batch.
//!
//! A client reads any number of partitions, each through a queue of its own; a second one is made only where two ranges
//! of one partition are read at once. Guards that a range is read whole: it ends with a message at or behind its end, or
//! where the brokers confirm that nothing is left of it (offsets may be missing anywhere: transactions leave marks that
//! are no messages, and compaction removes some). Marks move the client's position, so that it tells of most ends at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::cluster::consumer;
use super::offsets::{Range, TopicPartition};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::kafka::{ClientEvents, Stopwatch, code_of, failure, is_transient, patiently};
use crate::source::memory::locked;

/// How long a poll waits for a message at first, and at most.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(100);

/// How long messages may take that are there already, after the end of an earlier range was told.
const SOON: Duration = Duration::from_millis(3);

/// How long a leader may take to learn how far a partition goes.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How long a seek may fail before the partition is assigned anew.
const SEEK: Duration = Duration::from_secs(1);

/// How often a silence is mentioned.
const MENTION: Duration = Duration::from_secs(10);

/// The clients of one source.
pub(super) struct Readers {
    settings: Settings,
    clients: Mutex<Vec<Arc<Client>>>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
}

/// One client, and the partitions it reads; `None` stands for one that is being read.
struct Client {
    consumer: Arc<BaseConsumer<ClientEvents>>,
    partitions: Mutex<BTreeMap<TopicPartition, Option<PartitionReader>>>,
}

/// What takes the messages of a range; false where no more are wanted.
pub(super) trait Messages {
    /// Takes one.
    ///
    /// # Errors
    /// Whatever ends the query.
    fn take<M: Message>(&mut self, message: &M) -> Result<bool>;

    /// Returns whether nobody waits for more.
    fn is_closed(&self) -> bool;
}

impl Readers {
    /// Makes what will connect when it first reads.
    pub(super) fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), clients: Mutex::default() }
    }

    /// Reads `range` to its end, in the order of offsets.
    ///
    /// # Errors
    /// `Unavailable` where the brokers are silent for too long, or some of the range is gone and must not be.
    pub(super) fn read(&self, range: &Range, messages: &mut impl Messages) -> Result<()> {
        let of = range.of();
        let (client, mut reader) = self.borrow(&of, range.start)?;
        let reading = Reading { settings: &self.settings, client: &client, range };
        let result = reading.run(&mut reader, messages);
        let mut partitions = locked(&client.partitions);
        match result {
            Ok(true) => partitions.insert(of, Some(reader)),
            // Nobody knows where it stands, or it has stopped to fetch.
            Ok(false) | Err(_) => {
                client.unassign(&of);
                partitions.remove(&of)
            }
        };
        result.map(drop)
    }

    /// Takes a reader that nobody uses, with the client it belongs to.
    fn borrow(&self, of: &TopicPartition, start: i64) -> Result<(Arc<Client>, PartitionReader)> {
        let mut clients = locked(&self.clients);
        for client in clients.iter() {
            let mut partitions = locked(&client.partitions);
            match partitions.get_mut(of) {
                Some(Some(_)) | None => {
                    let reader = partitions.insert(of.clone(), None).flatten();
                    drop(partitions);
                    let client = Arc::clone(client);
                    drop(clients);
                    return self.prepared(client, of, reader, start);
                }
                Some(None) => {}
            }
        }
        let client = Arc::new(Client { consumer: Arc::new(consumer(&self.settings)?), partitions: Mutex::default() });
        locked(&client.partitions).insert(of.clone(), None);
        clients.push(Arc::clone(&client));
        drop(clients);
        self.prepared(client, of, None, start)
    }

    fn prepared(
        &self,
        client: Arc<Client>,
        of: &TopicPartition,
        reader: Option<PartitionReader>,
        start: i64,
    ) -> Result<(Arc<Client>, PartitionReader)> {
        let reader = match reader {
            Some(reader) if reader.position == Some(start) => Ok(reader),
            Some(mut reader) => client.restart(&mut reader, of, start, &self.settings).map(|()| reader),
            None => client.assign(of, start, &self.settings),
        };
        match reader {
            Ok(reader) => Ok((client, PartitionReader { position: Some(start), ..reader })),
            Err(error) => {
                locked(&client.partitions).remove(of);
                Err(error)
            }
        }
    }

    /// Closes all clients. They say goodbye to the brokers, which may take a moment.
    pub(super) fn close(&self) {
        locked(&self.clients).clear();
    }
}

/// Reads one partition.
struct PartitionReader {
    queue: PartitionQueue<ClientEvents>,
    /// The offset from which on the queue gives everything, where that is known.
    position: Option<i64>,
    /// A message that was taken from the queue, and is behind the range that was read.
    ahead: Option<OwnedMessage>,
}

impl Client {
    fn assign(&self, of: &TopicPartition, start: i64, settings: &Settings) -> Result<PartitionReader> {
        let what = format!("beginning to read {of}");
        let failed = |e: KafkaError| failure(&what, &e, &settings.client, self.consumer.client().context());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&of.topic, of.partition, Offset::Offset(start)).map_err(failed)?;
        // The client learns at once who leads the topic, and not when it next looks for changes.
        let events = self.consumer.client().context();
        patiently(settings.patience, events, |left| self.consumer.fetch_metadata(Some(&of.topic), left))
            .map_err(failed)?;
        // Its messages have a queue of their own before they come, and still have it once it is assigned.
        let before = self.consumer.split_partition_queue(&of.topic, of.partition);
        // One that failed before may be assigned still.
        self.unassign(of);
        self.consumer.incremental_assign(&list).map_err(failed)?;
        let Some(queue) = self.consumer.split_partition_queue(&of.topic, of.partition) else {
            return Err(failed(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition)));
        };
        drop(before);
        // Should any have gone elsewhere, seeking lets all of them come again.
        self.seek(of, start, settings.patience, settings)?;
        Ok(PartitionReader { queue, position: Some(start), ahead: None })
    }

    /// Fetches no more of a partition.
    fn unassign(&self, of: &TopicPartition) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&of.topic, of.partition);
        // It may not be assigned at all.
        let _ = self.consumer.incremental_unassign(&list);
    }

    /// Lets `reader` begin anew at `start`; what was fetched is dropped.
    fn restart(
        &self,
        reader: &mut PartitionReader,
        of: &TopicPartition,
        start: i64,
        settings: &Settings,
    ) -> Result<()> {
        reader.ahead = None;
        if self.seek(of, start, SEEK, settings).is_err() {
            // A client that has stopped to fetch does not seek.
            *reader = self.assign(of, start, settings)?;
        }
        Ok(())
    }

    fn seek(&self, of: &TopicPartition, start: i64, within: Duration, settings: &Settings) -> Result<()> {
        let begun = Stopwatch::start();
        loop {
            self.consumer.client().context().listen(&self.consumer);
            let sought = self.consumer.seek(&of.topic, of.partition, Offset::Offset(start), Duration::from_secs(1));
            match sought {
                Ok(()) => return Ok(()),
                // The partition is assigned by another thread: it may not have begun.
                Err(_) if begun.elapsed() < within => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => {
                    let what = format!("reading {of} from offset {start}");
                    return Err(failure(&what, &error, &settings.client, self.consumer.client().context()));
                }
            }
        }
    }

    /// Returns the offset behind the last message or mark that was taken from a partition's queue.
    fn position(&self, of: &TopicPartition) -> Option<i64> {
        let positions = self.consumer.position().ok()?;
        let position = positions.find_partition(&of.topic, of.partition)?.offset();
        match position {
            Offset::Offset(position) => Some(position),
            _ => None,
        }
    }
}

/// One range being read.
struct Reading<'a> {
    settings: &'a Settings,
    client: &'a Client,
    range: &'a Range,
}

/// How sure it is that nothing is left before the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// There may be more.
    Unknown,
    /// The end of the partition was told; but perhaps of what it was before this range.
    ToldEnd,
    /// All comes anew from where it stands, so that the next end told is the end.
    Asked,
}

impl Reading<'_> {
    /// Reads the range; returns whether the reader can be used again.
    fn run(&self, reader: &mut PartitionReader, messages: &mut impl Messages) -> Result<bool> {
        let Range { start, end, .. } = *self.range;
        // Who stops half way leaves it anywhere.
        reader.position = None;
        let mut next = start;
        if let Some(message) = reader.ahead.take().filter(|message| message.offset() >= start) {
            if message.offset() >= end {
                reader.ahead = Some(message);
                next = end;
            } else {
                next = message.offset() + 1;
                if !messages.take(&message)? {
                    return Ok(true);
                }
            }
        }
        let mut left = Left::Unknown;
        let (mut heard, mut mentioned) = (Stopwatch::start(), Stopwatch::start());
        let mut wait = POLL_MIN;
        while next < end {
            match reader.queue.poll(wait) {
                Some(Ok(message)) => {
                    (heard, left, wait) = (Stopwatch::start(), Left::Unknown, POLL_MIN);
                    if message.offset() >= end {
                        reader.ahead = Some(message.detach());
                        next = end;
                    } else if message.offset() >= next {
                        next = message.offset() + 1;
                        if !messages.take(&message)? {
                            return Ok(true);
                        }
                    }
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(_))) if left == Left::Asked => {
                    next = end;
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => (left, wait) = (Left::ToldEnd, SOON),
                Some(Err(error)) => {
                    if let Some(on) = self.go_on_after(&error, next, reader)? {
                        if on >= end {
                            return Ok(false);
                        }
                        (next, left) = (on, Left::Unknown);
                    }
                }
                None => {
                    self.client.consumer.client().context().listen(&self.client.consumer);
                    if let Some(position) = self.client.position(&self.range.of()).filter(|position| *position > next) {
                        (next, heard) = (position, Stopwatch::start());
                        continue;
                    }
                    wait = (wait * 2).min(POLL_MAX);
                    // The brokers must know of the whole range first: one that has just begun to lead may not.
                    if left == Left::ToldEnd && self.is_all_there(next, heard)? {
                        self.client.restart(reader, &self.range.of(), next, self.settings)?;
                        left = Left::Asked;
                    }
                }
            }
            if messages.is_closed() {
                return Ok(true);
            }
            if heard.elapsed() >= self.settings.patience {
                return Err(self.failed(next, &KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
            }
            if heard.elapsed() >= MENTION && mentioned.elapsed() >= MENTION {
                mentioned = Stopwatch::start();
                let trouble = self.client.consumer.client().context().trouble();
                tracing::warn!("{}: no message at offset {next} for {:?}{trouble}", self.range.of(), heard.elapsed());
            }
        }
        reader.position = Some(end);
        Ok(true)
    }

    fn failed(&self, next: i64, error: &KafkaError) -> Error {
        let what = format!("reading {} at offset {next}", self.range.of());
        failure(&what, error, &self.settings.client, self.client.consumer.client().context())
    }

    /// Returns whether the leader has the range up to its end, so that what it does not give of it is not there.
    fn is_all_there(&self, next: i64, heard: Stopwatch) -> Result<bool> {
        let (topic, partition) = (&self.range.topic, self.range.partition);
        match self.client.consumer.fetch_watermarks(topic, partition, Duration::from_secs(5)) {
            Ok((_, high)) if high >= self.range.end => Ok(true),
            Ok((_, high)) if heard.elapsed() >= CATCH_UP => {
                let what =
                    format!("offsets {next} to {} are to be read, and it ends before {high}", self.range.end - 1);
                report_loss(self.settings, &self.range.of(), &what)?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if code_of(&error).is_some_and(is_transient) => Ok(false),
            Err(error) => Err(self.failed(next, &error)),
        }
    }

    /// Says where `reader` goes on after `error`, where that is somewhere else.
    fn go_on_after(&self, error: &KafkaError, next: i64, reader: &mut PartitionReader) -> Result<Option<i64>> {
        match code_of(error) {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let (topic, partition) = (&self.range.topic, self.range.partition);
                let watermarks = self.client.consumer.fetch_watermarks(topic, partition, self.settings.client.timeout);
                let (low, high) = watermarks.map_err(|e| self.failed(next, &e))?;
                if (low..high).contains(&next) {
                    // It is there by now, or again.
                    *reader = self.client.assign(&self.range.of(), next, self.settings)?;
                    return Ok(Some(next));
                }
                let range = format!("offset {next} is to be read and there are {low} to {high}");
                report_loss(self.settings, &self.range.of(), &range)?;
                let on = if low > next { low.min(self.range.end) } else { self.range.end };
                if on < self.range.end {
                    // The client has stopped to fetch: seeking would not let it begin again.
                    *reader = self.client.assign(&self.range.of(), on, self.settings)?;
                }
                Ok(Some(on))
            }
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => {
                report_loss(self.settings, &self.range.of(), "it does not exist any more")?;
                Ok(Some(self.range.end))
            }
            Some(code) if is_transient(code) => Ok(None),
            _ => Err(self.failed(next, error)),
        }
    }
}

/// Ends the query because messages are gone, or warns where the option failOnDataLoss is false.
///
/// # Errors
/// `Unavailable`, with Spark's words, unless that option says otherwise.
pub(super) fn report_loss(settings: &Settings, of: &TopicPartition, what: &str) -> Result<()> {
    if !settings.fail_on_data_loss {
        tracing::warn!("kafka source: {of}: some data may have been lost: {what}");
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "kafka source: {of}: some data may have been lost, because it is not in Kafka any more: {what}. Either it was aged \
         out, or the topic was deleted (and made anew) before all of it was read, or startingOffsets is too high. To go on \
         with what there is, set the option failOnDataLoss = 'false'"
    )))
}
