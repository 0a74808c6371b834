//! Copying a checkpoint and going back in one: `millstream checkpoint copy` and `rewind`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::commit_log::CommitLog;
use super::layout::{self, COMMITS, METADATA, OFFSETS, RUNS, STATE};
use super::metadata;
use super::offset_log::OffsetLog;
use super::runs::Run;
use crate::error::{Error, Result};
use crate::state::read_verified;
use crate::storage::{DurableStore, decode_checked, file_path};

/// Copies what the last committed batch needs from one checkpoint to an empty directory; the query keeps its id.
///
/// The metadata is copied last: a copy that was interrupted is no checkpoint. The source is not changed and takes no
/// run; copy from a query that is stopped, since a running one may prune what is being read.
///
/// # Errors
/// `Unavailable` where `from` holds no checkpoint, `Unsupported` where no batch is committed yet,
/// `CheckpointIncompatible` where `to` is not empty, `CheckpointCorrupt` where a file is missing or altered.
pub async fn copy(from: Arc<dyn DurableStore>, to: Arc<dyn DurableStore>) -> Result<()> {
    metadata::existing(from.as_ref()).await?;
    for folder in ["", RUNS, OFFSETS, COMMITS] {
        if !to.list(folder).await?.is_empty() {
            return Err(Error::incompatible(format!(
                "{} is not empty; copy a checkpoint to a new directory",
                to.location()
            )));
        }
    }
    let Some(commit) = CommitLog::new(Arc::clone(&from)).latest().await? else {
        return Err(Error::unsupported(format!(
            "{}: no batch is committed yet, so there is nothing to copy; start with a new checkpoint instead",
            from.location()
        )));
    };
    let state = from.below(STATE);
    for file in commit.state.iter().flat_map(|operator| &operator.files) {
        let bytes = read_verified(state.as_ref(), file).await?;
        put(to.as_ref(), &format!("{STATE}/{}", file.name), bytes).await?;
    }
    // Sources find in the offsets of all retained batches what they have read.
    let offsets = OffsetLog::new(Arc::clone(&from)).entries_up_to(commit.batch_id).await?;
    let names: BTreeSet<&str> = offsets.iter().flat_map(|entry| &entry.sources).map(|s| s.name.as_str()).collect();
    for folder in names.into_iter().map(layout::journal) {
        for name in from.list(&folder).await? {
            copy_file(from.as_ref(), to.as_ref(), &format!("{folder}/{name}"), false).await?;
        }
    }
    for entry in &offsets {
        copy_file(from.as_ref(), to.as_ref(), &format!("{OFFSETS}/{}", entry.batch_id), true).await?;
    }
    copy_file(from.as_ref(), to.as_ref(), &format!("{COMMITS}/{}", commit.batch_id), true).await?;
    copy_file(from.as_ref(), to.as_ref(), METADATA, true).await
}

/// Forgets every batch after `to_batch`, so that the query runs them again, and returns how many committed ones that
/// were. Takes a run: a process that is running the query ends with `Fenced`.
///
/// `sink_last_batch` is the last batch that the sink holds of this query, where it can tell: batches that are out
/// cannot be run again, or readers would see their rows twice.
///
/// # Errors
/// `CheckpointIncompatible` where the sink holds later batches; `InvalidOption` where the batch is not retained;
/// `CheckpointCorrupt` where its state is missing or altered.
pub async fn rewind(store: Arc<dyn DurableStore>, to_batch: i64, sink_last_batch: Option<i64>) -> Result<usize> {
    metadata::existing(store.as_ref()).await?;
    if let Some(published) = sink_last_batch.filter(|published| *published > to_batch) {
        return Err(Error::incompatible(format!(
            "{}: the sink holds batch {published}, and running it again would write its rows twice; rewind to \
             {published} or later, or write to a new table with a new checkpoint",
            store.location()
        )));
    }
    let commit_log = CommitLog::new(Arc::clone(&store));
    let offset_log = OffsetLog::new(Arc::clone(&store));
    let committed = commit_log.batch_ids().await?;
    let (Some(commit), Some(_)) = (commit_log.get(to_batch).await?, offset_log.get(to_batch).await?) else {
        return Err(Error::invalid_option(match (committed.first(), committed.last()) {
            (Some(first), Some(last)) => {
                format!("batch {to_batch} is not retained in {}: batches {first} to {last} are", store.location())
            }
            _ => format!("batch {to_batch} is not retained in {}: no batch is committed", store.location()),
        }));
    };
    let state = store.below(STATE);
    for file in commit.state.iter().flat_map(|operator| &operator.files) {
        read_verified(state.as_ref(), file).await?;
    }
    // What may be torn is what is to be forgotten, so the logs are not asked for runs.
    Run::take(Arc::clone(&store), commit.run).await?;
    // From the newest down, the commit before its offsets: stopped anywhere in between, the logs are whole.
    let mut later: Vec<i64> = offset_log.batch_ids().await?;
    later.extend(&committed);
    later.retain(|id| *id > to_batch);
    later.sort_unstable();
    later.dedup();
    for id in later.into_iter().rev() {
        commit_log.delete(id).await?;
        offset_log.delete(id).await?;
    }
    Ok(committed.iter().filter(|id| **id > to_batch).count())
}

/// Copies a file as it is; one with an envelope is checked on the way.
async fn copy_file(from: &dyn DurableStore, to: &dyn DurableStore, name: &str, checked: bool) -> Result<()> {
    let path = file_path(from, name);
    let Some(bytes) = from.read(name).await? else {
        return Err(Error::corrupt(format!("{path} is missing now; copy from a query that is stopped")));
    };
    if checked {
        decode_checked(&path, bytes.clone())?;
    }
    put(to, name, bytes).await
}

async fn put(to: &dyn DurableStore, name: &str, bytes: bytes::Bytes) -> Result<()> {
    if to.create(name, bytes).await? {
        return Ok(());
    }
    Err(Error::incompatible(format!("{} is there already; copy a checkpoint to a new directory", file_path(to, name))))
}
