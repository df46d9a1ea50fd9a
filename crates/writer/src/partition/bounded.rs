//! The length of keys: a row whose object could have no key is rejected, instead of stopping the lane when it is written.

use std::sync::Arc;

use model::{Batch, Invalid, Offset, Rejected, Settings, Stage, TopicPartition};

use super::{Partitioner, Placed, Split, topic_and_path};
use crate::format;
use crate::layout::Layout;
use crate::views::Views;

/// The longest key that object stores take, in bytes (Amazon S3 user guide, "Naming Amazon S3 objects").
const KEY_BYTES_MAX: usize = 1024;

/// Rejects the rows whose keys are too long for object stores.
pub(super) struct BoundedPartitioner {
    partitioner: Box<dyn Partitioner>,
    layout: Layout,
    /// The lane of the last batch, and the bytes of its keys without the path.
    last: Option<(TopicPartition, usize)>,
}

impl BoundedPartitioner {
    pub(super) fn new(settings: &Settings, partitioner: Box<dyn Partitioner>) -> Result<BoundedPartitioner, Invalid> {
        // What is wrong with formats is reported where they are built.
        let extension = format::format(settings).map_or(String::new(), |format| format.extension().to_owned());
        let views = Views::new(settings).unwrap_or_default();
        let beside = views.endings().map(|(_, ending)| ending);
        let longest = beside.fold(extension, |long, ending| if ending.len() > long.len() { ending } else { long });
        let layout = Layout::new(settings, &longest)?;
        Ok(BoundedPartitioner { partitioner, layout, last: None })
    }

    /// Bytes of keys in this lane beside the path, with the longest offset.
    fn beside(&mut self, lane: &TopicPartition) -> usize {
        match &self.last {
            Some((known, bytes)) if known == lane => *bytes,
            Some(_) | None => {
                let bytes = self.layout.object_key(lane, "", Offset::MAX).len();
                self.last.insert((lane.clone(), bytes)).1
            }
        }
    }

    /// Bytes of the key of an object with this path, if that is more than stores take.
    fn excess(&self, lane: &TopicPartition, beside: usize, path: &Arc<str>) -> Option<usize> {
        let bytes = match topic_and_path(path) {
            (None, path) => beside + path.len(),
            (Some(_), _) => self.layout.object_key(lane, path, Offset::MAX).len(),
        };
        (bytes > KEY_BYTES_MAX).then_some(bytes)
    }
}

impl Partitioner for BoundedPartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        let mut placed = self.partitioner.split(batch, clock_ms);
        let lane = &batch.topic_partition;
        let beside = self.beside(lane);
        let (excesses, of_row) = match &placed.split {
            Split::One(path) => (vec![self.excess(lane, beside, path)], None),
            Split::Many { paths, of_row } => {
                (paths.iter().map(|path| self.excess(lane, beside, path)).collect(), Some(of_row))
            }
        };
        if excesses.iter().all(Option::is_none) {
            return placed;
        }
        let mut earlier = std::mem::take(&mut placed.rejected).into_iter().peekable();
        for row in 0..batch.len() {
            if let Some(known) = earlier.next_if(|rejected| rejected.row == row) {
                placed.rejected.push(known);
                continue;
            }
            let number = of_row.map_or(0, |of_row| of_row[row] as usize);
            let Some(bytes) = excesses[number] else { continue };
            let reason = format!(
                "Error encoding partition. Its object would have a key of {bytes} bytes, longer than the {KEY_BYTES_MAX} that stores take"
            );
            placed.rejected.push(Rejected { row, at: batch.position(row), stage: Stage::TaskPut, reason });
        }
        placed
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
    use crate::partition::partitioner_plugin;
    use crate::testing::{schemaless, settings};

    const FIELD: &[(&str, &str)] =
        &[("partitioner.class", "field"), ("partition.field.name", "f"), ("format.class", "json")];

    fn placed(pairs: &[(&str, &str)], values: &[String], topic: Option<&str>) -> Placed {
        let settings = settings(pairs);
        let texts: Vec<_> = values.iter().map(|value| format!(r#"{{"f":"{value}"}}"#)).collect();
        let mut batch = schemaless(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
        batch.topics = topic.map(|topic| vec![Some(topic); values.len()].into());
        (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap().split(&batch, 0)
    }

    #[test]
    fn the_longest_key_that_fits_is_as_long_as_stores_take() {
        let whose = schemaless(&[]).topic_partition;
        let headers = [("store.kafka.headers", "true"), ("headers.format.class", "parquet")];
        for (more, ending) in [(&[][..], ".json"), (&headers, ".headers.snappy.parquet")] {
            let pairs = [FIELD, more].concat();
            let layout = Layout::new(&settings(&pairs), ending).unwrap();
            let beside = layout.object_key(&whose, "f=", Offset::MAX).len();
            let fits = "x".repeat(KEY_BYTES_MAX - beside);
            let placed = placed(&pairs, &["a".to_owned(), format!("{fits}x"), fits, "é".repeat(600)], None);
            assert_eq!(placed.rejected.iter().map(|one| one.row).collect::<Vec<_>>(), [1, 3]);
            assert!(placed.rejected[0].reason.contains("a key of 1025 bytes"), "{:?}", placed.rejected);
            assert_eq!(layout.object_key(&whose, placed.path(2), Offset::MAX).len(), KEY_BYTES_MAX);
        }
    }

    #[test]
    fn a_batch_of_which_no_row_fits_is_rejected_as_a_whole() {
        let long = vec!["x".repeat(2000); 3];
        assert_eq!(placed(FIELD, &long, None).rejected.len(), 3);
        let router = [FIELD, &[("transforms.r.type", "RegexRouter")]].concat();
        assert_eq!(placed(&router, &["a".to_owned()], Some(&"t".repeat(600))).rejected.len(), 1);
        assert_eq!(placed(&router, &["a".to_owned()], Some("t")).rejected.len(), 0);
    }
}
