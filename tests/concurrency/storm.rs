//! Many agents concurrently write to overlapping partitions with shared keys and ids, resend, drain, compact
//! and delete.
//!
//! `MILLPOND_TEST_SEED` repeats each agent's actions, but not their interleaving; `MILLPOND_TEST_STEPS` is
//! the number of commits per agent.

use millpond_core::control_plane::{Answer, Commit, Committed, Verdict};
use millpond_core::{Error, TopicChange};
use millpond_tests::stage::{Draft, Home, Log, MINUTE, PartKind, Stage, Tag, home};
use millpond_tests::world::PostgresWorld;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const AGENTS: u64 = 8;
const STEPS: usize = 40;
const KEYS: u128 = 40;
const IDS: u128 = 60;
/// Inline records that are appended before the storm, for the drain to move.
const INLINE_RECORDS: u64 = 60;
const ATTEMPTS_MAX: usize = 50;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Where and with which dedup id a record was sent.
#[derive(Clone, Copy)]
struct Sending {
    home: Home,
    id: Option<u128>,
}

struct Use {
    key: u128,
    body: u128,
    verdict: Verdict,
    answer: Answer,
}

#[derive(Default)]
struct History {
    sendings: BTreeMap<Tag, Sending>,
    /// Offsets of the records that answers say are stored.
    stored: BTreeMap<Tag, i64>,
    uses: Vec<Use>,
    failures: Vec<String>,
}

struct Storm {
    stage: Stage,
    lasting: Vec<Home>,
    /// Partitions of the topic that is repeatedly deleted and created again.
    passing: Mutex<Vec<Home>>,
    next_tag: AtomicU64,
    over: AtomicBool,
    history: Mutex<History>,
}

/// A request and the tags of its pieces, by partition.
struct Plan {
    draft: Draft,
    key: Option<(u128, u128)>,
    tags: BTreeMap<Home, Vec<Tag>>,
}

impl Storm {
    fn plan(&self, rng: &mut StdRng, keys: &mut BTreeSet<u128>) -> Plan {
        let mut plan = Plan { draft: Draft::new(), key: None, tags: BTreeMap::new() };
        if rng.random_bool(0.4) {
            let (key, body) = (rng.random_range(0..KEYS), u128::from(rng.random_bool(0.2)));
            if keys.insert(key) {
                plan.key = Some((key, body));
                plan.draft = plan.draft.key(key, body);
            }
        }
        for _ in 0..rng.random_range(1..4) {
            let passing = self.passing.lock().clone();
            let from = if rng.random_bool(0.1) { &passing } else { &self.lasting };
            let home = from[rng.random_range(0..from.len())];
            for _ in 0..rng.random_range(1..4) {
                let tag = self.next_tag.fetch_add(1, Ordering::SeqCst);
                let id = rng.random_bool(0.2).then(|| rng.random_range(0..IDS));
                self.history.lock().sendings.insert(tag, Sending { home, id });
                plan.tags.entry(home).or_default().push(tag);
                plan.draft = match id {
                    Some(id) => plan.draft.once(home, tag, id),
                    None => plan.draft.to(home, &[tag]),
                };
            }
        }
        plan
    }

    /// Sends a commit until its outcome is known.
    async fn send(&self, commit: &Commit) -> Committed {
        for _ in 0..ATTEMPTS_MAX {
            match self.stage.plane.commit(commit).await {
                Ok(committed) => return committed,
                Err(Error::Rejected(never)) => match never {},
                Err(Error::NotApplied(source) | Error::MaybeApplied(source)) => {
                    self.history.lock().failures.push(source.to_string())
                }
            }
        }
        panic!("a commit does not get through");
    }

