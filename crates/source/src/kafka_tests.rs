//! `KafkaSource` on the embedded broker: the contract, both group protocols, faults of commits, large records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::{Offset, TopicPartition};
use rdkafka::types::RDKafkaRespErr as E;

use crate::conformance::{self, World};
use crate::{
    Assigned, Bounds, Commit, CommitError, DataLoss, EmbeddedBroker, Error, Event, KafkaSource, Producer, Recovery,
    Source, SourceConfig, Subscription,
};

#[path = "kafka_position_tests.rs"]
mod positions;
#[path = "kafka_protocol_tests.rs"]
mod protocols;

const PATIENCE: Duration = Duration::from_secs(60);

struct Broker {
    broker: EmbeddedBroker,
    producer: Producer,
    extra: Vec<(&'static str, &'static str)>,
}

impl Broker {
    fn start(extra: &[(&'static str, &'static str)]) -> Self {
        let broker = EmbeddedBroker::start().unwrap();
        let producer = Producer::new(broker.bootstrap_servers()).unwrap();
        Self { broker, producer, extra: extra.to_vec() }
    }

    fn config(&self, group: &str, subscription: Subscription) -> SourceConfig {
        let mut client = BTreeMap::from([
            ("bootstrap.servers".to_owned(), self.broker.bootstrap_servers().to_owned()),
            ("group.id".to_owned(), group.to_owned()),
        ]);
        client.extend(self.extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        SourceConfig::new(client, subscription)
    }

    fn is_kip_848(&self) -> bool {
        self.extra.contains(&("group.protocol", "consumer"))
    }

    fn write(&self, topic: &str, partition: i32, values: &[&[u8]]) {
        for value in values {
            self.producer.produce(topic, partition, Some(b"key"), Some(value), 1_700_000_000_000).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }
}

#[async_trait]
impl World for Broker {
    async fn create_topic(&mut self, topic: &str, partitions: i32) {
        self.broker.create_topic(topic, partitions).unwrap();
    }

    async fn produce(&mut self, lane: &TopicPartition, values: &[String]) {
        let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        self.write(&lane.topic, lane.partition, &values);
    }

    async fn join(&mut self, group: &str, topic: &str) -> Box<dyn Source> {
        Box::new(KafkaSource::new(self.config(group, Subscription::Topics(vec![topic.to_owned()]))).unwrap())
    }

    async fn join_with(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Option<Box<dyn Source>> {
        let mut config = self.config(group, Subscription::Topics(vec![topic.to_owned()]));
        config.recovery = Some(recovery);
        Some(Box::new(KafkaSource::new(config).unwrap()))
    }

    async fn join_lossy(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Box<dyn Source> {
        let mut config = self.config(group, Subscription::Topics(vec![topic.to_owned()]));
        (config.recovery, config.on_data_loss) = (Some(recovery), DataLoss::Continue);
        Box::new(KafkaSource::new(config).unwrap())
    }

    async fn join_within(&mut self, group: &str, read: Subscription, bounds: Bounds) -> Box<dyn Source> {
        Box::new(KafkaSource::new(SourceConfig { bounds, ..self.config(group, read) }).unwrap())
    }

    fn takes_commits_while_rebalancing(&self) -> bool {
        // The mock's classic groups refuse them, unlike a broker's.
        self.is_kip_848()
    }

    async fn fence(&mut self, _group: &str) -> bool {
        // Under KIP-848 the client asks the group by heartbeat whether it is really unknown, and the mock says no.
        if self.is_kip_848() {
            return false;
        }
        self.broker.fail_commits(&[E::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]).unwrap();
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_kip_848_the_kafka_source_keeps_the_contract_of_a_source() {
    conformance::all(&mut Broker::start(&[("group.protocol", "consumer")]), "kip848").await;
}

/// The mock waits for the session time-out in every classic rebalance.
const QUICK: [(&str, &str); 2] = [("session.timeout.ms", "4000"), ("heartbeat.interval.ms", "300")];

#[tokio::test(flavor = "multi_thread")]
async fn under_the_cooperative_protocol_partitions_move_and_the_fenced_are_told() {
    let mut broker = Broker::start(&QUICK);
    conformance::revoke_waits_for_the_ack(&mut broker, "cooperative-revoke").await;
    conformance::leaves_out_commits_without_a_lease(&mut broker, "cooperative-lease").await;
    conformance::fenced_member_cannot_commit(&mut broker, "cooperative-fence").await;
    conformance::rejoin_starts_from_what_is_committed(&mut broker, "cooperative-rejoin").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_eager_protocol_partitions_move_and_the_fenced_are_told() {
    let mut broker = Broker::start(&[QUICK[0], QUICK[1], ("partition.assignment.strategy", "range")]);
    conformance::revoke_waits_for_the_ack(&mut broker, "eager-revoke").await;
    conformance::leaves_out_commits_without_a_lease(&mut broker, "eager-lease").await;
    conformance::fenced_member_cannot_commit(&mut broker, "eager-fence").await;
}

async fn next(source: &KafkaSource) -> Event {
    tokio::time::timeout(PATIENCE, source.next(true)).await.expect("an event in time")
}

async fn assigned(source: &KafkaSource) -> Vec<Assigned> {
    loop {
        if let Event::Assigned(assigned) = next(source).await {
            return assigned;
        }
    }
}

fn at(offset: i64, metadata: String) -> Vec<Commit> {
    let topic_partition = TopicPartition::new("t", 0);
    vec![Commit { topic_partition, offset: Offset::new(offset).unwrap(), metadata }]
}

/// A broker with topic `t` of one partition, and a member that has it.
async fn joined() -> (Broker, KafkaSource) {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 1).unwrap();
    broker.write("t", 0, &[b"value".as_slice(); 3]);
    let source = KafkaSource::new(broker.config("g", Subscription::Topics(vec!["t".to_owned()]))).unwrap();
    assert_eq!(assigned(&source).await.len(), 1);
    (broker, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_needs_that_the_task_has_taken_the_assignment() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 1).unwrap();
    broker.write("t", 0, &[b"value".as_slice(); 3]);
    let source = KafkaSource::new(broker.config("g", Subscription::Topics(vec!["t".to_owned()]))).unwrap();
    let lane = TopicPartition::new("t", 0);
    let patience = Instant::now() + PATIENCE;
    while !source.shared.leases().held.contains_key(&lane) {
        assert!(Instant::now() < patience);
        tokio::task::yield_now().await;
    }
    // A lane of an older assignment would speak here.
    assert_eq!(source.commit(at(1, "stale".to_owned())).await, Ok(vec![lane]));
    assigned(&source).await;
    assert_eq!(source.commit(at(1, String::new())).await, Ok(Vec::new()));
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_errors_say_whether_it_may_have_happened() {
    let cases: &[(&[E], &str)] = &[
        (&[], "ok"),
        (&[E::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE], "refused"),
        (&[E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED], "refused"),
        (&[E::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS], "refused"),
        (&[E::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH], "refused"),
        (&[E::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID], "fenced"),
        (&[E::RD_KAFKA_RESP_ERR_FENCED_MEMBER_EPOCH], "fenced"),
        (&[E::RD_KAFKA_RESP_ERR_UNKNOWN], "unknown"),
        // librdkafka sends these again, and the second time it works: but the first request may come late.
        (&[E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT], "unknown"),
        (&[E::RD_KAFKA_RESP_ERR__TRANSPORT], "unknown"),
    ];
    let (broker, source) = joined().await;
    for (codes, expected) in cases {
        broker.broker.fail_commits(codes).unwrap();
        let told = match source.commit(at(1, "plan".to_owned())).await {
            Ok(left_out) => {
                assert_eq!(left_out, Vec::new());
                "ok"
            }
            Err(CommitError::Refused(_)) => "refused",
            Err(CommitError::Fenced(_)) => "fenced",
            Err(CommitError::Unknown(_)) => "unknown",
        };
        assert_eq!(told, *expected, "{codes:?}");
        if told == "unknown" {
            let again = source.commit(at(2, String::new())).await;
            assert!(matches!(again, Err(CommitError::Unknown(_))), "nothing more may be committed: {again:?}");
            source.rejoin().await;
            assert_eq!(assigned(&source).await.len(), 1);
        }
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_unknown_and_the_rejoin_works_when_the_broker_is_back() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 1).unwrap();
    broker.write("t", 0, &[b"value".as_slice(); 3]);
    let mut config = broker.config("g", Subscription::Topics(vec!["t".to_owned()]));
    config.commit_timeout = Duration::from_millis(500);
    let source = KafkaSource::new(config).unwrap();
    assigned(&source).await;
    assert_eq!(source.commit(at(1, "before".to_owned())).await, Ok(Vec::new()));
    broker.broker.set_reachable(false).unwrap();
    let result = source.commit(at(2, "during".to_owned())).await;
    assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
    broker.broker.set_reachable(true).unwrap();
    source.rejoin().await;
    let start = assigned(&source).await.remove(0).start;
    assert!(start.get() == 1 || start.get() == 2, "one of the two: {start}");
    assert_eq!(source.commit(at(3, String::new())).await, Ok(Vec::new()));
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_values_headers_and_times_come_as_they_were_written() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 1).unwrap();
    // Larger than every fetch limit below; the embedded broker keeps no more than 5 MiB.
    let large = vec![b'x'; 4 << 20];
    for (key, value) in [(Some(&b"k"[..]), Some(&b"v"[..])), (None, Some(&b""[..])), (Some(&b""[..]), None)] {
        broker.producer.produce("t", 0, key, value, 42).unwrap();
    }
    broker.producer.flush(PATIENCE).unwrap();
    let mut config = broker.config("g", Subscription::Regex(r"t|u\d".to_owned()));
    config.with_headers = true;
    config.fetch_bytes = 1 << 20;
    let source = KafkaSource::new(config).unwrap();
    let mut rows = Vec::new();
    while rows.len() < 3 {
        if let Event::Batch(batch) = next(&source).await {
            let text = |column: &arrow::array::BinaryArray, row: usize| {
                use arrow::array::Array;
                (!column.is_null(row)).then(|| String::from_utf8_lossy(column.value(row)).into_owned())
            };
            for row in 0..batch.len() {
                rows.push((text(&batch.keys, row), text(&batch.values, row), batch.timestamps_ms[row]));
            }
        }
    }
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [(some("k"), some("v"), 42), (None, some(""), 42), (some(""), None, 42)]);

    broker.write("t", 0, &[&large]);
    loop {
        if let Event::Batch(batch) = next(&source).await {
            assert_eq!(batch.values.value(0), large);
            break;
        }
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_read_stops_the_polling_but_not_the_membership() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 1).unwrap();
    let value = vec![b'x'; 1_000];
    let values: Vec<&[u8]> = (0..3_000).map(|_| value.as_slice()).collect();
    broker.write("t", 0, &values);
    let mut config = broker.config("g", Subscription::Topics(vec!["t".to_owned()]));
    config.queue_bytes_max = 100_000;
    config.batch_rows_max = 10;
    config.fetch_bytes = 200_000;
    let source = KafkaSource::new(config).unwrap();
    let mut count = 0;
    while count < 3_000 {
        match next(&source).await {
            Event::Batch(batch) => {
                assert!(batch.len() <= 10);
                count += batch.len();
            }
            Event::Assigned(_) | Event::Position { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(source.commit(at(3_000, String::new())).await, Ok(Vec::new()));
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_offset_the_policy_none_fails_and_names_the_partition() {
    let broker = Broker::start(&[("group.protocol", "consumer"), ("auto.offset.reset", "error")]);
    broker.broker.create_topic("t", 1).unwrap();
    let source = KafkaSource::new(broker.config("g", Subscription::Topics(vec!["t".to_owned()]))).unwrap();
    match next(&source).await {
        Event::Failed(Error::OffsetLost(text)) => assert!(text.starts_with("t-0 has no committed offset"), "{text}"),
        other => panic!("expected a failure, got {other:?}"),
    }
    source.close().await;
}

#[test]
fn properties_are_refused_with_their_name_and_the_broker_decides_under_kip_848() {
    let client = |pairs: &[(&str, &str)]| -> SourceConfig {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        SourceConfig::new(pairs.collect(), Subscription::Topics(vec!["t".to_owned()]))
    };
    let error = |pairs: &[(&str, &str)]| KafkaSource::new(client(pairs)).err().map(|error| error.to_string()).unwrap();
    assert!(error(&[("bootstrap.servers", "x:1")]).contains("group.id"));
    assert!(error(&[("group.id", "g"), ("fetch.min.bytes", "many")]).contains("fetch.min.bytes"));
    assert!(!format!("{:?}", client(&[("sasl.password", "hidden")])).contains("hidden"));

    let properties = client(&[("group.protocol", "consumer"), ("session.timeout.ms", "1")]).properties();
    assert!(
        !properties.contains_key("session.timeout.ms") && !properties.contains_key("partition.assignment.strategy")
    );
    let properties = client(&[("enable.auto.commit", "true"), ("auto.offset.reset", "latest")]).properties();
    assert_eq!(
        (properties["enable.auto.commit"].as_str(), properties["auto.offset.reset"].as_str()),
        ("false", "error")
    );
    let properties = client(&[("group.protocol", "classic")]).properties();
    assert_eq!(properties["partition.assignment.strategy"], "cooperative-sticky");
}

/// `cargo test --release -p source -- --ignored --nocapture consume_only` prints messages/s.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn consume_only_rate() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    let partitions = 4;
    broker.broker.create_topic("t", partitions).unwrap();
    let value = vec![b'x'; 214];
    let batch: Vec<&[u8]> = (0..20_000).map(|_| value.as_slice()).collect();
    for partition in 0..partitions {
        broker.write("t", partition, &batch);
    }
    let source = KafkaSource::new(broker.config("g", Subscription::Topics(vec!["t".to_owned()]))).unwrap();
    assigned(&source).await;
    let (begin, mut count, mut batches) = (Instant::now(), 0, 0);
    while count < batch.len() * partitions as usize {
        if let Event::Batch(batch) = next(&source).await {
            (count, batches) = (count + batch.len(), batches + 1);
        }
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    tracing::info!(rate, count, batches, "consume only");
    assert!(rate > 0.0);
    source.close().await;
}
