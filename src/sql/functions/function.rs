//! The frame of every scalar function written here: what it takes, what it gives, and one plain function that
//! computes a column.
//!
//! Each family of functions (`text`, `datetime`, …) makes [`Function`]s; `mod.rs` collects them. The invariant: by the
//! time a function runs, its arguments have the Arrow type that [`Takes`] names, and a constant is a column of one row
//! that is never copied to every row.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayAccessor, ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::instant;
use crate::error::Error;

/// TIMESTAMP as Millstream has it.
pub(super) const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Returns the type of a list of `element`s.
pub(super) fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// Returns whether values of `data_type` are text, in whatever layout.
pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// What an argument must be, and so to what it is cast while the query is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Takes {
    /// Text; any simple value is cast to it.
    Text,
    /// A whole number of 32 bits.
    Int,
    /// A whole number of 64 bits.
    Long,
    /// A floating-point number.
    Double,
    /// True or false.
    Boolean,
    /// A date; a timestamp is cut to its day, text is read as Spark's cast reads it.
    Date,
    /// A timestamp; a date is its midnight, text is read as Spark's cast reads it.
    Timestamp,
    /// A date, a timestamp, text or a number: the function itself tells them apart.
    Moment,
    /// Anything, as it is.
    Anything,
}

impl Takes {
    /// Returns the type that an argument of type `given` becomes for a function of somebody else's making, or `None`
    /// where it cannot be one.
    fn cast_target(self, given: &DataType) -> Option<DataType> {
        let plain = !given.is_nested();
        let number_or_text = given.is_numeric() || given.is_null() || is_text(given);
        let temporal = matches!(given, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _));
        match self {
            Self::Anything => Some(given.clone()),
            Self::Text => plain.then_some(DataType::Utf8),
            Self::Int => number_or_text.then_some(DataType::Int32),
            Self::Long => number_or_text.then_some(DataType::Int64),
            Self::Double => number_or_text.then_some(DataType::Float64),
            Self::Boolean => {
                (matches!(given, DataType::Boolean | DataType::Null) || is_text(given)).then_some(DataType::Boolean)
            }
            Self::Date => (temporal || given.is_null() || is_text(given)).then_some(DataType::Date32),
            Self::Timestamp => (temporal || given.is_null() || is_text(given)).then_some(TIMESTAMP),
            Self::Moment => match given {
                DataType::Date32 | DataType::Date64 => Some(DataType::Date32),
                DataType::Timestamp(_, _) => Some(TIMESTAMP),
                DataType::Null => Some(DataType::Utf8),
                t if is_text(t) => Some(DataType::Utf8),
                t if t.is_integer() => Some(DataType::Int64),
                t if t.is_numeric() => Some(DataType::Float64),
                _ => None,
            },
        }
    }

    /// Like [`Self::cast_target`], for a function of ours: text that stands for a date or a timestamp stays text, so
    /// that it can be read as Spark reads it.
    fn coerce(self, given: &DataType) -> Option<DataType> {
        match self {
            Self::Date | Self::Timestamp if is_text(given) => Some(DataType::Utf8),
            _ => self.cast_target(given),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int | Self::Long => "a whole number",
            Self::Double => "a number",
            Self::Boolean => "true or false",
            Self::Date => "a date",
            Self::Timestamp => "a timestamp",
            Self::Moment => "a date, a timestamp, text or a number",
            Self::Anything => "anything",
        }
    }
}

