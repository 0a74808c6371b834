//! A checkpoint whose store fails at its k-th call, for every k: the query ends with an error that names the path, or
//! goes on where that does no harm; and a run on the store when it works again gives the answer of an unbroken run.
//!
//! A call fails before it has done anything, or after it has done all: who gets an error knows neither. Two writers on one
//! store are interleaved at every call: one goes on, the other is fenced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use millstream::error::Result;
use millstream::prelude::*;
use millstream::storage::{DurableStore, ObjectBackedStore};
use object_store::memory::InMemory;
use tokio::sync::{Notify, watch};

use crate::collected::Collected;
use crate::counted::{run, start, stream, unbroken};

/// A store of durable files in memory.
pub(crate) fn memory() -> Arc<dyn DurableStore> {
    Arc::new(ObjectBackedStore::new(Arc::new(InMemory::new()), object_store::path::Path::from("checkpoint")))
}

/// What becomes of the k-th call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    FailsUndone,
    FailsDone,
    /// It waits until it is released.
    Waits,
}

/// What all folders of one store share.
#[derive(Debug)]
struct Calls {
    trouble: Trouble,
    at: usize,
    made: AtomicUsize,
    /// The call that met the trouble: what it was to do, and the path.
    met: watch::Sender<Option<(&'static str, String)>>,
    released: Notify,
}

/// A store that works but for one call.
#[derive(Debug, Clone)]
struct Troubled {
    inner: Arc<dyn DurableStore>,
    calls: Arc<Calls>,
}

impl Troubled {
    fn new(inner: &Arc<dyn DurableStore>, trouble: Trouble, at: usize) -> Self {
        let (made, met, released) = (AtomicUsize::new(0), watch::Sender::new(None), Notify::new());
        Self { inner: Arc::clone(inner), calls: Arc::new(Calls { trouble, at, made, met, released }) }
    }

    fn met(&self) -> Option<(&'static str, String)> {
        self.calls.met.borrow().clone()
    }

    async fn call<T>(&self, doing: &'static str, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let calls = &self.calls;
        if calls.made.fetch_add(1, Ordering::SeqCst) != calls.at {
            return work.await;
        }
        let path = format!("{}/{name}", self.inner.location());
        if calls.trouble == Trouble::FailsDone {
            work.await?;
            calls.met.send_replace(Some((doing, path.clone())));
            return Err(Error::unavailable(format!("cannot {doing} {path}: the test says so")));
        }
        calls.met.send_replace(Some((doing, path.clone())));
        if calls.trouble == Trouble::Waits {
            calls.released.notified().await;
            return work.await;
        }
        Err(Error::unavailable(format!("cannot {doing} {path}: the test says so")))
    }
}

#[async_trait]
impl DurableStore for Troubled {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        self.call("create", name, self.inner.create(name, bytes)).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.call("read", name, self.inner.read(name)).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.call("list", folder, self.inner.list(folder)).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<bool> {
        self.call("rename", from, self.inner.rename(from, to)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.call("delete", name, self.inner.delete(name)).await
    }

    fn below(&self, folder: &str) -> Arc<dyn DurableStore> {
        Arc::new(Self { inner: self.inner.below(folder), calls: Arc::clone(&self.calls) })
    }
}

/// Lets every call fail in turn. Returns how many ended a query, and which did no harm.
async fn every_call_fails(trouble: Trouble) -> (usize, Vec<&'static str>) {
    let expected = unbroken().await;
    let (mut ended, mut harmless) = (0, Vec::new());
    for at in 0.. {
        let (stream, sink, store) = (stream(), Collected::default(), memory());
        let troubled = Troubled::new(&store, trouble, at);
        let outcome = run(&stream, &sink, Arc::new(troubled.clone())).await;
        let Some((doing, path)) = troubled.met() else {
            outcome.unwrap();
            break;
        };
        match outcome {
            Ok(()) => harmless.push(doing),
            Err(error) => {
                ended += 1;
                assert!(error.to_string().contains(&path), "call {at}, {doing} {path}: {error}");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "call {at}, {doing} {path}: {error}");
            }
        }
        let again = run(&stream, &sink, store).await;
        again.unwrap_or_else(|error| panic!("call {at}, {doing} {path}: the next run: {error}"));
        assert_eq!(sink.batches(), expected, "call {at}, {doing} {path}");
    }
    (ended, harmless)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_before_it_has_done_anything() {
    let (ended, harmless) = every_call_fails(Trouble::FailsUndone).await;
    assert!(ended > 30, "{ended}");
    // What undecided batches left is looked for once a run has decided one: to fail in that harms nobody.
    assert!(!harmless.is_empty() && harmless.iter().all(|doing| *doing == "list"), "{harmless:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_after_it_has_done_all() {
    let (ended, harmless) = every_call_fails(Trouble::FailsDone).await;
    assert!(ended > 30, "{ended}");
    assert!(!harmless.is_empty() && harmless.iter().all(|doing| *doing == "list"), "{harmless:?}");
}

/// The greatest number among the files of a folder of `store`.
async fn newest(store: &Arc<dyn DurableStore>, folder: &str) -> Option<i64> {
    let names = store.list(folder).await.unwrap();
    names.iter().filter_map(|name| name.parse().ok()).max()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_goes_on_wherever_the_other_stands() {
    let expected = unbroken().await;
    let last = expected.keys().max().copied();
    let (mut fenced, mut idle) = (0, 0);
    for at in 0.. {
        let (stream, sink, store) = (stream(), Collected::default(), memory());
        let troubled = Troubled::new(&store, Trouble::Waits, at);
        let mut met = troubled.calls.met.subscribe();
        let mut first = tokio::spawn({
            let (stream, sink, troubled) = (stream.clone(), sink.clone(), Arc::new(troubled.clone()));
            async move { start(&stream, &sink, troubled).await?.await_termination().await }
        });
        let stands = tokio::select! {
            biased;
            met = met.wait_for(Option::is_some) => met.unwrap().clone().unwrap(),
            ended = &mut first => {
                ended.unwrap().unwrap();
                break;
            }
        };
        let decided = newest(&store, "commits").await;
        run(&stream, &sink, Arc::clone(&store)).await.unwrap();
        let other = newest(&store, "runs").await;
        troubled.calls.released.notify_one();
        match first.await.unwrap() {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Fenced, "call {at}, {stands:?}: {error}");
                fenced += 1;
            }
            // It had nothing left to decide; or had no number yet that counts, and took one after the other had ended.
            Ok(()) => {
                let took_over = newest(&store, "runs").await > other;
                assert!(decided == last || took_over, "call {at}, {stands:?}: two writers went on");
                idle += 1;
            }
        }
        assert_eq!(sink.batches(), expected, "call {at}, {stands:?}");
    }
    assert!(fenced > 20 && idle > 0, "{fenced} fenced, {idle} with nothing to do");
}
