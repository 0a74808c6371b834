//! What the engine knows of each stateful operator, and how the watermark goes through a chain of them.
//!
//! Every operator runs with a watermark of its own: that of the query, or what the operators below hand on. An aggregate
//! and a deduplication hand on what they got; a join hands on less, by the range within which its rows may meet. As
//! Spark's WatermarkPropagator does it.

use datafusion::logical_expr::LogicalPlan;
use serde_json::Value;

use super::nodes::{SideExpiry, StatefulKind, StatefulNode, WatermarkNode, as_node, as_stateful};

/// A stateful operator of a query.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorPlan {
    /// What its state means.
    pub fingerprint: Value,
    /// Whether a batch without data is worth running for it when the watermark moved.
    pub wants_no_data: bool,
    /// What Spark calls it in progress reports.
    pub name: &'static str,
    /// What its state holds until the watermark has come so far, for messages: `window ending`, …
    pub holds: &'static str,
    /// How the watermark goes through it.
    pub flow: WatermarkFlow,
}

/// Which watermark an operator runs with, and which it hands on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatermarkFlow {
    /// Where its watermark comes from: the least of these. None where it has none.
    pub inputs: Vec<WatermarkInput>,
    /// By how much the watermark it hands on lies behind its own, in microseconds: the greatest of these, or zero.
    pub lowered_us: Vec<i64>,
}

/// Where a watermark comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatermarkInput {
    /// The query's own.
    Query,
    /// What an operator hands on.
    Operator(usize),
}

impl WatermarkFlow {
    /// Returns how the watermark goes through `node`.
    pub fn of(node: &StatefulNode) -> Self {
        let mut inputs = Vec::new();
        node.inputs.iter().for_each(|input| watermark_inputs(input, &mut inputs));
        let lowered_us = match &node.kind {
            StatefulKind::Join { sides, .. } => sides
                .iter()
                .filter_map(|side| match &side.expiry {
                    SideExpiry::Never => None,
                    SideExpiry::Key(..) => Some(0),
                    SideExpiry::Column { after_us, .. } => Some(*after_us),
                })
                .collect(),
            _ => Vec::new(),
        };
        Self { inputs, lowered_us }
    }
}

fn watermark_inputs(plan: &LogicalPlan, inputs: &mut Vec<WatermarkInput>) {
    if let Some(operator) = as_stateful(plan).and_then(|node| node.operator) {
        inputs.push(WatermarkInput::Operator(operator));
    } else if as_node::<WatermarkNode>(plan).is_some() {
        inputs.push(WatermarkInput::Query);
    } else {
        plan.inputs().into_iter().for_each(|input| watermark_inputs(input, inputs));
    }
}

/// Returns the watermark that each operator runs with in a batch that runs with `query_ms`, in microseconds; `None`:
/// none yet.
pub fn operator_watermarks(operators: &[OperatorPlan], query_ms: i64) -> Vec<Option<i64>> {
    let query_us = (query_ms > 0).then(|| query_ms.saturating_mul(1000));
    let (mut own, mut handed_on): (Vec<Option<i64>>, Vec<Option<i64>>) = (Vec::new(), Vec::new());
    for operator in operators {
        let inputs = operator.flow.inputs.iter().map(|input| match input {
            WatermarkInput::Query => query_us,
            WatermarkInput::Operator(id) => handed_on.get(*id).copied().flatten(),
        });
        let watermark = inputs.reduce(|a, b| a.min(b)).flatten();
        let lowered = operator.flow.lowered_us.iter().copied().fold(0, i64::max);
        own.push(watermark);
        handed_on.push(watermark.map(|us| us.saturating_sub(lowered)));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(inputs: &[WatermarkInput], lowered_us: &[i64]) -> OperatorPlan {
        let flow = WatermarkFlow { inputs: inputs.to_vec(), lowered_us: lowered_us.to_vec() };
        OperatorPlan { fingerprint: Value::Null, wants_no_data: true, name: "x", holds: "x", flow }
    }

    #[test]
    fn a_join_hands_on_less_than_it_got() {
        use WatermarkInput::{Operator, Query};
        let chain = [operator(&[Query, Query], &[10_001_000, 1_000]), operator(&[Operator(0), Query], &[])];
        assert_eq!(operator_watermarks(&chain, 20_000), [Some(20_000_000), Some(9_999_000)]);
        assert_eq!(operator_watermarks(&chain, 0), [None, None], "before there is one nothing is handed on");
        assert_eq!(operator_watermarks(&[operator(&[], &[])], 20_000), [None]);
    }
}
