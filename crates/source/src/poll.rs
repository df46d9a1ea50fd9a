//! The poll thread of a [`crate::KafkaSource`]: takes messages in batches, answers rebalances.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::{Offset, TopicPartition};
use rdkafka::types::RDKafkaErrorCode;

use crate::code::{Code, Trouble, fatal, trouble};
use crate::collect::{Collector, Lane};
use crate::kafka::{Command, Shared, connect};
use crate::native::{List, Native, Notice};
use crate::park::{pause, wait};
use crate::protocol::{self, Protocol};
use crate::starts::{Starts, Stopped};
use crate::{Ack, Error, Event};

mod adrift;
mod bounds;
mod orphans;

/// How long one call collects messages: the most that a lone record waits, and a rebalance too.
const CONSUME_WAIT: Duration = Duration::from_millis(20);
/// How often it looks for room while the inbox is full; the reader wakes it earlier.
const FULL_WAIT: Duration = Duration::from_millis(50);
/// How often the same trouble is logged.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// A topic that is missing may just be on its way: it is warned about after this ...
const NO_TOPIC_GRACE: Duration = Duration::from_secs(5);
/// ... and looked for this often: librdkafka tells of one under the classic protocol only.
const NO_TOPIC_INTERVAL: Duration = Duration::from_secs(60);
/// Time to leave a group in order.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A consumer under KIP-848 that got nothing for this long asks whether classic members keep it out.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A consumer that the group does not understand is replaced once in this time; else the source fails.
const REVIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A static member that died keeps its name until its session ends, which brokers let last 45 s by default; how long a
/// new one waits for the name, and how often it tries.
const UNRELEASED_MAX: Duration = Duration::from_secs(120);
const UNRELEASED_PAUSE: Duration = Duration::from_secs(2);

/// Whether the consumer may go on after a rebalance.
#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    /// This consumer must be replaced: a commit has no known outcome and it must not get a new generation, or it cannot
    /// speak with the group.
    Renew,
}

/// Whether librdkafka refused an offset because another leader has another log up to it.
fn is_truncation(reason: &str) -> bool {
    reason.contains("truncation") || reason.contains("No epoch found")
}

/// The thread's state.
pub(crate) struct Poll {
    shared: Arc<Shared>,
    /// `None` when a new consumer could not be made after the old one was left.
    native: Option<Arc<Native>>,
    topics: Vec<String>,
    collector: Collector,
    warned: HashMap<(Code, String), Instant>,
    /// Subscribed topics that were warned about because they were not there.
    missing: HashSet<String>,
    /// When it is looked for such topics next.
    looks_for_topics: Instant,
    protocol: Protocol,
    /// Whether the classic protocol may be tried: nobody chose, and KIP-848 has not worked yet.
    may_fall_back: bool,
    /// When it was last asked why nothing is assigned.
    asked: Instant,
    /// When it was last tried to see what is there.
    looked_first: Option<Instant>,
    /// Since when another static member has our name.
    unreleased_since: Option<Instant>,
    /// When this consumer was replaced because the group did not understand it.
    revived: Option<Instant>,
    adrift: adrift::Adrift,
    orphans: orphans::Orphans,
    /// When this member left KIP-848 because the group's coordinator has lost count.
    fled: Option<Instant>,
    is_over: bool,
}

