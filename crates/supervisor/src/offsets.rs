//! The positions of a connector's consumer group: shown at any time, changed only while the connector is stopped.

use std::collections::{BTreeMap, BTreeSet};

use model::{Offset, TopicPartition};
use tracing::info;

use crate::error::connector_not_found;
use crate::operation::Operation;
use crate::{Error, Supervisor, TargetState};

/// A change of committed offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetChange {
    /// These, each to an offset, or back to where its topic-partition starts.
    Alter(BTreeMap<TopicPartition, Option<Offset>>),
    /// All topic-partitions of the connector back to where they start.
    Reset,
}

impl OffsetChange {
    /// The infinitive and the participle of what is done, as Kafka Connect's answers have them.
    const fn words(&self) -> (&'static str, &'static str) {
        match self {
            OffsetChange::Alter(_) => ("alter", "altered"),
            OffsetChange::Reset => ("reset", "reset"),
        }
    }
}

/// Why offsets could not be read or changed, for a person: what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OffsetsError(pub String);

impl Supervisor {
    /// The offsets that the group of `name` has committed.
    pub async fn offsets(&self, name: &str) -> Result<Vec<(TopicPartition, Offset)>, Error> {
        let config = self.info(name)?.config;
        let found = self.inner.assembly.offsets(name, &config).await;
        found.map_err(|error| {
            Error::Offsets(format!("Failed to retrieve consumer group offsets for sink connector {name}: {error}"))
        })
    }

    /// [`Error::NotFound`] or [`Error::Refused`] unless `name` is stopped, which [`Self::change_offsets`] asks for.
    pub fn check_stopped(&self, name: &str) -> Result<(), Error> {
        match self.look(name, |connector| connector.target) {
            None => Err(connector_not_found(name)),
            Some(TargetState::Stopped) => Ok(()),
            Some(TargetState::Running | TargetState::Paused) => Err(Error::Refused(format!(
                "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the \
                 specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
            ))),
        }
    }

    /// Changes offsets of the group of `name`, which must be stopped. Returns what to tell the user about it.
    pub async fn change_offsets(&self, name: &str, change: OffsetChange) -> Result<String, Error> {
        let supervisor = self.clone();
        self.detached(name, move |operation, reply| async move {
            let checked = supervisor.check_stopped(&operation.name);
            reply(match checked {
                Ok(()) => operation.change_offsets(change).await,
                Err(error) => Err(error),
            });
        })
        .await
    }

    /// The topics that the tasks of `name` have read records of, since they were asked to forget them.
    pub fn topics(&self, name: &str) -> BTreeSet<String> {
        self.inner.assembly.topics(name)
    }

    /// Begins the list of topics anew.
    pub fn forget_topics(&self, name: &str) {
        self.inner.assembly.forget_topics(name);
    }
}

impl Operation {
    async fn change_offsets(&self, change: OffsetChange) -> Result<String, Error> {
        let config = self.slot.connector().as_ref().map(|connector| connector.config.clone());
        let config = config.ok_or_else(|| connector_not_found(&self.name))?;
        let (alter, altered) = change.words();
        let changed = self.inner.assembly.change_offsets(&self.name, &config, change).await;
        let note = changed.map_err(|error| {
            Error::Offsets(format!("Failed to {alter} consumer group offsets for connector {}: {error}", self.name))
        })?;
        info!(connector = %self.name, note, "offsets {altered}");
        let separator = if note.is_empty() { "" } else { ". " };
        Ok(format!("The offsets for this connector have been {altered} successfully{separator}{note}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fake::FakeAssembly;
    use crate::{Assembly, Options, StateStore};

    #[tokio::test(start_paused = true)]
    async fn offsets_change_only_while_the_connector_is_stopped() {
        let assembly = Arc::new(FakeAssembly::default());
        let lane = TopicPartition::new("t", 0);
        let at = |offset| Offset::new(offset).unwrap();
        assembly.read(lane.clone(), at(7));
        let dynamic = Arc::clone(&assembly) as Arc<dyn Assembly>;
        let options = Options::new("here:8083");
        let supervisor = Supervisor::start(dynamic, StateStore::forgetful(), options, Vec::new()).await.unwrap();
        let config = [("connector.class", "FileStreamSink"), ("topics", "t")];
        let config = config.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into();
        let alter = |offset| OffsetChange::Alter([(lane.clone(), offset)].into());
        let message = |result: Result<String, Error>| result.unwrap_or_else(|error| error.to_string());

        assert_eq!(message(supervisor.change_offsets("a", OffsetChange::Reset).await), "Connector a not found");
        supervisor.put_config("a", config).await.unwrap();
        assert_eq!(supervisor.offsets("a").await.unwrap(), [(lane.clone(), at(7))]);
        let refused = message(supervisor.change_offsets("a", alter(Some(at(1)))).await);
        assert!(refused.starts_with("Connectors must be in the STOPPED state"), "{refused}");
        supervisor.stop("a").await.unwrap();
        let altered = "The offsets for this connector have been altered successfully";
        assert_eq!(message(supervisor.change_offsets("a", alter(Some(at(1)))).await), altered);
        assert_eq!(supervisor.offsets("a").await.unwrap(), [(lane.clone(), at(1))]);
        assert_eq!(message(supervisor.change_offsets("a", alter(None)).await), altered);
        assert_eq!(supervisor.offsets("a").await.unwrap(), []);
        let unknown = OffsetChange::Alter([(TopicPartition::new("t", 9), None)].into());
        assert_eq!(
            message(supervisor.change_offsets("a", unknown).await),
            "Failed to alter consumer group offsets for connector a: there is no topic-partition t-9"
        );
        let reset = "The offsets for this connector have been reset successfully";
        assert_eq!(message(supervisor.change_offsets("a", OffsetChange::Reset).await), reset);
    }
}
