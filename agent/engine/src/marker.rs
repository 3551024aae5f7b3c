//! The marker: an object that says which database its bucket belongs to, and how far the deletions have come.
//!
//! Birth: an agent writes a marker with a new nonce, if there is none, and then the nonce into the database,
//! if that has none. An agent that dies in between leaves a marker, which the next one adopts. From then on a
//! database without a marker, or with a marker of another nonce, is not used.
//!
//! Deletions: before each batch its number, the beat, is counted in the database, and then in the marker. A
//! marker that is behind is normal: an agent died in between. A marker that is ahead of the database shows
//! that the database was set back to an earlier state, or is a copy: what it takes for unreferenced may be
//! referenced, so nothing is deleted.

use crate::store::{Store, StoreError};
use bytes::Bytes;
use millpond_core::control_plane::{DeletionsRejected, Identity};
use millpond_core::{Clock, ControlPlane, Error, RandomSource};
use millpond_format::key;
use object_store::path::Path;
use object_store::{PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Looks at marker and database until they are a pair: each step of a birth needs another one.
const LOOKS_MAX: usize = 8;
/// Reads of a marker that is damaged, refused, or missing although there should be one.
const READS_MAX: u32 = 4;
/// The pause after the nth of these reads is n times this.
const READ_PAUSE: Duration = Duration::from_millis(200);

/// A marker, as it lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub cluster: String,
    pub nonce: Uuid,
    pub epoch: i64,
    pub beat: i64,
    /// Drawn anew for each version, so that whoever wrote one recognizes it.
    writer: Uuid,
}

/// The form of the object: JSON.
#[derive(Serialize, Deserialize)]
struct MarkerJson {
    cluster: String,
    nonce: String,
    epoch: i64,
    beat: i64,
    writer: String,
    /// CRC-32C of the other fields, as [`Marker::checksum`] computes it.
    crc32c: u32,
}

/// Why a database and a store are not used together, or no objects are deleted.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    #[error("the control plane cannot be asked about its cluster")]
    Plane(#[source] Error),
    #[error("the marker {key} cannot be read or written")]
    Store { key: Path, source: StoreError },
    #[error("the marker {key} is damaged")]
    Damaged { key: Path },
    #[error(
        "the object store has no marker {key}, although the database has been used with a store: this is \
         another one; check --store and --database-url"
    )]
    Missing { key: Path },
    #[error("the marker {key} belongs to another database than this one: check --store and --database-url")]
    Foreign { key: Path },
    #[error(
        "the object store is ahead of the database (epoch {}, deletion {}, as against epoch {}, deletion \
         {}): the database was set back to an earlier state, or is a copy of another. Nothing is deleted. If \
         this database is to go on with this store, stop all agents of any other copy, and run \
         `millpond recover --new-epoch --yes`",
        marker.0, marker.1, database.0, database.1
    )]
    Ahead { marker: (i64, i64), database: (i64, i64) },
    #[error("deletions are held, since the database was restored not long ago")]
    Held,
    #[error("another agent changed the marker at the same time")]
    Contended,
}

impl MarkerError {
    /// Whether a person must act: waiting does not help.
    #[must_use]
    pub const fn is_alarm(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. } | Self::Missing { .. } | Self::Foreign { .. } | Self::Ahead { .. }
        )
    }
}

impl From<Error> for MarkerError {
    fn from(error: Error) -> Self {
        Self::Plane(error)
    }
}

impl Marker {
    fn checksum(&self) -> u32 {
        let Self { cluster, nonce, epoch, beat, writer } = self;
        crc32c::crc32c(format!("{cluster} {nonce} {epoch} {beat} {writer}").as_bytes())
    }

    fn encode(&self) -> Bytes {
        let json = MarkerJson {
            cluster: self.cluster.clone(),
            nonce: self.nonce.to_string(),
            epoch: self.epoch,
            beat: self.beat,
            writer: self.writer.to_string(),
            crc32c: self.checksum(),
        };
        serde_json::to_vec(&json).unwrap_or_default().into()
    }

