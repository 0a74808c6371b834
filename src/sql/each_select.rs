//! The walk over every SELECT of a query: of the query itself, of set operations, and of queries within it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{OrderBy, Query, Select, SetExpr, VisitMut, VisitorMut};

/// What is done to a SELECT. The ORDER BY is there where the query is that one SELECT.
pub(super) type OnSelect<E> = fn(&mut Select, Option<&mut OrderBy>) -> Result<(), E>;

/// Does `on_select` to every SELECT, those within others first.
///
/// # Errors
/// The first error of `on_select`.
pub(super) fn each_select<E>(query: &mut Query, on_select: OnSelect<E>) -> Result<(), E> {
    match query.visit(&mut Queries(on_select)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Queries<E>(OnSelect<E>);

impl<E> VisitorMut for Queries<E> {
    type Break = Box<E>;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match in_body(&mut query.body, query.order_by.as_mut(), self.0) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn in_body<E>(body: &mut SetExpr, order_by: Option<&mut OrderBy>, on_select: OnSelect<E>) -> Result<(), E> {
    match body {
        SetExpr::Select(select) => on_select(select, order_by),
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, None, on_select)?;
            in_body(right, None, on_select)
        }
        _ => Ok(()),
    }
}
