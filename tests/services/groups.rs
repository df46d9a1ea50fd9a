//! Several processes with the same connector file: one group, under every protocol, through joins, leaves, crashes and
//! stalls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Need, Proxy, Record, Sluice, Start};

use crate::outside::set_group_session;
use crate::support::{Scene, at, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "processes_share_a_group_by_default_through_joins_leaves_a_kill_and_a_stall",
        needs: &[Need::Kafka, Need::Minio],
        run: by_default,
    },
    Test {
        name: "processes_share_a_group_under_range_through_joins_leaves_a_kill_and_a_stall",
        needs: &[Need::Kafka, Need::Minio],
        run: under_range,
    },
    Test {
        name: "processes_share_a_group_under_cooperative_sticky_and_kept_lanes_read_nothing_again",
        needs: &[Need::Kafka, Need::Minio],
        run: under_cooperative_sticky,
    },
    Test {
        name: "processes_share_a_group_under_kip_848_and_kept_lanes_read_nothing_again",
        needs: &[Need::Kafka, Need::Minio],
        run: under_kip_848,
    },
    Test {
        name: "static_members_share_a_group_through_joins_leaves_a_kill_and_a_stall",
        needs: &[Need::Kafka, Need::Minio],
        run: static_members,
    },
    Test {
        name: "a_static_member_that_restarts_gets_its_partitions_back_and_nobody_else_notices",
        needs: &[Need::Kafka, Need::Minio],
        run: static_restart,
    },
    Test {
        name: "a_member_that_cannot_close_its_files_in_a_revoke_lets_go_within_max_poll_interval_and_doubles_nothing",
        needs: &[Need::Kafka, Need::Minio],
        run: max_poll_interval,
    },
];

const PARTITIONS: usize = 6;
const READ: &str = "kafka_connect_sink_task_metrics_sink_record_read_total";
const ASSIGNED: &str = "kafka_connect_sink_task_metrics_partition_count";
const REBALANCES: &str = "sluice_rebalances_total";
const LAG: &str = "kafka_consumer_consumer_fetch_manager_metrics_records_lag";

/// A connector file that several processes run, and a topic whose records are numbered.
struct Shared {
    scene: Scene,
    config: Value,
    /// Number of the next record; partition n holds the records whose number modulo [`PARTITIONS`] is n.
    next: usize,
}

impl Shared {
    fn new(stem: &str, changes: &Value) -> Result<Shared, Error> {
        let scene = Scene::new(stem, PARTITIONS as u32)?;
        let mut config = scene.config(json!({
            "flush.size": "40",
            "rotate.schedule.interval.ms": "2000",
            "consumer.override.metadata.max.age.ms": "2000",
            "consumer.override.session.timeout.ms": "6000",
            "consumer.override.heartbeat.interval.ms": "500",
        }));
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        Ok(Shared { scene, config, next: 0 })
    }

    /// One more process.
    fn join(&self, changes: &Value) -> Result<Sluice, Error> {
        let mut config = self.config.clone();
        for (key, value) in changes.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        Sluice::run(self.scene.kafka, self.scene.store, &json!({"name": self.scene.connector, "config": config}))
    }

    /// One more process, whose environment says where the store is: so the connector is the same wherever that may be.
    fn join_at(&self, endpoint: &str) -> Result<Sluice, Error> {
        let mut config = self.config.clone();
        config.as_object_mut().expect("a config is an object").remove("store.url");
        Sluice::start(|place| {
            let connector = json!({"name": self.scene.connector, "config": config});
            let connector = place.write("connector.json", &connector.to_string())?;
            let worker = Start::worker(self.scene.kafka.bootstrap(), self.scene.store, place);
            let endpoint = ("AWS_ENDPOINT_URL_S3".to_owned(), endpoint.to_owned());
            Ok(Start {
                arguments: vec!["run".to_owned(), connector],
                environment: worker.environment.into_iter().chain([endpoint]).collect(),
            })
        })
    }

    fn produce(&mut self, count: usize) -> Outcome {
        self.next = produce(&self.scene, self.next, count)?;
        Ok(())
    }

    /// Produces without a pause while `work` is done.
    fn while_records_flow(&mut self, work: impl FnOnce(&Shared) -> Outcome) -> Outcome {
        let stop = AtomicBool::new(false);
        let this: &Shared = self;
        let (next, outcome) = thread::scope(|scope| {
            let producing = scope.spawn(|| -> Result<usize, Error> {
                let mut next = this.next;
                while !stop.load(Ordering::Relaxed) {
                    next = produce(&this.scene, next, 10 * PARTITIONS)?;
                }
                Ok(next)
            });
            let outcome = work(this);
            stop.store(true, Ordering::Relaxed);
            (producing.join().expect("producing does not panic"), outcome)
        });
        self.next = next?;
        outcome
    }

