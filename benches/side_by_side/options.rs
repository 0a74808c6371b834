//! What the command line says.

use clap::Parser;

use crate::work::Side;

#[derive(Debug, Parser)]
pub struct Options {
    /// How many rows a work takes, instead of its own number.
    #[arg(long)]
    pub rows: Option<i64>,
    /// The works whose names begin so, and no others.
    #[arg(long)]
    pub work: Option<String>,
    /// How many rows Spark takes at most.
    #[arg(long, default_value_t = 4_000_000)]
    pub spark_rows: i64,
    /// How many groups the state holds at most.
    #[arg(long, default_value_t = 10_000_000)]
    pub groups_max: i64,
    /// One side of one work, in this process.
    #[arg(long, hide = true)]
    pub side: Option<Side>,
    /// What cargo hands to every bench.
    #[arg(long, hide = true)]
    pub bench: bool,
}
