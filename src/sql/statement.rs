//! One statement: text → [`Statement`].
//!
//! A session gives pieces of a script here and acts on what comes back. Statements that only DataFusion knows come
//! back whole, as [`Statement::Other`]. Whatever is wrong with the text is an error that shows the place.

use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{self, Query};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

pub use super::clause::{FlowClauses, TableDefinition, TableWatermark, TriggerClause};
pub use super::create::{CreateFlow, CreateMaterializedView, CreateStreamingTable, CreateTable, CreateView, Insert};
use super::create::{create, insert};
use super::relation_tokens::rewrite_relations;
use super::script::{DIALECT, Parsed, Piece};
use super::words::{ends_at, expect_end, expect_word, is_word, normal, skip, table_name, take_words, word_at};
use crate::error::Result;

/// A statement, parsed and not planned.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// CREATE [UNBOUNDED] EXTERNAL TABLE ….
    CreateTable(CreateTable),
    /// CREATE FLOW … AS INSERT INTO ….
    CreateFlow(CreateFlow),
    /// CREATE STREAMING TABLE ….
    CreateStreamingTable(CreateStreamingTable),
    /// CREATE MATERIALIZED VIEW ….
    CreateMaterializedView(CreateMaterializedView),
    /// CREATE VIEW ….
    CreateView(CreateView),
    /// INSERT INTO …: an unnamed flow where the query is a stream.
    Insert(Insert),
    /// SELECT …, WITH …, VALUES ….
    Query(Box<Query>),
    /// SET key = value.
    Set {
        /// The key as written; `timezone` for SET TIME ZONE.
        key: String,
        /// The value without its quotes.
        value: String,
    },
    /// EXPLAIN [ANALYZE] [VERBOSE] ….
    Explain {
        /// ANALYZE: with what running it showed.
        analyze: bool,
        /// VERBOSE (or Spark's EXTENDED): every step of planning.
        verbose: bool,
        /// What is explained.
        what: Explained,
    },
    /// SHOW FLOWS.
    ShowFlows,
    /// SHOW TABLES.
    ShowTables,
    /// DESCRIBE t.
    Describe {
        /// The table or view.
        name: TableReference,
    },
    /// DESCRIBE FLOW f.
    DescribeFlow {
        /// The flow.
        name: String,
    },
    /// START FLOW f.
    StartFlow {
        /// The flow.
        name: String,
    },
    /// STOP FLOW f.
    StopFlow {
        /// The flow.
        name: String,
    },
    /// DROP FLOW [IF EXISTS] f.
    DropFlow {
        /// The flow.
        name: String,
        /// IF EXISTS: no error where there is none.
        if_exists: bool,
    },
    /// DROP [STREAMING] TABLE [IF EXISTS] t.
    DropTable {
        /// The table.
        name: TableReference,
        /// IF EXISTS: no error where there is none.
        if_exists: bool,
    },
    /// DROP [MATERIALIZED] VIEW [IF EXISTS] v.
    DropView {
        /// The view.
        name: TableReference,
        /// IF EXISTS: no error where there is none.
        if_exists: bool,
    },
    /// Whatever else DataFusion's parser reads.
    Other(Box<DataFusionStatement>),
}

/// What EXPLAIN is asked about.
#[derive(Debug, Clone, PartialEq)]
pub enum Explained {
    /// A flow, by its name.
    Flow(String),
    /// A statement.
    Statement(Box<Statement>),
}

/// Parses one statement.
///
/// # Errors
/// `InvalidQuery` whose message holds line and column in the script, what is wrong, what would do, and the line with
/// a caret below the place.
pub fn parse_statement(piece: &Piece) -> Result<Statement> {
    let tokens = piece.tokens()?;
    parse_tokens(tokens.clone()).map_err(|error| piece.error(error, &tokens))
}

fn parse_tokens(tokens: Vec<TokenWithSpan>) -> Parsed<Statement> {
    let tokens = rewrite_relations(tokens)?;
    let mut df = DFParserBuilder::new(tokens).with_dialect(&DIALECT).build()?;
    let statement = statement(&mut df)?;
    expect_end(&mut df.parser)?;
    Ok(statement)
}

fn statement(df: &mut DFParser<'_>) -> Parsed<Statement> {
    let parser = &mut df.parser;
    let (first, second) = (word_at(parser, 0), word_at(parser, 1));
    match (first.as_str(), second.as_str()) {
        ("CREATE", _) => create(df),
        ("INSERT", "INTO") => {
            skip(parser, 1);
            Ok(Statement::Insert(insert(parser)?))
        }
        ("SET", _) => set(df),
        ("EXPLAIN", _) => explain(df),
        ("SHOW", "FLOWS") => {
            skip(parser, 2);
            Ok(Statement::ShowFlows)
        }
        ("SHOW", "TABLES") if ends_at(parser, 2) => {
            skip(parser, 2);
            Ok(Statement::ShowTables)
        }
        ("DESCRIBE" | "DESC", _) => describe(df),
        ("STOP", _) => {
            skip(parser, 1);
            expect_word(parser, "FLOW", "STOP")?;
            Ok(Statement::StopFlow { name: flow_name(parser)? })
        }
        ("START", word) if word != "TRANSACTION" => {
            skip(parser, 1);
            expect_word(parser, "FLOW", "START")?;
            Ok(Statement::StartFlow { name: flow_name(parser)? })
        }
        ("DROP", "FLOW" | "TABLE" | "VIEW" | "STREAMING" | "MATERIALIZED") => drop_one(parser, &second),
        _ => other(df),
    }
}

