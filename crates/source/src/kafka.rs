//! The real source: one member of a Kafka consumer group on librdkafka, with a thread of its own for polling.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::{Offset, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::bounds::{Bounds, FirstLook};
use crate::code::{Verdict, is_expelled, verdict};
use crate::inbox::{Inbox, Lease};
use crate::keys::{DataLoss, Subscription};
use crate::lost::Reset;
use crate::native::{CommitAnswer, List, MESSAGES_AT_ONCE_MAX, Native};
use crate::poll::Poll;
use crate::protocol::{self, Protocol};
use crate::topic_id::stamped;
use crate::{Assigned, Commit, CommitError, Error, Event, Recovery, Source, exhausted, pattern};

/// What a [`KafkaSource`] is made from.
#[derive(Clone)]
pub struct SourceConfig {
    /// Properties of librdkafka, as [`crate::properties::translate`] gives them: at least `bootstrap.servers` and
    /// `group.id`. What is not said has the defaults of [`SourceConfig::properties`]. `auto.offset.reset` is obeyed here,
    /// not by librdkafka, which is told `error`.
    pub client: BTreeMap<String, String>,
    /// Which topics.
    pub subscription: Subscription,
    /// Where reading begins and ends.
    pub bounds: Bounds,
    /// Knows where topic-partitions without a committed offset go on; without it, or an answer, `auto.offset.reset` says.
    pub recovery: Option<Arc<dyn Recovery>>,
    /// What to do when the log no longer holds the offset to go on from.
    pub on_data_loss: DataLoss,
    /// Whether the headers of records are read.
    pub with_headers: bool,
    /// Bytes of batches that wait for the task; polling stops above it (one batch more at most).
    pub queue_bytes_max: usize,
    /// Bytes of records that librdkafka holds for all topic-partitions together.
    pub fetch_bytes: usize,
    /// Most records of a batch.
    pub batch_rows_max: usize,
    /// Bytes after which a batch ends; the record that crosses it still belongs to it.
    pub batch_bytes_max: usize,
    /// How long a revoke waits for the task; three quarters of `max.poll.interval.ms` at most, after which the group goes
    /// on without this member.
    pub revoke_timeout: Duration,
    /// How long a commit waits for its answer; then its outcome is unknown.
    pub commit_timeout: Duration,
    /// How long an assignment may wait for each of committed offsets and the ends of logs; then the source fails.
    pub assign_timeout: Duration,
    /// How long an assignment may wait for [`SourceConfig::recovery`]; then the source fails. Bounded as
    /// [`SourceConfig::revoke_timeout`] is.
    pub recovery_timeout: Duration,
}

impl SourceConfig {
    /// The usual bounds: 64 MiB waiting, 64 MiB fetched, batches of 4,096 records (they stay in the cache) or 8 MiB, 30 s
    /// for a revoke, 4 min for the recovery; no recovery, and lost data is an error.
    pub fn new(client: BTreeMap<String, String>, subscription: Subscription) -> Self {
        Self {
            client,
            subscription,
            bounds: Bounds::default(),
            recovery: None,
            on_data_loss: DataLoss::Fail,
            with_headers: false,
            queue_bytes_max: 64 << 20,
            fetch_bytes: 64 << 20,
            batch_rows_max: 4_096,
            batch_bytes_max: 8 << 20,
            revoke_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(20),
            assign_timeout: Duration::from_secs(60),
            recovery_timeout: Duration::from_secs(240),
        }
    }

    /// Everything that librdkafka is told at first: our defaults, over them [`SourceConfig::client`], over that what the
    /// exactly-once protocol needs. Under KIP-848 the properties that the broker decides are left out.
    pub fn properties(&self) -> BTreeMap<String, String> {
        let (protocol, _may_fall_back) = protocol::first(&self.client);
        self.properties_for(protocol)
    }

