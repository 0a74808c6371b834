//! Flows declared: what CREATE FLOW, INSERT, CREATE STREAMING TABLE and CREATE MATERIALIZED VIEW leave to be run.
//!
//! Whatever is wrong with a flow is said here, before anything has started.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};

use super::catalog::{MEMORY, declared};
use super::flow::Flow;
use super::late_rows::{LateTarget, check_apart};
use super::script::{Done, at, rename};
use super::start::QueryRequest;
use super::{Inner, locked};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::plan::StreamPlan;
use crate::plan::stream_table::is_streaming;
use crate::query::Trigger;
use crate::sink::memory::MemorySink;
use crate::sink::view::ViewSink;
use crate::sink::{OutputMode, Sink};
use crate::source::file::FILE_FORMATS;
use crate::sql::script::Piece;
use crate::sql::statement::{
    CreateFlow, CreateMaterializedView, CreateStreamingTable, CreateTable, FlowClauses, Insert, TableDefinition,
    TriggerClause,
};
use crate::storage::open_place;

impl Inner {
    pub(super) async fn create_flow(&self, create: CreateFlow, piece: &Piece) -> Result<()> {
        let CreateFlow { name, if_not_exists, clauses, insert } = create;
        if self.flow(&name).is_ok() {
            if if_not_exists {
                return Ok(());
            }
            return Err(at(Error::invalid_query(format!("a flow '{name}' exists: choose another name")), piece));
        }
        self.refresh_tables().await?;
        let plan = self.plan(*insert.query.clone(), piece).await?;
        self.add_flow(name, clauses, &insert, plan, piece).await
    }

    /// An INSERT over a stream is an unnamed flow; over anything else DataFusion's own INSERT.
    pub(super) async fn insert(self: &Arc<Self>, insert: Insert, piece: &Piece) -> Result<Done> {
        self.refresh_tables().await?;
        let plan = self.plan(*insert.query.clone(), piece).await?;
        if !is_streaming(&plan) {
            return Err(at(
                Error::unsupported(
                    "INSERT INTO from a query that is not a stream is not supported: read a table as a stream with STREAM t",
                ),
                piece,
            ));
        }
        let name = self.free_name(insert.target.table());
        self.add_flow(name, FlowClauses::default(), &insert, plan, piece).await?;
        Ok(Done::Nothing)
    }

