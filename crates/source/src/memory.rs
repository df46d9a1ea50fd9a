//! A whole log in memory: topics, consumer groups with generations, committed offsets, rebalances, and faults on demand.
//!
//! Groups follow Kafka's classic protocol, eager or cooperative, or KIP-848 ([`Protocol`]), with static members. Nothing in
//! it depends on threads, real time or chance: under a current-thread runtime with paused time the same calls give the
//! same events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::{Headers, Offset, OffsetRange, TopicPartition};

use crate::bounds::Bounds;
use crate::keys::Subscription;
use crate::memory_group::Protocol;
use crate::memory_source::MemorySource;
use crate::memory_world::{InFlight, Member, Record, World, matches};
use crate::{Assigned, Commit, CommitError, Error, Event, Recovery};

/// A member of a group; it stays the same when the member joins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub(crate) u64);

/// What becomes of one commit request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFate {
    /// The broker takes it (or fences it) and answers.
    Apply,
    /// It travels for this long; then the broker takes it (or fences it) and answers.
    ApplyAfter(Duration),
    /// The broker refuses it.
    Refuse,
    /// It is lost on the way; the member does not know.
    LoseReportUnknown,
    /// The broker takes it (or fences it); the answer is lost.
    ApplyReportUnknown,
    /// The member gives up on it, and the broker takes it (or fences it) later: after this time, or, without one, at
    /// [`MemoryLog::release_delayed`].
    DelayReportUnknown(Option<Duration>),
}

/// Decides about each commit request, in the order in which they are sent.
pub type Faults = Box<dyn FnMut(MemberId, &[Commit]) -> CommitFate + Send>;

/// What happened inside the log that no single member sees.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// The broker took a commit request. `is_late`: its member had given up on it.
    Taken {
        /// Whose offsets they are.
        group: String,
        /// Who sent it.
        member: MemberId,
        /// What is committed.
        commits: Vec<Commit>,
        /// After its member gave up on it.
        is_late: bool,
    },
    /// The broker refused it: member, generation or size.
    Fenced {
        /// Who sent it.
        member: MemberId,
        /// What is not committed.
        commits: Vec<Commit>,
        /// After its member gave up on it.
        is_late: bool,
    },
    /// A commit request never reached the broker, and its member does not know.
    Lost {
        /// What is not committed.
        commits: Vec<Commit>,
    },
    /// A member is given topic-partitions.
    Assigned {
        /// Who.
        member: MemberId,
        /// What it gets.
        assigned: Vec<Assigned>,
        /// How many it had before and keeps.
        kept: usize,
        /// How many others read some of them on, because they do not know yet.
        unaware: usize,
    },
    /// A member is told to let go.
    Revoking {
        /// Who.
        member: MemberId,
        /// Of what.
        partitions: Vec<TopicPartition>,
    },
    /// A member did not let go in time.
    Late {
        /// Who.
        member: MemberId,
    },
    /// A member is out of the group and does not know.
    Expelled {
        /// Who.
        member: MemberId,
    },
    /// A static member came back and has what its older self had; nobody else noticed.
    CameBack {
        /// Its older self, which is fenced.
        old: MemberId,
        /// Who it is now.
        new: MemberId,
    },
    /// What a member knows from elsewhere replaced missing committed offsets.
    Recovered {
        /// Who.
        member: MemberId,
        /// How many topic-partitions.
        partitions: usize,
    },
    /// A member must read what retention has removed.
    OutOfRange {
        /// Who.
        member: MemberId,
        /// Which lane.
        topic_partition: TopicPartition,
        /// By the group's account it is its own; else it reads on as a zombie.
        is_owner: bool,
    },
}

/// Hears of everything, in order. It must not call the log.
pub type Observer = Box<dyn FnMut(&Happening) + Send>;

