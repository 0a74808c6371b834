//! A source that counts: `rowsPerSecond` rows for every second that has gone by, for trials and load tests.
//!
//! The registry makes it by the name "rate". It guards that a row, once offered, is the same in every later run: value
//! and timestamp are computed from the second and the query's start alone, and the start travels in the offset. A
//! second's rows are offered when that second is over.
//!
//! Beside it: [`rate_micro_batch`](super::rate_micro_batch), which counts by batches and not by the clock.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use serde::Deserialize;
use serde_json::json;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::source::journal::projected_schema;
use crate::source::memory::{check_declared, locked, parse_offset};
use crate::source::{
    Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split, check_options,
};

const OPTIONS: &[&str] = &["rowsPerSecond", "rampUpTime", "numPartitions"];
const MICROS_PER_SECOND: i128 = 1_000_000;

/// Makes rate sources.
///
/// Options: `rowsPerSecond` (1); `rampUpTime` (0s), in which the speed grows step by step to `rowsPerSecond`;
/// `numPartitions` (1), the number of splits of a batch. Columns: `timestamp`, `value` (from 0).
#[derive(Debug, Clone, Copy, Default)]
pub struct RateSourceProvider;

#[async_trait]
impl SourceProvider for RateSourceProvider {
    async fn schema(&self, spec: &SourceSpec) -> Result<SchemaRef> {
        check_declared(spec, &rate_schema())?;
        Rate::of(&spec.options)?;
        Ok(rate_schema())
    }

    async fn create(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        check_declared(spec, &rate_schema())?;
        Ok(Arc::new(RateSource {
            rate: Rate::of(&spec.options)?,
            clock: Arc::clone(&spec.clock),
            start_ms: Mutex::new(None),
            fixed_end_seconds: Mutex::new(None),
        }))
    }
}

/// How fast rows come: what the options say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    rows_per_second: u64,
    ramp_up_seconds: u64,
    partitions: u64,
}

impl Rate {
    fn of(options: &Options) -> Result<Self> {
        check_options(options, "rate source", OPTIONS)?;
        Ok(Self {
            rows_per_second: options.positive("rowsPerSecond")?.unwrap_or(1),
            ramp_up_seconds: match options.get("rampUpTime") {
                Some(text) => whole_seconds("rampUpTime", text)?,
                None => 0,
            },
            partitions: partitions(options)?,
        })
    }

    /// The number of rows of the first `seconds` seconds: the value that the next second begins with.
    ///
    /// While the speed grows, each second has a fixed step more rows than the one before; the step is rounded down.
    fn rows_until(&self, seconds: i64) -> i64 {
        let seconds = i128::from(seconds.max(0));
        let (full, ramp) = (i128::from(self.rows_per_second), i128::from(self.ramp_up_seconds));
        let slow = seconds.min(ramp);
        let step = full / (ramp + 1);
        let rows = (step * slow * (slow + 1) / 2).saturating_add((seconds - slow).saturating_mul(full));
        i64::try_from(rows).unwrap_or(i64::MAX)
    }
}

/// Reads the option `numPartitions`.
///
/// # Errors
/// `InvalidOption` where it is no number of splits that anybody could read.
pub(super) fn partitions(options: &Options) -> Result<u64> {
    const MOST: u64 = 10_000;
    match options.positive("numPartitions")?.unwrap_or(1) {
        partitions @ ..=MOST => Ok(partitions),
        more => Err(bad_value("numPartitions", &more.to_string(), &format!("a whole number from 1 to {MOST}"))),
    }
}

/// Reads a duration such as `5s`, `2 minutes` or `90` (seconds), rounded down to whole seconds.
fn whole_seconds(name: &str, text: &str) -> Result<u64> {
    let refused = || bad_value(name, text, "a duration such as 5s, 2m or 1h");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| refused())?;
    // More than a century: later arithmetic need not fear an overflow.
    let limit = |seconds: u64| {
        if seconds > 1 << 32 { Err(refused()) } else { Ok(seconds) }
    };
    match trimmed[digits..].trim().to_lowercase().as_str() {
        "us" => limit(number / 1_000_000),
        "ms" => limit(number / 1_000),
        "" | "s" | "sec" | "second" | "seconds" => limit(number),
        "m" | "min" | "minute" | "minutes" => limit(number.saturating_mul(60)),
        "h" | "hour" | "hours" => limit(number.saturating_mul(3_600)),
        "d" | "day" | "days" => limit(number.saturating_mul(86_400)),
        _ => Err(refused()),
    }
}

