//! Scripts: text with several statements, their places, and errors that point at a place.
//!
//! A [`Piece`] remembers where in its script it began. It is tokenized behind as many blank lines and spaces as stand
//! before it, so that every token, every parsed identifier and every error bears the script's own line and column.

use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{self, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Result};
use crate::options::{is_secret, nearest};

/// The dialect of every statement: backticks and double quotes name things, single quotes are text.
pub(super) static DIALECT: GenericDialect = GenericDialect;

/// A place in a text; both numbers start at one, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The line.
    pub line: u64,
    /// The column within the line.
    pub column: u64,
}

/// One statement of a script, without the semicolon, and where it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The statement's text.
    pub text: String,
    /// The line of the script on which it begins, from one.
    pub line: u64,
    /// The column in which it begins, from one.
    pub column: u64,
}

/// What is wrong with a statement's text; `at` is absent where the text ended too early.
#[derive(Debug)]
pub(super) struct SyntaxError {
    at: Option<Location>,
    message: String,
    /// A word that was meant otherwise may stand at the place: look for a near miss.
    guess: bool,
}

/// The result of reading a part of a statement.
pub(super) type Parsed<T> = std::result::Result<T, SyntaxError>;

/// Words that a misspelt one may have been meant as.
const COMMON_WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "UNION",
    "JOIN",
    "INNER",
    "OUTER",
    "LEFT",
    "RIGHT",
    "CREATE",
    "INSERT",
    "INTO",
    "VALUES",
    "EXPLAIN",
    "DESCRIBE",
    "SHOW",
    "DROP",
    "STOP",
    "START",
    "BETWEEN",
    "INTERVAL",
    "STREAM",
    "WATERMARK",
    "DELAY",
];

impl Piece {
    /// Makes the piece of a text that is one statement.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), line: 1, column: 1 }
    }

    /// Returns the tokens that mean something, in places of the script.
    pub(super) fn tokens(&self) -> Result<Vec<TokenWithSpan>> {
        let mut tokens = tokenize(&self.placed())?;
        tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
        Ok(tokens)
    }

    /// Turns what is wrong into the error a caller sees; `tokens` are this piece's own.
    pub(super) fn error(&self, error: SyntaxError, tokens: &[TokenWithSpan]) -> Error {
        let text = self.placed();
        let at = error.at.unwrap_or_else(|| end_of(&text));
        let mut message = error.message;
        if error.guess
            && let Some(near) = misspelt(tokens, at)
        {
            message.push_str(&format!("; did you mean {near}?"));
        }
        Error::invalid_query(point(&text, at, &message))
    }

    /// Renders `message` with the line it is about; `at` is a place in the script, as every token of the piece and all
    /// that is parsed from them bear it.
    pub fn point(&self, at: Location, message: &str) -> String {
        point(&self.placed(), at, message)
    }

    /// The text behind as many line breaks and spaces as bring it to its place in the script.
    fn placed(&self) -> String {
        let lines = usize::try_from(self.line.saturating_sub(1)).unwrap_or(0);
        let columns = usize::try_from(self.column.saturating_sub(1)).unwrap_or(0);
        format!("{}{}{}", "\n".repeat(lines), " ".repeat(columns), self.text)
    }
}

impl SyntaxError {
    /// Makes an error at a place, or at the end of the text where there is none.
    pub(super) fn new(at: Option<Location>, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), guess: false }
    }

    /// Makes an error at the token that `parser` would read next.
    pub(super) fn here(parser: &Parser<'_>, message: impl Into<String>) -> Self {
        Self::new(location(parser.peek_token_ref()), message)
    }

    /// Lets the message end with the word that was perhaps meant.
    pub(super) fn guessing(mut self) -> Self {
        self.guess = true;
        self
    }
}

impl From<ParserError> for SyntaxError {
    fn from(error: ParserError) -> Self {
        let (message, at) = match error {
            ParserError::ParserError(m) | ParserError::TokenizerError(m) => locate(&m),
            ParserError::RecursionLimitExceeded => {
                ("the statement is nested too deeply: move inner queries into views".to_string(), None)
            }
        };
        Self::new(at, message).guessing()
    }
}

