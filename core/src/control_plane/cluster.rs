//! Control plane calls on the cluster as a whole: what makes control plane and bucket a pair.
//!
//! The bucket holds a marker with the same identity. Whoever is about to delete objects counts that here
//! first and then in the marker, so a marker that is ahead shows a control plane that was set back, or a copy
//! of one.

use crate::error::Error;
use async_trait::async_trait;
use uuid::Uuid;

/// Work on the whole cluster. Its calls therefore take no scope.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    async fn identity(&self) -> Result<Identity, Error>;
    /// Sets the nonce, if there is none yet.
    async fn adopt_nonce(&self, nonce: Uuid) -> Result<(), Error>;
    /// Counts a batch of deletions: moves the beat from `beat - 1` to `beat`.
    async fn count_deletions(&self, epoch: i64, beat: i64) -> Result<(), Error<DeletionsRejected>>;
    /// Begins an epoch, if it is later than the present one. The beat becomes at least `beat`, and no batch
    /// of deletions is counted for `hold_ms`.
    async fn begin_epoch(&self, epoch: i64, beat: i64, hold_ms: i64) -> Result<(), Error>;
}

/// What identifies a cluster, and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made with the control plane's database; copies of that have it too.
    pub cluster: String,
    /// Made with the bucket's marker; `None` until there is one.
    pub nonce: Option<Uuid>,
    /// Raised when a control plane that was set back goes on.
    pub epoch: i64,
    /// Number of batches of deletions.
    pub beat: i64,
}

/// Why a batch of deletions may not be carried out.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeletionsRejected {
    #[error("the cluster is in another epoch, or somebody else counted a batch of deletions")]
    Moved,
    #[error("deletions are held, since the database was restored not long ago")]
    Held,
}