    async fn write(&self, rng: &mut StdRng) {
        let mut keys = BTreeSet::new();
        let plans: Vec<Plan> = (0..rng.random_range(1..5)).map(|_| self.plan(rng, &mut keys)).collect();
        let place = if rng.random() { PartKind::Inline } else { PartKind::Segment };
        let drafts: Vec<Draft> = plans.iter().map(|p| p.draft.clone()).collect();
        let commit = self.stage.prepare(place, &drafts).await;
        let committed = if rng.random_bool(0.4) {
            let (one, two) = tokio::join!(self.send(&commit), self.send(&commit));
            for (request, (verdict, again)) in one.verdicts.iter().zip(&two.verdicts).enumerate() {
                // When a refused request is sent twice, the second answer may no longer know the reason.
                let lost = |v: &Verdict| matches!(v, Verdict::Unknown | Verdict::PartitionGone);
                assert!(
                    verdict == again || (lost(verdict) && lost(again)),
                    "{request}: {verdict:?}, {again:?}"
                );
                let of_it = |c: &Committed| outcomes(&commit, c, request);
                assert!(*verdict != Verdict::Stored || of_it(&one) == of_it(&two));
            }
            one
        } else {
            self.send(&commit).await
        };
        self.note(&plans, &commit, &committed);
    }

    fn note(&self, plans: &[Plan], commit: &Commit, committed: &Committed) {
        let mut history = self.history.lock();
        for (request, plan) in plans.iter().enumerate() {
            let verdict = &committed.verdicts[request];
            let answer = Answer {
                context: commit.requests[request].context.clone(),
                pieces: outcomes(commit, committed, request),
            };
            if *verdict == Verdict::Stored {
                for (tags, outcome) in plan.tags.values().zip(&answer.pieces) {
                    let kept = (0..)
                        .zip(tags)
                        .filter(|(position, _)| !outcome.dropped.contains(position))
                        .map(|(_, tag)| *tag);
                    let first = outcome.base.map_or(0, |base| base.0);
                    history.stored.extend(kept.zip(first..));
                }
            }
            if let Some((key, body)) = plan.key {
                history.uses.push(Use { key, body, verdict: verdict.clone(), answer });
            }
        }
    }

    async fn agent(&self, seed: u64, steps: usize) {
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..steps {
            self.write(&mut rng).await;
        }
    }

