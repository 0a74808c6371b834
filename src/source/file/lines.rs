//! Reads a file row by row into batches: what JSON, CSV and text have in common.
//!
//! A row is a line, unless the format knows of rows that go on over several ([`RowEnds`]). The file is fetched in
//! pieces of a few megabytes, exactly as long as it was when it was listed, so that a batch that runs again reads the
//! same bytes even if somebody appends to the file meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use memchr::{memchr, memrchr};

use super::layout::Layout;
use super::listing::FileEntry;
use crate::error::{Error, Result};
use crate::source::decode::malformed::Rows;
use crate::source::decode::{LineDecoder, RowEnds};
use crate::storage::blocking;

/// How much of a file is fetched at once.
pub(super) const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// A file as it was when it was listed.
#[derive(Debug, Clone)]
pub(super) struct OpenFile {
    /// Its path as listed.
    pub(super) name: String,
    /// Its size as listed.
    pub(super) size: u64,
}

impl OpenFile {
    /// Prepares to read `entry`; nothing is touched yet.
    pub(super) fn new(entry: &FileEntry) -> Self {
        Self { name: entry.path.clone(), size: entry.size }
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
        let (path, wanted) = (PathBuf::from(&self.name), ranges.to_vec());
        let name = self.name.clone();
        let pieces = blocking(move || read(&path, &wanted).map_err(|e| unreadable(&name, e))).await?;
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

/// Reads ranges of a file, as far as it goes: what a range claims to hold costs no memory before it is there.
fn read(path: &Path, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let mut file = File::open(path)?;
    let mut pieces = Vec::with_capacity(ranges.len());
    for range in ranges {
        let length = range.end.saturating_sub(range.start);
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(PIECE_BYTES)).unwrap_or(0));
        file.seek(SeekFrom::Start(range.start))?;
        Read::by_ref(&mut file).take(length).read_to_end(&mut bytes)?;
        pieces.push(bytes.into());
    }
    Ok(pieces)
}

/// Says that a listed file cannot be read.
pub(super) fn unreadable(name: &str, error: io::Error) -> Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "has vanished since it was listed; put it back".to_string(),
        _ => format!("cannot be read ({error}); mend that and start again"),
    };
    Error::unavailable(format!("file {name} {what}")).with_source(error)
}

/// Whole lines of a file as text.
#[derive(Default)]
struct Piece {
    text: String,
    /// Where in the text a replacement character stands for bytes that are not UTF-8.
    replaced: Vec<usize>,
}

impl Piece {
    fn of(bytes: Vec<u8>) -> Self {
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Self { text, replaced: Vec::new() },
            Err(error) => error.into_bytes(),
        };
        let mut piece = Self::default();
        for chunk in bytes.utf8_chunks() {
            piece.text.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                piece.replaced.push(piece.text.len());
                piece.text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        piece
    }
}

/// Whole lines of a file, a piece at a time.
struct Pieces {
    file: OpenFile,
    position: u64,
    carry: Vec<u8>,
}

impl Pieces {
    /// Returns whether all of the file was handed out.
    fn is_at_end(&self) -> bool {
        self.position >= self.file.size && self.carry.is_empty()
    }

    /// Returns the next whole lines, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if self.position >= self.file.size {
                let rest = std::mem::take(&mut self.carry);
                return Ok(if rest.is_empty() { None } else { Some(Piece::of(rest)) });
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
                match memrchr(b'\n', &piece[carried..]) {
                    Some(newline) => self.carry = piece.split_off(carried + newline + 1),
                    None => {
                        self.carry = piece;
                        continue;
                    }
                }
            }
            return Ok(Some(Piece::of(piece)));
        }
    }
}

/// The text of a file that was fetched, on its way into rows.
struct Window {
    pieces: Pieces,
    text: String,
    /// Where in the text the next row begins.
    offset: usize,
    /// How many lines were taken.
    lines: u64,
    /// Where in what is not taken yet bytes were replaced.
    replaced: VecDeque<usize>,
}

/// A row as it stands in its file.
struct RowText<'a> {
    /// Its text, without the end of its last line.
    text: &'a str,
    /// The number of its first line.
    line_number: u64,
    /// Some of its bytes are not UTF-8, and replaced.
    is_replaced: bool,
}

impl Window {
    fn new(file: OpenFile) -> Self {
        let pieces = Pieces { file, position: 0, carry: Vec::new() };
        Self { pieces, text: String::new(), offset: 0, lines: 0, replaced: VecDeque::new() }
    }

