//! A join of two streams: which rows may still find a partner, from the condition as it is written.
//!
//! A row can be forgotten once every row that could match it would be late. That is known where an event time is among
//! the keys (it expires with the key), or where the condition bounds one side's event time from below by the other's:
//! of `r.ts <= l.ts + INTERVAL 10 SECONDS` follows `l.ts >= r.ts - 10 s`, and since no row of the right below the
//! watermark comes any more, a row of the left 10 s below the watermark finds none. The rules are those of Spark's
//! StreamingJoinHelper, down to the millisecond.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality, Result as PlanResult, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, Filter, Join, LogicalPlan, Operator};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::filter_null_join_keys::FilterNullJoinKeys;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::{Optimizer, OptimizerRule};

use super::event_column::{event_column, event_expr, first_event_column};
use super::filter_below::PushBelowAggregate;
use super::nodes::{JoinSide, SideExpiry, StatefulKind, StatefulNode, as_stateful, holds};
use super::stream_table::is_streaming;
use crate::error::{Error, Result};
use crate::operator::event_time::EventTime;
use crate::sink::OutputMode;

/// Spark compares in milliseconds: an inclusive bound lies one of them further.
const INCLUSIVE_US: i64 = 1000;

/// Returns whether `plan` is a join of two streams.
pub fn is_stream_join(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if is_streaming(&join.left) && is_streaming(&join.right))
}

/// Finds the keys of joins in their conditions, and moves conditions on one side below the join, those on the keys of an
/// aggregate below it: so what an operator remembers, and what moves the watermark, is what Spark's optimizer leaves.
/// Aggregates must be nodes of ours by now.
///
/// # Errors
/// As DataFusion's rules.
pub fn prepare_joins(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let filtered = |node: &LogicalPlan| matches!(node, LogicalPlan::Filter(_));
    let filters_an_aggregate = holds(&plan, &filtered) && holds(&plan, &|node| as_stateful(node).is_some());
    if !(filters_an_aggregate || holds(&plan, &is_stream_join)) {
        return Ok(plan);
    }
    let keys: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(FilterNullJoinKeys::default()),
        Arc::new(PushDownFilter::new()),
        Arc::new(PushBelowAggregate),
    ];
    let plan = Optimizer::with_rules(keys).optimize(plan, state, |_, _| {})?;
    let plan = plan.transform_up(not_null_where_compared)?.data;
    let push: Vec<Arc<dyn OptimizerRule + Send + Sync>> =
        vec![Arc::new(ExtractEquijoinPredicate::new()), Arc::new(PushDownFilter::new()), Arc::new(PushBelowAggregate)];
    Ok(Optimizer::with_rules(push).optimize(plan, state, |_, _| {})?)
}

/// A row that a comparison in the condition drops for a NULL is dropped below the join, and below the watermark.
fn not_null_where_compared(plan: LogicalPlan) -> PlanResult<Transformed<LogicalPlan>> {
    if !is_stream_join(&plan) {
        return Ok(Transformed::no(plan));
    }
    let LogicalPlan::Join(mut join) = plan else {
        return Ok(Transformed::no(plan));
    };
    let preserved = join.join_type.on_lr_is_preserved();
    let conditions = join.filter.iter().flat_map(split_conjunction);
    let columns: Vec<Column> = conditions.flat_map(compared_columns).collect();
    for (side, preserved) in [(&mut join.left, preserved.0), (&mut join.right, preserved.1)] {
        let own = columns.iter().filter(|c| preserved && side.schema().has_column(c));
        let not_null = own.map(|c| Expr::Column(c.clone()).is_not_null()).reduce(Expr::and);
        if let Some(predicate) = not_null {
            *side = Arc::new(LogicalPlan::Filter(Filter::try_new(predicate, Arc::clone(side))?));
        }
    }
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// The columns of which a comparison is NULL where one of them is.
fn compared_columns(condition: &Expr) -> Vec<Column> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return Vec::new();
    };
    if !matches!(op, Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq) {
        return Vec::new();
    }
    fn strict(expr: &Expr, columns: &mut Vec<Column>) {
        match expr {
            Expr::Column(column) => columns.push(column.clone()),
            Expr::Cast(cast) => strict(&cast.expr, columns),
            Expr::Negative(inner) => strict(inner, columns),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus | Operator::Multiply, right }) => {
                strict(left, columns);
                strict(right, columns);
            }
            _ => {}
        }
    }
    let mut columns = Vec::new();
    strict(left, &mut columns);
    strict(right, &mut columns);
    columns
}

