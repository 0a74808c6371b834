//! How do I keep state of my own for each key? A `StatefulProcessor` has variables and timers: here it tells of a card
//! that pays more than three times within ten minutes.

use datafusion::arrow::array::RecordBatch;
use millstream::error::Result;
use millstream::prelude::*;

const TEN_MINUTES_MS: i64 = 600_000;

state_row! {
    #[derive(Clone)] struct Payment { at: Timestamp, card: String }
}

state_row! {
    #[derive(Clone)] struct Alert { card: String, payments: i64 }
}

/// Remembers the payments of the last ten minutes.
#[derive(Default)]
struct Fraud {
    recent: ListState<Payment>,
}

impl StatefulProcessor for Fraud {
    fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
        self.recent = handle.list_state("recent", TtlConfig::NONE)?;
        Ok(())
    }

    fn handle_input_rows(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        let (mut recent, mut alerts) = (self.recent.get()?, Vec::new());
        for payment in Payment::read(rows)? {
            let ms = payment.at.ms();
            // A timer must lie ahead, and a row may lie behind the watermark by as much as that moved with this batch.
            context.register_timer((ms + TEN_MINUTES_MS).max(context.current_watermark_ms() + 1))?;
            recent.retain(|earlier| earlier.at.ms() > ms - TEN_MINUTES_MS);
            recent.push(payment);
            if recent.len() > 3 {
                alerts.push(Alert { card: key.get(0)?, payments: recent.len() as i64 });
            }
        }
        self.recent.put(recent)?;
        Ok(Some(Alert::batch(&alerts)?))
    }

    /// Forgets what has become old: a card that pays no more leaves nothing behind.
    fn handle_expired_timer(
        &mut self,
        _key: &GroupKey<'_>,
        timer_ms: i64,
        _context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        let recent = self.recent.get()?.into_iter().filter(|payment| payment.at.ms() > timer_ms - TEN_MINUTES_MS);
        self.recent.put(recent)?;
        Ok(None)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new();
    let payments = MemoryStream::new(Payment::schema());
    let fraud = TransformWithState::new(Alert::schema(), TimeMode::EventTime, Fraud::default);
    let alerts = session.read_stream().memory(&payments)?.with_watermark("at", "1 minute")?;
    let alerts = alerts.transform_with_state(vec![col("card")], fraud)?;
    let query = alerts.write_stream().format("memory").query_name("alerts").start("").await?;
    for (minute, card) in [(0, "17"), (2, "17"), (3, "42"), (4, "17"), (5, "17"), (30, "17"), (31, "42")] {
        let payment = Payment { at: Timestamp::from_ms(minute * 60_000), card: card.to_string() };
        payments.push(Payment::batch(&[payment])?)?;
    }
    query.process_all_available().await?;
    session.sql("SELECT card, payments FROM alerts").await?.show().await?;
    query.stop().await
}
