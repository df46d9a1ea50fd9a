//! One open file of a cut: rows first, then row groups, then parts of an invisible upload.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use model::{Nonce, Offset, OffsetRange, TopicPartition, ValueSchema, Values};
use tracing::warn;

use crate::error::Error;
use crate::file_context::FileContext;
use crate::file_rows::FileRows;
use crate::format::{self, Encoder, FileFooter, Mark};
use crate::held::HeldRows;
use crate::publish::{Body, FinishedFile};
use crate::statistics::FileStatistics;
use crate::upload::{PartBuffer, Upload};
use crate::views::View;

/// Whose cut a file belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) nonce: Nonce,
}

/// What is known of a file when it takes no more rows.
pub(crate) enum Whole {
    /// They are of one cut.
    Cut {
        range: OffsetRange,
        /// The plan as it is committed.
        plan: String,
    },
    /// They are of several cuts.
    Several,
}

pub(crate) struct OpenFile {
    /// Its store, format and schema's name.
    pub(crate) context: Arc<FileContext>,
    /// What it holds of its records.
    pub(crate) view: View,
    /// Its records are counted here, and not in the files beside it.
    pub(crate) counts_records: bool,
    pub(crate) key: String,
    /// What the partitioner said of its rows.
    path: Arc<str>,
    pub(crate) first: Offset,
    /// Offset of its last row.
    last: Offset,
    /// Columns of its rows, of the file once it is whole; `None` while they are schemaless.
    pub(crate) schema: Option<SchemaRef>,
    /// What its first rows say of their schema beside its fields.
    pub(crate) value_schema: Option<Arc<ValueSchema>>,
    pub(crate) held: HeldRows,
    pub(crate) rows: u64,
    /// Rows, and their bytes in memory, in the row group that is under way.
    group_rows: usize,
    group_bytes: usize,
    encoder: Option<Box<dyn Encoder>>,
    encoded: PartBuffer,
    pub(crate) upload: Option<Upload>,
    bytes: u64,
    /// Once it is whole.
    statistics: Option<FileStatistics>,
}

impl OpenFile {
    /// A file without rows, whose first one will have the offset `first`.
    pub(crate) fn new(
        context: Arc<FileContext>,
        view: View,
        key: String,
        path: Arc<str>,
        first: Offset,
        schema: Option<SchemaRef>,
        value_schema: Option<Arc<ValueSchema>>,
    ) -> OpenFile {
        OpenFile {
            context,
            view,
            counts_records: false,
            key,
            path,
            first,
            last: first,
            schema,
            value_schema,
            held: HeldRows::default(),
            rows: 0,
            group_rows: 0,
            group_bytes: 0,
            encoder: None,
            encoded: PartBuffer::default(),
            upload: None,
            bytes: 0,
            statistics: None,
        }
    }

