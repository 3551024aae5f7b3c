//! Grants, settlements, admissions, expiry; acks in commits.

use super::pair::{Both, Pair, Seen, known};
use millpond_core::control_plane::{Commit, Guard, Verdict as CommitVerdict};
use millpond_core::queue::{
    Ack, Action, Admit, Admitted, Claim, Entry, Grant, Granted, LeasePart, Mode, Settle, Settled, Unadmitted,
    Verdict, Want,
};
use millpond_core::{AgentId, Clock, LeaseId, Offset, QueueId, SystemClock};
use millpond_tests::stage::{Draft, HOUR, MINUTE, PartKind};
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

const KEYS: i64 = 12;
/// Leases of a queue that are settled again and again.
const REMEMBERED: usize = 40;

fn agent(rng: &mut StdRng) -> AgentId {
    AgentId(Uuid::from_u128(rng.random_range(1..3)))
}

fn minutes(rng: &mut StdRng) -> i64 {
    rng.random_range(0..6) * MINUTE
}

fn action(tame: bool, rng: &mut StdRng) -> Action {
    if tame && rng.random_bool(0.98) {
        return Action::Ack;
    }
    let reason =
        [None, Some("smtp 451"), Some("schema"), Some("50%")][rng.random_range(0..4)].map(str::to_owned);
    match rng.random_range(0..20) {
        0..9 => Action::Ack,
        9..11 => Action::Nack { delay_ms: None, counts: true, reason },
        11..13 => Action::Nack { delay_ms: Some(minutes(rng)), counts: true, reason },
        13..15 => Action::Nack { delay_ms: Some(minutes(rng)).filter(|ms| *ms > 0), counts: false, reason },
        15..16 => Action::Reject { reason },
        16..18 => Action::Renew { lease_ms: (1 + rng.random_range(0..3)) * 4 * MINUTE },
        18..19 => Action::Release,
        _ => Action::Expire,
    }
}

impl Pair {
    fn lease_id(&self) -> LeaseId {
        LeaseId(self.random.uuid(0))
    }

    fn part_back(&self, part: LeasePart) -> LeasePart {
        LeasePart { partition: self.back(part.partition), ..part }
    }

    pub async fn grant(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let slot = &self.queues[n];
        let wants = (0..rng.random_range(1..16)).map(|_| {
            let again =
                slot.seen.len().checked_sub(1 + rng.random_range(0..40)).map(|at| slot.seen[at].lease);
            let lease = again.filter(|_| rng.random_bool(0.1)).unwrap_or_else(|| self.lease_id());
            let lease_ms = if slot.is_tame() { 8 * HOUR } else { (1 + rng.random_range(0..3)) * 5 * MINUTE };
            Want { lease, records: rng.random_range(1..12), lease_ms }
        });
        let mut wants: Vec<Want> = wants.collect();
        let mut seen = std::collections::HashSet::new();
        wants.retain(|w| seen.insert(w.lease));
        let from = self.a_partition(n, rng);
        let memory = Grant {
            scope: self.memory.scope.clone(),
            queue: slot.memory.id,
            agent: agent(rng),
            wants,
            from,
            from_key: rng.random_range(-1..KEYS),
            random: rng.random_range(0.0..1.0),
        };
        let postgres = Grant { queue: slot.postgres, from: self.there(from), ..memory.clone() };
        println!("{memory:?}");
        let granted = (
            known(self.memory.plane.grant(&memory).await),
            known(self.postgres.plane.grant(&postgres).await),
        );
        let steps = memory.wants.len();
        match granted {
            (Ok(in_memory), Ok(in_postgres)) => self.granted(n, in_memory, in_postgres),
            (Err(in_memory), Err(in_postgres)) => assert_eq!(in_memory, in_postgres),
            other => panic!("{other:?}"),
        }
        steps
    }

    fn granted(&mut self, n: usize, memory: Granted, postgres: Granted) {
        let plain = |p: &LeasePart| (p.lease, p.partition, p.attempt, p.failures, p.ranges.clone());
        let parts: Vec<LeasePart> = postgres.parts.into_iter().map(|p| self.part_back(p)).collect();
        assert_eq!(
            memory.parts.iter().map(plain).collect::<Vec<_>>(),
            parts.iter().map(plain).collect::<Vec<_>>()
        );
        for (m, p) in memory.parts.iter().zip(&parts) {
            self.assert_near(m.deadline_ms, p.deadline_ms, "deadline");
        }
        assert_eq!((memory.limited_by, memory.contended), (postgres.limited_by, postgres.contended));
        let unadmitted: Vec<Unadmitted> = postgres
            .unadmitted
            .into_iter()
            .map(|u| Unadmitted { partition: self.back(u.partition), ..u })
            .collect();
        assert_eq!(memory.unadmitted, unadmitted);
        match (memory.next_due_ms, postgres.next_due_ms) {
            (Some(m), Some(p)) => self.assert_near(m, p, "next due"),
            (m, p) => assert_eq!((m, p), (None, None)),
        }
        self.count(memory.limited_by.map_or("granted".to_owned(), |by| format!("limited by {by:?}")));
        for part in &memory.parts {
            if part.attempt > 1 {
                self.count("retried");
            }
        }
        let slot = &mut self.queues[n];
        slot.unadmitted = memory.unadmitted;
        for part in memory.parts {
            let records = part.ranges.into_iter().map(|r| (part.partition, part.attempt, r));
            match slot.seen.iter_mut().find(|s| s.lease == part.lease) {
                Some(seen) => {
                    let known: Vec<_> = records.filter(|r| !seen.records.contains(r)).collect();
                    let new = known.iter().all(|(p, _, r)| {
                        seen.records.iter().all(|(q, _, s)| p != q || r.end <= s.start || s.end <= r.start)
                    });
                    seen.records.extend(known.into_iter().filter(|_| new));
                }
                None => slot.seen.push(Seen { lease: part.lease, records: records.collect() }),
            }
        }
        let over = slot.seen.len().saturating_sub(REMEMBERED);
        slot.seen.drain(..over);
    }

