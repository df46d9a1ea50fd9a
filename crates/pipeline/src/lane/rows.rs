//! What becomes of the rows of a batch: decoded, typed, fitted to the schema of the open cut, placed, appended.

use std::sync::Arc;

use arrow::array::StructArray;
use model::{Batch, CutReason, Offset, RawBatch, Rejected, SchemaRef, Stage, Values};
use schema::{Decoded, TableSchema, merge, project};
use tokio::time::{Instant, sleep};
use tracing::warn;
use writer::{Placed, Split};

use super::{Holds, Lane};
use crate::file_schemas::Stop;
use crate::rules::{DATA_EXCEPTION, PARTITION_EXCEPTION, PROJECTOR_EXCEPTION};
use crate::schemas::Version;
use crate::{TaskError, Tolerance};

/// Upstream's sentence about a record without a value that is left out and reported.
const NULL_VALUE: &str = "Skipping null value record.";

impl Lane {
    /// Writes the rows of `raw` that can be written; the first one that must not be left out is the error.
    pub(super) async fn write(&mut self, raw: &RawBatch) -> Result<(), TaskError> {
        let Some(last) = raw.offsets.last().copied().and_then(Offset::new) else { return Ok(()) };
        self.parts.metrics.read(raw.len(), raw.bytes());
        let decoded = self.decode(raw).await?;
        self.reporter.begin(raw, self.parts.replay.is_some());
        let mut fault = None;
        let fence = self.tolerate(&decoded.rejected, DATA_EXCEPTION, &mut fault);
        for batch in decoded.batches {
            let within = batch.offsets.partition_point(|offset| fence.is_none_or(|fence| *offset < fence.get()));
            let batch = if within < batch.len() { batch.slice(0, within) } else { batch };
            let earlier = self.write_batch(batch, raw).await?;
            if earlier.is_some() {
                fault = earlier;
                break;
            }
        }
        match fault {
            Some(fault) => {
                if let TaskError::Record { rejected, exception } = &fault {
                    self.reporter.report(rejected, exception);
                }
                self.reporter.settled().await?;
                Err(fault)
            }
            None => {
                self.position = last.next();
                self.reporter.make_room().await
            }
        }
    }

