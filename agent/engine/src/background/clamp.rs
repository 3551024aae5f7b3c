//! Moves the cursors of queues past what retention has unlinked. Retention does so itself; this job, once an
//! hour, makes up for an agent that ended before.

use super::Jobs;
use millpond_core::{Source, saturated};

impl Jobs {
    /// Returns how many records were passed.
    pub(super) async fn clamp(&self) -> Result<usize, Source> {
        Ok(saturated::<usize, _>(self.plane.clamp(&[]).await?))
    }
}
