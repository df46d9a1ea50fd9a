//! Where a consumer group stands, seen and set from outside: for people and for the REST interface. All functions block
//! for as long as they are told at most.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::{Offset, TopicPartition};
use regex::Regex;

use crate::code::{Code, Trouble, Verdict, fatal, trouble, verdict};
use crate::kafka::SourceConfig;
use crate::native::{List, Native};
use crate::protocol::Protocol;
use crate::topic_id::unstamped;
use crate::{Commit, Error, Subscription};

/// Pause before a broker that was not ready is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Topics of the broker itself, which no pattern matches (`exclude.internal.topics` of the Java consumer).
const INTERNAL: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Where a group stands in one topic-partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPosition {
    /// Which one.
    pub topic_partition: TopicPartition,
    /// The committed offset and its metadata, a plan or nothing; `None` when nothing is committed.
    pub committed: Option<(Offset, String)>,
    /// The first offset that the log still holds.
    pub begin: Offset,
    /// The first offset after the log, counting records that are not visible (yet).
    pub end: Offset,
}

/// Why positions could not be set.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The group has members; only they may commit.
    #[error(
        "consumer group {group} has members ({reason}): stop the connector everywhere it runs, then set its positions"
    )]
    InUse {
        /// The group.
        group: String,
        /// What the broker said.
        reason: String,
    },
    /// The broker refused it for another reason; it did not happen.
    #[error("the broker did not set the positions of consumer group {group}: {reason}")]
    Refused {
        /// The group.
        group: String,
        /// What the broker said.
        reason: String,
    },
    /// It may have happened or happen yet; to set the same again is harmless.
    #[error(
        "the broker did not say whether it set the positions of consumer group {group}: {reason}; look, or try again"
    )]
    Unknown {
        /// The group.
        group: String,
        /// What is known.
        reason: String,
    },
    /// The broker could not be asked.
    #[error(transparent)]
    Source(#[from] Error),
}

/// Where the group of `client` stands in every topic-partition of `subscription` that exists, sorted. `client` holds
/// properties as [`SourceConfig::client`] does; the group's members are not disturbed. Errors: properties that cannot be
/// used, access that is denied, no answer in `timeout`.
pub fn positions(
    client: &BTreeMap<String, String>,
    subscription: &Subscription,
    timeout: Duration,
) -> Result<Vec<GroupPosition>, Error> {
    let outside = Outside::new(client, subscription, timeout)?;
    let topics = outside.patiently("list the topics", |left| outside.native.topics(left))?;
    let lanes = lanes_of(subscription, &topics)?;
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let entries = outside.patiently("read the committed offsets", |left| {
        let mut list = List::of(&lanes);
        outside.native.committed(&mut list, left)?;
        let entries = list.entries();
        entries.iter().try_for_each(|entry| entry.code.result())?;
        Ok(entries)
    })?;
    let ends = outside.patiently("read where the logs begin and end", |left| outside.native.ends(&lanes, left))?;
    let number = |offset: i64| Offset::new(offset).unwrap_or(Offset::ZERO);
    let found = entries.into_iter().zip(ends).map(|(entry, ends)| GroupPosition {
        topic_partition: entry.topic_partition,
        committed: Offset::new(entry.offset).map(|offset| (offset, unstamped(&entry.metadata).0)),
        begin: number(ends.begin),
        end: number(ends.end),
    });
    Ok(found.collect())
}

