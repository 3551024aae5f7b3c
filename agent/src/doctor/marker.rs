//! Checks whether a database and a store belong together.

use super::report::Report;
use millpond_control_plane::{DatabaseOptions, PostgresControlPlane, SchemaRange};
use millpond_core::{RandomSource, SystemClock};
use millpond_engine::error_chain;
use millpond_engine::marker::{MarkerError, Markers, Relation};
use millpond_engine::store::Store;
use std::sync::Arc;

const CHECK: &str = "cluster.marker";

/// To be called if database and store can be used by themselves.
pub async fn check(options: DatabaseOptions, store: &str, report: &mut Report) {
    let looked = look(options, store).await;
    match looked {
        Ok(Ok(Relation::New)) => {
            report.ok(CHECK, "database and store are new; the first agent makes them a pair");
        }
        Ok(Ok(Relation::Pair(identity))) => {
            let (epoch, beat) = (identity.epoch, identity.beat);
            report.ok(CHECK, format!("database and store are a pair, in epoch {epoch}, deletion {beat}"));
        }
        Ok(Err(error)) => {
            let advice = match &error {
                MarkerError::Ahead { .. } => {
                    "if this database is to go on with this store, stop all agents of any other copy, and \
                     run `millpond recover --new-epoch --yes`; a copy for tests needs a store of its own"
                }
                MarkerError::Missing { .. } | MarkerError::Foreign { .. } => {
                    "agents refuse to start: give --store and --database-url that were used together"
                }
                MarkerError::Damaged { .. } => "restore an earlier version of the object",
                _ => "let the credentials read this object, and try again",
            };
            report.fail(CHECK, error_chain(&error), advice);
        }
        Err(error) => report.fail(CHECK, error, "see the other findings"),
    }
}

async fn look(options: DatabaseOptions, store: &str) -> Result<Result<Relation, MarkerError>, String> {
    let told = |error: &dyn std::error::Error| error_chain(error);
    let store = Store::open(store).map_err(|error| told(&error))?;
    let plane = PostgresControlPlane::connect(options).await.map_err(|error| told(&error))?;
    plane.check_schema(SchemaRange::of_this_build()).await.map_err(|error| told(&error))?;
    let markers = Markers {
        plane: Arc::new(plane.clone()),
        store,
        clock: Arc::new(SystemClock),
        random: Arc::new(RandomSource::from_os()),
    };
    let relation = markers.look().await;
    plane.close().await;
    Ok(relation)
}
