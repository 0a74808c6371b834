//! The file source: every file that appears in a directory is read once.
//!
//! Files must appear whole (written elsewhere and moved in, or under a name that begins with `_` or `.`), and must not
//! change afterwards. The offset of a batch names its files, so that a batch which died reads exactly those again;
//! what was read is rebuilt from the offsets of earlier batches. Guards that no file is read by two batches.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::SendableRecordBatchStream;
use tokio::sync::Mutex;

use self::clean::Clean;
use self::listing::{Listing, head, parse_duration_ms};
use self::offset::FileOffset;
use self::seen::{Memory, Seen};
use self::snapshot::Snapshots;
use super::{Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split};
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};

mod clean;
mod format;
mod glob;
mod infer;
mod layout;
mod lines;
mod listing;
mod offset;
mod parquet;
mod seen;
mod snapshot;
mod walk;

pub use self::format::{FILE_FORMATS, FileFormat};
#[cfg(feature = "kafka")]
pub(in crate::source) use self::listing::parse_duration_ms as duration_ms;
pub use self::listing::{FileEntry, list_files, list_files_with};

/// What the source calls itself.
const KIND: &str = "FileStreamSource";

/// How long a file is remembered where `maxFileAge` does not say: a week.
const MAX_FILE_AGE_MS: i64 = 7 * 24 * 3_600_000;

/// Every how many offsets one carries all files read so far.
const SEEN_EVERY: u64 = 10;

/// After how many plans without a new file the list of files read is written down.
const PLANS_A_LIST: usize = 20;

/// Makes sources that read files: json, csv, parquet and text.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSourceProvider;

#[async_trait]
impl SourceProvider for FileSourceProvider {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        Ok(FileSource::new(spec).await?.schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(FileSource::new(spec).await?))
    }
}

/// How much a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Nothing,
    Files(usize),
    Bytes(u64),
}

impl Limit {
    fn of(options: &Options) -> Result<Self> {
        match (options.positive("maxFilesPerTrigger")?, options.positive("maxBytesPerTrigger")?) {
            (None, None) => Ok(Self::Nothing),
            (Some(files), None) => Ok(Self::Files(usize::try_from(files).unwrap_or(usize::MAX))),
            (None, Some(bytes)) => Ok(Self::Bytes(bytes)),
            (Some(_), Some(_)) => Err(Error::invalid_option(
                "maxFilesPerTrigger and maxBytesPerTrigger exclude each other: remove one of them",
            )),
        }
    }

    /// Returns how many of `files` the next batch takes, from the front; at least one where there are any.
    fn count(self, files: &[FileEntry]) -> usize {
        match self {
            Self::Nothing => files.len(),
            Self::Files(most) => files.len().min(most),
            Self::Bytes(most) => {
                let mut total: u64 = 0;
                let within = files.iter().take_while(|file| {
                    total = total.saturating_add(file.size);
                    total <= most
                });
                within.count().max(1).min(files.len())
            }
        }
    }
}

/// Which files come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadOrder {
    by_path: bool,
    latest_first: bool,
}

impl ReadOrder {
    fn of(options: &Options) -> Result<Self> {
        let by_path = match options.get("orderBy").map(|order| order.trim().to_lowercase()).as_deref() {
            None | Some("modificationtime") => false,
            Some("path") => true,
            Some(other) => return Err(bad_value("orderBy", other, "modificationTime or path")),
        };
        Ok(Self { by_path, latest_first: options.flag("latestFirst", false)? })
    }

