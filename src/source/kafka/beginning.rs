//! Where a query begins that has read nothing yet: from the options and from what the brokers hold.

use super::cluster::{Cluster, Topics, Trouble};
use super::offsets::{Offsets, TopicPartition};
use super::settings::{Settings, Starting, Subscription};
use crate::error::{Error, Result};

/// Asks where a query begins that has read nothing yet.
///
/// # Errors
/// `Unavailable` where the brokers do not answer or a topic does not exist; `InvalidOption` where the options do not fit what
/// there is.
pub(super) fn initial_offsets(cluster: &Cluster, settings: &Settings) -> Result<Offsets, Trouble> {
    let within = settings.client.timeout;
    let partitions = cluster.partitions(&Topics::default(), within)?;
    all_there(&settings.subscription, &partitions)?;
    if partitions.is_empty() {
        tracing::warn!("kafka source: no topic matches {} yet", settings.subscription);
    }
    let named = |given: &Offsets| all_named("startingOffsets", given, partitions.iter());
    let offsets = match &settings.starting {
        Starting::Earliest => cluster.earliest(&partitions, within)?,
        Starting::Latest => cluster.latest(&partitions, within)?,
        Starting::At(given) => {
            named(given)?;
            let special = |wanted: i64| -> Vec<TopicPartition> {
                given.iter().filter(|(_, at)| **at == wanted).map(|(of, _)| of.clone()).collect()
            };
            let mut offsets = given.clone();
            offsets.extend(cluster.earliest(&special(-2), within)?);
            offsets.extend(cluster.latest(&special(-1), within)?);
            offsets
        }
        Starting::Time(_) | Starting::Times(_) => {
            let times = match &settings.starting {
                Starting::Times(times) => times.clone(),
                Starting::Time(ms) => partitions.iter().map(|of| (of.clone(), *ms)).collect(),
                _ => Offsets::new(),
            };
            named(&times)?;
            let mut offsets = cluster.at_times(&times, within)?;
            let without: Vec<TopicPartition> =
                partitions.iter().filter(|of| !offsets.contains_key(of)).cloned().collect();
            if let Some(of) = without.first().filter(|_| !settings.starting_falls_to_latest) {
                let error = Error::invalid_option(format!(
                    "{of} has no message of the time to begin with, or later; choose an earlier one, or set \
                     startingOffsetsByTimestampStrategy = 'latest' to begin with what comes"
                ));
                return Err(error.into());
            }
            offsets.extend(cluster.latest(&without, within)?);
            offsets
        }
    };
    Ok(offsets)
}

/// Checks that `option` names just the partitions that are read.
pub(super) fn all_named<'a>(
    option: &str,
    given: &Offsets,
    read: impl Iterator<Item = &'a TopicPartition> + Clone,
) -> Result<()> {
    if let Some(of) = read.clone().find(|of| !given.contains_key(of)) {
        return Err(Error::invalid_option(format!(
            "{option} must name every partition that is read, and {of} is missing; -2 is its oldest message, -1 what comes \
             from now on"
        )));
    }
    match given.keys().find(|of| !read.clone().any(|read| read == *of)) {
        Some(of) => Err(Error::invalid_option(format!("{option} names {of}, which is not read or does not exist"))),
        None => Ok(()),
    }
}

/// Checks that what was named exists.
pub(super) fn all_there(subscription: &Subscription, partitions: &[TopicPartition]) -> Result<()> {
    let missing = match subscription {
        Subscription::Topics(topics) => topics
            .iter()
            .find(|topic| !partitions.iter().any(|of| of.topic == **topic))
            .map(|topic| format!("topic '{topic}'")),
        Subscription::Partitions(named) => named.iter().find(|of| !partitions.contains(of)).map(ToString::to_string),
        Subscription::Pattern(..) => None,
    };
    match missing {
        Some(missing) => {
            Err(Error::unavailable(format!("kafka source: {missing} does not exist; create it, or mend the name")))
        }
        None => Ok(()),
    }
}
