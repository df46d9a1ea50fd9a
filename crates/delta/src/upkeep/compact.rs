//! Compaction: rows of small files are written into large ones, which take their place in one commit. The table's rows stay
//! the same, so that appends never conflict with it; it gives way to whatever else somebody does to its files.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{Int64Type, Schema};
use delta_kernel::Error as KernelError;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::scan::StatsOptions;
use percent_encoding::percent_decode_str;
use schema::TableSchema;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use writer::{Created, Rewrite, RewriteError, RowsOfFile};

use super::plan::{Group, LiveFile, PartitionValues, Planner, Policy, Small};
use super::slot::mixed;
use super::{Bench, Compaction, UpkeepError};
use crate::action::{Action, Add, Remove, commit_info};
use crate::columns::{Fit, Of, fit};
use crate::commit::FRESH;
use crate::decide::TableState;
use crate::log::Log;
use crate::open::{OpenError, SnapshotRef, in_kernel, newest};
use crate::protocol::refusals;
use crate::stats::stats;

/// Versions that a commit is tried for, one after the other.
const ATTEMPTS_MAX: usize = 100;

/// A table of which nothing was to be merged is not looked through again before it changes, or this time is over.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// Files that cannot be rewritten which are remembered.
const UNFIT_MAX: usize = 10_000;

/// Merges files of one table.
pub(crate) struct Compactor {
    bench: Bench,
    pub(super) how: Compaction,
    /// The version of which nothing was to be merged, and when that was.
    idle: Option<(u64, Instant)>,
    round: u64,
    classes: u64,
    /// New files so far; makes their names differ.
    made: u64,
    /// Files that cannot be rewritten.
    unfit: HashSet<String>,
}

/// What is known of the table while files are merged.
pub(super) struct Base {
    state: TableState,
    /// When `state` was the newest version.
    known_at: Instant,
    /// Files that are gone since they were planned for.
    removed: HashSet<String>,
}

/// The new file of a group, and those whose rows it has.
struct Merged {
    add: Add,
    inputs: Vec<Small>,
}

impl Compactor {
    pub(crate) fn new(bench: Bench, how: Compaction) -> Compactor {
        Compactor { bench, how, idle: None, round: 0, classes: 1, made: 0, unfit: HashSet::new() }
    }

    /// Merges what is to be merged, and begins nothing after `until`.
    pub(crate) async fn run(&mut self, until: Instant) -> Result<(), UpkeepError> {
        let asked_at = Instant::now();
        let Some((snapshot, state)) = newest(&self.bench.log).await? else { return Ok(()) };
        if self.idle.is_some_and(|(version, since)| version == state.version && since.elapsed() < IDLE)
            || !refusals(&state.protocol, &state.metadata).is_empty()
        {
            return Ok(());
        }
        let version = state.version;
        let groups = self.plan(snapshot).await?;
        if groups.is_empty() && self.classes == 1 {
            self.idle = Some((version, asked_at));
        }
        self.merge_all(groups, Base::new(state, asked_at), until).await
    }

    pub(super) async fn merge_all(
        &mut self,
        groups: Vec<Group>,
        mut base: Base,
        until: Instant,
    ) -> Result<(), UpkeepError> {
        for group in groups {
            if Instant::now() >= until {
                break;
            }
            self.merge(group, &mut base).await?;
        }
        Ok(())
    }

    pub(super) async fn plan(&mut self, snapshot: SnapshotRef) -> Result<Vec<Group>, UpkeepError> {
        let min_age_ms = i64::try_from(self.how.interval.as_millis()).unwrap_or(i64::MAX);
        let policy = Policy { target_bytes: self.how.target_bytes, now_ms: (self.bench.now_ms)(), min_age_ms };
        let planner = Planner::new(policy, self.round, self.classes);
        let unfit = std::mem::take(&mut self.unfit);
        let taken = for_each_live(&self.bench.log, snapshot, (planner, unfit), |(planner, unfit), live| {
            let may_be_merged = live.is_plain && !is_elsewhere(&live.file.path) && !unfit.contains(&live.file.path);
            planner.add(live.file, may_be_merged);
            ControlFlow::Continue(())
        });
        let (planner, unfit) = taken.await?;
        self.unfit = unfit;
        self.round += 1;
        self.classes = match (planner.is_over, self.classes) {
            (true, classes) => classes * 2,
            // Once around, to see whether fewer classes will do.
            (false, classes) if self.round.is_multiple_of(classes) => (classes / 2).max(1),
            (false, classes) => classes,
        };
        self.bench.metrics.has_live(planner.files, planner.bytes);
        Ok(planner.groups())
    }

