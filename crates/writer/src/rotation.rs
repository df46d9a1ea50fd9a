//! Rotation: how many rows may still be appended to the open cut, and why it ends. Pure; the order of the rules is
//! upstream's (`TopicPartitionWriter.write`).

use std::collections::HashSet;
use std::sync::Arc;

use model::{CutReason, Importance, Invalid, Key, Kind, Settings, Width};

use crate::partition::{Placed, Split, is_of_tombstones, is_same_path, is_time_based};
use crate::zone::{TIMEZONE, Zone};

/// Records of a cut.
pub const FLUSH_SIZE: Key = Key::new(
    "flush.size",
    Kind::Int,
    "Records of a topic-partition, over all its open files together, after which they are closed. Below 1 means 1.",
)
.required()
.importance(Importance::High)
.group("Connector", 2)
.shown(Width::Long, "Flush Size");

/// Bytes of a cut.
pub const FLUSH_BYTES: Key = Key::new(
    "flush.bytes",
    Kind::Long,
    "Bytes of keys and values, as Kafka holds them, of a topic-partition after which its files are closed; -1 for no limit.",
)
.default("-1")
.ours()
.importance(Importance::Medium)
.group("Connector", 2)
.shown(Width::Long, "Flush Bytes");

/// Age of a cut.
pub const ROTATE_INTERVAL_MS: Key = Key::new(
    "rotate.interval.ms",
    Kind::Long,
    "Milliseconds of record time that the files of a topic-partition span at most (time based partitioners only), and that \
     they stay open by the wall clock, so that the last file of a quiet topic is closed; -1 for no limit.",
)
.default("-1")
.importance(Importance::High)
.group("Connector", 3)
.shown(Width::Medium, "Rotate Interval (ms)");

/// Schedule of cuts.
pub const ROTATE_SCHEDULE_INTERVAL_MS: Key = Key::new(
    "rotate.schedule.interval.ms",
    Kind::Long,
    "Files are closed whenever the wall clock passes a multiple of this many milliseconds since midnight in timezone; -1 for \
     no schedule.",
)
.default("-1")
.importance(Importance::Medium)
.group("Connector", 4)
.shown(Width::Medium, "Rotate Schedule Interval (ms)");

/// Whether another path ends the cut.
pub const ROTATE_FILE_ON_PARTITION_CHANGE: Key = Key::new(
    "rotate.file.on.partition.change",
    Kind::Boolean,
    "Whether rotate.interval.ms of a time based partitioner also closes the files when a record has another path than the \
     one before it.",
)
.default("true")
.group("S3", 29)
.shown(Width::Short, "Rotate files on partition change");

/// Open files of a cut.
pub const PARTITIONER_MAX_OPEN_FILES: Key = Key::new(
    "partitioner.max.open.files",
    Kind::Int,
    "Files of a topic-partition that are open at once at most; one more closes them all. -1 for no limit.",
)
.default("-1")
.group("", -1);

/// The keys that are declared here.
pub const KEYS: &[Key] = &[
    FLUSH_SIZE,
    FLUSH_BYTES,
    ROTATE_INTERVAL_MS,
    ROTATE_SCHEDULE_INTERVAL_MS,
    ROTATE_FILE_ON_PARTITION_CHANGE,
    PARTITIONER_MAX_OPEN_FILES,
];

/// The rules that end a cut.
#[derive(Debug, Clone)]
pub struct Rotation {
    records_max: u64,
    bytes_max: Option<u64>,
    /// How long files stay open by the wall clock.
    age_ms_max: Option<i64>,
    /// How much record time files span.
    span_ms_max: Option<i64>,
    on_partition_change: bool,
    schedule: Option<Schedule>,
    open_paths_max: Option<usize>,
    warning: Option<String>,
}

/// What may be done with the rows that were asked about: first append, then cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How many rows belong to the open cut.
    pub append: usize,
    /// Why the cut ends after them, if it does.
    pub cut: Option<CutReason>,
}

/// What rotation must know of the open cut of a lane.
#[derive(Debug, Clone, PartialEq)]
pub struct CutState {
    records: u64,
    bytes: u64,
    /// Wall clock of the first append.
    opened_ms: Option<i64>,
    /// Record time of the first row.
    first_time_ms: Option<i64>,
    /// Path of the last row.
    last_path: Option<Arc<str>>,
    /// Paths of all rows; `None` when nobody asks.
    open_paths: Option<HashSet<Arc<str>>>,
}

impl CutState {
    /// The state of a cut without rows.
    pub fn new(rotation: &Rotation) -> CutState {
        CutState {
            records: 0,
            bytes: 0,
            opened_ms: None,
            first_time_ms: None,
            last_path: None,
            open_paths: rotation.open_paths_max.map(|_| HashSet::new()),
        }
    }

    /// Records in the cut.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Input bytes in the cut.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Wall clock of the first append; `None` while there is no row.
    pub fn opened_ms(&self) -> Option<i64> {
        self.opened_ms
    }