    pub(crate) fn properties_for(&self, protocol: Protocol) -> BTreeMap<String, String> {
        let kilobytes = (self.fetch_bytes / 1024).clamp(1, 2_097_151);
        // Nothing is fetched while the queue is full, but one answer more may be on its way, and it counts compressed
        // there: unpacked it is several times as large.
        let fetch_max = (self.fetch_bytes / 8).clamp(1 << 20, 50 << 20);
        let defaults: [(&str, String); 7] = [
            ("client.id", "sluice".to_owned()),
            ("fetch.queue.backoff.ms", "2".to_owned()),
            ("queued.max.messages.kbytes", kilobytes.to_string()),
            ("fetch.max.bytes", fetch_max.to_string()),
            ("fetch.message.max.bytes", (self.fetch_bytes / 64).clamp(64 << 10, 1 << 20).min(fetch_max).to_string()),
            ("statistics.interval.ms", "0".to_owned()),
            ("log.connection.close", "false".to_owned()),
        ];
        let mut all: BTreeMap<String, String> = defaults.map(|(name, value)| (name.to_owned(), value)).into();
        if self.client.contains_key("max.partition.fetch.bytes") {
            all.remove("fetch.message.max.bytes");
        }
        all.extend(self.client.iter().map(|(name, value)| (name.clone(), value.clone())));
        for (name, value) in [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // The end of a log is told: the position there counts what is not handed out, such as aborted transactions.
            // Sound only because `Native::consume` does not use rd_kafka_consume_batch_queue, which takes the news of an
            // end (or of any trouble in place of a record) for a record: librdkafka keeps that position over a pause, and
            // it pauses at each incremental rebalance, so that the next record would be left out.
            ("enable.partition.eof", "true"),
            // An offset that is lost is told, and decided here.
            ("auto.offset.reset", "error"),
            ("log.queue", "true"),
            ("consume.callback.max.messages", &MESSAGES_AT_ONCE_MAX.to_string()),
        ] {
            all.insert(name.to_owned(), value.to_owned());
        }
        protocol::apply(protocol, &mut all);
        // A fetch response must fit, also when one record is larger than every fetch limit.
        let fetch_max = all.get("fetch.max.bytes").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let receive_max = (fetch_max + 512).clamp(100_000_000, 2_147_483_647);
        all.entry("receive.message.max.bytes".to_owned()).or_insert(receive_max.to_string());
        all
    }

    /// Where a topic-partition begins that nobody knows an offset of.
    pub(crate) fn reset(&self) -> Reset {
        Reset::of(&self.client)
    }

    /// `wait`, or less if the group would not wait so long for an answer.
    pub(crate) fn within_poll_interval(&self, wait: Duration) -> Duration {
        let millis = self.client.get("max.poll.interval.ms").and_then(|text| text.parse().ok());
        wait.min(Duration::from_millis(millis.unwrap_or(300_000)) * 3 / 4)
    }

    /// The group it joins, for messages.
    pub(crate) fn group(&self) -> &str {
        self.client.get("group.id").map_or("", String::as_str)
    }
}

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets: only the names are shown.
        f.debug_struct("SourceConfig")
            .field("client", &self.client.keys().collect::<Vec<_>>())
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

/// What a task asks of the poll thread; the sender is dropped when it is done.
pub(crate) enum Command {
    Rejoin(oneshot::Sender<()>),
    Close(Option<oneshot::Sender<()>>),
}

/// Which topic-partitions may be committed. Whoever commits holds this lock from the check to the broker's answer, and
/// the revoke callback takes it to drop leases: so no commit leaves after a lease is gone.
#[derive(Default)]
pub(crate) struct Leases {
    pub(crate) held: HashMap<TopicPartition, Arc<Lease>>,
    /// A commit ended without a known outcome: this consumer commits nothing more and must not get a new generation.
    pub(crate) unknown: bool,
}

