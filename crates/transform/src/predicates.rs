//! The predicates: `HasHeaderKey`, `RecordIsTombstone`, `TopicNameMatches`, and the transform `Filter` that needs one.

use arrow::buffer::BooleanBuffer;
use model::{Batch, Check, Importance, Invalid, Key, Kind, Settings};

use crate::java::Pattern;
use crate::values::{keep_rows, topic};
use crate::{Predicate, Transform, Transformed};

/// The header that a record must have.
pub(crate) const NAME: Key =
    Key::new("name", Kind::String, "The header name.").required().check(Check::NotEmpty).importance(Importance::Medium);

/// The topics that a record may be of.
pub(crate) const PATTERN: Key =
    Key::new("pattern", Kind::String, "A Java regular expression that the whole name of a record's topic must match.")
        .required()
        .check(Check::With(check_pattern))
        .importance(Importance::Medium);

fn check_pattern(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("String must be non-empty".to_owned());
    }
    Pattern::new(text).map(|_| ())
}

struct HasHeaderKey {
    name: String,
}

/// Builds `HasHeaderKey`.
pub(crate) fn build_has_header_key(settings: &Settings) -> Result<Box<dyn Predicate>, Invalid> {
    Ok(Box::new(HasHeaderKey { name: settings.required_string(&NAME)? }))
}

impl Predicate for HasHeaderKey {
    fn test(&self, batch: &Batch) -> BooleanBuffer {
        match &batch.headers {
            None => BooleanBuffer::new_unset(batch.len()),
            Some(headers) => headers.iter().map(|of_row| of_row.iter().any(|(name, _)| *name == self.name)).collect(),
        }
    }
}

struct RecordIsTombstone;

/// Builds `RecordIsTombstone`.
pub(crate) fn build_record_is_tombstone(_settings: &Settings) -> Result<Box<dyn Predicate>, Invalid> {
    Ok(Box::new(RecordIsTombstone))
}

impl Predicate for RecordIsTombstone {
    fn test(&self, batch: &Batch) -> BooleanBuffer {
        match batch.values.nulls() {
            None => BooleanBuffer::new_unset(batch.len()),
            Some(nulls) => !nulls.inner(),
        }
    }
}

struct TopicNameMatches {
    pattern: Pattern,
}

/// Builds `TopicNameMatches`.
pub(crate) fn build_topic_name_matches(settings: &Settings) -> Result<Box<dyn Predicate>, Invalid> {
    let text = settings.required_string(&PATTERN)?;
    let pattern = Pattern::new(&text).map_err(|why| Invalid::value(&PATTERN, &text, why))?;
    Ok(Box::new(TopicNameMatches { pattern }))
}

impl Predicate for TopicNameMatches {
    fn test(&self, batch: &Batch) -> BooleanBuffer {
        if batch.topics.is_some() {
            return (0..batch.len()).map(|row| self.pattern.matches(topic(batch, row))).collect();
        }
        match self.pattern.matches(&batch.topic_partition.topic) {
            true => BooleanBuffer::new_set(batch.len()),
            false => BooleanBuffer::new_unset(batch.len()),
        }
    }
}

struct Filter;

/// Builds `Filter`, which drops every record that it is given: its predicate says which.
pub(crate) fn build_filter(_settings: &Settings) -> Result<Box<dyn Transform>, Invalid> {
    Ok(Box::new(Filter))
}

impl Transform for Filter {
    fn apply(&mut self, batch: Batch) -> Transformed {
        Transformed { batch: keep_rows(batch, |_row| false), rejected: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{schemaless, settings, whole_texts};
    use std::sync::Arc;

    fn bits(predicate: Result<Box<dyn Predicate>, Invalid>, batch: &Batch) -> Vec<bool> {
        predicate.unwrap().test(batch).iter().collect()
    }

    #[test]
    fn tombstones_are_null_values() {
        let none = settings(&[]);
        let rows = schemaless(&["{}", "null", "0"]);
        assert_eq!(bits(build_record_is_tombstone(&none), &rows), [false, true, false]);
        let rows = whole_texts(vec![None, Some("")]);
        assert_eq!(bits(build_record_is_tombstone(&none), &rows), [true, false]);
    }

    #[test]
    fn a_header_is_found_by_its_exact_name() {
        let mut rows = schemaless(&["1", "2", "3"]);
        let found = |rows: &Batch| bits(build_has_header_key(&settings(&[("name", "h")])), rows);
        assert_eq!(found(&rows), [false, false, false]);
        let header = |name: &str| vec![("x".to_owned(), None), (name.to_owned(), None)];
        rows.headers = Some(Arc::new(vec![header("h"), header("H"), Vec::new()]));
        assert_eq!(found(&rows), [true, false, false]);
    }

    #[test]
    fn topics_match_as_a_whole_and_as_routed() {
        let mut rows = schemaless(&["1", "2"]);
        let found = |pattern, rows: &Batch| bits(build_topic_name_matches(&settings(&[("pattern", pattern)])), rows);
        assert_eq!(found("te", &rows), [false, false]);
        assert_eq!(found("te.*", &rows), [true, true]);
        rows.topics = Some(vec![Some("other"), None].into());
        assert_eq!(found("te.*", &rows), [false, true]);
    }
}
