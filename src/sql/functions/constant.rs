//! Reads an argument of an aggregate that must be the same for every row, such as the `true` of `first(x, true)`.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

use crate::error::Error;

/// Returns the value of `expression`, which `what` names in the error.
///
/// # Errors
/// `InvalidQuery` where the expression depends on a row.
pub(super) fn constant(expression: &Arc<dyn PhysicalExpr>, what: &str) -> Result<ScalarValue> {
    let no_rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
    match expression.evaluate(&no_rows) {
        Ok(ColumnarValue::Scalar(value)) => Ok(value),
        _ => Err(Error::invalid_query(format!("{what} must be a constant, not {expression}")).into()),
    }
}
