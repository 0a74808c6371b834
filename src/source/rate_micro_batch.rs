//! A source that counts by batches: every micro-batch is the next `rowsPerBatch` numbers, whatever the clock says.
//!
//! The registry makes it by the name "rate-micro-batch". It guards that batch k is always the rows k·n..(k+1)·n under
//! one timestamp, `startTimestamp` + k·`advanceMillisPerBatch`, so that a test of time and watermarks is the same
//! on every machine. It never ends; under the trigger AVAILABLE NOW it offers exactly one batch.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::source::memory::{check_declared, locked, parse_offset};
use crate::source::rate::{Columns, partitions, rate_schema, rows_at_once, shares};
use crate::source::{
    Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split, check_options,
};

const OPTIONS: &[&str] = &["rowsPerBatch", "numPartitions", "startTimestamp", "advanceMillisPerBatch"];

/// Makes rate-micro-batch sources.
///
/// Options: `rowsPerBatch` (required); `numPartitions` (1), the number of splits of a batch; `startTimestamp` (0) and
/// `advanceMillisPerBatch` (1000), in milliseconds. Columns: `timestamp`, `value` (from 0).
#[derive(Debug, Clone, Copy, Default)]
pub struct RateMicroBatchSourceProvider;

#[async_trait]
impl SourceProvider for RateMicroBatchSourceProvider {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        check_declared(spec, &rate_schema())?;
        Pace::of(&spec.options)?;
        Ok(rate_schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        check_declared(spec, &rate_schema())?;
        Ok(Arc::new(RateMicroBatchSource { pace: Pace::of(&spec.options)?, end: Mutex::new(End::Never) }))
    }
}

/// What a batch is: what the options say.
#[derive(Debug, Clone, Copy)]
struct Pace {
    rows_per_batch: i64,
    partitions: u64,
    start_ms: i64,
    advance_ms: i64,
}

impl Pace {
    fn of(options: &Options) -> Result<Self> {
        check_options(options, "rate-micro-batch source", OPTIONS)?;
        let Some(rows) = options.positive("rowsPerBatch")? else {
            return Err(Error::invalid_option(
                "rate-micro-batch source needs option 'rowsPerBatch', the number of rows of each micro-batch",
            ));
        };
        let number = |name, default| options.parsed::<i64>(name, "milliseconds").map(|ms| ms.unwrap_or(default));
        let advance_ms = number("advanceMillisPerBatch", 1_000)?;
        if advance_ms < 0 {
            return Err(bad_value("advanceMillisPerBatch", &advance_ms.to_string(), "milliseconds, none below zero"));
        }
        Ok(Self {
            rows_per_batch: i64::try_from(rows)
                .map_err(|_| bad_value("rowsPerBatch", &rows.to_string(), "a smaller number"))?,
            partitions: partitions(options)?,
            start_ms: number("startTimestamp", 0)?,
            advance_ms,
        })
    }
}

/// Offset: the number of rows so far, and the timestamp of the next batch. Both are kept, so that a query that starts
/// again at another pace goes on from where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct MicroBatchOffset {
    rows: i64,
    timestamp_ms: i64,
}

impl MicroBatchOffset {
    fn parse(offset: &Offset) -> Result<Self> {
        parse_offset("rate-micro-batch source", offset)
    }

    fn to_offset(self) -> Offset {
        json!({"v": 1, "rows": self.rows, "timestamp_ms": self.timestamp_ms})
    }
}

/// Split: the values `first..end`, all of one time.
#[derive(Debug, Clone, Copy, Deserialize)]
struct MicroBatchSplit {
    first: i64,
    end: i64,
    timestamp_ms: i64,
}

/// Where the source ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Never,
    /// After one more batch, wherever that begins.
    AfterNext,
    /// After so many rows.
    At(i64),
}

/// The source of one query.
struct RateMicroBatchSource {
    pace: Pace,
    end: Mutex<End>,
}

impl fmt::Debug for RateMicroBatchSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

impl RateMicroBatchSource {
    fn start_of(&self, start: Option<&Offset>) -> Result<MicroBatchOffset> {
        match start {
            Some(start) => MicroBatchOffset::parse(start),
            None => Ok(MicroBatchOffset { rows: 0, timestamp_ms: self.pace.start_ms }),
        }
    }

    fn splits(&self, start: MicroBatchOffset, end: MicroBatchOffset) -> Vec<Split> {
        shares(start.rows, end.rows, self.pace.partitions)
            .map(|(first, last)| Split {
                description: json!({"first": first, "end": last, "timestamp_ms": start.timestamp_ms}),
                weight: last.abs_diff(first),
            })
            .collect()
    }
}

#[async_trait]
impl Source for RateMicroBatchSource {
    fn schema(&self) -> SchemaRef {
        rate_schema()
    }

    fn description(&self) -> String {
        let Pace { rows_per_batch, partitions, start_ms, advance_ms } = self.pace;
        format!(
            "RateMicroBatchSource[rowsPerBatch={rows_per_batch}, numPartitions={partitions}, \
             startTimestamp={start_ms}, advanceMillisPerBatch={advance_ms}]"
        )
    }

