//! A connector's cuts become commits of a table.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use model::TopicPartition;
use serde_json::{Map, json};
use tokio::time::sleep;
use tracing::warn;
use writer::{Committer, FinishedFile, PublishError, PublishedFile, partition_values, table_schema};

use crate::decide::Wish;
use crate::table::{CommitError, NewFile, Proposal, Table};

/// Publishes files as objects, which nobody sees, then as files of a table.
pub struct DeltaCommitter {
    objects: Arc<dyn Committer>,
    table: Table,
    connector: String,
    /// Wait before a table that does not answer is asked again.
    redelivery: Duration,
}

/// Whose progress the records of a topic-partition are in a table.
pub fn app_id(connector: &str, topic_partition: &TopicPartition) -> String {
    format!("{connector}:{}:{}", topic_partition.topic, topic_partition.partition)
}

/// The table that the offset metadata of a topic-partition names, if it was published to one.
pub fn sealed_by(metadata: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    Some(value.get("delta")?.as_str()?.to_owned())
}

impl DeltaCommitter {
    /// Makes the files of `connector` whole objects with `objects` and commits them to `table`.
    pub fn new(objects: Arc<dyn Committer>, table: Table, connector: &str, redelivery: Duration) -> DeltaCommitter {
        DeltaCommitter { objects, table, connector: connector.to_owned(), redelivery }
    }

    fn proposal(&self, files: &[FinishedFile]) -> Result<Option<Proposal>, PublishError> {
        let Some(first) = files.first() else { return Ok(None) };
        let app_id = app_id(&self.connector, &first.topic_partition);
        let wish = Wish { app_id, start: first.cut.start().get(), end: first.cut.end().get() };
        let columns = self.table.peek(|known| known.partition_columns.clone());
        let files = files.iter().map(|file| self.new_file(file, &columns)).collect::<Result<_, _>>()?;
        Ok(Some(Proposal { wish, files }))
    }

    fn new_file(&self, file: &FinishedFile, columns: &[String]) -> Result<NewFile, PublishError> {
        let refused = |what: &str| PublishError::Refused(format!("could not append {} to a table: {what}", file.key));
        let location = self.table.location();
        let name = file.key.strip_prefix(location).map(|name| name.trim_start_matches('/'));
        let schema: &Schema = file.schema.as_deref().ok_or_else(|| refused("its rows have no schema"))?;
        let mut values = Map::new();
        let found = if columns.is_empty() { Vec::new() } else { partition_values(&file.path) };
        for column in columns {
            let named = found.iter().find(|(name, _)| name == column);
            let (_, value) = named.ok_or_else(|| refused("its path names no value for a partition column"))?;
            values.insert(column.clone(), json!(value));
        }
        Ok(NewFile {
            name: name.ok_or_else(|| refused("it does not lie below the table"))?.to_owned(),
            bytes: file.bytes,
            schema: Arc::new(table_schema(schema)),
            partition_values: values,
            statistics: file.statistics.clone().ok_or_else(|| refused("its format tells no statistics"))?,
        })
    }
}

#[async_trait]
impl Committer for DeltaCommitter {
    async fn publish(&self, files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError> {
        let Some(proposal) = self.proposal(&files)? else { return Ok(Vec::new()) };
        let published = self.objects.publish(files).await?;
        loop {
            match self.table.commit(proposal.clone()).await {
                Ok(_) => return Ok(published),
                Err(CommitError::Unanswered(why)) => {
                    warn!(table = self.table.location(), %why, "the table does not answer, committing again");
                    sleep(self.redelivery).await;
                }
                Err(CommitError::Overtaken(why) | CommitError::Changed(why)) => {
                    return Err(PublishError::Overtaken(why));
                }
                Err(CommitError::Refused(why)) => return Err(PublishError::Refused(why)),
            }
        }
    }

    fn needs_plan(&self) -> bool {
        false
    }

    /// The table's identity, once it knows the topic-partition: should it be gone later, that is seen.
    fn seal(&self, topic_partition: &TopicPartition) -> String {
        let app_id = app_id(&self.connector, topic_partition);
        let id = self.table.peek(|known| known.id.clone().filter(|_| known.txns.contains_key(&app_id)));
        id.map_or(String::new(), |id| json!({ "delta": id }).to_string())
    }
}
