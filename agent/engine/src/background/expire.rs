//! Ends leases past their deadline in queues that no agent serves.

use super::assignment::Assignment;
use super::{Jobs, STATEMENT_MAX_ROWS};
use millpond_core::{Source, saturated};

impl Jobs {
    /// Returns how many lease parts were ended.
    pub(super) async fn expire(&self, assignment: &Assignment) -> Result<usize, Source> {
        let mut all = 0;
        while assignment.may_go_on() {
            let ended = self.plane.expire(STATEMENT_MAX_ROWS, self.random.unit()).await?;
            all += ended;
            if ended < STATEMENT_MAX_ROWS {
                break;
            }
        }
        Ok(saturated::<usize, _>(all))
    }
}
