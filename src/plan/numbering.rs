//! The last step from plan to streaming plan: joins of streams become nodes, every stateful operator gets its number, and
//! with it what the engine knows of it.

use datafusion::common::JoinType;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::LogicalPlan;

use super::fingerprint;
use super::nodes::{SideExpiry, StatefulKind, StatefulNode, as_stateful};
use super::operator_plan::{OperatorPlan, WatermarkFlow};
use super::output_mode::check_chain;
use super::stream_join::stream_join;
use super::stream_table::is_streaming;
use crate::error::{Error, Result};
use crate::operator::event_time::EventKey;
use crate::sink::OutputMode;

/// Makes the joins of streams, numbers the stateful operators from below, and holds each against those below it.
///
/// # Errors
/// `Unsupported` for a join or a chain that the mode does not have, naming the operator and what would do.
pub fn number(
    plan: LogicalPlan,
    mode: OutputMode,
    operators: &mut Vec<OperatorPlan>,
) -> Result<Transformed<LogicalPlan>> {
    let mut node = match plan {
        LogicalPlan::Join(join) if is_streaming(&join.left) && is_streaming(&join.right) => stream_join(join, mode)?,
        plan => match as_stateful(&plan) {
            Some(node) => node.clone(),
            None => return Ok(Transformed::no(plan)),
        },
    };
    if mode != OutputMode::Append
        && let Some(below) = node.inputs.iter().find_map(that_changes_its_rows)
    {
        check_chain(mode, as_name(&node), as_name(below))?;
    }
    if let Some(below) = node.inputs.iter().find_map(user_state_that_ends_chains) {
        return Err(Error::unsupported(format!(
            "{} over {below} is not supported in any output mode: its rows may be older than the watermark; declare an event \
             time of its output, or write its rows to a table and read that as a stream",
            as_name(&node)
        )));
    }
    node.operator = Some(operators.len());
    operators.push(OperatorPlan {
        fingerprint: fingerprint::of(&node, mode)?,
        wants_no_data: wants_no_data(&node, mode),
        name: progress_name(&node),
        holds: holds_until(&node),
        flow: WatermarkFlow::of(&node),
    });
    Ok(Transformed::yes(node.into_plan()))
}

/// An operator below whose rows, outside append mode, replace rows that it gave before.
fn that_changes_its_rows(plan: &LogicalPlan) -> Option<&StatefulNode> {
    let changes = |node: &&StatefulNode| node.aggregates() || matches!(node.kind, StatefulKind::FirstRow { .. });
    as_stateful(plan).filter(changes).or_else(|| plan.inputs().into_iter().find_map(that_changes_its_rows))
}

fn user_state_that_ends_chains(plan: &LogicalPlan) -> Option<String> {
    if let Some(StatefulNode { kind: StatefulKind::User(user), .. }) = as_stateful(plan)
        && user.processor.ends_chains()
        && user.event_time.is_none()
    {
        return Some(user.name.clone());
    }
    plan.inputs().into_iter().find_map(user_state_that_ends_chains)
}

/// What an operator is called in messages.
fn as_name(node: &StatefulNode) -> &'static str {
    match &node.kind {
        StatefulKind::Aggregate { .. } => "an aggregate",
        StatefulKind::Session { .. } => "an aggregate of sessions",
        StatefulKind::Deduplicate { .. } => "a deduplication",
        StatefulKind::FirstRow { .. } => "ROW_NUMBER() … = 1",
        StatefulKind::Join { .. } => "a join of two streams",
        StatefulKind::Asof { .. } => "an ASOF join",
        StatefulKind::Limit { .. } => "LIMIT",
        StatefulKind::User(_) => "user state",
    }
}

/// What Spark calls an operator in progress reports.
fn progress_name(node: &StatefulNode) -> &'static str {
    match &node.kind {
        StatefulKind::Aggregate { .. } => "stateStoreSave",
        StatefulKind::Session { .. } => "sessionWindowStateStoreSaveExec",
        StatefulKind::Deduplicate { within_watermark: true, .. } => "dedupeWithinWatermark",
        StatefulKind::Deduplicate { .. } => "dedupe",
        StatefulKind::FirstRow { .. } => "firstRow",
        StatefulKind::Join { .. } => "symmetricHashJoin",
        StatefulKind::Asof { .. } => "asofJoin",
        StatefulKind::Limit { .. } => "globalLimit",
        StatefulKind::User(user) => user.processor.progress_name(),
    }
}

/// Whether a batch without data is worth running for an operator when the watermark moved. As in Spark, deduplication
/// asks for one even where it forgets nothing.
fn wants_no_data(node: &StatefulNode, mode: OutputMode) -> bool {
    match &node.kind {
        StatefulKind::Aggregate { .. } | StatefulKind::Session { .. } => mode != OutputMode::Complete,
        StatefulKind::Deduplicate { .. } | StatefulKind::FirstRow { .. } | StatefulKind::Asof { .. } => true,
        // Of an inner join only rows of a side that has a watermark are asked after, as in Spark.
        StatefulKind::Join { sides, join_type, .. } => {
            let inner = matches!(join_type, JoinType::Inner | JoinType::LeftSemi);
            sides.iter().any(|side| side.expiry != SideExpiry::Never && (side.late.is_some() || !inner))
        }
        StatefulKind::Limit { .. } => false,
        StatefulKind::User(user) => user.processor.wants_no_data(),
    }
}

/// What the state of an operator holds until the watermark has come so far, in words that a time follows.
fn holds_until(node: &StatefulNode) -> &'static str {
    match &node.kind {
        StatefulKind::Aggregate { event_key: Some(EventKey::Window(..) | EventKey::WindowColumn(_)), .. } => {
            "window ending"
        }
        StatefulKind::Aggregate { .. } => "group of event time",
        StatefulKind::Session { .. } => "session ending",
        StatefulKind::Deduplicate { .. } => "key kept until",
        StatefulKind::FirstRow { .. } | StatefulKind::Join { .. } | StatefulKind::Asof { .. } => "row kept until",
        StatefulKind::Limit { .. } | StatefulKind::User(_) => "state kept until",
    }
}
