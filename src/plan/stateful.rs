//! The analyzed plan becomes a streaming plan: sources, watermarks and stateful operators get their numbers, in the
//! order of the text, and every shape is held against the output mode.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, Result as PlanResult};
use datafusion::datasource::provider_as_source;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::GroupingSet;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, ExprSchemable, FetchType, Filter, LogicalPlan, SkipType};

use super::completion::complete;
use super::event_column::event_expr;
use super::first_row::find_first_rows;
use super::nodes::{StatefulKind, StatefulNode, WatermarkNode, as_node, as_stateful, holds};
use super::numbering::number;
use super::operator_plan::OperatorPlan;
use super::output_mode::{Shape, check_aggregate, check_join, check_node, check_shape, check_union};
use super::partition_watermark::watch_partitions;
use super::stream_join::prepare_joins;
use super::stream_plan::WatermarkPlan;
use super::stream_table::{
    BoundStream, StreamTable, bound_stream, is_streaming, scanned_stream, with_partition_column,
};
use super::window_function::{session_call, window_call, window_time};
use crate::error::{Error, Result};
use crate::operator::event_time::{EventKey, EventTime};
use crate::operator::session::gap_us;
use crate::sink::OutputMode;

/// What the walk over the plan finds.
#[derive(Debug, Default)]
pub struct Found {
    /// By source id.
    pub sources: Vec<StreamTable>,
    /// By watermark node.
    pub watermarks: Vec<WatermarkPlan>,
    /// By operator id; an operator comes after those it reads from.
    pub operators: Vec<OperatorPlan>,
    /// Whether the rows' order of arrival decides the answer.
    pub order_matters: bool,
    shape: Shape,
}

/// Puts each table's own watermark (WATERMARK FOR) above its scan, where the query did not name another.
///
/// # Errors
/// As DataFusion's tree rewriting.
pub fn add_table_watermarks(plan: LogicalPlan) -> PlanResult<LogicalPlan> {
    plan.transform_up(|node| {
        let Some(stream) = scanned_stream(&node) else {
            return Ok(Transformed::no(node));
        };
        let Some((column, delay_us)) = stream.watermark.clone() else {
            return Ok(Transformed::no(node));
        };
        let LogicalPlan::TableScan(scan) = &node else {
            return Ok(Transformed::no(node));
        };
        let plain = Arc::new(StreamTable { watermark: None, ..stream });
        let bare = TableScanBuilder::new(scan.table_name.clone(), provider_as_source(plain))
            .with_projection(scan.projection.clone())
            .build()?;
        let column = Column::new(Some(scan.table_name.clone()), column);
        let input = LogicalPlan::TableScan(bare);
        Ok(Transformed::yes(WatermarkNode { input, column, delay_us, node: None, partition: None }.into_plan()))
    })
    .map(|t| t.data)
}

/// Rewrites the analyzed `plan` for streaming in `mode`: aggregates and their like become nodes that no rule of the
/// optimizer sees into, then joins of streams get their keys and conditions and become nodes too, then all are numbered.
///
/// # Errors
/// `Unsupported` or `InvalidQuery` for what streams cannot do; the message names the operator and what would do.
pub fn make_stateful(plan: LogicalPlan, mode: OutputMode, state: &SessionState) -> Result<(LogicalPlan, Found)> {
    let mut found = Found::default();
    if !is_streaming(&plan) {
        return Err(Error::invalid_query(
            "the query reads no stream: read one with STREAM t, or run the query as a batch (write_stream can be called only \
             on a stream)",
        ));
    }
    let plan = find_first_rows(plan)?;
    let rewritten = plan
        .transform_up(|node| rewrite(node, mode, &mut found).map_err(DataFusionError::from))
        .map_err(Error::from)?
        .data;
    let numbered = prepare_joins(rewritten, state)?
        .transform_up(|node| number(node, mode, &mut found.operators).map_err(DataFusionError::from))
        .map_err(Error::from)?
        .data;
    check_shape(mode, &found.shape)?;
    Ok((numbered, found))
}

