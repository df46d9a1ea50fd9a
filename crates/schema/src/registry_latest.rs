//! The schema that records are read with, where that is not the one they were written with: the latest of their subject.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Check, Importance, Invalid, Key, Kind, Settings};
use serde_json::Value;
use tokio::time::Instant;

use crate::registry::{Lookup, Registered, Registry, WireId, kind, lookup, record_name, text};
use crate::registry_client::Failure;

/// Whether records are read with the newest schema.
pub(crate) const USE_LATEST_VERSION: Key = Key::new(
    "use.latest.version",
    Kind::Boolean,
    "Whether records are read with the latest schema of their subject, not with the one they were written with.",
)
.default("false")
.importance(Importance::Medium)
.group("Schema Registry", 58);

/// The same, among the schemas that have certain metadata.
pub(crate) const USE_LATEST_WITH_METADATA: Key = Key::new(
    "use.latest.with.metadata",
    Kind::List,
    "Records are read with the latest schema of their subject that has this metadata: key=value, separated by commas.",
)
.check(Check::With(|text| metadata(text).map(|_| ())))
.importance(Importance::Medium)
.group("Schema Registry", 59);

/// How long the latest schema is taken for the latest.
pub(crate) const LATEST_CACHE_TTL: Key = Key::new(
    "latest.cache.ttl.sec",
    Kind::Int,
    "Seconds after which the latest schema of a subject is asked for again; -1: not before the task starts again.",
)
.default("-1")
.check(Check::AtLeast(-1))
.group("Schema Registry", 60);

/// Subjects whose latest schema is remembered.
const SUBJECTS_MAX: usize = 1_000;

fn metadata(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let split = |pair: &str| pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    pairs.map(|pair| split(pair).ok_or_else(|| format!("{pair} is no key=value"))).collect()
}

/// Which schema records are read with, and the latest of each subject as far as it is known.
pub(crate) struct Latest {
    wanted: Wanted,
    ttl: Option<Duration>,
    known: Mutex<HashMap<String, (Instant, Arc<Registered>)>>,
}

enum Wanted {
    /// The one they were written with.
    Written,
    Latest,
    WithMetadata(Vec<(String, String)>),
}

impl Latest {
    pub(crate) fn build(settings: &Settings) -> Result<Latest, Invalid> {
        let with = settings.list(&USE_LATEST_WITH_METADATA)?.join(",");
        let pairs = metadata(&with).map_err(|why| Invalid::value(&USE_LATEST_WITH_METADATA, &with, why))?;
        let wanted = match (pairs.is_empty(), settings.boolean(&USE_LATEST_VERSION)?) {
            (false, _) => Wanted::WithMetadata(pairs),
            (true, true) => Wanted::Latest,
            (true, false) => Wanted::Written,
        };
        let ttl = u64::try_from(settings.long(&LATEST_CACHE_TTL)?).ok().map(Duration::from_secs);
        Ok(Latest { wanted, ttl, known: Mutex::default() })
    }
}

/// The schema of a record, and the one it is read with.
pub(crate) struct Reading {
    pub(crate) written: Arc<Registered>,
    /// `None` where it is the same.
    pub(crate) latest: Option<Arc<Registered>>,
}

impl Reading {
    /// The schema whose columns come out.
    pub(crate) fn read_with(&self) -> &Registered {
        self.latest.as_ref().unwrap_or(&self.written)
    }

    /// Tells readings of one record's schema apart.
    pub(crate) fn latest_id(&self) -> Option<i32> {
        self.latest.as_ref().map(|latest| latest.id)
    }
}

impl Registry {
    /// Whether a schema may be read with another one at another time.
    pub(crate) fn reads_latest(&self) -> bool {
        !matches!(self.latest().wanted, Wanted::Written)
    }

    /// The schema of `id` and the one that its records are read with.
    pub(crate) async fn reading(&self, id: impl Into<WireId>, topic: &str) -> Result<Reading, Lookup> {
        let written = self.schema(id, topic).await?;
        if !self.reads_latest() {
            return Ok(Reading { written, latest: None });
        }
        let record = record_name(written.kind, &written.text);
        let subject = self.subjects(topic, record.as_deref()).swap_remove(0);
        let latest = self.latest_of(&subject).await?;
        let latest = Some(latest).filter(|latest| latest.id != written.id || latest.text != written.text);
        Ok(Reading { written, latest })
    }

    async fn latest_of(&self, subject: &str) -> Result<Arc<Registered>, Lookup> {
        let latest = self.latest();
        let is_new = |at: &Instant| latest.ttl.is_none_or(|ttl| at.elapsed() < ttl);
        let known = latest.known.lock().unwrap_or_else(PoisonError::into_inner).get(subject).cloned();
        let stale = match known {
            Some((at, registered)) if is_new(&at) => return Ok(registered),
            Some((_, registered)) => Some(registered),
            None => None,
        };
        let fetched = match (self.fetch_latest(subject).await, stale) {
            // An outage of the registry changes nothing.
            (Err(Lookup::Unavailable(_)), Some(stale)) => stale,
            (fetched, _) => fetched?,
        };
        let mut known = latest.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SUBJECTS_MAX {
            known.clear();
        }
        known.insert(subject.to_owned(), (Instant::now(), fetched.clone()));
        Ok(fetched)
    }

