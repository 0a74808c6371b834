//! The walk over every SELECT of a query: of the query itself, of set operations, and of queries within it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{OrderBy, Query, Select, SetExpr, VisitMut, VisitorMut};

use crate::error::{Error, Result};

/// What is done to a SELECT. The ORDER BY is there where the query is that one SELECT.
pub(super) type OnSelect = fn(&mut Select, Option<&mut OrderBy>) -> Result<()>;

/// Does `on_select` to every SELECT, those within others first.
///
/// # Errors
/// The first error of `on_select`.
pub(super) fn each_select(query: &mut Query, on_select: OnSelect) -> Result<()> {
    match query.visit(&mut Queries(on_select)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Queries(OnSelect);

impl VisitorMut for Queries {
    type Break = Box<Error>;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match in_body(&mut query.body, query.order_by.as_mut(), self.0) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn in_body(body: &mut SetExpr, order_by: Option<&mut OrderBy>, on_select: OnSelect) -> Result<()> {
    match body {
        SetExpr::Select(select) => on_select(select, order_by),
        SetExpr::SetOperation { left, right, .. } => {
            in_body(left, None, on_select)?;
            in_body(right, None, on_select)
        }
        _ => Ok(()),
    }
}
