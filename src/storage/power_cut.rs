//! What a power cut would leave on the disk: for tests, and nothing without the feature `failpoints`.
//!
//! Where `MILLSTREAM_DURABLE` names a folder, each fsync copies there what it made durable: of a file its bytes
//! (`file-<identity>`), of a folder its entries (`folder-<identity>`, a line `<identity> <name>` each). Whatever is not
//! there is what a power cut may take away. Names are part of their folder, not of their file, as POSIX has it. The identity
//! is the inode with the time of its birth, since the numbers of inodes are given again.

#[cfg(feature = "failpoints")]
mod recorded {
    use std::fs::{self, File, Metadata};
    use std::io::{self, Write};
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::UNIX_EPOCH;

    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("MILLSTREAM_DURABLE").map(PathBuf::from));

    fn identity(metadata: &Metadata) -> io::Result<String> {
        let born = metadata.created()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        Ok(format!("{}.{}", metadata.ino(), born.as_nanos()))
    }

    pub(crate) fn file_synced(file: &File, path: &Path) {
        note(|folder| put(folder, &format!("file-{}", identity(&file.metadata()?)?), &fs::read(path)?));
    }

    pub(crate) fn folder_synced(path: &Path) {
        note(|folder| {
            let mut entries = String::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                // Another thread may remove one meanwhile: then it is not durable.
                if let Ok(metadata) = entry.metadata() {
                    entries.push_str(&format!("{} {}\n", identity(&metadata)?, entry.file_name().to_string_lossy()));
                }
            }
            put(folder, &format!("folder-{}", identity(&fs::metadata(path)?)?), entries.as_bytes())
        });
    }

    /// A record is whole or not there, as the process may be killed at any time.
    fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let temporary = folder.join(format!("writing-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        File::create(&temporary)?.write_all(bytes)?;
        fs::rename(&temporary, folder.join(name))
    }

    /// A record that cannot be kept would make a test say what it has not seen.
    fn note(write: impl FnOnce(&Path) -> io::Result<()>) {
        // One after the other: of two threads that sync a folder, the one that saw less must not be the last to say what it saw.
        static TURN: Mutex<()> = Mutex::new(());
        let Some(folder) = FOLDER.as_deref() else { return };
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write(folder) {
            tracing::error!(%error, "cannot record what is durable");
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub(crate) use recorded::{file_synced, folder_synced};

#[cfg(not(feature = "failpoints"))]
pub(crate) fn file_synced(_file: &std::fs::File, _path: &std::path::Path) {}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn folder_synced(_path: &std::path::Path) {}
