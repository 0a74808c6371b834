//! `window(ts, size[, slide[, start]])` and `window_time(w)`: Spark's functions over event time.
//!
//! In GROUP BY the stateful aggregate makes the windows itself; elsewhere, and in batch queries, a tumbling window is
//! an ordinary value: a struct of start and end.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray, TimestampMicrosecondArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::cast::as_struct_array;
use datafusion::common::{Result as PlanResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, lit,
};

use super::cumulate;
use crate::error::{Error, Result};
use crate::interval::{interval_us, parse_interval};
use crate::operator::event_time::{TIME, WindowSpec, window_fields};
use crate::operator::session::{gap_us, is_gap};

/// The function's name, and the name of the column it makes.
pub const WINDOW: &str = "window";
/// The name of the function that puts rows into sessions, and the name of the column it makes.
pub const SESSION_WINDOW: &str = "session_window";
/// The name of the function that gives a window's last instant.
pub const WINDOW_TIME: &str = "window_time";
/// The name of the inner function that gives all windows of a time, for sliding windows outside GROUP BY.
pub const WINDOWS: &str = "__millstream_windows";

#[derive(Debug, PartialEq, Eq, Hash)]
struct Window {
    name: &'static str,
    signature: Signature,
}

/// Makes the functions of this file.
pub fn functions() -> Vec<ScalarUDF> {
    let window = |name| Window { name, signature: Signature::new(TypeSignature::VariadicAny, Volatility::Immutable) };
    let time = WindowTime { signature: Signature::any(1, Volatility::Immutable) };
    let session = SessionWindow { signature: Signature::any(2, Volatility::Immutable) };
    vec![
        ScalarUDF::from(window(WINDOW)),
        ScalarUDF::from(window(WINDOWS)),
        cumulate::function(),
        ScalarUDF::from(session),
        ScalarUDF::from(time),
    ]
}

fn function(name: &str) -> Arc<ScalarUDF> {
    let all = functions().into_iter().map(Arc::new);
    let mut found: Vec<Arc<ScalarUDF>> = all.filter(|f| f.name() == name).collect();
    found.swap_remove(0)
}

/// Returns `window(time, size)`: tumbling windows, the size as Spark writes it (`"1 hour"`).
pub fn window(time: Expr, size: &str) -> Expr {
    function(WINDOW).call(vec![time, lit(size)])
}

/// Returns `window(time, size, slide)`: sliding windows.
pub fn sliding_window(time: Expr, size: &str, slide: &str) -> Expr {
    function(WINDOW).call(vec![time, lit(size), lit(slide)])
}

/// Returns `session_window(time, gap)`: rows of one key that follow each other within `gap`, as Spark writes it
/// (`lit("5 minutes")`), or an expression that gives one for each row.
pub fn session_window(time: Expr, gap: Expr) -> Expr {
    function(SESSION_WINDOW).call(vec![time, gap])
}

/// Returns `window_time(window)`: the window's last instant, as an event time for what comes after.
pub fn window_time(window: Expr) -> Expr {
    function(WINDOW_TIME).call(vec![window])
}

/// Returns a list of all windows of `time`, by the arguments of a `window()` call.
pub(super) fn windows(arguments: Vec<Expr>) -> Expr {
    function(WINDOWS).call(arguments)
}

/// A call of `window()`: its event time and its windows.
pub fn window_call(expr: &Expr) -> Option<(&Expr, Result<WindowSpec>)> {
    let Expr::ScalarFunction(call) = expr.unalias_ref() else {
        return None;
    };
    if call.func.name() != WINDOW {
        return None;
    }
    let (time, durations) = call.args.split_first()?;
    Some((time, window_spec(durations)))
}

/// A call of `session_window()`: its event time and its gap.
pub fn session_call(expr: &Expr) -> Option<(&Expr, &Expr)> {
    let Expr::ScalarFunction(call) = expr.unalias_ref() else {
        return None;
    };
    match (call.func.name(), call.args.as_slice()) {
        (SESSION_WINDOW, [time, gap]) => Some((time, gap)),
        _ => None,
    }
}

