//! `a IS DISTINCT FROM b AND c` means `(a IS DISTINCT FROM b) AND c`.
//!
//! The parser takes everything behind FROM for the second operand. Parentheses survive parsing, so an AND or OR that stands
//! there without them is one that the predicate swallowed, and is put above it again.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value, VisitMut, visit_expressions_mut};

/// Gives the predicates in `node` no more than they bind.
pub(super) fn bind_distinct_from(node: &mut impl VisitMut) {
    // From within: what a swallowed operand holds is in order when its turn comes.
    let _: ControlFlow<()> = visit_expressions_mut(node, |expr| {
        if let Some((operand, is_looser)) = last_operand(expr)
            && is_looser(operand)
        {
            let mut tree = std::mem::replace(operand, nothing());
            let first = leftmost(&mut tree, is_looser);
            std::mem::swap(operand, first);
            std::mem::swap(first, expr);
            *expr = tree;
        }
        ControlFlow::Continue(())
    });
}

/// Whether an expression is of a kind.
type Is = fn(&Expr) -> bool;

/// Returns the operand behind a predicate or operator, and what cannot stand there without parentheses. Where one was put
/// above a predicate it may have to go above what stood before that, too.
fn last_operand(expr: &mut Expr) -> Option<(&mut Expr, Is)> {
    match expr {
        Expr::IsDistinctFrom(_, right)
        | Expr::IsNotDistinctFrom(_, right)
        | Expr::UnaryOp { op: UnaryOperator::Not, expr: right } => Some((right, is_and_or_or)),
        Expr::BinaryOp { op: BinaryOperator::And, right, .. } => Some((right, is_or)),
        _ => None,
    }
}

/// Returns the first operand of a tree of operators.
fn leftmost(expr: &mut Expr, is_operator: Is) -> &mut Expr {
    match expr {
        Expr::BinaryOp { .. } if !is_operator(expr) => expr,
        Expr::BinaryOp { left, .. } => leftmost(left, is_operator),
        other => other,
    }
}

fn is_or(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::Or, .. })
}

fn is_and_or_or(expr: &Expr) -> bool {
    is_or(expr) || matches!(expr, Expr::BinaryOp { op: BinaryOperator::And, .. })
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::script::parse_query;

    #[test]
    fn what_was_swallowed_comes_back() {
        for (text, means) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b + 1 OR c AND d", "(a IS NOT DISTINCT FROM b + 1) OR (c AND d)"),
            ("x AND a IS DISTINCT FROM b OR c", "(x AND (a IS DISTINCT FROM b)) OR c"),
            ("x AND a IS DISTINCT FROM b OR c OR d AND e", "((x AND (a IS DISTINCT FROM b)) OR c) OR (d AND e)"),
            ("x OR a IS DISTINCT FROM b AND c", "x OR ((a IS DISTINCT FROM b) AND c)"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            ("x AND NOT a IS DISTINCT FROM b OR c", "(x AND (NOT (a IS DISTINCT FROM b))) OR c"),
            (
                "a IS DISTINCT FROM b AND c IS DISTINCT FROM d OR e",
                "((a IS DISTINCT FROM b) AND (c IS DISTINCT FROM d)) OR e",
            ),
            ("a IS DISTINCT FROM (b AND c) AND d", "(a IS DISTINCT FROM (b AND c)) AND d"),
            ("a IS DISTINCT FROM b", "a IS DISTINCT FROM b"),
            ("x AND (y OR z) AND NOT (p OR q)", "(x AND (y OR z)) AND (NOT (p OR q))"),
            ("f(a IS DISTINCT FROM b AND c)", "f((a IS DISTINCT FROM b) AND c)"),
        ] {
            let mut query = parse_query(&format!("SELECT {text}")).unwrap();
            bind_distinct_from(&mut query);
            let mut want = parse_query(&format!("SELECT {means}")).unwrap();
            // An OR in two ways is one: what matters is which operand each operator has.
            assert_eq!(shape(&mut query), shape(&mut want), "{text}");
        }
    }

    /// The query with all parentheses written, and none twice.
    fn shape(query: &mut datafusion::sql::sqlparser::ast::Query) -> String {
        let _: ControlFlow<()> = visit_expressions_mut(query, |expr| {
            if let Expr::Nested(inner) = expr {
                *expr = std::mem::replace(inner, nothing());
            }
            if is_and_or_or(expr)
                || matches!(
                    expr,
                    Expr::IsDistinctFrom(..)
                        | Expr::IsNotDistinctFrom(..)
                        | Expr::UnaryOp { .. }
                        | Expr::BinaryOp { .. }
                )
            {
                *expr = Expr::Nested(Box::new(std::mem::replace(expr, nothing())));
            }
            ControlFlow::Continue(())
        });
        query.to_string()
    }
}
