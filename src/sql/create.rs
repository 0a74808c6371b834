//! CREATE and INSERT: tables, flows, streaming tables, materialized views and views.
//!
//! What CREATE makes that is not ours goes to DataFusion's own parser.

use datafusion::common::TableReference;
use datafusion::sql::parser::DFParser;
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::clause::{FLOW_CLAUSES, FlowClauses, TABLE_CLAUSES, TableDefinition, columns, flow_clause, table_clause};
use super::script::{Parsed, SyntaxError};
use super::statement::{Statement, flow_name, other};
use super::words::{
    ends_at, expect_word, found, if_not_exists, names, skip, table_name, take_words, text, unknown_clause, word_at,
};
use crate::options::nearest;

/// CREATE \[OR REPLACE\] \[UNBOUNDED\] EXTERNAL TABLE ….
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// OR REPLACE: an existing table gives way.
    pub or_replace: bool,
    /// UNBOUNDED: the table is a stream, even without the word STREAM.
    pub unbounded: bool,
    /// What is declared.
    pub table: TableDefinition,
}

/// CREATE FLOW … AS INSERT INTO ….
#[derive(Debug, Clone, PartialEq)]
pub struct CreateFlow {
    /// The flow's name.
    pub name: String,
    /// IF NOT EXISTS: an existing flow stays.
    pub if_not_exists: bool,
    /// What the flow says about itself.
    pub clauses: FlowClauses,
    /// What it writes and where.
    pub insert: Insert,
}

/// INSERT INTO t [BY NAME] [(a, b)] query: by itself an unnamed flow where the query is a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    /// The table that is written.
    pub target: TableReference,
    /// BY NAME: columns are matched by their names, not by their order.
    pub by_name: bool,
    /// The columns that are written; none for all of them.
    pub columns: Vec<String>,
    /// The rows.
    pub query: Box<Query>,
}

/// CREATE STREAMING TABLE …: a table and, with AS, the flow of its name that fills it.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateStreamingTable {
    /// What is declared.
    pub table: TableDefinition,
    /// What the flow says about itself.
    pub clauses: FlowClauses,
    /// What fills the table; none where flows of their own do.
    pub query: Option<Box<Query>>,
}

/// CREATE MATERIALIZED VIEW v AS ….
#[derive(Debug, Clone, PartialEq)]
pub struct CreateMaterializedView {
    /// The view, with what it says about its files.
    pub table: TableDefinition,
    /// What the flow that keeps it says about itself.
    pub clauses: FlowClauses,
    /// What the view shows.
    pub query: Box<Query>,
}

/// CREATE \[OR REPLACE\] \[TEMPORARY\] VIEW v AS ….
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    /// The view's name.
    pub name: TableReference,
    /// OR REPLACE: an existing view gives way.
    pub or_replace: bool,
    /// IF NOT EXISTS: an existing view stays.
    pub if_not_exists: bool,
    /// TEMPORARY: the view is gone with the session.
    pub temporary: bool,
    /// The names of the columns; none for the query's own.
    pub columns: Vec<String>,
    /// What the view shows.
    pub query: Box<Query>,
}

