//! What becomes of records without a value (tombstones).

use model::{Batch, Check, Invalid, Key, Kind, Position, Settings, Width};

/// What becomes of records without a value.
pub const BEHAVIOR_ON_NULL_VALUES: Key = Key::new(
    "behavior.on.null.values",
    Kind::String,
    "What to do with a record without a value: fail stops the task, whatever errors.tolerance says; ignore leaves it out; \
     write puts its key (store.kafka.keys must be true) into a file below tombstone.encoded.partition.",
)
.default("fail")
.check(Check::OneOfIgnoringCase(&["fail", "ignore", "write"]))
.group("S3", 26)
.shown(Width::Short, "Behavior for null-valued records");

/// Whether those that are left out are reported.
pub const REPORT_NULL_VALUES_TO_DLQ: Key = Key::new(
    "report.null.values.to.dlq",
    Kind::Boolean,
    "Whether records left out by behavior.on.null.values=ignore are reported as bad records are, to the dead letter topic \
     and the log. They stop no task.",
)
.default("true")
.group("S3", 27)
.shown(Width::Short, "Report null value to dlq");

/// Where keys of records without a value lie.
pub const TOMBSTONE_ENCODED_PARTITION: Key = Key::new(
    "tombstone.encoded.partition",
    Kind::String,
    "Path below the topic's directory of the keys of records without a value, with behavior.on.null.values=write.",
)
.default("tombstone")
.check(Check::NotEmpty)
.group("S3", 30)
.shown(Width::Short, "Tombstone Encoded Partition");

/// Keys of records without a value.
pub(crate) const KEYS: &[Key] = &[BEHAVIOR_ON_NULL_VALUES, REPORT_NULL_VALUES_TO_DLQ, TOMBSTONE_ENCODED_PARTITION];

/// What becomes of records without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NullValues {
    /// The task stops.
    Fail,
    /// They are left out.
    Ignore,
    /// Their keys are written.
    Write,
}

/// A record without a value where none may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{at}: Null valued records are not writeable with current behavior.on.null.values 'settings. Set it to ignore to leave them out"
)]
pub struct NullValue {
    /// The first such record.
    pub at: Position,
}

impl NullValues {
    /// What the settings say.
    pub fn new(settings: &Settings) -> Result<NullValues, Invalid> {
        let text = settings.required_string(&BEHAVIOR_ON_NULL_VALUES)?;
        Ok(match text.to_ascii_lowercase().as_str() {
            "ignore" => NullValues::Ignore,
            "write" => NullValues::Write,
            _ => NullValues::Fail,
        })
    }

    /// The batch without such records; `None` when the batch is good as it is.
    pub fn sift(self, batch: &Batch) -> Result<Option<Batch>, NullValue> {
        let Some(nulls) = batch.values.nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(None) };
        match self {
            NullValues::Fail => {
                let row = (0..batch.len()).find(|row| nulls.is_null(*row)).unwrap_or(0);
                Err(NullValue { at: batch.position(row) })
            }
            NullValues::Ignore => {
                let rows: Vec<u32> =
                    (0u32..).zip(nulls.iter()).filter(|(_, valid)| *valid).map(|(row, _)| row).collect();
                Ok(Some(batch.select(&rows)))
            }
            NullValues::Write => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Headers, Offset, RawBatchBuilder, TopicPartition, Values};

    fn batch(values: &[Option<&[u8]>]) -> Batch {
        let mut builder = RawBatchBuilder::new(TopicPartition::new("t", 0), 4, 4);
        for (offset, value) in (0i64..).zip(values) {
            builder.push(Offset::new(offset).unwrap(), 0, None, *value, Headers::new());
        }
        let raw = builder.finish();
        Batch::decoded(&raw, Values::Schemaless(raw.values.clone()))
    }

    #[test]
    fn tombstones_stop_the_task_or_are_left_out() {
        let some = batch(&[Some(b"1"), None, Some(b"")]);
        let left = NullValues::Ignore.sift(&some).unwrap().unwrap();
        assert_eq!(left.offsets.as_ref(), [0, 2]);
        assert!(
            NullValues::Fail
                .sift(&some)
                .unwrap_err()
                .to_string()
                .starts_with("t-0@1: Null valued records are not writeable")
        );
        assert!(NullValues::Fail.sift(&batch(&[Some(b"1")])).unwrap().is_none());
        assert!(NullValues::Ignore.sift(&batch(&[None])).unwrap().unwrap().is_empty());
        assert!(NullValues::Write.sift(&some).unwrap().is_none());
    }

    #[test]
    fn words_are_known_in_any_case() {
        let settings = |value: &str| Settings::new([("behavior.on.null.values".to_owned(), value.to_owned())].into());
        assert_eq!(NullValues::new(&settings("IGNORE")), Ok(NullValues::Ignore));
        assert_eq!(NullValues::new(&settings("Write")), Ok(NullValues::Write));
        assert!(settings("x").problem(&BEHAVIOR_ON_NULL_VALUES).is_some());
    }
}
