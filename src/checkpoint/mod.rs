//! What a query must remember to go on after a crash: the checkpoint directory.
//!
//! ```text
//! metadata              the query's id and the format
//! runs/<k>              one file a run, the highest owns the checkpoint
//! offsets/<batch>       what a batch reads, written before it runs
//! commits/<batch>       that it is decided, and what state and output belong to it
//! state/<operator>/…    chunks of state, listed by the commits
//! sources/<source>/…    journals of sources that cannot be read again
//! ```
//!
//! The engine opens a [`Checkpoint`] once a run. Entries are created, never replaced, and carry a checksum; a missing
//! one in the middle is an error. Offsets of a batch come before anything else of it, and its commit decides it.

use std::sync::Arc;

use crate::error::Result;
use crate::storage::DurableStore;

mod batch_log;
mod commit_log;
mod copy;
mod inspect;
mod layout;
mod metadata;
mod offset_log;
mod runs;
mod state_reader;

pub use batch_log::{BatchLog, LogEntry};
pub use commit_log::{CommitEntry, CommitLog, LateRowsCommit, StateFiles, WatermarkState};
pub use copy::{copy, rewind};
pub use inspect::{InspectedBatch, Inspection, inspect, query_id};
pub(crate) use layout::SOURCES_LOOK_BACK;
pub use offset_log::{OffsetEntry, OffsetLog, SourceOffsets};
pub use runs::Run;
pub use state_reader::{OperatorStore, StateReader, StoreSummary};

/// A checkpoint directory, opened by the run that owns it.
#[derive(Debug)]
pub struct Checkpoint {
    store: Arc<dyn DurableStore>,
    query_id: String,
    offset_log: OffsetLog,
    commit_log: CommitLog,
    run: Run,
}

impl Checkpoint {
    /// Opens the checkpoint in `store`, or begins a new one where the directory is empty, and takes it over from any
    /// earlier run. On return the run is durable: earlier runs end with `Fenced` at their next step.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where a file is missing or altered; `CheckpointIncompatible` where it is Spark's or a newer
    /// Millstream's; `Unavailable` where the directory cannot be read or written.
    pub async fn open(store: Arc<dyn DurableStore>) -> Result<Self> {
        let metadata = metadata::read_or_create(store.as_ref()).await?;
        let offset_log = OffsetLog::new(Arc::clone(&store));
        let commit_log = CommitLog::new(Arc::clone(&store));
        let run = Run::take(Arc::clone(&store), newest_run(&offset_log, &commit_log).await?).await?;
        if let Err(error) = layout::verify(store.as_ref()).await {
            return Err(run.judge(error).await);
        }
        Ok(Self { query_id: metadata.id, offset_log, commit_log, run, store })
    }

    /// Returns the query's id: the same in every run on this checkpoint.
    pub fn query_id(&self) -> &str {
        &self.query_id
    }

    /// Returns the place as a person would name it.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// Returns the log of what batches read.
    pub fn offset_log(&self) -> &OffsetLog {
        &self.offset_log
    }

    /// Returns the log of decided batches.
    pub fn commit_log(&self) -> &CommitLog {
        &self.commit_log
    }

    /// Returns the run that owns this checkpoint.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Returns the directory for state.
    pub fn state(&self) -> Arc<dyn DurableStore> {
        self.store.below(layout::STATE)
    }

    /// Returns the directory for the journal of one source.
    pub fn source_journal(&self, source: &str) -> Arc<dyn DurableStore> {
        self.store.below(&layout::journal(source))
    }
}

