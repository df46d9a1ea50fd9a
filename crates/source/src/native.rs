//! A safe consumer handle over librdkafka's C interface: the one file with `unsafe`, because rdkafka's own consumers
//! take messages one by one, hide their queues and panic on metadata that is not UTF-8.
#![allow(unsafe_code, reason = "the C interface; every block says why it is sound")]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::TopicPartition;
use rdkafka::bindings as c;

use crate::Error;
use crate::code::Code;

mod ask;
mod data;
#[cfg(test)]
pub(crate) mod mock;
pub(crate) use ask::{Ends, Look, Point};
pub(crate) use data::{Entry, List, Message};
use data::{c_text, owned_text};

use crate::protocol::is_missing;

/// The API key of an OffsetCommit request in Kafka's protocol.
const OFFSET_COMMIT: i16 = 8;
/// Most messages that one call takes from the queue, and the bytes of keys and values after which it takes no more.
const MESSAGES_PER_CALL_MAX: usize = 16_384;
const BYTES_PER_CALL_MAX: usize = 16 << 20;
/// Most messages that librdkafka moves out of the queue at once. What it has moved does not count against
/// `queued.max.messages.kbytes` any more: without a bound it would fetch as much again at each call, whatever is put back.
pub(crate) const MESSAGES_AT_ONCE_MAX: usize = 1_024;

/// The end of a log, whatever its number is when it is asked for.
pub(crate) const OFFSET_END: i64 = c::RD_KAFKA_OFFSET_END as i64;

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}

/// What the consumer's main queue tells.
pub(crate) enum Notice {
    /// These topic-partitions come; [`Native::assign`] must answer.
    Assign(List),
    /// These go; [`Native::unassign`] must answer.
    Revoke(List),
    /// Something is wrong.
    Trouble { code: Code, fatal: bool, reason: String },
    /// The broker does not speak the group protocol of this consumer; librdkafka would try for ever.
    ProtocolMissing,
}

/// What became of one commit request, as far as librdkafka can tell.
pub(crate) struct CommitAnswer {
    /// Error of the request, and the first error of one topic-partition.
    pub(crate) errors: Vec<(Code, Option<TopicPartition>)>,
    /// How often a request with it was written to a broker; librdkafka repeats requests on its own.
    pub(crate) sent: u64,
    /// The answer did not come in time; librdkafka may still send the request.
    pub(crate) timed_out: bool,
}

/// One consumer of librdkafka, with a queue of its own for the messages of all its topic-partitions.
pub(crate) struct Native {
    client: *mut c::rd_kafka_t,
    main: *mut c::rd_kafka_queue_t,
    messages: *mut c::rd_kafka_queue_t,
    commits_sent: Box<AtomicU64>,
    closed: std::sync::atomic::AtomicBool,
}

// SAFETY: librdkafka's handles may be used from any thread at any time (rdkafka.h, "thread safety").
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

