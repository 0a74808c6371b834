//! Relations of FROM that DataFusion does not know: stream relations with their watermarks, TUMBLE and HOP.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as PlanResult};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, TableAlias, TableFactor};

use super::stream_relation::{RelationWatermark, STREAM_FUNCTION, StreamSource, decode_stream_relation};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::nodes::WatermarkNode;
use crate::plan::static_table::StaticTable;
use crate::plan::stream_table::{StreamTable, is_streaming};
use crate::plan::window_function::{WINDOW, WINDOWS, functions, window_time};

/// Plans the relations of this file; leaves every other to DataFusion.
#[derive(Debug)]
pub struct StreamRelations;

impl RelationPlanner for StreamRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> PlanResult<RelationPlanning> {
        let Some((name, args, alias)) = call_of(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = match name.as_str() {
            STREAM_FUNCTION => stream(&args, context)?,
            "tumble" => windowed(&args, context, false)?,
            "hop" => windowed(&args, context, true)?,
            "cumulate" | "session" => {
                return Err(Error::unsupported(format!(
                    "{}() is not supported yet; use TUMBLE or HOP",
                    name.to_uppercase()
                ))
                .into());
            }
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// A table function call in any of the forms in which the parser gives it.
fn call_of(relation: &TableFactor) -> Option<(String, Vec<FunctionArg>, Option<TableAlias>)> {
    match relation {
        TableFactor::Table { name, args: Some(args), alias, .. } => {
            Some((name.to_string().to_lowercase(), args.args.clone(), alias.clone()))
        }
        TableFactor::Function { name, args, alias, .. } => {
            Some((name.to_string().to_lowercase(), args.clone(), alias.clone()))
        }
        TableFactor::TableFunction { expr: ast::Expr::Function(function), alias } => match &function.args {
            FunctionArguments::List(list) => {
                Some((function.name.to_string().to_lowercase(), list.args.clone(), alias.clone()))
            }
            _ => None,
        },
        _ => None,
    }
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
    let plan = on_scans(plan, |provider| {
        let any: &dyn std::any::Any = provider;
        let stream = match any.downcast_ref::<StaticTable>() {
            Some(table) => Some(table.as_stream().clone()),
            None => any.downcast_ref::<StreamTable>().cloned(),
        };
        stream.map(|mut stream| {
            stream.spec.options.extend(options);
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
    Ok(WatermarkNode { input, column, delay_us: watermark.delay_us, node: None }.into_plan())
}

fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

/// TUMBLE(data, time, size) and HOP(data, time, slide, size): the rows, each with its window.
fn windowed(args: &[FunctionArg], context: &mut dyn RelationPlannerContext, hop: bool) -> PlanResult<LogicalPlan> {
    let name = if hop { "HOP" } else { "TUMBLE" };
    let usage = if hop { "HOP(table, time, slide, size)" } else { "TUMBLE(table, time, size)" };
    let wrong = || Error::invalid_query(format!("{name} is called as {usage}"));
    let exprs: Vec<ast::Expr> = args.iter().map(|a| argument(a).ok_or_else(wrong)).collect::<Result<_>>()?;
    let [ast::Expr::Subquery(data), time, durations @ ..] = exprs.as_slice() else {
        return Err(wrong().into());
    };
    let input = derived(data.clone(), context)?;
    let schema = Arc::clone(input.schema());
    let mut planned = vec![context.sql_to_expr(descriptor(time).clone(), &schema)?];
    for duration in durations {
        planned.push(context.sql_to_expr(duration.clone(), &schema)?);
    }
    match (hop, planned.len()) {
        (false, 2 | 3) | (true, 3 | 4) => {}
        _ => return Err(wrong().into()),
    }
    if hop {
        // window() takes the size before the slide.
        planned.swap(1, 2);
    } else if planned.len() == 3 {
        let size = planned[1].clone();
        planned.insert(2, size);
    }
    let function = if hop { WINDOWS } else { WINDOW };
    let function = functions().into_iter().find(|f| f.name() == function).ok_or_else(wrong)?;
    let hidden = "__millstream_window";
    let mut columns = columns_of(&schema);
    let kept = columns.clone();
    columns.push(function.call(planned).alias(hidden));
    let mut builder = LogicalPlanBuilder::from(input).project(columns)?;
    if hop {
        builder = builder.unnest_column(Column::new_unqualified(hidden))?;
    }
    let mut columns = kept;
    columns.push(get_field(col(hidden), "start").alias("window_start"));
    columns.push(get_field(col(hidden), "end").alias("window_end"));
    columns.push(window_time(col(hidden)).alias("window_time"));
    builder.project(columns)?.build()
}

fn argument(arg: &FunctionArg) -> Option<ast::Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. } => Some(expr.clone()),
        _ => None,
    }
}

/// DESCRIPTOR(time) is Flink's way to name a column.
fn descriptor(expr: &ast::Expr) -> &ast::Expr {
    if let ast::Expr::Function(function) = expr
        && function.name.to_string().eq_ignore_ascii_case("descriptor")
        && let FunctionArguments::List(list) = &function.args
        && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(inner))] = list.args.as_slice()
    {
        return inner;
    }
    expr
}
