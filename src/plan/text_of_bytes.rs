//! `CAST(value AS STRING)` of bytes that are not UTF-8.
//!
//! Arrow's cast ends the query; here, as in Spark, it does not: a replacement character stands for what is no text. So one
//! message that somebody sent by mistake does not stop a stream.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result as PlanResult};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Puts [`TextOfBytes`] in the place of casts of bytes to text.
#[derive(Debug)]
pub struct CastBytesAsText;

impl FunctionRewrite for CastBytesAsText {
    fn name(&self) -> &str {
        "cast_bytes_as_text"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _: &ConfigOptions) -> PlanResult<Transformed<Expr>> {
        let (from, to) = match &expr {
            Expr::Cast(cast) => (&cast.expr, cast.field.data_type()),
            Expr::TryCast(cast) => (&cast.expr, cast.field.data_type()),
            _ => return Ok(Transformed::no(expr)),
        };
        // What has no type yet is no column of bytes.
        let of_bytes = *to == DataType::Utf8 && from.get_type(schema).is_ok_and(|from| is_bytes(&from));
        if !of_bytes {
            return Ok(Transformed::no(expr));
        }
        let function = Arc::new(ScalarUDF::from(TextOfBytes::new()));
        let call = ScalarFunction::new_udf(function, vec![from.as_ref().clone()]);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    }
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Reads bytes as text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextOfBytes {
    signature: Signature,
}

impl TextOfBytes {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TextOfBytes {
    fn name(&self) -> &str {
        "text_of_bytes"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let bytes = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(text_of(&bytes)?))
    }
}

fn text_of(bytes: &ArrayRef) -> PlanResult<ArrayRef> {
    let bytes = cast(bytes, &DataType::Binary)?;
    let binary = bytes.as_binary::<i32>();
    // Mostly all of it is text, which needs no copy.
    if let Ok(text) = StringArray::try_from_binary(binary.clone()) {
        return Ok(Arc::new(text));
    }
    Ok(Arc::new(binary.iter().map(|value| value.map(String::from_utf8_lossy)).collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::BinaryArray;

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"a\xff"[..]), None, Some(b"b")]));
        let text = text_of(&bytes).unwrap();
        assert_eq!(text.as_string::<i32>(), &StringArray::from(vec![Some("a\u{fffd}"), None, Some("b")]));
        let plain: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"\xc3\xa9"[..])]));
        assert_eq!(text_of(&plain).unwrap().as_string::<i32>().value(0), "é");
    }
}
