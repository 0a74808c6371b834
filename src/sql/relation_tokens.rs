//! The token pass before parsing: stream relations, window table functions and intervals become what the SQL parser
//! knows.
//!
//! It walks the tokens of one statement once, at every depth, and copies them, except
//!
//! - `STREAM t …`, and `x WATERMARK …` on a table, function or sub-query: a call of
//!   [`STREAM_FUNCTION`], whose arguments hold the clauses;
//! - `TUMBLE(TABLE t, …)`, `DROP_DUPLICATES(t, …)` and their like: their table becomes `(SELECT * FROM t)`;
//! - ASOF joins in any spelling: Snowflake's, which the parser reads; and `t FOR SYSTEM_TIME AS OF PROCTIME()`: a call
//!   of [`LOOKUP_FUNCTION`](super::stream_relation::LOOKUP_FUNCTION);
//! - `INTERVAL 10 SECONDS`, `INTERVAL 1 HOUR 30 MINUTES`: one text behind the word;
//! - `struct(*)`: what stands for all columns; and a column `offset` in a list, which the parser takes for the clause.
//!
//! Tokens keep their places, and what is put in stands at the place of what it replaces. STREAM, WATERMARK and the
//! other words are words of the relation only where a relation can stand: a table, column or alias may bear them.

use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use self::clauses::Clauses;
use super::script::{Location, Parsed, SyntaxError, location};
use super::stream_relation::STREAM_FUNCTION;
use super::struct_call::all_columns;
use super::words::is_word;
use crate::interval::{canonical, is_unit, spelled_out};

mod clauses;
mod joins;
mod table_function;

static END: Token = Token::EOF;

/// Table functions whose table may be written without a sub-query.
const TABLE_FUNCTIONS: &[&str] =
    &["TUMBLE", "HOP", SESSION, "CUMULATE", "DROP_DUPLICATES", "DROP_DUPLICATES_WITHIN_WATERMARK"];

/// The one of them whose table may be parted: `SESSION(TABLE t PARTITION BY k, …)`.
const SESSION: &str = "SESSION";

/// Parentheses within parentheses; the parser itself bears fewer.
const DEPTH_LIMIT: usize = 200;

/// Rewrites the tokens of one statement; they must hold no blanks and comments.
pub(super) fn rewrite_relations(tokens: Vec<TokenWithSpan>) -> Parsed<Vec<TokenWithSpan>> {
    let mut pass = Pass { output: Vec::with_capacity(tokens.len()), input: tokens, at: 0, depth: 0 };
    let mut top = true;
    while pass.at < pass.input.len() {
        pass.level(top, false)?;
        // a parenthesis that nothing opened: the parser will say so
        pass.take();
        top = false;
    }
    Ok(pass.output)
}

/// What a relation is, as far as its tokens tell.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// A name of one part or more.
    Name,
    /// A query in parentheses.
    Query,
    /// A call of a table function.
    Call,
    /// Joined tables in parentheses.
    Joins,
}

/// The walk: tokens before `at` are in `output`, as they were or rewritten.
struct Pass {
    input: Vec<TokenWithSpan>,
    at: usize,
    output: Vec<TokenWithSpan>,
    depth: usize,
}

impl Pass {
    /// Copies tokens up to the parenthesis that closes this level, which stays, or to the end.
    ///
    /// `query` tells that a FROM here begins a FROM clause (it does not in `EXTRACT(HOUR FROM ts)`), `in_from` that a
    /// comma is followed by a relation.
    fn level(&mut self, query: bool, in_from: bool) -> Parsed<()> {
        if self.depth == DEPTH_LIMIT {
            return Err(self.error("the statement is nested too deeply: move inner queries into views"));
        }
        self.depth += 1;
        self.copy_level(query || self.keyword(0) == Keyword::FROM, in_from)?;
        self.depth -= 1;
        Ok(())
    }

    fn copy_level(&mut self, mut query: bool, mut in_from: bool) -> Parsed<()> {
        loop {
            match self.token(0) {
                Token::EOF | Token::RParen => return Ok(()),
                Token::LParen => {
                    self.parenthesized()?;
                    continue;
                }
                Token::Comma if in_from => {
                    self.take();
                    self.relation()?;
                    continue;
                }
                _ => {}
            }
            if (query || in_from)
                && let Some((outer, words)) = self.at_asof_join()?
            {
                in_from = true;
                self.asof_join(outer, words)?;
                continue;
            }
            match self.keyword(0) {
                Keyword::FROM if query && !self.follows(Keyword::DISTINCT) => {
                    self.take();
                    in_from = true;
                    self.relation()?;
                }
                Keyword::JOIN if query || in_from => {
                    self.take();
                    in_from = true;
                    self.relation()?;
                }
                Keyword::SELECT => {
                    self.take();
                    (query, in_from) = (true, false);
                }
                Keyword::INTERVAL => self.interval(),
                Keyword::STRUCT if self.struct_of_all() => {}
                // A list does not end with a comma: the clause has another token before it.
                Keyword::OFFSET if self.before() == Some(&Token::Comma) => self.name(),
                keyword => {
                    self.take();
                    in_from &= !ends_from(keyword);
                }
            }
        }
    }