impl From<DataFusionError> for SyntaxError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::SQL(inner, _) => Self::from(*inner),
            DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => Self::from(*inner),
            other => {
                let (message, at) = locate(Error::from(other).message());
                Self::new(at, message).guessing()
            }
        }
    }
}

/// Splits a script into its statements. Semicolons within quotes and comments do not count; empty statements are
/// dropped, and so are comments before and after a statement.
///
/// # Errors
/// `InvalidQuery` where a quote or comment does not end.
pub fn split_script(text: &str) -> Result<Vec<Piece>> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut starts = Vec::with_capacity(lines.len());
    let mut offset = 0;
    for line in &lines {
        starts.push(offset);
        offset += line.len() + 1;
    }
    let byte = |at: Location| {
        let index = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
        match (starts.get(index), lines.get(index)) {
            (Some(start), Some(line)) => start + line.char_indices().nth(column).map_or(line.len(), |(i, _)| i),
            _ => text.len(),
        }
    };
    let piece = |(start, end): (Location, Location)| Piece {
        text: text.get(byte(start)..byte(end)).unwrap_or_default().to_string(),
        line: start.line,
        column: start.column,
    };
    let mut pieces = Vec::new();
    let mut extent: Option<(Location, Location)> = None;
    for token in tokenize(text)? {
        match token.token {
            Token::SemiColon => pieces.extend(extent.take().map(&piece)),
            Token::Whitespace(_) | Token::EOF => {}
            _ => {
                let start = extent.map_or(Location::from(token.span.start), |(start, _)| start);
                extent = Some((start, Location::from(token.span.end)));
            }
        }
    }
    pieces.extend(extent.take().map(&piece));
    Ok(pieces)
}

/// Renders `message` with the line it is about and a caret below the place.
pub fn point(text: &str, at: Location, message: &str) -> String {
    let head = format!("line {}, column {}: {message}", at.line, at.column);
    let index = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(line) = text.split('\n').nth(index).map(|line| line.trim_end_matches('\r')) else {
        return head;
    };
    let before = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
    // tabs stay tabs, so that the caret stands below its character however wide a tab is shown
    let pad: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    format!("{head}\n  {}\n  {pad}^", without_secrets(line))
}

/// Puts asterisks in the place of quoted text that follows the name of a secret option, so that a caret still fits.
fn without_secrets(line: &str) -> String {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    let (mut shown, mut rest, mut secret) = (String::with_capacity(line.len()), line, false);
    while let Some(first) = rest.chars().next() {
        let quoted = matches!(first, '\'' | '"' | '`');
        let length = if quoted {
            rest[1..].find(first).map_or(rest.len(), |end| end + 2)
        } else if is_name(first) {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(length);
        match secret && (quoted || is_name(first)) {
            true => shown.extend(word.chars().map(|c| if c == first && quoted { c } else { '*' })),
            false => shown.push_str(word),
        }
        if quoted || is_name(first) {
            secret = !secret && is_secret(word);
        } else {
            secret &= first.is_whitespace() || first == '=';
        }
        rest = after;
    }
    shown
}

impl From<tokenizer::Location> for Location {
    fn from(at: tokenizer::Location) -> Self {
        Self { line: at.line, column: at.column }
    }
}

/// Returns where a token begins, unless it is the end of the text.
pub(super) fn location(token: &TokenWithSpan) -> Option<Location> {
    (token.span.start.line > 0).then(|| Location::from(token.span.start))
}

/// Parses a query that was put together here, not written by a reader: nothing in it is rewritten.
pub(super) fn parse_query(text: &str) -> Result<Query> {
    Parser::new(&DIALECT)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_query())
        .map(|query| *query)
        .map_err(|e| Error::invalid_query(format!("'{text}' is not a query: {e}")))
}

