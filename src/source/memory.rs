//! Rows that an application pushes: a stream fed by hand, for embedding and for tests.
//!
//! [`MemoryStream`] is the application's end; every query that reads it has a [`Source`] of its own over the same
//! pushed batches. It guards that a batch pushed once has one position in each query: offset = number of batches.
//!
//! What it promises: a plain stream is replayable as long as the handle lives, since the handle keeps every batch. A
//! query that starts again in another process finds the rows gone, and says so. A stream made by
//! [`MemoryStream::journaled`] writes what it offers to a journal in the checkpoint first: a row is safe from the
//! moment a micro-batch has been planned with it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::SendableRecordBatchStream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::source::journal::{Journal, column_names, stream_of};
use crate::source::{
    Guarantee, Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split,
    check_options,
};

const OPTIONS: &[&str] = &["maxBatchesPerTrigger"];

/// A stream that the application feeds with [`MemoryStream::push`]. Clones are handles of the same stream.
#[derive(Clone)]
pub struct MemoryStream {
    pushed: Arc<Pushed>,
}

/// What all handles and all readers of one stream share.
struct Pushed {
    schema: SchemaRef,
    journaled: bool,
    batches: Mutex<Vec<RecordBatch>>,
    /// The number of batches, for those who wait for more.
    total: watch::Sender<u64>,
    /// Journal location → how far it has come: a query that starts again in this process must not journal twice.
    journals: Mutex<HashMap<String, Taken>>,
}

/// How many pushed batches a journal has taken, and where that journal ended then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    batches: u64,
    journal_end: u64,
}

impl fmt::Debug for MemoryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStream[{} batches]", self.pushed.len())
    }
}

impl MemoryStream {
    /// Makes an empty stream of rows of `schema`, replayable while this handle or a clone lives.
    pub fn new(schema: SchemaRef) -> Self {
        Self::with_guarantee(schema, false)
    }

    /// Makes an empty stream whose rows each query writes to a journal in its checkpoint before it reads them.
    pub fn journaled(schema: SchemaRef) -> Self {
        Self::with_guarantee(schema, true)
    }

    fn with_guarantee(schema: SchemaRef, journaled: bool) -> Self {
        let pushed = Pushed {
            schema,
            journaled,
            batches: Mutex::new(Vec::new()),
            total: watch::Sender::new(0),
            journals: Mutex::new(HashMap::new()),
        };
        Self { pushed: Arc::new(pushed) }
    }

    /// Returns the schema of the rows.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.pushed.schema)
    }

    /// Appends a batch and wakes the queries that wait for one.
    ///
    /// # Errors
    /// `DataInvalid` where the batch is not of the stream's schema; nothing is appended then.
    pub fn push(&self, batch: RecordBatch) -> Result<()> {
        let batch = of_schema(batch, &self.pushed.schema)?;
        let mut batches = locked(&self.pushed.batches);
        batches.push(batch);
        self.pushed.total.send_replace(batches.len() as u64);
        Ok(())
    }
}

/// The same rows under the stream's own schema, whose nullability and metadata may be wider.
fn of_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let found = batch.schema();
    let names_match = found.fields().len() == schema.fields().len()
        && found.fields().iter().zip(schema.fields()).all(|(a, b)| a.name() == b.name());
    let refused = |reason: &str| {
        Error::data_invalid(format!(
            "memory stream: the pushed batch has columns {:?}, expected {:?}{reason}; push batches of the stream's \
             schema",
            column_names(&found),
            column_names(schema),
        ))
    };
    if !names_match {
        return Err(refused(""));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
        .map_err(|error| refused(&format!(" ({error})")).with_source(error))
}

impl Pushed {
    fn len(&self) -> u64 {
        locked(&self.batches).len() as u64
    }

    fn get(&self, position: u64) -> Option<RecordBatch> {
        locked(&self.batches).get(usize::try_from(position).ok()?).cloned()
    }

    fn taken(&self, location: &str) -> Taken {
        locked(&self.journals).get(location).copied().unwrap_or_default()
    }
}

#[async_trait]
impl SourceProvider for MemoryStream {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        check(spec, &self.pushed.schema)?;
        Ok(self.schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let max_batches = check(spec, &self.pushed.schema)?;
        Ok(Arc::new(MemorySource {
            pushed: Arc::clone(&self.pushed),
            max_batches,
            journal: Mutex::new(None),
            planned: AtomicU64::new(0),
            fixed_end: Mutex::new(None),
        }))
    }
}