/// Reads the arguments of a `window()` call after its time.
///
/// # Errors
/// `InvalidQuery` where they are no literals, or make no windows.
pub(super) fn window_spec(arguments: &[Expr]) -> Result<WindowSpec> {
    spec_of(&durations(arguments)?)
}

/// Reads durations that are literals, in microseconds.
pub(super) fn durations(arguments: &[Expr]) -> Result<Vec<i64>> {
    let literal = |e: &Expr| match e {
        Expr::Literal(value, _) => duration_of(value),
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Literal(value, _) => duration_of(value),
            _ => Err(not_literal()),
        },
        _ => Err(not_literal()),
    };
    arguments.iter().map(literal).collect()
}

/// Looks below an alias.
trait UnaliasRef {
    fn unalias_ref(&self) -> &Expr;
}

impl UnaliasRef for Expr {
    fn unalias_ref(&self) -> &Expr {
        match self {
            Expr::Alias(alias) => alias.expr.unalias_ref(),
            other => other,
        }
    }
}

pub(super) fn not_literal() -> Error {
    Error::invalid_query("window(): length, slide and start must be literals such as '10 minutes'")
}

/// The error for a first argument that is no time.
pub(super) fn not_time(function: &str, is: Option<&DataType>) -> Error {
    let is = is.map_or("missing".to_string(), ToString::to_string);
    Error::invalid_query(format!(
        "{function}: the first argument must be a TIMESTAMP, it is {is}; cast it or use to_timestamp()"
    ))
}

pub(super) fn duration_of(value: &ScalarValue) -> Result<i64> {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            interval_us(&parse_interval(text)?)
        }
        ScalarValue::IntervalMonthDayNano(Some(interval)) => interval_us(interval),
        ScalarValue::IntervalDayTime(Some(v)) => {
            Ok(i64::from(v.days) * 86_400_000_000 + i64::from(v.milliseconds) * 1000)
        }
        _ => Err(not_literal()),
    }
}

fn spec_of(durations: &[i64]) -> Result<WindowSpec> {
    match durations {
        [size] => WindowSpec::new(*size, *size, 0),
        [size, slide] => WindowSpec::new(*size, *slide, 0),
        [size, slide, start] => WindowSpec::new(*size, *slide, *start),
        _ => Err(Error::invalid_query("window() takes a time, a length, and optionally a slide and a start")),
    }
}

impl ScalarUDFImpl for Window {
    fn name(&self) -> &str {
        self.name
    }

