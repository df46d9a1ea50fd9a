//! One task from source to committed offsets. A [`Task`] is one member of the connector's consumer group; for each
//! topic-partition that it is assigned it runs a lane, and a lane turns raw batches into open files, then cuts. The pure
//! [`Ledger`] of each lane says what may be planned and committed; the task is the only one who commits, and puts what all
//! lanes have to say into one request. Publishing goes on beside reading. All memory is counted against one [`Budget`].
//!
//! ```text
//!  Source::next --RawBatch--> lane: decode, type, split, rotate, append --closed cut--> publisher: encode, upload
//!       ^                       |                                                          |  plan?   ^ yes   | published
//!       |                       v                                                          v          |       v
//!  Source::commit <------------ Task: one Ledger a lane, one commit request at a time, leases, drain, revoke
//! ```

mod budget;
mod clock;
mod control;
mod decoding;
mod error;
mod file_schemas;
mod headers;
mod lane;
mod ledger;
mod markers;
mod metrics;
mod publisher;
mod recipe;
mod recovery;
mod reporter;
mod rules;
mod schemas;
mod task;
mod typing;

pub use budget::{Budget, MEMORY_BUDGET_BYTES, Share};
pub use clock::{Clock, SystemClock};
pub use control::{Control, Doing, Steering, Wanted, control};
pub use error::TaskError;
pub use ledger::{Held, Ledger, LedgerError};
pub use metrics::{Metrics, TaskMetrics};
pub use recipe::Recipe;
pub use recovery::StoreRecovery;
pub use rules::{ConverterClasses, ErrorRules, LogDetail, RetryRules, Tolerance};
pub use schemas::{TableColumns, TopicSchemas};
pub use task::{Deadlines, PaceRules, Task};