/// Checks format, columns and options; returns `maxBatchesPerTrigger`.
fn check(spec: &SourceSpec, schema: &SchemaRef) -> Result<Option<u64>> {
    check_options(&spec.options, "memory source", OPTIONS)?;
    check_declared(spec, schema)?;
    spec.options.positive("maxBatchesPerTrigger")
}

/// One query's reader of a [`MemoryStream`].
struct MemorySource {
    pushed: Arc<Pushed>,
    max_batches: Option<u64>,
    /// Set by `open`, where the stream is journaled.
    journal: Mutex<Option<Arc<Journal>>>,
    /// The end of what has been planned: `changed` waits for more than that.
    planned: AtomicU64,
    fixed_end: Mutex<Option<u64>>,
}

impl fmt::Debug for MemorySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

/// Offset: how many batches have been read.
#[derive(Debug, Deserialize)]
struct MemoryOffset {
    batches: u64,
}

/// Split: which batch to read.
#[derive(Debug, Deserialize)]
struct MemorySplit {
    batch: u64,
}

fn offset_of(batches: u64) -> Offset {
    json!({"v": 1, "batches": batches})
}

fn batches_of(offset: Option<&Offset>) -> Result<u64> {
    offset.map_or(Ok(0), |offset| Ok(parse_offset::<MemoryOffset>("memory source", offset)?.batches))
}

impl MemorySource {
    fn journal(&self) -> Option<Arc<Journal>> {
        locked(&self.journal).clone()
    }

    /// The number of batches that can be read now, after writing new ones to the journal, where there is one.
    async fn available(&self) -> Result<u64> {
        match self.journal() {
            None => Ok(self.pushed.len()),
            Some(journal) => {
                self.fill(&journal).await?;
                Ok(journal.end())
            }
        }
    }

    async fn fill(&self, journal: &Journal) -> Result<()> {
        let location = journal.location();
        let mut taken = self.pushed.taken(&location);
        while let Some(batch) = self.pushed.get(taken.batches) {
            journal.append(&[batch]).await?;
            taken = Taken { batches: taken.batches + 1, journal_end: journal.end() };
            locked(&self.pushed.journals).insert(location.clone(), taken);
        }
        Ok(())
    }

    /// Finds out how many of this process's batches the journal holds already.
    async fn resume(&self, journal: &Journal) -> Result<()> {
        let location = journal.location();
        let end = journal.end();
        let known = locked(&self.pushed.journals).get(&location).copied();
        let mut batches = match known {
            Some(known) if known.journal_end <= end => known.batches,
            _ => 0, // a journal of another process, or another journal than the one we knew at this place
        };
        if let Some(known) = known
            && end == known.journal_end + 1
            && let Some(batch) = self.pushed.get(known.batches)
            && journal.read(known.journal_end).await? == [batch]
        {
            batches += 1; // an append that was cut off after it was durable and before it was counted
        }
        locked(&self.pushed.journals).insert(location, Taken { batches, journal_end: end });
        Ok(())
    }

    fn splits(&self, start: u64, end: u64) -> Vec<Split> {
        (start..end)
            .map(|batch| {
                let rows = if self.pushed.journaled { None } else { self.pushed.get(batch) };
                Split { description: json!({"batch": batch}), weight: rows.map_or(1, |b| b.num_rows().max(1) as u64) }
            })
            .collect()
    }

    fn gone(&self, wanted: u64) -> Error {
        Error::incompatible(format!(
            "memory source: the checkpoint has read {wanted} batches but this stream holds {}; push the same batches \
             again before the query starts, use MemoryStream::journaled, or start from a fresh checkpoint",
            self.pushed.len()
        ))
    }
}

