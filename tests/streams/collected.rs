//! A sink of the tests' own that keeps its promise, and a bomb that goes off where a test puts it.
//!
//! [`Collected`] carries a batch's rows in the token that the commit log keeps, and shows them when they are published.
//! What it holds outlives queries and sessions: a batch that is published again must be the one that was. So whoever
//! compares it with the sink of an unbroken run compares batch by batch, and row by row.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use futures::TryStreamExt;
use millstream::error::Result;
use millstream::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext};
use serde_json::{Value, json};

/// Batch by batch, the rows in order.
pub(crate) type Batches = BTreeMap<i64, Vec<String>>;

/// Panics once, at the point for which it is armed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bomb(Arc<Mutex<Option<&'static str>>>);

impl Bomb {
    /// Arms it for a point.
    pub(crate) fn arm(&self, point: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(point);
    }

    /// Returns whether it has yet to go off.
    pub(crate) fn is_armed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Passes a point.
    pub(crate) fn pass(&self, point: &str) {
        let hit = self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|armed| *armed == point).is_some();
        assert!(!hit, "boom at {point}");
    }
}

/// The sink.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collected {
    published: Arc<Mutex<Batches>>,
    pub(crate) bomb: Bomb,
}

impl Collected {
    /// Returns what was published.
    pub(crate) fn batches(&self) -> Batches {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the rows of a batch, which must be the same each time.
    pub(crate) fn add(&self, batch_id: i64, rows: &[RecordBatch]) {
        let mut rows: Vec<String> = rows.iter().flat_map(lines).collect();
        // Several partitions give their rows in no order.
        rows.sort();
        self.show(batch_id, rows);
    }

    fn show(&self, batch_id: i64, rows: Vec<String>) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let before = published.insert(batch_id, rows.clone());
        assert!(before.is_none_or(|before| before == rows), "batch {batch_id} came twice, with other rows");
    }
}

fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        rows.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
    let line = |row: usize| columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" ");
    (0..rows.num_rows()).map(line).collect()
}

#[async_trait]
impl Sink for Collected {
    fn description(&self) -> String {
        "Collected".to_string()
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        self.bomb.pass("sink open");
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        self.bomb.pass("sink prepare");
        let mut rows = Vec::new();
        for partition in batch.partitions {
            let part: Vec<RecordBatch> = partition.try_collect().await?;
            rows.extend(part.iter().flat_map(lines));
        }
        // Several partitions give their rows in no order.
        rows.sort();
        Ok(Prepared { rows: rows.len() as u64, token: json!(rows) })
    }

    async fn publish(&self, batch_id: i64, token: &Value) -> Result<()> {
        self.bomb.pass("sink publish");
        self.show(batch_id, serde_json::from_value(token.clone())?);
        Ok(())
    }

    async fn stop(&self) {
        self.bomb.pass("sink stop");
    }
}