impl Poll {
    pub(crate) fn new(
        shared: Arc<Shared>,
        native: Arc<Native>,
        topics: Vec<String>,
        (protocol, may_fall_back): (Protocol, bool),
    ) -> Self {
        Self {
            collector: Collector::new(Arc::clone(&shared)),
            shared,
            native: Some(native),
            topics,
            warned: HashMap::new(),
            missing: HashSet::new(),
            looks_for_topics: Instant::now() + NO_TOPIC_GRACE,
            protocol,
            may_fall_back,
            asked: Instant::now(),
            looked_first: None,
            unreleased_since: None,
            revived: None,
            adrift: adrift::Adrift::default(),
            orphans: orphans::Orphans::new(Instant::now()),
            fled: None,
            is_over: false,
        }
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

    /// Serves the main queue, takes records if there is room for them, and looks after what went wrong.
    fn round(&mut self) -> Flow {
        let Some(native) = self.native.clone() else {
            std::thread::park_timeout(FULL_WAIT);
            return Flow::Continue;
        };
        self.look_first(&native);
        // Before the main queue is emptied: what came there so far is older than what comes the short way from now on.
        self.adrift.forward(&native);
        let reads = !self.is_over && !self.shared.inbox.is_full();
        if self.serve(&native, if reads { Duration::ZERO } else { FULL_WAIT }) == Flow::Renew {
            return Flow::Renew;
        }
        if reads {
            native.consume(CONSUME_WAIT, &mut |message| self.collector.take(message));
            self.remember_ends(&native);
            self.collector.flush();
        }
        for (code, lane, reason) in std::mem::take(&mut self.collector.troubles) {
            if trouble(code) == Trouble::OffsetLost {
                self.adrift.note(lane, is_truncation(&reason));
            } else if self.on_trouble(code, false, &lane.to_string(), &reason) == Flow::Renew {
                return self.give_up();
            }
        }
        self.warn_of_missing_topics(&native);
        if let Some((lane, offset, start, next)) = self.collector.backwards.take() {
            self.on_backwards(&native, &lane, offset, start, next);
        }
        if self.moor(&native) == Flow::Renew {
            return Flow::Renew;
        }
        if self.look_for_orphans(&native) == Flow::Renew {
            return Flow::Renew;
        }
        self.ask_for_classic_members(&native)
    }

    /// Empties the main queue, after waiting up to `wait` for something to come.
    fn serve(&mut self, native: &Arc<Native>, mut wait: Duration) -> Flow {
        loop {
            let (came, notice) = native.serve(wait, &mut |message| self.collector.take(message));
            wait = Duration::ZERO;
            self.collector.flush();
            let flow = match notice {
                Some(Notice::Assign(list)) => self.on_assign(native, list),
                Some(Notice::Revoke(list)) => self.on_revoke(native, &list),
                Some(Notice::Trouble { code, fatal, reason }) => match self.on_trouble(code, fatal, "", &reason) {
                    Flow::Renew => self.give_up(),
                    Flow::Continue => Flow::Continue,
                },
                Some(Notice::ProtocolMissing) if self.may_fall_back => {
                    self.fall_back("the broker does not have it");
                    self.give_up()
                }
                Some(Notice::ProtocolMissing) => {
                    let group = self.shared.config.group();
                    self.fail(Error::Denied(format!(
                        "consumer group {group}: the broker does not have group.protocol=consumer (KIP-848); leave \
                         consumer.override.group.protocol out",
                    )));
                    Flow::Continue
                }
                None if came => Flow::Continue,
                None => {
                    self.adrift.is_doubtful = false;
                    return Flow::Continue;
                }
            };
            if flow == Flow::Renew {
                return flow;
            }
        }
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
        self.settle(native);
        let assigned = match (Starts { native, shared: &self.shared }).find(&mut list) {
            Ok(assigned) => assigned,
            Err(stopped) => {
                if let Stopped::Failed(error) = stopped {
                    self.fail(error);
                }
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
            self.missing.retain(|topic| !assigned.iter().any(|one| *one.topic_partition.topic == **topic));
            self.shared.hand_out(assigned);
        }
        if let Err(error) = native.assign(&list) {
            self.fail(Error::Unavailable(format!("could not take the assignment: {error}")));
        }
        self.leave_out(native, &list);
        Flow::Continue
    }

    fn on_revoke(&mut self, native: &Native, list: &List) -> Flow {
        self.settle(native);
        let lost = native.is_assignment_lost() || self.adrift.is_doubtful;
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
            leases.held.retain(|lane, _| !gone.contains(lane));
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
            self.shared.is_expelled.store(false, Ordering::SeqCst);
            self.shared.inbox.push(Event::Revoked { partitions, lost, ack });
            let timeout = self.shared.config.within_poll_interval(self.shared.config.revoke_timeout);
            let stop = || self.shared.has_command() || self.shared.is_expelled.load(Ordering::SeqCst);
            if wait(released, timeout, stop).is_none() && !stop() {
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
        if self.unreleased_since.is_some() {
            pause(UNRELEASED_PAUSE, || self.shared.has_command());
        }
        self.asked = Instant::now();
        match connect(&self.shared.config, &self.topics, self.protocol) {
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
        self.adrift = adrift::Adrift::default();
        self.orphans = orphans::Orphans::new(Instant::now());
        *self.shared.native.write().expect("no code panics while it holds this lock") = None;
        if let Some(native) = self.native.take() {
            native.close(LEAVE_TIMEOUT);
        }
    }

    /// The group works: what it is spoken to with stays.
    fn settle(&mut self, native: &Native) {
        (self.unreleased_since, self.may_fall_back) = (None, false);
        if !self.shared.config.client.contains_key("debug") {
            native.end_debug();
        }
    }

    fn fall_back(&mut self, why: &str) {
        let group = self.shared.config.group();
        tracing::info!(group, why, "KIP-848 cannot be used, falling back to the classic group protocol");
        (self.protocol, self.may_fall_back) = (Protocol::Classic, false);
    }

    /// Members under KIP-848 are kept out of a group of classic members that the broker does not migrate, silently.
    fn ask_for_classic_members(&mut self, native: &Native) -> Flow {
        if !self.may_fall_back || self.asked.elapsed() < ASK_INTERVAL {
            return Flow::Continue;
        }
        self.asked = Instant::now();
        match native.group_state(self.shared.config.group(), ASK_TIMEOUT) {
            Ok(state) if protocol::is_classic_in_use(&state) => {
                self.fall_back("the group has members that use the classic protocol");
                self.give_up()
            }
            Ok(_) | Err(_) => Flow::Continue,
        }
    }

    /// Remembers where lanes came to the end of what they may see. (librdkafka's own positions are of no use: each error
    /// that comes in place of a record moves them by one.)
    fn remember_ends(&mut self, native: &Native) {
        for (lane, visible) in std::mem::take(&mut self.collector.at_end) {
            match native.known_end(&lane) {
                Some(end) if end > visible => self.shared.saw_end(&lane, end, visible),
                Some(_) | None => self.shared.forget_ends(|other, _| *other == lane),
            }
        }
        let lanes = &self.collector.lanes.all;
        self.shared
            .forget_ends(|lane, visible| !lanes.iter().any(|one| one.topic_partition == *lane && one.next <= visible));
    }

    fn on_trouble(&mut self, code: Code, is_fatal: bool, lane: &str, reason: &str) -> Flow {
        if is_fatal && self.may_fall_back && protocol::is_refused(code) {
            self.fall_back("the broker does not allow it");
            return Flow::Renew;
        }
        if is_fatal && code.name() == RDKafkaErrorCode::UnreleasedInstanceId && self.waits_for_name() {
            return Flow::Renew;
        }
        // After max.poll.interval.ms was exceeded, librdkafka may speak to the group as a member that it is no more, or a
        // static member may be fenced by its own next life. If another process has our name, it comes back at once.
        let is_stale = matches!(code.name(), RDKafkaErrorCode::InvalidRequest | RDKafkaErrorCode::FencedInstanceId);
        let recently = self.revived.is_some_and(|revived| revived.elapsed() < REVIVE_INTERVAL);
        if is_fatal && is_stale && !recently {
            self.revived = Some(Instant::now());
            tracing::warn!(
                group = self.shared.config.group(),
                reason,
                "the group is out of step with us, joining again"
            );
            return Flow::Renew;
        }
        let group = self.shared.config.group().to_owned();
        // Some brokers let no classic member in before the last one under KIP-848 has gone; librdkafka asks again.
        let is_in_flight = self.fled.is_some_and(|fled| fled.elapsed() < orphans::FLIGHT_MAX);
        if is_in_flight && code.name() == RDKafkaErrorCode::InconsistentGroupProtocol {
            self.warn(code, format!("consumer group {group}"), reason);
            return Flow::Continue;
        }
        let what = if lane.is_empty() { format!("consumer group {group}") } else { lane.to_owned() };
        if let Some(error) = fatal(code, &what, reason) {
            self.fail(error);
        } else if is_fatal {
            self.fail(Error::Unavailable(format!("{what}: {code}: {reason}")));
        } else {
            self.warn(code, what, reason);
        }
        Flow::Continue
    }

    /// Whether to try again under the same `group.instance.id`: the one who has it may have died a moment ago.
    fn waits_for_name(&mut self) -> bool {
        let group = self.shared.config.group();
        if self.unreleased_since.is_none() {
            let wait_max_s = UNRELEASED_MAX.as_secs();
            tracing::warn!(
                group,
                wait_max_s,
                "another member has our group.instance.id, waiting for its session to end"
            );
        }
        self.unreleased_since.get_or_insert_with(Instant::now).elapsed() < UNRELEASED_MAX
    }

    fn warn(&mut self, code: Code, what: String, reason: &str) {
        let now = Instant::now();
        self.warned.retain(|_, at| now.duration_since(*at) < WARN_INTERVAL);
        if trouble(code) == Trouble::NoTopic {
            // It may be on its way; whoever looks for it warns.
            self.looks_for_topics = self.looks_for_topics.min(now + NO_TOPIC_GRACE);
            return;
        }
        if self.warned.contains_key(&(code, what.clone())) {
            return;
        }
        tracing::warn!(%what, error = %code, reason, "trouble with Kafka, trying again");
        self.warned.insert((code, what), now);
    }

    /// Warns once about each subscribed topic that does not exist. Only topics of which nothing is assigned here are asked
    /// for; other members may have them.
    fn warn_of_missing_topics(&mut self, native: &Native) {
        if Instant::now() < self.looks_for_topics {
            return;
        }
        self.looks_for_topics = Instant::now() + NO_TOPIC_INTERVAL;
        let wanted = self.shared.config.subscription.topics();
        let lanes = &self.collector.lanes.all;
        let is_here = |topic: &str| lanes.iter().any(|lane| &*lane.topic_partition.topic == topic);
        let absent: BTreeSet<String> = wanted.into_iter().filter(|topic| !is_here(topic)).collect();
        let is_missing = |topics: &BTreeSet<String>| {
            let answer = native.topic_ids(topics, ASK_TIMEOUT);
            matches!(answer, Ok((_, Some(code))) if trouble(code) == Trouble::NoTopic)
        };
        // One answer for all, mostly that nothing is missing; else it is asked which ones are.
        let missing: Vec<String> = match is_missing(&absent) {
            true => absent.into_iter().filter(|topic| is_missing(&BTreeSet::from([topic.clone()]))).collect(),
            false => Vec::new(),
        };
        self.missing.retain(|topic| missing.contains(topic));
        for topic in missing {
            if self.missing.insert(topic.clone()) {
                let group = self.shared.config.group();
                tracing::warn!(group, topic, "a subscribed topic does not exist; create it, it is picked up then");
            }
        }
    }
}
