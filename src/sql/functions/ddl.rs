//! Schemas as Spark's DDL writes them: `a INT, b STRUCT<c: STRING, d: ARRAY<DOUBLE>>`.
//!
//! Called by `from_json`, whose second argument is one.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields};

use super::function::{TIMESTAMP, list_of};
use super::instant::Cursor;
use crate::error::{Error, Result};

/// Reads a schema: a list of columns, or one type.
///
/// # Errors
/// `InvalidQuery` that says where the text stops making sense.
pub(super) fn parse_schema(text: &str) -> Result<DataType> {
    let mut parser = Parser { cursor: Cursor::new(text), text };
    // a list of columns and a type can begin alike: `date date` and `date`
    let as_columns = match parser.columns(None) {
        Ok(columns) => return Ok(DataType::Struct(columns)),
        Err(error) => (parser.cursor.position(), error),
    };
    parser.cursor.seek(0);
    let data_type = parser.data_type();
    parser.skip_spaces();
    let as_type = match data_type {
        Ok(data_type) if parser.cursor.is_done() => return Ok(data_type),
        Ok(_) => (parser.cursor.position(), parser.bad("the end")),
        Err(error) => (parser.cursor.position(), error),
    };
    // the reading that came further is the one that was meant
    Err(if as_type.0 > as_columns.0 { as_type.1 } else { as_columns.1 })
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    text: &'a str,
}

