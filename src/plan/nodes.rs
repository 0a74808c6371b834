//! The logical nodes that streams add to DataFusion's.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef, Result as PlanResult, internal_err};
use datafusion::logical_expr::utils::expr_to_columns;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::operator::event_time::EventKey;

/// Says which column is the event time, and by how much rows may be late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkNode {
    /// What it watches.
    pub input: LogicalPlan,
    /// The event-time column.
    pub column: Column,
    /// The delay in microseconds.
    pub delay_us: i64,
    /// Its number in the query; `None` until the plan is made for one.
    pub node: Option<usize>,
}

impl WatermarkNode {
    /// Wraps it as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl Hash for WatermarkNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.column, self.delay_us, self.node).hash(state);
    }
}

impl PartialOrd for WatermarkNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for WatermarkNode {
    fn name(&self) -> &str {
        "Watermark"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.column.clone())]
    }

    /// Predicates on other columns go below: a row they remove does not move the watermark. Spark does the same.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([self.column.name.clone()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watermark: {} delay of {} ms", self.column, self.delay_us / 1000)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> PlanResult<Self> {
        let (Some(Expr::Column(column)), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return internal_err!("a watermark needs one column and one input");
        };
        Ok(Self { input, column, delay_us: self.delay_us, node: self.node })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        needed.push(self.input.schema().maybe_index_of_column(&self.column)?);
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// An aggregate over a stream. Taken from the analyzed plan, so that no optimizer rule changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatefulAggregateNode {
    /// The operator's id in the query.
    pub operator: usize,
    /// What it aggregates.
    pub input: LogicalPlan,
    /// The group expressions.
    pub groups: Vec<Expr>,
    /// For ROLLUP, CUBE, GROUPING SETS: by set, which group expressions are NULL.
    pub grouping_sets: Option<Vec<Vec<bool>>>,
    /// The functions.
    pub aggregates: Vec<Expr>,
    /// Which group expression is the event time.
    pub event_key: Option<EventKey>,
    /// Whether a watermark is defined on it, so that groups expire.
    pub watermarked: bool,
    /// The output.
    pub schema: DFSchemaRef,
}

impl Hash for StatefulAggregateNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.operator, &self.input, &self.groups, &self.aggregates, self.event_key).hash(state);
    }
}

impl PartialOrd for StatefulAggregateNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.operator.partial_cmp(&other.operator).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for StatefulAggregateNode {
    fn name(&self) -> &str {
        "StatefulAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.groups.iter().chain(&self.aggregates).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(
            f,
            "StatefulAggregate: operator={}, groups=[{}], functions=[{}]{}",
            self.operator,
            list(&self.groups),
            list(&self.aggregates),
            if self.watermarked { ", expires by event time" } else { "" }
        )
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> PlanResult<Self> {
        let Some(input) = inputs.pop() else {
            return internal_err!("an aggregate needs an input");
        };
        let aggregates = exprs.split_off(self.groups.len());
        Ok(Self { input, groups: exprs, aggregates, ..self.clone() })
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut columns = HashSet::new();
        for expr in self.groups.iter().chain(&self.aggregates) {
            expr_to_columns(expr, &mut columns).ok()?;
        }
        let schema = self.input.schema();
        let mut needed: Vec<usize> = columns.iter().map(|c| schema.maybe_index_of_column(c)).collect::<Option<_>>()?;
        needed.sort_unstable();
        Some(vec![needed])
    }
}

/// LIMIT over a stream in append mode: so many rows, ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalLimitNode {
    /// The operator's id in the query.
    pub operator: usize,
    /// What it limits.
    pub input: LogicalPlan,
    /// How many rows.
    pub fetch: u64,
}

impl Hash for GlobalLimitNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.operator, &self.input, self.fetch).hash(state);
    }
}

impl PartialOrd for GlobalLimitNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.operator.partial_cmp(&other.operator).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for GlobalLimitNode {
    fn name(&self) -> &str {
        "GlobalLimit"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalLimit: operator={}, fetch={}", self.operator, self.fetch)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> PlanResult<Self> {
        let Some(input) = inputs.pop() else {
            return internal_err!("a limit needs an input");
        };
        Ok(Self { operator: self.operator, input, fetch: self.fetch })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// Returns `plan` as one of the nodes above.
pub fn as_node<T: 'static>(plan: &LogicalPlan) -> Option<&T> {
    let LogicalPlan::Extension(extension) = plan else {
        return None;
    };
    extension.node.as_any().downcast_ref::<T>()
}