    async fn open(&self, _context: SourceContext) -> Result<()> {
        *locked(&self.end) = End::Never;
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        *locked(&self.end) = End::AfterNext;
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, _limit: ReadLimit) -> Result<Option<Planned>> {
        let start = self.start_of(start)?;
        let end = MicroBatchOffset {
            rows: start.rows.saturating_add(self.pace.rows_per_batch),
            timestamp_ms: start.timestamp_ms.saturating_add(self.pace.advance_ms),
        };
        {
            let mut fixed = locked(&self.end);
            match *fixed {
                End::At(rows) if end.rows > rows => return Ok(None),
                End::AfterNext => *fixed = End::At(end.rows),
                End::At(_) | End::Never => {}
            }
        }
        Ok(Some(Planned { end: end.to_offset(), splits: self.splits(start, end) }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        Ok(self.splits(self.start_of(start)?, MicroBatchOffset::parse(end)?))
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let split: MicroBatchSplit = serde_json::from_value(split.description.clone())?;
        let columns = Columns::of(&context)?;
        let schema = Arc::clone(&columns.schema);
        let rows = MicroBatchRows { split, size: rows_at_once(context.batch_size), columns };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }

    async fn commit(&self, _end: &Offset) -> Result<()> {
        Ok(())
    }
}

/// The rows of one split, made as they are read; `split.first` moves on.
struct MicroBatchRows {
    split: MicroBatchSplit,
    size: i64,
    columns: Columns,
}

impl Iterator for MicroBatchRows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.split.first >= self.split.end {
            return None;
        }
        let values = self.split.first..self.split.end.min(self.split.first.saturating_add(self.size));
        self.split.first = values.end;
        let rows = if self.columns.timestamp { usize::try_from(values.end - values.start).unwrap_or(0) } else { 0 };
        let times = vec![self.split.timestamp_ms.saturating_mul(1_000); rows];
        Some(self.columns.batch(times, values))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
    use futures::TryStreamExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;

    fn spec(options: &[(&str, &str)]) -> SourceSpec {
        let options: Options = options.iter().copied().collect();
        let clock = Arc::new(ManualClock::new(0));
        SourceSpec { format: "rate-micro-batch".into(), schema: None, path: None, options, clock }
    }

    /// Values and milliseconds.
    async fn rows(source: &Arc<dyn Source>, splits: &[Split]) -> Vec<(i64, i64)> {
        let mut rows = Vec::new();
        for split in splits {
            let context = ReadContext { projection: None, batch_size: 2, filter: None, malformed_rows: Arc::default() };
            let batches: Vec<RecordBatch> = source.read(split, context).unwrap().try_collect().await.unwrap();
            for batch in batches {
                let times = batch.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec();
                let values = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
                rows.extend(values.into_iter().zip(times.into_iter().map(|us| us / 1_000)));
            }
        }
        rows
    }

    #[tokio::test]
    async fn batch_k_is_always_the_same_rows() {
        let options = [("rowsPerBatch", "3"), ("startTimestamp", "500"), ("numPartitions", "2")];
        let source = RateMicroBatchSourceProvider.create(&spec(&options)).await.unwrap();
        let first = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        let second = source.plan(Some(&first.end), ReadLimit::All).await.unwrap().unwrap();
        assert_eq!(rows(&source, &first.splits).await, vec![(0, 500), (1, 500), (2, 500)]);
        assert_eq!(rows(&source, &second.splits).await, vec![(3, 1_500), (4, 1_500), (5, 1_500)]);

        let again = RateMicroBatchSourceProvider.create(&spec(&options)).await.unwrap();
        assert_eq!(again.replay(Some(&first.end), &second.end).await.unwrap(), second.splits);
    }

    #[tokio::test]
    async fn a_fixed_end_leaves_one_batch() {
        let source = RateMicroBatchSourceProvider.create(&spec(&[("rowsPerBatch", "2")])).await.unwrap();
        let first = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        source.fix_end().await.unwrap();
        let second = source.plan(Some(&first.end), ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(source.plan(Some(&first.end), ReadLimit::Options).await.unwrap().as_ref(), Some(&second));
        assert_eq!(source.plan(Some(&second.end), ReadLimit::Options).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_projection_without_columns_still_counts() {
        let source = RateMicroBatchSourceProvider.create(&spec(&[("rowsPerBatch", "5")])).await.unwrap();
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        let context =
            ReadContext { projection: Some(vec![]), batch_size: 8, filter: None, malformed_rows: Arc::default() };
        let batches: Vec<RecordBatch> = source.read(&planned.splits[0], context).unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    }

    #[tokio::test]
    async fn options_and_declared_columns_are_checked() {
        for options in
            [vec![], vec![("rowsPerBatch", "0")], vec![("rowsPerBatch", "1"), ("advanceMillisPerBatch", "-1")]]
        {
            let error = RateMicroBatchSourceProvider.schema(&spec(&options)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption, "{options:?}");
        }
        let mut declared = spec(&[("rowsPerBatch", "1")]);
        declared.schema = Some(Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)])));
        let error = RateMicroBatchSourceProvider.schema(&declared).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidQuery);
    }
}
