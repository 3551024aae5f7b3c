//! The embedded Postgres, each test with a server of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use millpond_control_plane::embedded::{DATABASE, EmbeddedError, EmbeddedPostgres, Settings};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row};
use tempfile::TempDir;
use tokio::time::Instant;

/// Set for the process that [`a_killed_millpond_leaves_no_server`] starts.
const HELPER_DATA_DIR: &str = "MILLPOND_TEST_EMBEDDED_DATA_DIR";

/// A folder that every user may pass, as the server's user must.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("opened");
    folder
}

fn closed_folder() -> TempDir {
    let folder = folder();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).expect("closed");
    folder
}

fn settings(data_dir: impl Into<PathBuf>) -> Settings {
    Settings { data_dir: data_dir.into(), durable: false }
}

async fn start(data_dir: impl Into<PathBuf>) -> EmbeddedPostgres {
    EmbeddedPostgres::start(settings(data_dir)).await.expect("started")
}

async fn connect(postgres: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect_with(&postgres.connect_options(DATABASE)).await.expect("connected")
}

async fn store_a_row(postgres: &EmbeddedPostgres) {
    let mut connection = connect(postgres).await;
    for statement in ["CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (42)"] {
        sqlx::query(statement).execute(&mut connection).await.expect(statement);
    }
}

async fn stored_row(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query("SELECT id FROM kept").fetch_one(connection).await.map(|row| row.get(0))
}

fn is_root() -> bool {
    let folder = folder();
    std::fs::metadata(folder.path()).expect("metadata").uid() == 0
}

