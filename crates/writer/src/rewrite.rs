//! Rows of Parquet files that are there, written into one new object: a piece at a time, so that memory does not grow with
//! the files.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, StructArray};
use arrow::datatypes::{Fields, SchemaRef};
use bytes::Bytes;
use model::Values;
use object_store::{Attributes, TagSet};
use parquet::DecodeResult;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::error::Error;
use crate::file_context::FileLimits;
use crate::format::{Encoder, FileFooter, Format};
use crate::statistics::FileStatistics;
use crate::store::{Put, Store};
use crate::upload::{Completed, PartBuffer, Upload};

/// A file up to this size is read by one request, a larger one by one for each row group.
const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// Bytes at the end of a file that are read to find what it says of itself.
const END_BYTES: u64 = 64 << 10;

/// The largest row group, as it lies in the file, that is read.
const GROUP_BYTES_MAX: u64 = 128 << 20;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8_192;

/// Why rows are not in a new file.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
    /// A file cannot be read, or its rows do not fit. Another try ends the same way.
    #[error("could not rewrite {key}: {reason}")]
    Unfit {
        /// The object.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A Parquet file whose rows can be read.
pub struct RowsOfFile {
    store: Store,
    key: String,
    /// The file, if it is small.
    whole: Option<Bytes>,
    metadata: ArrowReaderMetadata,
}

impl fmt::Debug for RowsOfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsOfFile({})", self.key)
    }
}

fn unfit(key: &str, reason: impl fmt::Display) -> RewriteError {
    RewriteError::Unfit { key: key.to_owned(), reason: reason.to_string() }
}

fn gone(key: &str) -> RewriteError {
    unfit(key, "it is not there")
}

impl RowsOfFile {
    /// The Parquet file `key` of `bytes` bytes.
    pub async fn open(store: &Store, key: &str, bytes: u64) -> Result<RowsOfFile, RewriteError> {
        let whole = match bytes <= WHOLE_BYTES_MAX {
            true => Some(store.read(key).await?.ok_or_else(|| gone(key))?),
            false => None,
        };
        let metadata = match &whole {
            Some(whole) => ParquetMetaDataReader::new().parse_and_finish(whole).map_err(|error| unfit(key, error))?,
            None => read_metadata(store, key, bytes).await?,
        };
        let groups = metadata.row_groups().iter();
        let largest = groups.map(|group| u64::try_from(group.compressed_size()).unwrap_or(0)).max().unwrap_or(0);
        if largest > GROUP_BYTES_MAX {
            return Err(unfit(key, format!("it has a row group of {largest} bytes")));
        }
        // The types are those that readers of tables see, whatever the writer's Arrow schema says.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options).map_err(|error| unfit(key, error))?;
        Ok(RowsOfFile { store: store.clone(), key: key.to_owned(), whole, metadata })
    }

    /// Its columns.
    pub fn fields(&self) -> &Fields {
        self.metadata.schema().fields()
    }

    async fn read(&self, wanted: &[Range<u64>]) -> Result<Vec<Bytes>, RewriteError> {
        let start = wanted.iter().map(|range| range.start).min().unwrap_or(0);
        let end = wanted.iter().map(|range| range.end).max().unwrap_or(0);
        let (piece, offset) = match &self.whole {
            Some(whole) => (whole.clone(), 0),
            None => {
                let piece = self.store.read_range(&self.key, start..end).await?;
                (piece.ok_or_else(|| gone(&self.key))?, start)
            }
        };
        let cut = |range: &Range<u64>| {
            let at = |position: u64| usize::try_from(position - offset).ok().filter(|at| *at <= piece.len());
            let (Some(from), Some(to)) = (at(range.start), at(range.end)) else {
                return Err(unfit(&self.key, "it is shorter than the table says"));
            };
            Ok(piece.slice(from..to))
        };
        wanted.iter().map(cut).collect()
    }

    fn decoder(&self) -> Result<ParquetPushDecoder, ParquetError> {
        ParquetPushDecoderBuilder::new_with_metadata(self.metadata.clone()).with_batch_size(BATCH_ROWS).build()
    }
}

async fn read_metadata(store: &Store, key: &str, bytes: u64) -> Result<ParquetMetaData, RewriteError> {
    let mut wanted = END_BYTES.min(bytes);
    loop {
        let piece = store.read_range(key, bytes - wanted..bytes).await?.ok_or_else(|| gone(key))?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&piece, bytes) {
            Ok(()) => return reader.finish().map_err(|error| unfit(key, error)),
            Err(ParquetError::NeedMoreData(more)) if more as u64 > wanted && more as u64 <= bytes => {
                wanted = more as u64;
            }
            Err(error) => return Err(unfit(key, error)),
        }
    }
}

