//! A durable journal of rows: what a push source has received, written down before it is offered.
//!
//! Sources whose peer cannot be asked again (a socket, an application that pushes) append here and offer only what
//! the journal holds: their offset is a position in it. Called by the sources `socket` and `memory`. It guards that a
//! position once returned names the same rows in every later run, until it is truncated, and that positions have no
//! gaps.
//!
//! One append is one file, named by its position with leading zeros: an Arrow IPC stream behind a checksum.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadContext;
use crate::storage::{DurableStore, read_checked, write_checked};

/// How many digits a file's name has before its extension: as many as the largest position.
const NAME_DIGITS: usize = 20;
const EXTENSION: &str = ".arrow";

/// Where in the schema's metadata an entry says its position, so that a swapped file is noticed.
const POSITION: &str = "millstream.journal.position";

const REMEDY: &str = "restore the file from a copy, or start with a new checkpoint and a new table";

/// A sequence of entries, each some record batches of one schema, in a directory of durable files.
pub struct Journal {
    store: Arc<dyn DurableStore>,
    /// Held while an entry is written, so that positions are given in order.
    appending: tokio::sync::Mutex<()>,
    /// The oldest position that may still be there.
    first: AtomicU64,
    /// The position that the next append takes.
    end: AtomicU64,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal[{}: {}..{}]", self.location(), self.first.load(Ordering::SeqCst), self.end())
    }
}

impl Journal {
    /// Opens the journal in `store`, empty where there is none yet.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where an entry between the oldest and the newest is missing; `Unavailable` where the
    /// store cannot be listed.
    pub async fn open(store: Arc<dyn DurableStore>) -> Result<Self> {
        let mut positions: Vec<u64> = store.list("").await?.iter().filter_map(|name| position_of(name)).collect();
        positions.sort_unstable();
        for pair in positions.windows(2) {
            if pair[1] != pair[0] + 1 {
                return Err(missing(store.as_ref(), pair[0] + 1));
            }
        }
        let first = positions.first().copied().unwrap_or(0);
        let end = positions.last().map_or(0, |last| last + 1);
        Ok(Self {
            store,
            appending: tokio::sync::Mutex::new(()),
            first: AtomicU64::new(first),
            end: AtomicU64::new(end),
        })
    }

    /// Reads every entry, so that a bad one is found before a batch is planned over it, and checks that those are there
    /// that the offset log, which ends at position `known`, speaks of or leaves to be read.
    ///
    /// # Errors
    /// `CheckpointCorrupt`, naming the file that is missing or was altered.
    pub async fn verify(&self, known: u64) -> Result<()> {
        let (first, end) = (self.first.load(Ordering::SeqCst), self.end());
        if end < known {
            return Err(missing(self.store.as_ref(), known - 1));
        }
        if first > known {
            return Err(missing(self.store.as_ref(), known));
        }
        for position in first..end {
            self.read(position).await?;
        }
        Ok(())
    }

    /// Returns the place as a person would name it.
    pub fn location(&self) -> String {
        self.store.location()
    }