/// What the poll thread and the callers of [`KafkaSource`] share.
pub(crate) struct Shared {
    pub(crate) config: SourceConfig,
    pub(crate) inbox: Inbox,
    pub(crate) leases: Mutex<Leases>,
    pub(crate) paused: Mutex<HashSet<TopicPartition>>,
    /// `None` while there is no consumer. Callers use it under the read lock, so that the last owner is the poll thread.
    pub(crate) native: RwLock<Option<Arc<Native>>>,
    /// A commit was answered as if the group had gone on without us: a revoke need not wait any longer.
    pub(crate) is_expelled: AtomicBool,
    /// It was said that the broker does not tell the ids of topics.
    pub(crate) has_warned_of_ids: AtomicBool,
    pub(crate) started: Instant,
    /// The task was told of an assignment.
    pub(crate) was_assigned: AtomicBool,
    /// What was there when the source started, once that is known.
    pub(crate) first_look: OnceLock<FirstLook>,
    /// The ids that topics had when their topic-partitions were assigned, as far as the broker told them.
    topic_ids: Mutex<HashMap<TopicPartition, String>>,
    /// Where the recovery runs.
    pub(crate) runtime: Option<Handle>,
    /// Where readers came to the end of a log although more is in it that they may not see: the end as known then, and
    /// theirs.
    visible_ends: Mutex<HashMap<TopicPartition, (i64, i64)>>,
    commands: Mutex<VecDeque<Command>>,
}

const NO_PANIC: &str = "no code panics while it holds this lock";

impl Shared {
    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().expect(NO_PANIC)
    }

    pub(crate) fn paused(&self) -> MutexGuard<'_, HashSet<TopicPartition>> {
        self.paused.lock().expect(NO_PANIC)
    }

    /// Where reading of `lane`, which starts at `start`, ends.
    pub(crate) fn until(&self, lane: &TopicPartition, start: Offset) -> Option<Offset> {
        self.first_look.get().filter(|_| self.config.bounds.until_end).map(|look| look.until(lane, start))
    }

    /// Remembers that a reader came to the end of what it may see at `visible` while the log ended at `end`.
    pub(crate) fn saw_end(&self, lane: &TopicPartition, end: i64, visible: i64) {
        self.visible_ends.lock().expect(NO_PANIC).insert(lane.clone(), (end, visible));
    }

    /// Forgets ends that were passed since, as `passed` tells of a lane and its end.
    pub(crate) fn forget_ends(&self, passed: impl Fn(&TopicPartition, i64) -> bool) {
        self.visible_ends.lock().expect(NO_PANIC).retain(|lane, (_, visible)| !passed(lane, *visible));
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.lock().expect(NO_PANIC).pop_front()
    }

    pub(crate) fn has_command(&self) -> bool {
        !self.commands.lock().expect(NO_PANIC).is_empty()
    }

    pub(crate) fn with_native<T>(&self, use_it: impl FnOnce(&Native) -> T) -> Option<T> {
        self.native.read().expect(NO_PANIC).as_deref().map(use_it)
    }

    fn command(&self, command: Command) {
        self.commands.lock().expect(NO_PANIC).push_back(command);
        self.with_native(Native::wake);
    }

    /// Hands out an assignment and the leases that come with it.
    pub(crate) fn hand_out(&self, assigned: Vec<Assigned>) {
        let leases: Vec<Arc<Lease>> = assigned.iter().map(|_| Arc::default()).collect();
        let lanes = assigned.iter().map(|one| one.topic_partition.clone());
        self.leases().held.extend(lanes.zip(leases.iter().cloned()));
        self.inbox.push_assigned(assigned, leases);
    }

    /// The leases under which the task says `commits`: those whose assignment it has taken. A commit may wait for its
    /// turn while its topic-partition goes and comes again; the lease it gets then is not this one.
    fn leases_for(&self, commits: &[Commit]) -> Vec<Option<Arc<Lease>>> {
        let leases = self.leases();
        let begun = |commit: &Commit| leases.held.get(&commit.topic_partition).filter(|lease| lease.has_begun());
        commits.iter().map(|commit| begun(commit).cloned()).collect()
    }

    /// Remembers for which topics `lanes` are committed from now on.
    pub(crate) fn note_topic_ids(&self, lanes: &[TopicPartition], ids: &BTreeMap<String, String>) {
        let mut known = self.topic_ids.lock().expect(NO_PANIC);
        for lane in lanes {
            match ids.get(&*lane.topic) {
                Some(id) => known.insert(lane.clone(), id.clone()),
                None => known.remove(lane),
            };
        }
    }

    fn with_topic_id(&self, commit: &Commit) -> String {
        let known = self.topic_ids.lock().expect(NO_PANIC);
        known.get(&commit.topic_partition).map_or_else(|| commit.metadata.clone(), |id| stamped(&commit.metadata, id))
    }

    fn commit(&self, commits: &[Commit], under: &[Option<Arc<Lease>>]) -> Result<Vec<TopicPartition>, CommitError> {
        let mut leases = self.leases();
        if leases.unknown {
            return Err(CommitError::Unknown(
                "an earlier commit of this member has no known outcome; rejoin first".to_owned(),
            ));
        }
        let mut list = List::new();
        let mut left_out = Vec::new();
        for (commit, under) in commits.iter().zip(under) {
            let held = leases.held.get(&commit.topic_partition);
            if held.zip(under.as_ref()).is_some_and(|(held, under)| Arc::ptr_eq(held, under)) {
                let metadata = self.with_topic_id(commit);
                list.add(&commit.topic_partition, commit.offset.get(), &metadata);
            } else {
                left_out.push(commit.topic_partition.clone());
            }
        }
        if list.is_empty() {
            return Ok(left_out);
        }
        let sent = self.with_native(|native| {
            let answer = native.commit(&list, self.config.commit_timeout);
            if answer.errors.iter().any(|(code, _)| is_expelled(*code)) {
                self.is_expelled.store(true, Ordering::SeqCst);
            }
            outcome(&answer, || native.is_assignment_lost())
        });
        let result = sent.unwrap_or_else(|| Err(CommitError::Fenced("the source is closed".to_owned())));
        leases.unknown = matches!(result, Err(CommitError::Unknown(_)));
        result.map(|()| left_out)
    }
}

