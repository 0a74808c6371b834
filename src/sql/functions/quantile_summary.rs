//! A summary of numbers that answers for any quantile within a promised error of rank (Greenwald and Khanna, 2001).
//!
//! Each sample stands for `weight` numbers: those above the previous sample and up to its own. `slack` says how much
//! further its rank may lie. Used by `percentile_approx`; its three columns are that aggregate's state. As long as
//! there are fewer numbers than half the accuracy, every number is a sample and every answer exact.

/// How many numbers wait at least before they are sorted in.
const PENDING: usize = 1024;

/// How many samples there may be before neighbours are joined.
const UNCOMPRESSED: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    value: f64,
    weight: i64,
    slack: i64,
}

/// A summary of numbers.
#[derive(Debug, Clone)]
pub(super) struct QuantileSummary {
    relative_error: f64,
    samples: Vec<Sample>,
    pending: Vec<f64>,
}

/// The columns of a summary.
pub(super) struct Parts {
    /// The samples, ascending.
    pub(super) values: Vec<f64>,
    /// How many numbers each sample stands for.
    pub(super) weights: Vec<i64>,
    /// How much further the rank of each sample may lie.
    pub(super) slacks: Vec<i64>,
}

impl QuantileSummary {
    /// Makes an empty summary whose answers may be off by `relative_error` of the count, in rank.
    pub(super) fn new(relative_error: f64) -> Self {
        Self { relative_error, samples: Vec::new(), pending: Vec::new() }
    }

    /// Puts a summary together again.
    pub(super) fn from_parts(relative_error: f64, values: &[f64], weights: &[i64], slacks: &[i64]) -> Self {
        let parts = values.iter().zip(weights).zip(slacks);
        let samples = parts.map(|((value, weight), slack)| Sample { value: *value, weight: *weight, slack: *slack });
        Self { relative_error, samples: samples.collect(), pending: Vec::new() }
    }

    /// Takes the summary apart; it stays as it is.
    pub(super) fn parts(&mut self) -> Parts {
        self.settle();
        Parts {
            values: self.samples.iter().map(|sample| sample.value).collect(),
            weights: self.samples.iter().map(|sample| sample.weight).collect(),
            slacks: self.samples.iter().map(|sample| sample.slack).collect(),
        }
    }

    /// Adds a number.
    pub(super) fn insert(&mut self, value: f64) {
        self.pending.push(value);
        if self.pending.len() >= PENDING.max(self.samples.len()) {
            self.settle();
        }
    }

