//! Relations of FROM that DataFusion does not know: stream relations with their watermarks, windows as table functions,
//! rows without duplicates, ASOF joins and lookups.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as PlanResult};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, TableFactor};

use super::asof_join::{ASOF_FUNCTION, AsofRelation, decode_asof_relation};
use super::call::{TableCall, described};
use super::stream_relation::{
    LOOKUP_FUNCTION, RelationWatermark, STREAM_FUNCTION, StreamSource, decode_stream_relation,
};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::asof_join::asof_join;
use crate::plan::cumulate::cumulate;
use crate::plan::duplicates::drop_duplicates;
use crate::plan::nodes::WatermarkNode;
use crate::plan::static_table::StaticTable;
use crate::plan::stream_table::{StreamTable, is_streaming};
use crate::plan::window_function::{WINDOW, WINDOWS, functions, window_time};
use crate::source::WatermarkOptions;

/// Plans the relations of this file; leaves every other to DataFusion.
#[derive(Debug)]
pub struct StreamRelations;

impl RelationPlanner for StreamRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> PlanResult<RelationPlanning> {
        let Some(call) = TableCall::of(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = match call.name.as_str() {
            STREAM_FUNCTION => stream(&call.args, context)?,
            LOOKUP_FUNCTION => lookup(&call, context)?,
            ASOF_FUNCTION => asof(&call, context)?,
            "tumble" => windowed(&call, context, TableWindow::Tumble)?,
            "hop" => windowed(&call, context, TableWindow::Hop)?,
            "cumulate" => windowed(&call, context, TableWindow::Cumulate)?,
            "drop_duplicates" => distinct_rows(&call, context, false)?,
            "drop_duplicates_within_watermark" => distinct_rows(&call, context, true)?,
            "session" => return Err(session_without_groups().into()),
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, call.alias))))
    }
}

/// A grouping by its windows is rewritten before it is planned, so that what comes here is anything else.
fn session_without_groups() -> Error {
    Error::unsupported(
        "which session a row is in is known only when the next rows are, so SESSION(…) stands alone in FROM under \
         GROUP BY window_start, window_end and the columns of PARTITION BY; or use GROUP BY session_window(time, gap), …",
    )
}

fn derived(query: Box<ast::Query>, context: &mut dyn RelationPlannerContext) -> PlanResult<LogicalPlan> {
    context.plan(TableFactor::Derived { lateral: false, subquery: query, alias: None, sample: None })
}

fn stream(args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> PlanResult<LogicalPlan> {
    let relation = decode_stream_relation(args)?;
    let StreamSource::Query(query) = relation.source else {
        return Err(Error::internal("a stream relation whose name was not resolved").into());
    };
    let mut plan = derived(query, context)?;
    if relation.stream_word {
        plan = as_stream(plan, &relation.options, relation.identified_by.as_deref())?;
    }
    if let Some(watermark) = relation.watermark {
        plan = with_watermark(plan, watermark, context)?;
    }
    Ok(plan)
}

/// STREAM before a table makes a stream of it; before a stream it only adds options.
fn as_stream(plan: LogicalPlan, options: &Options, identified_by: Option<&str>) -> PlanResult<LogicalPlan> {
    let mut options = options.clone();
    let watermarks = WatermarkOptions::take(&mut options)?;
    let plan = on_scans(plan, |provider| {
        let any: &dyn std::any::Any = provider;
        let stream = match any.downcast_ref::<StaticTable>() {
            Some(table) => Some(table.as_stream().clone()),
            None => any.downcast_ref::<StreamTable>().cloned(),
        };
        stream.map(|mut stream| {
            stream.spec.options.extend(&options);
            stream.watermarks = watermarks.or(stream.watermarks);
            if let Some(name) = identified_by {
                stream.identified_by = Some(name.to_string());
            }
            stream
        })
    })?;
    if !is_streaming(&plan) {
        return Err(
            Error::invalid_query("STREAM takes an unbounded table, a table of files, or a view over a stream").into()
        );
    }
    Ok(plan)
}

/// Replaces the providers of scans for which `change` gives a stream.
fn on_scans(
    plan: LogicalPlan,
    change: impl Fn(&dyn datafusion::datasource::TableProvider) -> Option<StreamTable>,
) -> PlanResult<LogicalPlan> {
    plan.transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else {
            return Ok(Transformed::no(node));
        };
        let Ok(provider) = source_as_provider(&scan.source) else {
            return Ok(Transformed::no(node));
        };
        let Some(stream) = change(provider.as_ref()) else {
            return Ok(Transformed::no(node));
        };
        let scan = TableScanBuilder::new(scan.table_name.clone(), provider_as_source(Arc::new(stream)))
            .with_projection(scan.projection.clone())
            .build()?;
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })
    .map(|t| t.data)
}

fn with_watermark(
    plan: LogicalPlan,
    watermark: RelationWatermark,
    context: &mut dyn RelationPlannerContext,
) -> PlanResult<LogicalPlan> {
    // What the query says wins over what the table says.
    let plan = on_scans(plan, |provider| {
        let any: &dyn std::any::Any = provider;
        any.downcast_ref::<StreamTable>().map(|s| StreamTable { watermark: None, ..s.clone() })
    })?;
    let schema = Arc::clone(plan.schema());
    let event_time = context.sql_to_expr(watermark.expr, &schema)?;
    let (input, column) = match (event_time, watermark.alias) {
        (Expr::Column(column), None) => (plan, column),
        (_, None) => {
            return Err(Error::invalid_query(
                "an expression as event time needs a name: WATERMARK expression AS name DELAY OF INTERVAL …",
            )
            .into());
        }
        (expr, Some(name)) => {
            let mut columns = columns_of(&schema);
            columns.push(expr.alias(&name));
            (LogicalPlanBuilder::from(plan).project(columns)?.build()?, Column::new_unqualified(name))
        }
    };
    Ok(WatermarkNode { input, column, delay_us: watermark.delay_us, node: None, partition: None }.into_plan())
}

fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

/// A table FOR SYSTEM_TIME AS OF PROCTIME(): joined with a stream it is read as it is when a batch runs, as any table
/// is.
fn lookup(call: &TableCall, context: &mut dyn RelationPlannerContext) -> PlanResult<LogicalPlan> {
    let exprs = call.exprs().unwrap_or_default();
    let [ast::Expr::Subquery(data)] = exprs.as_slice() else {
        let message = format!("{LOOKUP_FUNCTION} is not called by hand: write t FOR SYSTEM_TIME AS OF PROCTIME()");
        return Err(Error::invalid_query(message).into());
    };
    let plan = derived(data.clone(), context)?;
    if is_streaming(&plan) {
        return Err(Error::unsupported(
            "FOR SYSTEM_TIME AS OF PROCTIME() is for tables, and this is a stream: join with it plainly, or write ASOF \
             JOIN for the row as of an event time",
        )
        .into());
    }
    Ok(plan)
}

fn asof(call: &TableCall, context: &mut dyn RelationPlannerContext) -> PlanResult<LogicalPlan> {
    let AsofRelation { outer, sides: [left, right], condition } = decode_asof_relation(call)?;
    let (left, right) = (context.plan(left)?, context.plan(right)?);
    let both = left.schema().join(right.schema())?;
    let condition = context.sql_to_expr(condition, &both)?;
    Ok(asof_join(left, right, &condition, outer)?)
}

/// Window table functions that put windows beside rows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TableWindow {
    Tumble,
    Hop,
    Cumulate,
}

impl TableWindow {
    fn wrong_call(self) -> Error {
        let (name, usage) = match self {
            Self::Tumble => ("TUMBLE", "TUMBLE(table, time, size)"),
            Self::Hop => ("HOP", "HOP(table, time, slide, size)"),
            Self::Cumulate => ("CUMULATE", "CUMULATE(table, time, step, size)"),
        };
        Error::invalid_query(format!("{name} is called as {usage}"))
    }

    /// Makes the window, or the list of them, from a time and durations; behind these may be an offset.
    fn call(self, mut arguments: Vec<Expr>) -> Result<Expr> {
        let name = match (self, arguments.len()) {
            (Self::Tumble, 2) => WINDOW,
            (Self::Tumble, 3) => {
                // window() takes a slide before the offset.
                let size = arguments[1].clone();
                arguments.insert(2, size);
                WINDOW
            }
            (Self::Hop, 3 | 4) => {
                // window() takes the size before the slide.
                arguments.swap(1, 2);
                WINDOWS
            }
            (Self::Cumulate, 3 | 4) => return cumulate(arguments),
            _ => return Err(self.wrong_call()),
        };
        let function = functions().into_iter().find(|f| f.name() == name).ok_or_else(|| self.wrong_call())?;
        Ok(function.call(arguments))
    }
}

/// The rows of a window table function's table, each with its window, or as often as it has windows.
fn windowed(
    call: &TableCall,
    context: &mut dyn RelationPlannerContext,
    window: TableWindow,
) -> PlanResult<LogicalPlan> {
    let exprs = call.exprs().ok_or_else(|| window.wrong_call())?;
    let [ast::Expr::Subquery(data), time, durations @ ..] = exprs.as_slice() else {
        return Err(window.wrong_call().into());
    };
    let input = derived(data.clone(), context)?;
    let schema = Arc::clone(input.schema());
    let mut planned = Vec::with_capacity(exprs.len() - 1);
    for argument in described(time).into_iter().chain(durations.iter().cloned()) {
        planned.push(context.sql_to_expr(argument, &schema)?);
    }
    let hidden = "__millstream_window";
    let mut columns = columns_of(&schema);
    let kept = columns.clone();
    columns.push(window.call(planned)?.alias(hidden));
    let mut builder = LogicalPlanBuilder::from(input).project(columns)?;
    if window != TableWindow::Tumble {
        builder = builder.unnest_column(Column::new_unqualified(hidden))?;
    }
    let mut columns = kept;
    columns.push(get_field(col(hidden), "start").alias("window_start"));
    columns.push(get_field(col(hidden), "end").alias("window_end"));
    columns.push(window_time(col(hidden)).alias("window_time"));
    builder.project(columns)?.build()
}

/// DROP_DUPLICATES(data, column, …): the columns as they are, or in DESCRIPTOR(…).
fn distinct_rows(
    call: &TableCall,
    context: &mut dyn RelationPlannerContext,
    within_watermark: bool,
) -> PlanResult<LogicalPlan> {
    let wrong = || Error::invalid_query(format!("{0} is called as {0}(table, column, …)", call.name.to_uppercase()));
    let exprs = call.exprs().ok_or_else(wrong)?;
    let [ast::Expr::Subquery(data), names @ ..] = exprs.as_slice() else {
        return Err(wrong().into());
    };
    let input = derived(data.clone(), context)?;
    let mut keys = Vec::with_capacity(names.len());
    for name in names.iter().flat_map(described) {
        match context.sql_to_expr(name, input.schema())? {
            Expr::Column(column) => keys.push(column),
            _ => return Err(wrong().into()),
        }
    }
    Ok(drop_duplicates(input, keys, within_watermark)?)
}
