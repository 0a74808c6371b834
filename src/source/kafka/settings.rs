//! The options of a Kafka source, under Spark's names.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;

use super::offsets::{Nested, Offsets, TopicPartition, flat};
use crate::error::{Error, Result};
use crate::kafka::{ClientSettings, TABLE_OPTIONS};
use crate::options::{Options, bad_value};
use crate::source::check_options;
use crate::source::file::duration_ms;

/// What the source calls itself.
const WHAT: &str = "kafka source";

/// Which topics and partitions are read.
#[derive(Debug, Clone)]
pub(super) enum Subscription {
    /// All partitions of these topics.
    Topics(Vec<String>),
    /// All partitions of topics whose whole names match.
    Pattern(String, Regex),
    /// These partitions.
    Partitions(Vec<TopicPartition>),
}

impl Subscription {
    fn of(options: &Options) -> Result<Self> {
        let given = |name: &'static str| options.get(name).map(|value| (name, value.trim()));
        let all: Vec<(&str, &str)> =
            ["subscribe", "subscribePattern", "assign"].into_iter().filter_map(given).collect();
        match all[..] {
            [("subscribe", topics)] => {
                let topics: Vec<String> = topics.split(',').map(|topic| topic.trim().to_string()).collect();
                if topics.iter().any(String::is_empty) {
                    return Err(bad_value("subscribe", &topics.join(","), "topics with commas between them"));
                }
                Ok(Self::Topics(topics))
            }
            [("subscribePattern", pattern)] => match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) if !pattern.is_empty() => Ok(Self::Pattern(pattern.to_string(), regex)),
                _ => Err(bad_value("subscribePattern", pattern, "a regular expression such as 'orders-.*'")),
            },
            [("assign", json)] => {
                let expected = "JSON such as {\"orders\":[0,1]}";
                let assigned: BTreeMap<String, Vec<i32>> =
                    serde_json::from_str(json).map_err(|_| bad_value("assign", json, expected))?;
                let partitions = assigned.into_iter().flat_map(|(topic, partitions)| {
                    partitions.into_iter().map(move |partition| TopicPartition { topic: topic.clone(), partition })
                });
                let partitions: Vec<TopicPartition> = partitions.collect();
                if partitions.is_empty() {
                    return Err(bad_value("assign", json, expected));
                }
                Ok(Self::Partitions(partitions))
            }
            // A table that is written, too, says its topic once.
            [] => match options.get("topic").map(str::trim) {
                Some(topic) if !topic.is_empty() => Ok(Self::Topics(vec![topic.to_string()])),
                _ => Err(Error::invalid_option(format!(
                    "{WHAT} needs one of the options 'subscribe' (topics), 'subscribePattern' and 'assign'"
                ))),
            },
            _ => Err(Error::invalid_option(
                "subscribe, subscribePattern and assign exclude each other: keep one of them",
            )),
        }
    }
}

impl Subscription {
    /// Returns whether a partition is one of those that are read, if it exists.
    pub(super) fn covers(&self, of: &TopicPartition) -> bool {
        match self {
            Self::Topics(topics) => topics.contains(&of.topic),
            Self::Pattern(_, regex) => regex.is_match(&of.topic),
            Self::Partitions(partitions) => partitions.contains(of),
        }
    }
}

impl std::fmt::Display for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topics(topics) => write!(f, "Subscribe[{}]", topics.join(", ")),
            Self::Pattern(pattern, _) => write!(f, "SubscribePattern[{pattern}]"),
            Self::Partitions(partitions) => {
                let names: Vec<String> = partitions.iter().map(TopicPartition::name).collect();
                write!(f, "Assign[{}]", names.join(", "))
            }
        }
    }
}

/// Where a query that has read nothing yet begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Starting {
    /// With the oldest messages there are.
    Earliest,
    /// With what comes from now on.
    Latest,
    /// Partition by partition; -2 is the oldest message, -1 what comes from now on.
    At(Offsets),
    /// With the first message of this time (milliseconds) or later.
    Time(i64),
    /// Likewise, partition by partition.
    Times(Offsets),
}

