//! What becomes of a row that is not of the declared shape: Spark's modes PERMISSIVE, DROPMALFORMED and FAILFAST.
//!
//! [`Rows`] is the batch under construction that a [`super::LineDecoder`] fills row by row. Guards that a malformed row is
//! counted once, and that every column has the same number of values after each line.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field};

use super::column::Column;
use crate::error::{Error, Result};
use crate::options::{Options, bad_value};
use crate::source::MalformedRows;

/// What to do with a malformed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Mode {
    /// Keep what fits, NULL the rest, and the line itself in the corrupt-record column.
    Permissive,
    /// Drop the row.
    DropMalformed,
    /// End the query.
    FailFast,
}

impl Mode {
    /// Reads the option `mode`.
    ///
    /// # Errors
    /// `InvalidOption` for any other word.
    pub(in crate::source) fn of(options: &Options) -> Result<Self> {
        match options.get("mode").map(|mode| mode.trim().to_uppercase()).as_deref() {
            None | Some("PERMISSIVE") => Ok(Self::Permissive),
            Some("DROPMALFORMED") => Ok(Self::DropMalformed),
            Some("FAILFAST") => Ok(Self::FailFast),
            Some(other) => Err(bad_value("mode", other, "PERMISSIVE, DROPMALFORMED or FAILFAST")),
        }
    }
}

/// What a decoder found in a line.
#[derive(Debug)]
pub(in crate::source) enum Verdict {
    /// A row; columns that it does not mention are NULL.
    Row,
    /// A row some of whose fields do not fit, and the first reason where the decoder was asked for it.
    Misfit(Option<String>),
    /// Not a row at all, and why.
    Broken(String),
    /// A comment or a header: no row, and nothing wrong.
    Nothing,
}

impl Verdict {
    /// Returns the verdict on a line some of whose bytes were replaced, since they are not UTF-8: it is malformed at
    /// least.
    #[must_use]
    pub(in crate::source) fn of_text(self, is_replaced: bool) -> Self {
        match self {
            Self::Row | Self::Misfit(_) if is_replaced => {
                Self::Misfit(Some("it holds bytes that are not UTF-8".into()))
            }
            verdict => verdict,
        }
    }
}

/// Rows of one place on their way into a batch.
pub(in crate::source) struct Rows {
    /// The columns that the decoder fills.
    pub(in crate::source) columns: Vec<Column>,
    corrupt: Column,
    length: usize,
    mode: Mode,
    malformed: Arc<MalformedRows>,
    place: String,
    unit: &'static str,
}

impl Rows {
    /// Makes an empty batch for rows of `place`, such as a file, in which a row is found by its `unit`, such as a line.
    ///
    /// # Errors
    /// `Unsupported` where one of `fields` has a type that text does not give.
    pub(in crate::source) fn new(
        fields: &[Field],
        mode: Mode,
        malformed: Arc<MalformedRows>,
        place: &str,
        unit: &'static str,
    ) -> Result<Self> {
        Ok(Self {
            columns: fields.iter().map(Column::new).collect::<Result<_>>()?,
            corrupt: Column::new(&Field::new("corrupt record", DataType::Utf8, true))?,
            length: 0,
            mode,
            malformed,
            place: place.to_string(),
            unit,
        })
    }

    /// Returns the number of rows.
    pub(in crate::source) fn len(&self) -> usize {
        self.length
    }

    /// Ends row `number`: what the decoder wrote into the columns becomes a row, or is taken back, by verdict and mode.
    ///
    /// # Errors
    /// `DataInvalid` for a malformed row in mode FAILFAST: place, number and reason.
    pub(in crate::source) fn settle(&mut self, verdict: Verdict, line: &str, number: u64) -> Result<()> {
        let (whole, reason) = match verdict {
            Verdict::Row => return self.end_row(None),
            Verdict::Nothing => {
                self.take_back();
                return Ok(());
            }
            Verdict::Misfit(reason) => (true, reason.unwrap_or_default()),
            Verdict::Broken(reason) => (false, reason),
        };
        if self.mode == Mode::FailFast {
            return Err(Error::data_invalid(format!(
                "{}, {} {number}: {reason}; mend the row, or use the mode PERMISSIVE or DROPMALFORMED",
                self.place, self.unit
            )));
        }
        self.malformed.add(1);
        if self.mode == Mode::DropMalformed || !whole {
            self.take_back();
        }
        if self.mode == Mode::DropMalformed { Ok(()) } else { self.end_row(Some(line)) }
    }

    fn end_row(&mut self, corrupt: Option<&str>) -> Result<()> {
        for column in self.columns.iter_mut().filter(|column| column.len() == self.length) {
            column.push_null();
        }
        match corrupt {
            Some(line) => {
                self.corrupt.push_json_text(line);
            }
            None => self.corrupt.push_null(),
        }
        self.length += 1;
        match self.columns.iter().find(|column| column.len() != self.length) {
            Some(column) => Err(Error::internal(format!("column '{}' got more than one value in a row", column.name))),
            None => Ok(()),
        }
    }

    fn take_back(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.length);
        }
    }

    /// Takes the rows: their columns, the corrupt-record column, and their number. The batch is empty afterwards.
    ///
    /// # Errors
    /// `DataInvalid` where the rows are too large for one batch.
    pub(in crate::source) fn finish(&mut self) -> Result<(Vec<ArrayRef>, ArrayRef, usize)> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>>>()?;
        Ok((columns, self.corrupt.finish()?, std::mem::take(&mut self.length)))
    }
}
