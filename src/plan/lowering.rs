//! Logical streaming nodes become physical operators.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Result as PlanResult, internal_datafusion_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::nodes::{GlobalLimitNode, StatefulAggregateNode, WatermarkNode};
use crate::operator::aggregate::{AggregateSpec, StatefulAggregateExec, grouping_id_field};
use crate::operator::global_limit::GlobalLimitExec;
use crate::operator::watermark::WatermarkExec;

/// Lowers the nodes of [`super::nodes`].
#[derive(Debug)]
pub struct StreamLowering;

#[async_trait]
impl ExtensionPlanner for StreamLowering {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        planning_context: &PhysicalPlanningContext,
    ) -> PlanResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(input) = physical_inputs.first() else {
            return Ok(None);
        };
        let any = node.as_any();
        if let Some(node) = any.downcast_ref::<WatermarkNode>() {
            let column = node.input.schema().index_of_column(&node.column)?;
            let number = node.node.ok_or_else(|| internal_datafusion_err!("a watermark without a number"))?;
            return Ok(Some(Arc::new(WatermarkExec::new(number, column, Arc::clone(input)))));
        }
        if let Some(node) = any.downcast_ref::<GlobalLimitNode>() {
            return Ok(Some(Arc::new(GlobalLimitExec::new(node.operator, node.fetch, Arc::clone(input)))));
        }
        if let Some(node) = any.downcast_ref::<StatefulAggregateNode>() {
            let spec = aggregate_spec(node, planner, input, session, planning_context)?;
            let partitions = session.config().target_partitions();
            return Ok(Some(Arc::new(StatefulAggregateExec::new(Arc::new(spec), Arc::clone(input), partitions))));
        }
        Ok(None)
    }
}

fn aggregate_spec(
    node: &StatefulAggregateNode,
    planner: &dyn PhysicalPlanner,
    input: &Arc<dyn ExecutionPlan>,
    session: &dyn Session,
    planning_context: &PhysicalPlanningContext,
) -> PlanResult<AggregateSpec> {
    let logical_schema = node.input.schema();
    let groups = node
        .groups
        .iter()
        .map(|g| planner.create_physical_expr(g, logical_schema, session, planning_context))
        .collect::<PlanResult<Vec<_>>>()?;
    let (mut functions, mut filters) = (Vec::new(), Vec::new());
    for expr in &node.aggregates {
        let physical_schema = input.schema();
        let props = session.execution_props();
        let lowered =
            LoweredAggregateBuilder::new(expr, logical_schema, &physical_schema, props, planning_context).build()?;
        functions.push(lowered.aggregate);
        filters.push(lowered.filter);
    }
    let schema = Arc::new(node.schema.as_arrow().clone());
    let grouping_sets = node.grouping_sets.clone().map(|sets| {
        let id = schema.field(groups.len()).data_type().clone();
        (sets, grouping_id_field(Aggregate::INTERNAL_GROUPING_ID, id))
    });
    Ok(AggregateSpec {
        operator: node.operator,
        groups,
        grouping_sets,
        functions,
        filters,
        event_key: node.event_key,
        watermarked: node.watermarked,
        schema,
    })
}