    /// The sum of a metric over processes.
    fn sum(&self, metric: &str, processes: &[&Sluice]) -> Result<u64, Error> {
        processes.iter().map(|one| one.metric(metric, &self.scene.connector)).sum()
    }

    /// Waits until these processes hold all topic-partitions, each the same number of them.
    fn wait_shared(&self, processes: &[&Sluice]) -> Outcome {
        let share = (PARTITIONS / processes.len()) as u64;
        let of = |one: &Sluice| one.metric(ASSIGNED, &self.scene.connector);
        let found = processes[0].wait(&format!("each of {} processes has {share}", processes.len()), |_| {
            let shares = processes.iter().map(|one| of(one)).collect::<Result<Vec<u64>, Error>>()?;
            Ok(shares.iter().all(|&one| one == share).then_some(()))
        });
        found.map_err(|error| {
            let shares: Vec<_> = processes.iter().map(|one| of(one)).collect();
            format!("shares are {shares:?}: {error}").into()
        })
    }

    /// Waits until these processes, and those that have left, have read as many records as there are; later on nothing
    /// is read again.
    fn wait_read_once(&self, processes: &[&Sluice], of_the_gone: u64) -> Outcome {
        let expected = self.next as u64;
        processes[0].wait("all records are read", |_| {
            Ok((self.sum(READ, processes)? + of_the_gone >= expected).then_some(()))
        })?;
        self.wait_settled()?;
        assert_eq!(self.sum(READ, processes)? + of_the_gone, expected, "records were read again");
        Ok(())
    }

    fn wait_settled(&self) -> Outcome {
        let end = |partition| (self.next + PARTITIONS - 1 - partition) / PARTITIONS;
        self.scene.wait_committed(&(0..PARTITIONS).map(|partition| end(partition) as i64).collect::<Vec<_>>())
    }

    /// Checks that every record is in one object, committed, and that `processes` see no lag.
    fn check(&self, processes: &[&Sluice]) -> Outcome {
        self.wait_settled()?;
        self.scene.holds_exactly(&predictions(0..self.next))?;
        processes[0].wait("lag is 0", |_| Ok((self.sum(LAG, processes)? == 0).then_some(())))?;
        assert_eq!(self.scene.store.open_uploads(&self.scene.bucket, "")?, Vec::<String>::new());
        Ok(())
    }
}

fn produce(scene: &Scene, from: usize, count: usize) -> Result<usize, Error> {
    let partition = |number| i32::try_from(number % PARTITIONS).expect("there are few partitions");
    let records: Vec<Record> = (from..from + count)
        .zip(predictions(from..from + count))
        .map(|(number, value)| at(partition(number), value.to_string()))
        .collect();
    scene.kafka.produce(&scene.topic, &records)?;
    Ok(from + count)
}

/// How a group is run.
struct Protocol {
    stem: &'static str,
    config: Value,
    /// Each process has a `group.instance.id`.
    is_static: bool,
    /// A member that keeps a topic-partition through a rebalance goes on with it.
    keeps_lanes: bool,
}

impl Protocol {
    fn own(&self, connector: &str, member: usize) -> Value {
        match self.is_static {
            true => json!({"consumer.override.group.instance.id": format!("{connector}-{member}")}),
            false => json!({}),
        }
    }
}

fn by_default() -> Outcome {
    life_of_a_group(&Protocol { stem: "default", config: json!({}), is_static: false, keeps_lanes: true })
}

fn under_range() -> Outcome {
    let config = json!({
        "consumer.override.group.protocol": "classic",
        "consumer.override.partition.assignment.strategy": "org.apache.kafka.clients.consumer.RangeAssignor",
    });
    life_of_a_group(&Protocol { stem: "range", config, is_static: false, keeps_lanes: false })
}

fn under_cooperative_sticky() -> Outcome {
    let config = json!({
        "consumer.override.group.protocol": "classic",
        "consumer.override.partition.assignment.strategy":
            "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
    });
    life_of_a_group(&Protocol { stem: "sticky", config, is_static: false, keeps_lanes: true })
}

fn under_kip_848() -> Outcome {
    let config = json!({"consumer.override.group.protocol": "consumer"});
    life_of_a_group(&Protocol { stem: "kip848", config, is_static: false, keeps_lanes: true })
}

fn static_members() -> Outcome {
    let config = json!({
        "consumer.override.group.protocol": "classic",
        "consumer.override.partition.assignment.strategy": "range",
    });
    life_of_a_group(&Protocol { stem: "static", config, is_static: true, keeps_lanes: false })
}

