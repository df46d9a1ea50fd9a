//! The task: one loop over a closed enum of events; owns the ledgers of its lanes and is the only one who commits.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::{Offset, Plan, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use source::{Ack, Assigned, Commit, CommitError, Source};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};
use writer::Committer;

use crate::lane::{FromLane, Lane, LaneParts, Outbox, ToLane};
use crate::publisher::Publisher;
use crate::typing::Typing;
use crate::{Budget, Clock, Control, Doing, Ledger, Recipe, TaskError, TaskMetrics, TopicSchemas, Wanted};

/// Raw batches that wait in lanes; more stay in the source.
const READ_AHEAD_BYTES: usize = 8 * 1024 * 1024;

/// How often lag is looked at and refused commits are said again.
const TICK: Duration = Duration::from_millis(100);

/// First and longest wait before a refused commit is said again.
const COMMIT_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A commit that is refused for so long will not be taken by this member any more.
const COMMIT_REFUSED_MAX: Duration = Duration::from_secs(60);

/// How long a task takes to let go.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To close and commit the open files when it is stopped.
    pub drain: Duration,
    /// To close and commit the files of revoked topic-partitions.
    pub revoke: Duration,
}

/// One member of a connector's group, with everything it works with.
pub struct Task {
    /// Where records come from.
    pub source: Arc<dyn Source>,
    /// How lanes are built.
    pub recipe: Arc<Recipe>,
    /// Makes files visible.
    pub committer: Arc<dyn Committer>,
    /// The topics' inferred schemas.
    pub schemas: Arc<TopicSchemas>,
    /// Memory of the process.
    pub budget: Arc<Budget>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// What it counts.
    pub metrics: TaskMetrics,
    /// How long it takes to let go.
    pub deadlines: Deadlines,
    /// Seed of everything that is drawn; different in every run.
    pub seed: u64,
}

/// What a task reacts to.
#[expect(clippy::large_enum_variant, reason = "nearly all are records, a box each would only cost")]
enum Event {
    /// The supervisor wants something else.
    Wanted(Wanted),
    /// The last commit request was answered.
    Commit(CommitAnswer),
    /// A lane or its publisher has something to tell.
    Lane(u64, FromLane),
    /// A lane or a publisher ended.
    Ended(Result<(u64, Part, Result<(), TaskError>), tokio::task::JoinError>),
    /// The source has something.
    Source(source::Event),
    /// Time went by.
    Tick,
}

type CommitAnswer = (Vec<u64>, Result<Vec<TopicPartition>, CommitError>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Lane,
    Publisher,
}

struct LaneHandle {
    topic_partition: TopicPartition,
    ledger: Ledger,
    to_lane: mpsc::UnboundedSender<ToLane>,
    queued_bytes: usize,
    held_bytes: Arc<AtomicUsize>,
    waiting_for_plan: Option<oneshot::Sender<()>>,
    running: usize,
    aborts: [AbortHandle; 2],
    /// The source said that the lease is gone; a `Revoked` event follows.
    lease_gone: bool,
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.aborts.iter().for_each(AbortHandle::abort);
    }
}

struct Releasing {
    lanes: Vec<u64>,
    until: Instant,
    _ack: Ack,
}

/// The state of a task's loop.
struct Loop {
    task: Task,
    rng: StdRng,
    lanes: BTreeMap<u64, LaneHandle>,
    next_lane: u64,
    parts: JoinSet<(u64, Part, Result<(), TaskError>)>,
    sender: mpsc::UnboundedSender<(u64, FromLane)>,
    releasing: Vec<Releasing>,
    drain_until: Option<Instant>,
    failure: Option<TaskError>,
    relieving: Option<u64>,
    refused_since: Option<Instant>,
    commit_not_before: Instant,
    commit_retry: Duration,
}

impl Task {
    /// Works until `control` wants it to stop, or something makes that impossible. Dropping the future is a crash: nothing
    /// that is not planned becomes visible, and what is planned is replayed by the next owner.
    pub async fn run(self, mut control: Control) -> Result<(), TaskError> {
        let source = self.source.clone();
        let (sender, mut messages) = mpsc::unbounded_channel();
        let mut state = Loop {
            rng: StdRng::seed_from_u64(self.seed),
            task: self,
            lanes: BTreeMap::new(),
            next_lane: 0,
            parts: JoinSet::new(),
            sender,
            releasing: Vec::new(),
            drain_until: None,
            failure: None,
            relieving: None,
            refused_since: None,
            commit_not_before: Instant::now(),
            commit_retry: COMMIT_RETRY.0,
        };
        let outcome = state.work(&mut control, &mut messages).await;
        state.drop_all_lanes();
        state.parts.shutdown().await;
        source.close().await;
        outcome
    }
}

