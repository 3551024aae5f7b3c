//! Findings about databases that are hard to set up in a test, from made-up examinations. Real databases are
//! checked in `tests/scenario/s14_doctor.rs`.

use super::database::judge;
use super::report::{Report, Status};
use millpond_control_plane::postgres::MIGRATIONS;
use millpond_control_plane::postgres::examine::{Database, Examined};
use millpond_control_plane::postgres::schema::Schema;

fn well() -> Examined {
    let database = Database {
        version: 150_008,
        version_text: "15.8".to_owned(),
        fsync: "on".to_owned(),
        full_page_writes: "on".to_owned(),
        synchronous_commit: "on".to_owned(),
        synchronous_standby_names: String::new(),
        connections: 97,
        connections_used: 3,
        standby: false,
        session_settings: true,
        backend: 1,
        now_ms: 0,
    };
    let applied = MIGRATIONS.iter().map(|m| m.version).collect();
    Examined {
        database,
        clock_ahead_ms: 3,
        round_trip_ms: 1,
        pooled: false,
        schema: Schema { applied, broken: false, oldest_agent: 0 },
    }
}

fn report(examined: &Examined) -> Report {
    let mut report = Report::default();
    judge(examined, &mut report);
    report
}

/// The only finding that is a warning or failure.
fn finding(change: impl FnOnce(&mut Examined)) -> (&'static str, Status, String) {
    let mut examined = well();
    change(&mut examined);
    let report = report(&examined);
    let mut bad = report.findings.iter().filter(|f| matches!(f.status, Status::Warning | Status::Failure));
    let found = bad.next().expect("a finding");
    assert_eq!(bad.next(), None);
    let advice = found.advice.clone().expect("advice");
    (found.check, found.status, advice)
}

#[test]
fn a_good_database_is_well() {
    let report = report(&well());
    assert!(!report.failed() && report.findings.iter().all(|f| f.advice.is_none()), "{report:?}");
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    use Status::{Failure, Warning};
    type Change = fn(&mut Examined);
    let cases: [(Change, &str, Status, &str); 13] = [
        (|e| e.database.version = 130_012, "database.version", Failure, "14"),
        (|e| e.database.standby = true, "database.primary", Failure, "primary"),
        (|e| e.database.fsync = "off".to_owned(), "database.fsync", Failure, "fsync = on"),
        (
            |e| e.database.full_page_writes = "off".to_owned(),
            "database.full_page_writes",
            Failure,
            "full_page_writes = on",
        ),
        (
            |e| e.database.synchronous_commit = "off".to_owned(),
            "database.synchronous_commit",
            Warning,
            "synchronous_commit = on",
        ),
        (|e| e.database.connections_used = 90, "database.connections", Warning, "max_connections"),
        (|e| e.database.session_settings = false, "database.pooler", Failure, "own address"),
        (|e| e.pooled = true, "database.pooler", Failure, "own address"),
        (|e| e.schema.applied.truncate(2), "database.schema", Failure, "millpond migrate"),
        (|e| e.schema.oldest_agent = 1_000, "database.schema", Failure, "newest version"),
        (|e| e.schema.broken = true, "database.schema", Failure, "run it again"),
        (|e| e.clock_ahead_ms = -5_000, "database.clock", Warning, "NTP"),
        (|e| e.round_trip_ms = 80, "database.distance", Warning, "region"),
    ];
    for (change, check, status, advice) in cases {
        let found = finding(change);
        assert_eq!((found.0, found.1), (check, status));
        assert!(found.2.contains(advice), "{found:?}");
    }
}

#[test]
fn a_report_is_told_as_a_table_and_as_json() {
    let mut report = Report::default();
    report.ok("a.b", "fine");
    report.fail("a.longer", "bad", "do this");
    let told = |json| {
        let mut out = Vec::new();
        report.print(&mut out, json).expect("written");
        String::from_utf8(out).expect("text")
    };
    assert_eq!(
        told(false),
        "ok       a.b       fine\nFAILURE  a.longer  bad\n                   -> do this\n"
    );
    let first = r#"{"check":"a.b","status":"ok","detail":"fine","advice":null}"#;
    let second = r#"{"check":"a.longer","status":"failure","detail":"bad","advice":"do this"}"#;
    assert_eq!(told(true), format!("{{\"healthy\":false,\"findings\":[{first},{second}]}}\n"));
}
