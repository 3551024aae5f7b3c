//! The poll of a group member: returns records of its partitions and renews its session.

use super::position::{MemberPosition, within};
use super::{Assignments, Groups};
use crate::fetch::FetchError;
use crate::fetch::partition::find_from;
use crate::fetch::reader::Purpose;
use crate::fetch::tail::{PARTITIONS_AT_ONCE, share_of};
use crate::fetch::watcher::Watch;
use crate::fetch::{ReadLimits, RecordSink, Selection};
use crate::memory::Room;
use millpond_core::group::{Assigned, RenewRejected, Renewed, Start};
use millpond_core::saturated;
use millpond_core::{Error, Generation, MemberId, Name, PartitionId, Scope, limits};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// One poll.
#[derive(Debug, Clone)]
pub struct PollRequest {
    pub group: Name,
    pub member: MemberId,
    /// The member's position: [`Polled::next`] of its last poll. Without it, and for partitions that are new
    /// to the member, reading begins at the committed offset, or if there is none, where the member chose
    /// when it joined.
    pub after: Option<String>,
    /// With `max_records` 0, the poll only renews the session.
    pub limits: ReadLimits,
    /// How long to wait if there is no record yet.
    pub wait: Duration,
}

/// The result of a poll, besides records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// The member's position as an opaque token: `after` of its next poll.
    pub next: String,
    pub generation: Generation,
    pub assignments: Assignments,
}

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error(transparent)]
    Renew(#[from] Error<RenewRejected>),
    #[error("this is not a position of the group: leave `after` out to begin at the committed offsets")]
    NotAPosition,
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A renewed session and the time of the renewal.
struct RenewedSession {
    renewed: Renewed,
    at: Instant,
}

impl RenewedSession {
    /// When a waiting poll renews the session again.
    fn renew_again_at(&self) -> Instant {
        self.at + ms(self.renewed.session_ms / 3)
    }

    /// Whether another renewal would be written. The control plane does not write a renewal if the last one
    /// it wrote is recent enough.
    fn is_due(&self) -> bool {
        let noted_ago = self.at.elapsed() + ms(self.renewed.noted_ms_ago);
        noted_ago >= ms(self.renewed.session_ms / limits::SESSION_NOTED_PARTS)
    }
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(saturated::<u64, _>(ms))
}

impl Groups {
    /// Reads records of the member's partitions and renews its session: at the start of the poll, while it
    /// waits, and when it returns. Returns as soon as there are records or a new generation, at the latest
    /// when the wait is over.
    pub async fn poll(
        &self,
        scope: &Scope,
        poll: &PollRequest,
        sink: &mut impl RecordSink,
    ) -> Result<Polled, PollError> {
        let deadline = Instant::now() + poll.wait;
        let mut session = self.renew_now(scope, poll).await?;
        let (mut position, has_new_generation) =
            MemberPosition::of_and_generation_change(&session.renewed, poll.after.as_deref())
                .map_err(|_| PollError::NotAPosition)?;
        if poll.limits.max_records == 0 {
            return Ok(polled(&position, &session.renewed));
        }
        // A client that does not know the current generation yet must learn it at once, so that a change
        // between two polls is noticed as fast as one during a poll.
        let waits = !poll.wait.is_zero() && !has_new_generation;
        let ids: Vec<PartitionId> = session.renewed.partitions.iter().map(|p| p.partition).collect();
        let watch = waits.then(|| self.fetch.watcher.watch(scope, ids));
        let generations =
            waits.then(|| self.watcher.watch(scope, session.renewed.group, session.renewed.generation));
        // The partitions to read; `None`: all.
        let mut moved: Option<BTreeSet<PartitionId>> = None;
        loop {
            let assigned = &session.renewed.partitions;
            let is_moved = |a: &&Assigned| moved.as_ref().is_none_or(|moved| moved.contains(&a.partition));
            let all: Vec<&Assigned> = assigned.iter().filter(is_moved).collect();
            let records = self
                .read(scope, poll, &mut position, (&all, session.renewed.from), watch.as_ref(), sink)
                .await?;
            let (Some(watch), Some(generations)) = (&watch, &generations) else {
                return self.finish(scope, poll, records, position, &session).await;
            };
            if records > 0 || Instant::now() >= deadline || self.fetch.watcher.is_stopping() {
                return self.finish(scope, poll, records, position, &session).await;
            }
            tokio::select! {
                partitions = watch.moved() => {
                    // A wake-up reads those partitions only that have new records.
                    moved = Some(partitions);
                    continue;
                }
                () = generations.moved() => {}
                () = tokio::time::sleep_until(session.renew_again_at()) => {
                    let at = Instant::now();
                    if self.sessions.renew(scope, poll.member).await {
                        session.at = at;
                        session.renewed.noted_ms_ago = 0;
                        moved = Some(BTreeSet::new());
                        continue;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    moved = Some(BTreeSet::new());
                    continue;
                }
            }
            moved = Some(BTreeSet::new());
            let now = self.renew_now(scope, poll).await?;
            if now.renewed.generation != session.renewed.generation {
                let position = MemberPosition::of(&now.renewed, Some(&position.token()))
                    .map_err(|_| PollError::NotAPosition)?;
                return Ok(polled(&position, &now.renewed));
            }
            session = now;
        }
    }

    async fn renew_now(
        &self,
        scope: &Scope,
        poll: &PollRequest,
    ) -> Result<RenewedSession, Error<RenewRejected>> {
        let at = Instant::now();
        let renewed = self.renew(scope, &poll.group, poll.member).await?;
        Ok(RenewedSession { renewed, at })
    }

    /// Reads records of the partitions, within the limits. Returns their number.
    async fn read(
        &self,
        scope: &Scope,
        poll: &PollRequest,
        position: &mut MemberPosition,
        (all, from): (&[&Assigned], Start),
        watch: Option<&Watch>,
        sink: &mut impl RecordSink,
    ) -> Result<usize, FetchError> {
        let mut selection = Selection::new(poll.limits);
        let first = position.turn(all.len());
        let turns: Vec<&Assigned> = all[first..].iter().chain(&all[..first]).copied().collect();
        for group in turns.chunks(PARTITIONS_AT_ONCE) {
            let share = share_of(poll.limits.max_bytes, group.len());
            let mut left: Vec<&Assigned> = group.to_vec();
            while !left.is_empty() {
                let request = |a: &&Assigned| find_from(scope, a.partition, position.get(a.partition), share);
                let requests: Vec<_> = left.iter().map(request).collect();
                let room = if selection.records == 0 { Room::Wait } else { Room::IfFree };
                let mut fetched = match self.fetch.reader.fetch(&requests, Purpose::Answer, room).await {
                    Err(FetchError::Throttled) if selection.records > 0 => return Ok(selection.records),
                    fetched => fetched?,
                };
                let mut moved = Vec::new();
                for (assigned, one) in left.iter().zip(&mut fetched) {
                    // The topic was deleted: the next generation will not contain the partition.
                    let Some(one) = one else { continue };
                    let at = position.get(assigned.partition);
                    let mut next = within(Some(at), from, one.log_start_offset, one.high_watermark);
                    if next != at {
                        moved.push(*assigned);
                    } else {
                        sink.begin_partition(&assigned.topic, assigned.number);
                        sink.hold(one.take_answer_memory());
                        selection.take(one, &mut next, sink)?;
                    }
                    position.set(assigned.partition, next);
                    if let Some(watch) = watch {
                        watch.saw(assigned.partition, one.high_watermark);
                    }
                }
                left = moved;
            }
            if selection.is_full {
                break;
            }
        }
        Ok(selection.records)
    }

    /// Ends a poll: renews the session once more, if that would be written.
    async fn finish(
        &self,
        scope: &Scope,
        poll: &PollRequest,
        records: usize,
        mut position: MemberPosition,
        session: &RenewedSession,
    ) -> Result<Polled, PollError> {
        if records > 0 {
            position.take_turn();
        }
        if session.is_due() && !self.sessions.renew(scope, poll.member).await {
            let outcome = self.plane.renew(scope, &poll.group, poll.member).await;
            // Other failures are ignored, because the records can be returned; the next poll will report
            // them.
            if let Err(rejected @ Error::Rejected(_)) = outcome {
                return Err(rejected.into());
            }
        }
        Ok(polled(&position, &session.renewed))
    }
}

fn polled(position: &MemberPosition, renewed: &Renewed) -> Polled {
    let mut assignments = Assignments::new();
    for assigned in &renewed.partitions {
        assignments.entry(assigned.topic.clone()).or_default().push(assigned.number);
    }
    Polled { next: position.token(), generation: renewed.generation, assignments }
}
