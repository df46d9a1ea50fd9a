//! One topic-partition on its way through a task: raw batches in, closed cuts out, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::BinaryArray;
use arrow::datatypes::Fields;
use model::{CutReason, Nonce, Offset, OffsetRange, Plan, RawBatch, TopicPartition, Values};
use rand::Rng;
use rand::rngs::StdRng;
use source::DeadLetters;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use writer::{CutState, FileContext, OpenCut, Partitioner, PublishedFile};

use crate::decoding::Decoding;
use crate::file_schemas::FileSchemas;
use crate::publisher::ClosedCut;
use crate::reporter::Reporter;
use crate::schemas::Version;
use crate::typing::Typing;
use crate::{Clock, Recipe, Share, TaskError, TaskMetrics};

mod rows;

/// A topic's first schema is inferred from so many rows ...
const FIRST_ROWS_MAX: usize = 1000;

/// ... or from those that came within this time.
const FIRST_ROWS_WAIT: Duration = Duration::from_millis(500);

/// Timers are set by the wall clock, which may jump: look at it this often.
const TIMER_MAX: Duration = Duration::from_secs(5);

/// What the task tells a lane.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are records, a box each would only cost")]
pub(crate) enum ToLane {
    /// Records, and their part of the memory budget.
    Records(RawBatch, Share),
    /// No record before this offset is left to come.
    Position(Offset),
    /// Hold less memory: send parts, or cut.
    Relieve,
    /// Cut what is open and end.
    Close(CutReason),
}

/// What a lane and its publisher tell the task.
#[derive(Debug)]
pub(crate) enum FromLane {
    /// Records before `to` are in open files or left out; `bytes` of raw batches are done with.
    Written { to: Offset, bytes: usize },
    /// A cut that ends here takes no more rows and goes to the publisher.
    Closed { to: Offset },
    /// No file is open and nothing before this offset is left to be written.
    Skipped { to: Offset },
    /// A cut is ready. The reply comes when it may be published.
    Ready { range: OffsetRange, plan: PlanNeeded, reply: oneshot::Sender<()> },
    /// All objects of the cut are visible.
    Published { range: OffsetRange, reason: CutReason, files: Vec<PublishedFile> },
    /// It did what [`ToLane::Relieve`] asked for.
    Relieved,
}

/// What must be committed before a cut is published.
#[derive(Debug)]
pub(crate) enum PlanNeeded {
    /// This metadata.
    New(String),
    /// Nothing: the cut repeats the plan that the broker holds.
    Held,
    /// Nothing: [`writer::Committer::needs_plan`].
    None,
}

/// A lane's line to its task.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    pub(crate) lane: u64,
    pub(crate) sender: mpsc::UnboundedSender<(u64, FromLane)>,
}

impl Outbox {
    /// Tells the task; nothing happens when it is gone.
    pub(crate) fn tell(&self, what: FromLane) {
        let _ = self.sender.send((self.lane, what));
    }
}

/// What a lane is given by its task.
pub(crate) struct LaneParts {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) start: Offset,
    pub(crate) replay: Option<(OffsetRange, Plan)>,
    /// Whether cuts follow each other without a gap, records that are left out included.
    pub(crate) gapless: bool,
    pub(crate) recipe: Arc<Recipe>,
    pub(crate) typing: Typing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: StdRng,
    pub(crate) share: Box<dyn Fn() -> Share + Send>,
    /// Bytes of the open cut, for whoever must choose the largest lane.
    pub(crate) held: Arc<AtomicUsize>,
    pub(crate) metrics: TaskMetrics,
    pub(crate) dead_letters: Option<Arc<dyn DeadLetters>>,
    pub(crate) outbox: Outbox,
    pub(crate) closed: mpsc::Sender<ClosedCut>,
}

/// What the open cut has, beside records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    /// Rows that brought their schema.
    Own,
    /// Rows whose schema is inferred or given, or that have none.
    Others,
}

