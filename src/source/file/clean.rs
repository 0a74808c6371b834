//! What becomes of files whose batch is decided: `cleanSource` = off, delete or archive.
//!
//! Best effort: a file that cannot be cleaned is left with a warning, and the query goes on.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::listing::{FileEntry, absolute};
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::storage::blocking;

/// What to do with files that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clean {
    /// Leave them.
    Off,
    /// Delete them.
    Delete,
    /// Move them below a directory, under their full path.
    Archive(String),
}

impl Clean {
    /// Reads the options `cleanSource` and `sourceArchiveDir`; `folder` is where the source's files are.
    ///
    /// # Errors
    /// `InvalidOption` for another word, a missing directory, or one in which archived files would be read again.
    pub(super) fn of(options: &Options, folder: &str) -> Result<Self> {
        let word = options.get("cleanSource").map(|word| word.trim().to_lowercase());
        match word.as_deref() {
            None | Some("off") => Ok(Self::Off),
            Some("delete") => Ok(Self::Delete),
            Some("archive") => {
                let Some(archive) = options.get("sourceArchiveDir") else {
                    return Err(Error::invalid_option(
                        "cleanSource is 'archive', which needs the option 'sourceArchiveDir': the directory to move \
                         files to",
                    ));
                };
                let archive = absolute(archive)?;
                if std::path::Path::new(&archive).starts_with(folder) {
                    return Err(bad_value("sourceArchiveDir", &archive, &format!("a directory outside of {folder}")));
                }
                Ok(Self::Archive(archive))
            }
            Some(other) => Err(bad_value("cleanSource", other, "off, delete or archive")),
        }
    }

    /// Cleans files; those that are gone already are no matter.
    pub(super) async fn clean(&self, files: &[FileEntry]) {
        for file in files {
            if let Err(error) = self.clean_one(&file.path).await {
                tracing::warn!("file {} stays where it is, though cleanSource says otherwise: {error}", file.path);
            }
        }
    }

    async fn clean_one(&self, path: &str) -> Result<()> {
        let from = PathBuf::from(path);
        let cleaned = match self {
            Self::Off => return Ok(()),
            Self::Delete => blocking(move || Ok(fs::remove_file(from))).await?,
            Self::Archive(archive) => {
                let to = PathBuf::from(format!("{archive}{path}"));
                blocking(move || {
                    Ok(to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::rename(from, &to)))
                })
                .await?
            }
        };
        match cleaned {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_inside_the_source_is_refused() {
        let options =
            |dir: &str| -> Options { [("cleanSource", "archive"), ("sourceArchiveDir", dir)].into_iter().collect() };
        assert!(Clean::of(&options("/data/in/old"), "/data/in").is_err());
        assert!(Clean::of(&options("/data/in"), "/data/in").is_err());
        assert_eq!(Clean::of(&options("/data/inside"), "/data/in").unwrap(), Clean::Archive("/data/inside".into()));
        let missing: Options = [("cleanSource", "archive")].into_iter().collect();
        assert!(Clean::of(&missing, "/data/in").unwrap_err().message().contains("sourceArchiveDir"));
    }
}
