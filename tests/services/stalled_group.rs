//! A group whose coordinator has lost count: it computes no assignment any more, as after a broker was killed.

use std::time::Duration;

use serde_json::json;
use tests::ring::{Outcome, Test};
use tests::{Kafka, Need, Record, S3, Services, Sluice, unique};

use crate::outside::set_assignment_epoch;
use crate::support::{COMMIT_LIMIT, at, example, predictions, same_records};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "partitions_that_a_coordinator_out_of_step_gives_to_nobody_are_worked_on_again_and_nothing_is_doubled",
    needs: &[Need::OwnKafka, Need::Minio],
    run: out_of_step,
}];

const PARTITIONS: usize = 4;
/// Looking once a minute, being sure for half a minute, and rebalances.
const RECOVERY_LIMIT: Duration = Duration::from_secs(180);
/// Further than members come by joining and leaving.
const FAR_EPOCH: i32 = 1_000_000;

/// One process keeps its partitions through it all; the other one is killed and its partitions are nobody's, also when it
/// is back.
fn out_of_step() -> Outcome {
    let sessions = [("group.consumer.session.timeout.ms", "15000"), ("group.consumer.heartbeat.interval.ms", "500")];
    let mut kafka = Kafka::start_with(&sessions)?;
    let store: &S3 = Services::minio()?;
    let (topic, bucket, connector) = (unique("step"), unique("step"), unique("step"));
    let group = format!("connect-{connector}");
    store.create_bucket(&bucket)?;
    kafka.create_topic(&topic, PARTITIONS as u32)?;
    let mut file = example("my-model");
    file["name"] = json!(connector);
    for (key, value) in [
        ("topics", topic.as_str()),
        ("s3.bucket.name", &bucket),
        ("store.url", store.endpoint()),
        ("flush.size", "10"),
        ("rotate.schedule.interval.ms", "2000"),
        ("tasks.max", "2"),
        ("consumer.override.group.protocol", "consumer"),
    ] {
        file["config"][key] = json!(value);
    }
    let records = predictions(0..300);
    let produce = |kafka: &Kafka, range: std::ops::Range<usize>| {
        let partition = |number| i32::try_from(number % PARTITIONS).expect("there are few partitions");
        let batch: Vec<Record> = range.map(|number| at(partition(number), records[number].to_string())).collect();
        kafka.produce(&topic, &batch)
    };
    let stays = Sluice::run(&kafka, store, &file)?;
    let mut dies = Sluice::run(&kafka, store, &file)?;
    let held = |one: &Sluice| one.metric("kafka_connect_sink_task_metrics_partition_count", &connector);
    stays.wait("each has its half", |_| Ok((held(&stays)? == 2 && held(&dies)? == 2).then_some(())))?;
    produce(&kafka, 0..100)?;
    kafka.wait_committed(&group, &topic, &[25; PARTITIONS], COMMIT_LIMIT)?;

    dies.kill();
    set_assignment_epoch(&kafka, &group, FAR_EPOCH)?;
    kafka.kill();
    kafka.restart()?;
    produce(&kafka, 100..200)?;
    dies.restart()?;
    kafka.wait_committed(&group, &topic, &[50; PARTITIONS], RECOVERY_LIMIT)?;
    let said = |one: &Sluice| one.log().contains("gives these partitions to no member");
    assert!(said(&stays) || said(&dies), "{}\n{}", stays.log(), dies.log());
    stays.wait("each has its half again", |_| Ok((held(&stays)? == 2 && held(&dies)? == 2).then_some(())))?;

    produce(&kafka, 200..300)?;
    kafka.wait_committed(&group, &topic, &[75; PARTITIONS], COMMIT_LIMIT)?;
    for one in [&stays, &dies] {
        one.wait_state(&connector, "RUNNING", 2)?;
        assert_eq!(one.terminate()?, 0, "{}", one.log());
    }
    same_records(&records, &Services::readers()?.read_parquet(store, &bucket, "")?);
    Ok(())
}
