//! Where the topic-partitions of an assignment start: at the committed offset, else where their objects end, else where
//! `auto.offset.reset` says; and what happens when the log does not hold that offset.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::{Offset, TopicPartition};

use crate::bounds::{FirstLook, NoRecord, StartAt, Starting};
use crate::code::{Code, Trouble, fatal, trouble};
use crate::group::lanes_of;
use crate::kafka::Shared;
use crate::keys::DataLoss;
use crate::lost::{Known, Lost, Reset};
use crate::native::{Ends, Entry, List, Native, OFFSET_END, Point};
use crate::park::wait;
use crate::topic_id::unstamped;
use crate::{Assigned, Error, MovedBack, Recovered};

/// Time for one request to the broker inside a rebalance, and the pause before it is tried again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A topic that is not there when a source starts may just be on its way.
const NO_TOPIC_GRACE: Duration = Duration::from_secs(5);
/// How long all logs are asked for in one request: a topic may be assigned before every broker has heard of it, and
/// leaders move.
const TOGETHER_PATIENCE: Duration = Duration::from_secs(5);
/// How long one log is asked for alone.
const ALONE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no answer.
pub(crate) enum Stopped {
    /// A command waits: this consumer is going to be left.
    Command,
    /// The source cannot go on.
    Failed(Error),
}

/// What is known of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Log {
    /// It holds these offsets.
    Holds(Ends),
    /// Its topic is not there (any more).
    Missing,
    /// Nobody can say at the moment.
    Unknown(Code),
}

impl Log {
    pub(crate) fn ends(self) -> Option<Ends> {
        match self {
            Log::Holds(ends) => Some(ends),
            Log::Missing | Log::Unknown(_) => None,
        }
    }
}

/// Whether asking again is of no use.
fn is_refused(code: Code) -> bool {
    fatal(code, "", "").is_some()
}

/// Asks the group, the recovery and the broker.
pub(crate) struct Starts<'a> {
    pub(crate) native: &'a Native,
    pub(crate) shared: &'a Shared,
}

/// What is known of a topic-partition before its log is looked at.
struct Candidate {
    /// Its place in the assignment.
    place: usize,
    lane: TopicPartition,
    known: Option<(Offset, String, Known)>,
    /// The authority said it.
    is_authoritative: bool,
    /// The id of the topic that its offset was committed for, and the id that the topic with its name has now, when they
    /// differ.
    other_topic: Option<(String, String)>,
}

