//! What every [`Source`] must do, as functions that panic if it does not: run by the memory form, by the Kafka form on the
//! embedded broker, and on a real Kafka by the services tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::Array;
use async_trait::async_trait;
use model::{Offset, TopicPartition};

use crate::{Ack, Assigned, Bounds, Commit, CommitError, Error, Event, Recovered, Recovery, Source, Subscription};

mod bounds;
pub mod letters;

use bounds::{
    begins_where_it_is_told_once, is_exhausted_when_all_that_was_there_is_committed,
    moves_back_an_authority_that_knows_more_than_the_log, reads_only_what_is_assigned_by_name,
};

/// A log to try sources on.
#[async_trait]
pub trait World: Send {
    /// Creates a topic that is not there yet.
    async fn create_topic(&mut self, topic: &str, partitions: i32);

    /// Appends records with these values; they can be read when it returns.
    async fn produce(&mut self, topic_partition: &TopicPartition, values: &[String]);

    /// A new member of `group` that reads `topic` from the earliest record.
    async fn join(&mut self, group: &str, topic: &str) -> Box<dyn Source>;

    /// As [`World::join`], with a recovery. `None` if this world's sources have none: then what needs it is not tried.
    async fn join_with(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Option<Box<dyn Source>> {
        let _unused = (group, topic, recovery);
        None
    }

    /// As [`World::join_with`], and data may be lost.
    async fn join_lossy(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Box<dyn Source>;

    /// As [`World::join`], of what `read` says and within `bounds`.
    async fn join_within(&mut self, group: &str, read: Subscription, bounds: Bounds) -> Box<dyn Source>;

    /// Whether the group takes the commits of a member that has been told of a revoke, as Kafka's does.
    fn takes_commits_while_rebalancing(&self) -> bool {
        true
    }

    /// Makes the group refuse the next commit of the members that it has, as it refuses a zombie's. False if this world
    /// has no means for it: then what needs it is not tried.
    async fn fence(&mut self, group: &str) -> bool;
}

/// No step takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs everything, each with topics and groups of its own whose names begin with `prefix`.
pub async fn all(world: &mut dyn World, prefix: &str) {
    reads_every_partition_in_order(world, &format!("{prefix}-order")).await;
    hands_out_committed_offset_and_metadata(world, &format!("{prefix}-metadata")).await;
    revoke_waits_for_the_ack(world, &format!("{prefix}-revoke")).await;
    leaves_out_commits_without_a_lease(world, &format!("{prefix}-lease")).await;
    paused_partitions_deliver_nothing(world, &format!("{prefix}-pause")).await;
    rejoin_starts_from_what_is_committed(world, &format!("{prefix}-rejoin")).await;
    recovers_what_is_not_committed(world, &format!("{prefix}-recovery")).await;
    fenced_member_cannot_commit(world, &format!("{prefix}-fence")).await;
    begins_where_it_is_told_once(world, &format!("{prefix}-begin")).await;
    reads_only_what_is_assigned_by_name(world, &format!("{prefix}-assign")).await;
    is_exhausted_when_all_that_was_there_is_committed(world, &format!("{prefix}-end")).await;
    // From here on data may be lost.
    moves_back_an_authority_that_knows_more_than_the_log(world, &format!("{prefix}-back")).await;
}

async fn next(source: &dyn Source) -> Event {
    match tokio::time::timeout(PATIENCE, source.next(true)).await {
        Ok(event) => event,
        Err(_) => panic!("no event in {PATIENCE:?}"),
    }
}

fn values(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|number| format!("value {number}")).collect()
}

fn offset(number: usize) -> Offset {
    Offset::new(number as i64).expect("a count is not negative")
}

/// What a source told while it was read.
#[derive(Default)]
struct Heard {
    /// Values of each lane, in order, since its last assignment.
    values: BTreeMap<TopicPartition, Vec<String>>,
    /// What is assigned now.
    assigned: BTreeMap<TopicPartition, Assigned>,
    /// Where the next record of each lane may be.
    next: BTreeMap<TopicPartition, Offset>,
    /// Acknowledgements that are not given yet.
    acks: Vec<Ack>,
}

impl Heard {
    /// Takes events until `done`. Revokes are acknowledged at once unless `holds_acks`.
    async fn read(&mut self, source: &dyn Source, holds_acks: bool, done: impl Fn(&Heard) -> bool) {
        while !done(self) {
            let event = next(source).await;
            self.hear(event, holds_acks);
        }
    }

