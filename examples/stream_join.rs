//! Which orders were paid within ten minutes, and which were not? A left join of two streams.
//!
//! The condition bounds the times against each other, so the join knows when an order can find no payment any more: then
//! the order leaves alone, and is forgotten.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use millstream::error::Result;
use millstream::prelude::*;

const MINUTE_US: i64 = 60_000_000;

fn schema(prefix: &str) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(format!("{prefix}_ts"), DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new(format!("{prefix}_id"), DataType::Int64, true),
    ]))
}

/// Rows of (minute, id).
fn rows(prefix: &str, rows: &[(i64, i64)]) -> Result<RecordBatch> {
    let times = rows.iter().map(|(minute, _)| minute * MINUTE_US);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, id)| *id))),
    ];
    Ok(RecordBatch::try_new(schema(prefix), columns)?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let (orders, payments) = (MemoryStream::new(schema("order")), MemoryStream::new(schema("payment")));
    let ten_minutes = lit(ScalarValue::new_interval_dt(0, 600_000));
    let joined = session.read_stream().memory(&orders)?.with_watermark("order_ts", "1 minute")?.join_on(
        session.read_stream().memory(&payments)?.with_watermark("payment_ts", "1 minute")?,
        JoinType::Left,
        [
            col("order_id").eq(col("payment_id")),
            col("payment_ts").between(col("order_ts"), col("order_ts") + ten_minutes),
        ],
    )?;
    let query = joined.write_stream().format("memory").query_name("orders").start("").await?;

    orders.push(rows("order", &[(1, 100), (2, 101)])?)?;
    payments.push(rows("payment", &[(4, 100)])?)?;
    query.process_all_available().await?;
    session.sql("SELECT * FROM orders").await?.show().await?;

    // Time goes on, and nobody has paid for order 101.
    orders.push(rows("order", &[(30, 102)])?)?;
    payments.push(rows("payment", &[(31, 102)])?)?;
    query.process_all_available().await?;
    session.sql("SELECT * FROM orders ORDER BY order_id").await?.show().await?;
    query.stop().await
}
