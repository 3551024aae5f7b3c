//! [`PostgresControlPlane`]: offsets, keys, parts and jobs in one Postgres.
//!
//! Owns: every SQL statement (`queries/<noun>/<verb>.sql`), connection settings, the reading of SQL errors.
//! Must not: know HTTP or object stores.

pub mod postgres;

pub use postgres::{ConnectError, PostgresControlPlane};
