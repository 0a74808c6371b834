//! Lines of text from a TCP server: for trying things out with `nc -lk 9999`.
//!
//! The registry makes it by the name "socket". A task reads lines as they arrive; a closed peer ends the reading, and
//! what was read stays. It guards that a line has one position in the query and is kept until its batch is decided.
//!
//! What it promises: a server cannot be asked again, so without more the lines in flight are lost with the process
//! (lossy). With option `journal` = true every line is written to a journal in the checkpoint before a micro-batch is
//! planned with it, and read again from there; only lines that no batch has been planned with are lost.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::physical_plan::SendableRecordBatchStream;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::source::journal::{Journal, stream_of};
use crate::source::memory::{check_declared, locked, parse_offset};
use crate::source::{
    Guarantee, Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split,
    check_options,
};

const OPTIONS: &[&str] = &["host", "port", "includeTimestamp", "journal"];

/// No line is longer than this: without a limit a peer that never ends one would take all memory.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// Makes socket sources.
///
/// Options: `host` and `port` (required); `includeTimestamp` (false), for a second column with the time of arrival;
/// `journal` (false), see the module. Columns: `value` [, `timestamp`].
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketSourceProvider;

#[async_trait]
impl SourceProvider for SocketSourceProvider {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        let schema = Settings::of(&spec.options)?.schema();
        check_declared(spec, &schema)?;
        Ok(schema)
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let settings = Settings::of(&spec.options)?;
        let schema = settings.schema();
        check_declared(spec, &schema)?;
        Ok(Arc::new(SocketSource {
            settings,
            lines: Arc::new(Lines { schema, buffer: Mutex::default(), total: watch::Sender::new(0) }),
            clock: Arc::clone(&spec.clock),
            journal: Mutex::new(None),
            reading: Mutex::new(None),
            planned: AtomicU64::new(0),
            fixed_end: Mutex::new(None),
        }))
    }
}

/// What the options say.
#[derive(Debug, Clone)]
struct Settings {
    host: String,
    port: u16,
    include_timestamp: bool,
    journal: bool,
}

impl Settings {
    fn of(options: &Options) -> Result<Self> {
        check_options(options, "socket source", OPTIONS)?;
        let needed = |name: &str| {
            Error::invalid_option(format!(
                "socket source needs option '{name}'; say where lines come from: host and port"
            ))
        };
        let host = options.get("host").map(str::trim).filter(|host| !host.is_empty()).ok_or_else(|| needed("host"))?;
        let port = options.parsed::<u16>("port", "a port number")?.ok_or_else(|| needed("port"))?;
        if port == 0 {
            return Err(bad_value("port", "0", "a port number above zero"));
        }
        Ok(Self {
            host: host.to_string(),
            port,
            include_timestamp: options.flag("includeTimestamp", false)?,
            journal: options.flag("journal", false)?,
        })
    }

    fn schema(&self) -> SchemaRef {
        let mut fields = vec![Field::new("value", DataType::Utf8, true)];
        if self.include_timestamp {
            fields.push(Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, None), true));
        }
        Arc::new(Schema::new(fields))
    }
}

/// The lines that have arrived and are not yet cleaned; the reading task adds to them.
struct Lines {
    schema: SchemaRef,
    buffer: Mutex<Buffer>,
    /// The number of lines that have arrived, for those who wait for more.
    total: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Buffer {
    /// The position of the first line that is still here.
    first: u64,
    /// Text and milliseconds of arrival.
    lines: VecDeque<(String, i64)>,
}

impl Buffer {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn drop_before(&mut self, position: u64) {
        let count = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.lines.len());
        self.lines.drain(..count);
        self.first += count as u64;
    }
}

impl Lines {
    fn push(&self, text: String, arrived_ms: i64) {
        let mut buffer = locked(&self.buffer);
        buffer.lines.push_back((text, arrived_ms));
        self.total.send_replace(buffer.end());
    }

    /// Empties the buffer and counts on from `first`.
    fn restart_at(&self, first: u64) {
        let mut buffer = locked(&self.buffer);
        *buffer = Buffer { first, lines: VecDeque::new() };
        self.total.send_replace(first);
    }

    fn end(&self) -> u64 {
        locked(&self.buffer).end()
    }

    /// The part of `start..end` that is still here.
    fn kept(&self, start: u64, end: u64) -> std::ops::Range<u64> {
        let buffer = locked(&self.buffer);
        let start = start.max(buffer.first);
        start..end.min(buffer.end()).max(start)
    }

