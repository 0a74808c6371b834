//! Payments, and a query with state of its own over them: the world of [`crate::user_state`] and [`crate::user_time`].
//!
//! Payments are pushed, a query runs over them, and what the functions say is read from the table of a memory sink. The
//! stream and the checkpoint outlive the sessions, so that a query can be started again, in other lanes, with another
//! processor. Time is a manual clock.

use std::fmt::Display;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use millstream::clock::{Clock, ManualClock};
use millstream::error::Result;
use millstream::prelude::*;

state_row! {
    #[derive(Debug, Clone, PartialEq)]
    pub(crate) struct Payment { pub(crate) at: Timestamp, pub(crate) card: String, pub(crate) amount: i64 }
}

state_row! {
    /// What a function says about a card.
    #[derive(Debug, Clone)]
    pub(crate) struct Said { pub(crate) at: Timestamp, pub(crate) card: String, pub(crate) what: String }
}

/// Makes what a function says.
pub(crate) fn said(card: &str, what: impl Display) -> Said {
    Said { at: Timestamp::from_ms(0), card: card.to_string(), what: what.to_string() }
}

/// Makes a payment.
pub(crate) fn payment(second: i64, card: &str, amount: i64) -> Payment {
    Payment { at: Timestamp::from_ms(second * 1000), card: card.to_string(), amount }
}

/// What outlives a session.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) payments: MemoryStream,
    checkpoint: tempfile::TempDir,
}

/// A query that was started, and the session that has its table.
pub(crate) struct Running {
    session: Session,
    pub(crate) query: StreamingQuery,
}

impl World {
    /// Makes a world without payments.
    pub(crate) fn new() -> Self {
        Self {
            clock: Arc::new(ManualClock::new(1_000_000)),
            payments: MemoryStream::new(Payment::schema()),
            checkpoint: tempfile::tempdir().unwrap(),
        }
    }

    /// Pushes rows as one batch.
    pub(crate) fn pay(&self, rows: &[Payment]) {
        self.payments.push(Payment::batch(rows).unwrap()).unwrap();
    }

    /// Makes a session that lives by the manual clock.
    pub(crate) fn session(&self, lanes: usize) -> Session {
        Session::builder().clock(Arc::clone(&self.clock) as Arc<dyn Clock>).lanes(lanes).build()
    }

    /// The payments, one push a batch, up to ten seconds late.
    pub(crate) fn stream(&self, session: &Session) -> DataFrame {
        let stream = session.read_stream().option("maxBatchesPerTrigger", 1).memory(&self.payments).unwrap();
        stream.with_watermark("at", "10 seconds").unwrap()
    }

    /// Starts a processor over the payments, by card.
    pub(crate) async fn start(&self, lanes: usize, trigger: Trigger, transform: TransformWithState) -> Result<Running> {
        let session = self.session(lanes);
        let frame = self.stream(&session).transform_with_state(vec![col("card")], transform)?;
        self.start_frame(session, frame, trigger, OutputMode::Append).await
    }

    /// Starts a query of a DataFrame's own making.
    pub(crate) async fn start_frame(
        &self,
        session: Session,
        frame: DataFrame,
        trigger: Trigger,
        mode: OutputMode,
    ) -> Result<Running> {
        let writer = frame.write_stream().output_mode(mode).trigger(trigger).format("memory").query_name("said");
        let query = writer.option("checkpointLocation", self.checkpoint.path().display()).start("").await?;
        Ok(Running { session, query })
    }

    /// Runs to the end of what there is, and returns what was said, sorted.
    pub(crate) async fn run(&self, lanes: usize, transform: TransformWithState) -> Result<Vec<String>> {
        let running = self.start(lanes, Trigger::AvailableNow, transform).await?;
        running.query.await_termination().await?;
        Ok(running.said().await)
    }

    /// Runs to the end, which is to be an error, and returns its words.
    pub(crate) async fn refused(&self, transform: TransformWithState) -> String {
        self.run(1, transform).await.unwrap_err().to_string()
    }
}

impl Running {
    /// What was said so far, sorted.
    pub(crate) async fn said(&self) -> Vec<String> {
        let rows = self.session.sql("SELECT * FROM said").await.unwrap().collect().await.unwrap();
        let said = rows.iter().flat_map(|rows| Said::read(rows).unwrap());
        let mut lines: Vec<String> = said.map(|said| format!("{}: {}", said.card, said.what)).collect();
        lines.sort();
        lines
    }

    /// Waits until everything is done that can be now.
    pub(crate) async fn settle(&self) {
        self.query.process_all_available().await.unwrap();
    }
}

pub(crate) type OnRows = fn(&ValueState<i64>, &[Payment], &mut ProcessorContext) -> Result<Vec<String>>;
pub(crate) type OnTimer = fn(&ValueState<i64>, i64, &mut ProcessorContext) -> Result<Vec<String>>;

/// One value and two functions.
pub(crate) struct Probe {
    value: ValueState<i64>,
    ttl: TtlConfig,
    on_rows: OnRows,
    on_timer: OnTimer,
}

impl Probe {
    /// Declares it, for rows of `output`, which should be [`Said`].
    pub(crate) fn of_output(
        output: SchemaRef,
        time_mode: TimeMode,
        ttl: TtlConfig,
        on_rows: OnRows,
        on_timer: OnTimer,
    ) -> TransformWithState {
        let make = move || Probe { value: ValueState::default(), ttl, on_rows, on_timer };
        TransformWithState::new(output, time_mode, make)
    }

    /// Declares it.
    pub(crate) fn declare(
        time_mode: TimeMode,
        ttl: TtlConfig,
        on_rows: OnRows,
        on_timer: OnTimer,
    ) -> TransformWithState {
        Self::of_output(Said::schema(), time_mode, ttl, on_rows, on_timer)
    }

    /// Without timers.
    pub(crate) fn of_rows(on_rows: OnRows) -> TransformWithState {
        Self::declare(TimeMode::None, TtlConfig::NONE, on_rows, |_, _, _| Ok(Vec::new()))
    }

    /// Says some words about the key.
    pub(crate) fn say(key: &GroupKey<'_>, words: Vec<String>) -> Result<Option<RecordBatch>> {
        let card: String = key.get(0)?;
        let words: Vec<Said> = words.into_iter().map(|what| said(&card, what)).collect();
        Ok(Some(Said::batch(&words)?))
    }
}

impl StatefulProcessor for Probe {
    fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
        self.value = handle.value_state("total", self.ttl)?;
        Ok(())
    }

    fn handle_input_rows(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        Self::say(key, (self.on_rows)(&self.value, &Payment::read(rows)?, context)?)
    }

    fn handle_expired_timer(
        &mut self,
        key: &GroupKey<'_>,
        timer_ms: i64,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        Self::say(key, (self.on_timer)(&self.value, timer_ms, context)?)
    }

    fn handle_initial_state(&mut self, _: &GroupKey<'_>, rows: &RecordBatch, _: &mut ProcessorContext) -> Result<()> {
        let amounts = Payment::read(rows)?.into_iter().map(|payment| payment.amount);
        self.value.update(amounts.sum())
    }
}

/// Adds up what a card pays, in all.
pub(crate) fn add_up(total: &ValueState<i64>, payments: &[Payment], _: &mut ProcessorContext) -> Result<Vec<String>> {
    let sum = total.get()?.unwrap_or(0) + payments.iter().map(|payment| payment.amount).sum::<i64>();
    total.update(sum)?;
    Ok(vec![sum.to_string()])
}
