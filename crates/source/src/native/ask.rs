//! What a consumer can ask: committed offsets, the ends of logs, which topics there are and their ids, who is in a group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::c_char;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use model::TopicPartition;
use rdkafka::bindings as c;

use super::data::{c_text, owned_text};
use super::{List, Native, millis};
use crate::code::Code;

/// A place in a log that has no number until the broker is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The first offset that is there.
    Begin,
    /// The first offset after everything that was written, visible or not.
    End,
    /// The first offset after everything that this consumer may see (`isolation.level`).
    VisibleEnd,
}

/// What a log holds: the offsets from `begin` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// Ids by name, and why some are missing.
pub(crate) type TopicIds = (BTreeMap<String, String>, Option<Code>);

impl Native {
    /// Fills in committed offsets and their metadata; errors of single topic-partitions are in their entries.
    pub(crate) fn committed(&self, list: &mut List, timeout: Duration) -> Result<(), Code> {
        // SAFETY: client and list are valid, the list is ours alone.
        Code::of(unsafe { c::rd_kafka_committed(self.client, list.0.as_ptr(), millis(timeout)) }).result()
    }

    /// What the logs of `lanes` hold, in their order. Two requests for each broker that leads some of them.
    pub(crate) fn ends(&self, lanes: &[TopicPartition], timeout: Duration) -> Result<Vec<Ends>, Code> {
        let deadline = Instant::now() + timeout;
        let begins = self.points(lanes, Point::Begin, timeout)?;
        let ends = self.points(lanes, Point::End, deadline.saturating_duration_since(Instant::now()))?;
        Ok(begins.into_iter().zip(ends).map(|(begin, end)| Ends { begin, end }).collect())
    }

    /// Where `point` is in the logs of `lanes`, in their order. One request for each broker that leads some of them.
    pub(crate) fn points(&self, lanes: &[TopicPartition], point: Point, timeout: Duration) -> Result<Vec<i64>, Code> {
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let spec = match point {
            Point::Begin => c::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST,
            Point::End | Point::VisibleEnd => c::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST,
        };
        let mut list = List::new();
        for lane in lanes {
            list.add(lane, spec as i64, "");
        }
        let mut found = HashMap::with_capacity(lanes.len());
        match point {
            // The request of consumers carries their isolation level.
            Point::VisibleEnd => {
                // SAFETY: client and list are valid, the list is ours alone.
                Code::of(unsafe { c::rd_kafka_offsets_for_times(self.client, list.0.as_ptr(), millis(timeout)) })
                    .result()?;
                for entry in list.entries() {
                    entry.code.result()?;
                    found.insert(entry.topic_partition, entry.offset);
                }
            }
            // The request of administrators sees all records.
            Point::Begin | Point::End => self.list_offsets(&list, timeout, &mut found)?,
        }
        let place = |lane| found.get(lane).copied().filter(|offset| *offset >= 0);
        lanes.iter().map(|lane| place(lane).ok_or(Code::NO_OFFSET)).collect()
    }

    /// The offset of the first record of `lane` that this consumer may see and whose time, in milliseconds, is `ms` or a
    /// later one; `None` when there is none.
    pub(crate) fn at_time(&self, lane: &TopicPartition, ms: i64, timeout: Duration) -> Result<Option<i64>, Code> {
        let mut list = List::new();
        list.add(lane, ms, "");
        // SAFETY: client and list are valid, the list is ours alone.
        Code::of(unsafe { c::rd_kafka_offsets_for_times(self.client, list.0.as_ptr(), millis(timeout)) }).result()?;
        let entry = list.entries().pop().ok_or(Code::NO_OFFSET)?;
        entry.code.result()?;
        Ok(Some(entry.offset).filter(|offset| *offset >= 0))
    }

    fn list_offsets(
        &self,
        list: &List,
        timeout: Duration,
        found: &mut HashMap<TopicPartition, i64>,
    ) -> Result<(), Code> {
        // SAFETY: client, list, options and queue are valid; the event is.
        unsafe {
            self.administer(
                c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
                None,
                timeout,
                |options, queue| c::rd_kafka_ListOffsets(self.client, list.0.as_ptr(), options, queue),
                |event| read_offsets(event, found),
            )
        }
    }