/// Offset: the seconds that have been read, counted from the query's start.
#[derive(Debug, Clone, Copy, Deserialize)]
struct RateOffset {
    seconds: i64,
    start_ms: i64,
}

fn offset_of(seconds: i64, start_ms: i64) -> Offset {
    json!({"v": 1, "seconds": seconds, "start_ms": start_ms})
}

fn parse(offset: &Offset) -> Result<RateOffset> {
    parse_offset("rate source", offset)
}

/// Split: the values `first..end`, which lie in the seconds from `second` on.
#[derive(Debug, Clone, Copy, Deserialize)]
struct RateSplit {
    first: i64,
    end: i64,
    second: i64,
    start_ms: i64,
}

/// The source of one query.
struct RateSource {
    rate: Rate,
    clock: Arc<dyn Clock>,
    /// When the query began to count, in any run: set by `open`.
    start_ms: Mutex<Option<i64>>,
    fixed_end_seconds: Mutex<Option<i64>>,
}

impl fmt::Debug for RateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

impl RateSource {
    fn start_ms(&self) -> i64 {
        *locked(&self.start_ms).get_or_insert_with(|| self.clock.now_ms())
    }

    /// The whole seconds that are over. None are before the start, should the clock go back.
    fn seconds_over(&self, start_ms: i64) -> i64 {
        let over = self.clock.now_ms().saturating_sub(start_ms).max(0) / 1_000;
        locked(&self.fixed_end_seconds).map_or(over, |fixed| over.min(fixed))
    }

    fn splits(&self, from_seconds: i64, end: RateOffset) -> Vec<Split> {
        let (first, last) = (self.rate.rows_until(from_seconds), self.rate.rows_until(end.seconds));
        shares(first, last, self.rate.partitions)
            .map(|(first, last)| Split {
                description: json!({
                    "first": first, "end": last, "second": from_seconds, "start_ms": end.start_ms,
                }),
                weight: last.abs_diff(first),
            })
            .collect()
    }
}

#[async_trait]
impl Source for RateSource {
    fn schema(&self) -> SchemaRef {
        rate_schema()
    }

    fn description(&self) -> String {
        let Rate { rows_per_second, ramp_up_seconds, partitions } = self.rate;
        format!(
            "RateSource[rowsPerSecond={rows_per_second}, rampUpTime={ramp_up_seconds}s, numPartitions={partitions}]"
        )
    }

    async fn open(&self, context: SourceContext) -> Result<()> {
        let start_ms = match context.history.last() {
            Some(last) => parse(last)?.start_ms,
            None => self.clock.now_ms(),
        };
        *locked(&self.start_ms) = Some(start_ms);
        *locked(&self.fixed_end_seconds) = None;
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        let end = self.seconds_over(self.start_ms());
        *locked(&self.fixed_end_seconds) = Some(end);
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, _limit: ReadLimit) -> Result<Option<Planned>> {
        let start = match start {
            Some(start) => parse(start)?,
            None => RateOffset { seconds: 0, start_ms: self.start_ms() },
        };
        let end = RateOffset { seconds: self.seconds_over(start.start_ms), ..start };
        if end.seconds <= start.seconds {
            return Ok(None);
        }
        let splits = self.splits(start.seconds, end);
        if splits.is_empty() {
            return Ok(None); // seconds without rows: the first of a slow ramp
        }
        Ok(Some(Planned { end: offset_of(end.seconds, end.start_ms), splits }))
    }

