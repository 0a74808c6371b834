//! When is each plane at work? Sessions: the flights of one plane that follow each other within eight hours.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream::error::Result;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("sched_dep", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("tailnum", DataType::Utf8, true),
    ]));
    let flights = session
        .read_stream()
        .format("json")
        .schema(schema)
        .option("orderBy", "path")
        .option("maxFilesPerTrigger", 4)
        .load("sql/data/flights/")
        .await?;

    // A session leaves when the watermark has reached its end: nothing can make it longer any more.
    let at_work = flights.filter(col("tailnum").is_not_null())?.with_watermark("sched_dep", "3 hours")?.aggregate(
        vec![session_window(col("sched_dep"), lit("8 hours")), col("tailnum")],
        vec![count(lit(1)).alias("flights")],
    )?;
    let query = at_work
        .write_stream()
        .output_mode(OutputMode::Append)
        .trigger(Trigger::AvailableNow)
        .format("memory")
        .query_name("at_work")
        .start("")
        .await?;
    query.await_termination().await?;

    let longest = "SELECT tailnum, session_window.start AS from_time, session_window.end AS to_time, flights \
                   FROM at_work ORDER BY flights DESC, tailnum, from_time LIMIT 5";
    session.sql(longest).await?.show().await?;
    Ok(())
}
