//! What the brokers know: which partitions there are, and how far they go.
//!
//! Everything here waits for the network and is called from threads that may. Guards that an answer is whole: a
//! partition that does not answer is an error, and never one that is not there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::offsets::{Offsets, TopicPartition};
use super::settings::{Settings, Subscription};
use crate::error::{Error, Result};
use crate::kafka::{
    ClientEvents, Stopwatch, code_of, failure, is_transient, is_unknown, partitions_of, patiently, refused,
};

/// How long a topic that nobody knows is asked for again: a broker that has just begun may learn of it late.
pub(super) const LATE: Duration = Duration::from_millis(2_500);

/// Topics of the brokers' own, which no pattern means.
const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// What is known of topics before the brokers are asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Topics {
    /// Those that were there: brokers that do not name them are asked again.
    pub(super) there: BTreeSet<String>,
    /// Those that were not, which was told: nobody waits for them.
    pub(super) gone: BTreeSet<String>,
}

/// What went wrong, and whether trying again may help.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) error: Error,
    pub(super) is_transient: bool,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { error, is_transient: false }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        trouble.error
    }
}

/// A client that asks questions and reads nothing.
pub(super) struct Cluster {
    settings: Settings,
    consumer: BaseConsumer<ClientEvents>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.settings.client.servers)
    }
}

/// What a reading client fetches ahead, in KiB: of one partition at most and at least, and of all.
const AHEAD_KIB: (usize, usize, usize) = (8 * 1024, 512, 128 * 1024);

/// Makes a client of `settings`, for reading so many partitions or for asking.
///
/// # Errors
/// `InvalidOption` where the client does not take the options together.
pub(super) fn consumer(settings: &Settings, partitions: usize) -> Result<BaseConsumer<ClientEvents>> {
    let (most, least, all) = AHEAD_KIB;
    let ahead_kib = (all / partitions.max(1)).clamp(least, most).to_string();
    let defaults = [
        // Rows of transactions that were given up are none.
        ("isolation.level", "read_committed"),
        ("client.id", "millstream"),
        // What is fetched ahead, a partition.
        ("queued.max.messages.kbytes", &ahead_kib),
        // Where that is reached, fetching goes on as soon as there is room, and not a second later.
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.error.backoff.ms", "50"),
        // How soon the end of a partition is told where its last offsets are no messages.
        ("fetch.wait.max.ms", "100"),
        ("reconnect.backoff.max.ms", "1000"),
        // A partition that moved or is new is found soon.
        ("topic.metadata.refresh.interval.ms", "10000"),
        ("allow.auto.create.topics", "false"),
    ];
    let fixed = [
        ("group.id", settings.group_id.as_str()),
        // Offsets are in the checkpoint.
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        // From leaders alone: a follower may not have what a batch was planned with.
        ("client.rack", ""),
        ("enable.partition.eof", "true"),
    ];
    settings.client.with(&defaults, &fixed).create_with_context(ClientEvents::default()).map_err(|e| refused(&e))
}