    /// Takes note that the rows `from..from + count`, of `bytes` input bytes together, were appended at `now_ms`.
    pub fn appended(&mut self, placed: &Placed, from: usize, count: usize, bytes: u64, now_ms: i64) {
        if count == 0 {
            return;
        }
        self.records += count as u64;
        self.bytes = self.bytes.saturating_add(bytes);
        self.opened_ms.get_or_insert(now_ms);
        if let Some(times_ms) = &placed.times_ms {
            self.first_time_ms.get_or_insert(times_ms[from]);
        }
        self.last_path = Some(placed.path(from + count - 1).clone());
        let Some(open_paths) = &mut self.open_paths else {
            return;
        };
        match &placed.split {
            Split::One(path) => {
                open_paths.insert(path.clone());
            }
            Split::Many { paths, of_row } => {
                let mut last = None;
                for number in &of_row[from..from + count] {
                    if last.replace(*number) != Some(*number) {
                        open_paths.insert(paths[*number as usize].clone());
                    }
                }
            }
        }
    }

    /// Takes note that the cut ended and the next one has no row yet.
    pub fn reset(&mut self) {
        let open_paths = self.open_paths.take().map(|_| HashSet::new());
        *self = CutState { records: 0, bytes: 0, opened_ms: None, first_time_ms: None, last_path: None, open_paths };
    }
}

impl Rotation {
    /// Reads the keys of this file, `timezone` and `partitioner.class`.
    pub fn new(settings: &Settings) -> Result<Rotation, Invalid> {
        let limit = |key: &Key| settings.long(key).map(|value| Some(value).filter(|value| *value > 0));
        let interval_ms = limit(&ROTATE_INTERVAL_MS)?;
        let is_time_based = is_time_based(settings)?;
        let warning = "rotate.interval.ms counts no record time without a time based partitioner: it only closes files that \
                       were opened so long ago by the wall clock";
        Ok(Rotation {
            records_max: u64::try_from(settings.long(&FLUSH_SIZE)?).unwrap_or(0).max(1),
            bytes_max: limit(&FLUSH_BYTES)?.map(i64::unsigned_abs),
            age_ms_max: interval_ms,
            span_ms_max: interval_ms.filter(|_| is_time_based),
            on_partition_change: settings.boolean(&ROTATE_FILE_ON_PARTITION_CHANGE)?,
            schedule: match limit(&ROTATE_SCHEDULE_INTERVAL_MS)? {
                Some(interval_ms) => Some(Schedule::new(settings, interval_ms)?),
                None => None,
            },
            open_paths_max: limit(&PARTITIONER_MAX_OPEN_FILES)?.and_then(|most| usize::try_from(most).ok()),
            warning: (interval_ms.is_some() && !is_time_based).then(|| warning.to_owned()),
        })
    }

