//! The time based partitioners: the time of a record, cut down to a multiple of a duration, printed by a Joda pattern.

use std::sync::Arc;

use model::{Batch, Importance, Invalid, Key, Kind, Plugin, Rejected, Settings, Stage, Width};

use super::{BuildPartitioner, Partitioner, Placed, SplitBuilder, complete, encode_odd_segments};
use crate::joda::Format;
use crate::layout::{DIRECTORY_DELIM, without_empty_segments};
use crate::timestamp::{KEYS as EXTRACTOR_KEYS, TimestampExtractor, extractor_plugin};
use crate::zone::{KEYS as ZONE_KEYS, Segment, TIMEZONE, Zone};

/// How much time one path covers.
pub const PARTITION_DURATION_MS: Key = Key::new(
    "partition.duration.ms",
    Kind::Long,
    "Milliseconds that record times are cut down to a multiple of, in local time, before path.format prints them \
     (time-based only; hourly and daily have their own).",
)
.default("-1")
.importance(Importance::Medium)
.group("Partitioner", 3)
.shown(Width::Long, "Partition Duration (ms)");

/// How a time becomes a path.
pub const PATH_FORMAT: Key = Key::new(
    "path.format",
    Kind::String,
    "Joda pattern that prints the path of a time, such as 'year'=YYYY/'month'=MM/'day'=dd (time-based only; hourly and \
     daily have their own).",
)
.default("")
.importance(Importance::Medium)
.group("Partitioner", 4)
.shown(Width::Long, "Path Format");

/// Language of texts in paths.
pub const LOCALE: Key = Key::new(
    "locale",
    Kind::String,
    "Language of month and day names in time based paths, required by them. Names are English whatever it says.",
)
.default("")
.importance(Importance::Medium)
.group("Partitioner", 5)
.shown(Width::Long, "Locale");

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

pub(super) const TIME_BASED: Plugin<BuildPartitioner> = Plugin {
    names: &["time-based", "io.confluent.connect.storage.partitioner.TimeBasedPartitioner"],
    doc: "One directory for each stretch of partition.duration.ms, named by path.format.",
    keys: &[&[PARTITION_DURATION_MS, PATH_FORMAT, LOCALE], ZONE_KEYS, EXTRACTOR_KEYS],
    check: |settings| check(settings, duration_ms(settings), path_format(settings)),
    build: |settings| {
        complete(settings, Box::new(TimePartitioner::new(settings, duration_ms(settings)?, path_format(settings)?)?))
    },
};

pub(super) const HOURLY: Plugin<BuildPartitioner> = Plugin {
    names: &["hourly", "io.confluent.connect.storage.partitioner.HourlyPartitioner"],
    doc: "One directory for each hour: year=YYYY/month=MM/day=dd/hour=HH.",
    keys: &[&[LOCALE], ZONE_KEYS, EXTRACTOR_KEYS],
    check: |settings| check(settings, Ok(HOUR_MS), hourly_format(settings)),
    build: |settings| complete(settings, Box::new(TimePartitioner::new(settings, HOUR_MS, hourly_format(settings)?)?)),
};

pub(super) const DAILY: Plugin<BuildPartitioner> = Plugin {
    names: &["daily", "io.confluent.connect.storage.partitioner.DailyPartitioner"],
    doc: "One directory for each day: year=YYYY/month=MM/day=dd.",
    keys: &[&[LOCALE], ZONE_KEYS, EXTRACTOR_KEYS],
    check: |settings| check(settings, Ok(DAY_MS), daily_format(settings)),
    build: |settings| complete(settings, Box::new(TimePartitioner::new(settings, DAY_MS, daily_format(settings)?)?)),
};

/// Everything that is wrong, not only the first.
fn check(settings: &Settings, duration: Result<i64, Invalid>, format: Result<Format, Invalid>) -> Vec<Invalid> {
    let mut problems = Vec::new();
    problems.extend(duration.err());
    problems.extend(format.err());
    problems.extend(locale(settings).err());
    problems.extend(zone(settings).err());
    match extractor_plugin(settings) {
        Ok(plugin) => problems.extend((plugin.check)(settings)),
        Err(problem) => problems.push(problem),
    }
    problems
}

