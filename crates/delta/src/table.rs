//! One table, for all lanes of a process: a task of its own knows its newest version and makes the next.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use schema::TableSchema;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use writer::{FileRows, FileStatistics, PublishedFile, Store, TableOfFiles};

use crate::batch::{Answer, Batch};
use crate::columns::{Growth, Of, columns, columns_for, grown, struct_type};
use crate::commit::{Keeper, Next};
use crate::decide::Wish;
use crate::file_maker::FileMaker;
use crate::log::Log;
use crate::metrics::TableMetrics;
use crate::upkeep::{self, Upkeep, UpkeepOptions};

/// What a table is made with, and how it is written to.
#[derive(Clone)]
pub struct TableOptions {
    /// Who writes: its applications are `<connector>:<topic>:<partition>`.
    pub connector: String,
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
    /// Is told how many bytes of files that lanes share are in memory, beside their rows.
    pub encoded: Arc<dyn Fn(usize) + Send + Sync>,
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
    /// Wall clock in milliseconds before its object was there.
    pub written_ms: i64,
}

/// Rows that become part of the table in a file that lanes may share.
#[derive(Debug, Clone)]
pub struct NewRows {
    /// The rows.
    pub rows: FileRows,
    /// Their columns, as [`NewFile::schema`].
    pub schema: SchemaRef,
    /// For each partition column its value as text.
    pub partition_values: Map<String, Value>,
}

/// What one lane wants in the table.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Which records.
    pub wish: Wish,
    /// The files that hold them ...
    pub files: Vec<NewFile>,
    /// ... and those of their rows that are in none.
    pub rows: Vec<NewRows>,
}

impl Proposal {
    /// The columns of everything in it, and what has them.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = (&SchemaRef, Of)> {
        let of_files = self.files.iter().map(|file| (&file.schema, Of::File));
        of_files.chain(self.rows.iter().map(|rows| (&rows.schema, Of::Rows)))
    }
}

/// Where a proposal is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The version that it is in, or a later one.
    pub version: u64,
    /// What its rows became.
    pub shared: Vec<PublishedFile>,
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
    /// How it may change for records.
    pub(crate) growth: Growth,
}

/// A proposal on its way to the table's task.
struct Request {
    proposal: Proposal,
    reply: oneshot::Sender<Answer>,
    asked_at: Instant,
}

/// A handle to a table. The table's task ends with the last one.
#[derive(Clone)]
pub struct Table {
    requests: mpsc::UnboundedSender<Request>,
    keeper: Arc<tokio::sync::Mutex<Keeper>>,
    known: Arc<Mutex<Known>>,
    location: Arc<str>,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
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
        let (location, now_ms) = (options.location.as_str().into(), options.now_ms.clone());
        let maker = FileMaker::new(&store, &options);
        let log = Log::new(store, &options.location).map_err(CommitError::Refused)?;
        let mut keeper = Keeper::new(log.clone(), options.clone(), known.clone());
        keeper.reload().await?;
        keeper.check()?;
        let (requests, inbox) = mpsc::unbounded_channel();
        let upkeep = upkeep::begin(&log, &options);
        let keeper = Arc::new(tokio::sync::Mutex::new(keeper));
        tokio::spawn(keep(keeper.clone(), maker, inbox, upkeep));
        Ok(Table { requests, keeper, known, location, now_ms })
    }

    /// Makes `proposal` a part of the table, together with what other lanes propose at the same time. A store that does not
    /// answer is asked again without end. Dropping the future takes back what is not on its way; what is may still happen.
    pub async fn commit(&self, proposal: Proposal) -> Result<Committed, CommitError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request { proposal, reply, asked_at: Instant::now() });
        let gone = |_| Err(CommitError::Unanswered("the task that keeps the table ended".to_owned()));
        answer.await.unwrap_or_else(gone)
    }

    /// Reads what others committed; what is known then.
    pub async fn look(&self) -> Result<Known, CommitError> {
        self.keeper.lock().await.look().await
    }

    /// What is known without asking the store.
    pub fn known(&self) -> Known {
        self.peek(Known::clone)
    }

    /// Its columns, those left out that records cannot have; none while there is no table.
    pub fn columns(&self) -> TableSchema {
        columns(&self.peek(|known| known.schema.clone()))
    }

    /// A part of what is known without asking the store.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The wall clock.
    pub(crate) fn now_ms(&self) -> i64 {
        (self.now_ms)()
    }

    /// Its directory in the store.
    pub fn location(&self) -> &str {
        &self.location
    }
}

impl TableOfFiles for Table {
    fn refusal(&self, schema: &Schema) -> Option<String> {
        let (known, growth) = self.peek(|known| (known.schema.clone(), known.growth));
        let fitted = match &*known {
            Value::Null => struct_type(schema).map(|_| ()),
            known => grown(known, schema, Of::Rows, growth).map(|_| ()),
        };
        fitted.err()
    }

    fn file_columns(&self, schema: &SchemaRef) -> SchemaRef {
        let (known, growth) = self.peek(|known| (known.schema.clone(), known.growth));
        match grown(&known, schema, Of::Rows, growth) {
            Ok(grown) => columns_for(grown.as_ref().unwrap_or(&known), std::slice::from_ref(schema)),
            // There is no table yet, or it refuses them.
            Err(_) => schema.clone(),
        }
    }
}

/// Serves proposals until no handle is left. While files are made for one commit, the next gathers.
async fn keep(
    keeper: Arc<tokio::sync::Mutex<Keeper>>,
    maker: FileMaker,
    mut inbox: mpsc::UnboundedReceiver<Request>,
    _upkeep: Option<Upkeep>,
) {
    let linger = keeper.lock().await.linger();
    while let Some(first) = inbox.recv().await {
        let since = first.asked_at;
        let mut requests = vec![first];
        // Lanes that cut at the same time come one after the other; they share a commit.
        let until = since + linger;
        let mut is_over = false;
        while !is_over {
            tokio::select! {
                // No lane proposes twice without an answer, so what comes has an end.
                biased;
                more = inbox.recv() => match more {
                    Some(more) => requests.push(more),
                    None => is_over = true,
                },
                () = sleep_until(until) => is_over = true,
            }
        }
        let proposals = requests.into_iter().map(|request| (request.proposal, request.reply)).collect();
        for group in groups(proposals) {
            commit(&keeper, &maker, Batch::new(group, since)).await;
        }
    }
}

/// Works until every lane of `batch` has its answer or is gone.
async fn commit(keeper: &tokio::sync::Mutex<Keeper>, maker: &FileMaker, mut batch: Batch) {
    loop {
        batch.forget_gone();
        let next = keeper.lock().await.commit(&mut batch).await;
        match next {
            Next::Answered => return,
            Next::Files { columns } => maker.make_files(&mut batch, &columns).await,
            Next::Again(why) => {
                warn!(%why, "the table does not answer, committing again");
                sleep(maker.redelivery()).await;
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
