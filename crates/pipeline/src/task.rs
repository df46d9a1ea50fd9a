//! The task: one loop over a closed enum of events; owns the ledgers of its lanes and is the only one who commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use source::{DeadLetters, Source};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, warn};
use writer::Committer;

use crate::lane::{FromLane, ToLane};
use crate::{Budget, Clock, Control, Doing, Recipe, TaskError, TaskMetrics, TopicSchemas, Wanted};

mod commits;
mod incoming;
mod lanes;
mod pace;
mod relief;

use commits::{CommitAnswer, Commits};
use incoming::{Finish, Incoming};
use lanes::{LaneHandle, Part, Releasing};
use pace::Pace;
pub use pace::PaceRules;
use relief::Relief;

/// How often lag and memory are looked at.
const TICK: Duration = Duration::from_millis(100);

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
    /// Where bad records go.
    pub dead_letters: Option<Arc<dyn DeadLetters>>,
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
    /// How much it reads in a time; as much as there is when it is not said.
    pub pace: Option<PaceRules>,
    /// Whether it ends when its source is exhausted ([`Source::is_exhausted`]).
    pub until_end: bool,
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
    /// The source said whether anything is left to read.
    Exhausted(Result<bool, source::Error>),
    /// A lane or a publisher ended.
    Ended(Result<(u64, Part, Result<(), TaskError>), tokio::task::JoinError>),
    /// The source has something.
    Source(source::Event),
    /// Time went by.
    Tick,
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
    wanted: Wanted,
    drain_until: Option<Instant>,
    failure: Option<TaskError>,
    commits: Commits,
    relief: Relief,
    pace: Option<Pace>,
    finish: Finish,
}

impl Task {
    /// Works until `control` wants it to stop, or it has reached its end, which it reports as [`Doing::Finished`], or
    /// something makes that impossible. Dropping the future is a crash: nothing that is not planned becomes visible, and
    /// what is planned is replayed by the next owner.
    pub async fn run(self, mut control: Control) -> Result<(), TaskError> {
        let source = self.source.clone();
        let (sender, mut messages) = mpsc::unbounded_channel();
        let mut state = Loop {
            rng: StdRng::seed_from_u64(self.seed),
            pace: self.pace.map(Pace::new),
            finish: Finish::default(),
            task: self,
            lanes: BTreeMap::new(),
            next_lane: 0,
            parts: JoinSet::new(),
            sender,
            releasing: Vec::new(),
            wanted: Wanted::Run,
            drain_until: None,
            failure: None,
            commits: Commits::new(),
            relief: Relief::default(),
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
        let mut commit = None;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        control.report(Doing::Running);
        loop {
            if commit.is_none() {
                commit = self.next_commit();
            }
            self.forget_settled_lanes();
            self.drain_if_failed();
            self.relieve();
            if self.is_drained(commit.is_some()) {
                if self.finish.is_reached && self.failure.is_none() {
                    control.report(Doing::Finished);
                }
                return self.failure.take().map_or(Ok(()), Err);
            }
            if commit.is_none() {
                self.ask_for_the_end();
            }
            let may_read = self.drain_until.is_none() && self.may_read();
            let releasing = self.releasing.iter().map(|releasing| releasing.until);
            let deadline = releasing.chain(self.drain_until).chain(self.commits.lingers_until(commit.is_some())).min();
            let event = tokio::select! {
                // Answers before questions: commits and lanes speak only because of what the source gave, and orders and
                // ticks are rare, so the source, which may always have more, comes last and does not starve.
                biased;
                answer = commits::answer(&mut commit), if commit.is_some() => {
                    commit = None;
                    Event::Commit(answer)
                }
                Some((lane, message)) = messages.recv() => Event::Lane(lane, message),
                Some(ended) = self.parts.join_next() => Event::Ended(ended),
                answer = self.finish.answer(), if self.finish.is_asking() => Event::Exhausted(answer),
                other = control.other_than(self.wanted) => Event::Wanted(other),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Event::Tick,
                _ = tick.tick() => Event::Tick,
                event = source.next(may_read) => Event::Source(event),
            };
            match event {
                Event::Wanted(other) => self.on_wanted(other, control),
                Event::Commit(answer) => self.on_commit(answer).await?,
                Event::Lane(lane, message) => self.on_lane(lane, message)?,
                Event::Ended(ended) => self.on_ended(ended)?,
                Event::Exhausted(answer) => self.on_exhausted(answer)?,
                Event::Source(event) => self.on_source(event)?,
                Event::Tick => self.on_tick(),
            }
        }
    }

    fn on_wanted(&mut self, wanted: Wanted, control: &Control) {
        self.wanted = wanted;
        match wanted {
            Wanted::Run => control.report(Doing::Running),
            Wanted::Pause => control.report(Doing::Paused),
            Wanted::Stop => return self.drain(),
        }
        self.steer_source();
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

    /// A failure that only a person can mend stops the task, but what the other lanes have goes its way: their open files
    /// are closed, published and committed. One that may be over by itself ends the task at once: it starts again.
    fn fail(&mut self, error: TaskError) -> Result<(), TaskError> {
        if error.is_transient() {
            return Err(error);
        }
        self.failure.get_or_insert(error);
        self.drain();
        Ok(())
    }

    /// As [`Self::fail`], but the others' plans are replayed before the task drains: were they under several settings, no
    /// start under any of these would bring it further.
    fn fail_after_replays(&mut self, error: TaskError) -> Result<(), TaskError> {
        if !matches!(error, TaskError::OtherSettings { .. }) {
            return self.fail(error);
        }
        match &mut self.failure {
            Some(failure) => failure.and_also(&error),
            None => self.failure = Some(error),
        }
        Ok(())
    }

    fn drain_if_failed(&mut self) {
        let is_replaying = self.wanted == Wanted::Run && self.lanes.values().any(|lane| lane.replay.is_some());
        if self.failure.is_some() && !is_replaying {
            self.drain();
        }
    }

    // ---- source

    fn on_source(&mut self, event: source::Event) -> Result<(), TaskError> {
        match event {
            source::Event::Assigned(assigned) => {
                for one in assigned {
                    // Also while draining: what an older assignment began must not be committed under this one.
                    if let Some(stale) = self.lane_of(&one.topic_partition) {
                        self.drop_lane(stale);
                    }
                    if self.drain_until.is_some() {
                        continue;
                    }
                    match self.open_lane(one) {
                        Ok(lane) => self.deliver(lane),
                        Err(error) => {
                            error!(%error, "lane not started");
                            self.fail_after_replays(error)?;
                        }
                    }
                }
                self.steer_source();
                self.task.metrics.rebalanced();
            }
            source::Event::Revoked { partitions, lost, ack } => self.release(&partitions, lost, ack),
            source::Event::Batch(raw) => {
                if let Some(lane) = self.lane_of(&raw.topic_partition) {
                    let incoming = Incoming::records(raw, &self.task.budget);
                    self.take(lane, incoming);
                }
            }
            source::Event::Position { topic_partition, next } => {
                if let Some(lane) = self.lane_of(&topic_partition) {
                    self.take(lane, Incoming::Position(next));
                }
            }
            source::Event::Failed(error) => {
                let error = TaskError::from(error);
                error!(%error, "source stopped");
                match error {
                    // Its membership goes on, so the others' files can still be committed.
                    TaskError::Data(_) => self.fail(error)?,
                    error => return Err(error),
                }
            }
        }
        Ok(())
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
        self.look_for_a_standstill();
        self.keep_pace();
    }
}
