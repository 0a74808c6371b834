//! Names of staged and published files, and the step from one to the other.
//!
//! Guards that a published file is never replaced and never appears half, and that publishing can be done again: a
//! file that already has its name is left alone, one that has neither name is an error. What an earlier run staged is
//! read through before any of it is published.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::error::{Error, Result};
use crate::storage::manifest::ManifestFile;
use crate::storage::{Link, failed, link_new, sync_dir};

/// Where files wait for the decision, below the table's root.
pub(super) const STAGING_FOLDER: &str = "_millstream/staging";

/// How many threads sync files at once.
const THREADS: usize = 8;

/// What the commit log keeps of a batch for publishing it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Token {
    #[serde(rename = "query")]
    pub(super) query_id: String,
    pub(super) files: Vec<StagedFile>,
    /// What the table's files are; none where an early Millstream wrote the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shape: Option<Shape>,
}

/// A file that is durable and waits for the decision. Paths are relative to the table's root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StagedFile {
    pub(super) part: usize,
    pub(super) staged: String,
    pub(super) path: String,
    pub(super) size: u64,
    /// None where an early Millstream wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crc32: Option<u32>,
    pub(super) rows: u64,
}

impl StagedFile {
    pub(super) fn published(&self) -> ManifestFile {
        ManifestFile { path: self.path.clone(), size: self.size, rows: self.rows }
    }
}

/// The names of one batch's files.
#[derive(Debug, Clone)]
pub(super) struct Names {
    short_id: String,
    batch_id: i64,
    run: u64,
    extension: &'static str,
}

impl Names {
    pub(super) fn new(query_id: &str, batch_id: i64, run: u64, extension: &'static str) -> Self {
        Self { short_id: Self::short_id(query_id), batch_id, run, extension }
    }

    /// The eight characters that stand for a query in names: the first of its UUID.
    pub(super) fn short_id(query_id: &str) -> String {
        match query_id.get(..8) {
            Some(short) if short.chars().all(|c| c.is_ascii_hexdigit()) => short.to_lowercase(),
            _ => format!("{:08x}", crate::storage::checksum(query_id.as_bytes())),
        }
    }

    /// The batch of the staged file `name`, where an earlier run of the query wrote it. What a later run has staged is
    /// not for a run to judge that has slept through being taken over.
    pub(super) fn batch_of_earlier_run(name: &str, query_id: &str, run: u64) -> Option<i64> {
        let mut words = name.split('-');
        if words.next() != Some(Self::short_id(query_id).as_str()) {
            return None;
        }
        let batch_id = words.next()?.parse().ok()?;
        (words.next()?.parse::<u64>().ok()? < run).then_some(batch_id)
    }

    pub(super) fn staging(&self, root: &Path) -> PathBuf {
        root.join(STAGING_FOLDER)
    }

    pub(super) fn staged(&self, part: usize) -> String {
        format!("{STAGING_FOLDER}/{}-{:05}-{}-{part}.staged", self.short_id, self.batch_id, self.run)
    }

    pub(super) fn published(&self, folder: &str, part: usize) -> String {
        format!("{folder}part-{}-{:05}-{part}.{}", self.short_id, self.batch_id, self.extension)
    }
}

/// Checks that what waits for publishing is what was staged: a batch that goes out in halves could not be taken back.
pub(super) fn verify(root: &Path, batch_id: i64, files: &[StagedFile]) -> Result<()> {
    let is_out = |file: &StagedFile| Ok::<_, Error>(length(&root.join(&file.path))?.is_some());
    let mut waiting = Vec::with_capacity(files.len());
    for file in files {
        if !is_out(file)? {
            waiting.push(file);
        }
    }
    let back = if batch_id > 0 && waiting.len() == files.len() {
        format!(
            "or go back with `millstream checkpoint rewind` to batch {}, since nothing of batch {batch_id} is out",
            batch_id - 1
        )
    } else {
        "or start with a new checkpoint and a new table".to_string()
    };
    in_parallel(&waiting, |file| {
        let staged = root.join(&file.staged);
        let Some(found) = length(&staged)? else {
            return Err(Error::corrupt(format!(
                "{} is missing, and so is {}, though batch {batch_id} is committed: restore the file from a copy, {back}",
                staged.display(),
                root.join(&file.path).display()
            )));
        };
        let checksum = match file.crc32 {
            Some(_) if found == file.size => Some(checksum_of(&staged)?),
            _ => None,
        };
        if found == file.size && checksum == file.crc32 {
            return Ok(());
        }
        let shown = |size: u64, checksum: Option<u32>| {
            format!("{size} bytes{}", checksum.map_or_else(String::new, |crc32| format!(" with checksum {crc32:08x}")))
        };
        Err(Error::corrupt(format!(
            "{}: {} were committed, {} found: restore the file from a copy, {back}",
            staged.display(),
            shown(file.size, file.crc32),
            shown(found, checksum)
        )))
    })
}