/// A new file that is not visible yet. At any time it and the file that is read hold, beside their footers: one row group of
/// the file as it lies there, 8,192 rows, one row group of the new file, and a few parts that are on their way.
pub struct Rewrite {
    store: Store,
    key: String,
    limits: FileLimits,
    encoder: Box<dyn Encoder>,
    encoded: PartBuffer,
    upload: Option<Upload>,
    /// Rows, and their bytes in memory, in the row group that is under way.
    group_rows: usize,
    group_bytes: usize,
    bytes: u64,
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rewrite({})", self.key)
    }
}

/// A new file that everybody can read.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    /// Its size.
    pub bytes: u64,
    /// What it tells of its rows.
    pub statistics: FileStatistics,
}

impl Rewrite {
    /// A file `key`, a name that nobody else uses, of rows with `schema`.
    pub fn new(
        store: &Store,
        key: &str,
        format: &dyn Format,
        schema: &SchemaRef,
        limits: FileLimits,
    ) -> Result<Rewrite, RewriteError> {
        let encoder = format.open(schema, None, &FileFooter::default()).map_err(|reason| unfit(key, reason))?;
        let (encoded, upload) = (PartBuffer::default(), None);
        let (store, key) = (store.clone(), key.to_owned());
        Ok(Rewrite { store, key, limits, encoder, encoded, upload, group_rows: 0, group_bytes: 0, bytes: 0 })
    }

    /// Appends all rows of `file`, as the format makes them rows of this file's schema: columns are found by name. After an
    /// error the new file is good for [`Self::discard`] only.
    pub async fn append(&mut self, file: &RowsOfFile) -> Result<(), RewriteError> {
        let failed = |error: ParquetError| unfit(&file.key, error);
        let mut decoder = file.decoder().map_err(failed)?;
        loop {
            match decoder.try_decode().map_err(failed)? {
                DecodeResult::NeedsData(ranges) => {
                    let pieces = file.read(&ranges).await?;
                    decoder.push_ranges(ranges, pieces).map_err(failed)?;
                }
                DecodeResult::Data(batch) => {
                    self.write(batch.into(), &file.key)?;
                    self.send_full_parts().await?;
                    // Encoding is work for a processor that others want too.
                    tokio::task::yield_now().await;
                }
                DecodeResult::Finished => return Ok(()),
            }
        }
    }

    fn write(&mut self, rows: StructArray, from: &str) -> Result<(), RewriteError> {
        self.group_rows += rows.len();
        self.group_bytes += rows.get_array_memory_size();
        let is_full = self.group_rows >= self.limits.row_group_rows || self.group_bytes >= self.limits.row_group_bytes;
        let encode = || {
            self.encoder.write(&[Values::Typed(rows)])?;
            if is_full {
                self.encoder.end_group()?;
            }
            self.encoder.take()
        };
        let chunk = encode().map_err(|reason: String| unfit(from, reason))?;
        if is_full {
            (self.group_rows, self.group_bytes) = (0, 0);
        }
        self.bytes += chunk.len() as u64;
        self.encoded.push(chunk);
        Ok(())
    }

    async fn send_full_parts(&mut self) -> Result<(), Error> {
        while self.encoded.bytes() >= self.limits.part_bytes {
            self.send_part(self.limits.part_bytes).await?;
        }
        Ok(())
    }

