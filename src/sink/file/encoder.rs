//! One staged file while it is written: rows in, bytes of its format out.
//!
//! Guards that an I/O error keeps its kind (a full disk is no bad data) however the format's writer wraps it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::csv::CsvWriter;
use super::format::FileFormat;
use crate::error::{Error, Result};
use crate::sink::json_rows::json_rows;
use crate::storage::{create_new, failed, write};

/// What the format's writer writes to.
struct Output {
    file: File,
    checksum: crc32fast::Hasher,
    progress: Arc<Progress>,
}

/// What the file knows and its format's writer hides.
#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Progress {
    fn note(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::Interrupted {
            return;
        }
        let copy = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match write(&mut self.file, bytes) {
            Ok(written) => {
                self.progress.bytes.fetch_add(written as u64, Ordering::Relaxed);
                self.checksum.update(&bytes[..written]);
                Ok(written)
            }
            Err(error) => {
                self.progress.note(&error);
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Writer {
    Parquet(Box<ArrowWriter<Output>>),
    Json(LineDelimitedWriter<BufWriter<Output>>),
    Csv(CsvWriter<Output>),
}

/// A file that rows are being written to.
pub(super) struct Encoder {
    path: PathBuf,
    progress: Arc<Progress>,
    writer: Writer,
    rows: u64,
}

/// A file that is whole but not yet durable.
pub(super) struct Encoded {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) crc32: u32,
    pub(super) rows: u64,
}

impl Encoder {
    /// Creates the file.
    pub(super) fn create(path: &Path, format: &FileFormat, schema: &SchemaRef) -> Result<Self> {
        // This run may have tried the batch before. Removed, never overwritten: a published file may be the same one.
        let _ = std::fs::remove_file(path);
        let file = create_new(path).map_err(|error| failed("create", path, error))?;
        let progress = Arc::<Progress>::default();
        let output = Output { file, checksum: crc32fast::Hasher::new(), progress: Arc::clone(&progress) };
        let writer = match format {
            FileFormat::Parquet(compression) => {
                let properties = WriterProperties::builder().set_compression(*compression).build();
                let writer = ArrowWriter::try_new(output, Arc::clone(schema), Some(properties))
                    .map_err(|error| told(path, &progress, &error))?;
                Writer::Parquet(Box::new(writer))
            }
            FileFormat::Json => Writer::Json(json_rows().build(BufWriter::new(output))),
            FileFormat::Csv { header, delimiter, null } => {
                Writer::Csv(CsvWriter::new(output, *header, *delimiter, null.clone()))
            }
        };
        Ok(Self { path: path.to_path_buf(), progress, writer, rows: 0 })
    }

    /// Writes rows.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match &mut self.writer {
            Writer::Parquet(writer) => writer.write(rows).map_err(|error| told(&self.path, &self.progress, &error)),
            Writer::Json(writer) => writer.write(rows).map_err(|error| told(&self.path, &self.progress, &error)),
            Writer::Csv(writer) => writer.write(rows).map_err(|error| told(&self.path, &self.progress, &error)),
        }?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// Returns about how large the file would be if it ended now.
    pub(super) fn size(&self) -> u64 {
        match &self.writer {
            Writer::Parquet(writer) => (writer.bytes_written() + writer.in_progress_size()) as u64,
            _ => self.progress.bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns how much memory the rows take that are not in the file yet.
    pub(super) fn memory(&self) -> usize {
        match &self.writer {
            Writer::Parquet(writer) => writer.memory_size(),
            _ => 0,
        }
    }

    /// Moves rows from memory to the file.
    pub(super) fn flush(&mut self) -> Result<()> {
        match &mut self.writer {
            Writer::Parquet(writer) => writer.flush().map_err(|error| told(&self.path, &self.progress, &error)),
            _ => Ok(()),
        }
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<Encoded> {
        self.flush()?;
        let Self { path, progress, writer, rows } = self;
        let output = match writer {
            Writer::Parquet(mut writer) => {
                writer.sync().map_err(|error| told(&path, &progress, &error))?;
                fail::fail_point!("sink.mid_file");
                writer.into_inner().map_err(|error| told(&path, &progress, &error))?
            }
            Writer::Json(mut writer) => {
                fail::fail_point!("sink.mid_file");
                writer.finish().map_err(|error| told(&path, &progress, &error))?;
                let unbuffered = writer.into_inner().into_inner();
                unbuffered.map_err(|error| told(&path, &progress, error.error()))?
            }
            Writer::Csv(writer) => {
                fail::fail_point!("sink.mid_file");
                writer.into_inner()
            }
        };
        let size = progress.bytes.load(Ordering::Relaxed);
        Ok(Encoded { path, file: output.file, size, crc32: output.checksum.finalize(), rows })
    }
}

/// The error of a format's writer: the file's own where the file failed, else the rows are not what the format holds.
fn told(path: &Path, progress: &Progress, error: &dyn std::error::Error) -> Error {
    match progress.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(failure) => failed("write", path, failure),
        None => Error::data_invalid(format!("cannot write these rows to {}: {error}", path.display())),
    }
}