    /// `None`: the bytes are no marker, or differ from those that were written.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let json: MarkerJson = serde_json::from_slice(bytes).ok()?;
        let marker = Self {
            nonce: Uuid::parse_str(&json.nonce).ok()?,
            writer: Uuid::parse_str(&json.writer).ok()?,
            cluster: json.cluster,
            epoch: json.epoch,
            beat: json.beat,
        };
        (marker.checksum() == json.crc32c).then_some(marker)
    }

    /// Whether this marker is one that the database may have left.
    fn check(&self, identity: &Identity, key: &Path) -> Result<(), MarkerError> {
        if self.cluster != identity.cluster || identity.nonce.is_some_and(|nonce| nonce != self.nonce) {
            return Err(MarkerError::Foreign { key: key.clone() });
        }
        let (marker, database) = ((self.epoch, self.beat), (identity.epoch, identity.beat));
        if marker > database { Err(MarkerError::Ahead { marker, database }) } else { Ok(()) }
    }
}

/// State of a database and a store towards each other.
#[derive(Debug, PartialEq, Eq)]
pub enum Relation {
    /// Neither has been used yet; the first agent makes them a pair.
    New,
    Pair(Identity),
}

/// The marker of a bucket, and the database that it belongs to.
#[derive(Clone)]
pub struct Markers {
    pub plane: Arc<dyn ControlPlane>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<RandomSource>,
}

impl Markers {
    async fn read(&self, key: &Path) -> Result<Option<(Marker, UpdateVersion)>, MarkerError> {
        let found = self.store.get_versioned(key).await;
        let found = found.map_err(|source| MarkerError::Store { key: key.clone(), source })?;
        let Some((bytes, version)) = found else { return Ok(None) };
        let marker = Marker::decode(&bytes).ok_or_else(|| MarkerError::Damaged { key: key.clone() })?;
        Ok(Some((marker, version)))
    }

    fn writer(&self) -> Uuid {
        self.random.uuid(self.clock.now_ms())
    }

    /// The database's identity, and the marker, which is read first: other agents may count deletions
    /// meanwhile, and then the marker must not seem to be ahead.
    async fn read_both(&self) -> Result<(Identity, Option<(Marker, UpdateVersion)>), MarkerError> {
        let identity = self.plane.identity().await?;
        let key = key::marker(&identity.cluster);
        let mut found = self.read(&key).await;
        for attempt in 1..READS_MAX {
            match &found {
                // What a store gets wrong for a moment is read again.
                Ok(None) if identity.nonce.is_some() => {}
                Err(MarkerError::Damaged { .. } | MarkerError::Store { .. }) => {}
                _ => break,
            }
            tokio::time::sleep(READ_PAUSE * attempt).await;
            found = self.read(&key).await;
        }
        let found = found?;
        let identity = if found.is_some() { self.plane.identity().await? } else { identity };
        Ok((identity, found))
    }

    /// Compares database and store, and changes nothing.
    pub async fn look(&self) -> Result<Relation, MarkerError> {
        let (identity, found) = self.read_both().await?;
        let key = key::marker(&identity.cluster);
        match (identity.nonce, found) {
            (None, None) => Ok(Relation::New),
            (Some(_), None) => Err(MarkerError::Missing { key }),
            (_, Some((marker, _))) => marker.check(&identity, &key).map(|()| Relation::Pair(identity)),
        }
    }

    /// Compares database and store, and makes them a pair if neither has been used yet. A store that does not
    /// outlive the process is a pair with every database.
    pub async fn pair(&self) -> Result<Identity, MarkerError> {
        if !self.store.is_lasting() {
            return Ok(self.plane.identity().await?);
        }
        let (identity, marker, _) = self.known().await?;
        marker.check(&identity, &key::marker(&identity.cluster))?;
        Ok(identity)
    }

