//! Where a record is: topic-partition, offset, half-open ranges of offsets.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One partition of one topic, the unit in which order holds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic name as the broker spells it.
    pub topic: Arc<str>,
    /// Partition number, 0 and up.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The position of the record at `offset`.
    pub fn at(&self, offset: Offset) -> Position {
        Position { topic_partition: self.clone(), offset }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The offset of a record in its topic-partition; never negative (Kafka's logical offsets such as -1 are not offsets).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(i64);

impl Offset {
    /// The first offset a topic-partition can have.
    pub const ZERO: Offset = Offset(0);

    /// The last one that there can be.
    pub const MAX: Offset = Offset(i64::MAX);

    /// `None` if `value` is negative.
    pub const fn new(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value)) }
    }

    /// The number, 0 and up.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The offset of the record after this one; stays at the largest offset there is.
    pub const fn next(self) -> Offset {
        Offset(self.0.saturating_add(1))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One record's place, printed as `orders-3@991`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The topic-partition.
    pub topic_partition: TopicPartition,
    /// The offset in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.topic_partition, self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The offsets from `start` up to, not including, `end`; `start <= end` always holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetRange {
    start: Offset,
    end: Offset,
}

/// The end of a range lies before its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("range ends at {end}, before its start {start}")]
pub struct ReversedRange {
    start: Offset,
    end: Offset,
}

impl OffsetRange {
    /// `[start, end)`; an error if `end < start`.
    pub fn new(start: Offset, end: Offset) -> Result<Self, ReversedRange> {
        if end < start { Err(ReversedRange { start, end }) } else { Ok(Self { start, end }) }
    }

    /// The range `[at, at)`, which holds nothing.
    pub fn empty_at(at: Offset) -> Self {
        Self { start: at, end: at }
    }

    /// The first offset in the range, if it is not empty.
    pub fn start(self) -> Offset {
        self.start
    }

    /// The first offset after the range.
    pub fn end(self) -> Offset {
        self.end
    }

    /// Whether it spans no offset. Offsets spanned are not records: a compacted topic has gaps.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `offset` lies in the range.
    pub fn contains(self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Debug for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_holds_exactly_the_offsets_between_its_ends(a in 0i64..50, b in 0i64..50, probe in 0i64..60) {
            let (start, end) = (Offset::new(a).unwrap(), Offset::new(b).unwrap());
            match OffsetRange::new(start, end) {
                Err(_) => prop_assert!(b < a),
                Ok(range) => {
                    prop_assert_eq!(range.contains(Offset::new(probe).unwrap()), a <= probe && probe < b);
                    prop_assert_eq!(range.is_empty(), a == b);
                }
            }
        }
    }

    #[test]
    fn a_negative_offset_is_no_offset() {
        assert_eq!(Offset::new(-1), None);
        assert_eq!(Offset::new(i64::MAX).map(Offset::next), Offset::new(i64::MAX));
    }

    #[test]
    fn a_position_prints_as_topic_partition_at_offset() {
        let position = TopicPartition::new("orders", 3).at(Offset::new(991).unwrap());
        assert_eq!(position.to_string(), "orders-3@991");
    }
}