fn checksum_of(path: &Path) -> Result<u32> {
    let read = || -> io::Result<u32> {
        let mut file = fs::File::open(path)?;
        let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), vec![0; 64 * 1024]);
        loop {
            match file.read(&mut bytes)? {
                0 => return Ok(hasher.finalize()),
                count => hasher.update(&bytes[..count]),
            }
        }
    };
    read().map_err(|error| failed("read", path, error))
}

/// Gives the staged files their names below `root`. Durable on return; done again, it changes nothing.
pub(super) fn publish(root: &Path, files: &[StagedFile]) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in files {
        let target = target(root, file);
        let folder = target.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(|error| failed("create the folder", folder, error))?;
        // Folders down to the file are synced whoever created them: an earlier run may have died before it could.
        folders.extend(folder.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_path_buf));
        publish_one(&root.join(&file.staged), &target, file.size)?;
        fail::fail_point!("sink.mid_publish");
    }
    let folders: Vec<PathBuf> = folders.into_iter().collect();
    in_parallel(&folders, |folder| sync_dir(folder))?;
    // Only now is no staged name needed any more.
    for file in files {
        let staged = root.join(&file.staged);
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &staged, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the file goes. A test may break the promise that this never changes, to see that it would be noticed.
fn target(root: &Path, file: &StagedFile) -> PathBuf {
    let target = root.join(&file.path);
    fail::fail_point!("broken.names_change", |_| target
        .with_file_name(format!("part-{}.parquet", uuid::Uuid::new_v4().simple())));
    target
}

fn publish_one(staged: &Path, target: &Path, size: u64) -> Result<()> {
    if let Some(found) = length(staged)? {
        check_size(staged, found, size)?;
        match link_new(staged, target) {
            Ok(Link::Taken) => {}
            Ok(_) => return Ok(()),
            // Another run published it between the look and the link.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&format!("publish {} as", staged.display()), target, error)),
        }
    }
    match length(target)? {
        Some(found) => check_size(target, found, size),
        None => Err(Error::corrupt(format!(
            "{} is neither staged ({}) nor published, though its batch is committed: restore it from a copy, or start \
             with a new checkpoint and a new directory",
            target.display(),
            staged.display()
        ))),
    }
}

fn check_size(path: &Path, found: u64, expected: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{}: {expected} bytes were committed, {found} found: restore the file from a copy, or start with a new \
         checkpoint and a new directory",
        path.display()
    )))
}

fn length(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, error)),
    }
}

/// The short ids of all queries that files below `root` are named after, looking into partition folders.
pub(super) fn published_queries(root: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("list", &folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", &folder, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(short_id) = query_of(&name) {
                found.insert(short_id.to_string());
            } else if name.contains('=') && entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// The query in `part-<query>-<batch>-<part>.<extension>`; `None` for a stranger's file.
fn query_of(name: &str) -> Option<&str> {
    let (stem, _) = name.strip_prefix("part-")?.split_once('.')?;
    let mut words = stem.split('-');
    let (short_id, batch_id, part) = (words.next()?, words.next()?, words.next()?);
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let ours = short_id.len() == 8
        && short_id.bytes().all(|byte| byte.is_ascii_hexdigit())
        && batch_id.len() >= 5
        && is_number(batch_id)
        && is_number(part)
        && words.next().is_none();
    ours.then_some(short_id)
}

/// Does `work` for every item on a few threads, and returns the first error.
pub(super) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    if items.len() <= 1 {
        return items.iter().try_for_each(work);
    }
    let share = items.len().div_ceil(THREADS);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            items.chunks(share).map(|items| scope.spawn(move || items.iter().try_for_each(work))).collect();
        let mut outcome = Ok(());
        for thread in threads {
            let result = thread.join().unwrap_or_else(|_| Err(Error::internal("a thread that syncs files died")));
            outcome = outcome.and(result);
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_and_say_whose_they_are() {
        let names = Names::new("7A1B22CC-0000-4000-8000-000000000000", 12, 3, "parquet");
        assert_eq!(names.published("origin=JFK/", 0), "origin=JFK/part-7a1b22cc-00012-0.parquet");
        assert_eq!(names.staged(0), "_millstream/staging/7a1b22cc-00012-3-0.staged");
        assert_eq!(query_of("part-7a1b22cc-00012-0.parquet"), Some("7a1b22cc"));
        assert_eq!(query_of("part-00000-7a1b22cc-c000.snappy.parquet"), None);
        assert_ne!(Names::short_id("query-a"), Names::short_id("query-b"));
    }

    #[test]
    fn every_item_is_worked_on_and_an_error_is_told() {
        let items: Vec<u32> = (0..100).collect();
        let sum = std::sync::atomic::AtomicU32::new(0);
        in_parallel(&items, |item| {
            sum.fetch_add(*item, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(sum.into_inner(), 4950);
        let error = in_parallel(&items, |item| if *item == 77 { Err(Error::unavailable("77")) } else { Ok(()) });
        assert_eq!(error.unwrap_err().message(), "77");
    }
}
