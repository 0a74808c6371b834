//! Statements → DataFusion's logical plans: what SQL over streams adds to DataFusion's planner.
//!
//! Stream relations, watermarks and window table functions are planned here into the nodes that DataFrames use too;
//! everything else is DataFusion's own planning.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{DataFusionError, Diagnostic, Result as PlanResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, GroupByWithModifier, Query, SetExpr, SetOperator, Statement,
    TableFactor, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::asof_join::resolve_asof_joins;
use super::call::{call, call_of};
use super::distinct_from::bind_distinct_from;
use super::lateral_view::{EXPLODE, EXPLODE_OUTER, resolve_lateral_views};
use super::script::{Location, Piece};
use super::session_table::resolve_session_tables;
use super::stream_relation::{LOOKUP_FUNCTION, STREAM_FUNCTION};
use super::struct_call::name_struct_fields;
use super::window_column::resolve_window_columns;
use crate::error::{Error, Result};
use crate::plan::stream_table::is_streaming;

/// Plans a query. The plan is neither analyzed nor optimized.
///
/// # Errors
/// `InvalidQuery` with line, column and a caret where DataFusion says which part of the text is wrong.
pub async fn plan_query(state: &SessionState, mut query: Query, piece: &Piece) -> Result<LogicalPlan> {
    bind_distinct_from(&mut query);
    name_struct_fields(&mut query);
    resolve_lateral_views(&mut query).map_err(|e| locate(e.into(), piece))?;
    resolve_session_tables(&mut query).map_err(|e| locate(e.into(), piece))?;
    resolve_window_columns(&mut query);
    let mut rewrite = Rewrite { intersects: false };
    if let ControlFlow::Break(error) = query.visit(&mut rewrite) {
        return Err(locate(DataFusionError::from(*error), piece));
    }
    let statement = DataFusionStatement::Statement(Box::new(Statement::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await.map_err(|e| locate(e, piece))?;
    if rewrite.intersects && is_streaming(&plan) {
        return Err(locate(
            Error::unsupported("INTERSECT over a stream is not supported in any output mode; use a join").into(),
            piece,
        ));
    }
    Ok(plan)
}

/// Plans any other statement that DataFusion knows.
///
/// # Errors
/// As [`plan_query`].
pub async fn plan_statement(
    state: &SessionState,
    mut statement: DataFusionStatement,
    piece: &Piece,
) -> Result<LogicalPlan> {
    if let DataFusionStatement::Statement(sql) = &mut statement {
        bind_distinct_from(sql);
        name_struct_fields(sql);
        let mut rewrite = Rewrite { intersects: false };
        if let ControlFlow::Break(error) = sql.visit(&mut rewrite) {
            return Err(locate(DataFusionError::from(*error), piece));
        }
    }
    state.statement_to_plan(statement).await.map_err(|e| locate(e, piece))
}

/// Says where in the script an error of planning is.
pub fn locate(error: DataFusionError, piece: &Piece) -> Error {
    let at = diagnostic(&error)
        .and_then(|d| d.span)
        .map(|span| Location { line: span.start.line, column: span.start.column });
    let error = Error::from(error);
    let message = match at {
        Some(at) if at.line > 0 => piece.point(at, error.message()),
        _ => format!("line {}, column {}: {}", piece.line, piece.column, error.message()),
    };
    Error::new(error.kind(), message).with_source(error)
}

fn diagnostic(error: &DataFusionError) -> Option<&Diagnostic> {
    match error {
        DataFusionError::Diagnostic(diagnostic, _) => Some(diagnostic),
        DataFusionError::Context(_, inner) => diagnostic(inner),
        DataFusionError::Collection(all) => all.iter().find_map(diagnostic),
        DataFusionError::Shared(inner) => diagnostic(inner),
        _ => None,
    }
}

/// Rewrites of the parsed query that DataFusion's planner needs.
struct Rewrite {
    intersects: bool,
}

impl VisitorMut for Rewrite {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.look_for_intersect(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Self::Break> {
        // Spark's DISTRIBUTE BY only says how rows lie in memory.
        select.distribute_by.clear();
        for from in &mut select.from {
            broken_off(resolve_asof_joins(from))?;
        }
        rolled_up(&mut select.group_by)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            broken_off(resolve_asof_joins(table_with_joins))?;
        }
        if let TableFactor::Table { sample: Some(_), .. } = factor {
            return ControlFlow::Break(Box::new(Error::unsupported(
                "TABLESAMPLE is not supported; use WHERE rand() < fraction",
            )));
        }
        // The planner resolves names that stand in a FROM: a name within an argument becomes a query of its own.
        if let TableFactor::Table { name, args: Some(args), .. } = factor
            && [STREAM_FUNCTION, LOOKUP_FUNCTION].contains(&name.to_string().as_str())
            && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(first))) = args.args.first_mut()
            && let Some(table) = literal(first)
        {
            match select_all(table) {
                Ok(query) => *first = Expr::Subquery(Box::new(query)),
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Some(arguments) = call_of(expr, EXPLODE) {
            *expr = call("unnest", arguments);
        } else if let Some([list]) = call_of(expr, EXPLODE_OUTER).as_deref() {
            *expr = call("unnest", vec![never_empty(list)]);
        } else if let Expr::RLike { negated, expr: text, pattern, .. } = expr {
            let matches = call("regexp_like", vec![text.as_ref().clone(), pattern.as_ref().clone()]);
            *expr = match *negated {
                true => Expr::UnaryOp { op: ast::UnaryOperator::Not, expr: Box::new(matches) },
                false => matches,
            };
        }
        ControlFlow::Continue(())
    }
}

/// An error breaks the walk off.
fn broken_off(result: Result<()>) -> ControlFlow<Box<Error>> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(Box::new(error)),
    }
}

