//! `state()`, `state_metadata()` and `state_changes()`: relations that show what a query remembers.
//!
//! Their columns are only known when the checkpoint was read, and planning cannot wait for that. So the calls of a query
//! are found first ([`state_calls`]); whoever can read checkpoints makes a table of each, and the planner finds it there
//! ([`StateRelations`]).

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::{Result as PlanResult, TableReference};
use datafusion::datasource::{TableProvider, provider_as_source};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Query, TableFactor, Value, ValueWithSpan, Visit, Visitor,
};

use super::call::TableCall;
use crate::error::{Error, Result};
use crate::options::nearest;

/// A call of one of the functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateCall {
    /// A checkpoint's directory, or the name of a flow.
    pub path: String,
    /// The operator; only one that is not the only one must be given.
    pub operator: Option<usize>,
    /// The operator's store; likewise.
    pub store: Option<String>,
    /// What is asked for.
    pub what: StateQuestion,
}

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateQuestion {
    /// The rows after a batch, or after the last one.
    Rows {
        /// The batch.
        batch_id: Option<i64>,
    },
    /// Which operators and stores there are.
    Metadata,
    /// What batches changed.
    Changes {
        /// The first.
        from_batch: i64,
        /// The last.
        to_batch: i64,
    },
}

/// How a function is called.
struct Signature {
    name: &'static str,
    /// In their order; each may be named.
    parameters: &'static [&'static str],
    usage: &'static str,
}

const STATE: Signature = Signature {
    name: "state",
    parameters: &["path", "operator", "batch_id", "store"],
    usage: "state('checkpoint or flow' [, operator [, batch_id [, store]]])",
};
const METADATA: Signature =
    Signature { name: "state_metadata", parameters: &["path"], usage: "state_metadata('checkpoint or flow')" };
const CHANGES: Signature = Signature {
    name: "state_changes",
    parameters: &["path", "from_batch", "to_batch", "operator", "store"],
    usage: "state_changes('checkpoint or flow', from_batch, to_batch [, operator [, store]])",
};

impl StateCall {
    /// Reads the call that a relation is; `None` where it is something else.
    pub fn of(relation: &TableFactor) -> Option<Result<Self>> {
        let call = TableCall::of(relation)?;
        let signature = [STATE, METADATA, CHANGES].into_iter().find(|signature| signature.name == call.name)?;
        Some(Self::read(&signature, &call.args))
    }

    /// Returns the name of the function that it calls.
    pub fn name(&self) -> &'static str {
        match self.what {
            StateQuestion::Rows { .. } => STATE.name,
            StateQuestion::Metadata => METADATA.name,
            StateQuestion::Changes { .. } => CHANGES.name,
        }
    }

    fn read(signature: &Signature, args: &[FunctionArg]) -> Result<Self> {
        let arguments = Arguments::read(signature, args)?;
        let what = match signature.name {
            name if name == METADATA.name => StateQuestion::Metadata,
            name if name == CHANGES.name => StateQuestion::Changes {
                from_batch: arguments.number("from_batch")?.ok_or_else(|| signature.wrong())?,
                to_batch: arguments.number("to_batch")?.ok_or_else(|| signature.wrong())?,
            },
            _ => StateQuestion::Rows { batch_id: arguments.number("batch_id")? },
        };
        Ok(Self {
            path: arguments.text("path")?.ok_or_else(|| signature.wrong())?,
            operator: arguments.number("operator")?,
            store: arguments.text("store")?,
            what,
        })
    }
}

impl Signature {
    fn wrong(&self) -> Error {
        Error::invalid_query(format!("{}() is called as {}", self.name, self.usage))
    }

    /// Finds the parameter that an argument names.
    fn parameter(&self, name: &str) -> Result<&'static str> {
        if let Some(known) = self.parameters.iter().copied().find(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(known);
        }
        let hint = match nearest(name, self.parameters) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("it is called as {}", self.usage),
        };
        Err(Error::invalid_query(format!("{}() has no argument '{name}'; {hint}", self.name)))
    }
}

/// The arguments of a call, by the names of parameters. NULL is the same as none.
struct Arguments<'a> {
    signature: &'a Signature,
    given: Vec<(&'static str, &'a Value)>,
}

impl<'a> Arguments<'a> {
    fn read(signature: &'a Signature, args: &'a [FunctionArg]) -> Result<Self> {
        let mut given: Vec<(&'static str, &'a Value)> = Vec::new();
        for (place, arg) in args.iter().enumerate() {
            let (parameter, expr) = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                    (*signature.parameters.get(place).ok_or_else(|| signature.wrong())?, expr)
                }
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                    (signature.parameter(&name.value)?, expr)
                }
                _ => return Err(signature.wrong()),
            };
            let Expr::Value(ValueWithSpan { value, .. }) = expr else {
                return Err(Error::invalid_query(format!(
                    "{}(): {parameter} is '{expr}', and must be written out: a text or a whole number",
                    signature.name
                )));
            };
            if given.iter().any(|(other, _)| *other == parameter) {
                return Err(Error::invalid_query(format!("{}(): {parameter} is given twice", signature.name)));
            }
            given.push((parameter, value));
        }
        given.retain(|(_, value)| **value != Value::Null);
        Ok(Self { signature, given })
    }

    fn value(&self, parameter: &str) -> Option<&'a Value> {
        self.given.iter().find(|(name, _)| *name == parameter).map(|(_, value)| *value)
    }

    fn text(&self, parameter: &str) -> Result<Option<String>> {
        match self.value(parameter) {
            None => Ok(None),
            Some(Value::SingleQuotedString(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.not(parameter, other, "a text in quotes")),
        }
    }

    fn number<N: std::str::FromStr>(&self, parameter: &str) -> Result<Option<N>> {
        match self.value(parameter) {
            None => Ok(None),
            Some(value) => {
                let number = match value {
                    Value::Number(digits, _) => digits.parse().ok(),
                    _ => None,
                };
                number.map(Some).ok_or_else(|| self.not(parameter, value, "a whole number"))
            }
        }
    }

    fn not(&self, parameter: &str, value: &Value, expected: &str) -> Error {
        Error::invalid_query(format!("{}(): {parameter} is {value}, expected {expected}", self.signature.name))
    }
}

