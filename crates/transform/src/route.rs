//! The transforms that choose a topic: `RegexRouter` and `TimestampRouter`.

use arrow::array::{Array, StringArray};
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings};

use crate::date_pattern::DatePattern;
use crate::java::{Pattern, Replacement};
use crate::values::{Refused, topic, without};
use crate::{Transform, Transformed};

const REGEX: Key = Key::new("regex", Kind::String, "Regular expression that the whole name of the topic must match.")
    .required()
    .check(Check::With(check_regex))
    .importance(Importance::High);
const REPLACEMENT: Key =
    Key::new("replacement", Kind::String, "The new topic; $1 and ${name} stand for groups of the expression.")
        .required()
        .importance(Importance::High);
const TOPIC_FORMAT: Key = Key::new(
    "topic.format",
    Kind::String,
    "The new topic; ${topic} and ${timestamp} stand for the old one and the time.",
)
.default("${topic}-${timestamp}")
.importance(Importance::High);
const TIMESTAMP_FORMAT: Key =
    Key::new("timestamp.format", Kind::String, "Pattern of java.text.SimpleDateFormat for the time, in UTC.")
        .default("yyyyMMdd")
        .check(Check::With(check_pattern))
        .importance(Importance::High);

/// The keys of `RegexRouter`.
pub(crate) const REGEX_KEYS: &[Key] = &[REGEX, REPLACEMENT];
/// The keys of `TimestampRouter`.
pub(crate) const TIMESTAMP_KEYS: &[Key] = &[TOPIC_FORMAT, TIMESTAMP_FORMAT];

fn check_regex(text: &str) -> Result<(), String> {
    Pattern::new(text).map(|_| ())
}

fn check_pattern(text: &str) -> Result<(), String> {
    DatePattern::new(text).map(|_| ())
}

struct RegexRouter {
    pattern: Pattern,
    replacement: Replacement,
}

/// Builds `RegexRouter`.
pub(crate) fn build_regex(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let regex = settings.required_string(&REGEX)?;
    let pattern = Pattern::new(&regex).map_err(|why| Invalid::value(&REGEX, &regex, why))?;
    let text = settings.required_string(&REPLACEMENT)?;
    let replacement = Replacement::new(&text, &pattern).map_err(|why| Invalid::value(&REPLACEMENT, &text, why))?;
    Ok(Box::new(RegexRouter { pattern, replacement }))
}

impl RegexRouter {
    fn routed(&self, topic: &str) -> Option<String> {
        self.pattern.matches(topic).then(|| self.pattern.replace_first(topic, &self.replacement))
    }
}

impl Transform for RegexRouter {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        if batch.topics.is_some() {
            let rows = (0..batch.len()).map(|row| {
                let topic = topic(&batch, row);
                self.routed(topic).unwrap_or_else(|| topic.to_owned())
            });
            batch.topics = Some(StringArray::from_iter_values(rows));
        } else if let Some(routed) = self.routed(&batch.topic_partition.topic) {
            batch.topics = Some(StringArray::from_iter_values(std::iter::repeat_n(routed, batch.len())));
        }
        Transformed { batch, rejected: Vec::new() }
    }
}

struct TimestampRouter {
    topic_format: String,
    pattern: DatePattern,
}

/// Builds `TimestampRouter`.
pub(crate) fn build_timestamp(settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    let text = settings.required_string(&TIMESTAMP_FORMAT)?;
    let pattern = DatePattern::new(&text).map_err(|why| Invalid::value(&TIMESTAMP_FORMAT, &text, why))?;
    Ok(Box::new(TimestampRouter { topic_format: settings.required_string(&TOPIC_FORMAT)?, pattern }))
}

impl Transform for TimestampRouter {
    fn apply(&mut self, mut batch: Batch) -> Transformed {
        let mut refused = Refused::new();
        let mut time = String::new();
        let rows = (0..batch.len()).map(|row| {
            let timestamp = batch.timestamps_ms[row];
            if timestamp < 0 {
                refused.push((row, "Timestamp missing on record".to_owned()));
            }
            time.clear();
            self.pattern.format(timestamp, &mut time);
            self.topic_format.replace("${topic}", topic(&batch, row)).replace("${timestamp}", &time)
        });
        let topics = StringArray::from_iter_values(rows);
        debug_assert_eq!(topics.len(), batch.len());
        batch.topics = Some(topics);
        without(batch, refused)
    }
}

#[cfg(test)]
mod tests {
    use crate::values::testing::{build, schemaless, transform};

    #[test]
    fn a_matching_topic_is_rewritten() {
        let mut router = transform("regex-router", &[("regex", "t(.*)"), ("replacement", "$1.new")]);
        let batch = router.apply(schemaless(&["1", "2"])).batch;
        assert_eq!(batch.topics.as_ref().unwrap().value(1), "est.new");
        assert_eq!(router.apply(batch.clone()).batch.topics, batch.topics);
        let mut other = transform("regex-router", &[("regex", "t"), ("replacement", "x")]);
        assert_eq!(other.apply(schemaless(&["1"])).batch.topics, None);
        let error = build("regex-router", &[("regex", "t"), ("replacement", "$1")]).err().unwrap();
        assert_eq!(error.message, "Invalid value $1 for configuration replacement: No group 1");
    }

    #[test]
    fn the_time_becomes_part_of_the_topic() {
        let mut batch = schemaless(&["1", "2"]);
        batch.timestamps_ms = vec![1_483_425_001_864, -1].into();
        let made = transform("timestamp-router", &[]).apply(batch);
        assert_eq!(made.batch.topics.unwrap().value(0), "test-20170103");
        assert_eq!(made.rejected[0].reason, "Timestamp missing on record");
    }
}
