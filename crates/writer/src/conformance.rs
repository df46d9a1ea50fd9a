//! What every store, format and committer must do, run by memory, local, faulty and real forms alike. Panics when one
//! does not.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use bytes::Bytes;
use model::{Batch, Fingerprint, Nonce, Offset, OffsetRange, Plan, Settings, TopicPartition, Values};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::cut::OpenCut;
use crate::error::{Error, PublishError};
use crate::file_context::{FileContext, FileLimits};
use crate::format::{FileFooter, Format, LabelPlace, Mark};
use crate::layout::Layout;
use crate::newest::{Labels, newest_cuts};
use crate::parquet_format::ParquetFormat;
use crate::partition::directories;
use crate::publish::{Body, Committer, FinishedFile, ObjectCommitter, OnExisting};
use crate::store::{Created, Store};
use crate::upload::Completed;
use crate::views::Views;

/// S3's smallest part.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// Rows with numbers, texts, times, a nested struct and a list, with nulls at every level. Row `n` of the world is the
/// same in every call.
pub fn nested_rows(from: i64, count: i64) -> StructArray {
    let all = || from..from + count;
    let column =
        |name: &str, array: ArrayRef, nullable: bool| (Field::new(name, array.data_type().clone(), nullable), array);
    let texts = StringArray::from_iter(all().map(|n| (n % 5 != 0).then(|| format!("käfer {n}"))));
    let labels = StringArray::from_iter(all().map(|n| (n % 3 != 0).then_some(if n % 2 == 0 { "spam" } else { "ham" })));
    let lengths = all().map(|n| usize::try_from(n % 4).unwrap_or(0));
    let scores = all().flat_map(|n| (0..n % 4).map(move |k| ((n + k) % 7 != 3).then_some(n as f64 + k as f64 / 8.0)));
    let scores = Float64Array::from_iter(scores);
    let element = Arc::new(Field::new("element", DataType::Float64, true));
    let lists = ListArray::new(element, OffsetBuffer::from_lengths(lengths), Arc::new(scores), None);
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        [column("label", Arc::new(labels), true), column("scores", Arc::new(lists), true)].into_iter().unzip();
    let nulls = NullBuffer::from_iter(all().map(|n| n % 11 != 0));
    let outputs = StructArray::new(Fields::from(fields), columns, Some(nulls));
    let times = TimestampMillisecondArray::from_iter_values(all().map(|n| 1_700_000_000_000 + n)).with_timezone("UTC");
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = [
        column("id", Arc::new(Int64Array::from_iter_values(all())), false),
        column("text", Arc::new(texts), true),
        column("flag", Arc::new(BooleanArray::from_iter(all().map(|n| (n % 4 != 0).then_some(n % 2 == 0)))), true),
        column("time", Arc::new(times), false),
        column("outputs", Arc::new(outputs), true),
    ]
    .into_iter()
    .unzip();
    debug_assert!(matches!(fields[3].data_type(), DataType::Timestamp(TimeUnit::Millisecond, Some(_))));
    StructArray::new(Fields::from(fields), columns, None)
}

/// One column of `bytes` bytes a row that no codec makes smaller.
pub fn noisy_rows(from: i64, count: i64, bytes: usize) -> StructArray {
    let mut state = u64::try_from(from).unwrap_or(0).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut row = move || -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    };
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..count).map(|_| row())));
    StructArray::new(Fields::from(vec![Field::new("noise", DataType::Binary, false)]), vec![column], None)
}

/// The records of `topic_partition` from offset `from` whose values are `rows`.
pub fn batch(topic_partition: &TopicPartition, from: i64, rows: StructArray) -> Batch {
    batch_of(topic_partition, from, Values::Typed(rows))
}

