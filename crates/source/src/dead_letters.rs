//! Where bad records go: a topic of their own, written with an acknowledgement for every record.

use async_trait::async_trait;
use model::{Headers, Position};

use crate::Error;

/// A record as it is written to the dead letter topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Where the record was read; for messages.
    pub at: Position,
    /// Its key, as the log holds it.
    pub key: Option<Vec<u8>>,
    /// Its value, as the log holds it; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its time, milliseconds since the epoch; -1 where it has none, and then it gets the time at which it is written.
    pub timestamp_ms: i64,
    /// Its headers in their order, and after them what is told about it.
    pub headers: Headers,
}

impl Letter {
    /// Bytes of key, value and headers.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}

/// The dead letter topic of a task.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Writes `letters`, in this order, and returns when every one of them is acknowledged: it survives what an
    /// acknowledged record of the log survives. While the broker does not answer it waits, however long that lasts. After
    /// an error, and when the future is dropped, any of them may have been written, or may still be.
    async fn write(&self, letters: Vec<Letter>) -> Result<(), Error>;
}
