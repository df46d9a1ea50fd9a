//! How a group of a [`MemoryLog`] hands out its topic-partitions: eager, cooperative, or by the broker (KIP-848).
//!
//! ```text
//!  eager        revoke everything - wait for all - next generation - assign everything
//!  cooperative  next generation - revoke what moves - its owner lets go - next generation - assign it
//!  server       next epoch - each member revokes what moves, keeps its old epoch until then - assign what is free
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{Offset, TopicPartition};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::bounds::{FirstLook, StartAt, Starting};
use crate::memory::{Happening, MemberId, MemoryLog};
use crate::memory_world::{World, matches};
use crate::{Ack, Assigned, Event};

/// How topic-partitions change hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// The classic protocol with an eager assignor: in each rebalance every member gives up everything.
    #[default]
    Eager,
    /// The classic protocol with cooperative-sticky: what stays is kept, under the next generation.
    Cooperative,
    /// KIP-848: the broker reconciles member by member. A member that has not let go yet keeps its epoch and gets nothing.
    Server,
}

/// A member that was told to let go, and what tells when it has.
struct LettingGo {
    member: MemberId,
    partitions: Vec<TopicPartition>,
    released: oneshot::Receiver<()>,
    /// Of which membership: one that joined again since has nothing to let go of.
    incarnation: u64,
}

impl MemoryLog {
    /// Begins a rebalance of `group`, unless one is under way, which then includes the change.
    pub(crate) fn rebalance(&self, group: &str) {
        let mut world = self.lock();
        let state = world.groups.entry(group.to_owned()).or_default();
        match state.protocol {
            Protocol::Eager if std::mem::replace(&mut state.is_rebalancing, true) => {}
            Protocol::Eager => {
                drop(world);
                self.rebalance_eagerly(group);
            }
            Protocol::Cooperative | Protocol::Server => {
                state.generation += 1;
                let deaf = world.deaf_members(group);
                drop(world);
                self.expel_who_stays_deaf(group, deaf);
                self.reconcile(group);
            }
        }
    }

    fn rebalance_eagerly(&self, group: &str) {
        let mut world = self.lock();
        let released = world.revoke_all(group);
        let deadline = Instant::now() + world.revoke_timeout;
        drop(world);
        let (log, group) = (self.clone(), group.to_owned());
        tokio::spawn(async move {
            for letting_go in released {
                // The sender is dropped, never used: both results mean that the member has let go.
                if timeout_at(deadline, letting_go.released).await.is_err() {
                    log.lock().late(&group, letting_go.member);
                }
            }
            log.wait_for_commits(&group, None, deadline).await;
            log.lock().finish_rebalance(&group);
        });
    }

    /// A member that does not answer while others wait is removed in the end.
    fn expel_who_stays_deaf(&self, group: &str, deaf: Vec<MemberId>) {
        for member in deaf {
            let (log, group, timeout) = (self.clone(), group.to_owned(), self.lock().revoke_timeout);
            tokio::spawn(async move {
                tokio::time::sleep(timeout).await;
                if log.lock().expel_if_deaf(&group, member) {
                    log.rebalance(&group);
                }
            });
        }
    }

    /// Tells members what they must give up and gives them what is free, as the target assignment says.
    pub(crate) fn reconcile(&self, group: &str) {
        let mut world = self.lock();
        world.aim(group);
        let revoked = world.revoke_what_moves(group);
        world.give_what_is_free(group);
        let deadline = Instant::now() + world.revoke_timeout;
        drop(world);
        for LettingGo { member, partitions, released, incarnation } in revoked {
            let (log, group) = (self.clone(), group.to_owned());
            tokio::spawn(async move {
                let is_late = timeout_at(deadline, released).await.is_err();
                if is_late && log.lock().is_same_membership(member, incarnation) {
                    log.lock().late(&group, member);
                }
                log.wait_for_commits(&group, Some(member), deadline).await;
                let mut world = log.lock();
                if world.is_same_membership(member, incarnation) {
                    world.let_go(&group, member, &partitions);
                }
                drop(world);
                log.reconcile(&group);
            });
        }
    }