    fn hear(&mut self, event: Event, holds_acks: bool) {
        match event {
            Event::Assigned(assigned) => {
                for one in assigned {
                    let lane = one.topic_partition.clone();
                    self.values.insert(lane.clone(), Vec::new());
                    self.next.insert(lane.clone(), one.start);
                    let before = self.assigned.insert(lane.clone(), one);
                    assert_eq!(before, None, "{lane} is assigned twice");
                }
            }
            Event::Revoked { partitions, ack, .. } => {
                for lane in partitions {
                    assert!(self.assigned.remove(&lane).is_some(), "{lane} is revoked but not assigned");
                }
                if holds_acks {
                    self.acks.push(ack);
                }
            }
            Event::Batch(batch) => {
                let lane = &batch.topic_partition;
                assert!(self.assigned.contains_key(lane), "records of {lane}, which is not assigned");
                assert!(!batch.is_empty(), "an empty batch of {lane}");
                let texts = self.values.entry(lane.clone()).or_default();
                for (row, at) in batch.offsets.iter().enumerate() {
                    let at = Offset::new(*at).expect("offsets are not negative");
                    let next = self.next.insert(lane.clone(), at.next());
                    assert!(next.is_some_and(|next| next <= at), "{} came after {next:?}", lane.at(at));
                    assert!(!batch.values.is_null(row));
                    texts.push(String::from_utf8_lossy(batch.values.value(row)).into_owned());
                }
            }
            Event::Position { topic_partition, next } => {
                assert!(self.next.get(&topic_partition).is_some_and(|before| *before <= next));
                self.next.insert(topic_partition, next);
            }
            Event::Failed(error) => panic!("the source failed: {error}"),
        }
    }

    fn count(&self) -> usize {
        self.values.values().map(Vec::len).sum()
    }
}

/// Commits, again while the group is between two generations.
async fn commit(source: &dyn Source, commits: &[Commit]) -> Result<Vec<TopicPartition>, CommitError> {
    let patience = tokio::time::Instant::now() + PATIENCE;
    loop {
        match source.commit(commits.to_vec()).await {
            Err(CommitError::Refused(why)) if tokio::time::Instant::now() < patience => {
                tracing::debug!(why, "commit refused, trying again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}

fn to_commit(lane: &TopicPartition, at: usize, metadata: &str) -> Commit {
    Commit { topic_partition: lane.clone(), offset: offset(at), metadata: metadata.to_owned() }
}

/// Every record of every partition comes once and in order, those written later too.
pub async fn reads_every_partition_in_order(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 3).await;
    let lanes: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new(topic, partition)).collect();
    for (number, lane) in lanes.iter().enumerate() {
        world.produce(lane, &values(0, 10 * (number + 1))).await;
    }
    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 60).await;
    for lane in &lanes {
        world.produce(lane, &values(100, 5)).await;
    }
    heard.read(&*source, false, |heard| heard.count() == 75).await;
    for (number, lane) in lanes.iter().enumerate() {
        let mut expected = values(0, 10 * (number + 1));
        expected.extend(values(100, 5));
        assert_eq!(heard.values[lane], expected, "{lane}");
        assert_eq!(heard.assigned[lane].start, Offset::ZERO);
        assert!(!heard.assigned[lane].committed);
        assert_eq!(source.end_offset(lane), Some(offset(expected.len())));
    }
    source.close().await;
}

/// The committed offset and its metadata, also an empty one, come with the next assignment, and reading starts there.
pub async fn hands_out_committed_offset_and_metadata(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 2).await;
    let lanes: Vec<TopicPartition> = (0..2).map(|partition| TopicPartition::new(topic, partition)).collect();
    for lane in &lanes {
        world.produce(lane, &values(0, 10)).await;
    }
    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 20).await;
    let plan = format!("plan {}", "é".repeat(100));
    let result = commit(&*source, &[to_commit(&lanes[0], 4, &plan), to_commit(&lanes[1], 7, "gone")]).await;
    assert_eq!(result, Ok(Vec::new()));
    assert_eq!(commit(&*source, &[to_commit(&lanes[1], 8, "")]).await, Ok(Vec::new()));
    source.close().await;

    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 8).await;
    for (lane, start, metadata) in [(&lanes[0], 4, plan.as_str()), (&lanes[1], 8, "")] {
        let expected = Assigned {
            topic_partition: lane.clone(),
            start: offset(start),
            until: None,
            metadata: metadata.to_owned(),
            committed: true,
        };
        assert_eq!(heard.assigned[lane], expected);
        assert_eq!(heard.values[lane], values(start, 10 - start));
    }
    source.close().await;
}