impl Parser<'_> {
    fn bad(&self, expected: &str) -> Error {
        let (text, at) = (self.text, self.cursor.position() + 1);
        let example = "a INT, b STRING, c STRUCT<d: ARRAY<DOUBLE>>";
        Error::invalid_query(format!(
            "'{text}' is no schema: {expected} is missing at character {at}; write '{example}'"
        ))
    }

    fn skip_spaces(&mut self) {
        while self.cursor.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.cursor.seek(self.cursor.position() + 1);
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        self.cursor.eat(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.bad(&format!("'{}'", char::from(byte)))) }
    }

    /// Reads a name; one in backticks may hold anything.
    fn name(&mut self) -> Result<String> {
        self.skip_spaces();
        if self.cursor.eat(b'`') {
            let rest = self.cursor.rest();
            let Some(end) = rest.find('`') else {
                return Err(self.bad("a closing '`'"));
            };
            self.cursor.seek(self.cursor.position() + end + 1);
            return Ok(rest[..end].to_string());
        }
        let rest = self.cursor.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return Err(self.bad("a name"));
        }
        self.cursor.seek(self.cursor.position() + end);
        Ok(rest[..end].to_string())
    }

    /// Passes over `word` where it is the next word.
    fn eat_keyword(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let start = self.cursor.position();
        if self.name().is_ok_and(|name| name.eq_ignore_ascii_case(word)) {
            return true;
        }
        self.cursor.seek(start);
        false
    }

    /// Reads columns up to `end`, or up to the end of the text.
    fn columns(&mut self, end: Option<u8>) -> Result<Fields> {
        let mut columns = Vec::new();
        if let Some(end) = end
            && self.eat(end)
        {
            return Ok(Fields::empty());
        }
        loop {
            let name = self.name()?;
            self.eat(b':');
            let data_type = self.data_type()?;
            if self.eat_keyword("NOT") && !self.eat_keyword("NULL") {
                return Err(self.bad("NULL"));
            }
            if self.eat_keyword("COMMENT") {
                self.comment()?;
            }
            // JSON may leave any member out, whatever the schema promises
            columns.push(Field::new(name, data_type, true));
            if self.eat(b',') {
                continue;
            }
            self.skip_spaces();
            match end {
                Some(end) => self.expect(end)?,
                None if self.cursor.is_done() => {}
                None => return Err(self.bad("a comma")),
            }
            return Ok(columns.into());
        }
    }

    fn comment(&mut self) -> Result<()> {
        self.expect(b'\'')?;
        let Some(end) = self.cursor.rest().find('\'') else {
            return Err(self.bad("a closing quote"));
        };
        self.cursor.seek(self.cursor.position() + end + 1);
        Ok(())
    }

    fn data_type(&mut self) -> Result<DataType> {
        self.skip_spaces();
        let start = self.cursor.position();
        let name = self.name()?.to_lowercase();
        Ok(match name.as_str() {
            "boolean" => DataType::Boolean,
            "tinyint" | "byte" => DataType::Int8,
            "smallint" | "short" => DataType::Int16,
            "int" | "integer" => DataType::Int32,
            "bigint" | "long" => DataType::Int64,
            "float" | "real" => DataType::Float32,
            "double" => DataType::Float64,
            "string" => DataType::Utf8,
            "binary" => DataType::Binary,
            "date" => DataType::Date32,
            "timestamp" | "timestamp_ltz" | "timestamp_ntz" => TIMESTAMP,
            "varchar" | "char" | "character" => {
                self.numbers()?;
                DataType::Utf8
            }
            "decimal" | "dec" | "numeric" => self.decimal()?,
            "array" => {
                self.expect(b'<')?;
                let element = self.data_type()?;
                self.expect(b'>')?;
                list_of(element)
            }
            "map" => {
                self.expect(b'<')?;
                let key = self.data_type()?;
                self.expect(b',')?;
                let value = self.data_type()?;
                self.expect(b'>')?;
                map_of(key, value)
            }
            "struct" => {
                self.expect(b'<')?;
                DataType::Struct(self.columns(Some(b'>'))?)
            }
            _ => {
                self.cursor.seek(start);
                return Err(self.bad("a type"));
            }
        })
    }

    fn decimal(&mut self) -> Result<DataType> {
        let numbers = self.numbers()?;
        let precision = numbers.first().copied().unwrap_or(10);
        let scale = numbers.get(1).copied().unwrap_or(0);
        match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision as i8 => {
                Ok(DataType::Decimal128(precision, scale))
            }
            _ => Err(self.bad("a precision of at most 38 and a scale of at most that")),
        }
    }

    /// Reads numbers in parentheses, where there are any.
    fn numbers(&mut self) -> Result<Vec<i64>> {
        let mut numbers = Vec::new();
        if !self.eat(b'(') {
            return Ok(numbers);
        }
        loop {
            self.skip_spaces();
            let Some(number) = self.cursor.digits(1, 9) else {
                return Err(self.bad("a number"));
            };
            numbers.push(number);
            if !self.eat(b',') {
                self.expect(b')')?;
                return Ok(numbers);
            }
        }
    }
}

fn map_of(key: DataType, value: DataType) -> DataType {
    let entry = vec![Field::new("key", key, false), Field::new("value", value, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry.into()), false)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_read() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let table = [
            ("a INT", DataType::Struct(vec![field("a", DataType::Int32)].into())),
            (
                " `a b`: decimal(12, 2) NOT NULL COMMENT 'x', c timestamp ",
                DataType::Struct(vec![field("a b", DataType::Decimal128(12, 2)), field("c", TIMESTAMP)].into()),
            ),
            ("date date", DataType::Struct(vec![field("date", DataType::Date32)].into())),
            ("date", DataType::Date32),
            (
                "struct<a:bigint,b:array<struct<c string>>>",
                DataType::Struct(
                    vec![
                        field("a", DataType::Int64),
                        field("b", list_of(DataType::Struct(vec![field("c", DataType::Utf8)].into()))),
                    ]
                    .into(),
                ),
            ),
            ("map<string, int>", map_of(DataType::Utf8, DataType::Int32)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_schema(text).unwrap(), expected, "{text}");
        }
        let error = parse_schema("a INT, b STRNG").unwrap_err().to_string();
        assert!(error.contains("a type is missing at character 10"), "{error}");
        assert!(parse_schema("struct<a int").is_err());
        assert!(parse_schema("decimal(50)").is_err());
    }
}
