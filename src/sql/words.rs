//! Small readers over a parser's tokens: words, names, texts and lists of options.
//!
//! Statements of our own are read with these; none of their words is reserved, so words are compared as they are
//! written, without case, and a quoted word is never one of them.

use datafusion::common::TableReference;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::script::{Parsed, SyntaxError, location};
use crate::error::Error;
use crate::interval::duration_us;
use crate::options::{Options, nearest};

/// Returns whether a token is the unquoted word `word`.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// Returns the unquoted word `ahead` tokens ahead in capitals, or nothing.
pub(super) fn word_at(parser: &Parser<'_>, ahead: usize) -> String {
    match &parser.peek_nth_token_ref(ahead).token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_uppercase(),
        _ => String::new(),
    }
}

/// Returns whether the token `ahead` ends the statement.
pub(super) fn ends_at(parser: &Parser<'_>, ahead: usize) -> bool {
    matches!(parser.peek_nth_token_ref(ahead).token, Token::EOF | Token::SemiColon)
}

/// Takes `words` where they come next, all or none.
pub(super) fn take_words(parser: &mut Parser<'_>, words: &[&str]) -> bool {
    let found = words.iter().enumerate().all(|(i, word)| is_word(&parser.peek_nth_token_ref(i).token, word));
    if found {
        skip(parser, words.len());
    }
    found
}

/// Takes `count` tokens.
pub(super) fn skip(parser: &mut Parser<'_>, count: usize) {
    for _ in 0..count {
        parser.advance_token();
    }
}

/// Takes the word that must come next; `after` says behind what.
pub(super) fn expect_word(parser: &mut Parser<'_>, word: &str, after: &str) -> Parsed<()> {
    if take_words(parser, &[word]) {
        return Ok(());
    }
    Err(SyntaxError::here(parser, format!("expected {word} after {after}, found {}", found(parser))).guessing())
}

/// Takes the end of the statement.
pub(super) fn expect_end(parser: &mut Parser<'_>) -> Parsed<()> {
    while parser.consume_token(&Token::SemiColon) {}
    match parser.peek_token_ref().token {
        Token::EOF => Ok(()),
        _ => {
            Err(SyntaxError::here(parser, format!("expected the end of the statement, found {}", found(parser)))
                .guessing())
        }
    }
}

/// Says what comes next, for messages.
pub(super) fn found(parser: &Parser<'_>) -> String {
    match &parser.peek_token_ref().token {
        Token::EOF => "the end of the statement".to_string(),
        token => format!("'{token}'"),
    }
}

/// The error for a word where one of `known` clauses could begin: it names the near miss.
pub(super) fn unknown_clause(parser: &Parser<'_>, known: &[&str]) -> SyntaxError {
    let word = word_at(parser, 0);
    let firsts: Vec<&str> = known.iter().map(|clause| first_word(clause)).collect();
    let near = nearest(&word, &firsts).filter(|_| !word.is_empty());
    let hint = match known.iter().find(|clause| near == Some(first_word(clause))) {
        Some(clause) => format!("did you mean {clause}?"),
        None => format!("expected {}", known.join(", ")),
    };
    SyntaxError::here(parser, format!("unexpected {}; {hint}", found(parser)))
}

fn first_word(clause: &str) -> &str {
    clause.split(' ').next().unwrap_or_default()
}

/// Fills a clause's place, which must still be empty.
pub(super) fn once<T>(parser: &Parser<'_>, place: &mut Option<T>, value: T, clause: &str) -> Parsed<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(SyntaxError::here(parser, format!("{clause} is written twice: keep one"))),
    }
}

/// Reads a text in single quotes; `what` says what it is.
pub(super) fn text(parser: &mut Parser<'_>, what: &str) -> Parsed<String> {
    let value = match &parser.peek_token_ref().token {
        Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) | Token::UnicodeStringLiteral(s) => s.clone(),
        _ => {
            let message = format!("expected {what} in single quotes, found {}", found(parser));
            return Err(SyntaxError::here(parser, message));
        }
    };
    parser.advance_token();
    Ok(value)
}

