//! The schema history of each topic: hidden objects beside the data, one a version, each made once and never changed.

use std::collections::HashMap;
use std::fmt;
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

/// The columns of the table that rows go to. Their types do not change, whatever records say.
#[derive(Clone)]
pub struct TableColumns {
    /// What it has now; none while it is not there.
    pub now: Arc<dyn Fn() -> TableSchema + Send + Sync>,
    /// Whether it gets columns that it lacks.
    pub may_grow: bool,
}

impl fmt::Debug for TableColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableColumns").field("may_grow", &self.may_grow).finish_non_exhaustive()
    }
}

/// The stored schemas of a connector's topics, shared by all its lanes and, through the store, by all its tasks.
///
/// Version `n` of topic `t` is the object `<topics.dir>/t/_sluice/schema-<n, 10 digits>-<fingerprint>.json`; names that
/// begin with an underscore are hidden from Spark, Hive, Trino and pyarrow. Its rows are Spark's StructType JSON. Since the
/// name tells the content, nothing is overwritten on a store without conditional requests either.
#[derive(Debug)]
pub struct TopicSchemas {
    store: Store,
    layout: Layout,
    table: Option<TableColumns>,
    latest: Mutex<HashMap<Arc<str>, Version>>,
}

impl TopicSchemas {
    /// Schemas in `store`, beside the objects that `layout` names.
    pub fn new(store: Store, layout: Layout) -> TopicSchemas {
        TopicSchemas { store, layout, table: None, latest: Mutex::default() }
    }

    /// The same, of rows that go to a table.
    pub fn of_table(self, table: TableColumns) -> TopicSchemas {
        TopicSchemas { table: Some(table), ..self }
    }

    /// The columns of `schema` as rows must have them: where there is a table, its columns with its types, then those that it
    /// can get.
    pub(crate) fn fitted(&self, schema: TableSchema) -> TableSchema {
        let Some(table) = &self.table else { return schema };
        let now = (table.now)();
        if table.may_grow || now.fields().is_empty() { schema.under(&now) } else { now }
    }

    fn directory(&self, topic: &str) -> String {
        hidden_directory(&self.layout, topic)
    }

    fn key(&self, topic: &str, reference: SchemaRef) -> String {
        let SchemaRef { version, fingerprint } = reference;
        format!("{}/schema-{version:010}-{fingerprint}.json", self.directory(topic))
    }