/// The topic-partitions that `subscription` asks for out of `topics`, which says how many partitions each has; sorted.
/// Errors: a pattern that cannot be read.
pub(crate) fn lanes_of(
    subscription: &Subscription,
    topics: &BTreeMap<String, i32>,
) -> Result<Vec<TopicPartition>, Error> {
    let wanted: Box<dyn Fn(&str) -> bool> = match subscription {
        Subscription::Topics(_) | Subscription::Partitions(_) => {
            let names = subscription.topics();
            Box::new(move |topic| names.contains(topic))
        }
        Subscription::Regex(regex) => {
            let whole = Regex::new(&format!("^(?:{regex})$"));
            let whole = whole.map_err(|error| Error::Config(format!("topics.regex cannot be read: {error}")))?;
            Box::new(move |topic| whole.is_match(topic) && !INTERNAL.contains(&topic))
        }
    };
    let mut lanes: Vec<TopicPartition> = topics
        .iter()
        .filter(|(topic, _)| wanted(topic))
        .flat_map(|(topic, partitions)| {
            (0..*partitions).map(|partition| TopicPartition::new(topic.as_str(), partition))
        })
        .filter(|lane| !subscription.leaves_out(lane))
        .collect();
    lanes.sort();
    Ok(lanes)
}

/// Commits `commits` for the group of `client` in one request. Works only while the group has no members.
pub fn set(client: &BTreeMap<String, String>, commits: Vec<Commit>, timeout: Duration) -> Result<(), GroupError> {
    if commits.is_empty() {
        return Ok(());
    }
    let outside = Outside::new(client, &Subscription::Topics(Vec::new()), timeout)?;
    let mut list = List::new();
    for commit in &commits {
        list.add(&commit.topic_partition, commit.offset.get(), &commit.metadata);
    }
    // Asks for the coordinator, so that a broker which cannot be reached is told as such.
    let lanes: Vec<&TopicPartition> = commits.iter().map(|commit| &commit.topic_partition).collect();
    outside.patiently("read the committed offsets", |left| {
        outside.native.committed(&mut List::of(lanes.iter().copied()), left)
    })?;
    let group = outside.group.clone();
    let answer = outside.native.commit(&list, outside.left());
    if answer.timed_out {
        return Err(GroupError::Unknown { group, reason: format!("no answer in {timeout:?}") });
    }
    let Some((code, lane)) = answer.errors.first() else { return Ok(()) };
    let reason = lane.as_ref().map_or_else(|| code.to_string(), |lane| format!("{lane}: {code}"));
    Err(match verdict(*code) {
        Verdict::Fenced | Verdict::Rebalancing => GroupError::InUse { group, reason },
        Verdict::Refused => GroupError::Refused { group, reason },
        Verdict::Unknown => GroupError::Unknown { group, reason },
    })
}

/// A client that knows the group and is no member of it.
struct Outside {
    native: Native,
    group: String,
    servers: String,
    deadline: Instant,
}

impl Outside {
    fn new(client: &BTreeMap<String, String>, subscription: &Subscription, timeout: Duration) -> Result<Self, Error> {
        let config = SourceConfig::new(client.clone(), subscription.clone());
        let group = config.group().to_owned();
        if group.is_empty() {
            return Err(Error::Config("group.id is missing".to_owned()));
        }
        let mut properties = config.properties_for(Protocol::Classic);
        // It would speak for a static member.
        properties.remove("group.instance.id");
        let servers = properties.get("bootstrap.servers").cloned().unwrap_or_default();
        let native = Native::new(&properties)?;
        Ok(Self { native, group, servers, deadline: Instant::now() + timeout })
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn patiently<T>(&self, what: &str, mut ask: impl FnMut(Duration) -> Result<T, Code>) -> Result<T, Error> {
        let (group, servers) = (&self.group, &self.servers);
        loop {
            let code = match ask(self.left()) {
                Ok(answer) => return Ok(answer),
                Err(code) => code,
            };
            if let Some(error) = fatal(code, &format!("could not {what} of consumer group {group}"), "refused") {
                return Err(error);
            }
            if self.left() <= RETRY_PAUSE || trouble(code) == Trouble::NoTopic {
                return Err(Error::Unavailable(format!(
                    "could not {what} of consumer group {group} at {servers}: {code}; check bootstrap.servers and whether \
                     the brokers are up",
                )));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }
}