/// The records of `topic_partition` from offset `from` with these values.
pub fn batch_of(topic_partition: &TopicPartition, from: i64, values: Values) -> Batch {
    let count = values.len();
    Batch {
        topic_partition: topic_partition.clone(),
        offsets: (from..).take(count).collect::<ScalarBuffer<i64>>(),
        timestamps_ms: (from..).take(count).collect::<ScalarBuffer<i64>>(),
        append_times: None,
        keys: BinaryArray::from_iter((0..count).map(|_| None::<&[u8]>)),
        key_values: None,
        key_schema: None,
        headers: None,
        topics: None,
        input_bytes: (0..count).map(|_| 100u32).collect::<ScalarBuffer<u32>>(),
        schema: None,
        values,
    }
}

/// The rows of a Parquet file, read by the parquet crate.
pub fn read_parquet(file: Bytes) -> StructArray {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a whole file");
    let schema = Arc::clone(builder.schema());
    let batches: Vec<_> = builder.build().expect("a reader").map(|batch| batch.expect("a batch")).collect();
    concat_batches(&schema, &batches).expect("one schema").into()
}

/// A format, and rows that it can write.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The format.
    pub format: Arc<dyn Format>,
    /// So many small rows from a number on.
    pub rows: fn(i64, i64) -> Values,
    /// So many rows of a KiB and more, from a number on, that no codec makes smaller.
    pub noise: fn(i64, i64) -> Values,
    /// The numbers of the rows in a file of the small ones.
    pub numbers: fn(Bytes) -> Vec<i64>,
    /// A text of what is in a file, without what the format adds: equal for equal rows.
    pub content: fn(Bytes) -> Vec<u8>,
}

/// Rows in Parquet.
pub fn parquet_sample() -> Sample {
    Sample {
        format: Arc::new(ParquetFormat::new("snappy").expect("a codec")),
        rows: |from, count| Values::Typed(nested_rows(from, count)),
        noise: |from, count| Values::Typed(noisy_rows(from, count, 1_024)),
        numbers: |file| {
            let rows = read_parquet(file);
            rows.column(0).as_any().downcast_ref::<Int64Array>().expect("numbers").values().to_vec()
        },
        content: |file| {
            let rows = read_parquet(file);
            let column = rows.column(0).as_any().downcast_ref::<BinaryArray>().expect("bytes");
            column.iter().flatten().flatten().copied().collect()
        },
    }
}

/// A context that writes Parquet below `prefix` of `store`, with the smallest parts that S3 takes.
pub fn context(store: &Store, prefix: &str) -> Arc<FileContext> {
    context_of(store, prefix, &parquet_sample().format)
}

/// A context that writes `format` below `prefix` of `store`, with the smallest parts that S3 takes.
pub fn context_of(store: &Store, prefix: &str, format: &Arc<dyn Format>) -> Arc<FileContext> {
    let (prefix, extension) = (prefix.to_owned(), format.extension().to_owned());
    Arc::new(FileContext {
        store: store.clone(),
        format: Arc::clone(format),
        object_key: Arc::new(move |view, topic_partition, path, first| {
            let TopicPartition { topic, partition } = topic_partition;
            let path = directories(path);
            format!("{prefix}/{topic}/{path}/{topic}+{partition}+{:010}{}{extension}", first.get(), view.infix())
        }),
        views: Views::default(),
        limits: FileLimits {
            part_bytes: PART_BYTES,
            rows_bytes: 4 * 1024 * 1024,
            row_group_bytes: 4 * 1024 * 1024,
            row_group_rows: 1 << 20,
        },
        schema: "v1".into(),
        config: Fingerprint::of([&b"conformance"[..]]),
        tagging: None,
        shared_bytes: 0,
    })
}

/// The files of `cut`, which ends between `start` and `end` under the plan that belongs to it.
pub async fn finish(cut: OpenCut, start: i64, end: i64) -> Result<Vec<FinishedFile>, Error> {
    let offset = |offset| Offset::new(offset).expect("not negative");
    let files = u32::try_from(cut.open_files()).expect("few files");
    let plan = Plan::new(offset(end), 0, cut.nonce(), None, Fingerprint::of([&b"conformance"[..]]), files);
    cut.finish(OffsetRange::new(offset(start), offset(end)).expect("in order"), &plan).await
}

