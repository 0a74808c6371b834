//! Where late rows go: what LATE ROWS INTO and `late_rows_to()` say, checked before anything has started.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::common::TableReference;

use super::Inner;
use super::catalog::{MEMORY, declared};
use super::declare::{normal_path, sink_options};
use super::start::QueryRequest;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::query::LateTable;
use crate::query::late_rows::late_columns;
use crate::sink::memory::MemorySink;
use crate::sink::{OutputMode, Sink, SinkSpec};
use crate::source::file::FILE_FORMATS;
use crate::sql::statement::TableDefinition;

/// The table of a query's late rows.
#[derive(Clone)]
pub(super) struct LateTarget {
    /// The table's name; of a place without one, the place.
    pub(super) table: String,
    pub(super) format: String,
    pub(super) path: Option<String>,
    pub(super) options: Options,
    pub(super) partition_by: Vec<String>,
    pub(super) columns: SchemaRef,
    pub(super) own_sink: Option<Arc<dyn Sink>>,
}

impl LateTarget {
    fn sink_spec(&self, flow: &str, clock: &Arc<dyn Clock>) -> SinkSpec {
        SinkSpec {
            format: self.format.clone(),
            path: self.path.clone(),
            options: self.options.clone(),
            partition_by: self.partition_by.clone(),
            schema: Arc::clone(&self.columns),
            // A console says by it whose rows it prints.
            name: format!("{flow}.late_rows"),
            clock: Arc::clone(clock),
        }
    }
}

impl Inner {
    /// Finds the table of LATE ROWS INTO, and lets DataFusion read it.
    ///
    /// # Errors
    /// `InvalidQuery` where there is no such table, or it declares other columns than late rows have.
    pub(super) async fn late_target(&self, name: &TableReference) -> Result<LateTarget> {
        let table = self.tables().get(name.table()).cloned();
        let table = table.ok_or_else(|| {
            let tables: Vec<String> = self.tables().keys().cloned().collect();
            Error::invalid_query(format!(
                "LATE ROWS INTO {name}: there is no such table; create it first, without columns; tables: {}",
                tables.join(", ")
            ))
        })?;
        let columns = columns_of(&table)?;
        let format = table.format.clone().unwrap_or_default();
        let own_sink: Option<Arc<dyn Sink>> = match format.as_str() {
            MEMORY => Some(Arc::new(MemorySink::new(self.memory_table(&table.name, &columns).await?))),
            _ => None,
        };
        if FILE_FORMATS.contains(&format.as_str()) {
            self.register_files(&table, Some(Arc::clone(&columns))).await?;
        }
        Ok(LateTarget {
            table: table.name.table().to_string(),
            format,
            path: table.location.clone(),
            options: sink_options(&table),
            partition_by: table.partition_by.clone(),
            columns,
            own_sink,
        })
    }

    /// Makes the sink of `flow`'s late rows.
    ///
    /// # Errors
    /// `InvalidOption` and `InvalidQuery` as for any sink; `Unsupported` where it takes no rows in append mode.
    pub(super) async fn late_table(&self, flow: &str, target: &LateTarget) -> Result<LateTable> {
        let sink = match &target.own_sink {
            Some(sink) => Arc::clone(sink),
            None => {
                let spec = target.sink_spec(flow, &self.clock);
                self.registry().sink(&target.format)?.create(&spec).await?
            }
        };
        if !sink.supports(OutputMode::Append) {
            return Err(super::start::unsupported_mode(sink.as_ref(), OutputMode::Append));
        }
        Ok(LateTable { sink, columns: Arc::clone(&target.columns) })
    }
}

/// Checks that late rows go to a table of their own: both outputs of a query have its batches' names.
///
/// # Errors
/// `InvalidQuery` where they do not.
pub(super) fn check_apart(request: &QueryRequest, target: &str) -> Result<()> {
    let Some(late) = &request.late_rows else {
        return Ok(());
    };
    let same_place = match (&request.path, &late.path) {
        (Some(a), Some(b)) => normal_path(a) == normal_path(b),
        _ => false,
    };
    if same_place || late.table == target {
        return Err(not_apart(&format!("'{}'", request.name), &late.table));
    }
    Ok(())
}

/// The error for late rows that would go where the others of `query` go.
pub(super) fn not_apart(query: &str, table: &str) -> Error {
    Error::invalid_query(format!(
        "{query} would write its late rows into '{table}', where its other rows go: give them a table of their own"
    ))
}

/// The columns in the order in which the table declares them.
fn columns_of(table: &TableDefinition) -> Result<SchemaRef> {
    let columns = late_columns();
    let Some(wanted) = declared(table) else {
        return Ok(columns);
    };
    let is_one =
        |field: &Field| columns.field_with_name(field.name()).is_ok_and(|f| f.data_type() == field.data_type());
    if wanted.fields().len() != columns.fields().len() || !wanted.fields().iter().all(|field| is_one(field)) {
        let name = table.name.table();
        return Err(Error::invalid_query(format!(
            "LATE ROWS INTO {name}: the table declares ({}), late rows are ({}); declare just these columns, or none",
            in_words(wanted.fields()),
            in_words(columns.fields())
        )));
    }
    // Comments and the like of the declaration are nothing to the rows.
    let plain = wanted.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true));
    Ok(Arc::new(Schema::new(plain.collect::<Vec<_>>())))
}

fn in_words(fields: &Fields) -> String {
    let type_name = |data_type: &DataType| match data_type {
        DataType::Utf8 => "STRING".to_string(),
        DataType::Int64 => "BIGINT".to_string(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_string(),
        other => other.to_string(),
    };
    fields.iter().map(|f| format!("{} {}", f.name(), type_name(f.data_type()))).collect::<Vec<_>>().join(", ")
}
