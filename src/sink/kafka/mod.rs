//! The Kafka sink: every row is a message.
//!
//! Columns as in Spark: `value`, and where there are any `key`, `headers`, `topic` and `partition`. With the option
//! `format` = json the value is an object of all columns, and those parts are columns with an underscore before.
//!
//! What it promises: at least once, by an idempotent producer, as Spark does. With `exactlyOnce` = true a batch is one
//! transaction, in which its number is kept as the offset of a consumer group: a batch that runs again, since the process
//! died between the transaction and the commit log, finds its number there and writes nothing. The transactional id is the
//! query's: a run that begins shuts out one that still writes. One transaction takes the rows of all partitions of the
//! plan, because a run with another number of lanes deals them otherwise.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use serde_json::{Value, json};

use self::messages::Shape;
use self::producer::Producer;
use crate::error::{Error, Result};
use crate::kafka::{ClientSettings, TABLE_OPTIONS};
use crate::options::{Options, bad_value};
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext, SinkProvider, SinkSpec};
use crate::storage::blocking;

mod messages;
mod producer;

const WHAT: &str = "kafka sink";

/// What a table that is read as well says of its source beside [`TABLE_OPTIONS`].
const SOURCE_OPTIONS: &[&str] = &[
    "format",
    "watermarkPer",
    "idleTimeout",
    "avroSchema",
    "schemaRegistryUrl",
    "schemaRegistryAuth",
    "mode",
    "columnNameOfCorruptRecord",
];

/// Makes sinks that write to Kafka's topics.
#[derive(Debug, Clone, Copy, Default)]
pub struct KafkaSinkProvider;

#[async_trait]
impl SinkProvider for KafkaSinkProvider {
    async fn create(&self, spec: &SinkSpec) -> Result<Arc<dyn Sink>> {
        let settings = Settings::of(&spec.options)?;
        if let Some(column) = spec.partition_by.first() {
            return Err(Error::invalid_query(format!(
                "PARTITIONED BY ({column}): messages go to the partition of their key, or of the column 'partition'"
            )));
        }
        let shape = Shape::of(&spec.schema, settings.topic.as_deref(), settings.as_json)?;
        Ok(Arc::new(KafkaSink { settings, shape: Arc::new(shape), producer: Mutex::default() }))
    }
}

/// What the options say.
#[derive(Debug, Clone)]
struct Settings {
    client: ClientSettings,
    topic: Option<String>,
    as_json: bool,
    exactly_once: bool,
    /// The topic under whose name a transaction notes its batch.
    mark_topic: Option<String>,
}

