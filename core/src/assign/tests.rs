use super::*;
use crate::control_plane::{Dedup, Part, PartBody, Piece, Request, RequestKey, Run};
use crate::id::{PartId, RequestId};
use bytes::Bytes;
use proptest::prelude::*;

struct Fixed {
    partitions: i64,
}

impl View for Fixed {
    fn part_is_new(&self, _: usize) -> bool {
        true
    }
    fn high_watermark(&self, _: &Scope, partition: PartitionId) -> Option<Offset> {
        (partition.0 < self.partitions).then_some(Offset(partition.0 * 1_000))
    }
    fn key(&self, key_hash: Uuid) -> Option<(Uuid, Answer)> {
        (key_hash.as_u128() == 7)
            .then(|| (Uuid::from_u128(1), Answer { context: Bytes::new(), pieces: Vec::new() }))
    }
    fn dedup_is_known(&self, _: TopicId, id_hash: Uuid) -> bool {
        id_hash.as_u128() < 3
    }
}

/// A commit of one part. Each request has: partition, number of records, key (7 is taken), and whether its
/// first record has a dedup id, which is then the number of the request.
fn commit_of(requests: &[(i64, i32, Option<u128>, bool)]) -> Commit {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|n| requests[*n].0);
    let mut commit = Commit {
        parts: vec![Part { id: PartId(Uuid::from_u128(9)), body: PartBody::Inline(Bytes::new()) }],
        requests: requests
            .iter()
            .enumerate()
            .map(|(n, r)| Request {
                scope: Scope::unauthenticated(),
                id: RequestId(Uuid::from_u128(u128::try_from(n).unwrap_or(0))),
                key: r.2.map(|k| RequestKey {
                    key_hash: Uuid::from_u128(k),
                    body_hash: Uuid::from_u128(1),
                    ttl_ms: 1,
                }),
                expect: None,
                context: Bytes::new(),
            })
            .collect(),
        ..Commit::default()
    };
    for number in order {
        let (partition, records, _, dedup) = requests[number];
        let partition = PartitionId(partition);
        if commit.runs.last().is_none_or(|r| r.partition != partition) {
            commit.runs.push(Run {
                part: 0,
                partition,
                records: 0,
                byte_offset: 0,
                byte_length: 0,
                raw_bytes: 0,
                crc: 0,
                max_timestamp: 0,
                expires_at_ms: None,
                flags: Default::default(),
            });
        }
        let run = commit.runs.len() - 1;
        let first = commit.runs[run].records;
        commit.runs[run].records += records;
        commit.pieces.push(Piece { request: number, run, first, records });
        if dedup {
            let id_hash = Uuid::from_u128(u128::try_from(number).unwrap_or(0));
            commit.dedups.push(Dedup {
                piece: commit.pieces.len() - 1,
                position: 0,
                topic: TopicId(1),
                id_hash,
                window_ms: 1,
                partition: 0,
            });
        }
    }
    commit
}

#[test]
fn refused_requests_leave_no_hole() {
    let commit =
        commit_of(&[(1, 3, None, false), (1, 2, Some(7), false), (1, 4, None, false), (99, 5, None, false)]);
    let decision = decide(&commit, &Fixed { partitions: 5 }, 1);
    let bases: Vec<Option<i64>> = decision.committed.pieces.iter().map(|p| p.base.map(|o| o.0)).collect();
    assert_eq!(bases, [Some(1_000), None, Some(1_003), None]);
    assert_eq!(decision.committed.verdicts[3], Verdict::PartitionGone);
    assert_eq!(decision.batches.len(), 1);
    assert_eq!(decision.batches[0].1.skip, vec![3..5]);
    assert_eq!(decision.high_watermarks[&PartitionId(1)], Offset(1_007));
}

proptest! {
    #[test]
    fn offsets_are_dense_and_pieces_can_be_read_back(
        requests in prop::collection::vec(
            (0_i64..4, 1_i32..6, prop::option::of(5_u128..9), any::<bool>()),
            1..20,
        )
    ) {
        let mut requests = requests;
        let mut seen = HashSet::new();
        for r in &mut requests {
            if r.2.is_some_and(|k| !seen.insert(k)) { r.2 = None; }
        }
        let commit = commit_of(&requests);
        let decision = decide(&commit, &Fixed { partitions: 3 }, 1);
        for partition in 0..3 {
            let mut next = partition * 1_000;
            for (_, batch) in decision.batches.iter().filter(|(p, _)| p.0 == partition) {
                prop_assert_eq!(batch.base.0, next);
                next = batch.end().0;
                let run = commit.runs.iter().find(|r| r.partition.0 == partition).expect("a run");
                let skipped: i32 = batch.skip.iter().map(|r| r.end - r.start).sum();
                prop_assert_eq!(batch.records + skipped, run.records);
            }
            let top = decision.high_watermarks.get(&PartitionId(partition));
            let top = top.map_or(partition * 1_000, |o| o.0);
            prop_assert_eq!(top, next);
        }
        for (number, piece) in commit.pieces.iter().enumerate() {
            let outcome = &decision.committed.pieces[number];
            let partition = commit.runs[piece.run].partition;
            let batch = decision.batches.iter().find(|(p, _)| *p == partition);
            if decision.committed.verdicts[piece.request] == Verdict::Stored
                && outcome.dropped.len() < usize::try_from(piece.records).expect("small")
            {
                prop_assert_eq!(&recover(piece.first, piece.records, &batch.expect("stored").1), outcome);
            }
        }
    }
}
