//! The sticky assignor: every partition to one subscriber of its topic, as evenly as subscriptions allow,
//! moving as few as it can.
//!
//! Even means: no chain of moves makes a member with more than one partition beyond another's share smaller,
//! as in an optimal semi-matching (Harvey, Ladner, Lovász, Tamir 2003). The order of members and partitions
//! in the input does not matter.

use crate::id::{MemberId, PartitionId, TopicId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub member: MemberId,
    pub topics: BTreeSet<TopicId>,
}

/// What a member has of one topic; those that it did not have before come last, to move on first.
type Held = BTreeSet<(bool, PartitionId)>;

pub struct Assignor<'a> {
    /// By id.
    subscribers: Vec<Subscriber>,
    topics: &'a BTreeMap<TopicId, Vec<PartitionId>>,
    /// As it was; may name members and partitions that are no more.
    owners: &'a BTreeMap<PartitionId, MemberId>,
    /// Positions among the subscribers.
    of_topic: BTreeMap<TopicId, Vec<usize>>,
    held: Vec<BTreeMap<TopicId, Held>>,
    load: Vec<usize>,
}

impl<'a> Assignor<'a> {
    #[must_use]
    pub fn new(
        mut subscribers: Vec<Subscriber>,
        topics: &'a BTreeMap<TopicId, Vec<PartitionId>>,
        owners: &'a BTreeMap<PartitionId, MemberId>,
    ) -> Self {
        subscribers.sort_unstable_by_key(|s| s.member);
        let mut of_topic: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (at, topic) in
            subscribers.iter().enumerate().flat_map(|(at, s)| s.topics.iter().map(move |t| (at, t)))
        {
            of_topic.entry(*topic).or_default().push(at);
        }
        let (held, load) = (vec![BTreeMap::new(); subscribers.len()], vec![0; subscribers.len()]);
        Self { subscribers, topics, owners, of_topic, held, load }
    }

    /// Partitions of topics that nobody subscribes to are left out.
    #[must_use]
    pub fn assign(mut self) -> BTreeMap<PartitionId, MemberId> {
        self.hand_out();
        let mut heavy = 0;
        while heavy < self.load.len() {
            let mut order: Vec<usize> = (0..self.load.len()).collect();
            order.sort_by_key(|at| (Reverse(self.load[*at]), *at));
            heavy = if self.relieve(order[heavy]) { 0 } else { heavy + 1 };
        }
        let of = |(at, topics): (usize, BTreeMap<TopicId, Held>)| {
            let member = self.subscribers[at].member;
            topics.into_values().flatten().map(move |(_, partition)| (partition, member))
        };
        self.held.into_iter().enumerate().flat_map(of).collect()
    }

    /// Everybody keeps what they have; what nobody has goes to who has least, in all and of its topic.
    fn hand_out(&mut self) {
        let mut free: Vec<(usize, TopicId, PartitionId)> = Vec::new();
        for (topic, partitions) in self.topics {
            let Some(choices) = self.of_topic.get(topic).map(Vec::len) else { continue };
            for partition in partitions {
                match self.keeper(*topic, *partition) {
                    Some(at) => self.give(at, *topic, *partition),
                    None => free.push((choices, *topic, *partition)),
                }
            }
        }
        // Those that few can have choose first.
        free.sort_unstable();
        for (_, topic, partition) in free {
            let of_topic = |at: usize| self.held[at].get(&topic).map_or(0, BTreeSet::len);
            let least =
                self.of_topic[&topic].iter().copied().min_by_key(|at| (self.load[*at], of_topic(*at), *at));
            if let Some(at) = least {
                self.give(at, topic, partition);
            }
        }
    }

    /// Who had the partition and may have it still.
    fn keeper(&self, topic: TopicId, partition: PartitionId) -> Option<usize> {
        let owner = self.owners.get(&partition)?;
        let at = self.subscribers.binary_search_by_key(owner, |s| s.member).ok()?;
        self.subscribers[at].topics.contains(&topic).then_some(at)
    }

    fn give(&mut self, at: usize, topic: TopicId, partition: PartitionId) {
        let fresh = self.owners.get(&partition) != Some(&self.subscribers[at].member);
        self.held[at].entry(topic).or_default().insert((fresh, partition));
        self.load[at] += 1;
    }

    /// Takes one partition from a member, through others if need be, for one that has at least two fewer;
    /// false when there is none.
    fn relieve(&mut self, from: usize) -> bool {
        let Some(path) = self.path_from(from) else { return false };
        for (giver, topic, taker) in path {
            let taken = self.held[giver].get_mut(&topic).and_then(BTreeSet::pop_last);
            if let Some((_, partition)) = taken {
                self.load[giver] -= 1;
                self.give(taker, topic, partition);
            }
        }
        true
    }

    /// The shortest chain of moves (who, what topic, to whom) that is worth it, to the least loaded among the
    /// nearest.
    fn path_from(&self, from: usize) -> Option<Vec<(usize, TopicId, usize)>> {
        let mut reached: BTreeMap<usize, (usize, Option<(usize, TopicId)>)> =
            BTreeMap::from([(from, (0, None))]);
        let mut seen_topics = BTreeSet::new();
        let mut queue = VecDeque::from([from]);
        let mut best: Option<(usize, usize, usize)> = None;
        while let Some(at) = queue.pop_front() {
            let distance = reached[&at].0;
            if best.is_some_and(|(nearest, _, _)| nearest <= distance) {
                break;
            }
            let mut topics: Vec<(bool, TopicId)> = self.held[at]
                .iter()
                .filter_map(|(topic, held)| held.last().map(|(fresh, _)| (!fresh, *topic)))
                .collect();
            topics.sort_unstable();
            for (_, topic) in topics.into_iter().filter(|(_, topic)| seen_topics.insert(*topic)) {
                for next in &self.of_topic[&topic] {
                    if reached.contains_key(next) {
                        continue;
                    }
                    reached.insert(*next, (distance + 1, Some((at, topic))));
                    queue.push_back(*next);
                    if self.load[*next] + 2 <= self.load[from] {
                        let candidate = (distance + 1, self.load[*next], *next);
                        best = Some(best.map_or(candidate, |b| b.min(candidate)));
                    }
                }
            }
        }
        let mut taker = best?.2;
        let mut path = Vec::new();
        while let Some((giver, topic)) = reached.get(&taker).and_then(|r| r.1) {
            path.push((giver, topic, taker));
            taker = giver;
        }
        path.reverse();
        Some(path)
    }
}

#[cfg(test)]
mod tests;
