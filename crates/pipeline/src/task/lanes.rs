//! The lanes of a task: opened at assignment, heard, closed at revocation, dropped when they are done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use model::{CutReason, Offset, OffsetRange, Plan, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use source::{Ack, Assigned};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::Loop;
use super::incoming::Incoming;
use crate::lane::{FromLane, Lane, LaneParts, Outbox, PlanNeeded, ToLane};
use crate::ledger::{Held, Ledger};
use crate::publisher::Publisher;
use crate::typing::Typing;
use crate::{LedgerError, TaskError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Lane,
    Publisher,
}

/// What the task knows of one lane. Dropping it stops the lane and its publisher, as a crash would.
pub(super) struct LaneHandle {
    pub(super) topic_partition: TopicPartition,
    pub(super) ledger: Ledger,
    pub(super) to_lane: mpsc::UnboundedSender<ToLane>,
    pub(super) queued_bytes: usize,
    /// Bytes of its open cut.
    pub(super) held_bytes: Arc<AtomicUsize>,
    /// What it held when it had done all that it can do to hold less.
    pub(super) shrunk_to_bytes: usize,
    /// The cut that it makes again; until its end it must not cut elsewhere.
    pub(super) replay: Option<OffsetRange>,
    pub(super) waiting_for_plan: Option<oneshot::Sender<()>>,
    /// Where it ends, if it does.
    pub(super) until: Option<Offset>,
    /// Where it must wait for its next share, if there is a pace.
    pub(super) allowed_to: Option<Offset>,
    /// What came for it and lies past that.
    pub(super) waiting: VecDeque<Incoming>,
    /// It was told to close, for it is at its end.
    pub(super) is_over: bool,
    /// The source was told to deliver nothing for it.
    pub(super) is_held: bool,
    running: usize,
    aborts: [AbortHandle; 2],
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.aborts.iter().for_each(AbortHandle::abort);
    }
}

/// Revoked lanes that still close their files.
pub(super) struct Releasing {
    lanes: Vec<u64>,
    pub(super) until: Instant,
    ack: Ack,
}

fn defect(error: LedgerError) -> TaskError {
    TaskError::Data(format!("defect in sluice, please report it: {error}"))
}

impl Loop {
    pub(super) fn lane_of(&self, topic_partition: &TopicPartition) -> Option<u64> {
        self.lanes.iter().find(|(_, lane)| lane.topic_partition == *topic_partition).map(|(lane, _)| *lane)
    }

    /// The plan in `metadata`, if it can be replayed; a lane whose plan cannot is not started.
    fn plan_of(&self, assigned: &Assigned) -> Result<Option<(OffsetRange, Plan)>, TaskError> {
        let Assigned { topic_partition, start, metadata, .. } = assigned;
        if !self.task.committer.needs_plan() {
            return Ok(None);
        }
        let plan = Plan::from_metadata(*start, metadata)
            .map_err(|source| TaskError::Plan { topic_partition: topic_partition.clone(), source })?
            .filter(|(range, _)| !range.is_empty());
        if let Some((range, plan)) = &plan
            && plan.config_fingerprint != self.task.recipe.fingerprint
        {
            return Err(TaskError::OtherSettings {
                topic_partition: topic_partition.clone(),
                range: *range,
                planned: plan.config_fingerprint,
                configured: self.task.recipe.fingerprint,
                also: String::new(),
            });
        }
        Ok(plan)
    }

    /// Opens a lane; its number.
    pub(super) fn open_lane(&mut self, assigned: Assigned) -> Result<u64, TaskError> {
        let replay = self.plan_of(&assigned)?;
        let Assigned { topic_partition, start, until, metadata, committed } = assigned;
        info!(%topic_partition, %start, committed, replay = replay.is_some(), "assigned");
        let held = match (committed, &replay) {
            (true, None) => Held::Start,
            (true, Some(_)) => Held::Plan,
            (false, None) => Held::Nothing { plan: String::new() },
            (false, Some(_)) => Held::Nothing { plan: metadata },
        };
        self.next_lane += 1;
        let number = self.next_lane;
        let outbox = Outbox { lane: number, sender: self.sender.clone() };
        let (to_lane, inbox) = mpsc::unbounded_channel();
        let (closed_sender, closed) = mpsc::channel(1);
        let (budget, held_bytes) = (self.task.budget.clone(), Arc::new(AtomicUsize::new(0)));
        let publisher = Publisher {
            topic_partition: topic_partition.clone(),
            committer: self.task.committer.clone(),
            store: self.task.recipe.files.store.clone(),
            outbox: outbox.clone(),
            closed,
        };
        let lane = Lane::new(LaneParts {
            topic_partition: topic_partition.clone(),
            start,
            replay: replay.clone(),
            gapless: !self.task.committer.needs_plan(),
            recipe: self.task.recipe.clone(),
            typing: Typing::new(topic_partition.topic.clone(), &self.task.recipe, self.task.schemas.clone()),
            clock: self.task.clock.clone(),
            rng: StdRng::seed_from_u64(self.rng.random()),
            share: Box::new(move || budget.share()),
            held: held_bytes.clone(),
            metrics: self.task.metrics.clone(),
            dead_letters: self.task.dead_letters.clone(),
            outbox,
            closed: closed_sender,
        });
        let aborts = [
            self.parts.spawn(async move { (number, Part::Lane, lane.run(inbox).await) }),
            self.parts.spawn(async move { (number, Part::Publisher, publisher.run().await) }),
        ];
        let handle = LaneHandle {
            topic_partition,
            ledger: Ledger::new(start, held),
            to_lane,
            queued_bytes: 0,
            held_bytes,
            shrunk_to_bytes: 0,
            replay: replay.map(|(range, _)| range),
            waiting_for_plan: None,
            until,
            allowed_to: self.pace.as_ref().map(|_| start),
            waiting: VecDeque::new(),
            is_over: false,
            is_held: false,
            running: aborts.len(),
            aborts,
        };
        self.lanes.insert(number, handle);
        self.task.metrics.holds(self.lanes.len());
        Ok(number)
    }