    /// Copies a parenthesis with all it holds.
    fn parenthesized(&mut self) -> Parsed<()> {
        self.take();
        self.level(false, false)?;
        self.take_closing();
        Ok(())
    }

    /// Copies one relation of a FROM clause with its clauses and alias, rewriting it where it is a stream relation.
    fn relation(&mut self) -> Parsed<()> {
        if self.keyword(0) == Keyword::LATERAL {
            self.take();
        }
        let start = self.output.len();
        let span = self.span();
        let stream = self.at_stream_word();
        let source = if stream { self.stream()? } else { self.source()? };
        let Some(source) = source else { return Ok(()) };
        let clauses = self.clauses(stream, source)?;
        let plain = clauses.options.is_none() && clauses.watermark.is_none();
        let wrapped = stream || !plain || clauses.lookup;
        let last = self.output.last().cloned();
        if clauses.lookup {
            self.wrap_lookup(start, span, source);
        } else if wrapped {
            self.wrap(start, span, source, stream, clauses);
        }
        let named = self.alias()?;
        if self.at_watermark(0) {
            return Err(self.error("WATERMARK comes before the alias: write … WATERMARK … DELAY OF INTERVAL … AS x"));
        }
        if self.at_system_time() {
            return Err(self
                .error("FOR SYSTEM_TIME AS OF comes before the alias: write … FOR SYSTEM_TIME AS OF PROCTIME() AS x"));
        }
        // without an alias the columns of `cat.t` are `t.c`, as they were before the rewrite
        if let (Source::Name, true, false, Some(last)) = (source, wrapped, named, last) {
            self.push(Token::make_keyword("AS"), span);
            self.push(last.token, span);
        }
        Ok(())
    }

    /// Copies what a relation reads, up to its clauses; nothing where no relation stands here.
    fn source(&mut self) -> Parsed<Option<Source>> {
        match self.token(0) {
            Token::LParen => self.relation_in_parentheses().map(Some),
            Token::Word(_) if self.keyword(0) == Keyword::TABLE && *self.token(1) == Token::LParen => {
                self.take();
                self.take();
                self.source()?;
                self.level(false, false)?;
                self.take_closing();
                Ok(Some(Source::Call))
            }
            Token::Word(_) if ends_from(self.keyword(0)) => Ok(None),
            Token::Word(_) => self.name_or_call().map(Some),
            _ => Ok(None),
        }
    }

    /// Copies what stands in parentheses where a relation stands: a query, or tables that are joined.
    fn relation_in_parentheses(&mut self) -> Parsed<Source> {
        self.take();
        let starts_query = matches!(self.keyword(0), Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM);
        if starts_query {
            self.level(true, false)?;
        } else {
            self.relation()?;
            self.level(true, true)?;
        }
        self.take_closing();
        Ok(if starts_query { Source::Query } else { Source::Joins })
    }

    /// Copies a name, or a function's call where a parenthesis follows it.
    fn name_or_call(&mut self) -> Parsed<Source> {
        let function = TABLE_FUNCTIONS.iter().find(|name| is_word(self.token(0), name));
        let single = *self.token(1) != Token::Period;
        self.take();
        while *self.token(0) == Token::Period && self.word(1).is_some() {
            self.take();
            self.take();
        }
        if *self.token(0) != Token::LParen {
            return Ok(Source::Name);
        }
        match function.filter(|_| single) {
            Some(name) => self.table_function(*name == SESSION)?,
            None => self.parenthesized()?,
        }
        Ok(Source::Call)
    }

