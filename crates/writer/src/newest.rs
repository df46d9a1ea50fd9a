//! Where the objects of a topic-partition end: what its newest object says of the cut that it belongs to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use model::{Offset, OffsetRange, Plan, PlanError, TopicPartition};

use crate::error::Error;
use crate::format::{self, Format, LabelPlace};
use crate::label::{Label, read_label};
use crate::layout::Layout;
use crate::store::Store;
use crate::views::{View, Views};

/// First offsets that are kept for each topic-partition, the largest. A cut of more files counts as not whole, so that it is
/// made again, which changes nothing.
const FIRSTS_MAX: usize = 65_536;

/// Objects whose labels are read at the same time.
const AT_ONCE: usize = 16;

/// The cut of the newest object of a topic-partition: the one whose first row has the largest offset.
#[derive(Debug, Clone, PartialEq)]
pub struct NewestCut {
    /// Whose rows.
    pub topic_partition: TopicPartition,
    /// Where the cut starts.
    pub start: Offset,
    /// First offset after it.
    pub end: Offset,
    /// All that must be known to make it again.
    pub plan: Plan,
    /// Every object of the cut is there: nothing before `end` is left to be written. By number, so objects that were left
    /// from an earlier processing of the same range make it false or stand for those that are missing.
    pub is_whole: bool,
}

/// Why it is not known where the objects end.
#[derive(Debug, thiserror::Error)]
pub enum NewestError {
    /// The store does not answer, or refuses.
    #[error(transparent)]
    Store(#[from] Error),
    /// Names do not tell the offset.
    #[error(
        "the names of objects do not tell topic, partition and offset because {key} is empty: set {key}, or set the group's \
         offsets with `sluice offsets`"
    )]
    Layout {
        /// The key to blame.
        key: &'static str,
    },
    /// The newest object does not say which cut it belongs to.
    #[error(
        "could not find out where the objects of {topic_partition} end: {reason}, the newest of them is {key} in {store}; \
         set the group's offset with `sluice offsets`, or move the objects away"
    )]
    Unknown {
        /// Whose rows the name says it holds.
        topic_partition: TopicPartition,
        /// The object.
        key: String,
        /// Bucket and endpoint, or directory.
        store: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NewestError {
    /// Whether a repeated call can succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            NewestError::Store(error) => error.is_transient(),
            NewestError::Layout { .. } | NewestError::Unknown { .. } => false,
        }
    }
}

/// What a list tells of one topic-partition.
#[derive(Debug, Default)]
struct Seen {
    /// The objects whose first row has the largest offset, one for each view.
    newest: Option<(Offset, BTreeMap<View, String>)>,
    firsts: BinaryHeap<Reverse<Offset>>,
}

impl Seen {
    fn note(&mut self, first: Offset, view: View, key: &str) {
        match &mut self.newest {
            Some((known, keys)) if *known == first => {
                let known = keys.entry(view).or_default();
                if known.as_str() < key {
                    *known = key.to_owned();
                }
            }
            Some((known, _)) if *known > first => {}
            Some(_) | None => self.newest = Some((first, BTreeMap::from([(view, key.to_owned())]))),
        }
        self.firsts.push(Reverse(first));
        if self.firsts.len() > FIRSTS_MAX {
            self.firsts.pop();
        }
    }

    fn count(&self, range: OffsetRange) -> usize {
        self.firsts.iter().filter(|first| range.contains(first.0)).count()
    }
}

/// The partitions of `topic` that have an object, as names tell. Lists the directory of the topic once, or all of `topics.dir`
/// where rows may be routed.
pub async fn partitions_with_objects(
    store: &Store,
    layout: &Layout,
    topic: &str,
) -> Result<BTreeSet<i32>, NewestError> {
    if let Some(key) = layout.silent_key() {
        return Err(NewestError::Layout { key });
    }
    let mut partitions = BTreeSet::new();
    store
        .for_each_name(&layout.listed_directory(topic), |name| {
            let parsed = name.and_then(|key| layout.parse_of(topic, key));
            partitions.extend(parsed.map(|(whose, _, _)| whose.partition));
        })
        .await?;
    Ok(partitions)
}

