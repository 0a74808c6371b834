//! `millstream checkpoint inspect | copy | rewind`: a checkpoint seen, copied or taken back by hand.
//!
//! The work is done by [`crate::checkpoint`]; here are the words around it, and the one thing it cannot know: the
//! table that the query writes, whose manifest tells which batches are out.

use std::io::Write;
use std::sync::Arc;

use clap::Subcommand;

use crate::checkpoint::{CommitLog, copy, inspect, query_id, rewind};
use crate::error::{Error, Result};
use crate::storage::manifest::Manifest;
use crate::storage::{DurableStore, open_place};

/// What to do with a checkpoint.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Shows the query, its runs, its last batches and the files of its state, and whether all are whole; changes nothing.
    ///
    /// The rows of the state are a table: millstream sql "SELECT * FROM state('DIRECTORY')".
    Inspect {
        /// The checkpoint.
        directory: String,
    },
    /// Copies what the last committed batch needs to a new directory; stop the query first.
    Copy {
        /// The checkpoint.
        from: String,
        /// A directory that is empty or not there.
        to: String,
    },
    /// Forgets every batch after N, so that the query runs them again.
    Rewind {
        /// The checkpoint.
        directory: String,
        /// The last batch to keep.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
        to: i64,
        /// The table that the query writes: refuses where it holds later batches already. Needed where the table was
        /// moved, or where an early Millstream wrote the checkpoint elsewhere than in its table.
        #[arg(long, value_name = "DIR")]
        sink: Option<String>,
    },
}

/// Does it, and prints what came of it.
pub(super) async fn run(action: Action) -> Result<()> {
    match action {
        Action::Inspect { directory } => {
            let inspection = inspect(open_place(&directory)?).await?;
            say(&inspection.to_string())?;
            match inspection.damage.len() {
                0 => Ok(()),
                count => {
                    Err(Error::corrupt(format!("{directory}: {count} of its files are bad or missing, as said above")))
                }
            }
        }
        Action::Copy { from, to } => {
            copy(open_place(&from)?, open_place(&to)?).await?;
            say(&format!("copied {from} to {to}\n"))
        }
        Action::Rewind { directory, to, sink } => {
            let published = published(&directory, to, sink.as_deref()).await?;
            let forgotten = rewind(open_place(&directory)?, to, published).await?;
            if forgotten > 0 && published.is_none() {
                super::tell(&format!(
                    "note: no table was looked at (--sink), so rows of batches after {to} that are out already will \
                     come again"
                ));
            }
            say(&format!("rewound {directory} to batch {to}: committed batches to run again: {forgotten}\n"))
        }
    }
}

/// Returns the last batch of the checkpoint's query that its table holds, where a table is known.
async fn published(directory: &str, to: i64, sink: Option<&str>) -> Result<Option<i64>> {
    let recorded = written_table(open_place(directory)?, to).await?;
    let Some(table) = sink.or(recorded.as_deref()).or_else(|| enclosing_table(directory)) else {
        return Ok(None);
    };
    let query_id = query_id(open_place(directory)?.as_ref()).await?;
    let last = Manifest::new(open_place(table)?).last_batch(&query_id).await?;
    if last.is_none() && sink.is_some() {
        // A mistyped table must not pass for one that holds nothing yet.
        return Err(Error::invalid_option(format!(
            "'{table}' holds nothing of query {query_id}: name the table that it writes, or leave --sink out"
        )));
    }
    Ok(last)
}

/// The table of files that batch `batch_id` was written to, where its commit tells.
async fn written_table(store: Arc<dyn DurableStore>, batch_id: i64) -> Result<Option<String>> {
    let commit = CommitLog::new(store).get(batch_id).await?;
    let sink = commit.and_then(|commit| commit.sink_description);
    Ok(sink.and_then(|sink| Some(sink.strip_prefix("FileSink[")?.strip_suffix(']')?.to_string())))
}

/// The table of a checkpoint at its default place: `out/delays/_millstream/f` lies in `out/delays`.
fn enclosing_table(directory: &str) -> Option<&str> {
    let (folder, _) = directory.trim_end_matches('/').rsplit_once('/')?;
    if folder == "_millstream" {
        return Some(".");
    }
    folder.strip_suffix("/_millstream").filter(|table| !table.is_empty())
}

fn say(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::error::ErrorKind;

    async fn rewind_to_1(directory: &str, sink: Option<&str>) -> ErrorKind {
        let action = Action::Rewind { directory: directory.to_string(), to: 1, sink: sink.map(str::to_string) };
        run(action).await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn a_rewind_below_what_the_table_holds_is_refused() {
        let table = "memory://shell-rewind/table";
        for directory in ["memory://shell-rewind/checkpoint", "memory://shell-rewind/table/_millstream/f"] {
            let checkpoint = Checkpoint::open(open_place(directory).unwrap()).await.unwrap();
            let manifest = Manifest::new(open_place(table).unwrap());
            manifest.add(checkpoint.query_id(), 3, vec![]).await.unwrap();
        }
        let refused = ErrorKind::CheckpointIncompatible;
        assert_eq!(rewind_to_1("memory://shell-rewind/checkpoint", Some(table)).await, refused);
        assert_eq!(rewind_to_1("memory://shell-rewind/table/_millstream/f/", None).await, refused);
        let mistyped = rewind_to_1("memory://shell-rewind/checkpoint", Some("memory://shell-rewind/tabel")).await;
        assert_eq!(mistyped, ErrorKind::InvalidOption);
    }

    #[test]
    fn a_checkpoint_at_its_default_place_knows_its_table() {
        assert_eq!(enclosing_table("out/delays/_millstream/f/"), Some("out/delays"));
        assert_eq!(enclosing_table("_millstream/f"), Some("."));
        assert_eq!(enclosing_table("out/my_millstream/f"), None);
        assert_eq!(enclosing_table("f"), None);
    }
}
