//! The clauses behind a relation: `WITH (…)`, `IDENTIFIED BY n`, `WATERMARK … DELAY OF INTERVAL …` and `FOR SYSTEM_TIME
//! AS OF PROCTIME()`.
//!
//! The walk over a statement's tokens calls this behind every relation. The clauses come before the alias, in any
//! order, each at most once; what is wrong with one is said here, in the words of SQL, since the parser never sees them.

use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::{Pass, Source, ends_from};
use crate::interval::duration_us;
use crate::options::Options;
use crate::sql::script::{DIALECT, Parsed, SyntaxError, location};
use crate::sql::words::{is_word, options};

const DELAY_HINT: &str = "write WATERMARK <column> DELAY OF INTERVAL 10 SECONDS";

/// The clauses behind a relation.
#[derive(Default)]
pub(super) struct Clauses {
    pub(super) options: Option<Options>,
    pub(super) identified_by: Option<String>,
    pub(super) watermark: Option<WatermarkTokens>,
    /// FOR SYSTEM_TIME AS OF PROCTIME(): a table is looked up as it is now.
    pub(super) lookup: bool,
}

pub(super) struct WatermarkTokens {
    pub(super) expr: Vec<TokenWithSpan>,
    pub(super) alias: String,
    pub(super) delay: String,
}

impl Pass {
    /// Reads the clauses behind a relation.
    pub(super) fn clauses(&mut self, stream: bool, source: Source) -> Parsed<Clauses> {
        let mut clauses = Clauses::default();
        loop {
            let at = self.place();
            let twice = if self.at_options(stream, source) {
                let options = self.options()?;
                clauses.options.replace(options).is_some()
            } else if is_word(self.token(0), "IDENTIFIED") && is_word(self.token(1), "BY") {
                let name = self.identified_by(stream)?;
                clauses.identified_by.replace(name).is_some()
            } else if self.at_watermark(0) {
                if source == Source::Joins {
                    return Err(self.error("WATERMARK stands behind one table: write it within the parentheses"));
                }
                let watermark = self.watermark()?;
                clauses.watermark.replace(watermark).is_some()
            } else if self.at_system_time() {
                self.system_time(stream)?;
                std::mem::replace(&mut clauses.lookup, true)
            } else {
                return Ok(clauses);
            };
            if twice {
                return Err(SyntaxError::new(at, "the clause is written twice: keep one"));
            }
            if clauses.lookup && (clauses.options.is_some() || clauses.watermark.is_some()) {
                return Err(SyntaxError::new(at, "FOR SYSTEM_TIME AS OF PROCTIME() stands alone behind a table"));
            }
        }
    }

    /// Reads `WITH ('k' = 'v', …)`.
    fn options(&mut self) -> Parsed<Options> {
        self.at += 1;
        let rest = self.input.get(self.at..).unwrap_or_default().to_vec();
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(rest);
        let options = options(&mut parser)?;
        self.at += parser.get_current_index() + 1;
        Ok(options)
    }

    /// Reads `IDENTIFIED BY n`.
    fn identified_by(&mut self, stream: bool) -> Parsed<String> {
        if !stream {
            return Err(self.error("IDENTIFIED BY names the source of a stream: write STREAM before the table"));
        }
        self.at += 2;
        match self.word(0).map(|w| w.value.clone()) {
            Some(name) => {
                self.at += 1;
                Ok(name)
            }
            None => Err(self.error("expected a name after IDENTIFIED BY")),
        }
    }

    /// Reads `WATERMARK expr [AS c] DELAY OF INTERVAL …`.
    fn watermark(&mut self) -> Parsed<WatermarkTokens> {
        self.at += 1;
        let start = self.at;
        let name_at = self.skip_to_delay()?;
        let expr = self.input.get(start..name_at.unwrap_or(self.at)).unwrap_or_default().to_vec();
        let alias = match name_at {
            None if is_column(&expr) => String::new(),
            None => {
                let at = expr.first().and_then(location).or_else(|| self.place());
                return Err(SyntaxError::new(at, "this event time needs a name: write AS <name> before DELAY OF"));
            }
            Some(name_at) => self.watermark_alias(name_at)?,
        };
        self.at += 2;
        let at = self.place();
        if self.keyword(0) != Keyword::INTERVAL {
            let message = match self.token(0) {
                Token::SingleQuotedString(s) => {
                    format!("the delay is an interval: write DELAY OF INTERVAL '{s}'")
                }
                _ => format!("expected INTERVAL after DELAY OF: {DELAY_HINT}"),
            };
            return Err(self.error(&message));
        }
        let Some((delay, count)) = self.interval_text(1) else {
            self.at += 1;
            return Err(self.bad_interval());
        };
        let us = duration_us(&delay).map_err(|e| SyntaxError::new(at, e.message()))?;
        if us < 0 {
            return Err(SyntaxError::new(at, format!("the delay {delay} is negative: a watermark stays behind")));
        }
        self.at += 1 + count;
        Ok(WatermarkTokens { expr, alias, delay })
    }