/// What a function gives.
pub(super) enum Returns {
    /// Always this type.
    Type(DataType),
    /// A type that follows from the arguments.
    From(fn(&ReturnFieldArgs<'_>) -> Result<DataType>),
}

/// Derives the type of the first argument.
pub(super) fn same_type(args: &ReturnFieldArgs<'_>) -> Result<DataType> {
    Ok(args.arg_fields[0].data_type().clone())
}

/// A scalar function.
pub(super) struct Function {
    name: &'static str,
    usage: &'static str,
    aliases: Vec<String>,
    signature: Signature,
    takes: &'static [Takes],
    required: usize,
    repeats: bool,
    returns: Returns,
    run: fn(&Arguments) -> Result<ArrayRef>,
}

impl Function {
    /// Makes a function that takes `takes`, of which the first `required` must be given, and is computed by `run`.
    ///
    /// `usage` begins with the name and shows how it is called.
    pub(super) fn new(
        usage: &'static str,
        takes: &'static [Takes],
        required: usize,
        returns: Returns,
        run: fn(&Arguments) -> Result<ArrayRef>,
    ) -> Self {
        let name = usage.split('(').next().unwrap_or(usage);
        Self {
            name,
            usage,
            aliases: Vec::new(),
            signature: Signature::user_defined(Volatility::Immutable),
            takes,
            required,
            repeats: false,
            returns,
            run,
        }
    }

    /// Adds other names.
    pub(super) fn also(mut self, names: &[&str]) -> Self {
        self.aliases = names.iter().map(|name| (*name).to_string()).collect();
        self
    }

    /// Lets the last argument be given any number of times.
    pub(super) fn repeating(mut self) -> Self {
        self.repeats = true;
        self
    }

    fn takes(&self, argument: usize) -> Takes {
        self.takes.get(argument).or(self.takes.last()).copied().unwrap_or(Takes::Anything)
    }

    fn accepts_count(&self, count: usize) -> bool {
        count >= self.required && (self.repeats || count <= self.takes.len())
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("usage", &self.usage).finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Err(Error::internal(format!("{}: the type follows from the arguments", self.name)).into())
    }

    /// Casts what can be cast; what cannot is left for `return_field_from_args`, which says how the function is called.
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let coerced = arg_types.iter().enumerate();
        Ok(coerced.map(|(i, given)| self.takes(i).coerce(given).unwrap_or_else(|| given.clone())).collect())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if !self.accepts_count(args.arg_fields.len()) {
            let count = args.arg_fields.len();
            return Err(Error::invalid_query(format!("{count} arguments do not fit {}", self.usage)).into());
        }
        for (i, field) in args.arg_fields.iter().enumerate() {
            if self.takes(i).coerce(field.data_type()).is_none() {
                let message = format!(
                    "argument {} of {} is {}, expected {}",
                    i + 1,
                    self.usage,
                    field.data_type(),
                    self.takes(i).describe()
                );
                return Err(Error::invalid_query(message).into());
            }
        }
        let data_type = match &self.returns {
            Returns::Type(data_type) => data_type.clone(),
            Returns::From(derive) => derive(&args)?,
        };
        Ok(Arc::new(Field::new(self.name, data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if all_constant { 1 } else { args.number_rows };
        let mut columns = Vec::with_capacity(args.args.len());
        for (i, value) in args.args.iter().enumerate() {
            let (column, constant) = match value {
                ColumnarValue::Array(array) => (Arc::clone(array), false),
                ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
            };
            columns.push((read_text(column, self.takes(i))?, constant));
        }
        let return_type = args.return_field.data_type().clone();
        let result = (self.run)(&Arguments { columns, rows, return_type })?;
        if all_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// Reads text as dates or timestamps where a function takes those.
fn read_text(column: ArrayRef, takes: Takes) -> Result<ArrayRef> {
    let Some(text) = column.as_any().downcast_ref::<StringArray>() else {
        return Ok(column);
    };
    match takes {
        Takes::Date => {
            let dates = text.iter().map(|value| value.map(instant::date).transpose());
            Ok(Arc::new(dates.collect::<Result<Date32Array>>()?))
        }
        Takes::Timestamp => {
            let timestamps = text.iter().map(|value| value.map(instant::timestamp).transpose());
            Ok(Arc::new(timestamps.collect::<Result<TimestampMicrosecondArray>>()?))
        }
        _ => Ok(column),
    }
}

/// The arguments of one call for one batch.
pub(super) struct Arguments {
    columns: Vec<(ArrayRef, bool)>,
    rows: usize,
    return_type: DataType,
}

impl Arguments {
    /// Returns how many rows the result must have.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns how many arguments were given.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Returns the type that was promised for the result.
    pub(super) fn return_type(&self) -> &DataType {
        &self.return_type
    }

    /// Returns an argument as a column of [`Self::rows`] rows.
    pub(super) fn array(&self, argument: usize) -> Result<ArrayRef> {
        match self.columns.get(argument) {
            Some((array, true)) if self.rows != 1 => ScalarValue::try_from_array(array, 0)?.to_array_of_size(self.rows),
            Some((array, _)) => Ok(Arc::clone(array)),
            None => Err(Error::internal(format!("argument {} was not given", argument + 1)).into()),
        }
    }

    /// Returns the type an argument came with.
    pub(super) fn data_type(&self, argument: usize) -> Option<&DataType> {
        self.columns.get(argument).map(|(array, _)| array.data_type())
    }

    /// Returns an argument as a column of `A`.
    pub(super) fn column<A: Array + 'static>(&self, argument: usize) -> Result<Column<'_, A>> {
        let found = self.columns.get(argument);
        found
            .and_then(|(array, constant)| Some((array.as_any().downcast_ref::<A>()?, *constant)))
            .map(|(array, constant)| Column { array, constant })
            .ok_or_else(|| {
                let found = found.map(|(array, _)| array.data_type().to_string()).unwrap_or("nothing".to_string());
                Error::internal(format!("argument {} is {found}, which planning did not promise", argument + 1)).into()
            })
    }

    /// Returns an argument as text.
    pub(super) fn text(&self, argument: usize) -> Result<Column<'_, StringArray>> {
        self.column(argument)
    }

    /// Returns an argument as whole numbers of 32 bits.
    pub(super) fn ints(&self, argument: usize) -> Result<Column<'_, Int32Array>> {
        self.column(argument)
    }

    /// Returns an argument as whole numbers of 64 bits.
    pub(super) fn longs(&self, argument: usize) -> Result<Column<'_, Int64Array>> {
        self.column(argument)
    }

    /// Returns an argument as floating-point numbers.
    pub(super) fn doubles(&self, argument: usize) -> Result<Column<'_, Float64Array>> {
        self.column(argument)
    }

    /// Returns an argument as booleans.
    pub(super) fn booleans(&self, argument: usize) -> Result<Column<'_, BooleanArray>> {
        self.column(argument)
    }

    /// Returns an argument as days since 1970-01-01.
    pub(super) fn dates(&self, argument: usize) -> Result<Column<'_, Date32Array>> {
        self.column(argument)
    }

