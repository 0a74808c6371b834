//! The logical nodes that streams add to DataFusion's.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, Result as PlanResult, internal_err};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::utils::expr_to_columns;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use super::user_state::UserState;
use crate::operator::event_time::{EventKey, EventTime};

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
    /// The column of partitions that have watermarks of their own, where they do.
    pub partition: Option<Column>,
}

impl WatermarkNode {
    /// Wraps it as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl Hash for WatermarkNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.column, self.delay_us, self.node, &self.partition).hash(state);
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
        [&self.column].into_iter().chain(&self.partition).cloned().map(Expr::Column).collect()
    }

    /// Predicates on other columns go below: a row they remove does not move the watermark. Spark does the same.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::from([self.column.name.clone()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watermark: {} delay of {} ms", self.column, self.delay_us / 1000)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> PlanResult<Self> {
        let partition = match &self.partition {
            Some(_) => exprs.pop(),
            None => None,
        };
        let partition = match partition {
            Some(Expr::Column(partition)) => Some(partition),
            None => None,
            Some(_) => return internal_err!("the partitions of a watermark are a column"),
        };
        let (Some(Expr::Column(column)), Some(input)) = (exprs.pop(), inputs.pop()) else {
            return internal_err!("a watermark needs one column and one input");
        };
        Ok(Self { input, column, partition, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut needed = output_columns.to_vec();
        for column in [&self.column].into_iter().chain(&self.partition) {
            needed.push(self.input.schema().maybe_index_of_column(column)?);
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// An operator that remembers between batches. Made from the analyzed plan, so that no optimizer rule changes its
/// meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatefulNode {
    /// The operator's id in the query; `None` until the plan is made for one.
    pub operator: Option<usize>,
    /// What it does.
    pub kind: StatefulKind,
    /// What it reads: two streams for joins, else one.
    pub inputs: Vec<LogicalPlan>,
    /// The expressions, as its kind lists them.
    pub exprs: Vec<Expr>,
    /// The output.
    pub schema: DFSchemaRef,
}

/// What a stateful operator does, and how its expressions are to be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StatefulKind {
    /// Groups and aggregates: the group expressions, then the functions.
    Aggregate {
        /// How many group expressions there are.
        groups: usize,
        /// For ROLLUP, CUBE, GROUPING SETS: by set, which group expressions are NULL.
        grouping_sets: Option<Vec<Vec<bool>>>,
        /// Which group expression is the event time.
        event_key: Option<EventKey>,
        /// Whether a watermark is defined on it, so that groups expire.
        watermarked: bool,
    },
    /// Aggregates sessions: the group expressions (the session's being its time), the gap, then the functions.
    Session {
        /// How many group expressions there are.
        groups: usize,
        /// Which of them is the session.
        session: usize,
        /// Whether a watermark is defined on its time.
        watermarked: bool,
    },
    /// Lets the first row of each key through: the keys.
    Deduplicate {
        /// Whether a key is forgotten as its first row's event time and the watermark's delay say.
        within_watermark: bool,
        /// The input's event time, by which rows are late.
        late: Option<(Column, EventTime)>,
        /// When a key is forgotten.
        forget: Forget,
    },
    /// Lets the row of each key with the least event time through, once nothing earlier can come: the keys, then the
    /// time. The output has one column more, the row's number.
    FirstRow {
        /// Which key is an event time itself: its rows are forgotten when it expires.
        event_key: Option<(usize, EventTime)>,
    },
    /// Joins two streams: the keys of the left, as many of the right, and a condition if there is one more.
    Join {
        /// The kind of join.
        join_type: JoinType,
        /// Whether NULL keys are equal.
        null_equals_null: bool,
        /// Left and right.
        sides: Box<[JoinSide; 2]>,
    },
    /// Joins each row of the left with the nearest earlier row of the right: the keys of the left, as many of the right,
    /// the time of the left, the time of the right.
    Asof {
        /// Whether rows without a partner leave too.
        outer: bool,
        /// Whether a partner of the same time will not do.
        strictly_earlier: bool,
        /// The event times of left and right, by which rows are late.
        late: [Option<(Column, EventTime)>; 2],
    },
    /// Lets so many rows through, ever.
    Limit {
        /// How many.
        fetch: u64,
    },
    /// Runs a function of the application's own for each key: the keys.
    User(UserState),
}

/// When deduplication forgets a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Forget {
    /// Never.
    Never,
    /// When the key at this index, an event time, expires.
    Key(usize, EventTime),
    /// So many microseconds after the event time of the row that came first.
    After(Column, EventTime, i64),
}