unsafe extern "C" fn on_request_sent(
    _client: *mut c::rd_kafka_t,
    _socket: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api_key: i16,
    _version: i16,
    _correlation: i32,
    _size: usize,
    counter: *mut c_void,
) -> c::rd_kafka_resp_err_t {
    if api_key == OFFSET_COMMIT {
        // SAFETY: `counter` is the box of `Native::commits_sent`, which outlives the client and its threads.
        unsafe { &*counter.cast::<AtomicU64>() }.fetch_add(1, Ordering::SeqCst);
    }
    c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_new(
    client: *mut c::rd_kafka_t,
    _conf: *const c::rd_kafka_conf_t,
    counter: *mut c_void,
    _error: *mut c_char,
    _error_size: usize,
) -> c::rd_kafka_resp_err_t {
    // SAFETY: librdkafka calls this while it creates `client`, which is when interceptors may be added.
    unsafe { c::rd_kafka_interceptor_add_on_request_sent(client, c"sluice".as_ptr(), Some(on_request_sent), counter) }
}

impl Native {
    /// A consumer with these properties. Nothing is sent until [`Self::subscribe`].
    pub(crate) fn new(properties: &BTreeMap<String, String>) -> Result<Native, Error> {
        let mut text = [0 as c_char; 512];
        let commits_sent = Box::new(AtomicU64::new(0));
        // SAFETY: `conf` is ours until rd_kafka_new takes it (it does not on failure, then it is destroyed here); the
        // buffer for error texts has the length that is told; the counter's box is kept until the client is destroyed.
        unsafe {
            let conf = c::rd_kafka_conf_new();
            for (name, value) in properties {
                let (c_name, c_value) = (c_text(name), c_text(value));
                let result =
                    c::rd_kafka_conf_set(conf, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len());
                if result != c::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    c::rd_kafka_conf_destroy(conf);
                    return Err(Error::Config(format!("{name} cannot be used: {}", owned_text(text.as_ptr()))));
                }
            }
            c::rd_kafka_conf_set_events(
                conf,
                c::RD_KAFKA_EVENT_REBALANCE | c::RD_KAFKA_EVENT_ERROR | c::RD_KAFKA_EVENT_LOG,
            );
            let counter = (&raw const *commits_sent).cast_mut().cast::<c_void>();
            c::rd_kafka_conf_interceptor_add_on_new(conf, c"sluice".as_ptr(), Some(on_new), counter);
            let kind = c::rd_kafka_type_t::RD_KAFKA_CONSUMER;
            let client = c::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            if client.is_null() {
                c::rd_kafka_conf_destroy(conf);
                return Err(Error::Config(format!("could not create the Kafka client: {}", owned_text(text.as_ptr()))));
            }
            c::rd_kafka_set_log_queue(client, ptr::null_mut());
            c::rd_kafka_poll_set_consumer(client);
            let main = c::rd_kafka_queue_get_consumer(client);
            let messages = c::rd_kafka_queue_new(client);
            assert!(!main.is_null() && !messages.is_null(), "a client with a group.id has a consumer queue");
            Ok(Native { client, main, messages, commits_sent, closed: false.into() })
        }
    }

    /// Joins the group for these topics; those that begin with `^` are patterns.
    pub(crate) fn subscribe(&self, topics: &[String]) -> Result<(), Code> {
        let mut list = List::new();
        for topic in topics {
            list.add(&TopicPartition::new(topic.as_str(), -1), i64::from(c::RD_KAFKA_OFFSET_INVALID), "");
        }
        // SAFETY: client and list are valid.
        Code::of(unsafe { c::rd_kafka_subscribe(self.client, list.0.as_ptr()) }).result()
    }

    /// Waits up to `timeout` for something on the main queue; logs and what needs no answer give `None`. A record that
    /// comes here (its topic-partition was not forwarded yet) goes to `take`. The flag is false when nothing came.
    pub(crate) fn serve(&self, timeout: Duration, take: &mut dyn FnMut(Message<'_>)) -> (bool, Option<Notice>) {
        // SAFETY: the queue is ours; the event is used only until it is destroyed below.
        let event = unsafe { c::rd_kafka_queue_poll(self.main, millis(timeout)) };
        if event.is_null() {
            return (false, None);
        }
        // SAFETY: the event is valid; its type says which accessors may be called; what they return belongs to it and
        // is copied before the event is destroyed, exactly once.
        unsafe {
            let notice = match c::rd_kafka_event_type(event) {
                c::RD_KAFKA_EVENT_REBALANCE => {
                    let list = c::rd_kafka_topic_partition_list_copy(c::rd_kafka_event_topic_partition_list(event));
                    let list = List(NonNull::new(list).expect("librdkafka aborts when memory is out"));
                    let code = Code::of(c::rd_kafka_event_error(event));
                    Some(if code == Code::ASSIGN_PARTITIONS { Notice::Assign(list) } else { Notice::Revoke(list) })
                }
                c::RD_KAFKA_EVENT_ERROR => Some(self.trouble(event)),
                c::RD_KAFKA_EVENT_LOG => {
                    log_line(event).filter(|line| is_missing(line)).map(|_| Notice::ProtocolMissing)
                }
                c::RD_KAFKA_EVENT_FETCH => {
                    let message = c::rd_kafka_event_message_next(event);
                    if let Some(message) = message.as_ref() {
                        take(Message(message));
                    }
                    None
                }
                _other_event_of_librdkafka => None,
            };
            c::rd_kafka_event_destroy(event);
            (true, notice)
        }
    }

    /// # Safety
    /// `event` is a valid error event.
    unsafe fn trouble(&self, event: *mut c::rd_kafka_event_t) -> Notice {
        // SAFETY: promised by the caller; the text is copied.
        let (code, fatal, reason) = unsafe {
            let fatal = c::rd_kafka_event_error_is_fatal(event) != 0;
            (Code::of(c::rd_kafka_event_error(event)), fatal, owned_text(c::rd_kafka_event_error_string(event)))
        };
        // A fatal error comes under a code that only says so; the client knows which one it is.
        match self.fatal_error() {
            Some((code, reason)) if fatal || code.is_fatal() => Notice::Trouble { code, fatal: true, reason },
            Some(_) | None => Notice::Trouble { code, fatal, reason },
        }
    }

    /// Ends a wait of [`Self::serve`] in another thread.
    pub(crate) fn wake(&self) {
        // SAFETY: the queue is valid as long as `self`.
        unsafe { c::rd_kafka_queue_yield(self.main) }
    }

    /// Gives messages to `take` for `timeout`, or until it has taken many; returns how many.
    pub(crate) fn consume(&self, timeout: Duration, take: &mut dyn FnMut(Message<'_>)) -> usize {
        let deadline = Instant::now() + timeout;
        let mut taking = Taking { client: self.client, take, count: 0, bytes: 0, panic: None };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let before = taking.count;
            // SAFETY: the queue is ours; `taking` outlives the call, which alone uses it and on this thread.
            unsafe {
                let opaque = (&raw mut taking).cast::<c_void>();
                c::rd_kafka_consume_callback_queue(self.messages, millis(left), Some(on_message), opaque);
            }
            if let Some(panic) = taking.panic {
                std::panic::resume_unwind(panic);
            }
            // Nothing came although there was time: somebody woke us.
            let took_much = taking.count >= MESSAGES_PER_CALL_MAX || taking.bytes >= BYTES_PER_CALL_MAX;
            if took_much || left.is_zero() || taking.count == before {
                return taking.count;
            }
        }
    }

    /// From the next assignment on, messages of `topic_partition` come through [`Self::consume`].
    pub(crate) fn forward(&self, topic_partition: &TopicPartition) {
        let topic = c_text(&topic_partition.topic);
        // SAFETY: client and queues are valid; the reference to the partition's queue is given back.
        unsafe {
            let queue = c::rd_kafka_queue_get_partition(self.client, topic.as_ptr(), topic_partition.partition);
            if !queue.is_null() {
                c::rd_kafka_queue_forward(queue, self.messages);
                c::rd_kafka_queue_destroy(queue);
            }
        }
    }

    /// Whether members keep what they have while the group rebalances.
    pub(crate) fn is_cooperative(&self) -> bool {
        // SAFETY: the client is valid; the text is static or null.
        unsafe { owned_text(c::rd_kafka_rebalance_protocol(self.client)) == "COOPERATIVE" }
    }

    #[cfg(test)]
    pub(crate) fn is_kip_848(&self) -> bool {
        let mut value = [0 as c_char; 32];
        let mut size = value.len();
        // SAFETY: the client and its configuration are valid; the buffer has the size that is told.
        unsafe {
            let conf = c::rd_kafka_conf(self.client);
            c::rd_kafka_conf_get(conf, c"group.protocol".as_ptr(), value.as_mut_ptr(), &mut size);
            owned_text(value.as_ptr()) == "consumer"
        }
    }

    /// Takes `list`, reading from its offsets: the answer to [`Notice::Assign`].
    pub(crate) fn assign(&self, list: &List) -> Result<(), String> {
        // SAFETY: client and list are valid; the error is ours.
        unsafe {
            if self.is_cooperative() {
                return take_error(c::rd_kafka_incremental_assign(self.client, list.0.as_ptr()));
            }
            Code::of(c::rd_kafka_assign(self.client, list.0.as_ptr())).result().map_err(|code| code.to_string())
        }
    }

    /// Gives up `list` (everything, under the eager protocol): the answer to [`Notice::Revoke`].
    pub(crate) fn unassign(&self, list: &List) -> Result<(), String> {
        // SAFETY: client and list are valid; a null list means none; the error is ours.
        unsafe {
            if self.is_cooperative() {
                return take_error(c::rd_kafka_incremental_unassign(self.client, list.0.as_ptr()));
            }
            Code::of(c::rd_kafka_assign(self.client, ptr::null())).result().map_err(|code| code.to_string())
        }
    }

    /// Reads `list`, which is assigned already, again from its offsets. Under the eager protocol it must be everything.
    pub(crate) fn restart(&self, list: &List) -> Result<(), String> {
        if self.is_cooperative() {
            self.unassign(list)?;
        }
        self.assign(list)
    }

    /// Whether the group went on without us.
    pub(crate) fn is_assignment_lost(&self) -> bool {
        // SAFETY: the client is valid.
        unsafe { c::rd_kafka_assignment_lost(self.client) != 0 }
    }

    pub(crate) fn pause(&self, list: &List) {
        // SAFETY: client and list are valid. Errors are per entry: what is not assigned is not paused.
        unsafe { c::rd_kafka_pause_partitions(self.client, list.0.as_ptr()) };
    }

    pub(crate) fn resume(&self, list: &List) {
        // SAFETY: as for `pause`.
        unsafe { c::rd_kafka_resume_partitions(self.client, list.0.as_ptr()) };
    }

    /// Commits the list in one request and waits up to `timeout`. One call at a time.
    pub(crate) fn commit(&self, list: &List, timeout: Duration) -> CommitAnswer {
        let before = self.commits_sent.load(Ordering::SeqCst);
        let deadline = Instant::now() + timeout;
        let mut answer = CommitAnswer { errors: Vec::new(), sent: 0, timed_out: false };
        // SAFETY: client, list and queue are valid; the event is used until it is destroyed, its list belongs to it and
        // is copied. librdkafka holds a reference to the queue itself if the answer comes after our time is over.
        unsafe {
            let queue = c::rd_kafka_queue_new(self.client);
            let code = Code::of(c::rd_kafka_commit_queue(self.client, list.0.as_ptr(), queue, None, ptr::null_mut()));
            if code != Code::OK {
                answer.errors.push((code, None));
            } else {
                let event = c::rd_kafka_queue_poll(queue, millis(deadline.saturating_duration_since(Instant::now())));
                if event.is_null() {
                    answer.timed_out = true;
                } else {
                    let code = Code::of(c::rd_kafka_event_error(event));
                    let offsets = c::rd_kafka_event_topic_partition_list(event);
                    if let Some(copy) =
                        NonNull::new(offsets).map(|all| c::rd_kafka_topic_partition_list_copy(all.as_ptr()))
                    {
                        let entries = List(NonNull::new(copy).expect("librdkafka aborts when memory is out")).entries();
                        let bad = entries.into_iter().filter(|entry| entry.code != Code::OK);
                        answer.errors.extend(bad.map(|entry| (entry.code, Some(entry.topic_partition))));
                    }
                    if code != Code::OK && answer.errors.is_empty() {
                        answer.errors.push((code, None));
                    }
                    c::rd_kafka_event_destroy(event);
                }
            }
            c::rd_kafka_queue_destroy(queue);
        }
        answer.sent = self.commits_sent.load(Ordering::SeqCst) - before;
        answer
    }

    /// Leaves the group (unless membership is static), for at most `timeout`.
    pub(crate) fn close(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // SAFETY: client and queue are valid; the error is ours.
        if let Err(error) = unsafe { take_error(c::rd_kafka_consumer_close_queue(self.client, self.main)) } {
            tracing::warn!(%error, "could not leave the consumer group in order");
            return;
        }
        // SAFETY: the client is valid.
        while unsafe { c::rd_kafka_consumer_closed(self.client) } == 0 && Instant::now() < deadline {
            let (_, notice) = self.serve(Duration::from_millis(50), &mut |_record| ());
            let answered = match notice {
                Some(Notice::Assign(_)) => self.assign(&List::new()),
                Some(Notice::Revoke(list)) => self.unassign(&list),
                Some(Notice::Trouble { .. } | Notice::ProtocolMissing) | None => Ok(()),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "rebalance while closing");
            }
        }
        // SAFETY: the client is valid.
        self.closed.store(unsafe { c::rd_kafka_consumer_closed(self.client) } != 0, Ordering::SeqCst);
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let flags = if self.closed.load(Ordering::SeqCst) { 0 } else { c::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE };
        // SAFETY: queues and client are ours and not used afterwards; librdkafka joins its threads in destroy, so the
        // counter's box is freed after its last use.
        unsafe {
            c::rd_kafka_queue_destroy(self.messages);
            c::rd_kafka_queue_destroy(self.main);
            c::rd_kafka_destroy_flags(self.client, flags);
        }
    }
}

