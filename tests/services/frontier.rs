//! The committed frontier: what moves it without a record, and what may not move it.

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Kafka, Need, Record, Sluice, unique};

use crate::outside::{
    Transaction, add_partitions, create_topic, delete_topic, set_broker_config, transact, wait_compacted,
};
use crate::support::{COMMIT_LIMIT, Scene, at, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "a_topic_without_one_good_record_and_a_partition_without_any_are_committed_to_their_ends",
        needs: &[Need::Kafka, Need::Minio],
        run: nothing_to_write,
    },
    Test {
        name: "a_compacted_topic_is_read_over_its_gaps_and_committed_to_its_end",
        needs: &[Need::Kafka, Need::Minio],
        run: compacted_topic,
    },
    Test {
        name: "aborted_transactions_are_left_out_and_control_records_at_the_end_leave_no_lag",
        needs: &[Need::Kafka, Need::Minio],
        run: transactions,
    },
    Test {
        name: "records_that_retention_ate_fail_the_task_or_are_passed_with_a_warning_as_on_data_loss_says",
        needs: &[Need::Kafka, Need::Minio],
        run: retention,
    },
    Test {
        name: "records_that_retention_ate_under_a_paused_task_are_no_less_a_loss",
        needs: &[Need::Kafka, Need::Minio],
        run: retention_while_paused,
    },
    Test {
        name: "records_that_retention_ate_before_the_first_start_are_no_loss",
        needs: &[Need::Kafka, Need::Minio],
        run: retention_before_the_first_start,
    },
    Test {
        name: "a_topic_that_was_made_again_while_stopped_fails_the_task_or_is_read_anew_as_on_data_loss_says",
        needs: &[Need::Kafka, Need::Minio],
        run: topic_made_again,
    },
    Test {
        name: "a_topic_that_is_made_again_while_it_is_read_loses_nothing_silently",
        needs: &[Need::Kafka, Need::Minio],
        run: topic_made_again_while_running,
    },
    Test {
        name: "partitions_that_a_topic_gets_while_it_is_read_are_read_from_their_first_record",
        needs: &[Need::Kafka, Need::Minio],
        run: more_partitions,
    },
    Test {
        name: "topics_come_and_go_under_a_pattern_and_the_others_go_on",
        needs: &[Need::Kafka, Need::Minio],
        run: topics_come_and_go,
    },
];

const LAG: &str = "kafka_consumer_consumer_fetch_manager_metrics_records_lag";

fn wait_no_lag(sluice: &Sluice, connector: &str) -> Outcome {
    Ok(sluice.wait("lag is 0", |sluice| Ok((sluice.metric(LAG, connector)? == 0).then_some(())))?)
}

fn values(values: &[Value]) -> Vec<Record> {
    values.iter().map(|value| at(0, value.to_string())).collect()
}

/// No file is ever open: partition 0 has bad records and tombstones, partition 1 tombstones, partition 2 nothing.
fn nothing_to_write() -> Outcome {
    let scene = Scene::new("nothing", 3)?;
    let tombstone = |partition| Record { value: None, ..at(partition, "") };
    let records = [tombstone(0), at(0, "{"), at(0, "7"), tombstone(0), at(0, "not JSON"), tombstone(1), tombstone(1)];
    scene.kafka.produce(&scene.topic, &records)?;
    let mut sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({"errors.tolerance": "all", "behavior.on.null.values": "ignore"}));
    sluice.create(&scene.connector, &config)?;
    scene.wait_committed(&[5, 2, 0])?;
    wait_no_lag(&sluice, &scene.connector)?;
    scene.kafka.produce(&scene.topic, &[tombstone(2), at(1, "]")])?;
    scene.wait_committed(&[5, 3, 1])?;
    assert_eq!(scene.objects()?, Vec::<String>::new());
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 4);

    // A restart reads none of it again.
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    sluice.restart()?;
    scene.produce(&predictions(0..2))?;
    sluice.wait_published(&scene.connector, 2)?;
    scene.wait_committed(&[7, 3, 1])?;
    assert_eq!(sluice.metric("sluice_rejected_records_total", &scene.connector)?, 0);
    scene.holds_exactly(&predictions(0..2))
}

