//! The identity of the cluster: the trait [`Cluster`](millpond_core::control_plane::Cluster) on Postgres.

use super::PostgresControlPlane;
use super::connection::{BACKGROUND, WRITE, retried, sent};
use super::error::classify;
use async_trait::async_trait;
use millpond_core::Error;
use millpond_core::control_plane::{Cluster, DeletionsRejected, Identity};
use uuid::Uuid;

#[async_trait]
impl Cluster for PostgresControlPlane {
    async fn identity(&self) -> Result<Identity, Error> {
        let row = retried!(self, c => sqlx::query_file!("queries/cluster/identity.sql").fetch_one(c))?;
        Ok(Identity { cluster: row.cluster, nonce: row.nonce, epoch: row.epoch, beat: row.beat })
    }

    async fn adopt_nonce(&self, nonce: Uuid) -> Result<(), Error> {
        let statement = sqlx::query_file!("queries/cluster/adopt_nonce.sql", nonce);
        sent!(self, WRITE, c => statement.execute(c))?.map(|_| ()).map_err(classify)
    }

    async fn count_deletions(&self, epoch: i64, beat: i64) -> Result<(), Error<DeletionsRejected>> {
        let statement = sqlx::query_file!("queries/cluster/count_deletions.sql", epoch, beat);
        let row = sent!(self, BACKGROUND, c => statement.fetch_one(c))
            .and_then(|sent| sent.map_err(classify))
            .map_err(Error::from_infallible)?;
        match row {
            row if row.counted => Ok(()),
            row if row.held => Err(Error::Rejected(DeletionsRejected::Held)),
            _ => Err(Error::Rejected(DeletionsRejected::Moved)),
        }
    }

    async fn begin_epoch(&self, epoch: i64, beat: i64, hold_ms: i64) -> Result<(), Error> {
        let statement = sqlx::query_file!("queries/cluster/begin_epoch.sql", epoch, beat, hold_ms);
        sent!(self, WRITE, c => statement.execute(c))?.map(|_| ()).map_err(classify)
    }
}
