//! Time in the application's own state: timers of both kinds, late rows, event times of an output, and the timeouts of
//! functions over groups.

use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use millstream::error::Result;
use millstream::prelude::*;

use crate::payments::{Payment, Probe, Running, Said, World, add_up, payment, said};

/// Registers two timers after each row and says which are there.
fn set_timers(_: &ValueState<i64>, payments: &[Payment], context: &mut ProcessorContext) -> Result<Vec<String>> {
    for payment in payments {
        context.register_timer(payment.at.ms() + 5_000)?;
        context.register_timer(payment.at.ms() + 2_000)?;
        context.register_timer(payment.at.ms() + 7_000)?;
        context.delete_timer(payment.at.ms() + 7_000)?;
    }
    Ok(vec![format!("{:?}", context.list_timers()?)])
}

fn tell_timer(_: &ValueState<i64>, timer_ms: i64, context: &mut ProcessorContext) -> Result<Vec<String>> {
    Ok(vec![format!("fired {timer_ms} at {}, left {:?}", context.current_watermark_ms(), context.list_timers()?)])
}

fn event_timers() -> TransformWithState {
    Probe::declare(TimeMode::EventTime, TtlConfig::NONE, set_timers, tell_timer)
}

#[tokio::test(flavor = "multi_thread")]
async fn event_time_timers_fire_when_the_watermark_reaches_them() {
    let world = World::new();
    world.pay(&[payment(10, "a", 1), payment(11, "b", 1)]);
    // The watermark becomes 15 s: that reaches both timers of a and one of b.
    world.pay(&[payment(25, "c", 1)]);
    let said = world.run(2, event_timers()).await.unwrap();
    let want = [
        "a: [12000, 15000]",
        "a: fired 12000 at 15000, left [15000]",
        "a: fired 15000 at 15000, left []",
        "b: [13000, 16000]",
        "b: fired 13000 at 15000, left [16000]",
        "c: [27000, 30000]",
    ];
    assert_eq!(said, want);
    // After a restart the others are there still.
    world.pay(&[payment(40, "d", 1)]);
    let said = world.run(3, event_timers()).await.unwrap();
    let want = [
        "b: fired 16000 at 30000, left []",
        "c: fired 27000 at 30000, left [30000]",
        "c: fired 30000 at 30000, left []",
        "d: [42000, 45000]",
    ];
    assert_eq!(said, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_do_not_reach_the_function() {
    let world = World::new();
    let running = world.start(2, Trigger::Unspecified, event_timers()).await.unwrap();
    for (second, card) in [(25, "a"), (3, "late"), (16, "b")] {
        world.pay(&[payment(second, card, 1)]);
        running.settle().await;
    }
    let said = running.said().await;
    assert!(said.iter().all(|line| !line.starts_with("late")), "{said:?}");
    assert!(said.contains(&"b: [18000, 21000]".to_string()), "{said:?}");
    let progress = running.query.recent_progress();
    let operators = progress.iter().flat_map(|progress| &progress.state_operators);
    assert_eq!(operators.clone().map(|operator| operator.num_rows_dropped_by_watermark).sum::<u64>(), 1);
    assert!(operators.clone().count() > 0);
    assert!(operators.clone().all(|operator| operator.operator_name == "transformWithStateExec"));
    running.query.stop().await.unwrap();
}

/// Registers a timer a second of processing time ahead.
fn remind(_: &ValueState<i64>, payments: &[Payment], context: &mut ProcessorContext) -> Result<Vec<String>> {
    let now_ms = context.current_processing_time_ms();
    context.register_timer(now_ms + 1_000)?;
    Ok(vec![format!("{} at {now_ms}", payments.len())])
}

fn tell_reminder(_: &ValueState<i64>, timer_ms: i64, context: &mut ProcessorContext) -> Result<Vec<String>> {
    Ok(vec![format!("reminded of {timer_ms} at {}", context.current_processing_time_ms())])
}

fn reminders() -> TransformWithState {
    Probe::declare(TimeMode::ProcessingTime, TtlConfig::NONE, remind, tell_reminder)
}

#[tokio::test(flavor = "multi_thread")]
async fn processing_time_timers_fire_without_data() {
    let world = World::new();
    let running = world.start(2, Trigger::Unspecified, reminders()).await.unwrap();
    world.pay(&[payment(1, "a", 1), payment(1, "a", 2)]);
    running.settle().await;
    world.clock.set_ms(1_000_999);
    running.settle().await;
    assert_eq!(running.said().await, ["a: 2 at 1000000"]);
    world.clock.set_ms(1_001_000);
    running.settle().await;
    assert_eq!(running.said().await, ["a: 2 at 1000000", "a: reminded of 1001000 at 1001000"]);
    running.query.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processing_time_timers_wait_over_a_restart_and_hold_no_query_back() {
    let world = World::new();
    world.pay(&[payment(1, "a", 1)]);
    assert_eq!(world.run(2, reminders()).await.unwrap(), ["a: 1 at 1000000"]);
    assert!(world.run(2, reminders()).await.unwrap().is_empty(), "it is not due yet");
    world.clock.set_ms(1_005_000);
    assert_eq!(world.run(3, reminders()).await.unwrap(), ["a: reminded of 1001000 at 1005000"]);
    assert!(world.run(1, reminders()).await.unwrap().is_empty(), "it fires once");
}

#[tokio::test(flavor = "multi_thread")]
async fn event_time_needs_a_watermark_and_complete_mode_is_refused() {
    let world = World::new();
    let session = world.session(1);
    let bare = session.read_stream().memory(&world.payments).unwrap();
    let frame = bare.transform_with_state(vec![col("card")], event_timers()).unwrap();
    let refused = world.start_frame(session, frame, Trigger::AvailableNow, OutputMode::Append).await;
    let words = refused.err().unwrap().to_string();
    assert!(words.contains("goes by event time, and its input has none"), "{words}");

    let session = world.session(1);
    let frame = world.stream(&session).transform_with_state(vec![col("card")], Probe::of_rows(add_up)).unwrap();
    let refused = world.start_frame(session, frame, Trigger::AvailableNow, OutputMode::Complete).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unsupported);
}

/// Gives a row for each payment, of a time that lies `1 s × amount` before it.
struct Shift;

impl StatefulProcessor for Shift {
    fn init(&mut self, _: &mut StateHandle) -> Result<()> {
        Ok(())
    }

    fn handle_input_rows(
        &mut self,
        _: &GroupKey<'_>,
        rows: &RecordBatch,
        _: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        let shifted = Payment::read(rows)?.into_iter().map(|payment| Said {
            at: Timestamp::from_ms(payment.at.ms() - payment.amount * 1000),
            ..said(&payment.card, payment.amount)
        });
        Ok(Some(Said::batch(&shifted.collect::<Vec<_>>())?))
    }
}

/// Counts what [`Shift`] gives, by card and ten seconds of its event time.
async fn count_shifted(world: &World) -> Running {
    let session = world.session(2);
    let shift = TransformWithState::new(Said::schema(), TimeMode::None, || Shift).output_event_time("at");
    let shifted = world.stream(&session).transform_with_state(vec![col("card")], shift).unwrap();
    let keys = vec![window(col("at"), "10 seconds"), col("card")];
    let counted = shifted.aggregate(keys, vec![count(lit(1)).alias("n")]).unwrap();
    let counted = counted.select(vec![col("card"), cast(col("n"), DataType::Utf8).alias("what")]).unwrap();
    let counted = counted.with_column("at", cast(lit(0i64), Timestamp::data_type())).unwrap();
    world.start_frame(session, counted, Trigger::AvailableNow, OutputMode::Append).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_with_event_time_can_be_grouped_and_may_not_be_old() {
    let world = World::new();
    world.pay(&[payment(12, "a", 1), payment(13, "a", 0), payment(14, "b", 0)]);
    world.pay(&[payment(45, "c", 0)]);
    let running = count_shifted(&world).await;
    running.query.await_termination().await.unwrap();
    assert_eq!(running.said().await, ["a: 2", "b: 1"]);

    // Late rows are judged by 35 s from now on; this one is not late, but what is made of it is.
    world.pay(&[payment(50, "a", 20)]);
    let words = count_shifted(&world).await.query.await_termination().await.unwrap_err().to_string();
    assert!(words.contains("is not above the watermark 1970-01-01 00:00:35"), "{words}");
}

/// Counts payments; a group that has timed out says so and is forgotten.
fn count_group(key: &GroupKey<'_>, rows: &RecordBatch, state: &mut GroupState<'_, i64>) -> Result<RecordBatch> {
    let card: String = key.get(0)?;
    let so_far = state.get_option()?.unwrap_or(0);
    if state.has_timed_out() {
        assert_eq!(rows.num_rows(), 0);
        state.remove()?;
        return Said::batch(&[said(&card, format!("done with {so_far}"))]);
    }
    let count = so_far + rows.num_rows() as i64;
    state.update(count)?;
    state.set_timeout_duration(Duration::from_secs(1))?;
    Said::batch(&[said(&card, count)])
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_mapped_and_time_out_by_processing_time() {
    let world = World::new();
    let session = world.session(2);
    let by_time = GroupStateTimeout::ProcessingTime;
    let frame = world.stream(&session).map_groups_with_state(vec![col("card")], Said::schema(), by_time, count_group);
    let running = world.start_frame(session, frame.unwrap(), Trigger::Unspecified, OutputMode::Update).await.unwrap();
    world.pay(&[payment(1, "a", 1), payment(1, "b", 1), payment(1, "a", 1)]);
    running.settle().await;
    world.clock.set_ms(1_000_600);
    world.pay(&[payment(1, "a", 1)]);
    running.settle().await;
    world.clock.set_ms(1_001_000);
    running.settle().await;
    assert_eq!(running.said().await, ["a: 2", "a: 3", "b: 1"], "a timeout must have passed");
    world.clock.set_ms(1_001_001);
    running.settle().await;
    world.clock.set_ms(1_002_000);
    world.pay(&[payment(1, "b", 1)]);
    running.settle().await;
    assert_eq!(running.said().await, ["a: 2", "a: 3", "a: done with 3", "b: 1", "b: 1", "b: done with 1"]);
    running.query.stop().await.unwrap();
}

/// Says nothing of payments, and when five seconds of event time have passed since the last that it is out.
fn say_when_out(
    key: &GroupKey<'_>,
    rows: &RecordBatch,
    state: &mut GroupState<'_, i64>,
) -> Result<Option<RecordBatch>> {
    if state.has_timed_out() {
        let card: String = key.get(0)?;
        return Ok(Some(Said::batch(&[said(&card, format!("out at {}", state.current_watermark_ms()))])?));
    }
    let last = Payment::read(rows)?.iter().map(|payment| payment.at.ms()).max().unwrap_or(0);
    state.update(last)?;
    state.set_timeout_timestamp(last + 5_000)?;
    Ok(None)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_time_out_by_event_time() {
    let world = World::new();
    let session = world.session(2);
    let by_time = GroupStateTimeout::EventTime;
    let frame = world
        .stream(&session)
        .flat_map_groups_with_state(vec![col("card")], OutputMode::Append, by_time, Said::schema(), say_when_out)
        .unwrap();
    for (second, card) in [(10, "a"), (25, "b"), (26, "c")] {
        world.pay(&[payment(second, card, 1)]);
    }
    let running = world.start_frame(session, frame, Trigger::AvailableNow, OutputMode::Append).await.unwrap();
    running.query.await_termination().await.unwrap();
    assert_eq!(running.said().await, ["a: out at 16000"], "at 15 s it had not passed");
    let progress = running.query.recent_progress();
    let operators = progress.iter().flat_map(|progress| &progress.state_operators);
    assert!(operators.clone().all(|operator| operator.operator_name == "flatMapGroupsWithState"));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_over_groups_are_held_to_their_mode() {
    let world = World::new();
    let session = world.session(1);
    let keys = || vec![col("card")];
    let none = GroupStateTimeout::None;
    let mapped = world.stream(&session).map_groups_with_state(keys(), Said::schema(), none, count_group).unwrap();
    let refused = world.start_frame(world.session(1), mapped, Trigger::AvailableNow, OutputMode::Append).await;
    let words = refused.err().unwrap().to_string();
    assert!(words.contains("map_groups_with_state is supported in update mode only"), "{words}");

    let own = OutputMode::Append;
    let mapped =
        world.stream(&session).flat_map_groups_with_state(keys(), own, none, Said::schema(), say_when_out).unwrap();
    let refused = world.start_frame(world.session(1), mapped, Trigger::AvailableNow, OutputMode::Update).await;
    let words = refused.err().unwrap().to_string();
    assert!(words.contains("was declared for append mode, and the query runs in update mode"), "{words}");

    world.pay(&[payment(1, "a", 1)]);
    let mapped = world.stream(&session).map_groups_with_state(keys(), Said::schema(), none, count_group).unwrap();
    let running = world.start_frame(world.session(1), mapped, Trigger::AvailableNow, OutputMode::Update).await.unwrap();
    let words = running.query.await_termination().await.unwrap_err().to_string();
    assert!(words.contains("set_timeout_duration() needs GroupStateTimeout::ProcessingTime"), "{words}");
}