    /// Decodes and transforms; while that fails on something that may be over by itself, it tries again for as long as
    /// `errors.retry.timeout` says.
    pub(super) async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, TaskError> {
        let (began, mut failures) = (Instant::now(), 0);
        loop {
            let error = match self.decoding.decode(raw).await {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            failures += 1;
            self.parts.metrics.attempt_failed(self.parts.clock.now_ms());
            let rules = &self.parts.recipe.errors.retry;
            let Some(delay) = rules.delay(failures, began.elapsed(), &mut self.parts.rng) else { return Err(error) };
            let topic_partition = &self.parts.topic_partition;
            warn!(%topic_partition, failures, delay_ms = delay.as_millis(), %error, "could not decode, trying again");
            sleep(delay).await;
            self.parts.metrics.retried();
        }
    }

    /// Counts rejected records and reports those that are left out. With `errors.tolerance=none` the first one is the
    /// task's fault, and rows from its offset on must not be written.
    fn tolerate(
        &mut self,
        rejected: &[Rejected],
        exception: &'static str,
        fault: &mut Option<TaskError>,
    ) -> Option<Offset> {
        let first = rejected.first()?;
        match self.parts.recipe.errors.tolerance {
            Tolerance::All => {
                self.reporter.count(rejected, true);
                rejected.iter().for_each(|one| self.reporter.report(one, exception));
                let stage = first.stage.as_str();
                warn!(records = rejected.len(), first = %first.at, stage, "records left out");
                None
            }
            Tolerance::None => {
                self.reporter.count(&rejected[..1], false);
                *fault = Some(TaskError::Record { rejected: first.clone(), exception });
                Some(first.at.offset)
            }
        }
    }

    /// The rows of `batch` that go on.
    fn admit(&mut self, batch: Batch, rejected: &[Rejected], fault: &mut Option<TaskError>) -> Batch {
        if rejected.is_empty() {
            return batch;
        }
        match self.tolerate(rejected, DATA_EXCEPTION, fault) {
            Some(_) => batch.slice(0, rejected[0].row),
            None => batch.select(&without(rejected, batch.len())),
        }
    }

    /// Writes what can be written and returns the fault that the task must stop for, if there is one.
    async fn write_batch(&mut self, mut batch: Batch, raw: &RawBatch) -> Result<Option<TaskError>, TaskError> {
        let (mut fault, mut waits) = (None, false);
        let has_own_schema = matches!(batch.values, Values::Typed(_));
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
                if rows.corrupt > 0 {
                    let (first, last) = (batch.position(0), batch.position(batch.len() - 1));
                    warn!(records = rows.corrupt, %first, %last, "records between these do not fit the given schema: what does not is null");
                }
                batch.values = Values::Typed(rows.columns);
                batch = self.admit(batch, &rejected, &mut fault);
                Some(self.parts.typing.version())
            }
            Values::Schemaless(_) => None,
            Values::Typed(columns) => {
                if let Err(error) = TableSchema::new(columns.fields()) {
                    let rejected = all_rejected(&batch, Stage::TaskPut, &error.to_string());
                    batch = self.admit(batch, &rejected, &mut fault);
                }
                None
            }
        };
        match self.parts.recipe.null_values.sift(&batch) {
            Ok(None) => {}
            Ok(Some(sifted)) => {
                self.report_null_values(&batch);
                batch = sifted;
            }
            Err(tombstone) => {
                let within = batch.offsets.partition_point(|offset| *offset < tombstone.at.offset.get());
                batch = batch.slice(0, within);
                fault = Some(TaskError::Data(tombstone.to_string()));
            }
        }
        if let Some(rejected) = no_columns(&batch).or_else(|| self.unwritable(&batch, has_own_schema)) {
            batch = self.admit(batch, &rejected, &mut fault);
        }
        if has_own_schema {
            let rejected = self.unfit(&batch);
            batch = self.admit(batch, &rejected, &mut fault);
        }
        // Also for rows that are all left out: a replay, which reads with the cut's version, must leave them out too. Not for
        // tombstones alone, which have no schema.
        let (has_values, is_stored) =
            (has_values(&batch.values), version.as_ref().is_some_and(|version| version.number > 0));
        match (has_own_schema, has_values, is_stored) {
            (true, true, _) => self.fit_own_schema(&batch).await?,
            (false, false, true) if self.own.is_some() => self.note_left_out(version).await?,
            (false, true, _) | (false, false, true) => self.fit_schema(version).await?,
            (true, false, _) | (false, false, false) => {}
        }
        if !batch.is_empty() {
            self.waits |= waits;
            self.place(batch, raw, &mut fault).await?;
            self.waits |= waits;
        }
        Ok(fault)
    }

    /// All rows, when the format cannot write their columns: the only thing that a writer has against a row. Where the
    /// rows did not bring their schema, none of them is to blame, and the task fails when their file is made.
    fn unwritable(&mut self, batch: &Batch, has_own_schema: bool) -> Option<Vec<Rejected>> {
        let Values::Typed(columns) = &batch.values else { return None };
        if !has_own_schema || !has_values(&batch.values) {
            return None;
        }
        if self.asked.as_ref().is_none_or(|(asked, _)| asked != columns.fields()) {
            let format = &self.parts.recipe.files.format;
            self.asked = Some((columns.fields().clone(), format.refusal(&batch.values, batch.schema.as_deref())));
        }
        let (_, reason) = self.asked.as_ref()?;
        reason.as_ref().map(|reason| all_rejected(batch, Stage::TaskPut, reason))
    }

    /// The rows whose values the format cannot write, though it can their columns.
    fn unfit(&self, batch: &Batch) -> Vec<Rejected> {
        let refused = self.parts.recipe.files.format.refused_rows(&batch.values).into_iter();
        let reject = |(row, reason)| Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason };
        refused.map(reject).collect()
    }

    /// Reports the records without a value, which are left out because the configuration says so: they stop no task.
    fn report_null_values(&mut self, batch: &Batch) {
        if !self.parts.recipe.errors.reports_null_values || !self.reporter.is_heard() {
            return;
        }
        let Some(nulls) = batch.values.nulls() else { return };
        let null =
            |row| Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason: NULL_VALUE.to_owned() };
        let rejected: Vec<Rejected> = (0..batch.len()).filter(|row| nulls.is_null(*row)).map(null).collect();
        self.reporter.count(&rejected, true);
        rejected.iter().for_each(|one| self.reporter.report(one, DATA_EXCEPTION));
    }

    /// Makes the open cut ready for rows that bring their schema: what becomes of each is decided by its path.
    async fn fit_own_schema(&mut self, batch: &Batch) -> Result<(), TaskError> {
        let Values::Typed(columns) = &batch.values else { return Ok(()) };
        if self.holds == Holds::Others {
            self.change_schema().await?;
        }
        if self.own.is_none() {
            self.left_out_under = self.schema.take().filter(|version| version.number > 0);
        }
        let own = self.files.learn(columns.fields(), batch.schema.as_ref(), &self.parts.recipe);
        if self.holds == Holds::Nothing && self.own != Some(own) {
            let schema = TableSchema::new(columns.fields()).map_err(|error| TaskError::Data(error.to_string()))?;
            self.schema = Some(Version::given(schema));
            self.context = self.files.context(own);
            self.open.turn_to(self.context.clone());
        }
        self.own = Some(own);
        Ok(())
    }

    /// Rows without a schema of their own were left out, read with `version`, from a cut of rows that have one: its plan must
    /// name that version, for a replay must leave them out too.
    async fn note_left_out(&mut self, version: Option<Version>) -> Result<(), TaskError> {
        let differs = |known: &Version| Some(known.reference()) != version.as_ref().map(Version::reference);
        if self.left_out_under.as_ref().is_some_and(differs) && self.holds != Holds::Nothing {
            self.change_schema().await?;
        }
        self.left_out_under = version;
        Ok(())
    }

    /// Makes the open cut ready for rows of `version`: its rows are brought to a newer version of the same schema, or it
    /// is closed.
    async fn fit_schema(&mut self, version: Option<Version>) -> Result<(), TaskError> {
        let reference = |version: &Option<Version>| version.as_ref().map(Version::reference);
        let had_own = self.own.is_some();
        if reference(&self.schema) == reference(&version) && !had_own {
            return Ok(());
        }
        let name = reference(&version).map(schema_name).unwrap_or_default();
        self.context = self.parts.recipe.files_with_schema(&name);
        match (&self.schema, &version) {
            (Some(held), Some(new)) if !had_own && self.can_grow() && is_growth(held, new) => {
                let target = new.schema.clone();
                let grown = |rows: &StructArray| {
                    project(rows, &target).expect("is_growth: every row of the old schema is one of the new")
                };
                match &self.parts.recipe.kafka_columns {
                    None => self.open.reschema(self.context.clone(), target.arrow(), &grown),
                    Some(columns) => {
                        let schema = columns.schema_with(target.arrow());
                        self.open.reschema(self.context.clone(), &schema, &|rows| columns.change_values(rows, grown));
                    }
                }
            }
            _ => {
                if self.holds != Holds::Nothing {
                    self.change_schema().await?;
                }
                self.open.turn_to(self.context.clone());
            }
        }
        (self.schema, self.own, self.left_out_under) = (version, None, None);
        Ok(())
    }

    /// Whether the rows of the open cut may be brought to a wider schema: a replay, which reads them with that schema at
    /// once, must come to the same rows and paths.
    fn can_grow(&self) -> bool {
        let is_free = !self.open.is_empty() && !self.open.encoded_anything();
        is_free && !self.waits && !self.partitioner.reads_values()
    }

    async fn place(
        &mut self,
        mut batch: Batch,
        raw: &RawBatch,
        fault: &mut Option<TaskError>,
    ) -> Result<(), TaskError> {
        if let Some(reason) = self.due() {
            self.close_open(reason).await?;
        }
        let rejected = self.without_a_view(&batch);
        batch = self.admit(batch, &rejected, fault);
        if batch.is_empty() {
            return Ok(());
        }
        let clock_ms = match (&self.parts.replay, self.clock_ms) {
            (Some((_, plan)), _) => plan.clock_ms,
            (None, Some(clock_ms)) => clock_ms,
            (None, None) => self.parts.clock.now_ms(),
        };
        let mut placed = self.partitioner.split(&batch, clock_ms);
        if !placed.rejected.is_empty() {
            let rejected = std::mem::take(&mut placed.rejected);
            (batch, placed) = self.admit_placed(batch, &placed, &rejected, PARTITION_EXCEPTION, fault);
        }
        if self.parts.recipe.kafka_columns.is_some() {
            (batch, placed) = self.with_kafka_columns(batch, placed, raw, fault);
        }
        let mut from = 0;
        while from < batch.len() {
            let now_ms = self.parts.clock.now_ms();
            let verdict = match self.parts.replay {
                Some(_) => writer::Verdict { append: batch.len() - from, cut: None },
                None => self.parts.recipe.rotation.verdict(&self.state, &placed, &batch.input_bytes, from, now_ms),
            };
            assert!(verdict.append > 0 || !self.open.is_empty(), "rotation never cuts a cut without rows");
            let own = self.own;
            let stop = own.and_then(|own| self.files.first_stop(own, &placed, from, verdict.append));
            let append = stop.as_ref().map_or(verdict.append, |(row, _)| row - from);
            self.append(&batch, &placed, from, append, now_ms, clock_ms)?;
            from += append;
            match (stop, verdict.cut) {
                (None, None) => {}
                (None, Some(reason)) => self.close_open(reason).await?,
                (Some((_, Stop::Change)), _) => self.change_schema().await?,
                (Some((row, Stop::Refused(reason))), _) => {
                    let rejected = Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason };
                    if self.tolerate(std::slice::from_ref(&rejected), PROJECTOR_EXCEPTION, fault).is_some() {
                        return Ok(());
                    }
                    // It belongs to this cut: a replay, which comes to the same file, leaves it out again.
                    self.position = batch.offset(row).next();
                    from = row + 1;
                }
            }
        }
        Ok(())
    }

    /// Ends the open cut because the rows that come next do not go with its files.
    async fn change_schema(&mut self) -> Result<(), TaskError> {
        match &self.parts.replay {
            None => self.close_open(CutReason::SchemaChange).await,
            Some((range, _)) => Err(TaskError::Data(format!(
                "the cut {range} of {} was planned with rows whose schemas went together, and now they do not: a schema changed \
                 its version or its content in the registry; compare the objects from offset {} on with the topic, then set the \
                 group's offset with sluice offsets",
                self.parts.topic_partition,
                range.start(),
            ))),
        }
    }

    /// The rows that cannot be in a file of keys or headers, and so are in none.
    fn without_a_view(&mut self, batch: &Batch) -> Vec<Rejected> {
        let views = &self.parts.recipe.files.views;
        if let Some(Values::Typed(keys)) = &batch.key_values {
            if self.asked_of_keys.as_ref().is_none_or(|(asked, _)| asked != keys.fields()) {
                self.asked_of_keys = Some((keys.fields().clone(), views.refusal_of_keys(batch)));
            }
            if let Some((_, Some(reason))) = &self.asked_of_keys {
                let (stage, reason) = (Stage::TaskPut, reason.clone());
                let reject = |row| Rejected { row, at: batch.position(row), stage, reason: reason.clone() };
                return (0..batch.len()).map(reject).collect();
            }
        }
        views.reject(batch)
    }

    /// The rows that go on, after all have a path.
    fn admit_placed(
        &mut self,
        batch: Batch,
        placed: &Placed,
        rejected: &[Rejected],
        exception: &'static str,
        fault: &mut Option<TaskError>,
    ) -> (Batch, Placed) {
        let rows = match self.tolerate(rejected, exception, fault) {
            Some(_) => (0..rejected[0].row as u32).collect(),
            None => without(rejected, batch.len()),
        };
        (batch.select(&rows), placed.select(&rows))
    }

    /// The rows with the columns of `kafka.columns`.
    fn with_kafka_columns(
        &mut self,
        mut batch: Batch,
        mut placed: Placed,
        raw: &RawBatch,
        fault: &mut Option<TaskError>,
    ) -> (Batch, Placed) {
        let recipe = self.parts.recipe.clone();
        let Some(columns) = &recipe.kafka_columns else { return (batch, placed) };
        let added = loop {
            match columns.add(&batch, raw) {
                Ok(added) => break added,
                // It concerns all records of the topic, and must not leave them all out.
                Err(clash) => {
                    let before: Vec<u32> = (0..clash.row as u32).collect();
                    (batch, placed) = (batch.slice(0, clash.row), placed.select(&before));
                    *fault = Some(TaskError::Data(clash.to_string()));
                }
            }
        };
        let reject = |(row, reason): (usize, String)| Rejected {
            row,
            at: batch.position(row),
            stage: Stage::ValueConverter,
            reason,
        };
        let rejected: Vec<Rejected> = added.rejected.into_iter().map(reject).collect();
        batch.values = added.values;
        match rejected.is_empty() {
            true => (batch, placed),
            false => self.admit_placed(batch, &placed, &rejected, DATA_EXCEPTION, fault),
        }
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
            Split::One(path) => self.append_at(batch.slice(from, count), path)?,
            Split::Many { paths, of_row } => {
                let mut rows_of_path: Vec<Vec<u32>> = vec![Vec::new(); paths.len()];
                for (row, path) in (from..).zip(&of_row[from..from + count]) {
                    rows_of_path[*path as usize].push(row as u32);
                }
                for (path, rows) in paths.iter().zip(&rows_of_path).filter(|(_, rows)| !rows.is_empty()) {
                    let (first, last) = (rows[0] as usize, rows[rows.len() - 1] as usize);
                    let is_run = last - first + 1 == rows.len();
                    let rows = if is_run { batch.slice(first, rows.len()) } else { batch.select(rows) };
                    self.append_at(rows, path)?;
                }
            }
        }
        let bytes = batch.input_bytes[from..from + count].iter().map(|bytes| u64::from(*bytes)).sum();
        self.state.appended(placed, from, count, bytes, now_ms);
        self.position = batch.offset(from + count - 1).next();
        self.parts.metrics.written(count);
        Ok(())
    }

    /// Appends rows of one path to its file. Those without a value are of no schema.
    fn append_at(&mut self, mut rows: Batch, path: &Arc<str>) -> Result<(), TaskError> {
        match self.own {
            _ if writer::is_of_tombstones(path) => {}
            None => self.holds = Holds::Others,
            Some(own) => {
                let fitted = self.files.fit(own, rows, path, self.parts.recipe.kafka_columns.as_ref())?;
                self.open.turn_to(fitted.context);
                (rows, self.holds) = (fitted.rows, Holds::Own);
            }
        }
        Ok(self.open.append(&rows, path)?)
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

/// Whether some row is no tombstone.
fn has_values(values: &Values) -> bool {
    values.nulls().map_or(!values.is_empty(), |nulls| nulls.null_count() < values.len())
}

/// Rows without any column cannot be in a table: while only empty objects came, no schema is known.
fn no_columns(batch: &Batch) -> Option<Vec<Rejected>> {
    let Values::Typed(columns) = &batch.values else { return None };
    if columns.num_columns() > 0 || !has_values(&batch.values) {
        return None;
    }
    let reason = "no record of the topic had a field with a value yet, so its schema cannot be inferred; give \
                  value.converter.schema";
    Some(all_rejected(batch, Stage::ValueConverter, reason))
}

/// Every row that has a value.
fn all_rejected(batch: &Batch, stage: Stage, reason: &str) -> Vec<Rejected> {
    let reject = |row| Rejected { row, at: batch.position(row), stage, reason: reason.to_owned() };
    let nulls = batch.values.nulls();
    (0..batch.len()).filter(|row| nulls.is_none_or(|nulls| nulls.is_valid(*row))).map(reject).collect()
}