    /// Entries of some leases, no two of the same record.
    fn entries(&self, n: usize, rng: &mut StdRng) -> Vec<Entry> {
        // Now and then the leases of another queue.
        let of = if rng.random_bool(0.03) { rng.random_range(0..self.queues.len()) } else { n };
        let mut entries = Vec::new();
        let tame = self.queues[n].is_tame();
        let seen = &self.queues[of].seen;
        for seen in seen.iter().rev().take(rng.random_range(1..30)) {
            if rng.random_bool(0.4) {
                continue;
            }
            let lease = seen.lease;
            if rng.random_bool(0.3) {
                entries.push(Entry { lease, claim: Claim::Whole, action: action(tame, rng) });
            }
            for (partition, attempt, range) in &seen.records {
                let mut lo = range.start;
                while lo < range.end && rng.random_bool(0.8) {
                    let hi = rng.random_range(lo + 1..=range.end);
                    if rng.random_bool(0.7) {
                        let attempt = if rng.random_bool(0.02) { attempt + 1 } else { *attempt };
                        let claim =
                            Claim::Run { partition: *partition, attempt, lo: Offset(lo), hi: Offset(hi) };
                        entries.push(Entry { lease, claim, action: action(tame, rng) });
                    }
                    lo = hi;
                }
            }
        }
        entries
    }

    fn settle_there(&self, settle: &Settle, queue: QueueId) -> Settle {
        let entry = |e: &Entry| {
            let claim = match e.claim {
                Claim::Whole => Claim::Whole,
                Claim::Run { partition, attempt, lo, hi } => {
                    Claim::Run { partition: self.there(partition), attempt, lo, hi }
                }
            };
            Entry { claim, ..e.clone() }
        };
        Settle { queue, entries: settle.entries.iter().map(entry).collect(), ..settle.clone() }
    }

    pub async fn settle(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let entries = self.entries(n, rng);
        let settle = Settle {
            scope: self.memory.scope.clone(),
            queue: self.queues[n].memory.id,
            agent: agent(rng),
            op: self.random.uuid(0),
            keep: rng.random_bool(0.3),
            entries,
            random: rng.random_range(0.0..1.0),
            leased: 3,
        };
        let slot = &mut self.queues[n];
        slot.settles.push(settle.clone());
        let over = slot.settles.len().saturating_sub(6);
        slot.settles.drain(..over);
        self.send_settle(n, &settle).await
    }

    pub async fn settle_again(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let settles = &self.queues[n].settles;
        let Some(at) = settles.len().checked_sub(1 + rng.random_range(0..3)) else { return 0 };
        let settle = settles[at].clone();
        self.count("settled again");
        self.send_settle(n, &settle).await
    }

    async fn send_settle(&mut self, n: usize, settle: &Settle) -> usize {
        println!("{settle:?}");
        let there = self.settle_there(settle, self.queues[n].postgres);
        let memory: Settled = self.memory.plane.settle(settle).await.expect("an answer");
        let postgres = self.postgres.plane.settle(&there).await.expect("an answer");
        let verdicts: Vec<Verdict> = postgres
            .verdicts
            .into_iter()
            .map(|v| Verdict { partition: self.back(v.partition), ..v })
            .collect();
        assert_eq!(memory.verdicts, verdicts);
        for v in &memory.verdicts {
            self.count(format!("{:?}", v.outcome));
        }
        settle.entries.len().max(1)
    }

