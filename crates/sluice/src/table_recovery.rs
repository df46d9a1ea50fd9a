//! A table says where reading starts, unless the topic that it knows is another one by now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use delta::{CommitError, Known, Positions, Table, TableOptions, app_id, sealed_by, set_positions};
use model::{Invalid, Offset, Settings, TopicPartition};
use pipeline::PaceRules;
use source::{DataLoss, MovedBack, Recovered, Recovery, SourceConfig};
use tokio::time::{Instant, sleep};
use tracing::warn;
use writer::Store;

use crate::assemble::{House, seed};
use crate::{delta_connector, spark_options};

/// How long a table that does not answer is asked for its positions; the group waits for the assignment meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(2);

/// The table of a connector, for where its topic-partitions go on.
struct TableRecovery {
    table: Arc<Table>,
    connector: String,
    on_data_loss: DataLoss,
    /// Where the table is, and how it is written to.
    store: Store,
    options: TableOptions,
}

impl TableRecovery {
    /// Repeats `request` while the table does not answer.
    async fn until_answered<T, F>(&self, request: impl Fn() -> F) -> Result<T, source::Error>
    where
        F: Future<Output = Result<T, CommitError>>,
    {
        let until = Instant::now() + PATIENCE;
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(CommitError::Unanswered(why)) if Instant::now() < until => {
                    warn!(%why, "the table does not answer, asking again where it ends");
                    sleep(PAUSE).await;
                }
                Err(CommitError::Unanswered(why)) => return Err(source::Error::Unavailable(why)),
                Err(CommitError::Overtaken(why) | CommitError::Changed(why) | CommitError::Refused(why)) => {
                    return Err(source::Error::Denied(why));
                }
            }
        }
    }

    async fn look(&self) -> Result<Known, source::Error> {
        self.until_answered(|| self.table.look()).await
    }

    /// Commits the positions that `decide` says, and makes all lanes of the process know them.
    async fn set(&self, decide: impl Fn(&Known) -> Result<Positions, String>) -> Result<(), source::Error> {
        self.until_answered(|| set_positions(self.store.clone(), self.options.clone(), true, &decide)).await?;
        self.look().await.map(|_| ())
    }

    // ---- topics that were deleted and created again

    /// Readers of tables pass over names that begin with an underscore.
    fn marker(&self, topic: &str, id: &str) -> String {
        let location = self.table.location();
        let directory = if location.is_empty() { "_sluice".to_owned() } else { format!("{location}/_sluice") };
        format!("{directory}/topics/{}/{topic}/{id}.json", self.connector)
    }

    /// Sees to it that what the table knows of `topic` is of the topic that has this id now: its first record must not be
    /// taken for one that was written before. One marker for each id tells which topics there were.
    async fn tell_topics_apart(&self, topic: &str, id: &str) -> Result<(), source::Error> {
        let own = self.marker(topic, id);
        let directory = own.rsplit_once('/').map_or("", |(directory, _)| directory);
        let failed = |error: writer::Error| match error.is_transient() {
            true => source::Error::Unavailable(error.to_string()),
            false => source::Error::Denied(error.to_string()),
        };
        let markers = self.store.list(directory).await.map_err(failed)?;
        if markers.contains(&own) {
            return Ok(());
        }
        if !markers.is_empty() {
            self.begin_anew(topic, id).await?;
        }
        self.store
            .create(&own, serde_json::json!({"topic": topic, "id": id}).to_string().into())
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Puts every topic-partition of `topic` that the table knows to its beginning, once for this id, if data may be lost.
    async fn begin_anew(&self, topic: &str, id: &str) -> Result<(), source::Error> {
        let prefix = app_id(&self.connector, &TopicPartition::new(topic, 0));
        let prefix = prefix.trim_end_matches('0').to_owned();
        let is_of_topic = |app: &&String| app.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<i32>().is_ok());
        let known = self.look().await?;
        if !known.txns.keys().any(|app| is_of_topic(&app)) {
            return Ok(());
        }
        let table = self.table.location();
        if self.on_data_loss == DataLoss::Fail {
            return Err(source::Error::OffsetLost(format!(
                "the topic {topic} was deleted and created again: its id is {id} now, and the table {table} knows how far \
                 connector {} got in the topic before. Set failOnDataLoss=false to append the new topic from its beginning, or \
                 give the connector another name",
                self.connector
            )));
        }
        warn!(
            topic,
            id,
            table,
            "the topic was deleted and created again, it is appended from its beginning (failOnDataLoss=false)"
        );
        // Another task may have done it, and be further since.
        let done = format!("{}:{topic}:id:{id}", self.connector);
        self.set(|known| {
            let mut positions = Positions::new();
            if !known.txns.contains_key(&done) {
                positions.extend(known.txns.keys().filter(is_of_topic).map(|app| (app.clone(), 0)));
                positions.insert(done.clone(), 0);
            }
            Ok(positions)
        })
        .await
    }
}

