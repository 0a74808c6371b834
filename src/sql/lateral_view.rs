//! Hive's `FROM t LATERAL VIEW explode(list) v AS c`: a row of `t` for each element of its list.
//!
//! The planner knows no such clause, so before planning FROM becomes a sub-query that has the element as a column:
//! `FROM (SELECT *, explode(list) AS c FROM t)`. Columns keep their tables; `v.c` becomes `c`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, LateralView, OrderBy, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins, VisitMut,
    VisitorMut,
};

use super::call::{call, call_of};
use super::each_select::each_select;
use super::script::parse_query;
use super::words::normal;
use crate::error::{Error, Result};

/// The function that drops rows without elements.
pub(super) const EXPLODE: &str = "explode";
/// The function that keeps them, with NULL for the element.
pub(super) const EXPLODE_OUTER: &str = "explode_outer";

/// Puts sub-queries in the place of lateral views, in `query` and every query within it.
///
/// # Errors
/// `Unsupported` for views of other functions than `explode` and `explode_outer`.
pub fn resolve_lateral_views(query: &mut Query) -> Result<()> {
    each_select(query, resolve_select)
}

fn resolve_select(select: &mut Select, order_by: Option<&mut OrderBy>) -> Result<()> {
    if select.lateral_views.is_empty() {
        return Ok(());
    }
    let mut columns = ViewColumns { views: Vec::new(), inside: 0 };
    for view in std::mem::take(&mut select.lateral_views) {
        let (mut element, column) = element(&view)?;
        // A view may look into those before it. Nothing breaks these walks off.
        let _ = element.visit(&mut columns);
        let table = view.lateral_view_name.0.last().and_then(|part| part.as_ident()).map(normal);
        columns.views.push((table.unwrap_or_default(), normal(&column)));
        select.from = vec![with_column(std::mem::take(&mut select.from), element, column)?];
    }
    let _ = select.visit(&mut columns);
    if let Some(order_by) = order_by {
        let _ = order_by.visit(&mut columns);
    }
    Ok(())
}

/// Returns the expression that gives a view's elements, and their column.
fn element(view: &LateralView) -> Result<(Expr, Ident)> {
    let inner = call_of(&view.lateral_view, EXPLODE);
    let outer = call_of(&view.lateral_view, EXPLODE_OUTER);
    let function = if view.outer || outer.is_some() { EXPLODE_OUTER } else { EXPLODE };
    let column = match view.lateral_col_alias.as_slice() {
        [] => Some(Ident::new("col")),
        [column] => Some(column.clone()),
        _ => None,
    };
    match (inner.or(outer).as_deref(), column) {
        (Some([list]), Some(column)) => Ok((call(function, vec![list.clone()]), column)),
        _ => Err(Error::unsupported(format!(
            "LATERAL VIEW {} is not supported: write LATERAL VIEW [OUTER] explode(array) view AS column",
            view.lateral_view
        ))),
    }
}

/// Makes `(SELECT *, element AS column FROM from)`.
fn with_column(from: Vec<TableWithJoins>, element: Expr, column: Ident) -> Result<TableWithJoins> {
    let mut query = parse_query("SELECT * FROM nothing")?;
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection.push(SelectItem::ExprWithAlias { expr: element, alias: column });
        select.from = from;
    }
    let relation = TableFactor::Derived { lateral: false, subquery: Box::new(query), alias: None, sample: None };
    Ok(TableWithJoins { relation, joins: Vec::new() })
}

/// Takes the view's name off its column.
struct ViewColumns {
    /// Views and their columns.
    views: Vec<(String, String)>,
    /// How many queries of their own the walk is in: names there are other columns.
    inside: usize,
}

impl VisitorMut for ViewColumns {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && self.inside == 0
            && let [table, column, ..] = parts.as_slice()
            && self.views.contains(&(normal(table), normal(column)))
        {
            let mut rest = parts.split_off(1);
            *expr = if rest.len() == 1 { Expr::Identifier(rest.remove(0)) } else { Expr::CompoundIdentifier(rest) };
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::script::DIALECT;
    use super::*;

    fn resolved(sql: &str) -> Result<String> {
        let mut query = Parser::new(&DIALECT).try_with_sql(sql).unwrap().parse_query().unwrap();
        resolve_lateral_views(&mut query).map(|()| query.to_string())
    }

    #[test]
    fn a_view_is_a_column_of_a_sub_query() {
        for (sql, expected) in [
            (
                "SELECT t.k, v.c FROM t LATERAL VIEW explode(l) v AS c WHERE v.c > 1 ORDER BY v.c",
                "SELECT t.k, c FROM (SELECT *, explode(l) AS c FROM t) WHERE c > 1 ORDER BY c",
            ),
            (
                "SELECT b FROM t LATERAL VIEW OUTER explode(t.ls) v AS a LATERAL VIEW explode_outer(v.a.x) w AS b",
                "SELECT b FROM (SELECT *, explode_outer(a.x) AS b FROM \
                 (SELECT *, explode_outer(t.ls) AS a FROM t))",
            ),
            ("SELECT c FROM t", "SELECT c FROM t"),
        ] {
            assert_eq!(resolved(sql).unwrap(), expected, "{sql}");
        }
        let error = resolved("SELECT a FROM t LATERAL VIEW posexplode(l) v AS a").unwrap_err().to_string();
        assert!(error.contains("LATERAL VIEW posexplode(l) is not supported"), "{error}");
    }
}
