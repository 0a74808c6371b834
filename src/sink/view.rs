//! What keeps a materialized view: a table in memory whose rows are durable beside the checkpoint.
//!
//! Each batch's rows become a file before the commit log decides; its token names all files that make up the view. So a
//! restart reads the view back as it was decided, and goes on.

use std::fmt;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::catalog::TableProvider;

use super::memory::{MemoryTable, collect, conform};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{OutputMode, Prepared, Sink, SinkBatch, SinkContext};
use crate::storage::{DurableStore, read_checked, write_checked};

/// When an appended view has this many files they become one.
const MOST_FILES: usize = 16;

/// Keeps one view.
pub struct ViewSink {
    table: Arc<MemoryTable>,
    store: Arc<dyn DurableStore>,
    held: Mutex<Held>,
}

/// The view as the last decided batch left it, and what the batch under way would make of it.
#[derive(Default)]
struct Held {
    batch_id: Option<i64>,
    files: Vec<String>,
    staged: Option<(i64, Vec<String>, Vec<RecordBatch>)>,
}

impl fmt::Debug for ViewSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewSink[{}]", self.store.location())
    }
}

impl ViewSink {
    /// Makes the sink of `table`, whose rows are kept in `store`.
    pub fn new(table: Arc<MemoryTable>, store: Arc<dyn DurableStore>) -> Self {
        Self { table, store, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, name: &str, rows: &[RecordBatch]) -> Result<()> {
        let rows = concat_batches(&self.table.schema(), rows)?;
        let mut writer = StreamWriter::try_new(Vec::new(), &self.table.schema())?;
        writer.write(&rows)?;
        if !write_checked(self.store.as_ref(), name, writer.into_inner()?).await? {
            let place = format!("{}/{name}", self.store.location());
            return Err(Error::new(ErrorKind::Fenced, format!("{place} exists: another process keeps this view")));
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Vec<RecordBatch>> {
        let place = || format!("{}/{name}", self.store.location());
        let bytes: Bytes = read_checked(self.store.as_ref(), name).await?.ok_or_else(|| {
            Error::corrupt(format!("{} is missing: restore it from a copy, or start with a new checkpoint", place()))
        })?;
        let torn = |e| Error::corrupt(format!("{} is not an Arrow stream: {e}", place()));
        StreamReader::try_new(Cursor::new(bytes), None).map_err(torn)?.map(|rows| rows.map_err(torn)).collect()
    }
}

#[async_trait]
impl Sink for ViewSink {
    fn description(&self) -> String {
        format!("ViewSink[{}]", self.store.location())
    }

    fn supports(&self, mode: OutputMode) -> bool {
        mode != OutputMode::Update
    }

    async fn open(&self, _context: &SinkContext) -> Result<()> {
        self.held().staged = None;
        Ok(())
    }

    async fn prepare(&self, batch: SinkBatch) -> Result<Prepared> {
        let SinkBatch { batch_id, run, mode, partitions, .. } = batch;
        let came: Vec<RecordBatch> = collect(partitions).await?.into_iter().flatten().collect();
        let came = conform(came, &self.table.schema())?;
        let rows = came.iter().map(|rows| rows.num_rows() as u64).sum();
        let name = format!("{batch_id}-{run}.arrow");
        let before = self.held().files.clone();
        let (files, written, view) = match mode {
            OutputMode::Complete => (vec![name.clone()], came.clone(), came),
            _ => {
                let view: Vec<RecordBatch> = self.table.snapshot().into_iter().chain(came.clone()).collect();
                match before.len() < MOST_FILES {
                    true => (before.into_iter().chain([name.clone()]).collect(), came, view),
                    false => (vec![name.clone()], view.clone(), view),
                }
            }
        };
        self.write(&name, &written).await?;
        self.held().staged = Some((batch_id, files.clone(), view));
        Ok(Prepared { token: serde_json::json!({ "files": files }), rows })
    }

    async fn publish(&self, batch_id: i64, token: &serde_json::Value) -> Result<()> {
        if self.held().batch_id.is_some_and(|held| held >= batch_id) {
            return Ok(());
        }
        let staged = self.held().staged.take().filter(|(id, ..)| *id == batch_id);
        let (files, view) = match staged {
            Some((_, files, view)) => (files, view),
            // Another process decided it: the files tell.
            None => {
                let files: Vec<String> = serde_json::from_value(token["files"].clone())
                    .map_err(|e| Error::corrupt(format!("batch {batch_id} was not written by a view: {e}")))?;
                let mut view = Vec::new();
                for name in &files {
                    view.extend(self.read(name).await?);
                }
                (files, conform(view, &self.table.schema())?)
            }
        };
        self.table.replace(view)?;
        // What no retained batch names any more goes; what a rewind may want stays as long as the logs do.
        let oldest = batch_id - 100;
        for name in self.store.list("").await? {
            let id = name.split('-').next().and_then(|id| id.parse::<i64>().ok());
            if id.is_some_and(|id| id < oldest) && !files.contains(&name) {
                self.store.delete(&name).await?;
            }
        }
        let mut held = self.held();
        (held.batch_id, held.files) = (Some(batch_id), files);
        Ok(())
    }
}
