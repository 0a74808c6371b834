//! Reads a file line by line into batches: what JSON, CSV and text have in common.
//!
//! The file is fetched in pieces of a few megabytes, exactly as long as it was when it was listed, so that a batch
//! that runs again reads the same bytes even if somebody appends to the file meanwhile.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use object_store::ObjectStore;
use object_store::path::Path;

use super::layout::Layout;
use super::listing::{FileEntry, object_path, open_store};
use super::malformed::{Rows, Verdict};
use crate::error::{Error, Result};

/// How much of a file is fetched at once.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// Turns one line into one row.
pub(super) trait LineDecoder: Send {
    /// Reads `line` (without its end) into the columns of `rows`, at most one value each.
    fn decode(&mut self, line: &str, rows: &mut Rows) -> Verdict;

    /// Returns whether a line of nothing but blanks is no row.
    fn skips_blank_lines(&self) -> bool {
        true
    }
}

/// A file as it was when it was listed.
#[derive(Debug, Clone)]
pub(super) struct OpenFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// Its path as listed, for messages.
    pub(super) name: String,
    /// Its size as listed.
    pub(super) size: u64,
}

impl OpenFile {
    /// Prepares to read `entry`; nothing is touched yet.
    ///
    /// # Errors
    /// `InvalidOption` for a path that cannot be one.
    pub(super) fn new(entry: &FileEntry) -> Result<Self> {
        let path = object_path(&entry.path)?;
        Ok(Self { store: open_store(), path, name: entry.path.clone(), size: entry.size })
    }

    /// Reads a range of bytes.
    ///
    /// # Errors
    /// `Unavailable` where the file is gone, cannot be read, or has become shorter.
    pub(super) async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = self.read_ranges(&[range]).await?;
        bytes.pop().ok_or_else(|| Error::internal("a range was read and nothing came back"))
    }

    /// Reads ranges of bytes.
    ///
    /// # Errors
    /// As [`OpenFile::read_range`].
    pub(super) async fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let pieces = self.store.get_ranges(&self.path, ranges).await.map_err(|e| unreadable(&self.name, e))?;
        let shorter = |(range, bytes): (&Range<u64>, &Bytes)| (bytes.len() as u64) < range.end - range.start;
        if ranges.iter().zip(&pieces).any(shorter) {
            return Err(Error::unavailable(format!(
                "file {} has become shorter than the {} bytes it had when it was listed; files must not change once \
                 they are in place",
                self.name, self.size
            )));
        }
        Ok(pieces)
    }
}

/// Says that a listed file cannot be read.
pub(super) fn unreadable(name: &str, error: object_store::Error) -> Error {
    let what = match &error {
        object_store::Error::NotFound { .. } => "has vanished since it was listed; put it back".to_string(),
        other => format!("cannot be read ({other}); mend that and start again"),
    };
    Error::unavailable(format!("file {name} {what}")).with_source(error)
}

/// Whole lines of a file, a piece at a time.
struct Pieces {
    file: OpenFile,
    position: u64,
    carry: Vec<u8>,
}