impl House {
    /// Makes a task of `connector` read where `table` and the options of Spark in `given` say; the answer says how much.
    pub(crate) fn read_for(
        &self,
        table: &Arc<Table>,
        connector: &str,
        source: &mut SourceConfig,
        given: &Settings,
        store: &Store,
    ) -> Result<Option<PaceRules>, Invalid> {
        source.bounds.starting = spark_options::starting(given)?;
        source.recovery = Some(Arc::new(TableRecovery {
            table: table.clone(),
            connector: connector.to_owned(),
            on_data_loss: source.on_data_loss,
            store: store.clone(),
            options: delta_connector::table_options(connector, given, self.surroundings(seed()))?,
        }));
        spark_options::pace(given, given.size(&supervisor::keys::TASKS_MAX)?)
    }
}

#[async_trait]
impl Recovery for TableRecovery {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, source::Error> {
        let asked: BTreeSet<&str> = partitions.iter().map(|lane| &*lane.topic).collect();
        for (topic, id) in topic_ids.iter().filter(|(topic, _)| asked.contains(topic.as_str())) {
            self.tell_topics_apart(topic, id).await?;
        }
        let known = self.look().await?;
        let mut recovered = Vec::new();
        for topic_partition in partitions {
            let version = known.txns.get(&app_id(&self.connector, topic_partition));
            if let Some(start) = version.and_then(|version| Offset::new(*version)) {
                let topic_partition = topic_partition.clone();
                recovered.push(Recovered { topic_partition, start, metadata: String::new() });
            }
        }
        Ok(recovered)
    }

    fn is_authority(&self) -> bool {
        true
    }

    async fn move_back(&self, moves: &[MovedBack]) -> Result<(), source::Error> {
        let app = |one: &MovedBack| app_id(&self.connector, &one.topic_partition);
        self.set(|known| {
            let mut positions = Positions::new();
            for one in moves {
                let (at, from, to) = (known.txns.get(&app(one)), one.from.get(), one.to.get());
                if at != Some(&from) && at != Some(&to) {
                    return Err(format!("{} is not at offset {from} any more: somebody else writes it", app(one)));
                }
                positions.insert(app(one), to);
            }
            Ok(positions)
        })
        .await
    }

    fn may_start(&self, topic_partition: &TopicPartition, offset: Offset, metadata: &str) -> Result<(), source::Error> {
        let table = self.table.location();
        let why = match (metadata.is_empty(), sealed_by(metadata)) {
            (true, _) => return Ok(()),
            (false, Some(id)) if self.table.known().id.as_ref() == Some(&id) => format!(
                "was written up to offset {offset} to {table}, which has forgotten it: delta.setTransactionRetentionDuration of the \
                 table is shorter than this pause was. Look for the last offset in the table."
            ),
            (false, Some(id)) => format!(
                "was written up to offset {offset} to the table {id}, but {table} does not know it: was that table lost, or path changed?"
            ),
            (false, None) => {
                format!("has a plan of another kind of connector at offset {offset}: run that one until its lag is 0")
            }
        };
        Err(source::Error::OffsetLost(format!(
            "{topic_partition} {why} To go on there all the same, set the group's offset with sluice offsets"
        )))
    }
}
