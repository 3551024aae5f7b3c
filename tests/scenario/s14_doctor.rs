//! `millpond doctor` on good and bad installations.

use millpond_tests::harness::agent::{BUCKET, Cluster, PREFIX};
use millpond_tests::harness::child::millpond;
use millpond_tests::s3::{Fault, Op, Rule, Versioning};
use serde_json::{Value, json};
use std::process::Output;

struct Told {
    success: bool,
    report: Value,
}

fn told(ran: &Output) -> Told {
    let report = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stderr)));
    let told = Told { success: ran.status.success(), report };
    assert_eq!(told.report["healthy"], json!(told.success));
    told
}

impl Told {
    fn finding(&self, check: &str) -> &Value {
        let findings = self.report["findings"].as_array().expect("a list");
        findings
            .iter()
            .find(|finding| finding["check"] == check)
            .unwrap_or_else(|| panic!("no {check} in {:#}", self.report))
    }

    #[track_caller]
    fn is(&self, check: &str, status: &str, text: &str) {
        let finding = self.finding(check);
        assert!(finding["status"] == status && finding.to_string().contains(text), "{finding}");
        assert_eq!(finding["advice"].is_string(), ["warning", "failure"].contains(&status), "{finding}");
    }
}

async fn doctor(cluster: &Cluster, args: &[&str]) -> Told {
    told(&cluster.run(&[&["doctor", "--json"], args].concat()).await)
}

#[tokio::test]
async fn what_is_well_is_said_to_be() {
    let cluster = Cluster::new().await;
    cluster.s3.set_versioning(BUCKET, Versioning::Enabled);
    cluster.s3.set_encryption(BUCKET, Some("AES256"));
    let report = doctor(&cluster, &[]).await;
    assert!(report.success);
    for check in [
        "database.reachable",
        "database.version",
        "database.fsync",
        "database.full_page_writes",
        "database.synchronous_commit",
        "database.pooler",
        "database.connections",
        "database.schema",
        "database.clock",
        "store.reachable",
        "store.clock",
        "store.write",
        "store.read",
        "store.delete",
        "store.versioning",
        "store.encryption",
        "cluster.marker",
    ] {
        report.is(check, "ok", "");
    }
    assert!(cluster.s3.keys(BUCKET).is_empty(), "the probe is gone");
    let table = cluster.run(&["doctor"]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.lines().all(|line| line.starts_with("ok ") || line.starts_with("info ")), "{table}");
}

#[tokio::test]
async fn of_a_database_it_says_what_is_missing() {
    let cluster = Cluster::unmigrated().await;
    let report = doctor(&cluster, &[]).await;
    assert!(!report.success);
    report.is("database.schema", "failure", "millpond migrate");
    assert!(cluster.migrate().await.status.success());
    assert!(doctor(&cluster, &[]).await.success);
    cluster
        .database
        .run(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
            values (1000, 'of a later release', true, '', 0)",
        )
        .await;
    doctor(&cluster, &[]).await.is("database.schema", "ok", "newer than this version's");
    cluster.database.run("update cluster set oldest_agent = 1000").await;
    doctor(&cluster, &[]).await.is("database.schema", "failure", "newest version");
    let nowhere = doctor(&cluster, &["--database-url", "postgres://nobody@127.0.0.1:1/none"]).await;
    assert!(!nowhere.success);
    nowhere.is("database.reachable", "failure", "host and port");
    nowhere.is("store.write", "ok", "");
    let unmade = cluster.database.url().replace("/test_", "/none_");
    doctor(&cluster, &["--database-url", &unmade]).await.is(
        "database.reachable",
        "failure",
        "create database",
    );
}

#[tokio::test]
async fn of_a_bucket_it_says_what_could_be_better() {
    let cluster = Cluster::new().await;
    let report = doctor(&cluster, &[]).await;
    assert!(report.success, "warnings fail nothing");
    report.is("store.versioning", "warning", "put-bucket-versioning");
    report.is("store.encryption", "warning", "encryption");
    cluster.s3.set_versioning(BUCKET, Versioning::Suspended);
    doctor(&cluster, &[]).await.is("store.versioning", "warning", "suspended");
    cluster.s3.set_clock_skew_ms(-300_000);
    doctor(&cluster, &[]).await.is("store.clock", "warning", "NTP");
    cluster.s3.set_clock_skew_ms(3_600_000);
    doctor(&cluster, &[]).await.is("store.clock", "failure", "NTP");
    cluster.s3.set_clock_skew_ms(0);
    cluster.s3.add_fault(Rule::new(Fault::Forbidden).on(Op::List));
    cluster.s3.add_fault(Rule::new(Fault::Forbidden).on(Op::Bucket));
    let report = doctor(&cluster, &[]).await;
    report.is("store.reachable", "warning", "s3:ListBucket");
    report.is("store.versioning", "info", "AccessDenied");
}

#[tokio::test]
async fn of_a_bucket_it_says_what_is_wrong() {
    let cluster = Cluster::new().await;
    for (op, check) in [(Op::Put, "store.write"), (Op::Get, "store.read"), (Op::Delete, "store.delete")] {
        cluster.s3.add_fault(Rule::new(Fault::Forbidden).on(op).under(PREFIX));
        let report = doctor(&cluster, &[]).await;
        assert!(!report.success);
        report.is(check, "failure", "s3:PutObject");
        cluster.s3.clear_faults();
    }
    cluster.s3.add_fault(Rule::new(Fault::Flip).on(Op::Get));
    doctor(&cluster, &[]).await.is("store.read", "failure", "differ from those");
    cluster.s3.clear_faults();
    doctor(&cluster, &["--store", "s3://elsewhere/x"]).await.is(
        "store.reachable",
        "failure",
        "no such bucket",
    );
    doctor(&cluster, &["--store", "gs://bucket"]).await.is("store.url", "failure", "s3://bucket/prefix");
    for (name, value) in [("AWS_ACCESS_KEY_ID", "other"), ("AWS_SECRET_ACCESS_KEY", "other")] {
        let mut command = tokio::process::Command::from(cluster.command(&["doctor", "--json"]));
        let report = told(&command.env(name, value).output().await.unwrap());
        assert!(!report.success);
        report.is("store.reachable", "failure", "AWS_SECRET_ACCESS_KEY");
    }
    let mut command = tokio::process::Command::from(cluster.command(&["doctor", "--json"]));
    let report = told(&command.env("AWS_ENDPOINT", "http://127.0.0.1:1").output().await.unwrap());
    report.is("store.reachable", "failure", "AWS_ENDPOINT");
}

#[tokio::test]
async fn a_folder_is_tried_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let mut command = tokio::process::Command::from(millpond());
    let report = told(&command.args(["doctor", "--json", "--store", &url]).output().await.unwrap());
    for check in ["store.write", "store.read", "store.delete"] {
        report.is(check, "ok", "");
    }
    report.finding("store.sync");
    report.finding("store.space");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let url = format!("file://{}/below", file.display());
    let mut command = tokio::process::Command::from(millpond());
    let report = told(&command.args(["doctor", "--json", "--store", &url]).output().await.unwrap());
    report.is("store.place", "failure", "make the folder");
    let mut command = tokio::process::Command::from(millpond());
    let ran = command.arg("doctor").output().await.unwrap();
    assert!(!ran.status.success() && String::from_utf8_lossy(&ran.stderr).contains("--store"));
}