    /// Adds the next piece of the file to what is not taken yet. False at the file's end.
    async fn fetch(&mut self) -> Result<bool> {
        let Some(piece) = self.pieces.next().await? else {
            return Ok(false);
        };
        if self.offset == self.text.len() {
            (self.text, self.replaced) = (piece.text, piece.replaced.into());
        } else {
            // A row that goes on in the piece: at most a megabyte is moved.
            self.text.drain(..self.offset);
            self.replaced.iter_mut().for_each(|at| *at -= self.offset);
            self.add(&piece);
        }
        self.offset = 0;
        Ok(true)
    }

    fn add(&mut self, piece: &Piece) {
        let before = self.text.len();
        self.text.push_str(&piece.text);
        self.replaced.extend(piece.replaced.iter().map(|at| before + at));
    }

    /// Adds all there is. False where there is nothing.
    async fn fetch_all(&mut self) -> Result<bool> {
        let mut any = false;
        while let Some(piece) = self.pieces.next().await? {
            self.add(&piece);
            any = true;
        }
        Ok(any)
    }

    /// Takes the next row. `None` where more has to be fetched first.
    fn next_row(&mut self, ends: &dyn RowEnds) -> Option<RowText<'_>> {
        let rest = &self.text[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let line_bytes = memchr(b'\n', rest.as_bytes()).map_or(rest.len(), |newline| newline + 1);
        let row_bytes = ends.row_bytes(rest, line_bytes, self.pieces.is_at_end())?;
        let row = &rest[..row_bytes];
        let row = row.strip_suffix('\n').unwrap_or(row);
        let line_number = self.lines + 1;
        self.offset += row_bytes;
        self.lines += 1;
        if row_bytes > line_bytes {
            self.lines += row.matches('\n').count() as u64;
        }
        let mut is_replaced = false;
        while self.replaced.front().is_some_and(|at| *at < self.offset) {
            self.replaced.pop_front();
            is_replaced = true;
        }
        Some(RowText { text: row.strip_suffix('\r').unwrap_or(row), line_number, is_replaced })
    }
}

/// One file being read.
pub(super) struct LineScan {
    window: Window,
    decoder: Box<dyn LineDecoder>,
    rows: Rows,
    layout: Layout,
    batch_size: usize,
    /// The whole file is one line.
    whole_file: bool,
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
        Self { window: Window::new(file), decoder, rows, layout, batch_size: batch_size.max(1), whole_file: false }
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
            self.decode_rows()?;
            let rows = self.rows.len();
            if rows >= self.batch_size {
                return self.finish().map(Some);
            }
            let more = if self.whole_file { self.window.fetch_all().await? } else { self.window.fetch().await? };
            if !more {
                return if rows > 0 { self.finish().map(Some) } else { Ok(None) };
            }
        }
    }

    /// Decodes rows until the batch is full or the text is used up.
    fn decode_rows(&mut self) -> Result<()> {
        if self.whole_file {
            let text = std::mem::take(&mut self.window.text);
            let is_replaced = !std::mem::take(&mut self.window.replaced).is_empty();
            if !text.is_empty() {
                let verdict = self.decoder.decode(&text, &mut self.rows).of_text(is_replaced);
                self.rows.settle(verdict, &text, 1)?;
            }
            return Ok(());
        }
        while self.rows.len() < self.batch_size {
            let Some(row) = self.window.next_row(self.decoder.row_ends()) else {
                break;
            };
            if self.decoder.skips(row.text) {
                continue;
            }
            let verdict = self.decoder.decode(row.text, &mut self.rows).of_text(row.is_replaced);
            self.rows.settle(verdict, row.text, row.line_number)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let (columns, corrupt, length) = self.rows.finish()?;
        self.layout.assemble(&columns, Some(&corrupt), length)
    }
}

/// Reads the first rows of a file, for inference: at most `most` that are not blank.
pub(super) async fn first_rows(entry: &FileEntry, most: usize, ends: &dyn RowEnds) -> Result<Vec<String>> {
    let mut window = Window::new(OpenFile::new(entry));
    let mut rows = Vec::new();
    loop {
        while rows.len() < most
            && let Some(row) = window.next_row(ends)
        {
            if !row.text.trim_ascii().is_empty() {
                rows.push(row.text.to_string());
            }
        }
        if rows.len() >= most || !window.fetch().await? {
            return Ok(rows);
        }
    }
}
