//! Positions in topics: what the offset log keeps of a Kafka source.
//!
//! The JSON is Spark's `{"topic":{"0":23}}` under `topics`. Beside it stands under `first` where the batch begins in
//! partitions that no batch before it has read, so that running it again does not depend on what the brokers still hold.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::source::memory::parse_offset;
use crate::source::{Offset, Split};

/// One partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TopicPartition {
    /// The topic's name.
    pub(super) topic: String,
    /// The partition's number.
    pub(super) partition: i32,
}

impl TopicPartition {
    /// Returns the name that Kafka's own logs call it by.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic '{}', partition {}", self.topic, self.partition)
    }
}

/// An offset a partition.
pub(super) type Offsets = BTreeMap<TopicPartition, i64>;

/// By topic and partition, as Spark writes it.
pub(super) type Nested = BTreeMap<String, BTreeMap<i32, i64>>;

/// Lays `nested` out flat.
pub(super) fn flat(nested: Nested) -> Offsets {
    let of_topic = |(topic, partitions): (String, BTreeMap<i32, i64>)| {
        partitions
            .into_iter()
            .map(move |(partition, offset)| (TopicPartition { topic: topic.clone(), partition }, offset))
    };
    nested.into_iter().flat_map(of_topic).collect()
}

/// Puts offsets under their topics.
pub(super) fn nested(offsets: &Offsets) -> Nested {
    let mut nested = Nested::new();
    for (of, offset) in offsets {
        nested.entry(of.topic.clone()).or_default().insert(of.partition, *offset);
    }
    nested
}

/// Where a batch ends, and where it begins in partitions that are new.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct KafkaOffset {
    /// The next offset to read, by partition.
    pub(super) topics: Offsets,
    /// Where the batch begins in partitions of which no earlier batch knew.
    pub(super) first: Offsets,
}

#[derive(Deserialize)]
struct Written {
    topics: Nested,
    #[serde(default)]
    first: Nested,
}

impl KafkaOffset {
    /// Reads what [`KafkaOffset::to_json`] wrote.
    ///
    /// # Errors
    /// `CheckpointIncompatible` where it is of another source or version.
    pub(super) fn parse(offset: &Offset) -> Result<Self> {
        let written: Written = parse_offset("kafka source", offset)?;
        Ok(Self { topics: flat(written.topics), first: flat(written.first) })
    }

    /// Returns what the offset log keeps.
    pub(super) fn to_json(&self) -> Offset {
        let mut json = json!({"v": 1, "topics": nested(&self.topics)});
        if !self.first.is_empty() {
            json["first"] = json!(nested(&self.first));
        }
        json
    }
}

/// A range of one partition, the end not included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    /// The topic's name.
    pub(super) topic: String,
    /// The partition's number.
    pub(super) partition: i32,
    /// The first offset.
    pub(super) start: i64,
    /// The offset behind the last one.
    pub(super) end: i64,
}

impl Range {
    /// Returns whose range it is.
    pub(super) fn of(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition: self.partition }
    }

    /// Returns what the engine hands out.
    pub(super) fn to_split(&self) -> Result<Split> {
        Ok(Split { description: serde_json::to_value(self)?, weight: self.end.abs_diff(self.start) })
    }

    /// Reads what [`Range::to_split`] wrote.
    pub(super) fn of_split(split: &Split) -> Result<Self> {
        serde_json::from_value(split.description.clone())
            .map_err(|e| Error::internal(format!("a split does not describe a range of offsets: {e}")).with_source(e))
    }
}

/// Returns the ranges between `start` and `end` that hold anything.
///
/// # Errors
/// `CheckpointCorrupt` where `end` has a partition of which nobody says where it begins.
pub(super) fn ranges(start: &Offsets, end: &KafkaOffset) -> Result<Vec<Range>> {
    let mut ranges = Vec::with_capacity(end.topics.len());
    for (of, to) in &end.topics {
        let Some(from) = end.first.get(of).or_else(|| start.get(of)) else {
            return Err(Error::corrupt(format!(
                "kafka source: the offset log does not say where a batch begins in {of}; restore it from a copy, or start \
                 with a new checkpoint"
            )));
        };
        if from < to {
            ranges.push(Range { topic: of.topic.clone(), partition: of.partition, start: *from, end: *to });
        }
    }
    Ok(ranges)
}

