//! A cut: the range of one topic-partition that becomes visible together, and the plan that pins it before it does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Fingerprint, Offset, OffsetRange, ReversedRange, TopicPartition};

/// Why a cut ended. Rotation decides it; it never changes what the cut means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// `flush.size` records.
    RecordCount,
    /// `flush.bytes` bytes.
    Bytes,
    /// `rotate.interval.ms` in record time.
    RecordTime,
    /// The encoded partition changed (`rotate.file.on.partition.change`).
    PartitionChange,
    /// The files were opened `rotate.interval.ms` ago, or the wall clock entered another path.
    WallClock,
    /// `rotate.schedule.interval.ms`.
    Schedule,
    /// The schema changed and rows of the cut are already encoded.
    SchemaChange,
    /// `partitioner.max.open.files`.
    OpenFiles,
    /// The process is over its memory budget and this lane holds most.
    MemoryPressure,
    /// The task stops.
    Drain,
    /// The group takes the topic-partition away.
    Revoke,
}

impl CutReason {
    /// The label of metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            CutReason::RecordCount => "record_count",
            CutReason::Bytes => "bytes",
            CutReason::RecordTime => "record_time",
            CutReason::PartitionChange => "partition_change",
            CutReason::WallClock => "wall_clock",
            CutReason::Schedule => "schedule",
            CutReason::SchemaChange => "schema_change",
            CutReason::OpenFiles => "open_files",
            CutReason::MemoryPressure => "memory_pressure",
            CutReason::Drain => "drain",
            CutReason::Revoke => "revoke",
        }
    }
}

/// The rows of `topic_partition` in `range`, all files of which become visible under one plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The lane.
    pub topic_partition: TopicPartition,
    /// Offsets that the cut covers; not empty.
    pub range: OffsetRange,
    /// Why it ended.
    pub reason: CutReason,
}

/// Marks every object of one cut; drawn when the cut is opened, kept when its plan is replayed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub u64);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Nonce {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Nonce)
    }
}

impl Serialize for Nonce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which stored schema the rows of a cut were typed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRef {
    /// Version in the topic's schema history, 1 and up; 0 for a schema that the configuration gives.
    #[serde(rename = "v")]
    pub version: u32,
    /// Fingerprint of that version.
    #[serde(rename = "f")]
    pub fingerprint: Fingerprint,
}

/// The broker's default `offset.metadata.max.bytes`; a commit with this many bytes or more is refused.
pub const METADATA_BYTES_MAX: usize = 4096;

/// What must be known to make the objects of a cut again, byte for byte: committed as offset metadata at the cut's
/// start before any of them becomes visible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Format of this record; its name tells our metadata from everybody else's.
    sluice: u8,
    /// First offset after the cut. Its start is the committed offset itself.
    end: Offset,
    /// Wall clock that paths were made with, milliseconds since the epoch.
    #[serde(rename = "clock")]
    pub clock_ms: i64,
    /// Marks the cut's objects.
    pub nonce: Nonce,
    /// Schema of the rows; `None` for schemaless files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaRef>,
    /// Fingerprint of the settings that shape names and rows.
    #[serde(rename = "config")]
    pub config_fingerprint: Fingerprint,
    /// Number of objects that the cut makes.
    pub files: u32,
    /// Number of rows in them; `None` in plans of versions that did not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// Offset metadata that claims to be a plan and is not one that this version can replay.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not the JSON of a plan.
    #[error("could not read the plan {metadata:?}: {source}")]
    Malformed {
        /// The metadata as committed.
        metadata: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Made by a newer sluice.
    #[error(
        "the plan {metadata:?} has format {found}, this version reads format {VERSION}: run the version that made it"
    )]
    Version {
        /// The metadata as committed.
        metadata: String,
        /// The format it has.
        found: u8,
    },
    /// Its end lies before the committed offset.
    #[error("the plan {metadata:?} makes no sense: {source}")]
    Reversed {
        /// The metadata as committed.
        metadata: String,
        /// Why.
        source: ReversedRange,
    },
}

const VERSION: u8 = 1;

