//! Reads CSV straight into columns.
//!
//! Columns are matched by position, as in Spark: a header's names are not looked at. A quoted field may hold the
//! separator, quotes and line breaks. Guards that a row with too few or too many fields is told from a whole one, and
//! that a quote that never ends costs no more than its line.

use memchr::memchr;

use super::malformed::{Rows, Verdict};
use super::{LineDecoder, RowEnds};
use crate::error::Result;
use crate::options::{Options, bad_value};

/// How far a row may go on over further lines.
const ROW_BYTES: usize = 1024 * 1024;

/// How the fields of a row are written.
#[derive(Debug, Clone)]
pub(in crate::source) struct CsvDialect {
    /// The first row of a file names the columns.
    pub(in crate::source) header: bool,
    separator: String,
    quote: Option<char>,
    escape: Option<char>,
    /// Whether rows are first tried with quotes doubled and without escapes.
    ///
    /// Spark puts a backslash before a quote; others, the sink here among them, double it, and a backslash is a
    /// backslash. A row tells them apart: one of Spark's has a lone quote behind the backslash, and is hardly ever
    /// well-formed with quotes doubled. Where the option `escape` is given there is nothing to tell.
    tries_doubled: bool,
    comment: Option<char>,
    null_value: String,
    multi_line: bool,
}

/// Where the first row of a text ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// After so many bytes, the end of its last line included.
    At(usize),
    /// Behind the text: a quoted field is still open there.
    Behind,
    /// Nowhere: it has a quote where none may be.
    Nowhere,
}

impl CsvDialect {
    /// Reads the options `header`, `sep`, `quote`, `escape`, `comment`, `nullValue` and `multiLine`.
    ///
    /// # Errors
    /// `InvalidOption` for a bad value.
    pub(in crate::source) fn of(options: &Options) -> Result<Self> {
        let header_option = ["header", "format.has_header"].into_iter().find(|name| options.get(name).is_some());
        let separator_option = ["sep", "delimiter", "format.delimiter"].into_iter().find_map(|name| options.get(name));
        let separator = match separator_option.unwrap_or(",") {
            "" => return Err(bad_value("sep", "", "a separator such as ',' or '\\t'")),
            "\\t" => "\t".to_string(),
            other => other.to_string(),
        };
        Ok(Self {
            header: options.flag(header_option.unwrap_or("header"), false)?,
            separator,
            quote: one_letter(options, "quote", Some('"'))?,
            escape: one_letter(options, "escape", Some('\\'))?,
            tries_doubled: options.get("escape").is_none(),
            comment: one_letter(options, "comment", None)?,
            null_value: options.get("nullValue").unwrap_or_default().to_string(),
            multi_line: options.flag("multiLine", true)?,
        })
    }

    /// Returns whether `line` is a comment.
    pub(in crate::source) fn is_comment(&self, line: &str) -> bool {
        self.comment.is_some_and(|comment| line.starts_with(comment))
    }

    /// Returns whether a field stands for NULL.
    pub(in crate::source) fn is_null(&self, field: &str, quoted: bool) -> bool {
        field == self.null_value || (field.is_empty() && !quoted)
    }

    /// Hands out the fields of `row` one by one: position, text, and whether it was quoted. Returns their number.
    pub(in crate::source) fn split(&self, row: &str, mut each: impl FnMut(usize, &str, bool)) -> usize {
        let (mut rest, mut position, mut told) = (row, 0, None);
        loop {
            let next = match self.quote.and_then(|quote| rest.strip_prefix(quote).map(|inner| (quote, inner))) {
                Some((quote, inner)) => {
                    let escape = *told.get_or_insert_with(|| self.escape_in(quote, row));
                    let (field, next) = self.quoted(quote, escape, inner);
                    each(position, &field, true);
                    next
                }
                None => {
                    let (field, next) = match self.separator_in(rest) {
                        Some(end) => (&rest[..end], Some(&rest[end + self.separator.len()..])),
                        None => (rest, None),
                    };
                    each(position, field, false);
                    next
                }
            };
            position += 1;
            match next {
                Some(next) => rest = next,
                None => return position,
            }
        }
    }

    /// Returns where the first separator begins in `text`.
    fn separator_in(&self, text: &str) -> Option<usize> {
        match self.separator.as_bytes() {
            [byte] => memchr(*byte, text.as_bytes()),
            _ => text.find(self.separator.as_str()),
        }
    }

