//! Pool of part ids that are registered with the control plane.

use millpond_core::{AgentId, Clock, ControlPlane, Error, PartId, RandomSource, limits};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Ids for segments. They are registered in groups, before any object is uploaded under them, so that the
/// control plane knows every object in the bucket. An idle agent registers nothing, and one that seldom
/// uploads few.
pub struct PartPool {
    plane: Arc<dyn ControlPlane>,
    agent: AgentId,
    random: Arc<RandomSource>,
    clock: Arc<dyn Clock>,
    /// Registered ids that are not taken yet, each with the time of its registration; oldest first.
    ready: Mutex<VecDeque<(PartId, Instant)>>,
    /// Number of ids that the next registration takes.
    group: AtomicUsize,
    /// Whether a registration in the background is under way.
    refilling: AtomicBool,
}

/// Number of ids of the first registration, and of one after ids became too old.
const GROUP_MIN: usize = 4;

impl PartPool {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        agent: AgentId,
        random: Arc<RandomSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let (ready, group) = (Mutex::new(VecDeque::new()), AtomicUsize::new(GROUP_MIN));
        Arc::new(Self { plane, agent, random, clock, ready, group, refilling: AtomicBool::new(false) })
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
            if left <= self.group.load(Ordering::Relaxed) / 8 && !self.refilling.swap(true, Ordering::Relaxed)
            {
                let pool = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = pool.refill().await {
                        tracing::warn!(%error, "registering segment ids failed");
                    }
                    pool.refilling.store(false, Ordering::Relaxed);
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
            self.group.store(GROUP_MIN, Ordering::Relaxed);
        }
        (None, 0)
    }

    /// Registers new ids, each time twice as many as the last time.
    async fn refill(&self) -> Result<(), Error> {
        let now = Instant::now();
        let group = self.group.load(Ordering::Relaxed);
        let ids: Vec<PartId> = (0..group).map(|_| self.unregistered()).collect();
        self.plane.register_parts(self.agent, &ids).await?;
        self.group.store((group * 2).min(limits::PARTS_PER_REGISTRATION), Ordering::Relaxed);
        self.ready.lock().extend(ids.into_iter().map(|id| (id, now)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::control_plane::around::{Around, Wrapped};
    use millpond_core::{MemoryControlPlane, SystemClock};
    use uuid::Uuid;

    /// Counts the ids of each registration.
    #[derive(Default)]
    struct Registrations(Mutex<Vec<usize>>);

    impl Around for Registrations {
        async fn register_parts(
            &self,
            next: &Arc<dyn ControlPlane>,
            agent: AgentId,
            ids: &[PartId],
        ) -> Result<(), Error> {
            self.0.lock().push(ids.len());
            next.register_parts(agent, ids).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_seldom_uploads_registers_few_ids() {
        let registered = Arc::new(Registrations::default());
        let memory: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let plane = Arc::new(Wrapped::new(memory, Arc::clone(&registered)));
        let random = Arc::new(RandomSource::seeded(1));
        let pool = PartPool::new(plane, AgentId(Uuid::nil()), random, Arc::new(SystemClock));
        for _ in 0..5 {
            pool.take().await.expect("an id");
            tokio::time::sleep(Duration::from_millis(limits::PART_USABLE_MS)).await;
        }
        assert_eq!(*registered.0.lock(), [GROUP_MIN; 5]);
        for _ in 0..200 {
            pool.take().await.expect("an id");
            tokio::task::yield_now().await;
        }
        assert_eq!(*registered.0.lock().iter().max().expect("some"), limits::PARTS_PER_REGISTRATION);
    }
}
