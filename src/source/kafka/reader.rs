//! Reads ranges of partitions, with clients that stay connected and fetch ahead from batch to batch.
//!
//! A client reads any number of partitions, each through a queue of its own; a second one is made only where two ranges
//! of one partition are read at once. Guards that a range is read whole: it ends with a message at or behind its end, or
//! where the brokers confirm that nothing is left of it (offsets may be missing anywhere: transactions leave marks that
//! are no messages, and compaction removes some). Marks move the client's position, so that it tells of most ends at once.
//! What a batch will read is begun all at once: the first messages of a partition take a moment, whatever their number.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;

use super::client::{Client, PartitionReader};
use super::cluster::LATE;
use super::offsets::{Offsets, Range, TopicPartition};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::kafka::{ClientEvents, Stopwatch, code_of, failure, is_transient, is_unknown, partitions_of, patiently};
use crate::source::memory::locked;

/// How long a poll waits for a message at first, and at most.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(100);

/// How long messages may take that are there already, after the end of an earlier range was told.
const SOON: Duration = Duration::from_millis(3);

/// How long a leader may take to learn how far a partition goes.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How long after a range was sought the end of its partition may be told, at first: who tells it later may not be who was
/// asked how far it goes.
const TRUSTED: Duration = Duration::from_secs(1);

/// How long a question of little weight may take.
const GLANCE: Duration = Duration::from_secs(5);

/// How often a silence is mentioned.
const MENTION: Duration = Duration::from_secs(10);

/// The clients of one source.
pub(super) struct Readers {
    settings: Settings,
    clients: Mutex<Vec<Arc<Client>>>,
    /// Where the batch that is about to run begins, in the partitions that nobody has begun.
    expected: Mutex<Offsets>,
    /// How many partitions there are.
    partitions: AtomicUsize,
    /// Held by whoever takes a reader, so that one thread begins for all.
    beginning: Mutex<()>,
    closed: AtomicBool,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Readers")
    }
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
        Self {
            settings: settings.clone(),
            clients: Mutex::default(),
            expected: Mutex::default(),
            partitions: AtomicUsize::default(),
            beginning: Mutex::default(),
            closed: AtomicBool::default(),
        }
    }

    /// Tells what will be read next, of so many partitions. Whoever reads the first of it begins the rest, too.
    pub(super) fn expect(&self, ranges: &[Range], partitions: usize) {
        self.partitions.store(partitions, Ordering::Relaxed);
        let mut expected = Offsets::new();
        for range in ranges {
            expected.entry(range.of()).or_insert(range.start);
        }
        *locked(&self.expected) = expected;
    }

    /// Reads `range` to its end, in the order of offsets.
    ///
    /// # Errors
    /// `Unavailable` where the brokers are silent for too long, or some of the range is gone and must not be.
    pub(super) fn read(&self, range: &Range, messages: &mut impl Messages) -> Result<()> {
        let of = range.of();
        let Some((client, mut reader)) = self.borrow(&of, range.start, messages)? else { return Ok(()) };
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

    /// Takes a reader that nobody uses, with the client it belongs to, and lets it stand at `start`. `None` where nobody
    /// waits for its messages any more.
    fn borrow(
        &self,
        of: &TopicPartition,
        start: i64,
        messages: &impl Messages,
    ) -> Result<Option<(Arc<Client>, PartitionReader)>> {
        let beginning = locked(&self.beginning);
        if messages.is_closed() || self.closed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let (client, reader) = self.take(of)?;
        let begun = reader.map_or_else(|| self.begin(&client, of, start), Ok);
        drop(beginning);
        let ready = begun.and_then(|mut reader| {
            if reader.position != Some(start) {
                client.restart(&mut reader, of, start, &self.settings)?;
                reader.position = Some(start);
            }
            Ok(reader)
        });
        match ready {
            Ok(reader) => Ok(Some((client, reader))),
            Err(error) => {
                locked(&client.partitions).remove(of);
                Err(error)
            }
        }
    }

    /// Takes the reader from a client that has one and does not use it, or else nothing from one that has none; makes a
    /// client if all read the partition now.
    fn take(&self, of: &TopicPartition) -> Result<(Arc<Client>, Option<PartitionReader>)> {
        let mut clients = locked(&self.clients);
        let is_idle = |client: &&Arc<Client>| matches!(locked(&client.partitions).get(of), Some(Some(_)));
        let is_without = |client: &&Arc<Client>| !locked(&client.partitions).contains_key(of);
        if let Some(client) = clients.iter().find(is_idle).or_else(|| clients.iter().find(is_without)) {
            let reader = locked(&client.partitions).insert(of.clone(), None).flatten();
            return Ok((Arc::clone(client), reader));
        }
        let client = Client::new(&self.settings, self.partitions.load(Ordering::Relaxed))?;
        locked(&client.partitions).insert(of.clone(), None);
        clients.push(Arc::clone(&client));
        Ok((client, None))
    }

    /// Begins a partition, and with it, in the first client, whatever else is expected and nobody has begun.
    fn begin(&self, client: &Client, of: &TopicPartition, start: i64) -> Result<PartitionReader> {
        let clients = locked(&self.clients).clone();
        let mut starts = Offsets::from([(of.clone(), start)]);
        if clients.first().is_some_and(|first| std::ptr::eq(first.as_ref(), client)) {
            let is_begun =
                |of: &TopicPartition| clients.iter().any(|client| locked(&client.partitions).contains_key(of));
            starts.extend(std::mem::take(&mut *locked(&self.expected)).into_iter().filter(|(of, _)| !is_begun(of)));
        }
        let mut readers = client.assign(&starts, &self.settings)?;
        let reader = readers.remove(of);
        locked(&client.partitions).extend(readers.into_iter().map(|(of, reader)| (of, Some(reader))));
        reader.ok_or_else(|| Error::internal(format!("kafka source: {of} was not begun")))
    }

    /// Closes all clients. They say goodbye to the brokers, which may take a moment.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        locked(&self.clients).clear();
    }
}