    /// Says what is wrong with the interval that begins here.
    fn bad_interval(&self) -> SyntaxError {
        if let (Token::Number(number, _), Some(unit)) = (self.token(0), self.word(1))
            && let Err(error) = duration_us(&format!("{number} {}", unit.value))
        {
            return self.error(error.message());
        }
        self.error("expected a number and a unit after INTERVAL, such as 10 SECONDS")
    }

    /// Moves to the word DELAY that ends a watermark's expression; returns where an AS stands before it.
    fn skip_to_delay(&mut self) -> Parsed<Option<usize>> {
        let (start, mut depth, mut name_at) = (self.at, 0_usize, None);
        loop {
            let keyword = self.keyword(0);
            match self.token(0) {
                Token::LParen => depth += 1,
                Token::RParen if depth > 0 => depth -= 1,
                Token::EOF | Token::SemiColon | Token::RParen => return Err(self.missing_delay()),
                Token::Comma if depth == 0 => return Err(self.missing_delay()),
                token if depth == 0 => {
                    if is_word(token, "DELAY") && is_word(self.token(1), "OF") {
                        return Ok(name_at);
                    }
                    let clause = ends_from(keyword) || matches!(keyword, Keyword::ON | Keyword::JOIN | Keyword::FROM);
                    if clause && self.at > start {
                        return Err(self.missing_delay());
                    }
                    if keyword == Keyword::AS {
                        name_at = Some(self.at);
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn missing_delay(&self) -> SyntaxError {
        self.error(&format!("WATERMARK has no DELAY OF: {DELAY_HINT}")).guessing()
    }

    /// Returns the one name between AS, at `name_at`, and DELAY.
    fn watermark_alias(&self, name_at: usize) -> Parsed<String> {
        match self.input.get(name_at + 1..self.at) {
            Some([TokenWithSpan { token: Token::Word(w), .. }]) => Ok(match w.quote_style {
                Some(_) => w.value.clone(),
                None => w.value.to_ascii_lowercase(),
            }),
            _ => {
                let at = self.input.get(name_at).and_then(location);
                Err(SyntaxError::new(at, "expected one name between AS and DELAY OF"))
            }
        }
    }

    /// Returns whether a WATERMARK clause begins `ahead`: an alias of that name is followed by no expression.
    pub(super) fn at_watermark(&self, ahead: usize) -> bool {
        if !is_word(self.token(ahead), "WATERMARK") || self.word(ahead + 1).is_none() {
            return false;
        }
        let keyword = self.keyword(ahead + 1);
        let reserved = keyword == Keyword::AS || RESERVED_FOR_TABLE_ALIAS.contains(&keyword);
        let delay = is_word(self.token(ahead + 2), "DELAY") && is_word(self.token(ahead + 3), "OF");
        !reserved || delay || *self.token(ahead + 2) == Token::Period
    }

    /// Returns whether options begin here: WITH on a plain table may also be a hint of the parser's.
    fn at_options(&self, stream: bool, source: Source) -> bool {
        self.keyword(0) == Keyword::WITH
            && *self.token(1) == Token::LParen
            && source == Source::Name
            && (stream || matches!(self.token(2), Token::SingleQuotedString(_)) || *self.token(3) == Token::Eq)
    }
}

/// Returns whether the tokens are a column, qualified or not.
fn is_column(tokens: &[TokenWithSpan]) -> bool {
    tokens.len() % 2 == 1
        && tokens.iter().enumerate().all(|(i, t)| match &t.token {
            Token::Word(_) => i % 2 == 0,
            Token::Period => i % 2 == 1,
            _ => false,
        })
}
