//! Commits: what is known of a table, kept in memory, and the loop that makes its next version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};
use writer::Created;

use crate::action::{Action, Add, Metadata, Seen, Txn, commit_info};
use crate::batch::Batch;
use crate::columns::{Fit, Growth, Of, fit, grown, struct_type};
use crate::decide::{Standing, TableState};
use crate::log::{Log, ReadError};
use crate::open::{OpenError, open};
use crate::protocol::{has_local_times, protocol_for, refusals, widens_types};
use crate::stats::stats;
use crate::table::{CommitError, Known, NewFile, Proposal, TableOptions};
use crate::upkeep::{may_be_due, write_checkpoint};

/// Versions that a commit is tried for, one after the other.
const ATTEMPTS_MAX: usize = 100;

/// Commits of others that are read one by one; when there are more the table is read anew, over its checkpoint.
const CATCH_UP_MAX: usize = 100;

/// What is known of a table is true for this long without a look: its log keeps commits for [`LOG_RETENTION_MIN`] at least,
/// so the name of the next commit cannot be free again because the log was cleaned up.
pub(crate) const FRESH: Duration = Duration::from_secs(15 * 60);

/// The longest that a file waits for its commit, in milliseconds.
const COMMIT_WAIT_MAX_MS: i64 = 24 * 60 * 60 * 1_000;

/// The shortest `delta.logRetentionDuration` that a table may have.
const LOG_RETENTION_MIN: Duration = Duration::from_secs(60 * 60);

/// What paths in the log need not encode.
const IN_PATHS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'=').remove(b'+');

/// What a batch needs next.
pub(crate) enum Next {
    /// Nothing: every lane has its answer.
    Answered,
    /// Files of these columns of the table for the rows that wait.
    Files {
        /// A StructType.
        columns: Value,
    },
    /// Another try later; the text says why.
    Again(String),
}

/// Knows the table and commits to it.
pub(crate) struct Keeper {
    log: Log,
    options: TableOptions,
    /// `None` while there is no table.
    state: Option<TableState>,
    /// When it was the newest version.
    known_at: Instant,
    /// A commit was sent whose outcome is not known.
    is_unsure: bool,
    nonces: u64,
    checkpoint: Option<JoinHandle<()>>,
    shared: Arc<Mutex<Known>>,
}

impl Keeper {
    pub(crate) fn new(log: Log, options: TableOptions, shared: Arc<Mutex<Known>>) -> Keeper {
        let nonces = options.seed;
        Keeper {
            log,
            options,
            state: None,
            known_at: Instant::now(),
            is_unsure: true,
            nonces,
            checkpoint: None,
            shared,
        }
    }

