//! Looks at all queues on which calls wait although there is nothing, in one statement after each change of
//! the control plane. A queue costs nothing while nothing changes.

use crate::pulse::{Beat, Listener, Pulse};
use crate::rounds::{self, Rounds};
use millpond_core::queue::{Outlook, OutlookRequest};
use millpond_core::{ControlPlane, LeaseId, QueueId, Scope};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Shortest pause between two looks.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The queues that are looked at.
pub struct Lookout {
    plane: Arc<dyn ControlPlane>,
    pulse: Arc<Pulse>,
    watched: Mutex<HashMap<QueueId, Watched>>,
    /// Wakes the task when there is a queue to look at.
    asked: Notify,
    next_id: AtomicU64,
}

struct Watched {
    /// Of its watch.
    id: u64,
    scope: Scope,
    /// Leases that calls which came since the last look name.
    leases: Vec<LeaseId>,
    /// Whether calls wait.
    active: bool,
    last: watch::Sender<Option<Look>>,
}

/// What was seen of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When the look began, and the pulse just before.
    began: Instant,
    changes: u64,
    /// `None`: the queue does not exist.
    outlook: Option<Outlook>,
}

impl Look {
    /// Whether to ask for a grant, which finds something or answers what is wrong.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.outlook.is_none_or(|o| o.ready)
    }

    /// The version of the queue's configuration; `None` if there is no such queue.
    #[must_use]
    pub fn version(&self) -> Option<i64> {
        self.outlook.map(|o| o.version)
    }

    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.outlook.is_some_and(|o| o.paused)
    }

    /// The time by the control plane's clock, and the time that is left until the next record is due.
    #[must_use]
    pub fn times(&self) -> (i64, Option<Instant>) {
        let Some(outlook) = self.outlook else { return (0, None) };
        let after = |due: i64| Duration::from_millis(u64::try_from(due - outlook.at_ms).unwrap_or(0) + 1);
        let since = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(0);
        (outlook.at_ms + since, outlook.next_due_ms.map(|due| self.began + after(due)))
    }
}

/// The watch of one queue. It ends when dropped.
pub struct LookoutWatch {
    id: u64,
    lookout: Arc<Lookout>,
    queue: QueueId,
    last: watch::Receiver<Option<Look>>,
    /// While calls wait.
    listener: Option<Listener>,
}

impl Lookout {
    /// Starts the task.
    #[must_use]
    pub fn start(plane: Arc<dyn ControlPlane>, pulse: Arc<Pulse>) -> Arc<Self> {
        let watched = Mutex::new(HashMap::new());
        let (asked, next_id) = (Notify::new(), AtomicU64::new(0));
        let lookout = Arc::new(Self { plane, pulse, watched, asked, next_id });
        rounds::start(&lookout);
        lookout
    }

    /// Watches a queue, in place of any other watch of it.
    #[must_use]
    pub fn watch(self: &Arc<Self>, scope: &Scope, queue: QueueId) -> LookoutWatch {
        let last = watch::Sender::new(None);
        let receiver = last.subscribe();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let watched = Watched { id, scope: scope.clone(), leases: Vec::new(), active: false, last };
        self.watched.lock().insert(queue, watched);
        LookoutWatch { id, lookout: Arc::clone(self), queue, last: receiver, listener: None }
    }

    /// The queues on which calls wait and whose last look is older than the last change.
    fn outdated(&self, beat: Beat) -> Vec<OutlookRequest> {
        let watched = self.watched.lock();
        let outdated = watched
            .iter()
            .filter(|(_, w)| w.active && w.last.borrow().is_none_or(|look| look.changes != beat.changes));
        let request = |(queue, w): (&QueueId, &Watched)| OutlookRequest {
            scope: w.scope.clone(),
            queue: *queue,
            leases: w.leases.clone(),
        };
        outdated.map(request).collect()
    }
}