fn duration_ms(settings: &Settings) -> Result<i64, Invalid> {
    let duration_ms = settings.long(&PARTITION_DURATION_MS)?;
    if duration_ms > 0 {
        return Ok(duration_ms);
    }
    let why = "Partition duration needs to be a positive.";
    Err(Invalid::value(&PARTITION_DURATION_MS, &duration_ms.to_string(), why))
}

fn path_format(settings: &Settings) -> Result<Format, Invalid> {
    let pattern = settings.required_string(&PATH_FORMAT)?;
    let delimiter = settings.required_string(&DIRECTORY_DELIM)?;
    if pattern.is_empty() || pattern == delimiter {
        return Err(Invalid::value(&PATH_FORMAT, &pattern, "Path format cannot be empty."));
    }
    let without_end = if delimiter.is_empty() { None } else { pattern.strip_suffix(delimiter.as_str()) };
    let format =
        Format::new(without_end.unwrap_or(&pattern)).map_err(|error| Invalid::value(&PATH_FORMAT, &pattern, error))?;
    let mut sample = String::new();
    let prints = format.print(0, &Zone::utc(), &mut sample).is_some() && !without_empty_segments(&sample).is_empty();
    if prints { Ok(format) } else { Err(Invalid::value(&PATH_FORMAT, &pattern, "Path format cannot be empty.")) }
}

fn hourly_format(settings: &Settings) -> Result<Format, Invalid> {
    built_in_format(settings, &["'year'=YYYY", "'month'=MM", "'day'=dd", "'hour'=HH"])
}

fn daily_format(settings: &Settings) -> Result<Format, Invalid> {
    built_in_format(settings, &["'year'=YYYY", "'month'=MM", "'day'=dd"])
}

/// Upstream puts the delimiter into the pattern unquoted, so a delimiter with letters is part of the pattern here too.
fn built_in_format(settings: &Settings, parts: &[&str]) -> Result<Format, Invalid> {
    let delimiter = settings.required_string(&DIRECTORY_DELIM)?;
    Format::new(&parts.join(&delimiter)).map_err(|error| Invalid::value(&DIRECTORY_DELIM, &delimiter, error))
}

fn locale(settings: &Settings) -> Result<(), Invalid> {
    let locale = settings.required_string(&LOCALE)?;
    if locale.is_empty() { Err(Invalid::value(&LOCALE, &locale, "Locale cannot be empty.")) } else { Ok(()) }
}

fn zone(settings: &Settings) -> Result<Zone, Invalid> {
    let id = settings.required_string(&TIMEZONE)?;
    if id.is_empty() {
        return Err(Invalid::value(&TIMEZONE, &id, "Timezone cannot be empty."));
    }
    Zone::new(&id).map_err(|error| Invalid::value(&TIMEZONE, &id, error))
}

/// A stretch of time in which all instants have one path.
#[derive(Debug, Clone)]
struct Bucket {
    start_ms: i64,
    end_ms: i64,
    path: Arc<str>,
}

impl Bucket {
    fn contains(&self, at_ms: i64) -> bool {
        self.start_ms <= at_ms && at_ms < self.end_ms
    }
}

/// How time is cut up and printed.
struct Buckets {
    duration_ms: i64,
    format: Format,
    zone: Zone,
}

