//! The rest of a granter: calls wait, and the queue has nothing. No grant is sent until there may be some
//! record.

use super::super::call::LeaseCall;
use super::super::{Leased, ServedQueue};
use super::Granter;
use crate::fetch::watcher::Watch;
use millpond_core::queue::{LimitedBy, NoSuchQueue};
use millpond_core::{Error, LeaseId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a look at the queue, for calls whose wait is over, may take before a grant is sent instead.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest rest without telling the expiry that the queue is served.
const SERVE_PAUSE: Duration = Duration::from_secs(10);

impl Granter {
    /// Waits, without a statement of its own, until a grant may find something or no call is left, which is
    /// answered when its wait is over. `None` if the queue is no longer served.
    pub(super) async fn rest(
        &mut self,
        calls: &mut mpsc::Receiver<LeaseCall>,
        retries: &mut mpsc::UnboundedReceiver<LeaseCall>,
    ) -> Option<()> {
        let served = self.served.upgrade()?;
        let commits = self.runtime.watcher.commits();
        match self.rested_at.take() {
            // What this agent committed meanwhile is no news to wait for.
            Some(before) if before != commits => return Some(()),
            Some(_) => self.begin_watch(&served),
            None => self.lookout.forget(),
        }
        self.lookout.resume(self.waiting.iter().filter_map(named_lease));
        loop {
            self.drop_calls();
            if self.waiting.is_empty() {
                self.lookout.pause();
                self.rested_at = Some(self.runtime.watcher.commits());
                return Some(());
            }
            self.expiry.serve();
            if self.runtime.watcher.is_stopping() {
                return Some(());
            }
            let now = Instant::now();
            let trusts = self.distrusted_until.is_none_or(|until| now >= until);
            let due = self.lookout.last().and_then(|look| look.times().1);
            let first = self.waiting.iter().map(LeaseCall::ends_at).min();
            let until = first
                .into_iter()
                .chain(due)
                .chain(self.distrusted_until.filter(|_| !trusts))
                .fold(now + SERVE_PAUSE, Instant::min);
            tokio::select! {
                biased;
                look = self.lookout.news(self.version), if trusts => {
                    let Some(look) = look else { return Some(()) };
                    let before = std::mem::replace(&mut self.version, look.version());
                    if before.is_some() && before != look.version() {
                        self.read_again(&served).await;
                    }
                    if look.is_ready() {
                        self.looked_ready = true;
                        return Some(());
                    }
                }
                call = calls.recv() => {
                    let call = call?;
                    self.lookout.resume(named_lease(&call));
                    self.waiting.push(call);
                }
                Some(call) = retries.recv() => self.waiting.push(call),
                () = moved(self.watch.as_ref()) => return Some(()),
                // Whether they are of this queue, the next look shows.
                _ = self.ended.changed() => self.lookout.hurry(),
                () = served.nudge.notified() => return Some(()),
                () = tokio::time::sleep_until(until) => {
                    let now = Instant::now();
                    if due.is_some_and(|due| due <= now) {
                        return Some(());
                    }
                    if !self.answer_rested(now).await {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Reads the configuration of the queue.
    pub(super) async fn read_again(&self, served: &ServedQueue) {
        match self.runtime.plane.queue(&served.scope, &served.queue().name).await {
            Ok(now) if now.id == served.id => *served.queue.write() = Arc::new(now),
            Ok(_) | Err(Error::Rejected(NoSuchQueue)) => {}
            Err(error) => {
                tracing::debug!(error = %crate::error_chain(&error), "reading a queue that changed failed");
            }
        }
    }

    /// Answers the calls whose wait is over, if the queue has had nothing at some moment since they came.
    /// False if it has, or nothing is known: then a grant answers them.
    async fn answer_rested(&mut self, now: Instant) -> bool {
        let since = self.waiting.iter().filter(|c| c.ends_at() <= now).map(LeaseCall::began_at).max();
        let Some(since) = since else { return true };
        let look = match tokio::time::timeout(LOOK_WAIT_MAX, self.lookout.look_after(since)).await {
            Ok(look) if !look.is_ready() => look,
            _ => return false,
        };
        let limited_by = look.is_paused().then_some(LimitedBy::Paused);
        let (over, left) =
            std::mem::take(&mut self.waiting).into_iter().partition(|c: &LeaseCall| c.ends_at() <= now);
        self.waiting = left;
        for call in over {
            call.answer.send(Ok(Leased::nothing(look.times().0, limited_by))).ok();
        }
        true
    }

    pub(super) fn begin_watch(&mut self, served: &ServedQueue) {
        let partitions = served.queue().partitions.clone();
        self.watch = Some(self.runtime.watcher.watch_own_commits(&served.scope, partitions));
    }
}

/// Returns when a watched partition has moved; never without a watch.
pub(super) async fn moved(watch: Option<&Watch>) {
    match watch {
        Some(watch) => drop(watch.moved().await),
        None => std::future::pending().await,
    }
}

/// The lease of a call that may have been given out before, since its client chose its id.
fn named_lease(call: &LeaseCall) -> Option<LeaseId> {
    call.request.request_id.as_ref().map(|_| call.lease)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::queue::LeaseRequest;
    use crate::store::Store;
    use crate::{Engine, Parts};
    use millpond_core::control_plane::around::{Around, Wrapped};
    use millpond_core::queue::{Outlook, OutlookRequest, QueueChange};
    use millpond_core::{
        ControlPlane, Error, MemoryControlPlane, Name, RandomSource, Scope, SystemClock, TopicChange,
    };
    use std::sync::Arc;
    use std::time::Duration;

    /// Shows every queue as ready. A grant finds nothing nevertheless.
    struct LooksReady;

    impl Around for LooksReady {
        async fn outlook(
            &self,
            next: &Arc<dyn ControlPlane>,
            requests: &[OutlookRequest],
        ) -> Result<Vec<Outlook>, Error> {
            let seen = next.outlook(requests).await?;
            Ok(seen.into_iter().map(|outlook| Outlook { ready: true, ..outlook }).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_answered_although_their_queue_looks_ready_and_gives_nothing() {
        let memory: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let (scope, name) = (Scope::unauthenticated(), Name::new("q").expect("a name"));
        memory.put_topic(&scope, &name, &TopicChange::default(), 1).await.expect("a topic");
        memory.put_queue(&scope, &name, &QueueChange::default()).await.expect("a queue");
        let parts = Parts {
            plane: Arc::new(Wrapped::new(memory, Arc::new(LooksReady))),
            store: Store::open("memory:").expect("a store"),
            clock: Arc::new(SystemClock),
            random: Arc::new(RandomSource::seeded(1)),
            cluster: "c".to_owned(),
            epoch: 1,
            prometheus: None,
        };
        let engine = Engine::start(parts, &Config::default());
        for wait_ms in [0, 100, 600, 0] {
            let request = LeaseRequest {
                max_records: 1,
                max_bytes: 1_000,
                lease_ms: None,
                wait: Duration::from_millis(wait_ms),
                request_id: None,
            };
            let call = engine.queues.lease(&scope, &name, &request);
            let answer = tokio::time::timeout(Duration::from_secs(20), call).await;
            let (_, leased) = answer.expect("an answer in time").expect("a lease call");
            assert!(leased.records.is_empty());
        }
    }
}
