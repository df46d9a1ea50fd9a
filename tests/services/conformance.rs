//! The conformance suites of the traits on the real parts: a Kafka broker under three protocols, MinIO, LocalStack.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, BinaryArray};
use async_trait::async_trait;
use model::{Config, Settings, TopicPartition};
use source::conformance::World;
use source::conformance::letters::{LetterWorld, letter};
use source::{
    Bounds, DataLoss, DeadLetters, Event, KafkaDeadLetters, KafkaSource, Letter, LetterConfig, Recovery, Source,
    SourceConfig, Subscription,
};
use tests::ring::{Outcome, Test, block_on};
use tests::{Kafka, Need, Record, S3, Services, unique};
use writer::{Environment, ObjectCommitter, OnExisting, Store};

/// One for each protocol and store.
pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "kafka_source_conforms_under_kip_848",
        needs: &[Need::Kafka],
        run: || source_conforms("kip-848", KIP_848),
    },
    Test {
        name: "kafka_source_conforms_when_cooperative",
        needs: &[Need::Kafka],
        run: || source_conforms("sticky", STICKY),
    },
    Test { name: "kafka_source_conforms_when_eager", needs: &[Need::Kafka], run: || source_conforms("range", RANGE) },
    Test { name: "dead_letters_conform", needs: &[Need::Kafka], run: letters_conform },
    Test {
        name: "store_and_committer_conform_on_minio",
        needs: &[Need::Minio],
        run: || store_conforms(Services::minio()?),
    },
    Test {
        name: "store_and_committer_conform_on_localstack",
        needs: &[Need::Localstack],
        run: || store_conforms(Services::localstack()?),
    },
];

const KIP_848: &[(&str, &str)] = &[("group.protocol", "consumer")];
const STICKY: &[(&str, &str)] =
    &[("partition.assignment.strategy", "cooperative-sticky"), ("session.timeout.ms", "6000")];
const RANGE: &[(&str, &str)] = &[("partition.assignment.strategy", "range"), ("session.timeout.ms", "6000")];

struct Broker {
    kafka: &'static Kafka,
    properties: &'static [(&'static str, &'static str)],
}

impl Broker {
    fn client(&self, group: &str) -> BTreeMap<String, String> {
        let fixed = [("bootstrap.servers", self.kafka.bootstrap()), ("group.id", group)];
        fixed.iter().chain(self.properties).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }
}

#[async_trait]
impl World for Broker {
    async fn create_topic(&mut self, topic: &str, partitions: i32) {
        self.kafka.create_topic(topic, partitions.unsigned_abs()).unwrap();
    }

    async fn produce(&mut self, lane: &TopicPartition, values: &[String]) {
        let record = |value: &String| Record { partition: Some(lane.partition), ..Record::of(value.clone()) };
        self.kafka.produce(&lane.topic, &values.iter().map(record).collect::<Vec<_>>()).unwrap();
    }

    async fn join(&mut self, group: &str, topic: &str) -> Box<dyn Source> {
        let client = self.client(group);
        Box::new(KafkaSource::new(SourceConfig::new(client, Subscription::Topics(vec![topic.to_owned()]))).unwrap())
    }

    async fn join_with(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Option<Box<dyn Source>> {
        let mut config = SourceConfig::new(self.client(group), Subscription::Topics(vec![topic.to_owned()]));
        config.recovery = Some(recovery);
        Some(Box::new(KafkaSource::new(config).unwrap()))
    }

    async fn join_lossy(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Box<dyn Source> {
        let mut config = SourceConfig::new(self.client(group), Subscription::Topics(vec![topic.to_owned()]));
        (config.recovery, config.on_data_loss) = (Some(recovery), DataLoss::Continue);
        Box::new(KafkaSource::new(config).unwrap())
    }

    async fn join_within(&mut self, group: &str, read: Subscription, bounds: Bounds) -> Box<dyn Source> {
        Box::new(KafkaSource::new(SourceConfig { bounds, ..SourceConfig::new(self.client(group), read) }).unwrap())
    }

    async fn fence(&mut self, _group: &str) -> bool {
        // A broker takes a member away only when it falls silent, which a test cannot make a living one do.
        false
    }
}

fn source_conforms(stem: &str, properties: &'static [(&'static str, &'static str)]) -> Outcome {
    let mut broker = Broker { kafka: Services::kafka()?, properties };
    let prefix = unique(stem);
    block_on(async { source::conformance::all(&mut broker, &prefix).await });
    Ok(())
}

/// A topic that is made by its first writer, and read through our own consumer.
struct LetterTopic {
    broker: Broker,
    topic: String,
}

#[async_trait]
impl LetterWorld for LetterTopic {
    async fn open(&mut self) -> Box<dyn DeadLetters> {
        let bootstrap = self.broker.kafka.bootstrap().to_owned();
        let client = BTreeMap::from([("bootstrap.servers".to_owned(), bootstrap)]);
        let config =
            LetterConfig { topic: self.topic.clone(), replication_factor: 1, producer: client.clone(), admin: client };
        Box::new(KafkaDeadLetters::open(&config).await.unwrap())
    }

    async fn read(&mut self, count: usize) -> Vec<Letter> {
        let client = self.broker.client(&unique("letters"));
        let mut config = SourceConfig::new(client, Subscription::Topics(vec![self.topic.clone()]));
        config.with_headers = true;
        let source = KafkaSource::new(config).unwrap();
        let mut letters = Vec::new();
        while letters.len() < count {
            match source.next(true).await {
                Event::Batch(raw) => letters.extend((0..raw.len()).map(|row| {
                    let bytes = |column: &BinaryArray| column.is_valid(row).then(|| column.value(row).to_vec());
                    Letter {
                        key: bytes(&raw.keys),
                        value: bytes(&raw.values),
                        timestamp_ms: raw.timestamps_ms[row],
                        headers: raw.headers.as_ref().map_or(Vec::new(), |all| all[row].clone()),
                        ..letter(0, None, None)
                    }
                })),
                Event::Failed(error) => panic!("{error}"),
                Event::Assigned(_) | Event::Revoked { .. } | Event::Position { .. } => {}
            }
        }
        source.close().await;
        letters
    }
}

fn letters_conform() -> Outcome {
    let broker = Broker { kafka: Services::kafka()?, properties: STICKY };
    let mut topic = LetterTopic { broker, topic: unique("dead") };
    block_on(async { source::conformance::letters::all(&mut topic).await });
    Ok(())
}

fn store_conforms(s3: &S3) -> Outcome {
    let bucket = unique("conformance");
    s3.create_bucket(&bucket)?;
    let config: Config = [
        ("s3.bucket.name", bucket.as_str()),
        ("s3.region", S3::REGION),
        ("store.url", s3.endpoint()),
        ("aws.access.key.id", s3.access_key()),
        ("aws.secret.access.key", s3.secret_key()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let store = Store::open(&Settings::new(config), &Environment::default())?;
    block_on(async {
        store.probe("_sluice/probe").await?;
        writer::conformance::store(&store).await;
        writer::conformance::committer(&ObjectCommitter::new(store.clone(), OnExisting::Fail), &store, "conformance")
            .await;
        writer::conformance::newest(&store, "newest").await;
        if writer::conformance::orphans(&store, "orphans").await == 0 {
            return Err("the store keeps no unfinished uploads".into());
        }
        if !writer::conformance::refuses_to_replace_by_completion(&store, "completions").await {
            return Err("the store replaced an object by completing an upload".into());
        }
        Ok(())
    })
}
