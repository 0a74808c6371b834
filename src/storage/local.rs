//! Durable files on a local disk: write, fsync, link, fsync of the folder.
//!
//! A name appears only when its file is whole and synced, and never replaces another: that is what the logs build
//! on. A failed fsync is an error and is never tried again, since the kernel may have dropped the pages it could
//! not write.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::DurableStore;
use super::disk::{Link, create_folder, create_new, failed, link_new, remove, sync_dir, sync_file, write_synced};
use crate::error::{Error, Result};

/// What every file begins with that is not whole yet.
const TEMPORARY: &str = ".tmp-";

/// How often a file is written again whose temporary file another process swept away.
const ATTEMPTS: usize = 3;

/// A directory on a local disk.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
    /// The root of the first store: folders from here down are made durable, whoever created them.
    base: PathBuf,
    folders: Arc<Folders>,
}

/// What this store and those below have already seen to.
#[derive(Debug, Default)]
struct Folders {
    /// Folders that are durable and free of what a killed process left.
    written: Mutex<HashSet<PathBuf>>,
    /// Folders whose entries, as first listed, are durable.
    listed: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Makes a store over the directory `root`, which is created when the first file is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { base: root.clone(), root, folders: Arc::default() }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    /// Makes sure that `folder` is there, durable, and free of temporary files of processes that died.
    ///
    /// Another live process may lose a temporary file by this; it then writes it again (see [`ATTEMPTS`]).
    fn prepare_folder(&self, folder: &Path) -> Result<()> {
        if lock(&self.folders.written).contains(folder) {
            return Ok(());
        }
        create_folder(folder, &self.base)?;
        for name in names(folder)? {
            if name.starts_with(TEMPORARY) && !name.contains(PROCESS.as_str()) {
                remove(&folder.join(name))?;
            }
        }
        lock(&self.folders.written).insert(folder.to_path_buf());
        Ok(())
    }

    fn create_blocking(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let target = self.path(name);
        let folder = target.parent().unwrap_or(&self.root);
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.prepare_folder(folder)?;
            let temporary = folder.join(temporary_name(&target));
            if let Err(error) = write_synced(&temporary, bytes) {
                let _ = fs::remove_file(&temporary);
                return Err(failed("write", &target, error));
            }
            interrupt(name);
            match link_new(&temporary, &target) {
                Ok(Link::Moved) => {}
                Ok(link) => {
                    remove(&temporary)?;
                    if link == Link::Taken {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {
                    lock(&self.folders.written).remove(folder);
                    continue;
                }
                Err(error) => {
                    let _ = fs::remove_file(&temporary);
                    return Err(failed("create", &target, error));
                }
            }
            sync_dir(folder)?;
            return Ok(true);
        }
    }

    fn create_unlisted_blocking(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let target = self.path(name);
        let folder = target.parent().unwrap_or(&self.root);
        self.prepare_folder(folder)?;
        let mut file = match create_new(&target) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed("write", &target, error)),
        };
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let mut write = || {
            file.write_all(first)?;
            interrupt(name);
            file.write_all(rest)?;
            sync_file(&file, &target)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&target);
            return Err(failed("write", &target, error));
        }
        sync_dir(folder)?;
        Ok(true)
    }

    fn list_blocking(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.path(folder);
        // A process that was killed between link and fsync left entries that a power cut could still take back.
        // Whoever builds on them must not see them vanish.
        if !lock(&self.folders.listed).contains(&path) && path.is_dir() {
            sync_dir(&path)?;
            lock(&self.folders.listed).insert(path.clone());
        }
        let mut names = names(&path)?;
        names.retain(|name| !name.starts_with(TEMPORARY));
        names.sort_unstable();
        Ok(names)
    }

    fn rename_blocking(&self, from: &str, to: &str) -> Result<bool> {
        let (from, to) = (self.path(from), self.path(to));
        let source = from.parent().unwrap_or(&self.root);
        let target = to.parent().unwrap_or(&self.root);
        self.prepare_folder(target)?;
        let link = link_new(&from, &to).map_err(|error| failed(&format!("move {} to", from.display()), &to, error))?;
        if link == Link::Taken {
            return Ok(false);
        }
        // The new name must be durable before the old one goes.
        sync_dir(target)?;
        if link == Link::Linked {
            remove(&from)?;
        }
        if source != target || link == Link::Linked {
            sync_dir(source)?;
        }
        Ok(true)
    }
}

