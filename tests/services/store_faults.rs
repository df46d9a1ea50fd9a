//! A store that fails in every way that stores fail: every record once, nothing overwritten, nothing left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Fault, Faults, Need, Proxy, Record, Request, Services, Sluice};

use crate::outside::{etags, keep_versions, versions};
use crate::support::{Scene, at, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "small_files_survive_every_fault_of_the_store_and_each_object_is_written_once",
        needs: &[Need::Kafka, Need::Minio],
        run: every_fault_for_small_files,
    },
    Test {
        name: "large_files_survive_every_fault_of_the_store_and_each_object_is_written_once",
        needs: &[Need::Kafka, Need::Minio],
        run: every_fault_for_large_files,
    },
    Test {
        name: "a_put_that_happened_unheard_is_recognised_behind_each_kind_of_silence",
        needs: &[Need::Kafka, Need::Minio],
        run: puts_that_happened_unheard,
    },
    Test {
        name: "each_request_of_a_large_file_that_is_lost_or_unheard_is_made_up_for",
        needs: &[Need::Kafka, Need::Minio],
        run: requests_of_a_large_file,
    },
    Test {
        name: "an_outage_of_10_s_while_files_are_published_is_waited_for",
        needs: &[Need::Kafka, Need::Minio],
        run: outage,
    },
    Test {
        name: "a_storm_of_slowdown_is_waited_for_and_every_record_is_written_once",
        needs: &[Need::Kafka, Need::Minio],
        run: storm,
    },
    Test {
        name: "uploads_of_a_killed_worker_are_removed_when_they_are_old_and_those_of_others_are_left_alone",
        needs: &[Need::Kafka, Need::Minio],
        run: orphaned_uploads,
    },
];

/// A connector that reaches a store with versioned objects through a proxy.
struct Faulty {
    scene: Scene,
    proxy: Proxy,
    sluice: Sluice,
}

impl Faulty {
    fn new(stem: &str, partitions: u32, changes: Value) -> Result<Faulty, Error> {
        let scene = Scene::new(stem, partitions)?;
        keep_versions(scene.store, &scene.bucket)?;
        let proxy = Proxy::start(scene.store.endpoint(), 7)?;
        let mut config = scene.config(json!({
            "store.url": proxy.endpoint(),
            "s3.retry.backoff.ms": "50",
            "retry.backoff.ms": "200",
            "task.restart.backoff.ms": "100",
            "rotate.schedule.interval.ms": "1000",
        }));
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let sluice = Sluice::worker(scene.kafka, scene.store)?;
        sluice.create(&scene.connector, &config)?;
        Ok(Faulty { scene, proxy, sluice })
    }

    /// Records as many as partitions, in turn.
    fn produce(&self, values: &[Value], partitions: i32) -> Outcome {
        let records: Vec<Record> =
            (0..).zip(values).map(|(number, value)| at(number % partitions, value.to_string())).collect();
        self.scene.kafka.produce(&self.scene.topic, &records)?;
        Ok(())
    }

    /// Waits until nothing is late any more, stops the worker, and checks that every record is there once, that no key
    /// has ever had a second version, and that no upload is left.
    fn check(&mut self, produced: &[Value], committed: &[i64]) -> Outcome {
        self.scene.wait_committed(committed)?;
        self.sluice.wait("nothing is late", |_| Ok((self.proxy.late() == 0).then_some(())))?;
        assert_eq!(self.proxy.planned(), 0, "every fault was met: {}", self.proxy.counts());
        self.sluice.wait_state(&self.scene.connector, "RUNNING", 1)?;
        assert_eq!(self.sluice.terminate()?, 0, "{}", self.sluice.log());
        self.scene.wait_committed(committed)?;
        self.holds(produced)?;
        assert_eq!(self.scene.store.open_uploads(&self.scene.bucket, "")?, Vec::<String>::new());
        Ok(())
    }

    /// As [`Scene::holds_exactly`], by pyarrow alone (values may be large), and one version of every key.
    fn holds(&self, produced: &[Value]) -> Outcome {
        let rows = Services::readers()?.read_parquet(self.scene.store, &self.scene.bucket, "")?;
        crate::support::same_records(produced, &rows);
        let more: BTreeMap<_, _> =
            versions(self.scene.store, &self.scene.bucket)?.into_iter().filter(|(_, count)| *count != 1).collect();
        assert_eq!(more, BTreeMap::new(), "keys that were written more than once; {}", self.proxy.counts());
        Ok(())
    }

