//! Logical streaming nodes become physical operators.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::FieldRef;
use datafusion::catalog::Session;
use datafusion::common::{Column, DFSchema, Result as PlanResult, internal_datafusion_err, internal_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::nodes::{Forget, SideExpiry, StatefulKind, StatefulNode, WatermarkNode};
use super::stream_join::is_of;
use crate::operator::aggregate::{AggregateSpec, StatefulAggregate, grouping_id_field};
use crate::operator::asof_join::AsofJoin;
use crate::operator::deduplicate::{Deduplicate, KeyLife};
use crate::operator::event_time::EventTime;
use crate::operator::first_row::FirstRow;
use crate::operator::global_limit::GlobalLimit;
use crate::operator::session::SessionAggregate;
use crate::operator::stateful::{StatefulExec, StatefulOperator};
use crate::operator::stream_join::{RowLife, SideSpec, StreamJoin};
use crate::operator::user_state::UserStateOperator;
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
        let any = node.as_any();
        if let Some(node) = any.downcast_ref::<WatermarkNode>() {
            let column = node.input.schema().index_of_column(&node.column)?;
            let number = node.node.ok_or_else(|| internal_datafusion_err!("a watermark without a number"))?;
            let partition = node.partition.as_ref().map(|of| node.input.schema().index_of_column(of)).transpose()?;
            let watermark = WatermarkExec::new(number, column, partition, Arc::clone(&physical_inputs[0]));
            return Ok(Some(Arc::new(watermark)));
        }
        let Some(node) = any.downcast_ref::<StatefulNode>() else {
            return Ok(None);
        };
        let lowering = Lowering { node, planner, inputs: physical_inputs, session, planning_context };
        let partitions = session.config().target_partitions();
        Ok(Some(Arc::new(StatefulExec::new(lowering.operator()?, physical_inputs.to_vec(), partitions))))
    }
}

/// One node on its way to an operator.
struct Lowering<'a> {
    node: &'a StatefulNode,
    planner: &'a dyn PhysicalPlanner,
    inputs: &'a [Arc<dyn ExecutionPlan>],
    session: &'a dyn Session,
    planning_context: &'a PhysicalPlanningContext,
}

