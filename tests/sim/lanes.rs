//! Lanes by number: a hundred for each topic, so that a record can tell where it belongs in one field.

use model::TopicPartition;

/// Lanes of one topic at most.
const OF_A_TOPIC: i32 = 100;

/// The topic with this number: `t`, `t1`, `t2`, ...
pub(crate) fn topic(number: i32) -> String {
    if number == 0 { "t".to_owned() } else { format!("t{number}") }
}

/// The lane with this number.
pub(crate) fn lane(number: i32) -> TopicPartition {
    TopicPartition::new(topic(number / OF_A_TOPIC), partition_of(number))
}

/// Its partition.
pub(crate) fn partition_of(number: i32) -> i32 {
    number % OF_A_TOPIC
}

/// The number of a lane of these topics.
pub(crate) fn number_of(topic: &str, partition: i32) -> i32 {
    let number: i32 = topic.trim_start_matches('t').parse().unwrap_or(0);
    number * OF_A_TOPIC + partition
}

/// The number of a lane.
pub(crate) fn number(lane: &TopicPartition) -> i32 {
    number_of(&lane.topic, lane.partition)
}
