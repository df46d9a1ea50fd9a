//! The schema registry as converters see it: ids of records in, schemas with their references out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Headers, Invalid, RawBatch, Rejected, Settings};
use serde_json::Value;
use tokio::time::Instant;

use crate::registry_client::{Failure, RegistryClient};
use crate::registry_keys::{KEY_SUBJECT_NAME_STRATEGY, VALUE_SUBJECT_NAME_STRATEGY};
use crate::registry_latest::Latest;
use crate::{Decoded, Error, Part};

/// How long an id that the registry did not know is not asked for again.
const UNKNOWN_KEPT: Duration = Duration::from_secs(30);

/// Ids that are remembered; arbitrary bytes could name any number of them.
const REMEMBERED_MAX: usize = 10_000;

/// Schemas that one schema may refer to, at all levels together.
const REFERENCES_MAX: usize = 1_000;

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SchemaKind {
    Avro,
    Protobuf,
    Json,
}

/// A schema as the registry holds it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Its number; -1 if it was found by a GUID and the registry tells no number.
    pub(crate) id: i32,
    pub(crate) kind: SchemaKind,
    pub(crate) text: String,
    /// What it refers to, directly or not; each stands behind what it refers to itself.
    pub(crate) references: Vec<Reference>,
    /// Its version under the record's subject.
    pub(crate) version: Option<i32>,
}

/// A schema that another one refers to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The name by which it is meant: a type's full name, the path of an import, or a URL.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What a record says about its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WireId {
    /// A number.
    Id(i32),
    /// A GUID.
    Guid([u8; 16]),
}

impl From<i32> for WireId {
    fn from(id: i32) -> WireId {
        WireId::Id(id)
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireId::Id(id) => write!(f, "{id}"),
            WireId::Guid(bytes) => bytes.iter().enumerate().try_for_each(|(index, byte)| {
                let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(f, "{dash}{byte:02x}")
            }),
        }
    }
}

/// Why there is no schema for an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The registry does not know it: the record is to blame.
    Unknown(String),
    /// The registry does not answer: the same call may succeed later.
    Unavailable(String),
    /// The registry refuses, or is none: a person must act.
    Config(String),
}

impl Lookup {
    /// The reason to reject the record for, or the error of the whole batch.
    pub(crate) fn reason(self) -> Result<String, Error> {
        match self {
            Lookup::Unknown(reason) => Ok(reason),
            Lookup::Unavailable(why) => Err(Error::Unavailable(why)),
            Lookup::Config(why) => Err(Error::Config(why)),
        }
    }
}

/// Which subject a record's schema is looked for under (`io.confluent.kafka.serializers.subject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SubjectNames {
    Topic,
    Record,
    TopicRecord,
}

/// A registry with what it told so far. Clones share both.
#[derive(Clone)]
pub(crate) struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    client: RegistryClient,
    part: Part,
    names: SubjectNames,
    latest: Latest,
    known: Mutex<Known>,
}

/// What was found or missed, by id and topic: the version is that of the topic's subject.
#[derive(Default)]
struct Known {
    found: HashMap<WireId, HashMap<String, Arc<Registered>>>,
    missed: HashMap<WireId, (Instant, String)>,
}

impl Registry {
    /// The registry that the settings of a converter name. Nothing is asked and no file is read before the first schema
    /// is wanted.
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Registry, Invalid> {
        let client = RegistryClient::build(settings)?;
        let names = subject_names(settings, part)?;
        let latest = Latest::build(settings)?;
        Ok(Registry { inner: Arc::new(Inner { client, part, names, latest, known: Mutex::default() }) })
    }

    pub(crate) fn client(&self) -> &RegistryClient {
        &self.inner.client
    }

    pub(crate) fn latest(&self) -> &Latest {
        &self.inner.latest
    }