/// Whether a server works on `location`.
fn serves(pid: u32, location: &Path) -> bool {
    let ps = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().expect("ps");
    String::from_utf8_lossy(&ps.stdout).contains(&*location.to_string_lossy())
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn rows_outlive_a_stop() {
    let folder = folder();
    let data_dir = folder.path().join("made/by/start");
    let begun = Instant::now();
    let postgres = start(&data_dir).await;
    println!("first start: {:?}", begun.elapsed());
    assert!(!postgres.relocated());
    assert!(postgres.location().starts_with(folder.path()));
    store_a_row(&postgres).await;
    let pid = postgres.pid().expect("a process");
    let location = postgres.location().to_path_buf();
    assert!(serves(pid, &location));
    let begun = Instant::now();
    postgres.stop().await.expect("stopped");
    println!("stop: {:?}", begun.elapsed());
    assert!(!serves(pid, &location));

    let begun = Instant::now();
    let postgres = start(&data_dir).await;
    println!("second start: {:?}", begun.elapsed());
    let mut connection = connect(&postgres).await;
    assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_url_and_the_promises_hold() {
    let folder = folder();
    // Too long for a socket, and with what a URL and a list of folders must escape.
    let data_dir = folder.path().join(format!("o'dd, \"näme\" %{}", "x".repeat(80)));
    let begun = Instant::now();
    let postgres = EmbeddedPostgres::start(Settings { data_dir, durable: true }).await.expect("started");
    println!("first start of a durable server: {:?}", begun.elapsed());
    let url = postgres.database_url(DATABASE);
    let options = PgConnectOptions::from_str(&url).expect("a URL");
    let mut connection = PgConnection::connect_with(&options).await.expect(&url);
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
    ] {
        let row = sqlx::query("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await
            .expect(name);
        assert_eq!(row.get::<String, _>(0), value, "{name}");
    }
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_killed_server_is_started_again_with_what_it_had() {
    let folder = folder();
    let postgres = start(folder.path().join("data")).await;
    store_a_row(&postgres).await;
    let mut open_session = connect(&postgres).await;
    let killed = postgres.pid().expect("a process");
    let begun = Instant::now();
    kill(killed);
    eventually("a new server", || postgres.pid().is_some_and(|pid| pid != killed)).await;
    println!("back after {:?}", begun.elapsed());
    assert!(stored_row(&mut open_session).await.is_err());
    let mut connection = connect(&postgres).await;
    assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
    postgres.stop().await.expect("stopped");
}

/// A busy session does not see that its server died, and holds the shared memory until it is done.
#[tokio::test]
async fn a_killed_server_comes_back_once_its_last_session_ends() {
    let folder = folder();
    let postgres = start(folder.path().join("data")).await;
    store_a_row(&postgres).await;
    let mut busy = connect(&postgres).await;
    let working = tokio::spawn(async move {
        sqlx::query("SELECT count(*) FROM generate_series(1, 4000) a, generate_series(1, 4000) b")
            .execute(&mut busy)
            .await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let killed = postgres.pid().expect("a process");
    let begun = Instant::now();
    kill(killed);
    eventually("a new server", || postgres.pid().is_some_and(|pid| pid != killed)).await;
    println!("back after {:?}, with a busy session", begun.elapsed());
    drop(working.await);
    let mut connection = connect(&postgres).await;
    assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_folder_serves_one_at_a_time() {
    let folder = folder();
    let data_dir = folder.path().join("data");
    let postgres = start(&data_dir).await;
    let begun = Instant::now();
    let refused = EmbeddedPostgres::start(settings(&data_dir)).await;
    let error = refused.expect_err("in use");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(matches!(&error, EmbeddedError::InUse { folder } if folder.ends_with("data")));
    assert!(error.to_string().contains(&*data_dir.to_string_lossy()));
    store_a_row(&postgres).await;
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_dropped_server_stops_and_the_folder_serves_again() {
    let folder = folder();
    let data_dir = folder.path().join("data");
    let postgres = start(&data_dir).await;
    store_a_row(&postgres).await;
    let (pid, location) = (postgres.pid().expect("a process"), postgres.location().to_path_buf());
    drop(postgres);
    let postgres = start(&data_dir).await;
    assert!(!serves(pid, &location));
    let mut connection = connect(&postgres).await;
    assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_closed_folder_has_its_database_elsewhere() {
    if !is_root() {
        eprintln!("skipped: only root runs the server as another user");
        return;
    }
    for durable in [false, true] {
        let folder = closed_folder();
        let settings = Settings { data_dir: folder.path().join("data"), durable };
        let start = || EmbeddedPostgres::start(settings.clone());
        let postgres = start().await.expect("started");
        assert!(postgres.relocated());
        let location = postgres.location().to_path_buf();
        assert!(!location.starts_with(folder.path()));
        store_a_row(&postgres).await;
        postgres.stop().await.expect("stopped");

        let postgres = start().await.expect("started");
        assert!(postgres.relocated());
        assert_eq!(postgres.location(), location);
        let mut connection = connect(&postgres).await;
        assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
        postgres.stop().await.expect("stopped");

        let home = location.parent().expect("a parent").to_path_buf();
        std::fs::remove_dir_all(&home).expect("removed");
        let error = start().await.expect_err("no empty start in place of a lost database");
        assert!(matches!(error, EmbeddedError::Gone { location, .. } if location == home));
    }
}

#[tokio::test]
async fn a_relocated_throw_away_goes_after_its_folder() {
    if !is_root() {
        eprintln!("skipped: only root runs the server as another user");
        return;
    }
    let mut homes = Vec::new();
    for _ in 0..2 {
        let folder = closed_folder();
        let postgres = start(folder.path().join("data")).await;
        homes.push(postgres.location().parent().expect("a parent").to_path_buf());
        postgres.stop().await.expect("stopped");
    }
    let [first, second] = homes.as_slice() else {
        unreachable!("two");
    };
    assert!(!first.exists() && second.exists());
    std::fs::remove_dir_all(second).expect("removed");
}

#[tokio::test]
async fn an_empty_folder_becomes_the_servers_own() {
    let folder = closed_folder();
    let postgres = start(folder.path()).await;
    assert!(!postgres.relocated());
    postgres.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_database_that_was_closed_later_is_not_replaced_by_an_empty_one() {
    if !is_root() {
        eprintln!("skipped: only root runs the server as another user");
        return;
    }
    let folder = folder();
    let data_dir = folder.path().join("data");
    start(&data_dir).await.stop().await.expect("stopped");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).expect("closed");
    let refused = EmbeddedPostgres::start(settings(&data_dir)).await.expect_err("closed");
    assert!(matches!(refused, EmbeddedError::Closed { .. }), "{refused}");
}

#[tokio::test]
async fn a_failed_start_shows_what_the_server_said() {
    let folder = folder();
    let data_dir = folder.path().join("data");
    let postgres = start(&data_dir).await;
    let settings_file = postgres.location().join("postgresql.conf");
    postgres.stop().await.expect("stopped");
    std::fs::write(&settings_file, "no_such_setting = 1\n").expect("written");
    let begun = Instant::now();
    let error = EmbeddedPostgres::start(settings(&data_dir)).await.expect_err("a bad setting");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    std::fs::write(&settings_file, "").expect("written");
    start(&data_dir).await.stop().await.expect("stopped");
}

#[tokio::test]
async fn another_major_version_is_named() {
    let folder = folder();
    let data_dir = folder.path().join("data");
    let postgres = start(&data_dir).await;
    let version = postgres.location().join("PG_VERSION");
    postgres.stop().await.expect("stopped");
    std::fs::write(&version, "9\n").expect("written");
    let error = EmbeddedPostgres::start(settings(&data_dir)).await.expect_err("another version");
    assert!(
        matches!(&error, EmbeddedError::OtherVersion { made_by: 9, found, .. } if !found.is_empty()),
        "{error}"
    );
}

#[tokio::test]
async fn a_half_made_database_is_made_again() {
    let folder = folder();
    let data_dir = folder.path().join("data");
    let half_made = data_dir.join("unfinished-0");
    std::fs::create_dir_all(&half_made).expect("made");
    std::fs::write(half_made.join("PG_VERSION"), "15\n").expect("written");
    let postgres = start(&data_dir).await;
    assert!(!half_made.exists());
    store_a_row(&postgres).await;
    postgres.stop().await.expect("stopped");
}

/// Also what follows: the server may still be stopping when the folder is wanted again.
#[tokio::test]
async fn a_killed_millpond_leaves_no_server() {
    let folder = folder();
    for wait_for_its_end in [true, false] {
        let data_dir = folder.path().join(format!("data-{wait_for_its_end}"));
        let mut helper = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "helper_runs_until_killed"])
            .env(HELPER_DATA_DIR, &data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("helper");
        let mut said = BufReader::new(helper.stdout.take().expect("a pipe")).lines();
        let pid: u32 = said
            .find_map(|line| line.ok()?.split_once("server ")?.1.trim().parse().ok())
            .expect("the helper names its server");
        let location = data_dir.join("postgres");
        assert!(serves(pid, &location));
        helper.kill().expect("killed");
        helper.wait().expect("ended");
        if wait_for_its_end {
            eventually("the server ends", || !serves(pid, &location)).await;
        }
        let postgres = start(&data_dir).await;
        assert!(!serves(pid, &location));
        let mut connection = connect(&postgres).await;
        assert_eq!(stored_row(&mut connection).await.expect("a row"), 42);
        postgres.stop().await.expect("stopped");
    }
}

#[tokio::test]
#[ignore = "runs inside another test"]
async fn helper_runs_until_killed() {
    let Some(data_dir) = std::env::var_os(HELPER_DATA_DIR) else {
        return;
    };
    let postgres = start(data_dir).await;
    store_a_row(&postgres).await;
    println!("server {}", postgres.pid().expect("a process"));
    tokio::time::sleep(Duration::from_secs(60)).await;
}
