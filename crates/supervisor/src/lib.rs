//! Keep the wanted connectors running. A [`Supervisor`] holds every connector of this worker: it validates what is
//! submitted, keeps it on disk before it takes effect, and then brings the tasks in line with it. Connectors are islands:
//! operations on one follow each other, and one that fails, panics or is slow to stop harms no other. A task that failed on
//! something transient is started again, later and later. What a task is, and which plug-ins there are, it learns from an
//! [`Assembly`] only. Questions about status never wait for anything.
//!
//! ```text
//!  REST, files --Submitted--> validate --> StateStore --> reconcile --start, ask, stop--> Assembly::run_task
//!                                |                            ^                               |
//!                            Error::Invalid                TargetState          ConnectorStatus <-- Doing, trace
//! ```

mod assembly;
mod connector;
mod error;
pub mod fake;
pub mod keys;
mod metrics;
mod offsets;
mod operation;
mod restart;
mod state;
mod status;
mod supervisor;
mod task;
mod validation;

pub use assembly::{Assembly, PluginInfo, Role, TaskFailure, TaskId};
pub use error::Error;
pub use keys::KEYS;
pub use metrics::Metrics;
pub use offsets::{OffsetChange, OffsetsError};
pub use state::{Corrupt, StateError, StateStore, Stored};
pub use status::{ConnectorInfo, ConnectorStatus, Placed, Put, Restart, State, TargetState, TaskInfo, TaskStatus};
pub use supervisor::{Options, Supervisor};
pub use validation::{Definition, Submitted, Validated, Validation, masked};
