//! Makes the closed cuts of one lane visible, one after the other, beside the reading of the next.

use std::sync::Arc;

use model::{CutReason, OffsetRange, Plan, TopicPartition};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{debug, warn};
use writer::{Committer, FinishedFile, OpenCut, PublishError, PublishedFile, Store};

use crate::lane::{FromLane, Outbox, PlanNeeded};
use crate::{Share, TaskError};

/// A cut that takes no more rows.
pub(crate) struct ClosedCut {
    pub(crate) open: OpenCut,
    pub(crate) range: OffsetRange,
    pub(crate) plan: Plan,
    pub(crate) reason: CutReason,
    /// It repeats the plan that the broker holds.
    pub(crate) is_replay: bool,
    pub(crate) share: Share,
}

pub(crate) struct Publisher {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) committer: Arc<dyn Committer>,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) closed: mpsc::Receiver<ClosedCut>,
}

impl Publisher {
    /// Publishes until the lane is gone and its last cut is visible.
    pub(crate) async fn run(mut self) -> Result<(), TaskError> {
        while let Some(cut) = self.closed.recv().await {
            self.publish(cut).await?;
        }
        Ok(())
    }

    async fn publish(&self, cut: ClosedCut) -> Result<(), TaskError> {
        let ClosedCut { open, range, plan, reason, is_replay, share } = cut;
        let files = open.finish(range, &plan).await?;
        // Parts are in the store; the bytes of small files wait here, or their rows.
        share.resize(files.iter().map(FinishedFile::held_bytes).sum());
        let (reply, planned) = oneshot::channel();
        let plan = match (self.committer.needs_plan(), is_replay) {
            (false, _) => PlanNeeded::None,
            (true, true) => PlanNeeded::Held,
            (true, false) => PlanNeeded::New(plan.to_metadata()),
        };
        self.outbox.tell(FromLane::Ready { range, plan, reply });
        if planned.await.is_err() {
            // The task has dropped this lane and aborts us.
            return Ok(());
        }
        let files = self.publish_until_visible(files).await?;
        share.resize(0);
        for file in &files {
            debug!(topic_partition = %self.topic_partition, key = %file.key, rows = file.rows, bytes = file.bytes,
                already_there = file.already_there, reason = reason.as_str(), "published");
        }
        self.outbox.tell(FromLane::Published { range, reason, files });
        Ok(())
    }

    async fn publish_until_visible(&self, mut files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, TaskError> {
        loop {
            match self.committer.publish(files).await {
                Ok(published) => return Ok(published),
                Err(PublishError::Transient { files: again, source }) => {
                    warn!(topic_partition = %self.topic_partition, error = %source, "store does not answer, publishing again");
                    files = again;
                    sleep(self.store.rules().redelivery).await;
                }
                Err(error @ PublishError::Conflict { .. }) => return Err(TaskError::Data(error.to_string())),
                Err(error @ (PublishError::Lost { .. } | PublishError::Overtaken(_))) => {
                    return Err(TaskError::Transient(error.to_string()));
                }
                Err(error @ (PublishError::Permanent { .. } | PublishError::Refused(_))) => {
                    return Err(TaskError::Refused(error.to_string()));
                }
            }
        }
    }
}