/// Three keys are written over and over, and compaction leaves the last of each, and what is not yet rolled.
fn compacted_topic() -> Outcome {
    const ROUNDS: usize = 4;
    let scene = Scene::new("compacted", 1)?;
    let topic = unique("compacted");
    set_broker_config(scene.kafka, "log.cleaner.backoff.ms", "200")?;
    let compacted = json!({
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "100",
        "delete.retention.ms": "100",
    });
    create_topic(scene.kafka, &topic, 1, compacted)?;
    let records = predictions(0..3 * ROUNDS + 2);
    let keyed = |number: usize, key: usize| Record {
        key: Some(format!("key-{key}").into_bytes()),
        ..at(0, records[number].to_string())
    };
    for round in 0..ROUNDS {
        let some: Vec<Record> = (0..3).map(|key| keyed(3 * round + key, key)).collect();
        scene.kafka.produce(&topic, &some)?;
    }
    // A record rolls the segment that the others are in.
    let last = 3 * ROUNDS;
    scene.kafka.produce(&topic, &[keyed(last, 3)])?;
    let left = wait_compacted(scene.kafka, &topic, 4)?;
    let left: Vec<Value> = left.iter().map(|offset| records[*offset as usize].clone()).collect();
    assert!(left.len() < last, "compaction has left gaps");

    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = json!({"topics": topic, "flush.size": "3", "rotate.schedule.interval.ms": "1000"});
    sluice.create(&scene.connector, &scene.config(config))?;
    let end = last as i64 + 1;
    scene.kafka.wait_committed(&scene.group(), &topic, &[end], COMMIT_LIMIT)?;
    scene.holds_exactly(&left)?;
    let written = scene.objects()?;
    let names: Vec<&str> = written.iter().filter_map(|key| key.rsplit('+').next()).collect();
    assert_eq!(
        names,
        ["0000000009.snappy.parquet", "0000000012.snappy.parquet"],
        "an object is named by its first record"
    );

    scene.kafka.produce(&topic, &[keyed(last + 1, 0)])?;
    scene.kafka.wait_committed(&scene.group(), &topic, &[end + 1], COMMIT_LIMIT)?;
    wait_no_lag(&sluice, &scene.connector)?;
    scene.holds_exactly(&[left, vec![records[last + 1].clone()]].concat())
}

fn transactions() -> Outcome {
    let scene = Scene::new("transactional", 1)?;
    let records = predictions(0..12);
    let first = [
        Transaction { values: &records[..3], commit: true },
        Transaction { values: &records[3..5], commit: false },
        Transaction { values: &records[5..6], commit: true },
        Transaction { values: &records[6..9], commit: false },
    ];
    transact(scene.kafka, &scene.topic, &first)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({"rotate.schedule.interval.ms": "1000"}));
    sluice.create(&scene.connector, &config)?;
    let end = end_of(scene.kafka, &scene.topic)?;
    // Nine records, and a control record behind each transaction.
    assert_eq!(end, 13);
    scene.wait_committed(&[end])?;
    wait_no_lag(&sluice, &scene.connector)?;
    let committed = [&records[..3], &records[5..6]].concat();
    scene.holds_exactly(&committed)?;

    let then = [
        Transaction { values: &records[9..10], commit: false },
        Transaction { values: &records[10..12], commit: true },
    ];
    transact(scene.kafka, &scene.topic, &then)?;
    scene.wait_committed(&[end_of(scene.kafka, &scene.topic)?])?;
    wait_no_lag(&sluice, &scene.connector)?;
    scene.holds_exactly(&[&committed, &records[10..]].concat())
}

/// The offset behind everything in partition 0, control records included.
fn end_of(kafka: &Kafka, topic: &str) -> Result<i64, Error> {
    Ok(kafka.offset_limits(topic)?[0].end)
}

/// A worker with two connectors for the same topic, of which one fails on lost records and one goes on; each writes
/// below a directory of its own.
struct Both {
    scene: Scene,
    sluice: Sluice,
    fails: String,
    goes_on: String,
}

impl Both {
    fn new(stem: &str) -> Result<Both, Error> {
        let scene = Scene::new(stem, 1)?;
        let sluice = Sluice::worker(scene.kafka, scene.store)?;
        let both = Both { scene, sluice, fails: unique("fails"), goes_on: unique("goes-on") };
        // `fail` is the default.
        both.sluice.create(&both.fails, &both.config(&both.fails, json!({})))?;
        both.sluice.create(&both.goes_on, &both.config(&both.goes_on, json!({"on.data.loss": "continue"})))?;
        Ok(both)
    }

    fn config(&self, connector: &str, changes: Value) -> Value {
        let mut config = self.scene.config(changes);
        config["topics.dir"] = json!(connector);
        config["consumer.override.metadata.max.age.ms"] = json!("1000");
        config
    }

    fn wait_committed(&self, connector: &str, offset: i64) -> Outcome {
        let group = format!("connect-{connector}");
        Ok(self.scene.kafka.wait_committed(&group, &self.scene.topic, &[offset], COMMIT_LIMIT)?)
    }

    fn tell(&self, connector: &str, what: &str) -> Outcome {
        let reply = self.sluice.put(&format!("/connectors/{connector}/{what}"), None)?;
        assert!(reply.status < 300, "{what}: {reply:?}");
        Ok(())
    }