    /// The ids of `topics` by name, as Kafka's tools print them, and the error of one that the broker does not have or show.
    /// Brokers without ids (before Kafka 2.8) have no errors either. Two requests to any broker: the controller, to whom
    /// librdkafka would send it, need not be in reach.
    pub(crate) fn topic_ids(&self, topics: &BTreeSet<String>, timeout: Duration) -> Result<TopicIds, Code> {
        if topics.is_empty() {
            return Ok(TopicIds::default());
        }
        let deadline = Instant::now() + timeout;
        let broker = self.any_broker(timeout)?;
        let names: Vec<_> = topics.iter().map(|topic| c_text(topic)).collect();
        let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the names live until the call returns, which copies them; the collection is destroyed once, after the
        // request has copied it; client, options and queue are valid; the event is.
        unsafe {
            let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let ids = self.administer(
                c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                Some(broker),
                deadline.saturating_duration_since(Instant::now()),
                |options, queue| c::rd_kafka_DescribeTopics(self.client, topics, options, queue),
                |event| read_topic_ids(event),
            );
            c::rd_kafka_TopicCollection_destroy(topics);
            ids
        }
    }

    /// The number of a broker that is there.
    fn any_broker(&self, timeout: Duration) -> Result<i32, Code> {
        let mut metadata = ptr::null();
        // SAFETY: the client is valid. On success `metadata` is ours, its array holds as many elements as it says, and it
        // is destroyed once.
        unsafe {
            Code::of(c::rd_kafka_metadata(self.client, 0, ptr::null_mut(), &mut metadata, millis(timeout))).result()?;
            let Some(all) = metadata.as_ref() else { return Err(Code::TIMED_OUT) };
            let count = usize::try_from(all.broker_cnt).unwrap_or(0);
            let brokers = if count == 0 { &[] } else { std::slice::from_raw_parts(all.brokers, count) };
            let answered = brokers.iter().map(|broker| broker.id).find(|id| *id == all.orig_broker_id);
            let found = answered.or(brokers.first().map(|broker| broker.id));
            c::rd_kafka_metadata_destroy(metadata);
            found.ok_or(Code::TIMED_OUT)
        }
    }

    /// Sends the request of an administrator, to this broker or to whom librdkafka thinks best, and waits for its answer.
    ///
    /// # Safety
    /// `send` may use its pointers during the call only, `read` likewise; `read` is given a valid event.
    unsafe fn administer<T>(
        &self,
        kind: c::rd_kafka_admin_op_t,
        broker: Option<i32>,
        timeout: Duration,
        send: impl FnOnce(*mut c::rd_kafka_AdminOptions_t, *mut c::rd_kafka_queue_t),
        read: impl FnOnce(*mut c::rd_kafka_event_t) -> Result<T, Code>,
    ) -> Result<T, Code> {
        let mut text = [0 as c_char; 256];
        // SAFETY: the client is valid; options, queue and event are ours and destroyed once; what the event points to is
        // copied before.
        unsafe {
            let options = c::rd_kafka_AdminOptions_new(self.client, kind);
            // A time-out that cannot be set leaves socket.timeout.ms; the wait below is bounded in any case.
            c::rd_kafka_AdminOptions_set_request_timeout(
                options,
                millis(timeout).max(1),
                text.as_mut_ptr(),
                text.len(),
            );
            if let Some(broker) = broker {
                c::rd_kafka_AdminOptions_set_broker(options, broker, text.as_mut_ptr(), text.len());
            }
            let queue = c::rd_kafka_queue_new(self.client);
            send(options, queue);
            let event = c::rd_kafka_queue_poll(queue, millis(timeout));
            let answer = if event.is_null() { Err(Code::TIMED_OUT) } else { read(event) };
            if !event.is_null() {
                c::rd_kafka_event_destroy(event);
            }
            c::rd_kafka_queue_destroy(queue);
            c::rd_kafka_AdminOptions_destroy(options);
            answer
        }
    }

    /// The end as last heard in a fetch response, visible or not.
    pub(crate) fn known_end(&self, topic_partition: &TopicPartition) -> Option<i64> {
        let (topic, mut low, mut high) = (c_text(&topic_partition.topic), -1, -1);
        // SAFETY: client, text and the two places are valid.
        let code = Code::of(unsafe {
            c::rd_kafka_get_watermark_offsets(
                self.client,
                topic.as_ptr(),
                topic_partition.partition,
                &mut low,
                &mut high,
            )
        });
        code.result().ok().map(|()| high).filter(|high| *high >= 0)
    }

    /// The error that ended this client, if one did.
    pub(crate) fn fatal_error(&self) -> Option<(Code, String)> {
        let mut text = [0 as c_char; 512];
        // SAFETY: the client is valid; the buffer has the length that is told and is NUL-terminated by librdkafka.
        let (code, reason) = unsafe {
            let code = c::rd_kafka_fatal_error(self.client, text.as_mut_ptr(), text.len());
            (Code::of(code), owned_text(text.as_ptr()))
        };
        (code != Code::OK).then_some((code, reason))
    }

