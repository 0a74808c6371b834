//! Snapshots that take longer than many batches: whatever is purged meanwhile, every commit that is kept finds the files
//! that it lists, and a restart goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use millstream::error::Result;
use millstream::prelude::*;
use millstream::storage::DurableStore;
use serde_json::Value;

use crate::collected::Collected;
use crate::counted::{rows, schema};
use crate::failing_store::memory;

/// So many files are written while a snapshot waits: three a batch.
const MEANWHILE: usize = 120;
const PUSHES: i64 = 260;

/// A store in which a snapshot waits until other files have been written, or none is any more.
#[derive(Debug, Clone)]
struct Slow {
    inner: Arc<dyn DurableStore>,
    written: Arc<AtomicUsize>,
}

impl Slow {
    async fn wait(&self) {
        let begun = self.written.load(Ordering::SeqCst);
        let mut seen = begun;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.written.load(Ordering::SeqCst);
            if now >= begun + MEANWHILE || now == seen {
                return;
            }
            seen = now;
        }
    }
}

#[async_trait]
impl DurableStore for Slow {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        // The first is all there is, and its batch waits for it.
        if name.ends_with(".snapshot") && !name.contains("/1-") {
            self.wait().await;
        }
        self.written.fetch_add(1, Ordering::SeqCst);
        self.inner.create(name, bytes).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.inner.read(name).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.inner.list(folder).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        self.inner.rename(from, to).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name).await
    }

    fn below(&self, folder: &str) -> Arc<dyn DurableStore> {
        Arc::new(Self { inner: self.inner.below(folder), written: Arc::clone(&self.written) })
    }
}

async fn run(stream: &MemoryStream, sink: &Collected, store: Arc<dyn DurableStore>) -> Result<()> {
    let session = Session::builder().lanes(1).build();
    let frame = session.read_stream().option("maxBatchesPerTrigger", 1).memory(stream)?;
    let counted = frame.aggregate(vec![col("k")], vec![count(lit(1)).alias("n"), sum(col("v")).alias("s")])?;
    let writer = counted.write_stream().output_mode(OutputMode::Update).trigger(Trigger::AvailableNow);
    let writer = writer.sink(Arc::new(sink.clone()));
    writer.checkpoint_store(store).start("").await?.await_termination().await
}

/// The state files that a commit lists: version and name.
async fn listed(store: &dyn DurableStore, commit: &str) -> Vec<(i64, String)> {
    let bytes = store.read(&format!("commits/{commit}")).await.unwrap().unwrap();
    let payload = &bytes[bytes.iter().position(|byte| *byte == b'\n').unwrap()..];
    let entry: Value = serde_json::from_slice(payload).unwrap();
    let files = entry["state"].as_array().unwrap().iter().flat_map(|state| state["files"].as_array().unwrap());
    files.map(|file| (file["version"].as_i64().unwrap(), file["name"].as_str().unwrap().to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_that_is_kept_finds_its_files() {
    let stream = MemoryStream::new(schema());
    (0..PUSHES).for_each(|push| stream.push(rows(push, 6)).unwrap());
    let (store, sink) = (memory(), Collected::default());
    let slow = Slow { inner: Arc::clone(&store), written: Arc::default() };
    run(&stream, &sink, Arc::new(slow)).await.unwrap();

    let (commits, state) = (store.list("commits").await.unwrap(), store.below("state"));
    assert!(commits.len() < 150, "nothing was purged: {}", commits.len());
    let mut late = 0;
    for commit in &commits {
        let batch_id: i64 = commit.parse().unwrap();
        for (version, name) in listed(store.as_ref(), commit).await {
            assert!(state.read(&name).await.unwrap().is_some(), "commits/{commit} lists {name}, which is gone");
            late += usize::from(name.ends_with(".snapshot") && version + 20 < batch_id);
        }
    }
    assert!(late > 0, "no snapshot took longer than twenty batches");

    stream.push(rows(PUSHES, 6)).unwrap();
    run(&stream, &sink, store).await.unwrap();
    let last = sink.batches().pop_last().unwrap().1;
    let expected = |key: i64| {
        let sum: i64 = (0..=PUSHES).map(|push| 2 * push * 6 + key + key + 3).sum();
        format!("k{key}, {}, {sum}", 2 * (PUSHES + 1))
    };
    let shown: Vec<String> = last.iter().map(|row| row.to_string()).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    for key in 0..3 {
        let words: Vec<String> = expected(key).split(", ").map(str::to_string).collect();
        assert!(shown.iter().any(|row| words.iter().all(|word| row.contains(word.as_str()))), "{words:?} in {shown:?}");
    }
}
