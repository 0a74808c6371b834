//! Reads CSV, one row a line, straight into columns.
//!
//! Columns are matched by position, as in Spark: a header's names are not looked at. A quoted field may hold the
//! separator, but not a line break. Guards that a line with too few or too many fields is told from a whole row.

use super::lines::LineDecoder;
use super::malformed::{Rows, Verdict};
use crate::error::Result;
use crate::options::{Options, bad_value};

/// How the fields of a line are written.
#[derive(Debug, Clone)]
pub(super) struct CsvDialect {
    /// The first line of a file names the columns.
    pub(super) header: bool,
    separator: String,
    quote: Option<char>,
    escape: Option<char>,
    comment: Option<char>,
    null_value: String,
}

impl CsvDialect {
    /// Reads the options `header`, `sep`, `quote`, `escape`, `comment` and `nullValue`.
    ///
    /// # Errors
    /// `InvalidOption` for a bad value.
    pub(super) fn of(options: &Options) -> Result<Self> {
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
            comment: one_letter(options, "comment", None)?,
            null_value: options.get("nullValue").unwrap_or_default().to_string(),
        })
    }

    /// Returns whether `line` is a comment.
    pub(super) fn is_comment(&self, line: &str) -> bool {
        self.comment.is_some_and(|comment| line.starts_with(comment))
    }

    /// Returns whether a field stands for NULL.
    pub(super) fn is_null(&self, field: &str, quoted: bool) -> bool {
        field == self.null_value || (field.is_empty() && !quoted)
    }

    /// Hands out the fields of `line` one by one: position, text, and whether it was quoted. Returns their number.
    pub(super) fn split(&self, line: &str, mut each: impl FnMut(usize, &str, bool)) -> usize {
        let (mut rest, mut position) = (line, 0);
        loop {
            let next = match self.quote.and_then(|quote| rest.strip_prefix(quote).map(|inner| (quote, inner))) {
                Some((quote, inner)) => {
                    let (field, next) = self.quoted(quote, inner);
                    each(position, &field, true);
                    next
                }
                None => {
                    let (field, next) = match rest.find(self.separator.as_str()) {
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

    /// Reads a quoted field up to the quote that a separator or the end of the line follows. Returns what follows the
    /// separator, if there is one.
    fn quoted<'a>(&self, quote: char, inner: &'a str) -> (String, Option<&'a str>) {
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
            } else if Some(letter) == self.escape && (following == Some(quote) || following == self.escape) {
                field.extend(letters.next().map(|(_, escaped)| escaped));
            } else {
                field.push(letter);
            }
        }
        (field, None)
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

/// Decodes lines of CSV.
pub(super) struct CsvDecoder {
    dialect: CsvDialect,
    /// For each field of a line the column that it goes to, if it is wanted.
    slots: Vec<Option<usize>>,
    explain: bool,
    header_pending: bool,
}

impl CsvDecoder {
    /// Makes a decoder for one file whose lines have as many fields as there are `slots`.
    pub(super) fn new(dialect: CsvDialect, slots: Vec<Option<usize>>, explain: bool) -> Self {
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
            if self.dialect.is_null(field, quoted) {
                column.push_null();
            } else if !column.push_text(field) {
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
}