impl Buckets {
    /// The bucket of `at_ms`; `None` outside the years -9999 to 9999. Local time is cut down towards the epoch as
    /// upstream's integer division does, so the bucket around the local epoch has twice the length.
    fn bucket(&self, at_ms: i64, segment: &Segment) -> Option<Bucket> {
        let local_ms = at_ms.checked_add(segment.offset_ms)?;
        let truncated_ms = local_ms / self.duration_ms * self.duration_ms;
        let first_local_ms =
            if truncated_ms <= 0 { truncated_ms.saturating_sub(self.duration_ms - 1) } else { truncated_ms };
        let end_local_ms =
            if truncated_ms < 0 { truncated_ms + 1 } else { truncated_ms.saturating_add(self.duration_ms) };
        let mut path = String::new();
        self.format.print(self.zone.local_to_utc_ms(truncated_ms)?, &self.zone, &mut path)?;
        Some(Bucket {
            start_ms: first_local_ms.saturating_sub(segment.offset_ms).max(segment.start_ms),
            end_ms: end_local_ms.saturating_sub(segment.offset_ms).min(segment.end_ms),
            path: encode_odd_segments(&without_empty_segments(&path)).into(),
        })
    }
}

/// As many recent buckets are kept, so that records that go back and forth between a few of them cost no printing.
const RECENT_BUCKETS_MAX: usize = 16;

/// As far (in buckets) the next change of the printed path is looked for: a day of minutes.
const BOUND_BUCKETS_MAX: usize = 1_440;

pub(super) struct TimePartitioner {
    buckets: Buckets,
    extractor: Box<dyn TimestampExtractor>,
    /// The bucket that was used last is the first.
    recent: Vec<Bucket>,
    segment: Option<Segment>,
}

impl TimePartitioner {
    fn new(settings: &Settings, duration_ms: i64, format: Format) -> Result<Self, Invalid> {
        locale(settings)?;
        let extractor = (extractor_plugin(settings)?.build)(settings)?;
        Ok(Self::with(duration_ms, format, zone(settings)?, extractor))
    }

    pub(super) fn with(duration_ms: i64, format: Format, zone: Zone, extractor: Box<dyn TimestampExtractor>) -> Self {
        Self { buckets: Buckets { duration_ms, format, zone }, extractor, recent: Vec::new(), segment: None }
    }

    /// The bucket of `at_ms`, from the recent ones if it is there; it becomes the first of them.
    fn bucket(&mut self, at_ms: i64) -> Option<&Bucket> {
        match self.recent.iter().position(|bucket| bucket.contains(at_ms)) {
            Some(place) => self.recent[..=place].rotate_right(1),
            None => {
                let segment = match self.segment.filter(|segment| segment.contains(at_ms)) {
                    Some(segment) => segment,
                    None => *self.segment.insert(self.buckets.zone.segment(at_ms)?),
                };
                let bucket = self.buckets.bucket(at_ms, &segment)?;
                self.recent.truncate(RECENT_BUCKETS_MAX - 1);
                self.recent.insert(0, bucket);
            }
        }
        self.recent.first()
    }
}