/// A format of columns: what goes in comes out.
pub fn format(format: &dyn Format, read: &dyn Fn(Bytes) -> StructArray) {
    let whole = nested_rows(0, 3_000);
    let schema = Arc::new(Schema::new(whole.fields().clone()));
    let footer =
        FileFooter { entries: vec![("sluice.nonce", Nonce(5).to_string()), ("sluice.rows", "3000".to_owned())] };
    let typed = |from, count| Values::Typed(whole.slice(from, count));

    let mut encoder = format.open(&schema, None, &footer).expect("an encoder");
    let mut file = Vec::new();
    for group in [vec![typed(0, 1), typed(1, 1_999)], vec![typed(2_000, 1_000)]] {
        encoder.write(&group).expect("rows");
        file.extend_from_slice(&encoder.take().expect("bytes"));
    }
    file.extend_from_slice(&encoder.finish(&footer).expect("an end"));
    let file = Bytes::from(file);
    assert_eq!(format.mark_of(&file), Some(Mark { nonce: Nonce(5), end: None, rows: Some(3_000) }));
    assert_eq!(read(file), whole, "nested values, lists and nulls come back as they went in");

    let mut encoder = format.open(&schema, None, &footer).expect("an encoder");
    let empty = encoder.finish(&footer).expect("an end");
    assert_eq!(read(empty).len(), 0, "a file without rows is a whole file");

    let nulls = NullBuffer::from_iter((0..3_000).map(|n| n != 7));
    let tombstone = StructArray::new(whole.fields().clone(), whole.columns().to_vec(), Some(nulls));
    let mut encoder = format.open(&schema, None, &footer).expect("an encoder");
    assert!(encoder.write(&[Values::Typed(tombstone)]).is_err(), "a row without a value is an error");
}

/// Parquet, with any codec.
pub fn parquet(parquet: &ParquetFormat) {
    format(parquet, &read_parquet);
}

/// A store: create once, read, list, odd names.
pub async fn store(store: &Store) {
    store.probe("_sluice/probe").await.expect("a bucket");
    assert_eq!(store.read("conformance/none").await.expect("an answer"), None);
    let keys = ["conformance/a", "conformance/a=b c+d%20ä:#/x", "conformance/sub/b"];
    for key in keys {
        assert_eq!(store.create(key, "first".into()).await.expect("an answer"), Created::New, "{key}");
        assert_eq!(
            store.create(key, "first".into()).await.expect("an answer"),
            Created::New,
            "equal bytes are no conflict"
        );
        assert_eq!(store.create(key, "second".into()).await.expect("an answer"), Created::AlreadyThere, "{key}");
        assert_eq!(store.read(key).await.expect("an answer").as_deref(), Some(&b"first"[..]), "{key}");
    }
    assert_eq!(store.list("conformance").await.expect("an answer"), keys);
    assert_eq!(store.list("conformance/sub").await.expect("an answer"), [keys[2]]);
    assert_eq!(store.list("conformance/no such").await.expect("an answer"), Vec::<String>::new());
    for key in ["/a", "a//b", "a/../b", "a/"] {
        assert!(store.create(key, "x".into()).await.is_err(), "{key}");
    }
}

/// A committer whose objects land in `store` below `prefix`, which must be empty.
pub async fn committer(committer: &dyn Committer, store: &Store, prefix: &str) {
    committer_of(&parquet_sample(), committer, store, prefix).await;
}

/// As [`committer`], with files of any format.
pub async fn committer_of(sample: &Sample, committer: &dyn Committer, store: &Store, prefix: &str) {
    small_files(sample, committer, store, &format!("{prefix}/small")).await;
    large_file(sample, committer, store, &format!("{prefix}/large")).await;
    nothing_published(sample, store, &format!("{prefix}/dropped")).await;
}

