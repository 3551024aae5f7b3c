//! Assignment of a job to this agent: how long it lasts, and whether the job is running.

use millpond_core::control_plane::{Job, RowKind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a job stays with the agent after the heartbeat that took or renewed it. The control plane counts
/// the same time from a later moment.
const ASSIGNED_FOR: Duration = Duration::from_secs(30);
/// Maximum time of a run. A job with more to do is due again at once.
const RUN_MAX: Duration = Duration::from_secs(300);

/// A job that this agent may have: the heartbeat assigns it, and a task of its own runs it.
pub(super) struct Assignment {
    pub(super) job: Job,
    state: Mutex<State>,
    /// Wakes the task to run the job.
    due: Notify,
}

#[derive(Default)]
struct State {
    /// End of the assignment; `None` while another agent may have the job.
    until: Option<Instant>,
    /// Begin of the run, while the job is running.
    running_since: Option<Instant>,
    /// Kinds of rows of which some had expired at the last heartbeat.
    expired: Vec<RowKind>,
}

/// The run of a job. It ends when this is dropped.
pub(super) struct Running<'a>(&'a Assignment);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running_since = None;
    }
}

impl Assignment {
    pub(super) fn new(job: Job) -> Arc<Self> {
        Arc::new(Self { job, state: Mutex::default(), due: Notify::new() })
    }

    /// Whether the job is running.
    pub(super) fn is_busy(&self) -> bool {
        self.state.lock().running_since.is_some()
    }

    /// Takes in the answer to a heartbeat that was sent at `sent`: whether the job is the agent's. The job is
    /// woken unless it was `busy` then.
    pub(super) fn assign(&self, assigned: bool, sent: Instant, busy: bool, expired: &[RowKind]) {
        let mut state = self.state.lock();
        state.until = assigned.then(|| sent + ASSIGNED_FOR);
        if assigned && !busy {
            expired.clone_into(&mut state.expired);
            self.due.notify_one();
        }
    }

    /// Waits until the job is to run.
    pub(super) async fn begun(&self) -> Running<'_> {
        self.due.notified().await;
        self.state.lock().running_since = Some(Instant::now());
        Running(self)
    }

    /// Whether the run may go on: the job is still this agent's, and there is time left.
    pub(super) fn may_go_on(&self) -> bool {
        let state = self.state.lock();
        state.until.is_some_and(|until| Instant::now() < until)
            && state.running_since.is_some_and(|since| since.elapsed() < RUN_MAX)
    }

    /// Kinds of expired rows, which the job [`Job::Forget`] deletes.
    pub(super) fn expired(&self) -> Vec<RowKind> {
        self.state.lock().expired.clone()
    }
}