impl Rewrite {
    fn look_for_intersect(&mut self, body: &SetExpr) {
        if let SetExpr::SetOperation { op, left, right, .. } = body {
            self.intersects |= *op == SetOperator::Intersect;
            self.look_for_intersect(left);
            self.look_for_intersect(right);
        }
    }
}

/// GROUP BY a, b WITH ROLLUP is GROUP BY ROLLUP (a, b), and so on: the planner knows only the latter.
fn rolled_up(group_by: &mut GroupByExpr) -> ControlFlow<Box<Error>> {
    let GroupByExpr::Expressions(exprs, modifiers) = group_by else { return ControlFlow::Continue(()) };
    let all = |exprs: &mut Vec<Expr>| std::mem::take(exprs).into_iter().map(|e| vec![e]).collect();
    match modifiers.as_slice() {
        [] => return ControlFlow::Continue(()),
        [GroupByWithModifier::Rollup] => *exprs = vec![Expr::Rollup(all(exprs))],
        [GroupByWithModifier::Cube] => *exprs = vec![Expr::Cube(all(exprs))],
        [GroupByWithModifier::GroupingSets(sets)] => *exprs = vec![sets.clone()],
        other => {
            let what = other.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            return ControlFlow::Break(Box::new(Error::unsupported(format!("GROUP BY … {what} is not supported"))));
        }
    }
    modifiers.clear();
    ControlFlow::Continue(())
}

/// `CASE WHEN array_length(list) > 0 THEN list ELSE make_array(NULL) END`: what unnesting drops gives one NULL instead.
fn never_empty(list: &Expr) -> Expr {
    let value = |value: Value| Expr::Value(value.into());
    let has_elements = Expr::BinaryOp {
        left: Box::new(call("array_length", vec![list.clone()])),
        op: ast::BinaryOperator::Gt,
        right: Box::new(value(Value::Number("0".to_string(), false))),
    };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![ast::CaseWhen { condition: has_elements, result: list.clone() }],
        else_result: Some(Box::new(call("make_array", vec![value(Value::Null)]))),
    }
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// `SELECT * FROM table`, the table's name as text with its quotes.
fn select_all(table: String) -> Result<Query> {
    let mut parsed = super::script::parse_query(&format!("SELECT * FROM {table}"))?;
    // Places in this text are none of the script's.
    let cleared: ControlFlow<()> = ast::visit_relations_mut(&mut parsed, |name| {
        for part in &mut name.0 {
            if let ast::ObjectNamePart::Identifier(ident) = part {
                ident.span = Span::empty();
            }
        }
        ControlFlow::Continue(())
    });
    debug_assert!(cleared.is_continue());
    Ok(parsed)
}

/// Types as Spark has them where DataFusion's differ: TIMESTAMP counts microseconds, and BINARY can be cast to.
#[derive(Debug)]
pub struct SparkTypes;

impl TypePlanner for SparkTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> PlanResult<Option<FieldRef>> {
        let planned = match sql_type {
            ast::DataType::Timestamp(..) | ast::DataType::Datetime(_) => {
                Some(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            ast::DataType::Binary(_) | ast::DataType::Varbinary(_) => Some(DataType::Binary),
            _ => None,
        };
        Ok(planned.map(|data_type| Arc::new(Field::new("", data_type, true))))
    }
}
