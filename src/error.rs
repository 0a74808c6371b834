//! The one error of Millstream: what went wrong, where, and what to do about it.
//!
//! Kinds are chosen by remedy: a caller matches on [`ErrorKind`] to decide whether to mend the query, the
//! options, the data, the checkpoint, or to try again.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::panic::AssertUnwindSafe;

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use futures::FutureExt;

/// The result of everything that can fail in Millstream.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The SQL or the DataFrame is wrong: mend the query.
    InvalidQuery,
    /// The query is right but streams cannot run it (in this output mode): the message says what would do.
    Unsupported,
    /// An option is unknown, misspelt or has a bad value.
    InvalidOption,
    /// A file, directory, port or service cannot be reached now: try again or mend the environment.
    Unavailable,
    /// The input does not have the declared shape.
    DataInvalid,
    /// A durable file of the checkpoint or manifest is missing, torn or altered.
    CheckpointCorrupt,
    /// The checkpoint is whole but belongs to another query, or to another shape of this one.
    CheckpointIncompatible,
    /// Another run has taken over this checkpoint.
    Fenced,
    /// Memory or disk ran out: the message names the consumers.
    ResourcesExhausted,
    /// A bug in Millstream.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidQuery => "invalid query",
            Self::Unsupported => "unsupported",
            Self::InvalidOption => "invalid option",
            Self::Unavailable => "unavailable",
            Self::DataInvalid => "invalid data",
            Self::CheckpointCorrupt => "checkpoint corrupt",
            Self::CheckpointIncompatible => "checkpoint incompatible",
            Self::Fenced => "fenced",
            Self::ResourcesExhausted => "resources exhausted",
            Self::Internal => "internal error",
        })
    }
}

/// An error: its kind, its message, the steps it happened in, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind`; `message` says what, where and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), context: Vec::new(), source: None }
    }

    /// Makes an [`ErrorKind::InvalidQuery`].
    pub fn invalid_query(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidQuery, message)
    }

    /// Makes an [`ErrorKind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Makes an [`ErrorKind::InvalidOption`].
    pub fn invalid_option(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidOption, message)
    }

    /// Makes an [`ErrorKind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Makes an [`ErrorKind::DataInvalid`].
    pub fn data_invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DataInvalid, message)
    }

    /// Makes an [`ErrorKind::CheckpointCorrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::CheckpointCorrupt, message)
    }

    /// Makes an [`ErrorKind::CheckpointIncompatible`].
    pub fn incompatible(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::CheckpointIncompatible, message)
    }

    /// Makes an [`ErrorKind::Internal`]: something that cannot happen has happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Makes an [`ErrorKind::Internal`] of a panic in `what`, with what it said.
    pub fn panicked(what: impl fmt::Display, panic: &(dyn Any + Send)) -> Self {
        Self::internal(format!("{what} panicked: {}", panic_words(panic)))
    }

    /// Returns an error of the same kind and words, without the cause: for a second reader.
    pub fn copy_of(other: &Error) -> Self {
        Self { kind: other.kind, message: other.message.clone(), context: other.context.clone(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the step in which it happened; the outermost step is printed first.
    #[must_use]
    pub fn context(mut self, step: impl Into<String>) -> Self {
        self.context.push(step.into());
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the message without kind and context.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Returns what a panic said.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Does `work`, which is not ours; a panic in it is an error of `what`.
pub(crate) async fn caught<T>(what: impl FnOnce() -> String, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|panic| Err(Error::panicked(what(), panic.as_ref())))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.context.iter().rev() {
            write!(f, "{step}: ")?;
        }
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

impl From<DataFusionError> for Error {
    /// Keeps one of our own errors that travelled through DataFusion; gives every other the kind of its remedy.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(inner) => match inner.downcast::<DataFusionError>() {
                    Ok(nested) => Self::from(*nested),
                    Err(other) => Self::internal(other.to_string()).with_source(other),
                },
            },
            DataFusionError::Context(step, inner) => match Self::from(*inner) {
                e if e.kind == ErrorKind::Internal => e.context(step),
                e => e,
            },
            DataFusionError::Diagnostic(_, inner) => Self::from(*inner),
            DataFusionError::Collection(mut all) if !all.is_empty() => Self::from(all.swap_remove(0)),
            DataFusionError::ArrowError(inner, _) => Self::from(*inner),
            DataFusionError::Shared(inner) => shared(&inner),
            DataFusionError::ResourcesExhausted(m) => no_room(&m),
            DataFusionError::NotImplemented(m) => Self::unsupported(m),
            DataFusionError::Execution(m) => Self::data_invalid(m),
            e @ (DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::SQL(..)) => {
                let message = e.strip_backtrace();
                let message = message.split_once(": ").map_or(message.as_str(), |(_, m)| m).to_string();
                Self::invalid_query(message).with_source(e)
            }
            DataFusionError::IoError(e) => Self::from(e),
            e => Self::internal(e.strip_backtrace()).with_source(e),
        }
    }
}

/// DataFusion says who holds how much, over several lines, and not what to do.
fn no_room(told: &str) -> Error {
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::new(
        ErrorKind::ResourcesExhausted,
        format!(
            "{told}; give more memory (--memory-limit, or Session::builder().memory_limit()) or let the query keep less: a \
             shorter watermark delay, fewer keys, smaller batches; started again, it goes on where it stopped"
        ),
    )
}

/// An error that several readers of one stream share: the kind survives, the cause is told in words.
fn shared(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(own) => Error::copy_of(own),
            None => Error::internal(inner.to_string()),
        },
        DataFusionError::Shared(inner) => shared(inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => shared(inner),
        DataFusionError::ResourcesExhausted(m) => no_room(m),
        DataFusionError::Execution(m) => Error::data_invalid(m.clone()),
        e => Error::internal(e.strip_backtrace()),
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(inner) => Self::from(DataFusionError::External(inner)),
            ArrowError::IoError(message, e) => Self::unavailable(message).with_source(e),
            e => Self::data_invalid(e.to_string()).with_source(e),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::OutOfMemory => ErrorKind::ResourcesExhausted,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::unavailable(error.to_string()).with_source(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::data_invalid(format!("not the JSON that was expected: {error}")).with_source(error)
    }
}