fn rewrite(plan: LogicalPlan, mode: OutputMode, found: &mut Found) -> Result<Transformed<LogicalPlan>> {
    check_expressions(&plan)?;
    if !is_streaming(&plan) {
        // A watermark on a table that is not a stream has no effect, as in Spark.
        return Ok(match as_node::<WatermarkNode>(&plan) {
            Some(node) => Transformed::yes(node.input.clone()),
            None => Transformed::no(plan),
        });
    }
    check_node(&plan)?;
    if let Some(stream) = scanned_stream(&plan) {
        return bind(plan, stream, found).map(Transformed::yes);
    }
    if let Some(node) = as_node::<WatermarkNode>(&plan) {
        return number_watermark(node.clone(), found).map(Transformed::yes);
    }
    if let Some(node) = as_stateful(&plan) {
        return complete(node.clone(), mode).map(|node| Transformed::yes(node.into_plan()));
    }
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let what = format!("the aggregation {}", names(&aggregate.aggr_expr));
            stateful_aggregate(aggregate, mode, found, &what).map(Transformed::yes)
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let aggregate = Aggregate::try_new(input, columns, vec![])?;
            stateful_aggregate(aggregate, mode, found, "SELECT DISTINCT").map(Transformed::yes)
        }
        LogicalPlan::Limit(limit) => {
            if !matches!(limit.get_skip_type()?, SkipType::Literal(0)) {
                return Err(Error::unsupported(
                    "OFFSET over a stream is not supported in any output mode; use LIMIT alone",
                ));
            }
            found.shape.limited = true;
            // Which rows come first decides the answer, and a lane must not be cut off in its work.
            found.order_matters = true;
            match (mode, limit.get_fetch_type()?) {
                (OutputMode::Append, FetchType::Literal(Some(fetch))) => {
                    Ok(Transformed::yes(global_limit(limit.input.as_ref().clone(), fetch)))
                }
                (_, FetchType::Literal(_)) => Ok(Transformed::no(LogicalPlan::Limit(limit))),
                (_, FetchType::UnsupportedExpr) => Err(Error::invalid_query("LIMIT takes a number")),
            }
        }
        LogicalPlan::Filter(filter) => {
            check_predicate(&filter)?;
            Ok(Transformed::no(LogicalPlan::Filter(filter)))
        }
        LogicalPlan::Sort(sort) => {
            found.shape.sorted = true;
            if !holds_aggregate(&sort.input) {
                return Err(Error::unsupported(format!(
                    "ORDER BY over a stream is not supported in {mode} mode: only over an aggregation in complete mode, since \
                     rows that come later may sort before rows that have left"
                )));
            }
            Ok(Transformed::no(LogicalPlan::Sort(sort)))
        }
        // Joins of two streams have their turn once their conditions are in place.
        LogicalPlan::Join(join) if is_streaming(&join.left) && is_streaming(&join.right) => {
            Ok(Transformed::no(LogicalPlan::Join(join)))
        }
        LogicalPlan::Join(join) => {
            check_join(&join, mode)?;
            Ok(Transformed::no(LogicalPlan::Join(join)))
        }
        LogicalPlan::Union(union) => {
            check_union(&union)?;
            Ok(Transformed::no(LogicalPlan::Union(union)))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn names(exprs: &[Expr]) -> String {
    exprs.iter().map(|e| e.schema_name().to_string()).collect::<Vec<_>>().join(", ")
}

/// DataFusion moves a predicate without columns below everything, and below an aggregate it would change the state.
fn check_predicate(filter: &Filter) -> Result<()> {
    if !keeps_state(&filter.input) {
        return Ok(());
    }
    for predicate in datafusion::logical_expr::utils::split_conjunction(&filter.predicate) {
        if predicate.column_refs().is_empty() {
            return Err(Error::unsupported(format!(
                "the condition {predicate} over an aggregation or LIMIT of a stream names no column, which is not supported in \
                 any output mode; put it below, or add a column to it"
            )));
        }
    }
    Ok(())
}

fn keeps_state(plan: &LogicalPlan) -> bool {
    holds(plan, &|node| as_stateful(node).is_some())
}

/// A stream inside a sub-query expression would have to be read whole for one row.
fn check_expressions(plan: &LogicalPlan) -> Result<()> {
    for expr in plan.expressions() {
        let mut streaming = false;
        expr.apply(|e| {
            let subquery = match e {
                Expr::ScalarSubquery(s) => Some(s),
                Expr::InSubquery(s) => Some(&s.subquery),
                Expr::Exists(s) => Some(&s.subquery),
                _ => None,
            };
            streaming |= subquery.is_some_and(|s| is_streaming(&s.subquery));
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        })?;
        if streaming {
            return Err(Error::unsupported(
                "a stream inside a sub-query expression (IN, EXISTS or a scalar sub-query) is not supported in any output \
                 mode: join with it instead",
            ));
        }
    }
    Ok(())
}

fn bind(plan: LogicalPlan, stream: StreamTable, found: &mut Found) -> Result<LogicalPlan> {
    let LogicalPlan::TableScan(scan) = plan else {
        return Ok(plan);
    };
    let per_partition = stream.watermarks.per_partition == Some(true);
    if per_partition && !stream.provider.has_partitions() {
        return Err(Error::invalid_option(format!(
            "{}: watermarkPer = 'partition': a {} source has no partitions; remove the option",
            stream.name, stream.spec.format
        )));
    }
    let columns = stream.schema.fields().len();
    let bound = BoundStream {
        source: found.sources.len(),
        name: stream.name.clone(),
        schema: if per_partition { with_partition_column(&stream.schema) } else { Arc::clone(&stream.schema) },
        per_partition,
        prunes: stream.spec.format.eq_ignore_ascii_case("parquet"),
    };
    if let Some(name) = &stream.identified_by
        && found.sources.iter().any(|s| s.identified_by.as_ref() == Some(name))
    {
        return Err(Error::invalid_query(format!("two streams are IDENTIFIED BY {name}: give each a name of its own")));
    }
    found.sources.push(stream);
    let projection = scan.projection.or_else(|| per_partition.then(|| (0..columns).collect()));
    let scan = TableScanBuilder::new(scan.table_name, provider_as_source(Arc::new(bound)))
        .with_projection(projection)
        .build()?;
    Ok(LogicalPlan::TableScan(scan))
}

fn number_watermark(mut node: WatermarkNode, found: &mut Found) -> Result<LogicalPlan> {
    let (_, field) = node.input.schema().qualified_field_from_column(&node.column)?;
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        return Err(Error::invalid_query(format!(
            "the watermark column {} must be a TIMESTAMP, it is {}: cast it, or use to_timestamp()",
            node.column.name,
            field.data_type()
        )));
    }
    if watches_event_time(&node.input) {
        return Err(Error::invalid_query(
            "redefining a watermark is not allowed: the stream already has one; drop one of the two WATERMARK clauses",
        ));
    }
    node.node = Some(found.watermarks.len());
    let mut sources = Vec::new();
    sources_of(&node.input, &mut sources);
    let per_partition = sources.iter().any(|source| found.sources[*source].watermarks.per_partition == Some(true));
    let column = node.column.name.clone();
    found.watermarks.push(WatermarkPlan { column, delay_us: node.delay_us, sources, per_partition });
    if per_partition { watch_partitions(node) } else { Ok(node.into_plan()) }
}

