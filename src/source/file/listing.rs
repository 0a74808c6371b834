//! Which files a path stands for: one file, a directory with all below it, a glob, or a table's manifest.
//!
//! Called once for each plan of the source, and by whoever reads files as a plain table. Guards the order (time of
//! modification, then path; for a table that Millstream writes, the order of its manifest) and that files which are
//! still being written, under names that begin with `_` or `.`, are not seen.

use std::path::{Component, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::glob::{Segment, has_wildcard, matched_segments, parse_segments, spelled_out};
use super::layout::{folder_pair, percent_decoded};
use super::walk::{Found, files_below};
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::storage::manifest::{MANIFEST_FOLDER, Manifest};
use crate::storage::open_place;

/// A file as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The absolute path.
    pub path: String,
    /// The time of its last change, in milliseconds since the epoch; for a file of a manifest its sequence, which
    /// orders as well.
    pub modified_ms: i64,
    /// The size in bytes.
    pub size: u64,
    /// How many folders between the root that was listed and the file may hold partition values (`origin=EWR`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub folders: usize,
    /// Its place in a manifest: the entry's sequence, and the position in the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<(u64, u64)>,
}

fn is_zero(folders: &usize) -> bool {
    *folders == 0
}

impl FileEntry {
    /// Returns the name of the file, without folders.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Returns the partition columns that the folders above the file name, and their values (`None`: NULL).
    pub(super) fn partitions(&self) -> Vec<(String, Option<String>)> {
        let mut folders: Vec<_> = self.path.rsplit('/').skip(1).take(self.folders).filter_map(folder_pair).collect();
        folders.reverse();
        folders
    }

    fn order(&self) -> (i64, u64, &str) {
        (self.modified_ms, self.published.map_or(0, |(_, position)| position), &self.path)
    }
}

/// Lists the files of `path`: one file, a directory with everything below it, or a glob with `*`, `?`, `[…]`, `{a,b}`
/// and `**`. Names that begin with `_` or `.` are left out. Ordered by time of modification, then path.
///
/// # Errors
/// `Unavailable` where there is nothing at `path`; `Unsupported` for a URL scheme that is not `file`.
pub async fn list_files(path: &str) -> Result<Vec<FileEntry>> {
    Listing::new(path, &Options::new())?.list(0).await
}

/// Lists as [`list_files`] does, heeding the options `pathGlobFilter` and `recursiveFileLookup`.
///
/// # Errors
/// As [`list_files`]; `InvalidOption` for a bad value.
pub async fn list_files_with(path: &str, options: &Options) -> Result<Vec<FileEntry>> {
    Listing::new(path, options)?.list(0).await
}

/// A place to list, again and again.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// The absolute path, wildcards included.
    path: String,
    name_filter: Vec<Segment>,
    /// Folders are just folders: they hold no partition values.
    plain_folders: bool,
}

impl Listing {
    /// Reads path and options; nothing is touched yet.
    ///
    /// # Errors
    /// `InvalidOption` for a bad pattern; `Unsupported` for a URL scheme that is not `file`.
    pub(super) fn new(path: &str, options: &Options) -> Result<Self> {
        let name_filter = match options.get("pathGlobFilter") {
            Some(filter) if filter.contains('/') => {
                return Err(bad_value("pathGlobFilter", filter, "a pattern for file names, without '/'"));
            }
            Some(filter) => spelled_out(filter).iter().map(|one| Segment::parse(one)).collect::<Result<Vec<_>>>()?,
            None => Vec::new(),
        };
        let plain_folders = options.flag("recursiveFileLookup", false)?;
        Ok(Self { path: absolute(path)?, name_filter, plain_folders })
    }

    /// Returns the absolute path, wildcards included.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the folder below which all files are.
    pub(super) fn folder(&self) -> String {
        let fixed: Vec<&str> = self.path.split('/').take_while(|part| !has_wildcard(part)).collect();
        fixed.join("/")
    }

