//! Spark's `window` column: what `GROUP BY window(ts, '10 seconds')` calls its result.
//!
//! In Spark a grouping by `window(…)` makes a column `window` that SELECT, HAVING, QUALIFY and ORDER BY may name, with
//! the fields `start` and `end`. The planner knows no such column, so before planning every mention becomes the call
//! itself: the planner then finds the grouping in it. `session_window` likewise. A query that groups by no such call
//! is left alone: its `window` is a column like any other.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, GroupByExpr, Ident, ObjectName, OrderBy, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, VisitMut, VisitorMut,
};

use super::call::get_field;
use super::each_select::each_select;

/// Functions whose call in GROUP BY makes a column of their name.
const WINDOW_COLUMNS: &[&str] = &["window", "session_window"];

/// Replaces `window`, `window.start` and `window.end` by what they stand for, in `query` and every query within it.
pub fn resolve_window_columns(query: &mut Query) {
    let Ok(()) = each_select(query, resolve_select);
}

fn resolve_select(select: &mut Select, mut order_by: Option<&mut OrderBy>) -> Result<(), Infallible> {
    for name in WINDOW_COLUMNS {
        let call = match &select.group_by {
            GroupByExpr::Expressions(keys, _) => keys.iter().find(|key| is_call(key, name)).cloned(),
            GroupByExpr::All(_) => None,
        };
        let Some(call) = call else { continue };
        let mut column = WindowColumn { name, call: &call, inside: 0 };
        let items = std::mem::take(&mut select.projection);
        select.projection = items.into_iter().flat_map(|item| column.resolve_item(item)).collect();
        let _ = select.having.visit(&mut column);
        let _ = select.qualify.visit(&mut column);
        if let Some(order_by) = order_by.as_deref_mut() {
            let _ = order_by.visit(&mut column);
        }
    }
    Ok(())
}

/// The column that one grouping makes.
struct WindowColumn<'a> {
    name: &'a str,
    call: &'a Expr,
    /// How many calls of the function, and queries of their own, the walk is in: names there are not this column.
    inside: usize,
}

impl VisitorMut for WindowColumn<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.inside -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.inside += usize::from(is_call(expr, self.name));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if is_call(expr, self.name) {
            self.inside -= 1;
        } else if self.inside == 0
            && let Some(meaning) = self.meaning(expr)
        {
            *expr = meaning;
        }
        ControlFlow::Continue(())
    }
}

impl WindowColumn<'_> {
    /// Resolves an item of SELECT; one without an alias keeps the name that Spark gives it.
    fn resolve_item(&mut self, mut item: SelectItem) -> Vec<SelectItem> {
        match item {
            SelectItem::UnnamedExpr(mut expr) => {
                let alias = self.alias(&expr);
                let _ = expr.visit(self);
                vec![match alias {
                    Some(alias) => SelectItem::ExprWithAlias { expr, alias },
                    None => SelectItem::UnnamedExpr(expr),
                }]
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(ref name), _)
                if self.is_column_name(name) =>
            {
                ["start", "end"]
                    .map(|field| SelectItem::ExprWithAlias { expr: get_field(self.call, field), alias: quoted(field) })
                    .into()
            }
            _ => {
                let _ = item.visit(self);
                vec![item]
            }
        }
    }

    /// Returns what an expression that names the column, or a field of it, stands for.
    fn meaning(&self, expr: &Expr) -> Option<Expr> {
        match expr {
            Expr::Identifier(ident) => self.is_column(ident).then(|| self.call.clone()),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [column, field] if self.is_column(column) => Some(get_field(self.call, field_name(field)?)),
                _ => None,
            },
            Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
                [AccessExpr::Dot(Expr::Identifier(field))] if is_call(root, self.name) => {
                    Some(get_field(root, field_name(field)?))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the name that an item of SELECT without an alias gets.
    fn alias(&self, expr: &Expr) -> Option<Ident> {
        match expr {
            Expr::Identifier(ident) => self.is_column(ident).then(|| Ident::new(self.name)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [column, field] if self.is_column(column) => field_name(field).map(quoted),
                _ => None,
            },
            Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
                [AccessExpr::Dot(Expr::Identifier(field))] if is_call(root, self.name) => field_name(field).map(quoted),
                _ => None,
            },
            call => is_call(call, self.name).then(|| Ident::new(self.name)),
        }
    }

    fn is_column(&self, ident: &Ident) -> bool {
        match ident.quote_style {
            Some(_) => ident.value == self.name,
            None => ident.value.eq_ignore_ascii_case(self.name),
        }
    }

    fn is_column_name(&self, name: &ObjectName) -> bool {
        matches!(name.0.as_slice(), [part] if part.as_ident().is_some_and(|ident| self.is_column(ident)))
    }
}