impl Lowering<'_> {
    fn operator(&self) -> PlanResult<Arc<dyn StatefulOperator>> {
        let node = self.node;
        let operator = node.operator.ok_or_else(|| internal_datafusion_err!("a stateful operator without a number"))?;
        let schema = Arc::new(node.schema.as_arrow().clone());
        Ok(match &node.kind {
            StatefulKind::Aggregate { groups, .. } => {
                Arc::new(StatefulAggregate(Arc::new(self.aggregate(operator, *groups, *groups)?)))
            }
            StatefulKind::Session { groups, session, watermarked } => {
                let gap = self.exprs(0, &node.exprs[*groups..=*groups])?.swap_remove(0);
                let spec = Arc::new(self.aggregate(operator, *groups, groups + 1)?);
                Arc::new(SessionAggregate { spec, session: *session, gap, watermarked: *watermarked })
            }
            StatefulKind::Deduplicate { within_watermark, late, forget } => Arc::new(Deduplicate {
                operator,
                keys: self.exprs(0, &node.exprs)?,
                key_fields: self.fields(0, &node.exprs)?,
                within_watermark: *within_watermark,
                late: self.late(0, late)?,
                life: match forget {
                    Forget::Never => KeyLife::Forever,
                    Forget::Key(index, time) => KeyLife::OfKey(*index, *time),
                    Forget::After(column, time, us) => KeyLife::After(self.column(0, column)?, *time, *us),
                },
                schema,
            }),
            StatefulKind::FirstRow { event_key } => {
                let mut exprs = self.exprs(0, &node.exprs)?;
                let time = exprs.pop().ok_or_else(|| internal_datafusion_err!("a first row without a time"))?;
                let key_fields = self.fields(0, &node.exprs[..exprs.len()])?;
                Arc::new(FirstRow { operator, keys: exprs, key_fields, time, event_key: *event_key, schema })
            }
            StatefulKind::Join { .. } => Arc::new(self.join(operator)?),
            StatefulKind::Asof { outer, strictly_earlier, late } => {
                let keys = (node.exprs.len() - 2) / 2;
                let (left, rest) = node.exprs.split_at(keys);
                let (right, times) = rest.split_at(keys);
                let times = [self.exprs(0, &times[..1])?.swap_remove(0), self.exprs(1, &times[1..])?.swap_remove(0)];
                Arc::new(AsofJoin {
                    operator,
                    keys: [self.exprs(0, left)?, self.exprs(1, right)?],
                    key_fields: self.fields(0, left)?,
                    times,
                    late: [self.late(0, &late[0])?, self.late(1, &late[1])?],
                    inputs: [self.inputs[0].schema(), self.inputs[1].schema()],
                    outer: *outer,
                    strictly_earlier: *strictly_earlier,
                    schema,
                })
            }
            StatefulKind::Limit { fetch } => Arc::new(GlobalLimit { operator, fetch: *fetch, schema }),
            StatefulKind::User(user) => Arc::new(UserStateOperator {
                operator,
                processor: Arc::clone(&user.processor),
                keys: self.exprs(0, &node.exprs)?,
                key_fields: self.fields(0, &node.exprs)?,
                late: self.late(0, &user.late)?,
                schema,
            }),
        })
    }

    fn input_schema(&self, input: usize) -> &DFSchema {
        self.node.inputs[input].schema()
    }

    fn exprs(&self, input: usize, exprs: &[Expr]) -> PlanResult<Vec<Arc<dyn PhysicalExpr>>> {
        let schema = self.input_schema(input);
        let lower = |e: &Expr| self.planner.create_physical_expr(e, schema, self.session, self.planning_context);
        exprs.iter().map(lower).collect()
    }

    /// The fields of expressions, under the names they have.
    fn fields(&self, input: usize, exprs: &[Expr]) -> PlanResult<Vec<FieldRef>> {
        let field = |e: &Expr| Ok(datafusion::logical_expr::ExprSchemable::to_field(e, self.input_schema(input))?.1);
        exprs.iter().map(field).collect()
    }

    fn column(&self, input: usize, column: &Column) -> PlanResult<usize> {
        self.input_schema(input).index_of_column(column)
    }

    fn late(&self, input: usize, late: &Option<(Column, EventTime)>) -> PlanResult<Option<(usize, EventTime)>> {
        late.as_ref().map(|(column, time)| Ok((self.column(input, column)?, *time))).transpose()
    }

    /// What an aggregate computes: its group expressions are the first, its functions those from `functions` on.
    fn aggregate(&self, operator: usize, groups: usize, functions: usize) -> PlanResult<AggregateSpec> {
        let (logical_schema, physical_schema) = (self.input_schema(0), self.inputs[0].schema());
        let group_exprs = self.exprs(0, &self.node.exprs[..groups])?;
        let (mut lowered_functions, mut filters) = (Vec::new(), Vec::new());
        for expr in &self.node.exprs[functions..] {
            let props = self.session.execution_props();
            let lowered =
                LoweredAggregateBuilder::new(expr, logical_schema, &physical_schema, props, self.planning_context)
                    .build()?;
            lowered_functions.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        let schema = Arc::new(self.node.schema.as_arrow().clone());
        let (grouping_sets, event_key, watermarked) = match &self.node.kind {
            StatefulKind::Aggregate { grouping_sets, event_key, watermarked, .. } => {
                (grouping_sets.clone(), *event_key, *watermarked)
            }
            _ => (None, None, false),
        };
        let grouping_sets = grouping_sets.map(|sets| {
            let id = schema.field(groups).data_type().clone();
            (sets, grouping_id_field(Aggregate::INTERNAL_GROUPING_ID, id))
        });
        Ok(AggregateSpec {
            operator,
            groups: group_exprs,
            grouping_sets,
            functions: lowered_functions,
            filters,
            event_key,
            watermarked,
            schema,
        })
    }

    fn join(&self, operator: usize) -> PlanResult<StreamJoin> {
        let node = self.node;
        let StatefulKind::Join { join_type, null_equals_null, sides } = &node.kind else {
            return internal_err!("a join that is none");
        };
        let keys = node.exprs.len() / 2;
        let (left, rest) = node.exprs.split_at(keys);
        let (right, condition) = rest.split_at(keys);
        // Conditions on one side say which of its rows can find a partner at all; the others look at both.
        let conjuncts: Vec<&Expr> =
            condition.iter().flat_map(datafusion::logical_expr::utils::split_conjunction).collect();
        let of_side = |side: usize| conjuncts.iter().filter(move |e| is_of(e, &node.inputs[side]));
        let of_both = conjuncts.iter().filter(|e| !is_of(e, &node.inputs[0]) && !is_of(e, &node.inputs[1]));
        let all_of = |exprs: Vec<Expr>| exprs.into_iter().reduce(Expr::and);
        let both = DFSchema::new_with_metadata(
            node.inputs.iter().flat_map(|i| i.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f)))).collect(),
            std::collections::HashMap::new(),
        )?;
        let condition = all_of(of_both.map(|e| (*e).clone()).collect())
            .map(|e| self.planner.create_physical_expr(&e, &both, self.session, self.planning_context))
            .transpose()?;
        let side = |side: usize, keys: &[Expr]| -> PlanResult<SideSpec> {
            let condition = all_of(of_side(side).map(|e| (*e).clone()).collect());
            Ok(SideSpec {
                keys: self.exprs(side, keys)?,
                schema: self.inputs[side].schema(),
                condition: condition
                    .map(|e| Ok::<_, datafusion::common::DataFusionError>(self.exprs(side, &[e])?.swap_remove(0)))
                    .transpose()?,
                late: self.late(side, &sides[side].late)?,
                life: match &sides[side].expiry {
                    SideExpiry::Never => RowLife::Forever,
                    SideExpiry::Key(index, time) => RowLife::OfKey(*index, *time),
                    SideExpiry::Column { column, after_us } => RowLife::After(self.column(side, column)?, *after_us),
                },
            })
        };
        Ok(StreamJoin {
            operator,
            join_type: *join_type,
            null_equals_null: *null_equals_null,
            key_fields: self.fields(0, left)?,
            sides: [side(0, left)?, side(1, right)?],
            condition,
            joined: Arc::new(both.as_arrow().clone()),
            schema: Arc::new(node.schema.as_arrow().clone()),
        })
    }
}
