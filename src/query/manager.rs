//! The queries of one session.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{FutureExt, select_all};

use super::listener::{ListenerId, Listeners, StreamingQueryListener};
use super::streaming_query::StreamingQuery;
use crate::error::{Error, Result};

/// Knows every query that a session started. Clones share one list.
#[derive(Clone, Default)]
pub struct StreamingQueryManager {
    queries: Arc<Mutex<Vec<StreamingQuery>>>,
    listeners: Listeners,
}

impl std::fmt::Debug for StreamingQueryManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamingQueryManager").field("active", &self.active()).finish()
    }
}

impl StreamingQueryManager {
    /// Makes a manager of no queries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the queries that have not ended.
    pub fn active(&self) -> Vec<StreamingQuery> {
        self.all().into_iter().filter(StreamingQuery::is_active).collect()
    }

    /// Returns the active query with this id or name.
    pub fn get(&self, id_or_name: &str) -> Option<StreamingQuery> {
        self.active().into_iter().find(|q| q.id() == id_or_name || q.name() == id_or_name)
    }

    /// Returns the query with this id or name that was started last, whether it has ended or not. One that has ended
    /// is known until [`StreamingQueryManager::reset_terminated`].
    pub fn newest(&self, id_or_name: &str) -> Option<StreamingQuery> {
        self.all().into_iter().rfind(|q| q.id() == id_or_name || q.name() == id_or_name)
    }

    /// Checks that this is a name, and that no active query has it.
    ///
    /// # Errors
    /// `InvalidQuery` where it is empty or taken.
    pub fn check_name(&self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid_query("a query's name is empty: give it one, or none at all"));
        }
        if self.active().iter().any(|q| q.name() == name) {
            return Err(Error::invalid_query(format!(
                "a query called '{name}' is running: stop it first, or choose another name"
            )));
        }
        Ok(())
    }

    /// Waits until any query ends. Returns at once where one has ended since [`StreamingQueryManager::reset_terminated`].
    ///
    /// # Errors
    /// What ended that query.
    pub async fn await_any_termination(&self) -> Result<()> {
        let all = self.all();
        if all.is_empty() {
            return Ok(());
        }
        let waits: Vec<_> = all.iter().map(|q| q.await_termination().boxed()).collect();
        select_all(waits).await.0
    }

    /// Forgets the queries that have ended.
    pub fn reset_terminated(&self) {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).retain(StreamingQuery::is_active);
    }

    /// Adds a listener; it hears of every query from now on.
    pub fn add_listener(&self, listener: Arc<dyn StreamingQueryListener>) -> ListenerId {
        self.listeners.add(listener)
    }

    /// Removes a listener; returns whether it was there.
    pub fn remove_listener(&self, id: ListenerId) -> bool {
        self.listeners.remove(id)
    }

    /// Returns the listeners.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Stops every active query and waits until all have ended.
    ///
    /// # Errors
    /// The first error that ended one of them meanwhile.
    pub async fn stop_all(&self) -> Result<()> {
        let stops: Vec<_> = self.active().into_iter().map(|q| async move { q.stop().await }).collect();
        futures::future::join_all(stops).await.into_iter().collect()
    }

    /// Adds a query that was started.
    pub fn add(&self, query: StreamingQuery) {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).push(query);
    }

    fn all(&self) -> Vec<StreamingQuery> {
        self.queries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
