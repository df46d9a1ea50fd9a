//! The state behind [`MemoryLog`](crate::MemoryLog) and what the broker does with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Headers, METADATA_BYTES_MAX, Offset, TopicPartition};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bounds::{Bounds, FirstLook};
use crate::keys::Subscription;
use crate::memory::{Faults, Happening, MemberId, Observer};
use crate::memory_group::Protocol;
use crate::{Ack, Commit, CommitError, Error, Event, Recovery};

pub(crate) struct World {
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    /// How often a topic was deleted and created again; its id tells.
    pub(crate) recreated: BTreeMap<String, u64>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) faults: Faults,
    pub(crate) observer: Observer,
    pub(crate) delayed: Vec<InFlight>,
    pub(crate) commit_done: Arc<Notify>,
    pub(crate) next_member: u64,
    pub(crate) revoke_timeout: Duration,
    pub(crate) batch_rows_max: usize,
    /// Whether a member that must read what is gone fails, or goes on with what is there.
    pub(crate) data_loss_fails: bool,
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
    /// First offset that retention has left.
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

#[derive(Default)]
pub(crate) struct Group {
    pub(crate) protocol: Protocol,
    pub(crate) bounds: Bounds,
    pub(crate) generation: u64,
    pub(crate) members: BTreeSet<MemberId>,
    pub(crate) owners: BTreeMap<TopicPartition, MemberId>,
    /// Who shall own what, where that is reached step by step.
    pub(crate) target: BTreeMap<TopicPartition, MemberId>,
    pub(crate) committed: BTreeMap<TopicPartition, (Offset, String)>,
    pub(crate) is_rebalancing: bool,
}

/// A commit request on its way, with what the broker checks it by.
pub(crate) struct InFlight {
    group: String,
    member: MemberId,
    incarnation: u64,
    generation: u64,
    pub(crate) commits: Vec<Commit>,
}

pub(crate) struct Member {
    pub(crate) group: String,
    pub(crate) subscription: Subscription,
    /// Grows with each time it joins: requests of an earlier time are from a member that the group does not know.
    pub(crate) incarnation: u64,
    pub(crate) generation: u64,
    /// Its `group.instance.id`.
    pub(crate) instance: Option<String>,
    /// Another member has taken its instance id.
    pub(crate) is_replaced: bool,
    pub(crate) recovery: Option<Arc<dyn Recovery>>,
    /// What was there when it joined first, where its group asks for that.
    pub(crate) first_look: Option<Arc<FirstLook>>,
    pub(crate) joined: Instant,
    pub(crate) was_assigned: bool,
    pub(crate) asking: Asking,
    pub(crate) questions: u64,
    /// What it was told to let go of and has not yet.
    pub(crate) giving_up: BTreeSet<TopicPartition>,
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

/// How far the recovery of the assignment at the head of a member's events is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    Nothing,
    /// The question with this number is on its way.
    Now(u64),
    Answered,
}

#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) next: i64,
}

impl World {
    /// The broker deletes a topic, and with it what groups have committed for it. Members lose it at once.
    pub(crate) fn delete_topic(&mut self, topic: &str) {
        *self.recreated.entry(topic.to_owned()).or_default() += 1;
        let gone: BTreeSet<TopicPartition> =
            self.partitions.keys().filter(|lane| &*lane.topic == topic).cloned().collect();
        self.partitions.retain(|lane, _| !gone.contains(lane));
        for group in self.groups.values_mut() {
            group.committed.retain(|lane, _| !gone.contains(lane));
            group.owners.retain(|lane, _| !gone.contains(lane));
            group.target.retain(|lane, _| !gone.contains(lane));
        }
        for member in self.members.values_mut() {
            let held = |lane: &&TopicPartition| member.leases.contains(lane) || member.reading.contains_key(lane);
            let partitions: Vec<TopicPartition> = gone.iter().filter(held).cloned().collect();
            member.take_back(Some(&gone));
            member.giving_up.retain(|lane| !gone.contains(lane));
            if !partitions.is_empty() {
                let (ack, _nobody_waits) = Ack::new();
                member.send(Event::Revoked { partitions, lost: true, ack });
            }
        }
    }

    /// What a member sees that joins `group` now.
    pub(crate) fn first_look(&self, group: &str, subscription: &Subscription) -> FirstLook {
        let is_read = |lane: &TopicPartition| matches(subscription, &lane.topic) && !subscription.leaves_out(lane);
        let read = self.partitions.iter().filter(|(lane, _)| is_read(lane));
        let committed = self.groups.get(group).map(|group| &group.committed);
        let end = |log: &Partition| Offset::new(log.end).unwrap_or(Offset::ZERO);
        let ends: BTreeMap<_, _> = read.map(|(lane, log)| (lane.clone(), end(log))).collect();
        let is_known = ends.keys().any(|lane| committed.is_some_and(|committed| committed.contains_key(lane)));
        FirstLook { ends, is_known }
    }

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

    /// A source that hears gives up by itself when its time is over; one that does not is a zombie. Returns whether it is
    /// out now.
    pub(crate) fn expel_if_deaf(&mut self, group: &str, member: MemberId) -> bool {
        let is_deaf = self.members.get(&member).is_some_and(|member| member.is_deaf);
        if !is_deaf || !self.is_member(group, member) {
            return false;
        }
        tracing::debug!(?member, "expelled from the group: it did not let go in time");
        self.leave(group, member);
        self.tell_observer(&Happening::Expelled { member });
        true
    }

    pub(crate) fn is_member(&self, group: &str, member: MemberId) -> bool {
        self.groups.get(group).is_some_and(|group| group.members.contains(&member))
    }

