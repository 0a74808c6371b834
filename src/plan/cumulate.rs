//! The windows of `CUMULATE`: of one start, each a step longer than the one before, up to the whole size.
//!
//! A row is in all of them that hold it. The table function calls the inner function here, which gives them as a list,
//! to be unnested; so the windows of a stream are ordinary columns, and a group of them closes by its `window_end`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, ListArray, StructArray, TimestampMicrosecondArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::Result as PlanResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::window_function::{duration_of, durations, event_times, not_literal, not_time};
use crate::error::{Error, Result};
use crate::operator::event_time::window_fields;

/// The name of the inner function that gives all cumulated windows of a time.
pub const CUMULATE: &str = "__millstream_cumulate";

/// Windows that grow by steps to a size, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cumulation {
    step_us: i64,
    size_us: i64,
    start_us: i64,
}

impl Cumulation {
    fn new(durations: &[i64]) -> Result<Self> {
        let (step_us, size_us, start_us) = match durations {
            [step, size] => (*step, *size, 0),
            [step, size, start] => (*step, *size, *start),
            _ => return Err(Error::invalid_query("CUMULATE takes a time, a step, a size, and optionally a start")),
        };
        if step_us <= 0 || size_us <= 0 || size_us % step_us != 0 {
            return Err(Error::invalid_query(
                "CUMULATE: step and size must be above zero, and the size a multiple of the step",
            ));
        }
        if start_us.abs() >= size_us {
            return Err(Error::invalid_query("CUMULATE: the start offset must be shorter than the size"));
        }
        Ok(Self { step_us, size_us, start_us })
    }

    /// Where the windows that hold `time_us` start.
    fn start(&self, time_us: i64) -> i64 {
        (time_us - self.start_us).div_euclid(self.size_us) * self.size_us + self.start_us
    }

    /// How many steps long each window is that holds `time_us`.
    fn steps(&self, time_us: i64) -> RangeInclusive<i64> {
        (time_us - self.start(time_us)).div_euclid(self.step_us) + 1..=self.size_us / self.step_us
    }
}

/// Returns a list of all cumulated windows of a time; the arguments are the time, the step, the size and perhaps the
/// start.
///
/// # Errors
/// `InvalidQuery` where the durations are no literals, or make no windows.
pub fn cumulate(arguments: Vec<Expr>) -> Result<Expr> {
    let (_, rest) = arguments.split_first().ok_or_else(not_literal)?;
    Cumulation::new(&durations(rest)?)?;
    Ok(function().call(arguments))
}

/// Makes the inner function.
pub(super) fn function() -> ScalarUDF {
    ScalarUDF::from(Cumulate { signature: Signature::new(TypeSignature::VariadicAny, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Cumulate {
    signature: Signature,
}

fn item() -> Arc<Field> {
    Arc::new(Field::new_list_field(DataType::Struct(window_fields()), true))
}

impl ScalarUDFImpl for Cumulate {
    fn name(&self) -> &str {
        CUMULATE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        match types.first() {
            Some(DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Struct(_)) => {
                Ok(DataType::List(item()))
            }
            other => Err(not_time("CUMULATE", other).into()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let durations = args.args[1..].iter().map(|argument| match argument {
            ColumnarValue::Scalar(value) => duration_of(value),
            ColumnarValue::Array(_) => Err(not_literal()),
        });
        let cumulation = Cumulation::new(&durations.collect::<Result<Vec<_>>>()?)?;
        let times = event_times(&args.args[0].to_array(args.number_rows)?)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        Ok(ColumnarValue::Array(all_windows(times, &cumulation)))
    }
}

fn all_windows(times: &TimestampMicrosecondArray, cumulation: &Cumulation) -> ArrayRef {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(times.len());
    for time in times {
        let before = starts.len();
        if let Some(time) = time {
            let start = cumulation.start(time);
            for steps in cumulation.steps(time) {
                starts.push(start);
                ends.push(start + steps * cumulation.step_us);
            }
        }
        lengths.push(starts.len() - before);
    }
    let columns: Vec<ArrayRef> =
        vec![Arc::new(TimestampMicrosecondArray::from(starts)), Arc::new(TimestampMicrosecondArray::from(ends))];
    let values = Arc::new(StructArray::new(window_fields(), columns, None));
    Arc::new(ListArray::new(item(), OffsetBuffer::from_lengths(lengths), values, None::<NullBuffer>))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_every_window_that_has_grown_over_it() {
        let windows = |durations: &[i64], time: i64| -> Vec<(i64, i64)> {
            let cumulation = Cumulation::new(durations).unwrap();
            let times = TimestampMicrosecondArray::from(vec![Some(time), None]);
            let lists = all_windows(&times, &cumulation);
            let lists = lists.as_list::<i32>();
            assert_eq!(lists.value(1).len(), 0);
            let first = lists.value(0);
            let column =
                |i: usize| first.as_struct().column(i).as_primitive::<TimestampMicrosecondType>().values().to_vec();
            column(0).into_iter().zip(column(1)).collect()
        };
        assert_eq!(windows(&[2, 6], 0), [(0, 2), (0, 4), (0, 6)]);
        assert_eq!(windows(&[2, 6], 3), [(0, 4), (0, 6)]);
        assert_eq!(windows(&[2, 6], 5), [(0, 6)]);
        assert_eq!(windows(&[2, 6], -1), [(-6, 0)]);
        assert_eq!(windows(&[2, 6, 1], 0), [(-5, 1)]);
        assert_eq!(windows(&[6, 6], 4), [(0, 6)]);
    }

    #[test]
    fn steps_that_make_no_windows_are_refused() {
        for durations in [&[0, 6][..], &[4, 6], &[2, 0], &[2, 6, 6], &[2]] {
            assert!(Cumulation::new(durations).is_err(), "{durations:?}");
        }
    }
}
