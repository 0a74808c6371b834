//! The manifest of a file table: which files each batch of each query published, in one order.
//!
//! The file sink adds to it; a stream over the table and readers that want one consistent version read it. It lies
//! at `<table>/_millstream/manifest/`. The file named `n` ends with entry `n`. Every tenth file repeats the nine
//! before it, every hundredth the ninety-nine, and so on, and what a file repeats is then deleted: `n` entries lie in
//! at most nine files a decimal digit, and an entry is written again once a digit. How far back a file reaches follows
//! from its name alone, so that what an interrupted compaction left is known to be superfluous.
//!
//! Invariant: files are only ever created under the next free number, and each carries the last batch of every query
//! up to itself. Two flows that race for a number find out, and the loser takes the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DurableStore, decode_or_remedy, file_path, numbered, write_checked};
use crate::error::{Error, Result};

/// Where the manifest lies below a table's root.
pub const MANIFEST_FOLDER: &str = "_millstream/manifest";

/// Every how many files one repeats those before it.
const COMPACT_EVERY: u64 = 10;

const REMEDY: &str = "restore this file from a copy, or write to a new table with a new checkpoint";

/// How often a reader lists again when a compaction deleted what it was about to read.
const ATTEMPTS: usize = 20;

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// The path, relative to the table's root, with `/` between folders.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The number of rows.
    pub rows: u64,
}

/// What one batch of one query published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// The entry's place in the order, from 0 without gaps.
    pub sequence: u64,
    /// The query.
    pub query_id: String,
    /// The query's batch.
    pub batch_id: i64,
    /// The files; none where the batch had no rows.
    pub files: Vec<ManifestFile>,
}

/// What a file of the manifest holds.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    /// The last batch of every query, up to and with this file.
    last_batches: BTreeMap<String, i64>,
    /// The entries, ordered by sequence; the last has the file's own number.
    entries: Vec<ManifestEntry>,
}

/// What the newest entry of a manifest says of all before it.
#[derive(Debug, Clone)]
pub struct Newest {
    listed: BTreeSet<u64>,
    last_batches: BTreeMap<String, i64>,
}

impl Newest {
    /// Returns the last batch that the query published, or `None` where it published none.
    pub fn last_batch(&self, query_id: &str) -> Option<i64> {
        self.last_batches.get(query_id).copied()
    }

    /// Returns the queries that published to the table, ordered by id.
    pub fn queries(&self) -> impl Iterator<Item = &str> {
        self.last_batches.keys().map(String::as_str)
    }
}

/// The manifest of one table.
#[derive(Debug, Clone)]
pub struct Manifest {
    store: Arc<dyn DurableStore>,
}

impl Manifest {
    /// Makes the manifest of the table at `root`; nothing is created before the first entry is.
    pub fn new(root: Arc<dyn DurableStore>) -> Self {
        Self { store: root.below(MANIFEST_FOLDER) }
    }

    /// Adds what a batch published; does nothing where that batch of the query is there already. Durable on return.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where the manifest is not whole; `Unavailable` where it cannot be written.
    pub async fn add(&self, query_id: &str, batch_id: i64, files: Vec<ManifestFile>) -> Result<()> {
        let mut newest = self.newest().await?;
        for _ in 0..ATTEMPTS {
            if self.add_after(&newest, query_id, batch_id, &files).await? {
                return Ok(());
            }
            newest = self.newest().await?;
        }
        Err(Error::unavailable(format!(
            "the manifest {} changed {ATTEMPTS} times while batch {batch_id} was to be added; start the query again",
            self.store.location()
        )))
    }

    /// Adds what a batch published if nothing was added since `newest` was looked at; returns whether it is there. Durable
    /// on return.
    ///
    /// # Errors
    /// As [`Manifest::add`].
    pub async fn add_after(
        &self,
        newest: &Newest,
        query_id: &str,
        batch_id: i64,
        files: &[ManifestFile],
    ) -> Result<bool> {
        if newest.last_batch(query_id) >= Some(batch_id) {
            return Ok(true);
        }
        let sequence = newest.listed.last().map_or(0, |last| last + 1);
        let Some(mut entries) = self.repeated(newest, sequence).await? else {
            return Ok(false);
        };
        entries.push(ManifestEntry { sequence, query_id: query_id.to_string(), batch_id, files: files.to_vec() });
        let mut last_batches = newest.last_batches.clone();
        last_batches.insert(query_id.to_string(), batch_id);
        if !self.write(sequence, &Page { last_batches, entries }).await? {
            // Another flow took the number.
            return Ok(false);
        }
        // It may have been free only because what had it is compacted and deleted by now: then the file that was just
        // written counts for nothing.
        let is_last = self.sequences().await?.last() == Some(&sequence);
        Ok(is_last || self.last_batch(query_id).await? >= Some(batch_id))
    }

    /// Returns every entry, ordered by sequence, or `None` where the table has no manifest.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where a file of the manifest is missing or altered.
    pub async fn entries(&self) -> Result<Option<Vec<ManifestEntry>>> {
        self.entries_from(0).await
    }

