//! `now()`, `current_timestamp`, `current_date` in a stream: the time of the batch, not of the planning.
//!
//! The offset log keeps each batch's time, so a batch that runs again sees the same `now()`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The time of the batch that runs now, shared by a query and its expressions.
#[derive(Debug, Clone, Default)]
pub struct BatchTime(Arc<AtomicI64>);

impl BatchTime {
    /// Sets the time, in milliseconds since the epoch.
    pub fn set_ms(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct BatchTimestamp {
    time: BatchTime,
    signature: Signature,
}

impl PartialEq for BatchTimestamp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.time.0, &other.time.0)
    }
}

impl Eq for BatchTimestamp {}

impl Hash for BatchTimestamp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.time.0).hash(state);
    }
}

impl ScalarUDFImpl for BatchTimestamp {
    fn name(&self) -> &str {
        "batch_timestamp"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    fn is_nullable(&self, _: &[Expr], _: &dyn datafusion::common::ExprSchema) -> bool {
        true
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let now_us = self.time.0.load(Ordering::SeqCst) * 1000;
        Ok(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(now_us), None)))
    }
}

/// Puts the batch's time in place of every `now()` and its like, as values of the same type.
///
/// # Errors
/// As DataFusion's tree rewriting.
pub fn freeze_per_batch(plan: LogicalPlan, time: &BatchTime) -> PlanResult<LogicalPlan> {
    // Volatile, so that planning does not fold it into the time of planning.
    let udf = BatchTimestamp { time: time.clone(), signature: Signature::exact(vec![], Volatility::Volatile) };
    let udf = Arc::new(ScalarUDF::from(udf));
    plan.transform_up_with_subqueries(|node| {
        let schema = datafusion::logical_expr::utils::merge_schema(&node.inputs());
        let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = expr.transform_up(|e| match &e {
                Expr::ScalarFunction(call) if is_clock(call.func.name()) && call.args.is_empty() => {
                    let wanted = e.get_type(&schema)?;
                    let now = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&udf), vec![]));
                    Ok(Transformed::yes(now.cast_to(&wanted, &schema)?))
                }
                _ => Ok(Transformed::no(e)),
            })?;
            Ok(replaced.update_data(|e| name.restore(e)))
        })
    })
    .map(|t| t.data)
}

fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "now" | "current_timestamp" | "current_date" | "today" | "curdate" | "current_time" | "localtimestamp"
    )
}
