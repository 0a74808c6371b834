//! The memory that a query's state takes: reserved from DataFusion's pool before it is taken.
//!
//! An operator's stores in one lane are one consumer of the pool. Where the pool has a limit, state keeps to a part of it, so
//! that batches have room to be read and computed; and where a lane finds no room ([`StateMemory::hold`]), another leaves
//! memory: what it remembers is in its files, from which it comes back when it is opened. So state may be larger than
//! memory, and costs reading then. Without a limit nobody leaves.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, UnboundedMemoryPool,
};

use super::lane_state::LaneState;
use crate::error::Result;

/// A lane's state, which others may ask to leave memory while nobody has it locked.
pub type SharedLane = Arc<tokio::sync::Mutex<LaneState>>;

/// What the state of one query may take.
pub struct StateBudget {
    pool: Arc<dyn MemoryPool>,
    /// How many bytes all lanes together hold at most, as long as one can leave.
    most: Option<usize>,
    held: AtomicUsize,
    uses: AtomicU64,
    lanes: Mutex<Vec<Weak<tokio::sync::Mutex<LaneState>>>>,
}

impl StateBudget {
    /// State takes half of what `pool` has.
    pub fn of(pool: &Arc<dyn MemoryPool>) -> Arc<Self> {
        let most = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => Some(bytes / 2),
            _ => None,
        };
        let (held, uses, lanes) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Arc::new(Self { pool: Arc::clone(pool), most, held, uses, lanes })
    }

    /// For who reads the state of a checkpoint and keeps none.
    pub fn unbounded() -> Arc<Self> {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        Self::of(&pool)
    }

    /// Makes what `operator`, which is of `kind`, reserves for one lane: nothing yet.
    pub fn lane(self: &Arc<Self>, kind: &str, operator: usize, lane: usize) -> StateMemory {
        let consumer = MemoryConsumer::new(format!("state of {kind} {operator}, lane {lane}"));
        StateMemory { reservation: consumer.register(&self.pool), budget: Arc::clone(self) }
    }

    /// Whether state may have to leave memory.
    pub fn is_limited(&self) -> bool {
        self.most.is_some()
    }

    /// Lets a lane be asked to leave memory.
    pub fn admit(&self, lane: &SharedLane) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(lane));
    }

    /// Returns a number greater than any before.
    pub(super) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends the lane out of memory that was used last of those that can leave; returns whether there was one. Every batch
    /// opens all lanes in turn, so that one is the last to be needed again.
    fn send_one_out(&self) -> bool {
        let lanes: Vec<SharedLane> = {
            let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.iter().filter_map(Weak::upgrade).collect()
        };
        let last_used = lanes
            .iter()
            .filter_map(|lane| {
                lane.try_lock().ok().filter(|state| state.can_leave()).map(|state| (state.last_use(), lane))
            })
            .max_by_key(|(last_use, _)| *last_use);
        // Whoever has taken it meanwhile is using it: the caller looks again.
        if let Some((_, lane)) = last_used
            && let Ok(mut state) = lane.try_lock()
            && state.can_leave()
        {
            state.leave();
        }
        last_used.is_some()
    }
}

/// What one operator's state in one lane has reserved.
pub struct StateMemory {
    reservation: MemoryReservation,
    budget: Arc<StateBudget>,
}

impl fmt::Debug for StateMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.reservation.consumer().name(), self.reservation.size())
    }
}

impl StateMemory {
    /// Returns what all lanes share.
    pub(super) fn budget(&self) -> &StateBudget {
        &self.budget
    }

    /// Reserves `bytes` in all, more or less than before; other lanes leave memory for it where they must.
    ///
    /// # Errors
    /// `ResourcesExhausted` where the pool has no room; what was reserved before stays so.
    pub fn hold(&self, bytes: usize) -> Result<()> {
        while self.exceeds(bytes) && self.budget.send_one_out() {}
        loop {
            let refused = match self.resize(bytes) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            if !self.budget.send_one_out() {
                return Err(refused);
            }
        }
    }

    /// Reserves `bytes` beside what is held, where there is room; returns whether there was.
    pub fn holds_beside(&self, bytes: usize) -> bool {
        self.resize(self.reservation.size() + bytes).is_ok()
    }

    /// Whether state may have to leave memory.
    pub fn is_limited(&self) -> bool {
        self.budget.is_limited()
    }

    /// Gives all back.
    pub(super) fn release(&self) {
        self.budget.held.fetch_sub(self.reservation.free(), Ordering::Relaxed);
    }

    fn exceeds(&self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.reservation.size());
        more > 0 && self.budget.most.is_some_and(|most| self.budget.held.load(Ordering::Relaxed) + more > most)
    }

    fn resize(&self, bytes: usize) -> Result<()> {
        let before = self.reservation.size();
        self.reservation.try_resize(bytes)?;
        // A lane's reservation is changed by who has the lane locked only.
        match bytes.checked_sub(before) {
            Some(more) => self.budget.held.fetch_add(more, Ordering::Relaxed),
            None => self.budget.held.fetch_sub(before - bytes, Ordering::Relaxed),
        };
        Ok(())
    }
}

impl Drop for StateMemory {
    fn drop(&mut self) {
        self.release();
    }
}
