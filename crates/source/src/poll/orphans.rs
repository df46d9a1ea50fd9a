//! Topic-partitions that a group under KIP-848 gives to nobody: its coordinator is left for the classic protocol then.
//!
//! Kafka's coordinator gives out partitions anew only when the group's epoch passes that of the last assignment
//! (`GroupMetadataManager.maybeUpdateTargetAssignment`). A broker that was killed may come back with a group epoch that lies
//! behind: new members get nothing then, who goes is not replaced, and all heartbeats are answered as if all were well.
//! Under the classic protocol there is only one epoch: the coordinator makes the group a classic one when its last member
//! under KIP-848 has gone.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::group::lanes_of;
use crate::native::Look;

/// How often a member that has work looks at its group, and one that has none.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(20);
/// How often it looks again while something seems to belong to nobody.
const SUSPICIOUS_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// After this, what the group gives to nobody is not just on its way to somebody. Coordinators compute an assignment with
/// the next heartbeat, or when `group.consumer.assignment.interval.ms` is over, which is 15 s at most.
const ORPHANED_MAX: Duration = Duration::from_secs(30);
/// How old what is known of the topics may be while nothing seems wrong.
const TOPICS_AGE_MAX: Duration = Duration::from_secs(300);
/// How long members that have left KIP-848 may be kept out by those that have not seen it yet.
pub(super) const FLIGHT_MAX: Duration = Duration::from_secs(240);

/// What was seen of the group.
pub(super) struct Orphans {
    looked: Instant,
    /// The look that is not answered yet.
    look: Option<Look>,
    /// What the group has given to nobody at each look since.
    since: BTreeMap<TopicPartition, Instant>,
    /// Topic-partitions of the subscription, and when they were asked for.
    wanted: Option<(BTreeSet<TopicPartition>, Instant)>,
}

impl Orphans {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, look: None, since: BTreeMap::new(), wanted: None }
    }

    fn is_due(&self, now: Instant, has_work: bool) -> bool {
        let interval = match (self.since.is_empty(), has_work) {
            (false, _) => SUSPICIOUS_LOOK_INTERVAL,
            (true, true) => LOOK_INTERVAL,
            (true, false) => IDLE_LOOK_INTERVAL,
        };
        now.duration_since(self.looked) >= interval
    }

    /// Takes in what a look has shown; returns what has belonged to nobody at every look for too long.
    fn saw(&mut self, now: Instant, orphans: BTreeSet<TopicPartition>) -> Vec<TopicPartition> {
        self.since.retain(|lane, _| orphans.contains(lane));
        for lane in orphans {
            self.since.entry(lane).or_insert(now);
        }
        let long = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= ORPHANED_MAX);
        long.map(|(lane, _)| lane.clone()).collect()
    }

    /// Forgets what it suspected: the group could not be seen, or is another.
    fn saw_nothing(&mut self) {
        self.since.clear();
    }
}

impl Poll {
    /// Leaves KIP-848 when the group has given topic-partitions of the subscription to nobody for long. That there are
    /// members without any is no reason: they may be more than the topic-partitions.
    pub(super) fn look_for_orphans(&mut self, native: &Native) -> Flow {
        let now = Instant::now();
        let has_work = !self.collector.lanes.all.is_empty();
        if self.protocol == Protocol::Classic || self.is_over {
            return Flow::Continue;
        }
        if self.orphans.look.is_none() && self.orphans.is_due(now, has_work) {
            self.orphans.looked = now;
            self.orphans.look = Some(native.look_at(self.shared.config.group()));
        }
        let Some(given) = self.orphans.look.as_ref().and_then(Look::given) else { return Flow::Continue };
        self.orphans.look = None;
        let Some(orphans) = given.ok().flatten().and_then(|given| self.orphans_of(native, &given)) else {
            self.orphans.saw_nothing();
            return Flow::Continue;
        };
        let lost = self.orphans.saw(now, orphans);
        let Some(example) = lost.first() else { return Flow::Continue };
        tracing::warn!(
            group = self.shared.config.group(),
            partitions = lost.len(),
            %example,
            "the group's coordinator gives these partitions to no member, so nobody reads them (its epochs are out of step, \
             as after a broker was killed); leaving KIP-848 and joining under the classic group protocol, which starts the \
             group anew; committed offsets stay"
        );
        (self.protocol, self.may_fall_back) = (Protocol::Classic, false);
        self.fled = Some(now);
        self.give_up()
    }

