//! The tables of a session: what CREATE TABLE declared, and what DataFusion can read of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::datasource::TableProvider;

use super::Inner;
use crate::error::{Error, Result};
use crate::operator::static_read::{StaticFiles, take_refresh_interval};
use crate::options::Options;
use crate::plan::static_table::StaticTable;
use crate::plan::stream_table::StreamTable;
use crate::sink::memory::MemoryTable;
use crate::source::file::{FILE_FORMATS, FileFormat, list_files_with};
use crate::source::{SourceSpec, WatermarkOptions};
use crate::sql::statement::{CreateTable, TableDefinition};

/// Options of a table that only its sink reads.
const SINK_OPTIONS: &[&str] = &["compression", "targetFileSize", "shared", "readers", "checkpointLocation"];

/// The format of tables that a flow keeps in this process.
pub(super) const MEMORY: &str = "memory";

/// The tables that were declared, by name.
pub(super) type Tables = BTreeMap<String, TableDefinition>;

impl Inner {
    /// Declares a table and lets DataFusion read it, where it can be read already.
    pub(super) async fn create_table(&self, create: CreateTable) -> Result<()> {
        let CreateTable { or_replace, unbounded, table } = create;
        let name = table.name.table().to_string();
        if self.tables().contains_key(&name) || self.context.table_exist(table.name.clone())? {
            if table.if_not_exists {
                return Ok(());
            }
            if !or_replace {
                return Err(Error::invalid_query(format!(
                    "a table '{name}' exists: use CREATE OR REPLACE, IF NOT EXISTS, or another name"
                )));
            }
            self.context.deregister_table(table.name.clone())?;
        }
        let format = table
            .format
            .clone()
            .ok_or_else(|| Error::invalid_query(format!("table '{name}' needs STORED AS, such as STORED AS JSON")))?;
        let registry = self.registry();
        if !registry.has_source(&format) && !registry.has_sink(&format) && format != MEMORY {
            registry.source(&format)?;
        }
        let reads = registry.has_source(&format);
        let is_file = FILE_FORMATS.contains(&format.as_str());
        if table.watermark.is_some() && !reads {
            return Err(Error::invalid_query(format!("WATERMARK FOR: nothing can be read from table '{name}'")));
        }
        if is_file && table.location.is_none() {
            return Err(Error::invalid_query(format!("table '{name}' needs a LOCATION: the directory of its files")));
        }
        let writes = registry.has_sink(&format);
        if reads && (unbounded || !is_file) {
            match self.stream_table(&table, &format).await {
                Ok(stream) => drop(self.context.register_table(table.name.clone(), Arc::new(stream))?),
                // It says enough to be written, and not to be read.
                Err(_) if writes && !unbounded => {}
                Err(error) => return Err(error),
            }
        } else if is_file {
            self.register_files(&table, None).await?;
        } else if unbounded {
            return Err(Error::unsupported(format!(
                "nothing can be read from format '{format}', so table '{name}' cannot be UNBOUNDED"
            )));
        }
        self.tables().insert(name, table);
        Ok(())
    }

    /// Makes the stream over a table, its schema declared or inferred.
    async fn stream_table(&self, table: &TableDefinition, format: &str) -> Result<StreamTable> {
        let provider = self.registry().source(format)?;
        let (spec, watermarks) = self.source_spec(table, format)?;
        let schema = provider.schema(&spec).await.map_err(|e| e.context(format!("table '{}'", table.name.table())))?;
        let watermark = table.watermark.as_ref().map(|w| (w.column.clone(), w.delay_us));
        if let Some((column, _)) = &watermark
            && schema.field_with_name(column).is_err()
        {
            return Err(Error::invalid_query(format!(
                "WATERMARK FOR {column}: table '{}' has no such column",
                table.name.table()
            )));
        }
        let spec = SourceSpec { schema: Some(Arc::clone(&schema)), ..spec };
        let name = table.name.table().to_string();
        Ok(StreamTable { name, schema, provider, spec, watermark, identified_by: None, watermarks })
    }

    /// What a table says of its source, and of its watermarks, which the engine reads.
    fn source_spec(&self, table: &TableDefinition, format: &str) -> Result<(SourceSpec, WatermarkOptions)> {
        let mut options: Options = table.options.clone();
        for name in SINK_OPTIONS {
            options.remove(name);
        }
        let watermarks = WatermarkOptions::take(&mut options)?;
        let spec = SourceSpec {
            format: format.to_string(),
            schema: declared(table),
            path: table.location.clone(),
            options,
            clock: Arc::clone(&self.clock),
        };
        Ok((spec, watermarks))
    }

