//! How do I read from something that Millstream does not know? Implement `Source`, and register it by name.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_plan::{SendableRecordBatchStream, stream::RecordBatchStreamAdapter};
use millstream::error::Result;
use millstream::prelude::*;
use millstream::source::{
    Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split,
};
use serde_json::json;

/// The square numbers of 0 to 9, four a batch. Any range of them can be read again, so a crash loses nothing.
#[derive(Debug)]
struct Squares;

/// An offset is the next number; none is the beginning.
fn number(offset: Option<&Offset>) -> i64 {
    offset.and_then(|offset| offset["next"].as_i64()).unwrap_or(0)
}

#[async_trait]
impl Source for Squares {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("square", DataType::Int64, false)]))
    }
    fn description(&self) -> String {
        "Squares".to_string()
    }
    async fn open(&self, _context: SourceContext) -> Result<()> {
        Ok(())
    }
    async fn fix_end(&self) -> Result<()> {
        Ok(())
    }
    async fn plan(&self, start: Option<&Offset>, limit: ReadLimit) -> Result<Option<Planned>> {
        let next = if limit == ReadLimit::All { 10 } else { 10.min(number(start) + 4) };
        let end = json!({"version": 1, "next": next});
        let splits = self.replay(start, &end).await?;
        Ok((next > number(start)).then_some(Planned { end, splits }))
    }
    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        Ok(vec![Split { description: json!([number(start), number(Some(end))]), weight: 1 }])
    }
    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let (from, to) = (split.description[0].as_i64().unwrap_or(0), split.description[1].as_i64().unwrap_or(0));
        let squares = Int64Array::from_iter_values((from..to).map(|n| n * n));
        let rows = RecordBatch::try_new(Source::schema(self), vec![Arc::new(squares)])?;
        let rows = rows.project(&context.projection.unwrap_or(vec![0]))?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(rows.schema(), futures::stream::iter([Ok(rows)]))))
    }
    async fn commit(&self, _end: &Offset) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl SourceProvider for Squares {
    async fn schema(&self, _spec: &SourceSpec) -> Result<SchemaRef> {
        Ok(Source::schema(self))
    }
    async fn create(&self, _spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Squares))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    session.register_source("squares", Arc::new(Squares));
    let squares = session.read_stream().format("squares").load("").await?;
    let query = squares.write_stream().trigger(Trigger::AvailableNow).format("memory").query_name("squares");
    query.start("").await?.await_termination().await?;
    session.sql("SELECT square FROM squares ORDER BY square").await?.show().await?;
    Ok(())
}
