//! Calls of functions in a parsed query: read as relations of FROM, and made where one expression becomes another.
//!
//! The parser gives a table function in one of three forms; whoever plans or rewrites one asks here.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
    TableAlias, TableFactor, Value,
};

/// A call of a table function where a relation stands.
#[derive(Debug, Clone)]
pub(super) struct TableCall {
    /// The function's name, in small letters.
    pub(super) name: String,
    pub(super) args: Vec<FunctionArg>,
    pub(super) alias: Option<TableAlias>,
}

impl TableCall {
    /// Reads a relation that is a call, in any of the forms in which the parser gives it.
    pub(super) fn of(relation: &TableFactor) -> Option<Self> {
        let (name, args, alias) = match relation {
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
            TableFactor::Function { name, args, alias, .. } => (name, args, alias),
            TableFactor::TableFunction { expr: Expr::Function(function), alias } => match &function.args {
                FunctionArguments::List(list) => (&function.name, &list.args, alias),
                _ => return None,
            },
            _ => return None,
        };
        Some(Self { name: name.to_string().to_lowercase(), args: args.clone(), alias: alias.clone() })
    }

    /// Returns the arguments, by their places, or nothing where one is none of an expression.
    pub(super) fn exprs(&self) -> Option<Vec<Expr>> {
        self.args.iter().map(argument).collect()
    }
}

fn argument(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. } => Some(expr.clone()),
        _ => None,
    }
}

/// Returns the arguments where `expr` is a call of the function `name`.
pub(super) fn call_of(expr: &Expr, name: &str) -> Option<Vec<Expr>> {
    let Expr::Function(function) = expr else {
        return None;
    };
    match &function.args {
        FunctionArguments::List(list) if function.name.to_string().eq_ignore_ascii_case(name) => {
            list.args.iter().map(argument).collect()
        }
        _ => None,
    }
}

/// Returns what `DESCRIPTOR(a, b)`, Flink's way to name columns, names; any other expression stands for itself.
pub(super) fn described(expr: &Expr) -> Vec<Expr> {
    call_of(expr, "descriptor").unwrap_or_else(|| vec![expr.clone()])
}

/// Makes `name(args)`.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Makes `get_field(value, 'field')`.
pub(super) fn get_field(value: &Expr, field: &str) -> Expr {
    let field = Expr::Value(Value::SingleQuotedString(field.to_string()).into());
    call("get_field", vec![value.clone(), field])
}
