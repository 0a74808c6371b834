//! The clauses of statements of our own: what a flow says about itself, and what a table says about its files.
//!
//! Clauses come in any order, each at most once. A reader here takes one clause where one begins and says whether it
//! did; the statement's reader goes on until AS or the end, and names the near miss of a word that begins none.

use std::collections::HashMap;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::data_type::read_data_type;
use super::script::{Parsed, SyntaxError, location};
use super::words::{
    duration, ends_at, expect_word, found, is_word, name, once, options, table_name, take_words, text, unknown_clause,
    word_at,
};
use crate::options::{Options, nearest};
use crate::sink::OutputMode;

/// The clauses of a flow, for messages.
pub(super) const FLOW_CLAUSES: &[&str] = &["OUTPUT MODE", "TRIGGER", "CHECKPOINT", "LATE ROWS INTO", "COMMENT", "AS"];

/// The clauses of a table, for messages.
pub(super) const TABLE_CLAUSES: &[&str] =
    &["STORED AS", "USING", "LOCATION", "PARTITIONED BY", "OPTIONS", "TBLPROPERTIES", "COMMENT"];

/// What a flow says about itself; what it does not say is the session's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowClauses {
    /// COMMENT '…'.
    pub comment: Option<String>,
    /// OUTPUT MODE append | update | complete.
    pub output_mode: Option<OutputMode>,
    /// TRIGGER ….
    pub trigger: Option<TriggerClause>,
    /// CHECKPOINT '…': the checkpoint's directory.
    pub checkpoint: Option<String>,
    /// LATE ROWS INTO t: the table that late rows go to.
    pub late_rows_into: Option<TableReference>,
}

/// When a flow runs its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerClause {
    /// Everything that is there now, then it ends.
    AvailableNow,
    /// One batch every so often; zero is as fast as data comes.
    ProcessingTime {
        /// The time from one batch's start to the next one's.
        interval_ms: i64,
    },
    /// Everything that is there now in one batch, then it ends.
    Once,
}

/// A table as CREATE … TABLE declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct TableDefinition {
    /// The table's name.
    pub name: TableReference,
    /// IF NOT EXISTS: an existing table stays.
    pub if_not_exists: bool,
    /// The columns; none where the table takes those of its query or its files.
    pub columns: Vec<Field>,
    /// WATERMARK FOR …, the default of every stream over the table.
    pub watermark: Option<TableWatermark>,
    /// STORED AS or USING, in small letters with hyphens: `parquet`, `rate-micro-batch`.
    pub format: Option<String>,
    /// LOCATION '…'.
    pub location: Option<String>,
    /// PARTITIONED BY (…).
    pub partition_by: Vec<String>,
    /// OPTIONS (…), TBLPROPERTIES (…) or WITH (…).
    pub options: Options,
    /// COMMENT '…'.
    pub comment: Option<String>,
}

/// WATERMARK FOR column AS column - INTERVAL ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableWatermark {
    /// The event-time column.
    pub column: String,
    /// How late a row may be.
    pub delay_us: i64,
}

impl TableDefinition {
    /// Makes a table of which nothing but the name is said.
    pub(super) fn new(name: TableReference, if_not_exists: bool) -> Self {
        Self {
            name,
            if_not_exists,
            columns: Vec::new(),
            watermark: None,
            format: None,
            location: None,
            partition_by: Vec::new(),
            options: Options::new(),
            comment: None,
        }
    }
}

