//! The rows that works read: made of their numbers, so that every side makes the same, in pieces or as files.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;

pub const SECOND_US: i64 = 1_000_000;
/// 2026-01-01 00:00 UTC.
pub const ORIGIN_US: i64 = 1_767_225_600 * SECOND_US;

/// Rows of an event time, a key and a value.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// What the names of the columns (`ts`, `k`, `v`) begin with.
    pub prefix: &'static str,
    /// How many keys there are.
    pub keys: i64,
    /// Whether keys are strings.
    pub strings: bool,
    /// How many rows a second of event time has; they are out of order by as much.
    pub per_second: i64,
    /// What makes the rows of one stream others than those of another.
    pub seed: i64,
    /// How many rows a file has, or a batch that is pushed.
    pub piece: i64,
}

impl Rows {
    pub fn schema(&self) -> SchemaRef {
        let key = if self.strings { DataType::Utf8 } else { DataType::Int64 };
        let field = |name: &str, data_type| Field::new(format!("{}{name}", self.prefix), data_type, true);
        Arc::new(Schema::new(vec![
            field("ts", DataType::Timestamp(TimeUnit::Microsecond, None)),
            field("k", key),
            field("v", DataType::Float64),
        ]))
    }

    /// Makes the rows from the first on, piece by piece.
    pub fn pieces(self, rows: i64) -> impl Iterator<Item = RecordBatch> {
        (0..rows).step_by(self.piece as usize).map(move |first| self.numbered(first..rows.min(first + self.piece)))
    }

    /// Makes a row that closes all windows.
    pub fn last(&self) -> RecordBatch {
        let first = self.numbered(0..1);
        let ts = TimestampMicrosecondArray::from(vec![ORIGIN_US + 1_000_000 * SECOND_US]);
        let columns: Vec<ArrayRef> = vec![Arc::new(ts), Arc::clone(first.column(1)), Arc::clone(first.column(2))];
        RecordBatch::try_new(self.schema(), columns).unwrap()
    }

    /// Makes the rows of these numbers; values are whole numbers, so that sums are exact in any order.
    fn numbered(&self, ids: Range<i64>) -> RecordBatch {
        let mixed = |id: i64| {
            let id = (id ^ self.seed) as u64;
            id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let below = |id: i64, end: i64| ((u128::from(mixed(id)) * end as u128) >> 64) as i64;
        let ts = ids.clone().map(|id| ORIGIN_US + id * SECOND_US / self.per_second + below(!id, SECOND_US));
        let keys = ids.clone().map(|id| below(id, self.keys));
        let keys: ArrayRef = match self.strings {
            true => Arc::new(StringArray::from_iter_values(keys.map(|key| format!("device-{key:06}")))),
            false => Arc::new(Int64Array::from_iter_values(keys)),
        };
        let ts = TimestampMicrosecondArray::from_iter_values(ts);
        let values = Float64Array::from_iter_values(ids.map(|id| (id % 100) as f64));
        RecordBatch::try_new(self.schema(), vec![Arc::new(ts), keys, Arc::new(values)]).unwrap()
    }
}

/// What files are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    Parquet,
    Csv,
}

impl FileFormat {
    /// Returns its name, as a format of streams and as the end of a file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
        }
    }

    /// Writes a file for each piece into a new folder. They are a second of age apart, for who reads the oldest first.
    pub fn write(self, pieces: impl Iterator<Item = RecordBatch>, folder: &Path) {
        fs::create_dir(folder).unwrap();
        let origin = SystemTime::UNIX_EPOCH + Duration::from_micros(ORIGIN_US.unsigned_abs());
        for (number, piece) in (0..).zip(pieces) {
            let path = folder.join(format!("{number:05}.{}", self.name()));
            self.write_piece(&piece, File::create(&path).unwrap());
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(origin + Duration::from_secs(number)).unwrap();
        }
    }

    fn write_piece(self, piece: &RecordBatch, file: File) {
        match self {
            Self::Parquet => {
                let mut writer = ArrowWriter::try_new(file, piece.schema(), None).unwrap();
                writer.write(piece).unwrap();
                writer.close().unwrap();
            }
            Self::Csv => WriterBuilder::new().with_header(true).build(file).write(piece).unwrap(),
        }
    }
}