    /// Returns what escapes a quote in `row`; nothing where quotes are doubled.
    fn escape_in(&self, quote: char, row: &str) -> Option<char> {
        let escape = self.escape?;
        // Without a backslash both ways of reading are one.
        let is_doubled =
            self.tries_doubled && row.contains(escape) && self.end_of_row(row, quote, None, true) == End::At(row.len());
        if is_doubled { None } else { Some(escape) }
    }

    /// Reads a quoted field up to the quote that a separator or the end of the row follows. Returns what follows the
    /// separator, if there is one.
    fn quoted<'a>(&self, quote: char, escape: Option<char>, inner: &'a str) -> (String, Option<&'a str>) {
        let mut field = String::with_capacity(inner.len().min(64));
        let mut letters = inner.char_indices().peekable();
        while let Some((at, letter)) = letters.next() {
            let following = letters.peek().map(|(_, next)| *next);
            if letter == quote {
                let after = &inner[at + quote.len_utf8()..];
                if after.is_empty() {
                    return (field, None);
                }
                if let Some(next) = after.strip_prefix(self.separator.as_str()) {
                    return (field, Some(next));
                }
                if following == Some(quote) {
                    letters.next();
                }
                field.push(quote);
            } else if Some(letter) == escape && (following == Some(quote) || following == escape) {
                field.extend(letters.next().map(|(_, escaped)| escaped));
            } else {
                field.push(letter);
            }
        }
        (field, None)
    }

    /// Follows the quotes of `text` to the end of its first row. With `strict`, a quote in a field that does not begin
    /// with one is where none may be.
    fn end_of_row(&self, text: &str, quote: char, escape: Option<char>, strict: bool) -> End {
        let separator = self.separator.as_str();
        let (mut at, mut line_end) = (0, end_of_line(text, 0));
        loop {
            // Here a field begins.
            if !text[at..].starts_with(quote) {
                if line_end < at {
                    line_end = end_of_line(text, at);
                }
                let line = &text[at..line_end];
                let field_bytes = self.separator_in(line);
                if strict && line[..field_bytes.unwrap_or(line.len())].contains(quote) {
                    return End::Nowhere;
                }
                match field_bytes {
                    Some(bytes) => at += bytes + separator.len(),
                    None => return End::At(text.len().min(line_end + 1)),
                }
                continue;
            }
            at += quote.len_utf8();
            // Here, inside of the quotes, the next quote or escape is looked for, until the quotes end.
            loop {
                let found = match escape {
                    Some(escape) => text[at..].find([quote, escape]),
                    None => text[at..].find(quote),
                };
                let Some(found) = found else {
                    return End::Behind;
                };
                let mut letters = text[at + found..].chars();
                let is_quote = letters.next() == Some(quote);
                let after = letters.as_str();
                at = text.len() - after.len();
                if !is_quote {
                    let escaped = letters.next().filter(|next| *next == quote || Some(*next) == escape);
                    at += escaped.map_or(0, char::len_utf8);
                } else if let Some(bytes) = line_end_bytes(after) {
                    return End::At(at + bytes);
                } else if after.starts_with(separator) {
                    at += separator.len();
                    break;
                } else if after.starts_with(quote) {
                    at += quote.len_utf8();
                } else {
                    return End::Nowhere;
                }
            }
        }
    }
}

impl RowEnds for CsvDialect {
    /// A row goes on over further lines while a quoted field is open, if its quotes are well-formed to its end. Where
    /// they are not, or where that end is too far, a quote has lost its partner: the line is a row by itself then, and
    /// those that follow are read as if it was not there.
    fn row_bytes(&self, text: &str, line_bytes: usize, is_last: bool) -> Option<usize> {
        let line = &text[..line_bytes];
        let Some(quote) = self.quote.filter(|quote| self.multi_line && contains(line, *quote)) else {
            return Some(line_bytes);
        };
        if self.is_comment(line) {
            return Some(line_bytes);
        }
        let within_reach = &text[..reach(text, line_bytes)];
        let may_go_on = !is_last && text.len() < ROW_BYTES;
        let doubled = self.tries_doubled.then_some((None, true));
        for (escape, strict) in doubled.into_iter().chain([(self.escape, false)]) {
            match self.end_of_row(within_reach, quote, escape, strict) {
                End::At(bytes) => return Some(bytes),
                End::Behind if may_go_on => return None,
                End::Behind | End::Nowhere => {}
            }
        }
        Some(line_bytes)
    }
}