/// What a join knows of the time of one of its sides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JoinSide {
    /// The event time by which a row is late.
    pub late: Option<(Column, EventTime)>,
    /// When a row can find no partner any more.
    pub expiry: SideExpiry,
}

/// When a row of one side of a join can find no partner any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SideExpiry {
    /// Never: the row stays for ever.
    Never,
    /// When the key at this index, an event time, expires.
    Key(usize, EventTime),
    /// When the watermark reaches this column's time and `after_us` more.
    Column {
        /// The event time.
        column: Column,
        /// How much later, in microseconds; may be negative.
        after_us: i64,
    },
}

impl StatefulNode {
    /// Wraps it as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// Returns the single input's plan.
    pub fn input(&self) -> &LogicalPlan {
        &self.inputs[0]
    }

    /// Whether it aggregates: DISTINCT and sessions are aggregates too.
    pub fn aggregates(&self) -> bool {
        matches!(self.kind, StatefulKind::Aggregate { .. } | StatefulKind::Session { .. })
    }

    /// The schema over new inputs, where it follows from theirs.
    fn schema_over(&self, inputs: &[LogicalPlan]) -> PlanResult<DFSchemaRef> {
        Ok(match &self.kind {
            StatefulKind::Limit { .. } | StatefulKind::Deduplicate { .. } => Arc::clone(inputs[0].schema()),
            StatefulKind::Join { join_type, .. } => {
                Arc::new(build_join_schema(inputs[0].schema(), inputs[1].schema(), join_type)?)
            }
            StatefulKind::Asof { outer, .. } => {
                let join_type = if *outer { JoinType::Left } else { JoinType::Inner };
                Arc::new(build_join_schema(inputs[0].schema(), inputs[1].schema(), &join_type)?)
            }
            StatefulKind::FirstRow { .. } => {
                let number = self.schema.iter().last().map(|(q, f)| (q.cloned(), Arc::clone(f)));
                let kept = inputs[0].schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f)));
                let fields = kept.chain(number).collect();
                Arc::new(DFSchema::new_with_metadata(fields, self.schema.metadata().clone())?)
            }
            StatefulKind::Aggregate { .. } | StatefulKind::Session { .. } | StatefulKind::User(_) => {
                Arc::clone(&self.schema)
            }
        })
    }

    /// The columns beside those in expressions that it looks at.
    fn hidden_columns(&self) -> Vec<&Column> {
        fn of_side(late: &Option<(Column, EventTime)>) -> impl Iterator<Item = &Column> {
            late.iter().map(|(column, _)| column)
        }
        match &self.kind {
            StatefulKind::Deduplicate { late, forget, .. } => {
                let after = match forget {
                    Forget::After(column, ..) => Some(column),
                    _ => None,
                };
                of_side(late).chain(after).collect()
            }
            StatefulKind::Join { sides, .. } => sides
                .iter()
                .flat_map(|side| {
                    let expiry = match &side.expiry {
                        SideExpiry::Column { column, .. } => Some(column),
                        _ => None,
                    };
                    of_side(&side.late).chain(expiry)
                })
                .collect(),
            StatefulKind::Asof { late, .. } => late.iter().flat_map(of_side).collect(),
            _ => Vec::new(),
        }
    }
}

impl Hash for StatefulNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.operator, &self.kind, &self.inputs, &self.exprs).hash(state);
    }
}