    fn batch(&self, start: u64, end: u64) -> Result<RecordBatch> {
        let buffer = locked(&self.buffer);
        let index = |position: u64| {
            usize::try_from(position.saturating_sub(buffer.first)).unwrap_or(usize::MAX).min(buffer.lines.len())
        };
        let wanted = buffer.lines.range(index(start)..index(end.max(start)));
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from_iter_values(wanted.clone().map(|(text, _)| text.as_str())))];
        if self.schema.fields().len() > 1 {
            let times = wanted.map(|(_, arrived_ms)| arrived_ms.saturating_mul(1_000));
            columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(times)));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Reads lines until the peer closes. Bytes that are not UTF-8 become U+FFFD.
async fn read_lines(stream: TcpStream, lines: Arc<Lines>, clock: Arc<dyn Clock>, address: String) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(length) if length as u64 == LONGEST_LINE && !line.ends_with(b"\n") => {
                tracing::warn!(
                    "socket source {address}: a line has over {LONGEST_LINE} bytes and is not read; no more lines will \
                     come"
                );
                return;
            }
            Ok(0) => {
                tracing::info!("socket source {address}: the server has closed; no more lines will come");
                return;
            }
            Ok(_) => {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                lines.push(String::from_utf8_lossy(text).into_owned(), clock.now_ms());
            }
            Err(error) => {
                tracing::warn!("socket source {address}: reading failed ({error}); no more lines will come");
                return;
            }
        }
    }
}

/// Offset without a journal: how many lines have been read.
#[derive(Debug, Deserialize)]
struct RowsOffset {
    rows: u64,
}

/// Offset with a journal: how many of its entries have been read.
#[derive(Debug, Deserialize)]
struct EntriesOffset {
    entries: u64,
}

/// Split: lines in memory, or one entry of the journal.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SocketSplit {
    Entry { entry: u64 },
    Rows { first: u64, end: u64 },
}

/// The source of one query.
struct SocketSource {
    settings: Settings,
    lines: Arc<Lines>,
    clock: Arc<dyn Clock>,
    /// Set by `open`, with option `journal`.
    journal: Mutex<Option<Arc<Journal>>>,
    reading: Mutex<Option<JoinHandle<()>>>,
    /// The end of what has been planned: `changed` waits for more than that.
    planned: AtomicU64,
    fixed_end: Mutex<Option<u64>>,
}

impl fmt::Debug for SocketSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

impl SocketSource {
    fn address(&self) -> String {
        format!("{}:{}", self.settings.host, self.settings.port)
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        locked(&self.journal).clone()
    }

    fn offset_of(&self, position: u64) -> Offset {
        if self.settings.journal { json!({"v": 1, "entries": position}) } else { json!({"v": 1, "rows": position}) }
    }

    fn position_of(&self, offset: Option<&Offset>) -> Result<u64> {
        let what = "socket source";
        Ok(match offset {
            None => 0,
            Some(offset) if self.settings.journal => parse_offset::<EntriesOffset>(what, offset)?.entries,
            Some(offset) => parse_offset::<RowsOffset>(what, offset)?.rows,
        })
    }

    /// The position up to which can be read now, after writing new lines to the journal, where there is one.
    async fn available(&self) -> Result<u64> {
        let Some(journal) = self.journal() else {
            return Ok(self.lines.end());
        };
        let new = self.lines.kept(0, u64::MAX);
        if !new.is_empty() {
            journal.append(&[self.lines.batch(new.start, new.end)?]).await?;
            locked(&self.lines.buffer).drop_before(new.end);
        }
        Ok(journal.end())
    }

    fn splits(&self, start: u64, end: u64) -> Vec<Split> {
        if self.settings.journal {
            return (start..end).map(|entry| Split { description: json!({"entry": entry}), weight: 1 }).collect();
        }
        let kept = self.lines.kept(start, end);
        let lost = end.saturating_sub(start) - (kept.end - kept.start).min(end.saturating_sub(start));
        if lost > 0 {
            tracing::warn!(
                "socket source {}: {lost} of the lines {start}..{end} went with an earlier process and are not read \
                 again; option 'journal' = 'true' would keep them",
                self.address()
            );
        }
        if kept.is_empty() {
            return Vec::new();
        }
        vec![Split { description: json!({"first": kept.start, "end": kept.end}), weight: kept.end - kept.start }]
    }

    fn stop_reading(&self) {
        if let Some(task) = locked(&self.reading).take() {
            task.abort();
        }
    }
}