impl Starts<'_> {
    /// Puts start offsets into `list`. What the subscription leaves out is not in the answer.
    pub(crate) fn find(&self, list: &mut List) -> Result<Vec<Assigned>, Stopped> {
        if list.is_empty() {
            return Ok(Vec::new());
        }
        if self.shared.config.bounds.looks_first() && self.shared.first_look.get().is_none() {
            self.patiently("could not read where logs end", || self.look_first(REQUEST_TIMEOUT))?;
        }
        if let Some(error) = self.missing_topics() {
            return Err(Stopped::Failed(error));
        }
        let candidates = self.candidates(list)?;
        let places: Vec<usize> = candidates.iter().map(|candidate| candidate.place).collect();
        let lanes: Vec<TopicPartition> = candidates.iter().map(|candidate| candidate.lane.clone()).collect();
        let logs = self.logs(&lanes)?;
        let mut assigned = Vec::with_capacity(lanes.len());
        let (mut adrift, mut lost_ones, mut new) = (Vec::new(), HashMap::new(), Vec::new());
        for (index, (candidate, log)) in candidates.into_iter().zip(&logs).enumerate() {
            let Candidate { lane: topic_partition, known, is_authoritative, other_topic, .. } = candidate;
            let (start, metadata) = (Offset::ZERO, String::new());
            let mut one = Assigned { topic_partition, start, until: None, metadata, committed: false };
            match known {
                None if self.shared.config.bounds.starting.is_some() => new.push(index),
                None => adrift.push(index),
                Some((at, metadata, known)) => {
                    // A log that cannot be looked at now is read from there: if it is lost, that is heard then.
                    let lost = match other_topic {
                        Some(ids) => Some(Lost::with_topic(&one.topic_partition, at, known, log.ends(), ids)),
                        None => log.ends().and_then(|ends| Lost::new(&one.topic_partition, at, known, ends)),
                    };
                    match lost {
                        None => (one.start, one.metadata, one.committed) = (at, metadata, known == Known::Committed),
                        Some(lost) => {
                            self.may_lose(&lost, &metadata)?;
                            lost_ones.insert(index, (lost, metadata, is_authoritative));
                            adrift.push(index);
                        }
                    }
                }
            }
            assigned.push(one);
        }
        let (mut reads_from, mut moves) = (HashMap::new(), Vec::new());
        for (index, start) in adrift.iter().zip(self.resets(&adrift, &lanes, &logs)?) {
            assigned[*index].start = start;
            let Some((lost, metadata, is_authoritative)) = lost_ones.get(index) else { continue };
            lost.warn(self.shared.config.group(), start, metadata);
            let topic_partition = lost.lane.clone();
            if *is_authoritative && start > lost.at {
                assigned[*index].start = lost.at;
                reads_from.insert(topic_partition, start);
            } else if *is_authoritative {
                moves.push(MovedBack { topic_partition, from: lost.at, to: start });
            }
        }
        self.move_back(&moves)?;
        for (index, start) in new.iter().zip(self.beginnings(&new, &lanes, &logs)?) {
            assigned[*index].start = start;
        }
        for place in 0..list.entries().len() {
            list.set_offset(place, OFFSET_END);
        }
        for (one, place) in assigned.iter_mut().zip(places) {
            one.until = self.shared.until(&one.topic_partition, one.start);
            list.set_offset(place, reads_from.get(&one.topic_partition).unwrap_or(&one.start).get());
        }
        Ok(assigned)
    }

    /// Tells the authority that lanes go on before where it said.
    pub(crate) fn move_back(&self, moves: &[MovedBack]) -> Result<(), Stopped> {
        match &self.shared.config.recovery {
            Some(recovery) if !moves.is_empty() => self.in_runtime(recovery.move_back(moves), "moving it back"),
            Some(_) | None => Ok(()),
        }
    }

    /// Tells the authority, if there is one, where `lanes` of other logs than before start.
    pub(crate) fn take_back(&self, lanes: &[Assigned], ids: &BTreeMap<String, String>) -> Result<(), Stopped> {
        if !self.shared.config.recovery.as_ref().is_some_and(|recovery| recovery.is_authority()) {
            return Ok(());
        }
        let names: Vec<TopicPartition> = lanes.iter().map(|one| one.topic_partition.clone()).collect();
        let known = self.recover(&names, ids)?;
        let moved = lanes.iter().filter_map(|one| {
            let from = known.get(&one.topic_partition)?.start;
            let (topic_partition, to) = (one.topic_partition.clone(), one.start);
            (to < from).then_some(MovedBack { topic_partition, from, to })
        });
        self.move_back(&moved.collect::<Vec<_>>())
    }

    /// Looks, once for a source, at what is there: the ends of logs, and whether any of them was read before.
    pub(crate) fn look_first(&self, timeout: Duration) -> Result<(), Code> {
        let subscription = &self.shared.config.subscription;
        let topics = self.native.topics(timeout)?;
        let is_missing = subscription.topics().iter().any(|topic| !topics.contains_key(topic));
        if is_missing && self.shared.started.elapsed() < NO_TOPIC_GRACE {
            return Err(Code::NO_TOPIC);
        }
        // The pattern was understood when the source was made.
        let lanes = lanes_of(subscription, &topics).unwrap_or_default();
        let mut list = List::of(&lanes);
        let mut is_known = false;
        if !lanes.is_empty() {
            self.native.committed(&mut list, timeout)?;
            for entry in list.entries() {
                entry.code.result()?;
                is_known |= entry.offset >= 0;
            }
        }
        let ends = self.native.points(&lanes, Point::VisibleEnd, timeout)?;
        let ends =
            lanes.into_iter().zip(ends.into_iter().map(|end| Offset::new(end).unwrap_or(Offset::ZERO))).collect();
        // A task that starts again in this process makes another source.
        let _ = self.shared.first_look.set(FirstLook { ends, is_known });
        Ok(())
    }

    /// Whether a source that ends should read topics that were not there: they were misspelt, most likely.
    pub(crate) fn missing_topics(&self) -> Option<Error> {
        let look = self.shared.first_look.get().filter(|_| self.shared.config.bounds.until_end)?;
        let mut missing = self.shared.config.subscription.topics();
        missing.retain(|topic| !look.ends.keys().any(|lane| *lane.topic == **topic));
        let missing = missing.into_iter().next()?;
        let group = self.shared.config.group();
        Some(Error::Denied(format!("the topic {missing} of consumer group {group} does not exist or cannot be seen")))
    }

    /// Where [`Starting`] says that those of `lanes` with these indexes begin.
    fn beginnings(&self, indexes: &[usize], lanes: &[TopicPartition], logs: &[Log]) -> Result<Vec<Offset>, Stopped> {
        let Some(starting) = &self.shared.config.bounds.starting else { return Ok(Vec::new()) };
        let mut starts = Vec::with_capacity(indexes.len());
        for index in indexes {
            starts.push(match (self.start_at(starting, &lanes[*index]), logs[*index]) {
                // A topic that is gone has nothing to read; if it comes back, it begins at 0.
                (_, Log::Missing) => Offset::ZERO,
                (_, Log::Unknown(code)) => {
                    let what = format!("could not read where the log of {} begins and ends", lanes[*index]);
                    return Err(Stopped::Failed(Error::Unavailable(format!("{what}: {code}"))));
                }
                (StartAt::Earliest, Log::Holds(ends)) => Offset::new(ends.begin).unwrap_or(Offset::ZERO),
                (StartAt::Offset(at), Log::Holds(ends)) => at.max(Offset::new(ends.begin).unwrap_or(Offset::ZERO)),
                (StartAt::Latest, Log::Holds(_)) => self.end_of(&lanes[*index])?,
                (StartAt::Time(ms), Log::Holds(ends)) => self.at_time(starting, &lanes[*index], ms, ends)?,
            });
        }
        Ok(starts)
    }

    /// Where `lane` begins, given what the first look says.
    fn start_at(&self, starting: &Starting, lane: &TopicPartition) -> StartAt {
        match (starting.of(lane), self.shared.first_look.get()) {
            (StartAt::Latest, Some(look)) => look.latest(lane),
            (at, _) => at,
        }
    }

    fn end_of(&self, lane: &TopicPartition) -> Result<Offset, Stopped> {
        let lanes = std::slice::from_ref(lane);
        let ask = || self.native.points(lanes, Point::VisibleEnd, REQUEST_TIMEOUT);
        let ends = self.patiently("could not read where logs end", ask)?;
        Ok(ends.first().copied().and_then(Offset::new).unwrap_or(Offset::ZERO))
    }

    /// The first record of `lane` with the time `ms` or a later one.
    fn at_time(&self, starting: &Starting, lane: &TopicPartition, ms: i64, ends: Ends) -> Result<Offset, Stopped> {
        let ask = || self.native.at_time(lane, ms, REQUEST_TIMEOUT);
        let found = self.patiently("could not look for records by their time", ask)?.and_then(Offset::new);
        match (found, starting.no_record) {
            (Some(offset), _) => Ok(offset),
            (None, NoRecord::Fail) if ends.begin < ends.end => Err(Stopped::Failed(Error::OffsetLost(format!(
                "{lane} has no record with the time {ms} ms or a later one to start at; set \
                 startingOffsetsByTimestampStrategy=latest to start at its end, or another time",
            )))),
            (None, NoRecord::Fail | NoRecord::Latest) => self.end_of(lane),
        }
    }

    /// Whether reading may go on elsewhere: an error if not.
    pub(crate) fn may_lose(&self, lost: &Lost, metadata: &str) -> Result<(), Stopped> {
        let config = &self.shared.config;
        match (config.on_data_loss, config.reset()) {
            (DataLoss::Continue, Reset::Earliest | Reset::Latest) => Ok(()),
            (policy, _) => Err(Stopped::Failed(lost.error(config.group(), policy, metadata))),
        }
    }

    fn candidates(&self, list: &mut List) -> Result<Vec<Candidate>, Stopped> {
        let what = format!("could not read the committed offsets of consumer group {}", self.shared.config.group());
        let entries = self.patiently(&what, || {
            self.native.committed(list, REQUEST_TIMEOUT)?;
            let entries = list.entries();
            match entries.iter().find(|entry| entry.code != Code::OK) {
                Some(bad) => Err(bad.code),
                None => Ok(entries),
            }
        })?;
        let subscription = &self.shared.config.subscription;
        let is_read = |entry: &Entry| !subscription.leaves_out(&entry.topic_partition);
        let entries: Vec<(usize, Entry)> =
            entries.into_iter().enumerate().filter(|(_, entry)| is_read(entry)).collect();
        let lanes: Vec<TopicPartition> = entries.iter().map(|(_, entry)| entry.topic_partition.clone()).collect();
        let authority = self.shared.config.recovery.clone().filter(|recovery| recovery.is_authority());
        let asked = entries.iter().filter(|(_, entry)| entry.offset < 0 || authority.is_some());
        let unknown = asked.map(|(_, entry)| entry.topic_partition.clone());
        let unknown: Vec<TopicPartition> = unknown.collect();
        let topic_ids = self.topic_ids(&lanes, !unknown.is_empty() && self.shared.config.recovery.is_some())?;
        self.shared.note_topic_ids(&lanes, &topic_ids);
        let mut recovered = self.recover(&unknown, &topic_ids)?;
        let mut candidates = Vec::with_capacity(entries.len());
        for (place, entry) in entries {
            let lane = entry.topic_partition;
            let (mut metadata, written_for) = unstamped(&entry.metadata);
            let other_topic = written_for.zip(topic_ids.get(&*lane.topic).cloned()).filter(|(then, now)| then != now);
            let found = recovered.remove(&lane);
            let is_authoritative = found.is_some() && authority.is_some();
            let known = match (Offset::new(entry.offset), found) {
                (Some(offset), Some(found)) if offset == found.start => {
                    Some((offset, found.metadata, Known::Committed))
                }
                (_, Some(found)) => Some((found.start, found.metadata, Known::Recovered)),
                (Some(offset), None) => {
                    if let Some(authority) = &authority {
                        authority.may_start(&lane, offset, &metadata).map_err(Stopped::Failed)?;
                        metadata.clear();
                    }
                    Some((offset, metadata, Known::Committed))
                }
                (None, None) => match self.shared.config.bounds.starting.as_ref().map(|starting| starting.of(&lane)) {
                    Some(StartAt::Offset(offset)) => Some((offset, String::new(), Known::Configured)),
                    Some(StartAt::Earliest | StartAt::Latest | StartAt::Time(_)) | None => None,
                },
            };
            candidates.push(Candidate { place, lane, known, is_authoritative, other_topic });
        }
        Ok(candidates)
    }

    /// Asks the recovery, which looks into the store.
    fn recover(
        &self,
        lanes: &[TopicPartition],
        topic_ids: &BTreeMap<String, String>,
    ) -> Result<HashMap<TopicPartition, Recovered>, Stopped> {
        let Some(recovery) = self.shared.config.recovery.as_ref().filter(|_| !lanes.is_empty()) else {
            return Ok(HashMap::new());
        };
        let group = self.shared.config.group();
        let found = self.in_runtime(recovery.recover(lanes, topic_ids), "looking for the newest objects")?;
        for one in &found {
            let (lane, start) = (&one.topic_partition, one.start);
            tracing::info!(group, %lane, %start, "no committed offset, going on after the newest object");
        }
        Ok(found.into_iter().map(|one| (one.topic_partition.clone(), one)).collect())
    }

    /// Waits for `work`, which is done where the recovery runs; `what` says what it is.
    fn in_runtime<T>(&self, work: impl Future<Output = Result<T, Error>>, what: &str) -> Result<T, Stopped> {
        let _entered = self.shared.runtime.as_ref().map(tokio::runtime::Handle::enter);
        let stop = || {
            self.native.still_here();
            self.shared.has_command()
        };
        let timeout = self.shared.config.within_poll_interval(self.shared.config.recovery_timeout);
        match wait(work, timeout, stop) {
            Some(Ok(done)) => Ok(done),
            Some(Err(error)) => Err(Stopped::Failed(error)),
            None if self.shared.has_command() => Err(Stopped::Command),
            None => Err(Stopped::Failed(Error::Unavailable(format!(
                "consumer group {} has not the offsets to go on from, and {what} took longer than {timeout:?}",
                self.shared.config.group(),
            )))),
        }
    }

    /// The ids of the topics of `lanes`, as far as the broker tells them: an old one has none. Without an answer there
    /// are none either, unless they are `needed`.
    pub(crate) fn topic_ids(
        &self,
        lanes: &[TopicPartition],
        needed: bool,
    ) -> Result<BTreeMap<String, String>, Stopped> {
        let topics: BTreeSet<String> = lanes.iter().map(|lane| lane.topic.to_string()).collect();
        // Not every broker may have heard of a topic that is assigned already.
        let patience = Instant::now() + TOGETHER_PATIENCE;
        let (ids, why) = self.patiently("could not read the ids of topics", || {
            match self.native.topic_ids(&topics, REQUEST_TIMEOUT) {
                Ok((_, Some(code))) if !is_refused(code) && Instant::now() < patience => Err(code),
                Err(code) if is_refused(code) => Ok((BTreeMap::new(), Some(code))),
                Err(code) if !needed && Instant::now() >= patience => Ok((BTreeMap::new(), Some(code))),
                answer => answer,
            }
        })?;
        if let Some(topic) = topics.iter().find(|topic| !ids.contains_key(*topic))
            && !self.shared.has_warned_of_ids.swap(true, Ordering::Relaxed)
        {
            let (group, code) = (self.shared.config.group(), why.map(tracing::field::display));
            tracing::warn!(
                group,
                topic,
                code,
                "the broker does not tell the topic's id: should the topic be deleted and created again, that is noticed \
                 only if its log ends before the newest object"
            );
        }
        Ok(ids)
    }

    /// What the logs of `lanes` hold. One that cannot be asked for does not hold up the others for long.
    pub(crate) fn logs(&self, lanes: &[TopicPartition]) -> Result<Vec<Log>, Stopped> {
        let deadline = Instant::now() + self.shared.config.assign_timeout;
        let patience = deadline.min(Instant::now() + TOGETHER_PATIENCE);
        let together = self.patiently("could not read where logs begin and end", || {
            let answer = self.native.ends(lanes, TOGETHER_PATIENCE);
            let is_spoilt = answer.as_ref().is_err_and(|code| !is_refused(*code)) && Instant::now() >= patience;
            if is_spoilt { Ok(None) } else { answer.map(Some) }
        })?;
        if let Some(ends) = together {
            return Ok(ends.into_iter().map(Log::Holds).collect());
        }
        // One topic that is missing, or one partition without a leader, spoils the answer for all.
        let mut all = Vec::with_capacity(lanes.len());
        for lane in lanes {
            if self.shared.has_command() {
                return Err(Stopped::Command);
            }
            self.native.still_here();
            let left = deadline.saturating_duration_since(Instant::now()).min(ALONE_TIMEOUT);
            all.push(match self.native.ends(std::slice::from_ref(lane), left).map(|ends| ends.first().copied()) {
                Ok(Some(ends)) => Log::Holds(ends),
                Ok(None) => Log::Missing,
                Err(code) if trouble(code) == Trouble::NoTopic => Log::Missing,
                Err(code) => Log::Unknown(code),
            });
        }
        Ok(all)
    }

    /// Where `auto.offset.reset` says that those of `lanes` with these indexes go on.
    pub(crate) fn resets(
        &self,
        indexes: &[usize],
        lanes: &[TopicPartition],
        logs: &[Log],
    ) -> Result<Vec<Offset>, Stopped> {
        let Some(first) = indexes.first() else { return Ok(Vec::new()) };
        let Some(point) = self.shared.config.reset().point() else {
            return Err(Stopped::Failed(Error::OffsetLost(format!(
                "{} has no committed offset in consumer group {} and auto.offset.reset=none; commit one, or set \
                 consumer.override.auto.offset.reset to earliest or latest",
                lanes[*first],
                self.shared.config.group(),
            ))));
        };
        let mut begins = HashMap::new();
        for index in indexes {
            match logs[*index] {
                Log::Holds(ends) => drop(begins.insert(*index, ends.begin)),
                Log::Missing => {}
                Log::Unknown(code) => {
                    let what = format!("could not read where the log of {} begins and ends", lanes[*index]);
                    return Err(Stopped::Failed(Error::Unavailable(format!("{what}: {code}"))));
                }
            }
        }
        if point != Point::Begin {
            let there: Vec<usize> = begins.keys().copied().collect();
            let wanted: Vec<TopicPartition> = there.iter().map(|index| lanes[*index].clone()).collect();
            let ask = || self.native.points(&wanted, point, REQUEST_TIMEOUT);
            begins = there.into_iter().zip(self.patiently("could not read where logs end", ask)?).collect();
        }
        // A topic that is gone has nothing to read; if it comes back, it begins at 0.
        let start = |index| begins.get(index).copied().and_then(Offset::new).unwrap_or(Offset::ZERO);
        Ok(indexes.iter().map(start).collect())
    }

    fn patiently<T>(&self, what: &str, mut ask: impl FnMut() -> Result<T, Code>) -> Result<T, Stopped> {
        let deadline = Instant::now() + self.shared.config.assign_timeout;
        loop {
            let code = match ask() {
                Ok(answer) => return Ok(answer),
                Err(code) => code,
            };
            if self.shared.has_command() {
                return Err(Stopped::Command);
            }
            if let Some(error) = fatal(code, what, "refused") {
                return Err(Stopped::Failed(error));
            }
            if Instant::now() >= deadline {
                return Err(Stopped::Failed(Error::Unavailable(format!("{what}: {code}"))));
            }
            std::thread::park_timeout(RETRY_PAUSE);
        }
    }
}
