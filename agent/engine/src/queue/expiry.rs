//! Ends leases whose deadline is past, while this agent serves any queue; for queues that nobody polls the
//! background job does.

use super::QueueRuntime;
use crate::rounds::{self, Rounds};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A lease ends so long after its deadline at most, as far as agents are up that serve its queue.
const EVERY: Duration = Duration::from_millis(250);
/// After the last grant.
const SERVES_FOR: Duration = Duration::from_secs(60);
/// Lease parts that one statement ends.
const EXPIRE_MAX_PARTS: i64 = 1_000;

pub struct Expiry {
    runtime: Arc<QueueRuntime>,
    served: Mutex<Option<Instant>>,
    begun: Notify,
    /// Some leases have ended.
    ended: tokio::sync::watch::Sender<u64>,
}

impl Expiry {
    pub fn new(runtime: Arc<QueueRuntime>) -> Arc<Self> {
        let expiry = Arc::new(Self {
            runtime,
            served: Mutex::new(None),
            begun: Notify::new(),
            ended: tokio::sync::watch::Sender::new(0),
        });
        rounds::start(&expiry);
        expiry
    }

    /// A queue is being served.
    pub fn serve(&self) {
        let idle = self.served.lock().replace(Instant::now()).is_none();
        if idle {
            self.begun.notify_one();
        }
    }

    /// Changes whenever leases were ended.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.ended.subscribe()
    }
}

impl Rounds for Expiry {
    /// Waits until a queue is served, ends what is to end, says when the next round is due.
    async fn round(&self) -> Duration {
        let served = *self.served.lock();
        match served {
            None => {
                tokio::time::timeout(Duration::from_secs(5), self.begun.notified()).await.ok();
                return Duration::ZERO;
            }
            Some(at) if at.elapsed() > SERVES_FOR => {
                *self.served.lock() = None;
                return Duration::ZERO;
            }
            Some(_) => {}
        }
        match self.runtime.plane.expire(EXPIRE_MAX_PARTS, self.runtime.ids.unit()).await {
            Ok(0) => EVERY,
            Ok(parts) => {
                crate::metrics::leases_expired(parts);
                self.ended.send_modify(|n| *n += 1);
                if parts >= EXPIRE_MAX_PARTS { Duration::ZERO } else { EVERY }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "ending expired leases failed");
                EVERY
            }
        }
    }
}