    /// Of one member, or of all.
    pub(crate) fn has_commits_in_flight(&self, group: &str, of: Option<MemberId>) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        let members = group.members.iter().filter(|id| of.is_none_or(|member| member == **id));
        members.filter_map(|id| self.members.get(id)).any(|member| member.commits_in_flight > 0)
    }

    pub(crate) fn tell_observer(&mut self, happening: &Happening) {
        (self.observer)(happening);
    }

    /// Tells a member that it is out, if it is, and lets it join again; returns its group if that needs a rebalance.
    pub(crate) fn tell_lost(&mut self, id: MemberId) -> Option<String> {
        let group = self.members.get(&id)?.group.clone();
        if self.is_member(&group, id) {
            return None;
        }
        let member = self.members.get_mut(&id)?;
        if member.is_closed || member.is_replaced {
            return None;
        }
        let mut partitions: BTreeSet<TopicPartition> = std::mem::take(&mut member.leases);
        // What it was given or asked for meanwhile was by an older account of the group.
        member.forget_events();
        partitions.extend(member.reading.keys().cloned());
        member.incarnation += 1;
        member.giving_up.clear();
        if !partitions.is_empty() {
            // Nobody waits for this acknowledgement: the group went on already.
            let (ack, _nobody_waits) = Ack::new();
            member.send(Event::Revoked { partitions: partitions.into_iter().collect(), lost: true, ack });
        }
        self.groups.get_mut(&group)?.members.insert(id);
        Some(group)
    }

    /// The member of `group` with this instance id.
    pub(crate) fn static_member(&self, group: &str, instance: &str) -> Option<MemberId> {
        let members = &self.groups.get(group)?.members;
        let has_it = |id: &&MemberId| self.members.get(id).is_some_and(|one| one.instance.as_deref() == Some(instance));
        members.iter().find(has_it).copied()
    }

    /// The static member `old` has come back as `new` and gets what it had; under the same id when it only joined again.
    pub(crate) fn take_over(&mut self, name: &str, old: MemberId, new: MemberId) {
        let Some(group) = self.groups.get_mut(name) else { return };
        if old != new {
            group.members.remove(&old);
            for owner in group.owners.values_mut().chain(group.target.values_mut()).filter(|owner| **owner == old) {
                *owner = new;
            }
        }
        let generation = group.generation;
        let lanes: Vec<TopicPartition> =
            group.owners.iter().filter(|(_, owner)| **owner == new).map(|(lane, _)| lane.clone()).collect();
        let is_rebalancing = group.is_rebalancing;
        if let Some(before) = self.members.get_mut(&old).filter(|_| old != new) {
            before.replace();
        }
        if let Some(member) = self.members.get_mut(&new) {
            member.generation = generation;
        }
        self.tell_observer(&Happening::CameBack { old, new });
        // A rebalance that is under way deals out everything anyway.
        if !is_rebalancing {
            self.give(name, new, lanes);
        }
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
    pub(crate) fn apply(&mut self, request: &InFlight, is_late: bool) -> Result<(), CommitError> {
        let answer = self.take(request);
        let (member, commits) = (request.member, request.commits.clone());
        self.tell_observer(&match &answer {
            Ok(()) => Happening::Taken { group: request.group.clone(), member, commits, is_late },
            Err(_) => Happening::Fenced { member, commits, is_late },
        });
        answer
    }

    fn take(&mut self, request: &InFlight) -> Result<(), CommitError> {
        let member = self.members.get(&request.member);
        let (incarnation, epoch) = (member.map(|one| one.incarnation), member.map(|one| one.generation));
        let group = self.groups.entry(request.group.clone()).or_default();
        if !group.members.contains(&request.member) || incarnation != Some(request.incarnation) {
            return Err(CommitError::Fenced("the group does not know this member".to_owned()));
        }
        let current = match group.protocol {
            Protocol::Eager | Protocol::Cooperative => group.generation,
            Protocol::Server => epoch.unwrap_or_default(),
        };
        if current != request.generation {
            return Err(CommitError::Fenced(format!(
                "generation {} is over, the group is at {current}",
                request.generation,
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
            instance: None,
            is_replaced: false,
            recovery: None,
            first_look: None,
            joined: Instant::now(),
            was_assigned: false,
            asking: Asking::Nothing,
            questions: 0,
            giving_up: BTreeSet::new(),
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

    /// Forgets what it was not told yet, but not that it cannot go on.
    pub(crate) fn forget_events(&mut self) {
        self.events.retain(|event| matches!(event, Event::Failed(_)));
        self.asking = Asking::Nothing;
    }

    /// Takes the leases of `partitions`, or all: those it holds and those it was not told of yet.
    pub(crate) fn take_back(&mut self, partitions: Option<&BTreeSet<TopicPartition>>) {
        let goes = |lane: &TopicPartition| partitions.is_none_or(|partitions| partitions.contains(lane));
        self.leases.retain(|lane| !goes(lane));
        for event in &mut self.events {
            if let Event::Assigned(assigned) = event {
                assigned.retain(|one| !goes(&one.topic_partition));
            }
        }
    }

    /// Another process has its instance id now: it is out for good.
    pub(crate) fn replace(&mut self) {
        self.is_replaced = true;
        self.leases.clear();
        self.forget_events();
        self.send(Event::Failed(Error::Denied(
            "another member has joined with the same group.instance.id: each process needs its own".to_owned(),
        )));
    }

    pub(crate) fn forget(&mut self) {
        self.incarnation += 1;
        self.forget_events();
        self.giving_up.clear();
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
        Subscription::Partitions(_) => subscription.topics().contains(topic),
        Subscription::Regex(regex) => {
            regex::Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(topic))
        }
    }
}
