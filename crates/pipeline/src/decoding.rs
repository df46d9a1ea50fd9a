//! The first half of a lane's way: raw records become batches, by the converters and then by the transforms.

use model::{Batch, RawBatch, Values};
use schema::{Converter, Decoded};
use transform::Chain;

use crate::headers::HeaderReader;
use crate::{Recipe, TaskError};

/// Converters and transforms of one lane.
pub(crate) struct Decoding {
    values: Box<dyn Converter>,
    /// Only where something reads decoded keys.
    keys: Option<Box<dyn Converter>>,
    /// Only where something reads what headers say.
    headers: Option<HeaderReader>,
    transforms: Chain,
}

impl Decoding {
    pub(crate) fn new(recipe: &Recipe) -> Decoding {
        Decoding {
            values: (recipe.converter)(),
            keys: recipe.key_converter.as_ref().map(|build| build()),
            headers: recipe.header_converter.as_ref().map(|build| HeaderReader::new(build())),
            transforms: (recipe.transforms)(),
        }
    }

    /// Decodes and transforms all records of `raw`. Records that a transform drops are in neither list; `row` of the
    /// rejected ones counts in `raw`, and rises.
    pub(crate) async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, TaskError> {
        let Decoded { mut batches, mut rejected } = self.values.decode(raw).await?;
        if let Some(keys) = &mut self.keys {
            let keys = keys.decode(raw).await?;
            batches = batches.iter().flat_map(|batch| with_keys(batch, &keys.batches)).collect();
            rejected.extend(keys.rejected);
        }
        if let Some(headers) = &mut self.headers {
            let read = headers.read(raw).await?;
            batches = batches.into_iter().map(|batch| read.put_into(batch, raw)).collect();
            batches.retain(|batch| !batch.is_empty());
            rejected.extend(read.rejected);
        }
        if !self.transforms.is_empty() {
            for batch in std::mem::take(&mut batches) {
                let chained = self.transforms.apply(batch);
                batches.extend(chained.batches);
                rejected.extend(chained.rejected);
            }
        }
        for one in &mut rejected {
            let row = raw.offsets.binary_search(&one.at.offset.get());
            one.row = row.expect("converters and transforms keep the offsets of their rows");
        }
        rejected.sort_by_key(|one| one.row);
        rejected.dedup_by_key(|one| one.row);
        Ok(Decoded { batches, rejected })
    }
}

/// The rows of `batch` whose keys could be read, with them; in as many batches as the keys have schemas.
fn with_keys(batch: &Batch, keys: &[Batch]) -> Vec<Batch> {
    let joined = keys.iter().filter_map(|keys| {
        if keys.offsets == batch.offsets {
            return Some(with_key(batch.clone(), keys.values.clone(), keys));
        }
        let (mut rows, mut key_rows) = (Vec::new(), Vec::new());
        for (row, offset) in batch.offsets.iter().enumerate() {
            if let Ok(key_row) = keys.offsets.binary_search(offset) {
                rows.push(row as u32);
                key_rows.push(key_row as u32);
            }
        }
        (!rows.is_empty()).then(|| with_key(batch.select(&rows), keys.select(&key_rows).values, keys))
    });
    joined.collect()
}

fn with_key(batch: Batch, key_values: Values, keys: &Batch) -> Batch {
    Batch { key_values: Some(key_values), key_schema: keys.schema.clone(), ..batch }
}

#[cfg(test)]
mod tests {
    use arrow::array::BinaryArray;
    use model::{Headers, Offset, RawBatchBuilder, TopicPartition};

    use super::*;

    fn batch(offsets: &[i64]) -> Batch {
        let mut raw = RawBatchBuilder::new(TopicPartition::new("t", 0), 4, 64);
        for offset in offsets {
            let text = offset.to_string();
            raw.push(Offset::new(*offset).unwrap(), 0, None, Some(text.as_bytes()), Headers::new());
        }
        let raw = raw.finish();
        Batch::decoded(&raw, Values::Schemaless(raw.values.clone()))
    }

    fn texts(values: &Values) -> Vec<String> {
        let Values::Schemaless(texts) = values else { panic!("{values:?}") };
        let texts: &BinaryArray = texts;
        texts.iter().flatten().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn each_row_gets_its_own_key_and_rows_without_a_readable_key_go() {
        let keys = [batch(&[1, 4]), batch(&[7, 9])];
        let joined = with_keys(&batch(&[1, 2, 7, 9]), &keys);
        let shown: Vec<(Vec<String>, Vec<String>)> =
            joined.iter().map(|batch| (texts(&batch.values), texts(batch.key_values.as_ref().unwrap()))).collect();
        let row = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown, [(row(&["1"]), row(&["1"])), (row(&["7", "9"]), row(&["7", "9"]))]);
        assert_eq!(with_keys(&batch(&[1, 4]), &keys[..1])[0].len(), 2);
    }
}