    async fn send_part(&mut self, bytes: usize) -> Result<(), Error> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(Upload::begin(&self.store, &self.key, &FileFooter::default()).await?),
        };
        upload.send(self.encoded.take(bytes)).await
    }

    /// Ends the file and makes it an object.
    pub async fn finish(mut self) -> Result<Rewritten, RewriteError> {
        match self.publish().await {
            Ok(rewritten) => Ok(rewritten),
            Err(error) => {
                self.discard().await;
                Err(error)
            }
        }
    }

    async fn publish(&mut self) -> Result<Rewritten, RewriteError> {
        let last = self.encoder.finish(&FileFooter::default()).map_err(|reason| unfit(&self.key, reason))?;
        self.bytes += last.len() as u64;
        self.encoded.push(last);
        let statistics = self.encoder.statistics();
        let statistics = statistics.ok_or_else(|| unfit(&self.key, "its format tells no statistics"))?;
        if self.upload.is_none() {
            let payload = self.encoded.take(usize::MAX);
            match self.store.put_new(&self.key, payload.clone(), Attributes::new(), TagSet::default()).await? {
                Put::Done => {}
                // By an earlier try of this PUT?
                Put::Occupied if self.store.read(&self.key).await? == Some(Bytes::from(payload)) => {}
                Put::Occupied => return Err(unfit(&self.key, "another object has this name")),
            }
        } else {
            if self.encoded.bytes() > 0 {
                self.send_part(usize::MAX).await?;
            }
            if let Some(upload) = &mut self.upload {
                upload.settle().await?;
                if let Completed::Unknown(answer) = upload.complete(false).await? {
                    match self.store.find(&self.key).await? {
                        Some(found) if found.bytes == self.bytes => {}
                        Some(_) => return Err(unfit(&self.key, "another object has this name")),
                        None => return Err(upload.not_completed(answer).into()),
                    }
                }
            }
        }
        Ok(Rewritten { bytes: self.bytes, statistics })
    }

    /// Removes what was sent of it.
    pub async fn discard(self) {
        if let Some(upload) = self.upload
            && !upload.was_completed()
        {
            upload.abort().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{nested_rows, read_parquet};
    use crate::parquet_format::ParquetFormat;
    use crate::table_format::{TableFormat, table_schema};
    use crate::testing::stores;
    use arrow::datatypes::Schema;

    const LIMITS: FileLimits =
        FileLimits { part_bytes: 5 << 20, rows_bytes: 1 << 20, row_group_bytes: 64 << 10, row_group_rows: 1 << 20 };

    fn format() -> TableFormat {
        TableFormat::new(ParquetFormat::new("snappy").unwrap(), [])
    }

    /// A file of `rows`, in row groups of so many.
    fn file(rows: &StructArray, group: usize) -> Bytes {
        let schema = Arc::new(Schema::new(rows.fields().clone()));
        let mut encoder = format().open(&schema, None, &FileFooter::default()).unwrap();
        for start in (0..rows.len()).step_by(group) {
            encoder.write(&[Values::Typed(rows.slice(start, group.min(rows.len() - start)))]).unwrap();
            encoder.end_group().unwrap();
        }
        let mut bytes = encoder.take().unwrap().to_vec();
        bytes.extend(encoder.finish(&FileFooter::default()).unwrap());
        bytes.into()
    }

    #[tokio::test]
    async fn rows_of_several_files_lie_in_one_in_their_order() {
        for (store, _guard) in stores() {
            let sizes = [300, 20_000, 1];
            let mut begin = 0;
            let (mut keys, mut all) = (Vec::new(), Vec::new());
            for (number, rows) in sizes.into_iter().enumerate() {
                let bytes = file(&nested_rows(begin, rows), 7_000);
                begin += rows;
                all.push(read_parquet(bytes.clone()));
                keys.push((format!("t/{number}.parquet"), bytes.len() as u64));
                store.create(&keys[number].0, bytes).await.unwrap();
            }
            let schema = Arc::new(table_schema(&Schema::new(nested_rows(0, 1).fields().clone())));
            let mut rewrite = Rewrite::new(&store, "t/new.parquet", &format(), &schema, LIMITS).unwrap();
            for (key, bytes) in &keys {
                let rows = RowsOfFile::open(&store, key, *bytes).await.unwrap();
                rewrite.append(&rows).await.unwrap();
            }
            let rewritten = rewrite.finish().await.unwrap();
            let bytes = store.read("t/new.parquet").await.unwrap().unwrap();
            assert_eq!((rewritten.bytes, rewritten.statistics.rows), (bytes.len() as u64, begin as u64));
            let read = read_parquet(bytes);
            let mut at = 0;
            for rows in all {
                assert_eq!(read.slice(at, rows.len()), rows);
                at += rows.len();
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_none_or_lies_about_its_size_is_named() {
        let [(store, _), _] = stores();
        store.create("t/a.parquet", file(&nested_rows(0, 10), 10)).await.unwrap();
        store.create("t/b.parquet", Bytes::from_static(b"no file")).await.unwrap();
        for (key, bytes) in [("t/a.parquet", WHOLE_BYTES_MAX + 1), ("t/b.parquet", 7), ("t/c.parquet", 7)] {
            let error = RowsOfFile::open(&store, key, bytes).await.unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
