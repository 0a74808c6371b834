//! State of the application's own: values, lists and maps, initial state and TTL, what becomes of them over restarts, and
//! what a processor may not do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use millstream::error::Result;
use millstream::prelude::*;

use crate::payments::{OnRows, OnTimer, Payment, Probe, Said, World, add_up, payment};

/// A list and a map beside a value: the amounts in order, and by amount how often it was paid. An amount of zero empties
/// the list, a negative one takes its positive out of the map.
#[derive(Default)]
struct Ledger {
    count: ValueState<(i64, Option<String>)>,
    amounts: ListState<i64>,
    times: MapState<i64, i64>,
}

impl StatefulProcessor for Ledger {
    fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
        self.count = handle.value_state("count", TtlConfig::NONE)?;
        self.amounts = handle.list_state("amounts", TtlConfig::NONE)?;
        self.times = handle.map_state("times", TtlConfig::NONE)?;
        Ok(())
    }

    fn handle_input_rows(
        &mut self,
        key: &GroupKey<'_>,
        rows: &RecordBatch,
        _context: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        for Payment { amount, .. } in Payment::read(rows)? {
            let (count, _) = self.count.get()?.unwrap_or((0, None));
            self.count.update((count + 1, (amount > 3).then(|| format!("paid {amount}"))))?;
            match amount {
                0 => self.amounts.clear()?,
                _ => self.amounts.append_value(amount)?,
            }
            match amount < 0 {
                true => self.times.remove_key(&-amount)?,
                false => {
                    let times = self.times.get_value(&amount)?.unwrap_or(0);
                    self.times.update_value(amount, times + 1)?;
                }
            }
        }
        let (count, last) = self.count.get()?.unwrap_or((0, None));
        let words = format!("{count} {last:?} {:?} {:?}", self.amounts.get()?, self.times.entries()?);
        Probe::say(key, vec![words])
    }
}

fn ledger() -> TransformWithState {
    TransformWithState::new(Said::schema(), TimeMode::None, Ledger::default)
}

/// Payments of many cards, a push a second.
fn pushes() -> Vec<Vec<Payment>> {
    let one = |push: i64, i: i64| {
        let amount = (push * 7 + i * 3) % 11 - 3;
        payment(push, ["a", "b", "c", "d", "e", "f"][usize::try_from((i * i + push) % 6).unwrap()], amount)
    };
    (0..8).map(|push| (0..9).map(|i| one(push, i)).collect()).collect()
}

/// A card's ledger in plain Rust.
#[derive(Default)]
struct Account {
    count: i64,
    last: Option<String>,
    amounts: Vec<i64>,
    times: BTreeMap<i64, i64>,
}

impl Account {
    fn pay(&mut self, amount: i64) {
        self.count += 1;
        self.last = (amount > 3).then(|| format!("paid {amount}"));
        match amount {
            0 => self.amounts.clear(),
            _ => self.amounts.push(amount),
        }
        if amount < 0 {
            self.times.remove(&-amount);
        } else {
            *self.times.entry(amount).or_default() += 1;
        }
    }

    fn words(&self) -> String {
        let times: Vec<(i64, i64)> = self.times.iter().map(|(amount, times)| (*amount, *times)).collect();
        format!("{} {:?} {:?} {times:?}", self.count, self.last, self.amounts)
    }
}

