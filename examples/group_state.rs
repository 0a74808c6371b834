//! How do I remember one value for each key, with a plain function? `map_groups_with_state` gives it a `GroupState`.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use millstream::error::Result;
use millstream::prelude::*;

state_row! {
    /// What the files hold; a flight that was cancelled has no delay.
    #[derive(Clone)]
    struct Flight { dep_delay: Option<i32> }
}

state_row! {
    /// What comes out.
    #[derive(Clone)]
    struct Record { carrier: Option<String>, flights: i64, longest_delay: i32 }
}

/// Counts a carrier's flights and keeps its longest delay; the state is a pair of both.
fn record(key: &GroupKey<'_>, rows: &RecordBatch, state: &mut GroupState<'_, (i64, i32)>) -> Result<RecordBatch> {
    let (mut flights, mut longest_delay) = state.get_option()?.unwrap_or_default();
    for flight in Flight::read(rows)? {
        flights += 1;
        longest_delay = longest_delay.max(flight.dep_delay.unwrap_or(0));
    }
    state.update((flights, longest_delay))?;
    Record::batch(&[Record { carrier: key.get(0)?, flights, longest_delay }])
}

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

    let records =
        flights.map_groups_with_state(vec![col("carrier")], Record::schema(), GroupStateTimeout::None, record)?;
    let query = records
        .write_stream()
        .output_mode(OutputMode::Update)
        .trigger(Trigger::AvailableNow)
        .format("memory")
        .query_name("records")
        .start("")
        .await?;
    query.await_termination().await?;

    // Every batch adds a row for each carrier that it brought flights of: the newest is the one that counts most.
    let newest = "SELECT carrier, max(flights) AS flights, max(longest_delay) AS longest_delay FROM records \
                  GROUP BY carrier ORDER BY flights DESC LIMIT 5";
    session.sql(newest).await?.show().await?;
    Ok(())
}
