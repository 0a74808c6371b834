//! Joins that the SQL parser does not know, or not in this spelling: ASOF joins, and lookups in a table as it is now.
//!
//! - `a ASOF [LEFT] JOIN b ON …` (DuckDB, RisingWave) and `a LEFT ASOF JOIN b MATCH_CONDITION (…) ON …` (Feldera)
//!   become Snowflake's `a ASOF JOIN b MATCH_CONDITION (…) ON …`, which the parser reads; a call within says which it
//!   was;
//! - `JOIN t FOR SYSTEM_TIME AS OF PROCTIME()` (Flink, RisingWave) becomes a call of [`LOOKUP_FUNCTION`] over `t`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use super::{Pass, Source, name_text};
use crate::sql::asof_join::ASOF_FUNCTION;
use crate::sql::script::Parsed;
use crate::sql::stream_relation::LOOKUP_FUNCTION;
use crate::sql::words::is_word;

/// What tables call a column of processing time.
const PROCESSING_TIMES: &[&str] = &["proctime", "proc_time", "processing_time"];

impl Pass {
    /// Returns whether an ASOF join that begins here keeps rows without a partner, and how many words it is written in.
    pub(super) fn at_asof_join(&self) -> Parsed<Option<(bool, usize)>> {
        let words = [0, 1, 2, 3].map(|ahead| self.keyword(ahead));
        Ok(match words.as_slice() {
            [Keyword::ASOF, Keyword::JOIN, ..] => Some((false, 2)),
            [Keyword::ASOF, Keyword::INNER, Keyword::JOIN, _] => Some((false, 3)),
            [Keyword::INNER, Keyword::ASOF, Keyword::JOIN, _] => Some((false, 3)),
            [Keyword::ASOF, Keyword::LEFT, Keyword::JOIN, _] => Some((true, 3)),
            [Keyword::LEFT, Keyword::ASOF, Keyword::JOIN, _] => Some((true, 3)),
            [Keyword::ASOF, Keyword::LEFT, Keyword::OUTER, Keyword::JOIN] => Some((true, 4)),
            [Keyword::LEFT, Keyword::OUTER, Keyword::ASOF, Keyword::JOIN] => Some((true, 4)),
            [Keyword::ASOF, Keyword::RIGHT | Keyword::FULL | Keyword::SEMI | Keyword::ANTI, ..]
            | [Keyword::RIGHT | Keyword::FULL | Keyword::SEMI | Keyword::ANTI, Keyword::ASOF, ..] => {
                return Err(self.error("an ASOF join is inner or LEFT: write ASOF JOIN, or ASOF LEFT JOIN"));
            }
            _ => None,
        })
    }

    /// Copies the ASOF join that begins here, up to what stands behind its MATCH_CONDITION.
    pub(super) fn asof_join(&mut self, outer: bool, words: usize) -> Parsed<()> {
        let span = self.span();
        self.push(Token::make_keyword("ASOF"), span);
        self.push(Token::make_keyword("JOIN"), span);
        self.at += words;
        self.relation()?;
        let span = self.span();
        let written = self.keyword(0) == Keyword::MATCH_CONDITION && *self.token(1) == Token::LParen;
        self.at += if written { 2 } else { 0 };
        self.push(Token::make_keyword("MATCH_CONDITION"), span);
        self.push(Token::LParen, span);
        self.push(Token::make_word(ASOF_FUNCTION, None), span);
        self.push(Token::LParen, span);
        self.push(Token::make_keyword(if outer { "TRUE" } else { "FALSE" }), span);
        if written {
            self.push(Token::Comma, span);
            self.level(false, false)?;
            self.take_closing();
        } else {
            self.push(Token::RParen, span);
        }
        self.push(Token::RParen, span);
        Ok(())
    }

    /// Returns whether `FOR SYSTEM_TIME AS OF` stands here.
    pub(super) fn at_system_time(&self) -> bool {
        self.keyword(0) == Keyword::FOR
            && is_word(self.token(1), "SYSTEM_TIME")
            && self.keyword(2) == Keyword::AS
            && is_word(self.token(3), "OF")
    }

    /// Reads `FOR SYSTEM_TIME AS OF` and the processing time behind it.
    pub(super) fn system_time(&mut self, stream: bool) -> Parsed<()> {
        if stream {
            return Err(self
                .error("FOR SYSTEM_TIME AS OF is for tables, and a stream is never as of a time: leave STREAM away"));
        }
        self.at += 4;
        let start = self.at;
        while self.word(0).is_some() && *self.token(1) == Token::Period {
            self.at += 2;
        }
        let call =
            is_word(self.token(0), "PROCTIME") && *self.token(1) == Token::LParen && *self.token(2) == Token::RParen;
        let column =
            PROCESSING_TIMES.iter().any(|name| is_word(self.token(0), name)) && *self.token(1) != Token::LParen;
        if !call && !column {
            self.at = start;
            return Err(self.error(
                "FOR SYSTEM_TIME AS OF takes the processing time, PROCTIME(): a table is looked up as it is now; for the \
                 row as of an event time write ASOF JOIN",
            ));
        }
        self.at += if call { 3 } else { 1 };
        Ok(())
    }

    /// Replaces the relation that was copied from `start` on by the lookup in it.
    pub(super) fn wrap_lookup(&mut self, start: usize, span: Span, source: Source) {
        let relation = self.output.split_off(start);
        self.push(Token::make_word(LOOKUP_FUNCTION, None), span);
        self.push(Token::LParen, span);
        match source {
            Source::Name => self.push(Token::SingleQuotedString(name_text(&relation)), span),
            Source::Query | Source::Joins => self.output.extend(relation),
            Source::Call => self.select_all(relation, span),
        }
        self.push(Token::RParen, span);
    }
}
