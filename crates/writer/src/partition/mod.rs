//! Partitioners: which path ("encoded partition") below the topic's directory each row of a batch belongs to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::buffer::ScalarBuffer;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Plugin, Rejected, Settings, Width, named};

mod affix;
mod bounded;
mod columns;
mod default;
mod field;
mod routed;
mod template;
mod time;
mod tombstone;

pub use columns::{ColumnsPartitioner, partition_values};
pub use field::PARTITION_FIELD_NAME;
pub(crate) use routed::{may_route, topic_and_path};
pub use template::PATH_TEMPLATE;
pub use time::{LOCALE, PARTITION_DURATION_MS, PATH_FORMAT};
pub(crate) use tombstone::directories;
pub use tombstone::is_of_tombstones;

/// Which partitioner a connector uses.
pub const PARTITIONER_CLASS: Key = Key::new(
    "partitioner.class",
    Kind::Class,
    "How the objects of a topic are spread over directories: default, field, time-based, hourly, daily or template, or \
     upstream's class name.",
)
.default("io.confluent.connect.storage.partitioner.DefaultPartitioner")
.check(Check::With(check_class))
.importance(Importance::High)
.group("Partitioner", 1)
.shown(Width::Long, "Partitioner Class")
.dependents(&["partition.field.name", "partition.duration.ms", "path.format", "locale", "timezone"]);

/// Whether paths name the schema.
pub const SCHEMA_PARTITION_AFFIX_TYPE: Key = Key::new(
    "s3.schema.partition.affix.type",
    Kind::String,
    "Whether schema_name=N goes before (PREFIX) or after (SUFFIX) the partitioner's path; N is the full name of the value's \
     schema, or null.",
)
.default("NONE")
.check(Check::OneOf(&["NONE", "PREFIX", "SUFFIX"]))
.group("S3", 31)
.shown(Width::Long, "Schema Partition Affix Type");

/// The keys of all partitioners and extractors.
pub const KEYS: &[&[Key]] = &[
    &[
        PARTITIONER_CLASS,
        PARTITION_FIELD_NAME,
        PARTITION_DURATION_MS,
        PATH_FORMAT,
        LOCALE,
        PATH_TEMPLATE,
        SCHEMA_PARTITION_AFFIX_TYPE,
    ],
    crate::zone::KEYS,
    crate::timestamp::KEYS,
];

/// Which path each row of a batch belongs to.
#[derive(Debug, Clone, PartialEq)]
pub enum Split {
    /// All rows have this path.
    One(Arc<str>),
    /// Row `i` has the path `paths[of_row[i]]`; for a rejected row the number means nothing, and may be out of bounds
    /// when no row has a path.
    Many {
        /// The paths, each once.
        paths: Vec<Arc<str>>,
        /// For each row, its path.
        of_row: Vec<u32>,
    },
}

/// What a partitioner says of a batch.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The path of each row.
    pub split: Split,
    /// The time that each row counts under, if the partitioner is time based; meaningless for a rejected row.
    pub times_ms: Option<ScalarBuffer<i64>>,
    /// The rows that have no path, by rising row.
    pub rejected: Vec<Rejected>,
}

impl Placed {
    /// The path of `row`, which is none of the rejected ones.
    pub fn path(&self, row: usize) -> &Arc<str> {
        match &self.split {
            Split::One(path) => path,
            Split::Many { paths, of_row } => &paths[of_row[row] as usize],
        }
    }

    /// Whether two rows, none of the rejected ones, have the same path, whatever topics they are routed to.
    pub(crate) fn same_path(&self, row: usize, other: usize) -> bool {
        match &self.split {
            Split::One(_) => true,
            Split::Many { of_row, .. } => {
                of_row[row] == of_row[other] || is_same_path(self.path(row), self.path(other))
            }
        }
    }

    /// What is said of the rows `rows` of the batch, as [`Batch::select`] picks them: the way to take rejected rows out.
    /// None of them may be a rejected one.
    pub fn select(&self, rows: &[u32]) -> Placed {
        Placed {
            split: match &self.split {
                Split::One(path) => Split::One(path.clone()),
                Split::Many { paths, of_row } => {
                    Split::Many { paths: paths.clone(), of_row: rows.iter().map(|row| of_row[*row as usize]).collect() }
                }
            },
            times_ms: self.times_ms.as_ref().map(|times| rows.iter().map(|row| times[*row as usize]).collect()),
            rejected: Vec::new(),
        }
    }
}

