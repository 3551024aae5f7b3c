//! Ends leases whose deadline has passed, while this agent serves any queue. For queues that no agent serves,
//! a background job does it.

use super::QueueRuntime;
use crate::rounds::{self, Rounds};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Pause between two rounds; also how long after its deadline a lease ends at the latest, while agents serve
/// queues.
const EXPIRE_PAUSE: Duration = Duration::from_millis(250);
/// How long after the last grant the agent goes on ending leases.
const ACTIVE_AFTER_GRANT: Duration = Duration::from_secs(60);
/// Lease parts that one statement ends at most.
const EXPIRE_MAX_PARTS: i64 = 1_000;

/// The task that ends leases.
pub struct Expiry {
    runtime: Arc<QueueRuntime>,
    /// Time of the last grant; `None` while inactive.
    last_served: Mutex<Option<Instant>>,
    /// Wakes the task when it becomes active.
    activated: Notify,
    /// Counts the statements that ended leases.
    ended: tokio::sync::watch::Sender<u64>,
}

impl Expiry {
    /// Starts the task.
    pub fn new(runtime: Arc<QueueRuntime>) -> Arc<Self> {
        let expiry = Arc::new(Self {
            runtime,
            last_served: Mutex::new(None),
            activated: Notify::new(),
            ended: tokio::sync::watch::Sender::new(0),
        });
        rounds::start(&expiry);
        expiry
    }

    /// A queue is being served: keeps the task active.
    pub fn serve(&self) {
        let idle = self.last_served.lock().replace(Instant::now()).is_none();
        if idle {
            self.activated.notify_one();
        }
    }

    /// A receiver that is notified whenever leases were ended.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.ended.subscribe()
    }
}

impl Rounds for Expiry {
    /// Waits until a queue is served, then ends leases once.
    async fn round(&self) -> Duration {
        let last_served = *self.last_served.lock();
        match last_served {
            None => {
                tokio::time::timeout(rounds::IDLE_WAIT_MAX, self.activated.notified()).await.ok();
                return Duration::ZERO;
            }
            Some(at) if at.elapsed() > ACTIVE_AFTER_GRANT => {
                *self.last_served.lock() = None;
                return Duration::ZERO;
            }
            Some(_) => {}
        }
        match self.runtime.plane.expire(EXPIRE_MAX_PARTS, self.runtime.random.unit()).await {
            Ok(0) => EXPIRE_PAUSE,
            Ok(parts) => {
                crate::metrics::leases_expired(parts);
                self.ended.send_modify(|n| *n += 1);
                if parts >= EXPIRE_MAX_PARTS { Duration::ZERO } else { EXPIRE_PAUSE }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "ending expired leases failed");
                EXPIRE_PAUSE
            }
        }
    }
}
