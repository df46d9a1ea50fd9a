//! One open file of a cut: rows first, then row groups, then parts of an invisible upload.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use model::{Nonce, Offset, OffsetRange, TopicPartition, ValueSchema, Values};
use tracing::warn;

use crate::error::Error;
use crate::file_context::FileContext;
use crate::format::{self, Encoder, FileFooter, Mark};
use crate::held::HeldRows;
use crate::publish::{Body, FinishedFile};
use crate::upload::{PartBuffer, Upload};
use crate::views::View;

/// Whose cut a file belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) nonce: Nonce,
}

/// What is known of a cut when it takes no more rows.
pub(crate) struct WholeCut {
    pub(crate) range: OffsetRange,
    /// The plan as it is committed.
    pub(crate) plan: String,
}

pub(crate) struct OpenFile {
    /// Its store, format and schema's name.
    pub(crate) context: Arc<FileContext>,
    /// What it holds of its records.
    pub(crate) view: View,
    /// Its records are counted here, and not in the files beside it.
    pub(crate) counts_records: bool,
    pub(crate) key: String,
    pub(crate) first: Offset,
    /// Offset of its last row.
    last: Offset,
    /// Columns of its rows; `None` while they are schemaless.
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
}

impl OpenFile {
    /// A file without rows, whose first one will have the offset `first`.
    pub(crate) fn new(
        context: Arc<FileContext>,
        view: View,
        key: String,
        first: Offset,
        schema: Option<SchemaRef>,
        value_schema: Option<Arc<ValueSchema>>,
    ) -> OpenFile {
        OpenFile {
            context,
            view,
            counts_records: false,
            key,
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
        is_group || self.held.bytes() >= limits.rows_bytes.min(limits.row_group_bytes)
    }

    /// Encodes the rows that it holds; the row group ends when it is full, or when `ends_group` says so. Says whether there
    /// was anything to encode.
    pub(crate) fn encode(&mut self, ends_group: bool, whose: &Whose) -> Result<bool, Error> {
        let limits = self.context.limits;
        self.group_rows += self.held.rows();
        self.group_bytes += self.held.bytes();
        if self.group_rows == 0 {
            return Ok(false);
        }
        let rows = self.held.take();
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
    pub(crate) async fn finish(&mut self, whole: &WholeCut, whose: &Whose) -> Result<(), Error> {
        self.encode(false, whose)?;
        let footer = self.footer(whose, Some(whole));
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        let last = encoder.finish(&footer).map_err(|reason| self.rows_error(whose, reason))?;
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
    pub(crate) fn finished(mut self, whole: &WholeCut, whose: &Whose) -> FinishedFile {
        let end = whole.range.end();
        let metadata = self.footer(whose, Some(whole)).to_metadata();
        let body = match self.upload.take() {
            Some(upload) => Body::Upload(Box::new(upload)),
            None => Body::Put(self.encoded.take(usize::MAX)),
        };
        let tagging = self.context.tagging.as_ref().filter(|_| self.view == View::Values);
        FinishedFile {
            key: self.key,
            view: self.view,
            rows: self.rows,
            records: if self.counts_records { self.rows } else { 0 },
            bytes: self.bytes,
            range: OffsetRange::new(self.first, end).unwrap_or(OffsetRange::empty_at(self.first)),
            mark: Mark { nonce: whose.nonce, end: Some(end), rows: Some(self.rows) },
            metadata,
            tags: tagging.map(|tagging| tagging.of(self.first, self.last, self.rows)),
            format: Arc::clone(&self.context.format),
            body,
        }
    }

    fn rows_error(&self, whose: &Whose, reason: String) -> Error {
        Error::Rows { key: self.key.clone(), at: whose.topic_partition.at(self.first).to_string(), reason }
    }

    /// What it says of itself; what only the end of the cut knows is left out before it.
    fn footer(&self, whose: &Whose, whole: Option<&WholeCut>) -> FileFooter {
        let mut entries = vec![
            (format::NONCE, whose.nonce.to_string()),
            (format::TOPIC, whose.topic_partition.topic.to_string()),
            (format::PARTITION, whose.topic_partition.partition.to_string()),
            (format::START, self.first.to_string()),
        ];
        if let Some(WholeCut { range, plan }) = whole {
            entries.push((format::END, range.end().to_string()));
            entries.push((format::ROWS, self.rows.to_string()));
            entries.push((format::CUT, range.start().to_string()));
            entries.push((format::PLAN, plan.clone()));
        }
        if !self.context.schema.is_empty() {
            entries.push((format::SCHEMA, self.context.schema.to_string()));
        }
        entries.push((format::CONFIG, self.context.config.to_string()));
        FileFooter { entries }
    }
}
