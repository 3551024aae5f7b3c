//! Checks whether agents can work with a Postgres, and whether it is set up to keep what it commits.

use super::report::Report;
use millpond_control_plane::postgres::examine::{self, AGENT_CONNECTIONS, Examined};
use millpond_control_plane::{ConnectError, DatabaseOptions, SchemaRange};
use millpond_core::Clock;
use millpond_engine::error_chain;
use std::time::Duration;

/// Longest wait for all statements of the check.
const EXAMINE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Oldest version of Postgres that is supported, as in `server_version_num`.
const VERSION_MIN: i32 = 140_000;
/// Difference of clocks above which there is a warning. Agents stamp records with their own clock, so larger
/// differences would be visible in timestamps.
const CLOCK_SKEW_MAX_MS: i64 = 1_000;
/// Round trip above which there is a warning, since every produce waits for at least one.
const ROUND_TRIP_MAX_MS: i64 = 20;

pub async fn check(options: DatabaseOptions, clock: &dyn Clock, report: &mut Report) {
    let looked = tokio::time::timeout(EXAMINE_WAIT_MAX, examine::examine(options, clock)).await;
    match looked {
        Ok(Ok(examined)) => judge(&examined, report),
        Ok(Err(error)) => unreachable(&error_chain(&error), report),
        Err(_) => unreachable(&format!("no answer within {} s", EXAMINE_WAIT_MAX.as_secs()), report),
    }
}

fn unreachable(error: &str, report: &mut Report) {
    let advice = if error.contains("unsupported startup parameter") {
        "a connection pooler is in between: give agents the database's own address, since they use prepared \
         statements and session settings"
    } else if error.contains("password") || error.contains("authentication") {
        "check user and password in --database-url, and pg_hba.conf"
    } else if error.contains("does not exist") {
        "make the database and its role: create role millpond login; create database millpond owner millpond"
    } else {
        "check host and port in --database-url, and that the server runs and may be reached from here"
    };
    report.fail("database.reachable", error, advice);
}

pub(super) fn judge(examined: &Examined, report: &mut Report) {
    let database = &examined.database;
    report.ok("database.reachable", format!("answers within {} ms", examined.round_trip_ms));
    if database.version >= VERSION_MIN {
        report.ok("database.version", format!("PostgreSQL {}", database.version_text));
    } else {
        report.fail(
            "database.version",
            format!("PostgreSQL {}", database.version_text),
            "upgrade to version 14 or newer",
        );
    }
    if database.standby {
        report.fail(
            "database.primary",
            "a standby: nothing can be written",
            "give agents the primary's address",
        );
    } else {
        report.ok("database.primary", "can be written");
    }
    durability(examined, report);
    connections(examined, report);
    schema(examined, report);
    clocks(examined, report);
}

fn durability(examined: &Examined, report: &mut Report) {
    let database = &examined.database;
    for (check, name, value) in [
        ("database.fsync", "fsync", &database.fsync),
        ("database.full_page_writes", "full_page_writes", &database.full_page_writes),
    ] {
        if value == "on" {
            report.ok(check, "on");
        } else {
            let advice =
                format!("agents refuse this database: alter system set {name} = on; select pg_reload_conf()");
            report.fail(check, format!("{value}: acknowledged records can be lost"), advice);
        }
    }
    match database.synchronous_commit.as_str() {
        "off" => report.warn(
            "database.synchronous_commit",
            "off by default; agents switch it on for their sessions",
            "alter system set synchronous_commit = on; select pg_reload_conf(), so that other clients do not \
             lose acknowledged commits either",
        ),
        value => report.ok("database.synchronous_commit", value),
    }
    let standbys = &database.synchronous_standby_names;
    let told = match (standbys.is_empty(), database.synchronous_commit.as_str()) {
        (true, _) => {
            "none: what was acknowledged is on this server alone until it is replicated or backed up"
                .to_owned()
        }
        (false, "local") => format!("{standbys}, which synchronous_commit = local does not wait for"),
        (false, _) => format!("{standbys}: commits wait for them"),
    };
    report.info("database.synchronous_standby_names", told);
}

fn connections(examined: &Examined, report: &mut Report) {
    let database = &examined.database;
    if examined.pooled || !database.session_settings {
        report.fail(
            "database.pooler",
            "a connection pooler in between assigns connections per transaction, or drops session settings",
            format!(
                "give agents the database's own address; each holds at most {AGENT_CONNECTIONS} connections"
            ),
        );
    } else {
        report.ok("database.pooler", "none seen");
    }
    let free = i64::from(database.connections) - i64::from(database.connections_used);
    let told = format!("{free} of {} free; an agent takes up to {AGENT_CONNECTIONS}", database.connections);
    if free < i64::from(AGENT_CONNECTIONS) {
        let advice =
            format!("raise max_connections by {AGENT_CONNECTIONS} for each agent, and restart Postgres");
        report.warn("database.connections", told, advice);
    } else {
        report.ok("database.connections", told);
    }
}

fn schema(examined: &Examined, report: &mut Report) {
    let check = "database.schema";
    let range = SchemaRange::of_this_build();
    let (found, newest) = (examined.schema.version(&range), range.newest_known);
    match range.check(&examined.schema) {
        _ if examined.schema.broken => {
            report.fail(
                check,
                "a migration began and failed",
                "look at the error of `millpond migrate`, repair its cause, and run it again",
            );
        }
        Err(ConnectError::SchemaTooNew { oldest_agent, .. }) => {
            let told = format!(
                "migration {found}; agents must know {oldest_agent}, and this version knows {newest}"
            );
            report.fail(check, told, "use the newest version of millpond that works on this database");
        }
        Err(_) if found == 0 => report.fail(check, "no migration applied", "run `millpond migrate`"),
        Err(_) => report.fail(check, format!("migration {found} of {newest}"), "run `millpond migrate`"),
        Ok(()) if found > newest => {
            report.ok(
                check,
                format!("migration {found}, newer than this version's {newest}, which can use it"),
            );
        }
        Ok(()) => report.ok(check, format!("migration {found}")),
    }
}

fn clocks(examined: &Examined, report: &mut Report) {
    let told = format!(
        "the server's clock is {} ms ahead of ours, give or take {}",
        examined.clock_ahead_ms,
        examined.round_trip_ms / 2 + 1
    );
    if examined.clock_ahead_ms.abs() > CLOCK_SKEW_MAX_MS + examined.round_trip_ms {
        report.warn("database.clock", told, "run NTP on both; agents stamp records with their own clock");
    } else {
        report.ok("database.clock", told);
    }
    if examined.round_trip_ms > ROUND_TRIP_MAX_MS {
        let told = format!("a statement takes {} ms", examined.round_trip_ms);
        report.warn(
            "database.distance",
            told,
            "run agents in the database's region: every produce waits for at least one commit",
        );
    }
}
