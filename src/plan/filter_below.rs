//! Conditions on the keys of an aggregate over a stream are moved below it, as Spark's optimizer moves them.
//!
//! A row of a group that nobody wants then is neither remembered nor late, and (where the condition does not look at the
//! event time) does not move the watermark.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as PlanResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::nodes::{StatefulKind, StatefulNode, as_stateful};
use crate::operator::event_time::EventKey;

/// The rule.
#[derive(Debug)]
pub struct PushBelowAggregate;

impl OptimizerRule for PushBelowAggregate {
    fn name(&self) -> &str {
        "push_below_stateful_aggregate"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> PlanResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = plan else {
            return Ok(Transformed::no(plan));
        };
        let Some(node) = as_stateful(&filter.input).filter(|node| node.aggregates()) else {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        };
        let (below, above): (Vec<Expr>, Vec<Expr>) =
            split_conjunction_owned(filter.predicate.clone()).into_iter().partition(|p| is_on_keys(p, node));
        let Some(predicate) = conjunction(below) else {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        };
        let mut node = node.clone();
        let predicate = predicate.transform_up(|e| match &e {
            Expr::Column(column) => Ok(match key_index(column, &node) {
                Some(index) => Transformed::yes(node.exprs[index].clone().unalias()),
                None => Transformed::no(e),
            }),
            _ => Ok(Transformed::no(e)),
        })?;
        let input = Arc::new(node.inputs.swap_remove(0));
        node.inputs.push(LogicalPlan::Filter(Filter::try_new(predicate.data, input)?));
        let plan = node.into_plan();
        Ok(Transformed::yes(match conjunction(above) {
            Some(predicate) => LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?),
            None => plan,
        }))
    }
}

fn is_on_keys(predicate: &Expr, node: &StatefulNode) -> bool {
    let columns = predicate.column_refs();
    !columns.is_empty() && !predicate.is_volatile() && columns.into_iter().all(|c| key_index(c, node).is_some())
}

/// The group expression that a column is, unless the operator makes its windows, or rolls it up.
fn key_index(column: &Column, node: &StatefulNode) -> Option<usize> {
    let index = node.schema.maybe_index_of_column(column)?;
    let (groups, made) = match &node.kind {
        StatefulKind::Aggregate { grouping_sets: Some(_), .. } => return None,
        StatefulKind::Aggregate { groups, event_key: Some(EventKey::Window(window, _)), .. } => {
            (*groups, Some(*window))
        }
        StatefulKind::Aggregate { groups, .. } => (*groups, None),
        StatefulKind::Session { groups, session, .. } => (*groups, Some(*session)),
        _ => return None,
    };
    // A key that draws another value each time it is asked would be held against one that is not its own.
    (index < groups && made != Some(index) && !node.exprs[index].is_volatile()).then_some(index)
}
