//! `max_by(value, ordering)` and `min_by(value, ordering)`: the value of the row whose ordering is the greatest or the
//! least.
//!
//! Rows whose ordering is NULL do not count. Of rows with equal orderings the first that arrived wins, so the same rows
//! in the same order give the same answer however they were cut into batches.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, make_comparator};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// Returns `max_by`.
pub(super) fn max_by() -> AggregateUDF {
    AggregateUDF::from(ExtremeBy::new("max_by", true))
}

/// Returns `min_by`.
pub(super) fn min_by() -> AggregateUDF {
    AggregateUDF::from(ExtremeBy::new("min_by", false))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExtremeBy {
    name: &'static str,
    greatest: bool,
    signature: Signature,
}

impl ExtremeBy {
    fn new(name: &'static str, greatest: bool) -> Self {
        Self { name, greatest, signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ExtremeBy {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |i: usize, part: &str| {
            Arc::new(Field::new(format_state_name(args.name, part), args.input_fields[i].data_type().clone(), true))
        };
        Ok(vec![field(0, "value"), field(1, "ordering")])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Winner {
            greatest: self.greatest,
            value: ScalarValue::try_new_null(args.expr_fields[0].data_type())?,
            ordering: ScalarValue::try_new_null(args.expr_fields[1].data_type())?,
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The row that leads; there is none yet where its ordering is NULL.
#[derive(Debug)]
struct Winner {
    greatest: bool,
    value: ScalarValue,
    ordering: ScalarValue,
}

impl Winner {
    /// Lets each row of (values, orderings) challenge the one that leads.
    fn challenge(&mut self, values: &ArrayRef, orderings: &ArrayRef) -> Result<()> {
        let compare = make_comparator(orderings, orderings, SortOptions::default())?;
        let beats = |ordering: std::cmp::Ordering| {
            if self.greatest { ordering.is_gt() } else { ordering.is_lt() }
        };
        let nulls = orderings.logical_nulls();
        let mut best = None;
        for row in 0..orderings.len() {
            let counts = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
            if counts && best.is_none_or(|best| beats(compare(row, best))) {
                best = Some(row);
            }
        }
        let Some(best) = best else { return Ok(()) };
        let ordering = ScalarValue::try_from_array(orderings, best)?;
        if self.ordering.is_null() || beats(ordering.try_cmp(&self.ordering)?) {
            self.value = ScalarValue::try_from_array(values, best)?;
            self.ordering = ordering;
            // a slice of a batch would keep the batch alive
            self.value.compact();
            self.ordering.compact();
        }
        Ok(())
    }
}

impl Accumulator for Winner {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.challenge(&values[0], &values[1])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        let scalars = [&self.value, &self.ordering];
        size_of_val(self) + scalars.iter().map(|scalar| scalar.size() - size_of_val(*scalar)).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), self.ordering.clone()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.challenge(&states[0], &states[1])
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringArray};

    use super::super::tests::{aggregate, aggregated};
    use super::*;

    #[test]
    fn the_first_of_equals_wins() {
        let types = [DataType::Utf8, DataType::Int64];
        let table = [
            (vec![Some("a"), Some("b"), Some("c")], vec![Some(1_i64), Some(3), Some(3)], "b", "a"),
            (vec![Some("a"), Some("b"), Some("c")], vec![Some(1), None, Some(1)], "a", "a"),
            (vec![Some("a"), None, Some("c")], vec![Some(2), Some(3), Some(1)], "NULL", "c"),
            (vec![Some("a"), Some("b")], vec![None, None], "NULL", "NULL"),
        ];
        for (values, orderings, greatest, least) in table {
            let args: [ArrayRef; 2] = [Arc::new(StringArray::from(values)), Arc::new(Int64Array::from(orderings))];
            assert_eq!(aggregated(&aggregate(max_by(), &types, &[]), &args), greatest, "{args:?}");
            assert_eq!(aggregated(&aggregate(min_by(), &types, &[]), &args), least, "{args:?}");
        }
    }
}
