//! Background work: one leased job a file, bounded in rows and time, no retry inside: the next tick is the
//! retry.

mod drain;
mod sweep;

use crate::metrics;
use crate::produce::flush::Origin;
use crate::produce::parts::PartPool;
use crate::produce::writer::Writer;
use crate::store::Store;
use millpond_core::saturated;
use millpond_core::{AgentId, Clock, ControlPlane, Ids, limits};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Rows that a pure-SQL job touches in one statement.
const ROWS: i64 = 1_000;

pub struct Jobs {
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
    pub parts: Arc<PartPool>,
    pub origin: Origin,
    pub agent: AgentId,
    pub writer: Arc<Writer>,
}

/// What an idle agent's statements are spent on, one each five seconds: every other one is a heartbeat.
#[derive(Default)]
struct Turn {
    number: u64,
    retain: bool,
    clamp: bool,
    forget: bool,
}

impl Jobs {
    /// For ever. While nothing is due, one statement in five seconds.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(Duration::from_millis(limits::HEARTBEAT_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = Turn::default();
        loop {
            tick.tick().await;
            turn.number += 1;
            if turn.number % 2 == 1 {
                self.beat(&mut turn).await;
            } else if std::mem::take(&mut turn.retain) {
                self.repeat("retain", || self.plane.retain(ROWS)).await;
                turn.clamp = true;
            } else if std::mem::take(&mut turn.clamp) {
                self.repeat("clamp", || self.plane.clamp()).await;
                turn.forget = true;
            } else if std::mem::take(&mut turn.forget) {
                self.repeat("forget", || self.plane.forget(ROWS)).await;
            }
        }
    }

    async fn beat(&self, turn: &mut Turn) {
        let beat = match self.plane.beat(self.agent).await {
            Ok(beat) => beat,
            Err(error) => {
                tracing::warn!(error = %crate::error_chain(&error), "heartbeat failed");
                return;
            }
        };
        metrics::job_succeeded("beat", self.clock.now_ms(), 1);
        self.writer.set_inline_full(beat.inline_live_bytes > limits::INLINE_LIVE_MAX_BYTES);
        turn.retain |= beat.retain;
        if beat.drain {
            self.log("drain", self.drain().await);
        }
        if beat.sweep {
            self.log("sweep", self.sweep().await);
        }
        if beat.expire {
            self.repeat("expire", || self.plane.expire(ROWS, self.ids.unit())).await;
        }
    }

    /// Again at once while a statement does all it may; how much was done.
    async fn repeat<F: Future<Output = Result<i64, millpond_core::Error>>>(
        &self,
        job: &'static str,
        run: impl Fn() -> F,
    ) -> i64 {
        let mut all = 0;
        for _ in 0..50 {
            let outcome = run().await;
            let done = *outcome.as_ref().unwrap_or(&0);
            all += done;
            self.log(job, outcome.map(|n| saturated::<usize, _>(n)).map_err(Into::into));
            if done < ROWS {
                break;
            }
        }
        all
    }

    fn log(&self, job: &'static str, outcome: Result<usize, millpond_core::Source>) {
        match outcome {
            Ok(done) => {
                metrics::job_succeeded(job, self.clock.now_ms(), done);
                if done > 0 {
                    tracing::debug!(job, done, "background work");
                }
            }
            Err(error) => {
                tracing::warn!(job, error = %crate::error_chain(&*error), "background work failed; the next tick tries again")
            }
        }
    }
}
