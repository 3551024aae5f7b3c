//! Everything that can be seen of queues in two worlds, compared; and the sums of either.

use super::pair::{Pair, QueueSlot, known};
use millpond_core::PartitionId;
use millpond_core::queue::{Listed, Listing};
use millpond_tests::stage::Stage;

type Row = (PartitionId, i64, i32, i32, bool, Option<String>, bool);

impl Pair {
    pub async fn compare(&self) {
        let names = async |stage: &Stage| {
            let queues = stage.queues(&stage.scope).await;
            queues
                .into_iter()
                .map(|q| (q.name, q.topic, q.mode, q.from, q.config, q.paused, q.partitions.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&self.memory).await, names(&self.postgres).await);
        for slot in &self.queues {
            if slot.alive {
                self.compare_queue(slot).await;
            } else {
                assert_eq!(
                    known(self.memory.plane.ledger(&self.memory.scope, slot.memory.id).await),
                    known(self.postgres.plane.ledger(&self.postgres.scope, slot.postgres).await),
                    "a queue that is gone"
                );
            }
        }
    }

    async fn compare_queue(&self, slot: &QueueSlot) {
        let (m, p) = (&self.memory.plane, &self.postgres.plane);
        let ledger = m.ledger(&self.memory.scope, slot.memory.id).await.expect("a ledger");
        assert!(ledger.holds(), "{ledger:?}");
        assert_eq!(
            ledger,
            p.ledger(&self.postgres.scope, slot.postgres).await.expect("a ledger"),
            "{}",
            slot.memory.name
        );
        let cursors = m.cursors(&self.memory.scope, slot.memory.id).await.expect("cursors");
        assert_eq!(
            self.places_there(&cursors),
            p.cursors(&self.postgres.scope, slot.postgres).await.expect("cursors")
        );
        for listing in [Listing::InFlight, Listing::Waiting, Listing::Dead] {
            let memory =
                m.list_queue(&self.memory.scope, slot.memory.id, listing, None, 5_000).await.expect("a list");
            let postgres = p
                .list_queue(&self.postgres.scope, slot.postgres, listing, None, 5_000)
                .await
                .expect("a list");
            for (left, right) in memory.iter().zip(&postgres) {
                match (left.at_ms, right.at_ms) {
                    (Some(m), Some(p)) => self.assert_near(m, p, "listed"),
                    (m, p) => assert_eq!((m, p), (None, None), "{left:?}"),
                }
            }
            let plain = |l: &Listed, partition| -> Row {
                (partition, l.offset.0, l.attempt, l.failures, l.at_ms.is_some(), l.reason.clone(), l.gone)
            };
            let memory: Vec<Row> = memory.iter().map(|l| plain(l, l.partition)).collect();
            let postgres: Vec<Row> = postgres.iter().map(|l| plain(l, self.back(l.partition))).collect();
            assert_eq!(memory, postgres, "{listing:?} of {}", slot.memory.name);
        }
        let memory = m.queue_counts(&self.memory.scope, slot.memory.id).await.expect("counts");
        let postgres = p.queue_counts(&self.postgres.scope, slot.postgres).await.expect("counts");
        assert_eq!(
            (memory.ready, memory.delayed, memory.retrying, memory.in_flight, memory.dead),
            (postgres.ready, postgres.delayed, postgres.retrying, postgres.in_flight, postgres.dead),
            "{}",
            slot.memory.name
        );
        match (memory.oldest_ms, postgres.oldest_ms) {
            (Some(m), Some(p)) => self.assert_near(m, p, "oldest"),
            (m, p) => assert_eq!((m, p), (None, None)),
        }
    }
}
