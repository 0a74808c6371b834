//! `count_if(condition)`: how many rows meet a condition.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use datafusion::arrow::compute::sum;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

/// Returns `count_if`.
pub(super) fn function() -> AggregateUDF {
    let signature = Signature::exact(vec![DataType::Boolean], Volatility::Immutable);
    AggregateUDF::from(CountIf { signature })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CountIf {
    signature: Signature,
}

impl AggregateUDFImpl for CountIf {
    fn name(&self) -> &str {
        "count_if"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "count_if"), DataType::Int64, true))])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Count(0)))
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Counts(Vec::new())))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The count of one group.
#[derive(Debug)]
struct Count(i64);

impl Accumulator for Count {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0 += values[0].as_boolean().true_count() as i64;
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.0))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0 += sum(states[0].as_primitive::<Int64Type>()).unwrap_or(0);
        Ok(())
    }
}

/// The counts of many groups.
struct Counts(Vec<i64>);

impl GroupsAccumulator for Counts {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.0.resize(total_num_groups, 0);
        let conditions = values[0].as_boolean();
        for (row, group) in group_indices.iter().enumerate() {
            self.0[*group] += i64::from(is_true(conditions, row) && opt_filter.is_none_or(|f| is_true(f, row)));
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(emit_to.take_needed(&mut self.0))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.0.resize(total_num_groups, 0);
        let counts = values[0].as_primitive::<Int64Type>();
        for (row, group) in group_indices.iter().enumerate() {
            if counts.is_valid(row) {
                self.0[*group] += counts.value(row);
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let conditions = values[0].as_boolean();
        let counts = (0..conditions.len())
            .map(|row| i64::from(is_true(conditions, row) && opt_filter.is_none_or(|f| is_true(f, row))));
        Ok(vec![Arc::new(Int64Array::from_iter_values(counts))])
    }

    fn size(&self) -> usize {
        self.0.capacity() * size_of::<i64>()
    }
}

fn is_true(conditions: &BooleanArray, row: usize) -> bool {
    conditions.is_valid(row) && conditions.value(row)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{aggregate, aggregated};
    use super::*;

    #[test]
    fn only_what_is_true_counts() {
        let function = aggregate(function(), &[DataType::Boolean], &[]);
        let conditions: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)]));
        assert_eq!(aggregated(&function, &[conditions]), "2");
        let nothing: ArrayRef = Arc::new(BooleanArray::from(vec![None::<bool>]));
        assert_eq!(aggregated(&function, &[nothing]), "0");
    }
}