impl Starting {
    fn of(options: &Options) -> Result<Self> {
        if let Some(ms) = options.parsed::<i64>("startingTimestamp", "milliseconds since 1970")? {
            return Ok(Self::Time(ms));
        }
        if let Some(times) = by_partition(options, "startingOffsetsByTimestamp")? {
            return Ok(Self::Times(times));
        }
        let text = options.get("startingOffsets").map(|text| text.trim().to_lowercase());
        match text.as_deref() {
            None | Some("latest") => Ok(Self::Latest),
            Some("earliest") => Ok(Self::Earliest),
            Some(_) => Ok(Self::At(by_partition(options, "startingOffsets")?.unwrap_or_default())),
        }
    }
}

fn by_partition(options: &Options, name: &str) -> Result<Option<Offsets>> {
    let Some(text) = options.get(name) else { return Ok(None) };
    let expected = match name {
        "startingOffsetsByTimestamp" => "JSON such as {\"orders\":{\"0\":1767225600000}}",
        _ => "earliest, latest or JSON such as {\"orders\":{\"0\":23,\"1\":-2}}",
    };
    let read: Nested = serde_json::from_str(text).map_err(|_| bad_value(name, text, expected))?;
    if read.values().all(BTreeMap::is_empty) {
        return Err(bad_value(name, text, expected));
    }
    let least = if name == "endingOffsets" { -1 } else { -2 };
    if name != "startingOffsetsByTimestamp" && read.values().flat_map(BTreeMap::values).any(|offset| *offset < least) {
        return Err(bad_value(name, text, "offsets from 0 on, -1 (latest) or -2 (earliest)"));
    }
    Ok(Some(flat(read)))
}

/// Where reading ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    /// Never.
    Open,
    /// With what is there when the query starts.
    Latest,
    /// Partition by partition; -1 is what is there when the query starts.
    At(Offsets),
}

impl Ending {
    fn of(options: &Options) -> Result<Self> {
        match options.get("endingOffsets").map(|text| text.trim().to_lowercase()).as_deref() {
            None => Ok(Self::Open),
            Some("latest") => Ok(Self::Latest),
            Some("earliest") => Err(bad_value("endingOffsets", "earliest", "latest or JSON: nothing would be read")),
            Some(_) => Ok(Self::At(by_partition(options, "endingOffsets")?.unwrap_or_default())),
        }
    }
}

/// Everything that the options say, but for how values are decoded.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) client: ClientSettings,
    pub(super) subscription: Subscription,
    pub(super) starting: Starting,
    /// Without a message of the time asked for, begin with what comes (otherwise that is an error).
    pub(super) starting_falls_to_latest: bool,
    pub(super) ending: Ending,
    pub(super) max_offsets: Option<u64>,
    pub(super) min_offsets: Option<u64>,
    pub(super) max_trigger_delay_ms: i64,
    pub(super) min_partitions: Option<u64>,
    pub(super) fail_on_data_loss: bool,
    pub(super) include_headers: bool,
    pub(super) group_id: String,
    /// How long a running query puts up with brokers that do not answer.
    pub(super) patience: Duration,
}

