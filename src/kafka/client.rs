//! What a client tells of itself while it works, and what its errors mean to a user.
//!
//! librdkafka goes on trying for ever, and says why nothing works in its log only. [`ClientEvents`] keeps the last of
//! that, so that an error can say it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{ClientSettings, Stopwatch};
use crate::error::{Error, ErrorKind};

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens to one client.
#[derive(Debug, Default)]
pub(crate) struct ClientEvents {
    /// Whether a message came where nobody reads.
    strays: AtomicBool,
    trouble: Mutex<Option<String>>,
    /// Why no attempt can succeed, such as a login that was refused.
    hopeless: Mutex<Option<RDKafkaErrorCode>>,
}

impl ClientEvents {
    /// Remembers why something does not work. That brokers are down says less than what was said before it.
    pub(crate) fn note(&self, trouble: impl Into<String>) {
        let trouble = trouble.into();
        if trouble.contains("brokers are down") && !self.trouble().is_empty() {
            return;
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    /// Returns the last trouble, as a clause for a message.
    pub(crate) fn trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default()
    }
}

impl ClientEvents {
    /// Takes in what a consumer tells of itself, beside its messages.
    pub(crate) fn listen(&self, consumer: &BaseConsumer<Self>) {
        while let Some(event) = consumer.poll(Duration::ZERO) {
            match event {
                Ok(_) => self.strays.store(true, Ordering::Relaxed),
                Err(error) => {
                    tracing::debug!(target: "millstream::kafka", "{error}");
                    self.judge(&error);
                }
            }
        }
    }

    /// Returns whether a message of a partition came here, and not where its messages are read.
    pub(crate) fn has_strays(&self) -> bool {
        self.strays.load(Ordering::Relaxed)
    }

    /// Notes what no further attempt can mend.
    fn judge(&self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let code = code_of(error);
        if let Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::GroupAuthorizationFailed) = code {
            *self.hopeless.lock().unwrap_or_else(PoisonError::into_inner) = code;
        }
    }

    /// Returns why no attempt can succeed, and forgets it.
    fn take_hopeless(&self) -> Option<RDKafkaErrorCode> {
        self.hopeless.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for ClientEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What went wrong while a query ran is told by whoever gives up: here it may be the tenth attempt of many.
        tracing::debug!(target: "millstream::kafka", "{facility}: {message}");
        if (level as u8) <= (RDKafkaLogLevel::Warning as u8) {
            // The words before the last are the client's name and the broker's.
            let said = message.rsplit_once("]: ").map_or(message, |(_, said)| said);
            self.note(said.trim());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if code_of(&error) == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::debug!(target: "millstream::kafka", "{error}: {reason}");
        self.judge(&error);
        self.note(reason);
    }
}

impl ConsumerContext for ClientEvents {}

/// Returns the code of an error, where it has one.
pub(crate) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code()
}

/// Returns whether trying again may help: brokers that cannot be reached, or are about to elect a leader.
pub(crate) fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::BrokerNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::KafkaStorageError
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::UnstableOffsetCommit
            | Code::ConcurrentTransactions
            | Code::Retry
    )
}

/// Returns whether the brokers say that there is no such topic or partition.
pub(crate) fn is_unknown(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// Tries until it works, cannot work, or `within` is over; an attempt is told how long it may take. `events` tell of what
/// no attempt can mend.
///
/// # Errors
/// The last attempt's.
pub(crate) fn patiently<T>(
    within: Duration,
    events: &ClientEvents,
    mut attempt: impl FnMut(Duration) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let begun = Stopwatch::start();
    let mut at_once = Duration::from_secs(1);
    events.take_hopeless();
    loop {
        let left = within.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        let result = attempt(left.min(at_once));
        at_once *= 2;
        if let (Err(_), Some(code)) = (&result, events.take_hopeless()) {
            return Err(KafkaError::Global(code));
        }
        match result {
            Err(error) if code_of(&error).is_some_and(is_transient) && begun.elapsed() + PAUSE < within => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Asks for a topic's partitions. `waited` is how long it was asked for before: a broker that has just begun may not know of
/// it yet, and one that makes topics may be about to make it, so that until `patience` is over it is as if it had no leader.
///
/// # Errors
/// The client's.
pub(crate) fn partitions_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    waited: Duration,
    patience: Duration,
    within: Duration,
) -> Result<Vec<i32>, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), within)?;
    let unknown = RDKafkaErrorCode::UnknownTopicOrPartition;
    let Some(found) = metadata.topics().first() else {
        return Err(KafkaError::MetadataFetch(unknown));
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
        Some(code) if code == unknown && waited < patience => {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))
        }
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}

/// Says what `error` means, while `what` ("reading the offsets of topic 'x'") was tried.
pub(crate) fn failure(what: &str, error: &KafkaError, settings: &ClientSettings, events: &ClientEvents) -> Error {
    use RDKafkaErrorCode as Code;
    let trouble = events.trouble();
    let servers = &settings.servers;
    let code = code_of(error);
    let (kind, message) = match code {
        Some(Code::TopicAuthorizationFailed) => (
            ErrorKind::Unavailable,
            "the user has no right to the topic; grant READ and DESCRIBE to read it, WRITE and DESCRIBE to write it, \
             READ, too, to write it exactly once"
                .into(),
        ),
        Some(Code::GroupAuthorizationFailed) => (
            ErrorKind::Unavailable,
            "the user has no right to the consumer group; grant it, or name one with 'kafka.group.id' or \
             'groupIdPrefix'"
                .into(),
        ),
        Some(Code::TransactionalIdAuthorizationFailed) => (
            ErrorKind::Unavailable,
            "the user has no right to the transactional id; grant it, or name one with 'kafka.transactional.id'".into(),
        ),
        Some(Code::ClusterAuthorizationFailed) => {
            (ErrorKind::Unavailable, "the user has no right to do this in the cluster; grant it".into())
        }
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => (
            ErrorKind::Unavailable,
            format!("the broker refused the login{trouble}; check kafka.sasl.* and kafka.security.protocol"),
        ),
        Some(Code::SSL) => {
            (ErrorKind::Unavailable, format!("no TLS connection to {servers}{trouble}; check kafka.ssl.*"))
        }
        Some(code) if is_unknown(code) => {
            (ErrorKind::Unavailable, "there is no such topic or partition; create it, or mend the name".into())
        }
        Some(Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch | Code::FencedInstanceId) => (
            ErrorKind::Fenced,
            "another producer has taken over the transactional id: another run of this query, or another query that \
             was given the same 'kafka.transactional.id'. Let only one run"
                .into(),
        ),
        Some(code) if is_transient(code) => (
            ErrorKind::Unavailable,
            format!(
                "no answer from {servers}{trouble}; check that the brokers run, and the options kafka.bootstrap.servers \
                 and kafka.security.protocol"
            ),
        ),
        _ => (ErrorKind::Unavailable, format!("{error}{trouble}")),
    };
    Error::new(kind, format!("Kafka: {what}: {message}")).with_source(error.clone())
}
