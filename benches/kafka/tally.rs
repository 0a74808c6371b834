//! A sink that does what `noop` does, and adds up the counts that come by: they are few, and they are checked.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::TryStreamExt;
use millstream::error::Result;
use millstream::prelude::OutputMode;
use millstream::sink::{Prepared, Sink, SinkBatch, SinkContext};
use serde_json::Value;

use crate::load::Groups;

/// Counts rows, and adds up their column `n`.
#[derive(Debug, Default)]
pub struct Tally {
    groups: AtomicI64,
    rows: AtomicI64,
}

impl Tally {
    /// Returns what has come by.
    pub fn groups(&self) -> Groups {
        Groups { groups: self.groups.load(Ordering::Relaxed), rows: self.rows.load(Ordering::Relaxed) }
    }
}

#[async_trait]
impl Sink for Tally {
    fn description(&self) -> String {
        "Tally".to_string()
    }

    fn supports(&self, _mode: OutputMode) -> bool {
        true
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let tasks: Vec<_> = batch.partitions.into_iter().map(|partition| tokio::spawn(added_up(partition))).collect();
        let mut rows = 0;
        for task in tasks {
            let found = task.await.unwrap()?;
            rows += found.groups.unsigned_abs();
            self.groups.fetch_add(found.groups, Ordering::Relaxed);
            self.rows.fetch_add(found.rows, Ordering::Relaxed);
        }
        Ok(Prepared { token: Value::Null, rows })
    }

    async fn publish(&self, _batch_id: i64, _token: &Value) -> Result<()> {
        Ok(())
    }
}

async fn added_up(mut partition: SendableRecordBatchStream) -> Result<Groups, DataFusionError> {
    let mut found = Groups::default();
    while let Some(batch) = partition.try_next().await? {
        found.groups += batch.num_rows() as i64;
        found.rows += batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().values().iter().sum::<i64>();
    }
    Ok(found)
}
