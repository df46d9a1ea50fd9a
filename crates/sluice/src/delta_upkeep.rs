//! The keys of a table's upkeep, and what they are to the table.

use std::sync::Arc;
use std::time::Duration;

use delta::{Compaction, Removable, UpkeepOptions, Vacuum};
use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use tokio::sync::Semaphore;
use writer::{FileLimits, ParquetFormat, TableFormat, orphan_age};

/// Age of commits without a checkpoint.
const CHECKPOINT_INTERVAL_MS: Key = job(
    "checkpoint.interval.ms",
    "Milliseconds after which commits get a checkpoint though they are fewer than the table's property \
     delta.checkpointInterval, at which the process that makes the commit writes one in any case (100, and more where the \
     checkpoints of a table that does not say are large); -1 for no such limit.",
    "3600000",
    1,
);

/// Removal of old commits.
const LOG_CLEANUP_INTERVAL_MS: Key = job(
    "log.cleanup.interval.ms",
    "Milliseconds from one removal of old commits to the next: those that are older than the table's property \
     delta.logRetentionDuration (30 days) and lie before a checkpoint. -1, or false in the table's property \
     delta.enableExpiredLogCleanup, keeps all.",
    "3600000",
    2,
);

/// Merging of small files.
const COMPACTION_INTERVAL_MS: Key = job(
    "compaction.interval.ms",
    "Milliseconds from one look for small files to the next. Files of one partition and of like size that are older than \
     that are merged when they are 16 or make a large one; what is left of a partition that gets nothing any more is merged a \
     day later. Rows do not change, so that no append conflicts with it. -1 leaves small files.",
    "600000",
    3,
);

/// Size of merged files.
const COMPACTION_TARGET_BYTES: Key = Key::new(
    "compaction.target.bytes",
    Kind::Long,
    "Bytes that merged files have at most; a file of half of it is not small.",
)
.default("134217728")
.check(Check::Between(1 << 20, 1 << 30))
.importance(Importance::Low)
.group("Upkeep", 4)
.shown(Width::Medium, "Compaction Target Bytes")
.ours();

/// Removal of files that the table does not know.
const VACUUM_INTERVAL_MS: Key = job(
    "vacuum.interval.ms",
    "Milliseconds from one vacuum to the next: files below the table that no version within its property \
     delta.deletedFileRetentionDuration (7 days) has, and that are older than that and than 3 days, are removed; so are \
     unfinished uploads that are older than upload.orphan.age.ms. -1 leaves all of them.",
    "86400000",
    5,
);

/// Which of them.
const VACUUM_FILES: Key = Key::new(
    "vacuum.files",
    Kind::String,
    "Which files vacuum removes: own are those that sluice named, what compaction replaced and what was never committed, but \
     also what others deleted from the table; all are all Parquet files, whoever wrote them. Nothing in directories that \
     begin with _ or . is touched.",
)
.default("own")
.check(Check::OneOf(&["own", "all"]))
.importance(Importance::Low)
.group("Upkeep", 6)
.shown(Width::Short, "Vacuum Files")
.ours();

const fn job(name: &'static str, doc: &'static str, default: &'static str, order: i32) -> Key {
    Key::new(name, Kind::Long, doc)
        .default(default)
        .check(Check::AtLeast(-1))
        .importance(Importance::Low)
        .group("Upkeep", order)
        .shown(Width::Medium, name)
        .ours()
}

/// The keys of this file.
pub(crate) const KEYS: &[Key] = &[
    CHECKPOINT_INTERVAL_MS,
    LOG_CLEANUP_INTERVAL_MS,
    COMPACTION_INTERVAL_MS,
    COMPACTION_TARGET_BYTES,
    VACUUM_INTERVAL_MS,
    VACUUM_FILES,
];

/// What the settings say, for a table whose files are open for `commit_interval` at most; `turn` is the process's.
pub(crate) fn options(
    settings: &Settings,
    commit_interval: Duration,
    turn: &Arc<Semaphore>,
) -> Result<UpkeepOptions, Invalid> {
    let mut options = UpkeepOptions {
        checkpoint_interval: settings.millis(&CHECKPOINT_INTERVAL_MS)?,
        log_cleanup_interval: settings.millis(&LOG_CLEANUP_INTERVAL_MS)?,
        ..UpkeepOptions::default()
    };
    if let Some(interval) = settings.millis(&COMPACTION_INTERVAL_MS)? {
        options.compaction = Some(Compaction {
            interval,
            target_bytes: u64::try_from(settings.long(&COMPACTION_TARGET_BYTES)?).unwrap_or(u64::MAX),
            format: Arc::new(TableFormat::new(ParquetFormat::from_settings(settings)?, [])),
            limits: FileLimits::new(settings)?,
            turn: Arc::clone(turn),
        });
    }
    if let Some(interval) = settings.millis(&VACUUM_INTERVAL_MS)? {
        let files = match settings.required_string(&VACUUM_FILES)?.as_str() {
            "all" => Removable::All,
            _ => Removable::Own,
        };
        // Whatever is set, uploads of files that are open are left alone.
        let upload_age = orphan_age(settings)?.map(|age| age.max(commit_interval * 2));
        options.vacuum = Some(Vacuum { interval, files, upload_age });
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_of(pairs: &[(&str, &str)]) -> UpkeepOptions {
        let settings =
            Settings::new(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect());
        options(&settings, Duration::from_secs(60), &Arc::new(Semaphore::new(1))).unwrap()
    }

    #[test]
    fn all_jobs_are_on_and_each_has_its_switch() {
        let hour = Some(Duration::from_secs(60 * 60));
        let all = options_of(&[]);
        assert_eq!((all.checkpoint_interval, all.log_cleanup_interval), (hour, hour));
        let compaction = all.compaction.unwrap();
        assert_eq!((compaction.interval.as_secs(), compaction.target_bytes), (600, 128 << 20));
        let vacuum = all.vacuum.unwrap();
        assert_eq!((vacuum.interval.as_secs(), vacuum.files), (24 * 60 * 60, Removable::Own));
        assert_eq!(vacuum.upload_age.unwrap().as_secs(), 3 * 24 * 60 * 60);
        let off: Vec<(&str, &str)> =
            KEYS.iter().filter(|key| key.name.ends_with("interval.ms")).map(|key| (key.name, "-1")).collect();
        let none = options_of(&off);
        assert_eq!(off.len(), 4);
        assert!(none.checkpoint_interval.is_none() && none.log_cleanup_interval.is_none());
        assert!(none.compaction.is_none() && none.vacuum.is_none());
        let vacuum = options_of(&[("vacuum.files", "all"), ("upload.orphan.age.ms", "1000")]).vacuum.unwrap();
        assert_eq!((vacuum.files, vacuum.upload_age.unwrap().as_secs()), (Removable::All, 120));
    }
}