/// One range being read.
struct Reading<'a> {
    settings: &'a Settings,
    client: &'a Client,
    range: &'a Range,
}

/// How sure it is that nothing is left before the end.
#[derive(Clone, Copy)]
enum Left {
    /// There may be more.
    Unknown,
    /// The end of the partition was told; but perhaps of what it was before this range.
    ToldEnd,
    /// All comes anew, since then, from where it stands, so that the next end told is the end.
    Asked(Stopwatch),
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
        let fetch_ms = self.settings.client.get("fetch.wait.max.ms").and_then(|ms| ms.parse().ok()).unwrap_or_default();
        let (mut wait, mut trusted) = (POLL_MIN, TRUSTED + 2 * Duration::from_millis(fetch_ms));
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
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if let Left::Asked(asked) = left {
                        if asked.elapsed() < trusted {
                            next = end;
                            continue;
                        }
                        // Brokers may be slow.
                        trusted *= 2;
                    }
                    (left, wait) = (Left::ToldEnd, SOON);
                }
                Some(Err(error)) => {
                    if let Some(on) = self.go_on_after(&error, next, reader)? {
                        if on >= end {
                            return Ok(false);
                        }
                        (next, left) = (on, Left::Unknown);
                    }
                }
                None => {
                    self.events().listen(&self.client.consumer);
                    if self.events().has_strays() {
                        return Err(Error::internal(format!("{}: messages came by another way", self.range.of())));
                    }
                    if let Some(position) = self.client.position(&self.range.of()).filter(|position| *position > next) {
                        (next, heard) = (position, Stopwatch::start());
                        continue;
                    }
                    wait = (wait * 2).min(POLL_MAX);
                    // The brokers must know of the whole range first: one that has just begun to lead may not.
                    if matches!(left, Left::ToldEnd) && self.is_all_there(next, heard)? {
                        self.client.restart(reader, &self.range.of(), next, self.settings)?;
                        left = Left::Asked(Stopwatch::start());
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
                let trouble = self.events().trouble();
                tracing::warn!("{}: no message at offset {next} for {:?}{trouble}", self.range.of(), heard.elapsed());
                if !self.exists()? {
                    self.report_gone()?;
                    return Ok(false);
                }
                mentioned = Stopwatch::start();
            }
        }
        reader.position = Some(end);
        Ok(true)
    }

    fn events(&self) -> &ClientEvents {
        self.client.events()
    }

    fn failed(&self, next: i64, error: &KafkaError) -> Error {
        let what = format!("reading {} at offset {next}", self.range.of());
        failure(&what, error, &self.settings.client, self.events())
    }

    fn report_gone(&self) -> Result<()> {
        report_loss(self.settings, &self.range.of(), "it does not exist any more")
    }

    /// Returns whether the partition exists, as far as brokers that answer say.
    fn exists(&self) -> Result<bool> {
        let (topic, begun) = (&self.range.topic, Stopwatch::start());
        let listed = patiently(GLANCE, self.events(), |left| {
            partitions_of(self.client.consumer.client(), topic, begun.elapsed(), LATE, left)
        });
        match listed {
            Ok(listed) => Ok(listed.contains(&self.range.partition)),
            Err(error) => match code_of(&error) {
                Some(code) if is_unknown(code) => Ok(false),
                Some(code) if is_transient(code) => Ok(true),
                _ => Err(self.failed(self.range.start, &error)),
            },
        }
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
                let watermarks = patiently(self.settings.client.timeout, self.events(), |left| {
                    self.client.consumer.fetch_watermarks(topic, partition, left)
                });
                let (low, high) = watermarks.map_err(|e| self.failed(next, &e))?;
                if (low..high).contains(&next) {
                    // It is there by now, or again.
                    *reader = self.client.assign_one(&self.range.of(), next, self.settings)?;
                    return Ok(Some(next));
                }
                let range = format!("offset {next} is to be read and there are {low} to {high}");
                report_loss(self.settings, &self.range.of(), &range)?;
                let on = if low > next { low.min(self.range.end) } else { self.range.end };
                if on < self.range.end {
                    // The client has stopped to fetch: seeking would not let it begin again.
                    *reader = self.client.assign_one(&self.range.of(), on, self.settings)?;
                }
                Ok(Some(on))
            }
            Some(code) if is_unknown(code) => {
                // It may have been said long ago, or by a broker that has just begun.
                if self.exists()? {
                    *reader = self.client.assign_one(&self.range.of(), next, self.settings)?;
                    return Ok(Some(next));
                }
                self.report_gone()?;
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
