//! Tests of the store against the test S3 server, through the client that agents use.

use super::*;
use crate::fetch::cache::BlockCache;
use millpond_core::PartId;
use millpond_format::key;
use millpond_tests::s3::{Fault, Op, Rule, TestS3};
use uuid::Uuid;

const BUCKET: &str = "millpond";

fn store(s3: &TestS3) -> Store {
    s3.create_bucket(BUCKET);
    let builder = AmazonS3Builder::new().with_bucket_name(BUCKET);
    let with = |builder: AmazonS3Builder, (name, value): (&str, String)| {
        builder.with_config(name.to_lowercase().parse().expect(name), value)
    };
    Store::bucket(s3.env().into_iter().fold(builder, with).build().expect("a client"), "some/where")
}

fn bytes() -> Bytes {
    (0..10_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn a_put_stores_once_whatever_befalls_it() {
    for fault in [
        Fault::Internal,
        Fault::SlowDown,
        Fault::Forbidden,
        Fault::Delay,
        Fault::ResetBefore,
        Fault::ResetAfter,
    ] {
        let s3 = TestS3::start(1);
        let store = store(&s3);
        s3.add_fault(Rule::new(fault).on(Op::Put).first(2));
        store.put(&Path::from("k"), &bytes()).await.expect("stored");
        assert_eq!(s3.get(BUCKET, "some/where/k"), Some(bytes()), "{fault:?}");
        assert!(s3.injected()[&fault] >= 1);
    }
}

#[tokio::test]
async fn a_read_is_tried_again_whatever_befalls_it() {
    let retried = [
        Fault::Internal,
        Fault::SlowDown,
        Fault::Forbidden,
        Fault::Delay,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Truncate,
        Fault::Drip,
    ];
    for fault in retried {
        let s3 = TestS3::start(1);
        let store = store(&s3);
        s3.put(BUCKET, "some/where/k", bytes());
        s3.add_fault(Rule::new(fault).on(Op::Get).first(2));
        let read = store.get_range(&Path::from("k"), 5..30_000).await;
        assert_eq!(read.expect("read"), bytes().slice(5..30_000), "{fault:?}");
        assert!(s3.injected()[&fault] >= 1);
    }
}

#[tokio::test]
async fn a_refused_read_is_no_missing_object() {
    let s3 = TestS3::start(1);
    let store = store(&s3);
    s3.put(BUCKET, "some/where/k", bytes());
    s3.add_fault(Rule::new(Fault::Forbidden).on(Op::Get));
    for key in ["k", "none"] {
        assert!(matches!(store.get_range(&Path::from(key), 0..1).await, Err(StoreError::Failed(_))));
    }
    assert_eq!(s3.injected()[&Fault::Forbidden], 8);
    s3.clear_faults();
    assert!(matches!(store.get_range(&Path::from("none"), 0..1).await, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn a_missing_bucket_is_no_missing_object() {
    let s3 = TestS3::start(1);
    let elsewhere = s3
        .env()
        .into_iter()
        .fold(AmazonS3Builder::new().with_bucket_name("elsewhere"), |builder, (name, value)| {
            builder.with_config(name.to_lowercase().parse().expect(name), value)
        });
    let elsewhere = Store::bucket(elsewhere.build().expect("a client"), "");
    assert!(matches!(elsewhere.get_range(&Path::from("k"), 0..1).await, Err(StoreError::Failed(_))));
}

#[tokio::test]
async fn deleting_what_is_gone_is_deleting() {
    let s3 = TestS3::start(1);
    let store = store(&s3);
    s3.put(BUCKET, "some/where/k", bytes());
    for fault in [Fault::ResetAfter, Fault::Internal, Fault::ResetBefore] {
        s3.add_fault(Rule::new(fault).on(Op::Delete).first(1));
        store.delete(&Path::from("k")).await.expect("deleted");
        s3.clear_faults();
    }
    assert!(s3.keys(BUCKET).is_empty());
}

#[tokio::test]
async fn many_that_want_a_block_cost_one_get() {
    let s3 = TestS3::start(1);
    let part = PartId(Uuid::from_u128(7));
    let key = key::ingest("c", part);
    let store = store(&s3);
    s3.put(BUCKET, &format!("some/where/{key}"), bytes());
    s3.add_fault(Rule::new(Fault::Delay).on(Op::Get));
    let cache = BlockCache::new(1 << 20, store, "c".to_owned());
    let reads = futures::future::join_all((0..20).map(|n| cache.block(part, 0, n % 2 == 0))).await;
    assert!(reads.into_iter().all(|read| read.expect("read") == bytes()));
    assert_eq!(s3.requests(Op::Get), 1);
}

#[tokio::test]
async fn memory_is_a_store() {
    let store = Store::open("memory:").expect("opened");
    store.put(&Path::from("k"), &bytes()).await.expect("stored");
    assert_eq!(store.get_range(&Path::from("k"), 5..30_000).await.expect("read"), bytes().slice(5..30_000));
    store.delete(&Path::from("k")).await.expect("deleted");
    assert!(matches!(store.get_range(&Path::from("k"), 0..1).await, Err(StoreError::NotFound)));
    assert!(matches!(Store::open("ftp:x"), Err(OpenError::Url(_))));
}
