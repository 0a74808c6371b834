//! What a file sink was told: format, compression, sizes, partition columns; checked before the first batch.

use datafusion::arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};

use super::partition::names_folders;
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::sink::SinkSpec;

/// The size at which a file is complete and the next begins.
const TARGET_FILE_SIZE: u64 = 128 * 1024 * 1024;

/// What the sink reads of a table's options.
const OPTIONS: &[&str] = &[
    "path",
    "checkpointLocation",
    "compression",
    "targetFileSize",
    "shared",
    "header",
    "format.has_header",
    "sep",
    "delimiter",
    "format.delimiter",
    "nullValue",
];

/// What a table may say for those who read it: nothing to the sink.
const READING_OPTIONS: &[&str] = &[
    "maxFilesPerTrigger",
    "maxBytesPerTrigger",
    "latestFirst",
    "fileNameOnly",
    "maxFileAge",
    "cleanSource",
    "sourceArchiveDir",
    "idleTimeout",
    "readers",
    "refreshInterval",
    "mode",
    "columnNameOfCorruptRecord",
    "multiLine",
];

/// How rows become bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileFormat {
    Parquet(Compression),
    Json,
    Csv { header: bool, delimiter: char, null: String },
}

/// Everything that a file sink was told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) format: FileFormat,
    pub(super) partition_by: Vec<String>,
    pub(super) target_file_size: u64,
    pub(super) shared: bool,
}

impl Settings {
    pub(super) fn new(spec: &SinkSpec) -> Result<Self> {
        let options = &spec.options;
        let known: Vec<&str> = OPTIONS.iter().chain(READING_OPTIONS).copied().collect();
        options.check_known(&format!("the {} sink", spec.format), &known)?;
        let format = match spec.format.as_str() {
            "parquet" => FileFormat::Parquet(compression(options)?),
            "json" => FileFormat::Json,
            "csv" => csv(options)?,
            other => {
                return Err(Error::invalid_option(format!(
                    "the file sink has no format '{other}': expected parquet, json or csv"
                )));
            }
        };
        if !matches!(format, FileFormat::Parquet(_)) {
            check_uncompressed(options)?;
        }
        let settings = Self {
            partition_by: partition_columns(spec)?,
            target_file_size: target_file_size(options)?,
            shared: options.flag("shared", false)?,
            format,
        };
        settings.check_schema(&spec.schema)?;
        Ok(settings)
    }

    fn check_schema(&self, schema: &Schema) -> Result<()> {
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            if schema.fields()[..index].iter().any(|earlier| earlier.name() == name) {
                return Err(Error::invalid_query(format!(
                    "two columns are named '{name}', which a file cannot hold: give one of them an alias"
                )));
            }
            if matches!(self.format, FileFormat::Csv { .. }) && field.data_type().is_nested() {
                return Err(Error::invalid_query(format!(
                    "column '{name}' is {}, which CSV cannot hold: select its fields (such as {name}.start), or store \
                     as PARQUET or JSON",
                    field.data_type()
                )));
            }
        }
        if schema.fields().len() == self.partition_by.len() {
            return Err(Error::invalid_query(
                "every column is a partition column, and nothing is left for the files: leave one out of PARTITIONED \
                 BY",
            ));
        }
        Ok(())
    }
}

impl FileFormat {
    pub(super) fn extension(&self) -> &'static str {
        match self {
            Self::Parquet(_) => "parquet",
            Self::Json => "json",
            Self::Csv { .. } => "csv",
        }
    }
}

fn compression(options: &Options) -> Result<Compression> {
    let Some(value) = options.get("compression") else {
        return Ok(Compression::SNAPPY);
    };
    Ok(match value.trim().to_lowercase().as_str() {
        "snappy" => Compression::SNAPPY,
        "zstd" => Compression::ZSTD(ZstdLevel::default()),
        "gzip" => Compression::GZIP(GzipLevel::default()),
        "lz4" | "lz4_raw" => Compression::LZ4_RAW,
        "none" | "uncompressed" => Compression::UNCOMPRESSED,
        _ => {
            return Err(bad_value("compression", value, "snappy, zstd, gzip, lz4 or none"));
        }
    })
}

fn check_uncompressed(options: &Options) -> Result<()> {
    match options.get("compression") {
        Some(value) if !["none", "uncompressed"].contains(&value.trim().to_lowercase().as_str()) => {
            Err(bad_value("compression", value, "none: JSON and CSV files are written uncompressed"))
        }
        _ => Ok(()),
    }
}

fn csv(options: &Options) -> Result<FileFormat> {
    let header = match options.get("header") {
        Some(_) => options.flag("header", false)?,
        None => options.flag("format.has_header", false)?,
    };
    let delimiter =
        ["sep", "delimiter", "format.delimiter"].into_iter().find_map(|name| Some((name, options.get(name)?)));
    let delimiter = match delimiter {
        None => ',',
        Some((_, "\\t")) => '\t',
        Some((name, value)) => match value.as_bytes() {
            [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => char::from(*byte),
            _ => return Err(bad_value(name, value, "one ASCII character that is no quote and no line break")),
        },
    };
    let null = options.get("nullValue").unwrap_or_default();
    if null.contains([delimiter, '"', '\r', '\n']) {
        // NULL is what stands there without quotes.
        return Err(bad_value("nullValue", null, "a text without separators, quotes and line breaks"));
    }
    Ok(FileFormat::Csv { header, delimiter, null: null.to_string() })
}

fn target_file_size(options: &Options) -> Result<u64> {
    let Some(value) = options.get("targetFileSize") else {
        return Ok(TARGET_FILE_SIZE);
    };
    size_of(value).filter(|size| *size > 0).ok_or_else(|| bad_value("targetFileSize", value, "a size such as 128MB"))
}

/// The number of bytes in `128MB`, `64 k` or `1000`; units are powers of 1024, as in Spark.
fn size_of(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// The partition columns as the schema spells them.
fn partition_columns(spec: &SinkSpec) -> Result<Vec<String>> {
    let mut columns = Vec::new();
    for wanted in &spec.partition_by {
        let fields = spec.schema.fields();
        let exact = fields.iter().find(|field| field.name() == wanted);
        let Some(field) = exact.or_else(|| fields.iter().find(|field| field.name().eq_ignore_ascii_case(wanted)))
        else {
            let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            return Err(Error::invalid_query(format!(
                "partition column '{wanted}' is not among the columns: {}",
                names.join(", ")
            )));
        };
        let binary = matches!(
            field.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
        );
        if field.data_type().is_nested() || binary {
            return Err(Error::invalid_query(format!(
                "partition column '{wanted}' is {}, which makes no folder names: cast it to a string, or partition by \
                 another column",
                field.data_type()
            )));
        }
        if !names_folders(field.name()) {
            return Err(Error::invalid_query(format!(
                "partition column '{wanted}' has a name that no folder can have, empty or too long: give it an alias"
            )));
        }
        if columns.contains(field.name()) {
            return Err(Error::invalid_query(format!("partition column '{wanted}' is named twice")));
        }
        columns.push(field.name().clone());
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::size_of;

    #[test]
    fn sizes_have_units() {
        for (text, size) in
            [("1000", Some(1000)), ("64 k", Some(65_536)), ("128MB", Some(128 << 20)), ("1gib", Some(1 << 30))]
        {
            assert_eq!(size_of(text), size, "{text}");
        }
        for text in ["", "MB", "-1", "1.5g", "99999999999999g"] {
            assert_eq!(size_of(text), None, "{text}");
        }
    }
}