pub(crate) struct Lane {
    parts: LaneParts,
    decoding: Decoding,
    reporter: Reporter,
    partitioner: Box<dyn Partitioner>,
    /// Offset after the last record that is in an open file or left out.
    position: Offset,
    /// First rows, held back until the topic's schema is known.
    held_back: Vec<RawBatch>,
    held_back_until: Option<Instant>,
    /// No record before this offset is left to come after those held back.
    held_back_to: Offset,
    // The open cut:
    open: OpenCut,
    share: Share,
    state: CutState,
    start: Offset,
    clock_ms: Option<i64>,
    /// The schema of its rows; of rows that bring their own, that of the first.
    schema: Option<Version>,
    /// The schema that rows bring themselves; `None` where it is inferred, given, or there is none.
    own: Option<usize>,
    /// What rows with a value it has.
    holds: Holds,
    /// The version with which rows were read and left out that brought none, in a cut of rows that do.
    left_out_under: Option<Version>,
    /// Which schemas its files have, for rows that bring their own.
    files: FileSchemas,
    /// Some row has an empty object or list in a field that the schema lacks, so it may not fit a grown schema.
    waits: bool,
    /// Columns that the format was last asked about, and why it cannot write them.
    asked: Option<(Fields, Option<String>)>,
    /// The same of the keys.
    asked_of_keys: Option<(Fields, Option<String>)>,
    /// Names that schema in the cut's files.
    context: Arc<FileContext>,
}

impl Lane {
    pub(crate) fn new(mut parts: LaneParts) -> Lane {
        let recipe = parts.recipe.clone();
        let nonce = match &parts.replay {
            Some((_, plan)) => plan.nonce,
            None => Nonce(parts.rng.random()),
        };
        let context = recipe.files_with_schema("");
        let (metrics, clock, dead_letters) = (parts.metrics.clone(), parts.clock.clone(), parts.dead_letters.clone());
        Lane {
            reporter: Reporter::new(recipe.errors.clone(), metrics, clock, dead_letters, (parts.share)()),
            decoding: Decoding::new(&recipe),
            partitioner: (recipe.partitioner)(),
            position: parts.start,
            held_back: Vec::new(),
            held_back_until: None,
            held_back_to: parts.start,
            open: OpenCut::new(context.clone(), parts.topic_partition.clone(), nonce),
            share: (parts.share)(),
            state: CutState::new(&recipe.rotation),
            start: parts.start,
            clock_ms: None,
            schema: None,
            own: None,
            holds: Holds::Nothing,
            left_out_under: None,
            files: FileSchemas::new(&recipe),
            waits: false,
            asked: None,
            asked_of_keys: None,
            context,
            parts,
        }
    }