    /// Puts a listing, which is ordered by time, into this order.
    fn sort(self, files: &mut [FileEntry]) {
        if self.by_path {
            files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        if self.latest_first {
            files.reverse();
        }
    }

    fn is_listed_order(self) -> bool {
        !self.by_path && !self.latest_first
    }
}

/// A directory, file or glob that is read as an unbounded table.
#[derive(Debug)]
pub struct FileSource {
    format: Arc<FileFormat>,
    listing: Listing,
    limit: Limit,
    order: ReadOrder,
    /// Files are known by their names alone.
    by_name: bool,
    clean: Clean,
    state: Mutex<State>,
}

/// What changes from batch to batch.
#[derive(Debug)]
struct State {
    seen: Seen,
    /// The newest offset whose files `seen` knows.
    newest: Option<u64>,
    /// The listing that later plans keep to, once the end is fixed.
    fixed: Option<Vec<FileEntry>>,
    snapshots: Option<Snapshots>,
    /// The newest offset up to which a list of files read is written down.
    written: Option<u64>,
    /// How often a batch was planned since a list of files read was last durable.
    plans_since_list: usize,
    cleaned: Option<u64>,
}

impl FileSource {
    /// Makes the source that `spec` describes, and lists its files to check that they can be listed.
    ///
    /// # Errors
    /// As [`SourceProvider::schema`].
    pub async fn new(spec: &SourceSpec) -> Result<Self> {
        let options = &spec.options;
        let Some(path) = spec.path.as_deref().or_else(|| options.get("path")) else {
            return Err(Error::invalid_option(format!(
                "a {} source needs a path: give it a LOCATION, load(path), or the option 'path'",
                spec.format
            )));
        };
        let limit = Limit::of(options)?;
        let order = ReadOrder::of(options)?;
        let max_age_ms = match options.get("maxFileAge") {
            Some(age) => parse_duration_ms(age)
                .ok_or_else(|| bad_value("maxFileAge", age, "a span of time such as '7d' or '90 minutes'"))?,
            None => MAX_FILE_AGE_MS,
        };
        // Where files do not come in the order of their times, a limit would let old ones wait until they are too old.
        let keeps_all = !order.is_listed_order() && limit != Limit::Nothing;
        let by_name = options.flag("fileNameOnly", false)?;
        let memory = Memory { by_name, max_age_ms: (!keeps_all).then_some(max_age_ms) };
        let listing = Listing::new(path, options)?;
        let clean = Clean::of(options, &listing.folder())?;
        let files = listing.list(0).await?;
        if clean != Clean::Off && files.iter().any(|file| file.published.is_some()) {
            return Err(Error::invalid_option(format!(
                "cleanSource would remove files of the table {}, which its manifest still lists; remove that option",
                listing.path()
            )));
        }
        let format = FileFormat::open(&spec.format, spec.schema.clone(), options, &files).await?;
        let state = State {
            seen: Seen::new(memory),
            newest: None,
            fixed: None,
            snapshots: None,
            written: None,
            plans_since_list: 0,
            cleaned: None,
        };
        Ok(Self { format, listing, limit, order, by_name, clean, state: Mutex::new(state) })
    }

    /// Lists the files in the order to read them.
    async fn listed(&self, seen: &Seen) -> Result<Vec<FileEntry>> {
        let mut files = self.listing.list(seen.first_sequence()).await?;
        self.order.sort(&mut files);
        Ok(files)
    }

    /// Returns the files that no batch has read, in the order to read them.
    async fn unread(&self, state: &mut State) -> Result<Vec<FileEntry>> {
        let fixed = state.fixed.take();
        let is_fixed = fixed.is_some();
        let mut files = match fixed {
            Some(files) => files,
            None => self.listed(&state.seen).await?,
        };
        files.retain(|file| state.seen.is_new(file));
        if is_fixed {
            state.fixed = Some(files.clone());
        }
        Ok(files)
    }

    fn splits(files: &[FileEntry]) -> Result<Vec<Split>> {
        let split = |file: &FileEntry| Ok(Split { description: serde_json::to_value(file)?, weight: file.size.max(1) });
        files.iter().map(split).collect()
    }
}

impl State {
    /// Takes over an offset that is in the log by now.
    fn catch_up(&mut self, offset: &Offset) -> Result<u64> {
        let number = FileOffset::number(offset)?;
        if self.newest != Some(number) {
            let offset = FileOffset::parse(offset)?;
            self.seen.add(&offset.files, !offset.out_of_order);
            self.newest = Some(number);
            if offset.seen.is_some() {
                self.plans_since_list = 0;
            }
        }
        Ok(number)
    }

    /// Rebuilds what was read from the offsets of earlier batches, oldest first, and the list written down, if any.
    ///
    /// `place` is where that list would be.
    fn rebuild(&mut self, offsets: &[FileOffset], written: Option<&FileOffset>, place: &str) -> Result<()> {
        let listed = offsets.iter().rposition(|offset| offset.seen.is_some());
        let mut next = 0;
        let mut rest = offsets;
        if let Some(index) = listed {
            let offset = &offsets[index];
            self.seen.restore(offset.seen.as_deref().unwrap_or_default(), offset.mark);
            (next, rest) = (offset.log_offset, &offsets[index..]);
        }
        if let Some(written) = written.filter(|written| written.log_offset + 1 > next) {
            self.seen.restore(written.seen.as_deref().unwrap_or_default(), written.mark);
            next = written.log_offset + 1;
        }
        for offset in rest {
            if offset.log_offset < next {
                continue;
            }
            if offset.log_offset != next {
                return Err(Error::corrupt(format!(
                    "neither the offset log nor a list {place} tells which files this source read before its {}th \
                     batch; restore the missing file from a copy, or start with a new checkpoint and a new table",
                    offset.log_offset + 1
                )));
            }
            self.seen.add(&offset.files, !offset.out_of_order);
            next += 1;
        }
        self.newest = next.checked_sub(1);
        Ok(())
    }

