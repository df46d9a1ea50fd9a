//! Going on after a loss: of the group, of the store, of the broker; and writing a range again on purpose.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Kafka, Need, Proxy, Record, S3, Services, Sluice, unique};

use crate::outside::{consumer_groups, delete_group, etags, wait_group_empty};
use crate::support::{COMMIT_LIMIT, Scene, at, example, predictions, same_records};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_group_that_is_lost_goes_on_after_the_newest_object",
        needs: &[Need::Kafka, Need::Minio],
        run: lost_group,
    },
    Test {
        name: "a_group_that_is_lost_with_a_cut_half_visible_publishes_the_rest_of_it",
        needs: &[Need::Kafka, Need::Minio],
        run: lost_group_and_half_a_cut,
    },
    Test {
        name: "a_group_that_is_lost_after_a_kill_between_plan_and_publish_writes_everything_once",
        needs: &[Need::Kafka, Need::Minio],
        run: lost_group_after_a_kill,
    },
    Test {
        name: "writing_again_on_purpose_fails_skips_or_overwrites_as_on_existing_object_says",
        needs: &[Need::Kafka, Need::Minio],
        run: writing_again,
    },
    Test {
        name: "a_reset_over_rest_reads_everything_again_although_objects_are_there",
        needs: &[Need::Kafka, Need::Minio],
        run: reset_over_rest,
    },
    Test {
        name: "a_task_without_a_store_restarts_by_itself_and_one_that_failed_on_data_does_not",
        needs: &[Need::Kafka, Need::Minio],
        run: restarts,
    },
    Test {
        name: "a_broker_that_is_down_at_the_start_is_waited_for",
        needs: &[Need::OwnKafka, Need::Minio],
        run: no_broker_at_the_start,
    },
    Test {
        name: "a_pending_plan_is_replayed_under_another_flush_size_and_refused_under_another_directory",
        needs: &[Need::Kafka, Need::Minio],
        run: changes_under_a_plan,
    },
];

const READ: &str = "kafka_connect_sink_task_metrics_sink_record_read_total";

/// Spread over partitions 0 and 1, in turn.
fn spread(values: &[Value]) -> Vec<Record> {
    (0..).zip(values).map(|(number, value)| at(number % 2, value.to_string())).collect()
}

fn lost_group() -> Outcome {
    let scene = Scene::new("lost", 2)?;
    let records = predictions(0..12);
    scene.kafka.produce(&scene.topic, &spread(&records[..9]))?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({"rotate.schedule.interval.ms": "1000"})))?;
    scene.wait_committed(&[5, 4])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let before = etags(scene.store, &scene.bucket)?;
    consumer_groups(scene.kafka, &scene.group(), &["--delete"])?;
    assert_eq!(scene.kafka.committed(&scene.group(), &scene.topic)?, []);

    // Nothing new: the group has its offsets back all the same.
    sluice.restart()?;
    scene.wait_committed(&[5, 4])?;
    scene.kafka.produce(&scene.topic, &spread(&records[9..]))?;
    scene.wait_committed(&[7, 5])?;
    assert_eq!(sluice.metric(READ, &scene.connector)?, 3, "what the objects hold is not read again");
    scene.holds_exactly(&records)?;
    let after = etags(scene.store, &scene.bucket)?;
    assert!(before.iter().all(|(key, etag)| after.get(key) == Some(etag)), "{before:?}\n{after:?}");
    Ok(())
}

/// The last cut has three paths, of which one object is taken away, as if the worker had been killed before it.
fn lost_group_and_half_a_cut() -> Outcome {
    let scene = Scene::new("half", 1)?;
    let records = predictions(0..15);
    scene.produce(&records[..12])?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice
        .create(&scene.connector, &scene.config_from("by-model-name", json!({"flush.size": "6", "tasks.max": "1"})))?;
    scene.wait_committed(&[12])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let objects = scene.objects()?;
    assert_eq!(objects.len(), 6, "{objects:?}");
    let missing = objects.iter().find(|key| key.ends_with("+0000000007.snappy.parquet")).expect("the cut [6, 12)");
    scene.store.delete(&scene.bucket, missing)?;
    let before = etags(scene.store, &scene.bucket)?;
    delete_group(scene.kafka, &scene.group())?;

    sluice.restart()?;
    scene.wait_committed(&[12])?;
    assert_eq!(scene.objects()?, objects);
    scene.holds_exactly(&records[..12])?;
    let after = etags(scene.store, &scene.bucket)?;
    assert!(before.iter().all(|(key, etag)| after.get(key) == Some(etag)), "{before:?}\n{after:?}");
    assert_eq!(sluice.metric(READ, &scene.connector)?, 6, "only the half cut is read again");
    scene.produce(&records[12..])?;
    sluice.wait_written(&scene.connector, 9)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[15])?;
    scene.holds_exactly(&records)
}

