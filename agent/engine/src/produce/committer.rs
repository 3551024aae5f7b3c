//! Commits flushes, several at a time; resends a commit until its outcome is known, and answers the appends.

use super::AppendError;
use super::append::{Appended, AppendedPiece, Context, join_pieces};
use super::flush::{Flush, Pending, fold};
use crate::fetch::cache::BlockCache;
use crate::fetch::watcher::Watcher;
use crate::health::Health;
use crate::metrics;
use millpond_core::control_plane::{Commit, Committed, Verdict};
use millpond_core::saturated;
use millpond_core::{ControlPlane, Error, Offset, PartitionId, limits};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// How long a commit of segments is sent again while its outcome is unknown. Clients are answered "outcome
/// unknown" well before that (see [`ANSWER_WAIT_MAX`]).
const RESEND_MAX: Duration = Duration::from_millis(limits::PART_USABLE_MS / 2);
/// The same for a commit with an inline payload. A resent commit is recognised by the payload's row, which is
/// deleted at the earliest 70 s after the commit (after the drain, and then the longest read plan). The last
/// attempt may take half of that time.
const RESEND_INLINE_MAX: Duration = Duration::from_secs(30);
/// How much longer than it is sent again a commit may be applied. After an agent was frozen, or on a slow
/// network, a commit can arrive when the control plane no longer recognises it.
const LATE_MAX: Duration = Duration::from_secs(5);
/// Longest pause between two attempts.
const RESEND_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a commit may take before its appends are answered "outcome unknown" and the control plane counts
/// as failing. Needed because a database that hangs does not close its connections.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Commits of segments whose outcome is not known yet: one, and those that are overdue.
const COMMITS_IN_FLIGHT: u32 = 4;

/// Sends commits to the control plane.
pub struct Committer {
    plane: Arc<dyn ControlPlane>,
    cache: Arc<BlockCache>,
    watcher: Arc<Watcher>,
    health: Arc<Health>,
    /// Time of the last commit by the control plane's clock, and when its answer came. The clock now is not
    /// behind what follows from them.
    told_time: Mutex<Option<(i64, Instant)>>,
}

impl Committer {
    #[must_use]
    pub fn new(
        plane: Arc<dyn ControlPlane>,
        cache: Arc<BlockCache>,
        watcher: Arc<Watcher>,
        health: Arc<Health>,
    ) -> Self {
        Self { plane, cache, watcher, health, told_time: Mutex::new(None) }
    }

    /// Commits uploaded flushes until the channel closes. All that are ready go into one commit, within its
    /// limits. One commit follows the other; the outcome of one that is [overdue](ANSWER_WAIT_MAX) is found
    /// out beside those that follow.
    pub async fn run(self: Arc<Self>, mut ready: mpsc::UnboundedReceiver<Flush>) {
        let mut waiting: Vec<Flush> = Vec::new();
        let in_flight = Arc::new(Semaphore::new(saturated::<usize, _>(COMMITS_IN_FLIGHT)));
        loop {
            if waiting.is_empty() {
                match ready.recv().await {
                    Some(flush) => waiting.push(flush),
                    None => break,
                }
            }
            while let Ok(flush) = ready.try_recv() {
                waiting.push(flush);
            }
            let (mut runs, mut pieces) = (0, 0);
            let fits = |f: &Flush| {
                runs += f.runs.len();
                pieces += f.pieces.len();
                runs <= limits::COMMIT_MAX_RUNS && pieces <= limits::COMMIT_MAX_PIECES
            };
            let take = waiting.iter().map(fits).take_while(|fits| *fits).count().max(1);
            let rest = waiting.split_off(take);
            let flushes = std::mem::replace(&mut waiting, rest);
            let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { break };
            let committer = Arc::clone(&self);
            let mut task = tokio::spawn(async move {
                committer.commit(flushes).await;
                drop(permit);
            });
            tokio::time::timeout(ANSWER_WAIT_MAX, &mut task).await.ok();
        }
        in_flight.acquire_many(COMMITS_IN_FLIGHT).await.ok();
    }