/// Cuts ranges so that there are about `parts` of them, each partition in proportion to what it holds.
pub(super) fn cut(ranges: Vec<Range>, parts: Option<u64>) -> Vec<Range> {
    let Some(parts) = parts.filter(|parts| *parts > ranges.len() as u64) else {
        return ranges;
    };
    let total: u64 = ranges.iter().map(|range| range.end.abs_diff(range.start)).sum();
    let share = |range: &Range| {
        let rows = range.end.abs_diff(range.start);
        ((rows as f64 / total.max(1) as f64 * parts as f64).round() as u64).max(1)
    };
    let pieces = |range: Range| {
        let cut = crate::source::rate::shares(range.start, range.end, share(&range));
        cut.map(|(start, end)| Range { start, end, ..range.clone() }).collect::<Vec<_>>()
    };
    ranges.into_iter().flat_map(pieces).collect()
}

/// Takes about `most` rows in all, from each partition in proportion to what it holds, and one from each at least.
///
/// As Spark's `maxOffsetsPerTrigger`.
pub(super) fn limited(ranges: &[Range], most: u64) -> Vec<Range> {
    let total: u64 = ranges.iter().map(|range| range.end.abs_diff(range.start)).sum();
    let take = |range: &Range| {
        let rows = range.end.abs_diff(range.start);
        let share = most as f64 * (rows as f64 / total.max(1) as f64);
        let share = if share < 1.0 { share.ceil() } else { share.floor() };
        Range { end: range.end.min(range.start.saturating_add(share as i64)), ..range.clone() }
    };
    ranges.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: i32, start: i64, end: i64) -> Range {
        Range { topic: "t".into(), partition, start, end }
    }

    fn at(partition: i32, offset: i64) -> (TopicPartition, i64) {
        (TopicPartition { topic: "t".into(), partition }, offset)
    }

    #[test]
    fn an_offset_is_read_as_it_was_written() {
        let offset = KafkaOffset { topics: [at(0, 23), at(10, 5)].into(), first: [at(10, 2)].into() };
        let json = offset.to_json();
        assert_eq!(json.to_string(), r#"{"first":{"t":{"10":2}},"topics":{"t":{"0":23,"10":5}},"v":1}"#);
        assert_eq!(KafkaOffset::parse(&json).unwrap(), offset);
        assert!(KafkaOffset::parse(&json!({"v": 2, "topics": {}})).is_err());
    }

    #[test]
    fn a_batch_begins_where_the_last_ended_or_where_it_says() {
        let end = KafkaOffset { topics: [at(0, 23), at(1, 5), at(2, 9)].into(), first: [at(1, 2)].into() };
        let start = [at(0, 20), at(2, 9)].into();
        assert_eq!(ranges(&start, &end).unwrap(), [range(0, 20, 23), range(1, 2, 5)]);
        assert!(ranges(&Offsets::new(), &end).unwrap_err().to_string().contains("partition 0"));
    }

    #[test]
    fn a_limit_is_shared_in_proportion() {
        let ranges = [range(0, 0, 900), range(1, 50, 149), range(2, 7, 8)];
        assert_eq!(limited(&ranges, 100), [range(0, 0, 90), range(1, 50, 59), range(2, 7, 8)]);
        assert_eq!(limited(&ranges, 5_000), ranges);
    }

    #[test]
    fn large_ranges_are_cut() {
        let ranges = vec![range(0, 0, 900), range(1, 0, 100)];
        assert_eq!(cut(ranges.clone(), None), ranges);
        assert_eq!(cut(ranges.clone(), Some(2)), ranges);
        let cut = cut(ranges, Some(10));
        assert_eq!(cut.len(), 10);
        assert_eq!(
            (cut[0].clone(), cut[8].clone(), cut[9].clone()),
            (range(0, 0, 100), range(0, 800, 900), range(1, 0, 100))
        );
    }
}