/// What the ledger must say, sorted.
fn ledger_model(pushes: &[Vec<Payment>]) -> Vec<String> {
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    let mut lines = Vec::new();
    for push in pushes {
        push.iter().for_each(|payment| accounts.entry(payment.card.clone()).or_default().pay(payment.amount));
        let touched: BTreeSet<&str> = push.iter().map(|payment| payment.card.as_str()).collect();
        lines.extend(touched.into_iter().map(|card| format!("{card}: {}", accounts[card].words())));
    }
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn values_lists_and_maps_are_what_plain_rust_would_keep() {
    for lanes in [1, 4] {
        let world = World::new();
        pushes().iter().for_each(|push| world.pay(push));
        assert_eq!(world.run(lanes, ledger()).await.unwrap(), ledger_model(&pushes()), "in {lanes} lanes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_each_batch_and_other_lanes_change_nothing() {
    let world = World::new();
    let mut said = Vec::new();
    for (push, lanes) in pushes().iter().zip([1, 4, 4, 2, 3, 3, 1, 8]) {
        world.pay(push);
        said.extend(world.run(lanes, ledger()).await.unwrap());
    }
    said.sort();
    assert_eq!(said, ledger_model(&pushes()));
    assert!(world.run(2, ledger()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_state_comes_once_before_any_row() {
    let world = World::new();
    let begun = vec![Payment::batch(&[payment(0, "a", 100), payment(0, "b", 1), payment(0, "a", 10)]).unwrap()];
    world.pay(&[payment(1, "a", 1), payment(1, "c", 5)]);
    let first = world.run(3, Probe::of_rows(add_up).initial_state(begun.clone())).await.unwrap();
    assert_eq!(first, ["a: 111", "c: 5"]);
    world.pay(&[payment(2, "a", 1), payment(2, "b", 1)]);
    let second = world.run(2, Probe::of_rows(add_up).initial_state(begun)).await.unwrap();
    assert_eq!(second, ["a: 112", "b: 2"], "a key without rows has its state too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_with_a_ttl_is_gone_when_it_has_passed() {
    let world = World::new();
    let ttl = || {
        let ttl = TtlConfig::new(Duration::from_secs(1));
        Probe::declare(TimeMode::ProcessingTime, ttl, add_up, |_, _, _| Ok(Vec::new()))
    };
    // Each update lets the value live for a second more.
    let expected = [(0, "a: 1"), (900, "a: 2"), (1_800, "a: 3"), (2_800, "a: 1"), (3_799, "a: 2")];
    for (after_ms, want) in expected {
        world.clock.set_ms(1_000_000 + after_ms);
        world.pay(&[payment(1, "a", 1)]);
        assert_eq!(world.run(1, ttl()).await.unwrap(), [want], "after {after_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_type_is_refused() {
    #[derive(Default)]
    struct Textual {
        total: ValueState<String>,
    }
    impl StatefulProcessor for Textual {
        fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
            self.total = handle.value_state("total", TtlConfig::NONE)?;
            Ok(())
        }

        fn handle_input_rows(
            &mut self,
            _: &GroupKey<'_>,
            _: &RecordBatch,
            _: &mut ProcessorContext,
        ) -> Result<Option<RecordBatch>> {
            self.total.update("none".to_string())?;
            Ok(None)
        }
    }
    let world = World::new();
    world.pay(&[payment(1, "a", 1)]);
    world.run(1, Probe::of_rows(add_up).name("sums")).await.unwrap();
    let textual = TransformWithState::new(Said::schema(), TimeMode::None, Textual::default).name("sums");
    let error = world.run(1, textual).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointIncompatible);
    let words = error.to_string();
    for part in ["state variable total changed", "Int64", "Utf8"] {
        assert!(words.contains(part), "{words}");
    }
    let error = world.run(1, Probe::of_rows(add_up)).await.unwrap_err().to_string();
    assert!(error.contains("operator changed from sums to Probe"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_a_function_names_operator_and_key() {
    let past: OnRows = |_, payments, context| {
        context.register_timer(payments[0].at.ms() - 20_000)?;
        Ok(Vec::new())
    };
    let without_mode: OnRows = |_, _, context| {
        context.register_timer(1)?;
        Ok(Vec::new())
    };
    let none: OnTimer = |_, _, _| Ok(Vec::new());
    let cases: Vec<(TransformWithState, &str)> = vec![
        (
            Probe::declare(TimeMode::EventTime, TtlConfig::NONE, past, none),
            "that is in the past, the watermark is 0 ms",
        ),
        (Probe::of_rows(without_mode), "there are no timers without a time mode"),
        (Probe::of_rows(|_, _, _| Err(Error::unavailable("the bank is closed"))), "the bank is closed"),
        (Probe::of_rows(|_, _, _| panic!("no money")), "the function panicked: no money"),
    ];
    for (transform, part) in cases {
        let world = World::new();
        world.pay(&[payment(10, "a", 1)]);
        let words = world.refused(transform).await;
        for part in [part, "transform_with_state 'Probe' (operator 0)", "key (card=a)"] {
            assert!(words.contains(part), "'{part}' is not in: {words}");
        }
    }
    let world = World::new();
    world.pay(&[payment(10, "a", 1)]);
    let other = Probe::of_output(Payment::schema(), TimeMode::None, TtlConfig::NONE, add_up, none);
    let words = world.refused(other).await;
    assert!(words.contains("what: Utf8), the declared output is (at: "), "{words}");
}

/// Declares what it is told.
struct Declares(fn(&mut StateHandle) -> Result<()>);

impl StatefulProcessor for Declares {
    fn init(&mut self, handle: &mut StateHandle) -> Result<()> {
        (self.0)(handle)
    }

    fn handle_input_rows(
        &mut self,
        _: &GroupKey<'_>,
        _: &RecordBatch,
        _: &mut ProcessorContext,
    ) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_declared_is_refused_before_anything_starts() {
    let world = World::new();
    let session = world.session(1);
    let ttl: fn(&mut StateHandle) -> Result<()> = |handle| {
        handle.value_state::<i64>("total", TtlConfig::new(Duration::from_secs(1)))?;
        Ok(())
    };
    let twice: fn(&mut StateHandle) -> Result<()> = |handle| {
        handle.value_state::<i64>("total", TtlConfig::NONE)?;
        handle.list_state::<i64>("Total", TtlConfig::NONE)?;
        Ok(())
    };
    let named: fn(&mut StateHandle) -> Result<()> = |handle| {
        handle.map_state::<i64, i64>("a/b", TtlConfig::NONE)?;
        Ok(())
    };
    for (init, mode, part) in [
        (ttl, TimeMode::EventTime, "has a TTL, which is counted in processing time, and the time mode is event time"),
        (twice, TimeMode::None, "two state variables are called 'total'"),
        (named, TimeMode::None, "'a/b' cannot be the name of a state variable"),
    ] {
        let transform = TransformWithState::new(Said::schema(), mode, move || Declares(init));
        let declared = world.stream(&session).transform_with_state(vec![col("card")], transform);
        let words = declared.unwrap_err().to_string();
        assert!(words.contains(part) && words.contains("'Declares'"), "{words}");
    }
    let no_key = world.stream(&session).transform_with_state(Vec::new(), ledger());
    assert!(no_key.unwrap_err().to_string().contains("needs a key"));
    let table = session.sql("SELECT 'a' AS card").await.unwrap().transform_with_state(vec![col("card")], ledger());
    assert_eq!(table.unwrap_err().kind(), ErrorKind::Unsupported);
    let time = world.stream(&session).transform_with_state(vec![col("card")], ledger().output_event_time("card"));
    assert!(time.unwrap_err().to_string().contains("must be a TIMESTAMP, it is Utf8"));
}
