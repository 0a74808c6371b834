//! What streams add to DataFusion's own DataFrame.

use datafusion::common::Column;
use datafusion::prelude::DataFrame;

use super::writer::DataStreamWriter;
use crate::error::{Error, Result};
use crate::interval::duration_us;
use crate::plan::nodes::WatermarkNode;
use crate::plan::stream_table::is_streaming;

/// Spark's methods on a DataFrame over a stream.
pub trait StreamingDataFrame: Sized {
    /// Says that `column` is the event time and that rows may be `delay` late (`"10 minutes"`). On a DataFrame that is
    /// not a stream it has no effect, as in Spark.
    ///
    /// # Errors
    /// `InvalidQuery` where there is no such column or the delay is no length of time.
    fn with_watermark(self, column: &str, delay: &str) -> Result<DataFrame>;

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
        let plan = WatermarkNode { input: plan, column, delay_us, node: None }.into_plan();
        Ok(DataFrame::new(state, plan))
    }

    fn is_streaming(&self) -> bool {
        is_streaming(self.logical_plan())
    }

    fn write_stream(self) -> DataStreamWriter {
        DataStreamWriter::new(self)
    }
}