    async fn merge(&mut self, group: Group, base: &mut Base) -> Result<(), UpkeepError> {
        let began = Instant::now();
        // Closed by nobody; without it, memory is bounded all the same.
        let turn = Arc::clone(&self.how.turn).acquire_owned().await;
        let merged = self.rewrite(&group, &base.state).await;
        drop(turn);
        let Some(merged) = merged? else { return Ok(()) };
        let (files, size) = (merged.inputs.len(), merged.add.size);
        let bytes = merged.inputs.iter().map(|file| file.size).sum();
        let table = self.bench.log.name_for_people();
        match self.commit(&merged, base).await? {
            Some(version) => {
                self.bench.metrics.compacted(files, bytes);
                info!(table, version, files, bytes, size, took_ms = began.elapsed().as_millis(), "small files merged");
            }
            None => {
                self.bench.metrics.compaction_lost();
                info!(table, files, bytes, "small files not merged: the table changed meanwhile");
            }
        }
        Ok(())
    }

    /// Writes the new file; `None` when fewer than two files can be read.
    async fn rewrite(&mut self, group: &Group, state: &TableState) -> Result<Option<Merged>, UpkeepError> {
        let table = state.metadata.schema().map_err(UpkeepError::Table)?;
        let (columns, schema) =
            columns_of_files(&table, &state.metadata.partition_columns()).map_err(UpkeepError::Table)?;
        let Some(first) = group.files.first() else { return Ok(None) };
        let path = self.new_path(&first.path, state.version);
        let key = self.bench.log.key(&decoded(&path));
        let store = self.bench.log.store();
        let mut rewrite = Rewrite::new(store, &key, &*self.how.format, schema.arrow(), self.how.limits)?;
        let mut inputs = Vec::new();
        let mut outcome = Ok(());
        for file in &group.files {
            let rows = match self.open(file, &columns).await {
                Ok(Some(rows)) => rows,
                Ok(None) => continue,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            match rewrite.append(&rows).await {
                Ok(()) => inputs.push(file.clone()),
                Err(error) => {
                    self.note_unfit(file, &error);
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        if outcome.is_err() || inputs.len() < 2 {
            rewrite.discard().await;
            return outcome.map(|()| None);
        }
        let rewritten = rewrite.finish().await?;
        let add = Add {
            path,
            partition_values: as_json(&group.partition_values),
            size: rewritten.bytes,
            modification_time: (self.bench.now_ms)(),
            data_change: false,
            stats: stats(&rewritten.statistics, &table, &state.metadata),
        };
        Ok(Some(Merged { add, inputs }))
    }

    /// The rows of `file`, if they are rows of a file with these columns.
    async fn open(&mut self, file: &Small, columns: &Value) -> Result<Option<RowsOfFile>, UpkeepError> {
        let key = self.bench.log.key(&decoded(&file.path));
        let rows = match RowsOfFile::open(self.bench.log.store(), &key, file.size).await {
            Ok(rows) => rows,
            Err(error @ RewriteError::Unfit { .. }) => {
                self.note_unfit(file, &error);
                return Ok(None);
            }
            Err(RewriteError::Store(error)) => return Err(error.into()),
        };
        let reason = match fit(columns, &Schema::new(rows.fields().clone()), Of::Rows, false) {
            Ok(Fit::Fits) => return Ok(Some(rows)),
            Ok(Fit::Grows(_)) => "it has columns that the table lacks".to_owned(),
            Err(reason) => reason,
        };
        self.note_unfit(file, &RewriteError::Unfit { key, reason });
        Ok(None)
    }

    fn note_unfit(&mut self, file: &Small, error: &RewriteError) {
        let RewriteError::Unfit { .. } = error else { return };
        warn!(table = self.bench.log.name_for_people(), %error, "a small file stays as it is");
        if self.unfit.len() < UNFIT_MAX {
            self.unfit.insert(file.path.clone());
        }
    }

    /// The name of a new file beside `first`, as it stands in the log.
    fn new_path(&mut self, first: &str, version: u64) -> String {
        let directory = first.rfind('/').map_or("", |end| &first[..=end]);
        self.made += 1;
        let unique = mixed(mixed(self.bench.seed ^ (self.bench.now_ms)().unsigned_abs()) ^ self.made);
        format!("{directory}compacted+{version:020}-{unique:016x}{}", self.how.format.extension())
    }

    /// Puts the new file in the place of its inputs, in one version; `None` when the table is another one now.
    async fn commit(&self, merged: &Merged, base: &mut Base) -> Result<Option<u64>, UpkeepError> {
        let (id, schema) = (base.state.metadata.id().to_owned(), base.state.metadata.schema());
        let partition_columns = base.state.metadata.partition_columns();
        let mut is_unsure = false;
        for attempt in 0..ATTEMPTS_MAX {
            base.catch_up(&self.bench.log).await?;
            let metadata = &base.state.metadata;
            if merged.inputs.iter().any(|file| base.removed.contains(&file.path)) {
                // Perhaps by a try of ours whose outcome was not heard. Whoever it was, the rows are there once.
                return Ok(is_unsure.then_some(base.state.version));
            }
            let is_same = metadata.id() == id
                && metadata.schema() == schema
                && metadata.partition_columns() == partition_columns
                && refusals(&base.state.protocol, metadata).is_empty();
            if !is_same {
                return Ok(None);
            }
            let version = base.state.version + 1;
            let actions = self.actions(merged, base.state.version, attempt);
            match self.bench.log.put(version, &actions).await {
                Ok(Created::New) => {
                    base.removed.extend(merged.inputs.iter().map(|file| file.path.clone()));
                    (base.state.version, base.known_at) = (version, Instant::now());
                    return Ok(Some(version));
                }
                Ok(Created::AlreadyThere) => {}
                // If it happens later it is still right: it stands behind the very version that was looked at.
                Err(error) if error.is_transient() => {
                    is_unsure = true;
                    debug!(table = self.bench.log.name_for_people(), version, %error, "the outcome of a compaction is unknown, reading on");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(UpkeepError::Table(format!("{ATTEMPTS_MAX} versions were taken by others")))
    }

    fn actions(&self, merged: &Merged, read: u64, attempt: usize) -> Vec<Action> {
        let now_ms = (self.bench.now_ms)();
        let nonce = self.bench.seed ^ now_ms.unsigned_abs() ^ (attempt as u64).rotate_left(56) ^ read.rotate_left(40);
        let mut info = commit_info("OPTIMIZE", false, Some(read), nonce, now_ms, None);
        if let Action::CommitInfo(info) = &mut info {
            let removed: u64 = merged.inputs.iter().map(|file| file.size).sum();
            info["operationParameters"] = json!({"predicate": "[]", "targetSize": self.how.target_bytes.to_string()});
            info["operationMetrics"] = json!({
                "numRemovedFiles": merged.inputs.len().to_string(),
                "numRemovedBytes": removed.to_string(),
                "numAddedFiles": "1",
                "numAddedBytes": merged.add.size.to_string(),
            });
        }
        let removes = merged.inputs.iter().map(|file| {
            Action::Remove(Remove {
                path: file.path.clone(),
                deletion_timestamp: now_ms,
                data_change: false,
                extended_file_metadata: true,
                partition_values: merged.add.partition_values.clone(),
                size: file.size,
            })
        });
        let add = Action::Add(merged.add.clone());
        std::iter::once(info).chain(removes).chain([add]).collect()
    }
}

impl Base {
    pub(super) fn new(state: TableState, known_at: Instant) -> Base {
        Base { state, known_at, removed: HashSet::new() }
    }

    /// Reads the commits behind the version that is known.
    async fn catch_up(&mut self, log: &Log) -> Result<(), UpkeepError> {
        // The log may have been cleaned up, so that names behind this version are free again.
        if self.known_at.elapsed() > FRESH {
            return Err(UpkeepError::Table("it took too long to merge files".to_owned()));
        }
        loop {
            let asked_at = Instant::now();
            let Some(mut seen) = log.read(self.state.version + 1).await? else {
                self.known_at = asked_at;
                return Ok(());
            };
            self.removed.extend(std::mem::take(&mut seen.removes));
            self.state.advance(seen);
        }
    }
}

/// A file as the log has it.
pub(crate) struct Live {
    pub(crate) file: LiveFile,
    /// All its rows are the table's, and nobody else keeps files like it in order.
    is_plain: bool,
}

/// Hands every file of `snapshot` to `each`, until it breaks, and gives back what it gathers in.
pub(crate) async fn for_each_live<T: Send + 'static>(
    log: &Log,
    snapshot: SnapshotRef,
    mut gathered: T,
    each: impl Fn(&mut T, Live) -> ControlFlow<()> + Send + 'static,
) -> Result<T, OpenError> {
    in_kernel(log, move |engine| {
        let scan = snapshot.scan_builder().with_stats(StatsOptions::none()).without_row_transforms().build()?;
        for found in scan.scan_metadata(engine)? {
            let (data, selected) = found?.scan_files.into_parts();
            let batch: RecordBatch = ArrowEngineData::try_from_engine_data(data)?.into();
            let rows = LiveRows::new(&batch).ok_or_else(|| {
                KernelError::generic("the files of the log have other columns than the protocol says")
            })?;
            for row in (0..batch.num_rows()).filter(|row| selected.get(*row).copied().unwrap_or(true)) {
                if each(&mut gathered, rows.at(row)).is_break() {
                    return Ok(gathered);
                }
            }
        }
        Ok(gathered)
    })
    .await
}

/// The columns of [`delta_kernel::scan::scan_row_schema`] that are of use.
struct LiveRows<'a> {
    paths: &'a arrow::array::StringArray,
    sizes: &'a arrow::array::Int64Array,
    times: &'a arrow::array::Int64Array,
    vectors: &'a StructArray,
    values: &'a arrow::array::MapArray,
    providers: &'a arrow::array::StringArray,
}

impl LiveRows<'_> {
    fn new(batch: &RecordBatch) -> Option<LiveRows<'_>> {
        let constants = batch.column_by_name("fileConstantValues")?.as_struct_opt()?;
        Some(LiveRows {
            paths: batch.column_by_name("path")?.as_string_opt()?,
            sizes: batch.column_by_name("size")?.as_primitive_opt::<Int64Type>()?,
            times: batch.column_by_name("modificationTime")?.as_primitive_opt::<Int64Type>()?,
            vectors: batch.column_by_name("deletionVector")?.as_struct_opt()?,
            values: constants.column_by_name("partitionValues")?.as_map_opt()?,
            providers: constants.column_by_name("clusteringProvider")?.as_string_opt()?,
        })
    }

    fn at(&self, row: usize) -> Live {
        let mut partition_values = PartitionValues::new();
        if self.values.is_valid(row) {
            let entries = self.values.value(row);
            let (names, values) = (entries.column(0).as_string_opt::<i32>(), entries.column(1).as_string_opt::<i32>());
            for (name, value) in names.zip(values).into_iter().flat_map(|(names, values)| names.iter().zip(values)) {
                partition_values.extend(name.map(|name| (name.to_owned(), value.map(str::to_owned))));
            }
        }
        Live {
            file: LiveFile {
                path: self.paths.value(row).to_owned(),
                size: u64::try_from(self.sizes.value(row)).unwrap_or(0),
                modified_ms: self.times.value(row),
                partition_values,
            },
            is_plain: self.vectors.is_null(row) && self.providers.is_null(row),
        }
    }
}

fn as_json(partition_values: &PartitionValues) -> Map<String, Value> {
    partition_values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

/// A path of the log as a name below the table.
pub(crate) fn decoded(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Whether a path of the log is not one below the table but a URL, or an absolute one.
pub(crate) fn is_elsewhere(path: &str) -> bool {
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let has_scheme = path.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme));
    path.starts_with('/') || has_scheme || path.split('/').any(|part| part == "..")
}

/// The columns of the files of a table whose StructType is `table`: all but those whose values stand in the log.
fn columns_of_files(table: &Value, partition_columns: &[String]) -> Result<(Value, TableSchema), String> {
    let mut columns = table.clone();
    if let Some(fields) = columns.get_mut("fields").and_then(Value::as_array_mut) {
        let name = |field: &Value| field.get("name").and_then(Value::as_str).map(str::to_owned);
        fields.retain(|field| name(field).is_none_or(|name| !partition_columns.contains(&name)));
    }
    let schema = TableSchema::from_json(&columns.to_string()).map_err(|error| error.to_string())?;
    Ok((columns, schema))
}
