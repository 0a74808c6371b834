//! Runs that are cut off: the whole runtime of a script is torn down as soon as a batch is reported, wherever the other
//! tasks stand then. The next run has nothing but what is on disk.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::query::listener::StreamingQueryListener;
use millstream::query::progress::StreamingQueryProgress;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::watched::Watched;

/// How long a run may take, and how long a runtime may take to go.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says of each batch that was reported whether it is the run's last.
type IsLast = dyn FnMut(&StreamingQueryProgress) -> bool + Send;

/// Says when a run is to be cut off.
pub(crate) struct CutOff {
    is_last: Mutex<Box<IsLast>>,
    now: Notify,
}

impl CutOff {
    /// Cuts a run off after the first batch that `is_last` says so of.
    pub(crate) fn after(is_last: impl FnMut(&StreamingQueryProgress) -> bool + Send + 'static) -> Arc<Self> {
        Arc::new(Self { is_last: Mutex::new(Box::new(is_last)), now: Notify::new() })
    }
}

impl StreamingQueryListener for CutOff {
    fn on_query_progress(&self, progress: &StreamingQueryProgress) {
        let mut is_last = self.is_last.lock().unwrap();
        if progress.ran_batch() && (**is_last)(progress) {
            self.now.notify_one();
        }
    }
}

/// A run that is over.
pub(crate) struct Run {
    pub(crate) watched: Watched,
    /// Whether it ended by itself.
    pub(crate) ended: bool,
}

/// Runs a script until it ends or is cut off, on a runtime that is gone afterwards.
///
/// Fails where the script fails, or does not end.
pub(crate) fn run(script: &str, cut: Option<&Arc<CutOff>>) -> Result<Run, String> {
    let listeners = cut.map(|cut| Arc::clone(cut) as Arc<dyn StreamingQueryListener>);
    let watched = Watched::with_listeners(listeners.into_iter().collect());
    let runtime = runtime();
    let running = async {
        let cut_off = async {
            match cut {
                Some(cut) => cut.now.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cut_off => None,
            end = tokio::time::timeout(PATIENCE, watched.session.run_script(script)) => Some(end),
        }
    };
    let end = runtime.block_on(running);
    // Every task ends at its next await, in the middle of whatever it does. What holds a thread is waited for: of a
    // process that was killed no thread goes on either.
    runtime.shutdown_timeout(PATIENCE);
    match end {
        None => Ok(Run { watched, ended: false }),
        Some(Err(_)) => Err(format!("no end in {} s", PATIENCE.as_secs())),
        Some(Ok(Err(error))) => Err(format!("failed: {error}")),
        Some(Ok(Ok(()))) => Ok(Run { watched, ended: true }),
    }
}

/// Makes a runtime with two workers.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