    /// What of the subscription a group that gives `given` to its members gives to nobody; `None` when that cannot be
    /// said.
    fn orphans_of(&mut self, native: &Native, given: &BTreeSet<TopicPartition>) -> Option<BTreeSet<TopicPartition>> {
        let of = |wanted: &BTreeSet<TopicPartition>| wanted.difference(given).cloned().collect::<BTreeSet<_>>();
        if let Some((wanted, asked)) = &self.orphans.wanted
            && asked.elapsed() < TOPICS_AGE_MAX
            && of(wanted).is_empty()
        {
            return Some(BTreeSet::new());
        }
        // The subscription's topics may have gone since.
        let topics = native.topics(ASK_TIMEOUT).ok()?;
        let wanted = lanes_of(&self.shared.config.subscription, &topics).ok()?.into_iter().collect();
        let orphans = of(&wanted);
        self.orphans.wanted = Some((wanted, Instant::now()));
        Some(orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(partitions: &[i32]) -> BTreeSet<TopicPartition> {
        partitions.iter().map(|partition| TopicPartition::new("t", *partition)).collect()
    }

    fn after(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    /// Looks at these seconds, each with the partitions that belonged to nobody (`None`: it could not be seen); what was
    /// found in the end.
    fn found(looks: &[(u64, Option<&[i32]>)]) -> Vec<i32> {
        let begin = Instant::now();
        let mut orphans = Orphans::new(begin);
        let mut last = Vec::new();
        for (at, seen) in looks {
            match seen {
                Some(partitions) => last = orphans.saw(after(begin, *at), lanes(partitions)),
                None => orphans.saw_nothing(),
            }
        }
        last.iter().map(|lane| lane.partition).collect()
    }

    #[test]
    fn what_belongs_to_nobody_at_each_look_for_long_is_lost() {
        type Look<'a> = (u64, Option<&'a [i32]>);
        let cases: &[(&[Look<'_>], &[i32])] = &[
            (&[], &[]),
            // All is given out, however many members have nothing.
            (&[(20, Some(&[])), (40, Some(&[])), (100, Some(&[]))], &[]),
            (&[(20, Some(&[0, 1]))], &[]),
            (&[(20, Some(&[0, 1])), (25, Some(&[0, 1])), (49, Some(&[0, 1]))], &[]),
            (&[(20, Some(&[0, 1])), (25, Some(&[0, 1])), (50, Some(&[0, 1]))], &[0, 1]),
            // Some belong to the survivors, and some are on their way.
            (&[(20, Some(&[0, 1])), (30, Some(&[1, 2])), (50, Some(&[1, 2]))], &[1]),
            // It was given to somebody in between.
            (&[(20, Some(&[0])), (30, Some(&[])), (40, Some(&[0])), (50, Some(&[0]))], &[]),
            (&[(20, Some(&[0])), (30, None), (40, Some(&[0])), (60, Some(&[0]))], &[]),
        ];
        for (looks, expected) in cases {
            assert_eq!(found(looks), *expected, "{looks:?}");
        }
    }

    #[test]
    fn who_has_nothing_looks_often_and_who_suspects_something_more_often() {
        let begin = Instant::now();
        let mut orphans = Orphans::new(begin);
        let due = |orphans: &Orphans, seconds, has_work| orphans.is_due(after(begin, seconds), has_work);
        assert!(!due(&orphans, 19, false) && due(&orphans, 20, false));
        assert!(!due(&orphans, 59, true) && due(&orphans, 60, true));
        assert!(orphans.saw(begin, lanes(&[3])).is_empty());
        assert!(!due(&orphans, 4, true) && due(&orphans, 5, true));
    }
}