/// A connector that reaches the store through a proxy.
struct Behind {
    scene: Scene,
    proxy: Proxy,
    sluice: Sluice,
}

impl Behind {
    /// With two records published, then a store that is out, a plan that is committed, and a worker that is killed.
    fn killed_with_a_plan(stem: &str, records: &[Value], changes: Value) -> Result<Behind, Error> {
        let scene = Scene::new(stem, 1)?;
        let proxy = Proxy::start(scene.store.endpoint(), 1)?;
        scene.kafka.produce(&scene.topic, &in_one(&records[..2]))?;
        let file = Behind::file(&scene, &proxy, changes);
        let sluice = Sluice::run(scene.kafka, scene.store, &file)?;
        scene.kafka.wait_committed(&scene.group(), &scene.topic, &[2], COMMIT_LIMIT)?;
        proxy.outage(true);
        scene.kafka.produce(&scene.topic, &in_one(&records[2..]))?;
        sluice.wait_log("store does not answer, publishing again")?;
        let group = scene.kafka.committed(&scene.group(), &scene.topic)?;
        assert_eq!(group[0].offset, 2);
        assert!(!group[0].metadata.is_empty(), "the plan is committed before anything is published");
        sluice.kill();
        proxy.outage(false);
        assert_eq!(scene.objects()?.len(), 1);
        Ok(Behind { scene, proxy, sluice })
    }

    fn file(scene: &Scene, proxy: &Proxy, changes: Value) -> Value {
        let mut config = scene.config(json!({
            "store.url": proxy.endpoint(),
            "retry.backoff.ms": "300",
            "rotate.schedule.interval.ms": "-1",
            "consumer.override.session.timeout.ms": "3000",
            "consumer.override.heartbeat.interval.ms": "500",
        }));
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        json!({"name": scene.connector, "config": config})
    }

    /// Starts again with another connector file.
    fn restart_with(&mut self, changes: Value) -> Outcome {
        let file = Behind::file(&self.scene, &self.proxy, changes);
        self.sluice.place().write("connector.json", &file.to_string())?;
        Ok(self.sluice.restart()?)
    }
}

/// For partition 0.
fn in_one(values: &[Value]) -> Vec<Record> {
    values.iter().map(|value| at(0, value.to_string())).collect()
}

/// Predictions that all have the same fields, so that the schema does not grow while the store is out.
fn alike(numbers: std::ops::Range<usize>) -> Vec<Value> {
    let mut values = predictions(numbers);
    for value in &mut values {
        value["inputs"]["region"] = json!("north");
    }
    values
}

fn lost_group_after_a_kill() -> Outcome {
    let records = alike(0..9);
    let mut behind = Behind::killed_with_a_plan("lost-killed", &records, json!({}))?;
    behind.sluice.restart()?;
    behind.sluice.wait_published(&behind.scene.connector, 6)?;
    behind.sluice.kill();
    wait_group_empty(behind.scene.kafka, &behind.scene.group())?;
    delete_group(behind.scene.kafka, &behind.scene.group())?;
    behind.sluice.restart()?;
    behind.sluice.wait("the open record is read again", |sluice| {
        Ok((sluice.metric(READ, &behind.scene.connector)? == 1).then_some(()))
    })?;
    assert_eq!(behind.sluice.terminate()?, 0, "{}", behind.sluice.log());
    behind.scene.wait_committed(&[9])?;
    behind.scene.holds_exactly(&records)
}

fn changes_under_a_plan() -> Outcome {
    let records = alike(0..11);
    let mut behind = Behind::killed_with_a_plan("changed", &records[..8], json!({"flush.size": "2"}))?;
    behind.restart_with(json!({"flush.size": "3", "topics.dir": "elsewhere"}))?;
    let trace = behind.sluice.wait_failed(&behind.scene.connector)?;
    assert!(trace.contains("was planned under other settings") && trace.contains("[2, 4)"), "{trace}");
    assert_eq!(behind.scene.objects()?.len(), 1, "nothing is guessed");
    assert_eq!(behind.sluice.terminate()?, 0);

    // What only says where cuts end is not the plan's business: it has its end.
    behind.restart_with(json!({"flush.size": "3"}))?;
    behind.scene.produce(&records[8..])?;
    behind.sluice.wait_published(&behind.scene.connector, 8)?;
    assert_eq!(behind.sluice.terminate()?, 0, "{}", behind.sluice.log());
    behind.scene.wait_committed(&[11])?;
    behind.scene.holds_exactly(&records)?;
    let offsets: Vec<String> = behind
        .scene
        .objects()?
        .iter()
        .filter_map(|key| {
            Some(key.rsplit('+').next()?.trim_end_matches(".snappy.parquet").trim_start_matches('0').to_owned())
        })
        .collect();
    assert_eq!(offsets, ["", "2", "4", "7", "10"]);
    Ok(())
}