/// Returns whether an expression calls the function `name`.
fn is_call(expr: &Expr, name: &str) -> bool {
    let Expr::Function(function) = expr else {
        return false;
    };
    let [part] = function.name.0.as_slice() else {
        return false;
    };
    function.over.is_none() && part.as_ident().is_some_and(|ident| ident.value.eq_ignore_ascii_case(name))
}

/// Returns which field of a window an identifier names.
fn field_name(ident: &Ident) -> Option<&'static str> {
    ["start", "end"].into_iter().find(|field| ident.value.eq_ignore_ascii_case(field))
}

/// END is a word of SQL: as an alias it stands in quotes.
fn quoted(field: &str) -> Ident {
    if field == "end" { Ident::with_quote('"', field) } else { Ident::new(field) }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::script::DIALECT;
    use super::*;

    fn resolved(sql: &str) -> String {
        let mut query = Parser::new(&DIALECT).try_with_sql(sql).unwrap().parse_query().unwrap();
        resolve_window_columns(&mut query);
        query.to_string()
    }

    /// `W` stands for the call, `S` and `E` for its fields.
    fn written(sql: &str) -> String {
        sql.replace("$S", "get_field($W, 'start')")
            .replace("$E", "get_field($W, 'end')")
            .replace("$W", "window(ts, '10 seconds')")
    }

    #[test]
    fn mentions_of_the_column_become_the_call() {
        for (select, expected) in [
            ("window, k, count(*) AS n FROM t", "$W AS window, k, count(*) AS n FROM t"),
            ("WINDOW.START AS s, `window`.end AS e FROM t", "$S AS s, $E AS e FROM t"),
            ("window.start, window.end, $W FROM t", "$S AS start, $E AS \"end\", $W AS window FROM t"),
            ("window.* FROM t", "$S AS start, $E AS \"end\" FROM t"),
            ("$W.start FROM t", "$S AS start FROM t"),
            ("window_time(window) AS wt FROM t", "window_time($W) AS wt FROM t"),
            ("max(v) + 1, t.window FROM t", "max(v) + 1, t.window FROM t"),
            ("(SELECT max(window) FROM u) AS m FROM t", "(SELECT max(window) FROM u) AS m FROM t"),
        ] {
            let sql = written(&format!("SELECT {select} GROUP BY $W, k"));
            assert_eq!(resolved(&sql), written(&format!("SELECT {expected} GROUP BY $W, k")), "{sql}");
        }
    }

    #[test]
    fn having_and_order_by_name_the_column_too() {
        let sql = written("SELECT k FROM t GROUP BY $W, k HAVING window.start > x ORDER BY window.end, window");
        let expected = written("SELECT k FROM t GROUP BY $W, k HAVING $S > x ORDER BY $E, $W");
        assert_eq!(resolved(&sql), expected);
    }

    #[test]
    fn every_query_has_its_own_column() {
        let sql = "WITH c AS (SELECT window FROM t GROUP BY window(ts, '1 hour')) SELECT window FROM c \
                   UNION ALL SELECT session_window.start FROM s GROUP BY session_window(ts, '5 seconds') ORDER BY window";
        let expected = "WITH c AS (SELECT window(ts, '1 hour') AS window FROM t GROUP BY window(ts, '1 hour')) \
                        SELECT window FROM c UNION ALL \
                        SELECT get_field(session_window(ts, '5 seconds'), 'start') AS start FROM s \
                        GROUP BY session_window(ts, '5 seconds') ORDER BY window";
        assert_eq!(resolved(sql), expected);
        let chained = "SELECT window.start, sum(n) FROM (SELECT window, count(*) AS n FROM t \
                       GROUP BY window(ts, '10 seconds')) GROUP BY window(window, '30 seconds')";
        let expected = "SELECT get_field(window(window, '30 seconds'), 'start') AS start, sum(n) FROM \
                        (SELECT window(ts, '10 seconds') AS window, count(*) AS n FROM t \
                        GROUP BY window(ts, '10 seconds')) GROUP BY window(window, '30 seconds')";
        assert_eq!(resolved(chained), expected);
    }

    #[test]
    fn without_a_call_in_group_by_nothing_changes() {
        for sql in [
            "SELECT window FROM t",
            "SELECT window, count(*) FROM t GROUP BY window",
            "SELECT window(ts, '10 seconds') AS w, k, count(*) AS n FROM s GROUP BY 1, 2",
            "SELECT window(ts, '10 seconds') AS w FROM s GROUP BY w ORDER BY w",
        ] {
            assert_eq!(resolved(sql), sql);
        }
    }
}
