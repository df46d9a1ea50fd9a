//! One connector name belongs to one Kafka cluster in a table: its offsets there are those of that cluster's topics.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline::TaskError;
use serde::{Deserialize, Serialize};
use writer::{Created, Store};

/// How long a broker may take to tell its cluster's id.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the object says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Owner {
    connector: String,
    cluster: String,
}

/// Makes the table at `location` of `store` one that `connector` writes to from the cluster of `consumer`, once and for all;
/// refuses if it writes from another one.
pub(crate) async fn claim(
    store: &Store,
    location: &str,
    connector: &str,
    consumer: BTreeMap<String, String>,
) -> Result<(), TaskError> {
    let asked = tokio::task::spawn_blocking(move || source::cluster_id(&consumer, PATIENCE)).await;
    let cluster = asked.ok().flatten().ok_or_else(|| {
        let seconds = PATIENCE.as_secs();
        TaskError::Transient(format!("no broker told the id of the Kafka cluster within {seconds} s"))
    })?;
    own(store, location, Owner { connector: connector.to_owned(), cluster }).await
}

async fn own(store: &Store, location: &str, owner: Owner) -> Result<(), TaskError> {
    let key = key(location, &owner.connector);
    let text = serde_json::to_vec(&owner).expect("two strings are JSON");
    // Looked for first: it is there at every start but one.
    let found = match store.read(&key).await? {
        Some(found) => found,
        None => match store.create(&key, text.into()).await? {
            Created::New => return Ok(()),
            Created::AlreadyThere => store.read(&key).await?.unwrap_or_default(),
        },
    };
    let refused = |what: String| {
        let Owner { connector, cluster } = &owner;
        TaskError::Refused(format!(
            "connector {connector} cannot append from the Kafka cluster {cluster}: the object {key} in {} says that {what}, and the \
             table counts the offsets of one cluster under a connector's name. Give this connector another name, or, if the topics \
             with their offsets have moved here, delete that object",
            store.name(),
        ))
    };
    match serde_json::from_slice::<Owner>(&found) {
        Ok(known) if known == owner => Ok(()),
        Ok(known) => Err(refused(format!("{} appends from the cluster {}", known.connector, known.cluster))),
        Err(error) => Err(refused(format!("something that cannot be read ({error})"))),
    }
}

/// Readers of tables pass over names that begin with an underscore.
fn key(location: &str, connector: &str) -> String {
    let directory = if location.is_empty() { "_sluice".to_owned() } else { format!("{location}/_sluice") };
    format!("{directory}/owner-{connector}.json")
}

#[cfg(test)]
mod tests {
    use model::Settings;

    use super::*;

    #[tokio::test]
    async fn a_name_belongs_to_the_cluster_that_used_it_first() {
        let directory = tempfile::tempdir().unwrap();
        let url = directory.path().display().to_string();
        let settings =
            Settings::new([("store.url".to_owned(), url), ("s3.bucket.name".to_owned(), "b".to_owned())].into());
        let store = Store::open(&settings, &writer::Environment::new([])).unwrap();
        let owner = |connector: &str, cluster: &str| Owner { connector: connector.into(), cluster: cluster.into() };
        own(&store, "a/t", owner("c", "one")).await.unwrap();
        own(&store, "a/t", owner("c", "one")).await.unwrap();
        own(&store, "a/t", owner("d", "two")).await.unwrap();
        own(&store, "a/u", owner("c", "two")).await.unwrap();
        let error = own(&store, "a/t", owner("c", "two")).await.unwrap_err().to_string();
        for part in ["connector c", "cluster two", "a/t/_sluice/owner-c.json in ", "from the cluster one", "delete"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        store.create(&key("", "c"), "{".into()).await.unwrap();
        assert!(own(&store, "", owner("c", "one")).await.is_err());
    }
}
