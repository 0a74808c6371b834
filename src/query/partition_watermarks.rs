//! Watermarks of partitions: what each partition of a source has seen, and the least of it, which is the source's.
//!
//! So a fast partition makes no row of a slow one late. A partition that has been silent for the source's `idleTimeout`, in
//! processing time, is left out as long as another is awake, so that it does not hold everything back; without that option
//! it is waited for for ever. As with sources, silence is counted from the beginning of the run.

use std::collections::{BTreeMap, BTreeSet};

/// The partitions below one watermark node.
#[derive(Debug, Clone, Default)]
struct Partitions {
    timeout_ms: Option<i64>,
    /// The greatest event time of each.
    latest_ms: BTreeMap<String, i64>,
    /// When each last gave rows.
    last_rows_ms: BTreeMap<String, i64>,
}

/// The partitions of all watermark nodes that watch theirs one by one.
#[derive(Debug, Clone, Default)]
pub(super) struct PartitionWatermarks {
    nodes: BTreeMap<usize, Partitions>,
    begun_ms: i64,
}

impl PartitionWatermarks {
    /// Begins at `now_ms` with what the commit log knows; `timeouts_ms` has the nodes that watch partitions.
    pub(super) fn new(
        timeouts_ms: impl IntoIterator<Item = (usize, Option<i64>)>,
        mut known: BTreeMap<usize, BTreeMap<String, i64>>,
        now_ms: i64,
    ) -> Self {
        let node = |(node, timeout_ms): (usize, Option<i64>)| {
            let latest_ms = known.remove(&node).unwrap_or_default();
            (node, Partitions { timeout_ms, latest_ms, last_rows_ms: BTreeMap::new() })
        };
        Self { nodes: timeouts_ms.into_iter().map(node).collect(), begun_ms: now_ms }
    }

    /// Notes what time it is: where the clock was set back to before the run, silence begins anew.
    pub(super) fn it_is(&mut self, now_ms: i64) {
        self.begun_ms = self.begun_ms.min(now_ms);
    }

    /// Takes in what the rows of a batch, planned at `at_ms`, had of event times. Those of `busy` have given rows, whatever
    /// became of them.
    pub(super) fn saw(&mut self, node: usize, times_ms: &BTreeMap<String, i64>, busy: &BTreeSet<String>, at_ms: i64) {
        // A batch of an earlier run that runs again was planned before this run began.
        let at_ms = at_ms.max(self.begun_ms);
        let Some(partitions) = self.nodes.get_mut(&node) else { return };
        for name in busy {
            let last_ms = partitions.last_rows_ms.entry(name.clone()).or_insert(at_ms);
            *last_ms = at_ms.max(*last_ms);
        }
        for (name, ms) in times_ms {
            let latest_ms = partitions.latest_ms.entry(name.clone()).or_insert(*ms);
            *latest_ms = (*ms).max(*latest_ms);
            let last_ms = partitions.last_rows_ms.entry(name.clone()).or_insert(at_ms);
            *last_ms = at_ms.max(*last_ms);
        }
    }