    /// Works until it is told to close. An error drops the open cut; cuts that are closed already go their way.
    pub(crate) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<ToLane>) -> Result<(), TaskError> {
        let outcome = self.work(&mut inbox).await;
        let empty = OpenCut::new(self.context.clone(), self.parts.topic_partition.clone(), Nonce(0));
        std::mem::replace(&mut self.open, empty).abort().await;
        outcome
    }

    async fn work(&mut self, inbox: &mut mpsc::UnboundedReceiver<ToLane>) -> Result<(), TaskError> {
        self.prepare().await?;
        loop {
            let timer = self.next_timer();
            tokio::select! {
                // Answers are rare and letters would wait for them behind records without end. Then records: each batch
                // looks at the clock too, so timers do not starve.
                biased;
                answered = self.reporter.answered(), if self.reporter.is_waiting() => {
                    answered?;
                    self.settle().await?;
                }
                told = inbox.recv() => match told {
                    Some(ToLane::Records(raw, share)) => {
                        let bytes = raw.bytes();
                        self.receive(raw).await?;
                        drop(share);
                        self.parts.outbox.tell(FromLane::Written { to: self.position, bytes });
                        self.settle().await?;
                    }
                    Some(ToLane::Position(next)) => self.advance(next).await?,
                    Some(ToLane::Relieve) => self.relieve().await?,
                    Some(ToLane::Close(reason)) => {
                        self.take_held_back().await?;
                        return self.close(reason).await;
                    }
                    None => return Ok(()),
                },
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.on_timer().await?,
            }
        }
    }

    async fn prepare(&mut self) -> Result<(), TaskError> {
        let recorded = self.parts.replay.as_ref().and_then(|(_, plan)| plan.schema);
        match recorded {
            Some(recorded) => self.parts.typing.fix(recorded).await,
            None => self.parts.typing.load().await,
        }
    }

    // ---- time

    fn next_timer(&self) -> Option<Instant> {
        let now_ms = self.parts.clock.now_ms();
        let wall =
            self.wall_clock_bound_ms().into_iter().chain(self.parts.recipe.rotation.next_due_ms(&self.state)).min();
        let wall = wall.filter(|_| self.parts.replay.is_none()).map(|due_ms| {
            let wait = Duration::from_millis(u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0));
            Instant::now() + wait.min(TIMER_MAX)
        });
        wall.into_iter().chain(self.held_back_until).min()
    }

    /// Instant at which the wall clock enters another path than that of the open cut's rows.
    fn wall_clock_bound_ms(&self) -> Option<i64> {
        self.partitioner.wall_clock_bound_ms(self.clock_ms?)
    }

    fn due(&self) -> Option<CutReason> {
        if self.open.is_empty() || self.parts.replay.is_some() {
            return None;
        }
        let now_ms = self.parts.clock.now_ms();
        if self.wall_clock_bound_ms().is_some_and(|bound_ms| now_ms >= bound_ms) {
            return Some(CutReason::WallClock);
        }
        self.parts.recipe.rotation.due(&self.state, now_ms)
    }

    async fn on_timer(&mut self) -> Result<(), TaskError> {
        if self.held_back_until.is_some_and(|until| until <= Instant::now()) {
            self.take_held_back().await?;
            self.settle().await?;
        }
        match self.due() {
            Some(reason) => self.close_open(reason).await,
            None => Ok(()),
        }
    }

    // ---- records

    async fn receive(&mut self, raw: RawBatch) -> Result<(), TaskError> {
        if !self.parts.typing.wants_first_rows() {
            return self.take(raw).await;
        }
        self.held_back.push(raw);
        self.held_back_until.get_or_insert_with(|| Instant::now() + FIRST_ROWS_WAIT);
        if self.held_back.iter().map(RawBatch::len).sum::<usize>() >= FIRST_ROWS_MAX {
            self.take_held_back().await?;
        }
        Ok(())
    }

    /// Infers the first schema from the rows held back and takes them.
    async fn take_held_back(&mut self) -> Result<(), TaskError> {
        self.held_back_until = None;
        let held_back = std::mem::take(&mut self.held_back);
        if held_back.is_empty() {
            return Ok(());
        }
        self.parts.typing.load().await?;
        if self.parts.typing.wants_first_rows() {
            let (mut texts, mut is_typed): (Vec<BinaryArray>, bool) = (Vec::new(), false);
            for raw in &held_back {
                for batch in self.decode(raw).await?.batches {
                    match batch.values {
                        Values::Schemaless(column) => texts.push(column),
                        Values::Typed(_) => is_typed = true,
                    }
                }
            }
            if is_typed && texts.is_empty() {
                self.parts.typing.rows_have_schemas();
            }
            self.parts.typing.learn(&texts.iter().collect::<Vec<_>>()).await?;
        }
        for raw in held_back {
            self.take(raw).await?;
        }
        self.pass(self.held_back_to).await?;
        self.parts.outbox.tell(FromLane::Written { to: self.position, bytes: 0 });
        Ok(())
    }

    /// Takes records; those of a plan that is replayed make exactly its cut.
    async fn take(&mut self, raw: RawBatch) -> Result<(), TaskError> {
        let Some((range, _)) = &self.parts.replay else { return self.write(&raw).await };
        let end = range.end();
        let within = raw.offsets.partition_point(|offset| *offset < end.get());
        self.write(&raw.slice(0, within)).await?;
        if within < raw.len() || self.position >= end {
            self.finish_replay().await?;
            self.write(&raw.slice(within, raw.len() - within)).await?;
        }
        Ok(())
    }

    async fn finish_replay(&mut self) -> Result<(), TaskError> {
        let Some((range, plan)) = self.parts.replay.take() else { return Ok(()) };
        let (files, rows) = (self.open.open_files(), self.open.rows());
        if files != plan.files as usize || plan.rows.is_some_and(|planned| planned != rows) {
            let planned = plan.rows.map_or(String::new(), |planned| format!(" with {planned} rows"));
            return Err(TaskError::Data(format!(
                "the cut {range} of {} was planned as {} files{planned} and is {files} files with {rows} rows now: the topic lost \
                 records of it (retention, compaction), or they are read otherwise than before; compare the objects from offset \
                 {} on with the topic, then set the group's offset with sluice offsets",
                self.parts.topic_partition,
                plan.files,
                range.start(),
            )));
        }
        self.position = self.position.max(range.end());
        self.parts.outbox.tell(FromLane::Written { to: range.end(), bytes: 0 });
        self.send(range, plan, CutReason::Drain, true).await?;
        self.parts.typing.load().await
    }

    /// After a batch: full row groups go up, memory is counted, and the frontier moves when no file is open.
    async fn settle(&mut self) -> Result<(), TaskError> {
        if self.open.has_full_row_group() {
            self.spill(usize::MAX).await?;
        }
        self.count_memory();
        let is_idle = self.open.is_empty() && self.held_back.is_empty() && self.parts.replay.is_none();
        // What was left out counts as done when its dead letters are acknowledged.
        if is_idle && !self.reporter.is_waiting() {
            if !self.parts.gapless {
                self.start = self.position;
            }
            self.parts.outbox.tell(FromLane::Skipped { to: self.position });
        }
        Ok(())
    }

    fn count_memory(&self) {
        let held_back: usize = self.held_back.iter().map(RawBatch::bytes).sum();
        let bytes = self.open.held_bytes() + held_back;
        self.share.resize(bytes);
        self.parts.held.store(bytes, Ordering::Relaxed);
    }

    async fn spill(&mut self, down_to_bytes: usize) -> Result<(), TaskError> {
        loop {
            match self.open.spill(down_to_bytes).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    warn!(topic_partition = %self.parts.topic_partition, error = %error, "store does not answer, sending parts again");
                    sleep(self.parts.recipe.files.store.rules().redelivery).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Holds less: half, by sending parts, else by a cut. A replay must not cut, so it encodes all that it can.
    async fn relieve(&mut self) -> Result<(), TaskError> {
        let held = self.open.held_bytes();
        let is_replay = self.parts.replay.is_some();
        self.spill(if is_replay { 0 } else { held / 2 }).await?;
        if self.open.held_bytes() > held / 2 && !is_replay {
            self.close_open(CutReason::MemoryPressure).await?;
        }
        self.count_memory();
        self.parts.outbox.tell(FromLane::Relieved);
        Ok(())
    }

    async fn advance(&mut self, next: Offset) -> Result<(), TaskError> {
        if !self.held_back.is_empty() {
            self.held_back_to = next;
            return Ok(());
        }
        self.pass(next).await?;
        self.parts.outbox.tell(FromLane::Written { to: self.position, bytes: 0 });
        self.settle().await
    }

    /// Takes note that no record before `next` is left to come.
    async fn pass(&mut self, next: Offset) -> Result<(), TaskError> {
        if self.parts.replay.as_ref().is_some_and(|(range, _)| next >= range.end()) {
            self.finish_replay().await?;
        }
        self.position = self.position.max(next);
        Ok(())
    }

    // ---- cuts

    /// Closes the open cut at the lane's position; nothing happens when it has no row. It waits for the letters of the
    /// records that it covers: its plan may be committed only when they are acknowledged.
    async fn close_open(&mut self, reason: CutReason) -> Result<(), TaskError> {
        if self.open.is_empty() {
            return Ok(());
        }
        self.reporter.settled().await?;
        let range = OffsetRange::new(self.start, self.position)
            .map_err(|error| TaskError::Data(format!("lane {}: {error}", self.parts.topic_partition)))?;
        let schema = self.left_out_under.as_ref().or(self.schema.as_ref()).map(Version::reference);
        let clock_ms = self.clock_ms.expect("a cut with rows has a clock");
        let files = u32::try_from(self.open.open_files()).unwrap_or(u32::MAX);
        let fingerprint = self.parts.recipe.fingerprint;
        let plan = Plan::new(self.position, clock_ms, self.open.nonce(), schema, fingerprint, files)
            .with_rows(self.open.rows());
        self.parts.outbox.tell(FromLane::Written { to: self.position, bytes: 0 });
        self.send(range, plan, reason, false).await
    }

    /// Hands the open cut to the publisher and opens the next. Waits while the one before is still under way, so that
    /// memory stays bounded.
    async fn send(
        &mut self,
        range: OffsetRange,
        plan: Plan,
        reason: CutReason,
        is_replay: bool,
    ) -> Result<(), TaskError> {
        let nonce = Nonce(self.parts.rng.random());
        let next = OpenCut::new(self.context.clone(), self.parts.topic_partition.clone(), nonce);
        let open = std::mem::replace(&mut self.open, next);
        let share = std::mem::replace(&mut self.share, (self.parts.share)());
        share.resize(open.held_bytes());
        share.leave();
        (self.start, self.clock_ms, self.waits) = (range.end(), None, false);
        self.state.reset();
        self.files.reset();
        self.holds = Holds::Nothing;
        self.parts.outbox.tell(FromLane::Closed { to: range.end() });
        let cut = ClosedCut { open, range, plan, reason, is_replay, share };
        if self.parts.closed.send(cut).await.is_err() {
            // The publisher ended with an error, which ends the task and with it this lane: that error is the one to tell.
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn close(&mut self, reason: CutReason) -> Result<(), TaskError> {
        if self.parts.replay.is_some() {
            return Ok(());
        }
        self.close_open(reason).await?;
        self.reporter.settled().await?;
        self.settle().await
    }
}
