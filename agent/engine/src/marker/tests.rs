//! Tests of births, comparisons and deletions, on the test S3 and on a folder.

use super::*;
use millpond_core::control_plane::Cluster;
use millpond_core::{MemoryControlPlane, SystemClock};
use millpond_tests::s3::{Fault, Op, Rule, TestS3};
use object_store::aws::AmazonS3Builder;

const BUCKET: &str = "millpond";
const KEY: &str = "v1/memory/marker";

fn plane() -> Arc<MemoryControlPlane> {
    Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)))
}

fn bucket(s3: &TestS3) -> Store {
    s3.create_bucket(BUCKET);
    let builder = AmazonS3Builder::new().with_bucket_name(BUCKET);
    let with = |builder: AmazonS3Builder, (name, value): (&str, String)| {
        builder.with_config(name.to_lowercase().parse().expect(name), value)
    };
    Store::bucket(s3.env().into_iter().fold(builder, with).build().expect("a client"), "")
}

fn markers(plane: &Arc<MemoryControlPlane>, store: &Store) -> Markers {
    let plane: Arc<dyn ControlPlane> = plane.clone();
    let random = Arc::new(RandomSource::from_os());
    Markers { plane, store: store.clone(), clock: Arc::new(SystemClock), random }
}

/// The history of a cluster, in both kinds of store.
async fn lives(store: Store, another: Store) {
    let key = Path::from(KEY);
    let plane = plane();
    let pair = markers(&plane, &store);
    assert_eq!(pair.look().await.expect("a look"), Relation::New);
    let born = pair.pair().await.expect("born");
    assert!(born.nonce.is_some());
    assert_eq!(pair.look().await.expect("a look"), Relation::Pair(born.clone()));
    for beat in 1..=3 {
        pair.count_deletions().await.expect("counted");
        let (marker, _) = pair.read(&key).await.expect("read").expect("a marker");
        assert_eq!((marker.epoch, marker.beat), (1, beat));
    }
    let refused = markers(&plane, &another).pair().await;
    assert!(matches!(refused, Err(MarkerError::Missing { .. })), "{refused:?}");

    // An agent died between database and marker.
    plane.count_deletions(1, 4).await.expect("counted");
    pair.pair().await.expect("a marker that is behind is normal");
    pair.count_deletions().await.expect("counted");
    assert_eq!(pair.pair().await.expect("a pair").beat, 5);

    // The database as it was before it counted.
    let before = self::plane();
    before.adopt_nonce(born.nonce.expect("born")).await.expect("as before");
    let set_back = markers(&before, &store);
    let refused = set_back.count_deletions().await;
    assert!(matches!(refused, Err(MarkerError::Ahead { marker: (1, 5), database: (1, 0) })), "{refused:?}");
    let told = refused.expect_err("refused").to_string();
    assert!(told.contains("millpond recover --new-epoch --yes"), "{told}");
    assert_eq!(set_back.begin_epoch(60_000).await.expect("recovered"), (1, 2));
    assert_eq!(set_back.pair().await.expect("a pair again").epoch, 2);
    assert!(matches!(set_back.count_deletions().await, Err(MarkerError::Held)));
    let refused = pair.count_deletions().await;
    assert!(matches!(refused, Err(MarkerError::Ahead { .. })), "the other copy stops: {refused:?}");
}

#[tokio::test]
async fn a_cluster_lives_in_a_bucket() {
    let (s3, another) = (TestS3::start(1), TestS3::start(2));
    lives(bucket(&s3), bucket(&another)).await;
}

#[tokio::test]
async fn a_cluster_lives_in_a_folder() {
    let (folder, another) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    lives(Store::local(folder.path()).expect("opened"), Store::local(another.path()).expect("opened")).await;
}

#[tokio::test]
async fn what_dies_at_birth_is_born_again() {
    let s3 = TestS3::start(1);
    let store = bucket(&s3);
    let first = plane();
    markers(&first, &store).pair().await.expect("born");
    // A database that does not know of it, as after a crash between marker and database.
    let second = plane();
    markers(&second, &store).pair().await.expect("adopted");
    let nonce =
        |plane: Arc<MemoryControlPlane>| async move { plane.identity().await.expect("an answer").nonce };
    assert_eq!(nonce(first).await, nonce(second).await);
    // A database that was paired with another store.
    let third = plane();
    third.adopt_nonce(Uuid::from_u128(3)).await.expect("an answer");
    let refused = markers(&third, &store).pair().await;
    assert!(matches!(refused, Err(MarkerError::Foreign { .. })), "{refused:?}");
}

#[tokio::test]
async fn of_many_that_are_born_or_delete_at_once_one_is_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let s3 = TestS3::start(1);
    for store in [bucket(&s3), Store::local(folder.path()).expect("opened")] {
        let plane = plane();
        let agents: Vec<Markers> = (0..8).map(|_| markers(&plane, &store)).collect();
        let born = futures::future::join_all(agents.iter().map(Markers::pair)).await;
        let nonces: std::collections::BTreeSet<_> =
            born.into_iter().map(|b| b.expect("a pair").nonce).collect();
        assert_eq!(nonces.len(), 1);
        let counted = futures::future::join_all(agents.iter().map(Markers::count_deletions)).await;
        let done = counted.iter().filter(|c| c.is_ok()).count();
        assert!(done >= 1 && counted.iter().all(|c| matches!(c, Ok(()) | Err(MarkerError::Contended))));
        let now = agents[0].pair().await.expect("a pair");
        assert!(now.beat >= 1, "{now:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_read_back() {
    for fault in [Fault::ResetAfter, Fault::ResetBefore, Fault::Internal] {
        let s3 = TestS3::start(1);
        let pair = markers(&plane(), &bucket(&s3));
        s3.add_fault(Rule::new(fault).on(Op::Put).first(1));
        pair.pair().await.expect("born");
        s3.clear_faults();
        s3.add_fault(Rule::new(fault).on(Op::Put).first(1));
        pair.count_deletions().await.ok();
        s3.clear_faults();
        pair.count_deletions().await.expect("counted");
        let key = Path::from(KEY);
        let (marker, _) = pair.read(&key).await.expect("read").expect("a marker");
        assert_eq!(marker.beat, pair.pair().await.expect("a pair").beat, "{fault:?}");
    }
}

#[tokio::test]
async fn a_damaged_marker_stops_deletions() {
    let s3 = TestS3::start(1);
    let pair = markers(&plane(), &bucket(&s3));
    pair.pair().await.expect("born");
    let marker = s3.get(BUCKET, KEY).expect("a marker");
    let text = String::from_utf8(marker.to_vec()).expect("text").replace("\"beat\":0", "\"beat\":9");
    s3.put(BUCKET, KEY, Bytes::from(text));
    let refused = pair.count_deletions().await;
    assert!(matches!(refused, Err(MarkerError::Damaged { .. })), "{refused:?}");
    assert!(refused.expect_err("refused").is_alarm());
}