    /// Repeatedly drains payloads that were there before the storm, joins segments, applies retention, and
    /// deletes a topic.
    async fn background(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.over.load(Ordering::SeqCst) {
            match rng.random_range(0..4) {
                0 => {
                    let plan = self.stage.plane.drain_plan(None, 200).await.expect("a plan");
                    if !plan.is_empty() {
                        let swap = self.stage.rewrite(&plan).await;
                        drop(tokio::join!(self.stage.swap(&swap), self.stage.swap(&swap)));
                    }
                }
                1 => {
                    let at = self.lasting[rng.random_range(0..self.lasting.len())];
                    let swap = self.stage.compaction(at, 0).await;
                    if !swap.inputs.is_empty() {
                        drop(self.stage.swap(&swap).await);
                    }
                }
                2 => {
                    self.stage.plane.retain(1_000).await.expect("an answer");
                    self.stage.plane.forget(1_000).await.expect("an answer");
                    self.stage.plane.sweep_plan(1_000).await.expect("a plan");
                }
                _ => {
                    self.stage.delete_topic("passing").await;
                    let topic = self.stage.topic("passing", 2).await;
                    *self.passing.lock() = vec![home(&topic, 0), home(&topic, 1)];
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

fn outcomes(
    commit: &Commit,
    committed: &Committed,
    request: usize,
) -> Vec<millpond_core::control_plane::PieceOutcome> {
    let own = commit.pieces.iter().zip(&committed.pieces).filter(|(p, _)| p.request == request);
    own.map(|(_, outcome)| outcome.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_leaves_every_record_once_in_its_place() {
    let (seed, steps) =
        (setting("MILLPOND_TEST_SEED").unwrap_or(1_u64), setting("MILLPOND_TEST_STEPS").unwrap_or(STEPS));
    println!("MILLPOND_TEST_SEED={seed} MILLPOND_TEST_STEPS={steps}");
    let stage = Stage::seeded(Box::new(PostgresWorld::new().await), seed);
    let (a, b) = (stage.topic_with("a", forever(3)).await, stage.topic_with("b", forever(1)).await);
    let passing = stage.topic("passing", 2).await;
    let lasting = vec![home(&a, 0), home(&a, 1), home(&a, 2), home(&b, 0)];
    let mut history = History::default();
    for tag in 0..INLINE_RECORDS {
        let at = lasting[usize::try_from(tag).expect("small") % lasting.len()];
        let offset = stage.append(PartKind::Inline, at, &[tag]).await;
        history.sendings.insert(tag, Sending { home: at, id: None });
        history.stored.insert(tag, offset);
    }
    stage.advance(MINUTE).await;
    let storm = Arc::new(Storm {
        stage,
        lasting,
        passing: Mutex::new(vec![home(&passing, 0), home(&passing, 1)]),
        next_tag: AtomicU64::new(INLINE_RECORDS),
        over: AtomicBool::new(false),
        history: Mutex::new(history),
    });

    let background = tokio::spawn({
        let storm = Arc::clone(&storm);
        async move { storm.background(seed + 100).await }
    });
    let agents: Vec<_> = (0..AGENTS)
        .map(|n| {
            let storm = Arc::clone(&storm);
            tokio::spawn(async move { storm.agent(seed * 1_000 + n, steps).await })
        })
        .collect();
    for agent in agents {
        agent.await.expect("an agent");
    }
    storm.over.store(true, Ordering::SeqCst);
    background.await.expect("background work");

    let storm = Arc::into_inner(storm).expect("no task left");
    let history = storm.history.into_inner();
    println!(
        "{} records, {} uses of keys, failures: {:?}",
        history.sendings.len(),
        history.uses.len(),
        history.failures
    );
    assert!(history.failures.is_empty(), "{:?}", history.failures);
    check_logs(&storm.stage, &storm.lasting, &history).await;
    check_keys(&history.uses);
    storm.stage.close().await;
}

fn forever(partitions: i32) -> TopicChange {
    TopicChange { partitions: Some(partitions), retention_ms: Some(None), ..TopicChange::default() }
}

/// Checks that the logs hold exactly the records that were answered as stored, and each dedup id once.
async fn check_logs(stage: &Stage, lasting: &[Home], history: &History) {
    let mut ids = BTreeSet::new();
    for at in lasting {
        let log: Log = stage.log(*at).await.expect("a partition");
        assert_eq!(log.start, 0);
        let there: BTreeMap<Tag, i64> = log.records.iter().map(|(offset, tag)| (*tag, *offset)).collect();
        assert_eq!(there.len(), log.records.len(), "a record is stored twice");
        let said: BTreeMap<Tag, i64> = history
            .stored
            .iter()
            .filter(|(tag, _)| history.sendings[tag].home == *at)
            .map(|(tag, offset)| (*tag, *offset))
            .collect();
        assert_eq!(there, said);
        for id in there.keys().filter_map(|tag| history.sendings[tag].id) {
            assert!(ids.insert((at.topic, id)), "id {id} is stored twice");
        }
        let status = stage.plane.partitions(&stage.scope, at.topic).await.expect("a list");
        let bytes = 8 * i64::try_from(there.len()).expect("small");
        assert!(status.iter().any(|p| p.id == at.id && p.high_watermark.0 == log.end && p.bytes >= bytes));
    }
}

/// Checks that each key has one answer, which every other use of it repeats.
fn check_keys(uses: &[Use]) {
    let mut owners: BTreeMap<u128, &Use> = BTreeMap::new();
    for used in uses.iter().filter(|u| u.verdict == Verdict::Stored) {
        assert!(owners.insert(used.key, used).is_none(), "key {} was stored twice", used.key);
    }
    for used in uses {
        let owner = owners.get(&used.key);
        match &used.verdict {
            Verdict::Duplicate(answer) => {
                let owner = owner.expect("an owner");
                assert_eq!((owner.body, &owner.answer), (used.body, answer));
            }
            Verdict::Conflict => assert_ne!(owner.expect("an owner").body, used.body),
            Verdict::Stored | Verdict::PartitionGone | Verdict::Unknown => {}
            verdict => panic!("{verdict:?}"),
        }
    }
}
