//! Which small files become one. Pure.
//!
//! Files of one partition are sorted into tiers by size, each [`FAN`] times as wide as the one below; a tier is merged when it
//! has [`FAN`] files. What comes out lies in a higher tier, so a byte is written once for each tier that it passes: three to
//! five times from files of kilobytes to files of 128 MiB. What a partition has left when nothing comes any more, fewer than
//! [`FAN`] files in each tier, is merged once.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Files of one tier that are merged, and how much larger those of the next are.
const FAN: usize = 16;

/// Files that are merged at once, at most.
const GROUP_FILES_MAX: usize = 1_000;

/// Small files that are held in memory, at most.
const HELD_MAX: usize = 100_000;

/// A partition that got no file for so long has got all of them.
const QUIET_MS: i64 = 24 * 60 * 60 * 1_000;

/// For each partition column its value as text.
pub(crate) type PartitionValues = BTreeMap<String, Option<String>>;

/// A file of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveFile {
    /// As it stands in the log.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was written, in milliseconds.
    pub(crate) modified_ms: i64,
    /// Where it lies.
    pub(crate) partition_values: PartitionValues,
}

/// Files that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The values that they share.
    pub(crate) partition_values: PartitionValues,
    /// The oldest first.
    pub(crate) files: Vec<Small>,
}

/// A small file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Small {
    /// As it stands in the log.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    modified_ms: i64,
}

/// What is worth a merge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// Bytes of a merged file, at most; half of it is not small any more.
    pub(crate) target_bytes: u64,
    /// The wall clock, in milliseconds.
    pub(crate) now_ms: i64,
    /// Files that are younger are left alone.
    pub(crate) min_age_ms: i64,
}

#[derive(Debug, Default)]
struct Partition {
    small: Vec<Small>,
    /// When the last file came, of any size.
    newest_ms: i64,
}

/// Takes the files of a table one by one.
#[derive(Debug)]
pub(crate) struct Planner {
    policy: Policy,
    /// Where there are too many small files to hold, a share of the partitions is looked at: those of one of so many classes.
    class: u64,
    classes: u64,
    partitions: BTreeMap<PartitionValues, Partition>,
    held: usize,
    /// Not all small files were held.
    pub(crate) is_over: bool,
    /// Files of the table.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

fn tier(size: u64) -> u32 {
    size.max(1).ilog(FAN as u64)
}

impl Planner {
    /// A planner that looks at the partitions of one of `classes`; which one goes around with `round`.
    pub(crate) fn new(policy: Policy, round: u64, classes: u64) -> Planner {
        let classes = classes.max(1);
        let (partitions, class) = (BTreeMap::new(), round % classes);
        Planner { policy, class, classes, partitions, held: 0, is_over: false, files: 0, bytes: 0 }
    }

    pub(crate) fn add(&mut self, file: LiveFile, may_be_merged: bool) {
        self.files += 1;
        self.bytes += file.size;
        let LiveFile { path, size, modified_ms, partition_values } = file;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&partition_values);
        if hash % self.classes != self.class {
            return;
        }
        let is_small = may_be_merged && size < self.policy.target_bytes / 2;
        if is_small && self.held == HELD_MAX {
            self.is_over = true;
            return;
        }
        if !is_small && !self.partitions.contains_key(&partition_values) {
            return;
        }
        let partition = self.partitions.entry(partition_values).or_default();
        partition.newest_ms = partition.newest_ms.max(modified_ms);
        if is_small {
            self.held += 1;
            partition.small.push(Small { path, size, modified_ms });
        }
    }

    /// What is to be merged, the most files first.
    pub(crate) fn groups(self) -> Vec<Group> {
        let Policy { target_bytes, now_ms, min_age_ms } = self.policy;
        let mut groups = Vec::new();
        for (partition_values, Partition { mut small, newest_ms }) in self.partitions {
            let is_quiet = newest_ms < now_ms.saturating_sub(QUIET_MS);
            small.retain(|file| file.modified_ms <= now_ms.saturating_sub(min_age_ms));
            small.sort_by(|one, other| (one.modified_ms, &one.path).cmp(&(other.modified_ms, &other.path)));
            let mut tiers: BTreeMap<u32, Vec<Small>> = BTreeMap::new();
            for file in small {
                tiers.entry(if is_quiet { 0 } else { tier(file.size) }).or_default().push(file);
            }
            for files in tiers.into_values() {
                let filled = fill(files, target_bytes).into_iter().filter(|files| {
                    let bytes: u64 = files.iter().map(|file| file.size).sum();
                    let is_due = is_quiet || files.len() >= FAN || bytes >= target_bytes / 2;
                    is_due && files.len() > 1
                });
                groups.extend(filled.map(|files| Group { partition_values: partition_values.clone(), files }));
            }
        }
        groups.sort_by_key(|group| std::cmp::Reverse(group.files.len()));
        groups
    }
}