    /// Returns the entries from `first` on, ordered by sequence, or `None` where the table has no manifest. Reads only
    /// the files that hold them.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub async fn entries_from(&self, first: u64) -> Result<Option<Vec<ManifestEntry>>> {
        let mut missing = 0;
        for _ in 0..ATTEMPTS {
            let listed = self.sequences().await?;
            let Some(&last) = listed.last() else {
                return Ok(None);
            };
            match self.read_range(&listed, first, last).await? {
                Ok(entries) => return Ok(Some(entries)),
                Err(gap) => missing = gap,
            }
        }
        Err(self.gap(missing))
    }

    /// Reads every file of the manifest, so that a bad or missing one is found before another is added.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub async fn verify(&self) -> Result<()> {
        let mut missing = 0;
        for _ in 0..ATTEMPTS {
            let listed = self.sequences().await?;
            let mut next = listed.last().copied();
            while let Some(number) = next {
                if !listed.contains(&number) || self.read(number).await?.is_none() {
                    break;
                }
                next = first_of(number).checked_sub(1);
            }
            match next {
                None => return Ok(()),
                Some(gap) => missing = gap,
            }
        }
        Err(self.gap(missing))
    }

    /// Returns the last batch that the query published, or `None` where it published none.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub async fn last_batch(&self, query_id: &str) -> Result<Option<i64>> {
        Ok(self.newest().await?.last_batch(query_id))
    }

    /// Returns the queries that published to the table, ordered by id.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub async fn queries(&self) -> Result<Vec<String>> {
        Ok(self.newest().await?.last_batches.into_keys().collect())
    }

    /// Looks at the newest entry.
    ///
    /// # Errors
    /// As [`Manifest::entries`].
    pub async fn newest(&self) -> Result<Newest> {
        let mut last = 0;
        for _ in 0..ATTEMPTS {
            let listed = self.sequences().await?;
            let Some(&newest) = listed.last() else {
                return Ok(Newest { listed, last_batches: BTreeMap::new() });
            };
            if let Some(page) = self.read(newest).await? {
                return Ok(Newest { listed, last_batches: page.last_batches });
            }
            last = newest;
        }
        Err(self.gap(last))
    }

    /// The entries that the file numbered `sequence` repeats. `None` where the listing is out of date.
    async fn repeated(&self, newest: &Newest, sequence: u64) -> Result<Option<Vec<ManifestEntry>>> {
        let first = first_of(sequence);
        let Some(last) = sequence.checked_sub(1).filter(|_| first < sequence) else {
            return Ok(Some(Vec::new()));
        };
        match self.read_range(&newest.listed, first, last).await? {
            Ok(entries) => Ok(Some(entries)),
            // A compaction explains it only if there is something newer by now.
            Err(missing) if self.sequences().await? == newest.listed => Err(self.gap(missing)),
            Err(_) => Ok(None),
        }
    }

    /// Creates the file and deletes those that it repeats. False where the number is taken.
    async fn write(&self, sequence: u64, page: &Page) -> Result<bool> {
        if !write_checked(self.store.as_ref(), &sequence.to_string(), serde_json::to_vec(page)?).await? {
            return Ok(false);
        }
        let first = first_of(sequence);
        if first < sequence {
            for repeated in self.sequences().await?.range(first..sequence) {
                fail::fail_point!("manifest.mid_compact");
                if let Err(error) = self.store.delete(&repeated.to_string()).await {
                    tracing::warn!("an old file of the manifest stays, which is harmless: {error}");
                }
            }
        }
        Ok(true)
    }

    /// The entries from `first` to `last`, or the number of a file that is not there.
    async fn read_range(
        &self,
        listed: &BTreeSet<u64>,
        first: u64,
        last: u64,
    ) -> Result<std::result::Result<Vec<ManifestEntry>, u64>> {
        let mut pages = Vec::new();
        let mut next = Some(last);
        while let Some(number) = next.filter(|number| *number >= first) {
            if !listed.contains(&number) {
                return Ok(Err(number));
            }
            let Some(page) = self.read(number).await? else {
                return Ok(Err(number));
            };
            pages.push(page);
            next = first_of(number).checked_sub(1);
        }
        let entries = pages.into_iter().rev().flat_map(|page| page.entries);
        Ok(Ok(entries.filter(|entry| entry.sequence >= first).collect()))
    }

    async fn read(&self, number: u64) -> Result<Option<Page>> {
        let name = number.to_string();
        let Some(bytes) = self.store.read(&name).await? else {
            return Ok(None);
        };
        let path = file_path(self.store.as_ref(), &name);
        let payload = decode_or_remedy(&path, bytes, REMEDY)?;
        let page: Page = serde_json::from_slice(&payload).map_err(|error| {
            Error::corrupt(format!("{path}: not an entry of a manifest ({error}); {REMEDY}")).with_source(error)
        })?;
        if page.entries.iter().map(|entry| entry.sequence).eq(first_of(number)..=number) {
            return Ok(Some(page));
        }
        let found = page.entries.last().map_or("none".to_string(), |entry| entry.sequence.to_string());
        Err(Error::corrupt(format!(
            "{path}: entries {}..={number} expected, found those up to {found}: the file was renamed or swapped; \
             {REMEDY}",
            first_of(number)
        )))
    }

    async fn sequences(&self) -> Result<BTreeSet<u64>> {
        let names = self.store.list("").await?;
        Ok(names.iter().filter_map(|name| numbered(name)).collect())
    }

    fn gap(&self, missing: u64) -> Error {
        Error::corrupt(format!(
            "{} is missing, though later files of the manifest are there; restore it from a copy, or write to a new \
             table with a new checkpoint",
            file_path(self.store.as_ref(), &missing.to_string())
        ))
    }
}

