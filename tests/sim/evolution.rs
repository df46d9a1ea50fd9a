//! One world for each promise about records: bad ones, tombstones, and schemas that grow.

use std::time::Duration;

use pipeline::TaskError;
use serde_json::{Value, json};
use source::CommitFate;
use tokio::time::sleep;
use writer::{Fate, Request};

use crate::scenarios::{pairs, produce, until_first_plan, world};
use crate::truth::PathOf;
use crate::worker::Worker;
use crate::world::{Make, World};

const ALL: (&str, &str) = ("errors.tolerance", "all");

fn schema_versions(world: &World) -> usize {
    world.truth().trace().iter().filter(|line| line.contains("appears topics/t/_sluice/schema-")).count()
}

/// Runs one worker until everything is committed, then stops it.
async fn work_off(world: &World) {
    let worker = Worker::start(world, "a");
    sleep(Duration::from_secs(3)).await;
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_bad_record_without_tolerance_fails_the_task_and_commits_nothing_after_it() {
    for bad in [Some("{\"p\": 0,"), Some("\u{1}"), Some("[1] 2")] {
        let world = world(&[("flush.size", "2")]);
        produce(&world, 5);
        let at = world.produce_bad(0, bad);
        produce(&world, 5);
        let error = Worker::start(&world, "a").failure().await;
        assert!(matches!(error, TaskError::Record { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(&format!("t-0@{at}")), "{error}");
        assert_eq!(world.committed(0), (4, String::new()), "what was closed before it is visible and committed");
        assert_eq!(world.files().len(), 2);
        world.expect_right();
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_record_in_one_lane_lets_the_others_close_and_commit() {
    let world = World::new(Make { partitions: 2, ..Make::default() });
    world.produce(0, json!({ "v": 1 }));
    world.produce(1, json!({ "v": 1 }));
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(2)).await;
    world.produce_bad(0, Some("no JSON"));
    assert!(matches!(worker.failure().await, TaskError::Record { .. }));
    assert_eq!((world.committed(0).0, world.committed(1).0), (0, 1));
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn bad_records_with_tolerance_are_left_out_and_the_frontier_reaches_the_end() {
    let world = world(&[("flush.size", "2"), ALL]);
    let worker = Worker::start(&world, "a");
    for round in 0..3 {
        produce(&world, 2);
        world.produce_bad(0, Some("no JSON"));
        world.produce_bad(0, Some("{\"v\":"));
        world.until("the end, though nothing is open", World::is_done).await;
        assert_eq!(world.committed(0).0, (round + 1) * 4);
    }
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn only_bad_records_are_committed_too() {
    let world = world(&[ALL]);
    for _ in 0..3 {
        world.produce_bad(0, Some("no JSON"));
    }
    let worker = Worker::start(&world, "a");
    world.until("the end", World::is_done).await;
    worker.stop().await;
    assert!(world.files().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tombstones_are_ignored_when_that_is_said() {
    let world = world(&[("flush.size", "2"), ("behavior.on.null.values", "ignore")]);
    world.produce_bad(0, None);
    produce(&world, 1);
    world.produce_bad(0, None);
    world.produce_bad(0, Some("null"));
    produce(&world, 1);
    world.produce_bad(0, None);
    let worker = Worker::start(&world, "a");
    world.until("the end", World::is_done).await;
    assert_eq!(world.files().len(), 1);
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn tombstones_fail_the_task_by_default_even_with_tolerance() {
    let world = world(&[("flush.size", "2"), ALL]);
    produce(&world, 3);
    let at = world.produce_bad(0, None);
    produce(&world, 3);
    let error = Worker::start(&world, "a").failure().await;
    assert!(error.to_string().contains(&format!("t-0@{at}")), "{error}");
    assert_eq!(world.committed(0), (2, String::new()));
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn offsets_without_records_at_the_end_are_committed() {
    let world = world(&[("flush.size", "2")]);
    produce(&world, 2);
    world.skip(0, 3);
    let worker = Worker::start(&world, "a");
    world.until("the end", World::is_done).await;
    world.skip(0, 2);
    world.until("the end again", World::is_done).await;
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_new_field_extends_the_schema_within_a_cut_of_two_rows() {
    let world = world(&[("flush.size", "2")]);
    let worker = Worker::start(&world, "a");
    world.produce(0, json!({ "v": 1 }));
    sleep(Duration::from_secs(2)).await;
    world.produce(0, json!({ "v": 2, "outputs": { "label": "cat", "scores": [0.25, 1] } }));
    world.until("one file of two rows", World::is_done).await;
    assert_eq!((world.files().len(), schema_versions(&world)), (1, 2));
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn an_integer_field_widens_to_double_within_a_cut() {
    let world = world(&[("flush.size", "3")]);
    let worker = Worker::start(&world, "a");
    world.produce(0, json!({ "v": 1 }));
    sleep(Duration::from_secs(2)).await;
    world.produce(0, json!({ "v": 2.5 }));
    world.produce(0, json!({ "v": 3 }));
    world.until("one file", World::is_done).await;
    assert_eq!(world.truth().rows(0)[0]["v"], Value::from(1.0));
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_field_that_changes_its_type_is_an_error_of_that_record() {
    let world = world(&[("flush.size", "2"), ALL]);
    let worker = Worker::start(&world, "a");
    produce(&world, 1);
    sleep(Duration::from_secs(2)).await;
    world.produce_bad(0, Some(r#"{"p":0,"o":1,"v":"text","new":1}"#));
    produce(&world, 1);
    world.until("one file of the two good rows", World::is_done).await;
    assert_eq!(world.files().len(), 1);
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_first_waits_for_fields_and_is_a_row() {
    let world = world(&[("flush.size", "2")]);
    world.truth().records.insert((0, 0), crate::truth::Record { value: None, is_tombstone: false, time_ms: 0 });
    world.log().produce("t", 0, None, Some(b"{}"), 0, Vec::new());
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_millis(200)).await;
    world.produce(0, json!({ "v": 1 }));
    world.until("one file of both", World::is_done).await;
    worker.stop().await;
    assert_eq!(world.files().len(), 1);
    let trace = world.tail(usize::MAX);
    assert!(trace.contains("a row without p and o: {}"), "{trace}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_alone_is_an_error_of_that_record() {
    let world = world(&[("flush.size", "2")]);
    world.log().produce("t", 0, None, Some(b"{}"), 0, Vec::new());
    let error = Worker::start(&world, "a").failure().await;
    assert!(error.to_string().contains("value.converter.schema"), "{error}");
    assert_eq!(world.committed(0).0, 0);
}

#[tokio::test(start_paused = true)]
async fn two_tasks_that_evolve_the_schema_at_once_agree() {
    let world = World::new(Make { partitions: 2, ..Make::default() });
    let workers = [Worker::start(&world, "a"), Worker::start(&world, "b")];
    world.until("each has one", |world| world.generation() >= 1).await;
    sleep(Duration::from_secs(1)).await;
    world.weather().order_store(|request, key| match request {
        Request::Put if key.contains("_sluice") => Fate::Slow(Duration::from_millis(300)),
        _ => Fate::Fine,
    });
    for round in 0..5 {
        world.produce(0, json!({ format!("a{round}"): 1, "v": round }));
        world.produce(1, json!({ format!("b{round}"): "x", "v": round as f64 + 0.5 }));
        sleep(Duration::from_secs(2)).await;
    }
    for worker in workers {
        worker.stop().await;
    }
    world.expect_whole();
    assert!(schema_versions(&world) >= 10, "each new field is a version");
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_the_stored_schema() {
    let world = world(&[("flush.size", "2")]);
    world.produce(0, json!({ "v": 1, "w": "x" }));
    work_off(&world).await;
    world.produce(0, json!({ "w": "y" }));
    work_off(&world).await;
    assert_eq!(schema_versions(&world), 1);
    // A number there would be another type.
    let at = world.produce_bad(0, Some(r#"{"p":0,"o":2,"w":7}"#));
    let error = Worker::start(&world, "b").failure().await;
    assert!(error.to_string().contains(&format!("t-0@{at}")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_replay_reads_rows_as_the_plan_did_though_the_schema_grew_since() {
    let world = World::new(Make { partitions: 2, pairs: vec![("flush.size", "2".to_owned())], ..Make::default() });
    world.produce(0, json!({ "v": 1 }));
    world.produce(0, json!({ "v": 2 }));
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    world.until("a plan", |world| !world.committed(0).1.is_empty()).await;
    world.produce(1, json!({ "v": 1.5, "grown": true }));
    sleep(Duration::from_secs(2)).await;
    first.kill().await;
    world.weather().clear();
    assert_eq!(schema_versions(&world), 2);
    work_off(&world).await;
    assert!(world.truth().rows(0)[0]["v"].is_i64(), "the version of the plan, not the newest");
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_a_row_whose_empty_field_has_another_type_since() {
    let world = world(&[("flush.size", "3")]);
    let records = [json!({ "v": 1, "x": {} }), json!({ "v": 2, "x": "text" }), json!({ "v": 3 })];
    let first = Worker::start(&world, "first");
    // The second record's field makes the first one no row of the new schema: the cut must have ended.
    for record in &records {
        let row = if record["x"] == json!({}) { json!({ "v": record["v"] }) } else { record.clone() };
        world.produce_as(0, record.clone(), row);
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(world.committed(0).0, 1);
    first.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_grows_ends_the_cut_of_a_partitioner_that_reads_values() {
    let keys = [("flush.size", "9"), ("partitioner.class", "field"), ("partition.field.name", "v"), ALL];
    let path_of: PathOf =
        |_, record, _| format!("v={}", record.value.as_ref().map_or(&Value::Null, |value| &value["v"]));
    let world = World::new(Make { pairs: pairs(&keys), path_of, ..Make::default() });
    let worker = Worker::start(&world, "a");
    produce(&world, 2);
    sleep(Duration::from_secs(2)).await;
    // From here on v is DOUBLE, which makes no path: a replay with that type would leave out the rows before it too.
    world.produce_bad(0, Some(r#"{"p":0,"o":2,"v":0.5}"#));
    world.until("the cut before it", |world| world.committed(0).0 >= 2).await;
    worker.stop().await;
    assert_eq!(world.files().len(), 2);
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn a_replay_leaves_out_the_records_that_were_left_out_before() {
    for bad in [r#"{"mixed":[1,"x"]}"#, r#"{"large":18446744073709551615}"#, r#"{"v":"text"}"#, "no JSON"] {
        let world = world(&[("flush.size", "2"), ALL]);
        produce(&world, 1);
        world.produce_bad(0, Some(bad));
        produce(&world, 1);
        world.weather().order_commits(until_first_plan());
        let first = Worker::start(&world, "first");
        world.until("an object whose end is not committed", |world| !world.files().is_empty()).await;
        first.kill().await;
        world.weather().clear();
        work_off(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_leaves_out_what_another_lane_s_version_made_a_fault() {
    let keys = pairs(&[("rotate.interval.ms", "8000"), ALL]);
    let world = World::new(Make { partitions: 2, pairs: keys, ..Make::default() });
    let first = Worker::start(&world, "first");
    produce(&world, 1);
    sleep(Duration::from_secs(2)).await;
    // The other lane makes `new` a text, so the number that comes next does not fit; the cut's row is older than that.
    world.produce(1, json!({ "new": "text" }));
    sleep(Duration::from_secs(2)).await;
    world.produce_bad(0, Some(r#"{"p":0,"o":1,"v":2,"new":5}"#));
    world.weather().order_commits(|commits| match commits[0].metadata.as_str() {
        "" => CommitFate::Refuse,
        _ => CommitFate::Apply,
    });
    world.until("an object whose end is not committed", |world| !world.files().is_empty()).await;
    first.kill().await;
    world.weather().clear();
    work_off(&world).await;
}
