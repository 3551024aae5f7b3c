//! Steps on queues: leasing, settling, and the state of records. After each step a queue's counters must
//! agree with its records.

use crate::draft::{Draft, Home, Tag, home, name};
use crate::stage::{AGENT, MINUTE, PartKind, Stage};
use millpond_core::queue::change::{DeadStep, SeekTo};
use millpond_core::queue::{
    Action, Admit, Admitted, Claim, DeadFilter, DeadRejected, Entry, Grant, Granted, LeasePart, Ledger,
    Listed, Listing, NoSuchQueue, Outcome, Queue, QueueChange, QueueCounts, Settle, Settled, Verdict, Want,
};
use millpond_core::{ControlPlane, Error, LeaseId, Offset, PartitionId, QueueId, Scope, Topic};
use std::ops::Range;

/// An empty list of offsets, for comparisons.
pub const NONE: [i64; 0] = [];
pub const LEASE_MS: i64 = 10 * MINUTE;
/// Dead records that a step of a redrive looks at.
const DEAD_STEP_RECORDS: i64 = 3;
/// Delay of a queue's first retry; the second is twice as long.
pub const BASE_MS: i64 = 4 * MINUTE;

/// A record as a lease hands it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub offset: i64,
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// Failures before this attempt.
    pub failures: i32,
}

impl Given {
    /// A record that is handed out for the first time.
    #[must_use]
    pub fn first(offset: i64) -> Self {
        Self { offset, attempt: 1, failures: 0 }
    }
}

/// Settings with which all cases start: retries without jitter, so that their times are known.
#[must_use]
pub fn plain(topic: &Topic) -> QueueChange {
    QueueChange {
        topic: Some(topic.name.clone()),
        base_ms: Some(BASE_MS),
        jitter: Some(0.0),
        max_failures: Some(4),
        ..QueueChange::default()
    }
}

#[must_use]
pub fn nack(delay_ms: Option<i64>) -> Action {
    Action::Nack { delay_ms, counts: true, reason: None }
}

#[must_use]
pub fn nack_because(reason: &str) -> Action {
    Action::Nack { delay_ms: Some(0), counts: true, reason: Some(reason.to_owned()) }
}

#[must_use]
pub fn reject(reason: &str) -> Action {
    Action::Reject { reason: Some(reason.to_owned()) }
}

#[must_use]
pub fn whole(lease: LeaseId, action: Action) -> Entry {
    Entry { lease, claim: Claim::Whole, action }
}

/// An entry for some records of a part.
#[must_use]
pub fn run(part: &LeasePart, range: Range<i64>, action: Action) -> Entry {
    let claim = Claim::Run {
        partition: part.partition,
        attempt: part.attempt,
        lo: Offset(range.start),
        hi: Offset(range.end),
    };
    Entry { lease: part.lease, claim, action }
}

/// Entries for all records of some parts.
#[must_use]
pub fn all(parts: &[LeasePart], action: &Action) -> Vec<Entry> {
    let entries = |p: &LeasePart| -> Vec<Entry> {
        p.ranges.iter().map(|r| run(p, r.clone(), action.clone())).collect()
    };
    parts.iter().flat_map(entries).collect()
}

#[must_use]
pub fn offsets(parts: &[LeasePart]) -> Vec<i64> {
    parts.iter().flat_map(|p| p.ranges.iter().cloned().flatten()).collect()
}

/// Partition and offsets of each part.
#[must_use]
pub fn places(parts: &[LeasePart]) -> Vec<(PartitionId, Vec<i64>)> {
    parts.iter().map(|p| (p.partition, offsets(std::slice::from_ref(p)))).collect()
}

/// Each record of some parts, as it was handed out.
#[must_use]
pub fn given(parts: &[LeasePart]) -> Vec<Given> {
    let of_part = |part: &LeasePart| -> Vec<Given> {
        let (attempt, failures) = (part.attempt, part.failures);
        part.ranges.iter().cloned().flatten().map(|offset| Given { offset, attempt, failures }).collect()
    };
    parts.iter().flat_map(of_part).collect()
}

