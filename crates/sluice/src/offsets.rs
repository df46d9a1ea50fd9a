//! Offsets of a connector's group: where it is, and what it means to put it elsewhere. REST and the command line share it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use model::{Invalid, Offset, OffsetRange, Plan, Settings, TopicPartition};
use source::group::{self, GroupError, GroupPosition};
use source::{Commit, DataLoss, StartAt, Starting, Subscription};
use supervisor::{OffsetChange, OffsetsError};
use writer::OnExisting;

use crate::consumer::Consumer;

/// How long the brokers have for all that is asked of them at once.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long members of the group may take to leave, and how often is looked.
const LEAVING_MAX: Duration = Duration::from_secs(3);
const LEAVING_PAUSE: Duration = Duration::from_millis(250);

/// Where a topic-partition starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartPoint {
    /// Where its log begins.
    Earliest,
    /// Where its log ends.
    Latest,
    /// There.
    At(Offset),
}

/// What is to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These offsets; without one, what `auto.offset.reset` says.
    Some(BTreeMap<TopicPartition, Option<Offset>>),
    /// This for every topic-partition; without one, what `auto.offset.reset` says.
    All(Option<StartPoint>),
}

impl From<OffsetChange> for Wanted {
    fn from(change: OffsetChange) -> Wanted {
        match change {
            OffsetChange::Alter(offsets) => Wanted::Some(offsets),
            OffsetChange::Reset => Wanted::All(None),
        }
    }
}

/// What a connector writes to, as far as it matters for records that are read again.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Objects: what happens to those that exist.
    Objects(OnExisting),
    /// A table, whose positions are set too; and where topic-partitions start that it does not know.
    Table(Option<Starting>),
}

/// The group of a connector and what its configuration says about starting anew.
#[derive(Clone)]
pub(crate) struct Group {
    client: BTreeMap<String, String>,
    subscription: Subscription,
    /// `auto.offset.reset`; `None` for `none`.
    reset: Option<StartPoint>,
    target: Target,
    on_data_loss: DataLoss,
}

/// What was committed, and what to tell the user about it.
#[derive(Debug)]
pub(crate) struct Changed {
    pub(crate) before: Vec<GroupPosition>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) note: String,
}

impl Changed {
    /// The offsets that were committed.
    pub(crate) fn offsets(&self) -> BTreeMap<TopicPartition, Offset> {
        self.commits.iter().map(|commit| (commit.topic_partition.clone(), commit.offset)).collect()
    }
}

/// Why nothing was changed, or perhaps not everything.
#[derive(Debug)]
pub(crate) struct NotChanged {
    pub(crate) why: String,
    /// The group has members, which must stop first.
    pub(crate) in_use: bool,
}

impl From<OffsetsError> for NotChanged {
    fn from(error: OffsetsError) -> NotChanged {
        NotChanged { why: error.0, in_use: false }
    }
}