/// A second member gets a partition only after the first has let go of it; until then the first can commit, and the
/// second starts from that commit.
pub async fn revoke_waits_for_the_ack(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 2).await;
    for partition in 0..2 {
        world.produce(&TopicPartition::new(topic, partition), &values(0, 10)).await;
    }
    let first = world.join(topic, topic).await;
    let mut of_first = Heard::default();
    of_first.read(&*first, false, |heard| heard.count() == 20).await;

    let second = world.join(topic, topic).await;
    let mut of_second = Heard::default();
    of_first.read(&*first, true, |heard| !heard.acks.is_empty()).await;
    let gone: Vec<TopicPartition> =
        of_first.values.keys().filter(|lane| !of_first.assigned.contains_key(lane)).cloned().collect();
    let early = tokio::time::timeout(Duration::from_millis(500), second.next(true)).await;
    assert!(early.is_err(), "the second member got something before the first let go: {early:?}");
    let commits: Vec<Commit> = gone.iter().map(|lane| to_commit(lane, 6, "until then")).collect();
    let takes_commits = world.takes_commits_while_rebalancing();
    if takes_commits {
        assert_eq!(commit(&*first, &commits).await, Ok(Vec::new()));
    }
    of_first.acks.clear();
    read_both(&*first, &mut of_first, &*second, &mut of_second, |_, second| !second.assigned.is_empty()).await;
    for (lane, assigned) in &of_second.assigned {
        assert!(gone.contains(lane), "{lane} was never revoked from the first member");
        let expected = if takes_commits { (offset(6), "until then") } else { (Offset::ZERO, "") };
        assert_eq!((assigned.start, assigned.metadata.as_str()), expected, "{lane}");
    }
    first.close().await;
    second.close().await;
}

/// Reads two members side by side until `done`.
async fn read_both(
    first: &dyn Source,
    of_first: &mut Heard,
    second: &dyn Source,
    of_second: &mut Heard,
    done: impl Fn(&Heard, &Heard) -> bool,
) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !done(of_first, of_second) {
        // The first member is asked first; it is never busy for long here, so the second has its turns.
        tokio::select! {
            biased;
            event = first.next(true) => of_first.hear(event, false),
            event = second.next(true) => of_second.hear(event, false),
            () = tokio::time::sleep_until(patience) => panic!("no event in {PATIENCE:?}"),
        }
    }
}

/// After a partition has gone to another member, commits for it are left out and told, and those for others are done.
pub async fn leaves_out_commits_without_a_lease(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 2).await;
    for partition in 0..2 {
        world.produce(&TopicPartition::new(topic, partition), &values(0, 1)).await;
    }
    let first = world.join(topic, topic).await;
    let mut of_first = Heard::default();
    of_first.read(&*first, false, |heard| heard.assigned.len() == 2).await;
    let second = world.join(topic, topic).await;
    let mut of_second = Heard::default();
    let shared = |first: &Heard, second: &Heard| first.assigned.len() == 1 && second.assigned.len() == 1;
    read_both(&*first, &mut of_first, &*second, &mut of_second, shared).await;
    let (kept, gone) = (of_first.assigned.keys().next(), of_second.assigned.keys().next());
    let (kept, gone) = (kept.expect("has one").clone(), gone.expect("has one").clone());
    let result = commit(&*first, &[to_commit(&kept, 1, "mine"), to_commit(&gone, 1, "not mine")]).await;
    assert_eq!(result, Ok(vec![gone.clone()]));
    first.close().await;
    second.close().await;

    let third = world.join(topic, topic).await;
    let mut of_third = Heard::default();
    of_third.read(&*third, false, |heard| heard.assigned.len() == 2).await;
    assert_eq!(of_third.assigned[&kept].metadata, "mine");
    assert!(!of_third.assigned[&gone].committed, "{gone} was committed without a lease");
    third.close().await;
}

/// A paused partition delivers nothing, the others go on; resumed, it goes on where it was.
pub async fn paused_partitions_deliver_nothing(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 2).await;
    let (paused, open) = (TopicPartition::new(topic, 0), TopicPartition::new(topic, 1));
    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.assigned.len() == 2).await;
    world.produce(&paused, &values(0, 5)).await;
    heard.read(&*source, false, |heard| heard.count() == 5).await;
    source.pause(std::slice::from_ref(&paused));
    world.produce(&paused, &values(5, 5)).await;
    world.produce(&open, &values(0, 50)).await;
    heard.read(&*source, false, |heard| heard.count() == 55).await;
    assert_eq!(heard.values[&paused].len(), 5, "a paused partition delivered");
    source.resume(std::slice::from_ref(&paused));
    heard.read(&*source, false, |heard| heard.count() == 60).await;
    assert_eq!(heard.values[&paused], values(0, 10));
    assert_eq!(heard.values[&open], values(0, 50));
    source.close().await;
}