    fn stop(&self) -> Outcome {
        for connector in [&self.fails, &self.goes_on] {
            self.tell(connector, "stop")?;
            self.sluice.wait_state(connector, "STOPPED", 0)?;
        }
        Ok(())
    }

    /// Checks what lies below the connector's directory.
    fn holds(&self, connector: &str, expected: &[Value]) -> Outcome {
        let rows = self.scene.rows()?;
        let below = format!("{connector}/");
        let own: Vec<_> = rows.into_iter().filter(|row| row.object.starts_with(&below)).collect();
        crate::support::same_records(expected, &own);
        Ok(())
    }

    /// Waits until the task that fails on lost records has failed; the trace must name this topic-partition, the key
    /// that decides, and `more`.
    fn wait_failed(&self, more: &[&str]) -> Outcome {
        let trace = self.sluice.wait_failed(&self.fails)?;
        let lane = format!("{}-0", self.scene.topic);
        for part in [lane.as_str(), "on.data.loss"].iter().chain(more) {
            assert!(trace.contains(part), "{part:?} is not in: {trace}");
        }
        Ok(())
    }
}

fn retention() -> Outcome {
    let both = Both::new("retention")?;
    let records = predictions(0..10);
    both.scene.kafka.produce(&both.scene.topic, &values(&records[..4]))?;
    both.wait_committed(&both.fails, 4)?;
    both.wait_committed(&both.goes_on, 4)?;
    both.stop()?;
    both.scene.kafka.produce(&both.scene.topic, &values(&records[4..]))?;
    both.scene.kafka.delete_records(&both.scene.topic, 0, 7)?;
    both.tell(&both.fails, "resume")?;
    both.tell(&both.goes_on, "resume")?;

    both.wait_failed(&["4", "7"])?;
    both.sluice.wait_published(&both.goes_on, 7)?;
    both.wait_committed(&both.goes_on, 10)?;
    both.holds(&both.goes_on, &[&records[..4], &records[7..]].concat())?;
    both.sluice.wait_log("on.data.loss=continue")?;
    // Nothing was passed over: the group is where it was, also after another try.
    let restart = format!("/connectors/{}/restart?includeTasks=true", both.fails);
    assert!(both.sluice.post(&restart)?.status < 300);
    both.wait_failed(&["4", "7"])?;
    both.wait_committed(&both.fails, 4)?;
    both.holds(&both.fails, &records[..4])?;
    both.sluice.wait_state(&both.goes_on, "RUNNING", 1).map_err(Into::into)
}

