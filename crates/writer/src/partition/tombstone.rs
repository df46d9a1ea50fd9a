//! `behavior.on.null.values=write`: records without a value have a directory of their own (upstream
//! `io.confluent.connect.s3.util.TombstoneSupportedPartitioner`).

use std::sync::Arc;

use arrow::array::Array;
use model::{Batch, Invalid, Settings, Values};

use super::{Partitioner, Placed, Split, SplitBuilder, encode_odd_segments, topic_and_path};
use crate::null_values::{NullValues, TOMBSTONE_ENCODED_PARTITION};

/// Stands before the path of tombstones; no other path holds a control character. So a directory of that name which is
/// another partitioner's too is no doubt: a file holds either values or tombstones.
const MARK: char = '\u{1}';

/// Whether a path of [`Placed`] is that of records without a value, which only the files beside those of values hold.
pub fn is_of_tombstones(path: &str) -> bool {
    topic_and_path(path).1.starts_with(MARK)
}

/// The directories of a partitioner's path, as keys have them.
pub(crate) fn directories(path: &str) -> &str {
    path.strip_prefix(MARK).unwrap_or(path)
}

/// Puts rows without a value on one path, under the time of the record in Kafka; all others are `partitioner`'s.
struct TombstonePartitioner {
    partitioner: Box<dyn Partitioner>,
    path: Arc<str>,
}

/// `partitioner`, with a path for tombstones if `settings` ask for their keys.
pub(super) fn with_tombstones(
    settings: &Settings,
    partitioner: Box<dyn Partitioner>,
) -> Result<Box<dyn Partitioner>, Invalid> {
    if NullValues::new(settings)? != NullValues::Write {
        return Ok(partitioner);
    }
    let path = settings.required_string(&TOMBSTONE_ENCODED_PARTITION)?;
    let path = format!("{MARK}{}", encode_odd_segments(&path)).into();
    Ok(Box::new(TombstonePartitioner { partitioner, path }))
}

/// Whether each row of `values` has one.
fn rows_with_values(values: &Values) -> Vec<bool> {
    match values {
        Values::Typed(columns) => (0..columns.len()).map(|row| columns.is_valid(row)).collect(),
        Values::Schemaless(texts) => (0..texts.len()).map(|row| texts.is_valid(row)).collect(),
    }
}

