//! The messages: made of their numbers, so that what readers must come to is known beforehand.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use millstream::query::progress::iso_ms;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;
/// How late a message may be.
pub const DELAY_MS: i64 = 10_000;
/// Messages are out of order by less than this.
const JITTER_MS: i64 = 1_000;
/// 2026-01-01 00:00 UTC.
const ORIGIN_MS: i64 = 1_767_225_600_000;

const PAGES: u64 = 100;
const USERS: u64 = 100_000;
const NOTES: [&str; 4] = [
    "came from a search and went on to the basket",
    "came back within the hour, still undecided about it",
    "read the whole page to its end and left without buying",
    "looked at all pictures twice, and asked a friend about one",
];

/// What is read: messages spread evenly over the partitions of one topic.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// How many messages are read.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(i64).range(100_000..))]
    pub messages: i64,
    /// How many partitions they are in.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub partitions: i32,
    /// The brokers to begin with.
    #[arg(long, default_value = "127.0.0.1:19092")]
    pub servers: String,
}

/// How many windows and pages there are, and messages in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Groups {
    pub groups: i64,
    pub rows: i64,
}

impl Load {
    /// Returns the topic's name.
    pub fn topic(&self) -> String {
        format!("millstream-bench-{}-{}", self.messages, self.partitions)
    }

    /// Returns what the command line says of it.
    pub fn arguments(&self) -> [String; 3] {
        let Self { messages, partitions, servers } = self;
        [format!("--messages={messages}"), format!("--partitions={partitions}"), format!("--servers={servers}")]
    }

    /// Returns the partition of a message.
    pub fn partition(&self, id: i64) -> i32 {
        (id % i64::from(self.partitions)) as i32
    }

    /// Writes a message in the place of what `text` holds.
    pub fn write(&self, id: i64, text: &mut String) {
        let random = random(id);
        let (user, page, cents) = (random % USERS, page(id), random % 9_973);
        let (time, note) = (iso_ms(self.time_ms(id)), NOTES[(random % 4) as usize]);
        text.clear();
        let _ = write!(
            text,
            r#"{{"user_id":{user},"page":"/page/{page:03}","amount":{}.{:02},"ts":"{time}","note":"{note}"}}"#,
            cents / 100,
            cents % 100,
        );
    }

    /// Returns how long all messages are together.
    pub fn bytes(&self) -> u64 {
        let mut text = String::new();
        let mut bytes = 0;
        for id in 0..self.messages {
            self.write(id, &mut text);
            bytes += text.len() as u64;
        }
        bytes
    }

    /// Returns what is in windows that close, and in those that stay open.
    pub fn closed_and_open(&self) -> (Groups, Groups) {
        let mut counts: BTreeMap<(i64, u64), i64> = BTreeMap::new();
        for id in 0..self.messages {
            *counts.entry((self.time_ms(id).div_euclid(WINDOW_MS), page(id))).or_default() += 1;
        }
        let watermark_ms = self.last_time_ms() - DELAY_MS;
        let (mut closed, mut open) = (Groups::default(), Groups::default());
        for ((window, _), rows) in counts {
            let is_closed = (window + 1) * WINDOW_MS <= watermark_ms;
            let groups = if is_closed { &mut closed } else { &mut open };
            groups.groups += 1;
            groups.rows += rows;
        }
        (closed, open)
    }

    /// The event time of a message: a millisecond after the one before it, but for the disorder. Every partition ends with
    /// the greatest, so that the watermark ends at the same time, be it of the source or of its partitions.
    fn time_ms(&self, id: i64) -> i64 {
        if id >= self.messages - i64::from(self.partitions) {
            return self.last_time_ms();
        }
        ORIGIN_MS + id + (random(id) >> 32) as i64 % JITTER_MS
    }

    fn last_time_ms(&self) -> i64 {
        ORIGIN_MS + self.messages + JITTER_MS
    }
}

fn page(id: i64) -> u64 {
    (random(id) >> 16) % PAGES
}

fn random(id: i64) -> u64 {
    (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