/// Reads a duration: a text such as '5 seconds', with or without the word INTERVAL.
pub(super) fn duration(parser: &mut Parser<'_>, what: &str) -> Parsed<i64> {
    take_words(parser, &["INTERVAL"]);
    let at = location(parser.peek_token_ref());
    let us = duration_us(&text(parser, what)?).map_err(|e| SyntaxError::new(at, e.message()))?;
    if us < 0 {
        return Err(SyntaxError::new(at, format!("{what} cannot be negative")));
    }
    Ok(us)
}

/// Returns an identifier as the planner knows it: in small letters unless it was quoted.
pub(super) fn normal(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// Reads a name of one part.
pub(super) fn name(parser: &mut Parser<'_>) -> Parsed<String> {
    Ok(normal(&parser.parse_identifier()?))
}

/// Reads the name of a table or view.
pub(super) fn table_name(parser: &mut Parser<'_>) -> Parsed<TableReference> {
    let at = location(parser.peek_token_ref());
    let parts = parser.parse_object_name(false)?;
    object_name_to_table_reference(parts, true).map_err(|e| SyntaxError::new(at, Error::from(e).message()))
}

/// Reads names in parentheses.
pub(super) fn names(parser: &mut Parser<'_>) -> Parsed<Vec<String>> {
    parser.expect_token(&Token::LParen)?;
    let mut all = vec![name(parser)?];
    while parser.consume_token(&Token::Comma) {
        all.push(name(parser)?);
    }
    parser.expect_token(&Token::RParen)?;
    Ok(all)
}

/// Takes IF NOT EXISTS where it comes next.
pub(super) fn if_not_exists(parser: &mut Parser<'_>) -> bool {
    take_words(parser, &["IF", "NOT", "EXISTS"])
}

/// Reads options in parentheses: `('k' 'v', 'k' = 'v', k = 3, a.b = true)`.
pub(super) fn options(parser: &mut Parser<'_>) -> Parsed<Options> {
    parser.expect_token(&Token::LParen)?;
    let mut options = Options::new();
    while !parser.consume_token(&Token::RParen) {
        let key_at = location(parser.peek_token_ref());
        let key = option_name(parser)?;
        let _ = parser.consume_token(&Token::Eq);
        let value = option_value(parser, &key)?;
        if options.get(&key).is_some() {
            return Err(SyntaxError::new(key_at, format!("option '{key}' is written twice: keep one")));
        }
        options.set(key, value);
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen)?;
            break;
        }
    }
    Ok(options)
}

fn option_name(parser: &mut Parser<'_>) -> Parsed<String> {
    if !matches!(parser.peek_token_ref().token, Token::Word(_)) {
        return text(parser, "an option's name");
    }
    // the names are the reader's own: their case is kept
    let mut name = parser.parse_identifier()?.value;
    while parser.consume_token(&Token::Period) {
        name.push('.');
        name.push_str(&parser.parse_identifier()?.value);
    }
    Ok(name)
}

fn option_value(parser: &mut Parser<'_>, key: &str) -> Parsed<String> {
    let sign = if parser.consume_token(&Token::Minus) { "-" } else { "" };
    let value = match &parser.peek_token_ref().token {
        Token::Number(n, _) => format!("{sign}{n}"),
        Token::Word(w) if sign.is_empty() => w.value.clone(),
        _ if sign.is_empty() => return text(parser, &format!("the value of option '{key}'")),
        _ => {
            return Err(SyntaxError::here(parser, format!("expected a number after '-', found {}", found(parser))));
        }
    };
    parser.advance_token();
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::script::{DIALECT, Piece};
    use super::*;

    fn read(sql: &str) -> Parsed<Options> {
        let tokens = Piece::new(sql).tokens().unwrap();
        options(&mut Parser::new(&DIALECT).with_tokens_with_locations(tokens))
    }

    #[test]
    fn options_are_read_in_every_spelling() {
        let options = read("('k' 'v', 'maxFilesPerTrigger' = 1, a.b.c = true, compression gzip, offset -3,)").unwrap();
        let all: Vec<_> = options.iter().collect();
        assert_eq!(
            all,
            vec![("a.b.c", "true"), ("compression", "gzip"), ("k", "v"), ("maxFilesPerTrigger", "1"), ("offset", "-3")]
        );
        assert!(read("()").unwrap().is_empty());
    }

    #[test]
    fn an_option_written_twice_is_refused() {
        assert!(read("('k' 'v', K = 'w')").is_err());
        assert!(read("('k' = )").is_err());
        assert!(read("('k' 'v' 'w')").is_err());
    }
}
