//! Panics in what is not the engine's own: functions, sources, sinks. The query ends with an error that says what it was,
//! others go on, and a run without the panic gives the answer of an unbroken run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use async_trait::async_trait;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use millstream::error::Result;
use millstream::prelude::*;
use millstream::source::{
    Offset, Planned, ReadContext, ReadLimit, Source, SourceContext, SourceProvider, SourceSpec, Split,
};
use millstream::storage::DurableStore;
use serde_json::json;

use crate::bad_input::{COLUMNS, Place};
use crate::collected::{Batches, Bomb, Collected};
use crate::counted::{counts, rows, schema};
use crate::disk::Table;
use crate::failing_store::memory;
use crate::payments::{OnRows, Probe, World, add_up, payment};

/// How many batches the source has, of how many splits each, of how many rows each.
const BATCHES: u64 = 4;
const SPLITS: i64 = 4;
const ROWS: i64 = 30;

/// A source of the test's own: so heavy that every batch runs in several tasks.
#[derive(Debug, Clone)]
struct Heavy(Bomb);

#[async_trait]
impl SourceProvider for Heavy {
    async fn schema(&self, _spec: &SourceSpec) -> Result<SchemaRef> {
        Ok(schema())
    }

    async fn create(&self, _spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Heavy {
    fn splits(batch: u64) -> Vec<Split> {
        let split = |number: i64| Split { description: json!(batch as i64 * SPLITS + number), weight: 1 << 20 };
        (0..SPLITS).map(split).collect()
    }
}

#[async_trait]
impl Source for Heavy {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn description(&self) -> String {
        "HeavySource".to_string()
    }

    async fn open(&self, _context: SourceContext) -> Result<()> {
        self.0.pass("source open");
        Ok(())
    }

    async fn fix_end(&self) -> Result<()> {
        self.0.pass("source fix_end");
        Ok(())
    }

    async fn plan(&self, start: Option<&Offset>, _limit: ReadLimit) -> Result<Option<Planned>> {
        let batch = start.map_or(0, |start| start.as_u64().unwrap());
        if batch == 2 {
            self.0.pass("source plan");
        }
        Ok((batch < BATCHES).then(|| Planned { end: json!(batch + 1), splits: Self::splits(batch) }))
    }

    async fn replay(&self, start: Option<&Offset>, _end: &Offset) -> Result<Vec<Split>> {
        Ok(Self::splits(start.map_or(0, |start| start.as_u64().unwrap())))
    }

    fn read(&self, split: &Split, context: ReadContext) -> Result<SendableRecordBatchStream> {
        let number = split.description.as_i64().unwrap();
        if number == 9 {
            self.0.pass("source read");
        }
        let bomb = self.0.clone();
        let all: Vec<usize> = (0..3).collect();
        let columns = context.projection.unwrap_or(all);
        let projected = Arc::new(schema().project(&columns).unwrap());
        let rows = futures::stream::once(async move {
            if number == 6 {
                bomb.pass("source rows");
                // A task of the source's own: its panic comes as the error of who waits for it.
                let task = tokio::task::spawn_blocking(move || bomb.pass("source task"));
                task.await.map_err(|e| Error::internal(format!("reading split {number}: {e}")))?;
            }
            Ok(rows(number, ROWS).project(&columns)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(projected, rows)))
    }

    async fn commit(&self, _end: &Offset) -> Result<()> {
        self.0.pass("source commit");
        Ok(())
    }

    async fn stop(&self) {
        self.0.pass("source stop");
    }
}

/// A scalar function that gives back what it is given.
fn same(bomb: &Bomb) -> ScalarUDF {
    let (bomb, calls) = (bomb.clone(), AtomicUsize::new(0));
    let same = move |arguments: &[ColumnarValue]| {
        // Not in the first batch.
        let first = match &arguments[0] {
            ColumnarValue::Array(values) if !values.is_empty() => values.as_primitive::<Int64Type>().value(0),
            _ => 0,
        };
        if calls.fetch_add(1, Ordering::SeqCst) > 0 && first > 2 * SPLITS * ROWS {
            bomb.pass("function");
        }
        Ok(arguments[0].clone())
    };
    create_udf("same", vec![DataType::Int64], DataType::Int64, Volatility::Volatile, Arc::new(same))
}

/// Runs the query, and another beside it.
async fn run(sink: &Collected, other: &Collected, stores: [&Arc<dyn DurableStore>; 2], lanes: usize) -> Result<()> {
    let session = Session::builder().lanes(lanes).build();
    let function = same(&sink.bomb);
    session.register_source("heavy", Arc::new(Heavy(sink.bomb.clone())));
    session.register_source("calm", Arc::new(Heavy(Bomb::default())));
    let start = async |format: &str, sink: &Collected, store: &Arc<dyn DurableStore>| {
        let mut frame = session.read_stream().format(format).load("").await?;
        if format == "heavy" {
            frame = frame.with_column("v", function.call(vec![col("v")]))?;
        }
        let writer = counts(frame)?.write_stream().trigger(Trigger::AvailableNow);
        writer.sink(Arc::new(sink.clone())).checkpoint_store(Arc::clone(store)).start("").await
    };
    let beside = start("calm", other, stores[1]).await;
    let ended = match start("heavy", sink, stores[0]).await {
        Ok(query) => query.await_termination().await,
        Err(error) => Err(error),
    };
    // The one beside it is not disturbed, unless it is the function that both call.
    let beside = beside.unwrap().await_termination().await;
    // The session lives.
    assert_eq!(session.sql("SELECT 1 + 1").await?.collect().await?[0].num_rows(), 1);
    beside?;
    ended
}

async fn unbroken(lanes: usize) -> Batches {
    let (sink, other) = (Collected::default(), Collected::default());
    run(&sink, &other, [&memory(), &memory()], lanes).await.unwrap();
    assert_eq!(sink.batches(), other.batches());
    assert!(sink.batches().values().filter(|rows| !rows.is_empty()).count() >= 3);
    sink.batches()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_panics_ends_its_query_alone_and_is_named() {
    let expected = unbroken(1).await;
    assert_eq!(unbroken(4).await, expected, "lanes change nothing");
    let points: [(&str, &str); 11] = [
        ("function", "function"),
        ("source open", "source"),
        ("source fix_end", "HeavySource"),
        ("source plan", "HeavySource"),
        ("source read", "source"),
        ("source rows", "source"),
        ("source task", "reading split 6"),
        ("source commit", "the query's task"),
        ("sink open", "sink"),
        ("sink prepare", "sink"),
        ("sink publish", "Collected"),
    ];
    for (point, named) in points.into_iter().chain([("source stop", "source"), ("sink stop", "sink")]) {
        for lanes in [1, 4] {
            let (sink, other, stores) = (Collected::default(), Collected::default(), [memory(), memory()]);
            sink.bomb.arm(point);
            let error = run(&sink, &other, [&stores[0], &stores[1]], lanes).await.unwrap_err();
            assert!(!sink.bomb.is_armed(), "{point}, {lanes} lanes: nothing went off");
            let words = error.to_string();
            assert!(words.contains(&format!("boom at {point}")) && words.contains(named), "{point}: {words}");
            assert_eq!(error.kind(), ErrorKind::Internal, "{point}: {words}");
            assert_eq!(other.batches(), expected, "{point}: the query beside it");
            let again = run(&sink, &other, [&stores[0], &stores[1]], lanes).await;
            again.unwrap_or_else(|error| panic!("{point}, {lanes} lanes: the next run: {error}"));
            assert_eq!(sink.batches(), expected, "{point}, {lanes} lanes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_over_a_batch_that_panics_gets_it_again() {
    let (store, bomb, sink) = (memory(), Bomb::default(), Collected::default());
    let run = async |bomb: &Bomb| {
        let session = Session::builder().lanes(2).build();
        session.register_source("calm", Arc::new(Heavy(Bomb::default())));
        let frame = session.read_stream().format("calm").load("").await?;
        let (bomb, seen) = (bomb.clone(), sink.clone());
        let writer = counts(frame)?.write_stream().trigger(Trigger::AvailableNow).foreach_batch(move |frame, id| {
            let (bomb, seen) = (bomb.clone(), seen.clone());
            async move {
                let rows = frame.collect().await?;
                if id == 1 {
                    bomb.pass("foreach_batch");
                }
                seen.add(id, &rows);
                Ok(())
            }
        });
        writer.checkpoint_store(Arc::clone(&store)).start("").await?.await_termination().await
    };
    bomb.arm("foreach_batch");
    let error = run(&bomb).await.unwrap_err();
    assert!(error.to_string().contains("boom at foreach_batch"), "{error}");
    run(&bomb).await.unwrap();
    assert_eq!(sink.batches(), unbroken(2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_state_that_panics_leaves_the_state_as_it_was() {
    let run = async |fails: bool| {
        let world = World::new();
        (0..4).for_each(|push| world.pay(&[payment(push, "a", push), payment(push, "b", 10 * push)]));
        let panics: OnRows = |total, payments, _| {
            total.update(1_000)?;
            assert!(payments.iter().all(|payment| payment.amount < 20), "too much");
            Ok(vec!["0".to_string()])
        };
        if fails {
            // A processor of the same name and variables.
            let words = world.refused(Probe::of_rows(panics)).await;
            assert!(words.contains("the function panicked: too much"), "{words}");
        }
        world.run(2, Probe::of_rows(add_up)).await.unwrap()
    };
    // What the panicking one had committed in its first batches is its own; the last said is what counts.
    let (whole, broken) = (run(false).await, run(true).await);
    assert_eq!(whole.len(), 8);
    assert!(broken.iter().any(|line| line == "b: 1020"), "two batches were decided before: {broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_script_the_other_flows_go_on() {
    let place = Place::new();
    let session = Session::new();
    let bomb = Bomb::default();
    let armed = bomb.clone();
    let give_back = move |arguments: &[ColumnarValue]| {
        armed.pass("flow");
        Ok(arguments[0].clone())
    };
    let types = vec![DataType::Int64];
    session.context().register_udf(create_udf(
        "same",
        types,
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(give_back),
    ));
    let script = place.stream("ev", COLUMNS, "")
        + &place.files("broken", "")
        + &place.files("whole", "")
        + &place.flow("bad", "append", "broken", "SELECT same(id) AS id FROM STREAM ev")
        + &place.flow("good", "append", "whole", "SELECT id FROM STREAM ev");
    bomb.arm("flow");
    let error = session.run_script(&script).await.unwrap_err();
    assert!(error.to_string().contains("flow bad") && error.to_string().contains("boom at flow"), "{error}");
    let count = async |table: &str| Table::parquet(place.path(&format!("out/{table}"))).rows().await.unwrap().len();
    assert_eq!(count("whole").await, 6);
    // The bomb has gone off: the function is as good as new, and so is the session.
    let again = Session::new();
    again.context().register_udf(same(&Bomb::default()));
    again.run_script(&script).await.unwrap();
    assert_eq!((count("whole").await, count("broken").await), (6, 6));
}
