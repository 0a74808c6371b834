//! A handle on a running query: what it does, what it did, and how to stop it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::execution::{Execution, QuerySettings};
use super::late_rows::LateTable;
use super::listener::{Listeners, QueryIdle, QueryStarted, QueryTerminated};
use super::progress::{RecentProgress, StreamingQueryProgress, StreamingQueryStatus, iso_ms};
use super::trigger::Trigger;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, caught};
use crate::plan::StreamPlan;
use crate::sink::{OutputMode, Sink};

/// What a run and its handles share.
pub struct QueryShared {
    id: String,
    run_id: String,
    name: String,
    explained: String,
    listeners: Listeners,
    status: Mutex<StreamingQueryStatus>,
    recent: Mutex<RecentProgress>,
    /// (triggers begun, the last that found nothing)
    triggers: watch::Sender<(u64, u64)>,
    outcome: watch::Sender<Option<Outcome>>,
}

/// How a query ended: by itself or by a stop, or with this error.
type Outcome = std::result::Result<(), Arc<Error>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueryShared {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(super) fn trigger_begins(&self) {
        self.triggers.send_modify(|(begun, _)| *begun += 1);
        let mut status = locked(&self.status);
        status.is_trigger_active = true;
        status.message = "Processing new data".to_string();
    }

    pub(super) fn trigger_found_nothing(&self) {
        self.triggers.send_modify(|(begun, nothing)| *nothing = *begun);
    }

    pub(super) fn ran(&self, progress: Arc<StreamingQueryProgress>, had_data: bool) {
        self.waits("Waiting for next trigger", had_data);
        locked(&self.recent).push(Arc::clone(&progress));
        self.listeners.notify_progress(&progress);
    }

    pub(super) fn idle(&self, progress: Arc<StreamingQueryProgress>, event: &QueryIdle) {
        self.waits("Waiting for data to arrive", false);
        // One idle progress says it; a query that waits all night must not push its batches out of the list.
        let mut recent = locked(&self.recent);
        if recent.last().is_none_or(|last| last.ran_batch()) {
            recent.push(progress);
        }
        drop(recent);
        self.listeners.notify_idle(event);
    }

    fn waits(&self, message: &str, data: bool) {
        let mut status = locked(&self.status);
        *status =
            StreamingQueryStatus { message: message.to_string(), is_data_available: data, is_trigger_active: false };
    }
}

/// Everything that starting a query needs.
pub struct QueryStart {
    /// The query's name: the flow's, or the application's.
    pub name: String,
    /// The plan.
    pub plan: StreamPlan,
    /// Settings.
    pub settings: QuerySettings,
    /// When batches run.
    pub trigger: Trigger,
    /// Where it remembers.
    pub checkpoint: Checkpoint,
    /// Where rows go.
    pub sink: Arc<dyn Sink>,
    /// Where rows go that came too late; without it they are only counted.
    pub late_table: Option<LateTable>,
    /// Who is told.
    pub listeners: Listeners,
}

/// A streaming query that was started. Clones are handles on the same query; dropping them does not stop it.
#[derive(Clone)]
pub struct StreamingQuery {
    shared: Arc<QueryShared>,
    stop: watch::Sender<bool>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl fmt::Debug for StreamingQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingQuery").field("name", &self.shared.name).field("id", &self.shared.id).finish()
    }
}

impl StreamingQuery {
    /// Recovers the query from its checkpoint and starts it on the current runtime. When this returns the query is
    /// running; its first batch may not have.
    ///
    /// # Errors
    /// Whatever recovery finds, such as `CheckpointIncompatible`.
    pub async fn start(start: QueryStart) -> Result<Self> {
        let QueryStart { name, plan, settings, trigger, checkpoint, sink, late_table, listeners } = start;
        if !sink.supports(plan.mode) {
            return Err(Error::unsupported(format!(
                "{} does not support {} mode; use append mode, or another sink (console, memory, noop and foreach_batch take \
                 all three)",
                sink.description(),
                plan.mode
            )));
        }
        if let Some(late) = late_table.as_ref().filter(|late| !late.sink.supports(OutputMode::Append)) {
            return Err(Error::unsupported(format!(
                "late rows only ever come: {} must support append mode",
                late.sink.description()
            )));
        }
        let (stop, stopped) = watch::channel(false);
        let (outcome, ended) = watch::channel(None);
        let explained = datafusion::physical_plan::displayable(plan.physical(false).as_ref()).indent(false).to_string();
        let shared = Arc::new(QueryShared {
            id: checkpoint.query_id().to_string(),
            run_id: uuid::Uuid::new_v4().to_string(),
            name,
            explained: format!("{}\n\n{explained}", plan.logical.display_indent()),
            listeners,
            status: Mutex::new(StreamingQueryStatus {
                message: "Initializing sources".to_string(),
                ..StreamingQueryStatus::default()
            }),
            recent: Mutex::default(),
            triggers: watch::channel((0, 0)).0,
            outcome,
        });
        let clock = Arc::clone(&settings.clock);
        let own_run = checkpoint.run().clone();
        let recovery = Execution::recover(Arc::clone(&shared), plan, settings, trigger, checkpoint, sink, late_table);
        let execution = match caught(|| "a source or sink that was opened".to_string(), recovery).await {
            Ok(execution) => execution,
            Err(error) => return Err(own_run.judge(error).await),
        };
        // What was read may be another's work by now: who found nothing left to do would take its end for its own.
        own_run.check().await?;
        shared.listeners.notify_started(&QueryStarted {
            id: shared.id.clone(),
            run_id: shared.run_id.clone(),
            name: Some(shared.name.clone()),
            timestamp: iso_ms(clock.now_ms()),
            job_tags: Vec::new(),
        });
        tokio::spawn(run(Arc::clone(&shared), execution, stopped));
        Ok(Self { shared, stop, outcome: ended })
    }

