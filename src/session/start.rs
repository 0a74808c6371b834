//! Starting a query: plan, sink and checkpoint come together. SQL's flows and DataFrames' writers both end here.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use object_store::memory::InMemory;

use super::Inner;
use super::catalog::MEMORY;
use super::late_rows::LateTarget;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::StreamPlan;
use crate::query::streaming_query::QueryStart;
use crate::query::{StreamingQuery, Trigger};
use crate::sink::memory::MemorySink;
use crate::sink::{OutputMode, Sink, SinkSpec};
use crate::sql::deep_stack::deep_async;
use crate::storage::{DurableStore, ObjectBackedStore, open_place};

/// The bytes that file systems allow for a folder's name.
const LONGEST_FOLDER: usize = 255;

/// What is to be started.
#[derive(Clone)]
pub(super) struct QueryRequest {
    pub(super) name: String,
    pub(super) plan: LogicalPlan,
    pub(super) mode: OutputMode,
    pub(super) trigger: Trigger,
    pub(super) format: String,
    pub(super) path: Option<String>,
    pub(super) options: Options,
    pub(super) partition_by: Vec<String>,
    pub(super) checkpoint: Option<String>,
    pub(super) own_sink: Option<Arc<dyn Sink>>,
    /// A store of the application's own for the checkpoint, instead of a place.
    pub(super) own_checkpoint: Option<Arc<dyn DurableStore>>,
    /// Where late rows go.
    pub(super) late_rows: Option<LateTarget>,
}

impl Inner {
    /// Plans a query in `mode`, checking everything that can be checked before it starts.
    pub(super) async fn plan_stream(&self, plan: LogicalPlan, mode: OutputMode) -> Result<StreamPlan> {
        let (state, lanes) = (self.context.state(), self.settings().lanes);
        deep_async(async move { StreamPlan::build(&state, plain_text(plan)?, mode, lanes).await }).await
    }

    /// Starts a query.
    pub(super) async fn start(&self, request: QueryRequest) -> Result<StreamingQuery> {
        self.queries.check_name(&request.name)?;
        let plan = self.plan_stream(request.plan.clone(), request.mode).await?;
        let sink = match &request.own_sink {
            Some(sink) => Arc::clone(sink),
            None => self.make_sink(&request, &plan.schema).await?,
        };
        if !sink.supports(request.mode) {
            return Err(unsupported_mode(sink.as_ref(), request.mode));
        }
        let late_table = match &request.late_rows {
            Some(target) => Some(self.late_table(&request.name, target).await?),
            None => None,
        };
        let is_temporary = request.own_checkpoint.is_none() && checkpoint_place(&request)?.is_none();
        let sinks = std::iter::once(&sink).chain(late_table.as_ref().map(|table| &table.sink));
        if let Some(sink) = sinks.into_iter().find(|sink| is_temporary && sink.needs_checkpoint()) {
            return Err(Error::invalid_query(format!(
                "{} keeps its rows when the process is gone, and a query that starts again must know which those are: give \
                 '{}' a checkpoint (CREATE FLOW … CHECKPOINT 'path' AS INSERT …, or the option checkpointLocation)",
                sink.description(),
                request.name
            )));
        }
        let checkpoint = Checkpoint::open(checkpoint_store(&request)?).await?;
        let query = StreamingQuery::start(QueryStart {
            name: request.name,
            plan,
            settings: self.settings().of_query(&self.clock),
            trigger: request.trigger,
            checkpoint,
            sink,
            late_table,
            listeners: self.queries.listeners().clone(),
        })
        .await?;
        self.queries.add(query.clone());
        Ok(query)
    }

    /// Makes a sink by its format.
    pub(super) async fn make_sink(&self, request: &QueryRequest, schema: &SchemaRef) -> Result<Arc<dyn Sink>> {
        if request.format == MEMORY {
            request.options.check_known("memory sink", &[])?;
            let table = self.memory_table(&request.name.as_str().into(), schema).await?;
            return Ok(Arc::new(MemorySink::new(table)));
        }
        let spec = SinkSpec {
            format: request.format.clone(),
            path: request.path.clone(),
            options: request.options.clone(),
            partition_by: request.partition_by.clone(),
            schema: Arc::clone(schema),
            name: request.name.clone(),
            clock: Arc::clone(&self.clock),
        };
        self.registry().sink(&request.format)?.create(&spec).await
    }
}

/// The error for a sink that cannot take rows of `mode`.
pub(super) fn unsupported_mode(sink: &dyn Sink, mode: OutputMode) -> Error {
    Error::unsupported(format!(
        "{} does not support {mode} mode, only append; console, memory, noop and foreach_batch take all modes",
        sink.description()
    ))
}

/// Where a query's checkpoint lies. Where nothing else is said a durable sink remembers beside its files, be they those of
/// late rows only; another as long as the process lives (`None`).
pub(super) fn checkpoint_place(request: &QueryRequest) -> Result<Option<String>> {
    let late_path = request.late_rows.as_ref().and_then(|late| late.path.as_ref());
    match (&request.checkpoint, request.path.as_ref().or(late_path)) {
        (Some(location), _) => Ok(Some(location.clone())),
        (None, Some(path)) => {
            if ["manifest", "staging"].contains(&request.name.as_str()) {
                return Err(Error::invalid_query(format!(
                    "a query called '{}' needs a CHECKPOINT: the name is taken below the sink's _millstream folder",
                    request.name
                )));
            }
            // A name is anything; a folder's name must not lead elsewhere.
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
            let encode = |c: char| if plain(c) { c.to_string() } else { format!("%{:x}", u32::from(c)) };
            let folder: String = request.name.chars().map(encode).collect();
            if folder.is_empty() || folder.len() > LONGEST_FOLDER {
                return Err(Error::invalid_query(format!(
                    "a query's name that is empty or long ({} bytes) names no folder for its checkpoint: give it a \
                     CHECKPOINT, or another name",
                    request.name.len()
                )));
            }
            Ok(Some(format!("{}/_millstream/{folder}", path.trim_end_matches('/'))))
        }
        (None, None) => Ok(None),
    }
}

fn checkpoint_store(request: &QueryRequest) -> Result<Arc<dyn DurableStore>> {
    if let Some(own) = &request.own_checkpoint {
        return Ok(Arc::clone(own));
    }
    match checkpoint_place(request)? {
        Some(place) => open_place(&place),
        None => Ok(Arc::new(ObjectBackedStore::new(Arc::new(InMemory::new()), object_store::path::Path::default()))),
    }
}

/// Text leaves as plain strings, whatever DataFusion computed with.
fn plain_text(plan: LogicalPlan) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    if !schema.fields().iter().any(|f| *f.data_type() == DataType::Utf8View) {
        return Ok(plan);
    }
    let column = |(qualifier, field): (
        Option<&datafusion::common::TableReference>,
        &Arc<datafusion::arrow::datatypes::Field>,
    )| {
        let column = Expr::Column((qualifier, field).into());
        match field.data_type() {
            DataType::Utf8View => cast(column, DataType::Utf8).alias_qualified(qualifier.cloned(), field.name()),
            _ => column,
        }
    };
    let columns: Vec<Expr> = schema.iter().map(column).collect();
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}
