//! Reads text: one STRING column, a row for each line, empty ones included.

use super::LineDecoder;
use super::malformed::{Rows, Verdict};

/// Takes lines as they are.
pub(in crate::source) struct TextDecoder {
    /// Whether the lines themselves are wanted, not only their number.
    wanted: bool,
}

impl TextDecoder {
    /// Makes a decoder that fills the first column where it is `wanted`.
    pub(in crate::source) fn new(wanted: bool) -> Self {
        Self { wanted }
    }
}

impl LineDecoder for TextDecoder {
    fn decode(&mut self, line: &str, rows: &mut Rows) -> Verdict {
        if let Some(column) = rows.columns.first_mut().filter(|_| self.wanted) {
            column.push_text(line);
        }
        Verdict::Row
    }

    fn skips(&self, _line: &str) -> bool {
        false
    }
}
