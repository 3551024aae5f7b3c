//! Deletes objects that nothing refers to, as the control plane says and in no other case.

use super::{Jobs, ROWS};
use futures::stream::{self, StreamExt};
use millpond_core::{PartId, Source};
use millpond_format::key;

const PARALLEL: usize = 8;

impl Jobs {
    /// Returns how many objects were deleted; one that cannot be is left for the next tick and does not hold
    /// the others.
    pub(super) async fn sweep(&self) -> Result<usize, Source> {
        let parts = self.plane.sweep_plan(ROWS).await?;
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
            .buffer_unordered(PARALLEL)
            .filter_map(|p| async move { p })
            .collect()
            .await;
        self.plane.swept(&deleted).await?;
        Ok(deleted.len())
    }
}
