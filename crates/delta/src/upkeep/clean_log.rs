//! Removal of commits that nobody needs any more: those that are older than the table's retention and lie before a checkpoint
//! that is old enough too, so that every version within the retention can be read.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use tracing::info;

use super::{Bench, UpkeepError, slot};
use crate::action::{Metadata, Protocol};
use crate::commit::interval;
use crate::open::newest;

/// How long commits are kept when the table does not say (`delta.logRetentionDuration`).
const LOG_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Objects of the log that are held in memory at once.
const HELD_MAX: usize = 10_000;

/// How long the commits of a table are kept; `None` when it says that none is to be removed.
fn retention(protocol: &Protocol, metadata: &Metadata) -> Option<Duration> {
    let is_protected = protocol.writer_features.iter().flatten().any(|feature| feature == "checkpointProtection");
    let is_wanted = metadata.property("delta.enableExpiredLogCleanup").is_none_or(|text| text.trim() != "false");
    let retention = metadata.property("delta.logRetentionDuration").and_then(interval).unwrap_or(LOG_RETENTION);
    (is_wanted && !is_protected).then_some(retention)
}

/// What an object of the log is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// What was done to make a version.
    Commit(u64),
    /// What else is known of a version, or stands for several: of no use without the commit.
    Beside(u64),
    /// A checkpoint in one file.
    Checkpoint(u64),
    /// One of so many parts of a checkpoint.
    Part(u64, u32),
    /// A checkpoint whose files have names of their own, which others remove.
    Foreign(u64),
}

impl Entry {
    fn version(self) -> u64 {
        match self {
            Entry::Commit(version)
            | Entry::Beside(version)
            | Entry::Checkpoint(version)
            | Entry::Part(version, _)
            | Entry::Foreign(version) => version,
        }
    }

    fn parse(name: &str) -> Option<Entry> {
        let (version, rest) = name.split_once('.')?;
        if version.len() != 20 {
            return None;
        }
        let version = version.parse().ok()?;
        match rest.split('.').collect::<Vec<_>>().as_slice() {
            ["json"] => Some(Entry::Commit(version)),
            ["crc"] | [_, "compacted", "json"] => Some(Entry::Beside(version)),
            ["checkpoint", "parquet"] => Some(Entry::Checkpoint(version)),
            ["checkpoint", _, of, "parquet"] => Some(Entry::Part(version, of.parse().ok()?)),
            ["checkpoint", _, "json" | "parquet"] => Some(Entry::Foreign(version)),
            _ => None,
        }
    }
}

/// Which of the objects `names` of a log, the first ones in the order of their names with the times of their writing, can go:
/// those of versions before the last whole checkpoint from which every commit that is younger than `cutoff_ms` can be reached.
fn expired(names: &BTreeMap<String, i64>, cutoff_ms: i64) -> Vec<String> {
    let entries = || names.iter().filter_map(|(name, at_ms)| Some((Entry::parse(name)?, name, *at_ms)));
    let is_young = |(entry, _, at_ms): &(Entry, &String, i64)| matches!(entry, Entry::Commit(_)) && *at_ms >= cutoff_ms;
    // The last one that was seen may have parts that were not.
    let Some(last) = entries().next_back().map(|(entry, _, _)| entry.version()) else { return Vec::new() };
    let reach = entries().find(is_young).map_or(last, |(entry, _, _)| entry.version());
    let mut parts: BTreeMap<u64, u32> = BTreeMap::new();
    let mut safe = None;
    for (entry, _, _) in entries().filter(|(entry, _, _)| entry.version() <= reach) {
        match entry {
            Entry::Checkpoint(version) | Entry::Foreign(version) => safe = safe.max(Some(version)),
            Entry::Part(version, of) => {
                let seen = parts.entry(version).or_default();
                *seen += 1;
                if *seen == of {
                    safe = safe.max(Some(version));
                }
            }
            Entry::Commit(_) | Entry::Beside(_) => {}
        }
    }
    let goes = |(entry, _, at_ms): &(Entry, &String, i64)| {
        !matches!(entry, Entry::Foreign(_)) && Some(entry.version()) < safe && *at_ms < cutoff_ms
    };
    entries().filter(goes).map(|(_, name, _)| name.clone()).collect()
}

pub(crate) async fn run(bench: &Bench) -> Result<(), UpkeepError> {
    sweep_slots(bench).await?;
    let Some((_, state)) = newest(&bench.log).await? else { return Ok(()) };
    let Some(retention) = retention(&state.protocol, &state.metadata) else { return Ok(()) };
    let cutoff_ms = (bench.now_ms)().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
    let (log, directory) = (&bench.log, bench.log.key("_delta_log"));
    loop {
        let names = first_of_log(bench, &directory, cutoff_ms).await?;
        let gone: Vec<String> =
            expired(&names, cutoff_ms).into_iter().map(|name| format!("{directory}/{name}")).collect();
        log.store().delete(&gone).await?;
        if !gone.is_empty() {
            bench.metrics.log_cleaned(gone.len());
            info!(table = log.name_for_people(), removed = gone.len(), "old commits removed");
        }
        if gone.is_empty() || names.len() < HELD_MAX {
            return Ok(());
        }
    }
}