/// Reads a statement with DataFusion's parser.
pub(super) fn other(df: &mut DFParser<'_>) -> Parsed<Statement> {
    Ok(match df.parse_statement()? {
        DataFusionStatement::Statement(sql) => match *sql {
            ast::Statement::Query(query) => Statement::Query(query),
            sql => Statement::Other(Box::new(DataFusionStatement::Statement(Box::new(sql)))),
        },
        statement => Statement::Other(Box::new(statement)),
    })
}

/// Reads a flow's name; of several parts it stays one name.
pub(super) fn flow_name(parser: &mut Parser<'_>) -> Parsed<String> {
    let mut name = normal(&parser.parse_identifier()?);
    while parser.consume_token(&Token::Period) {
        name.push('.');
        name.push_str(&normal(&parser.parse_identifier()?));
    }
    Ok(name)
}

/// Reads `DROP kind [IF EXISTS] name`.
fn drop_one(parser: &mut Parser<'_>, kind: &str) -> Parsed<Statement> {
    skip(parser, 2);
    match kind {
        "STREAMING" => expect_word(parser, "TABLE", kind)?,
        "MATERIALIZED" => expect_word(parser, "VIEW", kind)?,
        _ => {}
    }
    let if_exists = take_words(parser, &["IF", "EXISTS"]);
    Ok(match kind {
        "FLOW" => Statement::DropFlow { name: flow_name(parser)?, if_exists },
        "TABLE" | "STREAMING" => Statement::DropTable { name: table_name(parser)?, if_exists },
        _ => Statement::DropView { name: table_name(parser)?, if_exists },
    })
}

fn describe(df: &mut DFParser<'_>) -> Parsed<Statement> {
    let parser = &mut df.parser;
    let word = word_at(parser, 1);
    // a table may be called flow
    if word == "FLOW" && matches!(parser.peek_nth_token_ref(2).token, Token::Word(_)) {
        skip(parser, 2);
        return Ok(Statement::DescribeFlow { name: flow_name(parser)? });
    }
    if matches!(word.as_str(), "SELECT" | "WITH" | "VALUES" | "INSERT") {
        return other(df);
    }
    skip(parser, 1);
    for word in ["TABLE", "EXTENDED", "FORMATTED"] {
        if matches!(parser.peek_nth_token_ref(1).token, Token::Word(_)) {
            take_words(parser, &[word]);
        }
    }
    Ok(Statement::Describe { name: table_name(parser)? })
}

fn explain(df: &mut DFParser<'_>) -> Parsed<Statement> {
    let parser = &mut df.parser;
    let mut ahead = 1;
    let analyze = word_at(parser, ahead) == "ANALYZE";
    ahead += usize::from(analyze);
    let verbose = matches!(word_at(parser, ahead).as_str(), "VERBOSE" | "EXTENDED");
    ahead += usize::from(verbose);
    if word_at(parser, ahead) == "FLOW" {
        skip(parser, ahead + 1);
        return Ok(Statement::Explain { analyze, verbose, what: Explained::Flow(flow_name(parser)?) });
    }
    // EXPLAIN FORMAT tree … and EXPLAIN (ANALYZE, …) … are DataFusion's own
    if word_at(parser, ahead) == "FORMAT" || parser.peek_nth_token_ref(ahead).token == Token::LParen {
        return other(df);
    }
    skip(parser, ahead);
    let statement = statement(df)?;
    Ok(Statement::Explain { analyze, verbose, what: Explained::Statement(Box::new(statement)) })
}

/// Reads `SET key = value`, `SET key TO value` and `SET TIME ZONE value`.
fn set(df: &mut DFParser<'_>) -> Parsed<Statement> {
    let parser = &mut df.parser;
    if word_at(parser, 1) == "TIME" && word_at(parser, 2) == "ZONE" {
        skip(parser, 3);
        return Ok(Statement::Set { key: "timezone".to_string(), value: rest(parser) });
    }
    let mut key = String::new();
    let mut ahead = 1;
    while let Token::Word(word) = &parser.peek_nth_token_ref(ahead).token {
        key.push_str(&word.value);
        ahead += 1;
        match &parser.peek_nth_token_ref(ahead).token {
            Token::Period => key.push('.'),
            Token::Minus => key.push('-'),
            _ => break,
        }
        ahead += 1;
    }
    let joint = &parser.peek_nth_token_ref(ahead).token;
    if key.is_empty() || !(*joint == Token::Eq || is_word(joint, "TO")) || ends_at(parser, ahead + 1) {
        return other(df);
    }
    skip(parser, ahead + 1);
    Ok(Statement::Set { key, value: rest(parser) })
}

/// Takes all that is left as one value: the text of a single literal, or the words as they were written.
fn rest(parser: &mut Parser<'_>) -> String {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    while !ends_at(parser, 0) {
        tokens.push(parser.next_token());
    }
    if let [TokenWithSpan { token: Token::SingleQuotedString(text), .. }] = tokens.as_slice() {
        return text.clone();
    }
    if let [TokenWithSpan { token: Token::Word(word), .. }] = tokens.as_slice() {
        return word.value.clone();
    }
    let mut value = String::new();
    for (i, token) in tokens.iter().enumerate() {
        let apart = i.checked_sub(1).and_then(|i| tokens.get(i)).is_some_and(|t| t.span.end != token.span.start);
        if apart {
            value.push(' ');
        }
        value.push_str(&token.token.to_string());
    }
    value
}
