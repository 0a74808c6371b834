//! The plan of one streaming query: planned once, executed once per micro-batch.
//!
//! Two physical plans are cached over the same logical one: with a partition a lane, and with one partition for
//! batches of few rows, where waking tasks would cost more than the work.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Analyzer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::batch_time::{BatchTime, freeze_per_batch};
use super::durations::intervals_as_durations;
use super::lowering::StreamLowering;
use super::operator_plan::OperatorPlan;
use super::stateful::{add_table_watermarks, make_stateful};
use super::stream_table::StreamTable;
use super::time_difference::days_as_nanoseconds;
use super::window_projection::expand_windows;
use crate::error::{Error, Result};
use crate::operator::stateful::StatefulExec;
use crate::sink::OutputMode;
use crate::state::NamedTables;

/// A source of a query.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// Under which its offsets are kept: IDENTIFIED BY, or its place in the text.
    pub name: String,
    /// The table it reads.
    pub table: StreamTable,
}

/// A watermark of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkPlan {
    /// The event-time column.
    pub column: String,
    /// The delay in microseconds.
    pub delay_us: i64,
    /// The sources below it.
    pub sources: Vec<usize>,
    /// Whether partitions of the source have watermarks of their own.
    pub per_partition: bool,
}

/// A streaming query, ready to run batch by batch.
#[derive(Debug)]
pub struct StreamPlan {
    /// By source id.
    pub sources: Vec<SourcePlan>,
    /// By watermark node.
    pub watermarks: Vec<WatermarkPlan>,
    /// By operator id.
    pub operators: Vec<OperatorPlan>,
    /// The output mode it was checked for.
    pub mode: OutputMode,
    /// The rows that leave.
    pub schema: SchemaRef,
    /// The optimized logical plan.
    pub logical: LogicalPlan,
    /// The time of the batch, for `now()`.
    pub batch_time: BatchTime,
    /// The session's state, set for streams: what tasks run with.
    pub state: SessionState,
    /// The number of lanes.
    pub lanes: usize,
    wide: Arc<dyn ExecutionPlan>,
    narrow: Arc<dyn ExecutionPlan>,
}

impl StreamPlan {
    /// Plans `plan` for `mode` with `lanes` lanes of stateful work.
    ///
    /// # Errors
    /// `InvalidQuery` or `Unsupported` for what cannot be planned or has no meaning over streams in this mode.
    pub async fn build(session: &SessionState, plan: LogicalPlan, mode: OutputMode, lanes: usize) -> Result<Self> {
        // More lanes than processors serve state that leaves memory, lane by lane; they need no partitions of their own.
        let partitions = lanes.min(session.config().target_partitions());
        let state = for_streams(session, partitions);
        let plan = add_table_watermarks(days_as_nanoseconds(expand_windows(plan)?)?)?;
        let mut analyzer = Analyzer::new();
        for rewrite in session.analyzer().function_rewrites() {
            analyzer.add_function_rewrite(Arc::clone(rewrite));
        }
        let analyzed = analyzer.execute_and_check(plan, state.config_options(), |_, _| {})?;
        let (stateful, found) = make_stateful(analyzed, mode, &state)?;
        let batch_time = BatchTime::default();
        let logical = intervals_as_durations(state.optimize(&freeze_per_batch(stateful, &batch_time)?)?)?;

        let narrow = physical(&logical, &for_streams(session, 1)).await?;
        // Where the first row decides, rows must keep their order of arrival: one partition.
        let wide = match partitions == 1 || found.order_matters {
            true => Arc::clone(&narrow),
            false => physical(&logical, &state).await?,
        };
        let name_of = |(id, table): (usize, StreamTable)| {
            let name = table.identified_by.clone().unwrap_or_else(|| id.to_string());
            SourcePlan { name, table }
        };
        let plan = Self {
            sources: found.sources.into_iter().enumerate().map(name_of).collect(),
            watermarks: found.watermarks,
            operators: found.operators,
            mode,
            schema: Arc::new(logical.schema().as_arrow().clone()),
            logical,
            batch_time,
            state,
            lanes,
            wide,
            narrow,
        };
        plan.empty_state()?;
        Ok(plan)
    }

    /// Returns the plan to execute: `small` batches run in one partition.
    pub fn physical(&self, small: bool) -> &Arc<dyn ExecutionPlan> {
        if small { &self.narrow } else { &self.wide }
    }

    /// Makes empty tables for every operator's state in one lane.
    ///
    /// # Errors
    /// `Internal` where an operator of the logical plan is missing in the physical one.
    pub fn empty_state(&self) -> Result<Vec<Vec<NamedTables>>> {
        let mut tables: Vec<Option<Vec<NamedTables>>> = self.operators.iter().map(|_| None).collect();
        collect_tables(&self.narrow, &mut tables)?;
        let missing = || Error::internal("the optimizer removed a stateful operator");
        tables.into_iter().map(|t| t.ok_or_else(missing)).collect()
    }
}

fn collect_tables(plan: &Arc<dyn ExecutionPlan>, tables: &mut [Option<Vec<NamedTables>>]) -> Result<()> {
    if let Some(stateful) = plan.downcast_ref::<StatefulExec>() {
        tables[stateful.operator().id()] = Some(stateful.operator().stores()?);
    }
    plan.children().into_iter().try_for_each(|child| collect_tables(child, tables))
}

/// Settings that a plan run again and again needs; what they are against is said beside each.
fn for_streams(session: &SessionState, partitions: usize) -> SessionState {
    // Building a state would else put an empty catalog in place of the session's.
    let mut config =
        session.config().clone().with_target_partitions(partitions).with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    // A dynamic filter keeps the values of the batch that made it.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // A row that a join drops for its NULL key must not move the watermark: the filter goes below it, as in Spark.
    options.optimizer.filter_null_join_keys = true;
    // Spreading rows over partitions loses their order of arrival.
    options.optimizer.enable_round_robin_repartition = false;
    // The static side of a join is small and read whole, so every partition of the stream shares one table of it.
    options.optimizer.repartition_joins = false;
    options.optimizer.hash_join_single_partition_threshold = usize::MAX;
    options.optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
    SessionStateBuilder::new_from_existing(session.clone()).with_config(config).build()
}

async fn physical(logical: &LogicalPlan, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StreamLowering)]);
    Ok(planner.create_physical_plan(logical, state).await?)
}
