//! Routing: rows whose topic a transform has changed lie below that topic's directory.
//!
//! The path of such a row carries its topic, so that rows of two topics never share a file; [`crate::Layout`] makes the key
//! of both. A lane stays one topic-partition of Kafka: its cuts end for all topics that its rows are routed to at once.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Array;
use model::{Batch, Rejected, Settings, Stage};

use super::{Partitioner, Placed, Split, SplitBuilder, encode_odd_segments};

/// Stands before and after the topic of a routed path; no other path holds a control character.
const MARK: char = '\0';

/// Words of which the class of every transform that chooses topics has one: `RegexRouter`, `ExtractTopic`.
const ROUTING_WORDS: &[&str] = &["router", "topic"];

/// Whether a transform of the connector may route rows, by the name of its class.
pub(crate) fn may_route(settings: &Settings) -> bool {
    let routes = |class: &str| {
        let class = class.to_ascii_lowercase();
        ROUTING_WORDS.iter().any(|word| class.contains(word))
    };
    settings.with_prefix("transforms.").any(|(key, class)| key.ends_with(".type") && routes(class))
}

/// The topic that a path of [`Placed`] carries, if its rows are routed, and the partitioner's path.
pub(crate) fn topic_and_path(path: &str) -> (Option<&str>, &str) {
    match path.strip_prefix(MARK).and_then(|rest| rest.split_once(MARK)) {
        Some((topic, path)) => (Some(topic), path),
        None => (None, path),
    }
}

fn routed_path(topic: &str, path: &str) -> Arc<str> {
    format!("{MARK}{}{MARK}{path}", encode_odd_segments(topic)).into()
}

/// Puts the topic of each row that has another than its lane into its path.
pub(super) struct RoutedPartitioner {
    pub(super) partitioner: Box<dyn Partitioner>,
    /// Whether the names of objects are looked for in all directories ([`may_route`]).
    pub(super) may_route: bool,
}

impl RoutedPartitioner {
    /// Why no object may be written under `topic`.
    fn refuse(&self, topic: &str) -> Option<String> {
        if topic.is_empty() {
            return Some("a transform routed it to a topic without a name".to_owned());
        }
        (!self.may_route).then(|| {
            format!(
                "it is routed to topic {topic}, but no transforms.*.type of the connector is one that chooses topics: its \
                 object could not be found again"
            )
        })
    }

    fn route(&self, batch: &Batch, placed: Placed) -> Placed {
        let Some(topics) = &batch.topics else { return placed };
        let own = batch.topic_partition.topic.as_ref();
        let routed_to = |row: usize| (topics.is_valid(row) && topics.value(row) != own).then(|| topics.value(row));
        if (0..batch.len()).all(|row| routed_to(row).is_none()) {
            return placed;
        }
        let mut split = SplitBuilder::with_capacity(batch.len());
        let mut numbers: HashMap<(Option<&str>, u32), u32> = HashMap::new();
        let mut last = None;
        let mut earlier = placed.rejected.into_iter().peekable();
        let mut rejected = Vec::new();
        for row in 0..batch.len() {
            let topic = routed_to(row);
            if let Some(known) = earlier.next_if(|rejected| rejected.row == row) {
                rejected.push(known);
                split.push_rejected();
                continue;
            }
            if let Some(reason) = topic.and_then(|topic| self.refuse(topic)) {
                rejected.push(Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason });
                split.push_rejected();
                continue;
            }
            let (path_number, path) = match &placed.split {
                Split::One(path) => (0, path),
                Split::Many { paths, of_row } => (of_row[row], &paths[of_row[row] as usize]),
            };
            let number = match last {
                Some((known, number)) if known == (topic, path_number) => number,
                Some(_) | None => *numbers.entry((topic, path_number)).or_insert_with(|| match topic {
                    Some(topic) => split.number(&routed_path(topic, path)),
                    None => split.number(path),
                }),
            };
            last = Some(((topic, path_number), number));
            split.push(number);
        }
        Placed { split: split.finish(), times_ms: placed.times_ms, rejected }
    }
}