/// The log. Clones are handles of the same one.
#[derive(Clone)]
pub struct MemoryLog(Arc<Mutex<World>>);

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// An empty log without faults. Rebalances need a tokio runtime.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            partitions: BTreeMap::new(),
            recreated: BTreeMap::new(),
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            faults: Box::new(|_, _| CommitFate::Apply),
            observer: Box::new(|_| {}),
            delayed: Vec::new(),
            commit_done: Arc::default(),
            next_member: 0,
            revoke_timeout: Duration::from_secs(30),
            batch_rows_max: 500,
            data_loss_fails: true,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// Who decides about commit requests from now on.
    pub fn set_faults(&self, faults: impl FnMut(MemberId, &[Commit]) -> CommitFate + Send + 'static) {
        self.lock().faults = Box::new(faults);
    }

    /// Who hears of everything from now on.
    pub fn set_observer(&self, observer: impl FnMut(&Happening) + Send + 'static) {
        self.lock().observer = Box::new(observer);
    }

    /// How `group` hands out its topic-partitions; for a group without members.
    pub fn set_protocol(&self, group: &str, protocol: Protocol) {
        self.lock().groups.entry(group.to_owned()).or_default().protocol = protocol;
    }

    /// Where the members of `group` begin and end to read; for a group without members.
    pub fn set_bounds(&self, group: &str, bounds: Bounds) {
        self.lock().groups.entry(group.to_owned()).or_default().bounds = bounds;
    }

    /// Whether members fail when retention has removed what they must read next (`on.data.loss=fail`, the default), or go
    /// on with the first record that is left.
    pub fn set_data_loss_fails(&self, fails: bool) {
        self.lock().data_loss_fails = fails;
    }

    /// Most records of a batch (500).
    pub fn set_batch_rows_max(&self, rows: usize) {
        self.lock().batch_rows_max = rows.max(1);
    }

    /// How long a rebalance waits for the members (30 s). Who is late loses its leases; who is deaf is expelled.
    pub fn set_revoke_timeout(&self, timeout: Duration) {
        self.lock().revoke_timeout = timeout;
    }

    /// Adds partitions `0..partitions` of `topic`; groups that want the topic rebalance.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        let mut world = self.lock();
        for partition in 0..partitions {
            world.partitions.entry(TopicPartition::new(topic, partition)).or_default();
        }
        let wants = |member: &Member| matches(&member.subscription, topic);
        let groups: BTreeSet<String> =
            world.members.values().filter(|member| wants(member)).map(|member| member.group.clone()).collect();
        drop(world);
        for group in groups {
            self.rebalance(&group);
        }
    }

    /// Deletes `topic` and creates it again with so many partitions: its records and what groups have committed for it are
    /// gone, its id is another one, and members that have it lose it.
    pub fn recreate_topic(&self, topic: &str, partitions: i32) {
        self.lock().delete_topic(topic);
        self.create_topic(topic, partitions);
    }

    /// Appends a record and returns its offset. The topic-partition is created if it is not there.
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
        headers: Headers,
    ) -> Offset {
        let lane = TopicPartition::new(topic, partition);
        let mut world = self.lock();
        let log = world.partitions.entry(lane.clone()).or_default();
        let offset = log.end;
        let record = Record { timestamp_ms, key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec), headers };
        log.records.insert(offset, record);
        log.end += 1;
        world.wake_readers(&lane);
        Offset::new(offset).expect("offsets count up from 0")
    }

    /// Moves the end by `count` offsets without records, as control records and aborted transactions do.
    pub fn skip(&self, topic: &str, partition: i32, count: u32) {
        let lane = TopicPartition::new(topic, partition);
        let mut world = self.lock();
        world.partitions.entry(lane.clone()).or_default().end += i64::from(count);
        world.wake_readers(&lane);
    }

    /// Removes the records before `begin`, as retention does: from there on the log begins.
    pub fn retain_from(&self, topic_partition: &TopicPartition, begin: Offset) {
        if let Some(log) = self.lock().partitions.get_mut(topic_partition) {
            log.begin = begin.get().clamp(log.begin, log.end);
            let begin = log.begin;
            log.records.retain(|offset, _| *offset >= begin);
        }
    }

    /// Removes the records of a range, as compaction does; offsets stay.
    pub fn remove(&self, topic_partition: &TopicPartition, range: OffsetRange) {
        if let Some(log) = self.lock().partitions.get_mut(topic_partition) {
            log.records.retain(|offset, _| !(range.start().get()..range.end().get()).contains(offset));
        }
    }

    /// The offset after the last one; `None` if there is no such topic-partition.
    pub fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset> {
        self.lock().partitions.get(topic_partition).and_then(|log| Offset::new(log.end))
    }

    /// What `group` has committed, with its metadata.
    pub fn committed(&self, group: &str, topic_partition: &TopicPartition) -> Option<(Offset, String)> {
        self.lock().groups.get(group)?.committed.get(topic_partition).cloned()
    }

    /// All committed offsets of `group` vanish, as when nobody was a member for `offsets.retention.minutes`.
    pub fn forget_group(&self, group: &str) {
        if let Some(group) = self.lock().groups.get_mut(group) {
            group.committed.clear();
        }
    }

    /// A person sets the group's offset, which Kafka's tools do only while the group has no member.
    pub fn set_committed(&self, group: &str, topic_partition: &TopicPartition, offset: Offset, metadata: &str) {
        let mut world = self.lock();
        let group = world.groups.entry(group.to_owned()).or_default();
        group.committed.insert(topic_partition.clone(), (offset, metadata.to_owned()));
    }

    /// The broker takes (or fences) a commit of `member` under its current generation, whatever leases it holds: what a
    /// source without leases would send.
    pub fn commit_unchecked(&self, member: MemberId, commits: Vec<Commit>) -> Result<(), CommitError> {
        let mut world = self.lock();
        match world.request(member, commits) {
            Some(request) => world.apply(&request, false),
            None => Err(CommitError::Fenced("there is no such member".to_owned())),
        }
    }

    /// Who owns a topic-partition by the group's account; a zombie may think otherwise.
    pub fn owner(&self, group: &str, topic_partition: &TopicPartition) -> Option<MemberId> {
        self.lock().groups.get(group)?.owners.get(topic_partition).copied()
    }

    /// The group's generation; each finished rebalance adds one.
    pub fn generation(&self, group: &str) -> u64 {
        self.lock().groups.get(group).map_or(0, |group| group.generation)
    }

    /// A new member of `group`. Under the eager protocol partitions are dealt round robin over the members in the order of
    /// their ids.
    pub fn join(&self, group: &str, subscription: Subscription) -> MemorySource {
        self.join_with(group, subscription, None)
    }

    /// As [`Self::join`]; `recovery` is asked for topic-partitions without a committed offset.
    pub fn join_with(
        &self,
        group: &str,
        subscription: Subscription,
        recovery: Option<Arc<dyn Recovery>>,
    ) -> MemorySource {
        self.join_as(group, subscription, recovery, None)
    }

    /// As [`Self::join_with`], with a `group.instance.id`: a static member. It does not leave the group when it closes, and
    /// when it joins again before [`Self::kill`] it has what its older self had, without a rebalance.
    pub fn join_as(
        &self,
        group: &str,
        subscription: Subscription,
        recovery: Option<Arc<dyn Recovery>>,
        instance: Option<&str>,
    ) -> MemorySource {
        let mut world = self.lock();
        let id = MemberId(world.next_member);
        world.next_member += 1;
        let older = instance.and_then(|instance| world.static_member(group, instance));
        let looks_first = world.groups.get(group).is_some_and(|group| group.bounds.looks_first());
        let first_look = looks_first.then(|| Arc::new(world.first_look(group, &subscription)));
        let instance = instance.map(str::to_owned);
        let member = Member { recovery, instance, first_look, ..Member::new(group, subscription) };
        world.members.insert(id, member);
        world.groups.entry(group.to_owned()).or_default().members.insert(id);
        match older {
            Some(old) => world.take_over(group, old, id),
            None => {
                drop(world);
                self.rebalance(group);
            }
        }
        MemorySource::new(self.clone(), id)
    }

    /// The group removes a member and does not tell it, as after a missed session time-out: if it still runs, it is a
    /// zombie that reads on and whose commits are fenced.
    pub fn kill(&self, member: MemberId) {
        let mut world = self.lock();
        let Some(group) = world.members.get(&member).map(|member| member.group.clone()) else { return };
        if !world.is_member(&group, member) {
            return;
        }
        world.leave(&group, member);
        world.tell_observer(&Happening::Expelled { member });
        drop(world);
        self.rebalance(&group);
    }

    /// A zombie hears that its topic-partitions are lost, and joins again.
    pub fn tell(&self, member: MemberId) {
        let mut world = self.lock();
        let Some(group) = world.tell_lost(member) else { return };
        drop(world);
        self.rebalance(&group);
    }

    /// While `is_deaf`, the member hears nothing of rebalances and reads on. A rebalance that needs it waits for the
    /// revoke time-out and then expels it.
    pub fn set_deaf(&self, member: MemberId, is_deaf: bool) {
        let mut world = self.lock();
        let Some(state) = world.members.get_mut(&member) else { return };
        state.is_deaf = is_deaf;
        state.wake.notify_one();
        // Who was expelled meanwhile hears of that instead.
        let group = state.group.clone();
        let expelled_from = if is_deaf { None } else { world.tell_lost(member) };
        let reconciles = world.groups.get(&group).is_some_and(|group| group.protocol != Protocol::Eager);
        drop(world);
        match expelled_from {
            Some(group) => self.rebalance(&group),
            None if !is_deaf && reconciles => self.reconcile(&group),
            None => {}
        }
    }

    /// Commit requests that wait for [`Self::release_delayed`].
    pub fn delayed(&self) -> usize {
        self.lock().delayed.len()
    }

    /// The broker takes (or fences) the delayed commit request at `index` of those that wait, the oldest being 0.
    /// Returns whether it was taken.
    pub fn release_delayed(&self, index: usize) -> bool {
        let mut world = self.lock();
        if index >= world.delayed.len() {
            return false;
        }
        let request = world.delayed.remove(index);
        world.apply(&request, true).is_ok()
    }

    /// The delayed commit request at `index` is lost for good.
    pub fn lose_delayed(&self, index: usize) {
        let mut world = self.lock();
        if index < world.delayed.len() {
            let request = world.delayed.remove(index);
            world.tell_observer(&Happening::Lost { commits: request.commits });
        }
    }

    /// The member's source fails with `error`, as when a broker refuses it.
    pub fn fail(&self, member: MemberId, error: Error) {
        if let Some(member) = self.lock().members.get_mut(&member) {
            member.send(Event::Failed(error));
        }
    }

    pub(crate) fn delay(&self, request: InFlight, time: Option<Duration>) {
        match time {
            None => self.lock().delayed.push(request),
            Some(time) => {
                let log = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    // Taken or fenced: nobody waits for the answer.
                    let _answer = log.lock().apply(&request, true);
                });
            }
        }
    }

    /// Leaves the group, with everything that `member` held. A static member does not: its place is kept for it.
    pub(crate) fn leave(&self, id: MemberId, joins_again: bool) {
        let mut world = self.lock();
        let Some(member) = world.members.get_mut(&id) else { return };
        let (group, is_static) = (member.group.clone(), member.instance.is_some());
        member.forget();
        member.is_closed |= !joins_again;
        if is_static && world.is_member(&group, id) {
            if joins_again {
                world.take_over(&group, id, id);
            }
            return;
        }
        world.leave(&group, id);
        if joins_again && world.members.get(&id).is_some_and(|member| !member.is_replaced) {
            world.groups.entry(group.clone()).or_default().members.insert(id);
        }
        drop(world);
        self.rebalance(&group);
    }
}