    /// Commits flushes together and answers their appends.
    pub async fn commit(&self, mut flushes: Vec<Flush>) {
        let mut commit = fold(&flushes);
        let start = Instant::now();
        let resend_max = if flushes.iter().any(|f| f.inline) { RESEND_INLINE_MAX } else { RESEND_MAX };
        commit.not_after_ms = Some(self.not_after(resend_max + LATE_MAX));
        let mut backoff = Duration::from_millis(10);
        let mut is_maybe_applied = false;
        let outcome = loop {
            match self.call_with_silence_check(self.plane.commit(&commit), &mut flushes, start).await {
                Ok(committed) => {
                    self.health.control_plane_up();
                    self.learn_time(&committed);
                    let is_late = committed.verdicts.contains(&Verdict::TooLate);
                    if is_late && !is_maybe_applied && start.elapsed() < resend_max {
                        // Nothing was applied, so the commit may be given a new time. The first commit of
                        // an agent, which does not know the control plane's clock, comes here.
                        commit.not_after_ms = Some(self.not_after(resend_max + LATE_MAX));
                        continue;
                    }
                    break Some(committed);
                }
                Err(error) => {
                    let resend = start.elapsed() < resend_max;
                    let maybe_applied = matches!(error, Error::MaybeApplied(_));
                    is_maybe_applied |= maybe_applied;
                    let error = crate::error_chain(&error);
                    tracing::warn!(%error, maybe_applied, resend, "commit failed");
                    self.health.control_plane_down();
                    if !resend {
                        break None;
                    }
                    metrics::commit_resent();
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(RESEND_PAUSE_MAX);
        };
        let Some(committed) = outcome else {
            answer_unknown(&mut flushes);
            return;
        };
        let records = commit.pieces.iter().map(|p| saturated::<usize, _>(p.records)).sum();
        metrics::committed(start.elapsed(), flushes.len(), records);
        self.publish(&flushes, &commit, &committed).await;
        answer(flushes, committed);
    }

    /// The time `after` from now by the control plane's clock, or earlier; 1970 if that clock is unknown.
    fn not_after(&self, after: Duration) -> i64 {
        self.told_time.lock().map_or(0, |(at_ms, heard)| {
            at_ms.saturating_add(saturated::<i64, _>((heard.elapsed() + after).as_millis()))
        })
    }

    fn learn_time(&self, committed: &Committed) {
        if committed.at_ms > 0 {
            *self.told_time.lock() = Some((committed.at_ms, Instant::now()));
        }
    }

    /// Waits for one attempt of a commit. When [`ANSWER_WAIT_MAX`] after `start` is reached, the appends are
    /// answered "outcome unknown", but keep their locks and memory until the commit ends.
    async fn call_with_silence_check<T>(
        &self,
        call: impl Future<Output = T>,
        flushes: &mut [Flush],
        start: Instant,
    ) -> T {
        tokio::pin!(call);
        if let Ok(outcome) = tokio::time::timeout_at(start + ANSWER_WAIT_MAX, &mut call).await {
            return outcome;
        }
        self.health.control_plane_down();
        answer_unknown(flushes);
        call.await
    }

    /// Puts committed parts into the cache and wakes the readers of their partitions.
    async fn publish(&self, flushes: &[Flush], commit: &Commit, committed: &Committed) {
        for flush in flushes.iter().filter(|f| !f.runs.is_empty()) {
            self.cache.insert_part(flush.part, &flush.bytes).await;
        }
        let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        for (piece, outcome) in commit.pieces.iter().zip(&committed.pieces) {
            let Some(base) = outcome.base.filter(|_| committed.verdicts[piece.request] == Verdict::Stored)
            else {
                continue;
            };
            let kept = i64::from(piece.records) - i64::try_from(outcome.dropped.len()).unwrap_or(0);
            let end = ends.entry(commit.runs[piece.run].partition).or_insert(base);
            *end = (*end).max(Offset(base.0 + kept));
        }
        self.watcher.count_commit();
        for (partition, end) in ends {
            self.watcher.advance(partition, end);
        }
    }
}

/// Answers all appends that were not answered yet with "outcome unknown".
fn answer_unknown(flushes: &mut [Flush]) {
    for reply in flushes.iter_mut().flat_map(|f| &mut f.pendings).filter_map(|p| p.reply.take()) {
        reply.send(Err(AppendError::OutcomeUnknown)).ok();
    }
}

/// Answers every append with the verdict of its request.
fn answer(flushes: Vec<Flush>, committed: Committed) {
    let mut verdicts = committed.verdicts.into_iter();
    let mut outcomes = committed.pieces.into_iter();
    for flush in flushes {
        let mut own: Vec<Vec<AppendedPiece>> = flush.pendings.iter().map(|_| Vec::new()).collect();
        for ((piece, (topic, partition)), outcome) in
            flush.pieces.iter().zip(&flush.piece_places).zip(&mut outcomes)
        {
            own[piece.request].push(AppendedPiece {
                topic: *topic,
                partition: *partition,
                records: piece.records,
                outcome,
            });
        }
        for ((pending, pieces), verdict) in flush.pendings.into_iter().zip(own).zip(&mut verdicts) {
            let Pending { append, reply, key_lock, .. } = pending;
            let stored = |basis, duplicate, pieces: Vec<AppendedPiece>| Appended {
                at_ms: committed.at_ms,
                basis,
                duplicate,
                pieces: join_pieces(pieces.into_iter()),
            };
            let outcome = match verdict {
                Verdict::Stored => Ok(stored(append.basis, false, pieces)),
                Verdict::Duplicate(answer) => match serde_json::from_slice::<Context>(&answer.context) {
                    Ok(context) => {
                        let pieces = context.pieces.iter().zip(answer.pieces);
                        let pieces = pieces.map(|((topic, partition, records), outcome)| AppendedPiece {
                            topic: *topic,
                            partition: *partition,
                            records: *records,
                            outcome,
                        });
                        Ok(stored(context.basis, true, pieces.collect()))
                    }
                    Err(error) => {
                        tracing::error!(%error, "the stored answer of an idempotency key cannot be decoded");
                        Err(AppendError::OutcomeUnknown)
                    }
                },
                Verdict::Conflict => Err(AppendError::Conflict),
                Verdict::OffsetMismatch { current } => Err(AppendError::OffsetMismatch { current }),
                Verdict::PartitionGone => Err(AppendError::PartitionGone),
                Verdict::OffsetsRejected(rejected) => Err(AppendError::OffsetsRejected(rejected)),
                Verdict::LeaseLost(lost) => Err(AppendError::LeaseLost(lost)),
                Verdict::Unknown | Verdict::TooLate => Err(AppendError::OutcomeUnknown),
            };
            drop(key_lock);
            if let Some(reply) = reply {
                reply.send(outcome).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests;