/// What became of a commit, from what librdkafka saw. Its client repeats requests on its own; a request that was written
/// twice may be taken by the broker twice, the second time after a newer commit, so even its success counts as unknown.
fn outcome(answer: &CommitAnswer, is_lost: impl FnOnce() -> bool) -> Result<(), CommitError> {
    let told = answer.errors.iter().map(|(code, lane)| match lane {
        Some(lane) => format!("{lane}: {code}"),
        None => code.to_string(),
    });
    let text = told.collect::<Vec<_>>().join("; ");
    if answer.timed_out {
        return Err(CommitError::Unknown("the broker did not answer in time".to_owned()));
    }
    if answer.sent > 1 {
        return Err(CommitError::Unknown(format!("the request was sent {} times; last answer: {text}", answer.sent)));
    }
    let verdicts: Vec<Verdict> = answer.errors.iter().map(|(code, _)| verdict(*code)).collect();
    if verdicts.is_empty() {
        return Ok(());
    }
    if verdicts.contains(&Verdict::Fenced) {
        return Err(CommitError::Fenced(text));
    }
    if verdicts.contains(&Verdict::Rebalancing) {
        return Err(if is_lost() { CommitError::Fenced(text) } else { CommitError::Refused(text) });
    }
    if verdicts.contains(&Verdict::Unknown) && answer.sent > 0 {
        return Err(CommitError::Unknown(text));
    }
    Err(CommitError::Refused(text))
}

/// One member of a Kafka consumer group. Dropping it leaves the group in the background; [`Source::close`] waits for it.
pub struct KafkaSource {
    shared: Arc<Shared>,
}

