//! A Kafka broker inside the process (librdkafka's mock cluster) and a producer for it: for the quickstart and for tests
//! that have no broker at hand.
//!
//! It keeps at most 5 MiB or 100,000 records of a topic-partition and silently drops older ones: whoever produces must
//! not run further ahead of the consumer than that.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use model::{Offset, TopicPartition};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message as _};

/// Bytes of a topic-partition that the embedded broker keeps.
pub const KEPT_BYTES_MAX: usize = 5 << 20;
/// Records of a topic-partition that the embedded broker keeps.
pub const KEPT_RECORDS_MAX: usize = 100_000;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The embedded broker or its producer failed; the text says where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EmbeddedError(String);

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Job = Box<dyn FnOnce(&Cluster) + Send>;

/// A broker on a free port of this machine. Dropping it stops it.
pub struct EmbeddedBroker {
    bootstrap: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    producer: Producer,
}

impl EmbeddedBroker {
    /// Starts it.
    pub fn start() -> Result<Self, EmbeddedError> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (started, address) = mpsc::channel();
        // The cluster's handle must stay on one thread.
        let thread =
            std::thread::Builder::new().name("embedded-broker".to_owned()).spawn(move || match Cluster::new(1) {
                Ok(cluster) => {
                    // The other end waits for it, so it is there.
                    let _waits = started.send(Ok(cluster.bootstrap_servers()));
                    for job in work {
                        job(&cluster);
                    }
                }
                Err(error) => drop(started.send(Err(error.to_string()))),
            });
        let thread = thread.map_err(|error| EmbeddedError(format!("could not start the embedded broker: {error}")))?;
        let bootstrap = match address.recv() {
            Ok(Ok(bootstrap)) => bootstrap,
            Ok(Err(error)) => return Err(EmbeddedError(format!("could not start the embedded broker: {error}"))),
            Err(_ended) => return Err(EmbeddedError("the embedded broker ended while it started".to_owned())),
        };
        let producer = Producer::new(&bootstrap)?;
        Ok(Self { bootstrap, jobs: Some(jobs), thread: Some(thread), producer })
    }

    /// `host:port` for `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic; an error if it is there already.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), EmbeddedError> {
        let name = topic.to_owned();
        self.ask(move |cluster| cluster.create_topic(&name, partitions, 1))?
            .map_err(|error| EmbeddedError(format!("could not create topic {topic}: {error}")))
    }

    /// Lets the next OffsetCommit requests fail with these codes, one after the other.
    pub fn fail_commits(&self, codes: &[rdkafka::types::RDKafkaRespErr]) -> Result<(), EmbeddedError> {
        let codes = codes.to_vec();
        self.ask(move |cluster| cluster.request_errors(rdkafka::types::RDKafkaApiKey::OffsetCommit, &codes))
    }

    /// Lets the next Fetch requests fail with these codes, one after the other.
    pub fn fail_fetches(&self, codes: &[rdkafka::types::RDKafkaRespErr]) -> Result<(), EmbeddedError> {
        let codes = codes.to_vec();
        self.ask(move |cluster| cluster.request_errors(rdkafka::types::RDKafkaApiKey::Fetch, &codes))
    }

    /// Takes the broker off the network or puts it back.
    pub fn set_reachable(&self, is_reachable: bool) -> Result<(), EmbeddedError> {
        self.ask(move |cluster| if is_reachable { cluster.broker_up(-1) } else { cluster.broker_down(-1) })?
            .map_err(|error| EmbeddedError(format!("could not switch the embedded broker: {error}")))
    }

    /// First offset after the last record of each partition `0..partitions` of `topic`.
    pub fn end_offsets(&self, topic: &str, partitions: i32) -> Result<Vec<(TopicPartition, Offset)>, EmbeddedError> {
        (0..partitions)
            .map(|partition| {
                let lane = TopicPartition::new(topic, partition);
                let (_, end) = self
                    .producer
                    .client
                    .client()
                    .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
                    .map_err(|error| EmbeddedError(format!("could not read the end of {lane}: {error}")))?;
                Ok((lane, Offset::new(end).unwrap_or(Offset::ZERO)))
            })
            .collect()
    }

    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&Cluster) -> T + Send + 'static) -> Result<T, EmbeddedError> {
        let (answer, wait) = mpsc::channel();
        let job: Job = Box::new(move |cluster| drop(answer.send(job(cluster))));
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        match (sent, wait.recv()) {
            (true, Ok(result)) => Ok(result),
            (true, Err(_)) | (false, _) => Err(EmbeddedError("the embedded broker has ended".to_owned())),
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the embedded broker ended with a panic");
        }
    }
}

/// Writes records to a broker. Cheap to share; all methods may be called from any thread.
pub struct Producer {
    client: ThreadedProducer<FirstError>,
    first_error: Arc<Mutex<Option<String>>>,
}

/// Keeps the first delivery that failed, until it is told.
struct FirstError(Arc<Mutex<Option<String>>>);

impl ClientContext for FirstError {}

impl ProducerContext for FirstError {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Err((error, message)) = result {
            let text = format!("could not write a record to {}-{}: {error}", message.topic(), message.partition());
            self.0.lock().expect("no code panics while it holds this lock").get_or_insert(text);
        }
    }
}

impl Producer {
    /// A producer for the brokers at `bootstrap_servers`.
    pub fn new(bootstrap_servers: &str) -> Result<Self, EmbeddedError> {
        let first_error = Arc::new(Mutex::new(None));
        let client = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("linger.ms", "2")
            .set("message.max.bytes", "100000000")
            .set("acks", "all")
            .create_with_context(FirstError(Arc::clone(&first_error)))
            .map_err(|error| EmbeddedError(format!("could not create a producer: {error}")))?;
        Ok(Self { client, first_error })
    }

    /// Queues one record; waits while the queue is full (a minute at most). A failed delivery is told by the next
    /// [`Self::flush`].
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
    ) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(timestamp_ms);
        record.key = key;
        record.payload = value;
        loop {
            match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    std::thread::park_timeout(Duration::from_millis(2));
                }
                Err((error, _)) => {
                    return Err(EmbeddedError(format!("could not write to {topic}-{partition}: {error}")));
                }
            }
        }
    }

    /// Waits until every record is written; an error if one was not.
    pub fn flush(&self, timeout: Duration) -> Result<(), EmbeddedError> {
        let flushed = self.client.flush(timeout);
        if let Some(error) = self.first_error.lock().expect("no code panics while it holds this lock").take() {
            return Err(EmbeddedError(error));
        }
        flushed.map_err(|error| EmbeddedError(format!("could not write all records in {timeout:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_produced_count_in_the_end_offsets() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 2).unwrap();
        let producer = Producer::new(broker.bootstrap_servers()).unwrap();
        for _ in 0..3 {
            producer.produce("t", 1, None, Some(b"x"), 5).unwrap();
        }
        producer.flush(REQUEST_TIMEOUT).unwrap();
        let ends: Vec<i64> = broker.end_offsets("t", 2).unwrap().iter().map(|(_, end)| end.get()).collect();
        assert_eq!(ends, [0, 3]);
        assert!(broker.create_topic("t", 2).is_err());
    }

    #[test]
    fn a_record_that_cannot_be_written_is_told_by_flush() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        let producer = Producer::new(broker.bootstrap_servers()).unwrap();
        producer.produce("t", 7, None, Some(b"x"), 5).unwrap();
        let error = producer.flush(REQUEST_TIMEOUT).unwrap_err().to_string();
        assert!(error.contains("t-7"), "{error}");
    }
}