    async fn fetch_latest(&self, subject: &str) -> Result<Arc<Registered>, Lookup> {
        let answer = match &self.latest().wanted {
            Wanted::Written | Wanted::Latest => {
                self.client().get(&["subjects", subject, "versions", "latest"], &[]).await
            }
            Wanted::WithMetadata(pairs) => {
                let query: Vec<(&str, &str)> =
                    pairs.iter().flat_map(|(key, value)| [("key", key.as_str()), ("value", value.as_str())]).collect();
                self.client().get(&["subjects", subject, "metadata"], &query).await
            }
        };
        let answer: Value = match answer {
            Ok(answer) => answer,
            Err(Failure::Missing(why)) => {
                return Err(Lookup::Unknown(format!("Error retrieving latest version of subject {subject}: {why}")));
            }
            Err(other) => return Err(lookup(other)),
        };
        let number = |name: &str| answer[name].as_i64().and_then(|number| i32::try_from(number).ok());
        let mut references = Vec::new();
        self.add_references(&answer, &mut references, &mut Vec::new()).await?;
        Ok(Arc::new(Registered {
            id: number("id").unwrap_or(-1),
            kind: kind(&answer).map_err(Lookup::Config)?,
            text: text(&answer).map_err(Lookup::Config)?,
            references,
            version: number("version"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::registry_fake::{registry, serve};

    static IS_DOWN: AtomicBool = AtomicBool::new(false);

    /// Ids 1 and 2 are versions of subject t-value; version 2 has metadata, and refers to another schema.
    fn answer(path: &str) -> (u16, &'static str) {
        match path {
            _ if IS_DOWN.load(Ordering::SeqCst) && path.contains("latest") => (503, "{}"),
            "/schemas/ids/1" => (200, r#"{"schema":"\"int\""}"#),
            "/schemas/ids/2" => (200, r#"{"schema":"\"long\""}"#),
            "/schemas/ids/1/versions?deleted=true" => (200, r#"[{"subject":"t-value","version":1}]"#),
            "/schemas/ids/2/versions?deleted=true" => (200, r#"[{"subject":"t-value","version":2}]"#),
            "/subjects/t-value/versions/latest" | "/subjects/t-value/metadata?key=stage&value=live&key=a&value=b" => (
                200,
                r#"{"subject":"t-value","id":2,"version":2,"schema":"\"long\"","references":[{"name":"n","subject":"o","version":1}]}"#,
            ),
            "/subjects/o/versions/1?deleted=true" => (200, r#"{"schema":"\"string\""}"#),
            _ => (404, r#"{"error_code":40401,"message":"Subject not found"}"#),
        }
    }

    #[tokio::test]
    async fn records_are_read_with_the_latest_schema_of_their_subject() {
        let (url, count) = serve(answer);
        let plain = registry(&url, &[]);
        assert!(!plain.reads_latest() && plain.reading(1, "t").await.unwrap().latest.is_none());
        for more in [("use.latest.version", "true"), ("use.latest.with.metadata", "stage=live, a=b")] {
            let registry = registry(&url, &[more]);
            let reading = registry.reading(1, "t").await.unwrap();
            let with = reading.read_with();
            assert_eq!((with.id, with.version, with.text.as_str()), (2, Some(2), "\"long\""));
            assert_eq!((with.references[0].name.as_str(), reading.latest_id()), ("n", Some(2)));
            assert!(registry.reading(2, "t").await.unwrap().latest.is_none(), "it is the latest itself");
            let asked = count.load(Ordering::SeqCst);
            registry.reading(1, "t").await.unwrap();
            assert_eq!(count.load(Ordering::SeqCst), asked, "it is asked for once");
            let unknown = "Error retrieving latest version of subject u-value: Subject not found; error code: 40401";
            assert_eq!(registry.reading(1, "u").await.err(), Some(Lookup::Unknown(unknown.to_owned())));
        }
        let registry = registry(&url, &[("use.latest.version", "true"), ("latest.cache.ttl.sec", "0")]);
        registry.reading(1, "t").await.unwrap();
        IS_DOWN.store(true, Ordering::SeqCst);
        assert_eq!(registry.reading(1, "t").await.unwrap().latest_id(), Some(2), "an outage changes nothing");
    }

    #[test]
    fn metadata_are_pairs() {
        assert_eq!(metadata("a=b, c = d"), Ok(vec![("a".into(), "b".into()), ("c".into(), "d".into())]));
        assert_eq!(metadata("a"), Err("a is no key=value".to_owned()));
    }
}
