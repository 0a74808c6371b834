//! The types of columns: SQL's words → Arrow's types.
//!
//! TIMESTAMP is microseconds without a zone and STRING is `Utf8`, wherever a schema is declared. Nested types are read
//! here, since the SQL parser reads `MAP<…>` in one dialect only and the two `>` of `ARRAY<ARRAY<INT>>` as one token.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use datafusion::sql::sqlparser::ast::{self, ArrayElemTypeDef, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::script::{Parsed, SyntaxError, location};
use super::words::{found, is_word, name, normal, take_words, text};
use crate::error::{Error, Result};
use crate::options::nearest;

/// Names of types, for near misses.
const TYPE_NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "STRING",
    "VARCHAR",
    "CHAR",
    "TEXT",
    "BINARY",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMP_NTZ",
    "INTERVAL",
    "ARRAY",
    "STRUCT",
    "MAP",
];

/// Returns the Arrow type of a parsed SQL type.
///
/// # Errors
/// `InvalidQuery` where there is none: it names the near miss.
pub fn arrow_type(sql: &ast::DataType) -> Result<DataType> {
    use ast::DataType as Sql;
    Ok(match sql {
        Sql::Bool | Sql::Boolean => DataType::Boolean,
        Sql::TinyInt(_) => DataType::Int8,
        Sql::SmallInt(_) | Sql::Int2(_) | Sql::Int16 => DataType::Int16,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) | Sql::Int32 | Sql::MediumInt(_) => DataType::Int32,
        Sql::BigInt(_) | Sql::Int8(_) | Sql::Int64 => DataType::Int64,
        Sql::TinyIntUnsigned(_) | Sql::UTinyInt | Sql::UInt8 => DataType::UInt8,
        Sql::SmallIntUnsigned(_) | Sql::Int2Unsigned(_) | Sql::USmallInt | Sql::UInt16 => DataType::UInt16,
        Sql::IntUnsigned(_) | Sql::IntegerUnsigned(_) | Sql::Int4Unsigned(_) | Sql::UInt32 => DataType::UInt32,
        Sql::BigIntUnsigned(_) | Sql::Int8Unsigned(_) | Sql::UBigInt | Sql::UInt64 => DataType::UInt64,
        Sql::Float(_) | Sql::Real | Sql::Float4 | Sql::Float32 => DataType::Float32,
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float8 | Sql::Float64 => DataType::Float64,
        Sql::Decimal(info) | Sql::Dec(info) | Sql::Numeric(info) => decimal(info)?,
        Sql::String(_) | Sql::Text | Sql::Varchar(_) | Sql::Nvarchar(_) => DataType::Utf8,
        Sql::Char(_) | Sql::Character(_) | Sql::CharVarying(_) | Sql::CharacterVarying(_) => DataType::Utf8,
        Sql::Binary(_) | Sql::Varbinary(_) | Sql::Blob(_) | Sql::Bytea | Sql::Bytes(_) => DataType::Binary,
        Sql::Date | Sql::Date32 => DataType::Date32,
        Sql::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        Sql::Timestamp(..) | Sql::TimestampNtz(_) | Sql::Datetime(_) => {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        }
        Sql::Time(..) => DataType::Time64(TimeUnit::Microsecond),
        Sql::Interval { .. } => DataType::Interval(IntervalUnit::MonthDayNano),
        Sql::Array(
            ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::SquareBracket(element, _)
            | ArrayElemTypeDef::Parenthesis(element),
        ) => list(arrow_type(element)?),
        Sql::Map(key, value) => map(arrow_type(key)?, arrow_type(value)?),
        Sql::Struct(fields, _) => structure(fields)?,
        Sql::Custom(name, _) => named(&name.to_string())?,
        other => return Err(unknown(&other.to_string())),
    })
}

/// Reads a type off the tokens, nested ones included.
pub(super) fn read_data_type(parser: &mut Parser<'_>) -> Parsed<DataType> {
    let mut spare = false;
    let data_type = read(parser, &mut spare)?;
    if spare {
        return Err(SyntaxError::here(parser, "one '>' too many after the type"));
    }
    Ok(data_type)
}

/// Reads a type; `spare` tells that its last `>` came with a second one, which closes the type around it.
fn read(parser: &mut Parser<'_>, spare: &mut bool) -> Parsed<DataType> {
    let at = location(parser.peek_token_ref());
    let angle = parser.peek_nth_token_ref(1).token == Token::Lt;
    let word = parser.peek_token_ref().token.clone();
    if angle && is_word(&word, "ARRAY") {
        open(parser);
        let element = read(parser, spare)?;
        close(parser, spare)?;
        return Ok(list(element));
    }
    if angle && is_word(&word, "MAP") {
        open(parser);
        let key = read(parser, spare)?;
        if *spare || !parser.consume_token(&Token::Comma) {
            return Err(SyntaxError::here(parser, "a MAP has two types: write MAP<key, value>"));
        }
        let value = read(parser, spare)?;
        close(parser, spare)?;
        return Ok(map(key, value));
    }
    if angle && is_word(&word, "STRUCT") {
        open(parser);
        let mut fields = vec![field(parser, spare)?];
        while !*spare && parser.consume_token(&Token::Comma) {
            fields.push(field(parser, spare)?);
        }
        close(parser, spare)?;
        return Ok(DataType::Struct(fields.into()));
    }
    let sql = parser.parse_data_type()?;
    arrow_type(&sql).map_err(|e| SyntaxError::new(at, e.message()))
}

