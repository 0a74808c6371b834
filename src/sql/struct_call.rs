//! `struct(…)` as in Spark: its fields are named after the columns, and `struct(*)` holds all of them.
//!
//! `to_json(struct(*)) AS value` is how rows are put into messages. The parser knows no star there, so the token pass makes
//! [`all_columns`] of it: a field of a struct that has none, which [`StructOfAll`] plans where the columns are known.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::common::{Column, DFSchema, Result as PlanResult, TableReference, plan_err};
use datafusion::functions::core::named_struct;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr as LogicalExpr, GetFieldAccess, lit};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, SelectItem, SetExpr, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Token;

/// The function that makes a struct of names and values.
const NAMED_STRUCT: &str = "named_struct";

/// Functions that give one of their arguments, or all in a list.
const UNITING: &[&str] =
    &["coalesce", "nvl", "nvl2", "ifnull", "nullif", "if", "array", "make_array", "greatest", "least"];

/// Names the fields of every `struct(…)` in `node`: a column's by its name, another value's `col1`, `col2`, … by its place,
/// unless it has a name by AS. Where structs are to be of one type, as those that are compared are, all have the names of the
/// first: they are compared field by field in their order, and DataFusion would find fields by their names.
pub(super) fn name_struct_fields(node: &mut impl VisitMut) {
    let _ = node.visit(&mut Namer);
}

/// Goes from within: what stands side by side has its names when its turn comes.
struct Namer;

impl VisitorMut for Namer {
    type Break = Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match fields_of(expr) {
            Some(fields) => fields.iter_mut().enumerate().for_each(|(at, field)| name_field(at, field)),
            None => of_one_type(expr).into_iter().for_each(name_alike),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Infallible> {
        columns_of(&mut query.body).into_iter().for_each(name_alike);
        ControlFlow::Continue(())
    }
}

fn name_field(at: usize, field: &mut Expr) {
    let name = match field {
        Expr::Named { name, .. } | Expr::Identifier(name) => name.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().cloned().unwrap_or_else(|| Ident::new("")),
        _ => Ident::new(format!("col{}", at + 1)),
    };
    let name = match name.quote_style {
        None => Ident { value: name.value.to_lowercase(), ..name },
        Some(_) => name,
    };
    match field {
        Expr::Named { name: given, .. } => *given = name,
        _ => *field = Expr::Named { expr: Box::new(field.clone()), name },
    }
}

/// Gives the structs among `operands` the names of the first, field by field.
fn name_alike(operands: Vec<&mut Expr>) {
    let mut structs = operands.into_iter().filter_map(fields_of);
    let Some(first) = structs.next() else { return };
    for fields in structs.filter(|fields| fields.len() == first.len()) {
        for (field, like) in fields.iter_mut().zip(first.iter()) {
            if let (Expr::Named { name, .. }, Expr::Named { name: like, .. }) = (field, like) {
                name.clone_from(like);
            }
        }
    }
}

/// Returns the operands of `expr` that are brought to one type, or to one each.
fn of_one_type(expr: &mut Expr) -> Vec<Vec<&mut Expr>> {
    use BinaryOperator as Op;
    match expr {
        Expr::BinaryOp {
            left,
            op: Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq | Op::Spaceship,
            right,
        }
        | Expr::IsDistinctFrom(left, right)
        | Expr::IsNotDistinctFrom(left, right) => vec![vec![left, right]],
        Expr::InList { expr, list, .. } => vec![std::iter::once(expr.as_mut()).chain(list).collect()],
        Expr::InSubquery { expr, subquery, .. } => {
            let found = columns_of(&mut subquery.body).into_iter().next();
            vec![std::iter::once(expr.as_mut()).chain(found.into_iter().flatten()).collect()]
        }
        Expr::Between { expr, low, high, .. } => vec![vec![expr, low, high]],
        Expr::Array(array) => vec![array.elem.iter_mut().collect()],
        Expr::Case { operand, conditions, else_result, .. } => {
            let cases = conditions.iter_mut().map(|when| (&mut when.condition, &mut when.result));
            let (looked_for, mut results): (Vec<_>, Vec<_>) = cases.unzip();
            results.extend(else_result.as_deref_mut());
            vec![operand.as_deref_mut().into_iter().chain(looked_for).collect(), results]
        }
        Expr::Function(function) if UNITING.contains(&function.name.to_string().to_lowercase().as_str()) => {
            match &mut function.args {
                FunctionArguments::List(list) => vec![list.args.iter_mut().filter_map(argument).collect()],
                _ => vec![],
            }
        }
        _ => vec![],
    }
}

/// Returns what stands in each column of a query: of several SELECTs that are united, or of rows of VALUES.
fn columns_of(body: &mut SetExpr) -> Vec<Vec<&mut Expr>> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            let mut columns = columns_of(left);
            for (column, more) in columns.iter_mut().zip(columns_of(right)) {
                column.extend(more);
            }
            columns
        }
        SetExpr::Query(query) => columns_of(&mut query.body),
        SetExpr::Select(select) => {
            select.projection.iter_mut().map(|item| selected(item).into_iter().collect()).collect()
        }
        SetExpr::Values(values) => {
            let mut columns: Vec<Vec<&mut Expr>> = Vec::new();
            for row in &mut values.rows {
                for (at, value) in row.iter_mut().enumerate() {
                    match columns.get_mut(at) {
                        Some(column) => column.push(value),
                        None => columns.push(vec![value]),
                    }
                }
            }
            columns
        }
        _ => Vec::new(),
    }
}