    /// Adds all numbers of another summary.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.settle();
        other.settle();
        if self.samples.is_empty() {
            self.samples = other.samples;
            return;
        }
        let (mine, theirs) = (std::mem::take(&mut self.samples), other.samples);
        // between two samples of the other side lie numbers whose place is not known
        let my_gap = gap(self.relative_error, count(&mine));
        let their_gap = gap(other.relative_error, count(&theirs));
        let (mut i, mut j) = (0, 0);
        while i < mine.len() && j < theirs.len() {
            let (mut sample, unknown) = if mine[i].value.total_cmp(&theirs[j].value).is_le() {
                i += 1;
                (mine[i - 1], if j > 0 { their_gap } else { 0 })
            } else {
                j += 1;
                (theirs[j - 1], if i > 0 { my_gap } else { 0 })
            };
            sample.slack += unknown;
            self.samples.push(sample);
        }
        self.samples.extend_from_slice(&mine[i..]);
        self.samples.extend_from_slice(&theirs[j..]);
        self.compress();
    }

    /// Returns the least number of which at least the share `quantile` of all numbers is not greater; `None` where
    /// there is no number.
    pub(super) fn quantile(&mut self, quantile: f64) -> Option<f64> {
        self.settle();
        let (first, last) = (self.samples.first()?, self.samples.last()?);
        if quantile <= self.relative_error {
            return Some(first.value);
        }
        if quantile >= 1.0 - self.relative_error {
            return Some(last.value);
        }
        let allowed = self.samples.iter().map(|sample| sample.weight + sample.slack).max()? as f64 / 2.0;
        let wanted = (quantile * count(&self.samples) as f64).ceil();
        let mut least_rank = 0;
        for sample in &self.samples {
            least_rank += sample.weight;
            let most_rank = least_rank + sample.slack;
            if most_rank as f64 - allowed <= wanted && wanted <= least_rank as f64 + allowed {
                return Some(sample.value);
            }
        }
        Some(last.value)
    }

    /// Returns the bytes held on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.samples.capacity() * size_of::<Sample>() + self.pending.capacity() * size_of::<f64>()
    }

    /// Sorts in what is pending.
    fn settle(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_by(f64::total_cmp);
        let old = std::mem::take(&mut self.samples);
        let mut count = count(&old);
        let mut merged: Vec<Sample> = Vec::with_capacity(old.len() + pending.len());
        let mut old = old.into_iter().peekable();
        let last = pending.len() - 1;
        for (i, value) in pending.iter().copied().enumerate() {
            while let Some(sample) = old.next_if(|sample| sample.value.total_cmp(&value).is_le()) {
                merged.push(sample);
            }
            count += 1;
            let is_end = merged.is_empty() || (i == last && old.peek().is_none());
            let slack = if is_end { 0 } else { gap(self.relative_error, count) };
            merged.push(Sample { value, weight: 1, slack });
        }
        merged.extend(old);
        self.samples = merged;
        pending.clear();
        self.pending = pending;
        self.compress();
    }

    /// Joins neighbours, from the greatest down, as far as the promised error allows.
    fn compress(&mut self) {
        if self.samples.len() <= UNCOMPRESSED {
            return;
        }
        let threshold = 2.0 * self.relative_error * count(&self.samples) as f64;
        let old = std::mem::take(&mut self.samples);
        let Some((smallest, rest)) = old.split_first() else {
            return;
        };
        let mut kept: Vec<Sample> = Vec::with_capacity(old.len());
        for sample in rest.iter().rev() {
            match kept.last_mut() {
                Some(head) if ((sample.weight + head.weight + head.slack) as f64) < threshold => {
                    head.weight += sample.weight;
                }
                _ => kept.push(*sample),
            }
        }
        kept.push(*smallest);
        kept.reverse();
        self.samples = kept;
    }
}

fn count(samples: &[Sample]) -> i64 {
    samples.iter().map(|sample| sample.weight).sum()
}

/// How many numbers may hide between two neighbouring samples.
fn gap(relative_error: f64, count: i64) -> i64 {
    (2.0 * relative_error * count as f64).floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to `count` − 1, in an order that is far from sorted.
    fn shuffled(count: usize) -> impl Iterator<Item = f64> {
        (0..count).map(move |i| ((i * 7919) % count) as f64)
    }

    #[test]
    fn few_numbers_are_answered_exactly() {
        let mut summary = QuantileSummary::new(1e-4);
        [4.0, 1.0, 3.0, 2.0].into_iter().for_each(|value| summary.insert(value));
        let table = [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (1.0, 4.0)];
        for (quantile, expected) in table {
            assert_eq!(summary.quantile(quantile), Some(expected), "{quantile}");
        }
        assert_eq!(QuantileSummary::new(1e-4).quantile(0.5), None);
    }

    #[test]
    fn many_numbers_are_answered_within_the_error() {
        let (count, error) = (100_003, 0.001);
        let mut whole = QuantileSummary::new(error);
        shuffled(count).for_each(|value| whole.insert(value));
        let mut merged = QuantileSummary::new(error);
        let numbers: Vec<f64> = shuffled(count).collect();
        for part in numbers.chunks(9_001) {
            let mut summary = QuantileSummary::new(error);
            part.iter().for_each(|value| summary.insert(*value));
            let parts = summary.parts();
            merged.merge(QuantileSummary::from_parts(error, &parts.values, &parts.weights, &parts.slacks));
        }
        for summary in [&mut whole, &mut merged] {
            assert!(summary.parts().values.len() < count / 5, "{}", summary.parts().values.len());
            for quantile in [0.01, 0.25, 0.5, 0.9, 0.999] {
                let found = summary.quantile(quantile).unwrap();
                let off = (found - quantile * count as f64).abs() / count as f64;
                assert!(off <= 2.0 * error, "{quantile}: off by {off}");
            }
        }
    }
}
