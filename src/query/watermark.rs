//! The watermark between batches: what each watermark node saw, and the one value that the next batch runs with.
//!
//! The micro-batch protocol feeds it the event-time maxima of a batch and writes [`WatermarkTracker::state`] into
//! the commit log; recovery puts that back, so that a restarted query has the watermarks of an unbroken run. The
//! invariant: neither the global watermark nor a node's own ever falls.

use std::fmt;
use std::str::FromStr;

use crate::checkpoint::WatermarkState;
use crate::error::{Error, Result};

/// Says how the watermarks of several inputs become one (`multipleWatermarkPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WatermarkPolicy {
    /// Takes the slowest input's: no row of any input becomes late because another input is ahead.
    #[default]
    Min,
    /// Takes the fastest input's: results come sooner, rows of slower inputs may be dropped as late.
    Max,
}

impl fmt::Display for WatermarkPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

impl FromStr for WatermarkPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_lowercase().as_str() {
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            _ => Err(crate::options::bad_value("multipleWatermarkPolicy", text, "min or max")),
        }
    }
}

/// Tracks one watermark per watermark node of the plan, and the global one.
///
/// All values are milliseconds since 1970-01-01 00:00 UTC. The global watermark starts at zero; a node has no value
/// before the first batch ends.
#[derive(Debug, Clone)]
pub struct WatermarkTracker {
    policy: WatermarkPolicy,
    global_ms: i64,
    nodes_ms: Vec<i64>,
    idle: Vec<bool>,
}

impl WatermarkTracker {
    /// Makes a tracker for a fresh query.
    pub fn new(policy: WatermarkPolicy) -> Self {
        Self { policy, global_ms: 0, nodes_ms: Vec::new(), idle: Vec::new() }
    }

    /// Returns the watermark that the next batch runs with.
    pub fn global_ms(&self) -> i64 {
        self.global_ms
    }

    /// Returns each node's own watermark, in plan order; none before the first batch ended.
    pub fn nodes(&self) -> &[i64] {
        &self.nodes_ms
    }

    /// Returns the node from which the policy takes the global watermark, or would if that could fall: the one that
    /// holds it back. None before the first batch ended, and without nodes.
    pub fn chosen(&self) -> Option<usize> {
        let is_idle = |node: usize| self.idle.get(node).copied().unwrap_or(false);
        let all_idle = (0..self.nodes_ms.len()).all(is_idle);
        let counted = (0..self.nodes_ms.len()).filter(|node| all_idle || !is_idle(*node));
        match self.policy {
            WatermarkPolicy::Min => counted.min_by_key(|node| self.nodes_ms[*node]),
            WatermarkPolicy::Max => counted.max_by_key(|node| self.nodes_ms[*node]),
        }
    }

    /// Moves the watermarks at the end of a batch in which node *i* saw event times up to `observed_max_ms[i]`
    /// (`None`: no row with an event time), with `delays_ms[i]` as its delay.
    ///
    /// A node that has never seen a row counts as zero, so that under [`WatermarkPolicy::Min`] everything waits for
    /// it. Without nodes the global watermark stays where it is.
    ///
    /// # Errors
    /// `Internal` where the number of nodes is not what it was, or the global watermark would fall.
    pub fn update(&mut self, observed_max_ms: &[Option<i64>], delays_ms: &[i64]) -> Result<()> {
        self.check_node_count(observed_max_ms.len(), delays_ms.len())?;
        for (node, (observed_ms, delay_ms)) in observed_max_ms.iter().zip(delays_ms).enumerate() {
            let moved_ms = observed_ms.map(|max_ms| max_ms.saturating_sub(*delay_ms));
            match self.nodes_ms.get_mut(node) {
                Some(node_ms) => *node_ms = moved_ms.map_or(*node_ms, |ms| ms.max(*node_ms)),
                // The first value is taken as it is: event times before 1970 give a node below zero.
                None => self.nodes_ms.push(moved_ms.unwrap_or(0)),
            }
            if moved_ms.is_some() {
                self.set_idle(node, false);
            }
        }
        self.choose_again()
    }