fn watches_event_time(plan: &LogicalPlan) -> bool {
    holds(plan, &|node| as_node::<WatermarkNode>(node).is_some())
}

fn holds_aggregate(plan: &LogicalPlan) -> bool {
    holds(plan, &|node| as_stateful(node).is_some_and(StatefulNode::aggregates))
}

/// The ids of the sources below.
fn sources_of(plan: &LogicalPlan, sources: &mut Vec<usize>) {
    if let Some(bound) = bound_stream(plan) {
        sources.push(bound);
    }
    plan.inputs().into_iter().for_each(|input| sources_of(input, sources));
}

fn stateful_aggregate(aggregate: Aggregate, mode: OutputMode, found: &mut Found, what: &str) -> Result<LogicalPlan> {
    let groups: Vec<Expr> = grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
    let grouping_sets = null_masks(&aggregate.group_expr, &groups);
    if let Some(function) = aggregate.aggr_expr.iter().find(|e| calls(e, &["nth_value"])) {
        return Err(Error::unsupported(format!(
            "{} is not supported over a stream in any output mode: it needs its input sorted; use first(), last(), max_by() or \
             min_by()",
            function.schema_name()
        )));
    }
    found.order_matters |= aggregate.aggr_expr.iter().any(depends_on_order);
    found.shape.aggregates += 1;
    if let Some(session) = groups.iter().position(|g| session_call(g).is_some()) {
        if grouping_sets.is_some() {
            return Err(Error::unsupported("session_window() in ROLLUP, CUBE or GROUPING SETS is not supported"));
        }
        return sessions(aggregate, groups, session, mode, what);
    }
    let (event_key, watermarked, groups) = match &grouping_sets {
        None => event_key(&aggregate.input, groups)?,
        // A rolled-up group has no event time and would never close: windows are keys like any other.
        Some(_) => (None, false, groups),
    };
    let input = match &grouping_sets {
        Some(_) => rolled_up_input(&aggregate.input, &groups)?,
        None => aggregate.input.as_ref().clone(),
    };
    check_aggregate(mode, watermarked, what)?;
    let kind = StatefulKind::Aggregate { groups: groups.len(), grouping_sets, event_key, watermarked };
    let exprs = groups.into_iter().chain(aggregate.aggr_expr).collect();
    Ok(StatefulNode { operator: None, kind, inputs: vec![input], exprs, schema: aggregate.schema }.into_plan())
}

