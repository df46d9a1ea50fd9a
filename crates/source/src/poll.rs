//! The poll thread of a [`crate::KafkaSource`]: takes messages in batches, answers rebalances, tells positions.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use model::{Offset, TopicPartition};
use tokio::sync::oneshot;

use crate::code::{Code, Trouble, fatal, trouble};
use crate::collect::{Collector, Lane};
use crate::kafka::{Command, Shared, connect};
use crate::native::{List, MESSAGES_PER_CALL_MAX, MessageBuffer, Native, Notice};
use crate::{Ack, Assigned, Error, Event};

/// How long one call collects messages: the most that a lone record waits, and a rebalance too.
const CONSUME_WAIT: Duration = Duration::from_millis(20);
/// How often it looks for room while the inbox is full; the reader wakes it earlier.
const FULL_WAIT: Duration = Duration::from_millis(50);
/// How often idle lanes are asked for their position.
const POSITION_INTERVAL: Duration = Duration::from_secs(1);
/// How often the same trouble is logged.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// A topic that is missing may just be on its way: it is warned about after this.
const NO_TOPIC_GRACE: Duration = Duration::from_secs(5);
/// Time to leave a group in order.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one request to the broker inside a rebalance, and the pause before it is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Whether the consumer may go on after a rebalance.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    /// A commit has no known outcome: this consumer must not get a new generation.
    Renew,
}

/// The thread's state.
pub(crate) struct Poll {
    shared: Arc<Shared>,
    /// `None` when a new consumer could not be made after the old one was left.
    native: Option<Arc<Native>>,
    topics: Vec<String>,
    collector: Collector,
    buffer: MessageBuffer,
    positions_told: Instant,
    warned: HashMap<(Code, String), Instant>,
    /// Topics that were not there, as librdkafka said it (once), and when.
    missing: Vec<(String, Instant)>,
    is_over: bool,
}

impl Poll {
    pub(crate) fn new(shared: Arc<Shared>, native: Arc<Native>, topics: Vec<String>) -> Self {
        let collector = Collector::new(Arc::clone(&shared));
        let buffer = MessageBuffer::new(MESSAGES_PER_CALL_MAX);
        let (positions_told, warned) = (Instant::now(), HashMap::new());
        let native = Some(native);
        Self { shared, native, topics, collector, buffer, positions_told, warned, missing: Vec::new(), is_over: false }
    }

    /// Polls until it is told to close.
    pub(crate) fn run(mut self) {
        loop {
            match self.shared.next_command() {
                Some(Command::Rejoin(_done)) => self.renew(),
                Some(Command::Close(_done)) => return self.leave(),
                None => {
                    if self.round() == Flow::Renew {
                        self.renew();
                    }
                }
            }
        }
    }

    /// Serves the main queue, takes records if there is room for them, and tells positions.
    fn round(&mut self) -> Flow {
        let Some(native) = self.native.clone() else {
            std::thread::park_timeout(FULL_WAIT);
            return Flow::Continue;
        };
        let reads = !self.is_over && !self.shared.inbox.is_full();
        let mut wait = if reads { Duration::ZERO } else { FULL_WAIT };
        loop {
            let (came, notice) = native.serve(wait, &mut |message| self.collector.take(message));
            wait = Duration::ZERO;
            self.collector.flush();
            let flow = match notice {
                Some(Notice::Assign(list)) => self.on_assign(&native, list),
                Some(Notice::Revoke(list)) => self.on_revoke(&native, &list),
                Some(Notice::Trouble { code, fatal, reason }) => {
                    self.on_trouble(code, fatal, "", &reason);
                    Flow::Continue
                }
                None if came => Flow::Continue,
                None => break,
            };
            if flow == Flow::Renew {
                return flow;
            }
        }
        if reads {
            native.consume(CONSUME_WAIT, &mut self.buffer, |message| self.collector.take(message));
            self.collector.flush();
            self.tell_positions(&native);
        }
        for (code, lane, reason) in std::mem::take(&mut self.collector.troubles) {
            self.on_trouble(code, false, &lane.to_string(), &reason);
        }
        self.warn_of_missing_topics();
        if let Some((lane, offset, start, next)) = self.collector.backwards.take() {
            self.on_backwards(&native, &lane, offset, start, next);
        }
        Flow::Continue
    }

