//! Purges of a queue while producers append and workers lease and ack. A purge never takes a cursor back, so
//! that no record is handed out twice.

use crate::interleave::{end, stage};
use crate::queue::OTHER;
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{Action, Queue};
use millpond_core::{AgentId, PartitionId};
use millpond_tests::queues::{all, seek};
use millpond_tests::stage::{AGENT, PartKind, Stage, home};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

const PARTITIONS: i32 = 4;
const PURGES: usize = 150;

#[derive(Default)]
struct Seen {
    handed_out: BTreeSet<(PartitionId, i64)>,
    twice: Vec<(PartitionId, i64)>,
    acked: usize,
}

/// Leases and acks until all is over.
async fn work(s: Arc<Stage>, queue: Queue, agent: AgentId, seen: Arc<Mutex<Seen>>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::SeqCst) {
        let mut grant = s.asking(&queue, &[20, 20]);
        grant.agent = agent;
        let parts = s.plane.grant(&grant).await.expect("granted").parts;
        for part in &parts {
            let mut seen = seen.lock();
            for offset in part.ranges.iter().flat_map(|range| range.clone()) {
                if !seen.handed_out.insert((part.partition, offset)) {
                    seen.twice.push((part.partition, offset));
                }
            }
        }
        let mut settle = s.settling(&queue, &all(&parts, &Action::Ack));
        settle.agent = agent;
        let settled = s.plane.settle(&settle).await.expect("settled");
        seen.lock().acked += settled.verdicts.len();
        if parts.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_purge_never_goes_back_while_records_come_and_go() {
    let (s, _) = stage().await;
    let (queue, _) = s.queue_of("q", PARTITIONS, 0).await;
    let topic = s.plane.topic(&s.scope, &queue.topic).await.expect("a topic");
    let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
    let mut tasks = Vec::new();
    for agent in [AGENT, OTHER, AgentId(Uuid::from_u128(7))] {
        let work = work(Arc::clone(&s), queue.clone(), agent, Arc::clone(&seen), Arc::clone(&over));
        tasks.push(tokio::spawn(work));
    }
    for number in 0..PARTITIONS {
        let (s, over, home) = (Arc::clone(&s), Arc::clone(&over), home(&topic, number));
        tasks.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                s.append(PartKind::Inline, home, &[1, 2, 3, 4, 5]).await;
            }
        }));
    }
    for _ in 0..PURGES {
        seek(&*s.plane, &s.scope, queue.id, &SeekTo::Latest).await.expect("purged");
        tokio::task::yield_now().await;
    }
    over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("a task");
    }
    {
        let seen = seen.lock();
        println!("{} handed out, {} acks", seen.handed_out.len(), seen.acked);
        assert_eq!(seen.twice, []);
        assert!(seen.acked > 0);
    }
    let ledger = s.ledger(&queue).await;
    assert!(ledger.holds(), "{ledger:?}");
    end(s).await;
}
