//! Tests of the S3 server through the object store client that the product uses.

use super::fault::Faults;
use super::{Fault, Op, Rule, TestS3, parse_rule};
use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, UpdateVersion,
};
use std::time::Duration;

const BUCKET: &str = "test";

fn s3() -> TestS3 {
    let s3 = TestS3::start(1);
    s3.create_bucket(BUCKET);
    s3
}

/// A client configured from environment variables, as the product configures it.
fn builder(s3: &TestS3) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new().with_bucket_name(BUCKET);
    s3.env().into_iter().fold(builder, |builder, (name, value)| {
        builder.with_config(name.to_lowercase().parse().unwrap(), value)
    })
}

/// A client that does not retry.
fn once(s3: &TestS3) -> AmazonS3 {
    builder(s3).with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() }).build().unwrap()
}

fn client(s3: &TestS3) -> AmazonS3 {
    builder(s3).build().unwrap()
}

fn bytes() -> Bytes {
    (0..1_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>().into()
}

async fn put(client: &AmazonS3, key: &str) -> Result<(), Error> {
    client.put(&Path::from(key), PutPayload::from(bytes())).await.map(drop)
}

async fn get(client: &AmazonS3, key: &str) -> Result<Bytes, Error> {
    client.get(&Path::from(key)).await?.bytes().await
}

#[tokio::test]
async fn objects_are_put_read_listed_and_deleted() {
    let s3 = s3();
    let client = client(&s3);
    for key in ["a/1", "a/b/2", "a/b/3", "c d/é%4"] {
        put(&client, key).await.unwrap();
        assert_eq!(get(&client, key).await.unwrap(), bytes(), "{key}");
    }
    let key = Path::from("a/1");
    assert_eq!(client.get_range(&key, 10..20).await.unwrap(), bytes().slice(10..20));
    assert_eq!(client.get_range(&key, 3_990..5_000).await.unwrap(), bytes().slice(3_990..));
    let beyond = client.get_range(&key, 4_000..4_001).await.unwrap_err();
    assert!(error_text(&beyond).contains("416"), "{beyond:?}");
    assert_eq!(client.head(&key).await.unwrap().size, 4_000);
    let listed: Vec<_> = client.list(Some(&Path::from("a"))).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|o| o.location.to_string()).collect::<Vec<_>>(), ["a/1", "a/b/2", "a/b/3"]);
    let folder = client.list_with_delimiter(Some(&Path::from("a"))).await.unwrap();
    assert_eq!((folder.objects.len(), folder.common_prefixes), (1, vec![Path::from("a/b")]));
    client.delete(&key).await.unwrap();
    client.delete(&key).await.unwrap();
    assert!(matches!(get(&client, "a/1").await, Err(Error::NotFound { .. })));
    assert!(matches!(client.head(&key).await, Err(Error::NotFound { .. })));
    assert_eq!(s3.keys(BUCKET), ["a/b/2", "a/b/3", "c d/%C3%A9%254"], "as the client spells them");
    assert_eq!(s3.requests(Op::Put), 4);
    assert_eq!(s3.requests(Op::Delete), 2);
    assert_eq!(s3.requests_by_key(Op::Get)["a/1"], 5);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let s3 = s3();
    for n in 0..2_500 {
        s3.put(BUCKET, &format!("k/{n:05}"), "x");
    }
    let listed: Vec<_> = client(&s3).list(None).try_collect().await.unwrap();
    assert_eq!((listed.len(), s3.requests(Op::List)), (2_500, 3));
}

