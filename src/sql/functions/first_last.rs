//! `first(value[, ignore_nulls])`, `last(value[, ignore_nulls])` and `any_value`, which is `first`.
//!
//! First and last are meant in the order in which rows, and then states, arrive; the operator that merges states keeps
//! that order. `first_value(… ORDER BY …)` of DataFusion stays for orders of another kind.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, TypeSignature, Volatility};

use super::constant::constant;
use crate::error::Error;

/// Returns `first`.
pub(super) fn first() -> AggregateUDF {
    AggregateUDF::from(FirstLast::new("first", false))
}

/// Returns `last`.
pub(super) fn last() -> AggregateUDF {
    AggregateUDF::from(FirstLast::new("last", true))
}

/// Returns `any_value`.
pub(super) fn any_value() -> AggregateUDF {
    AggregateUDF::from(FirstLast::new("any_value", false))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstLast {
    name: &'static str,
    last: bool,
    signature: Signature,
}

impl FirstLast {
    fn new(name: &'static str, last: bool) -> Self {
        let arguments = vec![TypeSignature::Any(1), TypeSignature::Any(2)];
        Self { name, last, signature: Signature::one_of(arguments, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for FirstLast {
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
        Ok(vec![
            Arc::new(Field::new(format_state_name(args.name, "value"), args.return_type().clone(), true)),
            Arc::new(Field::new(format_state_name(args.name, "is_set"), DataType::Boolean, true)),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if !args.order_bys.is_empty() {
            let message = format!(
                "{name} goes by arrival and takes no ORDER BY; use {name}_value(… ORDER BY …), max_by or min_by",
                name = if self.last { "last" } else { "first" }
            );
            return Err(Error::invalid_query(message).into());
        }
        let ignore_nulls = match args.exprs.get(1) {
            None => false,
            Some(expression) => match constant(expression, &format!("the second argument of {}", self.name))? {
                ScalarValue::Boolean(Some(ignore_nulls)) => ignore_nulls,
                other => {
                    let message = format!("the second argument of {} is true or false, not {other}", self.name);
                    return Err(Error::invalid_query(message).into());
                }
            },
        };
        Ok(Box::new(Kept {
            last: self.last,
            ignore_nulls: ignore_nulls || args.ignore_nulls,
            value: ScalarValue::try_new_null(args.return_field.data_type())?,
            is_set: false,
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn supports_null_handling_clause(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Kept {
    last: bool,
    ignore_nulls: bool,
    value: ScalarValue,
    is_set: bool,
}

impl Kept {
    /// Takes over the first or last of the rows of `values` that count.
    fn take(&mut self, values: &ArrayRef, counts: impl Fn(usize) -> bool) -> Result<()> {
        if self.is_set && !self.last {
            return Ok(());
        }
        let mut rows = 0..values.len();
        let row = if self.last { rows.rfind(|row| counts(*row)) } else { rows.find(|row| counts(*row)) };
        if let Some(row) = row {
            self.value = ScalarValue::try_from_array(values, row)?;
            // a slice of a batch would keep the batch alive
            self.value.compact();
            self.is_set = true;
        }
        Ok(())
    }
}

impl Accumulator for Kept {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let nulls = if self.ignore_nulls { values[0].logical_nulls() } else { None };
        self.take(&values[0], |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of_val(self) - size_of_val(&self.value) + self.value.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value.clone(), ScalarValue::Boolean(Some(self.is_set))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let is_set = states[1].as_boolean();
        self.take(&states[0], |row| is_set.is_valid(row) && is_set.value(row))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{BooleanArray, Int32Array};

    use super::super::tests::{aggregate, aggregated};
    use super::*;

    #[test]
    fn nulls_count_unless_they_are_ignored() {
        let values: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(1), Some(2), None]));
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true; 4]));
        let ignore = [ScalarValue::Boolean(Some(true))];
        let table = [(first(), "NULL", "1"), (last(), "NULL", "2"), (any_value(), "NULL", "1")];
        for (function, plain, ignoring) in table {
            let respects = aggregate(function.clone(), &[DataType::Int32], &[]);
            assert_eq!(aggregated(&respects, &[Arc::clone(&values)]), plain, "{function}");
            let ignores = aggregate(function.clone(), &[DataType::Int32], &ignore);
            assert_eq!(aggregated(&ignores, &[Arc::clone(&values), Arc::clone(&flags)]), ignoring, "{function}");
        }
        let nothing: ArrayRef = Arc::new(Int32Array::from(vec![None::<i32>]));
        let ignores = aggregate(first(), &[DataType::Int32], &ignore);
        assert_eq!(aggregated(&ignores, &[nothing, flags.slice(0, 1)]), "NULL");
    }
}