    /// Writes down the list of files read, unless that was done. The next idle time tries again where it fails.
    async fn write_down(&mut self) {
        let (Some(newest), Some(snapshots)) = (self.newest, &self.snapshots) else {
            return;
        };
        if self.written == Some(newest) {
            return;
        }
        let offset = FileOffset::new(newest, Vec::new(), false).with_seen(self.seen.remembered());
        match snapshots.write(&offset).await {
            Ok(()) => self.written = Some(newest),
            Err(error) => tracing::warn!("the list of files read is not written down yet: {error}"),
        }
    }
}

#[async_trait]
impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        self.format.schema()
    }

    fn description(&self) -> String {
        format!("{KIND}[file://{}]", self.listing.path())
    }

    fn identity(&self) -> String {
        format!("{KIND}[file://{}]", self.listing.folder())
    }

    fn check_identity(&self, before: &str) -> Result<()> {
        let now = self.identity();
        if now == before || (self.by_name && before.starts_with(KIND)) {
            return Ok(());
        }
        Err(Error::incompatible(format!(
            "the source changed from {before} to {now}, and the files read of one say nothing of the other: use the old \
             location, or a new checkpoint; where the directory was moved, set the option fileNameOnly = 'true', by \
             which files are known by their names wherever they lie"
        )))
    }

    async fn open(&self, context: SourceContext) -> Result<()> {
        let mut offsets: Vec<FileOffset> = Vec::new();
        let mut repeats = 0;
        for offset in &context.history {
            let number = FileOffset::number(offset)?;
            if offsets.last().is_some_and(|last| last.log_offset == number) {
                repeats += 1;
            } else {
                offsets.push(FileOffset::parse(offset)?);
                repeats = 0;
            }
        }
        let place = format!("{}/seen-<n>", context.journal.location());
        let snapshots = Snapshots::new(context.journal);
        let written = snapshots.up_to(offsets.last().map(|last| last.log_offset)).await?;
        let mut state = self.state.lock().await;
        state.rebuild(&offsets, written.as_ref(), &place)?;
        state.written = written.map(|offset| offset.log_offset);
        state.snapshots = Some(snapshots);
        if repeats >= PLANS_A_LIST {
            state.write_down().await;
        }
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let files = self.listed(&state.seen).await?;
        state.fixed = Some(files);
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, limit: ReadLimit) -> Result<Option<Planned>> {
        let mut state = self.state.lock().await;
        let number = match start {
            Some(start) => state.catch_up(start)? + 1,
            None => 0,
        };
        state.plans_since_list += 1;
        if state.plans_since_list.is_multiple_of(PLANS_A_LIST) {
            state.write_down().await;
        }
        let mut files = self.unread(&mut state).await?;
        if files.is_empty() {
            return Ok(None);
        }
        files.truncate(match limit {
            ReadLimit::Options => self.limit.count(&files),
            ReadLimit::All => files.len(),
        });
        let splits = Self::splits(&files)?;
        let mut end = FileOffset::new(number, files, !self.order.is_listed_order());
        if (number + 1).is_multiple_of(SEEN_EVERY) {
            end = end.with_seen(state.seen.remembered());
        }
        Ok(Some(Planned { end: end.to_json()?, splits }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        let first = match start {
            Some(start) => FileOffset::number(start)? + 1,
            None => 0,
        };
        let end = FileOffset::parse(end)?;
        if end.log_offset + 1 == first {
            return Ok(Vec::new());
        }
        if end.log_offset != first {
            return Err(Error::incompatible(format!(
                "a batch is to read this source from offset {first} to {}, but a batch of a file source is \
                 exactly one offset; restore the offset log",
                end.log_offset
            )));
        }
        for file in &end.files {
            let now = head(&file.path).await.map_err(|e| e.context("running a batch again"))?;
            if now.size != file.size {
                return Err(Error::data_invalid(format!(
                    "file {} had {} bytes when its batch was planned and has {} now, so the batch cannot run again as \
                     it was; put the old file back",
                    file.path, file.size, now.size
                )));
            }
        }
        Self::splits(&end.files)
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let file: FileEntry = serde_json::from_value(split.description.clone())
            .map_err(|e| Error::internal(format!("a split does not describe a file: {e}")).with_source(e))?;
        self.format.read(&file, context)
    }

    async fn commit(&self, end: &Offset) -> Result<()> {
        if self.clean == Clean::Off {
            return Ok(());
        }
        let number = FileOffset::number(end)?;
        if self.state.lock().await.cleaned == Some(number) {
            return Ok(());
        }
        self.clean.clean(&FileOffset::parse(end)?.files).await;
        self.state.lock().await.cleaned = Some(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