#[tokio::test]
async fn who_signs_wrongly_is_refused() {
    let s3 = s3();
    put(&client(&s3), "a").await.unwrap();
    for wrong in [builder(&s3).with_secret_access_key("other"), builder(&s3).with_access_key_id("other")] {
        let wrong = wrong.build().unwrap();
        assert!(matches!(get(&wrong, "a").await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(put(&wrong, "b").await, Err(Error::PermissionDenied { .. })));
    }
    let elsewhere = builder(&s3).with_bucket_name("elsewhere").build().unwrap();
    let error = put(&elsewhere, "a").await.unwrap_err();
    assert!(error_text(&error).contains("NoSuchBucket"), "{error:?}");
    let unsigned = reqwest().get(format!("{}/{BUCKET}/a", s3.url())).send().await.unwrap();
    assert_eq!(unsigned.status(), 403);
    assert_eq!(s3.keys(BUCKET), ["a"]);
}

fn reqwest() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn error_text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(error_text).unwrap_or_default();
    format!("{error}: {source}")
}

#[tokio::test]
async fn a_body_that_is_not_what_it_claims_to_be_is_refused() {
    let s3 = s3();
    let signer = client(&s3);
    for (name, value) in [
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ] {
        let url = signer.signed_url(Method::PUT, &Path::from("a"), Duration::from_secs(60)).await.unwrap();
        let answer = reqwest().put(url).header(name, value).body("body").send().await.unwrap();
        assert_eq!(answer.status(), 400, "{name}");
        assert!(answer.text().await.unwrap().contains("BadDigest"), "{name}");
    }
    assert!(s3.keys(BUCKET).is_empty());
    let sound = builder(&s3).with_checksum_algorithm(Checksum::SHA256).build().unwrap();
    put(&sound, "a").await.unwrap();
    assert_eq!(s3.get(BUCKET, "a"), Some(bytes()));
}

async fn replace(client: &AmazonS3, etag: &Option<String>) -> Result<(), Error> {
    let version = UpdateVersion { e_tag: etag.clone(), version: None };
    client
        .put_opts(&Path::from("a"), PutPayload::from(bytes()), PutMode::Update(version).into())
        .await
        .map(drop)
}