/// After a rejoin the leases are gone, no revoke is told for what was held, and reading starts from what is committed.
pub async fn rejoin_starts_from_what_is_committed(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 1).await;
    let lane = TopicPartition::new(topic, 0);
    world.produce(&lane, &values(0, 10)).await;
    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 10).await;
    assert_eq!(commit(&*source, &[to_commit(&lane, 3, "before")]).await, Ok(Vec::new()));
    source.rejoin().await;
    assert_eq!(source.commit(vec![to_commit(&lane, 9, "without a lease")]).await, Ok(vec![lane.clone()]));
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 7).await;
    assert_eq!((heard.assigned[&lane].start, heard.assigned[&lane].metadata.as_str()), (offset(3), "before"));
    assert_eq!(heard.values[&lane], values(3, 7));
    assert_eq!(commit(&*source, &[to_commit(&lane, 10, "")]).await, Ok(Vec::new()));
    source.close().await;
}

/// Answers with what it was given, and remembers what it was asked.
struct Told {
    answer: Vec<Recovered>,
    asked: Mutex<Vec<TopicPartition>>,
    ids: Mutex<BTreeMap<String, String>>,
}

#[async_trait]
impl Recovery for Told {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, Error> {
        // Not at once: a real one waits for a store.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.asked.lock().expect("no test panics while it holds this lock").extend(partitions.iter().cloned());
        *self.ids.lock().expect("no test panics while it holds this lock") = topic_ids.clone();
        Ok(self.answer.iter().filter(|one| partitions.contains(&one.topic_partition)).cloned().collect())
    }
}

/// What the group has no offset of is asked for, and nothing else; what is answered is where reading starts, with its
/// plan and not as committed; what is not answered starts where the log begins.
pub async fn recovers_what_is_not_committed(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 3).await;
    let lanes: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new(topic, partition)).collect();
    for lane in &lanes {
        world.produce(lane, &values(0, 10)).await;
    }
    let answer = Recovered { topic_partition: lanes[1].clone(), start: offset(6), metadata: "a plan".to_owned() };
    let told = Arc::new(Told { answer: vec![answer], asked: Mutex::default(), ids: Mutex::default() });
    let Some(source) = world.join_with(topic, topic, told.clone()).await else { return };
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.assigned.len() == 3).await;
    assert_eq!(commit(&*source, &[to_commit(&lanes[0], 4, "")]).await, Ok(Vec::new()));
    source.close().await;

    told.asked.lock().expect("not poisoned").clear();
    let ids = std::mem::take(&mut *told.ids.lock().expect("not poisoned"));
    assert!(ids.keys().eq([topic]) && ids.values().all(|id| !id.is_empty()), "{ids:?}");
    let source = world.join_with(topic, topic, told.clone()).await.expect("it had one a moment ago");
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 6 + 4 + 10).await;
    let mut asked = told.asked.lock().expect("not poisoned").clone();
    asked.sort();
    assert_eq!(asked, lanes[1..]);
    assert_eq!(*told.ids.lock().expect("not poisoned"), ids, "a topic keeps its id");
    for (lane, start, metadata, committed) in
        [(&lanes[0], 4, "", true), (&lanes[1], 6, "a plan", false), (&lanes[2], 0, "", false)]
    {
        let (topic_partition, metadata) = (lane.clone(), metadata.to_owned());
        assert_eq!(
            heard.assigned[lane],
            Assigned { topic_partition, start: offset(start), until: None, metadata, committed }
        );
        assert_eq!(heard.values[lane], values(start, 10 - start));
    }
    source.close().await;
}

/// A member that the group does not know any more cannot commit, hears that its partitions are lost, and gets them again.
pub async fn fenced_member_cannot_commit(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 1).await;
    let lane = TopicPartition::new(topic, 0);
    world.produce(&lane, &values(0, 5)).await;
    let source = world.join(topic, topic).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 5).await;
    if !world.fence(topic).await {
        source.close().await;
        return;
    }
    let result = commit(&*source, &[to_commit(&lane, 5, "of a zombie")]).await;
    assert!(matches!(result, Err(CommitError::Fenced(_))), "{result:?}");
    loop {
        let event = next(&*source).await;
        if let Event::Revoked { lost, .. } = &event {
            assert!(*lost, "what is fenced is lost");
            heard.hear(event, false);
            break;
        }
        heard.hear(event, false);
    }
    heard.read(&*source, false, |heard| heard.assigned.len() == 1 && heard.count() == 5).await;
    assert!(!heard.assigned[&lane].committed, "the commit of a fenced member was taken");
    source.close().await;
}