async fn small_cut(sample: &Sample, store: &Store, prefix: &str, nonce: u64) -> Vec<FinishedFile> {
    let topic_partition = TopicPartition::new("orders", 3);
    let context = context_of(store, prefix, &sample.format);
    let mut cut = OpenCut::new(context, topic_partition.clone(), Nonce(nonce));
    // Where only bytes tell files apart, another cut is one with other rows.
    let other = if says_whose(sample, store) { 0 } else { i64::try_from(nonce).unwrap_or(0) };
    for (path, from, count) in [("p=1", 10, 2), ("p=2", 12, 1), ("p=1", 13, 4)] {
        cut.append(&batch_of(&topic_partition, from, (sample.rows)(from + other - other.min(1), count)), &path.into())
            .expect("rows");
    }
    finish(cut, 10, 17).await.expect("files")
}

/// Whether objects say whose they are, in themselves or in their user metadata.
fn says_whose(sample: &Sample, store: &Store) -> bool {
    store.abilities().metadata || sample.format.label_place() != LabelPlace::Nowhere
}

async fn small_files(sample: &Sample, committer: &dyn Committer, store: &Store, prefix: &str) {
    let extension = sample.format.extension();
    let keys = [
        format!("{prefix}/orders/p=1/orders+3+0000000010{extension}"),
        format!("{prefix}/orders/p=2/orders+3+0000000012{extension}"),
    ];
    let files = small_cut(sample, store, prefix, 1).await;
    assert_eq!(
        files.iter().map(|file| (file.key.clone(), file.rows)).collect::<Vec<_>>(),
        [(keys[0].clone(), 6), (keys[1].clone(), 1)]
    );
    assert!(store.list(prefix).await.expect("an answer").is_empty(), "nothing is visible before it is published");

    let published = committer.publish(files).await.expect("published");
    assert_eq!(published.iter().map(|file| file.key.clone()).collect::<Vec<_>>(), keys);
    assert_eq!(store.list(prefix).await.expect("an answer"), keys, "each object appears once");
    let first = store.read(&keys[0]).await.expect("an answer").expect("an object");
    assert_eq!(first.len() as u64, published[0].bytes);
    assert_eq!((sample.numbers)(first.clone()), [10, 11, 13, 14, 15, 16], "rows keep their order");

    let again = committer.publish(small_cut(sample, store, prefix, 1).await).await.expect("published again");
    assert!(again.iter().all(|file| file.already_there), "the same cut again is a success");
    assert_eq!(store.list(prefix).await.expect("an answer"), keys);

    let error = committer.publish(small_cut(sample, store, prefix, 2).await).await.expect_err("another cut");
    assert!(matches!(error, PublishError::Conflict { .. }), "{error}");
    let text = error.to_string();
    let held = if says_whose(sample, store) { "0000000000000001" } else { "do not say whose they are" };
    assert!(text.contains(held) && text.contains("0000000000000002") && text.contains("orders+3"), "{text}");
    assert_eq!(store.read(&keys[0]).await.expect("an answer"), Some(first), "nothing is overwritten");
}

async fn large_cut(sample: &Sample, store: &Store, prefix: &str, nonce: u64) -> Vec<FinishedFile> {
    let topic_partition = TopicPartition::new("noise", 0);
    let context = context_of(store, prefix, &sample.format);
    let mut cut = OpenCut::new(context, topic_partition.clone(), Nonce(nonce));
    let other = if says_whose(sample, store) { 0 } else { i64::try_from(nonce).unwrap_or(0) - 1 };
    for from in (0..12_000).step_by(1_000) {
        let values = (sample.noise)(from + other, 1_000);
        cut.append(&batch_of(&topic_partition, from, values), &"all".into()).expect("rows");
        cut.spill(usize::MAX).await.expect("parts");
    }
    finish(cut, 0, 12_000).await.expect("files")
}