/// Reads a statement that begins with CREATE.
pub(super) fn create(df: &mut DFParser<'_>) -> Parsed<Statement> {
    let parser = &mut df.parser;
    let or_replace = word_at(parser, 1) == "OR" && word_at(parser, 2) == "REPLACE";
    let first = if or_replace { 3 } else { 1 };
    let (word, next) = (word_at(parser, first), word_at(parser, first + 1));
    match (word.as_str(), next.as_str()) {
        ("EXTERNAL", "TABLE") => {
            skip(parser, first + 2);
            create_table(parser, or_replace, false)
        }
        ("UNBOUNDED", "EXTERNAL") => {
            skip(parser, first + 2);
            expect_word(parser, "TABLE", "EXTERNAL")?;
            create_table(parser, or_replace, true)
        }
        ("EXTERNAL" | "UNBOUNDED", _) => {
            skip(parser, first + 1);
            let expected = if word == "EXTERNAL" { "TABLE" } else { "EXTERNAL TABLE" };
            let message = format!("expected {expected} after {word}, found {}", found(parser));
            Err(SyntaxError::here(parser, message).guessing())
        }
        ("FLOW" | "STREAMING" | "MATERIALIZED", _) if or_replace => {
            skip(parser, 1);
            Err(SyntaxError::here(parser, format!("OR REPLACE does not go with {word}: drop it first")))
        }
        ("FLOW", _) => {
            skip(parser, 2);
            create_flow(parser)
        }
        ("STREAMING", _) => {
            skip(parser, 2);
            expect_word(parser, "TABLE", "STREAMING")?;
            create_streaming_table(parser)
        }
        ("MATERIALIZED", _) => {
            skip(parser, 2);
            expect_word(parser, "VIEW", "MATERIALIZED")?;
            create_materialized_view(parser)
        }
        ("VIEW", _) | ("TEMP" | "TEMPORARY", "VIEW") | ("GLOBAL", "TEMP" | "TEMPORARY") => {
            skip(parser, first);
            create_view(parser, or_replace)
        }
        ("STREAM", _) => {
            skip(parser, first);
            let message = "there is no CREATE STREAM: write CREATE UNBOUNDED EXTERNAL TABLE";
            Err(SyntaxError::here(parser, message))
        }
        _ => {
            if let Some(error) = misspelt_kind(parser, first) {
                return Err(error);
            }
            other(df)
        }
    }
}

/// The error for a word after CREATE that nothing else knows and one of ours is near to.
fn misspelt_kind(parser: &mut Parser<'_>, first: usize) -> Option<SyntaxError> {
    const KINDS: &[&str] = &["EXTERNAL", "UNBOUNDED", "FLOW", "STREAMING", "MATERIALIZED", "VIEW", "TABLE"];
    let token = parser.peek_nth_token_ref(first);
    let Token::Word(word) = &token.token else {
        return None;
    };
    if word.quote_style.is_some() || word.keyword != Keyword::NoKeyword {
        return None;
    }
    let near = nearest(&word.value, KINDS)?;
    skip(parser, first);
    Some(SyntaxError::here(parser, format!("unexpected {} after CREATE; did you mean {near}?", found(parser))))
}

fn create_table(parser: &mut Parser<'_>, or_replace: bool, unbounded: bool) -> Parsed<Statement> {
    let mut table = table_head(parser)?;
    while !ends_at(parser, 0) {
        if !table_clause(parser, &mut table)? {
            return Err(unknown_clause(parser, TABLE_CLAUSES));
        }
    }
    Ok(Statement::CreateTable(CreateTable { or_replace, unbounded, table }))
}

/// Reads `[IF NOT EXISTS] name [(columns)]`.
fn table_head(parser: &mut Parser<'_>) -> Parsed<TableDefinition> {
    let if_not_exists = if_not_exists(parser);
    let mut table = TableDefinition::new(table_name(parser)?, if_not_exists);
    if parser.peek_token_ref().token == Token::LParen {
        columns(parser, &mut table)?;
    }
    Ok(table)
}

fn create_flow(parser: &mut Parser<'_>) -> Parsed<Statement> {
    let if_not_exists = if_not_exists(parser);
    let name = flow_name(parser)?;
    let mut clauses = FlowClauses::default();
    while !take_words(parser, &["AS"]) {
        if !flow_clause(parser, &mut clauses)? {
            return Err(unknown_clause(parser, FLOW_CLAUSES));
        }
    }
    refuse_auto_cdc(parser)?;
    if !take_words(parser, &["INSERT"]) {
        let message =
            format!("a flow writes to a table: expected INSERT INTO <table> and a query, found {}", found(parser));
        return Err(SyntaxError::here(parser, message));
    }
    let insert = insert(parser)?;
    Ok(Statement::CreateFlow(CreateFlow { name, if_not_exists, clauses, insert }))
}

