//! Grants and admissions.

use super::row::{AdmittedRow, CursorRow, LeasePartRow, QueueRow, Waiting, count};
use crate::control_plane::{Batch, BatchFlags};
use crate::id::{LeaseId, Offset, PartitionId};
use crate::limits;
use crate::memory::State;
use crate::number::saturated;
use crate::queue::deal::{Dealt, Source, Supply, deal};
use crate::queue::{Admit, Grant, Granted, LeasePart, LimitedBy, Outlook, Rate, Unadmitted, Want};
use std::ops::Range;

/// A run that may be given out. `attempt` does not count the grant to be made.
struct Run {
    partition: PartitionId,
    range: Range<i64>,
    attempt: i32,
    failures: i32,
}

/// The runs that may be given out, by kind.
#[derive(Default)]
struct Runs {
    alone: Vec<Run>,
    due: Vec<Run>,
    fresh: Vec<Run>,
}

impl Runs {
    fn supply(&self) -> Supply {
        let lengths = |runs: &[Run]| runs.iter().map(|r| r.range.end - r.range.start).collect();
        Supply { alone: lengths(&self.alone), due: lengths(&self.due), fresh: lengths(&self.fresh) }
    }

    fn run(&self, from: Source) -> &Run {
        match from {
            Source::Alone(n) => &self.alone[n],
            Source::Due(n) => &self.due[n],
            Source::Fresh(n) => &self.fresh[n],
        }
    }

    fn records(&self) -> i64 {
        self.alone.iter().chain(&self.due).chain(&self.fresh).map(|r| r.range.end - r.range.start).sum()
    }
}

/// What the limits of a queue allow a grant to give out, in records.
struct Allowed {
    /// Whole tokens of the rate limit; `None`: no rate limit.
    tokens: Option<i64>,
    /// Records left until `max_in_flight`.
    room: i64,
    paused: bool,
}

impl Allowed {
    fn records(&self) -> i64 {
        if self.paused { 0 } else { self.tokens.map_or(self.room, |t| t.min(self.room)) }
    }

    fn limit(&self) -> LimitedBy {
        match self.tokens {
            _ if self.paused => LimitedBy::Paused,
            Some(tokens) if tokens <= self.room => LimitedBy::Rate,
            _ => LimitedBy::MaxInFlight,
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "milliseconds and token counts fit exactly"
)]
fn f64_of(n: i64) -> f64 {
    n as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a count of tokens below the limit"
)]
fn whole(n: f64) -> i64 {
    n as i64
}

impl State {
    /// The first batch of a partition that ends after an offset and for which `pick` returns true.
    pub(super) fn batch_after(
        &self,
        partition: PartitionId,
        offset: i64,
        pick: impl Fn(&Batch) -> bool,
    ) -> Option<&Batch> {
        self.batches_of(partition).map(|row| &row.batch).find(|b| b.end().0 > offset && pick(b))
    }

    /// Fresh records of a shared queue: from the cursor up to the first batch with delayed records, which has
    /// to be admitted.
    fn fresh_of(&self, partition: PartitionId, cursor: CursorRow) -> Option<Run> {
        let end = self.alive_partition(partition)?.high_watermark.0;
        let delayed = self.batch_after(partition, cursor.next, |b| b.flags.has(BatchFlags::DELAY));
        let stop = delayed.map_or(end, |b| b.base.0.clamp(cursor.next, end));
        (cursor.next < stop).then_some(Run { partition, range: cursor.next..stop, attempt: 0, failures: 0 })
    }

