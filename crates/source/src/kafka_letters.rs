//! The real dead letter topic: made when it is not there, and written by an idempotent producer of librdkafka.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::Position;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::{DeadLetters, Error, Letter};

/// How long the broker may take to tell which topics there are, and to make one.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a letter waits before it asks again for room in the producer's queue.
const ROOM_WAIT: Duration = Duration::from_millis(10);

/// What a [`KafkaDeadLetters`] is made from.
#[derive(Clone)]
pub struct LetterConfig {
    /// The topic.
    pub topic: String,
    /// Replicas of its one partition, if it has to be made; -1 for the broker's default.
    pub replication_factor: i32,
    /// Properties of librdkafka for writing, as [`crate::properties::translate`] gives them.
    pub producer: BTreeMap<String, String>,
    /// The same for making the topic.
    pub admin: BTreeMap<String, String>,
}

impl fmt::Debug for LetterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets: only the names are shown.
        f.debug_struct("LetterConfig")
            .field("topic", &self.topic)
            .field("replication_factor", &self.replication_factor)
            .field("producer", &self.producer.keys().collect::<Vec<_>>())
            .field("admin", &self.admin.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl LetterConfig {
    /// Everything that the producer is told: our defaults, over them [`LetterConfig::producer`], over that what an
    /// acknowledgement must mean.
    fn properties(&self) -> BTreeMap<String, String> {
        // The broker says how large a record may be, and keys go to the partitions that Java's producer chooses.
        let defaults = [("message.max.bytes", "1000000000"), ("partitioner", "murmur2_random")];
        // Without an end to the tries: whoever waits for a letter decides how long.
        let fixed = [("acks", "all"), ("enable.idempotence", "true"), ("message.timeout.ms", "0")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut all: BTreeMap<String, String> = defaults.map(owned).into();
        all.extend(self.producer.clone());
        all.extend(fixed.map(owned));
        all
    }
}

/// What a delivery is told to.
type Answer = oneshot::Sender<Result<(), KafkaError>>;

/// Passes deliveries on, and remembers why the broker refuses us.
#[derive(Clone, Default)]
struct Listener {
    refused: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level as i32 {
            ..=4 => tracing::warn!(target: "librdkafka", %facility, "{text}"),
            5 => tracing::info!(target: "librdkafka", %facility, "{text}"),
            6.. => tracing::debug!(target: "librdkafka", %facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as E;
        if matches!(error.rdkafka_error_code(), Some(E::Authentication | E::SaslAuthenticationFailed | E::SSL)) {
            *self.refused.lock().expect("no code panics while it holds this lock") = Some(reason.to_owned());
        }
        tracing::debug!(%error, reason, "client of the dead letter topic");
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = Box<Answer>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Box<Answer>) {
        // Who waited may be gone: then its record is read again.
        let _ = answer.send(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// One task's producer to the dead letter topic.
pub struct KafkaDeadLetters {
    topic: String,
    /// Taken when it is dropped.
    producer: Option<ThreadedProducer<Listener>>,
}

impl KafkaDeadLetters {
    /// Makes the topic with one partition if it is not there, as Kafka Connect does, and gets ready to write.
    pub async fn open(config: &LetterConfig) -> Result<KafkaDeadLetters, Error> {
        make_topic(config).await?;
        let client: ClientConfig = config.properties().into_iter().collect();
        let producer = ThreadedProducer::from_config_and_context(&client, Listener::default())
            .map_err(|error| Error::Config(format!("could not make a producer for dead letters: {error}")))?;
        Ok(KafkaDeadLetters { topic: config.topic.clone(), producer: Some(producer) })
    }

    /// Gives a letter to the producer, when it has room for it.
    async fn send(&self, letter: &Letter) -> Result<oneshot::Receiver<Result<(), KafkaError>>, Error> {
        let producer = self.producer.as_ref().expect("it is there until it is dropped");
        let (answer, answered) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(&self.topic, Box::new(answer)).headers(headers_of(letter));
        record.key = letter.key.as_deref();
        record.payload = letter.value.as_deref();
        record.timestamp = Some(letter.timestamp_ms).filter(|timestamp_ms| *timestamp_ms >= 0);
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(answered),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(self.refused(&letter.at, &error)),
            }
            sleep(ROOM_WAIT).await;
        }
    }

    fn refused(&self, at: &Position, error: &KafkaError) -> Error {
        use RDKafkaErrorCode as E;
        let topic = &self.topic;
        let text =
            |advice: &str| format!("could not write the dead letter of {at} to topic {topic}: {error}; {advice}");
        match error.rdkafka_error_code() {
            Some(E::MessageSizeTooLarge | E::MessageBatchTooLarge) => Error::Denied(text(
                "it is larger than the topic allows: raise the topic's max.message.bytes (context headers add to a record)",
            )),
            Some(E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed) => {
                Error::Denied(text("allow the principal of producer.override.* to write to it"))
            }
            Some(E::InvalidTopic | E::PolicyViolation | E::InvalidRecord | E::InvalidTimestamp) => Error::Denied(text(
                "change the topic's settings so that it takes every record of the topics that are read",
            )),
            _may_be_over_later => Error::Unavailable(text("the task starts again and tries once more")),
        }
    }
}

impl Drop for KafkaDeadLetters {
    /// What waits in the queue is dropped, not written: its record is read again.
    fn drop(&mut self) {
        let producer = self.producer.take();
        // librdkafka takes up to half a second to let go.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(producer));
        }
    }
}

#[async_trait]
impl DeadLetters for KafkaDeadLetters {
    async fn write(&self, letters: Vec<Letter>) -> Result<(), Error> {
        let mut answers = Vec::with_capacity(letters.len());
        for letter in letters {
            // The producer has a copy then.
            answers.push((letter.at.clone(), self.send(&letter).await?));
        }
        for (at, answer) in answers {
            match answer.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.refused(&at, &error)),
                Err(_ended) => return Err(Error::Unavailable("the producer of dead letters has ended".to_owned())),
            }
        }
        Ok(())
    }
}

fn headers_of(letter: &Letter) -> OwnedHeaders {
    letter.headers.iter().fold(OwnedHeaders::new_with_capacity(letter.headers.len()), |headers, (name, value)| {
        headers.insert(Header { key: name, value: value.as_deref() })
    })
}

async fn make_topic(config: &LetterConfig) -> Result<(), Error> {
    let topic = &config.topic;
    let client: ClientConfig = config.admin.clone().into_iter().collect();
    let listener = Listener::default();
    let admin = AdminClient::from_config_and_context(&client, listener.clone())
        .map_err(|error| Error::Config(format!("could not make a client for the dead letter topic: {error}")))?;
    let admin = Arc::new(admin);
    let (asking, name) = (admin.clone(), topic.clone());
    // All topics are asked for: asking for one of them might create it with the broker's defaults.
    let known = tokio::task::spawn_blocking(move || {
        let metadata = asking.inner().fetch_metadata(None, ADMIN_TIMEOUT)?;
        Ok::<bool, KafkaError>(metadata.topics().iter().any(|known| known.name() == name))
    });
    let is_there = match known.await {
        Ok(Ok(is_there)) => is_there,
        Ok(Err(error)) => {
            let refused = listener.refused.lock().expect("no code panics while it holds this lock").take();
            return Err(match refused {
                Some(why) => Error::Denied(format!(
                    "could not look for the dead letter topic {topic}: {why}; check admin.override.* and the worker's admin.*"
                )),
                None => Error::Unavailable(format!("could not look for the dead letter topic {topic}: {error}")),
            });
        }
        Err(stopped) => return Err(Error::Unavailable(format!("could not look for the topic {topic}: {stopped}"))),
    };
    if is_there {
        return Ok(());
    }
    tracing::info!(
        topic,
        replication_factor = config.replication_factor,
        "dead letter topic does not exist, it is made"
    );
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(config.replication_factor));
    let options = AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT)).operation_timeout(Some(ADMIN_TIMEOUT));
    let code = match admin.create_topics([&new], &options).await {
        Ok(made) => match made.into_iter().next() {
            Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => return Ok(()),
            Some(Err((_, code))) => code,
            None => RDKafkaErrorCode::Unknown,
        },
        Err(error) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
    };
    Err(not_made(config, code))
}

