//! One table, for all lanes of a process: a task of its own knows its newest version and makes the next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use schema::TableSchema;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use writer::{FileStatistics, Store};

use crate::columns::{columns, grown, struct_type};
use crate::commit::Keeper;
use crate::decide::Wish;
use crate::log::Log;
use crate::metrics::TableMetrics;
use crate::upkeep::{self, Upkeep, UpkeepOptions};

/// What a table is made with, and how it is written to.
#[derive(Clone)]
pub struct TableOptions {
    /// Its directory in the store.
    pub location: String,
    /// Columns whose values stand in paths; `None` to take what the table has.
    pub partition_columns: Option<Vec<String>>,
    /// Properties of a table that is made.
    pub properties: Map<String, Value>,
    /// Whether columns that it lacks are added to it.
    pub merge_schema: bool,
    /// What its history shows with each commit.
    pub user_metadata: Option<String>,
    /// How long a commit waits for other lanes.
    pub linger: Duration,
    /// Wall clock in milliseconds.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Makes identities.
    pub seed: u64,
    /// What is counted.
    pub metrics: TableMetrics,
    /// What is done beside commits.
    pub upkeep: UpkeepOptions,
}

impl fmt::Debug for TableOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableOptions").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A file that is whole in the store and becomes part of the table.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Its name below the table.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Columns of its rows, those in its path too, with times as tables have them ([`writer::table_schema`]).
    pub schema: SchemaRef,
    /// For each partition column its value as text.
    pub partition_values: Map<String, Value>,
    /// What it tells of its rows.
    pub statistics: FileStatistics,
}

/// What one lane wants in the table.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Which records.
    pub wish: Wish,
    /// The files that hold them.
    pub files: Vec<NewFile>,
}

/// Why a proposal is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The store does not answer: propose it again. It may be in the table already.
    #[error("{0}")]
    Unanswered(String),
    /// Somebody else wrote these records: the table goes on at another offset.
    #[error("{0}")]
    Overtaken(String),
    /// The records do not fit the columns that the table has by now: read them again, with these.
    #[error("{0}")]
    Changed(String),
    /// The table cannot take it until somebody changes something.
    #[error("{0}")]
    Refused(String),
}

/// What is known of a table at the moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Its identity; `None` while there is no table.
    pub id: Option<String>,
    /// Its version.
    pub version: u64,
    /// How far each application got.
    pub txns: BTreeMap<String, i64>,
    /// Its partition columns.
    pub partition_columns: Vec<String>,
    /// Its columns, as a StructType; null while there is no table.
    pub(crate) schema: Arc<Value>,
    /// Its text in the log.
    pub(crate) schema_text: String,
}

pub(crate) enum Request {
    Commit { proposal: Proposal, reply: oneshot::Sender<Result<u64, CommitError>> },
    Look { reply: oneshot::Sender<Result<Known, CommitError>> },
}

/// A handle to a table. The table's task ends with the last one.
#[derive(Clone)]
pub struct Table {
    requests: mpsc::UnboundedSender<Request>,
    known: Arc<Mutex<Known>>,
    location: Arc<str>,
    merge_schema: bool,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.location)
    }
}

impl Table {
    /// The table at `options.location` in `store`, which must refuse to replace objects. It need not be there: the first
    /// commit makes it. One that cannot be written to, or that has other partition columns, is refused by name.
    pub async fn open(store: Store, options: TableOptions) -> Result<Table, CommitError> {
        let known: Arc<Mutex<Known>> = Arc::default();
        let (location, merge_schema) = (options.location.as_str().into(), options.merge_schema);
        let log = Log::new(store, &options.location).map_err(CommitError::Refused)?;
        let mut keeper = Keeper::new(log.clone(), options.clone(), known.clone());
        keeper.reload().await?;
        keeper.check()?;
        let (requests, inbox) = mpsc::unbounded_channel();
        tokio::spawn(keep(keeper, inbox, upkeep::begin(&log, &options)));
        Ok(Table { requests, known, location, merge_schema })
    }

    /// Makes `proposal` a part of the table, together with what other lanes propose at the same time; the version that it is
    /// in, or was in already. Dropping the future takes nothing back.
    pub async fn commit(&self, proposal: Proposal) -> Result<u64, CommitError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Commit { proposal, reply });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Reads what others committed; what is known then.
    pub async fn look(&self) -> Result<Known, CommitError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Look { reply });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// What is known without asking the store.
    pub fn known(&self) -> Known {
        self.peek(Known::clone)
    }

    /// Its columns, those left out that records cannot have; none while there is no table.
    pub fn columns(&self) -> TableSchema {
        columns(&self.peek(|known| known.schema.clone()))
    }

    /// Why rows with `schema`, whose times are those of tables ([`writer::table_schema`]), cannot be in it as it is now; `None`
    /// when they can.
    pub fn refusal(&self, schema: &Schema) -> Option<String> {
        let known = self.peek(|known| known.schema.clone());
        let fitted = match &*known {
            Value::Null => struct_type(schema).map(|_| ()),
            known => grown(known, schema, self.merge_schema).map(|_| ()),
        };
        fitted.err()
    }

    /// A part of what is known without asking the store.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its directory in the store.
    pub fn location(&self) -> &str {
        &self.location
    }
}

fn gone() -> CommitError {
    CommitError::Unanswered("the task that keeps the table ended".to_owned())
}

/// Serves requests until no handle is left.
async fn keep(mut keeper: Keeper, mut inbox: mpsc::UnboundedReceiver<Request>, _upkeep: Option<Upkeep>) {
    while let Some(first) = inbox.recv().await {
        let since = Instant::now();
        let mut requests = vec![first];
        // Lanes that cut at the same time come one after the other; they share a commit.
        let until = since + keeper.linger();
        let mut is_over = false;
        while !is_over {
            tokio::select! {
                biased;
                more = inbox.recv() => match more {
                    Some(more) => requests.push(more),
                    None => is_over = true,
                },
                () = sleep_until(until) => is_over = true,
            }
        }
        let (mut proposals, mut looks) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                // A lane that is gone wants nothing any more.
                Request::Commit { proposal, reply } if !reply.is_closed() => proposals.push((proposal, reply)),
                Request::Commit { .. } => {}
                Request::Look { reply } => looks.push(reply),
            }
        }
        if !looks.is_empty() {
            let answer = keeper.look().await;
            for reply in looks {
                let _ = reply.send(answer.clone());
            }
        }
        for group in groups(proposals) {
            let (proposals, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            for (answer, reply) in keeper.commit(&proposals, since).await.into_iter().zip(replies) {
                let _ = reply.send(answer);
            }
        }
    }
}

/// Proposals that can share a commit: one for each application, the earlier ones first.
fn groups<T>(proposals: Vec<(Proposal, T)>) -> Vec<Vec<(Proposal, T)>> {
    let mut groups: Vec<Vec<(Proposal, T)>> = Vec::new();
    for one in proposals {
        let has_it = |group: &Vec<(Proposal, T)>| group.iter().any(|(other, _)| other.wish.app_id == one.0.wish.app_id);
        // Behind the last commit that has an earlier proposal of the same application.
        let free = groups.iter().rposition(has_it).map_or(0, |last| last + 1);
        match groups.get_mut(free) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}
