//! Window table functions: the table of `TUMBLE(TABLE t, …)` becomes a sub-query, which the SQL parser reads and the
//! planner resolves. The walk over a statement's tokens calls this where such a function stands as a relation.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::Pass;
use crate::sql::script::Parsed;
use crate::sql::words::is_word;

impl Pass {
    /// Copies the arguments of a window table function, the table among them as a sub-query.
    pub(super) fn window_call(&mut self) -> Parsed<()> {
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
                self.window_input()?;
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

    /// Copies the table of a window table function as `(SELECT * FROM …)`, unless it is a sub-query already.
    fn window_input(&mut self) -> Parsed<()> {
        let start = self.output.len();
        let span = self.span();
        if self.keyword(0) == Keyword::TABLE {
            self.at += 1;
        }
        self.relation()?;
        if is_word(self.token(0), "PARTITION") {
            return Err(self.error("PARTITION BY has no place here: name the key in GROUP BY"));
        }
        let is_query = self.output.get(start).is_none_or(|t| t.token == Token::LParen);
        if !is_query {
            let relation = self.output.split_off(start);
            self.select_all(relation, span);
        }
        Ok(())
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
