//! A function of the application's own with state, as a part of a plan.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr_rewriter::normalize_cols;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use super::nodes::{StatefulKind, StatefulNode};
use super::stream_table::is_streaming;
use crate::error::{Error, Result};
use crate::operator::event_time::EventTime;
use crate::operator::user_state::{DeclaredTransform, TransformWithState, UserProcessor};

/// What a plan knows of a function with state.
#[derive(Clone)]
pub struct UserState {
    /// Its name, for EXPLAIN and fingerprints.
    pub name: String,
    /// The function.
    pub processor: Arc<dyn UserProcessor>,
    /// Which output column is an event time for what comes after.
    pub event_time: Option<usize>,
    /// The input's event time, by which rows are late.
    pub late: Option<(Column, EventTime)>,
}

impl fmt::Debug for UserState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserState").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for UserState {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.processor, &other.processor) && self.late == other.late
    }
}

impl Eq for UserState {}

impl Hash for UserState {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, &self.late).hash(state);
    }
}

/// Puts a function with state over `input`, run for each of `keys`.
///
/// # Errors
/// `Unsupported` where `input` is no stream; `InvalidQuery` without keys or where one is no expression over `input`; as
/// [`TransformWithState::declare`].
pub fn transform_with_state(input: LogicalPlan, keys: Vec<Expr>, transform: TransformWithState) -> Result<LogicalPlan> {
    let method = transform.method_name();
    if !is_streaming(&input) {
        return Err(Error::unsupported(format!(
            "{method} needs a stream: what is not one has no batches between which to remember; read it with read_stream(), or \
             group it as a batch"
        )));
    }
    if keys.is_empty() {
        return Err(Error::invalid_query(format!("{method} needs a key: state belongs to one")));
    }
    let exprs = normalize_cols(keys, &input)?;
    let field = |key: &Expr| Ok(key.to_field(input.schema())?.1);
    let fields: Vec<FieldRef> = exprs.iter().map(field).collect::<Result<_>>()?;
    let DeclaredTransform { name, processor, output, event_time } = transform.declare(&fields)?;
    let schema = Arc::new(DFSchema::try_from(output)?);
    let kind = StatefulKind::User(UserState { name, processor, event_time, late: None });
    Ok(StatefulNode { operator: None, kind, inputs: vec![input], exprs, schema }.into_plan())
}
