//! Encodes the appends of a flush into one upload part, and builds the commit that makes them visible.

use super::AppendError;
use super::append::{Append, Appended, Context};
use bytes::Bytes;
use millpond_core::control_plane::{Commit, Dedup, Part, PartBody, Piece, Request, Run, TopicLabel};
use millpond_core::saturated;
use millpond_core::{PartId, PartitionId, limits};
use millpond_format::ingest::SegmentWriter;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;

/// An append that waits for its outcome.
#[derive(Debug)]
pub struct Pending {
    pub append: Append,
    /// `None` once the caller was answered that the outcome is unknown.
    pub reply: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    /// Arrival at the writer.
    pub since: Instant,
    /// Lock of the append's idempotency key in this agent, held until the outcome is known.
    pub key_lock: Option<OwnedMutexGuard<()>>,
}

/// The writer of a segment, as named in the segment footer.
#[derive(Debug, Clone)]
pub struct Origin {
    pub cluster: String,
    pub epoch: i64,
    pub agent: String,
}

/// One encoded upload part and the appends in it.
#[derive(Debug)]
pub struct Flush {
    pub part: PartId,
    /// Whether the part is stored in Postgres instead of the bucket.
    pub inline: bool,
    pub bytes: Bytes,
    pub runs: Vec<Run>,
    /// Their `request` is an index into `pendings`, their `run` one into `runs`.
    pub pieces: Vec<Piece>,
    /// Their `piece` is an index into `pieces`.
    pub dedups: Vec<Dedup>,
    /// For each piece: index of the topic in its request, and partition.
    pub piece_places: Vec<(usize, i32)>,
    /// For each of `pendings`: its encoded [`Context`], empty if it needs none.
    pub contexts: Vec<Bytes>,
    pub pendings: Vec<Pending>,
}

fn int(n: usize) -> i32 {
    saturated::<i32, _>(n)
}

impl Flush {
    /// Encodes appends into one part. The records of a partition are contiguous in it, in the order of the
    /// appends.
    #[must_use]
    pub fn encode(part: PartId, inline: bool, origin: &Origin, pendings: Vec<Pending>) -> Self {
        let size: usize = pendings.iter().map(|p| p.append.bytes()).sum();
        let mut writer = SegmentWriter::new(&origin.cluster, origin.epoch, &origin.agent, size / 2);
        let mut flush = Self {
            part,
            inline,
            bytes: Bytes::new(),
            runs: Vec::new(),
            pieces: Vec::new(),
            dedups: Vec::new(),
            piece_places: Vec::new(),
            contexts: Vec::new(),
            pendings: Vec::new(),
        };
        // Every piece as partition, index of its append, index of the piece in the append.
        let mut sources: Vec<(PartitionId, usize, usize)> = Vec::new();
        for (request, pending) in pendings.iter().enumerate() {
            for (number, piece) in pending.append.pieces.iter().enumerate() {
                // A partition that the topic does not have gets an id that the commit rejects.
                let id = piece.topic.partition_id(piece.partition).unwrap_or(PartitionId(-1));
                sources.push((id, request, number));
            }
        }
        sources.sort_unstable();
        for group in sources.chunk_by(|a, b| a.0 == b.0) {
            flush.encode_partition(&mut writer, &pendings, group);
        }
        flush.contexts = flush.contexts(&pendings);
        flush.bytes = if inline { writer.into_payload() } else { writer.into_segment() };
        flush.pendings = pendings;
        flush
    }

    /// Encodes all pieces of one partition into one or, if they exceed the size of a batch, several runs.
    fn encode_partition(
        &mut self,
        writer: &mut SegmentWriter,
        pendings: &[Pending],
        group: &[(PartitionId, usize, usize)],
    ) {
        let Some(&(partition, request, number)) = group.first() else { return };
        let first = &pendings[request].append.pieces[number];
        let label = TopicLabel {
            tenant: first.topic.tenant.clone(),
            topic: first.topic.name.clone(),
            topic_id: first.topic.id,
            partition: first.partition,
        };
        let mut run = OpenRun::new(partition);
        for &(_, request, number) in group {
            let piece = &pendings[request].append.pieces[number];
            let mut dedups = piece.dedups.iter().peekable();
            let mut position = 0;
            while position < piece.records.len() {
                let taken = writer.push_from(&piece.records, position, limits::BATCH_MAX_BYTES);
                if taken == 0 {
                    self.runs
                        .push(std::mem::replace(&mut run, OpenRun::new(partition)).close(writer, &label));
                    continue;
                }
                let end = int(position + taken);
                while let Some((at, id_hash)) = dedups.next_if(|d| d.0 < end) {
                    self.dedups.push(Dedup {
                        piece: self.pieces.len(),
                        position: at - int(position),
                        topic: label.topic_id,
                        id_hash: *id_hash,
                        window_ms: piece.topic.config.dedup_window_ms,
                        partition: piece.partition,
                    });
                }
                self.pieces.push(Piece {
                    request,
                    run: self.runs.len(),
                    first: int(run.records),
                    records: int(taken),
                });
                self.piece_places.push((piece.topic_number, piece.partition));
                run.add(taken, piece);
                position += taken;
            }
        }
        self.runs.push(run.close(writer, &label));
    }