impl Loop {
    async fn work(
        &mut self,
        control: &mut Control,
        messages: &mut mpsc::UnboundedReceiver<(u64, FromLane)>,
    ) -> Result<(), TaskError> {
        let source = self.task.source.clone();
        let mut commit: Option<Pin<Box<dyn Future<Output = CommitAnswer> + Send>>> = None;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = Wanted::Run;
        control.report(Doing::Running);
        loop {
            if commit.is_none() {
                commit = self.next_commit();
            }
            self.forget_settled_lanes();
            if self.is_drained(commit.is_some()) {
                return self.failure.take().map_or(Ok(()), Err);
            }
            let may_read = self.drain_until.is_none() && self.may_read();
            let deadline = self.releasing.iter().map(|releasing| releasing.until).chain(self.drain_until).min();
            let event = tokio::select! {
                // Answers before questions: commits and lanes speak only because of what the source gave, and orders and
                // ticks are rare, so the source, which may always have more, comes last and does not starve.
                biased;
                answer = async { commit.as_mut().expect("guarded by is_some").await }, if commit.is_some() => {
                    commit = None;
                    Event::Commit(answer)
                }
                Some((lane, message)) = messages.recv() => Event::Lane(lane, message),
                Some(ended) = self.parts.join_next() => Event::Ended(ended),
                other = control.other_than(wanted) => Event::Wanted(other),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Event::Tick,
                _ = tick.tick() => Event::Tick,
                event = source.next(may_read) => Event::Source(event),
            };
            match event {
                Event::Wanted(other) => {
                    wanted = other;
                    self.on_wanted(other, control);
                }
                Event::Commit(answer) => self.on_commit(answer).await?,
                Event::Lane(lane, message) => self.on_lane(lane, message)?,
                Event::Ended(ended) => self.on_ended(ended)?,
                Event::Source(event) => self.on_source(event, wanted)?,
                Event::Tick => self.on_tick(),
            }
        }
    }

    fn may_read(&self) -> bool {
        let queued: usize = self.lanes.values().map(|lane| lane.queued_bytes).sum();
        queued < READ_AHEAD_BYTES && !self.task.budget.is_tight()
    }

    fn on_wanted(&mut self, wanted: Wanted, control: &Control) {
        let partitions: Vec<_> = self.lanes.values().map(|lane| lane.topic_partition.clone()).collect();
        match wanted {
            Wanted::Run => {
                self.task.source.resume(&partitions);
                control.report(Doing::Running);
            }
            Wanted::Pause => {
                self.task.source.pause(&partitions);
                control.report(Doing::Paused);
            }
            Wanted::Stop => self.drain(),
        }
    }

    fn drain(&mut self) {
        if self.drain_until.is_none() {
            self.drain_until = Some(Instant::now() + self.task.deadlines.drain);
            for lane in self.lanes.values() {
                let _ = lane.to_lane.send(ToLane::Close(model::CutReason::Drain));
            }
        }
    }

    fn is_drained(&self, committing: bool) -> bool {
        self.drain_until.is_some_and(|until| {
            let is_late = Instant::now() >= until;
            if is_late && !self.lanes.is_empty() {
                warn!(lanes = self.lanes.len(), "drain deadline passed, open files are dropped and read again later");
            }
            is_late || (self.lanes.is_empty() && !committing)
        })
    }

    // ---- source

