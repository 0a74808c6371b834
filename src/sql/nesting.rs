//! How deep a statement goes, told from its tokens, before anything has been made of them.
//!
//! A chain such as `a + b + c` is a tree as deep as it is long, and everything that is done to a tree (planning it,
//! even forgetting it) takes stack for each level: without a limit a long statement would end the process. Guards that
//! what passes fits on the stack of [`super::deep_stack`].

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::script::{Parsed, SyntaxError, location};

/// The most operators on the way from the whole of an expression to its deepest part.
const MOST_OPERATORS: usize = 300;

/// The most SELECTs, joins and set operations of a statement together.
const MOST_RELATIONS: usize = 60;

/// What is open: a bracket, or a CASE.
#[derive(Default)]
struct Open {
    /// Operators since the last comma, those of what it lies in included.
    operators: usize,
    /// As many there were when it was opened.
    outside: usize,
    /// Commas stand between relations.
    in_from: bool,
}

/// Checks that a statement is not too deep.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Parsed<()> {
    let mut open = vec![Open::default()];
    let mut relations = 0;
    for token in tokens {
        let is_inside = open.len() > 1;
        let Some(inner) = open.last_mut() else { break };
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                let operators = inner.operators + 1;
                open.push(Open { operators, outside: operators, in_from: false });
            }
            Token::RParen | Token::RBracket | Token::RBrace if is_inside => {
                open.pop();
                // What follows a bracket, such as the next subscript, has it below.
                if let Some(outer) = open.last_mut() {
                    outer.operators += usize::from(token.token == Token::RBracket);
                }
            }
            Token::Comma if inner.in_from => relations += 1,
            Token::Comma => inner.operators = inner.outside,
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::CASE => inner.operators += 2,
                Keyword::SELECT => {
                    relations += 1;
                    (inner.operators, inner.in_from) = (inner.outside, false);
                }
                Keyword::FROM => (inner.operators, inner.in_from) = (inner.outside, true),
                Keyword::JOIN | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::LATERAL => {
                    relations += 1;
                }
                Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER | Keyword::ON => {
                    (inner.operators, inner.in_from) = (inner.outside, false);
                }
                Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::RLIKE
                | Keyword::IN
                | Keyword::BETWEEN
                | Keyword::COLLATE => inner.operators += 1,
                _ => {}
            },
            Token::Word(_)
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::RParen
            | Token::RBracket
            | Token::RBrace
            | Token::Period
            | Token::SemiColon
            | Token::EOF => {}
            _ => inner.operators += 1,
        }
        let operators = open.last().map_or(0, |inner| inner.operators);
        if operators > MOST_OPERATORS {
            return Err(SyntaxError::new(
                location(token),
                format!(
                    "the expression is too deep: over {MOST_OPERATORS} operators within each other; use IN for a list \
                     of values, or compute parts of it in an inner query"
                ),
            ));
        }
        if relations > MOST_RELATIONS {
            return Err(SyntaxError::new(
                location(token),
                format!(
                    "the statement is too large: over {MOST_RELATIONS} SELECTs, joins and set operations; put parts of \
                     it into flows of their own"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::script::Piece;
    use super::*;

    fn passes(sql: &str) -> bool {
        check(&Piece::new(sql).tokens().unwrap()).is_ok()
    }

    #[test]
    fn what_is_long_but_flat_passes() {
        assert!(passes(&format!("SELECT a IN ({}0)", "1, ".repeat(10_000))));
        assert!(passes(&format!("SELECT {}0", "a + b, ".repeat(10_000))));
        assert!(passes(&format!("VALUES (1, 2){}", ", (1 + 2, 3)".repeat(10_000))));
        assert!(passes(&format!("SELECT f({}(1))", "(a) = (b), ".repeat(1_000))));
    }

    #[test]
    fn what_is_deep_does_not() {
        for times in [50, 301, 20_000] {
            for sql in [
                format!("SELECT a{}", " + 1".repeat(times)),
                format!("SELECT {}a", "NOT ".repeat(times)),
                format!("SELECT a{}", "[1]".repeat(times)),
                format!("SELECT {}a{}", "(".repeat(times), ")".repeat(times)),
                format!("SELECT {}a{}", "f(1, ".repeat(times), ")".repeat(times)),
                format!("SELECT CAST(a AS {}INT{})", "ARRAY<".repeat(times), ">".repeat(times)),
                format!("SELECT a{}", " UNION ALL SELECT a".repeat(times / 2)),
                format!("SELECT a FROM b{}", ", c".repeat(times)),
                format!("SELECT a FROM b{} WHERE x", " JOIN c ON d".repeat(times)),
            ] {
                assert_eq!(passes(&sql), times == 50, "{times}: {}", &sql[..40]);
            }
        }
    }
}