    /// Returns an argument as microseconds since 1970-01-01 00:00 UTC.
    pub(super) fn timestamps(&self, argument: usize) -> Result<Column<'_, TimestampMicrosecondArray>> {
        self.column(argument)
    }
}

/// One argument's values, by row.
pub(super) struct Column<'a, A> {
    array: &'a A,
    constant: bool,
}

impl<'a, A: Array> Column<'a, A>
where
    &'a A: ArrayAccessor,
{
    /// Returns the value of `row`, or `None` where it is NULL.
    pub(super) fn get(&self, row: usize) -> Option<<&'a A as ArrayAccessor>::Item> {
        let row = if self.constant { 0 } else { row };
        let array: &'a A = self.array;
        array.is_valid(row).then(|| ArrayAccessor::value(&array, row))
    }
}

/// Computes text for each of `rows` rows.
pub(super) fn texts(rows: usize, value: impl FnMut(usize) -> Result<Option<String>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<StringArray>>()?))
}

/// Computes a whole number of 32 bits for each of `rows` rows.
pub(super) fn ints(rows: usize, value: impl FnMut(usize) -> Result<Option<i32>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<Int32Array>>()?))
}

/// Computes a whole number of 64 bits for each of `rows` rows.
pub(super) fn longs(rows: usize, value: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<Int64Array>>()?))
}

/// Computes a floating-point number for each of `rows` rows.
pub(super) fn doubles(rows: usize, value: impl FnMut(usize) -> Result<Option<f64>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<Float64Array>>()?))
}

/// Computes true or false for each of `rows` rows.
pub(super) fn booleans(rows: usize, value: impl FnMut(usize) -> Result<Option<bool>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<BooleanArray>>()?))
}

/// Computes a date, in days since 1970-01-01, for each of `rows` rows.
pub(super) fn dates(rows: usize, value: impl FnMut(usize) -> Result<Option<i32>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<Date32Array>>()?))
}

/// Computes a timestamp, in microseconds since 1970-01-01 00:00 UTC, for each of `rows` rows.
pub(super) fn timestamps(rows: usize, value: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
    Ok(Arc::new((0..rows).map(value).collect::<Result<TimestampMicrosecondArray>>()?))
}

/// A function of somebody else's making that takes more than it says: `date_add(day, 1)` wants an `Int32`, and the 1 of
/// a query is an `Int64`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Recast {
    inner: Arc<ScalarUDF>,
    takes: &'static [Takes],
    signature: Signature,
}

impl Recast {
    /// Makes `inner` take `takes`.
    pub(super) fn new(inner: Arc<ScalarUDF>, takes: &'static [Takes]) -> Self {
        Self { inner, takes, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Recast {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let coerced = arg_types.iter().enumerate();
        Ok(coerced
            .map(|(i, given)| self.takes.get(i).and_then(|t| t.cast_target(given)).unwrap_or_else(|| given.clone()))
            .collect())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let fits = args.arg_fields.len() == self.takes.len()
            && args.arg_fields.iter().zip(self.takes).all(|(field, t)| t.cast_target(field.data_type()).is_some());
        if !fits {
            let expected: Vec<&str> = self.takes.iter().map(|t| t.describe()).collect();
            let message = format!("{} takes ({})", self.inner.name(), expected.join(", "));
            return Err(Error::invalid_query(message).into());
        }
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }
}
