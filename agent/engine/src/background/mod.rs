//! Background jobs of an agent: heartbeat, drain, sweep, retention, expiry of leases, cleanup.
//!
//! Each job is leased by one agent at a time (the heartbeat takes the leases), and one run of a job is
//! bounded in rows and time. Jobs do not retry: a failed job runs again when it is due next.

mod drain;
mod sweep;

use crate::metrics;
use crate::produce::flush::Origin;
use crate::produce::parts::PartPool;
use crate::produce::writer::Writer;
use crate::store::Store;
use millpond_core::saturated;
use millpond_core::{AgentId, Clock, ControlPlane, RandomSource, limits};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Rows that one statement of a job changes at most.
const STATEMENT_MAX_ROWS: i64 = 1_000;
/// Statements of one run of a job.
const RUN_MAX_STATEMENTS: usize = 50;

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
}

/// The schedule of the jobs. Every other tick is a heartbeat. The flags are jobs that are due; the ticks
/// between heartbeats run one of them each, so that an idle agent sends one statement per tick. Only the
/// tick that forgets, once a minute, sends three.
#[derive(Default)]
struct Schedule {
    /// Ticks so far.
    ticks: u64,
    retain: bool,
    clamp: bool,
    forget: bool,
}

impl Jobs {
    /// Runs the jobs for ever, one tick every [`limits::HEARTBEAT_MS`].
    pub async fn run(self) {
        let mut tick = tokio::time::interval(Duration::from_millis(limits::HEARTBEAT_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut schedule = Schedule::default();
        loop {
            tick.tick().await;
            schedule.ticks += 1;
            if schedule.ticks % 2 == 1 {
                self.beat(&mut schedule).await;
            } else if std::mem::take(&mut schedule.retain) {
                self.repeat("retain", || self.plane.retain(STATEMENT_MAX_ROWS)).await;
                schedule.clamp = true;
            } else if std::mem::take(&mut schedule.clamp) {
                self.repeat("clamp", || self.plane.clamp()).await;
                schedule.forget = true;
            } else if std::mem::take(&mut schedule.forget) {
                self.repeat("forget", || self.plane.forget(STATEMENT_MAX_ROWS)).await;
            }
        }
    }

    /// Sends a heartbeat. Runs the jobs that it took over, or marks them as due for a later tick.
    async fn beat(&self, schedule: &mut Schedule) {
        let beat = match self.plane.beat(self.agent).await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(error = %crate::error_chain(&error), "heartbeat failed");
                return;
            }
        };
        metrics::job_succeeded("beat", self.clock.now_ms(), 1);
        self.writer.set_inline_full(beat.inline_live_bytes > limits::INLINE_LIVE_MAX_BYTES);
        schedule.retain |= beat.retain;
        if beat.drain {
            self.log("drain", self.drain().await);
        }
        if beat.sweep {
            self.log("sweep", self.sweep().await);
        }
        if beat.expire {
            self.repeat("expire", || self.plane.expire(STATEMENT_MAX_ROWS, self.random.unit())).await;
        }
    }

    /// Repeats a statement while it reaches its row limit; returns the total of rows.
    async fn repeat<F: Future<Output = Result<i64, millpond_core::Error>>>(
        &self,
        job: &'static str,
        run: impl Fn() -> F,
    ) -> i64 {
        let mut all = 0;
        for _ in 0..RUN_MAX_STATEMENTS {
            let outcome = run().await;
            let done = *outcome.as_ref().unwrap_or(&0);
            all += done;
            self.log(job, outcome.map(saturated::<usize, _>).map_err(Into::into));
            if done < STATEMENT_MAX_ROWS {
                break;
            }
        }
        all
    }

    /// Records the outcome of a job in metrics and log.
    fn log(&self, job: &'static str, outcome: Result<usize, millpond_core::Source>) {
        match outcome {
            Ok(done) => {
                metrics::job_succeeded(job, self.clock.now_ms(), done);
                if done > 0 {
                    tracing::debug!(job, done, "background job done");
                }
            }
            Err(error) => {
                let error = crate::error_chain(&*error);
                tracing::warn!(job, %error, "a background job failed; it runs again when it is next due");
            }
        }
    }
}
