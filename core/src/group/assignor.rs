//! The sticky assignor: assigns each partition to one subscriber of its topic, as evenly as the subscriptions
//! allow, and moves as few partitions as possible.
//!
//! Even means: no chain of moves can take a partition from a member and give one to a member with at least
//! two partitions fewer, as in an optimal semi-matching (Harvey, Ladner, Lovász, Tamir 2003). The order of
//! members and partitions in the input does not matter.

use crate::id::{MemberId, PartitionId, TopicId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A member and the topics that it subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriber {
    pub member: MemberId,
    pub topics: BTreeSet<TopicId>,
}

/// Partitions of one topic that a member holds. Those that it did not own before come last, since they are
/// moved on first.
type Held = BTreeSet<(bool, PartitionId)>;

/// Computes one assignment.
pub struct Assignor<'a> {
    /// Ordered by member id.
    subscribers: Vec<Subscriber>,
    topics: &'a BTreeMap<TopicId, Vec<PartitionId>>,
    /// The previous assignment. It may name members and partitions that no longer exist.
    owners: &'a BTreeMap<PartitionId, MemberId>,
    /// Subscribers of each topic, as indexes into `subscribers`.
    topic_subscribers: BTreeMap<TopicId, Vec<usize>>,
    /// Partitions that each subscriber holds, by topic.
    held: Vec<BTreeMap<TopicId, Held>>,
    /// Number of partitions that each subscriber holds.
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
        let mut topic_subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
        for (at, topic) in
            subscribers.iter().enumerate().flat_map(|(at, s)| s.topics.iter().map(move |t| (at, t)))
        {
            topic_subscribers.entry(*topic).or_default().push(at);
        }
        let (held, load) = (vec![BTreeMap::new(); subscribers.len()], vec![0; subscribers.len()]);
        Self { subscribers, topics, owners, topic_subscribers, held, load }
    }

    /// The assignment. Partitions of topics without subscribers are left out.
    #[must_use]
    pub fn assign(mut self) -> BTreeMap<PartitionId, MemberId> {
        self.hand_out();
        let mut rank = 0;
        while rank < self.load.len() {
            let mut order: Vec<usize> = (0..self.load.len()).collect();
            order.sort_by_key(|at| (Reverse(self.load[*at]), *at));
            rank = if self.move_one_from(order[rank]) { 0 } else { rank + 1 };
        }
        let of = |(at, topics): (usize, BTreeMap<TopicId, Held>)| {
            let member = self.subscribers[at].member;
            topics.into_values().flatten().map(move |(_, partition)| (partition, member))
        };
        self.held.into_iter().enumerate().flat_map(of).collect()
    }

    /// Lets members keep their partitions, and gives each free partition to the member with the fewest
    /// partitions, in all and then of the topic.
    fn hand_out(&mut self) {
        let mut free: Vec<(usize, TopicId, PartitionId)> = Vec::new();
        for (topic, partitions) in self.topics {
            let Some(choices) = self.topic_subscribers.get(topic).map(Vec::len) else { continue };
            for partition in partitions {
                match self.previous_owner(*topic, *partition) {
                    Some(at) => self.assign_to(at, *topic, *partition),
                    None => free.push((choices, *topic, *partition)),
                }
            }
        }
        // Partitions with few possible owners are assigned first.
        free.sort_unstable();
        for (_, topic, partition) in free {
            let held_of_topic = |at: usize| self.held[at].get(&topic).map_or(0, BTreeSet::len);
            let least = self.topic_subscribers[&topic]
                .iter()
                .copied()
                .min_by_key(|at| (self.load[*at], held_of_topic(*at), *at));
            if let Some(at) = least {
                self.assign_to(at, topic, partition);
            }
        }
    }

    /// The previous owner of the partition, if it is still subscribed.
    fn previous_owner(&self, topic: TopicId, partition: PartitionId) -> Option<usize> {
        let owner = self.owners.get(&partition)?;
        let at = self.subscribers.binary_search_by_key(owner, |s| s.member).ok()?;
        self.subscribers[at].topics.contains(&topic).then_some(at)
    }

    fn assign_to(&mut self, at: usize, topic: TopicId, partition: PartitionId) {
        let fresh = self.owners.get(&partition) != Some(&self.subscribers[at].member);
        self.held[at].entry(topic).or_default().insert((fresh, partition));
        self.load[at] += 1;
    }

    /// Takes one partition from a member and gives one to a member with at least two fewer, if need be
    /// through a chain of other members. Returns false if there is no such member.
    fn move_one_from(&mut self, from: usize) -> bool {
        let Some(path) = self.path_from(from) else { return false };
        for (giver, topic, taker) in path {
            let taken = self.held[giver].get_mut(&topic).and_then(BTreeSet::pop_last);
            if let Some((_, partition)) = taken {
                self.load[giver] -= 1;
                self.assign_to(taker, topic, partition);
            }
        }
        true
    }

    /// The shortest chain of moves (giver, topic, taker) that ends at a member with at least two partitions
    /// fewer; among the nearest, at the one with the fewest.
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
                for next in &self.topic_subscribers[&topic] {
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