    fn runs(&self, row: &QueueRow, grant: &Grant, now: i64) -> Runs {
        let mut runs = Runs::default();
        let mut due: Vec<_> = row.waiting.iter().filter(|(_, w)| w.due_ms <= now).collect();
        due.sort_by_key(|(at, w)| (w.due_ms, **at));
        for ((partition, lo), w) in due {
            let run =
                Run { partition: *partition, range: *lo..w.hi, attempt: w.attempt, failures: w.failures };
            let supply = if w.alone { &mut runs.alone } else { &mut runs.due };
            supply.push(run);
        }
        if row.is_keyed() {
            let from = (grant.from, grant.from_key);
            let free = row
                .keys
                .iter()
                .filter(|(_, key)| !key.taken)
                .filter_map(|(at, key)| Some((*at, *key.offsets.first()?)));
            let mut free: Vec<_> =
                free.filter(|((partition, _), o)| row.admitted[&(*partition, *o)].is_due(now)).collect();
            free.sort_by_key(|(at, _)| (*at < from, *at));
            runs.fresh = free
                .into_iter()
                .map(|((partition, _), o)| Run {
                    partition,
                    range: o..o + 1,
                    attempt: row.admitted[&(partition, o)].attempt,
                    failures: 0,
                })
                .collect();
        } else {
            let mut cursors: Vec<_> = row.cursors.iter().collect();
            cursors.sort_by_key(|(partition, _)| (**partition < grant.from, **partition));
            runs.fresh = cursors
                .into_iter()
                .filter_map(|(partition, cursor)| self.fresh_of(*partition, *cursor))
                .collect();
        }
        runs
    }

    /// Cursors that stand in front of a batch that has to be admitted.
    fn unadmitted(&self, row: &QueueRow, from: PartitionId) -> Vec<Unadmitted> {
        let full = row.is_keyed() && count(row.admitted.len()) >= limits::KEYED_WINDOW;
        if row.queue.paused || full {
            return Vec::new();
        }
        let before = |(partition, cursor): (&PartitionId, &CursorRow)| {
            let batch = self.batch_after(*partition, cursor.next, |_| true)?;
            let stops = batch.base.0 <= cursor.next && (row.is_keyed() || batch.flags.has(BatchFlags::DELAY));
            stops.then(|| Unadmitted { partition: *partition, from: Offset(cursor.next), end: batch.end() })
        };
        let mut all: Vec<Unadmitted> = row.cursors.iter().filter_map(before).collect();
        all.sort_by_key(|u| (u.partition < from, u.partition));
        all.truncate(saturated::<usize, _>(limits::UNADMITTED_MAX));
        all
    }

    pub(super) fn outlook(&self, row: &QueueRow, leases: &[LeaseId], now: i64) -> Outlook {
        let is_behind = |(partition, cursor): (&PartitionId, &CursorRow)| {
            self.alive_partition(*partition).is_some_and(|p| p.high_watermark.0 > cursor.next)
        };
        let has_work = row.cursors.iter().any(is_behind)
            || row.waiting.values().any(|w| w.due_ms <= now)
            || row.keys.iter().any(|((partition, _), key)| {
                let lowest = key.offsets.first().map(|offset| &row.admitted[&(*partition, *offset)]);
                !key.taken && lowest.is_some_and(|record| record.is_due(now))
            });
        Outlook {
            queue: row.queue.id,
            version: row.version,
            at_ms: now,
            ready: has_work && !row.queue.paused || leases.iter().any(|l| row.leases.contains_key(l)),
            paused: row.queue.paused,
            next_due_ms: row.next_due_ms(now),
        }
    }

    pub(super) fn grant(&self, row: &mut QueueRow, grant: &Grant, now: i64) -> Granted {
        let allowed = row.allowed(now);
        let wants: Vec<&Want> = grant.wants.iter().filter(|w| !row.leases.contains_key(&w.lease)).collect();
        let runs = self.runs(row, grant, now);
        let needs: Vec<i64> = wants.iter().map(|w| i64::from(w.records)).collect();
        let dealt = deal(&needs, allowed.records(), &runs.supply(), grant.random);
        let given: i64 = dealt.iter().map(|d| d.range.end - d.range.start).sum();
        row.lease_dealt(&wants, &runs, &dealt, now);
        let limited = row.queue.paused
            || (given == allowed.records() && given < needs.iter().sum::<i64>().min(runs.records()));
        let full = given == 0
            && !needs.is_empty()
            && row.is_keyed()
            && count(row.admitted.len()) >= limits::KEYED_WINDOW;
        Granted {
            at_ms: now,
            parts: grant.wants.iter().flat_map(|w| row.lease_parts(w.lease)).collect(),
            limited_by: if limited { Some(allowed.limit()) } else { full.then_some(LimitedBy::Keys) },
            unadmitted: self.unadmitted(row, grant.from),
            next_due_ms: row.next_due_ms(now),
            contended: false,
        }
    }
}

