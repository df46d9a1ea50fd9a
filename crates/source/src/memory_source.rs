//! A member's view of the [`MemoryLog`]: the same contract as the real source.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{Offset, RawBatchBuilder, TopicPartition};

use crate::exhausted::ASSIGNMENT_GRACE;
use crate::memory::{CommitFate, Happening, MemberId, MemoryLog};
use crate::memory_world::{Asking, InFlight, Lane, Member, World};
use crate::{Commit, CommitError, Error, Event, MovedBack, Recovered, Recovery, Source};

/// One member of one group of a [`MemoryLog`]. Dropping it is a crash: the group does not know until
/// [`MemoryLog::kill`].
pub struct MemorySource {
    log: MemoryLog,
    id: MemberId,
}

impl MemorySource {
    pub(crate) fn new(log: MemoryLog, id: MemberId) -> Self {
        Self { log, id }
    }

    /// Its name in the log.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Events come before records; hearing of a change changes what is read.
    fn take(&self, records: bool) -> Option<Event> {
        let mut world = self.log.lock();
        let World { members, recreated, .. } = &mut *world;
        let member = members.get_mut(&self.id)?;
        if member.is_closed {
            return None;
        }
        if !member.is_deaf && !member.events.is_empty() {
            if let Some((recovery, partitions)) = self.question(member) {
                let ids = topic_ids(recreated, &partitions);
                self.ask(member, recovery, partitions, ids);
                return None;
            }
            if matches!(member.asking, Asking::Now(_)) {
                // As with Kafka's poll thread, nothing is read meanwhile.
                return None;
            }
            member.asking = Asking::Nothing;
            let event = member.events.pop_front()?;
            match &event {
                Event::Assigned(assigned) => {
                    member.was_assigned = true;
                    for one in assigned {
                        member.leases.insert(one.topic_partition.clone());
                        member.reading.insert(one.topic_partition.clone(), Lane { next: one.start.get() });
                    }
                }
                Event::Revoked { partitions, .. } => {
                    member.reading.retain(|lane, _| !partitions.contains(lane));
                    member.paused.retain(|lane| !partitions.contains(lane));
                }
                Event::Batch(_) | Event::Position { .. } | Event::Failed(_) => {}
            }
            return Some(event);
        }
        if records { read(&mut world, self.id) } else { None }
    }
}

/// The ids of the topics of `partitions`.
fn topic_ids(recreated: &BTreeMap<String, u64>, partitions: &[TopicPartition]) -> BTreeMap<String, String> {
    let topics = partitions.iter().map(|lane| lane.topic.to_string());
    topics
        .map(|topic| {
            let id = format!("{topic}.{}", recreated.get(&topic).copied().unwrap_or(0));
            (topic, id)
        })
        .collect()
}

type Question = (Arc<dyn Recovery>, Vec<TopicPartition>);

impl MemorySource {
    /// What the assignment at the head of the events needs to know from elsewhere.
    fn question(&self, member: &Member) -> Option<Question> {
        let (Asking::Nothing, Some(recovery)) = (member.asking, &member.recovery) else { return None };
        let Some(Event::Assigned(assigned)) = member.events.front() else { return None };
        let asked = assigned.iter().filter(|one| !one.committed || recovery.is_authority());
        let unknown = asked.map(|one| one.topic_partition.clone());
        let unknown: Vec<TopicPartition> = unknown.collect();
        (!unknown.is_empty()).then(|| (recovery.clone(), unknown))
    }

