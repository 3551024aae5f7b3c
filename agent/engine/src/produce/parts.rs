//! Part ids that the control plane already knows.

use millpond_core::{AgentId, Clock, ControlPlane, Error, Ids, PartId, limits};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Ids for segments, registered many at a time before anything is uploaded under them. While nothing is
/// written, nothing is registered.
pub struct PartPool {
    plane: Arc<dyn ControlPlane>,
    agent: AgentId,
    ids: Arc<Ids>,
    clock: Arc<dyn Clock>,
    ready: Mutex<VecDeque<(PartId, Instant)>>,
}

impl PartPool {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        agent: AgentId,
        ids: Arc<Ids>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self { plane, agent, ids, clock, ready: Mutex::new(VecDeque::new()) })
    }

    /// An id of its own, not known to the control plane: for inline payloads, whose commit makes it known.
    #[must_use]
    pub fn unregistered(&self) -> PartId {
        PartId(self.ids.uuid(self.clock.now_ms()))
    }

    /// A registered id, good for one segment whose commit follows soon.
    pub async fn take(self: &Arc<Self>) -> Result<PartId, Error> {
        let (id, left) = self.pop();
        if let Some(id) = id {
            if left == limits::PARTS_PER_REGISTRATION / 4 {
                let pool = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = pool.refill().await {
                        tracing::warn!(%error, "registering segment ids failed");
                    }
                });
            }
            return Ok(id);
        }
        self.refill().await?;
        match self.pop().0 {
            Some(id) => Ok(id),
            None => Err(Error::NotApplied("all registered segment ids are taken".into())),
        }
    }

    fn pop(&self) -> (Option<PartId>, usize) {
        let mut ready = self.ready.lock();
        let usable = Duration::from_millis(limits::PART_USABLE_MS / 2);
        while let Some((id, since)) = ready.pop_front() {
            if since.elapsed() < usable {
                return (Some(id), ready.len());
            }
        }
        (None, 0)
    }

    async fn refill(&self) -> Result<(), Error> {
        let now = Instant::now();
        let ids: Vec<PartId> = (0..limits::PARTS_PER_REGISTRATION).map(|_| self.unregistered()).collect();
        self.plane.register_parts(self.agent, &ids).await?;
        self.ready.lock().extend(ids.into_iter().map(|id| (id, now)));
        Ok(())
    }
}