    /// The schema of `id`, with its version under the subject of `topic`. It is asked for once and then remembered; that
    /// there is none is remembered for a short time.
    pub(crate) async fn schema(&self, id: impl Into<WireId>, topic: &str) -> Result<Arc<Registered>, Lookup> {
        let id = id.into();
        if let Some(known) = self.known(id, topic) {
            return known;
        }
        let fetched = self.fetch(id, topic).await;
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.found.len() + known.missed.len() >= REMEMBERED_MAX {
            *known = Known::default();
        }
        match &fetched {
            Ok(registered) => {
                known.found.entry(id).or_default().insert(topic.to_owned(), registered.clone());
            }
            Err(Lookup::Unknown(reason)) => {
                known.missed.insert(id, (Instant::now(), reason.clone()));
            }
            Err(Lookup::Unavailable(_) | Lookup::Config(_)) => {}
        }
        fetched
    }

    fn known(&self, id: WireId, topic: &str) -> Option<Result<Arc<Registered>, Lookup>> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.found.get(&id).and_then(|topics| topics.get(topic)) {
            return Some(Ok(found.clone()));
        }
        let (at, reason) = known.missed.get(&id)?;
        (at.elapsed() < UNKNOWN_KEPT).then(|| Err(Lookup::Unknown(reason.clone())))
    }

    async fn fetch(&self, wire_id: WireId, topic: &str) -> Result<Arc<Registered>, Lookup> {
        let answer = self.fetch_text(wire_id, topic).await?;
        let kind = kind(&answer).map_err(Lookup::Config)?;
        let text = text(&answer).map_err(Lookup::Config)?;
        let mut references = Vec::new();
        self.add_references(&answer, &mut references, &mut Vec::new()).await?;
        let id = match wire_id {
            WireId::Id(id) => id,
            WireId::Guid(_) => self.id_of_guid(wire_id).await?,
        };
        let version = if id < 0 { None } else { self.version(id, topic, kind, &text).await? };
        Ok(Arc::new(Registered { id, kind, text, references, version }))
    }

    /// The registry's answer for an id. If the default context does not know it, the one in which the topic's subject is
    /// may, so that is asked too.
    async fn fetch_text(&self, id: WireId, topic: &str) -> Result<Value, Lookup> {
        let part = part_name(self.inner.part);
        let shown = id.to_string();
        let unknown =
            |why: String| Lookup::Unknown(format!("Error retrieving {part} schema for {}: {why}", id_name(id)));
        let client = &self.inner.client;
        match id {
            WireId::Guid(_) => client.get(&["schemas", "guids", &shown], &[]).await.map_err(|failure| match failure {
                Failure::Missing(why) => unknown(why),
                Failure::Unavailable(why) => Lookup::Unavailable(why),
                Failure::Untrusted(why) | Failure::Config(why) => Lookup::Config(why),
            }),
            WireId::Id(_) => {
                let path = ["schemas", "ids", &shown];
                let why = match client.get(&path, &[]).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failure::Missing(why)) => why,
                    Err(other) => return Err(lookup(other)),
                };
                let subject = format!("{topic}-{part}");
                match client.get(&path, &[("subject", &subject)]).await {
                    Ok(answer) => Ok(answer),
                    Err(Failure::Missing(_)) => Err(unknown(why)),
                    Err(other) => Err(lookup(other)),
                }
            }
        }
    }

    async fn id_of_guid(&self, guid: WireId) -> Result<i32, Lookup> {
        match self.inner.client.get(&["schemas", "guids", &guid.to_string(), "ids"], &[]).await {
            Ok(answer) => Ok(answer[0]["id"].as_i64().and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)),
            Err(Failure::Missing(_)) => Ok(-1),
            Err(other) => Err(lookup(other)),
        }
    }

    /// Appends what the schema of `answer` refers to, depth first.
    pub(crate) async fn add_references(
        &self,
        answer: &Value,
        references: &mut Vec<Reference>,
        started: &mut Vec<String>,
    ) -> Result<(), Lookup> {
        for reference in answer["references"].as_array().into_iter().flatten() {
            let (Some(name), Some(subject), Some(version)) =
                (reference["name"].as_str(), reference["subject"].as_str(), reference["version"].as_i64())
            else {
                let why = "the schema registry names a reference without name, subject and version";
                return Err(Lookup::Config(format!("{why}: {reference}")));
            };
            if started.iter().any(|known| known == name) {
                continue;
            }
            if started.len() >= REFERENCES_MAX {
                return Err(Lookup::Config(format!("a schema refers to more than {REFERENCES_MAX} others")));
            }
            started.push(name.to_owned());
            let path = ["subjects", subject, "versions", &version.to_string()];
            let answer = self.inner.client.get(&path, &[("deleted", "true")]).await.map_err(lookup)?;
            Box::pin(self.add_references(&answer, references, started)).await?;
            references.push(Reference { name: name.to_owned(), text: text(&answer).map_err(Lookup::Config)? });
        }
        Ok(())
    }

    /// The version that the schema has under the record's subject, whichever strategy the producer followed.
    async fn version(&self, id: i32, topic: &str, kind: SchemaKind, text: &str) -> Result<Option<i32>, Lookup> {
        let path = ["schemas", "ids", &id.to_string(), "versions"];
        let answer = match self.inner.client.get(&path, &[("deleted", "true")]).await {
            Ok(answer) => answer,
            Err(Failure::Missing(_)) => return Ok(None),
            Err(other) => return Err(lookup(other)),
        };
        let entry = |entry: &Value| {
            let version = entry["version"].as_i64().and_then(|version| i32::try_from(version).ok())?;
            Some((plain_subject(entry["subject"].as_str()?).to_owned(), version))
        };
        let entries: Vec<(String, i32)> = answer.as_array().into_iter().flatten().filter_map(entry).collect();
        let record = record_name(kind, text);
        for subject in self.subjects(topic, record.as_deref()) {
            if let Some(version) =
                entries.iter().filter(|(known, _)| *known == subject).map(|(_, version)| *version).max()
            {
                return Ok(Some(version));
            }
        }
        Ok(match entries.as_slice() {
            [(_, version)] => Some(*version),
            _ => None,
        })
    }

    /// The subjects that strategies give, that of the configured one first.
    pub(crate) fn subjects(&self, topic: &str, record: Option<&str>) -> Vec<String> {
        let by_topic = format!("{topic}-{}", part_name(self.inner.part));
        let (Some(record), topic) = (record, topic) else { return vec![by_topic] };
        let (by_record, by_both) = (record.to_owned(), format!("{topic}-{record}"));
        match self.inner.names {
            SubjectNames::Topic => vec![by_topic, by_both, by_record],
            SubjectNames::Record => vec![by_record, by_both, by_topic],
            SubjectNames::TopicRecord => vec![by_both, by_record, by_topic],
        }
    }
}