    /// Database and marker, of which each knows the other; makes what is missing for that.
    async fn known(&self) -> Result<(Identity, Marker, UpdateVersion), MarkerError> {
        for _ in 0..LOOKS_MAX {
            let (identity, found) = self.read_both().await?;
            let key = key::marker(&identity.cluster);
            match (identity.nonce, found) {
                (None, None) => {
                    let (cluster, nonce) = (identity.cluster, self.random.secret());
                    let (epoch, beat) = (identity.epoch, identity.beat);
                    let marker = Marker { cluster, nonce, epoch, beat, writer: self.writer() };
                    // Whatever comes of it, the next look tells.
                    if let Err(error) = self.store.put_if(&key, marker.encode(), PutMode::Create).await {
                        let error = crate::error_chain(&error);
                        tracing::warn!(%key, error, "writing the marker failed");
                    }
                }
                (None, Some((marker, _))) if marker.cluster == identity.cluster => {
                    self.plane.adopt_nonce(marker.nonce).await?;
                }
                (Some(_), None) => return Err(MarkerError::Missing { key }),
                (_, Some((marker, version))) => return Ok((identity, marker, version)),
            }
        }
        Err(MarkerError::Contended)
    }

    /// To be called before each batch of deletions, which may be carried out only if this succeeds.
    pub async fn count_deletions(&self) -> Result<(), MarkerError> {
        if !self.store.is_lasting() {
            return Ok(());
        }
        let (identity, marker, version) = self.known().await?;
        let key = key::marker(&identity.cluster);
        marker.check(&identity, &key)?;
        let next = Marker { epoch: identity.epoch, beat: identity.beat + 1, writer: self.writer(), ..marker };
        match self.plane.count_deletions(next.epoch, next.beat).await {
            Ok(()) => self.replace(&key, version, &next).await,
            Err(Error::Rejected(DeletionsRejected::Held)) => Err(MarkerError::Held),
            Err(Error::Rejected(DeletionsRejected::Moved)) => Err(MarkerError::Contended),
            Err(Error::NotApplied(source)) => Err(MarkerError::Plane(Error::NotApplied(source))),
            Err(Error::MaybeApplied(source)) => Err(MarkerError::Plane(Error::MaybeApplied(source))),
        }
    }

    /// Replaces the version of the marker that was read. What the store says is not always what it did, so in
    /// doubt the marker is read again.
    async fn replace(&self, key: &Path, read: UpdateVersion, marker: &Marker) -> Result<(), MarkerError> {
        let written = self.store.put_if(key, marker.encode(), PutMode::Update(read)).await;
        if matches!(written, Ok(true)) {
            return Ok(());
        }
        match self.read(key).await? {
            Some((now, _)) if now.writer == marker.writer => Ok(()),
            _ => Err(match written {
                Err(source) => MarkerError::Store { key: key.clone(), source },
                Ok(_) => MarkerError::Contended,
            }),
        }
    }

    /// Begins an epoch that is later than those of database and marker, and holds deletions for a time.
    /// Returns the database's epoch before, and the new one.
    ///
    /// # Errors
    /// Database and store were not made for each other.
    pub async fn begin_epoch(&self, hold_ms: i64) -> Result<(i64, i64), MarkerError> {
        let (identity, marker, version) = self.known().await?;
        let key = key::marker(&identity.cluster);
        match marker.check(&identity, &key) {
            Ok(()) | Err(MarkerError::Ahead { .. }) => {}
            Err(error) => return Err(error),
        }
        let epoch = identity.epoch.max(marker.epoch) + 1;
        let beat = identity.beat.max(marker.beat);
        self.plane.begin_epoch(epoch, beat, hold_ms).await?;
        self.replace(&key, version, &Marker { epoch, beat, writer: self.writer(), ..marker }).await?;
        Ok((identity.epoch, epoch))
    }
}

#[cfg(test)]
mod tests;
