//! A session that is watched: what it prints, and what its queries report batch by batch.

use std::io::Write;
use std::sync::{Arc, Mutex};

use millstream::query::listener::StreamingQueryListener;
use millstream::query::progress::StreamingQueryProgress;
use millstream::session::Session;
use serde_json::Value;
use tokio::sync::watch;

/// A session together with its ears and eyes.
pub(crate) struct Watched {
    pub(crate) session: Session,
    pub(crate) reports: Arc<Reports>,
    printed: Arc<Mutex<Vec<u8>>>,
}

impl Watched {
    /// Makes a session that only these ears listen to.
    pub(crate) fn new() -> Self {
        Self::with_listeners(Vec::new())
    }

    /// Makes a session that others listen to as well.
    pub(crate) fn with_listeners(listeners: Vec<Arc<dyn StreamingQueryListener>>) -> Self {
        let printed = Arc::new(Mutex::new(Vec::<u8>::new()));
        let reports = Arc::new(Reports::default());
        let writer: Arc<Mutex<dyn Write + Send>> = Arc::clone(&printed) as Arc<Mutex<dyn Write + Send>>;
        let own = Arc::clone(&reports) as Arc<dyn StreamingQueryListener>;
        let builder = Session::builder().console_output(writer).listener(own);
        let session = listeners.into_iter().fold(builder, |builder, listener| builder.listener(listener)).build();
        Self { session, reports, printed }
    }

    /// Returns what was printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8(self.printed.lock().unwrap().clone()).unwrap()
    }

    /// Returns the batches that consoles printed as JSON.
    pub(crate) fn batches(&self) -> Vec<Value> {
        let printed = self.printed();
        let lines = printed.lines().filter(|line| is_batch(line));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}"))).collect()
    }

    /// Returns what else was printed: the rows of batch queries, as tables.
    pub(crate) fn text(&self) -> String {
        let printed = self.printed();
        printed.lines().filter(|line| !is_batch(line)).map(|line| format!("{line}\n")).collect()
    }
}

fn is_batch(line: &str) -> bool {
    line.starts_with("{\"flow\":")
}

/// The reports of all batches, in the order in which they came.
pub(crate) struct Reports {
    batches: watch::Sender<Vec<StreamingQueryProgress>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { batches: watch::Sender::new(Vec::new()) }
    }
}

impl Reports {
    /// Returns the reports so far.
    pub(crate) fn all(&self) -> Vec<StreamingQueryProgress> {
        self.batches.borrow().clone()
    }

    /// Waits until there are at least `count` reports.
    pub(crate) async fn at_least(&self, count: usize) {
        let mut batches = self.batches.subscribe();
        let _ = batches.wait_for(|batches| batches.len() >= count).await.unwrap();
    }
}

impl StreamingQueryListener for Reports {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        if progress.ran_batch() {
            self.batches.send_modify(|batches| batches.push(progress.clone()));
        }
    }
}
