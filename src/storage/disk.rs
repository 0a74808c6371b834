//! What is done to a local disk: the few steps after which a file, a name or a folder survives a power cut.
//!
//! Everything durable goes through here, so that a test can make any step fail, and can know what a power cut would
//! leave ([`power_cut`]). A failed fsync is an error and is never tried again, since the kernel may have dropped the
//! pages it could not write.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::power_cut;
use crate::error::{Error, ErrorKind, Result};

/// Creates a file that must not be there yet.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    fail::fail_point!("disk.write_fails", |_| Err(injected()));
    File::create_new(path)
}

/// Writes some of `bytes` and returns how many.
pub(crate) fn write(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    fail::fail_point!("disk.write_fails", |_| Err(injected()));
    file.write(bytes)
}

/// Makes what was written to the file durable; its name is not before its folder is.
pub(crate) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    fail::fail_point!("disk.sync_fails", |_| Err(injected()));
    fail::fail_point!("broken.skip_sync", |_| Ok(()));
    file.sync_all()?;
    power_cut::file_synced(file, path);
    Ok(())
}

/// Creates the file `path` with `bytes`, durably but for its name.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    sync_file(&file, path)
}

/// How a file got its new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It has both names now.
    Linked,
    /// It has the new name alone: the file system knows no links.
    Moved,
    /// The new name was taken; nothing was changed.
    Taken,
}

/// Gives the file `from` the name `to`, never replacing a file. Not durable before the folder of `to` is synced.
pub(crate) fn link_new(from: &Path, to: &Path) -> io::Result<Link> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Link::Linked),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Link::Taken),
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
            if to.try_exists()? {
                return Ok(Link::Taken);
            }
            fs::rename(from, to)?;
            Ok(Link::Moved)
        }
        Err(error) => Err(error),
    }
}

/// Makes the entries of the folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fail::fail_point!("disk.sync_fails", |_| Err(failed("sync the folder", path, injected())));
    match File::open(path).and_then(|folder| folder.sync_all()) {
        Ok(()) => {
            power_cut::folder_synced(path);
            Ok(())
        }
        // Some file systems have nothing to sync in a folder and say so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Err(error) => Err(failed("sync the folder", path, error)),
    }
}

/// Creates `folder` and what is missing above it, durably; below `base` also what is there is made durable, since a
/// process may have died between creating and syncing it.
pub(crate) fn create_folder(folder: &Path, base: &Path) -> Result<()> {
    let steps: Vec<&Path> = folder
        .ancestors()
        .take_while(|step| !step.as_os_str().is_empty() && (step.starts_with(base) || !step.exists()))
        .collect();
    for step in steps.into_iter().rev() {
        let existed = match fs::create_dir(step) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && step.is_dir() => true,
            Err(error) => return Err(failed("create the folder", step, error)),
        };
        let Some(parent) = step.parent() else {
            continue;
        };
        // A parent that we may pass through but not read was not ours to create either.
        if !existed || parent.as_os_str().is_empty() || File::open(parent).is_ok() {
            sync_dir(parent)?;
        }
    }
    Ok(())
}

/// The error of an operation on a file: names the full path, and has the kind of its remedy.
pub(crate) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("cannot {doing} {}: {error}", path.display());
    let full =
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory);
    if full {
        let message = format!("{message}; free space there and start again: the query goes on where it stopped");
        return Error::new(ErrorKind::ResourcesExhausted, message).with_source(error);
    }
    Error::unavailable(message).with_source(error)
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

/// The error of a disk that a test made fail.
#[cfg(feature = "failpoints")]
fn injected() -> io::Error {
    io::Error::other("a test made this fail")
}
