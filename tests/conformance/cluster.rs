//! The identity of the cluster, and how batches of deletions are counted and held.

use millpond_core::Error;
use millpond_core::control_plane::{DeletionsRejected, Identity};
use millpond_tests::stage::{HOUR, MINUTE, Stage};
use uuid::Uuid;

suite!(
    takes_the_first_nonce_only,
    counts_deletions_in_order_and_once,
    a_new_epoch_ends_the_one_before_and_holds_deletions,
);

async fn identity(s: &Stage) -> Identity {
    s.plane.identity().await.expect("an answer")
}

async fn count(s: &Stage, epoch: i64, beat: i64) -> Result<(), DeletionsRejected> {
    match s.plane.count_deletions(epoch, beat).await {
        Ok(()) => Ok(()),
        Err(Error::Rejected(rejected)) => Err(rejected),
        Err(error) => panic!("{error}"),
    }
}

async fn takes_the_first_nonce_only(s: &Stage) {
    let new = identity(s).await;
    assert_eq!((new.nonce, new.epoch, new.beat), (None, 1, 0));
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    for nonce in [first, second, first] {
        s.plane.adopt_nonce(nonce).await.expect("an answer");
        assert_eq!(identity(s).await, Identity { nonce: Some(first), ..new.clone() });
    }
}

async fn counts_deletions_in_order_and_once(s: &Stage) {
    use DeletionsRejected::Moved;
    let counts = [
        (1, 1, Ok(()), 1),
        (1, 1, Ok(()), 1),
        (1, 2, Ok(()), 2),
        (1, 4, Err(Moved), 2),
        (1, 1, Err(Moved), 2),
    ];
    for (epoch, beat, outcome, after) in counts.into_iter().chain([(2, 3, Err(Moved), 2)]) {
        assert_eq!(count(s, epoch, beat).await, outcome);
        assert_eq!(identity(s).await.beat, after);
    }
}

async fn a_new_epoch_ends_the_one_before_and_holds_deletions(s: &Stage) {
    count(s, 1, 1).await.expect("counted");
    for _ in 0..2 {
        s.plane.begin_epoch(3, 7, HOUR).await.expect("an answer");
    }
    s.plane.begin_epoch(2, 9, 9 * HOUR).await.expect("an answer");
    let now = identity(s).await;
    assert_eq!((now.epoch, now.beat), (3, 7));
    assert_eq!(count(s, 3, 8).await, Err(DeletionsRejected::Held));
    s.advance(HOUR + MINUTE).await;
    assert_eq!(count(s, 1, 8).await, Err(DeletionsRejected::Moved));
    count(s, 3, 8).await.expect("counted");
    s.plane.begin_epoch(4, 2, 0).await.expect("an answer");
    assert_eq!((identity(s).await.epoch, identity(s).await.beat), (4, 8));
}
