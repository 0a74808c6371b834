//! A log with one small file a batch: what the offset log and the commit log have in common.
//!
//! An entry is created once and never replaced; its name is the batch's id; on return it is durable. Only the oldest
//! are ever deleted, oldest first, so what is there is always without gaps.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layout;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{DurableStore, decode_or_remedy, file_path, write_checked};

/// What a [`BatchLog`] holds of one batch.
pub trait LogEntry: Debug + Serialize + DeserializeOwned + Send + Sync {
    /// The log's folder in the checkpoint.
    const FOLDER: &'static str;
    /// The failpoint after an entry is durable.
    const WRITTEN: &'static str;

    /// Returns the batch's id.
    fn batch_id(&self) -> i64;

    /// Returns the run that wrote it.
    fn run(&self) -> u64;
}

/// A log with one file a batch, in the folder `E::FOLDER` of a checkpoint.
#[derive(Debug)]
pub struct BatchLog<E> {
    store: Arc<dyn DurableStore>,
    entry: PhantomData<fn() -> E>,
}

impl<E: LogEntry> BatchLog<E> {
    /// Makes the log of the checkpoint in `store`; nothing is created before the first entry is.
    pub fn new(store: Arc<dyn DurableStore>) -> Self {
        Self { store, entry: PhantomData }
    }

    /// Writes the entry of a batch. Durable on return.
    ///
    /// # Errors
    /// `Fenced` where another run wrote this batch already; `ResourcesExhausted` or `Unavailable` where it cannot be
    /// written.
    pub async fn add(&self, entry: &E) -> Result<()> {
        let name = name::<E>(entry.batch_id());
        let payload = serde_json::to_vec_pretty(entry)?;
        if !write_checked(self.store.as_ref(), &name, &payload).await? {
            // A store may have lost its answer to our own write and tried again; the run's number tells.
            let there = self.read(entry.batch_id()).await?;
            let same = match &there {
                Some(there) => serde_json::to_vec_pretty(there)? == payload,
                None => false,
            };
            if !same {
                let run = there.map_or_else(String::new, |there| format!(" by run {}", there.run()));
                return Err(Error::new(
                    ErrorKind::Fenced,
                    format!(
                        "{} was already written{run}, and this is run {}: another process runs this query on this \
                         checkpoint; let one of them go on",
                        file_path(self.store.as_ref(), &name),
                        entry.run()
                    ),
                ));
            }
        }
        fail::fail_point!(E::WRITTEN);
        Ok(())
    }

    /// Returns the entry of a batch, or `None` where there is none.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where it is altered, with path and remedy.
    pub async fn get(&self, batch_id: i64) -> Result<Option<E>> {
        self.read(batch_id).await
    }

    /// Returns the entry of the newest batch, or `None` where there is none.
    ///
    /// # Errors
    /// As [`BatchLog::get`].
    pub async fn latest(&self) -> Result<Option<E>> {
        match self.batch_ids().await?.last() {
            Some(newest) => self.existing(*newest).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the ids of all retained batches, oldest first.
    ///
    /// # Errors
    /// `Unavailable` where the folder cannot be listed.
    pub async fn batch_ids(&self) -> Result<Vec<i64>> {
        layout::batch_ids(self.store.as_ref(), E::FOLDER).await
    }

    /// Returns the retained entries up to and with `batch_id`, oldest first.
    ///
    /// # Errors
    /// As [`BatchLog::get`], and where one in the middle is missing.
    pub async fn entries_up_to(&self, batch_id: i64) -> Result<Vec<E>> {
        let mut ids = self.batch_ids().await?;
        ids.retain(|id| *id <= batch_id);
        layout::check_gaps(&self.store.location(), E::FOLDER, &ids)?;
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            entries.extend(self.retained(id).await?);
        }
        Ok(entries)
    }

    /// Deletes the entries of batches before `batch_id`, oldest first.
    ///
    /// # Errors
    /// `Internal` where that would delete the newest; `Unavailable` where one cannot be deleted.
    pub async fn purge_below(&self, batch_id: i64) -> Result<()> {
        let ids = self.batch_ids().await?;
        if ids.last().is_some_and(|newest| *newest < batch_id) {
            return Err(Error::internal(format!(
                "{}: asked to delete every entry below batch {batch_id}, the newest included",
                file_path(self.store.as_ref(), E::FOLDER)
            )));
        }
        for id in ids.into_iter().take_while(|id| *id < batch_id) {
            self.delete(id).await?;
            fail::fail_point!("log.mid_purge");
        }
        Ok(())
    }

    /// Deletes one entry: for a rewind, which deletes the newest first.
    pub(crate) async fn delete(&self, batch_id: i64) -> Result<()> {
        self.store.delete(&name::<E>(batch_id)).await
    }

    /// Reads an entry that was listed; `None` where an earlier run, which may still be purging, has deleted it since.
    async fn retained(&self, batch_id: i64) -> Result<Option<E>> {
        match self.read(batch_id).await? {
            None if self.batch_ids().await?.first().is_some_and(|oldest| *oldest > batch_id) => Ok(None),
            None => self.existing(batch_id).await.map(Some),
            entry => Ok(entry),
        }
    }

    async fn existing(&self, batch_id: i64) -> Result<E> {
        match self.read(batch_id).await? {
            Some(entry) => Ok(entry),
            None => Err(Error::corrupt(format!(
                "{} was listed and is missing now; let nothing but Millstream write to this directory",
                file_path(self.store.as_ref(), &name::<E>(batch_id))
            ))),
        }
    }

    async fn read(&self, batch_id: i64) -> Result<Option<E>> {
        let name = name::<E>(batch_id);
        let Some(bytes) = self.store.read(&name).await? else {
            return Ok(None);
        };
        match parse(&file_path(self.store.as_ref(), &name), bytes, batch_id, "") {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.kind() == ErrorKind::CheckpointCorrupt => {
                let remedy = self.remedy(batch_id).await?;
                Err(Error::corrupt(format!("{}{remedy}", error.message())))
            }
            Err(error) => Err(error),
        }
    }

    /// What to do about a bad entry: one that was not committed may go, since nothing of it is visible, and so may
    /// those that the newest batch does not need.
    async fn remedy(&self, batch_id: i64) -> Result<String> {
        let newest = layout::batch_ids(self.store.as_ref(), layout::COMMITS).await?.last().copied().unwrap_or(-1);
        Ok(if batch_id > newest {
            format!("batch {batch_id} was not committed: delete this file to run it again")
        } else if batch_id < newest {
            layout::restore_or_forget(E::FOLDER, batch_id, newest)
        } else {
            layout::restore_or_rewind(self.store.location().trim_end_matches('/'), batch_id - 1)
        })
    }
}

fn name<E: LogEntry>(batch_id: i64) -> String {
    format!("{}/{batch_id}", E::FOLDER)
}

fn parse<E: LogEntry>(path: &str, bytes: bytes::Bytes, batch_id: i64, remedy: &str) -> Result<E> {
    let payload = decode_or_remedy(path, bytes, remedy)?;
    let entry: E = serde_json::from_slice(&payload)
        .map_err(|error| Error::corrupt(format!("{path}: not an entry of this log ({error}); {remedy}")))?;
    if entry.batch_id() == batch_id {
        return Ok(entry);
    }
    Err(Error::corrupt(format!(
        "{path}: batch {batch_id} expected, batch {} found: the file was renamed or swapped; {remedy}",
        entry.batch_id()
    )))
}
