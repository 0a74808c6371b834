//! State as bytes: one Arrow IPC stream with the format's version in the schema's metadata; snapshots have lz4 inside.
//!
//! Any Arrow tool can read it. Length and checksum stand in the commit log, which decides what is current. Guards that
//! no length that a file only claims makes anybody take memory for it.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamDecoder;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::arrow::ipc::{CompressionType, root_as_message};

use crate::error::{Error, Result};

/// The version of the layout of state files.
const FORMAT: &str = "1";
const FORMAT_KEY: &str = "millstream.state.format";

/// What stands before the length of each message of a stream.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// A block of lz4 grows by no more than this factor when it is unpacked.
const MOST_UNPACKED: usize = 256;

/// Writes `batch` as a state file, as it is: it is written in a batch's way, read once and soon replaced.
///
/// # Errors
/// `Internal` where Arrow cannot write the schema.
pub fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let mut encoder = Encoder::with(&batch.schema(), None)?;
    encoder.add(batch.clone())?;
    encoder.finish()
}

/// Writes a state file piece by piece, packed, so that its rows need not all stand in memory a second time.
pub struct Encoder {
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
}

impl Encoder {
    /// Begins a state file of rows of this schema.
    ///
    /// # Errors
    /// `Internal` where Arrow cannot write the schema.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        Self::with(schema, Some(CompressionType::LZ4_FRAME))
    }

    fn with(schema: &SchemaRef, packing: Option<CompressionType>) -> Result<Self> {
        let mut metadata = schema.metadata().clone();
        metadata.insert(FORMAT_KEY.to_string(), FORMAT.to_string());
        let schema = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
        let options = IpcWriteOptions::default().try_with_compression(packing)?;
        let writer = StreamWriter::try_new_with_options(Vec::new(), &schema, options)?;
        Ok(Self { schema, writer })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// `Internal` where they have another schema.
    pub fn add(&mut self, rows: RecordBatch) -> Result<()> {
        Ok(self.writer.write(&rows.with_schema(Arc::clone(&self.schema))?)?)
    }

    /// Returns the file's bytes.
    ///
    /// # Errors
    /// `Internal` where Arrow cannot end the stream.
    pub fn finish(self) -> Result<Bytes> {
        Ok(self.writer.into_inner()?.into())
    }
}

/// A state file on its way back, batch by batch, so that its rows need not all stand in memory beside what they become.
pub struct Decoder {
    location: String,
    schema: SchemaRef,
    decoder: StreamDecoder,
    rest: Buffer,
    first: Option<RecordBatch>,
}

impl Decoder {
    /// Begins to read a state file, whatever its columns are.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where it is no state file; `CheckpointIncompatible` where another version wrote it. Both name
    /// `location`.
    pub fn new(bytes: Bytes, location: &str) -> Result<Self> {
        check_lengths(&bytes).map_err(|why| torn(location, ArrowError::IpcError(why)))?;
        let (mut decoder, mut rest, mut first) = (StreamDecoder::new(), Buffer::from(bytes), None);
        while !rest.is_empty() && first.is_none() {
            first = decoder.decode(&mut rest).map_err(|e| torn(location, e))?;
        }
        let Some(schema) = decoder.schema() else {
            return Err(torn(location, ArrowError::IpcError("it has no schema".to_string())));
        };
        match schema.metadata().get(FORMAT_KEY).map(String::as_str) {
            Some(FORMAT) => Ok(Self { location: location.to_string(), schema, decoder, rest, first }),
            other => Err(Error::incompatible(format!(
                "{location} has state format {}, this version reads {FORMAT}: use the version that wrote it, or start with a \
                 new checkpoint and a new table",
                other.unwrap_or("none")
            ))),
        }
    }

    /// Begins to read a state file that must have `expected`'s columns: their types and, if `named`, their names.
    ///
    /// # Errors
    /// As [`Decoder::new`]; `CheckpointIncompatible` where another shape of the query wrote it.
    pub fn of(bytes: Bytes, expected: &SchemaRef, named: bool, location: &str) -> Result<Self> {
        let mut decoder = Self::new(bytes, location)?;
        let found = std::mem::replace(&mut decoder.schema, Arc::clone(expected));
        let same = found.fields().len() == expected.fields().len()
            && found
                .fields()
                .iter()
                .zip(expected.fields())
                .all(|(a, b)| a.data_type() == b.data_type() && (!named || a.name() == b.name()));
        if !same {
            return Err(Error::incompatible(format!(
                "{location} holds the state of another query: its columns are {}, this query's {}",
                describe(&found),
                describe(expected)
            )));
        }
        Ok(decoder)
    }

