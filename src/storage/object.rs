//! Durable files in an object store, by conditional writes: an object is there whole or not at all.
//!
//! What S3 and HDFS have in common is "put if there is none"; nothing else is asked of the store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::DurableStore;
use crate::error::{Error, Result};

/// A prefix of an object store.
#[derive(Debug, Clone)]
pub struct ObjectBackedStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What comes before the prefix in messages.
    origin: String,
}

impl ObjectBackedStore {
    /// Makes a store over the objects of `store` below `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let origin = format!("{store}/");
        Self { store, prefix, origin }
    }

    /// Names the store in messages by what the user wrote, such as `memory://`.
    #[must_use]
    pub(crate) fn with_origin(mut self, origin: &str) -> Self {
        self.origin = origin.to_string();
        self
    }

    fn at(&self, name: &str) -> Path {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, doing: &str, name: &str, error: object_store::Error) -> Error {
        Error::unavailable(format!("cannot {doing} {}{}: {error}", self.origin, self.at(name))).with_source(error)
    }
}

#[async_trait]
impl DurableStore for ObjectBackedStore {
    fn location(&self) -> String {
        format!("{}{}", self.origin, self.prefix)
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.at(name), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.failed("create", name, error)),
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let found = match self.store.get(&self.at(name)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", name, error)),
        };
        found.bytes().await.map(Some).map_err(|error| self.failed("read", name, error))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.at(folder);
        let prefix = if path.as_ref().is_empty() { None } else { Some(&path) };
        let found = self.store.list_with_delimiter(prefix).await.map_err(|error| self.failed("list", folder, error))?;
        let mut names: Vec<String> =
            found.objects.iter().filter_map(|object| object.location.filename().map(str::to_string)).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        match self.store.copy_if_not_exists(&self.at(from), &self.at(to)).await {
            Ok(()) => {}
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                return Ok(false);
            }
            Err(error) => return Err(self.failed("move", from, error)),
        }
        self.delete(from).await?;
        Ok(true)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.at(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove", name, error)),
        }
    }

    fn below(&self, folder: &str) -> Arc<dyn DurableStore> {
        Arc::new(Self { prefix: self.at(folder), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_durable_store() {
        let store = ObjectBackedStore::new(Arc::new(InMemory::new()), Path::from("q"));
        assert!(store.create("offsets/1", Bytes::from_static(b"first")).await.unwrap());
        assert!(!store.create("offsets/1", Bytes::from_static(b"second")).await.unwrap());
        let offsets = store.below("offsets");
        assert_eq!(offsets.list("").await.unwrap(), ["1"]);
        assert_eq!(store.list("").await.unwrap(), Vec::<String>::new());
        assert!(offsets.rename("1", "2").await.unwrap());
        assert_eq!(store.read("offsets/1").await.unwrap(), None);
        assert_eq!(store.read("offsets/2").await.unwrap().unwrap(), "first");
        store.create("offsets/3", Bytes::new()).await.unwrap();
        assert!(!offsets.rename("3", "2").await.unwrap());
        store.delete("offsets/9").await.unwrap();
    }
}