impl Partitioner for TombstonePartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        if batch.values.nulls().is_none_or(|nulls| nulls.null_count() == 0) {
            return self.partitioner.split(batch, clock_ms);
        }
        let has_value = rows_with_values(&batch.values);
        let rows: Vec<u32> = (0u32..).zip(&has_value).filter(|(_, has)| **has).map(|(row, _)| row).collect();
        // Asked about no row too: whether rows have times does not depend on how records came.
        let mut placed = self.partitioner.split(&batch.select(&rows), clock_ms);
        let mut split = SplitBuilder::with_capacity(batch.len());
        let tombstones = split.number(&self.path);
        let mut times_ms = placed.times_ms.is_some().then(|| Vec::with_capacity(batch.len()));
        let mut rejected = placed.rejected.iter_mut().peekable();
        let mut place = 0;
        for (row, has_value) in has_value.into_iter().enumerate() {
            if !has_value {
                split.push(tombstones);
                times_ms.iter_mut().for_each(|times| times.push(batch.timestamps_ms[row]));
                continue;
            }
            if let (Some(times), Some(of_values)) = (&mut times_ms, &placed.times_ms) {
                times.push(of_values[place]);
            }
            match rejected.next_if(|one| one.row == place) {
                Some(one) => {
                    one.row = row;
                    split.push_rejected();
                }
                None => {
                    let path = match &placed.split {
                        Split::One(path) => path,
                        Split::Many { paths, of_row } => &paths[of_row[place] as usize],
                    };
                    let number = split.number(path);
                    split.push(number);
                }
            }
            place += 1;
        }
        Placed { split: split.finish(), times_ms: times_ms.map(Into::into), rejected: placed.rejected }
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
    use model::Offset;

    use super::*;
    use crate::Layout;
    use crate::partition::partitioner_plugin;
    use crate::testing::{schemaless, settings};
    use crate::views::{View, Views};

    const WRITE: [(&str, &str); 4] = [
        ("behavior.on.null.values", "write"),
        ("store.kafka.keys", "true"),
        ("keys.format.class", "json"),
        ("format.class", "avro"),
    ];

    fn split(pairs: &[(&str, &str)], batch: &Batch) -> (Placed, Layout) {
        let settings = settings(&WRITE.iter().chain(pairs).copied().collect::<Vec<_>>());
        let mut partitioner = (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap();
        let layout = Layout::new(&settings, ".avro").unwrap().with_views(&Views::new(&settings).unwrap());
        (partitioner.split(batch, 0), layout)
    }

    #[test]
    fn tombstones_lie_in_their_own_directory_whatever_the_partitioner_is() {
        for pairs in [
            &[][..],
            &[("s3.schema.partition.affix.type", "PREFIX")],
            &[("partitioner.class", "field"), ("partition.field.name", "a")],
            &[("partitioner.class", "daily"), ("timezone", "UTC"), ("locale", "en"), ("timestamp.extractor", "Record")],
        ] {
            let batch = schemaless(&[Some("{\"a\":1}"), None, Some("{\"a\":1}"), None]);
            let (placed, layout) = split(pairs, &batch);
            assert!(placed.rejected.is_empty(), "{pairs:?}");
            let key = layout.view_key(View::Keys, &batch.topic_partition, placed.path(1), Offset::new(2).unwrap());
            assert_eq!(key, "topics/test-topic/tombstone/test-topic+12+0000000002.keys.json", "{pairs:?}");
            assert_eq!(placed.path(1), placed.path(3));
            assert!(is_of_tombstones(placed.path(1)) && !is_of_tombstones(placed.path(0)), "{pairs:?}");
        }
    }

    #[test]
    fn a_topic_or_path_that_holds_the_word_is_no_tombstone() {
        let pairs = [("partitioner.class", "template"), ("path.template", "tombstone")];
        let (placed, _) = split(&pairs, &schemaless(&[Some("{}"), None]));
        assert_eq!((placed.path(0).as_ref(), is_of_tombstones(placed.path(0))), ("tombstone", false));
        assert_ne!(placed.path(0), placed.path(1), "values and tombstones share no file");
    }

    #[test]
    fn tombstones_count_under_the_time_of_their_record() {
        let mut batch = schemaless(&[Some("{\"t\":1}"), None, Some("{\"t\":\"x\"}"), Some("{\"t\":3}")]);
        batch.timestamps_ms = vec![10, 20, 30, 40].into();
        let pairs = [
            ("partitioner.class", "hourly"),
            ("timezone", "UTC"),
            ("locale", "en"),
            ("timestamp.extractor", "RecordField"),
            ("timestamp.field", "t"),
        ];
        let (placed, _) = split(&pairs, &batch);
        let times = placed.times_ms.unwrap();
        assert_eq!((times[0], times[1], times[3]), (1, 20, 3));
        assert_eq!(placed.rejected.iter().map(|one| one.row).collect::<Vec<_>>(), [2]);
        let (placed, _) = split(&pairs, &batch.select(&[1]));
        assert_eq!(placed.times_ms.as_deref(), Some(&[20][..]), "also alone");
        assert_eq!(placed.split, Split::One(Arc::from("\u{1}tombstone")));
    }

    #[test]
    fn the_path_can_be_another_and_stays_inside_its_topic() {
        let (placed, layout) = split(&[("tombstone.encoded.partition", "../gone/")], &schemaless(&[None]));
        let lane = schemaless(&[None]).topic_partition;
        let key = layout.view_key(View::Keys, &lane, placed.path(0), Offset::new(0).unwrap());
        assert_eq!(key, "topics/test-topic/%2E%2E/gone%2F/test-topic+12+0000000000.keys.json");
    }
}
