//! What is no longer needed goes: old log entries, state files no retained commit lists, and what undecided batches of
//! earlier runs left. Never below what recovery needs.

use std::collections::BTreeSet;

use super::execution::Execution;
use crate::checkpoint::{Checkpoint, CommitEntry};
use crate::error::Result;

/// Purging looks at folders, so it is done once in so many batches.
const EVERY: i64 = 10;

impl Execution {
    /// Purges after batch `batch_id`. Best effort: what cannot be removed now is removed later.
    pub(super) async fn purge(&self, batch_id: i64) {
        let oldest = batch_id + 1 - i64::try_from(self.settings.min_batches_to_retain.max(2)).unwrap_or(i64::MAX);
        if oldest <= 0 || batch_id % EVERY != 0 {
            return;
        }
        if let Err(error) = purge_below(&self.checkpoint, oldest).await {
            tracing::warn!(%error, "old log entries could not be removed");
        }
    }
}

async fn purge_below(checkpoint: &Checkpoint, oldest: i64) -> Result<()> {
    let Some(commit) = checkpoint.commit_log().get(oldest).await? else {
        return Ok(());
    };
    checkpoint.commit_log().purge_below(oldest).await?;
    checkpoint.offset_log().purge_below(oldest).await?;
    let listed = listed(&commit);
    // Later commits list files of later versions; of the older only these.
    remove_state(checkpoint, &commit, |name, version| version <= oldest && !listed.contains(name)).await
}

fn listed(commit: &CommitEntry) -> BTreeSet<String> {
    commit.state.iter().flat_map(|s| &s.files).map(|f| f.name.clone()).collect()
}

/// Removes state files that the last commit does not know: an undecided batch wrote them.
pub(super) async fn remove_strangers(checkpoint: &Checkpoint, commit: Option<&CommitEntry>) -> Result<()> {
    let Some(commit) = commit else { return Ok(()) };
    remove_state(checkpoint, commit, |_, version| version > commit.batch_id + 1).await
}

async fn remove_state(checkpoint: &Checkpoint, commit: &CommitEntry, gone: impl Fn(&str, i64) -> bool) -> Result<()> {
    let store = checkpoint.state();
    for operator in &commit.state {
        for lane in 0..commit.lanes {
            let folder = format!("{}/{lane}", operator.operator);
            for file in store.list(&folder).await? {
                let version = file.split('-').next().and_then(|v| v.parse::<i64>().ok());
                let name = format!("{folder}/{file}");
                if version.is_some_and(|version| gone(&name, version)) {
                    store.delete(&name).await?;
                }
            }
        }
    }
    Ok(())
}