fn not_made(config: &LetterConfig, code: RDKafkaErrorCode) -> Error {
    use RDKafkaErrorCode as E;
    let text = |advice: &str| format!("could not make the dead letter topic {}: {code}; {advice}", config.topic);
    match code {
        E::InvalidReplicationFactor => Error::Denied(text(&format!(
            "errors.deadletterqueue.topic.replication.factor is {}, which must not be more than there are brokers",
            config.replication_factor
        ))),
        E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => {
            Error::Denied(text("make it by hand, or allow the principal of admin.override.* to do it"))
        }
        E::InvalidTopic | E::PolicyViolation | E::InvalidConfig | E::InvalidPartitions => {
            Error::Denied(text("make it by hand"))
        }
        _may_be_over_later => Error::Unavailable(text("the task starts again and tries once more")),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Message as _;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Headers as _;
    use rdkafka::{Offset, TopicPartitionList};

    use super::*;
    use crate::EmbeddedBroker;
    use crate::conformance::letters::{LetterWorld, all, letter};

    struct Embedded {
        broker: EmbeddedBroker,
    }

    fn config(broker: &EmbeddedBroker) -> LetterConfig {
        let client = BTreeMap::from([("bootstrap.servers".to_owned(), broker.bootstrap_servers().to_owned())]);
        LetterConfig { topic: "dead".to_owned(), replication_factor: 1, producer: client.clone(), admin: client }
    }

    /// The first letters of the topic, by another client.
    fn read(bootstrap: &str, count: usize) -> Vec<Letter> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "reader")
            .create()
            .expect("the properties are good");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("dead", 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut letters = Vec::new();
        while letters.len() < count {
            let message = consumer.poll(Duration::from_secs(30)).expect("it comes").unwrap();
            let headers = message.headers().map_or(Vec::new(), |headers| {
                headers.iter().map(|one| (one.key.to_owned(), one.value.map(<[u8]>::to_vec))).collect()
            });
            letters.push(Letter {
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                headers,
                ..letter(0, message.key(), message.payload())
            });
        }
        letters
    }

    #[async_trait]
    impl LetterWorld for Embedded {
        async fn open(&mut self) -> Box<dyn DeadLetters> {
            Box::new(KafkaDeadLetters::open(&config(&self.broker)).await.unwrap())
        }

        async fn read(&mut self, count: usize) -> Vec<Letter> {
            read(self.broker.bootstrap_servers(), count)
        }
    }

    #[tokio::test]
    async fn the_kafka_form_conforms_on_the_embedded_broker() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        all(&mut Embedded { broker }).await;
    }

    #[tokio::test]
    async fn letters_wait_for_a_broker_that_is_away() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let letters = KafkaDeadLetters::open(&config(&broker)).await.unwrap();
        letters.write(vec![letter(0, None, Some(b"before"))]).await.unwrap();
        broker.set_reachable(false).unwrap();
        let mut waiting = Box::pin(letters.write(vec![letter(1, None, Some(b"meanwhile"))]));
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiting).await.is_err());
        broker.set_reachable(true).unwrap();
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it is written").unwrap();
        assert_eq!(read(broker.bootstrap_servers(), 2)[1].value.as_deref(), Some(&b"meanwhile"[..]));
    }

    #[test]
    fn an_acknowledgement_means_what_it_must_whatever_is_configured() {
        let mut config = LetterConfig {
            topic: "dead".to_owned(),
            replication_factor: 1,
            producer: BTreeMap::new(),
            admin: BTreeMap::new(),
        };
        for (name, value) in [("acks", "0"), ("enable.idempotence", "false"), ("partitioner", "random")] {
            config.producer.insert(name.to_owned(), value.to_owned());
        }
        let found = config.properties();
        for (name, value) in [("acks", "all"), ("enable.idempotence", "true"), ("partitioner", "random")] {
            assert_eq!(found[name], value);
        }
        config.producer.insert("sasl.password".to_owned(), "secret".to_owned());
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_a_person_must_mend_is_told_from_what_may_be_over_later() {
        use RDKafkaErrorCode as E;
        let config = LetterConfig {
            topic: "dead".to_owned(),
            replication_factor: 3,
            producer: BTreeMap::new(),
            admin: BTreeMap::new(),
        };
        match not_made(&config, E::InvalidReplicationFactor) {
            Error::Denied(text) => assert!(text.contains("replication.factor is 3"), "{text}"),
            other => panic!("{other}"),
        }
        assert!(matches!(not_made(&config, E::OperationTimedOut), Error::Unavailable(_)));
        let letters = KafkaDeadLetters { topic: "dead".to_owned(), producer: None };
        let refused = |code| letters.refused(&letter(7, None, None).at, &KafkaError::MessageProduction(code));
        match refused(E::MessageSizeTooLarge) {
            Error::Denied(text) => assert!(text.contains("t-0@7") && text.contains("max.message.bytes"), "{text}"),
            other => panic!("{other}"),
        }
        assert!(matches!(refused(E::TopicAuthorizationFailed), Error::Denied(_)));
        assert!(matches!(refused(E::UnknownTopicOrPartition), Error::Unavailable(_)));
    }
}