impl PartialOrd for StatefulNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.operator.partial_cmp(&other.operator).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for StatefulNode {
    fn name(&self) -> &str {
        match &self.kind {
            StatefulKind::Aggregate { .. } => "StatefulAggregate",
            StatefulKind::Session { .. } => "SessionAggregate",
            StatefulKind::Deduplicate { .. } => "Deduplicate",
            StatefulKind::FirstRow { .. } => "FirstRow",
            StatefulKind::Join { .. } => "StreamJoin",
            StatefulKind::Asof { .. } => "AsofJoin",
            StatefulKind::Limit { .. } => "GlobalLimit",
            StatefulKind::User(_) => "UserState",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.exprs.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "{}: ", self.name())?;
        if let Some(operator) = self.operator {
            write!(f, "operator={operator}, ")?;
        }
        match &self.kind {
            StatefulKind::Aggregate { groups, watermarked, .. } => {
                let (groups, functions) = self.exprs.split_at(*groups);
                let expires = if *watermarked { ", expires by event time" } else { "" };
                write!(f, "groups=[{}], functions=[{}]{expires}", list(groups), list(functions))
            }
            StatefulKind::Session { groups, session, .. } => {
                let (groups, rest) = self.exprs.split_at(*groups);
                let (gap, functions) = (list(&rest[..1]), list(&rest[1..]));
                write!(f, "groups=[{}], session={session}, gap={gap}, functions=[{functions}]", list(groups))
            }
            StatefulKind::Deduplicate { forget, .. } => {
                let forgets = match forget {
                    Forget::Never => "never forgets".to_string(),
                    Forget::Key(index, _) => format!("forgets by {}", self.exprs[*index]),
                    Forget::After(column, _, us) => format!("forgets {} ms after {column}", us / 1000),
                };
                write!(f, "keys=[{}], {forgets}", list(&self.exprs))
            }
            StatefulKind::FirstRow { .. } => write!(f, "keys and time=[{}]", list(&self.exprs)),
            StatefulKind::Join { join_type, sides, .. } => {
                let bounds = sides.each_ref().map(|side| match &side.expiry {
                    SideExpiry::Never => "never".to_string(),
                    SideExpiry::Key(index, _) => format!("with key {index}"),
                    SideExpiry::Column { column, after_us } => format!("{} ms after {column}", after_us / 1000),
                });
                let [left, right] = bounds;
                write!(f, "{join_type}, on=[{}], left rows expire {left}, right rows {right}", list(&self.exprs))
            }
            StatefulKind::Asof { outer, .. } => write!(f, "outer={outer}, keys and times=[{}]", list(&self.exprs)),
            StatefulKind::Limit { fetch } => write!(f, "fetch={fetch}"),
            StatefulKind::User(user) => write!(f, "{}, keys=[{}]", user.name, list(&self.exprs)),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> PlanResult<Self> {
        if exprs.len() != self.exprs.len() || inputs.len() != self.inputs.len() {
            return internal_err!("a stateful operator keeps its number of expressions and inputs");
        }
        let schema = self.schema_over(&inputs)?;
        Ok(Self { operator: self.operator, kind: self.kind.clone(), inputs, exprs, schema })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let mut columns = HashSet::new();
        for expr in &self.exprs {
            expr_to_columns(expr, &mut columns).ok()?;
        }
        columns.extend(self.hidden_columns().into_iter().cloned());
        let passes_on = !(self.aggregates() || matches!(self.kind, StatefulKind::User(_)));
        let mut first = 0;
        let mut needed = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let schema = input.schema();
            let mut of_input: Vec<usize> = columns.iter().filter_map(|c| schema.maybe_index_of_column(c)).collect();
            if matches!(self.kind, StatefulKind::User(_)) {
                of_input.extend(0..schema.fields().len());
            } else if passes_on {
                let range = first..first + schema.fields().len();
                of_input.extend(output_columns.iter().filter(|c| range.contains(c)).map(|c| c - first));
            }
            of_input.sort_unstable();
            of_input.dedup();
            needed.push(of_input);
            first += schema.fields().len();
        }
        Some(needed)
    }
}

/// Returns `plan` as one of the nodes above.
pub fn as_node<T: 'static>(plan: &LogicalPlan) -> Option<&T> {
    let LogicalPlan::Extension(extension) = plan else {
        return None;
    };
    extension.node.as_any().downcast_ref::<T>()
}

/// Returns the stateful operator that `plan` is.
pub fn as_stateful(plan: &LogicalPlan) -> Option<&StatefulNode> {
    as_node(plan)
}

/// Returns whether `plan` holds a node for which `wanted` holds, itself included.
pub fn holds(plan: &LogicalPlan, wanted: &dyn Fn(&LogicalPlan) -> bool) -> bool {
    wanted(plan) || plan.inputs().into_iter().any(|input| holds(input, wanted))
}
