//! Worlds about who owns what: cooperative and KIP-848 groups, static members, topics that appear, crashes at every step.

use std::time::Duration;

use pipeline::Wanted;
use serde_json::json;
use source::Protocol;
use tokio::time::sleep;
use writer::{Fate, Request};

use crate::actions::Action;
use crate::scenarios::{pairs, produce};
use crate::worker::Worker;
use crate::world::{Make, World};

const INCREMENTAL: [Protocol; 2] = [Protocol::Cooperative, Protocol::Server];

/// How often lane `number` was assigned to anybody.
fn assignments(world: &World, number: i32) -> usize {
    let lane = format!("\"t-{number}@");
    world.truth().trace().iter().filter(|line| line.contains("is assigned") && line.contains(&lane)).count()
}

#[tokio::test(start_paused = true)]
async fn lanes_that_are_kept_go_on_with_their_open_files() {
    for protocol in INCREMENTAL {
        let world =
            World::new(Make { partitions: 4, protocol, pairs: pairs(&[("flush.size", "4")]), ..Make::default() });
        let first = Worker::start(&world, "first");
        sleep(Duration::from_secs(1)).await;
        for lane in 0..4 {
            world.produce(lane, json!({ "v": 1 }));
            world.produce(lane, json!({ "v": 2 }));
        }
        sleep(Duration::from_secs(2)).await;
        let second = Worker::start(&world, "second");
        sleep(Duration::from_secs(5)).await;
        assert_eq!(
            (world.committed(0).0, world.committed(3).0),
            (0, 2),
            "{protocol:?}: what goes is closed, the rest not"
        );
        for lane in 0..4 {
            world.produce(lane, json!({ "v": 3 }));
            world.produce(lane, json!({ "v": 4 }));
        }
        world.until("kept lanes have one file of four", |world| world.committed(0).0 == 4).await;
        assert_eq!(assignments(&world, 0), 1, "{protocol:?}: it was never read again");
        assert!(world.truth().tally.of(Action::Revoked) == 1, "{protocol:?}: only what moves is revoked");
        first.stop().await;
        sleep(Duration::from_secs(2)).await;
        second.stop().await;
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_moves_while_its_objects_are_slow_is_finished_by_either() {
    for protocol in INCREMENTAL {
        // Within the time for letting go, and beyond it.
        for slow in [1_500, 30_000] {
            let keys = pairs(&[("flush.size", "2")]);
            let world = World::new(Make { partitions: 2, protocol, pairs: keys, ..Make::default() });
            for lane in 0..2 {
                world.produce(lane, json!({ "v": 1 }));
                world.produce(lane, json!({ "v": 2 }));
            }
            world.weather().order_store(move |request, key| match request {
                Request::Put if key.ends_with(".parquet") => Fate::Slow(Duration::from_millis(slow)),
                _ => Fate::Fine,
            });
            let first = Worker::start(&world, "first");
            world.until("both plans", |world| (0..2).all(|lane| !world.committed(lane).1.is_empty())).await;
            let second = Worker::start(&world, "second");
            sleep(Duration::from_secs(15)).await;
            world.weather().clear();
            sleep(Duration::from_secs(40)).await;
            first.stop().await;
            second.stop().await;
            world.expect_whole();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_static_member_that_comes_back_replays_its_own_plans_and_nobody_else_notices() {
    for protocol in [Protocol::Eager, Protocol::Cooperative, Protocol::Server] {
        let keys = pairs(&[("flush.size", "2")]);
        let world = World::new(Make { partitions: 2, protocol, is_static: true, pairs: keys, ..Make::default() });
        let workers = [Worker::start(&world, "a.1"), Worker::start(&world, "b.1")];
        sleep(Duration::from_secs(3)).await;
        let generation = world.generation();
        world.weather().order_store(|request, key| match request {
            Request::Put if key.ends_with(".parquet") => Fate::HangThenHappen(Duration::from_secs(8)),
            _ => Fate::Fine,
        });
        for lane in 0..2 {
            world.produce(lane, json!({ "v": 1 }));
            world.produce(lane, json!({ "v": 2 }));
        }
        world.until("both plans", |world| (0..2).all(|lane| !world.committed(lane).1.is_empty())).await;
        let [a, b] = workers;
        a.crash();
        world.weather().clear();
        let a = Worker::start(&world, "a.2");
        world.until("all is committed", World::is_done).await;
        assert_eq!(world.generation(), generation, "{protocol:?}: no rebalance");
        // What the dead one sent arrives.
        sleep(Duration::from_secs(10)).await;
        a.stop().await;
        b.stop().await;
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn topics_and_partitions_that_appear_are_read_under_a_pattern() {
    for protocol in [Protocol::Eager, Protocol::Cooperative, Protocol::Server] {
        let world = World::new(Make {
            partitions: 1,
            by_pattern: true,
            protocol,
            pairs: pairs(&[("flush.size", "2")]),
            ..Make::default()
        });
        let workers = [Worker::start(&world, "a"), Worker::start(&world, "b")];
        produce(&world, 3);
        sleep(Duration::from_secs(2)).await;
        world.add_lane(1);
        world.add_lane(100);
        for lane in [1, 100] {
            for value in 0..2 {
                world.produce(lane, json!({ "v": value, "w": lane }));
            }
        }
        world.until("two more files", |world| world.committed(1).0 == 2 && world.committed(100).0 == 2).await;
        for worker in workers {
            worker.stop().await;
        }
        assert!(world.files().contains(&"topics/t1/partition=0/t1+0+0000000000.snappy.parquet".to_owned()));
        world.expect_whole();
    }
}

/// One worker dies after each number of polls of its task; the next one finishes.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_poll_loses_and_repeats_nothing() {
    for conditional in [true, false] {
        let mut polls = 0;
        loop {
            let keys = pairs(&[("flush.size", "3")]);
            let world = World::new(Make { partitions: 2, pairs: keys, batch_rows: 2, conditional, ..Make::default() });
            let mortal = Worker::start(&world, "mortal");
            mortal.crash_after(polls);
            for value in 0..7 {
                world.produce(value % 2, json!({ "v": value }));
            }
            sleep(Duration::from_secs(3)).await;
            mortal.ask(Wanted::Stop);
            let member = mortal.member;
            let has_died = mortal.ended().await.is_none();
            world.log().kill(member);
            let heir = Worker::start(&world, "heir");
            sleep(Duration::from_secs(3)).await;
            heir.stop().await;
            world.expect_whole();
            if !has_died {
                break;
            }
            polls += 1;
        }
        assert!(polls > 20, "{polls} polls are a short life");
    }
}
