//! The heartbeat: renews the agent's row, and takes and renews background jobs. Its task does nothing else.

use super::Jobs;
use super::assignment::Assignment;
use crate::metrics;
use millpond_core::control_plane::{Beat, Job};
use millpond_core::limits;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// Sends a heartbeat every [`limits::HEARTBEAT_MS`], for ever.
pub(super) async fn run(jobs: &Jobs, assignments: &[Arc<Assignment>]) {
    let mut tick = tokio::time::interval(Duration::from_millis(limits::HEARTBEAT_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        beat(jobs, assignments).await;
    }
}

async fn beat(jobs: &Jobs, assignments: &[Arc<Assignment>]) {
    let sent = Instant::now();
    let busy: Vec<Job> = assignments.iter().filter(|a| a.is_busy()).map(|a| a.job).collect();
    let beat = match jobs.plane.beat(jobs.agent, &busy).await {
        Ok(beat) => beat,
        Err(error) => {
            metrics::job_failed("beat");
            tracing::warn!(error = %crate::error_chain(&error), "heartbeat failed");
            return;
        }
    };
    if beat.epoch != jobs.origin.epoch {
        jobs.health.epoch_ended(beat.epoch);
        return;
    }
    metrics::job_ran("beat", sent.elapsed());
    metrics::job_succeeded("beat", jobs.clock.now_ms(), 1);
    measure(&beat);
    jobs.writer.set_inline_full(beat.inline_live_bytes > limits::INLINE_LIVE_MAX_BYTES);
    for assignment in assignments {
        let job = assignment.job;
        assignment.assign(beat.jobs.contains(&job), sent, busy.contains(&job), &beat.expired);
    }
}

/// Shows how late each job is, and what the drain could not read.
fn measure(beat: &Beat) {
    for job in Job::ALL {
        let of_kind = beat.late.iter().filter(|(late, _)| late.kind() == job.kind());
        metrics::job_lag(job.kind(), of_kind.map(|(_, ms)| *ms).max().unwrap_or(0));
    }
    metrics::set_aside(beat.set_aside_bytes);
}
