//! Stream relations: what `STREAM t WITH (…) IDENTIFIED BY n WATERMARK … DELAY OF …` says, as the planner meets it.
//!
//! The SQL parser has no place for such a relation, so before parsing it becomes a call of an internal table function
//! ([`STREAM_FUNCTION`]) whose arguments hold every clause. The planner of relations gives those arguments to
//! [`decode_stream_relation`] and has the relation back. Nobody writes the function by hand.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, ObjectName, Query, Value, ValueWithSpan};
use datafusion::sql::sqlparser::parser::Parser;

use super::script::DIALECT;
use crate::error::{Error, Result};
use crate::interval::duration_us;
use crate::options::Options;

/// The table function that stands for a stream relation.
pub const STREAM_FUNCTION: &str = "__millstream_stream";

/// The table function that stands for a table which is looked up as it is now: `t FOR SYSTEM_TIME AS OF PROCTIME()`.
pub const LOOKUP_FUNCTION: &str = "__millstream_lookup";

/// A relation that is read as a stream, or that has a watermark.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRelation {
    /// What is read.
    pub source: StreamSource,
    /// What stands in WITH (…).
    pub options: Options,
    /// The source's name in the checkpoint, from IDENTIFIED BY.
    pub identified_by: Option<String>,
    /// The watermark, from WATERMARK … DELAY OF ….
    pub watermark: Option<RelationWatermark>,
    /// Whether the word STREAM was written; without it the relation is a stream only if its table is one.
    pub stream_word: bool,
}

/// What a stream relation reads.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamSource {
    /// A table or view.
    Name(ObjectName),
    /// A sub-query, or a table function as `SELECT * FROM f(…)`.
    Query(Box<Query>),
}

/// The watermark of a relation.
#[derive(Debug, Clone, PartialEq)]
pub struct RelationWatermark {
    /// The event time: a column, or an expression that `alias` names.
    pub expr: Expr,
    /// The name of the column that the expression adds.
    pub alias: Option<String>,
    /// How late a row may be.
    pub delay_us: i64,
}

/// Reads a stream relation back from the arguments of [`STREAM_FUNCTION`].
///
/// # Errors
/// `InvalidQuery` where the arguments are not those that the rewrite of stream relations makes.
pub fn decode_stream_relation(args: &[FunctionArg]) -> Result<StreamRelation> {
    let exprs: Option<Vec<&Expr>> = args.iter().map(unnamed).collect();
    let Some([source, options, identified_by, expr, alias, delay, stream_word]) = exprs.as_deref() else {
        return Err(by_hand());
    };
    let source = match source {
        Expr::Subquery(query) => StreamSource::Query(query.clone()),
        name => StreamSource::Name(object_name(text(name)?)?),
    };
    let options: BTreeMap<String, String> = serde_json::from_str(text(options)?)?;
    let watermark = match text(delay)? {
        "" => None,
        delay => {
            Some(RelationWatermark { expr: (*expr).clone(), alias: given(text(alias)?), delay_us: duration_us(delay)? })
        }
    };
    let stream_word = match value(stream_word) {
        Some(Value::Boolean(word)) => *word,
        _ => return Err(by_hand()),
    };
    Ok(StreamRelation {
        source,
        options: options.into_iter().collect(),
        identified_by: given(text(identified_by)?),
        watermark,
        stream_word,
    })
}

fn unnamed(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn value(expr: &Expr) -> Option<&Value> {
    match expr {
        Expr::Value(ValueWithSpan { value, .. }) => Some(value),
        _ => None,
    }
}

fn text(expr: &Expr) -> Result<&str> {
    match value(expr) {
        Some(Value::SingleQuotedString(text)) => Ok(text),
        _ => Err(by_hand()),
    }
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

fn object_name(text: &str) -> Result<ObjectName> {
    Parser::new(&DIALECT)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_object_name(false))
        .map_err(|e| Error::invalid_query(format!("'{text}' is not the name of a table: {e}")))
}

fn by_hand() -> Error {
    Error::invalid_query(format!("{STREAM_FUNCTION} is not called by hand: write FROM STREAM <table>"))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::{TableFactor, Visit, Visitor};

    use super::super::relation_tokens::rewrite_relations;
    use super::super::script::Piece;
    use super::*;

    fn query(sql: &str) -> Box<Query> {
        let tokens = rewrite_relations(Piece::new(sql).tokens().unwrap()).unwrap();
        Parser::new(&DIALECT).with_tokens_with_locations(tokens).parse_query().unwrap()
    }

    /// The stream relations of a query, with their aliases.
    fn relations(sql: &str) -> Vec<(StreamRelation, Option<String>)> {
        struct Found(Vec<(StreamRelation, Option<String>)>);
        impl Visitor for Found {
            type Break = ();
            fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
                if let TableFactor::Table { args: Some(args), alias, .. } = factor {
                    let alias = alias.as_ref().map(|a| a.name.to_string());
                    self.0.push((decode_stream_relation(&args.args).unwrap(), alias));
                }
                ControlFlow::Continue(())
            }
        }
        let mut found = Found(vec![]);
        let _ = query(sql).visit(&mut found);
        found.0
    }

    #[test]
    fn every_clause_comes_back() {
        let sql = "SELECT * FROM STREAM cat.\"It's\" WITH ('maxFilesPerTrigger' = '1', k 'it''s') IDENTIFIED BY src1 \
                   WATERMARK f(v, 'x') AS Et DELAY OF INTERVAL '1' HOUR AS x";
        let (relation, alias) = relations(sql).remove(0);
        assert_eq!(relation.source, StreamSource::Name(object_name("cat.\"It's\"").unwrap()));
        assert_eq!(relation.options, [("maxFilesPerTrigger", "1"), ("k", "it's")].into_iter().collect());
        assert_eq!(relation.identified_by.as_deref(), Some("src1"));
        let watermark = relation.watermark.unwrap();
        assert_eq!(watermark.expr.to_string(), "f(v, 'x')");
        assert_eq!((watermark.alias.as_deref(), watermark.delay_us), (Some("et"), 3_600_000_000));
        assert!(relation.stream_word);
        assert_eq!(alias.as_deref(), Some("x"));
    }

    #[test]
    fn a_sub_query_with_a_watermark_comes_back() {
        let sql = "SELECT * FROM (SELECT * FROM s) WATERMARK ts DELAY OF INTERVAL 10 SECONDS AS y";
        let (relation, alias) = relations(sql).remove(0);
        assert_eq!(relation.source, StreamSource::Query(query("SELECT * FROM s")));
        assert_eq!(relation.watermark.unwrap().delay_us, 10_000_000);
        assert!(!relation.stream_word && relation.options.is_empty() && relation.identified_by.is_none());
        assert_eq!(alias.as_deref(), Some("y"));
    }

    #[test]
    fn a_call_by_hand_is_refused() {
        let arg = FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(Value::Null.into())));
        for args in [vec![], vec![arg.clone()], vec![arg; 7]] {
            let error = decode_stream_relation(&args).unwrap_err();
            assert!(error.to_string().contains("not called by hand"), "{error}");
        }
    }
}
