//! Lists of topic-partitions and messages of librdkafka, as safe values.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};

use model::{Headers, TopicPartition};
use rdkafka::bindings as c;

use crate::code::Code;

pub(super) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("a text without NUL is a C string")
}

/// The text behind `text`; empty for null.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives during the call.
pub(super) unsafe fn owned_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Reads a field that a broker filled, without trusting that the bindings know the number.
fn code_at(field: *const c::rd_kafka_resp_err_t) -> Code {
    // SAFETY: callers pass the address of a field of a live structure; the enum is `repr(i32)`.
    Code::of_number(unsafe { field.cast::<i32>().read() })
}

/// A list of topic-partitions with offsets, metadata and errors.
pub(crate) struct List(pub(super) NonNull<c::rd_kafka_topic_partition_list_t>);

// SAFETY: the list is plain memory with one owner; librdkafka keeps no reference to it between calls.
unsafe impl Send for List {}

/// One element of a [`List`].
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) topic_partition: TopicPartition,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
    pub(crate) code: Code,
}

impl List {
    pub(crate) fn new() -> List {
        // SAFETY: the function has no precondition; it aborts rather than returns null.
        let list = unsafe { c::rd_kafka_topic_partition_list_new(8) };
        List(NonNull::new(list).expect("librdkafka aborts when memory is out"))
    }

    pub(crate) fn of<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> List {
        let mut list = List::new();
        for topic_partition in partitions {
            list.add(topic_partition, i64::from(c::RD_KAFKA_OFFSET_INVALID), "");
        }
        list
    }

    pub(crate) fn add(&mut self, topic_partition: &TopicPartition, offset: i64, metadata: &str) {
        let topic = c_text(&topic_partition.topic);
        // SAFETY: the list is ours; the new element stays valid until the next change of the list. The metadata is
        // allocated with the allocator that librdkafka frees it with, and holds `metadata.len()` bytes.
        unsafe {
            let element =
                c::rd_kafka_topic_partition_list_add(self.0.as_ptr(), topic.as_ptr(), topic_partition.partition);
            (*element).offset = offset;
            if !metadata.is_empty() {
                let copy = c::rd_kafka_mem_malloc(ptr::null_mut(), metadata.len());
                ptr::copy_nonoverlapping(metadata.as_ptr(), copy.cast::<u8>(), metadata.len());
                (*element).metadata = copy;
                (*element).metadata_size = metadata.len();
            }
        }
    }

    fn elements(&self) -> &[c::rd_kafka_topic_partition_t] {
        // SAFETY: `elems` holds `cnt` elements while the list is not changed, which the borrow of `self` forbids.
        unsafe {
            let list = self.0.as_ref();
            if list.cnt <= 0 { &[] } else { std::slice::from_raw_parts(list.elems, list.cnt as usize) }
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.elements()
            .iter()
            .map(|element| Entry {
                // SAFETY: librdkafka fills `topic` with a NUL-terminated string that lives as long as the list.
                topic_partition: TopicPartition::new(unsafe { owned_text(element.topic) }, element.partition),
                offset: element.offset,
                metadata: if element.metadata.is_null() {
                    String::new()
                } else {
                    // SAFETY: `metadata` points to `metadata_size` bytes that live as long as the list.
                    let bytes =
                        unsafe { std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size) };
                    String::from_utf8_lossy(bytes).into_owned()
                },
                code: code_at(&raw const element.err),
            })
            .collect()
    }

    pub(crate) fn set_offset(&mut self, index: usize, offset: i64) {
        assert!(index < self.elements().len(), "the caller walks over the entries of this list");
        // SAFETY: the index was checked, and `self` is borrowed exclusively.
        unsafe { (*self.0.as_ref().elems.add(index)).offset = offset };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.elements().is_empty()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list is ours and is not used afterwards.
        unsafe { c::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) }
    }
}

/// A message of librdkafka, borrowed for the length of a call.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a>(pub(super) &'a c::rd_kafka_message_t);

impl<'a> Message<'a> {
    pub(crate) fn code(&self) -> Code {
        code_at(&raw const self.0.err)
    }

    /// What librdkafka says about the error, or about its code.
    pub(crate) fn reason(&self) -> String {
        // SAFETY: the message is valid; the text belongs to it or is static.
        unsafe { owned_text(c::rd_kafka_message_errstr(self.0)) }
    }

    /// The same number for all messages of a topic, for as long as one of its partitions is assigned.
    pub(crate) fn topic_id(&self) -> usize {
        self.0.rkt as usize
    }

    pub(crate) fn topic(&self) -> String {
        if self.0.rkt.is_null() {
            return String::new();
        }
        // SAFETY: `rkt` is a live topic handle while the message lives; its name is a NUL-terminated string.
        unsafe { owned_text(c::rd_kafka_topic_name(self.0.rkt)) }
    }

    pub(crate) fn partition(&self) -> i32 {
        self.0.partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The record's time, and whether the broker gave it.
    pub(crate) fn timestamp_ms(&self) -> (i64, bool) {
        let mut kind = c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid, and `kind` lives as long as the call.
        let timestamp_ms = unsafe { c::rd_kafka_message_timestamp(self.0, &mut kind) };
        (timestamp_ms, kind == c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
    }

    fn bytes(data: *const c_void, length: usize) -> Option<&'a [u8]> {
        // SAFETY: librdkafka gives null for a missing key or value, else `length` bytes that live as long as the message.
        (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) })
    }

    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        Self::bytes(self.0.key, self.0.key_len)
    }

    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        Self::bytes(self.0.payload, self.0.len)
    }

    pub(crate) fn headers(&self) -> Headers {
        let mut headers = Headers::new();
        let mut all = ptr::null_mut();
        // SAFETY: the message is valid; on success `all` belongs to the message and each call of `header_get_all` with
        // an index below the count fills name (NUL-terminated), value (null or `size` bytes) and size.
        unsafe {
            if c::rd_kafka_message_headers(self.0, &mut all) != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return headers;
            }
            for index in 0..c::rd_kafka_header_cnt(all) {
                let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
                if c::rd_kafka_header_get_all(all, index, &mut name, &mut value, &mut size)
                    == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
                {
                    headers.push((owned_text(name), Self::bytes(value, size).map(<[u8]>::to_vec)));
                }
            }
        }
        headers
    }
}