    /// Logs no more of what `debug` asks for.
    pub(crate) fn end_debug(&self) {
        // SAFETY: the client is valid. 6 is syslog's level of information.
        unsafe { c::rd_kafka_set_log_level(self.client, 6) }
    }

    /// Tells librdkafka that its user is alive, which `max.poll.interval.ms` wants to hear, without taking anything.
    pub(crate) fn still_here(&self) {
        let mut place = [ptr::null_mut()];
        // SAFETY: the queue is ours and nothing writes to it; the buffer has room for the one message that is told.
        unsafe {
            let queue = c::rd_kafka_queue_new(self.client);
            c::rd_kafka_consume_batch_queue(queue, 0, place.as_mut_ptr(), place.len());
            c::rd_kafka_queue_destroy(queue);
        }
    }

    /// Every topic and how many partitions it has; topics that the broker has trouble with are left out.
    pub(crate) fn topics(&self, timeout: Duration) -> Result<BTreeMap<String, i32>, Code> {
        let mut metadata = ptr::null();
        // SAFETY: the client is valid. On success `metadata` is ours, its arrays hold as many elements as it says, and
        // it is destroyed once.
        unsafe {
            Code::of(c::rd_kafka_metadata(self.client, 1, ptr::null_mut(), &mut metadata, millis(timeout))).result()?;
            let Some(all) = metadata.as_ref() else { return Ok(BTreeMap::new()) };
            let count = usize::try_from(all.topic_cnt).unwrap_or(0);
            let topics = if count == 0 { &[] } else { std::slice::from_raw_parts(all.topics, count) };
            let known = topics.iter().filter(|topic| topic.partition_cnt > 0);
            let found = known.map(|topic| (owned_text(topic.topic), topic.partition_cnt)).collect();
            c::rd_kafka_metadata_destroy(metadata);
            Ok(found)
        }
    }

    /// Asks the coordinator of `group` whom it gives which topic-partitions, without waiting for its answer.
    ///
    /// The request stays for as long as librdkafka lets one: a request to a coordinator whose time is over before its
    /// coordinator is found makes librdkafka 2.12 abort the process (`rd_kafka_admin_coord_request` gives up its last
    /// reference to the request, and its answer gives it up again).
    pub(crate) fn look_at(&self, group: &str) -> Look {
        const LONGEST: Duration = Duration::from_secs(3600);
        let (name, mut text) = (c_text(group), [0 as c_char; 256]);
        let mut names = [name.as_ptr()];
        let kind = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        // SAFETY: client, name and buffer are valid; the request copies name and options, which are destroyed once.
        unsafe {
            let options = c::rd_kafka_AdminOptions_new(self.client, kind);
            c::rd_kafka_AdminOptions_set_request_timeout(options, millis(LONGEST), text.as_mut_ptr(), text.len());
            let queue = c::rd_kafka_queue_new(self.client);
            c::rd_kafka_DescribeConsumerGroups(self.client, names.as_mut_ptr(), names.len(), options, queue);
            c::rd_kafka_AdminOptions_destroy(options);
            Look(NonNull::new(queue).expect("librdkafka aborts when memory is out"))
        }
    }

    /// The state of `group` as its coordinator tells it to the classic protocol's request, `Stable` for example; `Dead`
    /// or empty when there is no such classic group.
    pub(crate) fn group_state(&self, group: &str, timeout: Duration) -> Result<String, Code> {
        let (name, mut groups) = (c_text(group), ptr::null());
        // SAFETY: client and text are valid. On success `groups` is ours, its array holds as many elements as it says,
        // and it is destroyed once.
        unsafe {
            Code::of(c::rd_kafka_list_groups(self.client, name.as_ptr(), &mut groups, millis(timeout))).result()?;
            let Some(all) = groups.as_ref() else { return Ok(String::new()) };
            let count = usize::try_from(all.group_cnt).unwrap_or(0);
            let infos = if count == 0 { &[] } else { std::slice::from_raw_parts(all.groups, count) };
            let state = infos.iter().find(|info| owned_text(info.group) == group).map(|info| owned_text(info.state));
            c::rd_kafka_group_list_destroy(groups);
            Ok(state.unwrap_or_default())
        }
    }
}

/// What a coordinator was asked by [`Native::look_at`]. Dropped before the client is.
pub(crate) struct Look(NonNull<c::rd_kafka_queue_t>);

// SAFETY: queues of librdkafka may be used from any thread.
unsafe impl Send for Look {}

