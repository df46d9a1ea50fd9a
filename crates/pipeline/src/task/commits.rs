//! What a task commits: one request at a time with what all lanes have to say, and what its answers mean.

use std::pin::Pin;
use std::time::Duration;

use model::TopicPartition;
use source::{Commit, CommitError};
use tokio::time::Instant;
use tracing::warn;

use super::Loop;
use crate::TaskError;

/// First and longest wait before a refused commit is said again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A commit that is refused for so long will not be taken by this member any more.
const REFUSED_MAX: Duration = Duration::from_secs(60);

/// How long a request waits for lanes that cut at the same time, so that they share it.
const LINGER: Duration = Duration::from_millis(10);

/// The lanes that a request spoke for, and its answer.
pub(super) type CommitAnswer = (Vec<u64>, Result<Vec<TopicPartition>, CommitError>);

/// A request on its way.
pub(super) type Committing = Pin<Box<dyn Future<Output = CommitAnswer> + Send>>;

/// When the next request may go.
#[derive(Debug)]
pub(super) struct Commits {
    refused_since: Option<Instant>,
    not_before: Instant,
    retry: Duration,
    /// Something is to be said, and goes at this time even if others are about to have something too.
    due: Option<Instant>,
}

impl Commits {
    pub(super) fn new() -> Commits {
        Commits { refused_since: None, not_before: Instant::now(), retry: RETRY.0, due: None }
    }

    /// When a request that waits for company goes alone.
    pub(super) fn lingers_until(&self, is_committing: bool) -> Option<Instant> {
        self.due.filter(|_| !is_committing).map(|due| due.max(self.not_before))
    }
}

/// Waits for the answer of the request that is on its way.
pub(super) async fn answer(committing: &mut Option<Committing>) -> CommitAnswer {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

impl Loop {
    /// One request with what every lane has to say. While some lane is about to have something too, it waits a
    /// little for it.
    pub(super) fn next_commit(&mut self) -> Option<Committing> {
        let now = Instant::now();
        if now < self.commits.not_before {
            return None;
        }
        if !self.lanes.values().any(|lane| lane.ledger.next_commit().is_some()) {
            self.commits.due = None;
            return None;
        }
        let due = *self.commits.due.get_or_insert(now + LINGER);
        if now < due && self.lanes.values().any(|lane| lane.ledger.is_about_to_speak()) {
            return None;
        }
        self.commits.due = None;
        let (mut numbers, mut commits) = (Vec::new(), Vec::new());
        for (number, lane) in &mut self.lanes {
            let Some((offset, metadata)) = lane.ledger.next_commit() else { continue };
            let topic_partition = lane.topic_partition.clone();
            let metadata = match metadata {
                "" => self.task.committer.seal(&topic_partition),
                plan => plan.to_owned(),
            };
            let commit = Commit { topic_partition, offset, metadata };
            lane.ledger.commit_sent();
            numbers.push(*number);
            commits.push(commit);
        }
        let source = self.task.source.clone();
        Some(Box::pin(async move { (numbers, source.commit(commits).await) }))
    }

    pub(super) async fn on_commit(&mut self, (numbers, outcome): CommitAnswer) -> Result<(), TaskError> {
        self.task.metrics.committed(outcome.is_ok());
        match outcome {
            Ok(left_out) => {
                (self.commits.refused_since, self.commits.retry) = (None, RETRY.0);
                for number in numbers {
                    self.on_taken(number, &left_out);
                }
                Ok(())
            }
            Err(CommitError::Fenced(why) | CommitError::Refused(why)) => {
                warn!(error = %why, "commit refused, saying it again");
                for number in numbers {
                    if let Some(lane) = self.lanes.get_mut(&number) {
                        lane.ledger.commit_refused();
                    }
                }
                self.commits.not_before = Instant::now() + self.commits.retry;
                self.commits.retry = (self.commits.retry * 2).min(RETRY.1);
                let since = *self.commits.refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() < REFUSED_MAX {
                    return Ok(());
                }
                Err(TaskError::Transient(format!(
                    "the group refused every commit for {REFUSED_MAX:?}, the last one because: {why}"
                )))
            }
            Err(CommitError::Unknown(why)) => {
                warn!(error = %why, "the outcome of a commit is unknown: leaving the group and joining again");
                self.drop_all_lanes();
                if self.drain_until.is_none() {
                    self.task.source.rejoin().await;
                }
                Ok(())
            }
        }
    }

    fn on_taken(&mut self, number: u64, left_out: &[TopicPartition]) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        if left_out.contains(&lane.topic_partition) {
            // Its lease is gone: nothing of it can be planned any more, so nothing more of it may become visible. The
            // `Revoked` event that tells it finds no lane.
            warn!(topic_partition = %lane.topic_partition, "taken away before its files were committed, they are dropped");
            self.drop_lane(number);
        } else if lane.ledger.commit_taken()
            && let Some(reply) = lane.waiting_for_plan.take()
        {
            let _ = reply.send(());
        }
    }
}