    /// Lists the files, in order; of a manifest only entries from `first_sequence` on.
    ///
    /// # Errors
    /// `Unavailable` where there is nothing at the path, or it cannot be read; `CheckpointCorrupt` where a table's
    /// manifest is.
    pub(super) async fn list(&self, first_sequence: u64) -> Result<Vec<FileEntry>> {
        let mut files = match tokio::fs::metadata(&self.path).await {
            Ok(metadata) if metadata.is_dir() => match published(&self.path, first_sequence).await? {
                Some(files) => files,
                None => walk(&self.path, &[]).await?,
            },
            Ok(_) => vec![head(&self.path).await?],
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && has_wildcard(&self.path) => self.glob().await?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing(&self.path)),
            Err(e) => {
                return Err(Error::unavailable(format!("{} cannot be read: {e}", self.path)).with_source(e));
            }
        };
        if !self.name_filter.is_empty() {
            files.retain(|file| self.name_filter.iter().any(|filter| filter.matches(file.name())));
        }
        if self.plain_folders {
            files.iter_mut().for_each(|file| file.folders = 0);
        }
        files.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(files)
    }

    async fn glob(&self) -> Result<Vec<FileEntry>> {
        let mut files = Vec::new();
        for pattern in spelled_out(&self.path) {
            let parts: Vec<&str> = pattern.split('/').collect();
            let fixed = parts.iter().take_while(|part| !has_wildcard(part)).count().min(parts.len() - 1);
            let base = parts[..fixed].join("/");
            let segments = parse_segments(&parts[fixed..])?;
            match tokio::fs::metadata(if base.is_empty() { "/" } else { base.as_str() }).await {
                Ok(metadata) if metadata.is_dir() => files.extend(walk(&base, &segments).await?),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing(&base)),
                Err(e) => {
                    return Err(Error::unavailable(format!("{base} cannot be read: {e}")).with_source(e));
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(files)
    }
}

/// Returns the entry of one file.
///
/// # Errors
/// `Unavailable` where it is not there or cannot be read.
pub(super) async fn head(path: &str) -> Result<FileEntry> {
    let metadata = tokio::fs::metadata(path).await.map_err(|e| super::lines::unreadable(path, e))?;
    Ok(entry(path.to_string(), &metadata, 0))
}

/// Lists the files below `base`; where there are `segments`, those that match them or lie below a folder that does.
async fn walk(base: &str, segments: &[Segment]) -> Result<Vec<FileEntry>> {
    let own = segments.to_vec();
    let enters = move |depth: usize, name: &str| {
        !is_hidden(name) || own.get(depth).is_some_and(|segment| segment.begins_like(name))
    };
    let found = files_below(base, enters).await?;
    let matching = found.into_iter().filter_map(|Found { parts, metadata }| {
        let matched = matched_segments(segments, &parts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let path = format!("{}/{}", base.trim_end_matches('/'), parts.join("/"));
        Some(entry(path, &metadata, parts.len().saturating_sub(matched + 1)))
    });
    Ok(matching.collect())
}

/// Lists the files of a table that Millstream writes, or `None` where there is no manifest.
async fn published(root: &str, first_sequence: u64) -> Result<Option<Vec<FileEntry>>> {
    if !tokio::fs::try_exists(format!("{root}/{MANIFEST_FOLDER}")).await.unwrap_or(false) {
        return Ok(None);
    }
    let manifest = Manifest::new(open_place(root)?);
    let Some(entries) = manifest.entries_from(first_sequence).await? else {
        return Ok(None);
    };
    let mut files = Vec::new();
    for entry in entries {
        for (position, file) in (0..).zip(entry.files) {
            files.push(FileEntry {
                path: format!("{root}/{}", file.path),
                modified_ms: i64::try_from(entry.sequence).unwrap_or(i64::MAX),
                size: file.size,
                folders: file.path.matches('/').count(),
                published: Some((entry.sequence, position)),
            });
        }
    }
    Ok(Some(files))
}

fn entry(path: String, metadata: &std::fs::Metadata, folders: usize) -> FileEntry {
    // A file system without times has files of no age.
    let modified_ms = metadata.modified().map_or(0, |time| DateTime::<Utc>::from(time).timestamp_millis());
    FileEntry { path, modified_ms, size: metadata.len(), folders, published: None }
}

/// A file that somebody is still writing, or that is not data. `_col=1` is a partition all the same.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

fn missing(path: &str) -> Error {
    Error::unavailable(format!("{path} does not exist; create the directory (it may be empty) or mend the path"))
}

/// Returns the absolute path that a user means, without `.` and `..`.
pub(super) fn absolute(path: &str) -> Result<String> {
    let path = path.trim();
    let local = match path.split_once("://") {
        Some(("file", rest)) => percent_decoded(rest.strip_prefix("localhost").unwrap_or(rest)),
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            return Err(Error::unsupported(format!(
                "'{path}': files cannot be read from '{scheme}://'; use a local path or file://"
            )));
        }
        _ => path.strip_prefix("file:").unwrap_or(path).to_string(),
    };
    if local.is_empty() {
        return Err(bad_value("path", path, "the path of a directory or file"));
    }
    let mut normal = PathBuf::new();
    for component in std::path::absolute(&local)?.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal.to_str().map(str::to_string).ok_or_else(|| bad_value("path", path, "a path in UTF-8"))
}

/// Reads a span of time as milliseconds: `7d`, `2 hours`, `90m`, `10 seconds`, `500ms`, or a bare number of
/// milliseconds.
pub(in crate::source) fn parse_duration_ms(text: &str) -> Option<i64> {
    let text = text.trim().to_lowercase();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: i64 = text[..digits].parse().ok()?;
    let unit_ms = match text[digits..].trim() {
        "" | "ms" | "millisecond" | "milliseconds" => 1,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        "w" | "week" | "weeks" => 604_800_000,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    async fn names(root: &std::path::Path, below: &str) -> Vec<String> {
        let path = format!("{}/{below}", root.display());
        let files = list_files(&path).await.unwrap();
        let prefix = format!("{}/", root.display());
        files.iter().map(|file| file.path.strip_prefix(&prefix).unwrap().to_string()).collect()
    }

    fn touch(root: &std::path::Path, paths: &[&str]) {
        for path in paths {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }

    #[tokio::test]
    async fn globs_pick_files_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        touch(&root, &["a/x.json", "a/y.csv", "b/x.json", "b/deep/z.json", "_c/x.json", ".d/x.json", "a/_tmp.json"]);
        let sorted = async |below: &str| {
            let mut names = names(&root, below).await;
            names.sort();
            names
        };
        assert_eq!(sorted("").await, ["a/x.json", "a/y.csv", "b/deep/z.json", "b/x.json"]);
        assert_eq!(sorted("*/x.json").await, ["a/x.json", "b/x.json"]);
        assert_eq!(sorted("[b-c]").await, ["b/deep/z.json", "b/x.json"]);
        assert_eq!(sorted("{a,b}/?.json").await, ["a/x.json", "b/x.json"]);
        assert_eq!(sorted("**/z.json").await, ["b/deep/z.json"]);
        assert_eq!(sorted("_c").await, ["_c/x.json"]);
        assert_eq!(sorted("a/y.csv").await, ["a/y.csv"]);
        let json: Options = [("pathGlobFilter", "*.csv")].into_iter().collect();
        let filtered = list_files_with(root.to_str().unwrap(), &json).await.unwrap();
        assert_eq!(filtered.iter().map(FileEntry::name).collect::<Vec<_>>(), ["y.csv"]);
    }

    #[tokio::test]
    async fn files_are_ordered_by_time_then_path() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        touch(&root, &["c", "a", "b"]);
        for (name, seconds) in [("a", 20), ("b", 10), ("c", 10)] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options().append(true).open(root.join(name)).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(names(&root, "").await, ["b", "c", "a"]);
        assert_eq!(list_files(root.to_str().unwrap()).await.unwrap()[0].modified_ms, 10_000);
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let error = list_files("/no/such/place").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("/no/such/place does not exist; create"), "{error}");
        let error = list_files("s3://bucket/x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("s3://"), "{error}");
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration_ms("7d"), Some(604_800_000));
        assert_eq!(parse_duration_ms("2 hours"), Some(7_200_000));
        assert_eq!(parse_duration_ms("1500"), Some(1_500));
        assert_eq!(parse_duration_ms("soon"), None);
    }
}