/// Reads what follows INSERT.
pub(super) fn insert(parser: &mut Parser<'_>) -> Parsed<Insert> {
    if word_at(parser, 0) == "OVERWRITE" {
        return Err(SyntaxError::here(
            parser,
            "INSERT OVERWRITE is not supported, since a flow adds to its table: write INSERT INTO, or CREATE MATERIALIZED \
             VIEW for a result that is replaced",
        ));
    }
    expect_word(parser, "INTO", "INSERT")?;
    if word_at(parser, 0) == "TABLE" && matches!(parser.peek_nth_token_ref(1).token, Token::Word(_)) {
        skip(parser, 1);
    }
    let target = table_name(parser)?;
    let by_name = take_words(parser, &["BY", "NAME"]);
    let opens = parser.peek_token_ref().token == Token::LParen;
    let inner = &parser.peek_nth_token_ref(1).token;
    let is_query =
        *inner == Token::LParen || matches!(word_at(parser, 1).as_str(), "SELECT" | "WITH" | "VALUES" | "FROM");
    let columns = if opens && !is_query && !by_name { names(parser)? } else { Vec::new() };
    Ok(Insert { target, by_name, columns, query: parser.parse_query()? })
}

fn create_streaming_table(parser: &mut Parser<'_>) -> Parsed<Statement> {
    let mut table = table_head(parser)?;
    let mut clauses = FlowClauses::default();
    let query = dataset_clauses(parser, &mut table, &mut clauses)?;
    Ok(Statement::CreateStreamingTable(CreateStreamingTable { table, clauses, query }))
}

fn create_materialized_view(parser: &mut Parser<'_>) -> Parsed<Statement> {
    let mut table = table_head(parser)?;
    let mut clauses = FlowClauses::default();
    match dataset_clauses(parser, &mut table, &mut clauses)? {
        Some(query) => Ok(Statement::CreateMaterializedView(CreateMaterializedView { table, clauses, query })),
        None => Err(SyntaxError::here(parser, "a materialized view needs a query: write AS SELECT …")),
    }
}

/// Reads the clauses of a table and of its flow, and the query behind AS.
fn dataset_clauses(
    parser: &mut Parser<'_>,
    table: &mut TableDefinition,
    clauses: &mut FlowClauses,
) -> Parsed<Option<Box<Query>>> {
    while !ends_at(parser, 0) {
        if take_words(parser, &["AS"]) {
            return Ok(Some(parser.parse_query()?));
        }
        if take_words(parser, &["FLOW"]) {
            refuse_auto_cdc(parser)?;
        }
        // COMMENT is the table's, and so the table's clauses are asked first
        if !table_clause(parser, table)? && !flow_clause(parser, clauses)? {
            return Err(unknown_clause(parser, &[TABLE_CLAUSES, FLOW_CLAUSES].concat()));
        }
    }
    Ok(None)
}

fn create_view(parser: &mut Parser<'_>, or_replace: bool) -> Parsed<Statement> {
    let global = take_words(parser, &["GLOBAL"]);
    let temporary = take_words(parser, &["TEMPORARY"]) || take_words(parser, &["TEMP"]) || global;
    expect_word(parser, "VIEW", "TEMPORARY")?;
    let if_not_exists = if_not_exists(parser);
    let name = table_name(parser)?;
    let columns = if parser.peek_token_ref().token == Token::LParen { names(parser)? } else { Vec::new() };
    if take_words(parser, &["COMMENT"]) {
        text(parser, "the comment")?;
    }
    expect_word(parser, "AS", "the view's name")?;
    let query = parser.parse_query()?;
    Ok(Statement::CreateView(CreateView { name, or_replace, if_not_exists, temporary, columns, query }))
}