    /// What its keys alone cannot tell: a schedule without a time zone.
    pub fn check(settings: &Settings) -> Vec<Invalid> {
        match settings.long(&ROTATE_SCHEDULE_INTERVAL_MS) {
            Ok(interval_ms) if interval_ms > 0 => Schedule::new(settings, interval_ms).err().into_iter().collect(),
            // A value that is no number is reported for its key.
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// How many files of a topic-partition are open at once at most (`partitioner.max.open.files`).
    pub fn open_paths_max(&self) -> Option<usize> {
        self.open_paths_max
    }

    /// A combination of keys that works otherwise than its author may think; to be logged at start.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// How many of the rows `from..` may be appended at `now_ms`, and the cut after them if one is due. No row of `placed`
    /// is rejected any more ([`Placed::select`]); `input_bytes` has one number a row.
    pub fn verdict(&self, state: &CutState, placed: &Placed, input_bytes: &[u32], from: usize, now_ms: i64) -> Verdict {
        debug_assert!(placed.rejected.is_empty(), "rejected rows have no path to be appended to");
        let input_bytes = input_bytes.get(from..).unwrap_or_default();
        // Counts end a cut after a row; time, then open files, before the next: of two rules that end it at the same place
        // the one asked first wins, and each is asked only about rows that those before it let pass.
        let mut verdict = Verdict { append: input_bytes.len(), cut: None };
        verdict.narrow(self.rows_within_count(state, verdict.append), CutReason::RecordCount);
        verdict.narrow(self.rows_within_bytes(state, &input_bytes[..verdict.append]), CutReason::Bytes);
        if let Some((append, reason)) = self.rows_within_span(state, placed, from, verdict.append) {
            verdict.narrow(Some(append), reason);
        }
        if let Some(reason) = self.due(state, now_ms) {
            verdict.narrow(Some(0), reason);
        }
        verdict.narrow(self.rows_within_open_paths(state, placed, from, verdict.append), CutReason::OpenFiles);
        verdict
    }

    /// Whether the wall clock alone asks for a cut; never for a cut without rows.
    pub fn due(&self, state: &CutState, now_ms: i64) -> Option<CutReason> {
        let opened_ms = state.opened_ms?;
        if self.age_ms_max.is_some_and(|age_ms| now_ms >= opened_ms.saturating_add(age_ms)) {
            return Some(CutReason::WallClock);
        }
        let schedule = self.schedule.as_ref()?;
        (now_ms >= schedule.next_ms(opened_ms)).then_some(CutReason::Schedule)
    }

    /// The first instant at which [`Self::due`] says yes; `None` if it never does.
    pub fn next_due_ms(&self, state: &CutState) -> Option<i64> {
        let opened_ms = state.opened_ms?;
        let by_age = self.age_ms_max.map(|age_ms| opened_ms.saturating_add(age_ms));
        let by_schedule = self.schedule.as_ref().map(|schedule| schedule.next_ms(opened_ms));
        by_age.into_iter().chain(by_schedule).min()
    }

    /// `flush.size`: how many of `rows` rows fill the cut, if they do.
    fn rows_within_count(&self, state: &CutState, rows: usize) -> Option<usize> {
        let free = self.records_max.saturating_sub(state.records);
        usize::try_from(free).ok().filter(|free| *free <= rows)
    }

    /// `flush.bytes`: how many of the rows fill the cut, if they do.
    fn rows_within_bytes(&self, state: &CutState, input_bytes: &[u32]) -> Option<usize> {
        let bytes_max = self.bytes_max?;
        let mut bytes = state.bytes;
        if state.records > 0 && bytes >= bytes_max {
            return Some(0);
        }
        for (row, more) in input_bytes.iter().enumerate() {
            bytes = bytes.saturating_add(u64::from(*more));
            if bytes >= bytes_max {
                return Some(row + 1);
            }
        }
        None
    }

    /// `rotate.interval.ms` in record time: how many of `rows` rows come before the one that no longer belongs to the cut,
    /// if there is one. The first row of a cut always belongs to it; the difference is signed, so late rows do.
    fn rows_within_span(
        &self,
        state: &CutState,
        placed: &Placed,
        from: usize,
        rows: usize,
    ) -> Option<(usize, CutReason)> {
        let span_ms_max = self.span_ms_max?;
        let times_ms = placed.times_ms.as_ref()?.get(from..from + rows)?;
        let first_time_ms = state.first_time_ms.or_else(|| times_ms.first().copied())?;
        for (row, time_ms) in times_ms.iter().enumerate() {
            if time_ms.saturating_sub(first_time_ms) >= span_ms_max {
                return Some((row, CutReason::RecordTime));
            }
            let moved = match row {
                0 => state.last_path.as_ref().is_some_and(|last| is_other_path(last, placed.path(from))),
                _ => {
                    !placed.same_path(from + row - 1, from + row)
                        && is_other_path(placed.path(from + row - 1), placed.path(from + row))
                }
            };
            if moved && self.on_partition_change {
                return Some((row, CutReason::PartitionChange));
            }
        }
        None
    }

    /// `partitioner.max.open.files`: how many of `rows` rows come before the one that opens one file too many, if there is
    /// one.
    fn rows_within_open_paths(&self, state: &CutState, placed: &Placed, from: usize, rows: usize) -> Option<usize> {
        let open_paths_max = self.open_paths_max?;
        let open_paths = state.open_paths.as_ref()?;
        let (paths, of_row) = match &placed.split {
            Split::One(path) => {
                let is_too_many = rows > 0 && open_paths.len() >= open_paths_max && !open_paths.contains(path);
                return is_too_many.then_some(0);
            }
            Split::Many { paths, of_row } => (paths, of_row.get(from..from + rows)?),
        };
        let mut is_open: Vec<bool> = paths.iter().map(|path| open_paths.contains(path)).collect();
        let mut open = open_paths.len();
        for (row, number) in of_row.iter().enumerate() {
            let is_open = &mut is_open[*number as usize];
            if *is_open {
                continue;
            }
            if open >= open_paths_max {
                return Some(row);
            }
            *is_open = true;
            open += 1;
        }
        None
    }
}

/// Whether a row on `path` after one on `last` ends a cut. To tombstones and back does not.
fn is_other_path(last: &str, path: &str) -> bool {
    !is_same_path(last, path) && !is_of_tombstones(last) && !is_of_tombstones(path)
}

impl Verdict {
    /// Appends no more than `append` rows and cuts after them, unless the cut ends there or earlier already.
    fn narrow(&mut self, append: Option<usize>, reason: CutReason) {
        if let Some(append) = append
            && (append < self.append || self.cut.is_none())
        {
            *self = Verdict { append, cut: Some(reason) };
        }
    }
}

/// Instants that divide each day of a time zone, counted from its midnight.
#[derive(Debug, Clone)]
struct Schedule {
    interval_ms: i64,
    zone: Zone,
}

impl Schedule {
    fn new(settings: &Settings, interval_ms: i64) -> Result<Schedule, Invalid> {
        let id = settings.required_string(&TIMEZONE)?;
        if id.is_empty() {
            let message = "timezone configuration must be set when using rotate.schedule.interval.ms";
            return Err(Invalid::new(TIMEZONE.name, message));
        }
        let zone = Zone::new(&id).map_err(|error| Invalid::value(&TIMEZONE, &id, error))?;
        Ok(Schedule { interval_ms, zone })
    }

    /// The first of its instants after `after_ms` (upstream's `DateTimeUtils.getNextTimeAdjustedByDay`): the last one of a
    /// day is the next midnight, however long the day is.
    fn next_ms(&self, after_ms: i64) -> i64 {
        // A wall clock outside the years -9999 to 9999 has no days: then intervals count from the clock itself.
        let (start_ms, end_ms) = self.zone.day_ms(after_ms).unwrap_or((after_ms, i64::MAX));
        let passed = after_ms.saturating_sub(start_ms) / self.interval_ms;
        let next_ms = start_ms.saturating_add(passed.saturating_add(1).saturating_mul(self.interval_ms));
        next_ms.min(end_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use proptest::prelude::*;

    const HOUR_MS: i64 = 3_600_000;

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// Rows of a cut, and why it ended.
    type Ended = (usize, Option<CutReason>);

    fn rotation(pairs: Pairs<'_>) -> Rotation {
        let mut all = vec![("flush.size", "1000000"), ("timezone", "UTC"), ("locale", "en")];
        all.extend(pairs);
        Rotation::new(&settings(&all)).unwrap()
    }

    fn placed_rows(paths: &[&str], rows: &[(u32, i64)]) -> Placed {
        Placed {
            split: Split::Many {
                paths: paths.iter().map(|path| Arc::from(*path)).collect(),
                of_row: rows.iter().map(|(path, _)| *path).collect(),
            },
            times_ms: Some(rows.iter().map(|(_, time_ms)| *time_ms).collect()),
            rejected: Vec::new(),
        }
    }

    fn one(path: &str) -> Placed {
        Placed { split: Split::One(path.into()), times_ms: None, rejected: Vec::new() }
    }

    /// The cuts of a whole batch: how many rows each has, and why it ends; the last may be open.
    fn cuts(rotation: &Rotation, placed: &Placed, input_bytes: &[u32], now_ms: i64) -> Vec<Ended> {
        let mut state = CutState::new(rotation);
        let (mut from, mut cuts) = (0, Vec::new());
        while from < input_bytes.len() {
            let Verdict { append, cut } = rotation.verdict(&state, placed, input_bytes, from, now_ms);
            let bytes = input_bytes[from..from + append].iter().map(|bytes| u64::from(*bytes)).sum();
            state.appended(placed, from, append, bytes, now_ms);
            from += append;
            cuts.push((state.records() as usize, cut));
            state.reset();
        }
        cuts
    }

    #[test]
    fn counts_and_bytes_end_a_cut_after_a_row() {
        use CutReason::{Bytes, RecordCount};
        let placed = one("p");
        let cases: &[(Pairs<'_>, &[Ended])] = &[
            (&[("flush.size", "2")], &[(2, Some(RecordCount)), (2, Some(RecordCount)), (1, None)]),
            (&[("flush.size", "5")], &[(5, Some(RecordCount))]),
            (&[("flush.size", "6")], &[(5, None)]),
            (&[("flush.size", "0")], &[(1, Some(RecordCount)); 5]),
            (&[("flush.size", "-7")], &[(1, Some(RecordCount)); 5]),
            (&[("flush.bytes", "15")], &[(2, Some(Bytes)), (2, Some(Bytes)), (1, None)]),
            (&[("flush.bytes", "10")], &[(1, Some(Bytes)); 5]),
            (
                &[("flush.bytes", "20"), ("flush.size", "2")],
                &[(2, Some(RecordCount)), (2, Some(RecordCount)), (1, None)],
            ),
        ];
        for (pairs, expected) in cases {
            assert_eq!(&cuts(&rotation(pairs), &placed, &[10; 5], 0), expected, "{pairs:?}");
        }
    }

    #[test]
    fn flush_size_counts_over_all_paths_together() {
        let of_row: Vec<(u32, i64)> = (0..18).map(|row| (row % 3, 0)).collect();
        let placed = placed_rows(&["int=16", "int=17", "int=18"], &of_row);
        let rotation = rotation(&[("flush.size", "9"), ("partitioner.class", "field")]);
        let full = Some(CutReason::RecordCount);
        assert_eq!(cuts(&rotation, &placed, &[1; 18], 0), [(9, full), (9, full)]);
    }

    #[test]
    fn record_time_ends_a_cut_before_a_row() {
        use CutReason::{PartitionChange, RecordTime};
        let hourly = ("partitioner.class", "hourly");
        let interval = ("rotate.interval.ms", "1000");
        let stay = ("rotate.file.on.partition.change", "false");
        /// Settings, path and record time of each row, cuts.
        type Case<'a> = (Pairs<'a>, &'a [(u32, i64)], &'a [Ended]);
        let cases: &[Case<'_>] = &[
            (&[hourly, interval], &[(0, 0), (0, 999), (0, 1000), (0, 1999)], &[(2, Some(RecordTime)), (2, None)]),
            // Late rows never end it; the interval counts from the first row, not from the earliest.
            (&[hourly, interval], &[(0, 5000), (0, 10), (0, 5999), (0, 6000)], &[(3, Some(RecordTime)), (1, None)]),
            (
                &[hourly, interval],
                &[(0, 0), (1, 1), (0, 2), (0, 3)],
                &[(1, Some(PartitionChange)), (1, Some(PartitionChange)), (2, None)],
            ),
            // Of both, the interval is asked first.
            (&[hourly, interval], &[(0, 0), (1, 1000)], &[(1, Some(RecordTime)), (1, None)]),
            (&[hourly, interval, stay], &[(0, 0), (1, 1), (0, 2), (1, 3)], &[(4, None)]),
            (&[hourly], &[(0, 0), (1, 1), (0, 999_999)], &[(3, None)]),
            (&[("partitioner.class", "field"), interval], &[(0, 0), (1, 5000)], &[(2, None)]),
            (&[hourly, interval], &[(0, i64::MIN), (0, i64::MAX), (0, i64::MIN)], &[(1, Some(RecordTime)), (2, None)]),
        ];
        for (pairs, of_row, expected) in cases {
            let placed = placed_rows(&["a", "b"], of_row);
            assert_eq!(&cuts(&rotation(pairs), &placed, &vec![1; of_row.len()], 0), expected, "{of_row:?}");
        }
    }

    #[test]
    fn tombstones_are_no_other_path() {
        use CutReason::PartitionChange;
        let rotation = rotation(&[("partitioner.class", "hourly"), ("rotate.interval.ms", "1000")]);
        // A path that only holds the word is one like any.
        let placed =
            placed_rows(&["a", "\u{1}tombstone", "tombstone"], &[(0, 0), (1, 1), (0, 2), (1, 3), (2, 4), (0, 5)]);
        assert_eq!(cuts(&rotation, &placed, &[1; 6], 0), [(5, Some(PartitionChange)), (1, None)]);
        let mut state = CutState::new(&rotation);
        state.appended(&placed, 1, 1, 1, 0);
        assert_eq!(rotation.verdict(&state, &placed, &[1; 3], 2, 0), Verdict { append: 1, cut: None });
    }

    #[test]
    fn the_rules_go_on_over_batches() {
        let rotation = rotation(&[("partitioner.class", "hourly"), ("rotate.interval.ms", "1000")]);
        let mut state = CutState::new(&rotation);
        state.appended(&placed_rows(&["a"], &[(0, 100)]), 0, 1, 1, 0);
        let verdict = |row: (u32, i64)| rotation.verdict(&state, &placed_rows(&["b", "a"], &[row]), &[1], 0, 0);
        assert_eq!(verdict((1, 1099)), Verdict { append: 1, cut: None });
        assert_eq!(verdict((1, 1100)), Verdict { append: 0, cut: Some(CutReason::RecordTime) });
        assert_eq!(verdict((0, 200)), Verdict { append: 0, cut: Some(CutReason::PartitionChange) });
    }

    #[test]
    fn one_open_file_too_many_ends_a_cut_before_its_row() {
        let rotation = rotation(&[("partitioner.max.open.files", "2"), ("partitioner.class", "field")]);
        let placed = placed_rows(&["a", "b", "c"], &[(0, 0), (1, 0), (0, 0), (2, 0), (0, 0), (1, 0)]);
        let full = Some(CutReason::OpenFiles);
        assert_eq!(cuts(&rotation, &placed, &[1; 6], 0), [(3, full), (2, full), (1, None)]);

        let mut state = CutState::new(&rotation);
        state.appended(&placed, 0, 3, 3, 0);
        assert_eq!(rotation.verdict(&state, &one("a"), &[1, 1], 0, 0), Verdict { append: 2, cut: None });
        assert_eq!(rotation.verdict(&state, &one("d"), &[1, 1], 0, 0), Verdict { append: 0, cut: full });
        state.reset();
        assert_eq!(rotation.verdict(&state, &one("d"), &[1, 1], 0, 0), Verdict { append: 2, cut: None });
        assert_eq!(state, CutState::new(&rotation));
    }

    #[test]
    fn the_wall_clock_closes_files_of_a_quiet_topic() {
        let at = |time: &str| ms(&format!("2024-05-01T{time}Z"));
        let rotation = rotation(&[("rotate.interval.ms", "60000"), ("rotate.schedule.interval.ms", "20000")]);
        assert!(rotation.warning().is_some_and(|text| text.contains("rotate.interval.ms")));
        let mut state = CutState::new(&rotation);
        assert_eq!((rotation.due(&state, i64::MAX), rotation.next_due_ms(&state)), (None, None));
        state.appended(&one("p"), 0, 1, 1, at("10:00:05"));
        state.appended(&one("p"), 0, 1, 1, at("10:00:06"));
        assert_eq!(state.opened_ms(), Some(at("10:00:05")));
        assert_eq!(rotation.next_due_ms(&state), Some(at("10:00:20")));
        assert_eq!(rotation.due(&state, at("10:00:19")), None);
        assert_eq!(rotation.due(&state, at("10:00:20")), Some(CutReason::Schedule));
        assert_eq!(rotation.due(&state, at("10:01:05")), Some(CutReason::WallClock));
        let late = rotation.verdict(&state, &one("p"), &[1], 0, at("10:00:20"));
        assert_eq!(late, Verdict { append: 0, cut: Some(CutReason::Schedule) });
        let without_rows = rotation.verdict(&state, &one("p"), &[], 0, at("10:00:20"));
        assert_eq!(without_rows, Verdict { append: 0, cut: Some(CutReason::Schedule) });
        assert_eq!(rotation.due(&state, at("09:00:00")), None);
    }

    #[test]
    fn schedules_divide_the_days_of_their_zone() {
        let seven_hours = ["07:00", "14:00", "21:00", "00:00"];
        /// Zone, interval, local start, number of steps, local clock after each.
        type Case<'a> = (&'a str, i64, &'a str, usize, &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            ("UTC", 7 * HOUR_MS, "2024-05-01T00:00", 4, &seven_hours),
            ("America/Los_Angeles", 7 * HOUR_MS, "2024-05-01T00:00", 4, &seven_hours),
            ("UTC", 10 * 24 * HOUR_MS, "2024-05-01T00:00", 1, &["00:00"]),
            ("UTC", i64::MAX, "2024-05-01T00:00", 1, &["00:00"]),
            ("UTC", 20_000, "2024-05-01T23:59", 3, &["23:59", "23:59", "00:00"]),
            // 25 and 23 hours: the clock goes back or forward at two, and the slots are true hours.
            ("America/Los_Angeles", HOUR_MS, "2024-11-03T00:00", 4, &["01:00", "01:00", "02:00", "03:00"]),
            ("America/Los_Angeles", HOUR_MS, "2024-03-10T00:00", 3, &["01:00", "03:00", "04:00"]),
            ("America/Los_Angeles", 7 * HOUR_MS, "2024-11-03T00:00", 4, &["06:00", "13:00", "20:00", "00:00"]),
            ("America/Santiago", 7 * HOUR_MS, "2024-09-08T01:00", 4, &["08:00", "15:00", "22:00", "00:00"]),
        ];
        for (id, interval_ms, start, count, expected) in cases {
            let schedule = Schedule { interval_ms: *interval_ms, zone: Zone::new(id).unwrap() };
            let zone = jiff::tz::TimeZone::get(id).unwrap();
            let local = start.parse::<jiff::civil::DateTime>().unwrap().to_zoned(zone.clone()).unwrap();
            let mut now_ms = local.timestamp().as_millisecond();
            let mut clocks = Vec::new();
            for _ in 0..*count {
                now_ms = schedule.next_ms(now_ms);
                let local = jiff::Timestamp::from_millisecond(now_ms).unwrap().to_zoned(zone.clone());
                clocks.push(local.strftime("%H:%M").to_string());
            }
            assert_eq!(&clocks, expected, "{id} {interval_ms} {start}");
        }
    }

    #[test]
    fn a_day_of_25_hours_has_25_hourly_slots() {
        let schedule = Schedule { interval_ms: HOUR_MS, zone: Zone::new("America/Los_Angeles").unwrap() };
        let (mut now_ms, end_ms) = (ms("2024-11-03T07:00:00Z"), ms("2024-11-04T08:00:00Z"));
        let mut slots = 0;
        while now_ms < end_ms {
            now_ms = schedule.next_ms(now_ms);
            slots += 1;
        }
        assert_eq!((slots, now_ms), (25, end_ms));
    }

    #[test]
    fn bad_settings_are_refused_with_upstream_s_texts() {
        let base = ("flush.size", "3");
        let schedule = ("rotate.schedule.interval.ms", "20000");
        for (pairs, message) in [
            (&[][..], "Missing required configuration \"flush.size\" which has no default value."),
            (&[base, schedule], "timezone configuration must be set when using rotate.schedule.interval.ms"),
            (
                &[base, schedule, ("timezone", "X/Y")],
                "Invalid value X/Y for configuration timezone: The datetime zone id 'X/Y' is not recognised",
            ),
            (&[("flush.size", "many")], "Invalid value many for configuration flush.size: Not a number of type INT"),
        ] {
            let settings = settings(pairs);
            assert_eq!(Rotation::new(&settings).unwrap_err().message, message);
            let found = Rotation::check(&settings);
            assert_eq!(found.first().is_some_and(|problem| problem.message == message), pairs.contains(&schedule));
        }
    }

    prop_compose! {
        fn some_rotation()(
            size in 1..12i64,
            bytes in prop::sample::select(vec![-1i64, 25, 60]),
            interval in prop::sample::select(vec![-1i64, 10, 40]),
            schedule in prop::sample::select(vec![-1i64, 50]),
            stay in any::<bool>(),
            open in prop::sample::select(vec![-1i64, 1, 2, 3]),
        ) -> Rotation {
            let texts = [size, bytes, interval, schedule, open].map(|number| number.to_string());
            rotation(&[
                ("flush.size", &texts[0]),
                ("flush.bytes", &texts[1]),
                ("rotate.interval.ms", &texts[2]),
                ("rotate.schedule.interval.ms", &texts[3]),
                ("rotate.file.on.partition.change", if stay { "false" } else { "true" }),
                ("partitioner.max.open.files", &texts[4]),
                ("partitioner.class", "hourly"),
            ])
        }
    }

    prop_compose! {
        /// Rows of four paths, with record times and a wall clock that also go backwards.
        fn some_rows()(
            rows in prop::collection::vec((0u32..4, -30i64..60, 0u32..30), 1..60),
            clocks in prop::collection::vec(-40i64..200, 60),
        ) -> (Placed, Vec<u32>, Vec<i64>) {
            let of_row: Vec<_> = rows.iter().map(|(path, time_ms, _)| (*path, *time_ms)).collect();
            (placed_rows(&["a", "b", "c", "d"], &of_row), rows.iter().map(|row| row.2).collect(), clocks)
        }
    }

    /// The rules once more, one row at a time and with nothing cached.
    fn ends_before(
        rotation: &Rotation,
        cut: &[usize],
        row: usize,
        placed: &Placed,
        opened_ms: i64,
        now_ms: i64,
    ) -> bool {
        let Some(last) = cut.last() else { return false };
        let times_ms = placed.times_ms.as_ref().unwrap();
        let spans = rotation.span_ms_max.is_some_and(|span| {
            times_ms[row] - times_ms[cut[0]] >= span
                || (rotation.on_partition_change && placed.path(row) != placed.path(*last))
        });
        let paths: HashSet<_> = cut.iter().map(|row| placed.path(*row)).collect();
        let opens =
            !paths.contains(placed.path(row)) && rotation.open_paths_max.is_some_and(|most| paths.len() >= most);
        let old = rotation.age_ms_max.is_some_and(|age| now_ms - opened_ms >= age);
        let scheduled = rotation.schedule.as_ref().is_some_and(|schedule| now_ms >= schedule.next_ms(opened_ms));
        spans || opens || old || scheduled
    }

    fn ends_after(rotation: &Rotation, cut: &[usize], input_bytes: &[u32]) -> bool {
        let bytes: u64 = cut.iter().map(|row| u64::from(input_bytes[*row])).sum();
        cut.len() as u64 >= rotation.records_max || rotation.bytes_max.is_some_and(|most| bytes >= most)
    }

    proptest! {
        #[test]
        fn verdicts_in_bulk_are_the_rules_row_by_row(rotation in some_rotation(), data in some_rows(), piece in 1usize..20) {
            let (placed, input_bytes, clocks) = &data;
            let (mut state, mut cut, mut opened_ms) = (CutState::new(&rotation), Vec::new(), 0);
            let mut from = 0;
            // Each piece is a batch that comes at its own wall clock.
            while from < input_bytes.len() {
                let now_ms = clocks[from];
                let end = (from + piece).min(input_bytes.len());
                while from < end {
                    let verdict = rotation.verdict(&state, placed, &input_bytes[..end], from, now_ms);
                    prop_assert!(verdict.append > 0 || verdict.cut.is_some(), "no progress");
                    prop_assert!(verdict.cut.is_some() || from + verdict.append == end, "stopped without a reason");
                    for row in from..from + verdict.append {
                        prop_assert!(!ends_before(&rotation, &cut, row, placed, opened_ms, now_ms), "past a cut before {}", row);
                        if cut.is_empty() {
                            opened_ms = now_ms;
                        } else {
                            prop_assert!(!ends_after(&rotation, &cut, input_bytes), "past a cut after {}", row);
                        }
                        cut.push(row);
                    }
                    let bytes = input_bytes[from..from + verdict.append].iter().map(|bytes| u64::from(*bytes)).sum();
                    state.appended(placed, from, verdict.append, bytes, now_ms);
                    from += verdict.append;
                    let due = ends_after(&rotation, &cut, input_bytes)
                        || (from < end && ends_before(&rotation, &cut, from, placed, opened_ms, now_ms));
                    prop_assert_eq!(verdict.cut.is_some(), due);
                    prop_assert_eq!(state.records(), cut.len() as u64);
                    if verdict.cut.is_some() {
                        state.reset();
                        cut.clear();
                    }
                }
            }
        }

        #[test]
        fn no_cut_is_larger_than_its_rules_allow_and_none_loses_a_row(
            (size, most) in (1usize..12, 1u64..80),
            data in some_rows(),
        ) {
            let (placed, input_bytes, _) = &data;
            let rotation = rotation(&[("flush.size", &size.to_string()), ("flush.bytes", &most.to_string())]);
            let mut from = 0;
            for (rows, reason) in cuts(&rotation, placed, input_bytes, 0) {
                let bytes: Vec<u64> = input_bytes[from..from + rows].iter().map(|bytes| u64::from(*bytes)).collect();
                prop_assert!(rows > 0 && rows <= size);
                prop_assert!(bytes[..rows - 1].iter().sum::<u64>() < most, "it is over flush.bytes by less than its last row");
                prop_assert_eq!(reason.is_some(), rows == size || bytes.iter().sum::<u64>() >= most);
                from += rows;
            }
            prop_assert_eq!(from, input_bytes.len());
        }

        #[test]
        fn what_is_due_stays_due_while_the_clock_goes_on(
            rotation in some_rotation(),
            opened_ms in 0i64..1_000_000,
            (now_ms, later_ms) in (0i64..1_000, 0i64..1_000),
        ) {
            let mut state = CutState::new(&rotation);
            state.appended(&one("a"), 0, 1, 1, opened_ms);
            if rotation.due(&state, opened_ms + now_ms).is_some() {
                prop_assert!(rotation.due(&state, opened_ms + now_ms + later_ms).is_some());
            }
        }

        #[test]
        fn boundaries_of_a_schedule_divide_days_and_come_in_order(
            zone in prop::sample::select(vec!["UTC", "America/Los_Angeles", "Asia/Kathmandu", "Australia/Lord_Howe"]),
            interval_ms in prop::sample::select(vec![1, 20_000, 90_000, HOUR_MS, 7 * HOUR_MS, 30 * HOUR_MS]),
            // Two years, clock changes and all.
            (after_ms, gap_ms) in (1_700_000_000_000i64..1_763_000_000_000, 0i64..(3 * HOUR_MS)),
        ) {
            let schedule = Schedule { interval_ms, zone: Zone::new(zone).unwrap() };
            let next_ms = schedule.next_ms(after_ms);
            prop_assert!(next_ms > after_ms && next_ms - after_ms <= interval_ms);
            prop_assert!(schedule.next_ms(after_ms + gap_ms) >= next_ms, "a later start never has an earlier end");
            if after_ms + gap_ms < next_ms {
                prop_assert_eq!(schedule.next_ms(after_ms + gap_ms), next_ms, "one boundary for all instants before it");
            }
            let (start_ms, end_ms) = schedule.zone.day_ms(after_ms).unwrap();
            prop_assert!(next_ms == end_ms || (next_ms < end_ms && (next_ms - start_ms) % interval_ms == 0));
        }

        #[test]
        fn the_timer_rings_when_the_clock_asks_and_not_before(rotation in some_rotation(), opened_ms in 0i64..1_000_000) {
            let mut state = CutState::new(&rotation);
            state.appended(&one("a"), 0, 1, 1, opened_ms);
            match rotation.next_due_ms(&state) {
                Some(due_ms) => {
                    prop_assert!(due_ms > opened_ms);
                    prop_assert!(rotation.due(&state, due_ms).is_some() && rotation.due(&state, due_ms - 1).is_none());
                }
                None => prop_assert!(rotation.due(&state, i64::MAX).is_none()),
            }
        }

        #[test]
        fn no_clock_and_no_record_time_panics(
            times in prop::collection::vec(any::<i64>(), 1..20),
            clocks in prop::collection::vec(any::<i64>(), 20),
        ) {
            let rotation = rotation(&[
                ("partitioner.class", "hourly"),
                ("rotate.interval.ms", "9223372036854775807"),
                ("rotate.schedule.interval.ms", "9223372036854775807"),
            ]);
            let of_row: Vec<_> = times.iter().map(|time_ms| (0, *time_ms)).collect();
            let placed = placed_rows(&["a"], &of_row);
            let mut state = CutState::new(&rotation);
            for row in 0..times.len() {
                let verdict = rotation.verdict(&state, &placed, &vec![1; row + 1], row, clocks[row]);
                state.appended(&placed, row, verdict.append, 1, clocks[row]);
                let _ = (rotation.due(&state, clocks[19 - row]), rotation.next_due_ms(&state));
            }
        }
    }
}