    /// Checks that there are so many objects, each of them made by an upload in parts: its ETag says so.
    fn are_uploads(&self, count: usize) -> Outcome {
        let etags = etags(self.scene.store, &self.scene.bucket)?;
        let objects: Vec<_> = etags.iter().filter(|(key, _)| key.ends_with(".parquet")).collect();
        assert_eq!(objects.len(), count, "{objects:?}");
        let is_upload = |etag: &str| etag.split(' ').next().is_some_and(|etag| etag.contains('-'));
        assert!(objects.iter().all(|(_, etag)| is_upload(etag)), "{objects:?}");
        Ok(())
    }
}

/// Predictions with a text that does not compress, each about this many bytes.
pub(crate) fn large(numbers: std::ops::Range<usize>, bytes: usize) -> Vec<Value> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut values = predictions(numbers);
    for value in &mut values {
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            text.push_str(&format!("{:016x}", noise()));
        }
        value["text"] = Value::from(text);
    }
    values
}

/// Each fault meets about one request in forty.
fn every_fault() -> Faults {
    Faults {
        late_by: Duration::from_millis(100)..Duration::from_secs(2),
        delay_by: Duration::from_millis(50)..Duration::from_millis(500),
        slow_over: Duration::from_millis(100)..Duration::from_millis(500),
        ..Faults::each(0.025)
    }
}

fn every_fault_for_small_files() -> Outcome {
    const RECORDS: usize = 240;
    let mut faulty = Faulty::new("small-faults", 4, json!({"flush.size": "4"}))?;
    faulty.sluice.wait_state(&faulty.scene.connector, "RUNNING", 1)?;
    faulty.proxy.set(every_fault());
    let records = predictions(0..RECORDS);
    for some in records.chunks(RECORDS / 4) {
        faulty.produce(some, 4)?;
    }
    faulty.scene.wait_committed(&[60; 4])?;
    assert!(faulty.proxy.counts().total() >= 5, "{}", faulty.proxy.counts());
    faulty.proxy.set(Faults::none());
    faulty.check(&records, &[60; 4])
}

/// Files of 12 MiB, so that each is an upload of three parts.
fn every_fault_for_large_files() -> Outcome {
    const RECORDS: usize = 96;
    let mut faulty = Faulty::new("large-faults", 2, large_files())?;
    faulty.sluice.wait_state(&faulty.scene.connector, "RUNNING", 1)?;
    // Nobody knows the name of an upload whose beginning was unheard: it is removed as an orphan.
    faulty.proxy.set(Faults { only: |request| !is_begin(request), ..every_fault() });
    let records = large(0..RECORDS, 512 << 10);
    for some in records.chunks(RECORDS / 4) {
        faulty.produce(some, 2)?;
    }
    faulty.scene.wait_committed(&[48; 2])?;
    faulty.proxy.set(Faults::none());
    faulty.check(&records, &[48; 2])?;
    faulty.are_uploads(4)
}

/// Row groups of 4 MiB, so that parts go up while a file of 24 records grows.
pub(crate) fn large_files() -> Value {
    json!({
        "flush.size": "24",
        "rotate.schedule.interval.ms": "-1",
        "parquet.row.group.bytes": "4194304",
        "parquet.codec": "none",
        "consumer.override.max.partition.fetch.bytes": "4194304",
    })
}

fn is_put_of(offset: u32) -> impl Fn(&Request) -> bool + Send + 'static {
    move |request| {
        let name = format!("{offset:010}.snappy.parquet");
        request.method == "PUT" && request.target.split('?').next().is_some_and(|path| path.ends_with(&name))
    }
}

/// One fault for each small file in turn. The object is there when the PUT is repeated, and the 412 is recognised as
/// our own.
fn puts_that_happened_unheard() -> Outcome {
    const UNHEARD: [Fault; 5] =
        [Fault::AnswerDropped, Fault::AnswerCut, Fault::ErrorAfter, Fault::Late, Fault::SlowDown];
    let mut faulty = Faulty::new("unheard", 1, json!({"rotate.schedule.interval.ms": "-1"}))?;
    for (number, fault) in (0..).zip(UNHEARD) {
        faulty.proxy.once(fault, is_put_of(2 * number));
    }
    let records = predictions(0..2 * UNHEARD.len());
    faulty.produce(&records, 1)?;
    faulty.scene.wait_committed(&[10])?;
    let counts = faulty.proxy.counts();
    for fault in UNHEARD {
        assert_eq!(counts.of(fault), 1, "{counts}");
    }
    assert_eq!(faulty.sluice.published(&faulty.scene.connector)?, 10);
    faulty.check(&records, &[10])
}

/// Which request of an upload it is.
type Which = fn(&Request) -> bool;

fn is_begin(request: &Request) -> bool {
    request.method == "POST" && request.target.contains("?uploads")
}

fn is_part(request: &Request) -> bool {
    request.method == "PUT" && request.target.contains("partNumber=")
}

fn is_complete(request: &Request) -> bool {
    request.method == "POST" && request.target.contains("uploadId=")
}