/// Whether two paths are the same below the directories of their topics.
pub(crate) fn is_same_path(one: &str, other: &str) -> bool {
    topic_and_path(one).1 == topic_and_path(other).1
}

/// Says which path each row belongs to.
pub trait Partitioner: Send {
    /// The path ("encoded partition") of each row. `clock_ms` is the wall clock of the cut that the rows go into; all rows
    /// of a cut see the same one, so a replay makes the same paths. A row that has no path is rejected, without harm to
    /// its neighbours. Paths have no empty segment, none that is `.` or `..`, and no control character. The path of a row
    /// that is routed to another topic ([`Batch::topics`]) also carries that topic, for [`crate::Layout::object_key`].
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed;

    /// An instant after `clock_ms` up to which the wall clock alone sends no row elsewhere, and as a rule the first at
    /// which it does; `None` unless paths are made of the wall clock.
    fn wall_clock_bound_ms(&self, clock_ms: i64) -> Option<i64>;

    /// Whether paths are made of values. Then the path of a row may be another one under a wider schema, as `v=1` becomes
    /// `v=1.0`, and a row without a path may have one.
    fn reads_values(&self) -> bool;
}

/// Builds a partitioner.
pub type BuildPartitioner = fn(&Settings) -> Result<Box<dyn Partitioner>, Invalid>;

/// `partitioner` with what every partitioner of a connector has around it.
fn complete(settings: &Settings, partitioner: Box<dyn Partitioner>) -> Result<Box<dyn Partitioner>, Invalid> {
    let partitioner = affix::affixed(settings, partitioner)?;
    let partitioner = tombstone::with_tombstones(settings, partitioner)?;
    let partitioner = routed::RoutedPartitioner { partitioner, may_route: may_route(settings) };
    Ok(Box::new(bounded::BoundedPartitioner::new(settings, Box::new(partitioner))?))
}

/// What `partitioner.class` can name.
pub static PARTITIONERS: &[Plugin<BuildPartitioner>] =
    &[default::PLUGIN, field::PLUGIN, time::TIME_BASED, time::HOURLY, time::DAILY, template::PLUGIN];

/// The plug-in that `partitioner.class` names.
pub fn partitioner_plugin(settings: &Settings) -> Result<&'static Plugin<BuildPartitioner>, Invalid> {
    let name = settings.required_string(&PARTITIONER_CLASS)?;
    named(PARTITIONERS, &name, "").ok_or_else(|| Invalid::value(&PARTITIONER_CLASS, &name, unknown_class(&name)))
}

/// Whether the partitioner is time based, so that its records have a time for `rotate.interval.ms`.
pub(crate) fn is_time_based(settings: &Settings) -> Result<bool, Invalid> {
    let name = partitioner_plugin(settings)?.name();
    let is_upstream_s = [time::TIME_BASED, time::HOURLY, time::DAILY].iter().any(|plugin| plugin.name() == name);
    Ok(is_upstream_s || (name == template::PLUGIN.name() && template::has_time(settings)))
}

fn check_class(name: &str) -> Result<(), String> {
    named(PARTITIONERS, name, "").map(|_| ()).ok_or_else(|| unknown_class(name))
}

fn unknown_class(name: &str) -> String {
    let known: Vec<_> = PARTITIONERS.iter().map(Plugin::name).collect();
    format!("Class {name} could not be found. Expected one of: {}", known.join(", "))
}

/// Collects the path of each row, each distinct path once.
struct SplitBuilder {
    paths: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    of_row: Vec<u32>,
}

impl SplitBuilder {
    fn with_capacity(rows: usize) -> Self {
        Self { paths: Vec::new(), numbers: HashMap::new(), of_row: Vec::with_capacity(rows) }
    }

    /// The number of `path` in this split.
    fn number(&mut self, path: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        let number = u32::try_from(self.paths.len()).expect("a batch has fewer than 2^32 rows");
        self.paths.push(path.clone());
        self.numbers.insert(path.clone(), number);
        number
    }

