//! One topic-partition on its way through a task: raw batches in, closed cuts out, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::BinaryArray;
use model::{
    Batch, CutReason, Nonce, Offset, OffsetRange, Plan, RawBatch, Rejected, SchemaRef, Stage, TopicPartition, Values,
};
use rand::Rng;
use rand::rngs::StdRng;
use schema::{Converter, TableSchema, merge, project};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use writer::{CutState, FileContext, OpenCut, Partitioner, Placed, PublishedFile, Split};

use crate::publisher::ClosedCut;
use crate::schemas::Version;
use crate::typing::Typing;
use crate::{Clock, Recipe, Share, TaskError, TaskMetrics, Tolerance};

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
    /// A cut is ready; `metadata` is its plan, `None` when it repeats the plan that the broker holds. The reply comes when
    /// the plan is committed.
    Planned { range: OffsetRange, metadata: Option<String>, reply: oneshot::Sender<()> },
    /// All objects of the cut are visible.
    Published { range: OffsetRange, reason: CutReason, files: Vec<PublishedFile> },
    /// It did what [`ToLane::Relieve`] asked for.
    Relieved,
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
    pub(crate) recipe: Arc<Recipe>,
    pub(crate) typing: Typing,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: StdRng,
    pub(crate) share: Box<dyn Fn() -> Share + Send>,
    /// Bytes of the open cut, for whoever must choose the largest lane.
    pub(crate) held: Arc<AtomicUsize>,
    pub(crate) metrics: TaskMetrics,
    pub(crate) outbox: Outbox,
    pub(crate) closed: mpsc::Sender<ClosedCut>,
}