    /// Asks beside the log, so that whoever waits for an event may stop to.
    fn ask(
        &self,
        member: &mut Member,
        recovery: Arc<dyn Recovery>,
        partitions: Vec<TopicPartition>,
        ids: BTreeMap<String, String>,
    ) {
        member.questions += 1;
        let question = member.questions;
        member.asking = Asking::Now(question);
        let (log, id) = (self.log.clone(), self.id);
        tokio::spawn(async move {
            let answer = match recovery.recover(&partitions, &ids).await {
                Ok(found) if recovery.is_authority() => log.within_logs(&*recovery, found).await,
                answer => answer,
            };
            let mut world = log.lock();
            let Some(member) = world.members.get_mut(&id).filter(|member| member.asking == Asking::Now(question))
            else {
                return;
            };
            member.asking = Asking::Answered;
            let partitions = member.recover(answer);
            member.wake.notify_one();
            world.tell_observer(&Happening::Recovered { member: id, partitions });
        });
    }
}

impl MemoryLog {
    /// What an authority said, and for logs that end before it where they begin, which the authority is told.
    async fn within_logs(&self, authority: &dyn Recovery, mut found: Vec<Recovered>) -> Result<Vec<Recovered>, Error> {
        let mut moves = Vec::new();
        {
            let world = self.lock();
            for one in &mut found {
                let Some(log) = world.partitions.get(&one.topic_partition).filter(|log| one.start.get() > log.end)
                else {
                    continue;
                };
                if world.data_loss_fails {
                    let lane = &one.topic_partition;
                    return Err(Error::OffsetLost(format!(
                        "{lane} ends before the offset {} to go on from",
                        one.start
                    )));
                }
                let to = Offset::new(log.begin).unwrap_or(Offset::ZERO);
                moves.push(MovedBack { topic_partition: one.topic_partition.clone(), from: one.start, to });
                one.start = to;
            }
        }
        if !moves.is_empty() {
            authority.move_back(&moves).await?;
        }
        Ok(found)
    }
}

impl Member {
    /// Puts what is known from elsewhere into the assignment at the head of the events; says for how many lanes.
    fn recover(&mut self, answer: Result<Vec<Recovered>, Error>) -> usize {
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                self.events.pop_front();
                self.events.push_front(Event::Failed(error));
                return 0;
            }
        };
        let Some(Event::Assigned(assigned)) = self.events.front_mut() else { return 0 };
        let authority = self.recovery.clone().filter(|recovery| recovery.is_authority());
        let mut count = 0;
        for one in assigned.iter_mut().filter(|one| !one.committed || authority.is_some()) {
            if let Some(known) = found.iter().find(|known| known.topic_partition == one.topic_partition) {
                one.committed &= one.start == known.start;
                (one.start, one.metadata) = (known.start, known.metadata.clone());
                count += 1;
            } else if let Some(authority) = authority.as_ref().filter(|_| one.committed) {
                if let Err(error) = authority.may_start(&one.topic_partition, one.start, &one.metadata) {
                    self.events.pop_front();
                    self.events.push_front(Event::Failed(error));
                    return 0;
                }
                one.metadata.clear();
            }
        }
        count
    }
}

/// The next records, lane by lane in turn.
fn read(world: &mut World, id: MemberId) -> Option<Event> {
    let World { partitions, groups, members, batch_rows_max, data_loss_fails, .. } = world;
    let member = members.get_mut(&id)?;
    let has_more = |topic_partition: &TopicPartition, lane: &Lane| {
        let is_behind = partitions.get(topic_partition).is_some_and(|log| lane.next < log.end);
        is_behind && !member.paused.contains(topic_partition)
    };
    let ready: Vec<&TopicPartition> =
        member.reading.iter().filter(|(name, lane)| has_more(name, lane)).map(|(name, _)| name).collect();
    let after_last = |name: &&&TopicPartition| member.last_read.as_ref().is_none_or(|last| **name > last);
    let turn = ready.iter().find(after_last).or(ready.first()).map(|name| (*name).clone())?;
    member.last_read = Some(turn.clone());
    let (lane, log) = (member.reading.get_mut(&turn)?, partitions.get(&turn)?);
    if lane.next < log.begin {
        let error = format!(
            "{turn} begins at offset {}, but offset {} is the next to read: retention removed what is between",
            log.begin, lane.next
        );
        lane.next = log.begin;
        let fails = *data_loss_fails;
        let is_owner = groups.get(&member.group).is_some_and(|group| group.owners.get(&turn) == Some(&id));
        world.tell_observer(&Happening::OutOfRange { member: id, topic_partition: turn, is_owner });
        return if fails { Some(Event::Failed(Error::OffsetLost(error))) } else { read(world, id) };
    }
    let mut builder = RawBatchBuilder::new(turn.clone(), *batch_rows_max, 0);
    for (offset, record) in log.records.range(lane.next..).take(*batch_rows_max) {
        let offset = Offset::new(*offset).expect("offsets count up from 0");
        builder.push(
            offset,
            record.timestamp_ms,
            record.key.as_deref(),
            record.value.as_deref(),
            record.headers.clone(),
        );
        lane.next = offset.next().get();
    }
    if builder.is_empty() {
        lane.next = log.end;
        return Some(Event::Position { topic_partition: turn, next: Offset::new(log.end)? });
    }
    Some(Event::Batch(builder.finish()))
}

