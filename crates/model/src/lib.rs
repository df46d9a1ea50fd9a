//! The nouns of sluice. They carry the preconditions that the other crates rely on: a range that is not reversed, a
//! plan that fits into the broker's metadata, a configuration key that is declared once. There is no I/O here, no
//! async and no clock, so each of them can be tested as a value. Every other crate depends on this one and most depend
//! on nothing else of ours. Start with `position` (where), `batch` (what) and `cut` (what becomes visible together).
//!
//! ```text
//!  Config --Settings(Key)--> Plugin::build     RawBatch --decode--> Batch --split--> rows of a Cut == Plan ==> committed Offset
//! ```

mod batch;
mod connect_marks;
mod cut;
mod fingerprint;
mod key;
mod plugin;
mod position;
mod settings;

pub use batch::{
    Batch, Headers, RawBatch, RawBatchBuilder, Rejected, Stage, ValueSchema, Values, WHOLE_VALUE, is_whole_value,
    is_whole_value_field, whole_value_field, without_slack,
};
pub use connect_marks::{ConnectMarks, DEFAULT_MARK, Parameters};
pub use cut::{Cut, CutReason, METADATA_BYTES_MAX, Nonce, Plan, PlanError, SchemaRef};
pub use fingerprint::Fingerprint;
pub use key::{Check, DefaultValue, Effect, Importance, Key, Kind, Origin, Width};
pub use plugin::{Plugin, UnknownPlugin, find, named};
pub use position::{Offset, OffsetRange, Position, ReversedRange, TopicPartition};
pub use settings::{Config, Invalid, MASK, Secret, Settings};