    fn on_source(&mut self, event: source::Event, wanted: Wanted) -> Result<(), TaskError> {
        match event {
            source::Event::Assigned(assigned) => {
                let assigned = if self.drain_until.is_none() { assigned } else { Vec::new() };
                for one in assigned {
                    let topic_partition = one.topic_partition.clone();
                    self.open_lane(one)?;
                    match wanted {
                        Wanted::Pause => self.task.source.pause(&[topic_partition]),
                        // It may have been paused on its way out, when it was ours before.
                        Wanted::Run | Wanted::Stop => self.task.source.resume(&[topic_partition]),
                    }
                }
                self.task.metrics.rebalanced(self.lanes.len());
            }
            source::Event::Revoked { partitions, lost, ack } => self.release(&partitions, lost, ack),
            source::Event::Batch(raw) => {
                let last = raw.offsets.last().copied().and_then(Offset::new);
                if let (Some(lane), Some(last)) = (self.lane_of(&raw.topic_partition), last) {
                    let share = self.task.budget.share();
                    share.resize(raw.bytes());
                    let lane = self.lanes.get_mut(&lane).expect("lane_of names a lane that is there");
                    lane.ledger.received(last.next());
                    lane.queued_bytes += raw.bytes();
                    let _ = lane.to_lane.send(ToLane::Records(raw, share));
                }
            }
            source::Event::Position { topic_partition, next } => {
                if let Some(lane) = self.lane_of(&topic_partition).and_then(|lane| self.lanes.get_mut(&lane)) {
                    lane.ledger.received(next);
                    let _ = lane.to_lane.send(ToLane::Position(next));
                }
            }
            source::Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn lane_of(&self, topic_partition: &TopicPartition) -> Option<u64> {
        self.lanes.iter().find(|(_, lane)| lane.topic_partition == *topic_partition).map(|(lane, _)| *lane)
    }

    fn open_lane(&mut self, assigned: Assigned) -> Result<(), TaskError> {
        let Assigned { topic_partition, start, metadata, committed } = assigned;
        if let Some(stale) = self.lane_of(&topic_partition) {
            self.drop_lane(stale);
        }
        let replay = Plan::from_metadata(start, &metadata)
            .map_err(|source| TaskError::Plan { topic_partition: topic_partition.clone(), source })?
            .filter(|(range, _)| !range.is_empty());
        if let Some((range, plan)) = &replay
            && plan.config_fingerprint != self.task.recipe.fingerprint
        {
            return Err(TaskError::Data(format!(
                "the cut {range} of {topic_partition} was planned under other settings (fingerprint {}, now {}) and may be \
                 visible in part: start the connector with the settings it had until that cut is committed, then change them",
                plan.config_fingerprint, self.task.recipe.fingerprint
            )));
        }
        info!(%topic_partition, %start, committed, replay = replay.is_some(), "assigned");
        self.next_lane += 1;
        let number = self.next_lane;
        let outbox = Outbox { lane: number, sender: self.sender.clone() };
        let (to_lane, inbox) = mpsc::unbounded_channel();
        let (closed_sender, closed) = mpsc::channel(1);
        let (budget, held) = (self.task.budget.clone(), Arc::new(AtomicUsize::new(0)));
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
            recipe: self.task.recipe.clone(),
            typing: Typing::new(topic_partition.topic.clone(), &self.task.recipe, self.task.schemas.clone()),
            clock: self.task.clock.clone(),
            rng: StdRng::seed_from_u64(self.rng.random()),
            share: Box::new(move || budget.share()),
            held: held.clone(),
            metrics: self.task.metrics.clone(),
            outbox,
            closed: closed_sender,
        });
        let aborts = [
            self.parts.spawn(async move { (number, Part::Lane, lane.run(inbox).await) }),
            self.parts.spawn(async move { (number, Part::Publisher, publisher.run().await) }),
        ];
        let handle = LaneHandle {
            topic_partition,
            ledger: Ledger::new(start, replay.is_some()),
            to_lane,
            queued_bytes: 0,
            held_bytes: held,
            waiting_for_plan: None,
            running: aborts.len(),
            aborts,
            lease_gone: false,
        };
        self.lanes.insert(number, handle);
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition], lost: bool, ack: Ack) {
        info!(?partitions, lost, "revoked");
        let lanes: Vec<u64> = partitions.iter().filter_map(|partition| self.lane_of(partition)).collect();
        if lost {
            lanes.iter().for_each(|lane| self.drop_lane(*lane));
        } else {
            for lane in lanes.iter().filter_map(|lane| self.lanes.get(lane)) {
                let _ = lane.to_lane.send(ToLane::Close(model::CutReason::Revoke));
            }
            let until = Instant::now() + self.task.deadlines.revoke;
            self.releasing.push(Releasing { lanes, until, _ack: ack });
        }
        self.task.metrics.rebalanced(self.lanes.len());
    }

    // ---- lanes

    fn on_lane(&mut self, number: u64, message: FromLane) -> Result<(), TaskError> {
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        let defect =
            |error: crate::LedgerError| TaskError::Data(format!("defect in sluice, please report it: {error}"));
        match message {
            FromLane::Written { to, bytes } => {
                lane.queued_bytes = lane.queued_bytes.saturating_sub(bytes);
                lane.ledger.written(to).map_err(defect)?;
            }
            FromLane::Closed { to } => lane.ledger.closed(to).map_err(defect)?,
            FromLane::Skipped { to } => lane.ledger.skipped(to).map_err(defect)?,
            FromLane::Planned { range, metadata: Some(metadata), reply } => {
                lane.ledger.plan(range, metadata).map_err(defect)?;
                lane.waiting_for_plan = Some(reply);
            }
            FromLane::Planned { range, metadata: None, reply } => {
                lane.ledger.replay(range).map_err(defect)?;
                let _ = reply.send(());
            }
            FromLane::Published { range, reason, files } => {
                lane.ledger.published(range.end()).map_err(defect)?;
                lane.ledger.check().map_err(defect)?;
                debug!(topic_partition = %lane.topic_partition, %range, reason = reason.as_str(), files = files.len(), "cut visible");
                self.task.metrics.published(reason, &files);
            }
            FromLane::Relieved => self.relieving = None,
        }
        Ok(())
    }

    fn on_ended(
        &mut self,
        ended: Result<(u64, Part, Result<(), TaskError>), tokio::task::JoinError>,
    ) -> Result<(), TaskError> {
        let (number, part, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(TaskError::Data(format!("defect in sluice, please report it: {error}"))),
        };
        let Some(lane) = self.lanes.get_mut(&number) else { return Ok(()) };
        lane.running -= 1;
        if self.relieving == Some(number) {
            self.relieving = None;
        }
        match outcome {
            Ok(()) => Ok(()),
            // A bad record stops the task, but what was closed before it may still become visible and committed.
            Err(error @ (TaskError::Record { .. } | TaskError::Data(_))) if part == Part::Lane => {
                error!(topic_partition = %lane.topic_partition, %error, "lane stopped");
                self.failure.get_or_insert(error);
                self.drain();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn drop_lane(&mut self, number: u64) {
        if let Some(lane) = self.lanes.remove(&number) {
            self.task.metrics.lane_gone(&lane.topic_partition);
        }
        if self.relieving == Some(number) {
            self.relieving = None;
        }
    }

    fn drop_all_lanes(&mut self) {
        for number in self.lanes.keys().copied().collect::<Vec<_>>() {
            self.drop_lane(number);
        }
        self.releasing.clear();
    }

    /// Lanes that have ended and whose last word is committed leave; whoever waits for them is told.
    fn forget_settled_lanes(&mut self) {
        let done = |lane: &LaneHandle| lane.running == 0 && (lane.lease_gone || lane.ledger.is_settled());
        for number in self.lanes.iter().filter(|(_, lane)| done(lane)).map(|(number, _)| *number).collect::<Vec<_>>() {
            self.drop_lane(number);
        }
        let now = Instant::now();
        let late: Vec<u64> = self
            .releasing
            .iter()
            .filter(|releasing| releasing.until <= now)
            .flat_map(|releasing| releasing.lanes.clone())
            .collect();
        late.iter().for_each(|lane| self.drop_lane(*lane));
        let lanes = &self.lanes;
        self.releasing.retain(|releasing| releasing.lanes.iter().any(|lane| lanes.contains_key(lane)));
    }

    // ---- commits

    /// One request with what every lane has to say.
    fn next_commit(&mut self) -> Option<Pin<Box<dyn Future<Output = CommitAnswer> + Send>>> {
        if Instant::now() < self.commit_not_before {
            return None;
        }
        let (mut numbers, mut commits) = (Vec::new(), Vec::new());
        for (number, lane) in self.lanes.iter_mut().filter(|(_, lane)| !lane.lease_gone) {
            let Some((offset, metadata)) = lane.ledger.next_commit() else { continue };
            let commit =
                Commit { topic_partition: lane.topic_partition.clone(), offset, metadata: metadata.to_owned() };
            lane.ledger.commit_sent();
            numbers.push(*number);
            commits.push(commit);
        }
        if commits.is_empty() {
            return None;
        }
        let source = self.task.source.clone();
        Some(Box::pin(async move { (numbers, source.commit(commits).await) }))
    }

    async fn on_commit(&mut self, (numbers, outcome): CommitAnswer) -> Result<(), TaskError> {
        self.task.metrics.committed(outcome.is_ok());
        match outcome {
            Ok(left_out) => {
                (self.refused_since, self.commit_retry) = (None, COMMIT_RETRY.0);
                for number in numbers {
                    let Some(lane) = self.lanes.get_mut(&number) else { continue };
                    if left_out.contains(&lane.topic_partition) {
                        lane.ledger.commit_refused();
                        lane.lease_gone = true;
                    } else if lane.ledger.commit_taken()
                        && let Some(reply) = lane.waiting_for_plan.take()
                    {
                        let _ = reply.send(());
                    }
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
                self.commit_not_before = Instant::now() + self.commit_retry;
                self.commit_retry = (self.commit_retry * 2).min(COMMIT_RETRY.1);
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() < COMMIT_REFUSED_MAX {
                    return Ok(());
                }
                Err(TaskError::Transient(format!(
                    "the group refused every commit for {COMMIT_REFUSED_MAX:?}, the last one because: {why}"
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

    // ---- time

    fn on_tick(&mut self) {
        let budget = &self.task.budget;
        self.task.metrics.memory(budget.used(), budget.limit());
        for lane in self.lanes.values() {
            if let Some(end) = self.task.source.end_offset(&lane.topic_partition) {
                self.task.metrics.lag(&lane.topic_partition, (end.get() - lane.ledger.committed().get()).max(0));
            }
        }
        if budget.is_tight() && self.relieving.is_none() {
            let largest = self.lanes.iter().max_by_key(|(_, lane)| lane.held_bytes.load(Ordering::Relaxed));
            if let Some((number, lane)) = largest {
                let _ = lane.to_lane.send(ToLane::Relieve);
                self.relieving = Some(*number);
            }
        }
    }
}