/// How the files of each view say whose they are.
#[derive(Debug, Clone)]
pub struct Labels {
    /// The format of values.
    pub format: Arc<dyn Format>,
    /// What lies beside them.
    pub views: Views,
}

impl Labels {
    fn format(&self, view: View) -> &dyn Format {
        let beside = self.views.beside().iter().find(|one| one.view == view);
        beside.map_or(&*self.format, |one| &*one.format)
    }

    /// Those of `keys` that can tell best first: the end of a file knows the plan of its cut however large it is.
    fn sorted<'a>(&'a self, keys: &'a BTreeMap<View, String>) -> Vec<(&'a dyn Format, &'a str)> {
        let mut sorted: Vec<_> = keys.iter().map(|(view, key)| (self.format(*view), key.as_str())).collect();
        sorted.sort_by_key(|(format, _)| match format.label_place() {
            LabelPlace::End => 0,
            LabelPlace::Start => 1,
            LabelPlace::Nowhere => 2,
        });
        sorted
    }
}

/// The newest cut of each of `partitions` that has an object, in their order. Lists the directory of each topic once and
/// reads the label of one object for each topic-partition; directories `_sluice` hold none. Takes memory for offsets, not
/// for names. Where a transform may route rows, all of `topics.dir` is listed, once.
pub async fn newest_cuts(
    store: &Store,
    layout: &Layout,
    labels: &Labels,
    partitions: &[TopicPartition],
) -> Result<Vec<NewestCut>, NewestError> {
    if let Some(key) = layout.silent_key() {
        return Err(NewestError::Layout { key });
    }
    let mut by_directory: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for topic_partition in partitions {
        let topics = by_directory.entry(layout.listed_directory(&topic_partition.topic)).or_default();
        if !topics.contains(&topic_partition.topic.as_ref()) {
            topics.push(&topic_partition.topic);
        }
    }
    let mut seen: HashMap<TopicPartition, Seen> = HashMap::new();
    for (directory, mut topics) in by_directory {
        // Where delimiters leave a doubt, the longest name is taken; its label is compared.
        topics.sort_unstable_by_key(|topic| Reverse(topic.len()));
        let wanted: HashMap<TopicPartition, Seen> = partitions
            .iter()
            .filter(|wanted| topics.contains(&wanted.topic.as_ref()))
            .map(|wanted| (wanted.clone(), Seen::default()))
            .collect();
        seen.extend(list(store, layout, &directory, &topics, wanted).await?);
    }
    // Collected: a future with that iterator in it is not Send for every lifetime.
    let found: Vec<(TopicPartition, Seen)> = partitions.iter().filter_map(|wanted| seen.remove_entry(wanted)).collect();
    let newest = stream::iter(found).map(|(whose, seen)| read_newest(store, labels, whose, seen)).buffered(AT_ONCE);
    let newest: Vec<Option<NewestCut>> = newest.try_collect().await?;
    Ok(newest.into_iter().flatten().collect())
}

async fn list(
    store: &Store,
    layout: &Layout,
    directory: &str,
    topics: &[&str],
    mut seen: HashMap<TopicPartition, Seen>,
) -> Result<HashMap<TopicPartition, Seen>, Error> {
    store
        .for_each_name(directory, |name| {
            let Some(key) = name else {
                seen.values_mut().for_each(|seen| *seen = Seen::default());
                return;
            };
            let parsed = topics.iter().find_map(|topic| layout.parse_of(topic, key));
            if let Some((whose, first, view)) = parsed
                && let Some(seen) = seen.get_mut(&whose)
            {
                seen.note(first, view, key);
            }
        })
        .await?;
    Ok(seen)
}