    /// Spark calls the column `window`, whatever the arguments.
    fn schema_name(&self, _args: &[Expr]) -> PlanResult<String> {
        Ok(self.name.to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        match types.first() {
            Some(DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Struct(_)) => {}
            other => return Err(not_time("window()", other).into()),
        }
        if !(2..=4).contains(&types.len()) {
            return Err(spec_of(&[]).map(|_| ()).map_or_else(Into::into, |()| not_literal().into()));
        }
        let window = DataType::Struct(window_fields());
        Ok(if self.name == WINDOWS { DataType::List(Arc::new(Field::new_list_field(window, true))) } else { window })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let rows = args.number_rows;
        let durations = args.args[1..].iter().map(|a| match a {
            ColumnarValue::Scalar(value) => duration_of(value),
            ColumnarValue::Array(_) => Err(not_literal()),
        });
        let spec = spec_of(&durations.collect::<Result<Vec<_>>>()?)?;
        let times = event_times(&args.args[0].to_array(rows)?)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        if self.name == WINDOWS {
            return Ok(ColumnarValue::Array(all_windows(times, &spec)));
        }
        if !spec.tumbles() {
            return Err(Error::unsupported(
                "a sliding window() puts a row into several windows, so it must stand in GROUP BY; \
                 elsewhere use the HOP table function",
            )
            .into());
        }
        let starts: TimestampMicrosecondArray = times.unary(|t| spec.pane_of(t));
        Ok(ColumnarValue::Array(windows_from(starts, &spec)))
    }
}

/// A window column stands for its last instant.
pub(super) fn event_times(column: &ArrayRef) -> PlanResult<ArrayRef> {
    if let DataType::Struct(_) = column.data_type() {
        return last_instants(column);
    }
    Ok(cast(column, &TIME)?)
}

fn windows_from(starts: TimestampMicrosecondArray, spec: &WindowSpec) -> ArrayRef {
    let ends: TimestampMicrosecondArray = starts.unary(|s| s + spec.size_us);
    let nulls = starts.nulls().cloned();
    Arc::new(StructArray::new(window_fields(), vec![Arc::new(starts), Arc::new(ends)], nulls))
}

fn all_windows(times: &TimestampMicrosecondArray, spec: &WindowSpec) -> ArrayRef {
    let mut starts = Vec::new();
    let mut lengths = Vec::with_capacity(times.len());
    for time in times {
        let before = starts.len();
        starts.extend(time.into_iter().flat_map(|t| spec.starts(t)));
        lengths.push(starts.len() - before);
    }
    let item = Arc::new(Field::new_list_field(DataType::Struct(window_fields()), true));
    let values = windows_from(starts.into(), spec);
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), values, None::<NullBuffer>))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionWindow {
    signature: Signature,
}

impl ScalarUDFImpl for SessionWindow {
    fn name(&self) -> &str {
        SESSION_WINDOW
    }

    /// Spark calls the column `session_window`, whatever the arguments.
    fn schema_name(&self, _args: &[Expr]) -> PlanResult<String> {
        Ok(SESSION_WINDOW.to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        match types.first() {
            Some(DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Struct(_)) => {}
            other => return Err(not_time("session_window()", other).into()),
        }
        match types.get(1) {
            Some(gap) if is_gap(gap) => Ok(DataType::Struct(window_fields())),
            other => {
                let is = other.map_or("missing".to_string(), ToString::to_string);
                Err(Error::invalid_query(format!(
                    "session_window(): the gap must be an interval such as '5 minutes', it is {is}"
                ))
                .into())
            }
        }
    }

    /// The session of the row alone: from its time to the end of its gap. NULL where there is no time or no gap.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let rows = args.number_rows;
        let times = event_times(&args.args[0].to_array(rows)?)?;
        let starts = times.as_primitive::<TimestampMicrosecondType>();
        let gaps = gap_us(&args.args[1].to_array(rows)?)?;
        let ends: TimestampMicrosecondArray =
            starts.iter().zip(&gaps).map(|(start, gap)| Some(start?.saturating_add(gap?))).collect();
        let nulls = NullBuffer::union(starts.nulls(), ends.nulls());
        let columns: Vec<ArrayRef> = vec![Arc::new(starts.clone()), Arc::new(ends)];
        Ok(ColumnarValue::Array(Arc::new(StructArray::new(window_fields(), columns, nulls))))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowTime {
    signature: Signature,
}

impl ScalarUDFImpl for WindowTime {
    fn name(&self) -> &str {
        WINDOW_TIME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        match types {
            [DataType::Struct(fields)] if fields.iter().any(|f| f.name() == "end") => Ok(TIME),
            _ => Err(Error::invalid_query("window_time() takes a window column, as window() makes it").into()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        Ok(ColumnarValue::Array(last_instants(&args.args[0].to_array(args.number_rows)?)?))
    }
}

fn last_instants(windows: &ArrayRef) -> PlanResult<ArrayRef> {
    let windows = as_struct_array(windows)?;
    let end = windows.column_by_name("end").ok_or_else(|| Error::invalid_query("not a window: it has no end"))?;
    let end = cast(end, &TIME)?;
    let last: TimestampMicrosecondArray = end.as_primitive::<TimestampMicrosecondType>().unary(|t| t - 1);
    Ok(Arc::new(last))
}
