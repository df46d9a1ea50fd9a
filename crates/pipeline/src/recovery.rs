//! How far a topic-partition got when the group does not know it: its objects in the store tell.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use model::TopicPartition;
use source::{DataLoss, Recovered, Recovery};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use writer::newest::{Labels, NewestCut, NewestError, newest_cuts, partitions_with_objects};
use writer::{Layout, OnExisting, Store};

use crate::markers::{Before, Markers};

/// How long a store that does not answer is asked again; the group waits for the assignment meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds the newest object of each topic-partition. When its cut is whole, reading goes on after it; when only some of its
/// objects are visible, its plan, which each of them carries, is made again. Objects of a topic that was deleted since, as
/// the id of the one with its name tells, say nothing of where to go on: with them there, data may be lost.
pub struct StoreRecovery {
    markers: Markers,
    labels: Labels,
    on_existing: OnExisting,
    on_data_loss: DataLoss,
}

impl StoreRecovery {
    /// Looks for objects in `store` that `layout` names and that are files of the formats of `labels`. With `on_existing` other than
    /// [`OnExisting::Fail`], an object that does not tell its cut is as good as none: it is replaced or skipped anyway.
    /// `on_data_loss` says what happens when objects of a deleted topic are in the way.
    pub fn new(
        store: Store,
        layout: Layout,
        labels: Labels,
        on_existing: OnExisting,
        on_data_loss: DataLoss,
    ) -> StoreRecovery {
        StoreRecovery { markers: Markers { store, layout }, labels, on_existing, on_data_loss }
    }

