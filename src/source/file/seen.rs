//! Which files were read: what makes a file count once.
//!
//! Guards that the memory is bounded: a file older than `maxFileAge` (reckoned from the newest file read) is forgotten
//! and from then on ignored. Files of a manifest need no memory but a mark, because they come in an order that never
//! changes.

use std::collections::HashMap;

use super::listing::FileEntry;

/// What an offset carries of the files read: paths (or names) with their times, and how far a table's manifest was read.
pub(super) type Remembered = (Vec<(String, i64)>, Option<(u64, u64)>);

/// How files are told apart and forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// A file is known by its name alone, so that moving a directory changes nothing.
    pub(super) by_name: bool,
    /// How long a file is remembered; for ever where `None`.
    pub(super) max_age_ms: Option<i64>,
}

/// The files that were read.
#[derive(Debug)]
pub(super) struct Seen {
    memory: Memory,
    /// What a file is known by → when it was changed.
    files: HashMap<String, i64>,
    newest_ms: Option<i64>,
    /// The last file read of a manifest that is read in its order.
    mark: Option<(u64, u64)>,
}

impl Seen {
    /// Makes an empty memory.
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, files: HashMap::new(), newest_ms: None, mark: None }
    }

    /// Returns whether a file is still to be read.
    pub(super) fn is_new(&self, file: &FileEntry) -> bool {
        let known = match file.published {
            Some(place) => self.mark.is_some_and(|mark| place <= mark),
            None => self.oldest_ms().is_some_and(|oldest_ms| file.modified_ms < oldest_ms),
        };
        !known && !self.files.contains_key(self.key(&file.path))
    }

    /// Remembers files that were read; `in_order` tells that those of a manifest were read in its order.
    pub(super) fn add(&mut self, files: &[FileEntry], in_order: bool) {
        for file in files {
            match file.published {
                Some(place) if in_order => self.mark = self.mark.max(Some(place)),
                Some(_) => self.insert(&file.path, i64::MAX),
                None => self.insert(&file.path, file.modified_ms),
            }
        }
    }

    /// Remembers what [`Seen::remembered`] returned.
    pub(super) fn restore(&mut self, files: &[(String, i64)], mark: Option<(u64, u64)>) {
        for (path, modified_ms) in files {
            self.insert(path, *modified_ms);
        }
        self.mark = self.mark.max(mark);
    }

    /// Forgets what is too old, and returns the rest, ordered.
    pub(super) fn remembered(&mut self) -> Remembered {
        if let Some(oldest_ms) = self.oldest_ms() {
            self.files.retain(|_, modified_ms| *modified_ms >= oldest_ms);
        }
        let mut files: Vec<_> = self.files.iter().map(|(path, modified_ms)| (path.clone(), *modified_ms)).collect();
        files.sort_unstable();
        (files, self.mark)
    }

    /// Returns the first entry of a manifest that may hold files not yet read.
    pub(super) fn first_sequence(&self) -> u64 {
        self.mark.map_or(0, |(sequence, _)| sequence)
    }

    fn insert(&mut self, path: &str, modified_ms: i64) {
        let key = self.key(path).to_string();
        self.files.insert(key, modified_ms);
        // i64::MAX stands for a file of a manifest, whose age is not known
        if modified_ms != i64::MAX {
            self.newest_ms = self.newest_ms.max(Some(modified_ms));
        }
    }

    fn key<'a>(&self, path: &'a str) -> &'a str {
        if self.memory.by_name { path.rsplit('/').next().unwrap_or(path) } else { path }
    }

    fn oldest_ms(&self) -> Option<i64> {
        Some(self.newest_ms?.saturating_sub(self.memory.max_age_ms?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, modified_ms: i64) -> FileEntry {
        FileEntry { path: path.to_string(), modified_ms, size: 1, folders: 0, published: None }
    }

    #[test]
    fn old_files_are_forgotten_and_stay_ignored() {
        let mut seen = Seen::new(Memory { by_name: false, max_age_ms: Some(100) });
        seen.add(&[file("/a", 10), file("/b", 200)], true);
        assert!(!seen.is_new(&file("/a", 10)));
        assert!(!seen.is_new(&file("/late", 99)));
        assert!(seen.is_new(&file("/c", 100)));
        assert_eq!(seen.remembered().0, [("/b".to_string(), 200)]);
        assert!(!seen.is_new(&file("/a", 10)));
    }

    #[test]
    fn a_name_may_be_enough() {
        let mut seen = Seen::new(Memory { by_name: true, max_age_ms: None });
        seen.add(&[file("/old/a", 10)], true);
        assert!(!seen.is_new(&file("/new/a", 10)));
    }

    #[test]
    fn a_manifest_needs_only_a_mark() {
        let published = |sequence, position| FileEntry {
            published: Some((sequence, position)),
            ..file(&format!("/{sequence}-{position}"), sequence as i64)
        };
        let mut seen = Seen::new(Memory { by_name: false, max_age_ms: Some(1) });
        seen.add(&[published(3, 0)], true);
        assert!(!seen.is_new(&published(2, 5)));
        assert!(seen.is_new(&published(3, 1)));
        assert_eq!(seen.remembered(), (vec![], Some((3, 0))));
    }
}