    fn push(&mut self, number: u32) {
        self.of_row.push(number);
    }

    fn push_rejected(&mut self) {
        self.of_row.push(0);
    }

    fn finish(mut self) -> Split {
        match self.paths.pop() {
            Some(path) if self.paths.is_empty() => Split::One(path),
            Some(path) => {
                self.paths.push(path);
                Split::Many { paths: self.paths, of_row: self.of_row }
            }
            None => Split::Many { paths: self.paths, of_row: self.of_row },
        }
    }
}

/// Makes a path that comes from data addressable and keeps it inside its directory: a `/` that would begin or end it or
/// follow another, a segment `.` or `..`, and control characters are percent-encoded. Every other byte stays as upstream
/// copies it, `%` too, so two odd values can share a directory.
fn encode_odd_segments(path: &str) -> Cow<'_, str> {
    let is_good =
        |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains(|c: char| c.is_ascii_control());
    if path.split('/').all(is_good) {
        return Cow::Borrowed(path);
    }
    let mut encoded = String::with_capacity(path.len() + 8);
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            encoded.push_str(if encoded.is_empty() || segment.is_empty() { "%2F" } else { "/" });
        }
        for c in segment.chars() {
            if c.is_ascii_control() || matches!(segment, "." | "..") {
                write!(encoded, "%{:02X}", u32::from(c)).expect("writing to a String never fails");
            } else {
                encoded.push(c);
            }
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use proptest::prelude::*;

    #[test]
    fn odd_segments_are_encoded_and_all_else_is_copied() {
        for (path, expected) in [
            ("f=a/b", "f=a/b"),
            ("f=a b+c:d\\e=é%2F", "f=a b+c:d\\e=é%2F"),
            ("f=", "f="),
            ("f=../../x", "f=../%2E%2E/x"),
            ("f=a/./b/..", "f=a/%2E/b/%2E%2E"),
            ("f=a//b", "f=a%2F/b"),
            ("f=a/", "f=a%2F"),
            ("/f=a", "%2Ff=a"),
            ("f=a\nb\u{0}", "f=a%0Ab%00"),
        ] {
            assert_eq!(encode_odd_segments(path), expected, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_makes_a_path_that_object_stores_take(value in "[a./\n\u{7f}é]{0,8}") {
            let path = format!("f={value}");
            let encoded = encode_odd_segments(&path);
            let parsed = object_store::path::Path::parse(encoded.as_ref()).map(String::from);
            prop_assert_eq!(parsed.ok(), Some(encoded.into_owned()));
        }
    }

    #[test]
    fn classes_are_found_by_java_and_simple_names() {
        for (name, expected, timed) in [
            ("io.confluent.connect.storage.partitioner.DefaultPartitioner", "default", false),
            ("FieldPartitioner", "field", false),
            ("io.confluent.connect.storage.partitioner.TimeBasedPartitioner", "time-based", true),
            ("hourly", "hourly", true),
            ("io.confluent.connect.storage.partitioner.DailyPartitioner", "daily", true),
        ] {
            let settings = settings(&[("partitioner.class", name)]);
            assert_eq!(partitioner_plugin(&settings).unwrap().name(), expected);
            assert_eq!(is_time_based(&settings), Ok(timed));
        }
        let error = partitioner_plugin(&settings(&[("partitioner.class", "org.x.Mine")])).unwrap_err();
        assert_eq!(
            error.message,
            "Invalid value org.x.Mine for configuration partitioner.class: Class org.x.Mine could not be found. \
             Expected one of: default, field, time-based, hourly, daily, template",
        );
    }

    #[test]
    fn selecting_rows_keeps_their_paths_and_times() {
        let paths: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let placed = Placed {
            split: Split::Many { paths, of_row: vec![0, 1, 0, 1] },
            times_ms: Some(vec![10, 11, 12, 13].into()),
            rejected: Vec::new(),
        };
        let selected = placed.select(&[1, 2]);
        assert_eq!((selected.path(0).as_ref(), selected.path(1).as_ref()), ("b", "a"));
        assert_eq!(selected.times_ms.as_deref(), Some(&[11, 12][..]));
        assert!(!selected.same_path(0, 1) && placed.same_path(1, 3));
    }
}
