//! What a work comes to: the rows that left a query, and the few numbers of them that all sides must agree on.

use std::path::Path;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::prelude::ParquetReadOptions;
use millstream::error::Result;
use millstream::prelude::*;

/// Runs a streaming query over all that is there, with its checkpoint in `folder`, and returns the rows that left it.
pub async fn run_to_end(rows: DataFrame, mode: OutputMode, folder: &Path) -> Result<Vec<RecordBatch>> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&found);
    let query = rows
        .write_stream()
        .output_mode(mode)
        .trigger(Trigger::AvailableNow)
        .option("checkpointLocation", folder.join("checkpoint").display())
        .foreach_batch(move |rows: DataFrame, _| {
            let kept = Arc::clone(&kept);
            async move {
                let rows = rows.collect().await?;
                kept.lock().unwrap().extend(rows);
                Ok(())
            }
        })
        .start("")
        .await?;
    query.await_termination().await?;
    let found = std::mem::take(&mut *found.lock().unwrap());
    Ok(found)
}

/// Returns what `sql` says of the table `found`: one row of whole numbers.
pub async fn of_rows(found: Vec<RecordBatch>, sql: &str) -> datafusion::error::Result<Vec<i64>> {
    let context = SessionContext::new();
    let schema = found.first().map(RecordBatch::schema).unwrap();
    context.register_table("found", Arc::new(MemTable::try_new(schema, vec![found])?))?;
    whole_numbers(&context, sql).await
}

/// Returns what `sql` says of the table `found` that is the Parquet files of a folder.
pub async fn of_files(folder: &Path, sql: &str) -> datafusion::error::Result<Vec<i64>> {
    let context = SessionContext::new();
    context.register_parquet("found", &folder.display().to_string(), ParquetReadOptions::default()).await?;
    whole_numbers(&context, sql).await
}

async fn whole_numbers(context: &SessionContext, sql: &str) -> datafusion::error::Result<Vec<i64>> {
    let rows = context.sql(sql).await?.collect().await?;
    let columns = rows[0].columns().iter();
    Ok(columns.map(|column| column.as_primitive::<Int64Type>().value(0)).collect())
}
