//! The list of files read, kept in the checkpoint for a source that has stood still for long.
//!
//! Every tenth offset carries that list. But the offset log keeps only so many batches, and while another source of
//! the query goes on, all that are kept may repeat one offset of this source, with no list among them. So a source
//! that stands still writes its list once. Guards that a list from a past that was rewound is never believed.

use std::sync::Arc;

use super::offset::FileOffset;
use crate::error::{Error, Result};
use crate::storage::{DurableStore, numbered, read_checked, write_checked};

const PREFIX: &str = "seen-";

/// The lists in a source's own directory.
#[derive(Debug)]
pub(super) struct Snapshots {
    store: Arc<dyn DurableStore>,
}

impl Snapshots {
    /// Looks into `store`; nothing is created before the first list is.
    pub(super) fn new(store: Arc<dyn DurableStore>) -> Self {
        Self { store }
    }

    /// Returns the newest list that is not newer than the offset `newest`, and deletes those that are.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where the list was altered; `Unavailable` where it cannot be read.
    pub(super) async fn up_to(&self, newest: Option<u64>) -> Result<Option<FileOffset>> {
        let mut numbers = self.numbers().await?;
        numbers.sort_unstable();
        let mut kept = None;
        for number in numbers {
            if Some(number) <= newest {
                kept = Some(number);
            } else {
                self.store.delete(&name(number)).await?;
            }
        }
        let Some(number) = kept else { return Ok(None) };
        let Some(bytes) = read_checked(self.store.as_ref(), &name(number)).await? else {
            return Ok(None);
        };
        let offset = FileOffset::parse(&serde_json::from_slice(&bytes)?)?;
        if offset.log_offset == number {
            return Ok(Some(offset));
        }
        Err(Error::corrupt(format!(
            "{}/{}: holds the files up to offset {}; restore it from a copy, or delete it",
            self.store.location(),
            name(number),
            offset.log_offset
        )))
    }

    /// Writes the list of files read up to the end of the batch `offset` speaks of, and deletes older ones.
    ///
    /// # Errors
    /// `Unavailable` where it cannot be written.
    pub(super) async fn write(&self, offset: &FileOffset) -> Result<()> {
        let json = serde_json::to_vec(&offset.to_json()?)?;
        write_checked(self.store.as_ref(), &name(offset.log_offset), json).await?;
        for number in self.numbers().await? {
            if number < offset.log_offset {
                self.store.delete(&name(number)).await?;
            }
        }
        Ok(())
    }

    async fn numbers(&self) -> Result<Vec<u64>> {
        let names = self.store.list("").await?;
        Ok(names.iter().filter_map(|name| numbered(name.strip_prefix(PREFIX)?)).collect())
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number}")
}
