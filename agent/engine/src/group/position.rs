//! The position of a group member, as an opaque token that the client keeps.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond_core::group::{Assigned, Renewed, Start};
use millpond_core::{Generation, GroupId, Offset, PartitionId};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The next offset of each assigned partition, with the generation since which the member has it: if a
/// partition was assigned to another member in between, its offset in the position is ignored. Group and
/// partitions are given by id, so that the position is refused for a later group or topic of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPosition {
    group: GroupId,
    generation: Generation,
    /// Decides which partition an answer begins with. It is part of the position, so that a repeated poll
    /// gets the same answer.
    turn: usize,
    next: BTreeMap<PartitionId, (Generation, Offset)>,
}

/// A token that is not a position of the group.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is not a position of the group: leave `after` out to begin at the committed offsets")]
pub struct NotAPosition;

/// The offset to read from: `offset` if the log contains it, else the end of the log that `from` names.
#[must_use]
pub fn within(
    offset: Option<Offset>,
    from: Start,
    log_start_offset: Offset,
    high_watermark: Offset,
) -> Offset {
    match (offset.filter(|o| (log_start_offset..=high_watermark).contains(o)), from) {
        (Some(offset), _) => offset,
        (None, Start::Earliest) => log_start_offset,
        (None, Start::Latest) => high_watermark,
    }
}

impl MemberPosition {
    /// The position in the partitions of a member: for each, the offset in the token `after`, else the
    /// committed offset, else the start that the member chose when it joined.
    pub fn of(renewed: &Renewed, after: Option<&str>) -> Result<Self, NotAPosition> {
        Self::of_and_generation_change(renewed, after).map(|(position, _)| position)
    }

    /// As [`Self::of`]. The second value says whether the generation is another than that of the token.
    pub fn of_and_generation_change(
        renewed: &Renewed,
        after: Option<&str>,
    ) -> Result<(Self, bool), NotAPosition> {
        let after = after.map(Self::parse).transpose()?;
        if after.as_ref().is_some_and(|p| p.group != renewed.group) {
            return Err(NotAPosition);
        }
        let start = |a: &Assigned| {
            let known =
                after.as_ref().and_then(|p| p.next.get(&a.partition)).filter(|(since, _)| *since == a.since);
            let offset = known.map(|(_, offset)| *offset).or(a.committed);
            (a.partition, (a.since, within(offset, renewed.from, a.log_start_offset, a.high_watermark)))
        };
        let next = renewed.partitions.iter().map(start).collect();
        let turn = after.as_ref().map_or(0, |p| p.turn);
        let is_new_generation = after.is_some_and(|p| p.generation != renewed.generation);
        Ok((Self { group: renewed.group, generation: renewed.generation, turn, next }, is_new_generation))
    }