fn refuse_auto_cdc(parser: &Parser<'_>) -> Parsed<()> {
    if word_at(parser, 0) == "AUTO" && word_at(parser, 1) == "CDC" {
        return Err(SyntaxError::here(parser, "AUTO CDC is not supported: write INSERT INTO <table> and a query"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};

    use super::super::clause::{TableWatermark, TriggerClause};
    use super::super::script::Piece;
    use super::super::statement::parse_statement;
    use super::*;
    use crate::sink::OutputMode;

    fn parse(sql: &str) -> Statement {
        parse_statement(&Piece::new(sql)).unwrap()
    }

    fn table(name: &str) -> TableDefinition {
        TableDefinition::new(TableReference::bare(name), false)
    }

    #[test]
    fn a_table_says_columns_watermark_and_files() {
        let sql = "CREATE UNBOUNDED EXTERNAL TABLE flights (
                     sched_dep TIMESTAMP, \"Dep Delay\" INT, Carrier STRING NOT NULL COMMENT 'IATA',
                     WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR -- optional, as in Flink
                   ) STORED AS JSON LOCATION 'data/flights/' OPTIONS ('maxFilesPerTrigger' '1')";
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        let comment = [("comment".to_string(), "IATA".to_string())].into();
        let expected = TableDefinition {
            columns: vec![
                Field::new("sched_dep", timestamp, true),
                Field::new("Dep Delay", DataType::Int32, true),
                Field::new("carrier", DataType::Utf8, false).with_metadata(comment),
            ],
            watermark: Some(TableWatermark { column: "sched_dep".to_string(), delay_us: 10_800_000_000 }),
            format: Some("json".to_string()),
            location: Some("data/flights/".to_string()),
            options: [("maxFilesPerTrigger", "1")].into_iter().collect(),
            ..table("flights")
        };
        let created = CreateTable { or_replace: false, unbounded: true, table: expected };
        assert_eq!(parse(sql), Statement::CreateTable(created));
    }

    #[test]
    fn a_tables_clauses_come_in_any_order() {
        let sql = "CREATE OR REPLACE EXTERNAL TABLE IF NOT EXISTS a.delays OPTIONS (shared = true, x.y 3) \
                   PARTITIONED BY (origin, day DATE) COMMENT 'c' LOCATION 'out/' STORED AS RATE_MICRO_BATCH";
        let expected = TableDefinition {
            columns: vec![Field::new("day", DataType::Date32, true)],
            partition_by: vec!["origin".to_string(), "day".to_string()],
            format: Some("rate-micro-batch".to_string()),
            location: Some("out/".to_string()),
            options: [("shared", "true"), ("x.y", "3")].into_iter().collect(),
            comment: Some("c".to_string()),
            ..TableDefinition::new(TableReference::partial("a", "delays"), true)
        };
        let created = CreateTable { or_replace: true, unbounded: false, table: expected };
        assert_eq!(parse(sql), Statement::CreateTable(created));
        for format in ["'rate-micro-batch'", "rate-micro-batch"] {
            let sql = format!("CREATE EXTERNAL TABLE t (WATERMARK FOR ts AS ts, ts TIMESTAMP) STORED AS {format}");
            let expected = TableDefinition {
                columns: vec![Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true)],
                watermark: Some(TableWatermark { column: "ts".to_string(), delay_us: 0 }),
                format: Some("rate-micro-batch".to_string()),
                ..table("t")
            };
            let created = CreateTable { or_replace: false, unbounded: false, table: expected };
            assert_eq!(parse(&sql), Statement::CreateTable(created), "{format}");
        }
    }

    #[test]
    fn a_flow_says_how_it_runs_and_what_it_writes() {
        let sql = "CREATE FLOW IF NOT EXISTS Hourly_Delays
                     OUTPUT MODE append TRIGGER AVAILABLE NOW CHECKPOINT 'out/_checkpoints/hourly_delays'
                     LATE ROWS INTO late_flights COMMENT 'hi'
                   AS INSERT INTO delays
                   SELECT window.start AS hour, origin, a.name, avg(dep_delay) AS delay, count(*) AS n
                   FROM STREAM flights WATERMARK sched_dep DELAY OF INTERVAL 3 HOURS AS f
                   JOIN airlines a ON f.carrier = a.carrier
                   GROUP BY window(sched_dep, '1 hour'), origin, a.name";
        let Statement::CreateFlow(flow) = parse(sql) else { unreachable!("not a flow") };
        assert_eq!((flow.name.as_str(), flow.if_not_exists), ("hourly_delays", true));
        let clauses = FlowClauses {
            comment: Some("hi".to_string()),
            output_mode: Some(OutputMode::Append),
            trigger: Some(TriggerClause::AvailableNow),
            checkpoint: Some("out/_checkpoints/hourly_delays".to_string()),
            late_rows_into: Some(TableReference::bare("late_flights")),
        };
        assert_eq!(flow.clauses, clauses);
        assert_eq!(flow.insert.target, TableReference::bare("delays"));
        assert!(flow.insert.query.to_string().contains("FROM __millstream_stream('flights'"));
    }

    #[test]
    fn triggers_and_modes_are_read() {
        let every = |interval_ms| TriggerClause::ProcessingTime { interval_ms };
        for (clauses, trigger, mode) in [
            ("TRIGGER PROCESSING TIME '5 seconds' OUTPUT MODE Update", Some(every(5_000)), Some(OutputMode::Update)),
            ("TRIGGER PROCESSING TIME INTERVAL 5 SECONDS", Some(every(5_000)), None),
            ("OUTPUT MODE complete TRIGGER ONCE", Some(TriggerClause::Once), Some(OutputMode::Complete)),
            ("", None, None),
        ] {
            let sql = format!("CREATE FLOW f {clauses} AS INSERT INTO t SELECT 1");
            let Statement::CreateFlow(flow) = parse(&sql) else { unreachable!("{sql}") };
            assert_eq!((flow.clauses.trigger, flow.clauses.output_mode), (trigger, mode), "{sql}");
        }
    }

    #[test]
    fn an_insert_names_its_columns() {
        for (sql, by_name, columns) in [
            ("INSERT INTO t SELECT 1", false, vec![]),
            ("INSERT INTO TABLE t BY NAME SELECT 1", true, vec![]),
            ("INSERT INTO t (A, \"B\") SELECT 1, 2", false, vec!["a", "B"]),
            ("INSERT INTO t (SELECT 1)", false, vec![]),
            ("INSERT INTO t (a) (SELECT 1);", false, vec!["a"]),
        ] {
            let Statement::Insert(insert) = parse(sql) else { unreachable!("{sql}") };
            assert_eq!(insert.target, TableReference::bare("t"), "{sql}");
            let columns: Vec<String> = columns.into_iter().map(String::from).collect();
            assert_eq!((insert.by_name, insert.columns), (by_name, columns), "{sql}");
        }
    }

    #[test]
    fn streaming_tables_and_views_are_read() {
        let sql = "CREATE STREAMING TABLE IF NOT EXISTS st (a int, b string) USING parquet PARTITIONED BY (a) \
                   COMMENT 'c' TBLPROPERTIES ('x'='y') OUTPUT MODE append";
        let Statement::CreateStreamingTable(created) = parse(sql) else { unreachable!("{sql}") };
        assert_eq!(created.table.options.get("x"), Some("y"));
        assert_eq!((created.table.columns.len(), created.table.comment.as_deref()), (2, Some("c")));
        assert_eq!((created.clauses.output_mode, created.query), (Some(OutputMode::Append), None));

        let sql = "CREATE STREAMING TABLE st TRIGGER ONCE STORED AS JSON AS SELECT * FROM STREAM tt";
        let Statement::CreateStreamingTable(created) = parse(sql) else { unreachable!("{sql}") };
        assert_eq!(created.table.format.as_deref(), Some("json"));
        assert!(created.query.is_some() && created.clauses.trigger == Some(TriggerClause::Once));

        let sql = "CREATE MATERIALIZED VIEW IF NOT EXISTS mv PARTITIONED BY (a) CHECKPOINT 'c' AS SELECT 1 a";
        let Statement::CreateMaterializedView(created) = parse(sql) else { unreachable!("{sql}") };
        assert_eq!(created.table.partition_by, ["a"]);
        assert_eq!(created.query.to_string(), "SELECT 1 AS a");

        let sql = "CREATE OR REPLACE TEMPORARY VIEW v (x, y) AS SELECT k, n FROM STREAM s";
        let Statement::CreateView(created) = parse(sql) else { unreachable!("{sql}") };
        assert!(created.or_replace && created.temporary && !created.if_not_exists);
        assert_eq!(created.columns, ["x", "y"]);
    }
}