impl Cluster {
    /// Makes the client; it connects when it is first asked.
    ///
    /// # Errors
    /// As [`consumer`].
    pub(super) fn new(settings: &Settings) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { settings: settings.clone(), consumer: consumer(settings, 0)? }))
    }

    fn trouble(&self, what: &str, error: &KafkaError) -> Trouble {
        let events = self.consumer.client().context();
        let is_transient = code_of(error).is_some_and(is_transient);
        Trouble { error: failure(what, error, &self.settings.client, events), is_transient }
    }

    /// Tries until it works, cannot, or `within` is over.
    fn insist<T>(
        &self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, Trouble> {
        let events = self.consumer.client().context();
        let result = patiently(within, events, |left| {
            let result = attempt(left);
            events.listen(&self.consumer);
            result
        });
        result.map_err(|error| self.trouble(what, &error))
    }

    /// Returns the partitions that are read; `topics` are those of before.
    ///
    /// # Errors
    /// `Unavailable` where brokers do not answer within `within`, or a topic that was named does not exist.
    pub(super) fn partitions(&self, topics: &Topics, within: Duration) -> Result<Vec<TopicPartition>, Trouble> {
        let begun = Stopwatch::start();
        let of_topic = |topic: &str| {
            let patience = if topics.gone.contains(topic) { Duration::ZERO } else { LATE };
            self.of_topic(topic, begun, patience, within)
        };
        match &self.settings.subscription {
            Subscription::Partitions(partitions) => {
                let named: BTreeSet<&str> = partitions.iter().map(|of| of.topic.as_str()).collect();
                let mut there = Vec::new();
                for topic in named {
                    there.extend(of_topic(topic)?);
                }
                Ok(there.into_iter().filter(|of| partitions.contains(of)).collect())
            }
            Subscription::Topics(named) => {
                let mut all = Vec::new();
                for topic in named {
                    all.extend(of_topic(topic)?);
                }
                Ok(all)
            }
            Subscription::Pattern(_, regex) => {
                let metadata =
                    self.insist("listing topics", within, |left| self.consumer.fetch_metadata(None, left))?;
                let is_read = |name: &str| regex.is_match(name) && !INTERNAL.contains(&name);
                let mut unsure: BTreeSet<&str> =
                    topics.there.iter().map(String::as_str).filter(|name| is_read(name)).collect();
                let mut all = Vec::new();
                for topic in metadata.topics().iter().filter(|topic| is_read(topic.name())) {
                    let ids = topic.partitions().iter().map(|partition| partition.id());
                    let before = all.len();
                    all.extend(ids.map(|partition| TopicPartition { topic: topic.name().into(), partition }));
                    // One that has no leader yet seems to have no partitions.
                    match topic.error().is_none() && all.len() > before {
                        true => unsure.remove(topic.name()),
                        false => unsure.insert(topic.name()),
                    };
                }
                for topic in unsure {
                    all.retain(|of| of.topic != topic);
                    match of_topic(topic) {
                        Ok(partitions) => all.extend(partitions),
                        // Nor does the list have those that may not be seen any more, with which it is as if they were gone.
                        Err(trouble) if code(&trouble) == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {}
                        Err(trouble) => return Err(trouble),
                    }
                }
                Ok(all)
            }
        }
    }

    fn of_topic(
        &self,
        topic: &str,
        begun: Stopwatch,
        patience: Duration,
        within: Duration,
    ) -> Result<Vec<TopicPartition>, Trouble> {
        let what = format!("looking up topic '{topic}'");
        let partitions = self.insist(&what, within, |left| {
            partitions_of(self.consumer.client(), topic, begun.elapsed(), patience, left)
        });
        match partitions {
            Ok(ids) => Ok(ids.into_iter().map(|partition| TopicPartition { topic: topic.into(), partition }).collect()),
            // A topic that is gone has no partitions; whether that is an error depends on who asks.
            Err(trouble) if code(&trouble).is_some_and(is_unknown) => Ok(Vec::new()),
            Err(trouble) => Err(trouble),
        }
    }

    /// Returns for each partition the offset behind its last message that may be read.
    ///
    /// # Errors
    /// `Unavailable` where brokers do not answer within `within`.
    pub(super) fn latest(&self, of: &[TopicPartition], within: Duration) -> Result<Offsets, Trouble> {
        self.offsets(of.iter().map(|of| (of.clone(), Offset::End)), "the last offset", within)
    }

    /// Returns for each partition the offset of its oldest message.
    ///
    /// # Errors
    /// As [`Cluster::latest`].
    pub(super) fn earliest(&self, of: &[TopicPartition], within: Duration) -> Result<Offsets, Trouble> {
        self.offsets(of.iter().map(|of| (of.clone(), Offset::Beginning)), "the first offset", within)
    }

    /// Returns for each partition the offset of its first message of the given time (milliseconds) or later; partitions
    /// without one are left out.
    ///
    /// # Errors
    /// As [`Cluster::latest`].
    pub(super) fn at_times(&self, times: &Offsets, within: Duration) -> Result<Offsets, Trouble> {
        let wanted = times.iter().map(|(of, ms)| (of.clone(), Offset::Offset((*ms).max(0))));
        self.offsets(wanted, "the offset of a time", within)
    }

    fn offsets(
        &self,
        wanted: impl Iterator<Item = (TopicPartition, Offset)>,
        what: &str,
        within: Duration,
    ) -> Result<Offsets, Trouble> {
        let wanted: Vec<(TopicPartition, Offset)> = wanted.collect();
        if wanted.is_empty() {
            return Ok(Offsets::new());
        }
        let what = format!("asking for {what} of {} partitions, such as {}", wanted.len(), wanted[0].0);
        self.insist(&what, within, |left| {
            let mut list = TopicPartitionList::with_capacity(wanted.len());
            for (of, offset) in &wanted {
                list.add_partition_offset(&of.topic, of.partition, *offset)?;
            }
            let answered = self.consumer.offsets_for_times(list, left)?;
            let mut offsets = Offsets::new();
            for element in answered.elements() {
                element.error()?;
                // A time after the last message has the offset "end".
                if let Offset::Offset(offset) = element.offset() {
                    let of = TopicPartition { topic: element.topic().into(), partition: element.partition() };
                    offsets.insert(of, offset);
                }
            }
            Ok(offsets)
        })
    }
}

fn code(trouble: &Trouble) -> Option<RDKafkaErrorCode> {
    let source = std::error::Error::source(&trouble.error).and_then(|source| source.downcast_ref::<KafkaError>());
    source.and_then(code_of)
}