    /// Returns the query's id: the same in every run on one checkpoint.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Returns this run's id.
    pub fn run_id(&self) -> &str {
        &self.shared.run_id
    }

    /// Returns the query's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns whether it has not ended yet.
    pub fn is_active(&self) -> bool {
        self.outcome.borrow().is_none()
    }

    /// Returns what it is doing.
    pub fn status(&self) -> StreamingQueryStatus {
        locked(&self.shared.status).clone()
    }

    /// Returns the newest progress, or `None` before the first trigger ended.
    pub fn last_progress(&self) -> Option<Arc<StreamingQueryProgress>> {
        locked(&self.shared.recent).last()
    }

    /// Returns the progress of the newest batch among those that are kept: [`StreamingQuery::last_progress`] may tell
    /// of a trigger that found nothing.
    pub fn last_batch(&self) -> Option<Arc<StreamingQueryProgress>> {
        self.recent_progress().into_iter().rfind(|progress| progress.ran_batch())
    }

    /// Returns the newest progresses (at most 100), oldest first.
    pub fn recent_progress(&self) -> Vec<Arc<StreamingQueryProgress>> {
        locked(&self.shared.recent).to_vec()
    }

    /// Returns the error that ended it, if one did.
    pub fn exception(&self) -> Option<Arc<Error>> {
        self.outcome.borrow().as_ref().and_then(|outcome| outcome.as_ref().err().cloned())
    }

    /// Returns the logical and the physical plan as text.
    pub fn explain(&self) -> &str {
        &self.shared.explained
    }

    /// Stops the query: the batch that runs is finished, no other begins. Returns when it has ended.
    ///
    /// # Errors
    /// What ended the query, where that was not the stop.
    pub async fn stop(&self) -> Result<()> {
        self.stop.send_replace(true);
        self.await_termination().await
    }

    /// Waits until the query has ended: by itself (AVAILABLE NOW, ONCE), by a stop, or with an error.
    ///
    /// # Errors
    /// What ended the query.
    pub async fn await_termination(&self) -> Result<()> {
        let mut outcome = self.outcome.clone();
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Err(error))) => Err(Error::copy_of(error)),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::internal("the query's task is gone")),
        }
    }

    /// Waits until everything that was there when this was called has been processed. For tests: with a source that
    /// never pauses it never returns.
    ///
    /// # Errors
    /// What ended the query meanwhile.
    pub async fn process_all_available(&self) -> Result<()> {
        let mut triggers = self.shared.triggers.subscribe();
        let (begun, _) = *triggers.borrow_and_update();
        let settled = triggers.wait_for(|(_, nothing)| *nothing > begun);
        tokio::select! {
            _ = settled => Ok(()),
            ended = self.await_termination() => ended,
        }
    }
}

async fn run(shared: Arc<QueryShared>, mut execution: Execution, stopped: watch::Receiver<bool>) {
    let ended = match caught(|| "the query's task".to_string(), execution.run(stopped)).await {
        Ok(()) => Ok(()),
        Err(error) => Err(execution.checkpoint.run().judge(error).await),
    };
    let closing = async {
        execution.close().await;
        Ok(())
    };
    let ended = ended.and(caught(|| "a source or sink that was stopped".to_string(), closing).await);
    shared.waits(if ended.is_ok() { "Stopped" } else { "Terminated with exception" }, false);
    let event = QueryTerminated {
        id: shared.id.clone(),
        run_id: shared.run_id.clone(),
        exception: ended.as_ref().err().map(ToString::to_string),
        error_class_on_exception: ended.as_ref().err().map(|e| format!("{:?}", e.kind())),
    };
    // The task lets go of checkpoint and files before anybody is told that it has.
    drop(execution);
    shared.listeners.notify_terminated(&event);
    shared.outcome.send_replace(Some(ended.map_err(Arc::new)));
}
