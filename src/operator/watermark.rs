//! The watermark node: lets rows pass and remembers the greatest event time, for the engine to move the watermark.
//!
//! It sits above the filters that do not use the event-time column and below those that do, as in Spark.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, TimeUnit, TimestampMicrosecondType};
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
    /// The column of partitions that have watermarks of their own.
    partition: Option<usize>,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl WatermarkExec {
    /// Makes watermark node `node` over column `column` of `input`, where `partition` tells partitions apart that have
    /// watermarks of their own.
    pub fn new(node: usize, column: usize, partition: Option<usize>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties(input.schema(), input.output_partitioning().partition_count());
        Self { node, column, partition, input, properties }
    }

    fn over(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.node, self.column, self.partition, children.swap_remove(0))))
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
        let (node, column, partition_column) = (self.node, self.column, self.partition);
        let (id, at_end) = (node_id(self), Arc::clone(&batch));
        let rows = self.input.execute(partition, context)?.and_then(move |rows| {
            let noted = event_times(rows.column(column)).and_then(|seen| {
                let of_partitions = match partition_column {
                    Some(partition) => latest_of_partitions(rows.column(column), rows.column(partition))?,
                    None => BTreeMap::new(),
                };
                let mut report = batch.report();
                report.event_times[node].merge(&seen);
                for (name, ms) in of_partitions {
                    let latest_ms = report.partition_times[node].entry(name).or_insert(ms);
                    *latest_ms = ms.max(*latest_ms);
                }
                Ok(())
            });
            futures::future::ready(noted.map(|()| rows))
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

/// Returns the greatest event time of each partition, in milliseconds.
fn latest_of_partitions(times: &ArrayRef, partitions: &ArrayRef) -> PlanResult<BTreeMap<String, i64>> {
    let times = micros(times)?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let partitions = partitions.as_dictionary::<Int32Type>();
    let mut latest_us: Vec<Option<i64>> = vec![None; partitions.values().len()];
    for (key, time) in partitions.keys().iter().zip(times) {
        if let (Some(key), Some(time)) = (key, time) {
            let latest = &mut latest_us[key as usize];
            *latest = (*latest).max(Some(time));
        }
    }
    let names = partitions.values().as_string::<i32>().iter();
    let named = names.zip(latest_us).filter_map(|(name, us)| Some((name?.to_string(), us?.div_euclid(1000))));
    let mut latest = BTreeMap::new();
    for (name, ms) in named {
        let known = latest.entry(name).or_insert(ms);
        *known = ms.max(*known);
    }
    Ok(latest)
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
