//! The Kafka source: topics as unbounded tables, read by offsets.
//!
//! Offsets are in the checkpoint alone, never in a consumer group: a batch that died reads the same messages again. Where a
//! query begins is pinned when it first starts, so that "latest" means that moment even if nothing comes for long. Every
//! plan looks for new partitions, which are read from their oldest message on.
//!
//! Options as in Spark's guide to its Kafka source; values are decoded as the option `format` says ([`value`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::SendableRecordBatchStream;

use self::beginning::{all_named, all_there, initial_offsets};
use self::cluster::{Cluster, Topics, Trouble};
use self::offsets::{KafkaOffset, Offsets, Range, TopicPartition, cut, limited, ranges};
use self::reader::{Readers, report_loss};
use self::rows::Columns;
use self::settings::{Ending, Settings};
use self::value::{ValueFormat, options_of};
use super::memory::{check_declared, locked};
use super::{Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::kafka::Stopwatch;
use crate::source::decode::corrupt_column;
use crate::storage::{DurableStore, blocking, read_checked, write_checked};

mod beginning;
mod client;
mod cluster;
mod offsets;
mod reader;
mod reading;
mod rows;
mod settings;
mod value;

/// The file in the source's own directory that says where the query began.
const INITIAL: &str = "initial";

/// How long a running query waits for an answer before it looks whether it was stopped.
const GLANCE: Duration = Duration::from_secs(4);
const LONGEST_GLANCE: Duration = Duration::from_secs(16);

/// How often an outage is mentioned.
const MENTION: Duration = Duration::from_secs(10);

/// Makes sources that read Kafka's topics.
#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaSourceProvider;

#[async_trait]
impl SourceProvider for KafkaSourceProvider {
    fn has_partitions(&self) -> bool {
        true
    }

    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        Ok(table_of(spec)?.1.schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let (settings, columns) = table_of(spec)?;
        Ok(Arc::new(KafkaSource {
            settings,
            columns: Arc::new(columns),
            clock: Arc::clone(&spec.clock),
            clients: Mutex::default(),
            state: Mutex::default(),
        }))
    }
}

/// Reads everything that a table says of its topics and columns. Nothing is connected.
fn table_of(spec: &SourceSpec) -> Result<(Settings, Columns)> {
    let settings = Settings::of(&spec.options, &options_of(spec.options.get("format")))?;
    let columns = match ValueFormat::of(&spec.options, settings.client.timeout)? {
        None => {
            let columns = Columns::plain(settings.include_headers);
            check_declared(spec, &columns.schema()).map_err(|e| {
                Error::invalid_query(format!(
                    "{}; to read columns from messages' values, say how with the option 'format' (json, csv, avro, raw, \
                     debezium)",
                    e.message()
                ))
            })?;
            columns
        }
        Some(format) => {
            let Some(declared) = spec.schema.as_ref().filter(|schema| !schema.fields().is_empty()) else {
                return Err(Error::invalid_query(
                    "messages' values are to be decoded (option 'format'), which needs declared columns",
                ));
            };
            let corrupt = corrupt_column(declared, &spec.options)?;
            Columns::declared(declared, format, corrupt)?
        }
    };
    Ok((settings, columns))
}

/// The topics of one query.
#[derive(Debug)]
pub struct KafkaSource {
    settings: Settings,
    columns: Arc<Columns>,
    clock: Arc<dyn Clock>,
    clients: Mutex<Option<Clients>>,
    state: Mutex<State>,
}

/// What is connected while a query runs.
#[derive(Debug, Clone)]
struct Clients {
    cluster: Arc<Cluster>,
    readers: Arc<Readers>,
}

#[derive(Debug, Default)]
struct State {
    /// Where a query that has read nothing begins.
    initial: Offsets,
    /// What later plans keep to, once the end is fixed.
    fixed: Option<Offsets>,
    /// Where reading ends for good, where the options say so.
    ends: Option<Offsets>,
    /// Partitions that are known and not there, which was told.
    missing: BTreeSet<TopicPartition>,
    /// Topics of which there were partitions.
    topics: BTreeSet<String>,
    /// The ends as they were last seen.
    latest: Option<Offsets>,
    /// Since when brokers have not answered, and when that was last mentioned.
    silent: Option<(Stopwatch, Option<Stopwatch>)>,
    /// When the last batch was planned.
    planned_ms: Option<i64>,
}

impl State {
    /// Notes partitions of which something was read.
    fn were_read<'a>(&mut self, partitions: impl Iterator<Item = &'a TopicPartition>) {
        let there = partitions.filter(|of| !self.missing.contains(of)).map(|of| of.topic.clone());
        self.topics.extend(there);
    }

    fn known_topics(&self) -> Topics {
        let gone = self.missing.iter().map(|of| of.topic.clone()).filter(|topic| !self.topics.contains(topic));
        Topics { there: self.topics.clone(), gone: gone.collect() }
    }
}

