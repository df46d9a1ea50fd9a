//! Offsets that a log does not hold: whether one is lost, what is missing, and where reading may go on.

use std::collections::BTreeMap;
use std::fmt;

use model::{Offset, OffsetRange, Plan, TopicPartition};

use crate::Error;
use crate::keys::DataLoss;
use crate::native::{Ends, Point};

/// `auto.offset.reset`: where a topic-partition begins that nobody knows an offset of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    Earliest,
    Latest,
    /// Nowhere: it is an error.
    None,
}

impl Reset {
    /// What these properties say, in librdkafka's words; `earliest` when they say nothing, as in Kafka Connect.
    pub(crate) fn of(client: &BTreeMap<String, String>) -> Reset {
        match client.get("auto.offset.reset").map(String::as_str) {
            Some("latest" | "end" | "largest") => Reset::Latest,
            Some("error" | "none") => Reset::None,
            Some(_earliest) => Reset::Earliest,
            None => Reset::Earliest,
        }
    }

    /// Where that is; `None` for nowhere.
    pub(crate) fn point(self) -> Option<Point> {
        match self {
            Reset::Earliest => Some(Point::Begin),
            Reset::Latest => Some(Point::VisibleEnd),
            Reset::None => None,
        }
    }
}

/// Who knew the offset that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The group's committed offset.
    Committed,
    /// The objects that were written.
    Recovered,
    /// This reader, which came so far.
    Read,
    /// A person, who wants it to start there.
    Configured,
}

/// An offset that the log of its topic-partition does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) lane: TopicPartition,
    pub(crate) at: Offset,
    pub(crate) known: Known,
    pub(crate) ends: Ends,
    /// The id of the topic that the offset was committed for, and the id that the topic of this name has now: whatever
    /// the log holds, it is another one.
    pub(crate) topics: Option<(String, String)>,
}

impl Lost {
    /// `None` when reading can go on at `at`: it is in the log or right at its end.
    pub(crate) fn new(lane: &TopicPartition, at: Offset, known: Known, ends: Ends) -> Option<Lost> {
        let is_held = (ends.begin..=ends.end).contains(&at.get());
        (!is_held).then(|| Lost { lane: lane.clone(), at, known, ends, topics: None })
    }

    /// The offset belongs to the first of these topics, the log to the second.
    pub(crate) fn with_topic(
        lane: &TopicPartition,
        at: Offset,
        known: Known,
        ends: Option<Ends>,
        topics: (String, String),
    ) -> Lost {
        let ends = ends.unwrap_or(Ends { begin: 0, end: 0 });
        Lost { lane: lane.clone(), at, known, ends, topics: Some(topics) }
    }

    /// Whether the log begins after the offset; else it ends before it.
    pub(crate) fn is_below(&self) -> bool {
        self.at.get() < self.ends.begin
    }

    /// Offsets between the one that is lost and the log.
    pub(crate) fn missing(&self) -> i64 {
        (self.ends.begin - self.at.get()).max(self.at.get() - self.ends.end)
    }

    fn cause(&self) -> &'static str {
        if self.topics.is_some() {
            "the topic was deleted and created again while a task still committed for the deleted one"
        } else if self.is_below() {
            "retention deleted them before they were read"
        } else {
            "the topic was deleted and created again, or its log was cut"
        }
    }

    /// The error for `on.data.loss=fail`, or when there is nowhere to go on.
    pub(crate) fn error(&self, group: &str, policy: DataLoss, metadata: &str) -> Error {
        let planned = match planned(self.at, metadata) {
            Some(range) => format!(" (the cut {range} was planned there and may be visible in part)"),
            None => String::new(),
        };
        let advice = match policy {
            DataLoss::Fail => {
                "set on.data.loss=continue to go on where auto.offset.reset says, or set the position with sluice offsets"
            }
            DataLoss::Continue => {
                "auto.offset.reset=none leaves nowhere to go on: set consumer.override.auto.offset.reset to earliest or \
                 latest, or set the position with sluice offsets"
            }
        };
        Error::OffsetLost(format!("{self} for consumer group {group}{planned}; most likely {}; {advice}", self.cause()))
    }

    /// The warning for `on.data.loss=continue`.
    pub(crate) fn warn(&self, group: &str, goes_on_at: Offset, metadata: &str) {
        let Ends { begin, end } = self.ends;
        let (lane, at, missing, cause) = (&self.lane, self.at, self.missing(), self.cause());
        tracing::warn!(
            %lane, group, lost = %at, begin, end, missing, %goes_on_at, likely = cause,
            "the log does not hold the offset to go on from: data is lost, going on (on.data.loss=continue)"
        );
        if let Some(range) = planned(self.at, metadata) {
            tracing::warn!(
                %lane, group, cut = %range, %goes_on_at,
                "the plan of this cut cannot be replayed and is dropped: its range may be visible in part, and what of it \
                 is still in the log is written again"
            );
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ends { begin, end } = self.ends;
        let known = match self.known {
            Known::Committed => "the committed offset",
            Known::Recovered => "the end of the newest object, offset",
            Known::Read => "the next offset to read,",
            Known::Configured => "the starting offset",
        };
        if let Some((then, now)) = &self.topics {
            let Lost { lane, at, .. } = self;
            return write!(
                f,
                "{lane} cannot be read from {known} {at}: that was committed for the topic with the id {then}, and the topic \
                 of this name has the id {now} now"
            );
        }
        write!(f, "{} cannot be read from {known} {}: its log holds [{begin}, {end}), ", self.lane, self.at)?;
        if self.is_below() {
            write!(f, "{} offsets are missing", self.missing())
        } else {
            write!(f, "which ends {} offsets before it", self.missing())
        }
    }
}

