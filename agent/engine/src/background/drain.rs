//! The drain: moves inline payloads that are old enough into segments, and joins small batches into larger
//! ones.

use super::Jobs;
use super::assignment::Assignment;
use super::rewrite::rewrite;
use crate::metrics;
use millpond_core::control_plane::Swap;
use millpond_core::{Error, Source, limits, saturated};
use millpond_format::key;

/// A plan with at least so many bytes or batches is followed by another. A smaller one is the end of the run:
/// what has become old enough since would make a small object.
const FULL_BYTES: usize = limits::SEGMENT_MAX_BYTES / 2;
const FULL_BATCHES: usize = 4_096;

impl Jobs {
    /// Drains a slice of the payloads. Returns how many inline batches were moved.
    pub(super) async fn drain(&self, slice: u8, assignment: &Assignment) -> Result<usize, Source> {
        let mut drained = 0;
        while assignment.may_go_on() {
            let max = saturated::<i64, _>(limits::SEGMENT_MAX_BYTES);
            let plan = self.plane.drain_plan(Some(slice), max).await?;
            if plan.is_empty() {
                break;
            }
            let bytes: usize = plan.iter().map(|d| d.bytes.len()).sum();
            let full = bytes >= FULL_BYTES || plan.len() >= FULL_BATCHES;
            let part = self.parts.take().await?;
            let origin = self.origin.clone();
            let rewritten = crate::blocking::run(move || {
                rewrite(&plan, part, &origin.cluster, origin.epoch, &origin.agent)
            })
            .await;
            if !rewritten.unreadable.is_empty() {
                for (payload, error) in &rewritten.unreadable {
                    tracing::error!(
                        %payload, %error,
                        "an inline payload cannot be read; it is set aside, and its records cannot be moved"
                    );
                }
                let payloads: Vec<_> = rewritten.unreadable.keys().copied().collect();
                self.plane.set_aside(&payloads).await?;
                metrics::payloads_set_aside(payloads.len());
            }
            if !rewritten.swaps.is_empty() {
                self.store.put(&key::ingest(&self.origin.cluster, part), &rewritten.segment).await?;
                for swap in &rewritten.swaps {
                    if !self.swap(swap).await? {
                        return Ok(drained);
                    }
                    drained += swap.inputs.len();
                }
                for payloads in rewritten.drained.chunks(limits::SWAP_MAX_INPUTS) {
                    self.plane.mark_drained(payloads).await?;
                }
            }
            if !full {
                break;
            }
        }
        Ok(drained)
    }

    /// Whether the swap was applied.
    async fn swap(&self, swap: &Swap) -> Result<bool, Source> {
        match self.plane.swap(swap).await {
            Ok(()) => Ok(true),
            Err(Error::Rejected(rejected)) => {
                tracing::debug!(%rejected, "the drained batches were changed meanwhile; trying later");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