/// Two processes share the topic, a third joins, the first leaves and comes back; then, at once, the second is killed
/// and the third stalls for longer than its session, and both come back. Records flow nearly all the time.
fn life_of_a_group(protocol: &Protocol) -> Outcome {
    let mut shared = Shared::new(protocol.stem, &protocol.config)?;
    // The broker decides on it under the newer protocol.
    set_group_session(shared.scene.kafka, &shared.scene.group(), 6000, 500)?;
    let connector = shared.scene.connector.clone();
    let own = |member| protocol.own(&connector, member);
    shared.produce(60)?;
    let mut first = shared.join(&own(1))?;
    let mut second = shared.join(&own(2))?;
    let mut third = None;
    shared.while_records_flow(|shared| {
        shared.wait_shared(&[&first, &second])?;
        shared.wait_shared(&[&first, &second, third.insert(shared.join(&own(3))?)])
    })?;
    let third = third.expect("it has joined");
    if protocol.keeps_lanes {
        shared.wait_read_once(&[&first, &second, &third], 0)?;
    } else {
        shared.wait_settled()?;
    }
    let of_the_first = first.metric(READ, &connector)?;
    shared.produce(60)?;
    let of_the_first = leave(&shared, &first, &[&second, &third], of_the_first)?;
    shared.while_records_flow(|shared| shared.wait_shared(&[&second, &third]))?;
    if protocol.keeps_lanes {
        shared.wait_read_once(&[&second, &third], of_the_first)?;
    }

    first.restart()?;
    shared.while_records_flow(|shared| shared.wait_shared(&[&first, &second, &third]))?;
    shared.while_records_flow(|shared| {
        second.kill();
        third.pause();
        shared.wait_shared(&[&first])?;
        third.resume();
        second.restart()?;
        shared.wait_shared(&[&first, &second, &third])
    })?;
    shared.check(&[&first, &second, &third])?;
    for one in [&first, &second, &third] {
        one.wait_state(&connector, "RUNNING", 1)?;
        assert_eq!(one.terminate()?, 0, "{}", one.log());
    }
    shared.scene.holds_exactly(&predictions(0..shared.next))
}

/// The first process leaves in order, when all that there is has been read; how many records it has read.
fn leave(shared: &Shared, first: &Sluice, others: &[&Sluice], before: u64) -> Result<u64, Error> {
    let all: Vec<&Sluice> = [first].iter().chain(others).copied().collect();
    first.wait("all records are read", |_| Ok((shared.sum(READ, &all)? >= shared.next as u64).then_some(())))?;
    let read = first.metric(READ, &shared.scene.connector)?;
    assert!(read > before, "the first process takes its share");
    assert_eq!(first.terminate()?, 0, "{}", first.log());
    Ok(read)
}

fn static_restart() -> Outcome {
    let mut shared = Shared::new(
        "static-restart",
        &json!({"consumer.override.group.protocol": "classic", "consumer.override.session.timeout.ms": "45000"}),
    )?;
    let connector = shared.scene.connector.clone();
    let own = |member: u32| json!({"consumer.override.group.instance.id": format!("{connector}-{member}")});
    shared.produce(60)?;
    let (stays, mut restarts) = (shared.join(&own(1))?, shared.join(&own(2))?);
    shared.while_records_flow(|shared| shared.wait_shared(&[&stays, &restarts]))?;
    shared.wait_settled()?;
    let rebalances = stays.metric(REBALANCES, &connector)?;

    assert_eq!(restarts.terminate()?, 0, "{}", restarts.log());
    shared.produce(60)?;
    restarts.restart()?;
    shared.wait_shared(&[&stays, &restarts])?;
    shared.check(&[&stays, &restarts])?;
    restarts.kill();
    shared.produce(60)?;
    restarts.restart()?;
    shared.wait_shared(&[&stays, &restarts])?;
    shared.check(&[&stays, &restarts])?;
    assert_eq!(stays.metric(REBALANCES, &connector)?, rebalances, "{}", stays.log());
    Ok(())
}

/// The first process reaches the store through a proxy. In an outage of it the second one joins; the first has to let
/// go and cannot publish, so its open cuts are dropped invisibly and the second one replays its plans.
fn max_poll_interval() -> Outcome {
    let mut shared = Shared::new(
        "max-poll",
        &json!({
            "consumer.override.group.protocol": "classic",
            "consumer.override.partition.assignment.strategy": "range",
            "consumer.override.max.poll.interval.ms": "6000",
            "retry.backoff.ms": "500",
        }),
    )?;
    let connector = shared.scene.connector.clone();
    let proxy = Proxy::start(shared.scene.store.endpoint(), 1)?;
    shared.produce(120)?;
    let first = shared.join_at(&proxy.endpoint())?;
    shared.while_records_flow(|shared| shared.wait_shared(&[&first]))?;
    shared.wait_settled()?;
    proxy.outage(true);
    shared.produce(300)?;
    first.wait_log("store does not answer, publishing again")?;
    let second = shared.join_at(shared.scene.store.endpoint())?;
    second.wait_published(&connector, 1)?;
    assert!(!first.log().contains("maximum poll interval"), "{}", first.log());
    proxy.outage(false);
    shared.while_records_flow(|shared| shared.wait_shared(&[&first, &second]))?;
    shared.check(&[&first, &second])?;
    first.wait_state(&connector, "RUNNING", 1)?;
    Ok(())
}