    /// As versions of sluice named it that knew of no two schemas under one number.
    fn old_key(&self, topic: &str, number: u32) -> String {
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

    async fn load(&self, key: &str, number: u32) -> Result<Option<Version>, TaskError> {
        let Some(bytes) = self.until_answered(|| self.store.read(key)).await? else { return Ok(None) };
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
        let directory = self.directory(topic);
        let keys = self.until_answered(|| self.store.list(&directory)).await?;
        let mut known = latest.get(topic).cloned();
        if let Some((number, key)) = newest(&keys)
            && known.as_ref().is_none_or(|version| version.number < number)
        {
            known = self.load(key, number).await?;
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
        let version = Version { number, schema };
        let key = self.key(topic, version.reference());
        if self.until_answered(|| self.store.create(&key, bytes.clone().into())).await? == Created::New {
            info!(%topic, version = number, fields = version.schema.fields().len(), "schema stored");
        }
        // Whoever stored another schema under the same number sees ours, or we see theirs: all who see both agree.
        self.refresh(topic, &mut latest)
            .await?
            .ok_or_else(|| TaskError::Transient(format!("the stored schema {key} was there and is gone")))
    }

    /// The version that a plan was made with.
    pub(crate) async fn recorded(&self, topic: &str, wanted: SchemaRef) -> Result<Version, TaskError> {
        let (key, old_key) = (self.key(topic, wanted), self.old_key(topic, wanted.version));
        let found = match self.load(&key, wanted.version).await? {
            Some(version) => Some(version),
            None => self.load(&old_key, wanted.version).await?,
        };
        match found {
            Some(version) if version.schema.fingerprint() == wanted.fingerprint => Ok(version),
            Some(_) | None => Err(TaskError::Data(format!(
                "the plan of a cut refers to schema version {} ({}), but {key} holds another one or is gone; restore the \
                 object",
                wanted.version, wanted.fingerprint,
            ))),
        }
    }
}

/// Number and key of the schema that is the newest for everybody who sees these keys: of several under the highest number
/// the one whose key comes first. A key without a fingerprint comes before all others.
fn newest(keys: &[String]) -> Option<(u32, &str)> {
    let schemas = keys.iter().filter_map(|key| {
        let name = key.rsplit_once("/schema-")?.1.strip_suffix(".json")?;
        let (number, fingerprint) = name.split_once('-').unwrap_or((name, ""));
        Some((number.parse::<u32>().ok()?, fingerprint, key.as_str()))
    });
    let order = |(number, fingerprint, _): &(u32, &str, &str)| (*number, std::cmp::Reverse(fingerprint.to_string()));
    schemas.max_by_key(order).map(|(number, _, key)| (number, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Settings;
    use object_store::memory::InMemory;
    use writer::{Abilities, Fate, FaultyStore, RetryRules};

    fn schemas(objects: &Arc<InMemory>) -> TopicSchemas {
        let objects = FaultyStore::new(objects.clone(), |_, _| Fate::Fine);
        let abilities = Abilities { metadata: true, conditional: false };
        let store = Store::with(Arc::new(objects), "store", abilities, RetryRules::default(), 1);
        let settings = Settings::new([("flush.size".to_owned(), "1".to_owned())].into());
        TopicSchemas::new(store, Layout::new(&settings, ".snappy.parquet").expect("it is valid"))
    }

    fn schema(field: &str) -> TableSchema {
        let text = json!({"type": "struct", "fields": [
            {"name": field, "type": "long", "nullable": true, "metadata": {}}]});
        TableSchema::from_json(&text.to_string()).unwrap()
    }

    #[tokio::test]
    async fn two_workers_that_store_one_number_keep_both_schemas_and_agree_on_the_newest() {
        let (objects, topic) = (Arc::new(InMemory::new()), Arc::<str>::from("t"));
        let (first, second) = (schemas(&objects), schemas(&objects));
        let own = first.propose(&topic, None, schema("a")).await.unwrap();
        let other = second.propose(&topic, None, schema("b")).await.unwrap();
        assert_eq!((own.number, other.number), (1, 1), "the second did not know of the first");
        for version in [Version { number: 1, schema: schema("a") }, Version { number: 1, schema: schema("b") }] {
            let found = first.recorded("t", version.reference()).await.unwrap();
            assert_eq!(found.schema, version.schema, "what a plan refers to stays");
        }
        let winners = [schemas(&objects), schemas(&objects)];
        let [one, two] = [winners[0].latest(&topic).await.unwrap(), winners[1].latest(&topic).await.unwrap()];
        assert_eq!(one.as_ref().map(Version::reference), two.as_ref().map(Version::reference));
        assert_eq!(one.map(|version| version.schema), Some(other.schema), "the second saw both and took the winner");
    }

    #[tokio::test]
    async fn a_version_of_an_older_sluice_is_found_and_grows() {
        let (objects, topic) = (Arc::new(InMemory::new()), Arc::<str>::from("t"));
        let schemas = schemas(&objects);
        let rows: Value = serde_json::from_str(&schema("a").to_json()).unwrap();
        let text = json!({ "version": 1, "schema": rows }).to_string();
        schemas.store.create(&schemas.old_key("t", 1), text.into()).await.unwrap();
        let old = schemas.latest(&topic).await.unwrap().unwrap();
        assert_eq!((old.number, &old.schema), (1, &schema("a")));
        assert_eq!(schemas.recorded("t", old.reference()).await.unwrap().schema, old.schema);
        assert_eq!(schemas.propose(&topic, Some(&old), schema("b")).await.unwrap().number, 2);
    }
}
