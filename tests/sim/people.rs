//! Worlds about what people and time do to a group: offsets set back or forgotten, records removed, settings changed.

use std::time::Duration;

use pipeline::TaskError;
use serde_json::json;
use tokio::time::sleep;
use writer::{Fate, Request};

use crate::actions::Action;
use crate::scenarios::{pairs, produce, world};
use crate::truth::{PathOf, Record};
use crate::worker::Worker;
use crate::world::{Make, World};

fn color(_: i32, record: &Record, _: i64) -> String {
    let color = record.value.as_ref().and_then(|value| value["color"].as_str());
    format!("color={}", color.unwrap_or_default())
}

/// A world whose cuts of six records have three files each.
fn colors(partitions: i32) -> World {
    let keys = [("flush.size", "6"), ("partitioner.class", "field"), ("partition.field.name", "color")];
    let path_of: PathOf = color;
    World::new(Make { partitions, pairs: pairs(&keys), path_of, ..Make::default() })
}

fn produce_colors(world: &World, number: i32, rounds: usize) {
    for _ in 0..rounds {
        for color in ["red", "green", "blue"] {
            world.produce(number, json!({ "color": color }));
        }
    }
}

pub(crate) async fn work_off(world: &World, name: &str) {
    let worker = Worker::start(world, name);
    sleep(Duration::from_secs(5)).await;
    worker.stop().await;
}

/// Six records in files of three, all committed; then the offset is set back by a person.
async fn set_back(on_existing: &'static str) -> World {
    let world = world(&[("flush.size", "3"), ("on.existing.object", on_existing)]);
    produce(&world, 6);
    work_off(&world, "first").await;
    assert!(world.is_done());
    world.set_back(0, 0);
    world
}

