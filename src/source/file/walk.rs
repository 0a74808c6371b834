//! Every file below a folder, whatever it is called.
//!
//! Links are followed. Guards that no name is passed over because it is odd: one that cannot be remembered, since it is
//! not UTF-8, is an error that names it.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::storage::blocking;

/// A file below the folder that was walked.
pub(super) struct Found {
    /// The folders from there to the file, and the file's name.
    pub(super) parts: Vec<String>,
    pub(super) metadata: Metadata,
}

/// Returns the files below `base` in no order; `enters` says, for the name of a folder or file and the number of folders
/// above it, whether it is looked at. What is neither a file nor a folder holds no rows.
///
/// # Errors
/// `Unavailable` where a folder cannot be listed, or a name is not UTF-8.
pub(super) async fn files_below(
    base: &str,
    enters: impl Fn(usize, &str) -> bool + Send + 'static,
) -> Result<Vec<Found>> {
    let base = PathBuf::from(if base.is_empty() { "/" } else { base });
    blocking(move || {
        let mut found = Vec::new();
        let mut folders = vec![(base, Vec::new())];
        while let Some((folder, parts)) = folders.pop() {
            for (parts, metadata) in entries(&folder, &parts, &enters)? {
                match (metadata.is_dir(), parts.last()) {
                    (true, Some(name)) => folders.push((folder.join(name), parts)),
                    _ if metadata.is_file() => found.push(Found { parts, metadata }),
                    _ => {}
                }
            }
        }
        Ok(found)
    })
    .await
}

/// What lies right in `folder`, which is found by `parts`.
fn entries(
    folder: &Path,
    parts: &[String],
    enters: &dyn Fn(usize, &str) -> bool,
) -> Result<Vec<(Vec<String>, Metadata)>> {
    let unlisted = |error: io::Error| {
        Error::unavailable(format!("{} cannot be listed: {error}; mend that and start again", folder.display()))
            .with_source(error)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let name = entry.file_name();
        // What of a name is no text does not decide whether it is hidden.
        if !enters(parts.len(), &name.to_string_lossy()) {
            continue;
        }
        let Some(name) = name.to_str() else {
            return Err(Error::unavailable(format!(
                "{:?} has a name that is not UTF-8, by which no checkpoint can remember it; rename it",
                entry.path()
            )));
        };
        let metadata = match fs::metadata(entry.path()) {
            Ok(metadata) => metadata,
            // Gone since it was listed, or a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unlisted(error)),
        };
        if metadata.is_dir() && entry.file_type().map_err(unlisted)?.is_symlink() {
            refuse_circle(folder, &entry.path())?;
        }
        found.push((parts.iter().cloned().chain([name.to_string()]).collect(), metadata));
    }
    Ok(found)
}

/// Refuses a link to a folder that it lies in: below it nothing would ever end.
fn refuse_circle(folder: &Path, link: &Path) -> Result<()> {
    let unresolved = |error: io::Error| {
        Error::unavailable(format!("{} cannot be followed: {error}; remove the link", link.display()))
            .with_source(error)
    };
    let (folder, target) = (folder.canonicalize().map_err(unresolved)?, link.canonicalize().map_err(unresolved)?);
    if folder.starts_with(&target) {
        return Err(Error::unavailable(format!(
            "{} is a link to {}, in which it lies; remove the link",
            link.display(),
            target.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn links_are_followed_but_not_in_a_circle() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/x"), "1").unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("c")).unwrap();
        std::os::unix::fs::symlink(root.join("nothing"), root.join("a/gone")).unwrap();
        let files = files_below(root.to_str().unwrap(), |_, _| true).await.unwrap();
        let mut names: Vec<String> = files.iter().map(|file| file.parts.join("/")).collect();
        names.sort();
        assert_eq!(names, ["a/b/x", "c/b/x"]);
        std::os::unix::fs::symlink(root.join("a"), root.join("a/b/up")).unwrap();
        let error = files_below(root.to_str().unwrap(), |_, _| true).await.map(|_| ()).unwrap_err();
        assert!(error.message().contains("a/b/up is a link to"), "{error}");
    }
}
