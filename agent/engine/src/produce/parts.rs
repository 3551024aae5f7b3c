//! Pool of part ids that are registered with the control plane.

use millpond_core::{AgentId, Clock, ControlPlane, Error, PartId, RandomSource, limits};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Ids for segments. They are registered in groups, before any object is uploaded under them, so that the
/// control plane knows every object in the bucket. An idle agent registers nothing.
pub struct PartPool {
    plane: Arc<dyn ControlPlane>,
    agent: AgentId,
    random: Arc<RandomSource>,
    clock: Arc<dyn Clock>,
    /// Registered ids that are not taken yet, each with the time of its registration; oldest first.
    ready: Mutex<VecDeque<(PartId, Instant)>>,
}

impl PartPool {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        agent: AgentId,
        random: Arc<RandomSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self { plane, agent, random, clock, ready: Mutex::new(VecDeque::new()) })
    }

    /// A new id that is not registered. For inline payloads: their commit registers the id.
    #[must_use]
    pub fn unregistered(&self) -> PartId {
        PartId(self.random.uuid(self.clock.now_ms()))
    }

    /// Takes a registered id for one segment, which must be committed soon.
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
            None => Err(Error::NotApplied("other uploads took all registered segment ids".into())),
        }
    }

    /// The next id that is still usable, and the number of ids left. Ids registered too long ago are dropped:
    /// the control plane may abandon them before their commit.
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

    /// Registers new ids.
    async fn refill(&self) -> Result<(), Error> {
        let now = Instant::now();
        let ids: Vec<PartId> = (0..limits::PARTS_PER_REGISTRATION).map(|_| self.unregistered()).collect();
        self.plane.register_parts(self.agent, &ids).await?;
        self.ready.lock().extend(ids.into_iter().map(|id| (id, now)));
        Ok(())
    }
}