/// One [`Native::consume`].
struct Taking<'a> {
    client: *mut c::rd_kafka_t,
    take: &'a mut dyn FnMut(Message<'_>),
    count: usize,
    bytes: usize,
    panic: Option<Box<dyn std::any::Any + Send>>,
}

unsafe extern "C" fn on_message(message: *mut c::rd_kafka_message_t, taking: *mut c_void) {
    // SAFETY: `Native::consume` gives its `Taking`, which nobody else uses during the call.
    let taking = unsafe { &mut *taking.cast::<Taking<'_>>() };
    if taking.panic.is_none() {
        // SAFETY: librdkafka gives a message that lives during this call.
        let message = Message(unsafe { &*message });
        taking.bytes += message.key().map_or(0, <[u8]>::len) + message.value().map_or(0, <[u8]>::len);
        // No panic may cross librdkafka's frames.
        let take = std::panic::AssertUnwindSafe(|| (taking.take)(message));
        taking.panic = std::panic::catch_unwind(take).err();
    }
    taking.count += 1;
    if taking.panic.is_some() {
        // SAFETY: the client is valid. The rest stays in the queue.
        unsafe { c::rd_kafka_yield(taking.client) };
    }
}

/// # Safety
/// `error` is null or an error of librdkafka that nobody else owns.
unsafe fn take_error(error: *mut c::rd_kafka_error_t) -> Result<(), String> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: promised by the caller; the text is copied before the error is destroyed.
    unsafe {
        let text = owned_text(c::rd_kafka_error_string(error));
        c::rd_kafka_error_destroy(error);
        Err(text)
    }
}

/// Passes a line of librdkafka's log on and returns it.
///
/// # Safety
/// `event` is a valid log event.
unsafe fn log_line(event: *mut c::rd_kafka_event_t) -> Option<String> {
    let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
    // SAFETY: promised by the caller; the texts belong to the event and are copied.
    let (facility, text) = unsafe {
        if c::rd_kafka_event_log(event, &mut facility, &mut text, &mut level) != 0 {
            return None;
        }
        (owned_text(facility), owned_text(text))
    };
    match level {
        // The error itself comes as an event, and may be one that we answer.
        _any if facility == "FATAL" => tracing::debug!(target: "librdkafka", %facility, "{text}"),
        ..=4 => tracing::warn!(target: "librdkafka", %facility, "{text}"),
        5 => tracing::info!(target: "librdkafka", %facility, "{text}"),
        6 => tracing::debug!(target: "librdkafka", %facility, "{text}"),
        7.. => tracing::trace!(target: "librdkafka", %facility, "{text}"),
    }
    Some(text)
}
