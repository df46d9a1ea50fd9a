//! Where reading begins and ends: [`Bounds`], topic-partitions by name, and an authority that the log has left behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::{Offset, TopicPartition};

use super::{Heard, World, commit, offset, to_commit, values};
use crate::{Bounds, Error, MovedBack, Recovered, Recovery, StartAt, Starting, Subscription};

/// Where nothing is committed, reading begins where the bounds say: for a topic-partition by its name, else for all others;
/// at the end only for what was there when the connector started first.
pub(super) async fn begins_where_it_is_told_once(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 3).await;
    let lanes: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new(topic, partition)).collect();
    for lane in &lanes {
        world.produce(lane, &values(0, 10)).await;
    }
    let each = [(lanes[0].clone(), StartAt::Offset(offset(4))), (lanes[1].clone(), StartAt::Earliest)].into();
    let starting = Starting { each, ..Starting::all(StartAt::Latest) };
    let bounds = Bounds { starting: Some(starting), until_end: false };
    let read = || Subscription::Topics(vec![topic.to_owned()]);
    let source = world.join_within(topic, read(), bounds.clone()).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 6 + 10).await;
    let starts = |heard: &Heard| lanes.iter().map(|lane| heard.assigned[lane].start.get()).collect::<Vec<_>>();
    assert_eq!(starts(&heard), [4, 0, 10]);
    assert!(heard.assigned.values().all(|one| !one.committed && one.until.is_none()));
    assert_eq!(commit(&*source, &[to_commit(&lanes[0], 7, "")]).await, Ok(Vec::new()));
    source.close().await;

    let source = world.join_within(topic, read(), bounds).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.assigned.len() == 3).await;
    assert_eq!(starts(&heard), [7, 0, 0], "the last one appeared after the first start, for all that is known");
    source.close().await;
}

/// Of a topic only the topic-partitions that are named are read.
pub(super) async fn reads_only_what_is_assigned_by_name(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 3).await;
    let lanes: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new(topic, partition)).collect();
    for lane in &lanes {
        world.produce(lane, &values(0, 10)).await;
    }
    let read = Subscription::Partitions([lanes[0].clone(), lanes[2].clone()].into());
    let source = world.join_within(topic, read, Bounds::default()).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 20).await;
    world.produce(&lanes[1], &values(10, 5)).await;
    world.produce(&lanes[2], &values(10, 5)).await;
    heard.read(&*source, false, |heard| heard.count() == 25).await;
    assert!(heard.assigned.keys().eq([&lanes[0], &lanes[2]]), "{:?}", heard.assigned.keys());
    assert_eq!(heard.values[&lanes[2]], values(0, 15));
    source.close().await;
}

/// Each topic-partition ends where its log ended when the source started, and the source is exhausted when the group has
/// committed that everywhere, whoever did it; what comes later changes nothing.
pub(super) async fn is_exhausted_when_all_that_was_there_is_committed(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 3).await;
    let lanes: Vec<TopicPartition> = (0..3).map(|partition| TopicPartition::new(topic, partition)).collect();
    world.produce(&lanes[0], &values(0, 10)).await;
    world.produce(&lanes[1], &values(0, 4)).await;
    let bounds = Bounds { starting: None, until_end: true };
    let read = || Subscription::Topics(vec![topic.to_owned()]);
    let source = world.join_within(topic, read(), bounds.clone()).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 14).await;
    let until: Vec<_> = lanes.iter().map(|lane| heard.assigned[lane].until).collect();
    assert_eq!(until, [10, 4, 0].map(|end| Some(offset(end))));
    world.produce(&lanes[2], &values(0, 3)).await;
    assert!(!source.is_exhausted().await.expect("it can be said"));
    assert_eq!(commit(&*source, &[to_commit(&lanes[0], 10, ""), to_commit(&lanes[1], 3, "")]).await, Ok(Vec::new()));
    assert!(!source.is_exhausted().await.expect("it can be said"));
    assert_eq!(commit(&*source, &[to_commit(&lanes[1], 4, "")]).await, Ok(Vec::new()));
    assert!(source.is_exhausted().await.expect("it can be said"));
    source.close().await;

    // The next start reads what came meanwhile.
    let source = world.join_within(topic, read(), bounds).await;
    let mut heard = Heard::default();
    heard.read(&*source, false, |heard| heard.count() == 3).await;
    assert!(!source.is_exhausted().await.expect("it can be said"));
    source.close().await;
}

/// Knows that a topic-partition goes on at an offset, and takes note when it is told otherwise.
struct Knows {
    lane: TopicPartition,
    at: Mutex<Offset>,
    moves: Mutex<Vec<MovedBack>>,
}

#[async_trait]
impl Recovery for Knows {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        _topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, Error> {
        let start = *self.at.lock().expect("no test panics while it holds this lock");
        let recovered = Recovered { topic_partition: self.lane.clone(), start, metadata: String::new() };
        Ok(if partitions.contains(&self.lane) { vec![recovered] } else { Vec::new() })
    }

    fn is_authority(&self) -> bool {
        true
    }

    async fn move_back(&self, moves: &[MovedBack]) -> Result<(), Error> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.moves.lock().expect("no test panics while it holds this lock").extend(moves.iter().cloned());
        *self.at.lock().expect("no test panics while it holds this lock") = moves[0].to;
        Ok(())
    }
}

/// An authority whose offset lies past the log is told where reading goes on before it does; one whose offset the log holds
/// is not.
pub(super) async fn moves_back_an_authority_that_knows_more_than_the_log(world: &mut dyn World, topic: &str) {
    world.create_topic(topic, 1).await;
    let lane = TopicPartition::new(topic, 0);
    world.produce(&lane, &values(0, 10)).await;
    let knows = Arc::new(Knows { lane: lane.clone(), at: Mutex::new(offset(500)), moves: Mutex::default() });
    let moves = || knows.moves.lock().expect("not poisoned").clone();
    let expected = [MovedBack { topic_partition: lane.clone(), from: offset(500), to: Offset::ZERO }];
    for _ in 0..2 {
        let source = world.join_lossy(topic, topic, knows.clone()).await;
        let mut heard = Heard::default();
        heard.read(&*source, false, |heard| heard.assigned.len() == 1).await;
        assert_eq!(moves(), expected, "once");
        heard.read(&*source, false, |heard| heard.count() == 10).await;
        assert_eq!((heard.assigned[&lane].start, heard.assigned[&lane].committed), (Offset::ZERO, false));
        source.close().await;
    }
}
