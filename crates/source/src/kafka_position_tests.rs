//! Where reading starts and goes on when offsets are missing, recovered or lost; where groups stand.

use std::sync::Mutex;

use super::*;
use crate::group::{self, GroupError};
use crate::{DataLoss, Recovered};

/// Knows these.
struct Knows(Vec<Recovered>, Mutex<usize>);

impl Knows {
    fn new(partition: i32, start: i64) -> Arc<Knows> {
        let topic_partition = TopicPartition::new("t", partition);
        Arc::new(Knows(vec![Recovered { topic_partition, start: at(start), metadata: String::new() }], Mutex::new(0)))
    }
}

#[async_trait]
impl Recovery for Knows {
    async fn recover(
        &self,
        _partitions: &[TopicPartition],
        _topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, Error> {
        *self.1.lock().unwrap() += 1;
        Ok(self.0.clone())
    }
}

fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn topic_t() -> Subscription {
    Subscription::Topics(vec!["t".to_owned()])
}

/// A broker with topic `t` of one partition that holds so many small records.
fn holds(records: usize, extra: &[(&'static str, &'static str)]) -> Broker {
    let broker = Broker::start(extra);
    broker.broker.create_topic("t", 1).unwrap();
    broker.write("t", 0, &vec![b"value".as_slice(); records]);
    broker
}

/// Writes records of 1 MB until the embedded broker has dropped all that were before: it keeps 5 MiB.
fn bury(broker: &Broker) -> i64 {
    let large = vec![b'x'; 1 << 20];
    broker.write("t", 0, &[large.as_slice(); 8]);
    let positions = group::positions(&broker.config("someone", topic_t()).client, &topic_t(), PATIENCE).unwrap();
    positions[0].begin.get()
}

fn commit_outside(broker: &Broker, offset: i64) {
    let client = broker.config("g", topic_t()).client;
    group::set(&client, super::at(offset, "old".to_owned()), PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_offset_that_retention_ate_fails_or_goes_on_at_the_beginning() {
    for protocol in [("group.protocol", "consumer"), ("group.protocol", "classic")] {
        let broker = holds(3, &[protocol]);
        commit_outside(&broker, 2);
        let begin = bury(&broker);
        assert!(begin > 3);
        let mut config = broker.config("g", topic_t());
        let source = KafkaSource::new(config.clone()).unwrap();
        match next(&source).await {
            Event::Failed(Error::OffsetLost(text)) => {
                assert!(text.contains("t-0 cannot be read from the committed offset 2"), "{text}");
                assert!(text.contains(&format!("{} offsets are missing", begin - 2)), "{text}");
                assert!(text.contains("retention") && text.contains("on.data.loss=continue"), "{text}");
            }
            other => panic!("expected a failure, got {other:?}"),
        }
        source.close().await;
        config.on_data_loss = DataLoss::Continue;
        let source = KafkaSource::new(config).unwrap();
        let one = assigned(&source).await.remove(0);
        assert_eq!((one.start.get(), one.metadata.as_str(), one.committed), (begin, "", false));
        match next(&source).await {
            Event::Batch(batch) => assert_eq!(batch.offsets[0], begin),
            other => panic!("expected records, got {other:?}"),
        }
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_past_the_end_is_another_log_and_reset_decides() {
    let broker = holds(10, &[("group.protocol", "consumer")]);
    commit_outside(&broker, 500);
    let mut config = broker.config("g", topic_t());
    let source = KafkaSource::new(config.clone()).unwrap();
    match next(&source).await {
        Event::Failed(Error::OffsetLost(text)) => {
            assert!(text.contains("490 offsets before it") && text.contains("created again"), "{text}");
        }
        other => panic!("expected a failure, got {other:?}"),
    }
    source.close().await;
    for (reset, start) in [("earliest", 0), ("latest", 10)] {
        config.on_data_loss = DataLoss::Continue;
        config.client.insert("auto.offset.reset".to_owned(), reset.to_owned());
        let source = KafkaSource::new(config.clone()).unwrap();
        assert_eq!(assigned(&source).await[0].start.get(), start, "{reset}");
        source.close().await;
    }
    config.client.insert("auto.offset.reset".to_owned(), "error".to_owned());
    let source = KafkaSource::new(config).unwrap();
    assert!(matches!(next(&source).await, Event::Failed(Error::OffsetLost(_))));
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_starts_are_used_and_checked_against_the_log() {
    let broker = holds(10, &[("group.protocol", "consumer")]);
    let mut config = broker.config("g", topic_t());
    config.recovery = Some(Knows::new(0, 7));
    let source = KafkaSource::new(config.clone()).unwrap();
    let one = assigned(&source).await.remove(0);
    assert_eq!((one.start.get(), one.committed), (7, false));
    source.close().await;
    // The topic was created again since: its objects tell of a log that is gone.
    config.recovery = Some(Knows::new(0, 11));
    let source = KafkaSource::new(config.clone()).unwrap();
    match next(&source).await {
        Event::Failed(Error::OffsetLost(text)) => assert!(text.contains("newest object, offset 11"), "{text}"),
        other => panic!("expected a failure, got {other:?}"),
    }
    source.close().await;
    // What the group knows needs no recovery.
    config.client.insert("group.id".to_owned(), "h".to_owned());
    group::set(&config.client, super::at(3, String::new()), PATIENCE).unwrap();
    let knows = Knows::new(0, 7);
    config.recovery = Some(knows.clone());
    let source = KafkaSource::new(config).unwrap();
    assert_eq!(assigned(&source).await[0].start.get(), 3);
    assert_eq!(*knows.1.lock().unwrap(), 0);
    source.close().await;
}

/// Never answers.
struct Silent;

#[async_trait]
impl Recovery for Silent {
    async fn recover(
        &self,
        _partitions: &[TopicPartition],
        _topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, Error> {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_without_an_answer_ends_in_its_time_and_gives_way_to_close() {
    let broker = holds(1, &[("group.protocol", "consumer")]);
    let mut config = broker.config("g", topic_t());
    config.recovery = Some(Arc::new(Silent));
    let source = KafkaSource::new(config.clone()).unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(1), source.next(true)).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let begin = Instant::now();
    source.close().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "close waited {:?}", begin.elapsed());
    config.recovery_timeout = Duration::from_millis(300);
    let source = KafkaSource::new(config).unwrap();
    assert!(matches!(next(&source).await, Event::Failed(Error::Unavailable(_))));
    source.close().await;
}

#[test]
fn outside_a_runtime_only_a_recovery_is_refused() {
    let broker = holds(1, &[]);
    let mut config = broker.config("g", topic_t());
    drop(KafkaSource::new(config.clone()).unwrap());
    config.recovery = Some(Arc::new(Silent));
    assert!(matches!(KafkaSource::new(config), Err(Error::Config(_))));
}

/// Reads until a record with this offset came; tells the offsets in order.
async fn read_to(source: &KafkaSource, last: i64, offsets: &mut Vec<i64>, positions: &mut Vec<i64>) {
    while offsets.last() != Some(&last) {
        match next(source).await {
            Event::Batch(batch) => offsets.extend(batch.offsets.iter()),
            Event::Position { next, .. } => positions.push(next.get()),
            Event::Assigned(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

const PROTOCOLS: [&[(&str, &str)]; 3] = [
    &[("group.protocol", "consumer")],
    &[("partition.assignment.strategy", "cooperative-sticky")],
    &[("partition.assignment.strategy", "range")],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_offset_that_is_in_the_log_is_read_again_without_loss_or_repetition() {
    for protocol in PROTOCOLS {
        let broker = holds(10, protocol);
        let source = KafkaSource::new(broker.config("g", topic_t())).unwrap();
        let (mut offsets, mut positions) = (Vec::new(), Vec::new());
        read_to(&source, 9, &mut offsets, &mut positions).await;
        broker.broker.fail_fetches(&[E::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]).unwrap();
        broker.write("t", 0, &[b"more".as_slice(); 10]);
        read_to(&source, 19, &mut offsets, &mut positions).await;
        broker.write("t", 0, &[b"more".as_slice(); 10]);
        read_to(&source, 29, &mut offsets, &mut positions).await;
        assert_eq!(offsets, (0..30).collect::<Vec<_>>(), "{protocol:?}");
        assert_eq!(source.commit(super::at(30, String::new())).await, Ok(Vec::new()));
        source.close().await;
    }
}

/// librdkafka keeps the position of what was handed out over a pause: the news of an end, or of a trouble, is no record.
#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_left_out_after_an_end_or_a_trouble_and_a_pause() {
    let lane = [TopicPartition::new("t", 0)];
    for protocol in PROTOCOLS {
        let broker = holds(10, protocol);
        let mut config = broker.config("g", topic_t());
        config.client.insert("fetch.wait.max.ms".to_owned(), "5".to_owned());
        config.client.insert("fetch.error.backoff.ms".to_owned(), "5".to_owned());
        let source = KafkaSource::new(config).unwrap();
        let (mut offsets, mut positions) = (Vec::new(), Vec::new());
        read_to(&source, 9, &mut offsets, &mut positions).await;
        for round in 1..4 {
            if round == 2 {
                broker.broker.fail_fetches(&[E::RD_KAFKA_RESP_ERR_UNKNOWN; 3]).unwrap();
            }
            // Time for the news to come; nothing tells of them.
            tokio::time::sleep(Duration::from_millis(300)).await;
            source.pause(&lane);
            source.resume(&lane);
            broker.write("t", 0, &[b"more".as_slice(); 10]);
            read_to(&source, 9 + round * 10, &mut offsets, &mut positions).await;
        }
        assert_eq!(offsets, (0..40).collect::<Vec<_>>(), "{protocol:?}");
        assert_eq!(positions, [] as [i64; 0]);
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_retention_overtakes_fails_or_goes_on_over_the_gap() {
    for (protocol, policy) in [
        (PROTOCOLS[0], DataLoss::Continue),
        (PROTOCOLS[1], DataLoss::Continue),
        (PROTOCOLS[2], DataLoss::Continue),
        (PROTOCOLS[0], DataLoss::Fail),
    ] {
        let broker = holds(10, protocol);
        let mut config = broker.config("g", topic_t());
        config.on_data_loss = policy;
        let source = KafkaSource::new(config).unwrap();
        let (mut offsets, mut positions) = (Vec::new(), Vec::new());
        read_to(&source, 9, &mut offsets, &mut positions).await;
        // The reader hears nothing of what is written until it is gone.
        source.pause(&[TopicPartition::new("t", 0)]);
        let begin = bury(&broker);
        source.resume(&[TopicPartition::new("t", 0)]);
        if policy == DataLoss::Fail {
            loop {
                match next(&source).await {
                    Event::Failed(Error::OffsetLost(text)) => {
                        assert!(text.contains("from the next offset to read, 10"), "{text}");
                        break;
                    }
                    Event::Position { .. } => {}
                    other => panic!("expected a failure, got {other:?}"),
                }
            }
        } else {
            read_to(&source, 17, &mut offsets, &mut positions).await;
            assert_eq!(offsets[10..], (begin..18).collect::<Vec<_>>(), "{protocol:?}");
            assert!(positions.contains(&begin), "the gap was not told: {positions:?}");
            assert_eq!(source.commit(super::at(18, String::new())).await, Ok(Vec::new()));
        }
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_seen_and_set_from_outside_while_nobody_is_in_the_group() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    for topic in ["a1", "a2", "b"] {
        broker.broker.create_topic(topic, 2).unwrap();
    }
    broker.write("a2", 1, &[b"value".as_slice(); 5]);
    let regex = Subscription::Regex("a.".to_owned());
    let client = broker.config("g", regex.clone()).client;
    let lane = TopicPartition::new("a2", 1);
    let see = || {
        let seen = group::positions(&client, &regex, PATIENCE).unwrap();
        let names: Vec<String> = seen.iter().map(|one| one.topic_partition.to_string()).collect();
        assert_eq!(names, ["a1-0", "a1-1", "a2-0", "a2-1"]);
        seen.into_iter().find(|one| one.topic_partition == lane).unwrap()
    };
    let seen = see();
    assert_eq!((seen.committed, seen.begin.get(), seen.end.get()), (None, 0, 5));
    let commit = |offset| Commit { topic_partition: lane.clone(), offset: at(offset), metadata: "why".to_owned() };
    group::set(&client, vec![commit(3)], PATIENCE).unwrap();
    assert_eq!(see().committed, Some((at(3), "why".to_owned())));
    assert!(group::positions(&client, &Subscription::Topics(vec!["none".to_owned()]), PATIENCE).unwrap().is_empty());
}

#[test]
fn a_broker_that_is_away_is_told_in_time() {
    let client = BTreeMap::from([
        ("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned()),
        ("group.id".to_owned(), "g".to_owned()),
    ]);
    let begin = Instant::now();
    let timeout = Duration::from_secs(1);
    match group::positions(&client, &topic_t(), timeout) {
        Err(Error::Unavailable(text)) => assert!(text.contains("127.0.0.1:1"), "{text}"),
        other => panic!("expected an error, got {other:?}"),
    }
    match group::set(&client, super::at(1, String::new()), timeout) {
        Err(GroupError::Source(Error::Unavailable(_))) => {}
        other => panic!("expected an error, got {other:?}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// `cargo test -p source -- --ignored --nocapture the_ends_of_many` prints how long an assignment takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn the_ends_of_many_partitions() {
    let broker = Broker::start(&[("group.protocol", "consumer")]);
    broker.broker.create_topic("t", 500).unwrap();
    let begin = Instant::now();
    let source = KafkaSource::new(broker.config("g", topic_t())).unwrap();
    let mut count = 0;
    while count < 500 {
        count += assigned(&source).await.len();
    }
    let assigned_in = begin.elapsed();
    let begin = Instant::now();
    let client = broker.config("g", topic_t()).client;
    assert_eq!(group::positions(&client, &topic_t(), PATIENCE).unwrap().len(), 500);
    panic!("assigned in {assigned_in:?}, positions in {:?}", begin.elapsed());
}
