//! Topics, and queues as a whole.

use super::pair::{Pair, QueueSlot, TAME_TOPIC, TopicSlot, known};
use millpond_core::group::Start;
use millpond_core::queue::change::SeekTo;
use millpond_core::queue::{DeadFilter, Listing, Mode, QueueChange, Rate};
use millpond_core::{Name, Offset, PartitionId, TopicChange};
use millpond_tests::queues::{purge_dead, redrive, seek};
use millpond_tests::stage::{Draft, HOUR, MINUTE, PartKind, Tag, name};
use rand::Rng;
use rand::rngs::StdRng;

fn topic_name(n: usize) -> Name {
    name(["t", "u", TAME_TOPIC][n])
}

fn queue_name(n: usize) -> Name {
    name(["p", "q", "r", "s", "x"][n])
}

impl Pair {
    pub async fn manage(&mut self, rng: &mut StdRng) -> usize {
        if self.topics.iter().filter(|t| t.alive).count() < 2 || rng.random_bool(0.03) {
            return self.put_topic(rng).await;
        }
        if self.queues.iter().filter(|q| q.alive).count() < 2 {
            return self.put_queue(rng).await;
        }
        match rng.random_range(0..100) {
            0..8 => self.put_queue(rng).await,
            8..11 => self.delete_queue(rng).await,
            11..12 => self.delete_topic(rng).await,
            12..24 => self.pause(rng).await,
            24..38 => self.seek(rng).await,
            38..56 => self.redrive(rng).await,
            56..62 => self.purge_dead(rng).await,
            62..74 => self.clamp().await,
            74..88 => self.retain().await,
            88..94 => self.drain().await,
            _ => self.forget().await,
        }
    }

    /// Changes a queue by its id.
    pub async fn manage_queue(&mut self, rng: &mut StdRng) -> usize {
        match rng.random_range(0..4) {
            0 => self.pause(rng).await,
            1 => self.seek(rng).await,
            2 => self.redrive(rng).await,
            _ => self.purge_dead(rng).await,
        }
    }

    async fn put_topic(&mut self, rng: &mut StdRng) -> usize {
        let topic = topic_name(rng.random_range(0..3));
        let retention_ms = [None, Some(Some(HOUR)), Some(Some(2 * HOUR))][rng.random_range(0..3)];
        let retention_bytes = [None, None, Some(None), Some(Some(800))][rng.random_range(0..4)];
        let partitions = Some(rng.random_range(1..4));
        let change = TopicChange {
            partitions,
            retention_ms,
            retention_bytes,
            retention_hold_ms: Some(HOUR),
            ..TopicChange::default()
        };
        println!("put topic {topic}: {change:?}");
        let memory = known(self.memory.plane.put_topic(&self.memory.scope, &topic, &change, 1).await);
        let postgres = known(self.postgres.plane.put_topic(&self.postgres.scope, &topic, &change, 1).await);
        match (memory, postgres) {
            (Ok((memory, made)), Ok((postgres, _))) => {
                self.learn(&memory, &postgres);
                for slot in self.queues.iter_mut().filter(|q| q.memory.topic_id == memory.id) {
                    slot.memory.partitions.clone_from(&memory.partitions);
                }
                if made {
                    self.topics.push(TopicSlot { alive: true, memory, postgres });
                } else if let Some(slot) = self.topics.iter_mut().find(|t| t.memory.id == memory.id) {
                    (slot.memory, slot.postgres) = (memory, postgres);
                }
            }
            (Err(memory), Err(postgres)) => assert_eq!(memory, postgres),
            other => panic!("{other:?}"),
        }
        1
    }

    async fn delete_topic(&mut self, rng: &mut StdRng) -> usize {
        let topic = topic_name(rng.random_range(0..3));
        println!("delete topic {topic}");
        let memory = self.memory.plane.delete_topic(&self.memory.scope, &topic).await.expect("an answer");
        assert_eq!(
            memory,
            self.postgres.plane.delete_topic(&self.postgres.scope, &topic).await.expect("an answer")
        );
        self.topics.iter_mut().filter(|t| t.memory.name == topic).for_each(|t| t.alive = false);
        self.queues.iter_mut().filter(|q| q.memory.topic == topic).for_each(|q| q.alive = false);
        1
    }

