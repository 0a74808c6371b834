//! `percentile_approx(value, share[, accuracy])`, also `approx_percentile`: a value of the column, not one between two.
//!
//! The share is a number from 0 to 1, or an array of such, which gives an array. The result has the type of the column.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::constant::constant;
use super::function::{is_text, list_of};
use super::quantile_summary::QuantileSummary;
use crate::error::Error;

const NAME: &str = "percentile_approx";
const DEFAULT_ACCURACY: i64 = 10_000;

/// Returns `percentile_approx`.
pub(super) fn function() -> AggregateUDF {
    AggregateUDF::from(PercentileApprox {
        signature: Signature::user_defined(Volatility::Immutable),
        aliases: vec!["approx_percentile".to_string()],
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PercentileApprox {
    signature: Signature,
    aliases: Vec<String>,
}

impl AggregateUDFImpl for PercentileApprox {
    fn name(&self) -> &str {
        NAME
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=3).contains(&arg_types.len()) {
            return Err(Error::invalid_query(format!("write {NAME}(value, share[, accuracy])")).into());
        }
        let value = match &arg_types[0] {
            t if t.is_numeric() || matches!(t, DataType::Date32 | DataType::Timestamp(_, _)) => t.clone(),
            t if t.is_null() || is_text(t) => DataType::Float64,
            other => {
                let message = format!("{NAME} takes numbers, dates and timestamps, not {other}");
                return Err(Error::invalid_query(message).into());
            }
        };
        let share = match &arg_types[1] {
            DataType::List(_) => list_of(DataType::Float64),
            _ => DataType::Float64,
        };
        Ok([value, share, DataType::Int64].into_iter().take(arg_types.len()).collect())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match arg_types.get(1) {
            Some(DataType::List(_)) => list_of(arg_types[0].clone()),
            _ => arg_types[0].clone(),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list =
            |part: &str, element| Arc::new(Field::new(format_state_name(args.name, part), list_of(element), true));
        Ok(vec![list("values", DataType::Float64), list("weights", DataType::Int64), list("slacks", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let [_, share, ..] = args.exprs else {
            return Err(Error::invalid_query(format!("write {NAME}(value, share[, accuracy])")).into());
        };
        let (shares, many) = shares(&constant(share, "the share of percentile_approx")?)?;
        let accuracy = match args.exprs.get(2) {
            None => DEFAULT_ACCURACY,
            Some(accuracy) => {
                match constant(accuracy, "the accuracy of percentile_approx")?.cast_to(&DataType::Int64)? {
                    ScalarValue::Int64(Some(accuracy)) if accuracy > 0 => accuracy,
                    other => {
                        let message = format!("the accuracy of {NAME} is a whole number above zero, not {other}");
                        return Err(Error::invalid_query(message).into());
                    }
                }
            }
        };
        let relative_error = 1.0 / accuracy as f64;
        Ok(Box::new(Percentiles {
            value_type: args.expr_fields[0].data_type().clone(),
            shares,
            many,
            relative_error,
            summary: QuantileSummary::new(relative_error),
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// Returns the shares that are asked for, and whether an array of them was given.
fn shares(given: &ScalarValue) -> Result<(Vec<f64>, bool)> {
    let (array, many) = match given {
        ScalarValue::List(list) if list.len() == 1 && list.is_valid(0) => (list.value(0), true),
        other => (other.to_array()?, false),
    };
    let array = cast(&array, &DataType::Float64)?;
    let shares: Option<Vec<f64>> = array.as_primitive::<Float64Type>().iter().collect();
    match shares {
        Some(shares) if shares.iter().all(|share| (0.0..=1.0).contains(share)) => Ok((shares, many)),
        _ => Err(Error::invalid_query(format!("a share of {NAME} lies between 0 and 1; {given} does not")).into()),
    }
}

/// The type whose numbers stand for values of `value_type`, where those are no numbers.
fn number_type(value_type: &DataType) -> Option<DataType> {
    match value_type {
        DataType::Date32 => Some(DataType::Int32),
        DataType::Timestamp(_, _) => Some(DataType::Int64),
        _ => None,
    }
}

#[derive(Debug)]
struct Percentiles {
    value_type: DataType,
    shares: Vec<f64>,
    many: bool,
    relative_error: f64,
    summary: QuantileSummary,
}

impl Percentiles {
    fn value(&self, number: f64) -> Result<ScalarValue> {
        let number = ScalarValue::Float64(Some(number));
        match number_type(&self.value_type) {
            Some(number_type) => number.cast_to(&number_type)?.cast_to(&self.value_type),
            None => number.cast_to(&self.value_type),
        }
    }
}

impl Accumulator for Percentiles {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = match number_type(&self.value_type) {
            Some(number_type) => cast(&values[0], &number_type)?,
            None => Arc::clone(&values[0]),
        };
        let numbers = cast(&numbers, &DataType::Float64)?;
        numbers.as_primitive::<Float64Type>().iter().flatten().for_each(|number| self.summary.insert(number));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut found = Vec::with_capacity(self.shares.len());
        for i in 0..self.shares.len() {
            match self.summary.quantile(self.shares[i]) {
                Some(number) => found.push(self.value(number)?),
                None if self.many => {
                    return ScalarValue::try_new_null(&list_of(self.value_type.clone()));
                }
                None => return ScalarValue::try_new_null(&self.value_type),
            }
        }
        match found.pop() {
            Some(only) if !self.many => Ok(only),
            last => {
                found.extend(last);
                Ok(ScalarValue::List(ScalarValue::new_list_nullable(&found, &self.value_type)))
            }
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.shares.capacity() * size_of::<f64>() + self.summary.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let parts = self.summary.parts();
        Ok(vec![
            one_list(Arc::new(Float64Array::from(parts.values)))?,
            one_list(Arc::new(Int64Array::from(parts.weights)))?,
            one_list(Arc::new(Int64Array::from(parts.slacks)))?,
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, weights, slacks) =
            (states[0].as_list::<i32>(), states[1].as_list::<i32>(), states[2].as_list::<i32>());
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let (values, weights, slacks) = (values.value(row), weights.value(row), slacks.value(row));
            self.summary.merge(QuantileSummary::from_parts(
                self.relative_error,
                values.as_primitive::<Float64Type>().values(),
                weights.as_primitive::<Int64Type>().values(),
                slacks.as_primitive::<Int64Type>().values(),
            ));
        }
        Ok(())
    }
}

/// Returns `elements` as one list.
fn one_list(elements: ArrayRef) -> Result<ScalarValue> {
    let field = Arc::new(Field::new_list_field(elements.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([elements.len()]);
    Ok(ScalarValue::List(Arc::new(ListArray::try_new(field, offsets, elements, None)?)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Date32Array, Int32Array};

    use super::super::tests::{aggregate, aggregated};
    use super::*;

    #[test]
    fn a_value_of_the_column_is_given() {
        let half = ScalarValue::Float64(Some(0.5));
        let halves: ArrayRef = half.to_array_of_size(4).unwrap();
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(10), None, Some(30), Some(20)]));
        let median = aggregate(function(), &[DataType::Int32], std::slice::from_ref(&half));
        assert_eq!(aggregated(&median, &[Arc::clone(&numbers), Arc::clone(&halves)]), "20");
        let days: ArrayRef = Arc::new(Date32Array::from(vec![1, 2, 3, 4]));
        let median = aggregate(function(), &[DataType::Date32], &[half]);
        assert_eq!(aggregated(&median, &[days, halves]), "1970-01-03");
        let nothing: ArrayRef = Arc::new(Int32Array::from(vec![None::<i32>; 4]));
        let quartiles = [ScalarValue::Float64(Some(0.25)), ScalarValue::Float64(Some(1.0))];
        let quartiles = ScalarValue::List(ScalarValue::new_list_nullable(&quartiles, &DataType::Float64));
        let column = quartiles.to_array_of_size(4).unwrap();
        let both = aggregate(function(), &[DataType::Int32], &[quartiles]);
        assert_eq!(aggregated(&both, &[numbers, Arc::clone(&column)]), "[10, 30]");
        assert_eq!(aggregated(&both, &[nothing, column]), "NULL");
    }

    #[test]
    fn a_share_lies_between_0_and_1() {
        assert!(shares(&ScalarValue::Float64(Some(1.5))).is_err());
        assert!(shares(&ScalarValue::Float64(None)).is_err());
    }
}
