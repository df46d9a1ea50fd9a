//! What every [`Converter`] must keep to; run by the tests of each implementation.

use arrow::array::Array;
use model::{Offset, RawBatch, RawBatchBuilder, TopicPartition};

use crate::{Converter, Decoded, Part};

/// Panics with what is wrong if the converters that `make` builds for `part` do not keep the contract: each row is in a
/// batch or rejected by name, in order; nulls stay null; nothing depends on how records are cut into batches; arbitrary
/// bytes do no harm.
pub async fn converter(part: Part, make: &mut dyn FnMut() -> Box<dyn Converter>) {
    let raw = sample(part);
    let mut converter = make();
    let first = decode(converter.as_mut(), &raw).await;
    keeps_each_row_once(part, &raw, &first);

    let second = decode(converter.as_mut(), &raw).await;
    assert_eq!(format!("{first:?}"), format!("{second:?}"), "a converter keeps nothing of the records before");

    let empty = decode(converter.as_mut(), &raw.slice(0, 0)).await;
    assert!(empty.batches.is_empty() && empty.rejected.is_empty(), "no record, no batch");

    let mut fresh = make();
    for row in 0..raw.len() {
        let one = raw.slice(row, 1);
        let alone = decode(fresh.as_mut(), &one).await;
        keeps_each_row_once(part, &one, &alone);
        let rejected = first.rejected.iter().find(|rejected| rejected.row == row).map(|rejected| &rejected.reason);
        assert_eq!(alone.rejected.first().map(|rejected| &rejected.reason), rejected, "row {row} is judged for itself");
    }
}

async fn decode(converter: &mut dyn Converter, raw: &RawBatch) -> Decoded {
    converter.decode(raw).await.expect("no registry and no given schema can be at fault")
}

/// Panics if `decoded` is not what a converter may make of `raw`: each row is in a batch or rejected by name, in order, and
/// nulls stay null.
pub fn keeps_each_row_once(part: Part, raw: &RawBatch, decoded: &Decoded) {
    let texts = part.column(raw);
    let mut offsets = Vec::new();
    for batch in &decoded.batches {
        assert!(!batch.is_empty(), "a batch has rows");
        assert_eq!(batch.values.len(), batch.len(), "one value a row");
        for row in 0..batch.len() {
            let offset = batch.offset(row).get();
            let at = raw.offsets.iter().position(|known| *known == offset).expect("an offset that was given in");
            let is_null = batch.values.nulls().is_some_and(|nulls| nulls.is_null(row));
            assert!(is_null || texts.is_valid(at), "the null at {offset} stays null");
            offsets.push(offset);
        }
    }
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "rows stay in their order");
    for rejected in &decoded.rejected {
        assert!(texts.is_valid(rejected.row), "a null is no error");
        assert_eq!(rejected.at, raw.position(rejected.row), "a rejected row is named");
        assert_eq!(rejected.stage, part.stage());
        assert!(!rejected.reason.is_empty() && rejected.reason.len() < 2000, "a short reason");
        offsets.push(rejected.at.offset.get());
    }
    offsets.sort_unstable();
    assert_eq!(offsets, raw.offsets.as_ref(), "each row is in a batch or rejected, once");
}

fn sample(part: Part) -> RawBatch {
    let deep = vec![b'['; 100_000];
    let envelope = br#"{"schema":{"type":"struct","fields":[{"field":"a","type":"int32"}]},"payload":{"a":1}}"#;
    let values: &[Option<&[u8]>] = &[
        None,
        Some(br#"{"a":1}"#),
        Some(b""),
        Some(envelope),
        Some(b"null"),
        Some(br#"{"schema":{"type":"int8"},"payload":300}"#),
        Some(br#"{"schema":{"type":"what"},"payload":300}"#),
        Some(b"\xff\xfe\x00"),
        None,
        Some(&deep),
        Some(br#"{"schema":"#),
        Some(b"plain text"),
        Some(envelope),
    ];
    let mut builder = RawBatchBuilder::new(TopicPartition::new("conformance", 3), values.len(), 0);
    for (row, value) in values.iter().enumerate() {
        let offset = i64::try_from(row * row + 5).ok().and_then(Offset::new).expect("a small number is an offset");
        let (key, value) = match part {
            Part::Key => (*value, None),
            Part::Value | Part::Header => (None, *value),
        };
        builder.push(offset, 0, key, value, Vec::new());
    }
    builder.finish()
}
