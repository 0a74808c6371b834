//! What is no longer needed goes: old log entries, state files no retained commit lists, and what undecided batches of
//! earlier runs left. Never below what recovery needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::execution::Execution;
use crate::checkpoint::{Checkpoint, CommitEntry, SOURCES_LOOK_BACK};
use crate::error::Result;
use crate::state::{FileKind, KEY_GROUPS};

/// Purging looks at folders, so it is done once in so many batches.
const EVERY: i64 = 10;

impl Execution {
    /// Removes what undecided batches of earlier runs left, once this run has decided a batch: before, a run that was
    /// fenced may still be deciding the one that what lies there belongs to.
    pub(super) async fn sweep(&mut self) {
        let Some(leftovers) = self.leftovers.take() else {
            return;
        };
        let run = self.checkpoint.run().number();
        // What a later run wrote is not for a run to judge that has slept through being taken over.
        let gone = |name: &str, version: i64, of: u64| of < run && leftovers.contain(name, version);
        if let Err(error) = remove_state(&self.checkpoint, self.plan.operators.len(), KEY_GROUPS, gone).await {
            tracing::warn!(%error, "state of undecided batches could not be removed");
        }
    }

    /// Begins to purge after batch `batch_id`, beside the batches that follow. Best effort: what cannot be removed now is
    /// removed later.
    pub(super) fn purge(&mut self, batch_id: i64) {
        let retained = i64::try_from(self.settings.min_batches_to_retain).unwrap_or(i64::MAX);
        let oldest = batch_id + 1 - retained.max(SOURCES_LOOK_BACK);
        let busy = self.purging.as_ref().is_some_and(|purging| !purging.is_finished());
        if oldest <= 0 || batch_id % EVERY != 0 || busy {
            return;
        }
        let (checkpoint, lanes) = (Arc::clone(&self.checkpoint), self.most_lanes);
        self.purging = Some(tokio::spawn(async move {
            if let Err(error) = purge_below(&checkpoint, oldest, lanes).await {
                tracing::warn!(%error, "old log entries could not be removed");
            }
        }));
    }

    /// Waits for a purge that has begun.
    pub(super) async fn end_purge(&mut self) {
        if let Some(purging) = self.purging.take()
            && let Err(error) = purging.await
        {
            tracing::warn!(%error, "old log entries could not be removed");
        }
    }
}

/// State files that count for nothing: those of earlier runs that no retained commit lists. Not only the newest commit is
/// asked: runs may have died, one after the other, between deciding a batch and removing what was left.
pub(super) struct Leftovers {
    /// Older ones are purged.
    oldest_version: i64,
    listed: BTreeSet<String>,
}

impl Leftovers {
    /// Those that a run finds which begins after `commits`, the retained ones.
    pub(super) fn of(commits: &[CommitEntry]) -> Self {
        Self {
            oldest_version: commits.first().map_or(0, |commit| commit.batch_id + 1),
            listed: commits.iter().flat_map(listed).collect(),
        }
    }

    fn contain(&self, name: &str, version: i64) -> bool {
        version >= self.oldest_version && !self.listed.contains(name)
    }
}

async fn purge_below(checkpoint: &Checkpoint, oldest: i64, lanes: usize) -> Result<()> {
    let Some(commit) = checkpoint.commit_log().get(oldest).await? else {
        return Ok(());
    };
    checkpoint.commit_log().purge_below(oldest).await?;
    checkpoint.offset_log().purge_below(oldest).await?;
    let (listed, snapshots) = (listed(&commit), snapshots(&commit));
    // Later commits list files of later versions; of the older only these, and snapshots that were still being written then.
    let unlisted = |name: &str, version: i64, _| {
        let awaited = name.ends_with(SNAPSHOT) && snapshots.get(&series(name)).is_none_or(|listed| version > *listed);
        version <= oldest && !listed.contains(name) && !awaited
    };
    remove_state(checkpoint, commit.state.len(), lanes, unlisted).await
}

/// How the names of snapshots end.
const SNAPSHOT: &str = ".snapshot";

/// The versions of the snapshots that a commit lists, by series.
fn snapshots(commit: &CommitEntry) -> BTreeMap<(&str, &str), i64> {
    let files = commit.state.iter().flat_map(|s| &s.files).filter(|file| file.kind == FileKind::Snapshot);
    files.map(|file| (series(&file.name), file.version)).collect()
}

/// Folder and kind of a state file, `<operator>/<lane>/<version>-<run>.<kind>`: of those that share them a later one takes
/// the place of an earlier one.
fn series(name: &str) -> (&str, &str) {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    (folder, file.split_once('.').map_or("", |(_, kind)| kind))
}

fn listed(commit: &CommitEntry) -> BTreeSet<String> {
    commit.state.iter().flat_map(|s| &s.files).map(|f| f.name.clone()).collect()
}

/// Returns version and run of a state file's name, `<version>-<run>.<kind>`.
fn version_and_run(file: &str) -> Option<(i64, u64)> {
    let (version, rest) = file.split_once('-')?;
    let (run, _) = rest.split_once('.')?;
    Some((version.parse().ok()?, run.parse().ok()?))
}

async fn remove_state(
    checkpoint: &Checkpoint,
    operators: usize,
    lanes: usize,
    gone: impl Fn(&str, i64, u64) -> bool,
) -> Result<()> {
    let store = checkpoint.state();
    for operator in 0..operators {
        for lane in 0..lanes {
            let folder = format!("{operator}/{lane}");
            let mut names = Vec::new();
            for file in store.list(&folder).await? {
                let name = format!("{folder}/{file}");
                if version_and_run(&file).is_some_and(|(version, run)| gone(&name, version, run)) {
                    names.push(name);
                }
            }
            if !names.is_empty() {
                store.delete_all(&names).await?;
            }
        }
    }
    Ok(())
}
