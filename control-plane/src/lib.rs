//! [`PostgresControlPlane`]: offsets, keys, parts and jobs in one Postgres.
//!
//! Owns: every SQL statement (`queries/<noun>/<verb>.sql`), connection settings, the reading of SQL errors,
//! and the Postgres that Millpond can run itself ([`embedded`]). Must not: know HTTP or object stores.

pub mod embedded;
pub mod postgres;

pub use postgres::schema::SchemaRange;
pub use postgres::{ConnectError, PostgresControlPlane};
/// Where and as whom to connect; parsed from a `postgres://` URL.
pub use sqlx::postgres::PgConnectOptions as DatabaseOptions;