impl Partitioner for TimePartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        let times = self.extractor.extract(batch, clock_ms);
        let mut split = SplitBuilder::with_capacity(batch.len());
        let mut without_time = times.rejected.into_iter().peekable();
        let mut rejected = Vec::new();
        // The stretch that the last row lies in, and the number of its path.
        let (mut start_ms, mut end_ms, mut number) = (0, 0, 0);
        for (row, at_ms) in times.ms.iter().enumerate() {
            if let Some(one) = without_time.next_if(|one| one.row == row) {
                rejected.push(one);
                split.push_rejected();
                continue;
            }
            if !(start_ms <= *at_ms && *at_ms < end_ms) {
                let Some(bucket) = self.bucket(*at_ms) else {
                    let reason = format!("time {at_ms} ms is outside the years -9999 to 9999: are these milliseconds?");
                    rejected.push(Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason });
                    split.push_rejected();
                    continue;
                };
                (start_ms, end_ms) = (bucket.start_ms, bucket.end_ms);
                number = split.number(&bucket.path);
            }
            split.push(number);
        }
        Placed { split: split.finish(), times_ms: Some(times.ms), rejected }
    }

    fn wall_clock_bound_ms(&self, clock_ms: i64) -> Option<i64> {
        if !self.extractor.follows_wall_clock() {
            return None;
        }
        let bucket_at = |at_ms: i64| self.buckets.bucket(at_ms, &self.buckets.zone.segment(at_ms)?);
        let first = bucket_at(clock_ms)?;
        let mut bound_ms = first.end_ms;
        for _ in 0..BOUND_BUCKETS_MAX {
            match bucket_at(bound_ms) {
                Some(next) if next.path == first.path => bound_ms = next.end_ms,
                Some(_) | None => break,
            }
        }
        Some(bound_ms)
    }

    fn reads_values(&self) -> bool {
        self.extractor.reads_values()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Split, partitioner_plugin};
    use super::*;
    use crate::testing::{settings, timed};
    use arrow::array::{ArrayRef, StringArray};
    use proptest::prelude::*;

    fn ms(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    fn with(pairs: &[(&str, &str)]) -> Settings {
        let mut config =
            settings(&[("locale", "en"), ("timezone", "UTC"), ("timestamp.extractor", "Record")]).config().clone();
        config.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Settings::new(config)
    }

    fn build(pairs: &[(&str, &str)]) -> Box<dyn Partitioner> {
        let settings = with(pairs);
        let plugin = partitioner_plugin(&settings).unwrap();
        assert_eq!((plugin.check)(&settings), []);
        (plugin.build)(&settings).unwrap()
    }

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    const LOS_ANGELES: (&str, &str) = ("timezone", "America/Los_Angeles");
    const SANTIAGO: (&str, &str) = ("timezone", "America/Santiago");

    #[test]
    fn upstream_s_times_have_upstream_s_paths() {
        let hourly = ("partitioner.class", "io.confluent.connect.storage.partitioner.HourlyPartitioner");
        let daily = ("partitioner.class", "DailyPartitioner");
        let field = ("timestamp.extractor", "RecordField");
        let two_hours = [
            ("partitioner.class", "TimeBasedPartitioner"),
            ("partition.duration.ms", "7200000"),
            ("path.format", "'year'=YYYY/'month'=M/'day'=d/'hour'=H/"),
            LOS_ANGELES,
        ];
        let base = [
            ("partitioner.class", "time-based"),
            ("partition.duration.ms", "3600000"),
            ("path.format", "'year'=YYYY_'month'=MM_'day'=dd_'hour'=HH"),
            LOS_ANGELES,
        ];
        let coarse = [
            ("partitioner.class", "time-based"),
            ("partition.duration.ms", "60000"),
            ("path.format", "//YYYY//MM"),
            LOS_ANGELES,
        ];
        let cases: &[(Pairs<'_>, &str, &str)] = &[
            (&[hourly, LOS_ANGELES], "2017-03-02T10:00:00-08:00", "year=2017/month=03/day=02/hour=10"),
            (&[daily, LOS_ANGELES], "2014-02-01T03:00:00-08:00", "year=2014/month=02/day=01"),
            (&[hourly, SANTIAGO], "2024-05-09T03:17:33Z", "year=2024/month=05/day=08/hour=23"),
            (&[hourly, SANTIAGO], "2024-01-28T03:17:33Z", "year=2024/month=01/day=28/hour=00"),
            (&two_hours, "2015-04-02T01:00:00-07:00", "year=2015/month=4/day=2/hour=0"),
            (&base, "2015-04-02T01:00:00-07:00", "year=2015_month=04_day=02_hour=01"),
            (&coarse, "2015-04-02T01:00:00-07:00", "2015/04"),
            (&[hourly, ("directory.delim", "_")], "2015-04-02T01:00:00Z", "year=2015_month=04_day=02_hour=01"),
            // Midnight does not exist in Santiago on 2024-09-08, two o'clock not in Los Angeles on 2024-03-10.
            (&[daily, SANTIAGO], "2024-09-08T12:00:00Z", "year=2024/month=09/day=08"),
            (&[hourly, SANTIAGO], "2024-09-08T04:30:00Z", "year=2024/month=09/day=08/hour=01"),
            (&[hourly, LOS_ANGELES], "2024-03-10T10:30:00Z", "year=2024/month=03/day=10/hour=03"),
            (&two_hours, "2024-03-10T10:30:00Z", "year=2024/month=3/day=10/hour=3"),
            // One o'clock comes twice in Los Angeles on 2024-11-03.
            (&[hourly, LOS_ANGELES], "2024-11-03T08:30:00Z", "year=2024/month=11/day=03/hour=01"),
            (&[hourly, LOS_ANGELES], "2024-11-03T09:30:00Z", "year=2024/month=11/day=03/hour=01"),
            // Before the epoch, time is cut down towards it.
            (&[hourly, field], "1969-12-31T23:30:00Z", "year=1970/month=01/day=01/hour=00"),
            (&[hourly, field], "1969-12-31T22:30:00Z", "year=1969/month=12/day=31/hour=23"),
        ];
        for (pairs, at, expected) in cases {
            let placed = build(pairs).split(&timed(&[ms(at)]), 0);
            assert_eq!(placed.split, Split::One((*expected).into()), "{at}");
            assert_eq!(placed.times_ms.as_deref(), Some(&[ms(at)][..]));
        }
    }

    #[test]
    fn a_record_field_gives_the_time() {
        let mut partitioner = build(&[
            ("partitioner.class", "time-based"),
            ("partition.duration.ms", "3600000"),
            ("path.format", "'year'=YYYY/'month'=M/'day'=d/'hour'=H"),
            ("timestamp.extractor", "RecordField"),
            ("timestamp.field", "time"),
            LOS_ANGELES,
        ]);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["2015-04-02T01:00:00-07:00", "soon", "1427965200000"]));
        let placed = partitioner.split(&crate::testing::typed(vec![("time", texts)], &[0, 0, 0]), 0);
        assert_eq!(placed.path(0).as_ref(), "year=2015/month=4/day=2/hour=1");
        assert_eq!(placed.path(2).as_ref(), "year=2015/month=4/day=2/hour=2");
        let rejected: Vec<_> = placed.rejected.iter().map(|one| (one.row, one.stage)).collect();
        assert_eq!(rejected, [(1, Stage::TaskPut)]);
    }

    #[test]
    fn rows_go_to_the_bucket_of_their_time_and_times_out_of_the_calendar_are_rejected() {
        let mut partitioner = build(&[("partitioner.class", "hourly")]);
        let hour = |n: i64| n * HOUR_MS + 5;
        let placed = partitioner.split(&timed(&[hour(1), hour(2), hour(1), i64::MAX, -1, hour(2)]), 0);
        let Split::Many { paths, of_row } = &placed.split else { panic!("two hours") };
        assert_eq!(paths.len(), 2);
        assert_eq!([of_row[0], of_row[1], of_row[2], of_row[5]], [0, 1, 0, 1]);
        assert_eq!(placed.rejected.iter().map(|one| one.row).collect::<Vec<_>>(), [3, 4]);
        assert!(placed.rejected[0].reason.contains("are these milliseconds?"));
    }

    #[test]
    fn the_wall_clock_bound_is_where_the_path_changes() {
        let minutes = [
            ("partitioner.class", "time-based"),
            ("partition.duration.ms", "60000"),
            ("path.format", "YYYY-MM-dd"),
            ("timestamp.extractor", "Wallclock"),
        ];
        let hourly = [("partitioner.class", "hourly"), ("timestamp.extractor", "Wallclock"), LOS_ANGELES];
        for (pairs, clock, bound) in [
            (&hourly[..], "2024-03-10T09:30:00Z", "2024-03-10T10:00:00Z"),
            (&hourly[..], "2024-03-10T10:00:00Z", "2024-03-10T11:00:00Z"),
            (&hourly[..], "2024-11-03T08:30:00Z", "2024-11-03T10:00:00Z"),
            (&minutes[..], "2024-03-10T09:30:30Z", "2024-03-11T00:00:00Z"),
        ] {
            assert_eq!(build(pairs).wall_clock_bound_ms(ms(clock)), Some(ms(bound)), "{clock}");
        }
        assert_eq!(build(&[("partitioner.class", "hourly")]).wall_clock_bound_ms(0), None);
        let clock = ms("2024-03-10T09:30:00Z");
        let placed = build(&hourly).split(&timed(&[1, 2]), clock);
        assert_eq!(placed.times_ms.as_deref(), Some(&[clock, clock][..]));
        assert_eq!(placed.split, Split::One("year=2024/month=03/day=10/hour=01".into()));
    }

    #[test]
    fn problems_are_found_before_the_task_starts() {
        let cases: &[(Pairs<'_>, &[&str])] = &[
            (
                &[("timezone", ""), ("locale", " "), ("timestamp.extractor", "x")],
                &[
                    "Invalid value -1 for configuration partition.duration.ms: Partition duration needs to be a positive.",
                    "Invalid value  for configuration path.format: Path format cannot be empty.",
                    "Invalid value  for configuration locale: Locale cannot be empty.",
                    "Invalid value  for configuration timezone: Timezone cannot be empty.",
                    "Invalid timestamp extractor: x, expected one of: Wallclock, Record, RecordField",
                ],
            ),
            (
                &[("partition.duration.ms", "0"), ("path.format", "/"), ("timezone", "Mars/Base")],
                &[
                    "Invalid value 0 for configuration partition.duration.ms: Partition duration needs to be a positive.",
                    "Invalid value / for configuration path.format: Path format cannot be empty.",
                    "Invalid value Mars/Base for configuration timezone: The datetime zone id 'Mars/Base' is not recognised",
                ],
            ),
            (
                &[("partition.duration.ms", "1"), ("path.format", "'year'=YYYY/bb")],
                &["Invalid value 'year'=YYYY/bb for configuration path.format: Illegal pattern component: bb"],
            ),
            (&[("partition.duration.ms", "1"), ("path.format", "''/''///")], &[]),
            (
                &[("partition.duration.ms", "1"), ("path.format", "///")],
                &["Invalid value /// for configuration path.format: Path format cannot be empty."],
            ),
        ];
        for (pairs, expected) in cases {
            let settings = with(pairs);
            let messages: Vec<_> = (TIME_BASED.check)(&settings).into_iter().map(|problem| problem.message).collect();
            assert_eq!(&messages, expected);
            assert_eq!((TIME_BASED.build)(&settings).is_ok(), expected.is_empty());
        }
        assert_eq!((HOURLY.check)(&with(&[])), []);
        assert_eq!((DAILY.check)(&with(&[("locale", "")])).len(), 1);
    }

    proptest! {
        /// The cache of buckets and the search for segments change no path.
        #[test]
        fn a_batch_has_the_paths_that_its_rows_have_alone(
            rows in proptest::collection::vec((0usize..4, -3i64..80), 1..40),
            duration_minutes in prop::sample::select(vec![20i64, 60, 120, 1440]),
            zone in prop::sample::select(vec!["America/Santiago", "Europe/Berlin", "UTC", "Australia/Lord_Howe", "+05:45"]),
        ) {
            let bases = [0, ms("2024-03-30T22:00:00Z"), ms("2024-09-08T02:00:00Z"), ms("2024-10-26T23:00:00Z")];
            let times: Vec<i64> = rows.iter().map(|(base, steps)| bases[*base] + steps * 7 * 60_000).collect();
            let duration = (duration_minutes * 60_000).to_string();
            let pairs = [
                ("partitioner.class", "time-based"),
                ("partition.duration.ms", duration.as_str()),
                ("path.format", "YYYY-MM-dd HH:mm"),
                ("timezone", zone),
            ];
            // A time of -1 is no time.
            let times: Vec<i64> = times.into_iter().map(|at_ms| at_ms.max(0)).collect();
            let together = build(&pairs).split(&timed(&times), 0);
            prop_assert!(together.rejected.is_empty());
            for (row, at_ms) in times.iter().enumerate() {
                let alone = build(&pairs).split(&timed(&[*at_ms]), 0);
                prop_assert_eq!(together.path(row), alone.path(0), "{}", at_ms);
            }
        }
    }
}