/// The uploads follow one another: each file meets one fault at one of its requests.
fn requests_of_a_large_file() -> Outcome {
    const FAULTS: [(Which, Fault); 9] = [
        (is_begin, Fault::SlowDown),
        (is_part, Fault::Reset),
        (is_part, Fault::AnswerDropped),
        (is_part, Fault::ErrorAfter),
        (is_complete, Fault::Reset),
        (is_complete, Fault::AnswerDropped),
        (is_complete, Fault::ErrorAfter),
        (is_complete, Fault::AnswerCut),
        (is_complete, Fault::Late),
    ];
    let mut faulty = Faulty::new("requests", 1, large_files())?;
    let records = large(0..24 * FAULTS.len(), 512 << 10);
    for (number, ((is_it, fault), some)) in (1..).zip(FAULTS.into_iter().zip(records.chunks(24))) {
        faulty.proxy.once(fault, is_it);
        // Not at once: a file that comes in one batch is one PUT.
        faulty.produce(&some[..16], 1)?;
        faulty.sluice.wait_written(&faulty.scene.connector, 24 * number - 8)?;
        faulty.produce(&some[16..], 1)?;
        faulty.scene.wait_committed(&[24 * number as i64])?;
        assert_eq!(faulty.proxy.planned(), 0, "{fault:?} was met");
    }
    faulty.check(&records, &[24 * FAULTS.len() as i64])?;
    faulty.are_uploads(FAULTS.len())
}

fn outage() -> Outcome {
    let mut faulty = Faulty::new("outage-10", 2, json!({"flush.size": "5"}))?;
    let records = predictions(0..100);
    faulty.produce(&records[..20], 2)?;
    faulty.sluice.wait_published(&faulty.scene.connector, 20)?;
    faulty.proxy.outage(true);
    let since = std::time::Instant::now();
    faulty.produce(&records[20..], 2)?;
    faulty.sluice.wait_log("store does not answer, publishing again")?;
    faulty.sluice.wait("10 s are over", |_| Ok((since.elapsed() >= Duration::from_secs(10)).then_some(())))?;
    faulty.sluice.wait_state(&faulty.scene.connector, "RUNNING", 1)?;
    faulty.proxy.outage(false);
    let over = std::time::Instant::now();
    faulty.scene.wait_committed(&[50, 50])?;
    assert!(over.elapsed() < Duration::from_secs(20), "it went on after {:?}", over.elapsed());
    faulty.check(&records, &[50, 50])
}

/// Nine of ten requests are throttled for a while.
fn storm() -> Outcome {
    let mut faulty = Faulty::new("storm", 2, json!({"flush.size": "5"}))?;
    let records = predictions(0..60);
    faulty.sluice.wait_state(&faulty.scene.connector, "RUNNING", 1)?;
    faulty.proxy.set(Faults::none().with(Fault::SlowDown, 0.9));
    faulty.produce(&records, 2)?;
    faulty
        .sluice
        .wait("the storm was felt", |_| Ok((faulty.proxy.counts().of(Fault::SlowDown) >= 40).then_some(())))?;
    faulty.sluice.wait_state(&faulty.scene.connector, "RUNNING", 1)?;
    faulty.proxy.set(Faults::none());
    faulty.check(&records, &[30, 30])
}

fn orphaned_uploads() -> Outcome {
    let scene = Scene::new("orphans", 1)?;
    let records = large(0..24, 512 << 10);
    let mut config = scene.config(json!({
        "consumer.override.session.timeout.ms": "3000",
        "consumer.override.heartbeat.interval.ms": "500",
    }));
    for (key, value) in large_files().as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let mut file = json!({"name": scene.connector, "config": config});
    let mut sluice = Sluice::run(scene.kafka, scene.store, &file)?;
    scene.produce(&records[..20])?;
    sluice.wait_written(&scene.connector, 20)?;
    let open = || scene.store.open_uploads(&scene.bucket, "");
    sluice.wait("an upload is open", |_| Ok((open()?.len() == 1).then_some(())))?;
    sluice.kill();
    let of_others = ["elsewhere/upload", "my-model/serving/another/partition=0/another+0+0000000000.snappy.parquet"];
    for key in of_others {
        scene.store.start_upload(&scene.bucket, key)?;
    }
    assert_eq!(open()?.len(), 3);

    // Only now: this short an age would let it remove its own.
    file["config"]["upload.orphan.age.ms"] = json!("1000");
    sluice.place().write("connector.json", &file.to_string())?;
    sluice.restart()?;
    sluice.wait_log("removed the upload of a dead worker")?;
    scene.produce(&records[20..])?;
    scene.wait_committed(&[24])?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    assert_eq!(open()?, of_others);
    crate::support::same_records(&records, &Services::readers()?.read_parquet(scene.store, &scene.bucket, "")?);
    Ok(())
}