async fn read_newest(
    store: &Store,
    labels: &Labels,
    topic_partition: TopicPartition,
    seen: Seen,
) -> Result<Option<NewestCut>, NewestError> {
    let Some((first, keys)) = &seen.newest else { return Ok(None) };
    let mut silent = None;
    for (format, key) in labels.sorted(keys) {
        match read_cut(store, format, &topic_partition, *first, key).await {
            Ok((range, plan)) => {
                let is_whole = seen.count(range) == plan.files as usize;
                let (start, end) = (range.start(), range.end());
                return Ok(Some(NewestCut { topic_partition, start, end, plan, is_whole }));
            }
            Err(error @ (NewestError::Store(_) | NewestError::Layout { .. })) => return Err(error),
            Err(error @ NewestError::Unknown { .. }) => silent = silent.or(Some(error)),
        }
    }
    silent.map_or(Ok(None), Err)
}

/// The cut of the object `key`, whose name says that its first row is at `first`, and its plan.
async fn read_cut(
    store: &Store,
    format: &dyn Format,
    topic_partition: &TopicPartition,
    first: Offset,
    key: &str,
) -> Result<(OffsetRange, Plan), NewestError> {
    let unknown = |reason: String| NewestError::Unknown {
        topic_partition: topic_partition.clone(),
        key: key.to_owned(),
        store: store.name().to_owned(),
        reason,
    };
    let found = store.find(key).await?.ok_or_else(|| unknown("an object was listed and is gone".to_owned()))?;
    let label = read_label(store, format, key, &found).await?;
    let label = label.ok_or_else(|| match (format.label_place(), store.abilities().metadata) {
        (LabelPlace::Nowhere, false) => unknown(format!(
            "{} files hold no plan of their cut, and a store without user metadata keeps none for them",
            format.extension()
        )),
        (LabelPlace::Start | LabelPlace::End | LabelPlace::Nowhere, _) => {
            unknown("an object was not written by sluice".to_owned())
        }
    })?;
    if !is_of(&label, topic_partition) {
        return Err(unknown("directory.delim stands in names of topics, so an object may be of either".to_owned()));
    }
    match label.cut() {
        Ok(Some((range, plan))) if range.contains(first) => Ok((range, plan)),
        Ok(Some((range, _))) => Err(unknown(format!("an object says that its cut is {range}"))),
        Ok(None) => Err(unknown(no_plan(format))),
        Err(error @ (PlanError::Malformed { .. } | PlanError::Version { .. } | PlanError::Reversed { .. })) => {
            Err(unknown(error.to_string()))
        }
    }
}

/// A large object's metadata are written before its cut has ended, so only what is in the file can tell the plan.
fn no_plan(format: &dyn Format) -> String {
    match format.label_place() {
        LabelPlace::End => "an object does not hold the plan of its cut".to_owned(),
        LabelPlace::Start | LabelPlace::Nowhere => {
            format!("a large {} object cannot hold the plan of its cut", format.extension())
        }
    }
}