fn tokenize(text: &str) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|e| {
        let at = Location::from(e.location);
        Error::invalid_query(point(text, at, &e.message))
    })
}

fn end_of(text: &str) -> Location {
    let line = text.split('\n').count();
    let last = text.rsplit('\n').next().unwrap_or_default().trim_end_matches('\r');
    let column = last.chars().count() + 1;
    Location { line: u64::try_from(line).unwrap_or(1), column: u64::try_from(column).unwrap_or(1) }
}

/// Takes the place off the end of a parser's message.
fn locate(message: &str) -> (String, Option<Location>) {
    let found = message.rsplit_once(" at Line: ").and_then(|(head, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((head.to_string(), Some(Location { line: line.parse().ok()?, column: column.trim().parse().ok()? })))
    });
    found.unwrap_or((message.to_string(), None))
}

/// Finds the word that the token at `at`, or the one before it, may have been meant as.
fn misspelt(tokens: &[TokenWithSpan], at: Location) -> Option<&'static str> {
    let index = tokens.iter().position(|t| location(t) == Some(at)).unwrap_or(tokens.len());
    let before = index.checked_sub(1).and_then(|i| tokens.get(i));
    tokens.get(index).into_iter().chain(before).find_map(|token| match &token.token {
        Token::Word(w) if w.quote_style.is_none() && w.keyword == Keyword::NoKeyword && w.value.len() > 3 => {
            nearest(&w.value, COMMON_WORDS)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<(String, u64, u64)> {
        split_script(text).unwrap().into_iter().map(|p| (p.text, p.line, p.column)).collect()
    }

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        let text = "SELECT ';' AS \"a;b\", `c;d` -- no; not here\n, 1 /* nor; here */;;\n  -- only a comment;\n \
                    ;\r\n SELECT 2;  SELECT é3 -- end";
        assert_eq!(
            pieces(text),
            vec![
                ("SELECT ';' AS \"a;b\", `c;d` -- no; not here\n, 1".to_string(), 1, 1),
                ("SELECT 2".to_string(), 5, 2),
                ("SELECT é3".to_string(), 5, 13),
            ]
        );
        assert_eq!(pieces(" ; -- nothing\n"), vec![]);
    }

    #[test]
    fn a_quote_that_does_not_end_is_pointed_at() {
        let error = split_script("SELECT 1;\nSELECT 'abc").unwrap_err().to_string();
        assert!(error.contains("line 2, column 8"), "{error}");
        assert!(error.ends_with("  SELECT 'abc\n         ^"), "{error}");
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        let at = Location { line: 2, column: 4 };
        assert_eq!(point("a\n\tb\tc\r\nd", at, "here"), "line 2, column 4: here\n  \tb\tc\n  \t \t^");
        assert_eq!(point("a", Location { line: 9, column: 1 }, "gone"), "line 9, column 1: gone");
    }

    #[test]
    fn the_line_of_an_error_hides_secrets() {
        for (line, hidden) in [
            ("OPTIONS ('password' 'hunter2', a 'b'", "OPTIONS ('password' '*******', a 'b'"),
            ("('Sasl.Jaas.Config' = 'hun", "('Sasl.Jaas.Config' = '***"),
            ("(secret é2, x 'y')", "(secret **, x 'y')"),
            ("SELECT token, 'x'", "SELECT token, 'x'"),
        ] {
            assert_eq!(without_secrets(line), hidden);
        }
        let error = split_script("OPTIONS (accessToken 'hunter2', 'x)").unwrap_err().to_string();
        assert!(error.contains("accessToken '*******'") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn tokens_of_a_piece_stand_where_the_script_has_them() {
        let piece = split_script("SELECT 1;\n\n  SELECT x").unwrap().remove(1);
        let places: Vec<_> = piece.tokens().unwrap().iter().map(location).collect();
        assert_eq!(places, vec![Some(Location { line: 3, column: 3 }), Some(Location { line: 3, column: 10 })]);
    }
}