/// Makes the operator of a join of two streams.
///
/// # Errors
/// `Unsupported` for joins without equality, of a kind that streams or the mode do not have, or whose outer rows would
/// never be known to be without a partner; the message says what would do.
pub fn stream_join(join: Join, mode: OutputMode) -> Result<StatefulNode> {
    let join_type = join.join_type;
    check(&join, mode)?;
    let keyed = join.on.iter().enumerate().find_map(|(index, (left, right))| {
        let time = event_expr(&join.left, left).or_else(|| event_expr(&join.right, right))?;
        Some((index, time))
    });
    let inputs = [&join.left, &join.right];
    let conditions: Vec<&Expr> = join.filter.iter().flat_map(split_conjunction).collect();
    let sides = [0, 1].map(|side| {
        let key = keyed.map(|(index, _)| if side == 0 { &join.on[index].0 } else { &join.on[index].1 });
        let key_time = key.and_then(|key| match key {
            Expr::Column(column) => Some((column.clone(), event_expr(inputs[side], key)?)),
            _ => None,
        });
        let expiry = match keyed {
            Some((index, time)) => SideExpiry::Key(index, time),
            None => value_expiry(&conditions, inputs[side], inputs[1 - side]),
        };
        JoinSide { late: key_time.or_else(|| first_event_column(inputs[side])), expiry }
    });
    let known = sides.each_ref().map(|side| side.expiry != SideExpiry::Never);
    let enough = match join_type {
        JoinType::Left | JoinType::LeftSemi => known[0],
        JoinType::Right => known[1],
        JoinType::Full => known[0] || known[1],
        _ => true,
    };
    if !enough {
        return Err(Error::unsupported(format!(
            "{} join of two streams needs to know when a row can find no partner any more: define watermarks on \
             both streams, and either join on an event time (or window) or bound the event times against each other, as in \
             ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '10' MINUTE",
            kind(join_type)
        )));
    }
    let (left, right): (Vec<Expr>, Vec<Expr>) = join.on.into_iter().unzip();
    let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
    Ok(StatefulNode {
        operator: None,
        kind: StatefulKind::Join { join_type, null_equals_null, sides: Box::new(sides) },
        exprs: left.into_iter().chain(right).chain(join.filter).collect(),
        inputs: vec![join.left.as_ref().clone(), join.right.as_ref().clone()],
        schema: join.schema,
    })
}

/// A kind of join in words.
fn kind(join_type: JoinType) -> String {
    match join_type {
        JoinType::Inner => "an inner".to_string(),
        JoinType::Left => "a left outer".to_string(),
        JoinType::Right => "a right outer".to_string(),
        JoinType::Full => "a full outer".to_string(),
        JoinType::LeftSemi => "a left semi".to_string(),
        JoinType::LeftAnti => "a left anti".to_string(),
        other => format!("a {other}"),
    }
}

fn check(join: &Join, mode: OutputMode) -> Result<()> {
    let join_type = join.join_type;
    let refuse = |why: &str| Err(Error::unsupported(format!("{} join of two streams {why}", kind(join_type))));
    match (join_type, mode) {
        (JoinType::Inner | JoinType::LeftSemi, OutputMode::Append | OutputMode::Update) => {}
        (JoinType::Left | JoinType::Right | JoinType::Full, OutputMode::Append) => {}
        (JoinType::Inner | JoinType::LeftSemi, OutputMode::Complete) => {
            return refuse("is not supported in complete mode; use append or update mode");
        }
        (JoinType::Left | JoinType::Right | JoinType::Full, _) => {
            return refuse(
                "is not supported outside append mode: a row without a partner is final only once it has waited",
            );
        }
        _ => {
            return refuse(
                "is not supported in any output mode; inner, left, right and full outer, and left semi joins are",
            );
        }
    }
    if join.on.is_empty() {
        return refuse(
            "without an equality in its condition is not supported in any output mode: every row would meet every row; add one, \
             such as a.k = b.k",
        );
    }
    Ok(())
}

/// When rows of `own` can find no partner in `other` any more, by the bounds of the condition; of several the one that
/// keeps rows longest.
fn value_expiry(conditions: &[&Expr], own: &LogicalPlan, other: &LogicalPlan) -> SideExpiry {
    let mut longest: Option<(Column, i64)> = None;
    for condition in conditions {
        for (column, after_us) in lower_bounds(condition, own, other) {
            longest = match longest {
                Some((before, us)) if us >= after_us => Some((before, us)),
                _ => Some((column, after_us)),
            };
        }
    }
    match longest {
        Some((column, after_us)) => SideExpiry::Column { column, after_us },
        None => SideExpiry::Never,
    }
}

/// A sum of one event time of each side (added, subtracted or absent) and a constant.
#[derive(Clone, Default)]
struct Sum {
    own: Option<(Column, i64)>,
    other: Option<(Column, i64)>,
    constant_us: i64,
}

