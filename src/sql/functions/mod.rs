//! The functions that analysts know from Spark and that neither DataFusion nor `datafusion-spark` has under Spark's
//! name, or with Spark's meaning.
//!
//! The session registers them after DataFusion's and `datafusion-spark`'s own, so that on a clash these win. One file a
//! family; what all scalar functions share is in `function`, what all readers of time share in `instant` and
//! `java_pattern`. Every aggregate keeps its state in Arrow columns and merges it, since a stream keeps it for days.

mod aliases;
mod approx_count_distinct;
#[cfg(feature = "kafka")]
mod avro;
mod calendar;
mod collection;
mod conditional;
mod constant;
mod count_if;
mod datetime;
mod ddl;
mod extreme;
mod first_last;
mod from_json;
mod function;
mod hash;
mod instant;
mod java_pattern;
mod json;
mod json_value;
mod math;
mod percentile_approx;
mod quantile_summary;
mod regular;
mod text;
mod to_json;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Returns the scalar functions, to be registered after those of DataFusion and `datafusion-spark`.
pub fn scalar_functions() -> Vec<ScalarUDF> {
    let own = [
        #[cfg(feature = "kafka")]
        avro::functions(),
        calendar::functions(),
        collection::functions(),
        conditional::functions(),
        datetime::functions(),
        from_json::functions(),
        hash::functions(),
        json::functions(),
        math::functions(),
        regular::functions(),
        text::functions(),
        to_json::functions(),
    ];
    let own = own.into_iter().flatten().map(ScalarUDF::from);
    aliases::scalar_functions().into_iter().chain(calendar::recast()).chain(own).collect()
}

/// Returns the aggregate functions, to be registered after those of DataFusion and `datafusion-spark`.
pub fn aggregate_functions() -> Vec<AggregateUDF> {
    let mut functions = aliases::aggregate_functions();
    functions.extend([
        approx_count_distinct::function(),
        count_if::function(),
        extreme::max_by(),
        extreme::min_by(),
        first_last::first(),
        first_last::last(),
        first_last::any_value(),
        percentile_approx::function(),
    ]);
    functions
}

#[cfg(test)]
mod tests;