    /// A log that is shorter than what was read is another log; else librdkafka fetched something twice.
    fn on_backwards(&mut self, native: &Native, lane: &TopicPartition, offset: Offset, start: i64, next: i64) {
        let group = self.shared.config.group();
        if offset.get() >= start && native.known_end(lane).is_some_and(|end| end >= next) {
            tracing::debug!(group, %lane, %offset, next, "left out records that came twice");
            return;
        }
        let error = Error::OffsetLost(format!(
            "{} came after the log was read up to offset {next}: the topic was deleted and created again, or its log was \
             cut; reset the offsets of consumer group {group} to go on",
            lane.at(offset),
        ));
        self.fail(error);
    }

    fn fail(&mut self, error: Error) {
        if !self.is_over {
            self.is_over = true;
            self.shared.inbox.push(Event::Failed(error));
        }
    }

    fn on_assign(&mut self, native: &Native, mut list: List) -> Flow {
        if self.shared.leases().unknown {
            return self.give_up();
        }
        let starts = Starts { native, shared: &self.shared, properties: self.shared.config.properties() };
        let assigned = match starts.find(&mut list) {
            Ok(assigned) => assigned,
            Err(error) => {
                self.fail(error);
                list = List::new();
                Vec::new()
            }
        };
        for one in &assigned {
            native.forward(&one.topic_partition);
        }
        self.collector.lanes.change(|all| {
            all.extend(assigned.iter().map(|one| Lane::new(one.topic_partition.clone(), one.start)));
        });
        if !assigned.is_empty() {
            tracing::debug!(group = self.shared.config.group(), ?assigned, "assigned");
            self.shared.leases().held.extend(assigned.iter().map(|one| one.topic_partition.clone()));
            let says = |reason: &str, topic: &str| reason.contains(&format!(": {topic}: "));
            self.missing.retain(|(reason, _)| !assigned.iter().any(|one| says(reason, &one.topic_partition.topic)));
            self.shared.inbox.push(Event::Assigned(assigned));
        }
        if let Err(error) = native.assign(&list) {
            self.fail(Error::Unavailable(format!("could not take the assignment: {error}")));
        }
        Flow::Continue
    }

    fn on_revoke(&mut self, native: &Native, list: &List) -> Flow {
        let lost = native.is_assignment_lost();
        let listed: HashSet<TopicPartition> = list.entries().into_iter().map(|entry| entry.topic_partition).collect();
        let held = self.collector.lanes.all.iter().map(|lane| lane.topic_partition.clone());
        let gone: HashSet<TopicPartition> = held.filter(|lane| listed.contains(lane)).collect();
        let unknown = self.hand_back(&gone, lost);
        if unknown {
            return Flow::Renew;
        }
        let mut paused = self.shared.paused();
        native.resume(&List::of(paused.intersection(&gone)));
        paused.retain(|lane| !gone.contains(lane));
        drop(paused);
        if let Err(error) = native.unassign(list) {
            self.fail(Error::Unavailable(format!("could not give up the assignment: {error}")));
        }
        Flow::Continue
    }

    /// Takes everything from the task before this consumer is thrown away.
    fn give_up(&mut self) -> Flow {
        let gone = self.collector.lanes.all.iter().map(|lane| lane.topic_partition.clone()).collect();
        self.hand_back(&gone, true);
        Flow::Renew
    }

