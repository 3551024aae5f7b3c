//! Background jobs of an agent, one file each. Every job is a task of its own.
//!
//! The heartbeat takes the jobs that are due, each of which one agent has at a time, and renews them while
//! they run. A run is bounded in time and its statements in rows. Jobs do not retry: what fails is done by
//! the next run. Must not: wait for each other, or hold up the heartbeat.

mod assignment;
mod clamp;
mod drain;
mod expire;
mod forget;
mod heartbeat;
mod retain;
mod rewrite;
mod sweep;

use crate::health::Health;
use crate::marker::Markers;
use crate::metrics;
use crate::produce::flush::Origin;
use crate::produce::parts::PartPool;
use crate::produce::writer::Writer;
use crate::store::Store;
use assignment::Assignment;
use millpond_core::control_plane::{Job, RowKind};
use millpond_core::{AgentId, Clock, ControlPlane, RandomSource, Source};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Rows that one statement of a job changes at most.
const STATEMENT_MAX_ROWS: i64 = 1_000;

/// The background jobs of an agent, and the components that they use.
pub struct Jobs {
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<RandomSource>,
    pub parts: Arc<PartPool>,
    pub origin: Origin,
    pub agent: AgentId,
    pub writer: Arc<Writer>,
    pub markers: Markers,
    pub health: Arc<Health>,
}

impl Jobs {
    /// Runs the jobs until the future is dropped.
    pub async fn run(self) {
        let jobs = Arc::new(self);
        let mut tasks = JoinSet::new();
        let assignments: Vec<_> = Job::ALL.into_iter().map(Assignment::new).collect();
        for assignment in &assignments {
            let (jobs, assignment) = (Arc::clone(&jobs), Arc::clone(assignment));
            tasks.spawn(async move { jobs.work(&assignment).await });
        }
        heartbeat::run(&jobs, &assignments).await;
    }

    /// Runs a job whenever it is assigned to this agent.
    async fn work(&self, assignment: &Assignment) {
        loop {
            let run = assignment.begun().await;
            let start = Instant::now();
            let outcome = self.run_once(assignment).await;
            drop(run);
            self.log(assignment.job, start, outcome);
        }
    }

    /// Runs a job. Returns how much it did, in units that differ by job.
    async fn run_once(&self, assignment: &Assignment) -> Result<usize, Source> {
        match assignment.job {
            Job::Drain(slice) => self.drain(slice, assignment).await,
            Job::Sweep => self.sweep(assignment).await,
            Job::Retain => self.retain(assignment).await,
            Job::Clamp => self.clamp().await,
            Job::Expire => self.expire(assignment).await,
            Job::Forget => self.forget(assignment.expired(), assignment).await,
            Job::Clean => self.forget(RowKind::RARE.to_vec(), assignment).await,
        }
    }

    /// Records the outcome of a job in metrics and log.
    fn log(&self, job: Job, start: Instant, outcome: Result<usize, Source>) {
        metrics::job_ran(job.kind(), start.elapsed());
        match outcome {
            Ok(done) => {
                metrics::job_succeeded(job.kind(), self.clock.now_ms(), done);
                if done > 0 {
                    tracing::debug!(job = job.name(), done, "background job done");
                }
            }
            Err(error) => {
                metrics::job_failed(job.kind());
                let (job, error) = (job.name(), crate::error_chain(&*error));
                tracing::warn!(job, %error, "a background job failed; it runs again when it is next due");
            }
        }
    }
}