/// Who moves the group to the start.
enum Reset {
    /// `kafka-consumer-groups`.
    Kafka,
    /// `sluice offsets`.
    Sluice,
}

/// Stops the connector, moves its group to the start, and goes on with another `on.existing.object`.
fn write_again(scene: &Scene, sluice: &Sluice, by: Reset, changes: Value) -> Outcome {
    let path = |end: &str| format!("/connectors/{}/{end}", scene.connector);
    assert_eq!(sluice.put(&path("stop"), None)?.status, 204);
    sluice.wait_state(&scene.connector, "STOPPED", 0)?;
    let config = scene.config(changes);
    assert_eq!(sluice.put(&path("config"), Some(&config))?.status, 200);
    wait_group_empty(scene.kafka, &scene.group())?;
    match by {
        Reset::Kafka => {
            let reset = ["--topic", &scene.topic, "--reset-offsets", "--to-earliest", "--execute"];
            consumer_groups(scene.kafka, &scene.group(), &reset)?;
        }
        Reset::Sluice => {
            let connector = json!({"name": scene.connector, "config": config}).to_string();
            let connector = sluice.place().write("connector.json", &connector)?;
            let (code, printed) = sluice.ask(&["offsets", &connector, "reset", "--to", "earliest"])?;
            assert_eq!(code, 0, "{printed}");
            let (code, printed) = sluice.ask(&["offsets", &connector, "--json"])?;
            assert!(code == 0 && printed.contains(&scene.topic), "{printed}");
        }
    }
    assert_eq!(scene.kafka.committed(&scene.group(), &scene.topic)?[0].offset, 0);
    assert_eq!(sluice.put(&path("resume"), None)?.status, 202);
    Ok(())
}

fn writing_again() -> Outcome {
    let scene = Scene::new("again", 1)?;
    let records = predictions(0..6);
    scene.produce(&records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    scene.wait_committed(&[6])?;
    let first = etags(scene.store, &scene.bucket)?;

    // Fail is the default.
    write_again(&scene, &sluice, Reset::Kafka, json!({}))?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains("on.existing.object") && trace.contains("+0000000000.snappy.parquet"), "{trace}");
    assert_eq!(etags(scene.store, &scene.bucket)?, first);

    write_again(&scene, &sluice, Reset::Sluice, json!({"on.existing.object": "skip"}))?;
    sluice.wait_published(&scene.connector, 6)?;
    scene.wait_committed(&[6])?;
    assert_eq!(etags(scene.store, &scene.bucket)?, first);
    scene.holds_exactly(&records)?;

    write_again(&scene, &sluice, Reset::Kafka, json!({"on.existing.object": "overwrite"}))?;
    scene.wait_committed(&[6])?;
    scene.holds_exactly(&records)?;
    let last = etags(scene.store, &scene.bucket)?;
    let replaced = |key: &String| key.ends_with(".parquet") && first[key] != last[key];
    assert_eq!(last.keys().filter(|key| replaced(key)).count(), 3, "{first:?}\n{last:?}");
    assert_eq!(first.len(), last.len());
    Ok(())
}

fn reset_over_rest() -> Outcome {
    let scene = Scene::new("rest-reset", 1)?;
    let records = predictions(0..6);
    scene.produce(&records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({"on.existing.object": "skip"})))?;
    scene.wait_committed(&[6])?;
    let path = |end: &str| format!("/connectors/{}/{end}", scene.connector);
    let listed = |offset: i64| {
        let partition = json!({"kafka_partition": 0, "kafka_topic": scene.topic});
        json!({"offsets": [{"partition": partition, "offset": {"kafka_offset": offset}}]})
    };
    assert_eq!(sluice.get(&path("offsets"))?.body, listed(6));
    assert_eq!(sluice.delete(&path("offsets"))?.status, 400, "it is not stopped");
    assert_eq!(sluice.put(&path("stop"), None)?.status, 204);
    sluice.wait_state(&scene.connector, "STOPPED", 0)?;
    let before = sluice.metric(READ, &scene.connector)?;
    let reset = sluice.delete(&path("offsets"))?;
    assert_eq!(reset.status, 200, "{reset:?}");
    assert_eq!(sluice.put(&path("resume"), None)?.status, 202);
    sluice.wait("everything is read again", |sluice| {
        Ok((sluice.metric(READ, &scene.connector)? >= before + 6).then_some(()))
    })?;
    scene.wait_committed(&[6])?;
    scene.holds_exactly(&records)
}

