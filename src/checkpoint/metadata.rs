//! The file `metadata`: whose checkpoint this is, and in which format.
//!
//! It is the first file of a checkpoint, so a directory with logs and without it is not whole.

use serde::{Deserialize, Serialize};

use super::layout::{COMMITS, METADATA, OFFSETS, RUNS};
use crate::error::{Error, Result};
use crate::storage::{DurableStore, decode_checked, file_path, write_checked};

/// The format that this Millstream writes, and the newest it reads.
const FORMAT: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// The query's id.
    pub(crate) id: String,
    format: u64,
}

/// Reads the metadata, or begins a new checkpoint where there is none.
pub(crate) async fn read_or_create(store: &dyn DurableStore) -> Result<Metadata> {
    if let Some(metadata) = read(store).await? {
        return Ok(metadata);
    }
    let metadata = Metadata { id: uuid::Uuid::new_v4().to_string(), format: FORMAT };
    if write_checked(store, METADATA, serde_json::to_vec(&metadata)?).await? {
        return Ok(metadata);
    }
    match read(store).await? {
        Some(metadata) => Ok(metadata),
        None => Err(Error::corrupt(format!(
            "{} came and went; let nothing but Millstream write to this directory",
            file_path(store, METADATA)
        ))),
    }
}

/// Returns a folder that holds files as a checkpoint's does.
async fn folder_in_use(store: &dyn DurableStore) -> Result<Option<&'static str>> {
    for folder in [OFFSETS, COMMITS, RUNS] {
        if !store.list(folder).await?.is_empty() {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Reads the metadata, or `None` where the directory holds no checkpoint.
pub(crate) async fn read(store: &dyn DurableStore) -> Result<Option<Metadata>> {
    let path = file_path(store, METADATA);
    let bytes = match store.read(METADATA).await? {
        Some(bytes) => bytes,
        None => {
            let Some(folder) = folder_in_use(store).await? else {
                return Ok(None);
            };
            // Metadata comes before any other file: where it is there now, another run began the checkpoint this moment.
            store.read(METADATA).await?.ok_or_else(|| {
                Error::corrupt(format!(
                    "{path} is missing, though {folder}/ holds files; restore it from a copy, or start with a new \
                     checkpoint and a new table (a copy that was interrupted: delete the directory and copy again)"
                ))
            })?
        }
    };
    if bytes.first() == Some(&b'{') {
        return Err(Error::incompatible(format!(
            "{} is a checkpoint of Spark; Millstream cannot go on from it: give the query a checkpoint directory of \
             its own",
            store.location()
        )));
    }
    let payload = decode_checked(&path, bytes)?;
    let metadata: Metadata = serde_json::from_slice(&payload).map_err(|error| {
        Error::corrupt(format!("{path}: not a checkpoint's metadata ({error}); restore this file from a copy"))
    })?;
    if metadata.format > FORMAT {
        return Err(Error::incompatible(format!(
            "{path}: the checkpoint has format {}, and this Millstream reads up to {FORMAT}; use the newer Millstream \
             that wrote it, or a new checkpoint",
            metadata.format
        )));
    }
    Ok(Some(metadata))
}

/// Reads the metadata of a checkpoint that must be there.
pub(crate) async fn existing(store: &dyn DurableStore) -> Result<Metadata> {
    read(store).await?.ok_or_else(|| {
        Error::unavailable(format!("{} holds no checkpoint (it has no file 'metadata')", store.location()))
    })
}
