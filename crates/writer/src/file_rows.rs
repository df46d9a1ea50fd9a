//! Rows of files that were not encoded when their cuts ended, and the one object that several of them become.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use model::{Offset, ValueSchema, Values};
use tracing::warn;

use crate::error::Error;
use crate::file_context::FileContext;
use crate::open_file::{OpenFile, Whole, Whose};
use crate::publish::FinishedFile;
use crate::table_format::with_columns;
use crate::upload::Upload;
use crate::views::View;

/// The rows of one file of a cut, with columns and in order, as [`FileContext::shared_bytes`] has them handed on. Cheap to
/// clone.
#[derive(Clone)]
pub struct FileRows {
    pub(crate) context: Arc<FileContext>,
    pub(crate) whose: Whose,
    pub(crate) path: Arc<str>,
    pub(crate) first: Offset,
    pub(crate) last: Offset,
    pub(crate) schema: SchemaRef,
    pub(crate) value_schema: Option<Arc<ValueSchema>>,
    pub(crate) slices: Arc<[Values]>,
    pub(crate) rows: u64,
    pub(crate) bytes: usize,
}

impl fmt::Debug for FileRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileRows { whose, first, rows, .. } = self;
        write!(f, "FileRows({rows} rows from {})", whose.topic_partition.at(*first))
    }
}

impl FileRows {
    /// How many.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that they take in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the partitioner said of them.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Their columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Encodes `self` and then `others`, which have the same path, into one new file with `columns`, named and labelled after
    /// the first row: what rows lack is null, what is of a narrower type is widened. What is encoded goes to the store in
    /// parts as soon as a part is full; nothing becomes visible. `held` is told what that takes of memory beside the rows.
    ///
    /// # Errors
    /// [`Error::Rows`]: some row cannot be in a file. [`Error::Lost`]: the upload is lost, encode again. A store that does
    /// not answer is asked again without end.
    pub async fn encode_with(
        &self,
        others: &[FileRows],
        columns: &SchemaRef,
        held: &(dyn Fn(usize) + Sync),
    ) -> Result<FinishedFile, Error> {
        let context = Arc::new(FileContext { shared_bytes: 0, ..FileContext::clone(&self.context) });
        let key = (context.object_key)(View::Values, &self.whose.topic_partition, &self.path, self.first);
        let (path, name) = (Arc::clone(&self.path), self.value_schema.clone());
        let mut file = OpenFile::new(context, View::Values, key, path, self.first, Some(Arc::clone(columns)), name);
        file.counts_records = true;
        match self.encode_into(&mut file, others, columns, held).await {
            Ok(()) => Ok(file.finished(&Whole::Several, &self.whose)),
            Err(error) => {
                if let Some(upload) = file.upload.take() {
                    Upload::abort(upload).await;
                }
                Err(error)
            }
        }
    }

    fn error(&self, key: &str, reason: String) -> Error {
        Error::Rows { key: key.to_owned(), at: self.whose.topic_partition.at(self.first).to_string(), reason }
    }

    async fn encode_into(
        &self,
        file: &mut OpenFile,
        others: &[FileRows],
        columns: &SchemaRef,
        held: &(dyn Fn(usize) + Sync),
    ) -> Result<(), Error> {
        for part in [self].into_iter().chain(others) {
            for slice in part.slices.iter() {
                let rows = match slice {
                    Values::Typed(rows) => with_columns(rows, columns.fields()),
                    Values::Schemaless(_) => Err("they have no columns".to_owned()),
                };
                let rows = rows.map_err(|reason| part.error(&file.key, reason))?;
                file.push(Values::Typed(rows), part.last);
                if !file.is_full() {
                    continue;
                }
                file.encode(false, &self.whose)?;
                held(file.held_bytes());
                while let Err(error) = file.send_full_parts(&self.whose).await {
                    if !error.is_transient() {
                        return Err(error);
                    }
                    warn!(key = %file.key, %error, "store does not answer, sending parts again");
                    tokio::time::sleep(file.context.store.rules().redelivery).await;
                }
                // Encoding never waits by itself.
                tokio::task::yield_now().await;
            }
        }
        file.finish(&Whole::Several, &self.whose).await?;
        held(file.held_bytes());
        Ok(())
    }
}