    /// The encoded [`Context`] of each append; empty if it has neither an idempotency key nor dedup ids.
    fn contexts(&self, pendings: &[Pending]) -> Vec<Bytes> {
        let mut places: Vec<Vec<(usize, i32, i32)>> = vec![Vec::new(); pendings.len()];
        for (piece, (topic, partition)) in self.pieces.iter().zip(&self.piece_places) {
            places[piece.request].push((*topic, *partition, piece.records));
        }
        let encode = |(pending, pieces): (&Pending, Vec<_>)| {
            let append = &pending.append;
            if append.key.is_none() && append.pieces.iter().all(|p| p.dedups.is_empty()) {
                return Bytes::new();
            }
            serde_json::to_vec(&Context { basis: append.basis.clone(), pieces }).unwrap_or_default().into()
        };
        pendings.iter().zip(places).map(encode).collect()
    }
}

/// The run that is being encoded.
struct OpenRun {
    partition: PartitionId,
    records: usize,
    flags: Option<millpond_core::control_plane::BatchFlags>,
    latest_expiry: Option<i64>,
    /// Whether some record never expires.
    has_unexpiring: bool,
}

impl OpenRun {
    fn new(partition: PartitionId) -> Self {
        Self { partition, records: 0, flags: None, latest_expiry: None, has_unexpiring: false }
    }

    fn add(&mut self, taken: usize, piece: &super::append::AppendPiece) {
        self.records += taken;
        self.flags = Some(self.flags.map_or(piece.records.flags, |f| f.joined(piece.records.flags)));
        match piece.records.expires_at_ms() {
            Some(at) => self.latest_expiry = self.latest_expiry.max(Some(at)),
            None => self.has_unexpiring = true,
        }
    }

    fn close(self, writer: &mut SegmentWriter, label: &TopicLabel) -> Run {
        let (byte_offset, encoded) = writer.finish_batch(label);
        Run {
            part: 0,
            partition: self.partition,
            records: encoded.records,
            byte_offset: int(byte_offset),
            byte_length: int(encoded.byte_length),
            raw_bytes: int(encoded.raw_bytes),
            crc: encoded.crc.cast_signed(),
            max_timestamp: encoded.max_timestamp,
            expires_at_ms: self.latest_expiry.filter(|_| !self.has_unexpiring),
            flags: self.flags.unwrap_or_default(),
        }
    }
}

/// Builds one commit of several flushes, in their order.
#[must_use]
pub fn fold(flushes: &[Flush]) -> Commit {
    let mut commit = Commit::default();
    for flush in flushes {
        let (part, runs, pieces, requests) =
            (commit.parts.len(), commit.runs.len(), commit.pieces.len(), commit.requests.len());
        let segment = || PartBody::Segment {
            bytes: saturated::<i64, _>(flush.bytes.len()),
            crc: crc32c::crc32c(&flush.bytes).cast_signed(),
        };
        let body = if flush.inline { PartBody::Inline(flush.bytes.clone()) } else { segment() };
        if !flush.runs.is_empty() {
            commit.parts.push(Part { id: flush.part, body });
        }
        commit.runs.extend(flush.runs.iter().map(|r| Run { part, ..*r }));
        commit.pieces.extend(flush.pieces.iter().map(|p| Piece {
            request: p.request + requests,
            run: p.run + runs,
            ..*p
        }));
        commit.dedups.extend(flush.dedups.iter().map(|d| Dedup { piece: d.piece + pieces, ..*d }));
        let request = |(pending, context): (&Pending, &Bytes)| Request {
            scope: pending.append.scope.clone(),
            id: pending.append.id,
            key: pending.append.key,
            expect: pending.append.expect,
            context: context.clone(),
        };
        commit.requests.extend(flush.pendings.iter().zip(&flush.contexts).map(request));
        // An append with a guard is the only one in its commit.
        commit.guard = commit.guard.or_else(|| flush.pendings.iter().find_map(|p| p.append.guard.clone()));
    }
    commit
}