    /// Parses a token.
    fn parse(token: &str) -> Result<Self, NotAPosition> {
        let text =
            URL_SAFE_NO_PAD.decode(token).ok().and_then(|b| String::from_utf8(b).ok()).ok_or(NotAPosition)?;
        let mut parts = text.split('.');
        let mut number =
            || parts.next().and_then(|p| p.parse::<i64>().ok()).filter(|n| *n >= 0).ok_or(NotAPosition);
        let (group, generation) = (GroupId(number()?), Generation(number()?));
        let turn = usize::try_from(number()?).map_err(|_| NotAPosition)?;
        let mut next = BTreeMap::new();
        for part in parts {
            let numbers: Vec<i64> =
                part.split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| NotAPosition)?;
            let [partition, since, offset] = numbers[..] else { return Err(NotAPosition) };
            next.insert(PartitionId(partition), (Generation(since), Offset(offset)));
        }
        Ok(Self { group, generation, turn, next })
    }

    /// The token that the next poll sends as `after`.
    #[must_use]
    pub fn token(&self) -> String {
        let mut text = format!("{}.{}.{}", self.group, self.generation, self.turn);
        for (partition, (since, offset)) in &self.next {
            write!(text, ".{partition}-{since}-{offset}").unwrap_or_default();
        }
        URL_SAFE_NO_PAD.encode(text)
    }

    /// Index of the partition that an answer begins with.
    #[must_use]
    pub fn turn(&self, partitions: usize) -> usize {
        self.turn % partitions.max(1)
    }

    /// Lets the next answer begin with the next partition.
    pub fn take_turn(&mut self) {
        self.turn = (self.turn + 1) % (1 << 20);
    }

    /// The offset of an assigned partition.
    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Offset {
        self.next.get(&partition).map_or(Offset::ZERO, |(_, offset)| *offset)
    }

    /// Sets the offset of an assigned partition; others are ignored.
    pub fn set(&mut self, partition: PartitionId, to: Offset) {
        if let Some((_, offset)) = self.next.get_mut(&partition) {
            *offset = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_core::Name;

    fn assigned(partition: i64, since: i64, committed: Option<i64>) -> Assigned {
        Assigned {
            topic: Name::new("t").expect("a name"),
            number: 0,
            partition: PartitionId(partition),
            since: Generation(since),
            committed: committed.map(Offset),
            log_start_offset: Offset(10),
            high_watermark: Offset(20),
        }
    }

    fn renewed(from: Start, partitions: Vec<Assigned>) -> Renewed {
        Renewed {
            group: GroupId(3),
            generation: Generation(9),
            stale: false,
            session_ms: 1,
            from,
            noted_ms_ago: 0,
            partitions,
        }
    }

    fn starts(from: Start, partition: Assigned) -> i64 {
        let id = partition.partition;
        MemberPosition::of(&renewed(from, vec![partition]), None).expect("a position").get(id).0
    }

    #[test]
    fn reading_starts_at_the_committed_offset_else_where_the_member_wants() {
        assert_eq!(starts(Start::Earliest, assigned(1, 1, Some(15))), 15);
        assert_eq!(starts(Start::Latest, assigned(1, 1, Some(15))), 15);
        assert_eq!(
            (starts(Start::Earliest, assigned(1, 1, None)), starts(Start::Latest, assigned(1, 1, None))),
            (10, 20)
        );
        // The committed offset was removed by retention.
        assert_eq!(
            (
                starts(Start::Earliest, assigned(1, 1, Some(9))),
                starts(Start::Latest, assigned(1, 1, Some(9)))
            ),
            (10, 20)
        );
    }

    #[test]
    fn a_position_goes_on_where_it_was_while_the_member_has_the_partition() {
        let first = renewed(Start::Earliest, vec![assigned(1, 4, Some(12)), assigned(2, 5, None)]);
        let mut position = MemberPosition::of(&first, None).expect("a position");
        position.set(PartitionId(1), Offset(17));
        position.set(PartitionId(2), Offset(18));
        position.set(PartitionId(7), Offset(1));
        position.take_turn();
        let token = position.token();
        position.next.remove(&PartitionId(7));
        let (same, is_new_generation) =
            MemberPosition::of_and_generation_change(&first, Some(&token)).expect("a position");
        assert_eq!((&same, is_new_generation), (&position, false));
        let later = Renewed { generation: Generation(10), ..first };
        assert!(MemberPosition::of_and_generation_change(&later, Some(&token)).expect("a position").1);
        assert_eq!((same.turn(2), same.turn(0)), (1, 0));
        let moved = renewed(
            Start::Earliest,
            vec![assigned(1, 6, Some(12)), assigned(2, 5, None), assigned(3, 6, Some(13))],
        );
        let after = MemberPosition::of(&moved, Some(&token)).expect("a position");
        assert_eq!(
            [1, 2, 3].map(|p| after.get(PartitionId(p)).0),
            [12, 18, 13],
            "partition 1 went and came back"
        );
    }

    #[test]
    fn other_texts_are_no_positions() {
        let here = renewed(Start::Earliest, vec![assigned(1, 4, None)]);
        let mut other = MemberPosition::of(&here, None).expect("a position");
        other.group = GroupId(4);
        for bad in [
            other.token().as_str(),
            "",
            "?",
            "MQ",
            &URL_SAFE_NO_PAD.encode("3.9.0.1-2"),
            &URL_SAFE_NO_PAD.encode("3.9.0.1-2-x"),
        ] {
            assert_eq!(MemberPosition::of(&here, Some(bad)), Err(NotAPosition), "{bad}");
        }
    }
}
