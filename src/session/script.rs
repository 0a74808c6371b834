//! Statements carried out: what each SQL statement does to a session.

use std::sync::{Arc, PoisonError};

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::Query;

use super::catalog::{MEMORY, declared};
use super::flow::Flow;
use super::start::QueryRequest;
use super::{Inner, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::plan::stream_table::is_streaming;
use crate::plan::{StreamPlan, stream_plan};
use crate::query::Trigger;
use crate::sink::memory::MemorySink;
use crate::sink::view::ViewSink;
use crate::sink::{OutputMode, Sink};
use crate::source::file::FILE_FORMATS;
use crate::sql::binder::{locate, plan_query, plan_statement};
use crate::sql::script::{Piece, split_script};
use crate::sql::statement::{
    CreateFlow, CreateMaterializedView, CreateStreamingTable, CreateTable, CreateView, Explained, FlowClauses, Insert,
    Statement, TableDefinition, TriggerClause, parse_statement,
};
use crate::storage::open_place;

/// What a statement leaves to be done.
enum Done {
    /// Nothing to show.
    Nothing,
    /// Rows to show.
    Rows(Box<DataFrame>),
}

impl Inner {
    /// Runs a script. See [`super::Session::run_script`].
    pub(super) async fn run_script(self: &Arc<Self>, text: &str) -> Result<()> {
        let pieces = split_script(text)?;
        // Everything is parsed before anything is done.
        let statements = pieces.iter().map(parse_statement).collect::<Result<Vec<_>>>()?;
        // A flow may read a table whose columns a flow below it gives: it is planned again when that is known.
        let mut waiting: Vec<(&Piece, Error)> = Vec::new();
        for (piece, statement) in pieces.iter().zip(statements) {
            let query = matches!(statement, Statement::Query(_));
            let flow = matches!(statement, Statement::CreateFlow(_) | Statement::Insert(_));
            if !flow {
                self.plan_waiting(&mut waiting).await?;
                if query && let Some((_, error)) = waiting.drain(..).next() {
                    return Err(error);
                }
            }
            let done = match self.carry_out(statement, piece).await {
                Err(error) if flow && error.kind() == ErrorKind::InvalidQuery => {
                    waiting.push((piece, error));
                    continue;
                }
                other => other?,
            };
            match done {
                Done::Rows(dataframe) if is_streaming(dataframe.logical_plan()) => self.to_console(*dataframe).await?,
                Done::Rows(dataframe) => {
                    // What a query reads may be what a flow above it writes.
                    if query {
                        self.run_flows().await?;
                        let Statement::Query(ast) = parse_statement(piece)? else {
                            continue;
                        };
                        self.show(self.plan(*ast, piece).await?, piece).await?;
                    } else {
                        self.print(*dataframe).await?;
                    }
                }
                Done::Nothing => {}
            }
        }
        self.plan_waiting(&mut waiting).await?;
        match waiting.drain(..).next() {
            Some((_, error)) => Err(error),
            None => self.run_flows().await,
        }
    }

    /// Plans flows that could not be planned before, as long as that gets any of them further.
    async fn plan_waiting(self: &Arc<Self>, waiting: &mut Vec<(&Piece, Error)>) -> Result<()> {
        loop {
            let before = waiting.len();
            for (piece, error) in std::mem::take(waiting) {
                // The first error is the one to tell.
                if self.carry_out(parse_statement(piece)?, piece).await.is_err() {
                    waiting.push((piece, error));
                }
            }
            if waiting.len() == before {
                return Ok(());
            }
        }
    }

    /// Runs one statement. See [`super::Session::sql`].
    pub(super) async fn run_one(self: &Arc<Self>, text: &str) -> Result<DataFrame> {
        let pieces = split_script(text)?;
        let [piece] = pieces.as_slice() else {
            return Err(Error::invalid_query(format!(
                "sql() takes one statement, this text holds {}; use run_script() for several",
                pieces.len()
            )));
        };
        match self.carry_out(parse_statement(piece)?, piece).await? {
            Done::Rows(dataframe) => Ok(*dataframe),
            Done::Nothing => Ok(self.context.read_empty()?),
        }
    }

    async fn carry_out(self: &Arc<Self>, statement: Statement, piece: &Piece) -> Result<Done> {
        let here = |e: Error| at(e, piece);
        match statement {
            Statement::CreateTable(create) => self.create_table(create).await.map_err(here)?,
            Statement::CreateFlow(create) => self.create_flow(create, piece).await?,
            Statement::Insert(insert) => return self.insert(insert, piece).await,
            Statement::CreateStreamingTable(create) => self.create_streaming_table(create, piece).await?,
            Statement::CreateMaterializedView(create) => self.create_materialized_view(create, piece).await?,
            Statement::CreateView(create) => self.create_view(create, piece).await?,
            Statement::Query(query) => {
                self.refresh_tables().await?;
                match self.plan(*query, piece).await {
                    Ok(plan) => return Ok(rows(DataFrame::new(self.context.state(), plan))),
                    // It may read what a flow above it has yet to write.
                    Err(error) if self.has_waiting_flows() => {
                        self.run_flows().await?;
                        self.refresh_tables().await?;
                        let Statement::Query(query) = parse_statement(piece)? else {
                            return Err(error);
                        };
                        let plan = self.plan(*query, piece).await?;
                        return Ok(rows(DataFrame::new(self.context.state(), plan)));
                    }
                    Err(error) => return Err(error),
                }
            }
            Statement::Set { key, value } => self.set(&key, &value).await.map_err(here)?,
            Statement::Explain { analyze, verbose, what } => return self.explain(analyze, verbose, what, piece).await,
            Statement::ShowFlows => return self.show_flows(),
            Statement::ShowTables => return self.datafusion("SHOW TABLES").await,
            Statement::Describe { name } => {
                self.refresh_tables().await?;
                return self.datafusion(&format!("DESCRIBE {}", name.to_quoted_string())).await;
            }
            Statement::DescribeFlow { name } => return self.describe_flow(&name).map_err(here),
            Statement::StartFlow { name } => {
                self.flow(&name).map_err(here)?;
                if let Some(flow) = locked(&self.flows).iter_mut().find(|f| f.name() == name) {
                    flow.started = false;
                }
            }
            Statement::StopFlow { name } => {
                self.flow(&name).map_err(here)?;
                if let Some(flow) = locked(&self.flows).iter_mut().find(|f| f.name() == name) {
                    flow.started = true;
                }
                if let Some(query) = self.queries.get(&name) {
                    query.stop().await?;
                }
            }
            Statement::DropFlow { name, if_exists } => {
                if let Some(query) = self.queries.get(&name) {
                    query.stop().await?;
                }
                let found = self.flow(&name);
                if !if_exists {
                    found.map_err(here)?;
                }
                locked(&self.flows).retain(|f| f.name() != name);
            }
            Statement::DropTable { name, if_exists } | Statement::DropView { name, if_exists } => {
                self.drop_table(&name, if_exists).map_err(here)?;
            }
            Statement::Other(statement) => {
                let plan = plan_statement(&self.context.state(), *statement, piece).await?;
                let dataframe = self.context.execute_logical_plan(plan).await.map_err(|e| locate(e, piece))?;
                return Ok(rows(dataframe));
            }
        }
        Ok(Done::Nothing)
    }

    async fn plan(&self, query: Query, piece: &Piece) -> Result<LogicalPlan> {
        plan_query(&self.context.state(), query, piece).await
    }

    async fn datafusion(&self, sql: &str) -> Result<Done> {
        Ok(rows(self.context.sql(sql).await?))
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        if key.starts_with("datafusion.") {
            self.context.sql(&format!("SET {key} = '{}'", value.replace('\'', "''"))).await?;
            return Ok(());
        }
        locked(&self.settings).set(key, value)
    }

    fn has_waiting_flows(&self) -> bool {
        locked(&self.flows).iter().any(|f| !f.started)
    }

    fn flow(&self, name: &str) -> Result<Flow> {
        let flows = locked(&self.flows);
        flows.iter().find(|f| f.name() == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = flows.iter().map(Flow::name).collect();
            Error::invalid_query(format!("there is no flow '{name}'; flows: {}", names.join(", ")))
        })
    }

    async fn create_flow(&self, create: CreateFlow, piece: &Piece) -> Result<()> {
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
    async fn insert(self: &Arc<Self>, insert: Insert, piece: &Piece) -> Result<Done> {
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
    fn free_name(&self, target: &str) -> String {
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
        if let Some(late) = &clauses.late_rows_into {
            return Err(here(Error::unsupported(format!(
                "LATE ROWS INTO {late} is not supported yet; progress reports count late rows"
            ))));
        }
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
            name,
            mode,
            trigger: clauses.trigger.map_or(self.settings().trigger, trigger),
            checkpoint: clauses.checkpoint,
            format: table.format.clone().unwrap_or_default(),
            path: table.location.clone(),
            options: sink_options(&table),
            partition_by: table.partition_by.clone(),
            own_sink,
            plan,
        };
        self.check_places(&request, &planned).map_err(here)?;
        self.check_sink(&request, &planned).await.map_err(here)?;
        if FILE_FORMATS.contains(&request.format.as_str()) {
            self.register_files(&table, Some(Arc::clone(&planned.schema))).await.map_err(here)?;
        }
        locked(&self.flows).push(Flow::new(request, target));
        Ok(())
    }

    /// Refuses a flow that would read what it writes, share another's checkpoint, or mix columns in one table.
    fn check_places(&self, request: &QueryRequest, planned: &StreamPlan) -> Result<()> {
        let place = |text: &str| normal_path(text);
        if let Some(sink) = request.path.as_deref().map(place) {
            for source in planned.sources.iter().filter_map(|s| s.table.spec.path.as_deref()) {
                if sink.starts_with(place(source)) {
                    return Err(Error::invalid_query(format!(
                        "the flow '{}' reads {source} and writes into it: it would read its own rows in a circle",
                        request.name
                    )));
                }
            }
        }
        for other in locked(&self.flows).iter().map(|f| &f.request).filter(|r| !r.format.is_empty()) {
            if let (Some(a), Some(b)) = (&request.checkpoint, &other.checkpoint)
                && place(a) == place(b)
            {
                return Err(Error::invalid_query(format!(
                    "the flows '{}' and '{}' have one CHECKPOINT, '{a}': give each its own",
                    other.name, request.name
                )));
            }
            let same_place = matches!((&request.path, &other.path), (Some(a), Some(b)) if place(a) == place(b));
            let columns = |plan: &LogicalPlan| -> Vec<(String, DataType)> {
                plan.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
            };
            if same_place && columns(&request.plan) != columns(&other.plan) {
                return Err(Error::invalid_query(format!(
                    "the flows '{}' and '{}' write other columns into one table: declare the table's columns",
                    other.name, request.name
                )));
            }
        }
        Ok(())
    }

    /// Makes the flow's sink once, to see that it can be made.
    async fn check_sink(&self, request: &QueryRequest, planned: &StreamPlan) -> Result<()> {
        if request.own_sink.is_some() {
            return Ok(());
        }
        let sink = self.make_sink(request, &planned.schema).await?;
        if !sink.supports(request.mode) {
            return Err(super::start::unsupported_mode(sink.as_ref(), request.mode));
        }
        Ok(())
    }

    async fn create_streaming_table(self: &Arc<Self>, create: CreateStreamingTable, piece: &Piece) -> Result<()> {
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
    async fn create_materialized_view(&self, create: CreateMaterializedView, piece: &Piece) -> Result<()> {
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
        };
        locked(&self.flows).push(Flow::new(request, name));
        Ok(())
    }

    async fn create_view(&self, create: CreateView, piece: &Piece) -> Result<()> {
        self.refresh_tables().await?;
        let plan = self.plan(*create.query, piece).await?;
        let plan = match create.columns.as_slice() {
            [] => plan,
            names => rename(plan, names).map_err(|e| at(e, piece))?,
        };
        if self.context.table_exist(create.name.clone())? {
            if create.if_not_exists {
                return Ok(());
            }
            if !create.or_replace {
                let message = format!("a table or view '{}' exists: use CREATE OR REPLACE VIEW", create.name);
                return Err(at(Error::invalid_query(message), piece));
            }
            self.context.deregister_table(create.name.clone())?;
        }
        let view = datafusion::datasource::ViewTable::new(plan, Some(piece.text.clone()));
        self.context.register_table(create.name, Arc::new(view))?;
        Ok(())
    }

    async fn explain(self: &Arc<Self>, analyze: bool, verbose: bool, what: Explained, piece: &Piece) -> Result<Done> {
        let (plan, mode) = match what {
            Explained::Flow(name) => {
                let flow = self.flow(&name).map_err(|e| at(e, piece))?;
                (flow.request.plan, flow.request.mode)
            }
            Explained::Statement(statement) => match *statement {
                Statement::Query(query) => (self.plan(*query, piece).await?, OutputMode::Append),
                Statement::Insert(insert) => (self.plan(*insert.query, piece).await?, OutputMode::Append),
                Statement::CreateFlow(create) => {
                    (self.plan(*create.insert.query, piece).await?, create.clauses.output_mode.unwrap_or_default())
                }
                _ => {
                    return Err(at(Error::unsupported("EXPLAIN takes a query, an INSERT or a flow"), piece));
                }
            },
        };
        if !is_streaming(&plan) {
            let explained = DataFrame::new(self.context.state(), plan).explain(verbose, analyze)?;
            return Ok(rows(explained));
        }
        if analyze {
            return Err(at(
                Error::unsupported("EXPLAIN ANALYZE runs the query, and a stream does not end: use EXPLAIN"),
                piece,
            ));
        }
        let planned = match self.plan_stream(plan.clone(), mode).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.plan_stream(plan, OutputMode::Update).await.map_err(|_| at(error, piece))?
            }
            other => other.map_err(|e| at(e, piece))?,
        };
        let physical =
            datafusion::physical_plan::displayable(planned.physical(false).as_ref()).indent(verbose).to_string();
        self.text_rows(
            &["plan_type", "plan"],
            &[
                vec!["logical_plan".to_string(), planned.logical.display_indent().to_string()],
                vec!["physical_plan".to_string(), physical],
            ],
        )
    }

    fn show_flows(&self) -> Result<Done> {
        let flows = locked(&self.flows).clone();
        let rows: Vec<Vec<String>> = flows
            .iter()
            .map(|flow| {
                let state = match self.queries.get(flow.name()) {
                    Some(query) => query.status().message,
                    None if flow.started => "Ended".to_string(),
                    None => "Waiting to start".to_string(),
                };
                vec![
                    flow.name().to_string(),
                    flow.target.clone(),
                    flow.request.mode.to_string(),
                    flow.request.trigger.to_string(),
                    state,
                ]
            })
            .collect();
        self.text_rows(&["flow", "target", "output_mode", "trigger", "state"], &rows)
    }

    fn describe_flow(&self, name: &str) -> Result<Done> {
        let flow = self.flow(name)?;
        let fact = |what: &str, is: String| vec![what.to_string(), is];
        let mut facts = vec![
            fact("flow", flow.name().to_string()),
            fact("target", flow.target.clone()),
            fact("reads", flow.reads.join(", ")),
            fact("output mode", flow.request.mode.to_string()),
            fact("trigger", flow.request.trigger.to_string()),
            fact("checkpoint", flow.request.checkpoint.clone().unwrap_or_else(|| "beside the sink".to_string())),
            fact("stateful", stream_plan::is_stateful(&flow.request.plan).to_string()),
        ];
        if let Some(progress) = self.queries.get(name).and_then(|q| q.last_progress()) {
            facts.push(fact("last progress", progress.json()));
        }
        self.text_rows(&["property", "value"], &facts)
    }

    fn text_rows(&self, names: &[&str], table: &[Vec<String>]) -> Result<Done> {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect();
        let column =
            |i: usize| -> ArrayRef { Arc::new(StringArray::from_iter_values(table.iter().map(|row| &row[i]))) };
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), (0..names.len()).map(column).collect())?;
        Ok(rows(self.context.read_batch(batch)?))
    }

    /// A bare SELECT over a stream goes to the console, in the first mode that can show it.
    async fn to_console(&self, dataframe: DataFrame) -> Result<()> {
        let (_, plan) = dataframe.into_parts();
        let mut mode = OutputMode::Append;
        for other in [OutputMode::Append, OutputMode::Update, OutputMode::Complete] {
            if self.plan_stream(plan.clone(), other).await.is_ok() {
                mode = other;
                break;
            }
        }
        let request = QueryRequest {
            name: self.free_name("console"),
            plan,
            mode,
            trigger: self.settings().trigger,
            checkpoint: None,
            format: "console".to_string(),
            path: None,
            options: Options::new(),
            partition_by: Vec::new(),
            own_sink: None,
        };
        locked(&self.flows).push(Flow::new(request, String::new()));
        Ok(())
    }

    async fn show(&self, plan: LogicalPlan, piece: &Piece) -> Result<()> {
        self.print(DataFrame::new(self.context.state(), plan)).await.map_err(|e| at(e, piece))
    }

    async fn print(&self, dataframe: DataFrame) -> Result<()> {
        let schema = Arc::new(dataframe.schema().as_arrow().clone());
        let mut batches = dataframe.collect().await?;
        if schema.fields().is_empty() {
            return Ok(());
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        let text = pretty_format_batches(&batches)?;
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(console, "{text}")?;
        console.flush()?;
        Ok(())
    }
}

