//! Which topics wrote below a directory: one hidden object for each id that a topic of this name has had, made when the
//! topic is first seen under that id and never changed.

use serde_json::{Value, json};
use tracing::info;
use writer::newest::{NewestError, partitions_with_objects};
use writer::{Created, Layout, Store};

use crate::schemas::hidden_directory;

/// The topics with the name of one that were there before it and whose objects may lie among its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Before {
    /// Their ids, or what can be told of them.
    pub(crate) ids: Vec<String>,
    /// The marker of the topic says so already.
    pub(crate) is_marked: bool,
}

/// The markers of a connector's topics: `<directory of the topic>/_sluice/topic-<id>.json`.
///
/// A marker holds the ids of the topics whose objects were there when it was made. That is a fact about the directory
/// which all tasks find alike; it stays true as long as those objects do. One without such ids vouches for all objects.
#[derive(Debug, Clone)]
pub(crate) struct Markers {
    pub(crate) store: Store,
    pub(crate) layout: Layout,
}

impl Markers {
    /// Where the markers of `topic` lie.
    pub(crate) fn directory(&self, topic: &str) -> String {
        hidden_directory(&self.layout, topic)
    }

    fn key(&self, topic: &str, id: &str) -> String {
        format!("{}/topic-{}.json", self.directory(topic), in_a_name(id))
    }

    /// Whose objects may lie among those of `topic`, which has this id now. Makes the marker if nobody's do.
    pub(crate) async fn before(&self, topic: &str, id: &str) -> Result<Before, NewestError> {
        let (is_there, others) = self.list(topic, id).await?;
        match (is_there, others.is_empty()) {
            (true, _) => self.read(topic, id).await,
            // Objects without a marker were written by another version, or were never a topic's.
            (false, true) => self.mark(topic, id, Vec::new()).await,
            (false, false) if partitions_with_objects(&self.store, &self.layout, topic).await?.is_empty() => {
                self.mark(topic, id, Vec::new()).await
            }
            // The marker is older than each object: another task may have begun since the first look.
            (false, false) => match self.list(topic, id).await? {
                (true, _) => self.read(topic, id).await,
                (false, others) => Ok(Before { ids: others, is_marked: false }),
            },
        }
    }

    /// Makes the marker of `topic`, which says that objects of the topics `before` lie among its own; one that is there
    /// stays and tells what it says.
    pub(crate) async fn mark(&self, topic: &str, id: &str, before: Vec<String>) -> Result<Before, NewestError> {
        let key = self.key(topic, id);
        let text = json!({ "topic": topic, "id": id, "before": before });
        let bytes = serde_json::to_vec_pretty(&text).expect("JSON values can be written");
        match self.store.create(&key, bytes.into()).await? {
            Created::New => {
                info!(topic, id, key, "topic seen for the first time");
                Ok(Before { ids: before, is_marked: true })
            }
            Created::AlreadyThere => self.read(topic, id).await,
        }
    }

    /// Whether the marker of this id is there, and the ids of all others, in the order of their names.
    async fn list(&self, topic: &str, id: &str) -> Result<(bool, Vec<String>), NewestError> {
        let keys = self.store.list(&self.directory(topic)).await?;
        let ids = keys.iter().filter_map(|key| key.rsplit_once("/topic-")?.1.strip_suffix(".json"));
        let own = in_a_name(id);
        let (own, others): (Vec<&str>, Vec<&str>) = ids.partition(|id| *id == own);
        Ok((!own.is_empty(), others.into_iter().map(str::to_owned).collect()))
    }

    async fn read(&self, topic: &str, id: &str) -> Result<Before, NewestError> {
        let key = self.key(topic, id);
        let bytes = self.store.read(&key).await?.unwrap_or_default();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let ids =
            value["before"].as_array().map(|ids| ids.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        // What cannot be read vouches for nothing.
        Ok(Before { ids: ids.unwrap_or_else(|| vec![format!("unknown: {key} cannot be read")]), is_marked: true })
    }
}

/// `id` as a part of a key that every store can address; ids of Kafka stay as they are.
fn in_a_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            other => name.push_str(&format!(".{other:02x}")),
        }
    }
    name
}