/// The cut that `metadata` plans at `at`. What cannot be read as a plan cannot be replayed either way.
fn planned(at: Offset, metadata: &str) -> Option<OffsetRange> {
    let (range, _plan) = Plan::from_metadata(at, metadata).ok().flatten()?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Fingerprint, Nonce};

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn lost(offset: i64, begin: i64, end: i64) -> Option<Lost> {
        Lost::new(&TopicPartition::new("t", 3), at(offset), Known::Committed, Ends { begin, end })
    }

    #[test]
    fn an_offset_is_lost_below_the_beginning_and_past_the_end_only() {
        let cases = [
            ((5, 5, 9), None),
            ((9, 5, 9), None),
            ((0, 0, 0), None),
            ((4, 5, 9), Some((true, 1))),
            ((0, 7, 7), Some((true, 7))),
            ((10, 5, 9), Some((false, 1))),
            ((500, 0, 0), Some((false, 500))),
        ];
        for ((offset, begin, end), expected) in cases {
            let found = lost(offset, begin, end).map(|lost| (lost.is_below(), lost.missing()));
            assert_eq!(found, expected, "{offset} in [{begin}, {end})");
        }
    }

    #[test]
    fn the_error_tells_what_is_missing_why_and_what_to_do() {
        let plan = Plan::new(at(8), 0, Nonce(1), None, Fingerprint::of([b"".as_slice()]), 1).to_metadata();
        let below = lost(4, 6, 9).unwrap().error("g", DataLoss::Fail, &plan).to_string();
        assert_eq!(
            below,
            "t-3 cannot be read from the committed offset 4: its log holds [6, 9), 2 offsets are missing for consumer \
             group g (the cut [4, 8) was planned there and may be visible in part); most likely retention deleted them \
             before they were read; set on.data.loss=continue to go on where auto.offset.reset says, or set the position \
             with sluice offsets"
        );
        let past = lost(40, 6, 9).unwrap().error("g", DataLoss::Continue, "").to_string();
        assert!(past.contains("ends 31 offsets before it") && past.contains("created again"), "{past}");
        assert!(past.contains("auto.offset.reset=none"), "{past}");
    }

    #[test]
    fn an_offset_of_a_deleted_topic_is_lost_wherever_it_lies() {
        let ids = ("old".to_owned(), "new".to_owned());
        let lost = Lost::with_topic(&TopicPartition::new("t", 3), at(4), Known::Committed, None, ids);
        let text = lost.error("g", DataLoss::Fail, "").to_string();
        let parts = ["t-3", "offset 4", "id old", "id new now", "still committed", "on.data.loss=continue"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn the_reset_policy_is_read_in_javas_and_librdkafkas_words() {
        let of = |value: &str| Reset::of(&BTreeMap::from([("auto.offset.reset".to_owned(), value.to_owned())]));
        assert_eq!(
            [of("earliest"), of("smallest"), of("latest"), of("end")],
            [Reset::Earliest, Reset::Earliest, Reset::Latest, Reset::Latest]
        );
        assert_eq!([of("none"), of("error"), Reset::of(&BTreeMap::new())], [Reset::None, Reset::None, Reset::Earliest]);
    }
}
