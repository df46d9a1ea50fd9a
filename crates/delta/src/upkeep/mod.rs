//! Upkeep of a table beside its commits. Of all processes that write to a table one does a job at a time: the one that made
//! the version that is due for a checkpoint, or the one that got the job's [slot](slot). That only saves work: every job is safe
//! when two do it at once, and when it ends anywhere.
//!
//! ```text
//!  a version that is due --> checkpoint
//!  slot of the job -------->  checkpoint | clean_log | compact | vacuum
//! ```

mod checkpoint;
mod clean_log;
mod compact;
mod plan;
mod remember;
mod slot;
#[cfg(test)]
mod tests;
mod vacuum;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tracing::warn;
use writer::{Error, FileLimits, Format, RewriteError};

use crate::log::{Log, ReadError};
use crate::metrics::TableMetrics;
use crate::open::OpenError;
use crate::table::TableOptions;
pub(crate) use checkpoint::{may_be_due, write_checkpoint};
use compact::Compactor;
use slot::Slots;

/// What is done for a table beside its commits. A checkpoint every `delta.checkpointInterval` versions is always written; when
/// the table does not say, every 100, and more where checkpoints are large.
#[derive(Debug, Clone, Default)]
pub struct UpkeepOptions {
    /// Longest time that commits are without a checkpoint; `None` for no such limit.
    pub checkpoint_interval: Option<Duration>,
    /// From one removal of commits that are older than `delta.logRetentionDuration` to the next; `None` to keep all.
    pub log_cleanup_interval: Option<Duration>,
    /// How small files become large ones; `None` to leave them.
    pub compaction: Option<Compaction>,
    /// How files that the table does not know any more are removed; `None` to leave them.
    pub vacuum: Option<Vacuum>,
}

/// How small files become large ones.
#[derive(Clone)]
pub struct Compaction {
    /// From one look for small files to the next. Files that are younger are left alone.
    pub interval: Duration,
    /// Bytes that new files have at most; files from half of it on are large.
    pub target_bytes: u64,
    /// What new files are.
    pub format: Arc<dyn Format>,
    /// How large their pieces are.
    pub limits: FileLimits,
    /// Whoever rewrites files holds a permit meanwhile, so that memory is bounded over all tables.
    pub turn: Arc<Semaphore>,
}

impl fmt::Debug for Compaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compaction(every {:?} to {} bytes)", self.interval, self.target_bytes)
    }
}

/// How files that the table does not know any more are removed.
#[derive(Debug, Clone)]
pub struct Vacuum {
    /// From one time to the next.
    pub interval: Duration,
    /// Which ones.
    pub files: Removable,
    /// How old an upload is that nobody works on any more; `None` to leave uploads.
    pub upload_age: Option<Duration>,
}

/// Whose files are removed when the table does not know them any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removable {
    /// Those whose names are sluice's.
    Own,
    /// All Parquet files.
    All,
}

/// Why a job is not done. The next slot is another try.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpkeepError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("{0}")]
    Table(String),
}

impl From<OpenError> for UpkeepError {
    fn from(error: OpenError) -> UpkeepError {
        match error {
            OpenError::Unanswered(why) | OpenError::Broken(why) => UpkeepError::Table(why),
        }
    }
}

impl From<ReadError> for UpkeepError {
    fn from(error: ReadError) -> UpkeepError {
        match error {
            ReadError::Store(error) => UpkeepError::Store(error),
            ReadError::Broken(why) => UpkeepError::Table(why),
        }
    }
}

impl From<RewriteError> for UpkeepError {
    fn from(error: RewriteError) -> UpkeepError {
        match error {
            RewriteError::Store(error) => UpkeepError::Store(error),
            error @ RewriteError::Unfit { .. } => UpkeepError::Table(error.to_string()),
        }
    }
}

/// What all jobs need.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) log: Log,
    /// Wall clock in milliseconds.
    pub(crate) now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub(crate) metrics: TableMetrics,
    pub(crate) seed: u64,
    /// Whose applications are not forgotten.
    pub(crate) connector: String,
}

enum Job {
    Checkpoint,
    CleanLog,
    Compact(Box<Compactor>),
    Vacuum(Vacuum),
}

impl Job {
    fn name(&self) -> &'static str {
        match self {
            Job::Checkpoint => "checkpoint",
            Job::CleanLog => "clean-log",
            Job::Compact(_) => "compact",
            Job::Vacuum(_) => "vacuum",
        }
    }
}

/// Ends upkeep when it is dropped, in the middle of whatever it does.
#[derive(Debug)]
pub(crate) struct Upkeep(AbortHandle);

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does what `options` say for the table of `log` until the answer is dropped; `None` when there is nothing to do.
pub(crate) fn begin(log: &Log, options: &TableOptions) -> Option<Upkeep> {
    let TableOptions { upkeep, now_ms, metrics, seed, connector, .. } = options;
    let bench = Bench {
        log: log.clone(),
        now_ms: now_ms.clone(),
        metrics: metrics.clone(),
        seed: *seed,
        connector: connector.clone(),
    };
    let checkpoint = upkeep.checkpoint_interval.map(|every| (Job::Checkpoint, every));
    let clean_log = upkeep.log_cleanup_interval.map(|every| (Job::CleanLog, every));
    let compaction = upkeep.compaction.as_ref();
    let compact =
        compaction.map(|how| (Job::Compact(Box::new(Compactor::new(bench.clone(), how.clone()))), how.interval));
    let vacuum = upkeep.vacuum.as_ref().map(|how| (Job::Vacuum(how.clone()), how.interval));
    let jobs = [checkpoint, clean_log, compact, vacuum].into_iter().flatten();
    let jobs: Vec<(Job, Slots)> = jobs
        .map(|(job, every)| {
            let slots = Slots::new(job.name(), every, *seed);
            (job, slots)
        })
        .collect();
    (!jobs.is_empty()).then(|| Upkeep(tokio::spawn(keep_up(bench, jobs)).abort_handle()))
}

/// Nothing that goes wrong here is more than a warning: the next slot makes up for it.
async fn keep_up(bench: Bench, mut jobs: Vec<(Job, Slots)>) {
    loop {
        let now_ms = (bench.now_ms)();
        let wait = jobs.iter().map(|(_, slots)| slots.wait(now_ms)).min().unwrap_or(Duration::MAX);
        sleep(wait).await;
        for (job, slots) in &mut jobs {
            let (name, table) = (job.name(), bench.log.name_for_people());
            let is_ours = match slots.take(&bench.log, (bench.now_ms)()).await {
                Ok(is_ours) => is_ours,
                Err(error) => {
                    warn!(table, job = name, %error, "could not ask whose turn upkeep is");
                    false
                }
            };
            if !is_ours {
                continue;
            }
            let until = Instant::now() + slots.left((bench.now_ms)());
            let done = match job {
                // What a checkpoint would forget is said again before.
                Job::Checkpoint => match remember::run(&bench, &bench.connector).await {
                    Ok(()) => checkpoint::of_newest(&bench).await,
                    failed => failed,
                },
                Job::CleanLog => clean_log::run(&bench).await,
                Job::Compact(compactor) => compactor.run(until).await,
                Job::Vacuum(how) => vacuum::run(&bench, how).await,
            };
            if let Err(error) = done {
                bench.metrics.upkeep_failed();
                warn!(table, job = name, %error, "upkeep of the table failed, it is tried again later");
            }
        }
    }
}
