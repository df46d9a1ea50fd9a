//! One world for each promise of the protocol: what is planned, published and committed, whoever dies in between.

use std::time::Duration;

use model::Offset;
use pipeline::{Doing, TaskError, Wanted};
use serde_json::json;
use source::{Commit, CommitFate};
use tokio::time::sleep;
use writer::{Fate, FileLimits, Request};

use crate::recipe::Pairs;
use crate::worker::Worker;
use crate::world::{GROUP, Make, World};

/// Keys and values of a connector.
pub(crate) fn pairs(pairs: &[(&'static str, &str)]) -> Pairs {
    pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

/// A world of one partition whose connector has these keys.
pub(crate) fn world(keys: &[(&'static str, &str)]) -> World {
    World::new(Make { pairs: pairs(keys), ..Make::default() })
}

/// `count` records `{"p", "o", "v"}` in partition 0.
pub(crate) fn produce(world: &World, count: usize) {
    for value in 0..count {
        world.produce(0, json!({ "v": value }));
    }
}

fn key(first: i64) -> String {
    format!("topics/t/partition=0/t+0+{first:010}.snappy.parquet")
}

fn is_data(key: &str) -> bool {
    key.ends_with(".parquet")
}

/// Orders that take commits up to the first plan and refuse all others.
pub(crate) fn until_first_plan() -> impl FnMut(&[Commit]) -> CommitFate + Send + 'static {
    let mut is_planned = false;
    move |commits| {
        let fate = if is_planned { CommitFate::Refuse } else { CommitFate::Apply };
        is_planned |= commits.iter().any(|commit| !commit.metadata.is_empty());
        fate
    }
}

/// Waits until the group holds a plan.
async fn planned(world: &World) {
    world.until("a plan in the group", |world| !world.committed(0).1.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn two_records_a_file_as_flush_size_says() {
    let world = world(&[("flush.size", "2")]);
    produce(&world, 5);
    let worker = Worker::start(&world, "a");
    world.until("two files", |world| world.committed(0).0 == 4).await;
    assert_eq!(world.files(), [key(0), key(2)]);
    worker.stop().await;
    assert_eq!(world.files(), [key(0), key(2), key(4)], "a stop closes and commits what is open");
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn revoke_while_uploading_does_not_lose_or_duplicate() {
    let world = world(&[("flush.size", "4")]);
    produce(&world, 10);
    world.weather().order_store(|request, key| match request {
        Request::Put if is_data(key) => Fate::Slow(Duration::from_millis(1_500)),
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    planned(&world).await;
    let second = Worker::start(&world, "second");
    world.until("another generation", |world| world.generation() >= 2).await;
    assert_eq!(world.committed(0), (10, String::new()), "what was open is closed and committed before it is given up");
    produce(&world, 3);
    world.weather().clear();
    first.stop().await;
    world.until("the rest is read", |world| world.generation() >= 3).await;
    sleep(Duration::from_secs(2)).await;
    second.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn crash_between_plan_and_publish_replays_the_same_objects() {
    let world = world(&[("flush.size", "3")]);
    produce(&world, 5);
    world.weather().order_store(|request, key| match request {
        Request::Put if is_data(key) => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    planned(&world).await;
    let (start, plan) = world.committed(0);
    first.kill().await;
    assert!(world.files().is_empty());
    world.weather().clear();
    produce(&world, 4);
    // More records are there now and another rotation rule: the planned cut ends where it was planned all the same.
    let second = Worker::start(&world, "second");
    world.until("the replay", |world| world.committed(0).0 >= 3).await;
    let (range, plan) = model::Plan::from_metadata(Offset::new(start).unwrap(), &plan).unwrap().unwrap();
    {
        let truth = world.truth();
        let object = &truth.objects[&key(0)];
        assert_eq!((object.end, &object.nonce), (range.end().get(), &plan.nonce.to_string()));
    }
    second.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn crash_between_publish_and_commit_changes_no_object() {
    let world = world(&[("flush.size", "3")]);
    produce(&world, 3);
    world.weather().order_commits(until_first_plan());
    let first = Worker::start(&world, "first");
    world.until("the object", |world| !world.files().is_empty()).await;
    first.kill().await;
    assert_eq!(world.committed(0).0, 0);
    world.weather().clear();
    let second = Worker::start(&world, "second");
    world.until("the commit", World::is_done).await;
    second.stop().await;
    assert_eq!(world.files(), [key(0)]);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn unknown_commit_makes_the_task_rejoin() {
    for fate in [
        CommitFate::LoseReportUnknown,
        CommitFate::ApplyReportUnknown,
        CommitFate::DelayReportUnknown(Some(Duration::from_secs(5))),
    ] {
        // The commit of the lane's start, of the plan, and of the cut's end.
        for unknown in [1, 2, 3] {
            let world = world(&[("flush.size", "3")]);
            produce(&world, 7);
            let mut commits = 0;
            world.weather().order_commits(move |_| {
                commits += 1;
                if commits == unknown { fate } else { CommitFate::Apply }
            });
            let worker = Worker::start(&world, "a");
            world.until("a new membership", |world| world.generation() == 2).await;
            world.until("two cuts", |world| world.committed(0).0 == 6).await;
            sleep(Duration::from_secs(10)).await;
            worker.stop().await;
            world.expect_whole();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn zombie_cannot_commit_or_overwrite() {
    let world = world(&[("flush.size", "3")]);
    produce(&world, 3);
    world.weather().order_store(|request, key| match request {
        Request::Put if is_data(key) => Fate::HangThenHappen(Duration::from_secs(30)),
        _ => Fate::Fine,
    });
    let zombie = Worker::start(&world, "zombie");
    planned(&world).await;
    world.log().kill(zombie.member);
    world.weather().clear();
    let heir = Worker::start(&world, "heir");
    world.until("the heir has replayed the plan", World::is_done).await;
    produce(&world, 3);
    world.until("both have read on", |world| world.committed(0).0 == 6).await;
    // The zombie's request arrives; it hears that it is out when it commits.
    world.until("the zombie is a member again", |world| world.generation() >= 3).await;
    sleep(Duration::from_secs(40)).await;
    zombie.stop().await;
    heir.stop().await;
    assert_eq!(world.files(), [key(0), key(3)]);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_through_a_rebalance_reads_everything_again() {
    let world = world(&[("rotate.interval.ms", "4000")]);
    produce(&world, 10);
    let frozen = Worker::start(&world, "frozen");
    sleep(Duration::from_secs(1)).await;
    frozen.freeze(Duration::from_secs(15));
    let other = Worker::start(&world, "other");
    world.until("the group did not wait", |world| world.generation() == 2).await;
    produce(&world, 10);
    // It hears that it lost the partition and that it has it again in one breath.
    world.until("one lane of it reads everything", World::is_done).await;
    frozen.stop().await;
    other.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn quiet_topic_closes_its_last_file_by_schedule() {
    let world = world(&[("flush.size", "2"), ("rotate.schedule.interval.ms", "20000")]);
    produce(&world, 3);
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(19)).await;
    assert_eq!(world.committed(0).0, 2);
    sleep(Duration::from_secs(2)).await;
    assert!(world.is_done(), "the schedule is over at 11:00:00");
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn quiet_topic_closes_its_last_file_by_rotate_interval() {
    let world = world(&[("rotate.interval.ms", "5000"), ("partitioner.class", "hourly")]);
    let worker = Worker::start(&world, "a");
    produce(&world, 3);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(world.committed(0).0, 0);
    sleep(Duration::from_secs(2)).await;
    assert!(world.is_done());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_back_only_delays_the_schedule() {
    let world = world(&[("rotate.schedule.interval.ms", "10000")]);
    let worker = Worker::start(&world, "a");
    produce(&world, 3);
    sleep(Duration::from_secs(8)).await;
    world.jump(-60_000);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.committed(0).0, 0);
    world.jump(60_000);
    sleep(Duration::from_secs(6)).await;
    assert!(world.is_done(), "the clock is looked at every few seconds");
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn drain_closes_and_commits_open_files_and_leaves_no_upload() {
    let limits = FileLimits { part_bytes: 500, rows_bytes: 300, row_group_bytes: 300, row_group_rows: 3 };
    let keys = pairs(&[("partitioner.class", "field"), ("partition.field.name", "color")]);
    let world = World::new(Make {
        partitions: 3,
        pairs: keys,
        limits,
        batch_rows: 6,
        path_of: |_, record, _| {
            let color = record.value.as_ref().and_then(|value| value["color"].as_str());
            format!("color={}", color.unwrap_or_default())
        },
        ..Make::default()
    });
    for number in 0..240 {
        let color = if number % 2 == 0 { "red" } else { "blue" };
        world.produce(number % 3, json!({ "color": color, "v": number }));
    }
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(3)).await;
    assert!(world.files().is_empty() && world.objects().open_uploads().len() == 6, "parts go up while files grow");
    worker.stop().await;
    assert_eq!(world.files().len(), 6);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_while_stops_nothing() {
    let world = world(&[("flush.size", "5")]);
    let worker = Worker::start(&world, "a");
    produce(&world, 12);
    sleep(Duration::from_secs(1)).await;
    world.weather().order_store(|_, _| Fate::Hang);
    produce(&world, 12);
    sleep(Duration::from_secs(60)).await;
    world.weather().clear();
    world.until("it goes on", |world| world.committed(0).0 == 20).await;
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn pause_keeps_files_open_and_resume_goes_on() {
    let world = world(&[("flush.size", "4")]);
    produce(&world, 2);
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(2)).await;
    worker.ask(Wanted::Pause);
    sleep(Duration::from_secs(1)).await;
    produce(&world, 6);
    sleep(Duration::from_secs(20)).await;
    assert_eq!((worker.doing(), world.committed(0).0), (Doing::Paused, 0));
    worker.ask(Wanted::Run);
    world.until("it reads on", |world| world.committed(0).0 == 8).await;
    assert_eq!((worker.doing(), world.files()), (Doing::Running, vec![key(0), key(4)]));
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn memory_pressure_cuts_the_largest_lane() {
    let world = World::new(Make { partitions: 2, budget_bytes: 300_000, batch_rows: 10, ..Make::default() });
    world.produce(1, json!({ "v": "small" }));
    let worker = Worker::start(&world, "a");
    for number in 0..1_500 {
        world.produce(0, json!({ "v": format!("{number:0>200}") }));
    }
    world.until("the large lane is cut", |world| world.committed(0).0 > 0).await;
    assert_eq!(world.committed(1).0, 0, "the small one is left alone");
    sleep(Duration::from_secs(20)).await;
    worker.stop().await;
    assert!(world.files().len() > 2, "{:?}", world.files());
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_plan_made_under_other_settings_stops_the_task_with_a_clear_error() {
    let world = world(&[("flush.size", "3")]);
    produce(&world, 3);
    world.weather().order_store(|request, key| match request {
        Request::Put if is_data(key) => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    planned(&world).await;
    first.kill().await;
    world.weather().clear();
    let before = world.committed(0);
    let other = Worker::start_with(&world, "other", pairs(&[("flush.size", "3"), ("topics.dir", "elsewhere")]), GROUP);
    let error = other.failure().await;
    assert!(matches!(error, TaskError::OtherSettings { .. }) && !error.is_transient(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("[0, 3) of t-0 was planned under other settings"), "{text}");
    assert_eq!(world.committed(0), before, "the plan is still there");
    let again = Worker::start(&world, "again");
    world.until("the old settings finish it", World::is_done).await;
    again.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_stops_the_lane_and_is_not_touched() {
    let world = world(&[("flush.size", "3")]);
    produce(&world, 3);
    let first = Worker::start(&world, "first");
    world.until("one object", World::is_done).await;
    first.stop().await;
    // Another connector with the same directory reads the topic from its start.
    let second = Worker::start_with(&world, "second", pairs(&[("flush.size", "2")]), "connect-other");
    let error = second.failure().await;
    let text = error.to_string();
    assert!(!error.is_transient() && text.contains(&key(0)) && text.contains("not ours"), "{text}");
}
