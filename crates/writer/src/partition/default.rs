//! The default partitioner: `partition=<number>`, Kafka's own.

use std::sync::Arc;

use model::{Batch, Plugin};

use super::{BuildPartitioner, Partitioner, Placed, Split, complete};

pub(super) const PLUGIN: Plugin<BuildPartitioner> = Plugin {
    names: &["default", "io.confluent.connect.storage.partitioner.DefaultPartitioner"],
    doc: "One directory for each partition of the topic: partition=<number>.",
    keys: &[],
    check: |_| Vec::new(),
    build: |settings| complete(settings, Box::new(DefaultPartitioner { last: None })),
};

struct DefaultPartitioner {
    last: Option<(i32, Arc<str>)>,
}

impl Partitioner for DefaultPartitioner {
    fn split(&mut self, batch: &Batch, _clock_ms: i64) -> Placed {
        let partition = batch.topic_partition.partition;
        let known = self.last.take().filter(|(number, _)| *number == partition);
        let (_, path) = self.last.insert(known.unwrap_or_else(|| (partition, format!("partition={partition}").into())));
        Placed { split: Split::One(path.clone()), times_ms: None, rejected: Vec::new() }
    }

    fn wall_clock_bound_ms(&self, _clock_ms: i64) -> Option<i64> {
        None
    }

    fn reads_values(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{schemaless, settings};
    use model::TopicPartition;

    #[test]
    fn the_path_is_the_partition_s_number_without_padding() {
        let mut partitioner = (PLUGIN.build)(&settings(&[])).unwrap();
        let mut batch = schemaless(&[Some("1"), None]);
        assert_eq!(partitioner.split(&batch, 0).split, Split::One("partition=12".into()));
        batch.topic_partition = TopicPartition::new("test-topic", 3);
        assert_eq!(partitioner.split(&batch, 0).split, Split::One("partition=3".into()));
        assert_eq!(partitioner.wall_clock_bound_ms(0), None);
    }
}
