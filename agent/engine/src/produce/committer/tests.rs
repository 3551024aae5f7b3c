use super::*;
use crate::pulse::Pulse;
use crate::store::Store;
use millpond_core::control_plane::around::{Around, CallInfo, Wrapped};
use millpond_core::{MemoryControlPlane, PartId, SystemClock};
use std::sync::atomic::{AtomicUsize, Ordering};
use uuid::Uuid;

/// Lets the first commit wait for ever; counts all.
#[derive(Default)]
struct HangingFirst {
    commits: AtomicUsize,
}

impl Around for HangingFirst {
    async fn around<T, R, F, G>(
        &self,
        call: CallInfo,
        send: impl Fn() -> F + Send + Sync,
        _: impl Fn() -> G + Send + Sync,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        if call.name == "commit" && self.commits.fetch_add(1, Ordering::Relaxed) == 0 {
            std::future::pending::<()>().await;
        }
        send().await
    }
}

fn committer(around: &Arc<HangingFirst>) -> Arc<Committer> {
    let memory: Arc<dyn ControlPlane> = Arc::new(MemoryControlPlane::new(Arc::new(SystemClock)));
    let plane: Arc<dyn ControlPlane> = Arc::new(Wrapped::new(memory, Arc::clone(around)));
    let store = Store::open("memory:").expect("a store");
    let cache = BlockCache::new(1 << 20, store, "c".to_owned());
    let watcher = Watcher::start(Arc::clone(&plane), Pulse::start(Arc::clone(&plane)));
    let health = Health::start(Arc::clone(&plane));
    Arc::new(Committer::new(plane, cache, watcher, health))
}

fn empty_flush() -> Flush {
    Flush {
        part: PartId(Uuid::nil()),
        inline: false,
        bytes: bytes::Bytes::new(),
        runs: Vec::new(),
        pieces: Vec::new(),
        dedups: Vec::new(),
        piece_places: Vec::new(),
        contexts: Vec::new(),
        pendings: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_answer_does_not_hold_up_those_that_follow() {
    let around = Arc::new(HangingFirst::default());
    let (ready, uploaded) = mpsc::unbounded_channel();
    tokio::spawn(committer(&around).run(uploaded));
    for number in 1..=3 {
        ready.send(empty_flush()).expect("the committer runs");
        tokio::time::sleep(ANSWER_WAIT_MAX * 2).await;
        assert_eq!(around.commits.load(Ordering::Relaxed), number, "commits that were sent");
    }
}