    /// Tells the task that `gone` goes and waits for it; drops the leases, before the wait if they are `lost`. Returns
    /// whether a commit of this member has an unknown outcome.
    fn hand_back(&mut self, gone: &HashSet<TopicPartition>, lost: bool) -> bool {
        let drop_leases = |shared: &Shared| {
            // Waits for a commit in progress: it has the lock until the broker's answer is here.
            let mut leases = shared.leases();
            leases.held.retain(|lane| !gone.contains(lane));
            leases.unknown
        };
        if lost {
            drop_leases(&self.shared);
        }
        self.collector.lanes.change(|all| all.retain(|lane| !gone.contains(&lane.topic_partition)));
        self.shared.inbox.forget(gone);
        if !gone.is_empty() {
            let mut partitions: Vec<TopicPartition> = gone.iter().cloned().collect();
            partitions.sort();
            tracing::debug!(group = self.shared.config.group(), ?partitions, lost, "revoked");
            let (ack, released) = Ack::new();
            self.shared.inbox.push(Event::Revoked { partitions, lost, ack });
            let timeout = self.shared.config.revoke_timeout;
            if !wait(released, timeout, || self.shared.has_command()) && !self.shared.has_command() {
                let waited_ms = timeout.as_millis() as u64;
                tracing::warn!(
                    group = self.shared.config.group(),
                    waited_ms,
                    "the task did not let go in time, going on"
                );
            }
        }
        drop_leases(&self.shared)
    }

    /// Leaves the group under this consumer and joins it under a new one, which has another member id and generation.
    fn renew(&mut self) {
        self.leave_group();
        match connect(&self.shared.config, &self.topics) {
            Ok(native) => {
                let native = Arc::new(native);
                self.native = Some(Arc::clone(&native));
                *self.shared.native.write().expect("no code panics while it holds this lock") = Some(native);
                self.shared.leases().unknown = false;
            }
            Err(error) => self.fail(error),
        }
    }

    fn leave(&mut self) {
        self.is_over = true;
        self.leave_group();
    }

    fn leave_group(&mut self) {
        self.shared.leases().held.clear();
        self.shared.inbox.clear();
        self.shared.paused().clear();
        self.collector.lanes.change(Vec::clear);
        *self.shared.native.write().expect("no code panics while it holds this lock") = None;
        if let Some(native) = self.native.take() {
            native.close(LEAVE_TIMEOUT);
        }
    }

    /// Control records and aborted transactions move the position without a record.
    fn tell_positions(&mut self, native: &Native) {
        if self.positions_told.elapsed() < POSITION_INTERVAL {
            return;
        }
        self.positions_told = Instant::now();
        let lanes = &mut self.collector.lanes.all;
        let mut list = List::of(lanes.iter().filter(|lane| lane.was_idle).map(|lane| &lane.topic_partition));
        if !list.is_empty() && native.positions(&mut list).is_ok() {
            let entries = list.entries();
            for (lane, entry) in lanes.iter_mut().filter(|lane| lane.was_idle).zip(entries) {
                if let Some(next) = Offset::new(entry.offset).filter(|next| next.get() > lane.next) {
                    lane.next = next.get();
                    self.shared.inbox.push(Event::Position { topic_partition: lane.topic_partition.clone(), next });
                }
            }
        }
        for lane in lanes {
            lane.was_idle = true;
        }
    }

    fn on_trouble(&mut self, code: Code, is_fatal: bool, lane: &str, reason: &str) {
        let group = self.shared.config.group().to_owned();
        let what = if lane.is_empty() { format!("consumer group {group}") } else { lane.to_owned() };
        if let Some(error) = fatal(code, &what, reason) {
            return self.fail(error);
        }
        if is_fatal {
            return self.fail(Error::Unavailable(format!("{what}: {code}: {reason}")));
        }
        let now = Instant::now();
        self.warned.retain(|_, at| now.duration_since(*at) < WARN_INTERVAL);
        if trouble(code) == Trouble::NoTopic {
            let is_known = self.missing.iter().any(|(known, _)| known == reason);
            if !is_known && !self.warned.contains_key(&(code, reason.to_owned())) {
                self.missing.push((reason.to_owned(), now));
                self.warned.insert((code, reason.to_owned()), now);
            }
            return;
        }
        if self.warned.contains_key(&(code, what.clone())) {
            return;
        }
        tracing::warn!(%what, error = %code, reason, "trouble with Kafka, trying again");
        self.warned.insert((code, what), now);
    }