impl KafkaSource {
    fn clients(&self) -> Result<Clients> {
        let clients = locked(&self.clients).clone();
        clients.ok_or_else(|| Error::internal("kafka source: it is read before it is opened, or after it was stopped"))
    }

    /// Asks the brokers something, in a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Cluster) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<Result<T, Trouble>> {
        let cluster = self.clients()?.cluster;
        blocking(move || Ok(question(&cluster))).await
    }

    /// Finds where the query begins, and writes that down: it is asked once in the life of a checkpoint.
    async fn begin(&self, journal: &dyn DurableStore) -> Result<Offsets> {
        if let Some(bytes) = read_checked(journal, INITIAL).await? {
            return Ok(KafkaOffset::parse(&serde_json::from_slice(&bytes)?)?.topics);
        }
        let settings = self.settings.clone();
        let initial = self.ask(move |cluster| initial_offsets(cluster, &settings)).await?.map_err(Error::from)?;
        let json = serde_json::to_vec(&KafkaOffset { topics: initial.clone(), first: Offsets::new() }.to_json())?;
        write_checked(journal, INITIAL, json).await?;
        Ok(initial)
    }

    /// Asks how far the partitions go. `None` where the brokers do not answer and that need not end the query yet.
    async fn look(&self, must_answer: bool) -> Result<Option<Offsets>> {
        if let Some(fixed) = &locked(&self.state).fixed {
            return Ok(Some(fixed.clone()));
        }
        // Brokers that are slow to answer are given more time, once they have been waited for.
        let silent = locked(&self.state).silent.map_or(Duration::ZERO, |(since, _)| since.elapsed());
        let within = if must_answer { self.settings.patience } else { silent.clamp(GLANCE, LONGEST_GLANCE) };
        let topics = locked(&self.state).known_topics();
        let answer = self
            .ask(move |cluster| {
                let partitions = cluster.partitions(&topics, within)?;
                cluster.latest(&partitions, within)
            })
            .await?;
        let mut state = locked(&self.state);
        match answer {
            Ok(latest) => {
                if let Some((since, _)) = state.silent.take() {
                    tracing::info!("{}: the brokers answer again, after {:?}", self.description(), since.elapsed());
                }
                state.topics = latest.keys().map(|of| of.topic.clone()).collect();
                state.latest = Some(latest.clone());
                Ok(Some(latest))
            }
            Err(trouble) if !trouble.is_transient || must_answer => Err(trouble.error),
            Err(trouble) => {
                let (since, mentioned) = state.silent.unwrap_or((Stopwatch::start(), None));
                if since.elapsed() >= self.settings.patience {
                    let silence = format!("nothing for {:?} (kafkaConsumer.pollTimeoutMs)", since.elapsed());
                    return Err(trouble.error.context(silence));
                }
                let is_due = mentioned.is_none_or(|mentioned| mentioned.elapsed() >= MENTION);
                if is_due {
                    tracing::warn!("{}; trying on", trouble.error);
                }
                state.silent = Some((since, if is_due { Some(Stopwatch::start()) } else { mentioned }));
                Ok(None)
            }
        }
    }

    /// Says where a batch begins in each partition, and which of them no batch has read.
    async fn begins(&self, start: Option<&Offsets>, latest: &Offsets) -> Result<(Offsets, Offsets)> {
        let initial = locked(&self.state).initial.clone();
        let known = start.unwrap_or(&initial);
        let (mut begins, mut first, mut unread) = (Offsets::new(), Offsets::new(), Vec::new());
        for (of, end) in latest {
            match known.get(of) {
                Some(at) if at <= end => {
                    begins.insert(of.clone(), *at);
                    if start.is_none() {
                        first.insert(of.clone(), *at);
                    }
                }
                Some(at) => {
                    let what = format!("offset {at} is to be read next, and it ends before {end}");
                    report_loss(&self.settings, of, &what)?;
                    unread.push(of.clone());
                }
                None => unread.push(of.clone()),
            }
        }
        locked(&self.state).missing.retain(|of| !latest.contains_key(of));
        for of in known.keys().filter(|of| !latest.contains_key(of)) {
            if self.settings.fail_on_data_loss && !self.settings.subscription.covers(of) {
                return Err(Error::incompatible(format!(
                    "kafka source: {of} was read before and is not subscribed to any more: subscribe to it again, use a new \
                     checkpoint, or go on without it by the option failOnDataLoss = 'false'"
                )));
            }
            if locked(&self.state).missing.insert(of.clone()) {
                report_loss(&self.settings, of, "it does not exist any more")?;
            }
        }
        if !unread.is_empty() {
            let patience = self.settings.patience;
            let oldest = self.ask(move |cluster| cluster.earliest(&unread, patience)).await?.map_err(Error::from)?;
            begins.extend(oldest.clone());
            first.extend(oldest);
        }
        Ok((begins, first))
    }

    /// Finds where reading ends for good.
    async fn end(&self) -> Result<Option<Offsets>> {
        let given = match &self.settings.ending {
            Ending::Open => return Ok(None),
            Ending::Latest => Offsets::new(),
            Ending::At(given) => given.clone(),
        };
        let is_latest = self.settings.ending == Ending::Latest;
        let latest = self.look(true).await?.unwrap_or_default();
        if !is_latest {
            all_named("endingOffsets", &given, latest.keys())?;
        }
        let end = |(of, latest): (TopicPartition, i64)| {
            let end = given.get(&of).filter(|end| **end >= 0).copied().unwrap_or(latest);
            (of, end)
        };
        Ok(Some(latest.into_iter().map(end).collect()))
    }

    /// Returns whether it is too early for a batch of so many rows.
    fn waits(&self, rows: u64) -> bool {
        let Some(least) = self.settings.min_offsets else { return false };
        let planned_ms = locked(&self.state).planned_ms;
        let waited_ms = planned_ms.map(|planned_ms| self.clock.now_ms().saturating_sub(planned_ms));
        rows < least && waited_ms.is_some_and(|waited_ms| waited_ms < self.settings.max_trigger_delay_ms)
    }

    fn splits(&self, ranges: Vec<Range>, partitions: usize) -> Result<Vec<Split>> {
        self.clients()?.readers.expect(&ranges, partitions);
        cut(ranges, self.settings.min_partitions).iter().map(Range::to_split).collect()
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        self.columns.schema()
    }

    fn description(&self) -> String {
        format!("KafkaSource[{}]", self.settings.subscription)
    }

    async fn open(&self, context: SourceContext) -> Result<()> {
        let cluster = Cluster::new(&self.settings)?;
        let readers = Arc::new(Readers::new(&self.settings));
        *locked(&self.clients) = Some(Clients { cluster, readers });
        let initial = if context.history.is_empty() {
            self.begin(context.journal.as_ref()).await?
        } else {
            let (within, subscription) = (self.settings.client.timeout, self.settings.subscription.clone());
            let there =
                self.ask(move |cluster| cluster.partitions(&Topics::default(), within)).await?.map_err(Error::from)?;
            if self.settings.fail_on_data_loss {
                all_there(&subscription, &there)?;
            }
            Offsets::new()
        };
        let topics = initial.keys().map(|of| of.topic.clone()).collect();
        *locked(&self.state) = State { initial, topics, ..State::default() };
        let ends = self.end().await?;
        locked(&self.state).ends = ends;
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        let latest = self.look(true).await?;
        locked(&self.state).fixed = latest;
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, limit: ReadLimit) -> Result<Option<Planned>> {
        let start = start.map(KafkaOffset::parse).transpose()?.map(|start| start.topics);
        locked(&self.state).were_read(start.iter().flat_map(Offsets::keys));
        let is_bounded = limit == ReadLimit::All || locked(&self.state).fixed.is_some();
        let Some(latest) = self.look(is_bounded).await? else { return Ok(None) };
        let (begins, first) = self.begins(start.as_ref(), &latest).await?;
        let ends = locked(&self.state).ends.clone();
        let topics = latest.iter().map(|(of, latest)| {
            let begin = begins.get(of).copied().unwrap_or(*latest);
            let allowed = ends.as_ref().map_or(*latest, |ends| ends.get(of).map_or(begin, |end| *latest.min(end)));
            (of.clone(), allowed.max(begin))
        });
        let mut end = KafkaOffset { topics: topics.collect(), first };
        let mut found = ranges(&begins, &end)?;
        let rows = found.iter().map(|range| range.end.abs_diff(range.start)).sum();
        if rows == 0 || (!is_bounded && self.waits(rows)) {
            return Ok(None);
        }
        if let (ReadLimit::Options, Some(most)) = (limit, self.settings.max_offsets) {
            found = limited(&found, most);
            end.topics.extend(found.iter().map(|range| (range.of(), range.end)));
        }
        // What is missing may come back, and then goes on where it was.
        for (of, at) in start.iter().flatten() {
            end.topics.entry(of.clone()).or_insert(*at);
        }
        locked(&self.state).planned_ms = Some(self.clock.now_ms());
        Ok(Some(Planned { end: end.to_json(), splits: self.splits(found, latest.len())? }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        let start = start.map(KafkaOffset::parse).transpose()?.map(|start| start.topics).unwrap_or_default();
        let end = KafkaOffset::parse(end)?;
        self.splits(ranges(&start, &end)?, end.topics.len())
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let range = Range::of_split(split)?;
        let rows = self.columns.rows(&range.of(), &context)?;
        Ok(reading::stream(self.clients()?.readers, range, rows, context.batch_size))
    }

    fn partition(&self, split: &Split) -> Option<String> {
        Range::of_split(split).ok().map(|range| range.of().name())
    }

    fn partitions(&self, end: &Offset) -> Result<Vec<String>> {
        let missing = locked(&self.state).missing.clone();
        let topics = KafkaOffset::parse(end)?.topics;
        Ok(topics.keys().filter(|of| !missing.contains(of)).map(TopicPartition::name).collect())
    }

    async fn commit(&self, _end: &Offset) -> Result<()> {
        Ok(())
    }

    /// As Spark: how many offsets lie between the end of the batch and what there was when it was planned, over the
    /// partitions.
    fn metrics(&self, end: &Offset) -> BTreeMap<String, String> {
        let (Ok(end), Some(latest)) = (KafkaOffset::parse(end), locked(&self.state).latest.clone()) else {
            return BTreeMap::new();
        };
        let behind = |(of, latest): (&TopicPartition, &i64)| Some((latest - end.topics.get(of)?).max(0));
        let behind: Vec<i64> = latest.iter().filter_map(behind).collect();
        let (Some(least), Some(most)) = (behind.iter().min(), behind.iter().max()) else {
            return BTreeMap::new();
        };
        let mean = behind.iter().sum::<i64>() as f64 / behind.len() as f64;
        BTreeMap::from([
            ("minOffsetsBehindLatest".to_string(), least.to_string()),
            ("maxOffsetsBehindLatest".to_string(), most.to_string()),
            ("avgOffsetsBehindLatest".to_string(), mean.to_string()),
        ])
    }

    async fn latest(&self) -> Result<Option<Offset>> {
        let latest = locked(&self.state).latest.clone();
        Ok(latest.map(|topics| KafkaOffset { topics, first: Offsets::new() }.to_json()))
    }

    async fn stop(&self) {
        let clients = locked(&self.clients).take();
        // Closing waits for the clients' threads.
        let closing = blocking(move || {
            if let Some(clients) = &clients {
                clients.readers.close();
            }
            drop(clients);
            Ok(())
        });
        if let Err(error) = closing.await {
            tracing::warn!("{}: {error}", self.description());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition: 0 }
    }

    /// A topic that is gone, which was told, is not waited for in every batch.
    #[test]
    fn what_is_known_to_be_gone_is_not_asked_for_again() {
        let mut state = State::default();
        let read = [partition("a"), partition("b")];
        state.were_read(read.iter());
        assert_eq!(state.known_topics().there.len(), 2);
        assert!(state.known_topics().gone.is_empty());
        // The brokers named a alone.
        state.topics = ["a".to_string()].into();
        state.missing.insert(partition("b"));
        state.were_read(read.iter());
        let Topics { there, gone } = state.known_topics();
        assert_eq!((there, gone), (["a".to_string()].into(), ["b".to_string()].into()));
    }
}