    /// Reads the word STREAM away and copies what it is about.
    fn stream(&mut self) -> Parsed<Option<Source>> {
        self.at += 1;
        let parenthesis = *self.token(0) == Token::LParen;
        if parenthesis {
            self.at += 1;
        }
        if matches!(self.keyword(0), Keyword::SELECT | Keyword::WITH | Keyword::VALUES) || self.word(0).is_none() {
            return Err(self.error("STREAM is followed by the name of a table: write (SELECT … FROM STREAM <table>)"));
        }
        let source = self.name_or_call()?;
        if parenthesis {
            if *self.token(0) != Token::RParen {
                return Err(self.error("expected ')' after the table: clauses and alias stand behind STREAM(<table>)"));
            }
            self.at += 1;
        }
        if is_word(self.token(0), "CHANGES") && self.keyword(1) == Keyword::FROM {
            return Err(self.error("CHANGES FROM is not supported: a stream begins at its source's startingOffsets"));
        }
        Ok(Some(source))
    }

    /// Copies INTERVAL and what follows it; numbers and units become one text.
    fn interval(&mut self) {
        let rewritten = self.interval_text(1).and_then(|(text, count)| Some((canonical(&text).ok()?, count)));
        self.take();
        if let Some((text, count)) = rewritten {
            let span = self.span();
            self.push(Token::SingleQuotedString(text), span);
            self.at += count;
        }
    }

    /// Replaces `struct(*)` and `struct(t.*)`; returns whether it stands here.
    fn struct_of_all(&mut self) -> bool {
        let mut end = 2;
        while self.word(end).is_some() && *self.token(end + 1) == Token::Period {
            end += 2;
        }
        let is_of_all =
            *self.token(1) == Token::LParen && *self.token(end) == Token::Mul && *self.token(end + 1) == Token::RParen;
        if is_of_all {
            let span = self.span();
            let relation = self.input.get(self.at + 2..self.at + end.max(3) - 1).unwrap_or_default();
            for token in all_columns(&name_text(relation)) {
                self.push(token, span);
            }
            self.at += end + 2;
        }
        is_of_all
    }

    /// Copies a word so that it can be nothing but a name.
    fn name(&mut self) {
        let span = self.span();
        if let Some(word) = self.word(0) {
            let name = word.value.to_lowercase();
            self.push(Token::make_word(&name, Some('"')), span);
            self.at += 1;
        }
    }

    /// Returns the text of the interval that begins `ahead` tokens ahead, and how many tokens it has.
    fn interval_text(&self, ahead: usize) -> Option<(String, usize)> {
        let mut next = ahead;
        let sign = match self.token(next) {
            Token::Minus => "-",
            Token::Plus => "+",
            _ => "",
        };
        next += sign.len();
        if let (Token::SingleQuotedString(text), Some(first), Some(last)) =
            (self.token(next), self.word(next + 1), self.word(next + 3))
            && self.keyword(next + 2) == Keyword::TO
            && let Some(text) = spelled_out(text, &first.value, &last.value)
        {
            return sign.is_empty().then_some((text, 4));
        }
        if let Token::SingleQuotedString(text) = self.token(next)
            && text.parse::<f64>().is_err()
        {
            return sign.is_empty().then(|| (text.clone(), 1));
        }
        let mut parts = Vec::new();
        while let Token::Number(number, _) | Token::SingleQuotedString(number) = self.token(next) {
            let Some(unit) = self.word(next + 1).filter(|w| w.quote_style.is_none() && is_unit(&w.value)) else {
                break;
            };
            parts.push(format!("{number} {}", unit.value));
            next += 2;
        }
        // a range of units that is none is left to the parser, and refused there
        let range = self.keyword(next) == Keyword::TO;
        (!parts.is_empty() && !range).then(|| (format!("{sign}{}", parts.join(" ")), next - ahead))
    }

    /// Copies an alias with its columns; returns whether there was one.
    fn alias(&mut self) -> Parsed<bool> {
        if self.keyword(0) == Keyword::AS {
            self.take();
        } else if self.word(0).is_none() || RESERVED_FOR_TABLE_ALIAS.contains(&self.keyword(0)) {
            return Ok(false);
        }
        self.take();
        if *self.token(0) == Token::LParen {
            self.parenthesized()?;
        }
        Ok(true)
    }

    /// Replaces the relation that was copied from `start` on by the call that stands for it.
    fn wrap(&mut self, start: usize, span: Span, source: Source, stream: bool, clauses: Clauses) {
        let relation = self.output.split_off(start);
        self.push(Token::make_word(STREAM_FUNCTION, None), span);
        self.push(Token::LParen, span);
        match source {
            Source::Name => self.push(Token::SingleQuotedString(name_text(&relation)), span),
            Source::Query | Source::Joins => self.output.extend(relation),
            Source::Call => self.select_all(relation, span),
        }
        let options = clauses.options.unwrap_or_default();
        let options: serde_json::Map<String, serde_json::Value> =
            options.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        self.push_text(serde_json::Value::Object(options).to_string(), span);
        self.push_text(clauses.identified_by.unwrap_or_default(), span);
        self.push(Token::Comma, span);
        let (alias, delay) = match clauses.watermark {
            Some(watermark) => {
                self.output.extend(watermark.expr);
                (watermark.alias, watermark.delay)
            }
            None => {
                self.push(Token::make_keyword("NULL"), span);
                (String::new(), String::new())
            }
        };
        self.push_text(alias, span);
        self.push_text(delay, span);
        self.push(Token::Comma, span);
        self.push(Token::make_keyword(if stream { "TRUE" } else { "FALSE" }), span);
        self.push(Token::RParen, span);
    }