    /// librdkafka says only once that a topic is missing, and at once: it is passed on when the topic had time to come.
    fn warn_of_missing_topics(&mut self) {
        for (reason, _) in self.missing.extract_if(.., |(_, since)| since.elapsed() >= NO_TOPIC_GRACE) {
            let group = self.shared.config.group();
            tracing::warn!(group, reason, "a subscribed topic does not exist; create it, it is picked up then");
        }
    }
}

/// Finds where the topic-partitions of an assignment start.
struct Starts<'a> {
    native: &'a Native,
    shared: &'a Shared,
    properties: std::collections::BTreeMap<String, String>,
}

impl Starts<'_> {
    /// Puts start offsets into `list`.
    fn find(&self, list: &mut List) -> Result<Vec<Assigned>, Error> {
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + self.shared.config.assign_timeout;
        let group = self.shared.config.group();
        let what = format!("could not read the committed offsets of consumer group {group}");
        let entries = self.patiently(deadline, &what, || {
            self.native.committed(list, REQUEST_TIMEOUT)?;
            let entries = list.entries();
            match entries.iter().find(|entry| entry.code != Code::OK) {
                Some(bad) => Err(bad.code),
                None => Ok(entries),
            }
        })?;
        let mut assigned = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            let committed = Offset::new(entry.offset);
            let start = match committed {
                Some(offset) => offset,
                None => self.reset(&entry.topic_partition, deadline)?,
            };
            list.set_offset(index, start.get());
            let metadata = if committed.is_some() { entry.metadata } else { String::new() };
            let committed = committed.is_some();
            assigned.push(Assigned { topic_partition: entry.topic_partition, start, metadata, committed });
        }
        Ok(assigned)
    }

    /// What `auto.offset.reset` says for a topic-partition without a committed offset.
    fn reset(&self, lane: &TopicPartition, deadline: Instant) -> Result<Offset, Error> {
        let policy = self.properties.get("auto.offset.reset").map_or("earliest", String::as_str);
        let to_end = match policy {
            "earliest" | "beginning" | "smallest" => false,
            "latest" | "end" | "largest" => true,
            _error => {
                return Err(Error::OffsetLost(format!(
                    "{lane} has no committed offset in consumer group {} and auto.offset.reset=none; commit one, or set \
                     consumer.override.auto.offset.reset to earliest or latest",
                    self.shared.config.group(),
                )));
            }
        };
        let what = format!("could not read where the log of {lane} begins and ends");
        let (low, high) = self.patiently(deadline, &what, || self.native.query_ends(lane, REQUEST_TIMEOUT))?;
        Ok(Offset::new(if to_end { high } else { low }).unwrap_or(Offset::ZERO))
    }

    fn patiently<T>(
        &self,
        deadline: Instant,
        what: &str,
        mut ask: impl FnMut() -> Result<T, Code>,
    ) -> Result<T, Error> {
        loop {
            let code = match ask() {
                Ok(answer) => return Ok(answer),
                Err(code) => code,
            };
            if let Some(error) = fatal(code, what, "refused") {
                return Err(error);
            }
            if Instant::now() >= deadline || self.shared.has_command() {
                return Err(Error::Unavailable(format!("{what}: {code}")));
            }
            std::thread::park_timeout(RETRY_PAUSE);
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits until the other end of `released` is dropped; false if `timeout` is over or `stop` says so before.
fn wait(mut released: oneshot::Receiver<()>, timeout: Duration, stop: impl Fn() -> bool) -> bool {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + timeout;
    loop {
        if Pin::new(&mut released).poll(&mut Context::from_waker(&waker)).is_ready() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop() {
            return false;
        }
        std::thread::park_timeout(left.min(FULL_WAIT));
    }
}