    /// Returns the position after the newest entry: the one that the next append takes.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::SeqCst)
    }

    /// Appends one entry and returns its position. On return the rows are durable.
    ///
    /// # Errors
    /// `Fenced` where another run has written other rows at this position; `Unavailable` or `ResourcesExhausted`
    /// where the store cannot be written; `Internal` where `batches` is empty.
    pub async fn append(&self, batches: &[RecordBatch]) -> Result<u64> {
        let _appending = self.appending.lock().await;
        let position = self.end();
        let bytes = encode(batches, position)?;
        let name = name_of(position);
        // A name that is taken by the very same rows is an append of our own that was cut off before it was counted.
        if !write_checked(self.store.as_ref(), &name, bytes.clone()).await?
            && read_checked(self.store.as_ref(), &name).await?.as_ref() != Some(&bytes)
        {
            return Err(Error::new(
                ErrorKind::Fenced,
                format!("{}: another run writes this journal; stop one of the two", path(self.store.as_ref(), &name)),
            ));
        }
        self.end.store(position + 1, Ordering::SeqCst);
        Ok(position)
    }

    /// Reads the entry at `position`.
    ///
    /// # Errors
    /// `CheckpointCorrupt`, naming the file, where it is missing or was altered.
    pub async fn read(&self, position: u64) -> Result<Vec<RecordBatch>> {
        let name = name_of(position);
        let Some(bytes) = read_checked(self.store.as_ref(), &name).await? else {
            return Err(missing(self.store.as_ref(), position));
        };
        let path = path(self.store.as_ref(), &name);
        let (written_at, batches) = decode(&bytes).map_err(|error| {
            Error::corrupt(format!("{path}: not an Arrow IPC stream ({error}); {REMEDY}")).with_source(error)
        })?;
        match written_at.filter(|written_at| *written_at != position.to_string()) {
            Some(other) => Err(Error::corrupt(format!(
                "{path}: entry {position} expected, entry {other} found: the file was renamed or swapped; {REMEDY}"
            ))),
            None => Ok(batches),
        }
    }

    /// Removes the entries before `position`, oldest first, but never the newest entry: its name is what tells a
    /// later run where to go on.
    ///
    /// # Errors
    /// `Unavailable` where a file cannot be removed; what is left is removed by the next call.
    pub async fn truncate_before(&self, position: u64) -> Result<()> {
        let stop = position.min(self.end().saturating_sub(1));
        for old in self.first.load(Ordering::SeqCst)..stop {
            self.store.delete(&name_of(old)).await?;
            self.first.store(old + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Reads the entry at `position` as a stream for an operator: projected, in batches of the wanted size.
    ///
    /// # Errors
    /// At once where the projection does not fit `schema`; in the stream as [`Journal::read`], or
    /// `CheckpointIncompatible` where the entry's rows are not of `schema`.
    pub fn stream(
        self: &Arc<Self>,
        position: u64,
        schema: SchemaRef,
        context: ReadContext,
    ) -> Result<SendableRecordBatchStream> {
        let projected = projected_schema(&schema, &context)?;
        let journal = Arc::clone(self);
        let rows = futures::stream::once(async move {
            let batches = journal.read(position).await?;
            if let Some(other) = batches.iter().find(|batch| batch.schema().fields() != schema.fields()) {
                return Err(DataFusionError::from(Error::incompatible(format!(
                    "{}: the journal holds rows of {:?}, the source now gives {:?}; restore the source's options or \
                     start from a fresh checkpoint",
                    path(journal.store.as_ref(), &name_of(position)),
                    column_names(&other.schema()),
                    column_names(&schema),
                ))));
            }
            let pieces = pieces(batches, &context)?;
            Ok(futures::stream::iter(pieces.into_iter().map(Ok::<RecordBatch, DataFusionError>)))
        })
        .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(projected, rows)))
    }
}

/// Returns rows that are at hand as a stream for an operator: projected, in batches of the wanted size.
pub(super) fn stream_of(
    batches: Vec<RecordBatch>,
    schema: &SchemaRef,
    context: &ReadContext,
) -> Result<SendableRecordBatchStream> {
    let projected = projected_schema(schema, context)?;
    let pieces = pieces(batches, context)?;
    let rows = futures::stream::iter(pieces.into_iter().map(Ok::<RecordBatch, DataFusionError>));
    Ok(Box::pin(RecordBatchStreamAdapter::new(projected, rows)))
}

/// Returns what `schema` is after the projection.
pub(super) fn projected_schema(schema: &SchemaRef, context: &ReadContext) -> Result<SchemaRef> {
    Ok(match &context.projection {
        Some(columns) => Arc::new(schema.project(columns)?),
        None => Arc::clone(schema),
    })
}

/// Returns the names of the columns, for messages.
pub(super) fn column_names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn pieces(batches: Vec<RecordBatch>, context: &ReadContext) -> Result<Vec<RecordBatch>, ArrowError> {
    let size = context.batch_size.max(1);
    let mut pieces = Vec::with_capacity(batches.len());
    for batch in batches {
        let batch = match &context.projection {
            Some(columns) => batch.project(columns)?,
            None => batch,
        };
        let mut offset = 0;
        while offset < batch.num_rows() {
            let length = size.min(batch.num_rows() - offset);
            pieces.push(batch.slice(offset, length));
            offset += length;
        }
    }
    Ok(pieces)
}

