//! How does an application run a SQL script? `run_script` returns when every flow of the script has ended.

#![allow(clippy::print_stdout)] // an example shows what it does

use millstream::error::Result;
use millstream::prelude::*;

const SCRIPT: &str = "
    CREATE UNBOUNDED EXTERNAL TABLE flights (
      sched_dep TIMESTAMP, dep_delay INT, origin STRING,
      WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
    ) STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

    CREATE EXTERNAL TABLE days STORED AS MEMORY;

    CREATE FLOW count_days OUTPUT MODE append TRIGGER AVAILABLE NOW
    AS INSERT INTO days
    SELECT window.start AS day, origin, count(*) AS flights, max(dep_delay) AS longest_delay
    FROM STREAM flights
    GROUP BY window(sched_dep, '1 day'), origin;
";

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    session.run_script(SCRIPT).await?;

    // What the flows left in memory tables stays in the session; a batch query is an ordinary DataFrame.
    let days = session.sql("SELECT day, origin, flights, longest_delay FROM days ORDER BY day, origin").await?;
    let rows = days.clone().count().await?;
    println!("{rows} rows:");
    days.show().await?;
    Ok(())
}
