//! The streaming queries over the topic.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::prelude::ParquetReadOptions;
use millstream::prelude::*;

use crate::Result;
use crate::load::{DELAY_MS, Groups, Load, WINDOW_MS};
use crate::tally::Tally;

/// What is asked of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How many there are; no column is needed for that.
    Messages,
    /// How many values there are; the values are read as they are.
    Values,
    /// How many there are by window and page; two columns are read from JSON.
    Windows,
}

/// Where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nowhere.
    Tally,
    /// Parquet files, with the checkpoint beside them.
    Parquet,
}

/// A query that reads all there is, and ends.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    pub question: Question,
    pub output: Output,
    /// How many messages a batch reads at most.
    pub limit: Option<i64>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// What left.
    pub left: Groups,
    /// How many groups stayed.
    pub stayed: i64,
}

impl Query {
    /// Runs it to its end, with what it writes in `folder`; returns how many groups stayed in its state.
    pub async fn run(&self, load: &Load, tally: &Arc<Tally>, folder: &Path) -> millstream::error::Result<i64> {
        let session = Session::new();
        let mut reader = session
            .read_stream()
            .format("kafka")
            .option("kafka.bootstrap.servers", &load.servers)
            .option("subscribe", load.topic())
            .option("startingOffsets", "earliest");
        if self.question == Question::Windows {
            reader = reader.schema(schema()).option("format", "json");
        }
        if let Some(limit) = self.limit {
            reader = reader.option("maxOffsetsPerTrigger", limit);
        }
        let messages = reader.load("").await?;
        let counted = match self.question {
            Question::Messages => messages.aggregate(vec![], vec![count(lit(1)).alias("n")])?,
            Question::Values => messages.aggregate(vec![], vec![count(col("value")).alias("n")])?,
            Question::Windows => {
                let window = window(col("ts"), &format!("{} seconds", WINDOW_MS / 1_000));
                let messages = messages.with_watermark("ts", &format!("{} seconds", DELAY_MS / 1_000))?;
                messages.aggregate(vec![window, col("page")], vec![count(lit(1)).alias("n")])?
            }
        };
        // A total never is what will not change again.
        let mode = if self.question == Question::Windows { OutputMode::Append } else { OutputMode::Update };
        let writer = counted.write_stream().output_mode(mode).trigger(Trigger::AvailableNow);
        let query = match self.output {
            Output::Tally => writer.sink(Arc::clone(tally) as Arc<dyn millstream::sink::Sink>).start("").await?,
            Output::Parquet => {
                let writer = writer.format("parquet");
                let writer = writer.option("checkpointLocation", folder.join("checkpoint").display());
                writer.start(&folder.join("table").display().to_string()).await?
            }
        };
        query.await_termination().await?;
        let last = query.last_batch().unwrap();
        Ok(last.state_operators[0].num_rows_total as i64)
    }

    /// Returns what left, once it has run.
    pub async fn left(&self, tally: &Tally, folder: &Path) -> Result<Groups> {
        if self.output == Output::Tally {
            return Ok(tally.groups());
        }
        let context = SessionContext::new();
        let table = folder.join("table").display().to_string();
        context.register_parquet("found", &table, ParquetReadOptions::default()).await?;
        let found = context.sql("SELECT count(*), sum(n) FROM found").await?.collect().await?;
        let number = |column: usize| found[0].column(column).as_primitive::<Int64Type>().value(0);
        Ok(Groups { groups: number(0), rows: number(1) })
    }

    /// Returns what must come of it.
    pub fn expected(&self, load: &Load) -> Answer {
        if self.question != Question::Windows {
            return Answer { left: Groups { groups: 1, rows: load.messages }, stayed: 1 };
        }
        let (closed, open) = load.closed_and_open();
        Answer { left: closed, stayed: open.groups }
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Int64, true),
        Field::new("page", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("note", DataType::Utf8, true),
    ]))
}
