//! The options `kafka.*`: what librdkafka is configured with, under the names that Spark's users know.
//!
//! Spark passes them to Kafka's Java client. Most names are the same here; where they are not, the Java name is either
//! understood or answered with what to write instead.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::error::{Error, Result};
use crate::options::{Options, bad_value, is_secret, nearest};

const PREFIX: &str = "kafka.";

/// The options of a table beside `kafka.*` and those of its values: of its source, and of its sink.
pub(crate) const TABLE_OPTIONS: &[&str] = &[
    "subscribe",
    "subscribePattern",
    "assign",
    "startingOffsets",
    "startingTimestamp",
    "startingOffsetsByTimestamp",
    "startingOffsetsByTimestampStrategy",
    "endingOffsets",
    "maxOffsetsPerTrigger",
    "minOffsetsPerTrigger",
    "maxTriggerDelay",
    "minPartitions",
    "failOnDataLoss",
    "includeHeaders",
    "groupIdPrefix",
    "kafkaConsumer.pollTimeoutMs",
    "topic",
    "exactlyOnce",
    "markTopic",
];

/// How long requests may take before a start fails; the Java client's name for it.
const TIMEOUT: &str = "default.api.timeout.ms";

const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// Properties of the client, for hints: librdkafka knows more.
const PROPERTIES: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "batch.num.messages",
    "batch.size",
    "bootstrap.servers",
    "broker.address.family",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "debug",
    "delivery.timeout.ms",
    "enable.idempotence",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "isolation.level",
    "linger.ms",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.max.age.ms",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "retry.backoff.ms",
    "sasl.jaas.config",
    "sasl.kerberos.keytab",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.metadata.refresh.interval.ms",
    "transaction.timeout.ms",
    "transactional.id",
    TIMEOUT,
];

/// Names of the Java client that mean nothing here, and what to do instead.
const JAVA_NAMES: &[(&str, &str)] = &[
    ("auto.offset.reset", "say where to begin with the option 'startingOffsets'"),
    ("enable.auto.commit", "offsets are kept in the checkpoint, and never in a consumer group; remove it"),
    ("interceptor.classes", "there are no Java classes here; remove it"),
    ("client.rack", "messages are read from leaders, which alone have all of them; remove it"),
    ("key.deserializer", "keys are BINARY; remove it and cast them"),
    ("key.serializer", "keys are STRING or BINARY; remove it"),
    ("max.poll.records", "limit a batch with the option 'maxOffsetsPerTrigger'"),
    ("fetch.max.wait.ms", "it is called kafka.fetch.wait.max.ms here"),
    ("max.block.ms", "it is called kafka.message.timeout.ms here"),
    ("buffer.memory", "it is called kafka.queue.buffering.max.kbytes here"),
    ("partitioner.class", "it is called kafka.partitioner here, such as 'murmur2_random', which is Java's"),
    ("sasl.client.callback.handler.class", "there are no Java classes here; use kafka.sasl.oauthbearer.method"),
    ("sasl.login.callback.handler.class", "there are no Java classes here; use kafka.sasl.oauthbearer.method"),
    ("ssl.key.store.type", "a key store is a PKCS#12 file here; remove it"),
    ("ssl.keystore.type", "a key store is a PKCS#12 file here; remove it"),
    ("ssl.truststore.certificates", "it is called kafka.ssl.ca.pem here"),
    ("ssl.truststore.location", "give the CA's certificate as a PEM file: kafka.ssl.ca.location"),
    ("ssl.truststore.password", "give the CA's certificate as a PEM file, which needs none: kafka.ssl.ca.location"),
    ("ssl.truststore.type", "give the CA's certificate as a PEM file: kafka.ssl.ca.location"),
    ("value.deserializer", "values are BINARY, or decoded as the option 'format' says; remove it"),
    ("value.serializer", "values are STRING or BINARY; remove it"),
];

/// How to reach a cluster: the options `kafka.*`.
#[derive(Clone)]
pub(crate) struct ClientSettings {
    config: ClientConfig,
    /// The brokers to begin with, for messages.
    pub(crate) servers: String,
    /// How long a request may take before a start fails.
    pub(crate) timeout: Duration,
}

