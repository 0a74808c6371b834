//! How busy is each airport's busiest hour of a day? A chain: an aggregate over hours, and one over days above it.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream::error::Result;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();

    let schema = Arc::new(Schema::new(vec![
        Field::new("sched_dep", DataType::Timestamp(TimeUnit::Microsecond, None), true),
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

    let hourly = flights.with_watermark("sched_dep", "3 hours")?.aggregate(
        vec![window(col("sched_dep"), "1 hour").alias("hour"), col("origin")],
        vec![count(lit(1)).alias("flights")],
    )?;
    // A day closes in the micro-batch in which the last of its hours does.
    let daily = hourly.aggregate(
        vec![window(col("hour"), "1 day").alias("day"), col("origin")],
        vec![max(col("flights")).alias("busiest_hour"), sum(col("flights")).alias("flights")],
    )?;
    let query = daily
        .write_stream()
        .output_mode(OutputMode::Append)
        .trigger(Trigger::AvailableNow)
        .format("memory")
        .query_name("daily")
        .start("")
        .await?;
    query.await_termination().await?;

    let result = session
        .sql("SELECT day.start AS day, origin, busiest_hour, flights FROM daily ORDER BY day, origin LIMIT 9")
        .await?;
    result.show().await?;
    Ok(())
}