#[async_trait]
impl DurableStore for LocalStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let (store, name) = (self.clone(), name.to_string());
        blocking(move || store.create_blocking(&name, &bytes)).await
    }

    async fn create_unlisted(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let (store, name) = (self.clone(), name.to_string());
        blocking(move || store.create_unlisted_blocking(&name, &bytes)).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        blocking(move || match fs::read(&path) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        })
        .await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let (store, folder) = (self.clone(), folder.to_string());
        blocking(move || store.list_blocking(&folder)).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        let (store, from, to) = (self.clone(), from.to_string(), to.to_string());
        blocking(move || store.rename_blocking(&from, &to)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        blocking(move || remove(&path)).await
    }

    async fn delete_all(&self, names: &[String]) -> Result<()> {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        blocking(move || paths.iter().try_for_each(|path| remove(path))).await
    }

    fn below(&self, folder: &str) -> Arc<dyn DurableStore> {
        Arc::new(Self { root: self.path(folder), base: self.base.clone(), folders: Arc::clone(&self.folders) })
    }
}

/// Runs `work`, which blocks, where it does not hold up the tasks of the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("a storage task did not end: {error}")).with_source(error)),
    }
}

/// What tells this process's temporary files from those of all others: a process id alone comes back in containers.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("-{}-{}-", std::process::id(), &random[..8])
});

fn temporary_name(target: &Path) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    format!("{TEMPORARY}{name}{}{}", PROCESS.as_str(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The names of the files in `folder`; none where there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        let is_folder = match entry.file_type() {
            Ok(kind) => kind.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("list", folder, error)),
        };
        // Millstream's own names are plain ASCII: one that is no text is a stranger's.
        if let (false, Ok(name)) = (is_folder, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A test may make the process die while a file is not whole, or is and does not have its name yet.
#[allow(clippy::if_same_then_else)] // they are alike only where there are no failpoints
fn interrupt(name: &str) {
    if name.ends_with(".delta") {
        fail::fail_point!("state.delta_partly_written");
    } else if name.ends_with(".snapshot") {
        fail::fail_point!("state.mid_snapshot");
    } else if name.starts_with("offsets/") {
        fail::fail_point!("offset_log.temp_written");
    } else if name.starts_with("commits/") {
        fail::fail_point!("commit_log.temp_written");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn a_name_is_given_once_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("a/b"));
        assert!(store.create("offsets/1", Bytes::from_static(b"first")).await.unwrap());
        assert!(!store.create("offsets/1", Bytes::from_static(b"second")).await.unwrap());
        assert_eq!(store.read("offsets/1").await.unwrap().unwrap(), "first");
        assert_eq!(fs::read_dir(dir.path().join("a/b/offsets")).unwrap().count(), 1);
        assert_eq!(store.below("offsets").list("").await.unwrap(), ["1"]);
        assert_eq!(store.list("nothing/here").await.unwrap(), Vec::<String>::new());
        assert_eq!(store.read("nothing/here").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_a_list_names_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path());
        assert!(store.create_unlisted("0/0/1-1.delta", Bytes::from_static(b"whole")).await.unwrap());
        assert!(!store.create_unlisted("0/0/1-1.delta", Bytes::from_static(b"other")).await.unwrap());
        assert_eq!(store.read("0/0/1-1.delta").await.unwrap().unwrap(), "whole");
        assert_eq!(store.list("0/0").await.unwrap(), ["1-1.delta"]);
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_not_seen_and_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("offsets/.tmp-1-77-0123abcd-0");
        fs::create_dir(dir.path().join("offsets")).unwrap();
        fs::write(&left, "torn").unwrap();
        let store = LocalStore::new(dir.path());
        assert_eq!(store.list("offsets").await.unwrap(), Vec::<String>::new());
        assert!(left.exists(), "reading changes nothing");
        store.create("offsets/1", Bytes::new()).await.unwrap();
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn a_rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path());
        for name in ["a", "b"] {
            store.create(name, Bytes::from_static(name.as_bytes())).await.unwrap();
        }
        assert!(!store.rename("a", "b").await.unwrap());
        assert_eq!(store.list("").await.unwrap(), ["a", "b"]);
        assert!(store.rename("a", "c/d").await.unwrap());
        assert_eq!(store.list("").await.unwrap(), ["b"]);
        assert_eq!(store.read("c/d").await.unwrap().unwrap(), "a");
    }

    #[tokio::test]
    async fn an_error_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let store = LocalStore::new(dir.path().join("file"));
        let error = store.create("metadata", Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(&store.location()), "{error}");
    }

    #[test]
    fn a_full_disk_is_exhaustion() {
        let error = failed("write", Path::new("/q/offsets/1"), io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.kind(), ErrorKind::ResourcesExhausted);
        assert!(error.message().contains("/q/offsets/1"), "{error}");
    }
}