    /// Puts `(SELECT * FROM relation)` out.
    fn select_all(&mut self, relation: Vec<TokenWithSpan>, span: Span) {
        for token in [Token::LParen, Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")] {
            self.push(token, span);
        }
        self.output.extend(relation);
        self.push(Token::RParen, span);
    }

    /// Returns whether the word STREAM stands here as the keyword, and not as the name of a table.
    fn at_stream_word(&self) -> bool {
        if !is_word(self.token(0), "STREAM") {
            return false;
        }
        match self.token(1) {
            Token::LParen => true,
            Token::Word(_) => {
                let keyword = self.keyword(1);
                keyword != Keyword::AS && !RESERVED_FOR_TABLE_ALIAS.contains(&keyword) && !self.at_watermark(1)
            }
            _ => false,
        }
    }

    /// Returns the token `ahead`.
    fn token(&self, ahead: usize) -> &Token {
        self.input.get(self.at + ahead).map_or(&END, |t| &t.token)
    }

    fn word(&self, ahead: usize) -> Option<&Word> {
        match self.token(ahead) {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    /// Returns the keyword `ahead`, or `NoKeyword` where there is none: `t.from` holds none either.
    fn keyword(&self, ahead: usize) -> Keyword {
        let behind = (self.at + ahead).checked_sub(1).and_then(|i| self.input.get(i));
        match self.word(ahead) {
            Some(word) if behind.is_none_or(|t| t.token != Token::Period) => word.keyword,
            _ => Keyword::NoKeyword,
        }
    }

    /// Returns whether the token before is `keyword`.
    fn follows(&self, keyword: Keyword) -> bool {
        matches!(self.before(), Some(Token::Word(w)) if w.keyword == keyword)
    }

    /// Returns the token before the next.
    fn before(&self) -> Option<&Token> {
        self.at.checked_sub(1).and_then(|i| self.input.get(i)).map(|t| &t.token)
    }

    /// Copies the next token.
    fn take(&mut self) {
        if let Some(token) = self.input.get(self.at) {
            self.output.push(token.clone());
            self.at += 1;
        }
    }

    fn take_closing(&mut self) {
        if *self.token(0) == Token::RParen {
            self.take();
        }
    }

    /// The place of the next token, for what is put in before it.
    fn span(&self) -> Span {
        self.input.get(self.at).map_or_else(Span::empty, |t| t.span)
    }

    fn place(&self) -> Option<Location> {
        self.input.get(self.at).and_then(location)
    }

    fn error(&self, message: &str) -> SyntaxError {
        SyntaxError::new(self.place(), message)
    }

    fn push(&mut self, token: Token, span: Span) {
        self.output.push(TokenWithSpan::new(token, span));
    }

    /// Puts a comma and a text out.
    fn push_text(&mut self, text: String, span: Span) {
        self.push(Token::Comma, span);
        self.push(Token::SingleQuotedString(text), span);
    }
}

/// Returns whether a keyword begins what comes after a FROM clause.
fn ends_from(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::OFFSET
            | Keyword::FETCH
            | Keyword::UNION
            | Keyword::EXCEPT
            | Keyword::INTERSECT
            | Keyword::MINUS
            | Keyword::QUALIFY
            | Keyword::WINDOW
            | Keyword::SORT
            | Keyword::CLUSTER
            | Keyword::DISTRIBUTE
            | Keyword::SET
            | Keyword::RETURNING
    )
}

/// Writes a name so that parsing it gives the same name again.
fn name_text(tokens: &[TokenWithSpan]) -> String {
    let part = |token: &TokenWithSpan| match &token.token {
        Token::Word(w) if w.quote_style.is_some() => {
            format!("\"{}\"", w.value.replace('"', "\"\""))
        }
        Token::Word(w) => w.value.clone(),
        token => token.to_string(),
    };
    tokens.iter().map(part).collect()
}

#[cfg(test)]
mod tests;
