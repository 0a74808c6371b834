//! How the cost of a batch grows with the groups that the state holds: it should not.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::count_query::{CountQuery, Output, ROWS};
use crate::measure::{peak_rss_mb, percentile_ms};
use crate::options::Options;
use crate::table::Line;
use crate::work::{Finding, Side, Work, figure, in_process};

/// How many batches run before any counts.
const WARM_UP: usize = 20;
/// How many batches count.
const BATCHES: usize = 200;
const SIZES: [i64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];

#[derive(Debug, Clone, Copy)]
pub struct Groups;

impl Work for Groups {
    fn name(&self) -> &'static str {
        "groups"
    }

    /// Fills the state with `groups` groups, and touches 1 000 of them in each batch.
    fn measure(&self, side: Side, groups: i64) -> Value {
        assert_eq!(side, Side::Millstream, "nobody else does it");
        let folder = TempDir::new().unwrap();
        let mut query = CountQuery::start(Output::UpdateNoop, folder.path());
        query.fill(groups);
        let took: Vec<Duration> = (0..WARM_UP + BATCHES)
            .map(|_| {
                let batch = query.next_touch(groups);
                query.run(vec![batch]).0[0]
            })
            .collect();
        assert_eq!(query.groups(), groups.unsigned_abs(), "groups: the state lacks groups, or has too many");
        query.stop();
        let took = &took[WARM_UP..];
        json!({
            "groups": groups,
            "median_ms": percentile_ms(took, 0.5),
            "p99_ms": percentile_ms(took, 0.99),
            "peak_rss_mb": peak_rss_mb().round(),
        })
    }

    fn compare(&self, options: &Options) -> Finding {
        let sizes = SIZES.iter().copied().filter(|groups| *groups <= options.groups_max);
        let runs: Vec<Value> = sizes.map(|groups| in_process(self, Side::Millstream, groups)).collect();
        let (first, last) = (runs.first().unwrap(), runs.last().unwrap());
        let ratio = figure(last, "median_ms") / figure(first, "median_ms");
        let medians: Vec<String> = runs.iter().map(|run| format!("{:.2}", figure(run, "median_ms"))).collect();
        let line = Line {
            work: format!("a batch beside {} to {} groups", first["groups"], last["groups"]),
            millstream: format!("median {} ms", medians.join(", ")),
            ratio: format!("{ratio:.2}"),
            goal: "≤ 1.3 ×".to_string(),
            memory: format!("{} MB", figure(last, "peak_rss_mb")),
            ..Line::default()
        };
        let json = json!({"work": "groups", "rows": ROWS, "ratio": ratio, "sizes": runs});
        Finding { json, lines: vec![line] }
    }
}
