//! Ends leases whose deadline is past, while this agent serves any queue; for queues that nobody polls the
//! background job does.

use super::Shared;
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
const PARTS: i64 = 1_000;

pub struct Expiry {
    shared: Arc<Shared>,
    served: Mutex<Option<Instant>>,
    begun: Notify,
    /// Some leases have ended.
    ended: tokio::sync::watch::Sender<u64>,
}

impl Expiry {
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        let expiry = Arc::new(Self {
            shared,
            served: Mutex::new(None),
            begun: Notify::new(),
            ended: tokio::sync::watch::Sender::new(0),
        });
        let weak = Arc::downgrade(&expiry);
        tokio::spawn(async move {
            while let Some(expiry) = weak.upgrade() {
                let pause = expiry.round().await;
                drop(expiry);
                tokio::time::sleep(pause).await;
            }
        });
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

    /// Waits until a queue is served, ends what is to end, returns how long to wait for the next round.
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
        match self.shared.plane.expire(PARTS, self.shared.ids.unit()).await {
            Ok(0) => EVERY,
            Ok(parts) => {
                crate::metrics::leases_expired(parts);
                self.ended.send_modify(|n| *n += 1);
                if parts >= PARTS { Duration::ZERO } else { EVERY }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "ending expired leases failed");
                EVERY
            }
        }
    }
}