impl Group {
    /// The group that `consumer` of the connector `name` joins.
    pub(crate) fn new(name: &str, settings: &Settings, consumer: Consumer, target: Target) -> Result<Group, Invalid> {
        let mut client = consumer.properties;
        // Nobody is fenced by looking.
        client.remove("group.instance.id");
        client.insert("client.id".to_owned(), format!("sluice-offsets-{name}"));
        Ok(Group {
            reset: reset_point(&client),
            client,
            subscription: source::subscription(settings)?,
            target,
            on_data_loss: source::on_data_loss(settings)?,
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.client.get("group.id").map_or("", String::as_str)
    }

    /// Every topic-partition of the connector: what is committed, and the ends of its log. Waits without blocking a thread
    /// of the runtime.
    pub(crate) async fn positions(&self) -> Result<Vec<GroupPosition>, OffsetsError> {
        let group = self.clone();
        blocking(move || group.positions_now()).await
    }

    /// Commits what `change` says. sluice goes on after the newest object where a group has no offset, so that a lost group
    /// writes nothing twice. Forgetting offsets, as Kafka Connect does it, would therefore start nothing again: an offset
    /// that is reset is committed explicitly as what `auto.offset.reset` says, and the group stays.
    pub(crate) async fn change(&self, change: OffsetChange) -> Result<Changed, OffsetsError> {
        let group = self.clone();
        blocking(move || group.change_now(change.into()).map_err(|error| OffsetsError(error.why))).await
    }

    /// As [`Self::positions`]; blocks.
    pub(crate) fn positions_now(&self) -> Result<Vec<GroupPosition>, OffsetsError> {
        let found = group::positions(&self.client, &self.subscription, TIMEOUT);
        found.map_err(|error| OffsetsError(error.to_string()))
    }

    /// As [`Self::change`]; blocks.
    pub(crate) fn change_now(&self, wanted: Wanted) -> Result<Changed, NotChanged> {
        let before = self.positions_now()?;
        let reset = |lane: &TopicPartition| self.start_of(lane);
        let changed = self.planned(before, |before| commits(before, wanted, reset))?;
        self.set_patiently(&changed.commits)?;
        Ok(changed)
    }

    /// Where a topic-partition starts anew; `None` when only a person can say it.
    fn start_of(&self, lane: &TopicPartition) -> Option<StartPoint> {
        let Target::Table(Some(starting)) = &self.target else { return self.reset };
        match starting.of(lane) {
            StartAt::Earliest => Some(StartPoint::Earliest),
            StartAt::Latest => Some(StartPoint::Latest),
            StartAt::Offset(offset) => Some(StartPoint::At(offset)),
            StartAt::Time(_) => None,
        }
    }

    /// What [`Self::change_now`] would do for these offsets; blocks.
    pub(crate) fn plan_now(&self, offsets: &BTreeMap<TopicPartition, Offset>) -> Result<Changed, NotChanged> {
        let wanted = Wanted::Some(offsets.iter().map(|(lane, offset)| (lane.clone(), Some(*offset))).collect());
        self.planned(self.positions_now()?, |before| commits(before, wanted, |_| None))
    }

    fn planned(
        &self,
        before: Vec<GroupPosition>,
        commits: impl FnOnce(&[GroupPosition]) -> Result<Vec<Commit>, String>,
    ) -> Result<Changed, NotChanged> {
        let commits = commits(&before).map_err(OffsetsError)?;
        let note = consequences(&before, &commits, &self.target, self.on_data_loss);
        Ok(Changed { before, commits, note })
    }

    /// Members that were just stopped may still be on their way out of the group.
    fn set_patiently(&self, commits: &[Commit]) -> Result<(), NotChanged> {
        let until = Instant::now() + LEAVING_MAX;
        loop {
            match group::set(&self.client, commits.to_vec(), TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(GroupError::InUse { .. }) if Instant::now() < until => std::thread::sleep(LEAVING_PAUSE),
                Err(error) => {
                    let in_use = matches!(error, GroupError::InUse { .. });
                    return Err(NotChanged { why: error.to_string(), in_use });
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OffsetsError> + Send + 'static,
) -> Result<T, OffsetsError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(OffsetsError(format!("defect in sluice, please report it: {error}"))))
}

/// `auto.offset.reset`, in librdkafka's words.
fn reset_point(client: &BTreeMap<String, String>) -> Option<StartPoint> {
    match client.get("auto.offset.reset").map(String::as_str) {
        Some("latest" | "end" | "largest") => Some(StartPoint::Latest),
        Some("error" | "none") => None,
        Some(_) | None => Some(StartPoint::Earliest),
    }
}

/// What to commit. The metadata of an offset stays when the offset does: it may be a plan. An error names what cannot be
/// committed, and then nothing is.
fn commits(
    before: &[GroupPosition],
    wanted: Wanted,
    reset: impl Fn(&TopicPartition) -> Option<StartPoint>,
) -> Result<Vec<Commit>, String> {
    let start = |position: &GroupPosition, point: Option<StartPoint>| match point
        .or_else(|| reset(&position.topic_partition))
    {
        Some(StartPoint::Earliest) => Ok(position.begin),
        Some(StartPoint::Latest) => Ok(position.end),
        Some(StartPoint::At(offset)) => Ok(offset),
        None => Err(format!(
            "the configuration does not say at which offset {} starts (auto.offset.reset=none, or a time): name one",
            position.topic_partition
        )),
    };
    let mut offsets = BTreeMap::new();
    match wanted {
        Wanted::All(point) => {
            for position in before {
                offsets.insert(position.topic_partition.clone(), start(position, point)?);
            }
        }
        Wanted::Some(given) => {
            let known: BTreeSet<_> = before.iter().map(|position| &position.topic_partition).collect();
            if let Some(unknown) = given.keys().find(|lane| !known.contains(lane)) {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                return Err(format!("the connector reads no topic-partition {unknown}; it reads {}", known.join(", ")));
            }
            for position in before {
                match given.get(&position.topic_partition) {
                    None => {}
                    Some(Some(offset)) => drop(offsets.insert(position.topic_partition.clone(), *offset)),
                    Some(None) => drop(offsets.insert(position.topic_partition.clone(), start(position, None)?)),
                }
            }
        }
    }
    if offsets.is_empty() {
        return Err("the connector's topics do not exist, so there is nothing to commit".to_owned());
    }
    let commit = |(lane, offset): (TopicPartition, Offset)| {
        let known = before.iter().find(|position| position.topic_partition == lane);
        let same = known.and_then(|position| position.committed.as_ref()).filter(|(committed, _)| *committed == offset);
        Commit {
            metadata: same.map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
            topic_partition: lane,
            offset,
        }
    };
    Ok(offsets.into_iter().map(commit).collect())
}

/// The plan at a committed offset.
pub(crate) fn plan(position: &GroupPosition) -> Option<(OffsetRange, Plan)> {
    let (offset, metadata) = position.committed.as_ref()?;
    Plan::from_metadata(*offset, metadata).ok().flatten()
}

/// Topic-partitions that a sentence names at most.
const NAMED_MAX: usize = 3;

/// What the next start does with these commits, as sentences without the last full stop; empty when nothing is special.
fn consequences(before: &[GroupPosition], commits: &[Commit], target: &Target, on_data_loss: DataLoss) -> String {
    let (mut left_out, mut given_up, mut outside, mut is_read_again) = (Vec::new(), Vec::new(), Vec::new(), false);
    for commit in commits {
        let (lane, is) = (&commit.topic_partition, commit.offset);
        let Some(position) = before.iter().find(|position| position.topic_partition == *lane) else { continue };
        let was = position.committed.as_ref().map(|(offset, _)| *offset);
        is_read_again |= is < was.unwrap_or(position.end).min(position.end);
        // Only what the log holds can be left out.
        let skipped = was.and_then(|was| OffsetRange::new(was.max(position.begin), is.min(position.end)).ok());
        left_out.extend(skipped.filter(|range| !range.is_empty()).map(|range| format!("{range} of {lane}")));
        let plan = plan(position).filter(|_| was != Some(is));
        given_up.extend(plan.map(|(range, _)| format!("{range} of {lane}")));
        if is < position.begin || is > position.end {
            outside.push(format!("{is} of {lane}, whose log is [{}, {})", position.begin, position.end));
        }
    }
    let mut sentences = Vec::new();
    if !left_out.is_empty() {
        sentences.push(format!("Offsets that are left out: {}", some_of(&left_out)));
    }
    if !given_up.is_empty() {
        sentences.push(format!(
            "Planned cuts that are given up, some of whose objects may be visible: {}",
            some_of(&given_up)
        ));
    }
    if !outside.is_empty() {
        let then = match on_data_loss {
            DataLoss::Fail => "on.data.loss=fail stops the task there",
            DataLoss::Continue => "on.data.loss=continue goes on as auto.offset.reset says",
        };
        sentences.push(format!("Offsets outside of their log: {}; {then}", some_of(&outside)));
    }
    if is_read_again {
        sentences.push(match target {
            Target::Objects(on_existing) => {
                format!("Objects of the records that are read again may exist: {}", existing(*on_existing))
            }
            Target::Table(_) => {
                "Records that are read again are appended again: take their rows out of the table before (RESTORE, DELETE)"
                    .to_owned()
            }
        });
    }
    sentences.join(". ")
}

fn some_of(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let named = all[..all.len() - more].join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

/// What happens to a record whose object is there.
fn existing(on_existing: OnExisting) -> &'static str {
    match on_existing {
        OnExisting::Fail => {
            "on.existing.object=fail stops the task at the first one (overwrite replaces them, skip leaves them)"
        }
        OnExisting::Overwrite => {
            "on.existing.object=overwrite replaces those whose names come again, the others stay with rows that are then in \
             two objects"
        }
        OnExisting::Skip => {
            "on.existing.object=skip leaves those that hold all rows of the new one and stops the task elsewhere"
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Fingerprint, Nonce};

    use super::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn position(partition: i32, committed: Option<i64>, begin: i64, end: i64) -> GroupPosition {
        GroupPosition {
            topic_partition: TopicPartition::new("t", partition),
            committed: committed.map(|offset| (at(offset), String::new())),
            begin: at(begin),
            end: at(end),
        }
    }

    fn group() -> Vec<GroupPosition> {
        vec![position(0, Some(50), 10, 100), position(1, None, 0, 7), position(2, Some(0), 0, 0)]
    }

    fn offsets(wanted: Wanted, reset: Option<StartPoint>) -> Result<Vec<(i32, i64)>, String> {
        let commits = commits(&group(), wanted, |_| reset)?;
        Ok(commits.into_iter().map(|commit| (commit.topic_partition.partition, commit.offset.get())).collect())
    }

    #[test]
    fn a_reset_is_an_explicit_offset_for_every_topic_partition() {
        let (earliest, latest) = (Some(StartPoint::Earliest), Some(StartPoint::Latest));
        let cases = [
            (None, earliest, Ok(vec![(0, 10), (1, 0), (2, 0)])),
            (None, latest, Ok(vec![(0, 100), (1, 7), (2, 0)])),
            (earliest, latest, Ok(vec![(0, 10), (1, 0), (2, 0)])),
            (Some(StartPoint::At(at(5))), latest, Ok(vec![(0, 5), (1, 5), (2, 5)])),
            (None, None, Err("the configuration does not say at which offset t-0 starts (auto.offset.reset=none, or a time): name one".to_owned())),
        ];
        for (to, reset, expected) in cases {
            assert_eq!(offsets(Wanted::All(to), reset), expected, "{to:?} {reset:?}");
        }
        assert!(commits(&[], Wanted::All(earliest), |_| None).unwrap_err().contains("topics do not exist"));
    }

    #[test]
    fn only_what_is_named_is_set_and_only_what_the_connector_reads() {
        let given = |partition, offset: Option<i64>| {
            Wanted::Some([(TopicPartition::new("t", partition), offset.map(at))].into())
        };
        let reset = Some(StartPoint::Earliest);
        assert_eq!(offsets(given(1, Some(3)), reset), Ok(vec![(1, 3)]));
        assert_eq!(offsets(given(0, None), reset), Ok(vec![(0, 10)]));
        let unknown = "the connector reads no topic-partition t-9; it reads t-0, t-1, t-2";
        assert_eq!(offsets(given(9, Some(3)), reset), Err(unknown.to_owned()));
    }

    #[test]
    fn a_plan_stays_with_its_offset_and_goes_with_it() {
        let plan = Plan::new(at(80), 5, Nonce(7), None, Fingerprint::of([b"x".as_slice()]), 2).to_metadata();
        let mut group = group();
        group[0].committed = Some((at(50), plan.clone()));
        let set = |offset| {
            let wanted = Wanted::Some([(TopicPartition::new("t", 0), Some(at(offset)))].into());
            let commits = commits(&group, wanted, |_| None).unwrap();
            (
                commits[0].metadata.clone(),
                consequences(&group, &commits, &Target::Objects(OnExisting::Fail), DataLoss::Fail),
            )
        };
        assert_eq!(set(50), (plan, String::new()));
        let (metadata, note) = set(60);
        assert_eq!(metadata, "");
        assert_eq!(
            note,
            "Offsets that are left out: [50, 60) of t-0. Planned cuts that are given up, some of whose objects may be \
             visible: [50, 80) of t-0"
        );
    }

    #[test]
    fn the_user_is_told_what_the_next_start_does() {
        let told = |partition, offset, on_existing, on_data_loss| {
            let wanted = Wanted::Some([(TopicPartition::new("t", partition), Some(at(offset)))].into());
            consequences(
                &group(),
                &commits(&group(), wanted, |_| None).unwrap(),
                &Target::Objects(on_existing),
                on_data_loss,
            )
        };
        let (fail, keep) = (OnExisting::Fail, DataLoss::Fail);
        assert_eq!(told(1, 7, fail, keep), "");
        assert_eq!(
            told(0, 20, fail, keep),
            "Objects of the records that are read again may exist: on.existing.object=fail stops the task at the first one \
             (overwrite replaces them, skip leaves them)"
        );
        assert!(told(0, 20, OnExisting::Overwrite, keep).contains("on.existing.object=overwrite replaces those"));
        assert!(told(1, 0, OnExisting::Skip, keep).contains("on.existing.object=skip leaves those"));
        assert_eq!(
            told(0, 101, fail, keep),
            "Offsets that are left out: [50, 100) of t-0. Offsets outside of their log: 101 of t-0, whose log is [10, 100); \
             on.data.loss=fail stops the task there"
        );
        assert!(
            told(0, 5, fail, DataLoss::Continue).contains("on.data.loss=continue goes on as auto.offset.reset says")
        );
    }
}
