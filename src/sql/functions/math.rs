//! Functions of numbers: logarithms as Spark has them (`log(x)` is the natural one, and what has no logarithm gives
//! NULL), `bround`, `conv`, `e`, `positive`, …

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;

use super::function::{Arguments, Function, Returns, Takes, doubles, same_type, texts};

/// Returns the functions of this family.
pub(super) fn functions() -> Vec<Function> {
    use Takes::{Anything, Double, Int, Text};
    let double = || Returns::Type(DataType::Float64);
    vec![
        Function::new("log([base, ]number)", &[Double, Double], 1, double(), log),
        Function::new("ln(number)", &[Double], 1, double(), |args| logarithm(args, f64::ln)),
        Function::new("log2(number)", &[Double], 1, double(), |args| logarithm(args, f64::log2)),
        Function::new("log10(number)", &[Double], 1, double(), |args| logarithm(args, f64::log10)),
        Function::new("log1p(number)", &[Double], 1, double(), log1p),
        Function::new("bround(number[, decimals])", &[Double, Int], 1, double(), bround),
        Function::new("conv(number, from_base, to_base)", &[Text, Int, Int], 3, Returns::Type(DataType::Utf8), conv),
        Function::new("e()", &[], 0, double(), |args| doubles(args.rows(), |_| Ok(Some(std::f64::consts::E)))),
        Function::new("positive(number)", &[Anything], 1, Returns::From(same_type), |args| args.array(0)),
    ]
}

fn logarithm(args: &Arguments, logarithm: fn(f64) -> f64) -> Result<ArrayRef> {
    let values = args.doubles(0)?;
    doubles(args.rows(), |row| Ok(values.get(row).filter(|x| has_logarithm(*x)).map(logarithm)))
}

/// NaN has one, which is NaN.
fn has_logarithm(x: f64) -> bool {
    x > 0.0 || x.is_nan()
}

fn log(args: &Arguments) -> Result<ArrayRef> {
    if args.len() == 1 {
        return logarithm(args, f64::ln);
    }
    let (bases, values) = (args.doubles(0)?, args.doubles(1)?);
    doubles(args.rows(), |row| {
        Ok(match (bases.get(row), values.get(row)) {
            (Some(base), Some(x)) if has_logarithm(base) && has_logarithm(x) => Some(x.ln() / base.ln()),
            _ => None,
        })
    })
}

fn log1p(args: &Arguments) -> Result<ArrayRef> {
    let values = args.doubles(0)?;
    doubles(args.rows(), |row| Ok(values.get(row).filter(|x| has_logarithm(x + 1.0)).map(f64::ln_1p)))
}

fn bround(args: &Arguments) -> Result<ArrayRef> {
    let values = args.doubles(0)?;
    let decimals = if args.len() > 1 { Some(args.ints(1)?) } else { None };
    doubles(args.rows(), |row| {
        let decimals = decimals.as_ref().map_or(Some(0), |decimals| decimals.get(row));
        Ok(match (values.get(row), decimals) {
            (Some(x), Some(decimals)) => Some(round_half_even(x, decimals)),
            _ => None,
        })
    })
}

fn round_half_even(x: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals.abs());
    let scaled = if decimals >= 0 { x * scale } else { x / scale };
    match scaled.is_finite() {
        true if decimals >= 0 => scaled.round_ties_even() / scale,
        true => scaled.round_ties_even() * scale,
        false => x,
    }
}

fn conv(args: &Arguments) -> Result<ArrayRef> {
    let (numbers, from_bases, to_bases) = (args.text(0)?, args.ints(1)?, args.ints(2)?);
    texts(args.rows(), |row| {
        Ok(match (numbers.get(row), from_bases.get(row), to_bases.get(row)) {
            (Some(number), Some(from), Some(to)) => convert(number.trim(), from, to),
            _ => None,
        })
    })
}

/// Reads digits of base `from` as far as they go and writes them in base `to`; a negative `to` writes a sign, others
/// write a negative number as its 64 bits.
fn convert(number: &str, from: i32, to: i32) -> Option<String> {
    let bases = 2..=36;
    let (from, to_base) = (u32::try_from(from).ok()?, to.unsigned_abs());
    if !bases.contains(&from) || !bases.contains(&to_base) || number.is_empty() {
        return None;
    }
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    let magnitude = digits.chars().map_while(|c| c.to_digit(from)).fold(0_u64, |sum, digit| {
        sum.checked_mul(u64::from(from)).and_then(|sum| sum.checked_add(u64::from(digit))).unwrap_or(u64::MAX)
    });
    let bits = if negative { magnitude.wrapping_neg() } else { magnitude };
    let (sign, mut rest) = match to < 0 && (bits as i64) < 0 {
        true => ("-", bits.wrapping_neg()),
        false => ("", bits),
    };
    let mut reversed = Vec::new();
    while rest > 0 || reversed.is_empty() {
        let digit = u32::try_from(rest % u64::from(to_base)).ok()?;
        reversed.push(char::from_digit(digit, to_base)?.to_ascii_uppercase());
        rest /= u64::from(to_base);
    }
    Some(sign.chars().chain(reversed.into_iter().rev()).collect())
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::super::tests::{check, s};

    #[test]
    fn numbers_are_computed_as_spark_computes_them() {
        let double = |value| ScalarValue::Float64(Some(value));
        let long = |value| ScalarValue::Int64(Some(value));
        check(&[
            ("log", vec![double(1.0)], "0.0"),
            ("log", vec![long(10), long(100)], "2.0"),
            ("ln", vec![double(0.0)], "NULL"),
            ("log10", vec![long(1000)], "3.0"),
            ("log2", vec![double(-1.0)], "NULL"),
            ("log1p", vec![double(0.0)], "0.0"),
            ("bround", vec![double(2.5), long(0)], "2.0"),
            ("bround", vec![double(25.0), long(-1)], "20.0"),
            ("conv", vec![s("100"), long(2), long(10)], "4"),
            ("conv", vec![long(-10), long(16), long(-10)], "-16"),
            ("conv", vec![s("-1"), long(10), long(16)], "FFFFFFFFFFFFFFFF"),
            ("conv", vec![s("11"), long(1), long(10)], "NULL"),
        ]);
    }
}
