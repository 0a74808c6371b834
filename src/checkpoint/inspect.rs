//! What a checkpoint holds, and whether it is whole, for people: `millstream checkpoint inspect`. Reads only, and takes
//! no run.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};

use super::batch_log::{BatchLog, LogEntry};
use super::commit_log::{CommitLog, StateFiles};
use super::offset_log::{OffsetLog, SourceOffsets};
use super::{layout, metadata, runs};
use crate::error::{ErrorKind, Result};
use crate::state::read_verified;
use crate::storage::DurableStore;

/// How many batches are shown.
const SHOWN: usize = 10;

/// Offsets longer than this are cut in the text.
const LONGEST_OFFSET: usize = 120;

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Where the checkpoint is.
    pub location: String,
    /// The query's id.
    pub query_id: String,
    /// The numbers of the runs on record, oldest first.
    pub runs: Vec<u64>,
    /// The last ten batches, oldest first.
    pub batches: Vec<InspectedBatch>,
    /// The state after the last committed batch.
    pub state: Vec<StateFiles>,
    /// What is wrong with files that a start of the query would read; nothing where it is whole.
    pub damage: Vec<String>,
}

/// One batch in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct InspectedBatch {
    /// The batch.
    pub batch_id: i64,
    /// The run that planned it.
    pub run: u64,
    /// The watermark it ran with.
    pub watermark_ms: i64,
    /// Whether it is decided.
    pub committed: bool,
    /// What it read.
    pub sources: Vec<SourceOffsets>,
}

/// Returns the id of the query whose checkpoint is in `store`; reads no more than the metadata, so that it can be told
/// of a checkpoint with a bad log, too.
///
/// # Errors
/// As [`inspect`].
pub async fn query_id(store: &dyn DurableStore) -> Result<String> {
    Ok(metadata::existing(store).await?.id)
}

/// Reads what the checkpoint in `store` holds, every retained entry and the current state, and changes nothing.
///
/// # Errors
/// `Unavailable` where there is none; `CheckpointCorrupt` and `CheckpointIncompatible` where its metadata is bad. What
/// else is bad is in the answer.
pub async fn inspect(store: Arc<dyn DurableStore>) -> Result<Inspection> {
    let metadata = metadata::existing(store.as_ref()).await?;
    let offset_log = OffsetLog::new(Arc::clone(&store));
    let commit_log = CommitLog::new(Arc::clone(&store));
    let mut damage = Vec::new();
    damage.extend(layout::verify(store.as_ref()).await.err().map(|error| error.message().to_string()));
    let commits = readable(&commit_log, &mut damage).await?;
    let committed = commit_log.batch_ids().await?;
    let mut batches: Vec<InspectedBatch> = readable(&offset_log, &mut damage)
        .await?
        .into_iter()
        .map(|entry| InspectedBatch {
            batch_id: entry.batch_id,
            run: entry.run,
            watermark_ms: entry.watermark_ms,
            committed: committed.contains(&entry.batch_id),
            sources: entry.sources,
        })
        .collect();
    batches.drain(..batches.len().saturating_sub(SHOWN));
    let newest = commits.into_iter().next_back().map_or_else(Vec::new, |commit| commit.state);
    let files = store.below(layout::STATE);
    for file in newest.iter().flat_map(|operator| &operator.files) {
        damage.extend(read_verified(files.as_ref(), file).await.err().map(|error| error.message().to_string()));
    }
    Ok(Inspection {
        location: store.location(),
        query_id: metadata.id,
        runs: runs::runs(store.as_ref()).await?,
        batches,
        state: newest,
        damage,
    })
}

/// The entries that can be read; what is wrong with the others goes to `damage`.
async fn readable<E: LogEntry>(log: &BatchLog<E>, damage: &mut Vec<String>) -> Result<Vec<E>> {
    let mut entries = Vec::new();
    for id in log.batch_ids().await? {
        match log.get(id).await {
            // A running query may prune while we read.
            Ok(entry) => entries.extend(entry),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => damage.push(error.message().to_string()),
        }
    }
    Ok(entries)
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checkpoint  {}", self.location)?;
        writeln!(f, "query       {}", self.query_id)?;
        let runs: Vec<String> = self.runs.iter().map(u64::to_string).collect();
        writeln!(f, "runs        {}", if runs.is_empty() { "none".to_string() } else { runs.join(", ") })?;
        writeln!(f, "batches")?;
        for batch in &self.batches {
            let decided = if batch.committed { "committed" } else { "planned, not committed" };
            writeln!(f, "  {}: {decided}, run {}, watermark {}", batch.batch_id, batch.run, time(batch.watermark_ms))?;
            for source in &batch.sources {
                writeln!(f, "    {}: {} → {}", source.name, offset(&source.start), offset(&source.end))?;
            }
        }
        writeln!(f, "state")?;
        for operator in &self.state {
            let bytes: u64 = operator.files.iter().map(|file| file.length).sum();
            writeln!(f, "  operator {}: version {}, {bytes} bytes", operator.operator, operator.version)?;
            for file in &operator.files {
                writeln!(f, "    {}  {} bytes", file.name, file.length)?;
            }
        }
        if !self.damage.is_empty() {
            writeln!(f, "damage")?;
        }
        self.damage.iter().try_for_each(|found| writeln!(f, "  {found}"))
    }
}

fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .map_or_else(|| "none".to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn offset(offset: &Option<serde_json::Value>) -> String {
    let Some(offset) = offset else {
        return "-".to_string();
    };
    let text = offset.to_string();
    match text.char_indices().nth(LONGEST_OFFSET) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
