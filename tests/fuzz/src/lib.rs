//! What the fuzz targets share: a runtime, and directories of durable files that lie in memory.
//!
//! A target gives bytes to what reads bytes of others: an error is an answer, a panic, a hang or a great deal of memory
//! is a finding. Each finding becomes an ordinary test (`tests/streams/fuzz_findings.rs`).

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use millstream::error::{Error, ErrorKind};
use millstream::storage::{DurableStore, ObjectBackedStore, encode_checked};
use object_store::memory::InMemory;
use object_store::path::Path;

/// Runs `future` to its end on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime on this thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Makes a directory in memory with these files.
pub fn store_of(files: &[(&str, Bytes)]) -> Arc<dyn DurableStore> {
    let store: Arc<dyn DurableStore> = Arc::new(ObjectBackedStore::new(Arc::new(InMemory::new()), Path::default()));
    for (name, bytes) in files {
        let created = block_on(store.create(name, bytes.clone()));
        assert!(created.expect("memory takes every file"), "{name} is there twice");
    }
    store
}

/// Returns `data` as it is, or with an envelope that fits: the first byte says which.
pub fn enveloped(data: &[u8]) -> Bytes {
    match data.split_first() {
        Some((first, rest)) if first % 8 > 0 => encode_checked(rest),
        Some((_, rest)) => Bytes::copy_from_slice(rest),
        None => Bytes::new(),
    }
}

/// Fails where bad input was taken for a bug of Millstream's.
pub fn not_internal(error: &Error) {
    assert!(error.kind() != ErrorKind::Internal, "bad input was called an internal error: {error}");
}