    fn encoder_bytes(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.held_bytes())
    }

    /// What encoding and ending the row group would free, at most.
    pub(crate) fn spillable_bytes(&self) -> usize {
        self.held.bytes() + self.encoder_bytes()
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held.bytes()
            + self.held.overhead_bytes()
            + self.encoder_bytes()
            + self.encoded.bytes()
            + self.upload.as_ref().map_or(0, Upload::in_flight_bytes)
    }

    /// Appends rows of its schema, the last of which has the offset `last`, and says whether they keep a much larger batch
    /// alive.
    pub(crate) fn push(&mut self, values: Values, last: Offset) -> bool {
        self.last = last;
        self.rows += values.len() as u64;
        self.held.push(values)
    }

    /// Whether it holds more rows than it should hold unencoded.
    pub(crate) fn is_full(&self) -> bool {
        let limits = self.context.limits;
        let is_group = self.group_rows + self.held.rows() >= limits.row_group_rows;
        let held_max = if self.encoder.is_none() { self.context.shared_bytes } else { 0 };
        is_group || self.held.bytes() >= limits.rows_bytes.max(held_max).min(limits.row_group_bytes)
    }

    /// Whether it ends as rows, which another object takes up.
    fn is_shared(&self) -> bool {
        let may_be = self.context.shared_bytes > 0 && self.view == View::Values;
        may_be && self.encoder.is_none() && self.held.rows() > 0
    }

    /// Encodes the rows that it holds; the row group ends when it is full, or when `ends_group` says so. Says whether there
    /// was anything to encode.
    pub(crate) fn encode(&mut self, ends_group: bool, whose: &Whose) -> Result<bool, Error> {
        self.encode_first(usize::MAX, ends_group, whose)
    }

    /// As [`Self::encode`], but only the first rows that it holds, with about so many bytes.
    pub(crate) fn encode_first(&mut self, bytes: usize, ends_group: bool, whose: &Whose) -> Result<bool, Error> {
        let limits = self.context.limits;
        self.group_rows += self.held.rows();
        self.group_bytes += self.held.bytes();
        if self.group_rows == 0 {
            return Ok(false);
        }
        let rows = self.held.take_first(bytes);
        self.group_rows -= self.held.rows();
        self.group_bytes -= self.held.bytes();
        let is_full = self.group_rows >= limits.row_group_rows || self.group_bytes >= limits.row_group_bytes;
        let ends_group = ends_group || is_full;
        if ends_group {
            (self.group_rows, self.group_bytes) = (0, 0);
        }
        let chunk = self.encode_rows(&rows, ends_group, whose).map_err(|reason| self.rows_error(whose, reason))?;
        self.bytes += chunk.len() as u64;
        self.encoded.push(chunk);
        Ok(true)
    }

    fn encode_rows(&mut self, rows: &[Values], ends_group: bool, whose: &Whose) -> Result<Bytes, String> {
        if self.encoder.is_none() {
            let schema = self.schema.clone().unwrap_or_else(|| Arc::new(Schema::empty()));
            let footer = self.footer(whose, None);
            self.encoder = Some(self.context.format.open(&schema, self.value_schema.as_deref(), &footer)?);
        }
        let encoder = self.encoder.as_mut().ok_or("no encoder")?;
        encoder.write(rows)?;
        if ends_group {
            encoder.end_group()?;
        }
        encoder.take()
    }

    /// Sends parts of the full size. After [`Error::Transient`] nothing is lost, call again.
    pub(crate) async fn send_full_parts(&mut self, whose: &Whose) -> Result<(), Error> {
        let part_bytes = self.context.limits.part_bytes;
        while self.encoded.bytes() >= part_bytes {
            self.send_part(part_bytes, whose).await?;
        }
        Ok(())
    }

    async fn send_part(&mut self, bytes: usize, whose: &Whose) -> Result<(), Error> {
        let footer = self.footer(whose, None);
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(Upload::begin(&self.context.store, &self.key, &footer).await?),
        };
        upload.send(self.encoded.take(bytes)).await
    }

    /// Encodes the rest and waits until every part is there.
    pub(crate) async fn finish(&mut self, whole: &Whole, whose: &Whose) -> Result<(), Error> {
        if self.is_shared() {
            return Ok(());
        }
        self.encode(false, whose)?;
        let footer = self.footer(whose, Some(whole));
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let last = encoder.finish(&footer).map_err(|reason| self.rows_error(whose, reason))?;
        self.statistics = encoder.statistics();
        self.schema = encoder.columns().cloned().or(self.schema.take());
        self.bytes += last.len() as u64;
        self.encoded.push(last);
        if self.upload.is_none() {
            return Ok(());
        }
        while let Err(error) = self.send_rest(whose).await {
            if !error.is_transient() {
                return Err(error);
            }
            warn!(key = %self.key, %error, "store does not answer, sending parts again");
            tokio::time::sleep(self.context.store.rules().redelivery).await;
        }
        Ok(())
    }

    async fn send_rest(&mut self, whose: &Whose) -> Result<(), Error> {
        self.send_full_parts(whose).await?;
        if self.encoded.bytes() > 0 {
            self.send_part(usize::MAX, whose).await?;
        }
        match &mut self.upload {
            Some(upload) => upload.settle().await,
            None => Ok(()),
        }
    }

    /// What is to be published, once [`Self::finish`] is done.
    pub(crate) fn finished(mut self, whole: &Whole, whose: &Whose) -> FinishedFile {
        let (cut, end) = match whole {
            Whole::Cut { range, .. } => (*range, Some(range.end())),
            Whole::Several => (OffsetRange::empty_at(self.first), None),
        };
        let metadata = self.footer(whose, Some(whole)).to_metadata();
        let body = match (self.upload.take(), self.schema.clone().filter(|_| self.is_shared())) {
            (Some(upload), _) => Body::Upload(Box::new(upload)),
            (None, Some(schema)) => Body::Rows(self.rows(schema, whose)),
            (None, None) => Body::Put(self.encoded.take(usize::MAX)),
        };
        let tagging = self.context.tagging.as_ref().filter(|_| self.view == View::Values);
        FinishedFile {
            key: self.key,
            view: self.view,
            rows: self.rows,
            records: if self.counts_records { self.rows } else { 0 },
            bytes: self.bytes,
            topic_partition: whose.topic_partition.clone(),
            cut,
            path: self.path,
            schema: self.schema,
            statistics: self.statistics,
            range: end
                .and_then(|end| OffsetRange::new(self.first, end).ok())
                .unwrap_or(OffsetRange::empty_at(self.first)),
            mark: Mark { nonce: whose.nonce, end, rows: Some(self.rows) },
            metadata,
            tags: tagging.map(|tagging| tagging.of(self.first, self.last, self.rows)),
            format: Arc::clone(&self.context.format),
            body,
        }
    }

    fn rows(&mut self, schema: SchemaRef, whose: &Whose) -> FileRows {
        FileRows {
            context: Arc::clone(&self.context),
            whose: whose.clone(),
            path: Arc::clone(&self.path),
            first: self.first,
            last: self.last,
            schema,
            value_schema: self.value_schema.clone(),
            bytes: self.held.bytes() + self.held.overhead_bytes(),
            slices: self.held.take().into(),
            rows: self.rows,
        }
    }

    fn rows_error(&self, whose: &Whose, reason: String) -> Error {
        Error::Rows { key: self.key.clone(), at: whose.topic_partition.at(self.first).to_string(), reason }
    }

    /// What it says of itself; what only the end of the cut knows is left out before it.
    fn footer(&self, whose: &Whose, whole: Option<&Whole>) -> FileFooter {
        let mut entries = vec![
            (format::NONCE, whose.nonce.to_string()),
            (format::TOPIC, whose.topic_partition.topic.to_string()),
            (format::PARTITION, whose.topic_partition.partition.to_string()),
            (format::START, self.first.to_string()),
        ];
        match whole {
            Some(Whole::Cut { range, plan }) => {
                entries.push((format::END, range.end().to_string()));
                entries.push((format::ROWS, self.rows.to_string()));
                entries.push((format::CUT, range.start().to_string()));
                entries.push((format::PLAN, plan.clone()));
            }
            Some(Whole::Several) => entries.push((format::ROWS, self.rows.to_string())),
            None => {}
        }
        if !self.context.schema.is_empty() {
            entries.push((format::SCHEMA, self.context.schema.to_string()));
        }
        entries.push((format::CONFIG, self.context.config.to_string()));
        FileFooter { entries }
    }
}
