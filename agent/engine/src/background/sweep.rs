//! The sweep: deletes the objects that the control plane names as unreferenced, and no others.

use super::assignment::Assignment;
use super::{Jobs, STATEMENT_MAX_ROWS};
use crate::marker::MarkerError;
use crate::metrics;
use futures::stream::{self, StreamExt};
use millpond_core::{PartId, Source, saturated};
use millpond_format::key;

/// DELETE requests in flight.
const DELETES_IN_FLIGHT_MAX: usize = 8;
/// Objects after whose deletion the control plane is told.
const STEP_OBJECTS: usize = 64;

impl Jobs {
    /// Counts a batch of deletions, and says whether it may be carried out now.
    ///
    /// # Errors
    /// Whether database and store are a pair cannot be told, or they are not.
    async fn may_delete(&self) -> Result<bool, MarkerError> {
        match self.markers.count_deletions().await {
            Ok(()) => Ok(true),
            Err(reason @ (MarkerError::Held | MarkerError::Contended)) => {
                tracing::debug!(%reason, "nothing is deleted now");
                Ok(false)
            }
            Err(error) => {
                if error.is_alarm() {
                    metrics::deletions_refused();
                    tracing::error!(error = %crate::error_chain(&error), "deletions are stopped");
                }
                Err(error)
            }
        }
    }

    /// Returns how many objects were deleted. An object that cannot be deleted becomes due again later; the
    /// others are deleted nevertheless.
    pub(super) async fn sweep(&self, assignment: &Assignment) -> Result<usize, Source> {
        let mut all = 0;
        while assignment.may_go_on() {
            let parts = self.plane.sweep_plan(STATEMENT_MAX_ROWS).await?;
            if parts.is_empty() || !self.may_delete().await? {
                break;
            }
            for step in parts.chunks(STEP_OBJECTS) {
                if assignment.may_go_on() {
                    all += self.delete(step).await?;
                }
            }
            if saturated::<i64, _>(parts.len()) < STATEMENT_MAX_ROWS {
                break;
            }
        }
        Ok(all)
    }

    async fn delete(&self, parts: &[PartId]) -> Result<usize, Source> {
        let delete = |part: PartId| async move {
            match self.store.delete(&key::ingest(&self.origin.cluster, part)).await {
                Ok(()) => (part, true),
                Err(error) => {
                    let error = crate::error_chain(&error);
                    tracing::warn!(%part, %error, "deleting an object failed; it is tried again later");
                    (part, false)
                }
            }
        };
        let (mut deleted, mut failed) = (Vec::new(), Vec::new());
        let mut outcomes =
            stream::iter(parts.iter().copied()).map(delete).buffer_unordered(DELETES_IN_FLIGHT_MAX);
        while let Some((part, gone)) = outcomes.next().await {
            if gone { &mut deleted } else { &mut failed }.push(part);
        }
        drop(outcomes);
        metrics::deletes_failed(failed.len());
        self.plane.swept(&deleted).await?;
        if !failed.is_empty() {
            self.plane.undeleted(&failed).await?;
        }
        Ok(deleted.len())
    }
}