fn subject_names(settings: &Settings, part: Part) -> Result<SubjectNames, Invalid> {
    let key = match part {
        Part::Key => &KEY_SUBJECT_NAME_STRATEGY,
        // No converter of headers asks a registry.
        Part::Value | Part::Header => &VALUE_SUBJECT_NAME_STRATEGY,
    };
    let name = settings.required_string(key)?;
    match name.rsplit('.').next().unwrap_or_default() {
        "TopicNameStrategy" | "AssociatedNameStrategy" => Ok(SubjectNames::Topic),
        "RecordNameStrategy" => Ok(SubjectNames::Record),
        "TopicRecordNameStrategy" => Ok(SubjectNames::TopicRecord),
        _ => Err(Invalid::value(
            key,
            &name,
            "unknown strategy; use TopicNameStrategy, RecordNameStrategy or TopicRecordNameStrategy",
        )),
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Key => "key",
        Part::Value | Part::Header => "value",
    }
}

fn id_name(id: WireId) -> String {
    match id {
        WireId::Id(_) => format!("id {id}"),
        WireId::Guid(_) => format!("guid {id}"),
    }
}

/// What is missing beside the schema itself is no fault of the record.
pub(crate) fn lookup(failure: Failure) -> Lookup {
    match failure {
        Failure::Missing(why) | Failure::Untrusted(why) | Failure::Config(why) => Lookup::Config(why),
        Failure::Unavailable(why) => Lookup::Unavailable(why),
    }
}

