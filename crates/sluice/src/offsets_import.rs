//! `sluice offsets import`: a connector goes on where kafka-delta-ingest or a Spark query left its table.

use std::collections::BTreeMap;

use delta::{Known, Positions, app_id};
use model::{Offset, TopicPartition};

use crate::spark_checkpoint::{Checkpoint, Offsets};

/// Who wrote the table before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// kafka-delta-ingest, which names a partition `<app_id>-<partition>` and remembers its last offset.
    KafkaDeltaIngest {
        /// Its `app_id`.
        app_id: String,
        /// Its topic, which the table does not name.
        topic: String,
    },
    /// The query of this checkpoint.
    Spark(Checkpoint),
}

impl Origin {
    /// Where it left off by the account of the table.
    fn ends(&self, known: &Known) -> Result<Offsets, String> {
        match self {
            Origin::Spark(checkpoint) => checkpoint.end_of(known.txns.get(&checkpoint.query).copied()).cloned(),
            Origin::KafkaDeltaIngest { app_id, topic } => {
                let partition = |id: &String| id.strip_prefix(app_id)?.strip_prefix('-')?.parse::<i32>().ok();
                let found = known.txns.iter().filter_map(|(id, last)| {
                    let next = Offset::new(*last)?.next();
                    Some((TopicPartition::new(topic.as_str(), partition(id)?), next))
                });
                let ends: Offsets = found.collect();
                if ends.is_empty() {
                    return Err(format!(
                        "the table knows no application {app_id}-<partition>: what is kafka-delta-ingest's --app_id?"
                    ));
                }
                Ok(ends)
            }
        }
    }

    /// Where each of `lanes`, those that connector `name` reads, goes on.
    pub(crate) fn positions(&self, known: &Known, lanes: &[TopicPartition]) -> Result<Offsets, String> {
        let mut ends = self.ends(known)?;
        let all: Vec<String> = ends.keys().map(ToString::to_string).collect();
        ends.retain(|lane, _| lanes.contains(lane));
        if ends.is_empty() {
            return Err(format!(
                "the connector reads none of the topic-partitions that were written: {}",
                all.join(", ")
            ));
        }
        Ok(ends)
    }
}

/// The applications of connector `name` in a table, and their offsets.
pub(crate) fn as_positions(name: &str, offsets: &BTreeMap<TopicPartition, Offset>) -> Positions {
    offsets.iter().map(|(lane, offset)| (app_id(name, lane), offset.get())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    #[test]
    fn kafka_delta_ingest_remembers_the_last_offset_and_not_the_topic() {
        let txns = [("kdi-0", 9), ("kdi-1", 0), ("kdi-12", 4), ("kdi-x", 7), ("other-0", 3), ("kdi", 8)];
        let mut known = Known::default();
        known.txns.extend(txns.map(|(id, last)| (id.to_owned(), last)));
        let origin = |app_id: &str| Origin::KafkaDeltaIngest { app_id: app_id.to_owned(), topic: "t".to_owned() };
        let found = origin("kdi").positions(&known, &[lane(0), lane(1), lane(2)]).unwrap();
        let found: Vec<_> = found.into_iter().map(|(lane, offset)| (lane.partition, offset.get())).collect();
        assert_eq!(found, [(0, 10), (1, 1)]);
        let positions = as_positions("c", &[(lane(1), Offset::new(5).unwrap())].into());
        assert_eq!(positions, [("c:t:1".to_owned(), 5)].into());
        assert!(origin("nobody").positions(&known, &[lane(0)]).unwrap_err().contains("nobody-<partition>"));
        let why = origin("kdi").positions(&known, &[TopicPartition::new("u", 0)]).unwrap_err();
        assert!(why.ends_with("t-0, t-1, t-12"), "{why}");
    }
}
