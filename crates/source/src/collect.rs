//! What one call to librdkafka brings, sorted into a growing batch for each topic-partition.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Headers, Offset, RawBatchBuilder, TopicPartition};

use crate::Event;
use crate::code::Code;
use crate::kafka::Shared;
use crate::native::Message;

pub(crate) struct Lane {
    pub(crate) topic_partition: TopicPartition,
    builder: Option<RawBatchBuilder>,
    /// Bytes of values of the last batch: the room that the next one starts with.
    last_bytes: usize,
    last_rows: usize,
    pub(crate) start: i64,
    /// No record below this one can come.
    pub(crate) next: i64,
}

/// The topic-partitions that are assigned, and how messages find them without a look at their topic's name.
#[derive(Default)]
pub(crate) struct Lanes {
    pub(crate) all: Vec<Lane>,
    routes: HashMap<(usize, i32), usize>,
    last: Option<((usize, i32), usize)>,
}

impl Lanes {
    fn of(&mut self, message: &Message<'_>) -> Option<&mut Lane> {
        let route = (message.topic_id(), message.partition());
        if let Some((last, index)) = self.last
            && last == route
        {
            return self.all.get_mut(index);
        }
        let index = match self.routes.get(&route) {
            Some(index) => *index,
            None => {
                let topic = message.topic();
                let is_it =
                    |lane: &Lane| lane.topic_partition.partition == route.1 && *lane.topic_partition.topic == *topic;
                let index = self.all.iter().position(is_it)?;
                self.routes.insert(route, index);
                index
            }
        };
        self.last = Some((route, index));
        self.all.get_mut(index)
    }

    /// Routes hold places in `all` and addresses of topics, so they end with every change.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Vec<Lane>)) {
        change(&mut self.all);
        self.routes.clear();
        self.last = None;
    }
}

/// Where the records of one call go. Apart from the poll thread itself, so that the consumer can be borrowed beside it.
pub(crate) struct Collector {
    pub(crate) lanes: Lanes,
    shared: Arc<Shared>,
    /// A record that came although the log was read further: lane, its offset, where the lane started and where it is.
    pub(crate) backwards: Option<(TopicPartition, Offset, i64, i64)>,
    /// Troubles that came in place of records.
    pub(crate) troubles: Vec<(Code, TopicPartition, String)>,
    /// Lanes that came to the end of what they may see, and where that is.
    pub(crate) at_end: Vec<(TopicPartition, i64)>,
}

impl Collector {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { lanes: Lanes::default(), shared, backwards: None, troubles: Vec::new(), at_end: Vec::new() }
    }

    pub(crate) fn take(&mut self, message: Message<'_>) {
        if message.code() == Code::PARTITION_EOF {
            return self.reach_end(&message);
        }
        if message.code() != Code::OK {
            let lane = TopicPartition::new(message.topic(), message.partition());
            self.troubles.push((message.code(), lane, message.reason()));
            return;
        }
        let config = &self.shared.config;
        // A record of a topic-partition that was taken away meanwhile finds no lane: it is not ours any more.
        let Some(lane) = self.lanes.of(&message) else { return };
        let Some(offset) = Offset::new(message.offset()) else { return };
        if offset.get() < lane.next {
            self.backwards.get_or_insert((lane.topic_partition.clone(), offset, lane.start, lane.next));
            return;
        }
        let (key, value) = (message.key(), message.value());
        let bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if lane.builder.as_ref().is_some_and(|builder| {
            builder.len() >= config.batch_rows_max
                || builder.bytes() >= config.batch_bytes_max
                || !builder.has_room_for(bytes)
        }) {
            lane.flush(&self.shared);
        }
        let builder = lane.builder.get_or_insert_with(|| {
            RawBatchBuilder::new(lane.topic_partition.clone(), lane.last_rows, lane.last_bytes.max(bytes))
        });
        let headers = if config.with_headers { message.headers() } else { Headers::new() };
        let (timestamp_ms, is_append_time) = message.timestamp_ms();
        builder.push(offset, timestamp_ms, key, value, headers);
        if is_append_time {
            builder.mark_append_time();
        }
        lane.next = offset.next().get();
    }

    /// Control records, compaction and aborted transactions leave no record before the end.
    fn reach_end(&mut self, message: &Message<'_>) {
        let Some(lane) = self.lanes.of(message) else { return };
        if let Some(next) = Offset::new(message.offset()).filter(|next| next.get() >= lane.next) {
            lane.move_to(next, &self.shared);
            self.at_end.push((lane.topic_partition.clone(), next.get()));
        }
    }

    pub(crate) fn flush(&mut self) {
        for lane in &mut self.lanes.all {
            lane.flush(&self.shared);
        }
    }
}

impl Lane {
    pub(crate) fn new(topic_partition: TopicPartition, start: Offset) -> Self {
        Self { topic_partition, builder: None, last_bytes: 0, last_rows: 16, start: start.get(), next: start.get() }
    }

    /// No record before `next` comes any more; tells it if that is further than the records that came.
    pub(crate) fn move_to(&mut self, next: Offset, shared: &Shared) {
        if next.get() > self.next {
            self.flush(shared);
            self.next = next.get();
            shared.inbox.push(Event::Position { topic_partition: self.topic_partition.clone(), next });
        }
    }

    pub(crate) fn flush(&mut self, shared: &Shared) {
        if let Some(builder) = self.builder.take() {
            (self.last_rows, self.last_bytes) = (builder.len(), builder.bytes());
            shared.inbox.push(Event::Batch(builder.finish()));
        }
    }
}