    async fn replay(&self, start: Option<&Offset>, end: &Offset) -> Result<Vec<Split>> {
        let from_seconds = start.map(parse).transpose()?.map_or(0, |start| start.seconds);
        Ok(self.splits(from_seconds, parse(end)?))
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let split: RateSplit = serde_json::from_value(split.description.clone())?;
        let rows = RateRows {
            rate: self.rate,
            next: split.first,
            second: split.second,
            split,
            size: context.batch_size,
            columns: Columns::of(&context)?,
        };
        let schema = Arc::clone(&rows.columns.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }

    async fn commit(&self, _end: &Offset) -> Result<()> {
        Ok(())
    }

    async fn latest(&self) -> Result<Option<Offset>> {
        let start_ms = self.start_ms();
        Ok(Some(offset_of(self.seconds_over(start_ms), start_ms)))
    }
}

/// The rows of one split, made as they are read.
struct RateRows {
    rate: Rate,
    split: RateSplit,
    next: i64,
    /// The second that `next` is in, or one before.
    second: i64,
    size: usize,
    columns: Columns,
}

impl Iterator for RateRows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.split.end {
            return None;
        }
        let values = self.next..self.split.end.min(self.next.saturating_add(rows_at_once(self.size)));
        self.next = values.end;
        let mut times = Vec::new();
        if self.columns.timestamp {
            let (mut low, mut high) = self.bounds();
            for value in values.clone() {
                while value >= high {
                    self.second += 1;
                    (low, high) = self.bounds();
                }
                times.push(timestamp_us(self.split.start_ms, self.second, value - low, high - low));
            }
        }
        Some(self.columns.batch(times, values))
    }
}

impl RateRows {
    /// The values that `second` begins and ends with.
    fn bounds(&self) -> (i64, i64) {
        (self.rate.rows_until(self.second), self.rate.rows_until(self.second + 1))
    }
}

/// The time of row `index` of the `rows` rows of a second: they are spread evenly over it.
fn timestamp_us(start_ms: i64, second: i64, index: i64, rows: i64) -> i64 {
    let within = i128::from(index) * MICROS_PER_SECOND / i128::from(rows.max(1));
    let time = i128::from(start_ms) * 1_000 + i128::from(second) * MICROS_PER_SECOND + within;
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// Returns the columns that both rate sources give: `timestamp` and `value`.
pub(super) fn rate_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("value", DataType::Int64, true),
    ]))
}

/// Cuts `first..end` into at most `parts` ranges of nearly the same length, in order; none is empty.
pub(super) fn shares(first: i64, end: i64, parts: u64) -> impl Iterator<Item = (i64, i64)> {
    let rows = end.abs_diff(first);
    let parts = parts.clamp(1, rows.max(1));
    let (each, more) = (rows / parts, rows % parts);
    let bound = move |part: u64| first.saturating_add_unsigned(part * each + part.min(more));
    (0..parts).map(move |part| (bound(part), bound(part + 1))).filter(|(first, end)| first < end)
}

/// Returns how many rows a record batch gets.
pub(super) fn rows_at_once(batch_size: usize) -> i64 {
    i64::try_from(batch_size.max(1)).unwrap_or(i64::MAX)
}

/// Which of the two columns are wanted, and how a batch is made of them.
pub(super) struct Columns {
    /// The schema of what is wanted.
    pub(super) schema: SchemaRef,
    /// Whether the timestamps are.
    pub(super) timestamp: bool,
    indices: Vec<usize>,
}

impl Columns {
    /// Reads what is wanted from the projection.
    pub(super) fn of(context: &ReadContext) -> Result<Self> {
        let schema = projected_schema(&rate_schema(), context)?;
        let indices = context.projection.clone().unwrap_or_else(|| vec![0, 1]);
        Ok(Self { schema, timestamp: indices.contains(&0), indices })
    }

    /// Makes a batch of `values`; `times` may be empty where they are not wanted.
    pub(super) fn batch(&self, times: Vec<i64>, values: std::ops::Range<i64>) -> Result<RecordBatch, DataFusionError> {
        let rows = usize::try_from(values.end - values.start)
            .map_err(|_| DataFusionError::from(Error::internal("rate source: a batch that ends before it begins")))?;
        let times = TimestampMicrosecondArray::from(times);
        let arrays = self.indices.iter().map(|index| match index {
            0 => Arc::new(times.clone()) as ArrayRef,
            _ => Arc::new(Int64Array::from_iter_values(values.clone())) as ArrayRef,
        });
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch: Result<RecordBatch, ArrowError> =
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays.collect(), &options);
        Ok(batch?)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use futures::TryStreamExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::error::ErrorKind;
    use crate::storage::LocalStore;