    /// Unnamed flows take the target's name; a second one into the same target a number.
    pub(super) fn free_name(&self, target: &str) -> String {
        let flows = locked(&self.flows);
        let taken = |name: &str| flows.iter().any(|f| f.name() == name);
        let numbered = (2..).map(|n| format!("{target}_{n}"));
        std::iter::once(target.to_string()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
    }

    async fn add_flow(
        &self,
        name: String,
        clauses: FlowClauses,
        insert: &Insert,
        plan: LogicalPlan,
        piece: &Piece,
    ) -> Result<()> {
        let here = |e: Error| at(e, piece);
        let target = insert.target.table().to_string();
        let table = self.tables().get(&target).cloned();
        let table = table.ok_or_else(|| {
            let tables: Vec<String> = self.tables().keys().cloned().collect();
            here(Error::invalid_query(format!(
                "there is no table '{target}' to write to; tables: {}",
                tables.join(", ")
            )))
        })?;
        let late_rows = self.late_rows(&clauses).await.map_err(here)?;
        let mode = clauses.output_mode.unwrap_or_default();
        let plan = fit(plan, &table, insert).map_err(here)?;
        // Whatever is wrong with the query is said now, before anything has started.
        let planned = self.plan_stream(plan.clone(), mode).await.map_err(here)?;
        let own_sink: Option<Arc<dyn Sink>> = match table.format.as_deref() {
            Some(MEMORY) => {
                let table = self.memory_table(&insert.target, &planned.schema).await.map_err(here)?;
                Some(Arc::new(MemorySink::new(table)))
            }
            _ => None,
        };
        let request = QueryRequest {
            own_checkpoint: None,
            name,
            mode,
            trigger: clauses.trigger.map_or(self.settings().trigger, trigger),
            checkpoint: clauses.checkpoint.or_else(|| table.options.get(CHECKPOINT_LOCATION).map(str::to_string)),
            format: table.format.clone().unwrap_or_default(),
            path: table.location.clone(),
            options: sink_options(&table),
            partition_by: table.partition_by.clone(),
            own_sink,
            late_rows,
            plan,
        };
        check_apart(&request, &target).map_err(here)?;
        self.check_places(&request, &planned).map_err(here)?;
        self.check_sink(&request, &planned).await.map_err(here)?;
        if FILE_FORMATS.contains(&request.format.as_str()) {
            self.register_files(&table, Some(Arc::clone(&planned.schema))).await.map_err(here)?;
        }
        locked(&self.flows).push(Flow::new(request, target));
        Ok(())
    }

    async fn late_rows(&self, clauses: &FlowClauses) -> Result<Option<LateTarget>> {
        match &clauses.late_rows_into {
            Some(table) => Ok(Some(self.late_target(table).await?)),
            None => Ok(None),
        }
    }

    /// Refuses a flow that would read what it writes, share another's checkpoint, or mix columns in one table.
    fn check_places(&self, request: &QueryRequest, planned: &StreamPlan) -> Result<()> {
        let place = |text: &str| normal_path(text);
        let written = outputs(request);
        for source in planned.sources.iter().filter_map(|s| s.table.spec.path.as_deref()) {
            if written.iter().any(|output| output.place.starts_with(place(source))) {
                return Err(Error::invalid_query(format!(
                    "the flow '{}' reads {source} and writes into it: it would read its own rows in a circle",
                    request.name
                )));
            }
        }
        for other in locked(&self.flows).iter().map(|f| &f.request).filter(|r| !r.format.is_empty()) {
            if let (Some(a), Some(b)) = (&request.checkpoint, &other.checkpoint)
                && place(a) == place(b)
            {
                return Err(Error::invalid_query(format!(
                    "the flows '{}' and '{}' have one CHECKPOINT, '{a}': give each its own (the table's option {CHECKPOINT_LOCATION} \
                     serves one flow)",
                    other.name, request.name
                )));
            }
            let others = outputs(other);
            let differ = |a: &Output| others.iter().any(|b| a.place == b.place && a.columns != b.columns);
            if written.iter().any(differ) {
                return Err(Error::invalid_query(format!(
                    "the flows '{}' and '{}' write other columns into one table: declare the table's columns",
                    other.name, request.name
                )));
            }
        }
        Ok(())
    }

    /// Makes the flow's sinks once, to see that they can be made.
    async fn check_sink(&self, request: &QueryRequest, planned: &StreamPlan) -> Result<()> {
        if let Some(late) = &request.late_rows {
            self.late_table(&request.name, late).await?;
        }
        if request.own_sink.is_some() {
            return Ok(());
        }
        let sink = self.make_sink(request, &planned.schema).await?;
        if !sink.supports(request.mode) {
            return Err(super::start::unsupported_mode(sink.as_ref(), request.mode));
        }
        Ok(())
    }

    pub(super) async fn create_streaming_table(
        self: &Arc<Self>,
        create: CreateStreamingTable,
        piece: &Piece,
    ) -> Result<()> {
        let CreateStreamingTable { mut table, clauses, query } = create;
        let name = table.name.clone();
        if table.format.is_none() {
            table.format = Some("parquet".to_string());
        }
        if self.tables().contains_key(name.table()) && table.if_not_exists {
            return Ok(());
        }
        let create = CreateTable { or_replace: false, unbounded: false, table };
        self.create_table(create).await.map_err(|e| at(e, piece))?;
        let Some(query) = query else { return Ok(()) };
        let insert = Insert { target: name.clone(), by_name: false, columns: Vec::new(), query };
        self.refresh_tables().await?;
        let plan = self.plan(*insert.query.clone(), piece).await?;
        self.add_flow(self.free_name(name.table()), clauses, &insert, plan, piece).await
    }

    /// A view that a flow keeps: in complete mode where it aggregates, else in append mode. With a CHECKPOINT its rows are
    /// durable and there again after a restart.
    pub(super) async fn create_materialized_view(&self, create: CreateMaterializedView, piece: &Piece) -> Result<()> {
        let CreateMaterializedView { table, clauses, query } = create;
        let here = |e: Error| at(e, piece);
        let name = table.name.table().to_string();
        if self.context.table_exist(table.name.clone())? {
            if table.if_not_exists {
                return Ok(());
            }
            return Err(here(Error::invalid_query(format!("a table or view '{name}' exists"))));
        }
        self.refresh_tables().await?;
        let late_rows = self.late_rows(&clauses).await.map_err(here)?;
        if late_rows.is_some() && clauses.checkpoint.is_none() {
            return Err(here(Error::invalid_query(format!(
                "LATE ROWS INTO of the view '{name}' needs a CHECKPOINT: its late rows stay when the process ends, and \
                 so must the view"
            ))));
        }
        let plan = self.plan(*query, piece).await?;
        let complete = self.plan_stream(plan.clone(), OutputMode::Complete).await;
        let mode = match (&clauses.output_mode, &complete) {
            (Some(mode), _) => *mode,
            (None, Ok(_)) => OutputMode::Complete,
            (None, Err(_)) => OutputMode::Append,
        };
        let planned = self.plan_stream(plan.clone(), mode).await.map_err(here)?;
        let view = self.memory_table(&table.name, &planned.schema).await.map_err(here)?;
        let sink: Arc<dyn Sink> = match &clauses.checkpoint {
            Some(place) => Arc::new(ViewSink::new(view, open_place(place).map_err(here)?.below("view"))),
            None => Arc::new(MemorySink::new(view)),
        };
        let request = QueryRequest {
            own_checkpoint: None,
            name: self.free_name(&name),
            plan,
            mode,
            trigger: clauses.trigger.map_or(self.settings().trigger, trigger),
            checkpoint: clauses.checkpoint,
            format: MEMORY.to_string(),
            path: None,
            options: Options::new(),
            partition_by: Vec::new(),
            own_sink: Some(sink),
            late_rows,
        };
        check_apart(&request, &name).map_err(here)?;
        self.check_places(&request, &planned).map_err(here)?;
        self.check_sink(&request, &planned).await.map_err(here)?;
        locked(&self.flows).push(Flow::new(request, name));
        Ok(())
    }
}

fn trigger(clause: TriggerClause) -> Trigger {
    match clause {
        TriggerClause::AvailableNow => Trigger::AvailableNow,
        TriggerClause::ProcessingTime { interval_ms } => {
            Trigger::ProcessingTime(std::time::Duration::from_millis(interval_ms.unsigned_abs()))
        }
        TriggerClause::Once => Trigger::Once,
    }
}

/// The option of a table that says where a flow into it has its checkpoint, unless the flow says so itself.
const CHECKPOINT_LOCATION: &str = "checkpointLocation";

pub(super) fn sink_options(table: &TableDefinition) -> Options {
    let mut options = table.options.clone();
    options.remove(CHECKPOINT_LOCATION);
    options
}

/// Fits a query's columns to those the table declares: by place, or by name.
fn fit(plan: LogicalPlan, table: &TableDefinition, insert: &Insert) -> Result<LogicalPlan> {
    let Some(wanted) = declared(table) else {
        return match insert.columns.as_slice() {
            [] => Ok(plan),
            names => rename(plan, names),
        };
    };
    let schema = Arc::clone(plan.schema());
    let given: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let names: Vec<String> = match (insert.by_name, insert.columns.as_slice()) {
        (true, _) => given.clone(),
        (false, []) => wanted.fields().iter().map(|f| f.name().clone()).collect(),
        (false, columns) => columns.to_vec(),
    };
    let name = table.name.table();
    if names.len() != given.len() {
        return Err(Error::invalid_query(format!(
            "the query has {} columns ({}), table '{name}' takes {} ({})",
            given.len(),
            given.join(", "),
            names.len(),
            names.join(", ")
        )));
    }
    if let Some(unknown) = names.iter().find(|n| wanted.field_with_name(n).is_err()) {
        return Err(Error::invalid_query(format!("table '{name}' has no column '{unknown}'")));
    }
    let mut columns = Vec::with_capacity(wanted.fields().len());
    for field in wanted.fields() {
        let source = match names.iter().position(|n| n == field.name()) {
            Some(place) => Expr::Column(Column::from(schema.qualified_field(place))),
            None => Expr::Literal(datafusion::common::ScalarValue::Null, None),
        };
        let given = source.get_type(&schema)?;
        if !fits(&given, field.data_type()) {
            return Err(Error::invalid_query(format!(
                "column '{}' of table '{name}' is {}, the query gives {given}: CAST it in the query, or put the columns in \
                 the table's order",
                field.name(),
                field.data_type()
            )));
        }
        columns.push(source.cast_to(field.data_type(), &schema)?.alias(field.name()));
    }
    Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
}

/// Whether values of one type can stand for another without a reading of text that may fail.
fn fits(given: &DataType, wanted: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    given == wanted
        || *given == DataType::Null
        || text(wanted)
        || (given.is_numeric() && wanted.is_numeric())
        || (time(given) && time(wanted))
        || fields_fit(given, wanted)
        || (!given.is_nested() && !text(given) && !given.is_numeric() && !time(given) && *given != DataType::Boolean)
}

/// Whether what is nested can stand for another of its kind. Fields find each other by their names, and one that finds none
/// would be NULL.
fn fields_fit(given: &DataType, wanted: &DataType) -> bool {
    match (given, wanted) {
        (DataType::Struct(given), DataType::Struct(wanted)) => {
            let finds = |field: &FieldRef| {
                given.iter().any(|own| own.name() == field.name() && fits(own.data_type(), field.data_type()))
            };
            given.len() == wanted.len() && wanted.iter().all(finds)
        }
        (
            DataType::List(given) | DataType::LargeList(given) | DataType::FixedSizeList(given, _),
            DataType::List(wanted) | DataType::LargeList(wanted) | DataType::FixedSizeList(wanted, _),
        ) => fits(given.data_type(), wanted.data_type()),
        _ => given.is_nested(),
    }
}

/// A place that a flow writes to, and the columns of what it writes.
struct Output {
    place: PathBuf,
    columns: Vec<(String, DataType)>,
}

/// The places that a flow writes to.
fn outputs(request: &QueryRequest) -> Vec<Output> {
    fn columns<'a>(fields: impl IntoIterator<Item = &'a FieldRef>) -> Vec<(String, DataType)> {
        fields.into_iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
    }
    let rows = request.path.as_deref().map(|path| (path, columns(request.plan.schema().fields())));
    let late = request.late_rows.as_ref().and_then(|l| Some((l.path.as_deref()?, columns(l.columns.fields()))));
    rows.into_iter().chain(late).map(|(path, columns)| Output { place: normal_path(path), columns }).collect()
}

/// A path with nothing relative in it, to compare.
pub(super) fn normal_path(text: &str) -> PathBuf {
    let text = text.strip_prefix("file://").unwrap_or(text);
    let absolute = std::path::absolute(text).unwrap_or_else(|_| text.into());
    let mut normal = PathBuf::new();
    for part in absolute.components() {
        match part {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}