impl KafkaSource {
    /// Creates the consumer, subscribes and starts the poll thread. Errors: a property or pattern that cannot be used.
    /// A broker that cannot be reached is no error here: it is tried again for as long as the source lives.
    pub fn new(config: SourceConfig) -> Result<Self, Error> {
        if config.group().is_empty() {
            return Err(Error::Config("group.id is missing".to_owned()));
        }
        let topics = match &config.subscription {
            Subscription::Topics(topics) => topics.clone(),
            Subscription::Regex(regex) => vec![pattern::for_librdkafka(regex).map_err(Error::Config)?],
            Subscription::Partitions(_) => config.subscription.topics().into_iter().collect(),
        };
        let runtime = Handle::try_current().ok();
        if config.recovery.is_some() && runtime.is_none() {
            return Err(Error::Config("a source with a recovery must be created inside a tokio runtime".to_owned()));
        }
        let (protocol, may_fall_back) = protocol::first(&config.client);
        let native = Arc::new(connect(&config, &topics, protocol)?);
        let shared = Arc::new(Shared {
            inbox: Inbox::new(config.queue_bytes_max),
            config,
            leases: Mutex::default(),
            paused: Mutex::default(),
            native: RwLock::new(Some(Arc::clone(&native))),
            is_expelled: AtomicBool::new(false),
            has_warned_of_ids: AtomicBool::new(false),
            started: Instant::now(),
            was_assigned: AtomicBool::new(false),
            first_look: OnceLock::new(),
            topic_ids: Mutex::default(),
            runtime,
            visible_ends: Mutex::default(),
            commands: Mutex::default(),
        });
        let poll = Poll::new(Arc::clone(&shared), native, topics, (protocol, may_fall_back));
        std::thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || poll.run())
            .map_err(|error| Error::Unavailable(format!("could not start the poll thread: {error}")))?;
        Ok(Self { shared })
    }
}

/// A consumer that has subscribed.
pub(crate) fn connect(config: &SourceConfig, topics: &[String], protocol: Protocol) -> Result<Native, Error> {
    let native = Native::new(&config.properties_for(protocol))?;
    match native.subscribe(topics) {
        Ok(()) => Ok(native),
        Err(code) => Err(Error::Config(format!("could not subscribe to {}: {code}", topics.join(", ")))),
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&self, records: bool) -> Event {
        let (event, made_room) = self.shared.inbox.next(records).await;
        if matches!(event, Event::Assigned(_)) {
            self.shared.was_assigned.store(true, Ordering::SeqCst);
        }
        if made_room {
            self.shared.with_native(Native::wake);
        }
        event
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        let shared = Arc::clone(&self.shared);
        let under = shared.leases_for(&commits);
        match tokio::task::spawn_blocking(move || shared.commit(&commits, &under)).await {
            Ok(result) => result,
            Err(error) => Err(CommitError::Unknown(format!("the commit was cut short: {error}"))),
        }
    }

    fn pause(&self, partitions: &[TopicPartition]) {
        let mut paused = self.shared.paused();
        paused.extend(partitions.iter().cloned());
        self.shared.with_native(|native| native.pause(&List::of(partitions)));
    }

    fn resume(&self, partitions: &[TopicPartition]) {
        let mut paused = self.shared.paused();
        paused.retain(|lane| !partitions.contains(lane));
        self.shared.with_native(|native| native.resume(&List::of(partitions)));
    }

    fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset> {
        let end = self.shared.with_native(|native| native.known_end(topic_partition)).flatten()?;
        let visible = self.shared.visible_ends.lock().expect(NO_PANIC).get(topic_partition).copied();
        Offset::new(visible.filter(|(then, _)| *then == end).map_or(end, |(_, visible)| visible))
    }

    async fn is_exhausted(&self) -> Result<bool, Error> {
        exhausted::is_exhausted(&self.shared).await
    }

    async fn rejoin(&self) {
        let (done, wait) = oneshot::channel();
        self.shared.command(Command::Rejoin(done));
        // An error means that the poll thread has ended, which only `close` makes it do: then there is nothing to rejoin.
        let _closed = wait.await;
    }

    async fn close(&self) {
        let (done, wait) = oneshot::channel();
        self.shared.command(Command::Close(Some(done)));
        let _closed_before = wait.await;
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.shared.command(Command::Close(None));
    }
}

/// The id of the cluster that these client properties lead to; waits for a broker up to `timeout`.
pub fn cluster_id(client: &BTreeMap<String, String>, timeout: Duration) -> Option<String> {
    let mut config = ClientConfig::new();
    config.extend(client.iter().map(|(name, value)| (name.clone(), value.clone())));
    let consumer: BaseConsumer = config.create().ok()?;
    consumer.client().fetch_cluster_id(timeout)
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