    async fn source(clock: &Arc<ManualClock>, options: &[(&str, &str)], history: Vec<Offset>) -> Arc<dyn Source> {
        let options: Options = options.iter().copied().collect();
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
        let spec = SourceSpec { format: "rate".into(), schema: None, path: None, options, clock };
        let source = RateSourceProvider.create(&spec).await.unwrap();
        source.open(SourceContext { journal: Arc::new(LocalStore::new(std::env::temp_dir())), history }).await.unwrap();
        source
    }

    /// Values and microseconds, read in record batches of three rows.
    async fn rows(source: &Arc<dyn Source>, splits: &[Split]) -> Vec<(i64, i64)> {
        let mut rows = Vec::new();
        for split in splits {
            let context = ReadContext { projection: None, batch_size: 3, filter: None, malformed_rows: Arc::default() };
            let batches: Vec<RecordBatch> = source.read(split, context).unwrap().try_collect().await.unwrap();
            for batch in batches {
                let times = batch.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec();
                let values = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
                rows.extend(values.into_iter().zip(times));
            }
        }
        rows
    }

    #[tokio::test]
    async fn a_second_is_offered_when_it_is_over() {
        let clock = Arc::new(ManualClock::new(5_000));
        let source = source(&clock, &[("rowsPerSecond", "2")], vec![]).await;
        clock.set_ms(5_999);
        assert_eq!(source.plan(None, ReadLimit::Options).await.unwrap(), None);
        clock.set_ms(7_500);
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(planned.end, json!({"v": 1, "seconds": 2, "start_ms": 5_000}));
        assert_eq!(
            rows(&source, &planned.splits).await,
            vec![(0, 5_000_000), (1, 5_500_000), (2, 6_000_000), (3, 6_500_000)]
        );
        clock.set_ms(4_000);
        assert_eq!(source.plan(Some(&planned.end), ReadLimit::Options).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_restart_gives_the_same_rows_however_batches_are_cut() {
        let options = [("rowsPerSecond", "7"), ("rampUpTime", "2s"), ("numPartitions", "3")];
        let clock = Arc::new(ManualClock::new(1_000));
        let whole = source(&clock, &options, vec![]).await;
        clock.advance_ms(6_000);
        let planned = whole.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(planned.splits.len(), 3);
        let expected = rows(&whole, &planned.splits).await;
        assert_eq!(expected.iter().map(|(value, _)| *value).collect::<Vec<_>>(), (0..34).collect::<Vec<i64>>());

        let cut = offset_of(3, 1_000);
        let again = source(&clock, &options, vec![cut.clone(), planned.end.clone()]).await;
        let mut found = rows(&again, &again.replay(None, &cut).await.unwrap()).await;
        found.extend(rows(&again, &again.replay(Some(&cut), &planned.end).await.unwrap()).await);
        assert_eq!(found, expected);
    }

    #[test]
    fn the_ramp_grows_by_steps() {
        let rate = Rate { rows_per_second: 10, ramp_up_seconds: 4, partitions: 1 };
        assert_eq!((0..7).map(|s| rate.rows_until(s)).collect::<Vec<_>>(), vec![0, 2, 6, 12, 20, 30, 40]);
    }

    #[tokio::test]
    async fn a_fixed_end_is_never_passed() {
        let clock = Arc::new(ManualClock::new(0));
        let source = source(&clock, &[], vec![]).await;
        clock.set_ms(2_000);
        source.fix_end().await.unwrap();
        clock.set_ms(9_000);
        let planned = source.plan(None, ReadLimit::Options).await.unwrap().unwrap();
        assert_eq!(planned.end, offset_of(2, 0));
        assert_eq!(source.plan(Some(&planned.end), ReadLimit::Options).await.unwrap(), None);
    }

    #[test]
    fn options_are_checked() {
        for (name, value) in [("rowsPerSecond", "0"), ("rampUpTime", "soon"), ("rowPerSecond", "1")] {
            let options: Options = [(name, value)].into_iter().collect();
            assert_eq!(Rate::of(&options).unwrap_err().kind(), ErrorKind::InvalidOption, "{name}={value}");
        }
        assert_eq!(whole_seconds("rampUpTime", "2 minutes").unwrap(), 120);
    }
}
