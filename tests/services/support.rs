//! What the tests of the program share: predictions, connectors to write them with, and reading back what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tests::ring::Outcome;
use tests::{Error, Kafka, Record, Row, S3, Services, unique};

/// How long a committed offset may take to appear.
pub(crate) const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// One test's own names: a topic that exists, a bucket that exists, a connector that does not.
pub(crate) struct Scene {
    pub(crate) kafka: &'static Kafka,
    pub(crate) store: &'static S3,
    pub(crate) topic: String,
    pub(crate) bucket: String,
    pub(crate) connector: String,
}

impl Scene {
    /// On the shared Kafka and MinIO.
    pub(crate) fn new(stem: &str, partitions: u32) -> Result<Scene, Error> {
        let scene = Scene {
            kafka: Services::kafka()?,
            store: Services::minio()?,
            topic: unique(stem),
            bucket: unique(&format!("bucket-{stem}")),
            connector: unique(&format!("connector-{stem}")),
        };
        scene.kafka.create_topic(&scene.topic, partitions)?;
        scene.store.create_bucket(&scene.bucket)?;
        Ok(scene)
    }

    /// The connector of connectors/my-model.json with this scene's names, and `changes`; a null takes the key away.
    pub(crate) fn config(&self, changes: Value) -> Value {
        self.config_from("my-model", changes)
    }

    /// As [`Scene::config`], from another file of connectors/.
    pub(crate) fn config_from(&self, file: &str, changes: Value) -> Value {
        let mut config = example(file)["config"].clone();
        let own = json!({"topics": self.topic, "s3.bucket.name": self.bucket, "store.url": self.store.endpoint()});
        for (key, value) in [own, changes].iter().filter_map(Value::as_object).flatten() {
            let map = config.as_object_mut().expect("an example's config is an object");
            match value {
                Value::Null => map.remove(key),
                value => map.insert(key.clone(), value.clone()),
            };
        }
        config
    }

    /// The consumer group.
    pub(crate) fn group(&self) -> String {
        format!("connect-{}", self.connector)
    }

    /// Produces these values to partition 0.
    pub(crate) fn produce(&self, values: &[Value]) -> Outcome {
        let records: Vec<Record> = values.iter().map(|value| at(0, value.to_string())).collect();
        self.kafka.produce(&self.topic, &records)?;
        Ok(())
    }

    /// Waits until the group has committed these offsets, one a partition, and no plan is left.
    pub(crate) fn wait_committed(&self, offsets: &[i64]) -> Outcome {
        Ok(self.kafka.wait_committed(&self.group(), &self.topic, offsets, COMMIT_LIMIT)?)
    }

    /// Keys of the objects whose names end in `.parquet`, in order.
    pub(crate) fn objects(&self) -> Result<Vec<String>, Error> {
        let listed = self.store.list(&self.bucket, "")?.into_iter().map(|object| object.key);
        Ok(listed.filter(|key| key.ends_with(".parquet")).collect())
    }

    /// Every row of every object, as pyarrow and DuckDB both read it.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, Error> {
        let readers = Services::readers()?;
        let rows = readers.read_parquet(self.store, &self.bucket, "")?;
        assert_eq!(rows, readers.read_parquet_duckdb(self.store, &self.bucket, "")?, "pyarrow and DuckDB differ");
        Ok(rows)
    }

    /// Checks that the bucket holds each of `produced` exactly once, field by field, and nothing else.
    pub(crate) fn holds_exactly(&self, produced: &[Value]) -> Outcome {
        same_records(produced, &self.rows()?);
        Ok(())
    }
}

/// A file of connectors/.
pub(crate) fn example(file: &str) -> Value {
    let path = format!("{}/../connectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).expect("examples are JSON")
}

/// A record of this partition.
pub(crate) fn at(partition: i32, value: impl Into<Vec<u8>>) -> Record {
    Record { partition: Some(partition), ..Record::of(value) }
}

/// Predictions as a model server publishes them, numbered by `id`: nested, `age` null now and then, `region` only in some.
pub(crate) fn predictions(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers
        .map(|number| {
            let age = if number % 5 == 0 { Value::Null } else { json!(20 + number % 60) };
            let mut inputs = json!({"age": age, "previously_insured": number % 3 == 0});
            if number % 4 == 3 {
                inputs["region"] = Value::from(["north", "söuth", "東"][number % 3]);
            }
            let model = ["insurance", "churn", "fraud"][number % 3];
            json!({
                "id": format!("prediction-{number}"),
                "model_name": model,
                "model_version": format!("1.{}.0", number % 2),
                "inputs": inputs,
                "outputs": {"will_buy_insurance": number % 2 == 0, "confidence": number as f64 / 7.0},
            })
        })
        .collect()
}

/// Checks that `rows` are exactly `produced`, told apart by `id`, in any order; null and missing are equal.
pub(crate) fn same_records(produced: &[Value], rows: &[Row]) {
    let mut read: BTreeMap<String, &Row> = BTreeMap::new();
    for row in rows {
        let twice = read.insert(row.value["id"].to_string(), row);
        assert!(twice.is_none(), "written twice: {row:?} and {twice:?}");
    }
    for value in produced {
        let row = read.remove(&value["id"].to_string()).unwrap_or_else(|| panic!("not written: {value}"));
        same_record(value, &row.value);
    }
    assert!(read.is_empty(), "written but not produced: {:?}", read.values().collect::<Vec<_>>());
}

/// Checks one record field by field; null and missing are equal.
pub(crate) fn same_record(produced: &Value, read: &Value) {
    // What was read came as text through a parser that is off by one unit in the last place now and then.
    let parsed: Value = serde_json::from_str(&produced.to_string()).expect("a value's text is JSON");
    assert!(is_same(&parsed, read), "produced {produced}\n    read {read}");
}

/// Whether two values are equal, where null and missing are.
pub(crate) fn is_same(produced: &Value, read: &Value) -> bool {
    match (produced, read) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            let field = |map: &Map<String, Value>, name: &str| map.get(name).cloned().unwrap_or_default();
            names.into_iter().all(|name| is_same(&field(left, name), &field(right, name)))
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
        }
        // An integer of a column that was widened comes back as 1.0.
        (Value::Number(left), Value::Number(right)) if left.is_f64() != right.is_f64() => {
            left.as_f64() == right.as_f64()
        }
        (left, right) => left == right,
    }
}

/// A parquet file's columns as `name: type`, with ` not null` where it is so.
pub(crate) fn columns(scene: &Scene, key: &str) -> Result<Vec<String>, Error> {
    let schema = Services::readers()?.parquet_schema(scene.store, &scene.bucket, key)?;
    let text = |column: &Value| {
        let (name, kind) = (column["name"].as_str().unwrap_or_default(), column["type"].as_str().unwrap_or_default());
        let required = if column["nullable"] == json!(false) { " not null" } else { "" };
        format!("{name}: {kind}{required}")
    };
    Ok(schema["columns"].as_array().into_iter().flatten().map(text).collect())
}