/// Files in order, as many together as make a merged file.
fn fill(files: Vec<Small>, target_bytes: u64) -> Vec<Vec<Small>> {
    let (mut filled, mut bytes): (Vec<Vec<Small>>, u64) = (Vec::new(), 0);
    for file in files {
        match filled.last_mut() {
            Some(last) if bytes + file.size <= target_bytes && last.len() < GROUP_FILES_MAX => {
                bytes += file.size;
                last.push(file);
            }
            Some(_) | None => {
                bytes = file.size;
                filled.push(vec![file]);
            }
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = QUIET_MS;
    const POLICY: Policy = Policy { target_bytes: 128 << 20, now_ms: 10 * DAY, min_age_ms: 60_000 };

    fn file(number: usize, size: u64, age_ms: i64, partition: &str) -> LiveFile {
        let partition_values = [("p".to_owned(), Some(partition.to_owned()))].into();
        LiveFile { path: format!("{number}"), size, modified_ms: POLICY.now_ms - age_ms, partition_values }
    }

    /// Files and partition of each group.
    fn groups(files: impl IntoIterator<Item = LiveFile>) -> Vec<(usize, String)> {
        let mut planner = Planner::new(POLICY, 0, 1);
        files.into_iter().for_each(|file| planner.add(file, true));
        let named = |group: Group| (group.files.len(), group.partition_values["p"].clone().unwrap());
        planner.groups().into_iter().map(named).collect()
    }

    #[test]
    fn files_of_one_partition_and_tier_are_merged_when_they_are_many_or_large_enough() {
        let some = |count: usize, size: u64, partition: &'static str| {
            (0..count).map(move |number| file(number, size, 3_600_000, partition))
        };
        assert_eq!(groups(some(15, 10_000, "a")), []);
        assert_eq!(groups(some(16, 10_000, "a")), [(16, "a".to_owned())]);
        assert_eq!(groups(some(15, 10_000, "a").chain(some(15, 10_000, "b"))), [], "of one partition");
        assert_eq!(groups(some(15, 10_000, "a").chain(some(15, 1 << 20, "a"))), [], "of one tier");
        assert_eq!(groups(some(2, 40 << 20, "a")), [(2, "a".to_owned())], "together they are large");
        assert_eq!(groups(some(9, 40 << 20, "a")), vec![(3, "a".to_owned()); 3], "up to the size of a large one");
        assert_eq!(groups(some(100, 64 << 20, "a")), [], "large ones are left alone");
        let young = (0..100).map(|number| file(number, 10_000, 59_000, "a"));
        assert_eq!(groups(young), [], "and so are young ones");
        assert_eq!(
            groups(some(2_500, 100, "a")),
            [(1_000, "a".to_owned()), (1_000, "a".to_owned()), (500, "a".to_owned())]
        );
    }

    #[test]
    fn what_a_partition_has_left_is_merged_once_when_nothing_comes_any_more() {
        let old = |number, size| file(number, size, 2 * DAY, "a");
        assert_eq!(groups([old(0, 10), old(1, 1 << 20)]), [(2, "a".to_owned())]);
        assert_eq!(groups([old(0, 10)]), [], "one file is one file");
        assert_eq!(groups([old(0, 10), old(1, 1 << 20), file(2, 100, DAY / 2, "a")]), [], "something came");
        assert_eq!(groups([old(0, 10), old(1, 1 << 20), file(2, 1 << 30, DAY / 2, "a")]), [], "something large came");
    }

    #[test]
    fn where_small_files_are_too_many_to_hold_all_partitions_have_their_turn() {
        let mut merged = Vec::new();
        for round in 0..4 {
            let mut planner = Planner::new(POLICY, round, 4);
            for number in 0..16 * 20 {
                planner.add(file(number, 10_000, 3_600_000, &(number % 20).to_string()), true);
            }
            assert_eq!(planner.files, 320, "all are counted");
            merged.extend(planner.groups().into_iter().map(|group| group.partition_values));
        }
        merged.sort();
        assert_eq!(merged.len(), 20);
        merged.dedup();
        assert_eq!(merged.len(), 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// A table that gets `rate` files a round: how many it has in the end, and how often each byte is written.
        #[test]
        fn few_files_are_left_and_few_bytes_are_written_again(rate in 1u64..100, size in 500u64..50_000_000) {
            let (mut small, mut large, mut written): (Vec<(u64, i64)>, Vec<u64>, u64) = (Vec::new(), Vec::new(), 0);
            let rounds = 150i64;
            for round in 0..rounds {
                let now_ms = round * 60_000;
                let mut planner = Planner::new(Policy { now_ms, ..POLICY }, 0, 1);
                for (number, (size, modified_ms)) in small.iter().enumerate() {
                    let (path, partition_values) = (number.to_string(), PartitionValues::new());
                    planner.add(LiveFile { path, size: *size, modified_ms: *modified_ms, partition_values }, true);
                }
                let groups = planner.groups();
                let merged = groups.iter().flat_map(|group| &group.files).map(|file| file.path.parse().unwrap());
                let merged: std::collections::BTreeSet<usize> = merged.collect();
                let mut number = 0..;
                small.retain(|_| number.next().is_none_or(|number| !merged.contains(&number)));
                for size in groups.iter().map(|group| group.files.iter().map(|file| file.size).sum::<u64>()) {
                    written += size;
                    if size < POLICY.target_bytes / 2 { small.push((size, now_ms)) } else { large.push(size) }
                }
                small.extend((0..rate).map(|_| (size, now_ms)));
            }
            let appended = size * rate * rounds.unsigned_abs();
            prop_assert!(small.len() as u64 <= 6 * FAN as u64 + 3 * rate, "{} small files", small.len());
            prop_assert!(written <= 5 * appended, "each byte was written {} times again", written / appended);
            prop_assert!(large.iter().all(|size| *size <= POLICY.target_bytes));
        }
    }
}