pub(crate) fn kind(answer: &Value) -> Result<SchemaKind, String> {
    match answer["schemaType"].as_str() {
        None | Some("AVRO") => Ok(SchemaKind::Avro),
        Some("PROTOBUF") => Ok(SchemaKind::Protobuf),
        Some("JSON") => Ok(SchemaKind::Json),
        Some(other) => Err(format!("the schema registry has a schema of type {other}, which is not supported")),
    }
}

pub(crate) fn text(answer: &Value) -> Result<String, String> {
    answer["schema"].as_str().map(str::to_owned).ok_or_else(|| {
        "what answers under schema.registry.url is no schema registry: there is no \"schema\" in its answer".to_owned()
    })
}

/// A subject without its context: `:.context:subject`.
fn plain_subject(subject: &str) -> &str {
    match subject.strip_prefix(":.").and_then(|rest| rest.split_once(':')) {
        Some((_, plain)) => plain,
        None => subject,
    }
}

/// The name by which the strategies of records call a schema.
pub(crate) fn record_name(kind: SchemaKind, text: &str) -> Option<String> {
    match kind {
        SchemaKind::Avro => {
            let json: Value = serde_json::from_str(text).ok()?;
            let name = json["name"].as_str()?;
            match json["namespace"].as_str() {
                Some(namespace) if !namespace.is_empty() && !name.contains('.') => Some(format!("{namespace}.{name}")),
                Some(_) | None => Some(name.to_owned()),
            }
        }
        SchemaKind::Json => {
            serde_json::from_str::<Value>(text).ok().and_then(|json| json["title"].as_str().map(str::to_owned))
        }
        SchemaKind::Protobuf => None,
    }
}

/// The name of the header that holds the id of `part`'s schema (`io.confluent.kafka.serializers.schema.id.SchemaId`).
const fn id_header(part: Part) -> &'static str {
    match part {
        Part::Key => "__key_schema_id",
        Part::Value | Part::Header => "__value_schema_id",
    }
}

