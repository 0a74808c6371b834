//! The memory that state takes: reserved from DataFusion's pool before it is taken.
//!
//! An operator's stores in one lane are one consumer of the pool. [`StateMemory::hold`] is the one place that finds out
//! that there is no room: state that can leave memory is to be asked here, before the query ends for want of it.

use std::fmt;
use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation, UnboundedMemoryPool};

use crate::error::Result;

/// What one operator's state in one lane has reserved.
pub struct StateMemory(MemoryReservation);

impl fmt::Debug for StateMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.0.consumer().name(), self.0.size())
    }
}

impl StateMemory {
    /// Reserves nothing yet, from `pool`, for `operator`, which is of `kind`.
    pub fn new(pool: &Arc<dyn MemoryPool>, kind: &str, operator: usize, lane: usize) -> Self {
        Self(MemoryConsumer::new(format!("state of {kind} {operator}, lane {lane}")).register(pool))
    }

    /// Reserves from no pool: for who reads the state of a checkpoint and keeps none.
    pub fn unbounded() -> Self {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        Self(MemoryConsumer::new("state").register(&pool))
    }

    /// Reserves `bytes` in all, more or less than before.
    ///
    /// # Errors
    /// `ResourcesExhausted` where the pool has no room; what was reserved before stays so.
    pub fn hold(&self, bytes: usize) -> Result<()> {
        Ok(self.0.try_resize(bytes)?)
    }

    /// Reserves `bytes` beside what is held, where there is room; returns whether there was.
    pub fn holds_beside(&self, bytes: usize) -> bool {
        self.0.try_grow(bytes).is_ok()
    }
}
