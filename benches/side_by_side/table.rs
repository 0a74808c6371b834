//! The table at the end, in Markdown.

use std::fmt;

const HEAD: [&str; 6] = ["work", "Millstream", "peer", "ratio", "to reach", "peak memory"];

/// A line of the table; what does not apply is left empty.
#[derive(Debug, Default)]
pub struct Line {
    pub work: String,
    pub millstream: String,
    pub peer: String,
    pub ratio: String,
    pub goal: String,
    pub memory: String,
}

/// All lines so far.
#[derive(Debug, Default)]
pub struct Table(Vec<Line>);

impl Table {
    /// Adds lines below.
    pub fn extend(&mut self, lines: Vec<Line>) {
        self.0.extend(lines);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", HEAD.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(HEAD.len()))?;
        for Line { work, millstream, peer, ratio, goal, memory } in &self.0 {
            writeln!(f, "| {work} | {millstream} | {peer} | {ratio} | {goal} | {memory} |")?;
        }
        Ok(())
    }
}

/// Writes a number of rows, or of rows in a second, in millions.
pub fn millions(number: f64) -> String {
    format!("{:.2} M", number / 1e6)
}
