//! Who is told when a query starts, makes progress, idles and ends.
//!
//! An application (or the shell) registers a [`StreamingQueryListener`]; every query of the session tells
//! [`Listeners`]. The invariant: a listener that panics harms neither the query nor the other listeners.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::Serialize;

use super::progress::StreamingQueryProgress;
use crate::error::panic_words;

/// A query has started: told once, before its first batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryStarted {
    /// The query's id: the same in every run on one checkpoint.
    pub id: String,
    /// The run's own id.
    pub run_id: String,
    /// The query's or flow's name, if it has one.
    pub name: Option<String>,
    /// When it started, as ISO 8601 in UTC.
    pub timestamp: String,
    /// The tags that the application gave it.
    pub job_tags: Vec<String>,
}

/// A query looked for new data and found none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryIdle {
    /// The query's id.
    pub id: String,
    /// The run's own id.
    pub run_id: String,
    /// When it looked, as ISO 8601 in UTC.
    pub timestamp: String,
}

/// A query has ended: told once, after everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryTerminated {
    /// The query's id.
    pub id: String,
    /// The run's own id.
    pub run_id: String,
    /// The error it died of, in words; `None` where it ended well or was stopped.
    pub exception: Option<String>,
    /// The kind of that error.
    pub error_class_on_exception: Option<String>,
}

/// Is told what the queries of a session do.
///
/// The methods run on the query's own task, between batches: one that takes long delays the next batch.
pub trait StreamingQueryListener: Send + Sync {
    /// Called when a query has started.
    fn on_query_started(&self, _event: &QueryStarted) {}

    /// Called after each batch.
    fn on_query_progress(&self, _progress: &StreamingQueryProgress) {}

    /// Called when a query finds nothing new to do.
    fn on_query_idle(&self, _event: &QueryIdle) {}

    /// Called when a query has ended, well or not.
    fn on_query_terminated(&self, _event: &QueryTerminated) {}
}

/// Names a registered listener, to remove it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(u64);

/// The listeners of a session. Clones share one list.
#[derive(Clone, Default)]
pub struct Listeners {
    registered: Arc<RwLock<Registered>>,
}

#[derive(Default)]
struct Registered {
    next_id: u64,
    all: Vec<(ListenerId, Arc<dyn StreamingQueryListener>)>,
}

impl Listeners {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener; it is told after those that were added before it.
    pub fn add(&self, listener: Arc<dyn StreamingQueryListener>) -> ListenerId {
        let mut registered = self.write();
        let id = ListenerId(registered.next_id);
        registered.next_id += 1;
        registered.all.push((id, listener));
        id
    }

    /// Removes a listener and returns whether it was there.
    pub fn remove(&self, id: ListenerId) -> bool {
        let mut registered = self.write();
        let before = registered.all.len();
        registered.all.retain(|(registered_id, _)| *registered_id != id);
        registered.all.len() < before
    }

    /// Returns the listeners, in the order in which they are told.
    pub fn list(&self) -> Vec<(ListenerId, Arc<dyn StreamingQueryListener>)> {
        self.read().all.clone()
    }

    /// Tells every listener that a query has started.
    pub fn notify_started(&self, event: &QueryStarted) {
        self.notify("on_query_started", |listener| listener.on_query_started(event));
    }

    /// Tells every listener of a batch.
    pub fn notify_progress(&self, progress: &StreamingQueryProgress) {
        self.notify("on_query_progress", |listener| listener.on_query_progress(progress));
    }

    /// Tells every listener that a query found nothing new.
    pub fn notify_idle(&self, event: &QueryIdle) {
        self.notify("on_query_idle", |listener| listener.on_query_idle(event));
    }

    /// Tells every listener that a query has ended.
    pub fn notify_terminated(&self, event: &QueryTerminated) {
        self.notify("on_query_terminated", |listener| listener.on_query_terminated(event));
    }

    fn notify(&self, event: &str, tell: impl Fn(&dyn StreamingQueryListener)) {
        // The list is copied, so that a listener may add and remove listeners, itself included.
        for (id, listener) in self.list() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(listener.as_ref()))) {
                tracing::error!(
                    "listener {} panicked in {event}: {}; the query goes on",
                    id.0,
                    panic_words(panic.as_ref())
                );
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Registered> {
        self.registered.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registered> {
        self.registered.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("registered", &self.read().all.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl StreamingQueryListener for Recorder {
        fn on_query_started(&self, event: &QueryStarted) {
            self.0.lock().unwrap().push(format!("started {}", event.run_id));
        }

        fn on_query_idle(&self, event: &QueryIdle) {
            self.0.lock().unwrap().push(format!("idle {}", event.run_id));
        }
    }

    struct Panics;

    impl StreamingQueryListener for Panics {
        fn on_query_started(&self, _: &QueryStarted) {
            panic!("a listener's own bug");
        }
    }

    fn started(run_id: &str) -> QueryStarted {
        QueryStarted {
            id: "q".into(),
            run_id: run_id.into(),
            name: None,
            timestamp: "2026-01-01T00:00:00.000Z".into(),
            job_tags: vec![],
        }
    }

    #[test]
    fn a_panicking_listener_silences_no_other() {
        let listeners = Listeners::new();
        let recorder = Arc::new(Recorder::default());
        listeners.add(Arc::new(Panics));
        listeners.add(Arc::clone(&recorder) as Arc<dyn StreamingQueryListener>);
        listeners.notify_started(&started("r1"));
        listeners.notify_started(&started("r2"));
        assert_eq!(*recorder.0.lock().unwrap(), ["started r1", "started r2"]);
    }

    #[test]
    fn a_removed_listener_hears_nothing() {
        let listeners = Listeners::new();
        let recorder = Arc::new(Recorder::default());
        let kept = listeners.add(Arc::clone(&recorder) as Arc<dyn StreamingQueryListener>);
        let removed = listeners.add(Arc::clone(&recorder) as Arc<dyn StreamingQueryListener>);
        assert!(listeners.clone().remove(removed), "clones share one list");
        assert!(!listeners.remove(removed));
        assert_eq!(listeners.list().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [kept]);
        let event = QueryIdle { id: "q".into(), run_id: "r1".into(), timestamp: "2026-01-01T00:00:00.000Z".into() };
        listeners.notify_idle(&event);
        assert_eq!(*recorder.0.lock().unwrap(), ["idle r1"]);
    }

    #[test]
    fn events_have_sparks_fields() {
        let event = QueryTerminated {
            id: "q".into(),
            run_id: "r1".into(),
            exception: None,
            error_class_on_exception: Some("fenced".into()),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"id":"q","runId":"r1","exception":null,"errorClassOnException":"fenced"}"#
        );
    }
}
