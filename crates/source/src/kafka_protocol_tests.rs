//! Which group protocol is spoken, and what happens when the broker does not have it, takes membership away, or has no
//! leader for a partition.

use super::*;
use crate::native::mock::{CONSUMER_GROUP_HEARTBEAT, Mock};

fn source_on(mock: &Mock, extra: &[(&str, &str)]) -> KafkaSource {
    let bootstrap = mock.bootstrap();
    let fixed = [("bootstrap.servers", bootstrap.as_str()), ("group.id", "g")];
    let client = fixed.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    KafkaSource::new(SourceConfig::new(client, Subscription::Topics(vec!["t".to_owned()]))).unwrap()
}

async fn protocol_of(source: &KafkaSource) -> &'static str {
    let kept = assigned(source).await;
    assert_eq!(kept.len(), 1);
    let commit = Commit { topic_partition: TopicPartition::new("t", 0), offset: Offset::ZERO, metadata: String::new() };
    assert_eq!(source.commit(vec![commit]).await, Ok(Vec::new()));
    let properties = source.shared.native.read().unwrap().as_ref().map(|native| native.is_kip_848());
    if properties == Some(true) { "consumer" } else { "classic" }
}

#[tokio::test(flavor = "multi_thread")]
async fn kip_848_is_spoken_where_the_broker_has_it_and_at_once() {
    let mock = Mock::start();
    mock.create_topic("t", 1);
    let begin = Instant::now();
    let source = source_on(&mock, &[]);
    assert_eq!(protocol_of(&source).await, "consumer");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_kip_848_is_spoken_to_in_the_classic_protocol_also_after_a_rejoin() {
    let mock = Mock::start();
    mock.create_topic("t", 1);
    mock.unlearn(CONSUMER_GROUP_HEARTBEAT);
    let source = source_on(&mock, &[]);
    assert_eq!(protocol_of(&source).await, "classic");
    source.rejoin().await;
    assert_eq!(protocol_of(&source).await, "classic");
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_allow_kip_848_is_spoken_to_in_the_classic_protocol() {
    let mock = Mock::start();
    mock.create_topic("t", 1);
    mock.fail(CONSUMER_GROUP_HEARTBEAT, &[E::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION]);
    let source = source_on(&mock, &[]);
    assert_eq!(protocol_of(&source).await, "classic");
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_kip_848_where_there_is_none_is_told() {
    for is_known in [true, false] {
        let mock = Mock::start();
        mock.create_topic("t", 1);
        if is_known {
            mock.fail(CONSUMER_GROUP_HEARTBEAT, &[E::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION]);
        } else {
            mock.unlearn(CONSUMER_GROUP_HEARTBEAT);
        }
        let source = source_on(&mock, &[("group.protocol", "consumer")]);
        match next(&source).await {
            Event::Failed(Error::Denied(text)) => assert!(text.contains("group.protocol"), "{text}"),
            other => panic!("expected a failure, got {other:?}"),
        }
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_waits_for_its_name() {
    let mock = Mock::start();
    mock.create_topic("t", 1);
    mock.fail(CONSUMER_GROUP_HEARTBEAT, &[E::RD_KAFKA_RESP_ERR_UNRELEASED_INSTANCE_ID]);
    let source = source_on(&mock, &[("group.instance.id", "me")]);
    assert_eq!(protocol_of(&source).await, "consumer");
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_kip_848_a_member_that_the_group_fenced_has_lost_everything_and_joins_again() {
    let mock = Mock::start();
    mock.create_topic("t", 1);
    let source = source_on(&mock, &[]);
    assert_eq!(assigned(&source).await.len(), 1);
    mock.fail(CONSUMER_GROUP_HEARTBEAT, &[E::RD_KAFKA_RESP_ERR_FENCED_MEMBER_EPOCH]);
    loop {
        match next(&source).await {
            Event::Revoked { lost, partitions, .. } => {
                assert!(lost && partitions.len() == 1, "{partitions:?} lost: {lost}");
                break;
            }
            Event::Position { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(assigned(&source).await.len(), 1);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_does_not_hold_up_the_others() {
    let mock = Mock::start();
    mock.create_topic("t", 2);
    let commits = (0..2).map(|partition| Commit {
        topic_partition: TopicPartition::new("t", partition),
        offset: Offset::ZERO,
        metadata: String::new(),
    });
    let client: BTreeMap<String, String> =
        [("bootstrap.servers".to_owned(), mock.bootstrap()), ("group.id".to_owned(), "g".to_owned())].into();
    crate::group::set(&client, commits.collect(), PATIENCE).unwrap();
    mock.take_leader("t", 1);
    let source = source_on(&mock, &[]);
    let starts: Vec<(Offset, bool)> = assigned(&source).await.iter().map(|one| (one.start, one.committed)).collect();
    assert_eq!(starts, [(Offset::ZERO, true); 2]);
    source.close().await;
    // Where nothing is committed, nobody can say where to start.
    let mut client = client;
    client.insert("group.id".to_owned(), "h".to_owned());
    let source = KafkaSource::new(SourceConfig::new(client, Subscription::Topics(vec!["t".to_owned()]))).unwrap();
    match next(&source).await {
        Event::Failed(Error::Unavailable(text)) => assert!(text.contains("the log of t-1"), "{text}"),
        other => panic!("expected a failure, got {other:?}"),
    }
    source.close().await;
}