/// Counts a commit that holds the lease lock, also when its future is dropped on the way.
struct Holding<'a>(&'a MemorySource);

impl<'a> Holding<'a> {
    fn new(source: &'a MemorySource) -> Self {
        if let Some(member) = source.log.lock().members.get_mut(&source.id) {
            member.commits_in_flight += 1;
        }
        Self(source)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if let Some(member) = self.0.log.lock().members.get_mut(&self.0.id) {
            member.commits_in_flight -= 1;
        }
        self.0.log.lock().commit_done.notify_waiters();
    }
}

/// What was left out for want of a lease, and the request with its fate.
type Prepared = (Vec<TopicPartition>, Option<(InFlight, CommitFate)>);

impl MemorySource {
    /// Checks leases and asks the faults what happens to the request; `None` if nothing is left to send.
    fn prepare(&self, commits: Vec<Commit>) -> Result<Prepared, CommitError> {
        let mut world = self.log.lock();
        let Some(member) = world.members.get(&self.id).filter(|member| !member.is_closed) else {
            return Err(CommitError::Fenced("the source is closed".to_owned()));
        };
        if member.outcome_unknown {
            return Err(CommitError::Unknown(
                "an earlier commit of this member has no known outcome; rejoin first".to_owned(),
            ));
        }
        let (held, rest): (Vec<Commit>, Vec<Commit>) =
            commits.into_iter().partition(|commit| member.leases.contains(&commit.topic_partition));
        let left_out = rest.into_iter().map(|commit| commit.topic_partition).collect();
        if held.is_empty() {
            return Ok((left_out, None));
        }
        let fate = (world.faults)(self.id, &held);
        let request = world.request(self.id, held);
        Ok((left_out, request.map(|request| (request, fate))))
    }

    /// The broker takes the request; a member that is fenced hears that it lost everything.
    fn apply(&self, request: &InFlight) -> Result<(), CommitError> {
        let mut world = self.log.lock();
        let result = world.apply(request, false);
        if matches!(result, Err(CommitError::Fenced(_)))
            && let Some(group) = world.tell_lost(self.id)
        {
            drop(world);
            self.log.rebalance(&group);
        }
        result
    }