/// The two connectors are of one worker: that the one that has no store was started again several times shows that
/// there was time for the other, too.
fn restarts() -> Outcome {
    let scene = Scene::new("restarts", 1)?;
    let bad_topic = unique("bad");
    scene.kafka.create_topic(&bad_topic, 1)?;
    scene.kafka.produce(&bad_topic, &[at(0, "{\"id\": 1}"), at(0, "not JSON")])?;
    let records = predictions(0..4);
    scene.produce(&records)?;
    let proxy = Proxy::start(scene.store.endpoint(), 1)?;
    proxy.outage(true);
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let restart = json!({
        "s3.retry.backoff.ms": "10",
        "task.restart.backoff.ms": "500",
        "task.restart.backoff.max.ms": "1000",
        "rotate.schedule.interval.ms": "1000",
    });
    let with = |more: Value| {
        let mut changes = restart.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            changes[key] = value.clone();
        }
        scene.config(changes)
    };
    let bad = unique("bad");
    sluice.create(&bad, &with(json!({"topics": bad_topic, "topics.dir": "bad"})))?;
    let trace = sluice.wait_failed(&bad)?;
    assert!(trace.contains(&format!("{bad_topic}-0@1")), "{trace}");
    sluice.create(&scene.connector, &with(json!({"store.url": proxy.endpoint()})))?;
    let trace = wait_restarting(&sluice, &scene.connector, 3)?;
    assert!(trace.contains(&scene.bucket), "{trace}");
    assert_eq!(sluice.states(&bad)?, ("RUNNING".to_owned(), vec!["FAILED".to_owned()]));

    proxy.outage(false);
    sluice.wait_state(&scene.connector, "RUNNING", 1)?;
    scene.wait_committed(&[4])?;
    let rows = Services::readers()?.read_parquet(scene.store, &scene.bucket, "my-model/")?;
    same_records(&records, &rows);
    let task = &sluice.get(&format!("/connectors/{}/status", scene.connector))?.body["tasks"][0];
    assert_eq!(task["trace"], Value::Null, "the reason is over");
    assert_eq!(sluice.states(&bad)?.1, ["FAILED"]);
    Ok(())
}

/// Waits until the only task is RESTARTING for at least the `count`-th time in a row; its trace.
fn wait_restarting(sluice: &Sluice, connector: &str, count: u32) -> Result<String, Error> {
    sluice.wait(&format!("{connector} is RESTARTING, {count} times in a row"), |sluice| {
        let task = &sluice.get(&format!("/connectors/{connector}/status"))?.body["tasks"][0];
        let trace = task["trace"].as_str().unwrap_or_default().to_owned();
        let restarts = trace.rsplit("restart ").next().and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        let is_so = task["state"] == json!("RESTARTING") && restarts.is_some_and(|restarts| restarts >= count);
        Ok(is_so.then_some(trace))
    })
}

fn no_broker_at_the_start() -> Outcome {
    let mut kafka = Kafka::start()?;
    let store: &S3 = Services::minio()?;
    let (topic, bucket, connector) = (unique("down"), unique("down"), unique("down"));
    store.create_bucket(&bucket)?;
    kafka.create_topic(&topic, 1)?;
    let records = predictions(0..4);
    kafka.produce(&topic, &in_one(&records))?;
    kafka.stop()?;
    let mut file = example("my-model");
    file["name"] = json!(connector);
    for (key, value) in [
        ("topics", topic.as_str()),
        ("s3.bucket.name", &bucket),
        ("store.url", store.endpoint()),
        ("task.restart.backoff.max.ms", "1000"),
    ] {
        file["config"][key] = json!(value);
    }
    let sluice = Sluice::run(&kafka, store, &file)?;
    sluice.wait("it is in trouble", |sluice| {
        let is_restarting = sluice.states(&connector)?.1 == ["RESTARTING"];
        Ok((is_restarting || sluice.log().contains("trouble with Kafka")).then_some(()))
    })?;
    kafka.restart()?;
    sluice.wait_published(&connector, 4)?;
    kafka.wait_committed(&format!("connect-{connector}"), &topic, &[4], COMMIT_LIMIT)?;
    sluice.wait_state(&connector, "RUNNING", 1)?;
    same_records(&records, &Services::readers()?.read_parquet(store, &bucket, "")?);
    Ok(())
}