    /// Repeats `request` while the store does not answer.
    async fn until_answered<T, F>(&self, request: impl Fn() -> F) -> Result<T, NewestError>
    where
        F: Future<Output = Result<T, NewestError>>,
    {
        let until = Instant::now() + PATIENCE;
        loop {
            match request().await {
                Err(error) if error.is_transient() && Instant::now() < until => {
                    warn!(%error, "store does not answer, looking again for the newest objects");
                    sleep(self.markers.store.rules().redelivery.min(PATIENCE / 10)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Takes out of `asked` what objects of a deleted topic would tell of.
    async fn leave_out_deleted(&self, asked: &mut Vec<TopicPartition>, topic: &str, id: &str) -> Result<(), Error> {
        let Markers { store, layout } = &self.markers;
        let before = self.until_answered(|| self.markers.before(topic, id)).await?;
        if before.ids.is_empty() {
            return Ok(());
        }
        let taken = self.until_answered(|| partitions_with_objects(store, layout, topic)).await?;
        let is_of_topic = |lane: &TopicPartition| &*lane.topic == topic;
        let doubtful = asked.iter().filter(|lane| is_of_topic(lane) && taken.contains(&lane.partition));
        let doubtful: Vec<String> = doubtful.map(TopicPartition::to_string).collect();
        if !doubtful.is_empty() {
            let directory = layout.topic_directory(topic);
            if self.on_data_loss == DataLoss::Fail {
                return Err(Error::Deleted(deleted(&doubtful, topic, id, &before, &directory, store.name())));
            }
            warn!(topic, id, deleted = ?before.ids, directory, partitions = ?doubtful,
                "the topic was deleted and created again: its objects do not tell where to go on, auto.offset.reset \
                 decides (on.data.loss=continue)");
        }
        if !before.is_marked {
            self.until_answered(|| self.markers.mark(topic, id, before.ids.clone())).await?;
        }
        asked.retain(|lane| !is_of_topic(lane));
        Ok(())
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Error {
    Newest(NewestError),
    /// Objects of a deleted topic are in the way.
    Deleted(String),
}

impl From<NewestError> for Error {
    fn from(error: NewestError) -> Error {
        Error::Newest(error)
    }
}

fn deleted(lanes: &[String], topic: &str, id: &str, before: &Before, directory: &str, store: &str) -> String {
    format!(
        "{} cannot be read from where its objects end: topic {topic} was deleted and created again, its id is {id}, and \
         below {directory} in {store} lie objects of the deleted topic (id {}); set another topics.dir, or move the \
         objects away together with the directory _sluice beside them, or set the position with sluice offsets, or set \
         on.data.loss=continue to go on where auto.offset.reset says (on.existing.object then decides about names that \
         are taken)",
        lanes.join(", "),
        before.ids.join(", "),
    )
}

#[async_trait]
impl Recovery for StoreRecovery {
    async fn recover(
        &self,
        partitions: &[TopicPartition],
        topic_ids: &BTreeMap<String, String>,
    ) -> Result<Vec<Recovered>, source::Error> {
        let mut asked = partitions.to_vec();
        for (topic, id) in topic_ids {
            match self.leave_out_deleted(&mut asked, topic, id).await {
                // It is told below.
                Ok(()) | Err(Error::Newest(NewestError::Layout { .. })) => {}
                Err(Error::Newest(error)) => return Err(unanswered(error)),
                Err(Error::Deleted(why)) => return Err(source::Error::OffsetLost(why)),
            }
        }
        let Markers { store, layout } = &self.markers;
        loop {
            match self.until_answered(|| newest_cuts(store, layout, &self.labels, &asked)).await {
                Ok(cuts) => return Ok(cuts.into_iter().map(recovered).collect()),
                Err(error @ NewestError::Layout { .. }) => {
                    warn!(%error, "objects that are there already are not looked for, auto.offset.reset decides");
                    return Ok(Vec::new());
                }
                Err(NewestError::Unknown { topic_partition, key, reason, .. })
                    if self.on_existing != OnExisting::Fail && asked.contains(&topic_partition) =>
                {
                    warn!(%topic_partition, key, reason,
                        "its objects do not tell where they end, auto.offset.reset decides (on.existing.object)");
                    asked.retain(|one| *one != topic_partition);
                }
                Err(error) => return Err(unanswered(error)),
            }
        }
    }
}

fn unanswered(error: NewestError) -> source::Error {
    match error {
        NewestError::Store(error) if error.is_transient() => {
            source::Error::Unavailable(format!("could not look for the newest objects within {PATIENCE:?}: {error}"))
        }
        NewestError::Store(error) => source::Error::Denied(error.to_string()),
        error @ (NewestError::Unknown { .. } | NewestError::Layout { .. }) => source::Error::OffsetLost(format!(
            "{error}; or set on.existing.object to skip or overwrite to write from auto.offset.reset on all the same"
        )),
    }
}

fn recovered(cut: NewestCut) -> Recovered {
    let NewestCut { topic_partition, start, end, plan, is_whole } = cut;
    info!(%topic_partition, %start, %end, is_whole, "no committed offset, going on after the newest objects");
    match is_whole {
        true => Recovered { topic_partition, start: end, metadata: String::new() },
        false => Recovered { topic_partition, start, metadata: plan.to_metadata() },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use model::{Fingerprint, Nonce, Offset, OffsetRange, Plan, Settings};
    use object_store::memory::InMemory;
    use writer::conformance::{batch, context, nested_rows};
    use writer::{
        Abilities, Committer, Fate, FaultyStore, FileContext, FinishedFile, ObjectCommitter, ObjectKey, OpenCut,
        Request, RetryRules, Views,
    };

    const FULL: Abilities = Abilities { metadata: true, conditional: true };

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn store_of(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static) -> Store {
        let objects = FaultyStore::new(Arc::new(InMemory::new()), fates);
        Store::with(Arc::new(objects), "store", FULL, RetryRules::default(), 1)
    }

    fn layout() -> Layout {
        let settings = Settings::new([("flush.size".to_owned(), "1".to_owned())].into());
        Layout::new(&settings, ".snappy.parquet").unwrap()
    }

    fn recovery(store: &Store, on_existing: OnExisting) -> StoreRecovery {
        recovery_with(store, on_existing, DataLoss::Fail)
    }

    fn recovery_with(store: &Store, on_existing: OnExisting, on_data_loss: DataLoss) -> StoreRecovery {
        let format = context(store, "x").format.clone();
        StoreRecovery::new(
            store.clone(),
            layout(),
            Labels { format, views: Views::default() },
            on_existing,
            on_data_loss,
        )
    }

    /// What is recovered of the lanes 0 and 1 while the topic has this id: where they go on.
    async fn starts(store: &Store, id: &str, on_data_loss: DataLoss) -> Result<Vec<(i32, i64)>, String> {
        let ids = BTreeMap::from([("t".to_owned(), id.to_owned())]);
        let recovery = recovery_with(store, OnExisting::Fail, on_data_loss);
        let found = recovery.recover(&[tp(0), tp(1)], &ids).await.map_err(|error| {
            assert!(matches!(error, source::Error::OffsetLost(_)), "{error}");
            error.to_string()
        })?;
        Ok(found.iter().map(|one| (one.topic_partition.partition, one.start.get())).collect())
    }

    async fn markers(store: &Store) -> Vec<String> {
        let keys = store.list("topics/t/_sluice").await.unwrap();
        keys.iter().map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
    }

    /// A store with a cut of `0..4` of lane 0, written by the topic with the id `a`.
    async fn written_by_a() -> Store {
        let store = store_of(|_, _| Fate::Fine);
        assert_eq!(starts(&store, "a", DataLoss::Fail).await, Ok(vec![]));
        let (_, files) = cut(&store, &tp(0), 0, 4, 2).await;
        publish(&store, files).await;
        store
    }

    /// The files of a cut of `start..end`, one for each of `paths` paths.
    async fn cut(store: &Store, whose: &TopicPartition, start: i64, end: i64, paths: i64) -> (Plan, Vec<FinishedFile>) {
        let object_key: ObjectKey = Arc::new(|view, whose, path, first| layout().view_key(view, whose, path, first));
        let context = Arc::new(FileContext { object_key, ..FileContext::clone(&context(store, "x")) });
        let mut open = OpenCut::new(context, whose.clone(), Nonce(7));
        for offset in start..end {
            let path = format!("p={}", offset % paths);
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

    #[tokio::test]
    async fn reading_goes_on_after_a_whole_cut_and_makes_a_torn_one_again() {
        let store = store_of(|_, _| Fate::Fine);
        let (_, whole) = cut(&store, &tp(0), 3, 9, 2).await;
        publish(&store, whole).await;
        let (plan, mut torn) = cut(&store, &tp(1), 4, 8, 2).await;
        torn.truncate(1);
        publish(&store, torn).await;
        let found = recovery(&store, OnExisting::Fail).recover(&[tp(0), tp(1), tp(2)], &BTreeMap::new()).await.unwrap();
        let whole = Recovered { topic_partition: tp(0), start: at(9), metadata: String::new() };
        let torn = Recovered { topic_partition: tp(1), start: at(4), metadata: plan.to_metadata() };
        assert_eq!(found, [whole, torn], "nothing is known of the third");
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_stops_the_lane_unless_it_may_be_replaced_or_skipped() {
        let store = store_of(|_, _| Fate::Fine);
        let foreign = layout().object_key(&tp(0), "p=0", at(5));
        store.create(&foreign, "x".into()).await.unwrap();
        let (_, whole) = cut(&store, &tp(1), 0, 2, 1).await;
        publish(&store, whole).await;
        let error = recovery(&store, OnExisting::Fail).recover(&[tp(0), tp(1)], &BTreeMap::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, source::Error::OffsetLost(_)), "{text}");
        assert!(text.contains("t-0") && text.contains(&foreign) && text.contains("on.existing.object"), "{text}");
        for on_existing in [OnExisting::Overwrite, OnExisting::Skip] {
            let found = recovery(&store, on_existing).recover(&[tp(0), tp(1)], &BTreeMap::new()).await.unwrap();
            assert_eq!(found, [Recovered { topic_partition: tp(1), start: at(2), metadata: String::new() }]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_asked_again_for_a_while() {
        let began = Instant::now();
        let outage = Duration::from_secs(20);
        let store = store_of(move |_, _| if began.elapsed() < outage { Fate::FailBefore } else { Fate::Fine });
        assert_eq!(recovery(&store, OnExisting::Fail).recover(&[tp(0)], &BTreeMap::new()).await.unwrap(), []);
        assert!(began.elapsed() >= outage);
        let store = store_of(|_, _| Fate::FailBefore);
        let error = recovery(&store, OnExisting::Fail).recover(&[tp(0)], &BTreeMap::new()).await.unwrap_err();
        assert!(matches!(error, source::Error::Unavailable(_)), "{error}");
    }

    #[tokio::test]
    async fn objects_of_a_deleted_topic_stop_the_lane_that_they_would_tell_of() {
        let store = written_by_a().await;
        assert_eq!(starts(&store, "a", DataLoss::Fail).await, Ok(vec![(0, 4)]));
        for _ in 0..2 {
            let text = starts(&store, "b+/", DataLoss::Fail).await.unwrap_err();
            let parts = ["t-0 ", "id is b+/", "(id a)", "topics/t in store", "topics.dir", "on.data.loss=continue"];
            assert!(parts.iter().all(|part| text.contains(part)) && !text.contains("t-1"), "{text}");
            assert_eq!(markers(&store).await, ["topic-a.json"], "what is refused leaves nothing behind");
        }
        // Where no object lies nothing can be mistaken.
        let ids = BTreeMap::from([("t".to_owned(), "b".to_owned()), ("other".to_owned(), "c".to_owned())]);
        let lanes = [tp(1), TopicPartition::new("other", 0)];
        assert_eq!(recovery(&store, OnExisting::Fail).recover(&lanes, &ids).await.unwrap(), []);
        assert_eq!(markers(&store).await, ["topic-a.json", "topic-b.json"]);
        // A broker that does not tell ids changes nothing.
        let found = recovery(&store, OnExisting::Fail).recover(&[tp(0)], &BTreeMap::new()).await.unwrap();
        assert_eq!(found.len(), 1);
    }

    #[tokio::test]
    async fn objects_of_a_deleted_topic_are_passed_by_every_task_and_after_every_crash_if_data_may_be_lost() {
        let store = written_by_a().await;
        let start = || starts(&store, "b", DataLoss::Continue);
        assert_eq!(tokio::join!(start(), start()), (Ok(vec![]), Ok(vec![])));
        assert_eq!(starts(&store, "b", DataLoss::Continue).await, Ok(vec![]), "nothing was committed yet");
        let (_, files) = cut(&store, &tp(1), 0, 3, 1).await;
        publish(&store, files).await;
        let text = starts(&store, "b", DataLoss::Fail).await.unwrap_err();
        assert!(text.contains("t-0, t-1") && text.contains("(id a)"), "whose objects these are nobody knows: {text}");
        let text = starts(&store, "c", DataLoss::Fail).await.unwrap_err();
        assert!(text.contains("(id a, b)"), "{text}");
    }

    #[tokio::test]
    async fn a_topic_whose_predecessor_left_no_objects_is_recovered_as_any_other() {
        let store = store_of(|_, _| Fate::Fine);
        for id in ["a", "b"] {
            let start = || starts(&store, id, DataLoss::Fail);
            assert_eq!(tokio::join!(start(), start()), (Ok(vec![]), Ok(vec![])));
        }
        let (_, files) = cut(&store, &tp(1), 0, 3, 1).await;
        publish(&store, files).await;
        assert_eq!(starts(&store, "b", DataLoss::Fail).await, Ok(vec![(1, 3)]));
        // Objects without any marker are an older version's.
        let store = store_of(|_, _| Fate::Fine);
        let (_, files) = cut(&store, &tp(1), 0, 3, 1).await;
        publish(&store, files).await;
        assert_eq!(starts(&store, "b", DataLoss::Fail).await, Ok(vec![(1, 3)]));
        assert_eq!(markers(&store).await, ["topic-b.json"]);
    }

    #[tokio::test]
    async fn a_marker_that_cannot_be_read_vouches_for_nothing() {
        let store = store_of(|_, _| Fate::Fine);
        store.create("topics/t/_sluice/topic-a.json", "x".into()).await.unwrap();
        assert_eq!(starts(&store, "a", DataLoss::Fail).await, Ok(vec![]));
        let (_, files) = cut(&store, &tp(0), 0, 3, 1).await;
        publish(&store, files).await;
        let text = starts(&store, "a", DataLoss::Fail).await.unwrap_err();
        assert!(text.contains("topics/t/_sluice/topic-a.json cannot be read"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn markers_wait_for_a_store_that_does_not_answer() {
        let began = Instant::now();
        let outage = Duration::from_secs(20);
        let store = store_of(move |_, _| if began.elapsed() < outage { Fate::FailBefore } else { Fate::Fine });
        assert_eq!(starts(&store, "a", DataLoss::Fail).await, Ok(vec![]));
        assert!(began.elapsed() >= outage);
        assert_eq!(markers(&store).await, ["topic-a.json"]);
    }
}