    fn unknown(&self, text: &str) -> CommitError {
        if let Some(member) = self.log.lock().members.get_mut(&self.id) {
            member.outcome_unknown = true;
        }
        CommitError::Unknown(text.to_owned())
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn next(&self, records: bool) -> Event {
        let wake = self.log.lock().members.get(&self.id).map(|member| member.wake.clone());
        loop {
            if let Some(event) = self.take(records) {
                return event;
            }
            match &wake {
                Some(wake) => wake.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<TopicPartition>, CommitError> {
        let (left_out, sent) = self.prepare(commits)?;
        let Some((request, fate)) = sent else { return Ok(left_out) };
        let _holding = Holding::new(self);
        match fate {
            CommitFate::Apply => self.apply(&request)?,
            CommitFate::ApplyAfter(time) => {
                tokio::time::sleep(time).await;
                self.apply(&request)?;
            }
            CommitFate::Refuse => return Err(CommitError::Refused("the broker was told to refuse it".to_owned())),
            CommitFate::LoseReportUnknown => {
                self.log.lock().tell_observer(&Happening::Lost { commits: request.commits });
                return Err(self.unknown("no answer"));
            }
            CommitFate::ApplyReportUnknown => {
                // Taken or fenced: the answer is lost either way.
                let _lost_answer = self.log.lock().apply(&request, true);
                return Err(self.unknown("no answer"));
            }
            CommitFate::DelayReportUnknown(time) => {
                self.log.delay(request, time);
                return Err(self.unknown("no answer in time"));
            }
        }
        Ok(left_out)
    }

    fn pause(&self, partitions: &[TopicPartition]) {
        if let Some(member) = self.log.lock().members.get_mut(&self.id) {
            member.paused.extend(partitions.iter().cloned());
        }
    }

    fn resume(&self, partitions: &[TopicPartition]) {
        if let Some(member) = self.log.lock().members.get_mut(&self.id) {
            member.paused.retain(|lane| !partitions.contains(lane));
            member.wake.notify_one();
        }
    }

    fn end_offset(&self, topic_partition: &TopicPartition) -> Option<Offset> {
        self.log.end_offset(topic_partition)
    }

    async fn is_exhausted(&self) -> Result<bool, Error> {
        let world = self.log.lock();
        let Some(member) = world.members.get(&self.id) else { return Ok(false) };
        let Some(group) = world.groups.get(&member.group).filter(|group| group.bounds.until_end) else {
            return Ok(false);
        };
        let was_assigned = member.was_assigned || member.joined.elapsed() >= ASSIGNMENT_GRACE;
        let Some(look) = member.first_look.as_deref().filter(|_| was_assigned) else { return Ok(false) };
        let is_done = |(lane, until): (&TopicPartition, &Offset)| {
            let log = world.partitions.get(lane);
            match group.committed.get(lane) {
                Some((at, _)) => at >= until && log.is_some_and(|log| at.get() <= log.end),
                None => log.is_some_and(|log| until.get() <= log.begin),
            }
        };
        Ok(look.ends.iter().all(is_done))
    }

    async fn rejoin(&self) {
        self.log.leave(self.id, true);
    }

    async fn close(&self) {
        self.log.leave(self.id, false);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bounds::Bounds;
    use crate::conformance::{self, World as TestWorld};
    use crate::keys::Subscription;

    struct MemoryWorld {
        log: MemoryLog,
        joined: Vec<(String, MemberId)>,
    }

    #[async_trait]
    impl TestWorld for MemoryWorld {
        async fn create_topic(&mut self, topic: &str, partitions: i32) {
            self.log.create_topic(topic, partitions);
        }

        async fn produce(&mut self, lane: &TopicPartition, values: &[String]) {
            for value in values {
                self.log.produce(&lane.topic, lane.partition, None, Some(value.as_bytes()), -1, Vec::new());
            }
        }

        async fn join(&mut self, group: &str, topic: &str) -> Box<dyn Source> {
            let source = self.log.join(group, Subscription::Topics(vec![topic.to_owned()]));
            self.joined.push((group.to_owned(), source.id()));
            Box::new(source)
        }

        async fn join_lossy(&mut self, group: &str, topic: &str, recovery: Arc<dyn Recovery>) -> Box<dyn Source> {
            self.log.set_data_loss_fails(false);
            Box::new(self.log.join_with(group, Subscription::Topics(vec![topic.to_owned()]), Some(recovery)))
        }

        async fn join_within(&mut self, group: &str, read: Subscription, bounds: Bounds) -> Box<dyn Source> {
            self.log.set_bounds(group, bounds);
            Box::new(self.log.join(group, read))
        }

        async fn fence(&mut self, group: &str) -> bool {
            for (_, member) in self.joined.iter().filter(|(joined, _)| joined == group) {
                self.log.kill(*member);
            }
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_source_keeps_the_contract_of_a_source() {
        let log = MemoryLog::new();
        log.set_batch_rows_max(7);
        conformance::all(&mut MemoryWorld { log, joined: Vec::new() }, "memory").await;
    }

    fn topic(name: &str) -> Subscription {
        Subscription::Topics(vec![name.to_owned()])
    }

    fn lane() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn at(offset: i64, metadata: &str) -> Vec<Commit> {
        vec![Commit { topic_partition: lane(), offset: Offset::new(offset).unwrap(), metadata: metadata.to_owned() }]
    }

    /// A log with `records` in its only topic-partition, and a member that has it.
    async fn log_with_member(records: usize) -> (MemoryLog, MemorySource) {
        let log = MemoryLog::new();
        log.create_topic("t", 1);
        for _ in 0..records {
            log.produce("t", 0, None, Some(b"x"), -1, Vec::new());
        }
        let source = log.join("g", topic("t"));
        assert!(matches!(source.next(true).await, Event::Assigned(_)));
        (log, source)
    }

    fn committed(log: &MemoryLog) -> Option<i64> {
        log.committed("g", &lane()).map(|(offset, _)| offset.get())
    }

    #[tokio::test(start_paused = true)]
    async fn each_fate_of_a_commit_shows_in_the_log_and_in_the_report() {
        let second = Duration::from_secs(1);
        let cases: &[(CommitFate, &str, Option<i64>)] = &[
            (CommitFate::Apply, "ok", Some(5)),
            (CommitFate::ApplyAfter(second), "ok", Some(5)),
            (CommitFate::Refuse, "refused", None),
            (CommitFate::LoseReportUnknown, "unknown", None),
            (CommitFate::ApplyReportUnknown, "unknown", Some(5)),
            (CommitFate::DelayReportUnknown(None), "unknown", None),
        ];
        for (fate, report, in_log) in cases {
            let (log, source) = log_with_member(9).await;
            let fate = *fate;
            log.set_faults(move |_, _| fate);
            let told = match source.commit(at(5, "plan")).await {
                Ok(_) => "ok",
                Err(CommitError::Refused(_)) => "refused",
                Err(CommitError::Unknown(_)) => "unknown",
                Err(CommitError::Fenced(_)) => "fenced",
            };
            assert_eq!((told, committed(&log)), (*report, *in_log), "{fate:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_commit_is_taken_within_its_generation_and_fenced_after_a_rejoin() {
        let (log, source) = log_with_member(9).await;
        log.set_faults(|_, _| CommitFate::DelayReportUnknown(None));
        assert!(matches!(source.commit(at(5, "")).await, Err(CommitError::Unknown(_))));
        assert!(matches!(source.commit(at(6, "")).await, Err(CommitError::Unknown(_))), "only a rejoin helps");
        assert_eq!(log.delayed(), 1);
        source.rejoin().await;
        assert!(!log.release_delayed(0), "fenced as soon as the member has left");
        assert_eq!(committed(&log), None);

        let (log, source) = log_with_member(9).await;
        log.set_faults(|_, _| CommitFate::DelayReportUnknown(Some(Duration::from_secs(3))));
        assert!(source.commit(at(5, "")).await.is_err());
        assert_eq!(committed(&log), None);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(committed(&log), Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_zombie_reads_on_and_cannot_commit_after_another_member_took_over() {
        let (log, zombie) = log_with_member(3).await;
        log.kill(zombie.id());
        let heir = log.join("g", topic("t"));
        assert!(matches!(heir.next(true).await, Event::Assigned(_)));
        assert_eq!(log.owner("g", &lane()), Some(heir.id()));
        assert!(matches!(zombie.next(true).await, Event::Batch(_)), "it does not know");
        assert_eq!(heir.commit(at(2, "heir")).await, Ok(Vec::new()));
        assert!(matches!(zombie.commit(at(1, "zombie")).await, Err(CommitError::Fenced(_))));
        assert_eq!(log.committed("g", &lane()), Some((Offset::new(2).unwrap(), "heir".to_owned())));
        assert!(matches!(zombie.next(true).await, Event::Revoked { lost: true, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_member_is_expelled_when_a_rebalance_has_waited_long_enough() {
        let (log, deaf) = log_with_member(3).await;
        log.set_deaf(deaf.id(), true);
        let before = tokio::time::Instant::now();
        let heir = log.join("g", topic("t"));
        assert!(matches!(heir.next(true).await, Event::Assigned(_)));
        assert_eq!(before.elapsed(), Duration::from_secs(30));
        assert!(matches!(deaf.next(true).await, Event::Batch(_)));
        log.set_deaf(deaf.id(), false);
        assert!(matches!(deaf.next(true).await, Event::Revoked { lost: true, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_ends_after_the_commit_that_holds_the_leases() {
        let (log, first) = log_with_member(9).await;
        log.set_faults(|_, _| CommitFate::ApplyAfter(Duration::from_secs(5)));
        let second = log.join("g", topic("t"));
        let commit = first.commit(at(4, "in time"));
        let hear = async {
            loop {
                if let Event::Revoked { .. } = first.next(true).await {
                    break;
                }
            }
        };
        let taken_over = async {
            // The member with the lower id keeps the only partition, so the second is told nothing but by its owner.
            first.next(true).await
        };
        let (result, ()) = tokio::join!(commit, hear);
        assert_eq!(result, Ok(Vec::new()));
        match taken_over.await {
            Event::Assigned(assigned) => assert_eq!(assigned[0].start.get(), 4),
            other => panic!("expected an assignment, got {other:?}"),
        }
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn offsets_without_records_are_passed_with_a_position() {
        let (log, source) = log_with_member(2).await;
        log.skip("t", 0, 3);
        assert!(matches!(source.next(true).await, Event::Batch(batch) if batch.len() == 2));
        match source.next(true).await {
            Event::Position { next, .. } => assert_eq!(next.get(), 5),
            other => panic!("expected a position, got {other:?}"),
        }
        let next = log.produce("t", 0, None, None, 7, vec![("h".to_owned(), None)]);
        match source.next(true).await {
            Event::Batch(batch) => {
                assert_eq!((batch.offsets[0], batch.timestamps_ms[0]), (next.get(), 7));
                assert!(batch.headers.is_some());
            }
            other => panic!("expected a batch, got {other:?}"),
        }
    }

    /// Knows that `t-0` goes on at 7 with a plan; takes a while, and may fail.
    struct Elsewhere(bool);

    #[async_trait]
    impl Recovery for Elsewhere {
        async fn recover(
            &self,
            partitions: &[TopicPartition],
            _topic_ids: &BTreeMap<String, String>,
        ) -> Result<Vec<Recovered>, Error> {
            tokio::time::sleep(Duration::from_secs(3)).await;
            if self.0 {
                return Err(Error::Unavailable("nobody knows".to_owned()));
            }
            assert_eq!(partitions, [lane()], "only what is not committed");
            let start = Offset::new(7).unwrap();
            Ok(vec![Recovered { topic_partition: lane(), start, metadata: "a plan".to_owned() }])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_group_has_forgotten_is_asked_elsewhere() {
        let log = MemoryLog::new();
        log.create_topic("t", 2);
        for _ in 0..9 {
            log.produce("t", 0, None, Some(b"x"), -1, Vec::new());
        }
        let other = TopicPartition::new("t", 1);
        log.set_committed("g", &lane(), Offset::new(3).unwrap(), "forgotten");
        log.forget_group("g");
        log.set_committed("g", &other, Offset::ZERO, "known");
        let source = log.join_with("g", topic("t"), Some(Arc::new(Elsewhere(false))));
        // Whoever waits may give up and come back: nothing is lost.
        assert!(tokio::time::timeout(Duration::from_secs(1), source.next(true)).await.is_err());
        let Event::Assigned(assigned) = source.next(true).await else { panic!("no assignment") };
        let seen: Vec<_> = assigned.iter().map(|one| (one.start.get(), one.metadata.as_str(), one.committed)).collect();
        assert_eq!(seen, [(7, "a plan", false), (0, "known", true)]);
        assert!(matches!(source.next(true).await, Event::Batch(batch) if batch.offsets[0] == 7));

        let (log, source) = log_with_member(1).await;
        source.close().await;
        let source = log.join_with("g", topic("t"), Some(Arc::new(Elsewhere(true))));
        assert!(matches!(source.next(true).await, Event::Failed(Error::Unavailable(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_retention_has_taken_fails_the_member_or_is_passed() {
        for fails in [true, false] {
            let (log, source) = log_with_member(5).await;
            log.set_data_loss_fails(fails);
            log.retain_from(&lane(), Offset::new(3).unwrap());
            match source.next(true).await {
                Event::Failed(Error::OffsetLost(text)) if fails => assert!(text.contains("offset 3"), "{text}"),
                Event::Batch(batch) if !fails => assert_eq!(batch.offsets[0], 3),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_appears_later_is_assigned_to_a_pattern() {
        let log = MemoryLog::new();
        let source = log.join("g", Subscription::Regex("t\\d".to_owned()));
        log.create_topic("other", 1);
        log.create_topic("t1", 2);
        match source.next(true).await {
            Event::Assigned(assigned) => assert_eq!(assigned.len(), 2),
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    /// Tells the ids of topics by failing with them.
    struct Ids;

    #[async_trait]
    impl Recovery for Ids {
        async fn recover(
            &self,
            _partitions: &[TopicPartition],
            topic_ids: &BTreeMap<String, String>,
        ) -> Result<Vec<Recovered>, Error> {
            Err(Error::OffsetLost(topic_ids.get("t").cloned().unwrap_or_default()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_is_created_again_has_another_id_and_nothing_of_the_one_before() {
        for protocol in [crate::Protocol::Eager, crate::Protocol::Cooperative, crate::Protocol::Server] {
            let log = MemoryLog::new();
            log.set_protocol("g", protocol);
            log.create_topic("t", 1);
            log.create_topic("u", 1);
            let id = async |log: &MemoryLog| {
                let source = log.join_with("asks", topic("t"), Some(Arc::new(Ids)));
                let Event::Failed(error) = source.next(true).await else { panic!("it fails") };
                source.close().await;
                error.to_string()
            };
            let before = id(&log).await;
            assert_eq!(id(&log).await, before);
            let source = log.join("g", Subscription::Topics(vec!["t".to_owned(), "u".to_owned()]));
            assert!(matches!(source.next(true).await, Event::Assigned(all) if all.len() == 2), "{protocol:?}");
            log.produce("t", 0, None, Some(b"x"), -1, Vec::new());
            assert_eq!(source.commit(at(1, "")).await, Ok(Vec::new()));
            log.recreate_topic("t", 1);
            assert_ne!(id(&log).await, before);
            assert_eq!((committed(&log), log.end_offset(&lane())), (None, Some(Offset::ZERO)));
            // Under no protocol does the member commit for what it had.
            assert_eq!(source.commit(at(1, "")).await, Ok(vec![lane()]));
            match source.next(true).await {
                Event::Revoked { partitions, lost: true, .. } => assert_eq!(partitions, [lane()], "{protocol:?}"),
                other => panic!("expected a loss, got {other:?}"),
            }
            let assigned = loop {
                if let Event::Assigned(assigned) = source.next(true).await {
                    break assigned;
                }
            };
            let again = assigned.iter().find(|one| one.topic_partition == lane()).expect("it comes back");
            assert_eq!((again.start, again.committed), (Offset::ZERO, false), "{protocol:?}");
        }
    }
}
