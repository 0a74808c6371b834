//! `read_stream()`: a stream as a DataFrame.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::DataFrame;

use super::Inner;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::stream_table::StreamTable;
use crate::source::memory::MemoryStream;
use crate::source::{SourceProvider, SourceSpec, WatermarkOptions};

/// Says what to read. Spark's DataStreamReader.
pub struct DataStreamReader {
    session: Arc<Inner>,
    format: String,
    schema: Option<SchemaRef>,
    options: Options,
    name: Option<String>,
}

impl DataStreamReader {
    pub(super) fn new(session: Arc<Inner>) -> Self {
        Self { session, format: "parquet".to_string(), schema: None, options: Options::new(), name: None }
    }

    /// Sets the format: json, csv, parquet, text, rate, rate-micro-batch, socket, or one the application registered.
    #[must_use]
    pub fn format(mut self, format: &str) -> Self {
        self.format = format.to_lowercase();
        self
    }

    /// Declares the schema of the rows. Every column is nullable, whatever the schema says.
    #[must_use]
    pub fn schema(mut self, schema: SchemaRef) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Sets an option of the source, or `idleTimeout`: after so long without rows its watermark holds that of the query
    /// back no more.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.options.set(name, value);
        self
    }

    /// Sets many options.
    #[must_use]
    pub fn options(mut self, options: &Options) -> Self {
        self.options.extend(options);
        self
    }

    /// Names the source: its offsets are kept under the name, so that sources may be reordered.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_string());
        self
    }

    /// Reads from `path`; for a source without one, such as rate, it is empty.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown format, option or bad value; `Unavailable` where the path does not exist.
    pub async fn load(self, path: &str) -> Result<DataFrame> {
        let provider = self.session.registry().source(&self.format)?;
        self.read(provider, (!path.is_empty()).then(|| path.to_string())).await
    }

    /// Reads a table of the session as a stream.
    ///
    /// # Errors
    /// `InvalidQuery` where there is none.
    pub async fn table(self, name: &str) -> Result<DataFrame> {
        self.session.run_one(&format!("SELECT * FROM STREAM {name}")).await
    }

    /// Reads what the application pushes into `stream`.
    ///
    /// # Errors
    /// `InvalidOption` for options a memory stream does not have.
    pub fn memory(mut self, stream: &MemoryStream) -> Result<DataFrame> {
        let watermarks = WatermarkOptions::take(&mut self.options)?;
        let schema = stream.schema();
        let spec = self.spec("memory".to_string(), Some(Arc::clone(&schema)), None);
        self.dataframe(Arc::new(stream.clone()), spec, schema, watermarks)
    }

    async fn read(mut self, provider: Arc<dyn SourceProvider>, path: Option<String>) -> Result<DataFrame> {
        let watermarks = WatermarkOptions::take(&mut self.options)?;
        let spec = self.spec(self.format.clone(), self.schema.clone(), path);
        let schema = provider.schema(&spec).await?;
        self.dataframe(provider, spec, schema, watermarks)
    }

    fn spec(&self, format: String, schema: Option<SchemaRef>, path: Option<String>) -> SourceSpec {
        SourceSpec { format, schema, path, options: self.options.clone(), clock: Arc::clone(&self.session.clock) }
    }

    fn dataframe(
        self,
        provider: Arc<dyn SourceProvider>,
        spec: SourceSpec,
        schema: SchemaRef,
        watermarks: WatermarkOptions,
    ) -> Result<DataFrame> {
        if schema.fields().is_empty() {
            return Err(Error::invalid_query("the source has no columns"));
        }
        let name = self.name.clone().or_else(|| spec.path.clone()).unwrap_or_else(|| spec.format.clone());
        let spec = SourceSpec { schema: Some(Arc::clone(&schema)), ..spec };
        let identified_by = self.name;
        let table = StreamTable { name, schema, provider, spec, watermark: None, identified_by, watermarks };
        Ok(self.session.context.read_table(Arc::new(table))?)
    }
}
