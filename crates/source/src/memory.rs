//! A whole log in memory: topics, consumer groups with generations, committed offsets, rebalances, and faults on demand.
//!
//! It follows Kafka's classic group protocol with the eager strategy. Nothing in it depends on threads, real time or
//! chance: under a current-thread runtime with paused time the same calls give the same events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::{Headers, Offset, OffsetRange, TopicPartition};

use crate::keys::Subscription;
use crate::memory_source::MemorySource;
use crate::memory_world::{InFlight, Member, Record, World, matches};
use crate::{Commit, Error, Event};

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
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            faults: Box::new(|_, _| CommitFate::Apply),
            delayed: Vec::new(),
            commit_done: Arc::default(),
            next_member: 0,
            revoke_timeout: Duration::from_secs(30),
            batch_rows_max: 500,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// Who decides about commit requests from now on.
    pub fn set_faults(&self, faults: impl FnMut(MemberId, &[Commit]) -> CommitFate + Send + 'static) {
        self.lock().faults = Box::new(faults);
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

    /// Removes the records of a range, as compaction and retention do; offsets stay.
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

    /// Who owns a topic-partition by the group's account; a zombie may think otherwise.
    pub fn owner(&self, group: &str, topic_partition: &TopicPartition) -> Option<MemberId> {
        self.lock().groups.get(group)?.owners.get(topic_partition).copied()
    }

    /// The group's generation; each finished rebalance adds one.
    pub fn generation(&self, group: &str) -> u64 {
        self.lock().groups.get(group).map_or(0, |group| group.generation)
    }

    /// A new member of `group`. Partitions are dealt round robin over the members in the order of their ids.
    pub fn join(&self, group: &str, subscription: Subscription) -> MemorySource {
        let mut world = self.lock();
        let id = MemberId(world.next_member);
        world.next_member += 1;
        world.members.insert(id, Member::new(group, subscription));
        world.groups.entry(group.to_owned()).or_default().members.insert(id);
        drop(world);
        self.rebalance(group);
        MemorySource::new(self.clone(), id)
    }

    /// The group removes a member and does not tell it, as after a missed session time-out: if it still runs, it is a
    /// zombie that reads on and whose commits are fenced.
    pub fn kill(&self, member: MemberId) {
        let mut world = self.lock();
        let Some(group) = world.members.get(&member).map(|member| member.group.clone()) else { return };
        world.leave(&group, member);
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
        let expelled_from = if is_deaf { None } else { world.tell_lost(member) };
        drop(world);
        if let Some(group) = expelled_from {
            self.rebalance(&group);
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
        world.apply(&request).is_ok()
    }

    /// The delayed commit request at `index` is lost for good.
    pub fn lose_delayed(&self, index: usize) {
        let mut world = self.lock();
        if index < world.delayed.len() {
            world.delayed.remove(index);
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
                    let _answer = log.lock().apply(&request);
                });
            }
        }
    }

    /// Leaves the group, with everything that `member` held.
    pub(crate) fn leave(&self, member: MemberId, joins_again: bool) {
        let mut world = self.lock();
        let Some(group) = world.members.get(&member).map(|member| member.group.clone()) else { return };
        world.leave(&group, member);
        if let Some(member) = world.members.get_mut(&member) {
            member.forget();
            member.is_closed |= !joins_again;
        }
        if joins_again {
            world.groups.entry(group.clone()).or_default().members.insert(member);
        }
        drop(world);
        self.rebalance(&group);
    }

    /// Begins a rebalance of `group`, unless one is under way, which then includes the change.
    pub(crate) fn rebalance(&self, group: &str) {
        let mut world = self.lock();
        let state = world.groups.entry(group.to_owned()).or_default();
        if std::mem::replace(&mut state.is_rebalancing, true) {
            return;
        }
        let released = world.revoke_all(group);
        let timeout = world.revoke_timeout;
        drop(world);
        let (log, group) = (self.clone(), group.to_owned());
        tokio::spawn(async move {
            let deadline = tokio::time::Instant::now() + timeout;
            for (member, released) in released {
                // The sender is dropped, never used: both results mean that the member has let go.
                if tokio::time::timeout_at(deadline, released).await.is_err() {
                    log.lock().expel_if_deaf(&group, member);
                }
            }
            log.wait_for_commits(&group, deadline).await;
            log.lock().finish_rebalance(&group);
        });
    }

    /// A commit holds the lease lock until its answer, so a revoke ends after it.
    async fn wait_for_commits(&self, group: &str, deadline: tokio::time::Instant) {
        let done = Arc::clone(&self.lock().commit_done);
        loop {
            let mut next_done = std::pin::pin!(done.notified());
            // From here on no end of a commit is missed.
            next_done.as_mut().enable();
            if !self.lock().has_commits_in_flight(group) || tokio::time::timeout_at(deadline, next_done).await.is_err()
            {
                return;
            }
        }
    }
}
