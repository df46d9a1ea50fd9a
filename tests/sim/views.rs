//! Worlds of files beside those of values: keys, headers, tombstones, and columns of Kafka.

use serde_json::json;
use writer::{Fate, Request};

use crate::actions::Action;
use crate::people::work_off;
use crate::read::Of;
use crate::recipe::Pairs;
use crate::scenarios::pairs;
use crate::truth::PathOf;
use crate::worker::Worker;
use crate::world::{Make, World};

const TRIO: [(&str, &str); 6] = [
    ("flush.size", "6"),
    ("store.kafka.keys", "true"),
    ("keys.format.class", "parquet"),
    ("store.kafka.headers", "true"),
    ("headers.format.class", "parquet"),
    ("behavior.on.null.values", "write"),
];

fn trio() -> Pairs {
    pairs(&TRIO)
}

/// Two values, a tombstone, two values, a tombstone.
fn produce(world: &World) {
    for value in 0..2 {
        world.produce(0, json!({ "v": value }));
        world.produce(0, json!({ "v": value, "w": "x" }));
        world.produce_bad(0, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_of_which_one_view_is_visible_is_finished_by_the_next_owner() {
    for visible in ["+0000000000.snappy", "+0000000000.keys", "+0000000000.headers", "/tombstone/"] {
        for loses_group in [false, true] {
            let world = World::new(Make { pairs: trio(), ..Make::default() });
            world.set_recovers();
            produce(&world);
            world.weather().order_store(move |request, key| match request {
                Request::Put if key.ends_with(".parquet") && !key.contains(visible) => Fate::Hang,
                _ => Fate::Fine,
            });
            let first = Worker::start(&world, "first");
            world.until("one file", |world| !world.files().is_empty()).await;
            first.kill().await;
            world.weather().clear();
            if loses_group {
                world.lose_group();
            }
            produce(&world);
            work_off(&world, "second").await;
            assert_eq!(world.truth().tally.of(Action::PlanRecovered), u64::from(loses_group), "{visible}");
            // Two cuts of a trio and a pair each.
            assert_eq!(world.files().len(), 10, "{visible} {loses_group}");
            world.expect_whole();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_group_goes_on_after_tombstones_that_are_the_newest_objects() {
    let world = World::new(Make { pairs: trio(), ..Make::default() });
    world.set_recovers();
    produce(&world);
    work_off(&world, "first").await;
    world.lose_group();
    produce(&world);
    work_off(&world, "second").await;
    assert_eq!(world.truth().tally.of(Action::LaneRecovered), 1);
    assert_eq!(world.files().len(), 10);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_topic_of_tombstones_alone_is_written_and_needs_no_schema() {
    let world = World::new(Make { pairs: trio(), ..Make::default() });
    for _ in 0..12 {
        world.produce_bad(0, None);
    }
    work_off(&world, "first").await;
    let expected = ["0.headers", "0.keys", "6.headers", "6.keys"];
    let name = |end: &str| format!("topics/t/tombstone/t+0+000000000{end}.snappy.parquet");
    assert_eq!(world.files(), expected.map(name));
    world.expect_whole();
}

/// A record that has no row in one view has none in any: a bad key or a missing header.
#[tokio::test(start_paused = true)]
async fn records_without_a_key_or_headers_are_in_no_file() {
    let mut keys = trio();
    keys.push(("errors.tolerance", "all".to_owned()));
    let world = World::new(Make { pairs: keys, ..Make::default() });
    world.produce(0, json!({ "v": 1 }));
    let headers = || vec![("at".to_owned(), Some(b"0/1".to_vec()))];
    let bad = crate::truth::Record { value: None, is_tombstone: false, time_ms: 0 };
    for (offset, (key, headers)) in (1..).zip([(None, headers()), (Some(&b"0/2"[..]), Vec::new())]) {
        world.truth().records.insert((0, offset), bad.clone());
        world.log().produce("t", 0, key, Some(b"{\"v\":2}"), 0, headers);
    }
    world.produce(0, json!({ "v": 3 }));
    work_off(&world, "first").await;
    assert_eq!(world.files().len(), 3);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn columns_of_kafka_stay_beside_a_schema_that_grows_and_are_the_same_in_a_replay() {
    let path_of: PathOf = |partition, _, _| format!("partition={partition}");
    for crashes in [false, true] {
        let keys =
            [("flush.size", "4"), ("kafka.columns", "partition,offset,timestampType"), ("kafka.columns.prefix", "k_")];
        let world = World::new(Make { pairs: pairs(&keys), path_of, ..Make::default() });
        let row = |value: usize, more: serde_json::Value| {
            let offset = world.end(0);
            let mut row = json!({ "v": value, "k_partition": 0, "k_offset": offset, "k_timestampType": 0 });
            let mut fields = json!({ "v": value });
            for (name, field) in more.as_object().into_iter().flatten() {
                (row[name], fields[name]) = (field.clone(), field.clone());
            }
            world.produce_as(0, fields, row);
        };
        // The second row comes alone, when the first is held under the smaller schema.
        row(0, json!({}));
        let first = Worker::start(&world, "first");
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        if crashes {
            world.weather().order_store(|request, key| match request {
                Request::Put if key.ends_with(".parquet") => Fate::Hang,
                _ => Fate::Fine,
            });
        }
        row(1, json!({ "grown": "x" }));
        row(2, json!({}));
        row(3, json!({ "v": 1.5 }));
        if crashes {
            world.until("a plan", World::has_plan).await;
        }
        first.kill().await;
        world.weather().clear();
        work_off(&world, "second").await;
        assert_eq!(world.files().len(), 1, "{crashes}");
        world.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_with_a_field_of_that_name_stops_the_task_whatever_is_tolerated() {
    let keys = [("flush.size", "2"), ("kafka.columns", "offset"), ("errors.tolerance", "all")];
    let world = World::new(Make { pairs: pairs(&keys), ..Make::default() });
    world.produce(0, json!({ "offset": 7 }));
    let error = Worker::start(&world, "first").failure().await;
    assert!(!error.is_transient() && error.to_string().contains("set kafka.columns.prefix"), "{error}");
    assert_eq!(world.files(), Vec::<String>::new());
}

/// The oracles see when a file of a trio is missing.
#[tokio::test(start_paused = true)]
async fn a_missing_file_of_keys_is_a_loss() {
    let world = World::new(Make { pairs: trio(), ..Make::default() });
    produce(&world);
    work_off(&world, "first").await;
    let mut truth = world.truth();
    truth.objects.retain(|_, object| object.of != Of::Keys || object.path == "tombstone");
    let wrong = truth.verdict(true);
    assert!(wrong.iter().any(|one| one.oracle == crate::oracle::Oracle::Cut), "{wrong:?}");
}