    /// Returns the next rows, or `None` at the end.
    ///
    /// # Errors
    /// `CheckpointCorrupt` where the file is torn there.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut next = self.first.take();
        while next.is_none() && !self.rest.is_empty() {
            next = self.decoder.decode(&mut self.rest).map_err(|e| torn(&self.location, e))?;
        }
        match next {
            Some(rows) => Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?)),
            None => {
                self.decoder.finish().map_err(|e| torn(&self.location, e))?;
                Ok(None)
            }
        }
    }

    fn all(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(rows) = self.next_batch()? {
            batches.push(rows);
        }
        Ok(batches)
    }
}

/// Reads a state file whole; see [`Decoder::of`].
///
/// # Errors
/// As [`Decoder::of`] and [`Decoder::next_batch`].
pub fn decode(bytes: Bytes, expected: &SchemaRef, named: bool, location: &str) -> Result<Vec<RecordBatch>> {
    Decoder::of(bytes, expected, named, location)?.all()
}

/// Reads a state file whole, whatever its columns are.
///
/// # Errors
/// As [`Decoder::new`] and [`Decoder::next_batch`].
pub fn read(bytes: Bytes, location: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let decoder = Decoder::new(bytes, location)?;
    Ok((Arc::clone(&decoder.schema), decoder.all()?))
}

fn torn(location: &str, error: ArrowError) -> Error {
    Error::corrupt(format!(
        "{location} is not an Arrow stream: {error}; restore it from a copy or rewind the checkpoint"
    ))
}

/// Walks the messages of a stream: each must be there whole, and no buffer in it may claim to unpack into more than it can.
fn check_lengths(bytes: &[u8]) -> std::result::Result<(), String> {
    let cut = || "it is cut short".to_string();
    let (mut rest, mut number) = (bytes, 0);
    while !rest.is_empty() {
        rest = rest.strip_prefix(&CONTINUATION).unwrap_or(rest);
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
        if length == 0 {
            return Ok(());
        }
        let (head, after) = after.split_at_checked(length).ok_or_else(cut)?;
        let message = root_as_message(head).map_err(|e| format!("message {number} is none: {e}"))?;
        let body_length = usize::try_from(message.bodyLength()).map_err(|_| cut())?;
        let (body, after) = after.split_at_checked(body_length).ok_or_else(cut)?;
        let batch = message.header_as_record_batch().filter(|batch| batch.compression().is_some());
        for buffer in batch.and_then(|batch| batch.buffers()).into_iter().flatten() {
            let place = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
            let packed = place.and_then(|(start, length)| body.get(start..start.checked_add(length)?));
            let packed = packed.ok_or_else(cut)?;
            let unpacked = packed.first_chunk::<8>().map_or(0, |claim| i64::from_le_bytes(*claim));
            if usize::try_from(unpacked).is_ok_and(|unpacked| unpacked / MOST_UNPACKED > packed.len()) {
                return Err(format!("{} bytes of it cannot unpack into {unpacked}", packed.len()));
            }
        }
        (rest, number) = (after, number + 1);
    }
    Ok(())
}

fn describe(schema: &Schema) -> String {
    let columns: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    columns.join(", ")
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::error::ErrorKind;

    /// A file of rows that shrink when they are packed.
    fn file() -> Bytes {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; 10_000]));
        let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let mut encoder = Encoder::new(&rows.schema()).unwrap();
        encoder.add(rows).unwrap();
        encoder.finish().unwrap()
    }

    fn refused(bytes: impl Into<Bytes>) {
        let error = read(bytes.into(), "state/0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CheckpointCorrupt, "{error}");
        assert!(error.message().starts_with("state/0 is not an Arrow stream: "), "{error}");
    }

    #[test]
    fn what_was_written_is_read() {
        let (schema, batches) = read(file(), "state/0").unwrap();
        assert_eq!((schema.fields().len(), batches.len(), batches[0].num_rows()), (1, 1, 10_000));
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        refused(b";;;;\x03\x00".to_vec());
        refused(b"\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec());
        refused(b"".to_vec());
        // The length that a packed buffer unpacks into, which stands before it.
        let mut bytes = file().to_vec();
        let claim = 80_000_i64.to_le_bytes();
        let at = bytes.windows(8).position(|window| window == claim).unwrap();
        bytes[at..at + 8].copy_from_slice(&(1_i64 << 60).to_le_bytes());
        refused(bytes);
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = file();
        // Without the mark of the end it is whole all the same.
        for length in 0..whole.len() - 8 {
            let cut = read(whole.slice(..length), "state/0");
            assert!(cut.is_err() || cut.is_ok_and(|(_, batches)| batches.is_empty()), "{length}");
        }
    }
}
