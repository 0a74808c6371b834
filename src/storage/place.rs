//! Where durable files are, as a person writes it: a path, `file://…` or `memory://…`.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use object_store::memory::InMemory;
use object_store::path::Path;

use super::{DurableStore, LocalStore, ObjectBackedStore};
use crate::error::{Error, Result};

/// A place for durable files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory on a local disk.
    Local(PathBuf),
    /// A prefix of this process's memory: gone with the process, for tests.
    Memory(Path),
}

impl Place {
    /// Reads a place from what a user wrote.
    ///
    /// # Errors
    /// `Unsupported` for a scheme that Millstream does not know; `InvalidOption` where nothing was written.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::invalid_option("a path is empty: write a local path such as 'out/delays'"));
        }
        match text.split_once("://") {
            Some(("file", rest)) => Ok(Self::Local(PathBuf::from(decode_percent(local_part(rest))))),
            Some(("memory", rest)) => Ok(Self::Memory(Path::from(rest))),
            Some((scheme, _)) if is_scheme(scheme) => Err(Error::unsupported(format!(
                "'{text}': durable files in '{scheme}://' are not supported; local paths and file:// are"
            ))),
            _ => Ok(Self::Local(PathBuf::from(text.strip_prefix("file:").unwrap_or(text)))),
        }
    }

    /// Returns a store over the place. Nothing is created before the first file is.
    pub fn open(&self) -> Arc<dyn DurableStore> {
        match self {
            Self::Local(path) => Arc::new(LocalStore::new(path)),
            Self::Memory(prefix) => {
                let memory: Arc<InMemory> = Arc::clone(&MEMORY);
                Arc::new(ObjectBackedStore::new(memory, prefix.clone()).with_origin("memory://"))
            }
        }
    }
}

/// Opens the place that `text` names.
///
/// # Errors
/// As [`Place::parse`].
pub fn open_place(text: &str) -> Result<Arc<dyn DurableStore>> {
    Ok(Place::parse(text)?.open())
}

/// One memory for all `memory://` places, so that a second query finds what the first wrote.
static MEMORY: LazyLock<Arc<InMemory>> = LazyLock::new(|| Arc::new(InMemory::new()));

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// The path in what follows `file://`: `localhost` is the one host whose files are local.
fn local_part(rest: &str) -> &str {
    rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest)
}

fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn paths_and_urls_name_local_directories() {
        for (text, path) in [
            ("out/delays/", "out/delays/"),
            ("file:///data/a%20b", "/data/a b"),
            ("file://localhost/data/100%", "/data/100%"),
            ("file:/data/x", "/data/x"),
        ] {
            assert_eq!(Place::parse(text).unwrap(), Place::Local(PathBuf::from(path)), "{text}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_named() {
        let error = open_place("s3://bucket/q").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("s3://") && error.message().contains("local paths"), "{error}");
    }

    #[tokio::test]
    async fn memory_is_shared_by_url() {
        open_place("memory://place-test/a").unwrap().create("x", Bytes::new()).await.unwrap();
        let parent = open_place("memory://place-test").unwrap();
        assert_eq!(parent.location(), "memory://place-test");
        assert_eq!(parent.list("a").await.unwrap(), ["x"]);
    }
}
