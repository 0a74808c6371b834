//! Spark's names for functions that DataFusion or `datafusion-spark` has already.
//!
//! A function is registered again with more names, so the new names compute just what the old ones do.

use std::sync::Arc;

use datafusion::functions::{core as conditions, math, string};
use datafusion::functions_aggregate::{bool_and_or, percentile_cont, stddev, variance};
use datafusion::functions_nested::range;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion_spark::function as spark;

use super::function::{Recast, Takes};

/// Returns scalar functions under more names.
pub(super) fn scalar_functions() -> Vec<ScalarUDF> {
    let also = |function: Arc<ScalarUDF>, names: &[&'static str]| {
        function.as_ref().clone().with_aliases(names.iter().copied())
    };
    vec![
        // DataFusion's nvl knows no dates and no timestamps; Spark's is coalesce of two
        also(conditions::coalesce(), &["nvl", "ifnull"]),
        also(string::lower(), &["lcase"]),
        also(string::upper(), &["ucase"]),
        also(string::starts_with(), &["startswith"]),
        also(string::ends_with(), &["endswith"]),
        also(math::signum(), &["sign"]),
        also(spark::string::char(), &["chr"]),
        also(range::gen_series_udf(), &["sequence"]),
        ScalarUDF::from(Recast::new(spark::string::space(), &[Takes::Int])),
        ScalarUDF::from(Recast::new(spark::math::factorial(), &[Takes::Int])),
    ]
}

/// Returns aggregate functions under more names.
pub(super) fn aggregate_functions() -> Vec<AggregateUDF> {
    let also = |function: Arc<AggregateUDF>, names: &[&'static str]| {
        function.as_ref().clone().with_aliases(names.iter().copied())
    };
    vec![
        also(bool_and_or::bool_and_udaf(), &["every"]),
        also(bool_and_or::bool_or_udaf(), &["some", "any"]),
        also(stddev::stddev_udaf(), &["std"]),
        also(variance::var_samp_udaf(), &["variance"]),
        also(percentile_cont::percentile_cont_udaf(), &["percentile"]),
        also(spark::aggregate::avg(), &["mean"]),
    ]
}