impl Settings {
    fn of(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let client = ClientSettings::take(&mut options, WHAT)?;
        options.check_known(WHAT, &[TABLE_OPTIONS, SOURCE_OPTIONS].concat())?;
        let topic = options.get("topic").map(|topic| topic.trim().to_string()).filter(|topic| !topic.is_empty());
        let as_json = match options.get("format").map(|format| format.trim().to_lowercase()).as_deref() {
            None | Some("raw") => false,
            Some("json") => true,
            Some(other) => {
                return Err(bad_value(
                    "format",
                    other,
                    "json, or nothing: the column 'value' is written as it is, and may come from to_json, to_avro or concat_ws",
                ));
            }
        };
        let exactly_once = options.flag("exactlyOnce", false)?;
        let mark_topic = options.get("markTopic").map(str::to_string).or_else(|| topic.clone());
        if exactly_once && mark_topic.is_none() {
            return Err(Error::invalid_option(
                "exactlyOnce notes with each transaction which batch it is, under the name of a topic: say which one with \
                 the option 'topic', or with 'markTopic' where the rows name their topics",
            ));
        }
        if !exactly_once && client.get("transactional.id").is_some() {
            return Err(Error::invalid_option("kafka.transactional.id needs exactlyOnce = 'true'"));
        }
        Ok(Self { client, topic, as_json, exactly_once, mark_topic })
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct KafkaSink {
    settings: Settings,
    shape: Arc<Shape>,
    producer: Mutex<Option<Arc<Producer>>>,
}

impl KafkaSink {
    fn producer(&self) -> Result<Arc<Producer>> {
        let producer = locked(&self.producer).clone();
        producer
            .ok_or_else(|| Error::internal("kafka sink: it is written to before it is opened, or after it was stopped"))
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn description(&self) -> String {
        match &self.settings.topic {
            Some(topic) => format!("KafkaSink[{topic}]"),
            None => "KafkaSink[topic of each row]".to_string(),
        }
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    fn needs_checkpoint(&self) -> bool {
        true
    }

    async fn open(&self, context: &SinkContext) -> Result<()> {
        let (settings, context) = (self.settings.clone(), context.clone());
        let producer = blocking(move || Producer::open(&settings, &context)).await?;
        *locked(&self.producer) = Some(Arc::new(producer));
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let producer = self.producer()?;
        let (batch_id, is_written) = (batch.batch_id, producer.is_written(batch.batch_id));
        if !is_written {
            let begins = Arc::clone(&producer);
            blocking(move || begins.begin(batch_id)).await?;
        }
        let partitions = batch.partitions.into_iter().map(|mut partition| {
            let (producer, shape) = (Arc::clone(&producer), Arc::clone(&self.shape));
            async move {
                let mut rows = 0;
                while let Some(batch) = partition.try_next().await? {
                    rows += batch.num_rows() as u64;
                    if !is_written {
                        send(&producer, &shape, batch).await?;
                    }
                }
                Ok::<u64, Error>(rows)
            }
        });
        let rows = futures::future::try_join_all(partitions).await.map(|rows| rows.into_iter().sum());
        let ends = Arc::clone(&producer);
        let rows = blocking(move || match rows {
            Ok(rows) if is_written => Ok(rows),
            Ok(rows) => ends.end(batch_id, rows).map(|()| rows),
            Err(error) => {
                ends.give_up();
                Err(error)
            }
        })
        .await?;
        Ok(Prepared { token: json!({}), rows })
    }

    async fn publish(&self, _batch_id: i64, _token: &Value) -> Result<()> {
        Ok(())
    }

    async fn stop(&self) {
        let producer = locked(&self.producer).take();
        // Closing waits for the client's threads.
        let closing = blocking(move || {
            drop(producer);
            Ok(())
        });
        if let Err(error) = closing.await {
            tracing::warn!("{}: {error}", self.description());
        }
    }
}

/// Puts the rows of a batch into the producer's queue, and waits where that is full.
async fn send(producer: &Arc<Producer>, shape: &Arc<Shape>, batch: RecordBatch) -> Result<()> {
    let (producer, shape) = (Arc::clone(producer), Arc::clone(shape));
    blocking(move || {
        let messages = shape.messages(&batch)?;
        (0..batch.num_rows()).try_for_each(|row| producer.send(&messages, row))
    })
    .await
}

/// How long a message may take to be acknowledged, where the options do not say.
const PATIENCE: Duration = Duration::from_secs(120);

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings> {
        let servers = [("kafka.bootstrap.servers", "localhost:9092")];
        Settings::of(&servers.iter().chain(pairs).copied().collect())
    }

    #[test]
    fn options_are_checked() {
        let given = settings(&[("topic", "t"), ("exactlyOnce", "true"), ("startingOffsets", "earliest")]).unwrap();
        assert_eq!(
            (given.topic.as_deref(), given.mark_topic.as_deref(), given.exactly_once),
            (Some("t"), Some("t"), true)
        );
        for (pairs, word) in [
            (&[("topics", "t")][..], "did you mean 'topic'?"),
            (&[("format", "avro")], "to_avro"),
            (&[("exactlyOnce", "true")], "markTopic"),
            (&[("topic", "t"), ("kafka.transactional.id", "x")], "exactlyOnce"),
        ] {
            let error = settings(pairs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
