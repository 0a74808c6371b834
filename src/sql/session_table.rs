//! Flink's `SESSION` table function: `SELECT … FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), gap) GROUP BY
//! window_start, window_end, k`.
//!
//! Which session a row is in is known only when the next rows are, so there is no row to put a window beside. But a
//! grouping by the windows and the keys is a grouping by `session_window(ts, gap)` and the keys: it becomes that before
//! planning, with `window_start`, `window_end` and `window_time` for its parts. Any other use stays as it is, for the
//! planner of relations to refuse.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, OrderBy, Query, Select, SelectItem, TableAlias, TableFactor, Value, VisitMut, VisitorMut,
};

use super::call::{TableCall, call, call_of, described, get_field};
use super::each_select::each_select;
use super::words::normal;
use crate::error::{Error, Result};

/// The call that holds the columns of PARTITION BY: what the tokens' rewrite makes an argument of SESSION.
pub(super) const PARTITION: &str = "__millstream_partition";

/// The columns of the table function that are a window's parts.
const WINDOW_PARTS: &[&str] = &["window_start", "window_end", "window_time"];

/// Rewrites groupings of SESSION tables, in `query` and every query within it.
///
/// # Errors
/// `InvalidQuery` or `Unsupported` where the grouping is not that of the sessions; the message says what would do.
pub fn resolve_session_tables(query: &mut Query) -> Result<()> {
    each_select(query, resolve_select)
}

fn resolve_select(select: &mut Select, order_by: Option<&mut OrderBy>) -> Result<()> {
    let Some(table) = SessionTable::of(select)? else {
        return Ok(());
    };
    let GroupByExpr::Expressions(keys, _) = &mut select.group_by else {
        return Ok(());
    };
    let Some(grouped) = table.grouped(keys, &select.projection)? else {
        return Ok(());
    };
    if select.selection.is_some() {
        return Err(Error::unsupported(
            "WHERE over SESSION(…) is not supported: rows must be chosen before they are put into sessions, so write \
             SESSION((SELECT … WHERE …), …)",
        ));
    }
    *keys = grouped;
    let mut parts = WindowParts { table: &table, inside: 0 };
    for item in &mut select.projection {
        parts.resolve_item(item);
    }
    // nothing breaks these walks off
    let _ = select.having.visit(&mut parts);
    let _ = select.qualify.visit(&mut parts);
    if let Some(order_by) = order_by {
        let _ = order_by.visit(&mut parts);
    }
    if let [from] = select.from.as_mut_slice() {
        from.relation = table.rows();
    }
    Ok(())
}

/// A call of SESSION that is all of a FROM clause.
struct SessionTable {
    /// The table, as a sub-query.
    data: Box<Query>,
    alias: Option<TableAlias>,
    /// The names of the columns of PARTITION BY.
    keys: BTreeSet<String>,
    /// The call of `session_window()`.
    window: Expr,
}

impl SessionTable {
    fn of(select: &Select) -> Result<Option<Self>> {
        let [from] = select.from.as_slice() else {
            return Ok(None);
        };
        let Some(table) = TableCall::of(&from.relation).filter(|c| c.name == "session" && from.joins.is_empty()) else {
            return Ok(None);
        };
        let wrong =
            || Error::invalid_query("SESSION is called as SESSION(TABLE table PARTITION BY column, …, time, gap)");
        let mut args = table.exprs().ok_or_else(wrong)?;
        let parted = args.get(1).and_then(|arg| call_of(arg, PARTITION));
        if parted.is_some() {
            args.remove(1);
        }
        let keys: Option<BTreeSet<String>> = parted.unwrap_or_default().iter().map(column_name).collect();
        let (Some(keys), [Expr::Subquery(data), time, gap]) = (keys, args.as_slice()) else {
            return Err(wrong());
        };
        let mut arguments = described(time);
        arguments.push(gap.clone());
        Ok(Some(Self { data: data.clone(), alias: table.alias, keys, window: call("session_window", arguments) }))
    }

    /// Returns the keys of GROUP BY with the window's parts as one, or nothing where none of them is among the keys.
    fn grouped(&self, keys: &[Expr], items: &[SelectItem]) -> Result<Option<Vec<Expr>>> {
        let mut grouped = Vec::with_capacity(keys.len());
        let mut names = BTreeSet::new();
        for key in keys {
            let known = self.part(key).is_some() || column_name(key).is_some_and(|name| self.keys.contains(&name));
            let meaning = if known { key } else { meaning_of(key, items) };
            if self.part(meaning).is_none() {
                names.insert(column_name(meaning).ok_or_else(|| self.other_groups(&meaning.to_string()))?);
                grouped.push(key.clone());
            } else if !grouped.contains(&self.window) {
                grouped.push(self.window.clone());
            }
        }
        if !grouped.contains(&self.window) {
            return Ok(None);
        }
        match names.symmetric_difference(&self.keys).next() {
            Some(name) => Err(self.other_groups(name)),
            None => Ok(Some(grouped)),
        }
    }

    fn other_groups(&self, name: &str) -> Error {
        let keys = self.keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let parted = if keys.is_empty() { "has no PARTITION BY".to_string() } else { format!("parts by {keys}") };
        Error::unsupported(format!(
            "SESSION(…) {parted}, and its GROUP BY must name the same columns beside window_start and window_end; \
             {name} is in one of them only"
        ))
    }

