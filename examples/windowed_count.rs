//! How many flights left each airport every six hours? A windowed count with the DataFrame API.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream::error::Result;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();

    // Fields of the files that are not named here are not read.
    let schema = Arc::new(Schema::new(vec![
        Field::new("sched_dep", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("dep_delay", DataType::Int32, true),
        Field::new("origin", DataType::Utf8, true),
    ]));
    let flights = session
        .read_stream()
        .format("json")
        .schema(schema)
        .option("orderBy", "path")
        .option("maxFilesPerTrigger", 4)
        .load("sql/data/flights/")
        .await?;

    let counted = flights.with_watermark("sched_dep", "3 hours")?.aggregate(
        vec![window(col("sched_dep"), "6 hours"), col("origin")],
        vec![count(lit(1)).alias("flights"), avg(col("dep_delay")).alias("delay")],
    )?;

    // The memory sink makes a table of the query's name.
    let query = counted
        .write_stream()
        .output_mode(OutputMode::Append)
        .trigger(Trigger::AvailableNow)
        .format("memory")
        .query_name("counted")
        .start("")
        .await?;
    query.await_termination().await?;

    let result = session
        .sql("SELECT window.start AS from_time, origin, flights, delay FROM counted ORDER BY from_time, origin LIMIT 9")
        .await?;
    result.show().await?;
    Ok(())
}