/// Returns how many bytes at the beginning of `text` a row may take: whole lines, and at least the first of them.
fn reach(text: &str, line_bytes: usize) -> usize {
    let Some(near) = text.as_bytes().get(..ROW_BYTES) else {
        return text.len();
    };
    let newline = near.iter().rposition(|byte| *byte == b'\n');
    newline.map_or(line_bytes, |newline| line_bytes.max(newline + 1))
}

/// Returns where the line ends that goes on at `from`: at its line break, or at the end of the text.
fn end_of_line(text: &str, from: usize) -> usize {
    memchr(b'\n', &text.as_bytes()[from..]).map_or(text.len(), |newline| from + newline)
}

fn contains(text: &str, letter: char) -> bool {
    match u8::try_from(letter) {
        Ok(byte) if byte.is_ascii() => memchr(byte, text.as_bytes()).is_some(),
        _ => text.contains(letter),
    }
}

/// Returns how many bytes the line break takes that `text` begins with, if there is nothing before it.
fn line_end_bytes(text: &str) -> Option<usize> {
    if text.starts_with('\n') {
        Some(1)
    } else if text.starts_with("\r\n") {
        Some(2)
    } else {
        // At the end of a file.
        (text.is_empty() || text == "\r").then_some(text.len())
    }
}

fn one_letter(options: &Options, name: &str, default: Option<char>) -> Result<Option<char>> {
    let Some(value) = options.get(name) else {
        return Ok(default);
    };
    let mut letters = value.chars();
    match (letters.next(), letters.next()) {
        (letter, None) => Ok(letter.filter(|letter| *letter != '\0')),
        _ => Err(bad_value(name, value, "one character, or nothing to turn it off")),
    }
}

/// Decodes rows of CSV.
pub(in crate::source) struct CsvDecoder {
    dialect: CsvDialect,
    /// For each field of a row the column that it goes to, if it is wanted.
    slots: Vec<Option<usize>>,
    explain: bool,
    header_pending: bool,
}

impl CsvDecoder {
    /// Makes a decoder for one file whose rows have as many fields as there are `slots`.
    pub(in crate::source) fn new(dialect: CsvDialect, slots: Vec<Option<usize>>, explain: bool) -> Self {
        let header_pending = dialect.header;
        Self { dialect, slots, explain, header_pending }
    }
}

impl LineDecoder for CsvDecoder {
    fn decode(&mut self, line: &str, rows: &mut Rows) -> Verdict {
        if self.dialect.is_comment(line) || std::mem::take(&mut self.header_pending) {
            return Verdict::Nothing;
        }
        let (mut fits, mut reason) = (true, None);
        let found = self.dialect.split(line, |position, field, quoted| {
            let Some(column) = self.slots.get(position).copied().flatten().map(|slot| &mut rows.columns[slot]) else {
                return;
            };
            let is_null = self.dialect.is_null(field, quoted);
            if is_null && !quoted {
                column.push_null();
            } else if !column.push_text(field) && !is_null {
                // In quotes the word for NULL is a text like others, and NULL only where the column takes no such text.
                fits = false;
                if self.explain && reason.is_none() {
                    reason = Some(format!(
                        "column '{}' is declared {} but holds '{field}'",
                        column.name,
                        column.data_type()
                    ));
                }
            }
        });
        if found != self.slots.len() {
            fits = false;
            if self.explain && reason.is_none() {
                reason = Some(format!("{} fields expected, {found} found", self.slots.len()));
            }
        }
        if fits { Verdict::Row } else { Verdict::Misfit(reason) }
    }

    fn row_ends(&self) -> &dyn RowEnds {
        &self.dialect
    }

