//! How do I watch the queries of a session? A listener hears when one starts, makes progress and ends.

#![allow(clippy::print_stdout)] // an example shows what it does

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use millstream::error::Result;
use millstream::prelude::*;

/// Prints what it hears. It is called between batches, so it must be quick.
struct Printer;

impl StreamingQueryListener for Printer {
    fn on_query_started(&self, event: &QueryStarted) {
        println!("started: {}", event.name.as_deref().unwrap_or("a query without a name"));
    }

    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        println!("batch {}: {} rows in", progress.batch_id, progress.num_input_rows);
    }

    fn on_query_terminated(&self, event: &QueryTerminated) {
        println!("ended: {}", event.exception.as_deref().unwrap_or("all is well"));
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    session.add_listener(Arc::new(Printer));

    let schema = Arc::new(Schema::new(vec![Field::new("origin", DataType::Utf8, true)]));
    let flights = session
        .read_stream()
        .format("json")
        .schema(schema)
        .option("orderBy", "path")
        .option("maxFilesPerTrigger", 7)
        .load("sql/data/flights/")
        .await?;
    let query = flights
        .aggregate(vec![col("origin")], vec![count(lit(1)).alias("flights")])?
        .write_stream()
        .output_mode(OutputMode::Update)
        .trigger(Trigger::AvailableNow)
        .format("noop")
        .query_name("flights_by_airport")
        .start("")
        .await?;
    query.await_termination().await?;

    if let Some(progress) = query.last_progress() {
        println!("the last batch was batch {}", progress.batch_id);
    }
    Ok(())
}