impl std::fmt::Debug for ClientSettings {
    /// Shows nothing that could be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientSettings({})", self.servers)
    }
}

impl ClientSettings {
    /// Takes the options `kafka.*` out of `options`. `what` is "kafka source" or "kafka sink".
    ///
    /// # Errors
    /// `InvalidOption` for a name or value that the client does not take, and where `kafka.bootstrap.servers` is missing.
    pub(crate) fn take(options: &mut Options, what: &str) -> Result<Self> {
        let taken: Vec<(String, String)> = options
            .iter()
            .filter(|(name, _)| name.to_lowercase().starts_with(PREFIX))
            .map(|(name, value)| (name.to_lowercase(), value.to_string()))
            .collect();
        let mut settings = Self {
            config: ClientConfig::new(),
            servers: String::new(),
            timeout: Duration::from_millis(DEFAULT_TIMEOUT_MS),
        };
        for (name, value) in taken {
            options.remove(&name);
            settings.set_option(&name, value)?;
        }
        settings.servers = match settings.config.get("bootstrap.servers").map(str::trim) {
            Some(servers) if !servers.is_empty() => servers.to_string(),
            _ => {
                return Err(Error::invalid_option(format!(
                    "{what} needs option 'kafka.bootstrap.servers', such as 'localhost:9092'"
                )));
            }
        };
        settings.check()?;
        Ok(settings)
    }

    fn set_option(&mut self, name: &str, value: String) -> Result<()> {
        let property = &name[PREFIX.len()..];
        if let Some((_, instead)) = JAVA_NAMES.iter().find(|(java, _)| *java == property) {
            return Err(Error::invalid_option(format!("option '{name}' has no meaning here: {instead}")));
        }
        match property {
            TIMEOUT => {
                let expected = "milliseconds above zero";
                let ms: u64 = value.trim().parse().map_err(|_| bad_value(name, &value, expected))?;
                if ms == 0 {
                    return Err(bad_value(name, &value, expected));
                }
                self.timeout = Duration::from_millis(ms);
            }
            "sasl.jaas.config" => {
                let (user, password) = jaas_login(&value).ok_or_else(|| {
                    Error::invalid_option(format!(
                        "option '{name}' is not of the form '… required username=\"…\" password=\"…\";': use \
                         kafka.sasl.username and kafka.sasl.password"
                    ))
                })?;
                self.config.set("sasl.username", user).set("sasl.password", password);
            }
            _ => {
                self.config.set(property, value);
            }
        }
        Ok(())
    }