    async fn put_queue(&mut self, rng: &mut StdRng) -> usize {
        let queue = queue_name(rng.random_range(0..5));
        let exists = self.queues.iter().any(|q| q.alive && q.memory.name == queue);
        let rate = [None, None, Some(None), Some(Some(Rate { limit: 20, per_ms: 20 * MINUTE }))]
            [rng.random_range(0..4)];
        let change = QueueChange {
            topic: (!exists || rng.random_bool(0.1)).then(|| topic_name(rng.random_range(0..3))),
            mode: (!exists || rng.random_bool(0.1))
                .then(|| if rng.random_bool(0.4) { Mode::Keyed } else { Mode::Shared }),
            from: rng.random_bool(0.1).then_some(Start::Latest),
            lease_ms: None,
            base_ms: Some(rng.random_range(1..4) * MINUTE),
            factor: rng.random_bool(0.5).then_some(1.0),
            cap_ms: None,
            jitter: Some(0.0),
            max_failures: Some(rng.random_range(2..5)),
            rate,
            max_in_flight: [None, None, Some(60), Some(20_000)][rng.random_range(0..4)],
        };
        println!("put queue {queue}: {change:?}");
        let memory = known(self.memory.plane.put_queue(&self.memory.scope, &queue, &change).await);
        let postgres = known(self.postgres.plane.put_queue(&self.postgres.scope, &queue, &change).await);
        match (memory, postgres) {
            (Ok((memory, made)), Ok((postgres, _))) => {
                assert_eq!(
                    (&memory.config, memory.paused, &memory.topic),
                    (&postgres.config, postgres.paused, &postgres.topic)
                );
                if made {
                    let (seen, unadmitted, settles) = (Vec::new(), Vec::new(), Vec::new());
                    self.queues.push(QueueSlot {
                        alive: true,
                        memory,
                        postgres: postgres.id,
                        seen,
                        unadmitted,
                        settles,
                    });
                    self.count("queues made");
                } else if let Some(slot) = self.queues.iter_mut().find(|q| q.memory.id == memory.id) {
                    slot.memory = memory;
                }
            }
            (Err(memory), Err(postgres)) => assert_eq!(memory, postgres),
            other => panic!("{other:?}"),
        }
        1
    }

    async fn delete_queue(&mut self, rng: &mut StdRng) -> usize {
        let queue = queue_name(rng.random_range(0..5));
        println!("delete queue {queue}");
        let memory = self.memory.plane.delete_queue(&self.memory.scope, &queue).await.expect("an answer");
        assert_eq!(
            memory,
            self.postgres.plane.delete_queue(&self.postgres.scope, &queue).await.expect("an answer")
        );
        self.queues.iter_mut().filter(|q| q.memory.name == queue).for_each(|q| q.alive = false);
        1
    }

    async fn pause(&mut self, rng: &mut StdRng) -> usize {
        let (n, paused) = (self.alive_queue(rng), rng.random_bool(0.15));
        println!("pause {}: {paused}", self.queues[n].memory.id);
        let memory =
            known(self.memory.plane.pause_queue(&self.memory.scope, self.queues[n].memory.id, paused).await);
        assert_eq!(
            memory,
            known(
                self.postgres.plane.pause_queue(&self.postgres.scope, self.queues[n].postgres, paused).await
            )
        );
        1
    }

    async fn seek(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let mut to: Vec<(PartitionId, Offset)> = (0..rng.random_range(1..3))
            .map(|_| {
                let at = [0, i64::MAX, rng.random_range(0..200)][rng.random_range(0..3)];
                (self.a_partition(n, rng), Offset(at))
            })
            .collect();
        to.sort_unstable();
        to.dedup_by_key(|(partition, _)| *partition);
        println!("seek {}: {to:?}", self.queues[n].memory.id);
        let memory = known(
            seek(
                &*self.memory.plane,
                &self.memory.scope,
                self.queues[n].memory.id,
                &SeekTo::Offsets(to.clone()),
            )
            .await,
        );
        let postgres = known(
            seek(
                &*self.postgres.plane,
                &self.postgres.scope,
                self.queues[n].postgres,
                &SeekTo::Offsets(self.places_there(&to)),
            )
            .await,
        );
        let there = memory.map(|(cursors, skipped)| (self.places_there(&cursors), skipped));
        assert_eq!(there, postgres);
        self.count("sought");
        1
    }

