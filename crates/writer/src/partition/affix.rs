//! `s3.schema.partition.affix.type`: the schema's name before or after the partitioner's path (upstream
//! `io.confluent.connect.s3.SchemaPartitioner`).

use std::sync::Arc;

use model::{Batch, Invalid, Settings};

use super::{Partitioner, Placed, SCHEMA_PARTITION_AFFIX_TYPE, Split, encode_odd_segments};
use crate::layout::DIRECTORY_DELIM;

/// Where the schema's name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    After,
}

/// Puts `schema_name=N` into every path; N is `null` for values whose schema has no name, or that have none.
struct AffixPartitioner {
    partitioner: Box<dyn Partitioner>,
    place: Place,
    delimiter: String,
}

/// `partitioner`, with the schema's name in its paths if `settings` ask for it.
pub(super) fn affixed(settings: &Settings, partitioner: Box<dyn Partitioner>) -> Result<Box<dyn Partitioner>, Invalid> {
    let place = match settings.required_string(&SCHEMA_PARTITION_AFFIX_TYPE)?.as_str() {
        "PREFIX" => Place::Before,
        "SUFFIX" => Place::After,
        _ => return Ok(partitioner),
    };
    let delimiter = settings.required_string(&DIRECTORY_DELIM)?;
    Ok(Box::new(AffixPartitioner { partitioner, place, delimiter }))
}

impl Partitioner for AffixPartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        let mut placed = self.partitioner.split(batch, clock_ms);
        let name = batch.schema.as_ref().and_then(|schema| schema.name.as_deref()).unwrap_or("null");
        let affix = format!("schema_name={name}");
        let affix = encode_odd_segments(&affix);
        let whole = |path: &Arc<str>| -> Arc<str> {
            match self.place {
                Place::Before => format!("{affix}{}{path}", self.delimiter),
                Place::After => format!("{path}{}{affix}", self.delimiter),
            }
            .into()
        };
        match &mut placed.split {
            Split::One(path) => *path = whole(path),
            Split::Many { paths, .. } => paths.iter_mut().for_each(|path| *path = whole(path)),
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
    use crate::layout::Layout;
    use crate::partition::partitioner_plugin;
    use crate::testing::{settings, timed};
    use model::{Offset, ValueSchema};

    /// Hours of this time, 10:00 on 2 March 2017 in UTC.
    const TIME_MS: i64 = 1_488_448_800_000;

    fn key(pairs: &[(&str, &str)], name: Option<&str>, topic: Option<&str>) -> String {
        let settings = settings(pairs);
        let mut batch = timed(&[TIME_MS]);
        batch.schema = name.map(|name| Arc::new(ValueSchema { name: Some(name.to_owned()), version: None }));
        batch.topics = topic.map(|topic| vec![Some(topic)].into());
        let mut partitioner = (partitioner_plugin(&settings).unwrap().build)(&settings).unwrap();
        let placed = partitioner.split(&batch, 0);
        assert_eq!(placed.rejected, []);
        let layout = Layout::new(&settings, ".avro").unwrap();
        layout.object_key(&batch.topic_partition, placed.path(0), Offset::new(0).unwrap())
    }

    #[test]
    fn the_schema_s_name_stands_before_or_after_the_path_inside_the_topic() {
        let hourly = [
            ("partitioner.class", "hourly"),
            ("locale", "en"),
            ("timezone", "UTC"),
            ("timestamp.extractor", "Record"),
            ("s3.schema.partition.affix.type", "PREFIX"),
        ];
        assert_eq!(
            key(&hourly, Some("record"), None),
            "topics/test-topic/schema_name=record/year=2017/month=03/day=02/hour=10/test-topic+12+0000000000.avro"
        );
        let suffix = [("s3.schema.partition.affix.type", "SUFFIX"), ("transforms.r.type", "RegexRouter")];
        for (name, topic, expected) in [
            (None, None, "topics/test-topic/partition=12/schema_name=null/test-topic+12+0000000000.avro"),
            (Some("a..b"), None, "topics/test-topic/partition=12/schema_name=a..b/test-topic+12+0000000000.avro"),
            (Some("/../x"), None, "topics/test-topic/partition=12/schema_name=/%2E%2E/x/test-topic+12+0000000000.avro"),
            (None, Some("r"), "topics/r/partition=12/schema_name=null/r+test-topic+12+0000000000.avro"),
        ] {
            assert_eq!(key(&suffix, name, topic), expected);
        }
        assert_eq!(
            key(&[("s3.schema.partition.affix.type", "NONE")], Some("x"), None),
            "topics/test-topic/partition=12/test-topic+12+0000000000.avro"
        );
    }

    #[test]
    fn another_place_is_refused() {
        let settings = settings(&[("s3.schema.partition.affix.type", "prefix")]);
        assert!((partitioner_plugin(&settings).unwrap().build)(&settings).is_err());
    }
}