/// Entry, offsets and outcome of verdicts; adjacent ranges with the same outcome are joined.
#[must_use]
pub fn told(verdicts: &[Verdict]) -> Vec<(usize, Range<i64>, Outcome)> {
    let mut told: Vec<(usize, Range<i64>, Outcome)> = Vec::new();
    for v in verdicts {
        match told.last_mut() {
            Some((entry, range, outcome))
                if (*entry, range.end, *outcome) == (v.entry, v.lo.0, v.outcome) =>
            {
                range.end = v.hi.0
            }
            _ => told.push((v.entry, v.lo.0..v.hi.0, v.outcome)),
        }
    }
    told
}

impl Stage {
    /// Creates a queue over a new topic, both with this name, and this number of records in each partition.
    pub async fn queue_of(&self, text: &str, partitions: i32, records: u64) -> (Queue, Vec<Home>) {
        self.queue_with(text, partitions, records, |_| {}).await
    }

    pub async fn queue_with(
        &self,
        text: &str,
        partitions: i32,
        records: u64,
        change: impl FnOnce(&mut QueueChange),
    ) -> (Queue, Vec<Home>) {
        let topic = self.topic(text, partitions).await;
        let homes: Vec<Home> = (0..partitions).map(|number| home(&topic, number)).collect();
        let mut put = plain(&topic);
        change(&mut put);
        let queue = self.put_queue(text, &put).await;
        for home in &homes {
            self.fill(*home, records).await;
        }
        (queue, homes)
    }

    pub async fn put_queue(&self, text: &str, change: &QueueChange) -> Queue {
        self.plane.put_queue(&self.scope, &name(text), change).await.expect("a queue").0
    }

    /// Appends this number of records in one batch.
    pub async fn fill(&self, home: Home, records: u64) {
        if records > 0 {
            let tags: Vec<Tag> = (0..records).collect();
            self.append(PartKind::Inline, home, &tags).await;
        }
    }

    /// As [`fill`](Self::fill), in a batch that holds a delayed record, so that it has to be admitted.
    pub async fn fill_delayed(&self, home: Home, records: u64) {
        let tags: Vec<Tag> = (0..records).collect();
        self.send(PartKind::Inline, &[Draft::new().to(home, &tags).delayed(home)]).await;
    }

    #[must_use]
    pub fn want(&self, records: i32) -> Want {
        Want { lease: LeaseId(self.uuid()), records, lease_ms: LEASE_MS }
    }

    #[must_use]
    pub fn asking(&self, queue: &Queue, wants: &[i32]) -> Grant {
        let wants = wants.iter().map(|records| self.want(*records)).collect();
        Grant {
            scope: self.scope.clone(),
            queue: queue.id,
            agent: AGENT,
            wants,
            from: queue.partitions[0],
            from_key: i64::MIN,
            random: 0.0,
        }
    }

    pub async fn grant(&self, grant: &Grant) -> Granted {
        let granted = self.plane.grant(grant).await.expect("an answer");
        self.holds(grant.queue).await;
        granted
    }

    pub async fn grants(&self, queue: &Queue, wants: &[i32]) -> Granted {
        self.grant(&self.asking(queue, wants)).await
    }

    /// Leases up to this number of records for one caller.
    pub async fn lease(&self, queue: &Queue, records: i32) -> Vec<LeasePart> {
        self.grants(queue, &[records]).await.parts
    }

    /// Offsets that each caller of a grant receives.
    pub async fn dealt(&self, grant: &Grant) -> Vec<Vec<i64>> {
        let parts = self.grant(grant).await.parts;
        let own = |want: &Want| parts.iter().filter(|p| p.lease == want.lease).cloned().collect::<Vec<_>>();
        grant.wants.iter().map(|want| offsets(&own(want))).collect()
    }