/// Returns the calls in a query, wherever they stand.
///
/// # Errors
/// `InvalidQuery` where one has wrong arguments.
pub fn state_calls(query: &Query) -> Result<Vec<StateCall>> {
    struct Found(Vec<StateCall>);
    impl Visitor for Found {
        type Break = Box<Error>;

        fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<Box<Error>> {
            match StateCall::of(relation) {
                Some(Ok(call)) if !self.0.contains(&call) => self.0.push(call),
                Some(Err(error)) => return ControlFlow::Break(Box::new(error)),
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let mut found = Found(Vec::new());
    match query.visit(&mut found) {
        ControlFlow::Break(error) => Err(*error),
        ControlFlow::Continue(()) => Ok(found.0),
    }
}

/// Plans the calls for which there is a table; leaves every other relation to others.
#[derive(Debug)]
pub struct StateRelations {
    tables: Vec<(StateCall, Arc<dyn TableProvider>)>,
}

impl StateRelations {
    /// Makes the planner of these calls.
    pub fn new(tables: Vec<(StateCall, Arc<dyn TableProvider>)>) -> Self {
        Self { tables }
    }
}

impl RelationPlanner for StateRelations {
    fn plan_relation(&self, relation: TableFactor, _: &mut dyn RelationPlannerContext) -> PlanResult<RelationPlanning> {
        let call = StateCall::of(&relation).transpose()?;
        let table = call.and_then(|call| self.tables.iter().find(|(known, _)| *known == call));
        let (Some((call, table)), Some(TableCall { alias, .. })) = (table, TableCall::of(&relation)) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let table = provider_as_source(Arc::clone(table));
        let plan = LogicalPlanBuilder::scan(TableReference::bare(call.name()), table, None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::parse_query;
    use super::*;

    fn calls(sql: &str) -> Result<Vec<StateCall>> {
        state_calls(&parse_query(sql).unwrap())
    }

    fn rows(operator: Option<usize>, batch_id: Option<i64>, store: Option<&str>) -> StateCall {
        let store = store.map(str::to_string);
        StateCall { path: "f".to_string(), operator, store, what: StateQuestion::Rows { batch_id } }
    }

    #[test]
    fn arguments_stand_in_order_or_are_named() {
        let changes = StateQuestion::Changes { from_batch: 3, to_batch: 5 };
        for (relation, expected) in [
            ("state('f')", rows(None, None, None)),
            ("State('f', 1, 7) AS s", rows(Some(1), Some(7), None)),
            ("state('f', NULL, 7)", rows(None, Some(7), None)),
            ("state('f', 0, NULL, 'left')", rows(Some(0), None, Some("left"))),
            ("state(store => 'left', path => 'f', BATCH_ID => 2, operator => 1)", rows(Some(1), Some(2), Some("left"))),
            ("TABLE(state('f'))", rows(None, None, None)),
            ("state_metadata('f')", StateCall { what: StateQuestion::Metadata, ..rows(None, None, None) }),
            ("state_changes('f', 3, 5, store => 'n')", StateCall { what: changes, ..rows(None, None, Some("n")) }),
        ] {
            assert_eq!(calls(&format!("SELECT * FROM {relation}")).unwrap(), [expected], "{relation}");
        }
    }

    #[test]
    fn calls_are_found_wherever_they_stand() {
        let sql = "WITH s AS (SELECT * FROM state('f')) SELECT * FROM s JOIN state('f', 1) AS t ON s.lane = t.lane \
                   WHERE EXISTS (SELECT 1 FROM state('f', 2)) UNION ALL SELECT * FROM state('f')";
        let mut found: Vec<_> = calls(sql).unwrap().into_iter().map(|call| call.operator).collect();
        found.sort_unstable();
        assert_eq!(found, [None, Some(1), Some(2)]);
        assert!(calls("SELECT state FROM state, other('f')").unwrap().is_empty());
    }

    #[test]
    fn wrong_arguments_are_told() {
        for (relation, words) in [
            ("state()", "state() is called as state('checkpoint or flow'"),
            ("state('f', 1, 2, 'left', 5)", "is called as"),
            ("state('f', stor => 'left')", "did you mean store?"),
            ("state('f', 1, operator => 2)", "operator is given twice"),
            ("state('f', 'left')", "operator is 'left', expected a whole number"),
            ("state('f', -1)", "operator is '-1', and must be written out"),
            ("state('f', 1.5)", "operator is 1.5, expected a whole number"),
            ("state(17)", "path is 17, expected a text in quotes"),
            ("state_changes('f', 3)", "state_changes() is called as"),
            ("state_metadata(lower('F'))", "path is 'lower('F')'"),
        ] {
            let error = calls(&format!("SELECT * FROM {relation}")).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::InvalidQuery, "{relation}: {error}");
            assert!(error.message().contains(words), "{relation}: {error}");
        }
    }
}
