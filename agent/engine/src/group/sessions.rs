//! Heartbeats of waiting members: those that are due at the same time go into one statement.

use millpond_core::{ControlPlane, MemberId, Scope};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The heartbeats that this agent sends for members.
pub struct Sessions {
    plane: Arc<dyn ControlPlane>,
    asks: Mutex<Asks>,
}

/// Heartbeats that wait for the statement that runs.
#[derive(Default)]
struct Asks {
    is_running: bool,
    waiting: Vec<Ask>,
}

struct Ask {
    scope: Scope,
    member: MemberId,
    answer: oneshot::Sender<bool>,
}

impl Sessions {
    #[must_use]
    pub fn new(plane: Arc<dyn ControlPlane>) -> Arc<Self> {
        Arc::new(Self { plane, asks: Mutex::default() })
    }

    /// Renews the session of a member. False if it was not renewed.
    pub async fn renew(self: &Arc<Self>, scope: &Scope, member: MemberId) -> bool {
        let (answer, answered) = oneshot::channel();
        let must_run = {
            let mut asks = self.asks.lock();
            asks.waiting.push(Ask { scope: scope.clone(), member, answer });
            !std::mem::replace(&mut asks.is_running, true)
        };
        if must_run {
            let sessions = Arc::clone(self);
            tokio::spawn(async move { sessions.answer_asks().await });
        }
        answered.await.unwrap_or(false)
    }

    /// Sends one statement after the other, each for all that asked meanwhile.
    async fn answer_asks(&self) {
        loop {
            let asks = {
                let mut asks = self.asks.lock();
                asks.is_running = !asks.waiting.is_empty();
                std::mem::take(&mut asks.waiting)
            };
            if asks.is_empty() {
                return;
            }
            let members: Vec<(Scope, MemberId)> =
                asks.iter().map(|ask| (ask.scope.clone(), ask.member)).collect();
            match self.plane.renew_sessions(&members).await {
                Ok(renewed) => {
                    let renewed: HashSet<MemberId> = renewed.into_iter().collect();
                    for ask in asks {
                        ask.answer.send(renewed.contains(&ask.member)).ok();
                    }
                }
                // Dropping the asks tells them.
                Err(error) => {
                    tracing::debug!(error = %crate::error_chain(&error), "renewing sessions failed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::control_plane::around::{Around, Wrapped};
    use millpond_core::{Error, MemoryControlPlane, SystemClock};
    use uuid::Uuid;

    #[derive(Default)]
    struct Statements(Mutex<Vec<usize>>);

    impl Around for Statements {
        async fn renew_sessions(
            &self,
            next: &Arc<dyn ControlPlane>,
            members: &[(Scope, MemberId)],
        ) -> Result<Vec<MemberId>, Error> {
            self.0.lock().push(members.len());
            tokio::task::yield_now().await;
            next.renew_sessions(members).await
        }
    }

    #[tokio::test]
    async fn heartbeats_at_the_same_time_share_statements() {
        let statements = Arc::new(Statements::default());
        let memory: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
        let sessions = Sessions::new(Arc::new(Wrapped::new(memory, Arc::clone(&statements))));
        let scope = Scope::unauthenticated();
        let all = (0..500).map(|n| sessions.renew(&scope, MemberId(Uuid::from_u128(n))));
        let renewed = futures::future::join_all(all).await;
        assert!(renewed.iter().all(|renewed| !renewed), "there are no such members");
        let sizes = statements.0.lock().clone();
        assert_eq!(sizes.iter().sum::<usize>(), 500);
        assert!(sizes.len() <= 2, "{sizes:?}");
    }
}
