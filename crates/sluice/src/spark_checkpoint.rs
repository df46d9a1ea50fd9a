//! The checkpoint directory of a Spark Structured Streaming query: which offsets each of its batches ends at.
//!
//! ```text
//!  metadata       {"id":"3e0b34b0-.."}            the query, which is the application of its txn actions in the table
//!  offsets/N      v1, conf, a line a source       written before batch N: the offsets after its last records
//!  commits/N      v1, ..                          written after it
//! ```

use std::collections::BTreeMap;

use model::{Offset, TopicPartition};
use serde_json::Value;
use writer::Store;

/// Offsets by topic-partition.
pub(crate) type Offsets = BTreeMap<TopicPartition, Offset>;

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The id of the query.
    pub(crate) query: String,
    /// Where the batches end that it still knows.
    batches: BTreeMap<i64, Offsets>,
    /// The newest batch that Spark took for committed.
    committed: Option<i64>,
}

impl Checkpoint {
    /// Reads the checkpoint in the directory `location` of `store`; the error says what is missing or wrong.
    pub(crate) async fn read(store: &Store, location: &str) -> Result<Checkpoint, String> {
        let key = |name: &str| if location.is_empty() { name.to_owned() } else { format!("{location}/{name}") };
        let metadata = text(store, &key("metadata")).await?;
        let metadata: Value =
            serde_json::from_str(&metadata).map_err(|error| format!("metadata is not JSON: {error}"))?;
        let query = metadata["id"].as_str().ok_or("metadata names no query: {\"id\":\"..\"} is expected")?.to_owned();
        let mut batches = BTreeMap::new();
        for (number, key) in numbered(store, &key("offsets")).await? {
            let offsets = offsets(&text(store, &key).await?).map_err(|why| format!("{key}: {why}"))?;
            batches.insert(number, offsets);
        }
        let committed = numbered(store, &key("commits")).await?.keys().max().copied();
        Ok(Checkpoint { query, batches, committed })
    }

    /// Where the query goes on, given `batch`, the newest one of it that the table holds. The table's word counts: of a batch
    /// in offsets and not in commits nobody else knows.
    pub(crate) fn end_of(&self, batch: Option<i64>) -> Result<&Offsets, String> {
        let query = &self.query;
        let Some(batch) = batch else {
            return Err(format!(
                "the table knows nothing of the query {query}: is it the table that this query writes to (not by \
                 foreachBatch), and is delta.setTransactionRetentionDuration longer than its pause? Where it goes on can be \
                 set by hand: sluice offsets set"
            ));
        };
        let end = self.batches.get(&batch).ok_or_else(|| {
            let known: Vec<String> = self.batches.keys().map(i64::to_string).collect();
            format!(
                "the table holds batch {batch} of the query {query}, but the checkpoint only knows the batches [{}]: is it \
                 the checkpoint of this table?",
                known.join(", ")
            )
        })?;
        match self.committed.filter(|committed| *committed > batch) {
            // A batch without records need not be in the table.
            Some(committed) if self.batches.get(&committed) != Some(end) => Err(format!(
                "Spark committed batch {committed} of the query {query}, but the table holds only batch {batch}: is it the \
                 checkpoint of this table, or was the table restored?"
            )),
            Some(_) | None => Ok(end),
        }
    }
}

async fn text(store: &Store, key: &str) -> Result<String, String> {
    let bytes = store.read(key).await.map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| format!("there is no {key} in {}: is it a checkpoint directory?", store.name()))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("{key} is not text"))
}

/// The files of `directory` whose name is a number; others are checksums or on their way.
async fn numbered(store: &Store, directory: &str) -> Result<BTreeMap<i64, String>, String> {
    let keys = store.list(directory).await.map_err(|error| error.to_string())?;
    let number = |key: &String| key.strip_prefix(directory)?.strip_prefix('/')?.parse::<i64>().ok();
    Ok(keys.into_iter().filter_map(|key| Some((number(&key)?, key))).collect())
}

