//! A file format with its options and schema: what reads a listed file, for streams and for plain tables alike.
//!
//! Called by [`super::FileSource`] and by the leaf that reads static file tables. Guards that every file of a table,
//! old or new, gives batches of one schema, all of whose columns may be NULL.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_plan::SendableRecordBatchStream;

use super::infer::infer_schema;
use super::layout::Layout;
use super::lines::{LineScan, OpenFile};
use super::listing::FileEntry;
use super::parquet::read_parquet;
use crate::error::{Error, Result};
use crate::options::{Options, nearest};
use crate::source::decode::column::{Column, is_text};
use crate::source::decode::csv::{CsvDecoder, CsvDialect};
use crate::source::decode::json::JsonDecoder;
use crate::source::decode::malformed::{Mode, Rows};
use crate::source::decode::text::TextDecoder;
use crate::source::decode::{CSV_OPTIONS, JSON_OPTIONS, LineDecoder, corrupt_column, nullable_schema};
use crate::source::{ReadContext, check_options};

/// The formats that files are read in, by the names they are registered under.
pub const FILE_FORMATS: &[&str] = &["json", "csv", "parquet", "text"];

/// The options of every format.
const COMMON_OPTIONS: &[&str] = &[
    "path",
    "maxFilesPerTrigger",
    "maxBytesPerTrigger",
    "latestFirst",
    "fileNameOnly",
    "maxFileAge",
    "cleanSource",
    "sourceArchiveDir",
    "orderBy",
    "recursiveFileLookup",
    "pathGlobFilter",
    "schemaInference",
    "inferSchema",
];

const TEXT_OPTIONS: &[&str] = &["wholetext"];

/// A format's own options.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// One JSON object a line.
    Json,
    /// Comma-separated values.
    Csv(CsvDialect),
    /// Parquet.
    Parquet,
    /// Lines of text, or with `whole_text` each file as one row.
    Text { whole_text: bool },
}

impl Kind {
    fn of(format: &str, options: &Options) -> Result<Self> {
        let format = format.to_lowercase();
        let (kind, own_options) = match format.as_str() {
            "json" => (Self::Json, JSON_OPTIONS),
            "csv" => (Self::Csv(CsvDialect::of(options)?), CSV_OPTIONS),
            "parquet" => (Self::Parquet, &[][..]),
            "text" => (Self::Text { whole_text: options.flag("wholetext", false)? }, TEXT_OPTIONS),
            other => {
                let hint = nearest(other, FILE_FORMATS).map(|near| format!("; did you mean {near}?"));
                return Err(Error::invalid_option(format!(
                    "'{other}' is not a format that files are read in: {}{}",
                    FILE_FORMATS.join(", "),
                    hint.unwrap_or_default()
                )));
            }
        };
        check_options(options, &format!("{format} source"), &[COMMON_OPTIONS, own_options].concat())?;
        Ok(kind)
    }
}

/// Reads files of one format and schema.
#[derive(Debug)]
pub struct FileFormat {
    kind: Kind,
    schema: SchemaRef,
    mode: Mode,
    corrupt: Option<usize>,
    plain_folders: bool,
}

impl FileFormat {
    /// Checks the options of `format`, and takes the declared schema or infers one from `files`.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown option or bad value; `InvalidQuery` where no schema is declared and there is no
    /// file to infer it from; `Unsupported` for a type that the format cannot be read as.
    pub async fn open(
        format: &str,
        schema: Option<SchemaRef>,
        options: &Options,
        files: &[FileEntry],
    ) -> Result<Arc<Self>> {
        let kind = Kind::of(format, options)?;
        let plain_folders = options.flag("recursiveFileLookup", false)?;
        let schema = match schema {
            Some(declared) => declared,
            None => infer_schema(&kind, options, files).await?,
        };
        let schema = nullable_schema(&schema);
        let has_rows = matches!(kind, Kind::Json | Kind::Csv(_));
        let mode = if has_rows { Mode::of(options)? } else { Mode::Permissive };
        let corrupt = if has_rows { corrupt_column(&schema, options)? } else { None };
        check_types(&kind, &schema)?;
        Ok(Arc::new(Self { kind, schema, mode, corrupt, plain_folders }))
    }

    /// Returns the schema of the rows, partition columns included. Every column may be NULL.
    pub fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    /// Reads a file, as long as it was when it was listed. Rows come in their order in the file; the schema is this
    /// format's, projected.
    ///
    /// # Errors
    /// `DataInvalid` where a partition folder's value does not have the declared type. The stream fails with
    /// `Unavailable` where the file cannot be read, and with `DataInvalid` where it is not of the declared shape and
    /// the mode does not put up with that.
    pub fn read(&self, file: &FileEntry, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let folders = if self.plain_folders { 0 } else { file.folders };
        let file = &FileEntry { folders, ..file.clone() };
        let projection = context.projection.as_deref();
        let decode_all = self.mode != Mode::Permissive;
        let layout = Layout::new(&self.schema, file, projection, self.corrupt, decode_all)?;
        let open_file = OpenFile::new(file);
        let explain = self.mode == Mode::FailFast;
        let fields = layout.decoded_fields();
        let (decoder, whole_file): (Box<dyn LineDecoder>, bool) = match &self.kind {
            Kind::Parquet => return Ok(read_parquet(open_file, layout, context)),
            Kind::Json => {
                let names = fields.iter().map(|field| field.name().clone()).collect();
                (Box::new(JsonDecoder::new(names, explain)), false)
            }
            Kind::Csv(dialect) => (Box::new(CsvDecoder::new(dialect.clone(), layout.slots().to_vec(), explain)), false),
            Kind::Text { whole_text } => {
                let wanted = layout.slots().first().copied().flatten().is_some();
                (Box::new(TextDecoder::new(wanted)), *whole_text)
            }
        };
        let rows = Rows::new(&fields, self.mode, Arc::clone(&context.malformed_rows), &file.path, "line")?;
        let scan = LineScan::new(open_file, decoder, rows, layout, context.batch_size);
        Ok(scan.with_whole_file(whole_file).into_stream())
    }
}

fn check_types(kind: &Kind, schema: &Schema) -> Result<()> {
    match kind {
        Kind::Parquet => return Ok(()),
        Kind::Text { .. } if !schema.fields().first().is_some_and(|first| is_text(first.data_type())) => {
            return Err(Error::invalid_query(
                "the first column of a text table is the line, a STRING (others come from partition folders); declare \
                 it so, or declare no columns",
            ));
        }
        _ => {}
    }
    schema.fields().iter().try_for_each(|field| Column::new(field).map(|_| ()))
}