impl Settings {
    /// Reads `options`; those of `value_options` are somebody else's.
    ///
    /// # Errors
    /// `InvalidOption`, naming option, value and what would do.
    pub(super) fn of(options: &Options, value_options: &[&str]) -> Result<Self> {
        let mut options = options.clone();
        let client = ClientSettings::take(&mut options, WHAT)?;
        check_options(&options, WHAT, &[TABLE_OPTIONS, value_options].concat())?;
        let (max_offsets, min_offsets) =
            (options.positive("maxOffsetsPerTrigger")?, options.positive("minOffsetsPerTrigger")?);
        if let (Some(most), Some(least)) = (max_offsets, min_offsets)
            && least > most
        {
            return Err(Error::invalid_option(format!(
                "minOffsetsPerTrigger ({least}) is more than maxOffsetsPerTrigger ({most})"
            )));
        }
        let max_trigger_delay_ms = match options.get("maxTriggerDelay") {
            Some(text) => duration_ms(text)
                .ok_or_else(|| bad_value("maxTriggerDelay", text, "a span of time such as '15m' or '30 seconds'"))?,
            None => 15 * 60_000,
        };
        let starting_falls_to_latest =
            match options.get("startingOffsetsByTimestampStrategy").map(|text| text.trim().to_lowercase()).as_deref() {
                None | Some("error") => false,
                Some("latest") => true,
                Some(other) => return Err(bad_value("startingOffsetsByTimestampStrategy", other, "error or latest")),
            };
        let group_id = match (client.get("group.id"), options.get("groupIdPrefix")) {
            (Some(group), _) => group.to_string(),
            (None, prefix) => {
                format!("{}-{}", prefix.unwrap_or("millstream-kafka-source"), uuid::Uuid::new_v4().simple())
            }
        };
        Ok(Self {
            client,
            subscription: Subscription::of(&options)?,
            starting: Starting::of(&options)?,
            starting_falls_to_latest,
            ending: Ending::of(&options)?,
            max_offsets,
            min_offsets,
            max_trigger_delay_ms,
            min_partitions: options.positive("minPartitions")?,
            fail_on_data_loss: options.flag("failOnDataLoss", true)?,
            include_headers: options.flag("includeHeaders", false)?,
            group_id,
            patience: Duration::from_millis(options.positive("kafkaConsumer.pollTimeoutMs")?.unwrap_or(120_000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings> {
        let servers = [("kafka.bootstrap.servers", "localhost:9092")];
        Settings::of(&servers.iter().chain(pairs).copied().collect(), &["format"])
    }

    #[test]
    fn topics_are_said_in_one_of_three_ways() {
        let words = |pairs: &[(&str, &str)]| settings(pairs).unwrap().subscription.to_string();
        assert_eq!(words(&[("subscribe", "a, b")]), "Subscribe[a, b]");
        assert_eq!(words(&[("subscribePattern", "a.*")]), "SubscribePattern[a.*]");
        assert_eq!(words(&[("assign", r#"{"a":[1,0]}"#)]), "Assign[a-1, a-0]");
        for bad in [
            &[][..],
            &[("subscribe", "a"), ("assign", r#"{"a":[0]}"#)],
            &[("subscribe", "a,,b")],
            &[("subscribePattern", "(")],
            &[("assign", "a")],
            &[("assign", "{}")],
        ] {
            assert_eq!(settings(bad).unwrap_err().kind(), ErrorKind::InvalidOption, "{bad:?}");
        }
    }

    #[test]
    fn a_query_begins_where_it_is_told() {
        let starting = |name, value| settings(&[("subscribe", "a"), (name, value)]).map(|s| s.starting);
        let at = |offset| -> Offsets { [(TopicPartition { topic: "a".into(), partition: 0 }, offset)].into() };
        assert_eq!(starting("failOnDataLoss", "true").unwrap(), Starting::Latest);
        assert_eq!(starting("startingOffsets", "EARLIEST").unwrap(), Starting::Earliest);
        assert_eq!(starting("startingOffsets", r#"{"a":{"0":-2}}"#).unwrap(), Starting::At(at(-2)));
        assert_eq!(starting("startingTimestamp", "1000").unwrap(), Starting::Time(1000));
        assert_eq!(starting("startingOffsetsByTimestamp", r#"{"a":{"0":5}}"#).unwrap(), Starting::Times(at(5)));
        for (name, value) in [
            ("startingOffsets", "newest"),
            ("startingOffsets", r#"{"a":{"0":-3}}"#),
            ("startingTimestamp", "noon"),
            ("endingOffsets", "earliest"),
            ("maxTriggerDelay", "later"),
            ("startingOffset", "earliest"),
        ] {
            let error = starting(name, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{name}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let limits = [("subscribe", "a"), ("minOffsetsPerTrigger", "9"), ("maxOffsetsPerTrigger", "8")];
        assert!(settings(&limits).unwrap_err().to_string().contains("minOffsetsPerTrigger (9)"));
    }
}
