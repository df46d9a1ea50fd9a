//! The state behind [`MemoryLog`](crate::MemoryLog) and what the broker does with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Headers, METADATA_BYTES_MAX, Offset, TopicPartition};
use tokio::sync::{Notify, oneshot};

use crate::keys::Subscription;
use crate::memory::{Faults, MemberId};
use crate::{Ack, Assigned, Commit, CommitError, Event};

pub(crate) struct World {
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) faults: Faults,
    pub(crate) delayed: Vec<InFlight>,
    pub(crate) commit_done: Arc<Notify>,
    pub(crate) next_member: u64,
    pub(crate) revoke_timeout: Duration,
    pub(crate) batch_rows_max: usize,
}

pub(crate) struct Record {
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Headers,
}

#[derive(Default)]
pub(crate) struct Partition {
    pub(crate) records: BTreeMap<i64, Record>,
    pub(crate) end: i64,
}

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) generation: u64,
    pub(crate) members: BTreeSet<MemberId>,
    pub(crate) owners: BTreeMap<TopicPartition, MemberId>,
    pub(crate) committed: BTreeMap<TopicPartition, (Offset, String)>,
    pub(crate) is_rebalancing: bool,
}

/// A commit request on its way, with what the broker checks it by.
pub(crate) struct InFlight {
    group: String,
    member: MemberId,
    incarnation: u64,
    generation: u64,
    commits: Vec<Commit>,
}

pub(crate) struct Member {
    pub(crate) group: String,
    pub(crate) subscription: Subscription,
    /// Grows with each time it joins: requests of an earlier time are from a member that the group does not know.
    incarnation: u64,
    generation: u64,
    pub(crate) events: VecDeque<Event>,
    pub(crate) leases: BTreeSet<TopicPartition>,
    /// Offset that is read next; paused or not.
    pub(crate) reading: BTreeMap<TopicPartition, Lane>,
    pub(crate) last_read: Option<TopicPartition>,
    pub(crate) paused: BTreeSet<TopicPartition>,
    /// Commits that hold the lease lock: a revoke waits for them.
    pub(crate) commits_in_flight: usize,
    pub(crate) outcome_unknown: bool,
    pub(crate) is_deaf: bool,
    pub(crate) is_closed: bool,
    pub(crate) wake: Arc<Notify>,
}

#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) next: i64,
}

impl World {
    pub(crate) fn wake_readers(&self, lane: &TopicPartition) {
        for member in self.members.values().filter(|member| member.reading.contains_key(lane)) {
            member.wake.notify_one();
        }
    }

    pub(crate) fn leave(&mut self, group: &str, member: MemberId) {
        if let Some(group) = self.groups.get_mut(group) {
            group.members.remove(&member);
            group.owners.retain(|_, owner| *owner != member);
        }
    }

    /// A source that hears gives up by itself when its time is over; one that does not is a zombie.
    pub(crate) fn expel_if_deaf(&mut self, group: &str, member: MemberId) {
        if self.members.get(&member).is_some_and(|member| member.is_deaf) {
            tracing::debug!(?member, "expelled from the group: it did not let go in time");
            self.leave(group, member);
        }
    }

    fn is_member(&self, group: &str, member: MemberId) -> bool {
        self.groups.get(group).is_some_and(|group| group.members.contains(&member))
    }