    /// Lets the policy choose anew, after nodes have become idle.
    ///
    /// # Errors
    /// As [`WatermarkTracker::update`].
    pub fn choose_again(&mut self) -> Result<()> {
        self.set_global(self.chosen().map_or(self.global_ms, |node| self.nodes_ms[node].max(self.global_ms)))
    }

    /// Raises a node's own watermark between batches, since what held it back has fallen silent. It moves the global one
    /// with [`WatermarkTracker::choose_again`].
    pub fn raise(&mut self, node: usize, watermark_ms: i64) {
        if let Some(node_ms) = self.nodes_ms.get_mut(node) {
            *node_ms = watermark_ms.max(*node_ms);
        }
    }

    /// Raises the global watermark to what a batch was planned with: nodes that were idle then may be awake now.
    pub fn reach(&mut self, watermark_ms: i64) {
        self.global_ms = self.global_ms.max(watermark_ms);
    }

    /// Marks a node as idle, or as awake again. An idle node is left out of the policy's choice as long as another
    /// is awake; a row wakes it. This moves nothing until [`WatermarkTracker::choose_again`] or the next
    /// [`WatermarkTracker::update`].
    pub fn set_idle(&mut self, node: usize, idle: bool) {
        if self.idle.len() <= node {
            self.idle.resize(node + 1, false);
        }
        self.idle[node] = idle;
    }

    /// Returns what the commit log keeps.
    pub fn state(&self) -> WatermarkState {
        let mut idle = self.idle.clone();
        idle.resize(self.nodes_ms.len(), false);
        WatermarkState { global_ms: self.global_ms, nodes: self.nodes_ms.clone(), idle, ..WatermarkState::default() }
    }

    /// Puts back what the commit log kept.
    ///
    /// # Errors
    /// `Internal` where that lies behind what this tracker already holds.
    pub fn restore(&mut self, state: WatermarkState) -> Result<()> {
        if let Some(node) = (0..self.nodes_ms.len()).find(|n| state.nodes.get(*n) < self.nodes_ms.get(*n)) {
            return Err(Error::internal(format!(
                "watermark node {node} would fall from {} ms to {:?} ms at recovery",
                self.nodes_ms[node],
                state.nodes.get(node)
            )));
        }
        self.set_global(state.global_ms)?;
        self.nodes_ms = state.nodes;
        self.idle = state.idle;
        Ok(())
    }

    fn set_global(&mut self, global_ms: i64) -> Result<()> {
        if global_ms < self.global_ms {
            return Err(Error::internal(format!(
                "the watermark would fall from {} ms to {global_ms} ms; rows already judged late would be on time",
                self.global_ms
            )));
        }
        self.global_ms = global_ms;
        Ok(())
    }

    fn check_node_count(&self, observed: usize, delays: usize) -> Result<()> {
        if observed != delays || (!self.nodes_ms.is_empty() && self.nodes_ms.len() != observed) {
            return Err(Error::internal(format!(
                "{observed} watermark nodes reported event times, {delays} have a delay and {} have a watermark",
                self.nodes_ms.len()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// 2026-01-01 00:00 UTC.
    const MIDNIGHT_MS: i64 = 1_767_225_600_000;

    fn at(second: i64) -> i64 {
        MIDNIGHT_MS + second * 1_000
    }

    /// The global watermark after each batch of a union of two inputs, delays 10 s and 5 s; maxima in seconds.
    fn run_union(policy: WatermarkPolicy, batches: &[[i64; 2]]) -> Vec<i64> {
        let mut tracker = WatermarkTracker::new(policy);
        batches
            .iter()
            .map(|maxima| {
                tracker.update(&maxima.map(|second| Some(at(second))), &[10_000, 5_000]).unwrap();
                tracker.global_ms()
            })
            .collect()
    }

    #[test]
    fn a_union_under_min_waits_for_the_slower_input() {
        assert_eq!(run_union(WatermarkPolicy::Min, &[[5, 5], [60, 20], [65, 25]]), [at(-5), at(15), at(20)]);
    }

    #[test]
    fn a_union_under_max_follows_the_faster_input() {
        assert_eq!(run_union(WatermarkPolicy::Max, &[[5, 5], [60, 20], [65, 25]]), [at(0), at(50), at(55)]);
    }

    #[test]
    fn a_node_that_saw_nothing_holds_min_at_zero() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min);
        tracker.update(&[Some(at(60)), None], &[0, 0]).unwrap();
        assert_eq!((tracker.global_ms(), tracker.nodes()), (0, &[at(60), 0][..]));
        tracker.update(&[None, Some(at(30))], &[0, 0]).unwrap();
        assert_eq!((tracker.global_ms(), tracker.nodes()), (at(30), &[at(60), at(30)][..]));
    }

    #[test]
    fn the_watermark_never_falls() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min);
        tracker.update(&[Some(-70_000)], &[0]).unwrap();
        assert_eq!((tracker.global_ms(), tracker.nodes()), (0, &[-70_000][..]), "it starts at zero");
        tracker.update(&[Some(at(60))], &[10_000]).unwrap();
        tracker.update(&[Some(at(30))], &[10_000]).unwrap();
        assert_eq!(tracker.global_ms(), at(50));

        let earlier =
            WatermarkState { global_ms: at(49), nodes: vec![at(50)], idle: vec![false], ..WatermarkState::default() };
        assert_eq!(tracker.restore(earlier).unwrap_err().kind(), ErrorKind::Internal);
        let lower_node =
            WatermarkState { global_ms: at(50), nodes: vec![at(49)], idle: vec![false], ..WatermarkState::default() };
        assert_eq!(tracker.restore(lower_node).unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(tracker.global_ms(), at(50));
    }

    #[test]
    fn without_nodes_it_stays_at_zero() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Max);
        tracker.update(&[], &[]).unwrap();
        assert_eq!(tracker.global_ms(), 0);
    }