impl Plan {
    /// A plan for the cut that ends at `end`.
    pub fn new(
        end: Offset,
        clock_ms: i64,
        nonce: Nonce,
        schema: Option<SchemaRef>,
        config_fingerprint: Fingerprint,
        files: u32,
    ) -> Self {
        Self { sluice: VERSION, end, clock_ms, nonce, schema, config_fingerprint, files, rows: None }
    }

    /// The same plan for objects that hold so many rows together.
    pub fn with_rows(self, rows: u64) -> Self {
        Self { rows: Some(rows), ..self }
    }

    /// First offset after the cut.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The offset metadata; well below [`METADATA_BYTES_MAX`].
    pub fn to_metadata(&self) -> String {
        serde_json::to_string(self).expect("a plan has no map with keys that are not strings")
    }

    /// Reads the metadata of the committed offset `start`. `Ok(None)` when it is empty or somebody else's (Kafka Connect
    /// leaves none; other consumers may leave any text); an error when it is ours and cannot be replayed.
    pub fn from_metadata(start: Offset, metadata: &str) -> Result<Option<(OffsetRange, Plan)>, PlanError> {
        if !metadata.starts_with("{\"sluice\":") {
            return Ok(None);
        }
        let plan: Plan = serde_json::from_str(metadata)
            .map_err(|source| PlanError::Malformed { metadata: metadata.to_owned(), source })?;
        if plan.sluice != VERSION {
            return Err(PlanError::Version { metadata: metadata.to_owned(), found: plan.sluice });
        }
        let range = OffsetRange::new(start, plan.end)
            .map_err(|source| PlanError::Reversed { metadata: metadata.to_owned(), source })?;
        Ok(Some((range, plan)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan() -> impl Strategy<Value = (i64, Plan)> {
        let schema = proptest::option::of((any::<u32>(), any::<u64>()));
        let rows = proptest::option::of(any::<u64>());
        (0..i64::MAX, 0..i64::MAX, any::<i64>(), any::<u64>(), schema, any::<u64>(), any::<u32>(), rows).prop_map(
            |(a, b, clock_ms, nonce, schema, config, files, rows)| {
                let fingerprint = |n: u64| Fingerprint::of([&n.to_le_bytes()[..]]);
                let schema = schema.map(|(version, f)| SchemaRef { version, fingerprint: fingerprint(f) });
                let end = Offset::new(a.max(b)).unwrap();
                let plan = Plan::new(end, clock_ms, Nonce(nonce), schema, fingerprint(config), files);
                (a.min(b), Plan { rows, ..plan })
            },
        )
    }

    proptest! {
        #[test]
        fn a_plan_comes_back_as_it_was_and_stays_far_below_the_brokers_limit((start, plan) in plan()) {
            let metadata = plan.to_metadata();
            prop_assert!(metadata.len() <= 352, "{} bytes", metadata.len());
            let start = Offset::new(start).unwrap();
            let (range, read) = Plan::from_metadata(start, &metadata).unwrap().unwrap();
            prop_assert_eq!((range.start(), range.end()), (start, plan.end()));
            prop_assert_eq!(read, plan);
        }

        #[test]
        fn no_metadata_panics(metadata in "(\\{\"sluice\":)?.{0,60}") {
            let _ = Plan::from_metadata(Offset::ZERO, &metadata);
        }
    }

    #[test]
    fn foreign_metadata_is_no_plan() {
        for metadata in ["", "anything", "{}", "{\"owner\":1}"] {
            assert!(matches!(Plan::from_metadata(Offset::ZERO, metadata), Ok(None)), "{metadata}");
        }
    }

    #[test]
    fn a_plan_that_cannot_be_replayed_is_an_error() {
        let plan = Plan::new(Offset::new(5).unwrap(), 0, Nonce(1), None, Fingerprint::of([]), 1);
        let newer = plan.to_metadata().replace("\"sluice\":1", "\"sluice\":2");
        assert!(matches!(Plan::from_metadata(Offset::ZERO, &newer), Err(PlanError::Version { found: 2, .. })));
        let late = Offset::new(6).unwrap();
        assert!(matches!(Plan::from_metadata(late, &plan.to_metadata()), Err(PlanError::Reversed { .. })));
        let torn = &plan.to_metadata()[..30];
        assert!(matches!(Plan::from_metadata(Offset::ZERO, torn), Err(PlanError::Malformed { .. })));
    }
}