    /// Lets DataFusion read a table of files. Without declared columns, without `rows` to say what a flow writes, and
    /// without files yet, that must wait.
    pub(super) async fn register_files(&self, table: &TableDefinition, rows: Option<SchemaRef>) -> Result<()> {
        let (Some(format), Some(path)) = (table.format.clone(), table.location.clone()) else {
            return Ok(());
        };
        let (mut spec, watermarks) = self.source_spec(table, &format)?;
        let refresh_ms = take_refresh_interval(&mut spec.options)?;
        let schema = declared(table).or(rows);
        let files = match (&schema, list_files_with(&path, &spec.options).await) {
            (Some(_), _) => Vec::new(),
            (None, Ok(files)) if !files.is_empty() => files,
            // Nothing to infer from: the table is a sink until a flow has written to it.
            (None, _) => return Ok(()),
        };
        let format_of = FileFormat::open(&format, schema, &spec.options, &files).await;
        let file_format = format_of.map_err(|e| e.context(format!("table '{}'", table.name.table())))?;
        let spec_options = spec.options.clone();
        let spec = SourceSpec { schema: Some(file_format.schema()), ..spec };
        let stream = StreamTable {
            name: table.name.table().to_string(),
            schema: file_format.schema(),
            provider: self.registry().source(&format)?,
            spec,
            watermark: table.watermark.as_ref().map(|w| (w.column.clone(), w.delay_us)),
            identified_by: None,
            watermarks,
        };
        let files = StaticFiles { path, options: spec_options, format: file_format, refresh_ms };
        let provider: Arc<dyn TableProvider> = Arc::new(StaticTable::new(files, stream));
        self.context.deregister_table(table.name.clone())?;
        self.context.register_table(table.name.clone(), provider)?;
        Ok(())
    }

    /// Returns the memory table `name`, making it for rows of `schema` where there is none of them.
    pub(super) async fn memory_table(&self, name: &TableReference, schema: &SchemaRef) -> Result<Arc<MemoryTable>> {
        if self.context.table_exist(name.clone())? {
            let provider = self.context.table_provider(name.clone()).await?;
            if provider.schema() == *schema
                && let Ok(table) = (provider as Arc<dyn std::any::Any + Send + Sync>).downcast::<MemoryTable>()
            {
                return Ok(table);
            }
        }
        let table = MemoryTable::new(Arc::clone(schema));
        self.context.deregister_table(name.clone())?;
        self.context.register_table(name.clone(), Arc::clone(&table) as _)?;
        Ok(table)
    }

    /// Tables that could not be read when they were declared may have files by now.
    pub(super) async fn refresh_tables(&self) -> Result<()> {
        let waiting: Vec<TableDefinition> = self
            .tables()
            .values()
            .filter(|t| t.format.as_deref().is_some_and(|f| FILE_FORMATS.contains(&f)))
            .cloned()
            .collect();
        for table in waiting {
            if !self.context.table_exist(table.name.clone())? {
                self.register_files(&table, None).await?;
            }
        }
        Ok(())
    }

    /// Forgets a table. Its files stay.
    pub(super) fn drop_table(&self, name: &TableReference, if_exists: bool) -> Result<()> {
        let declared = self.tables().remove(name.table()).is_some();
        let known = self.context.deregister_table(name.clone())?.is_some();
        if declared || known || if_exists {
            return Ok(());
        }
        Err(Error::invalid_query(format!("there is no table '{name}'; use DROP TABLE IF EXISTS")))
    }
}

/// The declared columns, as a schema: all nullable, partition columns that were only named as text.
pub(super) fn declared(table: &TableDefinition) -> Option<SchemaRef> {
    if table.columns.is_empty() {
        return None;
    }
    let mut fields: Vec<Field> = table.columns.iter().map(|f| f.clone().with_nullable(true)).collect();
    for column in &table.partition_by {
        if !fields.iter().any(|f| f.name() == column) {
            fields.push(Field::new(column, DataType::Utf8, true));
        }
    }
    Some(Arc::new(Schema::new(fields)))
}