fn selected(item: &mut SelectItem) -> Option<&mut Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

fn argument(arg: &mut FunctionArg) -> Option<&mut Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// Returns the fields of a struct that is written out.
fn fields_of(expr: &mut Expr) -> Option<&mut Vec<Expr>> {
    match expr {
        Expr::Struct { values, fields } if fields.is_empty() => Some(values),
        Expr::Nested(inner) => fields_of(inner),
        _ => None,
    }
}

/// The tokens that stand for `struct(relation.*)`, or for `struct(*)` where no relation is given.
pub(super) fn all_columns(relation: &str) -> [Token; 6] {
    [
        Token::make_word(NAMED_STRUCT, None),
        Token::LParen,
        Token::RParen,
        Token::LBracket,
        Token::SingleQuotedString(relation.to_string()),
        Token::RBracket,
    ]
}

/// Plans what [`all_columns`] stands for.
#[derive(Debug)]
pub struct StructOfAll;

impl ExprPlanner for StructOfAll {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> PlanResult<PlannerResult<RawFieldAccessExpr>> {
        let (
            LogicalExpr::ScalarFunction(call),
            GetFieldAccess::NamedStructField { name: ScalarValue::Utf8(Some(name)) },
        ) = (&access.expr, &access.field_access)
        else {
            return Ok(PlannerResult::Original(access));
        };
        if call.func.name() != NAMED_STRUCT || !call.args.is_empty() {
            return Ok(PlannerResult::Original(access));
        }
        let columns = match name.as_str() {
            "" => schema.columns(),
            relation => relation_columns(schema, &TableReference::parse_str(relation))?,
        };
        let mut names = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|column| !names.insert(column.name())) {
            return plan_err!("struct(*) would have two fields {}: name the columns one by one", twice.name());
        }
        let fields = columns.into_iter().flat_map(|column| [lit(column.name()), LogicalExpr::Column(column)]).collect();
        Ok(PlannerResult::Planned(LogicalExpr::ScalarFunction(ScalarFunction::new_udf(named_struct(), fields))))
    }
}

fn relation_columns(schema: &DFSchema, relation: &TableReference) -> PlanResult<Vec<Column>> {
    let is_of = |of: &Option<&TableReference>| of.is_some_and(|of| of.resolved_eq(relation));
    let columns: Vec<Column> = schema.iter().filter(|(of, _)| is_of(of)).map(Column::from).collect();
    match columns.is_empty() {
        true => plan_err!("struct({relation}.*): there is no relation {relation} here"),
        false => Ok(columns),
    }
}
