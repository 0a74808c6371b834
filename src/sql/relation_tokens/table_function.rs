//! Table functions over a table: the table of `TUMBLE(TABLE t, …)` becomes a sub-query, which the SQL parser reads and
//! the planner resolves. The walk over a statement's tokens calls this where such a function stands as a relation.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Pass;
use crate::sql::script::Parsed;
use crate::sql::session_table::PARTITION;
use crate::sql::words::is_word;

impl Pass {
    /// Copies the arguments of a table function, the table among them as a sub-query. What a `parted` one has behind
    /// PARTITION BY becomes an argument of its own, [`PARTITION`].
    pub(super) fn table_function(&mut self, parted: bool) -> Parsed<()> {
        self.take();
        let mut index = 0;
        loop {
            let named = self.word(0).is_some() && matches!(self.token(1), Token::RArrow | Token::Assignment);
            let table = if named { is_word(self.token(0), "DATA") } else { index == 0 };
            if named {
                self.take();
                self.take();
            }
            if table {
                self.table_argument()?;
                self.partition(parted)?;
            }
            self.argument()?;
            if *self.token(0) != Token::Comma {
                break;
            }
            self.take();
            index += 1;
        }
        self.take_closing();
        Ok(())
    }

    /// Copies the table of a table function as `(SELECT * FROM …)`, unless it is a sub-query already.
    fn table_argument(&mut self) -> Parsed<()> {
        let start = self.output.len();
        let span = self.span();
        if self.keyword(0) == Keyword::TABLE {
            self.at += 1;
        }
        self.relation()?;
        let is_query = self.output.get(start).is_none_or(|t| t.token == Token::LParen);
        if !is_query {
            let relation = self.output.split_off(start);
            self.select_all(relation, span);
        }
        Ok(())
    }

    /// Makes an argument of the columns of PARTITION BY, where that comes next.
    fn partition(&mut self, parted: bool) -> Parsed<()> {
        if !is_word(self.token(0), "PARTITION") {
            return Ok(());
        }
        if !parted {
            return Err(self.error("PARTITION BY has no place here: name the key in GROUP BY"));
        }
        let span = self.span();
        self.at += 1;
        if is_word(self.token(0), "BY") {
            self.at += 1;
        }
        let columns = self.partition_columns()?;
        self.push(Token::Comma, span);
        self.push(Token::make_word(PARTITION, None), span);
        self.push(Token::LParen, span);
        self.output.extend(columns);
        self.push(Token::RParen, span);
        Ok(())
    }

    /// Reads columns, in parentheses or without; then they go on to DESCRIPTOR, or else end at the first comma.
    fn partition_columns(&mut self) -> Parsed<Vec<TokenWithSpan>> {
        let parentheses = *self.token(0) == Token::LParen;
        self.at += usize::from(parentheses);
        let start = self.at;
        loop {
            let Token::Word(_) = self.token(0) else {
                return Err(self.error("PARTITION BY takes columns: write PARTITION BY k, or PARTITION BY (k, …)"));
            };
            self.at += 1;
            match self.token(0) {
                Token::Period => {}
                Token::Comma if parentheses || self.column_follows() => {}
                Token::Comma | Token::RParen => break,
                _ => return Err(self.error("PARTITION BY takes columns: an expression stands in a sub-query before")),
            }
            self.at += 1;
        }
        let columns = self.input.get(start..self.at).unwrap_or_default().to_vec();
        self.at += usize::from(parentheses && *self.token(0) == Token::RParen);
        Ok(columns)
    }

    /// Whether another column of PARTITION BY stands behind this comma, and not the time yet.
    fn column_follows(&self) -> bool {
        if !matches!(self.token(2), Token::Comma | Token::Period) {
            return false;
        }
        let rest = self.input.get(self.at + 1..).unwrap_or_default();
        let described =
            rest.iter().take_while(|t| t.token != Token::RParen).position(|t| is_word(&t.token, "DESCRIPTOR"));
        described.is_some_and(|at| at > 0)
    }

    /// Copies up to the comma or parenthesis that ends an argument.
    fn argument(&mut self) -> Parsed<()> {
        loop {
            match self.token(0) {
                Token::EOF | Token::RParen | Token::Comma => return Ok(()),
                Token::LParen => self.parenthesized()?,
                _ if self.keyword(0) == Keyword::INTERVAL => self.interval(),
                _ => self.take(),
            }
        }
    }
}
