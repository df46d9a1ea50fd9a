//! The schema history of each topic: hidden objects beside the data, one a version, each made once and never changed.

use std::collections::HashMap;
use std::sync::Arc;

use model::SchemaRef;
use schema::TableSchema;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::{info, warn};
use writer::{Created, Layout, Store};

use crate::TaskError;

/// A version of a topic's schema.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// 1 and up; 0 for a schema that the configuration or the records themselves give.
    pub(crate) number: u32,
    pub(crate) schema: TableSchema,
}

impl Version {
    /// A schema that is stored nowhere because it is given.
    pub(crate) fn given(schema: TableSchema) -> Version {
        Version { number: 0, schema }
    }

    pub(crate) fn reference(&self) -> SchemaRef {
        SchemaRef { version: self.number, fingerprint: self.schema.fingerprint() }
    }
}

/// Where objects beside those of data lie that belong to `topic`.
pub(crate) fn hidden_directory(layout: &Layout, topic: &str) -> String {
    format!("{}/_sluice", layout.topic_directory(topic).trim_end_matches('/'))
}

/// The stored schemas of a connector's topics, shared by all its lanes and, through the store, by all its tasks.
///
/// Version `n` of topic `t` is the object `<topics.dir>/t/_sluice/schema-<n, 10 digits>.json`; names that begin with an
/// underscore are hidden from Spark, Hive, Trino and pyarrow. Its rows are Spark's StructType JSON.
#[derive(Debug)]
pub struct TopicSchemas {
    store: Store,
    layout: Layout,
    latest: Mutex<HashMap<Arc<str>, Version>>,
}

impl TopicSchemas {
    /// Schemas in `store`, beside the objects that `layout` names.
    pub fn new(store: Store, layout: Layout) -> TopicSchemas {
        TopicSchemas { store, layout, latest: Mutex::default() }
    }

    fn directory(&self, topic: &str) -> String {
        hidden_directory(&self.layout, topic)
    }

    fn key(&self, topic: &str, number: u32) -> String {
        format!("{}/schema-{number:010}.json", self.directory(topic))
    }

    /// Repeats `request` while the store does not answer, as publishing does: an outage must not fail the task.
    async fn until_answered<T, F>(&self, request: impl Fn() -> F) -> Result<T, writer::Error>
    where
        F: Future<Output = Result<T, writer::Error>>,
    {
        loop {
            match request().await {
                Err(error) if error.is_transient() => {
                    warn!(error = %error, "store does not answer, asking for the schema again");
                    sleep(self.store.rules().redelivery).await;
                }
                answer => return answer,
            }
        }
    }

    async fn load(&self, topic: &str, number: u32) -> Result<Option<Version>, TaskError> {
        let key = self.key(topic, number);
        let Some(bytes) = self.until_answered(|| self.store.read(&key)).await? else { return Ok(None) };
        let broken =
            |why: String| TaskError::Data(format!("could not read the stored schema {key}: {why}; restore the object"));
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        let schema = TableSchema::from_json(&value["schema"].to_string()).map_err(|error| broken(error.to_string()))?;
        Ok(Some(Version { number, schema }))
    }

    /// The newest version; `None` while nothing was ever inferred for `topic`.
    pub(crate) async fn latest(&self, topic: &Arc<str>) -> Result<Option<Version>, TaskError> {
        let mut latest = self.latest.lock().await;
        self.refresh(topic, &mut latest).await
    }

    async fn refresh(
        &self,
        topic: &Arc<str>,
        latest: &mut HashMap<Arc<str>, Version>,
    ) -> Result<Option<Version>, TaskError> {
        let mut known = match latest.get(topic) {
            Some(version) => Some(version.clone()),
            None => {
                let directory = self.directory(topic);
                let keys = self.until_answered(|| self.store.list(&directory)).await?;
                let numbers = keys
                    .into_iter()
                    .filter_map(|key| key.rsplit_once("schema-")?.1.strip_suffix(".json")?.parse::<u32>().ok());
                match numbers.max() {
                    Some(number) => self.load(topic, number).await?,
                    None => None,
                }
            }
        };
        while let Some(version) = self.load(topic, known.as_ref().map_or(1, |version| version.number + 1)).await? {
            known = Some(version);
        }
        if let Some(version) = &known {
            latest.insert(topic.clone(), version.clone());
        }
        Ok(known)
    }

    /// Makes `schema` the version after `base`, unless there is a newer one than `base`: that one is returned then, and
    /// the caller looks at its rows again. In no case is anything overwritten.
    pub(crate) async fn propose(
        &self,
        topic: &Arc<str>,
        base: Option<&Version>,
        schema: TableSchema,
    ) -> Result<Version, TaskError> {
        let mut latest = self.latest.lock().await;
        let base_number = base.map_or(0, |version| version.number);
        if let Some(newer) = latest.get(topic).filter(|version| version.number > base_number) {
            return Ok(newer.clone());
        }
        let number = base_number + 1;
        let rows: Value = serde_json::from_str(&schema.to_json()).expect("a schema's text is JSON");
        let text = json!({ "version": number, "fingerprint": schema.fingerprint().to_string(), "schema": rows });
        let bytes = serde_json::to_vec_pretty(&text).expect("JSON values can be written");
        let key = self.key(topic, number);
        match self.until_answered(|| self.store.create(&key, bytes.clone().into())).await? {
            Created::New => {
                info!(%topic, version = number, fields = schema.fields().len(), "schema stored");
                let version = Version { number, schema };
                latest.insert(topic.clone(), version.clone());
                Ok(version)
            }
            Created::AlreadyThere => self.refresh(topic, &mut latest).await?.ok_or_else(|| {
                TaskError::Transient(format!("the stored schema {} was there and is gone", self.key(topic, number)))
            }),
        }
    }

    /// The version that a plan was made with.
    pub(crate) async fn recorded(&self, topic: &str, wanted: SchemaRef) -> Result<Version, TaskError> {
        match self.load(topic, wanted.version).await? {
            Some(version) if version.schema.fingerprint() == wanted.fingerprint => Ok(version),
            Some(_) | None => Err(TaskError::Data(format!(
                "the plan of a cut refers to schema version {} ({}), but {} holds another one or is gone; restore the object",
                wanted.version,
                wanted.fingerprint,
                self.key(topic, wanted.version)
            ))),
        }
    }
}