impl Look {
    /// The topic-partitions that the coordinator gives to a member of the group, be it that the member has them already
    /// or shall have them; `None` when it is not a group under KIP-848, or is none at all. Nothing while there is no answer.
    pub(crate) fn given(&self) -> Option<Result<Option<BTreeSet<TopicPartition>>, Code>> {
        // SAFETY: the queue is valid; the event is ours and destroyed once, what it points to is copied before.
        unsafe {
            let event = c::rd_kafka_queue_poll(self.0.as_ptr(), 0);
            if event.is_null() {
                return None;
            }
            let given = read_given(event);
            c::rd_kafka_event_destroy(event);
            Some(given)
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and destroyed once.
        unsafe { c::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// # Safety
/// `event` is a valid event.
unsafe fn read_given(event: *mut c::rd_kafka_event_t) -> Result<Option<BTreeSet<TopicPartition>>, Code> {
    // SAFETY: promised by the caller; the result is null for an event of another kind; its array holds `count` valid
    // descriptions, each with as many members as it says; assignments and their lists are valid or null; all live as long
    // as the event, and the lists are copied.
    unsafe {
        Code::of(c::rd_kafka_event_error(event)).result()?;
        let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
        if result.is_null() {
            return Err(Code::TIMED_OUT);
        }
        let mut count = 0;
        let groups = c::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if count == 0 {
            return Err(Code::TIMED_OUT);
        }
        let group = *groups;
        let error = c::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            Code::of(c::rd_kafka_error_code(error)).result()?;
        }
        let kind = c::rd_kafka_ConsumerGroupDescription_type(group);
        if kind != c::rd_kafka_consumer_group_type_t::RD_KAFKA_CONSUMER_GROUP_TYPE_CONSUMER {
            return Ok(None);
        }
        let mut given = BTreeSet::new();
        for index in 0..c::rd_kafka_ConsumerGroupDescription_member_count(group) {
            let member = c::rd_kafka_ConsumerGroupDescription_member(group, index);
            let has = c::rd_kafka_MemberDescription_assignment(member);
            let shall_have = c::rd_kafka_MemberDescription_target_assignment(member);
            for assignment in [has, shall_have].into_iter().filter(|assignment| !assignment.is_null()) {
                let list = c::rd_kafka_MemberAssignment_partitions(assignment);
                if !list.is_null() {
                    let copy = NonNull::new(c::rd_kafka_topic_partition_list_copy(list));
                    let list = List(copy.expect("librdkafka aborts when memory is out"));
                    given.extend(list.entries().into_iter().map(|entry| entry.topic_partition));
                }
            }
        }
        Ok(Some(given))
    }
}

/// # Safety
/// `event` is a valid event.
unsafe fn read_offsets(event: *mut c::rd_kafka_event_t, found: &mut HashMap<TopicPartition, i64>) -> Result<(), Code> {
    // SAFETY: promised by the caller; the result is null for an event of another kind; its array holds `count` valid
    // infos, each with an element whose topic is NUL-terminated; all live as long as the event.
    unsafe {
        Code::of(c::rd_kafka_event_error(event)).result()?;
        let result = c::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(Code::TIMED_OUT);
        }
        let mut count = 0;
        let infos = c::rd_kafka_ListOffsets_result_infos(result, &mut count);
        for index in 0..count {
            let element = c::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            Code::of_number((&raw const (*element).err).cast::<i32>().read()).result()?;
            let lane = TopicPartition::new(owned_text((*element).topic), (*element).partition);
            found.insert(lane, (*element).offset);
        }
    }
    Ok(())
}

/// # Safety
/// `event` is a valid event.
unsafe fn read_topic_ids(event: *mut c::rd_kafka_event_t) -> Result<TopicIds, Code> {
    let (mut ids, mut trouble) = TopicIds::default();
    // SAFETY: promised by the caller; the result is null for an event of another kind; its array holds `count` valid
    // descriptions, each with a name that is NUL-terminated and an id; all live as long as the event.
    unsafe {
        Code::of(c::rd_kafka_event_error(event)).result()?;
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(Code::TIMED_OUT);
        }
        let mut count = 0;
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for index in 0..count {
            let topic = *topics.add(index);
            let id = c::rd_kafka_TopicDescription_topic_id(topic);
            let error = c::rd_kafka_TopicDescription_error(topic);
            let is_zero = id.is_null()
                || (c::rd_kafka_Uuid_most_significant_bits(id), c::rd_kafka_Uuid_least_significant_bits(id)) == (0, 0);
            if !error.is_null() {
                trouble = Some(Code::of(c::rd_kafka_error_code(error))).filter(|code| *code != Code::OK).or(trouble);
            } else if !is_zero {
                // Kafka's tools print the alphabet for addresses.
                let id = owned_text(c::rd_kafka_Uuid_base64str(id)).replace('+', "-").replace('/', "_");
                ids.insert(owned_text(c::rd_kafka_TopicDescription_name(topic)), id);
            }
        }
    }
    Ok((ids, trouble))
}