#[tokio::test]
async fn conditions_are_judged_and_kept_at_once() {
    let s3 = s3();
    let client = client(&s3);
    let key = Path::from("a");
    let create = || client.put_opts(&key, PutPayload::from("first"), PutMode::Create.into());
    let etag = create().await.unwrap().e_tag;
    assert!(matches!(create().await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(replace(&client, &Some("\"0\"".to_owned())).await, Err(Error::Precondition { .. })));
    let gone = UpdateVersion { e_tag: etag.clone(), version: None };
    let gone = client.put_opts(&Path::from("b"), PutPayload::from("x"), PutMode::Update(gone).into()).await;
    assert!(
        matches!(gone, Err(Error::Precondition { .. })),
        "404, which the client takes for a failed condition: {gone:?}"
    );
    let outcomes = futures::future::join_all((0..10).map(|_| replace(&client, &etag))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one of many wins");
    let etag = client.head(&Path::from("a")).await.unwrap().e_tag;
    let unless = |etag: &Option<String>| GetOptions { if_match: etag.clone(), ..GetOptions::default() };
    assert!(client.get_opts(&Path::from("a"), unless(&etag)).await.is_ok());
    assert!(matches!(
        client.get_opts(&Path::from("a"), unless(&Some("\"0\"".to_owned()))).await,
        Err(Error::Precondition { .. })
    ));
}

#[tokio::test]
async fn a_change_during_a_conditional_put_is_a_conflict() {
    let s3 = s3();
    s3.put(BUCKET, "a", "first");
    let etag = client(&s3).head(&Path::from("a")).await.unwrap().e_tag;
    s3.add_fault(Rule::new(Fault::Delay).on(Op::Put).first(1).lasting(Duration::from_secs(1)));
    let late = tokio::spawn({
        let (client, etag) = (once(&s3), etag.clone());
        async move { replace(&client, &etag).await }
    });
    while s3.requests(Op::Put) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    replace(&client(&s3), &etag).await.unwrap();
    let error = late.await.unwrap().unwrap_err();
    assert!(error_text(&error).contains("ConditionalRequestConflict"), "{error:?}");
}

#[tokio::test]
async fn every_fault_does_what_it_says_and_is_counted() {
    for fault in Fault::ALL {
        let s3 = s3();
        s3.put(BUCKET, "v1/a", bytes());
        s3.put(BUCKET, "other", bytes());
        s3.add_fault(Rule::new(fault).on(Op::Get).under("v1/").first(1).lasting(Duration::from_millis(50)));
        let client = once(&s3);
        assert_eq!(get(&client, "other").await.unwrap(), bytes(), "{fault:?} is about other objects");
        match (fault, get(&client, "v1/a").await) {
            (Fault::Delay | Fault::Drip, Ok(read)) => assert_eq!(read, bytes()),
            (Fault::Flip, Ok(read)) => assert!(read != bytes() && read.len() == bytes().len()),
            (Fault::Missing, Err(Error::NotFound { .. }))
            | (Fault::Forbidden, Err(Error::PermissionDenied { .. })) => {}
            (Fault::Internal, Err(e)) => assert!(error_text(&e).contains("InternalError"), "{e:?}"),
            (Fault::SlowDown, Err(e)) => assert!(error_text(&e).contains("SlowDown"), "{e:?}"),
            (Fault::ResetBefore | Fault::ResetAfter | Fault::Truncate, Err(Error::Generic { .. })) => {}
            (_, outcome) => panic!("{fault:?}: {outcome:?}"),
        }
        assert_eq!(get(&client, "v1/a").await.unwrap(), bytes(), "{fault:?} is over");
        assert_eq!(s3.injected().into_iter().collect::<Vec<_>>(), [(fault, 1)]);
    }
}

#[tokio::test]
async fn a_reset_put_took_effect_or_not() {
    for (fault, stored) in [(Fault::ResetBefore, false), (Fault::ResetAfter, true)] {
        let s3 = s3();
        s3.add_fault(Rule::new(fault).on(Op::Put).nth(2));
        put(&once(&s3), "a").await.unwrap();
        put(&once(&s3), "b").await.unwrap_err();
        assert_eq!(s3.get(BUCKET, "b").is_some(), stored);
        s3.add_fault(Rule::new(fault).on(Op::Put).first(1));
        put(&client(&s3), "c").await.unwrap();
        assert_eq!(
            (s3.get(BUCKET, "c"), s3.requests_by_key(Op::Put)["c"]),
            (Some(bytes()), 2),
            "the client sends it again"
        );
    }
}

#[tokio::test]
async fn reads_that_break_are_taken_up_again_by_the_client() {
    for fault in [Fault::Internal, Fault::SlowDown, Fault::ResetBefore, Fault::ResetAfter, Fault::Truncate] {
        let s3 = s3();
        s3.put(BUCKET, "a", bytes());
        s3.add_fault(Rule::new(fault).on(Op::Get).first(2));
        assert_eq!(
            client(&s3).get_range(&Path::from("a"), 7..3_007).await.unwrap(),
            bytes().slice(7..3_007),
            "{fault:?}"
        );
        assert_eq!(s3.injected()[&fault], 2);
    }
}

#[test]
fn the_seed_decides() {
    let draws = |seed| -> Vec<Option<Fault>> {
        let mut faults = Faults::new(seed);
        faults.add(Rule::any_fault().chance(0.3));
        (0..200).map(|_| faults.draw(Op::Get, &["k".to_owned()]).map(|i| i.fault)).collect()
    };
    assert_eq!(draws(7), draws(7));
    assert_ne!(draws(7), draws(8));
    let met: std::collections::BTreeSet<Fault> = draws(7).into_iter().flatten().collect();
    assert_eq!(met.len(), Fault::ALL.len());
}

#[test]
fn rules_are_read_as_they_are_written() {
    assert_eq!(parse_rule("all=0.01"), Ok(Rule::any_fault().chance(0.01)));
    assert_eq!(parse_rule("get:flip=1"), Ok(Rule::new(Fault::Flip).on(Op::Get).chance(1.0)));
    for wrong in ["all", "all=2", "flop=0.1", "post:flip=0.1", "all=x"] {
        assert!(parse_rule(wrong).is_err(), "{wrong}");
    }
}
