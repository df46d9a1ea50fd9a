//! A member's source with somebody listening, who can also bend the protocol to see whether that is noticed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::{Offset, TopicPartition};
use source::{Commit, CommitError, CommitFate, Event, MemorySource, Source};

use crate::actions::Action;
use crate::bends::Bend;
use crate::world::World;

/// How long a plan that is published first waits.
const HELD_BACK: Duration = Duration::from_millis(400);

/// A source whose commits are written into the trace and held against the truth.
#[derive(Clone)]
pub(crate) struct Tapped {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) world: World,
    pub(crate) name: String,
    pub(crate) bend: Bend,
    /// A commit is under way.
    pub(crate) commits: Arc<AtomicBool>,
    /// Plans that were answered and not sent yet.
    pub(crate) held_back: Arc<Mutex<BTreeMap<TopicPartition, Commit>>>,
}

/// Says that a commit is under way for as long as it lives.
struct Under<'a>(&'a AtomicBool);

impl<'a> Under<'a> {
    fn way(commits: &'a AtomicBool) -> Under<'a> {
        commits.store(true, Ordering::Relaxed);
        Under(commits)
    }
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Tapped {
    /// What the task that does not rejoin lives with: unknown outcomes that look like refusals.
    async fn commit_once_more(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        let refused = || Err(CommitError::Refused("bent: the outcome is unknown, say it again".to_owned()));
        match self.world.weather().of_commit(&commits) {
            CommitFate::Apply => self.source.commit(commits).await,
            CommitFate::ApplyAfter(time) => {
                tokio::time::sleep(time).await;
                self.source.commit(commits).await
            }
            CommitFate::Refuse | CommitFate::LoseReportUnknown | CommitFate::DelayReportUnknown(None) => refused(),
            CommitFate::ApplyReportUnknown => {
                let _lost = self.source.commit(commits).await;
                refused()
            }
            CommitFate::DelayReportUnknown(Some(time)) => {
                let (source, world) = (self.source.clone(), self.world.clone());
                let generation = world.generation();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    if world.generation() == generation {
                        let _nobody_asks = source.commit(commits).await;
                    }
                });
                refused()
            }
        }
    }
}

impl Tapped {
    /// A source without leases: what it left out is sent all the same.
    async fn commit_without_lease(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        let left_out = self.source.commit(commits.clone()).await?;
        let rest: Vec<Commit> = commits.into_iter().filter(|one| left_out.contains(&one.topic_partition)).collect();
        if !rest.is_empty() {
            self.world.log().commit_unchecked(self.source.id(), rest)?;
        }
        Ok(Vec::new())
    }

    /// Plans wait while what they announce is published, unless something newer is said of their lane.
    async fn commit_plans_later(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        let (plans, rest): (Vec<Commit>, Vec<Commit>) = commits.into_iter().partition(|one| !one.metadata.is_empty());
        let lock = || self.held_back.lock().expect("no panic holds it");
        lock().retain(|lane, _| !rest.iter().any(|one| one.topic_partition == *lane));
        for plan in plans {
            lock().insert(plan.topic_partition.clone(), plan.clone());
            let (source, held_back) = (self.source.clone(), self.held_back.clone());
            tokio::spawn(async move {
                tokio::time::sleep(HELD_BACK).await;
                let waits = held_back.lock().expect("no panic holds it").remove(&plan.topic_partition);
                if let Some(plan) = waits.filter(|waits| *waits == plan) {
                    let _nobody_asks = source.commit(vec![plan]).await;
                }
            });
        }
        if rest.is_empty() { Ok(Vec::new()) } else { self.source.commit(rest).await }
    }
}

#[async_trait]
impl Source for Tapped {
    async fn next(&self, records: bool) -> Event {
        let event = self.source.next(records).await;
        match &event {
            Event::Assigned(assigned) => {
                for one in assigned.iter().filter(|one| !one.committed) {
                    if !one.metadata.is_empty() {
                        self.world.count(Action::PlanRecovered);
                    } else if one.start > Offset::ZERO {
                        self.world.count(Action::LaneRecovered);
                    }
                }
                self.world.truth().assigned(&self.name, assigned);
                let shown: Vec<String> = assigned
                    .iter()
                    .map(|one| {
                        let plan = if one.metadata.is_empty() { "" } else { " with a plan" };
                        format!("{}@{}{plan}", one.topic_partition, one.start)
                    })
                    .collect();
                self.world.note(&format!("{} is assigned {shown:?}", self.name));
            }
            Event::Revoked { partitions, lost, .. } => {
                self.world.note(&format!("{} gives up {partitions:?}, lost={lost}", self.name));
                if *lost {
                    self.world.count(Action::AllLost);
                    self.world.make_untidy();
                }
            }
            Event::Batch(_) | Event::Position { .. } | Event::Failed(_) => {}
        }
        self.world.look();
        event
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        self.world.look();
        self.world.about_to_commit(&self.name, &commits);
        let _under = Under::way(&self.commits);
        let answer = match self.bend {
            Bend::Not | Bend::NoCondition | Bend::NoHead | Bend::NoLetterAwaited => self.source.commit(commits).await,
            Bend::NoPlans => {
                let without = commits.into_iter().map(|one| Commit { metadata: String::new(), ..one });
                self.source.commit(without.collect()).await
            }
            Bend::PublishFirst => self.commit_plans_later(commits).await,
            Bend::RepeatUnknown => self.commit_once_more(commits).await,
            Bend::NoLease => self.commit_without_lease(commits).await,
        };
        match &answer {
            Ok(left_out) if left_out.is_empty() => {}
            Ok(left_out) => {
                self.world.count(Action::CommitWithoutLease);
                self.world.note(&format!("{} has no lease of {left_out:?}", self.name));
            }
            Err(error) => self.world.note(&format!("{}: {error}", self.name)),
        }
        self.world.look();
        answer
    }

    fn pause(&self, partitions: &[TopicPartition]) {
        self.source.pause(partitions);
    }

    fn resume(&self, partitions: &[TopicPartition]) {
        self.source.resume(partitions);
    }

    fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset> {
        self.source.end_offset(topic_partition)
    }

    async fn is_exhausted(&self) -> Result<bool, source::Error> {
        self.source.is_exhausted().await
    }

    async fn rejoin(&self) {
        self.world.note(&format!("{} leaves and joins again", self.name));
        self.world.count(Action::LeftAndJoinedAgain);
        self.world.make_untidy();
        self.source.rejoin().await;
    }

    async fn close(&self) {
        self.world.note(&format!("{} leaves", self.name));
        self.source.close().await;
    }
}