fn rows(dataframe: DataFrame) -> Done {
    Done::Rows(Box::new(dataframe))
}

/// Says which statement an error belongs to, unless the error already says where it is.
fn at(error: Error, piece: &Piece) -> Error {
    if error.message().starts_with("line ") {
        return error;
    }
    let message = format!("line {}, column {}: {}", piece.line, piece.column, error.message());
    Error::new(error.kind(), message).with_source(error)
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

fn sink_options(table: &TableDefinition) -> Options {
    let mut options = table.options.clone();
    options.remove("checkpointLocation");
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
        || given.is_nested()
        || (!text(given) && !given.is_numeric() && !time(given) && *given != DataType::Boolean)
}

/// A path with nothing relative in it, to compare.
fn normal_path(text: &str) -> std::path::PathBuf {
    let text = text.strip_prefix("file://").unwrap_or(text);
    let absolute = std::path::absolute(text).unwrap_or_else(|_| text.into());
    let mut normal = std::path::PathBuf::new();
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

fn rename(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    if names.len() != schema.fields().len() {
        return Err(Error::invalid_query(format!(
            "{} names are given for {} columns",
            names.len(),
            schema.fields().len()
        )));
    }
    let columns = schema.columns().into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name));
    Ok(LogicalPlanBuilder::from(plan).project(columns.collect::<Vec<_>>())?.build()?)
}
