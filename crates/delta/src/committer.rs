//! A connector's cuts become commits of a table.

use std::sync::Arc;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use model::TopicPartition;
use serde_json::{Map, Value, json};
use writer::{Committer, FinishedFile, PublishError, PublishedFile, partition_values, table_schema};

use crate::decide::Wish;
use crate::table::{CommitError, NewFile, NewRows, Proposal, Table};

/// Publishes files as objects, which nobody sees, then as files of a table.
pub struct DeltaCommitter {
    objects: Arc<dyn Committer>,
    table: Table,
    connector: String,
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
    /// Makes the files of `connector` whole objects with `objects`, but for those that share one, and commits them to `table`.
    pub fn new(objects: Arc<dyn Committer>, table: Table, connector: &str) -> DeltaCommitter {
        DeltaCommitter { objects, table, connector: connector.to_owned() }
    }

    fn proposal(&self, files: &[FinishedFile]) -> Result<Option<Proposal>, PublishError> {
        let Some(first) = files.first() else { return Ok(None) };
        let app_id = app_id(&self.connector, &first.topic_partition);
        let wish = Wish { app_id, start: first.cut.start().get(), end: first.cut.end().get() };
        let columns = self.table.peek(|known| known.partition_columns.clone());
        let written_ms = self.table.now_ms();
        let mut proposal = Proposal { wish, files: Vec::new(), rows: Vec::new() };
        for file in files {
            let refused =
                |what: &str| PublishError::Refused(format!("could not append {} to a table: {what}", file.key));
            let schema: &Schema = file.schema.as_deref().ok_or_else(|| refused("its rows have no schema"))?;
            let schema = Arc::new(table_schema(schema));
            let values = partition_values_of(file, &columns)
                .ok_or_else(|| refused("its path names no value for a partition column"))?;
            match file.rows_to_share() {
                Some(rows) => {
                    proposal.rows.push(NewRows { rows: rows.clone(), schema, partition_values: values });
                }
                None => {
                    let name = file.key.strip_prefix(self.table.location());
                    let name = name.map(|name| name.trim_start_matches('/').to_owned());
                    proposal.files.push(NewFile {
                        name: name.ok_or_else(|| refused("it does not lie below the table"))?,
                        bytes: file.bytes,
                        schema,
                        partition_values: values,
                        statistics: file.statistics.clone().ok_or_else(|| refused("its format tells no statistics"))?,
                        written_ms,
                    });
                }
            }
        }
        Ok(Some(proposal))
    }
}

/// The values that the path of `file` names for the partition columns `columns`; `None` when it lacks one.
fn partition_values_of(file: &FinishedFile, columns: &[String]) -> Option<Map<String, Value>> {
    let found = if columns.is_empty() { Vec::new() } else { partition_values(&file.path) };
    let value = |column: &String| found.iter().find(|(name, _)| name == column).map(|(_, value)| json!(value));
    columns.iter().map(|column| Some((column.clone(), value(column)?))).collect()
}

#[async_trait]
impl Committer for DeltaCommitter {
    async fn publish(&self, files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError> {
        let Some(proposal) = self.proposal(&files)? else { return Ok(Vec::new()) };
        let (shared, own): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.rows_to_share().is_some());
        let mut published = match self.objects.publish(own).await {
            Ok(published) => published,
            Err(PublishError::Transient { mut files, source }) => {
                files.extend(shared);
                return Err(PublishError::Transient { files, source });
            }
            Err(error) => return Err(error),
        };
        drop(shared);
        match self.table.commit(proposal).await {
            Ok(committed) => {
                published.extend(committed.shared);
                Ok(published)
            }
            // Where the table's task is gone, the next start makes another, which looks first.
            Err(CommitError::Overtaken(why) | CommitError::Changed(why) | CommitError::Unanswered(why)) => {
                Err(PublishError::Overtaken(why))
            }
            Err(CommitError::Refused(why)) => Err(PublishError::Refused(why)),
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
