//! What the tests of all functions share: calls as a plan makes them, with constants and with columns.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{AggregateUDF, ColumnarValue, EmitTo, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};

use super::instant;

/// Returns text.
pub(super) fn s(text: &str) -> ScalarValue {
    ScalarValue::Utf8(Some(text.to_string()))
}

/// Returns a NULL that has no type.
pub(super) fn null() -> ScalarValue {
    ScalarValue::Null
}

/// Returns a timestamp.
pub(super) fn ts(text: &str) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(instant::try_timestamp(text).unwrap()), None)
}

/// Returns a date.
pub(super) fn day(text: &str) -> ScalarValue {
    ScalarValue::Date32(Some(instant::try_date(text).unwrap()))
}

fn scalar(name: &str) -> ScalarUDF {
    let named = |f: &ScalarUDF| f.name() == name || f.aliases().iter().any(|alias| alias == name);
    // what is registered later wins
    super::scalar_functions().into_iter().rfind(named).unwrap_or_else(|| panic!("there is no {name}"))
}

fn invoke(name: &str, args: &[ScalarValue], columns: bool) -> Result<ScalarValue> {
    let function = scalar(name);
    let given: Vec<DataType> = args.iter().map(ScalarValue::data_type).collect();
    let types = match function.coerce_types(&given) {
        Ok(types) => types,
        Err(_) => given,
    };
    let args: Vec<ScalarValue> = args.iter().zip(&types).map(|(arg, t)| arg.cast_to(t)).collect::<Result<_>>()?;
    let fields: Vec<FieldRef> = types.iter().map(|t| Arc::new(Field::new("a", t.clone(), true))).collect();
    let literals: Vec<Option<&ScalarValue>> = args.iter().map(Some).collect();
    let return_field =
        function.return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &literals })?;
    let mut values: Vec<ColumnarValue> = args.iter().cloned().map(ColumnarValue::Scalar).collect();
    if let (true, Some(first)) = (columns, values.first_mut()) {
        *first = ColumnarValue::Array(args[0].to_array_of_size(3)?);
    }
    let result = function.invoke_with_args(ScalarFunctionArgs {
        args: values,
        arg_fields: fields,
        number_rows: 3,
        return_field,
        config_options: Arc::new(ConfigOptions::default()),
    })?;
    match result {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(array) => {
            assert_eq!(array.len(), 3, "{name}");
            ScalarValue::try_from_array(&array, 2)
        }
    }
}

/// Calls a function with constants.
pub(super) fn call(name: &str, args: &[ScalarValue]) -> Result<ScalarValue> {
    invoke(name, args, false)
}

/// Checks what functions give, once for constants, once for a first argument that is a column.
pub(super) fn check(table: &[(&str, Vec<ScalarValue>, &str)]) {
    for (name, args, expected) in table {
        for columns in [false, true] {
            let value = invoke(name, args, columns).unwrap_or_else(|error| panic!("{name}{args:?}: {error}"));
            assert_eq!(show(&value), *expected, "{name}{args:?}");
        }
    }
}

fn show(value: &ScalarValue) -> String {
    if value.is_null() {
        return "NULL".to_string();
    }
    array_value_to_string(&value.to_array().unwrap(), 0).unwrap()
}

/// An aggregate over the columns `c0`, `c1`, … and constants behind them.
pub(super) fn aggregate(
    function: AggregateUDF,
    types: &[DataType],
    constants: &[ScalarValue],
) -> AggregateFunctionExpr {
    let fields = types.iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), t.clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = (0..types.len()).map(|i| Arc::new(Column::new(&format!("c{i}"), i)) as Arc<dyn PhysicalExpr>);
    let constants = constants.iter().map(|c| Arc::new(Literal::new(c.clone())) as Arc<dyn PhysicalExpr>);
    AggregateExprBuilder::new(Arc::new(function), columns.chain(constants).collect())
        .schema(schema)
        .alias("result")
        .build()
        .unwrap()
}

/// Computes an aggregate of one group four ways, which must agree: at once; row by row through states that are merged;
/// and both again with the accumulator of many groups, where there is one.
pub(super) fn aggregated(function: &AggregateFunctionExpr, args: &[ArrayRef]) -> String {
    let rows = args[0].len();
    let mut whole = function.create_accumulator().unwrap();
    whole.update_batch(args).unwrap();
    let mut merged = function.create_accumulator().unwrap();
    let state_types: Vec<DataType> =
        function.state_fields().unwrap().iter().map(|field| field.data_type().clone()).collect();
    for row in 0..rows {
        let slices: Vec<ArrayRef> = args.iter().map(|arg| arg.slice(row, 1)).collect();
        let mut one = function.create_accumulator().unwrap();
        one.update_batch(&slices).unwrap();
        let state: Vec<ArrayRef> = one.state().unwrap().iter().map(|value| value.to_array().unwrap()).collect();
        let types: Vec<DataType> = state.iter().map(|column| column.data_type().clone()).collect();
        assert_eq!(types, state_types, "the state is what its fields promise");
        merged.merge_batch(&state).unwrap();
    }
    let result = show(&whole.evaluate().unwrap());
    assert_eq!(show(&merged.evaluate().unwrap()), result, "merged");
    if function.groups_accumulator_supported() {
        let mut groups = function.create_groups_accumulator().unwrap();
        let mut halves = function.create_groups_accumulator().unwrap();
        groups.update_batch(args, &vec![1; rows], None, 2).unwrap();
        halves.update_batch(args, &vec![1; rows], None, 2).unwrap();
        let state = halves.state(EmitTo::All).unwrap();
        let mut merged = function.create_groups_accumulator().unwrap();
        merged.merge_batch(&state, &[0, 1], 2).unwrap();
        for mut accumulator in [groups, merged] {
            let values = accumulator.evaluate(EmitTo::All).unwrap();
            assert_eq!(values.len(), 2);
            assert_eq!(show(&ScalarValue::try_from_array(&values, 1).unwrap()), result, "groups");
        }
    }
    result
}

#[test]
fn a_name_is_given_once() {
    let mut names = HashSet::new();
    for function in super::scalar_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            assert!(names.insert(name.to_string()), "{name} is given twice");
        }
    }
    for wanted in ["split", "nvl", "lcase", "date_add", "to_date", "from_json", "hash", "chr", "sequence"] {
        assert!(names.contains(wanted), "{wanted}");
    }
}

#[test]
fn whole_numbers_of_a_query_are_taken_where_narrow_ones_are_meant() {
    let long = ScalarValue::Int64(Some(3));
    assert_eq!(show(&call("date_add", &[s("2024-02-28"), long.clone()]).unwrap()), "2024-03-02");
    assert_eq!(show(&call("space", &[long]).unwrap()), "   ");
}