/// The offsets of the Kafka sources in a file of `offsets`, each topic-partition of one of them.
fn offsets(text: &str) -> Result<Offsets, String> {
    let mut lines = text.lines();
    match lines.next() {
        Some("v1") => {}
        other => return Err(format!("version v1 is expected and not {}", other.unwrap_or("nothing"))),
    }
    let mut offsets = Offsets::new();
    for line in lines.skip(1) {
        // A source that has given nothing yet.
        if line.trim() == "-" {
            continue;
        }
        let topics: Value = serde_json::from_str(line).map_err(|error| format!("a source is not JSON: {error}"))?;
        for (topic, partitions) in topics.as_object().into_iter().flatten() {
            // Sources of other kinds have offsets of other shapes.
            for (partition, offset) in partitions.as_object().into_iter().flatten() {
                let (Ok(partition), Some(offset)) = (partition.parse(), offset.as_i64().and_then(Offset::new)) else {
                    continue;
                };
                let lane = TopicPartition::new(topic.as_str(), partition);
                if offsets.insert(lane.clone(), offset).is_some() {
                    return Err(format!("two sources of the query read {lane}"));
                }
            }
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use model::Settings;
    use writer::Environment;

    use super::*;

    const CONF: &str =
        r#"{"batchWatermarkMs":0,"batchTimestampMs":1795704396049,"conf":{"spark.sql.shuffle.partitions":"2"}}"#;

    /// A directory as Spark 4.0 writes it: batches 0 to 2, the last not committed.
    fn written() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let place = [("store.url", directory.path().to_str().unwrap()), ("s3.bucket.name", "a")];
        let place = place.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let store = Store::open(&Settings::new(place.into()), &Environment::new(BTreeMap::new())).unwrap();
        let files = [
            ("metadata", "{\"id\":\"3e0b34b0\"}".to_owned()),
            ("sources/0/0", "v1\n{\"t\":{\"0\":0,\"1\":0}}".to_owned()),
            ("offsets/0", format!("v1\n{CONF}\n{{\"t\":{{\"0\":33,\"1\":30}}}}")),
            ("offsets/1", format!("v1\n{CONF}\n{{\"t\":{{\"0\":66,\"1\":60}}}}\n-")),
            ("offsets/2", format!("v1\n{CONF}\n{{\"t\":{{\"0\":100,\"1\":90}}}}\n{{\"logOffset\":4}}")),
            ("offsets/.2.crc", "crc".to_owned()),
            ("commits/0", "v1\n{\"nextBatchWatermarkMs\":0}".to_owned()),
            ("commits/1", "v1\n{\"nextBatchWatermarkMs\":0}".to_owned()),
        ];
        for (name, text) in files {
            let path = directory.path().join("a/checkpoint").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (directory, store)
    }

    #[tokio::test]
    async fn the_table_says_which_batch_was_the_last() {
        let (_directory, store) = written();
        let checkpoint = Checkpoint::read(&store, "checkpoint").await.unwrap();
        assert_eq!(checkpoint.query, "3e0b34b0");
        let found = |batch| {
            let end = checkpoint.end_of(batch)?;
            Ok::<_, String>(end.values().map(|offset| offset.get()).collect::<Vec<_>>())
        };
        assert_eq!(found(Some(1)), Ok(vec![66, 60]));
        assert_eq!(found(Some(2)), Ok(vec![100, 90]), "it was committed to the table and Spark does not know");
        for (batch, part) in [(None, "knows nothing"), (Some(7), "[0, 1, 2]"), (Some(0), "was the table restored")] {
            let why = found(batch).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }

    #[tokio::test]
    async fn what_is_no_checkpoint_is_told() {
        let (_directory, store) = written();
        let why = Checkpoint::read(&store, "else").await.unwrap_err();
        assert!(why.contains("no else/metadata"), "{why}");
        for (text, part) in [
            ("v3\n{}\n{}", "and not v3"),
            ("v1\n{}\nx", "not JSON"),
            ("v1\n{}\n{\"t\":{\"0\":1}}\n{\"t\":{\"0\":2}}", "two sources"),
        ] {
            assert!(offsets(text).unwrap_err().contains(part), "{text}");
        }
    }
}
