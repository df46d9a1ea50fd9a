//! Commits: what is known of a table, kept in memory, and the loop that makes its next version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};
use writer::Created;

use crate::action::{Action, Add, Metadata, Protocol, Seen, Txn, commit_info};
use crate::columns::{grown, struct_type};
use crate::decide::{Standing, TableState};
use crate::log::{Log, ReadError};
use crate::open::{OpenError, open};
use crate::protocol::refusals;
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

/// The shortest `delta.logRetentionDuration` that a table may have.
const LOG_RETENTION_MIN: Duration = Duration::from_secs(60 * 60);

/// What paths in the log need not encode.
const IN_PATHS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'=').remove(b'+');

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
        self.options.metrics.is_at(shared.version);
    }

    // ---- writing

    /// Makes the proposals, of different applications, a part of the table, as many as possible in one commit. The first of
    /// them came at `since`.
    pub(crate) async fn commit(&mut self, proposals: &[Proposal], since: Instant) -> Vec<Result<u64, CommitError>> {
        let mut answers: Vec<Option<Result<u64, CommitError>>> = vec![None; proposals.len()];
        for _ in 0..ATTEMPTS_MAX {
            if let Err(error) = self.step(proposals, &mut answers, since).await {
                answers
                    .iter_mut()
                    .filter(|answer| answer.is_none())
                    .for_each(|answer| *answer = Some(Err(error.clone())));
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        let busy = || {
            CommitError::Unanswered(format!(
                "{ATTEMPTS_MAX} versions of the table {} were taken by others",
                self.log.name_for_people()
            ))
        };
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(busy()))).collect()
    }

    /// One attempt at one commit. An error is one for every proposal that has no answer yet.
    async fn step(
        &mut self,
        proposals: &[Proposal],
        answers: &mut [Option<Result<u64, CommitError>>],
        since: Instant,
    ) -> Result<(), CommitError> {
        if self.known_at.elapsed() > FRESH {
            self.reload().await?;
        } else if self.is_unsure {
            self.catch_up().await?;
        }
        self.check()?;
        let Some(state) = &self.state else { return self.create(proposals, answers).await };
        for (proposal, answer) in proposals.iter().zip(answers.iter_mut()).filter(|(_, answer)| answer.is_none()) {
            match state.standing(&proposal.wish) {
                Standing::Due => {}
                Standing::Done => *answer = Some(Ok(state.version)),
                Standing::Overtaken { at } => {
                    self.options.metrics.overtaken();
                    *answer = Some(Err(self.overtaken(proposal, at)));
                }
            }
        }
        let mut schema = state.metadata.schema().map_err(CommitError::Refused)?;
        let before = schema.clone();
        for (proposal, answer) in proposals.iter().zip(answers.iter_mut()).filter(|(_, answer)| answer.is_none()) {
            match self.fitted(&schema, proposal) {
                Ok(grown) => schema = grown,
                Err(refused) => *answer = Some(Err(refused)),
            }
        }
        let due: Vec<usize> = (0..proposals.len()).filter(|index| answers[*index].is_none()).collect();
        if due.is_empty() {
            return Ok(());
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
            info!(table = self.log.name_for_people(), "adding columns to the table");
            return self.put("ADD COLUMNS", vec![Action::Metadata(metadata)]).await.map(|_| ());
        }
        let actions = self.appended(proposals, &due, &schema, state);
        if let Some(version) = self.put("STREAMING UPDATE", actions).await? {
            let files = || due.iter().flat_map(|index| &proposals[*index].files);
            let bytes = files().map(|file| file.bytes).sum();
            self.options.metrics.committed(files().count(), bytes, since.elapsed());
            self.begin_checkpoint(version);
            due.into_iter().for_each(|index| answers[index] = Some(Ok(version)));
        }
        Ok(())
    }

    /// A checkpoint is written beside commits, one at a time.
    fn begin_checkpoint(&mut self, version: u64) {
        let Some(state) = self.state.as_ref().filter(|state| may_be_due(version, &state.metadata)) else { return };
        if self.checkpoint.as_ref().is_none_or(JoinHandle::is_finished) {
            let (log, metrics) = (self.log.clone(), self.options.metrics.clone());
            self.checkpoint = Some(tokio::spawn(write_checkpoint(log, version, state.metadata.clone(), metrics)));
        }
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

    /// The table's columns when the files of `proposal` are in it.
    fn fitted(&self, schema: &Value, proposal: &Proposal) -> Result<Value, CommitError> {
        let changed = |why: String| {
            CommitError::Changed(format!("the records do not fit the table {}: {why}", self.log.name_for_people()))
        };
        let mut files = proposal.files.iter();
        files
            .try_fold(schema.clone(), |schema, file| grown(&schema, &file.schema, self.options.merge_schema))
            .map_err(changed)
    }

    fn appended(&self, proposals: &[Proposal], due: &[usize], schema: &Value, state: &TableState) -> Vec<Action> {
        let now_ms = (self.options.now_ms)();
        let mut actions = Vec::new();
        for proposal in due.iter().map(|index| &proposals[*index]) {
            let (app_id, version) = (proposal.wish.app_id.clone(), proposal.wish.end);
            actions.push(Action::Txn(Txn { app_id, version, last_updated: Some(now_ms) }));
        }
        for file in due.iter().flat_map(|index| &proposals[*index].files) {
            actions.push(Action::Add(add(file, schema, &state.metadata, now_ms)));
        }
        actions
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
    async fn create(
        &mut self,
        proposals: &[Proposal],
        answers: &mut [Option<Result<u64, CommitError>>],
    ) -> Result<(), CommitError> {
        let mut schema: Option<Value> = None;
        for (proposal, answer) in proposals.iter().zip(answers.iter_mut()).filter(|(_, answer)| answer.is_none()) {
            for file in &proposal.files {
                let made = match &schema {
                    None => struct_type(&file.schema),
                    Some(known) => grown(known, &file.schema, true),
                };
                match made {
                    Ok(made) => schema = Some(made),
                    Err(why) => {
                        *answer = Some(Err(CommitError::Refused(format!(
                            "the table {} cannot be made: {why}",
                            self.log.name_for_people()
                        ))));
                        break;
                    }
                }
            }
        }
        let Some(schema) = schema.filter(|_| answers.iter().any(Option::is_none)) else { return Ok(()) };
        let protocol = protocol_for(&schema);
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

fn has_local_times(schema: &Value) -> bool {
    schema.to_string().contains("\"timestamp_ntz\"")
}

/// The protocol that the most readers know and that has the table's types.
fn protocol_for(schema: &Value) -> Protocol {
    if !has_local_times(schema) {
        return Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
    }
    let features = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    Protocol {
        min_reader_version: 3,
        min_writer_version: 7,
        reader_features: features(&["timestampNtz"]),
        writer_features: features(&["timestampNtz", "appendOnly", "invariants"]),
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
