//! Who owns a checkpoint: the run with the highest number.
//!
//! A run takes its number by creating `runs/<number>` and looks again before each durable step. One that was stopped
//! and woke up, or a second process on the same checkpoint, so ends before it can touch the owner's files.

use std::sync::Arc;

use super::layout::RUNS;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{DurableStore, numbered, write_checked};

/// How many old runs stay on record.
const RETAINED: u64 = 10;

/// How many others may take numbers while one is being taken.
const ATTEMPTS: usize = 100;

/// The run that opened a checkpoint.
#[derive(Debug, Clone)]
pub struct Run {
    store: Arc<dyn DurableStore>,
    number: u64,
}

impl Run {
    /// Takes the next number, above `logged`: names carry it, and a run that the logs know of must not come again
    /// because its file is gone. Durable on return; every earlier run is fenced from now on.
    ///
    /// # Errors
    /// `Unavailable` where the directory cannot be written.
    pub(crate) async fn take(store: Arc<dyn DurableStore>, logged: u64) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let number = runs(store.as_ref()).await?.last().map_or(0, |last| *last).max(logged) + 1;
            let payload = serde_json::to_vec(&serde_json::json!({ "run": number }))?;
            if !write_checked(store.as_ref(), &format!("{RUNS}/{number}"), payload).await? {
                continue;
            }
            let taken = runs(store.as_ref()).await?;
            // A number that is free only because it was pruned belongs to the past.
            if taken.last() != Some(&number) {
                continue;
            }
            for old in taken.into_iter().filter(|old| old + RETAINED < number) {
                store.delete(&format!("{RUNS}/{old}")).await?;
            }
            return Ok(Self { store, number });
        }
        Err(Error::unavailable(format!(
            "{}/{RUNS}: other processes keep starting this query; let one of them go on",
            store.location()
        )))
    }

    /// Returns the run's number: staged files and state carry it in their names.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says why a run ended with `error`: where another has taken over, what it found missing or changed is the other's
    /// work, and no damage.
    pub async fn judge(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::CheckpointCorrupt | ErrorKind::CheckpointIncompatible => match self.check().await {
                Err(fenced) if fenced.kind() == ErrorKind::Fenced => fenced,
                _ => error,
            },
            _ => error,
        }
    }

    /// Checks that no other run has taken over.
    ///
    /// # Errors
    /// `Fenced` where one has.
    pub async fn check(&self) -> Result<()> {
        match runs(self.store.as_ref()).await?.last() {
            Some(newest) if *newest > self.number => Err(Error::new(
                ErrorKind::Fenced,
                format!(
                    "{}: run {newest} has taken over from run {}: another process started this query on this \
                     checkpoint, and this one ends; run one process a checkpoint",
                    self.store.location(),
                    self.number
                ),
            )),
            Some(newest) if *newest == self.number => Ok(()),
            _ => Err(Error::corrupt(format!(
                "{}/{RUNS}/{} is missing; let nothing but Millstream write to this directory, and start the query again",
                self.store.location(),
                self.number
            ))),
        }
    }
}

/// The numbers of the runs on record, in order.
pub(crate) async fn runs(store: &dyn DurableStore) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = store.list(RUNS).await?.iter().filter_map(|name| numbered(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LocalStore;

    #[tokio::test]
    async fn the_newest_run_owns_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(dir.path()));
        let zombie = Run::take(Arc::clone(&store), 0).await.unwrap();
        zombie.check().await.unwrap();
        let mut newest = zombie.clone();
        for _ in 0..20 {
            newest = Run::take(Arc::clone(&store), 0).await.unwrap();
        }
        newest.check().await.unwrap();
        assert_eq!(newest.number(), 21);
        assert_eq!(runs(store.as_ref()).await.unwrap(), (11..=21).collect::<Vec<_>>());
        let error = zombie.check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.message().contains("run 21") && error.message().contains(&store.location()), "{error}");
    }

    #[tokio::test]
    async fn a_run_that_the_logs_know_of_does_not_come_again() {
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(tempfile::tempdir().unwrap().path()));
        assert_eq!(Run::take(Arc::clone(&store), 7).await.unwrap().number(), 8);
        assert_eq!(Run::take(Arc::clone(&store), 7).await.unwrap().number(), 9);
    }

    #[tokio::test]
    async fn no_two_runs_share_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn DurableStore> = Arc::new(LocalStore::new(dir.path()));
        let runs: Vec<_> = (0..8).map(|_| tokio::spawn(Run::take(Arc::clone(&store), 0))).collect();
        let mut numbers = Vec::new();
        for run in runs {
            numbers.push(run.await.unwrap().unwrap().number());
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 8);
    }
}