    fn skips(&self, line: &str) -> bool {
        if !line.trim_ascii().is_empty() {
            return false;
        }
        // A row of nothing but NULLs is blank where the separator is a blank, and where there is one column: there the
        // sink writes an empty line for NULL, since anything else would be a text.
        let is_row = match self.slots.len() {
            1 => line == self.dialect.null_value,
            fields => self.dialect.split(line, |_, _, _| ()) == fields,
        };
        self.header_pending || !is_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(options: &[(&str, &str)], line: &str) -> Vec<String> {
        let options: Options = options.iter().copied().collect();
        let mut fields = Vec::new();
        let count = CsvDialect::of(&options).unwrap().split(line, |_, field, _| fields.push(field.to_string()));
        assert_eq!(count, fields.len());
        fields
    }

    #[test]
    fn quotes_hold_separators_and_quotes() {
        assert_eq!(fields(&[], r#"a,"b,c","d ""e""","f\"g","#), ["a", "b,c", "d \"e\"", "f\"g", ""]);
        assert_eq!(fields(&[("sep", "\\t")], "a\tb,c"), ["a", "b,c"]);
        assert_eq!(fields(&[("delimiter", "||"), ("quote", "")], "\"a||b\""), ["\"a", "b\""]);
        assert_eq!(fields(&[], ""), [""]);
    }

    #[test]
    fn a_quote_that_never_ends_takes_the_rest_of_the_line() {
        assert_eq!(fields(&[], r#"a,"b,c"#), ["a", "b,c"]);
        assert_eq!(fields(&[], r#""a"b,c"#), ["a\"b,c"]);
    }

    #[test]
    fn a_backslash_escapes_only_where_quotes_are_not_doubled() {
        assert_eq!(fields(&[], r#""C:\dir\",x"#), ["C:\\dir\\", "x"]);
        assert_eq!(fields(&[], r#""a\""b","\\,",c\"#), ["a\\\"b", "\\\\,", "c\\"]);
        assert_eq!(fields(&[], r#""say \"hi\"","a\\b""#), ["say \"hi\"", "a\\b"]);
        assert_eq!(fields(&[], r#""a\",b""#), ["a\",b"]);
        assert_eq!(fields(&[("escape", "\\")], r#""a\\b""#), ["a\\b"]);
        assert_eq!(fields(&[("escape", "\\")], r#""C:\dir\",x"#), ["C:\\dir\",x"]);
        assert_eq!(fields(&[("escape", "")], r#""a\\b""#), ["a\\\\b"]);
    }

    /// The first row of a text, as far as the text tells.
    fn first_row<'a>(options: &[(&str, &str)], text: &'a str, is_last: bool) -> Option<&'a str> {
        let options: Options = options.iter().copied().collect();
        let line_bytes = text.find('\n').map_or(text.len(), |newline| newline + 1);
        let row_bytes = CsvDialect::of(&options).unwrap().row_bytes(text, line_bytes, is_last);
        row_bytes.map(|bytes| &text[..bytes])
    }

    #[test]
    fn a_row_ends_where_its_quotes_have_ended() {
        for (text, row) in [
            ("a,b\nc,d\n", "a,b\n"),
            ("a,\"b\nc\",d\ne,f\n", "a,\"b\nc\",d\n"),
            ("\"a\"\"\r\n,\"\"\"\r\nb\r\n", "\"a\"\"\r\n,\"\"\"\r\n"),
            ("\"a\n\n\",b\",\"c\nd\"\ne\n", "\"a\n\n\",b\",\"c\nd\"\n"),
            ("\"a\nb\"\r", "\"a\nb\"\r"),
            ("\"a\\\"\nb\n", "\"a\\\"\n"),
            // What Spark writes: the value ends with a quote.
            ("\"a\\\"\"\n\"b\"\n", "\"a\\\"\"\n"),
            ("\"a \\\"x\\\"\nb\"\nc\n", "\"a \\\"x\\\"\nb\"\n"),
        ] {
            assert_eq!(first_row(&[], text, true), Some(row), "{text}");
        }
        let options = [("multiLine", "false")];
        assert_eq!(first_row(&options, "a,\"b\nc\",d\n", true), Some("a,\"b\n"));
        assert_eq!(first_row(&[("comment", "#")], "#\"a\nb\"\n", true), Some("#\"a\n"));
        assert_eq!(first_row(&[("quote", "")], "\"a\nb\"\n", true), Some("\"a\n"));
    }

    #[test]
    fn a_quote_that_never_ends_costs_one_line() {
        assert_eq!(first_row(&[], "a,\"b\nc,d\n", false), None);
        assert_eq!(first_row(&[], "a,\"b\nc,d\n", true), Some("a,\"b\n"));
        // The next quote ends no field: the one before has lost its partner.
        assert_eq!(first_row(&[], "a,\"b\nc,\"d\"\n", false), Some("a,\"b\n"));
        // The next quote would end the field, but it may be too far.
        for (lines, is_one_row) in [(1_000, true), (1_100, false)] {
            let between = format!("{}\n", "x".repeat(999)).repeat(lines);
            let text = format!("a,\"b\n{between}c\"\n");
            let row = first_row(&[], &text, false).unwrap();
            assert_eq!(row.len(), if is_one_row { text.len() } else { 5 });
        }
    }
}
