//! Functions of the application's own with state, run for each key.
//!
//! [`StatefulProcessor`] is what an application implements, [`TransformWithState`] how it declares one; a function over a
//! [`GroupState`] is the short form of it. The engine sees a [`UserProcessor`], and runs it lane by lane ([`lane`]):
//!
//! ```text
//! rows of the batch ──► late rows dropped, dealt by key group ──► lane: rows by key ──► handle_input_rows ──► rows
//! state variables, one store each ────────────────────────────►  due timers       ──► handle_expired_timer ──► rows
//!                                                                changes: one chunk a variable, durable before any row leaves
//! ```

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::Result as PlanResult;
use datafusion::physical_plan::PhysicalExpr;
use serde_json::{Map, Value};

use super::batch_context::BatchContext;
use super::event_time::EventTime;
use super::exchange::JudgeLate;
use super::stateful::{LaneWork, StatefulOperator};
use crate::error::Result;
use crate::sink::OutputMode;
use crate::state::NamedTables;

mod entries;
mod group_state;
mod handle;
mod lane;
mod processor;
mod row;
mod scope;
mod transform;
mod variable;

pub use group_state::{GroupState, GroupStateTimeout};
pub use handle::{StateHandle, TtlConfig};
pub use processor::{ProcessorContext, StatefulProcessor, TimeMode};
#[doc(hidden)]
pub use row::macro_support;
pub use row::{ColumnValue, StateRow, Timestamp};
pub use scope::GroupKey;
pub use transform::{DeclaredTransform, TransformWithState};
pub use variable::{ListState, MapState, ValueState};

/// What the engine asks of a function with state.
#[async_trait]
pub trait UserProcessor: fmt::Debug + Send + Sync {
    /// Returns what its state means, part by part: a restart with another meaning is refused.
    fn fingerprint(&self) -> Map<String, Value>;

    /// Returns what Spark calls the operator in progress reports.
    fn progress_name(&self) -> &'static str;

    /// Refuses output modes and plans (`watermarked`: its input has an event time) that it cannot serve.
    ///
    /// # Errors
    /// `Unsupported`, saying what would do.
    fn check(&self, mode: OutputMode, watermarked: bool) -> Result<()>;

    /// Whether late rows are dropped before it.
    fn drops_late_rows(&self) -> bool;

    /// Whether a batch without data is worth running when the watermark moved.
    fn wants_no_data(&self) -> bool;

    /// Whether its rows may be older than the watermark, so that no stateful operator may come after it.
    fn ends_chains(&self) -> bool;

    /// Makes the empty tables of its state, for keys with these fields.
    ///
    /// # Errors
    /// Where a type cannot be kept.
    fn stores(&self, keys: &[FieldRef]) -> PlanResult<Vec<NamedTables>>;

    /// Runs one lane of one batch.
    ///
    /// # Errors
    /// Whatever the function returns.
    async fn run(&self, operator: &UserStateOperator, work: LaneWork) -> PlanResult<Vec<RecordBatch>>;
}

/// The operator around a function with state.
#[derive(Debug)]
pub struct UserStateOperator {
    /// The operator's id.
    pub operator: usize,
    /// The function.
    pub processor: Arc<dyn UserProcessor>,
    /// The keys.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Their fields.
    pub key_fields: Vec<FieldRef>,
    /// The input column by which rows are late.
    pub late: Option<(usize, EventTime)>,
    /// What it gives.
    pub schema: SchemaRef,
}

impl UserStateOperator {
    /// Says which rows of `batch` are late, and counts those without an event time; `None` where no row has one.
    fn judge_late(&self, batch: &Arc<BatchContext>) -> Option<JudgeLate> {
        let (column, time) = self.late.filter(|_| self.processor.drops_late_rows())?;
        let (operator, batch) = (self.operator, Arc::clone(batch));
        Some(Arc::new(move |rows: &RecordBatch| -> PlanResult<Option<BooleanArray>> {
            let expiry = time.expiry(rows.column(column))?;
            batch.report().operators[operator].rows_without_event_time += expiry.null_count() as u64;
            let late = |late_us: i64| -> BooleanArray {
                expiry.iter().map(|us| Some(us.is_some_and(|us| us <= late_us))).collect()
            };
            Ok(batch.watermarks[operator].late_us.map(late))
        }))
    }
}

#[async_trait]
impl StatefulOperator for UserStateOperator {
    fn id(&self) -> usize {
        self.operator
    }

    fn name(&self) -> &'static str {
        "UserStateExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn stores(&self) -> PlanResult<Vec<NamedTables>> {
        self.processor.stores(&self.key_fields)
    }

    fn details(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        format!("{}, keys=[{}]", self.processor.progress_name(), keys.join(", "))
    }

    async fn run(&self, work: LaneWork) -> PlanResult<Vec<RecordBatch>> {
        self.processor.run(self, work).await
    }
}