    /// Returns which part of the window an expression names.
    fn part(&self, expr: &Expr) -> Option<&'static str> {
        let ident = match expr {
            Expr::Identifier(ident) => ident,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] if self.alias.as_ref().is_some_and(|a| normal(&a.name) == normal(table)) => column,
                _ => return None,
            },
            _ => return None,
        };
        WINDOW_PARTS.iter().find(|part| **part == normal(ident)).copied()
    }

    /// Returns what a part of the window is of `session_window()`.
    fn meaning(&self, part: &str) -> Expr {
        match part {
            "window_start" => get_field(&self.window, "start"),
            "window_end" => get_field(&self.window, "end"),
            _ => call("window_time", vec![self.window.clone()]),
        }
    }

    /// The table alone, under the alias of the call.
    fn rows(self) -> TableFactor {
        TableFactor::Derived { lateral: false, subquery: self.data, alias: self.alias, sample: None }
    }
}

/// GROUP BY may name an item of SELECT by its place or its alias.
fn meaning_of<'a>(key: &'a Expr, items: &'a [SelectItem]) -> &'a Expr {
    let item = match key {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.parse::<usize>().ok().and_then(|place| items.get(place.checked_sub(1)?)),
            _ => None,
        },
        Expr::Identifier(name) => items.iter().find(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => normal(alias) == normal(name),
            _ => false,
        }),
        _ => None,
    };
    match item {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => expr,
        _ => key,
    }
}

/// Returns the name of a column, without its table's.
fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(normal(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(normal),
        _ => None,
    }
}

/// Puts the window's parts in the place of their names.
struct WindowParts<'a> {
    table: &'a SessionTable,
    /// How many queries of their own the walk is in: names there are other columns.
    inside: usize,
}

impl WindowParts<'_> {
    /// Resolves an item of SELECT; a part without an alias keeps its name.
    fn resolve_item(&mut self, item: &mut SelectItem) {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some(part) = self.table.part(expr)
        {
            *item = SelectItem::ExprWithAlias { expr: self.table.meaning(part), alias: Ident::new(part) };
            return;
        }
        let _ = item.visit(self);
    }
}

impl VisitorMut for WindowParts<'_> {
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
        if self.inside == 0
            && let Some(part) = self.table.part(expr)
        {
            *expr = self.table.meaning(part);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::super::relation_tokens::rewrite_relations;
    use super::super::script::{DIALECT, Piece};
    use super::*;

    fn resolved(sql: &str) -> Result<String> {
        let tokens = rewrite_relations(Piece::new(sql).tokens().unwrap()).unwrap();
        let mut query = Parser::new(&DIALECT).with_tokens_with_locations(tokens).parse_query().unwrap();
        resolve_session_tables(&mut query).map(|()| query.to_string())
    }

    #[test]
    fn a_grouping_of_sessions_is_a_grouping_by_their_window() {
        let window = "session_window(ts, INTERVAL '5 seconds')";
        let from = "TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '5' SECOND))";
        for (sql, expected) in [
            (
                format!(
                    "SELECT window_start, window_end, k, count(*) AS n FROM {from} GROUP BY window_start, window_end, k"
                ),
                format!(
                    "SELECT get_field({window}, 'start') AS window_start, get_field({window}, 'end') AS window_end, k, \
                     count(*) AS n FROM (SELECT * FROM t) GROUP BY {window}, k"
                ),
            ),
            (
                format!(
                    "SELECT s.k, s.window_time AS wt, sum(v) FROM {from} AS s GROUP BY 1, s.window_time, s.window_end \
                     HAVING window_end > x ORDER BY s.window_start"
                ),
                format!(
                    "SELECT s.k, window_time({window}) AS wt, sum(v) FROM (SELECT * FROM t) AS s GROUP BY 1, {window} \
                     HAVING get_field({window}, 'end') > x ORDER BY get_field({window}, 'start')"
                ),
            ),
            (
                "SELECT window_start AS a FROM SESSION(t, ts, INTERVAL 5 SECONDS) GROUP BY a, window_end".to_string(),
                format!("SELECT get_field({window}, 'start') AS a FROM (SELECT * FROM t) GROUP BY {window}"),
            ),
        ] {
            assert_eq!(resolved(&sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn other_groupings_are_refused() {
        let from = "SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '5' SECOND)";
        for (rest, part) in [
            ("GROUP BY window_start, window_end", "parts by k"),
            ("GROUP BY window_start, window_end, k, j", "j is in one of them only"),
            ("GROUP BY window_start, upper(k)", "upper(k) is in one of them only"),
            ("WHERE v > 1 GROUP BY window_start, window_end, k", "write SESSION((SELECT … WHERE …), …)"),
        ] {
            let error = resolved(&format!("SELECT count(*) FROM {from} {rest}")).unwrap_err().to_string();
            assert!(error.contains(part), "{rest}: {error}");
        }
    }

    #[test]
    fn what_is_no_grouping_of_sessions_stays() {
        for sql in [
            "SELECT window_start FROM t GROUP BY window_start",
            "SELECT * FROM SESSION((SELECT * FROM t), ts, INTERVAL '5 seconds')",
            "SELECT k FROM SESSION((SELECT * FROM t), ts, INTERVAL '5 seconds') GROUP BY k",
        ] {
            assert_eq!(resolved(sql).unwrap(), sql);
        }
    }
}