impl Drop for SocketSource {
    fn drop(&mut self) {
        self.stop_reading();
    }
}

#[async_trait]
impl Source for SocketSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.lines.schema)
    }

    fn description(&self) -> String {
        format!("SocketSource[{}]", self.address())
    }

    fn guarantee(&self) -> Guarantee {
        if self.settings.journal { Guarantee::Journaled } else { Guarantee::Lossy }
    }

    async fn open(&self, context: SourceContext) -> Result<()> {
        self.stop_reading();
        let known = self.position_of(context.history.last())?;
        if self.settings.journal {
            let journal = Journal::open(context.journal).await?;
            journal.verify(known).await?;
            self.lines.restart_at(0);
            *locked(&self.journal) = Some(Arc::new(journal));
        } else {
            tracing::warn!(
                "socket source {}: lines in flight are lost if this process dies; option 'journal' = 'true' keeps \
                 them in the checkpoint",
                self.address()
            );
            self.lines.restart_at(known);
        }
        self.planned.store(known, Ordering::SeqCst);
        *locked(&self.fixed_end) = None;

        let address = self.address();
        let stream = TcpStream::connect((self.settings.host.as_str(), self.settings.port)).await.map_err(|error| {
            Error::unavailable(format!(
                "socket source: cannot connect to {address}: {error}; start the server first (for instance `nc -lk \
                 {}`) or mend options 'host' and 'port'",
                self.settings.port
            ))
            .with_source(error)
        })?;
        let reading = read_lines(stream, Arc::clone(&self.lines), Arc::clone(&self.clock), address);
        *locked(&self.reading) = Some(tokio::spawn(reading));
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        let end = self.available().await?;
        *locked(&self.fixed_end) = Some(end);
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, _limit: ReadLimit) -> Result<Option<Planned>> {
        let start = self.position_of(start)?;
        let mut end = self.available().await?;
        if let Some(fixed) = *locked(&self.fixed_end) {
            end = end.min(fixed);
        }
        self.planned.store(start.max(end), Ordering::SeqCst);
        if end <= start {
            return Ok(None);
        }
        Ok(Some(Planned { end: self.offset_of(end), splits: self.splits(start, end) }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        Ok(self.splits(self.position_of(start)?, self.position_of(Some(end))?))
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let wanted: SocketSplit = serde_json::from_value(split.description.clone())?;
        match wanted {
            SocketSplit::Rows { first, end } => {
                stream_of(vec![self.lines.batch(first, end)?], &self.lines.schema, &context)
            }
            SocketSplit::Entry { entry } => match self.journal() {
                Some(journal) => journal.stream(entry, self.schema(), context),
                None => Err(Error::internal("socket source: a journal entry is read before the source is open")),
            },
        }
    }

    async fn commit(&self, end: &Offset) -> Result<()> {
        let end = self.position_of(Some(end))?;
        match self.journal() {
            Some(journal) => journal.truncate_before(end).await,
            None => {
                locked(&self.lines.buffer).drop_before(end);
                Ok(())
            }
        }
    }

    async fn latest(&self) -> Result<Option<Offset>> {
        let end = self.journal().map_or_else(|| self.lines.end(), |journal| journal.end());
        Ok(Some(self.offset_of(end)))
    }

    async fn changed(&self) {
        let planned = self.planned.load(Ordering::SeqCst);
        let wanted = match self.journal() {
            None => planned,
            Some(journal) if journal.end() > planned => return,
            // Lines leave the buffer for the journal: whatever is in it has not been planned.
            Some(_) => locked(&self.lines.buffer).first,
        };
        // The sender lives as long as this source, so that the wait cannot fail.
        let _ = self.lines.total.subscribe().wait_for(|total| *total > wanted).await;
    }

    async fn stop(&self) {
        self.stop_reading();
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use futures::TryStreamExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;
    use crate::storage::LocalStore;

    /// A source and the server's end of its connection.
    async fn connect(
        dir: &tempfile::TempDir,
        options: &[(&str, &str)],
        history: Vec<Offset>,
    ) -> (Arc<dyn Source>, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut options: Options = options.iter().copied().collect();
        options.set("host", "127.0.0.1").set("port", listener.local_addr().unwrap().port());
        let clock = Arc::new(ManualClock::new(42));
        let spec = SourceSpec { format: "socket".into(), schema: None, path: None, options, clock };
        let source = SocketSourceProvider.create(&spec).await.unwrap();
        source.open(SourceContext { journal: Arc::new(LocalStore::new(dir.path())), history }).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (source, server)
    }

    /// Plans until `count` rows after `start` are there.
    async fn plan(source: &Arc<dyn Source>, start: Option<&Offset>, count: usize) -> (Offset, Vec<String>) {
        let mut end = start.cloned();
        let mut found = Vec::new();
        while found.len() < count {
            match source.plan(end.as_ref(), ReadLimit::Options).await.unwrap() {
                Some(planned) => {
                    found.extend(values(source, &planned.splits).await);
                    end = Some(planned.end);
                }
                None => source.changed().await,
            }
        }
        (end.unwrap(), found)
    }

    async fn values(source: &Arc<dyn Source>, splits: &[Split]) -> Vec<String> {
        let mut found = Vec::new();
        for split in splits {
            let context =
                ReadContext { projection: Some(vec![0]), batch_size: 2, filter: None, malformed_rows: Arc::default() };
            let batches: Vec<RecordBatch> = source.read(split, context).unwrap().try_collect().await.unwrap();
            for batch in &batches {
                found.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_string));
            }
        }
        found
    }

    #[tokio::test]
    async fn lines_arrive_and_are_kept_until_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mut server) = connect(&dir, &[("includeTimestamp", "true")], vec![]).await;
        assert_eq!(source.guarantee(), Guarantee::Lossy);
        server.write_all(b"one\r\ntwo\nlast without an end").await.unwrap();
        drop(server);
        let (end, found) = plan(&source, None, 3).await;
        assert_eq!(found, vec!["one", "two", "last without an end"]);
        assert_eq!(end, json!({"v": 1, "rows": 3}));
        assert_eq!(values(&source, &source.replay(None, &end).await.unwrap()).await, found);
        source.commit(&end).await.unwrap();
        assert!(source.replay(None, &end).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn without_a_journal_a_restart_counts_on_and_replays_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let old = json!({"v": 1, "rows": 5});
        let (source, mut server) = connect(&dir, &[], vec![old.clone()]).await;
        assert!(source.replay(None, &old).await.unwrap().is_empty());
        server.write_all(b"six\n").await.unwrap();
        assert_eq!(plan(&source, Some(&old), 1).await, (json!({"v": 1, "rows": 6}), vec!["six".to_string()]));
    }

    #[tokio::test]
    async fn with_a_journal_planned_lines_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let options = [("journal", "true")];
        let (source, mut server) = connect(&dir, &options, vec![]).await;
        assert_eq!(source.guarantee(), Guarantee::Journaled);
        server.write_all(b"one\ntwo\n").await.unwrap();
        let (end, found) = plan(&source, None, 2).await;
        assert_eq!(found, vec!["one", "two"]);
        drop(source);

        let (source, _server) = connect(&dir, &options, vec![end.clone()]).await;
        assert_eq!(values(&source, &source.replay(None, &end).await.unwrap()).await, found);

        // Journaled, but the offset log had not yet heard of it: offered again.
        let (source, _server) = connect(&dir, &options, vec![]).await;
        assert_eq!(plan(&source, None, 2).await.1, found);
    }

    #[tokio::test]
    async fn a_line_without_an_end_takes_no_more_memory() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let schema = Settings::of(&[("host", "x"), ("port", "1")].into_iter().collect()).unwrap().schema();
        let lines = Arc::new(Lines { schema, buffer: Mutex::default(), total: watch::Sender::new(0) });
        let reading = read_lines(client, Arc::clone(&lines), Arc::new(ManualClock::new(0)), "x".to_string());
        let mut text = b"fine\n".to_vec();
        text.resize(text.len() + usize::try_from(LONGEST_LINE).unwrap(), b'x');
        // The reading ends while the server is still there, with the line before.
        let (written, ()) = tokio::join!(server.write_all(&text), reading);
        written.unwrap();
        assert_eq!(lines.end(), 1);
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_place() {
        let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
        let options: Options = [("host", "127.0.0.1".to_string()), ("port", port.to_string())].into_iter().collect();
        let clock = Arc::new(ManualClock::new(0));
        let spec = SourceSpec { format: "socket".into(), schema: None, path: None, options, clock };
        let source = SocketSourceProvider.create(&spec).await.unwrap();
        let journal = Arc::new(LocalStore::new(std::env::temp_dir()));
        let error = source.open(SourceContext { journal, history: vec![] }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }

    #[test]
    fn host_and_port_are_needed() {
        let options: Options = [("host", "localhost")].into_iter().collect();
        let error = Settings::of(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains("'port'"), "{error}");
    }
}
