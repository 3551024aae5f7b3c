//! Folds the flushes that are ready into one commit, resolves its outcome, and answers.

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
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A commit is sent again until its outcome is known, or so long; the clients have been told "unknown" well
/// before.
const RESOLVE_FOR: Duration = Duration::from_millis(limits::PART_USABLE_MS / 2);
/// With an inline payload: its row is the commit's identity, and goes 70 s after the commit at the earliest
/// (drain, then plan TTL). The last call may take half of them.
const RESOLVE_INLINE_FOR: Duration = Duration::from_secs(30);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Who waits for a commit is told "unknown" after so long, and a call without answer counts as failed: a
/// database that hangs breaks no connection.
const SILENCE: Duration = Duration::from_secs(3);

pub struct Committer {
    pub plane: Arc<dyn ControlPlane>,
    pub cache: Arc<BlockCache>,
    pub watcher: Arc<Watcher>,
    pub health: Arc<Health>,
}

impl Committer {
    /// Commits what comes, several flushes at a time, until the channel closes.
    pub async fn run(self: Arc<Self>, mut ready: mpsc::UnboundedReceiver<Flush>) {
        let mut waiting: Vec<Flush> = Vec::new();
        loop {
            if waiting.is_empty() {
                match ready.recv().await {
                    Some(flush) => waiting.push(flush),
                    None => return,
                }
            }
            while let Ok(flush) = ready.try_recv() {
                waiting.push(flush);
            }
            let mut runs = 0;
            let fits = |f: &Flush| {
                runs += f.runs.len();
                runs <= limits::COMMIT_MAX_RUNS
            };
            let take = waiting.iter().map(fits).take_while(|fits| *fits).count().max(1);
            let rest = waiting.split_off(take);
            self.commit(std::mem::replace(&mut waiting, rest)).await;
        }
    }

    /// Commits flushes together and answers all who wait for them.
    pub async fn commit(&self, mut flushes: Vec<Flush>) {
        let commit = fold(&flushes);
        let start = Instant::now();
        let resolve_for = if flushes.iter().any(|f| f.inline) { RESOLVE_INLINE_FOR } else { RESOLVE_FOR };
        let mut backoff = Duration::from_millis(10);
        let outcome = loop {
            match self.unless_silent(self.plane.commit(&commit), &mut flushes, start).await {
                Ok(committed) => {
                    self.health.control_plane_up();
                    break Some(committed);
                }
                Err(error) => {
                    let resend = start.elapsed() < resolve_for;
                    let maybe = matches!(error, Error::MaybeApplied(_));
                    tracing::warn!(error = %crate::error_chain(&error), maybe, resend, "commit failed");
                    self.health.control_plane_down();
                    if !resend {
                        break None;
                    }
                    metrics::commit_resent();
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        };
        let Some(committed) = outcome else {
            tell_unknown(&mut flushes);
            return;
        };
        let records = commit.pieces.iter().map(|p| saturated::<usize, _>(p.records)).sum();
        metrics::committed(start.elapsed(), flushes.len(), records);
        self.publish(&flushes, &commit, &committed).await;
        answer(flushes, committed);
    }

    /// The call's outcome. Once the commit has taken too long, those who wait are told that there is none
    /// yet; what they hold stays held.
    async fn unless_silent<T>(
        &self,
        call: impl Future<Output = T>,
        flushes: &mut [Flush],
        start: Instant,
    ) -> T {
        tokio::pin!(call);
        if let Ok(outcome) = tokio::time::timeout_at(start + SILENCE, &mut call).await {
            return outcome;
        }
        self.health.control_plane_down();
        tell_unknown(flushes);
        call.await
    }

    /// Lets readers see what was committed, from memory.
    async fn publish(&self, flushes: &[Flush], commit: &Commit, committed: &Committed) {
        for flush in flushes.iter().filter(|f| !f.runs.is_empty()) {
            self.cache.insert_part(flush.part, &flush.bytes).await;
        }
        let mut tops: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        for (piece, outcome) in commit.pieces.iter().zip(&committed.pieces) {
            let Some(base) = outcome.base.filter(|_| committed.verdicts[piece.request] == Verdict::Stored)
            else {
                continue;
            };
            let kept = i64::from(piece.records) - i64::try_from(outcome.dropped.len()).unwrap_or(0);
            let top = tops.entry(commit.runs[piece.run].partition).or_insert(base);
            *top = (*top).max(Offset(base.0 + kept));
        }
        for (partition, top) in tops {
            self.watcher.advance(partition, top);
        }
    }
}

fn tell_unknown(flushes: &mut [Flush]) {
    for reply in flushes.iter_mut().flat_map(|f| &mut f.pendings).filter_map(|p| p.reply.take()) {
        reply.send(Err(AppendError::OutcomeUnknown)).ok();
    }
}

fn answer(flushes: Vec<Flush>, committed: Committed) {
    let mut verdicts = committed.verdicts.into_iter();
    let mut outcomes = committed.pieces.into_iter();
    for flush in flushes {
        let mut own: Vec<Vec<AppendedPiece>> = flush.pendings.iter().map(|_| Vec::new()).collect();
        for ((piece, (topic, partition)), outcome) in flush.pieces.iter().zip(&flush.homes).zip(&mut outcomes)
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
                        tracing::error!(%error, "the stored answer of an idempotency key cannot be read");
                        Err(AppendError::OutcomeUnknown)
                    }
                },
                Verdict::Conflict => Err(AppendError::Conflict),
                Verdict::OffsetMismatch { current } => Err(AppendError::OffsetMismatch { current }),
                Verdict::PartitionGone => Err(AppendError::PartitionGone),
                Verdict::OffsetsRejected(rejected) => Err(AppendError::OffsetsRejected(rejected)),
                Verdict::LeaseLost(lost) => Err(AppendError::LeaseLost(lost)),
                Verdict::Unknown => Err(AppendError::OutcomeUnknown),
            };
            drop(key_lock);
            if let Some(reply) = reply {
                reply.send(outcome).ok();
            }
        }
    }
}
