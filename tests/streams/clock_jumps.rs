//! The machine's clock is set back by an hour, forward by a day, or stands still while a query runs: it gives the same
//! answers, its watermark never falls, and it waits for no time that the clock has only lost.
//!
//! What `idleTimeout` makes of it is told in [`super::idle_sources`].

use std::sync::Arc;
use std::time::Duration;

use millstream::clock::{Clock, ManualClock};
use millstream::error::Result;
use millstream::prelude::*;

use crate::collected::{Batches, Collected};
use crate::counted::{counts, rows, schema};
use crate::failing_store::memory;
use crate::payments::{Payment, Probe, World, payment};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const START_MS: i64 = 10 * DAY_MS;

/// Runs a query with a trigger of processing time over pushes; before each the clock jumps. Returns what it gave, and the
/// watermarks that its batches ran with.
async fn counted(jumps_ms: [i64; 5]) -> (Batches, Vec<String>) {
    let clock = Arc::new(ManualClock::new(START_MS));
    let session = Session::builder().clock(Arc::clone(&clock) as Arc<dyn Clock>).lanes(2).build();
    let (stream, sink) = (MemoryStream::new(schema()), Collected::default());
    let trigger = Trigger::ProcessingTime(Duration::from_millis(5));
    let writer = counts(session.read_stream().memory(&stream).unwrap()).unwrap().write_stream().trigger(trigger);
    let query = writer.sink(Arc::new(sink.clone())).checkpoint_store(memory()).start("").await.unwrap();
    for (push, jump_ms) in (0..).zip(jumps_ms) {
        clock.advance_ms(jump_ms);
        stream.push(rows(push, 30)).unwrap();
        query.process_all_available().await.unwrap();
    }
    let batches = query.recent_progress().into_iter().filter(|progress| progress.ran_batch());
    let watermarks = batches.map(|progress| progress.event_time["watermark"].clone()).collect();
    query.stop().await.unwrap();
    (sink.batches(), watermarks)
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_do_not_care_for_the_clock() {
    let (still, watermarks) = counted([0; 5]).await;
    assert!(still.values().filter(|rows| !rows.is_empty()).count() >= 3);
    assert!(watermarks.is_sorted(), "{watermarks:?}");
    for jumps_ms in
        [[7; 5], [0, -HOUR_MS, 0, -HOUR_MS, 1], [0, DAY_MS, 0, 0, DAY_MS], [5, DAY_MS, -HOUR_MS, -2 * DAY_MS, HOUR_MS]]
    {
        assert_eq!(counted(jumps_ms).await, (still.clone(), watermarks.clone()), "{jumps_ms:?}");
    }
}

/// Asks to be told at the end of the window that lies two seconds after each payment.
fn tell_by_event_time() -> TransformWithState {
    let on_rows = |_: &ValueState<i64>, payments: &[Payment], context: &mut ProcessorContext| -> Result<Vec<String>> {
        payments.iter().try_for_each(|payment| context.register_timer(payment.at.ms() + 2_000))?;
        Ok(vec![payments.len().to_string()])
    };
    let on_timer = |_: &ValueState<i64>, timer_ms: i64, context: &mut ProcessorContext| -> Result<Vec<String>> {
        Ok(vec![format!("{timer_ms} at {}", context.current_watermark_ms())])
    };
    Probe::declare(TimeMode::EventTime, TtlConfig::NONE, on_rows, on_timer)
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_of_event_time_do_not_care_for_the_clock() {
    let mut answers = Vec::new();
    for jumps_ms in [[0, 0, 0], [-HOUR_MS, 0, DAY_MS], [DAY_MS, -2 * DAY_MS, 0]] {
        let world = World::new();
        world.clock.set_ms(START_MS);
        let running = world.start(2, Trigger::Unspecified, tell_by_event_time()).await.unwrap();
        for (jump_ms, second) in jumps_ms.into_iter().zip([10, 25, 60]) {
            world.clock.advance_ms(jump_ms);
            world.pay(&[payment(second, "a", 1), payment(second + 1, "b", 1)]);
            running.settle().await;
        }
        answers.push(running.said().await);
        running.query.stop().await.unwrap();
    }
    assert!(answers[0].iter().any(|line| line == "a: 12000 at 16000"), "{:?}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

/// Asks to be told a second later, in processing time.
fn remind() -> TransformWithState {
    let on_rows = |_: &ValueState<i64>, _: &[Payment], context: &mut ProcessorContext| -> Result<Vec<String>> {
        context.register_timer(context.current_processing_time_ms() + 1_000)?;
        Ok(Vec::new())
    };
    let on_timer = |_: &ValueState<i64>, timer_ms: i64, _: &mut ProcessorContext| -> Result<Vec<String>> {
        Ok(vec![(timer_ms - START_MS).to_string()])
    };
    Probe::declare(TimeMode::ProcessingTime, TtlConfig::NONE, on_rows, on_timer)
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_of_processing_time_fire_once_when_the_clock_has_reached_them() {
    let world = World::new();
    world.clock.set_ms(START_MS);
    let running = world.start(2, Trigger::Unspecified, remind()).await.unwrap();
    world.pay(&[payment(1, "a", 1)]);
    running.settle().await;
    // An hour back: nothing is due, and what is asked for now is due an hour sooner.
    world.clock.advance_ms(-HOUR_MS);
    running.settle().await;
    world.pay(&[payment(1, "b", 1)]);
    running.settle().await;
    assert!(running.said().await.is_empty());
    world.clock.advance_ms(1_000);
    running.settle().await;
    assert_eq!(running.said().await, [format!("b: {}", 1_000 - HOUR_MS)]);
    // It stands still: nothing fires again.
    running.settle().await;
    assert_eq!(running.said().await.len(), 1);
    world.clock.advance_ms(DAY_MS);
    running.settle().await;
    assert_eq!(running.said().await, ["a: 1000".to_string(), format!("b: {}", 1_000 - HOUR_MS)]);
    world.clock.advance_ms(-DAY_MS);
    running.settle().await;
    world.clock.advance_ms(DAY_MS);
    running.settle().await;
    assert_eq!(running.said().await.len(), 2, "each fires once");
    running.query.stop().await.unwrap();
}
