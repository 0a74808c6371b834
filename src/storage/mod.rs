//! Durable files, and nothing about streams.
//!
//! [`DurableStore`] is a directory in which a file, once written, survives a power cut whole or is not there at all.
//! On local disk that is write, fsync, link, fsync of the directory; elsewhere an object store's conditional put.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

mod checked;
mod disk;
mod local;
pub mod manifest;
mod object;
mod place;
mod power_cut;

pub use checked::{checksum, decode_checked, encode_checked, read_checked, write_checked};
pub(crate) use checked::{decode_or_remedy, file_path};
pub(crate) use disk::{Link, create_folder, create_new, failed, link_new, sync_dir, sync_file, write};
pub use local::LocalStore;
pub(crate) use local::blocking;
pub use object::ObjectBackedStore;
pub use place::{Place, open_place};

/// A directory of durable files. Names are relative, with `/` between folders.
#[async_trait]
pub trait DurableStore: fmt::Debug + Send + Sync {
    /// Returns the place as a person would name it, for messages: `out/_checkpoints/q` or `s3://bucket/q`.
    fn location(&self) -> String;

    /// Writes a file that must not be there yet. On return it is durable, whole, and visible under its name.
    /// Returns false, and changes nothing, where the name is taken.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool>;

    /// Like [`DurableStore::create`], for a file that nobody reads before a list names it: where the process dies on the way,
    /// a part of it may be left under its name. Costs a step less where names are made by linking.
    async fn create_unlisted(&self, name: &str, bytes: Bytes) -> Result<bool> {
        self.create(name, bytes).await
    }

    /// Reads a whole file, or `None` where there is none.
    async fn read(&self, name: &str) -> Result<Option<Bytes>>;

    /// Lists the files right below `folder` ("" for the directory itself), names without the folder, sorted.
    async fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Moves a file, without replacing: false where `to` is taken (then `from` stays). Durable on return.
    async fn rename(&self, from: &str, to: &str) -> Result<bool>;

    /// Removes a file; one that is not there is no error.
    async fn delete(&self, name: &str) -> Result<()>;

    /// Removes files; those that are not there are no error.
    async fn delete_all(&self, names: &[String]) -> Result<()> {
        for name in names {
            self.delete(name).await?;
        }
        Ok(())
    }

    /// Returns a store for a folder below.
    fn below(&self, folder: &str) -> Arc<dyn DurableStore>;
}

/// Reads a file's name that is a number: digits, no zero before others, and so few that the next number is one too.
/// `None` for every other name: such a file is a stranger's.
pub(crate) fn numbered(name: &str) -> Option<u64> {
    let plain = name.len() <= 18 && name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|number: &u64| plain && number.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn only_numbers_as_they_are_written_are_numbers() {
        assert_eq!(numbered("0"), Some(0));
        assert_eq!(numbered("999999999999999999"), Some(999_999_999_999_999_999));
        for name in ["", "00", "+1", "-1", "1 ", "١", "1.tmp", "18446744073709551615", "9223372036854775807"] {
            assert_eq!(numbered(name), None, "{name}");
        }
    }
}
