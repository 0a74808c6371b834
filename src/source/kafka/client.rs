//! A client that reads partitions, each through a queue of its own, and stays connected from batch to batch.
//!
//! Guards that no message of a partition goes another way than through its queue: the queue is there before the partition is
//! assigned, and a message that came elsewhere is told by [`ClientEvents::has_strays`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::cluster::consumer;
use super::offsets::{Offsets, TopicPartition};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::kafka::{ClientEvents, Stopwatch, failure, patiently};

/// How long a seek may fail before the partition is assigned anew.
const SEEK: Duration = Duration::from_secs(1);

/// One client, and the partitions it reads; `None` stands for one that is being read.
pub(super) struct Client {
    pub(super) consumer: Arc<BaseConsumer<ClientEvents>>,
    pub(super) partitions: Mutex<BTreeMap<TopicPartition, Option<PartitionReader>>>,
}

/// Reads one partition.
pub(super) struct PartitionReader {
    pub(super) queue: PartitionQueue<ClientEvents>,
    /// The offset from which on the queue gives everything, where that is known.
    pub(super) position: Option<i64>,
    /// A message that was taken from the queue, and is behind the range that was read.
    pub(super) ahead: Option<OwnedMessage>,
}

impl Client {
    /// Makes one that will connect when it first reads, for so many partitions.
    pub(super) fn new(settings: &Settings, partitions: usize) -> Result<Arc<Self>> {
        let consumer = Arc::new(consumer(settings, partitions)?);
        Ok(Arc::new(Self { consumer, partitions: Mutex::default() }))
    }

    pub(super) fn events(&self) -> &ClientEvents {
        self.consumer.client().context()
    }

    /// Begins to fetch partitions, each from the offset beside it.
    pub(super) fn assign(
        &self,
        starts: &Offsets,
        settings: &Settings,
    ) -> Result<BTreeMap<TopicPartition, PartitionReader>> {
        let events = self.events();
        let failed = |what: &dyn std::fmt::Display, error: &KafkaError| {
            failure(&format!("beginning to read {what}"), error, &settings.client, events)
        };
        // The client learns at once who leads a topic, and not when it next looks for changes.
        let begun = Stopwatch::start();
        for topic in starts.keys().map(|of| &of.topic).collect::<BTreeSet<_>>() {
            let patience = settings.patience.saturating_sub(begun.elapsed());
            patiently(patience, events, |left| self.consumer.fetch_metadata(Some(topic), left))
                .map_err(|e| failed(&format!("topic '{topic}'"), &e))?;
        }
        let mut list = TopicPartitionList::new();
        let mut readers = BTreeMap::new();
        for (of, start) in starts {
            list.add_partition_offset(&of.topic, of.partition, Offset::Offset(*start)).map_err(|e| failed(of, &e))?;
            // One that failed before may be assigned still.
            self.unassign(of);
            // Its messages have a queue of their own before they come. What is unassigned may be forgotten with its queue.
            let Some(queue) = self.consumer.split_partition_queue(&of.topic, of.partition) else {
                return Err(failed(of, &KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition)));
            };
            // What it was told before is settled.
            while queue.poll(Duration::ZERO).is_some() {}
            readers.insert(of.clone(), PartitionReader { queue, position: Some(*start), ahead: None });
        }
        self.consumer.incremental_assign(&list).map_err(|e| {
            let names: Vec<String> = starts.keys().map(TopicPartition::name).collect();
            failed(&names.join(", "), &e)
        })?;
        Ok(readers)
    }

    /// Begins to fetch one partition.
    pub(super) fn assign_one(&self, of: &TopicPartition, start: i64, settings: &Settings) -> Result<PartitionReader> {
        let mut readers = self.assign(&Offsets::from([(of.clone(), start)]), settings)?;
        readers.remove(of).ok_or_else(|| Error::internal(format!("kafka source: {of} was not begun")))
    }

    /// Fetches no more of a partition.
    pub(super) fn unassign(&self, of: &TopicPartition) {
        let assigned = self.consumer.assignment();
        if assigned.is_ok_and(|assigned| assigned.find_partition(&of.topic, of.partition).is_some()) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&of.topic, of.partition);
            // It fails where it is not assigned.
            let _ = self.consumer.incremental_unassign(&list);
        }
    }

    /// Lets `reader` begin anew at `start`; what was fetched is dropped.
    pub(super) fn restart(
        &self,
        reader: &mut PartitionReader,
        of: &TopicPartition,
        start: i64,
        settings: &Settings,
    ) -> Result<()> {
        reader.ahead = None;
        if self.seek(of, start, settings).is_err() {
            // A client that has stopped to fetch does not seek.
            *reader = self.assign_one(of, start, settings)?;
        }
        Ok(())
    }

    fn seek(&self, of: &TopicPartition, start: i64, settings: &Settings) -> Result<()> {
        let begun = Stopwatch::start();
        loop {
            self.events().listen(&self.consumer);
            let sought = self.consumer.seek(&of.topic, of.partition, Offset::Offset(start), Duration::from_secs(1));
            match sought {
                Ok(()) => return Ok(()),
                // The partition is assigned by another thread: it may not have begun.
                Err(_) if begun.elapsed() < SEEK => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => {
                    let what = format!("reading {of} from offset {start}");
                    return Err(failure(&what, &error, &settings.client, self.events()));
                }
            }
        }
    }

    /// Returns the offset behind the last message or mark that was taken from a partition's queue.
    pub(super) fn position(&self, of: &TopicPartition) -> Option<i64> {
        let positions = self.consumer.position().ok()?;
        let position = positions.find_partition(&of.topic, of.partition)?.offset();
        match position {
            Offset::Offset(position) => Some(position),
            _ => None,
        }
    }
}