    #[must_use]
    pub fn settling(&self, queue: &Queue, entries: &[Entry]) -> Settle {
        Settle {
            scope: self.scope.clone(),
            queue: queue.id,
            agent: AGENT,
            op: self.uuid(),
            keep: false,
            entries: entries.to_vec(),
            random: 0.0,
            leased: 0,
        }
    }

    pub async fn settled(&self, settle: &Settle) -> Settled {
        let settled = self.plane.settle(settle).await.expect("an answer");
        if self.plane.ledger(&self.scope, settle.queue).await.is_ok() {
            self.holds(settle.queue).await;
        }
        settled
    }

    pub async fn settles(&self, queue: &Queue, entries: &[Entry]) -> Vec<(usize, Range<i64>, Outcome)> {
        told(&self.settled(&self.settling(queue, entries)).await.verdicts)
    }

    pub async fn ack(&self, queue: &Queue, parts: &[LeasePart]) {
        let outcomes = self.settles(queue, &all(parts, &Action::Ack)).await;
        let acked: i64 =
            outcomes.iter().filter(|(_, _, o)| *o == Outcome::Acked).map(|(_, r, _)| r.end - r.start).sum();
        assert_eq!(usize::try_from(acked), Ok(offsets(parts).len()));
    }

    /// Expires leases past their deadline, a few parts at a time; returns the number of parts.
    pub async fn expire(&self) -> i64 {
        let mut all = 0;
        loop {
            let ended = self.plane.expire(3, 0.0).await.expect("an answer");
            if ended == 0 {
                return all;
            }
            all += ended;
        }
    }

    /// Lets all current leases expire.
    pub async fn outlive(&self) {
        self.advance(LEASE_MS + MINUTE).await;
        self.expire().await;
    }

    pub async fn admit(&self, admit: &Admit) -> bool {
        let admitted = self.plane.admit(admit).await.expect("an answer");
        self.holds(admit.queue).await;
        admitted
    }

    /// An admission of runs, each due this number of milliseconds from now, or at once.
    pub async fn admitting(&self, queue: &Queue, home: Home, runs: &[(Range<i64>, Option<i64>)]) -> Admit {
        let now = self.grants(queue, &[]).await.at_ms;
        let (from, to) = (runs[0].0.start, runs[runs.len() - 1].0.end);
        let runs = runs.iter().map(|(range, ms)| (range.clone(), ms.map(|ms| now + ms))).collect();
        Admit {
            scope: self.scope.clone(),
            queue: queue.id,
            agent: AGENT,
            partition: home.id,
            from: Offset(from),
            to: Offset(to),
            runs,
            records: Vec::new(),
        }
    }

    /// Admits records from offset `from` on, by the hashes of their keys.
    pub async fn admit_keys(&self, queue: &Queue, home: Home, from: i64, keys: &[i64]) {
        let records: Vec<Admitted> = (from..)
            .zip(keys)
            .map(|(offset, key)| Admitted { offset: Offset(offset), key_hash: *key, due_ms: None })
            .collect();
        let to = Offset(from + i64::try_from(keys.len()).expect("few"));
        let admit = Admit {
            scope: self.scope.clone(),
            queue: queue.id,
            agent: AGENT,
            partition: home.id,
            from: Offset(from),
            to,
            runs: Vec::new(),
            records,
        };
        assert!(self.admit(&admit).await || self.resends());
    }

    pub async fn ledger(&self, queue: &Queue) -> Ledger {
        self.plane.ledger(&self.scope, queue.id).await.expect("a ledger")
    }

    async fn holds(&self, queue: millpond_core::QueueId) {
        let ledger = self.plane.ledger(&self.scope, queue).await.expect("a ledger");
        assert!(ledger.holds(), "{ledger:?}");
    }

