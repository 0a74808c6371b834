//! Millstream: Structured Streaming on Apache Arrow.
//!
//! Unbounded tables grow by record batches; every trigger runs one DataFusion plan over what is new; state, event-time
//! windows and watermarks do what Spark's do; results leave in append, update or complete mode, and into files exactly
//! once. No JVM, no cluster: one library and one command.
//!
//! It is not a message broker, not a database, and not distributed.
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! # async fn run() -> millstream::error::Result<()> {
//! let session = Session::new();
//! session
//!     .run_script(
//!         "CREATE UNBOUNDED EXTERNAL TABLE clicks (at TIMESTAMP, page STRING) STORED AS JSON LOCATION 'in/clicks/';
//!          CREATE EXTERNAL TABLE hits STORED AS PARQUET LOCATION 'out/hits/';
//!          CREATE FLOW count_hits TRIGGER AVAILABLE NOW AS INSERT INTO hits
//!          SELECT window, page, count(*) AS hits
//!          FROM STREAM clicks WATERMARK at DELAY OF INTERVAL 10 MINUTES
//!          GROUP BY window(at, '1 hour'), page;",
//!     )
//!     .await
//! # }
//! ```
//!
//! [`session::Session`] is where everything begins; `ARCHITECTURE.md` in the repository shows the way of a row.

// Docs of modules speak of their parts, public or not.
#![allow(rustdoc::private_intra_doc_links)]

#[cfg(feature = "kafka")]
pub mod avro;
pub mod checkpoint;
pub mod clock;
pub mod error;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod interval;
#[cfg(feature = "kafka")]
mod kafka;
pub mod operator;
pub mod options;
pub mod plan;
pub mod query;
pub mod session;
pub mod shell;
pub mod sink;
pub mod source;
pub mod sql;
pub mod state;
pub mod storage;

/// What an application needs, in one import.
pub mod prelude {
    pub use datafusion::functions_aggregate::expr_fn::{
        approx_distinct, avg, count, count_distinct, first_value, last_value, max, min, stddev, sum,
    };
    pub use datafusion::logical_expr::{cast, col, ident, lit, when};
    pub use datafusion::prelude::{DataFrame, Expr, JoinType, SessionContext};

    pub use crate::error::{Error, ErrorKind};
    pub use crate::operator::user_state::{
        ColumnValue, GroupKey, GroupState, GroupStateTimeout, ListState, MapState, ProcessorContext, StateHandle,
        StateRow, StatefulProcessor, TimeMode, Timestamp, TransformWithState, TtlConfig, ValueState,
    };
    pub use crate::options::Options;
    pub use crate::plan::window_function::{session_window, sliding_window, window, window_time};
    pub use crate::query::listener::{QueryIdle, QueryStarted, QueryTerminated, StreamingQueryListener};
    pub use crate::query::progress::StreamingQueryProgress;
    pub use crate::query::{StreamingQuery, StreamingQueryManager, Trigger};
    pub use crate::session::dataframe::StreamingDataFrame;
    pub use crate::session::{DataStreamReader, DataStreamWriter, Session};
    pub use crate::sink::OutputMode;
    pub use crate::source::memory::MemoryStream;
    pub use crate::state_row;
}

/// The README's examples, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExamples;