/// Whether nothing in the label says that it is of another topic-partition.
fn is_of(label: &Label, topic_partition: &TopicPartition) -> bool {
    let topic = label.get(format::TOPIC).is_none_or(|topic| topic == topic_partition.topic.as_ref());
    let partition = label.get(format::PARTITION).is_none_or(|number| number == topic_partition.partition.to_string());
    topic && partition
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, batch, context, nested_rows};
    use crate::cut::OpenCut;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::file_context::FileContext;
    use crate::parquet_format::ParquetFormat;
    use crate::publish::{Committer, FinishedFile, ObjectCommitter, OnExisting};
    use crate::store::{Abilities, RetryRules};
    use crate::testing::settings;
    use model::{Fingerprint, Nonce};
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, PutOptions, PutPayload};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const FULL: Abilities = Abilities { metadata: true, conditional: true };

    fn memory() -> Store {
        over(Arc::new(InMemory::new()), true)
    }

    fn over(objects: Arc<dyn ObjectStore>, metadata: bool) -> Store {
        Store::with(objects, "store", Abilities { metadata, ..FULL }, RetryRules::default(), 1)
    }

    fn layout(pairs: &[(&str, &str)]) -> Layout {
        Layout::new(&settings(pairs), ".snappy.parquet").unwrap()
    }

    fn parquet() -> Labels {
        Labels { format: Arc::new(ParquetFormat::new("snappy").unwrap()), views: Views::default() }
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    /// The files of a cut of rows `start..end`, spread over `paths` in turn, and its plan.
    async fn cut(
        store: &Store,
        layout: &Layout,
        whose: &TopicPartition,
        (start, end): (i64, i64),
        paths: usize,
    ) -> (Plan, Vec<FinishedFile>) {
        let layout = layout.clone();
        let object_key: crate::ObjectKey =
            Arc::new(move |view, whose, path, first| layout.view_key(view, whose, path, first));
        let context = Arc::new(FileContext { object_key, ..FileContext::clone(&context(store, "x")) });
        let mut open = OpenCut::new(context, whose.clone(), Nonce(end.unsigned_abs()));
        for offset in start..end {
            let path = format!("p={}", offset as usize % paths);
            open.append(&batch(whose, offset, nested_rows(offset, 1)), &path.into()).unwrap();
        }
        let files = u32::try_from(open.open_files()).unwrap();
        let plan = Plan::new(at(end), 17, open.nonce(), None, Fingerprint::of([]), files);
        let files = open.finish(OffsetRange::new(at(start), at(end)).unwrap(), &plan).await.unwrap();
        (plan, files)
    }

    async fn publish(store: &Store, files: Vec<FinishedFile>) {
        ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await.unwrap();
    }

    async fn newest(store: &Store, layout: &Layout, partitions: &[TopicPartition]) -> Vec<NewestCut> {
        newest_cuts(store, layout, &parquet(), partitions).await.unwrap()
    }

    #[tokio::test]
    async fn a_cut_whose_rows_are_routed_is_found_in_all_directories() {
        let store = memory();
        let layout = layout(&[("transforms.r.type", "RegexRouter")]);
        let (lane, other) = (tp("t", 0), tp("other", 0));
        let object_key: crate::ObjectKey = {
            let layout = layout.clone();
            Arc::new(move |view, whose, path, first| layout.view_key(view, whose, path, first))
        };
        let context = Arc::new(FileContext { object_key, ..FileContext::clone(&context(&store, "x")) });
        for (whose, start) in [(&lane, 0), (&other, 0), (&lane, 4)] {
            let mut open = OpenCut::new(context.clone(), whose.clone(), Nonce(7));
            for (offset, path) in (start..).zip(["\0a\0p=0", "p=0", "\0b\0p=0", "\0a\0p=0"]) {
                open.append(&batch(whose, offset, nested_rows(offset, 1)), &path.into()).unwrap();
            }
            let plan = Plan::new(at(start + 4), 17, open.nonce(), None, Fingerprint::of([]), 3);
            let range = OffsetRange::new(at(start), at(start + 4)).unwrap();
            publish(&store, open.finish(range, &plan).await.unwrap()).await;
        }
        let names = store.list("topics/a").await.unwrap();
        assert_eq!(
            names,
            [
                "topics/a/p=0/a+other+0+0000000000.snappy.parquet",
                "topics/a/p=0/a+t+0+0000000000.snappy.parquet",
                "topics/a/p=0/a+t+0+0000000004.snappy.parquet",
            ]
        );
        let found = newest(&store, &layout, &[lane.clone(), other.clone(), tp("a", 0)]).await;
        let found: Vec<_> = found.iter().map(|cut| (&cut.topic_partition, cut.start, cut.is_whole)).collect();
        assert_eq!(found, [(&lane, at(4), true), (&other, at(0), true)]);
        assert_eq!(partitions_with_objects(&store, &layout, "t").await.unwrap(), [0].into());
        assert_eq!(partitions_with_objects(&store, &layout, "a").await.unwrap(), [].into());
    }

    #[tokio::test]
    async fn the_newest_cut_is_found_whole_or_in_part_in_every_store() {
        let directory = tempfile::tempdir().unwrap();
        let files = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
        for store in [memory(), over(Arc::new(files), false), over(Arc::new(InMemory::new()), false)] {
            conformance::newest(&store, "conformance").await;
            let layout = layout(&[]);
            let lanes = [tp("t", 0), tp("t", 1), tp("none", 0)];
            assert_eq!(newest(&store, &layout, &lanes).await, []);
            store.create("topics/t/_sluice/schema-0000000001.json", "{}".into()).await.unwrap();
            store.create("topics/_sluice/probe", "x".into()).await.unwrap();
            assert_eq!(newest(&store, &layout, &lanes).await, []);

            let (_, first) = cut(&store, &layout, &lanes[0], (0, 9), 3).await;
            publish(&store, first).await;
            let (plan, mut second) = cut(&store, &layout, &lanes[0], (9, 14), 3).await;
            let rest = second.split_off(1);
            publish(&store, second).await;
            let (other, files) = cut(&store, &layout, &lanes[1], (5, 6), 1).await;
            publish(&store, files).await;
            let cut = |whose: &TopicPartition, start, plan: &Plan, is_whole| NewestCut {
                topic_partition: whose.clone(),
                start: at(start),
                end: plan.end(),
                plan: plan.clone(),
                is_whole,
            };
            let other = cut(&lanes[1], 5, &other, true);
            assert_eq!(newest(&store, &layout, &lanes).await, [cut(&lanes[0], 9, &plan, false), other.clone()]);
            publish(&store, rest).await;
            assert_eq!(newest(&store, &layout, &lanes).await, [cut(&lanes[0], 9, &plan, true), other]);
        }
    }

    #[tokio::test]
    async fn a_cut_of_several_views_is_whole_with_all_of_them_and_told_by_the_one_that_can() {
        let settings = settings(&[
            ("flush.size", "1"),
            ("format.class", "json"),
            ("store.kafka.keys", "true"),
            ("keys.format.class", "parquet"),
        ]);
        let views = Views::new(&settings).unwrap();
        let labels = Labels { format: crate::format::format(&settings).unwrap(), views: views.clone() };
        // A directory keeps no user metadata, so a file of JSON lines cannot tell its plan; its keys can.
        let directory = tempfile::tempdir().unwrap();
        let store = over(Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap()), false);
        let layout = Layout::new(&settings, ".json").unwrap().with_views(&views);
        let names = layout.clone();
        let context = Arc::new(FileContext {
            format: Arc::clone(&labels.format),
            object_key: Arc::new(move |view, whose, path, first| names.view_key(view, whose, path, first)),
            views,
            ..FileContext::clone(&context(&store, "x"))
        });
        let lane = tp("t", 0);
        let mut open = OpenCut::new(context, lane.clone(), Nonce(7));
        for offset in 0..3 {
            let rows = batch(&lane, offset, nested_rows(offset, 1));
            let path = format!("p={offset}").into();
            open.append(&model::Batch { key_values: Some(rows.values.clone()), ..rows }, &path).unwrap();
        }
        let plan = Plan::new(at(3), 17, open.nonce(), None, Fingerprint::of([]), 6);
        let mut files = open.finish(OffsetRange::new(at(0), at(3)).unwrap(), &plan).await.unwrap();
        let last_keys = files.pop().unwrap();
        publish(&store, files).await;
        let error = newest_cuts(&store, &layout, &labels, std::slice::from_ref(&lane)).await.unwrap_err();
        assert!(error.to_string().contains("hold no plan of their cut"), "{error}");
        publish(&store, vec![last_keys]).await;
        let found = newest_cuts(&store, &layout, &labels, std::slice::from_ref(&lane)).await.unwrap();
        assert_eq!((found[0].start, found[0].plan.clone(), found[0].is_whole), (at(0), plan, true));
        std::fs::remove_file(directory.path().join("topics/t/p=0/t+0+0000000000.keys.snappy.parquet")).unwrap();
        let found = newest_cuts(&store, &layout, &labels, &[lane]).await.unwrap();
        assert!(!found[0].is_whole);
    }

    #[tokio::test]
    async fn topics_that_begin_alike_or_hold_delimiters_are_told_apart() {
        for (pairs, topics) in [
            (&[][..], ["a", "a+0", "ab", "a-1"]),
            (&[("topics.dir", "")], ["a", "b", "ab", "a.b"]),
            (&[("directory.delim", "_"), ("file.delim", "-")], ["a", "ab", "a-0", "a-0-1"]),
            (&[("directory.delim", "/x/"), ("file.delim", ".")], ["a", "a.0", "a.0.1", "b"]),
        ] {
            let (store, layout) = (memory(), layout(pairs));
            let lanes: Vec<_> = topics.iter().flat_map(|topic| [tp(topic, 0), tp(topic, 1)]).collect();
            for (turn, lane) in lanes.iter().enumerate() {
                let start = turn as i64 * 10;
                let (_, files) = cut(&store, &layout, lane, (start, start + 3), 2).await;
                publish(&store, files).await;
            }
            let found = newest(&store, &layout, &lanes).await;
            assert!(found.iter().all(|cut| cut.is_whole), "{found:?}");
            let starts: Vec<_> = found.iter().map(|cut| (cut.topic_partition.clone(), cut.start.get())).collect();
            let expected: Vec<_> =
                lanes.iter().enumerate().map(|(turn, lane)| (lane.clone(), turn as i64 * 10)).collect();
            assert_eq!(starts, expected, "{pairs:?}");
            // One lane alone finds the same, also where its directory cannot be listed alone.
            assert_eq!(newest(&store, &layout, &lanes[5..6]).await, found[5..6]);
        }
    }

    #[tokio::test]
    async fn a_name_that_two_topics_fit_is_refused_by_its_label() {
        let (store, layout) = (memory(), layout(&[("directory.delim", "_")]));
        let (_, files) = cut(&store, &layout, &tp("a_a", 0), (0, 3), 1).await;
        publish(&store, files).await;
        assert_eq!(newest(&store, &layout, &[tp("a", 0), tp("a_a", 0)]).await.len(), 1);
        let error = newest_cuts(&store, &layout, &parquet(), &[tp("a", 0)]).await.unwrap_err();
        assert!(error.to_string().contains("directory.delim"), "{error}");
    }

    #[tokio::test]
    async fn objects_that_say_nothing_are_named_and_layouts_that_say_nothing_too() {
        let store = memory();
        let key = layout(&[]).object_key(&tp("t", 3), "partition=3", at(7));
        for text in ["PAR1 something else PAR1", ""] {
            store.objects().put_opts(&key.as_str().into(), text.into(), PutOptions::default()).await.unwrap();
            let error = newest_cuts(&store, &layout(&[]), &parquet(), &[tp("t", 3)]).await.unwrap_err();
            let text = error.to_string();
            assert!(!error.is_transient() && text.contains(&key) && text.contains("sluice offsets"), "{text}");
        }
        let error = newest_cuts(&store, &layout(&[("file.delim", "")]), &parquet(), &[tp("t", 3)]).await.unwrap_err();
        assert!(error.to_string().contains("set file.delim"), "{error}");
    }

    #[tokio::test]
    async fn a_large_object_is_known_by_its_end_without_being_read() {
        let objects = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Fate::Fine);
        let store = over(Arc::new(objects.clone()), true);
        let layout = layout(&[]);
        let (plan, files) = cut(&store, &layout, &tp("t", 0), (0, 40), 1).await;
        let file = files.into_iter().next().unwrap();
        let bytes = Vec::from_iter(std::iter::repeat_n(b'x', 1 << 20));
        let crate::publish::Body::Put(end) = &file.body else { unreachable!() };
        // The footer stays where it is when bytes are put before it: nobody reads those.
        let whole: PutPayload = std::iter::once(bytes.into()).chain(end.iter().cloned()).collect();
        store.objects().put_opts(&file.key.as_str().into(), whole, PutOptions::default()).await.unwrap();
        let found = newest(&store, &layout, &[tp("t", 0)]).await;
        assert_eq!((found[0].plan.clone(), found[0].is_whole), (plan, true));
        assert_eq!(objects.count(Request::Get), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stumbles_is_asked_again_and_one_that_is_dead_is_not_asked_for_ever() {
        let turn = AtomicU32::new(0);
        let objects = FaultyStore::new(Arc::new(InMemory::new()), move |request, _| {
            let is_odd = turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            if is_odd && matches!(request, Request::List | Request::Head | Request::Get) {
                Fate::Throttled
            } else {
                Fate::Fine
            }
        });
        let (store, layout) = (over(Arc::new(objects), false), layout(&[]));
        let (_, files) = cut(&store, &layout, &tp("t", 0), (0, 4), 2).await;
        publish(&store, files).await;
        assert!(newest(&store, &layout, &[tp("t", 0)]).await[0].is_whole);
        let dead = FaultyStore::new(Arc::new(InMemory::new()), |_, _| Fate::Hang);
        let dead = over(Arc::new(dead), true);
        assert!(newest_cuts(&dead, &layout, &parquet(), &[tp("t", 0)]).await.unwrap_err().is_transient());
    }

    #[tokio::test]
    async fn a_hundred_thousand_objects_are_listed_in_bounded_time() {
        let objects = Arc::new(InMemory::new());
        let store = over(Arc::clone(&objects) as Arc<dyn ObjectStore>, true);
        let layout = layout(&[]);
        for number in 0..100_000 {
            let key = layout.object_key(&tp("t", number % 10), "hour=07", at(i64::from(number)));
            objects.put_opts(&key.into(), PutPayload::new(), PutOptions::default()).await.unwrap();
        }
        let (plan, files) = cut(&store, &layout, &tp("t", 4), (200_000, 200_003), 3).await;
        publish(&store, files).await;
        let before = std::time::Instant::now();
        let found = newest(&store, &layout, &[tp("t", 4)]).await;
        let took = before.elapsed();
        assert_eq!((found[0].plan.clone(), found[0].is_whole), (plan, true));
        assert!(took.as_secs() < 20, "{took:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_newest_cut_is_the_last_one_of_which_anything_is_visible(
            lengths in prop::collection::vec((1i64..5, 1usize..4), 1..5),
            visible in 1usize..4,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (store, layout, lane) = (memory(), layout(&[]), tp("t", 0));
                let mut start = 0;
                let mut last = None;
                for (turn, (length, paths)) in lengths.iter().enumerate() {
                    let (plan, mut files) = cut(&store, &layout, &lane, (start, start + length), *paths).await;
                    if turn + 1 == lengths.len() {
                        files.truncate(visible);
                    }
                    last = Some((start, plan.clone(), files.len() == plan.files as usize));
                    publish(&store, files).await;
                    start += length;
                }
                let found = newest(&store, &layout, &[lane]).await;
                let found: Vec<_> = found.into_iter().map(|cut| (cut.start.get(), cut.plan, cut.is_whole)).collect();
                assert_eq!(found, Vec::from_iter(last));
            });
        }
    }
}
