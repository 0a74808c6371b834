//! What SET sets: defaults of the flows that are started afterwards.

use std::sync::Arc;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::interval::duration_us;
use crate::options::{bad_value, nearest};
use crate::query::QuerySettings;
use crate::query::trigger::Trigger;
use crate::query::watermark::WatermarkPolicy;
use crate::state::KEY_GROUPS;

/// The names that SET knows, beside DataFusion's own.
const NAMES: &[&str] =
    &["lanes", "trigger", "noDataMicroBatches", "multipleWatermarkPolicy", "minBatchesToRetain", "timezone"];

/// Defaults of flows.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Parallel units of stateful work.
    pub(super) lanes: usize,
    /// The trigger of flows that do not name one.
    pub(super) trigger: Trigger,
    no_data_batches: bool,
    watermark_policy: WatermarkPolicy,
    min_batches_to_retain: u64,
}

impl Settings {
    /// Makes the settings of a new session.
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            lanes,
            trigger: Trigger::default(),
            no_data_batches: true,
            watermark_policy: WatermarkPolicy::default(),
            min_batches_to_retain: 100,
        }
    }

    /// Returns what a query needs of them.
    pub(super) fn of_query(&self, clock: &Arc<dyn Clock>) -> QuerySettings {
        QuerySettings {
            no_data_batches: self.no_data_batches,
            watermark_policy: self.watermark_policy,
            min_batches_to_retain: self.min_batches_to_retain,
            clock: Arc::clone(clock),
        }
    }

    /// Sets `name`, as Spark spells it (with or without `spark.sql.streaming.`), to `value`.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown name (with the near miss) or a bad value.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let short = name.strip_prefix("spark.sql.streaming.").unwrap_or(name);
        let short = short.strip_suffix(".enabled").unwrap_or(short);
        match short.to_lowercase().as_str() {
            "lanes" | "spark.sql.shuffle.partitions" => self.lanes = lanes(value)?,
            "nodatamicrobatches" => {
                self.no_data_batches =
                    value.to_lowercase().parse().map_err(|_| bad_value(name, value, "true or false"))?;
            }
            "multiplewatermarkpolicy" => self.watermark_policy = value.parse()?,
            "minbatchestoretain" => {
                let wanted = "a whole number above one";
                self.min_batches_to_retain = value.parse().map_err(|_| bad_value(name, value, wanted))?;
                if self.min_batches_to_retain < 2 {
                    return Err(bad_value(name, value, wanted));
                }
            }
            "trigger" => self.trigger = trigger(value)?,
            "timezone" | "spark.sql.session.timezone" => {
                if !["utc", "+00:00", "z", "etc/utc", "gmt"].contains(&value.to_lowercase().as_str()) {
                    return Err(Error::unsupported(format!(
                        "the session's zone is UTC; '{value}' is not supported yet: convert with to_utc_timestamp() or from_utc_timestamp()"
                    )));
                }
            }
            _ => {
                let hint = match nearest(short, NAMES) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known names: {}, and DataFusion's (datafusion.…)", NAMES.join(", ")),
                };
                return Err(Error::invalid_option(format!("SET does not know '{name}'; {hint}")));
            }
        }
        Ok(())
    }
}

fn lanes(value: &str) -> Result<usize> {
    match value.parse() {
        Ok(lanes @ 1..=KEY_GROUPS) => Ok(lanes),
        _ => Err(bad_value("lanes", value, &format!("a whole number from 1 to {KEY_GROUPS}"))),
    }
}

fn trigger(value: &str) -> Result<Trigger> {
    let words = value.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    match words.as_str() {
        "available now" => Ok(Trigger::AvailableNow),
        "once" => Ok(Trigger::Once),
        "default" => Ok(Trigger::Unspecified),
        other => {
            let interval = other.strip_prefix("processing time").unwrap_or(other).trim().trim_matches('\'');
            let us = duration_us(interval).map_err(|_| {
                bad_value("trigger", value, "'available now', 'once', 'default' or 'processing time 5 seconds'")
            })?;
            Ok(Trigger::ProcessingTime(std::time::Duration::from_micros(us.unsigned_abs())))
        }
    }
}
