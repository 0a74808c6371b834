//! Statements carried out: what each SQL statement does to a session.

use std::sync::{Arc, PoisonError};

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{collect, displayable};
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::Query;

use super::flow::Flow;
use super::start::QueryRequest;
use super::{Inner, locked};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::plan::stream_table::is_streaming;
use crate::query::Trigger;
use crate::sink::OutputMode;
use crate::sql::binder::{locate, plan_query, plan_statement};
use crate::sql::deep_stack::deep_async;
use crate::sql::script::{Piece, split_script};
use crate::sql::statement::{CreateView, Explained, Statement, parse_statement};

/// What a statement leaves to be done.
pub(super) enum Done {
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
                let (state, own) = (self.context.state(), piece.clone());
                let plan = deep_async(async move { plan_statement(&state, *statement, &own).await }).await?;
                let dataframe = self.context.execute_logical_plan(plan).await.map_err(|e| locate(e, piece))?;
                return Ok(rows(dataframe));
            }
        }
        Ok(Done::Nothing)
    }

    pub(super) async fn plan(&self, query: Query, piece: &Piece) -> Result<LogicalPlan> {
        let (session, piece) = (Self::of(&self.context.copied_config())?, piece.clone());
        let planning = async move {
            let state = session.with_state_tables(&query).await.map_err(|e| at(e, &piece))?;
            plan_query(&state, query, &piece).await
        };
        deep_async(planning).await
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

    pub(super) fn flow(&self, name: &str) -> Result<Flow> {
        let flows = locked(&self.flows);
        flows.iter().find(|f| f.name() == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = flows.iter().map(Flow::name).collect();
            Error::invalid_query(format!("there is no flow '{name}'; flows: {}", names.join(", ")))
        })
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
        let (mut waiting, mut measured) = (Vec::new(), None);
        let (plan, mode) = match what {
            Explained::Flow(name) => {
                let flow = self.flow(&name).map_err(|e| at(e, piece))?;
                if analyze {
                    measured = Some(self.measured(&flow).await.map_err(|e| at(e, piece))?);
                }
                waiting = self.waiting(&name);
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
        if analyze && measured.is_none() {
            let message =
                "EXPLAIN ANALYZE runs the query, and a stream does not end: use EXPLAIN, or EXPLAIN ANALYZE FLOW";
            return Err(at(Error::unsupported(message), piece));
        }
        let planned = match self.plan_stream(plan.clone(), mode).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.plan_stream(plan, OutputMode::Update).await.map_err(|_| at(error, piece))?
            }
            other => other.map_err(|e| at(e, piece))?,
        };
        let shown = async move {
            let physical = displayable(planned.physical(false).as_ref()).indent(verbose).to_string();
            Ok((planned.logical.display_indent().to_string(), physical))
        };
        let (logical, physical) = deep_async(shown).await?;
        let mut facts = vec![vec!["logical_plan".to_string(), logical], vec!["physical_plan".to_string(), physical]];
        facts.extend(measured.map(|batch| vec!["last_batch".to_string(), batch]));
        facts.extend(waiting.into_iter().map(|reason| vec!["waiting".to_string(), reason]));
        self.text_rows(&["plan_type", "plan"], &facts)
    }

    /// Runs a flow that has yet to run and ends by itself, and returns what its last batch took: Spark's progress.
    async fn measured(self: &Arc<Self>, flow: &Flow) -> Result<String> {
        if !flow.started && matches!(flow.request.trigger, Trigger::AvailableNow | Trigger::Once) {
            self.run_flows().await?;
        }
        let progress = self.queries.newest(flow.name()).and_then(|query| query.last_batch());
        progress.map(|progress| progress.json()).ok_or_else(|| {
            Error::unsupported(format!(
                "EXPLAIN ANALYZE FLOW tells what the last batch took, and '{}' has run none: start it, or use EXPLAIN FLOW",
                flow.name()
            ))
        })
    }

    /// Says what the state of a flow that has run waits for, a sentence for each operator.
    fn waiting(&self, flow: &str) -> Vec<String> {
        let progress = self.queries.newest(flow).and_then(|query| query.last_batch());
        progress.map_or_else(Vec::new, |progress| progress.waiting().into_iter().map(str::to_string).collect())
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
            fact("late rows into", flow.late_target().unwrap_or("nowhere: they are counted").to_string()),
            fact("reads", flow.reads.join(", ")),
            fact("output mode", flow.request.mode.to_string()),
            fact("trigger", flow.request.trigger.to_string()),
            fact("checkpoint", flow.request.checkpoint.clone().unwrap_or_else(|| "beside the sink".to_string())),
        ];
        facts.extend(self.waiting(name).into_iter().map(|reason| fact("waiting", reason)));
        if let Some(progress) = self.queries.newest(name).and_then(|q| q.last_progress()) {
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
            own_checkpoint: None,
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
            late_rows: None,
        };
        locked(&self.flows).push(Flow::new(request, String::new()));
        Ok(())
    }

    async fn show(&self, plan: LogicalPlan, piece: &Piece) -> Result<()> {
        self.print(DataFrame::new(self.context.state(), plan)).await.map_err(|e| at(e, piece))
    }

    async fn print(&self, dataframe: DataFrame) -> Result<()> {
        let schema = Arc::new(dataframe.schema().as_arrow().clone());
        let task = Arc::new(dataframe.task_ctx());
        let (state, plan) = dataframe.into_parts();
        let physical = deep_async(async move { Ok(state.create_physical_plan(&plan).await?) }).await?;
        let mut batches = collect(physical, task).await?;
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
pub(super) fn at(error: Error, piece: &Piece) -> Error {
    if error.message().starts_with("line ") {
        return error;
    }
    let message = format!("line {}, column {}: {}", piece.line, piece.column, error.message());
    Error::new(error.kind(), message).with_source(error)
}

pub(super) fn rename(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan> {
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