/// Aggregates sessions: its time and its gap take the place of the call.
fn sessions(
    aggregate: Aggregate,
    mut groups: Vec<Expr>,
    session: usize,
    mode: OutputMode,
    what: &str,
) -> Result<LogicalPlan> {
    let Some((time, gap)) = session_call(&groups[session]) else {
        return Err(Error::internal("a session call that is none"));
    };
    if groups.iter().filter(|g| session_call(g).is_some() || window_call(g).is_some()).count() > 1 {
        return Err(Error::unsupported("several window calls in one GROUP BY are not supported; use one"));
    }
    if groups.len() == 1 {
        return Err(Error::unsupported(
            "session_window() alone in GROUP BY over a stream is not supported in any output mode: add a key, since sessions are \
             of somebody",
        ));
    }
    if mode == OutputMode::Update {
        return Err(Error::unsupported(format!(
            "{what} by session_window() is not supported in update mode, because sessions merge and a session that was \
             emitted would be no more; use append or complete mode"
        )));
    }
    // A gap that is written out is read now, not with the first row.
    if let Expr::Literal(value, _) = gap {
        gap_us(&value.to_array()?)?;
    }
    let watermarked = makes_windows(&aggregate.input, time);
    check_aggregate(mode, watermarked, what)?;
    let (time, gap) = (time.clone(), gap.clone());
    let time = match time.get_type(aggregate.input.schema())? {
        DataType::Struct(_) => window_time(time),
        _ => time,
    };
    groups[session] = time;
    let kind = StatefulKind::Session { groups: groups.len(), session, watermarked };
    let exprs = groups.into_iter().chain([gap]).chain(aggregate.aggr_expr).collect();
    let inputs = vec![aggregate.input.as_ref().clone()];
    Ok(StatefulNode { operator: None, kind, inputs, exprs, schema: aggregate.schema }.into_plan())
}