/// Reads a field of a STRUCT: `a INT` or `a: INT`.
fn field(parser: &mut Parser<'_>, spare: &mut bool) -> Parsed<Field> {
    let name = name(parser)?;
    let _ = parser.consume_token(&Token::Colon);
    let data_type = read(parser, spare)?;
    if *spare {
        return Ok(Field::new(name, data_type, true));
    }
    let nullable = !take_words(parser, &["NOT", "NULL"]);
    let field = Field::new(name, data_type, nullable);
    if take_words(parser, &["COMMENT"]) {
        let comment = text(parser, "the field's comment")?;
        return Ok(field.with_metadata([("comment".to_string(), comment)].into()));
    }
    Ok(field)
}

/// Takes the word and the `<` behind it.
fn open(parser: &mut Parser<'_>) {
    parser.advance_token();
    parser.advance_token();
}

/// Takes the `>` that closes a type.
fn close(parser: &mut Parser<'_>, spare: &mut bool) -> Parsed<()> {
    if *spare {
        *spare = false;
        return Ok(());
    }
    if parser.consume_token(&Token::ShiftRight) {
        *spare = true;
        return Ok(());
    }
    if parser.consume_token(&Token::Gt) {
        return Ok(());
    }
    Err(SyntaxError::here(parser, format!("expected '>' after the inner type, found {}", found(parser))))
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", element, true)))
}

fn map(key: DataType, value: DataType) -> DataType {
    let entry: Fields = vec![Field::new("key", key, false), Field::new("value", value, true)].into();
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
}

fn structure(fields: &[ast::StructField]) -> Result<DataType> {
    let fields: Result<Vec<Field>> = fields
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let name = f.field_name.as_ref().map_or_else(|| format!("c{i}"), normal);
            Ok(Field::new(name, arrow_type(&f.field_type)?, true))
        })
        .collect();
    Ok(DataType::Struct(fields?.into()))
}

/// DECIMAL without numbers is Spark's DECIMAL(10, 0).
fn decimal(info: &ExactNumberInfo) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && i64::from(p) >= scale => Ok(DataType::Decimal128(p, s)),
        _ => Err(Error::invalid_query(format!(
            "DECIMAL({precision}, {scale}) cannot be: the precision is 1 to 38 digits, the scale at most as many"
        ))),
    }
}

/// Types that Spark names and the SQL parser does not know.
fn named(name: &str) -> Result<DataType> {
    match name.to_uppercase().as_str() {
        "BYTE" => Ok(DataType::Int8),
        "SHORT" => Ok(DataType::Int16),
        "LONG" => Ok(DataType::Int64),
        "TIMESTAMP_LTZ" => Ok(DataType::Timestamp(TimeUnit::Microsecond, None)),
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &str) -> Error {
    let hint = match nearest(name, TYPE_NAMES) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("types are {}", TYPE_NAMES.join(", ")),
    };
    Error::invalid_query(format!("there is no type {name}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::super::script::{DIALECT, Piece};
    use super::*;

    fn parse(sql: &str) -> Parsed<DataType> {
        let tokens = Piece::new(sql).tokens().unwrap();
        read_data_type(&mut Parser::new(&DIALECT).with_tokens_with_locations(tokens))
    }

    #[test]
    fn words_become_arrow_types() {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (sql, expected) in [
            ("TIMESTAMP", timestamp.clone()),
            ("timestamp_ntz", timestamp.clone()),
            ("TIMESTAMP(6)", timestamp),
            ("TIMESTAMP WITH TIME ZONE", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            ("STRING", DataType::Utf8),
            ("VARCHAR(20)", DataType::Utf8),
            ("TEXT", DataType::Utf8),
            ("int", DataType::Int32),
            ("INTEGER", DataType::Int32),
            ("BIGINT", DataType::Int64),
            ("LONG", DataType::Int64),
            ("SMALLINT", DataType::Int16),
            ("TINYINT", DataType::Int8),
            ("DOUBLE", DataType::Float64),
            ("FLOAT", DataType::Float32),
            ("REAL", DataType::Float32),
            ("BOOLEAN", DataType::Boolean),
            ("DATE", DataType::Date32),
            ("BINARY", DataType::Binary),
            ("DECIMAL", DataType::Decimal128(10, 0)),
            ("DECIMAL(12, 2)", DataType::Decimal128(12, 2)),
            ("INT[]", list(DataType::Int32)),
            ("ARRAY<INT>", list(DataType::Int32)),
            ("ARRAY<ARRAY<ARRAY<INT>>>", list(list(list(DataType::Int32)))),
            ("MAP<STRING, ARRAY<INT>>", map(DataType::Utf8, list(DataType::Int32))),
        ] {
            assert_eq!(parse(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn structs_nest_with_or_without_colons() {
        let inner = DataType::Struct(vec![Field::new("c", DataType::Utf8, true)].into());
        let expected = DataType::Struct(
            vec![
                Field::new("a", DataType::Int32, false),
                Field::new("b", list(inner.clone()), true),
                Field::new("d", map(DataType::Utf8, inner), true),
            ]
            .into(),
        );
        let sql = "STRUCT<A INT NOT NULL, b: ARRAY<STRUCT<c: STRING>>, d MAP<STRING, STRUCT<c STRING>>>";
        assert_eq!(parse(sql).unwrap(), expected);
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for sql in ["TIMESTMP", "ARRAY<INT", "ARRAY<INT>>", "MAP<INT>", "MAP<ARRAY<INT>>", "DECIMAL(40, 2)", "("] {
            assert!(parse(sql).is_err(), "{sql}");
        }
        let error = arrow_type(&ast::DataType::Custom(vec![ast::Ident::new("TIMESTMP")].into(), vec![])).unwrap_err();
        assert!(error.message().contains("did you mean TIMESTAMP?"), "{error}");
    }
}
