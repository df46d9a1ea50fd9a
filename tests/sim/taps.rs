//! A member's source with somebody listening, who can also bend the protocol to see whether that is noticed.

use std::sync::Arc;

use async_trait::async_trait;
use model::{Offset, TopicPartition};
use source::{Commit, CommitError, CommitFate, Event, MemorySource, Source};

use crate::world::World;

/// How the protocol of design.md, "Exactly once", is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Bend {
    /// It is not.
    #[default]
    Not,
    /// No plan is ever written ahead: the metadata of commits is left out.
    NoPlans,
    /// A commit with an unknown outcome is said again instead of leaving the group.
    RepeatUnknown,
}

/// A source whose commits are written into the trace and held against the truth.
#[derive(Clone)]
pub(crate) struct Tapped {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) world: World,
    pub(crate) name: String,
    pub(crate) bend: Bend,
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

#[async_trait]
impl Source for Tapped {
    async fn next(&self, records: bool) -> Event {
        let event = self.source.next(records).await;
        match &event {
            Event::Assigned(assigned) => {
                let shown: Vec<String> = assigned
                    .iter()
                    .map(|one| {
                        let plan = if one.metadata.is_empty() { "" } else { " with a plan" };
                        format!("p{}@{}{plan}", one.topic_partition.partition, one.start)
                    })
                    .collect();
                self.world.note(&format!("{} is assigned {shown:?}", self.name));
            }
            Event::Revoked { partitions, lost, .. } => {
                self.world.note(&format!("{} gives up {partitions:?}, lost={lost}", self.name));
                if *lost {
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
        let commits: Vec<Commit> = match self.bend {
            Bend::NoPlans => commits.into_iter().map(|one| Commit { metadata: String::new(), ..one }).collect(),
            Bend::Not | Bend::RepeatUnknown => commits,
        };
        let answer = match self.bend {
            Bend::Not | Bend::NoPlans => self.source.commit(commits).await,
            Bend::RepeatUnknown => self.commit_once_more(commits).await,
        };
        match &answer {
            Ok(left_out) if left_out.is_empty() => {}
            Ok(left_out) => self.world.note(&format!("{} has no lease of {left_out:?}", self.name)),
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

    async fn rejoin(&self) {
        self.world.note(&format!("{} leaves and joins again", self.name));
        self.world.make_untidy();
        self.source.rejoin().await;
    }

    async fn close(&self) {
        self.world.note(&format!("{} leaves", self.name));
        self.source.close().await;
    }
}
