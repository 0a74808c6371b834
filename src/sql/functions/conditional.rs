//! Functions that ask for NULL: `isnull`, `isnotnull`, `equal_null`, `zeroifnull`, `nullifzero`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::kernels::cmp::not_distinct;
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{cast, is_not_null, is_null, nullif};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::binary::comparison_coercion;

use super::function::{Arguments, Function, Returns, Takes, same_type};
use crate::error::Error;

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::Anything;
    let boolean = || Returns::Type(DataType::Boolean);
    vec![
        Function::new("isnull(value)", &[Anything], 1, boolean(), |args| Ok(Arc::new(is_null(&args.array(0)?)?))),
        Function::new("isnotnull(value)", &[Anything], 1, boolean(), |args| {
            Ok(Arc::new(is_not_null(&args.array(0)?)?))
        }),
        Function::new("equal_null(left, right)", &[Anything, Anything], 2, boolean(), equal_null),
        Function::new("zeroifnull(number)", &[Anything], 1, Returns::From(same_type), zeroifnull),
        Function::new("nullifzero(number)", &[Anything], 1, Returns::From(same_type), nullifzero),
    ]
}

fn equal_null(args: &Arguments) -> Result<ArrayRef> {
    let (left, right) = (args.array(0)?, args.array(1)?);
    let Some(common) = comparison_coercion(left.data_type(), right.data_type()) else {
        let types = format!("{} and {}", left.data_type(), right.data_type());
        return Err(Error::invalid_query(format!("equal_null cannot compare {types}; cast one of them")).into());
    };
    Ok(Arc::new(not_distinct(&cast(&left, &common)?, &cast(&right, &common)?)?))
}

fn zeroifnull(args: &Arguments) -> Result<ArrayRef> {
    let values = args.array(0)?;
    let zeros = ScalarValue::new_zero(values.data_type())?.to_array_of_size(values.len())?;
    Ok(zip(&is_not_null(&values)?, &values, &zeros)?)
}

fn nullifzero(args: &Arguments) -> Result<ArrayRef> {
    let values = args.array(0)?;
    let zeros = ScalarValue::new_zero(values.data_type())?.to_array_of_size(values.len())?;
    Ok(nullif(&values, &not_distinct(&values, &zeros)?)?)
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{check, s};

    #[test]
    fn null_is_asked_for() {
        let int = |value| ScalarValue::Int32(value);
        check(&[
            ("isnull", vec![int(None)], "true"),
            ("isnotnull", vec![s("a")], "true"),
            ("equal_null", vec![int(None), int(None)], "true"),
            ("equal_null", vec![int(Some(1)), int(None)], "false"),
            ("equal_null", vec![int(Some(1)), ScalarValue::Int64(Some(1))], "true"),
            ("zeroifnull", vec![int(None)], "0"),
            ("zeroifnull", vec![int(Some(3))], "3"),
            ("nullifzero", vec![int(Some(0))], "NULL"),
            ("nullifzero", vec![int(Some(3))], "3"),
        ]);
    }
}