impl Partitioner for RoutedPartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        let placed = self.partitioner.split(batch, clock_ms);
        self.route(batch, placed)
    }

    fn wall_clock_bound_ms(&self, clock_ms: i64) -> Option<i64> {
        self.partitioner.wall_clock_bound_ms(clock_ms)
    }

    fn reads_values(&self) -> bool {
        self.partitioner.reads_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::partition::partitioner_plugin;
    use crate::testing::{schemaless, settings};
    use model::Offset;

    const ROUTER: (&str, &str) = ("transforms.r.type", "org.apache.kafka.connect.transforms.RegexRouter");
    const FIELD: &[(&str, &str)] = &[ROUTER, ("partitioner.class", "field"), ("partition.field.name", "f")];

    fn placed(pairs: &[(&str, &str)], texts: &[&str], topics: &[Option<&str>]) -> Placed {
        let settings = settings(pairs);
        let mut partitioner = (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap();
        let mut batch = schemaless(&texts.iter().map(|text| Some(*text)).collect::<Vec<_>>());
        batch.topics = Some(topics.iter().copied().collect());
        partitioner.split(&batch, 0)
    }

    fn keys(pairs: &[(&str, &str)], texts: &[&str], topics: &[Option<&str>]) -> Vec<String> {
        let placed = placed(pairs, texts, topics);
        assert_eq!(placed.rejected, []);
        let layout = Layout::new(&settings(pairs), ".json").unwrap();
        let whose = schemaless(&[]).topic_partition;
        (0..texts.len()).map(|row| layout.object_key(&whose, placed.path(row), Offset::new(7).unwrap())).collect()
    }

    #[test]
    fn a_routed_row_lies_below_its_topic_and_its_name_tells_the_lane() {
        let keys = keys(&[ROUTER], &["1", "2", "3", "4"], &[Some("a"), None, Some("test-topic"), Some("b/../c")]);
        assert_eq!(
            keys,
            [
                "topics/a/partition=12/a+test-topic+12+0000000007.json",
                "topics/test-topic/partition=12/test-topic+12+0000000007.json",
                "topics/test-topic/partition=12/test-topic+12+0000000007.json",
                "topics/b/%2E%2E/c/partition=12/b/%2E%2E/c+test-topic+12+0000000007.json",
            ]
        );
    }

    #[test]
    fn a_transform_that_chooses_topics_is_known_by_its_class() {
        for (class, expected) in [
            ("org.apache.kafka.connect.transforms.RegexRouter", true),
            ("timestamp-router", true),
            ("io.confluent.connect.transforms.ExtractTopic$Header", true),
            ("extract-topic-key", true),
            ("org.apache.kafka.connect.transforms.InsertField$Value", false),
        ] {
            assert_eq!(may_route(&settings(&[("transforms.r.type", class)])), expected, "{class}");
        }
        assert!(!may_route(&settings(&[("transforms", "router"), ("transforms.a.topic", "router")])));
    }

    #[test]
    fn each_pair_of_topic_and_path_is_one_file() {
        let texts = [r#"{"f":1}"#, r#"{"f":2}"#, r#"{"f":1}"#, r#"{"f":1}"#, r#"{"f":2}"#];
        let placed = placed(FIELD, &texts, &[Some("a"), Some("a"), Some("b"), Some("a"), None]);
        let Split::Many { paths, of_row } = &placed.split else { panic!("{placed:?}") };
        assert_eq!(of_row, &[0, 1, 2, 0, 3]);
        let read: Vec<_> = paths.iter().map(|path| topic_and_path(path)).collect();
        assert_eq!(read, [(Some("a"), "f=1"), (Some("a"), "f=2"), (Some("b"), "f=1"), (None, "f=2")]);
        assert!(placed.same_path(0, 2) && !placed.same_path(0, 1), "another topic is no other time");
    }

    #[test]
    fn a_row_that_could_not_be_found_again_is_rejected_among_those_without_a_path() {
        let texts = [r#"{"f":1}"#, r#"{}"#, r#"{"f":1}"#, r#"{"f":1}"#];
        let rejected = placed(FIELD, &texts, &[Some("a"), Some("a"), Some(""), None]).rejected;
        assert_eq!(rejected.iter().map(|one| one.row).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(rejected[1].reason, "a transform routed it to a topic without a name");
        let rejected = placed(&[], &["1"], &[Some("a")]).rejected;
        assert!(rejected[0].reason.contains("no transforms.*.type"), "{rejected:?}");
    }
}