impl QueueRow {
    /// Earliest due time of the records that are not due yet.
    fn next_due_ms(&self, now: i64) -> Option<i64> {
        let admitted = self.admitted.values().filter(|a| !a.given_out).filter_map(|a| a.due_ms);
        self.waiting.values().map(|w| w.due_ms).chain(admitted).filter(|due| *due > now).min()
    }

    fn allowed(&mut self, now: i64) -> Allowed {
        let tokens = self.queue.config.rate.map(|rate| {
            self.refill(rate, now);
            whole(self.tokens.floor())
        });
        Allowed {
            tokens,
            room: (self.queue.config.max_in_flight - self.leased()).max(0),
            paused: self.queue.paused,
        }
    }

    /// Adds the tokens gained since the last call. The bucket never holds more than the limit.
    fn refill(&mut self, rate: Rate, now: i64) {
        let gained = f64_of(now - self.refilled_ms) * f64::from(rate.limit) / f64_of(rate.per_ms);
        self.tokens = (self.tokens + gained).min(f64::from(rate.limit));
        self.refilled_ms = now;
    }

    fn lease_dealt(&mut self, wants: &[&Want], runs: &Runs, dealt: &[Dealt], now: i64) {
        for d in dealt {
            let run = runs.run(d.from);
            let range = run.range.start + d.range.start..run.range.start + d.range.end;
            let (partition, length) = (run.partition, range.end - range.start);
            match d.from {
                Source::Fresh(_) if self.is_keyed() => self.take_admitted(partition, range.start),
                Source::Fresh(_) => self.advance_cursor(partition, range.end),
                Source::Alone(_) | Source::Due(_) => self.take_waiting(partition, range.start, length),
            }
            if self.queue.config.rate.is_some() {
                self.tokens -= f64_of(length);
            }
            let want = wants[d.want];
            self.lease(want.lease, now + want.lease_ms, run, range);
        }
    }

    fn advance_cursor(&mut self, partition: PartitionId, to: i64) {
        if let Some(cursor) = self.cursors.get_mut(&partition) {
            cursor.next = to;
        }
    }

    /// Adds records to a lease. Records with the same partition, attempt and failures share a part.
    fn lease(&mut self, lease: LeaseId, deadline_ms: i64, run: &Run, range: Range<i64>) {
        let parts = self.leases.entry(lease).or_default();
        let (partition, attempt, failures) = (run.partition, run.attempt + 1, run.failures);
        let same =
            |p: &&mut LeasePartRow| (p.partition, p.attempt, p.failures) == (partition, attempt, failures);
        if let Some(part) = parts.iter_mut().find(same) {
            return part.pending.add(range);
        }
        let number = saturated::<i32, _>(parts.len());
        parts.push(LeasePartRow {
            number,
            partition,
            attempt,
            failures,
            deadline_ms,
            pending: [range].into_iter().collect(),
        });
    }

    fn lease_parts(&self, lease: LeaseId) -> Vec<LeasePart> {
        let part = |p: &LeasePartRow| LeasePart {
            lease,
            partition: p.partition,
            ranges: p.pending.to_vec(),
            attempt: p.attempt,
            failures: p.failures,
            deadline_ms: p.deadline_ms,
        };
        self.leases.get(&lease).into_iter().flatten().map(part).collect()
    }

    pub(super) fn apply_admit(&mut self, admit: &Admit, now: i64) -> bool {
        let Some(cursor) = self.cursors.get_mut(&admit.partition).filter(|c| c.next == admit.from.0) else {
            return false;
        };
        cursor.next = admit.to.0;
        for (range, due_ms) in &admit.runs {
            let run = Waiting {
                hi: range.end,
                due_ms: due_ms.unwrap_or(now),
                attempt: 0,
                failures: 0,
                alone: false,
                reason: None,
            };
            self.add_waiting(admit.partition, range.start, run);
        }
        for record in &admit.records {
            let row = AdmittedRow {
                key_hash: record.key_hash,
                due_ms: record.due_ms,
                attempt: 0,
                given_out: false,
            };
            self.admit(admit.partition, record.offset.0, row);
        }
        true
    }
}

impl AdmittedRow {
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.due_ms.is_none_or(|due| due <= now)
    }
}
