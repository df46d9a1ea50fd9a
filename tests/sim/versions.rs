//! Records that bring their schema in several versions: which files they come to, whoever dies in between.

use std::time::Duration;

use pipeline::TaskError;
use serde_json::{Value, json};
use tokio::time::sleep;
use writer::{Fate, Request};

use crate::scenarios::{until_first_plan, world};
use crate::worker::Worker;
use crate::world::World;

/// A record as an envelope: `value` under a schema that has a field more in each version.
pub(crate) fn envelope(version: i64, value: &Value) -> String {
    let number = |name: &str, kind: &str| json!({ "field": name, "type": kind });
    let mut fields = vec![number("p", "int32"), number("o", "int64"), number("sv", "int64"), number("v", "double")];
    fields.push(json!({ "field": "color", "type": "string", "optional": true }));
    let more =
        (2..=version).map(|version| json!({ "field": format!("w{version}"), "type": "string", "optional": true }));
    fields.extend(more);
    let mut schema = json!({ "type": "struct", "name": "sim.Record", "fields": fields });
    if version > 0 {
        schema["version"] = version.into();
    }
    json!({ "schema": schema, "payload": value }).to_string()
}

/// Records of these versions, one after the other; each has what its version's newest field says.
fn produce(world: &World, versions: &[i64]) {
    for version in versions {
        let mut fields = json!({ "sv": version, "v": 0.5 });
        if *version > 1 {
            fields[format!("w{version}")] = "new".into();
        }
        world.produce(0, fields);
    }
}

/// The offsets at which files begin.
fn starts(world: &World) -> Vec<i64> {
    world.truth().objects.values().map(|object| object.first).collect()
}

async fn work_off(world: &World) {
    let worker = Worker::start(world, "a");
    sleep(Duration::from_secs(3)).await;
    worker.stop().await;
    world.expect_whole();
}

/// The example of the S3 sink's tests: seven records of alternating versions, two to a file.
#[tokio::test(start_paused = true)]
async fn alternating_versions_begin_files_where_the_s3_sink_begins_them() {
    let alternating = [1, 2, 1, 2, 1, 2, 1];
    for (keys, skipped, versions, expected) in [
        (&[("schema.change.files", "cut")][..], 0, alternating, &[0, 1, 2, 3, 4, 5, 6][..]),
        (&[("schema.compatibility", "BACKWARD")], 0, alternating, &[0, 1, 3, 5]),
        (&[("schema.compatibility", "FULL")], 0, alternating, &[0, 1, 3, 5]),
        (&[("schema.compatibility", "FORWARD")], 1, alternating.map(|version| 3 - version), &[1, 2, 4, 6]),
        (&[("schema.compatibility", "unknown")], 0, alternating, &[0, 1, 2, 3, 4, 5, 6]),
    ] {
        let world = world(&[&[("flush.size", "2")], keys].concat());
        world.skip(0, skipped);
        for version in versions {
            let mut fields = json!({ "sv": version, "v": 0.5 });
            if version == 2 {
                fields["w2"] = "new".into();
            }
            let mut row = fields.clone();
            if keys[0].1 == "FORWARD" && world.end(0) != 1 {
                // What the older schema does not have is dropped.
                row["w2"] = Value::Null;
            }
            world.produce_as(0, fields, row);
        }
        work_off(&world).await;
        assert_eq!(starts(&world), expected, "{keys:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn alternating_versions_share_a_cut_by_default_in_a_file_of_each() {
    let world = world(&[("flush.size", "6")]);
    produce(&world, &[1, 2, 1, 3, 2, 1, 1, 1]);
    work_off(&world).await;
    let files: Vec<(i64, i64, usize)> =
        world.truth().objects.values().map(|object| (object.first, object.end, object.rows.len())).collect();
    assert_eq!(files, [(0, 6, 3), (1, 6, 2), (3, 6, 1), (6, 8, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_comes_to_the_same_files_of_several_versions() {
    for keys in [&[][..], &[("schema.compatibility", "BACKWARD")], &[("schema.change.files", "cut")]] {
        let world = world(&[&[("flush.size", "5")], keys].concat());
        produce(&world, &[2, 1, 1, 2, 1, 1, 2]);
        world.weather().order_store(|request, key| match request {
            Request::Put if key.ends_with("0000000001.snappy.parquet") => Fate::Hang,
            _ => Fate::Fine,
        });
        world.weather().order_commits(until_first_plan());
        let first = Worker::start(&world, "first");
        world.until("a plan", |world| !world.committed(0).1.is_empty()).await;
        sleep(Duration::from_secs(1)).await;
        first.kill().await;
        world.weather().clear();
        work_off(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn more_schemas_than_a_cut_holds_close_it() {
    let world = world(&[("flush.size", "1000")]);
    let versions: Vec<i64> = (1..=101).chain([1, 101]).collect();
    produce(&world, &versions);
    work_off(&world).await;
    let ends: Vec<i64> = world.truth().objects.values().map(|object| object.end).collect();
    assert_eq!(ends.iter().filter(|end| **end == 100).count(), 100);
    assert_eq!(ends.iter().filter(|end| **end == 103).count(), 2, "a file of version 101, and one of version 1");
}

#[tokio::test(start_paused = true)]
async fn open_files_are_counted_with_their_schemas() {
    let world = world(&[("flush.size", "100"), ("partitioner.max.open.files", "2")]);
    produce(&world, &[1, 2, 1, 2, 3, 1]);
    work_off(&world).await;
    assert_eq!(starts(&world), [0, 1, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_version_cannot_be_projected() {
    let world = world(&[("flush.size", "2"), ("schema.compatibility", "BACKWARD"), ("errors.tolerance", "all")]);
    produce(&world, &[1]);
    for _ in 0..2 {
        let at = world.end(0);
        world.produce_bad(0, Some(&envelope(0, &json!({ "p": 0, "o": at, "sv": 0, "v": 0.5 }))));
    }
    produce(&world, &[1]);
    world.weather().order_commits(until_first_plan());
    let first = Worker::start(&world, "first");
    world.until("an object whose end is not committed", |world| !world.files().is_empty()).await;
    first.kill().await;
    world.weather().clear();
    work_off(&world).await;
    assert_eq!(starts(&world), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_projected_fails_a_task_that_tolerates_none() {
    let world = world(&[("flush.size", "2"), ("schema.compatibility", "FORWARD")]);
    produce(&world, &[1]);
    let at = world.produce_bad(0, Some(&envelope(0, &json!({ "p": 0, "o": 1, "sv": 0, "v": 0.5 }))));
    let error = Worker::start(&world, "a").failure().await;
    assert!(matches!(&error, TaskError::Record { rejected, .. } if rejected.stage == model::Stage::TaskPut), "{error}");
    assert!(error.to_string().contains(&format!("t-0@{at}")), "{error}");
    assert!(error.to_string().contains("Schema version required for FORWARD compatibility"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn rows_with_and_without_schemas_do_not_share_a_cut() {
    let world = world(&[("flush.size", "4")]);
    produce(&world, &[1, 2]);
    world.produce(0, json!({ "v": 1 }));
    world.produce(0, json!({ "v": 2 }));
    produce(&world, &[2]);
    work_off(&world).await;
    let ends: Vec<(i64, i64)> = world.truth().objects.values().map(|object| (object.first, object.end)).collect();
    assert_eq!(ends, [(0, 2), (1, 2), (2, 4), (4, 5)]);
}
