//! Identity of the in-memory control plane.

use super::MemoryControlPlane;
use crate::control_plane::{Cluster, DeletionsRejected, Identity};
use crate::error::Error;
use async_trait::async_trait;
use uuid::Uuid;

pub(super) struct ClusterRow {
    pub identity: Identity,
    /// No batch of deletions is counted before this instant.
    held_until_ms: i64,
}

impl Default for ClusterRow {
    fn default() -> Self {
        let identity = Identity { cluster: "memory".to_owned(), nonce: None, epoch: 1, beat: 0 };
        Self { identity, held_until_ms: i64::MIN }
    }
}

#[async_trait]
impl Cluster for MemoryControlPlane {
    async fn identity(&self) -> Result<Identity, Error> {
        Ok(self.state.lock().cluster.identity.clone())
    }

    async fn adopt_nonce(&self, nonce: Uuid) -> Result<(), Error> {
        self.state.lock().cluster.identity.nonce.get_or_insert(nonce);
        Ok(())
    }

    async fn count_deletions(&self, epoch: i64, beat: i64) -> Result<(), Error<DeletionsRejected>> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let row = &mut state.cluster;
        if row.held_until_ms > now {
            return Err(Error::Rejected(DeletionsRejected::Held));
        }
        if row.identity.epoch != epoch || ![beat - 1, beat].contains(&row.identity.beat) {
            return Err(Error::Rejected(DeletionsRejected::Moved));
        }
        row.identity.beat = beat;
        Ok(())
    }

    async fn begin_epoch(&self, epoch: i64, beat: i64, hold_ms: i64) -> Result<(), Error> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let row = &mut state.cluster;
        if row.identity.epoch < epoch {
            row.identity.epoch = epoch;
            row.identity.beat = row.identity.beat.max(beat);
            row.held_until_ms = now + hold_ms;
        }
        Ok(())
    }
}