/// The group's member is there all the time: no assignment looks at the offset.
fn retention_while_paused() -> Outcome {
    let both = Both::new("overtaken")?;
    let records = predictions(0..10);
    both.scene.kafka.produce(&both.scene.topic, &values(&records[..4]))?;
    for connector in [&both.fails, &both.goes_on] {
        both.wait_committed(connector, 4)?;
        both.tell(connector, "pause")?;
        both.sluice.wait_state(connector, "PAUSED", 1)?;
    }
    both.scene.kafka.produce(&both.scene.topic, &values(&records[4..]))?;
    both.scene.kafka.delete_records(&both.scene.topic, 0, 7)?;
    both.tell(&both.fails, "resume")?;
    both.tell(&both.goes_on, "resume")?;

    // What the client had fetched before is not lost. The rest is either not there, or said to be lost.
    both.wait_committed(&both.goes_on, 10)?;
    let rows = both.scene.rows()?;
    let of = |connector: &str| -> Vec<String> {
        let below = format!("{connector}/");
        let own = rows.iter().filter(|row| row.object.starts_with(&below));
        own.map(|row| row.value["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let ids = |values: &[Value]| -> Vec<String> {
        values.iter().map(|value| value["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    if of(&both.goes_on) != ids(&records) {
        both.holds(&both.goes_on, &[&records[..4], &records[7..]].concat())?;
        both.sluice.wait_log("on.data.loss=continue")?;
    }
    if both.sluice.published(&both.fails)? != 10 {
        both.wait_failed(&["4", "7"])?;
        both.wait_committed(&both.fails, 4)?;
        both.holds(&both.fails, &records[..4])?;
    }
    Ok(())
}

/// The group has no offset yet, so nothing is missing that was promised: `auto.offset.reset` decides.
fn retention_before_the_first_start() -> Outcome {
    let scene = Scene::new("young", 1)?;
    let records = predictions(0..6);
    scene.produce(&records)?;
    scene.kafka.delete_records(&scene.topic, 0, 2)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &scene.config(json!({})))?;
    scene.wait_committed(&[6])?;
    scene.holds_exactly(&records[2..])?;
    Ok(sluice.wait_state(&scene.connector, "RUNNING", 1)?)
}

/// The new topic is shorter than what was committed.
fn topic_made_again() -> Outcome {
    let both = Both::new("made-again")?;
    let records = predictions(0..7);
    both.scene.kafka.produce(&both.scene.topic, &values(&records[..4]))?;
    both.wait_committed(&both.fails, 4)?;
    both.wait_committed(&both.goes_on, 4)?;
    both.stop()?;
    delete_topic(both.scene.kafka, &both.scene.topic)?;
    both.scene.kafka.create_topic(&both.scene.topic, 1)?;
    both.scene.kafka.produce(&both.scene.topic, &values(&records[4..]))?;
    // The broker forgets what was committed for a topic that is deleted, unless it did not get around to it.
    for connector in [&both.fails, &both.goes_on] {
        let offset = tests::GroupOffset { partition: 0, offset: 4, metadata: String::new() };
        both.scene.kafka.commit(&format!("connect-{connector}"), &both.scene.topic, &[offset])?;
    }
    // The names of the old topic's objects are taken.
    let elsewhere = format!("{}-again", both.goes_on);
    let mut config = both.config(&elsewhere, json!({"on.data.loss": "continue"}));
    config["rotate.schedule.interval.ms"] = json!("1000");
    assert_eq!(both.sluice.put(&format!("/connectors/{}/config", both.goes_on), Some(&config))?.status, 200);
    both.tell(&both.fails, "resume")?;
    both.tell(&both.goes_on, "resume")?;

    both.wait_failed(&["4", "3"])?;
    both.wait_committed(&both.goes_on, 3)?;
    both.holds(&elsewhere, &records[4..])?;
    both.holds(&both.goes_on, &records[..4])?;
    both.wait_committed(&both.fails, 4)?;
    both.holds(&both.fails, &records[..4])
}

/// It is longer than before this time, so that offsets alone do not tell: the task fails, at the latest where the names
/// of the old topic's objects are met.
fn topic_made_again_while_running() -> Outcome {
    let scene = Scene::new("again", 1)?;
    let records = predictions(0..10);
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({
        "consumer.override.metadata.max.age.ms": "500",
        "rotate.schedule.interval.ms": "1000",
    }));
    sluice.create(&scene.connector, &config)?;
    scene.produce(&records[..4])?;
    scene.wait_committed(&[4])?;
    delete_topic(scene.kafka, &scene.topic)?;
    scene.kafka.create_topic(&scene.topic, 1)?;
    scene.produce(&records[4..])?;
    let trace = sluice.wait_failed(&scene.connector)?;
    assert!(trace.contains(&scene.topic), "{trace}");
    scene.holds_exactly(&records[..4])
}

fn more_partitions() -> Outcome {
    let scene = Scene::new("grows", 1)?;
    let records = predictions(0..8);
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({
        "consumer.override.metadata.max.age.ms": "1000",
        "rotate.schedule.interval.ms": "1000",
    }));
    sluice.create(&scene.connector, &config)?;
    scene.produce(&records[..3])?;
    scene.wait_committed(&[3])?;
    add_partitions(scene.kafka, &scene.topic, 3)?;
    let later: Vec<Record> = (0..).zip(&records[3..]).map(|(n, value)| at(1 + n % 2, value.to_string())).collect();
    scene.kafka.produce(&scene.topic, &later)?;
    scene.wait_committed(&[3, 3, 2])?;
    wait_no_lag(&sluice, &scene.connector)?;
    scene.holds_exactly(&records)?;
    Ok(sluice.wait_state(&scene.connector, "RUNNING", 1)?)
}

fn topics_come_and_go() -> Outcome {
    let scene = Scene::new("pattern", 1)?;
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|name| format!("{}.{name}", scene.topic));
    let records = predictions(0..8);
    for topic in [&stays, &goes] {
        scene.kafka.create_topic(topic, 1)?;
    }
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({
        "topics": null,
        "topics.regex": format!("{}\\..*", scene.topic),
        "consumer.override.metadata.max.age.ms": "1000",
    }));
    sluice.create(&scene.connector, &config)?;
    scene.kafka.produce(&stays, &values(&records[..2]))?;
    scene.kafka.produce(&goes, &values(&records[2..4]))?;
    for topic in [&stays, &goes] {
        scene.kafka.wait_committed(&scene.group(), topic, &[2], COMMIT_LIMIT)?;
    }
    delete_topic(scene.kafka, &goes)?;
    scene.kafka.create_topic(&comes, 1)?;
    scene.kafka.produce(&comes, &values(&records[4..6]))?;
    scene.kafka.produce(&stays, &values(&records[6..8]))?;
    scene.kafka.wait_committed(&scene.group(), &comes, &[2], COMMIT_LIMIT)?;
    scene.kafka.wait_committed(&scene.group(), &stays, &[4], COMMIT_LIMIT)?;
    scene.holds_exactly(&records)?;
    wait_no_lag(&sluice, &scene.connector)?;
    Ok(sluice.wait_state(&scene.connector, "RUNNING", 1)?)
}