fn encode(batches: &[RecordBatch], position: u64) -> Result<Bytes> {
    let Some(head) = batches.first() else {
        return Err(Error::internal("a journal entry needs at least one record batch"));
    };
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut metadata = head.schema().metadata().clone();
    metadata.insert(POSITION.to_string(), position.to_string());
    let schema = Arc::new(Schema::new_with_metadata(head.schema().fields().clone(), metadata));
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
    for batch in batches {
        writer.write(&of_schema(batch, &schema)?)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// The position that an entry says it has, where it says so, and its rows under the schema they were appended with.
fn decode(bytes: &Bytes) -> Result<(Option<String>, Vec<RecordBatch>), ArrowError> {
    let reader = StreamReader::try_new(Cursor::new(bytes.as_ref()), None)?;
    let mut metadata = reader.schema().metadata().clone();
    let position = metadata.remove(POSITION);
    let schema = Arc::new(Schema::new_with_metadata(reader.schema().fields().clone(), metadata));
    let batches = reader.map(|batch| of_schema(&batch?, &schema)).collect::<Result<_, _>>()?;
    Ok((position, batches))
}

/// The same rows under a schema that differs in its metadata.
fn of_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
}

fn name_of(position: u64) -> String {
    format!("{position:0width$}{EXTENSION}", width = NAME_DIGITS)
}

/// The position a name stands for; `None` for the names of strangers and of files half written.
fn position_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() == NAME_DIGITS && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn path(store: &dyn DurableStore, name: &str) -> String {
    format!("{}/{name}", store.location())
}

fn missing(store: &dyn DurableStore, position: u64) -> Error {
    Error::corrupt(format!(
        "{}: this entry of a source's journal is missing, and the rows with it; {REMEDY}",
        path(store, &name_of(position))
    ))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::storage::LocalStore;

    fn batch(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
    }

    fn store(dir: &tempfile::TempDir) -> Arc<dyn DurableStore> {
        Arc::new(LocalStore::new(dir.path()))
    }

    #[tokio::test]
    async fn entries_and_positions_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(store(&dir)).await.unwrap();
        assert_eq!(journal.append(&[batch(&[1, 2]), batch(&[3])]).await.unwrap(), 0);
        assert_eq!(journal.append(&[batch(&[4])]).await.unwrap(), 1);

        let again = Journal::open(store(&dir)).await.unwrap();
        assert_eq!(again.end(), 2);
        assert_eq!(again.read(0).await.unwrap(), vec![batch(&[1, 2]), batch(&[3])]);
        assert_eq!(again.append(&[batch(&[5])]).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn truncation_never_forgets_where_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(store(&dir)).await.unwrap();
        for n in 0..3 {
            journal.append(&[batch(&[n])]).await.unwrap();
        }
        journal.truncate_before(3).await.unwrap();
        assert_eq!(journal.read(1).await.unwrap_err().kind(), ErrorKind::CheckpointCorrupt);
        assert_eq!(Journal::open(store(&dir)).await.unwrap().end(), 3);
    }

    #[tokio::test]
    async fn a_missing_or_altered_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(store(&dir)).await.unwrap();
        for n in 0..3 {
            journal.append(&[batch(&[n])]).await.unwrap();
        }

        let altered = dir.path().join(name_of(2));
        let mut bytes = std::fs::read(&altered).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&altered, bytes).unwrap();
        let error = journal.read(2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
        assert!(error.to_string().contains(&name_of(2)), "{error}");

        std::fs::remove_file(dir.path().join(name_of(1))).unwrap();
        for error in [journal.read(1).await.unwrap_err(), Journal::open(store(&dir)).await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt);
            assert!(error.to_string().contains(&name_of(1)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_swapped_entry_and_missing_ends_are_noticed_before_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(store(&dir)).await.unwrap();
        for n in 0..3 {
            journal.append(&[batch(&[n])]).await.unwrap();
        }
        for known in 0..=3 {
            journal.verify(known).await.unwrap();
        }
        let error = journal.verify(4).await.unwrap_err();
        assert!(error.to_string().contains(&name_of(3)), "{error}");
        std::fs::copy(dir.path().join(name_of(0)), dir.path().join(name_of(1))).unwrap();
        let error = journal.verify(0).await.unwrap_err();
        assert!(error.to_string().contains("entry 1 expected, entry 0 found"), "{error}");
        std::fs::remove_file(dir.path().join(name_of(0))).unwrap();
        let error = Journal::open(store(&dir)).await.unwrap().verify(0).await.unwrap_err();
        assert!(error.to_string().contains(&name_of(0)), "{error}");
    }

    #[tokio::test]
    async fn a_second_writer_is_fenced_but_an_uncounted_append_of_ours_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Journal::open(store(&dir)).await.unwrap();
        let other = Journal::open(store(&dir)).await.unwrap();
        ours.append(&[batch(&[1])]).await.unwrap();
        assert_eq!(other.append(&[batch(&[2])]).await.unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(other.append(&[batch(&[1])]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stream_is_projected_and_cut_to_size() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(store(&dir)).await.unwrap());
        let rows = batch(&[1, 2, 3]);
        let position = journal.append(std::slice::from_ref(&rows)).await.unwrap();
        let context = ReadContext {
            projection: Some(vec![]),
            batch_size: 2,
            filter: None,
            malformed_rows: Arc::new(Default::default()),
        };
        let stream = journal.stream(position, rows.schema(), context).unwrap();
        let sizes: Vec<(usize, usize)> =
            stream.map_ok(|b| (b.num_columns(), b.num_rows())).try_collect().await.unwrap();
        assert_eq!(sizes, vec![(0, 2), (0, 1)]);
    }
}
