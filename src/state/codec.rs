//! State as bytes: one Arrow IPC stream, lz4 inside, with the format's version in the schema's metadata.
//!
//! Any Arrow tool can read it. Length and checksum stand in the commit log, which decides what is current.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use crate::error::{Error, Result};

/// The version of the layout of state files.
const FORMAT: &str = "1";
const FORMAT_KEY: &str = "millstream.state.format";

/// Writes `batch` as a state file.
///
/// # Errors
/// `Internal` where Arrow cannot write the schema.
pub fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let mut encoder = Encoder::new(&batch.schema())?;
    encoder.add(batch.clone())?;
    encoder.finish()
}

/// Writes a state file piece by piece, so that its rows need not all stand in memory a second time.
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
        let mut metadata = schema.metadata().clone();
        metadata.insert(FORMAT_KEY.to_string(), FORMAT.to_string());
        let schema = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
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

/// Reads a state file that must have `expected`'s columns: their types and, if `named`, their names.
///
/// # Errors
/// `CheckpointCorrupt` where it is no state file; `CheckpointIncompatible` where another version or another shape of
/// the query wrote it. Both name `location`.
pub fn decode(bytes: Bytes, expected: &SchemaRef, named: bool, location: &str) -> Result<Vec<RecordBatch>> {
    let (schema, batches) = read(bytes, location)?;
    let same = schema.fields().len() == expected.fields().len()
        && schema
            .fields()
            .iter()
            .zip(expected.fields())
            .all(|(a, b)| a.data_type() == b.data_type() && (!named || a.name() == b.name()));
    if !same {
        return Err(Error::incompatible(format!(
            "{location} holds the state of another query: its columns are {}, this query's {}",
            describe(&schema),
            describe(expected)
        )));
    }
    batches.into_iter().map(|b| Ok(RecordBatch::try_new(Arc::clone(expected), b.columns().to_vec())?)).collect()
}

/// Reads a state file, whatever its columns are.
///
/// # Errors
/// `CheckpointCorrupt` where it is no state file; `CheckpointIncompatible` where another version wrote it.
pub fn read(bytes: Bytes, location: &str) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let torn = |e: datafusion::arrow::error::ArrowError| {
        Error::corrupt(format!(
            "{location} is not an Arrow stream: {e}; restore it from a copy or rewind the checkpoint"
        ))
    };
    let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(torn)?;
    let schema = reader.schema();
    match schema.metadata().get(FORMAT_KEY).map(String::as_str) {
        Some(FORMAT) => {}
        other => {
            return Err(Error::incompatible(format!(
                "{location} has state format {}, this version reads {FORMAT}: use the version that wrote it, or start with a \
                 new checkpoint and a new table",
                other.unwrap_or("none")
            )));
        }
    }
    let batches = reader.map(|batch| batch.map_err(torn)).collect::<Result<_>>()?;
    Ok((schema, batches))
}

fn describe(schema: &Schema) -> String {
    let columns: Vec<String> = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    columns.join(", ")
}