/// The first objects of the log by name, up to the first commit that stays, [`HELD_MAX`] at most.
async fn first_of_log(bench: &Bench, directory: &str, cutoff_ms: i64) -> Result<BTreeMap<String, i64>, UpkeepError> {
    let store = bench.log.store();
    let mut names: BTreeMap<String, i64> = BTreeMap::new();
    store
        .for_each_object(directory, "", |object| {
            let Some(object) = object else {
                names.clear();
                return ControlFlow::Continue(());
            };
            let name = object.key.rsplit('/').next().unwrap_or_default();
            let is_in_log = object.key.len() == directory.len() + 1 + name.len();
            let Some(entry) = Entry::parse(name).filter(|_| is_in_log) else { return ControlFlow::Continue(()) };
            names.insert(name.to_owned(), object.modified_ms);
            if names.len() > HELD_MAX {
                names.pop_last();
            }
            let is_end = matches!(entry, Entry::Commit(_)) && object.modified_ms >= cutoff_ms;
            match store.lists_in_order() && (is_end || names.len() == HELD_MAX) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .await?;
    Ok(names)
}

/// Removes what dead workers left of their turns.
async fn sweep_slots(bench: &Bench) -> Result<(), UpkeepError> {
    let (store, now_ms) = (bench.log.store(), (bench.now_ms)());
    let mut over = store.list(&bench.log.key(slot::DIRECTORY)).await?;
    over.retain(|name| slot::is_over(name, now_ms));
    Ok(store.delete(&over).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn found(properties: Value, features: &[&str]) -> Option<Duration> {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        let protocol = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: None,
            writer_features: Some(features.iter().map(|feature| (*feature).to_owned()).collect()),
        };
        retention(&protocol, &Metadata::new("t", &Value::Object(Map::new()), &[], properties, 0))
    }

    #[test]
    fn the_table_says_how_long_commits_stay() {
        assert_eq!(found(json!({}), &[]), Some(LOG_RETENTION));
        let day = json!({"delta.logRetentionDuration": "interval 1 day"});
        assert_eq!(found(day, &[]), Some(Duration::from_secs(24 * 60 * 60)));
        assert_eq!(found(json!({"delta.enableExpiredLogCleanup": "false"}), &[]), None);
        assert_eq!(found(json!({}), &["checkpointProtection"]), None);
    }

    /// The versions, and kinds of objects, that go when each object was written at ten times its version.
    fn gone(names: &[&str], cutoff_ms: i64) -> Vec<String> {
        let full = |name: &&str| match name.split_once('.') {
            Some((version, rest)) => (format!("{version:0>20}.{rest}"), version.parse::<i64>().unwrap() * 10),
            None => ((*name).to_owned(), 0),
        };
        let names: BTreeMap<String, i64> = names.iter().map(full).collect();
        let gone = expired(&names, cutoff_ms);
        gone.iter().map(|name| name.trim_start_matches('0').to_owned()).collect()
    }

    #[test]
    fn commits_go_up_to_the_last_checkpoint_that_every_young_version_can_be_read_from() {
        let log =
            ["1.json", "2.checkpoint.parquet", "2.json", "2.crc", "3.json", "4.checkpoint.parquet", "4.json", "5.json"];
        let before_4 = ["1.json", "2.checkpoint.parquet", "2.crc", "2.json", "3.json"];
        assert_eq!(gone(&log, 0), [""; 0]);
        assert_eq!(gone(&log, 30), ["1.json"], "version 3 is read from the checkpoint of 2");
        assert_eq!(gone(&log, 35), before_4, "version 4 has its own");
        assert_eq!(gone(&log, 1_000), before_4);
        assert_eq!(gone(&["1.json", "2.json", "3.json"], 1_000), [""; 0], "without a checkpoint all are needed");
        let first = "4.checkpoint.0000000001.0000000002.parquet";
        let second = "4.checkpoint.0000000002.0000000002.parquet";
        assert_eq!(gone(&["3.json", first, "4.json"], 1_000), [""; 0], "a part is not a checkpoint");
        assert_eq!(gone(&["3.json", first, second, "4.json"], 1_000), ["3.json"]);
        let foreign = "4.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet";
        assert_eq!(gone(&["3.json", foreign, "4.json", "5.checkpoint.parquet", "5.json"], 1_000), ["3.json", "4.json"]);
        assert_eq!(gone(&["3.json", "_last_checkpoint", "4.checkpoint.parquet"], 1_000), ["3.json"]);
    }
}
