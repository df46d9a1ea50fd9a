//! Where reading begins for a topic-partition that nobody knows an offset of, and whether it ends.

use std::collections::BTreeMap;

use model::{Offset, TopicPartition};

/// Where reading begins and ends, beyond what the group holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Where a topic-partition begins that neither the group nor the recovery knows; `auto.offset.reset` says it when this
    /// does not.
    pub starting: Option<Starting>,
    /// Whether reading ends where the logs ended when the source started ([`crate::Assigned::until`]).
    pub until_end: bool,
}

impl Bounds {
    /// Whether it matters what was there when the source started.
    pub(crate) fn looks_first(&self) -> bool {
        let starts_late = |starting: &Starting| {
            starting.others == StartAt::Latest || starting.each.values().any(|at| *at == StartAt::Latest)
        };
        self.until_end || self.starting.as_ref().is_some_and(starts_late)
    }
}

/// Where topic-partitions begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starting {
    /// Those that are named.
    pub each: BTreeMap<TopicPartition, StartAt>,
    /// All others.
    pub others: StartAt,
    /// What happens when no record of a topic-partition has the wanted time or a later one.
    pub no_record: NoRecord,
}

/// A place in a log to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The first record that is there.
    Earliest,
    /// The end of the log. A topic-partition that appears after the connector's first start begins at its first record, as
    /// with Spark: what is written before it is found is not left out.
    Latest,
    /// This offset, which the log must hold.
    Offset(Offset),
    /// The first record with this time or a later one, in milliseconds since the epoch.
    Time(i64),
}

/// What happens when no record has the wanted time or a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoRecord {
    /// The source fails, unless the log holds no record at all.
    #[default]
    Fail,
    /// Reading begins at the end of the log.
    Latest,
}

impl Starting {
    /// The same place for all.
    pub fn all(at: StartAt) -> Starting {
        Starting { each: BTreeMap::new(), others: at, no_record: NoRecord::Fail }
    }

    /// Where `topic_partition` begins.
    pub fn of(&self, topic_partition: &TopicPartition) -> StartAt {
        self.each.get(topic_partition).copied().unwrap_or(self.others)
    }
}

/// What was there when a source started.
#[derive(Debug)]
pub(crate) struct FirstLook {
    /// Every topic-partition of the subscription, and the end of its log as this reader may see it.
    pub(crate) ends: BTreeMap<TopicPartition, Offset>,
    /// Whether an offset of any of them was known already.
    pub(crate) is_known: bool,
}

impl FirstLook {
    /// Where reading of `lane`, which starts at `start`, ends: nothing was there of one that appeared later.
    pub(crate) fn until(&self, lane: &TopicPartition, start: Offset) -> Offset {
        self.ends.get(lane).copied().unwrap_or(start)
    }

    /// What [`StartAt::Latest`] is for `lane`, of which no offset is known: the same for as long as the source lives, though
    /// it joins the group again before anything is committed.
    pub(crate) fn latest(&self, lane: &TopicPartition) -> StartAt {
        match self.ends.get(lane) {
            Some(end) if !self.is_known => StartAt::Offset(*end),
            // It appeared after the connector's first start.
            Some(_) | None => StartAt::Earliest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_begins_where_the_others_do() {
        let (named, other) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let starting = Starting { each: [(named.clone(), StartAt::Latest)].into(), ..Starting::all(StartAt::Earliest) };
        assert_eq!((starting.of(&named), starting.of(&other)), (StartAt::Latest, StartAt::Earliest));
    }

    #[test]
    fn what_appeared_after_the_first_start_does_not_begin_at_its_end() {
        let (there, new) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let end = Offset::new(7).unwrap();
        let first = FirstLook { ends: [(there.clone(), end)].into(), is_known: false };
        assert_eq!((first.latest(&there), first.latest(&new)), (StartAt::Offset(end), StartAt::Earliest));
        assert_eq!((first.until(&there, Offset::ZERO), first.until(&new, Offset::ZERO)), (end, Offset::ZERO));
        assert_eq!(FirstLook { is_known: true, ..first }.latest(&there), StartAt::Earliest);
    }
}
