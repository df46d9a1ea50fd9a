//! Makes columns of a lane's schemaless values: with a given schema, an inferred one that grows, or a recorded one.

use std::sync::Arc;

use arrow::array::BinaryArray;
use schema::{JsonColumns, ReadRows, TableSchema, Unknown, infer};

use crate::schemas::{TopicSchemas, Version};
use crate::{Recipe, TaskError};

/// Other tasks may store schemas at the same time; each time we lose the race our rows are looked at again.
const RACES_MAX: usize = 100;

/// The reader of one lane's schemaless values.
pub(crate) struct Typing {
    topic: Arc<str>,
    schemas: Arc<TopicSchemas>,
    mode: Mode,
    version: Option<Version>,
    columns: JsonColumns,
    /// The first rows came without a schema of their own, or none came yet, and the files need columns.
    awaits_rows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// `value.converter.schema` says it all.
    Given,
    /// New fields make new versions.
    Inferred,
    /// A plan is replayed: its version and no other.
    Recorded,
}

impl Typing {
    pub(crate) fn new(topic: Arc<str>, recipe: &Recipe, schemas: Arc<TopicSchemas>) -> Typing {
        let mut typing = Typing {
            topic,
            schemas,
            mode: Mode::Inferred,
            version: None,
            columns: JsonColumns::new(&TableSchema::empty(), Unknown::Report),
            awaits_rows: recipe.files.format.needs_columns(),
        };
        if let Some(given) = &recipe.given_schema {
            (typing.version, typing.mode) = (Some(Version::given(given.schema.clone())), Mode::Given);
            typing.columns = given.reader();
        }
        typing
    }

    fn adopt(&mut self, version: Version, mode: Mode) {
        // Under a recorded version nothing grows, but rows that were left out for a fault in a new field must be again.
        self.columns = JsonColumns::new(&version.schema, Unknown::Report);
        self.version = Some(version);
        self.mode = mode;
    }

    /// Takes the newest stored version, if the schema is inferred and there is one.
    pub(crate) async fn load(&mut self) -> Result<(), TaskError> {
        if self.mode == Mode::Given {
            return Ok(());
        }
        match self.schemas.latest(&self.topic).await? {
            Some(version) => self.adopt(version, Mode::Inferred),
            None => (self.version, self.mode) = (None, Mode::Inferred),
        }
        // The columns of a table are known before the first row comes.
        self.learn(&[]).await
    }

    /// Fixes the version that a plan was made with, until the next [`Self::load`]. Version 0 is none: then all rows of the
    /// cut brought their schema, and those that did not were left out because none was known.
    pub(crate) async fn fix(&mut self, recorded: model::SchemaRef) -> Result<(), TaskError> {
        if self.mode == Mode::Given {
            return Ok(());
        }
        let version = match recorded.version {
            0 => Version::given(TableSchema::empty()),
            _ => self.schemas.recorded(&self.topic, recorded).await?,
        };
        self.adopt(version, Mode::Recorded);
        Ok(())
    }

    /// Whether the first rows must be seen before any can be read.
    pub(crate) fn wants_first_rows(&self) -> bool {
        self.version.is_none() && self.awaits_rows
    }

    /// The first rows brought their own schema, as all later ones will most likely: none is held back any more. Should a
    /// row come without one, a schema is inferred from its batch.
    pub(crate) fn rows_have_schemas(&mut self) {
        self.awaits_rows = false;
    }

    /// Finds and stores the schema that holds all of `texts` too. Values that fit no schema contribute nothing.
    pub(crate) async fn learn(&mut self, texts: &[&BinaryArray]) -> Result<(), TaskError> {
        for _ in 0..RACES_MAX {
            let mut grown: Option<TableSchema> = self.version.as_ref().map(|version| version.schema.clone());
            for texts in texts {
                grown = Some(infer(grown.as_ref(), texts).schema);
            }
            let grown = self.schemas.fitted(grown.unwrap_or_else(TableSchema::empty));
            if grown.fields().is_empty() {
                return Ok(());
            }
            if self.version.as_ref().is_some_and(|version| version.schema == grown) {
                return Ok(());
            }
            let version = self.schemas.propose(&self.topic, self.version.as_ref(), grown).await?;
            self.adopt(version, Mode::Inferred);
        }
        Err(TaskError::Transient(format!("the schema of topic {} did not settle", self.topic)))
    }

    /// Reads texts into columns; new fields make a new stored version first.
    pub(crate) async fn read(&mut self, texts: &BinaryArray) -> Result<ReadRows, TaskError> {
        let rows = self.columns.read(texts);
        if !rows.grows || self.mode != Mode::Inferred {
            return Ok(rows);
        }
        self.learn(&[texts]).await?;
        let rows = self.columns.read(texts);
        // Some row would change what a table does not let change.
        Ok(if rows.grows { self.columns.read_fixed(texts) } else { rows })
    }

    /// The version that [`Self::read`] read with; the empty schema while none is known.
    pub(crate) fn version(&self) -> Version {
        self.version.clone().unwrap_or_else(|| Version::given(TableSchema::empty()))
    }
}
