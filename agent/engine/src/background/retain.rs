//! Retention: unlinks batches past the age or size limit of their topic, and those of deleted topics.

use super::assignment::Assignment;
use super::{Jobs, STATEMENT_MAX_ROWS};
use millpond_core::control_plane::Unlink;
use millpond_core::{Error, PartitionId, Source, limits, saturated};

impl Jobs {
    /// Returns how many batches were unlinked.
    pub(super) async fn retain(&self, assignment: &Assignment) -> Result<usize, Source> {
        let (mut all, mut begun) = (0, None);
        while assignment.may_go_on() {
            let plan = self.plane.retain_plan(begun).await?;
            let gone = self.unlink(&plan.unlink, assignment).await?;
            if gone > 0 {
                let partitions: Vec<PartitionId> = plan.unlink.iter().map(|step| step.partition).collect();
                self.plane.clamp(&partitions).await?;
            }
            all += gone;
            if !plan.more {
                break;
            }
            begun = Some(plan.begun);
        }
        Ok(saturated::<usize, _>(all))
    }

    /// Carries a plan out, a few partitions at a time, since commits to them wait meanwhile.
    async fn unlink(&self, plan: &[Unlink], assignment: &Assignment) -> Result<i64, Error> {
        let mut all = 0;
        for step in plan.chunks(limits::UNLINK_MAX_PARTITIONS) {
            while assignment.may_go_on() {
                let gone = self.plane.unlink(step, STATEMENT_MAX_ROWS).await?;
                all += gone;
                if gone < STATEMENT_MAX_ROWS {
                    break;
                }
            }
        }
        Ok(all)
    }
}