async fn large_file(sample: &Sample, committer: &dyn Committer, store: &Store, prefix: &str) {
    let files = large_cut(sample, store, prefix, 1).await;
    assert!(files.len() == 1 && files[0].is_multipart() && files[0].bytes > 2 * PART_BYTES as u64);
    let key = files[0].key.clone();
    assert!(store.list(prefix).await.expect("an answer").is_empty(), "no part is visible before it is published");
    let published = committer.publish(files).await.expect("published");
    let object = store.read(&key).await.expect("an answer").expect("an object");
    assert_eq!(object.len() as u64, published[0].bytes);
    let values: Vec<Values> = (0..12_000).step_by(1_000).map(|from| (sample.noise)(from, 1_000)).collect();
    let whole = encoded(sample.format.as_ref(), &values);
    assert!((sample.content)(object.clone()) == (sample.content)(whole), "all rows, in their order");

    let again = committer.publish(large_cut(sample, store, prefix, 1).await).await.expect("published again");
    assert!(again[0].already_there);
    let error = committer.publish(large_cut(sample, store, prefix, 2).await).await.expect_err("another cut");
    assert!(matches!(error, PublishError::Conflict { .. }), "{error}");
    assert_eq!(store.list(prefix).await.expect("an answer"), std::slice::from_ref(&key));
    assert_eq!(store.read(&key).await.expect("an answer"), Some(object), "nothing is overwritten");
}

/// A file of `values`, which are of one form, written at once.
pub fn encoded(format: &dyn Format, values: &[Values]) -> Bytes {
    let schema = match values.first() {
        Some(Values::Typed(rows)) => Schema::new(rows.fields().clone()),
        Some(Values::Schemaless(_)) | None => Schema::empty(),
    };
    let footer = FileFooter { entries: vec![("sluice.nonce", Nonce(5).to_string())] };
    let mut encoder = format.open(&Arc::new(schema), None, &footer).expect("an encoder");
    encoder.write(values).expect("rows");
    encoder.finish(&footer).expect("an end")
}

async fn nothing_published(sample: &Sample, store: &Store, prefix: &str) {
    FinishedFile::discard(small_cut(sample, store, prefix, 1).await).await;
    FinishedFile::discard(large_cut(sample, store, prefix, 1).await).await;
    let topic_partition = TopicPartition::new("noise", 0);
    let context = context_of(store, prefix, &sample.format);
    let mut cut = OpenCut::new(context, topic_partition.clone(), Nonce(1));
    cut.append(&batch_of(&topic_partition, 0, (sample.noise)(0, 8_000)), &"all".into()).expect("rows");
    cut.spill(0).await.expect("parts");
    assert!(cut.encoded_anything());
    cut.abort().await;
    assert!(store.list(prefix).await.expect("an answer").is_empty(), "what is not published is not there");
}

/// What the objects below `prefix`, which must be empty, tell of the cuts that they belong to.
pub async fn newest(store: &Store, prefix: &str) {
    let layout = layout_below(prefix);
    let labels = Labels { format: parquet_sample().format, views: Views::default() };
    let lanes = [TopicPartition::new("orders", 3), TopicPartition::new("noise", 0), TopicPartition::new("none", 0)];
    let committer = ObjectCommitter::new(store.clone(), OnExisting::Fail);
    let mut small = small_cut(&parquet_sample(), store, prefix, 1).await;
    let second = small.split_off(1);
    committer.publish(second).await.expect("published");
    committer.publish(large_cut(&parquet_sample(), store, prefix, 2).await).await.expect("published");
    for orders_are_whole in [false, true] {
        let found = newest_cuts(store, &layout, &labels, &lanes).await.expect("an answer");
        let found: Vec<_> =
            found.iter().map(|cut| (cut.start.get(), cut.end.get(), cut.plan.nonce, cut.is_whole)).collect();
        assert_eq!(found, [(10, 17, Nonce(1), orders_are_whole), (0, 12_000, Nonce(2), true)]);
        committer.publish(std::mem::take(&mut small)).await.expect("published");
    }
}

