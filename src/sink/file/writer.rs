//! One batch on its way into staged files: few and large, with bounded memory and a bounded number open at once.
//!
//! Rows of a partitioned table wait in memory by folder, so that a batch over many folders makes one file a folder;
//! past [`WAITING_BYTES`] the fullest folders go to their files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use tokio::sync::mpsc::Receiver;

use super::encoder::Encoder;
use super::format::Settings;
use super::partition::Partitioner;
use super::staging::{Names, StagedFile, in_parallel};
use crate::error::{Error, Result};
use crate::storage::{failed, sync_dir, sync_file};

/// Rows that wait for their files, over all folders.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// What the encoders may hold in memory together.
const ENCODING_BYTES: usize = 128 * 1024 * 1024;

/// Files that are open at once.
const OPEN_FILES: usize = 256;

/// Files that are synced together.
const SYNCED_TOGETHER: usize = 64;

/// Rows of one folder that wait.
#[derive(Default)]
struct Waiting {
    rows: Vec<RecordBatch>,
    bytes: usize,
}

/// An open file of one folder.
struct OpenFile {
    part: usize,
    encoder: Encoder,
}

/// Writes one batch.
pub(super) struct BatchWriter {
    root: PathBuf,
    names: Names,
    settings: Arc<Settings>,
    partitioner: Partitioner,
    waiting: HashMap<String, Waiting>,
    waiting_bytes: usize,
    open: HashMap<String, OpenFile>,
    parts: usize,
    unsynced: Vec<(PathBuf, File)>,
    files: Vec<StagedFile>,
}

impl BatchWriter {
    pub(super) fn new(root: &Path, names: Names, settings: Arc<Settings>, schema: &SchemaRef) -> Result<Self> {
        Ok(Self {
            root: root.to_path_buf(),
            names,
            partitioner: Partitioner::new(schema, &settings.partition_by)?,
            settings,
            waiting: HashMap::new(),
            waiting_bytes: 0,
            open: HashMap::new(),
            parts: 0,
            unsynced: Vec::new(),
            files: Vec::new(),
        })
    }

    /// Writes all that comes and makes it durable. After an error nothing is left behind.
    pub(super) fn write_all(
        mut self,
        mut rows: Receiver<Result<RecordBatch, DataFusionError>>,
    ) -> Result<Vec<StagedFile>> {
        let written = self.write_and_sync(&mut rows);
        if written.is_err() {
            // The space may be what is short; what cannot be removed now is removed when the sink is opened again.
            for part in 0..self.parts {
                let _ = fs::remove_file(self.root.join(self.names.staged(part)));
            }
        }
        written
    }

    fn write_and_sync(&mut self, rows: &mut Receiver<Result<RecordBatch, DataFusionError>>) -> Result<Vec<StagedFile>> {
        while let Some(rows) = rows.blocking_recv() {
            for (folder, rows) in self.partitioner.split(&rows.map_err(Error::from)?)? {
                self.take(folder, rows)?;
            }
        }
        let mut folders: Vec<String> = self.waiting.keys().chain(self.open.keys()).cloned().collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            self.drain(&folder)?;
            self.close(&folder)?;
        }
        self.sync()?;
        if !self.files.is_empty() {
            sync_dir(&self.names.staging(&self.root))?;
        }
        self.files.sort_by_key(|file| file.part);
        Ok(std::mem::take(&mut self.files))
    }

    fn take(&mut self, folder: String, rows: RecordBatch) -> Result<()> {
        if !self.partitioner.is_partitioned() {
            return self.write(&folder, &rows);
        }
        let bytes = rows.get_array_memory_size();
        let waiting = self.waiting.entry(folder).or_default();
        waiting.rows.push(rows);
        waiting.bytes += bytes;
        self.waiting_bytes += bytes;
        if self.waiting_bytes > WAITING_BYTES {
            let mut fullest: Vec<(usize, String)> =
                self.waiting.iter().map(|(folder, waiting)| (waiting.bytes, folder.clone())).collect();
            fullest.sort_unstable();
            while let Some((_, folder)) = fullest.pop().filter(|_| self.waiting_bytes > WAITING_BYTES / 2) {
                self.drain(&folder)?;
            }
        }
        Ok(())
    }

    /// Writes what waits for the folder.
    fn drain(&mut self, folder: &str) -> Result<()> {
        let Some(waiting) = self.waiting.remove(folder) else {
            return Ok(());
        };
        self.waiting_bytes -= waiting.bytes;
        for rows in &waiting.rows {
            self.write(folder, rows)?;
        }
        Ok(())
    }

    fn write(&mut self, folder: &str, rows: &RecordBatch) -> Result<()> {
        if !self.open.contains_key(folder) {
            self.open(folder)?;
        }
        let Some(file) = self.open.get_mut(folder) else {
            return Err(Error::internal(format!("no file is open for folder '{folder}'")));
        };
        file.encoder.write(rows)?;
        if file.encoder.size() >= self.settings.target_file_size {
            self.close(folder)?;
        }
        if self.open.values().map(|file| file.encoder.memory()).sum::<usize>() > ENCODING_BYTES
            && let Some(fullest) = self.open.values_mut().max_by_key(|file| file.encoder.memory())
        {
            fullest.encoder.flush()?;
        }
        Ok(())
    }

    fn open(&mut self, folder: &str) -> Result<()> {
        if self.open.len() >= OPEN_FILES {
            let fullest =
                self.open.iter().max_by_key(|(_, file)| file.encoder.size()).map(|(folder, _)| folder.clone());
            if let Some(fullest) = fullest {
                self.close(&fullest)?;
            }
        }
        let part = self.parts;
        self.parts += 1;
        let path = self.root.join(self.names.staged(part));
        let encoder = Encoder::create(&path, &self.settings.format, self.partitioner.file_schema())?;
        self.open.insert(folder.to_string(), OpenFile { part, encoder });
        Ok(())
    }

    fn close(&mut self, folder: &str) -> Result<()> {
        let Some(OpenFile { part, encoder }) = self.open.remove(folder) else {
            return Ok(());
        };
        let encoded = encoder.finish()?;
        self.files.push(StagedFile {
            part,
            staged: self.names.staged(part),
            path: self.names.published(folder, part),
            size: encoded.size,
            crc32: Some(encoded.crc32),
            rows: encoded.rows,
        });
        self.unsynced.push((encoded.path, encoded.file));
        if self.unsynced.len() >= SYNCED_TOGETHER {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the files that are complete durable, through the handles that wrote them: they would tell of an error.
    fn sync(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.unsynced);
        in_parallel(&files, |(path, file)| sync_file(file, path).map_err(|error| failed("sync", path, error)))
    }
}