    /// Returns the event time up to which all partitions of `all` have come that are awake, and which one is the last.
    /// Those of `busy` have rows to be read, and are awake. `None` where one that is awake has given nothing yet, and
    /// where all sleep. No partition sleeps where the query `ends` by itself.
    pub(super) fn reached<'a>(
        &mut self,
        node: usize,
        all: &'a [String],
        busy: &BTreeSet<String>,
        now_ms: i64,
        ends: bool,
    ) -> Option<(i64, &'a str)> {
        let begun_ms = self.begun_ms;
        let now_ms = now_ms.max(begun_ms);
        let partitions = self.nodes.get_mut(&node)?;
        let timeout_ms = partitions.timeout_ms.filter(|_| !ends);
        let mut reached: Option<(i64, &str)> = None;
        for name in all {
            let last_ms = partitions.last_rows_ms.entry(name.clone()).or_insert(begun_ms);
            // Where the clock was set back silence begins anew.
            *last_ms = (*last_ms).min(now_ms);
            let sleeps = timeout_ms.is_some_and(|timeout_ms| now_ms.saturating_sub(*last_ms) >= timeout_ms);
            if sleeps && !busy.contains(name) {
                continue;
            }
            let latest_ms = *partitions.latest_ms.get(name)?;
            reached = reached.into_iter().chain([(latest_ms, name.as_str())]).min();
        }
        reached
    }

    /// Returns the partition that is waited for: one that has given nothing yet, or the last.
    pub(super) fn slowest(&mut self, node: usize, all: &[String], now_ms: i64, ends: bool) -> Option<String> {
        let none = BTreeSet::new();
        if let Some((_, name)) = self.reached(node, all, &none, now_ms, ends) {
            return Some(name.to_string());
        }
        let latest_ms = &self.nodes.get(&node)?.latest_ms;
        all.iter().find(|name| !latest_ms.contains_key(*name)).cloned()
    }

    /// Returns what the commit log keeps.
    pub(super) fn state(&self) -> BTreeMap<usize, BTreeMap<String, i64>> {
        self.nodes.iter().map(|(node, partitions)| (*node, partitions.latest_ms.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        vec!["t-0".to_string(), "t-1".to_string()]
    }

    fn times(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
        pairs.iter().map(|(name, ms)| ((*name).to_string(), *ms)).collect()
    }

    #[test]
    fn the_slowest_partition_decides() {
        let (all, none) = (all(), BTreeSet::new());
        let mut watched = PartitionWatermarks::new([(0, None)], BTreeMap::new(), 0);
        watched.saw(0, &times(&[("t-0", 90)]), &BTreeSet::new(), 1);
        assert_eq!(watched.reached(0, &all, &none, 1, false), None, "one has given nothing yet");
        watched.saw(0, &times(&[("t-1", 20), ("t-0", 50)]), &BTreeSet::new(), 2);
        assert_eq!(watched.reached(0, &all, &none, 1_000_000, false), Some((20, "t-1")), "for ever");
        let mut again = PartitionWatermarks::new([(0, None)], watched.state(), 0);
        assert_eq!(again.reached(0, &all, &none, 0, false), Some((20, "t-1")), "after a restart, too");
        assert_eq!(again.reached(1, &all, &none, 0, false), None, "a node that watches no partitions");
    }

    /// A batch that runs again has the time at which it was planned: that makes nobody silent.
    #[test]
    fn a_batch_of_an_earlier_run_puts_nobody_to_sleep() {
        let (all, none) = (all(), BTreeSet::new());
        let known = [(0, times(&[("t-0", 90), ("t-1", 20)]))].into();
        let mut watched = PartitionWatermarks::new([(0, Some(100))], known, 10_000);
        watched.saw(0, &times(&[("t-0", 95)]), &none, 1_000);
        assert_eq!(watched.reached(0, &all, &none, 1_000, false), Some((20, "t-1")));
        assert_eq!(watched.reached(0, &all, &none, 10_050, false), Some((20, "t-1")));
        assert_eq!(watched.reached(0, &all, &none, 10_100, false), None, "then both are silent");
        watched.it_is(500);
        assert_eq!(watched.reached(0, &all, &none, 550, false), Some((20, "t-1")), "the clock was set back");
    }

    #[test]
    fn rows_that_a_filter_takes_keep_a_partition_awake() {
        let (all, none) = (all(), BTreeSet::new());
        let mut watched = PartitionWatermarks::new([(0, Some(100))], BTreeMap::new(), 0);
        watched.saw(0, &times(&[("t-0", 90), ("t-1", 20)]), &none, 10);
        watched.saw(0, &times(&[("t-0", 95)]), &["t-1".to_string()].into(), 110);
        assert_eq!(watched.reached(0, &all, &none, 110, false), Some((20, "t-1")));
    }

    #[test]
    fn a_silent_partition_is_left_out() {
        let (all, none) = (all(), BTreeSet::new());
        let mut watched = PartitionWatermarks::new([(0, Some(100))], BTreeMap::new(), 1_000);
        watched.saw(0, &times(&[("t-0", 90)]), &BTreeSet::new(), 1_050);
        assert_eq!(watched.reached(0, &all, &none, 1_099, false), None);
        assert_eq!(watched.reached(0, &all, &none, 1_100, true), None, "not where the query ends by itself");
        assert_eq!(watched.reached(0, &all, &none, 1_100, false), Some((90, "t-0")));
        assert_eq!(watched.reached(0, &all, &["t-1".to_string()].into(), 1_100, false), None, "it has rows to be read");
        assert_eq!(watched.reached(0, &all, &none, 1_150, false), None, "where all sleep nothing moves");
        watched.saw(0, &times(&[("t-1", 30)]), &BTreeSet::new(), 1_200);
        assert_eq!(watched.reached(0, &all, &none, 1_200, false), Some((30, "t-1")), "awake again it is waited for");
    }
}
