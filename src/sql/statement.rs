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
use super::deep_stack::deep;
use super::nesting;
use super::relation_tokens::rewrite_relations;
use super::script::{DIALECT, Parsed, Piece};
use super::words::{ends_at, expect_end, expect_word, is_word, normal, skip, table_name, take_words, word_at};
use crate::error::Result;

/// A statement, parsed and not planned.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// CREATE \[UNBOUNDED\] EXTERNAL TABLE ….
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
    /// EXPLAIN \[ANALYZE\] \[VERBOSE\] ….
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
    /// DROP \[STREAMING\] TABLE \[IF EXISTS\] t.
    DropTable {
        /// The table.
        name: TableReference,
        /// IF EXISTS: no error where there is none.
        if_exists: bool,
    },
    /// DROP \[MATERIALIZED\] VIEW \[IF EXISTS\] v.
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
    nesting::check(&tokens).map_err(|error| piece.error(error, &tokens))?;
    deep(|| parse_tokens(tokens.clone()).map_err(|error| piece.error(error, &tokens)))
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
        ("INSERT", "INTO" | "OVERWRITE") => {
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

#[cfg(test)]
mod tests {
    use super::super::script::split_script;
    use super::*;

    fn parse(sql: &str) -> Result<Statement> {
        parse_statement(&Piece::new(sql))
    }

    #[test]
    fn statements_about_flows_and_tables_are_read() {
        let flow = || "f".to_string();
        let table = |name: &str| TableReference::bare(name);
        for (sql, expected) in [
            ("SHOW FLOWS", Statement::ShowFlows),
            ("show tables;", Statement::ShowTables),
            ("DESCRIBE FLOW f", Statement::DescribeFlow { name: flow() }),
            ("DESC flow", Statement::Describe { name: table("flow") }),
            ("DESCRIBE TABLE EXTENDED T", Statement::Describe { name: table("t") }),
            ("STOP FLOW F", Statement::StopFlow { name: flow() }),
            ("START FLOW f", Statement::StartFlow { name: flow() }),
            ("DROP FLOW f", Statement::DropFlow { name: flow(), if_exists: false }),
            ("DROP FLOW IF EXISTS f", Statement::DropFlow { name: flow(), if_exists: true }),
            ("DROP TABLE t", Statement::DropTable { name: table("t"), if_exists: false }),
            ("DROP STREAMING TABLE IF EXISTS t", Statement::DropTable { name: table("t"), if_exists: true }),
            ("DROP VIEW v", Statement::DropView { name: table("v"), if_exists: false }),
            ("DROP MATERIALIZED VIEW v", Statement::DropView { name: table("v"), if_exists: false }),
            (
                "EXPLAIN ANALYZE FLOW f",
                Statement::Explain { analyze: true, verbose: false, what: Explained::Flow(flow()) },
            ),
            (
                "EXPLAIN EXTENDED SHOW FLOWS",
                Statement::Explain {
                    analyze: false,
                    verbose: true,
                    what: Explained::Statement(Box::new(Statement::ShowFlows)),
                },
            ),
        ] {
            assert_eq!(parse(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn settings_keep_their_case_and_lose_their_quotes() {
        for (sql, key, value) in [
            ("SET TIME ZONE 'Europe/Paris'", "timezone", "Europe/Paris"),
            ("SET timezone = UTC", "timezone", "UTC"),
            ("SET spark.sql.shuffle.Partitions = 5", "spark.sql.shuffle.Partitions", "5"),
            ("SET a.b-c TO on", "a.b-c", "on"),
            ("set a = 10 seconds", "a", "10 seconds"),
            ("SET a = -1", "a", "-1"),
        ] {
            let expected = Statement::Set { key: key.to_string(), value: value.to_string() };
            assert_eq!(parse(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn what_spark_parses_is_parsed() {
        for sql in [
            "SELECT * FROM STREAM tt",
            "SELECT * FROM STREAM(s)",
            "SELECT * FROM STREAM range(10)",
            "SELECT * FROM STREAM tt WITH ('maxFilesPerTrigger'='1')",
            "SELECT * FROM STREAM tt WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS x",
            "SELECT * FROM s WATERMARK timestamp_seconds(v) AS et DELAY OF INTERVAL 10 SECONDS",
            "SELECT * FROM (SELECT * FROM s) WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS y",
            "SELECT window, k, count(*) n FROM STREAM(tt) WATERMARK ts DELAY OF INTERVAL 10 SECONDS \
             GROUP BY window(ts,'10 seconds'), k",
            "SELECT window(ts,'10 seconds') w, k, count(*) n FROM s WATERMARK ts DELAY OF INTERVAL 10 SECONDS \
             GROUP BY 1, 2",
            "SELECT window.start s, window.end e, k, count(*) n, sum(v) v FROM s \
             WATERMARK ts DELAY OF INTERVAL 10 SECONDS GROUP BY window(ts,'10 seconds'), k",
            "SELECT session_window.start, k, count(*) FROM s GROUP BY session_window(ts,'5 seconds'), k",
            "SELECT * FROM STREAM tt IDENTIFIED BY src1",
            "SELECT DISTINCT k FROM s",
            "SELECT k, count(DISTINCT v) FROM s GROUP BY k",
            "SELECT * FROM s ORDER BY ts LIMIT 5",
            "WITH c AS (SELECT * FROM STREAM tt) SELECT * FROM c",
            "(SELECT 1) UNION ALL (SELECT 2)",
            "VALUES (1, 'a')",
        ] {
            assert!(matches!(parse(sql), Ok(Statement::Query(_))), "{sql}: {:?}", parse(sql));
        }
        for sql in
            ["CREATE TABLE ct AS SELECT * FROM s", "COPY t TO 'x.csv'", "START TRANSACTION", "EXPLAIN (SELECT 1)"]
        {
            assert!(matches!(parse(sql), Ok(Statement::Other(_))), "{sql}: {:?}", parse(sql));
        }
    }

    #[test]
    fn errors_name_the_near_miss() {
        for (sql, part) in [
            ("SELEC * FROM t", "column 1: Expected: an SQL statement, found: SELEC; did you mean SELECT?"),
            ("SELECT * FROM t GRUOP BY k", "did you mean GROUP?"),
            ("CREATE FLWO f AS INSERT INTO t SELECT 1", "column 8: unexpected 'FLWO' after CREATE; did you mean FLOW?"),
            ("CREATE FLOW f OUTPT MODE append AS INSERT INTO t SELECT 1", "did you mean OUTPUT MODE?"),
            ("CREATE FLOW f OUTPUT MOD append AS INSERT INTO t SELECT 1", "expected MODE after OUTPUT, found 'MOD'"),
            ("CREATE FLOW f OUTPUT MODE apend AS INSERT INTO t SELECT 1", "did you mean append?"),
            ("CREATE FLOW f TRIGGER AVAILBLE NOW AS INSERT INTO t SELECT 1", "did you mean AVAILABLE NOW?"),
            ("CREATE FLOW f TRIGGER PROCESSING TIME '5 secnds' AS INSERT INTO t SELECT 1", "did you mean 'seconds'?"),
            ("CREATE FLOW f TRIGGER ONCE TRIGGER ONCE AS INSERT INTO t SELECT 1", "TRIGGER is written twice"),
            ("CREATE FLOW f", "column 14: unexpected the end of the statement; expected OUTPUT MODE"),
            ("CREATE FLOW f AS SELECT 1", "expected INSERT INTO <table> and a query, found 'SELECT'"),
            ("CREATE FLOW f AS INSERT ONCE INTO st SELECT 1", "expected INTO after INSERT, found 'ONCE'"),
            ("INSERT OVERWRITE st SELECT 1", "column 8: INSERT OVERWRITE is not supported"),
            ("CREATE FLOW f AS INSERT OVERWRITE TABLE st SELECT 1", "CREATE MATERIALIZED VIEW for a result"),
            ("CREATE FLOW f AS AUTO CDC INTO st FROM STREAM tt KEYS (k) SEQUENCE BY ts", "AUTO CDC is not supported"),
            ("CREATE STREAM x AS SELECT 1", "write CREATE UNBOUNDED EXTERNAL TABLE"),
            ("CREATE OR REPLACE STREAMING TABLE st", "OR REPLACE does not go with STREAMING"),
            ("CREATE UNBOUNDED TABLE t (a INT)", "expected EXTERNAL TABLE after UNBOUNDED, found 'TABLE'"),
            ("CREATE EXTERNAL TABLE t (a INTT) STORED AS JSON", "column 28: there is no type INTT; did you mean INT?"),
            ("CREATE EXTERNAL TABLE t (a INT) STORD AS JSON", "did you mean STORED AS?"),
            ("CREATE EXTERNAL TABLE t (tsx TIMESTAMP, WATERMARK FOR ts AS ts)", "did you mean tsx?"),
            ("CREATE EXTERNAL TABLE t (a TIMESTAMP, WATERMARK FOR a AS b)", "a watermark is its column less a delay"),
            ("START STREAM x", "expected FLOW after START, found 'STREAM'"),
            ("SELECT * FROM s WATERMARK ts DELAY OF '10 seconds'", "write DELAY OF INTERVAL '10 seconds'"),
            ("SELECT 'abc", "column 8: Unterminated string literal"),
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::InvalidQuery, "{sql}");
            assert!(error.to_string().contains(part), "{sql}: {error}");
        }
        for sql in [
            "SELECT * FROM STREAM tt AS x WATERMARK ts DELAY OF INTERVAL 10 SECONDS",
            "SELECT * FROM STREAM(SELECT * FROM tt)",
            "SELECT * FROM s IDENTIFIED BY src1",
            "SELECT * FROM s NAMED a",
            "CREATE TEMPORARY STREAMING TABLE x AS SELECT 1",
            "CREATE FLOW f AS INSERT INTO ONCE st BY NAME SELECT 1",
            "REFRESH STREAMING TABLE st",
            "EMIT CHANGES",
        ] {
            assert!(parse(sql).is_err(), "{sql}: {:?}", parse(sql));
        }
    }

    #[test]
    fn an_error_shows_its_line_in_the_script() {
        let script = "SELECT 1; SELECT 2;\n  CREATE FLOW f OUTPT MODE append\n  AS INSERT INTO t SELECT 1";
        let piece = split_script(script).unwrap().remove(2);
        let expected = "invalid query: line 2, column 17: unexpected 'OUTPT'; did you mean OUTPUT MODE?\n\
                        \x20   CREATE FLOW f OUTPT MODE append\n\
                        \x20                 ^";
        assert_eq!(parse_statement(&piece).unwrap_err().to_string(), expected);
    }
}
