//! Operators that a DataFrame or a function of SQL made get what only the analyzed plan knows: which columns are event
//! times, and so which rows are late and when something is forgotten.

use datafusion::logical_expr::LogicalPlan;

use super::event_column::{event_expr, first_event_column};
use super::nodes::{Forget, StatefulKind, StatefulNode, WatermarkNode, as_node};
use crate::error::{Error, Result};
use crate::operator::event_time::EventTime;
use crate::sink::OutputMode;

/// Completes an operator that a DataFrame or a function of SQL made, now that event times can be traced.
///
/// # Errors
/// `Unsupported` where the mode or the input's watermarks cannot serve it; the message says what would do.
pub fn complete(mut node: StatefulNode, mode: OutputMode) -> Result<StatefulNode> {
    let input = node.input();
    match &node.kind {
        StatefulKind::Deduplicate { within_watermark, .. } => {
            let late = first_event_column(input);
            let keyed = node.exprs.iter().enumerate().find_map(|(i, key)| Some((i, event_expr(input, key)?)));
            let forget = match (within_watermark, &late, keyed) {
                (true, Some((column, time)), _) => Forget::After(column.clone(), *time, delay_us(input).unwrap_or(0)),
                (true, None, _) => {
                    return Err(Error::unsupported(
                        "drop_duplicates_within_watermark is not supported without a watermark in any output mode: define one, \
                         or use drop_duplicates",
                    ));
                }
                (false, _, Some((index, time))) => Forget::Key(index, time),
                (false, _, None) => Forget::Never,
            };
            node.kind = StatefulKind::Deduplicate { within_watermark: *within_watermark, late, forget };
        }
        StatefulKind::FirstRow { .. } => {
            let (time, keys) = node.exprs.split_last().ok_or_else(|| Error::internal("a first row without time"))?;
            if event_expr(input, time) != Some(EventTime::Time { after_us: 0 }) {
                return Err(Error::unsupported(format!(
                    "ROW_NUMBER() over a stream must be ordered by the event time, and {time} has no watermark: define one on it"
                )));
            }
            if mode == OutputMode::Complete {
                return Err(Error::unsupported(
                    "ROW_NUMBER() … = 1 over a stream is not supported in complete mode; use append or update mode",
                ));
            }
            let event_key = keys.iter().enumerate().find_map(|(i, key)| Some((i, event_expr(input, key)?)));
            node.kind = StatefulKind::FirstRow { event_key };
        }
        StatefulKind::Asof { outer, strictly_earlier, .. } => {
            let times = &node.exprs[node.exprs.len() - 2..];
            for (time, input) in times.iter().zip(&node.inputs) {
                if event_expr(input, time) != Some(EventTime::Time { after_us: 0 }) {
                    return Err(Error::unsupported(format!(
                        "an ASOF join of streams compares their event times, and {time} has no watermark: define one on it"
                    )));
                }
            }
            if mode != OutputMode::Append {
                return Err(Error::unsupported(
                    "an ASOF join of streams is supported in append mode only: the nearest earlier row is final only once the \
                     watermark has passed",
                ));
            }
            let late = [first_event_column(&node.inputs[0]), first_event_column(&node.inputs[1])];
            node.kind = StatefulKind::Asof { outer: *outer, strictly_earlier: *strictly_earlier, late };
        }
        StatefulKind::User(user) => {
            let mut user = user.clone();
            user.late = first_event_column(input);
            user.processor.check(mode, user.late.is_some())?;
            node.kind = StatefulKind::User(user);
        }
        _ => {}
    }
    Ok(node)
}

/// The delay of the first watermark below.
fn delay_us(plan: &LogicalPlan) -> Option<i64> {
    match as_node::<WatermarkNode>(plan) {
        Some(node) => Some(node.delay_us),
        None => plan.inputs().into_iter().find_map(delay_us),
    }
}