    #[test]
    fn recovery_goes_on_as_an_unbroken_run_would() {
        let mut unbroken = WatermarkTracker::new(WatermarkPolicy::Min);
        unbroken.update(&[Some(at(60)), Some(at(20))], &[10_000, 5_000]).unwrap();
        unbroken.set_idle(1, true);
        let mut recovered = WatermarkTracker::new(WatermarkPolicy::Min);
        recovered.restore(unbroken.state()).unwrap();
        for tracker in [&mut unbroken, &mut recovered] {
            tracker.update(&[Some(at(65)), None], &[10_000, 5_000]).unwrap();
            assert_eq!(tracker.global_ms(), at(55), "the idle input holds nothing back");
            tracker.update(&[None, Some(at(25))], &[10_000, 5_000]).unwrap();
            assert_eq!((tracker.global_ms(), tracker.nodes()), (at(55), &[at(55), at(20)][..]));
        }
        let three_nodes = recovered.update(&[None, None, None], &[0, 0, 0]);
        assert_eq!(three_nodes.unwrap_err().kind(), ErrorKind::Internal);
    }

    #[test]
    fn idle_nodes_let_go_of_the_watermark_unless_all_are_idle() {
        let mut tracker = WatermarkTracker::new(WatermarkPolicy::Min);
        tracker.choose_again().unwrap();
        assert_eq!((tracker.global_ms(), tracker.chosen()), (0, None), "before the first batch nothing moves");
        tracker.update(&[Some(at(60)), Some(at(20))], &[0, 0]).unwrap();
        assert_eq!((tracker.global_ms(), tracker.chosen()), (at(20), Some(1)));

        let mut all_idle = tracker.clone();
        for node in 0..2 {
            all_idle.set_idle(node, true);
        }
        all_idle.choose_again().unwrap();
        assert_eq!(all_idle.global_ms(), at(20), "where all are idle nothing moves");

        tracker.set_idle(1, true);
        tracker.choose_again().unwrap();
        assert_eq!((tracker.global_ms(), tracker.chosen()), (at(60), Some(0)));
        tracker.update(&[Some(at(90)), Some(at(30))], &[0, 0]).unwrap();
        assert_eq!((tracker.global_ms(), tracker.chosen()), (at(60), Some(1)), "awake again it is waited for");
        tracker.reach(at(70));
        tracker.reach(at(10));
        assert_eq!(tracker.global_ms(), at(70));
    }

    #[test]
    fn a_policy_is_min_or_max() {
        assert_eq!("MAX".parse::<WatermarkPolicy>().unwrap(), WatermarkPolicy::Max);
        let error = "median".parse::<WatermarkPolicy>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains("'median', expected min or max"), "{error}");
    }
}
