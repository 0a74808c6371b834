//! A small query with state for tests of what can go wrong on the way: counts by window and key, a push a batch.
//!
//! The stream outlives the sessions, so that a query can be started again on its checkpoint.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream::error::Result;
use millstream::prelude::*;
use millstream::storage::DurableStore;

use crate::collected::{Batches, Collected};

/// How many pushes there are.
const PUSHES: i64 = 5;

pub(crate) fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("ts", time, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

/// The rows of push `push`: `rows` of them, over some keys, ten seconds after those of the push before.
pub(crate) fn rows(push: i64, rows: i64) -> RecordBatch {
    let times = (0..rows).map(|row| (push * 10 + row % 10) * 1_000_000);
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times));
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("k{}", row % 3))));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|row| push * rows + row)));
    RecordBatch::try_new(schema(), vec![times, keys, values]).unwrap()
}

/// The stream.
pub(crate) fn stream() -> MemoryStream {
    let stream = MemoryStream::new(schema());
    (0..PUSHES).for_each(|push| stream.push(rows(push, 6)).unwrap());
    stream
}

/// Counts `frame` by window and key, up to a watermark without delay.
pub(crate) fn counts(frame: DataFrame) -> Result<DataFrame> {
    by_window(frame.with_watermark("ts", "0 seconds")?)
}

/// Counts `frame` by window and key.
pub(crate) fn by_window(frame: DataFrame) -> Result<DataFrame> {
    let keys = vec![window(col("ts"), "10 seconds"), col("k")];
    Ok(frame.aggregate(keys, vec![count(lit(1)).alias("n"), sum(col("v")).alias("s")])?)
}

/// Starts the query over `stream` into `sink`, its checkpoint in `store`.
pub(crate) async fn start(
    stream: &MemoryStream,
    sink: &Collected,
    store: Arc<dyn DurableStore>,
) -> Result<StreamingQuery> {
    let session = Session::builder().lanes(1).build();
    let frame = session.read_stream().option("maxBatchesPerTrigger", 1).memory(stream)?;
    let writer = counts(frame)?.write_stream().trigger(Trigger::AvailableNow).query_name("counted");
    writer.sink(Arc::new(sink.clone())).checkpoint_store(store).start("").await
}

/// Runs the query to its end.
pub(crate) async fn run(stream: &MemoryStream, sink: &Collected, store: Arc<dyn DurableStore>) -> Result<()> {
    start(stream, sink, store).await?.await_termination().await
}

/// What an unbroken run gives.
pub(crate) async fn unbroken() -> Batches {
    let sink = Collected::default();
    run(&stream(), &sink, crate::failing_store::memory()).await.unwrap();
    let batches = sink.batches();
    assert!(batches.len() as i64 >= PUSHES && batches.values().filter(|rows| !rows.is_empty()).count() >= 3);
    batches
}