/// The greatest number of a run that the newest entries know of; zero where there are none.
async fn newest_run(offset_log: &OffsetLog, commit_log: &CommitLog) -> Result<u64> {
    let planned = offset_log.latest().await?.map_or(0, |entry| entry.run);
    Ok(commit_log.latest().await?.map_or(0, |entry| entry.run).max(planned))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::state::{FileKind, StateFile};
    use crate::storage::{LocalStore, checksum, encode_checked};

    fn store(path: &Path) -> Arc<dyn DurableStore> {
        Arc::new(LocalStore::new(path))
    }

    fn offsets(batch_id: i64, run: u64) -> OffsetEntry {
        OffsetEntry {
            batch_id,
            run,
            watermark_ms: 1_000 * batch_id,
            late_watermark_ms: 1_000 * (batch_id - 1).max(0),
            batch_timestamp_ms: 7,
            lanes: 2,
            conf: BTreeMap::from([("multipleWatermarkPolicy".to_string(), "min".to_string())]),
            sources: vec![SourceOffsets {
                name: "flights".into(),
                start: None,
                end: Some(json!({"row": batch_id})),
                identity: None,
            }],
        }
    }

    fn commit(batch_id: i64, run: u64, state: Vec<StateFiles>) -> CommitEntry {
        CommitEntry {
            batch_id,
            run,
            lanes: 1,
            watermark: WatermarkState {
                global_ms: 1_000,
                nodes: vec![1_000, i64::MIN],
                idle: vec![false, true],
                partitions: BTreeMap::new(),
            },
            state,
            sink: json!({"files": []}),
            sink_description: None,
            late_rows: None,
            fingerprint: json!(null),
        }
    }

    /// A checkpoint with `decided` batches and one that is planned, whose last commit lists one state file.
    async fn with_batches(path: &Path, decided: i64) {
        let checkpoint = Checkpoint::open(store(path)).await.unwrap();
        let run = checkpoint.run().number();
        for batch_id in 0..decided {
            checkpoint.offset_log().add(&offsets(batch_id, run)).await.unwrap();
            let name = format!("0/{batch_id}.delta");
            let bytes = format!("state of {batch_id}");
            let file = StateFile {
                store: crate::state::DEFAULT_STORE.to_string(),
                name: name.clone(),
                lane: 0,
                version: batch_id + 1,
                length: bytes.len() as u64,
                crc32: checksum(bytes.as_bytes()),
                kind: FileKind::Delta,
            };
            checkpoint.state().create(&name, bytes.into()).await.unwrap();
            let state = vec![StateFiles { operator: 0, version: batch_id + 1, files: vec![file] }];
            checkpoint.commit_log().add(&commit(batch_id, run, state)).await.unwrap();
        }
        checkpoint.offset_log().add(&offsets(decided, run)).await.unwrap();
    }

    async fn open_error(path: &Path) -> Error {
        Checkpoint::open(store(path)).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_new_run_finds_what_the_last_one_wrote() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 12).await;
        let checkpoint = Checkpoint::open(store(dir.path())).await.unwrap();
        assert_eq!(checkpoint.run().number(), 2);
        assert_eq!(checkpoint.offset_log().latest().await.unwrap(), Some(offsets(12, 1)));
        assert_eq!(checkpoint.commit_log().latest().await.unwrap().unwrap().batch_id, 11);
        assert_eq!(checkpoint.offset_log().entries_up_to(10).await.unwrap().len(), 11);
        assert_eq!(checkpoint.offset_log().get(40).await.unwrap(), None);
        let id = checkpoint.query_id().to_string();
        assert_eq!(Checkpoint::open(store(dir.path())).await.unwrap().query_id(), id);
    }

    #[tokio::test]
    async fn a_batch_of_another_run_fences() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(store(dir.path())).await.unwrap();
        checkpoint.offset_log().add(&offsets(0, 1)).await.unwrap();
        checkpoint.offset_log().add(&offsets(0, 1)).await.unwrap(); // the very same entry is ours
        let error = checkpoint.offset_log().add(&offsets(0, 2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.message().contains("offsets/0"), "{error}");
    }

    #[tokio::test]
    async fn a_commit_that_knows_nothing_of_late_rows_is_read() {
        let plain = commit(0, 1, vec![]);
        let text = serde_json::to_string(&plain).unwrap();
        assert!(!text.contains("late_rows"), "{text}");
        assert_eq!(serde_json::from_str::<CommitEntry>(&text).unwrap(), plain);

        // A sink that needs nothing for publishing writes null, which is not the same as no sink.
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(store(dir.path())).await.unwrap();
        let late_rows = Some(LateRowsCommit { first_batch_id: 0, sink: json!(null) });
        let commit = CommitEntry { late_rows, ..plain };
        checkpoint.commit_log().add(&commit).await.unwrap();
        checkpoint.commit_log().add(&commit).await.unwrap();
        assert_eq!(checkpoint.commit_log().latest().await.unwrap(), Some(commit));
    }

    #[tokio::test]
    async fn purging_keeps_what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 12).await;
        let checkpoint = Checkpoint::open(store(dir.path())).await.unwrap();
        checkpoint.offset_log().purge_below(9).await.unwrap();
        assert_eq!(checkpoint.offset_log().batch_ids().await.unwrap(), [9, 10, 11, 12]);
        let error = checkpoint.offset_log().purge_below(13).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        Checkpoint::open(store(dir.path())).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_file_is_named_with_its_remedy() {
        for missing in ["offsets/3", "commits/3", "offsets/5", "commits/4", "metadata"] {
            let dir = tempfile::tempdir().unwrap();
            with_batches(dir.path(), 6).await;
            if missing == "offsets/5" {
                fs::remove_file(dir.path().join("offsets/6")).unwrap();
            }
            fs::remove_file(dir.path().join(missing)).unwrap();
            let error = open_error(dir.path()).await;
            assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt, "{missing}: {error}");
            assert!(error.message().contains(missing), "{missing}: {error}");
        }
    }

    #[tokio::test]
    async fn a_lost_last_commit_of_many_is_no_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 6).await;
        fs::remove_dir_all(dir.path().join("commits")).unwrap();
        let error = open_error(dir.path()).await;
        assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
        assert!(error.message().contains("commits/5"), "{error}");
    }

    #[tokio::test]
    async fn altered_and_swapped_entries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 3).await;
        let checkpoint = Checkpoint::open(store(dir.path())).await.unwrap();
        fs::write(dir.path().join("offsets/3"), "").unwrap();
        let error = checkpoint.offset_log().latest().await.unwrap_err();
        assert!(error.message().contains("batch 3 was not committed: delete this file to run it again"), "{error}");
        fs::copy(dir.path().join("commits/1"), dir.path().join("commits/2")).unwrap();
        let error = checkpoint.commit_log().latest().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
        assert!(error.message().contains("commits/2: batch 2 expected, batch 1 found"), "{error}");
    }

    #[tokio::test]
    async fn checkpoints_of_others_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("metadata"), "{\"id\":\"7a1b\"}").unwrap();
        let error = open_error(dir.path()).await;
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        assert!(error.message().contains("Spark"), "{error}");
        fs::write(dir.path().join("metadata"), encode_checked(b"{\"id\":\"7a1b\",\"format\":2}")).unwrap();
        let error = open_error(dir.path()).await;
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        assert!(error.message().contains("format 2"), "{error}");
        fs::write(dir.path().join("metadata"), "").unwrap();
        assert_eq!(open_error(dir.path()).await.kind(), ErrorKind::CheckpointCorrupt);
    }

    #[tokio::test]
    async fn inspecting_takes_no_run_and_tells_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 12).await;
        let inspection = inspect(store(dir.path())).await.unwrap();
        assert_eq!(inspection.runs, [1]);
        assert_eq!(inspection.batches.len(), 10);
        assert!(!inspection.batches[9].committed && inspection.batches[8].committed);
        let text = inspection.to_string();
        assert!(text.contains("1970-01-01T00:00:12.000Z"), "{text}");
        assert!(text.contains("0/11.delta") && !text.contains("damage"), "{text}");
        for damaged in ["state/0/11.delta", "commits/3", "offsets/4"] {
            fs::write(dir.path().join(damaged), "state of X").unwrap();
        }
        let inspection = inspect(store(dir.path())).await.unwrap();
        let named = |file: &str| inspection.damage.iter().any(|found| found.contains(file));
        assert!(named("state/0/11.delta") && named("commits/3") && named("offsets/4"), "{inspection}");
        assert_eq!(inspection.damage.len(), 3, "{inspection}");
        let nothing = inspect(store(&dir.path().join("nothing"))).await.unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_copy_is_what_the_last_commit_needs() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        with_batches(from.path(), 3).await;
        copy(store(from.path()), store(to.path())).await.unwrap();
        let copied = Checkpoint::open(store(to.path())).await.unwrap();
        assert_eq!(copied.commit_log().batch_ids().await.unwrap(), [2]);
        assert_eq!(copied.offset_log().batch_ids().await.unwrap(), [0, 1, 2]);
        assert_eq!(copied.state().list("0").await.unwrap(), ["2.delta"]);
        let error = copy(store(from.path()), store(to.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        fs::write(from.path().join("state/0/2.delta"), "state of X").unwrap();
        let error = copy(store(from.path()), store(&to.path().join("other"))).await.unwrap_err();
        assert!(error.message().contains("state/0/2.delta"), "{error}");
    }

    #[tokio::test]
    async fn a_rewind_goes_no_further_than_sink_and_state_allow() {
        let dir = tempfile::tempdir().unwrap();
        with_batches(dir.path(), 6).await;
        let owner = Checkpoint::open(store(dir.path())).await.unwrap();
        let error = rewind(store(dir.path()), 2, Some(5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
        fs::remove_file(dir.path().join("state/0/3.delta")).unwrap();
        let error = rewind(store(dir.path()), 3, None).await.unwrap_err();
        assert!(error.message().contains("state/0/3.delta"), "{error}");
        assert_eq!(rewind(store(dir.path()), 2, Some(2)).await.unwrap(), 3);
        assert_eq!(owner.run().check().await.unwrap_err().kind(), ErrorKind::Fenced);
        let rewound = Checkpoint::open(store(dir.path())).await.unwrap();
        assert_eq!(rewound.commit_log().latest().await.unwrap().unwrap().batch_id, 2);
        assert_eq!(rewound.offset_log().latest().await.unwrap().unwrap().batch_id, 2);
    }
}
