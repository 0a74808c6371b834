//! How does an application feed rows of its own to a stream? It pushes record batches into a memory stream.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use millstream::error::Result;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("sensor", DataType::Utf8, false),
        Field::new("value", DataType::Int64, false),
    ]));
    let readings = MemoryStream::new(Arc::clone(&schema));

    let totals = session
        .read_stream()
        .memory(&readings)?
        .aggregate(vec![col("sensor")], vec![count(lit(1)).alias("readings"), sum(col("value")).alias("total")])?;
    let query =
        totals.write_stream().output_mode(OutputMode::Complete).format("memory").query_name("totals").start("").await?;

    for (sensors, values) in [(vec!["cellar", "roof"], vec![4, 7]), (vec!["roof", "roof"], vec![8, 9])] {
        let sensors: ArrayRef = Arc::new(StringArray::from(sensors));
        let values: ArrayRef = Arc::new(Int64Array::from(values));
        readings.push(RecordBatch::try_new(Arc::clone(&schema), vec![sensors, values])?)?;

        // Returns when everything pushed so far has come out.
        query.process_all_available().await?;
        session.sql("SELECT sensor, readings, total FROM totals ORDER BY sensor").await?.show().await?;
    }
    query.stop().await
}