impl Pieces {
    /// Returns the next whole lines, or `None` at the end. Bytes that are not UTF-8 are replaced.
    async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if self.position >= self.file.size {
                let rest = std::mem::take(&mut self.carry);
                return Ok(if rest.is_empty() { None } else { Some(text(rest)) });
            }
            let start = self.position;
            let end = self.file.size.min(start + PIECE_BYTES);
            let bytes = self.file.read_range(start..end).await?;
            self.position = end;
            let bytes = if start == 0 { bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes) } else { &bytes[..] };
            let mut piece = std::mem::take(&mut self.carry);
            let carried = piece.len();
            piece.extend_from_slice(bytes);
            if end < self.file.size {
                // What was carried holds no line's end: only what is new is looked at.
                match piece[carried..].iter().rposition(|byte| *byte == b'\n') {
                    Some(newline) => self.carry = piece.split_off(carried + newline + 1),
                    None => {
                        self.carry = piece;
                        continue;
                    }
                }
            }
            return Ok(Some(text(piece)));
        }
    }

    /// Returns all there is as one text, or `None` where there is nothing.
    async fn whole(&mut self) -> Result<Option<String>> {
        let mut all = None;
        while let Some(piece) = self.next().await? {
            all.get_or_insert_with(String::new).push_str(&piece);
        }
        Ok(all)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// One file being read.
pub(super) struct LineScan {
    pieces: Pieces,
    decoder: Box<dyn LineDecoder>,
    rows: Rows,
    layout: Layout,
    batch_size: usize,
    /// The whole file is one line.
    whole_file: bool,
    text: String,
    offset: usize,
    line_number: u64,
}

impl LineScan {
    /// Prepares to read `file`; nothing is touched yet.
    pub(super) fn new(
        file: OpenFile,
        decoder: Box<dyn LineDecoder>,
        rows: Rows,
        layout: Layout,
        batch_size: usize,
    ) -> Self {
        let pieces = Pieces { file, position: 0, carry: Vec::new() };
        let text = String::new();
        let batch_size = batch_size.max(1);
        Self { pieces, decoder, rows, layout, batch_size, whole_file: false, text, offset: 0, line_number: 0 }
    }

    /// Makes the whole file one line.
    pub(super) fn with_whole_file(mut self, whole_file: bool) -> Self {
        self.whole_file = whole_file;
        self
    }

    /// Returns the rows as a stream of batches.
    pub(super) fn into_stream(self) -> SendableRecordBatchStream {
        let schema = self.layout.schema();
        let batches = futures::stream::try_unfold(self, |mut scan| async move {
            let batch = scan.next_batch().await.map_err(DataFusionError::from)?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, scan)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            self.decode_lines()?;
            let rows = self.rows.len();
            if rows >= self.batch_size {
                return self.finish().map(Some);
            }
            let next = if self.whole_file { self.pieces.whole().await? } else { self.pieces.next().await? };
            match next {
                Some(text) => (self.text, self.offset) = (text, 0),
                None if rows > 0 => return self.finish().map(Some),
                None => return Ok(None),
            }
        }
    }

    /// Decodes lines until the batch is full or the text is used up.
    fn decode_lines(&mut self) -> Result<()> {
        if self.whole_file {
            if self.offset < self.text.len() {
                self.offset = self.text.len();
                let verdict = self.decoder.decode(&self.text, &mut self.rows);
                self.rows.settle(verdict, &self.text, 1)?;
            }
            return Ok(());
        }
        let skips_blank_lines = self.decoder.skips_blank_lines();
        for ended in self.text[self.offset..].split_inclusive('\n') {
            if self.rows.len() >= self.batch_size {
                break;
            }
            self.offset += ended.len();
            self.line_number += 1;
            let line = ended.strip_suffix('\n').unwrap_or(ended);
            let line = line.strip_suffix('\r').unwrap_or(line);
            if skips_blank_lines && line.trim_ascii().is_empty() {
                continue;
            }
            let verdict = self.decoder.decode(line, &mut self.rows);
            self.rows.settle(verdict, line, self.line_number)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let (columns, corrupt, length) = self.rows.finish()?;
        self.layout.assemble(&columns, Some(&corrupt), length)
    }
}

/// Reads the first lines of a file, for inference: at most `most` that are not blank.
pub(super) async fn first_lines(entry: &FileEntry, most: usize) -> Result<Vec<String>> {
    let mut pieces = Pieces { file: OpenFile::new(entry)?, position: 0, carry: Vec::new() };
    let mut lines = Vec::new();
    while lines.len() < most {
        let Some(text) = pieces.next().await? else {
            break;
        };
        let wanted = most - lines.len();
        lines.extend(text.lines().filter(|line| !line.trim_ascii().is_empty()).take(wanted).map(str::to_string));
    }
    Ok(lines)
}