    /// A commit holds the lease lock until its answer, so a revoke ends after it. Of one member, or of all.
    async fn wait_for_commits(&self, group: &str, member: Option<MemberId>, deadline: Instant) {
        let done = Arc::clone(&self.lock().commit_done);
        loop {
            let mut next_done = std::pin::pin!(done.notified());
            // From here on no end of a commit is missed.
            next_done.as_mut().enable();
            let is_waiting = self.lock().has_commits_in_flight(group, member);
            if !is_waiting || timeout_at(deadline, next_done).await.is_err() {
                return;
            }
        }
    }
}

impl World {
    fn deaf_members(&self, group: &str) -> Vec<MemberId> {
        let members = self.groups.get(group).into_iter().flat_map(|group| &group.members);
        members.copied().filter(|id| self.members.get(id).is_some_and(|member| member.is_deaf)).collect()
    }

    fn is_same_membership(&self, id: MemberId, incarnation: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.incarnation == incarnation)
    }

    fn late(&mut self, group: &str, member: MemberId) {
        self.tell_observer(&Happening::Late { member });
        self.expel_if_deaf(group, member);
    }

    /// Who may have `lane`, in the order of their ids.
    fn takers(&self, group: &str, lane: &TopicPartition) -> Vec<MemberId> {
        let wants = |id: &&MemberId| self.members.get(id).is_some_and(|one| matches(&one.subscription, &lane.topic));
        self.groups.get(group).map(|group| group.members.iter().filter(wants).copied().collect()).unwrap_or_default()
    }

    fn revoke_all(&mut self, group: &str) -> Vec<LettingGo> {
        let mut owned: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (lane, owner) in self.groups.get(group).map(|group| group.owners.clone()).unwrap_or_default() {
            owned.entry(owner).or_default().push(lane);
        }
        owned.into_iter().filter_map(|(id, partitions)| self.revoke(id, partitions)).collect()
    }

    fn revoke(&mut self, id: MemberId, partitions: Vec<TopicPartition>) -> Option<LettingGo> {
        let member = self.members.get_mut(&id)?;
        let (ack, released) = Ack::new();
        let incarnation = member.incarnation;
        let read = partitions.iter().filter(|lane| !member.subscription.leaves_out(lane));
        member.send(Event::Revoked { partitions: read.cloned().collect(), lost: false, ack });
        self.tell_observer(&Happening::Revoking { member: id, partitions: partitions.clone() });
        Some(LettingGo { member: id, partitions, released, incarnation })
    }

    fn finish_rebalance(&mut self, name: &str) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.is_rebalancing = false;
        group.generation += 1;
        group.owners.clear();
        let (generation, ids) = (group.generation, group.members.clone());
        let lanes: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        let mut given: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (turn, lane) in lanes.into_iter().enumerate() {
            let takers = self.takers(name, &lane);
            if let Some(owner) = turn.checked_rem(takers.len()).map(|place| takers[place]) {
                given.entry(owner).or_default().push(lane);
            }
        }
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.take_back(None);
                member.generation = generation;
            }
        }
        for (id, lanes) in given {
            self.give(name, id, lanes);
        }
    }

    /// Makes `lanes` the member's, and tells it where they start.
    pub(crate) fn give(&mut self, name: &str, id: MemberId, lanes: Vec<TopicPartition>) {
        if lanes.is_empty() {
            return;
        }
        let is_left_out =
            |lane: &&TopicPartition| self.members.get(&id).is_some_and(|member| member.subscription.leaves_out(lane));
        let read = lanes.iter().filter(|lane| !is_left_out(lane));
        let assigned: Vec<Assigned> = read.map(|lane| self.start_of(name, id, lane)).collect();
        let Some(group) = self.groups.get_mut(name) else { return };
        let kept = group.owners.iter().filter(|(lane, owner)| **owner == id && !lanes.contains(lane)).count();
        group.owners.extend(lanes.iter().map(|lane| (lane.clone(), id)));
        let reads = |other: &MemberId| self.members[other].reading.keys().any(|lane| lanes.contains(lane));
        let unaware = self.members.keys().filter(|other| **other != id && reads(other)).count();
        if let Some(member) = self.members.get_mut(&id).filter(|_| !assigned.is_empty()) {
            member.send(Event::Assigned(assigned.clone()));
        }
        self.tell_observer(&Happening::Assigned { member: id, assigned, kept, unaware });
    }

    /// Where the group goes on with `lane`: the committed offset, else where the group's bounds say, else the log's first.
    fn start_of(&self, group: &str, member: MemberId, lane: &TopicPartition) -> Assigned {
        let group = self.groups.get(group);
        let committed = group.and_then(|group| group.committed.get(lane).cloned());
        let is_committed = committed.is_some();
        let look = self.members.get(&member).and_then(|member| member.first_look.as_deref());
        let (start, metadata) = committed.unwrap_or_else(|| {
            let starting = group.and_then(|group| group.bounds.starting.as_ref());
            (self.beginning(lane, starting, look), String::new())
        });
        let ends = group.is_some_and(|group| group.bounds.until_end);
        let until = look.filter(|_| ends).map(|look| look.until(lane, start));
        Assigned { topic_partition: lane.clone(), start, until, metadata, committed: is_committed }
    }

    fn beginning(&self, lane: &TopicPartition, starting: Option<&Starting>, look: Option<&FirstLook>) -> Offset {
        let Some(log) = self.partitions.get(lane) else { return Offset::ZERO };
        let at = match (starting.map(|starting| starting.of(lane)), look) {
            (Some(StartAt::Latest), Some(look)) => Some(look.latest(lane)),
            (at, _) => at,
        };
        let offset = match at {
            None | Some(StartAt::Earliest) => log.begin,
            Some(StartAt::Latest) => log.end,
            Some(StartAt::Offset(at)) => at.get(),
            Some(StartAt::Time(ms)) => {
                let found = log.records.iter().find(|(_, record)| record.timestamp_ms >= ms);
                found.map_or(log.end, |(offset, _)| *offset)
            }
        };
        Offset::new(offset).unwrap_or(Offset::ZERO)
    }

    /// Chooses the target assignment: balanced, and everybody keeps what that allows.
    fn aim(&mut self, name: &str) {
        let Some(group) = self.groups.get(name) else { return };
        let lanes: Vec<TopicPartition> =
            self.partitions.keys().filter(|lane| !self.takers(name, lane).is_empty()).cloned().collect();
        let members = group.members.len().max(1);
        let (floor, mut larger) = (lanes.len() / members, lanes.len() % members);
        let mut count: BTreeMap<MemberId, usize> = group.members.iter().map(|id| (*id, 0)).collect();
        let mut target: BTreeMap<TopicPartition, MemberId> = BTreeMap::new();
        for lane in &lanes {
            let Some(owner) = group.owners.get(lane).filter(|owner| self.takers(name, lane).contains(owner)) else {
                continue;
            };
            let Some(held) = count.get_mut(owner) else { continue };
            if *held < floor || (*held == floor && larger > 0) {
                larger -= usize::from(*held == floor);
                *held += 1;
                target.insert(lane.clone(), *owner);
            }
        }
        for lane in lanes {
            let takers = self.takers(name, &lane);
            let fewest = takers.into_iter().min_by_key(|id| count.get(id).copied().unwrap_or(0));
            if let (Some(owner), false) = (fewest, target.contains_key(&lane)) {
                *count.entry(owner).or_default() += 1;
                target.insert(lane, owner);
            }
        }
        if let Some(group) = self.groups.get_mut(name) {
            group.owners.retain(|lane, _| self.partitions.contains_key(lane));
            group.target = target;
        }
    }

    fn revoke_what_moves(&mut self, name: &str) -> Vec<LettingGo> {
        let Some(group) = self.groups.get(name) else { return Vec::new() };
        let mut moves: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (lane, owner) in &group.owners {
            let is_told = self.members.get(owner).is_some_and(|member| member.giving_up.contains(lane));
            if group.target.get(lane) != Some(owner) && !is_told {
                moves.entry(*owner).or_default().push(lane.clone());
            }
        }
        let mut revoked = Vec::new();
        for (id, partitions) in moves {
            if let Some(member) = self.members.get_mut(&id) {
                member.giving_up.extend(partitions.iter().cloned());
            }
            revoked.extend(self.revoke(id, partitions));
        }
        revoked
    }

    fn give_what_is_free(&mut self, name: &str) {
        let Some(group) = self.groups.get(name) else { return };
        let (protocol, generation, ids) = (group.protocol, group.generation, group.members.clone());
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let waits = protocol == Protocol::Server && !member.giving_up.is_empty();
            if member.is_deaf || waits {
                continue;
            }
            member.generation = generation;
            let Some(group) = self.groups.get(name) else { return };
            let free =
                |lane: &&TopicPartition| group.target.get(*lane) == Some(&id) && !group.owners.contains_key(*lane);
            let lanes = group.target.keys().filter(free).cloned().collect();
            self.give(name, id, lanes);
        }
    }

    /// The member's time for `partitions` is over, whether it has let go of them or not.
    fn let_go(&mut self, name: &str, id: MemberId, partitions: &[TopicPartition]) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.owners.retain(|lane, owner| *owner != id || !partitions.contains(lane));
        if group.protocol == Protocol::Cooperative {
            // Who has let go joins again.
            group.generation += 1;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.giving_up.retain(|lane| !partitions.contains(lane));
            member.take_back(Some(&partitions.iter().cloned().collect::<BTreeSet<_>>()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Commit, CommitError, MemorySource, Source, Subscription};

    const BOTH: [Protocol; 2] = [Protocol::Cooperative, Protocol::Server];

    fn topic() -> Subscription {
        Subscription::Topics(vec!["t".to_owned()])
    }

    fn lane(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn at(partition: i32, offset: i64) -> Vec<Commit> {
        vec![Commit { topic_partition: lane(partition), offset: Offset::new(offset).unwrap(), metadata: String::new() }]
    }

    fn log(protocol: Protocol, partitions: i32) -> MemoryLog {
        let log = MemoryLog::new();
        log.create_topic("t", partitions);
        log.set_protocol("g", protocol);
        log
    }

    async fn assigned(source: &MemorySource) -> Vec<i32> {
        match source.next(true).await {
            Event::Assigned(assigned) => assigned.iter().map(|one| one.topic_partition.partition).collect(),
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_is_kept_and_what_moves_waits_for_its_owner() {
        for protocol in BOTH {
            let log = log(protocol, 4);
            let first = log.join("g", topic());
            assert_eq!(assigned(&first).await, [0, 1, 2, 3]);
            let before = log.generation("g");
            let second = log.join("g", topic());
            let Event::Revoked { partitions, lost: false, ack } = first.next(true).await else { panic!("no revoke") };
            assert_eq!(partitions, [lane(2), lane(3)]);
            assert!(log.generation("g") > before);
            assert_eq!(first.commit(at(0, 1)).await, Ok(Vec::new()), "{protocol:?}: what is kept can be committed");
            assert_eq!(first.commit(at(2, 1)).await, Ok(Vec::new()), "{protocol:?}: what goes too, until then");
            let early = tokio::time::timeout(Duration::from_secs(1), second.next(true)).await;
            assert!(early.is_err(), "{early:?}");
            drop(ack);
            assert_eq!(assigned(&second).await, [2, 3]);
            assert_eq!(first.commit(at(2, 2)).await, Ok(vec![lane(2)]), "its lease is gone");
            assert_eq!(first.commit(at(1, 1)).await, Ok(Vec::new()));
            assert_eq!(log.committed("g", &lane(2)).unwrap().0.get(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn under_the_server_s_protocol_who_has_not_let_go_gets_nothing_and_keeps_its_epoch() {
        let log = log(Protocol::Server, 4);
        let first = log.join("g", topic());
        assigned(&first).await;
        let second = log.join("g", topic());
        let Event::Revoked { ack, .. } = first.next(true).await else { panic!("no revoke") };
        log.create_topic("t", 6);
        assert_eq!(assigned(&second).await, [4, 5], "what nobody had is given at once");
        assert_eq!(first.commit(at(0, 1)).await, Ok(Vec::new()), "its epoch is still good");
        drop(ack);
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_on_its_way_through_a_cooperative_rebalance_is_fenced_and_can_be_said_again() {
        let log = log(Protocol::Cooperative, 2);
        let first = log.join("g", topic());
        assigned(&first).await;
        log.set_faults(|_, _| crate::CommitFate::ApplyAfter(Duration::from_secs(1)));
        let joins = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            log.join("g", topic())
        };
        let (answer, second) = tokio::join!(first.commit(at(0, 1)), joins);
        assert!(matches!(answer, Err(CommitError::Fenced(_))), "{answer:?}");
        assert_eq!(first.commit(at(0, 1)).await, Ok(Vec::new()));
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_loses_what_moves_and_keeps_the_rest() {
        for protocol in BOTH {
            let log = log(protocol, 2);
            log.set_revoke_timeout(Duration::from_secs(5));
            let late = log.join("g", topic());
            assigned(&late).await;
            let heir = log.join("g", topic());
            assert_eq!(assigned(&heir).await, [1], "{protocol:?}");
            assert_eq!(late.commit(at(1, 1)).await, Ok(vec![lane(1)]));
            assert_eq!(late.commit(at(0, 1)).await, Ok(Vec::new()));
            assert!(matches!(late.next(true).await, Event::Revoked { lost: false, .. }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_member_is_expelled_and_hears_of_it_later() {
        for protocol in BOTH {
            let log = log(protocol, 2);
            let deaf = log.join("g", topic());
            assigned(&deaf).await;
            log.set_deaf(deaf.id(), true);
            let heir = log.join("g", topic());
            let mut got = assigned(&heir).await;
            while got.len() < 2 {
                got.extend(assigned(&heir).await);
            }
            log.set_deaf(deaf.id(), false);
            assert!(matches!(deaf.next(true).await, Event::Revoked { lost: true, .. }), "{protocol:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_static_member_that_comes_back_keeps_its_lanes_and_fences_its_older_self() {
        for protocol in [Protocol::Eager, Protocol::Cooperative, Protocol::Server] {
            let log = log(protocol, 2);
            let old = log.join_as("g", topic(), None, Some("one"));
            assigned(&old).await;
            let other = log.join_as("g", topic(), None, Some("two"));
            let Event::Revoked { ack, .. } = old.next(true).await else { panic!("no revoke") };
            drop(ack);
            assigned(&other).await;
            let generation = log.generation("g");
            old.close().await;
            let new = log.join_as("g", topic(), None, Some("one"));
            assert_eq!(assigned(&new).await, [0], "{protocol:?}");
            assert_eq!(log.generation("g"), generation, "{protocol:?}: nobody else noticed");
            assert_eq!(new.commit(at(0, 1)).await, Ok(Vec::new()), "{protocol:?}");
            assert!(log.commit_unchecked(old.id(), at(0, 0)).is_err(), "{protocol:?}: its older self is fenced");
            // The session of its older self is long forgotten when it would have ended.
            log.kill(old.id());
            assert_eq!(log.owner("g", &lane(0)), Some(new.id()));
        }
    }
}