impl Rounds for Lookout {
    /// Waits until a queue has to be looked at, then looks at all such queues at once.
    async fn round(&self) -> Duration {
        let mut beats = self.pulse.beats();
        let beat = *beats.borrow_and_update();
        let requests = self.outdated(beat);
        if requests.is_empty() {
            tokio::select! {
                () = self.asked.notified() => {}
                _ = beats.changed() => {}
                () = tokio::time::sleep(rounds::IDLE_WAIT_MAX) => {}
            }
            return Duration::ZERO;
        }
        let began = Instant::now();
        match self.plane.outlook(&requests).await {
            Ok(outlooks) => {
                let by_queue: HashMap<QueueId, Outlook> =
                    outlooks.into_iter().map(|o| (o.queue, o)).collect();
                let mut watched = self.watched.lock();
                for request in &requests {
                    let outlook = by_queue.get(&request.queue).copied();
                    let look = Look { began, changes: beat.changes, outlook };
                    if let Some(watched) = watched.get_mut(&request.queue) {
                        watched.leases.retain(|lease| !request.leases.contains(lease));
                        // A call that came meanwhile names a lease that was not looked for.
                        watched.last.send_replace(Some(look).filter(|_| watched.leases.is_empty()));
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "looking at queues failed");
            }
        }
        rounds::spaced(began, LOOK_PAUSE_MIN)
    }
}

impl LookoutWatch {
    /// Calls wait from now on. `leases`: those that they name, to be looked for.
    pub fn resume(&mut self, leases: impl IntoIterator<Item = LeaseId>) {
        self.change(|watched| {
            watched.active = true;
            watched.leases.extend(leases);
            if !watched.leases.is_empty() {
                watched.last.send_replace(None);
            }
        });
        if self.listener.is_none() {
            self.listener = Some(self.lookout.pulse.listen());
        }
        self.lookout.asked.notify_one();
    }

    /// No call waits any more.
    pub fn pause(&mut self) {
        self.change(|watched| watched.active = false);
        self.listener = None;
    }

    /// Forgets what was seen, since it was before a grant.
    pub fn forget(&mut self) {
        self.change(|watched| {
            watched.leases.clear();
            watched.last.send_replace(None);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Watched)) {
        let mut watched = self.lookout.watched.lock();
        if let Some(watched) = watched.get_mut(&self.queue).filter(|watched| watched.id == self.id) {
            change(watched);
        }
    }

    /// Returns when the queue was looked at, and is ready or has another version than this one.
    pub async fn news(&mut self, version: Option<i64>) -> Option<Look> {
        let is_news = |look: &Option<Look>| look.is_some_and(|l| l.is_ready() || l.version() != version);
        self.last.wait_for(is_news).await.ok().and_then(|look| *look)
    }

    /// What was seen last, if nothing changed since as far as is known.
    #[must_use]
    pub fn last(&self) -> Option<Look> {
        let changes = self.lookout.pulse.beats().borrow().changes;
        (*self.last.borrow()).filter(|look| look.changes == changes)
    }

    /// What the queue looks like at some moment after `since`, asked for as soon as possible.
    pub async fn look_after(&mut self, since: Instant) -> Look {
        let mut beats = self.lookout.pulse.beats();
        loop {
            let beat = *beats.borrow_and_update();
            let last = *self.last.borrow_and_update();
            match last {
                Some(look) if look.began >= since => return look,
                Some(look) if look.changes == beat.changes && beat.began >= since => return look,
                Some(look) if look.changes == beat.changes => {
                    if let Some(listener) = &self.listener {
                        listener.hurry();
                    }
                }
                _ => self.lookout.asked.notify_one(),
            }
            tokio::select! {
                _ = beats.changed() => {}
                _ = self.last.changed() => {}
            }
        }
    }

    /// Asks for a beat of the pulse at once, since something has changed.
    pub fn hurry(&self) {
        if let Some(listener) = &self.listener {
            listener.hurry();
        }
    }
}

impl Drop for LookoutWatch {
    fn drop(&mut self) {
        let mut watched = self.lookout.watched.lock();
        if watched.get(&self.queue).is_some_and(|watched| watched.id == self.id) {
            watched.remove(&self.queue);
        }
    }
}
