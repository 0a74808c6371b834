//! How does one drop messages that come twice? Deduplication that forgets, and a table of what came too late.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream::error::Result;
use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let schema = Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("id", DataType::Utf8, true),
    ]));
    let messages = MemoryStream::new(Arc::clone(&schema));

    // An id is remembered until the watermark has passed its first message by the delay.
    let once = session
        .read_stream()
        .memory(&messages)?
        .with_watermark("at", "10 seconds")?
        .drop_duplicates_within_watermark(&["id"])?;
    let query =
        once.write_stream().format("memory").query_name("once").late_rows_to("memory", "too_late").start("").await?;

    for (seconds, ids) in
        [(vec![1, 2, 3], ["a", "b", "a"]), (vec![60, 61, 4], ["c", "c", "a"]), (vec![5, 62, 63], ["d", "b", "c"])]
    {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(seconds.iter().map(|s| s * 1_000_000)));
        let ids: ArrayRef = Arc::new(StringArray::from(ids.to_vec()));
        messages.push(RecordBatch::try_new(Arc::clone(&schema), vec![at, ids])?)?;
        query.process_all_available().await?;
    }
    query.stop().await?;
    session.sql("SELECT at, id FROM once ORDER BY at").await?.show().await?;
    session.sql("SELECT batch_id, watermark, row FROM too_late").await?.show().await?;
    Ok(())
}