    /// Returns the configuration, with `defaults` where the options say nothing and `fixed` whatever they say.
    pub(crate) fn with(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.config.clone();
        for (name, value) in defaults {
            if config.get(name).is_none() {
                config.set(*name, *value);
            }
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config
    }

    /// Returns the value of a property that the options set.
    pub(crate) fn get(&self, property: &str) -> Option<&str> {
        self.config.get(property)
    }

    /// Lets the client look at the properties; it connects to nothing.
    fn check(&self) -> Result<()> {
        match self.config.create_native_config() {
            Ok(_) => Ok(()),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// Says why a client is not made of its options.
pub(crate) fn refused(error: &KafkaError) -> Error {
    let reason = match error {
        KafkaError::ClientConfig(_, reason, property, _) => return refused_property(property, reason),
        KafkaError::ClientCreation(reason) => reason.clone(),
        other => other.to_string(),
    };
    if reason.contains("libsasl2") || reason.contains("OpenSSL") {
        return Error::invalid_option(WITHOUT_TLS);
    }
    let reason = reason.replace("`acks`", "kafka.acks").replace("`enable.idempotence`", "kafka.enable.idempotence");
    Error::invalid_option(format!(
        "the Kafka client refuses the options kafka.*: {reason}. Here enable.idempotence is true where it is not set to false"
    ))
}

const WITHOUT_TLS: &str = "this build has no TLS, and no SCRAM (kafka.security.protocol, kafka.sasl.mechanism): build Millstream with the feature \
     kafka-ssl";

fn refused_property(property: &str, reason: &str) -> Error {
    let name = format!("{PREFIX}{property}");
    if reason.contains("No such configuration property") {
        let hint = match nearest(property, PROPERTIES) {
            Some(near) => format!("did you mean '{PREFIX}{near}'?"),
            None => "see the list of librdkafka's configuration properties".to_string(),
        };
        return Error::invalid_option(format!("the Kafka client has no property '{name}'; {hint}"));
    }
    if reason.contains("not available at build time") || reason.contains("not supported in this build") {
        return Error::invalid_option(WITHOUT_TLS);
    }
    // The reason may hold the value.
    let reason = if is_secret(&name) { "its value is not one" } else { reason };
    Error::invalid_option(format!("option '{name}' is refused by the Kafka client: {reason}"))
}

/// Reads user and password from what Java's login modules are configured with.
fn jaas_login(text: &str) -> Option<(String, String)> {
    Some((jaas_value(text, "username")?, jaas_value(text, "password")?))
}

fn jaas_value(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let at = rest.find(name)?;
        let begins = rest[..at].chars().next_back().is_some_and(char::is_whitespace);
        rest = &rest[at + name.len()..];
        if let Some(value) = rest.trim_start().strip_prefix('=').filter(|_| begins) {
            let value = value.trim_start();
            let quote = value.chars().next().filter(|c| *c == '"' || *c == '\'')?;
            let mut letters = value[1..].chars();
            let mut read = String::new();
            while let Some(letter) = letters.next() {
                match letter {
                    '\\' => read.extend(letters.next()),
                    _ if letter == quote => return Some(read),
                    _ => read.push(letter),
                }
            }
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn take(pairs: &[(&str, &str)]) -> Result<ClientSettings> {
        let mut options: Options = pairs.iter().copied().collect();
        ClientSettings::take(&mut options, "kafka source")
    }

    fn message(pairs: &[(&str, &str)]) -> String {
        let error = take(pairs).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        error.to_string()
    }

    #[test]
    fn options_become_properties() {
        let mut options: Options = [
            ("kafka.bootstrap.servers", "a:1,b:2"),
            ("kafka.default.api.timeout.ms", "1500"),
            ("kafka.client.id", "x"),
            ("subscribe", "t"),
        ]
        .into_iter()
        .collect();
        let settings = ClientSettings::take(&mut options, "kafka source").unwrap();
        assert_eq!(options.iter().collect::<Vec<_>>(), [("subscribe", "t")]);
        assert_eq!(settings.timeout, Duration::from_millis(1500));
        let config = settings.with(&[("client.id", "y"), ("group.id", "g")], &[("enable.auto.commit", "false")]);
        assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!((config.get("client.id"), config.get("group.id")), (Some("x"), Some("g")));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get(TIMEOUT), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        let servers = ("kafka.bootstrap.servers", "a:1");
        assert!(message(&[]).contains("needs option 'kafka.bootstrap.servers'"));
        assert!(message(&[("kafka.bootstrap.server", "a:1"), servers]).contains("'kafka.bootstrap.servers'?"));
        assert!(message(&[servers, ("kafka.auto.offset.reset", "earliest")]).contains("startingOffsets"));
        assert!(message(&[servers, ("kafka.ssl.truststore.location", "/x.jks")]).contains("kafka.ssl.ca.location"));
        assert!(message(&[servers, ("kafka.fetch.wait.max.ms", "soon")]).contains("kafka.fetch.wait.max.ms"));
        assert!(message(&[servers, (&format!("kafka.{TIMEOUT}"), "0")]).contains("above zero"));
        let secret = message(&[servers, ("kafka.sasl.jaas.config", "hunter2")]);
        assert!(secret.contains("kafka.sasl.password") && !secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn a_java_login_is_read() {
        let text = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"alice\" \
                    password=\"a \\\"quoted\\\" one\";";
        assert_eq!(jaas_login(text), Some(("alice".to_string(), "a \"quoted\" one".to_string())));
        assert_eq!(jaas_login("required username=\"alice\";"), None);
        let settings = take(&[("kafka.bootstrap.servers", "a:1"), ("kafka.sasl.jaas.config", text)]).unwrap();
        assert_eq!(settings.get("sasl.username"), Some("alice"));
        assert!(!format!("{settings:?}").contains("quoted"));
    }
}