#[async_trait]
impl Source for MemorySource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.pushed.schema)
    }

    fn description(&self) -> String {
        let names: Vec<&str> = self.pushed.schema.fields().iter().map(|f| f.name().as_str()).collect();
        format!("MemoryStream[{}]", names.join(","))
    }

    fn guarantee(&self) -> Guarantee {
        if self.pushed.journaled { Guarantee::Journaled } else { Guarantee::Replayable }
    }

    async fn open(&self, context: SourceContext) -> Result<()> {
        let known = batches_of(context.history.last())?;
        if self.pushed.journaled {
            let journal = Journal::open(context.journal).await?;
            journal.verify(known).await?;
            self.resume(&journal).await?;
            *locked(&self.journal) = Some(Arc::new(journal));
        } else if self.pushed.len() < known {
            return Err(self.gone(known));
        }
        self.planned.store(known, Ordering::SeqCst);
        *locked(&self.fixed_end) = None;
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        let end = self.available().await?;
        *locked(&self.fixed_end) = Some(end);
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, limit: ReadLimit) -> Result<Option<Planned>> {
        let start = batches_of(start)?;
        let mut end = self.available().await?;
        if let Some(fixed) = *locked(&self.fixed_end) {
            end = end.min(fixed);
        }
        if let (ReadLimit::Options, Some(max)) = (limit, self.max_batches) {
            end = end.min(start.saturating_add(max));
        }
        self.planned.store(start.max(end), Ordering::SeqCst);
        if end <= start {
            return Ok(None);
        }
        Ok(Some(Planned { end: offset_of(end), splits: self.splits(start, end) }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        let (start, end) = (batches_of(start)?, batches_of(Some(end))?);
        if !self.pushed.journaled && self.pushed.len() < end {
            return Err(self.gone(end));
        }
        Ok(self.splits(start, end))
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let MemorySplit { batch } = serde_json::from_value(split.description.clone())?;
        match self.journal() {
            Some(journal) => journal.stream(batch, self.schema(), context),
            None => {
                let rows = self.pushed.get(batch).ok_or_else(|| self.gone(batch + 1))?;
                stream_of(vec![rows], &self.pushed.schema, &context)
            }
        }
    }

    async fn commit(&self, end: &Offset) -> Result<()> {
        match self.journal() {
            Some(journal) => journal.truncate_before(batches_of(Some(end))?).await,
            None => Ok(()), // other queries, and later ones, read the same batches
        }
    }

    async fn latest(&self) -> Result<Option<Offset>> {
        Ok(Some(offset_of(self.journal().map_or_else(|| self.pushed.len(), |journal| journal.end()))))
    }

    async fn changed(&self) {
        let planned = self.planned.load(Ordering::SeqCst);
        let wanted = match self.journal() {
            None => planned,
            Some(journal) if journal.end() > planned => return,
            Some(journal) => self.pushed.taken(&journal.location()).batches,
        };
        // The sender lives as long as this source, so that the wait cannot fail.
        let _ = self.pushed.total.subscribe().wait_for(|total| *total > wanted).await;
    }
}

/// Locks, also after a thread has panicked with the lock held: every change under these locks is one step.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads an offset that a source wrote, checking its version.
pub(super) fn parse_offset<T: DeserializeOwned>(what: &str, offset: &Offset) -> Result<T> {
    let refused = || {
        Error::incompatible(format!(
            "{what}: the checkpoint's offset {offset} is not one that this version and these options give; restore \
             the source's options or start from a fresh checkpoint"
        ))
    };
    if offset.get("v").and_then(Offset::as_u64) != Some(1) {
        return Err(refused());
    }
    serde_json::from_value(offset.clone()).map_err(|error| refused().with_source(error))
}

/// Checks the declared columns of a source whose columns are given: none, or just those.
pub(super) fn check_declared(spec: &SourceSpec, given: &SchemaRef) -> Result<()> {
    let Some(declared) = spec.schema.as_ref().filter(|schema| !schema.fields().is_empty()) else {
        return Ok(());
    };
    let equal = declared.fields().len() == given.fields().len()
        && declared
            .fields()
            .iter()
            .zip(given.fields())
            .all(|(a, b)| a.name().eq_ignore_ascii_case(b.name()) && a.data_type().equals_datatype(b.data_type()));
    if equal {
        return Ok(());
    }
    Err(Error::invalid_query(format!(
        "{} source gives columns {:?}, but {:?} are declared; leave the columns out or declare just those",
        spec.format,
        column_names(given),
        column_names(declared),
    )))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
    use futures::{FutureExt, TryStreamExt};

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;
    use crate::options::Options;
    use crate::storage::LocalStore;

    fn batch(n: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![n])) as ArrayRef)]).unwrap()
    }

    async fn reader(stream: &MemoryStream, options: &[(&str, &str)]) -> Arc<dyn Source> {
        let options: Options = options.iter().copied().collect();
        let clock = Arc::new(ManualClock::new(0));
        stream.create(&SourceSpec { format: "memory".into(), schema: None, path: None, options, clock }).await.unwrap()
    }

    fn context(dir: &tempfile::TempDir, history: Vec<Offset>) -> SourceContext {
        SourceContext { journal: Arc::new(LocalStore::new(dir.path())), history }
    }

    async fn rows(source: &Arc<dyn Source>, splits: &[Split]) -> Vec<RecordBatch> {
        let mut rows = Vec::new();
        for split in splits {
            let context =
                ReadContext { projection: None, batch_size: 8192, filter: None, malformed_rows: Arc::default() };
            let stream = source.read(split, context).unwrap();
            rows.extend(stream.try_collect::<Vec<_>>().await.unwrap());
        }
        rows
    }

    #[tokio::test]
    async fn readers_are_independent_and_replay_what_they_planned() {
        let stream = MemoryStream::new(batch(0).schema());
        for n in 0..3 {
            stream.push(batch(n)).unwrap();
        }
        let limited = reader(&stream, &[("maxBatchesPerTrigger", "2")]).await;
        let first = limited.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(first.end, json!({"v": 1, "batches": 2}));
        assert_eq!(rows(&limited, &first.splits).await, vec![batch(0), batch(1)]);
        assert_eq!(limited.replay(None, &first.end).await.unwrap(), first.splits);

        let other = reader(&stream, &[]).await;
        assert_eq!(other.plan(None, ReadLimit::Options).await.unwrap().unwrap().splits.len(), 3);
        assert_eq!(limited.plan(None, ReadLimit::All).await.unwrap().unwrap().splits.len(), 3);
    }

    #[tokio::test]
    async fn a_fixed_end_is_never_passed() {
        let stream = MemoryStream::new(batch(0).schema());
        stream.push(batch(0)).unwrap();
        let source = reader(&stream, &[]).await;
        source.fix_end().await.unwrap();
        stream.push(batch(1)).unwrap();
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(planned.end, offset_of(1));
        assert_eq!(source.plan(Some(&planned.end), ReadLimit::Options).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_push_wakes_who_waits() {
        let stream = MemoryStream::new(batch(0).schema());
        let source = reader(&stream, &[]).await;
        assert_eq!(source.plan(None, ReadLimit::Options).await.unwrap(), None);
        let mut waiting = source.changed();
        assert!(waiting.as_mut().now_or_never().is_none());
        stream.push(batch(0)).unwrap();
        waiting.await;
    }

    #[test]
    fn a_batch_of_another_shape_is_refused() {
        let stream = MemoryStream::new(batch(0).schema());
        let text = RecordBatch::try_from_iter([("n", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]).unwrap();
        assert_eq!(stream.push(text).unwrap_err().kind(), ErrorKind::DataInvalid);
        let renamed = RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
        assert_eq!(stream.push(renamed).unwrap_err().kind(), ErrorKind::DataInvalid);
        assert_eq!(stream.pushed.len(), 0);
    }

    #[tokio::test]
    async fn rows_that_are_gone_with_the_process_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let source = reader(&MemoryStream::new(batch(0).schema()), &[]).await;
        let error = source.open(context(&dir, vec![offset_of(2)])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
    }

    #[tokio::test]
    async fn journaled_rows_outlive_the_process_and_are_journaled_once() {
        let dir = tempfile::tempdir().unwrap();
        let stream = MemoryStream::journaled(batch(0).schema());
        stream.push(batch(0)).unwrap();
        let source = reader(&stream, &[]).await;
        source.open(context(&dir, vec![])).await.unwrap();
        let first = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();

        // The same process starts the query again: what was journaled is not journaled again.
        stream.push(batch(1)).unwrap();
        let source = reader(&stream, &[]).await;
        source.open(context(&dir, vec![first.end.clone()])).await.unwrap();
        let second = source.plan(Some(&first.end), ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(second.end, offset_of(2));

        // Another process: its own batches come after those of the first.
        let stream = MemoryStream::journaled(batch(0).schema());
        stream.push(batch(2)).unwrap();
        let source = reader(&stream, &[]).await;
        source.open(context(&dir, vec![first.end.clone(), second.end.clone()])).await.unwrap();
        let replayed = source.replay(Some(&first.end), &second.end).await.unwrap();
        assert_eq!(rows(&source, &replayed).await, vec![batch(1)]);
        let third = source.plan(Some(&second.end), ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(rows(&source, &third.splits).await, vec![batch(2)]);
    }

    #[tokio::test]
    async fn an_append_that_was_not_counted_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let stream = MemoryStream::journaled(batch(0).schema());
        stream.push(batch(7)).unwrap();
        let source = reader(&stream, &[]).await;
        source.open(context(&dir, vec![])).await.unwrap();
        source.plan(None, ReadLimit::Options).await.unwrap();
        stream.push(batch(7)).unwrap();
        // As if `fill` had been dropped between the append and the count.
        Journal::open(Arc::new(LocalStore::new(dir.path()))).await.unwrap().append(&[batch(7)]).await.unwrap();

        let source = reader(&stream, &[]).await;
        source.open(context(&dir, vec![])).await.unwrap();
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(rows(&source, &planned.splits).await, vec![batch(7), batch(7)]);
    }
}