    pub async fn admit(&mut self, rng: &mut StdRng) -> usize {
        let n = self.alive_queue(rng);
        let slot = &self.queues[n];
        let Some(place) = (!slot.unadmitted.is_empty())
            .then(|| slot.unadmitted[rng.random_range(0..slot.unadmitted.len())])
        else {
            return 0;
        };
        let to = rng.random_range(place.from.0 + 1..=place.end.0);
        let now = SystemClock.now_ms();
        let mut due =
            || rng.random_bool(0.3).then(|| now + [-1, 1, 2, 3, 4, 5][rng.random_range(0..6)] * MINUTE);
        let (mut runs, mut records) = (Vec::new(), Vec::new());
        if slot.memory.mode == Mode::Shared {
            let middle = (place.from.0 + to) / 2;
            runs = [(place.from.0..middle, due()), (middle..to, due())]
                .into_iter()
                .filter(|(r, _)| !r.is_empty())
                .collect();
        } else {
            let record =
                |offset| Admitted { offset: Offset(offset), key_hash: offset * 7 % KEYS, due_ms: due() };
            records = (place.from.0..to).map(record).collect();
        }
        let from = Offset(place.from.0 - i64::from(rng.random_bool(0.03)));
        let postgres = Admit {
            scope: self.postgres.scope.clone(),
            queue: slot.postgres,
            agent: agent(rng),
            partition: self.there(place.partition),
            from,
            to: Offset(to),
            runs,
            records,
        };
        let shift = self.clock.shift_ms();
        let mut memory = Admit { queue: slot.memory.id, partition: place.partition, ..postgres.clone() };
        memory.runs.iter_mut().for_each(|(_, due)| *due = due.map(|ms| ms + shift));
        memory.records.iter_mut().for_each(|r| r.due_ms = r.due_ms.map(|ms| ms + shift));
        println!("{memory:?}");
        let admitted = known(self.memory.plane.admit(&memory).await);
        assert_eq!(admitted, known(self.postgres.plane.admit(&postgres).await));
        self.count(format!("admitted: {admitted:?}"));
        memory.runs.len() + memory.records.len()
    }

    pub async fn expire(&mut self, rng: &mut StdRng) -> usize {
        let random = rng.random_range(0.0..1.0);
        println!("expire {random}");
        let ended = self.memory.plane.expire(1_000, random).await.expect("an answer");
        // There leases of queues that are gone end too, as they are rows like others.
        let gone = self.queues.iter().any(|q| !q.alive);
        let there = self.postgres.plane.expire(1_000, random).await.expect("an answer");
        assert!(there == ended || (gone && there > ended), "{there} instead of {ended}");
        if ended > 0 {
            self.count("leases ended");
        }
        1
    }

    /// Records of some leases with records of some topic, or a commit that was sent before.
    pub async fn commit_acks(&mut self, rng: &mut StdRng) -> usize {
        if rng.random_bool(0.2) && !self.commits.is_empty() {
            let n = rng.random_range(0..self.commits.len());
            return self.send_commit(n).await;
        }
        let mut acks = Vec::new();
        for _ in 0..rng.random_range(1..3) {
            let slot = &self.queues[self.alive_queue(rng)];
            let Some(at) = slot.seen.len().checked_sub(1 + rng.random_range(0..6)) else { continue };
            for (partition, attempt, range) in &slot.seen[at].records {
                let own = range.clone().map(|o| Ack {
                    lease: slot.seen[at].lease,
                    partition: *partition,
                    offset: Offset(o),
                    attempt: *attempt,
                });
                acks.extend(own.take(rng.random_range(0..6)));
            }
        }
        acks.sort_by_key(|a| (a.lease, a.partition, a.offset));
        acks.dedup();
        let there = acks.iter().map(|a| Ack { partition: self.there(a.partition), ..*a }).collect();
        let mut drafts = Both { memory: Draft::new(), postgres: Draft::new() };
        if let Some(topic) = self.alive_topic(rng).filter(|_| rng.random_bool(0.6)) {
            let homes = self.homes(topic, 0);
            drafts = Both {
                memory: drafts.memory.to(homes.memory, &[1, 2]),
                postgres: drafts.postgres.to(homes.postgres, &[1, 2]),
            };
        }
        let guarded = |commit: Commit, acks| {
            let parts = if commit.runs.is_empty() { Vec::new() } else { commit.parts };
            Commit { parts, guard: Some(Guard { offsets: None, acks: Some(acks) }), ..commit }
        };
        let steps = acks.len().max(1);
        let memory = guarded(self.memory.prepare(PartKind::Inline, &[drafts.memory]).await, acks);
        let postgres = guarded(self.postgres.prepare(PartKind::Inline, &[drafts.postgres]).await, there);
        self.commits.push(Both { memory, postgres });
        let over = self.commits.len().saturating_sub(4);
        self.commits.drain(..over);
        self.send_commit(self.commits.len() - 1).await + steps
    }

    async fn send_commit(&mut self, n: usize) -> usize {
        let Both { memory, postgres } = &self.commits[n];
        println!("commit of {:?}", memory.guard);
        let left = self.memory.commit(memory).await;
        let right = self.postgres.commit(postgres).await;
        assert_eq!(left.verdicts, right.verdicts);
        self.count(if matches!(left.verdicts[0], CommitVerdict::Stored) {
            "acks committed"
        } else {
            "acks lost"
        });
        1
    }
}