    pub(super) fn release(&mut self, partitions: &[TopicPartition], lost: bool, ack: Ack) {
        info!(?partitions, lost, "revoked");
        let lanes: Vec<u64> = partitions.iter().filter_map(|partition| self.lane_of(partition)).collect();
        if lost {
            lanes.iter().for_each(|lane| self.drop_lane(*lane));
        } else {
            for lane in lanes.iter().filter_map(|lane| self.lanes.get(lane)) {
                let _ = lane.to_lane.send(ToLane::Close(CutReason::Revoke));
            }
            let until = Instant::now() + self.task.deadlines.revoke;
            self.releasing.push(Releasing { lanes, until, ack });
        }
        self.task.metrics.rebalanced();
    }

    pub(super) fn on_lane(&mut self, number: u64, message: FromLane) -> Result<(), TaskError> {
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        match message {
            FromLane::Written { to, bytes } => {
                lane.queued_bytes = lane.queued_bytes.saturating_sub(bytes);
                lane.ledger.written(to).map_err(defect)?;
            }
            FromLane::Closed { to } => {
                lane.replay = lane.replay.filter(|range| range.end() > to);
                lane.ledger.closed(to).map_err(defect)?;
            }
            FromLane::Skipped { to } => lane.ledger.skipped(to).map_err(defect)?,
            FromLane::Ready { range, plan: PlanNeeded::New(metadata), reply } => {
                lane.ledger.plan(range, metadata).map_err(defect)?;
                lane.waiting_for_plan = Some(reply);
            }
            FromLane::Ready { range, plan: PlanNeeded::Held, reply } => {
                match lane.ledger.replay(range).map_err(defect)? {
                    true => drop(reply.send(())),
                    false => lane.waiting_for_plan = Some(reply),
                }
            }
            FromLane::Ready { range, plan: PlanNeeded::None, reply } => {
                lane.ledger.unplanned(range).map_err(defect)?;
                let _ = reply.send(());
            }
            FromLane::Published { range, reason, files } => {
                lane.ledger.published(range.end()).map_err(defect)?;
                lane.ledger.check().map_err(defect)?;
                debug!(topic_partition = %lane.topic_partition, %range, reason = reason.as_str(), files = files.len(), "cut visible");
                self.task.metrics.published(reason, &files);
            }
            FromLane::Relieved => self.on_relieved(number),
        }
        Ok(())
    }

    pub(super) fn on_ended(
        &mut self,
        ended: Result<(u64, Part, Result<(), TaskError>), JoinError>,
    ) -> Result<(), TaskError> {
        let (number, part, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(TaskError::Data(format!("defect in sluice, please report it: {error}"))),
        };
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        lane.running -= 1;
        self.relief.forget(number);
        let Err(error) = outcome else { return Ok(()) };
        error!(topic_partition = %lane.topic_partition, %error, "lane stopped");
        match part {
            // What was closed before it may still become visible and committed.
            Part::Lane => {}
            // Nothing more of it can become visible. A plan that is committed is replayed when the task starts again.
            Part::Publisher => self.drop_lane(number),
        }
        self.fail(error)
    }

    pub(super) fn drop_lane(&mut self, number: u64) {
        if let Some(lane) = self.lanes.remove(&number) {
            self.task.metrics.lane_gone(&lane.topic_partition);
            self.task.metrics.holds(self.lanes.len());
        }
        self.relief.forget(number);
    }

    pub(super) fn drop_all_lanes(&mut self) {
        for number in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.drop_lane(number);
        }
        self.releasing.clear();
    }

    /// Lanes that have ended and whose last word is committed leave; whoever waits for them is told.
    pub(super) fn forget_settled_lanes(&mut self) {
        let done = |lane: &LaneHandle| lane.running == 0 && lane.ledger.is_settled();
        for number in self.lanes.iter().filter(|(_, lane)| done(lane)).map(|(number, _)| *number).collect::<Vec<_>>() {
            self.drop_lane(number);
        }
        let now = Instant::now();
        let late: Vec<u64> = self
            .releasing
            .iter()
            .filter(|releasing| releasing.until <= now || releasing.ack.is_abandoned())
            .flat_map(|releasing| releasing.lanes.clone())
            .collect();
        late.iter().for_each(|lane| self.drop_lane(*lane));
        let lanes = &self.lanes;
        self.releasing.retain(|releasing| releasing.lanes.iter().any(|lane| lanes.contains_key(lane)));
    }
}