pub(crate) struct Lane {
    parts: LaneParts,
    converter: Box<dyn Converter>,
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
    schema: Option<Version>,
    /// Some row has an empty object or list in a field that the schema lacks, so it may not fit a grown schema.
    waits: bool,
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
        Lane {
            converter: (recipe.converter)(),
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
            waits: false,
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
                // Records first: each batch looks at the clock too, so timers do not starve.
                biased;
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
            let mut texts: Vec<BinaryArray> = Vec::new();
            for raw in &held_back {
                for batch in self.converter.decode(raw).await?.batches {
                    if let Values::Schemaless(column) = batch.values {
                        texts.push(column);
                    }
                }
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
        if self.open.open_files() != plan.files as usize {
            return Err(TaskError::Data(format!(
                "the cut {range} of {} was planned as {} files and is {} now: the topic lost records of it, or the records are \
                 read otherwise than before; compare the objects from offset {} on with the topic, then set the group's offset",
                self.parts.topic_partition,
                plan.files,
                self.open.open_files(),
                range.start(),
            )));
        }
        self.position = self.position.max(range.end());
        self.parts.outbox.tell(FromLane::Written { to: range.end(), bytes: 0 });
        self.send(range, plan, CutReason::Drain, true).await?;
        self.parts.typing.load().await
    }

    async fn write(&mut self, raw: &RawBatch) -> Result<(), TaskError> {
        let Some(last) = raw.offsets.last().copied().and_then(Offset::new) else { return Ok(()) };
        self.parts.metrics.read(raw.len(), raw.bytes());
        let decoded = self.converter.decode(raw).await?;
        let mut fault = None;
        let fence = self.tolerate(&decoded.rejected, &mut fault);
        for batch in decoded.batches {
            let within = batch.offsets.partition_point(|offset| fence.is_none_or(|fence| *offset < fence.get()));
            let batch = if within < batch.len() { batch.slice(0, within) } else { batch };
            let earlier = self.write_batch(batch).await?;
            if earlier.is_some() {
                fault = earlier;
                break;
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => {
                self.position = last.next();
                Ok(())
            }
        }
    }

    /// Counts rejected records. With `errors.tolerance=none` the first one is the task's fault, and rows from its offset on
    /// must not be written.
    fn tolerate(&self, rejected: &[Rejected], fault: &mut Option<TaskError>) -> Option<Offset> {
        let first = rejected.first()?;
        self.parts.metrics.rejected(rejected);
        match self.parts.recipe.tolerance {
            Tolerance::All => {
                warn!(records = rejected.len(), first = %first, stage = first.stage.as_str(), "records left out");
                None
            }
            Tolerance::None => {
                *fault = Some(TaskError::Record { rejected: first.clone() });
                Some(first.at.offset)
            }
        }
    }

    /// The rows of `batch` that go on.
    fn admit(&self, batch: Batch, rejected: &[Rejected], fault: &mut Option<TaskError>) -> Batch {
        if rejected.is_empty() {
            return batch;
        }
        match self.tolerate(rejected, fault) {
            Some(_) => batch.slice(0, rejected[0].row),
            None => batch.select(&without(rejected, batch.len())),
        }
    }

    /// Writes what can be written and returns the fault that the task must stop for, if there is one.
    async fn write_batch(&mut self, mut batch: Batch) -> Result<Option<TaskError>, TaskError> {
        let (mut fault, mut waits) = (None, false);
        let version = match &batch.values {
            Values::Schemaless(texts) if self.parts.recipe.files.format.needs_columns() => {
                let rows = self.parts.typing.read(texts).await?;
                let reject = |(row, reason): (usize, String)| Rejected {
                    row,
                    at: batch.position(row),
                    stage: Stage::ValueConverter,
                    reason,
                };
                let rejected: Vec<Rejected> = rows.rejected.into_iter().map(reject).collect();
                waits = rows.waits;
                batch.values = Values::Typed(rows.columns);
                batch = self.admit(batch, &rejected, &mut fault);
                Some(self.parts.typing.version())
            }
            Values::Schemaless(_) => None,
            Values::Typed(columns) => {
                let schema = TableSchema::new(columns.fields()).map_err(|error| TaskError::Data(error.to_string()))?;
                Some(Version::given(schema))
            }
        };
        match self.parts.recipe.null_values.sift(&batch) {
            Ok(None) => {}
            Ok(Some(sifted)) => batch = sifted,
            Err(tombstone) => {
                let within = batch.offsets.partition_point(|offset| *offset < tombstone.at.offset.get());
                batch = batch.slice(0, within);
                fault = Some(TaskError::Data(tombstone.to_string()));
            }
        }
        if let Some(rejected) = no_columns(&batch) {
            batch = self.admit(batch, &rejected, &mut fault);
        }
        // Also for rows that are all left out: a replay, which reads with the cut's version, must leave them out too.
        if !batch.is_empty() || version.as_ref().is_some_and(|version| version.number > 0) {
            self.fit_schema(version).await?;
        }
        if !batch.is_empty() {
            self.waits |= waits;
            self.place(batch, &mut fault).await?;
            self.waits |= waits;
        }
        Ok(fault)
    }

    /// Makes the open cut ready for rows of `version`: its rows are brought to a newer version of the same schema, or it
    /// is closed.
    async fn fit_schema(&mut self, version: Option<Version>) -> Result<(), TaskError> {
        let reference = |version: &Option<Version>| version.as_ref().map(Version::reference);
        if reference(&self.schema) == reference(&version) {
            return Ok(());
        }
        let name = reference(&version).map(schema_name).unwrap_or_default();
        self.context = self.parts.recipe.files_with_schema(&name);
        match (&self.schema, &version) {
            (Some(held), Some(new)) if self.can_grow() && is_growth(held, new) => {
                let (schema, target) = (new.schema.arrow().clone(), new.schema.clone());
                self.open.reschema(self.context.clone(), &schema, &|rows| {
                    project(rows, &target).expect("is_growth: every row of the old schema is one of the new")
                });
            }
            _ => {
                self.close_open(CutReason::SchemaChange).await?;
                self.open = OpenCut::new(self.context.clone(), self.parts.topic_partition.clone(), self.open.nonce());
            }
        }
        self.schema = version;
        Ok(())
    }

    /// Whether the rows of the open cut may be brought to a wider schema: a replay, which reads them with that schema at
    /// once, must come to the same rows and paths.
    fn can_grow(&self) -> bool {
        let is_free = !self.open.is_empty() && !self.open.encoded_anything();
        is_free && !self.waits && !self.partitioner.reads_values()
    }

    async fn place(&mut self, mut batch: Batch, fault: &mut Option<TaskError>) -> Result<(), TaskError> {
        if let Some(reason) = self.due() {
            self.close_open(reason).await?;
        }
        let clock_ms = match (&self.parts.replay, self.clock_ms) {
            (Some((_, plan)), _) => plan.clock_ms,
            (None, Some(clock_ms)) => clock_ms,
            (None, None) => self.parts.clock.now_ms(),
        };
        let mut placed = self.partitioner.split(&batch, clock_ms);
        if !placed.rejected.is_empty() {
            let rejected = std::mem::take(&mut placed.rejected);
            let rows = match self.tolerate(&rejected, fault) {
                Some(_) => (0..rejected[0].row as u32).collect(),
                None => without(&rejected, batch.len()),
            };
            (batch, placed) = (batch.select(&rows), placed.select(&rows));
        }
        let mut from = 0;
        while from < batch.len() {
            let now_ms = self.parts.clock.now_ms();
            let verdict = match self.parts.replay {
                Some(_) => writer::Verdict { append: batch.len() - from, cut: None },
                None => self.parts.recipe.rotation.verdict(&self.state, &placed, &batch.input_bytes, from, now_ms),
            };
            assert!(verdict.append > 0 || !self.open.is_empty(), "rotation never cuts a cut without rows");
            self.append(&batch, &placed, from, verdict.append, now_ms, clock_ms)?;
            from += verdict.append;
            if let Some(reason) = verdict.cut {
                self.close_open(reason).await?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        batch: &Batch,
        placed: &Placed,
        from: usize,
        count: usize,
        now_ms: i64,
        clock_ms: i64,
    ) -> Result<(), TaskError> {
        if count == 0 {
            return Ok(());
        }
        self.clock_ms = Some(clock_ms);
        match &placed.split {
            Split::One(path) => self.open.append(&batch.slice(from, count), path)?,
            Split::Many { paths, of_row } => {
                let mut rows_of_path: Vec<Vec<u32>> = vec![Vec::new(); paths.len()];
                for (row, path) in (from..).zip(&of_row[from..from + count]) {
                    rows_of_path[*path as usize].push(row as u32);
                }
                for (path, rows) in paths.iter().zip(&rows_of_path).filter(|(_, rows)| !rows.is_empty()) {
                    let (first, last) = (rows[0] as usize, rows[rows.len() - 1] as usize);
                    let is_run = last - first + 1 == rows.len();
                    let rows = if is_run { batch.slice(first, rows.len()) } else { batch.select(rows) };
                    self.open.append(&rows, path)?;
                }
            }
        }
        let bytes = batch.input_bytes[from..from + count].iter().map(|bytes| u64::from(*bytes)).sum();
        self.state.appended(placed, from, count, bytes, now_ms);
        self.position = batch.offset(from + count - 1).next();
        self.parts.metrics.written(count);
        Ok(())
    }

    /// After a batch: full row groups go up, memory is counted, and the frontier moves when no file is open.
    async fn settle(&mut self) -> Result<(), TaskError> {
        if self.open.has_full_row_group() {
            self.spill(usize::MAX).await?;
        }
        self.count_memory();
        if self.open.is_empty() && self.held_back.is_empty() && self.parts.replay.is_none() {
            self.start = self.position;
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

    async fn relieve(&mut self) -> Result<(), TaskError> {
        let held = self.open.held_bytes();
        self.spill(held / 2).await?;
        if self.open.held_bytes() > held / 2 && self.parts.replay.is_none() {
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

    /// Closes the open cut at the lane's position; nothing happens when it has no row.
    async fn close_open(&mut self, reason: CutReason) -> Result<(), TaskError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let range = OffsetRange::new(self.start, self.position)
            .map_err(|error| TaskError::Data(format!("lane {}: {error}", self.parts.topic_partition)))?;
        let schema = self.schema.as_ref().map(Version::reference);
        let clock_ms = self.clock_ms.expect("a cut with rows has a clock");
        let files = u32::try_from(self.open.open_files()).unwrap_or(u32::MAX);
        let fingerprint = self.parts.recipe.fingerprint;
        let plan = Plan::new(self.position, clock_ms, self.open.nonce(), schema, fingerprint, files);
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
        (self.start, self.clock_ms, self.waits) = (range.end(), None, false);
        self.state.reset();
        self.parts.outbox.tell(FromLane::Closed { to: range.end() });
        let cut = ClosedCut { open, range, plan, reason, is_replay, share };
        self.parts
            .closed
            .send(cut)
            .await
            .map_err(|_| TaskError::Transient(format!("the publisher of {} has ended", self.parts.topic_partition)))
    }

    async fn close(&mut self, reason: CutReason) -> Result<(), TaskError> {
        if self.parts.replay.is_none() {
            self.close_open(reason).await?;
        }
        Ok(())
    }
}

/// How files name their schema.
fn schema_name(reference: SchemaRef) -> String {
    format!("{}-{}", reference.version, reference.fingerprint)
}

/// Whether rows of `old` can be brought to `new`.
fn is_growth(old: &Version, new: &Version) -> bool {
    old.number > 0 && new.number > old.number && merge(&old.schema, &new.schema).is_ok_and(|both| both == new.schema)
}

/// The rows of a batch of `len` rows that are not rejected.
fn without(rejected: &[Rejected], len: usize) -> Vec<u32> {
    let mut rejected = rejected.iter().map(|rejected| rejected.row).peekable();
    (0..len).filter(|row| rejected.next_if_eq(row).is_none()).map(|row| row as u32).collect()
}

/// Rows without any column cannot be in a table: while only empty objects came, no schema is known.
fn no_columns(batch: &Batch) -> Option<Vec<Rejected>> {
    let Values::Typed(columns) = &batch.values else { return None };
    if columns.num_columns() > 0 || batch.is_empty() {
        return None;
    }
    let reason = "no record of the topic had a field with a value yet, so its schema cannot be inferred; give \
                  value.converter.schema";
    let reject =
        |row| Rejected { row, at: batch.position(row), stage: Stage::ValueConverter, reason: reason.to_owned() };
    Some((0..batch.len()).map(reject).collect())
}