    /// What is known; `None` while there is no table.
    pub(crate) fn state(&self) -> Option<&TableState> {
        self.state.as_ref()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.options.now_ms)()
    }

    pub(crate) fn linger(&self) -> Duration {
        self.options.linger
    }

    /// Whether the table can be written to; an error names everything that stands in the way.
    pub(crate) fn check(&self) -> Result<(), CommitError> {
        let Some(state) = &self.state else { return Ok(()) };
        let mut refusals = refusals(&state.protocol, &state.metadata);
        if let Some(text) = state.metadata.property("delta.logRetentionDuration")
            && interval(text).is_none_or(|retention| retention < LOG_RETENTION_MIN)
        {
            refusals.push(format!("table property delta.logRetentionDuration={text}, which must be an hour at least"));
        }
        if !refusals.is_empty() {
            let table = self.log.name_for_people();
            return Err(CommitError::Refused(format!(
                "the table {table} cannot be written to: {}",
                refusals.join(", ")
            )));
        }
        let (wanted, has) = (&self.options.partition_columns, state.metadata.partition_columns());
        match wanted {
            Some(wanted) if *wanted != has => Err(CommitError::Refused(format!(
                "the table {} is partitioned by [{}] and not by [{}]: set partitionBy to what it is, or another path",
                self.log.name_for_people(),
                has.join(", "),
                wanted.join(", "),
            ))),
            Some(_) | None => Ok(()),
        }
    }

    // ---- reading

    /// Reads the newest version, over the table's checkpoint.
    pub(crate) async fn reload(&mut self) -> Result<(), CommitError> {
        let asked_at = Instant::now();
        let found = open(&self.log).await.map_err(|error| match error {
            OpenError::Unanswered(why) => {
                CommitError::Unanswered(format!("could not read the table {}: {why}", self.log.name_for_people()))
            }
            OpenError::Broken(why) => {
                CommitError::Refused(format!("could not read the table {}: {why}", self.log.name_for_people()))
            }
        })?;
        if let Some(before) = &self.state {
            let id = found.as_ref().map(|state| state.metadata.id());
            if id != Some(before.metadata.id()) {
                return Err(self.replaced(before.metadata.id(), id));
            }
        }
        self.state = found;
        (self.known_at, self.is_unsure) = (asked_at, false);
        self.share();
        Ok(())
    }

    fn replaced(&self, before: &str, id: Option<&str>) -> CommitError {
        let now = id.map_or("there is none any more".to_owned(), |id| format!("it is the table {id} now"));
        CommitError::Refused(format!(
            "the table {} is not the one that was written to ({before}): {now}; restart the connector to go on with it",
            self.log.name_for_people()
        ))
    }

    /// Reads the commits behind the version that is known.
    async fn catch_up(&mut self) -> Result<(), CommitError> {
        for _ in 0..CATCH_UP_MAX {
            let Some(state) = &mut self.state else { return self.reload().await };
            let asked_at = Instant::now();
            match self.log.read(state.version + 1).await {
                Ok(Some(seen)) => {
                    let id = seen.metadata.as_ref().map(|metadata| metadata.id().to_owned());
                    if let Some(id) = id.filter(|id| id != state.metadata.id()) {
                        let before = state.metadata.id().to_owned();
                        return Err(self.replaced(&before, Some(&id)));
                    }
                    state.advance(seen);
                }
                Ok(None) => {
                    (self.known_at, self.is_unsure) = (asked_at, false);
                    self.share();
                    return Ok(());
                }
                Err(ReadError::Store(error)) if error.is_transient() => {
                    return Err(CommitError::Unanswered(error.to_string()));
                }
                Err(ReadError::Store(error)) => return Err(CommitError::Refused(error.to_string())),
                Err(ReadError::Broken(why)) => return Err(CommitError::Refused(why)),
            }
        }
        self.reload().await
    }

    /// The newest version.
    pub(crate) async fn look(&mut self) -> Result<Known, CommitError> {
        if self.known_at.elapsed() > FRESH {
            self.reload().await?
        } else {
            self.catch_up().await?
        }
        self.check()?;
        Ok(self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn share(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.id = self.state.as_ref().map(|state| state.metadata.id().to_owned());
        shared.version = self.state.as_ref().map_or(0, |state| state.version);
        shared.txns = self.state.as_ref().map(|state| state.txns.clone()).unwrap_or_default();
        let columns = self.state.as_ref().map(|state| state.metadata.partition_columns());
        shared.partition_columns = columns.or(self.options.partition_columns.clone()).unwrap_or_default();
        let text = self.state.as_ref().map_or("", |state| state.metadata.schema_text());
        if text != shared.schema_text {
            shared.schema = Arc::new(serde_json::from_str(text).unwrap_or_default());
            text.clone_into(&mut shared.schema_text);
        }
        shared.growth = self.growth();
        self.options.metrics.is_at(shared.version);
    }

    // ---- writing

    /// Makes the proposals of `batch` a part of the table, as many as possible in one commit.
    pub(crate) async fn commit(&mut self, batch: &mut Batch) -> Next {
        for _ in 0..ATTEMPTS_MAX {
            if batch.is_answered() {
                return Next::Answered;
            }
            match self.step(batch).await {
                Ok(None) => {}
                Ok(Some(columns)) => return Next::Files { columns },
                Err(CommitError::Unanswered(why)) => return Next::Again(why),
                Err(error @ (CommitError::Overtaken(_) | CommitError::Changed(_) | CommitError::Refused(_))) => {
                    let waiting: Vec<usize> = batch.waiting().map(|(number, _)| number).collect();
                    waiting.into_iter().for_each(|number| batch.refuse(number, error.clone()));
                }
            }
        }
        let table = self.log.name_for_people();
        Next::Again(format!("{ATTEMPTS_MAX} versions of the table {table} were taken by others"))
    }

    /// One attempt at one commit. An error is one for every proposal that has no answer yet; the columns of the table come back
    /// when rows of them need files first.
    async fn step(&mut self, batch: &mut Batch) -> Result<Option<Value>, CommitError> {
        if self.known_at.elapsed() > FRESH {
            self.reload().await?;
        } else if self.is_unsure {
            self.catch_up().await?;
        }
        self.check()?;
        let Some(state) = &self.state else { return self.create(batch).await.map(|()| None) };
        let mut answers = Vec::new();
        for (number, proposal) in batch.waiting() {
            match state.standing(&proposal.wish) {
                Standing::Due if proposal.files.iter().any(|file| self.is_stale(file)) => {
                    answers.push((number, Err(self.stale(proposal))))
                }
                Standing::Due => {}
                Standing::Done => answers.push((number, Ok(state.version))),
                Standing::Overtaken { at } => {
                    self.options.metrics.overtaken();
                    answers.push((number, Err(self.overtaken(proposal, at))));
                }
            }
        }
        batch.answer_all(answers);
        let before = state.metadata.schema().map_err(CommitError::Refused)?;
        let schema = self.grown(&before, batch);
        if batch.is_answered() {
            return Ok(None);
        }
        if schema != before {
            let features = state.protocol.writer_features.iter().flatten();
            if has_local_times(&schema) && !features.into_iter().any(|feature| feature.starts_with("timestamp")) {
                return Err(CommitError::Refused(format!(
                    "the table {} has not the feature timestampNtz, which a new column with timestamps without a zone needs",
                    self.log.name_for_people()
                )));
            }
            let metadata = state.metadata.with_schema(&schema);
            info!(table = self.log.name_for_people(), "changing the columns of the table");
            return self.put("CHANGE COLUMNS", vec![Action::Metadata(metadata)]).await.map(|_| None);
        }
        let fits = |file: &NewFile| matches!(fit(&schema, &file.schema, Of::File, false), Ok(Fit::Fits));
        batch.keep_whole_files(|file| fits(file) && !self.is_stale(file));
        if batch.lacks_files() {
            return Ok(Some(schema));
        }
        let actions = self.appended(batch, &schema, state);
        if let Some(version) = self.put("STREAMING UPDATE", actions).await? {
            let bytes = batch.files().map(|file| file.bytes).sum();
            self.options.metrics.committed(batch.files().count(), bytes, batch.since.elapsed());
            self.begin_checkpoint(version);
            let done: Vec<usize> = batch.waiting().map(|(number, _)| number).collect();
            done.into_iter().for_each(|number| batch.done(number, version));
        }
        Ok(None)
    }

    /// The columns of the table when everything that waits is in it; what does not fit is answered.
    fn grown(&self, before: &Value, batch: &mut Batch) -> Value {
        let (mut schema, mut answers, mut fitting) = (before.clone(), Vec::new(), Vec::new());
        for (number, proposal) in batch.waiting() {
            match self.fitted(&schema, proposal, &mut fitting) {
                Ok(None) => {}
                Ok(Some(grown)) => schema = grown,
                Err(refused) => answers.push((number, Err(refused))),
            }
        }
        batch.answer_all(answers);
        schema
    }

    /// A checkpoint is written beside commits, one at a time.
    fn begin_checkpoint(&mut self, version: u64) {
        let Some(state) = self.state.as_ref().filter(|state| may_be_due(version, &state.metadata)) else { return };
        if self.checkpoint.as_ref().is_none_or(JoinHandle::is_finished) {
            let (log, metrics) = (self.log.clone(), self.options.metrics.clone());
            self.checkpoint = Some(tokio::spawn(write_checkpoint(log, version, state.metadata.clone(), metrics)));
        }
    }

    /// Whether a file is so old that vacuum, wherever it runs, may take it for one that nobody will commit.
    fn is_stale(&self, file: &NewFile) -> bool {
        self.now_ms().saturating_sub(file.written_ms) > COMMIT_WAIT_MAX_MS
    }

    fn stale(&self, proposal: &Proposal) -> CommitError {
        let Proposal { wish, .. } = proposal;
        CommitError::Overtaken(format!(
            "the offsets {} to {} of {} are not appended to the table {}: their files waited for more than a day, and may have \
             been vacuumed; they are read again",
            wish.start,
            wish.end,
            wish.app_id,
            self.log.name_for_people()
        ))
    }

    fn overtaken(&self, proposal: &Proposal, at: i64) -> CommitError {
        let Proposal { wish, .. } = proposal;
        CommitError::Overtaken(format!(
            "the offsets {} to {} of {} are not appended to the table {}: it goes on at offset {at}, so somebody else wrote; \
             reading goes on from there",
            wish.start,
            wish.end,
            wish.app_id,
            self.log.name_for_people()
        ))
    }

    fn growth(&self) -> Growth {
        let widens = self.state.as_ref().is_some_and(|state| widens_types(&state.protocol, &state.metadata));
        Growth { new_columns: self.options.merge_schema, wider_types: widens }
    }

    /// The table's columns when `proposal` is in it, if they are not `schema`. What fits is added to `fitting`: nearly always
    /// all lanes have the same columns.
    fn fitted(
        &self,
        schema: &Value,
        proposal: &Proposal,
        fitting: &mut Vec<(SchemaRef, Of)>,
    ) -> Result<Option<Value>, CommitError> {
        let changed = |why: String| {
            CommitError::Changed(format!("the records do not fit the table {}: {why}", self.log.name_for_people()))
        };
        let growth = self.growth();
        let (mut all, mut found) = (None, Vec::new());
        for (columns, of) in proposal.schemas() {
            if fitting.iter().any(|(known, known_of)| known == columns && *known_of == of) {
                continue;
            }
            let wider = grown(all.as_ref().unwrap_or(schema), columns, of, growth);
            all = wider.map_err(changed)?.or(all);
            found.push((columns.clone(), of));
        }
        fitting.append(&mut found);
        Ok(all)
    }

    fn appended(&self, batch: &Batch, schema: &Value, state: &TableState) -> Vec<Action> {
        let now_ms = (self.options.now_ms)();
        let wishes = batch.waiting().map(|(_, proposal)| &proposal.wish);
        let txns =
            wishes.map(|wish| Txn { app_id: wish.app_id.clone(), version: wish.end, last_updated: Some(now_ms) });
        let adds = batch.files().map(|file| Action::Add(add(file, schema, &state.metadata, now_ms)));
        txns.map(Action::Txn).chain(adds).collect()
    }

    /// Makes the next version; `None` when somebody else did, or when nobody knows: then the next step looks first.
    pub(crate) async fn put(&mut self, operation: &str, mut actions: Vec<Action>) -> Result<Option<u64>, CommitError> {
        let read = self.state.as_ref().map(|state| state.version);
        let version = read.map_or(0, |version| version + 1);
        self.nonces = self.nonces.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let user_metadata = self.options.user_metadata.as_deref();
        actions.insert(0, commit_info(operation, true, read, self.nonces, (self.options.now_ms)(), user_metadata));
        // Should this future end here, the outcome is unknown too.
        self.is_unsure = true;
        let sent_at = Instant::now();
        match self.log.put(version, &actions).await {
            Ok(Created::New) => {}
            Ok(Created::AlreadyThere) => {
                self.options.metrics.conflicted();
                return Ok(None);
            }
            Err(error) if error.is_transient() => {
                self.options.metrics.outcome_unknown();
                warn!(table = self.log.name_for_people(), version, %error, "the outcome of a commit is unknown, reading the table again");
                return Ok(None);
            }
            Err(error) => return Err(CommitError::Refused(error.to_string())),
        }
        let mut seen = Seen::default();
        for action in actions {
            match action {
                Action::Protocol(protocol) => seen.protocol = Some(protocol),
                Action::Metadata(metadata) => seen.metadata = Some(metadata),
                Action::Txn(txn) => seen.txns.push(txn),
                Action::CommitInfo(_) | Action::Add(_) | Action::Remove(_) => {}
            }
        }
        match (&mut self.state, seen) {
            (Some(state), seen) => state.advance(seen),
            (state @ None, Seen { protocol: Some(protocol), metadata: Some(metadata), .. }) => {
                *state = Some(TableState { version, protocol, metadata, txns: BTreeMap::new() });
            }
            (None, _) => return Ok(None),
        }
        (self.known_at, self.is_unsure) = (sent_at, false);
        self.share();
        Ok(Some(version))
    }

    /// Makes the table with the columns of all proposals, without rows.
    async fn create(&mut self, batch: &mut Batch) -> Result<(), CommitError> {
        let (mut schema, mut answers): (Option<Value>, _) = (None, Vec::new());
        for (number, proposal) in batch.waiting() {
            for (columns, of) in proposal.schemas() {
                let made = match &schema {
                    None => struct_type(columns).map(Some),
                    Some(known) => grown(known, columns, of, Growth::NEW_TABLE),
                };
                match made {
                    Ok(made) => schema = made.or(schema),
                    Err(why) => {
                        let table = self.log.name_for_people();
                        let error = CommitError::Refused(format!("the table {table} cannot be made: {why}"));
                        answers.push((number, Err(error)));
                        break;
                    }
                }
            }
        }
        batch.answer_all(answers);
        let Some(schema) = schema.filter(|_| !batch.is_answered()) else { return Ok(()) };
        let protocol = protocol_for(&schema, &self.options.properties);
        let partition_columns = self.options.partition_columns.clone().unwrap_or_default();
        let names =
            schema.get("fields").and_then(Value::as_array).into_iter().flatten().filter_map(|field| field.get("name"));
        let names: Vec<&Value> = names.collect();
        if let Some(unknown) =
            partition_columns.iter().find(|column| !names.iter().any(|name| *name == column.as_str()))
        {
            return Err(CommitError::Refused(format!(
                "the table {} cannot be made: partitionBy names {unknown}, which the records do not have",
                self.log.name_for_people()
            )));
        }
        let now_ms = (self.options.now_ms)();
        let id = identity(self.options.seed, now_ms);
        let metadata = Metadata::new(&id, &schema, &partition_columns, self.options.properties.clone(), now_ms);
        if self.put("CREATE TABLE", vec![Action::Protocol(protocol), Action::Metadata(metadata)]).await?.is_some() {
            info!(table = self.log.name_for_people(), id, "table made");
        }
        Ok(())
    }
}

/// A UUID (version 4) drawn from `seed` and the time.
fn identity(seed: u64, now_ms: i64) -> String {
    let mut state = seed ^ now_ms.unsigned_abs();
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let (high, low) = ((next() & !0xF000) | 0x4000, (next() & !(0xC000 << 48)) | (0x8000 << 48));
    let text = format!("{high:016x}{low:016x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn add(file: &NewFile, schema: &Value, metadata: &Metadata, now_ms: i64) -> Add {
    Add {
        path: utf8_percent_encode(&file.name, IN_PATHS).to_string(),
        partition_values: file.partition_values.clone(),
        size: file.bytes,
        modification_time: now_ms,
        data_change: true,
        stats: stats(&file.statistics, schema, metadata),
    }
}

/// A duration as table properties have it: `interval 30 days`, `interval 1 week 2 hours`; `None` for anything else.
pub(crate) fn interval(text: &str) -> Option<Duration> {
    let mut words = text.split_whitespace().filter(|word| !word.eq_ignore_ascii_case("interval"));
    let mut total = Duration::ZERO;
    let mut is_empty = true;
    while let Some(number) = words.next() {
        let number: u64 = number.trim_matches('\'').parse().ok()?;
        let unit = words.next()?.trim_matches('\'').to_lowercase();
        let seconds = match unit.strip_suffix('s').unwrap_or(&unit) {
            "week" => 7 * 24 * 60 * 60,
            "day" => 24 * 60 * 60,
            "hour" => 60 * 60,
            "minute" => 60,
            "second" => 1,
            "millisecond" | "microsecond" | "nanosecond" => 0,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(number.checked_mul(seconds)?))?;
        is_empty = false;
    }
    (!is_empty).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_properties_have_them() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 60 * 60));
        for (text, expected) in [
            ("interval 30 days", hours(720)),
            ("interval 1 week 2 hours", hours(170)),
            ("INTERVAL '1' HOUR", hours(1)),
            ("interval 1 month", None),
            ("interval", None),
            ("30", None),
        ] {
            assert_eq!(interval(text), expected, "{text}");
        }
    }

    #[test]
    fn identities_are_uuids_that_differ() {
        let one = identity(1, 2);
        assert_ne!(one, identity(1, 3));
        assert_eq!(one.len(), 36);
        assert_eq!((one.as_bytes()[14], one.matches('-').count()), (b'4', 4), "{one}");
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
    }
}