    pub async fn counts(&self, queue: &Queue) -> QueueCounts {
        self.plane.queue_counts(&self.scope, queue.id).await.expect("counts")
    }

    pub async fn cursor(&self, queue: &Queue, home: Home) -> i64 {
        let cursors = self.plane.cursors(&self.scope, queue.id).await.expect("cursors");
        cursors.iter().find(|(partition, _)| *partition == home.id).expect("a cursor").1.0
    }

    pub async fn list(&self, queue: &Queue, listing: Listing) -> Vec<Listed> {
        self.plane.list_queue(&self.scope, queue.id, listing, None, 1_000).await.expect("a list")
    }

    pub async fn listed(&self, queue: &Queue, listing: Listing) -> Vec<i64> {
        self.list(queue, listing).await.iter().map(|l| l.offset.0).collect()
    }

    pub async fn redrive(
        &self,
        queue: &Queue,
        filter: &DeadFilter,
        rate: Option<f64>,
    ) -> Result<i64, DeadRejected> {
        let outcome = known(redrive(&*self.plane, &self.scope, queue.id, filter, rate).await);
        self.holds(queue.id).await;
        outcome
    }

    pub async fn purge_dead(&self, queue: &Queue, filter: &DeadFilter) -> Result<i64, DeadRejected> {
        let outcome = known(purge_dead(&*self.plane, &self.scope, queue.id, filter).await);
        self.holds(queue.id).await;
        outcome
    }

    pub async fn seek(&self, queue: &Queue, to: &[(Home, i64)]) -> (Vec<i64>, i64) {
        let to: Vec<_> = to.iter().map(|(home, offset)| (home.id, Offset(*offset))).collect();
        let to = SeekTo::Offsets(to);
        let (cursors, skipped) = seek(&*self.plane, &self.scope, queue.id, &to).await.expect("a seek");
        self.holds(queue.id).await;
        (cursors.iter().map(|(_, offset)| offset.0).collect(), skipped)
    }

    pub async fn pause(&self, queue: &Queue, paused: bool) {
        self.plane.pause_queue(&self.scope, queue.id, paused).await.expect("a queue");
    }
}

/// A whole seek: the new cursors, and how many unsettled records it skipped.
pub async fn seek(
    plane: &dyn ControlPlane,
    scope: &Scope,
    queue: QueueId,
    to: &SeekTo,
) -> Result<(Vec<(PartitionId, Offset)>, i64), Error<NoSuchQueue>> {
    let cursors = plane.begin_seek(scope, queue, to).await?;
    loop {
        let step = plane.step_seek(scope, queue).await?;
        if step.done {
            return Ok((cursors, step.skipped));
        }
    }
}

/// A whole redrive, in small steps.
pub async fn redrive(
    plane: &dyn ControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
    rate: Option<f64>,
) -> Result<i64, Error<DeadRejected>> {
    let (mut records, mut next) = (0, Some(DeadStep::first(DEAD_STEP_RECORDS)));
    while let Some(step) = next {
        let done = plane.redrive(scope, queue, filter, rate, &step).await?;
        (records, next) = (records + done.records, done.next);
    }
    Ok(records)
}

/// A whole purge of dead records, in small steps.
pub async fn purge_dead(
    plane: &dyn ControlPlane,
    scope: &Scope,
    queue: QueueId,
    filter: &DeadFilter,
) -> Result<i64, Error<DeadRejected>> {
    let (mut records, mut next) = (0, Some(DeadStep::first(DEAD_STEP_RECORDS)));
    while let Some(step) = next {
        let done = plane.purge_dead(scope, queue, filter, &step).await?;
        (records, next) = (records + done.records, done.next);
    }
    Ok(records)
}

fn known<T, R: std::fmt::Debug>(outcome: Result<T, Error<R>>) -> Result<T, R> {
    outcome.map_err(|error| match error {
        Error::Rejected(rejected) => rejected,
        other => panic!("{other:?}"),
    })
}