#[tokio::test(start_paused = true)]
async fn a_range_processed_again_stops_at_the_first_object_by_default() {
    let world = set_back("fail").await;
    let error = Worker::start(&world, "second").failure().await;
    assert!(!error.is_transient() && error.to_string().contains("on.existing.object"), "{error}");
    assert_eq!(world.files().len(), 2);
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn a_range_processed_again_is_skipped_or_overwritten_if_that_is_asked_for() {
    for mode in ["skip", "overwrite"] {
        let world = set_back(mode).await;
        world.truth().may_replace = true;
        work_off(&world, "second").await;
        produce(&world, 3);
        work_off(&world, "third").await;
        assert_eq!(world.files().len(), 3, "{mode}");
        assert_eq!(world.truth().replaced.len(), if mode == "skip" { 0 } else { 2 }, "{mode}");
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn skipping_never_loses_rows_when_cuts_end_elsewhere() {
    let world = set_back("skip").await;
    // A file of five rows does not stand behind one of three.
    world.set("flush.size", "5".to_owned());
    let error = Worker::start(&world, "second").failure().await;
    assert!(error.to_string().contains("would lose rows"), "{error}");
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn a_lost_group_goes_on_after_the_newest_objects() {
    let world = colors(2);
    world.set_recovers();
    for number in 0..2 {
        produce_colors(&world, number, 2);
    }
    work_off(&world, "first").await;
    assert!(world.is_done());
    world.lose_group();
    produce_colors(&world, 0, 2);
    work_off(&world, "second").await;
    assert!(world.truth().tally.of(Action::LaneRecovered) >= 2);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_lost_group_finishes_the_cut_that_is_visible_in_part() {
    for visible in ["red", "green", "blue"] {
        let world = colors(1);
        world.set_recovers();
        produce_colors(&world, 0, 2);
        world.weather().order_store(move |request, key| match request {
            Request::Put if key.ends_with(".parquet") && !key.contains(visible) => Fate::Hang,
            _ => Fate::Fine,
        });
        let first = Worker::start(&world, "first");
        world.until("one file", |world| world.files().len() == 1).await;
        first.kill().await;
        world.weather().clear();
        world.lose_group();
        produce_colors(&world, 0, 1);
        // Another rule would end the cut elsewhere; the plan of the visible object does not ask it.
        world.set("flush.size", "1".to_owned());
        work_off(&world, "second").await;
        assert_eq!(world.truth().tally.of(Action::PlanRecovered), 1, "{visible}");
        world.expect_whole();
    }
}

/// Two lanes of four records each, all in objects; then the topic is another one, `running` or not.
async fn another_topic(keys: &[(&'static str, &str)], running: bool) -> (World, Option<Worker>) {
    let world = World::new(Make { partitions: 2, pairs: pairs(keys), ..Make::default() });
    world.set_recovers();
    let worker = Worker::start(&world, "first");
    for value in 0..4 {
        for lane in 0..2 {
            world.produce(lane, json!({ "v": value }));
        }
    }
    world.until("four objects", World::is_done).await;
    if running {
        world.recreate_topic();
        return (world, Some(worker));
    }
    worker.stop().await;
    world.recreate_topic();
    (world, None)
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_created_again_stops_the_task_before_it_passes_over_records() {
    for running in [false, true] {
        let (world, worker) = another_topic(&[("flush.size", "2")], running).await;
        // Not part of the truth, which would ask for them. The log is longer than the one before.
        for _ in 0..6 {
            world.log().produce("t", 0, None, Some(b"{}"), 0, Vec::new());
        }
        for worker in worker.into_iter().chain([Worker::start(&world, "second"), Worker::start(&world, "third")]) {
            let error = worker.failure().await;
            assert!(matches!(&error, TaskError::Data(why) if why.contains("on.data.loss")), "{running}: {error:?}");
        }
        assert_eq!(world.files().len(), 4);
        assert_eq!(world.committed(0).0, 0);
        world.expect_right();
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_created_again_is_read_from_its_first_record_if_data_may_be_lost() {
    for running in [false, true] {
        let keys = [("flush.size", "2"), ("on.data.loss", "continue"), ("on.existing.object", "overwrite")];
        let (world, worker) = another_topic(&keys, running).await;
        world.truth().may_replace = true;
        for value in 0..6 {
            for lane in 0..2 {
                world.produce(lane, json!({ "v": 100 + value }));
            }
        }
        let others = [Worker::start(&world, "second"), Worker::start(&world, "third")];
        sleep(Duration::from_secs(10)).await;
        for worker in others.into_iter().chain(worker) {
            worker.stop().await;
        }
        assert_eq!(world.truth().tally.of(Action::LaneRecovered), 0, "{running}");
        assert_eq!((world.files().len(), world.truth().replaced.len()), (6, 4), "{running}");
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn retention_that_ate_the_next_record_stops_the_task_or_is_passed() {
    for fails in [true, false] {
        let world = world(&[("flush.size", "2")]);
        world.log().set_data_loss_fails(fails);
        produce(&world, 4);
        work_off(&world, "first").await;
        produce(&world, 4);
        world.retain_from(0, 6);
        if fails {
            let error = Worker::start(&world, "second").failure().await;
            assert!(matches!(error, TaskError::Data(_)) && error.to_string().contains("offset 6"), "{error:?}");
            assert_eq!(world.committed(0).0, 4);
            world.log().set_data_loss_fails(false);
        }
        work_off(&world, "third").await;
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn retention_that_ate_records_of_a_plan_stops_the_task() {
    let world = colors(1);
    world.log().set_data_loss_fails(false);
    produce_colors(&world, 0, 2);
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    world.until("a plan", World::has_plan).await;
    first.kill().await;
    world.weather().clear();
    let before = world.committed(0);
    world.retain_from(0, 5);
    let error = Worker::start(&world, "second").failure().await;
    assert!(!error.is_transient() && error.to_string().contains("was planned as 3 files"), "{error}");
    assert_eq!(world.committed(0), before, "the plan is still there");
    assert!(world.files().is_empty());
}

/// A worker dies with a plan; settings are others when the next one starts.
async fn dies_with_a_plan(world: &World) {
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(world, "first");
    world
        .until("a plan of each lane", |world| world.lanes().iter().all(|lane| !world.committed(*lane).1.is_empty()))
        .await;
    first.kill().await;
    world.weather().clear();
}

#[tokio::test(start_paused = true)]
async fn settings_that_shape_nothing_change_while_a_plan_is_pending() {
    let world = world(&[("flush.size", "4")]);
    produce(&world, 7);
    dies_with_a_plan(&world).await;
    world.set("flush.size", "1".to_owned());
    work_off(&world, "second").await;
    assert_eq!(world.files().len(), 4, "the planned one of four, then three of one");
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn settings_that_shape_objects_must_wait_for_the_plan() {
    let world = world(&[("flush.size", "4")]);
    produce(&world, 7);
    dies_with_a_plan(&world).await;
    world.reshape(1);
    let before = world.committed(0);
    let error = Worker::start(&world, "second").failure().await;
    assert!(matches!(error, TaskError::OtherSettings { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(world.committed(0), before);
    world.reshape(0);
    work_off(&world, "third").await;
    world.reshape(1);
    produce(&world, 2);
    work_off(&world, "fourth").await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_plan_of_other_settings_lets_the_other_lanes_finish_first() {
    let world = World::new(Make { partitions: 2, pairs: pairs(&[("flush.size", "4")]), ..Make::default() });
    for value in 0..4 {
        world.produce(0, json!({ "v": value }));
    }
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    world.until("a plan of the first lane", World::has_plan).await;
    first.kill().await;
    world.weather().clear();
    for value in 0..4 {
        world.produce(1, json!({ "v": value }));
    }
    world.reshape(1);
    let error = Worker::start(&world, "second").failure().await;
    assert!(error.to_string().contains("t-0") && error.to_string().contains("settings"), "{error}");
    assert!(world.has_plan(), "the plan waits for its settings");
    world.reshape(0);
    work_off(&world, "third").await;
    world.expect_whole();
}

/// Several cuts must be made again and each of them fills the memory: they must not wait for each other.
#[tokio::test(start_paused = true)]
async fn several_replays_under_a_small_budget_do_not_wait_for_each_other() {
    // All lanes replay, or two of four.
    for replays in [4, 2] {
        let keys = [("flush.size", "200"), ("partitioner.class", "field"), ("partition.field.name", "color")];
        let path_of: PathOf = color;
        let world = World::new(Make {
            partitions: 4,
            pairs: pairs(&keys),
            path_of,
            budget_bytes: 20_000,
            batch_rows: 20,
            ..Make::default()
        });
        world.weather().order_store(|request, key| match request {
            Request::Put if key.ends_with(".parquet") => Fate::Hang,
            _ => Fate::Fine,
        });
        for number in 0..replays {
            // One after the other: the budget is small for the first life too.
            produce_colors(&world, number, 70);
            let first = Worker::start(&world, "first");
            world.until("its plan", |world| !world.committed(number).1.is_empty()).await;
            first.kill().await;
        }
        for number in replays..4 {
            produce_colors(&world, number, 70);
        }
        world.weather().clear();
        let second = Worker::start(&world, "second");
        sleep(Duration::from_secs(120)).await;
        second.stop().await;
        let wrong = world.verdict(true);
        let wrong: Vec<_> = wrong.iter().filter(|one| one.oracle != crate::oracle::Oracle::Memory).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{}", world.tail(60));
    }
}