/// A row without a time is in no window, whatever else it is grouped by.
fn rolled_up_input(input: &Arc<LogicalPlan>, groups: &[Expr]) -> Result<LogicalPlan> {
    let mut plan = input.as_ref().clone();
    for (time, window) in groups.iter().filter_map(window_call) {
        if !window?.tumbles() {
            return Err(Error::unsupported(
                "a sliding window() in ROLLUP, CUBE or GROUPING SETS is not supported; use a tumbling window, or HOP",
            ));
        }
        plan = LogicalPlan::Filter(Filter::try_new(time.clone().is_not_null(), Arc::new(plan))?);
    }
    Ok(plan)
}

fn null_masks(group_expr: &[Expr], groups: &[Expr]) -> Option<Vec<Vec<bool>>> {
    let [Expr::GroupingSet(set)] = group_expr else {
        return None;
    };
    let mask = |kept: &[Expr]| groups.iter().map(|g| !kept.contains(g)).collect();
    Some(match set {
        GroupingSet::GroupingSets(sets) => sets.iter().map(|s| mask(s)).collect(),
        GroupingSet::Rollup(exprs) => (0..=exprs.len()).rev().map(|n| mask(&exprs[..n])).collect(),
        GroupingSet::Cube(exprs) => (0..1usize << exprs.len())
            .map(|bits| {
                let kept: Vec<Expr> =
                    (0..exprs.len()).filter(|i| bits >> i & 1 == 0).map(|i| exprs[i].clone()).collect();
                mask(&kept)
            })
            .collect(),
    })
}

/// Finds the group expression that is an event time. A `window()` call is replaced by its time: the operator makes the
/// windows itself.
fn event_key(input: &LogicalPlan, mut groups: Vec<Expr>) -> Result<(Option<EventKey>, bool, Vec<Expr>)> {
    let calls: Vec<usize> = (0..groups.len()).filter(|i| window_call(&groups[*i]).is_some()).collect();
    match calls.as_slice() {
        [] => {}
        [index] => {
            let Some((time, spec)) = window_call(&groups[*index]) else {
                return Err(Error::internal("a window call that is none"));
            };
            let key = EventKey::Window(*index, spec?);
            let watermarked = makes_windows(input, time);
            let time = match time.get_type(input.schema())? {
                DataType::Struct(_) => window_time(time.clone()),
                _ => time.clone(),
            };
            groups[*index] = time;
            return Ok((Some(key), watermarked, groups));
        }
        _ => {
            return Err(Error::unsupported("several window() calls in one GROUP BY are not supported; use one"));
        }
    }
    // Of a window's start and end the end is named first in neither SQL nor Spark: any of them closes the group.
    let traced = groups.iter().enumerate().filter_map(|(i, g)| Some((i, event_expr(input, g)?)));
    let key = traced.min_by_key(|(_, column)| matches!(column, EventTime::Time { after_us } if *after_us > 0)).map(
        |(index, column)| match column {
            EventTime::Time { after_us } => EventKey::Time { index, after_us },
            EventTime::Window { .. } => EventKey::WindowColumn(index),
        },
    );
    Ok((key, key.is_some(), groups))
}

/// Whether windows can be made of a time that close by the watermark. A window's start is no such time: it lies before
/// what its rows may still bring.
fn makes_windows(input: &LogicalPlan, time: &Expr) -> bool {
    matches!(event_expr(input, time), Some(EventTime::Window { .. } | EventTime::Time { after_us: 0 }))
}

/// Functions whose answer depends on which row came first.
fn depends_on_order(expr: &Expr) -> bool {
    const NAMES: &[&str] = &[
        "first_value",
        "last_value",
        "first",
        "last",
        "any_value",
        "array_agg",
        "collect_list",
        "collect_set",
        "string_agg",
        "listagg",
        "max_by",
        "min_by",
    ];
    calls(expr, NAMES)
}

fn calls(expr: &Expr, names: &[&str]) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(call) if names.contains(&call.func.name())))).unwrap_or(true)
}

fn global_limit(input: LogicalPlan, fetch: usize) -> LogicalPlan {
    let schema = Arc::clone(input.schema());
    let kind = StatefulKind::Limit { fetch: fetch as u64 };
    StatefulNode { operator: None, kind, inputs: vec![input], exprs: Vec::new(), schema }.into_plan()
}
