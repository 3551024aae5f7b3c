//! Deletes rows that are not needed any more, kind by kind.

use super::Jobs;
use super::assignment::Assignment;
use millpond_core::control_plane::RowKind;
use millpond_core::{Source, saturated};

/// Rows that one statement deletes at most.
const ROWS_MAX: i64 = 5_000;
/// Inline payloads that one statement deletes at most: they may have 64 KiB each.
const PAYLOADS_MAX: i64 = 1_000;

fn limit(kind: RowKind) -> i64 {
    match kind {
        RowKind::Payloads => PAYLOADS_MAX,
        _ => ROWS_MAX,
    }
}

impl Jobs {
    /// Deletes rows of each kind in turn, until none has as many left as a statement deletes. A kind that
    /// fails stops no other; the last failure is returned. Else returns how many rows were deleted.
    pub(super) async fn forget(
        &self,
        mut kinds: Vec<RowKind>,
        assignment: &Assignment,
    ) -> Result<usize, Source> {
        let mut all = 0;
        let mut failed = None;
        while !kinds.is_empty() {
            let mut full = Vec::new();
            for kind in kinds {
                if !assignment.may_go_on() {
                    break;
                }
                match self.plane.forget_rows(kind, limit(kind)).await {
                    Ok(rows) => {
                        all += rows;
                        if rows >= limit(kind) {
                            full.push(kind);
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            kinds = full;
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(saturated::<usize, _>(all)),
        }
    }
}
