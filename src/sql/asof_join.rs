//! ASOF joins in a parsed query: each becomes a table function over both sides, since DataFusion plans no such join.
//!
//! The tokens' rewrite has brought every spelling to `a ASOF JOIN b MATCH_CONDITION (…) ON …`. What stands left of the
//! join becomes a sub-query, what stands right of it another, and the planner of relations makes the join of the call
//! that holds both. A `SELECT *` keeps each column's table, so the rest of the query names columns as before.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, SetExpr,
    TableFactor, TableWithJoins, Value,
};

use super::call::{TableCall, call_of};
use super::script::parse_query;
use crate::error::{Error, Result};

/// The function that stands for an ASOF join: in a MATCH_CONDITION, and in FROM in place of the join.
pub(super) const ASOF_FUNCTION: &str = "__millstream_asof";

/// An ASOF join, as the planner of relations meets it.
#[derive(Debug)]
pub(super) struct AsofRelation {
    /// Whether rows of the left without a partner stay.
    pub(super) outer: bool,
    /// Left and right, as sub-queries.
    pub(super) sides: [TableFactor; 2],
    /// All conditions.
    pub(super) condition: Expr,
}

/// Puts calls in the place of the ASOF joins of one item of FROM.
///
/// # Errors
/// `Unsupported` for an ASOF join without ON.
pub(super) fn resolve_asof_joins(from: &mut TableWithJoins) -> Result<()> {
    if !from.joins.iter().any(|join| matches!(join.join_operator, JoinOperator::AsOf { .. })) {
        return Ok(());
    }
    let mut joins = Vec::new();
    for join in std::mem::take(&mut from.joins) {
        match join.join_operator {
            JoinOperator::AsOf { match_condition, constraint } => {
                let left = std::mem::replace(&mut from.relation, nothing());
                let left = joined(left, std::mem::take(&mut joins));
                from.relation = relation(left, join.relation, match_condition, constraint)?;
            }
            _ => joins.push(join),
        }
    }
    from.joins = joins;
    Ok(())
}

/// What stands left of a join.
fn joined(relation: TableFactor, joins: Vec<Join>) -> TableFactor {
    if joins.is_empty() {
        return relation;
    }
    TableFactor::NestedJoin { table_with_joins: Box::new(TableWithJoins { relation, joins }), alias: None }
}

fn relation(
    left: TableFactor,
    right: TableFactor,
    match_condition: Expr,
    constraint: JoinConstraint,
) -> Result<TableFactor> {
    let (outer, written) = match call_of(&match_condition, ASOF_FUNCTION) {
        Some(marked) => (marked.first().is_some_and(is_true), marked.into_iter().nth(1)),
        None => (false, Some(match_condition)),
    };
    let JoinConstraint::On(on) = constraint else {
        return Err(Error::unsupported(
            "an ASOF join takes its keys from ON: write ON a.k = b.k, with a.ts >= b.ts there or in MATCH_CONDITION",
        ));
    };
    let condition = match written {
        Some(written) => Expr::BinaryOp { left: Box::new(on), op: BinaryOperator::And, right: Box::new(written) },
        None => on,
    };
    let args = [Expr::Value(Value::Boolean(outer).into()), select_all(left)?, select_all(right)?, condition];
    Ok(TableFactor::Function {
        lateral: false,
        name: ObjectName::from(vec![Ident::new(ASOF_FUNCTION)]),
        args: args.map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).into(),
        with_ordinality: false,
        alias: None,
    })
}

/// Reads the join back from the call that stands for it.
///
/// # Errors
/// `InvalidQuery` where somebody called the function by hand.
pub(super) fn decode_asof_relation(call: &TableCall) -> Result<AsofRelation> {
    let by_hand = || Error::invalid_query(format!("{ASOF_FUNCTION} is not called by hand: write a ASOF JOIN b ON …"));
    let args = call.exprs().ok_or_else(by_hand)?;
    let [outer, Expr::Subquery(left), Expr::Subquery(right), condition] = args.as_slice() else {
        return Err(by_hand());
    };
    let derived = |subquery| TableFactor::Derived { lateral: false, subquery, alias: None, sample: None };
    let sides = [left, right].map(|side| derived(side.clone()));
    Ok(AsofRelation { outer: is_true(outer), sides, condition: condition.clone() })
}

fn is_true(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Boolean(true))
}

/// Makes `(SELECT * FROM relation)`.
fn select_all(relation: TableFactor) -> Result<Expr> {
    let mut query = parse_query("SELECT * FROM nothing")?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
    }
    Ok(Expr::Subquery(Box::new(query)))
}

/// Stands where a relation was taken from, until the next comes there.
fn nothing() -> TableFactor {
    TableFactor::Function {
        lateral: false,
        name: ObjectName::from(Vec::new()),
        args: Vec::new(),
        with_ordinality: false,
        alias: None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::relation_tokens::rewrite_relations;
    use super::super::script::{DIALECT, Piece};
    use super::*;

    fn resolved(from: &str) -> Result<String> {
        let tokens = rewrite_relations(Piece::new(format!("SELECT * FROM {from}")).tokens().unwrap()).unwrap();
        let mut query = Parser::new(&DIALECT).with_tokens_with_locations(tokens).parse_query().unwrap();
        let SetExpr::Select(select) = query.body.as_mut() else { panic!("{from}") };
        resolve_asof_joins(&mut select.from[0])?;
        Ok(select.from[0].to_string())
    }

    #[test]
    fn a_join_becomes_a_call_over_its_sides() {
        for (from, expected) in [
            (
                "a ASOF JOIN b AS y ON a.k = y.k AND a.ts >= y.ts",
                "F(false, (SELECT * FROM a), (SELECT * FROM b AS y), a.k = y.k AND a.ts >= y.ts)",
            ),
            (
                "a LEFT ASOF JOIN b MATCH_CONDITION (a.ts > b.ts) ON a.k = b.k",
                "F(true, (SELECT * FROM a), (SELECT * FROM b), a.k = b.k AND a.ts > b.ts)",
            ),
            (
                "a JOIN b ON p ASOF JOIN c ON q JOIN d ON r ASOF LEFT JOIN e ON s LEFT JOIN f ON t",
                "F(true, (SELECT * FROM (F(false, (SELECT * FROM (a JOIN b ON p)), (SELECT * FROM c), q) JOIN d ON r)), \
                 (SELECT * FROM e), s) LEFT JOIN f ON t",
            ),
            ("a JOIN b ON a.k = b.k", "a JOIN b ON a.k = b.k"),
        ] {
            assert_eq!(resolved(from).unwrap(), expected.replace("F(", "__millstream_asof("), "{from}");
        }
        let error = resolved("a ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) USING (k)").unwrap_err().to_string();
        assert!(error.contains("write ON a.k = b.k"), "{error}");
    }
}