    pub(crate) fn has_commits_in_flight(&self, group: &str) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        group.members.iter().filter_map(|id| self.members.get(id)).any(|member| member.commits_in_flight > 0)
    }

    /// Tells every member that owns something to let go.
    pub(crate) fn revoke_all(&mut self, group: &str) -> Vec<(MemberId, oneshot::Receiver<()>)> {
        let mut owned: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (lane, owner) in self.groups.get(group).map(|group| group.owners.clone()).unwrap_or_default() {
            owned.entry(owner).or_default().push(lane);
        }
        let mut released = Vec::new();
        for (id, partitions) in owned {
            if let Some(member) = self.members.get_mut(&id) {
                let (ack, receiver) = Ack::new();
                member.send(Event::Revoked { partitions, lost: false, ack });
                released.push((id, receiver));
            }
        }
        released
    }

    pub(crate) fn finish_rebalance(&mut self, name: &str) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.is_rebalancing = false;
        group.generation += 1;
        group.owners.clear();
        let ids: Vec<MemberId> = group.members.iter().copied().collect();
        for (turn, lane) in self.partitions.keys().enumerate() {
            let wants =
                |id: &&MemberId| self.members.get(id).is_some_and(|member| matches(&member.subscription, &lane.topic));
            let takers: Vec<MemberId> = ids.iter().filter(wants).copied().collect();
            if let Some(owner) = turn.checked_rem(takers.len()).map(|place| takers[place]) {
                group.owners.insert(lane.clone(), owner);
            }
        }
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.leases.clear();
            member.generation = group.generation;
            let assigned: Vec<Assigned> = group
                .owners
                .iter()
                .filter(|(_, owner)| **owner == id)
                .map(|(lane, _)| {
                    let committed = group.committed.get(lane).cloned();
                    let is_committed = committed.is_some();
                    let first = self.partitions.get(lane).and_then(|log| log.records.keys().next().copied());
                    let (start, metadata) = committed
                        .unwrap_or_else(|| (first.and_then(Offset::new).unwrap_or(Offset::ZERO), String::new()));
                    Assigned { topic_partition: lane.clone(), start, metadata, committed: is_committed }
                })
                .collect();
            if !assigned.is_empty() {
                member.send(Event::Assigned(assigned));
            }
        }
    }

    /// Tells a member that it is out, if it is, and lets it join again; returns its group if that needs a rebalance.
    pub(crate) fn tell_lost(&mut self, id: MemberId) -> Option<String> {
        let group = self.members.get(&id)?.group.clone();
        if self.is_member(&group, id) {
            return None;
        }
        let member = self.members.get_mut(&id)?;
        if member.is_closed {
            return None;
        }
        let mut partitions: BTreeSet<TopicPartition> = std::mem::take(&mut member.leases);
        // What it was given or asked for meanwhile was by an older account of the group.
        member.events.retain(|event| matches!(event, Event::Failed(_)));
        partitions.extend(member.reading.keys().cloned());
        member.incarnation += 1;
        if !partitions.is_empty() {
            // Nobody waits for this acknowledgement: the group went on already.
            let (ack, _nobody_waits) = Ack::new();
            member.send(Event::Revoked { partitions: partitions.into_iter().collect(), lost: true, ack });
        }
        self.groups.get_mut(&group)?.members.insert(id);
        Some(group)
    }

    /// The request that `member` sends now.
    pub(crate) fn request(&self, id: MemberId, commits: Vec<Commit>) -> Option<InFlight> {
        let member = self.members.get(&id)?;
        Some(InFlight {
            group: member.group.clone(),
            member: id,
            incarnation: member.incarnation,
            generation: member.generation,
            commits,
        })
    }

    /// The broker's side of a commit: it knows groups and generations, not who owns what.
    pub(crate) fn apply(&mut self, request: &InFlight) -> Result<(), CommitError> {
        let incarnation = self.members.get(&request.member).map(|member| member.incarnation);
        let group = self.groups.entry(request.group.clone()).or_default();
        if !group.members.contains(&request.member) || incarnation != Some(request.incarnation) {
            return Err(CommitError::Fenced("the group does not know this member".to_owned()));
        }
        if group.generation != request.generation {
            return Err(CommitError::Fenced(format!(
                "generation {} is over, the group is at {}",
                request.generation, group.generation,
            )));
        }
        if let Some(long) = request.commits.iter().find(|commit| commit.metadata.len() > METADATA_BYTES_MAX) {
            return Err(CommitError::Refused(format!("{}: offset metadata is too large", long.topic_partition)));
        }
        for commit in &request.commits {
            group.committed.insert(commit.topic_partition.clone(), (commit.offset, commit.metadata.clone()));
        }
        Ok(())
    }
}

impl Member {
    /// A member that has not been given anything yet.
    pub(crate) fn new(group: &str, subscription: Subscription) -> Self {
        Self {
            group: group.to_owned(),
            subscription,
            incarnation: 0,
            generation: 0,
            events: VecDeque::new(),
            leases: BTreeSet::new(),
            reading: BTreeMap::new(),
            last_read: None,
            paused: BTreeSet::new(),
            commits_in_flight: 0,
            outcome_unknown: false,
            is_deaf: false,
            is_closed: false,
            wake: Arc::new(Notify::new()),
        }
    }

    pub(crate) fn send(&mut self, event: Event) {
        self.events.push_back(event);
        self.wake.notify_one();
    }

    pub(crate) fn forget(&mut self) {
        self.incarnation += 1;
        self.events.retain(|event| matches!(event, Event::Failed(_)));
        self.leases.clear();
        self.reading.clear();
        self.paused.clear();
        self.outcome_unknown = false;
        self.is_deaf = false;
    }
}

pub(crate) fn matches(subscription: &Subscription, topic: &str) -> bool {
    match subscription {
        Subscription::Topics(topics) => topics.iter().any(|one| one == topic),
        Subscription::Regex(regex) => {
            regex::Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(topic))
        }
    }
}
