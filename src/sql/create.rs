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

/// CREATE [OR REPLACE] [UNBOUNDED] EXTERNAL TABLE ….
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

/// CREATE [OR REPLACE] [TEMPORARY] VIEW v AS ….
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
    let Token::Word(word) = &token.token else { return None };
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
