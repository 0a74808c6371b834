//! The watermark node: lets rows pass and remembers the greatest event time, for the engine to move the watermark.
//!
//! It sits above the filters that do not use the event-time column and below those that do, as in Spark.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::Result as PlanResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::batch_context::{BatchContext, EventTimes, node_id};
use super::leaf::{plain_node, properties};

/// Watches one column of what passes.
#[derive(Debug)]
pub struct WatermarkExec {
    node: usize,
    column: usize,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl WatermarkExec {
    /// Makes watermark node `node` over column `column` of `input`.
    pub fn new(node: usize, column: usize, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties(input.schema(), input.output_partitioning().partition_count());
        Self { node, column, input, properties }
    }

    fn over(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.node, self.column, children.swap_remove(0))))
    }
}

impl DisplayAs for WatermarkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatermarkExec: node={}, column={}", self.node, self.schema().field(self.column).name())
    }
}

impl ExecutionPlan for WatermarkExec {
    plain_node!("WatermarkExec");

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    #[allow(deprecated)]
    fn partition_statistics(&self, partition: Option<usize>) -> PlanResult<Arc<datafusion::common::Statistics>> {
        self.input.partition_statistics(partition)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        let batch = BatchContext::of(&context)?;
        let (node, column) = (self.node, self.column);
        let (id, at_end) = (node_id(self), Arc::clone(&batch));
        let rows = self.input.execute(partition, context)?.and_then(move |rows| {
            let seen = event_times(rows.column(column));
            if let Ok(seen) = &seen {
                batch.report().event_times[node].merge(seen);
            }
            futures::future::ready(seen.map(|_| rows))
        });
        let end = futures::stream::poll_fn(move |_| {
            at_end.finished(id, partition);
            std::task::Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows.chain(end))))
    }
}

/// Returns `column`'s times in microseconds.
pub(super) fn micros(column: &ArrayRef) -> PlanResult<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, None) => Arc::clone(column),
        _ => cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?,
    })
}

fn event_times(column: &ArrayRef) -> PlanResult<EventTimes> {
    let column = micros(column)?;
    let times = column.as_primitive::<TimestampMicrosecondType>();
    let mut seen = EventTimes::default();
    let mut add = |us: i64| {
        let ms = us.div_euclid(1000);
        seen.min_ms = if seen.count == 0 { ms } else { seen.min_ms.min(ms) };
        seen.max_ms = if seen.count == 0 { ms } else { seen.max_ms.max(ms) };
        seen.sum_ms += ms as f64;
        seen.count += 1;
    };
    if times.null_count() == 0 {
        times.values().iter().for_each(|us| add(*us));
    } else {
        times.iter().flatten().for_each(add);
    }
    Ok(seen)
}
