//! The sweep: deletes the objects that the control plane names as unreferenced, and no others.

use super::{Jobs, STATEMENT_MAX_ROWS};
use futures::stream::{self, StreamExt};
use millpond_core::{PartId, Source};
use millpond_format::key;

/// DELETE requests in flight.
const DELETES_IN_FLIGHT_MAX: usize = 8;

impl Jobs {
    /// Returns how many objects were deleted. An object that cannot be deleted is left for the next sweep;
    /// the others are deleted nevertheless.
    pub(super) async fn sweep(&self) -> Result<usize, Source> {
        let parts = self.plane.sweep_plan(STATEMENT_MAX_ROWS).await?;
        let delete = |part: PartId| async move {
            match self.store.delete(&key::ingest(&self.origin.cluster, part)).await {
                Ok(()) => Some(part),
                Err(error) => {
                    tracing::warn!(%part, error = %crate::error_chain(&error), "deleting an object failed");
                    None
                }
            }
        };
        let deleted: Vec<PartId> = stream::iter(parts)
            .map(delete)
            .buffer_unordered(DELETES_IN_FLIGHT_MAX)
            .filter_map(|p| async move { p })
            .collect()
            .await;
        self.plane.swept(&deleted).await?;
        Ok(deleted.len())
    }
}
