//! `state()`, `state_metadata()` and `state_changes()` as tables.
//!
//! A checkpoint is looked up before the query is planned, since only then its columns are known. Rows are read whenever
//! the plan runs, so that a view over them shows what is remembered then.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::datasource::TableProvider;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::sql::sqlparser::ast::Query;
use futures::{StreamExt, TryStreamExt};

use super::Inner;
use super::start::checkpoint_place;
use crate::checkpoint::{OperatorStore, StateReader};
use crate::error::{Error, ErrorKind, Result};
use crate::sql::state_call::{StateCall, StateQuestion, StateRelations, state_calls};
use crate::state::{StateChanges, StateRows};
use crate::storage::open_place;

impl Inner {
    /// Returns DataFusion's state, in which the calls of `query` are tables.
    ///
    /// # Errors
    /// What opening the checkpoints meets; `InvalidOption` where they have no such operator, store or batch.
    pub(super) async fn with_state_tables(&self, query: &Query) -> Result<SessionState> {
        let mut state = self.context.state();
        let calls = state_calls(query)?;
        if calls.is_empty() {
            return Ok(state);
        }
        let mut tables = Vec::with_capacity(calls.len());
        for call in calls {
            let table = StateTable::open(self.state_reader(&call.path).await?, &call).await?;
            let schema = Arc::clone(&table.schema);
            let table: Arc<dyn TableProvider> = Arc::new(StreamingTable::try_new(schema, vec![Arc::new(table)])?);
            tables.push((call, table));
        }
        state.register_relation_planner(Arc::new(StateRelations::new(tables)))?;
        Ok(state)
    }

    /// Opens the checkpoint of a flow, or the one in a directory.
    async fn state_reader(&self, path: &str) -> Result<StateReader> {
        let flow = match self.flow(path) {
            Ok(flow) => flow,
            Err(no_flow) => {
                return StateReader::open(open_place(path)?).await.map_err(|error| match error.kind() {
                    ErrorKind::Unavailable => {
                        Error::unavailable(format!("{}, and {}", error.message(), no_flow.message()))
                    }
                    _ => error,
                });
            }
        };
        let Some(place) = checkpoint_place(&flow.request)? else {
            return Err(Error::unsupported(format!(
                "the state of flow '{path}' is in memory only, where nobody else reads it: give the flow a CHECKPOINT"
            )));
        };
        StateReader::open(open_place(&place)?).await
    }
}

/// What one call gives.
#[derive(Debug, Clone)]
struct StateTable {
    schema: SchemaRef,
    reader: StateReader,
    what: What,
}

/// What is read of a checkpoint.
#[derive(Debug, Clone)]
enum What {
    Rows { store: OperatorStore, batch_id: Option<i64> },
    Metadata,
    Changes { store: OperatorStore, batches: RangeInclusive<i64> },
}

impl StateTable {
    /// Finds what a call asks for and checks that it is there.
    async fn open(reader: StateReader, call: &StateCall) -> Result<Self> {
        let what = match call.what {
            StateQuestion::Metadata => What::Metadata,
            StateQuestion::Rows { batch_id } => {
                let store = reader.find(call.operator, call.store.as_deref()).await?;
                if let Some(batch_id) = batch_id {
                    reader.check_retained(batch_id).await?;
                }
                What::Rows { store, batch_id }
            }
            StateQuestion::Changes { from_batch, to_batch } => {
                let store = reader.find(call.operator, call.store.as_deref()).await?;
                let batches = from_batch..=to_batch;
                reader.check_range(&batches).await?;
                What::Changes { store, batches }
            }
        };
        Ok(Self { schema: what.schema(), reader, what })
    }

    async fn read(self) -> Result<Vec<RecordBatch>> {
        let batches: Vec<Vec<ArrayRef>> = match self.what {
            What::Rows { store, batch_id } => {
                let rows = self.reader.rows(&store, batch_id).await?;
                vec![row_columns(&store, rows)]
            }
            What::Metadata => vec![metadata_columns(&self.reader).await?],
            What::Changes { store, batches } => {
                let changes = self.reader.changes(&store, batches).await?;
                changes.into_iter().map(|(batch_id, changes)| change_columns(batch_id, changes)).collect()
            }
        };
        let batch = |columns: Vec<ArrayRef>| -> Result<RecordBatch> {
            Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
        };
        batches.into_iter().map(batch).collect()
    }
}

impl What {
    fn schema(&self) -> SchemaRef {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
        let fields = match self {
            What::Rows { store, .. } => vec![
                field("operator", DataType::Int32),
                field("store", DataType::Utf8),
                field("lane", DataType::Int32),
                field("key", store.shape.key_type()),
                field("value", store.shape.value_type()),
            ],
            What::Metadata => vec![
                field("operator", DataType::Int32),
                field("name", DataType::Utf8),
                field("store", DataType::Utf8),
                field("lanes", DataType::Int32),
                field("min_batch_id", DataType::Int64),
                field("max_batch_id", DataType::Int64),
                field("fingerprint", DataType::Utf8),
            ],
            What::Changes { store, .. } => vec![
                field("batch_id", DataType::Int64),
                field("change_type", DataType::Utf8),
                field("key", store.shape.key_type()),
                field("value", store.shape.value_type()),
                field("lane", DataType::Int32),
            ],
        };
        Arc::new(Schema::new(fields))
    }
}

fn row_columns(store: &OperatorStore, rows: StateRows) -> Vec<ArrayRef> {
    let StateRows { lanes, keys, values } = rows;
    let count = lanes.len();
    vec![
        Arc::new(Int32Array::from_value(store.operator as i32, count)),
        Arc::new(StringArray::from(vec![store.store.as_str(); count])),
        Arc::new(lanes),
        keys,
        values,
    ]
}

fn change_columns(batch_id: i64, changes: StateChanges) -> Vec<ArrayRef> {
    let StateChanges { kinds, rows: StateRows { lanes, keys, values } } = changes;
    vec![
        Arc::new(Int64Array::from_value(batch_id, kinds.len())),
        Arc::new(StringArray::from(kinds)),
        keys,
        values,
        Arc::new(lanes),
    ]
}

async fn metadata_columns(reader: &StateReader) -> Result<Vec<ArrayRef>> {
    let stores = reader.stores().await?;
    Ok(vec![
        Arc::new(stores.iter().map(|s| s.operator as i32).collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(stores.iter().map(|s| &s.name))),
        Arc::new(StringArray::from_iter_values(stores.iter().map(|s| &s.store))),
        Arc::new(stores.iter().map(|s| s.lanes as i32).collect::<Int32Array>()),
        Arc::new(stores.iter().map(|s| s.min_batch_id).collect::<Int64Array>()),
        Arc::new(stores.iter().map(|s| s.max_batch_id).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(stores.iter().map(|s| &s.fingerprint))),
    ])
}

impl PartitionStream for StateTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let table = self.clone();
        let rows = async move {
            let batches = table.read().await.map_err(DataFusionError::from)?;
            Ok::<_, DataFusionError>(futures::stream::iter(batches.into_iter().map(Ok)))
        };
        let rows = futures::stream::once(rows).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.boxed()))
    }
}
