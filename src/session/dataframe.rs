//! What streams add to DataFusion's own DataFrame.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Column;
use datafusion::prelude::{DataFrame, Expr};

use super::writer::DataStreamWriter;
use crate::error::{Error, Result};
use crate::interval::duration_us;
use crate::operator::user_state::{GroupKey, GroupState, GroupStateTimeout, StateRow, TransformWithState};
use crate::plan::duplicates::drop_duplicates;
use crate::plan::nodes::WatermarkNode;
use crate::plan::stream_table::is_streaming;
use crate::plan::user_state::transform_with_state;
use crate::sink::OutputMode;

/// Spark's methods on a DataFrame over a stream.
pub trait StreamingDataFrame: Sized {
    /// Says that `column` is the event time and that rows may be `delay` late (`"10 minutes"`). On a DataFrame that is
    /// not a stream it has no effect, as in Spark.
    ///
    /// # Errors
    /// `InvalidQuery` where there is no such column or the delay is no length of time.
    fn with_watermark(self, column: &str, delay: &str) -> Result<DataFrame>;

    /// Drops rows that have the values of an earlier row in `columns`, or in all columns where none are named.
    ///
    /// Over a stream every key is remembered for ever, unless an event time with a watermark is among the columns: then
    /// a key is forgotten when the watermark passes it, and later rows of it are late. In append and update mode.
    ///
    /// # Errors
    /// `InvalidQuery` where there is no such column.
    fn drop_duplicates(self, columns: &[&str]) -> Result<DataFrame>;

    /// Drops rows that have the values of an earlier row in `columns` (in all columns where none are named) and come
    /// while that is remembered: until the watermark passes its event time and the watermark's delay. So duplicates
    /// that are no further apart than the delay are dropped, whatever their event times.
    ///
    /// Over a stream it needs a watermark, which is seen when the query starts. On a DataFrame that is not a stream it
    /// is [`drop_duplicates`](Self::drop_duplicates).
    ///
    /// # Errors
    /// `InvalidQuery` where there is no such column.
    fn drop_duplicates_within_watermark(self, columns: &[&str]) -> Result<DataFrame>;

    /// Runs a processor of the application's own, which keeps state, for each key. The result has the columns of the
    /// processor's declared output, and the keys only where those have them.
    ///
    /// # Errors
    /// `Unsupported` on a DataFrame that is not a stream; `InvalidQuery` where there is no key, a key is no expression
    /// over the DataFrame, or the processor's `init` declares what cannot be.
    fn transform_with_state(self, keys: Vec<Expr>, transform: TransformWithState) -> Result<DataFrame>;

    /// Calls `function` once in each batch for each key that has rows, and once for each whose timeout has passed: it
    /// keeps one value for the key and gives one row of `output`. Update mode only.
    ///
    /// # Errors
    /// As [`StreamingDataFrame::transform_with_state`].
    fn map_groups_with_state<S, F>(
        self,
        keys: Vec<Expr>,
        output: SchemaRef,
        timeout: GroupStateTimeout,
        function: F,
    ) -> Result<DataFrame>
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<RecordBatch> + Send + Sync + 'static;

    /// Calls `function` as [`StreamingDataFrame::map_groups_with_state`] does; it gives any number of rows. The query must
    /// run in `mode`.
    ///
    /// # Errors
    /// As [`StreamingDataFrame::transform_with_state`].
    fn flat_map_groups_with_state<S, F>(
        self,
        keys: Vec<Expr>,
        mode: OutputMode,
        timeout: GroupStateTimeout,
        output: SchemaRef,
        function: F,
    ) -> Result<DataFrame>
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>
            + Send
            + Sync
            + 'static;

    /// Returns whether the DataFrame reads a stream.
    fn is_streaming(&self) -> bool;

    /// Begins writing the stream.
    fn write_stream(self) -> DataStreamWriter;
}

impl StreamingDataFrame for DataFrame {
    fn with_watermark(self, column: &str, delay: &str) -> Result<DataFrame> {
        let delay_us = duration_us(delay)?;
        if delay_us < 0 {
            return Err(Error::invalid_query(format!("the watermark's delay '{delay}' must not be negative")));
        }
        let (state, plan) = self.into_parts();
        let field = plan.schema().qualified_field_with_unqualified_name(column)?;
        let column = Column::from(field);
        let plan = WatermarkNode { input: plan, column, delay_us, node: None, partition: None }.into_plan();
        Ok(DataFrame::new(state, plan))
    }

    fn drop_duplicates(self, columns: &[&str]) -> Result<DataFrame> {
        without_duplicates(self, columns, false)
    }

    fn drop_duplicates_within_watermark(self, columns: &[&str]) -> Result<DataFrame> {
        without_duplicates(self, columns, true)
    }

    fn transform_with_state(self, keys: Vec<Expr>, transform: TransformWithState) -> Result<DataFrame> {
        let (state, plan) = self.into_parts();
        Ok(DataFrame::new(state, transform_with_state(plan, keys, transform)?))
    }

    fn map_groups_with_state<S, F>(
        self,
        keys: Vec<Expr>,
        output: SchemaRef,
        timeout: GroupStateTimeout,
        function: F,
    ) -> Result<DataFrame>
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        self.transform_with_state(keys, TransformWithState::map_groups::<S, F>(output, timeout, function))
    }

    fn flat_map_groups_with_state<S, F>(
        self,
        keys: Vec<Expr>,
        mode: OutputMode,
        timeout: GroupStateTimeout,
        output: SchemaRef,
        function: F,
    ) -> Result<DataFrame>
    where
        S: StateRow,
        F: Fn(&GroupKey<'_>, &RecordBatch, &mut GroupState<'_, S>) -> Result<Option<RecordBatch>>
            + Send
            + Sync
            + 'static,
    {
        self.transform_with_state(keys, TransformWithState::flat_map_groups::<S, F>(output, mode, timeout, function))
    }

    fn is_streaming(&self) -> bool {
        is_streaming(self.logical_plan())
    }

    fn write_stream(self) -> DataStreamWriter {
        DataStreamWriter::new(self)
    }
}

fn without_duplicates(frame: DataFrame, columns: &[&str], within_watermark: bool) -> Result<DataFrame> {
    let (state, plan) = frame.into_parts();
    let schema = plan.schema();
    let column =
        |name: &&str| -> Result<Column> { Ok(Column::from(schema.qualified_field_with_unqualified_name(name)?)) };
    let keys = columns.iter().map(column).collect::<Result<Vec<Column>>>()?;
    Ok(DataFrame::new(state, drop_duplicates(plan, keys, within_watermark)?))
}