/// The first entry of the file numbered `number`: itself, except where it repeats those before it.
fn first_of(number: u64) -> u64 {
    let count = number.saturating_add(1);
    let mut width = 1;
    while count.is_multiple_of(width * COMPACT_EVERY) {
        width *= COMPACT_EVERY;
    }
    count - width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::LocalStore;

    fn file(batch_id: i64) -> Vec<ManifestFile> {
        vec![ManifestFile { path: format!("part-{batch_id}.parquet"), size: 10, rows: 1 }]
    }

    async fn filled(batches: i64) -> (tempfile::TempDir, Manifest) {
        let dir = tempfile::tempdir().unwrap();
        let manifest = Manifest::new(Arc::new(LocalStore::new(dir.path())));
        for batch_id in 0..batches {
            manifest.add("q", batch_id, file(batch_id)).await.unwrap();
        }
        (dir, manifest)
    }

    #[tokio::test]
    async fn it_stays_small_and_whole() {
        let (_dir, manifest) = filled(234).await;
        assert_eq!(manifest.sequences().await.unwrap().len(), 2 + 3 + 4);
        let entries = manifest.entries().await.unwrap().unwrap();
        let batches: Vec<i64> = entries.iter().map(|entry| entry.batch_id).collect();
        assert_eq!(batches, (0..234).collect::<Vec<_>>());
        assert_eq!(entries[7].files, file(7));
        assert_eq!(manifest.entries_from(231).await.unwrap().unwrap().len(), 3);
        assert!(manifest.entries_from(234).await.unwrap().unwrap().is_empty());
        assert_eq!(manifest.last_batch("q").await.unwrap(), Some(233));
    }

    #[tokio::test]
    async fn a_batch_is_added_once() {
        let (_dir, manifest) = filled(3).await;
        manifest.add("q", 2, file(2)).await.unwrap();
        manifest.add("other", 2, file(2)).await.unwrap();
        assert_eq!(manifest.entries().await.unwrap().unwrap().len(), 4);
        assert_eq!(manifest.queries().await.unwrap(), ["other", "q"]);
    }

    #[tokio::test]
    async fn a_table_without_a_manifest_has_none() {
        let (_dir, manifest) = filled(0).await;
        assert_eq!(manifest.entries().await.unwrap(), None);
        assert_eq!(manifest.last_batch("q").await.unwrap(), None);
    }

    #[tokio::test]
    async fn two_flows_that_race_lose_nothing() {
        let (dir, _) = filled(0).await;
        let flows = ["a", "b", "c"].map(|query| {
            let manifest = Manifest::new(Arc::new(LocalStore::new(dir.path())));
            tokio::spawn(async move {
                for batch_id in 0..15 {
                    manifest.add(query, batch_id, file(batch_id)).await.unwrap();
                }
                manifest
            })
        });
        let mut manifest = None;
        for flow in flows {
            manifest = Some(flow.await.unwrap());
        }
        let entries = manifest.unwrap().entries().await.unwrap().unwrap();
        for query in ["a", "b", "c"] {
            let batches: Vec<i64> = entries.iter().filter(|e| e.query_id == query).map(|e| e.batch_id).collect();
            assert_eq!(batches, (0..15).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_an_interrupted_compaction_left_counts_once() {
        let (dir, manifest) = filled(9).await;
        let four = dir.path().join(MANIFEST_FOLDER).join("4");
        let kept = std::fs::read(&four).unwrap();
        manifest.add("q", 9, file(9)).await.unwrap();
        assert!(!four.exists());
        std::fs::write(&four, kept).unwrap();
        assert_eq!(manifest.entries().await.unwrap().unwrap().len(), 10);
    }

    #[tokio::test]
    async fn missing_altered_and_swapped_files_are_named() {
        let (dir, manifest) = filled(4).await;
        let path = |name: &str| dir.path().join(MANIFEST_FOLDER).join(name);
        let whole = std::fs::read(path("2")).unwrap();
        let other = std::fs::read(path("1")).unwrap();
        for bad in [Some(other), Some(whole[..20].to_vec()), Some(Vec::new()), None] {
            match bad {
                Some(bytes) => std::fs::write(path("2"), bytes).unwrap(),
                None => std::fs::remove_file(path("2")).unwrap(),
            }
            for error in [manifest.entries().await.unwrap_err(), manifest.verify().await.unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
                assert!(error.message().contains("_millstream/manifest/2"), "{error}");
            }
        }
    }
}