    async fn filter(&self, n: usize, rng: &mut StdRng) -> (DeadFilter, DeadFilter) {
        let same = |filter: DeadFilter| (filter.clone(), filter);
        match rng.random_range(0..4) {
            0 => same(DeadFilter::All),
            1 => same(DeadFilter::Reason(
                ["smtp%", "%", "50\\%", "lease _xpired"][rng.random_range(0..4)].to_owned(),
            )),
            _ => {
                let dead = self
                    .memory
                    .plane
                    .list_queue(&self.memory.scope, self.queues[n].memory.id, Listing::Dead, None, 50)
                    .await
                    .unwrap_or_default();
                let mut some: Vec<_> =
                    dead.iter().filter(|_| rng.random_bool(0.4)).map(|l| (l.partition, l.offset)).collect();
                if rng.random_bool(0.1) {
                    some.push((self.a_partition(n, rng), Offset(1_000_000)));
                }
                (DeadFilter::Offsets(some.clone()), DeadFilter::Offsets(self.places_there(&some)))
            }
        }
    }

    async fn redrive(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let (memory, postgres) = self.filter(n, rng).await;
        // One in a minute.
        let rate = rng.random_bool(0.3).then_some(1.0 / 60.0);
        println!("redrive {}: {memory:?} {rate:?}", self.queues[n].memory.id);
        let redriven = known(
            redrive(&*self.memory.plane, &self.memory.scope, self.queues[n].memory.id, &memory, rate).await,
        );
        assert_eq!(
            redriven,
            known(
                redrive(
                    &*self.postgres.plane,
                    &self.postgres.scope,
                    self.queues[n].postgres,
                    &postgres,
                    rate
                )
                .await
            )
        );
        if redriven.is_ok_and(|count| count > 0) {
            self.count("redriven");
        }
        1
    }

    async fn purge_dead(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let (memory, postgres) = self.filter(n, rng).await;
        println!("purge {}: {memory:?}", self.queues[n].memory.id);
        let purged = known(
            purge_dead(&*self.memory.plane, &self.memory.scope, self.queues[n].memory.id, &memory).await,
        );
        assert_eq!(
            purged,
            known(
                purge_dead(&*self.postgres.plane, &self.postgres.scope, self.queues[n].postgres, &postgres)
                    .await
            )
        );
        1
    }

    async fn clamp(&mut self) -> usize {
        println!("clamp");
        let passed = self.memory.plane.clamp(&[]).await.expect("an answer");
        assert_eq!(passed, self.postgres.plane.clamp(&[]).await.expect("an answer"));
        if passed > 0 {
            self.count("clamped");
        }
        1
    }

    async fn retain(&mut self) -> usize {
        println!("retain");
        let gone = self.memory.plane.retain(1_000).await.expect("an answer");
        assert_eq!(gone, self.postgres.plane.retain(1_000).await.expect("an answer"));
        if gone > 0 {
            self.count("unlinked");
        }
        1
    }

    async fn drain(&mut self) -> usize {
        println!("drain");
        self.pass(MINUTE).await;
        assert_eq!(self.memory.drain(2_000).await, self.postgres.drain(2_000).await);
        1
    }

    async fn forget(&mut self) -> usize {
        println!("forget");
        self.commits.clear();
        self.memory.plane.forget(10_000).await.expect("an answer");
        self.postgres.plane.forget(10_000).await.expect("an answer");
        1
    }

    async fn pass(&self, ms: i64) {
        self.memory.advance(ms).await;
        self.postgres.advance(ms).await;
    }

    pub async fn advance(&mut self, rng: &mut StdRng) -> usize {
        let ms = [1, 2, 3, 5, 8, 13][rng.random_range(0..6)] * MINUTE;
        println!("advance {ms}");
        self.pass(ms).await;
        1
    }

    pub async fn fill(&mut self, rng: &mut StdRng) -> usize {
        let Some(topic) = self.alive_topic(rng) else { return 0 };
        let number = rng.random_range(0..self.topics[topic].memory.partition_count());
        let homes = self.homes(topic, number);
        let tags: Vec<Tag> = (0..rng.random_range(1..40)).collect();
        let delayed = rng.random_bool(0.3) && self.topics[topic].memory.name.as_str() != TAME_TOPIC;
        println!("fill {topic}-{number} with {}{}", tags.len(), if delayed { ", delayed" } else { "" });
        for (stage, home) in [(&self.memory, homes.memory), (&self.postgres, homes.postgres)] {
            let draft = Draft::new().to(home, &tags);
            let draft = if delayed { draft.delayed(home) } else { draft };
            stage.send(PartKind::Inline, &[draft]).await;
        }
        1
    }
}
