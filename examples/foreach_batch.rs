//! How do I hand every micro-batch to code of my own? `foreach_batch` gives it as an ordinary DataFrame.

#![allow(clippy::print_stdout)] // an example shows what it does

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use millstream::error::{Error, Result};
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("dep_delay", DataType::Int32, true),
        Field::new("carrier", DataType::Utf8, true),
    ]));
    let flights = session
        .read_stream()
        .format("json")
        .schema(schema)
        .option("orderBy", "path")
        .option("maxFilesPerTrigger", 4)
        .load("sql/data/flights/")
        .await?;

    // A batch that was under way when the process died comes again, with the same rows and the same id: code with an
    // effect outside remembers the id and skips what it has done.
    let query = flights
        .filter(col("dep_delay").gt(lit(120)))?
        .write_stream()
        .trigger(Trigger::AvailableNow)
        .foreach_batch(|rows: DataFrame, batch_id: i64| async move {
            let rows = rows.count().await?;
            println!("batch {batch_id}: {rows} flights were over two hours late");
            Ok::<(), Error>(())
        })
        .start("")
        .await?;
    query.await_termination().await
}
