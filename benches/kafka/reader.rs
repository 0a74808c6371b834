//! Who reads, and what it takes them.

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::load::Load;
use crate::measure::measured;
use crate::query::{Answer, Output, Query, Question};
use crate::tally::Tally;
use crate::{Result, librdkafka};

/// A reader.
#[derive(Debug)]
pub struct Reader {
    /// Its name on the command line and in what is printed.
    pub name: &'static str,
    /// Millstream's query; `None` is librdkafka by itself.
    query: Option<Query>,
}

/// How many messages a batch reads where it is limited.
const LIMIT: Option<i64> = Some(1_000_000);

/// All readers, in the order of the table.
pub const READERS: &[Reader] = &[
    Reader { name: "librdkafka", query: None },
    reader("raw-count", Question::Messages, Output::Tally, None),
    reader("raw-values", Question::Values, Output::Tally, None),
    reader("json-windows", Question::Windows, Output::Tally, None),
    reader("json-windows-limited", Question::Windows, Output::Tally, LIMIT),
    reader("json-parquet", Question::Windows, Output::Parquet, None),
    reader("json-parquet-limited", Question::Windows, Output::Parquet, LIMIT),
];

const fn reader(name: &'static str, question: Question, output: Output, limit: Option<i64>) -> Reader {
    Reader { name, query: Some(Query { question, output, limit }) }
}

impl Reader {
    /// Returns whether it is librdkafka by itself.
    pub fn is_bare(&self) -> bool {
        self.query.is_none()
    }

    /// Reads all messages in this process, checks what came of them, and tells what it took.
    pub fn measure(&self, load: &Load) -> Result<Value> {
        let Some(query) = &self.query else {
            let (read, took) = measured(|| librdkafka::read(load));
            return checked(self, read?, (load.messages, load.bytes()), took);
        };
        let folder = TempDir::new()?;
        let (runtime, tally) = (Runtime::new()?, Arc::new(Tally::default()));
        let (stayed, took) = measured(|| runtime.block_on(query.run(load, &tally, folder.path())));
        let stayed = stayed?;
        let left = runtime.block_on(query.left(&tally, folder.path()))?;
        checked(self, Answer { left, stayed }, query.expected(load), took)
    }
}

fn checked<T: PartialEq + std::fmt::Debug>(reader: &Reader, found: T, expected: T, took: Value) -> Result<Value> {
    if found == expected {
        return Ok(took);
    }
    Err(format!("{}: {found:?} came of it, and not {expected:?}", reader.name).into())
}