fn layout_below(prefix: &str) -> Layout {
    let settings = [("topics.dir".to_owned(), prefix.to_owned())];
    Layout::new(&Settings::new(settings.into()), ".snappy.parquet").expect("a layout")
}

/// Two uploads of one name of which the second is completed without a look: whether the store itself refuses that, so that
/// nothing is replaced. `prefix` must be empty.
pub async fn refuses_to_replace_by_completion(store: &Store, prefix: &str) -> bool {
    let first = large_cut(&parquet_sample(), store, prefix, 1).await;
    let mut second = large_cut(&parquet_sample(), store, prefix, 2).await;
    let key = first[0].key.clone();
    let committer = ObjectCommitter::new(store.clone(), OnExisting::Fail);
    committer.publish(first).await.expect("published");
    let Body::Upload(upload) = &mut second[0].body else { panic!("it is large") };
    let answer = upload.complete(false).await.expect("an answer");
    let object = store.read(&key).await.expect("an answer").expect("an object");
    let mark = ParquetFormat::new("snappy").expect("a codec").mark_of(&object).expect("a mark");
    match answer {
        Completed::Done => assert_eq!(mark.nonce, Nonce(2)),
        Completed::Unknown(_) => assert_eq!(mark.nonce, Nonce(1)),
    }
    FinishedFile::discard(second).await;
    mark.nonce == Nonce(1)
}

/// An upload of 5 MiB and more whose worker dies.
async fn leave_upload(store: &Store, prefix: &str, topic: &str) {
    let topic_partition = TopicPartition::new(topic, 0);
    let mut cut = OpenCut::new(context(store, prefix), topic_partition.clone(), Nonce(1));
    cut.append(&batch(&topic_partition, 0, noisy_rows(0, 8_000, 1_024)), &"all".into()).expect("rows");
    cut.spill(0).await.expect("parts");
    // A worker that is killed drops nothing.
    std::mem::forget(cut);
}

/// Unfinished uploads of dead workers: those of the given topics that are old enough are removed, and no others. A store
/// that keeps no unfinished uploads passes too; how many it kept is the answer. `prefix` must be empty.
pub async fn orphans(store: &Store, prefix: &str) -> usize {
    let layout = layout_below(prefix);
    for topic in ["mine", "mine-too", "other"] {
        leave_upload(store, prefix, topic).await;
    }
    let below = format!("{prefix}/");
    let all = store.orphaned_uploads(&below, i64::MAX).await.expect("an answer");
    let keys: Vec<_> = all.iter().map(|upload| upload.key.as_str()).collect();
    let Some(last) = all.iter().map(|upload| upload.initiated_ms).max() else { return 0 };
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(all.is_sorted_by_key(|upload| upload.initiated_ms), "{all:?}");
    let of_mine = store.orphaned_uploads(&layout.topic_prefix("mine"), i64::MAX).await.expect("an answer");
    assert_eq!(of_mine.len(), 1, "{of_mine:?}");

    let (topics, age) = (["mine", "mine-too"], Duration::from_secs(60));
    let removed = |now_ms| store.abort_orphans(&layout, &topics, now_ms, age);
    assert_eq!(removed(all[0].initiated_ms + 60_000).await.expect("an answer"), 0, "none is older than that");
    assert_eq!(removed(last + 60_001).await.expect("an answer"), 2);
    let left = store.orphaned_uploads(&below, i64::MAX).await.expect("an answer");
    assert!(left.len() == 1 && left[0].key.contains("/other/"), "{left:?}");
    store.abort_upload(&left[0]).await.expect("removed");
    store.abort_upload(&left[0]).await.expect("removing again is no error");
    assert!(store.orphaned_uploads(&below, i64::MAX).await.expect("an answer").is_empty());
    assert!(store.list(prefix).await.expect("an answer").is_empty(), "nothing of them was ever visible");
    keys.len()
}