/// Reads one clause of a flow; returns whether one began here.
pub(super) fn flow_clause(parser: &mut Parser<'_>, flow: &mut FlowClauses) -> Parsed<bool> {
    match word_at(parser, 0).as_str() {
        "OUTPUT" => {
            parser.advance_token();
            expect_word(parser, "MODE", "OUTPUT")?;
            let mode = output_mode(parser)?;
            once(parser, &mut flow.output_mode, mode, "OUTPUT MODE")?;
        }
        "TRIGGER" => {
            parser.advance_token();
            let trigger = trigger(parser)?;
            once(parser, &mut flow.trigger, trigger, "TRIGGER")?;
        }
        "CHECKPOINT" => {
            parser.advance_token();
            let path = text(parser, "the checkpoint's directory")?;
            once(parser, &mut flow.checkpoint, path, "CHECKPOINT")?;
        }
        "LATE" => {
            parser.advance_token();
            expect_word(parser, "ROWS", "LATE")?;
            expect_word(parser, "INTO", "LATE ROWS")?;
            let table = table_name(parser)?;
            once(parser, &mut flow.late_rows_into, table, "LATE ROWS INTO")?;
        }
        "COMMENT" => {
            parser.advance_token();
            let comment = text(parser, "the comment")?;
            once(parser, &mut flow.comment, comment, "COMMENT")?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads one clause of a table; returns whether one began here.
pub(super) fn table_clause(parser: &mut Parser<'_>, table: &mut TableDefinition) -> Parsed<bool> {
    match word_at(parser, 0).as_str() {
        "STORED" => {
            parser.advance_token();
            expect_word(parser, "AS", "STORED")?;
            let format = format_name(parser)?;
            once(parser, &mut table.format, format, "the format")?;
        }
        "USING" => {
            parser.advance_token();
            let format = format_name(parser)?;
            once(parser, &mut table.format, format, "the format")?;
        }
        "LOCATION" => {
            parser.advance_token();
            let path = text(parser, "the location")?;
            once(parser, &mut table.location, path, "LOCATION")?;
        }
        "PARTITIONED" => {
            parser.advance_token();
            expect_word(parser, "BY", "PARTITIONED")?;
            partition_by(parser, table)?;
        }
        "OPTIONS" | "TBLPROPERTIES" | "WITH" => {
            parser.advance_token();
            let options = options(parser)?;
            table.options.extend(&options);
        }
        "COMMENT" => {
            parser.advance_token();
            let comment = text(parser, "the comment")?;
            once(parser, &mut table.comment, comment, "COMMENT")?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads the columns of a table, and its watermark among them.
pub(super) fn columns(parser: &mut Parser<'_>, table: &mut TableDefinition) -> Parsed<()> {
    parser.expect_token(&Token::LParen)?;
    let mut watermark_at = None;
    while parser.peek_token_ref().token != Token::RParen {
        if word_at(parser, 0) == "WATERMARK" && word_at(parser, 1) == "FOR" {
            watermark_at = location(parser.peek_nth_token_ref(2));
            let watermark = watermark_for(parser)?;
            once(parser, &mut table.watermark, watermark, "WATERMARK FOR")?;
        } else {
            table.columns.push(column(parser)?);
        }
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    if !parser.consume_token(&Token::RParen) {
        return Err(SyntaxError::here(parser, format!("expected ',' or ')' after a column, found {}", found(parser))));
    }
    let names: Vec<&str> = table.columns.iter().map(|c| c.name().as_str()).collect();
    if let Some(TableWatermark { column, .. }) = &table.watermark
        && !names.contains(&column.as_str())
    {
        let hint = match nearest(column, &names) {
            Some(near) => format!("did you mean {near}?"),
            None => "declare it as a TIMESTAMP".to_string(),
        };
        return Err(SyntaxError::new(watermark_at, format!("the table has no column {column}; {hint}")));
    }
    Ok(())
}

/// Reads `name TYPE [NOT NULL] [COMMENT '…']`.
fn column(parser: &mut Parser<'_>) -> Parsed<Field> {
    let name = name(parser)?;
    let data_type = read_data_type(parser)?;
    let mut nullable = true;
    let mut metadata = HashMap::new();
    loop {
        if take_words(parser, &["NOT", "NULL"]) {
            nullable = false;
        } else if take_words(parser, &["COMMENT"]) {
            metadata.insert("comment".to_string(), text(parser, "the column's comment")?);
        } else if !take_words(parser, &["NULL"]) {
            return Ok(Field::new(name, data_type, nullable).with_metadata(metadata));
        }
    }
}

/// Reads `WATERMARK FOR c AS c [- INTERVAL …]`.
fn watermark_for(parser: &mut Parser<'_>) -> Parsed<TableWatermark> {
    take_words(parser, &["WATERMARK", "FOR"]);
    let column = name(parser)?;
    expect_word(parser, "AS", "the column")?;
    let at = location(parser.peek_token_ref());
    let of = name(parser)?;
    if of != column {
        let message = format!("a watermark is its column less a delay: write AS {column} - INTERVAL '10' SECOND");
        return Err(SyntaxError::new(at, message));
    }
    let delay_us = match parser.consume_token(&Token::Minus) {
        true if is_word(&parser.peek_token_ref().token, "INTERVAL") => duration(parser, "the delay")?,
        true => {
            return Err(SyntaxError::here(parser, format!("expected INTERVAL after '-', found {}", found(parser))));
        }
        false => 0,
    };
    Ok(TableWatermark { column, delay_us })
}

/// Reads the columns of PARTITIONED BY; one with a type is declared by it, as in a Hive table.
fn partition_by(parser: &mut Parser<'_>, table: &mut TableDefinition) -> Parsed<()> {
    if !table.partition_by.is_empty() {
        return Err(SyntaxError::here(parser, "PARTITIONED BY is written twice: keep one"));
    }
    parser.expect_token(&Token::LParen)?;
    loop {
        let column = name(parser)?;
        if !matches!(parser.peek_token_ref().token, Token::Comma | Token::RParen | Token::EOF) {
            let data_type: DataType = read_data_type(parser)?;
            table.columns.push(Field::new(&column, data_type, true));
        }
        table.partition_by.push(column);
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen)?;
            return Ok(());
        }
    }
}

/// Reads a format: a word, words joined by hyphens, or a text.
fn format_name(parser: &mut Parser<'_>) -> Parsed<String> {
    let mut format = match &parser.peek_token_ref().token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) => text.clone(),
        _ => {
            let message = format!("expected a format such as PARQUET, JSON or CONSOLE, found {}", found(parser));
            return Err(SyntaxError::here(parser, message));
        }
    };
    parser.advance_token();
    while parser.consume_token(&Token::Minus) {
        format.push('-');
        format.push_str(&name(parser)?);
    }
    Ok(format.to_lowercase().replace('_', "-"))
}

fn output_mode(parser: &mut Parser<'_>) -> Parsed<OutputMode> {
    const MODES: &[&str] = &["append", "update", "complete"];
    let mode = match &parser.peek_token_ref().token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) => text.clone(),
        _ => String::new(),
    };
    match mode.parse() {
        Ok(mode) => {
            parser.advance_token();
            Ok(mode)
        }
        Err(_) => {
            let hint = match nearest(&mode, MODES) {
                Some(near) => format!("did you mean {near}?"),
                None => "expected append, update or complete".to_string(),
            };
            Err(SyntaxError::here(parser, format!("there is no output mode {}; {hint}", found(parser))))
        }
    }
}

fn trigger(parser: &mut Parser<'_>) -> Parsed<TriggerClause> {
    match word_at(parser, 0).as_str() {
        "AVAILABLE" => {
            parser.advance_token();
            expect_word(parser, "NOW", "AVAILABLE")?;
            Ok(TriggerClause::AvailableNow)
        }
        "PROCESSING" => {
            parser.advance_token();
            expect_word(parser, "TIME", "PROCESSING")?;
            let us = duration(parser, "the interval")?;
            Ok(TriggerClause::ProcessingTime { interval_ms: us / 1_000 })
        }
        "ONCE" => {
            parser.advance_token();
            Ok(TriggerClause::Once)
        }
        _ if ends_at(parser, 0) => {
            Err(SyntaxError::here(parser, "expected AVAILABLE NOW, PROCESSING TIME '5 seconds' or ONCE after TRIGGER"))
        }
        _ => Err(unknown_clause(parser, &["AVAILABLE NOW", "PROCESSING TIME '5 seconds'", "ONCE"])),
    }
}