/// Takes an id from the front: magic byte 0 and 4 bytes, or magic byte 1 and the 16 bytes of a GUID.
fn take_id(bytes: &[u8]) -> Result<(WireId, &[u8]), String> {
    let short = || format!("Error deserializing schema ID: {} bytes are too few for a schema id", bytes.len());
    match bytes.split_first() {
        Some((0, rest)) => {
            let (id, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            Ok((WireId::Id(i32::from_be_bytes(*id)), rest))
        }
        Some((1, rest)) => {
            let (guid, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            Ok((WireId::Guid(*guid), rest))
        }
        Some((_, _)) => Err("Error deserializing schema ID: Unknown magic byte!".to_owned()),
        None => Err(short()),
    }
}

/// The header that holds the id, if the record has one; the last one counts.
fn id_header_value(headers: Option<&Headers>, part: Part) -> Option<&[u8]> {
    let (_, value) = headers?.iter().rfind(|(name, _)| name == id_header(part))?;
    value.as_deref()
}

/// The id of a record's schema, and the bytes that it describes. The id stands in a header or in front of the value, as
/// `DualSchemaIdDeserializer` has it. The error is the sentence to reject the record with.
///
/// Protobuf's message indexes follow the id: where the id is in a header, see [`header_rest`].
pub(crate) fn split_wire<'v>(
    value: &'v [u8],
    headers: Option<&Headers>,
    part: Part,
) -> Result<(WireId, &'v [u8]), String> {
    match id_header_value(headers, part) {
        Some(header) => Ok((take_id(header)?.0, value)),
        None => take_id(value),
    }
}

/// What follows the id in the header that holds it: Protobuf's message indexes. `None` where the id is in the value.
pub(crate) fn header_rest(headers: Option<&Headers>, part: Part) -> Option<&[u8]> {
    take_id(id_header_value(headers, part)?).ok().map(|(_, rest)| rest)
}

/// Rows that follow each other and have one schema. Nulls belong to the run before them; a run without an id has only
/// nulls, at the beginning of a batch that has nothing else.
pub(crate) struct Run<'r> {
    pub(crate) id: Option<WireId>,
    /// Row numbers in the batch, with what the schema describes; `None` for a null.
    pub(crate) cells: Vec<(usize, Option<&'r [u8]>)>,
}

/// Sorts the rows of `raw` into runs of one id; rows without an id are rejected with the sentence of [`split_wire`].
pub(crate) fn runs(raw: &RawBatch, part: Part) -> (Vec<Run<'_>>, Rejections) {
    use arrow::array::Array;
    let column = part.column(raw);
    let (mut runs, mut rejections) = (Vec::<Run<'_>>::new(), Rejections::new(part));
    for row in 0..raw.len() {
        if column.is_null(row) {
            match runs.last_mut() {
                Some(run) => run.cells.push((row, None)),
                None => runs.push(Run { id: None, cells: vec![(row, None)] }),
            }
            continue;
        }
        let headers = raw.headers.as_ref().map(|all| &all[row]);
        let (id, payload) = match split_wire(column.value(row), headers, part) {
            Ok(split) => split,
            Err(reason) => {
                rejections.push(row, reason);
                continue;
            }
        };
        match runs.last_mut() {
            Some(run) if run.id.is_none_or(|known| known == id) => {
                run.id = Some(id);
                run.cells.push((row, Some(payload)));
            }
            Some(_) | None => runs.push(Run { id: Some(id), cells: vec![(row, Some(payload))] }),
        }
    }
    (runs, rejections)
}

/// The rows of a batch that are to blame for something.
pub(crate) struct Rejections {
    part: Part,
    rows: Vec<(usize, String)>,
}

impl Rejections {
    pub(crate) fn new(part: Part) -> Rejections {
        Rejections { part, rows: Vec::new() }
    }

    /// Rejects row `row` of the batch.
    pub(crate) fn push(&mut self, row: usize, reason: String) {
        self.rows.push((row, reason));
    }

    /// Hands on each row with its reason.
    pub(crate) fn each(self, mut take: impl FnMut(usize, String)) {
        self.rows.into_iter().for_each(|(row, reason)| take(row, reason));
    }

    /// What became of the batch.
    pub(crate) fn decoded(mut self, raw: &RawBatch, batches: Vec<model::Batch>) -> Decoded {
        self.rows.sort_by_key(|(row, _)| *row);
        let stage = self.part.stage();
        let name = |(row, reason)| Rejected { row, at: raw.position(row), stage, reason };
        Decoded { batches, rejected: self.rows.into_iter().map(name).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::registry_fake::{Answer, registry, serve};

    fn good(path: &str) -> (u16, &'static str) {
        match path {
            "/schemas/ids/1" => (
                200,
                r#"{"schema":"{\"type\":\"record\",\"name\":\"n.R\",\"fields\":[]}","references":[{"name":"n.S","subject":"s/1","version":3}]}"#,
            ),
            "/schemas/ids/1/versions?deleted=true" => {
                (200, r#"[{"subject":"n.R","version":9},{"subject":":.c:t-value","version":4}]"#)
            }
            "/subjects/s%2F1/versions/3?deleted=true" => {
                (200, r#"{"schema":"\"int\"","references":[{"name":"n.T","subject":"t","version":1}]}"#)
            }
            "/subjects/t/versions/1?deleted=true" => (200, r#"{"schema":"\"long\""}"#),
            _ => (404, r#"{"error_code":40403,"message":"Schema not found"}"#),
        }
    }

    #[tokio::test]
    async fn a_schema_comes_with_its_references_and_version_and_is_asked_for_once() {
        let (url, count) = serve(good);
        let registry = registry(&url, &[]);
        let found = registry.schema(1, "t").await.unwrap();
        assert_eq!((found.kind, found.version), (SchemaKind::Avro, Some(4)));
        let names: Vec<_> = found.references.iter().map(|reference| (&*reference.name, &*reference.text)).collect();
        assert_eq!(names, [("n.T", "\"long\""), ("n.S", "\"int\"")]);
        let asked = count.load(Ordering::SeqCst);
        registry.clone().schema(1, "t").await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), asked);
    }

    #[tokio::test]
    async fn an_unknown_id_is_the_records_fault_and_not_asked_for_again_at_once() {
        let (url, count) = serve(good);
        let registry = registry(&url, &[]);
        let unknown = "Error retrieving value schema for id 7: Schema not found; error code: 40403";
        for _ in 0..2 {
            assert_eq!(registry.schema(7, "t").await, Err(Lookup::Unknown(unknown.to_owned())));
        }
        assert_eq!(count.load(Ordering::SeqCst), 2, "the id alone, and the id with the subject");
    }

    #[tokio::test]
    async fn an_outage_fails_over_or_is_unavailable_and_a_refusal_is_for_a_person() {
        let (down, count) = serve(|_| (503, "{}"));
        assert!(matches!(registry(&down, &[]).schema(1, "t").await, Err(Lookup::Unavailable(_))));
        assert_eq!(count.load(Ordering::SeqCst), 2, "one retry");
        let (up, _) = serve(good);
        assert!(registry(&format!("{down},{up}"), &[]).schema(1, "t").await.is_ok());
        for answer in [(|_| (401, "{}")) as Answer, |_| (403, "{}"), |_| (404, "<html>"), |_| (200, "<html>")] {
            let (url, _) = serve(answer);
            assert!(matches!(registry(&url, &[]).schema(1, "t").await, Err(Lookup::Config(_))));
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (pairs, part) in [
            (&[][..], "Missing required configuration \"schema.registry.url\""),
            (&[("schema.registry.url", "mock://x")], "must begin with http:// or https://, not mock:"),
            (
                &[("schema.registry.url", "http://x"), ("schema.registry.ssl.truststore.location", "/a/b.jks")],
                "a store of type JKS cannot be read, only PEM. Convert it: keytool",
            ),
            (
                &[("schema.registry.url", "http://x"), ("basic.auth.credentials.source", "USER_INFO")],
                "basic.auth.user.info must be given with the credentials source USER_INFO",
            ),
        ] {
            let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let message = Registry::build(&Settings::new(config), Part::Value).err().unwrap().message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_id_stands_in_the_header_or_in_front_of_the_value() {
        let value = [0, 0, 0, 1, 2, 9];
        assert_eq!(split_wire(&value, None, Part::Value), Ok((WireId::Id(258), &[9][..])));
        let mut guid = vec![1];
        guid.extend(0..16);
        guid.push(0);
        let headers = vec![("__value_schema_id".to_owned(), Some(guid))];
        let (id, payload) = split_wire(&value, Some(&headers), Part::Value).unwrap();
        assert_eq!((id.to_string().as_str(), payload), ("00010203-0405-0607-0809-0a0b0c0d0e0f", &value[..]));
        assert_eq!(header_rest(Some(&headers), Part::Value), Some(&[0][..]));
        assert_eq!(split_wire(&value, Some(&headers), Part::Key), Ok((WireId::Id(258), &[9][..])));
        assert_eq!(
            split_wire(b"{}", None, Part::Value).unwrap_err(),
            "Error deserializing schema ID: Unknown magic byte!"
        );
        assert!(split_wire(&[0, 1], None, Part::Value).is_err() && split_wire(&[], None, Part::Value).is_err());
    }
}