/// The bounds `own.time >= other.time + c` that follow from one condition, as how long after its time a row expires.
fn lower_bounds(condition: &Expr, own: &LogicalPlan, other: &LogicalPlan) -> Vec<(Column, i64)> {
    let bound = |left: &Expr, right: &Expr, inclusive: bool| -> Option<(Column, i64)> {
        // left - right < 0, which is: other + c < own
        let sum = minus(sum_of(left, own, other)?, sum_of(right, own, other)?)?;
        match (sum.own, sum.other) {
            (Some((column, -1)), Some((_, 1))) => {
                Some((column, if inclusive { INCLUSIVE_US } else { 0 } - sum.constant_us))
            }
            _ => None,
        }
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Lt => bound(left, right, false),
            Operator::LtEq => bound(left, right, true),
            Operator::Gt => bound(right, left, false),
            Operator::GtEq => bound(right, left, true),
            _ => None,
        }
        .into_iter()
        .collect(),
        Expr::Between(between) if !between.negated => {
            let low = bound(&between.low, &between.expr, true);
            low.into_iter().chain(bound(&between.expr, &between.high, true)).collect()
        }
        _ => Vec::new(),
    }
}

fn minus(a: Sum, b: Sum) -> Option<Sum> {
    let side = |a: Option<(Column, i64)>, b: Option<(Column, i64)>| match (a, b) {
        (None, None) => Some(None),
        (Some(a), None) => Some(Some(a)),
        (None, Some((column, n))) => Some(Some((column, -n))),
        // twice the same time, or two of one side: no bound between the sides
        (Some(_), Some(_)) => None,
    };
    Some(Sum {
        own: side(a.own, b.own)?,
        other: side(a.other, b.other)?,
        constant_us: a.constant_us.checked_sub(b.constant_us)?,
    })
}

fn sum_of(expr: &Expr, own: &LogicalPlan, other: &LogicalPlan) -> Option<Sum> {
    // The watermark is the other side's: any time of this side will do.
    let is_time = |column: &Column| {
        own.schema()
            .qualified_field_from_column(column)
            .is_ok_and(|(_, f)| matches!(f.data_type(), DataType::Timestamp(..)))
    };
    let is_event_time = |column: &Column| {
        other.schema().has_column(column) && event_column(other, column) == Some(EventTime::Time { after_us: 0 })
    };
    match expr {
        Expr::Column(column) if is_time(column) => Some(Sum { own: Some((column.clone(), 1)), ..Sum::default() }),
        Expr::Column(column) if is_event_time(column) => {
            Some(Sum { other: Some((column.clone(), 1)), ..Sum::default() })
        }
        Expr::Cast(Cast { expr, field }) if keeps_time(field.data_type()) => sum_of(expr, own, other),
        Expr::Alias(alias) => sum_of(&alias.expr, own, other),
        Expr::Negative(inner) => minus(Sum::default(), sum_of(inner, own, other)?),
        Expr::Literal(value, _) => Some(Sum { constant_us: constant_us(value)?, ..Sum::default() }),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            minus(sum_of(left, own, other)?, sum_of(right, own, other)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => {
            minus(sum_of(left, own, other)?, minus(Sum::default(), sum_of(right, own, other)?)?)
        }
        _ => None,
    }
}

/// A cast that does not round times.
fn keeps_time(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
            | DataType::Duration(TimeUnit::Microsecond | TimeUnit::Nanosecond)
            | DataType::Interval(_)
    )
}

/// An interval without months, whose length nobody knows.
fn constant_us(value: &ScalarValue) -> Option<i64> {
    const DAY_US: i64 = 86_400_000_000;
    match value {
        ScalarValue::IntervalMonthDayNano(Some(v)) if v.months == 0 => {
            i64::from(v.days).checked_mul(DAY_US)?.checked_add(v.nanoseconds / 1000)
        }
        ScalarValue::IntervalDayTime(Some(v)) => {
            i64::from(v.days).checked_mul(DAY_US)?.checked_add(i64::from(v.milliseconds) * 1000)
        }
        ScalarValue::DurationSecond(Some(v)) => v.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(v)) => v.checked_mul(1000),
        ScalarValue::DurationMicrosecond(Some(v)) => Some(*v),
        ScalarValue::DurationNanosecond(Some(v)) => Some(v / 1000),
        _ => None,
    }
}

/// Returns whether an expression names only columns of `plan`.
pub fn is_of(expr: &Expr, plan: &LogicalPlan) -> bool {
    let mut all = true;
    let visited = expr.apply(|e| {
        if let Expr::Column(column) = e {
            all &= plan.schema().has_column(column);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    all && visited.is_ok()
}
